// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

func TestLimitOfADependency(t *testing.T) {
	preferClose := func(svc *corev1.Service) {
		d := corev1.ServiceTrafficDistributionPreferClose
		svc.Spec.TrafficDistribution = &d
	}
	local := func(svc *corev1.Service) {
		p := corev1.ServiceInternalTrafficPolicyLocal
		svc.Spec.InternalTrafficPolicy = &p
	}
	plain := func(*corev1.Service) {}

	anywhere := func(*corev1.Pod) {}

	// The database is on a-0 and c-0, 31 ms apart; b-0, b-1, b-2 are 11, 11.5, 12 ms from the one and 21, 20.5, 20 ms from the
	// other.
	for _, tc := range []struct {
		name    string
		service func(*corev1.Service)
		entry   string // the rest of it
		spec    string // the rest of it
		where   podOption
		want    string   // "": pending
		says    []string // in the FailedScheduling message
	}{
		{
			"the farthest server counts where requests are spread", plain, `"limit":"20.2ms"`, ``,
			anywhere, "b-2", nil,
		},
		{
			"and no node keeps a limit below it", plain, `"limit":"19ms"`, ``,
			anywhere, "",
			[]string{"12 node(s) exceed the latency limit", "19ms to service db", "b-2 with 20ms to c-0"},
		},
		{
			"the nearest server counts with routing Nearest", plain, `"limit":"11.2ms","routing":"Nearest"`, ``,
			onSite("b", "d"), "b-0", nil,
		},
		{
			"and no node keeps a limit below it, either", plain, `"limit":"11.2ms","routing":"Nearest"`, ``,
			onSite("d"), "",
			[]string{"3 node(s) exceed the latency limit", "d-0 with 51ms to c-0"},
		},
		{
			"the routing comes from the Service's trafficDistribution", preferClose, `"limit":"11.2ms"`, ``,
			onSite("b", "d"), "b-0", nil,
		},
		{
			"the routing comes from the Service's internalTrafficPolicy", local, `"limit":"11.2ms"`, ``,
			onSite("b", "d"), "b-0", nil,
		},
		{
			"a Service without either spreads", plain, `"limit":"11.2ms"`, ``,
			onSite("b", "d"), "",
			[]string{"6 node(s) exceed the latency limit", "b-2 with 20ms to c-0"},
		},
		{
			"the entry's own routing stands above the Service's", preferClose, `"limit":"20.2ms","routing":"Any"`, ``,
			anywhere, "b-2", nil,
		},
		{
			"the limit is one of the tail where the tail decides", plain, `"limit":"25.2ms"`, `,"statistic":"Tail"`,
			anywhere, "b-2", nil,
		},
		{
			"and the typical RTT does not keep it", plain, `"limit":"20.2ms"`, `,"statistic":"Tail"`,
			anywhere, "",
			[]string{"12 node(s) exceed the latency limit", "b-2 with 25ms to c-0"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			f.service("db", set("app", "db"), tc.service)
			f.wantPlace("a-0", "db1", onNode("a-0"), withLabels("app", "db"))
			f.wantPlace("c-0", "db2", onNode("c-0"), withLabels("app", "db"))
			f.create("web", tc.where, withLatency(`{"dependencies":[{"service":"db",`+tc.entry+`}],"whenUnsatisfiable":"DoNotSchedule"`+tc.spec+`}`))
			if tc.want != "" {
				f.wantNode("web", f.node("web"), tc.want)
				return
			}
			f.wantAll("the message", f.unschedulable("web"), tc.says...)
		})
	}
}

// A replica must cover a client that no other covers yet.
func TestLimitOfClients(t *testing.T) {
	f := newFixture(t)
	web := withLatency(`{"clients":[{"nodes":` + entriesOf("a", "c", "d") + `,"limit":"15ms","routing":"Nearest"}],"whenUnsatisfiable":"DoNotSchedule"}`)
	replica := withLabels("app", "web")
	f.wantPlace("c-0", "web-0", web, replica)

	// b covers a-0 with 11 ms. c is nearer to the clients on the whole, but what it covers is covered.
	f.create("web-x", web, replica, onNodes("c-1"))
	f.wantAll("the message", f.unschedulable("web-x"), "1 node(s) exceed the latency limit", "15ms to nodes")

	f.wantPlace("d-0", "web-1", web, replica)
	f.wantPlace("b-0", "web-2", web, replica, onSite("b", "c"))

	// All are covered now, so the pod that waits need not cover anyone.
	f.wantNode("web-x", f.node("web-x"), "c-1")
}

func TestLimitOfClientsWithSpreadRequests(t *testing.T) {
	f := newFixture(t)
	// Every client calls every replica, so a replica must be near to all of them: b-2 is 12 ms from a-0 and 20 ms from c-0.
	client := func(limit string) podOption {
		return withLatency(`{"clients":[{"nodes":` + entriesOf("a", "c") + `,"limit":"` + limit + `","routing":"Any"}],"whenUnsatisfiable":"DoNotSchedule"}`)
	}
	f.create("web-x", client("19ms"))
	f.wantAll("the message", f.unschedulable("web-x"), "12 node(s) exceed the latency limit", "b-2 with 20ms")
	f.wantPlace("b-2", "web", client("20.2ms"))
}

