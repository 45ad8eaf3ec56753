// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/test/cluster"
)

const (
	systemNamespace = "fogsched-system"
	overlay         = "manifests/overlays/second-scheduler"
)

var applyOverlay = sync.OnceValue(func() error {
	return control.ApplyKustomize(context.Background(), overlay)
})

// installOverlay installs the product in the shared control plane, once, as a user would.
func installOverlay(t *testing.T) {
	t.Helper()
	if err := applyOverlay(); err != nil {
		t.Fatalf("the API server refuses the manifests: %v", err)
	}
}

func TestRightsOfTheServiceAccounts(t *testing.T) {
	installOverlay(t)
	for _, tc := range []struct {
		account, verb, group, resource, subresource, namespace, name string
		want                                                         bool
	}{
		// What any scheduler does.
		{"fogsched", "watch", "", "pods", "", "", "", true},
		{"fogsched", "list", "", "nodes", "", "", "", true},
		{"fogsched", "create", "", "pods", "binding", "default", "", true},
		{"fogsched", "patch", "", "pods", "status", "default", "", true},
		{"fogsched", "delete", "", "pods", "", "default", "", true}, // preemption
		{"fogsched", "create", "events.k8s.io", "events", "", "default", "", true},
		{"fogsched", "update", "", "persistentvolumeclaims", "", "default", "", true},
		{"fogsched", "list", "storage.k8s.io", "storageclasses", "", "", "", true},
		{"fogsched", "get", "", "configmaps", "", "kube-system", "extension-apiserver-authentication", true},
		// What the plugins add.
		{"fogsched", "watch", "fogsched.dev", "latencypolicies", "", "", "", true},
		{"fogsched", "watch", "fogsched.dev", "nodelatencies", "", "", "", true},
		{"fogsched", "update", "fogsched.dev", "latencypolicies", "status", "default", "", true},
		{"fogsched", "watch", "", "services", "", "", "", true},
		{"fogsched", "watch", "", "namespaces", "", "", "", true},
		{"fogsched", "create", "coordination.k8s.io", "leases", "", systemNamespace, "", true},
		{"fogsched", "update", "coordination.k8s.io", "leases", "", systemNamespace, "fogsched", true},
		{"fogsched", "update", "", "configmaps", "", systemNamespace, "fogprobe-interest", true},
		// And nothing more.
		{"fogsched", "update", "", "configmaps", "", systemNamespace, "other", false},
		{"fogsched", "create", "", "configmaps", "", systemNamespace, "", false},
		{"fogsched", "update", "coordination.k8s.io", "leases", "", systemNamespace, "other", false},
		{"fogsched", "update", "coordination.k8s.io", "leases", "", "kube-system", "fogsched", false},
		{"fogsched", "update", "fogsched.dev", "latencypolicies", "", "default", "", false},
		{"fogsched", "create", "fogsched.dev", "nodelatencies", "", "", "", false},
		{"fogsched", "delete", "fogsched.dev", "nodelatencies", "", "", "", false},
		{"fogsched", "update", "fogsched.dev", "nodelatencies", "status", "", "", false},
		{"fogsched", "get", "", "secrets", "", systemNamespace, "", false},
		{"fogsched", "update", "", "nodes", "", "", "", false},
		{"fogsched", "update", "", "services", "", "default", "", false},
		{"fogsched", "create", "", "pods", "", "default", "", false},
		{"fogsched", "get", "", "configmaps", "", "kube-system", "other", false},
		{"fogsched", "escalate", "rbac.authorization.k8s.io", "clusterroles", "", "", "", false},

		{"fogprobe", "get", "", "nodes", "", "", "", true},
		{"fogprobe", "get", "fogsched.dev", "nodelatencies", "", "", "", true},
		{"fogprobe", "watch", "discovery.k8s.io", "endpointslices", "", systemNamespace, "", true},
		{"fogprobe", "watch", "", "configmaps", "", systemNamespace, "fogprobe-interest", true},
		{"fogprobe", "create", "fogsched.dev", "nodelatencies", "", "", "", true},
		{"fogprobe", "update", "fogsched.dev", "nodelatencies", "", "", "", true},
		{"fogprobe", "update", "fogsched.dev", "nodelatencies", "status", "", "", true},
		{"fogprobe", "watch", "fogsched.dev", "nodelatencies", "", "", "", false}, // each would receive all of them
		{"fogprobe", "watch", "discovery.k8s.io", "endpointslices", "", "default", "", false},
		{"fogprobe", "watch", "", "configmaps", "", systemNamespace, "", false},
		{"fogprobe", "update", "", "configmaps", "", systemNamespace, "fogprobe-interest", false},
		{"fogprobe", "delete", "fogsched.dev", "nodelatencies", "", "", "", false},
		{"fogprobe", "list", "fogsched.dev", "latencypolicies", "", "", "", false},
		{"fogprobe", "update", "", "nodes", "", "", "", false},
		{"fogprobe", "patch", "", "nodes", "status", "", "", false},
		{"fogprobe", "list", "", "pods", "", "", "", false},
		{"fogprobe", "get", "", "secrets", "", systemNamespace, "", false},
		{"fogprobe", "get", "coordination.k8s.io", "leases", "", systemNamespace, "", false},
	} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   fmt.Sprintf("system:serviceaccount:%s:%s", systemNamespace, tc.account),
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + systemNamespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: tc.verb, Group: tc.group, Resource: tc.resource, Subresource: tc.subresource,
				Namespace: tc.namespace, Name: tc.name,
			},
		}}
		// RBAC reads its rules from a cache, which a rule that was just applied reaches a moment later.
		what := fmt.Sprintf("%s: %s %s.%s/%s in %q, name %q, to be allowed: %t",
			tc.account, tc.verb, tc.resource, tc.group, tc.subresource, tc.namespace, tc.name, tc.want)
		t.Run(what, func(t *testing.T) {
			poll(t, 5*time.Second, what, func(ctx context.Context) (string, error) {
				answer, err := control.Client().AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
				if err != nil {
					return "", err
				}
				if answer.Status.Allowed != tc.want {
					return "it is not so", nil
				}
				return "", nil
			})
		})
	}
}

