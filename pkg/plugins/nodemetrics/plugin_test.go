// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
)

const cpu = "- {preset: cpu}\n"

func TestScores(t *testing.T) {
	type values []string // by metric
	tests := map[string]struct {
		metrics string
		values  values
		pod     *podBuilder
		want    string
	}{
		"1 % of utilisation is a point":           {cpu, values{"a=0.50 b=0.51 c=0.80"}, nil, "a:100 b:99 c:70"},
		"noise is not stretched":                  {cpu, values{"a=0.500 b=0.501 c=0.502"}, nil, "a:100 b:100 c:100"},
		"nothing known":                           {cpu, values{""}, nil, "no scores"},
		"unknown is the median":                   {cpu, values{"a=0.1 b=0.5"}, nil, "a:100 c:80 b:60"},
		"one known only":                          {cpu, values{"a=0.9"}, nil, "a:100 b:100 c:100"},
		"proportions where there is no scale":     {"- {name: w, query: watts}\n", values{"a=100 b=200 c=400"}, nil, "a:100 b:75 c:25"},
		"a scale":                                 {"- {name: w, query: watts, scale: 1000}\n", values{"a=100 b=200 c=400"}, nil, "a:100 b:90 c:70"},
		"a scale smaller than the differences":    {"- {name: w, query: watts, scale: 100}\n", values{"a=100 b=150 c=400"}, nil, "a:100 b:50 c:0"},
		"higher is better":                        {"- {name: m, query: m, direction: Higher}\n", values{"a=100 b=200 c=400"}, nil, "c:100 b:50 a:25"},
		"a target":                                {"- {name: m, query: m, direction: Target, target: 0.4, scale: 1}\n", values{"a=0.1 b=0.45 c=0.8"}, nil, "b:100 a:75 c:65"},
		"values below 0":                          {"- {name: m, query: m}\n", values{"a=-10 b=0 c=10"}, nil, "a:100 b:50 c:0"},
		"all 0":                                   {"- {name: m, query: m}\n", values{"a=0 b=0 c=0"}, nil, "a:100 b:100 c:100"},
		"two metrics by their weights":            {"- {preset: cpu, weight: 3}\n- {preset: memory}\n", values{"a=0.8 b=0.4 c=0.4", "a=0.4 b=0.8 c=0.4"}, nil, "c:100 b:90 a:70"},
		"a metric of which nothing is known":      {"- {preset: cpu, weight: 3}\n- {preset: memory}\n", values{"", "a=0.4 b=0.8 c=0.4"}, nil, "a:100 c:100 b:60"},
		"the pod's request, on nodes of one size": {cpu, values{"a=0.50 b=0.51 c=0.80"}, makePod("p").request("cpu", "4"), "a:100 b:99 c:70"},
		"beyond a limit ranks behind": {
			"- {preset: cpu, limit: 0.7}\n- {preset: memory, weight: 100}\n", values{"a=0.8 b=0.6 c=0.6", "a=0.1 b=0.8 c=0.7"}, nil, "c:100 b:90 a:45",
		},
		"the pod brings it beyond": {
			"- {preset: cpu, limit: 0.7}\n- {preset: memory, weight: 100}\n",
			values{"a=0.5 b=0.2 c=0.2", "a=0.1 b=0.7 c=0.7"},
			makePod("p").request("cpu", "2"), "b:100 c:100 a:50",
		},
		"a pod takes from what is better when it is higher": {
			"- {name: free, query: m, direction: Higher, limit: 300, podEffect: {resource: cpu, factor: 100}}\n",
			values{"a=450 b=350 c=450"},
			makePod("p").request("cpu", "1"), "a:100 c:100 b:50",
		},
		"all beyond":                {"- {preset: cpu, limit: 0.1}\n", values{"a=0.8 b=0.6 c=0.7"}, nil, "b:100 c:90 a:80"},
		"an unknown value may pass": {"- {preset: cpu, limit: 0.7}\n", values{"b=0.2 c=0.9"}, nil, "b:100 a:65 c:32"},
		"an unknown value ranks behind where it is rejected": {
			"- {preset: cpu, limit: 0.7, whenUnknown: Reject}\n", values{"b=0.2 c=0.3"}, nil, "b:100 c:90 a:45",
		},
		"a limit alone": {"- {preset: cpu, limit: 0.7, weight: 0}\n", values{"a=0.8 b=0.6 c=0.1"}, nil, "b:100 c:100 a:50"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tt.metrics, "a", "b", "c")
			for i, v := range tt.values {
				f.measure(i, v, 0)
			}
			if tt.pod == nil {
				tt.pod = makePod("p")
			}
			if diff := cmp.Diff(tt.want, f.schedule(tt.pod.obj()).String()); diff != "" {
				t.Errorf("scores (-want +got):\n%s", diff)
			}
		})
	}
}

