// SPDX-License-Identifier: Apache-2.0

//go:build chaos

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	dto "github.com/prometheus/client_model/go"

	"github.com/fogsched/fogsched/test/cluster"
)

const (
	// startBar is within how long a scheduler must be ready, whatever Prometheus does.
	startBar = 5 * time.Second
	// patience is how long the others are waited for.
	patience = 15 * time.Second
	// startPatience is how long their start is waited for.
	startPatience = 8 * time.Second
	// interval is the time between two rounds of queries, the shortest there is.
	interval = time.Second
	// mostMiB is what a scheduler may grow to before it is ended, so that the machine lives on; memoryBar what ours may have beyond
	// what it has on a healthy Prometheus.
	mostMiB, memoryBar = 3000, 150
	burst              = 40 // pods
)

// contestant is a scheduler with plugins that ask Prometheus.
type contestant struct {
	name   string
	config func(g *gate, f *fault) string
}

func ours(g *gate, f *fault) string {
	prometheus := map[string]any{
		"address": g.address(f), "interval": interval.String(), "timeout": "500ms", "maxAge": "10s",
	}
	if f.tls {
		prometheus["caFile"], prometheus["tokenFile"] = g.caFile(), g.tokenFile()
	}
	with := func(more map[string]any) map[string]any {
		m := map[string]any{}
		for k, v := range prometheus {
			m[k] = v
		}
		for k, v := range more {
			m[k] = v
		}
		return m
	}
	text, err := json.Marshal([]any{
		map[string]any{"name": "NodeLatency", "args": map[string]any{"prometheus": with(map[string]any{
			"latencies": []any{map[string]any{"name": "rtt", "typical": "rtt_seconds", "unit": "s", "source": "source", "target": "target"}},
			"demands":   []any{map[string]any{"name": "ingress", "query": "requests"}},
		})}},
		map[string]any{"name": "NodeMetrics", "args": map[string]any{"prometheus": with(nil), "metrics": []any{
			map[string]any{"name": "cpu", "query": "instance:node_cpu:ratio", "nodeLabel": "instance", "direction": "Lower", "scale": 1},
		}}},
	})
	if err != nil {
		panic(err)
	}
	return `
profiles:
- schedulerName: fogsched
  plugins: {multiPoint: {enabled: [{name: NodeLatency, weight: 5}, {name: NodeMetrics, weight: 5}]}}
  pluginConfig: ` + string(text)
}

func trimaran(g *gate, f *fault) string {
	token := ""
	if f.tls {
		token = "token: first, insecureSkipVerify: true, " // it has no file for a token, and none for a CA
	}
	return fmt.Sprintf(`
profiles:
- schedulerName: trimaran
  plugins: {multiPoint: {enabled: [{name: TargetLoadPacking, weight: 5}]}}
  pluginConfig: [{name: TargetLoadPacking, args: {metricProvider: {%stype: Prometheus, address: %q}}}]
`, token, g.address(f))
}

// result is what became of one scheduler under one fault.
type result struct {
	Ready     float64 `json:"readySeconds"`     // from its start; 0: never
	Placed    float64 `json:"placedSeconds"`    // the first pod, from its creation; 0: never
	Burst     int     `json:"placed"`           // of the burst
	P99       float64 `json:"p99Millis"`        // of attempts, from the scheduler's own histogram
	MiB       float64 `json:"peakMiB"`          // resident
	Recovered float64 `json:"recoveredSeconds"` // from the end of the fault to good data; 0: never
	End       string  `json:"end,omitempty"`    // why it ended, where it did
}

