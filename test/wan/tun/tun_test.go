// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tun

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const ms = time.Millisecond

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantNoOwnLoss fails when packets were dropped though no link asked for it.
func wantNoOwnLoss(t *testing.T, e *Emulator) {
	t.Helper()
	s := e.Stats()
	t.Logf("%+v", s)
	if s.OwnLoss() != 0 {
		t.Errorf("%d packets were dropped without a reason", s.OwnLoss())
	}
}

func TestRoundTrips(t *testing.T) {
	b := newBed(t, 3)
	e := b.start()
	rtt := func(i, j int) time.Duration {
		return [][]time.Duration{{0, 4 * ms, 30 * ms}, {4 * ms, 0, 0}, {30 * ms, 0, 0}}[i][j]
	}
	for i := range 3 {
		for j := range i {
			must(t, e.Set(b.nodes[i].Name, b.nodes[j].Name, Link{RTT: rtt(i, j)}))
		}
	}
	for i, from := range b.nodes {
		host, pod, ping := newClient(t, from.ns), newClient(t, from.pod), newPinger(t, from.ns)
		for j, to := range b.nodes {
			// From a node to itself and its pods there is no distance.
			host.wantRTT(to.IP, 21, rtt(i, j))
			host.wantRTT(to.podIP, 21, rtt(i, j))
			pod.wantRTT(to.IP, 21, rtt(i, j))
			pod.wantRTT(to.podIP, 21, rtt(i, j))
			host.wantRTT(to.ip6, 21, rtt(i, j))
			pod.wantRTT(to.podIP6, 21, rtt(i, j))
			wantRTT(t, to.IP, rtt(i, j), func() time.Duration {
				var all []time.Duration
				for range 11 {
					all = append(all, ping.ping(to.IP))
				}
				slices.Sort(all)
				return all[len(all)/2]
			})
		}
	}
	b.wantSources(func(from, to *bedNode, at netip.Addr) bool {
		// The kernel's choice for a node's own pods is none of our business.
		return at == from.IP || at == from.podIP || at == from.ip6 || at == from.podIP6 || from == to
	})
	wantNoOwnLoss(t, e)
}

func TestAChangeShowsAtOnce(t *testing.T) {
	b := newBed(t, 3)
	e := b.start()
	c := newClient(t, b.nodes[0].pod)
	former := time.Duration(0)
	for _, rtt := range []time.Duration{50 * ms, 5 * ms, 200 * ms, 0} {
		must(t, e.Set("node-0", "node-1", Link{RTT: rtt}))
		// One packet, not a median: none goes by the former link.
		got, ok := c.ping(b.nodes[1].podIP, 5*time.Second)
		if !ok || got < rtt || rtt < former && got >= former {
			t.Errorf("the first round trip after a change from %v to %v took %v, answered: %v", former, rtt, got, ok)
		}
		former = rtt
	}
	must(t, e.SetAll(func(from, to string, _ Link) Link {
		if from == "node-2" || to == "node-2" {
			return Link{RTT: 20 * ms}
		}
		return Link{}
	}))
	c.wantRTT(b.nodes[2].podIP, 5, 20*ms)
	c.wantRTT(b.nodes[1].podIP, 5, 0)

	// One direction has half of its link's RTT.
	must(t, e.SetLinks([]Direction{{"node-0", "node-2", Link{RTT: 80 * ms}}}))
	c.wantRTT(b.nodes[2].podIP, 5, 50*ms)
	if got, back := e.Get("node-0", "node-2").RTT, e.Get("node-2", "node-0").RTT; got != 80*ms || back != 20*ms {
		t.Errorf("the links have %v and %v", got, back)
	}
}

func TestJitterLeavesTheMedian(t *testing.T) {
	b := newBed(t, 2)
	e := b.start()
	must(t, e.Set("node-0", "node-1", Link{RTT: 20 * ms, Jitter: 5 * ms}))
	c := newClient(t, b.nodes[0].ns)
	var low, median, high time.Duration
	for range 20 {
		all := c.trips(b.nodes[1].IP, 101)
		// Both ways vary by 5 ms, so that 10 ms more or less are possible and seldom.
		low, median, high = all[0], all[50], all[95]
		if low < 10*ms || median < 18*ms {
			break
		}
		if low < 15*ms && median < 23*ms && high > 23*ms {
			return
		}
	}
	t.Errorf("round trips from %v by way of %v to %v (p95), want from about 12ms by way of 20ms to about 27ms", low, median, high)
}

