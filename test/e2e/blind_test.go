// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
)

// TestNoMeasurements takes all probers and all that they published away. Pods that want to be near something must then be placed
// as the stock scheduler places them, and run.
//
// Weights on the nodes, different everywhere and least on the node that is the farthest from the target, make the stock
// scheduler's choice a matter of scores alone; with measurements fogsched chooses otherwise.
func TestNoMeasurements(t *testing.T) {
	f := features.New("all measurements are lost").
		Assess("pods run, placed as by the stock scheduler", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			needsOurs(t, "taking all probers away")
			target, _, all := pairOfNeighbours(ctx, t)
			if len(all) < 3 {
				t.Fatalf("needs three workers, has %v", all)
			}
			settled(ctx, t)
			s := newSpot(ctx, t, target)
			emptiest := s.weigh(ctx, t, all)

			stock := s.choices(ctx, t, corev1.DefaultSchedulerName, 3)
			if !slices.Equal(stock, slices.Repeat([]string{emptiest}, len(stock))) {
				t.Fatalf("the stock scheduler chose %v where %s is the emptiest node by far: this test cannot tell anything", stock, emptiest)
			}
			if got := s.choices(ctx, t, scheduler, 3); slices.Contains(got, emptiest) {
				t.Fatalf("with measurements fogsched chose %v, like the stock scheduler: this test cannot tell anything", got)
			}

			say("taking all probers and measurements away")
			restart := stopProbers(ctx, t)
			if err := world.client.CoreV1().RESTClient().Delete().AbsPath("apis", v1alpha1.GroupVersion.String(), client.NodeLatencies).Do(ctx).Error(); err != nil {
				t.Fatalf("deleting the NodeLatency objects: %v", err)
			}
			before := lifeOf(ctx, t)
			m, err := measuredRTTs(ctx)
			if err != nil || len(m) > 0 {
				t.Fatalf("%d measurements are left, error %v", len(m), err)
			}
			until(ctx, t, 30*time.Second, "fogsched to hear that the measurements are gone", func(context.Context) (string, error) {
				if got := s.choices(ctx, t, scheduler, 1); got[0] != emptiest {
					return "it chose " + got[0], nil
				}
				return "", nil
			})
			if got := s.choices(ctx, t, scheduler, 3); !slices.Equal(got, stock) {
				t.Errorf("without any measurement fogsched chose %v, the stock scheduler %v", got, stock)
			}
			say("without any measurement pods that call %s run on %s, where the stock scheduler puts them; with measurements they had not", target, emptiest)
			before.stillAlive(ctx, t)

			restart()
			settled(ctx, t)
			s.right(ctx, t, "after the probers were started again", all)
			return ctx
		})
	testenv.Test(t, f.Feature())
}

// weigh puts a weight on every node, each heavier than the next, and returns the emptiest node: the farthest from the target.
func (s *spot) weigh(ctx context.Context, t *testing.T, nodes []string) (emptiest string) {
	t.Helper()
	m := truth(ctx, t)
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b string) int { return int(m[pair{a, s.target}] - m[pair{b, s.target}]) })
	pods := world.client.CoreV1().Pods(s.ns)
	for i, node := range nodes {
		n, err := world.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		share := int64(len(nodes)-1-i) * 60 / int64(len(nodes)) // percent
		cpu, memory := n.Status.Allocatable.Cpu().MilliValue()*share/100, n.Status.Allocatable.Memory().Value()*share/100
		p := idlePod(fmt.Sprintf("weight-%d", i+1), "")
		p.Spec.NodeName = node
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
		}
		if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return nodes[len(nodes)-1]
}

// choices has a scheduler place pods that call the target, one after another, waits until each runs, and returns their nodes. The pods go,
// so that they weigh on no later choice.
func (s *spot) choices(ctx context.Context, t *testing.T, schedulerName string, n int) []string {
	t.Helper()
	pods := world.client.CoreV1().Pods(s.ns)
	var nodes []string
	for range n {
		s.waves++
		p := idlePod(fmt.Sprintf("lone-%d", s.waves), schedulerName)
		p.Annotations = map[string]string{v1alpha1.LatencyAnnotation: callsTarget}
		if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		until(ctx, t, startTime, "the pod "+p.Name+" to run", func(ctx context.Context) (string, error) {
			got, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			if !isReady(got) {
				return fmt.Sprintf("%s on %q", got.Status.Phase, got.Spec.NodeName), nil
			}
			nodes = append(nodes, got.Spec.NodeName)
			return "", nil
		})
		now := int64(0)
		if err := pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
	}
	return nodes
}

// stopProbers takes the probers off all nodes; restart, which the end of the test does as well, brings them back.
func stopProbers(ctx context.Context, t *testing.T) (restart func()) {
	t.Helper()
	sets := world.client.AppsV1().DaemonSets(systemNamespace)
	const nowhere = `{"spec":{"template":{"spec":{"nodeSelector":{"e2e.fogsched.dev/nowhere":"true"}}}}}`
	const everywhere = `{"spec":{"template":{"spec":{"nodeSelector":{"e2e.fogsched.dev/nowhere":null}}}}}`
	stopped := true
	restart = func() {
		if !stopped {
			return
		}
		stopped = false
		ctx := context.WithoutCancel(ctx)
		if _, err := sets.Patch(ctx, prober, types.MergePatchType, []byte(everywhere), metav1.PatchOptions{}); err != nil {
			t.Errorf("bringing the probers back: %v", err)
			return
		}
		until(ctx, t, 90*time.Second, "the probers to be back", probersReady)
	}
	t.Cleanup(restart)
	if _, err := sets.Patch(ctx, prober, types.MergePatchType, []byte(nowhere), metav1.PatchOptions{}); err != nil {
		t.Fatalf("taking the probers away: %v", err)
	}
	until(ctx, t, time.Minute, "the probers to go", func(ctx context.Context) (string, error) {
		pods, err := podsOf(ctx, systemNamespace, "app.kubernetes.io/name="+prober)
		if len(pods) > 0 {
			return fmt.Sprintf("%d are left", len(pods)), err
		}
		return "", err
	})
	return restart
}
