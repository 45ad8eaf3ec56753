// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
)

// PreFilter finds what the pod wants and the rows for it. It returns Skip for a pod without a limit that excludes nodes, unless
// the cluster is so large that the pod is tried on some nodes only.
func (p *NodeLatency) PreFilter(ctx context.Context, cycle fwk.CycleState, pod *v1.Pod, nodes []fwk.NodeInfo) (result *fwk.PreFilterResult, status *fwk.Status) {
	defer p.guard.Recover(ctx, "PreFilter", nil)
	if !p.engine.ready.Load() {
		p.engine.waitReady(ctx)
	}
	// Most pods have no more intents than these.
	var ownBuffer [2]*bound
	var callBuffer [2]calledAs
	own, calls, err := p.engine.find(pod, ownBuffer[:0], callBuffer[:0])
	if err != nil {
		p.engine.reportInvalid(p.handle, pod, err)
		return nil, skip
	}
	w := wants{own: own, calls: calls}
	if w.none() {
		return nil, skip
	}
	s := p.engine.compile(pod, &w, false)
	if len(s.entries) == 0 {
		return nil, skip
	}
	cycle.Write(stateKey, s)
	s.cycle, s.nodes = cycle, nodes
	p.last.Store(s)
	result = p.narrow(ctx, s, pod, len(nodes))
	if !s.hard {
		if result == nil {
			return nil, skip
		}
		return result, nil
	}
	s.rejected = make([]uint8, s.snap.Len())
	return result, nil
}

// skip is shared: the framework does not write to a Skip status of PreFilter or PreScore.
var skip = fwk.NewStatus(fwk.Skip)

// PreFilterExtensions returns nil: adding or removing other pods does not bring a node nearer.
func (p *NodeLatency) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter excludes a node that breaks a limit of a pod whose whenUnsatisfiable is DoNotSchedule. Preemption cannot mend that.
func (p *NodeLatency) Filter(ctx context.Context, cycle fwk.CycleState, _ *v1.Pod, nodeInfo fwk.NodeInfo) (status *fwk.Status) {
	defer p.guard.Recover(ctx, "Filter", nil)
	s := p.read(cycle)
	if s == nil || !s.hard {
		return nil
	}
	n := s.number(nodeInfo.Node().Name)
	reason := s.judge(n)
	if reason == "" {
		return nil
	}
	if n >= 0 && s.rejected != nil {
		s.rejected[n] = 1
	}
	if !s.anyRejected.Load() {
		s.anyRejected.Store(true)
	}
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, reason)
}

// judge returns why a hard limit excludes a node, or "".
func (s *state) judge(n int32) string {
	for i := range s.limits {
		l := s.limits[i]
		if !l.hard {
			continue
		}
		switch l.Check(n) {
		case placement.Exceeded:
			return ReasonExceeded
		case placement.Unmeasured:
			if l.rejectUnmeasured {
				return ReasonUnmeasured
			}
		}
	}
	return ""
}

// PostFilter says how near the limits the best node comes, for the FailedScheduling event, and remembers the pod so that it
// is tried again as soon as a node keeps its limits. It never makes room itself.
func (p *NodeLatency) PostFilter(ctx context.Context, cycle fwk.CycleState, pod *v1.Pod, _ fwk.NodeToStatusReader) (result *fwk.PostFilterResult, status *fwk.Status) {
	status = fwk.NewStatus(fwk.Unschedulable) // a nil status would say that room was made
	defer p.guard.Recover(ctx, "PostFilter", nil)
	s := p.read(cycle)
	if s != nil && s.narrowed > 0 {
		// Nobody after this one is asked: there is no room to be made.
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, p.widen(ctx, s, pod))
	}
	if s == nil || !s.anyRejected.Load() {
		return nil, status
	}
	p.engine.waker.add(pod, p.handle, s)
	return nil, fwk.NewStatus(fwk.Unschedulable, s.nearestMisses()...)
}

// nearestMisses says for each hard limit which of the nodes that the limits excluded comes nearest to keeping it.
func (s *state) nearestMisses() []string {
	var reasons []string
	for i := range s.limits {
		l := s.limits[i]
		if !l.hard || l.Empty() {
			continue
		}
		var best latency.RTT
		var bestMicros float32
		var provenance latency.Provenance
		bestNode, bestTarget := int32(-1), int32(-1)
		for n := range int32(s.snap.Len()) {
			if s.rejected[n] == 0 {
				continue
			}
			rtt, p, target := l.Decisive(n)
			if us, ok := rtt.Micros(); ok && (bestNode < 0 || us < bestMicros) {
				best, bestMicros, provenance, bestNode, bestTarget = rtt, us, p, n, target
			}
		}
		var b strings.Builder
		fmt.Fprintf(&b, "latency limit %s to %s (%s of %s): ", l.entry.Limit, l.entry.Target(), l.entry.Path, l.intent)
		switch {
		case bestNode < 0:
			b.WriteString("none of those nodes has a measurement")
		case l.Check(bestNode) == placement.Unmeasured:
			fmt.Fprintf(&b, "the nearest of them is %s with %s (%s), and pairs that nobody measured", s.snap.Name(bestNode), best, provenance)
		case bestMicros <= float32(l.entry.Limit.Microseconds()):
			fmt.Fprintf(&b, "node %s keeps this one with %s (%s)", s.snap.Name(bestNode), best, provenance)
		default:
			fmt.Fprintf(&b, "the nearest of them is %s with %s", s.snap.Name(bestNode), best)
			if bestTarget >= 0 && bestTarget != bestNode {
				fmt.Fprintf(&b, " to %s", s.name(bestTarget))
			}
			fmt.Fprintf(&b, " (%s)", provenance)
		}
		reasons = append(reasons, b.String())
	}
	return reasons
}
