// SPDX-License-Identifier: Apache-2.0

//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"github.com/fogsched/fogsched/cmd/fogsched/app"
)

const (
	// attemptsBar is what the 99th percentile of scheduling attempts may be under a fault, as a multiple of that on a healthy Prometheus.
	attemptsBar = 1.05
	// A block is a time of attempts under one fault, or none. They alternate, so that the machine's moods are the same for both. In each
	// of them each query is sent as often.
	block                   = 2 * interval
	leastBlocks, mostBlocks = 3, 60
)

// TestAttempts measures scheduling attempts, the time in the scheduling framework, while Prometheus is healthy and while it is not.
// A fault fails the test when the median ratio stays above the bar over mostBlocks pairs of blocks: two equal distributions differ by more
// over three of them often enough.
func TestAttempts(t *testing.T) {
	g := newGate(t, prom.URL())
	tlsFault := &fault{name: "healthy", tls: true}
	runs := map[bool]func(time.Duration) []time.Duration{
		false: attempts(t, ours(g, &fault{})),
		true:  attempts(t, ours(g, tlsFault)),
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "Prometheus\tp99 of attempts\twhile healthy\tratio\tattempts\tblocks\t")
	for i := range faults {
		f := &faults[i]
		t.Run(f.name, func(t *testing.T) {
			run := runs[f.tls]
			g.heal(t)
			run(block) // the queries of this scheduler are answered again
			var healthy, failing []time.Duration
			var ratios []float64
			ratio, blocks := 0.0, 0
			for blocks < leastBlocks || ratio > attemptsBar && blocks < mostBlocks {
				blocks++
				g.heal(t)
				h := run(block)
				g.set(t, f)
				b := run(block)
				healthy, failing = append(healthy, h...), append(failing, b...)
				// The median of the pairs of blocks: of all attempts together, one block in which the machine was away would be the whole
				// percentile.
				ratios = append(ratios, float64(quantile(b, 0.99))/float64(quantile(h, 0.99)))
				ratio = slices.Sorted(slices.Values(ratios))[len(ratios)/2]
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%.3f\t%d\t%d\t\n", f.name, quantile(failing, 0.99).Round(time.Microsecond), quantile(healthy, 0.99).Round(time.Microsecond),
				ratio, len(healthy)+len(failing), blocks)
			if ratio > attemptsBar {
				t.Errorf("the 99th percentile of attempts is %.3f of that on a healthy Prometheus, want at most %g", ratio, attemptsBar)
			}
		})
	}
	w.Flush()
	fmt.Println(b.String())
}

func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[int(q*float64(len(s)-1))]
}

// attempts starts a scheduler without its loop, in this process, for 500 nodes of which Prometheus knows the first, and returns what makes
// scheduling attempts for so long and returns how long each took.
func attempts(t *testing.T, profiles string) func(time.Duration) []time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(klog.NewContext(t.Context(), ktesting.NewLogger(ktesting.NopTL{}, ktesting.NewConfig(ktesting.Verbosity(0)))))
	t.Cleanup(cancel)
	obj, _, err := scheme.Codecs.UniversalDecoder().Decode([]byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"+profiles), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	registry := frameworkruntime.Registry{}
	for _, option := range app.Plugins() {
		if err := option(registry); err != nil {
			t.Fatal(err)
		}
	}
	var objects []runtime.Object
	for n := range 500 {
		name := nodeName(n)
		room := v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("8"), v1.ResourceMemory: resource.MustParse("32Gi"), v1.ResourcePods: resource.MustParse("110"),
		}
		objects = append(objects, &v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"number": fmt.Sprint(n), v1.LabelHostname: name}},
			Status:     v1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}},
		})
	}
	clientSet := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(clientSet, 0)
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: clientSet.EventsV1()})
	sched, err := scheduler.New(ctx, clientSet, factory, nil, profile.NewRecorderFactory(broadcaster),
		scheduler.WithProfiles(obj.(*config.KubeSchedulerConfiguration).Profiles...),
		scheduler.WithFrameworkOutOfTreeRegistry(registry),
	)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := sched.WaitForHandlersSync(ctx); err != nil {
		t.Fatal(err)
	}
	f := sched.Profiles["fogsched"]
	pod := newPod("default", "fogsched", 0)
	pod.UID = "pod"
	return func(d time.Duration) []time.Duration {
		var took []time.Duration
		for end := time.Now().Add(d); ; {
			start := time.Now()
			if start.After(end) {
				return took
			}
			if _, err := sched.SchedulePod(ctx, f, framework.NewCycleState(), pod); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
	}
}
