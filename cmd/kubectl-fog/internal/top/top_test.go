// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(clitest.Now.Add(-d)) }

func pendingPod(name, reason string, age time.Duration) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), CreationTimestamp: ago(age)}}
	p.Spec.SchedulerName = "fogsched"
	p.Status.Phase = v1.PodPending
	if reason != "" {
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: reason}}
	}
	return p
}

func placedPod(name, node, placementJSON string, age time.Duration) *v1.Pod {
	p := pendingPod(name, "", age+time.Second)
	p.Spec.NodeName = node
	p.Status.Phase = v1.PodRunning
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: ago(age)}}
	if placementJSON != "" {
		p.Annotations = map[string]string{v1alpha1.PlacementAnnotation: placementJSON}
	}
	return p
}

func policyOf(name, reason string) *v1alpha1.LatencyPolicy {
	p := &v1alpha1.LatencyPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Generation: 1}}
	if reason != "" {
		d := metav1.Duration{Duration: 12300 * time.Microsecond}
		p.Status = v1alpha1.LatencyPolicyStatus{
			ObservedGeneration: 1, Pods: 2, Typical: &d, Worst: "berlin-1 → münchen-1 (24.5ms)",
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionLimitsKept, Reason: reason}},
		}
	}
	return p
}

// before and after are a cluster at the start, and later.
func before() *cli.Cluster {
	c := &cli.Cluster{
		ReadAt: clitest.Now.Add(-95 * time.Second),
		Nodes:  []*v1.Node{clitest.Node("berlin-1"), clitest.Node("berlin-2"), clitest.Node("münchen-1"), clitest.Node("東京-1"), clitest.Node("van")},
		NodeLatencies: []*v1alpha1.NodeLatency{
			clitest.Latency("berlin-1", "berlin-2=500us", "münchen-1=9ms", "東京-1=231ms"),
			clitest.Latency("berlin-2", "münchen-1=9.5ms", "東京-1=230ms"), clitest.Latency("münchen-1"), clitest.Latency("東京-1"),
		},
		Policies: []*v1alpha1.LatencyPolicy{policyOf("web", v1alpha1.ReasonKept)},
		Pods: []*v1.Pod{
			placedPod("web-1", "berlin-1", `{"node":"berlin-1","cost":"9ms","entries":[{"provenance":"measured"}]}`, 5*time.Minute),
			pendingPod("web-2", "", 100*time.Second),
		},
	}
	for _, nl := range c.NodeLatencies { // measured then, not now
		then := metav1.NewTime(c.ReadAt.Add(-10 * time.Second))
		nl.Status.ObservedAt = &then
		for i := range nl.Status.Peers {
			nl.Status.Peers[i].At = &then
		}
	}
	return c
}

func after() *cli.Cluster {
	c := before()
	c.ReadAt = clitest.Now
	c.Nodes[1].Status.Conditions[0].Status = v1.ConditionFalse
	c.NodeLatencies[0] = clitest.Latency("berlin-1", "berlin-2=520us", "münchen-1=36ms", "東京-1=lost")
	c.NodeLatencies[1] = clitest.Latency("berlin-2", "münchen-1=12ms", "東京-1=190ms")
	c.NodeLatencies[3].Status.Starved = true
	c.Policies = append(c.Policies, policyOf("api", v1alpha1.ReasonBroken), policyOf("new", ""))
	c.Pods = []*v1.Pod{
		c.Pods[0],
		placedPod("web-2", "münchen-1", `{"node":"münchen-1","cost":"11.3ms","entries":[{"provenance":"zone"}]}`, 30*time.Second),
		placedPod("web-3", "東京-1", `{"node":"東京-1","cost":"190ms","entries":[{"provenance":"measured","limitBroken":true}]}`, 12*time.Second),
		placedPod("job-1", "van", "", 3*time.Second),
		pendingPod("prüfling-mit-langem-namen-0", "0/5 nodes are available: 3 node(s) exceed the latency limit, 2 node(s) didn't match Pod's node affinity/selector.", 80*time.Second),
		pendingPod("web-4", "", 2*time.Second),
	}
	gated := pendingPod("gated", "", time.Second)
	gated.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonSchedulingGated}}
	c.Pods = append(c.Pods, gated)
	return c
}

// crowd has more of everything than fits.
func crowd() *cli.Cluster {
	c := after()
	for i := range 40 {
		c.Pods = append(c.Pods, pendingPod(fmt.Sprintf("p-%02d", i), "no", time.Duration(i)*time.Second),
			placedPod(fmt.Sprintf("b-%02d", i), "berlin-1", "", time.Duration(i)*time.Second))
		c.Nodes = append(c.Nodes, clitest.Node(fmt.Sprintf("silent-%02d", i)))
		c.Policies = append(c.Policies, policyOf(fmt.Sprintf("policy-%02d", i), v1alpha1.ReasonKept))
	}
	return c
}

func frames(t *testing.T, clusters ...*cli.Cluster) *frame {
	t.Helper()
	tr := &tracker{scheduler: "fogsched"}
	var f *frame
	for _, c := range clusters {
		network, doubts := c.Judged(t.Context())
		f = tr.next(c, network, doubts)
	}
	return f
}

