// SPDX-License-Identifier: Apache-2.0

// Package placement computes what it costs, in latency, to put a pod on a node. It knows no Kubernetes: nodes are
// numbers, distances are the rows of a latency.Snapshot.
//
// A pod's cost on candidate node n is the mean of its entries' costs by their weights. There are two kinds of entry.
//
// A client entry (the pod calls servers S, one replica of mass mⱼ on node j):
//
//	Any:     Σⱼ mⱼ·RTT(n,j) / Σⱼ mⱼ
//	Nearest: min over j of RTT(n,j)
//
// A replica entry (clients K call the pod, which is one more replica beside its peers R; client k has the weight wₖ):
//
//	Nearest: Σₖ wₖ·min(RTT(k,n), min over r∈R of RTT(k,r)) / Σₖ wₖ
//	Any:     Σₖ wₖ·(RTT(k,n) + Σ over r∈R of RTT(k,r)) / (|R|+1) / Σₖ wₖ
//
// Placing replicas one after another, each where the Nearest cost falls most, is the greedy algorithm for facility
// location; it reaches at least 1 − 1/e of the best possible saving (Nemhauser, Wolsey, Fisher, "An analysis of
// approximations for maximizing submodular set functions", Mathematical Programming 14, 1978).
//
// All costs are in microseconds and lie in (0, latency.MaxRTT]: each is a mean or a minimum of known RTTs.
package placement

import (
	"iter"
	"math"
	"slices"

	"github.com/fogsched/fogsched/pkg/latency"
)

// Routing says how a caller picks one replica of several.
type Routing uint8

const (
	// Any spreads a caller's requests evenly over the replicas.
	Any Routing = iota
	// Nearest sends each caller to the replica nearest to it.
	Nearest
)

// Target is one end of an entry: a node's row and how much it counts there (replicas on it, or demand from it).
type Target struct {
	Row  *latency.Row
	Node int32
	Mass float32 // > 0
}

// Peer is a node that holds replicas already.
type Peer struct {
	Node  int32
	Count float32 // > 0
}

// column is one term of an entry's mean: mass · (min(rtt, cap) + add) · scale.
type column struct {
	row   []latency.RTT
	from  *latency.Row
	node  int32
	mass  float32
	cap   float32 // +Inf: none
	add   float32
	scale float32
}

// Entry is one thing that a pod wants to be near to, ready for Costs. Make it by NewClientEntry or NewReplicaEntry.
type Entry struct {
	weight  float32 // > 0
	nearest bool    // the minimum over the columns, not their mean
	columns []column
}

var inf = float32(math.Inf(1))

// Builder makes the entries of one pod out of one piece of memory, where that is large enough. The zero value is ready; it must not be copied.
type Builder struct {
	free   []column
	buffer [12]column // most pods need no more
}

// Grow makes room for entries that have so many targets together. It is called before the first of them is made.
func (b *Builder) Grow(targets int) {
	if b.free = b.buffer[:]; targets > len(b.buffer) {
		b.free = make([]column, targets)
	}
}

func (b *Builder) columns(n int) []column {
	if len(b.free) < n {
		return make([]column, n)
	}
	c := b.free[:n:n]
	b.free = b.free[n:]
	return c
}

// NewClientEntry is the entry of a pod that calls servers. Their rows are latency.ToTarget.
func NewClientEntry(weight float32, routing Routing, servers []Target) Entry {
	var b Builder
	return b.ClientEntry(weight, routing, servers)
}

// ClientEntry is NewClientEntry.
func (b *Builder) ClientEntry(weight float32, routing Routing, servers []Target) Entry {
	e := Entry{weight: weight, nearest: routing == Nearest, columns: b.columns(len(servers))}
	for i, s := range servers {
		e.columns[i] = column{row: s.Row.RTT, from: s.Row, node: s.Node, mass: s.Mass, cap: inf, scale: 1}
	}
	return e
}

// NewReplicaEntry is the entry of a pod that clients call, beside peers that serve the same clients. The clients' rows are
// latency.FromTarget. A pair of client and peer that is unknown counts as a peer that does not help that client.
func NewReplicaEntry(weight float32, routing Routing, clients []Target, peers []Peer) Entry {
	var b Builder
	return b.ReplicaEntry(weight, routing, clients, peers)
}

