// SPDX-License-Identifier: Apache-2.0

// Package manifests tests what users install, manifests/ and charts/fogsched, on a real API server with real controllers; kwok
// plays the nodes.
package manifests

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
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
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/test/cluster"
)

const (
	systemNamespace = "fogsched-system"
	overlays        = "manifests/overlays/"

	// patience is for what takes a second or two when it works.
	patience = time.Minute
	// leaseTime is how long nobody leads after the leader has died: a lease lasts 15 s and is asked for every 2 s.
	leaseTime = 20 * time.Second
)

// control is the control plane that the tests share. It has three nodes and no scheduler.
var control *cluster.Cluster

// The nodes: one of the control plane as kubeadm makes them, one for everything, one that takes only what tolerates its taint.
const (
	controlPlane = "control-plane"
	worker       = "worker"
	special      = "special"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run is apart from TestMain because os.Exit would skip its deferred Stop.
func run(m *testing.M) int {
	c, err := cluster.Start(context.Background(), cluster.Options{})
	if err != nil {
		// Never a skip: a run without these tests must not look like one in which they passed.
		fmt.Fprintf(os.Stderr, "FAIL: the tests of the manifests need a control plane: %v\n", err)
		return 1
	}
	defer c.Stop()
	err = c.AddNodes(context.Background(),
		cluster.Node{
			Name: controlPlane, Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""},
			Taints: []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}},
		},
		cluster.Node{Name: worker, Capacity: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("5k")}},
		cluster.Node{Name: special, Taints: []corev1.Taint{{Key: "example.org/special", Effect: corev1.TaintEffectNoSchedule}}},
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	control = c
	code := m.Run()
	if err := c.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: the control plane ended during the tests:", err)
		return 1
	}
	return code
}

// build returns the objects of a kustomization of the repository.
func build(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	manifest, err := cluster.Kustomize(dir)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, manifest)
}

func parse(t *testing.T, manifest []byte) []*unstructured.Unstructured {
	t.Helper()
	objects, err := cluster.ParseYAML(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) < 10 {
		t.Fatalf("only %d objects", len(objects))
	}
	return objects
}

// install applies objects as a user would, and removes them when the test ends, until nothing of them is left.
func install(t *testing.T, objects []*unstructured.Unstructured) {
	t.Helper()
	t.Cleanup(func() { remove(t, objects) })
	if err := control.Apply(t.Context(), objects...); err != nil {
		t.Fatalf("the API server refuses the manifests: %v", err)
	}
}

func remove(t *testing.T, objects []*unstructured.Unstructured) {
	t.Helper()
	ctx := context.Background() // that of the test has ended
	background := metav1.DeletePropagationBackground
	for _, o := range slices.Backward(objects) {
		resource, err := control.Resource(o)
		if err != nil {
			continue // its definition is gone already
		}
		err = resource.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("removing %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	pollIn(ctx, t, patience, "everything to be gone", func(ctx context.Context) (string, error) {
		for _, o := range objects {
			resource, err := control.Resource(o)
			if err != nil {
				continue
			}
			if _, err := resource.Get(ctx, o.GetName(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("%s %s is there", o.GetKind(), o.GetName()), err
			}
		}
		return "", nil
	})
}

// warningsOf applies objects once more, without effect, and returns what the API server has to say about them.
func warningsOf(t *testing.T, objects []*unstructured.Unstructured) []string {
	t.Helper()
	collector := &warnings{}
	config := control.Config()
	config.WarningHandler = collector
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(control.Client().Discovery())
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	force := true
	for _, o := range objects {
		kind := o.GroupVersionKind()
		mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var resource dynamic.ResourceInterface = client.Resource(mapping.Resource)
		if o.GetNamespace() != "" {
			resource = client.Resource(mapping.Resource).Namespace(o.GetNamespace())
		}
		_, err = resource.Patch(t.Context(), o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{
			FieldManager: "fogsched-test", Force: &force, FieldValidation: metav1.FieldValidationStrict, DryRun: []string{metav1.DryRunAll},
		})
		if err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	return collector.seen
}

// warnings collects the Warning headers of answers.
type warnings struct {
	mu   sync.Mutex
	seen []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, text)
}

// find returns the one object of a kind whose name starts with a prefix.
func find(t *testing.T, objects []*unstructured.Unstructured, kind, prefix string) *unstructured.Unstructured {
	t.Helper()
	var found *unstructured.Unstructured
	for _, o := range objects {
		if o.GetKind() == kind && strings.HasPrefix(o.GetName(), prefix) {
			if found != nil {
				t.Fatalf("there are %ss %s and %s", kind, found.GetName(), o.GetName())
			}
			found = o
		}
	}
	if found == nil {
		t.Fatalf("there is no %s %s", kind, prefix)
	}
	return found
}

// configOf returns the configuration of the scheduler among the objects.
func configOf(t *testing.T, objects []*unstructured.Unstructured) string {
	t.Helper()
	text, ok, err := unstructured.NestedString(find(t, objects, "ConfigMap", "fogsched-config-").Object, "data", "config.yaml")
	if !ok || err != nil {
		t.Fatalf("the ConfigMap has no config.yaml (%v)", err)
	}
	return text
}

// templatesOf returns the pod templates among the objects, by the name of their Deployment or DaemonSet.
func templatesOf(t *testing.T, objects []*unstructured.Unstructured) map[string]corev1.PodTemplateSpec {
	t.Helper()
	templates := map[string]corev1.PodTemplateSpec{}
	for _, o := range objects {
		switch o.GetKind() {
		case "Deployment":
			var d appsv1.Deployment
			convert(t, o, &d)
			templates[d.Name] = d.Spec.Template
		case "DaemonSet":
			var d appsv1.DaemonSet
			convert(t, o, &d)
			templates[d.Name] = d.Spec.Template
		case "Pod", "Job", "CronJob", "StatefulSet", "ReplicaSet":
			t.Errorf("the test does not look into a %s", o.GetKind())
		}
	}
	return templates
}

func convert(t *testing.T, o *unstructured.Unstructured, into any) {
	t.Helper()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, into, true); err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

// startStock runs the stock scheduler, by default as kubeadm starts it: with the lease kube-scheduler in kube-system.
func startStock(t *testing.T) *cluster.Scheduler {
	t.Helper()
	dropLease(t, metav1.NamespaceSystem, "kube-scheduler")
	return start(t, cluster.SchedulerOptions{Binary: "kube-scheduler", ConfigYAML: []byte("leaderElection: {leaderElect: true}")})
}

// startFogsched runs the product's scheduler with the rights of its ServiceAccount.
func startFogsched(t *testing.T, config string) *cluster.Scheduler {
	t.Helper()
	kubeconfig, err := control.ServiceAccountKubeconfig(t.Context(), systemNamespace, "fogsched")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, cluster.SchedulerOptions{Binary: "fogsched", Kubeconfig: kubeconfig, ConfigYAML: []byte(config)})
}

