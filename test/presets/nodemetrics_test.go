// SPDX-License-Identifier: Apache-2.0

package presets

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/plugins/nodemetrics"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
	"github.com/fogsched/fogsched/test/promtest"
)

// TestNodeMetricsPresets asks for every preset of NodeMetrics, on the real node_exporter: of a node, of a node whose exporter cannot tell what
// the preset wants, and of one that is not in the cluster; and then the exporter dies.
func TestNodeMetricsPresets(t *testing.T) {
	t.Parallel() // it waits for the steps of subqueries
	// Whether the collector is on; node_exporter fails like this, too: without the series, and with a 200.
	collectors := map[string]string{
		"cpu": "cpu", "memory": "meminfo", "disk-io": "diskstats", "network": "netdev",
	}
	without := []string{}
	for _, c := range collectors {
		without = append(without, "--no-collector."+c)
	}
	start := func(args ...string) *promtest.Child {
		c, err := promtest.StartNodeExporter(t.Context(), t.TempDir(), args...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Stop)
		return c
	}
	good, lame := start(), start(without...)
	server, err := promtest.Start(t.Context(), promtest.Options{Dir: t.TempDir(), Config: promtest.Config{ScrapeInterval: scrape, Jobs: []promtest.Job{
		{Name: "good", Targets: []promtest.Target{{Address: good.Address(), Labels: map[string]string{"instance": "10.0.0.1:9100"}}}},
		{Name: "lame", Targets: []promtest.Target{{Address: lame.Address(), Labels: map[string]string{"instance": "10.0.0.2:9100"}}}},
		{Name: "foreign", Targets: []promtest.Target{{Address: good.Address(), Labels: map[string]string{"instance": "10.0.0.9:9100"}}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)

	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	for name, ip := range map[string]string{"good": "10.0.0.1", "lame": "10.0.0.2", "silent": "10.0.0.3"} {
		n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: ip}}
		if err := indexer.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	nodes := &prometheus.Cluster{Nodes: corelisters.NewNodeLister(indexer)}
	config := &prometheus.Config{Address: server.URL()}
	config.Default()
	client, err := prometheus.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	var metrics []string
	for _, name := range nodemetrics.PresetNames() {
		metric := "{preset: " + name
		if strings.HasSuffix(name, "-variation") {
			metric += ", window: 1m" // one step of its subquery is enough for a value
		}
		metrics = append(metrics, metric+"}")
	}
	queries, err := nodemetrics.Queries(&runtime.Unknown{Raw: []byte(fmt.Sprintf("{prometheus: {address: %q}, metrics: [%s]}", server.URL(), strings.Join(metrics, ", ")))})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(q *prometheus.NodeQuery) *prometheus.NodeValues {
		values, err := client.NodeValues(t.Context(), q, nodes.Joiner(), maxAge)
		if err != nil {
			t.Fatalf("%s: %v\n%s", q.Name, err, q.Value)
		}
		return values
	}
	await := func(t *testing.T, q *prometheus.NodeQuery, patience time.Duration, check func(*prometheus.NodeValues) error) {
		t.Helper()
		var last error
		if err := wait.PollUntilContextTimeout(t.Context(), scrape, patience, true, func(context.Context) (bool, error) {
			last = check(ask(q))
			return last == nil, nil
		}); err != nil {
			t.Fatalf("after %s: %v\n%s", patience, last, q.Value)
		}
	}
	for i := range queries {
		q := &queries[i]
		t.Run(q.Name, func(t *testing.T) {
			await(t, q, patience, func(v *prometheus.NodeValues) error {
				if _, ok := v.Nodes["good"]; !ok {
					return fmt.Errorf("nothing is known of the node: %+v", v)
				}
				if v.Unjoined != 1 || v.Example != "10.0.0.9:9100" {
					return fmt.Errorf("%d series stand for no node, for example %q, want the foreign one", v.Unjoined, v.Example)
				}
				return nil
			})
			v := ask(q)
			value := v.Nodes["good"].Value
			most := 1.5 // a rate reaches past its samples
			if strings.HasPrefix(q.Name, "network") {
				most = 1e10
			}
			if value < 0 || value > most {
				t.Errorf("the node has %g", value)
			}
			if len(v.Nodes) != 1 {
				t.Errorf("%v are known, want the one node whose exporter tells", v.Nodes)
			}
		})
	}
	good.Kill()
	for i := range queries {
		q := &queries[i]
		t.Run(q.Name+" of a dead exporter", func(t *testing.T) {
			// Its rates live on for the window; the time of their samples does not.
			await(t, q, 2*maxAge+patience, func(v *prometheus.NodeValues) error {
				if len(v.Nodes) > 0 {
					return fmt.Errorf("%v is still known", v.Nodes)
				}
				return nil
			})
		})
	}
}