// volley sends n numbered datagrams to a node's own or pod's address, some every millisecond, and returns the numbers in
// the order in which they came until quiet passed without one.
func volley(t *testing.T, from, toNS *os.File, to netip.Addr, n, perMs int, quiet time.Duration) []int {
	t.Helper()
	in := listenUDP(t, toNS, netip.AddrPortFrom(to, 0))
	out := newClient(t, from)
	target := in.LocalAddr().(*net.UDPAddr).AddrPort()
	go func() {
		tick := time.NewTicker(ms)
		defer tick.Stop()
		for i := range n {
			_, _ = out.conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(nil, uint32(i)), target)
			if i%perMs == perMs-1 {
				<-tick.C
			}
		}
	}()
	var got []int
	buf := make([]byte, 64)
	for len(got) < n {
		_ = in.SetReadDeadline(time.Now().Add(quiet))
		k, err := in.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		must(t, err)
		got = append(got, int(binary.BigEndian.Uint32(buf[:k])))
	}
	return got
}

func TestPacketsStayInOrder(t *testing.T) {
	b := newBed(t, 2)
	e := b.start()
	for name, l := range map[string]Link{
		"without distance": {},
		"with distance":    {RTT: 40 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, e.Set("node-0", "node-1", l))
			got := volley(t, b.nodes[0].pod, b.nodes[1].pod, b.nodes[1].podIP, 10_000, 20, time.Second)
			if len(got) != 10_000 || !slices.IsSorted(got) {
				t.Errorf("%d of 10000 datagrams came, in order: %v", len(got), slices.IsSorted(got))
			}
			wantNoOwnLoss(t, e)
		})
	}
	t.Run("jitter disturbs it", func(t *testing.T) {
		must(t, e.Set("node-0", "node-1", Link{RTT: 40 * ms, Jitter: 10 * ms}))
		got := volley(t, b.nodes[0].ns, b.nodes[1].ns, b.nodes[1].IP, 1000, 5, time.Second)
		if len(got) != 1000 || slices.IsSorted(got) {
			t.Errorf("%d of 1000 datagrams came, in order: %v", len(got), slices.IsSorted(got))
		}
	})
}

// TestABurst is more than the kernel keeps for a TUN device by default.
func TestABurst(t *testing.T) {
	b := newBed(t, 2)
	e := b.start()
	must(t, e.Set("node-0", "node-1", Link{RTT: 40 * ms}))
	for range 5 {
		if got := volley(t, b.nodes[0].ns, b.nodes[1].ns, b.nodes[1].IP, 5000, 5000, time.Second); len(got) != 5000 {
			t.Errorf("%d of 5000 datagrams came", len(got))
		}
	}
	wantNoOwnLoss(t, e)
}

