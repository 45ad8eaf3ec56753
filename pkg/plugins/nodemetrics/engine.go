// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

// metric is a Metric in the form in which it is used.
type metric struct {
	name      string
	query     prometheus.NodeQuery
	direction Direction
	target    float32
	scale     float32 // 0: the largest absolute value
	weight    float32

	hasLimit, hard, rejectUnknown bool
	limit                         float32

	maxAge, window time.Duration
	effect         *PodEffect
	// sign is that of a pod's effect, -1 where higher values are better.
	sign float32
}

func compile(m *Metric) metric {
	c := metric{
		name:      m.Name,
		query:     prometheus.NodeQuery{Name: m.Name, Value: m.Query, Time: m.Time, Label: m.NodeLabel},
		direction: m.Direction, scale: float32(m.Scale), weight: float32(*m.Weight),
		maxAge: m.MaxAge.Duration, window: m.Window.Duration,
		effect: m.PodEffect, sign: 1,
	}
	if m.NodeRegexp != "" {
		c.query.Regexp = regexp.MustCompile(m.NodeRegexp) // valid: validateArgs
	}
	switch m.Direction {
	case Higher:
		c.sign = -1
		c.query.Worse = func(a, b float64) bool { return a < b }
	case Target:
		target := *m.Target
		c.target = float32(target)
		c.query.Worse = func(a, b float64) bool { return math.Abs(a-target) > math.Abs(b-target) }
	}
	if m.Limit != nil {
		c.hasLimit, c.limit = true, float32(*m.Limit)
		c.hard = m.WhenUnsatisfiable == v1.DoNotSchedule
		c.rejectUnknown = m.WhenUnknown == Reject
	}
	return c
}

// engine is what the profiles of one scheduler share: the values, the pods that they do not have yet, and the loop that keeps them current.
type engine struct {
	metrics []metric
	// hard tells whether a limit excludes nodes, limited whether there is one at all.
	hard, limited bool
	// horizon is how long after a pod's start no value can lack a part of it any more.
	horizon  time.Duration
	interval time.Duration

	source  source
	cluster prometheus.Cluster
	synced  []cache.InformerSynced
	guard   *internal.Guard
	waker   *internal.Waker

	current atomic.Pointer[snapshot]

	// changed is signalled when nodes came, went or changed in size.
	changed chan struct{}

	mu     sync.Mutex
	nodes  map[string]*node
	dirty  bool // nodes changed since the last snapshot
	pods   map[types.UID]*placed
	onNode map[string][]*placed

	// Of the loop alone.
	last    []map[string]prometheus.NodeValue // by metric: the newest good value of each node
	failing []bool
	strange []bool // some series were joined to no node
}

// source answers queries.
type source interface {
	NodeValues(ctx context.Context, q *prometheus.NodeQuery, j *prometheus.Joiner, maxAge time.Duration) (*prometheus.NodeValues, error)
}

// node is what is known of a node without Prometheus: by metric, what a pod's effect is multiplied by there, and since when it is this node:
// what was measured before is another's that had its name.
type node struct {
	per     []float32
	created time.Time
}

// engines are the engines that run in this process.
var engines = struct {
	sync.Mutex
	m map[engineKey]*engine
}{m: map[engineKey]*engine{}}

type engineKey struct {
	factory informers.SharedInformerFactory
	args    string
}

// sharedEngine returns the engine for these arguments, started if it is the first of them.
func sharedEngine(ctx context.Context, args *Args, handle fwk.Handle) (*engine, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	engines.Lock()
	defer engines.Unlock()
	key := engineKey{handle.SharedInformerFactory(), string(text)}
	if e, ok := engines.m[key]; ok {
		return e, nil
	}
	c, err := prometheus.NewClient(&args.Prometheus)
	if err != nil {
		return nil, err
	}
	ctx = klog.NewContext(ctx, klog.LoggerWithName(klog.FromContext(ctx), Name))
	e := newEngine(args, c)
	if err := e.follow(handle.SharedInformerFactory()); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, c.Close)
	go e.waker.Run(ctx)
	go e.run(ctx)
	engines.m[key] = e
	context.AfterFunc(ctx, func() {
		engines.Lock()
		defer engines.Unlock()
		delete(engines.m, key)
	})
	return e, nil
}

