// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	fwk "k8s.io/kube-scheduler/framework"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
)

// sized is a cluster of so many nodes, each of which measured 16 others and all of the targets: the nodes of the servers that the pod depends on,
// with a limit.
func sized(b testing.TB, nodes, targets int, unsatisfiable string) *bench {
	quiet()
	b.Helper()
	f := newFixture(b, map[string]float64{})
	e := f.plugin.engine
	rng := rand.New(rand.NewPCG(1, 1))
	names := make([]string, nodes)
	for i := range names {
		names[i] = fmt.Sprintf("node-%05d", i)
		e.setNode(makeNode(names[i], nil))
	}
	at := rng.Perm(nodes)[:targets]
	servers := make([]string, targets)
	for i, n := range at {
		servers[i] = names[n]
	}
	sink := e.store.Sink("bench")
	now := time.Now()
	for i, from := range names {
		samples := make([]latency.Sample, 0, 16+targets)
		measure := func(to int) {
			if to != i {
				ms := 1 + 100*rng.Float64()
				samples = append(samples, latency.Sample{From: from, To: names[to], Typical: ms / 1000, Tail: ms / 500, Count: 10, At: now})
			}
		}
		for range 16 {
			measure(rng.IntN(nodes))
		}
		for _, to := range at {
			measure(to)
		}
		sink(from, latency.Report{Samples: samples})
	}
	f.refresh()
	e.index.SetService(makeService("redis", "redis"))
	f.place("redis", servers...)
	f.policy("web", "web", `{"dependencies":[{"service":"redis","limit":"80ms"}],"whenUnsatisfiable":"`+unsatisfiable+`"}`)
	bb := &bench{fixture: f, pod: makePod("new").app("web").obj()}
	bb.pod.Spec.Containers = []v1.Container{{Name: "web", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("128Mi"),
	}}}}
	for _, name := range names {
		bb.infos = append(bb.infos, &nodeInfo{node: makeNode(name, nil)})
	}
	return bb
}

// BenchmarkSizes has each extension point, at 1,000 to 50,000 nodes and 1 to 100 target nodes. Score, Filter: a node. The others: a pod;
// PreScore and NormalizeScore with 500 candidates, which is what the framework scores of 5,000 nodes.
func BenchmarkSizes(b *testing.B) {
	ctx := context.Background()
	const candidates = 500
	for _, nodes := range []int{1000, 5000, 15000, 50000} {
		for _, targets := range []int{1, 10, 100} {
			size := fmt.Sprintf("nodes=%d/targets=%d", nodes, targets)
			b.Run(size, func(b *testing.B) {
				soft := sized(b, nodes, targets, "ScheduleAnyway")
				infos := soft.infos[:candidates]
				b.Run("PreFilter", func(b *testing.B) {
					soft.cycle1(b, infos)
					b.ReportAllocs()
					for b.Loop() {
						soft.plugin.PreFilter(ctx, &cycleState{}, soft.pod, soft.infos)
					}
				})
				for name, remember := range map[string]*orders{"PreFilter+narrowing": {}, "PreFilter+ranking": nil} { // the order is known, or is not
					b.Run(name, func(b *testing.B) {
						narrowed := narrowing100(soft)
						narrowed.engine.narrowing.orders = remember
						for range 2 {
							if r, _ := narrowed.PreFilter(ctx, &cycleState{}, soft.pod, soft.infos); len(r.NodeNames) != 100 {
								b.Fatalf("%d nodes are left, want 100", len(r.NodeNames))
							}
						}
						b.ReportAllocs()
						for b.Loop() {
							narrowed.PreFilter(ctx, &cycleState{}, soft.pod, soft.infos)
						}
					})
				}
				b.Run("PreScore", func(b *testing.B) {
					c := soft.cycle1(b, infos)
					b.ReportAllocs()
					for b.Loop() {
						soft.plugin.PreScore(ctx, c, soft.pod, infos)
						soft.plugin.NormalizeScore(ctx, c, soft.pod, nil) // gives the table back
					}
				})
				b.Run("Score", func(b *testing.B) {
					c := soft.cycle1(b, infos)
					i := 0
					b.ReportAllocs()
					for b.Loop() {
						soft.plugin.Score(ctx, c, soft.pod, infos[i])
						if i++; i == candidates {
							i = 0
						}
					}
				})
				b.Run("NormalizeScore", func(b *testing.B) {
					c := soft.cycle1(b, infos)
					costs := make(fwk.NodeScoreList, candidates)
					for i, ni := range infos {
						costs[i].Score, _ = soft.plugin.Score(ctx, c, soft.pod, ni)
					}
					scores := make(fwk.NodeScoreList, candidates)
					b.ReportAllocs()
					for b.Loop() {
						copy(scores, costs)
						soft.plugin.NormalizeScore(ctx, c, soft.pod, scores)
					}
				})
				soft = nil
				hard := sized(b, nodes, targets, "DoNotSchedule")
				b.Run("Filter", func(b *testing.B) {
					c := &cycleState{}
					hard.plugin.PreFilter(ctx, c, hard.pod, hard.infos)
					i := 0
					b.ReportAllocs()
					for b.Loop() {
						hard.plugin.Filter(ctx, c, hard.pod, hard.infos[i])
						if i++; i == len(hard.infos) {
							i = 0
						}
					}
				})
				b.Run("Index", func(b *testing.B) { // a pod of the servers comes and goes
					pod := makePod("one-more").app("redis").node("node-00007").obj()
					b.ReportAllocs()
					for b.Loop() {
						hard.plugin.engine.setPod(pod)
						hard.plugin.engine.index.DeletePod(pod.UID)
					}
				})
				b.Run("Policy", func(b *testing.B) { // a policy changes
					p := hard.plugin.engine.catalog.allPolicies()[nn("default", "web")]
					object := &v1alpha1.LatencyPolicy{}
					object.Namespace, object.Name = "default", "web"
					if err := yaml.UnmarshalStrict([]byte(`{"dependencies":[{"service":"redis","limit":"80ms"}]}`), &object.Spec); err != nil {
						b.Fatal(err)
					}
					object.Spec.Selector.MatchLabels = map[string]string{"app": "web"}
					object.Generation = p.generation
					b.ReportAllocs()
					for b.Loop() {
						object.Generation++
						hard.plugin.engine.catalog.setPolicy(ctx, object)
						hard.plugin.engine.catalog.view()
					}
				})
			})
		}
	}
}

