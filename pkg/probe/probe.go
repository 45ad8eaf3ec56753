// SPDX-License-Identifier: Apache-2.0

// Package probe measures round-trip times between nodes.
//
// A probe is one function (Prober), a file a protocol. Loop probes a changing set of peers with it, spread evenly over an
// interval, and keeps a Window of results of each. A failure is never a number: a probe without an answer is a loss, an
// answer that cannot be believed is rejected and counted by its reason, and statistics without a sample do not exist.
package probe

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

const (
	// MaxRTT is the longest round trip that is believed.
	MaxRTT = 60 * time.Second
	// MaxTurnaround is the longest time that a reflector may say it took. That time is subtracted from what was measured,
	// so it is a way to look near: a reflector that lies, or whose clock was set while it answered, gains at most this
	// much. One that honestly took longer is short of CPU, and then what it says of its own time is not worth more.
	MaxTurnaround = 5 * time.Millisecond
)

// ErrLost says that a probe was not answered. It is a loss, and no latency.
var ErrLost = errors.New("probe lost")

// Prober sends one probe and waits for its answer, until ctx ends. The error is
//   - ErrLost (wrapped) when no answer came before the deadline of ctx, or the probe could not be sent;
//   - a *RejectedError when an answer came that cannot be believed;
//   - the error of ctx when ctx was cancelled: then nothing is known.
//
// It is safe for concurrent use.
type Prober func(ctx context.Context, target netip.AddrPort) (Result, error)

// Result is an answered probe.
type Result struct {
	// RTT is the round trip without the time that the reflector took: above 0, at most MaxRTT.
	RTT time.Duration
	// SentAt is when the probe was sent, by this node's clock.
	SentAt time.Time
	// Turnaround is the time that the reflector took, by its own clock; 0 where the protocol does not tell.
	Turnaround time.Duration
	// Elapsed is the time from just before the probe was sent to when this process read the answer. Nothing is
	// subtracted, so it shows what the RTT hides: how long processes waited for CPU on both sides.
	Elapsed time.Duration
	// Waited is the part of Elapsed that the answer lay in this machine before this process read it; 0 where the kernel
	// does not tell.
	Waited time.Duration
	// Info is what the reflector says of itself; nil when it says nothing, or was not asked.
	Info *Info
	// TTL is the TTL (IPv6: hop limit) with which the probe reached the reflector, by its account; 255 where it does
	// not know.
	TTL uint8
}

// Reason is why an answer was rejected: the value of a metric's label.
type Reason string

// The reasons.
const (
	// ReasonShort: fewer octets than the protocol's smallest packet.
	ReasonShort Reason = "short"
	// ReasonCorrupt: a field has a value that the protocol forbids.
	ReasonCorrupt Reason = "corrupt"
	// ReasonSource: from an address and port to which no probe was sent.
	ReasonSource Reason = "source"
	// ReasonUnmatched: its sequence number and timestamp are of no probe.
	ReasonUnmatched Reason = "unmatched"
	// ReasonDuplicate: the probe was answered already.
	ReasonDuplicate Reason = "duplicate"
	// ReasonLate: the probe was given up already.
	ReasonLate Reason = "late"
	// ReasonReflectorClock: the reflector says that it answered before it received.
	ReasonReflectorClock Reason = "reflector_clock"
	// ReasonReflectorSlow: the reflector says that it took longer than MaxTurnaround.
	ReasonReflectorSlow Reason = "reflector_slow"
	// ReasonNotPositive: the reflector says that it took as long as the whole round trip, or longer.
	ReasonNotPositive Reason = "not_positive"
	// ReasonTooLong: above MaxRTT.
	ReasonTooLong Reason = "too_long"
	// ReasonOversized: more octets than the probe had.
	ReasonOversized Reason = "oversized"
	// ReasonMode: authenticated where it should not be, or the other way round.
	ReasonMode Reason = "mode"
	// ReasonForged: not made by one who has the key.
	ReasonForged Reason = "forged"
	// ReasonInfo: what the reflector says of itself was forged, malformed or impossible. Only that is dropped: the round
	// trip counts.
	ReasonInfo Reason = "info"
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{
		ReasonShort, ReasonCorrupt, ReasonSource, ReasonUnmatched, ReasonDuplicate, ReasonLate, ReasonReflectorClock,
		ReasonReflectorSlow, ReasonNotPositive, ReasonTooLong, ReasonOversized, ReasonMode, ReasonForged, ReasonInfo,
	}
}

// RejectedError is an answer that cannot be believed.
type RejectedError struct{ Reason Reason }

func (e *RejectedError) Error() string { return "answer rejected: " + string(e.Reason) }

// checkRTT is the door through which every sample comes.
func checkRTT(rtt time.Duration) error {
	switch {
	case rtt <= 0:
		return &RejectedError{ReasonNotPositive}
	case rtt > MaxRTT:
		return &RejectedError{ReasonTooLong}
	default:
		return nil
	}
}
