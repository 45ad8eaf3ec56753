// SPDX-License-Identifier: Apache-2.0

// Package policy has the commands about what users want: checking it before it is applied, and what holds of it now.
package policy

import (
	"github.com/spf13/cobra"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
)

// NewCommand returns the command.
func NewCommand(o *cli.Options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "policy",
		Aliases: []string{"policies", "latencypolicy", "lp"},
		Short:   "Check latency policies before they are applied, and see which limits hold",
		Example: `  # before kubectl apply, without a cluster
  kubectl fog policy check -f deploy/

  # what holds now
  kubectl fog policy status -A`,
	}
	cmd.AddCommand(newCheck(o), newStatus(o))
	return cmd
}
