// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// allNodes returns the names of the nodes.
func allNodes() []string {
	var names []string
	for _, s := range sites {
		for i := range nodesPerSite {
			names = append(names, nodeName(s.name, i))
		}
	}
	return names
}

// onto puts the pod on a node without any scheduler.
func onto(node string) podOption { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

// fill has pods take CPU on every node but some.
func (f *fixture) fill(request string, but ...string) {
	f.Helper()
	for _, node := range allNodes() {
		if !slices.Contains(but, node) {
			f.create("filler-"+node, onto(node), withCPU(request))
		}
	}
}

// A pod that no intent concerns goes where the stock scheduler would put it: the same pod, in the same world, by the one and
// by the other. Each case has one best node, because equals are drawn by lot.
func TestPodWithoutAnIntent(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setUp func(*fixture)
		pod   []podOption
		want  string
	}{
		{"to the node that has the most left", func(f *fixture) { f.fill("4", "c-2") }, []podOption{withCPU("1")}, "c-2"},
		{"to the only node on which it fits", func(f *fixture) { f.fill("7", "d-1") }, []podOption{withCPU("2")}, "d-1"},
		{"to the node that it prefers", func(*fixture) {}, []podOption{preferring("b-1")}, "b-1"},
		{"to the node of a label", func(*fixture) {}, []podOption{onNode("a-2")}, "a-2"},
		{
			"next to a pod for which it has an affinity", func(f *fixture) { f.create("friend", onto("d-2")) },
			[]podOption{func(p *corev1.Pod) {
				p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
						TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: set("app", "friend")},
					}},
				}}
			}},
			"d-2",
		},
		{
			"away from the pods for which it has an anti-affinity",
			func(f *fixture) {
				for _, node := range allNodes() {
					if node != "b-2" {
						f.create("rival-"+node, onto(node), withLabels("app", "rival"))
					}
				}
			},
			[]podOption{func(p *corev1.Pod) {
				p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
					PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
						Weight: 100, PodAffinityTerm: corev1.PodAffinityTerm{
							TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: set("app", "rival")},
						},
					}},
				}}
			}},
			"b-2",
		},
		{
			"to the site that spreads its kind best",
			func(f *fixture) {
				for _, node := range []string{"a-0", "b-0", "d-0"} {
					f.create("kind-"+node, onto(node), withLabels("app", "kind"))
				}
				f.fill("2", "c-1")
			},
			[]podOption{withLabels("app", "kind"), withCPU("1"), func(p *corev1.Pod) {
				p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
					MaxSkew: 1, TopologyKey: "site", WhenUnsatisfiable: corev1.DoNotSchedule,
					LabelSelector: &metav1.LabelSelector{MatchLabels: set("app", "kind")},
				}}
			}},
			"c-1",
		},
		{
			"to the only node whose port is free",
			func(f *fixture) {
				for _, node := range allNodes() {
					if node != "a-1" {
						f.create("port-"+node, onto(node), withHostPort)
					}
				}
			},
			[]podOption{withHostPort},
			"a-1",
		},
		{
			// A policy and its callers are in the same namespace, and yet have nothing to do with the pod.
			"although others have intents",
			func(f *fixture) {
				f.service("db", set("app", "db"))
				f.create("db", onto("a-0"))
				f.create("web", onto("d-0"), withLatency(`{"dependencies":[{"service":"db"}]}`))
			},
			[]podOption{preferring("c-0")},
			"c-0",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			tc.setUp(f)
			f.wantPlace(tc.want, "by-the-stock-scheduler", append(tc.pod, by(stock))...)
			f.remove("by-the-stock-scheduler")
			f.wantPlace(tc.want, "by-fogsched", tc.pod...)
			if why, ok := f.pod("by-fogsched").Annotations[v1alpha1.PlacementAnnotation]; ok {
				t.Errorf("the pod has the annotation %s: %s", v1alpha1.PlacementAnnotation, why)
			}
		})
	}
}

func withHostPort(p *corev1.Pod) {
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
}

// clientsOf is the annotation of a pod that the entries of sites call.
func clientsOf(sites ...string) podOption {
	return withLatency(`{"clients":[{"nodes":` + entriesOf(sites...) + `}]}`)
}

func TestScaleUpAndDown(t *testing.T) {
	f := newFixture(t)
	f.deployment("web", 1, clientsOf("a", "b", "c"))
	f.wantNodes("web", "b-0")
	f.scale("web", 2)
	f.wantNodes("web", "b-0", "c-0")
	f.scale("web", 3)
	f.wantNodes("web", "a-0", "b-0", "c-0")
	f.rolledOut("web")
	// The controller chooses who goes; whoever that is, its place is the one that is filled again.
	f.scale("web", 1)
	f.rolledOut("web")
	f.scale("web", 3)
	f.wantNodes("web", "a-0", "b-0", "c-0")
	f.rolledOut("web")
	f.scale("web", 0)
	f.wantNodes("web")
	f.rolledOut("web")
	f.scale("web", 1)
	f.wantNodes("web", "b-0")
}

