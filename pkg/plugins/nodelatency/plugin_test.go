// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/utils/ptr"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
	"github.com/fogsched/fogsched/pkg/source/zones"
)

func nn(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

func TestArgs(t *testing.T) {
	raw := func(s string) runtime.Object { return &runtime.Unknown{Raw: []byte(s)} }
	tests := map[string]struct {
		in        runtime.Object
		want      Args
		wantError string
	}{
		"none":          {want: Args{MaxAge: metav1.Duration{Duration: 5 * time.Minute}}},
		"empty":         {in: raw(""), want: Args{MaxAge: metav1.Duration{Duration: 5 * time.Minute}}},
		"an empty list": {in: raw("{}"), want: Args{MaxAge: metav1.Duration{Duration: 5 * time.Minute}}},
		"all of them, in YAML": {
			in: raw("apiVersion: kubescheduler.config.k8s.io/v1\nkind: NodeLatencyArgs\nmaxAge: 90s\nzonesFile: /etc/zones.yaml"),
			want: Args{
				TypeMeta: metav1.TypeMeta{APIVersion: "kubescheduler.config.k8s.io/v1", Kind: "NodeLatencyArgs"},
				MaxAge:   metav1.Duration{Duration: 90 * time.Second}, ZonesFile: "/etc/zones.yaml",
			},
		},
		"the ConfigMap of interest": {
			in:   raw(`{"interest":"fogsched-system/fogprobe-interest"}`),
			want: Args{MaxAge: metav1.Duration{Duration: 5 * time.Minute}, Interest: "fogsched-system/fogprobe-interest"},
		},
		"a ConfigMap without a namespace": {
			in:        raw(`{"interest":"fogprobe-interest"}`),
			wantError: `pluginConfig of NodeLatency: args.interest: Invalid value: "fogprobe-interest": must be NAMESPACE/NAME of a ConfigMap, as in fogsched-system/fogprobe-interest`,
		},
		"a ConfigMap whose name is none": {
			in:        raw(`{"interest":"fogsched-system/a/b"}`),
			wantError: `pluginConfig of NodeLatency: args.interest: Invalid value: "fogsched-system/a/b": must be NAMESPACE/NAME of a ConfigMap, as in fogsched-system/fogprobe-interest`,
		},
		"a demand": {
			in: raw("prometheus: {address: 'http://prometheus:9090', demands: [{name: ingress, query: 'sum by (node) (rate(requests[5m]))', time: 'max by (node) (timestamp(requests))'}]}"),
			want: Args{
				MaxAge: metav1.Duration{Duration: 5 * time.Minute},
				Prometheus: &PrometheusArgs{
					Config: prometheus.Config{
						Address: "http://prometheus:9090", Interval: metav1.Duration{Duration: 30 * time.Second},
						Timeout: metav1.Duration{Duration: 10 * time.Second}, MaxAge: metav1.Duration{Duration: 5 * time.Minute},
					},
					Demands: []DemandArgs{{Name: "ingress", Query: "sum by (node) (rate(requests[5m]))", Time: "max by (node) (timestamp(requests))", NodeLabel: "node"}},
				},
			},
		},
		"latencies": {
			in: raw("prometheus: {address: 'http://prometheus:9090', interval: 1m, latencies: [{preset: goldpinger}]}"),
			want: Args{
				MaxAge: metav1.Duration{Duration: 5 * time.Minute},
				Prometheus: &PrometheusArgs{
					Config: prometheus.Config{
						Address: "http://prometheus:9090", Interval: metav1.Duration{Duration: time.Minute},
						Timeout: metav1.Duration{Duration: 10 * time.Second}, MaxAge: metav1.Duration{Duration: 5 * time.Minute},
					},
					Latencies: []prometheus.Latencies{{Preset: "goldpinger"}},
				},
			},
		},
		"a Prometheus that is asked for nothing": {
			in: raw("prometheus: {address: 'prometheus:9090'}"),
			wantError: `pluginConfig of NodeLatency: [args.prometheus.address: Invalid value: "prometheus:9090": must be a URL, as in http://prometheus.monitoring:9090, ` +
				`args.prometheus.latencies: Required value: this Prometheus is asked for nothing: give latencies or demands, or leave prometheus out]`,
		},
		"bad demands": {
			in: raw(`{"prometheus":{"address":"http://prometheus:9090","demands":[{"name":"In"},{"name":"a","query":"x","nodeRegexp":"a+"},{"name":"a","query":"x","nodeLabel":"\u0000\ufffe","nodeRegexp":"("}]}}`),
			wantError: `pluginConfig of NodeLatency: [args.prometheus.demands[0].name: Invalid value: "In": must be a DNS label, as in http-ingress, ` +
				`args.prometheus.demands[0].query: Required value: PromQL with one series a node, ` +
				`args.prometheus.demands[1].nodeRegexp: Invalid value: "a+": must be a regular expression with a group, as in ^path_(.+)$, ` +
				`args.prometheus.demands[2].name: Duplicate value: "a", ` +
				`args.prometheus.demands[2].nodeRegexp: Invalid value: "(": must be a regular expression with a group, as in ^path_(.+)$]`,
		},
		"a demand that would never be old": {
			in: raw("prometheus: {address: 'http://prometheus:9090', demands: [{name: ingress, query: 'max_over_time(requests[1d])'}]}"),
			wantError: "pluginConfig of NodeLatency: args.prometheus.demands[0].time: Required value: query is more than a plain selector, so timestamp(query) would be the time of the query " +
				"and nothing would ever be old: give the time of the newest sample behind it, as in max by (node) (timestamp(the_metric))",
		},
		"a field of a demand that is none": {
			in:        raw(`{"prometheus":{"address":"http://prometheus:9090","demands":[{"name":"a","promql":"x"}]}}`),
			wantError: `pluginConfig of NodeLatency: args.prometheus: Invalid value: {"address":"http://prometheus:9090","demands":[{"name":"a","promql":"x"}]}: unknown field "prometheus.demands[0].promql"`,
		},
		"no narrowing": {in: raw(`{"candidates":0}`), want: Args{MaxAge: metav1.Duration{Duration: 5 * time.Minute}, Candidates: ptr.To(0)}},
		"too few candidates": {
			in:        raw(`{"candidates":4}`),
			wantError: "pluginConfig of NodeLatency: args.candidates: Invalid value: 4: must be 5 to 1000, or 0 for all nodes that the framework chooses",
		},
		"the bounds of maxAge": {in: raw(`{"maxAge":"24h"}`), want: Args{MaxAge: metav1.Duration{Duration: 24 * time.Hour}}},
		"an unknown field": {
			in:        raw(`{"maxage":"1m"}`),
			wantError: `pluginConfig of NodeLatency: args.maxage: Invalid value: "1m": unknown field "maxage"`,
		},
		"a field twice": {
			in:        raw("maxAge: 1m\nmaxAge: 2m"),
			wantError: "pluginConfig of NodeLatency: yaml: unmarshal errors:\n  line 2: key \"maxAge\" already set in map",
		},
		"a duration without a unit": {
			in:        raw(`{"maxAge":"300"}`),
			wantError: `pluginConfig of NodeLatency: args.maxAge: Invalid value: "300": time: missing unit in duration "300"`,
		},
		"a duration that is a number": {
			in:        raw(`{"maxAge":300}`),
			wantError: `pluginConfig of NodeLatency: args.maxAge: Invalid value: 300: json: cannot unmarshal number into Go struct field Args.maxAge of type string`,
		},
		"every bad field at once": {
			in:        raw(`{"maxAge":"soon","zonesFile":["a"]}`),
			wantError: `pluginConfig of NodeLatency: [args.maxAge: Invalid value: "soon": time: invalid duration "soon", args.zonesFile: Invalid value: ["a"]: json: cannot unmarshal array into Go struct field Args.zonesFile of type string]`,
		},
		"too short":      {in: raw(`{"maxAge":"9.9s"}`), wantError: `pluginConfig of NodeLatency: args.maxAge: Invalid value: "9.9s": must be 10s to 24h`},
		"too long":       {in: raw(`{"maxAge":"24h1s"}`), wantError: `pluginConfig of NodeLatency: args.maxAge: Invalid value: "24h0m1s": must be 10s to 24h`},
		"negative":       {in: raw(`{"maxAge":"-5m"}`), wantError: `pluginConfig of NodeLatency: args.maxAge: Invalid value: "-5m0s": must be 10s to 24h`},
		"a wrong kind":   {in: raw(`{"kind":"NodeMetricsArgs"}`), wantError: `pluginConfig of NodeLatency: args.kind: Unsupported value: "NodeMetricsArgs": supported values: "NodeLatencyArgs"`},
		"another type":   {in: &v1.Pod{}, wantError: `pluginConfig of NodeLatency: want NodeLatencyArgs as YAML or JSON, got *v1.Pod`},
		"a list":         {in: raw(`[]`), wantError: `pluginConfig of NodeLatency: json: cannot unmarshal array into Go value of type nodelatency.Args`},
		"no YAML at all": {in: raw(`{`), wantError: `pluginConfig of NodeLatency: yaml: line 1: did not find expected node content`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.want.Candidates == nil {
				tt.want.Candidates = ptr.To(100)
			}
			got, err := getArgs(tt.in)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff(tt.wantError, text); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if tt.wantError != "" {
				if got != nil {
					t.Errorf("args %+v beside an error", got)
				}
				return
			}
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Errorf("args (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNew(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := fake.NewClientset()
	h := &handle{clientSet: client, factory: informers.NewSharedInformerFactory(client, 0)}
	start := func(args string) (*NodeLatency, error) {
		p, err := New(ctx, &runtime.Unknown{Raw: []byte(args)}, h)
		if err != nil {
			return nil, err
		}
		return p.(*NodeLatency), nil
	}
	missing := filepath.Join(t.TempDir(), "zones.yaml")
	_, err := start(`{"zonesFile":"` + missing + `"}`)
	if want := "starting NodeLatency: args.zonesFile: reading the zone table: stat " + missing + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("a missing file: %v, want %s", err, want)
	}
	if _, err := start(`{"maxAge":"1s"}`); err == nil {
		t.Error("bad arguments were taken")
	}
	a, err := start(`{"maxAge":"1m"}`)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := start(`{"maxAge":"1m"}`)
	c, _ := start(`{"maxAge":"2m"}`)
	if a.engine != b.engine || a.engine == c.engine {
		t.Error("profiles share their data if, and only if, their arguments are the same")
	}
	if a.Name() != "NodeLatency" || a.PreFilterExtensions() != nil || a.ScoreExtensions() == nil {
		t.Errorf("plugin %q", a.Name())
	}
	cancel()
	for range 100 {
		engines.Lock()
		left := len(engines.m)
		engines.Unlock()
		if left == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the engine is kept when its context has ended")
}

// TestTrimsPods has the plugin keep its own reasons out of the informer of the pods, where they would stay for each pod of the cluster.
func TestTrimsPods(t *testing.T) {
	placed := makePod("placed").node("a").obj()
	placed.Annotations = map[string]string{v1alpha1.PlacementAnnotation: `{"node":"a"}`, "kept": "yes"}
	placed.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	client := fake.NewClientset(placed, makePod("plain").obj())
	factory := informers.NewSharedInformerFactory(client, 0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := New(ctx, nil, &handle{clientSet: client, factory: factory}); err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	got, err := factory.Core().V1().Pods().Lister().Pods("default").Get("placed")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"kept": "yes"}, got.Annotations); diff != "" || got.ManagedFields != nil {
		t.Errorf("managedFields: %v; annotations (-want +got):\n%s", got.ManagedFields, diff)
	}
	if _, err := factory.Core().V1().Pods().Lister().Pods("default").Get("plain"); err != nil {
		t.Error(err)
	}
}

// TestFollow runs the real plugin on the informers of a fake API server.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); time.Sleep(time.Second); synctest.Wait() }()
		client := fake.NewClientset(
			makeNode("a", map[string]string{v1.LabelTopologyZone: "x", v1.LabelTopologyRegion: "r"}),
			makeNode("b", nil),
			makeService("redis", "redis"),
			&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
			makePod("redis").app("redis").node("a").obj(),
		)
		factory := informers.NewSharedInformerFactory(client, 0)
		plugin, err := New(ctx, nil, &handle{clientSet: client, factory: factory})
		if err != nil {
			t.Fatal(err)
		}
		p := plugin.(*NodeLatency)
		factory.Start(ctx.Done())
		started := time.Now()
		pod := makePod("web").app("web").annotation(`{"dependencies":[{"service":"redis"}]}`).obj()
		if _, status := p.PreFilter(ctx, &cycleState{}, pod, nil); !status.IsSkip() {
			t.Errorf("PreFilter: %v", status)
		}
		if waited := time.Since(started); waited >= startTimeout {
			t.Errorf("the first cycle waited %s although the data is there", waited)
		}
		targets := func() string {
			var words []string
			for _, b := range p.engine.wantsOf(pod).own {
				for _, nc := range b.entries[0].targets() {
					words = append(words, nc.Node)
				}
			}
			return strings.Join(words, " ")
		}
		settled := func() { time.Sleep(time.Second); synctest.Wait() }
		settled()
		if got := targets(); got != "a" {
			t.Errorf("redis is on %q, want a", got)
		}
		if got := p.engine.store.Snapshot().Len(); got != 2 {
			t.Errorf("the snapshot has %d nodes, want 2", got)
		}
		pods := client.CoreV1().Pods("default")
		if _, err := pods.Create(ctx, makePod("redis-2").app("redis").node("b").obj(), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		settled()
		if got := targets(); got != "a b" {
			t.Errorf("redis is on %q, want a b", got)
		}
		_ = pods.Delete(ctx, "redis", metav1.DeleteOptions{})
		settled()
		if got := targets(); got != "b" {
			t.Errorf("redis is on %q, want b", got)
		}
		_ = client.CoreV1().Services("default").Delete(ctx, "redis", metav1.DeleteOptions{})
		_ = client.CoreV1().Nodes().Delete(ctx, "a", metav1.DeleteOptions{})
		settled()
		if got := targets(); got != "" || p.engine.store.Snapshot().Len() != 1 {
			t.Errorf("redis is on %q, and there are %d nodes", got, p.engine.store.Snapshot().Len())
		}
	})
}

func TestTheFirstCycleWaitsNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, line())
		e := f.plugin.engine
		e.ready.Store(false)
		e.synced = []cache.InformerSynced{func() bool { return false }}
		started := time.Now()
		f.plugin.PreFilter(t.Context(), &cycleState{}, makePod("first").obj(), nil)
		if waited := time.Since(started); waited < startTimeout || waited > startTimeout+time.Second {
			t.Errorf("the first cycle waited %s, want %s", waited, startTimeout)
		}
		started = time.Now()
		f.plugin.PreFilter(t.Context(), &cycleState{}, makePod("later").obj(), nil)
		if waited := time.Since(started); waited != 0 {
			t.Errorf("a later cycle waited %s", waited)
		}
	})
}

