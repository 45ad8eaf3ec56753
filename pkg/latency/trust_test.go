// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// line has nodes on a line, at these milliseconds, each of which measured all others. The distance of two is what is between
// them and 1 ms.
type line struct {
	at    []float64
	edges [][]Edge
}

func newLine(at ...float64) *line {
	l := &line{at: at, edges: make([][]Edge, len(at))}
	for i := range at {
		for j := range at {
			if i != j {
				l.says(int32(i), int32(j), l.truth(i, j))
			}
		}
	}
	return l
}

func (l *line) truth(i, j int) float64 { return math.Abs(l.at[i]-l.at[j]) + 1 }

// says puts a measurement in the place of what a node says of another, none for 0.
func (l *line) says(from, to int32, ms float64) {
	l.set(from, NewEdge(to, Estimate{Typical: millis(ms), Tail: millis(2 * ms), At: now, Count: 9}))
}

func (l *line) set(from int32, e Edge) {
	l.edges[from] = slices.DeleteFunc(l.edges[from], func(old Edge) bool { return old.To == e.To })
	if !e.nothing() {
		l.edges[from] = append(l.edges[from], e)
		slices.SortFunc(l.edges[from], func(a, b Edge) int { return cmp.Compare(a.To, b.To) })
	}
}

func (l *line) judge(ev Evidence) *Verdict {
	return Judge(&Picture{Built: now, Names: nodeNames(len(l.at)), Edges: l.edges}, &ev)
}

// found prints who is suspect and what is rejected.
func found(v *Verdict) []string {
	var got []string
	for i, s := range v.Standing {
		if s.Suspect() {
			got = append(got, fmt.Sprintf("%d is suspect", i))
		}
	}
	for _, r := range v.Rejected {
		got = append(got, fmt.Sprintf("%d→%d %s", r.From, r.To, r.Reason))
	}
	for _, i := range v.Misplaced {
		got = append(got, fmt.Sprintf("%d is misplaced", i))
	}
	slices.Sort(got)
	return got
}

