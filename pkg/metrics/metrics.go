// SPDX-License-Identifier: Apache-2.0

// Package metrics holds the scheduler's own metrics. They are named fogsched_<component>_<what>_<unit>; none has a label
// whose values grow with the number of pairs of nodes.
package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fogsched/fogsched/pkg/latency"
)

var (
	// SamplesRejected counts the samples that no source should have sent, by reason.
	SamplesRejected = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_store_samples_rejected_total",
		Help: "Samples that were not used, by reason. A rejected sample leaves its pair unknown.",
	}, []string{"source", "reason"})

	// SamplesAccepted counts the samples that became an estimate.
	SamplesAccepted = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_store_samples_accepted_total",
		Help: "Samples that were taken up.",
	}, []string{"source"})

	// CoordinatesRejected counts the network coordinates that are not used, by reason.
	CoordinatesRejected = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_store_coordinates_rejected_total",
		Help: "Network coordinates that were not used, by reason. Pairs that nobody measured are not estimated from them.",
	}, []string{"source", "reason"})

	// Coordinates is how many nodes have a network coordinate that is used.
	Coordinates = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_store_coordinates",
		Help: "Nodes with a network coordinate that is used for pairs that nobody measured.",
	})

	// DisputedPairs is how many pairs both ends measured and see differently.
	DisputedPairs = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_store_disputed_pairs",
		Help: "Unordered pairs that both ends measured and whose RTTs differ by more than the noise; the worse one is believed.",
	})

	// DistrustedNodes is how many nodes' own reports are left out.
	DistrustedNodes = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_store_distrusted_nodes",
		Help: "Nodes that most others contradict: their own reports are left out. The log names them.",
	})

	// SnapshotTimestamp is when the current snapshot was built.
	SnapshotTimestamp = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_store_snapshot_timestamp_seconds",
		Help: "When the snapshot that scheduling cycles read was built, in Unix time.",
	})

	// NewestSampleTimestamp is when the newest measurement in the snapshot was taken.
	NewestSampleTimestamp = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_store_newest_sample_timestamp_seconds",
		Help: "When the newest measurement in the snapshot was taken, in Unix time; 0 when there is none.",
	})

	// Pairs is the number of pairs of different nodes.
	Pairs = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_store_pairs",
		Help: "Unordered pairs of different nodes.",
	})

	// MeasuredPairs is how many of Pairs at least one side measured.
	MeasuredPairs = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_store_measured_pairs",
		Help: "Unordered pairs of different nodes with a current measurement in at least one direction.",
	})

	// Nodes is the number of nodes.
	Nodes = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_store_nodes",
		Help: "Nodes of the cluster, as the snapshot knows them.",
	})

	// MeasuredNodes is how many of Nodes something was measured of.
	MeasuredNodes = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_store_measured_nodes",
		Help: "Nodes with a current measurement to or from at least one other node.",
	})

	// Policies is how many policies there are, by whether their limits hold.
	Policies = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fogsched_nodelatency_policies",
		Help: "LatencyPolicies by the reason of their condition LimitsKept. Absent where the LatencyPolicy CRD is not installed.",
	}, []string{"limits"})

	// InterestNodes is how many nodes the probers are asked to measure from everywhere.
	InterestNodes = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_nodelatency_interest_nodes",
		Help: "Nodes that host targets of intents, which all probers are asked to measure.",
	})

	// Decisions counts scheduling cycles by what the plugin could do for the pod.
	Decisions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_nodelatency_decisions_total",
		Help: "Pods that reached scoring, by result: scored, or no_data where nothing was known of any candidate.",
	}, []string{"result"})

	// LimitsBroken counts pods that were placed although a limit of theirs is exceeded there.
	LimitsBroken = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fogsched_nodelatency_limits_broken_total",
		Help: "Limits that the chosen node exceeds (whenUnsatisfiable: ScheduleAnyway).",
	})

	// BadIntents counts pods whose annotation could not be used, and policies that came past admission.
	BadIntents = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_nodelatency_bad_intents_total",
		Help: "Annotations and policies that were not used because they are invalid.",
	}, []string{"kind"})

	// Narrowed counts what narrowing did.
	Narrowed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_nodelatency_narrowed_total",
		Help: "Pods that were tried on the nodes of the lowest cost only (narrowed), those that none of these took and that were tried on all (widened), and those for which too few of these had room (no_room).",
	}, []string{"result"})

	// DemandsUnused counts the times that a demand could not be used and all clients counted the same.
	DemandsUnused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_nodelatency_demands_unused_total",
		Help: "Entries whose clients all counted the same although they name a demand, by reason: undefined (no demand of that name in the args) or unknown (no value for any client's node, or all are 0).",
	}, []string{"reason"})

	// Woken counts the pods that were sent back to the queue because a limit can be kept now.
	Woken = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fogsched_nodelatency_pods_woken_total",
		Help: "Rejected pods that were activated because a node keeps their limits now.",
	})

	// PrometheusQueries counts queries by what became of them.
	PrometheusQueries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_prometheus_queries_total",
		Help: "Queries to Prometheus, by the name that the configuration gives them and by what became of them.",
	}, []string{"query", "result"})

	// PrometheusQueryDuration is how long queries take, failed ones too.
	PrometheusQueryDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "fogsched_prometheus_query_duration_seconds",
		Help:    "Time from asking Prometheus to the decoded answer, or to the failure.",
		Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
	}, []string{"query"})

	// PrometheusQueryTimestamp is when a query was last answered.
	PrometheusQueryTimestamp = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fogsched_prometheus_last_answer_timestamp_seconds",
		Help: "When Prometheus last answered the query, in Unix time.",
	}, []string{"query"})

	// PrometheusSeries is what the last answer to a query was worth.
	PrometheusSeries = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fogsched_prometheus_series",
		Help: "Series in the last answer to a query: joined to a node or pair, unjoined (their labels name none), or rejected (no number, too old, failed).",
	}, []string{"query", "state"})

	// Panics counts the panics that a guard recovered.
	Panics = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_plugin_panics_recovered_total",
		Help: "Panics that were recovered; the extension point went on as if the pod had no intent.",
	}, []string{"plugin", "extension_point"})

	once sync.Once
)

