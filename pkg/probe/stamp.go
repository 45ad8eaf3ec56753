// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"time"
)

// The base packets of STAMP, the Simple Two-Way Active Measurement Protocol: RFC 8762, sections 4.2 and 4.3, with the session
// identifier that RFC 8972, section 3, put into the first octets that must be zero. All numbers are in network byte order.

const (
	// STAMPPacketLen is the length in octets of a base packet of unauthenticated mode, in both directions.
	STAMPPacketLen = 44
	// STAMPAuthPacketLen is that of authenticated mode: six blocks of 16 octets, and their HMAC.
	STAMPAuthPacketLen = 112

	macOffset = STAMPAuthPacketLen - macLen
)

// ErrSTAMPShort says that a packet is shorter than a base packet.
var ErrSTAMPShort = errors.New("STAMP packet too short")

// ErrSTAMPCorrupt says that a packet has an error estimate with a multiplier of 0, which RFC 4656, section 4.1.2, forbids
// to send and tells to discard.
var ErrSTAMPCorrupt = errors.New("STAMP packet with an error estimate of 0")

// STAMPTime is a timestamp on the wire. Which of two formats it has, the error estimate beside it says: by default NTP's,
// seconds since 1900 in units of 2⁻³² s, modulo 2³² s.
type STAMPTime uint64

// ntpEpochOffset is the number of seconds from 1900 to 1970.
const ntpEpochOffset = 2_208_988_800

// NTPTime returns a time in NTP's format.
func NTPTime(t time.Time) STAMPTime {
	seconds := uint64(t.Unix()+ntpEpochOffset) << 32
	// Rounded up, so that a time survives the way there and back: 2⁻³² s are less than a nanosecond.
	fraction := (uint64(t.Nanosecond())<<32 + uint64(time.Second) - 1) / uint64(time.Second)
	return STAMPTime(seconds + fraction)
}

// sub returns s − t for two timestamps of one clock, when they are less than 68 years apart.
func (s STAMPTime) sub(t STAMPTime, format ErrorEstimate) time.Duration {
	if format.PTP() {
		// 32 bits of seconds, 32 bits of nanoseconds (IEEE 1588-2008, truncated as in RFC 8186).
		seconds := int32(uint32(s>>32) - uint32(t>>32))
		return time.Duration(seconds)*time.Second + time.Duration(int64(uint32(s))-int64(uint32(t)))
	}
	// The difference modulo 2⁶⁴ is right across the wrap of 2036.
	d := int64(s - t)
	negative := d < 0
	if negative {
		d = -d
	}
	hi, lo := bits.Mul64(uint64(d), uint64(time.Second))
	lo, carry := bits.Add64(lo, 1<<31, 0) // rounds to the nearest nanosecond
	ns := time.Duration((hi+carry)<<32 | lo>>32)
	if negative {
		return -ns
	}
	return ns
}

// ErrorEstimate is a bound of a clock's error, and says of what kind its timestamps are:
//
//	 0                   1
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|S|Z|   Scale   |   Multiplier  |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type ErrorEstimate uint16

// unsynchronized is the estimate of a clock of which nothing is known: not synchronised, NTP format, error 1·2³²·2⁻³² s.
// Nothing here needs more, since timestamps are only subtracted from those of the same clock.
const unsynchronized = ErrorEstimate(32<<8 | 1)

// Synchronized returns S: that the clock follows UTC by an external source.
func (e ErrorEstimate) Synchronized() bool { return e&0x8000 != 0 }

// PTP returns Z: that the timestamps have PTP's truncated format and not NTP's.
func (e ErrorEstimate) PTP() bool { return e&0x4000 != 0 }

// Scale returns the exponent, 0 to 63.
func (e ErrorEstimate) Scale() uint8 { return uint8(e>>8) & 0x3f }

// Multiplier returns the factor, 0 to 255. The error is Multiplier·2^(Scale−32) seconds. A valid one is not 0.
func (e ErrorEstimate) Multiplier() uint8 { return uint8(e) }

// SenderPacket is what a Session-Sender sends, unauthenticated and authenticated:
//
//	octets  0–3   octets  0–3    Sequence Number
//	        4–11         16–23   Timestamp (T1)
//	       12–13         24–25   Error Estimate
//	       14–15         26–27   Session Identifier (RFC 8972), or zero
//	                     96–111  HMAC of octets 0–95
//
// All others are zero.
type SenderPacket struct {
	Sequence  uint32
	Timestamp STAMPTime
	Error     ErrorEstimate
	Session   uint16
}

