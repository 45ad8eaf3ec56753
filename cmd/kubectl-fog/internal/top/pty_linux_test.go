// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
)

// On a terminal pictures stand in one place, follow the cluster and the terminal's size, and q leaves everything as it was.
func TestOnATerminal(t *testing.T) {
	for _, key := range []string{"q", "\x03"} {
		t.Run(fmt.Sprintf("%q", key), func(t *testing.T) {
			s := clitest.NewServer(t, clitest.Node("berlin-1"), clitest.Node("münchen-1"), pendingPod("web-1", "no node", time.Minute))
			term := clitest.NewTerminal(t, 80, 24)
			was := term.Mode(t)
			done := term.Start(t.Context(), NewCommand, "--kubeconfig="+s.Kubeconfig(t), "--interval=100ms")
			term.Until(t, enter)
			term.Until(t, "shop/web-1")
			if term.Mode(t).Lflag&unix.ICANON != 0 {
				t.Error("the terminal waits for Enter, so that q would do nothing")
			}
			s.Change(t, placedPod("web-1", "münchen-1", "", 0))
			term.Until(t, "→ münchen-1")
			term.Until(t, "DISTANCES CHANGED SINCE THE START")
			term.Resize(t, 20, 10)
			term.Until(t, "DISTANCES CHANGED S…")
			term.Type(t, key)
			term.Until(t, leave)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(was, term.Mode(t)); diff != "" {
				t.Errorf("the terminal is not as it was (-before +after):\n%s", diff)
			}
		})
	}
}
