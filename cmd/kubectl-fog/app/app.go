// SPDX-License-Identifier: Apache-2.0

// Package app is the command kubectl-fog with all its subcommands.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
)

// Main runs the command and returns the exit code: 0 for success, 1 for an error or a finding of doctor.
func Main(version string, args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	o := cli.NewOptions(genericiooptions.IOStreams{In: in, Out: out, ErrOut: errOut})
	cmd := NewCommand(o, version)
	cmd.SetArgs(args)
	cmd.SetIn(in)
	cmd.SetOut(out)
	cmd.SetErr(errOut)
	err := cmd.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, cli.ErrSilent):
	case ctx.Err() != nil:
		fmt.Fprintln(errOut)
	default:
		fmt.Fprintln(errOut, "error:", strings.TrimSpace(cli.Clean(err.Error())))
	}
	return 1
}

// Tree returns the command for those who describe it or look up its flags; it has no streams to run with.
func Tree() *cobra.Command { return NewCommand(cli.NewOptions(genericiooptions.IOStreams{}), "") }

// NewCommand returns the command.
func NewCommand(o *cli.Options, version string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fog",
		Short: "See the network between nodes, and why fogsched put a pod where it is",
		Long: `See the network between the nodes of a cluster, and why fogsched put a pod where it is.

  kubectl fog doctor              is everything installed and working?
  kubectl fog nodes               how far is each node from the others?
  kubectl fog matrix              the round-trip times between nodes
  kubectl fog explain pod NAME    why is this pod on its node, or why is it pending?
  kubectl fog policy status       which latency limits hold, and which are broken?

Nothing is changed in the cluster: every command only reads.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return o.Complete()
		},
	}
	// kubectl runs the plugin as `kubectl fog`, and that is what its help must say.
	cmd.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl fog"}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w (%s --help explains)", err, c.CommandPath())
	})
	o.AddFlags(cmd.PersistentFlags())
	_ = cmd.RegisterFlagCompletionFunc("namespace", o.CompleteNamespaces)
	_ = cmd.RegisterFlagCompletionFunc("color", cli.CompleteWords("auto", "always", "never"))
	for _, make := range commands {
		cmd.AddCommand(make(o))
	}
	return cmd
}
