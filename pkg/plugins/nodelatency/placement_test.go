// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
)

// line has four nodes, and one of which nobody has measured anything.
func line() map[string]float64 {
	return map[string]float64{"a": 0, "b": 10, "c": 30, "d": 100, "dark": math.NaN()}
}

func TestScheduling(t *testing.T) {
	const onRedis = `{"dependencies":[{"service":"redis"}]}`
	limited := func(limit, more string) string {
		return fmt.Sprintf(`{"dependencies":[{"service":"redis","limit":%q}]%s}`, limit, more)
	}
	const hard, reject = `,"whenUnsatisfiable":"DoNotSchedule"`, `,"whenUnmeasured":"Reject"`
	redisOn := func(nodes ...string) func(*fixture) {
		return func(f *fixture) {
			f.plugin.engine.index.SetService(makeService("redis", "redis"))
			f.place("redis", nodes...)
		}
	}
	web := func(annotation string) *v1.Pod { return makePod("web").app("web").annotation(annotation).obj() }
	exceeded := func(nodes ...string) map[string]string {
		m := map[string]string{}
		for _, n := range nodes {
			m[n] = ReasonExceeded
		}
		return m
	}

	tests := map[string]struct {
		given        func(f *fixture)
		pod          *v1.Pod
		nodes        []string
		wantOrder    string // "": the plugin has nothing to say
		wantRejected map[string]string
		wantMessage  string
	}{
		"a pod without an intent": {
			given: redisOn("a"), pod: makePod("web").app("web").obj(),
		},
		"a dependency on one server draws to it": {
			given: redisOn("c"), pod: web(onRedis), wantOrder: "c b dark a d",
		},
		"a dependency without pods says nothing": {
			given: redisOn(), pod: web(onRedis),
		},
		"a dependency on a Service that does not exist says nothing": {
			given: func(*fixture) {}, pod: web(limited("1ms", hard+reject)),
		},
		"a dependency on several, evenly": {
			given: redisOn("a", "d", "d"), pod: web(onRedis), nodes: []string{"a", "b", "c", "d"}, wantOrder: "d c b a",
		},
		"a dependency on the nearest of several": {
			given: redisOn("a", "d", "d"), pod: web(`{"dependencies":[{"service":"redis","routing":"Nearest"}]}`),
			nodes: []string{"a", "b", "c", "d"}, wantOrder: "a=d b c",
		},
		"the Service says that callers keep to the nearest": {
			given: func(f *fixture) {
				redisOn("a", "d", "d")(f)
				svc := makeService("redis", "redis")
				near := "PreferClose"
				svc.Spec.TrafficDistribution = &near
				f.plugin.engine.index.SetService(svc)
			},
			pod: web(onRedis), nodes: []string{"a", "b", "c", "d"}, wantOrder: "a=d b c",
		},
		"the pod's own word stands above the Service's": {
			given: func(f *fixture) {
				redisOn("a", "d", "d")(f)
				svc := makeService("redis", "redis")
				near := "PreferClose"
				svc.Spec.TrafficDistribution = &near
				f.plugin.engine.index.SetService(svc)
			},
			pod:   web(`{"dependencies":[{"service":"redis","routing":"Any"}]}`),
			nodes: []string{"a", "b", "c", "d"}, wantOrder: "d c b a",
		},
		"the Service was retargeted": {
			given: func(f *fixture) {
				redisOn("a")(f)
				f.place("valkey", "d")
				f.schedule(web(onRedis))
				f.plugin.engine.index.SetService(makeService("redis", "valkey"))
			},
			pod: web(onRedis), nodes: []string{"a", "b", "c", "d"}, wantOrder: "d a=b=c",
		},
		"two revisions of a server on one node count twice": {
			given: func(f *fixture) {
				redisOn("d")(f)
				f.plugin.engine.setPod(makePod("old").app("redis").revision("redis", "1").node("a").obj())
				f.plugin.engine.setPod(makePod("new").app("redis").revision("redis", "2").node("a").obj())
			},
			pod: web(onRedis), nodes: []string{"a", "b", "c", "d"}, wantOrder: "a b c d",
		},
		"clients at nodes, no replica yet": {
			given: func(*fixture) {},
			pod:   web(`{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","b"]}]}}]}`),
			nodes: []string{"a", "b", "c", "d"}, wantOrder: "a=b c d",
		},
		"clients at nodes, one served by a replica already: the other one draws": {
			given: func(f *fixture) {
				f.plugin.engine.setPod(makePod("first").app("web").annotation(`{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","d"]}]}}]}`).node("a").obj())
			},
			pod:   makePod("second").app("web").annotation(`{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","d"]}]}}]}`).obj(),
			nodes: []string{"a", "b", "c", "d"}, wantOrder: "d c a=b",
		},
		"a policy does what an annotation does": {
			given: func(f *fixture) {
				redisOn("c")(f)
				f.policy("web", "web", onRedis)
			},
			pod: makePod("web").app("web").obj(), wantOrder: "c b dark a d",
		},
		"an annotation stands in the place of a policy": {
			given: func(f *fixture) {
				redisOn("c")(f)
				f.policy("web", "web", onRedis)
			},
			pod: web(`{"dependencies":[{"nodes":{"matchLabels":{"name":"d"}}}]}`), nodes: []string{"a", "b", "c", "d"}, wantOrder: "d a=b=c",
		},
		"two policies add up by weight": {
			given: func(f *fixture) {
				redisOn("a")(f)
				f.policy("near", "web", `{"dependencies":[{"service":"redis","weight":1}]}`)
				f.policy("far", "web", `{"dependencies":[{"nodes":{"matchLabels":{"name":"d"}},"weight":3}]}`)
			},
			pod: makePod("web").app("web").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "d c b a",
		},
		"a policy that was deleted does nothing": {
			given: func(f *fixture) {
				redisOn("c")(f)
				f.policy("web", "web", onRedis)
				f.schedule(makePod("web").app("web").obj())
				f.plugin.engine.catalog.deletePolicy(nn("default", "web"))
			},
			pod: makePod("web").app("web").obj(),
		},
		"a pod that others depend on is drawn to its placed callers": {
			given: func(f *fixture) {
				redisOn()(f)
				f.policy("web", "web", onRedis)
				f.place("web", "c", "c")
			},
			pod: makePod("redis").app("redis").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "c b a d",
		},
		"callers that wrote an annotation draw as well": {
			given: func(f *fixture) {
				redisOn()(f)
				f.plugin.engine.setPod(makePod("web").app("web").annotation(onRedis).node("d").obj())
			},
			pod: makePod("redis").app("redis").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "d a=b=c",
		},
		"the callers' limit draws and does not exclude": {
			given: func(f *fixture) {
				redisOn()(f)
				f.policy("web", "web", limited("1ms", hard))
				f.place("web", "c")
			},
			pod: makePod("redis").app("redis").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "c b a d",
		},
		"no caller is placed yet: the caller's clients stand in for it": {
			given: func(f *fixture) {
				redisOn()(f)
				f.policy("web", "web", `{"dependencies":[{"service":"redis","limit":"5ms"}],"clients":[{"nodes":{"matchLabels":{"name":"d"}}}],"whenUnsatisfiable":"DoNotSchedule"}`)
			},
			pod: makePod("redis").app("redis").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "d a=b=c",
		},
		"of a chain the last is created first: the clients of the first stand in for all between": {
			given: func(f *fixture) {
				redisOn()(f)
				f.plugin.engine.index.SetService(makeService("cart", "cart"))
				f.plugin.engine.index.SetService(makeService("web", "web"))
				f.policy("cart", "cart", onRedis)
				f.policy("web", "web", `{"dependencies":[{"service":"cart"}]}`)
				// The caller of web has no policy but an annotation, and waits to be placed.
				f.plugin.engine.setPod(makePod("edge").app("edge").annotation(`{"dependencies":[{"service":"web"}],"clients":[{"nodes":{"matchLabels":{"name":"d"}}}]}`).obj())
			},
			pod: makePod("redis").app("redis").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "d a=b=c",
		},
		"the caller's caller is placed: it stands in for the caller": {
			given: func(f *fixture) {
				redisOn()(f)
				f.plugin.engine.index.SetService(makeService("cart", "cart"))
				f.policy("cart", "cart", onRedis)
				f.policy("web", "web", `{"dependencies":[{"service":"cart"}],"clients":[{"nodes":{"matchLabels":{"name":"d"}}}]}`)
				f.place("web", "a")
			},
			pod: makePod("redis").app("redis").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "a b c d",
		},
		"services that call each other and are not placed": {
			given: func(f *fixture) {
				redisOn()(f)
				f.plugin.engine.index.SetService(makeService("cart", "cart"))
				f.plugin.engine.index.SetService(makeService("web", "web"))
				f.policy("cart", "cart", `{"dependencies":[{"service":"redis"},{"service":"web"}]}`)
				f.policy("web", "web", `{"dependencies":[{"service":"cart"}],"clients":[{"nodes":{"matchLabels":{"name":"d"}}}]}`)
			},
			pod: makePod("redis").app("redis").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "d a=b=c",
		},
		"neither callers nor their clients are there": {
			given: func(f *fixture) {
				redisOn()(f)
				f.policy("web", "web", onRedis)
			},
			pod: makePod("redis").app("redis").obj(),
		},
		"a placed caller stands above its clients": {
			given: func(f *fixture) {
				redisOn()(f)
				f.policy("web", "web", `{"dependencies":[{"service":"redis"}],"clients":[{"nodes":{"matchLabels":{"name":"d"}}}]}`)
				f.place("web", "a")
			},
			pod: makePod("redis").app("redis").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "a b c d",
		},
		"pods of the revision that is being replaced are no peers": {
			given: func(f *fixture) {
				f.policy("web", "web", `{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","b"]}]}}]}`)
				f.plugin.engine.setPod(makePod("old").app("web").revision("web", "1").node("a").obj())
			},
			pod: makePod("new").app("web").revision("web", "2").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "a=b c d",
		},
		"pods of the same revision are": {
			given: func(f *fixture) {
				f.policy("web", "web", `{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","b"]}]}}]}`)
				f.plugin.engine.setPod(makePod("old").app("web").revision("web", "2").node("a").obj())
			},
			pod: makePod("new").app("web").revision("web", "2").obj(), nodes: []string{"a", "b", "c", "d"}, wantOrder: "b a=c=d",
		},
		"nothing is measured: the plugin has nothing to say": {
			given: func(f *fixture) {
				redisOn("c")(f)
				for n := range f.at {
					f.at[n] = math.NaN()
				}
				f.measure()
			},
			pod: web(onRedis), nodes: []string{"a", "b", "dark"},
		},
		"nothing is measured of the candidates that are left": {
			given: redisOn("c"), pod: web(onRedis), nodes: []string{"dark"},
		},
		"a node that the snapshot does not know is neutral": {
			given: redisOn("c"), pod: web(onRedis), nodes: []string{"a", "b", "c", "new"}, wantOrder: "c b=new a",
		},
		"ScheduleAnyway: a node that breaks the limit ranks behind all that keep it": {
			// By the mean, c is better than a; but c is too far from d.
			given: redisOn("b", "b", "b", "d"), pod: web(limited("95ms", "")), nodes: []string{"a", "b", "c"}, wantOrder: "b c a",
		},
		"ScheduleAnyway: the breakers keep their order": {
			given: redisOn("a"), pod: web(limited("5ms", "")), nodes: []string{"a", "b", "c", "d"}, wantOrder: "a b c d",
		},
		"ScheduleAnyway: all break it, and nothing changes": {
			given: redisOn("a"), pod: web(limited("5ms", "")), nodes: []string{"b", "c", "d"}, wantOrder: "b c d",
		},
		"ScheduleAnyway and Reject: an unmeasured node ranks behind": {
			given: redisOn("a"), pod: web(limited("50ms", reject)), nodes: []string{"a", "b", "c", "dark"}, wantOrder: "a b c dark",
		},
		"DoNotSchedule: Any looks at the largest": {
			given: redisOn("a", "c"), pod: web(limited("30.5ms", hard)),
			wantOrder: "b=dark", wantRejected: exceeded("a", "c", "d"),
		},
		"DoNotSchedule: Nearest looks at the smallest": {
			given: redisOn("a", "c"), pod: web(`{"dependencies":[{"service":"redis","limit":"30.5ms","routing":"Nearest"}]` + hard + `}`),
			nodes: []string{"a", "b", "c", "d"}, wantOrder: "a=c b", wantRejected: exceeded("d"),
		},
		"DoNotSchedule and Allow: an unmeasured node stays": {
			given: redisOn("a"), pod: web(limited("5ms", hard)), wantOrder: "a=dark", wantRejected: exceeded("b", "c", "d"),
		},
		"DoNotSchedule and Reject: an unmeasured node goes": {
			given: redisOn("a"), pod: web(limited("15ms", hard+reject)), wantOrder: "a b",
			wantRejected: map[string]string{"c": ReasonExceeded, "d": ReasonExceeded, "dark": ReasonUnmeasured},
		},
		"DoNotSchedule and Reject: a node that the snapshot does not know goes": {
			given: redisOn("a"), pod: web(limited("15ms", hard+reject)), nodes: []string{"a", "new"}, wantOrder: "a",
			wantRejected: map[string]string{"new": ReasonUnmeasured},
		},
		"the tail decides where it is asked for": {
			given: redisOn("a"), pod: web(limited("15ms", `,"statistic":"Tail"`+hard)), nodes: []string{"a", "b"},
			wantOrder: "a", wantRejected: exceeded("b"),
		},
		"no node keeps the limit: the message names it, and the best": {
			given: redisOn("a"), pod: web(limited("5ms", hard)), nodes: []string{"c", "b", "d"},
			wantRejected: exceeded("b", "c", "d"),
			wantMessage:  "latency limit 5ms to service redis (dependencies[0] of annotation fogsched.dev/latency): the nearest of them is b with 11ms to a (measured)",
		},
		"no node at all keeps the limit": {
			given: redisOn("a", "c"), pod: web(limited("5ms", hard)), nodes: []string{"a", "b", "c", "d"},
			wantRejected: exceeded("a", "b", "c", "d"),
			wantMessage:  "latency limit 5ms to service redis (dependencies[0] of annotation fogsched.dev/latency): the nearest of them is b with 21ms to c (measured)",
		},
		"nobody measured anything and Reject": {
			given: redisOn("dark"), pod: web(limited("5ms", hard+reject)), nodes: []string{"a", "b"},
			wantRejected: map[string]string{"a": ReasonUnmeasured, "b": ReasonUnmeasured},
			wantMessage:  "latency limit 5ms to service redis (dependencies[0] of annotation fogsched.dev/latency): none of those nodes has a measurement",
		},
		"one server is measured, the other is not, and Reject: no node keeps the limit": {
			given: redisOn("a", "dark"), pod: web(limited("15ms", hard+reject)), nodes: []string{"a", "b"},
			wantRejected: map[string]string{"a": ReasonUnmeasured, "b": ReasonUnmeasured},
			wantMessage:  "latency limit 15ms to service redis (dependencies[0] of annotation fogsched.dev/latency): the nearest of them is a with 50µs (local), and pairs that nobody measured",
		},
		"two limits, two sentences": {
			given: func(f *fixture) {
				redisOn("a")(f)
				f.policy("web", "web", `{"dependencies":[{"service":"redis","limit":"5ms"},{"nodes":{"matchLabels":{"name":"d"}},"limit":"60ms"}]`+hard+`}`)
			},
			pod: makePod("web").app("web").obj(), nodes: []string{"a", "b", "c", "d"},
			wantRejected: exceeded("a", "b", "c", "d"),
			wantMessage: "latency limit 5ms to service redis (dependencies[0] of LatencyPolicy default/web): node a keeps this one with 50µs (local), " +
				"latency limit 60ms to nodes name=d (dependencies[1] of LatencyPolicy default/web): node d keeps this one with 50µs (local)",
		},
		"a client that a peer covers does not exclude": {
			given: func(f *fixture) {
				f.policy("web", "web", `{"clients":[{"nodes":{"matchLabels":{"name":"a"}},"limit":"5ms"}]`+hard+`}`)
				f.place("web", "a")
			},
			pod: makePod("new").app("web").obj(), nodes: []string{"b", "d"}, wantOrder: "b=d",
		},
		"a client that no peer covers does": {
			given: func(f *fixture) {
				f.policy("web", "web", `{"clients":[{"nodes":{"matchLabels":{"name":"a"}},"limit":"15ms"}]`+hard+`}`)
				f.place("web", "d")
			},
			pod: makePod("new").app("web").obj(), nodes: []string{"b", "d"}, wantOrder: "b", wantRejected: exceeded("d"),
		},
		"a server on a node that the snapshot does not know: the limit is undecided": {
			given: redisOn("new"), pod: web(limited("50ms", hard+reject)), nodes: []string{"a", "b"},
			wantRejected: map[string]string{"a": ReasonUnmeasured, "b": ReasonUnmeasured},
			wantMessage:  "latency limit 50ms to service redis (dependencies[0] of annotation fogsched.dev/latency): none of those nodes has a measurement",
		},
		"an invalid annotation: the pod is placed by the default rules": {
			given: redisOn("a"), pod: web(`{"dependencies":[{"service":"redis","limit":"-5ms"}]` + hard + `}`),
		},
		"an invalid annotation in the place of a good policy": {
			given: func(f *fixture) {
				redisOn("c")(f)
				f.policy("web", "web", onRedis)
			},
			pod: web(`{}`),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			panics := testutil.CollectAndCount(metrics.Panics)
			f := newFixture(t, line())
			tt.given(f)
			f.plugin.engine.setPod(tt.pod)
			o := f.schedule(tt.pod, tt.nodes...)
			if got := o.order(); got != tt.wantOrder {
				t.Errorf("order %q, want %q (scores %v)", got, tt.wantOrder, o.scores)
			}
			wantRejected := tt.wantRejected
			if wantRejected == nil {
				wantRejected = map[string]string{}
			}
			if diff := cmp.Diff(wantRejected, o.rejected); diff != "" {
				t.Errorf("rejected (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.wantMessage, o.message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if testutil.CollectAndCount(metrics.Panics) != panics {
				t.Error("a panic was recovered")
			}
		})
	}
}

