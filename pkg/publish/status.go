// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/serf/coordinate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/probe"
)

const (
	// maxPeers is the schema's limit of the list; the nearest are kept.
	maxPeers = 1024
	// noiseShare and noiseFloor are the hysteresis: a median that moved by no more than either of them is as it was.
	noiseShare = 0.10
	noiseFloor = 500 * time.Microsecond
	// tailNoiseShare is the same for the 95th percentile, which one probe in twenty decides.
	tailNoiseShare = 0.50
	// settledSamples is how many probes a median has to rest on before it counts as a large change that it moved.
	settledSamples = 5
	// silentLosses is how many probes have to be lost of a peer that never answered before that is said of it: it says that the pair
	// is unknown, which one lost packet does not.
	silentLosses = 3
	// coordinateNoiseShare is the same for the coordinate, of whose estimates the error is some 10 to 20 % anyway.
	coordinateNoiseShare = 0.25
)

// Status makes what a node measured into the status of its NodeLatency. A peer that was hardly probed yet, or whose answers
// were all rejected, is left out, and one that was never answered has no RTT: neither is ever a 0.
func Status(p probe.Picture) v1alpha1.NodeLatencyStatus {
	status := v1alpha1.NodeLatencyStatus{Starved: p.Starved, Coordinate: networkCoordinate(p.Coordinate)}
	var newest time.Time
	if p.Control != nil && p.Control.Samples+p.Control.Lost > 0 {
		m := measurement(*p.Control)
		status.Control = &m
		newest = p.Control.At
	}
	for _, peer := range p.Peers {
		if peer.Samples == 0 && peer.Lost < silentLosses {
			continue
		}
		status.Peers = append(status.Peers, v1alpha1.PeerLatency{Node: peer.Name, Measurement: measurement(peer.Stats)})
		if peer.At.After(newest) {
			newest = peer.At
		}
	}
	if len(status.Peers) > maxPeers {
		slices.SortStableFunc(status.Peers, func(a, b v1alpha1.PeerLatency) int { return compareRTT(a.Typical, b.Typical) })
		status.Peers = status.Peers[:maxPeers]
	}
	slices.SortFunc(status.Peers, func(a, b v1alpha1.PeerLatency) int { return cmp.Compare(a.Node, b.Node) })
	status.ObservedAt = apiTime(newest)
	if len(status.Peers) > 0 {
		status.Summary = summary(status.Peers)
	}
	return status
}

// networkCoordinate rounds a coordinate to microseconds, which is far below its error.
func networkCoordinate(c *coordinate.Coordinate) *v1alpha1.NetworkCoordinate {
	if c == nil {
		return nil
	}
	micros := func(seconds float64) int64 { return int64(math.Round(seconds * 1e6)) }
	n := &v1alpha1.NetworkCoordinate{
		VectorMicros: make([]int64, len(c.Vec)), HeightMicros: micros(c.Height), AdjustmentMicros: micros(c.Adjustment),
		ErrorPercent: int32(math.Ceil(c.Error * 100)),
	}
	for i, x := range c.Vec {
		n.VectorMicros[i] = micros(x)
	}
	return n
}

func measurement(s probe.Stats) v1alpha1.Measurement {
	m := v1alpha1.Measurement{Samples: int32(s.Samples), Lost: int32(s.Lost), At: apiTime(s.At)}
	if typical, tail, known := s.RTT(); known {
		m.Typical = &metav1.Duration{Duration: roundRTT(typical)}
		m.Tail = &metav1.Duration{Duration: roundRTT(tail)}
	}
	return m
}

// apiTime cuts a time to the seconds that the API keeps, so that it never lies in the future. The zero time has none.
func apiTime(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: time.Unix(t.Unix(), 0).UTC()}
}

// roundRTT rounds to four digits or so, which is far below the noise and keeps the object small. What is above 0 stays
// above 0.
func roundRTT(d time.Duration) time.Duration {
	unit := time.Microsecond
	switch {
	case d >= 100*time.Millisecond:
		unit = 100 * time.Microsecond
	case d >= time.Millisecond:
		unit = 10 * time.Microsecond
	}
	return max(d.Round(unit), time.Microsecond)
}

// compareRTT orders the unknown last.
func compareRTT(a, b *metav1.Duration) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	default:
		return cmp.Compare(a.Duration, b.Duration)
	}
}

func summary(peers []v1alpha1.PeerLatency) *v1alpha1.LatencySummary {
	var known []v1alpha1.PeerLatency
	var answered, lost int64
	for _, p := range peers {
		answered += int64(p.Samples)
		lost += int64(p.Lost)
		if p.Typical != nil {
			known = append(known, p)
		}
	}
	s := &v1alpha1.LatencySummary{Peers: int32(len(known)), Loss: percent(lost, answered+lost)}
	if len(known) == 0 {
		return s
	}
	slices.SortStableFunc(known, func(a, b v1alpha1.PeerLatency) int { return compareRTT(a.Typical, b.Typical) })
	name := func(p v1alpha1.PeerLatency) string { return p.Node + " " + forPeople(p.Typical.Duration) }
	s.Nearest, s.Farthest = name(known[0]), name(known[len(known)-1])
	s.Median = forPeople(known[(len(known)-1)/2].Typical.Duration)
	return s
}