func TestJudge(t *testing.T) {
	positions := func(texts ...string) []Position {
		ps := make([]Position, 6)
		for i, text := range texts {
			if text != "" {
				ps[i] = position(t, text)
			}
		}
		return ps
	}
	older := func(to int32, ms float64, age time.Duration) Edge {
		return NewEdge(to, Estimate{Typical: millis(ms), At: now.Add(-age)})
	}
	tests := map[string]struct {
		change   func(l *line)
		evidence Evidence
		want     []string
	}{
		"honest nodes": {change: func(*line) {}},
		"two ends that differ within the noise": {
			change: func(l *line) { l.says(0, 1, 10.4); l.says(1, 0, 9.6) },
		},
		"one that understates all it measured": {
			change: func(l *line) {
				for j := range int32(5) {
					l.says(5, j, l.truth(5, int(j))/2)
				}
			},
			want: []string{"5 is suspect"},
		},
		"one that overstates all it measured": {
			change: func(l *line) {
				for j := range int32(5) {
					l.says(5, j, l.truth(5, int(j))*3)
				}
			},
			want: []string{"5 is suspect"},
		},
		"one that lies about half of them is none yet": {
			change: func(l *line) { l.says(5, 0, 1); l.says(5, 1, 1); l.says(5, 2, 0) },
		},
		"two who could contradict are too few": {
			change: func(l *line) {
				l.says(5, 0, 1)
				l.says(5, 1, 1)
				for j := range int32(5) {
					if j > 1 {
						l.says(5, j, 0)
					}
				}
			},
		},
		"a distrusted node contradicts nobody": {
			change: func(l *line) {
				for j := range int32(5) {
					l.says(5, j, 1)
				}
				for j := range int32(5) {
					if j != 2 { // 2 is judged by 5 and two others alone
						continue
					}
					l.says(0, j, 0)
					l.says(1, j, 0)
				}
			},
			evidence: Evidence{Distrusted: []bool{5: true}},
			want:     []string{"5 is suspect"}, // and stays so
		},
		"what a distrusted node says is left out and not rejected": {
			change:   func(l *line) { l.says(5, 0, 2); l.says(0, 5, 0) },
			evidence: Evidence{Distrusted: []bool{5: true}},
		},
		"a claim that nobody can contradict, but three rule out": {
			change: func(l *line) { l.says(5, 0, 2); l.says(0, 5, 0) },
			want:   []string{"5→0 implausible"},
		},
		"the same against witnesses that the target measured": {
			change: func(l *line) {
				l.says(5, 0, 2)
				l.says(0, 5, 0)
				for j := range int32(5) {
					if j > 0 {
						l.says(j, 0, 0)
					}
				}
			},
			want: []string{"5→0 implausible"},
		},
		"a claim that is above a half": {
			change: func(l *line) { l.says(5, 0, 26); l.says(0, 5, 0) },
		},
		"two witnesses are too few": {
			change: func(l *line) {
				l.says(5, 0, 2)
				l.says(0, 5, 0)
				l.says(3, 5, 0)
				l.says(4, 5, 0)
				l.says(0, 3, 0)
				l.says(0, 4, 0)
			},
		},
		"witnesses that are distrusted are none": {
			change:   func(l *line) { l.says(5, 0, 2); l.says(0, 5, 0) },
			evidence: Evidence{Distrusted: []bool{3: true, 4: true, 5: false}},
		},
		"claims count against their node": {
			change: func(l *line) {
				for j := range int32(5) {
					l.says(5, j, 0.1)
					l.says(j, 5, 0)
				}
				// Witnesses that 5 says nothing of, and that have a distance to it.
				l.says(5, 1, 0)
				l.says(1, 5, l.truth(1, 5))
				l.says(5, 2, 0)
				l.says(2, 5, l.truth(2, 5))
				l.says(5, 3, 0)
				l.says(3, 5, l.truth(3, 5))
			},
			want: []string{"5→0 implausible", "5→4 implausible"},
		},
		"what one end lost long after the other measured": {
			change: func(l *line) { l.set(0, Lost(1, now, 9)); l.set(1, older(0, 10, 121*time.Second)) },
			want:   []string{"1→0 lost"},
		},
		"what one end lost, and the other may have measured since": {
			change: func(l *line) { l.set(0, Lost(1, now, 9)); l.set(1, older(0, 10, 119*time.Second)) },
		},
		"what one end lost, and the other reports seldom": {
			change:   func(l *line) { l.set(0, Lost(1, now, 9)); l.set(1, older(0, 10, 3*time.Minute)) },
			evidence: Evidence{Refresh: []time.Duration{1: 8 * time.Minute, 5: 0}},
		},
		"what was blocked for another reason outdates nothing": {
			change: func(l *line) { l.set(0, Blocked(1, now)); l.set(1, older(0, 10, 3*time.Minute)) },
		},
		"a distrusted node's loss outdates nothing": {
			change:   func(l *line) { l.set(0, Lost(1, now, 9)); l.set(1, older(0, 10, 3*time.Minute)) },
			evidence: Evidence{Distrusted: []bool{0: true, 5: false}},
		},
		"positions that fit": {
			change:   func(*line) {},
			evidence: Evidence{Positions: positions("0,0", "0,5", "", "0,10")},
		},
		"both ends faster than light": {
			change:   func(*line) {}, // 0 and 2: 21 ms; 30° are 33.4 ms
			evidence: Evidence{Positions: positions("0,0", "", "0,30")},
			want:     []string{"0→2 faster_than_light", "2→0 faster_than_light"},
		},
		"one end faster than light": {
			change:   func(l *line) { l.says(0, 2, 5) }, // 10° are 11.1 ms
			evidence: Evidence{Positions: positions("0,0", "", "0,10")},
			want:     []string{"0→2 faster_than_light"},
		},
		"a position that all others rule out": {
			change:   func(*line) {},
			evidence: Evidence{Positions: positions("0,0", "0,5", "0,10", "-60,180", "0,1", "0,1")},
			want:     []string{"3 is misplaced"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLine(0, 10, 20, 30, 40, 50)
			tt.change(l)
			before := make([][]Edge, len(l.edges))
			for i := range l.edges {
				before[i] = slices.Clone(l.edges[i])
			}
			v := l.judge(tt.evidence)
			if diff := gocmp.Diff(tt.want, found(v)); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			if diff := gocmp.Diff(before, l.edges, gocmp.AllowUnexported(Edge{}, RTT{})); diff != "" {
				t.Errorf("the picture changed:\n%s", diff)
			}
			s := v.Snapshot()
			for _, r := range v.Rejected {
				if e := find(s.out, r.From, r.To); e == nil || e.Measured() || e.nothing() {
					t.Errorf("%d→%d is rejected, and the snapshot has %+v", r.From, r.To, e)
				}
			}
			for i, distrusted := range tt.evidence.Distrusted {
				if n := s.MeasuredBy(int32(i)); distrusted && n > 0 {
					t.Errorf("%d is distrusted, and %d of its measurements count", i, n)
				}
			}
		})
	}
}

