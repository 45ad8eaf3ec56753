// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// spot is a node on a plane whose unit is a millisecond of round trip.
type spot struct {
	name, site   string
	x, y, access float64
}

func (s spot) rtt(o spot) time.Duration {
	return time.Duration((math.Hypot(s.x-o.x, s.y-o.y) + s.access + o.access) * float64(time.Millisecond)).Round(10 * time.Microsecond)
}

// plane is so many nodes at so many sites of a seeded random country.
func plane(sites, nodes int) (spots []spot) {
	rng := rand.New(rand.NewPCG(3, uint64(nodes)))
	at := make([][2]float64, sites)
	for i := range at {
		at[i] = [2]float64{40 * rng.Float64(), 25 * rng.Float64()}
	}
	for i := range nodes {
		s := i % sites
		spots = append(spots, spot{
			fmt.Sprintf("edge-%04d", i), fmt.Sprintf("site-%02d", s),
			at[s][0] + rng.NormFloat64(), at[s][1] + rng.NormFloat64(), 0.3 + rng.Float64(),
		})
	}
	return spots
}

// world of so many nodes, each of which measured some of the others: all of up to 33, else 16; the nodes of policies measured by all.
func objectsOf(spots []spot, policies int) (objects []runtime.Object) {
	rng := rand.New(rand.NewPCG(4, uint64(len(spots))))
	for i, s := range spots {
		labels := []string{v1.LabelTopologyZone + "=" + s.site}
		if i%25 == 0 {
			labels = append(labels, "entry=true")
		}
		n := clitest.Node(s.name, labels...)
		n.Status.Allocatable = v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("8Gi"), v1.ResourcePods: resource.MustParse("110"),
		}
		var peers []string
		for j, o := range spots {
			if i != j && (len(spots) <= 33 || j%25 == 0 && j < 400 || rng.IntN(len(spots)) < 16) {
				peers = append(peers, o.name+"="+s.rtt(o).String())
			}
		}
		nl := clitest.Latency(s.name, peers...)
		nl.Status.Coordinate = &v1alpha1.NetworkCoordinate{
			VectorMicros: []int64{int64(s.x * 1000), int64(s.y * 1000), 0, 0, 0, 0, 0, 0}, HeightMicros: int64(s.access * 1000), ErrorPercent: 12,
		}
		objects = append(objects, n, nl)
	}
	for p := range policies {
		name := fmt.Sprintf("app-%02d", p)
		objects = append(objects, policyOf(name, 10*time.Millisecond))
		for k := range 3 {
			objects = append(objects, podOf(name, k, spots[rng.IntN(len(spots))].name))
		}
	}
	return objects
}

func policyOf(name string, limit time.Duration) *v1alpha1.LatencyPolicy {
	return &v1alpha1.LatencyPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Generation: 1},
		Spec: v1alpha1.LatencyPolicySpec{
			Selector: metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			LatencySpec: v1alpha1.LatencySpec{Clients: []v1alpha1.ClientEntry{{Entry: v1alpha1.Entry{
				Nodes: &metav1.LabelSelector{MatchLabels: map[string]string{"entry": "true"}}, Limit: &metav1.Duration{Duration: limit},
			}}}},
		},
	}
}

func podOf(app string, k int, node string) *v1.Pod {
	name := fmt.Sprintf("%s-%d", app, k)
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Labels: map[string]string{"app": app}}}
	p.Spec.NodeName = node
	p.Spec.Containers = []v1.Container{{Name: "main", Image: "example.org/" + app, Resources: v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("200m"), v1.ResourceMemory: resource.MustParse("64Mi")},
	}}}
	p.Status.Phase = v1.PodRunning
	if node == "" {
		p.Status.Phase = v1.PodPending
	}
	return p
}

// hostile is a text that would do harm in a page that does not escape it.
const hostile = `"><script>alert(1)</script><img src=x onerror=alert(2)>'` + "`" + `</title></style><svg/onload=alert(3)>{{.}}`

// small is a cluster in which everything of the report occurs once: two zones and a gateway, measured, estimated and unknown pairs, a node
// without a prober, a broken limit and one that is kept, an annotation, an invalid one, a pending pod and names that are not ASCII.
func small() []runtime.Object {
	spots := []spot{
		{"gateway", "core", 0, 0, 0.2},
		{"nord-1", "nord", 6, 5, 0.5},
		{"nord-2", "nord", 7, 6, 0.6},
		{"nord-10", "nord", 6.5, 7, 0.4},
		{"süd-1", "süd", 8, -14, 0.5},
		{"süd-2", "süd", 9, -15, 0.7},
	}
	var objects []runtime.Object
	for _, s := range spots {
		labels := []string{v1.LabelTopologyZone + "=" + s.site}
		if s.name == "gateway" {
			labels = append(labels, "entry=true")
		}
		objects = append(objects, clitest.Node(s.name, labels...))
		if s.name == "süd-2" {
			continue // no prober
		}
		var peers []string
		for _, o := range spots {
			switch {
			case o.name == s.name || o.name == "süd-2" && !strings.HasPrefix(s.name, "nord"):
			case s.name == "nord-1" && o.name == "süd-1" || s.name == "süd-1" && o.name == "nord-1":
				// Nobody measured this pair; between the zones there is a median.
			case s.name == "nord-10" && o.name == "süd-1" || s.name == "süd-1" && o.name == "nord-10":
				peers = append(peers, o.name+"=lost")
			default:
				peers = append(peers, o.name+"="+s.rtt(o).String())
			}
		}
		objects = append(objects, clitest.Latency(s.name, peers...))
	}
	web := policyOf("web", 5*time.Millisecond)
	web.Status.ObservedGeneration = 1
	web.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionLimitsKept, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonKept}}
	cache := policyOf("cache", 30*time.Millisecond)
	cache.Spec.Dependencies = []v1alpha1.Entry{{Service: "web"}, {Service: "nowhere"}}
	annotated := podOf("board", 0, "nord-1")
	annotated.Annotations = map[string]string{
		v1alpha1.LatencyAnnotation:   `{"dependencies":[{"service":"web","limit":"40ms","routing":"Nearest"}]}`,
		v1alpha1.PlacementAnnotation: `{"node":"nord-1","entries":[{"provenance":"unknown"}]}`,
	}
	invalid := podOf("confused", 0, "nord-2")
	invalid.Annotations = map[string]string{v1alpha1.LatencyAnnotation: hostile}
	service := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: v1.ServiceSpec{Selector: map[string]string{"app": "web"}}}
	return append(objects, web, cache, annotated, invalid, service, podOf("web", 0, "süd-1"), podOf("web", 1, ""), podOf("cache", 0, "nord-10"), podOf("cache", 1, "gateway"))
}
