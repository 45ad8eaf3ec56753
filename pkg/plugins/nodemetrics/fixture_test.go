// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/source/prometheus"
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

type nodeInfo struct {
	fwk.NodeInfo
	node *v1.Node
}

func (n *nodeInfo) Node() *v1.Node { return n.node }

// makeNode makes a node with so many cores, a tenth of which is not for pods, 16 GiB and room for 100 pods.
func makeNode(name string, cores int64) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Status: v1.NodeStatus{
			Allocatable: v1.ResourceList{
				v1.ResourceCPU: *resource.NewMilliQuantity(cores*900, resource.DecimalSI), v1.ResourcePods: resource.MustParse("100"),
				v1.ResourceMemory: resource.MustParse("15Gi"),
			},
			Capacity: v1.ResourceList{
				v1.ResourceCPU: *resource.NewQuantity(cores, resource.DecimalSI), v1.ResourceMemory: resource.MustParse("16Gi"),
			},
		},
	}
}

// handle has what a profile gives to a plugin, and remembers which pods were activated.
type handle struct {
	fwk.Handle
	recorder events.EventRecorder
	factory  informers.SharedInformerFactory

	mu        sync.Mutex
	activated []string
}

func (h *handle) EventRecorder() events.EventRecorder                    { return h.recorder }
func (h *handle) SharedInformerFactory() informers.SharedInformerFactory { return h.factory }

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
	return &podBuilder{v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c"}}},
	}}
}

func (b *podBuilder) request(name v1.ResourceName, q string) *podBuilder {
	c := &b.Spec.Containers[0]
	if c.Resources.Requests == nil {
		c.Resources.Requests = v1.ResourceList{}
	}
	c.Resources.Requests[name] = resource.MustParse(q)
	return b
}

func (b *podBuilder) node(n string) *podBuilder { b.Spec.NodeName = n; return b }

// runs has the pod run since a time.
func (b *podBuilder) runs(since time.Time) *podBuilder {
	b.Status.Phase = v1.PodRunning
	b.Status.StartTime = &metav1.Time{Time: since.Add(-10 * time.Second)}
	b.Status.ContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.Time{Time: since}}}}}
	return b
}

func (b *podBuilder) obj() *v1.Pod { return b.DeepCopy() }

// fixture is a plugin on a cluster of nodes of ten cores whose values are set by hand.
type fixture struct {
	testing.TB
	plugin *NodeMetrics
	engine *engine
	handle *handle
	events *events.FakeRecorder
	infos  []fwk.NodeInfo
	pods   cache.Indexer
}

const address = "prometheus: {address: 'http://127.0.0.1:9090'}\n"

func mustArgs(t testing.TB, text string) *Args {
	t.Helper()
	args, err := getArgs(&runtime.Unknown{Raw: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return args
}

// newFixture makes a plugin whose args.metrics are the YAML.
func newFixture(t testing.TB, metrics string, nodes ...string) *fixture {
	t.Helper()
	recorder := events.NewFakeRecorder(1000)
	f := &fixture{TB: t, handle: &handle{recorder: recorder}, events: recorder}
	f.engine = newEngine(mustArgs(t, address+"metrics:\n"+metrics), nil)
	f.pods = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	f.engine.cluster = prometheus.Cluster{Pods: corelisters.NewPodLister(f.pods)}
	f.plugin = newPlugin(f.handle, f.engine)
	for _, name := range nodes {
		f.addNode(makeNode(name, 10))
	}
	f.engine.build(time.Now())
	return f
}

func (f *fixture) addNode(n *v1.Node) {
	f.engine.setNode(n)
	f.infos = append(f.infos, &nodeInfo{node: n})
}

// measure sets what Prometheus says of a metric, "a=0.5 b=0.7", by samples that are so old.
func (f *fixture) measure(metric int, values string, age time.Duration) {
	f.Helper()
	r := &prometheus.NodeValues{Nodes: map[string]prometheus.NodeValue{}}
	for _, s := range strings.Fields(values) {
		name, text, _ := strings.Cut(s, "=")
		var v float64
		if _, err := fmt.Sscan(text, &v); err != nil {
			f.Fatal(err)
		}
		r.Nodes[name] = prometheus.NodeValue{Value: v, At: time.Now().Add(-age)}
	}
	answers := make([]answer, len(f.engine.metrics))
	for i := range answers {
		answers[i].values = &prometheus.NodeValues{}
	}
	answers[metric].values = r
	f.engine.takeUp(context.Background(), answers)
	f.engine.build(time.Now())
}

// outcome is what one scheduling cycle found.
type outcome struct {
	cycle    *cycleState
	rejected map[string]string // node → reason
	scores   map[string]int64  // nil where the plugin has nothing to say
	message  string            // of PostFilter, where no node was left
}

// String is the nodes by score, best first, "a:100 b:90", or what stands in the place of scores.
func (o *outcome) String() string {
	if o.message != "" {
		return o.message
	}
	if o.scores == nil {
		return "no scores"
	}
	names := slices.SortedFunc(maps.Keys(o.scores), func(a, b string) int {
		return cmp.Or(cmp.Compare(o.scores[b], o.scores[a]), cmp.Compare(a, b))
	})
	for i, n := range names {
		names[i] = fmt.Sprintf("%s:%d", n, o.scores[n])
	}
	return strings.Join(names, " ")
}

// schedule runs the extension points for a pod as the framework does, over all nodes.
func (f *fixture) schedule(pod *v1.Pod) *outcome {
	f.Helper()
	ctx := context.Background()
	infos := f.infos
	o := &outcome{cycle: &cycleState{}, rejected: map[string]string{}}
	p := f.plugin
	if _, status := p.PreFilter(ctx, o.cycle, pod, infos); !status.IsSkip() {
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
	o.scores = map[string]int64{}
	for _, ni := range infos {
		score, status := p.Score(ctx, o.cycle, pod, ni)
		if !status.IsSuccess() || score < fwk.MinNodeScore || score > fwk.MaxNodeScore {
			f.Fatalf("Score of %s: %d, %v", ni.Node().Name, score, status)
		}
		o.scores[ni.Node().Name] = score
	}
	if status := p.ScoreExtensions().NormalizeScore(ctx, o.cycle, pod, nil); !status.IsSuccess() {
		f.Fatalf("NormalizeScore: %v", status)
	}
	return o
}

// place puts a pod on the best node as the framework does, and returns the node.
func (f *fixture) place(pod *v1.Pod) string {
	f.Helper()
	o := f.schedule(pod)
	var best string
	for _, ni := range f.infos {
		if n := ni.Node().Name; best == "" || o.scores[n] > o.scores[best] {
			best = n
		}
	}
	f.bind(o, pod, best)
	return best
}

func (f *fixture) bind(o *outcome, pod *v1.Pod, node string) {
	f.Helper()
	if status := f.plugin.Reserve(context.Background(), o.cycle, pod, node); !status.IsSuccess() {
		f.Fatal(status)
	}
	f.plugin.PostBind(context.Background(), o.cycle, pod, node)
}

func (f *fixture) event() string {
	select {
	case e := <-f.events.Events:
		return e
	default:
		return ""
	}
}

// newFactory returns the informers of a cluster that has the nodes.
func newFactory(nodes ...*v1.Node) (informers.SharedInformerFactory, *fake.Clientset) {
	var objects []runtime.Object
	for _, n := range nodes {
		objects = append(objects, n)
	}
	client := fake.NewClientset(objects...)
	return informers.NewSharedInformerFactory(client, 0), client
}
