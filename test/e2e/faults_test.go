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
)

const (
	// noticeTime is how soon new pods must keep away from a node that nobody reaches any more, and come back to one that is
	// reached again.
	noticeTime = 90 * time.Second
	// newNodeTime is how soon a node that joined must get pods.
	newNodeTime = time.Minute
)

// pairOfNeighbours returns a worker and the worker that is the nearest to it, of which the second one may fail: it is neither
// where the scheduler runs.
func pairOfNeighbours(ctx context.Context, t *testing.T) (target, neighbour string, all []string) {
	t.Helper()
	all, err := workers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pods, err := podsOf(ctx, systemNamespace, "app.kubernetes.io/name="+scheduler)
	if err != nil {
		t.Fatal(err)
	}
	m := truth(ctx, t)
	for _, a := range all {
		for _, b := range all {
			if a == b || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == a || p.Spec.NodeName == b }) {
				continue
			}
			rtt, ok := m[pair{b, a}]
			if ok && (target == "" || rtt < m[pair{neighbour, target}]) {
				target, neighbour = a, b
			}
		}
	}
	if target == "" {
		t.Fatal("needs two workers that measured one another and do not run the scheduler")
	}
	return target, neighbour, all
}

func without(nodes []string, but ...string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return slices.Contains(but, n) })
}

func TestPartition(t *testing.T) {
	f := features.New("a node is cut off").
		Assess("placements are right before, while and after", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			needsEmulator(t, "cutting a node off")
			target, neighbour, all := pairOfNeighbours(ctx, t)
			settled(ctx, t)
			before := lifeOf(ctx, t)
			s := newSpot(ctx, t, target)
			s.right(ctx, t, "before a node is cut off", all)

			say("cutting %s off", neighbour)
			if err := world.emulator.Partition(neighbour); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := world.emulator.Heal(neighbour); err != nil {
					t.Errorf("connecting %s again: %v", neighbour, err)
				}
				backToNormal(context.WithoutCancel(ctx), t, len(all))
			})
			took := s.follows(ctx, t, noticeTime, "callers to keep away from "+neighbour, without(all, neighbour))
			say("%.1f s after %s was cut off callers keep away from it", took.Seconds(), neighbour)
			keepSeconds("partitionNoticed", took)
			s.right(ctx, t, "while a node is cut off", without(all, neighbour))

			if err := world.emulator.Heal(neighbour); err != nil {
				t.Fatal(err)
			}
			took = s.follows(ctx, t, noticeTime, "callers to go to "+neighbour+" again", all)
			say("%.1f s after %s was connected again it has callers", took.Seconds(), neighbour)
			keepSeconds("partitionHealNoticed", took)
			s.right(ctx, t, "after it was connected again", all)
			before.stillAlive(ctx, t)
			return ctx
		})
	testenv.Test(t, f.Feature())
}

func TestNodeKilled(t *testing.T) {
	f := features.New("a node is killed").
		Assess("placements are right before, while and after", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			needsMachines(t, "killing a node")
			target, victim, all := pairOfNeighbours(ctx, t)
			settled(ctx, t)
			before := lifeOf(ctx, t, victim)
			s := newSpot(ctx, t, target)
			s.right(ctx, t, "before a node is killed", all)

			say("killing %s", victim)
			if err := world.machines.kill(ctx, victim); err != nil {
				t.Fatal(err)
			}
			revived := false
			t.Cleanup(func() {
				ctx := context.WithoutCancel(ctx)
				if !revived {
					if err := world.machines.start(ctx, victim); err != nil {
						t.Errorf("starting %s again: %v", victim, err)
					}
				}
				backToNormal(ctx, t, len(all))
			})
			took := s.follows(ctx, t, noticeTime, "callers to keep away from "+victim, without(all, victim))
			say("%.1f s after %s was killed callers keep away from it", took.Seconds(), victim)
			keepSeconds("nodeDeathNoticed", took)
			s.right(ctx, t, "while a node is dead", without(all, victim))

			say("starting %s again", victim)
			if err := world.machines.start(ctx, victim); err != nil {
				t.Fatal(err)
			}
			revived = true
			took = s.follows(ctx, t, 2*noticeTime, "callers to go to "+victim+" again", all)
			say("%.1f s after %s was started it has callers", took.Seconds(), victim)
			keepSeconds("nodeReturnNoticed", took)
			s.right(ctx, t, "after it was started again", all)
			before.stillAlive(ctx, t)
			return ctx
		})
	testenv.Test(t, f.Feature())
}

