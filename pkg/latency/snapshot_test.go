// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

func nodeNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("node-%04d", i)
	}
	return names
}

func measuredEdge(to int32, ms float64) Edge {
	return NewEdge(to, Estimate{Typical: millis(ms), Tail: millis(2 * ms), At: now, Count: 10, Lost: 1})
}

// snapshotOf believes all edges, which it puts into order.
func snapshotOf(names []string, edges [][]Edge, z *ZoneTable) *Snapshot {
	for _, es := range edges {
		slices.SortFunc(es, func(a, b Edge) int { return cmp.Compare(a.To, b.To) })
	}
	return NewSnapshot(&Picture{Built: now, Names: names, Edges: edges, Zones: z})
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
	s := snapshotOf(nodeNames(5), edges, twoZones())

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

func TestEdgesThatSayNothing(t *testing.T) {
	s := snapshotOf(nodeNames(2), [][]Edge{{NewEdge(1, Estimate{At: now, Provenance: Measured})}, nil}, nil)
	if got := s.Estimate(0, 1); got != (Estimate{}) {
		t.Errorf("Estimate(0, 1) = %+v, want unknown", got)
	}
	if got := s.Estimate(0, 0); got.Provenance != Local {
		t.Errorf("Estimate(0, 0) is %s, want local", got.Provenance)
	}
	if measured, _ := s.Coverage(); measured != 0 || s.MeasuredBy(0) != 0 {
		t.Errorf("%d pairs are measured, %d of them by node 0; want none", measured, s.MeasuredBy(0))
	}
}

// randomSnapshot is a sparse graph with lost and blocked pairs, ends that disagree, absent tails, partly in zones whose table has
// holes, partly with coordinates.
func randomSnapshot(rng *rand.Rand, n int) *Snapshot {
	edges := make([][]Edge, n)
	degree := []int{4, 16}[rng.IntN(2)]
	for i := range edges {
		for to := range int32(n) {
			if to == int32(i) || rng.IntN(n) >= degree {
				continue
			}
			at := now.Add(-time.Duration(rng.IntN(300)) * time.Second)
			typical := 0.1 + 200*rng.Float64()
			e := Estimate{Typical: millis(typical), At: at, Count: 10, Lost: 1}
			if rng.IntN(3) > 0 {
				e.Tail = millis(typical * (1 + 2*rng.Float64()))
			}
			switch rng.IntN(8) {
			case 0:
				edges[i] = append(edges[i], Lost(to, at, 3))
			case 1:
				edges[i] = append(edges[i], Blocked(to, at))
			case 2:
				edges[i] = append(edges[i], Edge{To: to})
			default:
				edges[i] = append(edges[i], NewEdge(to, e))
			}
		}
	}
	p := &Picture{Built: now, Names: nodeNames(n), Edges: edges, Noise: float32(4 * rng.Float64())}
	if rng.IntN(4) > 0 {
		const zones = 4
		pairs := make([]Estimate, zones*zones)
		p.Zones = pairTable(make([]int32, n), zones, pairs)
		for i := range p.Zones.Of {
			p.Zones.Of[i] = int32(rng.IntN(zones+1)) - 1
		}
		for i := range pairs {
			ms := 1 + 100*rng.Float64()
			switch rng.IntN(4) {
			case 0, 1:
				pairs[i] = Estimate{Typical: millis(ms), Tail: millis(ms * 1.5), Provenance: Zone}
			case 2:
				pairs[i] = Estimate{Typical: millis(ms), Provenance: Zone}
			}
		}
	}
	if rng.IntN(2) > 0 {
		p.Rankings = make([][]Edge, n)
		for i := range p.Rankings {
			for to := range int32(n) {
				if to == int32(i) || rng.IntN(4) > 0 {
					continue
				}
				e := Lost(to, now.Add(-time.Minute), 3)
				if rng.IntN(6) > 0 {
					e = NewEdge(to, Estimate{Typical: millis(1 + 500*rng.Float64()), Tail: millis(600 * float64(rng.IntN(2))), At: now.Add(-time.Minute)})
				}
				p.Rankings[i] = append(p.Rankings[i], e)
			}
		}
	}
	if rng.IntN(4) > 0 {
		p.Coordinates = make([]NetworkCoordinate, n)
		for i := range p.Coordinates {
			if rng.IntN(3) == 0 {
				continue
			}
			c := &p.Coordinates[i]
			for k := range c.Vector {
				c.Vector[k] = float32(rng.NormFloat64() * 5e4)
			}
			c.Height, c.Adjustment, c.Error = float32(rng.Float64()*1e3), float32(rng.NormFloat64()*5e4), 0.1
		}
	}
	return NewSnapshot(p)
}

func TestRowsEqualEstimates(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	known, unknown := 0, 0
	provenances := map[Provenance]int{}
	var section Row
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
					some := []int32{int32(n - 1), -1, 0}
					s.Section(&section, target, d, st, some)
					for i, node := range some {
						var rtt RTT
						var p Provenance
						if node >= 0 {
							rtt, p = row.RTT[node], row.Provenance[node]
						}
						if section.RTT[i] != rtt || section.Provenance[i] != p {
							t.Fatalf("round %d: section of the row of %d, direction %d, statistic %d, node %d: %s (%s), want %s (%s)", round,
								target, d, st, node, section.RTT[i], section.Provenance[i], rtt, p)
						}
					}
					for i := range int32(n) {
						from, to := i, target
						if d == FromTarget {
							from, to = target, i
						}
						want := s.Estimate(from, to)
						if !want.RTT(st).Known() { // of a statistic that is unknown, nothing says how it was got
							want.Provenance = Unknown
						}
						provenances[want.Provenance]++
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
	for p := Unknown; p <= Local; p++ {
		if provenances[p] < 100 {
			t.Errorf("the graphs were not mixed: %d times %s", provenances[p], p)
		}
	}
}

// TestMerge has what the two ends of a pair say, the caller's word first: "10/20" is typical and tail in ms.
func TestMerge(t *testing.T) {
	edge := func(text string) *Edge {
		switch text {
		case "":
			return nil
		case "nothing":
			return &Edge{To: 1}
		case "lost":
			e := Lost(1, now, 5)
			return &e
		case "blocked":
			e := Blocked(1, now)
			return &e
		}
		var typical, tail float64
		if n, err := fmt.Sscanf(text, "%g/%g", &typical, &tail); n < 1 {
			t.Fatalf("%q: %v", text, err)
		}
		e := NewEdge(1, Estimate{Typical: millis(typical), Tail: millis(tail), At: now})
		return &e
	}
	tests := map[string]struct{ caller, callee, want string }{
		"nobody says anything":                                    {"", "", "open"},
		"nothing is not a block":                                  {"nothing", "nothing", "open"},
		"the caller's word alone":                                 {"10/20", "", "10ms 20ms measured"},
		"the callee's word alone":                                 {"", "10/20", "10ms 20ms reverse"},
		"within the noise each caller has its own":                {"10/20", "10.9/21", "10ms 20ms measured"},
		"half a millisecond is noise, whatever the ratio":         {"0.1/0.2", "0.5/0.6", "100µs 200µs measured"},
		"the worse of two that disagree: the caller's":            {"40/50", "1/2", "40ms 50ms measured"},
		"the worse of two that disagree: the callee's":            {"1/2", "40/50", "40ms 50ms reverse"},
		"tails that disagree alone: the worse":                    {"10/20", "10/90", "10ms 90ms measured"},
		"the caller has no tail":                                  {"10", "12/24", "12ms 24ms reverse"},
		"the caller has no tail, within the noise":                {"10", "10.5/24", "10ms 24ms measured"},
		"the callee has no tail":                                  {"10/20", "10.5", "10ms 20ms measured"},
		"the worse side has no tail, and the other's is below":    {"1/2", "40", "40ms unknown reverse"},
		"the worse side has no tail, and the other's is above":    {"1/200", "40", "40ms 200ms reverse"},
		"neither has a tail":                                      {"10", "10", "10ms unknown measured"},
		"what one end lost and the other measured is measured":    {"lost", "10/20", "10ms 20ms reverse"},
		"the other way round, too":                                {"10/20", "lost", "10ms 20ms measured"},
		"what was lost and not measured is unknown, and not open": {"lost", "", "unknown"},
		"lost from both ends":                                     {"lost", "lost", "unknown"},
		"blocked":                                                 {"", "blocked", "unknown"},
		"blocked, and nothing":                                    {"nothing", "blocked", "unknown"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e, ok := merge(edge(tt.caller), edge(tt.callee), noiseRatio)
			got := "open"
			switch {
			case ok && e.Provenance == Unknown:
				got = "unknown"
				fallthrough
			case !ok:
				if e != (Estimate{}) {
					t.Errorf("an unknown pair has something: %+v", e)
				}
			default:
				got = fmt.Sprintf("%s %s %s", e.Typical, e.Tail, e.Provenance)
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestNoEstimateIsNearerThanTheNearest: a node measured its 8 nearest, so that one that it did not measure is not nearer.
func TestNoEstimateIsNearerThanTheNearest(t *testing.T) {
	const n = 20
	coordinates := make([]NetworkCoordinate, n)
	for i := range coordinates {
		coordinates[i] = NetworkCoordinate{Height: 1000, Error: 0.1} // all at 2 ms from each other
	}
	measures := func(peers int, ms func(k int) float64) []Edge {
		var es []Edge
		for k := range peers {
			es = append(es, measuredEdge(int32(1+k), ms(k)))
		}
		return es
	}
	descending := func(k int) float64 { return float64(30 - k) }
	tests := map[string]struct {
		near, far []Edge // what node 0 says, and node 19, which it did not measure
		want      float64
	}{
		"few peers say nothing":           {near: measures(11, descending), want: 2},
		"the eighth of the nearest":       {near: measures(12, descending), want: 30 - 4},
		"in whatever order":               {near: measures(16, func(k int) float64 { return float64(5 + k*7%16) }), want: 12},
		"from the other end":              {far: measures(16, descending), want: 30 - 8},
		"the larger of the two":           {near: measures(12, descending), far: measures(16, descending), want: 30 - 4},
		"an estimate that is larger":      {near: measures(16, func(int) float64 { return 0.5 }), want: 2},
		"what was lost is no measurement": {near: append(measures(11, descending), Lost(12, now, 9)), want: 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			edges := make([][]Edge, n)
			edges[0], edges[n-1] = tt.near, tt.far
			s := NewSnapshot(&Picture{Built: now, Names: nodeNames(n), Edges: edges, Coordinates: coordinates})
			for _, pair := range [][2]int32{{0, n - 1}, {n - 1, 0}} {
				if e := s.Estimate(pair[0], pair[1]); e.Typical != millis(tt.want) || e.Provenance != Coordinate {
					t.Errorf("%v is at %s (%s), want %v ms", pair, e.Typical, e.Provenance, tt.want)
				}
				if got := s.Row(pair[0], ToTarget, Typical).RTT[pair[1]]; got != millis(tt.want) {
					t.Errorf("the row of %d has %s, want %v ms", pair[0], got, tt.want)
				}
			}
		})
	}
}

// TestNoiseOfTheNetwork: what is noise in a network is no disagreement.
func TestNoiseOfTheNetwork(t *testing.T) {
	for noise, want := range map[float32]RTT{0: millis(30), 1.1: millis(30), 2: millis(30), 3.5: millis(10)} {
		p := &Picture{Built: now, Names: nodeNames(2), Edges: [][]Edge{{measuredEdge(1, 10)}, {measuredEdge(0, 30)}}, Noise: noise}
		s := NewSnapshot(p)
		if got := s.Estimate(0, 1).Typical; got != want || s.Row(1, ToTarget, Typical).RTT[0] != want {
			t.Errorf("with a noise of %g it is %s, want %s", noise, got, want)
		}
	}
}

// TestLostIsNotMissing has a pair in a zone table and with coordinates: they answer where nobody measured, and not where
// probes were lost.
func TestLostIsNotMissing(t *testing.T) {
	pairs := []Estimate{{Typical: millis(7), Tail: millis(8), Provenance: Zone}}
	coordinates := make([]NetworkCoordinate, 2)
	for i := range coordinates {
		coordinates[i] = NetworkCoordinate{Height: 1e4, Error: 0.1}
	}
	tests := map[string]struct {
		edges      [][]Edge
		zones      *ZoneTable
		want       Estimate
		wantBlocks bool
	}{
		"the zones answer":       {edges: make([][]Edge, 2), zones: pairTable([]int32{0, 0}, 1, pairs), want: pairs[0]},
		"the coordinates answer": {edges: make([][]Edge, 2), want: Estimate{Typical: millis(20), Provenance: Coordinate, Error: coordinates[0].ErrorTo(&coordinates[1])}},
		"lost, with zones":       {edges: [][]Edge{{Lost(1, now, 9)}, nil}, zones: pairTable([]int32{0, 0}, 1, pairs)},
		"lost, with coordinates": {edges: [][]Edge{nil, {Lost(0, now, 9)}}},
		"blocked":                {edges: [][]Edge{{Blocked(1, now)}, nil}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := NewSnapshot(&Picture{Built: now, Names: nodeNames(2), Edges: tt.edges, Zones: tt.zones, Coordinates: coordinates})
			for _, pair := range [][2]int32{{0, 1}, {1, 0}} {
				if diff := gocmp.Diff(tt.want, s.Estimate(pair[0], pair[1]), gocmp.AllowUnexported(RTT{})); diff != "" {
					t.Errorf("%v (-want +got):\n%s", pair, diff)
				}
			}
			if row := s.Row(0, ToTarget, Typical); row.RTT[1] != tt.want.Typical {
				t.Errorf("the row has %s, want %s", row.RTT[1], tt.want.Typical)
			}
			if measured, _ := s.Coverage(); measured != 0 {
				t.Error("the pair counts as measured")
			}
		})
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
	older := snapshotOf([]string{"a", "b", "gone"}, make([][]Edge, 3), nil)
	older.Row(1, ToTarget, Tail)
	older.Row(2, FromTarget, Typical) // of a node that the newer one lacks

	// b has another number now.
	newer := snapshotOf([]string{"0", "a", "b"}, [][]Edge{{measuredEdge(2, 5)}, nil, nil}, nil)
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
	if diff := gocmp.Diff(want, warm); diff != "" {
		t.Errorf("warm rows (-want +got):\n%s", diff)
	}
	if got := newer.Row(2, ToTarget, Tail).RTT[0]; got != millis(10) {
		t.Errorf("the warm row has %s, want the newer snapshot's 10ms", got)
	}

	// A row that was warmed and never read is not carried on for ever.
	third := snapshotOf([]string{"b"}, make([][]Edge, 1), nil)
	unread := snapshotOf([]string{"b"}, make([][]Edge, 1), nil)
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
		"everything, from the higher number": {n: 3, edges: [][2]int32{{2, 1}, {2, 0}, {1, 0}}, wantMeasured: 3, wantPairs: 3},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			edges := make([][]Edge, tt.n)
			for _, e := range tt.edges {
				edges[e[0]] = append(edges[e[0]], measuredEdge(e[1], 10))
			}
			measured, pairs := snapshotOf(nodeNames(tt.n), edges, nil).Coverage()
			if measured != tt.wantMeasured || pairs != tt.wantPairs {
				t.Errorf("Coverage() = %d of %d, want %d of %d", measured, pairs, tt.wantMeasured, tt.wantPairs)
			}
		})
	}
}

func TestCountsAreClamped(t *testing.T) {
	e := NewEdge(1, Estimate{Typical: millis(10), At: now, Count: 1 << 20, Lost: -5})
	got := snapshotOf(nodeNames(2), [][]Edge{{e}, nil}, nil).Estimate(0, 1)
	if got.Count != 1<<16-1 || got.Lost != 0 {
		t.Errorf("counts %d and %d, want 65535 and 0", got.Count, got.Lost)
	}
}

func TestIndex(t *testing.T) {
	s := snapshotOf([]string{"a", "b"}, make([][]Edge, 2), nil)
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
		for j := range k { // ascending, and none twice
			edges[i] = append(edges[i], measuredEdge(int32(j*n/k+rng.IntN(n/k)), 1+100*rng.Float64()))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		Judge(&Picture{Built: now, Names: names, Edges: edges}, &Evidence{}).Snapshot()
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
		for j := range k { // ascending, and none twice
			edges[i] = append(edges[i], measuredEdge(int32(j*n/k+rng.IntN(n/k)), 1+100*rng.Float64()))
		}
	}
	s := snapshotOf(nodeNames(n), edges, z)
	b.ReportAllocs()
	for b.Loop() {
		s.buildRow(7, ToTarget, Typical)
	}
}

// TestRankings has what is known of the pair 0 → 1 beside a ranking of 80 ms from 0 to 1.
func TestRankings(t *testing.T) {
	at := now.Add(-time.Minute)
	edge := func(to int32, ms float64) Edge { return NewEdge(to, Estimate{Typical: millis(ms), At: at}) }
	tests := map[string]struct {
		edges       [2][]Edge
		rankings    [2][]Edge
		zone        bool
		coordinates bool
		want        string
	}{
		"it stands where nothing else is known":       {rankings: [2][]Edge{{edge(1, 80)}}, want: "80ms ranking"},
		"from the other end, too":                     {rankings: [2][]Edge{nil, {edge(0, 80)}}, want: "80ms ranking"},
		"of two the worse":                            {rankings: [2][]Edge{{edge(1, 80)}, {edge(0, 200)}}, want: "200ms ranking"},
		"a measurement replaces it":                   {edges: [2][]Edge{{edge(1, 20)}}, rankings: [2][]Edge{{edge(1, 80)}}, want: "20ms measured"},
		"a measurement of the other end, too":         {edges: [2][]Edge{nil, {edge(0, 20)}}, rankings: [2][]Edge{{edge(1, 80)}}, want: "20ms reverse"},
		"a larger measurement, too":                   {edges: [2][]Edge{{edge(1, 300)}}, rankings: [2][]Edge{{edge(1, 80)}}, want: "300ms measured"},
		"a pair whose probes were lost stays unknown": {edges: [2][]Edge{{Lost(1, at, 3)}}, rankings: [2][]Edge{{edge(1, 80)}}, want: "unknown unknown"},
		"the zone is better":                          {rankings: [2][]Edge{{edge(1, 80)}}, zone: true, want: "5ms zone"},
		"it is better than coordinates":               {rankings: [2][]Edge{{edge(1, 80)}}, coordinates: true, want: "80ms ranking"},
		"a failed one says that nothing is known":     {rankings: [2][]Edge{{Lost(1, at, 3)}}, coordinates: true, want: "unknown unknown"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := &Picture{Built: now, Names: nodeNames(2), Edges: tt.edges[:], Rankings: tt.rankings[:]}
			if tt.zone {
				p.Zones = pairTable([]int32{0, 0}, 1, []Estimate{{Typical: millis(5), Provenance: Zone}})
			}
			if tt.coordinates {
				p.Coordinates = []NetworkCoordinate{{Error: 0.1}, {Vector: [8]float32{3e4}, Error: 0.1}}
			}
			s := NewSnapshot(p)
			e := s.Estimate(0, 1)
			if got := e.Typical.String() + " " + e.Provenance.String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if e.Provenance == Ranking && e.Provenance.IsMeasured() {
				t.Error("a limit may rest on a ranking")
			}
			measured, _ := s.Coverage()
			if want := 0; len(tt.edges[0])+len(tt.edges[1]) == 0 && measured != want {
				t.Errorf("%d measured pairs, want %d", measured, want)
			}
		})
	}
}

func TestDense(t *testing.T) {
	row := func(us ...float32) *Row {
		r := &Row{RTT: make([]RTT, len(us)), Provenance: make([]Provenance, len(us))}
		for i, v := range us {
			r.RTT[i] = RTT{us: v}
		}
		return r
	}
	tests := map[string]struct {
		row      *Row
		want     []float32
		complete bool
	}{
		"all are known":               {row(5, 3, 4), []float32{5, 3, 4}, true},
		"the unknown is a median":     {row(5, 0, 3, 9), []float32{5, 5, 3, 9}, false},
		"nothing but itself is known": {row(0, 50, 0), nil, false},
		"nothing is known":            {row(0, 0), nil, false},
		"no nodes":                    {row(), nil, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				if got := tt.row.Dense(); (got == nil) != (tt.want == nil) || !slices.Equal(got, tt.want) {
					t.Errorf("distances %v, want %v", got, tt.want)
				}
				if got := tt.row.Complete(); got != tt.complete {
					t.Errorf("Complete() = %t, want %t", got, tt.complete)
				}
			}
		})
	}
}