// TestDirection: what counts is the way that the calls go, within the noise; beyond it the worse of the two ways counts for both.
func TestDirection(t *testing.T) {
	f := newFixture(t, map[string]float64{"k": math.NaN(), "x": math.NaN(), "y": math.NaN()})
	for from, to := range map[string]map[string]float64{
		"k": {"x": 0.100, "y": 0.108}, "x": {"k": 0.108}, "y": {"k": 0.100},
	} {
		var samples []latency.Sample
		for n, rtt := range to {
			samples = append(samples, latency.Sample{From: from, To: n, Typical: rtt, Tail: rtt, At: time.Now()})
		}
		f.plugin.engine.store.Sink("test")(from, latency.Report{Samples: samples})
	}
	f.refresh()
	const k = `[{"nodes":{"matchLabels":{"name":"k"}}}]`
	calls := f.schedule(makePod("1").annotation(`{"dependencies":`+k+`}`).obj(), "x", "y")
	called := f.schedule(makePod("2").annotation(`{"clients":`+k+`}`).obj(), "x", "y")
	if calls.order() != "y x" || called.order() != "x y" {
		t.Errorf("a pod that calls k goes to %q, one that k calls to %q, want y x and x y", calls.order(), called.order())
	}
}

// TestAStandInHasNoLimit: the limit of a caller that is not placed yet is between it and the pod, not between its clients
// and the pod.
func TestAStandInHasNoLimit(t *testing.T) {
	f := newFixture(t, line())
	f.plugin.engine.index.SetService(makeService("redis", "redis"))
	f.policy("web", "web", `{"dependencies":[{"service":"redis","limit":"5ms"}],"clients":[{"nodes":{"matchLabels":{"name":"d"}}}]}`)
	o := f.schedule(makePod("redis").app("redis").obj())
	s := f.plugin.read(o.cycle)
	if len(s.entries) != 1 || len(s.limits) != 0 || s.entries[0].limit != nil {
		t.Errorf("%d entries, %d limits, want one entry without a limit", len(s.entries), len(s.limits))
	}
}

