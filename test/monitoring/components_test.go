// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/test/cluster"
)

const (
	systemNamespace = "fogsched-system"
	overlay         = "test/monitoring/testdata/overlay"
)

// objects are those of the overlay with both components.
type objects []*unstructured.Unstructured

func build(t *testing.T) objects {
	t.Helper()
	manifest, err := cluster.Kustomize(overlay)
	if err != nil {
		t.Fatal(err)
	}
	all, err := cluster.ParseYAML(manifest)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// find decodes the object of a kind whose name begins so.
func find[T any](t *testing.T, all objects, kind, name string) *T {
	t.Helper()
	for _, o := range all {
		if o.GetKind() == kind && strings.HasPrefix(o.GetName(), name) {
			into := new(T)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
				t.Fatal(err)
			}
			return into
		}
	}
	t.Fatalf("the overlay has no %s %s", kind, name)
	return nil
}

// monitor is what a ServiceMonitor and a PodMonitor have in common and we use.
type monitor struct {
	Metadata struct {
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		JobLabel string `json:"jobLabel"`
		Selector struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"selector"`
		Endpoints           []endpoint `json:"endpoints"`
		PodMetricsEndpoints []endpoint `json:"podMetricsEndpoints"`
	} `json:"spec"`
}

type endpoint struct {
	Port          string `json:"port"`
	Scheme        string `json:"scheme"`
	Authorization struct {
		Credentials struct {
			Name string `json:"name"`
			Key  string `json:"key"`
		} `json:"credentials"`
	} `json:"authorization"`
	TLSConfig struct {
		InsecureSkipVerify bool `json:"insecureSkipVerify"`
	} `json:"tlsConfig"`
	Relabelings []struct {
		SourceLabels []string `json:"sourceLabels"`
		TargetLabel  string   `json:"targetLabel"`
	} `json:"relabelings"`
}

// The monitors select what the operator would scrape: a Service whose selector finds the scheduler's pods, and the prober's pods, by
// ports that these have.
func TestTheMonitorsFindTheirTargets(t *testing.T) {
	all := build(t)
	port := func(template corev1.PodTemplateSpec, name string) int32 {
		for _, c := range template.Spec.Containers {
			for _, p := range c.Ports {
				if p.Name == name {
					return p.ContainerPort
				}
			}
		}
		return 0
	}
	matches := func(selector, of map[string]string) bool {
		return len(selector) > 0 && labels.SelectorFromSet(selector).Matches(labels.Set(of))
	}

	scheduler := find[monitor](t, all, "ServiceMonitor", "fogsched")
	service := find[corev1.Service](t, all, "Service", "fogsched")
	deployment := find[appsv1.Deployment](t, all, "Deployment", "fogsched").Spec.Template
	if !matches(scheduler.Spec.Selector.MatchLabels, service.Labels) || !matches(service.Spec.Selector, deployment.Labels) {
		t.Errorf("the ServiceMonitor (%v) does not lead by the Service (%v, %v) to the pods (%v)",
			scheduler.Spec.Selector.MatchLabels, service.Labels, service.Spec.Selector, deployment.Labels)
	}
	if p := service.Spec.Ports[0]; p.Name != scheduler.Spec.Endpoints[0].Port || p.Port != port(deployment, "https") {
		t.Errorf("the Service's port %s (%d) is not the monitor's %s and the pod's %d", p.Name, p.Port, scheduler.Spec.Endpoints[0].Port, port(deployment, "https"))
	}
	if got := service.Labels[scheduler.Spec.JobLabel]; got != "fogsched" {
		t.Errorf("the scheduler's job is %q, and the alerts stand on fogsched", got)
	}
	for _, o := range all { // a second Service would have every replica scraped twice
		if o.GetKind() == "Service" && o.GetName() != "fogsched" && matches(scheduler.Spec.Selector.MatchLabels, o.GetLabels()) {
			t.Errorf("the ServiceMonitor selects the Service %s as well", o.GetName())
		}
	}

	prober := find[monitor](t, all, "PodMonitor", "fogprobe")
	daemonSet := find[appsv1.DaemonSet](t, all, "DaemonSet", "fogprobe").Spec.Template
	if !matches(prober.Spec.Selector.MatchLabels, daemonSet.Labels) || port(daemonSet, prober.Spec.PodMetricsEndpoints[0].Port) == 0 {
		t.Errorf("the PodMonitor does not select the prober's pods or their port")
	}
	if got := daemonSet.Labels[prober.Spec.JobLabel]; got != "fogprobe" {
		t.Errorf("the prober's job is %q, and the alerts stand on fogprobe", got)
	}
	if r := prober.Spec.PodMetricsEndpoints[0].Relabelings; len(r) != 1 || r[0].TargetLabel != "node" {
		t.Errorf("the prober's series get no label node: %+v", r)
	}
	for kind, m := range map[string]*monitor{"ServiceMonitor": scheduler, "PodMonitor": prober} {
		if m.Metadata.Labels["release"] != "kube-prom-stack" {
			t.Errorf("the %s lacks the overlay's label release: %v", kind, m.Metadata.Labels)
		}
	}
	if got := find[corev1.ConfigMap](t, all, "ConfigMap", "fogsched-dashboard"); got.Labels["grafana_dashboard"] != "1" ||
		got.Data["fogsched.json"] != string(file(t, component+"/dashboard.json")) {
		t.Errorf("the ConfigMap of the dashboard has labels %v and %d files", got.Labels, len(got.Data))
	}
	if got := find[corev1.Service](t, all, "Service", "prometheus").Spec.ExternalName; got != "prometheus-operated.observability.svc.cluster.local" {
		t.Errorf("the overlay's patch leaves Prometheus at %s", got)
	}
}

// config returns the scheduler's configuration of the overlay.
func config(t *testing.T, all objects) string {
	t.Helper()
	return find[corev1.ConfigMap](t, all, "ConfigMap", "fogsched-config").Data["config.yaml"]
}

// The component's configuration is a copy of the base's with one thing added, because kustomize cannot add to a file.
func TestTheConfigurationIsThatOfTheBaseWithPrometheus(t *testing.T) {
	var base, ours map[string]any
	for path, into := range map[string]*map[string]any{"manifests/base/config.yaml": &base, "manifests/components/prometheus/config.yaml": &ours} {
		if err := yaml.UnmarshalStrict(file(t, path), into); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	args := ours["profiles"].([]any)[0].(map[string]any)["pluginConfig"].([]any)[0].(map[string]any)["args"].(map[string]any)
	if args["prometheus"] == nil {
		t.Fatal("the component's configuration says nothing of Prometheus")
	}
	delete(args, "prometheus")
	if diff := cmp.Diff(base, ours); diff != "" {
		t.Errorf("beside Prometheus the configurations differ (-manifests/base +manifests/components/prometheus):\n%s", diff)
	}
	if got := config(t, build(t)); got != string(file(t, "manifests/components/prometheus/config.yaml")) {
		t.Errorf("the overlay's configuration is not that of the component:\n%s", got)
	}
}