// TestASenderFromOutside has a node pass on what is not from one of its own addresses, as for a Service that keeps its
// clients' addresses, to a node that would drop it on any other interface.
func TestASenderFromOutside(t *testing.T) {
	b := newBed(t, 2)
	b.start()
	in := listenUDP(t, b.nodes[1].ns, netip.AddrPortFrom(b.nodes[1].IP, 0))
	run(t, b.nodes[0].ns, "ip addr add 192.0.2.1/32 dev lo")
	out := listenUDP(t, b.nodes[0].ns, netip.MustParseAddrPort("192.0.2.1:0"))
	_, err := out.WriteTo([]byte("x"), in.LocalAddr())
	must(t, err)
	must(t, in.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, from, err := in.ReadFrom(make([]byte, 10)); err != nil || !strings.HasPrefix(from.String(), "192.0.2.1:") {
		t.Errorf("got a datagram from %v, %v", from, err)
	}
}

func TestLossDropsItsShare(t *testing.T) {
	b := newBed(t, 2)
	e := b.start()
	must(t, e.SetLinks([]Direction{{"node-0", "node-1", Link{Loss: 0.3}}}))
	const sent = 4000
	there := len(volley(t, b.nodes[0].pod, b.nodes[1].pod, b.nodes[1].podIP, sent, 10, time.Second))
	// The standard deviation is 0.0072.
	if share := float64(there) / sent; share < 0.67 || share > 0.73 {
		t.Errorf("%.3f of the datagrams came, want about 0.70", share)
	}
	if s := e.Stats(); s.Lost != uint64(sent-there) {
		t.Errorf("stats %+v, want %d lost", s, sent-there)
	}
	if back := len(volley(t, b.nodes[1].pod, b.nodes[0].pod, b.nodes[0].podIP, 500, 10, time.Second)); back != 500 {
		t.Errorf("%d of 500 datagrams came by the direction that loses none", back)
	}
	wantNoOwnLoss(t, e)
}

func TestPartition(t *testing.T) {
	b := newBed(t, 3)
	e := b.start()
	must(t, e.Set("node-0", "node-1", Link{RTT: 6 * ms}))
	c := []*client{newClient(t, b.nodes[0].pod), newClient(t, b.nodes[1].pod), newClient(t, b.nodes[2].pod)}
	for name, tc := range map[string]struct{ cut, heal func() error }{
		"of a node": {
			func() error { return e.Partition("node-1") },
			func() error { return e.Heal("node-1") },
		},
		"of a pair": {
			func() error { return e.Set("node-0", "node-1", Link{Down: true}) },
			func() error { return e.Set("node-0", "node-1", Link{RTT: 6 * ms}) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := e.Stats().Down
			must(t, tc.cut())
			for from, to := range []int{1, 0} {
				from, to := b.nodes[from], b.nodes[to]
				for _, at := range []netip.Addr{to.podIP, to.podIP6} {
					if got := volley(t, from.pod, to.pod, at, 5, 5, 200*ms); len(got) != 0 {
						t.Errorf("%d of 5 packets reached %s from %s at %s", len(got), to.Name, from.Name, at)
					}
				}
			}
			if got := e.Stats().Down - before; got != 20 {
				t.Errorf("%d packets were dropped for it, want 20", got)
			}
			if _, ok := c[2].ping(b.nodes[0].podIP, 5*time.Second); !ok {
				t.Error("nodes that are not concerned do not reach each other")
			}
			must(t, tc.heal())
			c[0].wantRTT(b.nodes[1].podIP, 5, 6*ms)
			c[1].wantRTT(b.nodes[0].podIP, 5, 6*ms)
		})
	}
}

// transfer sends size octets by TCP and returns how long that took. It fails when others arrive.
func transfer(t *testing.T, from, toNS *os.File, to netip.Addr, size int) time.Duration {
	t.Helper()
	var l net.Listener
	inNS(t, toNS, func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(to, 0).String())
		return err
	})
	defer l.Close()
	type result struct {
		n    int64
		hash string
		err  error
	}
	results := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			results <- result{err: err}
			return
		}
		defer conn.Close()
		h := sha256.New()
		n, err := io.Copy(h, conn)
		results <- result{n, fmt.Sprintf("%x", h.Sum(nil)), err}
	}()
	data := make([]byte, size)
	dice := rand.NewChaCha8([32]byte{1})
	_, _ = dice.Read(data)
	start := time.Now()
	var conn net.Conn
	inNS(t, from, func() (err error) {
		conn, err = net.DialTimeout("tcp4", l.Addr().String(), 10*time.Second)
		return err
	})
	defer conn.Close()
	_ = conn.SetDeadline(start.Add(time.Minute))
	_, err := conn.Write(data)
	must(t, err)
	must(t, conn.(*net.TCPConn).CloseWrite())
	select {
	case got := <-results:
		must(t, got.err)
		if want := fmt.Sprintf("%x", sha256.Sum256(data)); got.n != int64(size) || got.hash != want {
			t.Errorf("%d octets with the hash %s arrived, want %d with %s", got.n, got.hash, size, want)
		}
	case <-time.After(time.Minute):
		t.Fatal("the transfer did not end")
	}
	return time.Since(start)
}

