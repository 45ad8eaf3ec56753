// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// A scheduler that minimises draws pods to whoever reports the smallest numbers: one node that lies, or whose clock or prober is
// broken, could draw them all. Judge decides what is believed, by evidence that the node itself does not write:
//
//   - A pair that both ends measured is believed as the worse of the two where they disagree by more than the noise: see merge.
//   - What only one end measured, L of T, is held against witnesses X that measured L and have a distance to T, measured or by
//     coordinates: by the triangle inequality d(L,T) ≥ |d(X,T) − d(X,L)|. Real networks violate it at times, so it takes three
//     witnesses, their median, and a claim below half of it.
//   - A node that more than half of those contradict who could, and three of them at least, is a Suspect. Whoever keeps track of
//     that leaves out what a Distrusted node says; what others measured of it stays.
//   - No RTT is below what light in fibre needs between two known positions.
//   - A pair whose probes one end lost is not known by what the other end measured long before.
//   - A coordinate is as good as it predicts what others measured of its node.
//
// On PlanetLab, with 16 peers and 10 nodes of interest, 0.1 to 0.2 % of honest measurements are rejected, and no node that lies about
// its distances or its place drew a pod to where it is worse off, nor did a tenth of all nodes together (pkg/store, liars_test.go).
// What remains is: a claim that is not below half of the truth; a liar between the witnesses, of which these know little; more
// than half of a node's witnesses lying together.

// Evidence is what Judge needs beside a picture. Every slice is indexed by node number and may be nil.
type Evidence struct {
	Positions []Position
	// Refresh is the time within which a node reports again.
	Refresh []time.Duration
	// Distrusted nodes' own reports and coordinates are left out.
	Distrusted []bool
	// Memory is of the last picture of the same nodes; nil: none.
	Memory *Memory
}

// Memory is what Judge keeps of one picture for the next one of the same nodes: in a large cluster it examines only the nodes
// that said something new, and some of the others in turn. The zero value remembers nothing.
type Memory struct {
	nodes []examined
	next  int
}

// examined is what others say of a node.
type examined struct {
	// edges and coordinate are what the node said itself: whether it is something new.
	edges      []Edge
	coordinate NetworkCoordinate
	// err is the error of its coordinate; 0 where too few others could tell.
	err float32
	// claims are in ascending order of position.
	claims []claim
}

// is reports whether a node still says the same: edges are immutable, so the same ones are in the same place.
func (e *examined) is(edges []Edge, c *NetworkCoordinate) bool {
	return len(e.edges) == len(edges) && (len(edges) == 0 || &e.edges[0] == &edges[0]) && (c == nil || e.coordinate == *c)
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
	maxWitnesses     = 16
	nearWitnesses    = 5
	// maxNeighbours bounds how many of the nodes that measured a node are asked about it; a node of interest is measured by all.
	maxNeighbours = 64
	// A node that says more than talkative times what the median node does is no witness: a few could outnumber all the others.
	// minTalkative is above what a prober measures in a large cluster.
	talkative    = 4
	minTalkative = 100
	// minWrong is how many nodes must have measured a node faster than light before its position is taken as wrong.
	minWrong = 3
	// maxRounds bounds how many times positions are looked at anew.
	maxRounds = 8

	// implausible is how many times a claim must be below the median of its witnesses to be rejected.
	implausible = 2
	// A network is no space where the witnesses of a quarter of all claims put the distance above noSpace times the claim: the
	// inequality says little there, and a claim must be below the median by noSpaceImplausible. The quartile is 0.6 to 0.85 on PlanetLab,
	// 1 to 1.3 on the Seattle data. It takes minRatios claims to tell, of which maxRatios of one node count: whoever claims more has no
	// more weight.
	noSpace            = 0.95
	noSpaceImplausible = 100
	minRatios          = 64
	maxRatios          = 4
	// A node of which a share of popular measured the distance, and minPopular nodes at least, is of interest to all: who did not measure it
	// has nothing to gain from a coordinate that claims to be near.
	popular    = 0.8
	minPopular = 8
	// hearsay is how many times its own error is taken off what a witness says by coordinates.
	hearsay = 1.25

	// contradiction is the power to which the median ratio of the two ends' words is raised to get the ratio above which they
	// contradict each other. In a calm network the noise decides; where the two ends differ by 60 % all the time (Seattle) it takes a
	// factor of 10, which is also the most. Below minEnds nodes nobody can tell noise from lies.
	contradiction    = 5
	maxContradiction = 10
	minEnds          = 16

	// defaultRefresh stands for a refresh interval that a node does not say, or that is shorter.
	defaultRefresh = time.Minute
	// maxExamined is how many edges the nodes have that are examined at a time, beside those that said something new: all
	// of 600 nodes with 26 peers.
	maxExamined = 1 << 14
	// maxSampled bounds how many values a quantile of a whole network is taken from.
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

	in    [][]incoming
	twins [][]int32
}

