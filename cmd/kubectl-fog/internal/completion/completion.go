// SPDX-License-Identifier: Apache-2.0

// Package completion is the command that prints what shells need to complete the commands of kubectl-fog.
package completion

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
)

// Plugin is the program kubectl_complete-fog. kubectl runs it for what may come after `kubectl fog`; it must lie on the PATH.
const Plugin = `#!/bin/sh
# Completion of "kubectl fog": kubectl's own completion runs this program, which must lie on the PATH under the name kubectl_complete-fog.
exec kubectl fog __complete "$@"
`

// NewCommand returns the command.
func NewCommand(o *cli.Options) *cobra.Command {
	// The scripts ask the program for everything but its name.
	program := &cobra.Command{Use: "kubectl-fog"}
	generators := map[string]func(w io.Writer) error{
		"plugin": func(w io.Writer) error {
			_, err := io.WriteString(w, Plugin)
			return err
		},
		"bash":       func(w io.Writer) error { return program.GenBashCompletionV2(w, true) },
		"zsh":        program.GenZshCompletion,
		"fish":       func(w io.Writer) error { return program.GenFishCompletion(w, true) },
		"powershell": program.GenPowerShellCompletionWithDesc,
	}
	words := []string{"plugin", "bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion plugin|bash|zsh|fish|powershell",
		Short: "What a shell needs to complete these commands, names and labels",
		Long: `Print what a shell needs to complete these commands, their flags, and names and labels from the cluster.

"kubectl fog …" is completed by kubectl's own completion, which has to be set up (kubectl completion --help). For a plugin it runs a program
of the name kubectl_complete-fog, which "plugin" prints: put it on the PATH.

The other words print the script of a shell for the program's own name, kubectl-fog.`,
		Example: `  # for "kubectl fog", in any shell
  kubectl fog completion plugin > ~/.local/bin/kubectl_complete-fog
  chmod +x ~/.local/bin/kubectl_complete-fog

  # for "kubectl-fog", in bash
  source <(kubectl fog completion bash)`,
		ValidArgs:             words,
		DisableFlagsInUseLine: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 && generators[args[0]] != nil {
				return nil
			}
			return fmt.Errorf("say for what: one of plugin (for kubectl fog), bash, zsh, fish, powershell")
		},
		RunE: func(_ *cobra.Command, args []string) error { return generators[args[0]](o.Out) },
	}
}
