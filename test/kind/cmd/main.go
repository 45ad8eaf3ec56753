// SPDX-License-Identifier: Apache-2.0

// Command cmd creates and deletes the cluster of the end-to-end tests, for `make e2e-cluster` and `make e2e-cluster-delete`.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/fogsched/fogsched/test/kind"
)

func main() {
	name := flag.String("name", "fogsched-e2e", "name of the cluster")
	workers := flag.Int("workers", 5, "nodes beside the control plane")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Arg(0), *name, *workers); err != nil {
		fmt.Fprintln(os.Stderr, "e2e-cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, verb, name string, workers int) error {
	switch verb {
	case "create":
		c, err := kind.Create(ctx, kind.Config{Name: name, Workers: workers, Stay: true, Log: os.Stderr})
		if err != nil {
			return err
		}
		fmt.Println("export KUBECONFIG=" + c.Kubeconfig)
		return nil
	case "add-node":
		c, err := kind.Open(ctx, name)
		if err != nil {
			return err
		}
		node, err := c.AddNode(ctx)
		if err != nil {
			return err
		}
		fmt.Println(node.Name)
		return nil
	case "delete":
		return kind.Delete(ctx, name, os.Stderr)
	}
	return fmt.Errorf("%q: say create, add-node or delete", verb)
}
