// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

const (
	oneMetric   = "- {preset: cpu, limit: 0.9, whenUnsatisfiable: %[1]s}\n"
	fourMetrics = oneMetric + "- {preset: memory, limit: 0.9, whenUnsatisfiable: %[1]s}\n- {preset: disk-io}\n- {preset: network}\n"
)

// newBench is a cluster of n nodes of which a tenth has no values, with three pods on each that no sample has.
func newBench(b *testing.B, metrics, unsatisfiable string, n int) (*fixture, *v1.Pod) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	b.Helper()
	f := newFixture(b, fmt.Sprintf(metrics, unsatisfiable))
	rng := rand.New(rand.NewPCG(1, 1))
	answers := make([]answer, len(f.engine.metrics))
	for i := range answers {
		answers[i].values = &prometheus.NodeValues{Nodes: map[string]prometheus.NodeValue{}}
	}
	now := time.Now()
	for i := range n {
		name := fmt.Sprintf("node-%04d", i)
		f.addNode(makeNode(name, 10))
		for j := range 3 {
			f.engine.setPod(makePod(fmt.Sprintf("p-%d-%d", i, j)).request("cpu", "100m").node(name).obj())
		}
		for m := range answers {
			if rng.IntN(10) > 0 {
				answers[m].values.Nodes[name] = prometheus.NodeValue{Value: rng.Float64(), At: now}
			}
		}
	}
	f.engine.takeUp(context.Background(), answers)
	f.engine.build(now)
	return f, makePod("new").request("cpu", "250m").request("memory", "1Gi").obj()
}

func each(b *testing.B, run func(b *testing.B, metrics string, n int)) {
	for _, m := range []struct {
		count   int
		metrics string
	}{{1, oneMetric}, {4, fourMetrics}} {
		for _, n := range []int{1000, 5000} {
			b.Run(fmt.Sprintf("metrics=%d/nodes=%d", m.count, n), func(b *testing.B) { run(b, m.metrics, n) })
		}
	}
}

// BenchmarkScore is one node's Score: ns/op is ns a node.
func BenchmarkScore(b *testing.B) {
	each(b, func(b *testing.B, metrics string, n int) {
		f, pod := newBench(b, metrics, "ScheduleAnyway", n)
		ctx, c := context.Background(), fwk.CycleState(&cycleState{})
		if status := f.plugin.PreScore(ctx, c, pod, f.infos); !status.IsSuccess() {
			b.Fatal(status)
		}
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			if _, status := f.plugin.Score(ctx, c, pod, f.infos[i]); status != nil {
				b.Fatal(status)
			}
			if i++; i == len(f.infos) {
				i = 0
			}
		}
	})
}

// BenchmarkFilter is one node's Filter, with limits that a tenth of the nodes is beyond.
func BenchmarkFilter(b *testing.B) {
	each(b, func(b *testing.B, metrics string, n int) {
		f, pod := newBench(b, metrics, "DoNotSchedule", n)
		ctx, c := context.Background(), fwk.CycleState(&cycleState{})
		if _, status := f.plugin.PreFilter(ctx, c, pod, f.infos); !status.IsSuccess() {
			b.Fatal(status)
		}
		i, kept := 0, 0
		b.ReportAllocs()
		for b.Loop() {
			if f.plugin.Filter(ctx, c, pod, f.infos[i]).IsSuccess() {
				kept++
			}
			if i++; i == len(f.infos) {
				i = 0
			}
		}
		b.ReportMetric(float64(kept)/float64(b.N), "kept/op")
	})
}

// BenchmarkPreFilter is one pod's PreFilter where no limit excludes nodes, and where one does.
func BenchmarkPreFilter(b *testing.B) {
	for _, unsatisfiable := range []string{"ScheduleAnyway", "DoNotSchedule"} {
		b.Run(unsatisfiable, func(b *testing.B) {
			f, pod := newBench(b, fourMetrics, unsatisfiable, 5000)
			ctx, c := context.Background(), fwk.CycleState(&cycleState{})
			b.ReportAllocs()
			for b.Loop() {
				f.plugin.PreFilter(ctx, c, pod, f.infos)
			}
		})
	}
}

// BenchmarkPreScore is one pod's PreScore over all nodes, from which ns/node comes.
func BenchmarkPreScore(b *testing.B) {
	each(b, func(b *testing.B, metrics string, n int) {
		f, pod := newBench(b, metrics, "ScheduleAnyway", n)
		ctx := context.Background()
		b.ReportAllocs()
		for b.Loop() {
			cycle := &cycleState{}
			if status := f.plugin.PreScore(ctx, cycle, pod, f.infos); !status.IsSuccess() {
				b.Fatal(status)
			}
			f.plugin.NormalizeScore(ctx, cycle, pod, nil) // gives the table back, as a cycle does
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/node")
	})
}

// BenchmarkReserve is one pod's Reserve and Unreserve.
func BenchmarkReserve(b *testing.B) {
	f, pod := newBench(b, fourMetrics, "ScheduleAnyway", 5000)
	ctx, c := context.Background(), fwk.CycleState(&cycleState{})
	b.ReportAllocs()
	for b.Loop() {
		f.plugin.Reserve(ctx, c, pod, "node-0001")
		f.plugin.Unreserve(ctx, c, pod, "node-0001")
	}
}

// BenchmarkBuild is a new snapshot.
func BenchmarkBuild(b *testing.B) {
	f, _ := newBench(b, fourMetrics, "ScheduleAnyway", 5000)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		f.engine.build(now)
	}
}
