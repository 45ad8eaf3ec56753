// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"math"
	"net/netip"
	"testing"
	"time"
)

// FuzzSTAMPPacket decodes base packets of both modes, and encodes what it found.
func FuzzSTAMPPacket(f *testing.F) {
	f.Add(senderPacket.AppendTo(nil))
	f.Add(reflectorPacket.AppendTo(nil))
	f.Add(senderPacket.appendAuthTo(nil))
	f.Add(reflectorPacket.appendAuthTo(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParseSender(b); err == nil {
			if again, err := ParseSender(p.AppendTo(nil)); err != nil || again != p {
				t.Errorf("%+v became %+v, %v", p, again, err)
			}
		}
		if p, err := parseAuthSender(b); err == nil {
			if again, err := parseAuthSender(p.appendAuthTo(nil)); err != nil || again != p {
				t.Errorf("%+v became %+v, %v", p, again, err)
			}
		}
		if p, err := ParseReflector(b); err == nil {
			if again, err := ParseReflector(p.AppendTo(nil)); err != nil || again != p {
				t.Errorf("%+v became %+v, %v", p, again, err)
			}
			_ = p.Turnaround()
		}
		if p, err := parseAuthReflector(b); err == nil {
			if again, err := parseAuthReflector(p.appendAuthTo(nil)); err != nil || again != p {
				t.Errorf("%+v became %+v, %v", p, again, err)
			}
		}
	})
}

// fuzzVariants are the variants in an order that lasts.
var fuzzVariants = []variant{{}, {ask: true}, {key: key1}, {key: key1, ask: true}}

// FuzzSTAMPSender has a sender with a probe under way receive a packet: the one it was given, into which the fields are
// written, unless whole is set, by which the sender finds the probe. Under a key it is sealed, too.
func FuzzSTAMPSender(f *testing.F) {
	pairs := make([]pair, len(fuzzVariants))
	for i, v := range fuzzVariants {
		pairs[i] = newPair(f, v, variant{key: v.key, ask: true})
		probe, packet := pairs[i].probe()
		answer, _ := pairs[i].reflect(packet)
		pairs[i].sender.giveUp(reflectorAddr, probe)
		for _, whole := range []bool{false, true} {
			f.Add(uint8(i), whole, int64(time.Millisecond), int64(0), answer)
			f.Add(uint8(i), whole, int64(time.Second), int64(time.Second), packet)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, whole bool, elapsed, waited int64, b []byte) {
		i := int(which) % len(pairs)
		p := pairs[i]
		probe := p.sender.begin(reflectorAddr)
		if !whole {
			b = aim(bytes.Clone(b), probe)
		}
		// From when to when, and how long in the socket: what the kernel and rxtime may say.
		readAt := probe.sentAt.Add(time.Duration(elapsed) % time.Hour)
		dropped := p.sender.receive(b, reflectorAddr, readAt, max(0, time.Duration(waited)%time.Minute))
		select {
		case a := <-probe.done:
			if dropped != "" && dropped != ReasonInfo {
				t.Errorf("answered and dropped: %s", dropped)
			}
			if a.err == nil && (a.result.RTT <= 0 || a.result.RTT > MaxRTT || a.result.Turnaround < 0 || a.result.Turnaround > MaxTurnaround) {
				t.Errorf("believed %+v", a.result)
			}
			if a.err != nil && a.result != (Result{}) {
				t.Errorf("%v with %+v", a.err, a.result)
			}
			if info := a.result.Info; info != nil {
				if !fuzzVariants[i].ask {
					t.Error("information that nobody asked for")
				}
				checkInfo(t, *info)
			}
			if len(b) > p.sender.length() {
				t.Errorf("%d octets were believed", len(b))
			}
		default:
			if dropped == "" {
				t.Error("neither answered nor dropped")
			}
			p.sender.giveUp(reflectorAddr, probe)
		}
	})
}

// aim writes into a packet what makes it an answer to a probe, as far as it has room.
func aim(b []byte, p *stampProbe) []byte {
	answer := ReflectorPacket{Error: unsynchronized, SenderSequence: p.sequence, SenderTimestamp: p.timestamp}
	if p.key == nil && len(b) >= STAMPPacketLen {
		if old, err := ParseReflector(b); err == nil {
			answer.Error, answer.Timestamp, answer.Received, answer.SenderTTL = old.Error, old.Timestamp, old.Received, old.SenderTTL
		}
		copy(b, answer.AppendTo(nil))
	}
	if p.key != nil && len(b) >= STAMPAuthPacketLen {
		if old, err := parseAuthReflector(b); err == nil {
			answer.Error, answer.Timestamp, answer.Received, answer.SenderTTL = old.Error, old.Timestamp, old.Received, old.SenderTTL
		}
		copy(b, answer.appendAuthTo(nil))
		sealSTAMP(b, p.key)
		reseal(b[STAMPAuthPacketLen:], p.key, b[:4])
	}
	return b
}

// reseal makes the HMAC TLV right, if there is one in its place.
func reseal(row tlvs, key *secret, sequence []byte) {
	if text, mac, _, _ := row.protected(); mac != nil {
		key.sign(mac, sequence, text)
	}
}

func checkInfo(t *testing.T, i Info) {
	if len(i.Near) > MaxNear {
		t.Errorf("%d near", len(i.Near))
	}
	for _, n := range i.Near {
		if n == 0 {
			t.Error("nobody is near")
		}
	}
	if c := i.Coordinate; c != nil {
		ok := c.IsValid() && len(c.Vec) == Dimensions && c.Height >= 0 && c.Error >= 0 && c.Error <= 1.5
		for _, f := range append([]float64{c.Height, c.Adjustment}, c.Vec...) {
			ok = ok && math.Abs(f) <= 60
		}
		if !ok {
			t.Errorf("coordinate %+v", c)
		}
	}
}

