// SPDX-License-Identifier: Apache-2.0

package sbom

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What Amiss says of a right SBOM of a program, and of wrong ones.
func TestAmiss(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program") // any that needs modules; into programs of tests none are written
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../wan/cmd/wanctl").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) == 0 {
		t.Fatal("it needs no module: this test cannot tell anything")
	}
	type bom map[string]any
	component := func(name, version string) any {
		return map[string]any{"name": name, "version": version, "purl": "pkg:golang/" + name + "@" + version}
	}
	right := func() bom {
		components := []any{component("std", info.GoVersion)}
		for _, d := range info.Deps {
			components = append(components, component(d.Path, d.Version))
		}
		return bom{
			"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": "urn:uuid:1",
			"metadata": map[string]any{"component": component(info.Main.Path, "v1.2.3")}, "components": components,
		}
	}
	for name, tc := range map[string]struct {
		change func(bom)
		want   string // in one complaint; empty: none
	}{
		"right":                           {func(bom) {}, ""},
		"a module is missing":             {func(b bom) { b["components"] = b["components"].([]any)[:1] }, info.Deps[0].Path + " " + info.Deps[0].Version + " is missing"},
		"the standard library is missing": {func(b bom) { b["components"] = b["components"].([]any)[1:] }, "std " + info.GoVersion + " is missing"},
		"another version of a module":     {func(b bom) { b["components"].([]any)[1].(map[string]any)["version"] = "v9.9.9" }, "v9.9.9"},
		"a module too many": {func(b bom) {
			b["components"] = append(b["components"].([]any), component("example.org/x", "v1.0.0"))
		}, "example.org/x"},
		"another program": {func(b bom) { b["metadata"].(map[string]any)["component"] = component("example.org/x", "v1.2.3") }, "it is of example.org/x"},
		"another version": {func(b bom) { b["metadata"].(map[string]any)["component"] = component(info.Main.Path, "v1.2.4") }, "v1.2.4"},
		"the time of day": {func(b bom) { b["metadata"].(map[string]any)["timestamp"] = "2026-01-01T00:00:00Z" }, "time of day"},
	} {
		t.Run(name, func(t *testing.T) {
			b := right()
			tc.change(b)
			data, err := json.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "bom.json")
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := Amiss(file, program, "v1.2.3")
			if err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(got, "\n"); (tc.want == "") != (len(got) == 0) || !strings.Contains(text, tc.want) {
				t.Errorf("said %q, want %q", text, tc.want)
			}
		})
	}
}
