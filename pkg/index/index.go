// SPDX-License-Identifier: Apache-2.0

// Package index knows which nodes hold which workload: for a Service, a selector or a group of pods, on which nodes and how
// many, pods in flight included. It is kept up to date by informer events and by the scheduler's Reserve and Unreserve.
// Readers take no lock and see an immutable list.
package index

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// Revision tells the pods of one revision of a Deployment from those of another: while a rollout replaces them, the old
// ones are no peers of the new.
type Revision struct {
	App  string // the Deployment's namespace and name
	Hash string // its pod-template-hash
}

// RevisionOf returns a pod's revision; the zero value where it does not belong to a Deployment.
func RevisionOf(pod *v1.Pod) Revision {
	hash := pod.Labels["pod-template-hash"]
	owner := metav1.GetControllerOfNoCopy(pod)
	if hash == "" || owner == nil || owner.Kind != "ReplicaSet" {
		return Revision{}
	}
	app, ok := strings.CutSuffix(owner.Name, "-"+hash)
	if !ok {
		return Revision{}
	}
	return Revision{App: pod.Namespace + "/" + app, Hash: hash}
}

// AnnotatedGroup names the pods that one annotation fogsched.dev/latency makes replicas of one another: those of the same
// controller and, without one, of the same labels, with the same text. Two Deployments with the same text serve their clients
// each on its own. It is "" for a pod without the annotation.
func AnnotatedGroup(pod *v1.Pod) string {
	text, ok := pod.Annotations[v1alpha1.LatencyAnnotation]
	if !ok {
		return ""
	}
	owner := metav1.GetControllerOfNoCopy(pod)
	revision := RevisionOf(pod)
	switch {
	case revision.App != "":
		return "Deployment/" + revision.App + "\n" + text
	case owner != nil:
		return owner.Kind + "/" + owner.Name + "\n" + text
	default:
		return labels.Set(pod.Labels).String() + "\n" + text
	}
}

// Replaces reports whether pods of r take the place of pods of old.
func (r Revision) Replaces(old Revision) bool {
	return r.App != "" && r.App == old.App && r.Hash != old.Hash
}

// NodeCount is how many pods of one revision of a workload are on a node.
type NodeCount struct {
	Node     string
	Revision Revision
	Count    int32 // ≥ 1
}

// Workload is a set of pods. Get it from an Index, which keeps it current.
type Workload struct {
	key     string
	scope   scope
	matches func(set labels.Set, group string) bool
	refs    int // guarded by Index.mu

	counts map[countKey]int32 // guarded by Index.mu
	nodes  atomic.Pointer[[]NodeCount]
}

type countKey struct {
	node string
	rev  Revision
}

// Nodes returns the nodes that hold the workload, in the order of their names. The list is immutable.
func (w *Workload) Nodes() []NodeCount {
	if p := w.nodes.Load(); p != nil {
		return *p
	}
	return nil
}

// scope says where a workload's pods can be, and what to look them up by.
type scope struct {
	namespace string // "" with all
	all       labels.Selector
	label     labelKey // the look-up key, if there is one
}

type labelKey struct{ namespace, key, value string }

// annotationKey stands in a labelKey for the annotation; no label can be named so.
const annotationKey = "\x00" + v1alpha1.LatencyAnnotation

// record is a pod that is on a node, or will be.
type record struct {
	namespace string
	labels    map[string]string
	group     string // AnnotatedGroup
	node      string
	revision  Revision
	assumed   bool
	in        []*Workload
}

// Index is a set of workloads. It is safe for concurrent use.
type Index struct {
	mu   sync.Mutex
	pods map[types.UID]*record
	// inNamespace has the same pods by namespace.
	inNamespace map[string]map[types.UID]*record
	workloads   map[string]*Workload
	services    map[types.NamespacedName]*service
	namespaces  map[string]labels.Set
	nodes       map[string]labels.Set
	nodeSets    map[string]*NodeSet

	lookup atomic.Pointer[lookup]
	// generation grows with every change that can alter a decision.
	generation atomic.Uint64
	changed    chan struct{}
	// routes grows when a followed Service selects other pods.
	routes atomic.Uint64
}

// lookup finds the workloads that a pod is in. It is immutable.
type lookup struct {
	byLabel     map[string]map[labelKey][]*Workload // by label name first: most labels of a pod are in no workload
	names       []string                            // the label names in byLabel
	byNamespace map[string][]*Workload
	wide        []*Workload
	empty       bool
	namespaces  map[string]labels.Set
}

