// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"context"
	"testing"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
)

// On a terminal --watch shows the table anew in the same place, in colours, and ends with its context.
func TestWatchOnATerminal(t *testing.T) {
	s := clitest.NewServer(t, clitest.Node("berlin-1"), clitest.Latency("berlin-1"))
	term := clitest.NewTerminal(t, 100, 24)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := term.Start(ctx, NewCommand, "--kubeconfig="+s.Kubeconfig(t), "--watch")
	term.Until(t, "\x1b[H\x1b[2J")
	term.Until(t, "\x1b[1mNODE\x1b[0m")
	term.Until(t, "Ready ")
	down := clitest.Node("berlin-1")
	down.Status.Conditions = nil
	s.Change(t, down)
	term.Until(t, "\x1b[H\x1b[2J")
	term.Until(t, "\x1b[31mNotReady\x1b[0m")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
