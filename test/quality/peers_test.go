// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	pluginsconfig "sigs.k8s.io/scheduler-plugins/apis/config"
	"sigs.k8s.io/scheduler-plugins/pkg/networkaware/networkoverhead"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

const (
	// peerDraws × peerPlacements are placed by each scheduler. NetworkOverhead takes some milliseconds for each.
	peerDraws      = 10
	peerPlacements = 300

	peers = "one-dependency-peers"

	// The policies of the cases that compare schedulers.
	byStock      = "stock"
	byOverhead10 = "networkoverhead-10"
	byOverhead30 = "networkoverhead-30"
	byFogsched   = "fogsched"
	bySparse     = "fogsched-sparse-16"
	byInterest   = "fogsched-sparse-16-interest" // the applications' clients are of interest
	byBest       = "best-measured"
	byOracle     = "oracle"

	maxToOverhead10 = 0.40
	// maxOutOfOrder is what an application created in any order may have of the oracle's mean RTT, which places callers first. Before what stands in for
	// callers went on to their callers it was 3.3 for the chain and 1.6 for the ten services.
	maxOutOfOrder = 1.5

	// overheadOnly is the profile that has NetworkOverhead as its only score plugin, as latencyOnly has NodeLatency.
	overheadOnly = "networkoverhead-only"
	overheadName = "costs" // of the NetworkTopology
)

// rivals are the figures of TestQualityPeers, and the RTTs behind them.
type rivals struct {
	in   inputs
	rng  *rand.Rand
	load []float64
	r    *report
	// millis has the true RTTs by case and policy.
	millis map[string]map[string][]float64
	// fifths has them in five parts, each every fifth trial: how far apart they are is what a mean may be off by.
	fifths map[string]map[string]*fifths
	// placements of the one dependency, applications and replica sets: the same for all schedulers.
	ps     [][]placement
	trials map[*application][]trial
	sets   []*replicaTrial
}

func (c *rivals) add(caseName, policy string, millis ...float64) {
	if c.millis[caseName] == nil {
		c.millis[caseName], c.fifths[caseName] = map[string][]float64{}, map[string]*fifths{}
	}
	c.millis[caseName][policy] = append(c.millis[caseName][policy], millis...)
	if c.fifths[caseName][policy] == nil {
		c.fifths[caseName][policy] = &fifths{}
	}
	c.fifths[caseName][policy].add(millis)
}

// fifths are the RTTs of a policy's trials, the first of five in the first, and so on.
type fifths struct {
	trials int
	millis [5][]float64
}

func (f *fifths) add(millis []float64) {
	part := &f.millis[f.trials%len(f.millis)]
	*part = append(*part, millis...)
	f.trials++
}

// means returns the mean of each fifth; none where one is empty, because there are fewer trials or nobody knows its RTTs.
func (f *fifths) means() []float64 {
	list := make([]float64, len(f.millis))
	for i, part := range f.millis {
		if len(part) == 0 {
			return nil
		}
		list[i] = mean(part)
	}
	return list
}

