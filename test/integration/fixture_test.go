// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/test/cluster"
)

const (
	schedulerName = "fogsched"
	stock         = corev1.DefaultSchedulerName

	patience = 30 * time.Second // for what takes well under a second when it works
	// wakeTime is how soon a rejected pod must be scheduled after the change that makes it possible.
	wakeTime = 2 * time.Second

	entryLabel = "fogsched.dev/entry"
)

// The nodes stand on a line: a site every so many milliseconds, three nodes in each, half a millisecond apart. The RTT between
// two nodes is 1 ms and the distance.
var sites = []struct {
	name string
	at   float64 // milliseconds
}{{"a", 0}, {"b", 10}, {"c", 30}, {"d", 80}}

const nodesPerSite = 3

func nodeName(site string, i int) string { return fmt.Sprintf("%s-%d", site, i) }

// positions has every node's place on the line, in milliseconds.
func positions() map[string]float64 {
	p := map[string]float64{}
	for _, s := range sites {
		for i := range nodesPerSite {
			p[nodeName(s.name, i)] = s.at + float64(i)*0.5
		}
	}
	return p
}

// rtts says what a node measures of another; ok is false for a pair that is not measured.
type rtts func(from, to string) (rtt time.Duration, ok bool)

// onLine is the RTT by the places of the nodes.
func onLine(at map[string]float64) rtts {
	return func(from, to string) (time.Duration, bool) {
		a, ok := at[from]
		b, ok2 := at[to]
		return millis(1 + max(a-b, b-a)), ok && ok2
	}
}

