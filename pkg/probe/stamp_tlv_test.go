// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tlv makes one TLV.
func tlv(flags, kind byte, value ...byte) []byte {
	return append([]byte{flags, kind, byte(len(value) >> 8), byte(len(value))}, value...)
}

func join(rows ...[]byte) []byte { return bytes.Join(rows, nil) }

// flags returns the flags of all TLVs, and what remains of them without.
func flags(row []byte) (flags, rest []byte) {
	rest = bytes.Clone(row)
	for t := tlvs(rest); len(t) > 0; {
		first, next, _ := t.next()
		flags = append(flags, first[0])
		first[0] = 0
		t = next
	}
	return flags, rest
}

func TestTheReflectorsFlags(t *testing.T) {
	const (
		u = tlvUnrecognized
		m = tlvMalformed
		i = tlvIntegrity
	)
	var (
		ask      = tlv(u, tlvInfo, make([]byte, infoLen)...)
		padding  = tlv(u, tlvPadding, 1, 2, 3, 4)
		location = tlv(u, 2, 0, 1, 2, 3)
		mac      = tlv(u, tlvHMAC, make([]byte, macLen)...) // sealed where it says so
		beyond   = []byte{u, 2, 0, 9, 1, 2, 3, 4}
	)
	changed := bytes.Clone(ask)
	changed[20] = 1
	for name, tc := range map[string]struct {
		row    []byte
		auth   bool
		seal   bool // the HMAC TLV at the end of its text is right
		silent bool // the reflector has nothing to say
		want   []byte
		filled bool // the first TLV of ours was filled in
	}{
		"nothing":                             {},
		"unknown":                             {row: location, want: []byte{u}},
		"unknown, and the sender set no flag": {row: tlv(0, 2, 1, 2, 3, 4), want: []byte{u}},
		"reserved flags":                      {row: tlv(0x1f|u, 2, 1, 2, 3, 4), want: []byte{u}},
		"flags that only a reflector sets":    {row: tlv(m|i, 2, 1, 2, 3, 4), want: []byte{u}},
		"type 0, of no length":                {row: tlv(0, 0), want: []byte{u}},
		"padding":                             {row: padding, want: []byte{0}},
		"padding of no length":                {row: tlv(u, tlvPadding), want: []byte{0}},
		"ours":                                {row: ask, want: []byte{0}, filled: true},
		"ours, with nothing to say":           {row: ask, silent: true, want: []byte{u}},
		"ours, after others":                  {row: join(location, padding, ask), want: []byte{u, 0, 0}, filled: true},
		"ours, twice":                         {row: join(ask, ask), want: []byte{0, u}, filled: true},
		"ours, of no length":                  {row: tlv(u, tlvInfo), want: []byte{u}},
		"another's of our type":               {row: tlv(u, tlvInfo, 1, 2, 3, 4), want: []byte{u}},
		"another's of our type and length":    {row: changed, want: []byte{u}},
		"one that goes beyond the packet":     {row: beyond, want: []byte{u | m}},
		"ours goes beyond the packet":         {row: ask[:len(ask)-1], want: []byte{u | m}},
		"padding goes beyond the packet":      {row: []byte{u, tlvPadding, 0xff, 0xff}, want: []byte{m}},
		"ours, and one beyond the packet":     {row: join(ask, beyond), want: []byte{0, u | m}, filled: true},
		"half a header":                       {row: []byte{u, tlvInfo}, want: []byte{u | m}},
		"half a header of padding":            {row: []byte{u, tlvPadding, 0}, want: []byte{u | m}},
		"an HMAC, and no key":                 {row: join(ask, mac), want: []byte{u | i, u | i}},

		"ours and its HMAC":                    {auth: true, seal: true, row: join(ask, mac), want: []byte{0, 0}, filled: true},
		"ours with nothing to say":             {auth: true, seal: true, silent: true, row: join(ask, mac), want: []byte{u, 0}},
		"unknown and its HMAC":                 {auth: true, seal: true, row: join(location, mac), want: []byte{u, 0}},
		"an HMAC of nothing":                   {auth: true, seal: true, row: mac, want: []byte{0}},
		"padding behind the HMAC":              {auth: true, seal: true, row: join(ask, mac, padding), want: []byte{0, 0, 0}, filled: true},
		"padding before the HMAC":              {auth: true, seal: true, row: join(padding, ask, mac), want: []byte{0, 0, 0}, filled: true},
		"padding needs none":                   {auth: true, row: padding, want: []byte{0}},
		"twice padding needs one":              {auth: true, row: join(padding, padding), want: []byte{i, i}},
		"ours without one":                     {auth: true, row: ask, want: []byte{u | i}},
		"ours and padding without one":         {auth: true, row: join(padding, ask), want: []byte{i, u | i}},
		"a wrong HMAC":                         {auth: true, row: join(ask, mac), want: []byte{u | i, i}},
		"an HMAC that is short":                {auth: true, row: join(ask, tlv(u, tlvHMAC, 1, 2, 3)), want: []byte{u | i, i | m}},
		"an HMAC that goes beyond the packet":  {auth: true, row: join(ask, mac[:len(mac)-1]), want: []byte{u | i, i | m}},
		"the HMAC is before ours":              {auth: true, seal: true, row: join(mac, ask), want: []byte{i, u | i}},
		"two HMACs":                            {auth: true, seal: true, row: join(ask, mac, mac), want: []byte{u | i, i, i}},
		"behind the HMAC, beyond the packet":   {auth: true, seal: true, row: join(ask, mac, beyond), want: []byte{u | i, i, u | i | m}},
		"malformed padding behind the HMAC":    {auth: true, seal: true, row: join(ask, mac, padding[:5]), want: []byte{u | i, i, i | m}},
		"before the HMAC, another's, its mark": {auth: true, seal: true, row: join(tlv(u, 253), ask, mac), want: []byte{u, 0, 0}, filled: true},
	} {
		t.Run(name, func(t *testing.T) {
			var key *secret
			if tc.auth {
				key = newSecret(key1)
			}
			info := somewhere
			if tc.silent {
				info = nil
			}
			sent, answered := []byte{1, 2, 3, 4}, []byte{5, 6, 7, 8} // a stateful reflector's
			row := bytes.Clone(tc.row)
			if tc.seal {
				for t := tlvs(row); len(t) > 0; {
					first, rest, _ := t.next()
					if first.kind() == tlvHMAC {
						key.sign(first[tlvHeaderLen:], sent, row[:len(row)-len(t)])
						break
					}
					t = rest
				}
			}
			_, wantRest := flags(row)
			tlvs(row).reflect(key, sent, answered, info)
			gotFlags, rest := flags(row)
			if diff := cmp.Diff(tc.want, gotFlags); diff != "" {
				t.Errorf("flags (-want +got):\n%s", diff)
			}
			if len(row) != len(tc.row) {
				t.Fatalf("%d octets became %d", len(tc.row), len(row))
			}
			// Of the values only two may have changed.
			if tc.filled {
				at := bytes.Index(wantRest, join([]byte{0}, ask[1:]))
				somewhere().put(wantRest[at+tlvHeaderLen:])
			}
			if text, got, _, _ := tlvs(row).protected(); tc.seal && got != nil && !bytes.Contains(gotFlags, []byte{u | i}) {
				if !key.verifies(got, answered, text) {
					t.Error("the answer's HMAC is wrong")
				}
				at := len(text) + tlvHeaderLen
				copy(wantRest[at:at+macLen], got)
			}
			if diff := cmp.Diff(wantRest, rest); diff != "" {
				t.Errorf("octets without flags (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheSenderReadsWhatItMay(t *testing.T) {
	var (
		info      = somewhere()
		said      = tlv(0, tlvInfo, make([]byte, infoLen)...)
		untouched = tlv(tlvUnrecognized, tlvInfo, make([]byte, infoLen)...)
		padding   = tlv(0, tlvPadding, 1, 2, 3, 4)
	)
	info.put(said[tlvHeaderLen:])
	edit := func(at int, octet byte) []byte {
		b := bytes.Clone(said)
		b[at] = octet
		return b
	}
	noCoordinate := Info{Near: info.Near}
	for name, tc := range map[string]struct {
		row     []byte
		auth    bool
		seal    bool
		want    *Info
		wantErr error
	}{
		"nothing":                    {},
		"what it said":               {row: said, want: &info},
		"behind padding":             {row: join(padding, said), want: &info},
		"it knew nothing":            {row: untouched},
		"it knew nothing of padding": {row: join(tlv(tlvUnrecognized, tlvPadding, 1), untouched)},
		"it found it malformed":      {row: edit(0, tlvMalformed), wantErr: errInfo},
		"it found it not intact":     {row: edit(0, tlvIntegrity|tlvUnrecognized), wantErr: errInfo},
		"another version":            {row: edit(tlvHeaderLen, 2), wantErr: errInfo},
		"no version":                 {row: tlv(0, tlvInfo, make([]byte, infoLen)...), wantErr: errInfo},
		"flags that we do not know":  {row: edit(tlvHeaderLen+1, 3), wantErr: errInfo},
		"no coordinate":              {row: noCoordinateRow(said), want: &noCoordinate},
		"an impossible coordinate":   {row: edit(tlvHeaderLen+36, 0xff), want: &noCoordinate, wantErr: errCoordinate},
		"too short":                  {row: tlv(0, tlvInfo, 1, 0, 0, 0), wantErr: errInfo},
		"beyond the packet":          {row: said[:len(said)-1], wantErr: errInfo},
		"with an HMAC, and no key":   {row: join(said, tlv(0, tlvHMAC, make([]byte, macLen)...)), wantErr: errInfo},

		"with its HMAC":                      {auth: true, seal: true, row: said, want: &info},
		"without an HMAC":                    {auth: true, row: said, wantErr: errInfo},
		"with a wrong HMAC":                  {auth: true, row: join(said, tlv(0, tlvHMAC, make([]byte, macLen)...)), wantErr: errInfo},
		"with a short HMAC":                  {auth: true, row: join(said, tlv(0, tlvHMAC)), wantErr: errInfo},
		"it knew nothing, and copied all":    {auth: true, row: join(untouched, tlv(tlvUnrecognized, tlvHMAC, make([]byte, macLen)...))},
		"it knew nothing, and answered less": {auth: true},
	} {
		t.Run(name, func(t *testing.T) {
			sequence := []byte{1, 2, 3, 4}
			var key *secret
			row := bytes.Clone(tc.row)
			if tc.auth {
				key = newSecret(key1)
				if tc.seal {
					row = appendHMAC(row, 0, key, sequence)
				}
			}
			got, err := tlvs(row).info(key, sequence)
			if !errors.Is(err, tc.wantErr) || (err == nil) != (tc.wantErr == nil) {
				t.Errorf("error %v, want %v", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("information (-want +got):\n%s", diff)
			}
		})
	}
}

func noCoordinateRow(said []byte) []byte {
	b := bytes.Clone(said)
	b[tlvHeaderLen+1] = 0
	return b
}

// TestForeignReflectors has reflectors that know less than ours answer our probes: the round trip is good.
func TestForeignReflectors(t *testing.T) {
	for kind, v := range variants {
		for name, tlvsOf := range map[string]func([]byte) []byte{
			"copies what it does not know":          func(b []byte) []byte { return b },
			"answers with a base packet":            func([]byte) []byte { return nil },
			"answers with a part of what there was": func(b []byte) []byte { return b[:len(b)/2] },
		} {
			t.Run(kind+": "+name, func(t *testing.T) {
				p := newPair(t, v, variant{key: v.key})
				probe, packet := p.probe()
				base := p.sender.baseLen()
				answer, reflected := p.reflect(packet)
				if reflected != ReflectedAnswered {
					t.Fatal(reflected)
				}
				answer = append(answer[:base:base], tlvsOf(packet[base:])...)
				a, answered, dropped := p.receive(probe, answer)
				if !answered || a.err != nil || a.result.RTT <= 0 || a.result.Info != nil {
					t.Errorf("%+v, dropped %q; want a round trip without information", a, dropped)
				}
			})
		}
	}
}

// TestForgedInformation is about what a reflector can say of itself where there is no key.
func TestForgedInformation(t *testing.T) {
	p := newPair(t, variant{ask: true}, variant{ask: true})
	probe, packet := p.probe()
	answer, _ := p.reflect(packet)
	binary.BigEndian.PutUint32(answer[STAMPPacketLen+tlvHeaderLen+4:], 0x7fc00000) // NaN
	a, answered, dropped := p.receive(probe, answer)
	if !answered || a.err != nil || a.result.RTT <= 0 || dropped != ReasonInfo {
		t.Errorf("%+v, %q; want a round trip, and the information counted", a, dropped)
	}
	want := &Info{Near: somewhere().Near}
	if diff := cmp.Diff(want, a.result.Info); diff != "" {
		t.Errorf("information (-want +got):\n%s", diff)
	}
}

func TestManyTLVs(t *testing.T) {
	for kind, v := range variants {
		p := newPair(t, v, variant{key: v.key, ask: true})
		_, packet := p.probe()
		packet = append(packet, make([]byte, maxSTAMPPacket-len(packet))...)
		answer, result := p.reflect(packet)
		if result != ReflectedAnswered || len(answer) != len(packet) {
			t.Errorf("%s: %s, %d octets for %d", kind, result, len(answer), len(packet))
		}
	}
}