// TestGuard breaks the plugin from within; every extension point goes on as if the pod had no intent.
func TestGuard(t *testing.T) {
	logger, ctx := ktesting.NewTestContext(t)
	pod := makePod("web").app("web").annotation(`{}`).obj()
	node := &nodeInfo{node: makeNode("a", nil)}
	// A state without a snapshot makes whoever reads it panic.
	broken := func() *cycleState {
		c := &cycleState{}
		s := &state{hard: true, scored: []scored{{}}, entries: make([]entry, 1), limits: []*limit{{}}}
		s.anyRejected.Store(true)
		c.Write(stateKey, s)
		return c
	}
	tests := map[string]struct {
		point string
		call  func(p *NodeLatency) error
	}{
		"SignPod signs nothing": {"SignPod", func(p *NodeLatency) error {
			fragments, status := p.SignPod(ctx, pod)
			return ok(fragments == nil && status.IsSuccess(), fragments, status)
		}},
		"PreFilter lets every node through": {"PreFilter", func(p *NodeLatency) error {
			result, status := p.PreFilter(ctx, &cycleState{}, pod, nil)
			return ok(result == nil && (status.IsSuccess() || status.IsSkip()), result, status)
		}},
		"Filter lets the node through": {"Filter", func(p *NodeLatency) error {
			status := p.Filter(ctx, broken(), pod, node)
			return ok(status.IsSuccess(), status)
		}},
		"PostFilter makes no room": {"PostFilter", func(p *NodeLatency) error {
			result, status := p.PostFilter(ctx, broken(), pod, nil)
			return ok(result == nil && status.Code() == fwk.Unschedulable, result, status)
		}},
		"PreScore lets the pod be placed": {"PreScore", func(p *NodeLatency) error {
			status := p.PreScore(ctx, broken(), pod, []fwk.NodeInfo{node})
			return ok(status.IsSuccess() || status.IsSkip(), status)
		}},
		"Score has nothing to say": {"Score", func(p *NodeLatency) error {
			cost, status := p.Score(ctx, broken(), pod, node)
			return ok(cost == 0 && status.IsSuccess(), cost, status)
		}},
		"Reserve goes on": {"Reserve", func(p *NodeLatency) error {
			status := p.Reserve(ctx, broken(), pod, "a")
			return ok(status.IsSuccess(), status)
		}},
		"Unreserve goes on": {"Unreserve", func(p *NodeLatency) error {
			p.Unreserve(ctx, broken(), pod, "a")
			return nil
		}},
		"Bind leaves the pod to the default binder": {"Bind", func(p *NodeLatency) error {
			status := p.Bind(ctx, broken(), pod, "a")
			return ok(status.IsSkip(), status)
		}},
		"the hint after a node's change queues": {"QueueingHint", func(p *NodeLatency) error {
			hint, err := p.afterNodeChange(logger, pod, nil, node.node)
			return ok(hint == fwk.Queue && err == nil, hint, err)
		}},
		"the hint after a pod's change queues": {"QueueingHint", func(p *NodeLatency) error {
			hint, err := p.afterPodChange(logger, pod, nil, makePod("other").obj())
			return ok(hint == fwk.Queue && err == nil, hint, err)
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(&handle{}, nil) // no engine
			counter := metrics.Panics.WithLabelValues(Name, tt.point)
			before := testutil.ToFloat64(counter)
			for range 2 {
				if err := tt.call(p); err != nil {
					t.Error(err)
				}
			}
			if got := testutil.ToFloat64(counter) - before; got != 2 {
				t.Errorf("%g panics were counted, want 2: the extension point was not broken, or not guarded", got)
			}
		})
	}
}

