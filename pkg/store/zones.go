// SPDX-License-Identifier: Apache-2.0

package store

import (
	"slices"
	"time"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/source/zones"
)

const (
	// minZoneSamples is how many measured pairs the median between two zones needs before it stands for the others.
	minZoneSamples = 3
	// zoneInterval is how long medians stand that are of more than freshEdges measurements, and of nearly as many as there are now:
	// what they stand for moves slowly.
	zoneInterval = 30 * time.Second
	freshEdges   = 1 << 16

	// maxZoneSamples bounds how many of them it is taken from, evenly.
	maxZoneSamples = 1000
)

// zoneMemory is what the builder remembers of the zones.
type zoneMemory struct {
	medians map[uint64]latency.Estimate
	edges   int
	at      time.Time
}

// zoneTable answers for the pairs that nobody measured: what the administrator's file says, else the median of what was
// measured between the two zones.
func (s *Store) zoneTable(r *register, edges [][]latency.Edge, now time.Time) *latency.ZoneTable {
	numbers := map[zones.Location]int32{}
	var locations []zones.Location
	of := make([]int32, len(r.nodes))
	for i, at := range r.locations {
		if at == (zones.Location{}) {
			of[i] = -1
			continue
		}
		n, ok := numbers[at]
		if !ok {
			n = int32(len(locations))
			numbers[at] = n
			locations = append(locations, at)
		}
		of[i] = n
	}
	if len(locations) == 0 {
		return nil
	}
	total := 0
	for i := range edges {
		total += len(edges[i])
	}
	m := &r.zones
	if total <= freshEdges || now.Sub(m.at) >= zoneInterval || abs(total-m.edges) > m.edges/20 {
		*m = zoneMemory{medians(of, edges), total, now}
	}
	measured := m.medians
	table := s.zones
	return &latency.ZoneTable{Of: of, Between: func(a, b int32) latency.Estimate {
		if e := table.Between(locations[a], locations[b]); e.Typical.Known() {
			return e
		}
		return measured[zonePair(a, b)]
	}}
}

func zonePair(a, b int32) uint64 { return uint64(min(a, b))<<32 | uint64(max(a, b)) }

// medians returns the medians of what was measured between zones, by zonePair. It is sparse: with a zone a site, all pairs of zones
// would be more than all that was measured.
func medians(of []int32, edges [][]latency.Edge) map[uint64]latency.Estimate {
	// Counted first and then filled in, so that 400,000 edges do not grow as many slices.
	type group struct{ start, count int32 }
	var keys []uint64
	groups := map[uint64]int32{}
	var counts []group
	groupOf := make([]int32, 0, len(edges))
	each := func(f func(e *latency.Edge, a, b int32)) {
		for from := range edges {
			a := of[from]
			if a < 0 {
				continue
			}
			for k := range edges[from] {
				e := &edges[from][k]
				if b := of[e.To]; b >= 0 && e.Measured() {
					f(e, a, b)
				}
			}
		}
	}
	each(func(_ *latency.Edge, a, b int32) {
		key := zonePair(a, b)
		g, ok := groups[key]
		if !ok {
			g = int32(len(counts))
			groups[key] = g
			keys, counts = append(keys, key), append(counts, group{})
		}
		counts[g].count++
		groupOf = append(groupOf, g)
	})
	start := int32(0)
	for g := range counts {
		counts[g].start = start
		start += counts[g].count
		counts[g].count = 0
	}
	typical, tail := make([]float32, start), make([]float32, start)
	next := 0
	each(func(e *latency.Edge, _, _ int32) {
		g := &counts[groupOf[next]]
		next++
		typical[g.start+g.count], _ = e.Typical().Micros()
		tail[g.start+g.count], _ = e.Tail().Micros() // 0: unknown
		g.count++
	})
	table := make(map[uint64]latency.Estimate, len(counts))
	for i, g := range counts {
		if g.count < minZoneSamples {
			continue
		}
		e := latency.Estimate{Provenance: latency.Zone}
		e.Typical = median(typical[g.start : g.start+g.count])
		e.Tail = median(tail[g.start : g.start+g.count])
		table[keys[i]] = e
	}
	return table
}

// median returns the median of the values above 0, in microseconds; unknown where there is none. It reorders them.
func median(values []float32) latency.RTT {
	if stride := (len(values) + maxZoneSamples - 1) / maxZoneSamples; stride > 1 {
		kept := values[:0]
		for i := 0; i < len(values); i += stride {
			kept = append(kept, values[i])
		}
		values = kept
	}
	slices.Sort(values)
	unknown, _ := slices.BinarySearchFunc(values, 0, func(v, _ float32) int {
		if v > 0 {
			return 1
		}
		return -1
	})
	values = values[unknown:]
	n := len(values)
	if n == 0 {
		return latency.RTT{}
	}
	rtt, _ := latency.FromSeconds((float64(values[(n-1)/2]) + float64(values[n/2])) / 2 / 1e6)
	return rtt
}

func abs(n int) int { return max(n, -n) }
