// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
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

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
	"github.com/fogsched/fogsched/pkg/source"
)

const (
	narrowNodes   = 5000
	narrowTargets = 60 // nodes with a server
	// narrowBar is the mean RTT of the nodes that narrowing chooses, as a multiple of what scoring all nodes gives.
	narrowBar = 1.05
)

// The ways to choose candidates, each a profile.
const (
	byTurn    = "nothing" // what the framework does: 10 % of the nodes, in turn
	narrowing = "narrowing"
	allNodes  = "percentageOfNodesToScore 100"
)

func narrowProfiles(t *testing.T) []config.KubeSchedulerProfile {
	t.Helper()
	profile := func(name, candidates, more string) string {
		return fmt.Sprintf(`
- schedulerName: %q
  %s
  plugins: {multiPoint: {enabled: [{name: NodeLatency, weight: 5}]}, postFilter: {enabled: [{name: NodeLatency}]}}
  pluginConfig: [{name: NodeLatency, args: {maxAge: 6h, candidates: %s}}]`, name, more, candidates)
	}
	text := "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:" +
		profile(byTurn, "0", "") + profile(narrowing, "100", "") + profile(allNodes, "0", "percentageOfNodesToScore: 100")
	obj, _, err := scheme.Codecs.UniversalDecoder().Decode([]byte(text), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*config.KubeSchedulerConfiguration).Profiles
}

// wide is a network of more nodes than were measured: several stand where one did, a little apart.
type wide struct {
	m      matrix
	access []float64 // of each node, in milliseconds
}

func (w *wide) rtt(i, j int) float64 {
	if i == j {
		return 0.05
	}
	own := w.access[i] + w.access[j]
	a, b := i%len(w.m), j%len(w.m)
	if a == b {
		return 0.3 + own
	}
	return orReverse(w.m[a][b], w.m[b][a]) + own
}

// onceSource reports samples once.
type onceSource map[string]latency.Report

func (s onceSource) Run(ctx context.Context, update source.Update) error {
	for from, r := range s {
		update(from, r)
	}
	<-ctx.Done()
	return nil
}

// narrowRuns lets -count 5 have five clusters. The first is always the same.
var narrowRuns atomic.Uint64