// TestADistrustedNodeIsMissing: what it says is as if it was not there, so that others' measurements and estimates answer.
func TestADistrustedNodeIsMissing(t *testing.T) {
	l := newLine(0, 10, 20)
	l.says(2, 0, 1)
	l.says(0, 2, 0)
	zones := pairTable(make([]int32, 3), 1, []Estimate{{Typical: millis(7), Provenance: Zone}})
	p := &Picture{Built: now, Names: nodeNames(3), Edges: l.edges}
	v := Judge(p, &Evidence{Distrusted: []bool{false, false, true}})
	v.Believed.Zones = zones
	s := v.Snapshot()
	for want, pair := range map[string][2]int32{"7ms zone": {2, 0}, "11ms reverse": {2, 1}, "11ms measured": {1, 2}} {
		if e := s.Estimate(pair[0], pair[1]); fmt.Sprintf("%s %s", e.Typical, e.Provenance) != want {
			t.Errorf("%v is %s %s, want %s", pair, e.Typical, e.Provenance, want)
		}
	}
}

// TestANoisyNetwork has ends that differ by a factor up to 4 all the time: nobody is suspect for that.
func TestANoisyNetwork(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	l := newLine(make([]float64, 40)...)
	for i := range l.at {
		l.at[i] = 200 * rng.Float64()
	}
	for i := range l.at {
		for j := range l.at {
			if i != j {
				l.says(int32(i), int32(j), l.truth(i, j)*math.Pow(2, 2*rng.Float64()-1))
			}
		}
	}
	if got := found(l.judge(Evidence{})); len(got) > 0 {
		t.Errorf("found %v", got)
	}
	for j := range int32(39) {
		l.says(39, j, 0.2)
	}
	if got := found(l.judge(Evidence{})); !slices.Equal(got, []string{"39 is suspect"}) {
		t.Errorf("found %v, want the one that lies", got)
	}
}

// TestANetworkThatIsNoSpace has distances of which none says anything about another: what one end alone measured is not held against
// the triangle inequality there, unless it is out of all proportion.
func TestANetworkThatIsNoSpace(t *testing.T) {
	const n = 100
	rng := rand.New(rand.NewPCG(4, 4))
	l := &line{at: make([]float64, n), edges: make([][]Edge, n)}
	for i := range int32(n) {
		for j := range i { // one end of each pair
			l.says(max(i, j)-(i+j)%2*(i-j), min(i, j)+(i+j)%2*(i-j), 5*math.Pow(60, rng.Float64()))
		}
	}
	if got := found(l.judge(Evidence{})); len(got) > 0 {
		t.Errorf("found %v", got)
	}
	to := l.edges[50][0].To
	l.says(50, to, 0.1)
	if got := found(l.judge(Evidence{})); !slices.Equal(got, []string{fmt.Sprintf("50→%d implausible", to)}) {
		t.Errorf("found %v, want the one claim", got)
	}
}

