// SPDX-License-Identifier: Apache-2.0

//go:build perf

package perf

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	restclient "k8s.io/client-go/rest"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultbinder"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/queuesort"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	tf "k8s.io/kubernetes/pkg/scheduler/testing/framework"
	"sigs.k8s.io/scheduler-plugins/apis/config"
	"sigs.k8s.io/scheduler-plugins/pkg/networkaware/networkoverhead"

	"github.com/fogsched/fogsched/internal/testserver"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
)

// boutiqueBed is a cluster with the placed pods of Online Boutique, and both plugins on it.
type boutiqueBed struct {
	infos  []fwk.NodeInfo
	lister fwk.NodeInfoLister
	// theirs is NetworkOverhead, ours NodeLatency on all nodes, narrowed NodeLatency as it is shipped.
	theirs, ours, narrowed fwk.Plugin
}

func newBoutiqueBed(tb testing.TB, nodes, maxNetworkCost int) *boutiqueBed {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	tb.Cleanup(cancel)

	mux := http.NewServeMux()
	serveGroup(tb, mux, "appgroup.diktyo.x-k8s.io", "appgroups", "AppGroup", appGroup(maxNetworkCost))
	serveGroup(tb, mux, "networktopology.diktyo.x-k8s.io", "networktopologies", "NetworkTopology", networkTopology())
	serveJSON(tb, mux, "/api", metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}})
	groups := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for _, g := range []string{"appgroup.diktyo.x-k8s.io", "networktopology.diktyo.x-k8s.io"} {
		version := metav1.GroupVersionForDiscovery{GroupVersion: g + "/v1alpha1", Version: "v1alpha1"}
		groups.Groups = append(groups.Groups, metav1.APIGroup{Name: g, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version})
	}
	serveJSON(tb, mux, "/apis", groups)
	api := testserver.New(tb, mux)

	nodeList, podList := newBoutiqueNodes(nodes), newBoutiquePods()
	objects := []kruntime.Object{&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceDefault}}}
	for _, n := range nodeList {
		objects = append(objects, n)
	}
	for _, p := range podList {
		objects = append(objects, p)
	}
	clientSet := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(clientSet, 0)
	snapshot := cache.NewSnapshot(podList, nodeList)
	handle, err := tf.NewFramework(ctx, []tf.RegisterPluginFunc{
		tf.RegisterBindPlugin(defaultbinder.Name, defaultbinder.New),
		tf.RegisterQueueSortPlugin(queuesort.Name, queuesort.New),
	}, v1.DefaultSchedulerName, frameworkruntime.WithClientSet(clientSet), frameworkruntime.WithInformerFactory(factory),
		frameworkruntime.WithSnapshotSharedLister(snapshot), frameworkruntime.WithKubeConfig(&restclient.Config{Host: api.URL}))
	if err != nil {
		tb.Fatal(err)
	}

	b := &boutiqueBed{lister: snapshot.NodeInfos()}
	if b.infos, err = b.lister.List(); err != nil {
		tb.Fatal(err)
	}
	if b.theirs, err = networkoverhead.New(ctx, &config.NetworkOverheadArgs{
		Namespaces: []string{metav1.NamespaceDefault}, WeightsName: "UserDefined", NetworkTopologyName: "costs",
	}, handle); err != nil {
		tb.Fatal(err)
	}
	zones := filepath.Join(tb.TempDir(), "zones.yaml")
	if err := os.WriteFile(zones, []byte(zoneTable()), 0o600); err != nil {
		tb.Fatal(err)
	}
	first := func(fwk.Handle) []string { return []string{nodelatency.Name} }
	ours := func(candidates int) fwk.Plugin {
		p, err := nodelatency.NewWith(nodelatency.Options{PostFilters: first})(ctx,
			&kruntime.Unknown{Raw: fmt.Appendf(nil, `{"zonesFile":%q,"candidates":%d}`, zones, candidates)}, handle)
		if err != nil {
			tb.Fatal(err)
		}
		return p
	}
	b.ours, b.narrowed = ours(0), ours(100)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return b
}

// serveGroup serves a group of one kind with one object, as an API server with the CRD would.
func serveGroup(tb testing.TB, mux *http.ServeMux, group, resource, kind string, object map[string]any) {
	base := "/apis/" + group + "/v1alpha1"
	serveJSON(tb, mux, base, metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: group + "/v1alpha1",
		APIResources: []metav1.APIResource{{Name: resource, Kind: kind, Namespaced: true, Verbs: metav1.Verbs{"get", "list", "watch"}}},
	})
	serveJSON(tb, mux, base+"/"+resource, map[string]any{
		"apiVersion": group + "/v1alpha1", "kind": kind + "List", "metadata": map[string]any{"resourceVersion": "1"}, "items": []any{object},
	})
}

