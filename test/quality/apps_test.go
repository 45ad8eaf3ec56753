// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

const (
	byFogschedTopological = "fogsched, callers first"
	byOracleInOrder       = "oracle, same order"

	gatewayCount = 10 // nodes that have the applications' clients
)

// application is services that call one another. The first is its client: it stands somewhere, and is not placed.
type application struct {
	name     string
	services []service
	trials   int
}

type service struct {
	name  string
	calls []int
}

// applications are what is placed. The second is Online Boutique without its cache: ten services and their client.
var applications = []*application{
	{name: "chain", trials: 150, services: []service{
		{"client", []int{1}}, {"a", []int{2}}, {"b", []int{3}}, {"c", nil},
	}},
	{name: "boutique", trials: 60, services: []service{
		{"client", []int{1}},
		{"frontend", []int{2, 3, 4, 5, 6, 7, 8}},
		{"ad", nil},
		{"recommendation", []int{4}},
		{"catalog", nil},
		{"cart", nil},
		{"shipping", nil},
		{"currency", nil},
		{"checkout", []int{4, 5, 6, 7, 9, 10}},
		{"payment", nil},
		{"email", nil},
	}},
}

func (a *application) service(k int) string { return a.name + "-" + a.services[k].name }

// pod returns a pod of a service, with the labels by which both LatencyPolicies and AppGroups know it.
func (a *application) pod(k int, profile, name string) *v1.Pod {
	pod := newPod(a.service(k)+"-"+name, profile, "")
	pod.Labels = map[string]string{"app": a.service(k), labelAppGroup: a.name, labelWorkload: a.service(k)}
	return pod
}

// applicationServices are the Services of the applications.
func applicationServices() []runtime.Object {
	var list []runtime.Object
	for _, a := range applications {
		for k := range a.services {
			list = append(list, &v1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: a.service(k)},
				Spec:       v1.ServiceSpec{Selector: map[string]string{"app": a.service(k)}},
			})
		}
	}
	return list
}

// applicationPolicies say of every service whom it calls, and of the first who its client is.
func applicationPolicies() []v1alpha1.LatencyPolicy {
	var list []v1alpha1.LatencyPolicy
	for _, a := range applications {
		for k := range a.services {
			if k == 0 {
				continue
			}
			p := v1alpha1.LatencyPolicy{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: namespace, Name: a.service(k), ResourceVersion: "1", UID: types.UID(a.service(k)), Generation: 1,
				},
				Spec: v1alpha1.LatencyPolicySpec{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"app": a.service(k)}}},
			}
			for _, callee := range a.services[k].calls {
				p.Spec.Dependencies = append(p.Spec.Dependencies, v1alpha1.Entry{Service: a.service(callee)})
			}
			if slices.Contains(a.services[0].calls, k) {
				p.Spec.Clients = append(p.Spec.Clients, v1alpha1.ClientEntry{Entry: v1alpha1.Entry{Service: a.service(0)}})
			}
			if len(p.Spec.Dependencies)+len(p.Spec.Clients) > 0 {
				list = append(list, p)
			}
		}
	}
	return list
}

// trial is one time that an application is placed: where its client is, which nodes have room for each service, and in which order the
// services are created. Each is placed before the next is there, and takes the node's last place.
type trial struct {
	client   int
	feasible [][]int // by service
	order    []int
}

// draw draws trials. The client is on one of the gateways. A fifth of the nodes has room for each service, not the same fifth for two.
func (a *application) draw(gateways []int, nodes, count int, rng *rand.Rand) []trial {
	list := make([]trial, count)
	for i := range list {
		t := trial{client: gateways[rng.IntN(len(gateways))], feasible: make([][]int, len(a.services))}
		for k := range a.services {
			t.feasible[k] = rng.Perm(nodes)[:max(nodes/5, len(a.services))]
			if k > 0 {
				t.order = append(t.order, k)
			}
		}
		rng.Shuffle(len(t.order), func(i, j int) { t.order[i], t.order[j] = t.order[j], t.order[i] })
		list[i] = t
	}
	return list
}

// topological returns the services, each behind all that call it.
func (a *application) topological() []int {
	var order []int
	done := map[int]bool{0: true}
	for len(order) < len(a.services)-1 {
		for k := 1; k < len(a.services); k++ {
			ready := !done[k]
			for caller := range a.services {
				ready = ready && (done[caller] || !slices.Contains(a.services[caller].calls, k))
			}
			if ready {
				order, done[k] = append(order, k), true
			}
		}
	}
	return order
}

// place places the services in an order and returns the node of each; -1 stands for one that is not placed yet.
func (a *application) place(t *trial, order []int, choose func(k int, placed, feasible []int) int) []int {
	placed := make([]int, len(a.services))
	for k := range placed {
		placed[k] = -1
	}
	placed[0] = t.client
	for _, k := range order {
		placed[k] = choose(k, placed, without(t.feasible[k], func(n int) bool { return slices.Contains(placed, n) }))
	}
	return placed
}