// Snapshot makes the snapshot of what is believed.
func (v *Verdict) Snapshot() *Snapshot { return newSnapshot(&v.Believed, v.in, v.twins) }

// Judge decides what of a picture is believed. For what it examines it takes O(edges · edges of a node), else O(edges).
func Judge(p *Picture, ev *Evidence) *Verdict {
	j := &judge{Picture: *p, ev: ev, in: incomingOf(p.Edges)}
	n := len(p.Names)
	j.twins = twinsOf(p.Edges, j.in)
	j.v = &Verdict{in: j.in, twins: j.twins, Standing: make([]Standing, n), Coordinate: make([]Reason, n)}
	j.claims = make([][]claim, n)
	j.talkative = max(minTalkative, talkative*medianLength(p.Edges))
	j.remember()
	j.Noise = j.ratioOfEnds()
	j.positions()
	j.v.Believed.Coordinates = j.coordinates()
	for i := range int32(n) {
		j.judgeNode(i)
	}
	j.judgeClaims()
	j.believe()
	return j.v
}

type judge struct {
	Picture
	ev    *Evidence
	in    [][]incoming
	twins [][]int32
	v     *Verdict

	memory    *Memory
	examine   []bool     // by node number: whether memory is not enough
	position  []Position // of those that can be true
	talkative int
	claims    [][]claim // by node number

	// Of judgeNode, by node number, empty between calls: the claim about a node, and the distance of a witness from the node.
	claimAbout []int32
	witness    []float32
	near       []int32
	asked      []testimony
}

// remember decides which nodes to examine.
func (j *judge) remember() {
	n := len(j.Names)
	j.memory = j.ev.Memory
	if j.memory == nil {
		j.memory = &Memory{}
	}
	m := j.memory
	if len(m.nodes) != n {
		*m = Memory{nodes: make([]examined, n)}
	}
	j.examine = make([]bool, n)
	total, left := 0, maxExamined
	for i := range m.nodes {
		var c *NetworkCoordinate
		if j.Coordinates != nil {
			c = &j.Coordinates[i]
		}
		total += len(j.Edges[i])
		if j.examine[i] = !m.nodes[i].is(j.Edges[i], c); j.examine[i] {
			left -= len(j.Edges[i])
			m.nodes[i] = examined{edges: j.Edges[i]}
			if c != nil {
				m.nodes[i].coordinate = *c
			}
		}
	}
	if total <= maxExamined {
		left = total
	}
	for range n {
		if left <= 0 {
			return
		}
		m.next = (m.next + 1) % n
		left -= max(1, len(j.Edges[m.next]))
		j.examine[m.next] = true
	}
}

// testimony is what witnesses say of one claim.
type testimony struct {
	position int32
	to       int32
	count    int
	seen     int // of them those that measured both ends
	who      [maxWitnesses]int32
	bounds   [maxWitnesses]float32
	sure     [maxWitnesses]float32
}

func (t *testimony) add(x int32, bound, sure float32) {
	if t.count == maxWitnesses || slices.Contains(t.who[:t.count], x) {
		return
	}
	t.who[t.count], t.bounds[t.count], t.sure[t.count] = x, bound, sure
	t.count++
}

// see adds a witness that measured both ends.
func (t *testimony) see(x int32, a, b float32) {
	t.add(x, abs(a-b), max(0, max(a, b)/noiseRatio-min(a, b)))
}

// median returns the median of what the witnesses say; the lower one of two. It reorders values.
func (t *testimony) median(values *[maxWitnesses]float32) float32 {
	v := values[:t.count]
	slices.Sort(v)
	return v[(len(v)-1)/2]
}

// sureMedian returns the median of what the witnesses are sure of, or that of the nearest alone, which come first: the nearer a witness,
// the more it knows, but the easier it is for a few to be the nearest. It reorders values.
func (t *testimony) sureMedian() float32 {
	var nearest float32
	if t.seen >= nearWitnesses {
		v := t.sure
		slices.Sort(v[:nearWitnesses])
		nearest = v[(nearWitnesses-1)/2]
	}
	return max(nearest, t.median(&t.sure))
}

