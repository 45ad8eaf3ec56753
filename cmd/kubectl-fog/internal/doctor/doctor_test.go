// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

func metricsFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "metrics")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// examine returns the report on a world.
func examine(t testing.TB, w *world, args ...string) (*Report, clitest.Result) {
	t.Helper()
	if w.metrics != "" {
		args = append(args, "--metrics="+metricsFile(t, w.metrics))
	}
	got := w.serve(t).Run(t, NewCommand, 0, nil, append([]string{"-o", "json"}, args...)...)
	if got.Error != nil && !errors.Is(got.Error, cli.ErrSilent) {
		t.Fatalf("%v\n%s", got.Error, got.Err)
	}
	r := &Report{}
	if err := json.Unmarshal([]byte(got.Out), r); err != nil {
		t.Fatalf("%v\n%s", err, got.Out)
	}
	return r, got
}

func policy(name, selector string, entry v1alpha1.Entry) *v1alpha1.LatencyPolicy {
	p := &v1alpha1.LatencyPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Generation: 2, CreationTimestamp: metav1.NewTime(clitest.Now.Add(-time.Hour))}}
	p.Spec.Selector.MatchLabels = map[string]string{"app": selector}
	p.Spec.Dependencies = []v1alpha1.Entry{entry}
	return held(p, v1alpha1.ReasonKept, "")
}

func held(p *v1alpha1.LatencyPolicy, reason, message string) *v1alpha1.LatencyPolicy {
	p.Status.ObservedGeneration = 2
	p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionLimitsKept, Reason: reason, Message: message, Status: metav1.ConditionTrue}}
	return p
}

var atGateway = v1alpha1.Entry{Nodes: &metav1.LabelSelector{MatchLabels: map[string]string{"gateway": "true"}}}

func service(namespace, name string, selector map[string]string, port int32) *v1.Service {
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.ServiceSpec{Selector: selector, Ports: []v1.ServicePort{{Port: port}}},
	}
}

func waiting(reason, message string) v1.ContainerStatus {
	return v1.ContainerStatus{Image: "fogsched:dev", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}}
}

// broken has the scheduler's only pod be in a state.
func (w *world) broken(s v1.ContainerStatus) {
	w.scheduler.Status.ReadyReplicas = 0
	w.pod.Status = v1.PodStatus{Phase: v1.PodPending, ContainerStatuses: []v1.ContainerStatus{s}}
}

func pending(p *v1.Pod, message string) *v1.Pod {
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: message}}
	return p
}

func prometheusAt(address string) string {
	return interestArg + "      prometheus: {address: \"" + address + "\", latencies: [{preset: fogprobe}]}\n"
}

const counted = `# TYPE fogsched_prometheus_queries_total counter
fogsched_prometheus_queries_total{query="fogprobe",result="%s"} 7
# TYPE fogsched_prometheus_last_answer_timestamp_seconds gauge
fogsched_prometheus_last_answer_timestamp_seconds{query="fogprobe"} %d
# TYPE fogsched_prometheus_series gauge
fogsched_prometheus_series{query="fogprobe",state="joined"} %d
fogsched_prometheus_series{query="fogprobe",state="unjoined"} %d
fogsched_prometheus_series{query="fogprobe",state="rejected"} %d
`

func answers(result string, joined, unjoined, rejected int) string {
	return fmt.Sprintf(counted, result, clitest.Now.Unix()-10, joined, unjoined, rejected)
}

