// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/index"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
	"github.com/fogsched/fogsched/pkg/source/nodelatency"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
	"github.com/fogsched/fogsched/pkg/source/zones"
	"github.com/fogsched/fogsched/pkg/store"
)

const (
	// crdInterval is how often the engine looks whether the CRDs are there, until they are.
	crdInterval = 5 * time.Second
	// retryInterval is the time between two attempts to ask when the first one failed.
	retryInterval = 200 * time.Millisecond
	// startTimeout bounds how long the first cycles wait for the first data; then they go on without.
	startTimeout = 3 * time.Second
)

// engine is what the profiles of one scheduler share: the data, and the loops that keep it current.
type engine struct {
	store   *store.Store
	index   *index.Index
	catalog *catalog
	waker   *waker
	guard   *internal.Guard
	demands *demands // nil where none is defined

	narrowing narrowing
	// lastNodes is the index of the list of nodes that was used last.
	lastNodes atomic.Pointer[internal.NodeIndex]

	// ready is set when the first cycles need not wait any more.
	ready  atomic.Bool
	synced []cache.InformerSynced
	once   sync.Once
	// policies and latencies are set when the first list of each is taken up, or when there is none to wait for.
	policies, latencies atomic.Bool
	listed              atomic.Bool // every NodeLatency was handed to the store

	invalidMu sync.Mutex
	invalid   map[types.UID]string // the error that the pod's owner was told
}

// engines are the engines that run in this process.
var engines = struct {
	sync.Mutex
	m map[engineKey]*engine
}{m: map[engineKey]*engine{}}

type engineKey struct {
	factory informers.SharedInformerFactory
	args    string // as JSON
}

// sharedEngine returns the engine for these arguments, started if it is the first of them.
func sharedEngine(ctx context.Context, args *Args, handle fwk.Handle) (*engine, error) {
	engines.Lock()
	defer engines.Unlock()
	data := *args
	data.Candidates = nil // how many of them are looked at is no matter of the data
	text, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	key := engineKey{handle.SharedInformerFactory(), string(text)}
	if e, ok := engines.m[key]; ok {
		return e, nil
	}
	var table *zones.Table
	if args.ZonesFile != "" {
		var err error
		if table, err = zones.Load(args.ZonesFile); err != nil {
			return nil, fmt.Errorf("args.zonesFile: %w", err)
		}
	}
	ctx = klog.NewContext(ctx, klog.LoggerWithName(klog.FromContext(ctx), Name))
	e := newEngine(store.New(args.MaxAge.Duration, table))
	if err := e.follow(handle.SharedInformerFactory()); err != nil {
		return nil, err
	}
	if err := e.ask(ctx, args.Prometheus, handle.SharedInformerFactory()); err != nil {
		return nil, err
	}
	e.start(ctx)
	if config := handle.KubeConfig(); config != nil {
		c, err := client.New(config)
		if err != nil {
			return nil, err
		}
		disc, err := discovery.NewDiscoveryClientForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("making a discovery client: %w", err)
		}
		e.synced = append(e.synced, e.policies.Load, e.latencies.Load)
		go e.followCRDs(ctx, disc, c)
		if namespace, name, ok := strings.Cut(args.Interest, "/"); ok {
			go (&interestWriter{engine: e, configMaps: handle.ClientSet().CoreV1().ConfigMaps(namespace), name: name}).run(ctx)
		}
	}
	engines.m[key] = e
	context.AfterFunc(ctx, func() {
		engines.Lock()
		defer engines.Unlock()
		delete(engines.m, key)
	})
	return e, nil
}

// ask starts the loops that ask Prometheus, where there is one. They begin when the caches are full, because what is asked for is joined to
// nodes, and hold up nothing.
func (e *engine) ask(ctx context.Context, args *PrometheusArgs, factory informers.SharedInformerFactory) error {
	if args == nil {
		return nil
	}
	c, err := prometheus.NewClient(&args.Config)
	if err != nil {
		return fmt.Errorf("args.prometheus: %w", err)
	}
	context.AfterFunc(ctx, c.Close)
	core := factory.Core().V1()
	cluster := prometheus.Cluster{Nodes: core.Nodes().Lister(), Pods: core.Pods().Lister()}
	synced := slices.Clone(e.synced)
	for i := range args.Latencies {
		src := &prometheus.Source{
			Client: c, Cluster: &cluster, Latencies: args.Latencies[i], Interval: args.Interval.Duration, MaxAge: args.MaxAge.Duration,
		}
		name := cmp.Or(src.Name, src.Preset)
		go func() {
			if !cache.WaitForCacheSync(ctx.Done(), synced...) {
				return
			}
			if err := src.Run(ctx, e.store.Sink(name)); err != nil {
				klog.FromContext(ctx).Error(err, "The source of latencies ended", "source", name)
			}
		}()
	}
	if len(args.Demands) > 0 {
		d := newDemands(args.Demands)
		d.client, d.cluster, d.interval, d.maxAge = c, cluster, args.Interval.Duration, args.MaxAge.Duration
		e.demands = d
		go func() {
			if cache.WaitForCacheSync(ctx.Done(), synced...) {
				d.run(ctx)
			}
		}()
	}
	return nil
}

