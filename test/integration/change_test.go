// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/test/cluster"
)

// A rejected pod is scheduled within two seconds of whatever makes that possible.
func TestWakeUp(t *testing.T) {
	const (
		strict    = `,"whenUnsatisfiable":"DoNotSchedule"`
		reject    = `,"whenUnmeasured":"Reject"`
		callsDB   = `{"dependencies":[{"service":"db","limit":"20ms"}]` + strict
		nearestDB = `{"dependencies":[{"service":"db","limit":"20ms","routing":"Nearest"}]` + strict
	)
	covering := `{"clients":[{"nodes":` + entriesOf("a", "c") + `,"limit":"5ms"}]` + strict + `}`
	// database puts one behind the Service db.
	database := func(nodes ...string) func(*fixture) {
		return func(f *fixture) {
			f.service("db", set("app", "db"))
			for _, node := range nodes {
				f.wantPlace(node, "db-"+node, onNode(node), withLabels("app", "db"))
			}
		}
	}
	setService := func(f *fixture, patch string) {
		f.Helper()
		_, err := f.control.Client().CoreV1().Services(f.ns).Patch(f.Context(), "db", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			f.Fatal(err)
		}
	}
	setNode := func(f *fixture, name, patch string) {
		f.Helper()
		_, err := f.control.Client().CoreV1().Nodes().Patch(f.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			f.Fatal(err)
		}
	}
	near := func(string, string) (time.Duration, bool) { return 15 * time.Millisecond, true }
	newNode := func(f *fixture) {
		f.Helper()
		f.at["e-0"] = 0
		f.Cleanup(func() {
			_ = f.control.Client().CoreV1().Nodes().Delete(context.Background(), "e-0", metav1.DeleteOptions{})
			_ = f.client.NodeLatencies().Delete(context.Background(), "e-0", metav1.DeleteOptions{})
		})
		if err := f.control.AddNodes(f.Context(), cluster.Node{Name: "e-0", Labels: set("site", "e")}); err != nil {
			f.Fatal(err)
		}
	}

	for _, tc := range []struct {
		name   string
		setUp  func(*fixture)
		web    []podOption // with the label app=web
		change func(*fixture)
		want   string
	}{
		{
			"a measurement that is better than the last one", database("a-0"),
			[]podOption{onSite("c"), withLatency(callsDB + "}")},
			func(f *fixture) { f.closer("c-1", "a-0") }, "c-1",
		},
		{
			"the first measurement of a pair",
			func(f *fixture) {
				database("a-0")(f)
				f.publish(unmeasured)
			},
			[]podOption{onSite("b"), withLatency(callsDB + reject + "}")},
			func(f *fixture) { f.report("b-1", onLine(f.at)) }, "b-1",
		},
		{
			"the first measurement of a pair from its other end",
			func(f *fixture) {
				database("a-0")(f)
				f.publish(unmeasured)
			},
			[]podOption{onNodes("b-1"), withLatency(callsDB + reject + "}")},
			func(f *fixture) { f.report("a-0", onLine(f.at)) }, "b-1",
		},
		{
			"a higher limit in the LatencyPolicy",
			func(f *fixture) {
				database("a-0")(f)
				f.policy("web", `{"selector":{"matchLabels":{"app":"web"}},"dependencies":[{"service":"db","limit":"20ms"}]`+strict+`}`)
			},
			[]podOption{onSite("c")},
			func(f *fixture) {
				f.setPolicy("web", `{"selector":{"matchLabels":{"app":"web"}},"dependencies":[{"service":"db","limit":"31.2ms"}]`+strict+`}`)
			}, "c-0",
		},
		{
			"the LatencyPolicy's end",
			func(f *fixture) {
				database("a-0")(f)
				f.policy("web", `{"selector":{"matchLabels":{"app":"web"}},"dependencies":[{"service":"db","limit":"20ms"}]`+strict+`}`)
			},
			[]podOption{onNodes("c-1")},
			func(f *fixture) {
				if err := f.client.LatencyPolicies(f.ns).Delete(f.Context(), "web", metav1.DeleteOptions{}); err != nil {
					f.Fatal(err)
				}
			}, "c-1",
		},
		{
			"another annotation on the pod itself", database("a-0"),
			[]podOption{onSite("c"), withLatency(callsDB + "}")},
			func(f *fixture) {
				f.patch("web", `{"metadata":{"annotations":{"`+v1alpha1.LatencyAnnotation+`":"{\"dependencies\":[{\"service\":\"db\"}]}"}}}`)
			}, "c-0",
		},
		{
			"other labels on the pod itself",
			func(f *fixture) {
				database("a-0")(f)
				f.policy("web", `{"selector":{"matchLabels":{"app":"web"}},"dependencies":[{"service":"db","limit":"20ms"}]`+strict+`}`)
			},
			[]podOption{onNodes("c-1")},
			func(f *fixture) { f.patch("web", `{"metadata":{"labels":{"app":"free"}}}`) }, "c-1",
		},
		{
			"a new target pod nearby", database("a-0"),
			[]podOption{onNodes("c-1"), withLatency(nearestDB + "}")},
			func(f *fixture) { f.create("near", onNode("c-0"), withLabels("app", "db")) }, "c-1",
		},
		{
			"a new target pod nearby that the stock scheduler places", database("a-0"),
			[]podOption{onNodes("c-1"), withLatency(nearestDB + "}")},
			func(f *fixture) { f.create("near", onNode("c-0"), withLabels("app", "db"), by(stock)) }, "c-1",
		},
		{
			"the end of a target pod far away", database("a-0", "d-0"),
			[]podOption{onNodes("b-1"), withLatency(callsDB + "}")},
			func(f *fixture) { f.remove("db-d-0") }, "b-1",
		},
		{
			"a label that makes a pod nearby a target", func(f *fixture) {
				database("a-0")(f)
				f.wantPlace("c-0", "near", onNode("c-0"))
			},
			[]podOption{onNodes("c-1"), withLatency(nearestDB + "}")},
			func(f *fixture) { f.patch("near", `{"metadata":{"labels":{"app":"db"}}}`) }, "c-1",
		},
		{
			"a Service that leads elsewhere", func(f *fixture) {
				database("a-0")(f)
				f.wantPlace("c-0", "near", onNode("c-0"))
			},
			[]podOption{onNodes("c-1"), withLatency(callsDB + "}")},
			func(f *fixture) { setService(f, `{"spec":{"selector":{"app":"near"}}}`) }, "c-1",
		},
		{
			"a Service whose callers keep to near endpoints from now on", database("a-0", "d-0"),
			[]podOption{onNodes("b-1"), withLatency(callsDB + "}")},
			func(f *fixture) { setService(f, `{"spec":{"trafficDistribution":"PreferSameZone"}}`) }, "b-1",
		},
		{
			"a label that makes a node nearby a target",
			func(f *fixture) {
				setNode(f, "a-0", `{"metadata":{"labels":{"gateway":"yes"}}}`)
				f.Cleanup(func() {
					for _, name := range []string{"a-0", "c-0"} {
						_, _ = f.control.Client().CoreV1().Nodes().Patch(context.Background(), name, types.MergePatchType,
							[]byte(`{"metadata":{"labels":{"gateway":null}}}`), metav1.PatchOptions{})
					}
				})
				f.place("settled", onNodes("a-0"), withLatency(`{"dependencies":[{"nodes":{"matchLabels":{"gateway":"yes"}},"limit":"1ms"}]`+strict+`}`))
			},
			[]podOption{onNodes("c-1"), withLatency(`{"dependencies":[{"nodes":{"matchLabels":{"gateway":"yes"}},"limit":"20ms","routing":"Nearest"}]` + strict + `}`)},
			func(f *fixture) { setNode(f, "c-0", `{"metadata":{"labels":{"gateway":"yes"}}}`) }, "c-1",
		},
		{
			"a label that opens a node nearby to the pod", database("a-0"),
			[]podOption{in("test.fogsched.dev/open", "yes", "always"), withLatency(callsDB + "}"), func(p *corev1.Pod) {
				p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms = append(
					p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, corev1.NodeSelectorTerm{
						MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "site", Operator: corev1.NodeSelectorOpIn, Values: []string{"d"}}},
					})
			}},
			func(f *fixture) {
				setNode(f, "b-1", `{"metadata":{"labels":{"test.fogsched.dev/open":"yes"}}}`)
				f.Cleanup(func() {
					_, _ = f.control.Client().CoreV1().Nodes().Patch(context.Background(), "b-1", types.MergePatchType,
						[]byte(`{"metadata":{"labels":{"test.fogsched.dev/open":null}}}`), metav1.PatchOptions{})
				})
			}, "b-1",
		},
		// No other plugin rejects a node in these, so that none but ours can see that a new one helps.
		{
			"a new node that was measured before it came", database("a-0", "d-0"),
			[]podOption{withLatency(callsDB + reject + "}")},
			func(f *fixture) {
				f.at["e-0"] = 0
				f.report("e-0", near)
				newNode(f)
			}, "e-0",
		},
		{
			"the measurement of a new node", database("a-0", "d-0"),
			[]podOption{withLatency(callsDB + reject + "}")},
			func(f *fixture) {
				newNode(f)
				f.eventually("the new node in the snapshot", func() (bool, string) {
					pairs := f.metric("fogsched_store_pairs")
					n := len(allNodes()) + 1
					return pairs == float64(n*(n-1)/2), fmt.Sprint(pairs)
				})
				f.report("e-0", near)
			}, "e-0",
		},
		{
			"a new node of which nothing is known, where that is allowed", database("a-0", "d-0"),
			[]podOption{withLatency(callsDB + "}")},
			newNode, "e-0",
		},
		{
			"a peer that covers the last client", func(f *fixture) {
				f.wantPlace("a-0", "web-a", onNode("a-0"), withLabels("app", "web"), withLatency(covering))
			},
			[]podOption{onNodes("b-1"), withLatency(covering)},
			func(f *fixture) { f.create("web-c", onNode("c-0"), withLabels("app", "web"), withLatency(covering)) }, "b-1",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			tc.setUp(f)
			f.create("web", tc.web...)
			f.wantAll("the message", f.unschedulable("web"), "latency limit")
			start := time.Now()
			tc.change(f)
			written := time.Now()
			f.within(wakeTime, "the pod to be scheduled", func() (bool, string) {
				p := f.pod("web")
				return p.Spec.NodeName != "", fmt.Sprint(p.Status.Conditions)
			})
			t.Logf("scheduled %s after the change was begun, which took %s", time.Since(start).Round(time.Millisecond), written.Sub(start).Round(time.Millisecond))
			f.wantNode("web", f.node("web"), tc.want)
		})
	}
}