// TestStrangers: who depends on a pod of another namespace draws it, with a weight of 1 and without a limit.
func TestStrangers(t *testing.T) {
	const onRedis = `{"dependencies":[{"service":"redis","namespace":"default","weight":100,"limit":"1ms"}]}`
	f := newFixture(t, line())
	f.plugin.engine.index.SetService(makeService("redis", "redis"))
	f.plugin.engine.setPod(makePod("friend").app("web").annotation(strings.ReplaceAll(onRedis, "100", "3")).node("a").obj())
	stranger := makePod("stranger").app("web").annotation(onRedis).node("d")
	stranger.Namespace = "other"
	f.plugin.engine.setPod(stranger.obj())
	o := f.schedule(makePod("redis").app("redis").obj(), "a", "b", "c", "d")
	if got := o.order(); !strings.HasPrefix(got, "a ") {
		t.Errorf("order %q: the stranger outweighs the friend", got)
	}
	if s := f.plugin.read(o.cycle); len(s.entries) != 2 || len(s.limits) != 1 {
		t.Errorf("%d entries and %d limits, want two and that of the friend", len(s.entries), len(s.limits))
	}
}

// TestScoreOfAnotherNodeInfo: a NodeInfo that PreScore did not see is found by its name.
func TestScoreOfAnotherNodeInfo(t *testing.T) {
	f := newFixture(t, line())
	o := f.schedule(makePod("1").annotation(`{"dependencies":[{"nodes":{"matchLabels":{"name":"a"}}}]}`).obj(), "a", "b")
	for name, want := range map[string]int64{"a": 50_000, "b": 11_000_000} {
		if got, status := f.plugin.Score(context.Background(), o.cycle, nil, f.nodeInfos(name)[0]); got != want || !status.IsSuccess() {
			t.Errorf("Score of %s = %d, %v, want %d", name, got, status, want)
		}
	}
}