// snmp returns a counter of the kernel's, such as "Tcp" "InCsumErrors".
func snmp(t *testing.T, ns *os.File, group, name string) string {
	t.Helper()
	var names []string
	for line := range strings.Lines(run(t, ns, "cat /proc/thread-self/net/snmp")) {
		words := strings.Fields(line)
		if words[0] != group+":" {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		return words[slices.Index(names, name)]
	}
	t.Fatalf("the kernel has no counter %s %s", group, name)
	return ""
}

func TestTransfersAreIntact(t *testing.T) {
	const size = 20 << 20
	b := newBed(t, 2)
	from, to := b.nodes[0], b.nodes[1]
	// One pod believes in larger packets than its node can send on: path MTU discovery has to tell it.
	run(t, from.pod, "ip link set eth0 mtu 9000")
	run(t, from.ns, "ip link set pod0 mtu 9000")
	run(t, to.pod, "ip link set eth0 mtu 9000")
	run(t, to.ns, "ip link set pod0 mtu 9000")
	e := b.start()
	for name, l := range map[string]Link{
		"without distance":      {},
		"at 20 ms":              {RTT: 20 * ms},
		"at 4 ms, losing 0.1 %": {RTT: 4 * ms, Loss: 0.001},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, e.Set("node-0", "node-1", l))
			took := transfer(t, from.pod, to.pod, to.podIP, size)
			t.Logf("%.0f Mbit/s from pod to pod", size*8/took.Seconds()/1e6)
			took = transfer(t, to.ns, from.ns, from.IP, size)
			t.Logf("%.0f Mbit/s from node to node", size*8/took.Seconds()/1e6)
		})
	}
	for _, ns := range []*os.File{from.ns, from.pod, to.ns, to.pod} {
		if got := snmp(t, ns, "Tcp", "InCsumErrors"); got != "0" {
			t.Errorf("%s segments had a wrong checksum", got)
		}
	}
	if got := snmp(t, from.pod, "Icmp", "InDestUnreachs"); got == "0" {
		t.Error("the pod was never told of the MTU, so its large packets went another way")
	}
	wantNoOwnLoss(t, e)
}

// TestServicesCross has on one node what kube-proxy makes of a NodePort: traffic to its own port 30001 goes to a pod of
// another node, in the node's own name.
func TestServicesCross(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil && os.Getenv("FOGSCHED_E2E") != "1" {
		t.Skipf("Services through the emulator are not tested: %v (FOGSCHED_E2E=1 makes this a failure)", err)
	}
	b := newBed(t, 3)
	e := b.start()
	must(t, e.Set("node-0", "node-1", Link{RTT: 10 * ms}))
	must(t, e.Set("node-1", "node-2", Link{RTT: 30 * ms}))
	run(t, b.nodes[1].ns,
		fmt.Sprintf("iptables -t nat -A PREROUTING -p udp --dport 30001 -m addrtype --dst-type LOCAL -j DNAT --to-destination %s:%d", b.nodes[2].podIP, echoPort),
		fmt.Sprintf("iptables -t nat -A OUTPUT -p udp -d 10.96.0.1 -j DNAT --to-destination %s:%d", b.nodes[2].podIP, echoPort),
		"iptables -t nat -A POSTROUTING -p udp -d "+b.nodes[2].podIP.String()+" -j MASQUERADE")
	b.sources.Clear()
	nodePort := newClient(t, b.nodes[0].pod)
	nodePort.port = 30001
	nodePort.wantRTT(b.nodes[1].IP, 11, 40*ms)
	clusterIP := newClient(t, b.nodes[1].ns)
	clusterIP.wantRTT(netip.MustParseAddr("10.96.0.1"), 11, 30*ms)
	b.wantSources(func(from, _ *bedNode, at netip.Addr) bool { return at == from.IP })
	wantNoOwnLoss(t, e)
}

func TestCloseLeavesEverythingAsItWas(t *testing.T) {
	b := newBed(t, 3)
	states := func() (all []string) {
		for _, n := range b.nodes {
			all = append(all, state(t, n.ns), state(t, n.pod))
		}
		return all
	}
	before := states()
	e := b.start()
	must(t, e.Set("node-0", "node-1", Link{RTT: time.Second}))
	c := newClient(t, b.nodes[0].ns)
	c.ping(b.nodes[1].IP, ms) // it is still on its way below
	if during := state(t, b.nodes[0].ns); during == before[0] || !strings.Contains(during, deviceName) {
		t.Fatal("what the emulator does is not to be seen in what is compared")
	}
	for range 2 {
		must(t, e.Close())
	}
	if diff := cmp.Diff(before, states()); diff != "" {
		t.Errorf("something stayed (-before +after):\n%s", diff)
	}
	c.wantRTT(b.nodes[1].IP, 5, 0)
	if err := e.Add(b.nodes[0].Node); err == nil {
		t.Error("a closed emulator takes a node")
	}
}

