// SPDX-License-Identifier: Apache-2.0

// Command boardclient is the users of the bulletin board on one node: it sends a bounded number of HTTP requests at a steady rate and
// prints their latencies as one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fogsched/fogsched/test/e2e/workload"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "boardclient:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var l load
	set := flag.NewFlagSet("boardclient", flag.ContinueOnError)
	node := set.String("node", os.Getenv("NODE_NAME"), "`name` of this node, for the report; default: $NODE_NAME")
	rate := set.Float64("rate", 20, "requests a second, above 0, at most 1000")
	set.StringVar(&l.url, "url", "", "the board's `URL`")
	set.StringVar(&l.board, "board", "", "what the names of the right replicas start with")
	set.IntVar(&l.requests, "requests", 100, "number of measured requests, 1 to 100000")
	set.IntVar(&l.writeEvery, "write-every", 5, "every n-th request posts, the others read; 0: none posts")
	set.DurationVar(&l.timeout, "timeout", 5*time.Second, "time after which a request has failed")
	set.DurationVar(&l.patience, "patience", time.Minute, "time in which the board must have answered for the first time")
	if err := set.Parse(args); err != nil {
		return err
	}
	switch {
	case set.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", set.Arg(0))
	case l.url == "":
		return errors.New("--url: must be given")
	case !(*rate > 0 && *rate <= 1000):
		return errors.New("--rate: must be above 0 and at most 1000")
	case l.requests < 1 || l.requests > 100_000:
		return errors.New("--requests: must be from 1 to 100000")
	case l.writeEvery < 0:
		return errors.New("--write-every: must not be negative")
	case l.timeout <= 0:
		return errors.New("--timeout: must be above 0")
	}
	l.interval = time.Duration(float64(time.Second) / *rate)
	l.client = newHTTPClient(l.timeout)
	if err := l.warmUp(ctx, "hello from "+*node); err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(workload.Report{Node: *node, Requests: l.run(ctx)})
}