// TestScoreByIndex: with many candidates they are found by an index of their NodeInfos, and cost what they do by name, whichever list of
// NodeInfos comes and however the nodes are numbered.
func TestScoreByIndex(t *testing.T) {
	b := sized(t, indexedCandidates+200, 10, "ScheduleAnyway")
	p, ctx := b.plugin, context.Background()
	p.engine.setNode(makeNode("unheard-of", nil))
	check := func(what string, all, candidates []fwk.NodeInfo) {
		t.Helper()
		c := &cycleState{}
		if _, status := p.PreFilter(ctx, c, b.pod, all); !status.IsSkip() {
			t.Fatalf("%s: PreFilter: %v", what, status)
		}
		if status := p.PreScore(ctx, c, b.pod, candidates); !status.IsSuccess() {
			t.Fatalf("%s: PreScore: %v", what, status)
		}
		s := p.read(c)
		if x := p.engine.lastNodes.Load(); !x.Is(all, s.snap.Numbering()) {
			t.Fatalf("%s: the index is of other nodes", what)
		}
		costs := map[int64]bool{}
		for _, ni := range candidates {
			got, _ := p.Score(ctx, c, b.pod, ni)
			if want := s.costOf(s.number(ni.Node().Name)); got != want || got <= 0 {
				t.Fatalf("%s: %s costs %d, by name %d", what, ni.Node().Name, got, want)
			}
			costs[got] = true
		}
		if len(costs) < indexedCandidates/2 {
			t.Fatalf("%s: %d different costs, too few to tell nodes apart", what, len(costs))
		}
	}
	check("all", b.infos, b.infos)
	check("but for some", b.infos, b.infos[100:])
	check("and one that is not in the list", b.infos, append(slices.Clone(b.infos[10:]), b.nodeInfos(b.infos[3].Node().Name)[0]))
	check("and one that was never measured", b.infos, append(slices.Clone(b.infos[10:]), b.nodeInfos("unheard-of")[0]))
	check("and one that does not exist", b.infos, append(slices.Clone(b.infos[10:]), b.nodeInfos("none")[0]))
	turned := slices.Clone(b.infos)
	slices.Reverse(turned)
	check("another list", turned, turned)
	fresh := b.nodeInfos()
	for _, ni := range b.infos {
		fresh = append(fresh, &nodeInfo{node: ni.Node()})
	}
	check("other NodeInfos", fresh, fresh)
	p.engine.setNode(makeNode("a-first", nil))
	b.refresh()
	check("other numbers", fresh, fresh)
}

