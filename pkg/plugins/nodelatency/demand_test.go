// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

// withDemand gives the fixture one demand, "ingress", with these values, measured so long ago.
func (f *fixture) withDemand(values map[string]float64, age time.Duration) {
	d := newDemands([]DemandArgs{{Name: "ingress", Query: "x", NodeLabel: "node"}})
	nodes := map[string]prometheus.NodeValue{}
	for n, v := range values {
		nodes[n] = prometheus.NodeValue{Value: v, At: time.Now().Add(-age)}
	}
	d.values["ingress"].Store(&demandValues{nodes: nodes})
	f.plugin.engine.demands = d
}

func TestDemand(t *testing.T) {
	const (
		spec      = `{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","d"]}]},"demand":"ingress"}]}`
		undefined = `{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","d"]}]},"demand":"egress"}]}`
		limited   = `{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","d"]}]},"demand":"ingress","limit":"5ms"}],"whenUnsatisfiable":"DoNotSchedule"}`
	)
	tests := map[string]struct {
		spec          string
		demand        map[string]float64
		wantFirst     string
		wantCondition string
		wantUnused    string // the reason that is counted
		wantRejected  int
	}{
		"most traffic comes from a": {
			spec: spec, demand: map[string]float64{"a": 90, "d": 10}, wantFirst: "a", wantCondition: "True Known: demand ingress is known of 2 of 2 nodes",
		},
		"most traffic comes from d": {
			spec: spec, demand: map[string]float64{"a": 10, "d": 90}, wantFirst: "d", wantCondition: "True Known: demand ingress is known of 2 of 2 nodes",
		},
		"no traffic from a": {
			spec: spec, demand: map[string]float64{"a": 0, "d": 0.001}, wantFirst: "d", wantCondition: "True Known: demand ingress is known of 2 of 2 nodes",
		},
		"what is not known counts as the others do": {
			spec: spec, demand: map[string]float64{"d": 1000}, wantFirst: "", wantCondition: "True Known: demand ingress is known of 1 of 2 nodes",
		},
		"nothing is known": {
			spec: spec, demand: map[string]float64{"b": 5}, wantUnused: "unknown",
			wantCondition: "False Unknown: demand ingress is known of none of the clients' nodes: all clients count the same",
		},
		"no traffic anywhere": {
			spec: spec, demand: map[string]float64{"a": 0, "d": 0}, wantUnused: "unknown",
			wantCondition: "True Known: demand ingress is known of 2 of 2 nodes, and 0 everywhere: all clients count the same",
		},
		"a name that nobody defined": {
			spec: undefined, demand: map[string]float64{"a": 90, "d": 10}, wantUnused: "undefined",
			wantCondition: "False Undefined: the scheduler's configuration defines no demand egress (args.prometheus.demands of NodeLatency): all clients count the same",
		},
		"a limit is kept for those without traffic, too": {
			spec: limited, demand: map[string]float64{"a": 0, "d": 7}, wantFirst: "d", wantRejected: 2,
			wantCondition: "True Known: demand ingress is known of 2 of 2 nodes",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			// a and d are far apart, b and c between them.
			f := newFixture(t, map[string]float64{"a": 0, "b": 10, "c": 20, "d": 30})
			f.withDemand(tt.demand, 0)
			f.policy("web", "web", tt.spec)
			unused := map[string]float64{}
			for _, r := range []string{"undefined", "unknown"} {
				unused[r] = testutil.ToFloat64(metrics.DemandsUnused.WithLabelValues(r))
			}
			o := f.schedule(makePod("web").app("web").obj())
			switch first, _, _ := strings.Cut(o.order(), " "); {
			case tt.wantFirst != "" && first != tt.wantFirst:
				t.Errorf("order %s, want %s first", o.order(), tt.wantFirst)
			case tt.wantFirst == "" && o.scores["a"] != o.scores["d"]:
				t.Errorf("order %s, want a and d level", o.order())
			}
			if len(o.rejected) != tt.wantRejected {
				t.Errorf("rejected %v, want %d", o.rejected, tt.wantRejected)
			}
			for r, was := range unused {
				if counted := testutil.ToFloat64(metrics.DemandsUnused.WithLabelValues(r)) - was; (counted > 0) != (r == tt.wantUnused) {
					t.Errorf("%g counted as %s, want only %q", counted, r, tt.wantUnused)
				}
			}
			st := computeStatus(f.plugin.engine.catalog.allPolicies()[nn("default", "web")], f.plugin.engine.store.Snapshot(), f.plugin.engine.demands)
			if len(st.Conditions) != 2 {
				t.Fatalf("conditions %+v, want two", st.Conditions)
			}
			c := st.Conditions[1]
			if got := fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message); c.Type != v1alpha1.ConditionDemandKnown || got != tt.wantCondition {
				t.Errorf("condition %s\n%s, want\n%s", c.Type, got, tt.wantCondition)
			}
		})
	}
}