// newEngine returns an engine whose loop does not run yet.
func newEngine(args *Args, s source) *engine {
	e := &engine{
		source: s, interval: args.Prometheus.Interval.Duration, guard: internal.NewGuard(Name),
		changed: make(chan struct{}, 1),
		nodes:   map[string]*node{}, pods: map[types.UID]*placed{}, onNode: map[string][]*placed{},
	}
	for i := range args.Metrics {
		m := compile(&args.Metrics[i])
		e.metrics = append(e.metrics, m)
		e.hard = e.hard || m.hard
		e.limited = e.limited || m.hasLimit
		e.horizon = max(e.horizon, m.maxAge+m.window+settle)
		e.last = append(e.last, map[string]prometheus.NodeValue{})
	}
	e.failing, e.strange = make([]bool, len(e.metrics)), make([]bool, len(e.metrics))
	e.waker = internal.NewWaker(e.guard, func(logger klog.Logger, pod *v1.Pod) {
		metrics.NodeMetricsWoken.Inc()
		logger.V(3).Info("A node keeps the limits for the pod now", "pod", klog.KObj(pod))
	})
	e.build(time.Now())
	return e
}

// follow learns of nodes and pods from the scheduler's own informers.
func (e *engine) follow(factory informers.SharedInformerFactory) error {
	core := factory.Core().V1()
	e.cluster = prometheus.Cluster{Nodes: core.Nodes().Lister(), Pods: core.Pods().Lister()}
	if err := followAs(e, core.Nodes().Informer(), e.setNode, func(n *v1.Node) { e.deleteNode(n.Name) }); err != nil {
		return err
	}
	return followAs(e, core.Pods().Informer(), e.setPod, func(p *v1.Pod) { e.deletePod(p.UID) })
}

func followAs[T metav1.Object](e *engine, informer cache.SharedIndexInformer, set, remove func(T)) error {
	guarded := func(f func(T), o T) {
		defer e.guard.Recover(context.Background(), "informer", nil)
		f(o)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(T); ok {
				guarded(set, o)
			}
		},
		UpdateFunc: func(old, obj any) {
			o, ok := obj.(T)
			if !ok {
				return
			}
			// One that was deleted and made again while the watch was broken comes as an update.
			if was, ok := old.(T); ok && was.GetUID() != o.GetUID() {
				guarded(remove, was)
			}
			guarded(set, o)
		},
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if o, ok := obj.(T); ok {
				guarded(remove, o)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("following %T: %w", *new(T), err)
	}
	e.synced = append(e.synced, registration.HasSynced)
	return nil
}

func (e *engine) setNode(n *v1.Node) {
	per := make([]float32, len(e.metrics))
	for i := range e.metrics {
		per[i] = e.metrics[i].effect.per(n)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	// Equal by their bits: NaN stands for a size that is unknown.
	if was, ok := e.nodes[n.Name]; ok && slices.EqualFunc(was.per, per, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
		return
	}
	e.nodes[n.Name] = &node{per, n.CreationTimestamp.Time}
	e.nodesChanged()
}

func (e *engine) deleteNode(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.nodes, name)
	e.nodesChanged()
}

