// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/source/zones"
)

// plane has n nodes on a plane 100 ms wide, in zones of 50, each of which measured k others, half of them in its own zone, and 10
// nodes that all measure.
type plane struct {
	x, y  []float64
	peers [][]int32
	names []string
	rng   *rand.Rand
}

func newPlane(n, k int) *plane {
	p := &plane{x: make([]float64, n), y: make([]float64, n), peers: make([][]int32, n), names: make([]string, n), rng: rand.New(rand.NewPCG(1, uint64(n)))}
	for i := range n {
		p.names[i] = fmt.Sprintf("node-%05d", i)
		if i%50 == 0 {
			p.x[i], p.y[i] = 0.1*p.rng.Float64(), 0.1*p.rng.Float64()
		} else {
			p.x[i], p.y[i] = p.x[i-1]+0.002*p.rng.Float64(), p.y[i-1]+0.002*p.rng.Float64()
		}
	}
	for i := range n {
		for t := range 10 {
			p.measures(i, t*n/10)
		}
		for len(p.peers[i]) < k+10 {
			j := p.rng.IntN(n)
			if len(p.peers[i])%2 == 0 {
				j = min(i/50*50+p.rng.IntN(50), n-1)
			}
			p.measures(i, j)
		}
	}
	return p
}

func (p *plane) measures(i, j int) {
	if i != j && !slices.Contains(p.peers[i], int32(j)) {
		p.peers[i] = append(p.peers[i], int32(j))
	} else if j%(len(p.x)/10) == 0 { // of interest: itself, or had already
		p.peers[i] = append(p.peers[i], int32((i+len(p.peers[i])*7+1)%len(p.x)))
		slices.Sort(p.peers[i])
		p.peers[i] = slices.Compact(p.peers[i])
	}
}

func (p *plane) report(i int, now time.Time) latency.Report {
	c := latency.CoordinateFromSeconds([]float64{p.x[i], p.y[i], 0, 0, 0, 0, 0, 0}, 0.0005, 0, 0.2)
	r := latency.Report{Coordinate: &c, Refresh: 8 * time.Minute, Samples: make([]latency.Sample, len(p.peers[i]))}
	for k, j := range p.peers[i] {
		s := (0.001 + math.Hypot(p.x[i]-p.x[j], p.y[i]-p.y[j])) * (1 + 0.05*p.rng.Float64())
		r.Samples[k] = latency.Sample{From: p.names[i], To: p.names[j], Typical: s, Tail: 1.5 * s, At: now, Count: 10}
	}
	return r
}

func (p *plane) store(tb testing.TB, now time.Time, positions bool) *Store {
	tb.Helper()
	s := New(DefaultMaxAge, nil)
	for i, n := range p.names {
		position := ""
		if positions {
			position = fmt.Sprintf("%f,%f", 10*p.y[i], 10*p.x[i])
		}
		s.SetNode(n, zones.Location{Zone: fmt.Sprint(i / 50)}, position)
	}
	for i, n := range p.names {
		s.Take("bench", n, p.report(i, now), now)
	}
	return s
}

// BenchmarkBuild is what a new snapshot costs after 30 nodes reported, with so many rows in use. A node has 26 measured peers: 16 that its prober
// selects, and 10 nodes of interest to all; with peers=16 it has 16 in all.
func BenchmarkBuild(b *testing.B) {
	const ofInterest, selected = 10, 16
	for _, n := range []int{1000, 5000, 15000} {
		for _, rows := range []int{10, 200} {
			b.Run(fmt.Sprintf("nodes=%d/rows=%d", n, rows), func(b *testing.B) { build(b, newPlane(n, selected), rows) })
		}
	}
	b.Run("nodes=15000/rows=200/peers=16", func(b *testing.B) { build(b, newPlane(15000, selected-ofInterest), 200) })
}

func build(b *testing.B, p *plane, rows int) {
	ctx := klog.NewContext(b.Context(), logr.Discard())
	now := time.Now()
	n := len(p.names)
	s := p.store(b, now, true)
	s.Build(ctx, now)
	next := 0
	b.ReportAllocs()
	var spent time.Duration
	for b.Loop() {
		b.StopTimer()
		for range 30 {
			next = (next + 7919) % n
			s.Take("bench", p.names[next], p.report(next, now), now)
		}
		snap := s.Snapshot()
		for r := range rows {
			snap.Row(int32(r*(n/rows)), latency.Direction(r%2), latency.Typical)
		}
		before := cpu(b)
		b.StartTimer()
		s.Build(ctx, now)
		spent += cpu(b) - before
	}
	// On a machine that others use too, only this says what it costs.
	b.ReportMetric(float64(spent.Milliseconds())/float64(b.N), "cpu-ms/op")
}

// BenchmarkTake is what one report costs.
func BenchmarkTake(b *testing.B) {
	now := time.Now()
	p := newPlane(5000, 16)
	s := p.store(b, now, false)
	r := p.report(7, now)
	b.ReportAllocs()
	for b.Loop() {
		s.Take("bench", p.names[7], r, now)
	}
}

// BenchmarkMemory reports what a node takes up in store and snapshot with 16 measured peers, 200 rows that narrowing has read included.
func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{1000, 5000, 15000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			ctx := klog.NewContext(b.Context(), logr.Discard())
			now := time.Now()
			p := newPlane(n, 6) // and 10 that all measure
			for b.Loop() {
				before := heap()
				s := p.store(b, now, true)
				s.Build(ctx, now)
				for r := range 200 {
					s.Snapshot().Row(int32(r*(n/200)), latency.ToTarget, latency.Typical).Dense()
				}
				b.ReportMetric(float64(heap()-before)/float64(n), "bytes/node")
				runtime.KeepAlive(s)
			}
		})
	}
}

// cpu is the time that the process spent on all cores.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