func TestServiceRetargeted(t *testing.T) {
	f := newFixture(t)
	f.service("db", set("app", "old"))
	f.wantPlace("a-1", "old", onNode("a-1"))
	f.wantPlace("d-1", "new", onNode("d-1"))
	f.policy("web", `{"selector":{"matchLabels":{"tier":"web"}},"dependencies":[{"service":"db"}]}`)
	f.wantPlace("a-1", "before", withLabels("tier", "web"))

	_, err := f.control.Client().CoreV1().Services(f.ns).Patch(f.Context(), "db", types.MergePatchType,
		[]byte(`{"spec":{"selector":{"app":"new"}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// From a-1 to d-1, where the Service leads now.
	f.status("web", "to see where the Service leads now", func(p *v1alpha1.LatencyPolicy) bool {
		return p.Status.Typical != nil && p.Status.Typical.Duration == 81*time.Millisecond
	})
	f.wantPlace("d-1", "after", withLabels("tier", "web"))
	f.wantPlace("d-1", "after-2", withLabels("tier", "web"))
	// And the other way round: the callers draw whom the Service selects now, and no longer whom it selected.
	f.wantPlace("d-1", "new-2", withLabels("app", "new"), onNodes("a-0", "b-0", "d-1"))

	if err := f.control.Client().CoreV1().Services(f.ns).Delete(f.Context(), "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.status("web", "to see that the Service is gone", func(p *v1alpha1.LatencyPolicy) bool {
		return p.Status.Typical == nil && len(p.Status.Entries) == 1 && p.Status.Entries[0].TargetNodes == 0
	})
	f.wantPlace("b-2", "without", withLabels("tier", "web"), preferring("b-2"))
}

func TestServiceAfterThePods(t *testing.T) {
	f := newFixture(t)
	f.wantPlace("c-1", "db", onNode("c-1"))
	f.policy("web", `{"selector":{"matchLabels":{"tier":"web"}},"dependencies":[{"service":"db"}]}`)
	f.wantPlace("a-2", "before", withLabels("tier", "web"), preferring("a-2")) // there is nothing to be near to
	f.service("db", set("app", "db"))
	f.status("web", "to see the Service", func(p *v1alpha1.LatencyPolicy) bool { return p.Status.Typical != nil })
	f.wantPlace("c-1", "after", withLabels("tier", "web"))
	f.wantPlace("a-2", "db-2", withLabels("app", "db"), onSite("a", "b")) // the callers are on a-2 and c-1
}

// Pods keep coming while the policy that governs them changes every moment, and then goes.
func TestPolicyChangesUnderLoad(t *testing.T) {
	f := newFixture(t)
	panics := f.metric("fogsched_plugin_panics_recovered_total")
	near := func(node string, more string) string {
		return `{"selector":{"matchLabels":{"tier":"web"}},"dependencies":[{"nodes":` + nodesNamed(node) + more + `}]}`
	}
	f.policy("web", near("a-1", ""))

	ctx, stop := context.WithCancel(f.Context())
	defer stop()
	var loaders sync.WaitGroup
	var created atomic.Int64
	for range 2 {
		loaders.Go(func() {
			for ctx.Err() == nil {
				name := fmt.Sprintf("load-%d", created.Add(1))
				pod := podTemplate(name, withLabels("tier", "web", "app", "load"), onSite("a", "d"))
				if _, err := f.control.Client().CoreV1().Pods(f.ns).Create(f.Context(), pod, metav1.CreateOptions{}); err != nil {
					t.Errorf("creating pod %s: %v", name, err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(75 * time.Millisecond): // a node takes 110 pods
				}
			}
		})
	}
	// Nodes at both ends of the line, with and without a limit, that the one or the other pod cannot keep.
	flips := []string{
		near("d-1", ""), near("a-1", `,"limit":"10ms"`), near("d-1", `,"limit":"1us"`), near("a-1", `,"routing":"Nearest"`),
	}
	for i := range 16 {
		f.setPolicy("web", flips[i%len(flips)])
	}
	f.followed("web", f.setPolicy("web", near("d-2", "")))
	f.wantPlace("d-2", "after-change", withLabels("tier", "web"))
	f.followed("web", f.setPolicy("web", near("a-2", `,"limit":"1ms"`)))
	f.wantPlace("a-2", "after-another", withLabels("tier", "web"))

	if err := f.client.LatencyPolicies(f.ns).Delete(f.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// Nothing tells when the scheduler has seen that, but that its pods are placed as if there were none.
	f.eventually("the policy to be out of use", func() (bool, string) {
		node := f.place(fmt.Sprintf("free-%d", len(f.pods())), withLabels("tier", "web"), preferring("c-1"))
		return node == "c-1", node
	})
	stop()
	loaders.Wait()

	n := int(created.Load())
	f.eventually("every pod to be placed", func() (bool, string) {
		nodes := f.nodesOf("app", "load")
		return len(nodes) == n && nodes[0] != "", fmt.Sprintf("%d pods of %d, the first on %q", len(nodes), n, nodes[0])
	})
	t.Logf("%d pods", n)
	if now := f.metric("fogsched_plugin_panics_recovered_total"); now != panics {
		t.Errorf("%.0f panics were recovered", now-panics)
	}
	select {
	case <-f.scheduler.Done():
		t.Error("the scheduler has ended")
	default:
	}
}
