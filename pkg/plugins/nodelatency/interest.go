// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/metrics"
)

const (
	interestInterval = 5 * time.Second
	// interestLinger is how long a node stays in the list after the last target left it: a pod that is replaced in its place
	// must not cost the measurements of all nodes.
	interestLinger = 10 * time.Minute
	// maxInterest bounds what the list costs: one probe a node, interval and entry.
	maxInterest = 64
)

// interestWriter tells the probers which nodes host the targets of intents, so that all of them measure these. Every replica
// of the scheduler computes the same, so that the first one writes it and the others find nothing to change.
type interestWriter struct {
	engine     *engine
	configMaps corev1client.ConfigMapInterface
	name       string

	wantedAt map[string]time.Time
	problem  string
}

func (w *interestWriter) run(ctx context.Context) {
	ticker := time.NewTicker(interestInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.tick(ctx, time.Now())
		}
	}
}

func (w *interestWriter) tick(ctx context.Context, now time.Time) {
	defer w.engine.guard.Recover(ctx, "interest", nil)
	ctx, cancel := context.WithTimeout(ctx, interestInterval)
	defer cancel()
	nodes := w.choose(w.engine.catalog.targetNodes(), now)
	metrics.InterestNodes.Set(float64(len(nodes)))
	text := strings.Join(nodes, "\n")
	err := w.write(ctx, text)
	switch {
	case err == nil:
		w.problem = ""
	case err.Error() != w.problem:
		w.problem = err.Error()
		klog.FromContext(ctx).Info("Could not tell the probers which nodes matter; they measure what they choose themselves. Will try again",
			"configMap", w.name, "err", err)
	}
}

// choose returns the nodes of the list, by name: those with the most votes, and among equals those that were in it before.
func (w *interestWriter) choose(votes map[string]float64, now time.Time) []string {
	if w.wantedAt == nil {
		w.wantedAt = map[string]time.Time{}
	}
	listed := maps.Clone(w.wantedAt)
	for name := range votes {
		w.wantedAt[name] = now
	}
	maps.DeleteFunc(w.wantedAt, func(_ string, at time.Time) bool { return now.Sub(at) > interestLinger })
	nodes := slices.SortedFunc(maps.Keys(w.wantedAt), func(a, b string) int {
		_, listedA := listed[a]
		_, listedB := listed[b]
		if c := cmp.Compare(votes[b], votes[a]); c != 0 {
			return c
		}
		if listedA != listedB {
			if listedA {
				return -1
			}
			return 1
		}
		return cmp.Compare(a, b)
	})
	if len(nodes) > maxInterest {
		for _, name := range nodes[maxInterest:] {
			delete(w.wantedAt, name)
		}
		nodes = nodes[:maxInterest]
	}
	slices.Sort(nodes)
	return nodes
}

func (w *interestWriter) write(ctx context.Context, text string) error {
	// The object is read each time: it is small, and somebody may have changed or replaced it.
	object, err := w.configMaps.Get(ctx, w.name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the ConfigMap: %w", err)
	}
	if object.Data[v1alpha1.InterestKey] == text {
		return nil
	}
	if object.Data == nil {
		object.Data = map[string]string{}
	}
	object.Data[v1alpha1.InterestKey] = text
	if _, err := w.configMaps.Update(ctx, object, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("writing the ConfigMap: %w", err)
	}
	return nil
}

// targetNodes returns the nodes that host targets of intents, each with its votes: every entry has as many as its weight, and
// shares them among its nodes, so that an entry about all nodes does not crowd out one about a single database.
func (c *catalog) targetNodes() map[string]float64 {
	c.mu.Lock()
	var all []*bound
	for _, p := range c.policies {
		all = append(all, p.bound)
	}
	for _, a := range c.annotations {
		all = append(all, a.bound)
	}
	c.mu.Unlock()
	votes := map[string]float64{}
	for _, b := range all {
		if b == nil {
			continue
		}
		for i := range b.entries {
			targets := b.entries[i].targets()
			for _, t := range targets {
				votes[t.Node] += float64(b.entries[i].Weight) / float64(len(targets))
			}
		}
	}
	return votes
}
