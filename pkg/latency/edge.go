// SPDX-License-Identifier: Apache-2.0

package latency

import "time"

// Edge is what one node says of its distance to another, in the compact form of which a snapshot of 15,000 nodes holds 400,000:
// 24 bytes. It is one of
//   - a measurement: its typical RTT is known;
//   - a block: the pair was looked at and is unknown, because its probes were lost, its node was starved, or it was not believed.
//     Nothing but the other side's measurement may take its place;
//   - nothing, the zero value.
type Edge struct {
	// To is the number of the node at the other end.
	To int32

	typical, tail RTT
	count, lost   uint16
	at            int64 // Unix milliseconds; 0: nothing
}

// NewEdge returns a measurement, or nothing where the estimate has no typical RTT.
func NewEdge(to int32, e Estimate) Edge {
	if !e.Typical.Known() {
		return Edge{To: to}
	}
	return Edge{To: to, typical: e.Typical, tail: e.Tail, count: clamp16(e.Count), lost: clamp16(e.Lost), at: stamp(e.At)}
}

// Lost returns a block for want of answers: at is when the probes were lost.
func Lost(to int32, at time.Time, lost int32) Edge {
	return Edge{To: to, lost: max(1, clamp16(lost)), at: stamp(at)}
}

// Blocked returns a block for any other reason.
func Blocked(to int32, at time.Time) Edge { return Edge{To: to, at: stamp(at)} }

// Measured reports whether the edge is a measurement.
func (e *Edge) Measured() bool { return e.typical.Known() }

// At is when the newest of what is behind it was taken.
func (e *Edge) At() time.Time { return time.UnixMilli(e.at) }

// Typical is the median RTT.
func (e *Edge) Typical() RTT { return e.typical }

// Tail is the 95th percentile of the RTT.
func (e *Edge) Tail() RTT { return e.tail }

func (e *Edge) isLost() bool { return !e.Measured() && e.lost > 0 }

// blocked returns the block that stands for an edge that is not believed.
func (e *Edge) blocked() Edge { return Edge{To: e.To, at: e.at} }

func (e *Edge) nothing() bool { return e.at == 0 }

func clamp16(n int32) uint16 { return uint16(max(0, min(n, 1<<16-1))) }

func stamp(t time.Time) int64 {
	if ms := t.UnixMilli(); ms != 0 {
		return ms
	}
	return 1
}

// The noise of a measurement: two RTTs that differ by less than one of these are the same. In a network that is noisier than that,
// Judge finds a larger ratio.
const (
	noise      = float32(500) // µs
	noiseRatio = float32(1.1)
)

// disagree reports whether two known RTTs differ by more than the noise, of which ratio is one measure.
func disagree(a, b RTT, ratio float32) bool {
	lo, hi := min(a.us, b.us), max(a.us, b.us)
	return hi-lo > noise && hi > lo*ratio
}

// merge returns what is believed of a pair of nodes from what its ends say, either of which may be nil or nothing. Each statistic is
// the caller's own, or the worse one where they disagree by more than the noise, of which ratio is one measure: a node that
// understates its distances changes nothing. ok is false where neither says anything; where both are blocked, the estimate is
// unknown and ok is true.
func merge(caller, callee *Edge, ratio float32) (e Estimate, ok bool) {
	own, other := caller != nil && caller.Measured(), callee != nil && callee.Measured()
	from, rest, p := caller, callee, Measured
	switch {
	case own && other:
		if callee.typical.us > caller.typical.us && disagree(caller.typical, callee.typical, ratio) {
			from, rest, p = callee, caller, Reverse
		}
	case own:
		rest = nil
	case other:
		from, rest, p = callee, nil, Reverse
	default:
		return Estimate{}, caller != nil && !caller.nothing() || callee != nil && !callee.nothing()
	}
	e.Tail = from.tail
	if rest != nil && (!e.Tail.Known() || rest.tail.us > e.Tail.us && disagree(e.Tail, rest.tail, ratio)) {
		e.Tail = rest.tail
	}
	e.Typical, e.At, e.Count, e.Lost, e.Provenance = from.typical, from.At(), int32(from.count), int32(from.lost), p
	if e.Tail.us < e.Typical.us { // a tail below the median is impossible
		e.Tail = RTT{}
	}
	return e, true
}
