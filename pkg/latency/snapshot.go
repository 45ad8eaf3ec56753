// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
)

// LocalRTT stands for the distance of a node to itself, 50 µs: about what loopback costs on a small board. It is a constant
// and not the node's control measurement, so that a node short of CPU does not look far from its own pods.
const LocalRTT = 50 * time.Microsecond

var local = Estimate{
	Typical:    RTT{us: float32(LocalRTT / time.Microsecond)},
	Tail:       RTT{us: float32(LocalRTT / time.Microsecond)},
	Provenance: Local,
}

// Edge is a measured estimate towards the node with number To.
type Edge struct {
	To int32
	Estimate
}

// ZoneTable has the RTT between zones, for pairs of nodes that nobody measured.
type ZoneTable struct {
	// Of is each node's zone, by node number; negative: the node has none.
	Of []int32
	// Between returns the estimate for a pair of zones, of provenance Zone or Unknown. It is called for the pairs that
	// somebody asks for and for no others, because there may be a zone a site; it must be safe for concurrent use.
	Between func(a, b int32) Estimate
}

func (z *ZoneTable) estimate(from, to int32) Estimate {
	if z == nil || z.Of[from] < 0 || z.Of[to] < 0 {
		return Estimate{}
	}
	return z.Between(z.Of[from], z.Of[to])
}

// edge is an Edge without padding, 24 bytes. At is in Unix milliseconds.
type edge struct {
	at            int64
	to            int32
	typical, tail RTT
	count, lost   uint16
}

func (e edge) estimate(p Provenance) Estimate {
	return Estimate{
		Typical: e.typical, Tail: e.tail, At: time.UnixMilli(e.at),
		Count: int32(e.count), Lost: int32(e.lost), Provenance: p,
	}
}

// incoming is an edge seen from its target.
type incoming struct{ from, position int32 }

// Direction says which end of a row's pairs is its target.
type Direction uint8

const (
	// ToTarget rows hold the RTT from every node to the target: the target is called.
	ToTarget Direction = iota
	// FromTarget rows hold the RTT from the target to every node: the target calls.
	FromTarget
	numDirections
)

// Row is the distance between one target node and all nodes, indexed by node number. It is immutable.
type Row struct {
	// RTT is each node's distance.
	RTT []RTT
	// Provenance says how each was got.
	Provenance []Provenance

	used atomic.Bool
}

// Snapshot is the immutable picture of all pairs that a scheduling cycle reads. It keeps the measured pairs sparse and
// builds rows when they are first asked for; there is no N² memory. It is safe for concurrent use without locks.
type Snapshot struct {
	built time.Time
	names []string
	index map[string]int32
	out   [][]edge
	in    [][]incoming
	zones *ZoneTable
	rows  [numStatistics][numDirections][]atomic.Pointer[Row]
	// unknown is the row of a target that is no node of the snapshot.
	unknown atomic.Pointer[Row]

	measured int // ordered pairs
}

// NewSnapshot makes a snapshot of the nodes with the given names, numbered in that order. edges[i] are the measurements
// that node i took; where two have the same To the newer one counts. zones may be nil. The arguments belong to the
// snapshot afterwards.
func NewSnapshot(built time.Time, names []string, edges [][]Edge, zones *ZoneTable) *Snapshot {
	n := len(names)
	s := &Snapshot{
		built: built,
		names: names,
		index: make(map[string]int32, n),
		out:   make([][]edge, n),
		in:    make([][]incoming, n),
		zones: zones,
	}
	for i, name := range names {
		s.index[name] = int32(i)
	}
	for st := range s.rows {
		for d := range s.rows[st] {
			s.rows[st][d] = make([]atomic.Pointer[Row], n)
		}
	}
	incomingCount := make([]int32, n)
	for i := range edges {
		es := edges[i]
		slices.SortFunc(es, func(a, b Edge) int {
			return cmp.Or(cmp.Compare(a.To, b.To), b.At.Compare(a.At))
		})
		out := make([]edge, 0, len(es))
		for _, e := range es {
			if e.To == int32(i) || !e.Typical.Known() || len(out) > 0 && out[len(out)-1].to == e.To {
				continue
			}
			out = append(out, edge{
				at: e.At.UnixMilli(), to: e.To, typical: e.Typical, tail: e.Tail,
				count: clamp16(e.Count), lost: clamp16(e.Lost),
			})
			incomingCount[e.To]++
		}
		s.out[i] = out
		s.measured += len(out)
	}
	backing := make([]incoming, s.measured)
	for i, c := range incomingCount {
		s.in[i], backing = backing[:0:c], backing[c:]
	}
	for i, out := range s.out {
		for p, e := range out {
			s.in[e.to] = append(s.in[e.to], incoming{from: int32(i), position: int32(p)})
		}
	}
	return s
}

func clamp16(n int32) uint16 { return uint16(max(0, min(n, 1<<16-1))) }

// Built returns when the snapshot was made.
func (s *Snapshot) Built() time.Time { return s.built }

// Len returns the number of nodes; node numbers are 0 to Len()-1.
func (s *Snapshot) Len() int { return len(s.names) }

// Name returns the name of a node.
func (s *Snapshot) Name(n int32) string { return s.names[n] }

