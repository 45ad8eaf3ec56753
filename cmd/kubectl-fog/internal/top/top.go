// SPDX-License-Identifier: Apache-2.0

// Package top is the command that shows what moves: pods that wait and pods that were placed, limits, distances, nodes.
package top

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/store"
)

// leastInterval keeps a large cluster's snapshots from being all that the command does.
const leastInterval = 100 * time.Millisecond

type command struct {
	*cli.Options
	interval  time.Duration
	scheduler string
	once      bool
}

// NewCommand returns the command.
func NewCommand(o *cli.Options) *cobra.Command {
	c := &command{Options: o}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "What moves: pods, limits, distances, nodes; live",
		Long: `Show what moves, live: the pods that wait for the scheduler and why, the latest placements with their cost (the mean round-trip time of
what the pod wants, by weight), which policies' limits are kept or broken, the measured distances that changed most since the start, and the
nodes that are not in order. q or Ctrl-C ends it.

The cluster is watched, not asked again and again. Where the output is no terminal, each picture is printed below the last.`,
		Example: `  kubectl fog top

  # one picture, for a file or a ticket
  kubectl fog top --once

  # in a cluster whose default scheduler is fogsched
  kubectl fog top --scheduler default-scheduler`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.DurationVar(&c.interval, "interval", 2*time.Second, "The time between two pictures, 100ms or longer.")
	fs.StringVar(&c.scheduler, "scheduler", "fogsched", "Show the pods of this schedulerName.")
	fs.BoolVar(&c.once, "once", false, "Print one picture and end.")
	_ = cmd.RegisterFlagCompletionFunc("scheduler", cli.CompleteWords("fogsched", "default-scheduler"))
	_ = cmd.RegisterFlagCompletionFunc("interval", cobra.NoFileCompletions)
	return cmd
}

func (c *command) run(ctx context.Context) error {
	if c.interval < leastInterval {
		return fmt.Errorf("--interval=%s: want %s or longer", c.interval, leastInterval)
	}
	in := cli.Scope{Fields: map[cli.Kind]string{cli.Pods: "spec.schedulerName=" + c.scheduler}}
	kinds := []cli.Kind{cli.Nodes, cli.NodeLatencies, cli.Policies, cli.Pods}
	t := &tracker{scheduler: c.scheduler}
	if c.once {
		cluster, err := c.ReadIn(ctx, in, kinds)
		if err != nil {
			return err
		}
		network, doubts := cluster.Judged(ctx)
		return c.plain(t.next(cluster, network, doubts))
	}
	live, err := c.Follow(ctx, in, kinds)
	if err != nil {
		return err
	}
	var network *latency.Snapshot
	var doubts map[string]store.Doubt
	next := func() *frame {
		cluster := live.Cluster()
		select {
		case <-live.Changed():
			network = nil
		default:
		}
		// Measurements get too old although nothing changes, but not within seconds.
		if network == nil || cluster.ReadAt.Sub(network.Built()) > 10*time.Second {
			network, doubts = cluster.Judged(ctx)
		}
		f := t.next(cluster, network, doubts)
		if trouble := live.Trouble(); trouble != nil {
			f.trouble = trouble.Error()
		}
		return f
	}
	if out, ok := c.Out.(*os.File); ok && cli.IsTerminal(out) {
		return c.show(ctx, out, next)
	}
	ticker := time.NewTicker(c.interval)
	defer ticker.Stop()
	for {
		if err := c.plain(next()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			fmt.Fprintln(c.Out)
		}
	}
}

// plain prints a picture below the last.
func (c *command) plain(f *frame) error {
	_, err := io.WriteString(c.Out, strings.Join(render(c.Options, f, c.Columns(), 0, c.Colored()), "\n")+"\n")
	return err
}

// What a terminal is told: another screen without a cursor, and back.
const (
	enter = "\x1b[?1049h\x1b[?25l"
	leave = "\x1b[?25h\x1b[?1049l"
)

// show shows pictures in the same place until q, Ctrl-C or the end of ctx, and leaves the terminal as it was.
func (c *command) show(ctx context.Context, out *os.File, next func() *frame) (err error) {
	keys := make(chan byte)
	if in, ok := c.In.(*os.File); ok && cli.IsTerminal(in) {
		// Without this a key would be seen after Enter alone. Ctrl-C is a key then, too.
		before, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return fmt.Errorf("setting up the terminal: %w", err)
		}
		defer func() { _ = term.Restore(int(in.Fd()), before) }()
		go func() {
			b := make([]byte, 1)
			for {
				if n, err := in.Read(b); err != nil || n == 0 {
					return
				}
				select {
				case keys <- b[0]:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	if _, err := io.WriteString(out, enter); err != nil {
		return err
	}
	defer func() {
		if _, e := io.WriteString(out, leave); err == nil {
			err = e
		}
	}()
	resized := make(chan os.Signal, 1)
	notifyResize(resized)
	defer signal.Stop(resized)
	ticker := time.NewTicker(c.interval)
	defer ticker.Stop()
	f := next()
	for {
		width, height, err := term.GetSize(int(out.Fd()))
		if err != nil || width <= 0 || height <= 0 {
			width, height = 80, 24
		}
		if _, err := io.WriteString(out, screen(render(c.Options, f, width, height-1, c.Colored()), width)); err != nil {
			return err
		}
	wait:
		for {
			select {
			case <-ctx.Done():
				return nil
			case k := <-keys:
				switch k {
				case 'q', 'Q', 3, 4: // Ctrl-C, Ctrl-D
					return nil
				}
			case <-resized:
				break wait
			case <-ticker.C:
				f = next()
				break wait
			}
		}
	}
}

// screen is what a terminal is told to show lines from its top, each in place of what was there, so that nothing flickers.
func screen(lines []string, width int) string {
	var b strings.Builder
	b.WriteString("\x1b[H")
	for _, l := range lines {
		b.WriteString(l)
		b.WriteString("\x1b[0m\x1b[K\r\n")
	}
	b.WriteString("\x1b[2m" + cli.Cut("q ends", width) + "\x1b[0m\x1b[K\x1b[J")
	return b.String()
}
