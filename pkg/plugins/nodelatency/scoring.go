// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/placement"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
)

// workspace is the memory of one PreScore.
type workspace struct {
	evaluator  placement.Evaluator
	candidates []int32
	slots      []int32 // in the tables of the engine's NodeIndex, where that is used
	entries    []placement.Entry
	costs      []placement.Cost
	breaks     []bool
}

var workspaces = sync.Pool{New: func() any { return &workspace{} }}

// PreScore computes the cost of every candidate at once: unknown is neutral among the candidates, which takes all of them
// to tell. It returns Skip where nothing is known of any, so that the pod is placed as by the stock scheduler.
func (p *NodeLatency) PreScore(ctx context.Context, cycle fwk.CycleState, _ *v1.Pod, nodes []fwk.NodeInfo) (status *fwk.Status) {
	defer p.guard.Recover(ctx, "PreScore", nil)
	s := p.read(cycle)
	if s == nil {
		return skip
	}
	ws := workspaces.Get().(*workspace)
	defer workspaces.Put(ws)
	index := p.engine.nodeIndex(s, len(nodes))
	ws.number(s, index, nodes)
	if !s.score(ws) {
		metrics.Decisions.WithLabelValues("no_data").Inc()
		return skip
	}
	if index != nil {
		s.table = index.Table()
		for i, slot := range ws.slots {
			s.table.Set(slot, s.scored[i].nanos())
		}
	} else {
		s.table = internal.NewNodeTable(len(nodes))
		for i, ni := range nodes {
			s.table.Put(ni, s.scored[i].nanos())
		}
	}
	metrics.Decisions.WithLabelValues("scored").Inc()
	return nil
}

// indexedCandidates is from how many candidates on a NodeIndex is used. For fewer the first pod after a change of the nodes had better not look up
// all of them.
const indexedCandidates = 1000

// nodeIndex returns the index of the nodes that PreFilter was given, or nil where there are too few candidates for one.
func (e *engine) nodeIndex(s *state, candidates int) *internal.NodeIndex {
	if candidates < indexedCandidates {
		return nil
	}
	x := e.lastNodes.Load()
	if !x.Is(s.nodes, s.snap.Numbering()) {
		x = internal.NewNodeIndex(s.nodes, s.snap.Numbering(), s.number)
		e.lastNodes.Store(x)
	}
	return x
}

// number returns the number of a node, -1 where the snapshot does not know it.
func (s *state) number(name string) int32 {
	if n, ok := s.snap.Index(name); ok {
		return n
	}
	return -1
}

// number fills in ws.candidates, and with an index ws.slots.
func (ws *workspace) number(s *state, index *internal.NodeIndex, nodes []fwk.NodeInfo) {
	ws.candidates, ws.slots = slices.Grow(ws.candidates[:0], len(nodes)), ws.slots[:0]
	if index == nil {
		for _, ni := range nodes {
			ws.candidates = append(ws.candidates, s.number(ni.Node().Name))
		}
		return
	}
	ws.candidates, ws.slots = index.Find(ws.candidates, slices.Grow(ws.slots, len(nodes)), nodes, s.number)
}

// score fills in s.scored for ws.candidates, or returns false where nothing is known of any.
func (s *state) score(ws *workspace) bool {
	ws.entries = ws.entries[:0]
	for i := range s.entries {
		ws.entries = append(ws.entries, s.entries[i].Entry)
	}
	var known bool
	ws.costs, known = ws.evaluator.Costs(ws.costs, ws.entries, ws.candidates)
	clear(ws.entries) // the pool must not keep a snapshot alive
	if !known {
		return false
	}
	if len(s.limits) > 0 {
		ws.breaks = ws.breaks[:0]
		for _, n := range ws.candidates {
			ws.breaks = append(ws.breaks, s.breaksAny(n))
		}
		var added float32
		s.keepers, added = placement.RankBehind(ws.costs, ws.breaks)
		s.penalty = int64(added * 1000)
	}
	s.scored = make([]scored, len(ws.candidates))
	s.best, s.second, s.neutral = -1, -1, 0
	var least, next float32
	for i, n := range ws.candidates {
		cost := ws.costs[i].Micros
		s.scored[i] = scored{n, cost}
		if n < 0 {
			s.neutral = s.scored[i].nanos()
			continue
		}
		switch {
		case s.best < 0 || cost < least:
			s.best, s.second, least, next = n, s.best, cost, least
		case s.second < 0 || cost < next:
			s.second, next = n, cost
		}
	}
	return true
}

func (s *state) breaksAny(n int32) bool {
	for i := range s.limits {
		if s.limits[i].breaks(n) {
			return true
		}
	}
	return false
}

// Score returns the node's cost in nanoseconds; NormalizeScore turns it round.
//
// A guard would take longer than all the rest. So what most calls come to is without one, and is nothing that can panic: comparing addresses,
// and loads from a slice within its bounds.
func (p *NodeLatency) Score(ctx context.Context, cycle fwk.CycleState, _ *v1.Pod, nodeInfo fwk.NodeInfo) (cost int64, status *fwk.Status) {
	if s := p.last.Load(); s != nil && internal.Same(s.cycle, cycle) {
		if cost := s.table.Peek(nodeInfo); cost > 0 {
			return cost, nil
		}
		if cost, ok := s.table.Get(nodeInfo); ok && cost > 0 {
			return cost, nil
		}
	}
	return p.scoreByName(ctx, cycle, nodeInfo), nil
}

// scoreByName is Score for a NodeInfo that PreScore was not given, or a cycle that another one overtook.
func (p *NodeLatency) scoreByName(ctx context.Context, cycle fwk.CycleState, nodeInfo fwk.NodeInfo) int64 {
	defer p.guard.Recover(ctx, "Score", nil)
	s := p.read(cycle)
	if s == nil || s.scored == nil {
		return 0
	}
	if cost, ok := s.table.Get(nodeInfo); ok && cost > 0 {
		return cost
	}
	return s.costOf(s.number(nodeInfo.Node().Name))
}

// costOf returns what PreScore found for a node, 0 where it is no candidate. It takes O(candidates), and is for the few that are asked for by
// name.
func (s *state) costOf(n int32) int64 {
	if n < 0 {
		return s.neutral
	}
	if i := slices.IndexFunc(s.scored, func(c scored) bool { return c.node == n }); i >= 0 {
		return s.scored[i].nanos()
	}
	return 0
}

// ScoreExtensions returns the plugin itself.
func (p *NodeLatency) ScoreExtensions() fwk.ScoreExtensions { return p }

// NormalizeScore maps costs to 0–100: see placement.Score.
func (p *NodeLatency) NormalizeScore(ctx context.Context, cycle fwk.CycleState, _ *v1.Pod, scores fwk.NodeScoreList) (status *fwk.Status) {
	defer p.guard.Recover(ctx, "NormalizeScore", func() {
		for i := range scores { // whatever was done so far, leave the range valid
			scores[i].Score = 0
		}
	})
	if s := p.last.Load(); s != nil && internal.Same(s.cycle, cycle) {
		s.table.Free() // all candidates are scored; whoever asks all the same is answered by name
	}
	internal.NormalizeCosts(scores)
	return nil
}