// The namespace enforces the restricted Pod Security Standard, so whatever it takes complies.
func TestPodSecurityAdmitsOurPods(t *testing.T) {
	installOverlay(t)
	for _, dir := range []string{overlay, "test/integration/testdata/authenticated-probes"} {
		t.Run(dir, func(t *testing.T) { podSecurityAdmits(t, dir) })
	}
}

func podSecurityAdmits(t *testing.T, dir string) {
	manifest, err := cluster.Kustomize(dir)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := cluster.ParseYAML(manifest)
	if err != nil {
		t.Fatal(err)
	}
	templates := map[string]corev1.PodTemplateSpec{}
	images := map[string]string{}
	for _, o := range objects {
		switch o.GetKind() {
		case "Deployment":
			var d appsv1.Deployment
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &d, true); err != nil {
				t.Fatal(err)
			}
			templates[d.Name] = d.Spec.Template
		case "DaemonSet":
			var d appsv1.DaemonSet
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &d, true); err != nil {
				t.Fatal(err)
			}
			templates[d.Name] = d.Spec.Template
		}
	}
	for name, template := range templates {
		for _, c := range template.Spec.Containers {
			images[name] = c.Image
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("container %s lacks requests or a memory limit: %+v", c.Name, c.Resources)
			}
			if c.LivenessProbe == nil || c.ReadinessProbe == nil {
				t.Errorf("container %s lacks a probe", c.Name)
			}
		}
		if err := dryRun(t, name, template.Spec); err != nil {
			t.Errorf("the pod of %s is refused: %v", name, err)
		}
		// The same pod with one right too many shows that the namespace does enforce the standard.
		root, yes := template.DeepCopy(), true
		root.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = &yes
		if err := dryRun(t, name, root.Spec); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "restricted`) {
			t.Errorf("the pod of %s with privilege escalation: error %v, want one about Pod Security", name, err)
		}
	}
	if images["fogsched"] != "fogsched:dev" || images["fogprobe"] != "fogprobe:dev" || len(images) != 2 {
		t.Errorf("images %v, want fogsched:dev and fogprobe:dev", images)
	}
}