// TestScoreAfterNormalizeScore asks for scores whose table another pod may have by then.
func TestScoreAfterNormalizeScore(t *testing.T) {
	f := newFixture(t, cpu, "a", "b", "c")
	f.measure(0, "a=0.50 b=0.51 c=0.80", 0)
	o := f.schedule(makePod("p").obj())
	f.schedule(makePod("q").obj())
	for _, ni := range f.infos {
		score, status := f.plugin.Score(context.Background(), o.cycle, makePod("p").obj(), ni)
		if !status.IsSuccess() || score != 70 {
			t.Errorf("%s has %d, %v; want the lowest score, 70", ni.Node().Name, score, status)
		}
	}
}

func TestSizesOfNodes(t *testing.T) {
	f := newFixture(t, cpu, "a")
	f.addNode(makeNode("big", 40))
	f.engine.build(time.Now())
	f.measure(0, "a=0.3 big=0.4", 0)
	// 3.6 cores are 40 % of a's 9 that are allocatable, and 10 % of the other's 36.
	if got := f.schedule(makePod("p").request("cpu", "3600m").obj()).String(); got != "big:100 a:80" {
		t.Errorf("%s, want the big node to be better by 20", got)
	}
	if got := f.schedule(makePod("small").request("cpu", "36m").obj()).String(); got != "a:100 big:90" {
		t.Errorf("%s, want the small pod on a", got)
	}
	// A pod without a request is taken for 100m.
	if got, want := f.engine.effects(makePod("none").obj()), []float32{0.1}; !slices.Equal(got, want) {
		t.Errorf("effects %v of a pod without requests, want %v", got, want)
	}
	// Without its size a node's value after the pod is unknown: the median of the only one that is known.
	f.addNode(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "sizeless"}})
	f.engine.build(time.Now())
	f.measure(0, "a=0.3 big=0.4 sizeless=0.0", 0)
	if got := f.schedule(makePod("p").request("cpu", "3600m").obj()).String(); got != "big:100 sizeless:90 a:80" {
		t.Errorf("%s, want the node without a size in the middle", got)
	}
}

