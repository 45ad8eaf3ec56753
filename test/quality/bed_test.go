// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"github.com/fogsched/fogsched/internal/testserver"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
	"github.com/fogsched/fogsched/pkg/source"
)

// The profiles of a bed.
const (
	latencyOnly = "latency-only"      // NodeLatency is the only score plugin
	shipped     = "fogsched"          // as in manifests/base
	stock       = "default-scheduler" // kube-scheduler's own default
)

const ownProfiles = `
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: ` + stock + `
- schedulerName: ` + latencyOnly + `
  plugins:
    multiPoint:
      disabled: [{name: "*"}]
      enabled: [{name: PrioritySort}, {name: NodeLatency}, {name: DefaultBinder}]
`

const namespace = "default"

func nodeName(n int) string    { return fmt.Sprintf("node-%03d", n) }
func serviceName(n int) string { return fmt.Sprintf("server-%03d", n) }

// bed is a scheduler with its plugins and its data, but without its loop: the test runs the extension points itself, to
// choose which nodes are feasible and to see the scores.
type bed struct {
	profiles map[string]framework.Framework
	nodes    []fwk.NodeInfo // by number
	pods     cache.Indexer  // what the plugins' pod lister reads
	logs     func() string
}

// extra is what a cluster has beside its nodes and their servers.
type extra struct {
	objects  []runtime.Object
	edit     func(runtime.Object) // of each node, Service and pod, before it is there
	policies []v1alpha1.LatencyPolicy
	serve    func(*http.ServeMux) // further kinds
	plugins  frameworkruntime.Registry
	profiles []config.KubeSchedulerProfile
}

// newBed starts a scheduler for a cluster with a node a row. Each node runs the one pod behind the Service of its number. Its
// probers publish the known pairs of m in NodeLatency objects; bad is what a second, broken source reports.
func newBed(t *testing.T, m matrix, load []float64, bad []latency.Sample) *bed {
	t.Helper()
	_, pairs := m.pairs()
	return newBedOf(t, nodeLatencies(m), len(m), pairs, load, bad)
}

// newBedOf starts a scheduler for a cluster of so many nodes whose probers publish a list, and waits until at least so many pairs
// of it are in its snapshot.
func newBedOf(t *testing.T, list v1alpha1.NodeLatencyList, nodes, pairs int, load []float64, bad []latency.Sample) *bed {
	t.Helper()
	return newBedWith(t, list, nodes, pairs, load, bad, extra{})
}

// newBedWith starts a scheduler for a cluster that has more than nodes and their servers.
func newBedWith(t *testing.T, list v1alpha1.NodeLatencyList, nodes, pairs int, load []float64, bad []latency.Sample, more extra) *bed {
	t.Helper()
	metrics.MeasuredPairs.Set(0) // what an earlier scheduler left
	logger := ktesting.NewLogger(ktesting.NopTL{}, ktesting.NewConfig(ktesting.Verbosity(0), ktesting.BufferLogs(true)))
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logger))
	t.Cleanup(cancel)

	api := testserver.New(t, newAPI(t, list, more))

	broken := &brokenSource{samples: bad, done: make(chan struct{})}
	registry := frameworkruntime.Registry{
		nodelatency.Name: nodelatency.NewWith(nodelatency.Options{Sources: map[string]source.Source{"broken": broken}}),
	}
	maps.Copy(registry, more.plugins)
	all := append(objects(nodes, load), more.objects...)
	if more.edit != nil {
		for _, o := range all {
			more.edit(o)
		}
	}
	clientSet := fake.NewClientset(all...)
	factory := informers.NewSharedInformerFactory(clientSet, 0)
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: clientSet.EventsV1()})
	sched, err := scheduler.New(ctx, clientSet, factory, nil, profile.NewRecorderFactory(broadcaster),
		scheduler.WithProfiles(append(profiles(t), more.profiles...)...),
		scheduler.WithFrameworkOutOfTreeRegistry(registry),
		scheduler.WithKubeConfig(&restclient.Config{Host: api.URL}),
	)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := sched.WaitForHandlersSync(ctx); err != nil {
		t.Fatal(err)
	}

	b := &bed{profiles: map[string]framework.Framework{}, pods: factory.Core().V1().Pods().Informer().GetIndexer()}
	for name, p := range sched.Profiles {
		b.profiles[name] = p
	}
	if underlier, ok := logger.GetSink().(ktesting.Underlier); ok {
		b.logs = underlier.GetBuffer().String
	}
	// One cycle of the scheduler itself fills the snapshot that the plugins read.
	if _, err := sched.SchedulePod(ctx, b.profiles[stock], framework.NewCycleState(), newPod("first", stock, "")); err != nil {
		t.Fatal(err)
	}
	for n := range nodes {
		info, err := b.profiles[stock].SnapshotSharedLister().NodeInfos().Get(nodeName(n))
		if err != nil {
			t.Fatal(err)
		}
		b.nodes = append(b.nodes, info)
	}

	// What is bad must have had its chance to do harm before the first placement.
	<-broken.done
	deadline := time.Now().Add(time.Minute)
	for have, since := 0.0, time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if now := gauge(t, metrics.MeasuredPairs); now != have {
			have, since = now, time.Now()
		}
		// The store does not believe everything: a few pairs may never come.
		all := have >= float64(pairs) || have >= 0.97*float64(pairs) && time.Since(since) > 3*time.Second
		if all && gauge(t, metrics.Pairs) == float64(nodes*(nodes-1)/2) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v of %d pairs are in the snapshot after a minute", have, pairs)
		}
	}
	time.Sleep(500 * time.Millisecond) // above what the store gathers changes for
	return b
}