// nodesChanged has a new snapshot built soon. e.mu is held.
func (e *engine) nodesChanged() {
	e.dirty = true
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// per returns what an effect is multiplied by on a node: unknown where the node does not say how large it is.
func (p *PodEffect) per(n *v1.Node) float32 {
	if p == nil {
		return 0
	}
	var list v1.ResourceList
	switch p.Per {
	case Allocatable:
		list = n.Status.Allocatable
	case Capacity:
		list = n.Status.Capacity
	default:
		return 1
	}
	q := list[p.Resource]
	if size := q.AsApproximateFloat64(); size > 0 {
		return float32(1 / size)
	}
	return unknown
}

// effects returns by how much a pod moves each metric on a node whose per is 1.
func (e *engine) effects(pod *v1.Pod) []float32 {
	effects := make([]float32, len(e.metrics))
	var requests v1.ResourceList
	for i := range e.metrics {
		m := &e.metrics[i]
		if m.effect == nil {
			continue
		}
		amount := 1.0
		if m.effect.Resource != v1.ResourcePods {
			if requests == nil {
				requests = resource.PodRequests(pod, resource.PodResourcesOptions{})
			}
			q := requests[m.effect.Resource]
			if q.IsZero() && m.effect.Default != nil {
				q = *m.effect.Default
			}
			amount = max(q.AsApproximateFloat64(), 0)
		}
		effects[i] = m.sign * float32(amount*m.effect.Factor)
	}
	return effects
}

func (e *engine) setPod(pod *v1.Pod) {
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp != nil {
			e.waker.Forget(pod.UID)
		} else {
			e.waker.Update(pod)
		}
		return
	}
	e.waker.Forget(pod.UID)
	started := startOf(pod)
	if ended(pod) || !started.IsZero() && time.Since(started) > e.horizon {
		e.remove(pod.UID)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, ok := e.pods[pod.UID]; ok && p.node == pod.Spec.NodeName {
		p.assumed = false
		if !p.started.Equal(started) {
			p.started = started
			e.reload(p.node)
		}
		return
	}
	e.put(pod, pod.Spec.NodeName, started, false)
}

func (e *engine) deletePod(uid types.UID) {
	e.waker.Forget(uid)
	e.remove(uid)
}

// assume counts a pod on the node that a cycle chose for it.
func (e *engine) assume(pod *v1.Pod, node string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.put(pod, node, time.Time{}, true)
}

// forget takes back assume, unless the API server has the pod there.
func (e *engine) forget(uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, ok := e.pods[uid]; ok && p.assumed {
		e.take(uid)
	}
}

func (e *engine) remove(uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.take(uid)
}

// put counts a pod on a node. e.mu is held.
func (e *engine) put(pod *v1.Pod, node string, started time.Time, assumed bool) {
	e.take(pod.UID)
	p := &placed{node: node, effects: e.effects(pod), started: started, assumed: assumed}
	e.pods[pod.UID] = p
	e.onNode[node] = append(e.onNode[node], p)
	e.reload(node)
	metrics.NodeMetricsUnseenPods.Set(float64(len(e.pods)))
}

// take drops a pod. e.mu is held.
func (e *engine) take(uid types.UID) {
	p, ok := e.pods[uid]
	if !ok {
		return
	}
	delete(e.pods, uid)
	rest := e.onNode[p.node]
	rest = slices.Delete(rest, slices.Index(rest, p), slices.Index(rest, p)+1)
	if len(rest) > 0 {
		e.onNode[p.node] = rest
	} else {
		delete(e.onNode, p.node)
	}
	e.reload(p.node)
	metrics.NodeMetricsUnseenPods.Set(float64(len(e.pods)))
	if e.hard {
		e.waker.Wake() // a node's load went down
	}
}

// reload sets the load of a node anew in the current snapshot. e.mu is held.
func (e *engine) reload(node string) {
	s := e.current.Load()
	if n := s.number(node); n >= 0 {
		s.load(e.metrics, n, e.onNode[node])
	}
}

// ended reports whether a pod does nothing any more, or is about to end.
func ended(pod *v1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// startOf returns when a pod began to run, zero where it does not run yet. A pod whose containers began anew counts from when the kubelet took
// it up: what it does is in the samples since before.
func startOf(pod *v1.Pod) time.Time {
	if pod.Status.Phase != v1.PodRunning {
		return time.Time{}
	}
	var first time.Time
	again := false
	for i := range pod.Status.ContainerStatuses {
		c := &pod.Status.ContainerStatuses[i]
		again = again || c.RestartCount > 0
		if r := c.State.Running; r != nil && !r.StartedAt.IsZero() && (first.IsZero() || r.StartedAt.Time.Before(first)) {
			first = r.StartedAt.Time
		}
	}
	if !first.IsZero() && !again {
		return first
	}
	if t := pod.Status.StartTime; t != nil {
		return t.Time
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == v1.PodScheduled {
			return c.LastTransitionTime.Time
		}
	}
	return pod.CreationTimestamp.Time
}

// nodeSettle is how long changes of nodes are gathered before a snapshot is built for them.
const nodeSettle = 200 * time.Millisecond

// run asks for values and builds snapshots until ctx ends. Queries run beside, so that a slow Prometheus keeps nothing from expiring.
func (e *engine) run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), e.synced...) { // series could be joined to no node
		return
	}
	ticker := time.NewTicker(e.interval)
	defer ticker.Stop()
	answers := make(chan []answer, 1)
	asking := true
	go func() { answers <- e.ask(ctx) }()
	expiry := time.NewTimer(e.interval)
	defer expiry.Stop()
	for {
		tick := ticker.C
		if asking { // a tick in the meantime stays in the channel, so that what follows a slow answer is asked at once
			tick = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
			asking = true
			go func() { answers <- e.ask(ctx) }()
			continue
		case a := <-answers:
			asking = false
			if ctx.Err() != nil {
				return
			}
			e.guarded(ctx, "refresh", func() { e.takeUp(ctx, a) })
		case <-expiry.C:
		case <-e.changed:
			select {
			case <-ctx.Done():
				return
			case <-time.After(nodeSettle):
			}
		}
		e.guarded(ctx, "build", func() { e.build(time.Now()) })
		next := e.interval
		if t := e.current.Load().expires; !t.IsZero() {
			next = max(min(next, time.Until(t)+time.Millisecond), nodeSettle)
		}
		expiry.Reset(next)
	}
}

func (e *engine) guarded(ctx context.Context, what string, f func()) {
	defer e.guard.Recover(ctx, what, nil)
	f()
}

var errPanic = errors.New("panic; see the log")

// answer is what became of the query of one metric.
type answer struct {
	values *prometheus.NodeValues
	err    error
}

