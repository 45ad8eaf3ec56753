// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"time"

	"github.com/fogsched/fogsched/pkg/latency"
)

// Verdict is what a limit says of a node.
type Verdict uint8

// The verdicts.
const (
	Kept Verdict = iota
	Exceeded
	Unmeasured // no measurement decides it
)

// Limit is a round-trip time that must not be exceeded. It rests on measurements only: an estimate from zones or
// coordinates counts as unmeasured.
//
//	client entry, Any:      the largest RTT to a server is within the limit
//	client entry, Nearest:  the smallest one is
//	replica entry, Any:     the largest RTT from a client is
//	replica entry, Nearest: the node is within the limit of a client that no peer covers yet, or all are covered
//
// A client that is measured, and within the limit of no node but its own, is left out of the last one, unless that goes for all
// of them: else it could keep every further replica from being placed. Its own node still has the lowest cost.
type Limit struct {
	micros  float32
	targets []Target
	all     bool // every row must be within, not just one
	// hopeless are the rows of clients that count only where they are unmeasured.
	hopeless []*latency.Row
}

// NewClientLimit is the limit of a pod that calls servers. It keeps the slice.
func NewClientLimit(limit time.Duration, routing Routing, servers []Target) Limit {
	return Limit{micros: micros(limit), all: routing == Any, targets: servers}
}

// NewReplicaLimit is the limit of a pod that clients call beside its peers. Where coveredUnmeasured is set, a peer without
// a measurement to a client counts as covering it.
func NewReplicaLimit(limit time.Duration, routing Routing, clients []Target, peers []Peer, coveredUnmeasured bool) Limit {
	l := Limit{micros: micros(limit), all: routing == Any, targets: make([]Target, 0, len(clients))}
	var beyond []Target // the clients that no node covers
	for _, k := range clients {
		switch {
		case routing == Nearest && l.covered(k, peers, coveredUnmeasured):
		case routing == Nearest && !l.coverable(k):
			beyond = append(beyond, k)
		default:
			l.targets = append(l.targets, k)
		}
	}
	for _, k := range beyond {
		if len(beyond) == len(clients) { // then the limit cannot be kept at all
			l.targets = append(l.targets, k)
		} else {
			l.hopeless = append(l.hopeless, k.Row)
		}
	}
	return l
}

// coverable reports whether a node other than its own, on which pods may not run, is within the limit of a client. It is true,
// too, where nobody measured: then the limit is undecided, and not hopeless.
func (l *Limit) coverable(k Target) bool {
	measured := false
	for n, rtt := range k.Row.RTT {
		us, ok := rtt.Micros()
		if !ok || !k.Row.Provenance[n].IsMeasured() || int32(n) == k.Node {
			continue
		}
		if us <= l.micros {
			return true
		}
		measured = true
	}
	return !measured
}

func (l *Limit) covered(k Target, peers []Peer, unmeasured bool) bool {
	for _, p := range peers {
		if p.Node < 0 || !k.Row.Provenance[p.Node].IsMeasured() {
			if unmeasured {
				return true
			}
			continue
		}
		if rtt, ok := k.Row.RTT[p.Node].Micros(); ok && rtt <= l.micros {
			return true
		}
	}
	return false
}

func micros(d time.Duration) float32 { return float32(float64(d) / float64(time.Microsecond)) }

// Empty reports whether no target is left that a node could be too far from.
func (l *Limit) Empty() bool { return len(l.targets) == 0 }

// Check judges a node; a negative number is a node that the snapshot does not know. A limit without targets is kept.
func (l *Limit) Check(n int32) Verdict {
	if len(l.targets) == 0 {
		for _, r := range l.hopeless {
			if n < 0 || !r.Provenance[n].IsMeasured() {
				return Unmeasured
			}
		}
		return Kept
	}
	if n < 0 {
		return Unmeasured
	}
	unmeasured, exceeded := false, false
	for i := range l.targets {
		r := l.targets[i].Row
		us, ok := r.RTT[n].Micros()
		switch {
		case !ok || !r.Provenance[n].IsMeasured():
			unmeasured = true
		case us <= l.micros:
			if !l.all {
				return Kept
			}
		default:
			if l.all {
				return Exceeded
			}
			exceeded = true
		}
	}
	switch {
	case unmeasured:
		return Unmeasured
	case exceeded:
		return Exceeded
	}
	return Kept
}

// Decisive returns the measured RTT that decides about a node, how it was got, and the target that it leads to or comes from: the
// largest where all must be within the limit, else the smallest. It is unknown where nothing was measured.
func (l *Limit) Decisive(n int32) (rtt latency.RTT, p latency.Provenance, target int32) {
	target = -1
	if n < 0 {
		return latency.RTT{}, latency.Unknown, target
	}
	var best float32
	for i := range l.targets {
		r := l.targets[i].Row
		us, ok := r.RTT[n].Micros()
		if !ok || !r.Provenance[n].IsMeasured() {
			continue
		}
		if target < 0 || (us > best) == l.all && us != best {
			best, rtt, p, target = us, r.RTT[n], r.Provenance[n], l.targets[i].Node
		}
	}
	return rtt, p, target
}
