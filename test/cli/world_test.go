// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
)

const (
	nodesPerZone   = 40
	zonesPerRegion = 10
	peers          = 16
	podsPerNode    = 1
	policies       = 20
	namespace      = "shop"

	parallelRequests = 32
)

// world is what the nodes of a size are and what their probers say. It is the same each time.
type world struct{ n int }

func (w world) name(i int) string   { return fmt.Sprintf("edge-%05d.fog.example", i) }
func (w world) zone(i int) string   { return fmt.Sprintf("zone-%03d", i/nodesPerZone) }
func (w world) region(i int) string { return fmt.Sprintf("region-%02d", i/nodesPerZone/zonesPerRegion) }

// place is a zone's, in microseconds from the middle of the network, and height what each node of it adds.
func (w world) place(i int) (x, y, height float64) {
	r := rand.New(rand.NewPCG(uint64(i/nodesPerZone), 7))
	return 60_000 * r.NormFloat64(), 40_000 * r.NormFloat64(), 100 + 3000*r.Float64()
}

func (w world) rtt(i, j int) time.Duration {
	x, y, h := w.place(i)
	a, b, k := w.place(j)
	return time.Duration((math.Hypot(x-a, y-b) + h + k) * float64(time.Microsecond))
}

// peersOf are eight nodes of the same zone and eight others, as a prober chooses them.
func (w world) peersOf(i int) []int {
	r := rand.New(rand.NewPCG(uint64(i), 11))
	first := i / nodesPerZone * nodesPerZone
	var out []int
	for len(out) < peers {
		j := r.IntN(w.n)
		if len(out) < peers/2 {
			j = first + r.IntN(min(nodesPerZone, w.n-first))
		}
		if j != i && !slices.Contains(out, j) {
			out = append(out, j)
		}
	}
	return out
}

func (w world) node(i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: w.name(i), Labels: map[string]string{
		corev1.LabelHostname: w.name(i), corev1.LabelOSStable: "linux", corev1.LabelArchStable: "arm64",
		corev1.LabelTopologyZone: w.zone(i), corev1.LabelTopologyRegion: w.region(i), "node.kubernetes.io/instance-type": "board",
	}}}
	if i%100 == 0 {
		n.Labels["fogsched.dev/gateway"] = "true"
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}}
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: "KubeletSays", Message: "kubelet is posting its status"}
		if t == corev1.NodeReady {
			c.Status = corev1.ConditionTrue
		}
		n.Status.Conditions = append(n.Status.Conditions, c)
	}
	for k := range 20 { // what a kubelet reports of its images is most of a real Node
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{
			Names:     []string{fmt.Sprintf("registry.example.org/team-%d/service-%d@sha256:%064x", k%4, k, k), fmt.Sprintf("registry.example.org/team-%d/service-%d:v1.%d", k%4, k, k)},
			SizeBytes: int64(k) << 20,
		})
	}
	return n
}

func (w world) report(i int) v1alpha1.NodeLatencyStatus {
	now := metav1.NewTime(time.Now().Add(-5 * time.Second).Truncate(time.Second))
	x, y, h := w.place(i)
	control := metav1.Duration{Duration: 60 * time.Microsecond}
	st := v1alpha1.NodeLatencyStatus{
		ObservedAt: &now, RefreshInterval: &metav1.Duration{Duration: time.Hour},
		Control:    &v1alpha1.Measurement{Typical: &control, Tail: &control, Samples: 20, At: &now},
		Coordinate: &v1alpha1.NetworkCoordinate{VectorMicros: []int64{int64(x), int64(y), 0, 0, 0, 0, 0, 0}, HeightMicros: int64(h), ErrorPercent: 20},
	}
	for _, j := range w.peersOf(i) {
		d := w.rtt(i, j)
		st.Peers = append(st.Peers, v1alpha1.PeerLatency{Node: w.name(j), Measurement: v1alpha1.Measurement{
			Typical: &metav1.Duration{Duration: d.Round(time.Microsecond)}, Tail: &metav1.Duration{Duration: (d * 5 / 4).Round(time.Microsecond)}, Samples: 19, Lost: int32(j % 7 / 6), At: &now,
		}})
	}
	slices.SortFunc(st.Peers, func(a, b v1alpha1.PeerLatency) int { return cmp.Compare(a.Node, b.Node) })
	return st
}

