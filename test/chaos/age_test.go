// SPDX-License-Identifier: Apache-2.0

//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/fogsched/fogsched/test/cluster"
)

// TestAge: what was known when Prometheus failed counts until it is too old, and then for nothing; pods are placed all the while.
func TestAge(t *testing.T) {
	const maxAge = 10 * time.Second // of the arguments
	all := fmt.Sprintf("%d pairs, %d nodes", nodes*(nodes-1)/2, nodes)
	g := newGate(t, prom.URL())
	s, err := control.StartScheduler(t.Context(), cluster.SchedulerOptions{Name: "chaos-age", Binary: "fogsched", ConfigYAML: []byte(ours(g, &fault{}))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	known := func() string {
		text, err := s.Metrics(t.Context())
		if err != nil {
			return err.Error()
		}
		families := parse(t, text)
		pairs, of := families["fogsched_store_measured_pairs"].GetMetric(), families["fogsched_nodemetrics_known_nodes"].GetMetric()
		if len(pairs) != 1 || len(of) != 1 {
			return "no metrics"
		}
		return fmt.Sprintf("%.0f pairs, %.0f nodes", pairs[0].GetGauge().GetValue(), of[0].GetGauge().GetValue())
	}
	await := func(want string, patience time.Duration) time.Duration {
		t.Helper()
		start := time.Now()
		if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, patience, true, func(context.Context) (bool, error) { return known() == want, nil }); err != nil {
			t.Fatalf("after %s %s are known, want %s", patience, known(), want)
		}
		return time.Since(start)
	}
	if err := control.CreateNamespace(t.Context(), "age", nil); err != nil {
		t.Fatal(err)
	}
	pods := control.Client().CoreV1().Pods("age")
	n := 0
	place := func() {
		t.Helper()
		n++
		if _, err := pods.Create(t.Context(), newPod("age", "fogsched", n), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 5*time.Second, true, func(ctx context.Context) (bool, error) {
			pod, err := pods.Get(ctx, fmt.Sprintf("pod-%d", n), metav1.GetOptions{})
			return err == nil && pod.Spec.NodeName != "", nil
		}); err != nil {
			t.Fatalf("pod %d is not placed while %s are known", n, known())
		}
	}

	await(all, patience)
	place()
	g.set(t, &fault{name: "503", serve: status(503)})
	failed := time.Now()
	// The newest sample may be as old as a scrape and a round of queries.
	for time.Since(failed) < maxAge-3*time.Second {
		if got := known(); got != all {
			t.Fatalf("%.1f s after Prometheus failed %s are known, want %s for %s", time.Since(failed).Seconds(), got, all, maxAge)
		}
		place()
		time.Sleep(500 * time.Millisecond) // between two looks
	}
	await("0 pairs, 0 nodes", 2*maxAge-time.Since(failed))
	t.Logf("nothing was known any more %.1f s after Prometheus failed", time.Since(failed).Seconds())
	place()
	g.heal(t)
	t.Logf("all was known again %.1f s after it was back", await(all, patience).Seconds())
	place()
}