func TestFilter(t *testing.T) {
	const hard = "- {preset: cpu, limit: 0.7, whenUnsatisfiable: DoNotSchedule}\n"
	const strict = "- {preset: cpu, limit: 0.7, whenUnsatisfiable: DoNotSchedule, whenUnknown: Reject}\n"
	tests := map[string]struct {
		metrics, values, cpu string
		wantRejected         map[string]string
		want                 string
	}{
		"within the limit":         {hard, "a=0.5 b=0.6", "100m", map[string]string{}, "a:100 b:90"},
		"the limit itself is kept": {hard, "a=0.5 b=0.7", "0", map[string]string{}, "a:100 b:80"},
		"one beyond":               {hard, "a=0.5 b=0.71", "0", map[string]string{"b": ReasonExceeded}, "a:100"},
		"the pod brings one beyond": {
			hard, "a=0.3 b=0.6", "1800m", map[string]string{"b": ReasonExceeded}, "a:100",
		},
		"all beyond": {
			hard, "a=0.8 b=0.75", "900m",
			map[string]string{"a": ReasonExceeded, "b": ReasonExceeded},
			"limit 0.7 of metric cpu: the best of them with this pod is b with 0.85",
		},
		"unknown passes":       {hard, "a=0.8", "0", map[string]string{"a": ReasonExceeded}, "no scores"},
		"unknown is rejected":  {strict, "a=0.5", "0", map[string]string{"b": ReasonUnknown}, "a:100"},
		"all unknown":          {strict, "", "0", map[string]string{"a": ReasonUnknown, "b": ReasonUnknown}, "limit 0.7 of metric cpu: none of those nodes has a value"},
		"all unknown may pass": {hard, "", "0", map[string]string{}, "no scores"},
		"two limits, none keeps both": {
			hard + "- {name: free, query: free, direction: Higher, limit: 5, whenUnsatisfiable: DoNotSchedule}\n", "a=0.8 b=0.6|a=9 b=4", "0",
			map[string]string{"a": ReasonExceeded, "b": ReasonExceeded},
			"limit 0.7 of metric cpu: node b keeps this one with 0.6, limit 5 of metric free: node a keeps this one with 9",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tt.metrics, "a", "b")
			for i, v := range strings.Split(tt.values, "|") {
				f.measure(i, v, 0)
			}
			pod := makePod("p").request("cpu", tt.cpu)
			if tt.cpu == "0" {
				f.engine.metrics[0].effect.Default = nil
			}
			o := f.schedule(pod.obj())
			if diff := cmp.Diff(tt.wantRejected, o.rejected); diff != "" {
				t.Errorf("rejected (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, o.String()); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHerd places 200 pods between two scrapes.
func TestHerd(t *testing.T) {
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("n%d", i))
	}
	f := newFixture(t, cpu, names...)
	f.measure(0, "n0=0.10 n1=0.15 n2=0.20 n3=0.25 n4=0.30 n5=0.35 n6=0.10 n7=0.12 n8=0.14 n9=0.16", 0)
	load := map[string]float64{"n0": 0.10, "n1": 0.15, "n2": 0.20, "n3": 0.25, "n4": 0.30, "n5": 0.35, "n6": 0.10, "n7": 0.12, "n8": 0.14, "n9": 0.16}
	for i := range 200 {
		load[f.place(makePod(fmt.Sprint("p", i)).request("cpu", "180m").obj())] += 0.18 / 9
	}
	low, high := 1.0, 0.0
	for _, v := range load {
		low, high = min(low, v), max(high, v)
	}
	// 200 pods of 2 % of a node: a step of the score and one pod are what nodes may differ by.
	if high-low > 0.031 {
		t.Errorf("after the burst the nodes' load is %.3f to %.3f: %v", low, high, load)
	}
}

// TestUnseen follows one pod of 0.9 cores, 10 % of the node, from its placement until the metric has it.
func TestUnseen(t *testing.T) {
	start := time.Now()
	load := func(f *fixture, n string) float64 {
		s := f.engine.current.Load()
		return math.Round(1000*float64(s.after(0, s.number(n), 0))) / 1000
	}
	check := func(t *testing.T, f *fixture, what string, want float64) {
		t.Helper()
		if got := load(f, "a"); got != want {
			t.Errorf("%s: the load is %g, want %g", what, got, want)
		}
	}
	for name, tt := range map[string]struct {
		metrics     string
		half, after float64
	}{
		"a mean over 2m":   {cpu, 0.55, 0.5},
		"without a window": {"- {name: m, query: m, podEffect: {resource: cpu, per: Allocatable}}\n", 0.5, 0.5},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, tt.metrics, "a", "b")
			pod := makePod("p").request("cpu", "900m")
			f.measure(0, "a=0.5 b=0.5", 5*time.Minute-time.Second)
			check(t, f, "before", 0.5)
			f.engine.assume(pod.obj(), "a")
			check(t, f, "assumed", 0.6)
			f.engine.setPod(pod.obj()) // a condition of the pod changed while it is being bound
			check(t, f, "not bound yet", 0.6)
			f.engine.forget("p")
			check(t, f, "taken back", 0.5)
			f.engine.assume(pod.obj(), "a")
			f.engine.setPod(pod.node("a").obj())
			check(t, f, "bound", 0.6)
			f.engine.forget("p")
			check(t, f, "a late Unreserve", 0.6)
			f.engine.setPod(pod.runs(start.Add(-time.Minute)).obj())
			check(t, f, "runs, the sample is older", 0.6)
			f.measure(0, "a=0.5 b=0.5", 58*time.Second)
			check(t, f, "runs for 2 s of the sample's window", map[bool]float64{true: 0.598, false: 0.6}[tt.half > 0.5])
			f.measure(0, "a=0.5 b=0.5", 0)
			check(t, f, "runs for half of the window", tt.half)
			f.engine.setPod(pod.runs(start.Add(-2 * time.Minute)).obj())
			check(t, f, "runs for the whole window", tt.after)
			f.engine.setPod(pod.runs(start.Add(-time.Second)).obj())
			f.engine.deletePod("p")
			check(t, f, "gone", 0.5)
			if len(f.engine.pods)+len(f.engine.onNode) != 0 {
				t.Errorf("%d pods are kept on %d nodes, want none", len(f.engine.pods), len(f.engine.onNode))
			}
		})
	}
}

