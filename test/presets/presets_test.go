// SPDX-License-Identifier: Apache-2.0

// Package presets tests the presets of pkg/source/prometheus on a real Prometheus. It scrapes the real blackbox_exporter, smokeping_prober and
// fogprobe, and for the other probers pages with the names, labels and failure values of their sources.
package presets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
	"github.com/fogsched/fogsched/test/program"
	"github.com/fogsched/fogsched/test/promtest"
)

const (
	scrape   = 500 * time.Millisecond
	refresh  = 500 * time.Millisecond
	maxAge   = 5 * time.Second
	patience = 40 * time.Second
)

// shorten makes windows of minutes ones of seconds, as many scrapes long as in a cluster.
var shorten = strings.NewReplacer("[5m:10s]", "[5s:500ms]", "[10m]", "[5s]", "offset 10m", "offset 5s", "[5m]", "[5s]", "[3m]", "[3s]", "offset 5m", "offset 5s")

// observer takes what a source reports.
type observer struct {
	setup *setup
	name  string

	mu         sync.Mutex
	reports    map[string]latency.Report
	refreshes  int
	violations []string
}

func (o *observer) update(from string, r latency.Report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if from == "alpha" {
		o.refreshes++
	}
	o.reports[from] = r
	if len(r.Samples) > 0 && r.RankingOnly != o.setup.ranking {
		o.violations = append(o.violations, fmt.Sprintf("rankingOnly is %v", r.RankingOnly))
	}
	for _, s := range r.Samples {
		e, reason := latency.Check(s, time.Now(), r.MaxAge)
		if reason != "" {
			continue
		}
		pair := s.From + "→" + s.To
		ms, _ := e.Typical.Micros()
		ms /= 1000
		if b, ok := o.setup.want[pair]; !ok || float64(ms) < b.least || float64(ms) > b.most {
			o.violations = append(o.violations, fmt.Sprintf("%s reads as %s", pair, e.Typical))
		}
	}
}

// known returns what is known of a pair: "known", a reason, or "nothing".
func (o *observer) known(pair string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	from, to := split(pair)
	what := "nothing"
	r := o.reports[from]
	for _, s := range r.Samples {
		if s.To != to {
			continue
		}
		_, reason := latency.Check(s, time.Now(), r.MaxAge)
		if reason == "" {
			return "known"
		}
		what = string(reason)
	}
	return what
}

func (o *observer) is(want string, pairs ...string) error {
	var errs []error
	for _, p := range pairs {
		if got := o.known(p); got != want {
			errs = append(errs, fmt.Errorf("%s is %s, want %s", p, got, want))
		}
	}
	return errors.Join(errs...)
}

func (o *observer) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refreshes
}

func (o *observer) found() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	slices.Sort(o.violations)
	return slices.Compact(o.violations)
}

func cluster(t *testing.T) *prometheus.Cluster {
	t.Helper()
	nodeIndexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	for name, ip := range nodes {
		n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: ip}}
		if name == "gamma" {
			n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: "fd00::13"})
		}
		if err := nodeIndexer.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	return &prometheus.Cluster{Nodes: corelisters.NewNodeLister(nodeIndexer)}
}

func TestPresets(t *testing.T) {
	if diff := cmp.Diff(prometheus.PresetNames(), slices.Sorted(maps.Keys(probers))); diff != "" {
		t.Fatalf("presets and their tests (-presets +tests):\n%s", diff)
	}
	setups := map[string]*setup{}
	options := promtest.Options{Dir: t.TempDir(), Config: promtest.Config{ScrapeInterval: scrape}}
	for _, name := range prometheus.PresetNames() {
		setups[name] = probers[name](t)
		options.Jobs = append(options.Jobs, setups[name].jobs...)
	}
	server, err := promtest.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	c := &prometheus.Config{Address: server.URL()}
	c.Default()
	client, err := prometheus.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	runs := map[string]*run{}
	for name, setup := range setups {
		runs[name] = start(t, client, cluster(t), name, setup)
	}
	// Each step is one of all presets, so that they wait together.
	for _, step := range []struct {
		name  string
		begin func(*run)
		check func(*run, *testing.T)
	}{
		{"measures", func(*run) {}, (*run).measures},
		{"hangs", (*run).hang, (*run).hangs},
		{"is gone", func(r *run) { r.setup.vanish() }, (*run).isGone},
		{"is refused", (*run).after, (*run).isRefused},
	} {
		for _, r := range runs {
			step.begin(r)
		}
		for _, name := range slices.Sorted(maps.Keys(runs)) {
			if step.name == "is refused" && setups[name].after == nil {
				continue
			}
			t.Run(name+" "+step.name, func(t *testing.T) { step.check(runs[name], t) })
		}
	}
	for name, r := range runs {
		r.stop()
		if v := r.found(); len(v) > 0 {
			t.Errorf("%s: what is no latency was taken for one:\n%s", name, strings.Join(v, "\n"))
		}
	}
}

