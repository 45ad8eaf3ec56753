// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// Labels that all series of a cluster have: fogsched's and kube-scheduler's own metrics carry the job, so that those of the default
// scheduler are not mixed in.
const (
	ns     = `namespace="$namespace"`
	sched  = `job="fogsched",` + ns
	node   = ns + `,node=~"$node"`
	leads  = ` and on (instance) leader_election_master_status{` + sched + `} == 1`
	window = `[$__rate_interval]`
)

// quantile is a quantile of a histogram, by labels.
func quantile(q float64, metric, selector string, by ...string) string {
	return fmt.Sprintf(`histogram_quantile(%v, sum by (%s) (rate(%s_bucket{%s}%s)))`, q, strings.Join(append([]string{"le"}, by...), ", "), metric, selector, window)
}

// rate is the sum of a counter's increase a second, by labels.
func rate(metric, selector string, by ...string) string {
	sum := "sum"
	if len(by) > 0 {
		sum = fmt.Sprintf("sum by (%s) ", strings.Join(by, ", "))
	}
	return fmt.Sprintf(`%s(rate(%s{%s}%s))`, sum, metric, selector, window)
}

var (
	wantOne   = []step{{colour: "red"}, {1, "green"}}
	wantNone  = []step{{colour: "green"}, {1, "red"}}
	wantYoung = []step{{colour: "green"}, {120, "yellow"}, {300, "red"}}
	wantAll   = []step{{colour: "red"}, {0.5, "yellow"}, {0.9, "green"}}
)

func rows() []row {
	return []row{
		{"Is it working?", working()},
		{"Distances", distances()},
		{"Limits", limits()},
		{"Probers", probers()},
		{"Prometheus as a source", source()},
		{"What it costs", costs()},
	}
}

func working() []panel {
	return []panel{
		{
			kind: number, title: "Leader", width: 4, steps: []step{{colour: "red"}, {1, "green"}, {2, "red"}},
			description: "Schedulers that lead; 1 is right. 0: pods with `schedulerName: fogsched` wait; look at the lease `fogsched` and at the scheduler's log. 2 for longer than a moment: two lease names, or two clusters in this namespace.",
			targets:     []target{{"leaders", `sum(leader_election_master_status{` + sched + `})`}},
		},
		{
			kind: number, title: "Schedulers up", width: 4, steps: wantOne,
			description: "Replicas that Prometheus reaches. Fewer than the Deployment has: a pod is down, a NetworkPolicy is in the way, or the token may not read `/metrics`; Prometheus' page Targets says which.",
			targets:     []target{{"up", `sum(up{` + sched + `})`}},
		},
		{
			kind: number, title: "Probers up", width: 4, steps: wantOne,
			description: "fogprobes that Prometheus reaches; there should be one a node. Fewer: `kubectl -n fogsched-system get pods -l app.kubernetes.io/name=fogprobe -o wide` shows where one is missing.",
			targets:     []target{{"up", `sum(up{job="fogprobe",` + ns + `})`}},
		},
		{
			kind: number, title: "Age of the newest measurement", width: 4, unit: "s", steps: wantYoung,
			description: "How old the newest RTT is that the scheduler has. Above 5 minutes nothing is known any more, and pods are placed as by the stock scheduler. Are the probers up, and do they write their NodeLatency objects (row Probers)? With another prober: does Prometheus answer (row Prometheus)?",
			targets:     []target{{"age", `time() - max(fogsched_store_newest_sample_timestamp_seconds{` + ns + `} > 0)`}},
		},
		{
			kind: number, title: "Nodes with measurements", width: 4, unit: "percentunit", steps: wantAll,
			description: "Share of the nodes of which at least one distance is measured. Pods for the others are placed by estimates or not by latency at all: see which nodes lack a running fogprobe, and whether UDP 8620 is let through to them.",
			targets:     []target{{"nodes", `max(fogsched_store_measured_nodes{` + ns + `} / fogsched_store_nodes{` + ns + `})`}},
		},
		{
			kind: number, title: "Panics recovered in 24 h", width: 4, steps: wantNone,
			description: "Bugs of fogsched that its guards caught; each time one pod was placed without latency. Must be 0: please report it with the first log line \"Recovered a panic\".",
			targets:     []target{{"panics", `round(sum(increase(fogsched_plugin_panics_recovered_total{` + ns + `}[24h])))`}},
		},
		{
			title: "Scheduling attempts", width: 8, unit: "ops", stacked: true,
			description: "Pods a second, by what became of the attempt. `unschedulable` that lasts: pods whose limits, resources or affinities no node meets; their events name the reason. `error`: look at the scheduler's log.",
			targets:     []target{{"{{result}}", rate("scheduler_schedule_attempts_total", sched, "result")}},
		},
		{
			title: "Pods that wait", width: 8, unit: "short", stacked: true,
			description: "The leader's queues. `active` and `backoff` that grow: it does not keep up (row Costs; is `clientConnection.qps` 1000?). `unschedulable`: no node was good enough, see the panel beside. `gated`: somebody's scheduling gates.",
			targets:     []target{{"{{queue}}", `sum by (queue) (scheduler_pending_pods{` + sched + `}` + leads + `)`}},
		},
		{
			title: "Pods that a plugin keeps pending", width: 8, unit: "short",
			description: "Pods that were rejected last, by the plugin that rejected them. NodeLatency: a limit with `DoNotSchedule` that no node keeps; NodeMetrics: a limit of a node metric. `kubectl describe pod` names the limit and the nearest miss; loosen it, or wait until the network is better: the pod is then tried by itself.",
			targets:     []target{{"{{plugin}}", `sum by (plugin) (scheduler_unschedulable_pods{` + sched + `}` + leads + `)`}},
		},
		{
			title: "Placements with and without data", width: 12, unit: "ops", stacked: true,
			description: "Pods that latency (NodeLatency) or a node metric (NodeMetrics) ranked the nodes for: `scored`, or `no_data` where nothing was known of any candidate and the stock scheduler's order held. no_data: see Distances, Coverage; for NodeMetrics the row Prometheus.",
			targets: []target{
				{"NodeLatency {{result}}", rate("fogsched_nodelatency_decisions_total", ns, "result")},
				{"NodeMetrics {{result}}", rate("fogsched_nodemetrics_decisions_total", ns, "result")},
			},
		},
		{
			title: "Invalid policies and annotations", width: 12, unit: "ops",
			description: "Annotations and policies that could not be used, and demands that no value is known of. Those pods are placed without them. The pod's event, or the policy's condition, names the field.",
			targets: []target{
				{"invalid {{kind}}", rate("fogsched_nodelatency_bad_intents_total", ns, "kind")},
				{"demand {{reason}}", rate("fogsched_nodelatency_demands_unused_total", ns, "reason")},
			},
		},
	}
}

