// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"errors"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fogsched/fogsched/pkg/probe"
)

// metrics are those of one prober. The histogram and the counters have no label for the peer; pairs has, for small clusters.
type metrics struct {
	sent, received, lost prometheus.Counter
	starved              prometheus.Counter
	rejected             *prometheus.CounterVec
	rtt, controlRTT      prometheus.Histogram
	controlLost          prometheus.Counter
	reflector            *prometheus.CounterVec
	publishes            *prometheus.CounterVec
}

const namespace, subsystem = "fogsched", "probe"

// newMetrics registers the metrics. picture is asked at every scrape. pairs may be nil.
func newMetrics(reg prometheus.Registerer, picture func() probe.Picture, pairs prometheus.Collector) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, []string{label})
	}
	gauge := func(name, help string, value func(probe.Picture) float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help},
			func() float64 { return value(picture()) })
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: name, Help: help,
			// 50 µs to 6.6 s.
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 18),
		})
	}
	m := &metrics{
		sent:        counter("sent_total", "Probes sent to peers."),
		received:    counter("received_total", "Probes of peers that were answered, and the answer believed."),
		lost:        counter("lost_total", "Probes of peers that were not answered in time, or could not be sent."),
		starved:     counter("starved_total", "Probes that were not used, neither as a latency nor as a loss, because the node was short of CPU."),
		rejected:    counters("rejected_total", "Packets, or answers, that were not believed, by reason. They are neither a loss nor a latency.", "reason"),
		rtt:         histogram("rtt_seconds", "Round trips to peers, without the time that the peer took. A probe that failed is not in it."),
		controlRTT:  histogram("control_rtt_seconds", "Round trips of the node to itself. Slow ones mean that the node is short of CPU."),
		controlLost: counter("control_lost_total", "Probes of the node to itself that were not answered in time."),
		reflector:   counters("reflector_packets_total", "Packets that reached the reflector, by what became of them.", "result"),
		publishes:   counters("publishes_total", "Attempts to write the node's NodeLatency, by what became of them.", "result"),
	}
	for _, r := range probe.Reasons() {
		m.rejected.WithLabelValues(string(r))
	}
	for _, r := range probe.AllReflected() {
		m.reflector.WithLabelValues(string(r))
	}
	for _, r := range AllPublished() {
		m.publishes.WithLabelValues(string(r))
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.sent, m.received, m.lost, m.starved, m.rejected, m.rtt, m.controlRTT, m.controlLost, m.reflector, m.publishes,
		gauge("peers", "Peers that are probed.", func(p probe.Picture) float64 { return float64(len(p.Peers)) }),
		gauge("peers_silent", "Peers of which no probe is answered any more.", func(p probe.Picture) float64 {
			n := 0
			for _, peer := range p.Peers {
				if _, _, known := peer.RTT(); !known && peer.Lost > 0 {
					n++
				}
			}
			return float64(n)
		}),
		gauge("interval_seconds", "Time between two probes of one peer.", func(p probe.Picture) float64 { return p.Interval.Seconds() }),
		gauge("starved", "1 while the node is too short of CPU for its measurements to be believed, else 0.", func(p probe.Picture) float64 {
			if p.Starved {
				return 1
			}
			return 0
		}),
		gauge("coordinate_error_ratio", "Error of estimates from the node's network coordinate, as a share of the RTT; NaN while there is none.", func(p probe.Picture) float64 {
			if p.Coordinate == nil {
				return math.NaN()
			}
			return p.Coordinate.Error
		}),
		gauge("newest_sample_timestamp_seconds", "When the newest answered probe of a peer was sent, in Unix time; NaN before the first.", func(p probe.Picture) float64 {
			var newest time.Time
			for _, peer := range p.Peers {
				if peer.At.After(newest) {
					newest = peer.At
				}
			}
			if newest.IsZero() {
				return math.NaN()
			}
			return float64(newest.UnixNano()) / 1e9
		}),
		pairs,
	} {
		if c != nil {
			errs = append(errs, reg.Register(c))
		}
	}
	return m, errors.Join(errs...)
}

// observe takes what became of one probe.
func (m *metrics) observe(o probe.Outcome) {
	rejected := (*probe.RejectedError)(nil)
	switch {
	case errors.As(o.Err, &rejected):
		m.reject(rejected.Reason)
	case o.Starved:
		m.starved.Inc()
	case o.Err != nil && o.Control:
		m.controlLost.Inc()
	case o.Err != nil:
		m.lost.Inc()
	case o.Control:
		m.controlRTT.Observe(o.Result.RTT.Seconds())
	default:
		m.received.Inc()
		m.rtt.Observe(o.Result.RTT.Seconds())
	}
	if !o.Control {
		m.sent.Inc()
	}
}

func (m *metrics) reject(r probe.Reason)     { m.rejected.WithLabelValues(string(r)).Inc() }
func (m *metrics) reflect(r probe.Reflected) { m.reflector.WithLabelValues(string(r)).Inc() }
func (m *metrics) countPublish(r Published)  { m.publishes.WithLabelValues(string(r)).Inc() }

// pairs are the gauges of the pairs that this node measures. With one series a pair, five thousand nodes would make 80,000 of each
// even with 16 peers a node, so they are left out above a limit for the whole cluster.
type pairs struct {
	node    string
	limit   int // pairs of all probers together
	picture func() probe.Picture
	// cluster returns the number of nodes, and the zone of each.
	cluster func() (nodes int, zone func(node string) string)

	rtt, loss *prometheus.Desc
}

// newPairs makes the collector. Its labels are those of kube-latency, so that dashboards made for that go on with another name.
func newPairs(node string, limit int, picture func() probe.Picture, cluster func() (int, func(string) string)) *pairs {
	labels := []string{"source_node_name", "source_zone", "dest_node_name", "dest_zone"}
	name := func(s string) string { return prometheus.BuildFQName(namespace, subsystem, s) }
	return &pairs{
		node: node, limit: limit, picture: picture, cluster: cluster,
		rtt: prometheus.NewDesc(name("pair_rtt_seconds"),
			"RTT of a pair over the window: statistic typical is the median, tail the 95th percentile. Absent where it is not known.",
			append(labels[:len(labels):len(labels)], "statistic"), nil),
		loss: prometheus.NewDesc(name("pair_loss_ratio"), "Share of a pair's probes of the window that were lost.", labels, nil),
	}
}

// Describe implements prometheus.Collector.
func (p *pairs) Describe(ch chan<- *prometheus.Desc) {
	ch <- p.rtt
	ch <- p.loss
}

// Collect implements prometheus.Collector.
func (p *pairs) Collect(ch chan<- prometheus.Metric) {
	picture := p.picture()
	nodes, zone := p.cluster()
	if nodes*len(picture.Peers) > p.limit {
		return
	}
	for _, peer := range picture.Peers {
		if peer.Samples+peer.Lost == 0 {
			continue
		}
		labels := []string{p.node, zone(p.node), peer.Name, zone(peer.Name)}
		ch <- prometheus.MustNewConstMetric(p.loss, prometheus.GaugeValue, float64(peer.Lost)/float64(peer.Samples+peer.Lost), labels...)
		if typical, tail, known := peer.RTT(); known {
			ch <- prometheus.MustNewConstMetric(p.rtt, prometheus.GaugeValue, typical.Seconds(), append(labels[:4:4], "typical")...)
			ch <- prometheus.MustNewConstMetric(p.rtt, prometheus.GaugeValue, tail.Seconds(), append(labels[:4:4], "tail")...)
		}
	}
}