// A new replica stands in for an old one, and so must not keep away from it.
func TestRollingUpdate(t *testing.T) {
	image := func(name string) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = name }
	}
	for _, tc := range []struct {
		name     string
		replicas int32
		sites    []string
		want     []string
	}{
		{"one replica", 1, []string{"c"}, []string{"c-0"}},
		{"three replicas", 3, []string{"a", "b", "c"}, []string{"a-0", "b-0", "c-0"}},
	} {
		for _, how := range []string{"policy", "annotation"} {
			t.Run(tc.name+" by "+how, func(t *testing.T) {
				f := newFixture(t)
				var opts []podOption
				if how == "policy" {
					f.policy("web", `{"selector":{"matchLabels":{"app":"web"}},"clients":[{"nodes":`+entriesOf(tc.sites...)+`}]}`)
				} else {
					opts = append(opts, clientsOf(tc.sites...))
				}
				f.deployment("web", tc.replicas, opts...)
				f.wantNodes("web", tc.want...)
				f.rolledOut("web")
				before := f.uids("web")

				f.change("web", image("two"))
				f.rolledOut("web")
				f.wantNodes("web", tc.want...)
				f.change("web", image("none")) // back to the first revision, whose ReplicaSet is still there
				f.rolledOut("web")
				f.wantNodes("web", tc.want...)
				for _, uid := range f.uids("web") {
					if slices.Contains(before, uid) {
						t.Error("the test itself: a pod was not replaced")
					}
				}
			})
		}
	}
}

func (f *fixture) uids(app string) (uids []string) {
	f.Helper()
	for _, p := range f.pods("app", app) {
		if p.DeletionTimestamp == nil {
			uids = append(uids, string(p.UID))
		}
	}
	return uids
}

func TestDaemonSet(t *testing.T) {
	for name, opts := range map[string][]podOption{
		"without an intent": nil,
		"with one":          {clientsOf("a", "d")},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			p := podTemplate("agent", opts...)
			ds := &appsv1.DaemonSet{
				ObjectMeta: metav1.ObjectMeta{Name: "agent"},
				Spec: appsv1.DaemonSetSpec{
					Selector: &metav1.LabelSelector{MatchLabels: p.Labels},
					Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels, Annotations: p.Annotations}, Spec: p.Spec},
				},
			}
			if _, err := f.control.Client().AppsV1().DaemonSets(f.ns).Create(f.Context(), ds, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			f.wantNodes("agent", allNodes()...)
		})
	}
}

// A StatefulSet makes its pods one after another, so that each has its own place.
func TestStatefulSet(t *testing.T) {
	f := newFixture(t)
	p := podTemplate("db", clientsOf("a", "b", "c"))
	replicas := int32(3)
	sts := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "db",
			Selector: &metav1.LabelSelector{MatchLabels: p.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels, Annotations: p.Annotations}, Spec: p.Spec},
		},
	}
	if _, err := f.control.Client().AppsV1().StatefulSets(f.ns).Create(f.Context(), sts, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f.wantNodes("db", "a-0", "b-0", "c-0")
	f.wantNode("db-0", f.node("db-0"), "b-0")
	f.wantNode("db-1", f.node("db-1"), "c-0")
	f.wantNode("db-2", f.node("db-2"), "a-0")
}

// The volume waits for the pod, and the pod takes the nearest node that has one.
func TestWaitForFirstConsumer(t *testing.T) {
	f := newFixture(t)
	class := f.ns
	waits := storagev1.VolumeBindingWaitForFirstConsumer
	_, err := f.control.Client().StorageV1().StorageClasses().Create(f.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: class}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &waits,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = f.control.Client().StorageV1().StorageClasses().Delete(context.Background(), class, metav1.DeleteOptions{})
	})
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	for _, node := range []string{"a-2", "c-2", "d-1"} {
		pv := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: class + "-" + node},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
				PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/disk"}},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
					}},
				}}}},
			},
		}
		if _, err := f.control.Client().CoreV1().PersistentVolumes().Create(f.Context(), pv, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = f.control.Client().CoreV1().PersistentVolumes().Delete(context.Background(), pv.Name, metav1.DeleteOptions{})
		})
	}
	f.eventually("the volumes to be available", func() (bool, string) {
		list, err := f.control.Client().CoreV1().PersistentVolumes().List(f.Context(), metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		free := 0
		for i := range list.Items {
			if pv := &list.Items[i]; pv.Spec.StorageClassName == class && pv.Status.Phase == corev1.VolumeAvailable {
				free++
			}
		}
		return free == 3, fmt.Sprint(free)
	})
	f.service("gateway", set("app", "gateway"))
	f.wantPlace("c-0", "gateway", onNode("c-0"))

	withVolume := func(name string) podOption {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			}}}
		}
	}
	// The nearest volume of three, the nearest of the two that are left, then the last one.
	for i, want := range []string{"c-2", "a-2", "d-1"} {
		name := fmt.Sprintf("db-%d", i)
		claim := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
				Resources: corev1.VolumeResourceRequirements{Requests: size},
			},
		}
		claims := f.control.Client().CoreV1().PersistentVolumeClaims(f.ns)
		if _, err := claims.Create(f.Context(), claim, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		f.wantPlace(want, name, withVolume(name), withLatency(`{"dependencies":[{"service":"gateway"}]}`))
		f.eventually("the claim to be bound", func() (bool, string) {
			got, err := claims.Get(f.Context(), name, metav1.GetOptions{})
			if err != nil {
				return false, err.Error()
			}
			return got.Status.Phase == corev1.ClaimBound && got.Spec.VolumeName == class+"-"+want, fmt.Sprint(got.Spec.VolumeName, got.Status.Phase)
		})
	}
}

