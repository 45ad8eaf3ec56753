// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"math"
	"slices"
	"time"
)

const (
	// changeRun is how many answers in a row show a change of route, and the least number of losses in a row that make a peer
	// silent.
	changeRun = 3
	// noiseShare and noiseFloor are the noise: RTTs of a pair that differ by no more than either of them tell nothing.
	noiseShare = 0.10
	noiseFloor = 500 * time.Microsecond
	// changeSpread and changeSide are, in median deviations of the window, how far apart the answers of a new route may be,
	// and how far from the old median they must be. changeOld is how many of the old answers may lie among them: outliers.
	changeSpread, changeSide = 6, 3
	changeOld                = 0.10
	// flapChanges is how many changes of route a window is begun anew for within flapWindows windows, where the route returns
	// to what the window still remembers.
	flapChanges, flapWindows = 2, 2
	// settledSamples is how many samples the statistics need before they hold on to their value.
	settledSamples = 5
	// silentChance is the chance by which a run of losses is still taken for the loss that the pair always has, and usualLoss is
	// what that is while little is known.
	silentChance = 0.001
	usualLoss    = 0.09
)

// Window keeps the results of the last probes of one peer, and what they say of the pair:
//
//   - A change of route shows at its third answer: when the last three agree with one another, and with next to nothing that
//     came before, the window begins anew with them. Outliers do not agree with one another, and noise has been seen before.
//   - The reported median stays where it is while it lies in the middle half of the window. So a route that flaps between two
//     values keeps one of them. Bursts of three and more look like changes of route; the third return within two windows shows
//     what they are, and from then on both values count.
//   - A peer that lost more probes in a row than its loss explains, and three at least, is unknown until it answers: it is not
//     what it was.
//
// TestWindowFigures has the figures by simulation. It is not safe for concurrent use.
type Window struct {
	ring    []time.Duration // 0 for a loss, which no sample can be
	probes  int             // all that were put in so far
	first   int             // number of the first probe that counts
	changes [flapChanges]int
	silent  int // losses since the last answer
	at      time.Time
	stats   Stats

	sorted, scratch []time.Duration // for reuse
}

// NewWindow returns a window of the last size probes, size ≥ 1.
func NewWindow(size int) *Window {
	size = max(size, 1)
	return &Window{
		ring:    make([]time.Duration, size),
		sorted:  make([]time.Duration, 0, size),
		scratch: make([]time.Duration, 0, size),
	}
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
	w.first = max(w.first, w.oldest())
}

// oldest returns the number of the oldest probe that is remembered.
func (w *Window) oldest() int { return max(0, w.probes-len(w.ring)) }

// result returns the RTT of a remembered probe; 0 is a loss.
func (w *Window) result(probe int) time.Duration { return w.ring[probe%len(w.ring)] }

// answers returns the sorted answers among the probes from and up to to.
func (w *Window) answers(from, to int) []time.Duration {
	w.sorted = w.sorted[:0]
	for i := from; i < to; i++ {
		if rtt := w.result(i); rtt > 0 {
			w.sorted = append(w.sorted, rtt)
		}
	}
	slices.Sort(w.sorted)
	return w.sorted
}

// noise is the noise of RTTs about a level.
func noise(level time.Duration) time.Duration {
	return max(time.Duration(noiseShare*float64(level)), noiseFloor)
}

// detectChange begins anew with the last answers when they are of another route.
func (w *Window) detectChange() {
	start := w.probes
	var last [changeRun]time.Duration
	for n := 0; n < changeRun; {
		if start--; start < w.first {
			return
		}
		if rtt := w.result(start); rtt > 0 {
			last[n] = rtt
			n++
		}
	}
	slices.Sort(last[:])
	low, level, high := last[0], last[changeRun/2], last[changeRun-1]

	before := w.answers(w.first, start)
	if len(before) == 0 {
		return
	}
	m := median(before)
	deviation := w.deviation(before, m)
	if side := max(noise(m), changeSide*deviation); low-m <= side && m-high <= side {
		return
	}
	// A longer way shakes more.
	spread := time.Duration(changeSpread * float64(deviation) * max(1, float64(level)/float64(m)))
	if high-low > max(noise(level), spread) {
		return
	}
	low, high = low-noise(level)/2, high+noise(level)/2
	if w.seen(w.first, start, low, high) {
		return
	}
	if w.seen(w.oldest(), start, low, high) && w.probes-w.changes[0] <= flapWindows*len(w.ring) && w.changes[0] > 0 {
		w.first = w.oldest()
		return
	}
	copy(w.changes[:], w.changes[1:])
	w.changes[flapChanges-1] = w.probes
	w.first = start
}

// deviation returns the median distance of sorted from its median m.
func (w *Window) deviation(sorted []time.Duration, m time.Duration) time.Duration {
	w.scratch = w.scratch[:0]
	for _, rtt := range sorted {
		w.scratch = append(w.scratch, (rtt - m).Abs())
	}
	slices.Sort(w.scratch)
	return median(w.scratch)
}

// seen returns whether more than a few of the answers among the probes from and up to to lie between low and high.
func (w *Window) seen(from, to int, low, high time.Duration) bool {
	answers, between := 0, 0
	for i := from; i < to; i++ {
		rtt := w.result(i)
		if rtt > 0 {
			answers++
		}
		if rtt >= low && rtt <= high {
			between++
		}
	}
	return float64(between) > changeOld*float64(answers)
}

// isSilent returns whether the present run of losses is longer than the loss of the pair explains: that is the share of
// answers after which one was lost, before this run.
func (w *Window) isSilent() bool {
	if w.silent < changeRun {
		return false
	}
	end := w.probes - w.silent - 1 // the last answer
	answers, lost := 0, 0
	for i := w.first; i < end; i++ {
		if w.result(i) == 0 {
			continue
		}
		answers++
		if w.result(i+1) == 0 {
			lost++
		}
	}
	loss := (float64(lost) + usualLoss) / (float64(answers) + 1)
	return math.Pow(loss, float64(w.silent)) <= silentChance
}

// update computes the statistics. The typical RTT is in the middle half or the median, the tail is at the 85th percentile or above:
// it is never the smaller one.
func (w *Window) update() {
	before := w.stats
	sorted := w.answers(w.first, w.probes)
	s := Stats{Samples: len(sorted), Lost: w.probes - w.first - len(sorted), At: w.at}
	if s.Samples == 0 {
		w.at, s.At = time.Time{}, time.Time{}
		w.stats = s
		return
	}
	s.Silent = w.silent > 0 && (before.Silent || w.isSilent())
	at := func(p int) time.Duration { return nearestRank(sorted, p) }
	s.typical, s.tail = median(sorted), at(95)
	if before.Samples >= settledSamples && s.Samples >= settledSamples {
		if at(25) <= before.typical && before.typical <= at(75) {
			s.typical = before.typical
		}
		if at(85) <= before.tail && before.tail <= at(100) {
			s.tail = before.tail
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
