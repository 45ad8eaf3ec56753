// SPDX-License-Identifier: Apache-2.0

//go:build perf

package perf

import (
	"fmt"
	"math/rand/v2"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// The application and the cluster of NetworkOverhead's own benchmarks: Online Boutique, whose frontend comes to ten placed pods and depends on
// seven of them, on nodes in 5 regions with 10 zones. Two things of theirs are mended, or the plugin would not do what it is for: the zones'
// costs stand under the key of zones, and the objects have a UID, without which it does not find them. The zones of two regions have two
// names, so that the tables of both plugins can mean the same.
const (
	boutique = "onlineboutique"
	frontend = "p1"

	labelAppGroup = "appgroup.diktyo.x-k8s.io"
	labelWorkload = labelAppGroup + ".workload"

	regions        = 5
	zonesPerRegion = 10

	// RTTs in ms, which are NetworkOverhead's costs: it has 1 for one zone built in.
	costOfRegions = 50
	costOfZones   = 10
	costInZone    = 1
)

// boutiqueNodes has the number of the node that each of the placed pods p1 … p10 is on.
var boutiqueNodes = [10]int{2, 5, 1, 9, 5, 1, 2, 5, 1, 2}

// frontendCalls is what p1 depends on.
var frontendCalls = []string{"p2", "p3", "p4", "p6", "p8", "p9", "p10"}

func regionName(r int) string  { return fmt.Sprintf("R%d", r+1) }
func zoneName(r, z int) string { return fmt.Sprintf("R%d-Z%d", r+1, z+1) }
func boutiqueNode(n int) string {
	return fmt.Sprintf("n-%d", n)
}

// newBoutiqueNodes returns nodes n-1 … n-count in regions and zones that are drawn for each of them.
func newBoutiqueNodes(count int) []*v1.Node {
	rng := rand.New(rand.NewPCG(1, 1))
	capacity := v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("8"), v1.ResourceMemory: resource.MustParse("16Gi"), v1.ResourcePods: resource.MustParse("110"),
	}
	nodes := make([]*v1.Node, count)
	for i := range nodes {
		r, z := rng.IntN(regions), rng.IntN(zonesPerRegion)
		nodes[i] = &v1.Node{
			ObjectMeta: metav1.ObjectMeta{
				Name:   boutiqueNode(i + 1),
				Labels: map[string]string{v1.LabelTopologyRegion: regionName(r), v1.LabelTopologyZone: zoneName(r, z)},
			},
			Status: v1.NodeStatus{Capacity: capacity, Allocatable: capacity},
		}
	}
	return nodes
}

// newBoutiquePods returns the placed pods.
func newBoutiquePods() []*v1.Pod {
	var pods []*v1.Pod
	for i, n := range boutiqueNodes {
		pod := newBoutiquePod(fmt.Sprintf("p%d", i+1))
		pod.Spec.NodeName = boutiqueNode(n)
		pods = append(pods, pod)
	}
	return pods
}

func newBoutiquePod(workload string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: workload, UID: types.UID(workload),
			Labels: map[string]string{labelAppGroup: boutique, labelWorkload: workload},
		},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: workload}}},
	}
}

// newFrontend returns the pod to place, which says to each plugin in its own way what it calls. With limit, in ms, it must stand within that of
// all of it.
func newFrontend(limit int) *v1.Pod {
	var calls []string
	for _, w := range frontendCalls {
		call := fmt.Sprintf(`{"pods":{"selector":{"matchLabels":{%q:%q,%q:%q}}}`, labelAppGroup, boutique, labelWorkload, w)
		if limit > 0 {
			call += fmt.Sprintf(`,"limit":"%dms"`, limit)
		}
		calls = append(calls, call+"}")
	}
	text := `{"dependencies":[` + strings.Join(calls, ",") + `]`
	if limit > 0 {
		text += `,"whenUnsatisfiable":"DoNotSchedule"`
	}
	pod := newBoutiquePod(frontend)
	pod.Name, pod.UID = "new", "new"
	pod.Annotations = map[string]string{v1alpha1.LatencyAnnotation: text + "}"}
	return pod
}