// grow makes the world larger: nodes, what their probers say, pods; and the policies, once.
func grow(t *testing.T, from, to int) world {
	t.Helper()
	w := world{n: to}
	ctx := t.Context()
	begun := time.Now()
	ours, err := client.New(control.Config())
	if err != nil {
		t.Fatal(err)
	}
	each(t, to-from, func(k int) error {
		i := from + k
		if _, err := control.Client().CoreV1().Nodes().Create(ctx, w.node(i), metav1.CreateOptions{}); err != nil {
			return err
		}
		nl, err := ours.NodeLatencies().Create(ctx, &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: w.name(i)}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		nl.Status = w.report(i)
		_, err = ours.NodeLatencies().UpdateStatus(ctx, nl, metav1.UpdateOptions{})
		return err
	})
	if from == 0 {
		makePolicies(ctx, t, ours, w)
	}
	each(t, podsPerNode*(to-from), func(k int) error {
		i := podsPerNode*from + k
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("web-%05d", i), Labels: map[string]string{"app": fmt.Sprintf("web-%d", i%policies)}}}
		p.Spec.SchedulerName = "fogsched"
		p.Spec.Containers = []corev1.Container{{Name: "web", Image: "registry.example.org/web:v1"}}
		if i%100 != 0 { // some wait
			p.Spec.NodeName = w.name(i / podsPerNode)
			p.Annotations = map[string]string{v1alpha1.PlacementAnnotation: `{"node":"` + w.name(i/podsPerNode) + `","cost":"9ms","entries":[{"provenance":"measured"}]}`}
		}
		_, err := control.Client().CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
		return err
	})
	t.Logf("%d nodes, their reports and pods were made in %.1f s", to, time.Since(begun).Seconds())
	return w
}

func makePolicies(ctx context.Context, t *testing.T, ours *client.Client, w world) {
	t.Helper()
	if err := control.CreateNamespace(ctx, namespace, nil); err != nil {
		t.Fatal(err)
	}
	for k := range policies {
		p := &v1alpha1.LatencyPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("web-%d", k)}}
		p.Spec.Selector.MatchLabels = map[string]string{"app": p.Name}
		limit := metav1.Duration{Duration: 50 * time.Millisecond}
		p.Spec.Clients = []v1alpha1.ClientEntry{{Entry: v1alpha1.Entry{
			Nodes: &metav1.LabelSelector{MatchLabels: map[string]string{"fogsched.dev/gateway": "true"}}, Limit: &limit,
		}}}
		p, err := ours.LatencyPolicies(namespace).Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		d := metav1.Duration{Duration: 12 * time.Millisecond}
		p.Status = v1alpha1.LatencyPolicyStatus{
			ObservedGeneration: p.Generation, Pods: 10, Typical: &d, Tail: &d,
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionLimitsKept, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonKept, LastTransitionTime: metav1.Now()}},
			Entries:    []v1alpha1.EntryStatus{{Entry: "clients[0]", Target: "nodes fogsched.dev/gateway=true", TargetNodes: int32(w.n / 100), Typical: &d, Limit: &limit, Provenance: "measured"}},
		}
		if _, err := ours.LatencyPolicies(namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// each calls f for 0 to n-1, several at once.
func each(t *testing.T, n int, f func(int) error) {
	t.Helper()
	errs := make([]error, n)
	workqueue.ParallelizeUntil(t.Context(), parallelRequests, n, func(i int) { errs[i] = f(i) })
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
