// SPDX-License-Identifier: Apache-2.0

// Command bulletinboard is the workload of the end-to-end tests: a page of short posts, kept in Redis.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", ":8080", "TCP `address` of the page")
	master := flag.String("redis-master", "redis-master:6379", "`host:port` of the Redis that posts are written to")
	slaves := flag.String("redis-slaves", "redis-slaves:6379", "`host:port` of the Redis that posts are read from")
	name := flag.String("name", os.Getenv("BOARD_NAME"), "what this replica calls itself in the header "+boardHead+"; default: $BOARD_NAME")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bulletinboard: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	b := &board{name: *name, master: newRedis(*master), slave: newRedis(*slaves)}
	if err := serve(*listen, b.handler()); err != nil {
		fmt.Fprintln(os.Stderr, "bulletinboard:", err)
		os.Exit(1)
	}
}

func serve(listen string, handler http.Handler) error {
	// As process 1 of a container it would not end by a signal that it does not ask for.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := &http.Server{
		Addr: listen, Handler: handler,
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	slog.Info("Serving", "listen", listen)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