func TestWhichPodsCount(t *testing.T) {
	now := time.Now()
	tests := map[string]struct {
		change func(*v1.Pod)
		want   int
	}{
		"just started":     {func(*v1.Pod) {}, 1},
		"started long ago": {func(p *v1.Pod) { *p = *makePod("p").node("a").runs(now.Add(-time.Hour)).obj() }, 0},
		"does not run yet": {func(p *v1.Pod) { p.Status = v1.PodStatus{Phase: v1.PodPending} }, 1},
		"succeeded":        {func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded }, 0},
		"failed":           {func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }, 0},
		"is being deleted": {func(p *v1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }, 0},
		"on no node":       {func(p *v1.Pod) { p.Spec.NodeName = "" }, 0},
		"began anew, is old": {func(p *v1.Pod) {
			p.Status.ContainerStatuses[0].RestartCount = 3
			p.Status.StartTime = &metav1.Time{Time: now.Add(-time.Hour)}
		}, 0},
		"says only when the kubelet took it up": {func(p *v1.Pod) { p.Status.ContainerStatuses = nil }, 1},
		"says only that it is scheduled": {func(p *v1.Pod) {
			p.Status.ContainerStatuses, p.Status.StartTime = nil, nil
			p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, LastTransitionTime: metav1.Time{Time: now}}}
		}, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, cpu, "a")
			pod := makePod("p").node("a").runs(now).obj()
			tt.change(pod)
			f.engine.setPod(pod)
			if got := len(f.engine.pods); got != tt.want {
				t.Errorf("%d pods count as unseen, want %d", got, tt.want)
			}
			// The same must hold for one that changed while it counted.
			f.engine.setPod(makePod("p").node("a").runs(now).obj())
			f.engine.setPod(pod)
			if name == "on no node" { // only Unreserve takes such a pod away
				return
			}
			if got := len(f.engine.pods); got != tt.want {
				t.Errorf("after the change %d pods count as unseen, want %d", got, tt.want)
			}
			f.engine.build(now.Add(time.Hour))
			want := 0
			if name == "does not run yet" {
				want = 1
			}
			if got := len(f.engine.pods); got != want {
				t.Errorf("an hour later %d pods count as unseen, want %d", got, want)
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	f := newFixture(t, "- {preset: cpu, maxAge: 1m}\n", "a", "b")
	f.measure(0, "a=0.1", 50*time.Second)
	f.measure(0, "b=0.5", 0)
	if got := f.schedule(makePod("p").obj()).String(); got != "a:100 b:60" {
		t.Errorf("before: %s; an answer without a keeps what is known of a", got)
	}
	f.measure(0, "a=0.9", 55*time.Second) // an older one comes late
	if got := f.schedule(makePod("p").obj()).String(); got != "a:100 b:60" {
		t.Errorf("after an older value: %s", got)
	}
	if left := time.Until(f.engine.current.Load().expires); left < 8*time.Second || left > 10*time.Second {
		t.Errorf("the first value expires in %s, want 10 s", left)
	}
	f.engine.build(time.Now().Add(11 * time.Second))
	if got := f.schedule(makePod("p").obj()).String(); got != "a:100 b:100" {
		t.Errorf("after a's value expired: %s", got)
	}
	f.engine.build(time.Now().Add(61 * time.Second))
	if got := f.schedule(makePod("p").obj()).String(); got != "no scores" {
		t.Errorf("after both expired: %s", got)
	}
	if !f.engine.current.Load().expires.IsZero() || len(f.engine.last[0]) != 0 {
		t.Error("something is kept of values that expired")
	}
}

