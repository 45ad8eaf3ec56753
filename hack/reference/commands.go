// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/app"
)

func kubectlFog(_ string, w *strings.Builder) error {
	root := app.Tree()
	w.WriteString("\nThe plugin for kubectl. How to work with it: [kubectl fog](../kubectl-fog.md).\n\n")
	w.WriteString("| command | what it does |\n|---|---|\n")
	var list func(*cobra.Command)
	list = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if hidden(sub) {
				continue
			}
			if sub.Runnable() {
				fmt.Fprintf(w, "| [`%s`](#%s) | %s |\n", sub.CommandPath(), strings.ReplaceAll(sub.CommandPath(), " ", "-"), cell(sub.Short))
			}
			list(sub)
		}
	}
	list(root)
	describe(w, root)
	return nil
}

func hidden(c *cobra.Command) bool {
	return c.Hidden || c.Name() == "help" || c.IsAdditionalHelpTopicCommand()
}

func describe(w *strings.Builder, c *cobra.Command) {
	if c.HasParent() && c.Runnable() {
		fmt.Fprintf(w, "\n## %s\n\n", c.CommandPath())
		long := c.Long
		if long == "" {
			long = c.Short + "."
		}
		prose(w, long)
		fmt.Fprintf(w, "\n```text\n%s\n```\n", c.UseLine())
		if len(c.Aliases) > 0 {
			fmt.Fprintf(w, "\nAlso: `%s`.\n", strings.Join(c.Aliases, "`, `"))
		}
		if c.Example != "" {
			fmt.Fprintf(w, "\n```sh\n%s\n```\n", dedent(c.Example))
		}
		flags(w, c.LocalNonPersistentFlags())
	}
	for _, sub := range c.Commands() {
		if !hidden(sub) {
			describe(w, sub)
		}
	}
	if !c.HasParent() {
		w.WriteString("\n## Flags of all commands\n\nThey are kubectl's own, and mean the same.\n")
		flags(w, c.PersistentFlags())
	}
}

func flags(w *strings.Builder, set *pflag.FlagSet) {
	if !set.HasAvailableFlags() {
		return
	}
	w.WriteString("\n| flag | default | meaning |\n|---|---|---|\n")
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		kind, usage := pflag.UnquoteUsage(f)
		if kind != "" {
			name += " " + kind
		}
		def := f.DefValue
		if strings.Contains("|false|0|0s|[]|", "|"+def+"|") || strings.HasPrefix(def, "/") { // a folder of this machine's user
			def = ""
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", code(name), code(def), cell(usage))
	})
}

// prose writes a help text as Markdown: what is indented is code.
func prose(w *strings.Builder, text string) {
	inCode := false
	for line := range strings.Lines(strings.TrimSpace(text) + "\n") {
		indented := strings.HasPrefix(line, "  ")
		if indented != inCode && strings.TrimSpace(line) != "" {
			if indented {
				w.WriteString("```text\n")
			} else {
				w.WriteString("```\n\n")
			}
			inCode = indented
		}
		if indented {
			w.WriteString(line)
		} else {
			w.WriteString(escape(line))
		}
	}
	if inCode {
		w.WriteString("```\n")
	}
}

func dedent(text string) string {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}

func fogprobe(root string, w *strings.Builder) error {
	cmd := exec.Command("go", "run", "./cmd/fogprobe", "--help")
	cmd.Dir = root
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("fogprobe --help: %w\n%s", err, errs.String())
	}
	w.WriteString("\nWhat it does and costs: [fogprobe](../fogprobe.md).\n\n```text\n" + strings.TrimSpace(out.String()) + "\n```\n")
	return nil
}
