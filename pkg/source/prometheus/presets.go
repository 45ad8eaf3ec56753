// SPDX-License-Identifier: Apache-2.0

package prometheus

// Preset is how to ask for what one prober measures, with what its source says about names, units and failures.
type Preset struct {
	Latencies

	// Notes says what to know before one relies on it.
	Notes string
	// Advice, where there is any, is logged once when the preset is used.
	Advice string
	// Refuse is PromQL that has a series where Prometheus has what the preset cannot work with, and RefuseReason says why.
	Refuse, RefuseReason string
}

// FindPreset returns a preset by name.
func FindPreset(name string) (Preset, bool) {
	p, ok := presets[name]
	return p, ok
}

// Every comment names the source that was read, and its version. Counters tell whether a prober whose metrics are still scraped still
// measures: where a count has not grown within the window, a pair has no time, and so no sample. Windows of 5m want a scrape a minute or more often.
var presets = map[string]Preset{
	// fogsched: pkg/publish/metrics.go of this version.
	"fogprobe": {
		Latencies: Latencies{
			Typical: `fogsched_probe_pair_rtt_seconds{statistic="typical"}`,
			Tail:    `fogsched_probe_pair_rtt_seconds{statistic="tail"}`,
			Failed:  `fogsched_probe_pair_loss_ratio == bool 1`,
			Time: `fogsched_probe_pair_rtt_seconds{statistic="typical"} * 0` +
				` + on (job, instance) group_left () fogsched_probe_newest_sample_timestamp_seconds`,
			Unit: "s", Source: "source_node_name", Target: "dest_node_name",
		},
		Notes: "Median and 95th percentile over the prober's window, with the time of its newest answered probe. The pairs' series end above " +
			"fogprobe's limit of pairs; the NodeLatency objects do not, and need no Prometheus.",
	},
	// simonswine/kube-latency: app.go at 008c117.
	"kube-latency": {
		Latencies: Latencies{
			Typical: `download_durations_s{quantile="0.5"}`,
			// The quantiles are of 10 minutes. Where Prometheus' memory is shorter than that, a sum below 0 tells of a failure at any time.
			Failed: `(download_durations_s{quantile="0.5"} <= bool 0) or (delta(download_durations_s_sum[10m]) < -1e9)` +
				` or (download_durations_s_sum < 0 unless download_durations_s_sum offset 10m)`,
			Time: `timestamp(download_durations_s_count) and increase(download_durations_s_count[5m]) > 0`,
			Unit: "s", Source: "source_node_name", Target: "dest_node_name", RankingOnly: true,
		},
		Notes: "Not an RTT: download_durations_s is the time from the first byte of an answer to its last, which grows with the RTT, with the load and " +
			"with the answer's size. ping_durations_s times the same of an answer of four bytes, which is no latency at all. A failed request counts as 0 s or as " +
			"-9.2e9 s. So this ranks nodes of which nothing better is known, and no limit rests on it.",
		Advice: "kube-latency measures no round trips: its numbers only rank nodes of which nothing better is known, and no limit rests on them. " +
			"Run fogprobe for RTTs",
	},
	// bloomberg/goldpinger: pkg/goldpinger/{stats,pinger}.go at d68d35b, pinger.go at 4a31273 (UDP).
	"goldpinger": {
		Latencies: Latencies{
			Typical: goldpinger("0.5"),
			Tail:    goldpinger("0.95"),
			Failed:  `goldpinger_peers_loss_pct == bool 100`,
			Time: `(timestamp(goldpinger_peers_udp_rtt_s_count) and increase(goldpinger_peers_udp_rtt_s_count[5m]) > 0)` +
				` or (timestamp(goldpinger_peers_response_time_s_count{call_type="ping"}) and increase(goldpinger_peers_response_time_s_count{call_type="ping"}[5m]) > 0)`,
			Unit: "s", Source: "goldpinger_instance", Target: "host_ip",
		},
		Notes: "UDP round trips where UDP_ENABLED is set; set it: one bucket holds all HTTP calls below 5 ms, so that near nodes look alike. Failed HTTP calls are " +
			"observed like others, and counted by the instance, not by the peer: while a call of an instance failed within 5 minutes nothing new is taken from its HTTP calls. " +
			"goldpinger_instance is the environment variable HOSTNAME, which must be the node's name, as in goldpinger's own manifests; host_ip is the node's InternalIP.",
	},
	// SuperQ/smokeping_prober: collector.go at 7baf588; the program v0.6.1.
	"smokeping_prober": {
		Latencies: Latencies{
			Typical: `histogram_quantile(0.5, rate(smokeping_response_duration_seconds_bucket[5m]))`,
			Tail:    `histogram_quantile(0.95, rate(smokeping_response_duration_seconds_bucket[5m]))`,
			Failed:  `(increase(smokeping_requests_total[3m]) > bool 0) * (increase(smokeping_response_duration_seconds_count[3m]) == bool 0)`,
			Time:    `timestamp(smokeping_response_duration_seconds_count) and increase(smokeping_response_duration_seconds_count[5m]) > 0`,
			Unit:    "s", Source: "instance", Target: "ip",
		},
		Notes: "Answered pings of the last 5 minutes. The source is whom Prometheus scrapes: its label instance, an address of the prober's node or pod. Give source: another label " +
			"where relabelling sets one, such as node. A pair of which no ping is answered for 3 minutes is unknown.",
	},
	// czerwonk/ping_exporter: collector.go at d211ff6 (before the scaled units) and with them, rttscale.go at 2de5cbc.
	"ping_exporter": {
		Latencies: Latencies{
			Typical: `ping_rtt_mean_seconds`,
			Failed:  `ping_loss_ratio == bool 1`,
			Unit:    "s", Source: "instance", Target: "ip",
		},
		Notes: "The mean of the last pings (ping.history-size, 10), not the median; it has no 95th percentile. The source is whom Prometheus scrapes: its label instance; give " +
			"source: another label where relabelling sets one. It has no counters: a prober that hangs and still answers scrapes looks alive. Before v1.0 the metric is " +
			"ping_rtt_mean_ms: typical: ping_rtt_mean_ms, unit: ms, failed: ping_loss_percent == bool 1 (a ratio in spite of its name).",
	},
	// postfinance/kubenurse: internal/servicecheck/httptrace.go at a68f4a2, servicecheck.go, neighbours.go at 12281da.
	"kubenurse": {
		Latencies: Latencies{
			Typical: kubenurse("0.5"),
			Tail:    kubenurse("0.95"),
			Failed: `(sum without (event) (increase(kubenurse_errors_total{type=~"path_.+"}[3m])) > 0)` +
				` unless (sum without (event) (increase(kubenurse_httpclient_trace_request_duration_seconds_count{type=~"path_.+",event="connect_done"}[3m])) > 0)`,
			Time: `timestamp(kubenurse_httpclient_trace_request_duration_seconds_count{type=~"path_.+",event="connect_done"})` +
				` and increase(kubenurse_httpclient_trace_request_duration_seconds_count{type=~"path_.+",event="connect_done"}[5m]) > 0`,
			Unit: "s", Source: "instance", Target: "type", TargetRegexp: `^path_(.+)$`,
		},
		Notes: "TCP handshakes of the last 5 minutes, one round trip each; the duration of the whole request would be two or more. Each kubenurse checks 10 neighbours only " +
			"(KUBENURSE_NEIGHBOUR_LIMIT), so in larger clusters most pairs stay unknown. One bucket holds all below 5 ms: set KUBENURSE_HISTOGRAM_BUCKETS. Needs new connections " +
			"(KUBENURSE_REUSE_CONNECTIONS unset) and KUBENURSE_VICTORIAMETRICS_HISTOGRAM unset. The source is whom Prometheus scrapes, its label instance.",
	},
	// prometheus/blackbox_exporter: prober/icmp.go, prober/handler.go of v0.28.0.
	"blackbox_exporter": {
		Latencies: Latencies{
			Typical: blackbox("0.5"),
			Tail:    blackbox("0.95"),
			Failed:  `(probe_success == bool 0) and ignoring (phase) probe_icmp_duration_seconds{phase="rtt"}`,
			Time:    `timestamp(probe_icmp_duration_seconds{phase="rtt"})`,
			Unit:    "s", Source: "source", Target: "instance", TargetRegexp: `^(?:[a-z]+://)?(\[[0-9a-fA-F:.]+\]|[^/:\[\]]+)`,
		},
		Notes: "The prober icmp: the median of the answered pings of the last 5 minutes, one a scrape, while the last one was answered. A ping that was not answered has the " +
			"rtt 0, which counts for nothing. Prometheus does not know where the exporter runs: relabelling must set a label with its node's name, source, for each exporter.",
	},
	// Stono/kconmon: lib/apps/agent/metrics.ts, lib/tester/index.ts at b0d0d60, lib/udp/client.ts at 447dd65.
	"kconmon": {
		Latencies: Latencies{
			Typical: `kconmon_udp_duration_milliseconds and kconmon_udp_loss == 0`,
			Failed:  `kconmon_udp_loss == bool 100`,
			Time:    `timestamp(kconmon_udp_duration_milliseconds) and (sum without (result) (increase(kconmon_udp_results_total[5m])) > 0)`,
			Unit:    "ms", Source: "source", Target: "destination",
		},
		Notes: "The mean of one round of UDP pings, not the median; it has no 95th percentile. A ping that was lost counts in it as the timeout, so only rounds without a loss are " +
			"taken. Its TCP durations are whole milliseconds, and 0 where a connection was reused; they are not used.",
	},
	// cloudprober/cloudprober: probes/ping/ping.go, probes/{udp,tcp}, surfacers/internal/prometheus/prometheus.go of v0.13.9.
	"cloudprober": {
		Latencies: Latencies{
			Typical: `rate({__name__=~"(cloudprober_)?latency",ptype=~"ping|udp|tcp"}[5m]) / rate({__name__=~"(cloudprober_)?success",ptype=~"ping|udp|tcp"}[5m])`,
			Failed: `(rate({__name__=~"(cloudprober_)?total",ptype=~"ping|udp|tcp"}[3m]) > 0)` +
				` unless (rate({__name__=~"(cloudprober_)?success",ptype=~"ping|udp|tcp"}[3m]) > 0)`,
			Time: `timestamp({__name__=~"(cloudprober_)?success",ptype=~"ping|udp|tcp"})` +
				` and (increase({__name__=~"(cloudprober_)?success",ptype=~"ping|udp|tcp"}[5m]) > 0)`,
			Unit: "us", Source: "instance", Target: "dst",
		},
		Notes: "The mean of the probes of type ping, udp and tcp that succeeded within 5 minutes, not the median; it has no 95th percentile. It wants latency_unit us, the default, and no " +
			"latency_distribution. The source is whom Prometheus scrapes, its label instance. A target that is a name is joined as a node's name or hostname.",
	},
	// diktyo-io's netperf component: netperf_reporter.py and runNetperfV2.pl, pushed through a Pushgateway, which adds push_time_seconds.
	"netperf": {
		Latencies: Latencies{
			Typical: `netperf_p50_latency_microseconds`,
			Tail:    `netperf_p99_latency_microseconds`,
			Failed:  `netperf_p50_latency_microseconds <= bool 0`,
			Time: `netperf_p50_latency_microseconds * 0` +
				` + on (job, instance, exported_job, exported_instance) group_left () push_time_seconds`,
			Unit: "us", Source: "origin", Target: "destination",
		},
		Notes: "TCP request and response, median and 99th percentile (there is no 95th). A Pushgateway serves what was pushed for ever: the time is that of the push, so maxAge must be longer than " +
			"the time between two runs. A test that failed is pushed as NaN or 0.",
	},
	// cilium/cilium: pkg/health/server/server.go, pkg/metrics/metrics.go of v1.14.0 (gauge) and v1.20.2 (histogram).
	"cilium": {
		Latencies: Latencies{
			Typical: `cilium_node_connectivity_latency_seconds{type="node",protocol="icmp",address_type="primary"}` +
				` and on (source_cluster, source_node_name, target_cluster, target_node_name) cilium_node_connectivity_status{type="node"} == 1`,
			Failed: `cilium_node_connectivity_status{type="node"} == bool 0`,
			Time:   `timestamp(cilium_node_connectivity_latency_seconds{type="node",protocol="icmp",address_type="primary"})`,
			Unit:   "s", Source: "source_node_name", Target: "target_node_name",
		},
		Notes: "The last ping between the nodes' primary addresses, not a median; it has no 95th percentile. -1 is unknown. A node that does not answer any more keeps its last latency, so " +
			"cilium_node_connectivity_status must be enabled, too. Newer versions of Cilium have a histogram without the target node in place of the gauge: of no use here.",
		Refuse: `count(cilium_node_health_connectivity_latency_seconds_count) unless on () cilium_node_connectivity_latency_seconds`,
		RefuseReason: "this Cilium has cilium_node_health_connectivity_latency_seconds, which does not say which node was measured, and no " +
			"cilium_node_connectivity_latency_seconds: its latencies between nodes are unknown; run fogprobe",
	},
}

func goldpinger(quantile string) string {
	return `histogram_quantile(` + quantile + `, rate(goldpinger_peers_udp_rtt_s_bucket[5m]))` +
		` or on (goldpinger_instance, host_ip) (histogram_quantile(` + quantile + `, rate(goldpinger_peers_response_time_s_bucket{call_type="ping"}[5m]))` +
		` unless on (goldpinger_instance) (increase(goldpinger_errors_total{type="ping"}[5m]) > 0` +
		` or (goldpinger_errors_total{type="ping"} > 0 unless goldpinger_errors_total{type="ping"} offset 5m)))` // the counter is not there before the first error
}

func kubenurse(quantile string) string {
	return `histogram_quantile(` + quantile + `, rate(kubenurse_httpclient_trace_request_duration_seconds_bucket{type=~"path_.+",event="connect_done"}[5m]))`
}

func blackbox(quantile string) string {
	return `quantile_over_time(` + quantile + `, (probe_icmp_duration_seconds{phase="rtt"} > 0)[5m:10s]) and ignoring (phase) (probe_success == 1)`
}
