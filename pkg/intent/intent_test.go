// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
)

const (
	label63  = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
	known    = "; the known fields are dependencies, clients, statistic, whenUnsatisfiable, whenUnmeasured, and in an entry service, namespace, pods, nodes, limit, weight, routing, and of a client demand"
	oneEntry = "give exactly one of service, pods and nodes"
	unit     = `must be a duration with its unit, for example "20ms"`
)

var badSpecs = map[string]struct {
	in        string // of an annotation
	wantError string // after the annotation's name
	asPolicy  bool   // a policy can have the same fault
}{
	"empty":                 {in: ``, wantError: `unexpected end of JSON input`},
	"cut off":               {in: `{"dependencies":[`, wantError: `unexpected end of JSON input`},
	"not JSON":              {in: `service: redis`, wantError: `invalid character 's' looking for beginning of value`},
	"something after it":    {in: `{} x`, wantError: `invalid character 'x' after top-level value`},
	"a list":                {in: `[]`, wantError: `json: cannot unmarshal array into Go value of type v1alpha1.LatencySpec`},
	"an unknown field":      {in: `{"dependency":[{"service":"a"}]}`, wantError: `unknown field "dependency"` + known},
	"a field in other case": {in: `{"Clients":[{"service":"a"}]}`, wantError: `unknown field "Clients"` + known},
	"an unknown field in an entry": {
		in: `{"clients":[{"service":"a"},{"service":"b","limits":"20ms"}]}`, wantError: `unknown field "clients[1].limits"` + known,
	},
	"a selector, which is the policy's":  {in: `{"dependencies":[{"service":"a"}],"selector":{}}`, wantError: `unknown field "selector"` + known},
	"a demand of a dependency":           {in: `{"dependencies":[{"service":"a","demand":"x"}]}`, wantError: `unknown field "dependencies[0].demand"` + known},
	"a field twice":                      {in: `{"dependencies":[{"service":"a","service":"b"}]}`, wantError: `duplicate field "dependencies[0].service"` + known},
	"no entry":                           {in: `{}`, asPolicy: true, wantError: `dependencies: Required value: give at least one entry in dependencies or clients`},
	"null":                               {in: `null`, wantError: `dependencies: Required value: give at least one entry in dependencies or clients`},
	"a negative limit":                   {in: `{"clients":[{"service":"a","limit":"-20ms"}]}`, asPolicy: true, wantError: `clients[0].limit: Invalid value: "-20ms": must be above 0 and at most 60s`},
	"a limit of 0":                       {in: `{"dependencies":[{"service":"b"},{"service":"a","limit":"0s"}]}`, asPolicy: true, wantError: `dependencies[1].limit: Invalid value: "0s": must be above 0 and at most 60s`},
	"a limit above a minute":             {in: `{"dependencies":[{"service":"a","limit":"60001ms"}]}`, asPolicy: true, wantError: `dependencies[0].limit: Invalid value: "1m0.001s": must be above 0 and at most 60s`},
	"a number as limit":                  {in: `{"dependencies":[{"service":"b"},{"service":"a","limit":20}]}`, wantError: `dependencies[1].limit: Invalid value: 20: ` + unit},
	"a limit without a unit":             {in: `{"clients":[{"service":"a","limit":"20"}]}`, wantError: `clients[0].limit: Invalid value: "20": ` + unit},
	"a limit in minutes of arc":          {in: `{"clients":[{"service":"a","limit":"20'"}]}`, wantError: `clients[0].limit: Invalid value: "20'": ` + unit},
	"a weight of 0":                      {in: `{"dependencies":[{"service":"a","weight":0}]}`, asPolicy: true, wantError: `dependencies[0].weight: Invalid value: 0: must be 1 to 100; leave an entry out rather than weigh it 0`},
	"a weight of 101":                    {in: `{"dependencies":[{"service":"a","weight":101}]}`, asPolicy: true, wantError: `dependencies[0].weight: Invalid value: 101: must be 1 to 100; leave an entry out rather than weigh it 0`},
	"a negative weight":                  {in: `{"dependencies":[{"service":"a","weight":-1}]}`, asPolicy: true, wantError: `dependencies[0].weight: Invalid value: -1: must be 1 to 100; leave an entry out rather than weigh it 0`},
	"half a weight":                      {in: `{"dependencies":[{"service":"a","weight":1.5}]}`, wantError: `dependencies[0].weight: Invalid value: 1.5: must be a whole number from 1 to 100`},
	"two targets":                        {in: `{"dependencies":[{"service":"a","nodes":{"matchLabels":{"a":"b"}}}]}`, asPolicy: true, wantError: `dependencies[0]: Invalid value: "2 targets": ` + oneEntry},
	"no target":                          {in: `{"clients":[{"limit":"20ms"}]}`, asPolicy: true, wantError: `clients[0]: Invalid value: "0 targets": ` + oneEntry},
	"an empty selector of nodes":         {in: `{"clients":[{"nodes":{}}]}`, asPolicy: true, wantError: `clients[0].nodes: Required value: an empty selector would select every node; name at least one label`},
	"an empty selector of pods":          {in: `{"clients":[{"pods":{"selector":{"matchLabels":{}}}}]}`, asPolicy: true, wantError: `clients[0].pods.selector: Required value: an empty selector would select every pod; name at least one label`},
	"pods without a selector":            {in: `{"clients":[{"pods":{}}]}`, asPolicy: true, wantError: `clients[0].pods.selector: Required value: an empty selector would select every pod; name at least one label`},
	"an unknown operator":                {in: `{"clients":[{"nodes":{"matchExpressions":[{"key":"a","operator":"Like"}]}}]}`, asPolicy: true, wantError: `clients[0].nodes.matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator`},
	"a namespace without a service":      {in: `{"clients":[{"namespace":"b","pods":{"selector":{"matchLabels":{"a":"b"}}}}]}`, asPolicy: true, wantError: `clients[0].namespace: Forbidden: goes with service; for pods use pods.namespaceSelector`},
	"a service that cannot be one":       {in: `{"clients":[{"service":"A_b"}]}`, asPolicy: true, wantError: `clients[0].service: Invalid value: "A_b": ` + label63},
	"a demand that is PromQL":            {in: `{"clients":[{"service":"a","demand":"up{}"}]}`, asPolicy: true, wantError: `clients[0].demand: Invalid value: "up{}": ` + label63},
	"a namespace that is a path":         {in: `{"clients":[{"service":"a","namespace":"../b"}]}`, asPolicy: true, wantError: `clients[0].namespace: Invalid value: "../b": ` + label63},
	"an unknown routing":                 {in: `{"clients":[{"service":"a","routing":"nearest"}]}`, asPolicy: true, wantError: `clients[0].routing: Unsupported value: "nearest": supported values: "Nearest", "Any"`},
	"an unknown statistic":               {in: `{"clients":[{"service":"a"}],"statistic":"Mean"}`, asPolicy: true, wantError: `statistic: Unsupported value: "Mean": supported values: "Typical", "Tail"`},
	"an unknown whenUnsatisfiable":       {in: `{"clients":[{"service":"a"}],"whenUnsatisfiable":"Never"}`, asPolicy: true, wantError: `whenUnsatisfiable: Unsupported value: "Never": supported values: "ScheduleAnyway", "DoNotSchedule"`},
	"an unknown whenUnmeasured":          {in: `{"clients":[{"service":"a"}],"whenUnmeasured":"No"}`, asPolicy: true, wantError: `whenUnmeasured: Unsupported value: "No": supported values: "Allow", "Reject"`},
	"two faults are told at once":        {in: `{"clients":[{"service":"a","weight":0,"limit":"-1s"}]}`, asPolicy: true, wantError: `[clients[0].limit: Invalid value: "-1s": must be above 0 and at most 60s, clients[0].weight: Invalid value: 0: must be 1 to 100; leave an entry out rather than weigh it 0]`},
	"two values of a wrong type as well": {in: `{"dependencies":[{"service":"a","weight":"2","limit":20}]}`, wantError: `[dependencies[0].limit: Invalid value: 20: ` + unit + `, dependencies[0].weight: Invalid value: "2": must be a whole number from 1 to 100]`},
	"17 entries":                         {in: `{"clients":[` + strings.Repeat(`{"service":"a"},`, 16) + `{"service":"a"}]}`, asPolicy: true, wantError: `clients: Too many: 17: must have at most 16 items`},
	"more than 16 KiB":                   {in: strings.Repeat(" ", 16<<10) + "{}", wantError: `Too long: may not be more than 16384 bytes`},
}

