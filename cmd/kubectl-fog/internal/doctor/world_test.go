// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// world is a cluster with which doctor is content, for tests to break.
type world struct {
	version string
	clock   time.Time // of the API server
	crds    map[string]map[string]any
	// allowed answers a SubjectAccessReview; nil forbids asking.
	allowed   func(*authorizationv1.ResourceAttributes) bool
	forbidden []string
	noCRDs    bool

	nodes     []*v1.Node
	latencies []*v1alpha1.NodeLatency
	config    *v1.ConfigMap
	interest  *v1.ConfigMap
	scheduler *appsv1.Deployment
	pod       *v1.Pod // the scheduler's
	lease     *coordinationv1.Lease
	prober    *appsv1.DaemonSet
	policy    *admissionv1.ValidatingAdmissionPolicy
	binding   *admissionv1.ValidatingAdmissionPolicyBinding
	app       *appsv1.Deployment
	appPod    *v1.Pod
	more      []runtime.Object
	metrics   string
}

var names = []string{"a-1", "a-2", "b-1", "b-2"}

func repoFile(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "..", filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func healthy(t testing.TB) *world {
	t.Helper()
	w := &world{version: "v1.35.4", clock: clitest.Now, crds: map[string]map[string]any{}, allowed: func(*authorizationv1.ResourceAttributes) bool { return true }}
	for _, r := range []string{"latencypolicies", "nodelatencies"} {
		var c map[string]any
		if err := yaml.Unmarshal([]byte(repoFile(t, "manifests/base/crds/fogsched.dev_"+r+".yaml")), &c); err != nil {
			t.Fatal(err)
		}
		c["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}}
		w.crds[r+".fogsched.dev"] = c
	}
	for _, n := range names {
		node := clitest.Node(n, "topology.kubernetes.io/zone=zone-"+n[:1], "gateway="+fmt.Sprint(n == "a-1"))
		node.Status.Allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("8Gi"), v1.ResourcePods: resource.MustParse("110")}
		w.nodes = append(w.nodes, node)
		var peers []string
		for _, p := range names {
			switch {
			case p == n:
			case p[0] == n[0]:
				peers = append(peers, p+"=2ms")
			default:
				peers = append(peers, p+"=20ms")
			}
		}
		w.latencies = append(w.latencies, clitest.Latency(n, peers...))
	}
	label := map[string]string{appLabel: schedulerApp}
	w.config = &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "fogsched-config-abc", Namespace: defaultNamespace}, Data: map[string]string{configKey: repoFile(t, "manifests/base/config.yaml")}}
	w.interest = &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "fogprobe-interest", Namespace: defaultNamespace}}
	template := v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: label}, Spec: v1.PodSpec{
		ServiceAccountName: "fogsched",
		Containers:         []v1.Container{{Name: "fogsched", Image: "fogsched:dev"}},
		Volumes:            []v1.Volume{{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: w.config.Name}}}}},
	}}
	w.scheduler = &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "fogsched", Namespace: defaultNamespace, Labels: label},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To[int32](1), Template: template},
		Status:     appsv1.DeploymentStatus{Replicas: 1, ReadyReplicas: 1},
	}
	w.pod = pod(defaultNamespace, "fogsched-5c9d-x1", "a-1", v1.DefaultSchedulerName)
	w.pod.Labels, w.pod.Spec.ServiceAccountName = label, "fogsched"
	w.pod.Spec.Volumes = template.Spec.Volumes
	w.lease = lease(defaultNamespace, "fogsched", "fogsched-5c9d-x1_uid", 2*time.Second)
	w.prober = &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "fogprobe", Namespace: defaultNamespace, Labels: map[string]string{appLabel: proberApp}},
		Status:     appsv1.DaemonSetStatus{DesiredNumberScheduled: 4, NumberReady: 4},
	}
	w.policy = &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "fogprobe-own-node"}}
	w.binding = &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "fogprobe-own-node"},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	w.appPod = pod("shop", "web-1-x", "a-2", "fogsched")
	w.appPod.Labels = map[string]string{"app": "web", "pod-template-hash": "1"}
	w.appPod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", Controller: ptr.To(true)}}
	w.app = &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"},
		Spec: appsv1.DeploymentSpec{Template: v1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
			Spec:       v1.PodSpec{SchedulerName: "fogsched"},
		}},
	}
	w.annotate(`{"clients": [{"nodes": {"matchLabels": {"gateway": "true"}}, "limit": "50ms"}]}`)
	w.metrics = strings.ReplaceAll(`# TYPE fogsched_nodelatency_decisions_total counter
fogsched_nodelatency_decisions_total{result="scored"} 12
fogsched_nodelatency_decisions_total{result="no_data"} 0
# TYPE fogsched_plugin_panics_recovered_total counter
fogsched_plugin_panics_recovered_total{extension_point="Filter",plugin="NodeLatency"} 0
# TYPE kubernetes_build_info gauge
kubernetes_build_info{git_version="v1.35.4"} 1
`, "\t", "")
	return w
}