// results are the values of the label result of Decisions and NodeMetricsDecisions.
var results = []string{"scored", "no_data"}

// Register hands every metric to register, once in the life of the process.
func Register(register func(...prometheus.Collector)) {
	once.Do(func() {
		for _, r := range latency.Reasons() {
			SamplesRejected.WithLabelValues("nodelatency", string(r))
		}
		for _, r := range latency.CoordinateReasons() {
			CoordinatesRejected.WithLabelValues("nodelatency", string(r))
		}
		// What is counted only when something goes wrong is 0 until then: the first one would be no increase if its series began with it.
		for _, r := range results {
			Decisions.WithLabelValues(r)
		}
		for _, k := range []string{"LatencyPolicy", "annotation"} {
			BadIntents.WithLabelValues(k)
		}
		for _, r := range []string{"narrowed", "widened", "no_room"} {
			Narrowed.WithLabelValues(r)
		}
		for _, r := range []string{"undefined", "unknown"} {
			DemandsUnused.WithLabelValues(r)
		}
		Panics.WithLabelValues("NodeLatency", "store")
		Panics.WithLabelValues("prometheus", "latencies")
		Panics.WithLabelValues("prometheus", "query")
		register(append(nodeMetrics(),
			SamplesRejected, SamplesAccepted, CoordinatesRejected, Coordinates, DisputedPairs, DistrustedNodes, SnapshotTimestamp, NewestSampleTimestamp, Nodes, MeasuredNodes, Pairs, MeasuredPairs,
			Policies, InterestNodes, Decisions, LimitsBroken, BadIntents, Narrowed, DemandsUnused, Woken, Panics,
			PrometheusQueries, PrometheusQueryDuration, PrometheusQueryTimestamp, PrometheusSeries)...)
	})
}