// New returns an empty index.
func New() *Index {
	return &Index{
		pods:        map[types.UID]*record{},
		inNamespace: map[string]map[types.UID]*record{},
		workloads:   map[string]*Workload{},
		services:    map[types.NamespacedName]*service{},
		namespaces:  map[string]labels.Set{},
		nodes:       map[string]labels.Set{},
		nodeSets:    map[string]*NodeSet{},
		changed:     make(chan struct{}, 1),
	}
}

// Changed receives after changes; several may be told as one.
func (x *Index) Changed() <-chan struct{} { return x.changed }

// Generation grows with every change of a workload's nodes, of a Service or of a node set.
func (x *Index) Generation() uint64 { return x.generation.Load() }

// Routes grows whenever a followed Service selects other pods: who keeps a map by Workload makes it anew then.
func (x *Index) Routes() uint64 { return x.routes.Load() }

func (x *Index) notify() {
	x.generation.Add(1)
	select {
	case x.changed <- struct{}{}:
	default:
	}
}

// Pods returns the workload of the pods that match a selector in a namespace or, where namespaces is not nil, in every
// namespace that it selects. Release it when it is no longer needed.
func (x *Index) Pods(namespace string, namespaces, selector labels.Selector) *Workload {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.podsLocked(namespace, namespaces, selector)
}

func (x *Index) podsLocked(namespace string, namespaces, selector labels.Selector) *Workload {
	sc := scope{namespace: namespace, all: namespaces}
	key := "ns " + namespace
	if namespaces != nil {
		sc.namespace = ""
		key = "namespaces " + namespaces.String()
	} else if k, v, ok := equality(selector); ok {
		sc.label = labelKey{namespace, k, v}
	}
	return x.acquire(key+"\npods "+selector.String(), sc, func(set labels.Set, _ string) bool {
		return selector.Matches(set)
	})
}

// Annotated returns the workload of the pods of one AnnotatedGroup in a namespace. Release it when it is no longer needed.
func (x *Index) Annotated(namespace, group string) *Workload {
	x.mu.Lock()
	defer x.mu.Unlock()
	sc := scope{namespace: namespace, label: labelKey{namespace, annotationKey, group}}
	return x.acquire("ns "+namespace+"\nannotated "+group, sc, func(_ labels.Set, other string) bool {
		return other == group
	})
}

// equality returns a label that every match must have.
func equality(s labels.Selector) (key, value string, ok bool) {
	reqs, selectable := s.Requirements()
	if !selectable {
		return "", "", false
	}
	for _, r := range reqs {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			if v := r.ValuesUnsorted(); len(v) == 1 {
				return r.Key(), v[0], true
			}
		}
	}
	return "", "", false
}

func (x *Index) acquire(key string, sc scope, matches func(labels.Set, string) bool) *Workload {
	if w, ok := x.workloads[key]; ok {
		w.refs++
		return w
	}
	w := &Workload{key: key, scope: sc, matches: matches, refs: 1, counts: map[countKey]int32{}}
	x.workloads[key] = w
	x.lookup.Store(nil)
	x.eachPod(sc, func(r *record) {
		if x.contains(w, r) {
			r.in = append(r.in, w)
			w.counts[countKey{r.node, r.revision}]++
		}
	})
	w.publish()
	return w
}

// Release gives a workload back; nil is ignored.
func (x *Index) Release(w *Workload) {
	if w == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.releaseLocked(w)
}

func (x *Index) releaseLocked(w *Workload) {
	if w.refs--; w.refs > 0 {
		return
	}
	delete(x.workloads, w.key)
	x.lookup.Store(nil)
	x.eachPod(w.scope, func(r *record) {
		r.in = slices.DeleteFunc(r.in, func(o *Workload) bool { return o == w })
	})
}

// eachPod calls f for the pods of a scope's namespace, or for all.
func (x *Index) eachPod(sc scope, f func(*record)) {
	if sc.all == nil {
		for _, r := range x.inNamespace[sc.namespace] {
			f(r)
		}
		return
	}
	for _, r := range x.pods {
		f(r)
	}
}

func (x *Index) contains(w *Workload, r *record) bool {
	if w.scope.all != nil {
		// A namespace that is not known yet has no labels: it is looked at again when it appears.
		ns, ok := x.namespaces[r.namespace]
		return ok && w.scope.all.Matches(ns) && w.matches(r.labels, r.group)
	}
	return w.scope.namespace == r.namespace && w.matches(r.labels, r.group)
}