// greedy chooses the node of the least sum of the RTTs to what a service calls and is called by, as far as that is placed.
func (a *application) greedy(m matrix) func(k int, placed, feasible []int) int {
	return func(k int, placed, feasible []int) int {
		return nearest(feasible, func(n int) float64 {
			sum := 0.0
			for caller, s := range a.services {
				for _, callee := range s.calls {
					switch {
					case caller == k && placed[callee] >= 0:
						sum += orReverse(m[n][placed[callee]], m[placed[callee]][n])
					case callee == k && placed[caller] >= 0:
						sum += orReverse(m[placed[caller]][n], m[n][placed[caller]])
					}
				}
			}
			return sum
		})
	}
}

// judgeTrial adds the true RTT of an application: its mean over who calls whom, each service once.
func (c *rivals) judgeTrial(a *application, policy string, placed []int) {
	sum, count := 0.0, 0
	for caller, s := range a.services {
		for _, callee := range s.calls {
			from, to := placed[caller], placed[callee]
			if rtt := orReverse(c.in.truth[from][to], c.in.truth[to][from]); known(rtt) {
				sum += rtt
				count++
			}
		}
	}
	if count > 0 {
		c.add(a.name, policy, sum/float64(count))
	}
}

// placeReserving places an application by NodeLatency alone, each pod reserved before the next, and takes all back in the end.
func (b *bed) placeReserving(t *testing.T, a *application, tr *trial, order []int) []int {
	t.Helper()
	f := b.profiles[latencyOnly]
	taken := map[*v1.Pod]int{}
	reserve := func(pod *v1.Pod, state *framework.CycleState, n int) {
		if status := f.RunReservePluginsReserve(t.Context(), state, pod, nodeName(n)); !status.IsSuccess() {
			t.Fatalf("Reserve of %s: %v", pod.Name, status)
		}
		taken[pod] = n
	}
	defer func() {
		for pod, n := range taken {
			f.RunReservePluginsUnreserve(t.Context(), framework.NewCycleState(), pod, nodeName(n))
		}
	}()
	reserve(a.pod(0, latencyOnly, "reserved"), framework.NewCycleState(), tr.client)
	return a.place(tr, order, func(k int, _, feasible []int) int {
		pod, state := a.pod(k, latencyOnly, "reserved"), framework.NewCycleState()
		n := b.choose(t, latencyOnly, state, pod, feasible)
		reserve(pod, state, n)
		return n
	})
}

// waitForPolicies waits until NodeLatency knows of every service of every application whom it calls and who calls it: with all others
// placed, it does not find all nodes alike.
func (b *bed) waitForPolicies(t *testing.T) {
	t.Helper()
	f := b.profiles[latencyOnly]
	nodes := make([]int, len(b.nodes))
	for n := range nodes {
		nodes[n] = n
	}
	deadline := time.Now().Add(time.Minute)
	for _, a := range applications {
		for k := 1; k < len(a.services); k++ {
			for alike, shift := true, 0; alike; shift += len(a.services) { // of some nodes too little may be known
				on := func(i int) string { return nodeName((i + shift) % len(nodes)) }
				var pods []*v1.Pod
				for other := range a.services {
					if other != k {
						pods = append(pods, a.pod(other, latencyOnly, "waiting"))
					}
				}
				for i, pod := range pods {
					if status := f.RunReservePluginsReserve(t.Context(), framework.NewCycleState(), pod, on(i)); !status.IsSuccess() {
						t.Fatalf("Reserve of %s: %v", pod.Name, status)
					}
				}
				scores := b.scores(t, latencyOnly, framework.NewCycleState(), a.pod(k, latencyOnly, "new"), nodes)
				alike = !slices.ContainsFunc(scores, func(s fwk.NodePluginScores) bool { return s.TotalScore != scores[0].TotalScore })
				for i, pod := range pods {
					f.RunReservePluginsUnreserve(t.Context(), framework.NewCycleState(), pod, on(i))
				}
				if alike && time.Now().After(deadline) {
					t.Fatalf("after a minute all nodes are alike for %s", a.service(k))
				}
				if alike {
					time.Sleep(20 * time.Millisecond)
				}
			}
		}
	}
}

// TestApplications checks the cases themselves.
func TestApplications(t *testing.T) {
	for _, a := range applications {
		order := a.topological()
		for caller, s := range a.services {
			for _, callee := range s.calls {
				if caller > 0 && slices.Index(order, caller) > slices.Index(order, callee) {
					t.Errorf("%s: %s comes before %s, which calls it", a.name, a.service(callee), a.service(caller))
				}
			}
		}
		if len(order) != len(a.services)-1 {
			t.Errorf("%s: %d services in order, want %d", a.name, len(order), len(a.services)-1)
		}
	}
	chain := applications[0]
	m := matrix{{0.05, 1, 5, 9}, {1, 0.05, 1, 5}, {5, 1, 0.05, 1}, {9, 5, 1, 0.05}}
	tr := &trial{client: 0, feasible: [][]int{nil, {1, 2, 3}, {1, 2, 3}, {1, 2, 3}}}
	got := chain.place(tr, chain.topological(), chain.greedy(m))
	if want := []int{0, 1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("along a line of nodes a chain is on %v, want %v", got, want)
	}
	if n := len(applications[1].services) - 1; n != 10 {
		t.Errorf("%d services, want 10: %v", n, fmt.Sprint(applications[1].services))
	}
}