func TestTheContextEndsIt(t *testing.T) {
	b := newBed(t, 2)
	before := state(t, b.nodes[0].ns)
	ctx, cancel := context.WithCancel(t.Context())
	e, err := Start(ctx, []Node{b.nodes[0].Node, b.nodes[1].Node}, Options{})
	must(t, err)
	cancel()
	eventually(t, "the namespace is as it was", func() bool { return state(t, b.nodes[0].ns) == before })
	must(t, e.Close())
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * ms) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to this: %s", what)
		}
	}
}

func TestNodesComeAndGo(t *testing.T) {
	b := newBed(t, 3)
	before := state(t, b.nodes[1].ns)
	e := b.start()
	must(t, e.SetAll(func(_, _ string, _ Link) Link { return Link{RTT: 10 * ms} }))
	c := newClient(t, b.nodes[0].pod)

	must(t, e.Remove("node-1"))
	if diff := cmp.Diff(before, state(t, b.nodes[1].ns)); diff != "" {
		t.Errorf("something of the removed node stayed (-before +after):\n%s", diff)
	}
	if got := run(t, b.nodes[0].ns, "ip route show table 8620"); strings.Contains(got, b.nodes[1].IP.String()) {
		t.Errorf("another node still has a route to it:\n%s", got)
	}
	c.wantRTT(b.nodes[1].podIP, 5, 0)
	c.wantRTT(b.nodes[2].podIP, 5, 10*ms)

	// Its links were kept.
	must(t, e.Add(b.nodes[1].Node))
	c.wantRTT(b.nodes[1].podIP, 5, 10*ms)

	// A container that starts again has the same name and addresses, and a new namespace.
	must(t, e.Add(b.nodes[1].Node))
	c.wantRTT(b.nodes[1].podIP, 5, 10*ms)
	if got := len(e.Nodes()); got != 3 {
		t.Errorf("%d nodes, want 3", got)
	}
	wantNoOwnLoss(t, e)
}

func TestANamespaceThatIsGone(t *testing.T) {
	b := newBed(t, 3)
	before := state(t, b.nodes[0].ns)
	e := b.start()
	// As when a container is killed: its interface goes, and nobody but the emulator holds the namespace.
	run(t, b.hub, "ip link del port1")
	must(t, b.nodes[1].ns.Close())
	if err := e.Add(b.nodes[1].Node); err == nil || !strings.Contains(err.Error(), "netNS") {
		t.Errorf("error %v of a namespace that is not there, want one that names netNS", err)
	}
	newClient(t, b.nodes[0].pod).wantRTT(b.nodes[2].podIP, 5, 0)
	must(t, e.Close())
	if diff := cmp.Diff(before, state(t, b.nodes[0].ns)); diff != "" {
		t.Errorf("something stayed (-before +after):\n%s", diff)
	}
}