func TestEvent(t *testing.T) {
	const soft = "- {preset: cpu, limit: 0.7}\n"
	f := newFixture(t, soft, "a", "b")
	f.measure(0, "a=0.8 b=0.9", 0)
	pod := makePod("p").request("cpu", "900m").obj()
	const end = "; whenUnsatisfiable: DoNotSchedule would keep the pod pending"
	check := func(want string) {
		t.Helper()
		if want != "" {
			want = "Warning NodeMetricLimitExceeded " + want + end
		}
		if got := f.event(); got != want {
			t.Errorf("event\n%q, want\n%q", got, want)
		}
		f.engine.deletePod("p")
	}
	f.bind(f.schedule(pod), pod, "b")
	check("Node b is beyond the limit 0.7 of metric cpu with 1; of 2 candidates the best for it is node a with 0.9")
	f.bind(f.schedule(pod), pod, "a")
	check("Node a is beyond the limit 0.7 of metric cpu with 0.9, the best of 2 candidates")
	f.bind(&outcome{cycle: &cycleState{}}, pod, "a") // the framework does not score the only feasible node
	check("Node a is beyond the limit 0.7 of metric cpu with 0.9; no other node was feasible, or other preferences decided")
	f.measure(0, "a=0.1", 0)
	f.bind(f.schedule(pod), pod, "b")
	check("Node b is beyond the limit 0.7 of metric cpu with 1; 1 of 2 candidates keep every limit, and other scheduling preferences outweighed it")
	f.bind(f.schedule(pod), pod, "a")
	check("")
}

func TestSignPod(t *testing.T) {
	f := newFixture(t, cpu, "a")
	sign := func(b *podBuilder) string {
		fragments, status := f.plugin.SignPod(context.Background(), b.obj())
		if !status.IsSuccess() || len(fragments) != 1 {
			t.Fatalf("%v, %v", fragments, status)
		}
		return fmt.Sprint(fragments)
	}
	if sign(makePod("a").request("cpu", "1")) != sign(makePod("b").request("cpu", "1")) {
		t.Error("two pods with the same request have different signatures")
	}
	if sign(makePod("a").request("cpu", "1")) == sign(makePod("b").request("cpu", "2")) {
		t.Error("two pods with different requests have one signature")
	}
}

const hardCPU = "- {preset: cpu, limit: 0.7, whenUnsatisfiable: DoNotSchedule}\n"

