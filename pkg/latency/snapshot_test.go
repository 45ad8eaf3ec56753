// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func nodeNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("node-%04d", i)
	}
	return names
}

func measuredEdge(to int32, ms float64) Edge {
	return Edge{To: to, Estimate: Estimate{Typical: millis(ms), Tail: millis(2 * ms), At: now, Count: 10, Lost: 1, Provenance: Measured}}
}

// pairTable answers from estimates, those of zone a to zone b at a*zones+b.
func pairTable(of []int32, zones int, pairs []Estimate) *ZoneTable {
	return &ZoneTable{Of: of, Between: func(a, b int32) Estimate { return pairs[int(a)*zones+int(b)] }}
}

// twoZones has nodes 0–2 in zone 0, node 3 in zone 1 and node 4 in none; only zone 0 → zone 1 has an estimate.
func twoZones() *ZoneTable {
	pairs := make([]Estimate, 4)
	pairs[0*2+1] = Estimate{Typical: millis(50), Tail: millis(60), Provenance: Zone}
	return pairTable([]int32{0, 0, 0, 1, -1}, 2, pairs)
}

func TestEstimate(t *testing.T) {
	edges := make([][]Edge, 5)
	edges[0] = []Edge{measuredEdge(1, 10), measuredEdge(3, 33)}
	edges[1] = []Edge{measuredEdge(0, 11), measuredEdge(2, 12)}
	s := NewSnapshot(now, nodeNames(5), edges, twoZones())

	tests := map[string]struct {
		from, to       int32
		wantProvenance Provenance
		wantMillis     float64 // 0: unknown
	}{
		"measured by the caller":                            {from: 0, to: 1, wantProvenance: Measured, wantMillis: 10},
		"measured by both: each caller has its own":         {from: 1, to: 0, wantProvenance: Measured, wantMillis: 11},
		"measured by the callee only":                       {from: 2, to: 1, wantProvenance: Reverse, wantMillis: 12},
		"a measurement stands above the zone table":         {from: 0, to: 3, wantProvenance: Measured, wantMillis: 33},
		"the other direction stands above the zone table":   {from: 3, to: 0, wantProvenance: Reverse, wantMillis: 33},
		"nobody measured, the table knows":                  {from: 2, to: 3, wantProvenance: Zone, wantMillis: 50},
		"nobody measured, the table does not know that way": {from: 3, to: 2, wantProvenance: Unknown},
		"nobody measured within the zone":                   {from: 0, to: 2, wantProvenance: Unknown},
		"a node without a zone":                             {from: 0, to: 4, wantProvenance: Unknown},
		"a node without a zone, calling":                    {from: 4, to: 3, wantProvenance: Unknown},
		"the same node":                                     {from: 2, to: 2, wantProvenance: Local, wantMillis: 0.05},
		"the same node without a zone":                      {from: 4, to: 4, wantProvenance: Local, wantMillis: 0.05},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := s.Estimate(tt.from, tt.to)
			if got.Provenance != tt.wantProvenance {
				t.Errorf("provenance %s, want %s", got.Provenance, tt.wantProvenance)
			}
			if want := millis(tt.wantMillis); got.Typical != want {
				t.Errorf("typical %s, want %s", got.Typical, want)
			}
			if tt.wantProvenance == Unknown && got != (Estimate{}) {
				t.Errorf("an unknown pair has something: %+v", got)
			}
			if tt.wantProvenance.IsMeasured() && tt.wantProvenance != Local &&
				(!got.At.Equal(now) || got.Count != 10 || got.Lost != 1 || got.Tail != millis(2*tt.wantMillis)) {
				t.Errorf("age, counts or tail were lost: %+v", got)
			}
			if tt.wantProvenance == Local && !got.At.IsZero() {
				t.Errorf("a local pair has a time: %v", got.At)
			}
		})
	}
}