// One client in hundreds has all the traffic: its neighbours stand for it nowhere, and its limit is kept.
func TestDemandOfOneClientInHundreds(t *testing.T) {
	for _, hot := range []int{0, 1, 100, 299} {
		for _, others := range []float64{0, 0.001} {
			t.Run(fmt.Sprintf("node %d, others %g", hot, others), func(t *testing.T) {
				at, demand := map[string]float64{"x": 1000}, map[string]float64{}
				for i := range maxTargets + 44 {
					name := fmt.Sprintf("n%03d", i)
					at[name], demand[name] = float64(i)/10, others
				}
				name := fmt.Sprintf("n%03d", hot)
				demand[name] = 1e300
				f := newFixture(t, at)
				f.withDemand(demand, 0)
				f.policy("web", "web", `{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"NotIn","values":["x"]}]},"demand":"ingress","limit":"25ms"}],"whenUnsatisfiable":"DoNotSchedule"}`)
				o := f.schedule(makePod("web").app("web").obj())
				if len(o.rejected) != 1 || o.rejected["x"] == "" {
					t.Errorf("rejected %v, want x, which is beyond the limit of all clients", o.rejected)
				}
				for node, score := range o.scores {
					if distance := math.Abs(at[node] - at[name]); distance < 0.01 && score < 100 || distance > 5 && score > 90 {
						t.Errorf("node %s, %g ms from all the traffic, has the score %d", node, distance, score)
					}
				}
			})
		}
	}
}

// The demand is part of what the status says of the policy: the mean over the requests.
func TestDemandInStatus(t *testing.T) {
	f := newFixture(t, map[string]float64{"a": 0, "b": 10, "c": 20, "d": 30})
	f.withDemand(map[string]float64{"a": 1, "d": 3}, 0)
	f.policy("web", "web", `{"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","d"]}]},"demand":"ingress"}]}`)
	f.place("web", "b")
	st := computeStatus(f.plugin.engine.catalog.allPolicies()[nn("default", "web")], f.plugin.engine.store.Snapshot(), f.plugin.engine.demands)
	if got, want := st.Typical.Duration, 18500*time.Microsecond; got != want { // (1·11 + 3·21) / 4 ms
		t.Errorf("typical %s, want %s", got, want)
	}
	without := st.DeepCopy()
	without.Conditions = without.Conditions[:1]
	if !worthWriting(&st, without) {
		t.Error("the condition stays after the entry lost its demand")
	}
}

// Who calls a pod that is not placed yet stands in for its callers, with its demand.
func TestDemandOfClientsOfCallers(t *testing.T) {
	f := newFixture(t, map[string]float64{"a": 0, "b": 10, "c": 20, "d": 30})
	f.withDemand(map[string]float64{"a": 1, "d": 9}, 0)
	f.plugin.engine.index.SetService(makeService("redis", "redis"))
	f.policy("web", "web", `{"dependencies":[{"service":"redis"}],"clients":[{"nodes":{"matchExpressions":[{"key":"name","operator":"In","values":["a","d"]}]},"demand":"ingress"}]}`)
	if got := f.schedule(makePod("redis").app("redis").obj()).order(); !strings.HasPrefix(got, "d ") {
		t.Errorf("redis goes by %s, want d first", got)
	}
}