func TestDisputedPairs(t *testing.T) {
	l := newLine(0, 10, 20)
	l.says(0, 1, 5)    // of 11
	l.says(1, 2, 10.2) // of 11: the noise
	l.says(2, 0, 0)
	if got := l.judge(Evidence{}).Disputed; got != 1 {
		t.Errorf("%d pairs are disputed, want 1", got)
	}
}

// coordinates puts the nodes of a line where they are.
func (l *line) coordinates() []NetworkCoordinate {
	cs := make([]NetworkCoordinate, len(l.at))
	for i, x := range l.at {
		cs[i] = NetworkCoordinate{Vector: [8]float32{float32(x * 1000)}, Height: 500, Error: 0.9}
	}
	return cs
}

func TestJudgeCoordinates(t *testing.T) {
	tests := map[string]struct {
		change     func(l *line, cs []NetworkCoordinate)
		distrusted []bool
		want       map[int]Reason
		wantError  float32 // of node 0
	}{
		"settled ones, whatever error they report": {
			change:    func(*line, []NetworkCoordinate) {},
			wantError: MinError,
		},
		"what others measured says how wrong one is": {
			change:    func(_ *line, cs []NetworkCoordinate) { cs[0].Height *= 11 }, // 5 ms more of 11, 21, … 51 ms: in the middle a sixth
			wantError: 5.0 / 31,
		},
		"a node that puts itself elsewhere": {
			change: func(_ *line, cs []NetworkCoordinate) { cs[5].Vector[0], cs[5].Error = 0, 0.01 },
			want:   map[int]Reason{5: ReasonInaccurate}, wantError: MinError,
		},
		"its own measurements do not vouch for it": {
			change: func(l *line, cs []NetworkCoordinate) {
				cs[5].Vector[0] = 0
				for j := range int32(5) {
					l.says(5, j, l.truth(0, int(j)))
				}
			},
			want: map[int]Reason{5: ReasonInaccurate}, wantError: MinError,
		},
		"where too few measured the node its own word counts": {
			change: func(l *line, cs []NetworkCoordinate) {
				for j := range int32(5) {
					if j > 1 {
						l.says(j, 5, 0)
					}
				}
				cs[5] = NetworkCoordinate{Error: 0.99}
			},
			wantError: MinError,
		},
		"and can be that it is of no use": {
			change: func(l *line, cs []NetworkCoordinate) {
				for j := range int32(5) {
					if j > 1 {
						l.says(j, 5, 0)
					}
				}
				cs[5].Error = 1
			},
			want: map[int]Reason{5: ReasonInaccurate}, wantError: MinError,
		},
		"a distrusted node": {
			change:     func(*line, []NetworkCoordinate) {},
			distrusted: []bool{5: true},
			want:       map[int]Reason{5: ReasonDistrusted}, wantError: MinError,
		},
		"a network in which the coordinates of most are of no use": {
			change: func(_ *line, cs []NetworkCoordinate) { // those of 1 and 2 would do
				for _, i := range []int{0, 3, 4, 5} {
					cs[i].Height += 12_000
				}
			},
			want: map[int]Reason{
				0: ReasonInaccurate, 1: ReasonInaccurate, 2: ReasonInaccurate, 3: ReasonInaccurate, 4: ReasonInaccurate, 5: ReasonInaccurate,
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLine(0, 10, 20, 30, 40, 50)
			cs := l.coordinates()
			tt.change(l, cs)
			v := Judge(&Picture{Built: now, Names: nodeNames(6), Edges: l.edges, Coordinates: cs}, &Evidence{Distrusted: tt.distrusted})
			got := map[int]Reason{}
			for i, r := range v.Coordinate {
				if r != "" {
					got[i] = r
				}
				if (r == "") != (v.Believed.Coordinates[i].Error > 0) {
					t.Errorf("node %d: reason %q, coordinate %+v", i, r, v.Believed.Coordinates[i])
				}
			}
			if tt.want == nil {
				tt.want = map[int]Reason{}
			}
			if diff := gocmp.Diff(tt.want, got); diff != "" {
				t.Errorf("not used (-want +got):\n%s", diff)
			}
			if got := v.Believed.Coordinates[0].Error; math.Abs(float64(got-tt.wantError)) > 1e-3 {
				t.Errorf("the error of node 0 is %g, want %g", got, tt.wantError)
			}
		})
	}
}

