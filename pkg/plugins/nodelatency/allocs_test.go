// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"math"
	"testing"

	fwk "k8s.io/kube-scheduler/framework"
)

// TestPreFilterAllocations has the bar that PreFilter makes at most ten allocations for a pod with ten target nodes and a limit, the CycleState's
// own included, whether or not the limit excludes nodes, whether or not the nodes are narrowed to the nearest, and whether or not their order is
// remembered.
func TestPreFilterAllocations(t *testing.T) {
	const most = 10
	ctx := context.Background()
	for unsatisfiable, nodes := range map[string]int{"ScheduleAnyway": 1000, "DoNotSchedule": 5000} { // a limit leaves some of them
		bb := sized(t, nodes, 10, unsatisfiable)
		for name, plugin := range map[string]*NodeLatency{"": bb.plugin, ", narrowed": narrowing100(bb), ", narrowed by ranking": narrowing100(bb)} {
			t.Run(unsatisfiable+name, func(t *testing.T) {
				plugin.engine.narrowing.orders = &orders{}
				if name == ", narrowed by ranking" {
					plugin.engine.narrowing.orders = nil
				}
				var result *fwk.PreFilterResult
				got := math.Inf(1)
				for range 20 { // the least of them: now and then a pool is emptied, and with the race detector at random
					got = min(got, testing.AllocsPerRun(1, func() {
						result, _ = plugin.PreFilter(ctx, &cycleState{}, bb.pod, bb.infos)
					}))
				}
				if narrows := plugin != bb.plugin; narrows != (result != nil && len(result.NodeNames) == 100) {
					t.Fatalf("narrowed: %v, want %t", result, narrows)
				}
				if got > most {
					t.Errorf("%v allocations, want at most %d", got, most)
				}
				t.Logf("%v allocations", got)
			})
		}
	}
}
