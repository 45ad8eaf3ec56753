// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	// DefaultNeighbors is the number of peers that a node measures, interest apart.
	DefaultNeighbors = 16
	// DefaultMaxInterest bounds the nodes of interest.
	DefaultMaxInterest = 64
	// DefaultEpoch is the least time for which a rotating peer is measured.
	DefaultEpoch = 5 * time.Minute
	// epochProbes is how many probes a rotating peer gets at least.
	epochProbes = 5
	// maxRemembered bounds the peers whose last RTT is remembered.
	maxRemembered = 1024
	// rememberedTurns is for how many intervals.
	rememberedTurns = 200
	// enoughTrials: when one in so many succeeded, there are more of them.
	enoughTrials = 4
	// nearer is how much nearer than the farthest near peer another one has to be to take its place, as a share of its RTT.
	nearer = 0.8
)

// Node is a node that can be probed.
type Node struct {
	Name string
	// Zone is where it stands; "" where nobody says.
	Zone string
	Addr netip.AddrPort
}

// NeighborsConfig configures Neighbors.
type NeighborsConfig struct {
	// Self is the name of the node that probes.
	Self string
	// K is the number of peers to measure, interest apart, 1 to 1024; 0 means DefaultNeighbors.
	K int
	// MaxInterest is the most nodes of interest to measure beyond K, at most 1024; 0 means DefaultMaxInterest, negative none.
	MaxInterest int
	// Epoch is the least time for which a rotating peer is measured; 0 means DefaultEpoch.
	Epoch time.Duration
}

func (c *NeighborsConfig) complete() error {
	if c.K == 0 {
		c.K = DefaultNeighbors
	}
	if c.MaxInterest == 0 {
		c.MaxInterest = DefaultMaxInterest
	}
	if c.Epoch == 0 {
		c.Epoch = DefaultEpoch
	}
	var errs []error
	if c.K < 1 || c.K > 1024 {
		errs = append(errs, fmt.Errorf("neighbours: %d: must be 1 to 1024", c.K))
	}
	if c.MaxInterest > 1024 {
		errs = append(errs, fmt.Errorf("nodes of interest: %d: must be at most 1024", c.MaxInterest))
	}
	if c.Epoch < time.Second {
		errs = append(errs, fmt.Errorf("epoch: %v: must be at least 1s", c.Epoch))
	}
	return errors.Join(errs...)
}

// Neighbors chooses which peers a node measures.
//
// All nodes stand on a ring, at a hash of their names. Up to 2K+1 nodes, each measures its K successors: then every pair is
// measured by at least one side, and up to K+1 nodes by both. Where there are more, the K are
//   - near ones (8 of 16): the nearest of all that were measured so far;
//   - far ones (4 of 16): the successors on as many rings, each salted differently;
//   - rotating ones (4 of 16): one is the successor on a ring that changes with the epoch. The other three change every
//     interval, after one probe each: they are on trial for nearness. Who is near to a near peer is likely to be near as well,
//     so peers tell one another who theirs are; then come nodes of the same zone, and in the end any. As long as trials
//     succeed, up to half of the near peers make room for more of them.
//
// Rings are rendezvous hashing (a node's peer is that of the least hash of the two) where the hash is the way along the ring.
// That makes the degree exact in both directions: on each ring every node is the successor of exactly one. With a hash of
// the pair instead, the number of nodes that measure one would be spread like a throw of dice. A node that comes or goes moves
// one peer of one other node on each ring.
//
// It is deterministic, and not safe for concurrent use.
type Neighbors struct {
	cfg             NeighborsConfig
	near, far, ring int // of K; the others are on trial
	self            uint64

	zone     string
	nodes    []member
	byHash   map[uint64]int // index into nodes
	interest []string
	known    map[uint64]*memory // by hash
	nearest  []*memory          // the nearest known, those of them first that are peers
	room     int                // how many of the near make room for trials
	trials   map[uint64]bool    // the peers that are on trial
	chosen   map[uint64]bool    // all peers
	peers    []Target           // the same
	measured []*memory          // those of them that were measured

	interval time.Duration
	epoch    epoch
	turnEnds time.Time // a turn is as long as an interval
	turns    int64     // so far
	dirty    bool
}

type member struct {
	Node
	hash uint64
}

