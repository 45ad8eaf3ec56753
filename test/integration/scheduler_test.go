// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/test/cluster"
)

// beside starts a fogsched of the test's own beside the one of the world, with profiles of the given names.
func (f *fixture) beside(args string, profiles ...string) *cluster.Scheduler {
	f.Helper()
	shipped, err := shippedConfig(f.Context(), f.control)
	if err != nil {
		f.Fatal(err)
	}
	s, err := startFogsched(f.Context(), f.control, configFor(shipped, args, profiles...))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Stop)
	return s
}

// wantAsStock places pods with all kinds of intents, and the same without fogsched; all must land on the one node that is
// empty.
func (f *fixture) wantAsStock(scheduler string) {
	f.Helper()
	f.service("db", set("app", "db"))
	f.create("db", onto("a-0"))
	f.create("peer", onto("d-0"), withLabels("app", "with-a-peer"), withLatency(`{"clients":[{"nodes":`+entriesOf("a", "b", "d")+`}]}`))
	f.fill("4", "c-2")
	f.wantPlace("c-2", "stock", by(stock))
	for name, annotation := range map[string]string{
		"with-a-dependency": `{"dependencies":[{"service":"db"}]}`,
		"with-a-limit":      `{"dependencies":[{"service":"db","limit":"5ms"}]}`,
		"with-a-hard-limit": `{"dependencies":[{"service":"db","limit":"5ms"}],"whenUnsatisfiable":"DoNotSchedule"}`,
		"with-clients":      `{"clients":[{"nodes":` + entriesOf("a", "b") + `}]}`,
		"with-a-peer":       `{"clients":[{"nodes":` + entriesOf("a", "b", "d") + `}]}`,
		"with-both":         `{"dependencies":[{"service":"db","routing":"Nearest"}],"clients":[{"nodes":` + entriesOf("d") + `,"weight":9}]}`,
		"with-the-tail":     `{"dependencies":[{"service":"db"}],"statistic":"Tail"}`,
	} {
		f.wantPlace("c-2", name, by(scheduler), withLatency(annotation))
	}
}