// run is a source that runs on a preset.
type run struct {
	*observer
	source *prometheus.Source
	stop   func()
	good   []string // pairs that stay good
}

func start(t *testing.T, client *prometheus.Client, nodes *prometheus.Cluster, name string, setup *setup) *run {
	t.Helper()
	l := prometheus.Latencies{Preset: name}
	p, _ := prometheus.FindPreset(name)
	l.Typical, l.Tail, l.Failed, l.Time = shorten.Replace(p.Typical), shorten.Replace(p.Tail), shorten.Replace(p.Failed), shorten.Replace(p.Time)
	r := &run{
		observer: &observer{setup: setup, name: name, reports: map[string]latency.Report{}},
		source:   &prometheus.Source{Client: client, Cluster: nodes, Latencies: l, Interval: refresh, MaxAge: maxAge},
		good:     slices.DeleteFunc(slices.Sorted(maps.Keys(setup.want)), func(pair string) bool { return slices.Contains(setup.failed, pair) }),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.source.Run(ctx, r.update); err != nil {
			t.Errorf("the source %s ended: %v", name, err)
		}
	})
	r.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(r.stop)
	return r
}

// measures: the good pairs are known, the failed ones known as such, and it stays so.
func (r *run) measures(t *testing.T) {
	check := func() error {
		return errors.Join(r.is("known", r.good...), r.is(string(latency.ReasonFailed), r.setup.failed...))
	}
	r.await(t, check)
	from := r.count()
	r.await(t, func() error {
		if n := r.count() - from; n < 4 {
			return fmt.Errorf("%d refreshes", n)
		}
		return check()
	})
	if n := testutil.ToFloat64(metrics.PrometheusSeries.WithLabelValues(r.name+"/typical", "unjoined")); n < 1 {
		t.Error("no series is counted as unjoined, although one names no node")
	}
	if c := r.source.Condition(); !c.Ready {
		t.Errorf("condition %+v, want ready", c)
	}
}

func (r *run) hang() {
	if r.setup.stall != nil {
		r.setup.stall()
	}
}

// hangs: a prober does not measure any more, and is still scraped. Where it has no counters nothing tells, and the preset's notes say so.
func (r *run) hangs(t *testing.T) {
	if r.setup.stall == nil {
		t.Log("this prober has no counters: nothing tells")
		return
	}
	r.await(t, func() error { return r.ended("stalls→beta") })
}

func (r *run) isGone(t *testing.T) { r.await(t, func() error { return r.ended("vanishes→beta") }) }

func (r *run) ended(pair string) error {
	if r.known(pair) == "known" {
		return fmt.Errorf("%s is still known", pair)
	}
	return r.is("known", "alpha→beta")
}

func (r *run) after() {
	if r.setup.after != nil {
		r.setup.after()
	}
}

// isRefused: what there is now says nothing, and the condition says why.
func (r *run) isRefused(t *testing.T) {
	r.await(t, func() error {
		if c := r.source.Condition(); c.Reason != prometheus.Refused {
			return errors.New("it is not refused")
		}
		if r.known("alpha→beta") == "known" {
			return errors.New("the last latency is still known")
		}
		return nil
	})
}

// await waits until a check returns nil.
func (r *run) await(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := program.Poll(ctx, nil, func(context.Context) error { return check() }); err != nil {
		t.Fatalf("%v; condition %+v", err, r.source.Condition())
	}
}
