// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"slices"
	"time"
)

// Window keeps the results of the last probes of one peer. It is not safe for concurrent use.
type Window struct {
	ring []windowEntry
	next int
	full bool
}

type windowEntry struct {
	rtt    time.Duration // 0 for a loss, which no sample can be
	sentAt time.Time
}

// NewWindow returns a window of the last size probes, size ≥ 1.
func NewWindow(size int) *Window { return &Window{ring: make([]windowEntry, max(size, 1))} }

// Add takes an answered probe's RTT and the time at which it was sent. An RTT that is not above 0 and at most MaxRTT is
// refused with a *RejectedError, and changes nothing.
func (w *Window) Add(rtt time.Duration, sentAt time.Time) error {
	if err := checkRTT(rtt); err != nil {
		return err
	}
	w.put(windowEntry{rtt: rtt, sentAt: sentAt})
	return nil
}

// AddLoss takes an unanswered probe.
func (w *Window) AddLoss() { w.put(windowEntry{}) }

func (w *Window) put(e windowEntry) {
	w.ring[w.next] = e
	w.next++
	if w.next == len(w.ring) {
		w.next, w.full = 0, true
	}
}

// Stats returns the statistics of the window.
func (w *Window) Stats() Stats {
	entries := w.ring
	if !w.full {
		entries = w.ring[:w.next]
	}
	var s Stats
	rtts := make([]time.Duration, 0, len(entries))
	for _, e := range entries {
		if e.rtt == 0 {
			s.Lost++
			continue
		}
		rtts = append(rtts, e.rtt)
		if e.sentAt.After(s.At) {
			s.At = e.sentAt
		}
	}
	s.Samples = len(rtts)
	if s.Samples > 0 {
		slices.Sort(rtts)
		s.typical, s.tail = median(rtts), nearestRank(rtts, 95)
	}
	return s
}

// Stats are the statistics of one pair over a Window.
type Stats struct {
	// Samples and Lost are the numbers of answered and of unanswered probes.
	Samples, Lost int
	// At is when the newest answered probe was sent; zero when there is none.
	At time.Time

	typical, tail time.Duration
}

// RTT returns the median and the 95th percentile of the round trips. known is false when no probe was answered: then they
// mean nothing.
func (s Stats) RTT() (typical, tail time.Duration, known bool) {
	return s.typical, s.tail, s.Samples > 0
}

// median returns the middle of sorted, or the mean of the two in the middle: within [min, max].
func median(sorted []time.Duration) time.Duration {
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return sorted[n/2-1] + (sorted[n/2]-sorted[n/2-1])/2
}

// nearestRank returns the smallest element of sorted that at least p percent of all are not above, 0 < p ≤ 100.
func nearestRank(sorted []time.Duration, p int) time.Duration {
	return sorted[(len(sorted)*p+99)/100-1]
}
