// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"math"
	"slices"
	"time"
)

// A scheduler that minimises draws pods to whoever reports the smallest numbers, so that one node that lies, or whose clock or
// prober is broken, could draw them all. Judge decides what is believed, by evidence that the node itself does not write:
//
//   - A pair that both ends measured is believed as the worse of the two where they disagree by more than the noise: see merge.
//   - A node that disagrees with more than half of those that can contradict it, and with three of them at least, is a Suspect;
//     whoever keeps track leaves out what a Distrusted node says.
//   - What only one end measured, L of T, is held against witnesses X that measured L and have a distance to T: by the triangle
//     inequality d(L,T) ≥ |d(X,T) − d(X,L)|. Real networks violate it at times, so it takes three witnesses, their median, and a
//     claim that is below a half of it, or below what the network itself shows to be out of the ordinary.
//   - No RTT is below what light in fibre needs between two known positions.
//   - A pair whose probes one end lost is not known by what the other end measured long before.
//   - A coordinate is as good as it predicts what others measured of its node.
//
// More than half of a node's witnesses lying together can deceive it.

// Evidence is what Judge needs beside a picture. Every slice is indexed by node number and may be nil.
type Evidence struct {
	Positions []Position
	// Refresh is the time within which a node reports again.
	Refresh []time.Duration
	// Distrusted nodes' own reports and coordinates are left out.
	Distrusted []bool
}

// Rejection is one measurement that is not believed, and why.
type Rejection struct {
	From, To int32
	Reason   Reason
}

// Standing says how a node's measurements compare with what others say.
type Standing struct {
	// Comparable counts the measurements that could be contradicted, Contradicted those that are.
	Comparable, Contradicted int32
}

// Suspect reports whether most others contradict the node.
func (s Standing) Suspect() bool {
	return s.Comparable >= minContradictors && 2*s.Contradicted > s.Comparable
}

// Settled reports whether enough others could contradict the node, and most do not.
func (s Standing) Settled() bool { return s.Comparable >= minContradictors && !s.Suspect() }

const (
	minContradictors = 3
	minWitnesses     = 3
	maxWitnesses     = 8
	// maxNeighbours bounds how many of the nodes that measured a node are asked about it; a node of interest is measured by all.
	maxNeighbours = 64
	// minWrong is how many nodes must have measured a node faster than light before its position is taken as wrong.
	minWrong = 3

	// implausible is how far below the median of the witnesses a claim must be, at least, to be rejected: by half. Where distances
	// violate the triangle inequality more, the bar is higher: outlier spreads of the logarithm of the ratio, as far as the upper
	// quartile is from the median, above the median. On PlanetLab the half decides, and rejects 0.3 % of honest claims; on the
	// Seattle data, where a distance is easily ten times the other way round, a claim must be 20 to 40 times too small.
	implausible = 2
	outlier     = 5.5
	// minRatios is how many claims it takes to know a network's spread.
	minRatios = 64

	// contradiction is the power to which the median ratio of the two ends' words is raised to get the ratio above which they
	// contradict each other: in a network that is calm the noise decides, and in one where the two ends differ by 60 % all the time
	// (Seattle) it takes a factor of 5.
	contradiction = 3.5
	// lateness is what a report may be later than its refresh interval.
	lateness = time.Minute
	// maxSampled bounds how many values a median of a whole network is taken from.
	maxSampled = 8192
)

// Verdict is what Judge found.
type Verdict struct {
	// Believed is the picture without what is not: blocks in the place of rejected measurements, nothing in that of distrusted
	// nodes' reports, no coordinate where it is of no use, and else with the error that was observed.
	Believed Picture
	// Rejected are the measurements that turned into blocks.
	Rejected []Rejection
	// Standing and Coordinate are by node number. The reason is why a node's coordinate is not used.
	Standing   []Standing
	Coordinate []Reason
	// Misplaced are the nodes whose position cannot be true: most of those that measured them would have been faster than light.
	Misplaced []int32
	// Disputed is how many pairs both ends measured, and differ by more than the noise.
	Disputed int

	in [][]incoming
}

