// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/test/cluster"
)

// TestTwoSchedulersStandApart: two replicas on two hosts, of which a disruption may take one; an update never leaves fewer than two,
// and ends on two hosts again; where there is one host, both run on it.
func TestTwoSchedulersStandApart(t *testing.T) {
	start(t, cluster.SchedulerOptions{Binary: "kube-scheduler"})
	install(t, build(t, overlays+"kind"))
	wantRunning(t)
	wantHosts(t, controlPlane, worker)

	poll(t, patience, "the disruption budget to be counted", func(ctx context.Context) (string, error) {
		b, err := control.Client().PolicyV1().PodDisruptionBudgets(systemNamespace).Get(ctx, "fogsched", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if s := b.Status; s.ExpectedPods != 2 || s.CurrentHealthy != 2 || s.DisruptionsAllowed != 1 {
			return fmt.Sprintf("%+v", s), nil
		}
		return "", nil
	})

	update(t, "first")
	wantHosts(t, controlPlane, worker)

	cordon(t, true)
	t.Cleanup(func() { cordon(t, false) })
	update(t, "second")
	wantHosts(t, controlPlane, controlPlane)
}

// wantHosts compares the nodes of the schedulers with what they must be.
func wantHosts(t *testing.T, want ...string) {
	t.Helper()
	pods, err := control.Client().CoreV1().Pods(systemNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=fogsched"})
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			hosts = append(hosts, p.Spec.NodeName)
		}
	}
	slices.Sort(hosts)
	if !slices.Equal(hosts, want) {
		t.Errorf("the schedulers run on %v, want %v", hosts, want)
	}
}

