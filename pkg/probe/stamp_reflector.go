// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/fogsched/fogsched/pkg/probe/rxtime"
)

// Reflected says what became of a packet that reached the reflector: the value of a metric's label.
type Reflected string

// What becomes of a packet.
const (
	// ReflectedAnswered: answered.
	ReflectedAnswered Reflected = "answered"
	// ReflectedShort: dropped, since it has fewer octets than the answer would have.
	ReflectedShort Reflected = "short"
	// ReflectedOversized: dropped, since it has more than 9,000 octets.
	ReflectedOversized Reflected = "oversized"
	// ReflectedCorrupt: dropped, since a field has a value that the protocol forbids.
	ReflectedCorrupt Reflected = "corrupt"
	// ReflectedMode: dropped, since it is authenticated and this reflector has no key, or the other way round.
	ReflectedMode Reflected = "mode"
	// ReflectedForged: dropped, since its sender does not have the key.
	ReflectedForged Reflected = "forged"
	// ReflectedReplayed: dropped, since it was answered already.
	ReflectedReplayed Reflected = "replayed"
	// ReflectedLimited: dropped, since its source sends too many.
	ReflectedLimited Reflected = "limited"
	// ReflectedUnsent: the answer could not be sent.
	ReflectedUnsent Reflected = "unsent"
)

// AllReflected returns everything that may become of a packet.
func AllReflected() []Reflected {
	return []Reflected{
		ReflectedAnswered, ReflectedShort, ReflectedOversized, ReflectedCorrupt, ReflectedMode, ReflectedForged,
		ReflectedReplayed, ReflectedLimited, ReflectedUnsent,
	}
}

const (
	// defaultReflectorRate and defaultReflectorBurst are far above what one prober sends (a probe an interval), and low
	// enough that two reflectors to which somebody forged a first packet do not talk to one another for long.
	defaultReflectorRate  = 50
	defaultReflectorBurst = 100
	// maxReflectorSources bounds the memory for sources; twice as many, at about 250 bytes each, are kept for a while.
	maxReflectorSources = 8192
	// unknownTTL is what RFC 5357, section 4.2.1, prescribes where the TTL cannot be had.
	unknownTTL = 255
)

// ReflectorConfig configures a STAMPReflector. The zero value is a stateless reflector with the default limits.
type ReflectorConfig struct {
	// Stateful makes the reflector count the answers of each session in the sequence number, so that a sender can tell
	// on which way a packet was lost. A stateless one copies the sender's sequence number. RFC 8762, section 4.3.
	Stateful bool
	// PerSecond and Burst limit the answers to one source address; 0 means 50/s and 100.
	PerSecond, Burst float64
	// Key, unless it is nil, makes the reflector answer authenticated probes, and no others. Without it the reflector
	// answers unauthenticated ones, and no others.
	Key *Key
	// Info, unless it is nil, is what the reflector tells those who ask. It is called for every answer, from the goroutine
	// that serves, between T2 and T3: it must return at once.
	Info func() Info
	// Count, unless it is nil, is called for every packet, from the goroutine that serves.
	Count func(Reflected)
}

// STAMPReflector is a STAMP Session-Reflector.
type STAMPReflector struct {
	conn    *net.UDPConn
	cfg     ReflectorConfig
	limiter *limiter
	answers *recent[netip.AddrPort, uint32]
}

// ListenSTAMP opens the reflector's socket at an address such as ":8620" or "10.0.0.7:8620". Serve answers, and closes it.
func ListenSTAMP(address string, cfg ReflectorConfig) (*STAMPReflector, error) {
	local, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, fmt.Errorf("resolving the reflector's address: %w", err)
	}
	conn, err := net.ListenUDP("udp", local)
	if err != nil {
		return nil, fmt.Errorf("opening the reflector's socket: %w", err)
	}
	if cfg.PerSecond == 0 {
		cfg.PerSecond = defaultReflectorRate
	}
	if cfg.Burst == 0 {
		cfg.Burst = defaultReflectorBurst
	}
	if cfg.Count == nil {
		cfg.Count = func(Reflected) {}
	}
	// A socket may carry both protocols, or one; where an option cannot be had, the TTL is unknown, the kernel chooses
	// the answer's source address, and T2 is when the packet was read.
	_ = ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagTTL|ipv4.FlagDst, true)
	_ = ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst, true)
	_ = rxtime.Enable(conn)
	return &STAMPReflector{
		conn:    conn,
		cfg:     cfg,
		limiter: newLimiter(cfg.PerSecond, cfg.Burst, maxReflectorSources),
		answers: newRecent[netip.AddrPort, uint32](maxReflectorSources),
	}, nil
}