// serveJSON answers a GET with an object, and a watch with nothing for as long as anyone listens.
func serveJSON(tb testing.TB, mux *http.ServeMux, path string, object any) {
	tb.Helper()
	data, err := json.Marshal(object)
	if err != nil {
		tb.Fatal(err)
	}
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if query.Get("sendInitialEvents") != "" {
			// As an API server without the feature: the client goes on with a list.
			http.Error(w, "sendInitialEvents is not supported here", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if query.Get("watch") == "" {
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

// place runs a plugin's extension points for a pod, from PreFilter to NormalizeScore, as the framework does with all nodes that PreFilter
// leaves. With every, nodes that Filter rejects are scored as well.
func (b *boutiqueBed) place(tb testing.TB, plugin fwk.Plugin, pod *v1.Pod, every bool) fwk.NodeScoreList {
	ctx, state := tb.Context(), framework.NewCycleState()
	scores := b.score(tb, plugin, state, pod, every)
	if status := plugin.(fwk.ScorePlugin).ScoreExtensions().NormalizeScore(ctx, state, pod, scores); !status.IsSuccess() {
		tb.Fatalf("NormalizeScore of %s: %v", plugin.Name(), status)
	}
	return scores
}

// score is place without NormalizeScore.
func (b *boutiqueBed) score(tb testing.TB, plugin fwk.Plugin, state fwk.CycleState, pod *v1.Pod, every bool) fwk.NodeScoreList {
	ctx := tb.Context()
	result, status := plugin.(fwk.PreFilterPlugin).PreFilter(ctx, state, pod, b.infos)
	if !status.IsSuccess() && !status.IsSkip() {
		tb.Fatalf("PreFilter of %s: %v", plugin.Name(), status)
	}
	nodes := b.infos
	if result != nil {
		nodes = make([]fwk.NodeInfo, 0, len(result.NodeNames))
		for name := range result.NodeNames {
			info, err := b.lister.Get(name)
			if err != nil {
				tb.Fatal(err)
			}
			nodes = append(nodes, info)
		}
	}
	feasible := nodes
	if !status.IsSkip() {
		filter := plugin.(fwk.FilterPlugin)
		feasible = make([]fwk.NodeInfo, 0, len(nodes))
		for _, info := range nodes {
			if filter.Filter(ctx, state, pod, info).IsSuccess() || every {
				feasible = append(feasible, info)
			}
		}
	}
	if p, ok := plugin.(fwk.PreScorePlugin); ok {
		if status := p.PreScore(ctx, state, pod, feasible); !status.IsSuccess() {
			tb.Fatalf("PreScore of %s: %v", plugin.Name(), status)
		}
	}
	score := plugin.(fwk.ScorePlugin)
	scores := make(fwk.NodeScoreList, len(feasible))
	for i, info := range feasible {
		s, status := score.Score(ctx, state, pod, info)
		if !status.IsSuccess() {
			tb.Fatalf("Score of %s: %v", plugin.Name(), status)
		}
		scores[i] = fwk.NodeScore{Name: info.Node().Name, Score: s}
	}
	return scores
}

// use is what one placement took.
type use struct {
	cpu    time.Duration
	allocs float64
}

// measure returns the use of one call, by the mean of so many that they take about a quarter of a second. It counts the CPU time of the
// process: what others do on the machine does not, and the garbage collector does.
func measure(f func()) use {
	f()
	runtime.GC()
	n := 1
	for {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := processCPU()
		for range n {
			f()
		}
		cpu := processCPU() - start
		runtime.ReadMemStats(&after)
		if cpu > 200*time.Millisecond {
			return use{cpu / time.Duration(n), float64(after.Mallocs-before.Mallocs) / float64(n)}
		}
		n = max(2*n, int(float64(n)*float64(250*time.Millisecond)/float64(max(cpu, time.Millisecond))))
	}
}

func processCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// overheadPairs is how many pairs of measurements TestNetworkOverhead takes.
const overheadPairs = 7

// TestNetworkOverhead compares one placement by each plugin: the application, the nodes and the table of latencies are the same. Every node is
// filtered and scored, as in NetworkOverhead's own benchmarks; NodeLatency as it is shipped looks at the nearest that have room.
func TestNetworkOverhead(t *testing.T) {
	const nodes = 5000
	out := outDir(t)
	r := loadReport(t, out)
	pod := newFrontend(0)
	for _, c := range []struct {
		name           string
		maxNetworkCost int
		every          bool
	}{
		// Its own benchmarks have no maxNetworkCost, which stands for 0: nearly every node is rejected, each with a message of its own.
		{"Online Boutique", 0, true},
		{"Online Boutique, all nodes accepted", 100, false},
	} {
		b := newBoutiqueBed(t, nodes, c.maxNetworkCost)
		b.checkAgreement(t, pod)
		cpu, allocs := map[string][]float64{}, map[string][]float64{}
		for range overheadPairs {
			theirs := measure(func() { b.place(t, b.theirs, pod, c.every) })
			for name, plugin := range map[string]fwk.Plugin{"NodeLatency": b.narrowed, "NodeLatency on all nodes": b.ours} {
				ours := measure(func() { b.place(t, plugin, pod, c.every) })
				cpu[name] = append(cpu[name], theirs.cpu.Seconds()/ours.cpu.Seconds())
				allocs[name] = append(allocs[name], theirs.allocs/ours.allocs)
				t.Logf("%s: NetworkOverhead %.1f ms, %.0f allocations; %s %.3f ms, %.0f allocations", c.name,
					1000*theirs.cpu.Seconds(), theirs.allocs, name, 1000*ours.cpu.Seconds(), ours.allocs)
			}
		}
		for _, name := range []string{"NodeLatency", "NodeLatency on all nodes"} {
			cpuBar, allocsBar := 0.0, 0.0
			if c.every {
				cpuBar, allocsBar = 100, 1000
			}
			against := "NetworkOverhead, " + c.name
			r.set(fmt.Sprintf("%s, %d nodes", name, nodes), against, "CPU of one placement", cpuBar, cpu[name], 0)
			r.set(fmt.Sprintf("%s, %d nodes", name, nodes), against, "allocations of one placement", allocsBar, allocs[name], 0)
		}
		r.write(t, out)
	}
	t.Log("\n" + r.table())
	r.judge(t)
}

// checkAgreement fails unless the plugins mean the same: NetworkOverhead's cost of a node is the sum of the RTTs in ms, NodeLatency's their mean in
// ns. On one node NetworkOverhead has 0, where NodeLatency has a little. Narrowed, NodeLatency has the same costs for the nodes that are left,
// and leaves the best.
func (b *boutiqueBed) checkAgreement(t *testing.T, pod *v1.Pod) {
	t.Helper()
	sums := func(plugin fwk.Plugin, unit float64) (map[string]float64, float64) {
		costs, least := map[string]float64{}, math.Inf(1)
		for _, s := range b.score(t, plugin, framework.NewCycleState(), pod, true) {
			costs[s.Name] = float64(s.Score) * unit
			least = min(least, costs[s.Name])
		}
		return costs, least
	}
	perDependency := float64(len(frontendCalls)) / float64(time.Millisecond)
	theirs, _ := sums(b.theirs, 1)
	ours, best := sums(b.ours, perDependency)
	narrowed, bestNarrowed := sums(b.narrowed, perDependency)
	if len(theirs) != len(b.infos) || len(ours) != len(b.infos) || len(narrowed) == 0 {
		t.Fatalf("%d nodes: NetworkOverhead has costs of %d, NodeLatency of %d, narrowed of %d", len(b.infos), len(theirs), len(ours), len(narrowed))
	}
	for name, cost := range ours {
		if math.Abs(cost-theirs[name]) > costInZone {
			t.Fatalf("%s costs NodeLatency %.2f ms, NetworkOverhead %.0f: they do not mean the same", name, cost, theirs[name])
		}
	}
	for name, cost := range narrowed {
		if cost != ours[name] {
			t.Errorf("%s costs %.2f ms, narrowed %.2f", name, ours[name], cost)
		}
	}
	if bestNarrowed != best {
		t.Errorf("the best node costs %.2f ms, narrowed %.2f", best, bestNarrowed)
	}
}

// BenchmarkNetworkOverhead is one placement by each plugin, at the sizes of NetworkOverhead's own benchmarks.
func BenchmarkNetworkOverhead(b *testing.B) {
	for _, nodes := range []int{10, 100, 500, 1000, 2000, 3000, 5000, 10000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			bed := newBoutiqueBed(b, nodes, 0)
			pod := newFrontend(0)
			for name, plugin := range map[string]fwk.Plugin{"NetworkOverhead": bed.theirs, "NodeLatency": bed.ours, "NodeLatency-narrowed": bed.narrowed} {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						bed.place(b, plugin, pod, true)
					}
				})
			}
		})
	}
}