// Every finding there is, each with the change that brings it.
func TestFindings(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world)
		check  string
		status Status
		want   []string // in the message, the evidence or the mend
	}{
		"an old API server": {func(w *world) { w.version = "v1.33.2" }, "api-server", StatusProblem, []string{"v1.33.2 is too old", "1.35 or newer"}},
		"a scheduler newer than the API server": {
			func(w *world) { w.metrics = strings.Replace(w.metrics, "v1.35.4", "v1.36.0", 1) }, "api-server", StatusProblem,
			[]string{"v1.36.0, newer than the API server's v1.35.4"},
		},
		"a scheduler much older than the API server": {func(w *world) { w.version = "v1.37.0" }, "api-server", StatusWarning, []string{"more than one minor version"}},
		"no CRDs":         {func(w *world) { w.noCRDs = true }, "crds", StatusProblem, []string{"latencypolicies.fogsched.dev, nodelatencies.fogsched.dev", "kubectl apply --server-side -k manifests/base/crds"}},
		"an older CRD":    {olderCRD, "crds", StatusProblem, []string{"nodelatencies.fogsched.dev is of an older version", "status.starved"}},
		"another version": {func(w *world) { crdVersion(w)["name"] = "v1alpha0" }, "crds", StatusProblem, []string{"does not serve the version v1alpha1"}},
		"a CRD that is not established": {func(w *world) {
			w.crds["nodelatencies.fogsched.dev"]["status"] = map[string]any{"conditions": []any{
				map[string]any{"type": "NamesAccepted", "status": "False", "message": `"nl" is already in use`}, map[string]any{"type": "Established", "status": "False"},
			}}
		}, "crds", StatusProblem, []string{"not established", `"nl" is already in use`}},
		"rights of the bootstrap role missing": {func(w *world) {
			w.allowed = func(a *authorizationv1.ResourceAttributes) bool { return a.Subresource != "binding" }
		}, "rbac", StatusProblem, []string{"create pods/binding", "kubectl create clusterrolebinding fogsched-as-kube-scheduler --clusterrole=system:kube-scheduler --serviceaccount=fogsched-system:fogsched"}},
		"rights of the volume scheduler missing": {func(w *world) {
			w.allowed = func(a *authorizationv1.ResourceAttributes) bool { return a.Resource != "storageclasses" }
		}, "rbac", StatusProblem, []string{"--clusterrole=system:volume-scheduler"}},
		"rights to learn of client certificates missing": {func(w *world) {
			w.allowed = func(a *authorizationv1.ResourceAttributes) bool {
				return a.Name != "extension-apiserver-authentication"
			}
		}, "rbac", StatusProblem, []string{"kubectl -n kube-system create rolebinding fogsched-authentication-reader"}},
		"rights to the lease missing": {func(w *world) {
			w.allowed = func(a *authorizationv1.ResourceAttributes) bool { return a.Resource != "leases" }
		}, "rbac", StatusProblem, []string{"RoleBinding fogsched-leader-election", "get/update leases.coordination.k8s.io fogsched-system/fogsched"}},
		"rights of the prober missing": {func(w *world) {
			w.allowed = func(a *authorizationv1.ResourceAttributes) bool { return a.Resource != "endpointslices" }
		}, "rbac", StatusProblem, []string{"fogsched-system/fogprobe lacks", "list/watch endpointslices.discovery.k8s.io in fogsched-system"}},
		"rights missing, by RBAC itself": {func(w *world) {
			w.allowed = nil
			w.more = append(w.more, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"", "apps", "policy"}, Resources: []string{"*"}}}},
				&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "all"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "all"}, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "fogsched", Namespace: defaultNamespace}}})
		}, "rbac", StatusProblem, []string{"get/list/watch nodelatencies.fogsched.dev"}},
		"no admission policy":            {func(w *world) { w.policy = nil }, "admission", StatusWarning, []string{"each prober may write for all nodes"}},
		"an admission policy that warns": {func(w *world) { w.binding.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Warn} }, "admission", StatusWarning, []string{"does not deny"}},
		"this machine's clock is wrong":  {func(w *world) { w.clock = clitest.Now.Add(3 * time.Minute) }, "clock", StatusWarning, []string{"3m behind the API server's"}},
		"a node's clock is ahead": {func(w *world) {
			at := metav1.NewTime(clitest.Now.Add(5 * time.Minute))
			w.latencies[2].Status.ObservedAt = &at
		}, "clock", StatusProblem, []string{"1 node is ahead", "b-1: 5m ahead"}},

		"no scheduler at all": {func(w *world) { w.scheduler, w.pod, w.lease = nil, nil, nil }, "scheduler", StatusProblem, []string{"no scheduler is running", "kubectl apply --server-side -k manifests/overlays/second-scheduler"}},
		"a scheduler scaled to 0": {
			func(w *world) { w.scheduler.Spec.Replicas = ptr.To[int32](0) }, "scheduler", StatusProblem,
			[]string{"scaled to 0", "kubectl -n fogsched-system scale deployment fogsched --replicas=1"},
		},
		"a scheduler in the default one's place, scaled to 0": {func(w *world) {
			w.config.Data[configKey] = repoFile(t, "manifests/overlays/replace-default/config.yaml")
			w.scheduler.Spec.Replicas, w.lease = ptr.To[int32](0), nil
		}, "scheduler", StatusProblem, []string{"start the stock one until it runs"}},
		"an image that is not loaded": {
			func(w *world) {
				w.broken(waiting("ErrImageNeverPull", "Container image \"fogsched:dev\" is not present"))
			}, "scheduler", StatusProblem,
			[]string{"fogsched-5c9d-x1 waits: ErrImageNeverPull", "kind load docker-image fogsched:dev"},
		},
		"an image that cannot be pulled": {func(w *world) { w.broken(waiting("ImagePullBackOff", "Back-off pulling image")) }, "scheduler", StatusProblem, []string{"name an image that the nodes can pull"}},
		"a container that cannot be made": {
			func(w *world) {
				w.broken(waiting("CreateContainerConfigError", `configmap "fogsched-config" not found`))
			}, "scheduler", StatusProblem,
			[]string{`configmap "fogsched-config" not found`},
		},
		"a crash loop": {func(w *world) {
			s := waiting("CrashLoopBackOff", "back-off 5m0s")
			s.RestartCount = 9
			s.LastTerminationState.Terminated = &v1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "I1\nunknown field \"interst\""}
			w.broken(s)
		}, "scheduler", StatusProblem, []string{`crashed 9 times: it ended with exit code 1: unknown field "interst"`, "logs fogsched-5c9d-x1 --previous"}},
		"out of memory": {func(w *world) {
			s := waiting("CrashLoopBackOff", "")
			s.LastTerminationState.Terminated = &v1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}
			w.broken(s)
		}, "scheduler", StatusProblem, []string{"exit code 137 (OOMKilled)", "raise the memory limit"}},
		"a scheduler's pod that is not placed": {func(w *world) {
			w.scheduler.Status.ReadyReplicas = 0
			w.pod = pending(pod(defaultNamespace, "fogsched-0", "", ""), "0/4 nodes are available: 4 Insufficient cpu.")
			w.pod.Labels = map[string]string{appLabel: schedulerApp}
		}, "scheduler", StatusProblem, []string{"4 Insufficient cpu"}},
		"pods refused": {func(w *world) {
			w.pod, w.scheduler.Status.ReadyReplicas = nil, 0
			w.scheduler.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: v1.ConditionTrue, Message: "exceeded quota"}}
		}, "scheduler", StatusProblem, []string{"pods are refused: exceeded quota"}},
		"one of two ready": {func(w *world) { w.scheduler.Spec.Replicas = ptr.To[int32](2) }, "scheduler", StatusWarning, []string{"1 of 2 replicas"}},
		"a scheduler that restarts": {func(w *world) {
			w.pod.Status.ContainerStatuses = []v1.ContainerStatus{{RestartCount: 4, LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
				ExitCode: 2, FinishedAt: metav1.NewTime(clitest.Now.Add(-5 * time.Minute)),
			}}}}
		}, "scheduler", StatusWarning, []string{"restarted 4 times, last 5m ago", "exit code 2"}},
		"nobody ever led":          {func(w *world) { w.lease = nil }, "leader", StatusProblem, []string{"there is no lease fogsched-system/fogsched"}},
		"a lease without a holder": {func(w *world) { w.lease.Spec.HolderIdentity = ptr.To("") }, "leader", StatusProblem, []string{"nobody holds the lease"}},
		"a lease that ran out":     {func(w *world) { w.lease = lease(defaultNamespace, "fogsched", "x_1", 5*time.Minute) }, "leader", StatusProblem, []string{"x_1 renewed the lease fogsched-system/fogsched last 5m ago"}},
		"two replicas without election": {func(w *world) {
			w.configure(t, "leaderElect: true", "leaderElect: false")
			w.scheduler.Spec.Replicas = ptr.To[int32](2)
		}, "leader", StatusProblem, []string{"leader election is off with 2 replicas"}},
		"the stock scheduler leads": {func(w *world) {
			w.config.Data[configKey] = repoFile(t, "manifests/overlays/replace-default/config.yaml")
			w.lease = lease("kube-system", "kube-scheduler", "a-1_uid", time.Second)
		}, "leader", StatusProblem, []string{"the stock scheduler leads, on a-1", "mv /etc/kubernetes/manifests/kube-scheduler.yaml"}},

		"an unknown field":         {func(w *world) { w.configure(t, "qps:", "qqps:") }, "config", StatusProblem, []string{"refuses its configuration", `unknown field "qqps"`, "edit configmap fogsched-config-abc"}},
		"no YAML":                  {func(w *world) { w.configure(t, "profiles:", "profiles: {") }, "config", StatusProblem, []string{"refuses its configuration"}},
		"the plugin not enabled":   {func(w *world) { w.config.Data[configKey] = plain }, "config", StatusProblem, []string{"no profile enables the plugin NodeLatency"}},
		"a plugin's unknown field": {func(w *world) { w.configure(t, "interest: ", "interst: ") }, "config", StatusProblem, []string{"refuses the arguments", "interst"}},
		"a bad value of NodeMetrics": {func(w *world) {
			w.configure(t, "        weight: 5", "        weight: 5\n      - name: NodeMetrics\n        weight: 5")
		}, "config", StatusProblem, []string{"args.metrics: Required value"}},
		"not at filter": {func(w *world) {
			w.configure(t, "    bind:\n", "    filter: {disabled: [{name: NodeLatency}]}\n    bind:\n")
		}, "config", StatusProblem, []string{"not enabled at filter"}},
		"bind comes too late": {func(w *world) { w.configure(t, "    bind:\n      enabled:\n      - name: NodeLatency\n", "") }, "config", StatusWarning, []string{"at bind NodeLatency comes after DefaultBinder"}},
		"postFilter comes too late": {
			func(w *world) { w.configure(t, "    postFilter:\n      enabled:\n      - name: NodeLatency\n", "") }, "config", StatusWarning,
			[]string{"at postFilter NodeLatency comes after DefaultPreemption"},
		},
		"no weight":   {func(w *world) { w.configure(t, "        weight: 5", "        weight: 1") }, "config", StatusWarning, []string{"has weight 1"}},
		"QPS too low": {func(w *world) { w.configure(t, "qps: 1000", "qps: 50") }, "qps", StatusWarning, []string{"50 requests a second", "some 20 pods a second", "qps: 1000, burst: 2000"}},
		"QPS not set": {func(w *world) { w.configure(t, "qps: 1000", "contentType: application/json") }, "qps", StatusWarning, []string{"qps is not set"}},
		"batching off": {func(w *world) {
			w.configure(t, "      - name: NodeLatency\n        weight: 5", "      - name: NetworkOverhead\n      - name: Peaks\n      - name: NodeLatency\n        weight: 5")
		}, "batching", StatusWarning, []string{"because of NetworkOverhead, Peaks"}},
		"an extender": {func(w *world) { w.configure(t, "profiles:", "extenders: [{urlPrefix: \"http://x\"}]\nprofiles:") }, "batching", StatusWarning, []string{"1 extender"}},
		"no interest": {func(w *world) { w.interest = nil }, "interest", StatusWarning, []string{"kubectl -n fogsched-system create configmap fogprobe-interest"}},
		"interest not set": {func(w *world) {
			w.configure(t, interestArg, "      maxAge: 5m\n")
			for i := range 40 {
				w.nodes = append(w.nodes, clitest.Node(fmt.Sprintf("c-%d", i)))
			}
		}, "interest", StatusWarning, []string{"with 44 nodes", "set args.interest"}},

		"no Service of Prometheus":   {func(w *world) { w.configure(t, interestArg, prometheusAt("http://prom.shop:9090")) }, "prometheus", StatusProblem, []string{"there is no Service shop/prom"}},
		"no namespace of Prometheus": {func(w *world) { w.configure(t, interestArg, prometheusAt("http://prom.nowhere:9090")) }, "prometheus", StatusWarning, []string{"there is no namespace nowhere"}},
		"another port of Prometheus": {func(w *world) {
			w.configure(t, interestArg, prometheusAt("http://prom.shop.svc.cluster.local"))
			w.more = append(w.more, service("shop", "prom", nil, 9090))
		}, "prometheus", StatusProblem, []string{"has no port 80", "its ports: 9090"}},
		"Prometheus is not ready": {func(w *world) {
			w.configure(t, interestArg, prometheusAt("http://prom.shop:9090"))
			w.more = append(w.more, service("shop", "prom", nil, 9090), slice("shop", "prom", false))
		}, "prometheus", StatusProblem, []string{"no pod behind Service shop/prom is ready"}},
		"Prometheus is unreachable": {func(w *world) {
			w.configure(t, interestArg, prometheusAt("http://10.0.0.9:9090"))
			w.metrics += answers("unreachable", 0, 0, 0)
		}, "prometheus", StatusProblem, []string{"cannot be reached: http://10.0.0.9:9090", "unreachable: 7", "NetworkPolicy"}},
		"Prometheus refuses":             {func(w *world) { w.asks(answers("refused", 0, 0, 0)) }, "prometheus", StatusProblem, []string{"refuses to answer", "tokenFile"}},
		"Prometheus does not understand": {func(w *world) { w.asks(answers("bad_query", 0, 0, 0)) }, "prometheus", StatusProblem, []string{"does not understand a query"}},
		"Prometheus is slow":             {func(w *world) { w.asks(answers("timeout", 0, 0, 0)) }, "prometheus", StatusProblem, []string{"does not answer", "timeout: 7"}},
		"no series joins":                {func(w *world) { w.asks(answers("ok", 0, 12, 0)) }, "prometheus", StatusProblem, []string{"no series of the query fogprobe names a node", "12 unjoined", "nodeLabel"}},
		"some series do not join":        {func(w *world) { w.asks(answers("ok", 10, 2, 0)) }, "prometheus", StatusWarning, []string{"some series"}},
		"series are too old":             {func(w *world) { w.asks(answers("ok", 0, 0, 4)) }, "prometheus", StatusProblem, []string{"every series of the query fogprobe is rejected"}},
		"an empty answer":                {func(w *world) { w.asks(answers("ok", 0, 0, 0)) }, "prometheus", StatusWarning, []string{"empty answer"}},
		"panics": {func(w *world) {
			w.metrics = strings.Replace(w.metrics, `plugin="NodeLatency"} 0`, `plugin="NodeLatency"} 3`, 1)
		}, "metrics", StatusProblem, []string{"3 panics", "NodeLatency at Filter: 3"}},
		"placements without data":   {func(w *world) { w.metrics = strings.Replace(w.metrics, `"no_data"} 0`, `"no_data"} 9`, 1) }, "metrics", StatusWarning, []string{"9 of 21 pods"}},
		"a demand that is not used": {func(w *world) { w.metrics += "fogsched_nodelatency_demands_unused_total{reason=\"undefined\"} 2\n" }, "metrics", StatusWarning, []string{"undefined in the arguments: 2"}},
		"the scheduler has nothing new": {func(w *world) {
			w.metrics += fmt.Sprintf("fogsched_store_snapshot_timestamp_seconds %d\nfogsched_store_newest_sample_timestamp_seconds %d\n", clitest.Now.Unix(), clitest.Now.Unix()-1200)
		}, "metrics", StatusWarning, []string{"20m old"}},
		"pods that kubelets refused": {func(w *world) {
			p := pod("shop", "late", "a-1", "fogsched")
			p.Status = v1.PodStatus{Phase: v1.PodFailed, Reason: "OutOfcpu"}
			w.more = append(w.more, p)
		}, "two-schedulers", StatusProblem, []string{"kubelets refused 1 pod", "OutOfcpu: 1", "shop/late", "manifests/overlays/replace-default"}},
		"both fill a node": {func(w *world) {
			w.more = append(w.more, requesting(pod("shop", "ours", "a-1", "fogsched"), "2"), requesting(pod("shop", "theirs", "a-1", v1.DefaultSchedulerName), "1500m"))
		}, "two-schedulers", StatusWarning, []string{"both fill 1 node", "a-1: 88% of its CPU"}},
		"bind conflicts": {func(w *world) {
			w.more = append(w.more, &v1.Event{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "e"}, InvolvedObject: v1.ObjectReference{Namespace: "shop", Name: "web-1-x"},
				Reason: "FailedScheduling", Message: `binding rejected: pod web-1-x is already assigned to node "b-1"`,
			})
		}, "two-schedulers", StatusProblem, []string{"1 bind conflict", "shop/web-1-x"}},
		"installed twice": {func(w *world) {
			d := w.scheduler.DeepCopy()
			d.Namespace = "other"
			w.more = append(w.more, d)
		}, "two-schedulers", StatusProblem, []string{"in fogsched-system, other"}},
		"the default profile beside the stock scheduler": {func(w *world) {
			w.config.Data[configKey] = strings.Replace(strings.Replace(repoFile(t, "manifests/overlays/replace-default/config.yaml"),
				"resourceName: kube-scheduler", "resourceName: fogsched", 1), "resourceNamespace: kube-system", "resourceNamespace: fogsched-system", 1)
			w.more = append(w.more, lease("kube-system", "kube-scheduler", "a-1_uid", time.Second))
		}, "two-schedulers", StatusProblem, []string{"two schedulers serve the profile default-scheduler"}},

		"no pod uses it": {func(w *world) { w.app, w.appPod = nil, nil }, "in-use", StatusWarning, []string{"no pod uses fogsched", `"schedulerName":"fogsched"`}},
		"a misspelt schedulerName": {func(w *world) {
			w.app.Spec.Template.Spec.SchedulerName, w.appPod.Spec.SchedulerName, w.appPod.Spec.NodeName, w.appPod.Status = "Fogschedd", "Fogschedd", "", v1.PodStatus{Phase: v1.PodPending}
		}, "scheduler-name", StatusProblem, []string{"schedulerName: Fogschedd", "(meant: fogsched)", `kubectl -n shop patch deployment web -p '{"spec":{"template":{"spec":{"schedulerName":"fogsched"}}}}'`}},
		"a schedulerName of nobody": {func(w *world) { w.more = append(w.more, pod("shop", "lost", "", "volcano")) }, "scheduler-name", StatusProblem, []string{"volcano", "name a scheduler that runs"}},
		"an annotation without schedulerName": {
			func(w *world) { w.app.Spec.Template.Spec.SchedulerName = "" }, "templates", StatusProblem,
			[]string{"Deployment shop/web asks for latency, and default-scheduler places its pods", "has the annotation"},
		},
		"a policy without schedulerName": {func(w *world) {
			s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}}
			s.Spec.Template.Labels = map[string]string{"app": "db"}
			w.more = append(w.more, s, policy("db", "db", atGateway))
		}, "templates", StatusProblem, []string{"StatefulSet shop/db asks for latency", "LatencyPolicy db", "patch statefulset db"}},
		"an annotation that is not valid": {
			func(w *world) { w.annotate(`{"dependencies": [{"service": "db", "limit": "20"}]}`) }, "annotations", StatusProblem,
			[]string{"Deployment shop/web is not valid", "dependencies[0].limit", "kubectl -n shop edit deployment web"},
		},
		"a limit that no node keeps": {func(w *world) {
			w.more = append(w.more, pending(pod("shop", "far", "", "fogsched"),
				"0/4 nodes are available: 1 node(s) had untolerated taint(s), 3 node(s) exceed the latency limit. nearest miss …"))
		}, "pending", StatusWarning, []string{"pod shop/far is Pending", "3 node(s) exceed the latency limit", "1 node(s) had untolerated taint", "kubectl fog explain pod far -n shop"}},
		"a limit of unmeasured pairs": {func(w *world) {
			w.more = append(w.more, pending(pod("shop", "far", "", "fogsched"), "0/4 nodes are available: 4 node(s) have no measured latency for the limit."))
		}, "pending", StatusWarning, []string{"4 node(s) have no measured latency", "whenUnmeasured: Allow"}},
		"pods wait for a scheduler that does not run": {func(w *world) {
			w.lease = nil
			w.more = append(w.more, pod("shop", "new", "", "fogsched"))
		}, "pending", StatusProblem, []string{"no scheduler has looked at them", "shop/new"}},

		"a policy that is not valid":   {func(w *world) { w.more = append(w.more, policy("bad", "web", v1alpha1.Entry{})) }, "policies", StatusProblem, []string{"LatencyPolicy shop/bad is not valid", "spec.dependencies[0]"}},
		"a policy that selects no pod": {func(w *world) { w.more = append(w.more, policy("none", "wbe", atGateway)) }, "policies", StatusWarning, []string{"selects no pod", "app=wbe"}},
		"a target Service that does not exist": {func(w *world) {
			w.more = append(w.more, service("shop", "redis", map[string]string{"app": "web"}, 6379), policy("p", "web", v1alpha1.Entry{Service: "rediss"}))
		}, "targets", StatusProblem, []string{"there is no Service shop/rediss", "did you mean service: redis?", "LatencyPolicy shop/p, dependencies[0]"}},
		"a target Service of another namespace": {func(w *world) {
			w.more = append(w.more, service("default", "redis", map[string]string{"app": "web"}, 6379), policy("p", "web", v1alpha1.Entry{Service: "redis"}))
		}, "targets", StatusProblem, []string{"there is one in namespace default"}},
		"a target Service without a selector": {func(w *world) {
			w.more = append(w.more, service("shop", "ext", nil, 1), policy("p", "web", v1alpha1.Entry{Service: "ext"}))
		}, "targets", StatusWarning, []string{"shop/ext has no selector"}},
		"a target Service without pods": {func(w *world) {
			w.more = append(w.more, service("shop", "db", map[string]string{"app": "db"}, 1), policy("p", "web", v1alpha1.Entry{Service: "db"}))
		}, "targets", StatusWarning, []string{"selects no placed pod", "app=db"}},
		"target pods that are not there": {func(w *world) {
			w.more = append(w.more, policy("p", "web", v1alpha1.Entry{Pods: &v1alpha1.PodTarget{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}}))
		}, "targets", StatusWarning, []string{"is no placed pod: pods app=db"}},
		"a node label on no node": {
			func(w *world) { w.annotate(`{"clients": [{"nodes": {"matchLabels": {"gate": "true"}}}]}`) }, "targets", StatusProblem,
			[]string{"no node has gate=true", "the annotation of Deployment shop/web", "kubectl label node NAME gate=true"},
		},
		"a status that was never written": {func(w *world) {
			p := policy("p", "web", atGateway)
			p.Status = v1alpha1.LatencyPolicyStatus{}
			w.more = append(w.more, p)
		}, "status", StatusProblem, []string{"the status of 1 policy was never written", "shop/p"}},
		"a status of an older spec": {func(w *world) {
			p := policy("p", "web", atGateway)
			p.Generation = 3
			w.more = append(w.more, p)
		}, "status", StatusProblem, []string{"is about an older spec"}},
		"a demand that is not known": {func(w *world) {
			p := policy("p", "web", atGateway)
			p.Status.Conditions = append(p.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDemandKnown, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonDemandUndefined})
			w.more = append(w.more, p)
		}, "status", StatusWarning, []string{"names a demand that is not known", "Undefined"}},
		"a broken limit": {
			func(w *world) {
				w.more = append(w.more, held(policy("p", "web", atGateway), v1alpha1.ReasonBroken, "a-1 → b-1: 60ms, limit 50ms"))
			}, "limits", StatusWarning,
			[]string{"a limit is broken now", "a-1 → b-1: 60ms", "kubectl fog policy status p -n shop"},
		},
		"an unmeasured limit": {func(w *world) {
			w.more = append(w.more, held(policy("p", "web", atGateway), v1alpha1.ReasonUnmeasured, "a-1 → b-1"))
		}, "limits", StatusWarning, []string{"nobody measured a pair"}},

		"no prober":          {func(w *world) { w.prober, w.latencies = nil, nil }, "probers", StatusProblem, []string{"there is no DaemonSet fogprobe"}},
		"probers on no node": {func(w *world) { w.prober.Status = appsv1.DaemonSetStatus{} }, "probers", StatusProblem, []string{"selects none of 4 nodes"}},
		"a prober is not ready": {func(w *world) {
			w.prober.Status.NumberReady = 3
			p := pod(defaultNamespace, "fogprobe-x", "b-2", v1.DefaultSchedulerName)
			p.Labels = map[string]string{appLabel: proberApp}
			p.Status = v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{waiting("ErrImageNeverPull", "")}}
			w.more = append(w.more, p)
		}, "probers", StatusWarning, []string{"1 of 4 probers", "node b-2: fogprobe-x waits"}},
		"no reports":              {func(w *world) { w.latencies = nil }, "reports", StatusProblem, []string{"no node has a NodeLatency", "logs daemonset/fogprobe"}},
		"a node without a report": {func(w *world) { w.nodes = append(w.nodes, clitest.Node("new")) }, "reports", StatusWarning, []string{"1 node of 5 have no NodeLatency", "new"}},
		"a stale report":          {func(w *world) { old(w.latencies[1], 20*time.Minute) }, "reports", StatusWarning, []string{"1 report is stale", "a-2: 20m old"}},
		"all reports stale": {func(w *world) {
			for _, l := range w.latencies {
				old(l, time.Hour)
			}
		}, "reports", StatusProblem, []string{"4 reports are stale"}},
		"a report of a node that is gone": {func(w *world) { w.latencies = append(w.latencies, clitest.Latency("gone", "a-1=3ms")) }, "reports", StatusWarning, []string{"kubectl delete nodelatency gone"}},
		"nothing measured":                {func(w *world) { w.latencies = []*v1alpha1.NodeLatency{clitest.Latency("a-1")} }, "coverage", StatusProblem, []string{"0 of 6 pairs measured"}},
		"a lonely node":                   {func(w *world) { w.nodes = append(w.nodes, clitest.Node("new")) }, "coverage", StatusWarning, []string{"nothing is measured to or from 1 node", "new"}},
		"few pairs measured": {func(w *world) {
			w.latencies = []*v1alpha1.NodeLatency{clitest.Latency("a-1", "a-2=2ms", "b-1=20ms"), clitest.Latency("b-2", "a-2=20ms"), clitest.Latency("a-2"), clitest.Latency("b-1")}
		}, "coverage", StatusWarning, []string{"50% of pairs are measured", "kubectl fog matrix"}},
		"every probe between two sites lost": {func(w *world) {
			w.latencies = []*v1alpha1.NodeLatency{
				clitest.Latency("a-1", "a-2=2ms", "b-1=lost", "b-2=lost"), clitest.Latency("a-2", "a-1=2ms", "b-1=lost", "b-2=lost"), clitest.Latency("b-1", "b-2=2ms"), clitest.Latency("b-2", "b-1=2ms"),
			}
		}, "lost", StatusProblem, []string{"every probe between zone-a and zone-b is lost (4 pairs)", "UDP 8620", "a-1 – b-1"}},
		"a node that answers nobody": {func(w *world) {
			for _, n := range w.nodes {
				delete(n.Labels, v1.LabelTopologyZone)
			}
			w.latencies = []*v1alpha1.NodeLatency{
				clitest.Latency("a-1", "a-2=2ms", "b-1=9ms", "b-2=lost"), clitest.Latency("a-2", "b-1=9ms", "b-2=lost"), clitest.Latency("b-1", "b-2=lost"), clitest.Latency("b-2", "a-1=lost", "a-2=lost", "b-1=lost"),
			}
		}, "lost", StatusProblem, []string{"node b-2 answers no probe of 3 peers"}},
		"every probe lost": {func(w *world) { w.latencies = []*v1alpha1.NodeLatency{clitest.Latency("a-1", "a-2=lost", "b-1=lost")} }, "lost", StatusProblem, []string{"every probe is lost"}},
		"a pair lost": {func(w *world) {
			w.latencies[0] = clitest.Latency("a-1", "a-2=2ms", "b-1=20ms", "b-2=lost")
			w.latencies[3] = clitest.Latency("b-2", "a-1=lost", "a-2=20ms", "b-1=2ms")
		}, "lost", StatusWarning, []string{"every probe of 1 pair is lost", "a-1 – b-2"}},
		"a starved node": {func(w *world) {
			w.latencies[0].Status.Starved = true
			w.latencies[0].Status.Control.Typical = &metav1.Duration{Duration: 12 * time.Millisecond}
		}, "starved", StatusWarning, []string{"1 node is short of CPU", "a-1: its way to itself takes 12ms"}},
		"a liar": {liar, "contradicted", StatusWarning, []string{"most others contradict c-0", "none of its"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := healthy(t)
			tc.change(w)
			r, result := examine(t, w)
			i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.ID == tc.check })
			c := r.Checks[i]
			all, err := yaml.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			if c.Status != tc.status {
				t.Errorf("status %s, want %s", c.Status, tc.status)
			}
			var said strings.Builder
			for _, f := range c.Findings {
				fmt.Fprintln(&said, f.Message, strings.Join(f.Evidence, "\n"), f.Mend.Text, strings.Join(f.Mend.Commands, "\n"))
				if f.Mend.Text == "" && len(f.Mend.Commands) == 0 {
					t.Errorf("%q has no mend", f.Message)
				}
			}
			for _, want := range tc.want {
				if !strings.Contains(said.String(), want) {
					t.Errorf("nothing says %q", want)
				}
			}
			if failed := errors.Is(result.Error, cli.ErrSilent); failed != (r.Summary.Problems > 0) {
				t.Errorf("error %v with %d problems", result.Error, r.Summary.Problems)
			}
			if t.Failed() {
				t.Log(string(all))
			}
		})
	}
}

