// SPDX-License-Identifier: Apache-2.0

package completion

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/matrix"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/nodes"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/policy"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

func root(o *cli.Options) *cobra.Command {
	r := &cobra.Command{Use: "fog"}
	o.AddFlags(r.PersistentFlags())
	r.AddCommand(NewCommand(o), nodes.NewCommand(o), matrix.NewCommand(o), policy.NewCommand(o))
	return r
}

func TestScripts(t *testing.T) {
	for shell, want := range map[string]string{
		"plugin": `exec kubectl fog __complete "$@"`, "bash": "__start_kubectl-fog", "zsh": "#compdef kubectl-fog",
		"fish": "complete -c kubectl-fog", "powershell": "Register-ArgumentCompleter",
	} {
		r := clitest.Run(t, filepath.Join(t.TempDir(), "none"), root, 0, nil, "completion", shell)
		if r.Error != nil || !strings.Contains(r.Out, want) {
			t.Errorf("%s: error %v; want %q in\n%.300s", shell, r.Error, want, r.Out)
		}
		check := exec.Command("sh", "-n")
		switch shell {
		case "bash":
			check = exec.Command("bash", "-n")
		case "plugin":
		default:
			continue
		}
		check.Stdin = strings.NewReader(r.Out)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s cannot read the script: %v: %s", shell, err, out)
		}
	}
}

func TestUnknownShell(t *testing.T) {
	for _, args := range [][]string{{"completion"}, {"completion", "tcsh"}} {
		r := clitest.Run(t, filepath.Join(t.TempDir(), "none"), root, 0, nil, args...)
		if r.Error == nil || r.Out != "" {
			t.Errorf("%v: error %v, output %q; want an error and none", args, r.Error, r.Out)
		}
	}
}

// What shells are told is what is in the cluster.
func TestCompletes(t *testing.T) {
	policy := &v1alpha1.LatencyPolicy{}
	policy.Namespace, policy.Name, policy.Labels = "default", "web", map[string]string{"team": "shop"}
	other := &v1alpha1.LatencyPolicy{}
	other.Namespace, other.Name = "other", "api"
	s := clitest.NewServer(t, clitest.Node("berlin-1", "zone=berlin"), clitest.Node("berlin-2", "zone=berlin"), clitest.Node("van"), policy, other)
	for _, tc := range []struct{ args, want string }{
		{"nodes |", "berlin-1 berlin-2 van :4"},
		{"nodes |b", "berlin-1 berlin-2 :4"},
		{"nodes berlin-1 |", "berlin-2 van :4"},
		{"nodes -l |zo", "zone= :6"},
		{"nodes -l |zone=", "zone=berlin :4"},
		{"nodes -l |a=b,zone=b", "a=b,zone=berlin :4"},
		{"matrix --from |zone=", "zone=berlin :4"},
		{"matrix --by |", "node zone region :4"},
		{"matrix --statistic |", "typical tail :4"},
		{"matrix |", ":4"},
		{"policy status |", "web :4"},
		{"policy status -n other |", "api :4"},
		{"policy status -l |team=", "team=shop :4"},
		{"policy status -o |", "wide json yaml :4"},
		{"completion |", "plugin bash zsh fish powershell :4"},
	} {
		before, last, _ := strings.Cut(tc.args, "|")
		args := append(append([]string{"__completeNoDesc"}, strings.Fields(before)...), last)
		r := s.Run(t, root, 0, nil, args...)
		if r.Error != nil {
			t.Fatal(r.Error)
		}
		got := strings.Join(strings.Fields(r.Out), " ")
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.args, got, tc.want)
		}
	}
}