func distances() []panel {
	return []panel{
		{
			title: "RTT of all probes", width: 8, unit: "s",
			description: "Quantiles over all probes of the chosen nodes. A jump of all of them: the network between sites changed, and running pods may be in the wrong place now (row Limits).",
			targets: []target{
				{"median", quantile(0.5, "fogsched_probe_rtt_seconds", node)},
				{"95 %", quantile(0.95, "fogsched_probe_rtt_seconds", node)},
				{"99 %", quantile(0.99, "fogsched_probe_rtt_seconds", node)},
			},
		},
		{
			title: "Median RTT from each node", width: 8, unit: "s",
			description: "One node far above its neighbours: its uplink is slow or its route leads astray. If its control pair (row Probers) is slow as well, the node itself is short of CPU.",
			targets:     []target{{"{{node}}", quantile(0.5, "fogsched_probe_rtt_seconds", node, "node")}},
		},
		{
			title: "Loss from each node", width: 8, unit: "percentunit",
			description: "Share of its probes that nobody answered. A pair that lost its last probes is unknown to the scheduler. One node: its link. All: UDP 8620 is blocked, look at NetworkPolicies and firewalls.",
			targets:     []target{{"{{node}}", fmt.Sprintf(`sum by (node) (rate(fogsched_probe_lost_total{%[1]s}%[2]s)) / (sum by (node) (rate(fogsched_probe_lost_total{%[1]s}%[2]s)) + sum by (node) (rate(fogsched_probe_received_total{%[1]s}%[2]s)))`, node, window)}},
		},
		{
			title: "Coverage", width: 8, unit: "percentunit", share: true,
			description: "What the scheduler knows by measurement: of nodes, of pairs, and how many nodes have a network coordinate for the pairs that nobody measured. Up to 33 nodes all pairs are measured; of more, about 32/N of them, which is enough. A fall: probers went away or their reports are not believed.",
			targets: []target{
				{"nodes measured", `max(fogsched_store_measured_nodes{` + ns + `} / fogsched_store_nodes{` + ns + `})`},
				{"pairs measured", `max(fogsched_store_measured_pairs{` + ns + `} / fogsched_store_pairs{` + ns + `})`},
				{"nodes with a coordinate", `max(fogsched_store_coordinates{` + ns + `} / fogsched_store_nodes{` + ns + `})`},
			},
		},
		{
			title: "Age of what is known", width: 8, unit: "s",
			description: "The newest measurement and the snapshot, of each scheduler; the newest answered probe of the prober that waits longest. A snapshot older than a minute: the scheduler is stuck, see its log. A prober: it is cut off, or hangs.",
			targets: []target{
				{"measurement, {{instance}}", `time() - (fogsched_store_newest_sample_timestamp_seconds{` + ns + `} > 0)`},
				{"snapshot, {{instance}}", `time() - (fogsched_store_snapshot_timestamp_seconds{` + ns + `} > 0)`},
				{"oldest prober", `time() - min(fogsched_probe_newest_sample_timestamp_seconds{` + node + `} > 0)`},
			},
		},
		{
			title: "Who is not believed", width: 8, unit: "short",
			description: "`distrusted nodes`: most others contradict what they report, so it is left out; the log names them. Look there for a wrong clock, a proxy on the way, or somebody who wants to draw pods. `disputed pairs`: both ends measured and differ, the worse RTT counts; a few are normal on links that differ by direction of queueing.",
			targets: []target{
				{"distrusted nodes", `max(fogsched_store_distrusted_nodes{` + ns + `})`},
				{"disputed pairs", `max(fogsched_store_disputed_pairs{` + ns + `})`},
			},
		},
		{
			title: "Samples that were not used", width: 12, unit: "ops",
			description: "By source and reason. `future`: a node's clock is ahead. `expired`: a prober or its clock stands still. `starved`: a node short of CPU. `lost`: no answers. `distrusted`, `implausible`, `faster_than_light`: not believed. `too_large`, `nan`, `not_positive`: what the source exports when a probe fails.",
			targets: []target{
				{"{{source}} {{reason}}", rate("fogsched_store_samples_rejected_total", ns, "source", "reason")},
				{"coordinate of {{source}} {{reason}}", rate("fogsched_store_coordinates_rejected_total", ns, "source", "reason")},
				{"{{source}} accepted", rate("fogsched_store_samples_accepted_total", ns, "source")},
			},
		},
		{
			kind: list, title: "Farthest pairs", width: 12, unit: "s",
			description: "The 20 highest medians that were measured from the chosen nodes. Only in clusters of up to 2,500 measured pairs (`--pair-metrics`); above, ask `kubectl get nodelatencies`.",
			targets:     []target{{"", `topk(20, fogsched_probe_pair_rtt_seconds{` + ns + `,source_node_name=~"$node",statistic="typical"})`}},
		},
	}
}

