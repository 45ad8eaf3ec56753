// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package tun puts distances between nodes that are network namespaces of one machine, such as the nodes of a kind cluster.
// It is the emulator for kernels without netem: each node gets a TUN device, to which it routes the addresses of all other
// nodes and of their pods. One process reads the packets of every device, holds each for the one-way delay of its pair, and
// writes it into the device of the node to which it is addressed. So what is measured between two nodes, or two pods on
// them, is the round trip of a real packet, whatever the protocol:
//
//	pod on A ─▶ A's kernel ─▶ A's TUN ─▶ ··held for A→B·· ─▶ B's TUN ─▶ B's kernel ─▶ pod on B
//	pod on A ◀─ A's kernel ◀─ A's TUN ◀─ ··held for B→A·· ◀─ B's TUN ◀─ B's kernel ◀─ pod on B
//
// Traffic is told by its destination after NAT: what goes to another node's address or pods crosses the emulator, Services,
// NodePorts and the API server included. What stays on a node does not, nor what comes from outside, such as from the
// machine itself.
//
// In a namespace it makes one device, one routing table and a rule that leads there, and changes nothing that was there. The
// process must be root. The nodes' IPv6 addresses are found where their IPv4 address is, so that IPv6 is no way past the
// emulator: a kubelet tries it as soon as the API server does not answer at its IPv4 address for 0.3 s. Only link-local
// addresses are left out.
package tun

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fogsched/fogsched/test/wan/internal/delay"
)

// maxRTT bounds RTT and Jitter: what is above it is a mistake of units.
const maxRTT = time.Minute

// Node is a network namespace with addresses.
type Node struct {
	Name string `json:"name"`
	// NetNS is the file of the network namespace: ProcNetNS of a process in there, or /run/netns/NAME.
	NetNS string `json:"netNS"`
	// IP is the node's own IPv4 address. What other addresses its interface has lead to the node, too.
	IP netip.Addr `json:"ip"`
	// PodCIDRs are the networks that are behind the node, IPv4 or IPv6.
	PodCIDRs []netip.Prefix `json:"podCIDRs,omitempty"`
}

