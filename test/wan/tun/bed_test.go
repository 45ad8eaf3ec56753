// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// bed is a cluster's network as kind makes it: namespaces as nodes on one bridge, each with a pod in a namespace of its own
// behind a veth, and routes between the pods by way of the nodes' addresses. None of the namespaces has a name and the bridge
// is in one of its own, so all of it goes with the test's process, however that ends.
type bed struct {
	t       *testing.T
	hub     *os.File
	nodes   []*bedNode
	sources sync.Map // of each node, and the address from which its echo servers were asked
}

type bedNode struct {
	Node
	ns, pod     *os.File
	podIP       netip.Addr
	ip6, podIP6 netip.Addr
}

func needRoot(t *testing.T) {
	t.Helper()
	var missing string
	if os.Getuid() != 0 {
		missing = "it must run as root"
	} else if _, err := os.Stat("/dev/net/tun"); err != nil {
		missing = err.Error()
	} else if _, err := exec.LookPath("ip"); err != nil {
		missing = err.Error()
	} else {
		return
	}
	if os.Getenv("FOGSCHED_E2E") == "1" {
		t.Fatalf("the emulator cannot be tested: %s", missing)
	}
	t.Skipf("the emulator is not tested: %s (FOGSCHED_E2E=1 makes this a failure)", missing)
}

func newBed(t *testing.T, n int) *bed {
	t.Helper()
	needRoot(t)
	hub := newNamespace(t)
	run(t, hub, "ip link add br0 type bridge", "ip link set br0 up")
	b := &bed{t: t, hub: hub}
	for i := range n {
		node := &bedNode{ns: newNamespace(t), pod: newNamespace(t), podIP: netip.AddrFrom4([4]byte{10, 244, byte(i), 5})}
		node.Node = Node{
			Name:  fmt.Sprintf("node-%d", i),
			NetNS: file(node.ns),
			IP:    netip.AddrFrom4([4]byte{172, 18, 0, byte(i + 2)}),
			PodCIDRs: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24),
				netip.MustParsePrefix(fmt.Sprintf("fd00:244:%d::/64", i)),
			},
		}
		// The emulator is not told of the node's second address.
		node.ip6 = netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+2))
		node.podIP6 = netip.MustParseAddr(fmt.Sprintf("fd00:244:%d::5", i))
		b.nodes = append(b.nodes, node)
		// The pods' interface is the first one, so that the kernel would take its address where it has the choice.
		run(t, node.ns, "ip link set lo up",
			"ip link add pod0 type veth peer name eth0 netns "+file(node.pod),
			"ip link set pod0 up", fmt.Sprintf("ip addr add 10.244.%d.1/32 dev pod0", i),
			fmt.Sprintf("ip addr add fd00:244:%d::1/128 dev pod0 nodad", i))
		port := fmt.Sprintf("port%d", i)
		run(t, hub, "ip link add "+port+" type veth peer name eth0 netns "+file(node.ns),
			"ip link set "+port+" master br0 up")
		run(t, node.ns, "ip link set eth0 up", "ip addr add "+node.IP.String()+"/16 dev eth0",
			"ip addr add "+node.ip6.String()+"/64 dev eth0 nodad",
			"ip route add default via 172.18.0.1",
			"ip route add "+node.podIP.String()+" dev pod0 scope link", "ip route add "+node.podIP6.String()+" dev pod0")
		inNS(t, node.ns, func() error {
			return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
				os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0),
				// As in Docker's containers.
				os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
		})
		run(t, node.pod, "ip link set lo up", "ip link set eth0 up", "ip addr add "+node.podIP.String()+"/32 dev eth0",
			fmt.Sprintf("ip route add 10.244.%d.1 dev eth0 scope link", i), fmt.Sprintf("ip route add default via 10.244.%d.1", i),
			"ip addr add "+node.podIP6.String()+"/128 dev eth0 nodad",
			fmt.Sprintf("ip route add fd00:244:%d::1 dev eth0", i), fmt.Sprintf("ip route add default via fd00:244:%d::1", i))
	}
	for _, node := range b.nodes {
		for _, other := range b.nodes {
			if node != other {
				run(t, node.ns, fmt.Sprintf("ip route add %s via %s", other.PodCIDRs[0], other.IP),
					fmt.Sprintf("ip route add %s via %s", other.PodCIDRs[1], other.ip6))
			}
		}
		for _, at := range []netip.Addr{node.IP, node.ip6} {
			b.echo(node, node.ns, at)
		}
		for _, at := range []netip.Addr{node.podIP, node.podIP6} {
			b.echo(node, node.pod, at)
		}
	}
	// An interface that was set up carries nothing for a moment.
	for _, node := range b.nodes {
		c := newClient(t, node.pod)
		for _, other := range b.nodes {
			eventually(t, "pods reach each other", func() bool {
				_, ok := c.ping(other.podIP, 100*ms)
				_, ok6 := c.ping(other.podIP6, 100*ms)
				return ok && ok6
			})
		}
	}
	return b
}

