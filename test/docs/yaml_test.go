// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/source/zones"
	"github.com/fogsched/fogsched/test/cluster"
)

// TestYAML has every piece of YAML in the documents taken by what it is for.
func TestYAML(t *testing.T) {
	x := newChecker(t, binDir(t), control.KubeconfigPath())
	tried := 0
	for _, p := range readPages(t, "README.md", "docs/*.md", "docs/reference/*.md") {
		for _, b := range p.yaml {
			tried++
			if err := x.yaml(b.text); err != nil {
				t.Error(at(p, b, err.Error()))
			}
		}
	}
	if t.Logf("%d pieces of YAML", tried); tried < 25 {
		t.Error("so few: the test looks in the wrong place")
	}
}

// TestWrongYAMLIsFound: what the test must not let pass.
func TestWrongYAMLIsFound(t *testing.T) {
	x := newChecker(t, binDir(t), control.KubeconfigPath())
	const policy = "apiVersion: fogsched.dev/v1alpha1\nkind: LatencyPolicy\nmetadata: {name: a, namespace: default}\nspec:\n  selector: {matchLabels: {a: b}}\n"
	const deployment = "kind: Deployment\nspec:\n  template:\n    metadata:\n      annotations:\n        fogsched.dev/latency: '%s'\n"
	for text, want := range map[string]string{
		policy + "  dependency: [{service: a}]\n":                                          "field not declared in schema",
		policy + "  dependencies: [{service: a, limit: 20}]\n":                             "limit",
		policy + "  dependencies: [{service: a, limit: 0ms}]\n":                            "a limit is a duration",
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replica: 2}\n": "field not declared in schema",
		"apiVersion: v1\nkind: Widget\nmetadata: {name: a}\n":                              "Widget",
		"a: [b\n": "yaml",
		"a: b\n":  "what it is",
		fmt.Sprintf(deployment, `{"dependencies": [{"services": "a"}]}`): "services",
		"fogsched.dev/latency: '{\"clients\": []}'\n":                    "annotation",
		"within: {zones: 1ms}\n":                                         "zones",
		"scheduler: {replica: 2}\n":                                      "additional properties 'replica'",
		"patches:\n- target: {kind: Deployment, name: nobody}\n  patch: '- {op: remove, path: /a}'\n": "nothing",
		"components:\n- ../../components/monitor\n":                                                   "monitor",
		"# scrape_configs of Prometheus\nscrape_configs:\n- job: a\n":                                 "job",
	} {
		if err := x.yaml(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", text, err, want)
		}
	}
}

// yaml tries a piece of YAML. What is not a whole object is known by its keys.
func (x *checker) yaml(text string) error {
	var keys map[string]any
	if err := yaml.UnmarshalStrict([]byte(strings.Split(text, "\n---\n")[0]), &keys); err != nil {
		return err
	}
	kind, _ := keys["kind"].(string)
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { _, ok := keys[n]; return ok })
	}
	switch {
	case strings.HasPrefix(text, "# args of "), kind == "KubeSchedulerConfiguration":
		return nil // TestDocuments of cmd/fogsched/app has the scheduler take them
	case kind == "Kustomization", has("patches", "configMapGenerator", "components", "images", "labels"):
		return x.kustomization(keys)
	case has("apiVersion"):
		return x.objects(text)
	case kind == "Deployment":
		return partial(text)
	case has(v1alpha1.LatencyAnnotation):
		value, _ := keys[v1alpha1.LatencyAnnotation].(string)
		if _, err := intent.ParseAnnotation(metav1.NamespaceDefault, value); err != nil {
			return fmt.Errorf("the annotation: %w", err)
		}
		return nil
	case has("within", "pairs"):
		_, err := zones.Parse([]byte(text))
		return err
	case has("scrape_configs"):
		return x.scrapeConfig(text)
	case has("scheduler", "prober", "replaceDefault", "networkPolicy"):
		path := filepath.Join(x.t.TempDir(), "values.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		x.work = x.root
		_, err := x.run("helm", nil, "template", "fogsched", "charts/fogsched", "--values", path)
		return err
	}
	return fmt.Errorf("the test cannot tell what it is for")
}