// TestAHerdSpreads creates replicas one after another before any of them is bound: Reserve is all that the next one sees.
func TestAHerdSpreads(t *testing.T) {
	f := newFixture(t, map[string]float64{"a": 0, "b": 10, "c": 30, "d": 100})
	f.policy("web", "web", `{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","b","d"]}]}}]}`)
	var got []string
	for i := range 4 {
		pod := makePod(fmt.Sprintf("web-%d", i)).app("web").obj()
		o := f.schedule(pod)
		best := strings.FieldsFunc(o.order(), func(r rune) bool { return r == ' ' || r == '=' })[0]
		if status := f.plugin.Reserve(context.Background(), o.cycle, pod, best); status != nil {
			t.Fatal(status)
		}
		got = append(got, best)
	}
	// b is the best single place; then d gains most, then a; then nobody gains, and all are level.
	if diff := cmp.Diff([]string{"b", "d", "a", "a"}, got); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	pod := makePod("web-1").app("web").obj()
	f.plugin.Unreserve(context.Background(), &cycleState{}, pod, "d")
	if got := f.schedule(makePod("web-9").app("web").obj()).order(); !strings.HasPrefix(got, "d ") {
		t.Errorf("after Unreserve on d the order is %q", got)
	}
}

func TestInvalidAnnotationIsToldOnce(t *testing.T) {
	f := newFixture(t, line())
	pod := makePod("web").annotation(`{"dependencies":[{"service":"redis","weight":0}]}`).obj()
	f.schedule(pod)
	want := "Warning InvalidLatencyAnnotation Placed without regard to latency, because metadata.annotations[fogsched.dev/latency]: " +
		"dependencies[0].weight: Invalid value: 0: must be 1 to 100; leave an entry out rather than weigh it 0"
	if diff := cmp.Diff(want, f.event()); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	f.schedule(pod)
	if e := f.event(); e != "" {
		t.Errorf("told again: %s", e)
	}
	f.schedule(makePod("web").annotation(`{}`).obj())
	if e := f.event(); !strings.Contains(e, "dependencies: Required value") {
		t.Errorf("another fault was not told: %q", e)
	}
}

