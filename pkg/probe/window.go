// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"slices"
	"time"
)

const (
	// changeRun is how many answers in a row it takes to believe that a route changed, and the least number of losses in a
	// row after which a peer is silent.
	changeRun = 3
	// changeShare and changeFloor are what a change of route has to exceed, both of them, to be above the noise.
	changeShare = 0.10
	changeFloor = 500 * time.Microsecond
	// settledSamples is how many samples the statistics need before they hold on to their value.
	settledSamples = 5
)

// Window keeps the results of the last probes of one peer, and what they say of the pair:
//
//   - A change of route shows at its third answer: then the window begins anew with these three.
//   - The reported median stays where it is while it lies in the middle half of the window. So a route that flaps between two
//     values keeps one of them.
//   - A peer that fell silent is unknown, not what it was.
//
// It is not safe for concurrent use.
type Window struct {
	ring   []time.Duration // 0 for a loss, which no sample can be
	probes int             // all that were put in so far
	first  int             // number of the first probe that counts
	silent int             // losses since the last answer
	at     time.Time
	stats  Stats

	sorted []time.Duration // for reuse
}

// NewWindow returns a window of the last size probes, size ≥ 1.
func NewWindow(size int) *Window {
	size = max(size, 1)
	return &Window{ring: make([]time.Duration, size), sorted: make([]time.Duration, 0, size)}
}

// Add takes an answered probe's RTT and the time at which it was sent. An RTT that is not above 0 and at most MaxRTT is
// refused with a *RejectedError, and changes nothing.
func (w *Window) Add(rtt time.Duration, sentAt time.Time) error {
	if err := checkRTT(rtt); err != nil {
		return err
	}
	w.put(rtt)
	w.silent = 0
	if sentAt.After(w.at) {
		w.at = sentAt
	}
	w.detectChange()
	w.update()
	return nil
}

// AddLoss takes an unanswered probe.
func (w *Window) AddLoss() {
	w.put(0)
	w.silent++
	w.update()
}

func (w *Window) put(rtt time.Duration) {
	w.ring[w.probes%len(w.ring)] = rtt
	w.probes++
	w.first = max(w.first, w.probes-len(w.ring))
}

// answers returns the sorted answers among the probes from and up to to.
func (w *Window) answers(from, to int) []time.Duration {
	w.sorted = w.sorted[:0]
	for i := from; i < to; i++ {
		if rtt := w.ring[i%len(w.ring)]; rtt > 0 {
			w.sorted = append(w.sorted, rtt)
		}
	}
	slices.Sort(w.sorted)
	return w.sorted
}

// detectChange begins anew with the last answers when all of them lie beyond what was seen before, on the same side, by more
// than the noise.
func (w *Window) detectChange() {
	low, high := MaxRTT, time.Duration(0)
	start, run := w.probes, 0
	for run < changeRun {
		if start--; start < w.first {
			return
		}
		if rtt := w.ring[start%len(w.ring)]; rtt > 0 {
			low, high = min(low, rtt), max(high, rtt)
			run++
		}
	}
	before := w.answers(w.first, start)
	if len(before) == 0 {
		return
	}
	m := median(before)
	noise := max(time.Duration(changeShare*float64(m)), changeFloor)
	if low > before[len(before)-1] && low-m > noise || high < before[0] && m-high > noise {
		w.first = start
		w.stats.Samples = 0 // nothing to hold on to
	}
}

// update computes the statistics.
func (w *Window) update() {
	before := w.stats
	sorted := w.answers(w.first, w.probes)
	s := Stats{Samples: len(sorted), Lost: w.probes - w.first - len(sorted), At: w.at}
	if s.Samples == 0 {
		w.at, s.At = time.Time{}, time.Time{}
		w.stats = s
		return
	}
	s.Silent = w.silent >= changeRun
	s.typical, s.tail = median(sorted), nearestRank(sorted, 95)
	if before.Samples >= settledSamples && s.Samples >= settledSamples {
		if nearestRank(sorted, 25) <= before.typical && before.typical <= nearestRank(sorted, 75) {
			s.typical = before.typical
		}
	}
	w.stats = s
}

// Stats returns the statistics of the window.
func (w *Window) Stats() Stats { return w.stats }

// Stats are the statistics of one pair over a Window.
type Stats struct {
	// Samples and Lost are the numbers of answered and of unanswered probes since the window's beginning or the last change
	// of route.
	Samples, Lost int
	// Silent says that the last probes were all lost: what was measured before holds no longer.
	Silent bool
	// At is when the newest answered probe was sent; zero when there is none.
	At time.Time

	typical, tail time.Duration
}

// RTT returns the median and the 95th percentile of the round trips. known is false when no probe was answered, or the last
// ones were not: then they mean nothing.
func (s Stats) RTT() (typical, tail time.Duration, known bool) {
	return s.typical, s.tail, s.Samples > 0 && !s.Silent
}

// Age returns how old the newest answered probe is, by the monotonic clock where now has it; known is false when there is none.
func (s Stats) Age(now time.Time) (age time.Duration, known bool) {
	if s.At.IsZero() {
		return 0, false
	}
	return max(now.Sub(s.At), 0), true
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
