// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
)

// EventsToRegister names the cluster events that can make a rejected pod fit. New measurements, policies and Services are no
// cluster events to the scheduling queue: the waker watches for those.
func (p *NodeLatency) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		{
			Event:          fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeLabel},
			QueueingHintFn: p.afterNodeChange,
		},
		{
			Event:          fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.Add | fwk.UpdatePodLabel | fwk.Delete},
			QueueingHintFn: p.afterPodChange,
		},
	}, nil
}

// afterNodeChange queues a pod when the node of the event keeps its limits. The node may be new to the snapshot: nothing is
// measured of it then, which is enough for a limit that allows that.
func (p *NodeLatency) afterNodeChange(logger klog.Logger, pod *v1.Pod, _, newObj any) (hint fwk.QueueingHint, err error) {
	defer p.guard.Recover(klog.NewContext(context.Background(), logger), "QueueingHint", func() { hint = fwk.Queue })
	node, ok := newObj.(*v1.Node)
	if !ok {
		return fwk.Queue, nil
	}
	w := p.engine.wantsOf(pod)
	s := p.engine.compile(pod, &w, true)
	if s.judge(s.number(node.Name)) == "" {
		return fwk.Queue, nil
	}
	return fwk.QueueSkip, nil
}

// afterPodChange queues a pod when another one, to which its limits lead, came, moved or went, and a node that was
// rejected is acceptable now. The index may still be behind the event; the waker looks again when it has caught up.
func (p *NodeLatency) afterPodChange(logger klog.Logger, pod *v1.Pod, oldObj, newObj any) (hint fwk.QueueingHint, err error) {
	defer p.guard.Recover(klog.NewContext(context.Background(), logger), "QueueingHint", func() { hint = fwk.Queue })
	changed, ok := newObj.(*v1.Pod)
	if !ok {
		if changed, ok = oldObj.(*v1.Pod); !ok {
			return fwk.Queue, nil
		}
	}
	if changed.UID == pod.UID { // its own labels or annotation: another intent may govern it now
		return fwk.Queue, nil
	}
	w := p.engine.wantsOf(pod)
	if !p.engine.concerns(&w, changed) {
		return fwk.QueueSkip, nil
	}
	if p.engine.waker.acceptable(pod) {
		return fwk.Queue, nil
	}
	return fwk.QueueSkip, nil
}

// concerns reports whether a pod is a target, or a peer, of a limit.
func (e *engine) concerns(w *wants, other *v1.Pod) bool {
	in := e.index.Matching(nil, other)
	for _, b := range w.own {
		for i := range b.entries {
			be := &b.entries[i]
			if be.Limit == 0 || !be.Hard {
				continue
			}
			target := be.workload()
			for _, m := range in {
				if m == target || m == b.self {
					return true
				}
			}
		}
	}
	return false
}
