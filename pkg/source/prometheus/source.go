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
	j := s.Cluster.Joiner()
	a, err := s.ask(ctx, logger, q, j)
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
	s.take(q, a, j, time.Now(), update)
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

// pair are two nodes by name.
type pair struct{ from, to string }

// joined is a series whose labels name two nodes, with what identifies it among those of other queries: a series takes a tenth of the memory so.
type joined struct {
	pair
	labels model.Fingerprint
	value  float64
}

// answers are what a refresh brought.
type answers struct{ typical, tail, failed, times []joined }

var errRefused = errors.New("refused")

// ask sends the queries of a refresh one after the other: their answers may be large. Without a tail it goes on; without what tells
// failed probes, or how old a measurement is, it does not. Times come first: what is measured between two queries is rather taken for too old.
func (s *Source) ask(ctx context.Context, logger klog.Logger, q *questions, j *Joiner) (*answers, error) {
	s.Client.Expect(len(j.names))
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
	for _, part := range []struct {
		name, promql string
		to           *[]joined
		optional     bool
	}{
		{"time", q.Time, &a.times, false},
		{"typical", q.Typical, &a.typical, false},
		{"failed", q.Failed, &a.failed, false},
		{"tail", q.Tail, &a.tail, true},
	} {
		if part.promql == "" {
			continue
		}
		name := q.Name + "/" + part.name
		v, err := s.query(ctx, logger, name, part.promql)
		switch {
		case err == nil:
			*part.to = s.join(logger, q, j, name, v)
		case !part.optional:
			return nil, err
		}
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

// join keeps the series whose labels name two nodes, and counts and logs the others.
func (s *Source) join(logger klog.Logger, q *questions, j *Joiner, name string, v model.Vector) []joined {
	source, target := model.LabelName(q.Source), model.LabelName(q.Target)
	all := make([]joined, 0, len(v))
	unjoined, label, example := 0, "", ""
	miss := func(l, value string) {
		if unjoined++; unjoined == 1 {
			label, example = l, value
		}
	}
	for _, series := range v {
		if series == nil {
			continue
		}
		from, ok := j.Node(string(series.Metric[source]), q.sourceRegexp)
		if !ok {
			miss(q.Source, string(series.Metric[source]))
			continue
		}
		to, ok := j.Node(string(series.Metric[target]), q.targetRegexp)
		if !ok {
			miss(q.Target, string(series.Metric[target]))
			continue
		}
		delete(series.Metric, model.MetricNameLabel) // a function takes it off
		all = append(all, joined{pair{from, to}, series.Metric.Fingerprint(), float64(series.Value)})
	}
	st := s.state(name)
	if unjoined > 0 && !st.unjoined {
		logger.Info("Series of Prometheus name no node of the cluster, and are left out: see how the labels are joined in docs/prometheus.md",
			"query", name, "series", len(v), "unjoined", unjoined, "label", label, "example", clip(example))
	}
	st.unjoined = unjoined > 0
	metrics.PrometheusSeries.WithLabelValues(name, "joined").Set(float64(len(all)))
	metrics.PrometheusSeries.WithLabelValues(name, "unjoined").Set(float64(unjoined))
	metrics.PrometheusSeries.WithLabelValues(name, "rejected").Set(0)
	return all
}

// take makes reports of a refresh's answers.
func (s *Source) take(q *questions, a *answers, j *Joiner, now time.Time, update source.Update) {
	s.forget(j, now, update)
	samples := s.samples(q, a, now)

	// What was measured of nodes that are gone is not of those that have their names now. What else cannot be used is reported, so that it is
	// counted with its reason; the last good sample stays beside it.
	var bad []latency.Sample
	others := 0
	for p, n := range samples {
		if !n.At.IsZero() && (j.before(n.At, p.from) || j.before(n.At, p.to)) {
			others++
			continue
		}
		_, reason := latency.Check(n, now, s.MaxAge)
		if reason != "" && reason != latency.ReasonFailed {
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
	metrics.PrometheusSeries.WithLabelValues(q.Name+"/typical", "joined").Sub(float64(len(bad) + others))
	metrics.PrometheusSeries.WithLabelValues(q.Name+"/typical", "rejected").Set(float64(len(bad) + others))
	s.report(q, bad, update)
}

// samples makes one sample a pair.
func (s *Source) samples(q *questions, a *answers, now time.Time) map[pair]latency.Sample {
	// The time of a series itself, where it has the same labels, else the newest of its pair.
	ofSeries := make(map[model.Fingerprint]time.Time, len(a.times))
	ofPair := make(map[pair]time.Time, len(a.times))
	for i := range a.times {
		e := &a.times[i]
		t, ok := unixTime(e.value)
		if !ok {
			continue
		}
		ofSeries[e.labels] = t
		if ofPair[e.pair].Before(t) {
			ofPair[e.pair] = t
		}
	}
	samples := make(map[pair]latency.Sample, len(a.typical))
	for i := range a.typical {
		e := &a.typical[i]
		at, ok := ofSeries[e.labels]
		if !ok {
			at = ofPair[e.pair]
		}
		n := latency.Sample{From: e.from, To: e.to, Typical: e.value * q.seconds, Tail: math.NaN(), At: at}
		if was, ok := samples[e.pair]; !ok || prefer(&n, &was, now, s.MaxAge) {
			samples[e.pair] = n
		}
	}
	for i := range a.tail {
		e := &a.tail[i]
		n, ok := samples[e.pair]
		if v := e.value * q.seconds; ok && !math.IsNaN(v) && (math.IsNaN(n.Tail) || v > n.Tail) {
			n.Tail = v
			samples[e.pair] = n
		}
	}
	for i := range a.failed {
		e := &a.failed[i]
		if e.value == 0 {
			continue
		}
		at, ok := ofPair[e.pair]
		switch {
		case !ok || at.After(now):
			at = now
		case now.Sub(at) > s.MaxAge: // it says nothing any more
			continue
		}
		samples[e.pair] = latency.Sample{From: e.from, To: e.to, Typical: math.NaN(), Tail: math.NaN(), At: at, Failed: true}
	}
	return samples
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