// newEngine returns an engine whose loops do not run yet.
func newEngine(st *store.Store) *engine {
	x := index.New()
	e := &engine{
		store: st, index: x, catalog: newCatalog(x), guard: internal.NewGuard(Name),
		invalid: map[types.UID]string{}, narrowing: narrowing{orders: &orders{}},
	}
	e.waker = newWaker(e)
	return e
}

// start runs the loops until ctx ends.
func (e *engine) start(ctx context.Context) {
	e.store.Subscribe(func(*latency.Snapshot) {
		if e.listed.Load() {
			e.latencies.Store(true)
		}
		e.waker.wake()
	})
	go e.store.Run(ctx)
	go e.waker.run(ctx)
}

// follow feeds the index from the scheduler's own informers.
func (e *engine) follow(factory informers.SharedInformerFactory) error {
	core := factory.Core().V1()
	// An informer that runs already refuses, and keeps what nobody needs.
	_ = core.Pods().Informer().SetTransform(trimPod)
	pods := core.Pods().Lister()
	e.catalog.exists = func(pod *v1.Pod) bool {
		got, err := pods.Pods(pod.Namespace).Get(pod.Name)
		return err == nil && got.UID == pod.UID
	}
	err := followAs(e, core.Pods().Informer(), e.setPod, func(pod *v1.Pod) {
		e.index.DeletePod(pod.UID)
		e.catalog.deletePod(pod.UID)
		e.waker.forget(pod.UID)
		e.narrowing.forget(pod.UID)
		e.forgetInvalid(pod.UID)
	})
	if err == nil {
		err = followAs(e, core.Services().Informer(), e.index.SetService, func(svc *v1.Service) {
			e.index.DeleteService(svc.Namespace, svc.Name)
		})
	}
	if err == nil {
		err = followAs(e, core.Namespaces().Informer(), e.index.SetNamespace, func(ns *v1.Namespace) {
			e.index.DeleteNamespace(ns.Name)
		})
	}
	if err == nil {
		err = followAs(e, core.Nodes().Informer(), e.setNode, func(node *v1.Node) {
			e.index.DeleteNode(node.Name)
			e.store.DeleteNode(node.Name)
		})
	}
	return err
}

// trimPod leaves out of the scheduler's memory what nobody in it reads: managedFields, as kube-scheduler's own transform does, which this one
// replaces, and why a pod was placed, some 0.3 KB a pod.
func trimPod(obj any) (any, error) {
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return obj, nil
	}
	// Nothing is written to an object that comes a second time: others read it by then.
	if pod.ManagedFields != nil {
		pod.ManagedFields = nil
	}
	if pod.Annotations[v1alpha1.PlacementAnnotation] != "" {
		delete(pod.Annotations, v1alpha1.PlacementAnnotation)
	}
	return obj, nil
}

func followAs[T metav1.Object](e *engine, informer cache.SharedIndexInformer, set, remove func(T)) error {
	guarded := func(f func()) {
		defer e.guard.Recover(context.Background(), "informer", nil)
		f()
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(T); ok {
				guarded(func() { set(o) })
			}
		},
		UpdateFunc: func(old, obj any) {
			o, ok := obj.(T)
			if !ok {
				return
			}
			guarded(func() {
				// One that was deleted and made again while the watch was broken comes as an update.
				if was, ok := old.(T); ok && was.GetUID() != o.GetUID() {
					remove(was)
				}
				set(o)
			})
		},
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if o, ok := obj.(T); ok {
				guarded(func() { remove(o) })
			}
		},
	})
	if err != nil {
		return fmt.Errorf("following %T: %w", *new(T), err)
	}
	e.synced = append(e.synced, registration.HasSynced)
	return nil
}

func (e *engine) setPod(pod *v1.Pod) {
	e.catalog.setPod(pod)
	e.index.SetPod(pod)
	if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil {
		e.waker.forget(pod.UID)
		e.narrowing.forget(pod.UID)
		e.forgetInvalid(pod.UID)
		return
	}
	e.waker.update(pod)
}

func (e *engine) setNode(node *v1.Node) {
	e.index.SetNode(node)
	e.store.SetNode(node.Name, zones.Location{
		Region: node.Labels[v1.LabelTopologyRegion], Zone: node.Labels[v1.LabelTopologyZone],
	}, node.Annotations[v1alpha1.PositionAnnotation])
}

