// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

const zone, region = "topology.kubernetes.io/zone=", "topology.kubernetes.io/region="

// small is a cluster of which all kinds of provenance occur.
func small() []runtime.Object {
	van := clitest.Latency("van", "berlin-1=42ms")
	at := func(nl *v1alpha1.NodeLatency, micros int64) *v1alpha1.NodeLatency {
		nl.Status.Coordinate = &v1alpha1.NetworkCoordinate{VectorMicros: []int64{micros, 0, 0, 0, 0, 0, 0, 0}, HeightMicros: 100, ErrorPercent: 20}
		return nl
	}
	return []runtime.Object{
		clitest.Node("berlin-1", region+"eu", zone+"berlin", "gateway=yes"), clitest.Node("berlin-2", region+"eu", zone+"berlin"),
		clitest.Node("munich-1", region+"eu", zone+"münchen"), clitest.Node("munich-2", region+"eu", zone+"münchen"),
		clitest.Node("東京-エッジ-1", region+"asia", zone+"東京"),
		clitest.Node("van"), clitest.Node("unheard-of"),
		at(clitest.Latency("berlin-1", "berlin-2=500us", "munich-1=8.8ms", "munich-2=9.1ms", "東京-エッジ-1=231ms"), 0),
		at(clitest.Latency("berlin-2", "munich-1=9.2ms"), 300),
		at(clitest.Latency("munich-1", "munich-2=lost"), 9000),
		at(van, 40_000),
		clitest.Latency("東京-エッジ-1"),
	}
}

// large is a cluster of zones with ten nodes each, of which each node measured two.
func large(zones int, regions bool) []runtime.Object {
	var out []runtime.Object
	name := func(z, i int) string { return fmt.Sprintf("node-%02d-%d", z, i) }
	for z := range zones {
		for i := range 10 {
			labels := []string{fmt.Sprintf("%szone-%02d", zone, z)}
			if regions {
				labels = append(labels, fmt.Sprintf("%sregion-%d", region, z/10))
			}
			next := (z + 1) % zones
			out = append(out, clitest.Node(name(z, i), labels...),
				clitest.Latency(name(z, i), fmt.Sprintf("%s=%dus", name(z, (i+1)%10), 300+10*i), fmt.Sprintf("%s=%dms", name(next, i), 10+z+i)))
		}
	}
	return out
}

func TestMatrix(t *testing.T) {
	withoutZones := func() (out []runtime.Object) {
		for i := range 40 {
			out = append(out, clitest.Node(fmt.Sprintf("node-%02d", i)), clitest.Latency(fmt.Sprintf("node-%02d", i), fmt.Sprintf("node-%02d=%dms", (i+1)%40, i+1)))
		}
		return out
	}
	for _, tc := range []struct {
		name    string
		objects []runtime.Object
		width   int
		args    []string
	}{
		{"nodes", small(), 0, nil},
		{"nodes-tail", small(), 120, []string{"--statistic", "tail"}},
		{"nodes-120", small(), 120, nil},
		{"nodes-80", small(), 80, nil},
		{"nodes-40", small(), 40, nil},
		{"nodes-color", small(), 100, []string{"--color=always"}},
		{"nodes-wide", small(), 0, []string{"-o", "wide"}},
		{"nodes-wide-80", small(), 80, []string{"-o", "wide"}},
		{"nodes-json", small(), 0, []string{"-o", "json"}},
		{"nodes-yaml", small(), 0, []string{"-o", "yaml", "--from", "gateway=yes", "--to", zone + "berlin"}},
		{"from", small(), 80, []string{"--from", "gateway=yes"}},
		{"from-40", small(), 40, []string{"--from", "gateway=yes"}},
		{"by-zone", small(), 0, []string{"--by", "zone"}},
		{"none", small(), 0, []string{"--from", zone + "paris"}},
		{"zones", large(4, true), 0, nil},
		{"zones-80", large(12, true), 80, nil},
		{"zones-40", large(4, true), 40, nil},
		{"zones-wide", large(4, false), 0, []string{"-o", "wide"}},
		{"zones-wide-40", large(4, true), 40, []string{"-o", "wide"}},
		{"zones-json", large(4, true), 0, []string{"-o", "json"}},
		{"regions", large(33, true), 0, nil},
		{"regions-none", withoutZones(), 0, nil},
		{"empty", nil, 80, nil},
		{"empty-json", nil, 0, []string{"-o", "json"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := clitest.NewServer(t, tc.objects...).Run(t, NewCommand, tc.width, nil, tc.args...)
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

func TestMatrixJSONIsOneDocument(t *testing.T) {
	for _, tc := range []struct {
		objects []runtime.Object
		want    int
	}{{small(), 7 * 6}, {nil, 0}, {[]runtime.Object{clitest.Node("alone")}, 0}} {
		r := clitest.NewServer(t, tc.objects...).Run(t, NewCommand, 0, nil, "-o", "json")
		if r.Error != nil {
			t.Fatal(r.Error)
		}
		var m Matrix
		if err := json.Unmarshal([]byte(r.Out), &m); err != nil {
			t.Fatalf("%v in %s", err, r.Out)
		}
		if m.By != "node" || len(m.Pairs) != tc.want {
			t.Errorf("by %s, %d pairs, want %d by node", m.By, len(m.Pairs), tc.want)
		}
	}
}

func TestMatrixErrors(t *testing.T) {
	for _, tc := range []struct {
		name      string
		forbidden []string
		noCRDs    bool
		args      []string
		want      string
	}{
		{"no permission for nodes", []string{"list nodes"}, false, nil, `the verb "list" on "nodes"`},
		{"no permission for reports", []string{"list nodelatencies"}, false, nil, `the verb "list" on "nodelatencies.fogsched.dev"`},
		{"no CRDs", nil, true, nil, "the CRDs of fogsched.dev are not installed"},
		{"bad statistic", nil, false, []string{"--statistic=p99"}, "--statistic=p99: want typical or tail"},
		{"bad grouping", nil, false, []string{"--by=rack"}, "--by=rack: want node, zone or region"},
		{"bad selector", nil, false, []string{"--from=a=b=c"}, "--from=a=b=c: "},
		{"bad selector of columns", nil, false, []string{"--to=,,"}, "--to=,,: "},
		{"bad format", nil, false, []string{"-o", "csv"}, "-o csv: want wide, json, yaml"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := clitest.NewServer(t, small()...)
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
