// SPDX-License-Identifier: Apache-2.0

package wan

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// newNetwork starts a network of n nodes in 127.63.x.0/24, each with an echo server that fails the test when a datagram
// does not seem to come from another node's own address.
func newNetwork(t *testing.T, n int, link func(from, to int) Link) (*WAN, []netip.Addr) {
	t.Helper()
	nodes := make([]netip.Addr, n)
	for i := range nodes {
		nodes[i] = netip.AddrFrom4([4]byte{127, 63, 0, byte(i + 1)})
	}
	target, err := FreePort(nodes)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range nodes {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, target)))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		t.Cleanup(func() { conn.Close(); <-done })
		go func() {
			defer close(done)
			buf := make([]byte, 2048)
			for {
				n, from, err := conn.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				if !slices.Contains(nodes, from.Addr()) || from.Addr() == nodes[i] && len(nodes) > 1 {
					t.Errorf("the server of node %d got a datagram from %s", i, from)
				}
				_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
			}
		}()
	}
	w, err := New(Config{Nodes: nodes, TargetPort: target, Link: link, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, nodes
}

// client is a socket on a node's address.
type client struct {
	t    *testing.T
	conn *net.UDPConn
	seq  uint64
}

func newClient(t *testing.T, at netip.Addr) *client {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn}
}

// ping sends one datagram and returns its round trip, or false when no answer came in time.
func (c *client) ping(to netip.AddrPort, timeout time.Duration) (time.Duration, bool) {
	c.t.Helper()
	c.seq++
	msg := binary.BigEndian.AppendUint64(nil, c.seq)
	start := time.Now()
	if _, err := c.conn.WriteToUDPAddrPort(msg, to); err != nil {
		c.t.Fatal(err)
	}
	_ = c.conn.SetReadDeadline(start.Add(timeout))
	buf := make([]byte, 64)
	for {
		n, from, err := c.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, false
		}
		if err != nil {
			c.t.Fatal(err)
		}
		if from != to {
			c.t.Errorf("answer from %s, want from %s", from, to)
		}
		if n == 8 && binary.BigEndian.Uint64(buf) == c.seq {
			return time.Since(start), true
		}
	}
}

// medianRTT pings until there are n answers.
func (c *client) medianRTT(to netip.AddrPort, n int) time.Duration {
	c.t.Helper()
	var rtts []time.Duration
	for range n {
		rtt, ok := c.ping(to, 5*time.Second)
		if !ok {
			c.t.Fatalf("no answer from %s", to)
		}
		rtts = append(rtts, rtt)
	}
	slices.Sort(rtts)
	return rtts[n/2]
}

// wantRTT fails when the median of n RTTs is ever below want, or again and again more than over above it: a machine that
// has other things to do can only make a datagram late.
func (c *client) wantRTT(to netip.AddrPort, n int, want, over time.Duration) {
	c.t.Helper()
	var got time.Duration
	for range 20 {
		if got = c.medianRTT(to, n); got < want {
			break
		}
		if got <= want+over {
			c.t.Logf("%s: %v, that is %v too much", to, got, got-want)
			return
		}
	}
	c.t.Errorf("RTT %v, want from %v to %v", got, want, want+over)
}

func TestRoundTripIsTheSumOfBothDirections(t *testing.T) {
	w, nodes := newNetwork(t, 3, func(from, to int) Link {
		return Link{OneWayDelay: time.Duration(1+3*from+to) * time.Millisecond}
	})
	c := newClient(t, nodes[0])
	for to := 1; to < 3; to++ {
		c.wantRTT(w.Endpoint(to), 31, w.RTT(0, to), time.Millisecond)
	}
}