func TestSignPod(t *testing.T) {
	const toNodes = `{"dependencies":[{"nodes":{"matchLabels":{"name":"a"}},"limit":"20ms"}]}`
	tests := map[string]struct {
		given     func(f *fixture)
		pod       *podBuilder
		wantSign  []fwk.SignFragment
		wantRefus bool
	}{
		"no intent: nothing to sign": {
			pod: makePod("1").app("web"),
		},
		"fixed nodes by annotation": {
			pod: makePod("1").app("web").annotation(toNodes),
			wantSign: []fwk.SignFragment{{
				Key: "fogsched.dev/NodeLatency.Intents()", Value: []string{"annotation fogsched.dev/latency " + toNodes, "1"},
			}},
		},
		"fixed nodes by two policies, in one order": {
			given: func(f *fixture) {
				for _, n := range []string{"p4", "p1", "p3", "p2"} {
					f.policy(n, "web", toNodes)
				}
			},
			pod: makePod("1").app("web"),
			wantSign: []fwk.SignFragment{{Key: "fogsched.dev/NodeLatency.Intents()", Value: []string{
				"LatencyPolicy default/p1 ", "LatencyPolicy default/p2 ", "LatencyPolicy default/p3 ", "LatencyPolicy default/p4 ", "4",
			}}},
		},
		"a dependency on pods": {
			pod: makePod("1").app("web").annotation(`{"dependencies":[{"service":"redis"}]}`), wantRefus: true,
		},
		"clients at fixed nodes: its own replicas matter": {
			pod: makePod("1").app("web").annotation(`{"clients":[{"nodes":{"matchLabels":{"name":"a"}}}]}`), wantRefus: true,
		},
		"others depend on it": {
			given: func(f *fixture) {
				f.plugin.engine.index.SetService(makeService("web", "web"))
				f.policy("api", "api", `{"dependencies":[{"service":"web"}]}`)
			},
			pod: makePod("1").app("web"), wantRefus: true,
		},
		"an invalid annotation is no intent": {
			pod: makePod("1").app("web").annotation(`{`),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for range 5 { // the order of maps must not show
				f := newFixture(t, line())
				if tt.given != nil {
					tt.given(f)
				}
				got, status := f.plugin.SignPod(context.Background(), tt.pod.obj())
				if diff := cmp.Diff(tt.wantSign, got); diff != "" {
					t.Fatalf("fragments (-want +got):\n%s", diff)
				}
				if refused := status.Code() == fwk.Unschedulable; refused != tt.wantRefus || !refused && !status.IsSuccess() {
					t.Fatalf("status %v", status)
				}
			}
		})
	}
}

// TestTheStateOfAnotherCycle: two cycles that overlap read each their own, also through a clone as preemption makes it.
func TestTheStateOfAnotherCycle(t *testing.T) {
	f := newFixture(t, line())
	ctx := context.Background()
	const hard = `{"dependencies":[{"nodes":{"matchLabels":{"name":%q}},"limit":"5ms"}],"whenUnsatisfiable":"DoNotSchedule"}`
	nearA := makePod("1").annotation(fmt.Sprintf(hard, "a")).obj()
	nearD := makePod("2").annotation(fmt.Sprintf(hard, "d")).obj()
	none := makePod("3").obj()
	cycleA, cycleD, cycleNone := &cycleState{}, &cycleState{}, &cycleState{}
	f.plugin.PreFilter(ctx, cycleA, nearA, nil)
	f.plugin.PreFilter(ctx, cycleD, nearD, nil)
	f.plugin.PreFilter(ctx, cycleNone, none, nil)
	for _, tt := range []struct {
		name         string
		cycle        fwk.CycleState
		wantA, wantD bool
	}{
		{"the first", cycleA, true, false},
		{"the second", cycleD, false, true},
		{"the first's clone", cycleA.Clone(), true, false},
		{"the second's clone", cycleD.Clone(), false, true},
		{"that of a pod without an intent", cycleNone, true, true},
	} {
		a := f.plugin.Filter(ctx, tt.cycle, nil, f.nodeInfos("a")[0]).IsSuccess()
		d := f.plugin.Filter(ctx, tt.cycle, nil, f.nodeInfos("d")[0]).IsSuccess()
		if a != tt.wantA || d != tt.wantD {
			t.Errorf("%s: a fits is %t, want %t; d fits is %t, want %t", tt.name, a, tt.wantA, d, tt.wantD)
		}
	}
}

