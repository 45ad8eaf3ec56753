// SPDX-License-Identifier: Apache-2.0

//go:build c2m

package c2m

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"github.com/fogsched/fogsched/cmd/fogsched/app"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
	"github.com/fogsched/fogsched/pkg/source"
	"github.com/fogsched/fogsched/test/program"
)

const (
	allPods, allNodes = 2_000_000, 6_100
	nomadTime         = 22 * time.Minute

	// window is how many pods wait at most: controllers do not create two million before the first is placed.
	window = 1_000
	// settled is how long the scheduler waits for its first snapshots before the clock starts.
	settled = time.Minute

	maxPeak  = 12 << 10 // MiB
	maxRatio = 1.10
	// One pod in sampleEvery is compared with full scoring, and in a small run so many.
	sampleEvery, leastSamples = 1_000, 500
	// gcPercent is GOGC: while little is alive the garbage of one pod need not be collected again and again; later the limit decides. The limit alone would
	// be reached where others take the cores, and then who allocates has to collect.
	gcPercent = 400
	minCPU    = 2 // cores of the machine for which nomadTime is the target
)

// fullProfile is the profile of the run, but all nodes are looked at for each pod.
const fullProfile = "full"

// number returns an environment variable, or another number where it is not set.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number above 0", name, text)
	}
	return n
}

// run is what the test watches while the scheduler runs.
type run struct {
	world   *world
	apps    map[string]*application // by namespace
	numbers map[string]int          // of nodes, by name
	sched   *scheduler.Scheduler
	pods    int

	onNode []atomic.Int32
	bound  atomic.Int64
	failed atomic.Int64
	send   func(context.Context, *v1.Pod)
	room   chan struct{} // has one for each pod that waits
	done   chan struct{}

	ctx context.Context
	// Of the scheduling loop alone.
	popped    int
	asked     *v1.Pod // the sampled pod whose cycle runs
	askedNode string  // where all nodes would have put it
	asks      int

	mu       sync.Mutex
	compared []comparison
	sampling time.Duration
}

// comparison is the true round trip of one pod in milliseconds, where it went and where full scoring would have put it.
type comparison struct {
	chosen, full float64
	nearest      bool // it calls the nearest server, not any
}

func TestTwoMillion(t *testing.T) {
	root, err := program.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	out := os.Getenv("OUT")
	if out == "" {
		out = filepath.Join(root, "out", "c2m")
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		t.Fatal(err)
	}
	file := os.Getenv("CONFIG")
	if file == "" {
		file = "test/c2m/config.yaml"
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(root, file)
	}
	// kube-scheduler would sign each pod to find out whether it is placed like the one before. One whose place depends on where others are never is.
	if err := utilfeature.DefaultMutableFeatureGate.Set("OpportunisticBatching=false"); err != nil {
		t.Fatal(err)
	}
	klog.EnableContextualLogging(false) // what the feature gate ContextualLogging does: each pod has loggers of its own otherwise
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit((maxPeak - 256) << 20) // beside the heap there is little

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := newWorld(number(t, "NODES", allNodes))
	apps := newApplications(w)
	r := &run{
		world: w, apps: map[string]*application{}, numbers: map[string]int{}, pods: number(t, "PODS", allPods), ctx: ctx,
		onNode: make([]atomic.Int32, len(w.nodes)), room: make(chan struct{}, window), done: make(chan struct{}),
	}
	for _, a := range apps {
		r.apps[a.namespace] = a
	}
	for i := range w.nodes {
		r.numbers[w.nodes[i].name] = i
	}
	r.start(t, file, apps)

	profileFile, err := os.Create(filepath.Join(out, "cpu.pprof"))
	if err != nil {
		t.Fatal(err)
	}
	defer profileFile.Close()
	if err := pprof.StartCPUProfile(profileFile); err != nil {
		t.Fatal(err)
	}
	clock := startClock(r)
	go r.create(ctx, apps)
	go r.sched.Run(ctx)
	clock.follow(r, time.Duration(number(t, "MINUTES", 24*60))*time.Minute)
	cancel()
	pprof.StopCPUProfile()
	if err := heapProfile(filepath.Join(out, "heap.pprof")); err != nil {
		t.Fatal(err)
	}

	rep := clock.report(t, r)
	rep.Where = where(t, profileFile.Name(), rep.CPUMicrosPerPod)
	rep.Config, rep.Nodes, rep.Regions, rep.Applications = strings.TrimPrefix(file, root+"/"), len(w.nodes), len(regions), len(apps)
	if err := rep.write(out); err != nil {
		t.Fatal(err)
	}
	rep.print(os.Stdout)
	r.check(t, rep)
}

