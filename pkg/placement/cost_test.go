// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fogsched/fogsched/pkg/latency"
)

// world is what the tests know of the distances: micros[a][b] is the RTT from a to b, 0 where it is unknown.
type world struct{ micros [][]float64 }

func (w *world) size() int { return len(w.micros) }

// row is a row as a snapshot would give it.
func (w *world) row(target int, d latency.Direction) *latency.Row {
	r := &latency.Row{RTT: make([]latency.RTT, w.size()), Provenance: make([]latency.Provenance, w.size())}
	for i := range r.RTT {
		us := w.micros[i][target]
		if d == latency.FromTarget {
			us = w.micros[target][i]
		}
		if us > 0 {
			r.RTT[i], _ = latency.FromSeconds(us / 1e6)
			r.Provenance[i] = latency.Measured
		}
	}
	return r
}

func (w *world) clone() *world {
	c := &world{}
	for _, row := range w.micros {
		c.micros = append(c.micros, slices.Clone(row))
	}
	return c
}

// permuted is the same world with other numbers: node i is called perm[i].
func (w *world) permuted(perm []int) *world {
	c := w.clone()
	for a := range w.micros {
		for b := range w.micros {
			c.micros[perm[a]][perm[b]] = w.micros[a][b]
		}
	}
	return c
}

// wish is an entry as the documentation describes it.
type wish struct {
	replica bool // else it is a client
	routing Routing
	weight  float32
	targets []weighed
	peers   []weighed
}

type weighed struct {
	node int
	mass float32
}

func (x *wish) permuted(perm []int) wish {
	c := *x
	c.targets, c.peers = slices.Clone(x.targets), slices.Clone(x.peers)
	for i := range c.targets {
		c.targets[i].node = perm[c.targets[i].node]
	}
	for i := range c.peers {
		c.peers[i].node = perm[c.peers[i].node]
	}
	return c
}

// entry is the wish as the product makes it.
func (x *wish) entry(w *world) Entry {
	d := latency.ToTarget
	if x.replica {
		d = latency.FromTarget
	}
	var ts []Target
	for _, t := range x.targets {
		ts = append(ts, Target{Row: w.row(t.node, d), Node: int32(t.node), Mass: t.mass})
	}
	if !x.replica {
		return NewClientEntry(x.weight, x.routing, ts)
	}
	var ps []Peer
	for _, p := range x.peers {
		ps = append(ps, Peer{Node: int32(p.node), Count: p.mass})
	}
	return NewReplicaEntry(x.weight, x.routing, ts, ps)
}

func entries(wishes []wish, w *world) []Entry {
	es := make([]Entry, len(wishes))
	for i := range wishes {
		es[i] = wishes[i].entry(w)
	}
	return es
}

// naive is the formula of the package comment, word by word, for a candidate all of whose pairs are known.
func (x *wish) naive(w *world, n int) float64 {
	var sum, mass float64
	least := math.Inf(1)
	for _, t := range x.targets {
		m := float64(t.mass)
		mass += m
		switch {
		case !x.replica:
			least = min(least, w.micros[n][t.node])
			sum += m * w.micros[n][t.node]
		case x.routing == Nearest:
			d := w.micros[t.node][n]
			for _, p := range x.peers {
				if us := w.micros[t.node][p.node]; us > 0 {
					d = min(d, us)
				}
			}
			sum += m * d
		default:
			total, replicas := w.micros[t.node][n], 1.0
			for _, p := range x.peers {
				if us := w.micros[t.node][p.node]; us > 0 {
					total += float64(p.mass) * us
					replicas += float64(p.mass)
				}
			}
			sum += m * total / replicas
		}
	}
	if !x.replica && x.routing == Nearest {
		return least
	}
	return sum / mass
}

// randomWorld has so great a share of unknown pairs. A node is near to itself and never unknown to itself.
func randomWorld(rng *rand.Rand, n int, unknown float64) *world {
	w := &world{}
	for a := range n {
		w.micros = append(w.micros, make([]float64, n))
		for b := range n {
			switch {
			case a == b:
				w.micros[a][b] = 50
			case rng.Float64() >= unknown:
				w.micros[a][b] = math.Exp(4 + 8*rng.Float64()) // 55 µs to 160 ms
			}
		}
	}
	return w
}