func ok(fine bool, got ...any) error {
	if fine {
		return nil
	}
	return errors.New("got " + fmt.Sprintln(got...))
}

func TestEventsToRegister(t *testing.T) {
	f := newFixture(t, line())
	list, err := f.plugin.EventsToRegister(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, e := range list {
		got[string(e.Event.Resource)] = e.QueueingHintFn != nil
	}
	if diff := cmp.Diff(map[string]bool{string(fwk.Node): true, string(fwk.Pod): true}, got); diff != "" {
		t.Errorf("resources with hints (-want +got):\n%s", diff)
	}
}

func TestHints(t *testing.T) {
	const hard = `{"dependencies":[{"service":"redis","limit":"15ms"}],"whenUnsatisfiable":"DoNotSchedule","whenUnmeasured":%q}`
	moved := func(f *fixture, to string) *v1.Pod {
		p := makePod("redis-0").app("redis").node(to).obj()
		f.plugin.engine.setPod(p)
		return p
	}
	tests := map[string]struct {
		unmeasured string
		hint       func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error)
		want       fwk.QueueingHint
	}{
		"a node that keeps the limit": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterNodeChange(klog.Background(), pod, nil, makeNode("c", nil))
		}, fwk.Queue},
		"a node that breaks the limit": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterNodeChange(klog.Background(), pod, nil, makeNode("a", nil))
		}, fwk.QueueSkip},
		"a new node of which nothing is measured, with Reject": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterNodeChange(klog.Background(), pod, nil, makeNode("new", nil))
		}, fwk.QueueSkip},
		"a new node of which nothing is measured, with Allow": {"Allow", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterNodeChange(klog.Background(), pod, nil, makeNode("new", nil))
		}, fwk.Queue},
		"something that is no node": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterNodeChange(klog.Background(), pod, nil, "?")
		}, fwk.Queue},
		"a pod that has nothing to do with it": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterPodChange(klog.Background(), pod, nil, makePod("x").app("x").node("a").obj())
		}, fwk.QueueSkip},
		"its server moved to where a node keeps the limit": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterPodChange(klog.Background(), pod, nil, moved(f, "a"))
		}, fwk.Queue},
		"its server moved, and no node keeps the limit still": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterPodChange(klog.Background(), pod, nil, moved(f, "d"))
		}, fwk.QueueSkip},
		"its server went": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			p := makePod("redis-0").app("redis").node("d").obj()
			f.plugin.engine.index.DeletePod(p.UID)
			return f.plugin.afterPodChange(klog.Background(), pod, p, nil)
		}, fwk.Queue},
		"its own labels changed": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterPodChange(klog.Background(), pod, pod, pod)
		}, fwk.Queue},
		"something that is no pod": {"Reject", func(f *fixture, pod *v1.Pod) (fwk.QueueingHint, error) {
			return f.plugin.afterPodChange(klog.Background(), pod, "?", "?")
		}, fwk.Queue},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, map[string]float64{"a": 0, "b": 10, "c": 90, "d": 100})
			f.plugin.engine.index.SetService(makeService("redis", "redis"))
			f.place("redis", "d")
			pod := makePod("web").annotation(fmt.Sprintf(hard, tt.unmeasured)).obj()
			f.plugin.engine.setPod(pod)
			if o := f.schedule(pod, "a", "b"); len(o.rejected) != 2 {
				t.Fatalf("rejected %v, want a and b", o.rejected)
			}
			got, err := tt.hint(f, pod)
			if got != tt.want || err != nil {
				t.Errorf("hint %d, %v, want %d", got, err, tt.want)
			}
		})
	}
}

