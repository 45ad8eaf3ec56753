// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
)

// The extensions of STAMP, RFC 8972: what follows the base packet is a row of TLVs.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|U|M|I|reserved |     Type      |       Length of Value         |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                            Value                              ~
const (
	// tlvUnrecognized is set by the sender, and cleared by a reflector that knew what to do.
	tlvUnrecognized = 0x80
	// tlvMalformed is set by a reflector: the length is wrong for the type, or goes beyond the packet.
	tlvMalformed = 0x40
	// tlvIntegrity is set by a reflector: the HMAC is wrong, or missing where there must be one.
	tlvIntegrity = 0x20

	tlvHeaderLen = 4

	tlvPadding = 1
	tlvHMAC    = 8
	// tlvInfo is ours, out of 252 to 254 for private use. Others may use it, too: ours is the one that has a value of
	// infoLen octets, all of them zero in a request.
	tlvInfo = 252

	infoTLVLen = tlvHeaderLen + infoLen
	hmacTLVLen = tlvHeaderLen + macLen
)

// tlvs is a row of TLVs as it stands in a packet.
type tlvs []byte

// next returns the first TLV, its header included, and what follows it. A TLV that is malformed, since the octets that
// are left are fewer than its header and its length demand, is all of them.
func (t tlvs) next() (first, rest tlvs, malformed bool) {
	if len(t) < tlvHeaderLen {
		return t, nil, true
	}
	end := tlvHeaderLen + int(binary.BigEndian.Uint16(t[2:]))
	if end > len(t) {
		return t, nil, true
	}
	return t[:end:end], t[end:], false
}

func (t tlvs) kind() byte {
	if len(t) < tlvHeaderLen {
		return 0 // reserved: nobody's
	}
	return t[1]
}

// protected returns the TLVs before the HMAC TLV, and its value; nil when there is none in its place, which is behind all
// others but Extra Padding (RFC 8972, section 4.8). found says that there is one, wherever. needed says that a packet with
// these TLVs must have one in authenticated mode: there is a TLV, and not just one of Extra Padding.
func (t tlvs) protected() (text, mac []byte, found, needed bool) {
	whole, n := t, 0
	inPlace := true
	for len(t) > 0 {
		first, rest, malformed := t.next()
		n++
		switch {
		case first.kind() == tlvPadding && !malformed:
			needed = needed || n > 1
		case first.kind() == tlvHMAC && !found:
			found, needed = true, true
			if !malformed && len(first) == hmacTLVLen {
				text, mac = whole[:len(whole)-len(t)], first[tlvHeaderLen:]
			}
		default:
			needed = true
			inPlace = inPlace && !found
		}
		t = rest
	}
	if !inPlace {
		return nil, nil, found, needed
	}
	return text, mac, found, needed
}

// intact returns whether the TLVs may be used: they are what the holder of the key sent, or need no protection.
// sequence is the sequence number's four octets, which the HMAC covers, too.
func (t tlvs) intact(s *secret, sequence []byte) bool {
	text, mac, found, needed := t.protected()
	if found {
		return s != nil && mac != nil && s.verifies(mac, sequence, text)
	}
	return s == nil || !needed
}

// reflect turns the TLVs of a probe into those of its answer, in place: flags are set, info, unless it is nil, is filled
// in, and what was protected is protected again. Nothing changes its length. sent and answered are the sequence numbers of
// the probe and of the answer.
func (t tlvs) reflect(s *secret, sent, answered []byte, info func() Info) {
	var integrity byte
	if !t.intact(s, sent) {
		integrity, info = tlvIntegrity, nil
	}
	for row := t; len(row) > 0; {
		first, rest, malformed := row.next()
		flags := integrity | tlvUnrecognized
		switch kind := first.kind(); {
		case kind == tlvPadding, kind == tlvHMAC && s != nil:
			flags = integrity
			malformed = malformed || kind == tlvHMAC && len(first) != hmacTLVLen
		case kind == tlvInfo && !malformed && info != nil && asksInfo(first):
			flags = integrity
			info().put(first[tlvHeaderLen:])
			info = nil // once is enough
		}
		if malformed {
			flags |= tlvMalformed
		}
		first[0] = flags
		row = rest
	}
	if integrity != 0 || s == nil {
		return
	}
	if text, mac, _, _ := t.protected(); mac != nil {
		s.sign(mac, answered, text)
	}
}

func asksInfo(t tlvs) bool { return len(t) == infoTLVLen && zero(t[tlvHeaderLen:]) }

func zero(b []byte) bool {
	for _, octet := range b {
		if octet != 0 {
			return false
		}
	}
	return true
}

// info returns what the reflector says of itself; nil when it says nothing. The error says that it said something that
// must not be believed, or that it refused our TLVs.
func (t tlvs) info(s *secret, sequence []byte) (*Info, error) {
	var said tlvs
	for row := t; len(row) > 0; {
		first, rest, malformed := row.next()
		if malformed || first[0]&(tlvMalformed|tlvIntegrity) != 0 {
			return nil, errInfo
		}
		if first.kind() == tlvInfo && first[0]&tlvUnrecognized == 0 && said == nil {
			said = first
		}
		row = rest
	}
	if said == nil {
		return nil, nil
	}
	if !t.intact(s, sequence) {
		return nil, errInfo
	}
	i, err := parseInfo(said[tlvHeaderLen:])
	if errors.Is(err, errInfo) {
		return nil, err
	}
	return &i, err
}

// appendAskInfo appends the TLV by which a probe asks for Info.
func appendAskInfo(b []byte) []byte {
	b = append(b, tlvUnrecognized, tlvInfo, 0, infoLen)
	return append(b, make([]byte, infoLen)...)
}

// appendHMAC appends the HMAC TLV that protects the TLVs in b from at on.
func appendHMAC(b []byte, at int, s *secret, sequence []byte) []byte {
	end := len(b)
	b = append(b, tlvUnrecognized, tlvHMAC, 0, macLen)
	b = append(b, make([]byte, macLen)...)
	s.sign(b[end+tlvHeaderLen:], sequence, b[at:end])
	return b
}