func TestHints(t *testing.T) {
	tests := map[string]struct {
		hint func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error)
		want fwk.QueueingHint
	}{
		"a node comes of which nothing is known": {func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterNodeChange(klog.Background(), pod, nil, makeNode("new", 1))
		}, fwk.Queue},
		"a node that stays beyond the limit": {func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterNodeChange(klog.Background(), pod, makeNode("a", 10), makeNode("a", 10))
		}, fwk.QueueSkip},
		"a node that grew": {func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			f.engine.setNode(makeNode("a", 100))
			f.engine.build(time.Now())
			return f.plugin.afterNodeChange(klog.Background(), pod, makeNode("a", 10), makeNode("a", 100))
		}, fwk.Queue},
		"something that is no node": {func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterNodeChange(klog.Background(), pod, nil, "?")
		}, fwk.Queue},
		"a pod goes that the samples have": {func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterPodChange(klog.Background(), pod, makePod("other").node("a").obj(), nil)
		}, fwk.QueueSkip},
		"a pod goes that the samples lack": {func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			f.engine.deletePod("unseen")
			return f.plugin.afterPodChange(klog.Background(), pod, makePod("unseen").node("a").obj(), nil)
		}, fwk.Queue},
		"its own requests shrank, not enough": {func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterPodChange(klog.Background(), pod, pod, makePod("p").request("cpu", "1").obj())
		}, fwk.QueueSkip},
		"its own requests shrank": {func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterPodChange(klog.Background(), pod, pod, makePod("p").request("cpu", "450m").obj())
		}, fwk.Queue},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f, pod := rejected(t)
			got, err := tt.hint(f, pod)
			if got != tt.want || err != nil {
				t.Errorf("hint %d, %v, want %d", got, err, tt.want)
			}
		})
	}
	soft := newFixture(t, cpu, "a")
	if events, err := soft.plugin.EventsToRegister(t.Context()); len(events) != 0 || err != nil {
		t.Errorf("a plugin that rejects nothing waits for %v, %v", events, err)
	}
	hard := newFixture(t, hardCPU, "a")
	if events, err := hard.plugin.EventsToRegister(t.Context()); len(events) != 2 || err != nil {
		t.Errorf("a plugin that rejects waits for %v, %v, want two", events, err)
	}
}

// rejected is a pod of 1.8 cores, 20 % of a node, that no node takes: a would come to 0.85 without the pod that the samples lack, b to 1.0.
func rejected(t *testing.T) (*fixture, *v1.Pod) {
	f := newFixture(t, hardCPU, "a", "b")
	f.measure(0, "a=0.45 b=0.8", time.Second)
	f.engine.setPod(makePod("unseen").request("cpu", "1350m").node("a").obj())
	pod := makePod("p").request("cpu", "1800m").obj()
	f.engine.setPod(pod)
	if err := f.pods.Add(pod); err != nil {
		t.Fatal(err)
	}
	if o := f.schedule(pod); len(o.rejected) != 2 {
		t.Fatalf("rejected by %v, want both nodes", o.rejected)
	}
	return f, pod
}

func TestWaker(t *testing.T) {
	tests := map[string]struct {
		change func(f *fixture, pod *v1.Pod)
		want   []string
	}{
		"nothing happens": {change: func(*fixture, *v1.Pod) {}},
		"a new value brings a node within the limit": {
			change: func(f *fixture, _ *v1.Pod) { f.measure(0, "b=0.4", 0) }, want: []string{"default/p"},
		},
		"a new value brings one nearer, and not near enough": {
			change: func(f *fixture, _ *v1.Pod) { f.measure(0, "b=0.55", 0) },
		},
		"a pod goes that the samples lack": {
			change: func(f *fixture, _ *v1.Pod) { f.engine.deletePod("unseen") }, want: []string{"default/p"},
		},
		"a node comes": {
			change: func(f *fixture, _ *v1.Pod) {
				f.addNode(makeNode("new", 10))
				f.engine.build(time.Now())
			},
			want: []string{"default/p"},
		},
		"all values expire, and the limit takes what is unknown": {
			change: func(f *fixture, _ *v1.Pod) { f.engine.build(time.Now().Add(time.Hour)) }, want: []string{"default/p"},
		},
		"the pod is gone when the value comes": {
			change: func(f *fixture, pod *v1.Pod) {
				f.engine.deletePod(pod.UID)
				f.measure(0, "b=0.4", 0)
			},
		},
		"the pod is placed when the value comes": {
			change: func(f *fixture, pod *v1.Pod) {
				bound := pod.DeepCopy()
				bound.Spec.NodeName = "c"
				f.engine.setPod(bound)
				f.measure(0, "b=0.4", 0)
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, pod := rejected(t)
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { f.engine.waker.Run(ctx) })
				defer wg.Wait()
				defer cancel()
				time.Sleep(time.Second)
				if got := f.handle.takeActivated(); len(got) > 0 {
					t.Errorf("activated %v before anything changed", got)
				}
				tt.change(f, pod)
				time.Sleep(time.Second)
				if diff := cmp.Diff(tt.want, f.handle.takeActivated()); diff != "" {
					t.Errorf("activated (-want +got):\n%s", diff)
				}
				f.engine.waker.Wake()
				time.Sleep(time.Second)
				if got := f.handle.takeActivated(); len(got) > 0 {
					t.Errorf("activated %v twice", got)
				}
			})
		})
	}
	t.Run("a pod that went while its cycle ran is not kept", func(t *testing.T) {
		f := newFixture(t, hardCPU, "a")
		f.measure(0, "a=0.9", 0)
		f.schedule(makePod("gone").obj())
		if _, ok := f.engine.waker.Acceptable(makePod("gone").obj()); ok {
			t.Error("the waker has it")
		}
	})
}

