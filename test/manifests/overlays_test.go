// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/test/cluster"
)

// What the ServiceAccounts may do, to the last verb. Whoever adds a right adds it here, and says why in the manifest.
const (
	rights = `fogprobe everywhere: create,get,update nodelatencies.fogsched.dev
fogprobe everywhere: get nodes
fogprobe everywhere: update nodelatencies/status.fogsched.dev
fogprobe in fogsched-system: list,watch configmaps named fogprobe-interest
fogprobe in fogsched-system: list,watch endpointslices.discovery.k8s.io
fogsched everywhere: get,list,watch latencypolicies,nodelatencies.fogsched.dev
fogsched everywhere: the ClusterRole system:kube-scheduler of Kubernetes
fogsched everywhere: the ClusterRole system:volume-scheduler of Kubernetes
fogsched everywhere: update latencypolicies/status.fogsched.dev
`
	ownLease = `fogsched in fogsched-system: create leases.coordination.k8s.io
fogsched in fogsched-system: get,update configmaps named fogprobe-interest
fogsched in fogsched-system: get,update leases.coordination.k8s.io named fogsched
`
	stockLease = `fogsched in fogsched-system: get,update configmaps named fogprobe-interest
`
	authentication = `fogsched in kube-system: the Role extension-apiserver-authentication-reader of Kubernetes
`
)

// TestOverlays installs every overlay, as `kubectl apply --server-side -k` would, has its pods run, and removes it again.
func TestOverlays(t *testing.T) {
	start(t, cluster.SchedulerOptions{Binary: "kube-scheduler"}) // it places the pods of the overlays
	root, err := cluster.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, overlays))
	if err != nil {
		t.Fatal(err)
	}
	dirs := []string{"test/integration/testdata/authenticated-probes"}
	for _, e := range entries {
		dirs = append(dirs, overlays+e.Name())
	}
	if len(dirs) < 7 {
		t.Errorf("the overlays are only %v: the test looks in the wrong place", dirs)
	}
	tried := map[string]bool{}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			objects := build(t, dir)
			install(t, objects)
			for _, w := range warningsOf(t, objects) {
				t.Errorf("the API server warns: %s", w)
			}
			for name, template := range templatesOf(t, objects) {
				wantHardened(t, name, template)
				wantReachable(t, name, template, objects)
			}
			wantRunning(t)
			wantRights(t, dir == overlays+"replace-default")

			// The real program takes the configuration and leads, with the rights that come with it.
			config := configOf(t, objects)
			if tried[config] {
				return
			}
			tried[config] = true
			namespace, name := leaseOf(t, config)
			dropLease(t, namespace, name)
			scheduler := startFogsched(t, config)
			heldByAnother(t, patience, namespace, name, "")
			wantNothingForbidden(t, scheduler)
		})
	}
	if len(tried) != 2 {
		t.Errorf("%d configurations were tried, want that of the second scheduler and that with two profiles", len(tried))
	}
}

// leaseOf returns the lease that a configuration names.
func leaseOf(t *testing.T, config string) (namespace, name string) {
	t.Helper()
	var c struct {
		LeaderElection struct{ ResourceNamespace, ResourceName string }
	}
	if err := yaml.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	return c.LeaderElection.ResourceNamespace, c.LeaderElection.ResourceName
}

// wantHardened checks what Pod Security does not ask for, and what it does, so that a missing line has a name here.
func wantHardened(t *testing.T, name string, template corev1.PodTemplateSpec) {
	t.Helper()
	want := func(ok bool, what string) {
		t.Helper()
		if !ok {
			t.Errorf("the pod of %s: %s", name, what)
		}
	}
	spec := template.Spec
	want(!spec.HostNetwork && !spec.HostPID && !spec.HostIPC, "it lives in the node's network or processes")
	want(spec.PriorityClassName != "", "no priority class")
	want(spec.ServiceAccountName == name, "a ServiceAccount that is not its own")
	want(spec.SecurityContext != nil && spec.SecurityContext.RunAsNonRoot != nil && *spec.SecurityContext.RunAsNonRoot, "it may run as root")
	want(spec.SecurityContext != nil && spec.SecurityContext.SeccompProfile != nil &&
		spec.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault, "no seccomp profile")
	for _, v := range spec.Volumes {
		want(v.ConfigMap != nil || v.Secret != nil, "volume "+v.Name+" is neither a ConfigMap nor a Secret")
	}
	want(len(spec.Containers) == 1 && len(spec.InitContainers) == 0, "not one container")
	for _, c := range spec.Containers {
		s := c.SecurityContext
		want(s != nil && s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem, "its root file system can be written")
		want(s != nil && s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation, "privilege escalation is allowed")
		want(s != nil && s.Capabilities != nil && slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) && len(s.Capabilities.Add) == 0,
			"it keeps capabilities")
		want(c.LivenessProbe != nil && c.ReadinessProbe != nil, "it lacks a probe")
		want(!c.Resources.Requests.Cpu().IsZero() && !c.Resources.Requests.Memory().IsZero(), "it requests no CPU or no memory")
		want(!c.Resources.Limits.Memory().IsZero(), "it has no limit on memory")
		want(c.Resources.Limits.Cpu().IsZero(), "it has a limit on CPU, which would slow down what must be quick")
		want(c.Image == name+":dev", "its image is "+c.Image)
	}
}