// TestHearsay: who measured the liar knows by coordinates how far the target is, of which nobody but the liar and the target's own
// neighbours measured anything.
func TestHearsay(t *testing.T) {
	l := newLine(0, 2, 4, 6, 100, 102, 104, 106)
	// Two groups that did not measure each other, but that 0 claims to be next to 4.
	for i := range int32(4) {
		for j := range int32(4) {
			l.says(i, j+4, 0)
			l.says(j+4, i, 0)
		}
	}
	l.says(0, 4, 2)
	p := &Picture{Built: now, Names: nodeNames(8), Edges: l.edges}
	if got := found(Judge(p, &Evidence{})); len(got) > 0 {
		t.Errorf("without coordinates nobody can know: found %v", got)
	}
	p.Coordinates = l.coordinates()
	if got := found(Judge(p, &Evidence{})); !slices.Equal(got, []string{"0→4 implausible"}) {
		t.Errorf("found %v, want the claim", got)
	}
	l.says(0, 4, 60) // not as good as nothing
	if got := found(Judge(p, &Evidence{})); len(got) > 0 {
		t.Errorf("found %v: that may be so", got)
	}
}

// TestWhoeverSaysMoreHasNoMoreWeight has a few nodes that claim to be next to everyone, and so are witnesses of one another.
func TestWhoeverSaysMoreHasNoMoreWeight(t *testing.T) {
	const n, liars = 400, 12
	rng := rand.New(rand.NewPCG(2, 2))
	at := make([]float64, n)
	for i := range at {
		at[i] = 100 * rng.Float64()
	}
	l := &line{at: at, edges: make([][]Edge, n)}
	for i := range int32(n) {
		for j := range int32(16) {
			if to := (i + 1 + j*j*3) % n; to != i {
				l.says(i, to, l.truth(int(i), int(to)))
			}
		}
	}
	for i := range int32(liars) {
		for j := range int32(n) {
			if i != j {
				l.says(i, j, 0.2)
			}
		}
	}
	v := Judge(&Picture{Built: now, Names: nodeNames(n), Edges: l.edges, Coordinates: l.coordinates()}, &Evidence{})
	for i, s := range v.Standing {
		if s.Suspect() != (i < liars) {
			t.Errorf("node %d: suspect %t (%+v)", i, s.Suspect(), s)
		}
	}
	for _, r := range v.Rejected {
		if r.From >= liars {
			t.Errorf("an honest measurement is rejected: %+v", r)
		}
	}
}

