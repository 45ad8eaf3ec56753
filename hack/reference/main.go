// SPDX-License-Identifier: Apache-2.0

// Reference writes docs/reference: the API from its CRDs, which are made from the types; the plugins' arguments from the Go types that decode
// them; the presets as they are asked; and kubectl-fog's commands from the commands themselves. Nothing in there is written by hand.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: reference REPOSITORY OUTPUT-FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// page is one file.
type page struct {
	name, title, about string
	write              func(root string, w *strings.Builder) error
}

var pages = []page{
	{"latencypolicy.md", "LatencyPolicy", "every field of a LatencyPolicy and its status, with defaults and limits", crd("latencypolicies")},
	{"nodelatency.md", "NodeLatency", "what a prober publishes of its node", crd("nodelatencies")},
	{"nodelatency-args.md", "Arguments of NodeLatency", "the plugin that places by latency, and the presets for other probers", nodeLatencyArgs},
	{"nodemetrics-args.md", "Arguments of NodeMetrics", "the plugin that places by metrics of nodes, and its presets", nodeMetricsArgs},
	{"kubectl-fog.md", "kubectl fog", "every command of kubectl-fog with its flags and examples", kubectlFog},
	{"fogprobe.md", "fogprobe", "every flag of the prober", fogprobe},
}

const generated = "<!-- Made by hack/update-reference.sh from the code. Change it there. -->\n"

func run(root, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	index := &strings.Builder{}
	index.WriteString(generated + "# Reference\n\nMade from the code, so it says what this version does.\n\n| page | what it has |\n|---|---|\n")
	for _, p := range pages {
		w := &strings.Builder{}
		fmt.Fprintf(w, "%s# %s\n", generated, p.title)
		if err := p.write(root, w); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := os.WriteFile(filepath.Join(out, p.name), []byte(strings.TrimRight(w.String(), "\n")+"\n"), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(index, "| [%s](%s) | %s |\n", p.title, p.name, p.about)
	}
	return os.WriteFile(filepath.Join(out, "README.md"), []byte(index.String()), 0o644)
}

// cell makes a text fit into a cell of a table.
func cell(text string) string {
	return escape(strings.Join(strings.Fields(text), " "))
}

// escape keeps Markdown from taking a text's characters for marks. What stands between backquotes is left as it is, but for what ends a cell.
func escape(text string) string {
	var w strings.Builder
	code := false
	for _, r := range text {
		switch {
		case r == '`':
			code = !code
		case r == '|', !code && strings.ContainsRune("*_<>[]", r):
			w.WriteByte('\\')
		}
		w.WriteRune(r)
	}
	return w.String()
}

// code is a text as code in a cell, "" for none.
func code(text string) string {
	if text == "" {
		return ""
	}
	fence := "`"
	if strings.Contains(text, "`") {
		fence = "``"
	}
	return fence + strings.ReplaceAll(text, "|", `\|`) + fence
}
