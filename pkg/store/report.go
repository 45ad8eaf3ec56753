// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
)

// statement is what one source knows from one node, after the checks that need nobody else's word.
type statement struct {
	source string
	// to are the nodes at the other ends, in ascending order, and edges what is said of them; the numbers in them are not set.
	to    []string
	edges []latency.Edge
	// life is how long what is said of a pair counts. expires is when the first of them does not any more.
	life    time.Duration
	expires time.Time
	newest  time.Time // of the measurements
	refresh time.Duration
	// coordinate has Error 0 where there is none. It has no time of its own: it counts for as long as the newest measurement.
	coordinate      latency.NetworkCoordinate
	coordinateUntil time.Time
	// rankingOnly: the edges are no RTTs.
	rankingOnly bool
}

// said is one pair of a statement.
type said struct {
	to   string
	edge latency.Edge
}

// check turns a report into a statement; nil where nothing is left of it.
func (s *Store) check(sourceName string, r *latency.Report, now time.Time) *statement {
	st := &statement{source: sourceName, refresh: min(max(r.Refresh, 0), maxRefresh), rankingOnly: r.RankingOnly}
	st.life = s.maxAge
	if r.MaxAge > 0 {
		st.life = r.MaxAge
	}
	st.life += st.refresh
	pairs := make([]said, 0, len(r.Samples))
	accepted := 0
	for i := range r.Samples {
		sample := &r.Samples[i]
		e, reason := latency.Check(*sample, now, st.life)
		if r.Starved && reason == "" {
			reason = latency.ReasonStarved
		}
		if reason == "" {
			accepted++
			pairs = append(pairs, said{sample.To, latency.NewEdge(0, e)})
			continue
		}
		metrics.SamplesRejected.WithLabelValues(sourceName, string(reason)).Inc()
		if reason != latency.ReasonFailed && reason != latency.ReasonStarved {
			continue
		}
		at := sample.At
		if at.IsZero() || at.After(now) {
			at = now
		}
		edge := latency.Blocked(0, at)
		if reason == latency.ReasonFailed {
			edge = latency.Lost(0, at, sample.Lost)
		}
		pairs = append(pairs, said{sample.To, edge})
	}
	if accepted > 0 {
		metrics.SamplesAccepted.WithLabelValues(sourceName).Add(float64(accepted))
	}
	slices.SortFunc(pairs, func(a, b said) int {
		return cmp.Or(strings.Compare(a.to, b.to), better(&a.edge, &b.edge))
	})
	pairs = slices.CompactFunc(pairs, func(a, b said) bool { return a.to == b.to })
	if c := r.Coordinate; c != nil && !r.RankingOnly {
		reason := c.Check()
		if r.Starved {
			reason = latency.ReasonStarved
		}
		if reason == "" {
			st.coordinate = *c
			st.coordinate.Error = max(c.Error, latency.MinError)
		} else {
			metrics.CoordinatesRejected.WithLabelValues(sourceName, string(reason)).Inc()
		}
	}
	if len(pairs) == 0 && st.coordinate.Error == 0 {
		return nil
	}
	st.to, st.edges = make([]string, len(pairs)), make([]latency.Edge, len(pairs))
	for i := range pairs {
		st.to[i], st.edges[i] = pairs[i].to, pairs[i].edge
	}
	st.date()
	st.coordinateUntil = now.Add(st.life)
	if !st.newest.IsZero() {
		st.coordinateUntil = st.newest.Add(st.life)
	}
	return st
}

// better orders two words on the same pair: a measurement before a block, the newer before the older.
func better(a, b *latency.Edge) int {
	if a.Measured() != b.Measured() {
		if a.Measured() {
			return -1
		}
		return 1
	}
	return b.At().Compare(a.At())
}

// date notes when the oldest and the newest of a statement were taken.
func (st *statement) date() {
	st.expires, st.newest = time.Time{}, time.Time{}
	for i := range st.edges {
		e := &st.edges[i]
		at := e.At()
		if until := at.Add(st.life); i == 0 || until.Before(st.expires) {
			st.expires = until
		}
		if e.Measured() && at.After(st.newest) {
			st.newest = at
		}
	}
}