// TestMemory: in a large cluster not all nodes are examined each time, but what is new is, and the rest in turn.
func TestMemory(t *testing.T) {
	const n, k = 3000, 24
	rng := rand.New(rand.NewPCG(3, 3))
	at := make([]float64, n)
	for i := range at {
		at[i] = 100 * rng.Float64()
	}
	l := &line{at: at, edges: make([][]Edge, n)}
	for i := range int32(n) {
		for j := range int32(k) {
			to := (i + 1 + j*(n/k)) % n
			l.edges[i] = append(l.edges[i], NewEdge(to, Estimate{Typical: millis(l.truth(int(i), int(to))), At: now}))
		}
		slices.SortFunc(l.edges[i], func(a, b Edge) int { return cmp.Compare(a.To, b.To) })
	}
	cs := l.coordinates()
	var memory Memory
	judge := func() *Verdict {
		edges := slices.Clone(l.edges) // a new picture each time, of the same statements
		return Judge(&Picture{Built: now, Names: nodeNames(n), Edges: edges, Coordinates: cs}, &Evidence{Memory: &memory})
	}
	if got := found(judge()); len(got) > 0 {
		t.Fatalf("at first: %v", got)
	}
	lie := func(i int32) (to int32) {
		l.edges[i] = slices.Clone(l.edges[i])
		far := slices.IndexFunc(l.edges[i], func(e Edge) bool { return e.typical.us > 40_000 })
		to = l.edges[i][far].To
		l.says(i, to, 0.5)
		return to
	}
	want := []string{fmt.Sprintf("7→%d implausible", lie(7))}
	if got := found(judge()); !slices.Equal(got, want) {
		t.Errorf("a new lie: found %v, want %v", got, want)
	}
	if got := found(judge()); !slices.Equal(got, want) {
		t.Errorf("an old lie: found %v, want %v", got, want)
	}
	// What was believed turns out wrong by others' reports.
	l.edges[7] = slices.Clone(l.edges[7])
	witnesses := 0
	for i := range int32(n) {
		if k := slices.IndexFunc(l.edges[i], func(e Edge) bool { return e.To == 7 }); k >= 0 && i != 7 {
			l.edges[i] = slices.Delete(slices.Clone(l.edges[i]), k, k+1)
			witnesses++
		}
	}
	if got := found(judge()); witnesses < 3 || len(got) > 0 {
		t.Errorf("without a witness: found %v", got)
	}
	for i := range int32(witnesses) {
		x := 100 + i*50
		l.edges[x] = slices.Clone(l.edges[x])
		l.says(x, 7, l.truth(int(x), 7))
	}
	rounds := 0
	for ; rounds < 10; rounds++ {
		if got := found(judge()); slices.Equal(got, want) {
			break
		}
	}
	if rounds == 10 {
		t.Error("new witnesses are never heard")
	}
}

// TestJudgeRankings: the rules are of RTTs. A ranking is no witness and is not judged, however impossible it were as an RTT; only a distrusted node's is left out.
func TestJudgeRankings(t *testing.T) {
	const n = 8
	edge := func(to int32, ms float64) Edge {
		return NewEdge(to, Estimate{Typical: millis(ms), At: now.Add(-time.Minute)})
	}
	picture := func(rankings [][]Edge) *Picture {
		p := &Picture{Built: now, Names: nodeNames(n), Edges: make([][]Edge, n), Rankings: rankings}
		for i := range int32(n) {
			for to := range int32(n) {
				if to != i && (i+to)%3 != 0 {
					p.Edges[i] = append(p.Edges[i], edge(to, 50+float64(i+to)))
				}
			}
		}
		return p
	}
	rankings := make([][]Edge, n)
	for i := range int32(n) {
		for to := range int32(n) {
			if to != i {
				rankings[i] = append(rankings[i], edge(to, 0.001)) // faster than light, and contradicted by everybody
			}
		}
	}
	positions := make([]Position, n)
	for i := range positions {
		var err error
		if positions[i], err = ParsePosition(fmt.Sprintf("%d,%d", 5*i, 5*i)); err != nil {
			t.Fatal(err)
		}
	}
	evidence := func() *Evidence { return &Evidence{Positions: positions} }
	with, without := Judge(picture(rankings), evidence()), Judge(picture(nil), evidence())
	if !slices.Equal(with.Standing, without.Standing) {
		t.Errorf("rankings change how nodes stand: %v, without %v", with.Standing, without.Standing)
	}
	if len(with.Rejected) != len(without.Rejected) || len(with.Misplaced) != len(without.Misplaced) || with.Disputed != without.Disputed {
		t.Errorf("with rankings %d are rejected, %d misplaced, %d disputed; without %d, %d, %d", len(with.Rejected), len(with.Misplaced), with.Disputed,
			len(without.Rejected), len(without.Misplaced), without.Disputed)
	}
	if e := with.Snapshot().Estimate(1, 2); e.Provenance != Ranking {
		t.Errorf("a pair that nobody measured is %s (%s), want a ranking", e.Typical, e.Provenance)
	}
	ev := evidence()
	ev.Distrusted = make([]bool, n)
	ev.Distrusted[1], ev.Distrusted[2] = true, true
	if e := Judge(picture(rankings), ev).Snapshot().Estimate(1, 2); e.Provenance != Unknown {
		t.Errorf("a pair of distrusted nodes is %s (%s), want unknown", e.Typical, e.Provenance)
	}
}
