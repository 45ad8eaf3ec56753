// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
)

// files is a folder of testdata that holds no golden files.
const files = "testdata/files/"

// offline runs the command without a cluster.
func offline(t *testing.T, in string, width int, args ...string) clitest.Result {
	t.Helper()
	command := func(o *cli.Options) *cobra.Command {
		o.In = strings.NewReader(in)
		return NewCommand(o)
	}
	return clitest.Run(t, filepath.Join(t.TempDir(), "there-is-no-kubeconfig"), command, width, nil, append([]string{"check"}, args...)...)
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		width    int
		args     []string
		bad      bool
	}{
		{"check-good", "", 0, []string{"-f", files + "good.yaml"}, false},
		{"check-bad-policy", "", 0, []string{"-f", files + "bad-policy.yaml"}, true},
		{"check-bad-annotations", "", 0, []string{"-f", files + "bad-annotations.yaml"}, true},
		{"check-warnings", "", 0, []string{"-f", files + "warnings.yaml"}, true},
		{"check-default-scheduler", "", 0, []string{"-f", files + "warnings.yaml", "--scheduler=default-scheduler", "--scheduler=other"}, true},
		{"check-syntax", "", 0, []string{"-f", files + "syntax.yaml"}, true},
		{"check-json-with-tabs", "", 0, []string{"-f", files + "policy.json"}, true},
		{"check-80", "", 80, []string{"-f", files + "bad-policy.yaml"}, true},
		{"check-40", "", 40, []string{"-f", files + "bad-annotations.yaml"}, true},
		{"check-color", "", 0, []string{"-f", files + "warnings.yaml", "--color=always"}, true},
		{"check-json", "", 0, []string{"-f", files + "bad-policy.yaml", "-o", "json"}, true},
		{"check-yaml", "", 0, []string{"-f", files + "good.yaml", "-o", "yaml"}, false},
		{"check-folder", "", 0, []string{"-f", files}, true},
		{"check-nothing", "", 0, []string{"-f", "-"}, false},
		{"check-stdin", "# nothing\n---\nkind: Pod\napiVersion: v1\nmetadata: {name: a, annotations: {fogsched.dev/latency: '{}'}}\n", 0, []string{"-f", "-"}, true},
		{"check-no-object", "[1, 2]\n---\njust a text\n", 0, []string{"-f", "-"}, true},
		{"check-alias", "a: &e\n- {service: db, limt: 1ms}\napiVersion: fogsched.dev/v1alpha1\nkind: LatencyPolicy\nmetadata: {name: x}\nspec: {selector: {matchLabels: {a: b}}, dependencies: *e}\n", 0, []string{"-f", "-"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := offline(t, tc.in, tc.width, tc.args...)
			if tc.bad != errors.Is(r.Error, cli.ErrSilent) || !tc.bad && r.Error != nil {
				t.Errorf("error %v, want the exit code 1: %v", r.Error, tc.bad)
			}
			if strings.Contains(r.Out, "\x1b") != slices.Contains(tc.args, "--color=always") {
				t.Error("colours where there should be none, or none where there should be some")
			}
			clitest.Golden(t, tc.name+".txt", r.Out)
		})
	}
}

func TestCheckLooksIntoFoldersOfFolders(t *testing.T) {
	count := func(args ...string) int {
		r := offline(t, "", 0, append(args, "-f", files, "-o", "json")...)
		var report Report
		if err := json.Unmarshal([]byte(r.Out), &report); err != nil {
			t.Fatal(err)
		}
		return report.Documents
	}
	if here, all := count(), count("-R"); all != here+3 {
		t.Errorf("%d documents, with -R %d, want 3 more", here, all)
	}
}

func TestCheckErrors(t *testing.T) {
	empty := t.TempDir()
	if err := os.WriteFile(filepath.Join(empty, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "nothing to check: name a file"},
		{[]string{"-f", "nowhere.yaml"}, "-f nowhere.yaml: no such file or directory"},
		{[]string{"-f", empty}, "has no *.yaml, *.yml or *.json file"},
		{[]string{"-f", "-", "-o", "table"}, "-o table: want json, yaml"},
	} {
		r := offline(t, "", 0, tc.args...)
		if r.Error == nil || !strings.Contains(r.Error.Error(), tc.want) || r.Out != "" {
			t.Errorf("%v: error %v and output %q, want an error with %q and no output", tc.args, r.Error, r.Out, tc.want)
		}
	}
}

func TestChanges(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{{"limit", "limit", 0}, {"limt", "limit", 1}, {"limti", "limit", 2}, {"", "abc", 3}, {"abc", "", 3}, {"service", "nodes", 7}} {
		if got := changes(tc.a, tc.b); got != tc.want {
			t.Errorf("changes(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
