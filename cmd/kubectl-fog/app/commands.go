// SPDX-License-Identifier: Apache-2.0

package app

import (
	"github.com/spf13/cobra"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/completion"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/convert"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/doctor"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/explain"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/matrix"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/nodes"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/policy"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/report"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/top"
)

// commands make the subcommands, in the order of the help.
var commands = []func(*cli.Options) *cobra.Command{
	doctor.NewCommand,
	explain.NewCommand,
	nodes.NewCommand,
	matrix.NewCommand,
	policy.NewCommand,
	report.NewCommand,
	top.NewCommand,
	convert.NewCommand,
	completion.NewCommand,
}