// FuzzSTAMPReflector has a reflector answer a packet. Under a key the packet is sealed first, unless whole is set.
func FuzzSTAMPReflector(f *testing.F) {
	pairs := make([]pair, 0, 2*len(fuzzVariants))
	for i, v := range fuzzVariants {
		p := newPair(f, v, v)
		pairs = append(pairs, p)
		_, packet := p.probe()
		for _, whole := range []bool{false, true} {
			f.Add(uint8(i), whole, packet, []byte{})
			f.Add(uint8(i), whole, append(bytes.Clone(packet), tlv(0, 2, 1, 2, 3)...), bytes.Repeat([]byte{0x20, 0, 0, 0}, 8))
			f.Add(uint8(i), whole, append(bytes.Clone(packet), tlv(0x80, tlvPadding)...), []byte{1})
		}
	}
	for _, v := range fuzzVariants {
		p := newPair(f, v, v)
		p.reflector.cfg.Stateful = true
		pairs = append(pairs, p)
	}
	f.Fuzz(func(t *testing.T, which uint8, whole bool, in, control []byte) {
		p := pairs[int(which)%len(pairs)]
		if key := p.reflector.cfg.Key; key != nil && !whole && len(in) >= STAMPAuthPacketLen {
			in = bytes.Clone(in)
			current := key.ring.Load().current
			sealSTAMP(in, current)
			reseal(in[STAMPAuthPacketLen:], current, in[:4])
		}
		before := bytes.Clone(in)
		from := netip.AddrPortFrom(senderAddr.Addr(), uint16(len(in)))
		answer, result := p.reflector.answer(make([]byte, 0, maxSTAMPPacket), in, control, from, time.Now())
		switch {
		case !bytes.Equal(in, before):
			t.Error("the packet was changed")
		case len(answer.octets) > len(in):
			t.Errorf("%d octets for %d", len(answer.octets), len(in))
		case result == ReflectedAnswered && len(answer.octets) != len(in):
			t.Errorf("answered %d octets with %d", len(in), len(answer.octets))
		case result != ReflectedAnswered && answer.octets != nil:
			t.Errorf("%s, and an answer", result)
		}
		if result != ReflectedAnswered {
			return
		}
		parse := ParseReflector
		if p.reflector.cfg.Key != nil {
			parse = parseAuthReflector
		}
		if a, err := parse(answer.octets); err != nil || a.Turnaround() < 0 {
			t.Errorf("answer %+v, %v", a, err)
		}
	})
}

// FuzzSTAMPTLVs walks a row of TLVs in all the ways that there are.
func FuzzSTAMPTLVs(f *testing.F) {
	key := newSecret(key1)
	f.Add(true, []byte{})
	f.Add(true, appendHMAC(appendAskInfo(nil), 0, key, make([]byte, 4)))
	f.Add(false, appendAskInfo(tlv(0x80, tlvPadding, 1, 2, 3)))
	f.Add(false, []byte{0x80, 2, 0xff, 0xff})
	f.Add(true, []byte{0x80})
	f.Fuzz(func(t *testing.T, auth bool, row []byte) {
		var s *secret
		sequence := make([]byte, 4)
		if auth {
			s = key
			reseal(row, s, sequence)
		}
		n := 0
		for r := tlvs(row); len(r) > 0; n++ {
			first, rest, _ := r.next()
			if len(first) == 0 || len(first)+len(rest) != len(r) {
				t.Fatalf("%d octets were taken apart into %d and %d", len(r), len(first), len(rest))
			}
			r = rest
		}
		answer := bytes.Clone(row)
		tlvs(answer).reflect(s, sequence, []byte{0, 0, 0, 1}, somewhere)
		if len(answer) != len(row) {
			t.Errorf("%d octets became %d", len(row), len(answer))
		}
		info, err := tlvs(answer).info(s, []byte{0, 0, 0, 1})
		if info != nil {
			checkInfo(t, *info)
		}
		// What our reflector says our sender believes.
		if asked := tlvs(row).asked(s, sequence); asked && (info == nil || err != nil) {
			t.Errorf("asked, and was told %v, %v", info, err)
		}
	})
}

// asked returns whether a row is what a sender of ours might send: intact, well formed, and asking for information.
func (t tlvs) asked(s *secret, sequence []byte) bool {
	if !t.intact(s, sequence) {
		return false
	}
	asks := false
	for row := t; len(row) > 0; {
		first, rest, malformed := row.next()
		if malformed || first.kind() == tlvHMAC && len(first) != hmacTLVLen {
			return false
		}
		asks = asks || first.kind() == tlvInfo && asksInfo(first)
		row = rest
	}
	return asks
}

// FuzzSTAMPInfo decodes what a reflector says of itself.
func FuzzSTAMPInfo(f *testing.F) {
	b := make([]byte, infoLen)
	f.Add(bytes.Clone(b))
	somewhere().put(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := parseInfo(b)
		checkInfo(t, i)
		if err != nil {
			if i.Coordinate != nil {
				t.Errorf("%v, and the coordinate %+v", err, i.Coordinate)
			}
			return
		}
		again := make([]byte, infoLen)
		i.put(again)
		// The hashes move together where one is missing; all else is what it was.
		if !bytes.Equal(b[:48], again[:48]) && i.Coordinate != nil {
			t.Errorf("%x became %x", b, again)
		}
		if second, err := parseInfo(again); err != nil || len(second.Near) != len(i.Near) {
			t.Errorf("%+v became %+v, %v", i, second, err)
		}
	})
}