// ReplicaEntry is NewReplicaEntry.
func (b *Builder) ReplicaEntry(weight float32, routing Routing, clients []Target, peers []Peer) Entry {
	e := Entry{weight: weight, columns: b.columns(len(clients))}
	for i, k := range clients {
		c := column{row: k.Row.RTT, from: k.Row, node: k.Node, mass: k.Mass, cap: inf, scale: 1}
		replicas := float32(1)
		for _, p := range peers {
			rtt, ok := k.Row.RTT[p.Node].Micros()
			if !ok {
				continue
			}
			if routing == Nearest {
				c.cap = min(c.cap, rtt)
			} else {
				c.add += p.Count * rtt
				replicas += p.Count
			}
		}
		c.scale = 1 / replicas
		e.columns[i] = c
	}
	return e
}

// Expectation is an entry's cost on one node, for people.
type Expectation struct {
	// RTT is the expected round-trip time over the known pairs; unknown where there is none.
	RTT latency.RTT
	// Provenance is the worst among the pairs behind it.
	Provenance latency.Provenance
	// Target is the node of the pair that weighs most in it: the nearest server, else the farthest target.
	Target int32
	// Pairs and Unknown count the pairs that could be behind it, and those of them that are not known.
	Pairs, Unknown int
}

// At returns what the entry costs on node n.
func (e *Entry) At(n int32) Expectation {
	x := Expectation{Pairs: len(e.columns), Target: -1}
	var sum, mass, extreme float32
	for i := range e.columns {
		col := &e.columns[i]
		var rtt float32
		ok := false
		if n >= 0 {
			rtt, ok = col.row[n].Micros()
		}
		if !ok {
			x.Unknown++
			continue
		}
		p := col.from.Provenance[n]
		if e.nearest {
			if x.Target < 0 || rtt < extreme {
				extreme, x.Target, x.Provenance = rtt, col.node, p
			}
			continue
		}
		sum += col.mass * (min(rtt, col.cap) + col.add) * col.scale
		mass += col.mass
		if x.Target < 0 || rtt > extreme {
			extreme, x.Target = rtt, col.node
		}
		if x.Provenance == latency.Unknown || p < x.Provenance {
			x.Provenance = p
		}
	}
	switch {
	case e.nearest && x.Target >= 0:
		x.RTT, _ = latency.FromSeconds(float64(extreme) / 1e6)
	case mass > 0:
		x.RTT, _ = latency.FromSeconds(float64(sum/mass) / 1e6)
	}
	return x
}

// OnePair reports whether one pair decides about the entry's cost on a node: that with the Expectation's Target.
func (e *Entry) OnePair() bool { return e.nearest }

// Targets returns the nodes that the entry is about, numbered from 0.
func (e *Entry) Targets() iter.Seq2[int, int32] {
	return func(yield func(int, int32) bool) {
		for i := range e.columns {
			if !yield(i, e.columns[i].node) {
				return
			}
		}
	}
}

// Mass returns how much the i-th of the targets counts.
func (e *Entry) Mass(i int) float32 { return e.columns[i].mass }

// Cost is the cost of one candidate.
type Cost struct {
	// Micros is the cost in microseconds, always a number above 0.
	Micros float32
	// Knowledge says what the number rests on.
	Knowledge Knowledge
}

// Knowledge says how much of a candidate's cost is known.
type Knowledge uint8

const (
	// Neutral: nothing is known of the candidate; its cost is the median of the others'.
	Neutral Knowledge = iota
	// Partial: some pairs are unknown. Each counts as the median of the other candidates' value for it (of more than maxMedian
	// candidates: of some, evenly spread), and the sum is kept within the range of the fully known candidates.
	Partial
	// Known: every pair that counts is known.
	Known
)

