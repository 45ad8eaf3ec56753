// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
)

// Live is a cluster that is followed: it is listed once, and what changes is watched. It is safe for concurrent use.
type Live struct {
	now     func() time.Time
	changed chan struct{}

	mu       sync.Mutex
	stores   map[Kind]*tracker
	missing  map[Kind]error
	troubles map[Kind]error
}

// retry is how long a watch that broke waits before it is tried again.
const retry = time.Second

// Follow watches kinds until ctx ends. It returns when all of them were listed, or with the error that Read would give. An optional kind that
// cannot be read is noted in Missing of each Cluster.
func (o *Options) Follow(ctx context.Context, in Scope, required []Kind, optional ...Kind) (live *Live, err error) {
	core, ours, err := o.Clients()
	if err != nil {
		return nil, err
	}
	defer o.Working("reading the cluster")()
	l := &Live{
		now: o.Now, changed: make(chan struct{}, 1),
		stores: map[Kind]*tracker{}, missing: map[Kind]error{}, troubles: map[Kind]error{},
	}
	type outcome struct {
		kind Kind
		err  error
	}
	first := make(chan outcome, len(required)+len(optional))
	isRequired := map[Kind]bool{}
	for _, k := range required {
		isRequired[k] = true
	}
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, klog.Logger{}))
	defer func() {
		if err != nil {
			cancel() // what is followed of the other kinds nobody would see
		}
	}()
	for _, k := range append(append([]Kind{}, required...), optional...) {
		lw, object := watchOf(k, in, core, ours)
		if lw == nil {
			return nil, fmt.Errorf("no kind %s to watch", k)
		}
		var once sync.Once
		// Who may list and not watch is told so at once: it takes both to follow.
		t := &tracker{Store: cache.NewStore(cache.MetaNamespaceKeyFunc), changed: l.notify}
		t.followed = func() {
			once.Do(func() { first <- outcome{k, nil} })
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.missing, k)
		}
		inner := cache.ToListerWatcherWithContext(lw)
		lw = &cache.ListWatch{
			ListWithContextFunc: inner.ListWithContext,
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				w, err := inner.WatchWithContext(ctx, o)
				if err == nil {
					t.step(watching)
				}
				return w, err
			},
		}
		l.stores[k] = t
		reflector := cache.NewReflectorWithOptions(lw, object, t, cache.ReflectorOptions{Name: string(k)})
		go func() {
			for ctx.Err() == nil {
				err := reflector.ListAndWatchWithContext(ctx)
				l.note(k, in, err)
				if err != nil {
					once.Do(func() { first <- outcome{k, cannotFollow(k, in, err)} })
				}
				select {
				case <-ctx.Done():
				case <-time.After(retry):
				}
			}
		}()
	}
	for range cap(first) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case f := <-first:
			switch {
			case f.err != nil && isRequired[f.kind]:
				return nil, f.err
			case f.err != nil:
				l.mu.Lock()
				l.missing[f.kind] = f.err
				l.mu.Unlock()
			}
		}
	}
	return l, nil
}

func cannotFollow(k Kind, in Scope, err error) error {
	// The reflector gets on with a list where it may not watch, and then stops at the watch.
	if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot watch") {
		return &PermissionError{Verb: "watch", Resource: k.Resource(), Namespace: in.of(k)}
	}
	return cannotList(k, in, err)
}

// watchOf returns how a kind is listed and watched; nil for one that is not followed.
func watchOf(k Kind, in Scope, core kubernetes.Interface, ours *client.Client) (cache.ListerWatcher, runtime.Object) {
	coreKind := func(o runtime.Object) (cache.ListerWatcher, runtime.Object) {
		return cache.NewFilteredListWatchFromClient(core.CoreV1().RESTClient(), string(k), metav1.NamespaceAll,
			func(o *metav1.ListOptions) { o.FieldSelector = in.Fields[k] }), o
	}
	switch k {
	case Nodes:
		return coreKind(&v1.Node{})
	case Pods:
		return coreKind(&v1.Pod{})
	case Policies:
		policies := ours.LatencyPolicies(in.Namespace)
		return &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return policies.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return policies.Watch(ctx, o)
			},
		}, &v1alpha1.LatencyPolicy{}
	case NodeLatencies:
		return ours.ListWatchNodeLatencies(), &v1alpha1.NodeLatency{}
	}
	return nil, nil
}

func (l *Live) notify() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// note remembers what is wrong with a watch; one that ended as watches do is nothing.
func (l *Live) note(k Kind, in Scope, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		delete(l.troubles, k)
		return
	}
	l.troubles[k] = cannotFollow(k, in, err)
	l.notify()
}

// Changed has a value when something changed since the last one was taken.
func (l *Live) Changed() <-chan struct{} { return l.changed }

// Trouble is why what is shown may be old: a required or optional kind cannot be followed at the moment. nil where all is well.
func (l *Live) Trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range []Kind{Nodes, NodeLatencies, Policies, Pods} {
		if err := l.troubles[k]; err != nil && l.missing[k] == nil {
			return err
		}
	}
	return nil
}

// Cluster returns what is known now. Nothing in it may be changed.
func (l *Live) Cluster() *Cluster {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &Cluster{ReadAt: l.now(), Missing: map[Kind]error{}}
	for k, err := range l.missing {
		c.Missing[k] = err
	}
	if t := l.stores[Nodes]; t != nil {
		c.Nodes = listed[v1.Node](t)
	}
	if t := l.stores[Pods]; t != nil {
		c.Pods = listed[v1.Pod](t)
	}
	if t := l.stores[Policies]; t != nil {
		c.Policies = listed[v1alpha1.LatencyPolicy](t)
	}
	if t := l.stores[NodeLatencies]; t != nil {
		c.NodeLatencies = listed[v1alpha1.NodeLatency](t)
	}
	return c
}

func listed[T any](t *tracker) []*T {
	items := t.List()
	out := make([]*T, 0, len(items))
	for _, i := range items {
		if o, ok := i.(*T); ok {
			out = append(out, o)
		}
	}
	return out
}

// tracker is a reflector's store that tells of changes, and when it follows: once it was listed and the watch stands, in either order.
type tracker struct {
	cache.Store
	changed, followed func()
	steps             atomic.Int32
}

// The steps to following.
const (
	watching = 1 << iota
	wasListed
)

func (t *tracker) step(s int32) {
	if t.steps.Or(s)|s == watching|wasListed {
		t.followed()
	}
}

func (t *tracker) Add(o any) error    { defer t.changed(); return t.Store.Add(o) }
func (t *tracker) Update(o any) error { defer t.changed(); return t.Store.Update(o) }
func (t *tracker) Delete(o any) error { defer t.changed(); return t.Store.Delete(o) }

func (t *tracker) Replace(list []any, rv string) error {
	err := t.Store.Replace(list, rv)
	t.step(wasListed)
	t.changed()
	return err
}