// claim is what a node alone measured, by its place in the node's edges, beside the medians of its witnesses, in microseconds: bound is
// the least that it can be by their numbers; sure leaves out what is noise of the larger distances, else two nodes of one site
// would be told apart by what jitters between continents.
type claim struct {
	position    int32
	bound, sure float32
	seen        bool // by enough witnesses that measured both ends
}

func (j *judge) distrusted(n int32) bool { return j.ev.Distrusted != nil && j.ev.Distrusted[n] }

// witnesses reports whether what a node says counts as evidence about others.
func (j *judge) witnesses(n int32) bool { return !j.distrusted(n) && len(j.Edges[n]) <= j.talkative }

// writesWithin is the time after which a measurement of a node that still measures is replaced by a newer one: its refresh
// interval, and half of it and 30 s for the interval of its probes and for being late.
func (j *judge) writesWithin(n int32) time.Duration {
	refresh := defaultRefresh
	if j.ev.Refresh != nil {
		refresh = max(refresh, j.ev.Refresh[n])
	}
	return refresh*3/2 + 30*time.Second
}

// ratioOfEnds returns the ratio above which the two ends of a pair contradict each other, from the median of the nodes' medians: whoever
// says more has no more weight.
func (j *judge) ratioOfEnds() float32 {
	var ratios, own []float32
	for i := range int32(len(j.Names)) {
		own = own[:0]
		for k := range j.Edges[i] {
			a, b := &j.Edges[i][k], j.twin(i, k)
			if b == nil || !a.Measured() || !b.Measured() {
				continue
			}
			ratio := float32(1)
			if disagree(a.typical, b.typical, 1) {
				ratio = max(a.typical.us, b.typical.us) / min(a.typical.us, b.typical.us)
			}
			own = append(own, ratio)
		}
		if len(own) > 0 {
			ratios = append(ratios, quantile(own, 0.5))
		}
	}
	if len(ratios) < minEnds {
		return noiseRatio
	}
	return min(max(noiseRatio, float32(math.Pow(float64(quantile(ratios, 0.5)), contradiction))), maxContradiction)
}

// twin returns what the other end says of an edge's pair, nil where that is nothing.
func (j *judge) twin(i int32, k int) *Edge {
	t := j.twins[i][k]
	if t < 0 {
		return nil
	}
	return &j.Edges[j.Edges[i][k].To][t]
}