func TestBadAnnotation(t *testing.T) {
	for name, tt := range badSpecs {
		t.Run(name, func(t *testing.T) {
			got, err := ParseAnnotation("default", tt.in)
			if got != nil || err == nil {
				t.Fatalf("it was taken: %+v, %v", got, err)
			}
			if diff := cmp.Diff("metadata.annotations[fogsched.dev/latency]: "+tt.wantError, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadPolicy(t *testing.T) {
	for name, tt := range badSpecs {
		if !tt.asPolicy {
			continue
		}
		t.Run(name, func(t *testing.T) {
			got, selector, err := FromPolicy(policy(t, tt.in))
			if got != nil || selector != nil || err == nil {
				t.Fatalf("it was taken: %+v, %v", got, err)
			}
			want := tt.wantError
			for _, field := range []string{"clients", "dependencies", "statistic", "when"} {
				want = strings.ReplaceAll(strings.ReplaceAll(want, ", "+field, ", spec."+field), "["+field, "[spec."+field)
				if strings.HasPrefix(want, field) {
					want = "spec." + want
				}
			}
			if diff := cmp.Diff(want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}

	tests := map[string]struct {
		selector  metav1.LabelSelector
		wantError string
	}{
		"an empty selector": {
			wantError: "spec.selector: Required value: an empty selector would govern every pod of the namespace; name at least one label",
		},
		"a selector that is none": {
			selector:  metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In"}}},
			wantError: "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := policy(t, `{"clients":[{"service":"a"}]}`)
			p.Spec.Selector = tt.selector
			if _, _, err := FromPolicy(p); err == nil || err.Error() != tt.wantError {
				t.Errorf("error %v, want %s", err, tt.wantError)
			}
		})
	}
}

// policy is a LatencyPolicy with this spec, which selects app=web.
func policy(t *testing.T, spec string) *v1alpha1.LatencyPolicy {
	t.Helper()
	p := &v1alpha1.LatencyPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}
	if err := yaml.Unmarshal([]byte(spec), &p.Spec.LatencySpec); err != nil {
		t.Fatal(err)
	}
	p.Spec.Selector = metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	return p
}

func selector(t *testing.T, s string) labels.Selector {
	t.Helper()
	sel, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

// sameIntent compares selectors by what they say.
var sameIntent = cmp.Options{
	cmp.Comparer(func(a, b labels.Selector) bool {
		return (a == nil) == (b == nil) && (a == nil || a.String() == b.String())
	}),
}

func TestGood(t *testing.T) {
	nearest, anyRouting := placement.Nearest, placement.Any
	tests := map[string]struct {
		in   string
		want []Entry
	}{
		"the defaults of a dependency": {
			in:   `{"dependencies":[{"service":"redis"}]}`,
			want: []Entry{{Path: "dependencies[0]", Role: Dependency, Service: &Service{"default", "redis"}, Weight: 1}},
		},
		"the defaults of a client": {
			in: `{"clients":[{"service":"web"}]}`,
			want: []Entry{{
				Path: "clients[0]", Role: Client, Service: &Service{"default", "web"}, Weight: 1, Routing: &nearest,
			}},
		},
		"the defaults written out": {
			in: `{"dependencies":[{"service":"redis","weight":1}],"statistic":"Typical","whenUnsatisfiable":"ScheduleAnyway","whenUnmeasured":"Allow"}`,
			want: []Entry{
				{Path: "dependencies[0]", Role: Dependency, Service: &Service{"default", "redis"}, Weight: 1},
			},
		},
		"everything": {
			in: `{"dependencies":[
				{"service":"redis","namespace":"data","limit":"20ms","weight":2,"routing":"Nearest"},
				{"pods":{"selector":{"matchLabels":{"app":"db"}},"namespaceSelector":{"matchLabels":{"team":"x"}}},"routing":"Any"}],
				"clients":[
				{"nodes":{"matchExpressions":[{"key":"gateway","operator":"Exists"}]},"limit":"1m","weight":100,"demand":"http-ingress","routing":"Any"},
				{"pods":{"selector":{"matchLabels":{"app":"web"}},"namespaceSelector":{}}}],
				"statistic":"Tail","whenUnsatisfiable":"DoNotSchedule","whenUnmeasured":"Reject"}`,
			want: []Entry{
				{
					Path: "dependencies[0]", Role: Dependency, Service: &Service{"data", "redis"}, Limit: 20 * time.Millisecond,
					Weight: 2, Routing: &nearest, Statistic: latency.Tail, Hard: true, RejectUnmeasured: true,
				},
				{
					Path: "dependencies[1]", Role: Dependency,
					Pods:   &Pods{Namespace: "default", Selector: selector(t, "app=db"), NamespaceSelector: selector(t, "team=x")},
					Weight: 1, Routing: &anyRouting, Statistic: latency.Tail, Hard: true, RejectUnmeasured: true,
				},
				{
					Path: "clients[0]", Role: Client, Nodes: selector(t, "gateway"), Limit: time.Minute, Weight: 100, Demand: "http-ingress",
					Routing: &anyRouting, Statistic: latency.Tail, Hard: true, RejectUnmeasured: true,
				},
				{
					Path: "clients[1]", Role: Client,
					Pods:   &Pods{Namespace: "default", Selector: selector(t, "app=web"), NamespaceSelector: labels.Everything()},
					Weight: 1, Routing: &nearest, Statistic: latency.Tail, Hard: true, RejectUnmeasured: true,
				},
			},
		},
		"a limit of null is none": {
			in:   `{"dependencies":[{"service":"redis","limit":null}]}`,
			want: []Entry{{Path: "dependencies[0]", Service: &Service{"default", "redis"}, Weight: 1}},
		},
		"16 entries of each": {
			in: `{"dependencies":[` + strings.Repeat(`{"service":"a"},`, 15) + `{"service":"a"}],"clients":[` +
				strings.Repeat(`{"service":"a"},`, 15) + `{"service":"a"}]}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			annotated, err := ParseAnnotation("default", tt.in)
			if err != nil {
				t.Fatal(err)
			}
			governed, sel, err := FromPolicy(policy(t, tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(annotated.Entries, governed.Entries, sameIntent); diff != "" {
				t.Errorf("annotation and policy differ (-annotation +policy):\n%s", diff)
			}
			if tt.want != nil {
				if diff := cmp.Diff(tt.want, annotated.Entries, sameIntent); diff != "" {
					t.Errorf("entries (-want +got):\n%s", diff)
				}
			}
			if annotated.Name != "annotation fogsched.dev/latency" || governed.Name != "LatencyPolicy default/p" {
				t.Errorf("names %q and %q", annotated.Name, governed.Name)
			}
			if annotated.Namespace != "default" || governed.Namespace != "default" || sel.String() != "app=web" {
				t.Errorf("namespaces %q and %q, selector %s", annotated.Namespace, governed.Namespace, sel)
			}
		})
	}
}

func TestTarget(t *testing.T) {
	in, err := ParseAnnotation("default", `{"dependencies":[{"service":"redis"},{"pods":{"selector":{"matchLabels":{"app":"db"}}}},
		{"nodes":{"matchLabels":{"gateway":"yes"}}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range in.Entries {
		got = append(got, in.Entries[i].Target())
	}
	if diff := cmp.Diff([]string{"service redis", "pods app=db", "nodes gateway=yes"}, got); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
}

// FuzzParseAnnotation: no text makes the parser panic, and what it takes is within the bounds.
func FuzzParseAnnotation(f *testing.F) {
	for _, tt := range badSpecs {
		f.Add(tt.in)
	}
	f.Add(`{"dependencies":[{"service":"redis","limit":"20ms","weight":2}],"clients":[{"nodes":{"matchLabels":{"a":"b"}}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		in, err := ParseAnnotation("default", text)
		if err != nil {
			return
		}
		if n := len(in.Entries); n == 0 || n > 2*MaxEntries {
			t.Errorf("%d entries", n)
		}
		for _, e := range in.Entries {
			if e.Weight < 1 || e.Weight > MaxWeight || e.Limit < 0 || e.Limit > latency.MaxRTT {
				t.Errorf("entry %+v", e)
			}
		}
	})
}