// BenchmarkPastFull is PreFilter with narrowing to 100 of 5,000 nodes where so many of the nearest have no room: none, as many as the
// remembered order has beyond the 100, more than it has, so that all nodes are ranked again, and all, so that the pod is not narrowed.
func BenchmarkPastFull(b *testing.B) {
	const nodes = 5000
	bb := sized(b, nodes, 10, "ScheduleAnyway")
	for _, full := range []int{0, 700, 1100, nodes} {
		b.Run(fmt.Sprintf("full=%d", full), func(b *testing.B) {
			ctx := context.Background()
			p := narrowing100(bb)
			p.engine.narrowing.orders = &orders{}
			all := p.handle.(*handleWithNodes).nodes.infos
			want := p.candidates
			if full == nodes {
				want = 0
				for _, ni := range all {
					ni.(*roomyNode).full = true
				}
			}
			for n := 0; n < full && want > 0; n += p.candidates {
				nearest, _ := p.PreFilter(ctx, &cycleState{}, bb.pod, bb.infos)
				for name := range nearest.NodeNames {
					all[name].(*roomyNode).full = true
				}
			}
			for range 2 { // the order is remembered when it is asked for again
				left := 0
				if r, _ := p.PreFilter(ctx, &cycleState{}, bb.pod, bb.infos); r != nil {
					left = len(r.NodeNames)
				}
				if left != want {
					b.Fatalf("narrowed to %d nodes, want %d", left, want)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				p.PreFilter(ctx, &cycleState{}, bb.pod, bb.infos)
			}
		})
	}
}

// cycle1 is a cycle that went through PreFilter and PreScore.
func (b *bench) cycle1(tb testing.TB, infos []fwk.NodeInfo) fwk.CycleState {
	tb.Helper()
	c := &cycleState{}
	b.plugin.PreFilter(context.Background(), c, b.pod, b.infos)
	if status := b.plugin.PreScore(context.Background(), c, b.pod, infos); !status.IsSuccess() {
		tb.Fatal(status)
	}
	return c
}

// narrowing100 is the plugin, on the same data, as it narrows to 100 nodes; all nodes have room until they are made full.
func narrowing100(b *bench) *NodeLatency {
	nodes := &roomyNodes{infos: map[string]fwk.NodeInfo{}}
	for _, ni := range b.infos {
		nodes.infos[ni.Node().Name] = &roomyNode{NodeInfo: ni}
	}
	p := newPlugin(&handleWithNodes{b.handle, nodes}, b.plugin.engine)
	p.candidates = 100
	p.postFilters = func(fwk.Handle) []string { return []string{Name} }
	return p
}

// handleWithNodes gives the plugin the nodes of the snapshot. What these do not override must not be used.
type handleWithNodes struct {
	*handle
	nodes *roomyNodes
}

func (h *handleWithNodes) SnapshotSharedLister() fwk.SharedLister { return h.nodes }

type roomyNodes struct {
	fwk.SharedLister
	fwk.NodeInfoLister
	infos map[string]fwk.NodeInfo
}

func (n *roomyNodes) NodeInfos() fwk.NodeInfoLister { return n }

func (n *roomyNodes) Get(name string) (fwk.NodeInfo, error) {
	if ni, ok := n.infos[name]; ok {
		return ni, nil
	}
	return nil, fmt.Errorf("no node %s", name)
}

type roomyNode struct {
	fwk.NodeInfo
	full bool
}

func (n *roomyNode) GetAllocatable() fwk.Resource {
	if n.full {
		return roomyResource{}
	}
	return roomyResource{amount: 1 << 40}
}
func (*roomyNode) GetRequested() fwk.Resource { return roomyResource{} }
func (*roomyNode) GetPods() []fwk.PodInfo     { return nil }

type roomyResource struct {
	fwk.Resource
	amount int64
}

func (r roomyResource) GetMilliCPU() int64       { return r.amount }
func (r roomyResource) GetMemory() int64         { return r.amount }
func (r roomyResource) GetAllowedPodNumber() int { return int(r.amount) }
