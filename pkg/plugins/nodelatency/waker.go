// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
)

// waker sends a rejected pod back to the scheduling queue when a node that its limits excluded keeps them now. It looks
// when there is a new snapshot, and when an intent or the place of a workload changed.
type waker struct {
	engine *engine
	pods   *internal.Waker
}

func newWaker(e *engine) *waker {
	return &waker{engine: e, pods: internal.NewWaker(e.guard, func(logger klog.Logger, pod *v1.Pod) {
		metrics.Woken.Inc()
		logger.V(3).Info("A node keeps the pod's latency limits now", "pod", klog.KObj(pod))
	})}
}

// add remembers a pod that was rejected on the data of a state.
func (k *waker) add(pod *v1.Pod, handle fwk.Handle, s *state) {
	if !k.engine.catalog.exists(pod) {
		return // nothing would take it out again
	}
	// The pods of one snapshot share it; a pending pod costs a byte a node.
	nodes, rejected := s.snap.Nodes(), s.rejected
	k.pods.Add(internal.Rejected{Pod: pod, Handle: handle, Acceptable: func(pod *v1.Pod) bool {
		return k.engine.acceptable(pod, nodes, rejected)
	}})
}

// update takes up a change of a pod that was rejected: its annotation and its labels say which limits it has.
func (k *waker) update(pod *v1.Pod) {
	old := k.pods.Update(pod)
	if old == nil {
		return
	}
	if pod.Annotations[v1alpha1.LatencyAnnotation] != old.Annotations[v1alpha1.LatencyAnnotation] || !maps.Equal(pod.Labels, old.Labels) {
		k.wake() // to the scheduling queue a new annotation is no event
	}
}

func (k *waker) forget(uid types.UID) { k.pods.Forget(uid) }

// wake has the rejected pods looked at soon.
func (k *waker) wake() { k.pods.Wake() }

// acceptable reports whether a node that a pod's limits excluded, or a new one, keeps them now.
func (k *waker) acceptable(pod *v1.Pod) bool {
	acceptable, _ := k.pods.Acceptable(pod)
	return acceptable
}

// acceptable reports whether a node keeps a pod's limits now that is one of the rejected, or that came later, or that the snapshot did not
// know yet. Latency is not what stands in the way on the others.
func (e *engine) acceptable(pod *v1.Pod, then latency.Nodes, rejected []uint8) bool {
	w := e.wantsOf(pod)
	s := e.compile(pod, &w, true)
	for n := range int32(s.snap.Len()) {
		if s.judge(n) != "" {
			continue
		}
		if was, ok := then.Index(s.snap.Name(n)); !ok || rejected[was] != 0 {
			return true
		}
	}
	return false
}

// run looks at the rejected pods whenever something changed, until ctx ends.
func (k *waker) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { k.pods.Run(ctx) })
	sweep := time.NewTicker(sweepAge)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-sweep.C:
			k.engine.catalog.sweep(now)
			continue
		case <-k.engine.index.Changed():
		case <-k.engine.catalog.changed:
		}
		k.wake()
	}
}