// expire drops what does not count any more, and returns false where nothing is left.
func (st *statement) expire(now time.Time) bool {
	if now.After(st.coordinateUntil) {
		st.coordinate = latency.NetworkCoordinate{}
	}
	if len(st.edges) > 0 && now.After(st.expires) {
		to, edges := make([]string, 0, len(st.to)), make([]latency.Edge, 0, len(st.edges)) // snapshots may have the old ones
		for i, e := range st.edges {
			if now.Sub(e.At()) <= st.life {
				to, edges = append(to, st.to[i]), append(edges, e)
			} else if e.Measured() {
				metrics.SamplesRejected.WithLabelValues(st.source, string(latency.ReasonExpired)).Inc()
			}
		}
		st.to, st.edges = to, edges
		st.date()
	}
	return len(st.edges) > 0 || st.coordinate.Error > 0
}

// reporter is what all sources know from one node.
type reporter struct {
	said []*statement // one a source

	// What the builder makes of it, for the nodes as register numbers them; nil where it is to be made anew.
	register   *register
	edges      []latency.Edge
	rankings   []latency.Edge
	coordinate latency.NetworkCoordinate
	refresh    time.Duration
	newest     time.Time
	// told are the measurements that were counted as rejected since the node said so, and whether all of them and its coordinate were.
	told                      map[string]struct{}
	toldAll, toldOfCoordinate bool
}

// replace puts a statement in the place of the source's last one; nil withdraws that. It returns false where nothing changed.
func (r *reporter) replace(source string, st *statement) bool {
	i := slices.IndexFunc(r.said, func(s *statement) bool { return s.source == source })
	switch {
	case i < 0 && st == nil:
		return false
	case i < 0:
		r.said = append(r.said, st)
	case st == nil:
		r.said = slices.Delete(r.said, i, i+1)
	default:
		r.said[i] = st
	}
	r.register, r.told, r.toldAll, r.toldOfCoordinate = nil, nil, false, false
	return true
}

// source names where what the node says comes from, for metrics.
func (r *reporter) source() string {
	if len(r.said) == 0 {
		return ""
	}
	return r.said[0].source
}

// expire drops what does not count any more, and returns false where nothing is left.
func (r *reporter) expire(now time.Time) bool {
	for _, st := range r.said {
		if len(st.edges) > 0 && now.After(st.expires) || st.coordinate.Error > 0 && now.After(st.coordinateUntil) {
			r.register = nil
			r.said = slices.DeleteFunc(r.said, func(st *statement) bool { return !st.expire(now) })
			break
		}
	}
	return len(r.said) > 0
}

// number makes the edges for a snapshot.
func (r *reporter) number(reg *register, self int32) {
	if r.register == reg {
		return
	}
	r.register, r.edges, r.rankings, r.coordinate, r.refresh, r.newest = reg, nil, nil, latency.NetworkCoordinate{}, 0, time.Time{}
	latest := time.Time{}
	for _, st := range r.said {
		edges := make([]latency.Edge, 0, len(st.edges))
		for i, name := range st.to {
			// Names and numbers are in the same order.
			if n, ok := reg.index[name]; ok && n != self {
				e := st.edges[i]
				e.To = n
				edges = append(edges, e)
			}
		}
		if len(edges) == len(st.edges) {
			st.edges = edges // one copy is enough
		}
		if st.rankingOnly {
			r.rankings = union(r.rankings, edges)
			continue // no RTT, no coordinate
		}
		r.edges = union(r.edges, edges)
		r.refresh = max(r.refresh, st.refresh)
		if st.newest.After(r.newest) {
			r.newest = st.newest
		}
		if st.coordinate.Error > 0 && st.coordinateUntil.After(latest) {
			r.coordinate, latest = st.coordinate, st.coordinateUntil
		}
	}
}

// union merges what two sources say of the same node's pairs.
func union(a, b []latency.Edge) []latency.Edge {
	if len(a) == 0 {
		return b
	}
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(a, b latency.Edge) int { return cmp.Or(cmp.Compare(a.To, b.To), better(&a, &b)) })
	return slices.CompactFunc(all, func(a, b latency.Edge) bool { return a.To == b.To })
}