func TestFrames(t *testing.T) {
	empty := func() *cli.Cluster { return &cli.Cluster{ReadAt: clitest.Now} }
	broken := func() *frame {
		f := frames(t, before(), after())
		f.trouble = "the API server cannot be reached"
		return f
	}
	for _, tc := range []struct {
		name          string
		frame         *frame
		width, height int
		colored       bool
	}{
		{"start", frames(t, before()), 80, 24, false},
		{"later", frames(t, before(), after()), 120, 40, false},
		{"later-80x24", frames(t, before(), after()), 80, 24, false},
		{"later-40x24", frames(t, before(), after()), 40, 24, false},
		{"later-plain", frames(t, before(), after()), 0, 0, false},
		{"later-color", frames(t, before(), after()), 100, 40, true},
		{"crowd-80x24", frames(t, before(), crowd()), 80, 24, false},
		{"crowd-plain", frames(t, before(), crowd()), 0, 0, false},
		{"tiny", frames(t, before(), crowd()), 20, 5, false},
		{"empty", frames(t, empty()), 80, 24, false},
		{"broken-connection", broken(), 80, 30, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lines := render(cli.NewOptions(genericiooptions.IOStreams{Out: io.Discard}), tc.frame, tc.width, tc.height, tc.colored)
			text := strings.Join(lines, "\n") + "\n"
			if strings.Contains(text, "\x1b") != tc.colored {
				t.Error("colours where there should be none, or none where there should be some")
			}
			if !tc.colored {
				for _, l := range lines {
					if tc.width > 0 && cli.Width(l) > tc.width {
						t.Errorf("%d columns in %q", cli.Width(l), l)
					}
				}
			}
			if tc.height > 0 && len(lines) > tc.height {
				t.Errorf("%d lines, want at most %d", len(lines), tc.height)
			}
			clitest.Golden(t, tc.name+".txt", text)
		})
	}
}

func TestOnce(t *testing.T) {
	s := clitest.NewServer(t)
	c := after()
	for _, n := range c.Nodes {
		s.Add(t, n)
	}
	for _, nl := range c.NodeLatencies {
		s.Add(t, nl)
	}
	for _, p := range c.Policies {
		s.Add(t, p)
	}
	for _, p := range c.Pods {
		s.Add(t, p)
	}
	r := s.Run(t, NewCommand, 100, []string{"NO_COLOR=1"}, "--once")
	if r.Error != nil {
		t.Fatal(r.Error)
	}
	clitest.Golden(t, "once.txt", r.Out)
}

func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		name      string
		forbidden []string
		noCRDs    bool
		args      []string
		want      string
	}{
		{"no permission for pods", []string{"list pods"}, false, []string{"--once"}, `the verb "list" on "pods"`},
		{"no permission for pods, live", []string{"list pods"}, false, nil, `the verb "list" on "pods"`},
		{"no permission to watch", []string{"watch pods"}, false, nil, `the verb "watch" on "pods"`},
		{"no CRDs", nil, true, []string{"--once"}, "the CRDs of fogsched.dev are not installed"},
		{"no CRDs, live", nil, true, nil, "the CRDs of fogsched.dev are not installed"},
		{"too often", nil, false, []string{"--interval=1ms"}, "--interval=1ms: want 100ms or longer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := clitest.NewServer(t)
			s.Forbidden, s.NoCRDs = tc.forbidden, tc.noCRDs
			r := s.Run(t, NewCommand, 0, nil, tc.args...)
			if r.Error == nil || !strings.Contains(r.Error.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", r.Error, tc.want)
			}
			if r.Out != "" {
				t.Errorf("an error, and output: %s", r.Out)
			}
		})
	}
}

// Where there is no terminal, pictures follow one another, and have what was watched.
func TestWithoutATerminal(t *testing.T) {
	s := clitest.NewServer(t, clitest.Node("berlin-1"), pendingPod("web-1", "no node", time.Minute))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, w := io.Pipe()
	o := cli.NewOptions(genericiooptions.IOStreams{In: strings.NewReader(""), Out: w, ErrOut: io.Discard})
	o.Now = func() time.Time { return clitest.Now }
	cmd := NewCommand(o)
	o.AddFlags(cmd.PersistentFlags())
	cmd.SetArgs([]string{"--kubeconfig=" + s.Kubeconfig(t), "--interval=100ms"})
	done := make(chan error, 1)
	go func() {
		done <- cmd.ExecuteContext(ctx)
		w.Close()
	}()
	var seen strings.Builder
	until := func(text string) {
		t.Helper()
		buf := make([]byte, 4096)
		for !strings.Contains(seen.String(), text) {
			n, err := r.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				t.Fatalf("%v before %q in\n%s", err, text, seen.String())
			}
		}
	}
	until("shop/web-1  60s  no node")
	s.Change(t, placedPod("web-1", "berlin-1", "", 0))
	until("→ berlin-1")
	until("1 since the start")
	cancel()
	go io.Copy(io.Discard, r) //nolint:errcheck // whatever comes still
	if err := <-done; err != nil {
		t.Error(err)
	}
	if strings.Contains(seen.String(), "\x1b") {
		t.Error("escape sequences, and no terminal")
	}
}

func TestShare(t *testing.T) {
	for _, tc := range []struct {
		counts []int
		total  int
		want   []int
	}{
		{[]int{1, 2, 3}, 6, []int{1, 2, 3}},
		{[]int{10, 2, 10}, 10, []int{4, 2, 4}},
		{[]int{5, 5}, 0, []int{0, 0}},
		{nil, 3, nil},
	} {
		got := slices.Clone(tc.counts)
		if share(got, tc.total); !slices.Equal(got, tc.want) {
			t.Errorf("share(%v, %d) = %v, want %v", tc.counts, tc.total, got, tc.want)
		}
	}
}
