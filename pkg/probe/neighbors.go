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
	maxRemembered = 256
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
//   - near ones (6 of 16): the nearest of all that were measured so far. Who is near to a near peer is likely to be near as
//     well, so peers tell one another who theirs are;
//   - far ones (6 of 16): the successors on as many rings, each salted differently;
//   - rotating ones (4 of 16), of which two are successors on rings that change with the epoch, and two are candidates for
//     nearness: what near peers named, and nodes of the same zone.
//
// Rings are rendezvous hashing (a node's peer is that of the least hash of the two) where the hash is the way along the ring.
// That makes the degree exact in both directions: on each ring every node is the successor of exactly one. With a hash of
// the pair instead, the number of nodes that measure one would be spread like a throw of dice. A node that comes or goes moves
// one peer of one other node on each ring.
//
// It is deterministic, and not safe for concurrent use.
type Neighbors struct {
	cfg       NeighborsConfig
	near, far int // of K; the others rotate
	self      uint64

	zone     string
	nodes    []member
	byHash   map[uint64]int // index into nodes
	interest []string
	known    map[uint64]*memory
	nearest  []uint64 // the near peers
	peers    []Target // as chosen last
	chosen   map[uint64]bool

	interval time.Duration
	epoch    epoch
	dirty    bool
}

type member struct {
	Node
	hash uint64
}

// memory is what is kept of a peer that was measured.
type memory struct {
	rtt  time.Duration
	near []uint64 // what it said
	used int64    // when it was last measured, counted in observations
}

// epoch is a number that changes with the time, and its length: nodes with the same length turn the same rings.
type epoch struct {
	length time.Duration
	number int64
}

// NewNeighbors checks the configuration, and returns all that is wrong with it.
func NewNeighbors(cfg NeighborsConfig) (*Neighbors, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	near := (cfg.K*3 + 4) / 8
	return &Neighbors{
		cfg: cfg, near: near, far: near, self: NameHash(cfg.Self), known: map[uint64]*memory{}, dirty: true,
	}, nil
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

// SetInterval says how often a peer is probed, so that a rotating one stays for some probes.
func (n *Neighbors) SetInterval(d time.Duration) { n.interval = d }

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
	if m == nil {
		m = &memory{}
		n.known[h] = m
		if len(n.known) > maxRemembered {
			n.forgetFarthest()
		}
	}
	m.rtt = rtt
	if info != nil {
		m.near = append(m.near[:0], info.Near[:min(len(info.Near), MaxNear)]...)
	}
}

// forgetFarthest forgets one that is neither a peer nor near.
func (n *Neighbors) forgetFarthest() {
	worst, found := uint64(0), false
	for h, m := range n.known {
		if n.chosen[h] {
			continue
		}
		if !found || m.rtt > n.known[worst].rtt || m.rtt == n.known[worst].rtt && h < worst {
			worst, found = h, true
		}
	}
	if found {
		delete(n.known, worst)
	}
}

// Forget says that a peer does not answer any more: what was measured of it is forgotten.
func (n *Neighbors) Forget(name string) {
	h := NameHash(name)
	if _, ok := n.known[h]; !ok {
		return
	}
	delete(n.known, h)
	if slices.Contains(n.nearest, h) {
		n.dirty = true
	}
}

// Len returns the number of nodes, this one included.
func (n *Neighbors) Len() int { return len(n.nodes) + 1 }

// Near returns the hashes of the nearest peers, the nearest first, at most MaxNear: for Info.
func (n *Neighbors) Near() []uint64 {
	list := n.byRTT(func(h uint64) bool { return n.chosen[h] })
	return list[:min(len(list), MaxNear)]
}

// byRTT returns the hashes of what was measured and is kept by keep, the nearest first.
func (n *Neighbors) byRTT(keep func(uint64) bool) []uint64 {
	var list []uint64
	for h := range n.known {
		if keep(h) {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(n.known[a].rtt, n.known[b].rtt), cmp.Compare(a, b))
	})
	return list
}