func (w *world) annotate(text string) {
	w.app.Spec.Template.Annotations = map[string]string{v1alpha1.LatencyAnnotation: text}
	w.appPod.Annotations = map[string]string{v1alpha1.LatencyAnnotation: text}
}

func pod(namespace, name, node, scheduler string) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.PodSpec{NodeName: node, SchedulerName: scheduler, Containers: []v1.Container{{Name: "c"}}},
		Status:     v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}},
	}
	if node == "" {
		p.Status = v1.PodStatus{Phase: v1.PodPending}
	}
	return p
}

func requesting(p *v1.Pod, cpu string) *v1.Pod {
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}
	return p
}

func lease(namespace, name, holder string, old time.Duration) *coordinationv1.Lease {
	at := metav1.NewMicroTime(clitest.Now.Add(-old))
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &at, LeaseDurationSeconds: ptr.To[int32](15)},
	}
}

// configure replaces a text of the configuration.
func (w *world) configure(t testing.TB, old, with string) {
	t.Helper()
	before := w.config.Data[configKey]
	w.config.Data[configKey] = strings.Replace(before, old, with, 1)
	if w.config.Data[configKey] == before {
		t.Fatalf("the configuration has no %q", old)
	}
}

const interestArg = "      interest: fogsched-system/fogprobe-interest # where the probers are told which nodes matter\n"

func (w *world) serve(t testing.TB) *clitest.Server {
	t.Helper()
	var objects []runtime.Object
	for _, n := range w.nodes {
		objects = append(objects, n)
	}
	if !w.noCRDs {
		for _, l := range w.latencies {
			objects = append(objects, l)
		}
	}
	add := func(present bool, o runtime.Object) {
		if present {
			objects = append(objects, o)
		}
	}
	add(w.config != nil, w.config)
	add(w.interest != nil, w.interest)
	add(w.scheduler != nil, w.scheduler)
	add(w.pod != nil, w.pod)
	add(w.lease != nil, w.lease)
	add(w.prober != nil, w.prober)
	add(w.policy != nil, w.policy)
	add(w.binding != nil, w.binding)
	add(w.app != nil, w.app)
	add(w.appPod != nil, w.appPod)
	if w.config != nil { // as a rule both are there
		add(true, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "fogsched", Namespace: defaultNamespace}})
		add(true, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "fogprobe", Namespace: defaultNamespace}})
	}
	for _, ns := range []string{"default", "shop", defaultNamespace, "kube-system"} {
		add(true, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	}
	objects = append(objects, w.more...)
	s := clitest.NewServer(t, objects...)
	s.NoCRDs, s.Forbidden, s.Handle = w.noCRDs, w.forbidden, w.handle
	return s
}

// handle answers what the small API server does not.
func (w *world) handle(out http.ResponseWriter, r *http.Request) bool {
	answer := func(v any) bool {
		out.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(out).Encode(v)
		return true
	}
	const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
	switch {
	case r.URL.Path == "/version":
		out.Header().Set("Date", w.clock.Format(http.TimeFormat))
		return answer(map[string]string{"gitVersion": w.version})
	case strings.HasPrefix(r.URL.Path, crds):
		c, ok := w.crds[strings.TrimPrefix(r.URL.Path, crds)]
		if !ok || w.noCRDs {
			return false // not found
		}
		return answer(c)
	case strings.HasSuffix(r.URL.Path, "/subjectaccessreviews"):
		if w.allowed == nil {
			out.Header().Set("Content-Type", "application/json")
			out.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(out).Encode(metav1.Status{Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden})
			return true
		}
		body, _ := io.ReadAll(r.Body)
		o, _, err := clientgoscheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		review, ok := o.(*authorizationv1.SubjectAccessReview)
		if err != nil || !ok {
			http.Error(out, fmt.Sprint(err), http.StatusBadRequest)
			return true
		}
		review.APIVersion, review.Kind = "authorization.k8s.io/v1", "SubjectAccessReview"
		review.Status.Allowed = w.allowed(review.Spec.ResourceAttributes)
		return answer(review)
	}
	return false
}
