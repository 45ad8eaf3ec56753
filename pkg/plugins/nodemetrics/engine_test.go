// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2/ktesting"

	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

// fakeSource answers by a function, and counts.
type fakeSource struct {
	asked  atomic.Int32
	joiner sync.Map // those that it was given
	answer func(ctx context.Context, metric string) (map[string]float64, error)
}

func (s *fakeSource) NodeValues(ctx context.Context, q *prometheus.NodeQuery, j *prometheus.Joiner, _ time.Duration) (*prometheus.NodeValues, error) {
	s.asked.Add(1)
	s.joiner.Store(j, true)
	values, err := s.answer(ctx, q.Name)
	if err != nil {
		return nil, err
	}
	r := &prometheus.NodeValues{Nodes: map[string]prometheus.NodeValue{}}
	for name, v := range values {
		r.Nodes[name] = prometheus.NodeValue{Value: v, At: time.Now()}
	}
	return r, nil
}

// loop runs an engine whose interval is 30 s and whose values live for 100 s in a bubble of time.
func loop(t *testing.T, metrics string, answer func(ctx context.Context, metric string) (map[string]float64, error), test func(f *fixture, s *fakeSource)) {
	synctest.Test(t, func(t *testing.T) {
		_, ctx := ktesting.NewTestContext(t)
		ctx, cancel := context.WithCancel(ctx)
		f := newFixture(t, metrics, "a", "b")
		s := &fakeSource{answer: answer}
		f.engine.source = s
		f.engine.cluster.Nodes = corelisters.NewNodeLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil))
		var wg sync.WaitGroup
		wg.Go(func() { f.engine.run(ctx) })
		time.Sleep(time.Second) // the nodes' snapshot comes first
		test(f, s)
		cancel()
		wg.Wait()
	})
}

// A joiner may have a table of millions of pods.
func TestMetricsShareAJoiner(t *testing.T) {
	loop(t, shortLived+"- {preset: memory}\n- {preset: network}\n", func(context.Context, string) (map[string]float64, error) { return nil, nil }, func(f *fixture, s *fakeSource) {
		joiners := 0
		s.joiner.Range(func(any, any) bool { joiners++; return true })
		if asked := s.asked.Load(); asked != 3 || joiners != 1 {
			f.Errorf("%d queries have %d joiners, want 3 with 1", asked, joiners)
		}
	})
}

const shortLived = "- {preset: cpu, maxAge: 100s}\n"

func TestLoop(t *testing.T) {
	pod := makePod("p").obj()
	check := func(f *fixture, what, want string) {
		f.Helper()
		if got := f.schedule(pod).String(); got != want {
			f.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	t.Run("asks at once and then every interval", func(t *testing.T) {
		loop(t, shortLived, func(context.Context, string) (map[string]float64, error) {
			return map[string]float64{"a": 0.2, "b": 0.5}, nil
		}, func(f *fixture, s *fakeSource) {
			check(f, "at once", "a:100 b:70")
			time.Sleep(95 * time.Second)
			if got := s.asked.Load(); got != 4 {
				f.Errorf("asked %d times in 95 s, want 4", got)
			}
		})
	})
	t.Run("failures keep the last values until these are too old", func(t *testing.T) {
		var good atomic.Bool
		good.Store(true)
		loop(t, shortLived, func(context.Context, string) (map[string]float64, error) {
			if good.Load() {
				return map[string]float64{"a": 0.2, "b": 0.5}, nil
			}
			return nil, errors.New("down")
		}, func(f *fixture, _ *fakeSource) {
			good.Store(false)
			time.Sleep(98 * time.Second)
			check(f, "before they are too old", "a:100 b:70")
			time.Sleep(2 * time.Second)
			check(f, "after", "no scores")
			good.Store(true)
			time.Sleep(30 * time.Second)
			check(f, "within an interval of its recovery", "a:100 b:70")
		})
	})
	t.Run("a query that hangs holds up neither expiry nor other metrics nor the end", func(t *testing.T) {
		var hangs atomic.Bool
		loop(t, shortLived+"- {preset: memory, maxAge: 100s}\n", func(ctx context.Context, metric string) (map[string]float64, error) {
			if hangs.Load() && metric == "cpu" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return map[string]float64{"a": 0.2, "b": 0.5}, nil
		}, func(f *fixture, s *fakeSource) {
			hangs.Store(true)
			time.Sleep(101 * time.Second)
			check(f, "after the last values are too old", "no scores")
			if got := s.asked.Load(); got != 4 {
				f.Errorf("asked %d times, want no further query while one is under way", got)
			}
		})
	})
	t.Run("after an answer that took longer than the interval the next is asked for at once", func(t *testing.T) {
		loop(t, shortLived, func(ctx context.Context, _ string) (map[string]float64, error) {
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Second):
			}
			return map[string]float64{"a": 0.2, "b": 0.5}, nil
		}, func(f *fixture, s *fakeSource) {
			time.Sleep(50 * time.Second)
			if got := s.asked.Load(); got != 2 {
				f.Errorf("asked %d times in 51 s, want twice", got)
			}
		})
	})
	t.Run("a panic is counted and the next query is asked", func(t *testing.T) {
		var panics atomic.Bool
		panics.Store(true)
		counter := metrics.Panics.WithLabelValues(Name, "query")
		before := testutil.ToFloat64(counter)
		loop(t, shortLived, func(context.Context, string) (map[string]float64, error) {
			if panics.Load() {
				panic("as a bug would")
			}
			return map[string]float64{"a": 0.2, "b": 0.5}, nil
		}, func(f *fixture, _ *fakeSource) {
			check(f, "while it panics", "no scores")
			if got := testutil.ToFloat64(counter) - before; got != 1 {
				f.Errorf("%g panics were counted, want 1", got)
			}
			panics.Store(false)
			time.Sleep(31 * time.Second)
			check(f, "afterwards", "a:100 b:70")
		})
	})
	t.Run("a node that comes or grows is in a new snapshot soon", func(t *testing.T) {
		loop(t, shortLived, func(context.Context, string) (map[string]float64, error) {
			return map[string]float64{"a": 0.2, "b": 0.5}, nil
		}, func(f *fixture, _ *fakeSource) {
			f.engine.setNode(makeNode("c", 10))
			f.engine.setNode(makeNode("a", 20))
			time.Sleep(time.Second)
			s := f.engine.current.Load()
			if got, want := s.after(0, s.number("a"), 1.8), float32(0.3); len(s.names) != 3 || got < want-1e-6 || got > want+1e-6 {
				f.Errorf("%d nodes, a with %g, want 3 and %g", len(s.names), got, want)
			}
			f.engine.deleteNode("a")
			time.Sleep(time.Second)
			if s := f.engine.current.Load(); s.number("a") >= 0 || s.number("c") < 0 {
				f.Errorf("the nodes are %v, want b and c", s.names)
			}
		})
	})
}