// AppendTo appends the packet's 44 octets to b.
func (p SenderPacket) AppendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, p.Sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Timestamp))
	b = binary.BigEndian.AppendUint16(b, uint16(p.Error))
	b = binary.BigEndian.AppendUint16(b, p.Session)
	return append(b, make([]byte, 28)...)
}

// appendAuthTo appends the packet's 112 octets of authenticated mode to b, with an HMAC of zeros: sealSTAMP makes it.
func (p SenderPacket) appendAuthTo(b []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, STAMPAuthPacketLen)...)
	out := b[at:]
	binary.BigEndian.PutUint32(out[0:], p.Sequence)
	binary.BigEndian.PutUint64(out[16:], uint64(p.Timestamp))
	binary.BigEndian.PutUint16(out[24:], uint16(p.Error))
	binary.BigEndian.PutUint16(out[26:], p.Session)
	return b
}

// sealSTAMP computes the HMAC of a base packet of authenticated mode, which RFC 8762, section 4.4, describes.
func sealSTAMP(packet []byte, s *secret) {
	s.sign(packet[macOffset:STAMPAuthPacketLen], packet[:macOffset], nil)
}

// otherMode returns whether a packet was probably made for the other mode: in the octets that must be zero in authenticated
// mode, unauthenticated mode has its timestamp. It only chooses the name under which a packet that is dropped is counted.
func otherMode(b []byte, authenticated bool) bool {
	if len(b) < STAMPPacketLen {
		return false
	}
	if authenticated {
		return !zero(b[4:16])
	}
	return zero(b[4:16]) && len(b) >= STAMPAuthPacketLen
}

// ParseSender decodes a packet of a Session-Sender in unauthenticated mode. What must be zero is ignored, as the RFC says,
// and so are octets after the 44th. The error is ErrSTAMPShort or ErrSTAMPCorrupt.
func ParseSender(b []byte) (SenderPacket, error) {
	if len(b) < STAMPPacketLen {
		return SenderPacket{}, ErrSTAMPShort
	}
	p := SenderPacket{
		Sequence:  binary.BigEndian.Uint32(b[0:]),
		Timestamp: STAMPTime(binary.BigEndian.Uint64(b[4:])),
		Error:     ErrorEstimate(binary.BigEndian.Uint16(b[12:])),
		Session:   binary.BigEndian.Uint16(b[14:]),
	}
	if p.Error.Multiplier() == 0 {
		return SenderPacket{}, ErrSTAMPCorrupt
	}
	return p, nil
}

// parseAuthSender decodes a packet of a Session-Sender in authenticated mode, all but its HMAC.
func parseAuthSender(b []byte) (SenderPacket, error) {
	if len(b) < STAMPAuthPacketLen {
		return SenderPacket{}, ErrSTAMPShort
	}
	p := SenderPacket{
		Sequence:  binary.BigEndian.Uint32(b[0:]),
		Timestamp: STAMPTime(binary.BigEndian.Uint64(b[16:])),
		Error:     ErrorEstimate(binary.BigEndian.Uint16(b[24:])),
		Session:   binary.BigEndian.Uint16(b[26:]),
	}
	if p.Error.Multiplier() == 0 {
		return SenderPacket{}, ErrSTAMPCorrupt
	}
	return p, nil
}

// ReflectorPacket is what a Session-Reflector answers, unauthenticated and authenticated:
//
//	octets  0–3   octets  0–3    Sequence Number
//	        4–11         16–23   Timestamp (T3)
//	       12–13         24–25   Error Estimate, of both timestamps
//	       14–15         26–27   Session Identifier (RFC 8972), or zero
//	       16–23         32–39   Receive Timestamp (T2)
//	       24–27         48–51   Session-Sender Sequence Number
//	       28–35         64–71   Session-Sender Timestamp (T1)
//	       36–37         72–73   Session-Sender Error Estimate
//	       40            80      Session-Sender TTL
//	                     96–111  HMAC of octets 0–95
//
// All others are zero.
type ReflectorPacket struct {
	Sequence        uint32
	Timestamp       STAMPTime
	Error           ErrorEstimate
	Session         uint16
	Received        STAMPTime
	SenderSequence  uint32
	SenderTimestamp STAMPTime
	SenderError     ErrorEstimate
	SenderTTL       uint8
}

