// SPDX-License-Identifier: Apache-2.0

// Package explain tests that `kubectl fog explain` says what the scheduler does: on a real API server, with the real scheduler, for many pods.
package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/program"
)

const (
	namespace = "shop"
	nodes     = 40
	pods      = 200
	patience  = 30 * time.Second
)

// bed is a cluster in which the scheduler writes every score into its log.
type bed struct {
	*testing.T
	control   *cluster.Cluster
	scheduler *cluster.Scheduler
	fog       string // the program kubectl-fog
	log       int64  // how far the log was read
}

func newBed(t *testing.T) *bed {
	t.Helper()
	ctx := t.Context()
	control, err := cluster.Start(ctx, cluster.Options{Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(control.Stop)
	b := &bed{T: t, control: control}
	bin, err := cluster.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	b.fog = filepath.Join(bin, "kubectl-fog")
	root, err := cluster.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	must(t, control.ApplyKustomize(ctx, filepath.Join(root, "manifests", "overlays", "second-scheduler")))
	must(t, control.CreateNamespace(ctx, namespace, nil))
	b.makeNodes()
	b.publish()
	config, err := os.ReadFile(filepath.Join(root, "manifests", "base", "config.yaml"))
	must(t, err)
	kubeconfig, err := control.ServiceAccountKubeconfig(ctx, "fogsched-system", "fogsched")
	must(t, err)
	b.scheduler, err = control.StartScheduler(ctx, cluster.SchedulerOptions{
		Binary: "fogsched", Kubeconfig: kubeconfig, ConfigYAML: config, ExtraArgs: []string{"--leader-elect=false", "--vmodule=schedule_one=10"},
	})
	must(t, err)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func nodeName(i int) string { return fmt.Sprintf("node-%02d", i) }

// makeNodes makes nodes of different sizes, some tainted, in four zones.
func (b *bed) makeNodes() {
	var list []cluster.Node
	for i := range nodes {
		n := cluster.Node{
			Name:   nodeName(i),
			Labels: map[string]string{corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i%4), "fogsched.dev/gateway": strconv.FormatBool(i < 2), "disk": []string{"ssd", "hdd"}[i%2]},
			Capacity: corev1.ResourceList{
				corev1.ResourceCPU: *resource.NewQuantity(int64(4+4*(i%3)), resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(int64(8+8*(i%2))<<30, resource.BinarySI),
			},
		}
		if i%10 == 9 {
			n.Taints = []corev1.Taint{{Key: "only", Value: "batch", Effect: corev1.TaintEffectNoSchedule}}
		}
		list = append(list, n)
	}
	must(b.T, b.control.AddNodes(b.Context(), list...))
}

// rtt is the distance of two nodes: by zone, and by number within it.
func rtt(i, j int) time.Duration {
	d := time.Duration(max(i-j, j-i)) * 137 * time.Microsecond
	return d + time.Duration(1+25*max(i%4-j%4, j%4-i%4))*time.Millisecond
}

// publish has the nodes say what they measured, one in seven pairs excepted, which nobody did.
func (b *bed) publish() {
	c, err := client.New(b.control.Config())
	must(b.T, err)
	now := metav1.NewTime(time.Now())
	for i := range nodes {
		nl := &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
		nl, err := c.NodeLatencies().Create(b.Context(), nl, metav1.CreateOptions{})
		must(b.T, err)
		nl.Status.ObservedAt = &now
		nl.Status.RefreshInterval = &metav1.Duration{Duration: 30 * time.Minute} // published once; a slow machine must not outlive it
		for j := range nodes {
			if i == j || (i*j+i+j)%7 == 0 {
				continue
			}
			d := rtt(i, j)
			nl.Status.Peers = append(nl.Status.Peers, v1alpha1.PeerLatency{Node: nodeName(j), Measurement: v1alpha1.Measurement{
				Typical: &metav1.Duration{Duration: d}, Tail: &metav1.Duration{Duration: d + d/4}, Samples: 20, At: &now,
			}})
		}
		_, err = c.NodeLatencies().UpdateStatus(b.Context(), nl, metav1.UpdateOptions{})
		must(b.T, err)
	}
}

// applications are what the pods belong to: servers, callers, replicas near clients, hard limits, spread, affinity, and none of these.
const applications = `
apiVersion: v1
kind: Service
metadata: {name: redis, namespace: shop}
spec: {selector: {app: redis}, ports: [{port: 6379}]}
---
apiVersion: v1
kind: Service
metadata: {name: board, namespace: shop}
spec: {selector: {app: board}, trafficDistribution: PreferClose, ports: [{port: 80}]}
---
apiVersion: fogsched.dev/v1alpha1
kind: LatencyPolicy
metadata: {name: board, namespace: shop}
spec:
  selector: {matchLabels: {app: board}}
  dependencies: [{service: redis, limit: 30ms, weight: 2}]
  clients: [{nodes: {matchLabels: {fogsched.dev/gateway: "true"}}, limit: 60ms}]
---
apiVersion: fogsched.dev/v1alpha1
kind: LatencyPolicy
metadata: {name: strict, namespace: shop}
spec:
  selector: {matchLabels: {app: strict}}
  dependencies: [{service: redis, limit: 4ms}]
  whenUnsatisfiable: DoNotSchedule
  statistic: Tail
---
apiVersion: fogsched.dev/v1alpha1
kind: LatencyPolicy
metadata: {name: caller, namespace: shop}
spec:
  selector: {matchLabels: {app: caller}}
  dependencies: [{service: board, routing: Any}, {pods: {selector: {matchLabels: {app: strict}}}, weight: 3}]
`

// newPod makes the n-th pod. It is gated: the scheduler sees it when it was explained.
func newPod(rng *rand.Rand, n int) *corev1.Pod {
	app := []string{"redis", "board", "strict", "caller", "plain", "spread", "near"}[rng.IntN(7)]
	if n == 0 {
		app = "redis"
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%03d", app, n), Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			SchedulerName:   "fogsched",
			SchedulingGates: []corev1.PodSchedulingGate{{Name: "test.fogsched.dev/explained"}},
			Containers: []corev1.Container{{
				Name: "main", Image: "example.com/main:1",
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: *resource.NewMilliQuantity(int64(100+100*rng.IntN(8)), resource.DecimalSI), corev1.ResourceMemory: resource.MustParse("256Mi"),
				}},
			}},
		},
	}
	switch app {
	case "near":
		pod.Annotations = map[string]string{v1alpha1.LatencyAnnotation: `{"dependencies":[{"service":"redis","limit":"10ms"}],"statistic":"Tail"}`}
	case "spread":
		pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels},
		}}
		pod.Annotations = map[string]string{v1alpha1.LatencyAnnotation: `{"clients":[{"nodes":{"matchLabels":{"fogsched.dev/gateway":"true"}}}]}`}
	}
	if rng.IntN(5) == 0 {
		pod.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if rng.IntN(6) == 0 {
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(8000 + rng.IntN(3))}}
	}
	if app == "board" && rng.IntN(2) == 0 {
		pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels}, TopologyKey: corev1.LabelHostname,
		}}}}
	}
	return pod
}

