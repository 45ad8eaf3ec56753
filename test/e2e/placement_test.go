// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

const (
	hostname = corev1.LabelHostname
	// schedulingTime is how soon a pod must have a node, and startTime how soon it must run there.
	schedulingTime = 10 * time.Second
	startTime      = 30 * time.Second
	// attemptGap is the time between two pods of which one wants to see where they go.
	attemptGap = 2 * time.Second

	// callsTarget is the intent of pods that call the pod of a spot.
	callsTarget = `{"dependencies":[{"pods":{"selector":{"matchLabels":{"app":"target"}}}}]}`
)

// spot is a pod at a known place, and pods that want to be near it.
type spot struct {
	ns     string
	target string // the node of the pod
	waves  int
}

// newSpot puts a pod on a node.
func newSpot(ctx context.Context, t *testing.T, target string) *spot {
	t.Helper()
	s := &spot{ns: newNamespace(ctx, t, t.Name()), target: target}
	p := idlePod("target", "")
	p.Spec.NodeName = target
	if _, err := world.client.CoreV1().Pods(s.ns).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, startTime, "the pod on "+target+" to run", func(ctx context.Context) (string, error) {
		p, err := world.client.CoreV1().Pods(s.ns).Get(ctx, "target", metav1.GetOptions{})
		if err != nil || p.Status.Phase == corev1.PodRunning {
			return "", err
		}
		return "phase " + string(p.Status.Phase), nil
	})
	return s
}

// place creates Deployments of one pod each that call the target, and may not be on its node, and returns the nodes that fogsched chose.
// With several replicas the default spread over the nodes would have a say as well.
func (s *spot) place(ctx context.Context, t *testing.T, n int) (names, nodes []string) {
	t.Helper()
	for range n {
		s.waves++
		names = append(names, fmt.Sprintf("caller-%d", s.waves))
		if _, err := world.client.AppsV1().Deployments(s.ns).Create(ctx, s.caller(names[len(names)-1]), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		until(ctx, t, schedulingTime, "the pod of "+name+" to have a node", func(ctx context.Context) (string, error) {
			pods, err := podsOf(ctx, s.ns, "app="+name)
			if err != nil {
				return "", err
			}
			if len(pods) != 1 || pods[0].Spec.NodeName == "" {
				return fmt.Sprintf("%d pods, none has one", len(pods)), nil
			}
			nodes = append(nodes, pods[0].Spec.NodeName)
			return "", nil
		})
	}
	return names, nodes
}

func (s *spot) caller(name string) *appsv1.Deployment {
	one, labels, spec := int32(1), map[string]string{"app": name}, idleSpec(scheduler)
	spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: hostname, Operator: corev1.NodeSelectorOpNotIn, Values: []string{s.target}},
		}}},
	}}}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{v1alpha1.LatencyAnnotation: callsTarget}},
			Spec:       spec,
		},
	}}
}

// running waits until the pods of Deployments run.
func (s *spot) running(ctx context.Context, t *testing.T, names []string) {
	t.Helper()
	selector := "app in (" + strings.Join(names, ",") + ")"
	until(ctx, t, startTime, "the pods of "+strings.Join(names, ", ")+" to run", func(ctx context.Context) (string, error) {
		pods, err := podsOf(ctx, s.ns, selector)
		for _, p := range pods {
			if !isReady(&p) {
				return fmt.Sprintf("%s on %s is %s", p.Name, p.Spec.NodeName, p.Status.Phase), nil
			}
		}
		return "", err
	})
}

// nearest returns the best of the candidates for callers of the target.
func (s *spot) nearest(ctx context.Context, t *testing.T, candidates []string) string {
	t.Helper()
	candidates = slices.DeleteFunc(slices.Clone(candidates), func(n string) bool { return n == s.target })
	return truth(ctx, t).best(t, s.target, candidates)
}

// right places three callers and fails the test unless all of them are on the best candidate, or one as good, and run.
func (s *spot) right(ctx context.Context, t *testing.T, when string, candidates []string) {
	t.Helper()
	best, m := s.nearest(ctx, t, candidates), truth(ctx, t)
	names, nodes := s.place(ctx, t, 3)
	for _, n := range nodes {
		if !slices.Contains(candidates, n) || !m.asGoodAs(best, n, s.target) {
			t.Errorf("%s: callers of %s went to %v, want all on %s (%s away; it is %s from %s)",
				when, s.target, nodes, best, millis(m[pair{best, s.target}]), millis(m[pair{n, s.target}]), n)
			return
		}
	}
	s.running(ctx, t, names)
	say("%s: callers of %s are on %s, %s away", when, s.target, nodes[0], millis(m[pair{nodes[0], s.target}]))
}

// follows places single pods until one goes to the best of the candidates, and returns how long that took.
func (s *spot) follows(ctx context.Context, t *testing.T, timeout time.Duration, what string, candidates []string) time.Duration {
	t.Helper()
	since, last, amiss := time.Now(), time.Time{}, ""
	until(ctx, t, timeout, what, func(context.Context) (string, error) { // what an attempt waits for has limits of its own
		if time.Since(last) < attemptGap {
			return amiss, nil
		}
		last = time.Now()
		best, m := s.nearest(ctx, t, candidates), truth(ctx, t)
		names, nodes := s.place(ctx, t, 1)
		if err := world.client.AppsV1().Deployments(s.ns).Delete(ctx, names[0], metav1.DeleteOptions{}); err != nil {
			return "", err
		}
		if amiss = ""; !slices.Contains(candidates, nodes[0]) || !m.asGoodAs(best, nodes[0], s.target) {
			amiss = fmt.Sprintf("a caller of %s went to %s, want %s", s.target, nodes[0], best)
		}
		return amiss, nil
	})
	return time.Since(since)
}