func TestUnsatisfiable(t *testing.T) {
	f := newFixture(t)
	f.service("db", set("app", "db"))
	f.wantPlace("a-0", "db", onNode("a-0"))

	f.create("strict", onSite("c", "d"), withLatency(`{"dependencies":[{"service":"db","limit":"20ms"}],"whenUnsatisfiable":"DoNotSchedule"}`))
	says := []string{"6 node(s) exceed the latency limit", "latency limit 20ms to service db", "the nearest of them is c-0 with 31ms to a-0"}
	f.wantAll("the condition", f.unschedulable("strict"), says...)
	f.wantAll("the event", f.event("FailedScheduling", "strict"), says...)

	for name, setting := range map[string]string{"by-default": ``, "explicit": `,"whenUnsatisfiable":"ScheduleAnyway"`} {
		f.wantPlace("c-0", name, onSite("c", "d"), withLatency(`{"dependencies":[{"service":"db","limit":"20ms"}]`+setting+`}`))
		f.wantAll("the event", f.event("LatencyLimitExceeded", name), "Node c-0 exceeds the latency limit 20ms to service db", "31ms to node a-0")
		f.wantAll("the placement annotation", f.pod(name).Annotations[v1alpha1.PlacementAnnotation], `"limit":"20ms"`, `"limitBroken":true`)
	}

	// A node that keeps the limit stands before one that does not, even where the rest of the intent would have it otherwise.
	f.wantPlace("b-0", "kept", onNodes("b-0", "c-0"), withLatency(`{"dependencies":[{"service":"db","limit":"20ms"},{"nodes":`+
		entriesOf("d")+`,"weight":9}]}`))
}

func TestUnmeasured(t *testing.T) {
	// The database is on a-0. Three nodes have measured it, all beyond the limit; of b-1 nothing is known.
	measure := func(from, to string) (time.Duration, bool) {
		if to != "a-0" {
			return 0, false
		}
		rtt, ok := map[string]time.Duration{"c-0": 31 * time.Millisecond, "c-1": 60 * time.Millisecond, "c-2": 90 * time.Millisecond}[from]
		return rtt, ok
	}
	for _, tc := range []struct {
		whenUnmeasured, whenUnsatisfiable string
		want                              string
		says                              []string
	}{
		{"Allow", "DoNotSchedule", "b-1", nil},
		{"Allow", "ScheduleAnyway", "b-1", nil},
		{"Reject", "DoNotSchedule", "", []string{
			"3 node(s) exceed the latency limit", "1 node(s) have no measured latency for the limit", "the nearest of them is c-0 with 31ms to a-0",
		}},
		// No node keeps the limit: the best of those that are known.
		{"Reject", "ScheduleAnyway", "c-0", nil},
	} {
		t.Run(tc.whenUnmeasured+" and "+tc.whenUnsatisfiable, func(t *testing.T) {
			f := newFixture(t)
			f.publish(measure)
			f.service("db", set("app", "db"))
			f.wantPlace("a-0", "db", onNode("a-0"))
			f.create("web", onNodes("b-1", "c-0", "c-1", "c-2"), withLatency(`{"dependencies":[{"service":"db","limit":"20ms"}],"whenUnmeasured":"`+
				tc.whenUnmeasured+`","whenUnsatisfiable":"`+tc.whenUnsatisfiable+`"}`))
			if tc.want != "" {
				f.wantNode("web", f.node("web"), tc.want)
				return
			}
			f.wantAll("the message", f.unschedulable("web"), tc.says...)
			// The target's own node needs no measurement.
			f.wantPlace("a-0", "near", onNodes("a-0", "b-1"), withLatency(
				`{"dependencies":[{"service":"db","limit":"20ms"}],"whenUnmeasured":"Reject","whenUnsatisfiable":"DoNotSchedule"}`))
		})
	}
}

// A node that says that it is near to everything draws no pods: the other ends say otherwise.
func TestALyingNodeDrawsNoPods(t *testing.T) {
	f := newFixture(t)
	f.report("c-1", func(string, string) (time.Duration, bool) { return time.Millisecond, true })
	f.eventually("the report of c-1 in the snapshot", func() (bool, string) {
		n := f.metric("fogsched_store_disputed_pairs")
		return n > 0, fmt.Sprint(n)
	})
	for entry, nearest := range map[string]string{"a-0": "c-0", "b-0": "c-0", "d-0": "c-2"} { // of site c, by the true distances
		near := `{"dependencies":[{"nodes":` + nodesNamed(entry) + `}]}`
		f.wantPlace(entry, "web-"+entry, withLatency(near))
		f.wantPlace(nearest, "far-"+entry, onSite("c"), withLatency(near))
	}
}
