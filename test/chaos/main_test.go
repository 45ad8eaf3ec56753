// SPDX-License-Identifier: Apache-2.0

//go:build chaos

// Package chaos tests what becomes of scheduling while the Prometheus that the scheduler asks fails in every way that one can: with
// fogsched's plugins, and beside them with Trimaran's, on the same faults.
package chaos

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/promtest"
)

const nodes = 20

func nodeName(n int) string { return fmt.Sprintf("node-%02d", n) }

// load is the share of a node's CPU that is in use: node-00 is the idlest.
func load(n int) float64 { return 0.05 + 0.04*float64(n) }

var (
	control *cluster.Cluster
	prom    *promtest.Server
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	c, err := cluster.Start(context.Background(), cluster.Options{})
	if err != nil {
		// Never a skip: a run without these tests must not look like one in which they passed.
		fmt.Fprintf(os.Stderr, "FAIL: the tests need a control plane: %v\n", err)
		return 1
	}
	defer c.Stop()
	control = c
	list := make([]cluster.Node, nodes)
	for n := range list {
		list[n] = cluster.Node{Name: nodeName(n), Labels: map[string]string{"number": fmt.Sprint(n)}}
	}
	if err := c.AddNodes(context.Background(), list...); err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: %v\n", err)
		return 1
	}
	exporter, err := promtest.NewExporter(exposition())
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: %v\n", err)
		return 1
	}
	defer exporter.Close()
	dir, err := os.MkdirTemp("", "fogsched-chaos-")
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: %v\n", err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	prom, err = promtest.Start(ctx, promtest.Options{Dir: dir, Config: promtest.Config{Jobs: []promtest.Job{
		{Name: "all", HonorLabels: true, Targets: []promtest.Target{{Address: exporter.Address()}}},
	}}})
	if err == nil {
		defer prom.Stop()
		_, err = prom.AwaitSeries(ctx, "rtt_seconds", nodes*(nodes-1))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: %v\n", err)
		return 1
	}
	return m.Run()
}

// exposition is what there is to scrape: the RTTs of all pairs, each node's load by the names that Trimaran asks for, and the traffic from
// each node.
func exposition() string {
	var b strings.Builder
	for from := range nodes {
		for to := range nodes {
			if from != to {
				fmt.Fprintf(&b, "rtt_seconds{source=%q,target=%q} %g\n", nodeName(from), nodeName(to), 0.001+0.002*float64(max(from-to, to-from)))
			}
		}
	}
	for n := range nodes {
		fmt.Fprintf(&b, "instance:node_cpu:ratio{instance=%q} %g\n", nodeName(n), load(n))
		fmt.Fprintf(&b, "instance:node_memory_utilisation:ratio{instance=%q} %g\n", nodeName(n), load(n))
		fmt.Fprintf(&b, "requests{node=%q} %d\n", nodeName(n), n)
	}
	return b.String()
}
