// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"context"
	"math"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
)

// workspace is the memory of one PreScore.
type workspace struct {
	numbers                 []int32
	values, badness, totals []float32
	breaks                  []bool
	scores                  []int64
	sorter                  []float32
}

var workspaces = sync.Pool{New: func() any { return &workspace{} }}

// PreScore compares all candidates at once: what is unknown of one is neutral among the others. It returns Skip where nothing is known of
// any, so that the pod is placed as by the stock scheduler.
func (p *NodeMetrics) PreScore(ctx context.Context, cycle fwk.CycleState, pod *v1.Pod, nodes []fwk.NodeInfo) (status *fwk.Status) {
	defer p.guard.Recover(ctx, "PreScore", func() { status = skip })
	s := p.read(cycle)
	if s == nil {
		s = p.newState(pod)
		p.keep(cycle, s)
	}
	ws := workspaces.Get().(*workspace)
	defer workspaces.Put(ws)
	ws.numbers = slices.Grow(ws.numbers[:0], len(nodes))
	for _, ni := range nodes {
		ws.numbers = append(ws.numbers, s.snap.number(ni.Node().Name))
	}
	if !p.engine.score(s, ws) {
		metrics.NodeMetricsDecisions.WithLabelValues("no_data").Inc()
		return skip
	}
	s.scores = internal.NewNodeTable(len(nodes))
	for i, ni := range nodes {
		s.scores.Put(ni, ws.scores[i])
	}
	s.scored = true
	metrics.NodeMetricsDecisions.WithLabelValues("scored").Inc()
	return nil
}

// Score returns what PreScore found. It is on the final scale. What most calls come to has no guard, which would take longer than all the
// rest, and is nothing that can panic.
func (p *NodeMetrics) Score(ctx context.Context, cycle fwk.CycleState, _ *v1.Pod, nodeInfo fwk.NodeInfo) (score int64, status *fwk.Status) {
	if l := p.last.Load(); l != nil && internal.Same(l.cycle, cycle) {
		if score := l.state.scores.Peek(nodeInfo); score > 0 {
			return score, nil
		}
	}
	return p.scoreOf(ctx, cycle, nodeInfo), nil
}

// scoreOf is Score for a score of 0, a NodeInfo that is not where it is looked for first, or a cycle that another one overtook.
func (p *NodeMetrics) scoreOf(ctx context.Context, cycle fwk.CycleState, nodeInfo fwk.NodeInfo) (score int64) {
	defer p.guard.Recover(ctx, "Score", func() { score = 0 })
	s := p.read(cycle)
	if s == nil || !s.scored {
		return 0
	}
	if score, ok := s.scores.Get(nodeInfo); ok {
		return score
	}
	return s.lowest
}

// ScoreExtensions returns the plugin itself.
func (p *NodeMetrics) ScoreExtensions() fwk.ScoreExtensions { return p }

// NormalizeScore leaves the scores as they are, and gives back the table that they came from: all candidates have theirs. A candidate that is
// asked for all the same has the lowest of the scores.
func (p *NodeMetrics) NormalizeScore(_ context.Context, cycle fwk.CycleState, _ *v1.Pod, _ fwk.NodeScoreList) *fwk.Status {
	if l := p.last.Load(); l != nil && internal.Same(l.cycle, cycle) {
		l.state.scores.Free()
	}
	return nil
}

// score computes the scores of ws.numbers, or returns false where nothing is known of any.
func (e *engine) score(s *state, ws *workspace) bool {
	n := len(ws.numbers)
	ws.values, ws.badness, ws.totals = resize(ws.values, n), resize(ws.badness, n), resize(ws.totals, n)
	ws.breaks, ws.scores = resize(ws.breaks, n), resize(ws.scores, n)
	clear(ws.totals)
	clear(ws.breaks)
	if e.limited {
		s.best = make([]nearest, len(e.metrics))
	}
	var weights float32
	found := false
	for i := range e.metrics {
		m := &e.metrics[i]
		for c, n := range ws.numbers {
			ws.values[c] = s.snap.after(i, n, s.effects[i])
		}
		if m.hasLimit {
			for c, v := range ws.values {
				ws.breaks[c] = ws.breaks[c] || m.breaks(v)
				if b := &s.best[i]; known(v) && (b.node == "" || m.keepsBetter(v, b.value)) {
					*b = nearest{s.snap.names[ws.numbers[c]], v}
				}
			}
		}
		var ok bool
		if ws.sorter, ok = badness(ws.badness, ws.values, m.direction, m.target, m.scale, ws.sorter); !ok {
			continue
		}
		found = true
		weights += m.weight
		for c, b := range ws.badness {
			ws.totals[c] += m.weight * b
		}
	}
	if !found {
		return false
	}
	if weights > 0 {
		for c := range ws.totals {
			ws.totals[c] /= weights
		}
	}
	s.candidates = n
	s.keepers = scores(ws.scores, ws.totals, ws.breaks)
	s.lowest = slices.Min(ws.scores)
	return true
}

