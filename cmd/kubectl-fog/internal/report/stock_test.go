// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
)

func sampleOf(ms ...float64) (list []sample) {
	for _, x := range ms {
		list = append(list, sample{ms: float32(x), mass: 1})
	}
	return list
}

func TestDistribution(t *testing.T) {
	d, curve := distribution(sampleOf(4, 1, 3, 2))
	if d.Median != "2ms" || d.Tail != "4ms" || d.Mean != "2.5ms" || d.UnknownPercent != 0 {
		t.Errorf("%+v", d)
	}
	want := []step{{1, 0.25}, {2, 0.5}, {3, 0.75}, {4, 1}}
	if diff := cmp.Diff(want, curve, cmp.AllowUnexported(step{})); diff != "" {
		t.Error(diff)
	}
	// What is unknown is no number: the curve ends below 1, and a quantile that lies in it is unknown.
	d, curve = distribution(sampleOf(1, math.NaN(), math.NaN(), 2))
	if d.Median != "2ms" || d.Tail != "" || d.Mean != "1.5ms" || d.UnknownPercent != 50 {
		t.Errorf("%+v", d)
	}
	if last := curve[len(curve)-1]; last.share != 0.5 {
		t.Errorf("the curve ends at %v", last)
	}
	d, curve = distribution(sampleOf(math.NaN()))
	if d.Median != "" || d.Mean != "" || len(curve) != 0 {
		t.Errorf("%+v %v", d, curve)
	}
	heavy := []sample{{ms: 1, mass: 1}, {ms: 10, mass: 9, estimated: true}}
	if d, _ = distribution(heavy); d.Median != "10ms" || d.EstimatedPercent != 90 {
		t.Errorf("%+v", d)
	}
}

// feasibleNames returns the names of the nodes on which pods like the first can be.
func feasibleNames(w *world, pods []*v1.Pod) (names []string) {
	list, _ := w.feasible(pods)
	for _, c := range list {
		names = append(names, w.snap.Name(c.node))
	}
	return names
}

func TestFeasible(t *testing.T) {
	node := func(name string, change func(*v1.Node)) *v1.Node {
		n := clitest.Node(name, "disk=ssd", v1.LabelTopologyZone+"="+name)
		n.Status.Allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourcePods: resource.MustParse("10")}
		change(n)
		return n
	}
	pod := podOf("app", 0, "ok")
	pod.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	pod.Spec.Tolerations = []v1.Toleration{{Key: "edge", Operator: v1.TolerationOpExists}}
	other := podOf("other", 0, "full")
	other.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("900m")
	done := podOf("done", 0, "ok")
	done.Status.Phase = v1.PodSucceeded
	done.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("900m")
	c := &cli.Cluster{ReadAt: clitest.Now, Pods: []*v1.Pod{pod, other, done}, Nodes: []*v1.Node{
		node("ok", func(*v1.Node) {}),
		node("full", func(*v1.Node) {}),
		node("cordoned", func(n *v1.Node) { n.Spec.Unschedulable = true }),
		node("down", func(n *v1.Node) { n.Status.Conditions[0].Status = v1.ConditionUnknown }),
		node("hdd", func(n *v1.Node) { n.Labels["disk"] = "hdd" }),
		node("tainted", func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: "gpu", Effect: v1.TaintEffectNoSchedule}} }),
		node("tolerated", func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: "edge", Effect: v1.TaintEffectNoSchedule}} }),
		node("soft", func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: "gpu", Effect: v1.TaintEffectPreferNoSchedule}} }),
	}}
	w := newWorld(t.Context(), c, "")
	if diff := cmp.Diff([]string{"ok", "soft", "tolerated"}, feasibleNames(w, []*v1.Pod{pod})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// The workload's own pods are drawn anew, so they take no room.
	pod.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("600m")
	w.room = nil
	if got := feasibleNames(w, []*v1.Pod{pod}); !slices.Contains(got, "ok") {
		t.Errorf("a workload has no room beside itself: %v", got)
	}
}

