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
	// handoverTime is how soon a pod must have a node when the leader ends in order: it gives its lease back, and who waits for it looks
	// every 2.4 s at most. takeoverTime is the same when the leader gives nothing back: the lease lasts 15 s.
	handoverTime = 10 * time.Second
	takeoverTime = 30 * time.Second
)

// TestLeaderKilled deletes the scheduler that leads, and freezes its successor, which gives nothing back. Another one must place the pods
// that come then, as well as the first one did.
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
		Assess("when it is deleted another one places pods", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			needsOurs(t, "deleting the scheduler that leads")
			// With its grace period, as `kubectl delete pod`, a drain and a rollout do. A forced deletion takes the Pod away at once, and with it
			// the right of its token: once the API server forgets that the token was good, within 10 s, the leader can't give the lease back.
			succession(ctx, t, handoverTime, "leaderDeleted", func(leader corev1.Pod) error {
				return world.client.CoreV1().Pods(systemNamespace).Delete(ctx, leader.Name, metav1.DeleteOptions{})
			})
			return ctx
		}).
		Assess("when it hangs the one that stands by places pods", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			needsMachines(t, "freezing a process")
			var frozen corev1.Pod
			heir, stoodBy := succession(ctx, t, takeoverTime, "leaderFrozen", func(leader corev1.Pod) error {
				frozen = leader
				t.Cleanup(func() { // its kubelet starts it again
					if err := world.machines.signal(context.WithoutCancel(ctx), leader, "SIGKILL"); err != nil {
						t.Errorf("killing %s: %v", leader.Name, err)
					}
					until(context.WithoutCancel(ctx), t, 2*time.Minute, "all replicas to be available again", installed)
				})
				return world.machines.signal(ctx, leader, "SIGSTOP")
			})
			if !slices.ContainsFunc(stoodBy, func(p corev1.Pod) bool { return p.Name == heir }) {
				t.Errorf("%s leads after %s was frozen, and not one of those that stood by", heir, frozen.Name)
			}
			return ctx
		})
	testenv.Test(t, f.Feature())
}

// succession ends the reign of the leader and creates a pod at once. It waits until another scheduler leads and the pod is placed, has
// more pods placed, and returns the name of the new leader, and who was ready beside the old one when that ended.
func succession(ctx context.Context, t *testing.T, limit time.Duration, what string, end func(leader corev1.Pod) error) (heir string, stoodBy []corev1.Pod) {
	t.Helper()
	target, _, all := pairOfNeighbours(ctx, t)
	settled(ctx, t)
	until(ctx, t, time.Minute, "all replicas to be available", installed)
	leader, others := replicas(ctx, t)
	if len(others) == 0 {
		t.Fatal("nobody stands by")
	}
	s := newSpot(ctx, t, target)
	s.right(ctx, t, "before the leader is gone", all)

	say("the leader goes: %s", leader.Name)
	gone := time.Now()
	if err := end(leader); err != nil {
		t.Fatal(err)
	}
	p := idlePod("orphan", scheduler)
	p.Annotations = map[string]string{v1alpha1.LatencyAnnotation: callsTarget}
	if _, err := world.client.CoreV1().Pods(s.ns).Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, limit, "another leader, and a pod that is placed", func(ctx context.Context) (string, error) {
		p, err := world.client.CoreV1().Pods(s.ns).Get(ctx, "orphan", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		heir, _, _ = strings.Cut(holder(ctx), "_")
		if p.Spec.NodeName == "" || heir == "" || heir == leader.Name {
			return fmt.Sprintf("the lease is %q's, the pod is on %q", heir, p.Spec.NodeName), nil
		}
		return "", nil
	})
	took := time.Since(gone)
	say("%.1f s after it was gone %s leads, and a pod is placed", took.Seconds(), heir)
	keepSeconds(what, took)
	s.right(ctx, t, "with another leader", all)
	return heir, others
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
			case !isReady(&p), p.DeletionTimestamp != nil:
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
