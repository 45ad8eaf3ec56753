// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/source"
)

// Source asks Prometheus for the latencies that one prober measured. It implements source.Source. The cluster's listers must know
// everything when Run is called.
//
// A refresh takes one query a statistic, however many nodes there are. One that fails changes nothing: what is known stays until it is
// older than MaxAge. A pair that is missing in a good answer, or has no valid number there, keeps its last sample until then, too; a
// pair whose probe failed is unknown at once.
type Source struct {
	Client  *Client
	Cluster *Cluster
	Latencies
	// Interval is the time between two refreshes, MaxAge how old a measurement may be; both above 0.
	Interval, MaxAge time.Duration

	// Of Run's goroutine alone.
	known   map[string]map[string]latency.Sample // by the names of the nodes From and To
	uids    map[string]types.UID                 // of the nodes at the last refresh
	queries map[string]*queryState
	advised bool

	mu        sync.Mutex
	condition Condition
}

var _ source.Source = (*Source)(nil)

// Condition says how a source is doing.
type Condition struct {
	// Ready: the last refresh brought what Prometheus has, be it nothing.
	Ready bool
	// Reason is Starting, Refreshed, Failing or Refused. Message says it for people.
	Reason, Message string
	// At is when it became so.
	At time.Time
}

// The reasons of a Condition.
const (
	Starting  = "Starting"
	Refreshed = "Refreshed"
	Failing   = "Failing"
	Refused   = "Refused" // Prometheus has what the preset cannot work with
)

// queryState is what is remembered of one query, so that a change is logged and a tick is not.
type queryState struct{ failing, unjoined bool }

// Condition returns how the source is doing. It is safe for concurrent use.
func (s *Source) Condition() Condition {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.condition.Reason == "" {
		return Condition{Reason: Starting, Message: "nothing was asked yet"}
	}
	return s.condition
}