// waitReady holds the first cycles until the index, the policies and a snapshot are there, for startTimeout at most: pods placed
// before would be placed without their intents.
func (e *engine) waitReady(ctx context.Context) {
	e.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		if !cache.WaitForCacheSync(ctx.Done(), e.synced...) || !e.waitSnapshot(ctx, time.Now()) {
			klog.FromContext(ctx).Info("Scheduling before the first data is here", "waited", startTimeout)
		}
		e.ready.Store(true)
	})
}

// waitSnapshot waits until there is a snapshot of what the store held at a time: the store gathers changes for a while before
// it builds one, and the first snapshots lack nodes whose events came just before.
func (e *engine) waitSnapshot(ctx context.Context, since time.Time) bool {
	e.store.Rebuild()
	return wait.PollUntilContextCancel(ctx, 5*time.Millisecond, true, func(context.Context) (bool, error) {
		return !e.store.Snapshot().Built().Before(since), nil
	}) == nil
}

// followCRDs waits until the CRDs are installed, says once when they are not, and follows the objects from then on.
func (e *engine) followCRDs(ctx context.Context, disc discovery.DiscoveryInterface, c *client.Client) {
	logger := klog.FromContext(ctx)
	started := map[string]bool{}
	told := false
	ticker := time.NewTicker(crdInterval)
	defer ticker.Stop()
	for {
		list, err := disc.ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
		switch {
		case err == nil:
			for _, r := range list.APIResources {
				if started[r.Name] {
					continue
				}
				switch r.Name {
				case client.LatencyPolicies:
					go e.followPolicies(ctx, c)
					go (&statusWriter{engine: e, client: c}).run(ctx)
				case client.NodeLatencies:
					src := &nodelatency.Source{ListWatch: c.ListWatchNodeLatencies(), Listed: func() {
						e.listed.Store(true)
						e.store.Rebuild()
					}}
					go func() {
						if err := src.Run(ctx, e.store.Sink("nodelatency")); err != nil {
							logger.Error(err, "The source of latencies ended", "source", "nodelatency")
						}
					}()
				default:
					continue
				}
				started[r.Name] = true
				logger.Info("Following the objects of a CRD", "resource", r.Name)
			}
		case !apierrors.IsNotFound(err):
			logger.V(2).Info("Could not ask the API server for our CRDs; will ask again", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryInterval):
			}
			continue
		}
		if started[client.LatencyPolicies] && started[client.NodeLatencies] {
			return
		}
		// What is not served is not waited for.
		if !started[client.LatencyPolicies] {
			e.policies.Store(true)
		}
		if !started[client.NodeLatencies] {
			e.latencies.Store(true)
		}
		if !told && err != nil {
			told = true
			logger.Info("The CRDs of fogsched.dev are not installed: annotations work, LatencyPolicy and NodeLatency objects do not. Watching for them")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (e *engine) followPolicies(ctx context.Context, c *client.Client) {
	informer := cache.NewSharedIndexInformer(c.ListWatchPolicies(), &v1alpha1.LatencyPolicy{}, 0, nil)
	set := func(obj any) {
		if p, ok := obj.(*v1alpha1.LatencyPolicy); ok {
			e.catalog.setPolicy(ctx, p)
		}
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    set,
		UpdateFunc: func(_, obj any) { set(obj) },
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if p, ok := obj.(*v1alpha1.LatencyPolicy); ok {
				e.catalog.deletePolicy(types.NamespacedName{Namespace: p.Namespace, Name: p.Name})
			}
		},
	})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Following LatencyPolicy objects")
		e.policies.Store(true)
		return
	}
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			e.policies.Store(true)
		}
	}()
	informer.RunWithContext(ctx)
}

// reportInvalid tells the owner of a pod, once, that its annotation is not used.
func (e *engine) reportInvalid(handle fwk.Handle, pod *v1.Pod, err error) {
	text := err.Error()
	if !e.catalog.exists(pod) {
		return
	}
	e.invalidMu.Lock()
	told := e.invalid[pod.UID] == text
	e.invalid[pod.UID] = text
	e.invalidMu.Unlock()
	if told || handle.EventRecorder() == nil {
		return
	}
	handle.EventRecorder().Eventf(pod, nil, v1.EventTypeWarning, EventInvalidAnnotation, "Scheduling",
		"%s", shorten("Placed without regard to latency, because "+text, maxEventBytes))
}

func (e *engine) forgetInvalid(uid types.UID) {
	e.invalidMu.Lock()
	delete(e.invalid, uid)
	e.invalidMu.Unlock()
}
