// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/test/program"
	"github.com/fogsched/fogsched/test/promtest"
)

const board = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: board}
spec:
  replicas: 1
  selector: {matchLabels: {app: board}}
  template:
    metadata:
      labels: {app: board}
      annotations:
        fogsched.dev/latency: '{"clients": [{"nodes": {"matchLabels": {"gateway": "true"}}, "limit": "50ms"}]}'
    spec:
      schedulerName: fogsched
      containers: [{name: board, image: board}]
`

// Each wrong turn is taken from a set-up with which doctor is content, and mended by what doctor says, back to one with which it is content.
func TestDoctor(t *testing.T) {
	b := newBed(t)
	for _, step := range []struct {
		name string
		run  func(*bed)
	}{
		{"a newcomer has a pod placed in three commands at most", newcomer},
		{"CRDs missing", crdsMissing},
		{"no prober", noProber},
		{"wrong schedulerName", wrongSchedulerName},
		{"no schedulerName", noSchedulerName},
		{"Prometheus unreachable", prometheusUnreachable},
		{"rights missing", rightsMissing},
		{"QPS too low", qpsTooLow},
		{"the target of a policy missing", targetMissing},
		{"no scheduler runs", notRunning},
		{"two schedulers", twoSchedulers},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			b.T = t
			step.run(b)
		}) {
			break // the next one begins with what this one should have left
		}
		b.T = t
	}
	b.T = t
}

func newcomer(b *bed) {
	b.named("crds", "problem", "not installed", "latencypolicies.fogsched.dev")
	b.named("probers", "problem", "no prober runs")
	install := b.named("scheduler", "problem", "no scheduler is running")

	b.commands = 0
	b.run(install)
	b.apply(board)
	b.placed("default", "board")
	if b.commands > 3 {
		b.Errorf("it took %d commands, want 3 at most", b.commands)
	}
	list, err := b.control.Client().CoreV1().Pods("default").List(b.Context(), metav1.ListOptions{LabelSelector: "app=board"})
	must(b.T, err)
	if p := &list.Items[0]; p.Annotations["fogsched.dev/placement"] == "" {
		b.Errorf("the pod has no annotation of fogsched: %v", p.Annotations)
	}
	b.content()
}

func crdsMissing(b *bed) {
	b.must("kubectl delete crd latencypolicies.fogsched.dev nodelatencies.fogsched.dev")
	f := b.named("crds", "problem", "not installed", "nodelatencies.fogsched.dev")
	b.run(f)
	b.content()
}

func noProber(b *bed) {
	b.must("kubectl -n fogsched-system delete daemonset fogprobe")
	b.noProbers()
	b.must("kubectl delete nodelatencies --all")
	b.named("reports", "problem", "no node has a NodeLatency")
	f := b.named("probers", "problem", "no prober runs")
	b.run(f)
	b.content()
}

func wrongSchedulerName(b *bed) {
	b.apply(strings.NewReplacer("name: board", "name: typo", "app: board", "app: typo", "schedulerName: fogsched", "schedulerName: fog-sched").Replace(board))
	f := b.named("scheduler-name", "problem", "fog-sched", "meant: fogsched", "Deployment default/typo")
	b.run(f)
	b.placed("default", "typo")
	b.must("kubectl delete deployment typo")
	b.content()
}

func noSchedulerName(b *bed) {
	b.apply(strings.NewReplacer("name: board", "name: forgot", "app: board", "app: forgot", "      schedulerName: fogsched\n", "").Replace(board))
	f := b.named("templates", "problem", "Deployment default/forgot", "default-scheduler places its pods")
	b.run(f)
	b.content()
	b.must("kubectl delete deployment forgot")
}

func prometheusUnreachable(b *bed) {
	set := func(address string) {
		b.configure(func(config string) string {
			head, _, _ := strings.Cut(config, "      prometheus:")
			return strings.TrimRight(head, "\n") + fmt.Sprintf(`
      prometheus:
        address: %s
        interval: 1s
        latencies: [{preset: fogprobe}]