func millis(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

func unmeasured(string, string) (time.Duration, bool) { return 0, false }

var world = sync.OnceValues(func() (*cluster.Scheduler, error) {
	ctx := context.Background()
	if err := applyCRDs(); err != nil {
		return nil, err
	}
	if err := applyOverlay(); err != nil {
		return nil, err
	}
	if err := control.AddNodes(ctx, siteNodes()...); err != nil {
		return nil, err
	}
	if _, err := control.StartScheduler(ctx, cluster.SchedulerOptions{Name: "kube-scheduler"}); err != nil {
		return nil, err
	}
	config, err := shippedConfig(ctx, control)
	if err != nil {
		return nil, err
	}
	return startFogsched(ctx, control, config)
})

func siteNodes() []cluster.Node {
	var nodes []cluster.Node
	for _, s := range sites {
		for i := range nodesPerSite {
			nodes = append(nodes, cluster.Node{Name: nodeName(s.name, i), Labels: map[string]string{
				"site": s.name, entryLabel: fmt.Sprint(i == 0),
			}})
		}
	}
	return nodes
}

// shippedConfig returns the configuration that manifests/ ships, as it is in the cluster.
func shippedConfig(ctx context.Context, c *cluster.Cluster) (string, error) {
	list, err := c.Client().CoreV1().ConfigMaps(systemNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for i := range list.Items {
		if text, ok := list.Items[i].Data["config.yaml"]; ok {
			return text, nil
		}
	}
	return "", fmt.Errorf("the overlay has no ConfigMap with config.yaml")
}

// configFor is the shipped configuration for profiles of other names, with the given pluginConfig args (YAML, one line), for a
// scheduler that runs beside the one of the world and so must not wait for its lease.
func configFor(shipped, args string, profiles ...string) string {
	head, profile, _ := strings.Cut(shipped, "- schedulerName: fogsched\n")
	config := strings.Replace(head, "leaderElect: true", "leaderElect: false", 1)
	if args != "" {
		profile, _, _ = strings.Cut(profile, "  pluginConfig:\n")
	}
	for _, name := range profiles {
		config += "- schedulerName: " + name + "\n" + profile
		if args != "" {
			config += "  pluginConfig: [{name: NodeLatency, args: " + args + "}]\n"
		}
	}
	return config
}

// startFogsched runs the product's scheduler with the rights that manifests/ ships.
func startFogsched(ctx context.Context, c *cluster.Cluster, config string) (*cluster.Scheduler, error) {
	kubeconfig, err := c.ServiceAccountKubeconfig(ctx, systemNamespace, "fogsched")
	if err != nil {
		return nil, err
	}
	return c.StartScheduler(ctx, cluster.SchedulerOptions{
		Binary: "fogsched", Kubeconfig: kubeconfig, ConfigYAML: []byte(config), ExtraArgs: []string{"-v=3"},
	})
}

// fixture is a namespace of a world in which the nodes measured one another.
type fixture struct {
	*testing.T
	control   *cluster.Cluster
	scheduler *cluster.Scheduler
	client    *client.Client
	ns        string
	// at has the nodes that publish, and where they are on the line.
	at map[string]float64
}

// published is what the nodes of the shared world say at present: nothing is published again while it is good.
var published struct {
	isDefault bool
	at        time.Time
}

var (
	notInNames = regexp.MustCompile(`[^a-z0-9]+`)
	fixtures   int
)

// newFixture starts a test: a namespace of its own, and RTTs by the places of the nodes. Tests of this kind share the nodes,
// so they run one after another.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	scheduler, err := world()
	if err != nil {
		t.Fatal(err)
	}
	f := fixtureIn(t, control, scheduler)
	if !published.isDefault || time.Since(published.at) > time.Minute {
		f.publish(onLine(f.at))
		published.isDefault, published.at = true, time.Now()
	}
	return f
}

// fixtureIn makes a namespace in any cluster.
func fixtureIn(t *testing.T, control *cluster.Cluster, scheduler *cluster.Scheduler) *fixture {
	t.Helper()
	c, err := client.New(control.Config())
	if err != nil {
		t.Fatal(err)
	}
	fixtures++
	name := notInNames.ReplaceAllString(strings.ToLower(t.Name()), "-")
	f := &fixture{
		T: t, control: control, scheduler: scheduler, client: c, at: positions(),
		ns: fmt.Sprintf("%.50s-%d", name, fixtures),
	}
	f.namespace(f.ns, nil)
	t.Cleanup(func() {
		if t.Failed() {
			f.dump()
		}
	})
	return f
}

// namespace makes a namespace whose pods go with the test, so that they weigh on no other.
func (f *fixture) namespace(name string, set map[string]string) {
	f.Helper()
	if err := f.control.CreateNamespace(f.Context(), name, set); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		core := f.control.Client().CoreV1()
		// From now on no controller can make a pod there. The rest of the namespace goes while the next test runs.
		if err := core.Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			f.Errorf("deleting the namespace: %v", err)
			return
		}
		for {
			now := int64(0)
			err := core.Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
			list, err2 := core.Pods(name).List(ctx, metav1.ListOptions{})
			if err == nil && err2 == nil && len(list.Items) == 0 {
				return
			}
			if ctx.Err() != nil {
				f.Errorf("the pods of namespace %s do not go: %v %v", name, err, err2)
				return
			}
			pause(ctx)
		}
	})
}

// pause passes the time between two looks at a condition.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Millisecond):
	}
}

// dump says what there is when a test has failed.
func (f *fixture) dump() {
	ctx := context.Background()
	pods, err := f.control.Client().CoreV1().Pods(f.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		f.Logf("pod %s: node %q, phase %s, placement %s", p.Name, p.Spec.NodeName, p.Status.Phase, p.Annotations[v1alpha1.PlacementAnnotation])
	}
	for _, e := range f.events() {
		f.Logf("event: %s %s: %s", e.Reason, e.InvolvedObject.Name, e.Message)
	}
	f.Logf("the scheduler's log ends with:\n%s", tailOf(f.log(), 6000))
}

func tailOf(s string, n int) string { return s[max(0, len(s)-n):] }

// log returns what the scheduler printed.
func (f *fixture) log() string {
	data, err := os.ReadFile(f.scheduler.LogPath())
	if err != nil {
		f.Error(err)
	}
	return string(data)
}

