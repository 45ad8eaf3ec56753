// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/latency"
)

// bench is a cluster of n nodes with k measured peers each and a pod with ten target nodes: a dependency on five servers with
// a limit, and clients on five nodes beside two peers.
type bench struct {
	*fixture
	pod   *v1.Pod
	infos []fwk.NodeInfo
}

// quiet keeps log lines out of the figures, which benchstat could not read otherwise.
func quiet() {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
}

func newBench(b *testing.B, n int, unsatisfiable string) *bench {
	quiet()
	b.Helper()
	f := newFixture(b, map[string]float64{})
	e := f.plugin.engine
	rng := rand.New(rand.NewPCG(1, 1))
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("node-%04d", i)
		labels := map[string]string{"zone": fmt.Sprint(i % 20)}
		if i%(n/5) == 0 {
			labels["gateway"] = "true"
		}
		e.setNode(makeNode(names[i], labels))
	}
	sink := e.store.Sink("bench")
	now := time.Now()
	targets := []int{1, n / 7, n / 3, n / 2, n - 1, 0, n / 5, 2 * (n / 5), 3 * (n / 5), 4 * (n / 5)}
	for i, from := range names {
		var samples []latency.Sample
		measure := func(to int) {
			ms := 1 + 100*rng.Float64()
			samples = append(samples, latency.Sample{From: from, To: names[to], Typical: ms / 1000, Tail: ms / 500, Count: 10, At: now})
		}
		for range 16 {
			measure(rng.IntN(n))
		}
		if i%10 != 0 { // a tenth of the nodes knows only chance peers
			for _, to := range targets {
				measure(to)
			}
		}
		sink(from, latency.Report{Samples: slices.DeleteFunc(samples, func(s latency.Sample) bool { return s.To == from })})
	}
	f.refresh()
	e.index.SetService(makeService("redis", "redis"))
	f.place("redis", names[1], names[n/7], names[n/3], names[n/2], names[n-1])
	f.policy("web", "web", `{"dependencies":[{"service":"redis","limit":"80ms"}],"clients":[{"nodes":{"matchLabels":{"gateway":"true"}}}],"whenUnsatisfiable":"`+unsatisfiable+`"}`)
	f.place("web", names[2], names[3])
	bb := &bench{fixture: f, pod: makePod("new").app("web").obj()}
	for _, name := range names {
		bb.infos = append(bb.infos, &nodeInfo{node: makeNode(name, nil)})
	}
	return bb
}

// cycle is a cycle that went through PreFilter, and PreScore over the first so many candidates.
func (b *bench) cycle(tb *testing.B, candidates int) fwk.CycleState {
	tb.Helper()
	c := &cycleState{}
	if _, status := b.plugin.PreFilter(context.Background(), c, b.pod, b.infos); !status.IsSuccess() && !status.IsSkip() {
		tb.Fatal(status)
	}
	if candidates > 0 {
		if status := b.plugin.PreScore(context.Background(), c, b.pod, b.infos[:candidates]); !status.IsSuccess() {
			tb.Fatal(status)
		}
		if s := b.plugin.read(c); len(slices.Collect(allTargets(s))) != 10 {
			tb.Fatalf("the pod has %d targets, want 10", len(slices.Collect(allTargets(s))))
		}
	}
	return c
}

func allTargets(s *state) func(yield func(int32) bool) {
	return func(yield func(int32) bool) {
		for i := range s.entries {
			for _, n := range s.entries[i].Targets() {
				if !yield(n) {
					return
				}
			}
		}
	}
}

// idle is a plugin whose Score does nothing: what the call and the benchmark's own loop take.
type idle struct{ score int64 }

//go:noinline
func (s *idle) Score(context.Context, fwk.CycleState, *v1.Pod, fwk.NodeInfo) (int64, *fwk.Status) {
	return s.score, nil
}