func limits() []panel {
	return []panel{
		{
			title: "Policies by whether their limits hold", width: 8, unit: "short", stacked: true,
			description: "LatencyPolicies by the reason of their condition LimitsKept. `Broken`: running pods exceed a limit now; `kubectl get latencypolicies -A` names the worst pair. fogsched moves no running pod: delete those pods, and they are placed anew. `Unmeasured`: a limited pair has no measurement.",
			targets:     []target{{"{{limits}}", `max by (limits) (fogsched_nodelatency_policies{` + ns + `})`}},
		},
		{
			title: "Limits broken by placements", width: 8, unit: "ops",
			description: "Limits that the chosen node exceeds, with `ScheduleAnyway`: no node kept it, or other preferences weighed more. The pod's event says which. If a limit must hold, `DoNotSchedule` keeps the pod pending.",
			targets: []target{
				{"latency", rate("fogsched_nodelatency_limits_broken_total", ns)},
				{"node metric", rate("fogsched_nodemetrics_limits_broken_total", ns)},
			},
		},
		{
			title: "Narrowing and waking", width: 8, unit: "ops",
			description: "In clusters of 200 nodes and more a pod is tried on the nearest nodes (`narrowed`), and where none takes it on all (`widened`); many of the latter: the nearest nodes are full. `woken`: pending pods that were tried again because a node keeps their limits now.",
			targets: []target{
				{"{{result}}", rate("fogsched_nodelatency_narrowed_total", ns, "result")},
				{"woken, latency", rate("fogsched_nodelatency_pods_woken_total", ns)},
				{"woken, node metric", rate("fogsched_nodemetrics_pods_woken_total", ns)},
			},
		},
	}
}