// The shipped configuration and the shipped rights are enough: the scheduler leads, binds a pod with the reason written on it,
// reports in the policy's status, and the API server refuses it nothing.
func TestShippedSchedulerWorks(t *testing.T) {
	installOverlay(t)
	ctx := t.Context()
	scheduler, err := world()
	if err != nil {
		t.Fatal(err)
	}
	poll(t, 30*time.Second, "the scheduler to lead", func(ctx context.Context) (string, error) {
		lease, err := control.Client().CoordinationV1().Leases(systemNamespace).Get(ctx, "fogsched", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
			return "nobody holds the lease", nil
		}
		return "", nil
	})

	ns := newNamespace(t, "shipped")
	if err := createYAML(ctx, policyResource, ns, "web", "{selector: {matchLabels: {app: web}}, clients: [{nodes: {matchLabels: {site: b}}}]}"); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			SchedulerName: "fogsched",
			NodeSelector:  map[string]string{corev1.LabelHostname: "b-1"},
			Containers:    []corev1.Container{{Name: "web", Image: "web"}},
		},
	}
	if _, err := control.Client().CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	poll(t, 30*time.Second, "the pod to run", func(ctx context.Context) (string, error) {
		if pod, err = control.Client().CoreV1().Pods(ns).Get(ctx, "web", metav1.GetOptions{}); err != nil {
			return "", err
		}
		if pod.Status.Phase != corev1.PodRunning {
			return fmt.Sprintf("%s on %q", pod.Status.Phase, pod.Spec.NodeName), nil
		}
		return "", nil
	})
	if pod.Spec.NodeName != "b-1" || pod.Annotations[v1alpha1.PlacementAnnotation] == "" {
		t.Errorf("the pod is on %q with annotations %v, want b-1 and %s", pod.Spec.NodeName, pod.Annotations, v1alpha1.PlacementAnnotation)
	}
	poll(t, 30*time.Second, "the policy's status to count the pod", func(ctx context.Context) (string, error) {
		policy, err := newClient(t).LatencyPolicies(ns).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if policy.Status.Pods != 1 {
			return fmt.Sprintf("%d pods", policy.Status.Pods), nil
		}
		return "", nil
	})

	// The policy is about the nodes of site b, so every prober is to measure them.
	poll(t, 30*time.Second, "the nodes of the policy to be listed for the probers", func(ctx context.Context) (string, error) {
		object, err := control.Client().CoreV1().ConfigMaps(systemNamespace).Get(ctx, "fogprobe-interest", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if listed := strings.Fields(object.Data[v1alpha1.InterestKey]); !slices.Contains(listed, "b-0") || !slices.Contains(listed, "b-1") {
			return fmt.Sprint(listed), nil
		}
		return "", nil
	})

	log, err := os.ReadFile(scheduler.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		// Other tests' namespaces go while their pods are scheduled.
		if strings.Contains(line, "forbidden") && !strings.Contains(line, "because it is being terminated") {
			t.Errorf("the API server refused the scheduler something: %s", line)
		}
	}
}