func TestWithoutMeasurements(t *testing.T) {
	t.Run("no node reports any", func(t *testing.T) {
		f := newFixture(t)
		f.publish(unmeasured)
		f.wantAsStock(schedulerName)
	})

	t.Run("all reports were deleted", func(t *testing.T) {
		f := newFixture(t)
		published.isDefault = false
		if err := f.client.NodeLatencies().DeleteCollection(f.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		f.eventually("the measurements to be gone", func() (bool, string) {
			n := f.metric("fogsched_store_measured_pairs")
			return n == 0, fmt.Sprint(n)
		})
		f.wantAsStock(schedulerName)
	})

	t.Run("all are expired", func(t *testing.T) {
		f := newFixture(t)
		s := f.beside("{maxAge: 10s}", f.ns)
		f.scheduler = s
		at := time.Now().Add(-8 * time.Second)
		for node := range f.at {
			f.reportAt(node, onLine(f.at), at)
		}
		f.eventually("the measurements to be here", func() (bool, string) {
			n := f.metric("fogsched_store_measured_pairs")
			return n == 66, fmt.Sprint(n)
		})
		f.wantPlace("d-0", "in-time", by(f.ns), withLatency(`{"dependencies":[{"nodes":`+entriesOf("d")+`}]}`))
		f.eventually("the measurements to expire", func() (bool, string) {
			n := f.metric("fogsched_store_measured_pairs")
			return n == 0, fmt.Sprint(n)
		})
		f.wantAsStock(f.ns)
		if n := f.metric("fogsched_store_newest_sample_timestamp_seconds"); n != 0 {
			t.Errorf("the newest measurement is of %f, want none", n)
		}
		f.wantAll("the log", f.log(), "No measured latencies any more")
		// For the scheduler with the shipped age they are good.
		f.wantPlace("d-0", "by-the-other", withLatency(`{"dependencies":[{"nodes":`+entriesOf("d")+`}]}`))
	})
}

func TestTwoProfiles(t *testing.T) {
	f := newFixture(t)
	one, two := f.ns+"-one", f.ns+"-two"
	f.scheduler = f.beside("{maxAge: 4m}", one, two)
	clients := clientsOf("a", "b", "c")
	f.wantPlace("b-0", "web-0", by(one), clients, withLabels("app", "web"))
	f.wantPlace("c-0", "web-1", by(two), clients, withLabels("app", "web"))
	f.wantPlace("a-0", "web-2", by(one), clients, withLabels("app", "web"))

	// What each of twelve nodes says of the eleven others was taken up once, not once a profile.
	if n := f.metric("fogsched_store_samples_accepted_total"); n != 12*11 {
		t.Errorf("%.0f measurements were taken up, want %d", n, 12*11)
	}
}

func TestMetrics(t *testing.T) {
	f := newFixture(t)
	f.scheduler = f.beside("", f.ns)
	f.wantPlace("c-0", "scored", by(f.ns), withLatency(`{"dependencies":[{"nodes":`+nodesNamed("c-0")+`}]}`))
	f.wantPlace("c-0", "broken", by(f.ns), onSite("c"), withLatency(`{"dependencies":[{"nodes":`+nodesNamed("b-0")+`,"limit":"5ms"}]}`))
	f.wantPlace("b-1", "bad", by(f.ns), preferring("b-1"), withLatency(`{}`))
	f.create("rejected", by(f.ns), onSite("c"), withLatency(`{"dependencies":[{"nodes":`+nodesNamed("b-0")+`,"limit":"5ms"}],"whenUnsatisfiable":"DoNotSchedule"}`))
	f.unschedulable("rejected")
	f.closer("c-1", "b-0")
	f.wantNode("rejected", f.node("rejected"), "c-1")

	text, err := f.scheduler.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"fogsched_store_pairs":                             66,
		"fogsched_store_measured_pairs":                    66,
		"fogsched_store_samples_rejected_total":            0,
		"fogsched_nodelatency_decisions_total":             2, // with one feasible node there is nothing to decide
		"fogsched_nodelatency_limits_broken_total":         1,
		"fogsched_nodelatency_bad_intents_total":           1,
		"fogsched_nodelatency_pods_woken_total":            1,
		"fogsched_plugin_panics_recovered_total":           0,
		`fogsched_store_samples_rejected_total{reason="x"`: 0,
	} {
		if got := metric(text, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	now := unix(time.Now())
	for _, name := range []string{"fogsched_store_snapshot_timestamp_seconds", "fogsched_store_newest_sample_timestamp_seconds"} {
		if got := metric(text, name); got < now-120 || got > now {
			t.Errorf("%s is %v, want a time in the last two minutes before %v", name, got, now)
		}
	}
	// Every metric of ours has a help text and a name of the one pattern, and none a series per node.
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "fogsched_") {
			continue
		}
		name := regexp.MustCompile(`^[a-z_]+`).FindString(line)
		if !strings.Contains(text, "# HELP "+name+" ") {
			t.Errorf("%s has no help text", name)
		}
		if slices.ContainsFunc(allNodes(), func(node string) bool { return strings.Contains(line, `"`+node+`"`) }) {
			t.Errorf("a series of a node: %s", line)
		}
	}
}

// A pod that waits when the scheduler comes back is placed with regard to the pods that were placed before, and to the policies.
func TestRestart(t *testing.T) {
	for _, how := range []string{"policy", "annotation"} {
		t.Run("with a "+how, func(t *testing.T) {
			f := newFixture(t)
			opts := []podOption{by(f.ns), withLabels("app", "web")}
			if how == "policy" {
				f.policy("web", `{"selector":{"matchLabels":{"app":"web"}},"clients":[{"nodes":`+entriesOf("a", "b", "c")+`}]}`)
			} else {
				opts = append(opts, clientsOf("a", "b", "c"))
			}
			s := f.beside("", f.ns)
			f.wantPlace("b-0", "web-0", opts...)
			s.Kill() // without a good-bye

			f.create("web-1", opts...)
			f.scheduler = f.beside("", f.ns)
			f.wantNode("web-1", f.node("web-1"), "c-0")
			f.scheduler.Stop()

			f.create("web-2", opts...)
			f.scheduler = f.beside("", f.ns)
			f.wantNode("web-2", f.node("web-2"), "a-0")
		})
	}
}
