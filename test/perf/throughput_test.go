// SPDX-License-Identifier: Apache-2.0

//go:build perf

package perf

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/test/program"
)

const (
	stock     = "stock"
	batching  = "+batching"
	again     = "-again"
	perPod    = "CPU per pod"
	podRate   = "pods/s"
	cycle     = "scheduling cycle"
	choosing  = "extension points up to Permit"
	binding   = "extension points of the binding"
	warmPods  = 200
	full15000 = 15000
	// The bars are about this many nodes.
	judgedNodes = 5000
	fewNodes    = 500

	// A run whose measured part is shorter does not count: it is repeated with more pods, and all that follow with the same share get as many.
	leastMeasured = 30 * time.Second
	// enoughMeasured is what the number of pods is chosen for then.
	enoughMeasured = 36 * time.Second
	// defaultPods is what a fast contestant needs for that on two cores; where it is not enough the first run finds out.
	defaultPods = 10000

	// A round is each contestant once. Medians of fewer rounds are not judged.
	enoughRounds = 5
	// As many of either order: what comes first or second must not matter.
	defaultRounds = 6
)

// contestant is a test case of performance-config.yaml. With batching the kube-scheduler's gate OpportunisticBatching is on. The one with
// again is a control: the same case once more, so that its ratio is 1 but for what a pair of runs differs by anyway.
type contestant struct {
	name string
	// share is the part of the pods that it gets to begin with, one in so many, because it is slow. That flatters one that slows down as pods
	// come.
	share int
	// leaks tells that its plugin leaves goroutines behind when its scheduler ended, which fails the harness after all is measured.
	leaks bool
	// once has a contestant run in the first round only, unless all are asked for.
	once bool
	// atLeast is what its throughput must be of the other contestant's.
	atLeast float64
	of      string
	// timesOf is what the throughput of timesName must be of this one's.
	timesName string
	times     float64
	// turns is what its second profile is for the report, where it has one beside the stock profile and a pod for either in turn.
	turns string
}

// contestants in the order of the first round.
var contestants = []contestant{
	{name: stock, share: 1},
	{name: "no-intent", share: 1, of: stock, atLeast: 0.98},
	{name: stock + again, share: 1, of: stock},
	{name: "by-turns", share: 1, turns: "no-intent"},
	{name: "by-turns-stock", share: 1, turns: stock + again, once: true},
	{name: "dependency", share: 1, of: stock, atLeast: 0.95},
	{name: "preferred-affinity", share: 4, of: stock, timesName: "dependency", times: 3},
	{name: "required-affinity", share: 8, of: stock, once: true, timesName: "dependency"},
	{name: "networkoverhead", share: 25, of: stock, once: true, timesName: "dependency"},
	{name: "nodemetrics", share: 1, of: stock, once: true},
	{name: "targetloadpacking", share: 2, of: stock, once: true, leaks: true, timesName: "nodemetrics"},
	{name: "dependency-not-narrowed", share: 2, of: stock, once: true},
	{name: "dependency-all-nodes", share: 8, of: stock, once: true, timesName: "dependency"},
	{name: "clients", share: 1, of: stock, once: true},
	{name: "fixed-dependency", share: 1, of: stock, once: true},
	{name: stock + batching, share: 1, of: stock, once: true},
	{name: "no-intent" + batching, share: 1, of: stock + batching, once: true},
	{name: "dependency" + batching, share: 1, of: stock + batching, once: true},
	{name: "fixed-dependency" + batching, share: 1, of: stock + batching, once: true},
}

// inFirstRound are those of the contestants that run once which the first round has by default.
var inFirstRound = []string{"networkoverhead", "nodemetrics", "targetloadpacking"}

// settings come from the environment: `make perf` passes them on.
type settings struct {
	rounds int
	sizes  []int // nodes
	pods   int   // 0: as many as the measured part needs
	cases  []string
	full   bool
	// parallelism is that of all contestants; 0 for what their profiles say, which is kube-scheduler's default.
	parallelism int
}