// Nodes numbers nodes. It keeps nothing of a snapshot alive but their names.
type Nodes struct{ index map[string]int32 }

// Index returns the number of the node with a name; ok is false where there is none.
func (n Nodes) Index(name string) (number int32, ok bool) {
	number, ok = n.index[name]
	return number, ok
}

// Nodes returns the numbers of the snapshot's nodes.
func (s *Snapshot) Nodes() Nodes { return Nodes{s.index} }

// Index returns the number of the node with a name; ok is false where the snapshot does not know it.
func (s *Snapshot) Index(name string) (n int32, ok bool) {
	n, ok = s.index[name]
	return n, ok
}

// Coverage returns the number of unordered pairs of different nodes, and how many of them at least one side measured.
func (s *Snapshot) Coverage() (measured, pairs int) {
	for i, out := range s.out {
		for _, e := range out {
			if int32(i) < e.to {
				measured++
			} else if _, both := s.find(e.to, int32(i)); !both {
				measured++
			}
		}
	}
	return measured, s.Len() * (s.Len() - 1) / 2
}

// MeasuredBy returns how many nodes the node measured.
func (s *Snapshot) MeasuredBy(n int32) int { return len(s.out[n]) }

func (s *Snapshot) find(from, to int32) (edge, bool) {
	out := s.out[from]
	i, ok := slices.BinarySearchFunc(out, to, func(e edge, to int32) int { return cmp.Compare(e.to, to) })
	if !ok {
		return edge{}, false
	}
	return out[i], true
}

// Estimate returns what is known of the RTT from the caller to the callee: the best provenance that there is.
func (s *Snapshot) Estimate(caller, callee int32) Estimate {
	if caller == callee {
		return local
	}
	if e, ok := s.find(caller, callee); ok {
		return e.estimate(Measured)
	}
	if e, ok := s.find(callee, caller); ok {
		return e.estimate(Reverse)
	}
	return s.zones.estimate(caller, callee)
}

// Row returns the row of a target. The first call for a target costs O(nodes), every further one a pointer load.
func (s *Snapshot) Row(target int32, d Direction, st Statistic) *Row {
	slot := &s.rows[st][d][target]
	r := slot.Load()
	if r == nil {
		// Two cycles may build the same row at once; both are right, and one is dropped.
		r = s.buildRow(target, d, st)
		slot.Store(r)
	}
	if !r.used.Load() {
		r.used.Store(true)
	}
	return r
}

// UnknownRow returns the row of a target that the snapshot does not know: every distance in it is unknown.
func (s *Snapshot) UnknownRow() *Row {
	r := s.unknown.Load()
	if r == nil {
		r = &Row{RTT: make([]RTT, len(s.names)), Provenance: make([]Provenance, len(s.names))}
		s.unknown.Store(r)
	}
	return r
}

// Warm takes over from an older snapshot what is the same, the numbers of the nodes, and builds the rows that were read in it, so
// that the first cycle on this one does not pay for them. Call it before others see the snapshot.
func (s *Snapshot) Warm(older *Snapshot) {
	if slices.Equal(s.names, older.names) {
		s.names, s.index = older.names, older.index
	}
	for st := range older.rows {
		for d := range older.rows[st] {
			for i := range older.rows[st][d] {
				if r := older.rows[st][d][i].Load(); r == nil || !r.used.Load() {
					continue
				}
				if n, ok := s.index[older.names[i]]; ok {
					s.rows[st][d][n].Store(s.buildRow(n, Direction(d), Statistic(st)))
				}
			}
		}
	}
}

func (s *Snapshot) buildRow(target int32, d Direction, st Statistic) *Row {
	n := len(s.names)
	r := &Row{RTT: make([]RTT, n), Provenance: make([]Provenance, n)}
	if z := s.zones; z != nil && z.Of[target] >= 0 {
		perZone := map[int32]Estimate{} // many nodes, few zones
		for i := range n {
			zone := z.Of[i]
			if zone < 0 {
				continue
			}
			e, ok := perZone[zone]
			if !ok {
				e = z.Between(zone, z.Of[target])
				if d == FromTarget {
					e = z.Between(z.Of[target], zone)
				}
				perZone[zone] = e
			}
			if e.RTT(st).Known() {
				r.RTT[i], r.Provenance[i] = e.RTT(st), e.Provenance
			}
		}
	}
	set := func(i int32, e edge, p Provenance) {
		rtt := e.typical
		if st == Tail {
			rtt = e.tail
		}
		// A measurement without a tail does not wipe out what else is known.
		if rtt.Known() {
			r.RTT[i], r.Provenance[i] = rtt, p
		}
	}
	byTarget, byOthers := Reverse, Measured
	if d == FromTarget {
		byTarget, byOthers = Measured, Reverse
	}
	own := func() {
		for _, e := range s.out[target] {
			set(e.to, e, byTarget)
		}
	}
	others := func() {
		for _, in := range s.in[target] {
			set(in.from, s.out[in.from][in.position], byOthers)
		}
	}
	// The later one wins: what the caller measured.
	if d == FromTarget {
		others()
		own()
	} else {
		own()
		others()
	}
	r.RTT[target], r.Provenance[target] = local.RTT(st), Local
	return r
}