func TestWaker(t *testing.T) {
	const hard = `{"dependencies":[{"service":"redis","limit":"15ms"}],"whenUnsatisfiable":"DoNotSchedule","whenUnmeasured":"Reject"}`
	tests := map[string]struct {
		change func(f *fixture, pod *v1.Pod)
		want   []string
	}{
		"nothing happens": {
			change: func(*fixture, *v1.Pod) {},
		},
		"a new measurement brings a rejected node within the limit": {
			change: func(f *fixture, _ *v1.Pod) { f.at["b"] = 95; f.measure() },
			want:   []string{"default/web"},
		},
		"a new measurement brings it nearer, and not near enough": {
			change: func(f *fixture, _ *v1.Pod) { f.at["b"] = 60; f.measure() },
		},
		"a new measurement brings a node near that other plugins rejected": {
			change: func(f *fixture, _ *v1.Pod) { f.at["c"] = 95; f.measure() },
		},
		"the server moves": {
			change: func(f *fixture, _ *v1.Pod) {
				f.plugin.engine.setPod(makePod("redis-0").app("redis").node("a").obj())
			},
			want: []string{"default/web"},
		},
		"the server goes": {
			change: func(f *fixture, _ *v1.Pod) { f.plugin.engine.index.DeletePod("redis-0") },
			want:   []string{"default/web"},
		},
		"the Service goes": {
			change: func(f *fixture, _ *v1.Pod) { f.plugin.engine.index.DeleteService("default", "redis") },
			want:   []string{"default/web"},
		},
		"the Service is retargeted": {
			change: func(f *fixture, _ *v1.Pod) {
				f.place("valkey", "a")
				f.plugin.engine.index.SetService(makeService("redis", "valkey"))
			},
			want: []string{"default/web"},
		},
		"the pod is gone when the measurement comes": {
			change: func(f *fixture, pod *v1.Pod) {
				f.plugin.engine.waker.forget(pod.UID)
				f.at["b"] = 95
				f.measure()
			},
		},
		"the pod is bound when the measurement comes": {
			change: func(f *fixture, pod *v1.Pod) {
				bound := pod.DeepCopy()
				bound.Spec.NodeName = "a"
				f.plugin.engine.setPod(bound)
				f.at["b"] = 95
				f.measure()
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, map[string]float64{"a": 0, "b": 10, "c": 50, "d": 100})
				e := f.plugin.engine
				e.index.SetService(makeService("redis", "redis"))
				f.place("redis", "d")
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				defer wg.Wait()
				defer cancel()
				wg.Go(func() { e.waker.run(ctx) })
				settled := func() { time.Sleep(3 * internal.WakeInterval); synctest.Wait() }

				pod := makePod("web").annotation(hard).obj()
				e.setPod(pod)
				f.schedule(pod, "a", "b")
				settled()
				if got := f.handle.takeActivated(); got != nil {
					t.Fatalf("woken although nothing changed: %v", got)
				}
				woken := testutil.ToFloat64(metrics.Woken)
				tt.change(f, pod)
				e.waker.wake() // the engine does so for every snapshot
				settled()
				if diff := cmp.Diff(tt.want, f.handle.takeActivated()); diff != "" {
					t.Errorf("woken (-want +got):\n%s", diff)
				}
				if got := testutil.ToFloat64(metrics.Woken) - woken; int(got) != len(tt.want) {
					t.Errorf("%g were counted as woken, want %d", got, len(tt.want))
				}
				// It is woken once, until it is rejected anew.
				e.waker.wake()
				settled()
				if got := f.handle.takeActivated(); got != nil {
					t.Errorf("woken twice: %v", got)
				}
			})
		})
	}
}

func TestEngineWakesOnASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, line())
		ctx, cancel := context.WithCancel(t.Context())
		f.plugin.engine.start(ctx)
		settled := func() { time.Sleep(time.Second); synctest.Wait() }
		settled()
		pod := makePod("web").annotation(`{"dependencies":[{"nodes":{"matchLabels":{"name":"d"}},"limit":"15ms"}],"whenUnsatisfiable":"DoNotSchedule"}`).obj()
		f.schedule(pod, "a", "b")
		settled()
		f.plugin.engine.store.Sink("test")("b", latency.Report{}) // what b measured is withdrawn …
		f.plugin.engine.store.Sink("test")("d", latency.Report{}) // … and what measured it: unmeasured is allowed
		settled()
		if diff := cmp.Diff([]string{"default/web"}, f.handle.takeActivated()); diff != "" {
			t.Errorf("woken (-want +got):\n%s", diff)
		}
		cancel()
		settled()
	})
}

func TestComputeStatus(t *testing.T) {
	tests := map[string]struct {
		spec       string
		web        []string
		wantReason string
		wantStatus metav1.ConditionStatus
		wantText   string // pods, typical, worst
		wantBroken int32
	}{
		"no pods": {
			spec:       `{"dependencies":[{"service":"redis","limit":"20ms"}]}`,
			wantReason: v1alpha1.ReasonNoPods, wantStatus: metav1.ConditionUnknown, wantText: "0 pods, -, ",
		},
		"no limits": {
			spec: `{"dependencies":[{"service":"redis"}]}`, web: []string{"b", "b"},
			wantReason: v1alpha1.ReasonNoLimits, wantStatus: metav1.ConditionUnknown, wantText: "2 pods, 11ms, b → a (11ms)",
		},
		"kept": {
			spec: `{"dependencies":[{"service":"redis","limit":"20ms"}]}`, web: []string{"a", "b", "b", "b"},
			wantReason: v1alpha1.ReasonKept, wantStatus: metav1.ConditionTrue, wantText: "4 pods, 8.26ms, b → a (11ms)",
		},
		"broken": {
			spec: `{"dependencies":[{"service":"redis","limit":"20ms"}]}`, web: []string{"b", "c", "c"},
			wantReason: v1alpha1.ReasonBroken, wantStatus: metav1.ConditionFalse, wantText: "3 pods, 24.33ms, c → a (31ms)", wantBroken: 1,
		},
		"unmeasured": {
			spec: `{"dependencies":[{"service":"redis","limit":"20ms"}]}`, web: []string{"b", "dark"},
			wantReason: v1alpha1.ReasonUnmeasured, wantStatus: metav1.ConditionUnknown, wantText: "2 pods, 11ms, b → a (11ms)",
		},
		"clients go to the nearest replica": {
			spec: `{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","d"]}]},"limit":"20ms"}]}`, web: []string{"b", "d"},
			wantReason: v1alpha1.ReasonKept, wantStatus: metav1.ConditionTrue, wantText: "2 pods, 5.53ms, a → b (11ms)",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, line())
			f.plugin.engine.index.SetService(makeService("redis", "redis"))
			f.place("redis", "a")
			f.policy("web", "web", tt.spec)
			f.place("web", tt.web...)
			st := computeStatus(f.plugin.engine.catalog.allPolicies()[nn("default", "web")], f.plugin.engine.store.Snapshot(), nil)
			typical := "-"
			if st.Typical != nil {
				typical = st.Typical.Duration.String()
			}
			if got := fmt.Sprintf("%d pods, %s, %s", st.Pods, typical, st.Worst); got != tt.wantText {
				t.Errorf("status %q, want %q", got, tt.wantText)
			}
			if c := st.Conditions[0]; c.Type != v1alpha1.ConditionLimitsKept || c.Reason != tt.wantReason || c.Status != tt.wantStatus {
				t.Errorf("condition %+v, want %s %s", c, tt.wantReason, tt.wantStatus)
			}
			if got := st.Entries[0].BrokenPairs; got != tt.wantBroken {
				t.Errorf("%d broken pairs, want %d", got, tt.wantBroken)
			}
			if worthWriting(&st, st.DeepCopy()) {
				t.Error("the same status is written again")
			}
		})
	}
}