// memory is what is kept of a peer that was measured.
type memory struct {
	hash   uint64
	rtt    time.Duration
	near   []uint64 // what it said
	turn   int64    // when it was last heard of, by turns
	silent bool     // it does not answer any more: it is remembered so that it is not tried at every turn
}

func compareMemories(a, b *memory) int {
	return cmp.Or(cmp.Compare(a.rtt, b.rtt), cmp.Compare(a.hash, b.hash))
}

// epoch is a number that changes with the time, and the length of time after which it does: nodes with the same length turn the
// same rings.
type epoch struct {
	length time.Duration
	number int64
}

// NewNeighbors checks the configuration, and returns all that is wrong with it.
func NewNeighbors(cfg NeighborsConfig) (*Neighbors, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	n := &Neighbors{
		cfg: cfg, near: cfg.K / 2, far: cfg.K / 4, self: NameHash(cfg.Self), known: map[uint64]*memory{},
		interval: MinInterval, dirty: true,
	}
	n.ring = (cfg.K - n.near - n.far + 3) / 4
	return n, nil
}

// SetNodes replaces the nodes; the node itself may be among them, and says in which zone it is.
func (n *Neighbors) SetNodes(nodes []Node) {
	n.nodes = make([]member, 0, len(nodes))
	n.byHash = make(map[uint64]int, len(nodes))
	for _, node := range nodes {
		if node.Name == n.cfg.Self {
			n.zone = node.Zone
			continue
		}
		h := NameHash(node.Name)
		if _, ok := n.byHash[h]; ok {
			continue
		}
		n.byHash[h] = len(n.nodes)
		n.nodes = append(n.nodes, member{Node: node, hash: h})
	}
	maps.DeleteFunc(n.known, func(h uint64, _ *memory) bool { _, ok := n.byHash[h]; return !ok })
	n.dirty = true
}

// SetInterest replaces the nodes of interest, the most important first.
func (n *Neighbors) SetInterest(names []string) {
	if slices.Equal(names, n.interest) {
		return
	}
	n.interest = slices.Clone(names)
	n.dirty = true
}

// SetInterval says how often a peer is probed.
func (n *Neighbors) SetInterval(d time.Duration) { n.interval = max(d, time.Millisecond) }

// Observe takes the RTT to a peer, and what it said of itself, if anything.
func (n *Neighbors) Observe(name string, rtt time.Duration, info *Info) {
	if rtt <= 0 {
		return
	}
	h := NameHash(name)
	if _, ok := n.byHash[h]; !ok {
		return
	}
	m := n.known[h]
	if m == nil || m.silent {
		m = &memory{hash: h, rtt: rtt}
		n.remember(m)
		if n.chosen[h] {
			n.measured = append(n.measured, m)
		}
	}
	m.rtt, m.turn = rtt, n.turns
	if info != nil {
		m.near = append(m.near[:0], info.Near[:min(len(info.Near), MaxNear)]...)
	}
}

// remember keeps a memory. Where there are too many, it forgets the farthest that is no peer.
func (n *Neighbors) remember(m *memory) {
	n.known[m.hash] = m
	if len(n.known) <= maxRemembered {
		return
	}
	var farthest *memory
	for h, m := range n.known {
		if (farthest == nil || compareMemories(m, farthest) > 0) && !n.chosen[h] {
			farthest = m
		}
	}
	if farthest != nil {
		delete(n.known, farthest.hash)
	}
}

// Forget says that a peer does not answer: what was measured of it holds no longer.
func (n *Neighbors) Forget(name string) {
	h := NameHash(name)
	m := n.known[h]
	if _, ok := n.byHash[h]; !ok || m != nil && m.silent {
		return
	}
	n.remember(&memory{hash: h, rtt: MaxRTT, turn: n.turns, silent: true})
	is := func(o *memory) bool { return o == m }
	n.measured = slices.DeleteFunc(n.measured, is)
	if slices.ContainsFunc(n.nearest, is) {
		n.dirty = true
	}
}

// Len returns the number of nodes, this one included.
func (n *Neighbors) Len() int { return len(n.nodes) + 1 }

// Near returns the hashes of near peers, the nearest first, at most MaxNear: for Info. They are others every turn: the four
// nearest of a node are often the same place, and name only one another.
func (n *Neighbors) Near() []uint64 {
	some := slices.Clone(n.nearest)
	if len(some) == 0 {
		some = slices.Clone(n.measured)
		slices.SortFunc(some, compareMemories)
	} else {
		salt := mix(n.self, uint64(n.turns))
		slices.SortFunc(some, func(a, b *memory) int { return cmp.Compare(mix(a.hash, salt), mix(b.hash, salt)) })
	}
	some = some[:min(len(some), MaxNear)]
	slices.SortFunc(some, compareMemories)
	near := make([]uint64, len(some))
	for i, m := range some {
		near[i] = m.hash
	}
	return near
}

