// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	fwk "k8s.io/kube-scheduler/framework"
)

// amounts are a node's resources, or those that its pods ask for. What it does not override must not be used.
type amounts struct {
	fwk.Resource
	milliCPU, memory int64
	pods             int
	scalar           map[v1.ResourceName]int64
}

func (a *amounts) GetMilliCPU() int64                            { return a.milliCPU }
func (a *amounts) GetMemory() int64                              { return a.memory }
func (a *amounts) GetAllowedPodNumber() int                      { return a.pods }
func (a *amounts) GetScalarResources() map[v1.ResourceName]int64 { return a.scalar }

type sizedNode struct {
	nodeInfo
	has, used amounts
	pods      []fwk.PodInfo
}

func (n *sizedNode) GetAllocatable() fwk.Resource { return &n.has }
func (n *sizedNode) GetRequested() fwk.Resource   { return &n.used }
func (n *sizedNode) GetPods() []fwk.PodInfo       { return n.pods }

func TestRoom(t *testing.T) {
	const gpu = "example.com/gpu"
	asks := func(list v1.ResourceList) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Containers = []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: list}}}
		}
	}
	one := resource.MustParse("1")
	tests := map[string]struct {
		pod      func(*v1.Pod)
		node     func(*sizedNode)
		wantRoom bool
	}{
		"a pod that asks for nothing": {wantRoom: true},
		"CPU that is left":            {pod: asks(v1.ResourceList{"cpu": one}), wantRoom: true},
		"more CPU than is left":       {pod: asks(v1.ResourceList{"cpu": resource.MustParse("1001m")})},
		"more CPU than can be added":  {pod: asks(v1.ResourceList{"cpu": resource.MustParse("9223372036854775807m")})},
		"more memory than is left":    {pod: asks(v1.ResourceList{"memory": resource.MustParse("2Gi")})},
		"more memory than can be":     {pod: asks(v1.ResourceList{"memory": resource.MustParse("9223372036854775807")})},
		"CPU that is left for two containers": {pod: func(p *v1.Pod) {
			half := v1.Container{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("512Mi")}}}
			p.Spec.Containers = []v1.Container{half, half}
		}, wantRoom: true},
		"more memory than is left for two containers": {pod: func(p *v1.Pod) {
			c := v1.Container{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"memory": resource.MustParse("513Mi")}}}
			p.Spec.Containers = []v1.Container{c, c}
		}},
		"more CPU than is left for an init container": {pod: func(p *v1.Pod) {
			p.Spec.InitContainers = []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"cpu": resource.MustParse("1001m")}}}}
		}},
		"more CPU than is left, with its overhead": {pod: func(p *v1.Pod) {
			asks(v1.ResourceList{"cpu": one})(p)
			p.Spec.Overhead = v1.ResourceList{"cpu": resource.MustParse("1m")}
		}},
		"a device that it has":      {pod: asks(v1.ResourceList{gpu: one}), node: func(n *sizedNode) { n.has.scalar = map[v1.ResourceName]int64{gpu: 1} }, wantRoom: true},
		"a device that it has not":  {pod: asks(v1.ResourceList{gpu: one})},
		"none of a device":          {pod: asks(v1.ResourceList{gpu: resource.MustParse("0")}), wantRoom: true},
		"a device that another has": {pod: asks(v1.ResourceList{gpu: one}), node: func(n *sizedNode) { n.has.scalar = map[v1.ResourceName]int64{gpu: 1}; n.used.scalar = n.has.scalar }},
		"as many pods as it takes":  {node: func(n *sizedNode) { n.pods = make([]fwk.PodInfo, 2) }},
		"a node that takes no pods": {node: func(n *sizedNode) { n.node.Spec.Unschedulable = true }},
		"a taint":                   {node: func(n *sizedNode) { n.node.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoExecute}} }},
		"a taint that prefers": {node: func(n *sizedNode) {
			n.node.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectPreferNoSchedule}}
		}, wantRoom: true},
		"a taint that it tolerates": {
			pod:  func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Key: "k", Operator: v1.TolerationOpExists}} },
			node: func(n *sizedNode) { n.node.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}} }, wantRoom: true,
		},
		"a label that it wants":     {pod: func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"name": "n"} }, wantRoom: true},
		"a label that it wants not": {pod: func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"name": "m"} }},
		"a node that is gone":       {node: func(n *sizedNode) { n.node = nil }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pod := makePod("p").obj()
			n := &sizedNode{
				nodeInfo: nodeInfo{node: makeNode("n", map[string]string{"name": "n"})},
				has:      amounts{milliCPU: 4000, memory: 4 << 30, pods: 2}, used: amounts{milliCPU: 3000, memory: 3 << 30},
			}
			if tt.pod != nil {
				tt.pod(pod)
			}
			if tt.node != nil {
				tt.node(n)
			}
			r := newRoom(pod)
			if got := r.fits(n); got != tt.wantRoom {
				t.Errorf("there is room: %t, want %t", got, tt.wantRoom)
			}
		})
	}
}

// TestNarrowPastFullNodes fills the nearest nodes of 5,000, a hundred at a time. The pod is handed the next ones, farther than the order that is
// remembered, until a quarter of the cluster is full.
func TestNarrowPastFullNodes(t *testing.T) {
	const nodes, candidates = 5000, 100
	b := sized(t, nodes, 10, "ScheduleAnyway")
	p := narrowing100(b)
	lister := p.handle.(*handleWithNodes).nodes
	last := 0.0
	for full := 0; ; full += candidates {
		state := &cycleState{}
		r, _ := p.PreFilter(t.Context(), state, b.pod, b.infos)
		if full > nodes/patienceShare-candidates/enoughShare {
			if r != nil {
				t.Errorf("with %d nodes full the pod is narrowed to %d", full, len(r.NodeNames))
			}
			return
		}
		want := min(candidates, nodes/patienceShare-full)
		if r == nil || len(r.NodeNames) != want {
			t.Fatalf("with %d nodes full: %v, want %d nodes", full, r, want)
		}
		infos := make([]fwk.NodeInfo, 0, want)
		for name := range r.NodeNames {
			if _, ok := lister.infos[name].(*fullNode); ok {
				t.Fatalf("node %s is full", name)
			}
			infos = append(infos, lister.infos[name])
			lister.infos[name] = &fullNode{lister.infos[name]}
		}
		if status := p.PreScore(t.Context(), state, b.pod, infos); !status.IsSuccess() {
			t.Fatal(status)
		}
		mean := 0.0
		for _, ni := range infos {
			cost, _ := p.Score(t.Context(), state, b.pod, ni)
			mean += float64(cost) / float64(want)
		}
		if mean < 0.95*last { // the order is rough
			t.Errorf("with %d nodes full the next cost %.0f, those before %.0f", full, mean, last)
		}
		last = mean
	}
}

// fullNode has no room for another pod.
type fullNode struct{ fwk.NodeInfo }

func (*fullNode) GetAllocatable() fwk.Resource { return roomyResource{amount: 0} }