// Select returns the peers to measure at a time, by name. It may be called as often as one likes.
func (n *Neighbors) Select(now time.Time) []Target {
	e := n.epochAt(now)
	if e == n.epoch && !n.dirty {
		return n.peers
	}
	turned := e != n.epoch
	n.epoch, n.dirty = e, false
	c := &choice{n: n, chosen: make(map[uint64]bool, n.cfg.K+len(n.interest))}
	if len(n.nodes) <= 2*n.cfg.K {
		n.nearest = nil
		c.ring(0, n.cfg.K)
	} else {
		for i := range n.far {
			c.ring(uint64(i)+1, 1)
		}
		n.chooseNear(turned, c.chosen)
		for _, h := range n.nearest {
			c.add(h)
		}
		rotating := (n.cfg.K - n.near - n.far) / 2
		salt := mix(uint64(e.length), uint64(e.number))
		for i := range rotating {
			c.ring(mix(salt, uint64(i)+1), 1)
		}
		c.trials(mix(salt, n.self), n.cfg.K-len(c.chosen))
		for i := uint64(0); len(c.chosen) < n.cfg.K; i++ {
			c.ring(mix(salt, 1000+i), 1)
		}
	}
	beyond := 0
	for _, name := range n.interest {
		if beyond == n.cfg.MaxInterest {
			break
		}
		h := NameHash(name)
		if _, ok := n.byHash[h]; ok && !c.chosen[h] {
			c.add(h)
			beyond++
		}
	}
	n.chosen = c.chosen
	n.peers = make([]Target, 0, len(c.chosen))
	for h := range c.chosen {
		node := n.nodes[n.byHash[h]]
		n.peers = append(n.peers, Target{Name: node.Name, Addr: node.Addr})
	}
	slices.SortFunc(n.peers, func(a, b Target) int { return cmp.Compare(a.Name, b.Name) })
	return n.peers
}

// epochAt returns the epoch of a time. Its length is doubled until a rotating peer gets its probes; nodes turn at different
// moments of it.
func (n *Neighbors) epochAt(now time.Time) epoch {
	length := n.cfg.Epoch
	for length < epochProbes*n.interval {
		length *= 2
	}
	offset := time.Duration(mix(n.self, 0) % uint64(length))
	return epoch{length: length, number: now.Add(offset).UnixNano() / int64(length)}
}

// chooseNear chooses the near peers among what was measured, but for those that are peers already. Empty places are filled at
// once; others change hands when the epoch turned, and the new one is nearer by more than the noise.
func (n *Neighbors) chooseNear(turned bool, already map[uint64]bool) {
	n.nearest = slices.DeleteFunc(n.nearest, func(h uint64) bool { return n.known[h] == nil || already[h] })
	others := n.byRTT(func(h uint64) bool { return !already[h] && !slices.Contains(n.nearest, h) })
	for len(n.nearest) < n.near && len(others) > 0 {
		n.nearest, others = append(n.nearest, others[0]), others[1:]
	}
	for turned && len(others) > 0 {
		worst := 0
		for i, h := range n.nearest {
			if n.known[h].rtt > n.known[n.nearest[worst]].rtt {
				worst = i
			}
		}
		if float64(n.known[others[0]].rtt) >= nearer*float64(n.known[n.nearest[worst]].rtt) {
			break
		}
		n.nearest[worst], others = others[0], others[1:]
	}
}

// choice is a set of peers under construction.
type choice struct {
	n      *Neighbors
	chosen map[uint64]bool
}

func (c *choice) add(h uint64) { c.chosen[h] = true }

// ring adds the next count successors of the node on a ring that are not chosen yet.
func (c *choice) ring(salt uint64, count int) {
	self := mix(c.n.self, salt)
	for range count {
		best, least := uint64(0), uint64(0)
		for i := range c.n.nodes {
			h := c.n.nodes[i].hash
			if way := mix(h, salt) - self; (best == 0 || way < least) && !c.chosen[h] {
				best, least = h, way
			}
		}
		if best == 0 {
			return
		}
		c.add(best)
	}
}

// trials adds count candidates for nearness that were not measured yet, as far as there are any: in turn one that near peers
// named, and one of the same zone.
func (c *choice) trials(salt uint64, count int) {
	n := c.n
	unknown := func(h uint64) bool { return h != n.self && !c.chosen[h] && n.known[h] == nil }
	best := func(list func(yield func(uint64) bool)) (uint64, bool) {
		least, found := uint64(0), false
		for h := range list {
			if unknown(h) && (!found || mix(h, salt) < mix(least, salt)) {
				least, found = h, true
			}
		}
		return least, found
	}
	named := func(yield func(uint64) bool) {
		for _, near := range n.nearest {
			for _, h := range n.known[near].near {
				if _, ok := n.byHash[h]; ok && !yield(h) {
					return
				}
			}
		}
	}
	sameZone := func(yield func(uint64) bool) {
		for i := range n.nodes {
			if n.zone != "" && n.nodes[i].Zone == n.zone && !yield(n.nodes[i].hash) {
				return
			}
		}
	}
	for i := range count {
		first, second := named, sameZone
		if i%2 == 1 {
			first, second = sameZone, named
		}
		h, ok := best(first)
		if !ok {
			h, ok = best(second)
		}
		if !ok {
			return
		}
		c.add(h)
	}
}

// mix hashes two numbers into one (the finalizer of splitmix64).
func mix(a, b uint64) uint64 {
	x := a ^ (b+0x9e3779b97f4a7c15)*0xbf58476d1ce4e5b9
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