// TestStart starts schedulers while Prometheus fails, has them place pods, and ends the fault.
func TestStart(t *testing.T) {
	g := newGate(t, prom.URL())
	contestants := []contestant{{"fogsched", ours}, {"trimaran", trimaran}}
	all := append([]fault{{name: "healthy"}, {name: "healthy, TLS and token", tls: true}}, faults...)
	results := map[string]map[string]*result{}
	for i := range all {
		f := &all[i]
		g.token.Store("first")
		g.writeToken(t, "first")
		g.set(t, f)
		results[f.name] = map[string]*result{}
		// Both at once: the faults are the same for both, and a start costs seconds.
		var group, placed sync.WaitGroup
		var healed time.Time
		heal := sync.OnceFunc(func() { g.heal(t); healed = time.Now() })
		for _, c := range contestants {
			r := &result{}
			results[f.name][c.name] = r
			placed.Add(1)
			group.Go(func() {
				scheduler := r.start(t, c, g, f, func() {
					placed.Done()
					placed.Wait()
					heal()
				})
				if scheduler == nil {
					return
				}
				defer scheduler.Stop()
				if c.name == "fogsched" {
					r.recover(t, scheduler, healed)
				}
				r.MiB = max(r.MiB, peakMiB(scheduler.PID()))
			})
		}
		group.Wait()
	}

	show(t, all, results)
	healthy := results["healthy"]["fogsched"]
	for _, f := range all {
		r := results[f.name]["fogsched"]
		switch {
		case r.End != "":
			t.Errorf("%s: fogsched ended: %s", f.name, r.End)
		case r.Ready == 0 || r.Ready > startBar.Seconds():
			t.Errorf("%s: fogsched was ready after %.1f s (0: never), want %s", f.name, r.Ready, startBar)
		case r.Placed == 0 || r.Burst != burst:
			t.Errorf("%s: fogsched placed its first pod after %.1f s (0: never), and then %d of %d", f.name, r.Placed, r.Burst, burst)
		case r.MiB > healthy.MiB+memoryBar:
			t.Errorf("%s: fogsched has %.0f MiB, on a healthy Prometheus %.0f: want at most %d more", f.name, r.MiB, healthy.MiB, memoryBar)
		// A query that began in the fault may have to time out first.
		case r.Recovered == 0 || r.Recovered > (2*interval+500*time.Millisecond).Seconds():
			t.Errorf("%s: fogsched had good data %.1f s after the end of the fault (0: never), want one interval, %s, and a query", f.name, r.Recovered, interval)
		}
	}
}

// start starts a scheduler and has it place pods. then is called when that is done, or given up; nil is returned where the scheduler is gone.
func (r *result) start(t *testing.T, c contestant, g *gate, f *fault, then func()) *cluster.Scheduler {
	ctx, cancel := context.WithTimeout(t.Context(), startPatience)
	defer cancel()
	begin := time.Now()
	s, err := control.StartScheduler(ctx, cluster.SchedulerOptions{Name: "chaos-" + c.name, Binary: "fogsched", ConfigYAML: []byte(c.config(g, f))})
	if err != nil {
		r.End, _, _ = strings.Cut(err.Error(), "\n")
		then()
		return nil
	}
	r.Ready = time.Since(begin).Seconds()
	watch, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { r.limit(watch, s) })
	defer func() { stop(); watching.Wait() }()

	namespace := fmt.Sprintf("%s-%d", c.name, time.Now().UnixNano())
	if err := control.CreateNamespace(t.Context(), namespace, nil); err != nil {
		t.Error(err)
	}
	created := time.Now()
	pod := func(i int) {
		if _, err := control.Client().CoreV1().Pods(namespace).Create(t.Context(), newPod(namespace, c.name, i), metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}
	placed := func(want int, patience time.Duration) int {
		n := 0
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			list, err := control.Client().CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Error(err)
				return n
			}
			n = 0
			for i := range list.Items {
				if list.Items[i].Spec.NodeName != "" {
					n++
				}
			}
			if n >= want || time.Now().After(deadline) {
				return n
			}
		}
	}
	pod(0)
	if placed(1, patience) == 1 {
		r.Placed = time.Since(created).Seconds()
		for i := range burst {
			pod(1 + i)
		}
		r.Burst = placed(1+burst, patience) - 1
	}
	// Long enough for a query to have timed out, or the answer to have been read to its bound.
	select {
	case <-s.Done():
	case <-time.After(2 * time.Second):
	}
	if text, err := s.Metrics(t.Context()); err == nil {
		r.P99 = 1000 * p99(t, text)
	}
	r.MiB = peakMiB(s.PID())
	then()
	if r.End != "" {
		s.Stop()
		return nil
	}
	return s
}

// limit ends a scheduler that grows too large.
func (r *result) limit(ctx context.Context, s *cluster.Scheduler) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.Done():
			if r.End == "" {
				r.End = "it ended by itself"
			}
			return
		case <-ticker.C:
			if mib := peakMiB(s.PID()); mib > mostMiB {
				r.End, r.MiB = fmt.Sprintf("killed at %.0f MiB", mib), mib
				s.Kill()
				return
			}
		}
	}
}

