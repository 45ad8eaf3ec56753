// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// The owner of a pod whose annotation is wrong is told so, and the pod is placed by the default rules: here, where it prefers
// to be, although each annotation names a-0 in a place that by itself is right.
func TestBadAnnotation(t *testing.T) {
	f := newFixture(t)
	nearA := `"nodes":` + nodesNamed("a-0")
	for name, tc := range map[string]struct {
		annotation string
		says       []string
	}{
		"no-json":         {`dependencies: []`, []string{"invalid character"}},
		"empty":           {``, []string{"unexpected end of JSON"}},
		"nothing":         {`{}`, []string{"dependencies", "give at least one entry"}},
		"unknown-field":   {`{"dependencies":[{` + nearA + `,"limmit":"5ms"}]}`, []string{`unknown field "dependencies[0].limmit"`}},
		"selector":        {`{"selector":{"matchLabels":{"a":"b"}},"dependencies":[{` + nearA + `}]}`, []string{`unknown field "selector"`}},
		"wrong-case":      {`{"Dependencies":[{` + nearA + `}]}`, []string{`unknown field "Dependencies"`}},
		"given-twice":     {`{"dependencies":[{` + nearA + `}],"dependencies":[{` + nearA + `}]}`, []string{"dependencies"}},
		"negative-limit":  {`{"dependencies":[{` + nearA + `,"limit":"-5ms"}]}`, []string{"dependencies[0].limit", "above 0"}},
		"zero-limit":      {`{"dependencies":[{` + nearA + `,"limit":"0s"}]}`, []string{"dependencies[0].limit", "above 0"}},
		"limit-no-unit":   {`{"dependencies":[{` + nearA + `,"limit":20}]}`, []string{"dependencies[0].limit", "duration with its unit"}},
		"zero-weight":     {`{"dependencies":[{` + nearA + `,"weight":0}]}`, []string{"dependencies[0].weight", "1 to 100"}},
		"two-targets":     {`{"dependencies":[{` + nearA + `,"service":"db"}]}`, []string{"dependencies[0]", "exactly one of service, pods and nodes"}},
		"no-target":       {`{"dependencies":[{` + nearA + `}],"clients":[{"limit":"5ms"}]}`, []string{"clients[0]", "exactly one of service, pods and nodes"}},
		"empty-selector":  {`{"dependencies":[{` + nearA + `},{"pods":{"selector":{}}}]}`, []string{"dependencies[1].pods.selector", "every pod"}},
		"every-node":      {`{"clients":[{"nodes":{}}]}`, []string{"clients[0].nodes", "every node"}},
		"bad-service":     {`{"dependencies":[{` + nearA + `},{"service":"No Name"}]}`, []string{"dependencies[1].service"}},
		"bad-routing":     {`{"dependencies":[{` + nearA + `,"routing":"nearest"}]}`, []string{"dependencies[0].routing", `"Nearest"`}},
		"bad-statistic":   {`{"dependencies":[{` + nearA + `}],"statistic":"Mean"}`, []string{"statistic", `"Typical", "Tail"`}},
		"bad-when":        {`{"dependencies":[{` + nearA + `}],"whenUnsatisfiable":"Never"}`, []string{"whenUnsatisfiable", `"DoNotSchedule"`}},
		"bad-unmeasured":  {`{"dependencies":[{` + nearA + `}],"whenUnmeasured":"Never"}`, []string{"whenUnmeasured", `"Reject"`}},
		"namespace-alone": {`{"dependencies":[{` + nearA + `,"namespace":"x"}]}`, []string{"dependencies[0].namespace"}},
		"several-errors": {`{"dependencies":[{` + nearA + `,"limit":"-1s","weight":0}],"statistic":"Mean"}`, []string{
			"dependencies[0].limit", "dependencies[0].weight", "statistic",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := *f
			f.T = t
			f.wantPlace("d-2", name, withLatency(tc.annotation), preferring("d-2"))
			message := f.event("InvalidLatencyAnnotation", name)
			f.wantAll("the event", message, append(tc.says, "metadata.annotations[fogsched.dev/latency]", "Placed without regard to latency")...)
			if _, ok := f.pod(name).Annotations[v1alpha1.PlacementAnnotation]; ok {
				t.Error("the pod has an annotation that says why it is where it is")
			}
		})
	}

	t.Run("a bad annotation stands above a policy, too", func(t *testing.T) {
		f := *f
		f.T = t
		f.policy("web", `{"selector":{"matchLabels":{"app":"governed"}},"dependencies":[{`+nearA+`}]}`)
		f.wantPlace("a-0", "governed", preferring("d-2"))
		f.wantPlace("d-2", "confused", withLabels("app", "governed"), withLatency(`{}`), preferring("d-2"))
	})
}

// Bad arguments end fogsched at its start, with one error that names the field.
func TestBadArguments(t *testing.T) {
	t.Parallel()
	installOverlay(t)
	shipped, err := shippedConfig(t.Context(), control)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tc := range map[string]struct {
		args string
		want []string
	}{
		"an unknown field":           {`{maxAge: 1m, mxaAge: 2m}`, []string{"args.mxaAge", "unknown field"}},
		"a duration that is none":    {`{maxAge: soon}`, []string{"args.maxAge", "soon"}},
		"a number for a duration":    {`{maxAge: 300}`, []string{"args.maxAge", "300"}},
		"too short an age":           {`{maxAge: 5s}`, []string{"args.maxAge", "must be 10s to 24h"}},
		"too long an age":            {`{maxAge: 25h}`, []string{"args.maxAge", "must be 10s to 24h"}},
		"a negative age":             {`{maxAge: -1m}`, []string{"args.maxAge", "must be 10s to 24h"}},
		"another plugin's arguments": {`{kind: NodeMetricsArgs}`, []string{"args.kind", "NodeMetricsArgs", "NodeLatencyArgs"}},
		"a list for a path":          {`{zonesFile: [a]}`, []string{"args.zonesFile"}},
		"a zone table that is not there": {
			`{zonesFile: ` + filepath.Join(dir, "missing.yaml") + `}`, []string{"args.zonesFile", "missing.yaml", "no such file"},
		},
		"a zone table with an unknown field": {
			`{zonesFile: ` + file("unknown.yaml", "pears: []\n") + `}`, []string{"args.zonesFile", "unknown.yaml", "pears"},
		},
		"a zone table with a bad RTT": {
			`{zonesFile: ` + file("rtt.yaml", "pairs: [{between: [a, b], typical: 0s}]\n") + `}`,
			[]string{"args.zonesFile", "rtt.yaml", "pairs[0].typical", "must be above 0"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := startFogsched(t.Context(), control, configFor(shipped, tc.args, "bad"))
			if err == nil {
				s.Stop()
				t.Fatal("fogsched runs with these arguments")
			}
			var lines []string
			for line := range strings.Lines(err.Error()) {
				if failure.MatchString(line) {
					lines = append(lines, strings.TrimSpace(line))
				}
			}
			if len(lines) != 1 {
				t.Fatalf("%d errors, want one:\n%v", len(lines), err)
			}
			for _, want := range append(tc.want, "NodeLatency") {
				if !strings.Contains(lines[0], want) {
					t.Errorf("the error lacks %q: %s", want, lines[0])
				}
			}
		})
	}
}

// failure finds the lines of a log that report an error.
var failure = regexp.MustCompile(`^\s*(E[0-9]{4} |Error|panic|F[0-9]{4} )`)