`, address)
		})
	}
	// A Service that is not there is seen without the scheduler's metrics.
	b.must("kubectl create namespace monitoring")
	set("http://prometheus.monitoring:9090")
	f := b.named("prometheus", "problem", "there is no Service monitoring/prometheus", "prometheus.address")
	if !strings.Contains(strings.Join(f.Mend.Commands, "\n"), "edit configmap fogsched-config-") {
		b.Errorf("the mend names no ConfigMap: %v", f.Mend)
	}
	b.must("kubectl -n monitoring create service clusterip prometheus --tcp=9090:9090")
	b.named("prometheus", "problem", "no pod behind Service monitoring/prometheus is ready")

	// An address at which nobody listens, and then a real Prometheus.
	port, err := program.ReservePort()
	must(b.T, err)
	set("http://" + port.Address())
	f = b.named("prometheus", "problem", "cannot be reached", port.Address(), "unreachable")
	port.Release()
	server, err := promtest.Start(b.Context(), promtest.Options{Dir: b.TempDir()})
	must(b.T, err)
	defer server.Stop()
	set(server.URL())
	b.eventually("Prometheus to be reached", func() string {
		r, _ := b.doctor("--only=prometheus")
		for _, x := range r.Checks[0].Findings {
			if x.Severity == "problem" {
				return x.Message
			}
		}
		return ""
	})
	_ = f
	// It has no series: that is named as well.
	b.named("prometheus", "warning", "has an empty answer")

	b.configure(func(config string) string {
		head, _, _ := strings.Cut(config, "      prometheus:")
		return head
	})
	b.must("kubectl delete namespace monitoring --wait=false")
	b.content()
}

func rightsMissing(b *bed) {
	b.must("kubectl delete clusterrolebinding fogsched-as-volume-scheduler fogsched")
	volumes := b.named("rbac", "problem", "fogsched-as-volume-scheduler", "list/watch storageclasses.storage.k8s.io")
	plugins := b.named("rbac", "problem", "ClusterRoleBinding fogsched gives", "get/list/watch nodelatencies.fogsched.dev")
	b.run(volumes)
	b.run(plugins)
	b.content()
}

func qpsTooLow(b *bed) {
	var before string
	b.configure(func(config string) string {
		before = config
		return strings.Replace(config, "qps: 1000", "qps: 20", 1)
	})
	b.named("qps", "warning", "20 requests a second", "set clientConnection: {qps: 1000, burst: 2000}")
	b.configure(func(string) string { return before })
	b.content()
}

func targetMissing(b *bed) {
	const policy = `
apiVersion: fogsched.dev/v1alpha1
kind: LatencyPolicy
metadata: {name: board, namespace: default}
spec:
  selector: {matchLabels: {app: board}}
  dependencies: [{service: %s}]
`
	b.must("kubectl create service clusterip redis-master --tcp=6379:6379 && kubectl set selector service redis-master app=board")
	b.apply(fmt.Sprintf(policy, "redis-mastr"))
	f := b.named("targets", "problem", "there is no Service default/redis-mastr", "did you mean service: redis-master?", "LatencyPolicy default/board, dependencies[0]")
	if want := "kubectl -n default edit latencypolicy board"; len(f.Mend.Commands) != 1 || f.Mend.Commands[0] != want {
		b.Errorf("mend %v, want %s", f.Mend, want)
	}
	b.apply(fmt.Sprintf(policy, "redis-master"))
	b.content()
	b.must("kubectl delete latencypolicy board && kubectl delete service redis-master")
}

func notRunning(b *bed) {
	b.must("kubectl -n fogsched-system scale deployment fogsched --replicas=0")
	b.named("leader", "problem", "no scheduler leads")
	f := b.named("scheduler", "problem", "scaled to 0")
	b.must("kubectl rollout restart deployment board")
	b.named("pending", "problem", "no scheduler has looked at")
	b.run(f)
	b.content()
	b.placed("default", "board")
}

// twoSchedulers has the stock scheduler and fogsched fill the same nodes. kwok takes every pod; what a kubelet does with one too many, it is
// told here: the pod is Failed with the reason OutOfcpu.
func twoSchedulers(b *bed) {
	const filler = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 4
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      schedulerName: %[2]s
      containers: [{name: c, image: c, resources: {requests: {cpu: 3500m}}}]
      topologySpreadConstraints:
      - {topologyKey: kubernetes.io/hostname, maxSkew: 1, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: %[1]s}}}
`
	b.apply(fmt.Sprintf(filler, "ours", "fogsched"))
	b.placed("default", "ours")
	b.apply(fmt.Sprintf(filler, "theirs", "default-scheduler"))
	b.placed("default", "theirs")
	b.named("two-schedulers", "warning", "both fill 4 nodes", "manifests/overlays/replace-default")

	core := b.control.Client().CoreV1()
	late := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "late"},
		Spec:       corev1.PodSpec{SchedulerName: "fogsched", NodeName: nodeNames[0], Containers: []corev1.Container{{Name: "c", Image: "c"}}},
	}
	_, err := core.Pods("default").Create(b.Context(), late, metav1.CreateOptions{})
	must(b.T, err)
	b.eventually("the pod to be taken up", func() string { // or kwok would overwrite what follows
		p, err := core.Pods("default").Get(b.Context(), "late", metav1.GetOptions{})
		if err != nil || p.Status.Phase != corev1.PodRunning {
			return fmt.Sprint(p.Status.Phase, err)
		}
		return ""
	})
	_, err = core.Pods("default").Patch(b.Context(), "late", types.MergePatchType, []byte(`{"status": {"phase": "Failed", "reason": "OutOfcpu"}}`), metav1.PatchOptions{}, "status")
	must(b.T, err)
	f := b.named("two-schedulers", "problem", "fight for one node's room", "OutOfcpu: 1", "default/late", nodeNames[0])
	b.run(f)
	b.must("kubectl -n fogsched-system rollout status deployment fogsched --timeout=60s")
	b.stock.Stop()
	b.content()
	// One scheduler serves both now.
	b.must("kubectl delete deployment theirs ours --wait=true")
	b.apply(fmt.Sprintf(filler, "theirs", "default-scheduler"))
	b.placed("default", "theirs")
}