// Snapshot makes the snapshot of what is believed.
func (v *Verdict) Snapshot() *Snapshot { return newSnapshot(&v.Believed, v.in) }

// Judge decides what of a picture is believed. It takes O(edges · edges of a node).
func Judge(p *Picture, ev *Evidence) *Verdict {
	j := &judge{Picture: *p, ev: ev, in: incomingOf(p.Edges)}
	n := len(p.Names)
	j.v = &Verdict{in: j.in, Standing: make([]Standing, n), Coordinate: make([]Reason, n)}
	ratio := j.ratioOfEnds()
	j.positions()
	for i := range int32(n) {
		j.judgeNode(i, ratio)
	}
	j.judgeClaims()
	j.believe()
	return j.v
}

type judge struct {
	Picture
	ev *Evidence
	in [][]incoming
	v  *Verdict

	position []Position // of those that can be true

	// Of judgeNode, by node number, empty between calls: the claim about a node, and the distance of a witness from the node.
	claimAbout []int32
	witness    []float32
	near       []int32
	asked      []testimony
	claims     []claim
}

// testimony is what witnesses say of one claim.
type testimony struct {
	position int32
	to       int32
	count    int
	who      [maxWitnesses]int32
	bounds   [maxWitnesses]float32
}

func (t *testimony) add(x int32, bound float32) {
	if t.count == maxWitnesses || slices.Contains(t.who[:t.count], x) {
		return
	}
	t.who[t.count], t.bounds[t.count] = x, bound
	t.count++
}

// claim is what a node alone measured, beside the median of its witnesses.
type claim struct {
	from, position int32
	bound          float32 // µs
}

func (j *judge) distrusted(n int32) bool { return j.ev.Distrusted != nil && j.ev.Distrusted[n] }

func (j *judge) refresh(n int32) time.Duration {
	if j.ev.Refresh == nil {
		return 0
	}
	return j.ev.Refresh[n]
}

// ratioOfEnds returns the ratio above which the two ends of a pair contradict each other.
func (j *judge) ratioOfEnds() float32 {
	var ratios []float32
	for i := range int32(len(j.Names)) {
		eachPair(j.Edges, j.in, i, func(other int32, own, others *Edge) {
			if other < i || own == nil || others == nil || !own.Measured() || !others.Measured() {
				return
			}
			if disagree(own.typical, others.typical, noiseRatio) {
				j.v.Disputed++
			}
			ratios = append(ratios, max(own.typical.us, others.typical.us)/min(own.typical.us, others.typical.us))
		})
	}
	if len(ratios) == 0 {
		return noiseRatio
	}
	return max(noiseRatio, float32(math.Pow(float64(quantile(ratios, 0.5)), contradiction)))
}

// quantile returns the value of which a share p is below. It reorders values, and looks at no more than maxSampled.
func quantile(values []float32, p float64) float32 {
	if len(values) > maxSampled {
		stride := len(values) / maxSampled
		for i := range maxSampled {
			values[i] = values[i*stride]
		}
		values = values[:maxSampled]
	}
	slices.Sort(values)
	return values[int(p*float64(len(values)-1))]
}

// positions leaves out the positions that most of those that measured a node contradict.
func (j *judge) positions() {
	if j.ev.Positions == nil {
		return
	}
	j.position = j.ev.Positions
	var wrong []int32
	for i, p := range j.position {
		if !p.Known() {
			continue
		}
		seen, faster := 0, 0
		for _, in := range j.in[i] {
			e := &j.Edges[in.from][in.position]
			if j.distrusted(in.from) || !e.Measured() || !j.position[in.from].Known() {
				continue
			}
			seen++
			if fasterThanLight(e.typical, p, j.position[in.from]) {
				faster++
			}
		}
		if faster >= minWrong && 2*faster > seen {
			wrong = append(wrong, int32(i))
		}
	}
	if len(wrong) > 0 {
		j.position = slices.Clone(j.position)
		for _, i := range wrong {
			j.position[i] = Position{}
		}
	}
	j.v.Misplaced = wrong
}

