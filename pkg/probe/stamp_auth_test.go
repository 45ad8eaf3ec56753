// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The packets below are written by hand from the figures of RFC 8762: 4.2.2 (Session-Sender) and 4.3.2
// (Session-Reflector), both authenticated, with the session identifier of RFC 8972, and an HMAC of zeros.

const authSenderOctets = `
	01 02 03 04                                      # Sequence Number
	00 00 00 00 00 00 00 00 00 00 00 00              # MBZ, 12 octets
	e9 3c 4d 2f 80 00 00 01                          # Timestamp
	a2 07                                            # Error Estimate
	0b 0c                                            # Session Identifier
	00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  # MBZ, 68 octets
	00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
	00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
	00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
	00 00 00 00
	00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  # HMAC
`

const authReflectorOctets = `
	11 12 13 14                                      # Sequence Number
	00 00 00 00 00 00 00 00 00 00 00 00              # MBZ, 12 octets
	e9 3c 4d 30 40 00 00 02                          # Timestamp (T3)
	3f 09                                            # Error Estimate
	0b 0c                                            # Session Identifier
	00 00 00 00                                      # MBZ
	e9 3c 4d 30 00 00 00 02                          # Receive Timestamp (T2)
	00 00 00 00 00 00 00 00                          # MBZ
	01 02 03 04                                      # Session-Sender Sequence Number
	00 00 00 00 00 00 00 00 00 00 00 00              # MBZ, 12 octets
	e9 3c 4d 2f 80 00 00 01                          # Session-Sender Timestamp
	a2 07                                            # Session-Sender Error Estimate
	00 00 00 00 00 00                                # MBZ
	3d                                               # Session-Sender TTL
	00 00 00 00 00 00 00 00 00 00 00 00 00 00 00     # MBZ, 15 octets
	00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  # HMAC
`

func TestAuthenticatedPacketsMatchTheRFC(t *testing.T) {
	sender, reflector := senderPacket, reflectorPacket
	sender.Session, reflector.Session = 0x0b0c, 0x0b0c
	for name, tc := range map[string]struct {
		want    []byte
		encoded []byte
		decode  func([]byte) (any, error)
		packet  any
	}{
		"sender": {
			octets(t, authSenderOctets), sender.appendAuthTo(nil),
			func(b []byte) (any, error) { return parseAuthSender(b) }, sender,
		},
		"reflector": {
			octets(t, authReflectorOctets), reflector.appendAuthTo(nil),
			func(b []byte) (any, error) { return parseAuthReflector(b) }, reflector,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if len(tc.want) != STAMPAuthPacketLen {
				t.Fatalf("the test's packet has %d octets", len(tc.want))
			}
			if diff := cmp.Diff(tc.want, tc.encoded); diff != "" {
				t.Errorf("encoded (-want +got):\n%s", diff)
			}
			got, err := tc.decode(tc.want)
			if diff := cmp.Diff(tc.packet, got); err != nil || diff != "" {
				t.Errorf("decoded: %v (-want +got):\n%s", err, diff)
			}
			// The HMAC, computed without what is tested.
			sealSTAMP(tc.encoded, newSecret(key1))
			mac := hmac.New(sha256.New, key1)
			mac.Write(tc.want[:96])
			if diff := cmp.Diff(append(tc.want[:96:96], mac.Sum(nil)[:16]...), tc.encoded); diff != "" {
				t.Errorf("with its HMAC (-want +got):\n%s", diff)
			}
			for n := range STAMPAuthPacketLen {
				if _, err := tc.decode(tc.want[:n]); !errors.Is(err, ErrSTAMPShort) {
					t.Errorf("of %d octets: error %v", n, err)
				}
			}
			tc.want[25] = 0 // the multiplier
			if _, err := tc.decode(tc.want); !errors.Is(err, ErrSTAMPCorrupt) {
				t.Errorf("with a multiplier of 0: error %v", err)
			}
		})
	}
}

func TestEveryAuthenticatedOctetIsReadFromItsPlace(t *testing.T) {
	// Setting an octet of a field must change what is decoded; one that must be zero, or is of the HMAC, must not.
	fields := func(decode func([]byte) (any, error), packet []byte) string {
		before, err := decode(packet)
		if err != nil {
			t.Fatal(err)
		}
		var changed []string
		for i := range packet {
			packet[i] ^= 0x10
			if after, err := decode(packet); err != nil || after != before {
				changed = append(changed, fmt.Sprint(i))
			}
			packet[i] ^= 0x10
		}
		return fmt.Sprint(changed)
	}
	indices := func(ranges ...int) string {
		var all []string
		for i := 0; i < len(ranges); i += 2 {
			for k := ranges[i]; k < ranges[i+1]; k++ {
				all = append(all, fmt.Sprint(k))
			}
		}
		return fmt.Sprint(all)
	}
	got := fields(func(b []byte) (any, error) { return parseAuthSender(b) }, octets(t, authSenderOctets))
	if diff := cmp.Diff(indices(0, 4, 16, 28), got); diff != "" {
		t.Errorf("sender (-want +got):\n%s", diff)
	}
	got = fields(func(b []byte) (any, error) { return parseAuthReflector(b) }, octets(t, authReflectorOctets))
	if diff := cmp.Diff(indices(0, 4, 16, 28, 32, 40, 48, 52, 64, 74, 80, 81), got); diff != "" {
		t.Errorf("reflector (-want +got):\n%s", diff)
	}
}

