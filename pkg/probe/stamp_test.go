// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// octets reads hexadecimal digits, of which each line may end in a comment.
func octets(t *testing.T, text string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The packets below are written by hand from the figures of RFC 8762: 4.2.1 (Session-Sender) and 4.3.1
// (Session-Reflector), both unauthenticated. Every field has a value of its own.

const senderOctets = `
	01 02 03 04              # Sequence Number
	e9 3c 4d 2f 80 00 00 01  # Timestamp: seconds since 1900, fraction
	a2 07                    # Error Estimate: S 1, Z 0, Scale 34, Multiplier 7
	00 00                    # MBZ, 30 octets
	00 00 00 00 00 00 00 00 00 00 00 00 00 00
	00 00 00 00 00 00 00 00 00 00 00 00 00 00
`

var senderPacket = SenderPacket{
	Sequence:  0x01020304,
	Timestamp: 0xe93c4d2f_80000001,
	Error:     0xa207,
}

const reflectorOctets = `
	11 12 13 14              # Sequence Number
	e9 3c 4d 30 40 00 00 02  # Timestamp (T3)
	3f 09                    # Error Estimate: S 0, Z 0, Scale 63, Multiplier 9
	00 00                    # MBZ
	e9 3c 4d 30 00 00 00 02  # Receive Timestamp (T2)
	01 02 03 04              # Session-Sender Sequence Number
	e9 3c 4d 2f 80 00 00 01  # Session-Sender Timestamp
	a2 07                    # Session-Sender Error Estimate
	00 00                    # MBZ
	3d                       # Session-Sender TTL: 61
	00 00 00                 # MBZ
`

var reflectorPacket = ReflectorPacket{
	Sequence:        0x11121314,
	Timestamp:       0xe93c4d30_40000002,
	Error:           0x3f09,
	Received:        0xe93c4d30_00000002,
	SenderSequence:  0x01020304,
	SenderTimestamp: 0xe93c4d2f_80000001,
	SenderError:     0xa207,
	SenderTTL:       61,
}

func TestSenderPacketMatchesTheRFC(t *testing.T) {
	want := octets(t, senderOctets)
	if len(want) != STAMPPacketLen {
		t.Fatalf("the test's packet has %d octets", len(want))
	}
	if diff := cmp.Diff(want, senderPacket.AppendTo(nil)); diff != "" {
		t.Errorf("encoded (-want +got):\n%s", diff)
	}
	got, err := ParseSender(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(senderPacket, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	e := got.Error
	if !e.Synchronized() || e.PTP() || e.Scale() != 34 || e.Multiplier() != 7 {
		t.Errorf("error estimate S %v Z %v scale %d multiplier %d", e.Synchronized(), e.PTP(), e.Scale(), e.Multiplier())
	}
}

func TestReflectorPacketMatchesTheRFC(t *testing.T) {
	want := octets(t, reflectorOctets)
	if len(want) != STAMPPacketLen {
		t.Fatalf("the test's packet has %d octets", len(want))
	}
	if diff := cmp.Diff(want, reflectorPacket.AppendTo(nil)); diff != "" {
		t.Errorf("encoded (-want +got):\n%s", diff)
	}
	got, err := ParseReflector(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(reflectorPacket, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	if d := got.Turnaround(); d != 250*time.Millisecond {
		t.Errorf("T3 − T2 = %v, want 250ms", d)
	}
}

func TestEveryOctetIsReadFromItsPlace(t *testing.T) {
	// Setting the octets of one field must change this field and no other; those that must be zero change nothing.
	type field struct {
		name     string
		from, to int // octets, to excluded
	}
	sender := []field{{"Sequence", 0, 4}, {"Timestamp", 4, 12}, {"Error", 12, 14}, {"Session", 14, 16}, {"", 16, 44}}
	reflector := []field{
		{"Sequence", 0, 4},
		{"Timestamp", 4, 12},
		{"Error", 12, 14},
		{"Session", 14, 16},
		{"Received", 16, 24},
		{"SenderSequence", 24, 28},
		{"SenderTimestamp", 28, 36},
		{"SenderError", 36, 38},
		{"", 38, 40},
		{"SenderTTL", 40, 41},
		{"", 41, 44},
	}
	check := func(f field, i int, before, after any) {
		t.Helper()
		b, a := reflect.ValueOf(before), reflect.ValueOf(after)
		var changed []string
		for k := range b.NumField() {
			if !b.Field(k).Equal(a.Field(k)) {
				changed = append(changed, b.Type().Field(k).Name)
			}
		}
		if got := strings.Join(changed, " "); got != f.name {
			t.Errorf("octet %d of %T changes %q, want %q", i, before, got, f.name)
		}
	}
	for _, f := range sender {
		for i := f.from; i < f.to; i++ {
			b := octets(t, senderOctets)
			b[i] ^= 0x10
			got, err := ParseSender(b)
			if err != nil {
				t.Fatal(err)
			}
			check(f, i, senderPacket, got)
		}
	}
	for _, f := range reflector {
		for i := f.from; i < f.to; i++ {
			b := octets(t, reflectorOctets)
			b[i] ^= 0x10
			got, err := ParseReflector(b)
			if err != nil {
				t.Fatal(err)
			}
			check(f, i, reflectorPacket, got)
		}
	}
}

func TestPacketsThatAreRefused(t *testing.T) {
	for n := range STAMPPacketLen {
		if _, err := ParseSender(octets(t, senderOctets)[:n]); !errors.Is(err, ErrSTAMPShort) {
			t.Errorf("sender packet of %d octets: error %v", n, err)
		}
		if _, err := ParseReflector(octets(t, reflectorOctets)[:n]); !errors.Is(err, ErrSTAMPShort) {
			t.Errorf("reflector packet of %d octets: error %v", n, err)
		}
	}
	b := octets(t, senderOctets)
	b[13] = 0
	if _, err := ParseSender(b); !errors.Is(err, ErrSTAMPCorrupt) {
		t.Errorf("sender packet with a multiplier of 0: error %v", err)
	}
	b = octets(t, reflectorOctets)
	b[13] = 0
	if _, err := ParseReflector(b); !errors.Is(err, ErrSTAMPCorrupt) {
		t.Errorf("reflector packet with a multiplier of 0: error %v", err)
	}
}

func TestNTPTime(t *testing.T) {
	for _, tc := range []struct {
		time time.Time
		want STAMPTime
	}{
		// 70 years of which 17 were leap years are 2,208,988,800 s = 0x83aa7e80.
		{time.Unix(0, 0), 0x83aa7e80_00000000},
		{time.Unix(0, 500_000_000), 0x83aa7e80_80000000},
		{time.Date(1900, 1, 1, 0, 0, 1, 250_000_000, time.UTC), 0x00000001_40000000},
		// The era ends on 7 February 2036 at 06:28:16.
		{time.Date(2036, 2, 7, 6, 28, 15, 750_000_000, time.UTC), 0xffffffff_c0000000},
		{time.Date(2036, 2, 7, 6, 28, 16, 0, time.UTC), 0},
	} {
		if got := NTPTime(tc.time); got != tc.want {
			t.Errorf("%v: %#016x, want %#016x", tc.time, uint64(got), uint64(tc.want))
		}
	}
}

func TestTimeDifferences(t *testing.T) {
	at := time.Date(2026, 11, 23, 22, 50, 41, 999_999_871, time.UTC)
	wrap := time.Date(2036, 2, 7, 6, 28, 15, 999_999_999, time.UTC)
	for _, from := range []time.Time{at, wrap} {
		for _, d := range []time.Duration{
			0, 1, 2, 3, 999, 1_000, 123_456_789, time.Second, 59*time.Second + 999_999_999, time.Hour,
			-1, -3, -time.Millisecond, -time.Hour,
		} {
			if got := NTPTime(from.Add(d)).sub(NTPTime(from), unsynchronized); got != d {
				t.Errorf("from %v: %v, want %v", from, got, d)
			}
		}
	}
	const ptp = ErrorEstimate(0x4001)
	for _, tc := range []struct {
		later, earlier STAMPTime
		want           time.Duration
	}{
		{10<<32 | 5, 9<<32 | 999_999_999, 6},
		{9<<32 | 999_999_999, 10<<32 | 5, -6},
		{0, 0xffffffff<<32 | 999_999_000, time.Microsecond},
	} {
		if got := tc.later.sub(tc.earlier, ptp); got != tc.want {
			t.Errorf("PTP %#x − %#x = %v, want %v", uint64(tc.later), uint64(tc.earlier), got, tc.want)
		}
	}
}
