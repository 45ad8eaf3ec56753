// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
)

// simulation is the scheduler's own framework, with its own plugins and configuration, on what was read of the cluster. It binds nothing:
// its client can only list.
type simulation struct {
	sched   *scheduler.Scheduler
	offline *nodelatency.Offline
	reading *nodelatency.Reading
	reader  *reader
	nodes   []string // by name
}

// reader passes on what lists. It refuses what writes, and what watches waits: the informers are full after their list, and a picture
// that stands still is what is asked for. A kind that may not be listed is empty, and noted.
type reader struct {
	next http.RoundTripper
	// fail ends the reading: an informer would ask again for ever.
	fail context.CancelCauseFunc

	mu        sync.Mutex
	forbidden []string
}

var errReadOnly = errors.New("kubectl fog only reads")

func (r *reader) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.Method != http.MethodGet {
		return nil, errReadOnly
	}
	query := q.URL.Query()
	if query.Get("sendInitialEvents") != "" { // as an API server without streaming lists: the informer lists instead
		return r.answer(q, http.StatusBadRequest, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":400}`), nil
	}
	if query.Get("watch") != "" {
		<-q.Context().Done()
		return nil, q.Context().Err()
	}
	kind := q.URL.Path[strings.LastIndex(q.URL.Path, "/")+1:]
	response, err := r.next.RoundTrip(q)
	switch {
	case err != nil:
		r.fail(fmt.Errorf("listing %s: %w", kind, cli.Explain(err)))
		return nil, err
	case response.StatusCode == http.StatusUnauthorized:
		r.fail(cli.ErrUnauthorized)
		return response, nil
	case response.StatusCode == http.StatusForbidden && slices.Contains(needed, kind):
		r.fail(&cli.PermissionError{Verb: "list", Resource: kind})
		return response, nil
	case response.StatusCode != http.StatusForbidden && response.StatusCode != http.StatusNotFound:
		return response, nil
	}
	_ = response.Body.Close()
	if response.StatusCode == http.StatusForbidden {
		r.mu.Lock()
		r.forbidden = append(r.forbidden, kind)
		r.mu.Unlock()
	}
	return r.answer(q, http.StatusOK, `{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`), nil
}

func (r *reader) answer(q *http.Request, code int, body string) *http.Response {
	return &http.Response{
		StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: q,
	}
}

// needed are the kinds without which nothing can be said.
var needed = []string{"nodes", "pods", "services", "namespaces"}

// simulate reads the cluster and makes the scheduler of a configuration, without the pod that is asked about.
func simulate(ctx context.Context, o *cli.Options, restConfig *rest.Config, c *configuration, without *v1.Pod, further *documents) (*simulation, error) {
	defer o.Working("reading the cluster, and asking the scheduler's plugins")()
	ctx, fail := context.WithCancelCause(ctx)
	context.AfterFunc(ctx, func() { fail(nil) })
	s := &simulation{offline: nodelatency.NewOffline(), reader: &reader{fail: fail}}
	readOnly := rest.CopyConfig(restConfig)
	readOnly.Wrap(func(rt http.RoundTripper) http.RoundTripper {
		s.reader.next = rt
		return s.reader
	})
	readOnly.ContentType, readOnly.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	readOnly.QPS, readOnly.Burst = -1, 0
	clientSet, err := kubernetes.NewForConfig(readOnly)
	if err != nil {
		return nil, err
	}
	// Beside the scheduler's own informers, what only the plugin reads.
	type ours struct {
		*cli.Cluster
		error
	}
	read := make(chan ours, 1)
	go func(ctx context.Context) {
		cluster, err := o.Read(ctx, []cli.Kind{cli.NodeLatencies, cli.Policies})
		read <- ours{cluster, err}
	}(ctx)

	ctx = klog.NewContext(ctx, silent)
	factory := scheduler.NewInformerFactory(clientSet, 0)
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: clientSet.EventsV1()})
	s.sched, err = scheduler.New(ctx, clientSet, factory, nil, profile.NewRecorderFactory(broadcaster),
		scheduler.WithProfiles(c.profiles...),
		scheduler.WithFrameworkOutOfTreeRegistry(frameworkruntime.Registry{nodelatency.Name: s.offline.New}),
	)
	if err != nil {
		return nil, fmt.Errorf("the scheduler's configuration (%s): %w", c.from, err)
	}
	core := factory.Core().V1()
	namespaces, services := core.Namespaces().Lister(), core.Services().Lister()
	core.Namespaces().Informer()
	core.Services().Informer()
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return nil, fmt.Errorf("reading the cluster: %s: %w", kind, context.Cause(ctx))
		}
	}
	if err := s.sched.WaitForHandlersSync(ctx); err != nil {
		return nil, err
	}
	fog := <-read
	if fog.error != nil && !errors.Is(fog.error, cli.ErrNoCRDs) {
		return nil, fog.error
	}
	r := &nodelatency.Reading{At: o.Now()}
	if fog.Cluster != nil {
		r.Policies, r.NodeLatencies = fog.Policies, fog.NodeLatencies
	} else {
		c.notes = append(c.notes, "The CRDs of fogsched.dev are not installed: there are no policies and no measurements. `kubectl fog doctor` says more.")
	}
	if r.Nodes, err = core.Nodes().Lister().List(labels.Everything()); err == nil {
		r.Pods, err = core.Pods().Lister().List(labels.Everything())
	}
	if err == nil {
		r.Namespaces, err = namespaces.List(labels.Everything())
	}
	if err == nil {
		r.Services, err = services.List(labels.Everything())
	}
	if err != nil {
		return nil, err
	}
	if without != nil {
		r.Pods = slices.DeleteFunc(slices.Clone(r.Pods), func(p *v1.Pod) bool { return p.UID == without.UID })
		if cached, err := s.sched.Cache.GetPod(without); err == nil {
			if err := s.sched.Cache.RemovePod(silent, cached); err != nil {
				return nil, err
			}
		}
	}
	if further != nil {
		further.into(r, factory)
	}
	for _, n := range r.Nodes {
		s.nodes = append(s.nodes, n.Name)
	}
	slices.Sort(s.nodes)
	s.reading = r
	s.offline.Load(ctx, r)
	return s, nil
}