func randomWishes(rng *rand.Rand, n int) []wish {
	wishes := make([]wish, 1+rng.IntN(4))
	for i := range wishes {
		x := wish{
			replica: rng.IntN(2) == 0, routing: Routing(rng.IntN(2)), weight: float32(1 + rng.IntN(100)),
		}
		for _, t := range rng.Perm(n)[:1+rng.IntN(min(n, 5))] {
			x.targets = append(x.targets, weighed{t, float32(1 + rng.IntN(4))})
		}
		if x.replica {
			for _, p := range rng.Perm(n)[:rng.IntN(min(n, 4))] {
				x.peers = append(x.peers, weighed{p, float32(1 + rng.IntN(3))})
			}
		}
		wishes[i] = x
	}
	return wishes
}

func allOf(n int) []int32 {
	c := make([]int32, n)
	for i := range c {
		c[i] = int32(i)
	}
	return c
}

// someOf is a random choice of the nodes, in random order, now and then with a node that the snapshot does not know.
func someOf(rng *rand.Rand, n int) []int32 {
	var c []int32
	for _, i := range rng.Perm(n)[:1+rng.IntN(n)] {
		c = append(c, int32(i))
	}
	for range rng.IntN(3) {
		c = slices.Insert(c, rng.IntN(len(c)+1), -1)
	}
	return c
}

// knows reports whether anything is known of a candidate.
func knows(wishes []wish, w *world, n int32) bool {
	if n < 0 {
		return false
	}
	for i := range wishes {
		for _, t := range wishes[i].targets {
			us := w.micros[n][t.node]
			if wishes[i].replica {
				us = w.micros[t.node][n]
			}
			if us > 0 {
				return true
			}
		}
	}
	return false
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-4*math.Max(math.Abs(a), math.Abs(b)) }

const rounds = 3000

func TestOneEntryEqualsItsFormula(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var ev Evaluator
	for round := range rounds {
		n := 1 + rng.IntN(12)
		w := randomWorld(rng, n, 0)
		wishes := randomWishes(rng, n)[:1]
		es := entries(wishes, w)
		costs, ok := ev.Costs(nil, es, allOf(n))
		if !ok {
			t.Fatalf("round %d: no costs although every pair is known", round)
		}
		for c := range n {
			want := wishes[0].naive(w, c)
			if !near(float64(costs[c].Micros), want) || costs[c].Knowledge != Known {
				t.Fatalf("round %d: %+v on node %d costs %g (%d), want %g", round, wishes[0], c, costs[c].Micros, costs[c].Knowledge, want)
			}
			x := es[0].At(int32(c))
			d, known := x.RTT.Micros()
			if !known || !near(float64(d), want) || x.Unknown != 0 || x.Pairs != len(wishes[0].targets) {
				t.Fatalf("round %d: At(%d) = %+v, want %g µs", round, c, x, want)
			}
		}
	}
}

func TestEntriesAreMixedByWeight(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var ev Evaluator
	for round := range rounds {
		n := 1 + rng.IntN(12)
		w := randomWorld(rng, n, 0)
		wishes := randomWishes(rng, n)
		candidates := someOf(rng, n)
		costs, ok := ev.Costs(nil, entries(wishes, w), candidates)
		if !ok {
			t.Fatalf("round %d: no costs although every pair is known", round)
		}
		for i, c := range candidates {
			if c < 0 {
				continue
			}
			var sum, weights float64
			for j := range wishes {
				sum += float64(wishes[j].weight) * wishes[j].naive(w, int(c))
				weights += float64(wishes[j].weight)
			}
			if !near(float64(costs[i].Micros), sum/weights) {
				t.Fatalf("round %d: node %d costs %g, want %g", round, c, costs[i].Micros, sum/weights)
			}
		}
	}
}