// TestQualityPeers places the same pods by fogsched, by the stock scheduler and by NetworkOverhead of sigs.k8s.io/scheduler-plugins, and compares
// them with the best that can be had: one dependency, chains and an application created in a random order, and the replicas of a service.
func TestQualityPeers(t *testing.T) {
	in := loadInputs(t)
	start := time.Now()
	c := &rivals{
		in: in, rng: rand.New(rand.NewPCG(11, 12)), load: make([]float64, len(in.measured)),
		r:      &report{Measured: filepath.Base(in.measuredFile), True: filepath.Base(in.trueFile), Nodes: len(in.measured)},
		millis: map[string]map[string][]float64{}, fifths: map[string]map[string]*fifths{}, trials: map[*application][]trial{},
	}
	for n := range c.load {
		c.load[n] = 0.8 * c.rng.Float64()
	}
	scale := 1
	if testing.Short() {
		scale = 10
	}
	for range peerDraws {
		c.ps = append(c.ps, drawPlacements(in.truth, c.rng)[:peerPlacements/scale])
	}
	gateways := someTargets(len(in.truth), gatewayCount, c.rng)
	for _, a := range applications {
		c.trials[a] = a.draw(gateways, len(in.truth), max(2, a.trials/scale), c.rng)
	}
	c.sets = drawReplicaTrials(in.truth, max(1, replicaSetsEach/scale), c.rng)

	t.Run("all-pairs", func(t *testing.T) {
		_, pairs := in.measured.pairs()
		c.placeByLatency(t, byFogsched, nodeLatencies(in.measured), pairs)
	})
	t.Run("sparse", func(t *testing.T) {
		list, _ := replaySparseOff(t, in.measured)
		c.placeByLatency(t, bySparse, list, measuredPairs(list)*97/100) // some are not believed
	})
	t.Run("sparse-interest", func(t *testing.T) {
		list, _ := replaySparse(t, in.measured, gateways, sparseShort)
		c.placeByLatency(t, byInterest, list, measuredPairs(list)*9/10)
	})
	for policy, zones := range map[string]int{byOverhead10: 10, byOverhead30: 30} {
		t.Run(policy, func(t *testing.T) { c.placeByOverhead(t, policy, zones) })
	}
	if t.Failed() {
		return // a scheduler did not run; figures would mislead
	}
	c.placeByKnowledge()
	c.summarise()

	out := filepath.Join(repositoryRoot(t), "out", "quality")
	if testing.Short() {
		out = t.TempDir()
	}
	if err := c.r.write(t, filepath.Join(out, "report.json")); err != nil {
		t.Fatal(err)
	}
	picture, err := c.picture()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "cdf.svg"), picture, 0o644); err != nil {
		t.Fatal(err)
	}
	c.print(out, time.Since(start))
	for _, b := range c.r.Bars {
		if !b.Kept && b.NotJudged == "" {
			t.Errorf("%s: it is %s", b.Text, b.figure())
		}
	}
}

// placeByLatency places everything by NodeLatency, with what a list of NodeLatency objects tells it. The stock profile places beside it once.
func (c *rivals) placeByLatency(t *testing.T, policy string, list v1alpha1.NodeLatencyList, pairs int) {
	b := newBedWith(t, list, len(c.in.measured), pairs, c.load, nil, extra{objects: applicationServices(), policies: applicationPolicies()})
	defer b.printLogs(t)
	withStock := policy == byFogsched
	b.waitForPolicies(t)
	c.placeApplications(t, b, policy, withStock)
	if policy == byInterest {
		return // it is about these clients only
	}
	for _, draw := range c.ps {
		for _, p := range draw {
			c.add(peers, policy, c.in.truth[b.chooseClient(t, latencyOnly, p)][p.server])
			if withStock {
				c.add(peers, byStock, c.in.truth[b.chooseClient(t, stock, p)][p.server])
			}
		}
	}
	for i, s := range c.sets {
		c.judgeReplicas(s, policy, b.placeReplicasOf(t, s, fmt.Sprintf("set-%d", i)))
		if withStock {
			c.judgeReplicas(s, byStock, s.oneByOne(func(_ int, feasible []int) int {
				return b.choose(t, stock, framework.NewCycleState(), newPod("new", stock, s.annotation()), feasible)
			}))
		}
	}
}

func (c *rivals) placeApplications(t *testing.T, b *bed, policy string, withStock bool) {
	for _, a := range applications {
		for i := range c.trials[a] {
			tr := &c.trials[a][i]
			c.judgeTrial(a, policy, b.placeReserving(t, a, tr, tr.order))
			if withStock {
				c.judgeTrial(a, byFogschedTopological, b.placeReserving(t, a, tr, a.topological()))
				c.judgeTrial(a, byStock, a.place(tr, tr.order, func(k int, _, feasible []int) int {
					return b.choose(t, stock, framework.NewCycleState(), a.pod(k, stock, "new"), feasible)
				}))
			}
		}
	}
}

