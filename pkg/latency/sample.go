// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"fmt"
	"math"
	"time"
)

// Reason says why a sample was rejected. The empty Reason means that it was not.
type Reason string

// The reasons; each is the value of the label "reason" of fogsched_store_samples_rejected_total, or of
// fogsched_store_coordinates_rejected_total.
const (
	ReasonNotPositive Reason = "not_positive" // 0 or below: how failed probes and failed queries like to look
	ReasonNaN         Reason = "nan"
	ReasonInfinite    Reason = "infinite"
	ReasonTooLarge    Reason = "too_large" // above MaxRTT
	ReasonFuture      Reason = "future"    // taken later than now, by more than MaxClockSkew
	ReasonExpired     Reason = "expired"   // older than the maximum age
	ReasonFailed      Reason = "failed"    // its own source says that the probe failed
	ReasonNoTime      Reason = "no_time"   // without a time nobody can tell its age
	ReasonSelf        Reason = "self"      // a node's distance to itself is a control value, not a distance

	// The reasons that need the other nodes' word.
	ReasonStarved         Reason = "starved"           // the node says that it was too short of CPU to measure
	ReasonLost            Reason = "lost"              // the other side lost every probe since
	ReasonFasterThanLight Reason = "faster_than_light" // below what light in fibre takes between the two positions
	ReasonImplausible     Reason = "implausible"       // others' measurements of both ends rule it out
	ReasonDistrusted      Reason = "distrusted"        // the node disagrees with most of its peers

	// ReasonInaccurate is of coordinates alone.
	ReasonInaccurate Reason = "inaccurate" // an error above what an estimate may have
)

// Reasons lists every reason, for metrics that start at 0.
func Reasons() []Reason {
	return []Reason{
		ReasonNotPositive, ReasonNaN, ReasonInfinite, ReasonTooLarge, ReasonFuture, ReasonExpired, ReasonFailed,
		ReasonNoTime, ReasonSelf, ReasonStarved, ReasonLost, ReasonFasterThanLight, ReasonImplausible, ReasonDistrusted,
	}
}

// CoordinateReasons lists every reason for which a coordinate is not used, for metrics that start at 0.
func CoordinateReasons() []Reason {
	return []Reason{
		ReasonNotPositive, ReasonNaN, ReasonInfinite, ReasonTooLarge, ReasonStarved, ReasonDistrusted, ReasonInaccurate,
	}
}

// MaxClockSkew is how far ahead of ours another node's clock may be, 1 min: small boards without a battery clock drift.
// A sample from within it counts as taken now.
const MaxClockSkew = time.Minute

// Report is what one node says at a time. It stands in the place of what it said before; the zero value withdraws that.
type Report struct {
	Samples []Sample
	// Coordinate is the node's own; nil where it has none.
	Coordinate *NetworkCoordinate
	// Starved is the node's own word that it was too short of CPU to measure: its samples leave their pairs unknown, and its
	// coordinate is not used.
	Starved bool
	// Refresh is the time within which the node reports again, however little changed; 0 where it does not say.
	Refresh time.Duration
	// MaxAge is the age above which the samples say nothing any more; 0: the store's own.
	MaxAge time.Duration
	// RankingOnly says that the samples are no RTTs, but larger where the RTT is. They stand for pairs of which nothing but coordinates
	// is known, are never held against an RTT, and no limit rests on them.
	RankingOnly bool
}

// Sample is what a source reports of the pair From → To, unchecked.
type Sample struct {
	From, To string
	// Typical is the median, Tail the 95th percentile, in seconds. NaN in Tail means that the source has no tail.
	Typical, Tail float64
	// At is when the newest measurement in it was taken, by the clock of who took it.
	At time.Time
	// Count and Lost are the answered and the unanswered probes behind the numbers; 0 where the source does not say.
	Count, Lost int32
	// Failed is the source's own word that there is no RTT, whatever the numbers are, because every recent probe was lost. It is
	// not the same as no sample: where nobody else measures the pair it is unknown, and no estimate takes its place. At is when
	// that was seen; zero stands for now.
	Failed bool
}

// Provenance says how an estimate was got. A greater value is better.
type Provenance uint8

// From worst to best.
const (
	Unknown    Provenance = iota
	Coordinate            // predicted from network coordinates
	Ranking               // measured, but no RTT: see Report.RankingOnly
	Zone                  // between two zones, not between these two nodes
	Reverse               // the other direction was measured
	Measured              // measured from the caller to the callee
	Local                 // the same node: no network between
)

var provenanceNames = [...]string{"unknown", "coordinate", "ranking", "zone", "reverse", "measured", "local"}

// String returns the provenance in lower case, as it stands in annotations and metrics.
func (p Provenance) String() string {
	if int(p) < len(provenanceNames) {
		return provenanceNames[p]
	}
	return "unknown"
}

// IsMeasured reports whether a limit may rest on an estimate of this provenance.
func (p Provenance) IsMeasured() bool { return p >= Reverse }

// Estimate is what is known of a pair of nodes. The zero value is unknown.
type Estimate struct {
	Typical, Tail RTT
	// At is when the newest measurement behind it was taken; zero for a local pair and for a table.
	At          time.Time
	Count, Lost int32
	Provenance  Provenance
	// Error is the relative error to be expected of an estimate from coordinates, above 0; 0 where that is not how it was got.
	Error float32
}

// Confidence says how an RTT was got, for people: "measured", "coordinate ±22%".
func (e Estimate) Confidence() string {
	if e.Error > 0 {
		return e.Provenance.String() + " " + FormatError(e.Error)
	}
	return e.Provenance.String()
}

// FormatError writes a relative error as people do, "±22%"; "" for none.
func FormatError(e float32) string {
	if !(e > 0) {
		return ""
	}
	return fmt.Sprintf("±%.0f%%", max(1, math.Ceil(float64(e)*100-1e-3)))
}

// RTT returns the given statistic.
func (e Estimate) RTT(s Statistic) RTT {
	if s == Tail {
		return e.Tail
	}
	return e.Typical
}

// Statistic picks one of the numbers kept of a pair.
type Statistic uint8

// Typical is the median, Tail the 95th percentile.
const (
	Typical Statistic = iota
	Tail
	numStatistics
)

// Check turns a sample into a measured estimate, or says why it is none. now is the reader's clock, maxAge the age above
// which a sample says nothing any more. A bad Tail alone does not reject the sample: its tail is unknown then. A tail
// below the median is impossible and is unknown, too.
func Check(s Sample, now time.Time, maxAge time.Duration) (Estimate, Reason) {
	if s.Failed {
		return Estimate{}, ReasonFailed
	}
	if s.From == s.To {
		return Estimate{}, ReasonSelf
	}
	typical, reason := FromSeconds(s.Typical)
	if reason != "" {
		return Estimate{}, reason
	}
	at := s.At
	switch {
	case at.IsZero():
		return Estimate{}, ReasonNoTime
	case at.After(now.Add(MaxClockSkew)):
		return Estimate{}, ReasonFuture
	case at.After(now):
		at = now
	case now.Sub(at) > maxAge:
		return Estimate{}, ReasonExpired
	}
	tail, _ := FromSeconds(s.Tail)
	if tail.us < typical.us {
		tail = RTT{}
	}
	return Estimate{Typical: typical, Tail: tail, At: at, Count: s.Count, Lost: s.Lost, Provenance: Measured}, ""
}
