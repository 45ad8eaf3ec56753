// SPDX-License-Identifier: Apache-2.0

// Package store merges what the sources say into the snapshot that scheduling cycles read.
package store

import (
	"context"
	"runtime/debug"
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
	// DefaultMaxAge is the age above which a measurement says nothing any more, on top of the time within which its node reports
	// again: in a small cluster, where a prober publishes once a minute, four reports in a row can be missed.
	DefaultMaxAge = 5 * time.Minute

	// maxRefresh bounds what a node's own refresh interval adds to the life of its measurements.
	maxRefresh = 30 * time.Minute

	// settle is how long changes are gathered before the snapshot is built anew: long enough that a burst of reports is one
	// snapshot, short enough that nobody waits for it. Where building takes long, changes are gathered for so many times that
	// long, which keeps it to 2.5 % of a core; but never longer than maxSettle, the time for which a snapshot stands at most where
	// reports live for DefaultMaxAge.
	settle      = 200 * time.Millisecond
	settleShare = 40
	maxSettle   = 15 * time.Second
)

// Store holds the current snapshot. It is safe for concurrent use.
type Store struct {
	maxAge time.Duration
	zones  *zones.Table

	current   atomic.Pointer[latency.Snapshot]
	subscribe []func(*latency.Snapshot)
	// dirty is set when something changed, urgent when somebody waits for the next snapshot.
	dirty, urgent chan struct{}

	mu        sync.Mutex
	nodes     map[string]*node
	reporters map[string]*reporter
	malformed []*node // nodes whose position could not be read, which nobody was told yet
	// register numbers the nodes; nil when they changed.
	register *register
	// shortest is the least age above which a measurement is left out, of the store and of all reports.
	shortest time.Duration

	hadData bool // of the builder alone
}

// node is a node of the cluster.
type node struct {
	name     string
	at       zones.Location
	position string
	where    latency.Position

	standing // of the builder alone
}

// New returns an empty store. maxAge above 0 is the age above which a measurement is left out; table may be nil.
func New(maxAge time.Duration, table *zones.Table) *Store {
	s := &Store{
		maxAge:    maxAge,
		zones:     table,
		nodes:     map[string]*node{},
		reporters: map[string]*reporter{},
		shortest:  maxAge,
		dirty:     make(chan struct{}, 1),
		urgent:    make(chan struct{}, 1),
	}
	s.current.Store(latency.NewSnapshot(&latency.Picture{}))
	return s
}

// Snapshot returns the current snapshot, never nil. It takes no lock.
func (s *Store) Snapshot() *latency.Snapshot { return s.current.Load() }

// Subscribe has f called with every new snapshot, after it can be read. f must not block. Call it before Run.
func (s *Store) Subscribe(f func(*latency.Snapshot)) { s.subscribe = append(s.subscribe, f) }

// SetNode adds a node or changes it. position is its place on Earth as latency.ParsePosition reads it, "" where it is not known.
// One that cannot be read is not known either, and the log says so once.
func (s *Store) SetNode(name string, at zones.Location, position string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.nodes[name]
	if ok && n.at == at && n.position == position {
		return
	}
	if !ok {
		n = &node{name: name}
		s.nodes[name] = n
	}
	n.at = at
	if n.position != position {
		n.position, n.where = position, latency.Position{}
		if position != "" {
			var err error
			if n.where, err = latency.ParsePosition(position); err != nil {
				s.malformed = append(s.malformed, n)
			}
		}
	}
	s.register = nil
	notify(s.dirty)
}

// DeleteNode removes a node and what it reported.
func (s *Store) DeleteNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, name)
	// What it reported stays unknown when a node of the same name comes: it may be another machine.
	delete(s.reporters, name)
	s.register = nil
	notify(s.dirty)
}

// Rebuild has the snapshot built anew at once, although nothing changed.
func (s *Store) Rebuild() { notify(s.urgent) }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Sink returns the Update through which a source of the given name reports.
func (s *Store) Sink(sourceName string) source.Update {
	return func(from string, r latency.Report) {
		defer func() { // a source runs on a goroutine of its own: a bug of ours is no reason to stop scheduling
			if p := recover(); p != nil {
				metrics.Panics.WithLabelValues("NodeLatency", "store").Inc()
				klog.Background().Error(nil, "Recovered a panic while taking a report; what the node said before stays", "source", sourceName,
					"node", from, "panic", p, "stack", string(debug.Stack()))
			}
		}()
		s.Take(sourceName, from, r, time.Now())
	}
}

// Take replaces what a source knows from one node. A Sink calls it with the current time; a simulation with a clock of its own
// calls it and Build, in place of Run.
func (s *Store) Take(sourceName, from string, r latency.Report, now time.Time) {
	said := s.check(sourceName, &r, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.MaxAge > 0 {
		s.shortest = min(s.shortest, r.MaxAge)
	}
	rep := s.reporters[from]
	switch {
	case rep == nil && said == nil:
		return
	case rep == nil:
		rep = &reporter{}
		s.reporters[from] = rep
	}
	if said != nil {
		for i, name := range said.to {
			if n, ok := s.nodes[name]; ok {
				said.to[i] = n.name // one copy of a name is enough
			}
		}
	}
	if !rep.replace(sourceName, said) {
		return
	}
	if len(rep.said) == 0 {
		delete(s.reporters, from)
	}
	notify(s.dirty)
}

// pulse is how long a snapshot stands at most, so that what is too old does not count for much longer.
func (s *Store) pulse() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.shortest/20, time.Second)
}

// Run builds snapshots until ctx ends: soon after a change, and in time for measurements to expire.
func (s *Store) Run(ctx context.Context) {
	expiry := time.NewTimer(0)
	defer expiry.Stop()
	for {
		start := time.Now()
		s.Build(ctx, start)
		expiry.Reset(s.pulse())
		pause := min(max(settle, settleShare*time.Since(start)), maxSettle)
		select {
		case <-ctx.Done():
			return
		case <-expiry.C:
		case <-s.urgent:
		case <-s.dirty:
			select {
			case <-ctx.Done():
				return
			case <-s.urgent:
			case <-time.After(pause):
			}
			select {
			case <-s.dirty: // what changed meanwhile is in the same snapshot
			default:
			}
		}
	}
}