func (f *fixture) events() []corev1.Event {
	list, err := f.control.Client().CoreV1().Events(f.ns).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return nil
	}
	return list.Items
}

// event waits for an event about an object, and returns what it says.
func (f *fixture) event(reason, about string) string {
	f.Helper()
	var message string
	f.eventually("event "+reason+" about "+about, func() (bool, string) {
		var reasons []string
		for _, e := range f.events() {
			if e.Reason == reason && e.InvolvedObject.Name == about {
				message = e.Message
				return true, ""
			}
			reasons = append(reasons, e.Reason+" "+e.InvolvedObject.Name)
		}
		return false, strings.Join(reasons, ", ")
	})
	return message
}

// publish has every node report what it measured, and returns when the scheduler has taken it up.
func (f *fixture) publish(measure rtts) {
	f.Helper()
	f.publishTo(f.scheduler, measure)
}

func (f *fixture) publishTo(s *cluster.Scheduler, measure rtts) {
	f.Helper()
	// A node with measurements comes last: the time of the newest one tells whether the snapshot has it.
	names := slices.Sorted(maps.Keys(f.at))
	slices.SortStableFunc(names, func(a, b string) int {
		return min(1, len(f.peers(a, measure))) - min(1, len(f.peers(b, measure)))
	})
	for _, from := range names[:len(names)-1] {
		f.report(from, measure)
	}
	last := names[len(names)-1]
	since := time.Now()
	f.report(last, measure)

	some := len(f.peers(last, measure)) > 0
	f.eventually("a snapshot with the new measurements", func() (bool, string) {
		text, err := s.Metrics(f.Context())
		if err != nil {
			return false, err.Error()
		}
		newest, pairs := metric(text, "fogsched_store_newest_sample_timestamp_seconds"), metric(text, "fogsched_store_measured_pairs")
		seen := fmt.Sprintf("newest measurement %f, want after %f; %.0f measured pairs", newest, unix(since), pairs)
		if some {
			return newest >= unix(since), seen
		}
		return pairs == 0, seen
	})
}

func unix(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// report has one node say what it measured now.
func (f *fixture) report(from string, measure rtts) {
	f.Helper()
	// A measurement a little ahead of the scheduler's clock counts as taken when it arrives. The API keeps whole seconds, too
	// coarse to tell one report from the next.
	f.reportAt(from, measure, time.Now().Add(10*time.Second))
}

// closer has both ends of a pair report that it is 1 ms now: one end's word alone would not be believed.
func (f *fixture) closer(a, b string) {
	f.Helper()
	measure := func(from, to string) (time.Duration, bool) {
		if from == a && to == b || from == b && to == a {
			return time.Millisecond, true
		}
		return onLine(f.at)(from, to)
	}
	f.report(a, measure)
	f.report(b, measure)
}

func (f *fixture) reportAt(from string, measure rtts, at time.Time) {
	f.Helper()
	if f.control == control {
		published.isDefault = false
	}
	peers := f.peers(from, measure)
	for i := range peers {
		peers[i].At = &metav1.Time{Time: at}
	}
	ctx, nls := f.Context(), f.client.NodeLatencies()
	got, err := nls.Get(ctx, from, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		got, err = nls.Create(ctx, &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: from}}, metav1.CreateOptions{})
	}
	if err != nil {
		f.Fatalf("publishing for %s: %v", from, err)
	}
	got.Status.Peers = peers
	if _, err := nls.UpdateStatus(ctx, got, metav1.UpdateOptions{}); err != nil {
		f.Fatalf("publishing for %s: %v", from, err)
	}
}