// Evaluator computes costs. It keeps its memory between calls; the zero value is ready. It is not safe for concurrent use.
type Evaluator struct {
	total, entry, values, scratch []float32
	// seen says which kinds of pair each candidate has, all which kinds all of them have.
	seen []uint8
	all  uint8
	// gaps is set where some candidate has an unknown pair.
	gaps bool
	// numbered is set where there are candidates and the snapshot knows them all.
	numbered bool
}

const (
	sawKnown = 1 << iota
	sawUnknown
)

// Costs returns the cost of each candidate, a node number each; a negative one is a node that the snapshot does not know.
// It returns false where nothing is known of any candidate: then there is nothing to tell them apart by.
//
// A pair that is unknown for every candidate is left out for all of them, and so is an entry without a known pair. A
// candidate of which nothing is known never ranks first or last alone, whatever is known of the others.
//
// The result is valid until the next call. Costs takes O(candidates · targets) and allocates only when it grows.
func (ev *Evaluator) Costs(dst []Cost, entries []Entry, candidates []int32) ([]Cost, bool) {
	n := len(candidates)
	ev.total = zeroed(ev.total, n)
	ev.entry = zeroed(ev.entry, n)
	ev.values = zeroed(ev.values, n)
	ev.seen = zeroed(ev.seen, n)
	ev.all, ev.gaps = 0, false
	ev.numbered = n > 0 && !slices.ContainsFunc(candidates, func(node int32) bool { return node < 0 })

	var weights float32
	for i := range entries {
		e := &entries[i]
		if len(e.columns) == 1 && ev.complete(&e.columns[0]) { // the mean of one is the least of it
			mass := e.columns[0].mass
			if e.nearest {
				mass = 1
			}
			ev.addComplete(ev.total, e.weight/mass, mass, &e.columns[0], candidates)
			weights += e.weight
			continue
		}
		var mass float32
		if e.nearest {
			mass = ev.minimum(e.columns, candidates)
		} else {
			mass = ev.mean(e.columns, candidates)
		}
		if mass == 0 {
			continue
		}
		f := e.weight / mass
		for c, v := range ev.entry {
			ev.total[c] += f * v
		}
		weights += e.weight
	}
	if weights == 0 {
		return dst[:0], false
	}
	dst = slices.Grow(dst[:0], n)[:n]
	for c := range dst {
		dst[c] = Cost{Micros: ev.total[c] / weights, Knowledge: knowledge(ev.seen[c] | ev.all)}
	}
	if ev.gaps {
		ev.settle(dst)
	}
	return dst, true
}

func knowledge(seen uint8) Knowledge {
	switch seen {
	case sawKnown:
		return Known
	case sawKnown | sawUnknown:
		return Partial
	}
	return Neutral
}

// mean puts Σ mass·value of each candidate into ev.entry and returns the mass of the columns that count.
func (ev *Evaluator) mean(columns []column, candidates []int32) float32 {
	clear(ev.entry)
	var mass float32
	for i := range columns {
		col := &columns[i]
		if ev.complete(col) {
			ev.addComplete(ev.entry, 1, col.mass, col, candidates)
			mass += col.mass
			continue
		}
		known := 0
		for c, node := range candidates {
			v := float32(0)
			if node >= 0 {
				if rtt, ok := col.row[node].Micros(); ok {
					v = (min(rtt, col.cap) + col.add) * col.scale
					known++
				}
			}
			ev.values[c] = v
		}
		if known == 0 {
			continue
		}
		ev.fill(known)
		for c, v := range ev.values {
			ev.entry[c] += col.mass * v
		}
		mass += col.mass
	}
	return mass
}

// complete reports whether addComplete is for a column.
func (ev *Evaluator) complete(col *column) bool { return ev.numbered && col.from.Complete() }

// addComplete adds factor·mass·value of each candidate to sums: one pass where all are known, in place of three.
func (ev *Evaluator) addComplete(sums []float32, factor, mass float32, col *column, candidates []int32) {
	ev.all |= sawKnown
	sums = sums[:len(candidates)]
	row := col.row
	if col.cap == inf && col.add == 0 && col.scale == 1 {
		for c, node := range candidates {
			rtt, _ := row[node].Micros()
			sums[c] += factor * (mass * rtt)
		}
		return
	}
	for c, node := range candidates {
		rtt, _ := row[node].Micros()
		sums[c] += factor * (mass * ((min(rtt, col.cap) + col.add) * col.scale))
	}
}