func probers() []panel {
	return []panel{
		{
			title: "Control pair", width: 8, unit: "s",
			description: "A node's round trip to itself, 99 %. Above 5 ms the node is short of CPU, and nothing that it measures meanwhile is used. Give fogprobe a higher CPU request, or the node less to do.",
			targets:     []target{{"{{node}}", quantile(0.99, "fogsched_probe_control_rtt_seconds", node, "node")}},
		},
		{
			title: "Starved probers", width: 8, unit: "short", stacked: true,
			description: "Nodes too short of CPU for their measurements to be believed: the scheduler uses none of them. Short spells while a node is busy are harmless.",
			targets:     []target{{"{{node}}", `sum by (node) (fogsched_probe_starved{` + node + `})`}},
		},
		{
			title: "Peers that do not answer", width: 8, unit: "percentunit", share: true,
			description: "Share of a node's peers of which no probe is answered any more. One node at 1: it is cut off. All: UDP 8620 between the probers is blocked.",
			targets:     []target{{"{{node}}", `sum by (node) (fogsched_probe_peers_silent{` + node + `}) / sum by (node) (fogsched_probe_peers{` + node + `} > 0)`}},
		},
		{
			title: "Probes", width: 8, unit: "ops",
			description: "Probes a second that each node sends: 0.3 by default, with any number of nodes. 0: the prober has no peers. It reads the EndpointSlices of the Service fogprobe.",
			targets:     []target{{"{{node}}", rate("fogsched_probe_sent_total", node, "node")}},
		},
		{
			title: "Probes that were not used", width: 8, unit: "ops",
			description: "Lost, spoiled by want of CPU (`starved`), or not believed, by reason. `forged`, `mode`: keys that differ. `reflector_slow`: the other node is short of CPU. `late`: `--timeout` is shorter than the way.",
			targets: []target{
				{"lost", rate("fogsched_probe_lost_total", node)},
				{"starved", rate("fogsched_probe_starved_total", node)},
				{"{{reason}}", rate("fogsched_probe_rejected_total", node, "reason")},
				{"control lost", rate("fogsched_probe_control_lost_total", node)},
			},
		},
		{
			title: "Error of coordinates", width: 8, unit: "percentunit",
			description: "By how much estimates from a node's coordinate miss, as a share of the RTT. 10 to 25 % is usual. Above 40 % the coordinate is not used; many such: the network's detours fit into no space, and only what is measured counts.",
			targets:     []target{{"{{node}}", `sum by (node) (fogsched_probe_coordinate_error_ratio{` + node + `})`}},
		},
		{
			title: "Writes of NodeLatency objects", width: 8, unit: "ops", stacked: true,
			description: "By what became of them; `ok` at least every minute and node (less often above 360 nodes). `no_crd`: install the CRDs. `no_node`: `--node-name` is none of the cluster's. `error`: RBAC, the admission policy fogprobe-own-node, or no API server; the prober's log says which.",
			targets:     []target{{"{{result}}", rate("fogsched_probe_publishes_total", node, "result")}},
		},
		{
			title: "Packets at the reflectors", width: 8, unit: "ops",
			description: "What others sent. `limited`: one address sends too many. `forged`, `mode`, `replayed`, `corrupt`: somebody without the key, or who is no prober.",
			targets:     []target{{"{{result}}", rate("fogsched_probe_reflector_packets_total", node, "result")}},
		},
		{
			title: "Time between two probes of a peer", width: 8, unit: "s",
			description: "It follows from the number of peers and `--rate`. A change of the network shows after three probes; where that is too slow, set `--interval`.",
			targets:     []target{{"{{node}}", `max by (node) (fogsched_probe_interval_seconds{` + node + `})`}},
		},
	}
}

