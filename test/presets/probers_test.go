// SPDX-License-Identifier: Apache-2.0

package presets

import (
	"context"
	"fmt"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fogsched/fogsched/pkg/publish"
	"github.com/fogsched/fogsched/test/program"
	"github.com/fogsched/fogsched/test/promtest"
)

// The nodes. Probers that know addresses measure 127.0.0.12 and so on.
var nodes = map[string]string{
	"alpha": "127.0.0.11", "beta": "127.0.0.12", "gamma": "127.0.0.13", "zero": "127.0.0.14", "minus": "127.0.0.15",
	"nan": "127.0.0.16", "lossy": "127.0.0.17", "stalls": "127.0.0.18", "vanishes": "127.0.0.19",
}

const stranger, strangerIP = "zulu", "127.0.0.99" // no node

// band is what a latency may be, in milliseconds.
type band struct{ least, most float64 }

// The RTT of simulated probers is 20 ms; a histogram tells it by its bucket.
var (
	exact    = band{19.9, 20.1}
	bucket   = band{10, 25.6}
	loopback = band{0.001, 100}
)

// setup is a prober that measures the nodes, and what must come of it. Pairs are written "alpha→beta". What is not in want must never be
// taken for a latency.
type setup struct {
	jobs   []promtest.Job
	want   map[string]band
	failed []string // pairs that must be known as failed
	// stall, where the prober has anything that tells, ends its measuring and not its metrics, on the node stalls; vanish ends the one on the
	// node vanishes.
	stall, vanish func()
	ranking       bool
	after         func() // what is done at the very end
}

// roles runs a simulated prober on alpha, stalls and vanishes, and on others that want one. write writes its page for the n-th step.
func roles(t *testing.T, name string, write func(p *page, source string, n int), others ...string) *setup {
	t.Helper()
	job := promtest.Job{Name: name}
	s := &setup{want: map[string]band{}}
	for _, source := range append([]string{"alpha", "stalls", "vanishes"}, others...) {
		sim := simulate(t, func(p *page, n int) { write(p, source, n) })
		job.Targets = append(job.Targets, promtest.Target{Address: sim.Address(), Labels: map[string]string{"instance": nodes[source] + ":9100"}})
		switch source {
		case "stalls":
			s.stall = func() { sim.stalled.Store(true) }
		case "vanishes":
			s.vanish = sim.Vanish
		}
	}
	s.jobs = []promtest.Job{job}
	return s
}

func (s *setup) wants(b band, pairs ...string) *setup {
	for _, p := range pairs {
		s.want[p] = b
	}
	return s
}

func (s *setup) fails(pairs ...string) *setup {
	s.failed = append(s.failed, pairs...)
	return s
}

// everybody are the pairs of the nodes on which roles runs probers.
var everybody = []string{"alpha→beta", "stalls→beta", "vanishes→beta"}

var probers = map[string]func(t *testing.T) *setup{
	"fogprobe": fogprobe, "kube-latency": kubeLatency, "goldpinger": goldpinger, "smokeping_prober": smokeping, "ping_exporter": pingExporter,
	"kubenurse": kubenurse, "blackbox_exporter": blackbox, "kconmon": kconmon, "cloudprober": cloudprober, "netperf": netperf, "cilium": cilium,
}

