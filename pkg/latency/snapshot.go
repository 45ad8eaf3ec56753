// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"
)

// LocalRTT stands for the distance of a node to itself, 50 µs: about what loopback costs on a small board. It is a constant
// and not the node's control measurement, so that a node short of CPU does not look far from its own pods.
const LocalRTT = 50 * time.Microsecond

var local = Estimate{
	Typical:    RTT{us: float32(LocalRTT / time.Microsecond)},
	Tail:       RTT{us: float32(LocalRTT / time.Microsecond)},
	Provenance: Local,
}

// ZoneTable has the RTT between zones, for pairs of nodes that nobody measured.
type ZoneTable struct {
	// Of is each node's zone, by node number; negative: the node has none.
	Of []int32
	// Between returns the estimate for a pair of zones, of provenance Zone or Unknown. It is called for the pairs that
	// somebody asks for and for no others, because there may be a zone a site; it must be safe for concurrent use.
	Between func(a, b int32) Estimate
}

// zones returns the number of zones.
func (z *ZoneTable) zones() int {
	n := int32(0)
	for _, zone := range z.Of {
		n = max(n, zone+1)
	}
	return int(n)
}

func (z *ZoneTable) estimate(from, to int32) Estimate {
	if z == nil || z.Of[from] < 0 || z.Of[to] < 0 {
		return Estimate{}
	}
	return z.Between(z.Of[from], z.Of[to])
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

// Row is the distance between one target node and all nodes, indexed by node number. It is immutable, but for one that Section fills.
type Row struct {
	// RTT is each node's distance.
	RTT []RTT
	// Provenance says how each was got.
	Provenance []Provenance

	used  atomic.Bool
	dense atomic.Pointer[[]float32]
	// complete is 0 until somebody asks.
	complete atomic.Uint32
}

const (
	isComplete = 1 + iota
	hasUnknown
)

// Complete reports whether every distance is known. The first call costs O(nodes).
func (r *Row) Complete() bool {
	c := r.complete.Load()
	if c == 0 {
		c = isComplete
		if slices.ContainsFunc(r.RTT, func(rtt RTT) bool { return !rtt.Known() }) {
			c = hasUnknown
		}
		r.complete.Store(c)
	}
	return c == isComplete
}

// Dense returns each node's distance in microseconds, in which an unknown one counts as about the median of the known; nil where none is known.
// It is for ranking nodes roughly, where a median is as good as unknown can be. It must not be changed. The first call costs O(nodes).
func (r *Row) Dense() []float32 {
	if d := r.dense.Load(); d != nil {
		return *d
	}
	known := 0
	for _, rtt := range r.RTT {
		if rtt.Known() {
			known++
		}
	}
	var d []float32
	switch {
	case known < 2: // the target's own distance to itself is no sign of anything
	case known == len(r.RTT):
		// Where all is known the row is what is wanted, and no copy has to be kept.
		const _ = -(unsafe.Sizeof(RTT{}) ^ unsafe.Sizeof(float32(0))) // both are one float32, or this does not compile
		d = unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(r.RTT))), len(r.RTT))
	default:
		d = make([]float32, len(r.RTT))
		median := r.median(known)
		for i, rtt := range r.RTT {
			if us, ok := rtt.Micros(); ok {
				d[i] = us
			} else {
				d[i] = median
			}
		}
	}
	r.dense.Store(&d)
	return d
}

// median returns the median, in microseconds, of so many known distances; of very many, that of some, evenly spread.
func (r *Row) median(known int) float32 {
	var buffer [128]float32
	some := buffer[:0]
	step := 1 + (known-1)/len(buffer)
	next := 0
	for _, rtt := range r.RTT {
		us, ok := rtt.Micros()
		if !ok {
			continue
		}
		if next == 0 {
			some = append(some, us)
			next = step
		}
		next--
	}
	slices.Sort(some)
	return some[len(some)/2]
}

// Picture is what a snapshot is made of. Nothing in it may be changed afterwards.
type Picture struct {
	Built time.Time
	// Names are the nodes' names, numbered in this order.
	Names []string
	// Index has the numbers by name; made where it is nil.
	Index map[string]int32
	// Edges are what each node says, by its number: in ascending order of To, one a target, none to itself.
	Edges [][]Edge
	// Rankings are like Edges, but what they measured is no RTT: see Report.RankingOnly. The slice may be nil. They are apart from the
	// edges so that nothing that is said of RTTs can be said of them.
	Rankings [][]Edge
	// Coordinates are the nodes' own, by number, all of which passed Check; where Error is 0 a node has none. The slice may be nil.
	Coordinates []NetworkCoordinate
	// Zones may be nil.
	Zones *ZoneTable
	// Noise is the ratio of the two ends' RTTs up to which they are the same; 1.1 where it is 0.
	Noise float32
}

