// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/fogsched/fogsched/test/cluster"
)

// Where the CRDs are not installed there are annotations and a table of zones; once they are, measurements and policies decide,
// without a restart.
func TestWithoutCRDs(t *testing.T) {
	t.Parallel() // it has a control plane of its own
	ctx := t.Context()
	c, err := cluster.Start(ctx, cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)

	manifest, err := cluster.Kustomize(overlay)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := cluster.ParseYAML(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var kept []*unstructured.Unstructured
	for _, o := range objects {
		switch o.GetKind() {
		case "CustomResourceDefinition", "Deployment", "DaemonSet":
		default:
			kept = append(kept, o)
		}
	}
	if err := c.Apply(ctx, kept...); err != nil {
		t.Fatal(err)
	}
	at := map[string]float64{"a-0": 0, "a-1": 1, "b-0": 100, "c-0": 110}
	for name := range at {
		zone, _, _ := strings.Cut(name, "-")
		if err := c.AddNodes(ctx, cluster.Node{Name: name, Labels: map[string]string{
			corev1.LabelTopologyZone: zone, entryLabel: "true", "site": zone,
		}}); err != nil {
			t.Fatal(err)
		}
	}
	zones := filepath.Join(t.TempDir(), "zones.yaml")
	table := "within: {zone: 1ms}\npairs:\n- {between: [a, b], typical: 10ms}\n- {between: [b, c], typical: 20ms}\n- {between: [a, c], typical: 30ms}\n"
	if err := os.WriteFile(zones, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	shipped, err := shippedConfig(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	scheduler, err := startFogsched(ctx, c, configFor(shipped, "{zonesFile: "+zones+"}", schedulerName))
	if err != nil {
		t.Fatal(err)
	}
	f := fixtureIn(t, c, scheduler)
	f.at = at

	// By the table, b is 10 ms from a and 20 ms from c.
	const notInstalled = "The CRDs of fogsched.dev are not installed"
	f.service("db", set("app", "db"))
	f.wantPlace("b-0", "db", onNode("b-0"))
	f.wantPlace("a-1", "web", onNodes("a-1", "c-0"), withLatency(`{"dependencies":[{"service":"db"}]}`))
	f.wantAll("the placement annotation", f.pod("web").Annotations["fogsched.dev/placement"], `"typical":"10ms"`, `"provenance":"zone"`)
	f.wantPlace("b-0", "anywhere", withLatency(`{"clients":[{"nodes":`+entriesOf("a", "b", "c")+`,"routing":"Any"}]}`), notIn("site", "a"))
	// A table is no measurement, so a limit can neither rest on it nor fail by it.
	f.wantPlace("a-1", "allowed", onNodes("a-1", "c-0"), withLatency(
		`{"dependencies":[{"service":"db","limit":"1ms"}],"whenUnsatisfiable":"DoNotSchedule"}`))
	f.create("waits", onNodes("a-1", "c-0"), withLatency(
		`{"dependencies":[{"service":"db","limit":"15ms"}],"whenUnsatisfiable":"DoNotSchedule","whenUnmeasured":"Reject"}`))
	f.wantAll("the message", f.unschedulable("waits"), "2 node(s) have no measured latency for the limit")
	if n := strings.Count(f.log(), notInstalled); n != 1 {
		t.Errorf("the log says %d times that the CRDs are not installed, want once", n)
	}

	if err := c.ApplyKustomize(ctx, cluster.CRDs); err != nil {
		t.Fatal(err)
	}
	// By measurement it is the other way round: 11 ms from c, 100 ms from a.
	f.publish(onLine(at))
	f.wantNode("waits", f.node("waits"), "c-0")
	f.wantPlace("c-0", "measured", onNodes("a-1", "c-0"), withLatency(`{"dependencies":[{"service":"db"}]}`))
	f.wantAll("the placement annotation", f.pod("measured").Annotations["fogsched.dev/placement"], `"typical":"11ms"`, `"provenance":"measured"`)
	f.policy("web", `{"selector":{"matchLabels":{"app":"governed"}},"dependencies":[{"service":"db"}]}`)
	f.wantPlace("c-0", "governed", onNodes("a-1", "c-0"))

	// What is not measured any more comes from the table again.
	f.publish(func(from, to string) (time.Duration, bool) {
		rtt, ok := onLine(at)(from, to)
		return rtt, ok && from != "b-0" && to != "b-0"
	})
	f.wantPlace("a-1", "table", onNodes("a-1", "c-0"), withLatency(`{"dependencies":[{"service":"db"}]}`))

	log := f.log()
	if n := strings.Count(log, notInstalled); n != 1 {
		t.Errorf("the log says %d times that the CRDs are not installed, want once", n)
	}
	if n := strings.Count(log, "Following the objects of a CRD"); n != 2 {
		t.Errorf("the log says %d times that a CRD is followed, want twice", n)
	}
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "E") && strings.Contains(line, "fogsched.dev") {
			t.Errorf("the log has an error about the CRDs: %s", line)
		}
	}
}