func source() []panel {
	return []panel{
		{
			title: "Queries", width: 8, unit: "ops", stacked: true,
			description: "The scheduler's queries to Prometheus, by what became of them. Empty where it asks none. `unreachable`, `timeout`: address, DNS, NetworkPolicy. `refused`: token or TLS. `bad_query`: PromQL. `too_large`: the query has more series than nodes or pairs.",
			targets:     []target{{"{{result}}", rate("fogsched_prometheus_queries_total", ns, "result")}},
		},
		{
			title: "Series that are of a node or pair", width: 8, unit: "percentunit", share: true,
			description: "Share of the series of the last answer that could be used. Low: the labels name no node (`unjoined`; the log has an example, and docs/prometheus.md says how series are joined), or the values are too old or no numbers (`rejected`).",
			targets: []target{{"{{query}}", `min by (query) (sum by (instance, query) (fogsched_prometheus_series{` + ns + `,state="joined"})` +
				` / (sum by (instance, query) (fogsched_prometheus_series{` + ns + `}) > 0))`}},
		},
		{
			title: "Age of answers", width: 8, unit: "s",
			description: "Since a query was last answered. Above `interval` (30 s): it fails. What is known counts for `maxAge` (5 minutes) longer.",
			targets:     []target{{"{{query}}", `time() - max by (query) (fogsched_prometheus_last_answer_timestamp_seconds{` + ns + `})`}},
		},
		{
			title: "How long queries take", width: 8, unit: "s",
			description: "99 %, failed ones too. Near `timeout` (10 s): make it a recording rule.",
			targets:     []target{{"{{query}}", quantile(0.99, "fogsched_prometheus_query_duration_seconds", ns, "query")}},
		},
		{
			title: "Nodes whose metric is known", width: 8, unit: "percentunit", share: true,
			description: "For each metric of NodeMetrics. A node of which nothing is known counts as the median of the others: see which of them the exporter misses.",
			targets:     []target{{"{{metric}}", `max by (metric) (fogsched_nodemetrics_known_nodes{` + ns + `} / on (instance) group_left () (fogsched_store_nodes{` + ns + `} > 0))`}},
		},
		{
			title: "Age of node metrics, and pods that they lack", width: 8, unit: "short",
			description: "Seconds since the newest sample behind a metric, and pods that run too shortly to be in it (their effect is added). An age that grows: the exporter is gone.",
			targets: []target{
				{"age of {{metric}}, s", `time() - max by (metric) (fogsched_nodemetrics_newest_sample_timestamp_seconds{` + ns + `})`},
				{"pods", `max(fogsched_nodemetrics_unseen_pods{` + ns + `})`},
			},
		},
	}
}

func costs() []panel {
	return []panel{
		{
			title: "Time in the plugins", width: 8, unit: "s",
			description: "99 % of an extension point for one pod, of the one cycle in ten that kube-scheduler measures. docs/performance.md has what it should be; PreScore grows with the candidates and the targets of the intent.",
			targets:     []target{{"{{plugin}} {{extension_point}}", quantile(0.99, "scheduler_plugin_execution_duration_seconds", sched+`,plugin=~"NodeLatency|NodeMetrics"`, "plugin", "extension_point")}},
		},
		{
			title: "A pod's way through the scheduler", width: 8, unit: "s",
			description: "One attempt, and from the first attempt to the binding (without the time that it was unschedulable). The latter grows with the queue.",
			targets: []target{
				{"attempt, 50 %", quantile(0.5, "scheduler_scheduling_attempt_duration_seconds", sched)},
				{"attempt, 99 %", quantile(0.99, "scheduler_scheduling_attempt_duration_seconds", sched)},
				{"until bound, 99 %", quantile(0.99, "scheduler_pod_scheduling_sli_duration_seconds", sched)},
			},
		},
		{
			title: "Size of the snapshot", width: 8, unit: "short",
			description: "Nodes, measured pairs (24 bytes each), and nodes that every prober is asked to measure, since policies are about them (64 at the most).",
			targets: []target{
				{"nodes", `max(fogsched_store_nodes{` + ns + `})`},
				{"measured pairs", `max(fogsched_store_measured_pairs{` + ns + `})`},
				{"nodes of interest", `max(fogsched_nodelatency_interest_nodes{` + ns + `})`},
			},
		},
		{
			title: "Memory", width: 8, unit: "bytes",
			description: "Resident. The scheduler grows with nodes and pods, as any scheduler; its limit is 2 GiB. A prober takes some 25 MiB.",
			targets: []target{
				{"scheduler {{instance}}", `process_resident_memory_bytes{` + sched + `}`},
				{"largest prober", `max(process_resident_memory_bytes{job="fogprobe",` + node + `})`},
			},
		},
		{
			title: "CPU", width: 8, unit: "short",
			description: "Cores. A prober takes a thousandth; much more: it receives what it should not (reflectors, row Probers).",
			targets: []target{
				{"scheduler {{instance}}", `rate(process_cpu_seconds_total{` + sched + `}` + window + `)`},
				{"busiest prober", `max(rate(process_cpu_seconds_total{job="fogprobe",` + node + `}` + window + `))`},
			},
		},
		{
			title: "Requests to the API server", width: 8, unit: "reqps", stacked: true,
			description: "Of the schedulers, by status code. 429: the API server holds back. 403: a right is missing. Many 409: another scheduler fights for the same pods.",
			targets:     []target{{"{{code}}", rate("rest_client_requests_total", sched, "code")}},
		},
	}
}
