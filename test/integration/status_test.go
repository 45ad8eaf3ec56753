// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
)

func reasonOf(p *v1alpha1.LatencyPolicy) string {
	if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionLimitsKept); c != nil {
		return string(c.Status) + " " + c.Reason
	}
	return ""
}

func TestPolicyStatus(t *testing.T) {
	f := newFixture(t)
	becomes := func(reason string, pods int32) *v1alpha1.LatencyPolicy {
		t.Helper()
		return f.status("web", fmt.Sprintf("to be %s with %d pods", reason, pods), func(p *v1alpha1.LatencyPolicy) bool {
			return reasonOf(p) == reason && p.Status.Pods == pods
		})
	}
	columns := func(cells ...string) {
		t.Helper()
		assertTable(t, fmt.Sprintf("/apis/%s/namespaces/%s/%s", v1alpha1.GroupVersion, f.ns, client.LatencyPolicies),
			[]string{"Name", "Pods", "Limits", "Typical", "Tail", "Worst", "Age"}, cells)
	}
	const none = "<nil>" // kubectl prints nothing for it
	wantDuration := func(what string, got *metav1.Duration, want time.Duration) {
		t.Helper()
		if got == nil || got.Duration != want {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}

	f.service("db", set("app", "db"))
	f.wantPlace("a-0", "db", onNode("a-0"))
	f.policy("web", `{"selector":{"matchLabels":{"app":"web"}},"dependencies":[{"service":"db","limit":"20ms"}]}`)
	becomes("Unknown NoPods", 0)
	columns("web", "0", "NoPods", none, none, none)

	f.wantPlace("b-2", "web-0", onNode("b-2"), withLabels("app", "web"))
	p := becomes("True Kept", 1)
	columns("web", "1", "Kept", "12ms", "15ms", "b-2 → a-0 (12ms)")
	if n := len(p.Status.Entries); n != 1 {
		t.Fatalf("the status has %d entries, want 1", n)
	}
	e := p.Status.Entries[0]
	if e.Entry != "dependencies[0]" || e.Target != "service db" || e.TargetNodes != 1 || e.BrokenPairs != 0 || e.UnmeasuredPairs != 0 {
		t.Errorf("the entry is %+v", e)
	}
	wantDuration("the entry's typical RTT", e.Typical, 12*time.Millisecond)
	wantDuration("the entry's tail", e.Tail, 15*time.Millisecond)
	wantDuration("the entry's limit", e.Limit, 20*time.Millisecond)

	// Nothing that matters changes, so nothing is written, although there are new measurements, and pods come and go. This
	// must hold for some time, of which no condition tells that it is over.
	version := p.ResourceVersion
	for i, until := 0, time.Now().Add(5200*time.Millisecond); time.Now().Before(until); i++ {
		name := fmt.Sprintf("other-%d", i)
		f.wantPlace("c-1", name, onNode("c-1"))
		f.report("b-2", func(from, to string) (time.Duration, bool) {
			rtt, ok := onLine(f.at)(from, to)
			return rtt + time.Duration(i%5)*100*time.Microsecond, ok
		})
		f.remove(name)
	}
	f.report("b-2", onLine(f.at))
	p, err := f.client.LatencyPolicies(f.ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p.ResourceVersion != version {
		t.Errorf("the policy was written again: %+v", p.Status)
	}

	f.wantPlace("c-0", "web-1", onNode("c-0"), withLabels("app", "web"))
	p = becomes("False Broken", 2)
	columns("web", "2", "Broken", "21.5ms", "26.88ms", "c-0 → a-0 (31ms)")
	e = p.Status.Entries[0]
	if e.BrokenPairs != 1 || e.Worst == nil || e.Worst.From != "c-0" || e.Worst.To != "a-0" {
		t.Errorf("the entry is %+v, worst pair %+v", e, e.Worst)
	}
	f.wantAll("the condition", meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionLimitsKept).Message, "1 pair(s)")

	f.setPolicy("web", `{"selector":{"matchLabels":{"app":"web"}},"dependencies":[{"service":"db"}]}`)
	becomes("Unknown NoLimits", 2)
	f.setPolicy("web", `{"selector":{"matchLabels":{"app":"web"}},"dependencies":[{"service":"db","limit":"31ms"}]}`)
	becomes("True Kept", 2)

	f.publish(func(from, to string) (time.Duration, bool) {
		rtt, ok := onLine(f.at)(from, to)
		return rtt, ok && from != "c-0" && to != "c-0"
	})
	p = becomes("Unknown Unmeasured", 2)
	columns("web", "2", "Unmeasured", "12ms", "15ms", "b-2 → a-0 (12ms)")
	if e = p.Status.Entries[0]; e.UnmeasuredPairs != 1 {
		t.Errorf("%d pairs are unmeasured, want 1", e.UnmeasuredPairs)
	}

	f.remove("web-0")
	f.remove("web-1")
	becomes("Unknown NoPods", 0)
}

// The status follows how calls are routed.
func TestPolicyStatusByRouting(t *testing.T) {
	f := newFixture(t)
	f.service("db", set("app", "db"))
	f.wantPlace("a-0", "db-a", onNode("a-0"), withLabels("app", "db"))
	f.wantPlace("c-0", "db-c", onNode("c-0"), withLabels("app", "db"))
	f.wantPlace("b-0", "web", onNode("b-0"))
	for _, tc := range []struct{ routing, want, worst string }{
		{"Any", "16ms", "b-0 → c-0 (21ms)"},
		{"Nearest", "11ms", "b-0 → a-0 (11ms)"},
	} {
		f.policy("web-"+fmt.Sprint(len(tc.routing)), `{"selector":{"matchLabels":{"app":"web"}},"dependencies":[{"service":"db","routing":"`+tc.routing+`"}]}`)
		f.status("web-"+fmt.Sprint(len(tc.routing)), "to show "+tc.want, func(p *v1alpha1.LatencyPolicy) bool {
			return p.Status.Typical != nil && p.Status.Typical.Duration.String() == tc.want && p.Status.Worst == tc.worst
		})
	}
	// Clients call the pods: the other way round.
	f.policy("clients", `{"selector":{"matchLabels":{"app":"db"}},"clients":[{"nodes":`+entriesOf("b", "d")+`,"limit":"40ms"}]}`)
	p := f.status("clients", "to be Broken", func(p *v1alpha1.LatencyPolicy) bool { return reasonOf(p) == "False Broken" })
	if p.Status.Worst != "d-0 → c-0 (51ms)" || p.Status.Typical.Duration != 31*time.Millisecond || p.Status.Entries[0].BrokenPairs != 1 {
		t.Errorf("the status is %+v", p.Status)
	}
}