// forPeople writes a duration above 0 with two or three digits.
func forPeople(d time.Duration) string {
	switch {
	case d < 100*time.Microsecond:
		return fmt.Sprintf("%dµs", max(d.Microseconds(), 1))
	case d < time.Millisecond:
		return fmt.Sprintf("%.2fms", ms(d))
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%.1fms", ms(d))
	case d < 10*time.Second:
		return fmt.Sprintf("%.0fms", ms(d))
	default:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// percent writes a share so that none reads as "0%" and little does not.
func percent(part, whole int64) string {
	share := 100 * float64(part) / float64(max(whole, 1))
	switch {
	case part == 0:
		return "0%"
	case share < 0.1:
		return "<0.1%"
	case share < 10:
		return fmt.Sprintf("%.1f%%", share)
	case part < whole && share > 99:
		return ">99%"
	default:
		return fmt.Sprintf("%.0f%%", share)
	}
}

// change is how much something differs from what was published.
type change int

const (
	unchanged change = iota // within the noise
	changedSlightly
	changedMuch
)

// changed returns how much what was measured differs from what was published. A peer that came or went is a slight change: which
// peers are measured changes by itself. One that was lost or found again is a large one, and so is a report about few of the peers,
// or without a coordinate, as a new node's first one is. Both lists of peers are sorted by name, as Status makes them.
func changed(published, measured *v1alpha1.NodeLatencyStatus) change {
	// What counts of control is starved; the figure itself goes along with what else is written.
	if published.Starved != measured.Starved || (published.Control == nil) != (measured.Control == nil) {
		return changedMuch
	}
	if published.Coordinate == nil && measured.Coordinate != nil || len(measured.Peers) > 2*len(published.Peers) {
		return changedMuch
	}
	most := coordinateChanged(published, measured)
	p, m := published.Peers, measured.Peers
	for len(p) > 0 && len(m) > 0 {
		switch cmp.Compare(p[0].Node, m[0].Node) {
		case -1:
			most, p = max(most, changedSlightly), p[1:]
		case 1:
			most, m = max(most, changedSlightly), m[1:]
		default:
			most = max(most, measurementChanged(&p[0].Measurement, &m[0].Measurement))
			p, m = p[1:], m[1:]
		}
	}
	if len(p)+len(m) > 0 {
		most = max(most, changedSlightly)
	}
	return most
}

// measurementChanged returns how much a pair changed. A large change is one of the median, or of whether there is one: tails move
// by much all the time, and so does what rests on a few probes.
func measurementChanged(published, measured *v1alpha1.Measurement) change {
	if (published.Typical == nil) != (measured.Typical == nil) {
		return changedMuch
	}
	if published.Typical == nil {
		return unchanged
	}
	was, is := published.Typical.Duration, measured.Typical.Duration
	most := unchanged
	if moved(was, is, noiseShare) {
		most = changedSlightly
		if (is >= 2*was || 2*is <= was) && published.Samples >= settledSamples {
			return changedMuch
		}
	}
	if published.Tail != nil && measured.Tail != nil && moved(published.Tail.Duration, measured.Tail.Duration, tailNoiseShare) {
		most = changedSlightly
	}
	return most
}

// moved returns whether something moved by more than the noise.
func moved(was, is time.Duration, share float64) bool {
	by := (is - was).Abs()
	return by > noiseFloor && float64(by) > share*float64(was)
}

// coordinateChanged returns whether the estimates that others make from the coordinate changed by more than the noise, measured
// at the node's median distance. Coordinates drift all the time, so this is never more than a slight change.
func coordinateChanged(published, measured *v1alpha1.NodeLatencyStatus) change {
	p, m := published.Coordinate, measured.Coordinate
	if p == nil || m == nil {
		return unchanged // one does not get lost
	}
	var square float64
	for i := range m.VectorMicros {
		if i < len(p.VectorMicros) {
			d := float64(m.VectorMicros[i] - p.VectorMicros[i])
			square += d * d
		}
	}
	by := math.Sqrt(square) + math.Abs(float64(m.HeightMicros-p.HeightMicros)) + math.Abs(float64(m.AdjustmentMicros-p.AdjustmentMicros))
	if time.Duration(by)*time.Microsecond <= noiseFloor || by <= coordinateNoiseShare*float64(medianTypical(measured.Peers).Microseconds()) {
		return unchanged
	}
	return changedSlightly
}

// medianTypical returns the median over the peers; 0 where there is none.
func medianTypical(peers []v1alpha1.PeerLatency) time.Duration {
	var known []time.Duration
	for _, p := range peers {
		if p.Typical != nil {
			known = append(known, p.Typical.Duration)
		}
	}
	if len(known) == 0 {
		return 0
	}
	slices.Sort(known)
	return known[(len(known)-1)/2]
}