// heapProfile writes what is alive, and what was allocated.
func heapProfile(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	runtime.GC() // the profile is of the last one
	return pprof.Lookup("heap").WriteTo(f, 0)
}

// start makes the scheduler and waits until it knows nodes and latencies.
func (r *run) start(t *testing.T, file string, apps []*application) {
	t.Helper()
	conf := configuration(t, file)
	a := &api{
		Interface: fake.NewClientset(), events: make(chan watch.Event, 1_000), bound: r.takeUp,
		failed: func(namespace, name, patch string) {
			if n := r.failed.Add(1); n <= 5 {
				fmt.Printf("\nnot placed: %s/%s: %.300s\n", namespace, name, patch)
			}
		},
		nodes: r.world.nodeList(func(n int, set map[string]string) {
			for _, app := range apps {
				if slices.Contains(app.users, n) {
					set[app.userLabel()] = "user"
				}
			}
		}),
		namespaces: namespaceList(apps), services: serviceList(apps), replicaSets: replicaSetList(apps),
	}
	a.revision.Store(int64(r.pods) + 2)
	factory := scheduler.NewInformerFactory(a, 0)
	a.pods = factory.Core().V1().Pods().Lister()
	r.send = a.create

	registry := frameworkruntime.Registry{}
	for _, option := range app.Plugins() {
		if err := option(registry); err != nil {
			t.Fatal(err)
		}
	}
	loaded := &reporting{world: r.world, done: make(chan struct{})}
	registry[nodelatency.Name] = nodelatency.NewWith(nodelatency.Options{
		PostFilters: postFilters, Sources: map[string]source.Source{"world": loaded},
	})
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: a.EventsV1()})
	sched, err := scheduler.New(klog.NewContext(r.ctx, klog.Background()), a, factory, nil, profile.NewRecorderFactory(broadcaster),
		scheduler.WithProfiles(conf.Profiles...),
		scheduler.WithParallelism(conf.Parallelism),
		scheduler.WithPercentageOfNodesToScore(conf.PercentageOfNodesToScore),
		scheduler.WithFrameworkOutOfTreeRegistry(registry),
	)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(r.ctx.Done())
	factory.WaitForCacheSync(r.ctx.Done())
	if err := sched.WaitForHandlersSync(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.sched = sched
	sched.NextPod = r.next
	waitForLatencies(t, loaded.done, len(r.world.nodes))
}