// nodeResult is what the plugins said of one node.
type nodeResult struct {
	name string
	// plugin and reason are who excluded it, and why; "" for a candidate.
	plugin, reason string
	// total is the sum of the plugins' scores by weight, and scores what each of them gave.
	total  int64
	scores map[string]int64
}

// result is one cycle.
type result struct {
	cycle fwk.CycleState
	// candidates are the nodes that no plugin excludes, best first.
	candidates []nodeResult
	excluded   []nodeResult
	// message is why no node was looked at at all.
	message string
}

// try runs a scheduling cycle for a pod up to the scores, on all nodes. It places nothing.
func (s *simulation) try(ctx context.Context, profileName string, pod *v1.Pod) (*result, error) {
	ctx = klog.NewContext(ctx, silent)
	f := s.sched.Profiles[profileName]
	if f == nil {
		return nil, fmt.Errorf("no profile %s", profileName)
	}
	r := &result{cycle: framework.NewCycleState()}
	// The scheduler's own cycle brings the picture that the plugins read up to date. What it says is found out once more below, for all nodes.
	if _, err := s.sched.SchedulePod(ctx, f, framework.NewCycleState(), pod); errors.Is(err, scheduler.ErrNoNodesAvailable) {
		r.message = "the cluster has no nodes"
		return r, nil
	}
	infos, err := f.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return nil, err
	}
	pre, status, _ := f.RunPreFilterPlugins(ctx, r.cycle, pod)
	if !status.IsSuccess() {
		if !status.IsRejected() {
			return nil, status.AsError()
		}
		r.message = status.Plugin() + ": " + status.Message()
		for _, info := range infos {
			r.excluded = append(r.excluded, nodeResult{name: info.Node().Name, plugin: status.Plugin(), reason: status.Message()})
		}
		return r, nil
	}
	var feasible []fwk.NodeInfo
	for _, info := range infos {
		name := info.Node().Name
		if !pre.AllNodes() && !pre.NodeNames.Has(name) {
			r.excluded = append(r.excluded, nodeResult{name: name, plugin: "NodeAffinity", reason: "node(s) didn't match Pod's node affinity/selector"})
			continue
		}
		if status := f.RunFilterPluginsWithNominatedPods(ctx, r.cycle, pod, info); !status.IsSuccess() {
			r.excluded = append(r.excluded, nodeResult{name: name, plugin: status.Plugin(), reason: strings.Join(status.Reasons(), ", ")})
			continue
		}
		feasible = append(feasible, info)
	}
	slices.SortFunc(r.excluded, func(a, b nodeResult) int { return cmp.Compare(a.name, b.name) })
	if len(feasible) == 0 {
		return r, nil
	}
	if status := f.RunPreScorePlugins(ctx, r.cycle, pod, feasible); !status.IsSuccess() {
		return nil, status.AsError()
	}
	scores, status := f.RunScorePlugins(ctx, r.cycle, pod, feasible)
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	for _, sc := range scores {
		n := nodeResult{name: sc.Name, total: sc.TotalScore, scores: map[string]int64{}}
		for _, p := range sc.Scores {
			n.scores[p.Name] = p.Score
		}
		r.candidates = append(r.candidates, n)
	}
	costs := map[string]time.Duration{}
	if plugin := s.offline.Plugin(profileName); plugin != nil {
		for _, n := range r.candidates {
			costs[n.name], _, _ = plugin.Cost(r.cycle, n.name)
		}
	}
	// Of equal scores the scheduler takes any; here the nearer one comes first, and then the order of names.
	slices.SortFunc(r.candidates, func(a, b nodeResult) int {
		return cmp.Or(cmp.Compare(b.total, a.total), cmp.Compare(costs[a.name], costs[b.name]), cmp.Compare(a.name, b.name))
	})
	return r, nil
}

// assume places a pod on a node in the simulation, for the next one to see.
func (s *simulation) assume(pod *v1.Pod, node string) error {
	pod = pod.DeepCopy()
	pod.Spec.NodeName = node
	pod.Status.Phase = v1.PodRunning
	s.offline.Place(pod)
	return s.sched.Cache.AddPod(silent, pod)
}

// into adds what a file says to a reading, in the place of what the cluster has under the same name.
func (d *documents) into(r *nodelatency.Reading, factory informers.SharedInformerFactory) {
	for _, svc := range d.services {
		r.Services = append(without(r.Services, svc), svc)
		_ = factory.Core().V1().Services().Informer().GetStore().Update(svc) // an indexer's Update returns no error
	}
	for _, p := range d.policies {
		r.Policies = append(without(r.Policies, p), p)
	}
}

func without[T metav1.Object](list []T, o metav1.Object) []T {
	return slices.DeleteFunc(slices.Clone(list), func(x T) bool { return x.GetNamespace() == o.GetNamespace() && x.GetName() == o.GetName() })
}