func TestResourceQuota(t *testing.T) {
	f := newFixture(t)
	quotas := f.control.Client().CoreV1().ResourceQuotas(f.ns)
	_, err := quotas.Create(f.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "small"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{
			corev1.ResourcePods: resource.MustParse("2"), corev1.ResourceRequestsCPU: resource.MustParse("2"),
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	counted := func(pods string) {
		t.Helper()
		f.eventually("the quota to be counted", func() (bool, string) {
			quota, err := quotas.Get(f.Context(), "small", metav1.GetOptions{})
			if err != nil {
				return false, err.Error()
			}
			got := quota.Status.Hard[corev1.ResourcePods]
			return got.String() == pods, fmt.Sprint(quota.Status)
		})
	}
	counted("2")
	f.deployment("web", 3, clientsOf("a", "b", "c"), withCPU("100m"))
	f.wantNodes("web", "b-0", "c-0")
	p := podTemplate("one-too-many", withCPU("100m"))
	if _, err := f.control.Client().CoreV1().Pods(f.ns).Create(f.Context(), p, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a pod beyond the quota: got %v, want it forbidden", err)
	}

	_, err = quotas.Patch(f.Context(), "small", types.MergePatchType, []byte(`{"spec":{"hard":{"pods":"3"}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	counted("3")
	f.scale("web", 4) // the controller tries again at once, and not after its back-off
	f.wantNodes("web", "a-0", "b-0", "c-0")
}

// The only node within the limit is full of pods of a lower priority: they make room there, and nowhere else.
func TestPreemption(t *testing.T) {
	f := newFixture(t)
	for name, value := range map[string]int32{"low": 1000, "high": 100000} {
		class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: f.ns + "-" + name}, Value: value}
		if _, err := f.control.Client().SchedulingV1().PriorityClasses().Create(f.Context(), class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = f.control.Client().SchedulingV1().PriorityClasses().Delete(context.Background(), class.Name, metav1.DeleteOptions{})
		})
	}
	priority := func(name string) podOption {
		return func(p *corev1.Pod) { p.Spec.PriorityClassName = f.ns + "-" + name }
	}
	f.service("db", set("app", "db"))
	f.wantPlace("c-0", "db", onNode("c-0"))
	// Every node is full, and emptying another would be cheaper: there the pods are smaller.
	for _, node := range allNodes() {
		if node == "c-1" {
			f.wantPlace(node, "low-"+node, onNode(node), withCPU("7"), priority("low"))
			continue
		}
		for i := range 2 {
			f.wantPlace(node, fmt.Sprintf("low-%s-%d", node, i), onNode(node), withCPU("3500m"), priority("low"))
		}
	}
	calls := withLatency(`{"dependencies":[{"service":"db","limit":"1.6ms"}],"whenUnsatisfiable":"DoNotSchedule"}`)

	// c-0 and c-1 are within the limit; c-0 is closed to the pod.
	f.wantPlace("c-1", "high", withCPU("3"), priority("high"), calls, notIn(corev1.LabelHostname, "c-0"))
	for _, p := range f.pods() {
		if p.Name == "low-c-1" && p.DeletionTimestamp == nil {
			t.Error("pod low-c-1 is still there")
		}
	}
	if n := len(f.pods()); n != 1+2*11+1 {
		t.Errorf("%d pods are left, want the database, 22 of low priority, and the one of high priority", n)
	}

	// A pod whose limit no node keeps preempts nobody.
	f.create("vain", withCPU("3"), priority("high"), withLatency(
		`{"dependencies":[{"service":"db","limit":"1us"}],"whenUnsatisfiable":"DoNotSchedule"}`))
	f.wantAll("the message", f.unschedulable("vain"), "node(s) exceed the latency limit")
	if n := len(f.pods()); n != 1+2*11+2 {
		t.Errorf("%d pods are left, want all that were there", n)
	}
}