func TestBind(t *testing.T) {
	const want = `{"node":"b","cost":"11ms","candidates":3,"runnerUp":{"node":"c","cost":"31ms","provenance":"measured","limitBroken":true},"entries":[` +
		`{"from":"LatencyPolicy default/web","entry":"dependencies[0]","target":"service redis","typical":"11ms","tail":"22ms","provenance":"measured","age":"30s","limit":"20ms"}]}`
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, line())
		f.age = 30 * time.Second
		f.measure()
		f.plugin.engine.index.SetService(makeService("redis", "redis"))
		f.place("redis", "a")
		f.policy("web", "web", `{"dependencies":[{"service":"redis","limit":"20ms"}]}`)
		var bindings []*v1.Binding
		client := fake.NewClientset()
		client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			bindings = append(bindings, action.(clienttesting.CreateAction).GetObject().(*v1.Binding))
			return true, nil, nil
		})
		f.handle.clientSet = client
		pod := makePod("web").app("web").obj()
		broken := testutil.ToFloat64(metrics.LimitsBroken)

		o := f.schedule(pod, "b", "c", "d")
		if status := f.plugin.Bind(context.Background(), o.cycle, pod, "b"); !status.IsSuccess() {
			t.Fatalf("Bind: %v", status)
		}
		if len(bindings) != 1 {
			t.Fatalf("%d bindings, want 1", len(bindings))
		}
		b := bindings[0]
		if b.Namespace != "default" || b.Name != "web" || b.UID != "web" || b.Target.Kind != "Node" || b.Target.Name != "b" {
			t.Errorf("binding %+v", b)
		}
		if diff := cmp.Diff(want, b.Annotations[v1alpha1.PlacementAnnotation]); diff != "" {
			t.Errorf("placement (-want +got):\n%s", diff)
		}
		if e := f.event(); e != "" || testutil.ToFloat64(metrics.LimitsBroken) != broken {
			t.Errorf("nothing is broken, and the event is %q", e)
		}

		// The node that other plugins chose breaks the limit.
		if status := f.plugin.Bind(context.Background(), o.cycle, pod, "c"); !status.IsSuccess() {
			t.Fatalf("Bind: %v", status)
		}
		wantBroken := "Warning LatencyLimitExceeded Node c exceeds the latency limit 20ms to service redis (dependencies[0] of LatencyPolicy default/web): 31ms to node a (measured)"
		if e := f.event(); !strings.HasPrefix(e, wantBroken) {
			t.Errorf("event %q, want %q", e, wantBroken)
		}
		if got := testutil.ToFloat64(metrics.LimitsBroken) - broken; got != 1 {
			t.Errorf("%g limits were counted as broken, want 1", got)
		}
		if got := bindings[1].Annotations[v1alpha1.PlacementAnnotation]; !strings.Contains(got, `"runnerUp":{"node":"b","cost":"11ms","provenance":"measured"}`) || !strings.Contains(got, `"limitBroken":true`) {
			t.Errorf("placement %s", got)
		}

		// A pod without an intent is left to the next bind plugin.
		if status := f.plugin.Bind(context.Background(), &cycleState{}, makePod("plain").obj(), "b"); !status.IsSkip() || len(bindings) != 2 {
			t.Errorf("Bind of a pod without an intent: %v", status)
		}

		client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, fmt.Errorf("no")
		})
		if status := f.plugin.Bind(context.Background(), o.cycle, pod, "b"); status.Code() != fwk.Error || status.Message() != "binding pod default/web to node b: no" {
			t.Errorf("a failed binding: %v", status)
		}
		f.handle.cacher = &apiCacher{}
		if status := f.plugin.Bind(context.Background(), o.cycle, pod, "b"); !status.IsSuccess() || f.handle.cacher.(*apiCacher).bound != "web to b" {
			t.Errorf("Bind through the API cacher: %v", status)
		}
	})
}

// apiCacher is what the scheduler has for asynchronous API calls.
type apiCacher struct {
	fwk.APICacher
	bound string
}

func (c *apiCacher) BindPod(b *v1.Binding) (<-chan error, error) {
	done := make(chan error, 1)
	c.bound = b.Name + " to " + b.Target.Name
	done <- nil
	return done, nil
}

func (c *apiCacher) WaitOnFinish(_ context.Context, done <-chan error) error { return <-done }