// TestOverHTTP has the whole plugin ask a server that speaks Prometheus' API about nodes that an API server lists.
func TestOverHTTP(t *testing.T) {
	var broken atomic.Bool
	var queries sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.FormValue("query")
		queries.Store(query, true)
		if broken.Load() {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		now := float64(time.Now().UnixMilli()) / 1000
		values := map[string]string{"10.0.0.1:9100": "0.2", "10.0.0.2:9100": "0.5", "10.9.9.9:9100": "0"}
		if strings.Contains(query, "timestamp(") {
			for k := range values {
				values[k] = fmt.Sprint(now)
			}
		}
		var series []string
		for k, v := range values {
			series = append(series, fmt.Sprintf(`{"metric":{"instance":%q},"value":[%f,%q]}`, k, now, v))
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[%s]}}`, strings.Join(series, ","))
	}))
	defer server.Close()
	a, b := makeNode("a", 10), makeNode("b", 10)
	a.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.1"}}
	b.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.2"}}
	factory, _ := newFactory(a, b)
	h := &handle{factory: factory}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	args := func(address string) runtime.Object {
		return &runtime.Unknown{Raw: fmt.Appendf(nil, "prometheus: {address: %q, interval: 1s}\nmetrics:\n- {preset: cpu}\n- {preset: memory}\n", address)}
	}
	made, err := New(ctx, args(server.URL), h)
	if err != nil {
		t.Fatal(err)
	}
	p := made.(*NodeMetrics)
	again, err := New(ctx, args(server.URL), h)
	if err != nil || again.(*NodeMetrics).engine != p.engine {
		t.Errorf("two profiles with the same arguments do not share their data: %v", err)
	}
	// A port on which somebody listens and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	start := time.Now()
	other, err := New(ctx, args("http://"+silent.Addr().String()), h)
	if err != nil || other.(*NodeMetrics).engine == p.engine || time.Since(start) > time.Second {
		t.Errorf("with a silent Prometheus: %v after %s", err, time.Since(start))
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	f := &fixture{TB: t, plugin: p, engine: p.engine, handle: h}
	for _, n := range []*v1.Node{a, b} {
		f.infos = append(f.infos, &nodeInfo{node: n})
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("never: %s; scores are %s", what, f.schedule(makePod("p").obj()))
			}
		}
	}
	eventually("the values arrive", func() bool { return f.schedule(makePod("p").obj()).String() == "a:100 b:70" })
	for _, q := range p.engine.metrics {
		for _, text := range []string{q.query.Value, q.query.Time} {
			if _, ok := queries.Load(text); !ok {
				t.Errorf("%s was not asked", text)
			}
		}
	}
	p.engine.waker.Add(internal.Rejected{Pod: makePod("rejected").obj(), Handle: h, Acceptable: func(*v1.Pod) bool { return true }})
	eventually("a rejected pod is sent back", func() bool { return slices.Contains(h.takeActivated(), "default/rejected") })
	// The silent Prometheus holds up no cycle of the other profile.
	g := &fixture{TB: t, plugin: other.(*NodeMetrics), engine: other.(*NodeMetrics).engine, handle: h, infos: f.infos}
	start = time.Now()
	if got := g.schedule(makePod("p").obj()).String(); got != "no scores" || time.Since(start) > time.Second {
		t.Errorf("without an answer: %s after %s", got, time.Since(start))
	}
	broken.Store(true)
	failed := metrics.PrometheusQueries.WithLabelValues("cpu", string(prometheus.ResultRefused))
	before := testutil.ToFloat64(failed)
	eventually("failures are counted", func() bool { return testutil.ToFloat64(failed) >= before+2 })
	if got := f.schedule(makePod("p").obj()).String(); got != "a:100 b:70" {
		t.Errorf("while Prometheus fails: %s", got)
	}
}
