// SPDX-License-Identifier: Apache-2.0

// Package wan puts distances between processes of one machine. It is a UDP relay in user space, for loopback addresses,
// that needs no privilege: every node has an address of its own in 127.0.0.0/8, its server listens at
// address:TargetPort, and the relay answers for it at address:PublicPort, the port that the others are told. A datagram
// on its way is held for the delay of its link, so that what is measured between two nodes is the round trip of a real
// packet.
//
//	client at A ──▶ B:PublicPort ··held for A→B··▶ B:TargetPort      (the server sees a datagram from A's address)
//	client at A ◀── B:PublicPort ◀··held for B→A··  B:TargetPort
package wan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fogsched/fogsched/pkg/probe/rxtime"
	"github.com/fogsched/fogsched/test/wan/internal/delay"
)

const (
	// maxDatagram is the largest payload of a UDP datagram.
	maxDatagram = 65507
	// maxQueued bounds the datagrams in flight: what comes on top is dropped, as in a full router.
	maxQueued = 1 << 16
	// portIdle is how long the return path of a client's port is kept without traffic, once another one is needed.
	portIdle = time.Minute
)

// Link is one direction between two nodes.
type Link struct {
	// OneWayDelay is how long a datagram is held, ≥ 0.
	OneWayDelay time.Duration
	// Jitter varies the delay of each datagram evenly over OneWayDelay ± Jitter, never below 0. So it does not move the
	// median, and datagrams may overtake one another.
	Jitter time.Duration
	// Loss is the probability with which a datagram is dropped, 0 to 1.
	Loss float64
}

func (l Link) validate() error {
	if l.OneWayDelay < 0 || l.Jitter < 0 {
		return fmt.Errorf("link %+v: delay and jitter must not be negative", l)
	}
	if !(l.Loss >= 0 && l.Loss <= 1) {
		return fmt.Errorf("link %+v: loss must be from 0 to 1", l)
	}
	return nil
}

// Config describes the network.
type Config struct {
	// Nodes are the addresses of the nodes, all different; node i of the API is Nodes[i].
	Nodes []netip.Addr
	// PublicPort is the port at which the network takes datagrams for every node. 0 chooses one that is free on all of
	// the addresses.
	PublicPort uint16
	// TargetPort is the port at which the nodes' own servers listen; it differs from PublicPort.
	TargetPort uint16
	// Link gives the links at the start, those of a node to itself included; nil means no delay anywhere.
	Link func(from, to int) Link
	// Seed fixes the fate of the n-th datagram of every link.
	Seed uint64
}

// Stats counts datagrams since the start.
type Stats struct {
	Forwarded     uint64 // handed to a node, in either direction
	Lost          uint64 // dropped by a link's Loss
	Partitioned   uint64 // dropped because one of the ends is partitioned
	UnknownSource uint64 // came from an address that is no node's
	Overflow      uint64 // dropped because too many were in flight
}

// WAN is a running network. Its methods are safe for concurrent use; those that take a node's number panic when it is
// out of range.
type WAN struct {
	nodes      []netip.Addr
	number     map[netip.Addr]int
	public     []*net.UDPConn
	publicPort uint16
	targetPort uint16
	queue      *delay.Queue[datagram]
	epoch      time.Time
	readers    sync.WaitGroup

	mu       sync.Mutex
	links    []Link // from·len(nodes) + to
	dice     []*rand.PCG
	cut      []bool
	ports    map[netip.AddrPort]*clientPort
	isClosed bool

	forwarded, lost, partitioned, unknownSource, overflow atomic.Uint64
}

// clientPort is the way through the network of one client's port: a socket on the client's address, from which all
// servers get its datagrams and to which they answer.
type clientPort struct {
	node     int
	client   netip.AddrPort
	conn     *net.UDPConn
	lastUsed atomic.Int64 // nanoseconds since the network's epoch
}

// datagram is one that is on its way.
type datagram struct {
	conn    *net.UDPConn
	to      netip.AddrPort
	payload []byte
}

// New starts a network. Close ends it.
func New(cfg Config) (*WAN, error) {
	n := len(cfg.Nodes)
	if n == 0 {
		return nil, errors.New("a network needs at least one node")
	}
	if cfg.TargetPort == 0 || cfg.TargetPort == cfg.PublicPort {
		return nil, fmt.Errorf("target port %d: must be set, and differ from the public port", cfg.TargetPort)
	}
	w := &WAN{
		nodes:      cfg.Nodes,
		number:     make(map[netip.Addr]int, n),
		targetPort: cfg.TargetPort,
		epoch:      time.Now(),
		links:      make([]Link, n*n),
		dice:       make([]*rand.PCG, n*n),
		cut:        make([]bool, n),
		ports:      map[netip.AddrPort]*clientPort{},
	}
	for i, a := range cfg.Nodes {
		if j, ok := w.number[a]; ok {
			return nil, fmt.Errorf("nodes %d and %d have the same address %s", j, i, a)
		}
		w.number[a] = i
	}
	for from := range n {
		for to := range n {
			k := from*n + to
			w.dice[k] = rand.NewPCG(cfg.Seed, uint64(k))
			if cfg.Link == nil {
				continue
			}
			w.links[k] = cfg.Link(from, to)
			if err := w.links[k].validate(); err != nil {
				return nil, fmt.Errorf("%d→%d: %w", from, to, err)
			}
		}
	}
	var err error
	if w.public, w.publicPort, err = listenAll(cfg.Nodes, cfg.PublicPort, cfg.TargetPort); err != nil {
		return nil, err
	}
	if w.queue, err = delay.NewQueue(maxQueued, w.deliver); err != nil {
		closeAll(w.public)
		return nil, err
	}
	for i, conn := range w.public {
		_ = rxtime.Enable(conn)
		w.readers.Go(func() { w.readPublic(i, conn) })
	}
	return w, nil
}

