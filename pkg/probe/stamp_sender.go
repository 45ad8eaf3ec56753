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
	// maxSTAMPPacket is the largest packet that a reflector reads: a jumbo frame's, with room for the extensions of
	// RFC 8972.
	maxSTAMPPacket = 9000
	// maxProbe is the largest packet that a sender makes: no answer may be larger.
	maxProbe = STAMPAuthPacketLen + infoTLVLen + hmacTLVLen
	// doubt is after how many lost probes in a row a sender tries the other key, while it has two.
	doubt = 2
	// rememberedProbes is how many ended probes of a target are remembered, to tell late and duplicate answers from
	// forged ones.
	rememberedProbes = 8
	// maxSessions is how many targets are remembered before those that are not being probed are forgotten.
	maxSessions = 8192
)

// STAMPSender is a STAMP Session-Sender. All of its probes leave from one UDP port; each target is a test session of its
// own, with sequence numbers from 0.
type STAMPSender struct {
	conn   *net.UDPConn
	cfg    SenderConfig
	reader sync.WaitGroup

	mu       sync.Mutex
	sessions map[netip.AddrPort]*stampSession
}

type stampSession struct {
	next        uint32
	outstanding map[uint32]*stampProbe
	ended       [rememberedProbes]stampProbe // a ring; the zero value is no probe
	endedNext   int
	otherKey    bool // while there are two, the other one is tried
	silent      int  // probes lost in a row
}