// Snapshot is the immutable picture of all pairs that a scheduling cycle reads. It keeps the measured pairs sparse and
// builds rows when they are first asked for; there is no N² memory. It is safe for concurrent use without locks.
type Snapshot struct {
	serial uint64
	built  time.Time
	names  []string
	index  map[string]int32
	out    [][]Edge
	in     [][]incoming
	// rankings, and what leads to a node among them; nil where there are none.
	rankings    [][]Edge
	rankingsIn  [][]incoming
	noise       float32
	coordinates []NetworkCoordinate
	// radius has, for each node, the distance in microseconds within which there is no node that it did not measure; nil without
	// coordinates.
	radius []float32
	zones  *ZoneTable
	rows   [numStatistics][numDirections][]atomic.Pointer[Row]
	// unknown is the row of a target that is no node of the snapshot.
	unknown atomic.Pointer[Row]

	measured int // unordered pairs
}

// NewSnapshot makes a snapshot that believes all of a picture.
func NewSnapshot(p *Picture) *Snapshot {
	in := incomingOf(p.Edges)
	return newSnapshot(p, in, twinsOf(p.Edges, in))
}

func newSnapshot(p *Picture, in [][]incoming, twins [][]int32) *Snapshot {
	n := len(p.Names)
	s := &Snapshot{
		serial: serials.Add(1), built: p.Built, names: p.Names, index: p.Index, out: p.Edges, in: in, coordinates: p.Coordinates, zones: p.Zones,
		noise: max(p.Noise, noiseRatio),
	}
	if p.Coordinates != nil {
		s.radius = make([]float32, n)
		for i := range p.Edges {
			s.radius[i] = radiusOf(p.Edges[i])
		}
	}
	if slices.ContainsFunc(p.Rankings, func(e []Edge) bool { return len(e) > 0 }) {
		s.rankings, s.rankingsIn = p.Rankings, incomingOf(p.Rankings)
	}
	if s.index == nil {
		s.index = make(map[string]int32, n)
		for i, name := range p.Names {
			s.index[name] = int32(i)
		}
	}
	for st := range s.rows {
		for d := range s.rows[st] {
			s.rows[st][d] = make([]atomic.Pointer[Row], n)
		}
	}
	for i := range s.out {
		for k := range s.out[i] {
			e := &s.out[i][k]
			if !e.Measured() {
				continue
			}
			// A pair that both ends measured counts at the lower one.
			if t := twins[i][k]; t < 0 || int32(i) < e.To || !s.out[e.To][t].Measured() {
				s.measured++
			}
		}
	}
	return s
}

// incomingOf turns edges round: for each node the edges that lead to it, by the number of who took them.
func incomingOf(out [][]Edge) [][]incoming {
	counts := make([]int32, len(out))
	total := 0
	for i := range out {
		for j := range out[i] {
			counts[out[i][j].To]++
		}
		total += len(out[i])
	}
	in := make([][]incoming, len(out))
	backing := make([]incoming, total)
	for i, c := range counts {
		in[i], backing = backing[:0:c], backing[c:]
	}
	for i := range out {
		for p := range out[i] {
			to := out[i][p].To
			in[to] = append(in[to], incoming{from: int32(i), position: int32(p)})
		}
	}
	return in
}

// twinsOf finds, for each edge, the place of the one that leads back among the edges of the node at its other end; -1 where there is
// none.
func twinsOf(out [][]Edge, in [][]incoming) [][]int32 {
	total := 0
	for i := range out {
		total += len(out[i])
	}
	backing := make([]int32, total)
	twins := make([][]int32, len(out))
	for i := range out {
		twins[i], backing = backing[:len(out[i]):len(out[i])], backing[len(out[i]):]
		j := 0
		for k := range out[i] {
			to := out[i][k].To
			for j < len(in[i]) && in[i][j].from < to {
				j++
			}
			twins[i][k] = -1
			if j < len(in[i]) && in[i][j].from == to {
				twins[i][k] = in[i][j].position
			}
		}
	}
	return twins
}