// update changes the pod template and waits until the new pods run; meanwhile never fewer than two may be available.
func update(t *testing.T, revision string) {
	t.Helper()
	deployments := control.Client().AppsV1().Deployments(systemNamespace)
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"revision":%q}}}}}`, revision)
	if _, err := deployments.Patch(t.Context(), "fogsched", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	poll(t, patience, "the update to be rolled out", func(ctx context.Context) (string, error) {
		d, err := deployments.Get(ctx, "fogsched", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if d.Status.AvailableReplicas < 2 {
			t.Errorf("only %d schedulers are available during the update", d.Status.AvailableReplicas)
		}
		return notRolledOut(d), nil
	})
}

// cordon takes the worker out of service, or back, and waits until the scheduler can know.
func cordon(t *testing.T, unschedulable bool) {
	t.Helper()
	ctx, nodes := context.Background(), control.Client().CoreV1().Nodes()
	patch := fmt.Sprintf(`{"spec":{"unschedulable":%t}}`, unschedulable)
	if _, err := nodes.Patch(ctx, worker, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	pollIn(ctx, t, patience, "the taint of a cordoned node", func(ctx context.Context) (string, error) {
		n, err := nodes.Get(ctx, worker, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		tainted := slices.ContainsFunc(n.Spec.Taints, func(taint corev1.Taint) bool { return taint.Key == corev1.TaintNodeUnschedulable })
		if tainted != unschedulable {
			return fmt.Sprintf("taints %v", n.Spec.Taints), nil
		}
		return "", nil
	})
}

// TestTheOtherSchedulerTakesOver ends the leader of two in every way that a machine knows, while pods keep coming: the other one takes
// over, and all pods are placed, none of them twice.
func TestTheOtherSchedulerTakesOver(t *testing.T) {
	objects := build(t, overlays+"kind")
	install(t, objects)
	config := configOf(t, objects)
	namespace, lease := leaseOf(t, config)

	leader := startFogsched(t, config)
	holding := heldByAnother(t, patience, namespace, lease, "")
	ns := newNamespace(t, "takeover")
	stream := startStream(t, ns)
	placed(t, patience, ns, stream.newest(t))

	schedulers := []*cluster.Scheduler{leader}
	for _, end := range []struct {
		how string
		do  func(*cluster.Scheduler)
	}{
		{"is killed (SIGKILL, as when its host dies)", (*cluster.Scheduler).Kill},
		{"is told to end (SIGTERM, as in an update or a drain)", (*cluster.Scheduler).Stop},
		{"stands still (SIGSTOP, as a suspended machine)", func(s *cluster.Scheduler) { signal(t, s, syscall.SIGSTOP) }},
	} {
		standby := startFogsched(t, config)
		schedulers = append(schedulers, standby)
		if now, err := holder(t.Context(), namespace, lease); err != nil || now != holding {
			t.Fatalf("%q holds the lease beside a leader that lives, %q (error %v)", now, holding, err)
		}
		began := time.Now()
		end.do(leader)
		holding = heldByAnother(t, leaseTime, namespace, lease, holding)
		led := time.Since(began)
		// A pod that was created after the takeover, and with it all that waited, is placed by the new leader.
		placed(t, patience, ns, stream.newest(t))
		t.Logf("the leader %s: another leads after %.1f s, and places pods after %.1f s", end.how, led.Seconds(), time.Since(began).Seconds())
		if strings.Contains(end.how, "SIGSTOP") {
			// A lease is no fence: who wakes up with one that has run out goes on until it has tried in vain to renew it. Then it ends.
			for _, s := range schedulers {
				if n := secondBindings(t, s); n != 0 {
					t.Errorf("with one leader at a time a pod was to be bound twice, %d times: %s", n, s.LogPath())
				}
			}
			woken := time.Now()
			signal(t, leader, syscall.SIGCONT)
			select {
			case <-leader.Done():
			case <-time.After(patience):
				t.Errorf("the old leader goes on beside the new one")
			}
			t.Logf("woken, the old leader ended itself after %.1f s, in which the API server refused %d second bindings of a pod",
				time.Since(woken).Seconds(), secondBindings(t, leader)+secondBindings(t, standby))
		}
		leader = standby
	}

	created := stream.stop()
	seen := stream.nodes(t, created)
	t.Logf("%d pods were created meanwhile and all are placed", created)
	for name, nodes := range seen {
		if len(nodes) != 1 {
			t.Errorf("pod %s was seen on %v", name, nodes)
		}
	}
	for _, s := range schedulers {
		wantNothingForbidden(t, s)
	}
	events := map[string]int{}
	list, err := control.Client().EventsV1().Events(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Reason == "Scheduled" {
			events[e.Regarding.Name]++
		}
	}
	for name, n := range events {
		if n != 1 {
			t.Errorf("pod %s was scheduled %d times", name, n)
		}
	}
}

// secondBindings counts how often the API server refused a scheduler to bind a pod that was bound.
func secondBindings(t *testing.T, s *cluster.Scheduler) (n int) {
	t.Helper()
	log, err := os.ReadFile(s.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "Plugin Failed") && strings.Contains(line, "is already assigned to node") {
			n++
		}
	}
	return n
}

func signal(t *testing.T, s *cluster.Scheduler, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(s.PID(), sig); err != nil {
		t.Fatal(err)
	}
}

// stream creates a pod every 100 ms and watches where they go.
type stream struct {
	ns     string
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	created int
	on      map[string][]string // by pod, the nodes that it was seen on, in their order
}

func startStream(t *testing.T, ns string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	s := &stream{ns: ns, cancel: cancel, done: make(chan struct{}), on: map[string][]string{}}

	see := func(obj any) {
		p, ok := obj.(*corev1.Pod)
		if !ok || p.Spec.NodeName == "" {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if on := s.on[p.Name]; len(on) == 0 || on[len(on)-1] != p.Spec.NodeName {
			s.on[p.Name] = append(on, p.Spec.NodeName)
		}
	}
	pods := cache.NewListWatchFromClient(control.Client().CoreV1().RESTClient(), "pods", ns, fields.Everything())
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: pods, ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) }},
	})
	// The watch outlives the creation of pods.
	watch, stopWatch := context.WithCancel(t.Context())
	t.Cleanup(stopWatch)
	go informer.RunWithContext(watch)

	go func() {
		defer close(s.done)
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				s.mu.Lock()
				n := s.created
				s.mu.Unlock()
				createPod(t, ns, podName(n), "fogsched", "")
				s.mu.Lock()
				s.created++
				s.mu.Unlock()
			}
		}
	}()
	return s
}

func podName(n int) string { return fmt.Sprintf("pod-%04d", n) }

// newest returns the name of a pod that is created after the call.
func (s *stream) newest(t *testing.T) string {
	t.Helper()
	s.mu.Lock()
	before := s.created
	s.mu.Unlock()
	poll(t, patience, "the next pod to be created", func(context.Context) (string, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.created < before+2 {
			return fmt.Sprintf("%d were created", s.created), nil
		}
		return "", nil
	})
	return podName(before + 1)
}

// stop ends the creation of pods and returns how many there are.
func (s *stream) stop() int {
	s.cancel()
	<-s.done
	return s.created
}

// nodes waits until all pods are placed and returns the nodes that each was seen on.
func (s *stream) nodes(t *testing.T, created int) map[string][]string {
	t.Helper()
	poll(t, patience, "all pods to be placed", func(context.Context) (string, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.on) < created {
			return fmt.Sprintf("%d of %d are", len(s.on), created), nil
		}
		return "", nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
}

// TestReplaceDefault: fogsched and the stock scheduler exclude one another, and with the stock one stopped, fogsched places the pods
// of both names.
func TestReplaceDefault(t *testing.T) {
	const leaseNamespace, lease = metav1.NamespaceSystem, "kube-scheduler"
	objects := build(t, overlays+"replace-default")
	install(t, objects)
	stock := startStock(t)
	holding := heldByAnother(t, patience, leaseNamespace, lease, "")
	ns := newNamespace(t, "replace-default")

	// While the stock scheduler leads, fogsched waits, and its pods do.
	fogsched := startFogsched(t, configOf(t, objects))
	createPod(t, ns, "fogsched-1", "fogsched", "")
	createPod(t, ns, "default-1", corev1.DefaultSchedulerName, "")
	placed(t, patience, ns, "default-1")
	if pod, err := control.Client().CoreV1().Pods(ns).Get(t.Context(), "fogsched-1", metav1.GetOptions{}); err != nil || pod.Spec.NodeName != "" {
		t.Errorf("a pod of fogsched is on %q although the stock scheduler leads (error %v)", pod.Spec.NodeName, err)
	}

	// The stock scheduler is stopped as it is by taking its static pod away.
	began := time.Now()
	stock.Stop()
	holding = heldByAnother(t, leaseTime, leaseNamespace, lease, holding)
	t.Logf("the stock scheduler was told to end: fogsched leads after %.1f s", time.Since(began).Seconds())
	wantPlacement(t, placed(t, patience, ns, "fogsched-1"), false)

	// An upgrade brings the stock scheduler back. It stands by.
	back := start(t, cluster.SchedulerOptions{Binary: "kube-scheduler", ConfigYAML: []byte("leaderElection: {leaderElect: true}")})
	for i := range 20 {
		createPod(t, ns, fmt.Sprintf("default-2-%d", i), corev1.DefaultSchedulerName, "")
	}
	// An annotation on a pod of default-scheduler changes nothing: the profile is as the stock one.
	const latency = `{"clients": [{"nodes": {"matchLabels": {"kubernetes.io/hostname": "` + worker + `"}}}]}`
	createPod(t, ns, "default-3", corev1.DefaultSchedulerName, latency)
	createPod(t, ns, "fogsched-2", "fogsched", latency)
	for i := range 20 {
		wantPlacement(t, placed(t, patience, ns, fmt.Sprintf("default-2-%d", i)), false)
	}
	wantPlacement(t, placed(t, patience, ns, "default-3"), false)
	wantPlacement(t, placed(t, patience, ns, "fogsched-2"), true)
	if now, err := holder(t.Context(), leaseNamespace, lease); err != nil || now != holding {
		t.Errorf("%q leads, want %q, which is fogsched (error %v)", now, holding, err)
	}
	if n := attempts(t, back); n != 0 {
		t.Errorf("the stock scheduler made %v attempts beside fogsched", n)
	}
	if n := attempts(t, fogsched); n < 23 {
		t.Errorf("fogsched made %v attempts, want one a pod", n)
	}
	wantNothingForbidden(t, fogsched)
}

// wantPlacement checks whether a pod says why it is where it is, which only pods that the plugin placed do.
func wantPlacement(t *testing.T, pod *corev1.Pod, want bool) {
	t.Helper()
	if _, got := pod.Annotations[v1alpha1.PlacementAnnotation]; got != want {
		t.Errorf("pod %s of %s has the annotation %s: %t, want %t", pod.Name, pod.Spec.SchedulerName, v1alpha1.PlacementAnnotation, got, want)
	}
}

// attempts returns how many pods a scheduler tried to place.
func attempts(t *testing.T, s *cluster.Scheduler) (sum float64) {
	t.Helper()
	text, err := s.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "scheduler_schedule_attempts_total{") {
			fields := strings.Fields(line)
			var v float64
			if _, err := fmt.Sscan(fields[len(fields)-1], &v); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}
