// SPDX-License-Identifier: Apache-2.0

package promtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
)

const fast = 250 * time.Millisecond // between two scrapes

func startServer(t *testing.T, opts Options) *Server {
	t.Helper()
	opts.Dir, opts.ScrapeInterval = t.TempDir(), fast
	began := time.Now()
	s, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	t.Logf("Prometheus is ready after %v", time.Since(began).Round(time.Millisecond))
	return s
}

func startExporter(t *testing.T, text string) *Exporter {
	t.Helper()
	e, err := NewExporter(text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func child(t *testing.T, c *Child, err error) *Child {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

func awaitSeries(t *testing.T, s *Server, promQL string, want int) model.Vector {
	t.Helper()
	v, err := s.AwaitSeries(t.Context(), promQL, want)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func awaitValue(t *testing.T, s *Server, promQL string, want model.SampleValue) {
	t.Helper()
	_, err := s.Await(t.Context(), promQL, func(v model.Vector) error {
		if len(v) != 1 || v[0].Value != want {
			return fmt.Errorf("want one series of value %v", want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheRealExportersAreScraped(t *testing.T) {
	ctx := t.Context()
	c, err := StartNodeExporter(ctx, t.TempDir())
	node := child(t, c, err)
	c, err = StartBlackbox(ctx, t.TempDir(), "")
	blackbox := child(t, c, err)
	c, err = StartSmokeping(ctx, t.TempDir(), []string{"127.0.0.1", "127.0.0.2"})
	smokeping := child(t, c, err)
	web := startExporter(t, "answer 42\n")
	gone := startExporter(t, "")
	gone.Vanish()

	s := startServer(t, Options{Config: Config{Jobs: []Job{
		{Name: "node", Targets: []Target{{Address: node.Address(), Labels: map[string]string{"node": "a"}}}},
		{Name: "smokeping", Targets: []Target{{Address: smokeping.Address(), Labels: map[string]string{"node": "a"}}}},
		BlackboxJob("tcp", blackbox.Address(), "tcp",
			Target{Address: web.Address(), Labels: map[string]string{"target": "b"}}, Target{Address: gone.Address()}),
		BlackboxJob("icmp", blackbox.Address(), "icmp", Target{Address: "127.0.0.1"}, Target{Address: "127.0.0.2"}),
		BlackboxJob("http", blackbox.Address(), "http", Target{Address: "http://" + web.Address()}),
	}}})

	awaitSeries(t, s, `node_load1{node="a",instance="`+node.Address()+`"}`, 1)
	awaitSeries(t, s, `rate(node_cpu_seconds_total{cpu="0",mode="idle"}[5s])`, 1)
	v := awaitSeries(t, s, `smokeping_response_duration_seconds_count{node="a"} > 0`, 2)
	hosts := map[model.LabelValue]bool{}
	for _, sample := range v {
		hosts[sample.Metric["host"]] = true
	}
	if diff := cmp.Diff(map[model.LabelValue]bool{"127.0.0.1": true, "127.0.0.2": true}, hosts); diff != "" {
		t.Errorf("the hosts that answered (-want +got):\n%s", diff)
	}
	awaitSeries(t, s, `probe_success{job="tcp",instance="`+web.Address()+`",target="b"} == 1`, 1)
	awaitSeries(t, s, `probe_success{job="tcp",instance="`+gone.Address()+`"} == 0`, 1)
	awaitSeries(t, s, `probe_icmp_duration_seconds{phase="rtt"} > 0 and on (instance) probe_success{job="icmp"} == 1`, 2)
	awaitSeries(t, s, `probe_http_duration_seconds{phase="connect"} > 0 and on (instance) probe_success{job="http"} == 1`, 1)
	for _, c := range []*Child{s.Child, node, blackbox, smokeping} {
		rss, err := c.RSS()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d MiB resident", c.name, rss>>20)
	}

	// What a killed exporter had said turns stale with the next scrape, and is there again once it is.
	node.Kill()
	awaitSeries(t, s, `up{job="node"} == 0`, 1)
	awaitSeries(t, s, `node_load1`, 0)
	if err := node.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	awaitSeries(t, s, `node_load1{node="a",instance="`+node.Address()+`"}`, 1)
}

func TestAnExporterSaysWhatItIsTold(t *testing.T) {
	e := startExporter(t, "load{node=\"a\",job=\"theirs\"} 1\n")
	s := startServer(t, Options{Config: Config{Jobs: []Job{{
		Name: "ours", Path: "/probe", HonorLabels: true,
		Targets: []Target{{Address: e.Address(), Labels: map[string]string{"zone": "z"}}},
		Extra:   `metric_relabel_configs: [{source_labels: [node], target_label: host}]`,
	}}}})
	awaitSeries(t, s, `load{node="a",host="a",job="theirs",zone="z"} == 1`, 1)

	for _, state := range []struct {
		name        string
		enter       func()
		gone        bool // no request reaches the exporter
		leave       func() error
		valueBefore model.SampleValue
	}{
		{"fails", func() { e.Fail(http.StatusInternalServerError) }, false, nil, 2},
		{"hangs", e.Hang, false, nil, 3},
		{"sends what is no metric", func() { e.Set("load{node= 7\n") }, false, nil, 4},
		{"is gone", e.Vanish, true, e.Return, 5},
	} {
		t.Run(state.name, func(t *testing.T) {
			e.Set(fmt.Sprintf("load{node=\"a\"} %v\n", state.valueBefore))
			awaitValue(t, s, `load`, state.valueBefore)
			scrapes := e.Scrapes()
			state.enter()
			awaitSeries(t, s, `up == 0`, 1)
			awaitSeries(t, s, `load`, 0)
			if !state.gone && e.Scrapes() == scrapes {
				t.Error("the exporter was not asked meanwhile")
			}
			if state.leave != nil {
				if err := state.leave(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	awaitValue(t, s, `load`, 5)
}

func TestPrometheusDiesHangsAndComesBack(t *testing.T) {
	ctx := t.Context()
	e := startExporter(t, "load 1\n")
	s := startServer(t, Options{Config: Config{Jobs: []Job{{Name: "ours", Targets: []Target{{Address: e.Address()}}}}}})
	awaitValue(t, s, `load`, 1)
	url := s.URL()

	s.Kill()
	if _, err := s.Query(ctx, `load`); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a query of a killed Prometheus: %v, want the connection refused", err)
	}
	e.Set("load 2\n")
	began := time.Now()
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("Prometheus is ready again after %v", time.Since(began).Round(time.Millisecond))
	if s.URL() != url {
		t.Errorf("the address is %s after a restart, want %s", s.URL(), url)
	}
	awaitValue(t, s, `load`, 2)
	// It has kept what it knew.
	awaitValue(t, s, `min_over_time(load[1m])`, 1)

	if err := s.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	hurried, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := s.Query(hurried, `load`); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a query of a frozen Prometheus: %v, want no answer in time", err)
	}
	s.Thaw()
	awaitValue(t, s, `load`, 2)
}

func TestReload(t *testing.T) {
	ctx := t.Context()
	a, b := startExporter(t, "load 1\n"), startExporter(t, "load 2\n")
	s := startServer(t, Options{Config: Config{Jobs: []Job{{Name: "ours", Targets: []Target{{Address: a.Address()}}}}}})
	awaitValue(t, s, `load`, 1)

	if err := s.Reload(ctx, Config{Extra: "no_such_field: 1"}); err == nil || !strings.Contains(err.Error(), "no_such_field") {
		t.Errorf("a reload with an unknown field: %v, want it refused", err)
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatalf("the refused configuration stayed: %v", err)
	}
	a.Set("load 3\n") // so that the new process is seen to have scraped it: it would not mark as stale what the former one left
	awaitValue(t, s, `load`, 3)
	config := Config{ScrapeInterval: fast, Jobs: []Job{{Name: "ours", Targets: []Target{{Address: b.Address()}}}}}
	if err := s.Reload(ctx, config); err != nil {
		t.Fatal(err)
	}
	// The former target's series turns stale.
	awaitValue(t, s, `load`, 2)
}

func TestPrometheusHasAHistory(t *testing.T) {
	began := time.Now().Add(-3 * time.Hour)
	var history strings.Builder
	history.WriteString("# TYPE load gauge\n")
	for i := range 12 * 15 { // one a minute, until now
		fmt.Fprintf(&history, "load{job=\"ours\"} %d %d\n", i%2, began.Add(time.Duration(i)*time.Minute).Unix())
	}
	history.WriteString("# EOF\n")
	e := startExporter(t, "load 7\n")
	s := startServer(t, Options{
		Config:  Config{Jobs: []Job{{Name: "ours", Targets: []Target{{Address: e.Address()}}}}},
		History: history.String(),
	})
	awaitValue(t, s, `count_over_time(load{instance=""}[4h])`, 180)
	awaitValue(t, s, `avg_over_time(load{instance=""}[4h])`, 0.5)
	// What is scraped goes on from there.
	awaitValue(t, s, `load{instance!=""}`, 7)
}

func TestAnErrorSaysWhatWasSeenLast(t *testing.T) {
	e := startExporter(t, "load{node=\"a\"} 1\nload{node=\"b\"} 2\n")
	s := startServer(t, Options{Config: Config{Jobs: []Job{{Name: "ours", Targets: []Target{{Address: e.Address()}}}}}})
	awaitSeries(t, s, `load`, 2)
	hurried, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := s.AwaitSeries(hurried, `sum by (node) (load)`, 3)
	for _, want := range []string{"sum by (node) (load)", "want 3 series", `there are 2 series, {node="a"} 1, {node="b"} 2`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q in it", err, want)
		}
	}

	hurried, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if v, err := s.AwaitSeries(hurried, `load`, 1); err == nil {
		t.Errorf("waiting for one series of two returns %v, want an error", v)
	}

	// A Prometheus that cannot start says why, at once.
	_, err = Start(t.Context(), Options{Dir: t.TempDir(), Args: []string{"--no-such-flag"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("starting with an unknown flag: %v, want the reason", err)
	}
}
