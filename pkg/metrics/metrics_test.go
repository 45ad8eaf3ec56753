// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fogsched/fogsched/pkg/latency"
)

func TestRegister(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	calls := 0
	for range 2 {
		Register(func(cs ...prometheus.Collector) {
			calls++
			registry.MustRegister(cs...)
		})
	}
	if calls != 1 {
		t.Errorf("registered %d times, want once", calls)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	reasons := 0
	series := map[string]int{}
	for _, f := range families {
		series[f.GetName()] = len(f.GetMetric())
		if !strings.HasPrefix(f.GetName(), "fogsched_") || f.GetHelp() == "" {
			t.Errorf("metric %s, help %q", f.GetName(), f.GetHelp())
		}
		if f.GetName() == "fogsched_store_samples_rejected_total" {
			reasons = len(f.GetMetric())
		}
	}
	if want := len(latency.Reasons()); reasons != want {
		t.Errorf("%d reasons start at 0, want %d", reasons, want)
	}
	for name, want := range map[string]int{
		"fogsched_nodelatency_decisions_total":      2,
		"fogsched_nodelatency_narrowed_total":       3,
		"fogsched_nodelatency_demands_unused_total": 2,
		"fogsched_nodemetrics_decisions_total":      2,
		"fogsched_nodelatency_bad_intents_total":    2,
		"fogsched_plugin_panics_recovered_total":    3,
	} {
		if series[name] != want {
			t.Errorf("%d series of %s start at 0, want %d: an alert sees no increase in the first count of one that does not", series[name], name, want)
		}
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