func TestProberKilled(t *testing.T) {
	f := features.New("a prober is killed").
		Assess("placements stay right, and the new prober measures", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			target, neighbour, all := pairOfNeighbours(ctx, t)
			settled(ctx, t)
			before := lifeOf(ctx, t, neighbour)
			s := newSpot(ctx, t, target)
			s.right(ctx, t, "before a prober is killed", all)

			pods, err := podsOf(ctx, systemNamespace, "app.kubernetes.io/name="+prober)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == neighbour })
			if i < 0 {
				t.Fatalf("no prober on %s", neighbour)
			}
			now := int64(0)
			killed := time.Now()
			if err := world.client.CoreV1().Pods(systemNamespace).Delete(ctx, pods[i].Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
				t.Fatal(err)
			}
			s.right(ctx, t, "with a prober killed", all)
			until(ctx, t, time.Minute, "a new prober on "+neighbour, probersReady)
			until(ctx, t, time.Minute, "it to measure the way to "+target, func(ctx context.Context) (string, error) {
				nl, err := world.fog.NodeLatencies().Get(ctx, neighbour, metav1.GetOptions{})
				if err != nil {
					return "", err
				}
				for _, p := range nl.Status.Peers {
					// Published times are whole seconds.
					if p.Node == target && p.Typical != nil && p.At != nil && p.At.After(killed.Add(time.Second)) {
						return "", nil
					}
				}
				return fmt.Sprintf("measured at %s, killed at %s", nl.Status.ObservedAt, killed.UTC().Format(time.RFC3339)), nil
			})
			say("%.1f s after the prober of %s was killed its successor has measured", time.Since(killed).Seconds(), neighbour)
			keepSeconds("proberReplaced", time.Since(killed))
			s.right(ctx, t, "with a new prober", all)
			before.stillAlive(ctx, t)
			return ctx
		})
	testenv.Test(t, f.Feature())
}

func TestNodeAdded(t *testing.T) {
	f := features.New("a node is added").
		Assess("it gets pods within 60 s", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			needsMachines(t, "adding a node")
			before := lifeOf(ctx, t)
			_, _, all := pairOfNeighbours(ctx, t)
			settled(ctx, t)
			target := loneliest(truth(ctx, t), all)
			s := newSpot(ctx, t, target)
			s.right(ctx, t, "before a node is added", all)

			say("adding a node near %s", target)
			name, err := world.machines.add(ctx, target)
			if err != nil {
				t.Fatal(err)
			}
			n, err := world.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			joined := n.CreationTimestamp.Time
			say("%s has joined", name)
			s.follows(ctx, t, newNodeTime, "callers to go to "+name, append(slices.Clone(all), name))
			took := time.Since(joined)
			say("%.1f s after %s joined it has callers", took.Seconds(), name)
			keepSeconds("newNodeHasPods", took)
			if took > newNodeTime {
				t.Errorf("it took %s until the new node got pods, want at most %s", took, newNodeTime)
			}
			s.right(ctx, t, "with a new node", append(slices.Clone(all), name))
			before.stillAlive(ctx, t)
			return ctx
		})
	testenv.Test(t, f.Feature())
}

// loneliest returns the node whose nearest neighbour is the farthest.
func loneliest(m rtts, nodes []string) string {
	lonely, distance := "", time.Duration(-1)
	for _, a := range nodes {
		nearest := time.Duration(-1)
		for _, b := range nodes {
			if rtt, ok := m[pair{b, a}]; ok && a != b && (nearest < 0 || rtt < nearest) {
				nearest = rtt
			}
		}
		if nearest > distance {
			lonely, distance = a, nearest
		}
	}
	return lonely
}

// backToNormal waits until a number of workers is Ready again, each with a prober that has measured all others.
func backToNormal(ctx context.Context, t *testing.T, want int) {
	t.Helper()
	until(ctx, t, 2*time.Minute, "all nodes to be Ready again", func(ctx context.Context) (string, error) {
		nodes, err := workers(ctx)
		if err != nil {
			return "", err
		}
		if len(nodes) < want {
			return fmt.Sprintf("%d of %d workers are: %s", len(nodes), want, strings.Join(nodes, " ")), nil
		}
		return "", nil
	})
	until(ctx, t, time.Minute, "all probers to be ready again", probersReady)
	settled(ctx, t)
}