func TestNewestOfDuplicateEdgesWins(t *testing.T) {
	at := func(to int32, ms float64, age time.Duration) Edge {
		e := measuredEdge(to, ms)
		e.At = now.Add(-age)
		return e
	}
	unknown := Edge{To: 1, Estimate: Estimate{At: now.Add(time.Hour), Provenance: Measured}}
	orders := [][]Edge{
		{at(1, 30, 3*time.Second), at(1, 10, time.Second), at(1, 20, 2*time.Second), unknown},
		{unknown, at(1, 10, time.Second), at(1, 20, 2*time.Second), at(1, 30, 3*time.Second)},
		{at(1, 20, 2*time.Second), at(2, 5, 0), at(1, 30, 3*time.Second), at(1, 10, time.Second)},
	}
	for i, es := range orders {
		s := NewSnapshot(now, nodeNames(3), [][]Edge{es, nil, nil}, nil)
		if got := s.Estimate(0, 1).Typical; got != millis(10) {
			t.Errorf("order %d: the estimate is %s, want that of the newest, 10ms", i, got)
		}
		if want := 1 + i/2; s.MeasuredBy(0) != want {
			t.Errorf("order %d: node 0 measured %d, want %d", i, s.MeasuredBy(0), want)
		}
	}
}

func TestEdgesThatSayNothingAreLeftOut(t *testing.T) {
	s := NewSnapshot(now, nodeNames(2), [][]Edge{{
		measuredEdge(0, 1), // to itself
		{To: 1, Estimate: Estimate{At: now, Provenance: Measured}},
	}, nil}, nil)
	if got := s.Estimate(0, 1); got != (Estimate{}) {
		t.Errorf("Estimate(0, 1) = %+v, want unknown", got)
	}
	if got := s.Estimate(0, 0); got.Provenance != Local {
		t.Errorf("Estimate(0, 0) is %s, want local", got.Provenance)
	}
	if measured, _ := s.Coverage(); measured != 0 {
		t.Errorf("%d pairs are measured, want 0", measured)
	}
}

// randomSnapshot is a sparse graph, partly in zones whose table has holes.
func randomSnapshot(rng *rand.Rand, n int) *Snapshot {
	edges := make([][]Edge, n)
	for i := range edges {
		for range rng.IntN(6) {
			if to := int32(rng.IntN(n)); to != int32(i) {
				e := measuredEdge(to, 0.1+200*rng.Float64())
				e.At = now.Add(-time.Duration(rng.IntN(300)) * time.Second)
				edges[i] = append(edges[i], e)
			}
		}
	}
	var z *ZoneTable
	if rng.IntN(4) > 0 {
		const zones = 4
		pairs := make([]Estimate, zones*zones)
		z = pairTable(make([]int32, n), zones, pairs)
		for i := range z.Of {
			z.Of[i] = int32(rng.IntN(zones+1)) - 1
		}
		for i := range pairs {
			if rng.IntN(3) > 0 {
				ms := 1 + 100*rng.Float64()
				pairs[i] = Estimate{Typical: millis(ms), Tail: millis(ms * 1.5), Provenance: Zone}
			}
		}
	}
	return NewSnapshot(now, nodeNames(n), edges, z)
}

func TestRowsEqualEstimates(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	known, unknown := 0, 0
	for round := range 60 {
		n := 1 + rng.IntN(40)
		s := randomSnapshot(rng, n)
		for target := range int32(n) {
			for _, d := range []Direction{ToTarget, FromTarget} {
				for _, st := range []Statistic{Typical, Tail} {
					row := s.Row(target, d, st)
					if len(row.RTT) != n || len(row.Provenance) != n {
						t.Fatalf("round %d: the row has %d RTTs and %d provenances, want %d", round, len(row.RTT), len(row.Provenance), n)
					}
					for i := range int32(n) {
						from, to := i, target
						if d == FromTarget {
							from, to = target, i
						}
						want := s.Estimate(from, to)
						if row.RTT[i] != want.RTT(st) || row.Provenance[i] != want.Provenance {
							t.Fatalf("round %d: row of %d, direction %d, statistic %d, node %d: %s (%s), want %s (%s)", round,
								target, d, st, i, row.RTT[i], row.Provenance[i], want.RTT(st), want.Provenance)
						}
						us, ok := row.RTT[i].Micros()
						if ok != (row.Provenance[i] != Unknown) || !ok && us != 0 {
							t.Fatalf("round %d: an unknown pair has the number %g, provenance %s", round, us, row.Provenance[i])
						}
						if ok {
							known++
						} else {
							unknown++
						}
					}
				}
			}
		}
	}
	if known < 1000 || unknown < 1000 {
		t.Errorf("the graphs were not mixed: %d known and %d unknown pairs", known, unknown)
	}
}

