// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/publish"
	"github.com/fogsched/fogsched/test/promtest"
)

// The sources of latencies.
const (
	fromNodeLatency = "nodelatency" // the objects that the probers publish
	fromPrometheus  = "prometheus"  // a real Prometheus that scrapes them
)

// measurement is what is known of a pair of nodes.
type measurement struct {
	from, to string
	typical  time.Duration // 0: unknown
	enough   bool          // of samples behind it
}

// published returns what the probers published.
func (d *demo) published(ctx context.Context) ([]measurement, error) {
	list, err := d.api.NodeLatencies().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var all []measurement
	for i := range list.Items {
		for _, p := range list.Items[i].Status.Peers {
			m := measurement{from: list.Items[i].Name, to: p.Node, enough: p.Samples >= enoughSamples}
			if p.Typical != nil {
				m.typical = p.Typical.Duration
			}
			all = append(all, m)
		}
	}
	return all, nil
}

// scraped returns what Prometheus knows.
func (d *demo) scraped(ctx context.Context) ([]measurement, error) {
	// A prober probes each of its peers equally often.
	received, err := d.prometheus.Query(ctx, "fogsched_probe_received_total / fogsched_probe_peers")
	if err != nil {
		return nil, err
	}
	samples := map[string]float64{}
	for _, s := range received {
		samples[string(s.Metric["node"])] = float64(s.Value)
	}
	pairs, err := d.prometheus.Query(ctx, `fogsched_probe_pair_rtt_seconds{statistic="typical"}`)
	if err != nil {
		return nil, err
	}
	all := make([]measurement, len(pairs))
	for i, s := range pairs {
		from := string(s.Metric["source_node_name"])
		all[i] = measurement{
			from: from, to: string(s.Metric["dest_node_name"]), typical: time.Duration(float64(s.Value) * float64(time.Second)),
			enough: samples[from] >= enoughSamples,
		}
	}
	return all, nil
}

// withoutNodeLatency removes the kind, so that nothing but Prometheus can be the source.
func (d *demo) withoutNodeLatency(ctx context.Context) error {
	crds := d.cluster.Dynamic().Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	return crds.Delete(ctx, "nodelatencies.fogsched.dev", metav1.DeleteOptions{})
}

// askPrometheus has the plugin NodeLatency of a KubeSchedulerConfiguration ask a Prometheus that scrapes fogprobe.
func askPrometheus(config []byte, address string) ([]byte, error) {
	var u unstructured.Unstructured
	if err := yaml.Unmarshal(config, &u.Object); err != nil {
		return nil, err
	}
	profiles, _, err := unstructured.NestedSlice(u.Object, "profiles")
	if err != nil || len(profiles) == 0 {
		return nil, fmt.Errorf("the configuration has no profile: %w", err)
	}
	profile := profiles[0].(map[string]any)
	profile["pluginConfig"] = []any{map[string]any{"name": "NodeLatency", "args": map[string]any{
		"prometheus": map[string]any{
			"address": address, "interval": "1s", "timeout": "1s",
			"latencies": []any{map[string]any{"preset": "fogprobe"}},
		},
	}}}
	if err := unstructured.SetNestedSlice(u.Object, profiles, "profiles"); err != nil {
		return nil, err
	}
	return yaml.Marshal(u.Object)
}

// startPrometheus starts a Prometheus that scrapes the places that are up, on ports that it chooses, and returns a listener for each.
func (d *demo) startPrometheus(ctx context.Context) error {
	d.exporters = make([]net.Listener, len(d.places))
	job := promtest.Job{Name: "fogprobe"}
	for i, p := range d.places {
		if p.name == notReady {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(p.addr.String(), "0"))
		if err != nil {
			return err
		}
		d.exporters[i] = l
		job.Targets = append(job.Targets, promtest.Target{Address: l.Addr().String(), Labels: map[string]string{"node": p.name}})
	}
	dir, err := filepath.Abs(filepath.Join(d.out, "prometheus"))
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if d.prometheus, err = promtest.Start(ctx, promtest.Options{Dir: dir, Config: promtest.Config{Jobs: []promtest.Job{job}}}); err != nil {
		return err
	}
	d.step("a Prometheus that scrapes the probers each second; the scheduler asks it, and knows no NodeLatency objects")
	return nil
}

// expose has the options of a place's prober publish nothing, and returns what shows its metrics.
func (d *demo) expose(o *publish.Options) error {
	var peers strings.Builder
	for i, p := range d.places {
		if p.name != notReady && p.name != o.NodeName {
			fmt.Fprintf(&peers, "%s %s\n", p.name, d.network.Endpoint(i))
		}
	}
	o.Config = nil
	o.PairMetrics = len(d.places) * len(d.places)
	o.Peers = filepath.Join(d.out, "prometheus", "peers-of-"+o.NodeName)
	return os.WriteFile(o.Peers, []byte(peers.String()), 0o600)
}

func (d *demo) serveMetrics(ctx context.Context, l net.Listener, agent *publish.Agent) {
	server := &http.Server{Handler: agent.Handler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	_ = server.Serve(l)
}
