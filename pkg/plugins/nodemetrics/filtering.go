// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"context"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/plugins/internal"
)

// skip is shared: the framework does not write to a Skip status of PreFilter or PreScore.
var skip = fwk.NewStatus(fwk.Skip)

// PreFilter returns Skip unless a limit excludes nodes.
func (p *NodeMetrics) PreFilter(ctx context.Context, cycle fwk.CycleState, pod *v1.Pod, _ []fwk.NodeInfo) (result *fwk.PreFilterResult, status *fwk.Status) {
	if !p.engine.hard {
		return nil, skip
	}
	defer p.guard.Recover(ctx, "PreFilter", func() { status = skip })
	s := p.newState(pod)
	s.rejected = make([]uint8, len(s.snap.names))
	p.keep(cycle, s)
	return nil, nil
}

// PreFilterExtensions returns nil: adding or removing other pods changes no measured value yet.
func (p *NodeMetrics) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter excludes a node that would be beyond a limit whose whenUnsatisfiable is DoNotSchedule. The refusal is unresolvable: evicting pods
// lowers the load in time, but the value says so only some samples later. Until then the node would go on refusing the pod that others were
// evicted for.
func (p *NodeMetrics) Filter(ctx context.Context, cycle fwk.CycleState, _ *v1.Pod, nodeInfo fwk.NodeInfo) (status *fwk.Status) {
	defer p.guard.Recover(ctx, "Filter", nil)
	s := p.read(cycle)
	if s == nil || s.rejected == nil {
		return nil
	}
	n := s.snap.number(nodeInfo.Node().Name)
	reason := p.engine.judge(s.snap, n, s.effects)
	if reason == "" {
		return nil
	}
	if n >= 0 {
		s.rejected[n] = 1
	}
	if !s.anyRejected.Load() {
		s.anyRejected.Store(true)
	}
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reason)
}

// judge returns why a hard limit excludes a node from taking a pod of such effects, or "".
func (e *engine) judge(s *snapshot, n int32, effects []float32) string {
	for i := range e.metrics {
		m := &e.metrics[i]
		if !m.hard {
			continue
		}
		switch v := s.after(i, n, effects[i]); {
		case m.exceeds(v):
			return ReasonExceeded
		case m.rejectUnknown && !known(v):
			return ReasonUnknown
		}
	}
	return ""
}

// exceeds reports whether a value is known and beyond the limit.
func (m *metric) exceeds(v float32) bool {
	if !m.hasLimit || !known(v) {
		return false
	}
	if m.direction == Higher {
		return v < m.limit
	}
	return v > m.limit
}

// breaks reports whether the limit takes a value as beyond it.
func (m *metric) breaks(v float32) bool {
	return m.exceeds(v) || m.rejectUnknown && !known(v)
}

// keepsBetter reports whether a is further than b on the limit's good side.
func (m *metric) keepsBetter(a, b float32) bool {
	if m.direction == Higher {
		return a > b
	}
	return a < b
}

// PostFilter says how near the limits the best node comes, for the FailedScheduling event, and remembers the pod so that it is tried again as
// soon as a node keeps the limits. It never makes room itself.
func (p *NodeMetrics) PostFilter(ctx context.Context, cycle fwk.CycleState, pod *v1.Pod, _ fwk.NodeToStatusReader) (result *fwk.PostFilterResult, status *fwk.Status) {
	status = fwk.NewStatus(fwk.Unschedulable) // a nil status would say that room was made
	defer p.guard.Recover(ctx, "PostFilter", nil)
	s := p.read(cycle)
	if s == nil || !s.anyRejected.Load() {
		return nil, status
	}
	if p.engine.exists(pod) { // else nothing would take it out again
		// The snapshot itself goes: pods wait long, and each of its own refusal's. Snapshots of the same nodes share their numbers.
		numbers, rejected := s.snap.numbers, s.rejected
		p.engine.waker.Add(internal.Rejected{Pod: pod, Handle: p.handle, Acceptable: func(pod *v1.Pod) bool {
			return p.engine.acceptable(pod, numbers, rejected)
		}})
	}
	return nil, fwk.NewStatus(fwk.Unschedulable, p.engine.nearestMisses(s)...)
}

// exists reports whether the API server still has a pod.
func (e *engine) exists(pod *v1.Pod) bool {
	got, err := e.cluster.Pods.Pods(pod.Namespace).Get(pod.Name)
	return err == nil && got.UID == pod.UID
}

// acceptable reports whether a node that was rejected, or that came since, keeps the limits now. Of the others the limits were not what stands
// in the way.
func (e *engine) acceptable(pod *v1.Pod, then map[string]int32, rejected []uint8) bool {
	effects := e.effects(pod)
	now := e.current.Load()
	for n, name := range now.names {
		if was, ok := then[name]; ok && rejected[was] == 0 {
			continue
		}
		if e.judge(now, int32(n), effects) == "" {
			return true
		}
	}
	return false
}

// nearestMisses says for each hard limit which of the nodes that the limits excluded comes nearest to keeping it.
func (e *engine) nearestMisses(s *state) []string {
	var reasons []string
	for i := range e.metrics {
		m := &e.metrics[i]
		if !m.hard {
			continue
		}
		best := int32(-1)
		var value float32
		for n := range int32(len(s.rejected)) {
			if s.rejected[n] == 0 {
				continue
			}
			if v := s.snap.after(i, n, s.effects[i]); known(v) && (best < 0 || m.keepsBetter(v, value)) {
				best, value = n, v
			}
		}
		var b strings.Builder
		fmt.Fprintf(&b, "limit %s of metric %s: ", format(m.limit), m.name)
		switch {
		case best < 0:
			b.WriteString("none of those nodes has a value")
		case m.exceeds(value):
			fmt.Fprintf(&b, "the best of them with this pod is %s with %s", s.snap.names[best], format(value))
		default:
			fmt.Fprintf(&b, "node %s keeps this one with %s", s.snap.names[best], format(value))
		}
		reasons = append(reasons, b.String())
	}
	return reasons
}
