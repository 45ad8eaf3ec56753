// SPDX-License-Identifier: Apache-2.0

// Package monitoring tests the alerts, the dashboard and the components monitoring and prometheus: with promtool, and on a real
// Prometheus that scrapes a real fogsched and real fogprobes.
package monitoring

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/test/program"
)

const (
	component  = "manifests/components/monitoring"
	runbook    = "https://github.com/fogsched/fogsched/blob/main/docs/troubleshooting.md#"
	severities = "critical warning info"
)

// file reads a file of the repository.
func file(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(at(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// at returns the absolute path of a file of the repository.
func at(t *testing.T, path string) string {
	t.Helper()
	root, err := program.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, path)
}

type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var f ruleFile
	if err := yaml.UnmarshalStrict(file(t, component+"/rules.yaml"), &f); err != nil {
		t.Fatal(err)
	}
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// ruleTest is a file of `promtool test rules`.
type ruleTest struct {
	RuleFiles          []string `json:"rule_files"`
	EvaluationInterval string   `json:"evaluation_interval"`
	Tests              []struct {
		Name        string `json:"name"`
		Interval    string `json:"interval"`
		InputSeries []struct {
			Series string `json:"series"`
			Values string `json:"values"`
		} `json:"input_series"`
		AlertRuleTest []struct {
			EvalTime  string `json:"eval_time"`
			Alertname string `json:"alertname"`
			ExpAlerts []struct {
				ExpLabels      map[string]string `json:"exp_labels"`
				ExpAnnotations map[string]string `json:"exp_annotations"`
			} `json:"exp_alerts"`
		} `json:"alert_rule_test"`
	} `json:"tests"`
}

// ruleTests returns the files of testdata by name.
func ruleTests(t *testing.T) map[string]ruleTest {
	t.Helper()
	files, err := filepath.Glob("testdata/*_test.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests of rules in testdata: %v", err)
	}
	all := map[string]ruleTest{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var f ruleTest
		if err := yaml.UnmarshalStrict(b, &f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = f
	}
	return all
}

func promtool(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	dir, err := program.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	path, err := program.Path(dir, "promtool", "make bin/promtool")
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), path, args...).CombinedOutput()
}

func TestAlertsFireWhenTheyShouldAndOnlyThen(t *testing.T) {
	if out, err := promtool(t, "check", "rules", at(t, component+"/rules.yaml")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name := range ruleTests(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			if out, err := promtool(t, "test", "rules", name); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// Without this, an alert that nobody tests, or a test that cannot fail, would go unseen.
func TestEveryAlertIsTestedBothWays(t *testing.T) {
	type seen struct{ fires, waits, silent bool }
	all := map[string]*seen{}
	for _, r := range rules(t) {
		if all[r.Alert] != nil {
			t.Errorf("two alerts are called %s", r.Alert)
		}
		all[r.Alert] = &seen{}
	}
	for name, f := range ruleTests(t) {
		for _, test := range f.Tests {
			alerts, fires, silent := map[string]bool{}, 0, 0
			for _, a := range test.AlertRuleTest {
				alerts[a.Alertname] = true
				if len(a.ExpAlerts) > 0 {
					fires++
				} else {
					silent++
				}
			}
			for alert := range alerts {
				s := all[alert]
				if s == nil {
					t.Errorf("%s, %s: there is no alert %s", name, test.Name, alert)
					continue
				}
				s.fires = s.fires || fires > 0
				s.waits = s.waits || fires > 0 && silent > 0
				s.silent = s.silent || fires == 0 && silent > 0
			}
		}
	}
	for alert, s := range all {
		if *s != (seen{true, true, true}) {
			t.Errorf("%s: %+v, want a test in which it fires, one in which it does so only after a while, and one in which it stays silent", alert, *s)
		}
	}
}

func TestAlertsSayWhatToDo(t *testing.T) {
	page := string(file(t, "docs/monitoring.md"))
	for _, r := range rules(t) {
		if !slices.Contains(strings.Fields(severities), r.Labels["severity"]) {
			t.Errorf("%s: severity %q, want one of %s", r.Alert, r.Labels["severity"], severities)
		}
		for _, a := range []string{"summary", "description"} {
			if r.Annotations[a] == "" {
				t.Errorf("%s has no %s", r.Alert, a)
			}
		}
		anchor := strings.ToLower(r.Alert)
		if got := r.Annotations["runbook_url"]; got != runbook+anchor {
			t.Errorf("%s: runbook %s, want %s", r.Alert, got, runbook+anchor)
		}
		// docs/monitoring.md lists the alert, what it means, and what mends it.
		row := regexp.MustCompile(`(?m)^\| \[?` + "`" + r.Alert + "`" + `.*\| ` + r.Labels["severity"] + ` \|.{40,}$`)
		if !row.MatchString(page) {
			t.Errorf("docs/monitoring.md has no row for %s with its severity %s", r.Alert, r.Labels["severity"])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| \\[?`(Fog[A-Za-z]+)`").FindAllStringSubmatch(page, -1) {
		if !slices.ContainsFunc(rules(t), func(r rule) bool { return r.Alert == m[1] }) {
			t.Errorf("docs/monitoring.md has an alert %s that there is not", m[1])
		}
	}
}

// The page that the alerts point to explains each: a heading with its name, or an anchor.
func TestRunbooksExist(t *testing.T) {
	page := string(file(t, "docs/troubleshooting.md"))
	for _, r := range rules(t) {
		anchor := strings.ToLower(r.Alert)
		heading := regexp.MustCompile("(?mi)^#+ +`?" + r.Alert + "`?$")
		if !heading.MatchString(page) && !strings.Contains(page, fmt.Sprintf(`<a id=%q>`, anchor)) && !strings.Contains(page, fmt.Sprintf(`<a name=%q>`, anchor)) {
			t.Errorf("docs/troubleshooting.md has neither a heading %s nor <a id=%q>", r.Alert, anchor)
		}
	}
}

func TestTheOperatorsRulesAreTheSame(t *testing.T) {
	var plain, operator any
	if err := yaml.Unmarshal(file(t, component+"/rules.yaml"), &plain); err != nil {
		t.Fatal(err)
	}
	var object struct {
		Spec any `json:"spec"`
	}
	if err := yaml.Unmarshal(file(t, component+"/prometheusrule.yaml"), &object); err != nil {
		t.Fatal(err)
	}
	operator = object.Spec
	if diff := cmp.Diff(plain, operator); diff != "" {
		t.Errorf("rules.yaml and prometheusrule.yaml differ; run hack/update-monitoring.sh (-rules.yaml +prometheusrule.yaml):\n%s", diff)
	}
}