// fakePrometheus answers the query "requests" with one series a node. Without series it answers 503.
type fakePrometheus struct {
	series map[string]string // node → value
	at     time.Time
	raw    string // in place of all that
}

func (p *fakePrometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.raw != "" {
		fmt.Fprint(w, p.raw)
		return
	}
	if p.series == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var series []string
	for n, v := range p.series {
		switch r.FormValue("query") {
		case "requests":
		case "timestamp(requests\n)":
			v = fmt.Sprint(p.at.Unix())
		default:
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		series = append(series, fmt.Sprintf(`{"metric":{"node":%q},"value":[%d,%q]}`, n, time.Now().Unix(), v))
	}
	fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[%s]}}`, strings.Join(series, ","))
}

func TestDemandRefresh(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(makeNode("a", nil), makeNode("b", nil), makeNode("c", nil)), 0)
	nodes := factory.Core().V1().Nodes().Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	now := time.Now()
	steps := []struct {
		name   string
		answer fakePrometheus
		expire bool // the values of the step before are too old by now
		want   map[string]float64
	}{
		{"the first values", fakePrometheus{series: map[string]string{"a": "5", "b": "0"}, at: now}, false, map[string]float64{"a": 5, "b": 0}},
		{"a server that is down changes nothing", fakePrometheus{}, false, map[string]float64{"a": 5, "b": 0}},
		{"nor does one that answers something else", fakePrometheus{raw: `{"status":"success","data":{"resultType":"scalar","result":[1,"9"]}}`}, false, map[string]float64{"a": 5, "b": 0}},
		{"until they are too old", fakePrometheus{}, true, map[string]float64{}},
		{"and then it is back", fakePrometheus{series: map[string]string{"a": "6"}, at: now}, false, map[string]float64{"a": 6}},
		{
			"what is no amount of traffic is not taken up",
			fakePrometheus{series: map[string]string{"a": "NaN", "b": "-1", "c": "+Inf", "another cluster's": "7"}, at: now},
			false,
			map[string]float64{"a": 6},
		},
		{"nor is what is old, however new the answer", fakePrometheus{series: map[string]string{"b": "5"}, at: now.Add(-2 * time.Minute)}, false, map[string]float64{"a": 6}},
		{"a node without a series keeps its value", fakePrometheus{series: map[string]string{"c": "1"}, at: now}, false, map[string]float64{"a": 6, "c": 1}},
		{"until that is too old", fakePrometheus{series: map[string]string{"b": "NaN"}, at: now}, true, map[string]float64{}},
	}
	answer := fakePrometheus{}
	server := httptest.NewServer(&answer)
	defer server.Close()
	config := prometheus.Config{Address: server.URL}
	config.Default()
	client, err := prometheus.NewClient(&config)
	if err != nil {
		t.Fatal(err)
	}
	d := newDemands([]DemandArgs{{Name: "ingress", Query: "requests", NodeLabel: "node"}})
	d.client, d.cluster, d.maxAge = client, prometheus.Cluster{Nodes: nodes}, time.Minute
	for _, s := range steps {
		answer = s.answer
		if s.expire {
			old := map[string]prometheus.NodeValue{}
			for n, v := range d.values["ingress"].Load().nodes {
				old[n] = prometheus.NodeValue{Value: v.Value, At: v.At.Add(-2 * time.Minute)}
			}
			d.values["ingress"].Store(&demandValues{nodes: old})
		}
		d.refresh(ctx, &d.queries[0])
		got := map[string]float64{}
		for n, v := range d.values["ingress"].Load().nodes {
			got[n] = v.Value
		}
		if diff := cmp.Diff(s.want, got); diff != "" {
			t.Errorf("%s: values (-want +got):\n%s", s.name, diff)
		}
	}
}
