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
)

// wakeInterval is the least time between two looks at the rejected pods.
const wakeInterval = 100 * time.Millisecond

// waker sends a rejected pod back to the scheduling queue when a node that its limits excluded keeps them now. It looks
// when there is a new snapshot, and when an intent or the place of a workload changed.
type waker struct {
	engine *engine
	signal chan struct{}

	mu       sync.Mutex
	rejected map[types.UID]rejectedPod
}

type rejectedPod struct {
	pod    *v1.Pod
	handle fwk.Handle
	// nodes and rejected, by their numbers, tell the nodes that the limits did not exclude: latency is not what stands in the
	// way there. A node that came later, or that the snapshot did not know yet, is not among them.
	nodes    latency.Nodes
	rejected []uint8
}

// other reports whether a node is one that the limits did not exclude.
func (r *rejectedPod) other(node string) bool {
	n, ok := r.nodes.Index(node)
	return ok && r.rejected[n] == 0
}

func newWaker(e *engine) *waker {
	return &waker{engine: e, signal: make(chan struct{}, 1), rejected: map[types.UID]rejectedPod{}}
}

// add remembers a pod that was rejected on the data of a state.
func (k *waker) add(pod *v1.Pod, handle fwk.Handle, s *state) {
	if !k.engine.catalog.exists(pod) {
		return // nothing would take it out again
	}
	// The pods of one snapshot share it; a pending pod costs a byte a node.
	r := rejectedPod{pod: pod, handle: handle, nodes: s.snap.Nodes(), rejected: s.rejected}
	k.mu.Lock()
	k.rejected[pod.UID] = r
	k.mu.Unlock()
	// The data may have changed since the state was made.
	k.wake()
}

// update takes up a change of a pod that was rejected: its annotation and its labels say which limits it has.
func (k *waker) update(pod *v1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.rejected[pod.UID]
	if !ok {
		return
	}
	old := r.pod
	r.pod = pod
	k.rejected[pod.UID] = r
	if pod.Annotations[v1alpha1.LatencyAnnotation] != old.Annotations[v1alpha1.LatencyAnnotation] || !maps.Equal(pod.Labels, old.Labels) {
		k.wake() // to the scheduling queue a new annotation is no event
	}
}

func (k *waker) forget(uid types.UID) {
	k.mu.Lock()
	delete(k.rejected, uid)
	k.mu.Unlock()
}

// wake has the rejected pods looked at soon.
func (k *waker) wake() {
	select {
	case k.signal <- struct{}{}:
	default:
	}
}

// acceptable reports whether a node that a pod's limits excluded, or a new one, keeps them now.
func (k *waker) acceptable(pod *v1.Pod) bool {
	k.mu.Lock()
	r, ok := k.rejected[pod.UID]
	k.mu.Unlock()
	return ok && k.acceptableNow(r)
}

func (k *waker) acceptableNow(r rejectedPod) bool {
	w := k.engine.wantsOf(r.pod)
	s := k.engine.compile(r.pod, &w, true)
	for n := range int32(s.snap.Len()) {
		if s.judge(n) != "" {
			continue
		}
		if !r.other(s.snap.Name(n)) {
			return true
		}
	}
	return false
}

// run looks at the rejected pods whenever something changed, until ctx ends.
func (k *waker) run(ctx context.Context) {
	sweep := time.NewTicker(sweepAge)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-sweep.C:
			k.engine.catalog.sweep(now)
			continue
		case <-k.signal:
		case <-k.engine.index.Changed():
		case <-k.engine.catalog.changed:
		}
		k.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wakeInterval):
		}
	}
}

func (k *waker) look(ctx context.Context) {
	k.mu.Lock()
	pods := make([]rejectedPod, 0, len(k.rejected))
	for _, r := range k.rejected {
		pods = append(pods, r)
	}
	k.mu.Unlock()
	for _, r := range pods {
		k.lookAt(ctx, r)
	}
}

func (k *waker) lookAt(ctx context.Context, r rejectedPod) {
	defer k.engine.guard.Recover(ctx, "waker", nil)
	if !k.acceptableNow(r) {
		return
	}
	k.forget(r.pod.UID)
	metrics.Woken.Inc()
	logger := klog.FromContext(ctx)
	logger.V(3).Info("A node keeps the pod's latency limits now", "pod", klog.KObj(r.pod))
	r.handle.Activate(logger, map[string]*v1.Pod{r.pod.Namespace + "/" + r.pod.Name: r.pod})
}