func TestExplain(t *testing.T) {
	tests := map[string]struct {
		given func(f *fixture)
		pod   *v1.Pod
		node  string
		want  string
	}{
		"the tail of a mean over two servers, and clients beside a peer": {
			given: func(f *fixture) {
				f.plugin.engine.index.SetService(makeService("redis", "redis"))
				f.place("redis", "a", "c")
				f.policy("web", "web", `{"dependencies":[{"service":"redis","weight":3}],"clients":[{"nodes":{"matchLabels":{"name":"d"}}}],"statistic":"Tail"}`)
				f.place("web", "c")
			},
			pod: makePod("new").app("web").obj(), node: "b",
			want: `{"node":"b","cost":"59.5ms","candidates":4,"runnerUp":{"node":"a","cost":"58.8ms","provenance":"measured"},"entries":[` +
				`{"from":"LatencyPolicy default/web","entry":"dependencies[0]","target":"service redis","typical":"16ms","tail":"32ms","provenance":"measured","age":"1m0s"},` +
				`{"from":"LatencyPolicy default/web","entry":"clients[0]","target":"nodes name=d","typical":"71ms","tail":"142ms","provenance":"measured","age":"1m0s"}]}`,
		},
		"the callers of a dependency": {
			given: func(f *fixture) {
				f.plugin.engine.index.SetService(makeService("redis", "redis"))
				f.policy("web", "web", `{"dependencies":[{"service":"redis","limit":"20ms"}]}`)
				f.place("web", "a")
			},
			pod: makePod("redis").app("redis").obj(), node: "a",
			want: `{"node":"a","cost":"50µs","candidates":4,"runnerUp":{"node":"b","cost":"11ms","provenance":"measured"},"entries":[` +
				`{"from":"LatencyPolicy default/web","entry":"dependencies[0]","target":"callers of service redis","typical":"50µs","tail":"50µs","provenance":"local","limit":"20ms"}]}`,
		},
		"a node of which nothing is known has no RTT and no age": {
			given: func(f *fixture) {
				f.plugin.engine.index.SetService(makeService("redis", "redis"))
				f.place("redis", "a", "c")
			},
			pod: makePod("web").app("web").annotation(`{"dependencies":[{"service":"redis","limit":"20ms"}]}`).obj(), node: "dark",
			want: `{"node":"dark","cost":"15.5ms","candidates":4,"runnerUp":{"node":"a","cost":"15.5ms","provenance":"measured","limitBroken":true},"entries":[` +
				`{"from":"annotation fogsched.dev/latency","entry":"dependencies[0]","target":"service redis","provenance":"unknown","unknownPairs":2,"limit":"20ms"}]}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, line())
				f.age = time.Minute
				f.measure()
				tt.given(f)
				nodes := []string{"a", "b", "c", tt.node}
				if strings.Contains("abc", tt.node) {
					nodes[3] = "d"
				}
				o := f.schedule(tt.pod, nodes...)
				got, _ := f.plugin.explain(context.Background(), o.cycle, tt.node)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("placement (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestEstimatesSayWhatTheyAre has a pair that nobody measured, 20 ms by coordinates: it counts in the cost, the explanation and
// the status say how sure it is, and no limit rests on it.
func TestEstimatesSayWhatTheyAre(t *testing.T) {
	f := newFixture(t, map[string]float64{"a": math.NaN(), "b": math.NaN(), "c": math.NaN()})
	sink := f.plugin.engine.store.Sink("test")
	measured := latency.Sample{From: "c", To: "a", Typical: 0.050, Tail: 0.060, At: time.Now(), Count: 9}
	here := latency.NetworkCoordinate{Height: 10_000, Error: 0.15}
	sink("a", latency.Report{Coordinate: &here})
	sink("b", latency.Report{Coordinate: &here})
	sink("c", latency.Report{Samples: []latency.Sample{measured}})
	f.refresh()
	f.plugin.engine.index.SetService(makeService("redis", "redis"))
	f.place("redis", "a")
	const spec = `{"dependencies":[{"service":"redis","limit":"30ms"}]}`

	o := f.schedule(makePod("new").annotation(spec).obj(), "b", "c")
	if o.order() != "b c" {
		t.Errorf("the order is %q; want b, which is estimated at 20 ms, before c, which was measured at 50 ms", o.order())
	}
	got, broken := f.plugin.explain(context.Background(), o.cycle, "b")
	want := `{"node":"b","cost":"20ms","candidates":2,"runnerUp":{"node":"c","cost":"50ms","provenance":"measured","limitBroken":true},"entries":[` +
		`{"from":"annotation fogsched.dev/latency","entry":"dependencies[0]","target":"service redis","typical":"20ms","provenance":"coordinate","error":"±22%","limit":"30ms"}]}`
	if diff := cmp.Diff(want, got); diff != "" || len(broken) > 0 {
		t.Errorf("broken %v, placement (-want +got):\n%s", broken, diff)
	}
	got, _ = f.plugin.explain(context.Background(), o.cycle, "c")
	if want := `"runnerUp":{"node":"b","cost":"20ms","provenance":"coordinate","error":"±22%"}`; !strings.Contains(got, want) {
		t.Errorf("placement %s, want %s", got, want)
	}

	// The limit is not known to hold: a pod that insists on measurements may not go there.
	strict := strings.Replace(spec, "}]}", `}],"whenUnsatisfiable":"DoNotSchedule","whenUnmeasured":"Reject"}`, 1)
	o = f.schedule(makePod("strict").annotation(strict).obj(), "b", "c")
	if diff := cmp.Diff(map[string]string{"b": ReasonUnmeasured, "c": ReasonExceeded}, o.rejected); diff != "" {
		t.Errorf("rejected (-want +got):\n%s", diff)
	}

	f.policy("web", "web", spec)
	f.place("web", "b")
	st := computeStatus(f.plugin.engine.catalog.allPolicies()[nn("default", "web")], f.plugin.engine.store.Snapshot(), nil)
	e := st.Entries[0]
	if st.Worst != "b → a (20ms, coordinate ±22%)" || e.Provenance != "coordinate" || e.Error != "±22%" || e.Worst.Provenance != "coordinate" ||
		e.Worst.Error != "±22%" || e.UnmeasuredPairs != 1 || st.Conditions[0].Reason != v1alpha1.ReasonUnmeasured {
		t.Errorf("status %+v, entry %+v, worst %+v", st, e, e.Worst)
	}
}