// size says for the report what all contestants of a series have alike.
func (s *settings) size(nodes int) string {
	if s.parallelism == 0 {
		return fmt.Sprintf("%d nodes", nodes)
	}
	return fmt.Sprintf("%d nodes, parallelism %d", nodes, s.parallelism)
}

func readSettings(t *testing.T) settings {
	t.Helper()
	number := func(name string, otherwise int) int {
		text := os.Getenv(name)
		if text == "" {
			return otherwise
		}
		n, err := strconv.Atoi(text)
		if err != nil || n <= 0 {
			t.Fatalf("%s=%s is not a number above 0", name, text)
		}
		return n
	}
	s := settings{
		rounds: number("RUNS", defaultRounds), pods: number("PODS", 0), cases: strings.Fields(os.Getenv("CASES")), full: os.Getenv("FULL") == "1",
		sizes: []int{fewNodes, judgedNodes}, parallelism: number("PARALLELISM", 0),
	}
	if n := number("NODES", 0); n > 0 {
		s.sizes = []int{n}
	} else if s.full {
		s.sizes = append(s.sizes, full15000)
	}
	for _, n := range s.sizes {
		if n%20 != 0 {
			t.Fatalf("NODES=%d is no multiple of 20: the nodes stand in ten zones with two gateways each", n)
		}
	}
	return s
}

// TestThroughput runs the contestants in turn, each in a process of its own so that none inherits another's heap, and compares what each
// round gave.
func TestThroughput(t *testing.T) {
	s := readSettings(t)
	out := outDir(t)
	r := loadReport(t, out)
	metrics := startMetrics(t)
	for _, nodes := range s.sizes {
		results := map[string][]result{}
		pods := map[int]int{} // by share: contestants of one share get as many
		for _, c := range contestants {
			pods[c.share] = cmp.Or(s.pods, defaultPods) / c.share
		}
		for round := range s.rounds {
			order := chosen(s, round)
			if round%2 == 1 {
				slices.Reverse(order) // what gets better or worse with time does not favour one
			}
			for _, c := range order {
				got := run(t, out, metrics, c, s.parallelism, nodes, pods[c.share], round)
				for s.pods == 0 && got.measured < leastMeasured {
					pods[c.share] = int(float64(pods[c.share])*enoughMeasured.Seconds()/got.measured.Seconds()) + 1
					t.Logf("%5d nodes, round %d of %d: %-25s was through in %v; from here on with %d pods",
						nodes, round+1, s.rounds, c.name, got.measured.Round(time.Second), pods[c.share])
					got = run(t, out, metrics, c, s.parallelism, nodes, pods[c.share], round)
				}
				t.Logf("%5d nodes, round %d of %d: %-25s %6.1f pods/s for %v, %.2f ms of CPU a pod, a cycle takes %.2f ms",
					nodes, round+1, s.rounds, c.name, got.podsPerSecond, got.measured.Round(time.Second), 1000*got.cpuPerPod, got.cycleMillis)
				results[c.name] = append(results[c.name], got)
				compare(r, s, nodes, results)
				compareTurns(t, r, s, nodes, results)
				r.write(t, out) // what there is, should a later run fail
			}
		}
	}
	t.Log("\n" + r.table())
	r.judge(t)
}

// chosen returns the contestants of a round, and those that they are compared with.
func chosen(s settings, round int) []contestant {
	var list []contestant
	for _, c := range contestants {
		switch {
		case len(s.cases) > 0:
			if slices.Contains(s.cases, c.name) {
				list = append(list, c)
			}
		case s.full || !c.once:
			list = append(list, c)
		case round == 0 && slices.Contains(inFirstRound, c.name):
			list = append(list, c)
		}
	}
	return list
}

// result is what one run measured.
type result struct {
	round                    int
	podsPerSecond, cpuPerPod float64
	cycleMillis              float64
	measured                 time.Duration
	spent                    map[string]spent // of each profile, in the measured part
}

