// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"
)

// watchInterval is the least time between two pictures of a command that watches.
const watchInterval = 2 * time.Second

// WatchFlag adds --watch.
func WatchFlag(fs *pflag.FlagSet, value *bool) {
	fs.BoolVarP(value, "watch", "w", false, "Show it again whenever it changed, every two seconds at most, until Ctrl-C.")
}

// Show reads a cluster and shows it once, or again and again where watching: on a terminal in the same place, else one after the other.
// show writes to o.Out.
func (o *Options) Show(ctx context.Context, watching bool, in Scope, required, optional []Kind, show func(context.Context, *Cluster) error) error {
	if !watching {
		c, err := o.ReadIn(ctx, in, required, optional...)
		if err != nil {
			return err
		}
		return show(ctx, c)
	}
	live, err := o.Follow(ctx, in, required, optional...)
	if err != nil {
		return err
	}
	return o.repeat(ctx, live.Changed(), watchInterval, func() error {
		if err := show(ctx, live.Cluster()); err != nil {
			return err
		}
		if trouble := live.Trouble(); trouble != nil {
			fmt.Fprintln(o.Out, o.Paint(Warn, "The connection is broken, and this may be old: "+Clean(trouble.Error())))
		}
		return nil
	})
}

// repeat calls show at once and after each change, until ctx ends. What is the same as before is not written again.
func (o *Options) repeat(ctx context.Context, changed <-chan struct{}, interval time.Duration, show func() error) error {
	out, color, width := o.Out, o.Color, o.Width
	var last []byte
	for {
		var b bytes.Buffer
		// What is written to the buffer must look as it would on the real output, whose size may have changed.
		o.Width = o.Columns()
		if o.Color = "never"; o.coloredAs(color) {
			o.Color = "always"
		}
		o.Out = &b
		err := show()
		o.Out, o.Color, o.Width = out, color, width
		if err != nil {
			return err
		}
		if !bytes.Equal(b.Bytes(), last) {
			switch {
			case IsTerminal(out):
				fmt.Fprint(out, "\x1b[H\x1b[2J")
			case last != nil:
				fmt.Fprintln(out)
			}
			if _, err := out.Write(b.Bytes()); err != nil {
				return err
			}
			last = b.Bytes()
		}
		next := time.After(interval)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		}
	}
}