// stampProbe is one probe. The reader sends its answer, or why there is none, to done, which never blocks.
type stampProbe struct {
	sequence  uint32
	key       *secret   // nil in unauthenticated mode
	choice    bool      // there were two keys
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
	var local *net.UDPAddr
	if cfg.Bind.IsValid() {
		local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(cfg.Bind, 0))
	}
	conn, err := net.ListenUDP("udp", local)
	if err != nil {
		return nil, fmt.Errorf("opening the STAMP sender's socket: %w", err)
	}
	// Where the kernel gives no time, that of reading is taken.
	_ = rxtime.Enable(conn)
	if cfg.Rejected == nil {
		cfg.Rejected = func(Reason) {}
	}
	s := &STAMPSender{conn: conn, cfg: cfg, sessions: map[netip.AddrPort]*stampSession{}}
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
// the reflector's clock, so that neither need be right; the second is believed up to MaxTurnaround.
func (s *STAMPSender) Probe(ctx context.Context, target netip.AddrPort) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	buf := make([]byte, 0, maxProbe) // before the time is taken
	p := s.begin(target)
	if _, err := s.conn.WriteToUDPAddrPort(s.packet(buf, p), target); err != nil {
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

// packet appends the packet of a probe to b.
func (s *STAMPSender) packet(b []byte, p *stampProbe) []byte {
	packet := SenderPacket{Sequence: p.sequence, Timestamp: p.timestamp, Error: unsynchronized}
	if p.key == nil {
		b = packet.AppendTo(b)
		if s.cfg.AskInfo {
			b = appendAskInfo(b)
		}
		return b
	}
	b = packet.appendAuthTo(b)
	sealSTAMP(b, p.key)
	if s.cfg.AskInfo {
		b = appendHMAC(appendAskInfo(b), STAMPAuthPacketLen, p.key, b[:4])
	}
	return b
}

// baseLen is the length of a base packet, and length that of a probe.
func (s *STAMPSender) baseLen() int {
	if s.cfg.Key == nil {
		return STAMPPacketLen
	}
	return STAMPAuthPacketLen
}

func (s *STAMPSender) length() int {
	n := s.baseLen()
	if s.cfg.AskInfo {
		n += infoTLVLen
		if s.cfg.Key != nil {
			n += hmacTLVLen
		}
	}
	return n
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
	if s.cfg.Key != nil {
		p.key, p.choice = s.cfg.Key.signing(time.Now(), session.otherKey)
	}
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
	switch {
	case !p.choice:
		s.silent, s.otherKey = 0, false
	case answered:
		s.silent = 0
	default:
		if s.silent++; s.silent == doubt {
			s.silent, s.otherKey = 0, !s.otherKey
		}
	}
}

func (s *STAMPSender) read() {
	// One octet more than an answer may have, to see that it has more.
	buf, control := make([]byte, maxProbe+1), make([]byte, rxtime.ControlLen)
	for {
		n, nControl, _, from, err := s.conn.ReadMsgUDPAddrPort(buf, control)
		readAt := time.Now()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what the kernel tells of an earlier packet; that one's probe runs into its timeout
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if reason := s.receive(buf[:n], from, readAt, rxtime.Waited(control[:nControl], readAt)); reason != "" {
			s.cfg.Rejected(reason)
		}
	}
}

// receive ends the probe that a packet answers, or returns why the packet is dropped. A packet that might be anyone's does
// not end a probe, so that whoever can send to this port cannot make probes fail. With ReasonInfo the probe was ended, and
// only what the reflector said of itself was dropped.
//
// An answer that cannot be believed ends its probe with that error, which whoever sent the probe counts.
func (s *STAMPSender) receive(b []byte, from netip.AddrPort, readAt time.Time, waited time.Duration) Reason {
	packet, p, dropped := s.accept(b, from)
	if dropped != "" {
		return dropped
	}
	a := stampAnswer{result: Result{
		SentAt:     p.sentAt,
		Turnaround: packet.Turnaround(),
		Elapsed:    readAt.Sub(p.sentAt),
		Waited:     waited,
		TTL:        packet.SenderTTL,
	}}
	a.result.RTT = a.result.Elapsed - waited - a.result.Turnaround
	switch {
	case a.result.Turnaround < 0:
		a.err = &RejectedError{ReasonReflectorClock}
	case a.result.Turnaround > MaxTurnaround:
		a.err = &RejectedError{ReasonReflectorSlow}
	default:
		a.err = checkRTT(a.result.RTT)
	}
	var reason Reason
	if a.err != nil {
		a.result = Result{}
	} else if s.cfg.AskInfo {
		info, err := tlvs(b[s.baseLen():]).info(p.key, b[:4])
		a.result.Info = info
		if err != nil {
			reason = ReasonInfo
		}
	}
	p.done <- a
	return reason
}

// accept finds the probe that a packet answers, and ends it, or returns why the packet is dropped.
func (s *STAMPSender) accept(b []byte, from netip.AddrPort) (ReflectorPacket, *stampProbe, Reason) {
	var dropped Reason
	packet, err := s.parse(b)
	switch {
	case len(b) > s.length():
		dropped = ReasonOversized
	case errors.Is(err, ErrSTAMPShort):
		dropped = ReasonShort
	case err != nil:
		dropped = ReasonCorrupt
	default:
		var p *stampProbe
		if p, dropped = s.match(packet, b, from); p != nil {
			return packet, p, ""
		}
	}
	switch dropped {
	case ReasonShort, ReasonCorrupt, ReasonUnmatched, ReasonForged:
		if otherMode(b, s.cfg.Key != nil) {
			dropped = ReasonMode
		}
	}
	return ReflectorPacket{}, nil, dropped
}

func (s *STAMPSender) parse(b []byte) (ReflectorPacket, error) {
	if s.cfg.Key == nil {
		return ParseReflector(b)
	}
	return parseAuthReflector(b)
}

// match finds the probe that a packet answers, and ends it. It looks at the HMAC last: to make us compute one, a forger
// has to know a probe that waits.
func (s *STAMPSender) match(packet ReflectorPacket, b []byte, from netip.AddrPort) (*stampProbe, Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, ok := s.sessions[from]
	if !ok {
		return nil, ReasonSource
	}
	if p, ok := session.outstanding[packet.SenderSequence]; ok && p.timestamp == packet.SenderTimestamp {
		if p.key != nil && !p.key.verifies(b[macOffset:STAMPAuthPacketLen], b[:macOffset], nil) {
			return nil, ReasonForged
		}
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
