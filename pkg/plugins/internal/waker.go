// SPDX-License-Identifier: Apache-2.0

package internal

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// WakeInterval is the least time between two looks at the rejected pods.
const WakeInterval = 100 * time.Millisecond

// Waker sends pods that a plugin rejected back to the scheduling queue when they are acceptable: new data of a plugin's own is no cluster
// event that the queue would see.
type Waker struct {
	guard *Guard
	// woken is told of each pod that is sent back.
	woken  func(logger klog.Logger, pod *v1.Pod)
	signal chan struct{}

	mu       sync.Mutex
	rejected map[types.UID]Rejected
}

// Rejected is a pod that was rejected.
type Rejected struct {
	Pod *v1.Pod
	// Handle puts it back into the queue.
	Handle interface {
		Activate(logger klog.Logger, pods map[string]*v1.Pod)
	}
	// Acceptable reports whether a node that was rejected, or is new, is acceptable for the pod now.
	Acceptable func(pod *v1.Pod) bool
}

// NewWaker returns a waker without pods.
func NewWaker(guard *Guard, woken func(klog.Logger, *v1.Pod)) *Waker {
	return &Waker{guard: guard, woken: woken, signal: make(chan struct{}, 1), rejected: map[types.UID]Rejected{}}
}

// Add remembers a pod until it is sent back or forgotten, and has it looked at soon: the data may have changed since it was rejected.
func (k *Waker) Add(r Rejected) {
	k.mu.Lock()
	k.rejected[r.Pod.UID] = r
	k.mu.Unlock()
	k.Wake()
}

// Update takes up the newest version of a pod, and returns the one before; nil where it is none of the rejected.
func (k *Waker) Update(pod *v1.Pod) (old *v1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.rejected[pod.UID]
	if !ok {
		return nil
	}
	old, r.Pod = r.Pod, pod
	k.rejected[pod.UID] = r
	return old
}

// Forget drops a pod that was placed, or is gone.
func (k *Waker) Forget(uid types.UID) {
	k.mu.Lock()
	delete(k.rejected, uid)
	k.mu.Unlock()
}

// Wake has the rejected pods looked at soon.
func (k *Waker) Wake() {
	select {
	case k.signal <- struct{}{}:
	default:
	}
}

// Acceptable reports whether a rejected pod is acceptable now, in the given version; ok is false for a pod that is none of the rejected.
func (k *Waker) Acceptable(pod *v1.Pod) (acceptable, ok bool) {
	k.mu.Lock()
	r, ok := k.rejected[pod.UID]
	k.mu.Unlock()
	return ok && r.Acceptable(pod), ok
}

// Run looks at the rejected pods after each Wake, at most ten times a second, until ctx ends.
func (k *Waker) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.signal:
		}
		k.mu.Lock()
		pods := make([]Rejected, 0, len(k.rejected))
		for _, r := range k.rejected {
			pods = append(pods, r)
		}
		k.mu.Unlock()
		for _, r := range pods {
			k.lookAt(ctx, r)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(WakeInterval):
		}
	}
}

func (k *Waker) lookAt(ctx context.Context, r Rejected) {
	defer k.guard.Recover(ctx, "waker", nil)
	if !r.Acceptable(r.Pod) {
		return
	}
	k.Forget(r.Pod.UID)
	logger := klog.FromContext(ctx)
	k.woken(logger, r.Pod)
	r.Handle.Activate(logger, map[string]*v1.Pod{r.Pod.Namespace + "/" + r.Pod.Name: r.Pod})
}
