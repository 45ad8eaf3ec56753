// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/probe"
)

const (
	// maxPeers is the schema's limit of the list; the nearest are kept.
	maxPeers = 1024
	// noiseShare and noiseFloor are the hysteresis: a statistic that moved by no more than either of them is as it was.
	noiseShare = 0.10
	noiseFloor = 500 * time.Microsecond
)

// Status makes what a node measured into the status of its NodeLatency. A peer that was never probed, or whose answers
// were all rejected, is left out, and one that was never answered has no RTT: neither is ever a 0.
func Status(p probe.Picture) v1alpha1.NodeLatencyStatus {
	var status v1alpha1.NodeLatencyStatus
	var newest time.Time
	if p.Control != nil && p.Control.Samples+p.Control.Lost > 0 {
		m := measurement(*p.Control)
		status.Control = &m
		newest = p.Control.At
	}
	for _, peer := range p.Peers {
		if peer.Samples+peer.Lost == 0 {
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

// changed returns whether what was measured differs by more than the noise from what was published. Both lists of peers
// are sorted by name, as Status makes them.
func changed(published, measured *v1alpha1.NodeLatencyStatus) bool {
	if measurementChanged(published.Control, measured.Control) || len(published.Peers) != len(measured.Peers) {
		return true
	}
	for i := range measured.Peers {
		p, m := &published.Peers[i], &measured.Peers[i]
		if p.Node != m.Node || measurementChanged(&p.Measurement, &m.Measurement) {
			return true
		}
	}
	return false
}

func measurementChanged(published, measured *v1alpha1.Measurement) bool {
	if published == nil || measured == nil {
		return published != measured
	}
	return moved(published.Typical, measured.Typical) || moved(published.Tail, measured.Tail)
}

func moved(published, measured *metav1.Duration) bool {
	if published == nil || measured == nil {
		return published != measured
	}
	by := (measured.Duration - published.Duration).Abs()
	return by > noiseFloor && float64(by) > noiseShare*float64(published.Duration)
}