// Matching appends the workloads that a pod belongs, or would belong, to. It takes no lock unless a workload came or went
// since the last call.
func (x *Index) Matching(dst []*Workload, pod *v1.Pod) []*Workload {
	l := x.lookup.Load()
	if l == nil {
		x.mu.Lock()
		l = x.lookupLocked()
		x.mu.Unlock()
	}
	if l.empty {
		return dst
	}
	return l.match(dst, pod.Namespace, pod.Labels, AnnotatedGroup(pod))
}

// MatchingLabels appends the workloads that a pod with these labels in a namespace would belong to, whatever its annotations.
func (x *Index) MatchingLabels(dst []*Workload, namespace string, set labels.Set) []*Workload {
	l := x.lookup.Load()
	if l == nil {
		x.mu.Lock()
		l = x.lookupLocked()
		x.mu.Unlock()
	}
	return l.match(dst, namespace, set, "")
}

// match appends the workloads of a pod with these properties.
func (l *lookup) match(dst []*Workload, namespace string, set labels.Set, group string) []*Workload {
	if len(l.byLabel) > 0 {
		if len(l.names) < len(set) { // a look-up in a pod's few labels is cheaper than the next step of a map's iteration
			for _, k := range l.names {
				if v, ok := set[k]; ok {
					dst = l.matchLabel(dst, namespace, k, v, set, group)
				}
			}
		} else {
			for k, v := range set {
				dst = l.matchLabel(dst, namespace, k, v, set, group)
			}
		}
		if group != "" {
			dst = append(dst, l.byLabel[annotationKey][labelKey{namespace, annotationKey, group}]...)
		}
	}
	for _, w := range l.byNamespace[namespace] {
		if w.matches(set, group) {
			dst = append(dst, w)
		}
	}
	for _, w := range l.wide {
		if ns, ok := l.namespaces[namespace]; ok && w.scope.all.Matches(ns) && w.matches(set, group) {
			dst = append(dst, w)
		}
	}
	return dst
}

func (l *lookup) matchLabel(dst []*Workload, namespace, k, v string, set labels.Set, group string) []*Workload {
	for _, w := range l.byLabel[k][labelKey{namespace, k, v}] {
		if w.matches(set, group) {
			dst = append(dst, w)
		}
	}
	return dst
}

func (x *Index) lookupLocked() *lookup {
	if l := x.lookup.Load(); l != nil {
		return l
	}
	l := &lookup{
		byLabel: map[string]map[labelKey][]*Workload{}, byNamespace: map[string][]*Workload{}, namespaces: map[string]labels.Set{},
		empty: len(x.workloads) == 0,
	}
	for _, w := range x.workloads {
		switch {
		case w.scope.all != nil:
			l.wide = append(l.wide, w)
		case w.scope.label.key != "":
			named := l.byLabel[w.scope.label.key]
			if named == nil {
				named = map[labelKey][]*Workload{}
				l.byLabel[w.scope.label.key] = named
				l.names = append(l.names, w.scope.label.key)
			}
			named[w.scope.label] = append(named[w.scope.label], w)
		default:
			l.byNamespace[w.scope.namespace] = append(l.byNamespace[w.scope.namespace], w)
		}
	}
	if len(l.wide) > 0 {
		maps.Copy(l.namespaces, x.namespaces)
	}
	x.lookup.Store(l)
	return l
}

// publish makes the counts visible to readers.
func (w *Workload) publish() {
	list := make([]NodeCount, 0, len(w.counts))
	for k, c := range w.counts {
		list = append(list, NodeCount{Node: k.node, Revision: k.rev, Count: c})
	}
	slices.SortFunc(list, compareNodeCount)
	w.nodes.Store(&list)
}

func compareNodeCount(a, b NodeCount) int {
	if c := strings.Compare(a.Node, b.Node); c != 0 {
		return c
	}
	if c := strings.Compare(a.Revision.App, b.Revision.App); c != 0 {
		return c
	}
	return strings.Compare(a.Revision.Hash, b.Revision.Hash)
}

// add changes one count and publishes a list that differs in that place alone.
func (w *Workload) add(k countKey, d int32) {
	c := w.counts[k] + d
	old := w.Nodes()
	at, found := slices.BinarySearchFunc(old, NodeCount{Node: k.node, Revision: k.rev}, compareNodeCount)
	list := make([]NodeCount, 0, len(old)+1)
	list = append(list, old[:at]...)
	if c > 0 {
		w.counts[k] = c
		list = append(list, NodeCount{Node: k.node, Revision: k.rev, Count: c})
	} else {
		delete(w.counts, k)
	}
	if found {
		at++
	}
	list = append(list, old[at:]...)
	w.nodes.Store(&list)
}

