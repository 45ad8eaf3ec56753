// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
	"github.com/fogsched/fogsched/pkg/plugins/nodemetrics"
	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/program"
)

const chart = "charts/fogsched"

// helm runs helm at the root of the repository, with a home of its own, and returns what it prints.
func helm(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	dir, err := program.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := program.Path(dir, "helm", "make bin/helm")
	if err != nil {
		t.Fatal(err)
	}
	root, err := program.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "HOME="+home, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+control.KubeconfigPath())
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// render returns the objects that the chart makes of some values.
func render(t *testing.T, values string) []*unstructured.Unstructured {
	t.Helper()
	stdout, stderr, err := helm(t, "template", "fogsched", chart, "--namespace", systemNamespace, "--values", valuesFile(t, values),
		"--api-versions", "monitoring.coreos.com/v1")
	if err != nil {
		t.Fatalf("helm template: %v\n%s", err, stderr)
	}
	return parse(t, []byte(stdout))
}

func valuesFile(t *testing.T, values string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The chart makes what kustomize makes. The differences that there may be are those of comparable, and that Helm makes no namespace:
// what holds a release's own records must be there before the release.
func TestChartIsKustomize(t *testing.T) {
	for _, tc := range []struct{ overlay, values string }{
		{overlays + "second-scheduler", "{}"},
		{overlays + "kind", "{scheduler: {replicas: 2, image: {pullPolicy: Never}}, prober: {image: {pullPolicy: Never}}}"},
		{overlays + "minikube", "{scheduler: {image: {pullPolicy: Never}}, prober: {image: {pullPolicy: Never}}}"},
		{overlays + "k3s", "{scheduler: {image: {pullPolicy: Never}}, prober: {image: {pullPolicy: Never}}}"},
		{overlays + "microk8s", "{scheduler: {image: {pullPolicy: Never}, controlPlaneLabel: node.kubernetes.io/microk8s-controlplane}, prober: {image: {pullPolicy: Never}}}"},
		{overlays + "replace-default", "{replaceDefault: true, scheduler: {replicas: 2}}"},
		{"test/integration/testdata/authenticated-probes", "{prober: {authenticationSecret: fogprobe-key}}"},
		{"test/manifests/testdata/monitoring", "{monitoring: {enabled: true}}"},
		{"manifests/base", "{scheduler: {image: {tag: dev}}, prober: {enabled: false}, networkPolicy: {enabled: false}}"},
	} {
		t.Run(filepath.Base(tc.overlay), func(t *testing.T) {
			want, got := alike(t, build(t, tc.overlay)), alike(t, render(t, tc.values))
			if _, ok := want["Namespace/"+systemNamespace]; !ok {
				t.Error("kustomize makes no namespace")
			}
			delete(want, "Namespace/"+systemNamespace)
			if tc.overlay == "manifests/base" {
				dropImageAndInterest(want)
				dropImageAndInterest(got)
			}
			for name, o := range want {
				if diff := cmp.Diff(o, got[name]); diff != "" {
					t.Errorf("%s (-kustomize +chart):\n%s", name, diff)
				}
			}
			for name := range got {
				if _, ok := want[name]; !ok {
					t.Errorf("%s is made by the chart alone", name)
				}
			}
		})
	}
}

// comparable returns objects by kind and name, without what may differ:
//   - Helm's labels, and its annotation that keeps the CRDs when a release is removed;
//   - the hash in the name of the scheduler's ConfigMap, which is of the text with its comments; the configuration itself is compared
//     as what it means.
func alike(t *testing.T, objects []*unstructured.Unstructured) map[string]map[string]any {
	t.Helper()
	byName := map[string]map[string]any{}
	for _, o := range objects {
		drop(o.GetLabels, o.SetLabels, "helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/instance")
		if o.GetKind() == "CustomResourceDefinition" {
			drop(o.GetAnnotations, o.SetAnnotations, "helm.sh/resource-policy")
		}
		if strings.HasPrefix(o.GetName(), "fogsched-config-") {
			o.SetName("fogsched-config-HASH")
			var config any
			text, _, _ := unstructured.NestedString(o.Object, "data", "config.yaml")
			if err := yaml.UnmarshalStrict([]byte(text), &config); err != nil {
				t.Errorf("config.yaml: %v:\n%s", err, text)
			}
			o.Object["data"] = map[string]any{"config.yaml": config}
		}
		if o.GetKind() == "Deployment" {
			volumes, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "volumes")
			for _, v := range volumes {
				if name, ok, _ := unstructured.NestedString(v.(map[string]any), "configMap", "name"); ok && strings.HasPrefix(name, "fogsched-config-") {
					_ = unstructured.SetNestedField(v.(map[string]any), "fogsched-config-HASH", "configMap", "name")
				}
			}
			_ = unstructured.SetNestedSlice(o.Object, volumes, "spec", "template", "spec", "volumes")
		}
		name := o.GetKind() + "/" + o.GetName()
		if o.GetNamespace() != "" && o.GetNamespace() != systemNamespace {
			name += " in " + o.GetNamespace()
		}
		if byName[name] != nil {
			t.Errorf("there are two of %s", name)
		}
		byName[name] = o.Object
	}
	return byName
}

