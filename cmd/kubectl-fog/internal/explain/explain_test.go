// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
	"github.com/fogsched/fogsched/manifests"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

func node(name, zone string, more ...string) *v1.Node {
	n := clitest.Node(name, append(more, v1.LabelTopologyZone+"="+zone)...)
	n.Status.Allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("8Gi"), v1.ResourcePods: resource.MustParse("110")}
	return n
}

func pod(name, scheduler, nodeName string, labels map[string]string, annotations map[string]string) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: labels, Annotations: annotations},
		Spec: v1.PodSpec{
			SchedulerName: scheduler, NodeName: nodeName,
			Containers: []v1.Container{{Name: "main", Image: "example.com/main:1", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}}}},
		},
		Status: v1.PodStatus{Phase: v1.PodPending},
	}
	if nodeName != "" {
		p.Status.Phase = v1.PodRunning
		started := metav1.NewTime(clitest.Now.Add(-3 * 60e9))
		p.Status.StartTime = &started
	}
	return p
}

// shop is a cluster of two sites: Redis in the north, boards that call it, one of them pending for a limit that no free node keeps.
func shop() []runtime.Object {
	far := node("south-1", "south")
	far.Spec.Taints = []v1.Taint{{Key: "maintenance", Effect: v1.TaintEffectNoSchedule}}
	full := node("north-2", "north")
	full.Status.Allocatable[v1.ResourceCPU] = resource.MustParse("50m")
	config := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "fogsched-system", Name: "fogsched-config-abc"}, Data: map[string]string{configKey: string(manifests.SchedulerConfig)}}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "fogsched-system", Name: "fogsched", Labels: map[string]string{"app.kubernetes.io/name": "fogsched"}}}
	deployment.Spec.Template.Spec.Volumes = []v1.Volume{{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
		LocalObjectReference: v1.LocalObjectReference{Name: config.Name},
	}}}}
	return []runtime.Object{
		config, deployment,
		&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		node("gateway", "north", "fogsched.dev/gateway=true"), full, node("east-1", "east"), node("east-2", "east"), far, node("new", "east"),
		clitest.Latency("gateway", "north-2=2ms", "east-1=12ms", "east-2=13ms", "south-1=80ms"),
		clitest.Latency("north-2", "gateway=2ms", "east-1=14ms", "east-2=15ms", "south-1=82ms"),
		clitest.Latency("east-1", "gateway=12ms", "north-2=14ms", "east-2=1ms", "south-1=70ms"),
		clitest.Latency("east-2", "gateway=13ms", "north-2=15ms", "east-1=1ms", "south-1=lost"),
		clitest.Latency("south-1", "gateway=80ms", "north-2=82ms", "east-1=70ms"),
		&v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "redis"}, Spec: v1.ServiceSpec{Selector: map[string]string{"app": "redis"}}},
		pod("redis-0", "fogsched", "north-2", map[string]string{"app": "redis"}, nil),
		&v1alpha1.LatencyPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "board"},
			Spec: v1alpha1.LatencyPolicySpec{
				Selector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "board"}},
				LatencySpec: v1alpha1.LatencySpec{
					Dependencies: []v1alpha1.Entry{{Service: "redis", Limit: &metav1.Duration{Duration: 10e6}}, {Service: "mail"}},
					Clients:      []v1alpha1.ClientEntry{{Entry: v1alpha1.Entry{Nodes: &metav1.LabelSelector{MatchLabels: map[string]string{"fogsched.dev/gateway": "true"}}}}},
				},
			},
		},
		pod("board-1", "fogsched", "east-1", map[string]string{"app": "board"}, map[string]string{v1alpha1.PlacementAnnotation: `{"node":"east-1","cost":"13ms","candidates":4,
			"runnerUp":{"node":"east-2","cost":"14ms","provenance":"coordinate"},
			"entries":[{"from":"LatencyPolicy default/board","entry":"dependencies[0]","target":"service redis","typical":"14ms","tail":"21ms","provenance":"measured","age":"12s","limit":"10ms","limitBroken":true},
				{"from":"LatencyPolicy default/board","entry":"clients[0]","target":"nodes fogsched.dev/gateway=true","typical":"12ms","provenance":"coordinate","error":"±22%","unknownPairs":1}]}`}),
		pod("strict-1", "fogsched", "", nil, map[string]string{v1alpha1.LatencyAnnotation: `{"dependencies":[{"service":"redis","limit":"1ms"}],"whenUnsatisfiable":"DoNotSchedule","whenUnmeasured":"Reject"}`}),
		pod("bad-1", "fogsched", "", nil, map[string]string{v1alpha1.LatencyAnnotation: `{"dependencys":[]}`}),
		pod("stranger-1", "default-scheduler", "gateway", map[string]string{"app": "board"}, nil),
		pod("plain-1", "fogsched", "", nil, nil),
	}
}