// SetPod takes up what an informer says of a pod. A pod that finished, is being deleted or is on no node is left out; one
// that Assume put on a node stays there until it is bound or forgotten.
func (x *Index) SetPod(pod *v1.Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if gone(pod) {
		x.remove(pod.UID)
		return
	}
	if pod.Spec.NodeName == "" {
		return
	}
	x.put(pod, pod.Spec.NodeName, false)
}

func gone(pod *v1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// DeletePod takes a pod out.
func (x *Index) DeletePod(uid types.UID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.remove(uid)
}

// Assume puts a pod on a node before it is bound. A pod that is in no workload is taken up when it is bound: until then nobody
// asks for it, and most pods are such.
func (x *Index) Assume(pod *v1.Pod, node string) {
	var buffer [8]*Workload
	counts := len(x.Matching(buffer[:0], pod)) > 0
	x.mu.Lock()
	defer x.mu.Unlock()
	r, ok := x.pods[pod.UID]
	switch {
	case ok && !r.assumed:
	case counts:
		x.put(pod, node, true)
	case ok:
		x.remove(pod.UID)
	}
}

// Forget takes an assumed pod out, unless it was bound in the meantime.
func (x *Index) Forget(uid types.UID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r, ok := x.pods[uid]; ok && r.assumed {
		x.remove(uid)
	}
}

func (x *Index) put(pod *v1.Pod, node string, assumed bool) {
	group := AnnotatedGroup(pod)
	if r, ok := x.pods[pod.UID]; ok {
		if r.node == node && r.group == group && sameLabels(r.labels, pod.Labels) {
			r.assumed, r.labels = assumed, pod.Labels // an assumed pod is a copy, of which nothing needs to be kept
			return
		}
		x.remove(pod.UID)
	}
	r := &record{
		namespace: pod.Namespace, labels: pod.Labels, group: group, node: node,
		revision: RevisionOf(pod), assumed: assumed,
	}
	x.pods[pod.UID] = r
	same := x.inNamespace[r.namespace]
	if same == nil {
		same = map[types.UID]*record{}
		x.inNamespace[r.namespace] = same
	}
	same[pod.UID] = r
	r.in = x.lookupLocked().match(nil, r.namespace, r.labels, r.group)
	for _, w := range r.in {
		if w.scope.label.key == annotationKey {
			r.group = w.scope.label.value // the same text, once for all of its pods
		}
		w.add(countKey{node, r.revision}, 1)
	}
	if len(r.in) > 0 {
		x.notify()
	}
}

func (x *Index) remove(uid types.UID) {
	r, ok := x.pods[uid]
	if !ok {
		return
	}
	delete(x.pods, uid)
	if same := x.inNamespace[r.namespace]; len(same) > 1 {
		delete(same, uid)
	} else {
		delete(x.inNamespace, r.namespace)
	}
	for _, w := range r.in {
		w.add(countKey{r.node, r.revision}, -1)
	}
	if len(r.in) > 0 {
		x.notify()
	}
}

func sameLabels(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || w != v {
			return false
		}
	}
	return true
}

// SetNamespace takes up a namespace's labels.
func (x *Index) SetNamespace(ns *v1.Namespace) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old, ok := x.namespaces[ns.Name]; ok && sameLabels(old, ns.Labels) {
		return
	}
	x.namespaces[ns.Name] = labels.Set(ns.Labels)
	x.namespaceChanged(ns.Name)
}

// DeleteNamespace takes a namespace out.
func (x *Index) DeleteNamespace(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.namespaces, name)
	x.namespaceChanged(name)
}

func (x *Index) namespaceChanged(name string) {
	x.lookup.Store(nil)
	changed := false
	for _, w := range x.workloads {
		if w.scope.all == nil {
			continue
		}
		for _, r := range x.inNamespace[name] {
			was, is := slices.Contains(r.in, w), x.contains(w, r)
			switch {
			case is && !was:
				r.in = append(r.in, w)
				w.add(countKey{r.node, r.revision}, 1)
			case was && !is:
				r.in = slices.DeleteFunc(r.in, func(o *Workload) bool { return o == w })
				w.add(countKey{r.node, r.revision}, -1)
			}
			changed = changed || was != is
		}
	}
	if changed {
		x.notify()
	}
}
