// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/source/zones"
	"github.com/fogsched/fogsched/pkg/store"
)

// cycleState keeps its data as the framework's does. What it does not override must not be used.
type cycleState struct {
	fwk.CycleState
	storage sync.Map
}

func (c *cycleState) Read(key fwk.StateKey) (fwk.StateData, error) {
	if v, ok := c.storage.Load(key); ok {
		return v.(fwk.StateData), nil
	}
	return nil, fwk.ErrNotFound
}

func (c *cycleState) Write(key fwk.StateKey, data fwk.StateData) { c.storage.Store(key, data) }

func (c *cycleState) Clone() fwk.CycleState {
	clone := &cycleState{}
	c.storage.Range(func(k, v any) bool {
		clone.storage.Store(k, v.(fwk.StateData).Clone())
		return true
	})
	return clone
}

type nodeInfo struct {
	fwk.NodeInfo
	node *v1.Node
}

func (n *nodeInfo) Node() *v1.Node { return n.node }

func makeNode(name string, labels map[string]string) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// handle has what a profile gives to a plugin, and remembers which pods were activated.
type handle struct {
	fwk.Handle
	recorder  events.EventRecorder
	clientSet kubernetes.Interface
	factory   informers.SharedInformerFactory
	cacher    fwk.APICacher

	mu        sync.Mutex
	activated []string
}

func (h *handle) EventRecorder() events.EventRecorder                    { return h.recorder }
func (h *handle) ClientSet() kubernetes.Interface                        { return h.clientSet }
func (h *handle) SharedInformerFactory() informers.SharedInformerFactory { return h.factory }
func (h *handle) APICacher() fwk.APICacher                               { return h.cacher }
func (h *handle) KubeConfig() *rest.Config                               { return nil }

func (h *handle) Activate(_ klog.Logger, pods map[string]*v1.Pod) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.activated = append(h.activated, slices.Sorted(maps.Keys(pods))...)
}

func (h *handle) takeActivated() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() { h.activated = nil }()
	return h.activated
}

// podBuilder makes a pod that is named, and identified, by one word.
type podBuilder struct{ v1.Pod }

func makePod(name string) *podBuilder {
	return &podBuilder{v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{}}}}
}

func (b *podBuilder) node(n string) *podBuilder { b.Spec.NodeName = n; return b }

func (b *podBuilder) app(name string) *podBuilder { b.Labels["app"] = name; return b }

func (b *podBuilder) annotation(text string) *podBuilder {
	b.Annotations = map[string]string{v1alpha1.LatencyAnnotation: text}
	return b
}

func (b *podBuilder) revision(app, hash string) *podBuilder {
	yes := true
	b.Labels["pod-template-hash"] = hash
	b.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: app + "-" + hash, Controller: &yes}}
	return b
}

func (b *podBuilder) obj() *v1.Pod { return &b.Pod }

func makeService(name, app string) *v1.Service {
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       v1.ServiceSpec{Selector: map[string]string{"app": app}},
	}
}

// fixture is a plugin on a cluster whose nodes stand on a line: the median RTT between two of them is their distance in
// milliseconds plus one, the tail is twice that. Each node is labelled name=<its name>.
type fixture struct {
	testing.TB
	plugin   *NodeLatency
	handle   *handle
	events   *events.FakeRecorder
	at       map[string]float64 // NaN: nobody measures it
	age      time.Duration      // of the measurements
	policies int64
}

func newFixture(t testing.TB, at map[string]float64) *fixture {
	recorder := events.NewFakeRecorder(100)
	f := &fixture{TB: t, at: at, handle: &handle{recorder: recorder}, events: recorder}
	e := newEngine(store.New(store.DefaultMaxAge, nil))
	e.ready.Store(true)
	f.plugin = newPlugin(f.handle, e)
	for name := range at {
		e.setNode(makeNode(name, map[string]string{"name": name}))
	}
	f.measure()
	return f
}

// measure has every node report its distance to all others, and builds the snapshot.
func (f *fixture) measure() {
	sink := f.plugin.engine.store.Sink("test")
	now := time.Now()
	for from, x := range f.at {
		var samples []latency.Sample
		for to, y := range f.at {
			if from == to || math.IsNaN(x) || math.IsNaN(y) {
				continue
			}
			ms := math.Abs(x-y) + 1
			samples = append(samples, latency.Sample{
				From: from, To: to, Typical: ms / 1000, Tail: 2 * ms / 1000, Count: 10, At: now.Add(-f.age),
			})
		}
		sink(from, latency.Report{Samples: samples})
	}
	f.refresh()
}

