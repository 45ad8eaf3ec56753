// SPDX-License-Identifier: Apache-2.0

// demo shows fogsched at work on the reference cluster: a real control plane on loopback, 24 nodes that kwok plays, a prober
// for each of them whose packets cross an emulated wide-area network, and a bulletin board with its Redis, placed once by
// fogsched and once by the stock scheduler.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	out := flag.String("out", "out/demo", "folder of report.json and the logs")
	source := flag.String("source", fromNodeLatency, "where the scheduler has the latencies from: "+fromNodeLatency+" (objects that the probers publish) or "+fromPrometheus+" (a real one, which scrapes them)")
	keep := flag.Bool("keep", false, "leave the cluster running afterwards, and say how to reach and how to end it")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "demo places a bulletin board by measured latency, beside the stock scheduler.\n\nUsage: make demo [SOURCE=prometheus] [KEEP=1]\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if *source != fromNodeLatency && *source != fromPrometheus {
		fmt.Fprintf(os.Stderr, "demo: -source %s: must be %s or %s\n", *source, fromNodeLatency, fromPrometheus)
		os.Exit(2)
	}
	if *keep && os.Getenv(ownerEnv) == "" {
		os.Exit(runOwner(*out))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, *out, *source, *keep)
	switch {
	case err == nil:
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Println("\nstopped; everything the demo started is gone")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}
