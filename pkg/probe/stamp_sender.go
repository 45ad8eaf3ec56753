// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/fogsched/fogsched/pkg/probe/rxtime"
)

const (
	// maxSTAMPPacket is the largest packet that is read: a jumbo frame's, with room for the extensions of RFC 8972.
	maxSTAMPPacket = 9000
	// rememberedProbes is how many ended probes of a target are remembered, to tell late and duplicate answers from
	// forged ones.
	rememberedProbes = 8
	// maxSessions is how many targets are remembered before those that are not being probed are forgotten.
	maxSessions = 8192
)

// STAMPSender is a STAMP Session-Sender. All of its probes leave from one UDP port; each target is a test session of its
// own, with sequence numbers from 0.
type STAMPSender struct {
	conn     *net.UDPConn
	rejected func(Reason)
	reader   sync.WaitGroup

	mu       sync.Mutex
	sessions map[netip.AddrPort]*stampSession
}

type stampSession struct {
	next        uint32
	outstanding map[uint32]*stampProbe
	ended       [rememberedProbes]stampProbe // a ring; the zero value is no probe
	endedNext   int
}

// stampProbe is one probe. The reader sends its answer, or why there is none, to done, which never blocks.
type stampProbe struct {
	sequence  uint32
	sentAt    time.Time // with the monotonic clock
	timestamp STAMPTime // never 0 for a probe that was sent
	answered  bool
	done      chan stampAnswer
}

type stampAnswer struct {
	result Result
	err    error
}

// SenderConfig configures a STAMPSender. The zero value is one that sends base packets of unauthenticated mode.
type SenderConfig struct {
	// Bind is the address of this machine from which the probes leave; the zero Addr leaves the choice to the routing table.
	Bind netip.Addr
	// Key, unless it is nil, makes all probes authenticated. Only reflectors that have it answer.
	Key *Key
	// AskInfo makes the probes ask the reflector what it says of itself, in 84 octets more (with a key, 104).
	AskInfo bool
	// Rejected, unless it is nil, is called for every packet that is dropped since it answers no probe that waits, and
	// with ReasonInfo, from one goroutine.
	Rejected func(Reason)
}

// NewSTAMPSender returns OpenSTAMP of a configuration that has only bind and rejected.
func NewSTAMPSender(bind netip.Addr, rejected func(Reason)) (*STAMPSender, error) {
	return OpenSTAMP(SenderConfig{Bind: bind, Rejected: rejected})
}

// OpenSTAMP opens the socket of a sender. Close ends it.
func OpenSTAMP(cfg SenderConfig) (*STAMPSender, error) {
	bind, rejected := cfg.Bind, cfg.Rejected
	var local *net.UDPAddr
	if bind.IsValid() {
		local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind, 0))
	}
	conn, err := net.ListenUDP("udp", local)
	if err != nil {
		return nil, fmt.Errorf("opening the STAMP sender's socket: %w", err)
	}
	// Where the kernel gives no time, that of reading is taken.
	_ = rxtime.Enable(conn)
	if rejected == nil {
		rejected = func(Reason) {}
	}
	s := &STAMPSender{conn: conn, rejected: rejected, sessions: map[netip.AddrPort]*stampSession{}}
	s.reader.Go(s.read)
	return s, nil
}

// Addr returns the address and port from which the probes leave.
func (s *STAMPSender) Addr() netip.AddrPort { return s.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Close closes the socket and waits for the reader to end. Probes that wait for an answer go on waiting.
func (s *STAMPSender) Close() error {
	err := s.conn.Close()
	s.reader.Wait()
	return err
}

// Probe is a Prober. RTT = (T4 − T1) − (T3 − T2): the first difference is of this machine's monotonic clock, the second of
// the reflector's clock, so that neither need be right.
func (s *STAMPSender) Probe(ctx context.Context, target netip.AddrPort) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	p := s.begin(target)
	packet := SenderPacket{Sequence: p.sequence, Timestamp: p.timestamp, Error: unsynchronized}
	if _, err := s.conn.WriteToUDPAddrPort(packet.AppendTo(make([]byte, 0, STAMPPacketLen)), target); err != nil {
		s.giveUp(target, p)
		return Result{}, fmt.Errorf("%w: %w", ErrLost, err)
	}
	select {
	case a := <-p.done:
		return a.result, a.err
	case <-ctx.Done():
		s.giveUp(target, p)
		if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
			return Result{}, err
		}
		return Result{}, fmt.Errorf("%w: no answer from %s", ErrLost, target)
	}
}