// ProcNetNS returns the file of the network namespace of a process, for Node.NetNS.
func ProcNetNS(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

func (n Node) validate() error {
	switch {
	case n.Name == "":
		return errors.New("name: must be set")
	case n.NetNS == "":
		return errors.New("netNS: must be set, such as to /proc/PID/ns/net")
	case !n.IP.Is4():
		return fmt.Errorf("ip %s: must be an IPv4 address", n.IP)
	}
	for _, p := range n.PodCIDRs {
		if !p.IsValid() || p.Masked() != p {
			return fmt.Errorf("podCIDRs: %s must be a network, such as 10.244.1.0/24", p)
		}
	}
	return nil
}

// Link is what lies between two nodes. The zero value is no distance at all.
type Link struct {
	// RTT is the delay of a round trip, from 0 to 1 min: half of it is the delay of one way.
	RTT time.Duration `json:"rttNanos,omitempty"`
	// Jitter varies the one-way delay of each packet evenly over RTT/2 ± Jitter, never below 0, so that it does not move
	// the median and packets may overtake one another. From 0 to 1 min. Without jitter, packets of one direction stay in order.
	Jitter time.Duration `json:"jitterNanos,omitempty"`
	// Loss is the probability with which a packet is dropped, each way, from 0 to 1.
	Loss float64 `json:"loss,omitempty"`
	// Down drops every packet.
	Down bool `json:"down,omitempty"`
}

func (l Link) validate() error {
	switch {
	case l.RTT < 0 || l.RTT > maxRTT:
		return fmt.Errorf("rtt %v: must be from 0 to %v", l.RTT, maxRTT)
	case l.Jitter < 0 || l.Jitter > maxRTT:
		return fmt.Errorf("jitter %v: must be from 0 to %v", l.Jitter, maxRTT)
	case !(l.Loss >= 0 && l.Loss <= 1):
		return fmt.Errorf("loss %v: must be from 0 to 1", l.Loss)
	}
	return nil
}

// Direction is a link as packets see it that go from one node to another.
type Direction struct {
	From string `json:"from"`
	To   string `json:"to"`
	Link
}

// Options are the rare choices.
type Options struct {
	// Seed fixes the fate of the n-th packet of every node.
	Seed uint64
}

type way struct{ from, to string }

// Emulator is a running network. Its methods are safe for concurrent use. Links and partitions are kept by the names of
// nodes, also while there is no such node.
type Emulator struct {
	seed    uint64
	counter counters
	stop    func() bool

	mu       sync.Mutex
	nodes    map[string]*node
	links    map[way]Link
	cut      map[string]bool
	isClosed bool
}

// node is one end of all of its links.
type node struct {
	Node
	endpoint
	reader sync.WaitGroup
	queue  *delay.Queue[*[]byte] // packets to the node
	// hops are what the reader of packets goes by. They are replaced, never changed.
	hops atomic.Pointer[[]hop]
	dice *rand.PCG // the reader's
}

// hop says where packets for some addresses go, and how.
type hop struct {
	network       netip.Prefix
	to            *node
	delay, jitter time.Duration
	loss          float64
	down          bool
}

// Start puts a network between nodes, at first without any distance. It lasts until Close or the end of ctx.
func Start(ctx context.Context, nodes []Node, opts Options) (*Emulator, error) {
	e := &Emulator{
		seed:  opts.Seed,
		nodes: map[string]*node{},
		links: map[way]Link{},
		cut:   map[string]bool{},
	}
	for _, n := range nodes {
		if e.nodes[n.Name] != nil {
			return nil, errors.Join(fmt.Errorf("two nodes have the name %q", n.Name), e.Close())
		}
		if err := e.Add(n); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stop = context.AfterFunc(ctx, func() { _ = e.Close() })
	return e, nil
}

// Add puts one more node into the network. It replaces the node of the same name, whose namespace may have gone.
func (e *Emulator) Add(n Node) error {
	if err := n.validate(); err != nil {
		return fmt.Errorf("node %q: %w", n.Name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.isClosed {
		return errors.New("the emulator is closed")
	}
	if err := e.remove(n.Name); err != nil {
		return err
	}
	added := &node{Node: n, dice: rand.NewPCG(e.seed, hash(n.Name))}
	if err := added.open(n); err != nil {
		return fmt.Errorf("node %q: %w", n.Name, err)
	}
	for _, other := range e.nodes {
		for _, p := range added.prefixes {
			for _, q := range other.prefixes {
				if p.Overlaps(q) {
					err := fmt.Errorf("node %q: its addresses %s overlap with %s of node %q", n.Name, p, q, other.Name)
					return errors.Join(err, added.close())
				}
			}
		}
	}
	var err error
	added.queue, err = delay.NewQueue(maxQueued, func(p *[]byte, due time.Time) { e.deliver(added, p, due) })
	if err != nil {
		return errors.Join(fmt.Errorf("node %q: %w", n.Name, err), added.close())
	}
	e.nodes[n.Name] = added
	e.publish()
	added.reader.Go(func() { e.read(added) })
	if err := e.connect(added); err != nil {
		return errors.Join(err, e.remove(n.Name))
	}
	return nil
}

// connect routes between a node and all others. Nothing goes past the emulator one way only: until both ends have their
// routes, the loose rp_filter lets packets in.
func (e *Emulator) connect(added *node) error {
	for _, other := range e.nodes {
		if other == added {
			continue
		}
		if err := added.addRoutes(other.prefixes); err != nil {
			return fmt.Errorf("node %q: %w", added.Name, err)
		}
		if err := other.addRoutes(added.prefixes); err != nil {
			return fmt.Errorf("node %q: %w", other.Name, err)
		}
	}
	if err := added.addRules(); err != nil {
		return fmt.Errorf("node %q: %w", added.Name, err)
	}
	return nil
}

// Remove takes a node out of the network: its traffic goes its former way. Its links are kept for a node of that name that
// is added later.
func (e *Emulator) Remove(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nodes[name] == nil {
		return fmt.Errorf("node %q: there is none; the nodes are %q", name, e.names())
	}
	return e.remove(name)
}

func (e *Emulator) remove(name string) error {
	n := e.nodes[name]
	if n == nil {
		return nil
	}
	delete(e.nodes, name)
	errs := []error{n.delRules()}
	for _, other := range e.nodes {
		errs = append(errs, other.delRoutes(n.prefixes))
	}
	e.publish()
	return errors.Join(append(errs, e.end(n))...)
}

// end stops what runs for a node, which has no rule any more, and takes its device away.
func (e *Emulator) end(n *node) error {
	e.counter.overrun.Add(n.overrun())
	err := n.close()
	n.reader.Wait()
	return errors.Join(err, n.queue.Close())
}

// Set changes what lies between two nodes, both ways, for the packets that are sent from now on.
func (e *Emulator) Set(a, b string, l Link) error {
	return e.SetLinks([]Direction{{a, b, l}, {b, a, l}})
}

// SetLinks changes directions, all at once. When one of them cannot be, nothing is changed.
func (e *Emulator) SetLinks(directions []Direction) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range directions {
		if d.From == d.To || d.From == "" || d.To == "" {
			return fmt.Errorf("link %q→%q: must be between two nodes", d.From, d.To)
		}
		if err := d.validate(); err != nil {
			return fmt.Errorf("link %s→%s: %w", d.From, d.To, err)
		}
	}
	for _, d := range directions {
		e.links[way{d.From, d.To}] = d.Link
	}
	e.publish()
	return nil
}

// SetAll changes all directions between the present nodes at once: change gets each with its present link, and returns
// the new one. When one of them cannot be, nothing is changed.
func (e *Emulator) SetAll(change func(from, to string, l Link) Link) error {
	directions := e.Links()
	for i, d := range directions {
		directions[i].Link = change(d.From, d.To, d.Link)
	}
	return e.SetLinks(directions)
}

// Get returns the link from one node to another.
func (e *Emulator) Get(from, to string) Link {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.links[way{from, to}]
}

// Links returns all directions between the present nodes, in the order of their names.
func (e *Emulator) Links() []Direction {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []Direction
	for _, from := range e.names() {
		for _, to := range e.names() {
			if from != to {
				all = append(all, Direction{from, to, e.links[way{from, to}]})
			}
		}
	}
	return all
}

// Partition cuts a node off from all others, until Heal. Packets in flight still arrive, and its links are kept.
func (e *Emulator) Partition(name string) error { return e.setCut(name, true) }

// Heal ends Partition.
func (e *Emulator) Heal(name string) error { return e.setCut(name, false) }

func (e *Emulator) setCut(name string, cut bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nodes[name] == nil {
		return fmt.Errorf("node %q: there is none; the nodes are %q", name, e.names())
	}
	e.cut[name] = cut
	e.publish()
	return nil
}

// Nodes returns the present nodes, in the order of their names.
func (e *Emulator) Nodes() []Node {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]Node, 0, len(e.nodes))
	for _, name := range e.names() {
		all = append(all, e.nodes[name].Node)
	}
	return all
}

// Close takes away all that the emulator made; traffic goes its former way. Packets in flight are dropped. It also does so
// where a namespace is no longer in use.
func (e *Emulator) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.isClosed {
		return nil
	}
	e.isClosed = true
	if e.stop != nil {
		e.stop()
	}
	var errs []error
	// First all rules, so that no packet meets half a network for long.
	for _, n := range e.nodes {
		errs = append(errs, n.delRules())
	}
	for _, n := range e.nodes {
		errs = append(errs, e.end(n))
	}
	clear(e.nodes)
	return errors.Join(errs...)
}

func (e *Emulator) names() []string { return slices.Sorted(maps.Keys(e.nodes)) }

// publish gives every node its hops anew.
func (e *Emulator) publish() {
	for _, from := range e.nodes {
		var hops []hop
		for _, to := range e.nodes {
			if from == to {
				continue
			}
			l := e.links[way{from.Name, to.Name}]
			for _, p := range to.prefixes {
				hops = append(hops, hop{
					network: p,
					to:      to,
					delay:   l.RTT / 2,
					jitter:  l.Jitter,
					loss:    l.Loss,
					down:    l.Down || e.cut[from.Name] || e.cut[to.Name],
				})
			}
		}
		from.hops.Store(&hops)
	}
}

// hash is FNV-1a: a node's dice do not depend on which other nodes there are.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