// TestWhatReachesTheReflector sends it all that it should not answer, in every mode.
func TestWhatReachesTheReflector(t *testing.T) {
	other := func(v variant) variant {
		if v.key == nil {
			return variant{key: key1, ask: v.ask}
		}
		return variant{ask: v.ask}
	}
	for kind, v := range variants {
		auth := v.key != nil
		choose := func(unauthenticated, authenticated Reflected) Reflected {
			return either(auth, unauthenticated, authenticated)
		}
		octet := func(unauthenticated, authenticated int) int { return either(auth, unauthenticated, authenticated) }
		for name, tc := range map[string]struct {
			sender variant
			edit   func([]byte) []byte
			want   Reflected
		}{
			"a probe":             {sender: v, want: ReflectedAnswered},
			"nothing":             {sender: v, edit: func([]byte) []byte { return nil }, want: ReflectedShort},
			"one octet":           {sender: v, edit: func(b []byte) []byte { return b[:1] }, want: ReflectedShort},
			"less than a packet":  {sender: v, edit: func(b []byte) []byte { return b[:43] }, want: ReflectedShort},
			"one octet less":      {sender: variant{key: v.key}, edit: func(b []byte) []byte { return b[:len(b)-1] }, want: ReflectedShort},
			"of the other mode":   {sender: other(v), want: ReflectedMode},
			"44 zeros":            {sender: v, edit: func([]byte) []byte { return make([]byte, 44) }, want: choose(ReflectedCorrupt, ReflectedShort)},
			"another key":         {sender: variant{key: key2, ask: v.ask}, want: choose(ReflectedMode, ReflectedForged)},
			"an error of 0":       {sender: v, edit: corrupt(auth), want: ReflectedCorrupt},
			"another time":        {sender: v, edit: flip(octet(5, 17)), want: choose(ReflectedAnswered, ReflectedForged)},
			"another sequence":    {sender: v, edit: flip(3), want: choose(ReflectedAnswered, ReflectedForged)},
			"an octet of its MAC": {sender: v, edit: flip(octet(28, 111)), want: choose(ReflectedAnswered, ReflectedForged)},
		} {
			t.Run(kind+": "+name, func(t *testing.T) {
				p := newPair(t, tc.sender, variant{key: v.key, ask: true})
				_, packet := p.probe()
				if tc.edit != nil {
					packet = tc.edit(packet)
				}
				answer, got := p.reflect(packet)
				if got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
				wantLen := 0
				if tc.want == ReflectedAnswered {
					wantLen = len(packet)
				}
				if len(answer) != wantLen {
					t.Errorf("an answer of %d octets to one of %d", len(answer), len(packet))
				}
				// A second time.
				if tc.want == ReflectedAnswered {
					tc.want = ReflectedReplayed
				}
				if answer, got := p.reflect(packet); got != tc.want || answer != nil {
					t.Errorf("the second time: %s with %d octets, want %s", got, len(answer), tc.want)
				}
			})
		}
	}
}

func either[T any](second bool, a, b T) T {
	if second {
		return b
	}
	return a
}

func flip(i int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[i] ^= 1
		return b
	}
}

func corrupt(authenticated bool) func([]byte) []byte {
	return func(b []byte) []byte {
		if authenticated {
			b[25] = 0
		} else {
			b[13] = 0
		}
		return b
	}
}