// OnTrial returns whether a peer of the last selection is there for one probe only.
func (n *Neighbors) OnTrial(name string) bool { return n.trials[NameHash(name)] }

// Select returns the peers to measure at a time, by name. It may be called as often as one likes; the peers are the same slice
// until they change.
func (n *Neighbors) Select(now time.Time) []Target {
	few := len(n.nodes) <= 2*n.cfg.K
	epoch, turned := n.epochAt(now), n.turnOver(now)
	if !n.dirty && (few || epoch == n.epoch && !turned) {
		return n.peers
	}
	n.epoch, n.dirty = epoch, false

	c := &choice{n: n, chosen: make(map[uint64]bool, n.cfg.K+len(n.interest))}
	if few {
		n.nearest, n.trials = nil, nil
		for range n.cfg.K {
			c.addSuccessor(0)
		}
		c.addInterest()
	} else {
		for i := range n.far {
			c.addSuccessor(uint64(i) + 1)
		}
		beyond := c.addInterest()
		n.chooseNear(turned, c.chosen)
		for _, m := range n.nearest[:min(len(n.nearest), n.near-n.room)] {
			c.chosen[m.hash] = true
		}
		salt := mix(uint64(epoch.length), uint64(epoch.number))
		for i := range n.ring {
			c.addSuccessor(mix(salt, uint64(i)+1))
		}
		c.addTrials(turned, mix(uint64(n.turns), n.self), n.cfg.K+beyond-len(c.chosen))
	}
	n.chosen = c.chosen
	n.measured = n.measured[:0]
	n.peers = make([]Target, 0, len(c.chosen))
	for h := range c.chosen {
		if m := n.known[h]; m != nil && !m.silent {
			n.measured = append(n.measured, m)
		}
		node := n.nodes[n.byHash[h]]
		n.peers = append(n.peers, Target{Name: node.Name, Addr: node.Addr})
	}
	slices.SortFunc(n.measured, compareMemories)
	slices.SortFunc(n.peers, func(a, b Target) int { return cmp.Compare(a.Name, b.Name) })
	return n.peers
}

// epochAt returns the epoch of a time, long enough for a rotating peer to get its probes. Nodes turn at different moments.
func (n *Neighbors) epochAt(now time.Time) epoch {
	length := n.cfg.Epoch
	for length < epochProbes*n.interval {
		length *= 2
	}
	offset := time.Duration(mix(n.self, 0) % uint64(length))
	return epoch{length: length, number: now.Add(offset).UnixNano() / int64(length)}
}

// turnOver returns whether a turn has ended, and begins the next one.
func (n *Neighbors) turnOver(now time.Time) bool {
	left := n.turnEnds.Sub(now)
	switch {
	case left > n.interval: // the interval became shorter
		n.turnEnds = now.Add(n.interval)
		return false
	case left > 0:
		return false
	case left > -n.interval:
		n.turnEnds = n.turnEnds.Add(n.interval)
	default: // the first one, or the machine slept
		n.turnEnds = now.Add(n.interval)
	}
	n.turns++
	return true
}

// Next returns in what time Select may return other peers although nothing else happens.
func (n *Neighbors) Next(now time.Time) time.Duration { return max(n.turnEnds.Sub(now), 0) }

