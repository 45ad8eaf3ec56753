// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
)

// EventsToRegister names the cluster events that can make a rejected pod fit. New values are none to the scheduling queue: the waker watches
// for those.
func (p *NodeMetrics) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	if !p.engine.hard { // it rejects nothing
		return nil, nil
	}
	return []fwk.ClusterEventWithHint{
		{
			Event:          fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeAllocatable},
			QueueingHintFn: p.afterNodeChange,
		},
		{
			Event:          fwk.ClusterEvent{Resource: fwk.Pod, ActionType: fwk.UpdatePodScaleDown | fwk.Delete},
			QueueingHintFn: p.afterPodChange,
		},
	}, nil
}

// afterNodeChange queues a pod when the node of the event keeps the limits. It may be new to the snapshot: nothing is known of it then, which
// is enough for limits that allow that.
func (p *NodeMetrics) afterNodeChange(logger klog.Logger, pod *v1.Pod, _, newObj any) (hint fwk.QueueingHint, err error) {
	defer p.guard.Recover(klog.NewContext(context.Background(), logger), "QueueingHint", func() { hint = fwk.Queue })
	node, ok := newObj.(*v1.Node)
	if !ok {
		return fwk.Queue, nil
	}
	snap := p.engine.current.Load()
	if p.engine.judge(snap, snap.number(node.Name), p.engine.effects(pod)) == "" {
		return fwk.Queue, nil
	}
	return fwk.QueueSkip, nil
}

// afterPodChange queues a pod when its own requests became smaller, or another pod went that no sample had yet, and a node keeps the limits
// now. The load may still be behind the event; the waker looks again when it is not.
func (p *NodeMetrics) afterPodChange(logger klog.Logger, pod *v1.Pod, _, newObj any) (hint fwk.QueueingHint, err error) {
	defer p.guard.Recover(klog.NewContext(context.Background(), logger), "QueueingHint", func() { hint = fwk.Queue })
	if changed, ok := newObj.(*v1.Pod); ok && changed.UID == pod.UID {
		pod = changed
	}
	if acceptable, ok := p.engine.waker.Acceptable(pod); ok && !acceptable {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}