// fogprobe runs the real prober on loopback. Of gamma no probe is answered.
func fogprobe(t *testing.T) *setup {
	s := &setup{want: map[string]band{}, jobs: []promtest.Job{{Name: "fogprobe"}}}
	start := func(name string, peers ...string) (endpoint string, server *httptest.Server, stop func()) {
		file := filepath.Join(t.TempDir(), "peers")
		if err := os.WriteFile(file, []byte(strings.Join(peers, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := publish.New(publish.Options{
			NodeName: name, Listen: nodes[name] + ":0", Peers: file, Interval: 200 * time.Millisecond, Window: 5, PairMetrics: 1000,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		server = httptest.NewServer(a.Handler())
		stopped := false
		stop = func() {
			if cancel(); !stopped {
				stopped = true
				if err := <-done; err != nil {
					t.Errorf("fogprobe on %s: %v", name, err)
				}
			}
		}
		t.Cleanup(func() { stop(); server.Close() })
		s.jobs[0].Targets = append(s.jobs[0].Targets, promtest.Target{Address: server.Listener.Addr().String()})
		return a.Endpoint().String(), server, stop
	}
	port, err := program.ReservePort() // nobody listens
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Release)
	beta, _, _ := start("beta")
	start("alpha", "beta "+beta, "gamma "+port.Address(), stranger+" "+beta)
	_, _, s.stall = start("stalls", "beta "+beta)
	_, server, _ := start("vanishes", "beta "+beta)
	s.vanish = server.Close
	return s.wants(loopback, everybody...).fails("alpha→gamma")
}

func kubeLatency(t *testing.T) *setup {
	s := roles(t, "kube-latency", func(p *page, source string, n int) {
		pair := func(dest string, median, sum float64, count int) {
			labels := []string{
				"source_pod_name", "p", "source_pod_ip", nodes[source], "source_zone", "", "source_node_name", source,
				"dest_pod_name", "q", "dest_pod_ip", nodes[dest], "dest_zone", "", "dest_node_name", dest,
			}
			for _, name := range []string{"download_durations_s", "ping_durations_s"} {
				value := median
				if name == "ping_durations_s" && median > 0 {
					value = 0.00002 // the transfer of four bytes after the first byte
				}
				p.add(name, value, append(labels, "quantile", "0.5")...)
				p.add(name, value, append(labels, "quantile", "0.9")...)
				p.add(name+"_sum", sum, labels...)
				p.add(name+"_count", float64(count), labels...)
			}
		}
		const never = -9223372036.854776
		pair("beta", 0.02, 0.02*float64(n), n)
		pair(stranger, 0.02, 0.02*float64(n), n)
		if source == "alpha" {
			pair("zero", 0, 0, n)
			pair("minus", never, never*float64(n), n)
			pair("nan", math.NaN(), 1, 7)
			pair("lossy", 0.01, never*float64(n/4+1)+0.01*float64(n), n) // every fourth body ends too early
		}
	})
	s.ranking = true
	return s.wants(exact, everybody...).fails("alpha→zero", "alpha→minus", "alpha→lossy")
}

func goldpinger(t *testing.T) *setup {
	seconds := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	s := roles(t, "goldpinger", func(p *page, source string, n int) {
		http := func(dest string, value float64) {
			p.histogram("goldpinger_peers_response_time_s", seconds, value, n, "goldpinger_instance", source, "call_type", "ping", "host_ip", nodes[dest], "pod_ip", "10.0.0.1")
		}
		http("beta", 0.02)
		p.histogram("goldpinger_peers_response_time_s", seconds, 0.02, n, "goldpinger_instance", source, "call_type", "ping", "host_ip", strangerIP, "pod_ip", "10.0.0.9")
		udp := func(dest string, loss float64) {
			labels := []string{"goldpinger_instance", source, "host_ip", nodes[dest], "pod_ip", "10.0.0.1"}
			p.add("goldpinger_peers_loss_pct", loss, labels...)
			if loss < 100 {
				p.histogram("goldpinger_peers_udp_rtt_s", []float64{.0001, .001, .01, .025, .1}, 0.02, n, labels...)
			}
		}
		switch source {
		case "alpha":
			udp("gamma", 0)
			http("gamma", 0.001) // the UDP round trip goes first
			udp("zero", 100)
		case "lossy": // beta refuses every connection at once, which is counted by the instance alone
			p.add("goldpinger_errors_total", float64(n), "goldpinger_instance", source, "type", "ping")
			http("gamma", 0.02)
			http("zero", 0.0003)
		case "minus": // an error long ago
			p.add("goldpinger_errors_total", 0, "goldpinger_instance", source, "type", "ping")
		}
	}, "lossy", "minus")
	return s.wants(bucket, everybody...).wants(bucket, "alpha→gamma", "minus→beta").fails("alpha→zero")
}

// smokeping runs the real prober on alpha.
func smokeping(t *testing.T) *setup {
	var bounds []float64
	for b := 5e-05; b < 27; b *= 2 {
		bounds = append(bounds, b)
	}
	s := roles(t, "smokeping", func(p *page, source string, n int) {
		if source == "alpha" {
			return
		}
		pings := func(ip string, answered int) {
			p.add("smokeping_requests_total", float64(n), "host", ip, "ip", ip)
			p.histogram("smokeping_response_duration_seconds", bounds, 0.02, answered, "host", ip, "ip", ip)
		}
		pings(nodes["beta"], n)
		if source == "lossy" {
			pings(nodes["gamma"], 0)  // never
			pings(nodes["zero"], 100) // not any more
		}
	}, "lossy")
	child, err := promtest.StartSmokeping(t.Context(), t.TempDir(), []string{nodes["beta"], strangerIP})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(child.Stop)
	s.jobs[0].Targets[0].Address = child.Address()
	return s.wants(bucket, everybody...).wants(bucket, "lossy→beta").wants(loopback, "alpha→beta").fails("lossy→gamma", "lossy→zero")
}

func pingExporter(t *testing.T) *setup {
	s := roles(t, "ping", func(p *page, source string, _ int) {
		pair := func(ip string, mean, loss float64) {
			labels := []string{"target", "host-" + ip, "ip", ip, "ip_version", "4"}
			if mean >= 0 {
				p.add("ping_rtt_best_seconds", mean/2, labels...)
				p.add("ping_rtt_worst_seconds", mean*2, labels...)
				p.add("ping_rtt_mean_seconds", mean, labels...)
			}
			if math.IsNaN(mean) { // before 0.4.4
				p.add("ping_rtt_best_seconds", 0, labels...)
				p.add("ping_rtt_mean_seconds", mean, labels...)
			}
			p.add("ping_loss_ratio", loss, labels...)
		}
		p.add("ping_up", 1)
		pair(nodes["beta"], 0.02, 0.1)
		pair(strangerIP, 0.02, 0)
		if source == "alpha" {
			pair(nodes["gamma"], -1, 1)
			pair(nodes["nan"], math.NaN(), 1)
			pair(nodes["zero"], 0, 0.5)
		}
	})
	s.stall = nil // it has no counters
	return s.wants(exact, everybody...).fails("alpha→gamma", "alpha→nan")
}

func kubenurse(t *testing.T) *setup {
	bounds := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	s := roles(t, "kubenurse", func(p *page, source string, n int) {
		trace := func(kind, event string, value float64) {
			p.histogram("kubenurse_httpclient_trace_request_duration_seconds", bounds, value, n, "type", kind, "event", event)
		}
		request := func(kind string) {
			trace(kind, "connect_start", 0.00005)
			trace(kind, "connect_done", 0.02)
			trace(kind, "got_first_resp_byte", 0.06)
			p.histogram("kubenurse_httpclient_request_duration_seconds", bounds, 0.06, n, "type", kind)
			p.add("kubenurse_httpclient_requests_total", float64(n), "type", kind, "code", "200")
		}
		request("path_beta")
		request("path_" + stranger)
		request("api_server_direct")
		if source == "alpha" {
			trace("path_gamma", "connect_start", 0.00005)
			p.add("kubenurse_errors_total", float64(n), "type", "path_gamma", "event", "connect_done")
			p.add("kubenurse_httpclient_requests_total", float64(n), "type", "path_gamma", "code", "round_trip_error")
			request("path_lossy") // it connects, and gets no answer
			p.add("kubenurse_errors_total", float64(n), "type", "path_lossy", "event", "round_trip_error")
		}
	})
	return s.wants(bucket, everybody...).wants(bucket, "alpha→lossy").fails("alpha→gamma")
}

// blackbox runs the real exporter, one for alpha and one for vanishes. gamma's address cannot be reached by IPv4.
func blackbox(t *testing.T) *setup {
	const modules = `modules: {icmp: {prober: icmp, timeout: 400ms, icmp: {preferred_ip_protocol: ip4, ip_protocol_fallback: false}}}`
	s := &setup{want: map[string]band{}}
	for _, source := range []string{"alpha", "vanishes"} {
		child, err := promtest.StartBlackbox(t.Context(), t.TempDir(), modules, "--timeout-offset=0.05") // scrapes are short here
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(child.Stop)
		var targets []promtest.Target
		for _, address := range []string{nodes["beta"], "fd00::13", strangerIP} {
			targets = append(targets, promtest.Target{Address: address, Labels: map[string]string{"source": source}})
		}
		s.jobs = append(s.jobs, promtest.BlackboxJob("blackbox-"+source, child.Address(), "icmp", targets...))
		s.vanish = child.Kill
	}
	// And one that fails after it worked, as its page is then.
	failing := simulate(t, func(p *page, n int) {
		ok := n < 20
		p.add("probe_success", map[bool]float64{true: 1}[ok])
		p.add("probe_duration_seconds", 0.4)
		for phase, value := range map[string]float64{"resolve": 0.00001, "setup": 0.0001, "rtt": 0.02} {
			if phase == "rtt" && !ok {
				value = 0
			}
			p.add("probe_icmp_duration_seconds", value, "phase", phase)
		}
	})
	s.jobs = append(s.jobs, promtest.Job{Name: "blackbox-failing", Targets: []promtest.Target{{
		Address: failing.Address(), Labels: map[string]string{"instance": "http://" + nodes["zero"] + ":80/x", "source": "lossy"},
	}}})
	s.wants(loopback, "alpha→beta", "vanishes→beta")
	s.want["lossy→zero"] = exact // as long as it works
	return s.fails("alpha→gamma", "vanishes→gamma", "lossy→zero")
}

func kconmon(t *testing.T) *setup {
	s := roles(t, "kconmon", func(p *page, source string, n int) {
		pair := func(dest string, average, loss float64, result string) {
			labels := []string{"source", source, "destination", dest, "source_zone", "a", "destination_zone", "b"}
			p.add("kconmon_udp_duration_milliseconds", average, labels...)
			p.add("kconmon_udp_duration_variance_milliseconds", 1, labels...)
			p.add("kconmon_udp_loss", loss, labels...)
			p.add("kconmon_tcp_connect_milliseconds", 0, labels...)
			p.add("kconmon_udp_results_total", float64(n), append(labels, "result", result)...)
		}
		pair("beta", 20, 0, "pass")
		pair(stranger, 20, 0, "pass")
		if source == "alpha" {
			pair("gamma", 250, 100, "fail")
			pair("lossy", 112, 40, "fail")
			pair("nan", math.NaN(), math.NaN(), "pass")
			pair("zero", 0, 0, "pass")
		}
	})
	return s.wants(exact, everybody...).fails("alpha→gamma")
}

func cloudprober(t *testing.T) *setup {
	s := roles(t, "cloudprober", func(p *page, source string, n int) {
		pair := func(kind, dst string, success int, each float64) {
			labels := []string{"ptype", kind, "probe", "nodes", "dst", dst}
			p.add("total", float64(n), labels...)
			p.add("success", float64(success), labels...)
			p.add("latency", each*float64(success), labels...)
		}
		pair("ping", nodes["beta"], n, 20_000)
		pair("http", nodes["beta"], n, 1) // not asked for
		pair("ping", strangerIP, n, 20_000)
		if source == "alpha" {
			pair("tcp", "gamma", 0, 0)
			pair("udp", nodes["zero"], 100, 20_000) // not any more
		}
	})
	return s.wants(exact, everybody...).fails("alpha→gamma", "alpha→zero")
}

func netperf(t *testing.T) *setup {
	s := roles(t, "netperf", func(p *page, source string, _ int) {
		group := []string{"job", "netperf", "instance", "networkAware-" + source}
		pair := func(destination string, p50, p99 float64) {
			labels := append(group[:4:4], "origin", source, "destination", destination)
			p.add("netperf_p50_latency_microseconds", p50, labels...)
			p.add("netperf_p90_latency_microseconds", (p50+p99)/2, labels...)
			p.add("netperf_p99_latency_microseconds", p99, labels...)
		}
		p.add("push_time_seconds", float64(time.Now().UnixMilli())/1e3, group...)
		p.add("push_failure_time_seconds", 0, group...)
		pair("beta", 20_000, 30_000)
		pair(stranger, 20_000, 30_000)
		if source == "alpha" {
			pair("nan", math.NaN(), math.NaN())
			pair("zero", 0, 0)
		}
	})
	s.jobs[0].HonorLabels = true
	return s.wants(exact, everybody...).fails("alpha→zero")
}

func cilium(t *testing.T) *setup {
	old := true
	gone := make(chan struct{})
	s := roles(t, "cilium", func(p *page, source string, n int) {
		select {
		case <-gone:
			old = false
		default:
		}
		pair := func(target string, latency, status float64) {
			labels := []string{"source_cluster", "default", "source_node_name", source, "target_cluster", "default", "target_node_name", target}
			for _, kind := range []string{"node", "endpoint"} {
				p.add("cilium_node_connectivity_status", status, append(labels[:8:8], "target_node_type", "remote_intra_cluster", "type", kind)...)
				for _, protocol := range []string{"icmp", "http"} {
					value := latency
					if protocol == "http" && latency > 0 {
						value = latency / 10 // never asked for
					}
					p.add("cilium_node_connectivity_latency_seconds", value, append(labels[:8:8], "target_node_ip", "10.0.0.1",
						"target_node_type", "remote_intra_cluster", "type", kind, "protocol", protocol, "address_type", "primary")...)
				}
			}
		}
		if !old {
			p.histogram("cilium_node_health_connectivity_latency_seconds", []float64{.001, .01, .1}, 0.02, n, "type", "node", "protocol", "icmp", "address_type", "primary")
			return
		}
		pair("beta", 0.02, 1)
		pair(stranger, 0.02, 1)
		if source == "alpha" {
			pair("minus", -1, 1)
			pair("zero", 0, 0)
			pair("gamma", 0.02, 0) // it does not answer any more, and keeps its last latency
		}
	})
	s.stall = nil // it has no counters
	s.after = func() { close(gone) }
	return s.wants(exact, everybody...).fails("alpha→zero", "alpha→gamma")
}

func split(pair string) (from, to string) {
	from, to, ok := strings.Cut(pair, "→")
	if !ok {
		panic(fmt.Sprintf("no pair: %s", pair))
	}
	return from, to
}