// pairs calls f for every node of which a node says something or that says something of it, in the order of their numbers: own is
// the node's edge to it, others its edge to the node; at least one is not nil. in is what incomingOf makes of out.
func pairs(out [][]Edge, in [][]incoming, node int32, f func(other int32, own, others *Edge)) {
	own, others := out[node], in[node]
	for i, j := 0, 0; i < len(own) || j < len(others); {
		switch {
		case j == len(others) || i < len(own) && own[i].To < others[j].from:
			f(own[i].To, &own[i], nil)
			i++
		case i == len(own) || others[j].from < own[i].To:
			f(others[j].from, nil, &out[others[j].from][others[j].position])
			j++
		default:
			f(own[i].To, &own[i], &out[others[j].from][others[j].position])
			i, j = i+1, j+1
		}
	}
}

// serials counts the snapshots of the process.
var serials atomic.Uint64

// Serial tells snapshots apart, and keeps none of them alive: no two of a process have the same.
func (s *Snapshot) Serial() uint64 { return s.serial }

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

// Numbering stands for the numbers of the nodes: two snapshots for which it is the same number the same nodes alike.
func (s *Snapshot) Numbering() *string { return unsafe.SliceData(s.names) }

// Index returns the number of the node with a name; ok is false where the snapshot does not know it.
func (s *Snapshot) Index(name string) (n int32, ok bool) {
	n, ok = s.index[name]
	return n, ok
}

// Coverage returns the number of unordered pairs of different nodes, and how many of them at least one side measured.
func (s *Snapshot) Coverage() (measured, pairs int) { return s.measured, s.Len() * (s.Len() - 1) / 2 }

// MeasuredBy returns how many nodes the node measured.
func (s *Snapshot) MeasuredBy(n int32) (count int) {
	for i := range s.out[n] {
		if s.out[n][i].Measured() {
			count++
		}
	}
	return count
}

func find(edges [][]Edge, from, to int32) *Edge {
	out := edges[from]
	i, ok := slices.BinarySearchFunc(out, to, func(e Edge, to int32) int { return cmp.Compare(e.To, to) })
	if !ok {
		return nil
	}
	return &out[i]
}

// Estimate returns what is known of the RTT from the caller to the callee: the best provenance that there is.
func (s *Snapshot) Estimate(caller, callee int32) Estimate {
	if caller == callee {
		return local
	}
	if e, ok := merge(find(s.out, caller, callee), find(s.out, callee, caller), s.noise); ok {
		return e
	}
	if e := s.zones.estimate(caller, callee); e.Provenance != Unknown {
		return e
	}
	if s.rankings != nil {
		if e, ok := s.ranking(find(s.rankings, caller, callee), find(s.rankings, callee, caller)); ok {
			return e
		}
	}
	if a, b := s.coordinate(caller), s.coordinate(callee); a != nil && b != nil {
		if rtt := a.RTT(b); rtt.Known() {
			rtt.us = max(rtt.us, s.radius[caller], s.radius[callee])
			return Estimate{Typical: rtt, Provenance: Coordinate, Error: a.ErrorTo(b)}
		}
	}
	return Estimate{}
}

// ranking returns what the two ends of a pair say of it that is no RTT. ok is false where neither says anything.
func (s *Snapshot) ranking(caller, callee *Edge) (e Estimate, ok bool) {
	e, ok = merge(caller, callee, s.noise)
	if e.Provenance != Unknown {
		e.Provenance = Ranking
	}
	return e, ok
}

const (
	// nearPeers is how many of its peers a prober chooses for being the nearest that it could find.
	nearPeers = 8
	// minPeers is how many peers it takes to believe that it found them.
	minPeers = 12
)

// radiusOf returns the distance within which there is no node that a node did not measure: that of the last of its nearest. An
// estimate below it is too good to be true. The least of many estimates is the one that errs most, and would win every time.
func radiusOf(out []Edge) float32 {
	var least [nearPeers]float32 // in ascending order
	n := 0
	for k := range out {
		us := out[k].typical.us
		if us == 0 {
			continue
		}
		i := min(n, nearPeers)
		n++
		if i == nearPeers {
			if us >= least[i-1] {
				continue
			}
			i--
		}
		for ; i > 0 && least[i-1] > us; i-- {
			least[i] = least[i-1]
		}
		least[i] = us
	}
	if n < minPeers {
		return 0
	}
	return least[nearPeers-1]
}

