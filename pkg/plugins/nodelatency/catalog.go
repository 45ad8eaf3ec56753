// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/index"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/placement"
)

// catalog knows every intent, whom it governs and what it is about. It is safe for concurrent use; view takes no lock
// unless something changed.
type catalog struct {
	index *index.Index
	// exists reports whether the informer's cache still has a pod. The cache is ahead of the events, so that an event will tell
	// when the pod goes.
	exists func(*v1.Pod) bool

	mu          sync.Mutex
	policies    map[types.NamespacedName]*policy
	annotations map[annotationKey]*annotation
	annotated   map[types.UID]*annotation

	current atomic.Pointer[view]
	// generation grows with every change of an intent.
	generation atomic.Uint64
	changed    chan struct{}
}

type policy struct {
	uid        types.UID
	generation int64
	bound      *bound // nil where the policy is invalid
	err        error

	statusMu sync.Mutex
	status   *v1alpha1.LatencyPolicyStatus // as it was last seen or written
}

// annotationKey is an index.AnnotatedGroup in a namespace.
type annotationKey struct{ namespace, group string }

type annotation struct {
	key   annotationKey
	refs  int // pods that have it
	made  time.Time
	bound *bound
	err   error
}

// bound is an intent whose targets are followed in the index.
type bound struct {
	*intent.Intent
	self    *index.Workload // the pods that it governs
	entries []boundEntry
	// labels are what its pods have for certain, placed or not: what a policy selects, or what the first annotated pod had. Not to be changed.
	labels labels.Set
}

type boundEntry struct {
	*intent.Entry
	service *index.Service
	pods    *index.Workload
	nodes   *index.NodeSet
}

// workload returns the pods that the entry is about; nil where it is about nodes, or about a Service without pods.
func (e *boundEntry) workload() *index.Workload {
	if e.service != nil {
		return e.service.State().Workload
	}
	return e.pods
}

// targets returns the nodes that the entry is about now.
func (e *boundEntry) targets() []index.NodeCount {
	if e.nodes != nil {
		return e.nodes.Nodes()
	}
	if w := e.workload(); w != nil {
		return w.Nodes()
	}
	return nil
}

// routing returns how callers pick a replica.
func (e *boundEntry) routing() placement.Routing {
	if e.Routing != nil {
		return *e.Routing
	}
	if e.service != nil && e.service.State().Nearest {
		return placement.Nearest
	}
	return placement.Any
}

// fixed reports whether the targets do not depend on where pods are.
func (e *boundEntry) fixed() bool { return e.nodes != nil }

// call is a dependency entry seen from its target.
type call struct {
	by    *bound
	entry *boundEntry
}

// view is the catalog at one time. It is immutable.
type view struct {
	routes      uint64
	governs     map[*index.Workload][]*bound
	calls       map[*index.Workload][]call
	annotations map[annotationKey]*annotation
}

func newCatalog(x *index.Index) *catalog {
	return &catalog{
		index:       x,
		exists:      func(*v1.Pod) bool { return true },
		policies:    map[types.NamespacedName]*policy{},
		annotations: map[annotationKey]*annotation{},
		annotated:   map[types.UID]*annotation{},
		changed:     make(chan struct{}, 1),
	}
}

