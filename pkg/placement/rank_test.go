// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fogsched/fogsched/pkg/latency"
)

// randomRow is a row of n nodes with these many unknown in a hundred.
func randomRow(rng *rand.Rand, n, unknown int, spread float64) *latency.Row {
	r := &latency.Row{RTT: make([]latency.RTT, n), Provenance: make([]latency.Provenance, n)}
	for i := range r.RTT {
		if rng.IntN(100) >= unknown {
			r.RTT[i], _ = latency.FromSeconds(0.0001 * math.Exp(spread*rng.Float64()))
			r.Provenance[i] = latency.Measured
		}
	}
	return r
}

func targetsOf(rng *rand.Rand, count, n, unknown int) []Target {
	ts := make([]Target, count)
	for i := range ts {
		ts[i] = Target{Row: randomRow(rng, n, unknown, 7), Node: int32(i), Mass: 1 + rng.Float32()}
	}
	return ts
}

func collect(r *Ranker) []int32 {
	var order []int32
	r.Ascending(func(n int32) bool { order = append(order, n); return true })
	return order
}

// Where all is known, the order is the Evaluator's.
func TestRankIsTheOrderOfTheCosts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var ev Evaluator
	var r Ranker
	for range 200 {
		n := 2 + rng.IntN(400)
		entries := []Entry{
			NewClientEntry(1+rng.Float32(), Any, targetsOf(rng, 1+rng.IntN(8), n, 0)),
			NewClientEntry(1+rng.Float32(), Nearest, targetsOf(rng, 1+rng.IntN(8), n, 0)),
			NewReplicaEntry(1+rng.Float32(), Nearest, targetsOf(rng, 1+rng.IntN(8), n, 0), []Peer{{Node: int32(rng.IntN(n)), Count: 1}}),
			NewReplicaEntry(1+rng.Float32(), Any, targetsOf(rng, 1+rng.IntN(8), n, 0), []Peer{{Node: int32(rng.IntN(n)), Count: 2}}),
		}
		entries = entries[rng.IntN(4):]
		candidates := make([]int32, n)
		for i := range candidates {
			candidates[i] = int32(i)
		}
		costs, _ := ev.Costs(nil, entries, candidates)
		if !r.Rank(entries, n) {
			t.Fatal("nothing is known")
		}
		order := collect(&r)
		if len(order) != n {
			t.Fatalf("%d of %d nodes are in the order", len(order), n)
		}
		for i := 1; i < n; i++ {
			if a, b := costs[order[i-1]].Micros, costs[order[i]].Micros; a > b*1.001 {
				t.Fatalf("node %d with cost %g is before node %d with %g", order[i-1], a, order[i], b)
			}
		}
	}
}

func TestRankOfTheUnknown(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	var r Ranker
	if r.Rank([]Entry{NewClientEntry(1, Any, targetsOf(rng, 3, 50, 100))}, 50) {
		t.Error("nothing is known, and there is an order")
	}
	if r.Rank(nil, 0) || len(collect(&r)) != 0 {
		t.Error("no nodes have an order")
	}
	// One node of a hundred is unknown: it is neither among the first nor among the last.
	row := randomRow(rng, 100, 0, 3)
	row.RTT[17] = latency.RTT{}
	r.Rank([]Entry{NewClientEntry(1, Any, []Target{{Row: row, Node: 0, Mass: 1}})}, 100)
	if at := slices.Index(collect(&r), 17); at < 30 || at > 70 {
		t.Errorf("a node of which nothing is known is number %d of 100", at)
	}
}

// Of many targets that some stand for, one that counts more than all others together decides, wherever in the list it is.
func TestRankOfOneTargetAboveAll(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	var r Ranker
	for _, count := range []int{maxRankColumns, maxRankColumns + 1, 256} {
		for heavy := 0; heavy < count; heavy += 7 {
			ts := targetsOf(rng, count, 300, 0)
			ts[heavy].Mass = 1e6
			r.Rank([]Entry{NewReplicaEntry(1, Any, ts, nil)}, 300)
			first := collect(&r)[0]
			nearer := 0
			own, _ := ts[heavy].Row.RTT[first].Micros()
			for _, rtt := range ts[heavy].Row.RTT {
				if us, _ := rtt.Micros(); us < own {
					nearer++
				}
			}
			if nearer > 3 {
				t.Errorf("target %d of %d counts for all, and %d nodes are nearer to it than the first one", heavy, count, nearer)
			}
		}
	}
}

// One node that is far away must not put all others into one bucket, nor equal ones out of order.
func TestAscending(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for name, value := range map[string]func(i int) float32{
		"all equal":        func(int) float32 { return 5 },
		"one is far off":   func(i int) float32 { return map[bool]float32{true: 1e9, false: 1 + rng.Float32()}[i == 3] },
		"eight decades":    func(int) float32 { return float32(math.Pow(10, 8*rng.Float64())) },
		"zeros":            func(i int) float32 { return float32(i % 2) },
		"the largest ones": func(i int) float32 { return math.MaxFloat32 / float32(1+i) },
	} {
		t.Run(name, func(t *testing.T) {
			r := Ranker{total: make([]float32, 1000)}
			want := make([]int32, 1000)
			for i := range r.total {
				r.total[i], want[i] = value(i), int32(i)
			}
			slices.SortFunc(want, func(a, b int32) int { return cmp.Or(cmp.Compare(r.total[a], r.total[b]), cmp.Compare(a, b)) })
			if got := collect(&r); !slices.Equal(got, want) {
				t.Error("the order is another than by sorting")
			}
		})
	}
}

func BenchmarkRank(b *testing.B) {
	for _, n := range []int{1000, 5000, 15000, 50000} {
		for _, targets := range []int{1, 10, 100} {
			for name, entry := range map[string]func([]Target) Entry{
				"any":     func(ts []Target) Entry { return NewClientEntry(1, Any, ts) },
				"nearest": func(ts []Target) Entry { return NewClientEntry(1, Nearest, ts) },
				"replica": func(ts []Target) Entry { return NewReplicaEntry(1, Nearest, ts, []Peer{{Node: 1, Count: 1}}) },
			} {
				b.Run(fmt.Sprintf("nodes=%d/targets=%d/%s", n, targets, name), func(b *testing.B) {
					entries := []Entry{entry(targetsOf(rand.New(rand.NewPCG(1, 1)), targets, n, 5))}
					var r Ranker
					r.Rank(entries, n)
					b.ReportAllocs()
					for b.Loop() {
						r.Rank(entries, n)
						left := 100
						r.Ascending(func(int32) bool { left--; return left > 0 })
					}
				})
			}
		}
	}
}