func medianLength(edges [][]Edge) int {
	var lengths []float32
	for i := range edges {
		if n := len(edges[i]); n > 0 {
			lengths = append(lengths, float32(n))
		}
	}
	if len(lengths) == 0 {
		return 0
	}
	return int(quantile(lengths, 0.5))
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

// positions leaves out the positions that most of those that measured a node contradict: the worst first, because a wrong one makes
// others' look wrong.
func (j *judge) positions() {
	if j.ev.Positions == nil {
		return
	}
	j.position = slices.Clone(j.ev.Positions)
	for range maxRounds {
		worst := float32(0.5)
		var wrong []int32
		for i, share := range j.fasterThanLight() {
			if share > worst {
				worst, wrong = share, wrong[:0]
			}
			if share >= worst && share > 0.5 {
				wrong = append(wrong, int32(i))
			}
		}
		if len(wrong) == 0 {
			break
		}
		for _, i := range wrong {
			j.position[i] = Position{}
		}
		j.v.Misplaced = append(j.v.Misplaced, wrong...)
	}
	slices.Sort(j.v.Misplaced)
}

// fasterThanLight returns, for each node, the share of its witnesses with a position that measured it faster than light; 0 where
// fewer than minWrong did.
func (j *judge) fasterThanLight() []float32 {
	shares, seen := make([]float32, len(j.Names)), make([]float32, len(j.Names))
	for i := range int32(len(j.Names)) {
		if !j.position[i].Known() || !j.witnesses(i) {
			continue
		}
		for k := range j.Edges[i] {
			e := &j.Edges[i][k]
			if !e.Measured() || !j.position[e.To].Known() {
				continue
			}
			seen[e.To]++
			if fasterThanLight(e.typical, j.position[i], j.position[e.To]) {
				shares[e.To]++
			}
		}
	}
	for i := range shares {
		if shares[i] < minWrong {
			shares[i] = 0
		} else {
			shares[i] /= seen[i]
		}
	}
	return shares
}

// judgeNode looks at what a node measured: it rejects what cannot be, and collects testimony on what only this node measured. Of a
// distrusted node it does the same, to see whether it still deserves it.
func (j *judge) judgeNode(i int32) {
	st := &j.v.Standing[i]
	j.asked = j.asked[:0]
	for k := range j.Edges[i] {
		own, others := &j.Edges[i][k], j.twin(i, k)
		if i < own.To && others != nil && own.Measured() && others.Measured() && disagree(own.typical, others.typical, j.Noise) {
			j.v.Disputed++
		}
		switch {
		case own.isLost():
			// The other end's measurement may be from before.
			if others != nil && others.Measured() && !j.distrusted(i) && others.at < own.at-j.writesWithin(own.To).Milliseconds() {
				j.reject(own.To, i, ReasonLost)
			}
		case !own.Measured():
		case j.position != nil && fasterThanLight(own.typical, j.position[i], j.position[own.To]):
			st.Comparable++
			st.Contradicted++
			j.reject(i, own.To, ReasonFasterThanLight)
		case others != nil && others.Measured() && j.witnesses(own.To):
			st.Comparable++
			if disagree(own.typical, others.typical, j.Noise) {
				st.Contradicted++
			}
		default:
			j.asked = append(j.asked, testimony{position: int32(k), to: own.To})
		}
	}
	m := &j.memory.nodes[i]
	if j.examine[i] {
		m.claims = j.ask(i)
	}
	// What was a claim when the node was examined may have been measured from the other end since.
	j.claims[i] = make([]claim, 0, min(len(m.claims), len(j.asked)))
	for a, c := 0, 0; a < len(j.asked) && c < len(m.claims); {
		switch {
		case j.asked[a].position < m.claims[c].position:
			a++
		case j.asked[a].position > m.claims[c].position:
			c++
		default:
			j.claims[i] = append(j.claims[i], m.claims[c])
			a, c = a+1, c+1
		}
	}
}

// ask hears the witnesses of a node's claims: the nodes that measured it, and have a distance to whom the claim is about.
func (j *judge) ask(i int32) (claims []claim) {
	if len(j.asked) == 0 || len(j.in[i]) < minWitnesses {
		return nil
	}
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
		if !e.Measured() || !j.witnesses(x) {
			continue
		}
		j.near = append(j.near, x)
		j.witness[x] = e.typical.us
	}
	slices.SortFunc(j.near, func(a, b int32) int { return cmp.Compare(j.witness[a], j.witness[b]) })
	for _, x := range j.near {
		for l := range j.Edges[x] {
			e := &j.Edges[x][l]
			if about := j.claimAbout[e.To]; about > 0 && e.Measured() {
				j.asked[about-1].see(x, e.typical.us, j.witness[x])
			}
		}
	}
	for k := range j.asked {
		t := &j.asked[k]
		if !j.witnesses(t.to) {
			continue
		}
		for l := range j.Edges[t.to] {
			e := &j.Edges[t.to][l]
			if d := j.witness[e.To]; d > 0 && e.Measured() {
				t.see(e.To, e.typical.us, d)
			}
		}
	}
	for k := range j.asked {
		t := &j.asked[k]
		t.seen = t.count
		j.hear(t)
		j.claimAbout[j.asked[k].to] = 0
	}
	for _, x := range j.near {
		j.witness[x] = 0
	}
	for k := range j.asked {
		t := &j.asked[k]
		if t.count < minWitnesses {
			continue
		}
		claims = append(claims, claim{t.position, t.median(&t.bounds), t.sureMedian(), t.seen >= minWitnesses})
	}
	return claims
}

// hear has nodes that measured the node, but not whom the claim is about, tell of that by coordinates, and takes off what these may be
// wrong by.
func (j *judge) hear(t *testimony) {
	cs := j.v.Believed.Coordinates
	if cs == nil || cs[t.to].Error == 0 {
		return
	}
	for _, x := range j.near {
		if t.count == maxWitnesses {
			return
		}
		if cs[x].Error == 0 || x == t.to {
			continue
		}
		if us, ok := cs[x].RTT(&cs[t.to]).Micros(); ok {
			bound := max(0, abs(us-j.witness[x])-hearsay*us*cs[x].ErrorTo(&cs[t.to]))
			t.add(x, bound, bound)
		}
	}
}

func abs(x float32) float32 { return max(x, -x) }

