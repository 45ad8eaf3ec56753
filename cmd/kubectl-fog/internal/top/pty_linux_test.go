// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
)

// openTerminal returns both ends of a pseudo-terminal: ours, and that of the program.
func openTerminal(t *testing.T, width, height uint16) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	resize(t, ours, width, height)
	return ours, theirs
}

func resize(t *testing.T, terminal *os.File, width, height uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		t.Fatal(err)
	}
}

// On a terminal pictures stand in one place, follow the cluster and the terminal's size, and q leaves everything as it was.
func TestOnATerminal(t *testing.T) {
	for _, key := range []string{"q", "\x03"} {
		t.Run(fmt.Sprintf("%q", key), func(t *testing.T) {
			s := clitest.NewServer(t, clitest.Node("berlin-1"), clitest.Node("münchen-1"), pendingPod("web-1", "no node", time.Minute))
			ours, theirs := openTerminal(t, 80, 24)
			was, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			o := cli.NewOptions(genericiooptions.IOStreams{In: theirs, Out: theirs, ErrOut: theirs})
			o.Now = func() time.Time { return clitest.Now }
			o.Getenv = func(name string) string { return map[string]string{"TERM": "xterm"}[name] }
			cmd := NewCommand(o)
			o.AddFlags(cmd.PersistentFlags())
			cmd.SetArgs([]string{"--kubeconfig=" + s.Kubeconfig(t), "--interval=100ms"})
			done := make(chan error, 1)
			go func() { done <- cmd.ExecuteContext(t.Context()) }()

			var seen strings.Builder
			until := func(text string) {
				t.Helper()
				if err := ours.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 4096)
				for start := seen.Len(); !strings.Contains(seen.String()[max(0, start-len(text)):], text); {
					n, err := ours.Read(buf)
					seen.Write(buf[:n])
					if err != nil {
						t.Fatalf("%v before %q in\n%q", err, text, seen.String())
					}
				}
			}
			until(enter)
			until("shop/web-1")
			if mode, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS); err != nil || mode.Lflag&unix.ICANON != 0 {
				t.Errorf("the terminal waits for Enter, so that q would do nothing (%v)", err)
			}
			s.Change(t, placedPod("web-1", "münchen-1", "", 0))
			until("→ münchen-1")
			resize(t, ours, 40, 10)
			until("1 since the start")
			if _, err := ours.WriteString(key); err != nil {
				t.Fatal(err)
			}
			until(leave)
			if err := <-done; err != nil {
				t.Error(err)
			}
			is, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(was, is); diff != "" {
				t.Errorf("the terminal is not as it was (-before +after):\n%s", diff)
			}
		})
	}
}