// wantReachable checks that the NetworkPolicies let in what the pod listens for and nothing else, and let it out to the API server.
func wantReachable(t *testing.T, name string, template corev1.PodTemplateSpec, objects []*unstructured.Unstructured) {
	t.Helper()
	var in, out, listens []string
	for _, o := range objects {
		if o.GetKind() != "NetworkPolicy" {
			continue
		}
		var p networkingv1.NetworkPolicy
		convert(t, o, &p)
		selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			t.Fatal(err)
		}
		if !selector.Matches(labels.Set(template.Labels)) {
			continue
		}
		if !slices.Equal(p.Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}) {
			t.Errorf("NetworkPolicy %s is for %v only", p.Name, p.Spec.PolicyTypes)
		}
		for _, rule := range p.Spec.Ingress {
			for _, port := range rule.Ports {
				in = append(in, fmt.Sprint(*port.Protocol, " ", port.Port))
			}
		}
		for _, rule := range p.Spec.Egress {
			if len(rule.Ports) == 0 {
				t.Errorf("NetworkPolicy %s lets %s out to every port", p.Name, name)
			}
			for _, port := range rule.Ports {
				out = append(out, fmt.Sprint(*port.Protocol, " ", port.Port))
			}
		}
	}
	for _, c := range template.Spec.Containers {
		for _, port := range c.Ports {
			protocol := port.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			listens = append(listens, fmt.Sprint(protocol, " ", port.ContainerPort))
		}
	}
	slices.Sort(in)
	slices.Sort(listens)
	if diff := cmp.Diff(listens, in); diff != "" {
		t.Errorf("%s listens on (-) and is let in on (+):\n%s", name, diff)
	}
	for _, api := range []string{"TCP 443", "TCP 6443"} {
		if !slices.Contains(out, api) {
			t.Errorf("%s may not go out to %s, where the API server is; only to %v", name, api, out)
		}
	}
	if !slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool {
		return o.GetKind() == "NetworkPolicy" && o.GetName() == "default-deny"
	}) {
		t.Error("nothing denies by default")
	}
}