func (s *STAMPSender) begin(target netip.AddrPort) *stampProbe {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, ok := s.sessions[target]
	if !ok {
		if len(s.sessions) >= maxSessions {
			s.forgetIdle()
		}
		session = &stampSession{outstanding: map[uint32]*stampProbe{}}
		s.sessions[target] = session
	}
	p := &stampProbe{sequence: session.next, done: make(chan stampAnswer, 1)}
	session.next++
	session.outstanding[p.sequence] = p
	p.sentAt = time.Now()
	p.timestamp = NTPTime(p.sentAt)
	return p
}

func (s *STAMPSender) forgetIdle() {
	for t, session := range s.sessions {
		if len(session.outstanding) == 0 {
			delete(s.sessions, t)
		}
	}
}

func (s *STAMPSender) giveUp(target netip.AddrPort, p *stampProbe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if session := s.sessions[target]; session != nil && session.outstanding[p.sequence] == p {
		session.end(p, false)
	}
}

func (s *stampSession) end(p *stampProbe, answered bool) {
	delete(s.outstanding, p.sequence)
	s.ended[s.endedNext] = stampProbe{sequence: p.sequence, timestamp: p.timestamp, answered: answered}
	s.endedNext = (s.endedNext + 1) % rememberedProbes
}

func (s *STAMPSender) read() {
	buf, control := make([]byte, maxSTAMPPacket), make([]byte, rxtime.ControlLen)
	for {
		n, nControl, _, from, err := s.conn.ReadMsgUDPAddrPort(buf, control)
		receivedAt := rxtime.At(control[:nControl], time.Now())
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what the kernel tells of an earlier packet; that one's probe runs into its timeout
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if reason := s.receive(buf[:n], from, receivedAt); reason != "" {
			s.rejected(reason)
		}
	}
}

// receive ends the probe that a packet answers, or returns why the packet is dropped. A packet that might be anyone's does
// not end a probe, so that whoever can send to this port cannot make probes fail.
//
// An answer that cannot be believed ends its probe with that error, which whoever sent the probe counts.
func (s *STAMPSender) receive(b []byte, from netip.AddrPort, receivedAt time.Time) Reason {
	packet, err := ParseReflector(b)
	switch {
	case errors.Is(err, ErrSTAMPShort):
		return ReasonShort
	case err != nil:
		return ReasonCorrupt
	}
	p, reason := s.match(packet, from)
	if reason != "" {
		return reason
	}
	a := stampAnswer{result: Result{SentAt: p.sentAt, Turnaround: packet.Turnaround(), TTL: packet.SenderTTL}}
	a.result.RTT = receivedAt.Sub(p.sentAt) - a.result.Turnaround
	if a.result.Turnaround < 0 {
		a.err = &RejectedError{ReasonReflectorClock}
	} else {
		a.err = checkRTT(a.result.RTT)
	}
	if a.err != nil {
		a.result = Result{}
	}
	p.done <- a
	return ""
}

// match finds the probe that a packet answers, and ends it.
func (s *STAMPSender) match(packet ReflectorPacket, from netip.AddrPort) (*stampProbe, Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, ok := s.sessions[from]
	if !ok {
		return nil, ReasonSource
	}
	if p, ok := session.outstanding[packet.SenderSequence]; ok && p.timestamp == packet.SenderTimestamp {
		session.end(p, true)
		return p, ""
	}
	for _, e := range session.ended {
		if e.timestamp == packet.SenderTimestamp && e.timestamp != 0 && e.sequence == packet.SenderSequence {
			if e.answered {
				return nil, ReasonDuplicate
			}
			return nil, ReasonLate
		}
	}
	return nil, ReasonUnmatched
}
