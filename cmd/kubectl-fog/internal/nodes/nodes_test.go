// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/placement"
)

const zone, region = "topology.kubernetes.io/zone=", "topology.kubernetes.io/region="

// example is a cluster with one node of every kind.
func example() []runtime.Object {
	old := metav1.NewTime(clitest.Now.Add(-7 * time.Minute))
	stale := clitest.Latency("munich-1", "berlin-1=9ms")
	stale.Status.ObservedAt, stale.Status.Peers[0].At = &old, &old
	starved := clitest.Latency("munich-2", "berlin-1=30ms")
	starved.Status.Starved = true
	slow := metav1.Duration{Duration: 4200 * time.Microsecond}
	starved.Status.Control.Typical = &slow
	lossy := clitest.Latency("berlin-2", "berlin-1=480us", "münchen-3=10.4ms")
	lossy.Status.Peers[0].Lost = 2
	down := clitest.Node("berlin-2", region+"eu", zone+"berlin")
	down.Status.Conditions[0].Status = "False"
	cordoned := clitest.Node("münchen-3", region+"eu", zone+"münchen")
	cordoned.Spec.Unschedulable = true
	placed := clitest.Node("munich-2", region+"eu", zone+"münchen")
	placed.Annotations = map[string]string{v1alpha1.PositionAnnotation: "48 N 11 E"}
	return []runtime.Object{
		clitest.Node("berlin-1", region+"eu", zone+"berlin"), down,
		clitest.Node("munich-1", region+"eu", zone+"münchen"), placed, cordoned,
		clitest.Node("東京-エッジ-1", region+"asia", zone+"東京"),
		clitest.Node("van"),
		clitest.Latency("berlin-1", "berlin-2=500us", "munich-1=8.8ms", "munich-2=9.1ms", "münchen-3=10.2ms", "東京-エッジ-1=231ms"),
		lossy, stale, starved,
		clitest.Latency("münchen-3", "berlin-1=10ms", "berlin-2=lost"),
		&v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: "東京-エッジ-1"}},
	}
}

func TestNodes(t *testing.T) {
	for _, tc := range []struct {
		name        string
		width       int
		environment []string
		args        []string
	}{
		{"table", 0, nil, nil},
		{"wide", 0, nil, []string{"-o", "wide"}},
		{"json", 0, nil, []string{"-o", "json"}},
		{"yaml", 0, nil, []string{"-o", "yaml", "van"}},
		{"columns-40", 40, nil, nil},
		{"columns-80", 80, nil, nil},
		{"columns-120", 120, nil, nil},
		{"color", 100, nil, []string{"--color=always"}},
		{"selector", 0, nil, []string{"-l", zone + "berlin"}},
		{"selector-of-none", 0, nil, []string{"-l", zone + "paris"}},
		{"names", 0, nil, []string{"van", "berlin-1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := clitest.NewServer(t, example()...).Run(t, NewCommand, tc.width, tc.environment, tc.args...)
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

func TestNodesOfAnEmptyCluster(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
	}{{"empty", nil}, {"empty-json", []string{"-o", "json"}}} {
		r := clitest.NewServer(t).Run(t, NewCommand, 80, nil, tc.args...)
		if r.Error != nil {
			t.Fatal(r.Error)
		}
		clitest.Golden(t, tc.name+".txt", r.Out)
	}
}

func TestNodesErrors(t *testing.T) {
	for _, tc := range []struct {
		name      string
		forbidden []string
		noCRDs    bool
		args      []string
		want      string
	}{
		{"no permission for nodes", []string{"list nodes"}, false, nil, `the verb "list" on "nodes"`},
		{"no permission for reports", []string{"list nodelatencies"}, false, nil, `the verb "list" on "nodelatencies.fogsched.dev"`},
		{"no permission to watch", []string{"watch nodes"}, false, []string{"--watch"}, `the verb "watch" on "nodes"`},
		{"no CRDs", nil, true, nil, "the CRDs of fogsched.dev are not installed"},
		{"no CRDs to watch", nil, true, []string{"-w"}, "the CRDs of fogsched.dev are not installed"},
		{"unknown node", nil, false, []string{"berlin-9"}, `there is no node "berlin-9" (kubectl get nodes lists them)`},
		{"node without the labels", nil, false, []string{"van", "-l", zone + "berlin"}, `node "van" has not the labels of --selector=` + zone + "berlin"},
		{"bad selector", nil, false, []string{"-l", "a=b=c"}, "--selector=a=b=c: "},
		{"bad format", nil, false, []string{"-o", "xml"}, "-o xml: want wide, json, yaml"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := clitest.NewServer(t, example()...)
			s.Forbidden, s.NoCRDs = tc.forbidden, tc.noCRDs
			r := s.Run(t, NewCommand, 0, nil, tc.args...)
			if r.Error == nil || !strings.Contains(r.Error.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", r.Error, tc.want)
			}
			if r.Out != "" {
				t.Errorf("an error, and output: %s", r.Out)
			}
		})
	}
}

// A node whose measurements most others contradict is marked, as is one whose position cannot be true.
func TestNodesThatAreNotBelieved(t *testing.T) {
	at := func(name, position string) *v1.Node {
		n := clitest.Node(name, zone+"berlin")
		n.Annotations = map[string]string{v1alpha1.PositionAnnotation: position}
		return n
	}
	var objects []runtime.Object
	honest := func(i int) string { return fmt.Sprintf("node-%d", i) }
	for i := range 8 {
		peers := []string{"liar=40ms", "misplaced=1ms"}
		for j := range 8 {
			if i != j {
				peers = append(peers, honest(j)+"=1ms")
			}
		}
		objects = append(objects, at(honest(i), "52.52,13.40"), clitest.Latency(honest(i), peers...))
	}
	var lies, truths []string
	for i := range 8 {
		lies, truths = append(lies, honest(i)+"=100us"), append(truths, honest(i)+"=1ms")
	}
	objects = append(objects, clitest.Node("liar", zone+"berlin"), clitest.Latency("liar", lies...),
		at("misplaced", "-33.87,151.21"), clitest.Latency("misplaced", truths...))
	r := clitest.NewServer(t, objects...).Run(t, NewCommand, 0, nil, "liar", "misplaced", "node-0")
	if r.Error != nil {
		t.Fatal(r.Error)
	}
	clitest.Golden(t, "not-believed.txt", r.Out)
}

func TestMedian(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := 1; n < 300; n++ {
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(r.IntN(1 + n/2)) // some are equal
		}
		sorted := slices.Sorted(slices.Values(values))
		want := (sorted[(n-1)/2] + sorted[n/2]) / 2
		if got := placement.Median(values); got != want {
			t.Fatalf("median of %v is %v, want %v", sorted, got, want)
		}
	}
}
