// SPDX-License-Identifier: Apache-2.0

// Package store merges what the sources say into the snapshot that scheduling cycles read.
package store

import (
	"context"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/source"
	"github.com/fogsched/fogsched/pkg/source/zones"
)

const (
	// DefaultMaxAge is the age above which a measurement says nothing any more. A prober publishes at least once a minute.
	DefaultMaxAge = 5 * time.Minute

	// settle is how long changes are gathered before the snapshot is built anew: long enough that a burst of reports is one
	// snapshot, short enough that nobody waits for it.
	settle = 200 * time.Millisecond

	// minZoneSamples is how many measured pairs the median between two zones needs before it stands for the others.
	minZoneSamples = 3
)

// Store holds the current snapshot. It is safe for concurrent use.
type Store struct {
	maxAge time.Duration
	zones  *zones.Table

	current atomic.Pointer[latency.Snapshot]

	mu        sync.Mutex
	nodes     map[string]zones.Location
	reports   map[reporter][]report
	subscribe []func(*latency.Snapshot)
	dirty     chan struct{}

	hadData bool // of the loop alone
}

type reporter struct{ source, node string }

type report struct {
	to string
	latency.Estimate
}

// New returns an empty store. maxAge above 0 is the age above which a measurement is left out; table may be nil.
func New(maxAge time.Duration, table *zones.Table) *Store {
	s := &Store{
		maxAge:  maxAge,
		zones:   table,
		nodes:   map[string]zones.Location{},
		reports: map[reporter][]report{},
		dirty:   make(chan struct{}, 1),
	}
	s.current.Store(latency.NewSnapshot(time.Time{}, nil, nil, nil))
	return s
}

// Snapshot returns the current snapshot, never nil. It takes no lock.
func (s *Store) Snapshot() *latency.Snapshot { return s.current.Load() }

// Subscribe has f called with every new snapshot, after it can be read. f must not block. Call it before Run.
func (s *Store) Subscribe(f func(*latency.Snapshot)) { s.subscribe = append(s.subscribe, f) }

// SetNode adds a node or moves it.
func (s *Store) SetNode(name string, at zones.Location) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.nodes[name]; ok && old == at {
		return
	}
	s.nodes[name] = at
	s.markDirty()
}

// DeleteNode removes a node and what it reported.
func (s *Store) DeleteNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, name)
	// What it reported stays unknown when a node of the same name comes: it may be another machine.
	maps.DeleteFunc(s.reports, func(key reporter, _ []report) bool { return key.node == name })
	s.markDirty()
}

// Rebuild has the snapshot built anew, although nothing changed.
func (s *Store) Rebuild() { s.markDirty() }

func (s *Store) markDirty() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// Sink returns the Update through which a source of the given name reports.
func (s *Store) Sink(sourceName string) source.Update {
	return func(from string, samples []latency.Sample) { s.update(sourceName, from, samples, time.Now()) }
}

