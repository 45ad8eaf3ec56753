// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

func TestTargetNodesShareTheVotesOfTheirEntry(t *testing.T) {
	f := newFixture(t, map[string]float64{"a": 0, "b": 1, "c": 2, "d": 3})
	f.place("db", "a")
	f.place("cache", "b", "c")
	f.policy("web", "web", `{
		selector: {}, dependencies: [
			{pods: {selector: {matchLabels: {app: db}}}, weight: 4},
			{pods: {selector: {matchLabels: {app: cache}}}, weight: 1},
			{pods: {selector: {matchLabels: {app: not-there}}}, weight: 1}],
		clients: [{nodes: {matchLabels: {name: c}}}]}`)
	want := map[string]float64{"a": 4, "b": 0.5, "c": 1.5}
	if diff := cmp.Diff(want, f.plugin.engine.catalog.targetNodes()); diff != "" {
		t.Errorf("votes (-want +got):\n%s", diff)
	}
}

func TestInterestKeepsANodeForAWhile(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	w := &interestWriter{}
	for _, step := range []struct {
		what  string
		after time.Duration
		votes map[string]float64
		want  []string
	}{
		{"the nodes are listed by name", 0, map[string]float64{"b": 2, "a": 1}, []string{"a", "b"}},
		{"one that lost its target stays", interestLinger, map[string]float64{"b": 2}, []string{"a", "b"}},
		{"and goes in the end", interestLinger + time.Second, map[string]float64{"b": 2}, []string{"b"}},
		{"without targets all go", 3 * interestLinger, nil, nil},
	} {
		if diff := cmp.Diff(step.want, w.choose(step.votes, start.Add(step.after))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.what, diff)
		}
	}
}

func TestInterestIsBounded(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	w := &interestWriter{}
	crowd := map[string]float64{}
	for i := range 5000 {
		crowd[fmt.Sprintf("n%04d", i)] = 1.0 / 5000
	}
	first := w.choose(crowd, now)
	if len(first) != maxInterest {
		t.Fatalf("%d nodes, want %d", len(first), maxInterest)
	}
	// A single database has all of its entry's votes, and displaces one of the crowd; the others stay.
	crowd["z-database"] = 1
	second := w.choose(crowd, now.Add(time.Second))
	if want := append(first[:maxInterest-1:maxInterest-1], "z-database"); !cmp.Equal(want, second) {
		t.Errorf("the list changed by more than the database:\n%s", cmp.Diff(want, second))
	}
	if len(w.wantedAt) != maxInterest {
		t.Errorf("%d nodes are remembered, want %d", len(w.wantedAt), maxInterest)
	}
}

func TestInterestIsWrittenWhenItChanged(t *testing.T) {
	f := newFixture(t, map[string]float64{"a": 0, "b": 1})
	f.place("db", "a")
	f.policy("web", "web", `{selector: {}, dependencies: [{pods: {selector: {matchLabels: {app: db}}}}]}`)
	api := fake.NewClientset(&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "interest"}})
	w := &interestWriter{engine: f.plugin.engine, configMaps: api.CoreV1().ConfigMaps("system"), name: "interest"}
	updates := func() (n int) {
		for _, a := range api.Actions() {
			if a.GetVerb() == "update" {
				n++
			}
		}
		return n
	}
	listed := func() string {
		t.Helper()
		m, err := w.configMaps.Get(t.Context(), "interest", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return m.Data[v1alpha1.InterestKey]
	}
	now := time.Now()
	w.tick(t.Context(), now)
	w.tick(t.Context(), now)
	if got := listed(); got != "a" || updates() != 1 {
		t.Errorf("%q after %d updates, want %q after 1", got, updates(), "a")
	}
	// Somebody empties it: it is mended.
	if _, err := w.configMaps.Update(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "interest"}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	f.place("db", "b")
	w.tick(t.Context(), now)
	if got := listed(); got != "a\nb" {
		t.Errorf("%q, want a and b", got)
	}
	// A failure is remembered until it is over, and nothing else happens.
	api.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no")
	})
	w.tick(context.Background(), now)
	if w.problem == "" {
		t.Error("the failure was not noticed")
	}
}
