// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

var (
	// NodeMetricsKnownNodes is of how many nodes a metric is known.
	NodeMetricsKnownNodes = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fogsched_nodemetrics_known_nodes",
		Help: "Nodes whose value of the metric is known and not too old.",
	}, []string{"metric"})

	// NodeMetricsNewestSample is how current a metric is.
	NodeMetricsNewestSample = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fogsched_nodemetrics_newest_sample_timestamp_seconds",
		Help: "When the newest sample behind the metric's values was taken, in Unix time.",
	}, []string{"metric"})

	// NodeMetricsUnseenPods is how many pods are added to measured values.
	NodeMetricsUnseenPods = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fogsched_nodemetrics_unseen_pods",
		Help: "Pods on nodes that do not run yet, or so recently that a measured value can lack a part of them.",
	})

	// NodeMetricsDecisions counts scheduling cycles by what the plugin could do for the pod.
	NodeMetricsDecisions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fogsched_nodemetrics_decisions_total",
		Help: "Pods that reached scoring, by result: scored, or no_data where nothing was known of any candidate.",
	}, []string{"result"})

	// NodeMetricsLimitsBroken counts limits that the chosen nodes are beyond.
	NodeMetricsLimitsBroken = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fogsched_nodemetrics_limits_broken_total",
		Help: "Limits that the chosen node is beyond (whenUnsatisfiable: ScheduleAnyway).",
	})

	// NodeMetricsWoken counts the pods that were sent back to the queue because a node keeps the limits now.
	NodeMetricsWoken = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fogsched_nodemetrics_pods_woken_total",
		Help: "Rejected pods that were activated because a node keeps the limits now.",
	})
)

// nodeMetrics are the metrics of the plugin NodeMetrics.
func nodeMetrics() []prometheus.Collector {
	for _, r := range results {
		NodeMetricsDecisions.WithLabelValues(r)
	}
	return []prometheus.Collector{
		NodeMetricsKnownNodes, NodeMetricsNewestSample, NodeMetricsUnseenPods, NodeMetricsDecisions, NodeMetricsLimitsBroken, NodeMetricsWoken,
	}
}