// wantSources fails when a node was asked from an address that should not have been. from is the node that has it.
func (b *bed) wantSources(right func(from, to *bedNode, at netip.Addr) bool) {
	b.t.Helper()
	b.sources.Range(func(key, _ any) bool {
		s := key.(source)
		for _, from := range b.nodes {
			if from.IP != s.at && from.ip6 != s.at && !from.PodCIDRs[0].Contains(s.at) && !from.PodCIDRs[1].Contains(s.at) {
				continue
			}
			if !right(from, s.asked, s.at) {
				b.t.Errorf("%s asked %s in the name of %s", from.Name, s.asked.Name, s.at)
			}
			return true
		}
		b.t.Errorf("%s, which is nobody's address, asked %s", s.at, s.asked.Name)
		return true
	})
}

type source struct {
	asked *bedNode
	at    netip.Addr
}

func (b *bed) start() *Emulator {
	b.t.Helper()
	var nodes []Node
	for _, n := range b.nodes {
		nodes = append(nodes, n.Node)
	}
	e, err := Start(b.t.Context(), nodes, Options{Seed: 1})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := e.Close(); err != nil {
			b.t.Error(err)
		}
	})
	return e
}

// newNamespace makes a network namespace that lasts as long as the file.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	var ns *os.File
	inNS(t, home, func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		// IPv6 addresses are there at once, because what is compared is to stand still.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
		// Many distributions are strict.
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/default/rp_filter", []byte("1"), 0); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	t.Cleanup(func() { ns.Close() })
	return ns
}

func file(ns *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }

// inNS calls do in a namespace. Sockets that it opens stay there.
func inNS(t *testing.T, ns *os.File, do func() error) {
	t.Helper()
	if err := inNamespace(ns, do); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, ns *os.File, commands ...string) string {
	t.Helper()
	var out strings.Builder
	inNS(t, ns, func() error {
		for _, c := range commands {
			words := strings.Fields(c)
			// A child of a thread is born in the thread's namespace.
			b, err := exec.Command(words[0], words[1:]...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", c, err, b)
			}
			out.Write(b)
		}
		return nil
	})
	return out.String()
}

// state is all that the emulator might change in a namespace.
func state(t *testing.T, ns *os.File) string {
	t.Helper()
	out := run(t, ns, "ip rule", "ip route show table all", "ip addr", "ip -6 rule", "ip -6 route show table all")
	inNS(t, ns, func() error {
		return filepath.WalkDir("/proc/thread-self/root/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				b, _ := os.ReadFile(path)
				out += path + " " + string(b)
			}
			return nil
		})
	})
	return out
}

const echoPort = 7

// echo answers UDP datagrams.
func (b *bed) echo(node *bedNode, ns *os.File, at netip.Addr) {
	conn := listenUDP(b.t, ns, netip.AddrPortFrom(at, echoPort))
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				b.sources.Store(source{node, from.Addr()}, true)
				_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	}()
}