func TestAChangeTakesEffect(t *testing.T) {
	w, nodes := newNetwork(t, 3, func(int, int) Link { return Link{OneWayDelay: 2 * time.Millisecond} })
	c := newClient(t, nodes[0])
	c.wantRTT(w.Endpoint(1), 5, 4*time.Millisecond, 4*time.Millisecond)

	if err := w.SetBoth(0, 1, Link{OneWayDelay: 20 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	c.wantRTT(w.Endpoint(1), 5, 40*time.Millisecond, 4*time.Millisecond)
	c.wantRTT(w.Endpoint(2), 5, 4*time.Millisecond, 4*time.Millisecond)

	if err := w.SetBetween([]int{0}, []int{1, 2}, Link{OneWayDelay: 10 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	c.wantRTT(w.Endpoint(2), 5, 20*time.Millisecond, 4*time.Millisecond)
	if got := w.Link(1, 2).OneWayDelay; got != 2*time.Millisecond {
		t.Errorf("the link 1→2 changed to %v", got)
	}
}

func TestJitterLeavesTheMedian(t *testing.T) {
	w, nodes := newNetwork(t, 2, func(int, int) Link {
		return Link{OneWayDelay: 5 * time.Millisecond, Jitter: 4 * time.Millisecond}
	})
	c := newClient(t, nodes[0])
	low, high := time.Hour, time.Duration(0)
	var rtts []time.Duration
	for range 101 {
		rtt, ok := c.ping(w.Endpoint(1), 5*time.Second)
		if !ok {
			t.Fatal("no answer")
		}
		low, high = min(low, rtt), max(high, rtt)
		rtts = append(rtts, rtt)
	}
	slices.Sort(rtts)
	if m := rtts[50]; m < 8500*time.Microsecond || m > 14*time.Millisecond {
		t.Errorf("median %v, want about 10ms", m)
	}
	if low > 6*time.Millisecond || high < 14*time.Millisecond || low < 2*time.Millisecond {
		t.Errorf("RTTs from %v to %v, want from about 2ms to about 18ms", low, high)
	}
}

func TestLossDropsItsShare(t *testing.T) {
	w, nodes := newNetwork(t, 2, func(from, _ int) Link {
		return Link{Loss: []float64{0.3, 0.1}[from]}
	})
	c := newClient(t, nodes[0])
	const sent = 2000
	got := 0
	buf := make([]byte, 64)
	// In small volleys, so that no socket's buffer runs over.
	for range sent / 50 {
		for range 50 {
			if _, err := c.conn.WriteToUDPAddrPort([]byte("x"), w.Endpoint(1)); err != nil {
				t.Fatal(err)
			}
		}
		for {
			_ = c.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, _, err := c.conn.ReadFromUDPAddrPort(buf); err != nil {
				break
			}
			got++
		}
	}
	// 0.7 · 0.9 = 0.63, with a standard deviation of 0.011.
	if share := float64(got) / sent; share < 0.58 || share > 0.68 {
		t.Errorf("%.3f of the datagrams came back, want about 0.63", share)
	}
	if s := w.Stats(); s.Lost != uint64(sent-got) {
		t.Errorf("stats %+v, want %d lost", s, sent-got)
	}
}

func TestPartition(t *testing.T) {
	w, nodes := newNetwork(t, 3, nil)
	c := newClient(t, nodes[0])
	w.Partition(1)
	if rtt, ok := c.ping(w.Endpoint(1), 100*time.Millisecond); ok {
		t.Errorf("a partitioned node answered after %v", rtt)
	}
	if _, ok := c.ping(w.Endpoint(2), 5*time.Second); !ok {
		t.Error("a node that is not partitioned did not answer")
	}
	w.Heal(1)
	if _, ok := c.ping(w.Endpoint(1), 5*time.Second); !ok {
		t.Error("no answer after the partition was healed")
	}
	if s := w.Stats(); s.Partitioned != 1 {
		t.Errorf("stats %+v, want 1 partitioned", s)
	}
}

func TestAStrangerIsNotServed(t *testing.T) {
	w, _ := newNetwork(t, 2, nil)
	c := newClient(t, netip.MustParseAddr("127.63.1.1"))
	if _, ok := c.ping(w.Endpoint(1), 50*time.Millisecond); ok {
		t.Error("an address that is no node's was answered")
	}
	if s := w.Stats(); s.UnknownSource != 1 {
		t.Errorf("stats %+v, want 1 from an unknown source", s)
	}
}

func TestPortsOfOneClientAreKeptApart(t *testing.T) {
	w, nodes := newNetwork(t, 2, func(int, int) Link { return Link{OneWayDelay: 5 * time.Millisecond} })
	a, b := newClient(t, nodes[0]), newClient(t, nodes[0])
	b.seq = 1000
	for range 3 {
		if _, err := a.conn.WriteToUDPAddrPort([]byte("x"), w.Endpoint(1)); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.ping(w.Endpoint(1), 5*time.Second); !ok {
			t.Fatal("no answer at the second port")
		}
	}
	if got, want := w.Sockets(), 2+2; got != want {
		t.Errorf("%d sockets, want %d", got, want)
	}
}

func TestEveryPairOf24Nodes(t *testing.T) {
	w, nodes := newNetwork(t, 24, func(from, to int) Link {
		return Link{OneWayDelay: time.Duration(1+(from+to)%10) * time.Millisecond}
	})
	for i, a := range nodes {
		c := newClient(t, a)
		for j := range nodes {
			if i == j {
				continue
			}
			rtt, ok := c.ping(w.Endpoint(j), 5*time.Second)
			if !ok || rtt < w.RTT(i, j) {
				t.Fatalf("%d→%d: %v, %v; want at least %v", i, j, rtt, ok, w.RTT(i, j))
			}
		}
	}
	if got := w.Sockets(); got > 600 {
		t.Errorf("%d sockets, want at most 600", got)
	}
	t.Logf("%d sockets", w.Sockets())
}

func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	w, nodes := newNetwork(t, 2, func(int, int) Link { return Link{OneWayDelay: time.Hour} })
	c := newClient(t, nodes[0])
	if _, err := c.conn.WriteToUDPAddrPort([]byte("x"), w.Endpoint(1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// The echo servers' two goroutines are the test's own. One that has said that it is done may take a moment to go.
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before+2 {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines after Close, %d before", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(w.Endpoint(0)))
	if err != nil {
		t.Fatalf("the port is not free after Close: %v", err)
	}
	conn.Close()
}

func TestBadConfiguration(t *testing.T) {
	a, b := netip.MustParseAddr("127.63.2.1"), netip.MustParseAddr("127.63.2.2")
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"no nodes":            {Config{TargetPort: 1}, "at least one node"},
		"no target port":      {Config{Nodes: []netip.Addr{a}}, "target port 0"},
		"the same port twice": {Config{Nodes: []netip.Addr{a}, PublicPort: 9, TargetPort: 9}, "differ"},
		"one address twice":   {Config{Nodes: []netip.Addr{a, b, a}, TargetPort: 1}, "nodes 0 and 2"},
		"a negative delay": {Config{Nodes: []netip.Addr{a, b}, TargetPort: 1, Link: func(from, to int) Link {
			return Link{OneWayDelay: time.Duration(from-to) * time.Second}
		}}, "0→1"},
		"a loss above 1": {Config{Nodes: []netip.Addr{a}, TargetPort: 1, Link: func(int, int) Link {
			return Link{Loss: 1.5}
		}}, "loss"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(tc.cfg)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}
