// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fogsched/fogsched/pkg/plugins/nodemetrics"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

const argsIntro = "\nThe `args` of the plugin's `pluginConfig` in the scheduler's configuration. An unknown field or a bad value ends the scheduler at its start,\n" +
	"with one error that names the field.%s\n"

func nodeLatencyArgs(root string, w *strings.Builder) error {
	fmt.Fprintf(w, argsIntro, " How it all fits together: [NodeLatency](../../pkg/plugins/nodelatency/README.md), [Prometheus](../prometheus.md).")
	t, err := load(root, "pkg/plugins/nodelatency", "pkg/source/prometheus")
	if err != nil {
		return err
	}
	for _, s := range []section{
		{"Args", "args", ""},
		{"PrometheusArgs", "prometheus", "prometheus."},
		{"Latencies", "prometheus.latencies[]", "prometheus.latencies[]."},
		{"DemandArgs", "prometheus.demands[]", "prometheus.demands[]."},
	} {
		if err := t.table(w, s); err != nil {
			return err
		}
	}
	w.WriteString("\n## Presets of latencies\n\nWhat each asks Prometheus. Any part is replaced by the field of that name beside `preset`.\n")
	for _, name := range prometheus.PresetNames() {
		p, _ := prometheus.FindPreset(name)
		fmt.Fprintf(w, "\n### %s\n\n%s\n\n| field | value |\n|---|---|\n", name, escape(strings.Join(strings.Fields(p.Notes), " ")))
		for _, f := range []struct{ name, value string }{
			{"typical", p.Typical},
			{"tail", p.Tail},
			{"failed", p.Failed},
			{"time", p.Time},
			{"unit", p.Unit},
			{"source", p.Source},
			{"target", p.Target},
			{"sourceRegexp", p.SourceRegexp},
			{"targetRegexp", p.TargetRegexp},
		} {
			if f.value != "" {
				fmt.Fprintf(w, "| `%s` | %s |\n", f.name, code(strings.Join(strings.Fields(f.value), " ")))
			}
		}
		if p.RankingOnly {
			w.WriteString("| `rankingOnly` | `true` |\n")
		}
	}
	return nil
}

func nodeMetricsArgs(root string, w *strings.Builder) error {
	fmt.Fprintf(w, argsIntro, " What the score is made of: [NodeMetrics](../../pkg/plugins/nodemetrics/README.md).")
	t, err := load(root, "pkg/plugins/nodemetrics", "pkg/source/prometheus")
	if err != nil {
		return err
	}
	for _, s := range []section{
		{"Args", "args", ""}, {"Config", "prometheus", "prometheus."}, {"Metric", "metrics[]", "metrics[]."}, {"PodEffect", "metrics[].podEffect", "metrics[].podEffect."},
	} {
		if err := t.table(w, s); err != nil {
			return err
		}
	}
	w.WriteString("\n## Presets\n\nOf node_exporter 1.x. What each asks Prometheus, with its defaults:\n\n| preset | query | time |\n|---|---|---|\n")
	for _, name := range nodemetrics.PresetNames() {
		raw, err := json.Marshal(map[string]any{
			"prometheus": map[string]any{"address": "http://prometheus.monitoring:9090"}, "metrics": []any{map[string]any{"preset": name}},
		})
		if err != nil {
			return err
		}
		queries, err := nodemetrics.Queries(&runtime.Unknown{Raw: raw})
		if err != nil {
			return err
		}
		at := queries[0].Time
		if at == "" {
			at = "timestamp(…)"
		}
		fmt.Fprintf(w, "| `%s` | %s | %s |\n", name, code(queries[0].Value), code(at))
	}
	return nil
}

// types are the struct types of some packages, by name.
type types map[string]*ast.StructType

func load(root string, packages ...string) (types, error) {
	t := types{}
	for _, p := range packages {
		files, err := filepath.Glob(filepath.Join(root, p, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
			if err != nil {
				return nil, err
			}
			for name, o := range file.Scope.Objects {
				spec, ok := o.Decl.(*ast.TypeSpec)
				if !ok {
					continue
				}
				if s, ok := spec.Type.(*ast.StructType); ok && ast.IsExported(name) && t[name] == nil {
					t[name] = s
				}
			}
		}
	}
	return t, nil
}

// section is the table of one type.
type section struct{ name, title, prefix string }

func (t types) table(w *strings.Builder, s section) error {
	fmt.Fprintf(w, "\n## `%s`\n\n| field | type | meaning |\n|---|---|---|\n", s.title)
	return t.rows(w, s.name, s.prefix)
}

func (t types) rows(w *strings.Builder, name, prefix string) error {
	s := t[name]
	if s == nil {
		return fmt.Errorf("there is no type %s any more", name)
	}
	names := map[string]string{}
	for _, f := range s.Fields.List {
		if len(f.Names) > 0 {
			names[f.Names[0].Name], _, _ = strings.Cut(jsonTag(f), ",")
		}
	}
	above := ""
	for _, f := range s.Fields.List {
		if len(f.Names) == 0 { // embedded
			if embedded := last(f.Type); embedded != "TypeMeta" {
				if err := t.rows(w, embedded, prefix); err != nil {
					return err
				}
			}
			continue
		}
		field, options, _ := strings.Cut(jsonTag(f), ",")
		if field == "" || field == "-" {
			continue
		}
		text := ""
		if f.Doc != nil {
			text = named(f.Doc.Text(), f.Names[0].Name, names)
		} else if above != "" {
			text = "see `" + above + "`"
		}
		if !strings.Contains(options, "omitempty") {
			text = "Required. " + text
		}
		fmt.Fprintf(w, "| `%s%s` | %s | %s |\n", prefix, field, kind(f.Type), cell(text))
		above = field
	}
	return nil
}

func jsonTag(f *ast.Field) string {
	if f.Tag == nil {
		return ""
	}
	return reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json")
}

// named writes the Go name with which a comment begins as it is in the configuration, and likewise those of other fields that cannot be
// taken for a word.
func named(text, goName string, names map[string]string) string {
	if rest, ok := strings.CutPrefix(text, goName+" "); ok {
		text = "`" + names[goName] + "` " + rest
	}
	for name, field := range names {
		if strings.IndexFunc(name[1:], unicode.IsUpper) > 0 {
			text = regexp.MustCompile(`\b`+name+`\b`).ReplaceAllString(text, "`"+field+"`")
		}
	}
	return text
}

func last(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return last(e.X)
	}
	return ""
}

// kind is a type in the words of YAML.
func kind(e ast.Expr) string {
	if _, ok := e.(*ast.ArrayType); ok {
		return "list"
	}
	name := last(e)
	switch {
	case name == "string", name == "Direction", name == "WhenUnknown", name == "Per", name == "UnsatisfiableConstraintAction", name == "ResourceName":
		return "string"
	case slices.Contains([]string{"int", "int32", "int64", "float64"}, name):
		return "number"
	case name == "bool":
		return "true or false"
	case name == "Duration":
		return "duration"
	case name == "Quantity":
		return "quantity"
	}
	return "object"
}
