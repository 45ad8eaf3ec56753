// SPDX-License-Identifier: Apache-2.0

package internal

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/klog/v2/ktesting"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/metrics"
)

func list(costs ...int64) fwk.NodeScoreList {
	l := make(fwk.NodeScoreList, len(costs))
	for i, c := range costs {
		l[i] = fwk.NodeScore{Name: fmt.Sprint(i), Score: c}
	}
	return l
}

func TestNormalizeCosts(t *testing.T) {
	const ms = 1e6
	tests := map[string]struct{ in, want []int64 }{
		"no nodes":                               {nil, nil},
		"one node":                               {[]int64{20 * ms}, []int64{100}},
		"the best has 100, twice its latency 50": {[]int64{41 * ms, 20 * ms, 20 * ms}, []int64{50, 100, 100}},
		"nothing to say of any":                  {[]int64{0, 0, 0}, []int64{100, 100, 100}},
		"nothing to say of one: the median":      {[]int64{19 * ms, 39 * ms, 199 * ms, 0}, []int64{100, 50, 10, 50}},
		"nothing to say of most":                 {[]int64{0, 0, 19 * ms, 0}, []int64{100, 100, 100, 100}},
		"an impossible cost":                     {[]int64{-5, 19 * ms, 39 * ms}, []int64{50, 100, 50}},
		"the largest number":                     {[]int64{math.MaxInt64, 1}, []int64{0, 100}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := list(tt.in...)
			NormalizeCosts(l)
			var got []int64
			for _, s := range l {
				got = append(got, s.Score)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("scores (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNormalizeCostsStaysInRange(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		costs := make([]int64, 1+rng.IntN(30))
		for i := range costs {
			costs[i] = int64(math.Exp(26 * rng.Float64()))
			if rng.IntN(5) == 0 {
				costs[i] = 0
			}
		}
		l := list(costs...)
		NormalizeCosts(l)
		for i := range l {
			if l[i].Score < fwk.MinNodeScore || l[i].Score > fwk.MaxNodeScore {
				t.Fatalf("cost %d became %d", costs[i], l[i].Score)
			}
			for j := range l {
				if costs[i] > 0 && costs[j] > costs[i] && l[j].Score > l[i].Score {
					t.Fatalf("costs %d and %d became %d and %d", costs[i], costs[j], l[i].Score, l[j].Score)
				}
			}
		}
	}
}

func TestGuard(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	g := NewGuard("Test")
	if got := testutil.CollectAndCount(metrics.Panics); got < len(extensionPoints) {
		t.Errorf("%d extension points are counted from 0, want %d", got, len(extensionPoints))
	}
	counter := metrics.Panics.WithLabelValues("Test", "Point")
	before := testutil.ToFloat64(counter) // of an earlier run in this process
	point := func(fail bool) (result string) {
		result = "as nothing was"
		defer g.Recover(ctx, "Point", func() { result = "failed open" })
		if fail {
			panic("as a bug would")
		}
		return "done"
	}
	if got := point(false); got != "done" || testutil.ToFloat64(counter) != before {
		t.Errorf("without a panic: %q, %g counted", got, testutil.ToFloat64(counter)-before)
	}
	for i := range 3 {
		if got := point(true); got != "failed open" {
			t.Errorf("panic %d: %q", i, got)
		}
	}
	if got := testutil.ToFloat64(counter) - before; got != 3 {
		t.Errorf("%g panics were counted, want 3", got)
	}
}
