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

// MaxRTT is the longest round trip that is believed.
const MaxRTT = 60 * time.Second

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
	// ReasonNotPositive: the reflector says that it took as long as the whole round trip, or longer.
	ReasonNotPositive Reason = "not_positive"
	// ReasonTooLong: above MaxRTT.
	ReasonTooLong Reason = "too_long"
)

// Reasons returns all reasons.
func Reasons() []Reason {
	return []Reason{
		ReasonShort, ReasonCorrupt, ReasonSource, ReasonUnmatched, ReasonDuplicate, ReasonLate, ReasonReflectorClock,
		ReasonNotPositive, ReasonTooLong,
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