// judgeClaims rejects the claims that their witnesses rule out.
func (j *judge) judgeClaims() {
	var ratios []float32
	for i := range j.claims {
		ratios = j.ratiosOf(ratios, int32(i))
	}
	seenBar := float32(implausible)
	if len(ratios) >= minRatios && quantile(ratios, 0.75) > noSpace {
		seenBar = noSpaceImplausible
	}
	for i := range j.claims {
		st := &j.v.Standing[i]
		for _, c := range j.claims[i] {
			e := &j.Edges[i][c.position]
			st.Comparable++
			bar := seenBar
			if !c.seen {
				bar = implausible // coordinates are in use, so the network is a space
			}
			us := e.typical.us
			// Of most of a node's claims together, a smaller violation says more than of one alone.
			if likely := (c.bound + c.sure) / 2; us*max(noiseRatio, bar/implausible) < likely && likely-us > noise {
				st.Contradicted++
			}
			if us*bar < c.sure && c.sure-us > noise {
				j.reject(int32(i), e.To, ReasonImplausible)
			}
		}
	}
}

// ratiosOf adds how what witnesses say compares with what one node claims.
func (j *judge) ratiosOf(ratios []float32, i int32) []float32 {
	seen := 0
	for _, c := range j.claims[i] {
		if c.seen {
			seen++
		}
	}
	stride := 1 + (seen-1)/maxRatios
	n := 0
	for _, c := range j.claims[i] {
		if c.seen {
			if n++; n%stride == 0 {
				ratios = append(ratios, c.bound/j.Edges[i][c.position].typical.us)
			}
		}
	}
	return ratios
}

func (j *judge) reject(from, to int32, reason Reason) {
	if j.distrusted(from) {
		return // it is left out with all the others
	}
	j.v.Rejected = append(j.v.Rejected, Rejection{from, to, reason})
}

// believe makes the picture that is left.
func (j *judge) believe() {
	coordinates := j.v.Believed.Coordinates
	j.v.Believed = j.Picture
	j.v.Believed.Coordinates = coordinates
	j.believeRankings()
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

// believeRankings leaves out those of distrusted nodes. Nothing else is said of them: the rules above are of RTTs.
func (j *judge) believeRankings() {
	if j.Rankings == nil || !slices.Contains(j.ev.Distrusted, true) {
		return
	}
	rankings := slices.Clone(j.Rankings)
	for n, distrusted := range j.ev.Distrusted {
		if distrusted {
			rankings[n] = nil
		}
	}
	j.v.Believed.Rankings = rankings
}

// coordinates returns the coordinates that are of use, each with the error that it has against what others measured of its node.
// The node's own measurements do not count: whoever lies about its place can lie about its distances.
func (j *judge) coordinates() []NetworkCoordinate {
	if j.Coordinates == nil {
		return nil
	}
	cs := slices.Clone(j.Coordinates)
	seen := make([]bool, len(cs)) // by enough others
	var observed []float32
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
		m := &j.memory.nodes[i]
		if j.examine[i] {
			m.err = j.errorOf(int32(i))
		}
		if m.err > 0 {
			c.Error, seen[i] = m.err, true
			observed = append(observed, m.err)
		}
	}
	j.dropPopular(cs)
	// In a network that is no space, no coordinate is of use.
	nowhere := len(observed) >= minWitnesses && quantile(observed, 0.5) > maxObservedError
	for i := range cs {
		c := &cs[i]
		if c.Error > 0 && (nowhere || seen[i] && c.Error > maxObservedError || !seen[i] && c.Error >= maxReportedError) {
			*c = NetworkCoordinate{}
			j.v.Coordinate[i] = ReasonInaccurate
		}
	}
	return cs
}

// dropPopular leaves out the coordinates of the nodes that nearly all measured.
func (j *judge) dropPopular(cs []NetworkCoordinate) {
	reporters := 0
	for i := range j.Edges {
		if len(j.Edges[i]) > 0 {
			reporters++
		}
	}
	for i := range cs {
		if n := len(j.in[i]); n >= minPopular && float64(n) >= popular*float64(reporters-1) {
			cs[i] = NetworkCoordinate{}
		}
	}
}

// errorOf returns the median error of a node's coordinate against what others measured of the node; 0 where too few did.
func (j *judge) errorOf(i int32) float32 {
	var buffer [maxNeighbours + 1]float32
	errs := buffer[:0]
	in := j.in[i]
	stride := 1 + (len(in)-1)/maxNeighbours
	for k := int(i) % stride; k < len(in); k += stride {
		x := in[k].from
		e := &j.Edges[x][in[k].position]
		if !e.Measured() || !j.witnesses(x) || j.Coordinates[x].Error == 0 {
			continue
		}
		us, _ := j.Coordinates[i].RTT(&j.Coordinates[x]).Micros()
		errs = append(errs, abs(us-e.typical.us)/e.typical.us)
	}
	if len(errs) < minWitnesses {
		return 0
	}
	return max(MinError, quantile(errs, 0.5))
}