const plain = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [{schedulerName: fogsched}]\n"

// asks has the scheduler ask a Prometheus, with what came of it.
func (w *world) asks(metrics string) {
	w.config.Data[configKey] = strings.Replace(w.config.Data[configKey], interestArg, prometheusAt("http://10.0.0.9:9090"), 1)
	w.metrics += metrics
}

func slice(namespace, service string, ready bool) runtime.Object {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: service + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.1.1.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}
}

func old(nl *v1alpha1.NodeLatency, by time.Duration) {
	at := metav1.NewTime(clitest.Now.Add(-by))
	nl.Status.ObservedAt = &at
	for i := range nl.Status.Peers {
		nl.Status.Peers[i].At = &at
	}
}

// crdVersion returns the only version of the CRD of NodeLatency.
func crdVersion(w *world) map[string]any {
	return w.crds["nodelatencies.fogsched.dev"]["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
}

func olderCRD(w *world) {
	path := crdVersion(w)
	for _, key := range []string{"schema", "openAPIV3Schema", "properties", "status", "properties"} {
		path = path[key].(map[string]any)
	}
	delete(path, "starved")
}

// liar has a node claim to be near to everybody, and all others know better.
func liar(w *world) {
	w.nodes, w.latencies = nil, nil
	const n = 20
	name := func(i int) string { return fmt.Sprintf("c-%d", i) }
	for i := range n {
		w.nodes = append(w.nodes, clitest.Node(name(i)))
		var peers []string
		for j := range n {
			rtt := 10 + 7*max(i-j, j-i)
			if i == 0 {
				rtt = 1
			}
			if i != j {
				peers = append(peers, fmt.Sprintf("%s=%dms", name(j), rtt))
			}
		}
		w.latencies = append(w.latencies, clitest.Latency(name(i), peers...))
	}
}

func TestHealthy(t *testing.T) {
	w := healthy(t)
	r, result := examine(t, w)
	if result.Error != nil || r.Summary != (Summary{OK: len(checks)}) {
		t.Errorf("error %v, summary %+v, want all %d checks ok:\n%s", result.Error, r.Summary, len(checks), result.Out)
	}
	clitest.Golden(t, "healthy.json", result.Out)
	s := w.serve(t)
	metrics := "--metrics=" + metricsFile(t, w.metrics)
	clitest.Golden(t, "healthy.txt", s.Run(t, NewCommand, 0, nil, metrics).Out)
	clitest.Golden(t, "healthy-40.txt", s.Run(t, NewCommand, 40, nil, metrics).Out)
	clitest.Golden(t, "healthy.yaml", s.Run(t, NewCommand, 0, nil, metrics, "-o", "yaml", "--only=limits").Out)
}

// sick is a world with something of everything.
func sick(t testing.TB) *world {
	w := healthy(t)
	w.configure(t, "qps: 1000", "qps: 50")
	w.app.Spec.Template.Spec.SchedulerName = ""
	w.scheduler.Spec.Replicas = ptr.To[int32](0)
	w.latencies[2].Status.Starved = true
	w.more = append(w.more, pod("läden", "wörter-鳥", "", "fog-sched"), policy("π-板", "web", v1alpha1.Entry{Service: "rediss"}))
	w.metrics = ""
	return w
}

func TestOutput(t *testing.T) {
	s := sick(t).serve(t)
	for name, tc := range map[string]struct {
		width int
		env   []string
		args  []string
	}{
		"sick.txt":          {0, nil, nil},
		"sick-40.txt":       {40, nil, nil},
		"sick-80.txt":       {80, nil, nil},
		"sick-colors.txt":   {80, nil, []string{"--color=always"}},
		"sick-no-color.txt": {80, []string{"NO_COLOR=1", "TERM=xterm"}, nil},
		"sick.json":         {0, nil, []string{"-o", "json"}},
	} {
		got := s.Run(t, NewCommand, tc.width, tc.env, tc.args...)
		if !errors.Is(got.Error, cli.ErrSilent) {
			t.Errorf("%s: error %v, want a silent one", name, got.Error)
		}
		clitest.Golden(t, name, got.Out)
		for line := range strings.Lines(got.Out) {
			line = strings.TrimRight(line, "\n")
			command := strings.Contains(line, "kubectl ") || strings.Contains(line, "curl ") // it is to be copied in one piece
			if tc.width > 0 && !command && visible(line) > tc.width && strings.Contains(strings.TrimSpace(line), " ") {
				t.Errorf("%s: a line of %d columns: %s", name, visible(line), line)
			}
			if escaped := strings.Contains(line, "\x1b"); escaped && name != "sick-colors.txt" {
				t.Errorf("%s: colours: %q", name, line)
			}
		}
	}
}

func TestEmptyCluster(t *testing.T) {
	w := healthy(t)
	*w = world{version: w.version, clock: w.clock, noCRDs: true, allowed: w.allowed}
	got := w.serve(t).Run(t, NewCommand, 0, nil)
	clitest.Golden(t, "empty.txt", got.Out)
}

// Whoever may read nothing learns which permissions it takes, and gets no problem out of it.
func TestNoPermission(t *testing.T) {
	w := healthy(t)
	w.allowed, w.metrics = nil, ""
	for _, r := range strings.Fields("nodes pods services namespaces latencypolicies nodelatencies deployments daemonsets statefulsets jobs cronjobs configmaps serviceaccounts events " +
		"clusterroles clusterrolebindings roles rolebindings endpointslices") {
		w.forbidden = append(w.forbidden, "list "+r)
	}
	for _, r := range strings.Fields("leases validatingadmissionpolicies validatingadmissionpolicybindings customresourcedefinitions") {
		w.forbidden = append(w.forbidden, "get "+r)
	}
	w.crds = nil
	got := w.serve(t).Run(t, NewCommand, 0, nil)
	if got.Error != nil {
		t.Errorf("error %v: what may not be looked at is no problem", got.Error)
	}
	for _, want := range []string{"kubectl auth can-i list nodelatencies.fogsched.dev -A", "kubectl auth can-i list configmaps -n fogsched-system", "kubectl auth can-i get leases.coordination.k8s.io -n fogsched-system"} {
		if !strings.Contains(got.Out, want) {
			t.Errorf("nothing says %q", want)
		}
	}
	clitest.Golden(t, "no-permission.txt", got.Out)
}

func TestOnlyAndStrict(t *testing.T) {
	w := healthy(t)
	w.configure(t, "qps: 1000", "qps: 50")
	s := w.serve(t)
	for args, want := range map[string]struct {
		checks int
		fails  bool
		err    string
	}{
		"--only=qps":                {1, false, ""},
		"--only=qps --strict":       {1, true, ""},
		"--only=probers --strict":   {6, false, ""},
		"--only=probers,rbac":       {7, false, ""},
		"--only=rbacs":              {0, true, "--only=rbacs: no such check (did you mean rbac?)"},
		"-o=xml":                    {0, true, "-o xml: want json, yaml"},
		"--metrics=/does/not/exist": {0, true, "--metrics: open /does/not/exist"},
	} {
		got := s.Run(t, NewCommand, 0, nil, append(strings.Fields(args), "--color=never")...)
		if (got.Error != nil) != want.fails || want.err != "" && !strings.Contains(got.Error.Error(), want.err) {
			t.Errorf("%s: error %v, want %q", args, got.Error, want.err)
		}
		if want.err != "" && got.Out != "" {
			t.Errorf("%s: an error, and on standard output %q", args, got.Out)
		}
		n := 0
		for line := range strings.Lines(got.Out) {
			if strings.HasPrefix(line, "  ✓") || strings.HasPrefix(line, "  !") && strings.Contains(line, "  Requests") {
				n++
			}
		}
		if n != want.checks {
			t.Errorf("%s: %d checks, want %d:\n%s", args, n, want.checks, got.Out)
		}
	}
}

// Without a given namespace doctor goes to where the scheduler is, as Helm may have put it.
func TestFindsTheNamespace(t *testing.T) {
	w := healthy(t)
	for _, o := range []metav1.Object{w.config, w.interest, w.scheduler, w.pod, w.lease, w.prober} {
		o.SetNamespace("edge")
	}
	w.scheduler.Labels["app.kubernetes.io/managed-by"] = "Helm"
	w.scheduler.Annotations = map[string]string{"meta.helm.sh/release-name": "fog"}
	w.configure(t, "resourceNamespace: fogsched-system", "resourceNamespace: edge")
	w.configure(t, "fogsched-system/fogprobe-interest", "edge/fogprobe-interest")
	w.configure(t, "qps: 1000", "qps: 50")
	r, result := examine(t, w)
	if r.SchedulerNamespace != "edge" || r.Summary.Problems != 0 || !strings.Contains(result.Out, "helm upgrade fog charts/fogsched -n edge") {
		t.Errorf("namespace %s, summary %+v", r.SchedulerNamespace, r.Summary)
	}
}

// What doctor asks RBAC for is in the shipped manifests, and the bootstrap roles have the rest.
func TestFilesOfTheArgumentsAreNotHere(t *testing.T) {
	w := healthy(t)
	w.configure(t, interestArg, "      prometheus: {address: \"https://10.0.0.9\", caFile: /etc/there/ca.crt, tokenFile: /etc/there/token, latencies: [{preset: fogprobe}]}\n")
	r, _ := examine(t, w, "--only=config")
	if r.Checks[0].Status != StatusOK {
		t.Errorf("%+v", r.Checks[0])
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		name, want string
	}{{"fog-sched", "fogsched"}, {"Fogsched", "fogsched"}, {"fogshed", "fogsched"}, {"volcano", ""}, {"default-schedular", "default-scheduler"}, {"", ""}} {
		if got := nearest(tc.name, []string{"fogsched", "default-scheduler"}); got != tc.want {
			t.Errorf("nearest to %q: %q, want %q", tc.name, got, tc.want)
		}
	}
}