func (s *Store) update(sourceName, from string, samples []latency.Sample, now time.Time) {
	accepted := make([]report, 0, len(samples))
	for _, sample := range samples {
		e, reason := latency.Check(sample, now, s.maxAge)
		if reason != "" {
			metrics.SamplesRejected.WithLabelValues(sourceName, string(reason)).Inc()
			continue
		}
		accepted = append(accepted, report{to: sample.To, Estimate: e})
	}
	if len(accepted) > 0 {
		metrics.SamplesAccepted.WithLabelValues(sourceName).Add(float64(len(accepted)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := reporter{sourceName, from}
	if len(accepted) == 0 {
		if _, ok := s.reports[key]; !ok {
			return
		}
		delete(s.reports, key)
	} else {
		s.reports[key] = accepted
	}
	s.markDirty()
}

// Run builds snapshots until ctx ends: soon after a change, and in time for measurements to expire.
func (s *Store) Run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	expiry := time.NewTicker(max(s.maxAge/20, time.Second))
	defer expiry.Stop()
	for {
		s.tick(logger, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-expiry.C:
		case <-s.dirty:
			select {
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
			select {
			case <-s.dirty: // what changed meanwhile is in the same snapshot
			default:
			}
		}
	}
}

func (s *Store) tick(logger klog.Logger, now time.Time) {
	defer func() { // the last snapshot stays; a bug of ours is no reason to stop scheduling
		if r := recover(); r != nil {
			metrics.Panics.WithLabelValues("NodeLatency", "store").Inc()
			logger.Error(nil, "Recovered a panic while building a snapshot; the last one stays", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	next, newest := s.build(now)
	old := s.current.Load()
	next.Warm(old)
	s.current.Store(next)

	measured, pairs := next.Coverage()
	metrics.SnapshotTimestamp.Set(float64(now.UnixNano()) / 1e9)
	metrics.Pairs.Set(float64(pairs))
	metrics.MeasuredPairs.Set(float64(measured))
	if newest.IsZero() {
		metrics.NewestSampleTimestamp.Set(0)
	} else {
		metrics.NewestSampleTimestamp.Set(float64(newest.UnixNano()) / 1e9)
	}
	// The change is worth a line, the tick is not.
	if has := measured > 0; has != s.hadData {
		s.hadData = has
		if has {
			logger.Info("Latencies are here", "nodes", next.Len(), "measuredPairs", measured, "pairs", pairs)
		} else {
			logger.Info("No measured latencies any more: pods are placed as by the stock scheduler", "nodes", next.Len(), "maxAge", s.maxAge)
		}
	}
	for _, f := range s.subscribe {
		f(next)
	}
}

// build makes a snapshot of what is current at a time, and returns when the newest measurement in it was taken.
func (s *Store) build(now time.Time) (snap *latency.Snapshot, newest time.Time) {
	s.mu.Lock()
	names := make([]string, 0, len(s.nodes))
	for name := range s.nodes {
		names = append(names, name)
	}
	slices.Sort(names)
	number := make(map[string]int32, len(names))
	at := make([]zones.Location, len(names))
	for i, name := range names {
		number[name] = int32(i)
		at[i] = s.nodes[name]
	}
	edges := make([][]latency.Edge, len(names))
	for key, reports := range s.reports {
		kept := reports[:0:0]
		for _, r := range reports {
			if now.Sub(r.At) > s.maxAge {
				metrics.SamplesRejected.WithLabelValues(key.source, string(latency.ReasonExpired)).Inc()
				continue
			}
			kept = append(kept, r)
		}
		if len(kept) == 0 {
			delete(s.reports, key)
			continue
		}
		if len(kept) < len(reports) {
			s.reports[key] = kept
		}
		from, ok := number[key.node]
		if !ok {
			continue // of a node that is not there yet, or no more
		}
		for _, r := range kept {
			to, ok := number[r.to]
			if !ok || to == from {
				continue
			}
			edges[from] = append(edges[from], latency.Edge{To: to, Estimate: r.Estimate})
			if r.At.After(newest) {
				newest = r.At
			}
		}
	}
	s.mu.Unlock()
	return latency.NewSnapshot(now, names, edges, s.zoneTable(at, edges)), newest
}

// zoneTable answers for the pairs that nobody measured: what the administrator's file says, else the median of what was
// measured between the two zones.
func (s *Store) zoneTable(at []zones.Location, edges [][]latency.Edge) *latency.ZoneTable {
	numbers := map[zones.Location]int32{}
	var locations []zones.Location
	of := make([]int32, len(at))
	for i, l := range at {
		if l == (zones.Location{}) {
			of[i] = -1
			continue
		}
		n, ok := numbers[l]
		if !ok {
			n = int32(len(locations))
			numbers[l] = n
			locations = append(locations, l)
		}
		of[i] = n
	}
	if len(locations) == 0 {
		return nil
	}
	type gathered struct{ typical, tail []float64 }
	samples := map[[2]int32]*gathered{}
	for from, es := range edges {
		for _, e := range es {
			a, b := of[from], of[e.To]
			if a < 0 || b < 0 {
				continue
			}
			key := [2]int32{min(a, b), max(a, b)}
			g := samples[key]
			if g == nil {
				g = &gathered{}
				samples[key] = g
			}
			if us, ok := e.Typical.Micros(); ok {
				g.typical = append(g.typical, float64(us)/1e6)
			}
			if us, ok := e.Tail.Micros(); ok {
				g.tail = append(g.tail, float64(us)/1e6)
			}
		}
	}
	// Sparse: with a zone a site, all pairs of zones would be more than all that was measured.
	measured := make(map[[2]int32]latency.Estimate, len(samples))
	for key, g := range samples {
		if len(g.typical) < minZoneSamples {
			continue
		}
		e := latency.Estimate{Provenance: latency.Zone}
		e.Typical, _ = latency.FromSeconds(median(g.typical))
		e.Tail, _ = latency.FromSeconds(median(g.tail))
		measured[key] = e
	}
	table := s.zones
	return &latency.ZoneTable{Of: of, Between: func(a, b int32) latency.Estimate {
		if e := table.Between(locations[a], locations[b]); e.Typical.Known() {
			return e
		}
		return measured[[2]int32{min(a, b), max(a, b)}]
	}}
}

// median returns the median of values, which it sorts; NaN where there is none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