func TestPoliciesAreCountedByWhetherTheirLimitsHold(t *testing.T) {
	f := newFixture(t, line())
	f.plugin.engine.index.SetService(makeService("redis", "redis"))
	f.place("redis", "a")
	limited := `{"dependencies":[{"service":"redis","limit":"20ms"}]}`
	f.policy("near", "near", limited)
	f.place("near", "b")
	f.policy("far", "far", limited)
	f.place("far", "c")
	f.policy("bad", "bad", `{"dependencies":[{"nodes":{"matchLabels":{"name":"a"}},"weight":0}]}`)
	e := f.plugin.engine
	for _, p := range e.catalog.allPolicies() { // so that there is nothing to write
		st := computeStatus(p, e.store.Snapshot(), nil)
		p.status = &st
	}
	w := &statusWriter{engine: e}
	w.tick(t.Context())
	counts := func() map[string]float64 {
		got := map[string]float64{}
		for _, r := range limitReasons {
			got[r] = testutil.ToFloat64(metrics.Policies.WithLabelValues(r))
		}
		return got
	}
	want := map[string]float64{"Kept": 1, "Broken": 1, "Invalid": 1, "Unmeasured": 0, "NoTargets": 0, "NoLimits": 0, "NoPods": 0}
	if diff := cmp.Diff(want, counts()); diff != "" {
		t.Errorf("policies (-want +got):\n%s", diff)
	}
	e.catalog.deletePolicy(nn("default", "far"))
	w.tick(t.Context())
	want["Broken"] = 0
	if diff := cmp.Diff(want, counts()); diff != "" {
		t.Errorf("policies after one was deleted (-want +got):\n%s", diff)
	}
}