// view returns the catalog as it is now.
func (c *catalog) view() *view {
	if v := c.current.Load(); v != nil && v.routes == c.index.Routes() {
		return v
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := &view{
		routes:      c.index.Routes(),
		governs:     map[*index.Workload][]*bound{},
		calls:       map[*index.Workload][]call{},
		annotations: make(map[annotationKey]*annotation, len(c.annotations)),
	}
	add := func(b *bound) {
		for i := range b.entries {
			e := &b.entries[i]
			if e.Role != intent.Dependency {
				continue
			}
			if w := e.workload(); w != nil {
				v.calls[w] = append(v.calls[w], call{by: b, entry: e})
			}
		}
	}
	for _, p := range c.policies {
		if p.bound != nil {
			v.governs[p.bound.self] = append(v.governs[p.bound.self], p.bound)
			add(p.bound)
		}
	}
	for k, a := range c.annotations {
		v.annotations[k] = a
		if a.bound != nil {
			add(a.bound)
		}
	}
	c.current.Store(v)
	return v
}

func (c *catalog) touch() {
	c.current.Store(nil)
	c.generation.Add(1)
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// bind follows an intent's targets.
func (c *catalog) bind(in *intent.Intent, self *index.Workload, set labels.Set) *bound {
	b := &bound{Intent: in, self: self, entries: make([]boundEntry, len(in.Entries)), labels: set}
	for i := range in.Entries {
		e := boundEntry{Entry: &in.Entries[i]}
		switch {
		case e.Service != nil:
			e.service = c.index.Service(e.Service.Namespace, e.Service.Name)
		case e.Pods != nil:
			e.pods = c.index.Pods(e.Pods.Namespace, e.Pods.NamespaceSelector, e.Pods.Selector)
		default:
			e.nodes = c.index.NodeSet(e.Nodes)
		}
		b.entries[i] = e
	}
	return b
}

func (c *catalog) release(b *bound) {
	if b == nil {
		return
	}
	c.index.Release(b.self)
	for i := range b.entries {
		e := &b.entries[i]
		c.index.ReleaseService(e.service)
		c.index.Release(e.pods)
		c.index.ReleaseNodeSet(e.nodes)
	}
}

// setPolicy takes up a policy. A change of its status alone is none.
func (c *catalog) setPolicy(ctx context.Context, p *v1alpha1.LatencyPolicy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
	old, ok := c.policies[key]
	if ok && old.uid == p.UID && old.generation == p.Generation && p.Generation != 0 {
		return
	}
	now := &policy{uid: p.UID, generation: p.Generation}
	in, selector, err := intent.FromPolicy(p)
	if err != nil {
		now.err = err
		metrics.BadIntents.WithLabelValues("LatencyPolicy").Inc()
		klog.FromContext(ctx).Error(err, "A LatencyPolicy is invalid and does nothing", "policy", key)
	} else {
		now.bound = c.bind(in, c.index.Pods(p.Namespace, nil, selector), p.Spec.Selector.MatchLabels)
	}
	c.policies[key] = now
	if ok {
		c.release(old.bound)
	}
	c.touch()
}

func (c *catalog) deletePolicy(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.policies[key]; ok {
		delete(c.policies, key)
		c.release(old.bound)
		c.touch()
	}
}

// allPolicies returns the policies as they are now.
func (c *catalog) allPolicies() map[types.NamespacedName]*policy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.policies)
}

// setPod takes up a pod's annotation.
func (c *catalog) setPod(pod *v1.Pod) {
	text, ok := pod.Annotations[v1alpha1.LatencyAnnotation]
	group := index.AnnotatedGroup(pod)
	c.mu.Lock()
	defer c.mu.Unlock()
	if ok && (pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed) {
		ok = false
	}
	key := annotationKey{pod.Namespace, group}
	had, annotated := c.annotated[pod.UID]
	if annotated == ok && (!ok || had.key == key) {
		return
	}
	if annotated {
		c.dropAnnotation(pod.UID, had)
	}
	if ok {
		a := c.acquireAnnotation(key, text, pod.Labels)
		a.refs++
		c.annotated[pod.UID] = a // not the key: its text is the pod's own copy
	}
}

func (c *catalog) deletePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.annotated[uid]; ok {
		c.dropAnnotation(uid, a)
	}
}

func (c *catalog) dropAnnotation(uid types.UID, a *annotation) {
	delete(c.annotated, uid)
	if a.refs--; a.refs > 0 {
		return
	}
	delete(c.annotations, a.key)
	c.release(a.bound)
	c.touch()
}

// acquireAnnotation parses an annotation that is new.
func (c *catalog) acquireAnnotation(key annotationKey, text string, set labels.Set) *annotation {
	if a, ok := c.annotations[key]; ok {
		return a
	}
	a := &annotation{key: key, made: time.Now()}
	in, err := intent.ParseAnnotation(key.namespace, text)
	if err != nil {
		a.err = err
		metrics.BadIntents.WithLabelValues("annotation").Inc()
	} else {
		a.bound = c.bind(in, c.index.Annotated(key.namespace, key.group), set)
	}
	c.annotations[key] = a
	c.touch()
	return a
}

// annotationOf returns what a pod's annotation says; nil where it has none.
func (c *catalog) annotationOf(v *view, pod *v1.Pod) *annotation {
	group := index.AnnotatedGroup(pod)
	if group == "" {
		return nil
	}
	if a, ok := v.annotations[annotationKey{pod.Namespace, group}]; ok {
		return a
	}
	// The pod's event is still under way to us. Or the pod is gone, and no event will take back what is kept for it: then sweep does.
	if c.exists(pod) {
		c.setPod(pod)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.annotations[annotationKey{pod.Namespace, group}]; ok {
		return a
	}
	return c.acquireAnnotation(annotationKey{pod.Namespace, group}, pod.Annotations[v1alpha1.LatencyAnnotation], pod.Labels)
}

// sweepAge is how long an annotation that no pod has is kept.
const sweepAge = time.Minute

// sweep drops the annotations that no pod has.
func (c *catalog) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, a := range c.annotations {
		if a.refs == 0 && now.Sub(a.made) > sweepAge {
			delete(c.annotations, key)
			c.release(a.bound)
			c.touch()
		}
	}
}
