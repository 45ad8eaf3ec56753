// SPDX-License-Identifier: Apache-2.0

//go:build c2m

package c2m

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	fogmetrics "github.com/fogsched/fogsched/pkg/metrics"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// report is out/c2m/report.json.
type report struct {
	Note string `json:"note"`
	// Complete is false where the run was ended before all pods were placed; all figures are of those that were.
	Complete     bool   `json:"complete"`
	Config       string `json:"config"`
	Pods         int    `json:"pods"`
	Nodes        int    `json:"nodes"`
	Regions      int    `json:"regions"`
	Applications int    `json:"applications"`

	Seconds         float64 `json:"seconds"`
	PodsPerSecond   float64 `json:"podsPerSecond"`
	CPUSeconds      float64 `json:"cpuSeconds"`
	CPUMicrosPerPod float64 `json:"cpuMicrosPerPod"`
	// Cores is how many the run had on average; with others at work it is fewer than the machine has.
	Cores   float64 `json:"cores"`
	PeakMiB int     `json:"peakMiB"`

	quality
	// Nearest and Any are of the pods that call the nearest server, and any.
	Nearest quality `json:"nearest"`
	Any     quality `json:"any"`
	// SamplingSeconds is what the comparison took; it is part of Seconds.
	SamplingSeconds float64 `json:"samplingSeconds"`
	// FinalMeanRTT is that of all callers at the end.
	FinalMeanRTT float64 `json:"finalMeanRTT"`

	NotPlacedAtOnce int64            `json:"notPlacedAtOnce"`
	Narrowed        map[string]int64 `json:"narrowed"`
	FullestNode     int              `json:"fullestNode"`
	Steps           []step           `json:"steps"`
	// Where is where the time goes.
	Where []share `json:"where"`
}

// quality compares sampled pods with where full scoring would have put the same pods at the same moment, by true round trips in milliseconds.
type quality struct {
	MeanRTT            float64 `json:"meanRTT"`
	FullScoringMeanRTT float64 `json:"fullScoringMeanRTT"`
	Ratio              float64 `json:"ratio"`
	Samples            int     `json:"samples"`
}

func qualityOf(list []comparison, counts func(*comparison) bool) quality {
	var q quality
	for i := range list {
		if c := &list[i]; counts(c) {
			q.MeanRTT += c.chosen
			q.FullScoringMeanRTT += c.full
			q.Samples++
		}
	}
	if q.Samples == 0 {
		return q
	}
	q.Ratio = q.MeanRTT / q.FullScoringMeanRTT
	q.MeanRTT /= float64(q.Samples)
	q.FullScoringMeanRTT /= float64(q.Samples)
	return q
}

// step is one of the parts of a run.
type step struct {
	Pods            int     `json:"pods"`
	PodsPerSecond   float64 `json:"podsPerSecond"`
	CPUMicrosPerPod float64 `json:"cpuMicrosPerPod"`
	LiveMiB         int     `json:"liveMiB"`
	// Ratio is that of the samples in this part.
	Ratio float64 `json:"ratio,omitempty"`
}

// share is a part of a pod's CPU time in microseconds.
type share struct {
	What         string  `json:"what"`
	MicrosPerPod float64 `json:"microsPerPod"`
}

const note = "No API server: nodes and pods are in memory, bindings are accepted in the process, and the pod events of a watch come through a channel."

// clock follows a run.
type clock struct {
	began    time.Time
	cpu      time.Duration
	every    int
	steps    []step
	at       time.Time
	atCPU    time.Duration
	atPods   int
	terminal bool
}

func startClock(r *run) *clock {
	info, err := os.Stdout.Stat()
	c := &clock{
		began: time.Now(), cpu: cpuTime(), every: min(100_000, max(1, r.pods/10)),
		terminal: err == nil && info.Mode()&os.ModeCharDevice != 0,
	}
	c.at, c.atCPU = c.began, c.cpu
	return c
}

