// SPDX-License-Identifier: Apache-2.0

//go:build load

package load

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// exporter serves what node_exporter would serve on each machine, at /NODE/metrics.
type exporter struct{ machines map[string]*machine }

// startExporter serves on loopback until the test ends, and returns the address.
func startExporter(t *testing.T, worlds []*world) string {
	t.Helper()
	e := &exporter{machines: map[string]*machine{}}
	for _, w := range worlds {
		for _, m := range w.machines {
			e.machines[m.name] = m
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{node}/metrics", e.serve)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go s.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

func (e *exporter) serve(rw http.ResponseWriter, r *http.Request) {
	m := e.machines[r.PathValue("node")]
	if m == nil {
		http.NotFound(rw, r)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; version=0.0.4")
	_, _ = rw.Write(m.metrics(time.Now()))
}

// modes are what node_exporter says a core does, as shares of the time in which the machine works and of the rest. Some of the rest waits
// for a disk; PromQL must not take that for work.
var modes = []struct {
	name            string
	ofBusy, ofSpare float64
}{
	{"idle", 0, 0.98},
	{"iowait", 0, 0.02},
	{"irq", 0, 0},
	{"nice", 0, 0},
	{"softirq", 0, 0},
	{"steal", 0, 0},
	{"system", 0.2, 0},
	{"user", 0.8, 0},
}

// metrics are the families of node_exporter that presets, Trimaran's rules and kube-prometheus' dashboards read.
func (m *machine) metrics(now time.Time) []byte {
	m.mu.Lock()
	m.advance(now)
	busy, spare := m.busy/float64(m.cores), m.spare/float64(m.cores)
	load := m.utilization(now) * float64(m.cores)
	memory := m.base.memory * m.memory
	for _, u := range m.pods {
		memory += u.memory
	}
	m.mu.Unlock()

	var b bytes.Buffer
	fmt.Fprintln(&b, "# TYPE node_cpu_seconds_total counter")
	for cpu := range m.cores {
		for _, mode := range modes {
			fmt.Fprintf(&b, "node_cpu_seconds_total{cpu=\"%d\",mode=%q} %g\n", cpu, mode.name, mode.ofBusy*busy+mode.ofSpare*spare)
		}
	}
	free := max(m.memory-memory, 0)
	up := now.Sub(started).Seconds()
	for _, f := range []struct {
		typ, name, labels string
		value             float64
	}{
		{"gauge", "node_load1", "", load},
		{"gauge", "node_memory_MemTotal_bytes", "", m.memory},
		{"gauge", "node_memory_MemAvailable_bytes", "", free},
		{"gauge", "node_memory_MemFree_bytes", "", free * 0.7},
		{"gauge", "node_memory_Buffers_bytes", "", free * 0.1},
		{"gauge", "node_memory_Cached_bytes", "", free * 0.2},
		{"counter", "node_disk_io_time_seconds_total", `{device="sda"}`, busy * 0.1},
		{"counter", "node_disk_io_time_weighted_seconds_total", `{device="sda"}`, busy * 0.2},
		{"counter", "node_disk_read_bytes_total", `{device="sda"}`, busy * 1e6},
		{"counter", "node_disk_written_bytes_total", `{device="sda"}`, busy * 2e6},
		{"counter", "node_network_receive_bytes_total", `{device="eth0"}`, busy * 5e6},
		{"counter", "node_network_transmit_bytes_total", `{device="eth0"}`, busy * 5e6},
		{"counter", "node_network_receive_drop_total", `{device="eth0"}`, 0},
		{"counter", "node_network_transmit_drop_total", `{device="eth0"}`, 0},
		{"gauge", "node_time_seconds", "", float64(now.UnixMilli()) / 1e3},
		{"gauge", "node_boot_time_seconds", "", float64(now.UnixMilli())/1e3 - up},
	} {
		fmt.Fprintf(&b, "# TYPE %s %s\n%s%s %g\n", f.name, f.typ, f.name, f.labels, f.value)
	}
	return b.Bytes()
}

// history is what Prometheus would have if it had scraped the machines since they started, as OpenMetrics: of the families above those from
// which something is computed over minutes, and what the rules would have recorded.
func history(worlds []*world) string {
	const step = 2 * scrapeInterval // half of the work, and as good for averages over minutes
	const steps = int(past / step)
	var b strings.Builder
	for _, w := range worlds {
		for _, m := range w.machines {
			type sample struct{ at, busy, spare float64 }
			samples := make([]sample, 0, steps)
			m.mu.Lock()
			for i := range steps { // the last one lies in the past, as it must
				t := started.Add(time.Duration(i) * step)
				m.advance(t)
				samples = append(samples, sample{float64(t.UnixMilli()) / 1e3, m.busy / float64(m.cores), m.spare / float64(m.cores)})
			}
			m.mu.Unlock()
			for cpu := range m.cores {
				for _, mode := range modes {
					if mode.ofBusy+mode.ofSpare == 0 {
						continue
					}
					labels := fmt.Sprintf("node_cpu_seconds_total{job=%q,instance=%q,cpu=\"%d\",mode=%q}", job, m.name, cpu, mode.name)
					for _, s := range samples {
						fmt.Fprintf(&b, "%s %g %.3f\n", labels, mode.ofBusy*s.busy+mode.ofSpare*s.spare, s.at)
					}
				}
			}
			const window = int(ruleWindow / step)
			for i := window; i < len(samples); i++ {
				s, before := samples[i], samples[i-window]
				labels := fmt.Sprintf("{job=%q,instance=%q}", job, m.name)
				fmt.Fprintf(&b, "instance:node_cpu:ratio%s %g %.3f\n", labels, (s.busy-before.busy)/ruleWindow.Seconds(), s.at)
				fmt.Fprintf(&b, "instance:node_memory_utilisation:ratio%s %g %.3f\n", labels, m.base.memory, s.at)
				fmt.Fprintf(&b, "node_memory_MemTotal_bytes%s %g %.3f\n", labels, m.memory, s.at)
				fmt.Fprintf(&b, "node_memory_MemAvailable_bytes%s %g %.3f\n", labels, m.memory*(1-m.base.memory), s.at)
			}
		}
	}
	b.WriteString("# EOF\n")
	return b.String()
}