// profiles returns the shipped configuration's profile and ours.
func profiles(t *testing.T) []config.KubeSchedulerProfile {
	t.Helper()
	manifest, err := os.ReadFile(filepath.Join(repositoryRoot(t), "manifests", "base", "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var list []config.KubeSchedulerProfile
	for _, text := range []string{string(manifest), ownProfiles} {
		obj, _, err := scheme.Codecs.UniversalDecoder().Decode([]byte(text), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range obj.(*config.KubeSchedulerConfiguration).Profiles {
			if p.SchedulerName != stock {
				// The data are fed once; a slow machine must not outlive them.
				p.PluginConfig = slices.DeleteFunc(p.PluginConfig, func(c config.PluginConfig) bool { return c.Name == nodelatency.Name })
				p.PluginConfig = append(p.PluginConfig, config.PluginConfig{
					Name: nodelatency.Name, Args: &runtime.Unknown{Raw: []byte(`{"maxAge": "6h"}`)},
				})
			}
			list = append(list, p)
		}
	}
	return list
}

// brokenSource reports its samples once.
type brokenSource struct {
	samples []latency.Sample
	done    chan struct{}
}

func (s *brokenSource) Run(ctx context.Context, update source.Update) error {
	byReporter := map[string][]latency.Sample{}
	for _, sample := range s.samples {
		byReporter[sample.From] = append(byReporter[sample.From], sample)
	}
	for from, samples := range byReporter {
		update(from, latency.Report{Samples: samples})
	}
	close(s.done)
	<-ctx.Done()
	return nil
}

// objects are the nodes, and on each a server behind a Service of its own. load is the share of each node that is requested.
func objects(nodes int, load []float64) []runtime.Object {
	list := []runtime.Object{&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}}
	for n := range nodes {
		capacity := v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("16"), v1.ResourceMemory: resource.MustParse("64Gi"), v1.ResourcePods: resource.MustParse("110"),
		}
		labels := map[string]string{"app": serviceName(n)}
		server := newPod(serviceName(n), stock, "")
		server.Labels = labels
		server.Spec.NodeName = nodeName(n)
		server.Spec.Containers[0].Resources.Requests = v1.ResourceList{
			v1.ResourceCPU:    *resource.NewMilliQuantity(int64(load[n]*16000), resource.DecimalSI),
			v1.ResourceMemory: *resource.NewQuantity(int64(load[(n+1)%len(load)]*float64(64<<30)), resource.BinarySI),
		}
		server.Status.Phase = v1.PodRunning
		list = append(list,
			&v1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: nodeName(n), Labels: map[string]string{v1.LabelHostname: nodeName(n)}},
				Status: v1.NodeStatus{
					Capacity: capacity, Allocatable: capacity,
					Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}},
				},
			},
			&v1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: serviceName(n)},
				Spec:       v1.ServiceSpec{Selector: labels},
			},
			server)
	}
	return list
}

// newPod returns a pod with the annotation fogsched.dev/latency, or without one where it is "".
func newPod(name, schedulerName, annotation string) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name)},
		Spec: v1.PodSpec{
			SchedulerName: schedulerName,
			Containers: []v1.Container{{
				Name: "main", Image: "example.com/main:1",
				Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
					v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("128Mi"),
				}},
			}},
		},
	}
	if annotation != "" {
		pod.Annotations = map[string]string{v1alpha1.LatencyAnnotation: annotation}
	}
	return pod
}

