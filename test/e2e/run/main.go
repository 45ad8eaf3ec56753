// SPDX-License-Identifier: Apache-2.0

//go:build linux

// run makes a kind cluster with distances between its nodes, runs the end-to-end suite in it, and removes all that it made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fogsched/fogsched/test/kind"
)

type options struct {
	name    string // of the cluster
	out     string // of report.json, logs, the emulator's socket and the images
	keep    bool
	workers int
	tests   string // regular expression of test names; empty: all
	images  string // folder of fogsched.tar and fogprobe.tar; empty: made of the programs beside this one
	started time.Time
}

func main() {
	o := options{started: time.Now()}
	flag.StringVar(&o.name, "name", "fogsched-e2e", "`name` of the cluster")
	flag.StringVar(&o.out, "out", "out/e2e", "`folder` of report.json")
	flag.BoolVar(&o.keep, "keep", false, "leave cluster and emulator running afterwards, and say how to reach and how to end them")
	flag.IntVar(&o.workers, "workers", 5, "nodes beside the control plane, at least 5")
	flag.StringVar(&o.tests, "run", "", "run only tests whose names match this regular `expression`")
	flag.StringVar(&o.images, "images", "", "`folder` of the archives fogsched.tar and fogprobe.tar; without it the images are made of the programs beside this one")
	down := flag.Bool("down", false, "only remove what an earlier run left, with or without -keep")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "e2e: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var err error
	if o.out, err = filepath.Abs(o.out); err == nil {
		if *down {
			err = removeAll(ctx, o)
		} else {
			err = run(ctx, o)
		}
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "e2e: stopped:", err)
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.workers < 5 {
		return fmt.Errorf("-workers: %d: the geography needs at least 5", o.workers)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	// A report is this run's, or there is none.
	if err := os.Remove(filepath.Join(o.out, "report.json")); err != nil && !os.IsNotExist(err) {
		return err
	}
	l := &lab{options: o}
	done := false
	defer func() {
		if o.keep && done && ctx.Err() == nil {
			l.sayKept()
			return
		}
		l.say("removing the cluster and the emulator")
		if gone := l.remove(); gone != nil {
			err = errors.Join(err, fmt.Errorf("removing what was made: %w", gone))
			return
		}
		l.say("everything that was started is gone")
	}()
	if err := l.build(ctx); err != nil {
		return err
	}
	done = true // with a cluster that works, a test that fails is no reason to take it away
	return l.test(ctx)
}

// removeAll removes what any earlier run left.
func removeAll(ctx context.Context, o options) error {
	return errors.Join(stopEmulator(filepath.Join(o.out, socketFile)), kind.Delete(ctx, o.name, os.Stderr),
		os.RemoveAll(filepath.Join(o.out, imagesFolder)))
}