// Pods wait long, and each remembers what refused it: not all that was known at the time.
func TestRejectedPodsKeepNoSnapshot(t *testing.T) {
	f := newFixture(t, "- {name: load, query: q, limit: 0.5, whenUnsatisfiable: DoNotSchedule}\n", "a", "b")
	f.measure(0, "a=0.9 b=0.9", 0)
	pod := makePod("p").obj()
	if err := f.pods.Add(pod); err != nil {
		t.Fatal(err)
	}
	f.schedule(pod)
	if acceptable, ok := f.engine.waker.Acceptable(pod); acceptable || !ok {
		t.Fatalf("acceptable %t, remembered %t", acceptable, ok)
	}
	snap := weak.Make(f.engine.current.Load())
	f.plugin.last.Store(nil)
	f.measure(0, "a=0.4 b=0.9", 0)
	runtime.GC()
	if snap.Value() != nil {
		t.Error("the snapshot of the time when the pod was refused is kept")
	}
	if acceptable, _ := f.engine.waker.Acceptable(pod); !acceptable {
		t.Error("the pod is not acceptable on a")
	}
}

// A node that was made again, on another machine perhaps, has nothing of what was measured of the one that had its name.
func TestNodeThatWasMadeAgain(t *testing.T) {
	f := newFixture(t, "- {name: load, query: q}\n", "a", "b")
	f.measure(0, "a=0.1 b=0.5", time.Minute)
	again := makeNode("a", 10)
	again.CreationTimestamp = metav1.Time{Time: time.Now().Add(-10 * time.Second)}
	f.engine.deleteNode("a")
	f.engine.setNode(again)
	f.engine.build(time.Now())
	if got := f.engine.current.Load().metrics[0].known; got != 1 {
		t.Errorf("%d nodes are known, want b alone", got)
	}
	f.measure(0, "a=0.1 b=0.5", 30*time.Second) // what Prometheus looks back at
	if got := f.engine.current.Load().metrics[0].known; got != 1 {
		t.Errorf("%d nodes are known after an answer of before, want b alone", got)
	}
	f.measure(0, "a=0.2 b=0.5", time.Second)
	if got := f.engine.current.Load().metrics[0].known; got != 2 {
		t.Errorf("%d nodes are known once it was measured, want both", got)
	}
}

