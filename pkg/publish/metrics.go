// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fogsched/fogsched/pkg/probe"
)

// metrics are those of one prober. None has the peer as a label: with one series a pair, a thousand nodes would make a
// million of them.
type metrics struct {
	sent, received, lost prometheus.Counter
	rejected             *prometheus.CounterVec
	rtt, controlRTT      prometheus.Histogram
	controlLost          prometheus.Counter
	reflector            *prometheus.CounterVec
	publishes            *prometheus.CounterVec
}

const namespace, subsystem = "fogsched", "probe"

// newMetrics registers the metrics. picture is asked at every scrape.
func newMetrics(reg prometheus.Registerer, picture func() probe.Picture) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, []string{label})
	}
	gauge := func(name, help string, value func(probe.Picture) int) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help},
			func() float64 { return float64(value(picture())) })
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
		m.sent, m.received, m.lost, m.rejected, m.rtt, m.controlRTT, m.controlLost, m.reflector, m.publishes,
		gauge("peers", "Peers that are probed.", func(p probe.Picture) int { return len(p.Peers) }),
		gauge("peers_silent", "Peers of which every probe of the window was lost.", func(p probe.Picture) int {
			n := 0
			for _, peer := range p.Peers {
				if peer.Samples == 0 && peer.Lost > 0 {
					n++
				}
			}
			return n
		}),
	} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// observe takes what became of one probe.
func (m *metrics) observe(o probe.Outcome) {
	rejected := (*probe.RejectedError)(nil)
	switch {
	case errors.As(o.Err, &rejected):
		m.reject(rejected.Reason)
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
