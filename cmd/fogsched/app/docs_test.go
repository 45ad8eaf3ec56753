// SPDX-License-Identifier: Apache-2.0

package app

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"

	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
	"github.com/fogsched/fogsched/pkg/plugins/nodemetrics"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

var (
	blocks = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
	argsOf = regexp.MustCompile(`^# args of (\w+)\n`)
	check  = map[string]func(runtime.Object) error{nodelatency.Name: nodelatency.CheckArgs, nodemetrics.Name: nodemetrics.CheckArgs}
)

// TestDocuments takes every configuration of the scheduler in the documents and the manifests, and every "# args of PLUGIN", as the
// scheduler would.
func TestDocuments(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	var files []string
	for _, pattern := range []string{"README.md", "docs/*.md", "pkg/plugins/*/README.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	configurations, args := 0, 0
	try := func(file, text string) {
		if m := argsOf.FindStringSubmatch(text); m != nil {
			args++
			if f := check[m[1]]; f == nil {
				t.Errorf("%s: no plugin %s:\n%s", file, m[1], text)
			} else if err := f(&runtime.Unknown{Raw: []byte(text)}); err != nil {
				t.Errorf("%s: %v:\n%s", file, err, text)
			}
			return
		}
		if !strings.Contains(text, "kind: KubeSchedulerConfiguration") {
			return
		}
		configurations++
		obj, _, err := scheme.Codecs.UniversalDecoder().Decode([]byte(text), nil, nil)
		if err != nil {
			t.Errorf("%s: %v:\n%s", file, err, text)
			return
		}
		for _, p := range obj.(*config.KubeSchedulerConfiguration).Profiles {
			for _, c := range p.PluginConfig {
				if f := check[c.Name]; f != nil {
					args++
					// The file of the example is not on this machine.
					if u, ok := c.Args.(*runtime.Unknown); ok && strings.Contains(string(u.Raw), "zonesFile") {
						continue
					}
					if err := f(c.Args); err != nil {
						t.Errorf("%s: %v:\n%s", file, err, text)
					}
				}
			}
		}
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range blocks.FindAllStringSubmatch(string(content), -1) {
			try(file, m[1])
		}
	}
	shipped, err := os.ReadFile(filepath.Join(root, "manifests", "base", "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	try("manifests/base/config.yaml", string(shipped))
	if configurations < 5 || args < 7 {
		t.Errorf("%d configurations and %d arguments were found: the test looks in the wrong place", configurations, args)
	}
}

// TestPresetsAreDocumented: a preset that is not in the document is one that nobody finds.
func TestPresetsAreDocumented(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "prometheus.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range prometheus.PresetNames() {
		if !strings.Contains(string(content), "| `"+name+"` |") {
			t.Errorf("docs/prometheus.md does not say what the preset %s takes", name)
		}
	}
}