// coordinate returns the coordinate of a node, nil where there is none to use.
func (s *Snapshot) coordinate(n int32) *NetworkCoordinate {
	if s.coordinates == nil || s.coordinates[n].Error == 0 {
		return nil
	}
	return &s.coordinates[n]
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

// Section makes r the part of a target's row that is about some nodes: the i-th place is nodes[i]'s, which may be negative for a node that
// the snapshot does not know. It is for what is looked at once: nothing but r keeps it, and r's memory is used again. It costs O(len(nodes)).
func (s *Snapshot) Section(r *Row, target int32, d Direction, st Statistic, nodes []int32) {
	r.RTT, r.Provenance = r.RTT[:0], r.Provenance[:0]
	r.used.Store(false)
	r.dense.Store(nil)
	r.complete.Store(0)
	for _, n := range nodes {
		var e Estimate
		switch {
		case n < 0 || target < 0:
		case d == FromTarget:
			e = s.Estimate(target, n)
		default:
			e = s.Estimate(n, target)
		}
		rtt := e.RTT(st)
		if !rtt.Known() {
			e.Provenance = Unknown
		}
		r.RTT, r.Provenance = append(r.RTT, rtt), append(r.Provenance, e.Provenance)
	}
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
					row := s.buildRow(n, Direction(d), Statistic(st))
					if older.rows[st][d][i].Load().dense.Load() != nil {
						row.Dense()
					}
					s.rows[st][d][n].Store(row)
				}
			}
		}
	}
}

// buildRow answers for every node what Estimate would.
func (s *Snapshot) buildRow(target int32, d Direction, st Statistic) *Row {
	n := len(s.names)
	r := &Row{RTT: make([]RTT, n), Provenance: make([]Provenance, n)}
	s.fillFromZones(r, target, d, st)
	s.fillFromCoordinates(r, target, st)
	s.fillFromRankings(r, target, d, st)
	pairs(s.out, s.in, target, func(other int32, own, others *Edge) {
		caller, callee := others, own
		if d == FromTarget {
			caller, callee = own, others
		}
		e, ok := merge(caller, callee, s.noise)
		if !ok {
			return
		}
		r.RTT[other], r.Provenance[other] = e.RTT(st), Unknown
		if r.RTT[other].Known() {
			r.Provenance[other] = e.Provenance
		}
	})
	r.RTT[target], r.Provenance[target] = local.RTT(st), Local
	return r
}

func (s *Snapshot) fillFromZones(r *Row, target int32, d Direction, st Statistic) {
	z := s.zones
	if z == nil || z.Of[target] < 0 {
		return
	}
	// Many nodes, few zones.
	type cell struct {
		rtt RTT
		p   Provenance
		set bool
	}
	perZone := make([]cell, z.zones())
	for i, zone := range z.Of {
		if zone < 0 {
			continue
		}
		c := &perZone[zone]
		if !c.set {
			e := z.Between(zone, z.Of[target])
			if d == FromTarget {
				e = z.Between(z.Of[target], zone)
			}
			*c = cell{e.RTT(st), e.Provenance, true}
		}
		if c.rtt.Known() {
			r.RTT[i], r.Provenance[i] = c.rtt, c.p
		}
	}
}

// fillFromRankings puts what is no RTT in the place of coordinates, and of nothing.
func (s *Snapshot) fillFromRankings(r *Row, target int32, d Direction, st Statistic) {
	if s.rankings == nil {
		return
	}
	pairs(s.rankings, s.rankingsIn, target, func(other int32, own, others *Edge) {
		from, to, caller, callee := other, target, others, own
		if d == FromTarget {
			from, to, caller, callee = target, other, own, others
		}
		if s.zones.estimate(from, to).Provenance != Unknown {
			return
		}
		e, ok := s.ranking(caller, callee)
		if !ok {
			return
		}
		r.RTT[other], r.Provenance[other] = e.RTT(st), Unknown
		if r.RTT[other].Known() {
			r.Provenance[other] = e.Provenance
		}
	})
}

// fillFromCoordinates estimates what nothing better is known of. Coordinates follow the median; of the tail they say nothing.
func (s *Snapshot) fillFromCoordinates(r *Row, target int32, st Statistic) {
	c := s.coordinate(target)
	if c == nil || st != Typical {
		return
	}
	for i := range s.coordinates {
		other := &s.coordinates[i]
		if other.Error == 0 || r.Provenance[i] != Unknown {
			continue
		}
		if rtt := c.RTT(other); rtt.Known() {
			rtt.us = max(rtt.us, s.radius[target], s.radius[i])
			r.RTT[i], r.Provenance[i] = rtt, Coordinate
		}
	}
}