// ranking is a node and its score.
type ranking struct {
	Node  string
	Score int64
}

func byScore(list []ranking) []ranking {
	slices.SortFunc(list, func(a, b ranking) int {
		if a.Score != b.Score {
			return int(b.Score - a.Score)
		}
		return strings.Compare(a.Node, b.Node)
	})
	return list
}

// explanation is what the test reads of `kubectl fog explain -o json`.
type explanation struct {
	State      string
	Node       string
	Candidates []struct {
		Node  string
		Score int64
	}
	CandidateCount int
	Excluded       []struct {
		Plugin, Reason string
		Nodes          []string
	}
	Mend  []string
	Notes []string
}

func (b *bed) explain(args ...string) explanation {
	b.Helper()
	out := b.run(append([]string{"explain", "-n", namespace, "-o", "json", "--candidates", fmt.Sprint(nodes)}, args...)...)
	var x explanation
	if err := json.Unmarshal([]byte(out), &x); err != nil {
		b.Fatalf("%v in:\n%s", err, out)
	}
	return x
}

func (b *bed) run(args ...string) string {
	b.Helper()
	out, err := b.try(args...)
	if err != nil {
		b.Fatalf("kubectl fog %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (b *bed) try(args ...string) (string, error) {
	cmd := exec.CommandContext(b.Context(), b.fog, append(args, "--kubeconfig="+b.control.KubeconfigPath())...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), nil
}

func (b *bed) until(what string, check func() (bool, string)) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	err := program.Poll(ctx, nil, func(context.Context) error {
		if ok, seen := check(); !ok {
			return errors.New(seen)
		}
		return nil
	})
	if err != nil {
		b.Fatalf("waiting for %s: %v", what, err)
	}
}

var finalScore = regexp.MustCompile(`"Calculated node's final score for pod" pod="([^"]+)" node="([^"]+)" score=(\d+)`)

// scores returns what the scheduler's log says of a pod since the last call: the scores of its last cycle.
func (b *bed) scores(pod string) []ranking {
	b.Helper()
	f, err := os.Open(b.scheduler.LogPath())
	must(b.T, err)
	defer f.Close()
	_, err = f.Seek(b.log, 0)
	must(b.T, err)
	text := new(bytes.Buffer)
	n, err := text.ReadFrom(f)
	must(b.T, err)
	b.log += n
	found := map[string]int64{}
	for _, m := range finalScore.FindAllStringSubmatch(text.String(), -1) {
		if m[1] == namespace+"/"+pod {
			score, err := strconv.ParseInt(m[3], 10, 64)
			must(b.T, err)
			found[m[2]] = score
		}
	}
	var list []ranking
	for node, score := range found {
		list = append(list, ranking{node, score})
	}
	return byScore(list)
}

// TestExplainAgrees explains pods before the scheduler sees them, and compares the ranking with the scores in the scheduler's log.
func TestExplainAgrees(t *testing.T) {
	b := newBed(t)
	must(t, b.control.ApplyYAML(t.Context(), []byte(applications)))
	b.until("the scheduler to have the measurements", func() (bool, string) {
		text, err := b.scheduler.Metrics(t.Context())
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(text, "fogsched_store_measured_pairs "+measuredPairs()), "no measured pairs yet"
	})
	core := b.control.Client().CoreV1().Pods(namespace)
	rng := rand.New(rand.NewPCG(1, 2))
	ranked, alone, pending, placedNearby := 0, 0, 0, 0
	for n := range pods {
		pod, err := core.Create(t.Context(), newPod(rng, n), metav1.CreateOptions{})
		must(t, err)
		said := b.explain("pod", pod.Name)
		if said.State != "pending" {
			t.Fatalf("%s: state %s", pod.Name, said.State)
		}
		_, err = core.Patch(t.Context(), pod.Name, types.JSONPatchType, []byte(`[{"op":"remove","path":"/spec/schedulingGates"}]`), metav1.PatchOptions{})
		must(t, err)
		var got *corev1.Pod
		b.until(pod.Name+" to be placed or refused", func() (bool, string) {
			got, err = core.Get(t.Context(), pod.Name, metav1.GetOptions{})
			must(t, err)
			for _, c := range got.Status.Conditions {
				if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
					return true, ""
				}
			}
			return got.Spec.NodeName != "", "neither"
		})
		want := b.scores(pod.Name)
		var have []ranking
		for _, c := range said.Candidates {
			have = append(have, ranking{c.Node, c.Score})
		}
		switch {
		case got.Spec.NodeName == "":
			pending++
			if len(have) > 0 || len(said.Mend) == 0 {
				t.Errorf("%s: the scheduler found no node, explain %d candidates and what would mend it: %q", pod.Name, len(have), said.Mend)
			}
			// It would be tried again beside the next ones.
			must(t, core.Delete(t.Context(), pod.Name, *metav1.NewDeleteOptions(0)))
		case len(want) == 0: // of one candidate no score is taken
			alone++
			if len(have) != 1 || have[0].Node != got.Spec.NodeName {
				t.Errorf("%s: the scheduler had one candidate, %s; explain says %v", pod.Name, got.Spec.NodeName, have)
			}
		default:
			ranked++
			if diff := cmp.Diff(want, byScore(have)); diff != "" {
				t.Errorf("%s (%s): the ranking of explain is not the scheduler's (-scheduler +explain):\n%s", pod.Name, pod.Labels["app"], diff)
			}
			// Of equal ones the scheduler takes any.
			best := said.Candidates[0].Score
			if i := slices.IndexFunc(want, func(r ranking) bool { return r.Node == got.Spec.NodeName }); i < 0 || want[i].Score != best {
				t.Errorf("%s is on %s, which is not the best that explain found: %v", pod.Name, got.Spec.NodeName, have)
			}
			if _, ok := got.Annotations[v1alpha1.PlacementAnnotation]; ok {
				placedNearby++
			}
		}
		if t.Failed() {
			t.FailNow()
		}
		// What is placed counts for the next one as soon as both see it.
		if got.Spec.NodeName != "" {
			b.until(pod.Name+" to run", func() (bool, string) {
				got, err = core.Get(t.Context(), pod.Name, metav1.GetOptions{})
				must(t, err)
				return got.Status.Phase == corev1.PodRunning, string(got.Status.Phase)
			})
		}
	}
	t.Logf("%d pods: %d with a ranking, the same to the last score; %d with one candidate; %d that no node took; %d placed by latency", pods, ranked, alone, pending, placedNearby)
	if ranked < pods/2 || pending == 0 || placedNearby < pods/3 {
		t.Errorf("the test sees too little")
	}
}

// measuredPairs is how many pairs at least one side measured.
func measuredPairs() string {
	n := 0
	for i := range nodes {
		for j := range i {
			if (i*j+i+j)%7 != 0 {
				n++
			}
		}
	}
	return strconv.Itoa(n)
}