// recover waits until each of the queries was answered after the fault ended.
func (r *result) recover(t *testing.T, s *cluster.Scheduler, healed time.Time) {
	for deadline := healed.Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		text, err := s.Metrics(t.Context())
		if err != nil {
			continue
		}
		families := parse(t, text)
		answered, joined := 0, 0
		for _, m := range families["fogsched_prometheus_last_answer_timestamp_seconds"].GetMetric() {
			if m.GetGauge().GetValue() > float64(healed.UnixNano())/1e9 {
				answered++
			}
		}
		for _, m := range families["fogsched_prometheus_series"].GetMetric() {
			if label(m, "state") == "joined" && m.GetGauge().GetValue() > 0 {
				joined++
			}
		}
		pairs := families["fogsched_store_measured_pairs"].GetMetric()
		if answered >= 3 && joined >= 3 && len(pairs) == 1 && pairs[0].GetGauge().GetValue() == nodes*(nodes-1)/2 {
			r.Recovered = time.Since(healed).Seconds()
			return
		}
	}
}

func newPod(namespace, scheduler string, n int) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: fmt.Sprintf("pod-%d", n), Labels: map[string]string{"app": "chaos"},
			Annotations: map[string]string{"fogsched.dev/latency": `{"clients":[{"nodes":{"matchLabels":{"number":"3"}},"demand":"ingress"}]}`},
		},
		Spec: v1.PodSpec{SchedulerName: scheduler, Containers: []v1.Container{{Name: "c", Image: "none"}}},
	}
}

func parse(t *testing.T, text string) map[string]*dto.MetricFamily {
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Error(err)
	}
	return families
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// p99 returns the 99th percentile of the attempts that placed a pod, in seconds, as histogram_quantile interpolates it.
func p99(t *testing.T, text string) float64 {
	for _, m := range parse(t, text)["scheduler_scheduling_attempt_duration_seconds"].GetMetric() {
		if label(m, "result") != "scheduled" {
			continue
		}
		h := m.GetHistogram()
		rank := 0.99 * float64(h.GetSampleCount())
		below, from := 0.0, 0.0
		for _, b := range h.GetBucket() {
			if n := float64(b.GetCumulativeCount()); n >= rank {
				return from + (b.GetUpperBound()-from)*(rank-below)/max(n-below, 1)
			} else { //nolint:revive // the other order reads worse
				below, from = n, b.GetUpperBound()
			}
		}
	}
	return 0
}

// peakMiB returns the most memory that a process had resident.
func peakMiB(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				kib, _ := strconv.ParseFloat(fields[0], 64)
				return kib / 1024
			}
		}
	}
	return 0
}

// show prints the table, and leaves it in out/chaos.
func show(t *testing.T, all []fault, results map[string]map[string]*result) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "Prometheus\tready after\tfirst pod after\tplaced\tp99 of attempts\tmemory\tgood data after\t| Trimaran: ready after\tfirst pod after\tplaced\tp99 of attempts\tmemory\t\n")
	cell := func(v float64, format string) string {
		if v == 0 {
			return "never"
		}
		return fmt.Sprintf(format, v)
	}
	for _, f := range all {
		fmt.Fprintf(w, "%s\t", f.name)
		for _, c := range []string{"fogsched", "trimaran"} {
			r := results[f.name][c]
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t", cell(r.Ready, "%.1f s"), cell(r.Placed, "%.2f s"), r.Burst, cell(r.P99, "%.0f ms"), strings.ReplaceAll(cell(r.MiB, "%.0f MiB"), "never", "-"))
			if c == "fogsched" {
				fmt.Fprintf(w, "%s\t", cell(r.Recovered, "%.1f s"))
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	for _, f := range all {
		for _, c := range []string{"fogsched", "trimaran"} {
			if end := results[f.name][c].End; end != "" {
				fmt.Fprintf(&b, "%s, %s: %s\n", f.name, c, end)
			}
		}
	}
	fmt.Println(b.String())
	root, err := cluster.RepoRoot()
	if err != nil {
		t.Error(err)
		return
	}
	out := filepath.Join(root, "out", "chaos")
	data, err := json.MarshalIndent(results, "", "  ")
	if err == nil {
		err = os.MkdirAll(out, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(out, "report.json"), append(data, '\n'), 0o600)
	}
	if err != nil {
		t.Error(err)
	}
}