func TestRowKeepsWhatElseIsKnownOfTheTail(t *testing.T) {
	noTail := measuredEdge(1, 10)
	noTail.Tail = RTT{}
	s := NewSnapshot(now, nodeNames(3), [][]Edge{
		{noTail},
		{measuredEdge(0, 12)},
		nil,
	}, nil)
	tail := s.Row(1, ToTarget, Tail)
	if tail.RTT[0] != millis(24) || tail.Provenance[0] != Reverse {
		t.Errorf("the tail 0 → 1 is %s (%s), want 24ms (reverse)", tail.RTT[0], tail.Provenance[0])
	}
	typical := s.Row(1, ToTarget, Typical)
	if typical.RTT[0] != millis(10) || typical.Provenance[0] != Measured {
		t.Errorf("the median 0 → 1 is %s (%s), want 10ms (measured)", typical.RTT[0], typical.Provenance[0])
	}
}

func TestRowIsBuiltOnceAndByMany(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const n = 50
	s := randomSnapshot(rng, n)
	older := randomSnapshot(rng, n)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(5, uint64(g)))
			for range 500 {
				target, d, st := int32(rng.IntN(n)), Direction(rng.IntN(2)), Statistic(rng.IntN(2))
				row := s.Row(target, d, st)
				i := int32(rng.IntN(n))
				from, to := i, target
				if d == FromTarget {
					from, to = target, i
				}
				if want := s.Estimate(from, to).RTT(st); row.RTT[i] != want {
					t.Errorf("row of %d at %d is %s, want %s", target, i, row.RTT[i], want)
				}
				older.Row(target, d, st)
			}
		})
	}
	wg.Go(func() { randomSnapshot(rand.New(rand.NewPCG(6, 6)), n).Warm(older) })
	wg.Wait()
	if first, second := s.Row(7, ToTarget, Typical), s.Row(7, ToTarget, Typical); first != second {
		t.Error("a row is built anew although it is there")
	}
}

func TestWarm(t *testing.T) {
	older := NewSnapshot(now, []string{"a", "b", "gone"}, make([][]Edge, 3), nil)
	older.Row(1, ToTarget, Tail)
	older.Row(2, FromTarget, Typical) // of a node that the newer one lacks

	// b has another number now.
	newer := NewSnapshot(now, []string{"0", "a", "b"}, [][]Edge{{measuredEdge(2, 5)}, nil, nil}, nil)
	newer.Warm(older)
	warm := map[string]bool{}
	for st := range newer.rows {
		for d := range newer.rows[st] {
			for n := range newer.rows[st][d] {
				if newer.rows[st][d][n].Load() != nil {
					warm[fmt.Sprintf("%s/%d/%d", newer.Name(int32(n)), d, st)] = true
				}
			}
		}
	}
	want := map[string]bool{fmt.Sprintf("b/%d/%d", ToTarget, Tail): true}
	if diff := cmp.Diff(want, warm); diff != "" {
		t.Errorf("warm rows (-want +got):\n%s", diff)
	}
	if got := newer.Row(2, ToTarget, Tail).RTT[0]; got != millis(10) {
		t.Errorf("the warm row has %s, want the newer snapshot's 10ms", got)
	}

	// A row that was warmed and never read is not carried on for ever.
	third := NewSnapshot(now, []string{"b"}, make([][]Edge, 1), nil)
	unread := NewSnapshot(now, []string{"b"}, make([][]Edge, 1), nil)
	unread.Warm(newer)
	third.Warm(unread)
	if third.rows[Tail][ToTarget][0].Load() != nil {
		t.Error("a row that nobody read was built again")
	}
}

func TestUnknownRow(t *testing.T) {
	s := randomSnapshot(rand.New(rand.NewPCG(9, 9)), 20)
	row := s.UnknownRow()
	if len(row.RTT) != 20 || len(row.Provenance) != 20 || s.UnknownRow() != row {
		t.Fatalf("%d RTTs, %d provenances", len(row.RTT), len(row.Provenance))
	}
	for i := range row.RTT {
		if row.RTT[i].Known() || row.Provenance[i] != Unknown {
			t.Errorf("node %d is at %s (%s)", i, row.RTT[i], row.Provenance[i])
		}
	}
}