func TestDrawsKeepTheRules(t *testing.T) {
	var candidates []candidate
	for i := range 12 {
		candidates = append(candidates, candidate{node: int32(i), room: 2, domain: []int{i % 3}})
	}
	spread := newDrawer(candidates, []rule{{skew: 1, domains: 3}}, 1)
	seen := map[int]bool{}
	for range 200 {
		got := spread.draw(nil, 5)
		counts := [3]int{}
		nodes := map[int]bool{}
		for _, c := range got {
			counts[c%3]++
			nodes[c], seen[c] = true, true
		}
		if len(got) != 5 || len(nodes) != 5 || slices.Max(counts[:])-slices.Min(counts[:]) > 1 {
			t.Fatalf("drew %v: %v a zone", got, counts)
		}
	}
	if len(seen) != 12 {
		t.Errorf("only %d of 12 nodes were ever drawn", len(seen))
	}
	alone := newDrawer(candidates, []rule{{skew: math.MaxInt32, most: 1, domains: 3}}, 1)
	if got := alone.draw(nil, 5); len(got) != 3 {
		t.Errorf("anti-affinity over 3 zones, and %v have pods", got)
	}
	full := newDrawer(candidates[:2], nil, 1)
	full.candidates[0].domain, full.candidates[1].domain = nil, nil
	if got := full.draw(nil, 9); len(got) != 4 {
		t.Errorf("two nodes have room for two pods each, and %d were drawn", len(got))
	}
}

func TestRules(t *testing.T) {
	pod := podOf("app", 0, "")
	own, others := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "app"}}, &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
	pod.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{
		{MaxSkew: 2, TopologyKey: "zone", WhenUnsatisfiable: v1.DoNotSchedule, LabelSelector: own},
		{MaxSkew: 1, TopologyKey: "soft", WhenUnsatisfiable: v1.ScheduleAnyway, LabelSelector: own},
		{MaxSkew: 1, TopologyKey: "others", WhenUnsatisfiable: v1.DoNotSchedule, LabelSelector: others},
	}
	pod.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
		{TopologyKey: "host", LabelSelector: own}, {TopologyKey: "others", LabelSelector: others},
	}}}
	keys, rules := rulesOf(pod)
	if diff := cmp.Diff([]string{"zone", "host"}, keys); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]rule{{skew: 2}, {skew: math.MaxInt32, most: 1}}, rules, cmp.AllowUnexported(rule{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The curves agree with a count by hand: two clients, one pod, three nodes.
func TestCompareByHand(t *testing.T) {
	nodes := []*v1.Node{clitest.Node("a", "entry=true"), clitest.Node("b", "entry=true"), clitest.Node("c")}
	p := policyOf("app", 15_000_000)
	server := clitest.NewServer(t, p, podOf("app", 0, "c"), nodes[0], nodes[1], nodes[2],
		clitest.Latency("a", "b=10ms", "c=20ms"), clitest.Latency("b", "a=10ms", "c=30ms"), clitest.Latency("c", "a=20ms", "b=30ms"))
	r := reportOf(t, server)
	c := r.Comparisons[0]
	// Now: a waits 20 ms, b 30 ms. Random: 0.05 and 10, 10 and 0.05, 20 and 30: the mean of one in three is as large as now, never above.
	if c.Now.Median != "20ms" || c.Now.Tail != "30ms" || c.Now.Mean != "25ms" || c.SlowerPercent != 0 || c.Feasible != 3 || c.Draws != 1000 {
		t.Errorf("%+v", c)
	}
	if c.Random.Median != "10ms" || c.Random.Tail != "30ms" {
		t.Errorf("random: %+v", c.Random)
	}
	if p := r.Policies[0]; p.State != "Broken" || p.Entries[0].BrokenPairs != 2 || p.Worst.RTT.RTT != "30ms" {
		t.Errorf("%+v", p)
	}
}