// objects has the API server take objects without effect, and the scheduler's own parser what they say of latency.
func (x *checker) objects(text string) error {
	objects, err := cluster.ParseYAML([]byte(text))
	if err != nil {
		return err
	}
	for _, o := range objects {
		resource, err := control.Resource(o)
		if err != nil {
			return err
		}
		if ns := o.GetNamespace(); ns != "" {
			if err := control.CreateNamespace(x.t.Context(), ns, nil); err != nil && !apierrors.IsAlreadyExists(err) {
				return err
			}
		}
		force := true
		_, err = resource.Patch(x.t.Context(), o.GetName(), types.ApplyPatchType, marshal(o), metav1.PatchOptions{
			FieldManager: "docs", Force: &force, FieldValidation: metav1.FieldValidationStrict, DryRun: []string{metav1.DryRunAll},
		})
		if err != nil {
			return err
		}
		if value, ok, _ := unstructured.NestedString(o.Object, "spec", "template", "metadata", "annotations", v1alpha1.LatencyAnnotation); ok {
			if _, err := intent.ParseAnnotation(metav1.NamespaceDefault, value); err != nil {
				return fmt.Errorf("the annotation: %w", err)
			}
		}
	}
	return nil
}

// partial looks at a Deployment of which only the pieces in question are shown: its fields must exist.
func partial(text string) error {
	raw, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return err
	}
	var d appsv1.Deployment
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return err
	}
	if value, ok := d.Spec.Template.Annotations[v1alpha1.LatencyAnnotation]; ok {
		if _, err := intent.ParseAnnotation(metav1.NamespaceDefault, value); err != nil {
			return fmt.Errorf("the annotation: %w", err)
		}
	}
	return nil
}

var remote = regexp.MustCompile(`https://github.com/fogsched/fogsched//manifests/([\w/-]+)\?ref=[\w.-]+`)

// kustomization builds a kustomization, or a part of one on top of the second scheduler, where the manifests of this version are. What it
// patches must be there, and what it makes must be what the API server takes.
func (x *checker) kustomization(keys map[string]any) error {
	dir := x.t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "manifests"), os.DirFS(filepath.Join(x.root, "manifests"))); err != nil {
		return err
	}
	if keys["resources"] == nil {
		keys["resources"] = []string{"../second-scheduler"}
	}
	overlay := filepath.Join(dir, "manifests", "overlays", "of-the-page")
	if err := os.MkdirAll(overlay, 0o700); err != nil {
		return err
	}
	text := remote.ReplaceAll(marshal(keys), []byte("../../$1"))
	config, err := os.ReadFile(filepath.Join(x.root, "manifests", "base", "config.yaml"))
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"kustomization.yaml": text, "config.yaml": config} {
		if err := os.WriteFile(filepath.Join(overlay, name), content, 0o600); err != nil {
			return err
		}
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	if err != nil {
		return err
	}
	patches, _ := keys["patches"].([]any)
	for _, p := range patches { // kustomize says nothing of a patch whose target is nobody
		target, _ := p.(map[string]any)["target"].(map[string]any)
		found := false
		for _, r := range built.Resources() {
			found = found || r.GetKind() == target["kind"] && (target["name"] == nil || r.GetName() == target["name"])
		}
		if !found {
			return fmt.Errorf("the patch of %v %v changes nothing", target["kind"], target["name"])
		}
	}
	manifest, err := built.AsYaml()
	if err != nil {
		return err
	}
	return x.objects(string(manifest))
}

func (x *checker) scrapeConfig(text string) error {
	path := filepath.Join(x.t.TempDir(), "prometheus.yaml")
	// The token is on the machine of Prometheus.
	text = regexp.MustCompile(`credentials_file: [^}\s]+`).ReplaceAllString(text, "credentials: token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	x.work = x.root
	_, err := x.run("promtool", nil, "check", "config", path)
	return err
}
