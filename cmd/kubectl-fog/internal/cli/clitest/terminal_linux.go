// SPDX-License-Identifier: Apache-2.0

package clitest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
)

// Terminal is a pseudo-terminal and what was seen on it.
type Terminal struct {
	// Ours is the end at which a person sits, Theirs that of the program.
	Ours, Theirs *os.File

	seen strings.Builder
}

// NewTerminal opens a terminal of a size in characters.
func NewTerminal(t testing.TB, width, height uint16) *Terminal {
	t.Helper()
	open := func(path string) *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	ours := open("/dev/ptmx")
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	term := &Terminal{Ours: ours, Theirs: open(fmt.Sprintf("/dev/pts/%d", number))}
	term.Resize(t, width, height)
	return term
}

// Resize changes the size.
func (term *Terminal) Resize(t testing.TB, width, height uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(term.Ours.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		t.Fatal(err)
	}
}

// Mode returns how the terminal is set.
func (term *Terminal) Mode(t testing.TB) *unix.Termios {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(term.Theirs.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return mode
}

// Type types a text.
func (term *Terminal) Type(t testing.TB, text string) {
	t.Helper()
	if _, err := term.Ours.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// Until reads until the program has written a text after what was waited for before.
func (term *Terminal) Until(t testing.TB, text string) {
	t.Helper()
	if err := term.Ours.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		if seen := term.seen.String(); strings.Contains(seen, text) {
			_, rest, _ := strings.Cut(seen, text)
			term.seen.Reset()
			term.seen.WriteString(rest)
			return
		}
		n, err := term.Ours.Read(buf)
		term.seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v before %q in\n%q", err, text, term.seen.String())
		}
	}
}

// Start runs a command at Now on the terminal until ctx ends, and returns where its error will be.
func (term *Terminal) Start(ctx context.Context, command func(*cli.Options) *cobra.Command, args ...string) <-chan error {
	o := cli.NewOptions(genericiooptions.IOStreams{In: term.Theirs, Out: term.Theirs, ErrOut: term.Theirs})
	o.Now = func() time.Time { return Now }
	o.Getenv = func(name string) string { return map[string]string{"TERM": "xterm"}[name] }
	cmd := command(o)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	o.AddFlags(cmd.PersistentFlags())
	cmd.SetArgs(args)
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	return done
}