func fasterThanLight(rtt RTT, a, b Position) bool {
	d, _ := rtt.Duration()
	return d < a.LeastRTT(b)
}

// judgeNode looks at what a node measured: it rejects what cannot be, and collects testimony on what only this node measured. Of a
// distrusted node it does the same, to see whether it still deserves it.
func (j *judge) judgeNode(i int32, ratio float32) {
	st := &j.v.Standing[i]
	j.asked = j.asked[:0]
	position := int32(-1)
	eachPair(j.Edges, j.in, i, func(other int32, own, others *Edge) {
		if own == nil {
			return
		}
		position++
		contradicts := others != nil && !j.distrusted(other)
		if own.isLost() {
			// The other end's measurement may be from before.
			if contradicts && !j.distrusted(i) && others.Measured() && others.at < own.at-(j.refresh(other)+lateness).Milliseconds() {
				j.reject(other, i, ReasonLost)
			}
			return
		}
		if !own.Measured() {
			return
		}
		if j.position != nil && fasterThanLight(own.typical, j.position[i], j.position[other]) {
			st.Comparable++
			st.Contradicted++
			j.reject(i, other, ReasonFasterThanLight)
			return
		}
		if contradicts && others.Measured() {
			st.Comparable++
			if disagree(own.typical, others.typical, ratio) {
				st.Contradicted++
			}
			return
		}
		j.asked = append(j.asked, testimony{position: position, to: other})
	})
	if len(j.asked) == 0 || len(j.in[i]) < minWitnesses {
		return
	}
	j.hear(i)
	for k := range j.asked {
		t := &j.asked[k]
		if t.count < minWitnesses {
			continue
		}
		bounds := t.bounds[:t.count]
		slices.Sort(bounds)
		j.claims = append(j.claims, claim{i, t.position, bounds[(len(bounds)-1)/2]})
	}
}

// hear collects the witnesses of a node's claims: the nodes that measured it, and have a distance to whom the claim is about.
func (j *judge) hear(i int32) {
	if j.claimAbout == nil {
		j.claimAbout = make([]int32, len(j.Names))
		j.witness = make([]float32, len(j.Names))
	}
	for k := range j.asked {
		j.claimAbout[j.asked[k].to] = int32(k + 1)
	}
	j.near = j.near[:0]
	in := j.in[i]
	stride := 1 + (len(in)-1)/maxNeighbours
	for k := int(i) % stride; k < len(in); k += stride {
		x := in[k].from
		e := &j.Edges[x][in[k].position]
		if !e.Measured() || j.distrusted(x) {
			continue
		}
		j.near = append(j.near, x)
		j.witness[x] = e.typical.us
		for l := range j.Edges[x] {
			e := &j.Edges[x][l]
			if about := j.claimAbout[e.To]; about > 0 && e.Measured() {
				j.asked[about-1].add(x, abs(e.typical.us-j.witness[x]))
			}
		}
	}
	for k := range j.asked {
		t := &j.asked[k]
		if j.distrusted(t.to) {
			continue
		}
		for l := range j.Edges[t.to] {
			e := &j.Edges[t.to][l]
			if d := j.witness[e.To]; d > 0 && e.Measured() {
				t.add(e.To, abs(e.typical.us-d))
			}
		}
	}
	for k := range j.asked {
		j.claimAbout[j.asked[k].to] = 0
	}
	for _, x := range j.near {
		j.witness[x] = 0
	}
}

func abs(x float32) float32 { return max(x, -x) }

