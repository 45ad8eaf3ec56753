// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestArgs(t *testing.T) {
	ptr := func(v float64) *float64 { return &v }
	hundred, megabytes := resource.MustParse("100m"), resource.MustParse("200Mi")
	cpuPreset := Metric{
		Name: "cpu", Preset: "cpu", NodeLabel: "instance", Direction: Lower, Scale: 1, Weight: ptr(1), WhenUnsatisfiable: v1.ScheduleAnyway, WhenUnknown: Allow,
		Query: `clamp_min(1 - avg by (instance) (sum without (mode) (rate(node_cpu_seconds_total{mode=~"idle|iowait"}[2m]))), 0)`,
		Time:  `max by (instance) (timestamp(node_cpu_seconds_total{mode="idle"}))`, MaxAge: metav1.Duration{Duration: 5 * time.Minute},
		Window: metav1.Duration{Duration: 2 * time.Minute}, PodEffect: &PodEffect{Resource: "cpu", Per: Allocatable, Factor: 1, Default: &hundred},
	}
	with := func(m Metric, change func(m *Metric)) []Metric { change(&m); return []Metric{m} }
	tests := map[string]struct {
		in        string // after the address
		want      []Metric
		wantError string // without the prefix
	}{
		"a preset": {in: "metrics: [{preset: cpu}]", want: []Metric{cpuPreset}},
		"a preset, and what counts in place of it": {
			in: "metrics: [{preset: cpu, name: load, window: 5m, nodeLabel: node, weight: 0, limit: 0.9, scale: 0.5, maxAge: 90s, podEffect: {resource: pods}}]",
			want: with(cpuPreset, func(m *Metric) {
				m.Name, m.NodeLabel, m.Weight, m.Limit, m.Scale, m.MaxAge.Duration, m.Window.Duration = "load", "node", ptr(0), ptr(0.9), 0.5, 90*time.Second, 5*time.Minute
				m.Query = `clamp_min(1 - avg by (node) (sum without (mode) (rate(node_cpu_seconds_total{mode=~"idle|iowait"}[5m]))), 0)`
				m.Time = `max by (node) (timestamp(node_cpu_seconds_total{mode="idle"}))`
				m.PodEffect = &PodEffect{Resource: "pods", Per: One, Factor: 1}
			}),
		},
		"a preset with another query has not the preset's time": {
			in: "metrics: [{preset: cpu, query: 'instance:cpu:rate5m'}]",
			want: with(cpuPreset, func(m *Metric) {
				m.Query, m.Time = "instance:cpu:rate5m", ""
			}),
		},
		"all fields, in YAML": {
			in: `kind: NodeMetricsArgs
metrics:
- name: power
  query: sum by (node) (watts)
  time: timestamp(up)
  nodeLabel: node
  nodeRegexp: ^(.+)\.example$
  direction: Target
  target: 0
  scale: 40
  weight: 2.5
  limit: 300
  whenUnsatisfiable: DoNotSchedule
  whenUnknown: Reject
  maxAge: 1m
  window: 30s
  podEffect: {resource: memory, per: Capacity, factor: 12}`,
			want: []Metric{{
				Name: "power", Query: "sum by (node) (watts)", Time: "timestamp(up)", NodeLabel: "node", NodeRegexp: `^(.+)\.example$`, Direction: Target, Target: ptr(0),
				Scale: 40, Weight: ptr(2.5), Limit: ptr(300), WhenUnsatisfiable: v1.DoNotSchedule, WhenUnknown: Reject, MaxAge: metav1.Duration{Duration: time.Minute},
				Window: metav1.Duration{Duration: 30 * time.Second}, PodEffect: &PodEffect{Resource: "memory", Per: Capacity, Factor: 12, Default: &megabytes},
			}},
		},
		"no metrics":        {in: "metrics: []", wantError: "args.metrics: Required value: at least one metric"},
		"too many":          {in: "metrics: [" + strings.Repeat("{preset: cpu}, ", 17) + "]", wantError: "args.metrics: Too many: 17: must have at most 16 items"},
		"an unknown preset": {in: "metrics: [{preset: gpu}]", wantError: `args.metrics[0].preset: Unsupported value: "gpu": supported values: "cpu", "cpu-variation", "disk-io"`},
		"an unknown field": {
			in: "metrics: [{preset: cpu, weigth: 2}]", wantError: `unknown field "metrics[0].weigth"`,
		},
		"the same name twice": {in: "metrics: [{preset: cpu}, {preset: cpu}]", wantError: `args.metrics[1].name: Duplicate value: "cpu"`},
		"nothing of a metric": {
			in:        "metrics: [{}]",
			wantError: "[args.metrics[0].name: Required value: a metric without a preset needs a name, args.metrics[0].query: Required value: a metric without a preset needs PromQL, one series a node]",
		},
		"everything wrong at once": {
			in:        `metrics: [{name: A_b, query: m, nodeLabel: a-b, nodeRegexp: "a", direction: Up, scale: -1, weight: 101, whenUnsatisfiable: Never, whenUnknown: Maybe, maxAge: 1s, window: -1s, podEffect: {resource: "", per: Node, factor: -1, default: "-1"}}]`,
			wantError: `[args.metrics[0].name: Invalid value: "A_b": a lowercase RFC 1123 label must consist of`,
		},
		"a limit's word without a limit": {in: "metrics: [{preset: cpu, whenUnsatisfiable: DoNotSchedule}]", wantError: "args.metrics[0].limit: Required value: whenUnsatisfiable is about a limit"},
		"another word without a limit":   {in: "metrics: [{preset: cpu, whenUnknown: Reject}]", wantError: "args.metrics[0].limit: Required value: whenUnknown is about a limit"},
		"a window that nothing is for":   {in: "metrics: [{name: a, query: a, window: 5m}]", wantError: "args.metrics[0].podEffect: Required value: window says for how long a pod is only partly"},
		"no weight and no limit":         {in: "metrics: [{preset: cpu, weight: 0}]", wantError: "args.metrics[0].weight: Invalid value: 0: must be above 0, since there is no limit"},
		"Target without a target":        {in: "metrics: [{preset: cpu, direction: Target}]", wantError: "args.metrics[0].target: Required value: the best value, since direction is Target"},
		"a target without Target":        {in: "metrics: [{preset: cpu, target: 0.4}]", wantError: "args.metrics[0].target: Invalid value: 0.4: direction must be Target"},
		"a regular expression that is none": {
			in: "metrics: [{preset: cpu, nodeRegexp: '('}]", wantError: `args.metrics[0].nodeRegexp: Invalid value: "(": error parsing regexp: missing closing )`,
		},
		"a value younger than the interval": {
			in: "metrics: [{preset: cpu, maxAge: 20s}]", wantError: `args.metrics[0].maxAge: Invalid value: "20s": must be at least the interval, 30s`,
		},
		"a default for pods": {in: "metrics: [{preset: cpu, podEffect: {resource: pods, default: 2}}]", wantError: `args.metrics[0].podEffect.default: Invalid value: "2": each pod is one of pods`},
		"deviations of what has none": {
			in: "metrics: [{preset: cpu, deviations: 2}]", wantError: "args.metrics[0].deviations: Invalid value: 2: is for a preset with -variation",
		},
		"deviations beside a query": {
			in: "metrics: [{preset: cpu-variation, query: a, deviations: 2}]", wantError: "args.metrics[0].deviations: Invalid value: 2: is for a preset with -variation and its own",
		},
		"deviations without a preset": {
			in: "metrics: [{name: a, query: a, deviations: 2}]", wantError: "args.metrics[0].deviations: Invalid value: 2: is for a preset with -variation",
		},
		"negative deviations": {
			in: "metrics: [{preset: cpu-variation, deviations: -1}]", wantError: "args.metrics[0].deviations: Invalid value: -1: must be 0 to 10",
		},
		"a wrong kind": {in: "kind: NodeLatencyArgs\nmetrics: [{preset: cpu}]", wantError: `args.kind: Unsupported value: "NodeLatencyArgs": supported values: "NodeMetricsArgs"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args, err := getArgs(&runtime.Unknown{Raw: []byte(address + tt.in)})
			if tt.wantError != "" {
				if err == nil || !strings.HasPrefix(err.Error(), "pluginConfig of NodeMetrics: ") || !strings.Contains(err.Error(), tt.wantError) {
					t.Errorf("error\n%v, want\n%s", err, tt.wantError)
				}
				if name == "everything wrong at once" {
					for _, f := range strings.Fields("name nodeLabel nodeRegexp direction scale weight whenUnsatisfiable whenUnknown maxAge window podEffect.resource podEffect.per podEffect.factor podEffect.default") {
						if !strings.Contains(err.Error(), "args.metrics[0]."+f+": ") {
							t.Errorf("nothing is said of %s: %v", f, err)
						}
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, args.Metrics); diff != "" {
				t.Errorf("metrics (-want +got):\n%s", diff)
			}
		})
	}
	for name, in := range map[string]runtime.Object{"no arguments": nil, "empty ones": &runtime.Unknown{}} {
		if _, err := getArgs(in); err == nil || !strings.Contains(err.Error(), "args.prometheus.address: Required") || !strings.Contains(err.Error(), "args.metrics: Required") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVariationIsTheMeanAndDeviationsOnTop(t *testing.T) {
	const inner = "(1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)[10m:30s]"
	for in, want := range map[string]string{
		"{preset: memory-variation}":                              "avg_over_time(" + inner + ") + 2 * stddev_over_time(" + inner + ")",
		"{preset: memory-variation, deviations: 0.5}":             "avg_over_time(" + inner + ") + 0.5 * stddev_over_time(" + inner + ")",
		"{preset: memory-variation, deviations: 0}":               "avg_over_time(" + inner + ") + 0 * stddev_over_time(" + inner + ")",
		"{preset: memory-variation, query: recorded, window: 5m}": "recorded",
	} {
		if got := mustArgs(t, address+"metrics: ["+in+"]").Metrics[0].Query; got != want {
			t.Errorf("%s: the query is\n%s, want\n%s", in, got, want)
		}
	}
}

func TestPresetsAreValid(t *testing.T) {
	for name, p := range presets {
		m := mustArgs(t, address+"metrics: [{preset: "+name+"}]").Metrics[0]
		if strings.Contains(m.Query+m.Time, "$") {
			t.Errorf("%s: something is not filled in: %s, %s", name, m.Query, m.Time)
		}
		if p.window <= 0 || m.PodEffect == nil {
			t.Errorf("%s: a burst between two samples would not spread", name)
		}
	}
}