// A prober's token names its node, and with it goes the right to write that node's NodeLatency, and no other.
func TestAProberWritesOnlyForItsOwnNode(t *testing.T) {
	installOverlay(t)
	if _, err := world(); err != nil { // for its nodes
		t.Fatal(err)
	}
	const own, other = "a-1", "b-1"
	ctx := t.Context()
	pods := control.Client().CoreV1().Pods(systemNamespace)
	yes, no, user := true, false, int64(65532)
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "prober-"},
		Spec: corev1.PodSpec{
			ServiceAccountName: "fogprobe", NodeName: own,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{Name: "fogprobe", Image: "fogprobe", SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pods.Delete(context.Background(), pod.Name, *metav1.NewDeleteOptions(0)); err != nil {
			t.Errorf("deleting the pod: %v", err)
		}
	})
	// as returns a client with a token that is bound to an object, or to none.
	as := func(bound *authenticationv1.BoundObjectReference) *client.Client {
		token, err := control.Client().CoreV1().ServiceAccounts(systemNamespace).CreateToken(ctx, "fogprobe",
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		config := rest.AnonymousClientConfig(control.Config())
		config.BearerToken = token.Status.Token
		c, err := client.New(config)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	prober := as(&authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID})
	nodeless := as(nil)

	report := func(name, owner string) *v1alpha1.NodeLatency {
		node, err := control.Client().CoreV1().Nodes().Get(ctx, owner, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: owner, UID: node.UID},
		}}}
	}
	// Both exist, so that all can be tried without leaving a trace.
	admin := newClient(t)
	for _, name := range []string{own, other} {
		if _, err := admin.NodeLatencies().Create(ctx, report(name, name), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	dry := []string{metav1.DryRunAll}
	update := func(c *client.Client, name, owner, subresource string) error {
		object, err := c.NodeLatencies().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		object.OwnerReferences = report(name, owner).OwnerReferences
		if subresource == "status" {
			_, err = c.NodeLatencies().UpdateStatus(ctx, object, metav1.UpdateOptions{DryRun: dry})
		} else {
			_, err = c.NodeLatencies().Update(ctx, object, metav1.UpdateOptions{DryRun: dry})
		}
		return err
	}
	// A policy takes effect a moment after it was applied.
	poll(t, 30*time.Second, "the policy to hold", func(context.Context) (string, error) {
		if err := update(prober, other, other, ""); !apierrors.IsForbidden(err) {
			return fmt.Sprintf("the prober of %s may write for %s: %v", own, other, err), nil
		}
		return "", nil
	})
	for sentence, tc := range map[string]struct {
		err  error
		want string // "" is allowed
	}{
		"its own status":                     {update(prober, own, own, "status"), ""},
		"its own object":                     {update(prober, own, own, ""), ""},
		"its own object, owned by another":   {update(prober, own, other, ""), "a NodeLatency is owned by its Node"},
		"another's status":                   {update(prober, other, other, "status"), "the prober of node a-1 may write only the NodeLatency of that name"},
		"another's object":                   {update(prober, other, other, ""), "the prober of node a-1 may write only the NodeLatency of that name"},
		"its own, with a token of no node":   {update(nodeless, own, own, "status"), "the token of fogprobe names no node"},
		"another's, by an administrator":     {update(admin, other, other, "status"), ""},
		"a new one of a node that is not it": {create(prober, report("c-1-that-is-not", "c-1")), "the prober of node a-1 may write only the NodeLatency of that name"},
	} {
		switch {
		case tc.want == "" && tc.err != nil:
			t.Errorf("%s: %v, want it allowed", sentence, tc.err)
		case tc.want != "" && (!apierrors.IsForbidden(tc.err) || !strings.Contains(tc.err.Error(), tc.want)):
			t.Errorf("%s: %v, want it forbidden with %q", sentence, tc.err, tc.want)
		}
	}
}

func create(c *client.Client, object *v1alpha1.NodeLatency) error {
	_, err := c.NodeLatencies().Create(context.Background(), object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

func dryRun(t *testing.T, name string, spec corev1.PodSpec) error {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "dry-run-" + name}, Spec: spec}
	_, err := control.Client().CoreV1().Pods(systemNamespace).Create(t.Context(), pod, metav1.CreateOptions{
		DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
	})
	return err
}