func TestMovingCloserNeverRaisesACost(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	var ev Evaluator
	lowered := 0
	for round := range rounds {
		n := 2 + rng.IntN(10)
		w := randomWorld(rng, n, []float64{0, 0.2, 0.7}[rng.IntN(3)])
		wishes := randomWishes(rng, n)
		candidates := someOf(rng, n)
		before, ok := ev.Costs(nil, entries(wishes, w), candidates)
		if !ok {
			continue
		}
		closer := w.clone()
		for range 1 + rng.IntN(5) {
			a, b := rng.IntN(n), rng.IntN(n)
			closer.micros[a][b] *= rng.Float64() // unknown stays unknown
			if w.micros[a][b] > 0 {
				closer.micros[a][b] = max(closer.micros[a][b], 1)
			}
		}
		after, _ := ev.Costs(nil, entries(wishes, closer), candidates)
		for i := range candidates {
			if after[i].Micros > before[i].Micros {
				t.Fatalf("round %d: the cost of node %d rose from %g to %g", round, candidates[i], before[i].Micros, after[i].Micros)
			}
			if after[i].Micros < before[i].Micros {
				lowered++
			}
		}
	}
	if lowered < rounds/4 {
		t.Errorf("only %d costs fell: the test does not move what matters", lowered)
	}
}

func TestUnknownNeverRanksFirstOrLastAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	var ev Evaluator
	neutral, partial := 0, 0
	for round := range 3 * rounds {
		n := 2 + rng.IntN(12)
		w := randomWorld(rng, n, rng.Float64())
		wishes := randomWishes(rng, n)
		for range rng.IntN(4) { // nodes that nobody has heard of
			dark := rng.IntN(n)
			for i := range n {
				w.micros[i][dark], w.micros[dark][i] = 0, 0
			}
		}
		candidates := someOf(rng, n)
		anything := slices.ContainsFunc(candidates, func(c int32) bool { return knows(wishes, w, c) })
		costs, ok := ev.Costs(nil, entries(wishes, w), candidates)
		if ok != anything {
			t.Fatalf("round %d: Costs says %t, but that something is known is %t", round, ok, anything)
		}
		if !ok {
			continue
		}
		fullyLow, fullyHigh := float32(math.Inf(1)), float32(0)
		knownLow, knownHigh := fullyLow, fullyHigh
		for i, c := range candidates {
			if us := costs[i].Micros; !(us > 0) || float64(us) > float64(latency.MaxRTT.Microseconds()) {
				t.Fatalf("round %d: a cost of %g", round, us)
			}
			if knows(wishes, w, c) != (costs[i].Knowledge != Neutral) {
				t.Fatalf("round %d: candidate %d has knowledge %d", round, c, costs[i].Knowledge)
			}
			if costs[i].Knowledge != Neutral {
				knownLow, knownHigh = min(knownLow, costs[i].Micros), max(knownHigh, costs[i].Micros)
			}
			if costs[i].Knowledge == Known {
				fullyLow, fullyHigh = min(fullyLow, costs[i].Micros), max(fullyHigh, costs[i].Micros)
			}
		}
		for i, c := range candidates {
			us := costs[i].Micros
			switch costs[i].Knowledge {
			case Neutral:
				neutral++
				if us < knownLow || us > knownHigh {
					t.Fatalf("round %d: nothing is known of %d, and it ranks alone with %g outside %g to %g", round, c, us, knownLow, knownHigh)
				}
			case Partial:
				if fullyHigh > 0 {
					partial++
					if us < fullyLow || us > fullyHigh {
						t.Fatalf("round %d: the partially known %d has %g outside %g to %g", round, c, us, fullyLow, fullyHigh)
					}
				}
			}
		}
	}
	if neutral < rounds || partial < rounds {
		t.Errorf("the mixture is too tame: %d neutral, %d partial candidates", neutral, partial)
	}
}