func (f *fixture) peers(from string, measure rtts) []v1alpha1.PeerLatency {
	var peers []v1alpha1.PeerLatency
	for to := range f.at {
		rtt, ok := measure(from, to)
		if from == to || !ok {
			continue
		}
		peers = append(peers, v1alpha1.PeerLatency{Node: to, Measurement: v1alpha1.Measurement{
			Typical: &metav1.Duration{Duration: rtt}, Tail: &metav1.Duration{Duration: rtt * 5 / 4}, Samples: 20,
		}})
	}
	return peers
}

// metric returns the sum of a metric's series.
func metric(text, name string) (sum float64) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		var v float64
		fields := strings.Fields(rest)
		if _, err := fmt.Sscan(fields[len(fields)-1], &v); err == nil {
			sum += v
		}
	}
	return sum
}

// metric returns the sum of a metric's series in the scheduler.
func (f *fixture) metric(name string) float64 {
	f.Helper()
	text, err := f.scheduler.Metrics(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	return metric(text, name)
}

func (f *fixture) eventually(what string, check func() (ok bool, seen string)) {
	f.Helper()
	f.within(patience, what, check)
}

// within waits until a check sees what it wants, and returns how long that took.
func (f *fixture) within(d time.Duration, what string, check func() (ok bool, seen string)) time.Duration {
	f.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(f.Context(), d)
	defer cancel()
	for {
		ok, seen := check()
		if ok {
			return time.Since(start)
		}
		if ctx.Err() != nil {
			f.Fatalf("waited %s for %s; last seen: %s", d, what, seen)
		}
		pause(ctx)
	}
}

type podOption func(*corev1.Pod)

func withLabels(kv ...string) podOption {
	return func(p *corev1.Pod) { maps.Copy(p.Labels, set(kv...)) }
}

// set makes a map of keys and values in turn.
func set(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func withLatency(annotation string) podOption {
	return func(p *corev1.Pod) {
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[v1alpha1.LatencyAnnotation] = annotation
	}
}

// in lets the pod go to the nodes whose label has one of the values.
func in(label string, values ...string) podOption {
	return where(label, corev1.NodeSelectorOpIn, values...)
}

func notIn(label string, values ...string) podOption {
	return where(label, corev1.NodeSelectorOpNotIn, values...)
}

func where(label string, op corev1.NodeSelectorOperator, values ...string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: label, Operator: op, Values: values}},
			}}},
		}}
	}
}

func onSite(names ...string) podOption { return in("site", names...) }

func onNodes(names ...string) podOption { return in(corev1.LabelHostname, names...) }

func onNode(name string) podOption {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name} }
}

// preferring draws the pod to a node as strongly as the stock scheduler can.
func preferring(name string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{name},
				}}},
			}},
		}}
	}
}

func withCPU(request string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(request)}
	}
}

func by(scheduler string) podOption {
	return func(p *corev1.Pod) { p.Spec.SchedulerName = scheduler }
}

func podTemplate(name string, opts ...podOption) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			SchedulerName: schedulerName,
			Containers:    []corev1.Container{{Name: "c", Image: "none"}},
		},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func (f *fixture) create(name string, opts ...podOption) *corev1.Pod {
	f.Helper()
	return f.createIn(f.ns, name, opts...)
}

func (f *fixture) createIn(ns, name string, opts ...podOption) *corev1.Pod {
	f.Helper()
	p, err := f.control.Client().CoreV1().Pods(ns).Create(f.Context(), podTemplate(name, opts...), metav1.CreateOptions{})
	if err != nil {
		f.Fatalf("creating pod %s: %v", name, err)
	}
	return p
}

// place creates a pod and returns the node on which it lands.
func (f *fixture) place(name string, opts ...podOption) string {
	f.Helper()
	f.create(name, opts...)
	return f.node(name)
}

// wantPlace creates a pod that must land on a certain node.
func (f *fixture) wantPlace(want, name string, opts ...podOption) {
	f.Helper()
	f.wantNode(name, f.place(name, opts...), want)
}