func TestBadNodesAndLinks(t *testing.T) {
	b := newBed(t, 2)
	before := state(t, b.nodes[0].ns)
	good := b.nodes[0].Node
	change := func(f func(*Node)) Node {
		n := b.nodes[1].Node
		f(&n)
		return n
	}
	for name, tc := range map[string]struct {
		node Node
		want string
	}{
		"no name":                 {change(func(n *Node) { n.Name = "" }), "name"},
		"no namespace":            {change(func(n *Node) { n.NetNS = "" }), "netNS"},
		"a namespace that is not": {change(func(n *Node) { n.NetNS = "/proc/self/status" }), "entering the network namespace"},
		"an IPv6 address":         {change(func(n *Node) { n.IP = netip.MustParseAddr("fd00::1") }), "IPv4"},
		"an address of another":   {change(func(n *Node) { n.IP = netip.MustParseAddr("172.18.0.99") }), "172.18.0.99: no interface"},
		"a pod network with host bits": {change(func(n *Node) {
			n.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}
		}), "podCIDRs"},
		"pods that overlap with another's": {change(func(n *Node) {
			n.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
		}), `overlap with 10.244.0.0/24 of node "node-0"`},
		"the name of another":         {change(func(n *Node) { n.Name = "node-0" }), "two nodes"},
		"another one in the same one": {change(func(n *Node) { n.NetNS, n.IP = good.NetNS, good.IP }), "another emulator"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Start(t.Context(), []Node{good, tc.node}, Options{})
			if err == nil {
				_ = e.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if diff := cmp.Diff(before, state(t, b.nodes[0].ns)); diff != "" {
				t.Errorf("something of the other node stayed (-before +after):\n%s", diff)
			}
		})
	}

	e := b.start()
	if _, err := Start(t.Context(), []Node{good}, Options{}); err == nil || !strings.Contains(err.Error(), "another emulator") {
		t.Errorf("error %v of a second emulator on a node, want one that says so", err)
	}
	for name, tc := range map[string]struct {
		a, b string
		link Link
		want string
	}{
		"a negative RTT":    {"node-0", "node-1", Link{RTT: -1}, "rtt"},
		"an RTT of an hour": {"node-0", "node-1", Link{RTT: time.Hour}, "rtt"},
		"a negative jitter": {"node-0", "node-1", Link{Jitter: -1}, "jitter"},
		"a loss above 1":    {"node-0", "node-1", Link{Loss: 1.1}, "loss"},
		"from a node to it": {"node-0", "node-0", Link{}, "between two nodes"},
		"to a node unnamed": {"node-0", "", Link{}, "between two nodes"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := e.Set(tc.a, tc.b, tc.link); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	for _, do := range []func(string) error{e.Remove, e.Partition, e.Heal} {
		if err := do("nobody"); err == nil || !strings.Contains(err.Error(), `["node-0" "node-1"]`) {
			t.Errorf("error %v for an unknown node, want one that lists those there are", err)
		}
	}
	// The second emulator's failure did not disturb the first.
	must(t, e.Set("node-0", "node-1", Link{RTT: 10 * ms}))
	newClient(t, b.nodes[0].ns).wantRTT(b.nodes[1].IP, 5, 10*ms)
}

// buildWanctl builds the program that is the emulator's process.
func buildWanctl(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "wanctl")
	if out, err := exec.Command("go", "build", "-o", program, "../cmd/wanctl").CombinedOutput(); err != nil {
		t.Fatalf("building wanctl: %v\n%s", err, out)
	}
	return program
}

func TestAProcessOfItsOwn(t *testing.T) {
	b := newBed(t, 2)
	program := buildWanctl(t)
	before := state(t, b.nodes[0].ns)
	socket := filepath.Join(t.TempDir(), "wan.sock")
	c, err := Spawn(program, socket, true)
	must(t, err)
	t.Cleanup(func() { _ = c.Stop() })
	if _, err := Spawn(program, socket, true); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("error %v of a second one at the same socket, want one that says so", err)
	}

	for _, n := range b.nodes {
		must(t, c.Add(n.Node))
	}
	link := Link{RTT: 10 * ms, Jitter: ms, Loss: 0.01}
	must(t, c.SetAll(func(_, _ string, _ Link) Link { return link }))
	links, err := c.Links()
	must(t, err)
	if diff := cmp.Diff([]Direction{{"node-0", "node-1", link}, {"node-1", "node-0", link}}, links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	nodes, err := c.Nodes()
	must(t, err)
	if diff := cmp.Diff([]Node{b.nodes[0].Node, b.nodes[1].Node}, nodes, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	pod := newClient(t, b.nodes[0].pod)
	must(t, c.Partition("node-1"))
	if _, ok := pod.ping(b.nodes[1].podIP, 100*ms); ok {
		t.Error("a partitioned node answered")
	}
	must(t, c.Heal("node-1"))
	must(t, c.Set("node-0", "node-1", Link{RTT: 4 * ms}))
	pod.wantRTT(b.nodes[1].podIP, 11, 4*ms)
	if s, err := c.Stats(); err != nil || s.Down != 1 || s.Forwarded < 22 || s.LatenessP50 <= 0 {
		t.Errorf("stats %+v, %v", s, err)
	}
	pid, err := c.PID()
	must(t, err)
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	must(t, err)
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		must(t, err)
		if attr, err := unix.SchedGetAttr(id, 0); err == nil && attr.Policy != unix.SCHED_RR {
			t.Errorf("the thread %d is not in the real-time class", id)
		}
	}
	if err := c.Remove("nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("error %v for an unknown node", err)
	}

	// A person changes it from the command line.
	out, err := exec.Command(program, "-socket", socket, "set", "-rtt", "30ms", "node-0", "node-1").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pod.wantRTT(b.nodes[1].podIP, 5, 30*ms)

	// It outlives its clients.
	must(t, c.Close())
	c, err = Dial(socket)
	must(t, err)
	pod.wantRTT(b.nodes[1].podIP, 5, 30*ms)
	must(t, c.Stop())
	if diff := cmp.Diff(before, state(t, b.nodes[0].ns)); diff != "" {
		t.Errorf("something stayed (-before +after):\n%s", diff)
	}
}