// BenchmarkScore is one node's Score at 5,000 nodes and 10 targets: ns/op is ns a node. Some 3 to 4 of them are the call and the
// benchmark's loop, which is what the case nothing shows.
func BenchmarkScore(b *testing.B) {
	b.Run("nothing", func(b *testing.B) {
		bb := newBench(b, 5000, "ScheduleAnyway")
		c := bb.cycle(b, 500)
		infos := bb.infos[:500]
		ctx := context.Background()
		plugin := &idle{}
		i := 0
		for b.Loop() {
			if _, status := plugin.Score(ctx, c, bb.pod, infos[i]); status != nil {
				b.Fatal(status)
			}
			if i++; i == len(infos) {
				i = 0
			}
		}
	})
	for _, candidates := range []int{100, 500, 5000} { // narrowed, what the framework takes, all
		b.Run(fmt.Sprintf("candidates=%d", candidates), func(b *testing.B) {
			bb := newBench(b, 5000, "ScheduleAnyway")
			c := bb.cycle(b, candidates)
			infos := bb.infos[:candidates]
			ctx := context.Background()
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if _, status := bb.plugin.Score(ctx, c, bb.pod, infos[i]); status != nil {
					b.Fatal(status)
				}
				if i++; i == len(infos) {
					i = 0
				}
			}
		})
	}
}

// BenchmarkFilter is one node's Filter at 5,000 nodes and 5 limited targets.
func BenchmarkFilter(b *testing.B) {
	bb := newBench(b, 5000, "DoNotSchedule")
	c := bb.cycle(b, 0)
	ctx := context.Background()
	i, kept := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		if bb.plugin.Filter(ctx, c, bb.pod, bb.infos[i]).IsSuccess() {
			kept++
		}
		if i++; i == len(bb.infos) {
			i = 0
		}
	}
	b.ReportMetric(float64(kept)/float64(b.N), "kept/op")
}

func BenchmarkPreFilter(b *testing.B) {
	bb := newBench(b, 5000, "DoNotSchedule")
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		bb.plugin.PreFilter(ctx, &cycleState{}, bb.pod, bb.infos)
	}
}

func BenchmarkPreScore(b *testing.B) {
	for _, candidates := range []int{500, 5000} {
		b.Run(fmt.Sprintf("candidates=%d", candidates), func(b *testing.B) {
			bb := newBench(b, 5000, "ScheduleAnyway")
			c := bb.cycle(b, candidates)
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				bb.plugin.PreScore(ctx, c, bb.pod, bb.infos[:candidates])
				bb.plugin.NormalizeScore(ctx, c, bb.pod, nil) // gives the table back
			}
		})
	}
}

// BenchmarkNoIntent is all that a pod without an intent pays in one cycle, with 400 policies for other pods in its namespace.
func BenchmarkNoIntent(b *testing.B) {
	quiet()
	f := newFixture(b, map[string]float64{"a": 0, "b": 10})
	for i := range 400 {
		f.plugin.engine.index.SetService(makeService(fmt.Sprintf("svc-%d", i), fmt.Sprintf("server-%d", i)))
		f.policy(fmt.Sprintf("p-%d", i), fmt.Sprintf("app-%d", i), fmt.Sprintf(`{"dependencies":[{"service":"svc-%d"}]}`, i))
	}
	pod := makePod("plain").app("plain").revision("plain", "5d8f9c7b6").obj()
	for _, k := range []string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "tier"} {
		pod.Labels[k] = "plain"
	}
	ctx := context.Background()
	c := &cycleState{}
	infos := f.nodeInfos("a", "b")
	f.plugin.SignPod(ctx, pod)
	b.ReportAllocs()
	for b.Loop() {
		f.plugin.SignPod(ctx, pod)
		if _, status := f.plugin.PreFilter(ctx, c, pod, infos); !status.IsSkip() {
			b.Fatal(status)
		}
		if status := f.plugin.PreScore(ctx, c, pod, infos); !status.IsSkip() {
			b.Fatal(status)
		}
		f.plugin.Reserve(ctx, c, pod, "a")
		// Not the plugin's, and not in the bar: the next round must find the pod new, as a real one is.
		f.plugin.engine.index.DeletePod(pod.UID)
	}
}
