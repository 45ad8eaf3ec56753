// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

func ms(f float64) *metav1.Duration {
	return &metav1.Duration{Duration: time.Duration(f * float64(time.Millisecond))}
}

func policy(namespace, name, reason string, change ...func(*v1alpha1.LatencyPolicy)) *v1alpha1.LatencyPolicy {
	p := &v1alpha1.LatencyPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: 1, Labels: map[string]string{"team": namespace}}}
	p.Spec.Selector.MatchLabels = map[string]string{"app": name}
	p.Spec.Dependencies = []v1alpha1.Entry{{Service: "redis-master", Limit: ms(20)}}
	p.Spec.Clients = []v1alpha1.ClientEntry{{Entry: v1alpha1.Entry{Nodes: &metav1.LabelSelector{MatchLabels: map[string]string{"gateway": "yes"}}}, Demand: "http"}}
	if reason == "" {
		return p
	}
	p.Status = v1alpha1.LatencyPolicyStatus{
		ObservedGeneration: 1, Pods: 3, Typical: ms(12.34), Tail: ms(20.1), Worst: "berlin-1 → münchen-2 (24.5ms)",
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionLimitsKept, Reason: reason}},
		Entries: []v1alpha1.EntryStatus{
			{
				Entry: "dependencies[0]", Target: "service redis-master", TargetNodes: 1, Typical: ms(11.2), Tail: ms(19), Provenance: "measured", Limit: ms(20),
				Worst: &v1alpha1.WorstPair{From: "berlin-1", To: "münchen-2", Typical: ms(24.5), Tail: ms(30), Provenance: "measured"},
			},
			{Entry: "clients[0]", Target: "nodes gateway=yes", TargetNodes: 4, Typical: ms(13.5), Provenance: "coordinate", Error: "±22%"},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func policies() []runtime.Object {
	return []runtime.Object{
		policy("default", "kept", v1alpha1.ReasonKept),
		policy("default", "broken", v1alpha1.ReasonBroken, func(p *v1alpha1.LatencyPolicy) { p.Status.Entries[0].BrokenPairs = 2 }),
		policy("default", "unmeasured", v1alpha1.ReasonUnmeasured, func(p *v1alpha1.LatencyPolicy) {
			e := &p.Status.Entries[0]
			e.UnmeasuredPairs, e.Typical, e.Tail, e.Provenance, e.Worst = 1, nil, nil, "", nil
			p.Status.Conditions = append(p.Status.Conditions, metav1.Condition{
				Type: v1alpha1.ConditionDemandKnown, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonDemandUndefined, Message: `the scheduler's configuration has no demand "http"`,
			})
		}),
		policy("default", "no-targets", v1alpha1.ReasonNoTargets, func(p *v1alpha1.LatencyPolicy) {
			p.Status.Entries[0] = v1alpha1.EntryStatus{Entry: "dependencies[0]", Target: "service redis-master", Limit: ms(20)}
		}),
		policy("default", "no-pods", v1alpha1.ReasonNoPods, func(p *v1alpha1.LatencyPolicy) {
			p.Status.Pods, p.Status.Typical, p.Status.Tail, p.Status.Entries = 0, nil, nil, nil
		}),
		policy("default", "changed", v1alpha1.ReasonKept, func(p *v1alpha1.LatencyPolicy) { p.Generation = 3 }),
		policy("default", "nobody-looked", ""),
		policy("büro", "invalid", v1alpha1.ReasonInvalid, func(p *v1alpha1.LatencyPolicy) {
			p.Status = v1alpha1.LatencyPolicyStatus{
				ObservedGeneration: 1,
				Conditions:         []metav1.Condition{{Type: v1alpha1.ConditionLimitsKept, Reason: v1alpha1.ReasonInvalid, Message: "spec.clients[0].nodes: Required value: an empty selector"}},
			}
		}),
	}
}

func TestStatus(t *testing.T) {
	for _, tc := range []struct {
		name    string
		objects []runtime.Object
		width   int
		args    []string
	}{
		{"status", policies(), 0, nil},
		{"status-all", policies(), 0, []string{"-A"}},
		{"status-wide", policies(), 0, []string{"-o", "wide"}},
		{"status-json", policies(), 0, []string{"-A", "-o", "json"}},
		{"status-yaml", policies(), 0, []string{"kept", "-o", "yaml"}},
		{"status-name", policies(), 0, []string{"broken", "kept"}},
		{"status-selector", policies(), 0, []string{"-A", "-l", "team=büro"}},
		{"status-80", policies(), 80, []string{"-A"}},
		{"status-40", policies(), 40, nil},
		{"status-color", policies(), 0, []string{"--color=always"}},
		{"status-empty", nil, 80, nil},
		{"status-empty-all", nil, 80, []string{"-A"}},
		{"status-empty-json", nil, 80, []string{"-A", "-o", "json"}},
		{"status-empty-selector", policies(), 0, []string{"-l", "team=other"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if i := slices.Index(tc.args, "team=büro"); i >= 0 {
				tc.args[i] = "team!=default" // what labels cannot be, a selector cannot name
			}
			r := clitest.NewServer(t, tc.objects...).Run(t, NewCommand, tc.width, nil, append([]string{"status"}, tc.args...)...)
			if r.Error != nil {
				t.Fatal(r.Error)
			}
			if strings.Contains(r.Out, "\x1b") != slices.Contains(tc.args, "--color=always") {
				t.Error("colours where there should be none, or none where there should be some")
			}
			clitest.Golden(t, tc.name+".txt", r.Out)
		})
	}
}

func TestStatusErrors(t *testing.T) {
	for _, tc := range []struct {
		name      string
		forbidden []string
		noCRDs    bool
		args      []string
		want      string
	}{
		{"no permission", []string{"list latencypolicies"}, false, nil, `the verb "list" on "latencypolicies.fogsched.dev" in the namespace default`},
		{"no permission in all", []string{"list latencypolicies"}, false, []string{"-A"}, `the verb "list" on "latencypolicies.fogsched.dev" in all namespaces`},
		{"no permission to watch", []string{"watch latencypolicies"}, false, []string{"-w"}, `the verb "watch" on "latencypolicies.fogsched.dev" in the namespace default`},
		{"no CRDs", nil, true, nil, "the CRDs of fogsched.dev are not installed"},
		{"unknown policy", nil, false, []string{"kpet"}, `there is no LatencyPolicy "kpet" in the namespace default`},
		{"names in all namespaces", nil, false, []string{"kept", "-A"}, "give names with a namespace"},
		{"bad selector", nil, false, []string{"-l", "a=b=c"}, "--selector=a=b=c: "},
		{"bad format", nil, false, []string{"-o", "name"}, "-o name: want wide, json, yaml"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := clitest.NewServer(t, policies()...)
			s.Forbidden, s.NoCRDs = tc.forbidden, tc.noCRDs
			r := s.Run(t, NewCommand, 0, nil, append([]string{"status"}, tc.args...)...)
			if r.Error == nil || !strings.Contains(r.Error.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", r.Error, tc.want)
			}
			if r.Out != "" {
				t.Errorf("an error, and output: %s", r.Out)
			}
		})
	}
}
