// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
)

var (
	policyResource      = v1alpha1.GroupVersion.WithResource(client.LatencyPolicies)
	nodeLatencyResource = v1alpha1.GroupVersion.WithResource(client.NodeLatencies)
	strictCreate        = metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	// notChecked is added by the API server to some errors; it names no field and asks for nothing else.
	notChecked = "some validation rules were not checked because the object was invalid"
)

func TestBadPoliciesAreRefused(t *testing.T) {
	installCRDs(t)
	ns := newNamespace(t, "bad-policies")

	const selector = "selector: {matchLabels: {app: web}}\n"
	const (
		limitMessage    = "a limit is a duration with its unit, for example 20ms, above 0 and at most 60s"
		entriesMessage  = "give at least one entry in dependencies or clients"
		targetMessage   = "give exactly one of service, pods and nodes"
		selectorMessage = "the selector is empty and would govern every pod of the namespace; name at least one label"
		nodesMessage    = "the selector is empty and would select every node; name at least one label"
	)
	for name, tc := range map[string]struct {
		spec        string
		wantField   string // of the only cause; empty where the decoder refuses the object as a whole
		wantMessage string
	}{
		"an unknown field of the spec": {
			selector + "dependencies: [{service: db}]\nstatstic: Tail", "", `unknown field "spec.statstic"`,
		},
		"an unknown field of an entry": {
			selector + "dependencies: [{service: db, limits: 20ms}]", "", `unknown field "spec.dependencies[0].limits"`,
		},
		"demand is for clients": {
			selector + "dependencies: [{service: db, demand: http}]", "", `unknown field "spec.dependencies[0].demand"`,
		},
		"a field given twice": {
			selector + "dependencies: [{service: db}]\nstatistic: Tail\nstatistic: Typical", "", `"statistic" already set`,
		},
		"a negative limit": {
			selector + "dependencies: [{service: db, limit: -5ms}]", "spec.dependencies[0].limit", limitMessage,
		},
		"a limit of 0": {
			selector + "dependencies: [{service: db, limit: 0s}]", "spec.dependencies[0].limit", limitMessage,
		},
		"a limit of 0 without a unit": {
			selector + `dependencies: [{service: db, limit: "0"}]`, "spec.dependencies[0].limit", limitMessage,
		},
		"a limit without a unit": {
			selector + `dependencies: [{service: db, limit: "20"}]`, "spec.dependencies[0].limit", limitMessage,
		},
		"a limit that is a number": {
			selector + "dependencies: [{service: db, limit: 20}]", "spec.dependencies[0].limit", "must be of type string",
		},
		"a limit that is no duration": {
			selector + "dependencies: [{service: db, limit: soon}]", "spec.dependencies[0].limit", limitMessage,
		},
		"a limit above a minute": {
			selector + "clients: [{service: ui}, {service: db, limit: 61s}]", "spec.clients[1].limit", limitMessage,
		},
		"a limit too large for a duration": {
			selector + "dependencies: [{service: db, limit: 99999999999999h}]", "spec.dependencies[0].limit", limitMessage,
		},
		"a weight of 0": {
			selector + "dependencies: [{service: db, weight: 0}]", "spec.dependencies[0].weight", "greater than or equal to 1",
		},
		"a weight of 101": {
			selector + "clients: [{service: db, weight: 101}]", "spec.clients[0].weight", "less than or equal to 100",
		},
		"a weight with a fraction": {
			selector + "clients: [{service: db, weight: 1.5}]", "spec.clients[0].weight", "must be of type integer",
		},
		"two targets in one entry": {
			selector + "dependencies: [{service: db, nodes: {matchLabels: {a: b}}}]", "spec.dependencies[0]", targetMessage,
		},
		"three targets in one entry": {
			selector + "clients: [{service: db, nodes: {matchLabels: {a: b}}, pods: {selector: {matchLabels: {a: b}}}}]", "spec.clients[0]", targetMessage,
		},
		"no target in an entry": {
			selector + "dependencies: [{service: db}, {limit: 20ms}]", "spec.dependencies[1]", targetMessage,
		},
		"no entry": {
			selector, "spec", entriesMessage,
		},
		"empty lists of entries": {
			selector + "dependencies: []\nclients: []", "spec", entriesMessage,
		},
		"too many entries": {
			selector + "dependencies: [" + strings.Repeat("{service: db},", 17) + "]", "spec.dependencies", "must have at most 16 items",
		},
		"no selector": {
			"dependencies: [{service: db}]", "spec.selector", "Required value",
		},
		"an empty selector": {
			"selector: {}\ndependencies: [{service: db}]", "spec.selector", selectorMessage,
		},
		"a selector with empty labels": {
			"selector: {matchLabels: {}}\ndependencies: [{service: db}]", "spec.selector", selectorMessage,
		},
		"an empty selector of nodes": {
			selector + "clients: [{nodes: {}}]", "spec.clients[0].nodes", nodesMessage,
		},
		"an empty selector of pods": {
			selector + "clients: [{pods: {selector: {}}}]", "spec.clients[0].pods.selector",
			"the selector is empty and would select every pod; name at least one label",
		},
		"pods without a selector": {
			selector + "clients: [{pods: {namespaceSelector: {}}}]", "spec.clients[0].pods.selector", "Required value",
		},
		"a namespace without a service": {
			selector + "dependencies: [{nodes: {matchLabels: {a: b}}, namespace: other}]", "spec.dependencies[0]",
			"namespace goes with service; for pods use pods.namespaceSelector",
		},
		"a service's name with a dot": {
			selector + "dependencies: [{service: db.other}]", "spec.dependencies[0].service", "should match",
		},
		"an empty service's name": {
			selector + `dependencies: [{service: ""}]`, "spec.dependencies[0].service", "should be at least 1 chars long",
		},
		"an unknown statistic": {
			selector + "dependencies: [{service: db}]\nstatistic: Mean", "spec.statistic", `supported values: "Typical", "Tail"`,
		},
		"an unknown routing": {
			selector + "dependencies: [{service: db, routing: Random}]", "spec.dependencies[0].routing", `supported values: "Nearest", "Any"`,
		},
		"an unknown whenUnsatisfiable": {
			selector + "dependencies: [{service: db}]\nwhenUnsatisfiable: Never", "spec.whenUnsatisfiable", `supported values: "ScheduleAnyway", "DoNotSchedule"`,
		},
		"an unknown whenUnmeasured": {
			selector + "dependencies: [{service: db}]\nwhenUnmeasured: Maybe", "spec.whenUnmeasured", `supported values: "Allow", "Reject"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := createYAML(t.Context(), policyResource, ns, "bad", tc.spec)
			status, ok := errors.AsType[*apierrors.StatusError](err)
			if !ok {
				t.Fatalf("the API server took it: error %v", err)
			}
			if !strings.Contains(err.Error(), tc.wantMessage) {
				t.Errorf("the error lacks %q: %v", tc.wantMessage, err)
			}
			var fields []string
			if status.ErrStatus.Details != nil {
				for _, cause := range status.ErrStatus.Details.Causes {
					if !strings.Contains(cause.Message, notChecked) {
						fields = append(fields, cause.Field)
					}
				}
			}
			var want []string
			if tc.wantField != "" {
				want = []string{tc.wantField}
			}
			if diff := cmp.Diff(want, fields); diff != "" {
				t.Errorf("fields in the error (-want +got):\n%s%v", diff, err)
			}
		})
	}
}

func TestGoodPoliciesAreCompleted(t *testing.T) {
	installCRDs(t)
	ns := newNamespace(t, "good-policies")

	for name, tc := range map[string]struct{ spec, want string }{
		"the least": {
			"{selector: {matchLabels: {app: web}}, dependencies: [{service: db}]}",
			`
selector: {matchLabels: {app: web}}
dependencies: [{service: db, weight: 1}]
clients: []
statistic: Typical
whenUnsatisfiable: ScheduleAnyway
whenUnmeasured: Allow`,
		},
		"clients only, selected by expression": {
			"{selector: {matchExpressions: [{key: app, operator: Exists}]}, clients: [{pods: {selector: {matchLabels: {a: b}}, namespaceSelector: {}}}]}",
			`
selector: {matchExpressions: [{key: app, operator: Exists}]}
dependencies: []
clients: [{pods: {selector: {matchLabels: {a: b}}, namespaceSelector: {}}, weight: 1}]
statistic: Typical
whenUnsatisfiable: ScheduleAnyway
whenUnmeasured: Allow`,
		},
		"everything given": {
			`
selector: {matchLabels: {bb: web}}
dependencies: [{service: redis-master, namespace: data, limit: 1m0s, weight: 100, routing: Any}]
clients: [{nodes: {matchLabels: {fogsched.dev/gateway: "true"}}, demand: http-ingress, limit: 0.5ms, routing: Nearest, weight: 2}]
statistic: Tail
whenUnsatisfiable: DoNotSchedule
whenUnmeasured: Reject`, `
selector: {matchLabels: {bb: web}}
dependencies: [{service: redis-master, namespace: data, limit: 1m0s, weight: 100, routing: Any}]
clients: [{nodes: {matchLabels: {fogsched.dev/gateway: "true"}}, demand: http-ingress, limit: 0.5ms, routing: Nearest, weight: 2}]
statistic: Tail
whenUnsatisfiable: DoNotSchedule
whenUnmeasured: Reject`,
		},
		"limits in every unit": {
			"{selector: {matchLabels: {a: b}}, dependencies: [{service: a, limit: 20ms}, {service: b, limit: 1ns}, {service: c, limit: 500us}, {service: d, limit: 500µs}, {service: e, limit: 1.5s}, {service: f, limit: 1s500ms}]}",
			`
selector: {matchLabels: {a: b}}
dependencies: [{service: a, limit: 20ms, weight: 1}, {service: b, limit: 1ns, weight: 1}, {service: c, limit: 500us, weight: 1}, {service: d, limit: 500µs, weight: 1}, {service: e, limit: 1.5s, weight: 1}, {service: f, limit: 1s500ms, weight: 1}]
clients: []
statistic: Typical
whenUnsatisfiable: ScheduleAnyway
whenUnmeasured: Allow`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			object := strings.ReplaceAll(name, " ", "-")
			object = strings.ReplaceAll(object, ",", "")
			if err := createYAML(t.Context(), policyResource, ns, object, tc.spec); err != nil {
				t.Fatal(err)
			}
			got, err := control.Dynamic().Resource(policyResource).Namespace(ns).Get(t.Context(), object, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var want map[string]any
			if err := yaml.Unmarshal([]byte(tc.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, plainJSON(t, got.Object["spec"])); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			// What the API server completes must be what our types hold.
			typed, err := newClient(t).LatencyPolicies(ns).Get(t.Context(), object, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if typed.Spec.Statistic == "" || typed.Spec.WhenUnsatisfiable == "" || typed.Spec.WhenUnmeasured == "" {
				t.Errorf("defaults are missing: %+v", typed.Spec)
			}
		})
	}
}

func TestBadMeasurementsAreRefused(t *testing.T) {
	installCRDs(t)
	ctx := t.Context()
	const message = "an RTT is a duration with its unit, for example 20ms, above 0 and at most 60s"
	api := control.Dynamic().Resource(nodeLatencyResource)
	if err := createYAML(ctx, nodeLatencyResource, "", "bad-measurements", "{endpoint: '10.0.0.7:8620'}"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), "bad-measurements", metav1.DeleteOptions{}) })

	for name, tc := range map[string]struct{ status, wantField, wantMessage string }{
		"an RTT of 0": {
			"peers: [{node: b, typical: 0s, tail: 1ms, samples: 3}]", "status.peers[0].typical", message,
		},
		"a negative tail": {
			"peers: [{node: b, typical: 1ms, tail: -1ms, samples: 3}]", "status.peers[0].tail", message,
		},
		"an RTT that is not a number": {
			"control: {typical: NaN, tail: 1ms, samples: 3}", "status.control.typical", message,
		},
		"an RTT above a minute": {
			"control: {typical: 1ms, tail: 2m, samples: 3}", "status.control.tail", message,
		},
		"a typical without a tail": {
			"peers: [{node: b, typical: 1ms, samples: 3}]", "status.peers[0]", "typical and tail are given together",
		},
		"a peer without a name": {
			"peers: [{typical: 1ms, tail: 1ms, samples: 3}]", "status.peers[0].node", "Required value",
		},
		"the same peer twice": {
			"peers: [{node: b, samples: 0}, {node: b, samples: 0}]", "status.peers[1]", "Duplicate value",
		},
		"a negative number of samples": {
			"control: {samples: -1}", "status.control.samples", "greater than or equal to 0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := api.Get(ctx, "bad-measurements", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			o.Object["status"] = parseYAML(t, tc.status)
			_, err = api.UpdateStatus(ctx, o, metav1.UpdateOptions{FieldValidation: metav1.FieldValidationStrict})
			if err == nil {
				t.Fatal("the API server took it")
			}
			for _, want := range []string{tc.wantField + ": ", tc.wantMessage} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
		})
	}

	err := createYAML(ctx, nodeLatencyResource, "", "bad-endpoint", "{endpoint: 'db.example:8620'}")
	if err == nil || !strings.Contains(err.Error(), "spec.endpoint: ") {
		t.Errorf("an endpoint that is no address: error %v, want one about spec.endpoint", err)
	}
}

// A full NodeLatency is the largest object that the rules have to get through.
func TestLargestNodeLatencyIsTaken(t *testing.T) {
	installCRDs(t)
	ctx := t.Context()
	api := newClient(t).NodeLatencies()
	o, err := api.Create(ctx, &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: "largest"}}, strictCreate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), "largest", metav1.DeleteOptions{}) })
	for i := range 1024 {
		rtt := metav1.Duration{Duration: time.Duration(i+1) * 12345 * time.Nanosecond}
		o.Status.Peers = append(o.Status.Peers, v1alpha1.PeerLatency{
			Node:        fmt.Sprintf("%s-%04d", strings.Repeat("n", 200), i),
			Measurement: v1alpha1.Measurement{Typical: &rtt, Tail: &rtt, Samples: 20},
		})
	}
	if _, err := api.UpdateStatus(ctx, o, metav1.UpdateOptions{FieldValidation: metav1.FieldValidationStrict}); err != nil {
		t.Errorf("1024 peers: %v", err)
	}
}

func TestStatusIsApart(t *testing.T) {
	installCRDs(t)
	ns := newNamespace(t, "status-apart")
	ctx := t.Context()
	c := newClient(t)

	policy := &v1alpha1.LatencyPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: v1alpha1.LatencyPolicySpec{
			Selector:    metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			LatencySpec: v1alpha1.LatencySpec{Dependencies: []v1alpha1.Entry{{Service: "db"}}},
		},
		Status: v1alpha1.LatencyPolicyStatus{Pods: 7},
	}
	created, err := c.LatencyPolicies(ns).Create(ctx, policy, strictCreate)
	if err != nil {
		t.Fatal(err)
	}
	if created.Status.Pods != 0 {
		t.Errorf("creating a policy wrote its status: %+v", created.Status)
	}
	created.Status.Pods = 3
	created.Spec.Statistic = v1alpha1.StatisticTail
	updated, err := c.LatencyPolicies(ns).UpdateStatus(ctx, created, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if updated.Status.Pods != 3 || updated.Spec.Statistic != v1alpha1.StatisticTypical || updated.Generation != 1 {
		t.Errorf("updating the status: pods %d, statistic %s, generation %d; want 3, Typical, 1",
			updated.Status.Pods, updated.Spec.Statistic, updated.Generation)
	}
	updated.Spec.Statistic = v1alpha1.StatisticTail
	updated.Status.Pods = 9
	updated, err = c.LatencyPolicies(ns).Update(ctx, updated, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if updated.Status.Pods != 3 || updated.Spec.Statistic != v1alpha1.StatisticTail || updated.Generation != 2 {
		t.Errorf("updating the spec: pods %d, statistic %s, generation %d; want 3, Tail, 2",
			updated.Status.Pods, updated.Spec.Statistic, updated.Generation)
	}

	node, err := c.NodeLatencies().Create(ctx, &v1alpha1.NodeLatency{
		ObjectMeta: metav1.ObjectMeta{Name: "status-apart"},
		Spec:       v1alpha1.NodeLatencySpec{Endpoint: "10.0.0.7:8620"},
		Status:     v1alpha1.NodeLatencyStatus{Control: &v1alpha1.Measurement{Samples: 4}},
	}, strictCreate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.NodeLatencies().Delete(context.Background(), node.Name, metav1.DeleteOptions{}) })
	if node.Status.Control != nil {
		t.Errorf("creating a NodeLatency wrote its status: %+v", node.Status)
	}
	node.Status.Control = &v1alpha1.Measurement{Samples: 5}
	node.Spec.Endpoint = "10.0.0.8:8620"
	if node, err = c.NodeLatencies().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if node.Status.Control == nil || node.Status.Control.Samples != 5 || node.Spec.Endpoint != "10.0.0.7:8620" {
		t.Errorf("updating the status: %+v, %+v", node.Spec, node.Status)
	}
}

// TestColumns asks for what kubectl get shows.
func TestColumns(t *testing.T) {
	installCRDs(t)
	ns := newNamespace(t, "columns")
	ctx := t.Context()
	c := newClient(t)

	if err := createYAML(ctx, policyResource, ns, "web", "{selector: {matchLabels: {a: b}}, dependencies: [{service: db, limit: 20ms}]}"); err != nil {
		t.Fatal(err)
	}
	policy, err := c.LatencyPolicies(ns).Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	policy.Status = v1alpha1.LatencyPolicyStatus{
		Pods:    3,
		Typical: &metav1.Duration{Duration: 12 * time.Millisecond},
		Tail:    &metav1.Duration{Duration: 30 * time.Millisecond},
		Worst:   "edge-7 → edge-2 (31ms)",
		Conditions: []metav1.Condition{
			{Type: "Other", Status: metav1.ConditionTrue, Reason: "Other", LastTransitionTime: metav1.Now()},
			{Type: v1alpha1.ConditionLimitsKept, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonBroken, LastTransitionTime: metav1.Now()},
		},
	}
	if _, err := c.LatencyPolicies(ns).UpdateStatus(ctx, policy, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/apis/%s/namespaces/%s/%s", v1alpha1.GroupVersion, ns, client.LatencyPolicies)
	assertTable(t, path,
		[]string{"Name", "Pods", "Limits", "Typical", "Tail", "Worst", "Age"},
		[]string{"web", "3", "Broken", "12ms", "30ms", "edge-7 → edge-2 (31ms)"})

	node, err := c.NodeLatencies().Create(ctx, &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: "columns"}}, strictCreate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.NodeLatencies().Delete(context.Background(), node.Name, metav1.DeleteOptions{}) })
	now := metav1.Now()
	rtt := &metav1.Duration{Duration: 40 * time.Microsecond}
	node.Status = v1alpha1.NodeLatencyStatus{
		ObservedAt: &now,
		Control:    &v1alpha1.Measurement{Typical: rtt, Tail: rtt, Samples: 20},
		Summary:    &v1alpha1.LatencySummary{Peers: 23, Nearest: "edge-2 (3ms)", Median: "24ms", Farthest: "edge-9 (80ms)", Loss: "0.4%"},
	}
	if _, err := c.NodeLatencies().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	assertTable(t, fmt.Sprintf("/apis/%s/%s/columns", v1alpha1.GroupVersion, client.NodeLatencies),
		[]string{"Name", "Peers", "Nearest", "Median", "Farthest", "Loss", "Control", "Measured"},
		[]string{"columns", "23", "edge-2 (3ms)", "24ms", "edge-9 (80ms)", "0.4%", "40µs"})

	for short, want := range map[string]string{"lp": client.LatencyPolicies, "nl": client.NodeLatencies} {
		list, err := control.Client().Discovery().ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for _, r := range list.APIResources {
			if len(r.ShortNames) == 1 && r.ShortNames[0] == short && len(r.Categories) == 1 && r.Categories[0] == "fogsched" {
				got = r.Name
			}
		}
		if got != want {
			t.Errorf("the short name %s stands for %q, want %q", short, got, want)
		}
	}
}

// TestNodeLatencyGoesWithItsNode leans on the garbage collector, which looks for new kinds every 30 s.
func TestNodeLatencyGoesWithItsNode(t *testing.T) {
	t.Parallel()
	installCRDs(t)
	ctx := t.Context()
	nodes := control.Client().CoreV1().Nodes()
	api := newClient(t).NodeLatencies()
	for _, name := range []string{"gc-gone", "gc-stays"} {
		node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = api.Create(ctx, &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{
			Name:            name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: node.UID}},
		}}, strictCreate)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = nodes.Delete(context.Background(), name, metav1.DeleteOptions{})
			_ = api.Delete(context.Background(), name, metav1.DeleteOptions{})
		})
	}
	if err := nodes.Delete(ctx, "gc-gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	poll(t, 90*time.Second, "the NodeLatency to go with its Node", func(ctx context.Context) (string, error) {
		_, err := api.Get(ctx, "gc-gone", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "it is still there", err
	})
	if _, err := api.Get(ctx, "gc-stays", metav1.GetOptions{}); err != nil {
		t.Errorf("the NodeLatency of a Node that is there: %v", err)
	}
}

func newClient(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(control.Config())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// createYAML sends a spec in YAML as it stands, so that what a user may write and our types cannot hold reaches the API server.
func createYAML(ctx context.Context, resource schema.GroupVersionResource, namespace, name, spec string) error {
	kind := map[schema.GroupVersionResource]string{policyResource: "LatencyPolicy", nodeLatencyResource: "NodeLatency"}[resource]
	path := []string{"apis", resource.Group, resource.Version}
	if namespace != "" {
		path = append(path, "namespaces", namespace)
	}
	body := fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s}\nspec:\n", resource.GroupVersion(), kind, name)
	for line := range strings.Lines(strings.TrimSpace(spec)) {
		body += "  " + line
	}
	return control.Client().CoreV1().RESTClient().Post().
		AbsPath(append(path, resource.Resource)...).
		SetHeader("Content-Type", "application/yaml").
		Param("fieldValidation", metav1.FieldValidationStrict).
		Body([]byte(body)).Do(ctx).Error()
}

func assertTable(t *testing.T, path string, wantColumns, wantCells []string) {
	t.Helper()
	raw, err := control.Client().CoreV1().RESTClient().Get().AbsPath(path).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(raw, &table); err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, column := range table.ColumnDefinitions {
		columns = append(columns, column.Name)
	}
	if diff := cmp.Diff(wantColumns, columns); diff != "" {
		t.Errorf("columns of %s (-want +got):\n%s", path, diff)
	}
	if len(table.Rows) != 1 {
		t.Fatalf("%s has %d rows, want 1", path, len(table.Rows))
	}
	var cells []string
	for _, cell := range table.Rows[0].Cells {
		cells = append(cells, fmt.Sprint(cell))
	}
	if len(cells) != len(wantColumns) {
		t.Fatalf("%s has cells %v for columns %v", path, cells, wantColumns)
	}
	// The last cell is an age.
	if diff := cmp.Diff(wantCells, cells[:len(cells)-1]); diff != "" {
		t.Errorf("cells of %s (-want +got):\n%s", path, diff)
	}
	if age := cells[len(cells)-1]; !strings.HasSuffix(age, "s") {
		t.Errorf("%s ends in %q, want an age in seconds", path, age)
	}
}

func parseYAML(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.UnmarshalStrict([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// plainJSON gives numbers the types that parsing YAML gives them.
func plainJSON(t *testing.T, v any) map[string]any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}
