// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// counts counts by a label, for assertions.
type counts[K comparable] struct {
	mu sync.Mutex
	n  map[K]int
	c  *sync.Cond
}

func newCounts[K comparable]() *counts[K] {
	c := &counts[K]{n: map[K]int{}}
	c.c = sync.NewCond(&c.mu)
	return c
}

func (c *counts[K]) add(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[k]++
	c.c.Broadcast()
}

// await blocks until k was counted n times.
func (c *counts[K]) await(k K, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.n[k] < n {
		c.c.Wait()
	}
}

func (c *counts[K]) all() map[K]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[K]int{}
	for k, n := range c.n {
		all[k] = n
	}
	return all
}

func startReflector(t *testing.T, address string, cfg ReflectorConfig) (*STAMPReflector, *counts[Reflected]) {
	t.Helper()
	c := newCounts[Reflected]()
	cfg.Count = c.add
	r, err := ListenSTAMP(address, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the reflector ended: %v", err)
		}
	})
	return r, c
}

func startSender(t *testing.T, bind string) (*STAMPSender, *counts[Reason]) {
	t.Helper()
	var cfg SenderConfig
	if bind != "" {
		cfg.Bind = netip.MustParseAddr(bind)
	}
	return startSenderWith(t, cfg)
}

func startSenderWith(t *testing.T, cfg SenderConfig) (*STAMPSender, *counts[Reason]) {
	t.Helper()
	c := newCounts[Reason]()
	cfg.Rejected = c.add
	s, err := OpenSTAMP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, c
}

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// listen is a socket that plays a reflector, or a forger, by hand.
func listen(t *testing.T, address string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// believed probes until an answer is believed: on a busy machine a reflector may take longer than MaxTurnaround.
func believed(t *testing.T, s *STAMPSender, target netip.AddrPort) Result {
	t.Helper()
	for ctx := deadline(t, 30*time.Second); ; {
		got, err := s.Probe(ctx, target)
		if rejected := (*RejectedError)(nil); errors.As(err, &rejected) && rejected.Reason == ReasonReflectorSlow {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
}

func TestProbe(t *testing.T) {
	for name, tc := range map[string]struct {
		listen, bind, target string
	}{
		"one address":                        {listen: "127.0.0.1:0", target: "127.0.0.1"},
		"all addresses, asked at one":        {listen: ":0", target: "127.0.0.77"},
		"all IPv4 addresses, asked at one":   {listen: "0.0.0.0:0", target: "127.0.0.77"},
		"from an address of one's own":       {listen: ":0", bind: "127.0.0.5", target: "127.0.0.77"},
		"IPv6":                               {listen: "[::1]:0", target: "::1"},
		"IPv6, all addresses":                {listen: ":0", target: "::1"},
		"an IPv4 address in IPv6's notation": {listen: ":0", target: "::ffff:127.0.0.77"},
	} {
		for kind, v := range variants {
			t.Run(name+", "+kind, func(t *testing.T) {
				cfg := SenderConfig{Key: newKey(t, v.key), AskInfo: v.ask}
				if tc.bind != "" {
					cfg.Bind = netip.MustParseAddr(tc.bind)
				}
				r, reflected := startReflector(t, tc.listen, ReflectorConfig{Key: cfg.Key, Info: somewhere})
				s, rejected := startSenderWith(t, cfg)
				target := netip.AddrPortFrom(netip.MustParseAddr(tc.target), r.Addr().Port())
				for range 3 {
					before := time.Now()
					got := believed(t, s, target)
					if elapsed := time.Since(before); got.RTT <= 0 || got.Elapsed > elapsed {
						t.Errorf("%+v of calls that took %v", got, elapsed)
					}
					if got.SentAt.Before(before) || got.Turnaround < 0 || got.TTL != 64 {
						t.Errorf("result %+v, want sent after %v, with a TTL of 64", got, before)
					}
					if got.Elapsed != got.RTT+got.Waited+got.Turnaround || got.Waited < 0 {
						t.Errorf("result %+v, want elapsed = RTT + waited + turnaround", got)
					}
					want := (*Info)(nil)
					if v.ask {
						i := somewhere()
						want = &i
					}
					if diff := cmp.Diff(want, got.Info); diff != "" {
						t.Errorf("information (-want +got):\n%s", diff)
					}
				}
				reflected.await(ReflectedAnswered, 3) // it counts after it has sent
				if all := reflected.all(); len(all) != 1 {
					t.Errorf("reflected %v, want answers", all)
				}
				if diff := cmp.Diff(map[Reason]int{}, rejected.all()); diff != "" {
					t.Errorf("rejected (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestEveryTargetHasSequenceNumbersOfItsOwn(t *testing.T) {
	s, _ := startSender(t, "")
	a, toA := listen(t, "127.0.0.1:0")
	b, toB := listen(t, "127.0.0.1:0")
	for i := range uint32(3) {
		for _, peer := range []struct {
			conn *net.UDPConn
			addr netip.AddrPort
		}{{a, toA}, {b, toB}} {
			_, _ = s.Probe(deadline(t, time.Nanosecond), peer.addr) // does not send
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				defer cancel()
				buf := make([]byte, 100)
				n, _, err := peer.conn.ReadFromUDPAddrPort(buf)
				if err != nil {
					t.Error(err)
					return
				}
				p, err := ParseSender(buf[:n])
				if err != nil || n != STAMPPacketLen || p.Sequence != i || p.Error.PTP() || p.Session != 0 {
					t.Errorf("packet %+v of %d octets, %v; want number %d", p, n, err, i)
				}
				if d := NTPTime(time.Now()).sub(p.Timestamp, p.Error); d < 0 || d > 10*time.Second {
					t.Errorf("the timestamp is %v old", d)
				}
			}()
			if _, err := s.Probe(ctx, peer.addr); !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled probe returned %v", err)
			}
		}
	}
}

func TestAnUnansweredProbeIsLost(t *testing.T) {
	s, _ := startSender(t, "")
	_, silent := listen(t, "127.0.0.1:0")
	if _, err := s.Probe(deadline(t, 20*time.Millisecond), silent); !errors.Is(err, ErrLost) {
		t.Errorf("error %v, want %v", err, ErrLost)
	}
	// A packet that the kernel refuses to send.
	if _, err := s.Probe(deadline(t, time.Second), netip.MustParseAddrPort("255.255.255.255:9")); !errors.Is(err, ErrLost) {
		t.Errorf("error %v, want %v", err, ErrLost)
	}
}

// TestAnswers has a reflector that is played by hand send all that it should not.
func TestAnswers(t *testing.T) {
	honest := func(p SenderPacket, took time.Duration) ReflectorPacket {
		now := time.Now()
		return ReflectorPacket{
			Sequence: p.Sequence, Timestamp: NTPTime(now.Add(took)), Error: unsynchronized, Received: NTPTime(now),
			SenderSequence: p.Sequence, SenderTimestamp: p.Timestamp, SenderError: p.Error, SenderTTL: 64,
		}
	}
	edit := func(change func(*ReflectorPacket)) func(SenderPacket) []byte {
		return func(p SenderPacket) []byte {
			r := honest(p, 0)
			change(&r)
			return r.AppendTo(nil)
		}
	}
	for name, tc := range map[string]struct {
		answer func(SenderPacket) []byte
		// want is the error that ends the probe; "" for a packet that is dropped while the probe goes on.
		want Reason
		// dropped is why the packet was dropped.
		dropped Reason
	}{
		"shorter than the protocol has it": {
			answer:  func(p SenderPacket) []byte { return honest(p, 0).AppendTo(nil)[:43] },
			dropped: ReasonShort,
		},
		"an error estimate of 0": {
			answer:  edit(func(r *ReflectorPacket) { r.Error = 0 }),
			dropped: ReasonCorrupt,
		},
		"another sequence number": {
			answer:  edit(func(r *ReflectorPacket) { r.SenderSequence++ }),
			dropped: ReasonUnmatched,
		},
		"another timestamp": {
			answer:  edit(func(r *ReflectorPacket) { r.SenderTimestamp++ }),
			dropped: ReasonUnmatched,
		},
		"the probe itself": {
			answer:  func(p SenderPacket) []byte { return p.AppendTo(nil) },
			dropped: ReasonUnmatched,
		},
		"answered before it was received": {
			answer: edit(func(r *ReflectorPacket) { r.Received = r.Timestamp + 1<<20 }),
			want:   ReasonReflectorClock,
		},
		"kept for longer than is believed": {
			answer: func(p SenderPacket) []byte { return honest(p, MaxTurnaround+time.Microsecond).AppendTo(nil) },
			want:   ReasonReflectorSlow,
		},
		"more octets than the probe": {
			answer:  func(p SenderPacket) []byte { return append(honest(p, 0).AppendTo(nil), 0) },
			dropped: ReasonOversized,
		},
		"far more octets than are read": {
			answer:  func(p SenderPacket) []byte { return append(honest(p, 0).AppendTo(nil), make([]byte, 60_000)...) },
			dropped: ReasonOversized,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, rejected := startSender(t, "")
			conn, addr := listen(t, "127.0.0.1:0")
			done := make(chan struct{})
			go func() {
				defer close(done)
				buf := make([]byte, 100)
				n, from, err := conn.ReadFromUDPAddrPort(buf)
				if err != nil {
					t.Error(err)
					return
				}
				p, err := ParseSender(buf[:n])
				if err != nil {
					t.Error(err)
				}
				_, _ = conn.WriteToUDPAddrPort(tc.answer(p), from)
				if tc.want == "" {
					_, _ = conn.WriteToUDPAddrPort(honest(p, 0).AppendTo(nil), from)
				}
			}()
			got, err := s.Probe(deadline(t, 10*time.Second), addr)
			<-done
			wantDropped := map[Reason]int{}
			if tc.want == "" {
				wantDropped[tc.dropped] = 1
				if err != nil || got.RTT <= 0 {
					t.Errorf("%+v, %v; want the honest answer", got, err)
				}
			} else if rejected := (*RejectedError)(nil); !errors.As(err, &rejected) || rejected.Reason != tc.want {
				t.Errorf("error %v, want the reason %s", err, tc.want)
			} else if errors.Is(err, ErrLost) || got != (Result{}) {
				t.Errorf("%+v, %v; want neither a loss nor a result", got, err)
			}
			if diff := cmp.Diff(wantDropped, rejected.all()); diff != "" {
				t.Errorf("dropped (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheRoundTripIsWithoutTheReflectorsTime(t *testing.T) {
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		elapsed, waited, turnaround time.Duration
		wantRTT                     time.Duration
		wantReason                  Reason
	}{
		"at once":                                   {elapsed: 20 * ms, wantRTT: 20 * ms},
		"after a while":                             {elapsed: 20 * ms, turnaround: 3 * ms, wantRTT: 17 * ms},
		"after as long as is believed":              {elapsed: 20 * ms, turnaround: MaxTurnaround, wantRTT: 15 * ms},
		"after longer than is believed":             {elapsed: 20 * ms, turnaround: MaxTurnaround + 1, wantReason: ReasonReflectorSlow},
		"a reflector that would like to look near":  {elapsed: 120 * ms, turnaround: 119 * ms, wantReason: ReasonReflectorSlow},
		"it says that it took the whole round trip": {elapsed: 2 * ms, turnaround: 2 * ms, wantReason: ReasonNotPositive},
		"it says that it took longer than that":     {elapsed: 2 * ms, turnaround: 3 * ms, wantReason: ReasonNotPositive},
		"answered before it received":               {elapsed: 20 * ms, turnaround: -1, wantReason: ReasonReflectorClock},
		"it lay in the socket here":                 {elapsed: 900 * ms, waited: 890 * ms, turnaround: 3 * ms, wantRTT: 7 * ms},
		"the clock was set while it lay there":      {elapsed: 20 * ms, waited: 30 * ms, wantReason: ReasonNotPositive},
		"longer than any round trip":                {elapsed: MaxRTT + 1, wantReason: ReasonTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			s := newPair(t, variant{}, variant{}).sender
			p := s.begin(reflectorAddr)
			// A clock that is 100 years off, with PTP's timestamps.
			t2, t3 := ptp(990*ms), ptp(990*ms+tc.turnaround)
			b := ReflectorPacket{
				Timestamp: t3, Error: 0x4001, Received: t2, SenderSequence: p.sequence, SenderTimestamp: p.timestamp, SenderTTL: 3,
			}.AppendTo(nil)
			if dropped := s.receive(b, reflectorAddr, p.sentAt.Add(tc.elapsed), tc.waited); dropped != "" {
				t.Fatalf("dropped: %s", dropped)
			}
			a := <-p.done
			if tc.wantReason != "" {
				if rejected := (*RejectedError)(nil); !errors.As(a.err, &rejected) || rejected.Reason != tc.wantReason || a.result != (Result{}) {
					t.Errorf("%+v, %v; want the reason %s", a.result, a.err, tc.wantReason)
				}
				return
			}
			want := Result{
				RTT: tc.wantRTT, SentAt: p.sentAt, Turnaround: tc.turnaround, Elapsed: tc.elapsed, Waited: tc.waited, TTL: 3,
			}
			if diff := cmp.Diff(want, a.result); a.err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", a.err, diff)
			}
		})
	}
}

// ptp is a timestamp in PTP's format.
func ptp(d time.Duration) STAMPTime {
	return STAMPTime(0x12345678+d/time.Second)<<32 | STAMPTime(d%time.Second)
}

func TestForgedLateAndDuplicateAnswers(t *testing.T) {
	s, rejected := startSender(t, "127.0.0.1")
	conn, addr := listen(t, "127.0.0.1:0")
	forger, _ := listen(t, "127.0.0.9:0")
	buf := make([]byte, 100)
	receive := func() (SenderPacket, netip.AddrPort) {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ParseSender(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		return p, from
	}
	answer := func(p SenderPacket) []byte {
		now := NTPTime(time.Now())
		return ReflectorPacket{
			Timestamp: now, Error: unsynchronized, Received: now, SenderSequence: p.Sequence, SenderTimestamp: p.Timestamp,
		}.AppendTo(nil)
	}

	// Late.
	if _, err := s.Probe(deadline(t, 10*time.Millisecond), addr); !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	p, from := receive()
	_, _ = conn.WriteToUDPAddrPort(answer(p), from)
	rejected.await(ReasonLate, 1)

	// From elsewhere, with all the right fields, and then twice from the right place.
	done := make(chan error)
	go func() {
		_, err := s.Probe(deadline(t, 10*time.Second), addr)
		done <- err
	}()
	p, from = receive()
	_, _ = forger.WriteToUDPAddrPort(answer(p), from)
	rejected.await(ReasonSource, 1)
	_, _ = conn.WriteToUDPAddrPort(answer(p), from)
	if err := <-done; err != nil {
		t.Error(err)
	}
	_, _ = conn.WriteToUDPAddrPort(answer(p), from)
	rejected.await(ReasonDuplicate, 1)
	if diff := cmp.Diff(map[Reason]int{ReasonLate: 1, ReasonSource: 1, ReasonDuplicate: 1}, rejected.all()); diff != "" {
		t.Errorf("rejected (-want +got):\n%s", diff)
	}
}

func TestReflectorAnswersWithAsManyOctetsAsItGot(t *testing.T) {
	r, reflected := startReflector(t, "127.0.0.1:0", ReflectorConfig{})
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i, rest := range [][]byte{nil, {1}, {1, 2, 3}, bytes.Repeat([]byte{0xa5}, maxSTAMPPacket-STAMPPacketLen)} {
		p := senderPacket
		p.Session = 0xbeef
		p.Sequence += uint32(i)
		if _, err := conn.Write(append(p.AppendTo(nil), rest...)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2*maxSTAMPPacket)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		// What is no TLV is copied, but for the flags of one that is malformed.
		if n != STAMPPacketLen+len(rest) || len(rest) > 0 && !bytes.Equal(buf[STAMPPacketLen+1:n], rest[1:]) {
			t.Errorf("%d octets ending in %x for %d octets", n, buf[min(n, STAMPPacketLen):min(n, 60)], STAMPPacketLen+len(rest))
		}
		got, err := ParseReflector(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		now := NTPTime(time.Now())
		for _, ts := range []STAMPTime{got.Received, got.Timestamp} {
			if d := now.sub(ts, unsynchronized); d < 0 || d > 10*time.Second {
				t.Errorf("a timestamp is %v old", d)
			}
		}
		if got.Turnaround() < 0 {
			t.Errorf("T3 − T2 = %v", got.Turnaround())
		}
		want := ReflectorPacket{
			Sequence: p.Sequence, Timestamp: got.Timestamp, Error: unsynchronized, Session: 0xbeef, Received: got.Received,
			SenderSequence: p.Sequence, SenderTimestamp: p.Timestamp, SenderError: p.Error, SenderTTL: 64,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
	}
	// What gets no answer.
	for _, b := range [][]byte{
		{}, senderPacket.AppendTo(nil)[:43], make([]byte, STAMPPacketLen), // its error estimate is 0
		append(senderPacket.AppendTo(nil), make([]byte, maxSTAMPPacket)...),
	} {
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	reflected.await(ReflectedOversized, 1)
	want := map[Reflected]int{ReflectedAnswered: 4, ReflectedShort: 2, ReflectedCorrupt: 1, ReflectedOversized: 1}
	if diff := cmp.Diff(want, reflected.all()); diff != "" {
		t.Errorf("reflected (-want +got):\n%s", diff)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("an answer of %d octets to a packet that deserves none", n)
	}
}

func TestStatefulReflectorCountsTheAnswersOfASession(t *testing.T) {
	r, _ := startReflector(t, "127.0.0.1:0", ReflectorConfig{Stateful: true})
	for range 2 { // two sessions
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for i := range uint32(3) {
			p := senderPacket
			p.Sequence = 100 + 2*i // every second one was lost on its way
			if _, err := conn.Write(p.AppendTo(nil)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseReflector(buf[:n])
			if err != nil || got.Sequence != i || got.SenderSequence != p.Sequence {
				t.Errorf("answer %+v, %v; want number %d", got, err, i)
			}
		}
	}
}

func TestReflectorLimitsASource(t *testing.T) {
	r, reflected := startReflector(t, "127.0.0.1:0", ReflectorConfig{PerSecond: 1e-9, Burst: 3})
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range uint32(10) {
		p := senderPacket
		p.Sequence = i
		if _, err := conn.Write(p.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
	}
	reflected.await(ReflectedLimited, 7)
	if diff := cmp.Diff(map[Reflected]int{ReflectedAnswered: 3, ReflectedLimited: 7}, reflected.all()); diff != "" {
		t.Errorf("reflected (-want +got):\n%s", diff)
	}
	// Another source is not made to suffer for it.
	s, _ := startSender(t, "127.0.0.2")
	believed(t, s, r.Addr())
}

func TestTwoReflectorsDoNotTalkForEver(t *testing.T) {
	cfg := ReflectorConfig{PerSecond: 1e-9, Burst: 20}
	a, countA := startReflector(t, "127.0.0.1:0", cfg)
	b, countB := startReflector(t, "127.0.0.2:0", cfg)
	// What b would get when somebody forged a packet from a.
	if _, err := a.conn.WriteToUDPAddrPort(senderPacket.AppendTo(nil), b.Addr()); err != nil {
		t.Fatal(err)
	}
	countA.await(ReflectedAnswered, 20)
	countB.await(ReflectedAnswered, 20)
	countB.await(ReflectedLimited, 1)
	if n := countA.all()[ReflectedAnswered] + countB.all()[ReflectedAnswered]; n != 40 {
		t.Errorf("%d answers, want 40", n)
	}
}

func TestManySourcesTakeBoundedMemory(t *testing.T) {
	l := newLimiter(1, 2, 100)
	for i := range 100_000 {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		l.take(from, probeID{sequence: uint32(i)}, l.start)
		if n := len(l.sources.younger) + len(l.sources.older); n > 200 {
			t.Fatalf("%d sources are remembered", n)
		}
	}
}

func TestLimiterRefills(t *testing.T) {
	l := newLimiter(10, 2, 100)
	now, a := l.start, netip.MustParseAddr("10.0.0.1")
	for i, tc := range []struct {
		after time.Duration
		want  Reflected
	}{
		{0, ReflectedAnswered},
		{0, ReflectedAnswered},
		{0, ReflectedLimited},
		{99 * time.Millisecond, ReflectedLimited},
		{time.Millisecond + time.Microsecond, ReflectedAnswered},
		{0, ReflectedLimited},
		{-time.Hour, ReflectedLimited},
		{time.Hour, ReflectedAnswered},
		{0, ReflectedAnswered},
		{0, ReflectedLimited},
	} {
		now = now.Add(tc.after)
		if got := l.take(a, probeID{sequence: uint32(i), port: 9}, now); got != tc.want {
			t.Errorf("step %d: %v, want %v", i, got, tc.want)
		}
	}
}

func TestLimiterKnowsReplays(t *testing.T) {
	l := newLimiter(1e-9, 100, 100)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	id := probeID{timestamp: 7, sequence: 3, port: 9}
	for i, tc := range []struct {
		from netip.Addr
		id   probeID
		want Reflected
	}{
		{a, id, ReflectedAnswered},
		{a, id, ReflectedReplayed},
		{b, id, ReflectedAnswered},
		{a, probeID{timestamp: 7, sequence: 3, port: 10}, ReflectedAnswered},
		{a, probeID{timestamp: 8, sequence: 3, port: 9}, ReflectedAnswered},
		{a, probeID{timestamp: 7, sequence: 4, port: 9}, ReflectedAnswered},
		{a, id, ReflectedReplayed},
		{a, probeID{timestamp: 7, sequence: 4, port: 9}, ReflectedReplayed},
	} {
		if got := l.take(tc.from, tc.id, l.start); got != tc.want {
			t.Errorf("step %d: %v, want %v", i, got, tc.want)
		}
	}
	// A replay takes no token of those who probe.
	if s, _ := l.sources.get(a); s.tokens != 96 {
		t.Errorf("%v tokens are left, want 96", s.tokens)
	}
}

func TestSenderForgetsTargets(t *testing.T) {
	s, _ := startSender(t, "")
	for i := range maxSessions + 10 {
		s.giveUp(target(i), s.begin(target(i)))
	}
	if n := len(s.sessions); n > maxSessions {
		t.Errorf("%d sessions are remembered", n)
	}
}

func target(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 9)
}