func resize[T any](s []T, n int) []T { return slices.Grow(s[:0], n)[:n] }

// badness says how much worse each value is than the best of them, in shares of scale, and returns false where no value is known. The best
// has 0. With
//
//	d = v (Lower), −v (Higher), |v − target| (Target)    and    badness = (d − the least d) / scale
//
// d is not below the least one and scale is above 0, so that badness is at least 0; it is cut at 1. Where scale is 0, it is the largest
// absolute value, of the target too, or the largest difference where that is larger, as with values on both sides of 0; badness is 0 where all
// are 0. So of two positive values of which one is twice the other the greater one has ½, whatever their unit. An unknown value has the
// median of the known ones' badness, which is within the range because they are.
func badness(into, values []float32, direction Direction, target, scale float32, sorter []float32) ([]float32, bool) {
	least, most, largest := math.MaxFloat64, -math.MaxFloat64, 0.0
	n := 0
	distance := func(v float32) float64 { // in float64 the difference of two float32 is finite
		switch direction {
		case Higher:
			return -float64(v)
		case Target:
			return math.Abs(float64(v) - float64(target))
		default:
			return float64(v)
		}
	}
	for _, v := range values {
		if !known(v) {
			continue
		}
		n++
		d := distance(v)
		least, most, largest = min(least, d), max(most, d), max(largest, math.Abs(float64(v)))
	}
	if n == 0 {
		return sorter, false
	}
	s := float64(scale)
	if !(s > 0) {
		s = max(largest, most-least)
		if direction == Target {
			s = max(s, math.Abs(float64(target)))
		}
	}
	for i, v := range values {
		switch {
		case !known(v):
			into[i] = unknown
		case s > 0:
			into[i] = float32(min((distance(v)-least)/s, 1))
		default:
			into[i] = 0
		}
	}
	if n == len(values) {
		return sorter, true
	}
	sorter = sorter[:0]
	for _, b := range into {
		if known(b) {
			sorter = append(sorter, b)
		}
	}
	neutral := median(sorter)
	for i, b := range into {
		if !known(b) {
			into[i] = neutral
		}
	}
	return sorter, true
}

// median returns the median of numbers, whose order it changes: of an even number the mean of the two in the middle. It is within their
// range.
func median(a []float32) float32 {
	k := len(a) / 2
	// Hoare's selection: a[:k] ends not above, a[k+1:] not below a[k].
	for low, high := 0, len(a)-1; low < high; {
		pivot := a[low+(high-low)/2]
		i, j := low, high
		for i <= j {
			for a[i] < pivot {
				i++
			}
			for a[j] > pivot {
				j--
			}
			if i <= j {
				a[i], a[j] = a[j], a[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			high = j
		case k >= i:
			low = i
		default:
			low = high
		}
	}
	if len(a)%2 == 1 {
		return a[k]
	}
	return (slices.Max(a[:k]) + a[k]) / 2
}

// scores maps totals within 0–1, of which less is better, to scores within 0–100, and returns how many of them break no limit:
//
//	score = 100 · (1 − (total − the least total))
//
// total and the least total lie within 0–1 and total is not the lesser, so the score lies within 0–100 and the best has 100. A step is 1 % of
// the scale, whatever the others' totals are: a difference within the noise is not stretched.
//
// Where some break a limit and some do not, the former rank behind: with w as the lowest score of the keepers, raised to at least 1, a breaker
// has ⌊w/2 · (1 − (total − the breakers' least))⌋, which lies within 0 and w/2 and so below every keeper's.
func scores(into []int64, totals []float32, breaks []bool) (keepers int) {
	leastKeeper, leastBreaker := float32(1), float32(1)
	for i, t := range totals {
		if breaks[i] {
			leastBreaker = min(leastBreaker, t)
		} else {
			leastKeeper = min(leastKeeper, t)
			keepers++
		}
	}
	mixed := keepers > 0 && keepers < len(totals)
	if !mixed {
		leastKeeper = min(leastKeeper, leastBreaker)
	}
	worst := fwk.MaxNodeScore
	for i, t := range totals {
		if mixed && breaks[i] {
			continue
		}
		into[i] = share(fwk.MaxNodeScore, t-leastKeeper)
		if mixed {
			into[i] = max(into[i], 1)
		}
		worst = min(worst, into[i])
	}
	if !mixed {
		return keepers
	}
	for i, t := range totals {
		if breaks[i] {
			into[i] = int64(float32(worst) / 2 * (1 - min(max(t-leastBreaker, 0), 1)))
		}
	}
	return keepers
}

// share returns of · (1 − lost), rounded, within 0 and of for any lost.
func share(of int64, lost float32) int64 {
	return int64(math.Round(float64(of) * (1 - float64(min(max(lost, 0), 1)))))
}