// refresh builds a snapshot of what was reported: a store that runs under a context that has ended ticks once.
func (f *fixture) refresh() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f.plugin.engine.store.Run(ctx)
}

// policy adds a LatencyPolicy for the pods of an app; spec is YAML or JSON.
func (f *fixture) policy(name, app, spec string) {
	f.Helper()
	p := &v1alpha1.LatencyPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		f.Fatal(err)
	}
	f.policies++
	p.Generation = f.policies
	p.Spec.Selector.MatchLabels = map[string]string{"app": app}
	f.plugin.engine.catalog.setPolicy(context.Background(), p)
}

// place puts pods of an app on nodes.
func (f *fixture) place(app string, nodes ...string) {
	for i, n := range nodes {
		f.plugin.engine.setPod(makePod(fmt.Sprintf("%s-%d", app, i)).app(app).node(n).obj())
	}
}

func (f *fixture) nodeInfos(names ...string) []fwk.NodeInfo {
	var infos []fwk.NodeInfo
	for _, n := range names {
		infos = append(infos, &nodeInfo{node: makeNode(n, nil)})
	}
	return infos
}

// outcome is what one scheduling cycle found.
type outcome struct {
	cycle    *cycleState
	rejected map[string]string // node → reason
	scores   map[string]int64  // empty where the plugin has nothing to say
	message  string            // of PostFilter, where no node was left
}

// order is the nodes by score, best first: "a b=c" has b and c level.
func (o *outcome) order() string {
	names := slices.SortedFunc(maps.Keys(o.scores), func(a, b string) int {
		return cmp.Or(cmp.Compare(o.scores[b], o.scores[a]), cmp.Compare(a, b))
	})
	var s strings.Builder
	for i, n := range names {
		if i > 0 {
			if o.scores[names[i-1]] == o.scores[n] {
				s.WriteByte('=')
			} else {
				s.WriteByte(' ')
			}
		}
		s.WriteString(n)
	}
	return s.String()
}

// schedule runs the extension points for a pod as the framework does, over the named nodes, or all.
func (f *fixture) schedule(pod *v1.Pod, nodes ...string) *outcome {
	f.Helper()
	ctx := context.Background()
	if len(nodes) == 0 {
		nodes = slices.Sorted(maps.Keys(f.at))
	}
	infos := f.nodeInfos(nodes...)
	o := &outcome{cycle: &cycleState{}, rejected: map[string]string{}, scores: map[string]int64{}}
	p := f.plugin
	_, status := p.PreFilter(ctx, o.cycle, pod, infos)
	if !status.IsSkip() {
		if !status.IsSuccess() {
			f.Fatalf("PreFilter: %v", status)
		}
		var left []fwk.NodeInfo
		for _, ni := range infos {
			switch status := p.Filter(ctx, o.cycle, pod, ni); status.Code() {
			case fwk.Success:
				left = append(left, ni)
			case fwk.UnschedulableAndUnresolvable:
				o.rejected[ni.Node().Name] = status.Message()
			default:
				f.Fatalf("Filter: %v", status)
			}
		}
		infos = left
	}
	if len(infos) == 0 {
		result, status := p.PostFilter(ctx, o.cycle, pod, nil)
		if result != nil || status.Code() != fwk.Unschedulable {
			f.Fatalf("PostFilter: %v, %v", result, status)
		}
		o.message = status.Message()
		return o
	}
	switch status := p.PreScore(ctx, o.cycle, pod, infos); {
	case status.IsSkip():
		return o
	case !status.IsSuccess():
		f.Fatalf("PreScore: %v", status)
	}
	list := make(fwk.NodeScoreList, len(infos))
	for i, ni := range infos {
		cost, status := p.Score(ctx, o.cycle, pod, ni)
		if !status.IsSuccess() || cost <= 0 {
			f.Fatalf("Score: %d, %v", cost, status)
		}
		list[i] = fwk.NodeScore{Name: ni.Node().Name, Score: cost}
	}
	if status := p.ScoreExtensions().NormalizeScore(ctx, o.cycle, pod, list); !status.IsSuccess() {
		f.Fatalf("NormalizeScore: %v", status)
	}
	for _, s := range list {
		if s.Score < fwk.MinNodeScore || s.Score > fwk.MaxNodeScore {
			f.Errorf("node %s has the score %d", s.Name, s.Score)
		}
		o.scores[s.Name] = s.Score
	}
	return o
}

func (f *fixture) event() string {
	select {
	case e := <-f.events.Events:
		return e
	default:
		return ""
	}
}

func newEngineWithZones(table *zones.Table) *engine {
	e := newEngine(store.New(store.DefaultMaxAge, table))
	e.ready.Store(true)
	return e
}