// Run reports latencies, at once and at every interval, until ctx ends. Its error is one of the configuration.
func (s *Source) Run(ctx context.Context, update source.Update) error {
	q, err := s.questions()
	switch {
	case err != nil:
		return err
	case s.Client == nil || s.Cluster == nil || s.Interval <= 0 || s.MaxAge <= 0:
		return errors.New("prometheus: client, cluster, interval and maxAge are required")
	}
	ticker := time.NewTicker(s.Interval)
	defer ticker.Stop()
	for {
		s.tick(ctx, q, update)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// tick is one refresh.
func (s *Source) tick(ctx context.Context, q *questions, update source.Update) {
	logger := klog.FromContext(ctx)
	defer func() {
		if p := recover(); p != nil {
			metrics.Panics.WithLabelValues("prometheus", "latencies").Inc()
			logger.Error(nil, "Recovered a panic while taking latencies from Prometheus; the last good ones stay", "source", q.Name,
				"panic", p, "stack", string(debug.Stack()))
		}
	}()
	if q.preset.Advice != "" && !s.advised {
		s.advised = true
		logger.Info(q.preset.Advice, "source", q.Name)
	}
	a, err := s.ask(ctx, logger, q)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		reason := Failing
		if errors.Is(err, errRefused) {
			reason = Refused
		}
		s.become(logger, q, reason, err.Error())
		return
	}
	s.take(logger, q, a, time.Now(), update)
	s.become(logger, q, Refreshed, "")
}

// become notes the condition, and logs where it changed.
func (s *Source) become(logger klog.Logger, q *questions, reason, message string) {
	s.mu.Lock()
	was := s.condition
	if was.Reason == reason {
		s.condition.Message = message
	} else {
		s.condition = Condition{Ready: reason == Refreshed, Reason: reason, Message: message, At: time.Now()}
	}
	s.mu.Unlock()
	if was.Reason != reason && reason == Refused {
		logger.Error(nil, "Latencies from Prometheus are refused", "source", q.Name, "reason", message)
	}
}

// answers are what a refresh brought.
type answers struct {
	typical, tail, failed, times model.Vector
}

var errRefused = errors.New("refused")

// ask sends the queries of a refresh one after the other: their answers may be large. Without a tail it goes on; without what tells
// failed probes, or how old a measurement is, it does not. Times come first: what is measured between two queries is rather taken for too old.
func (s *Source) ask(ctx context.Context, logger klog.Logger, q *questions) (*answers, error) {
	if nodes, err := s.Cluster.Nodes.List(labels.Everything()); err == nil {
		s.Client.Expect(len(nodes))
	}
	if q.preset.Refuse != "" {
		v, err := s.query(ctx, logger, q.Name+"/refuse", q.preset.Refuse)
		if err != nil {
			return nil, err
		}
		if len(v) > 0 {
			return nil, fmt.Errorf("%w: %s", errRefused, q.preset.RefuseReason)
		}
	}
	var a answers
	var err error
	if a.times, err = s.query(ctx, logger, q.Name+"/time", q.Time); err != nil {
		return nil, err
	}
	if a.typical, err = s.query(ctx, logger, q.Name+"/typical", q.Typical); err != nil {
		return nil, err
	}
	if q.Failed != "" {
		if a.failed, err = s.query(ctx, logger, q.Name+"/failed", q.Failed); err != nil {
			return nil, err
		}
	}
	if q.Tail != "" {
		a.tail, _ = s.query(ctx, logger, q.Name+"/tail", q.Tail) // logged, counted, and done without
	}
	return &a, nil
}

func (s *Source) state(name string) *queryState {
	st := s.queries[name]
	if st == nil {
		if s.queries == nil {
			s.queries = map[string]*queryState{}
		}
		st = &queryState{}
		s.queries[name] = st
	}
	return st
}

// query sends one query, and logs when it begins to fail and when it works again.
func (s *Source) query(ctx context.Context, logger klog.Logger, name, promql string) (model.Vector, error) {
	v, err := s.Client.Query(ctx, name, promql)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	st := s.state(name)
	switch {
	case err != nil && !st.failing:
		logger.Error(err, "Prometheus does not answer; what is known stays until its maxAge", "query", name, "maxAge", s.MaxAge)
	case err == nil && st.failing:
		logger.Info("Prometheus answers again", "query", name)
	}
	st.failing = err != nil
	return v, err
}

// pair are two nodes by name.
type pair struct{ from, to string }

// joined goes through the series whose labels name two nodes, and counts and logs the others.
func (s *Source) joined(logger klog.Logger, q *questions, j *Joiner, name string, v model.Vector, f func(p pair, series *model.Sample)) *tally {
	t := &tally{}
	source, target := model.LabelName(q.Source), model.LabelName(q.Target)
	for _, series := range v {
		if series == nil {
			continue
		}
		from, ok := j.Node(string(series.Metric[source]), q.sourceRegexp)
		if !ok {
			t.miss(q.Source, string(series.Metric[source]))
			continue
		}
		to, ok := j.Node(string(series.Metric[target]), q.targetRegexp)
		if !ok {
			t.miss(q.Target, string(series.Metric[target]))
			continue
		}
		t.joined++
		f(pair{from, to}, series)
	}
	st := s.state(name)
	if t.unjoined > 0 && !st.unjoined {
		logger.Info("Series of Prometheus name no node of the cluster, and are left out: see how the labels are joined in docs/prometheus.md",
			"query", name, "series", len(v), "unjoined", t.unjoined, "label", t.label, "example", clip(t.example))
	}
	st.unjoined = t.unjoined > 0
	return t
}

// tally counts the series of an answer.
type tally struct {
	joined, unjoined, rejected int
	label, example             string
}

func (t *tally) miss(label, value string) {
	if t.unjoined++; t.unjoined == 1 {
		t.label, t.example = label, value
	}
}

func (t *tally) show(name string) {
	metrics.PrometheusSeries.WithLabelValues(name, "joined").Set(float64(t.joined - t.rejected))
	metrics.PrometheusSeries.WithLabelValues(name, "unjoined").Set(float64(t.unjoined))
	metrics.PrometheusSeries.WithLabelValues(name, "rejected").Set(float64(t.rejected))
}

// take makes reports of a refresh's answers.
func (s *Source) take(logger klog.Logger, q *questions, a *answers, now time.Time, update source.Update) {
	j := s.Cluster.Joiner()
	s.forget(j, now, update)

	// The time of a series itself, where it has the same labels, else the newest of its pair.
	ofSeries := make(map[model.Fingerprint]time.Time, len(a.times))
	ofPair := make(map[pair]time.Time, len(a.times))
	s.joined(logger, q, j, q.Name+"/time", a.times, func(p pair, series *model.Sample) {
		t, ok := unixTime(float64(series.Value))
		if !ok {
			return
		}
		ofSeries[fingerprint(series.Metric)] = t
		if ofPair[p].Before(t) {
			ofPair[p] = t
		}
	}).show(q.Name + "/time")

	samples := make(map[pair]latency.Sample, len(a.typical))
	typical := s.joined(logger, q, j, q.Name+"/typical", a.typical, func(p pair, series *model.Sample) {
		at, ok := ofSeries[fingerprint(series.Metric)]
		if !ok {
			at = ofPair[p]
		}
		n := latency.Sample{From: p.from, To: p.to, Typical: float64(series.Value) * q.seconds, Tail: math.NaN(), At: at}
		if was, ok := samples[p]; !ok || prefer(&n, &was, now, s.MaxAge) {
			samples[p] = n
		}
	})
	s.joined(logger, q, j, q.Name+"/tail", a.tail, func(p pair, series *model.Sample) {
		n, ok := samples[p]
		if v := float64(series.Value) * q.seconds; ok && !math.IsNaN(v) && (math.IsNaN(n.Tail) || v > n.Tail) {
			n.Tail = v
			samples[p] = n
		}
	}).show(q.Name + "/tail")
	s.joined(logger, q, j, q.Name+"/failed", a.failed, func(p pair, series *model.Sample) {
		if series.Value == 0 {
			return
		}
		at, ok := ofPair[p]
		switch {
		case !ok || at.After(now):
			at = now
		case now.Sub(at) > s.MaxAge: // it says nothing any more
			return
		}
		samples[p] = latency.Sample{From: p.from, To: p.to, Typical: math.NaN(), Tail: math.NaN(), At: at, Failed: true}
	}).show(q.Name + "/failed")

	// What cannot be used is reported, too, so that it is counted with its reason; the last good sample stays beside it.
	var bad []latency.Sample
	for p, n := range samples {
		_, reason := latency.Check(n, now, s.MaxAge)
		if reason != "" && reason != latency.ReasonFailed {
			typical.rejected++
			bad = append(bad, n)
			continue
		}
		of := s.known[p.from]
		if of == nil {
			of = map[string]latency.Sample{}
			if s.known == nil {
				s.known = map[string]map[string]latency.Sample{}
			}
			s.known[p.from] = of
		}
		if was, ok := of[p.to]; !ok || n.Failed || !n.At.Before(was.At) {
			of[p.to] = n
		}
	}
	typical.show(q.Name + "/typical")
	s.report(q, bad, update)
}

// prefer reports whether one of two series of a pair is the better: a valid one, then the newer, then the larger.
func prefer(n, was *latency.Sample, now time.Time, maxAge time.Duration) bool {
	_, bad := latency.Check(*n, now, maxAge)
	_, wasBad := latency.Check(*was, now, maxAge)
	if (bad == "") != (wasBad == "") {
		return bad == ""
	}
	return cmp.Or(n.At.Compare(was.At), cmp.Compare(n.Typical, was.Typical)) > 0
}

// fingerprint identifies a series by its labels without its name, which a function takes off.
func fingerprint(m model.Metric) model.Fingerprint {
	if _, ok := m[model.MetricNameLabel]; !ok {
		return m.Fingerprint()
	}
	m = m.Clone()
	delete(m, model.MetricNameLabel)
	return m.Fingerprint()
}

// forget drops what is too old, and what is of nodes that are gone, or are others by now.
func (s *Source) forget(j *Joiner, now time.Time, update source.Update) {
	other := func(name string) bool {
		uid, ok := j.uids[name]
		was, known := s.uids[name]
		return !ok || known && was != uid
	}
	for from, of := range s.known {
		gone := other(from)
		for to, n := range of {
			if gone || other(to) || now.Sub(n.At) > s.MaxAge {
				delete(of, to)
			}
		}
		if len(of) == 0 {
			delete(s.known, from)
			update(from, latency.Report{})
		}
	}
	s.uids = j.uids
}

// report reports all that is known, and what is bad.
func (s *Source) report(q *questions, bad []latency.Sample, update source.Update) {
	reports := make(map[string][]latency.Sample, len(s.known))
	for from, of := range s.known {
		for _, n := range of {
			reports[from] = append(reports[from], n)
		}
	}
	for _, n := range bad {
		reports[n.From] = append(reports[n.From], n)
	}
	for from, samples := range reports {
		slices.SortFunc(samples, func(a, b latency.Sample) int {
			return cmp.Or(strings.Compare(a.To, b.To), a.At.Compare(b.At))
		})
		update(from, latency.Report{Samples: samples, MaxAge: s.MaxAge, RankingOnly: q.RankingOnly})
	}
}