// FreePort returns a UDP port that is free on all of the addresses at this moment.
func FreePort(nodes []netip.Addr) (uint16, error) {
	conns, port, err := listenAll(nodes, 0, 0)
	closeAll(conns)
	return port, err
}

// listenAll listens at one port of every address; port 0 stands for any but the one to avoid.
func listenAll(nodes []netip.Addr, port, avoid uint16) ([]*net.UDPConn, uint16, error) {
	if port != 0 {
		conns, err := tryListenAll(nodes, port)
		return conns, port, err
	}
	var lastErr error
	for range 50 {
		// The kernel proposes a port that is free on the first address; the others may use it already.
		probe, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(nodes[0], 0)))
		if err != nil {
			return nil, 0, fmt.Errorf("looking for a free port on %s: %w", nodes[0], err)
		}
		proposed := probe.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		_ = probe.Close()
		if proposed == avoid {
			continue
		}
		conns, err := tryListenAll(nodes, proposed)
		if err == nil {
			return conns, proposed, nil
		}
		lastErr = err
	}
	return nil, 0, fmt.Errorf("no port is free on all of the addresses: %w", lastErr)
}

func tryListenAll(nodes []netip.Addr, port uint16) ([]*net.UDPConn, error) {
	conns := make([]*net.UDPConn, 0, len(nodes))
	for _, a := range nodes {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
		if err != nil {
			closeAll(conns)
			return nil, fmt.Errorf("listening for node %s: %w", a, err)
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func closeAll(conns []*net.UDPConn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// PublicPort returns the port at which every node is reached through the network.
func (w *WAN) PublicPort() uint16 { return w.publicPort }

// Endpoint returns the address and port at which node i is reached through the network.
func (w *WAN) Endpoint(i int) netip.AddrPort { return netip.AddrPortFrom(w.nodes[i], w.publicPort) }

// Link returns one direction between two nodes.
func (w *WAN) Link(from, to int) Link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.links[w.index(from, to)]
}

// RTT returns the delay of a round trip, without jitter.
func (w *WAN) RTT(a, b int) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.links[w.index(a, b)].OneWayDelay + w.links[w.index(b, a)].OneWayDelay
}

// Set changes one direction, for the datagrams that are sent from now on. It returns an error for a link that cannot be.
func (w *WAN) Set(from, to int, l Link) error {
	if err := l.validate(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links[w.index(from, to)] = l
	return nil
}

// SetBoth changes both directions between two nodes.
func (w *WAN) SetBoth(a, b int, l Link) error {
	if err := w.Set(a, b, l); err != nil {
		return err
	}
	return w.Set(b, a, l)
}

// Update changes all links at once: change gets each direction with its present link, and returns the new one. When one
// of them cannot be, nothing is changed.
func (w *WAN) Update(change func(from, to int, l Link) Link) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.nodes)
	links := make([]Link, len(w.links))
	for from := range n {
		for to := range n {
			l := change(from, to, w.links[from*n+to])
			if err := l.validate(); err != nil {
				return fmt.Errorf("%d→%d: %w", from, to, err)
			}
			links[from*n+to] = l
		}
	}
	w.links = links
	return nil
}

// SetBetween changes both directions of every pair with one node in a and the other in b: the distance between two sites.
func (w *WAN) SetBetween(a, b []int, l Link) error {
	inA, inB := w.set(a), w.set(b)
	return w.Update(func(from, to int, old Link) Link {
		if from != to && (inA[from] && inB[to] || inB[from] && inA[to]) {
			return l
		}
		return old
	})
}

// Partition cuts node i off from all others, until Heal. Datagrams in flight still arrive.
func (w *WAN) Partition(i int) { w.setCut(i, true) }

// Heal ends Partition.
func (w *WAN) Heal(i int) { w.setCut(i, false) }

func (w *WAN) setCut(i int, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[i] = cut
}

// Stats returns the counts so far.
func (w *WAN) Stats() Stats {
	return Stats{
		Forwarded:     w.forwarded.Load(),
		Lost:          w.lost.Load(),
		Partitioned:   w.partitioned.Load(),
		UnknownSource: w.unknownSource.Load(),
		Overflow:      w.overflow.Load(),
	}
}

// Sockets returns the number of sockets that the network holds: one a node, and one a client's port.
func (w *WAN) Sockets() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.public) + len(w.ports)
}