// node returns the node on which a pod is, waiting until it is on one.
func (f *fixture) node(name string) string {
	f.Helper()
	var node string
	f.eventually("pod "+name+" to be placed", func() (bool, string) {
		p := f.pod(name)
		node = p.Spec.NodeName
		return node != "", fmt.Sprintf("conditions %v", p.Status.Conditions)
	})
	return node
}

func (f *fixture) wantNode(pod, got, want string) {
	f.Helper()
	if got != want {
		f.Errorf("pod %s is on node %s, want %s", pod, got, want)
	}
}

func (f *fixture) pod(name string) *corev1.Pod {
	f.Helper()
	p, err := f.control.Client().CoreV1().Pods(f.ns).Get(f.Context(), name, metav1.GetOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return p
}

// pods returns the pods that match labels.
func (f *fixture) pods(kv ...string) []corev1.Pod {
	f.Helper()
	list, err := f.control.Client().CoreV1().Pods(f.ns).List(f.Context(), metav1.ListOptions{LabelSelector: labels.Set(set(kv...)).String()})
	if err != nil {
		f.Fatal(err)
	}
	return list.Items
}

// remove deletes a pod and waits until it is gone.
func (f *fixture) remove(name string) {
	f.Helper()
	pods := f.control.Client().CoreV1().Pods(f.ns)
	now := int64(0)
	if err := pods.Delete(f.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		f.Fatal(err)
	}
	f.eventually("pod "+name+" to be gone", func() (bool, string) {
		_, err := pods.Get(f.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), fmt.Sprint(err)
	})
}

// wantNodes waits until exactly so many pods with the label app live and are placed, and compares their nodes, whose order
// does not matter.
func (f *fixture) wantNodes(app string, want ...string) {
	f.Helper()
	want = slices.Sorted(slices.Values(want))
	var got []string
	f.eventually(fmt.Sprintf("%d placed pods of %s", len(want), app), func() (bool, string) {
		got = f.nodesOf("app", app)
		return len(got) == len(want) && !slices.Contains(got, ""), fmt.Sprint(got)
	})
	if !slices.Equal(got, want) {
		f.Errorf("the pods of %s are on %v, want %v", app, got, want)
	}
}

// patch merges a patch into a pod.
func (f *fixture) patch(name, patch string, subresources ...string) {
	f.Helper()
	_, err := f.control.Client().CoreV1().Pods(f.ns).Patch(f.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
	if err != nil {
		f.Fatalf("patching pod %s: %v", name, err)
	}
}

// nodesOf returns the nodes of the pods that match labels and live, sorted, "" for a pod on none.
func (f *fixture) nodesOf(kv ...string) []string {
	f.Helper()
	nodes := []string{}
	for _, p := range f.pods(kv...) {
		if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			nodes = append(nodes, p.Spec.NodeName)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// unschedulable waits until the scheduler gave up on a pod for now, and returns what it says.
func (f *fixture) unschedulable(name string) string {
	f.Helper()
	var message string
	f.eventually("pod "+name+" to be unschedulable", func() (bool, string) {
		p := f.pod(name)
		if p.Spec.NodeName != "" {
			f.Fatalf("pod %s is on node %s; want it pending", name, p.Spec.NodeName)
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
				message = c.Message
				return true, ""
			}
		}
		return false, "no PodScheduled condition"
	})
	return message
}

// wantAll compares a message with what it must say.
func (f *fixture) wantAll(what, message string, want ...string) {
	f.Helper()
	for _, w := range want {
		if !strings.Contains(message, w) {
			f.Errorf("%s lacks %q: %s", what, w, message)
		}
	}
}

func (f *fixture) deployment(name string, replicas int32, opts ...podOption) *appsv1.Deployment {
	f.Helper()
	p := podTemplate(name, opts...)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels, Annotations: p.Annotations}, Spec: p.Spec},
		},
	}
	d, err := f.control.Client().AppsV1().Deployments(f.ns).Create(f.Context(), d, metav1.CreateOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return d
}