// TestQualityNarrow places pods in a cluster of 5,000 nodes in three ways, and says how far from their servers they land and what CPU that takes.
func TestQualityNarrow(t *testing.T) {
	metrics.MeasuredPairs.Set(0)
	in := loadInputs(t)
	rng := rand.New(rand.NewPCG(5, 5+narrowRuns.Add(1)-1))
	w := &wide{m: in.truth, access: make([]float64, narrowNodes)}
	load := make([]float64, narrowNodes)
	for i := range narrowNodes {
		w.access[i], load[i] = 0.05+2*rng.Float64()*rng.Float64(), 0.95*rng.Float64()
	}
	targets := rng.Perm(narrowNodes)[:narrowTargets]
	reports := onceSource{}
	now := time.Now()
	pairs := 0
	add := func(from, to int) {
		ms := w.rtt(from, to)
		if !known(ms) || ms <= 0 {
			return
		}
		r := reports[nodeName(from)]
		r.Samples = append(r.Samples, latency.Sample{From: nodeName(from), To: nodeName(to), Typical: ms / 1000, Tail: 1.2 * ms / 1000, At: now, Count: 20})
		reports[nodeName(from)] = r
		pairs++
	}
	isTarget := map[int]bool{}
	for _, target := range targets {
		isTarget[target] = true
	}
	for n := range narrowNodes {
		for _, target := range targets {
			if n != target {
				add(n, target)
				if !isTarget[n] {
					add(target, n)
				}
			}
		}
	}

	logger := ktesting.NewLogger(ktesting.NopTL{}, ktesting.NewConfig(ktesting.Verbosity(0)))
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), logger))
	defer cancel()
	registry := frameworkruntime.Registry{nodelatency.Name: nodelatency.NewWith(nodelatency.Options{
		PostFilters: func(fwk.Handle) []string { return []string{nodelatency.Name} },
		Sources:     map[string]source.Source{"once": reports},
	})}
	// Of 5,000 Services each pod would be asked whether it is one of theirs, which costs more than all the rest.
	list := slices.DeleteFunc(objects(narrowNodes, load), func(o runtime.Object) bool {
		svc, ok := o.(*v1.Service)
		return ok && !slices.ContainsFunc(targets, func(n int) bool { return svc.Name == serviceName(n) })
	})
	clientSet := fake.NewClientset(list...)
	factory := informers.NewSharedInformerFactory(clientSet, 0)
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: clientSet.EventsV1()})
	sched, err := scheduler.New(ctx, clientSet, factory, nil, profile.NewRecorderFactory(broadcaster),
		scheduler.WithProfiles(narrowProfiles(t)...), scheduler.WithFrameworkOutOfTreeRegistry(registry))
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := sched.WaitForHandlersSync(ctx); err != nil {
		t.Fatal(err)
	}
	// The profiles share their data.
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if gauge(t, metrics.MeasuredPairs) > 0.9*float64(pairs)/2 && gauge(t, metrics.Pairs) == narrowNodes*(narrowNodes-1)/2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v of some %d pairs are in the snapshot", gauge(t, metrics.MeasuredPairs), pairs/2)
		}
	}

	type result struct {
		millis []float64
		cpu    time.Duration
	}
	results := map[string]*result{byTurn: {}, narrowing: {}, allNodes: {}}
	place := func(name string, pod *v1.Pod, cost func(node int) float64) {
		r := results[name]
		before := cpuTime(t)
		chosen, err := sched.SchedulePod(ctx, sched.Profiles[name], framework.NewCycleState(), pod)
		r.cpu += cpuTime(t) - before
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var n int
		if _, err := fmt.Sscanf(chosen.SuggestedHost, "node-%d", &n); err != nil {
			t.Fatal(err)
		}
		r.millis = append(r.millis, cost(n))
	}
	// Workloads, one dependency and ten by turns. Each is placed once before it counts: its siblings find the annotation read and the rows built.
	const workloads, draws = 20, 400
	servers := make([][]int, workloads)
	annotations := make([]string, workloads)
	for i := range workloads {
		servers[i] = rng.Perm(narrowTargets)[:1+9*(i%2)]
		var entries []string
		for _, s := range servers[i] {
			entries = append(entries, fmt.Sprintf(`{"service":%q}`, serviceName(targets[s])))
		}
		annotations[i] = `{"dependencies":[` + strings.Join(entries, ",") + `]}`
	}
	names := []string{byTurn, narrowing, allNodes}
	for i := range workloads + draws {
		if i == workloads {
			for _, r := range results {
				*r = result{}
			}
		}
		cost := func(n int) float64 {
			sum := 0.0
			for _, s := range servers[i%workloads] {
				sum += w.rtt(n, targets[s])
			}
			return sum / float64(len(servers[i%workloads]))
		}
		for k := range names { // by turns, so that the machine's moods are the same for all
			name := names[(i+k)%len(names)]
			place(name, newPod(fmt.Sprintf("pod-%d-%d", i, k), name, annotations[i%workloads]), cost)
		}
	}

	full := results[allNodes]
	fmt.Printf("\n%d pods in a cluster of %d nodes, made from the PlanetLab RTTs; one dependency and ten by turns\n\n", draws, narrowNodes)
	tw := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "candidates\tmean RTT\tp50\tp95\t× all nodes\tCPU a pod\tpods a CPU second\t")
	report := map[string]any{}
	for _, name := range []string{byTurn, narrowing, allNodes} {
		r := results[name]
		sorted := slices.Sorted(slices.Values(r.millis))
		ratio := mean(r.millis) / mean(full.millis)
		each := r.cpu / time.Duration(len(r.millis))
		fmt.Fprintf(tw, "%s\t%.2f ms\t%.2f ms\t%.2f ms\t%.3f\t%s\t%.0f\t\n", name, mean(r.millis), sorted[len(sorted)/2], sorted[len(sorted)*95/100], ratio, each.Round(10*time.Microsecond), 1/each.Seconds())
		report[name] = map[string]float64{"meanMillis": mean(r.millis), "ratio": ratio, "cpuMicros": float64(each.Microseconds())}
	}
	tw.Flush()
	if ratio := mean(results[narrowing].millis) / mean(full.millis); ratio > narrowBar {
		t.Errorf("narrowing gives %.3f of the RTT that scoring all nodes gives, want at most %g", ratio, narrowBar)
	}
	if results[narrowing].cpu > results[byTurn].cpu {
		t.Errorf("a narrowed pod takes %s of CPU, one that is not %s", results[narrowing].cpu/draws, results[byTurn].cpu/draws)
	}
	data, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(repositoryRoot(t), "out", "quality")
	if err := os.MkdirAll(out, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "narrowing.json"), append(data, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// cpuTime returns the CPU time of this process, which a busy machine does not lengthen as much as it does the clock's.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