// judgeClaims rejects the claims that their witnesses rule out.
func (j *judge) judgeClaims() {
	bar := float32(implausible)
	if len(j.claims) >= minRatios {
		ratios := make([]float32, len(j.claims))
		for k, c := range j.claims {
			ratios[k] = c.bound / j.Edges[c.from][c.position].typical.us
		}
		median, upper := quantile(slices.Clone(ratios), 0.5), quantile(ratios, 0.75)
		if median > 0 {
			bar = max(bar, median*float32(math.Pow(float64(upper/median), outlier)))
		}
	}
	for _, c := range j.claims {
		e := &j.Edges[c.from][c.position]
		st := &j.v.Standing[c.from]
		st.Comparable++
		if us := e.typical.us; us*bar < c.bound && c.bound-us > noise {
			st.Contradicted++
			j.reject(c.from, e.To, ReasonImplausible)
		}
	}
}

func (j *judge) reject(from, to int32, reason Reason) {
	if j.distrusted(from) {
		return // it is left out with all the others
	}
	j.v.Rejected = append(j.v.Rejected, Rejection{from, to, reason})
}

// believe makes the picture that is left.
func (j *judge) believe() {
	j.v.Believed = j.Picture
	j.v.Believed.Coordinates = j.coordinates()
	if len(j.v.Rejected) == 0 && !slices.Contains(j.ev.Distrusted, true) {
		return
	}
	edges := slices.Clone(j.Edges)
	own := make([]bool, len(edges)) // copied already
	write := func(n int32) []Edge {
		if !own[n] {
			edges[n], own[n] = slices.Clone(edges[n]), true
		}
		return edges[n]
	}
	for _, r := range j.v.Rejected {
		es := write(r.From)
		k, _ := slices.BinarySearchFunc(es, r.To, func(e Edge, to int32) int { return int(e.To) - int(to) })
		es[k] = es[k].blocked()
	}
	for n, distrusted := range j.ev.Distrusted {
		if !distrusted {
			continue
		}
		es := write(int32(n))
		for k := range es {
			es[k] = Edge{To: es[k].To}
		}
	}
	j.v.Believed.Edges = edges
}

// coordinates returns the coordinates that are of use, each with the error that it has against what others measured of its node.
// The node's own measurements do not count: whoever lies about its place can lie about its distances.
func (j *judge) coordinates() []NetworkCoordinate {
	if j.Coordinates == nil {
		return nil
	}
	cs := slices.Clone(j.Coordinates)
	seen := make([]bool, len(cs)) // by enough others
	var observed, errs []float32
	for i := range cs {
		c := &cs[i]
		if c.Error == 0 {
			continue
		}
		if j.distrusted(int32(i)) {
			*c = NetworkCoordinate{}
			j.v.Coordinate[i] = ReasonDistrusted
			continue
		}
		errs = errs[:0]
		in := j.in[i]
		stride := 1 + (len(in)-1)/maxNeighbours
		for k := i % stride; k < len(in); k += stride {
			x := in[k].from
			e := &j.Edges[x][in[k].position]
			if !e.Measured() || j.distrusted(x) || j.Coordinates[x].Error == 0 {
				continue
			}
			us, _ := c.RTT(&j.Coordinates[x]).Micros()
			errs = append(errs, abs(us-e.typical.us)/e.typical.us)
		}
		if len(errs) < minWitnesses {
			continue
		}
		c.Error, seen[i] = max(MinError, quantile(errs, 0.5)), true
		observed = append(observed, c.Error)
	}
	// In a network that fits into no space, no coordinate is of use.
	nowhere := len(observed) >= minWitnesses && quantile(observed, 0.5) > maxObservedError
	for i := range cs {
		if c := &cs[i]; c.Error > 0 && (nowhere || seen[i] && c.Error > maxObservedError) {
			*c = NetworkCoordinate{}
			j.v.Coordinate[i] = ReasonInaccurate
		}
	}
	return cs
}