// Close ends the network and returns when all of its goroutines have. Datagrams in flight are dropped.
func (w *WAN) Close() error {
	w.mu.Lock()
	if w.isClosed {
		w.mu.Unlock()
		return nil
	}
	w.isClosed = true
	for _, p := range w.ports {
		_ = p.conn.Close()
	}
	w.mu.Unlock()
	closeAll(w.public)
	w.readers.Wait()
	return w.queue.Close()
}

func (w *WAN) index(from, to int) int {
	n := len(w.nodes)
	if from < 0 || from >= n || to < 0 || to >= n {
		panic(fmt.Sprintf("wan: link %d→%d of a network of %d nodes", from, to, n))
	}
	return from*n + to
}

func (w *WAN) set(nodes []int) []bool {
	in := make([]bool, len(w.nodes))
	for _, i := range nodes {
		in[i] = true
	}
	return in
}

// readPublic takes the datagrams that clients send to node to.
func (w *WAN) readPublic(to int, conn *net.UDPConn) {
	buf, control := make([]byte, maxDatagram), make([]byte, rxtime.ControlLen)
	target := netip.AddrPortFrom(w.nodes[to], w.targetPort)
	for {
		n, nControl, _, client, err := conn.ReadMsgUDPAddrPort(buf, control)
		now := rxtime.At(control[:nControl], time.Now())
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier datagram
		}
		client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
		from, ok := w.number[client.Addr()]
		if !ok {
			w.unknownSource.Add(1)
			continue
		}
		due, ok := w.travel(from, to, now)
		if !ok {
			continue
		}
		port, err := w.port(from, client)
		if err != nil {
			w.overflow.Add(1)
			continue
		}
		w.send(due, port.conn, target, buf[:n])
	}
}

// readPort takes the servers' answers to one client's port.
func (w *WAN) readPort(p *clientPort) {
	buf, control := make([]byte, maxDatagram), make([]byte, rxtime.ControlLen)
	for {
		n, nControl, _, server, err := p.conn.ReadMsgUDPAddrPort(buf, control)
		now := rxtime.At(control[:nControl], time.Now())
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		from, ok := w.number[server.Addr().Unmap()]
		if !ok || server.Port() != w.targetPort {
			w.unknownSource.Add(1)
			continue
		}
		if due, ok := w.travel(from, p.node, now); ok {
			p.lastUsed.Store(int64(now.Sub(w.epoch)))
			w.send(due, w.public[from], p.client, buf[:n])
		}
	}
}

// travel decides when a datagram arrives that entered the link at a given time, and whether it does. That time is when it
// reached the machine, so that a late reader does not add to the delay.
func (w *WAN) travel(from, to int, entered time.Time) (due time.Time, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if from != to && (w.cut[from] || w.cut[to]) {
		w.partitioned.Add(1)
		return time.Time{}, false
	}
	k := from*len(w.nodes) + to
	l, dice := w.links[k], w.dice[k]
	// Both dice are thrown for every datagram, so that a change of the loss does not change the jitter.
	const unit = 1.0 / (1 << 53)
	drop, shift := float64(dice.Uint64()>>11)*unit, float64(dice.Uint64()>>11)*unit
	if drop < l.Loss {
		w.lost.Add(1)
		return time.Time{}, false
	}
	delay := l.OneWayDelay + time.Duration((2*shift-1)*float64(l.Jitter))
	return entered.Add(max(delay, 0)), true
}

// port returns the way of a client's port, which it makes when this is the first datagram from there.
func (w *WAN) port(node int, client netip.AddrPort) (*clientPort, error) {
	now := time.Since(w.epoch)
	w.mu.Lock()
	defer w.mu.Unlock()
	if p, ok := w.ports[client]; ok {
		p.lastUsed.Store(int64(now))
		return p, nil
	}
	if w.isClosed {
		return nil, net.ErrClosed
	}
	for c, p := range w.ports {
		if now-time.Duration(p.lastUsed.Load()) > portIdle {
			_ = p.conn.Close()
			delete(w.ports, c)
		}
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.nodes[node], 0)))
	if err != nil {
		return nil, fmt.Errorf("opening a socket for %s: %w", client, err)
	}
	_ = rxtime.Enable(conn)
	p := &clientPort{node: node, client: client, conn: conn}
	p.lastUsed.Store(int64(now))
	w.ports[client] = p
	w.readers.Go(func() { w.readPort(p) })
	return p, nil
}

func (w *WAN) send(due time.Time, conn *net.UDPConn, to netip.AddrPort, payload []byte) {
	if !w.queue.Push(due, datagram{conn: conn, to: to, payload: append([]byte(nil), payload...)}) {
		w.overflow.Add(1)
	}
}

func (w *WAN) deliver(d datagram, _ time.Time) {
	// A datagram that cannot be sent is a lost one.
	if _, err := d.conn.WriteToUDPAddrPort(d.payload, d.to); err == nil {
		w.forwarded.Add(1)
	}
}