// follow shows how far the run is, until it is through or its time is.
func (c *clock) follow(r *run, most time.Duration) {
	limit := time.After(most)
	pause := 10 * time.Second
	if c.terminal {
		pause = time.Second
	}
	steps, bars := time.NewTicker(50*time.Millisecond), time.NewTicker(pause)
	defer steps.Stop()
	defer bars.Stop()
	last, lastPods := c.began, 0
	for {
		select {
		case <-r.done:
			c.step(r.pods)
			c.clear()
			return
		case <-limit:
			c.step(int(r.bound.Load()))
			c.clear()
			return
		case <-steps.C:
			if n := int(r.bound.Load()); n-c.atPods >= c.every {
				c.step(n)
			}
		case now := <-bars.C:
			n := int(r.bound.Load())
			rate := float64(n-lastPods) / now.Sub(last).Seconds()
			last, lastPods = now, n
			c.show(n, r.pods, rate, now)
		}
	}
}

func (c *clock) clear() {
	if c.terminal {
		fmt.Print("\r\033[K")
	}
}

// show prints the bar.
func (c *clock) show(n, of int, rate float64, now time.Time) {
	const width = 30
	left := "?"
	if n > 0 {
		left = time.Duration(float64(now.Sub(c.began)) * float64(of-n) / float64(n)).Round(time.Second).String()
	}
	full := width * n / of
	line := fmt.Sprintf("[%s%s] %3d%%  %s of %s pods  %4.0f/s  %s left  %d MiB", strings.Repeat("█", full), strings.Repeat("░", width-full),
		100*n/of, thousands(n), thousands(of), rate, left, liveMiB())
	if c.terminal {
		fmt.Print("\r\033[K", line)
	} else {
		fmt.Println(line)
	}
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (c *clock) step(n int) {
	if n <= c.atPods {
		return
	}
	now, cpu := time.Now(), cpuTime()
	count := float64(n - c.atPods)
	c.steps = append(c.steps, step{
		Pods: n, PodsPerSecond: count / now.Sub(c.at).Seconds(), CPUMicrosPerPod: float64((cpu - c.atCPU).Microseconds()) / count, LiveMiB: liveMiB(),
	})
	c.at, c.atCPU, c.atPods = now, cpu, n
}

// report gathers the figures.
func (c *clock) report(t *testing.T, r *run) *report {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	seconds, cpu := c.at.Sub(c.began).Seconds(), (c.atCPU - c.cpu).Seconds()
	rep := &report{
		Note: note, Complete: c.atPods == r.pods, Pods: c.atPods, Seconds: seconds, PodsPerSecond: float64(c.atPods) / seconds, CPUSeconds: cpu,
		CPUMicrosPerPod: cpu / float64(c.atPods) * 1e6,
		Cores:           cpu / seconds, PeakMiB: peakMiB(t), Steps: c.steps, NotPlacedAtOnce: r.failed.Load(), Narrowed: map[string]int64{},
		SamplingSeconds: r.sampling.Seconds(),
	}
	all := func(*comparison) bool { return true }
	rep.quality = qualityOf(r.compared, all)
	rep.Nearest = qualityOf(r.compared, func(c *comparison) bool { return c.nearest })
	rep.Any = qualityOf(r.compared, func(c *comparison) bool { return !c.nearest })
	for i := range rep.Steps { // samples are evenly over the pods
		lo, hi := 0, rep.Steps[i].Pods*len(r.compared)/c.atPods
		if i > 0 {
			lo = rep.Steps[i-1].Pods * len(r.compared) / c.atPods
		}
		rep.Steps[i].Ratio = qualityOf(r.compared[lo:hi], all).Ratio
	}
	for n := range r.onNode {
		rep.FullestNode = max(rep.FullestNode, int(r.onNode[n].Load()))
	}
	rep.FinalMeanRTT = r.finalMean()
	for _, f := range gather(t, fogmetrics.Narrowed) {
		for _, m := range f.GetMetric() {
			rep.Narrowed[m.GetLabel()[0].GetValue()] = int64(m.GetCounter().GetValue())
		}
	}
	return rep
}

// finalMean is the mean over all callers, of the nodes with callers.
func (r *run) finalMean() float64 {
	sum, count := 0.0, 0
	for _, a := range r.apps {
		a.mu.Lock()
		defer a.mu.Unlock()
		for n, c := range a.dependent {
			if len(a.servers) > 0 {
				sum += float64(c) * a.expected(r.world, n)
				count += c
			}
		}
	}
	return sum / float64(max(count, 1))
}

// parts are the functions whose share of the CPU is told, callees included. Those that are indented are part of the one above; what runs on
// goroutines of its own is not part of what started it.
var parts = []struct{ what, function string }{
	{"the scheduling loop, without its parallel parts", "k8s.io/kubernetes/pkg/scheduler.(*Scheduler).ScheduleOne"},
	{"  a look at the cluster", "k8s.io/kubernetes/pkg/scheduler/backend/cache.(*cacheImpl).UpdateSnapshot"},
	{"  PreFilter of NodeLatency", "github.com/fogsched/fogsched/pkg/plugins/nodelatency.(*NodeLatency).PreFilter"},
	{"    narrowing", "github.com/fogsched/fogsched/pkg/plugins/nodelatency.(*NodeLatency).narrow"},
	{"  signing, for opportunistic batching", "k8s.io/kubernetes/pkg/scheduler/framework/runtime.(*OpportunisticBatch).GetNodeHint"},
	{"  PreScore of all plugins", "k8s.io/kubernetes/pkg/scheduler/framework/runtime.(*frameworkImpl).RunPreScorePlugins"},
	{"    NodeLatency's", "github.com/fogsched/fogsched/pkg/plugins/nodelatency.(*NodeLatency).PreScore"},
	{"    PodTopologySpread's", "k8s.io/kubernetes/pkg/scheduler/framework/plugins/podtopologyspread.(*PodTopologySpread).PreScore"},
	{"  Reserve of NodeLatency", "github.com/fogsched/fogsched/pkg/plugins/nodelatency.(*NodeLatency).Reserve"},
	{"  the queue", "k8s.io/kubernetes/pkg/scheduler/backend/queue.(*PriorityQueue).Pop"},
	{"Filter of all plugins", "k8s.io/kubernetes/pkg/scheduler.(*Scheduler).findNodesThatPassFilters.func1"},
	{"  NodeLatency's", "github.com/fogsched/fogsched/pkg/plugins/nodelatency.(*NodeLatency).Filter"},
	{"Score of all plugins", "k8s.io/kubernetes/pkg/scheduler/framework/runtime.(*frameworkImpl).RunScorePlugins.func2"},
	{"  NodeLatency's", "github.com/fogsched/fogsched/pkg/plugins/nodelatency.(*NodeLatency).Score"},
	{"the sum of scores", "k8s.io/kubernetes/pkg/scheduler/framework/runtime.(*frameworkImpl).RunScorePlugins.func4"},
	{"PreScore of PodTopologySpread, its parallel part", "k8s.io/kubernetes/pkg/scheduler/framework/plugins/podtopologyspread.(*PodTopologySpread).PreScore.func1"},
	{"binding", "k8s.io/kubernetes/pkg/scheduler.(*Scheduler).bindingCycle"},
	{"  Bind of NodeLatency", "github.com/fogsched/fogsched/pkg/plugins/nodelatency.(*NodeLatency).Bind"},
	{"    taken in, in the API server's place", "github.com/fogsched/fogsched/test/c2m.podClient.Bind"},
	{"informers' handlers", "k8s.io/client-go/tools/cache.(*processorListener).run"},
	{"  the scheduler's cache, of bound pods", "k8s.io/kubernetes/pkg/scheduler.(*Scheduler).addAssignedPodToCache"},
	{"  NodeLatency's index and catalog", "github.com/fogsched/fogsched/pkg/plugins/nodelatency.(*engine).setPod"},
	{"informers' stores", "k8s.io/client-go/tools/cache.(*controller).processLoop"},
	{"snapshots of latencies", "github.com/fogsched/fogsched/pkg/store.(*Store).Build"},
	{"making pods", "github.com/fogsched/fogsched/test/c2m.(*run).create"},
	{"garbage collection: marking", "runtime.gcBgMarkWorker"},
	{"garbage collection: sweeping", "runtime.bgsweep"},
	{"garbage collection: of allocating goroutines", "runtime.gcAssistAlloc"},
}

// where reads the CPU profile. The scheduler's own metrics of time would count the waiting for a core as well.
func where(t *testing.T, file string, cpuMicrosPerPod float64) []share {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "tool", "pprof", "-top", "-cum", "-nodefraction=0", "-edgefraction=0", "-nodecount=100000", exe, file).Output()
	if err != nil {
		t.Fatalf("reading %s: %v", file, err)
	}
	percent := map[string]float64{}
	for line := range strings.Lines(string(out)) { // flat flat% sum% cum cum% function
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		if p, err := strconv.ParseFloat(strings.TrimSuffix(f[4], "%"), 64); err == nil {
			percent[f[5]] = p
		}
	}
	var list []share
	for _, p := range parts {
		if v := percent[p.function]; v > 0 {
			list = append(list, share{p.what, v * cpuMicrosPerPod / 100})
		}
	}
	return list
}