// TestWhatReachesTheSender sends it all that it should not believe, in every mode, and then the honest answer, which it
// must believe still.
func TestWhatReachesTheSender(t *testing.T) {
	for kind, v := range variants {
		auth := v.key != nil
		choose := func(unauthenticated, authenticated Reason) Reason {
			return either(auth, unauthenticated, authenticated)
		}
		octet := func(unauthenticated, authenticated int) int { return either(auth, unauthenticated, authenticated) }
		for name, tc := range map[string]struct {
			forge func(probe, answer []byte) []byte
			want  Reason
		}{
			"nothing":              {func(_, _ []byte) []byte { return nil }, ReasonShort},
			"less than a packet":   {func(_, a []byte) []byte { return a[:43] }, ReasonShort},
			"less than its base":   {func(_, a []byte) []byte { return a[:octet(43, 111)] }, ReasonShort},
			"one octet more":       {func(_, a []byte) []byte { return append(a, 0) }, ReasonOversized},
			"the probe itself":     {func(p, _ []byte) []byte { return p }, ReasonUnmatched},
			"an error of 0":        {func(_, a []byte) []byte { return corrupt(auth)(a) }, ReasonCorrupt},
			"another's MAC":        {func(_, a []byte) []byte { return flip(octet(43, 111))(a) }, choose("", ReasonForged)},
			"of the other mode":    {otherModesAnswer(auth), either(!auth && !v.ask, ReasonMode, ReasonOversized)},
			"another time":         {func(_, a []byte) []byte { return flip(octet(30, 66))(a) }, ReasonUnmatched},
			"a shorter turnaround": {func(_, a []byte) []byte { return flip(octet(11, 23))(a) }, choose("", ReasonForged)},
		} {
			if tc.want == "" {
				continue // nobody can tell without a key
			}
			t.Run(kind+": "+name, func(t *testing.T) {
				p := newPair(t, v, variant{key: v.key, ask: true})
				probe, packet := p.probe()
				honest, reflected := p.reflect(packet)
				if reflected != ReflectedAnswered {
					t.Fatal(reflected)
				}
				forged := tc.forge(bytes.Clone(packet), bytes.Clone(honest))
				if _, answered, dropped := p.receive(probe, forged); answered || dropped != tc.want {
					t.Errorf("answered %v, dropped %q; want %q", answered, dropped, tc.want)
				}
				a, answered, dropped := p.receive(probe, honest)
				if !answered || a.err != nil || dropped != "" || (a.result.Info != nil) != v.ask {
					t.Errorf("the honest answer: %+v, %v, dropped %q", a, answered, dropped)
				}
				if _, _, dropped := p.receive(probe, honest); dropped != ReasonDuplicate {
					t.Errorf("the second time: dropped %q, want %q", dropped, ReasonDuplicate)
				}
				late, packet := p.probe()
				honest, _ = p.reflect(packet)
				p.sender.giveUp(reflectorAddr, late)
				if _, _, dropped := p.receive(late, honest); dropped != ReasonLate {
					t.Errorf("after it was given up: dropped %q, want %q", dropped, ReasonLate)
				}
			})
		}
	}
}

// otherModesAnswer makes an answer of the mode that the sender does not use.
func otherModesAnswer(authenticated bool) func(probe, answer []byte) []byte {
	return func(probe, _ []byte) []byte {
		if authenticated {
			p, _ := parseAuthSender(probe)
			return ReflectorPacket{
				Sequence: 1, Timestamp: p.Timestamp, Error: p.Error, Received: p.Timestamp, SenderSequence: p.Sequence, SenderTimestamp: p.Timestamp,
			}.AppendTo(nil)
		}
		p, _ := ParseSender(probe)
		b := ReflectorPacket{
			Sequence: 1, Timestamp: p.Timestamp, Error: p.Error, Received: p.Timestamp, SenderSequence: p.Sequence, SenderTimestamp: p.Timestamp,
		}.appendAuthTo(nil)
		sealSTAMP(b, newSecret(key1))
		return b
	}
}

// TestNoOctetOfAnAuthenticatedAnswerCanBeChanged flips every bit of an answer.
func TestNoOctetOfAnAuthenticatedAnswerCanBeChanged(t *testing.T) {
	for _, ask := range []bool{false, true} {
		p := newPair(t, variant{key: key1, ask: ask}, variant{key: key1, ask: true})
		for bit := 0; ; bit++ {
			probe, packet := p.probe()
			answer, _ := p.reflect(packet)
			if bit == 8*len(answer) {
				break
			}
			answer[bit/8] ^= 1 << (bit % 8)
			a, answered, dropped := p.receive(probe, answer)
			switch {
			case bit/8 < STAMPAuthPacketLen:
				if answered || dropped == "" {
					t.Errorf("bit %d of octet %d was changed, and %+v believed", bit%8, bit/8, a)
				}
			case bit/8 == STAMPAuthPacketLen+infoTLVLen:
				// The flags of the HMAC TLV, which no HMAC covers.
			case !answered || a.err != nil || a.result.Info != nil:
				// The round trip is that of the base packet, and intact.
				t.Errorf("bit %d of octet %d was changed: %+v, %v", bit%8, bit/8, a, answered)
			}
		}
	}
}

// TestNoOctetOfAnAuthenticatedProbeCanBeChanged flips every bit of a probe.
func TestNoOctetOfAnAuthenticatedProbeCanBeChanged(t *testing.T) {
	p := newPair(t, variant{key: key1, ask: true}, variant{key: key1, ask: true})
	for bit := 0; ; bit++ {
		probe, packet := p.probe()
		if bit == 8*len(packet) {
			break
		}
		packet[bit/8] ^= 1 << (bit % 8)
		answer, reflected := p.reflect(packet)
		if bit/8 < STAMPAuthPacketLen {
			if reflected == ReflectedAnswered {
				t.Errorf("bit %d of octet %d was changed, and the probe answered", bit%8, bit/8)
			}
			continue
		}
		if reflected != ReflectedAnswered {
			t.Errorf("bit %d of octet %d was changed: %s", bit%8, bit/8, reflected)
			continue
		}
		if a, answered, _ := p.receive(probe, answer); !answered || a.err != nil {
			t.Errorf("bit %d of octet %d was changed: %+v, %v", bit%8, bit/8, a, answered)
		}
	}
}