// wantRunning waits until the controllers made all pods, which the namespace, where Pod Security is enforced, lets in.
func wantRunning(t *testing.T) {
	t.Helper()
	ns, err := control.Client().CoreV1().Namespaces().Get(t.Context(), systemNamespace, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if level := ns.Labels["pod-security.kubernetes.io/enforce"]; level != "restricted" {
		t.Errorf("the namespace enforces Pod Security %q, want restricted", level)
	}
	poll(t, patience, "the pods to run", func(ctx context.Context) (string, error) {
		apps := control.Client().AppsV1()
		d, err := apps.Deployments(systemNamespace).Get(ctx, "fogsched", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if amiss := notRolledOut(d); amiss != "" {
			return amiss, nil
		}
		set, err := apps.DaemonSets(systemNamespace).Get(ctx, "fogprobe", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if set.Status.ObservedGeneration != set.Generation || set.Status.NumberReady != 3 {
			return fmt.Sprintf("the prober runs on %d nodes of 3", set.Status.NumberReady), nil
		}
		return "", nil
	})
}

// notRolledOut says what a Deployment still lacks.
func notRolledOut(d *appsv1.Deployment) string {
	s, n := d.Status, *d.Spec.Replicas
	if s.ObservedGeneration != d.Generation || s.Replicas != n || s.UpdatedReplicas != n || s.AvailableReplicas != n {
		return fmt.Sprintf("of %d wanted schedulers %d exist, %d of them new, %d available: %v", n, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas, s.Conditions)
	}
	return ""
}

// wantRights compares what the bindings in the cluster grant to our ServiceAccounts with what they may have.
func wantRights(t *testing.T, replacesDefault bool) {
	t.Helper()
	want := rights + ownLease + authentication
	if replacesDefault {
		want = rights + stockLease + authentication
	}
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(granted(t, systemNamespace), "\n")); diff != "" {
		t.Errorf("rights of the ServiceAccounts (-want +got):\n%s", diff)
	}
}

// granted lists what the ServiceAccounts of a namespace may do, one rule a line.
func granted(t *testing.T, namespace string) string {
	t.Helper()
	ctx, rbac := t.Context(), control.Client().RbacV1()
	var lines []string
	add := func(subjects []rbacv1.Subject, where string, ref rbacv1.RoleRef) {
		for _, s := range subjects {
			switch {
			case s.Kind == rbacv1.ServiceAccountKind && s.Namespace == namespace:
			case s.Kind == rbacv1.GroupKind && s.Name == "system:serviceaccounts:"+namespace:
			default:
				continue
			}
			if ref.Name == "extension-apiserver-authentication-reader" || strings.HasPrefix(ref.Name, "system:") {
				lines = append(lines, fmt.Sprintf("%s %s: the %s %s of Kubernetes", s.Name, where, ref.Kind, ref.Name))
				continue
			}
			var rules []rbacv1.PolicyRule
			if ref.Kind == "ClusterRole" {
				role, err := rbac.ClusterRoles().Get(ctx, ref.Name, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if role.AggregationRule != nil {
					t.Errorf("ClusterRole %s gathers rules of others", role.Name)
				}
				rules = role.Rules
			} else {
				role, err := rbac.Roles(strings.TrimPrefix(where, "in ")).Get(ctx, ref.Name, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				rules = role.Rules
			}
			for _, r := range rules {
				if len(r.APIGroups) != 1 || len(r.NonResourceURLs) > 0 {
					t.Errorf("%s %s: the test cannot say what rule %v grants", ref.Kind, ref.Name, r)
					continue
				}
				slices.Sort(r.Verbs)
				slices.Sort(r.Resources)
				line := fmt.Sprintf("%s %s: %s %s", s.Name, where, strings.Join(r.Verbs, ","), strings.Join(r.Resources, ","))
				if r.APIGroups[0] != "" {
					line += "." + r.APIGroups[0]
				}
				if len(r.ResourceNames) > 0 {
					line += " named " + strings.Join(r.ResourceNames, ",")
				}
				lines = append(lines, line)
			}
		}
	}
	clusterwide, err := rbac.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range clusterwide.Items {
		add(b.Subjects, "everywhere", b.RoleRef)
	}
	namespaced, err := rbac.RoleBindings("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range namespaced.Items {
		add(b.Subjects, "in "+b.Namespace, b.RoleRef)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// TestOneProfile: the profile fogsched is the same whether it stands alone or beside default-scheduler.
func TestOneProfile(t *testing.T) {
	profile := func(overlay string) (fogsched any, names []string) {
		var c struct {
			Profiles []map[string]any
		}
		if err := yaml.Unmarshal([]byte(configOf(t, build(t, overlays+overlay))), &c); err != nil {
			t.Fatal(err)
		}
		for _, p := range c.Profiles {
			names = append(names, fmt.Sprint(p["schedulerName"]))
			if p["schedulerName"] == "fogsched" {
				fogsched = p
			} else if len(p) != 1 {
				t.Errorf("%s: the profile %v is not as the stock one", overlay, p)
			}
		}
		return fogsched, names
	}
	alone, one := profile("second-scheduler")
	beside, two := profile("replace-default")
	if diff := cmp.Diff(alone, beside); diff != "" {
		t.Errorf("second-scheduler (-) and replace-default (+) have different profiles:\n%s", diff)
	}
	if diff := cmp.Diff([][]string{{"fogsched"}, {"default-scheduler", "fogsched"}}, [][]string{one, two}); diff != "" {
		t.Errorf("the names of the profiles (-want +got):\n%s", diff)
	}
}