// TestAKilledEmulator cannot clean up: what it leaves must do no harm, and the next one takes it away.
func TestAKilledEmulator(t *testing.T) {
	b := newBed(t, 2)
	program := buildWanctl(t)
	before := state(t, b.nodes[0].ns)
	socket := filepath.Join(t.TempDir(), "wan.sock")
	cmd := exec.Command(program, "-socket", socket, "serve")
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	_, err = io.ReadAtLeast(stdout, make([]byte, 100), 1)
	must(t, err)
	c, err := Dial(socket)
	must(t, err)
	for _, n := range b.nodes {
		must(t, c.Add(n.Node))
	}
	must(t, c.Set("node-0", "node-1", Link{RTT: 10 * ms}))
	pod := newClient(t, b.nodes[0].pod)
	pod.wantRTT(b.nodes[1].podIP, 5, 10*ms)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	pod.wantRTT(b.nodes[1].podIP, 5, 0)
	if _, err := c.Nodes(); err == nil {
		t.Error("a dead emulator answers")
	}

	c, err = Spawn(program, socket, true)
	must(t, err)
	t.Cleanup(func() { _ = c.Stop() })
	for _, n := range b.nodes {
		must(t, c.Add(n.Node))
	}
	must(t, c.Stop())
	if diff := cmp.Diff(before, state(t, b.nodes[0].ns)); diff != "" {
		t.Errorf("something stayed (-before +after):\n%s", diff)
	}
}

// TestASuiteThatIsKilled takes its emulator with it, unless that is to be kept. TestMain is the suite.
func TestASuiteThatIsKilled(t *testing.T) {
	b := newBed(t, 2)
	program := buildWanctl(t)
	before := state(t, b.nodes[0].ns)
	socket := filepath.Join(t.TempDir(), "wan.sock")
	suite := exec.Command(os.Args[0])
	suite.Env = append(os.Environ(), spawnProgram+"="+program, spawnSocket+"="+socket)
	stdout, err := suite.StdoutPipe()
	must(t, err)
	must(t, suite.Start())
	t.Cleanup(func() { _ = suite.Process.Kill() })
	_, err = io.ReadAtLeast(stdout, make([]byte, 100), 1)
	must(t, err)
	c, err := Dial(socket)
	must(t, err)
	t.Cleanup(func() { _ = c.Stop() })
	must(t, c.Add(b.nodes[0].Node))
	must(t, c.Add(b.nodes[1].Node))
	must(t, suite.Process.Kill())
	_ = suite.Wait()
	eventually(t, "the namespace is as it was", func() bool { return state(t, b.nodes[0].ns) == before })
}

const spawnProgram, spawnSocket = "FOGSCHED_TEST_SPAWN_PROGRAM", "FOGSCHED_TEST_SPAWN_SOCKET"

func TestMain(m *testing.M) {
	program := os.Getenv(spawnProgram)
	if program == "" {
		os.Exit(m.Run())
	}
	if _, err := Spawn(program, os.Getenv(spawnSocket), false); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	<-make(chan struct{})
}