// ask asks for all metrics at once: one that Prometheus takes long for keeps the others from nothing.
func (e *engine) ask(ctx context.Context) []answer {
	answers := make([]answer, len(e.metrics))
	var j *prometheus.Joiner // of all: in a large cluster its table of pods is large
	e.guarded(ctx, "query", func() { j = e.cluster.Joiner() })
	var wg sync.WaitGroup
	for i := range e.metrics {
		m := &e.metrics[i]
		wg.Go(func() {
			answers[i].err = errPanic
			e.guarded(ctx, "query", func() {
				answers[i].values, answers[i].err = e.source.NodeValues(ctx, &m.query, j, m.maxAge)
			})
		})
	}
	wg.Wait()
	return answers
}

// takeUp keeps the newest value of each node, and says what changed for the worse or the better.
func (e *engine) takeUp(ctx context.Context, answers []answer) {
	logger := klog.FromContext(ctx)
	for i, a := range answers {
		m := &e.metrics[i]
		if a.err != nil {
			if !e.failing[i] {
				logger.Error(a.err, "Could not ask for a metric; using what is known of it until that is too old", "metric", m.name, "maxAge", m.maxAge)
			}
			e.failing[i] = true
			continue
		}
		if e.failing[i] {
			logger.Info("A metric is answered again", "metric", m.name, "nodes", len(a.values.Nodes))
		}
		e.failing[i] = false
		if strange := a.values.Unjoined > 0; strange != e.strange[i] {
			e.strange[i] = strange
			if strange {
				logger.Info("Some series of a metric stand for no node; see nodeLabel and nodeRegexp",
					"metric", m.name, "series", a.values.Unjoined, "label", m.query.Label, "example", a.values.Example, "nodes", len(a.values.Nodes))
			}
		}
		for name, v := range a.values.Nodes {
			if was, ok := e.last[i][name]; !ok || !v.At.Before(was.At) {
				e.last[i][name] = v
			}
		}
	}
}

// build makes a snapshot of what is known at a time, and puts it in the place of the last one.
func (e *engine) build(now time.Time) {
	e.mu.Lock()
	old, dirty := e.current.Load(), e.dirty || e.current.Load() == nil
	e.dirty = false
	var names []string
	var nodes map[string]*node
	if dirty {
		names, nodes = slices.Collect(maps.Keys(e.nodes)), maps.Clone(e.nodes)
	}
	e.mu.Unlock()

	s := &snapshot{metrics: make([]values, len(e.metrics))}
	if dirty {
		s.numbers, s.names = numbering(names), names
		s.created = make([]time.Time, len(names))
		for n, name := range names {
			s.created[n] = nodes[name].created
		}
	} else {
		s.numbers, s.names, s.created = old.numbers, old.names, old.created
	}
	for i := range e.metrics {
		m, v := &e.metrics[i], &s.metrics[i]
		*v = values{measured: make([]float32, len(s.names)), at: make([]int64, len(s.names)), load: make([]atomic.Uint32, len(s.names))}
		newest := time.Time{}
		for n, name := range s.names {
			value, ok := e.last[i][name]
			if !ok || now.Sub(value.At) > m.maxAge || value.At.Before(s.created[n]) || math.Abs(value.Value) > math.MaxFloat32 {
				v.measured[n] = unknown
				v.load[n].Store(math.Float32bits(unknown))
				continue
			}
			v.measured[n], v.at[n] = float32(value.Value), value.At.UnixNano()
			v.load[n].Store(math.Float32bits(v.measured[n]))
			v.known++
			if expires := value.At.Add(m.maxAge); s.expires.IsZero() || expires.Before(s.expires) {
				s.expires = expires
			}
			if value.At.After(newest) {
				newest = value.At
			}
		}
		maps.DeleteFunc(e.last[i], func(name string, value prometheus.NodeValue) bool {
			return s.number(name) < 0 || now.Sub(value.At) > m.maxAge
		})
		if m.effect != nil {
			if dirty {
				v.per = make([]float32, len(s.names))
				for n, name := range s.names {
					v.per[n] = nodes[name].per[i]
				}
			} else {
				v.per = old.metrics[i].per
			}
		}
		metrics.NodeMetricsKnownNodes.WithLabelValues(m.name).Set(float64(v.known))
		if !newest.IsZero() {
			metrics.NodeMetricsNewestSample.WithLabelValues(m.name).Set(float64(newest.UnixMilli()) / 1000)
		}
	}

	e.mu.Lock()
	for uid, p := range e.pods {
		if !p.started.IsZero() && now.Sub(p.started) > e.horizon {
			e.take(uid)
		}
	}
	for name, pods := range e.onNode {
		if n := s.number(name); n >= 0 {
			s.load(e.metrics, n, pods)
		}
	}
	e.current.Store(s)
	e.mu.Unlock()
	e.waker.Wake()
}