func TestUnknownIsTheMedian(t *testing.T) {
	w := &world{micros: [][]float64{
		// to node 4
		{50, 0, 0, 0, 10_000},
		{0, 50, 0, 0, 20_000},
		{0, 0, 50, 0, 90_000},
		{0, 0, 0, 50, 0},
		{0, 0, 0, 0, 50},
	}}
	e := wish{weight: 1, routing: Any, targets: []weighed{{4, 1}}}
	var ev Evaluator
	tests := map[string]struct {
		candidates []int32
		want       []Cost
	}{
		"an odd number of known ones": {
			candidates: []int32{0, 3, 1, 2},
			want:       []Cost{{10_000, Known}, {20_000, Neutral}, {20_000, Known}, {90_000, Known}},
		},
		"an even number of known ones": {
			candidates: []int32{-1, 0, 2},
			want:       []Cost{{50_000, Neutral}, {10_000, Known}, {90_000, Known}},
		},
		"one known one": {
			candidates: []int32{3, 1, -1},
			want:       []Cost{{20_000, Neutral}, {20_000, Known}, {20_000, Neutral}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := ev.Costs(nil, entries([]wish{e}, w), tt.candidates)
			if diff := cmp.Diff(tt.want, got); diff != "" || !ok {
				t.Errorf("%t (-want +got):\n%s", ok, diff)
			}
		})
	}
	if got, ok := ev.Costs(nil, entries([]wish{e}, w), []int32{3, -1}); ok || len(got) != 0 {
		t.Errorf("nothing is known of any candidate, and the costs are %v, %t", got, ok)
	}
	if _, ok := ev.Costs(nil, nil, []int32{0}); ok {
		t.Error("there is no entry, and there are costs")
	}
	if _, ok := ev.Costs(nil, entries([]wish{e}, w), nil); ok {
		t.Error("there is no candidate, and there are costs")
	}
}

// TestUnknownIsAboutTheMedianOfMany: of very many candidates some are asked, and what counts is near the median all the same.
func TestUnknownIsAboutTheMedianOfMany(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	const n = 6000
	same, some := &latency.Row{RTT: make([]latency.RTT, n), Provenance: make([]latency.Provenance, n)}, &latency.Row{RTT: make([]latency.RTT, n), Provenance: make([]latency.Provenance, n)}
	var known []float32
	candidates := make([]int32, n)
	for i := range candidates {
		candidates[i] = int32(i)
		same.RTT[i], _ = latency.FromSeconds(0.010)
		if i%10 != 3 {
			some.RTT[i], _ = latency.FromSeconds(0.001 + 0.1*rng.Float64())
			us, _ := some.RTT[i].Micros()
			known = append(known, us)
		}
	}
	slices.Sort(known)
	var ev Evaluator
	got, ok := ev.Costs(nil, []Entry{NewClientEntry(1, Any, []Target{{Row: same, Node: -1, Mass: 1}, {Row: some, Node: -1, Mass: 1}})}, candidates)
	if !ok || got[3].Knowledge != Partial {
		t.Fatalf("%t, %v", ok, got[3])
	}
	at, _ := slices.BinarySearch(known, 2*got[3].Micros-10_000)
	if share := float64(at) / float64(len(known)); share < 0.45 || share > 0.55 {
		t.Errorf("an unknown pair counts as the %.2f-quantile of the known", share)
	}
}

// TestCompleteRowsCostTheSame: whether a row is complete decides how costs are added up, and a node that is no candidate decides that.
func TestCompleteRowsCostTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 7))
	var ev, ev2 Evaluator
	for range rounds {
		n := 2 + rng.IntN(30)
		w := randomWorld(rng, n+1, 0)
		wishes := randomWishes(rng, n)
		gaps := w.clone()
		for i := range n + 1 {
			gaps.micros[i][n], gaps.micros[n][i] = 0, 0
		}
		candidates := someOf(rng, n)
		costs, ok := ev.Costs(nil, entries(wishes, w), candidates)
		others, ok2 := ev2.Costs(nil, entries(wishes, gaps), candidates)
		if diff := cmp.Diff(others, costs); diff != "" || ok != ok2 || !ok {
			t.Fatalf("%t, %t, (-one row has a gap +none has):\n%s", ok2, ok, diff)
		}
	}
}

func TestRelabellingChangesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	var ev, ev2 Evaluator
	for round := range rounds {
		n := 2 + rng.IntN(12)
		w := randomWorld(rng, n, rng.Float64()*0.8)
		wishes := randomWishes(rng, n)
		candidates := someOf(rng, n)
		costs, ok := ev.Costs(nil, entries(wishes, w), candidates)

		perm := rng.Perm(n)
		var others []wish
		for i := range wishes {
			others = append(others, wishes[i].permuted(perm))
		}
		order := rng.Perm(len(candidates))
		renamed := make([]int32, len(candidates))
		for i, c := range candidates {
			renamed[order[i]] = c
			if c >= 0 {
				renamed[order[i]] = int32(perm[c])
			}
		}
		again, okAgain := ev2.Costs(nil, entries(others, w.permuted(perm)), renamed)
		if ok != okAgain || len(costs) != len(again) {
			t.Fatalf("round %d: %t with %d costs became %t with %d", round, ok, len(costs), okAgain, len(again))
		}
		for i := range costs {
			if costs[i] != again[order[i]] {
				t.Fatalf("round %d: candidate %d costs %v, and %v by another name", round, candidates[i], costs[i], again[order[i]])
			}
		}
	}
}

func TestScalingWeightsChangesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 1))
	var ev Evaluator
	for round := range rounds {
		n := 2 + rng.IntN(12)
		w := randomWorld(rng, n, rng.Float64()*0.5)
		wishes := randomWishes(rng, n)
		candidates := someOf(rng, n)
		costs, ok := ev.Costs(nil, entries(wishes, w), candidates)
		factor := 0.5 + 10*rng.Float32()
		for i := range wishes {
			wishes[i].weight *= factor
			for j := range wishes[i].targets {
				wishes[i].targets[j].mass *= 8 // nor do the masses' scale
			}
		}
		again, okAgain := ev.Costs(nil, entries(wishes, w), candidates)
		if ok != okAgain {
			t.Fatalf("round %d: %t became %t", round, ok, okAgain)
		}
		for i := range costs {
			if !near(float64(costs[i].Micros), float64(again[i].Micros)) || costs[i].Knowledge != again[i].Knowledge {
				t.Fatalf("round %d: %v became %v with %g times the weights", round, costs[i], again[i], factor)
			}
		}
	}
}

// TestGreedyPlacement places replicas one by one where the Nearest cost is least, and compares what that saves with the best
// that there is, against each client being served from its farthest node.
func TestGreedyPlacement(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 1))
	var ev Evaluator
	worst := 1.0
	for round := range 400 {
		n, k := 4+rng.IntN(5), 1+rng.IntN(4)
		w := randomWorld(rng, n, 0)
		x := wish{replica: true, routing: Nearest, weight: 1}
		for _, c := range rng.Perm(n)[:2+rng.IntN(n-2)] {
			x.targets = append(x.targets, weighed{c, float32(1 + rng.IntN(5))})
		}
		saving := func(set []int) float64 {
			s := 0.0
			for _, c := range x.targets {
				d := math.Inf(1)
				for _, r := range set {
					d = min(d, w.micros[c.node][r])
				}
				s += float64(c.mass) * (slices.Max(w.micros[c.node]) - d)
			}
			return s
		}
		var greedy []int
		for range k {
			costs, _ := ev.Costs(nil, entries([]wish{x}, w), allOf(n))
			best := 0
			for i := range costs {
				if costs[i].Micros < costs[best].Micros {
					best = i
				}
			}
			greedy = append(greedy, best)
			x.peers = append(x.peers, weighed{best, 1})
		}
		optimum := 0.0
		for mask := range 1 << n {
			var set []int
			for i := range n {
				if mask>>i&1 == 1 {
					set = append(set, i)
				}
			}
			if len(set) == k {
				optimum = max(optimum, saving(set))
			}
		}
		ratio := saving(greedy) / optimum
		if ratio < 1-1/math.E-1e-6 {
			t.Fatalf("round %d: greedy saves %.3f of the optimum, less than 1-1/e", round, ratio)
		}
		if k == 1 && ratio < 1-1e-4 {
			t.Fatalf("round %d: one replica is not placed best: %.6f", round, ratio)
		}
		worst = min(worst, ratio)
	}
	t.Logf("worst saving: %.3f of the optimum", worst)
}