func drop(get func() map[string]string, set func(map[string]string), keys ...string) {
	m := get()
	for _, k := range keys {
		delete(m, k)
	}
	if len(m) == 0 {
		m = nil
	}
	set(m)
}

// dropImageAndInterest evens out what the base leaves to overlays: the tag of the image, and a configuration that names the ConfigMap
// which only the prober's component brings.
func dropImageAndInterest(objects map[string]map[string]any) {
	deployment, config := objects["Deployment/fogsched"], objects["ConfigMap/fogsched-config-HASH"]
	containers, _, _ := unstructured.NestedSlice(deployment, "spec", "template", "spec", "containers")
	delete(containers[0].(map[string]any), "image")
	_ = unstructured.SetNestedSlice(deployment, containers, "spec", "template", "spec", "containers")
	profiles, _, _ := unstructured.NestedSlice(config, "data", "config.yaml", "profiles")
	delete(profiles[0].(map[string]any), "pluginConfig")
	_ = unstructured.SetNestedSlice(config, profiles, "data", "config.yaml", "profiles")
}

// What the values say arrives where it should.
func TestChartValues(t *testing.T) {
	objects := render(t, `
scheduler:
  image: {repository: registry.example.org:5000/fog/fogsched, tag: v1.2.3}
  nodeLatency:
    weight: 7
    args:
      candidates: 50
      prometheus: {address: "http://prometheus.monitoring:9090", latencies: [{preset: goldpinger}]}
  nodeMetrics:
    args: {prometheus: {address: "http://prometheus.monitoring:9090"}, metrics: [{preset: cpu}]}
  extraArgs: [-v=3]
  volumes: [{name: zones, configMap: {name: zones}}]
  volumeMounts: [{name: zones, mountPath: /etc/zones, readOnly: true}]
  resources: {requests: {cpu: 2}, limits: {memory: 4Gi}}
  nodeSelector: {pool: system}
  tolerations: []
  controlPlaneLabel: ""
  podAnnotations: {example.org/team: edge}
prober:
  args: [--interval=10s]
  nodeSelector: {kubernetes.io/arch: arm64}
  podAnnotations: {example.org/team: edge}
networkPolicy: {apiServerPorts: [9443]}
imagePullSecrets: [{name: registry}]
crds: {keep: false}
`)
	templates := templatesOf(t, objects)
	scheduler, prober := templates["fogsched"].Spec, templates["fogprobe"].Spec
	c, p := scheduler.Containers[0], prober.Containers[0]
	var config struct {
		Profiles []struct {
			PluginConfig []struct {
				Name string
				Args map[string]any
			}
			Plugins struct {
				MultiPoint struct{ Enabled []map[string]any }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(configOf(t, objects)), &config); err != nil {
		t.Fatal(err)
	}
	var deny, crd *unstructured.Unstructured
	for _, o := range objects {
		switch {
		case o.GetKind() == "NetworkPolicy" && o.GetName() == "fogprobe":
			deny = o
		case o.GetKind() == "CustomResourceDefinition":
			crd = o
		}
	}
	egress, _, _ := unstructured.NestedSlice(deny.Object, "spec", "egress")
	for what, values := range map[string][2]any{
		"image":             {"registry.example.org:5000/fog/fogsched:v1.2.3", c.Image},
		"image by default":  {"fogprobe:dev", p.Image},
		"scheduler's flags": {[]string{"--config=/etc/fogsched/config.yaml", "--secure-port=10259", "-v=3"}, c.Args},
		"prober's flags":    {[]string{"--peers=endpointslices", "--interval=10s"}, p.Args},
		"volume":            {"zones", scheduler.Volumes[1].Name},
		"mount":             {"/etc/zones", c.VolumeMounts[1].MountPath},
		"CPU":               {"2", c.Resources.Requests.Cpu().String()},
		"memory":            {"4Gi", c.Resources.Limits.Memory().String()},
		"nodes":             {map[string]string{"pool": "system"}, scheduler.NodeSelector},
		"prober's nodes":    {map[string]string{"kubernetes.io/arch": "arm64"}, prober.NodeSelector},
		"tolerations":       {0, len(scheduler.Tolerations)},
		"affinity":          {true, scheduler.Affinity == nil},
		"pod annotations":   {map[string]string{"example.org/team": "edge"}, templates["fogsched"].Annotations},
		"prober's, too":     {map[string]string{"example.org/team": "edge"}, templates["fogprobe"].Annotations},
		"pull secrets":      {[]corev1.LocalObjectReference{{Name: "registry"}}, prober.ImagePullSecrets},
		"API server":        {[]any{map[string]any{"ports": []any{map[string]any{"protocol": "TCP", "port": int64(9443)}}}}, egress[1:]},
		"CRDs go":           {"", crd.GetAnnotations()["helm.sh/resource-policy"]},
		"plugins": {
			[]map[string]any{{"name": "NodeLatency", "weight": 7.}, {"name": "NodeMetrics", "weight": 5.}},
			config.Profiles[0].Plugins.MultiPoint.Enabled,
		},
		"NodeLatency": {map[string]any{
			"interest": "fogsched-system/fogprobe-interest", "candidates": 50.,
			"prometheus": map[string]any{"address": "http://prometheus.monitoring:9090", "latencies": []any{map[string]any{"preset": "goldpinger"}}},
		}, config.Profiles[0].PluginConfig[0].Args},
		"NodeMetrics": {map[string]any{
			"prometheus": map[string]any{"address": "http://prometheus.monitoring:9090"}, "metrics": []any{map[string]any{"preset": "cpu"}},
		}, config.Profiles[0].PluginConfig[1].Args},
	} {
		if diff := cmp.Diff(values[0], values[1]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}

	whole := render(t, `{scheduler: {config: {apiVersion: kubescheduler.config.k8s.io/v1, kind: KubeSchedulerConfiguration, profiles: [{schedulerName: mine}]}}}`)
	if got := configOf(t, whole); !strings.Contains(got, "schedulerName: mine") || strings.Contains(got, "NodeLatency") {
		t.Errorf("a whole configuration is not taken as it is:\n%s", got)
	}
}

// A value that does not exist, or is of the wrong kind, is refused by its name.
func TestChartRefuses(t *testing.T) {
	for values, want := range map[string]string{
		`replicas: 2`:                                          `additional properties 'replicas' not allowed`,
		`{scheduler: {replica: 2}}`:                            `at '/scheduler': additional properties 'replica' not allowed`,
		`{scheduler: {replicas: two}}`:                         `at '/scheduler/replicas': got string, want integer`,
		`{scheduler: {replicas: 0}}`:                           `at '/scheduler/replicas': minimum: got 0, want 1`,
		`{scheduler: {image: {repository: "fogsched:v1"}}}`:    `at '/scheduler/image/repository'`,
		`{scheduler: {image: {pullPolicy: Sometimes}}}`:        `at '/scheduler/image/pullPolicy'`,
		`{scheduler: {resources: {limits: {memory: 2 Gi}}}}`:   `at '/scheduler/resources/limits/memory'`,
		`{scheduler: {nodeLatency: {args: {maxage: 3m}}}}`:     `at '/scheduler/nodeLatency/args': additional properties 'maxage' not allowed`,
		`{scheduler: {nodeLatency: {args: {prometheus: {}}}}}`: `at '/scheduler/nodeLatency/args/prometheus': missing property 'address'`,
		`{scheduler: {nodeMetrics: {args: {metrics: [{}]}}}}`:  `at '/scheduler/nodeMetrics/args': missing property 'prometheus'`,
		`{scheduler: {config: {kind: KubeScheduler}}}`:         `at '/scheduler/config/kind': value must be 'KubeSchedulerConfiguration'`,
		`{scheduler: {extraArgs: ["v=3"]}}`:                    `at '/scheduler/extraArgs/0'`,
		`{scheduler: {tolerations: [{key: a, effect: No}]}}`:   `at '/scheduler/tolerations/0/effect'`,
		`{prober: {enabled: "no"}}`:                            `at '/prober/enabled': got string, want boolean`,
		`{prober: {args: {interval: 10s}}}`:                    `at '/prober/args': got object, want array`,
		`{networkPolicy: {apiServerPorts: [70000]}}`:           `at '/networkPolicy/apiServerPorts/0'`,
		`{imagePullSecrets: [registry]}`:                       `at '/imagePullSecrets/0': got string, want object`,
		`{monitoring: {enabled: true}}`:                        `monitoring.enabled needs the Prometheus Operator`,
		`{replaceDefault: true}`:                               `replaceDefault needs scheduler.replicas of 2 or more`,
		`{replaceDefault: true, scheduler: {config: {apiVersion: kubescheduler.config.k8s.io/v1, kind: KubeSchedulerConfiguration, profiles: [{}]}, replicas: 2}}`: `scheduler.config is the whole configuration`,
	} {
		stdout, stderr, err := helm(t, "template", "fogsched", chart, "--namespace", systemNamespace, "--values", valuesFile(t, values))
		if err == nil || !strings.Contains(stderr, want) {
			t.Errorf("values %s: error %v, want one with %q:\n%s%s", values, err, want, stdout, stderr)
		}
	}
	// An API server that is older than the scheduler.
	_, stderr, err := helm(t, "template", "fogsched", chart, "--kube-version", "v1.34.2")
	if err == nil || !strings.Contains(stderr, "kubeVersion: >=1.35.0-0") {
		t.Errorf("Kubernetes 1.34: error %v, want one about kubeVersion:\n%s", err, stderr)
	}
}

func TestChartLint(t *testing.T) {
	stdout, stderr, err := helm(t, "lint", "--strict", chart)
	if err != nil {
		t.Errorf("helm lint: %v\n%s%s", err, stdout, stderr)
	}
}

// The schema knows every argument of the plugins and every value, and so does the document.
func TestChartSchema(t *testing.T) {
	root, err := cluster.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(content, &schema); err != nil {
		t.Fatal(err)
	}
	properties := func(path ...string) []string {
		at := schema
		for _, p := range path {
			next, ok := at["properties"].(map[string]any)[p].(map[string]any)
			if !ok {
				t.Fatalf("the schema has no %v", path)
			}
			at = next
		}
		return slices.Sorted(maps.Keys(at["properties"].(map[string]any)))
	}
	for plugin, args := range map[string]any{"nodeLatency": nodelatency.Args{}, "nodeMetrics": nodemetrics.Args{}} {
		var want []string
		for f := range jsonFields(reflect.TypeOf(args)) {
			want = append(want, f)
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, properties("scheduler", plugin, "args")); diff != "" {
			t.Errorf("arguments of %s in the program (-) and the schema (+):\n%s", plugin, diff)
		}
	}

	content, err = os.ReadFile(filepath.Join(root, chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(content, &values); err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile(filepath.Join(root, "docs", "install.md"))
	if err != nil {
		t.Fatal(err)
	}
	for part, inner := range values {
		names := []string{part}
		if m, ok := inner.(map[string]any); ok {
			names = nil
			for name := range m {
				names = append(names, part+"."+name)
			}
		}
		for _, name := range names {
			if !strings.Contains(string(document), "`"+name+"`") {
				t.Errorf("docs/install.md does not explain the value %s", name)
			}
		}
	}

	values["global"] = nil
	if diff := cmp.Diff(slices.Sorted(maps.Keys(values)), properties()); diff != "" {
		t.Errorf("values.yaml (-) and the schema (+):\n%s", diff)
	}
	for _, part := range []string{"scheduler", "prober", "networkPolicy", "monitoring", "crds"} {
		if diff := cmp.Diff(slices.Sorted(maps.Keys(values[part].(map[string]any))), properties(part)); diff != "" {
			t.Errorf("%s in values.yaml (-) and the schema (+):\n%s", part, diff)
		}
	}
}

// jsonFields yields the JSON names of a struct's own fields.
func jsonFields(of reflect.Type) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := range of.NumField() {
			name, options, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			if strings.Contains(options, "inline") {
				continue
			}
			if !yield(name) {
				return
			}
		}
	}
}

var patchInNotes = regexp.MustCompile(`kubectl patch deployment NAME --type=merge -p '(.*)'`)

// TestChartInstalls takes the chart through its life on the real API server: installed, upgraded, removed.
func TestChartInstalls(t *testing.T) {
	start(t, cluster.SchedulerOptions{Binary: "kube-scheduler"})
	ctx := t.Context()
	all := build(t, overlays+"replace-default")
	t.Cleanup(func() { remove(t, all) }) // the namespace and the CRDs, which stay
	run := func(args ...string) string {
		t.Helper()
		stdout, stderr, err := helm(t, append(args, "--namespace", systemNamespace)...)
		if err != nil {
			t.Fatalf("helm %s: %v\n%s", args[0], err, stderr)
		}
		if strings.Contains(strings.ToLower(stderr), "warn") {
			t.Errorf("helm %s warns:\n%s", args[0], stderr)
		}
		return stdout
	}
	run("install", "fogsched", chart, "--create-namespace", "--dry-run=server")
	notes := run("install", "fogsched", chart, "--create-namespace")
	if _, err := control.Client().CoreV1().Namespaces().Patch(ctx, systemNamespace, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	wantRunning(t)
	wantRights(t, false)

	// What the notes say to do next does it.
	m := patchInNotes.FindStringSubmatch(notes)
	if m == nil {
		t.Fatalf("the notes have no patch:\n%s", notes)
	}
	var patch struct {
		Spec struct {
			Template struct {
				Metadata struct{ Annotations map[string]string }
				Spec     struct{ SchedulerName string }
			}
		}
	}
	if err := yaml.UnmarshalStrict([]byte(m[1]), &patch); err != nil {
		t.Fatalf("the patch of the notes: %v:\n%s", err, m[1])
	}
	got, err := intent.ParseAnnotation("default", patch.Spec.Template.Metadata.Annotations[v1alpha1.LatencyAnnotation])
	if err != nil || got == nil || patch.Spec.Template.Spec.SchedulerName != "fogsched" {
		t.Errorf("the patch of the notes: error %v:\n%s", err, m[1])
	}

	// The scheduler writes into this ConfigMap, and an upgrade leaves that alone.
	if _, err := control.Client().CoreV1().ConfigMaps(systemNamespace).Patch(ctx, "fogprobe-interest", types.MergePatchType,
		[]byte(`{"data":{"nodes":"worker"}}`), metav1.PatchOptions{FieldManager: "fogsched"}); err != nil {
		t.Fatal(err)
	}
	before := deployedConfig(ctx, t)
	run("upgrade", "fogsched", chart, "--set", "replaceDefault=true,scheduler.replicas=2")
	wantRunning(t)
	wantRights(t, true)
	if after := deployedConfig(ctx, t); after == before {
		t.Errorf("the scheduler still has %s after its configuration changed", after)
	}
	if interest, err := control.Client().CoreV1().ConfigMaps(systemNamespace).Get(ctx, "fogprobe-interest", metav1.GetOptions{}); err != nil || interest.Data["nodes"] != "worker" {
		t.Errorf("fogprobe-interest has %v after the upgrade (error %v)", interest.Data, err)
	}

	// A second release would take the same pods.
	if _, stderr, err := helm(t, "install", "again", chart, "--namespace", "default"); err == nil || !strings.Contains(stderr, "exists and cannot be imported") {
		t.Errorf("a second release: error %v:\n%s", err, stderr)
	}

	// The definitions, and with them all policies, outlive the release; nothing else does.
	run("uninstall", "fogsched", "--wait")
	for _, o := range all {
		resource, err := control.Resource(o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = resource.Get(ctx, o.GetName(), metav1.GetOptions{})
		stays := o.GetKind() == "CustomResourceDefinition" || o.GetKind() == "Namespace"
		if stays && err != nil || !stays && !apierrors.IsNotFound(err) {
			t.Errorf("%s %s after the release was removed: %v", o.GetKind(), o.GetName(), err)
		}
	}
}

// deployedConfig returns the name of the ConfigMap that the scheduler mounts.
func deployedConfig(ctx context.Context, t *testing.T) string {
	t.Helper()
	d, err := control.Client().AppsV1().Deployments(systemNamespace).Get(ctx, "fogsched", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range d.Spec.Template.Spec.Volumes {
		if v.ConfigMap != nil {
			return v.ConfigMap.Name
		}
	}
	t.Fatal(fmt.Errorf("the Deployment mounts no ConfigMap"))
	return ""
}
