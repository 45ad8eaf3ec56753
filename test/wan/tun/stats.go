// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tun

import (
	"sync/atomic"
	"time"
)

// Stats counts packets since the start.
type Stats struct {
	Forwarded uint64 `json:"forwarded"` // handed to the node to which they went

	// Dropped as was asked for.
	Lost uint64 `json:"lost"` // by a link's Loss
	Down uint64 `json:"down"` // by a link that is Down, or a partition

	// Dropped otherwise.
	Unroutable uint64 `json:"unroutable"` // for no address of another node
	Overflow   uint64 `json:"overflow"`   // too many were in flight to a node
	Overrun    uint64 `json:"overrun"`    // the kernel had no room, because the emulator did not read fast enough
	Failed     uint64 `json:"failed"`     // could not be read or written

	// How much later than due packets were handed over: the median, the 99th percentile, and the worst. 0 when there was none.
	LatenessP50 time.Duration `json:"latenessP50Nanos"`
	LatenessP99 time.Duration `json:"latenessP99Nanos"`
	LatenessMax time.Duration `json:"latenessMaxNanos"`
}

// OwnLoss returns the packets that were dropped though no link asked for it.
func (s Stats) OwnLoss() uint64 { return s.Unroutable + s.Overflow + s.Overrun + s.Failed }

// Stats returns the counts so far.
func (e *Emulator) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &e.counter
	s := Stats{
		Forwarded:   c.forwarded.Load(),
		Lost:        c.lost.Load(),
		Down:        c.down.Load(),
		Unroutable:  c.unroutable.Load(),
		Overflow:    c.overflow.Load(),
		Overrun:     c.overrun.Load(),
		Failed:      c.failed.Load(),
		LatenessP50: c.lateness.quantile(0.5),
		LatenessP99: c.lateness.quantile(0.99),
		LatenessMax: time.Duration(c.lateness.max.Load()),
	}
	for _, n := range e.nodes {
		s.Overrun += n.overrun()
	}
	return s
}

type counters struct {
	forwarded, lost, down, unroutable, overflow, failed atomic.Uint64
	overrun                                             atomic.Uint64 // of nodes that are gone
	lateness                                            histogram
}

// histogram counts durations in steps of 10 µs up to 40 ms.
type histogram struct {
	steps [4001]atomic.Uint64 // the last one is for what is longer
	max   atomic.Int64
}

const step = 10 * time.Microsecond

func (h *histogram) observe(d time.Duration) {
	h.steps[min(max(int(d/step), 0), len(h.steps)-1)].Add(1)
	for {
		old := h.max.Load()
		if int64(d) <= old || h.max.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

// quantile returns the upper end of the step in which it lies.
func (h *histogram) quantile(q float64) time.Duration {
	var total uint64
	for i := range h.steps {
		total += h.steps[i].Load()
	}
	if total == 0 {
		return 0
	}
	rank, sum := uint64(q*float64(total)), uint64(0)
	for i := range len(h.steps) - 1 {
		if sum += h.steps[i].Load(); sum > rank {
			return time.Duration(i+1) * step
		}
	}
	return time.Duration(h.max.Load())
}