func TestExplain(t *testing.T) {
	s := clitest.NewServer(t, shop()...)
	for _, test := range []struct {
		name  string
		width int
		env   []string
		args  []string
	}{
		{"a placed pod", 0, nil, []string{"pod", "board-1"}},
		{"a placed pod in 80 columns", 80, nil, []string{"pod", "board-1"}},
		{"a placed pod in 40 columns", 40, nil, []string{"pod/board-1"}},
		{"a placed pod, wide", 0, nil, []string{"pod", "board-1", "-o", "wide", "--candidates", "2"}},
		{"a placed pod in colour", 0, nil, []string{"pod", "board-1", "--color=always"}},
		{"a placed pod as JSON", 0, nil, []string{"pod", "board-1", "-o", "json"}},
		{"a pending pod", 0, []string{"NO_COLOR=1"}, []string{"pod", "strict-1"}},
		{"a pending pod as YAML", 0, nil, []string{"pod", "strict-1", "-o", "yaml"}},
		{"a pod with a bad annotation", 0, nil, []string{"pod", "bad-1"}},
		{"a pod of another scheduler", 0, nil, []string{"pod", "stranger-1"}},
		{"a pod that no intent concerns", 0, nil, []string{"pod", "plain-1"}},
		{"a manifest", 0, nil, []string{"-f", "testdata/new.yaml"}},
		{"a manifest as JSON", 0, nil, []string{"-f", "testdata/new.yaml", "-o", "json", "--replicas", "2"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := s.Run(t, NewCommand, test.width, test.env, test.args...)
			if r.Error != nil {
				t.Fatal(r.Error)
			}
			clitest.Golden(t, strings.ReplaceAll(strings.ReplaceAll(test.name, ",", ""), " ", "-")+".golden", r.Out)
			if r.Err != "" {
				t.Errorf("standard error:\n%s", r.Err)
			}
		})
	}
}

func TestExplainWithoutMuch(t *testing.T) {
	for _, test := range []struct {
		name      string
		forbidden []string
		noCRDs    bool
		objects   []runtime.Object
		args      []string
		want      string // of the error, or of the output
	}{
		{"no pod of that name", nil, false, shop(), []string{"pod", "nobody"}, "no pod nobody in namespace default (-n chooses another; kubectl get pods -A lists all)"},
		{"no permission to get the pod", []string{"get pods"}, false, shop(), []string{"pod", "board-1"}, `ask your administrator for the verb "get" on "pods"`},
		{"no permission to list nodes", []string{"list nodes"}, false, shop(), []string{"pod", "board-1"}, `ask your administrator for the verb "list" on "nodes"`},
		{"no permission to list measurements", []string{"list nodelatencies"}, false, shop(), []string{"pod", "board-1"}, `the verb "list" on "nodelatencies.fogsched.dev"`},
		{
			"no permission to list what only some pods need",
			[]string{"list persistentvolumes"},
			false, shop(),
			[]string{"pod", "board-1"},
			"Not judged, for want of permission to list them: persistentvolumes.",
		},
		{"no permission to read the scheduler's configuration", []string{"list deployments"}, false, shop(), []string{"pod", "board-1"}, "The scheduler's own configuration was not read, for want of the verb get"},
		{"no CRDs", nil, true, shop(), []string{"pod", "strict-1"}, "The CRDs of fogsched.dev are not installed"},
		{"an empty cluster", nil, false, []runtime.Object{pod("plain-1", "fogsched", "", nil, nil)}, []string{"pod", "plain-1"}, "No node was looked at: the cluster has no nodes"},
		{"nothing to explain", nil, false, nil, nil, "want a pod (`kubectl fog explain pod NAME`) or a manifest"},
		{"a kind that is not explained", nil, false, nil, []string{"deployment", "board"}, "want `kubectl fog explain pod NAME`"},
		{"a manifest without workloads", nil, false, shop(), []string{"-f", "testdata/none.yaml"}, "nothing that would be placed"},
		{"a manifest with a field that is none", nil, false, shop(), []string{"-f", "testdata/bad.yaml"}, `unknown field "spec.template.spec.container"`},
		{"an output that is none", nil, false, shop(), []string{"pod", "board-1", "-o", "xml"}, "-o xml: want wide, json, yaml"},
		{"no candidates to show", nil, false, shop(), []string{"pod", "board-1", "--candidates", "0"}, "--candidates=0: want 1 or more"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := clitest.NewServer(t, test.objects...)
			s.Forbidden, s.NoCRDs = test.forbidden, test.noCRDs
			r := s.Run(t, NewCommand, 0, nil, test.args...)
			said := r.Out
			if r.Error != nil {
				said = r.Error.Error()
				if r.Out != "" {
					t.Errorf("output beside the error:\n%s", r.Out)
				}
			}
			if !strings.Contains(strings.Join(strings.Fields(said), " "), test.want) {
				t.Errorf("want %q in:\n%s", test.want, said)
			}
		})
	}
}
