// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

const narrow = "narrow" // a profile that narrows 12 nodes to 5

// What ports are taken is not looked at before a pod is narrowed, so a port makes nodes refuse.
//
// onA wants to be near a-0: the nearest five nodes are those of the site a, and b-0 and b-1.
const onA = `{"dependencies":[{"nodes":{"matchLabels":{"kubernetes.io/hostname":"a-0"}}}]}`

func withPriority(class string) podOption {
	return func(p *corev1.Pod) { p.Spec.PriorityClassName = class }
}

// narrowed returns what the scheduler counts as narrowed, widened, and without room.
func (f *fixture) narrowed() string {
	f.Helper()
	text, err := f.scheduler.Metrics(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	var counts []string
	for _, result := range []string{"narrowed", "widened", "no_room"} {
		n := 0.0
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, `fogsched_nodelatency_narrowed_total{result="`+result+`"} `); ok {
				if _, err := fmt.Sscan(rest, &n); err != nil {
					f.Fatal(err)
				}
			}
		}
		counts = append(counts, fmt.Sprintf("%.0f %s", n, result))
	}
	return strings.Join(counts, ", ")
}

func TestNarrowing(t *testing.T) {
	start := func(t *testing.T) *fixture {
		f := newFixture(t)
		f.scheduler = f.beside("{candidates: 5}", narrow)
		f.eventually("the measurements in this scheduler", func() (bool, string) {
			pairs := f.metric("fogsched_store_measured_pairs")
			return pairs == 66, fmt.Sprint(pairs)
		})
		return f
	}

	t.Run("the nearest are looked at, and the nearest is taken", func(t *testing.T) {
		f := start(t)
		f.wantPlace("a-0", "pod", by(narrow), withLatency(onA))
		pod, err := f.control.Client().CoreV1().Pods(f.ns).Get(t.Context(), "pod", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if text := pod.Annotations[v1alpha1.PlacementAnnotation]; !strings.Contains(text, `"candidates":5`) {
			t.Errorf("placement %s, want 5 candidates", text)
		}
		if got, want := f.narrowed(), "1 narrowed, 0 widened, 0 no_room"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})

	t.Run("a pod that none of them takes is tried on all at once", func(t *testing.T) {
		f := start(t)
		for _, n := range []string{"a-0", "a-1", "a-2", "b-0", "b-1"} {
			f.create("taken-"+n, onto(n), withHostPort)
		}
		begin := time.Now()
		f.wantPlace("b-2", "pod", by(narrow), withLatency(onA), withHostPort)
		// The first back-off of the scheduler is a second.
		if took := time.Since(begin); took > 900*time.Millisecond {
			t.Errorf("the pod was placed after %s, which is a back-off", took)
		}
		if got := f.event("FailedScheduling", "pod"); !strings.Contains(got, "none of the 5 nodes of the lowest latency took it; it is tried on all nodes now") {
			t.Errorf("the event says %q", got)
		}
		if got, want := f.narrowed(), "1 narrowed, 1 widened, 0 no_room"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})

	t.Run("nobody is evicted for a pod that has room elsewhere", func(t *testing.T) {
		f := start(t)
		class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: f.ns}, Value: 1000}
		classes := f.control.Client().SchedulingV1().PriorityClasses()
		if _, err := classes.Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := classes.Delete(t.Context(), class.Name, metav1.DeleteOptions{}); err != nil && t.Context().Err() == nil {
				t.Error(err)
			}
		})
		for _, n := range []string{"a-0", "a-1", "a-2", "b-0", "b-1"} {
			f.create("taken-"+n, onto(n), withHostPort)
		}
		f.wantPlace("b-2", "pod", by(narrow), withLatency(onA), withHostPort, withPriority(class.Name))
		pods, err := f.control.Client().CoreV1().Pods(f.ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range pods.Items {
			if p := &pods.Items[i]; p.DeletionTimestamp != nil {
				t.Errorf("pod %s on %s was evicted", p.Name, p.Spec.NodeName)
			}
		}
		if len(pods.Items) != 6 {
			t.Errorf("%d pods are left, want 6", len(pods.Items))
		}
	})

	t.Run("a pod that may only go far away is not narrowed in vain", func(t *testing.T) {
		f := start(t)
		f.wantPlace("c-0", "pod", by(narrow), withLatency(onA), onSite("c", "d"))
		if got, want := f.narrowed(), "1 narrowed, 0 widened, 0 no_room"; got != want {
			t.Errorf("%s, want %s: five of the six nodes that it may go to", got, want)
		}
		f.wantPlace("d-2", "one", by(narrow), withLatency(onA), onNode("d-2"))
		if got, want := f.narrowed(), "1 narrowed, 0 widened, 1 no_room"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})

	t.Run("a limit that no node keeps is told as ever", func(t *testing.T) {
		f := start(t)
		f.create("pod", by(narrow), withLatency(strings.Replace(onA, `}}}]`, `}},"limit":"500us"}],"whenUnsatisfiable":"DoNotSchedule"`, 1)), onSite("b", "c", "d"))
		if got := f.event("FailedScheduling", "pod"); !strings.Contains(got, "9 node(s) exceed the latency limit") {
			t.Errorf("the event says %q", got)
		}
	})

	t.Run("not where preemption would see it first", func(t *testing.T) {
		f := newFixture(t)
		shipped, err := shippedConfig(t.Context(), f.control)
		if err != nil {
			t.Fatal(err)
		}
		config := configFor(shipped, "{candidates: 5}", narrow)
		without := strings.Replace(config, "    postFilter:\n      enabled:\n      - name: NodeLatency\n", "", 1)
		if without == config {
			t.Fatal("the shipped configuration does not name the PostFilter")
		}
		s, err := startFogsched(t.Context(), f.control, without)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Stop)
		f.scheduler = s
		f.eventually("the measurements in this scheduler", func() (bool, string) {
			pairs := f.metric("fogsched_store_measured_pairs")
			return pairs == 66, fmt.Sprint(pairs)
		})
		f.wantPlace("a-0", "pod", by(narrow), withLatency(onA))
		if got, want := f.narrowed(), "0 narrowed, 0 widened, 0 no_room"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if !strings.Contains(f.log(), "add to the profile plugins: {postFilter: {enabled: [{name: NodeLatency}]}}") {
			t.Error("the log does not say how to mend that")
		}
	})
}
