// SPDX-License-Identifier: Apache-2.0

// Package latency holds what is known of the round-trip times between nodes: samples, estimates, and the immutable
// snapshot that a scheduling cycle reads. It is pure: no I/O, no clock, no logging.
//
// The rule of the package is that unknown is a state of its own. An RTT that is not known is the zero value of its type,
// has no number that arithmetic could use, and comes out of every function as unknown again.
package latency

import (
	"math"
	"time"
)

// MaxRTT is the largest round-trip time that is believed, 60 s. STAMP probes time out long before; what is above came
// from a broken clock or a broken query.
const MaxRTT = 60 * time.Second

const maxMicros = float32(MaxRTT / time.Microsecond)

// RTT is the round-trip time between two nodes, or unknown. The zero value is unknown. A known RTT lies in
// (0, MaxRTT]; it is kept as float32 microseconds, which resolves 1 µs up to 16 s and 4 µs at MaxRTT.
type RTT struct {
	us float32 // 0 is unknown: no known RTT is 0
}

// FromDuration returns d as an RTT, or unknown and the reason why d is none.
func FromDuration(d time.Duration) (RTT, Reason) {
	switch {
	case d <= 0:
		return RTT{}, ReasonNotPositive
	case d > MaxRTT:
		return RTT{}, ReasonTooLarge
	}
	return RTT{us: float32(float64(d) / float64(time.Microsecond))}, ""
}

// FromSeconds returns s as an RTT, or unknown and the reason why s is none. It is for sources that report floats, which
// can be NaN, infinite, or 1e308.
func FromSeconds(s float64) (RTT, Reason) {
	switch {
	case math.IsNaN(s):
		return RTT{}, ReasonNaN
	case math.IsInf(s, 0):
		return RTT{}, ReasonInfinite
	case s <= 0:
		return RTT{}, ReasonNotPositive
	case s > MaxRTT.Seconds():
		return RTT{}, ReasonTooLarge
	}
	us := float32(s * 1e6)
	if us == 0 { // below what float32 holds
		return RTT{}, ReasonNotPositive
	}
	return RTT{us: us}, ""
}

// Known reports whether the RTT is known.
func (r RTT) Known() bool { return r.us > 0 }

// Micros returns the RTT in microseconds; ok is false where it is unknown.
func (r RTT) Micros() (us float32, ok bool) { return r.us, r.us > 0 }

// Duration returns the RTT; ok is false where it is unknown.
func (r RTT) Duration() (d time.Duration, ok bool) {
	return time.Duration(float64(r.us) * float64(time.Microsecond)), r.us > 0
}

// String returns the RTT as people write it, "12.3ms", or "unknown".
func (r RTT) String() string {
	d, ok := r.Duration()
	if !ok {
		return "unknown"
	}
	return Format(d)
}

// Format rounds a round-trip time to the three digits that a person can use: "84µs", "3.12ms", "12.3ms", "1.2s".
func Format(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	default:
		return d.Round(100 * time.Millisecond).String()
	}
}
