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

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

const (
	schedulerLease = "fogsched" // in the namespace of the installation, as its configuration says
	// takeoverTime is how soon a pod must have a node that is created when the leader has just died: the lease lasts 15 s, is renewed
	// every 2 s, and who waits for it looks every 2.4 s at most; the rest is for the scheduling.
	takeoverTime = 30 * time.Second
)

// TestLeaderKilled kills the scheduler that leads. Another one must place the pods that come then, as well as the first one did.
func TestLeaderKilled(t *testing.T) {
	f := features.New("the leading scheduler is killed").
		Assess("all replicas run, on nodes of their own, and one leads", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			d, err := world.client.AppsV1().Deployments(systemNamespace).Get(ctx, scheduler, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if world.ours && *d.Spec.Replicas < 2 {
				t.Errorf("%s has %d replicas, want 2 at least", overlay, *d.Spec.Replicas)
			}
			until(ctx, t, time.Minute, "all replicas to be available", installed)
			leader, others := replicas(ctx, t)
			if got, want := 1+len(others), int(*d.Spec.Replicas); got != want {
				t.Errorf("%d schedulers are ready, want %d", got, want)
			}
			nodes := []string{leader.Spec.NodeName}
			for _, p := range others {
				nodes = append(nodes, p.Spec.NodeName)
			}
			say("%s leads; the schedulers are on %s", leader.Name, strings.Join(nodes, ", "))
			if slices.Sort(nodes); len(slices.Compact(slices.Clone(nodes))) < len(nodes) {
				t.Errorf("two of the schedulers are on one node: %v", nodes)
			}
			return ctx
		}).
		Assess("another one takes over and places pods", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			needsOurs(t, "killing the scheduler that leads")
			target, _, all := pairOfNeighbours(ctx, t)
			settled(ctx, t)
			leader, others := replicas(ctx, t)
			if len(others) == 0 {
				t.Fatal("nobody stands by")
			}
			s := newSpot(ctx, t, target)
			s.right(ctx, t, "before the leader is killed", all)

			say("killing the leader, %s", leader.Name)
			now, killed := int64(0), time.Now()
			err := world.client.CoreV1().Pods(systemNamespace).Delete(ctx, leader.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
			if err != nil {
				t.Fatal(err)
			}
			p := idlePod("orphan", scheduler)
			p.Annotations = map[string]string{v1alpha1.LatencyAnnotation: callsTarget}
			if _, err := world.client.CoreV1().Pods(s.ns).Create(ctx, p, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			until(ctx, t, takeoverTime, "a pod to be placed without the leader", func(ctx context.Context) (string, error) {
				p, err := world.client.CoreV1().Pods(s.ns).Get(ctx, "orphan", metav1.GetOptions{})
				if err != nil || p.Spec.NodeName != "" {
					return "", err
				}
				return "it has no node; the lease is " + holder(ctx) + "'s", nil
			})
			took := time.Since(killed)
			heir := holder(ctx)
			if strings.HasPrefix(heir, leader.Name+"_") {
				t.Errorf("the lease is still that of %s, which is dead", heir)
			}
			by := "that came in its place"
			if slices.ContainsFunc(others, func(p corev1.Pod) bool { return strings.HasPrefix(heir, p.Name+"_") }) {
				by = "that stood by"
			}
			say("%.1f s after the leader was killed a pod has been placed, by the scheduler %s", took.Seconds(), by)
			keepSeconds("leaderReplaced", took)
			s.right(ctx, t, "with another leader", all)
			until(ctx, t, time.Minute, "all replicas to be available again", installed)
			return ctx
		})
	testenv.Test(t, f.Feature())
}

// holder returns the identity that holds the schedulers' lease: the name of a pod, an underscore, a random part.
func holder(ctx context.Context) string {
	lease, err := world.client.CoordinationV1().Leases(systemNamespace).Get(ctx, schedulerLease, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// replicas returns the ready schedulers: the one that holds the lease, and the others. It waits until one of them does.
func replicas(ctx context.Context, t *testing.T) (leader corev1.Pod, others []corev1.Pod) {
	t.Helper()
	until(ctx, t, takeoverTime, "a scheduler to lead", func(ctx context.Context) (string, error) {
		pods, err := podsOf(ctx, systemNamespace, "app.kubernetes.io/name="+scheduler)
		if err != nil {
			return "", err
		}
		identity := holder(ctx)
		leader, others = corev1.Pod{}, nil
		for _, p := range pods {
			switch {
			case !isReady(&p):
			case strings.HasPrefix(identity, p.Name+"_"):
				leader = p
			default:
				others = append(others, p)
			}
		}
		if leader.Name == "" {
			return fmt.Sprintf("%d other schedulers are ready; the lease is %q's", len(others), identity), nil
		}
		return "", nil
	})
	return leader, others
}