func gather(t *testing.T, c prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// waitForLatencies waits until every node reported and a snapshot has it.
func waitForLatencies(t *testing.T, reported <-chan struct{}, nodes int) {
	t.Helper()
	deadline := time.After(settled)
	select {
	case <-reported:
	case <-deadline:
		t.Fatal("the nodes have not all reported")
	}
	for {
		pairs, measured := 0.0, 0.0
		for _, f := range gather(t, fogmetrics.Pairs) {
			pairs = f.GetMetric()[0].GetGauge().GetValue()
		}
		for _, f := range gather(t, fogmetrics.MeasuredPairs) {
			measured = f.GetMetric()[0].GetGauge().GetValue()
		}
		if pairs == float64(nodes*(nodes-1)/2) && measured >= float64(nodes*(peersInSite+peersInRegion+peersAnywhere)*9/10) {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%v pairs are measured in the snapshot, of %v", measured, pairs)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (rep *report) write(dir string) error {
	b, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644)
}

func (rep *report) print(w io.Writer) {
	fmt.Fprintln(w, rep.Note)
	fmt.Fprintf(w, "%s pods on %s nodes in %s: %.0f pods/s with %.2f cores; %.0f µs of CPU a pod; peak %s MiB\n", thousands(rep.Pods), thousands(rep.Nodes),
		time.Duration(rep.Seconds*float64(time.Second)).Round(100*time.Millisecond), rep.PodsPerSecond, rep.Cores, rep.CPUMicrosPerPod, thousands(rep.PeakMiB))
	fmt.Fprintf(w, "%s of it took the comparison with full scoring\n", time.Duration(rep.SamplingSeconds*float64(time.Second)).Round(100*time.Millisecond))
	for _, q := range []struct {
		what string
		quality
	}{{"", rep.quality}, {" that call the nearest server", rep.Nearest}, {" that call any server", rep.Any}} {
		fmt.Fprintf(w, "mean RTT of %d pods%s: %.3f ms, by full scoring %.3f ms: %.3f times\n", q.Samples, q.what, q.MeanRTT, q.FullScoringMeanRTT, q.Ratio)
	}
	fmt.Fprintf(w, "mean RTT of all callers in the end: %.3f ms\n", rep.FinalMeanRTT)
	fmt.Fprintf(w, "narrowed: %v; not placed at once: %d; the fullest node has %d pods\n", rep.Narrowed, rep.NotPlacedAtOnce, rep.FullestNode)
	for _, s := range rep.Steps {
		fmt.Fprintf(w, "%10s pods: %5.0f/s %5.0f µs of CPU a pod, %6d MiB live, %.3f times\n", thousands(s.Pods), s.PodsPerSecond, s.CPUMicrosPerPod, s.LiveMiB, s.Ratio)
	}
	fmt.Fprintln(w, "µs of CPU a pod:")
	for _, s := range rep.Where {
		fmt.Fprintf(w, "%8.1f  %s\n", s.MicrosPerPod, s.What)
	}
}

// cpuTime is what the process used, in user and kernel mode.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// liveMiB is what the last garbage collection left.
func liveMiB() int {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return int(s[0].Value.Uint64() >> 20)
}

// peakMiB is the most memory that the process had resident.
func peakMiB(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return kb >> 10
		}
	}
	t.Fatal("/proc/self/status has no VmHWM")
	return 0
}