func start(t *testing.T, options cluster.SchedulerOptions) *cluster.Scheduler {
	t.Helper()
	s, err := control.StartScheduler(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// dropLease removes a lease that an ended scheduler of another test left behind, so that nobody waits until it has run out.
func dropLease(t *testing.T, namespace, name string) {
	t.Helper()
	err := control.Client().CoordinationV1().Leases(namespace).Delete(t.Context(), name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

// holder returns who holds a lease, "" for nobody.
func holder(ctx context.Context, namespace, name string) (string, error) {
	lease, err := control.Client().CoordinationV1().Leases(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", err
	case lease.Spec.HolderIdentity == nil:
		return "", nil
	}
	return *lease.Spec.HolderIdentity, nil
}

// heldByAnother waits until somebody else than before holds a lease, and returns who.
func heldByAnother(t *testing.T, timeout time.Duration, namespace, name, before string) (now string) {
	t.Helper()
	poll(t, timeout, fmt.Sprintf("another than %q to hold the lease %s/%s", before, namespace, name), func(ctx context.Context) (string, error) {
		var err error
		if now, err = holder(ctx, namespace, name); err != nil {
			return "", err
		}
		if now == "" || now == before {
			return fmt.Sprintf("%q holds it", now), nil
		}
		return "", nil
	})
	return now
}

// newNamespace makes a namespace that goes with the test.
func newNamespace(t *testing.T, name string) string {
	t.Helper()
	if err := control.CreateNamespace(t.Context(), name, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := control.Client().CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("removing namespace %s: %v", name, err)
		}
	})
	return name
}

// createPod creates a pod for a scheduler, with an annotation about latency or without.
func createPod(t *testing.T, ns, name, scheduler, latency string) {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{SchedulerName: scheduler, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	if latency != "" {
		pod.Annotations = map[string]string{v1alpha1.LatencyAnnotation: latency}
	}
	if _, err := control.Client().CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Errorf("creating pod %s: %v", name, err) // not Fatal: it is called from other goroutines
	}
}

// placed waits until a pod is on a node, and returns it.
func placed(t *testing.T, timeout time.Duration, ns, name string) (pod *corev1.Pod) {
	t.Helper()
	poll(t, timeout, "pod "+name+" to be placed", func(ctx context.Context) (string, error) {
		var err error
		if pod, err = control.Client().CoreV1().Pods(ns).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return "", err
		}
		if pod.Spec.NodeName == "" {
			return fmt.Sprint(pod.Status.Conditions), nil
		}
		return "", nil
	})
	return pod
}

// wantNothingForbidden looks in a scheduler's log for rights that it lacked.
func wantNothingForbidden(t *testing.T, s *cluster.Scheduler) {
	t.Helper()
	log, err := os.ReadFile(s.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "forbidden") && !strings.Contains(line, "because it is being terminated") {
			t.Errorf("the API server refused the scheduler something: %s", line)
		}
	}
}

// poll calls a check until it sees nothing amiss, and fails the test with what it saw last.
func poll(t *testing.T, timeout time.Duration, what string, check func(context.Context) (amiss string, err error)) {
	t.Helper()
	pollIn(t.Context(), t, timeout, what, check)
}

func pollIn(ctx context.Context, t *testing.T, timeout time.Duration, what string, check func(context.Context) (amiss string, err error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	var seen string
	for {
		amiss, err := check(ctx)
		if err == nil && amiss == "" {
			return
		}
		// What cut a check short says less than what the one before it saw.
		if seen == "" || ctx.Err() == nil {
			seen = fmt.Sprintf("%s (error: %v)", amiss, err)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s; last seen: %s", what, seen)
		case <-ticker.C:
		}
	}
}
