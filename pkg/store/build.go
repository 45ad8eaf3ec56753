// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"runtime/debug"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/source/zones"
)

// grace is how long, beside its refresh interval, most others may contradict a node that they agreed with before: when its
// network changes, its peers' reports are behind its own.
const grace = time.Minute

// standing is what the builder remembers of a node's honesty.
type standing struct {
	// distrusted: what the node says is left out.
	distrusted bool
	// agreed is when most others last agreed with it.
	agreed time.Time
	// misplaced: its position cannot be true.
	misplaced bool
}

// register numbers the nodes, in the order of their names. What it says of them is immutable.
type register struct {
	nodes     []*node
	names     []string
	index     map[string]int32
	locations []zones.Location
	// positions is nil where no node has one.
	positions []latency.Position

	// Of the builder alone: what it remembers from one snapshot to the next.
	memory latency.Memory
	zones  zoneMemory
}

func newRegister(nodes map[string]*node) *register {
	r := &register{names: make([]string, 0, len(nodes)), index: make(map[string]int32, len(nodes))}
	for name := range nodes {
		r.names = append(r.names, name)
	}
	slices.Sort(r.names)
	r.nodes, r.locations = make([]*node, len(r.names)), make([]zones.Location, len(r.names))
	for i, name := range r.names {
		n := nodes[name]
		r.nodes[i], r.index[name], r.locations[i] = n, int32(i), n.at
		if n.where.Known() {
			if r.positions == nil {
				r.positions = make([]latency.Position, len(r.names))
			}
			r.positions[i] = n.where
		}
	}
	return r
}

