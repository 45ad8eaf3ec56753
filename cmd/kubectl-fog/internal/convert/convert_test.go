// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
)

func TestConvert(t *testing.T) {
	s := clitest.NewServer(t)
	for _, test := range []struct {
		name string
		args []string
	}{
		{"the objects of an application and its network", []string{"-f", "testdata/boutique.yaml"}},
		{"the same as JSON, with hard limits and another unit", []string{"-f", "testdata/boutique.yaml", "-o", "json", "--hard", "--cost-unit", "500us"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := s.Run(t, NewCommand, 0, nil, test.args...)
			if r.Error != nil {
				t.Fatal(r.Error)
			}
			name := strings.ReplaceAll(test.name, " ", "-")
			clitest.Golden(t, name+".golden", r.Out)
			clitest.Golden(t, name+".notes.golden", r.Err)
		})
	}
}

func TestConvertRefuses(t *testing.T) {
	s := clitest.NewServer(t)
	const group = `
apiVersion: appgroup.diktyo.x-k8s.io/v1alpha1
kind: AppGroup
metadata: {name: g}
spec:
  numMembers: 2
  topologySortingAlgorithm: KahnSort
  workloads:
  - workload: {kind: Deployment, name: a, selector: a}
    dependencies:
    - {workload: {kind: Deployment, name: b, selector: b}, maxNetworkCost: 10}
`
	for _, test := range []struct {
		name, text string
		args       []string
		want       string
	}{
		{"a field that is none", strings.Replace(group, "numMembers", "members", 1), nil, `document 1: json: unknown field "members"`},
		{"a limit beyond what is believed", group, []string{"--cost-unit", "10s"}, "maxNetworkCost 10 of the dependency on b is 1m40s with --cost-unit 10s, and a limit at most 60s: choose a smaller unit"},
		{"a unit that is none", group, []string{"--cost-unit", "-1ms"}, "--cost-unit=-1ms: want a duration above 0 and at most 1m"},
		{"an output that is none", group, []string{"-o", "wide"}, "-o wide: want yaml or json"},
		{"no object", "# nothing\n", nil, "the files have no AppGroup and no NetworkTopology"},
		{"a selector that no label can have", strings.Replace(group, "selector: b", "selector: b b", 1), nil, "AppGroup g, workload a: "},
		{
			"weights that are not there", "kind: NetworkTopology\nmetadata: {name: net}\nspec: {configmapName: c, weights: [{name: NetPerf, topologyList: []}]}\n",
			[]string{"--weights", "Mine"},
			`NetworkTopology net has no weights "Mine"; it has ["NetPerf"]`,
		},
		{"no YAML", "a: [", nil, "document 1: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "in.yaml")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			r := s.Run(t, NewCommand, 0, nil, append([]string{"-f", path}, test.args...)...)
			if r.Error == nil || !strings.Contains(r.Error.Error(), test.want) {
				t.Errorf("error %v, want %q", r.Error, test.want)
			}
			if r.Out != "" {
				t.Errorf("output beside the error:\n%s", r.Out)
			}
		})
	}
}