// configuration reads a KubeSchedulerConfiguration and adds fullProfile to its profile.
func configuration(t *testing.T, file string) *config.KubeSchedulerConfiguration {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := scheme.Codecs.UniversalDecoder().Decode(data, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	conf, ok := obj.(*config.KubeSchedulerConfiguration)
	if !ok || len(conf.Profiles) != 1 || conf.Profiles[0].SchedulerName != schedulerID {
		t.Fatalf("%s: want a KubeSchedulerConfiguration of the one profile %s", file, schedulerID)
	}
	full := conf.Profiles[0].DeepCopy()
	full.SchedulerName = fullProfile
	all := int32(100)
	full.PercentageOfNodesToScore = &all
	// Behind the other PostFilter it does not narrow.
	full.Plugins.PostFilter.Enabled = slices.DeleteFunc(full.Plugins.PostFilter.Enabled, func(p config.Plugin) bool { return p.Name == nodelatency.Name })
	conf.Profiles = append(conf.Profiles, *full)
	return conf
}

// postFilters is what cmd/fogsched hands the plugin.
func postFilters(handle fwk.Handle) (names []string) {
	if f, ok := handle.(framework.Framework); ok {
		for _, p := range f.ListPlugins().PostFilter.Enabled {
			names = append(names, p.Name)
		}
	}
	return names
}

// create creates the pods, as many as there is room for in the window.
func (r *run) create(ctx context.Context, apps []*application) {
	for i := range r.pods {
		select {
		case r.room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		r.send(ctx, pod(apps, i))
	}
}

// takeUp takes up a binding.
func (r *run) takeUp(pod *v1.Pod) {
	n := r.numbers[pod.Spec.NodeName]
	r.onNode[n].Add(1)
	app := r.apps[pod.Namespace]
	app.placed(pod.Labels["app"] == app.workloads[0].name, n)
	<-r.room
	if r.bound.Add(1) == int64(r.pods) {
		close(r.done)
	}
}

// next hands the scheduling loop its next pod. Of every so manyth it finds out before where full scoring would put it.
func (r *run) next(logger klog.Logger) (*framework.QueuedPodInfo, error) {
	r.compare()
	info, err := r.sched.SchedulingQueue.Pop(logger)
	if err != nil || info == nil || info.Pod == nil {
		return info, err
	}
	r.popped++
	app := r.apps[info.Pod.Namespace]
	if r.popped < (1+r.asks)*r.stride() || info.Pod.Labels["app"] == app.workloads[0].name {
		return info, nil
	}
	if _, ok := app.callers(r.world); !ok {
		return info, nil
	}
	start := time.Now()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sampling += time.Since(start)
	}()
	r.asks++
	result, err := r.sched.SchedulePod(r.ctx, r.sched.Profiles[fullProfile], framework.NewCycleState(), info.Pod)
	if err != nil {
		return info, nil
	}
	r.asked, r.askedNode = info.Pod, result.SuggestedHost
	return info, nil
}

func (r *run) stride() int { return max(1, min(sampleEvery, r.pods/leastSamples)) }

// compare compares where the last pod went with where full scoring would have put it, by the true round trips.
func (r *run) compare() {
	if r.asked == nil {
		return
	}
	pod := r.asked
	r.asked = nil
	assumed, err := r.sched.Cache.GetPod(pod)
	if err != nil {
		return // check counts how many there are
	}
	app := r.apps[pod.Namespace]
	rtts, _ := app.callers(r.world, r.numbers[assumed.Spec.NodeName], r.numbers[r.askedNode])
	r.mu.Lock()
	defer r.mu.Unlock()
	r.compared = append(r.compared, comparison{rtts[0], rtts[1], app.nearest})
}

// check fails the test where a figure misses its bar.
func (r *run) check(t *testing.T, rep *report) {
	t.Helper()
	if !rep.Complete {
		t.Errorf("%d pods of %d were placed in the time that MINUTES gives", rep.Pods, r.pods)
	}
	total := 0
	for n := range r.onNode {
		got := int(r.onNode[n].Load())
		total += got
		if got > podsPerNode {
			t.Errorf("%d pods are on node %s, which takes %d", got, r.world.nodes[n].name, podsPerNode)
		}
	}
	if total < rep.Pods {
		t.Errorf("%d pods are on nodes, of %d", total, rep.Pods)
	}
	if rep.Samples < rep.Pods/r.stride()/2 {
		t.Errorf("%d pods were compared with full scoring: too few", rep.Samples)
	}
	// One application calls servers at the other end of the world, another one on the same node: the mean of all says little of these.
	for what, q := range map[string]quality{"all": rep.quality, "those that call the nearest server": rep.Nearest, "those that call any server": rep.Any} {
		if !(q.Ratio <= maxRatio) || q.Ratio <= 0 {
			t.Errorf("the mean RTT of %s is %.3f times that of full scoring, want at most %.2f", what, q.Ratio, maxRatio)
		}
	}
	if rep.PeakMiB > maxPeak {
		t.Errorf("peak memory: %d MiB, want at most %d", rep.PeakMiB, maxPeak)
	}
	// Where others use the cores as well, time says nothing; what it cost does.
	if most := nomadTime.Seconds() * minCPU / allPods * 1e6; rep.CPUMicrosPerPod > most {
		t.Errorf("a pod costs %.0f µs of CPU, want at most %.0f: %d cores would not place %d pods in %v", rep.CPUMicrosPerPod, most, minCPU, allPods, nomadTime)
	}
}