// AppendTo appends the packet's 44 octets to b.
func (p ReflectorPacket) AppendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, p.Sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Timestamp))
	b = binary.BigEndian.AppendUint16(b, uint16(p.Error))
	b = binary.BigEndian.AppendUint16(b, p.Session)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Received))
	b = binary.BigEndian.AppendUint32(b, p.SenderSequence)
	b = binary.BigEndian.AppendUint64(b, uint64(p.SenderTimestamp))
	b = binary.BigEndian.AppendUint16(b, uint16(p.SenderError))
	b = append(b, 0, 0)
	return append(b, p.SenderTTL, 0, 0, 0)
}

// appendAuthTo appends the packet's 112 octets of authenticated mode to b, with an HMAC of zeros: sealSTAMP makes it.
func (p ReflectorPacket) appendAuthTo(b []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, STAMPAuthPacketLen)...)
	out := b[at:]
	binary.BigEndian.PutUint32(out[0:], p.Sequence)
	binary.BigEndian.PutUint64(out[16:], uint64(p.Timestamp))
	binary.BigEndian.PutUint16(out[24:], uint16(p.Error))
	binary.BigEndian.PutUint16(out[26:], p.Session)
	binary.BigEndian.PutUint64(out[32:], uint64(p.Received))
	binary.BigEndian.PutUint32(out[48:], p.SenderSequence)
	binary.BigEndian.PutUint64(out[64:], uint64(p.SenderTimestamp))
	binary.BigEndian.PutUint16(out[72:], uint16(p.SenderError))
	out[80] = p.SenderTTL
	return b
}

// parseAuthReflector decodes a packet of a Session-Reflector in authenticated mode, all but its HMAC.
func parseAuthReflector(b []byte) (ReflectorPacket, error) {
	if len(b) < STAMPAuthPacketLen {
		return ReflectorPacket{}, ErrSTAMPShort
	}
	p := ReflectorPacket{
		Sequence:        binary.BigEndian.Uint32(b[0:]),
		Timestamp:       STAMPTime(binary.BigEndian.Uint64(b[16:])),
		Error:           ErrorEstimate(binary.BigEndian.Uint16(b[24:])),
		Session:         binary.BigEndian.Uint16(b[26:]),
		Received:        STAMPTime(binary.BigEndian.Uint64(b[32:])),
		SenderSequence:  binary.BigEndian.Uint32(b[48:]),
		SenderTimestamp: STAMPTime(binary.BigEndian.Uint64(b[64:])),
		SenderError:     ErrorEstimate(binary.BigEndian.Uint16(b[72:])),
		SenderTTL:       b[80],
	}
	if p.Error.Multiplier() == 0 {
		return ReflectorPacket{}, ErrSTAMPCorrupt
	}
	return p, nil
}

// ParseReflector decodes a packet of a Session-Reflector in unauthenticated mode. What must be zero is ignored, and so are octets after the 44th.
// The error is ErrSTAMPShort or ErrSTAMPCorrupt.
func ParseReflector(b []byte) (ReflectorPacket, error) {
	if len(b) < STAMPPacketLen {
		return ReflectorPacket{}, ErrSTAMPShort
	}
	p := ReflectorPacket{
		Sequence:        binary.BigEndian.Uint32(b[0:]),
		Timestamp:       STAMPTime(binary.BigEndian.Uint64(b[4:])),
		Error:           ErrorEstimate(binary.BigEndian.Uint16(b[12:])),
		Session:         binary.BigEndian.Uint16(b[14:]),
		Received:        STAMPTime(binary.BigEndian.Uint64(b[16:])),
		SenderSequence:  binary.BigEndian.Uint32(b[24:]),
		SenderTimestamp: STAMPTime(binary.BigEndian.Uint64(b[28:])),
		SenderError:     ErrorEstimate(binary.BigEndian.Uint16(b[36:])),
		SenderTTL:       b[40],
	}
	if p.Error.Multiplier() == 0 {
		return ReflectorPacket{}, ErrSTAMPCorrupt
	}
	return p, nil
}

// Turnaround returns T3 − T2, the time that the reflector took by its own clock. It may be negative when that clock was
// set meanwhile.
func (p ReflectorPacket) Turnaround() time.Duration { return p.Timestamp.sub(p.Received, p.Error) }