func TestInvalidPolicy(t *testing.T) {
	f := newFixture(t, line())
	f.policy("web", "web", `{"dependencies":[{"nodes":{"matchLabels":{"name":"a"}},"weight":0}]}`)
	if o := f.schedule(makePod("web").app("web").obj()); o.order() != "" {
		t.Errorf("an invalid policy orders the nodes %s", o.order())
	}
	st := computeStatus(f.plugin.engine.catalog.allPolicies()[nn("default", "web")], f.plugin.engine.store.Snapshot(), nil)
	if c := st.Conditions[0]; c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonInvalid || !strings.HasPrefix(c.Message, "spec.dependencies[0].weight: Invalid value: 0") {
		t.Errorf("condition %+v", c)
	}
	f.policy("web", "web", `{"dependencies":[{"nodes":{"matchLabels":{"name":"a"}},"weight":1}]}`)
	if o := f.schedule(makePod("web").app("web").obj()); !strings.HasPrefix(o.order(), "a ") {
		t.Errorf("the mended policy orders the nodes %s", o.order())
	}
}

// TestZonesAreOnlyAPreference: an estimate from a table ranks nodes and never decides a limit.
func TestZonesAreOnlyAPreference(t *testing.T) {
	table, err := zones.Parse([]byte(`{within: {zone: 1ms}, pairs: [{between: [near, far], typical: 80ms}]}`))
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, map[string]float64{})
	e := newEngineWithZones(table)
	f.plugin = newPlugin(f.handle, e)
	for name, zone := range map[string]string{"a": "near", "b": "near", "c": "far"} {
		f.at[name] = 0
		e.setNode(makeNode(name, map[string]string{"name": name, v1.LabelTopologyZone: zone}))
	}
	f.refresh()
	const entry = `{"dependencies":[{"nodes":{"matchLabels":{"name":"a"}},"limit":"20ms"}],"whenUnsatisfiable":"DoNotSchedule","whenUnmeasured":%q}`
	allow := f.schedule(makePod("1").annotation(fmt.Sprintf(entry, "Allow")).obj())
	if allow.order() != "a b c" || len(allow.rejected) != 0 {
		t.Errorf("Allow: order %q, rejected %v", allow.order(), allow.rejected)
	}
	reject := f.schedule(makePod("2").annotation(fmt.Sprintf(entry, "Reject")).obj())
	if diff := cmp.Diff(map[string]string{"b": ReasonUnmeasured, "c": ReasonUnmeasured}, reject.rejected); diff != "" {
		t.Errorf("Reject (-want +got):\n%s", diff)
	}
}

func TestNormalizeScore(t *testing.T) {
	p := newPlugin(&handle{}, nil)
	list := fwk.NodeScoreList{{Name: "a", Score: 40e6}, {Name: "b", Score: 19_500_000}, {Name: "c", Score: 60e9 * 2}}
	if status := p.NormalizeScore(t.Context(), nil, nil, list); !status.IsSuccess() {
		t.Fatal(status)
	}
	if diff := cmp.Diff(fwk.NodeScoreList{{Name: "a", Score: 50}, {Name: "b", Score: 100}, {Name: "c", Score: 0}}, list); diff != "" {
		t.Errorf("scores (-want +got):\n%s", diff)
	}
}