// TestBadnessStaysInRange throws values of all sizes at the arithmetic, unknown ones and those that are no numbers among them.
func TestBadnessStaysInRange(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	odd := []float32{0, float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32}
	value := func() float32 {
		if rng.IntN(8) == 0 {
			return odd[rng.IntN(len(odd))]
		}
		return float32((rng.Float64() - 0.3) * math.Exp(40*(rng.Float64()-0.5)))
	}
	for range 20_000 {
		n := 1 + rng.IntN(12)
		values, b := make([]float32, n), make([]float32, n)
		for i := range values {
			values[i] = value()
		}
		d := []Direction{Lower, Higher, Target}[rng.IntN(3)]
		target, scale := value(), float32(0)
		if !known(target) {
			target = 0
		}
		if rng.IntN(2) == 0 {
			scale = float32(math.Exp(20 * (rng.Float64() - 0.5)))
		}
		_, ok := badness(b, values, d, target, scale, nil)
		if want := slices.ContainsFunc(values, known); ok != want {
			t.Fatalf("badness of %v: known %v, want %v", values, ok, want)
		}
		if !ok {
			continue
		}
		best := float32(1)
		lowest, highest := float32(1), float32(0)
		for i, v := range values {
			if !(b[i] >= 0 && b[i] <= 1) {
				t.Fatalf("%s %g %g: badness of %v is %v", d, target, scale, values, b)
			}
			if known(v) {
				best, lowest, highest = min(best, b[i]), min(lowest, b[i]), max(highest, b[i])
			}
		}
		if best != 0 {
			t.Fatalf("%s %g %g: the best of %v has %g", d, target, scale, values, best)
		}
		for i, v := range values {
			if !known(v) && (b[i] < lowest || b[i] > highest) {
				t.Fatalf("an unknown value has %g, the known ones %g to %g", b[i], lowest, highest)
			}
			for j, w := range values {
				worse := d == Lower && v > w || d == Higher && v < w ||
					d == Target && math.Abs(float64(v)-float64(target)) > math.Abs(float64(w)-float64(target))
				if known(v) && known(w) && worse && b[i] < b[j] {
					t.Fatalf("%s %g: %g has %g, and %g, which is better, %g", d, target, v, b[i], w, b[j])
				}
			}
		}
	}
}

func TestScoresStayInRange(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		n := 1 + rng.IntN(12)
		totals, breaks, into := make([]float32, n), make([]bool, n), make([]int64, n)
		for i := range totals {
			totals[i] = min(rng.Float32()*1.2, 1)
			breaks[i] = rng.IntN(3) == 0
		}
		keepers := scores(into, totals, breaks)
		best := int64(0)
		for i, s := range into {
			best = max(best, s)
			if s < fwk.MinNodeScore || s > fwk.MaxNodeScore {
				t.Fatalf("totals %v: scores %v", totals, into)
			}
			for j := range into {
				if !breaks[i] && breaks[j] && into[i] <= into[j] {
					t.Fatalf("totals %v, beyond a limit %v: scores %v", totals, breaks, into)
				}
				if breaks[i] == breaks[j] && totals[i] < totals[j] && into[i] < into[j] {
					t.Fatalf("totals %v: scores %v", totals, into)
				}
			}
		}
		if best != fwk.MaxNodeScore {
			t.Fatalf("totals %v: the best score is %d", totals, best)
		}
		if want := len(slices.DeleteFunc(slices.Clone(breaks), func(b bool) bool { return b })); keepers != want {
			t.Fatalf("%d keepers of %v", keepers, breaks)
		}
	}
}

func TestMedian(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		a := make([]float32, 1+rng.IntN(40))
		for i := range a {
			a[i] = float32(rng.IntN(1+rng.IntN(50))) / 50
		}
		sorted := slices.Sorted(slices.Values(a))
		n := len(a)
		want := sorted[n/2]
		if n%2 == 0 {
			want = (sorted[n/2-1] + want) / 2
		}
		if got := median(slices.Clone(a)); got != want {
			t.Fatalf("the median of %v is %g, want %g", a, got, want)
		}
	}
}

func TestTheWorseOfTwoSeriesCounts(t *testing.T) {
	for name, tt := range map[string]struct {
		metric      string
		worse, than float64
	}{
		"higher is better": {"{name: m, query: m, direction: Higher}", 1, 2},
		"a target":         {"{name: m, query: m, direction: Target, target: 0.4}", 0.1, 0.6},
	} {
		m := compile(&mustArgs(t, address+"metrics: ["+tt.metric+"]").Metrics[0])
		if !m.query.Worse(tt.worse, tt.than) || m.query.Worse(tt.than, tt.worse) {
			t.Errorf("%s: %g is not worse than %g", name, tt.worse, tt.than)
		}
	}
	if m := compile(&mustArgs(t, address+"metrics: [{preset: cpu}]").Metrics[0]); m.query.Worse != nil {
		t.Error("lower is better: the default is right")
	}
}