func TestCoverage(t *testing.T) {
	tests := map[string]struct {
		n            int
		edges        [][2]int32
		wantMeasured int
		wantPairs    int
	}{
		"no nodes":                           {n: 0},
		"one node":                           {n: 1},
		"nothing measured":                   {n: 4, wantPairs: 6},
		"one direction is enough":            {n: 3, edges: [][2]int32{{0, 1}, {2, 1}}, wantMeasured: 2, wantPairs: 3},
		"both directions are one pair":       {n: 3, edges: [][2]int32{{0, 1}, {1, 0}}, wantMeasured: 1, wantPairs: 3},
		"duplicates and loops do not count":  {n: 3, edges: [][2]int32{{0, 1}, {0, 1}, {2, 2}}, wantMeasured: 1, wantPairs: 3},
		"everything, from the higher number": {n: 3, edges: [][2]int32{{2, 1}, {2, 0}, {1, 0}}, wantMeasured: 3, wantPairs: 3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			edges := make([][]Edge, tt.n)
			for _, e := range tt.edges {
				edges[e[0]] = append(edges[e[0]], measuredEdge(e[1], 10))
			}
			measured, pairs := NewSnapshot(now, nodeNames(tt.n), edges, nil).Coverage()
			if measured != tt.wantMeasured || pairs != tt.wantPairs {
				t.Errorf("Coverage() = %d of %d, want %d of %d", measured, pairs, tt.wantMeasured, tt.wantPairs)
			}
		})
	}
}

func TestCountsAreClamped(t *testing.T) {
	e := measuredEdge(1, 10)
	e.Count, e.Lost = 1<<20, -5
	got := NewSnapshot(now, nodeNames(2), [][]Edge{{e}, nil}, nil).Estimate(0, 1)
	if got.Count != 1<<16-1 || got.Lost != 0 {
		t.Errorf("counts %d and %d, want 65535 and 0", got.Count, got.Lost)
	}
}

func TestIndex(t *testing.T) {
	s := NewSnapshot(now, []string{"a", "b"}, make([][]Edge, 2), nil)
	if n, ok := s.Index("b"); !ok || n != 1 || s.Name(n) != "b" {
		t.Errorf("Index(b) = %d, %t", n, ok)
	}
	if _, ok := s.Index("c"); ok {
		t.Error("Index knows a node that is not there")
	}
	if s.Len() != 2 || !s.Built().Equal(now) {
		t.Errorf("Len() = %d, Built() = %v", s.Len(), s.Built())
	}
}

// BenchmarkSnapshotBuild is what a change of any NodeLatency costs at 5,000 nodes with 16 measured peers each.
func BenchmarkSnapshotBuild(b *testing.B) {
	const n, k = 5000, 16
	rng := rand.New(rand.NewPCG(1, 1))
	names := nodeNames(n)
	edges := make([][]Edge, n)
	for i := range edges {
		for range k {
			edges[i] = append(edges[i], measuredEdge(int32(rng.IntN(n)), 1+100*rng.Float64()))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		NewSnapshot(now, names, edges, nil)
	}
}

// BenchmarkRow is what the first cycle that asks for a target pays.
func BenchmarkRow(b *testing.B) {
	const n, k = 5000, 16
	rng := rand.New(rand.NewPCG(1, 1))
	pairs := make([]Estimate, 400)
	z := pairTable(make([]int32, n), 20, pairs)
	for i := range z.Of {
		z.Of[i] = int32(rng.IntN(20))
	}
	for i := range pairs {
		pairs[i] = Estimate{Typical: millis(20), Tail: millis(30), Provenance: Zone}
	}
	edges := make([][]Edge, n)
	for i := range edges {
		for range k {
			edges[i] = append(edges[i], measuredEdge(int32(rng.IntN(n)), 1+100*rng.Float64()))
		}
	}
	s := NewSnapshot(now, nodeNames(n), edges, z)
	b.ReportAllocs()
	for b.Loop() {
		s.buildRow(7, ToTarget, Typical)
	}
}