// Build makes the snapshot of what counts at a time, and swaps it in. It must not run beside itself or Run. A panic leaves the
// last snapshot: a bug of ours is no reason to stop scheduling.
func (s *Store) Build(ctx context.Context, now time.Time) {
	logger := klog.FromContext(ctx)
	defer func() {
		if r := recover(); r != nil {
			metrics.Panics.WithLabelValues("NodeLatency", "store").Inc()
			logger.Error(nil, "Recovered a panic while building a snapshot; the last one stays", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	b := s.gather(logger, now)
	verdict := latency.Judge(&b.picture, &b.evidence)
	if b.weigh(logger, verdict, now) {
		verdict = latency.Judge(&b.picture, &b.evidence) // without those who lost our trust
	}
	b.count(logger, verdict)
	verdict.Believed.Zones = s.zoneTable(b.register, verdict.Believed.Edges, now)
	next := verdict.Snapshot()
	next.Warm(s.current.Load())
	s.current.Store(next)
	s.publish(logger, next, b, verdict, now)
}

// building is what a snapshot is built from.
type building struct {
	*register
	reporters []*reporter // by node number; nil where a node says nothing
	picture   latency.Picture
	evidence  latency.Evidence
	newest    time.Time
}

// gather takes what counts at a time out of the reports.
func (s *Store) gather(logger klog.Logger, now time.Time) *building {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.malformed {
		if _, err := latency.ParsePosition(n.position); err != nil && s.nodes[n.name] == n {
			logger.Error(err, "Ignoring the position of a node: mend its annotation", "node", n.name, "position", n.position)
		}
	}
	s.malformed = nil
	if s.register == nil {
		s.register = newRegister(s.nodes)
	}
	n := len(s.register.names)
	b := &building{
		register: s.register, reporters: make([]*reporter, n),
		picture: latency.Picture{
			Built: now, Names: s.register.names, Index: s.register.index,
			Edges: make([][]latency.Edge, n), Coordinates: make([]latency.NetworkCoordinate, n),
		},
		evidence: latency.Evidence{
			Positions: s.register.positions, Refresh: make([]time.Duration, n), Distrusted: make([]bool, n), Memory: &s.register.memory,
		},
	}
	for name, r := range s.reporters {
		if !r.expire(now) {
			delete(s.reporters, name)
			continue
		}
		i, ok := s.register.index[name]
		if !ok {
			continue // of a node that is not there yet, or no more
		}
		r.number(s.register, i)
		b.reporters[i] = r
		b.picture.Edges[i], b.picture.Coordinates[i] = r.edges, r.coordinate
		if len(r.rankings) > 0 {
			if b.picture.Rankings == nil {
				b.picture.Rankings = make([][]latency.Edge, n)
			}
			b.picture.Rankings[i] = r.rankings
		}
		b.evidence.Refresh[i], b.evidence.Distrusted[i] = r.refresh, s.register.nodes[i].distrusted
		if r.newest.After(b.newest) {
			b.newest = r.newest
		}
	}
	return b
}

// weigh decides whom to distrust from now on, and returns true where somebody lost our trust.
func (b *building) weigh(logger klog.Logger, v *latency.Verdict, now time.Time) (lost bool) {
	for i, n := range b.nodes {
		st := v.Standing[i]
		switch {
		case st.Suspect():
			if n.distrusted || !n.agreed.IsZero() && now.Sub(n.agreed) <= grace+b.evidence.Refresh[i] {
				continue
			}
			n.distrusted, b.evidence.Distrusted[i], lost = true, true, true
			logger.Info("What a node reports is left out: most others contradict it", "node", n.name,
				"comparable", st.Comparable, "contradicted", st.Contradicted)
		case st.Settled() || n.distrusted && st.Comparable > 0 && st.Contradicted == 0:
			if st.Settled() {
				n.agreed = now
			}
			if n.distrusted {
				n.distrusted, b.evidence.Distrusted[i] = false, false
				logger.Info("What a node reports counts again: most others agree with it", "node", n.name,
					"comparable", st.Comparable, "contradicted", st.Contradicted)
			}
		}
	}
	return lost
}

// count counts what is not believed, once for each time that it was said, and says whose position is wrong.
func (b *building) count(logger klog.Logger, v *latency.Verdict) {
	for _, r := range v.Rejected {
		rep, to := b.reporters[r.From], b.names[r.To]
		if _, ok := rep.told[to]; ok {
			continue
		}
		if rep.told == nil {
			rep.told = map[string]struct{}{}
		}
		rep.told[to] = struct{}{}
		metrics.SamplesRejected.WithLabelValues(rep.source(), string(r.Reason)).Inc()
	}
	for i, rep := range b.reporters {
		if rep == nil {
			continue
		}
		if b.evidence.Distrusted[i] && !rep.toldAll {
			rep.toldAll = true
			metrics.SamplesRejected.WithLabelValues(rep.source(), string(latency.ReasonDistrusted)).Add(float64(len(rep.edges)))
		}
		if reason := v.Coordinate[i]; reason != "" && !rep.toldOfCoordinate {
			rep.toldOfCoordinate = true
			metrics.CoordinatesRejected.WithLabelValues(rep.source(), string(reason)).Inc()
		}
	}
	misplaced := 0
	for i, n := range b.nodes {
		wrong := misplaced < len(v.Misplaced) && v.Misplaced[misplaced] == int32(i)
		if wrong {
			misplaced++
		}
		if wrong && !n.misplaced {
			logger.Error(nil, "Ignoring the position of a node: others measured it faster than light could get there; mend its annotation",
				"node", n.name, "position", n.position)
		}
		n.misplaced = wrong
	}
}

// publish tells those who watch: metrics, the log, the subscribers.
func (s *Store) publish(logger klog.Logger, next *latency.Snapshot, b *building, v *latency.Verdict, now time.Time) {
	measured, pairs := next.Coverage()
	metrics.SnapshotTimestamp.Set(unix(now))
	metrics.Nodes.Set(float64(next.Len()))
	metrics.MeasuredNodes.Set(float64(measuredNodes(v.Believed.Edges)))
	metrics.Pairs.Set(float64(pairs))
	metrics.MeasuredPairs.Set(float64(measured))
	metrics.NewestSampleTimestamp.Set(unix(b.newest))
	metrics.DisputedPairs.Set(float64(v.Disputed))
	distrusted, coordinates := 0, 0
	for i := range b.nodes {
		if b.evidence.Distrusted[i] {
			distrusted++
		}
		if v.Believed.Coordinates[i].Error > 0 {
			coordinates++
		}
	}
	metrics.DistrustedNodes.Set(float64(distrusted))
	metrics.Coordinates.Set(float64(coordinates))
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

// measuredNodes returns how many nodes have a measurement at either end.
func measuredNodes(edges [][]latency.Edge) (n int) {
	seen := make([]bool, len(edges))
	mark := func(i int32) {
		if !seen[i] {
			seen[i], n = true, n+1
		}
	}
	for from := range edges {
		for i := range edges[from] {
			if e := &edges[from][i]; e.Measured() {
				mark(int32(from))
				mark(e.To)
			}
		}
	}
	return n
}

// unix returns a time in Unix seconds, 0 for none.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}
