// SPDX-License-Identifier: Apache-2.0

// Package cli is what the commands of kubectl-fog share: flags, reading the cluster, tables, colours and errors.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// Options are the flags and streams that all commands have.
type Options struct {
	genericiooptions.IOStreams
	// Config has kubectl's own flags: --kubeconfig, --context, --namespace and the rest.
	Config *genericclioptions.ConfigFlags
	// Color is auto, always or never.
	Color string

	// Getenv and Now are the process's; tests set others.
	Getenv func(string) string
	Now    func() time.Time
	// Width is how many columns a line may have; 0 asks the terminal, and is no bound where the output is none.
	Width int
}

// NewOptions returns options for streams.
func NewOptions(streams genericiooptions.IOStreams) *Options {
	quiet()
	return &Options{
		IOStreams: streams,
		// A cluster of 5,000 nodes is read in a dozen requests; the client must not hold them back.
		Config: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryQPS(200).WithDiscoveryBurst(400),
		Color:  "auto",
		Getenv: os.Getenv,
		Now:    time.Now,
	}
}

// AddFlags adds the flags that all commands have.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	o.Config.AddFlags(fs)
	fs.StringVar(&o.Color, "color", o.Color, "Colour the output: auto (on a terminal, unless NO_COLOR is set), always or never.")
}

// Complete checks the flags that all commands have.
func (o *Options) Complete() error {
	if !slices.Contains([]string{"auto", "always", "never"}, o.Color) {
		return fmt.Errorf("--color=%s: want auto, always or never", o.Color)
	}
	return nil
}

// Namespace returns the namespace that the flags or the kubeconfig name.
func (o *Options) Namespace() (string, error) {
	ns, _, err := o.Config.ToRawKubeConfigLoader().Namespace()
	return ns, err
}

// OutputFlag adds -o with the formats that a command has; "" stands for the table.
func OutputFlag(fs *pflag.FlagSet, value *string, formats ...string) {
	fs.StringVarP(value, "output", "o", "", "Output format: "+strings.Join(formats, ", ")+". The default is a table for people.")
}

// CheckOutput returns an error that names the formats where a format is none of them.
func CheckOutput(value string, formats ...string) error {
	if value == "" || slices.Contains(formats, value) {
		return nil
	}
	return fmt.Errorf("-o %s: want %s, or nothing for a table", value, strings.Join(formats, ", "))
}

// CompleteWords offers words for a flag to the shell's completion.
func CompleteWords(words ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// Colored reports whether the output has colours: --color, then NO_COLOR (https://no-color.org), then whether it goes to a terminal that has any.
func (o *Options) Colored() bool { return o.coloredAs(o.Color) }

func (o *Options) coloredAs(color string) bool {
	switch color {
	case "always":
		return true
	case "never":
		return false
	}
	return o.Getenv("NO_COLOR") == "" && o.Getenv("TERM") != "dumb" && IsTerminal(o.Out)
}

// Columns returns how many columns a line may have; 0 is no bound.
func (o *Options) Columns() int {
	if o.Width > 0 {
		return o.Width
	}
	if f, ok := o.Out.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	if IsTerminal(o.Out) {
		if n, err := strconv.Atoi(o.Getenv("COLUMNS")); err == nil && n > 0 {
			return n
		}
	}
	return 0
}

// IsTerminal reports whether a stream is a terminal.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// patience is how long a command works before it says what it is doing.
const patience = 500 * time.Millisecond

// Working says on the terminal's standard error what takes long, after half a second. Call the function that it returns when it is done.
func (o *Options) Working(what string) (done func()) {
	if !IsTerminal(o.ErrOut) {
		return func() {}
	}
	return working(o.ErrOut, what, patience)
}

func working(w io.Writer, what string, after time.Duration) func() {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-stop:
			return
		case <-time.After(after):
		}
		fmt.Fprintf(w, "%s …", what)
		<-stop
		fmt.Fprint(w, "\r\x1b[K")
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

// ErrSilent ends a command with exit code 1 when all is said.
var ErrSilent = errors.New("silent")