// change edits a Deployment.
func (f *fixture) change(name string, edit func(*appsv1.Deployment)) {
	f.Helper()
	ds := f.control.Client().AppsV1().Deployments(f.ns)
	f.eventually("Deployment "+name+" to be changed", func() (bool, string) {
		d, err := ds.Get(f.Context(), name, metav1.GetOptions{})
		if err != nil {
			f.Fatal(err)
		}
		edit(d)
		_, err = ds.Update(f.Context(), d, metav1.UpdateOptions{})
		return err == nil, fmt.Sprint(err)
	})
}

func (f *fixture) scale(name string, replicas int32) {
	f.Helper()
	f.change(name, func(d *appsv1.Deployment) { d.Spec.Replicas = &replicas })
}

// rolledOut waits until every pod of a Deployment is of its newest revision, and Ready.
func (f *fixture) rolledOut(name string) {
	f.Helper()
	f.eventually("Deployment "+name+" to be rolled out", func() (bool, string) {
		d, err := f.control.Client().AppsV1().Deployments(f.ns).Get(f.Context(), name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		s, n := d.Status, *d.Spec.Replicas
		return s.ObservedGeneration == d.Generation && s.Replicas == n && s.UpdatedReplicas == n && s.AvailableReplicas == n,
			fmt.Sprintf("%+v", s)
	})
}

func (f *fixture) service(name string, selector map[string]string, change ...func(*corev1.Service)) *corev1.Service {
	f.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	for _, c := range change {
		c(svc)
	}
	svc, err := f.control.Client().CoreV1().Services(f.ns).Create(f.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return svc
}

// policy creates a LatencyPolicy from the JSON of its spec, and returns when the scheduler follows it.
func (f *fixture) policy(name, spec string) *v1alpha1.LatencyPolicy {
	f.Helper()
	p := &v1alpha1.LatencyPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: f.spec(spec)}
	p, err := f.client.LatencyPolicies(f.ns).Create(f.Context(), p, metav1.CreateOptions{})
	if err != nil {
		f.Fatal(err)
	}
	return f.followed(name, p.Generation)
}

func (f *fixture) spec(text string) (spec v1alpha1.LatencyPolicySpec) {
	f.Helper()
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		f.Fatal(err)
	}
	return spec
}

// setPolicy replaces the spec of a LatencyPolicy, and returns its new generation.
func (f *fixture) setPolicy(name, spec string) int64 {
	f.Helper()
	var p *v1alpha1.LatencyPolicy
	policies := f.client.LatencyPolicies(f.ns)
	f.eventually("LatencyPolicy "+name+" to be changed", func() (bool, string) {
		var err error
		if p, err = policies.Get(f.Context(), name, metav1.GetOptions{}); err != nil {
			f.Fatal(err)
		}
		p.Spec = f.spec(spec)
		p, err = policies.Update(f.Context(), p, metav1.UpdateOptions{})
		return err == nil, fmt.Sprint(err) // the scheduler may have written the status meanwhile
	})
	return p.Generation
}

// followed waits until the scheduler has taken up a generation of a policy: it says so in the status.
func (f *fixture) followed(name string, generation int64) *v1alpha1.LatencyPolicy {
	f.Helper()
	return f.status(name, "to be followed", func(p *v1alpha1.LatencyPolicy) bool {
		return p.Status.ObservedGeneration == generation
	})
}

// status waits until a policy's status is as wanted.
func (f *fixture) status(name, what string, check func(*v1alpha1.LatencyPolicy) bool) *v1alpha1.LatencyPolicy {
	f.Helper()
	var got *v1alpha1.LatencyPolicy
	f.eventually("LatencyPolicy "+name+" "+what, func() (bool, string) {
		var err error
		got, err = f.client.LatencyPolicies(f.ns).Get(f.Context(), name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		seen, err := json.Marshal(got.Status)
		return check(got), fmt.Sprint(string(seen), err)
	})
	return got
}
