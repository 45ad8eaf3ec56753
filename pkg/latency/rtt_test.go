// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"math"
	"testing"
	"time"
)

func TestFromSeconds(t *testing.T) {
	tests := map[string]struct {
		in         float64
		wantReason Reason
		wantMicros float32
	}{
		"20 ms":                                  {in: 0.020, wantMicros: 20_000},
		"one microsecond":                        {in: 1e-6, wantMicros: 1},
		"exactly the largest":                    {in: 60, wantMicros: 60e6},
		"zero, how a failed query likes to look": {in: 0, wantReason: ReasonNotPositive},
		"negative zero":                          {in: math.Copysign(0, -1), wantReason: ReasonNotPositive},
		"minus one, how others say lost":         {in: -1, wantReason: ReasonNotPositive},
		"not a number":                           {in: math.NaN(), wantReason: ReasonNaN},
		"plus infinity":                          {in: math.Inf(1), wantReason: ReasonInfinite},
		"minus infinity":                         {in: math.Inf(-1), wantReason: ReasonInfinite},
		"1e308, which overflows float32":         {in: 1e308, wantReason: ReasonTooLarge},
		"just above the largest":                 {in: math.Nextafter(60, 61), wantReason: ReasonTooLarge},
		"61 s":                                   {in: 61, wantReason: ReasonTooLarge},
		"1e-320, which underflows float32":       {in: 1e-320, wantReason: ReasonNotPositive},
		"the smallest float64":                   {in: math.SmallestNonzeroFloat64, wantReason: ReasonNotPositive},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, reason := FromSeconds(tt.in)
			if reason != tt.wantReason {
				t.Errorf("FromSeconds(%g) reason = %q, want %q", tt.in, reason, tt.wantReason)
			}
			checkRTT(t, got, tt.wantMicros)
		})
	}
}

func TestFromDuration(t *testing.T) {
	tests := map[string]struct {
		in         time.Duration
		wantReason Reason
		wantMicros float32
	}{
		"20 ms":                    {in: 20 * time.Millisecond, wantMicros: 20_000},
		"one nanosecond":           {in: 1, wantMicros: 0.001},
		"exactly the largest":      {in: MaxRTT, wantMicros: 60e6},
		"zero":                     {in: 0, wantReason: ReasonNotPositive},
		"negative":                 {in: -time.Millisecond, wantReason: ReasonNotPositive},
		"the least duration":       {in: math.MinInt64, wantReason: ReasonNotPositive},
		"a nanosecond too long":    {in: MaxRTT + 1, wantReason: ReasonTooLarge},
		"the longest of durations": {in: math.MaxInt64, wantReason: ReasonTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, reason := FromDuration(tt.in)
			if reason != tt.wantReason {
				t.Errorf("FromDuration(%d) reason = %q, want %q", tt.in, reason, tt.wantReason)
			}
			checkRTT(t, got, tt.wantMicros)
		})
	}
}

// checkRTT wants an RTT of so many microseconds, or, for 0, one that is unknown in every respect.
func checkRTT(t *testing.T, got RTT, wantMicros float32) {
	t.Helper()
	us, ok := got.Micros()
	d, okD := got.Duration()
	if want := wantMicros > 0; ok != want || okD != want || got.Known() != want {
		t.Errorf("known: Micros says %t, Duration %t, Known %t, want %t", ok, okD, got.Known(), want)
	}
	if us != wantMicros {
		t.Errorf("Micros() = %g, want %g", us, wantMicros)
	}
	if wantMicros == 0 {
		if got != (RTT{}) || d != 0 || got.String() != "unknown" {
			t.Errorf("unknown shows as %#v, %s, %q", got, d, got)
		}
		return
	}
	if want := float64(wantMicros) * 1000; math.Abs(float64(d)-want) > want*1e-6+1 {
		t.Errorf("Duration() = %s, want %g ns", d, want)
	}
}

func TestFormat(t *testing.T) {
	tests := map[time.Duration]string{
		84_321 * time.Nanosecond:     "84µs",
		3_123_456 * time.Nanosecond:  "3.12ms",
		12_345 * time.Microsecond:    "12.3ms",
		1_234 * time.Millisecond:     "1.2s",
		999_600 * time.Nanosecond:    "1ms",
		60 * time.Second:             "1m0s",
		20 * time.Millisecond:        "20ms",
		123_456 * time.Microsecond:   "123.5ms",
		999_960 * time.Microsecond:   "1s",
		9_996_000 * time.Nanosecond:  "10ms",
		50 * time.Microsecond:        "50µs",
		400 * time.Nanosecond:        "0s", // nobody needs less
		-1 * time.Millisecond:        "-1ms",
		1_000_400 * time.Nanosecond:  "1ms",
		10_000_000 * time.Nanosecond: "10ms",
	}
	for in, want := range tests {
		if got := Format(in); got != want {
			t.Errorf("Format(%d) = %q, want %q", in, got, want)
		}
	}
}