// scores runs a profile from PreFilter to the weighted sum of the normalised scores, on the nodes that are feasible.
func (b *bed) scores(t *testing.T, profileName string, state fwk.CycleState, pod *v1.Pod, feasible []int) []fwk.NodePluginScores {
	t.Helper()
	ctx, f := t.Context(), b.profiles[profileName]
	if _, status, _ := f.RunPreFilterPlugins(ctx, state, pod); !status.IsSuccess() {
		t.Fatalf("PreFilter of %s: %v", pod.Name, status)
	}
	candidates := make([]fwk.NodeInfo, len(feasible))
	for i, n := range feasible {
		candidates[i] = b.nodes[n]
		if status := f.RunFilterPlugins(ctx, state, pod, candidates[i]); !status.IsSuccess() {
			t.Fatalf("Filter of %s on %s: %v", pod.Name, nodeName(n), status)
		}
	}
	if status := f.RunPreScorePlugins(ctx, state, pod, candidates); !status.IsSuccess() {
		t.Fatalf("PreScore of %s: %v", pod.Name, status)
	}
	scores, status := f.RunScorePlugins(ctx, state, pod, candidates)
	if !status.IsSuccess() {
		t.Fatalf("Score of %s: %v", pod.Name, status)
	}
	return scores
}

// choose returns the feasible node of the highest score. feasible is in random order, so that the first of equal ones is
// as good as kube-scheduler's throw of the dice, and the same in every run.
func (b *bed) choose(t *testing.T, profileName string, state fwk.CycleState, pod *v1.Pod, feasible []int) int {
	t.Helper()
	best := 0
	scores := b.scores(t, profileName, state, pod, feasible)
	for i := range scores {
		if scores[i].TotalScore > scores[best].TotalScore {
			best = i
		}
	}
	return feasible[best]
}

// newAPI serves what an API server with our CRDs would: discovery, the policies, and a NodeLatency a node.
func newAPI(t *testing.T, list v1alpha1.NodeLatencyList, more extra) http.Handler {
	t.Helper()
	mux := http.NewServeMux()
	base := "/apis/" + v1alpha1.GroupVersion.String()
	verbs := metav1.Verbs{"get", "list", "watch"}
	serve(t, mux, base, metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: v1alpha1.GroupVersion.String(),
		APIResources: []metav1.APIResource{
			{Name: client.LatencyPolicies, Kind: "LatencyPolicy", Namespaced: true, Verbs: verbs},
			{Name: client.NodeLatencies, Kind: "NodeLatency", Verbs: verbs},
		},
	})
	serve(t, mux, base+"/"+client.LatencyPolicies, v1alpha1.LatencyPolicyList{
		TypeMeta: metav1.TypeMeta{Kind: "LatencyPolicyList", APIVersion: v1alpha1.GroupVersion.String()},
		ListMeta: metav1.ListMeta{ResourceVersion: "1"},
		Items:    append([]v1alpha1.LatencyPolicy{}, more.policies...),
	})
	serve(t, mux, base+"/"+client.NodeLatencies, list)
	if more.serve != nil {
		more.serve(mux)
	}
	return mux
}

// serve answers a list with an object, and a watch with nothing for as long as anyone listens.
func serve(t *testing.T, mux *http.ServeMux, path string, obj any) {
	t.Helper()
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("sendInitialEvents") != "" {
			// As an API server without the feature: the client goes on with a list.
			http.Error(w, "sendInitialEvents is not supported here", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "" {
			_, _ = w.Write(data) // whoever hung up needs no answer
			return
		}
		w.WriteHeader(http.StatusOK)
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		<-r.Context().Done()
	})
}

// nodeLatencies is what the probers would have published of a matrix: each node what it measured itself.
func nodeLatencies(m matrix) v1alpha1.NodeLatencyList {
	now := metav1.Now()
	list := v1alpha1.NodeLatencyList{
		TypeMeta: metav1.TypeMeta{Kind: "NodeLatencyList", APIVersion: v1alpha1.GroupVersion.String()},
		ListMeta: metav1.ListMeta{ResourceVersion: "1"},
		Items:    []v1alpha1.NodeLatency{},
	}
	for i := range m {
		nl := v1alpha1.NodeLatency{
			ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), ResourceVersion: "1"},
			Status:     v1alpha1.NodeLatencyStatus{ObservedAt: &now},
		}
		for j, ms := range m[i] {
			if i == j || !known(ms) {
				continue
			}
			rtt := &metav1.Duration{Duration: time.Duration(ms * float64(time.Millisecond))}
			nl.Status.Peers = append(nl.Status.Peers, v1alpha1.PeerLatency{
				Node: nodeName(j), Measurement: v1alpha1.Measurement{Typical: rtt, Tail: rtt, Samples: 10, At: &now},
			})
		}
		if len(nl.Status.Peers) > 0 {
			list.Items = append(list.Items, nl)
		}
	}
	return list
}

// gauge reads a metric of one value.
func gauge(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	return sum(t, c)
}

// sum adds up the values of a metric's gauges and counters; of those alone that have a label's value, where one is given.
func sum(t *testing.T, c prometheus.Collector, label ...string) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if len(label) == 2 && !slices.ContainsFunc(m.GetLabel(), func(p *dto.LabelPair) bool { return p.GetName() == label[0] && p.GetValue() == label[1] }) {
				continue
			}
			total += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return total
}