// Addr returns the address and port at which the reflector listens.
func (r *STAMPReflector) Addr() netip.AddrPort {
	a := r.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Close closes the socket, which ends Serve.
func (r *STAMPReflector) Close() error { return r.conn.Close() }

// Serve answers until ctx ends, which is no error, or the socket fails.
func (r *STAMPReflector) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = r.conn.Close() })
	defer stop()
	defer r.conn.Close()
	in, control, out := make([]byte, maxSTAMPPacket), make([]byte, 192+rxtime.ControlLen), make([]byte, 0, maxSTAMPPacket)
	for {
		n, nControl, flags, from, err := r.conn.ReadMsgUDPAddrPort(in, control)
		receivedAt := rxtime.At(control[:nControl], time.Now())
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EINTR) {
				continue
			}
			return fmt.Errorf("reading at the reflector's socket: %w", err)
		}
		if flags&syscall.MSG_TRUNC != 0 {
			r.cfg.Count(ReflectedOversized)
			continue
		}
		answer, result := r.answer(out, in[:n], control[:nControl], from, receivedAt)
		if result == ReflectedAnswered {
			if _, _, err := r.conn.WriteMsgUDPAddrPort(answer.octets, answer.control, from); err != nil {
				result = ReflectedUnsent
			}
		}
		r.cfg.Count(result)
	}
}

type reflection struct{ octets, control []byte }

// answer makes the answer to a packet, in the memory of out. It has exactly as many octets as the packet.
func (r *STAMPReflector) answer(out, in, control []byte, from netip.AddrPort, receivedAt time.Time) (reflection, Reflected) {
	packet, key, refused := r.accept(in, receivedAt)
	if refused != "" {
		return reflection{}, refused
	}
	id := probeID{timestamp: packet.Timestamp, sequence: packet.Sequence, port: from.Port()}
	if result := r.limiter.take(from.Addr().Unmap(), id, receivedAt); result != ReflectedAnswered {
		return reflection{}, result
	}
	ttl, answerControl := fromControl(control, from.Addr())
	answer := ReflectorPacket{
		Sequence:        packet.Sequence,
		Error:           unsynchronized,
		Session:         packet.Session,
		Received:        NTPTime(receivedAt),
		SenderSequence:  packet.Sequence,
		SenderTimestamp: packet.Timestamp,
		SenderError:     packet.Error,
		SenderTTL:       ttl,
	}
	if r.cfg.Stateful {
		n, _ := r.answers.get(from)
		answer.Sequence = n
		r.answers.put(from, n+1)
	}
	base := r.baseLen()
	out = append(out[:0], in...)
	if extensions := tlvs(out[base:]); len(extensions) > 0 {
		var sequence [4]byte
		binary.BigEndian.PutUint32(sequence[:], answer.Sequence)
		extensions.reflect(key, in[:4], sequence[:], r.cfg.Info)
	}
	// By the monotonic clock since T2, so that setting the clock cannot come between the two.
	answer.Timestamp = NTPTime(receivedAt.Add(time.Since(receivedAt)))
	if key == nil {
		answer.AppendTo(out[:0])
	} else {
		answer.appendAuthTo(out[:0])
		sealSTAMP(out, key)
	}
	return reflection{out, answerControl}, ReflectedAnswered
}

func (r *STAMPReflector) baseLen() int {
	if r.cfg.Key == nil {
		return STAMPPacketLen
	}
	return STAMPAuthPacketLen
}

// accept decodes a probe, and returns the key under which it came, nil in unauthenticated mode, or why it is dropped. It
// comes before the limit on its source, which else anybody could use up in another's name.
func (r *STAMPReflector) accept(in []byte, now time.Time) (packet SenderPacket, key *secret, refused Reflected) {
	parse := ParseSender
	if r.cfg.Key != nil {
		parse = parseAuthSender
	}
	packet, err := parse(in)
	switch {
	case err == nil && r.cfg.Key == nil:
		return packet, nil, ""
	case err == nil:
		if key := r.cfg.Key.verify(now, in[macOffset:STAMPAuthPacketLen], in[:macOffset]); key != nil {
			return packet, key, ""
		}
		refused = ReflectedForged
	case errors.Is(err, ErrSTAMPShort):
		refused = ReflectedShort
	default:
		refused = ReflectedCorrupt
	}
	if otherMode(in, r.cfg.Key != nil) {
		refused = ReflectedMode
	}
	return SenderPacket{}, nil, refused
}

// fromControl returns the TTL with which a packet came, and what makes the answer leave from the address to which it was
// sent: a node has several, and the sender believes only the one that it asked.
func fromControl(control []byte, from netip.Addr) (ttl uint8, answer []byte) {
	if from.Unmap().Is4() {
		var c ipv4.ControlMessage
		if err := c.Parse(control); err != nil {
			return unknownTTL, nil
		}
		return knownTTL(c.TTL), (&ipv4.ControlMessage{Src: c.Dst}).Marshal()
	}
	var c ipv6.ControlMessage
	if err := c.Parse(control); err != nil {
		return unknownTTL, nil
	}
	answerControl := ipv6.ControlMessage{Src: c.Dst}
	if c.Dst.IsLinkLocalUnicast() {
		answerControl.IfIndex = c.IfIndex
	}
	return knownTTL(c.HopLimit), answerControl.Marshal()
}

func knownTTL(ttl int) uint8 {
	if ttl <= 0 || ttl > 255 {
		return unknownTTL
	}
	return uint8(ttl)
}