// compare fills in the ratios of all contestants to those that they are compared with, from the rounds in which both ran.
func compare(r *report, s settings, nodes int, results map[string][]result) {
	for _, c := range contestants {
		pair := func(name, other, metric string, bar float64, of func(a, b result) float64) {
			var ratios []float64
			shortest := time.Duration(math.MaxInt64)
			for _, a := range results[name] {
				for _, b := range results[other] {
					if a.round == b.round {
						ratios = append(ratios, of(a, b))
						shortest = min(shortest, a.measured, b.measured)
					}
				}
			}
			if nodes != judgedNodes || s.parallelism > 0 {
				bar = 0
			}
			if len(ratios) > 0 {
				r.set(name+", "+s.size(nodes), other, metric, bar, ratios, shortest)
			}
		}
		if c.of != "" {
			pair(c.name, c.of, podRate, c.atLeast, func(a, b result) float64 { return a.podsPerSecond / b.podsPerSecond })
			pair(c.name, c.of, perPod, 0, func(a, b result) float64 { return b.cpuPerPod / a.cpuPerPod })
			pair(c.name, c.of, cycle, 0, func(a, b result) float64 { return b.cycleMillis / a.cycleMillis })
		}
		if c.timesName != "" {
			pair(c.timesName, c.name, podRate, c.times, func(a, b result) float64 { return a.podsPerSecond / b.podsPerSecond })
			pair(c.timesName, c.name, perPod, 0, func(a, b result) float64 { return b.cpuPerPod / a.cpuPerPod })
			pair(c.timesName, c.name, cycle, 0, func(a, b result) float64 { return b.cycleMillis / a.cycleMillis })
		}
	}
}

// compareTurns compares the two profiles of a scheduler that gets a pod for one and a pod for the other in turn: what else the machine does,
// and what the process does beside scheduling, befalls both alike.
func compareTurns(t *testing.T, r *report, s settings, nodes int, results map[string][]result) {
	t.Helper()
	for _, c := range contestants {
		if c.turns == "" || len(results[c.name]) == 0 {
			continue
		}
		var chose, bound []float64
		shortest := time.Duration(math.MaxInt64)
		for _, got := range results[c.name] {
			a, b := got.spent["fogsched"], got.spent["default-scheduler"]
			if a.Cycles == 0 || b.Cycles == 0 {
				t.Fatalf("%s: %d cycles of the profile fogsched, %d of default-scheduler: there are no turns", c.name, a.Cycles, b.Cycles)
			}
			chose = append(chose, b.Choosing/float64(b.Cycles)/(a.Choosing/float64(a.Cycles)))
			bound = append(bound, b.Binding/float64(b.Cycles)/(a.Binding/float64(a.Cycles)))
			shortest = min(shortest, got.measured)
		}
		name := c.turns + " by turns, " + s.size(nodes)
		r.set(name, stock, choosing, 0, chose, shortest)
		r.set(name, stock, binding, 0, bound, shortest)
	}
}

// run runs one contestant.
func run(t *testing.T, out, metrics string, c contestant, parallelism, nodes, podCount, round int) result {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	writeConfig(t, config, metrics, c.name, parallelism, nodes, podCount)
	samples := filepath.Join(dir, "samples.jsonl")
	logPath := filepath.Join(out, fmt.Sprintf("%s-%d-%d.log", c.name, nodes, round+1))
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^$", "-test.bench=^BenchmarkPerfScheduling$", "-test.benchtime=1x", "-test.timeout=40m", "-v=0", "-data-items-dir=" + dir}
	if os.Getenv("PROFILE") == "1" {
		args = append(args, "-test.cpuprofile="+strings.TrimSuffix(logPath, ".log")+".pprof")
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), configVariable+"="+config, samplesVariable+"="+samples)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil && (!c.leaks || !onlyLeaks(t, logPath)) {
		t.Fatalf("%s: %v; see %s", c.name, err, logPath)
	}
	items := readItems(t, dir)
	rate := items.average(t, "SchedulingThroughput")
	first, last := measuredPart(t, samples, podCount)
	return result{
		round: round, podsPerSecond: rate, measured: time.Duration(float64(podCount) / rate * float64(time.Second)),
		cpuPerPod: (last.CPU - first.CPU).Seconds() / (last.Scheduled - first.Scheduled), spent: spentBetween(first, last),
		cycleMillis: items.average(t, "scheduler_scheduling_algorithm_duration_seconds"),
	}
}