// chooseNear chooses the near peers among what was measured, but for those that are peers already. Empty places are filled at
// once; others change hands at a turn, when the new one is nearer by more than the noise.
func (n *Neighbors) chooseNear(turned bool, already map[uint64]bool) {
	maps.DeleteFunc(n.known, func(h uint64, m *memory) bool { return n.turns-m.turn > rememberedTurns && !n.chosen[h] })
	n.nearest = slices.DeleteFunc(n.nearest, func(m *memory) bool { return n.known[m.hash] != m || already[m.hash] })
	isNear := make(map[*memory]bool, n.near)
	for _, m := range n.nearest {
		isNear[m] = true
	}
	others := make([]*memory, 0, len(n.known))
	for h, m := range n.known {
		if !already[h] && !isNear[m] && !m.silent {
			others = append(others, m)
		}
	}
	slices.SortFunc(others, compareMemories)
	slices.SortFunc(n.nearest, compareMemories)
	for len(n.nearest) < n.near && len(others) > 0 {
		n.nearest, others = append(n.nearest, others[0]), others[1:]
	}
	for turned && len(others) > 0 && len(n.nearest) > 0 {
		slices.SortFunc(n.nearest, compareMemories)
		farthest := len(n.nearest) - 1
		if float64(others[0].rtt) >= nearer*float64(n.nearest[farthest].rtt) {
			break
		}
		n.nearest[farthest], others = others[0], others[1:]
	}
	slices.SortFunc(n.nearest, compareMemories)
	if !turned {
		return
	}
	found := 0
	for _, m := range n.nearest {
		if n.trials[m.hash] {
			found++
		}
	}
	if enoughTrials*found >= len(n.trials) {
		n.room = min(n.room+2, n.near/2)
	} else {
		n.room = max(n.room-1, 0)
	}
}

// choice is a set of peers under construction.
type choice struct {
	n      *Neighbors
	chosen map[uint64]bool
}

// successor returns the next node on a ring that is not chosen yet.
func (c *choice) successor(salt uint64) (next uint64, ok bool) {
	self, least := mix(c.n.self, salt), uint64(0)
	for i := range c.n.nodes {
		h := c.n.nodes[i].hash
		if way := mix(h, salt) - self; (!ok || way < least) && !c.chosen[h] {
			next, least, ok = h, way, true
		}
	}
	return next, ok
}

// addSuccessor adds the next node on a ring that is not chosen yet, if there is one.
func (c *choice) addSuccessor(salt uint64) {
	if h, ok := c.successor(salt); ok {
		c.chosen[h] = true
	}
}

// addInterest adds the nodes of interest, and returns how many were not chosen yet.
func (c *choice) addInterest() (added int) {
	taken := 0
	for _, name := range c.n.interest {
		if taken >= c.n.cfg.MaxInterest {
			break
		}
		taken++
		h := NameHash(name)
		if _, ok := c.n.byHash[h]; ok && !c.chosen[h] {
			c.chosen[h] = true
			added++
		}
	}
	return added
}

// addTrials adds count peers on trial: others at every turn.
func (c *choice) addTrials(turned bool, salt uint64, count int) {
	n := c.n
	before := n.trials
	n.trials = make(map[uint64]bool, count)
	add := func(h uint64) { c.chosen[h], n.trials[h] = true, true }
	if !turned {
		for h := range before {
			if _, ok := n.byHash[h]; ok && !c.chosen[h] && len(n.trials) < count {
				add(h)
			}
		}
	}
	untried := func(h uint64) bool { return h != n.self && !c.chosen[h] && n.known[h] == nil }
	votes := map[uint64]float64{}
	for _, m := range n.measured {
		for _, h := range m.near {
			if _, ok := n.byHash[h]; ok && untried(h) {
				votes[h] += 1 / float64(m.rtt)
			}
		}
	}
	named := func() (best uint64, ok bool) {
		for h, v := range votes {
			if untried(h) && (!ok || v > votes[best] || v == votes[best] && h < best) {
				best, ok = h, true
			}
		}
		return best, ok
	}
	among := func(zone string) (best uint64, ok bool) {
		for i := range n.nodes {
			h := n.nodes[i].hash
			if (zone == "" || n.nodes[i].Zone == zone) && (!ok || mix(h, salt) < mix(best, salt)) && untried(h) {
				best, ok = h, true
			}
		}
		return best, ok
	}
	sameZone := func() (uint64, bool) {
		if n.zone == "" {
			return 0, false
		}
		return among(n.zone)
	}
	for i := range uint64(max(count-len(n.trials), 0)) {
		first, second := named, sameZone
		if i%2 == 1 {
			first, second = sameZone, named
		}
		h, ok := first()
		if !ok {
			h, ok = second()
		}
		if !ok {
			h, ok = among("")
		}
		if !ok { // all were tried
			h, ok = c.successor(mix(salt, i))
		}
		if ok {
			add(h)
		}
	}
}

// mix hashes two numbers into one (the finalizer of splitmix64).
func mix(a, b uint64) uint64 {
	x := a ^ (b+0x9e3779b97f4a7c15)*0xbf58476d1ce4e5b9
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