func TestAt(t *testing.T) {
	zoned := &latency.Row{RTT: make([]latency.RTT, 3), Provenance: []latency.Provenance{latency.Zone, latency.Measured, 0}}
	zoned.RTT[0], _ = latency.FromSeconds(0.030)
	zoned.RTT[1], _ = latency.FromSeconds(0.010)
	measured := &latency.Row{RTT: make([]latency.RTT, 3), Provenance: []latency.Provenance{latency.Measured, latency.Reverse, 0}}
	measured.RTT[0], _ = latency.FromSeconds(0.050)
	measured.RTT[1], _ = latency.FromSeconds(0.040)
	targets := []Target{{Row: zoned, Node: 7, Mass: 1}, {Row: measured, Node: 8, Mass: 3}}

	tests := map[string]struct {
		routing        Routing
		node           int32
		wantRTT        string
		wantProvenance latency.Provenance
		wantTarget     int32
		wantUnknown    int
	}{
		"Any is the mean, as sure as its weakest pair":       {Any, 0, "45ms", latency.Zone, 8, 0},
		"Any over a measured and a reverse pair":             {Any, 1, "32.5ms", latency.Reverse, 8, 0},
		"Nearest is the minimum, as sure as that":            {Nearest, 0, "30ms", latency.Zone, 7, 0},
		"Nearest over a measured and a reverse pair":         {Nearest, 1, "10ms", latency.Measured, 7, 0},
		"Any with nothing known":                             {Any, 2, "unknown", latency.Unknown, -1, 2},
		"Nearest with nothing known":                         {Nearest, 2, "unknown", latency.Unknown, -1, 2},
		"a node that the snapshot does not know":             {Any, -1, "unknown", latency.Unknown, -1, 2},
		"a node that the snapshot does not know, by Nearest": {Nearest, -1, "unknown", latency.Unknown, -1, 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := NewClientEntry(1, tt.routing, targets)
			x := e.At(tt.node)
			got := fmt.Sprintf("%s %s %d %d/%d", x.RTT, x.Provenance, x.Target, x.Unknown, x.Pairs)
			want := fmt.Sprintf("%s %s %d %d/%d", tt.wantRTT, tt.wantProvenance, tt.wantTarget, tt.wantUnknown, 2)
			if got != want {
				t.Errorf("At(%d) = %s, want %s", tt.node, got, want)
			}
		})
	}
	e := NewClientEntry(1, Any, targets)
	var nodes []int32
	for _, n := range e.Targets() {
		nodes = append(nodes, n)
	}
	if diff := cmp.Diff([]int32{7, 8}, nodes); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
}

func TestCostsAllocatesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 1))
	w := randomWorld(rng, 60, 0.2)
	es := entries(randomWishes(rng, 60), w)
	candidates := allOf(60)
	var ev Evaluator
	costs, _ := ev.Costs(nil, es, candidates)
	if allocs := testing.AllocsPerRun(100, func() { costs, _ = ev.Costs(costs, es, candidates) }); allocs != 0 {
		t.Errorf("Costs allocates %g times", allocs)
	}
}

func BenchmarkCosts(b *testing.B) {
	for _, candidates := range []int{500, 5000} {
		b.Run(fmt.Sprintf("candidates=%d/targets=10", candidates), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(8, 1))
			var ts []Target
			for i := range 10 {
				r := &latency.Row{RTT: make([]latency.RTT, candidates), Provenance: make([]latency.Provenance, candidates)}
				for j := range r.RTT {
					if rng.IntN(10) > 0 {
						r.RTT[j], _ = latency.FromSeconds(0.001 + 0.1*rng.Float64())
					}
				}
				ts = append(ts, Target{Row: r, Node: int32(i), Mass: 1})
			}
			es := []Entry{NewClientEntry(1, Any, ts[:5]), NewReplicaEntry(1, Nearest, ts[5:], []Peer{{Node: 3, Count: 1}})}
			nodes := allOf(candidates)
			var ev Evaluator
			costs, _ := ev.Costs(nil, es, nodes)
			b.ReportAllocs()
			for b.Loop() {
				costs, _ = ev.Costs(costs, es, nodes)
			}
		})
	}
}