// onlyLeaks reports whether a run failed for nothing but goroutines that were left behind.
func onlyLeaks(t *testing.T, logPath string) bool {
	t.Helper()
	data, err := os.ReadFile(logPath)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(data, []byte("found unexpected goroutines")) && !bytes.Contains(data, []byte("panic:")) && !bytes.Contains(data, []byte("fatal error:"))
}

// addressInProfile stands in a profile for the address of startMetrics.
const addressInProfile = "PROMETHEUS"

// writeConfig writes the one test case of a run.
func writeConfig(t *testing.T, path, metrics, name string, parallelism, nodes, podCount int) {
	t.Helper()
	data, err := os.ReadFile("performance-config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []map[string]any
	if err := yaml.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	base, on := strings.CutSuffix(strings.TrimSuffix(name, again), batching)
	i := slices.IndexFunc(cases, func(c map[string]any) bool { return c["name"] == base })
	if i < 0 {
		t.Fatalf("performance-config.yaml has no test case %s", base)
	}
	cases[i]["workloads"] = []map[string]any{{
		"name": "run", "labels": []string{"performance"},
		"featureGates": map[string]bool{"OpportunisticBatching": on},
		"params":       map[string]int{"nodes": nodes, "warmPods": min(warmPods, podCount), "measurePods": podCount},
	}}
	profile, ok := cases[i]["schedulerConfigPath"].(string)
	text := []byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n")
	if ok {
		if text, err = os.ReadFile(profile); err != nil {
			t.Fatal(err)
		}
	}
	own := bytes.ReplaceAll(text, []byte(addressInProfile), []byte(metrics))
	if parallelism > 0 {
		own = fmt.Appendf(own, "parallelism: %d\n", parallelism)
	}
	if !bytes.Equal(own, text) {
		profile = filepath.Join(filepath.Dir(path), "profile.yaml")
		if err := os.WriteFile(profile, own, 0o600); err != nil {
			t.Fatal(err)
		}
		cases[i]["schedulerConfigPath"] = profile
	}
	if data, err = yaml.Marshal(cases[i : i+1]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// items is what the harness measured.
type items struct {
	DataItems []struct {
		Data   map[string]float64
		Labels map[string]string
	} `json:"dataItems"`
}

func readItems(t *testing.T, dir string) *items {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the harness left %d results, want 1 (%v)", len(files), err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	i := &items{}
	if err := json.Unmarshal(data, i); err != nil {
		t.Fatal(err)
	}
	return i
}

func (i *items) average(t *testing.T, metric string) float64 {
	t.Helper()
	for _, item := range i.DataItems {
		if item.Labels["Metric"] == metric {
			return item.Data["Average"]
		}
	}
	t.Fatalf("the harness measured no %s: give it more PODS", metric)
	return 0
}

// measuredPart returns the first and the last sample of the measured part.
func measuredPart(t *testing.T, path string, podCount int) (first, last *sample) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := float64(min(warmPods, podCount))
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		var s sample
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		if s.Scheduled <= before || s.Scheduled >= before+float64(podCount) {
			continue
		}
		if first == nil {
			first = &s
		}
		last = &s
	}
	if first == nil || last.Scheduled-first.Scheduled < float64(podCount)/3 {
		t.Fatalf("too few samples in the measured part: give it more PODS")
	}
	return first, last
}

// spentBetween returns what each profile spent between two samples.
func spentBetween(first, last *sample) map[string]spent {
	between := map[string]spent{}
	for profile, l := range last.Spent {
		f := first.Spent[profile]
		between[profile] = spent{Cycles: l.Cycles - f.Cycles, Choosing: l.Choosing - f.Choosing, Binding: l.Binding - f.Binding}
	}
	return between
}

// outDir is where the report goes, and the logs of the runs.
func outDir(t *testing.T) string {
	t.Helper()
	root, err := program.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "out", "perf")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