func listenUDP(t *testing.T, ns *os.File, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	inNS(t, ns, func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	t.Cleanup(func() { conn.Close() })
	raw, err := conn.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) }))
	return conn
}

// client sends echoes from a namespace.
type client struct {
	t    *testing.T
	conn *net.UDPConn
	port uint16
	seq  uint64
}

func newClient(t *testing.T, ns *os.File) *client {
	return &client{t: t, conn: listenUDP(t, ns, netip.AddrPortFrom(netip.IPv6Unspecified(), 0)), port: echoPort}
}

// ping returns the round trip of one datagram, or false when no answer came in time.
func (c *client) ping(to netip.Addr, timeout time.Duration) (time.Duration, bool) {
	c.t.Helper()
	c.seq++
	start := time.Now()
	if _, err := c.conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, c.seq), netip.AddrPortFrom(to, c.port)); err != nil {
		c.t.Fatal(err)
	}
	_ = c.conn.SetReadDeadline(start.Add(timeout))
	buf := make([]byte, 64)
	for {
		n, from, err := c.conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 0, false
		case err != nil:
			c.t.Fatal(err)
		case n == 8 && binary.BigEndian.Uint64(buf) == c.seq: // else one that was given up
			took := time.Since(start)
			if from.Addr().Unmap() != to {
				c.t.Errorf("an answer from %s, want from %s", from, to)
			}
			return took, true
		}
	}
}

// trips returns n round trips, the shortest first.
func (c *client) trips(to netip.Addr, n int) []time.Duration {
	c.t.Helper()
	var all []time.Duration
	for range n {
		rtt, ok := c.ping(to, 5*time.Second)
		if !ok {
			c.t.Fatalf("no answer from %s", to)
		}
		all = append(all, rtt)
	}
	slices.Sort(all)
	return all
}

// wantRTT fails when the median of n round trips is ever below want, or again and again more than 1 ms + 5 % above it: a
// machine that has other things to do can only make a packet late.
func (c *client) wantRTT(to netip.Addr, n int, want time.Duration) {
	c.t.Helper()
	wantRTT(c.t, to, want, func() time.Duration { return c.trips(to, n)[n/2] })
}

func wantRTT(t *testing.T, to netip.Addr, want time.Duration, median func() time.Duration) {
	t.Helper()
	var got time.Duration
	limit := want + want/20 + time.Millisecond
	for range 20 {
		if got = median(); got < want {
			break
		}
		if got <= limit {
			t.Logf("%s: %v, that is %v too much", to, got, got-want)
			return
		}
	}
	t.Errorf("%s: RTT %v, want from %v to %v", to, got, want, limit)
}

// pinger sends ICMP echoes from a namespace.
type pinger struct {
	t    *testing.T
	conn *icmp.PacketConn
	seq  int
}

func newPinger(t *testing.T, ns *os.File) *pinger {
	t.Helper()
	p := &pinger{t: t}
	inNS(t, ns, func() (err error) {
		p.conn, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	t.Cleanup(func() { p.conn.Close() })
	return p
}

func (p *pinger) ping(to netip.Addr) time.Duration {
	p.t.Helper()
	p.seq++
	echo := &icmp.Echo{ID: 77, Seq: p.seq, Data: make([]byte, 56)}
	request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: echo}).Marshal(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	start := time.Now()
	if _, err := p.conn.WriteTo(request, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		p.t.Fatal(err)
	}
	_ = p.conn.SetReadDeadline(start.Add(5 * time.Second))
	buf := make([]byte, 1500)
	for {
		n, _, err := p.conn.ReadFrom(buf)
		if err != nil {
			p.t.Fatal(err)
		}
		at := time.Now()
		m, err := icmp.ParseMessage(1, buf[:n])
		if err != nil {
			p.t.Fatal(err)
		}
		if got, ok := m.Body.(*icmp.Echo); ok && m.Type == ipv4.ICMPTypeEchoReply && got.Seq == p.seq {
			return at.Sub(start)
		}
	}
}