// placeByOverhead places the one dependency and the applications by NetworkOverhead, whose zones are clusters of the measured RTTs and whose
// costs are the medians between them. It knows no clients outside of the cluster's pods, so there is nothing to tell it about replica sets.
func (c *rivals) placeByOverhead(t *testing.T, policy string, count int) {
	zones := newZoneTable(c.in.measured, count, rand.New(rand.NewPCG(13, uint64(count))))
	profile := overheadProfile(t)
	ctrllog.SetLogger(logr.Discard()) // else it complains that nobody did
	b := newBedWith(t, nodeLatencies(nil), len(c.in.measured), 0, c.load, nil, extra{
		plugins:  frameworkruntime.Registry{networkoverhead.Name: networkoverhead.New},
		profiles: []config.KubeSchedulerProfile{profile},
		serve:    func(mux *http.ServeMux) { serveOverhead(t, mux, len(c.in.measured), &zones) },
		edit: func(o runtime.Object) {
			switch o := o.(type) {
			case *v1.Node:
				var n int
				if _, err := fmt.Sscanf(o.Name, "node-%d", &n); err != nil {
					t.Fatal(err)
				}
				o.Labels[v1.LabelTopologyRegion], o.Labels[v1.LabelTopologyZone] = "region", zoneName(zones.of[n])
			case *v1.Pod:
				o.Labels[labelAppGroup], o.Labels[labelWorkload] = "of-"+o.Name, "server"
			}
		},
	})
	defer b.printLogs(t)
	for _, draw := range c.ps {
		for _, p := range draw {
			pod := newPod("client", overheadOnly, "")
			pod.Labels = map[string]string{labelAppGroup: "of-" + serviceName(p.server), labelWorkload: "client"}
			c.add(peers, policy, c.in.truth[b.choose(t, overheadOnly, framework.NewCycleState(), pod, p.feasible)][p.server])
		}
	}
	for _, a := range applications {
		for i := range c.trials[a] {
			tr := &c.trials[a][i]
			var placed []*v1.Pod
			put := func(pod *v1.Pod, n int) {
				pod.Spec.NodeName = nodeName(n)
				if err := b.pods.Add(pod); err != nil {
					t.Fatal(err)
				}
				placed = append(placed, pod)
			}
			put(a.pod(0, overheadOnly, "placed"), tr.client)
			c.judgeTrial(a, policy, a.place(tr, tr.order, func(k int, _, feasible []int) int {
				n := b.choose(t, overheadOnly, framework.NewCycleState(), a.pod(k, overheadOnly, "new"), feasible)
				put(a.pod(k, overheadOnly, "placed"), n)
				return n
			}))
			for _, pod := range placed {
				if err := b.pods.Delete(pod); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// placeByKnowledge places everything by who reads the matrices themselves.
func (c *rivals) placeByKnowledge() {
	m, truth := c.in.measured, c.in.truth
	for _, draw := range c.ps {
		for _, p := range draw {
			c.add(peers, byBest, truth[nearest(p.feasible, func(n int) float64 { return orReverse(m[n][p.server], m[p.server][n]) })][p.server])
			c.add(peers, byOracle, truth[nearest(p.feasible, func(n int) float64 { return truth[n][p.server] })][p.server])
		}
	}
	for _, a := range applications {
		for i := range c.trials[a] {
			tr := &c.trials[a][i]
			c.judgeTrial(a, byOracle, a.place(tr, a.topological(), a.greedy(truth)))
			c.judgeTrial(a, byOracleInOrder, a.place(tr, tr.order, a.greedy(truth)))
		}
	}
	for _, s := range c.sets {
		c.judgeReplicas(s, byOracle, s.greedy(truth))
		for r := 1; r <= searchedReplicas; r++ {
			c.add(replicaCase(r), byOptimum, s.millis(truth, s.optimum(truth, r))...)
		}
	}
}

// overheadProfile is NetworkOverhead alone.
func overheadProfile(t *testing.T) config.KubeSchedulerProfile {
	t.Helper()
	obj, _, err := scheme.Codecs.UniversalDecoder().Decode([]byte(`
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: `+overheadOnly+`
  plugins:
    multiPoint:
      disabled: [{name: "*"}]
      enabled: [{name: PrioritySort}, {name: NetworkOverhead}, {name: DefaultBinder}]
`), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := obj.(*config.KubeSchedulerConfiguration).Profiles[0]
	p.PluginConfig = append(p.PluginConfig, config.PluginConfig{Name: networkoverhead.Name, Args: &pluginsconfig.NetworkOverheadArgs{
		Namespaces: []string{namespace}, WeightsName: "UserDefined", NetworkTopologyName: overheadName,
	}})
	return p
}

const (
	labelAppGroup = "appgroup.diktyo.x-k8s.io"
	labelWorkload = labelAppGroup + ".workload"

	appGroups         = "appgroup.diktyo.x-k8s.io"
	networkTopologies = "networktopology.diktyo.x-k8s.io"
)

func zoneName(z int) string { return fmt.Sprintf("zone-%02d", z) }

// serveOverhead serves the kinds that NetworkOverhead reads: an AppGroup for each server and its client, one for each application, and the
// costs between the zones.
func serveOverhead(t *testing.T, mux *http.ServeMux, nodes int, zones *zoneTable) {
	t.Helper()
	var groups []any
	for n := range nodes {
		groups = append(groups, appGroup("of-"+serviceName(n), map[string][]string{"client": {"server"}, "server": nil}))
	}
	for _, a := range applications {
		calls := map[string][]string{}
		for k := range a.services {
			calls[a.service(k)] = nil
			for _, callee := range a.services[k].calls {
				calls[a.service(k)] = append(calls[a.service(k)], a.service(callee))
			}
		}
		groups = append(groups, appGroup(a.name, calls))
	}
	serveKind(t, mux, appGroups, "appgroups", "AppGroup", groups)
	serveKind(t, mux, networkTopologies, "networktopologies", "NetworkTopology", []any{networkTopology(zones)})
	serve(t, mux, "/api", metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}})
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for _, group := range []string{appGroups, networkTopologies} {
		version := metav1.GroupVersionForDiscovery{GroupVersion: group + "/v1alpha1", Version: "v1alpha1"}
		list.Groups = append(list.Groups, metav1.APIGroup{Name: group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version})
	}
	serve(t, mux, "/apis", list)
}

func serveKind(t *testing.T, mux *http.ServeMux, group, resource, kind string, items []any) {
	t.Helper()
	base := "/apis/" + group + "/v1alpha1"
	serve(t, mux, base, metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: group + "/v1alpha1",
		APIResources: []metav1.APIResource{{Name: resource, Kind: kind, Namespaced: true, Verbs: metav1.Verbs{"get", "list", "watch"}}},
	})
	serve(t, mux, base+"/"+resource, map[string]any{
		"apiVersion": group + "/v1alpha1", "kind": kind + "List", "metadata": map[string]any{"resourceVersion": "1"}, "items": items,
	})
}

// appGroup returns an AppGroup of workloads and whom each calls. No cost is too high for it: its Filter leaves every node in.
func appGroup(name string, calls map[string][]string) map[string]any {
	workload := func(name string) map[string]any {
		return map[string]any{"kind": "Deployment", "name": name, "selector": name, "apiVersion": "apps/v1", "namespace": namespace}
	}
	var workloads []any
	for caller, callees := range calls {
		w := map[string]any{"workload": workload(caller)}
		var dependencies []any
		for _, callee := range callees {
			dependencies = append(dependencies, map[string]any{"workload": workload(callee), "maxNetworkCost": 1_000_000})
		}
		if len(dependencies) > 0 {
			w["dependencies"] = dependencies
		}
		workloads = append(workloads, w)
	}
	return map[string]any{
		"apiVersion": appGroups + "/v1alpha1", "kind": "AppGroup",
		"metadata": map[string]any{"namespace": namespace, "name": name, "uid": name, "resourceVersion": "1"},
		"spec":     map[string]any{"numMembers": len(workloads), "topologySortingAlgorithm": "KahnSort", "workloads": workloads},
	}
}

// networkTopology has the costs of a zone table in whole milliseconds, at least 2: NetworkOverhead has 1 for one zone built in.
func networkTopology(zones *zoneTable) map[string]any {
	var origins []any
	for a, costs := range zones.cost {
		var list []any
		for b, cost := range costs {
			if a != b && !math.IsInf(cost, 1) {
				list = append(list, map[string]any{"destination": zoneName(b), "networkCost": max(2, int(math.Round(cost)))})
			}
		}
		origins = append(origins, map[string]any{"origin": zoneName(a), "costList": list})
	}
	return map[string]any{
		"apiVersion": networkTopologies + "/v1alpha1", "kind": "NetworkTopology",
		"metadata": map[string]any{"namespace": namespace, "name": overheadName, "uid": overheadName, "resourceVersion": "1"},
		"spec": map[string]any{
			"configmapName": "",
			"weights": []any{map[string]any{"name": "UserDefined", "topologyList": []any{
				map[string]any{"topologyKey": v1.LabelTopologyZone, "originList": origins},
			}}},
		},
	}
}