// zoneTable returns NodeLatency's zonesFile.
func zoneTable() string {
	var b strings.Builder
	fmt.Fprintf(&b, "within: {zone: %dms}\npairs:\n", costInZone)
	for r := range regions {
		for other := range r {
			fmt.Fprintf(&b, "- {between: [%s, %s], typical: %dms}\n", regionName(other), regionName(r), costOfRegions)
		}
		for z := range zonesPerRegion {
			for other := range z {
				fmt.Fprintf(&b, "- {between: [%s, %s], typical: %dms}\n", zoneName(r, other), zoneName(r, z), costOfZones)
			}
		}
	}
	return b.String()
}

type (
	costInfo struct {
		Destination string `json:"destination"`
		NetworkCost int    `json:"networkCost"`
	}
	originInfo struct {
		Origin   string     `json:"origin"`
		CostList []costInfo `json:"costList"`
	}
)

// networkTopology returns the NetworkTopology that means the same.
func networkTopology() map[string]any {
	var regionCosts, zoneCosts []originInfo
	for r := range regions {
		origin := originInfo{Origin: regionName(r)}
		for other := range regions {
			if other != r {
				origin.CostList = append(origin.CostList, costInfo{regionName(other), costOfRegions})
			}
		}
		regionCosts = append(regionCosts, origin)
		for z := range zonesPerRegion {
			origin := originInfo{Origin: zoneName(r, z)}
			for other := range zonesPerRegion {
				if other != z {
					origin.CostList = append(origin.CostList, costInfo{zoneName(r, other), costOfZones})
				}
			}
			zoneCosts = append(zoneCosts, origin)
		}
	}
	return map[string]any{
		"apiVersion": "networktopology.diktyo.x-k8s.io/v1alpha1", "kind": "NetworkTopology",
		"metadata": map[string]any{"namespace": metav1.NamespaceDefault, "name": "costs", "uid": "costs", "resourceVersion": "1"},
		"spec": map[string]any{
			"configmapName": "",
			"weights": []any{map[string]any{"name": "UserDefined", "topologyList": []any{
				map[string]any{"topologyKey": v1.LabelTopologyRegion, "originList": regionCosts},
				map[string]any{"topologyKey": v1.LabelTopologyZone, "originList": zoneCosts},
			}}},
		},
	}
}

// boutiqueCalls is who calls whom in Online Boutique.
var boutiqueCalls = [][]string{
	frontendCalls, {"p11"}, nil, nil, nil, nil, nil, {"p2", "p3", "p4", "p5", "p6", "p7"}, {"p3"}, nil, nil,
}

// appGroup returns the AppGroup. A maxNetworkCost of 0 is what the plugin's own benchmarks have.
func appGroup(maxNetworkCost int) map[string]any {
	workload := func(name string) map[string]any {
		return map[string]any{"kind": "Deployment", "name": name, "selector": name, "apiVersion": "apps/v1", "namespace": metav1.NamespaceDefault}
	}
	var workloads []any
	for i, calls := range boutiqueCalls {
		w := map[string]any{"workload": workload(fmt.Sprintf("p%d", i+1))}
		var dependencies []any
		for _, name := range calls {
			dependencies = append(dependencies, map[string]any{"workload": workload(name), "maxNetworkCost": maxNetworkCost})
		}
		if len(dependencies) > 0 {
			w["dependencies"] = dependencies
		}
		workloads = append(workloads, w)
	}
	return map[string]any{
		"apiVersion": "appgroup.diktyo.x-k8s.io/v1alpha1", "kind": "AppGroup",
		"metadata": map[string]any{"namespace": metav1.NamespaceDefault, "name": boutique, "uid": boutique, "resourceVersion": "1"},
		"spec":     map[string]any{"numMembers": len(workloads), "topologySortingAlgorithm": "KahnSort", "workloads": workloads},
	}
}