// minimum puts the least value of each candidate into ev.entry and returns 1, or 0 where nothing is known. An unknown
// pair cannot lower a minimum, so a candidate is known as soon as one of its pairs is.
func (ev *Evaluator) minimum(columns []column, candidates []int32) float32 {
	clear(ev.values)
	for i := range columns {
		col := &columns[i]
		for c, node := range candidates {
			if node < 0 {
				continue
			}
			if rtt, ok := col.row[node].Micros(); ok && (ev.values[c] == 0 || rtt < ev.values[c]) {
				ev.values[c] = rtt
			}
		}
	}
	known := 0
	for _, v := range ev.values {
		if v > 0 {
			known++
		}
	}
	if known == 0 {
		return 0
	}
	ev.fill(known)
	copy(ev.entry, ev.values)
	return 1
}

// maxMedian bounds the values of which fill takes the median. On all nodes of a large cluster the medians would be a quarter of PreScore.
const maxMedian = 512

// fill puts the median of the known values in place of the unknown ones, and notes which candidates had which.
func (ev *Evaluator) fill(known int) {
	if known == len(ev.values) {
		ev.all |= sawKnown
		return
	}
	ev.gaps = true
	ev.scratch = ev.scratch[:0]
	step := 1 + (known-1)/maxMedian
	next := 0
	for _, v := range ev.values {
		if v == 0 {
			continue
		}
		if next == 0 {
			ev.scratch = append(ev.scratch, v)
			next = step
		}
		next--
	}
	m := Median(ev.scratch)
	for c, v := range ev.values {
		if v > 0 {
			ev.seen[c] |= sawKnown
		} else {
			ev.values[c] = m
			ev.seen[c] |= sawUnknown
		}
	}
}

// settle gives the neutral candidates the median of the best known kind, and keeps the partial ones within the range of
// the known ones.
func (ev *Evaluator) settle(costs []Cost) {
	basis := Known
	if !slices.ContainsFunc(costs, func(c Cost) bool { return c.Knowledge == Known }) {
		basis = Partial
	}
	ev.scratch = ev.scratch[:0]
	for _, c := range costs {
		if c.Knowledge == basis {
			ev.scratch = append(ev.scratch, c.Micros)
		}
	}
	if len(ev.scratch) == len(costs) {
		return
	}
	lo, hi := slices.Min(ev.scratch), slices.Max(ev.scratch)
	m := Median(ev.scratch)
	for i, c := range costs {
		switch {
		case c.Knowledge == Neutral:
			costs[i].Micros = m
		case c.Knowledge == Partial && basis == Known:
			costs[i].Micros = max(lo, min(c.Micros, hi))
		}
	}
}

// Median returns the middle one of values, of which there is at least one, or the mean of the two in the middle. It reorders
// them, and takes O(n): sorting would be most of the work of Costs.
func Median(values []float32) float32 {
	n := len(values)
	upper := nth(values, n/2)
	if n%2 == 1 {
		return upper
	}
	return (slices.Max(values[:n/2]) + upper) / 2
}

// nth returns the k-th smallest of values and moves the smaller ones before it: Hoare's algorithm "Find", with the median
// of three as pivot. k is 0 to len(values)-1, and no value is NaN.
func nth(values []float32, k int) float32 {
	lo, hi := 0, len(values)-1
	for lo < hi {
		a, b, c := values[lo], values[lo+(hi-lo)/2], values[hi]
		pivot := max(min(a, b), min(max(a, b), c))
		i, j := lo, hi
		for i <= j {
			for values[i] < pivot {
				i++
			}
			for values[j] > pivot {
				j--
			}
			if i <= j {
				values[i], values[j] = values[j], values[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			hi = j
		case k >= i:
			lo = i
		default:
			return values[k]
		}
	}
	return values[k]
}

func zeroed[T any](s []T, n int) []T {
	s = slices.Grow(s[:0], n)[:n]
	clear(s)
	return s
}
