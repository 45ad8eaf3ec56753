// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/fogsched/fogsched/internal/testserver"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
)

// Every query of these latencies is a word, by which a test's server knows it.
func words() Latencies {
	return Latencies{Name: "mesh", Typical: "typical", Tail: "tail", Failed: "failed", Time: "time", Unit: "ms", Source: "from", Target: "to"}
}

// series writes one series of a vector; labels are "from to", value as JSON has it.
func series(labels, value string) string {
	from, to, _ := strings.Cut(labels, " ")
	return fmt.Sprintf(`{"metric":{"__name__":"rtt","from":%q,"to":%q},"value":[%d,%q]}`, from, to, time.Now().Unix(), value)
}

func vector(series ...string) string {
	return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(series, ",") + `]}}`
}

// ago is a Unix time as a time query brings it.
func ago(d time.Duration) string {
	return fmt.Sprintf("%.3f", float64(time.Now().Add(-d).UnixMilli())/1e3)
}

// fake is a Prometheus that answers each query with a text. An answer that is an HTTP handler takes its place.
type fake struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]any
	asked   []string
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{answers: map[string]any{}}
	f.Server = testserver.New(t, http.HandlerFunc(f.serve))
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	query := r.FormValue("query")
	f.mu.Lock()
	f.asked = append(f.asked, query)
	answer := f.answers[query]
	f.mu.Unlock()
	switch a := answer.(type) {
	case string:
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, a) //nolint:errcheck // the client may be gone
	case func(http.ResponseWriter, *http.Request):
		a(w, r)
	default:
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, vector()) //nolint:errcheck // see above
	}
}

func (f *fake) set(query string, answer any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[query] = answer
}

// healthy answers with one pair, a → b of 20 and 30 ms.
func (f *fake) healthy() {
	f.set("typical", vector(series("a b", "20")))
	f.set("tail", vector(series("a b", "30")))
	f.set("time", vector(series("a b", ago(time.Second))))
	f.set("failed", vector())
}

// taker is a source, and what it reported.
type taker struct {
	*Source
	t       testing.TB
	q       *questions
	reports map[string]latency.Report
	updates int
	log     *bytes.Buffer
	ctx     context.Context
}

func configOf(address string) *Config {
	c := &Config{Address: address}
	c.Default()
	return c
}

func newTaker(t testing.TB, c *Config, l Latencies) *taker {
	t.Helper()
	if errs := c.Validate(field.NewPath("prometheus")); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	client, err := NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	nodes, _ := cluster(t, node("a", "10.0.0.1"), node("b", "10.0.0.2"), node("c", "10.0.0.3"))
	s := &Source{Client: client, Cluster: nodes, Latencies: l, Interval: time.Second, MaxAge: 5 * time.Minute}
	return take(t, s)
}

func take(t testing.TB, s *Source) *taker {
	t.Helper()
	q, err := s.questions()
	if err != nil {
		t.Fatal(err)
	}
	log := &bytes.Buffer{}
	logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(log)))
	return &taker{Source: s, t: t, q: q, reports: map[string]latency.Report{}, log: log, ctx: klog.NewContext(t.Context(), logger)}
}

// refresh ticks once and returns what is known after it.
func (k *taker) refresh() string {
	k.t.Helper()
	before := testutil.ToFloat64(metrics.Panics.WithLabelValues("prometheus", "latencies"))
	k.tick(k.ctx, k.q, func(from string, r latency.Report) {
		k.updates++
		if len(r.Samples) == 0 {
			delete(k.reports, from)
		} else {
			k.reports[from] = r
		}
	})
	if after := testutil.ToFloat64(metrics.Panics.WithLabelValues("prometheus", "latencies")); after != before {
		k.t.Errorf("a panic: %s", k.log)
	}
	return k.known()
}

// known prints what the reports say, as the store would take it: "a→b 20ms 30ms".
func (k *taker) known() string {
	var all []string
	for from, r := range k.reports {
		if r.MaxAge != k.MaxAge {
			k.t.Errorf("the report of %s has the maximum age %s, want %s", from, r.MaxAge, k.MaxAge)
		}
		for _, s := range r.Samples {
			if s.From != from {
				k.t.Errorf("the report of %s has a sample of %s", from, s.From)
			}
			e, reason := latency.Check(s, time.Now(), r.MaxAge)
			switch reason {
			case "":
				all = append(all, fmt.Sprintf("%s→%s %s %s", s.From, s.To, e.Typical, e.Tail))
			default:
				all = append(all, fmt.Sprintf("%s→%s %s", s.From, s.To, reason))
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (k *taker) logged(text string) int { return strings.Count(k.log.String(), text) }

func TestTake(t *testing.T) {
	tests := map[string]struct {
		typical, tail, failed, times []string
		want                         string
	}{
		"a pair":                    {[]string{series("a b", "20")}, []string{series("a b", "30")}, nil, []string{series("a b", ago(time.Second))}, "a→b 20ms 30ms"},
		"pairs of two nodes":        {[]string{series("a b", "20"), series("b a", "21"), series("a c", "5")}, nil, nil, []string{series("a b", ago(0)), series("b a", ago(0)), series("a c", ago(0))}, "a→b 20ms unknown, a→c 5ms unknown, b→a 21ms unknown"},
		"by their addresses":        {[]string{series("10.0.0.1:99 10.0.0.2", "20")}, []string{series("10.0.0.1:98 b", "30")}, nil, []string{series("a b", ago(0))}, "a→b 20ms 30ms"},
		"without a time":            {[]string{series("a b", "20")}, nil, nil, nil, "a→b no_time"},
		"too old":                   {[]string{series("a b", "20")}, nil, nil, []string{series("a b", ago(6*time.Minute))}, "a→b expired"},
		"from the future":           {[]string{series("a b", "20")}, nil, nil, []string{series("a b", ago(-2*time.Minute))}, "a→b future"},
		"a time that is none":       {[]string{series("a b", "20")}, nil, nil, []string{series("a b", "NaN")}, "a→b no_time"},
		"a time in milliseconds":    {[]string{series("a b", "20")}, nil, nil, []string{series("a b", "1764093600000")}, "a→b no_time"},
		"0":                         {[]string{series("a b", "0")}, nil, nil, []string{series("a b", ago(0))}, "a→b not_positive"},
		"-1":                        {[]string{series("a b", "-1")}, nil, nil, []string{series("a b", ago(0))}, "a→b not_positive"},
		"-9.2e9":                    {[]string{series("a b", "-9223372036.85")}, nil, nil, []string{series("a b", ago(0))}, "a→b not_positive"},
		"NaN":                       {[]string{series("a b", "NaN")}, nil, nil, []string{series("a b", ago(0))}, "a→b nan"},
		"+Inf":                      {[]string{series("a b", "+Inf")}, nil, nil, []string{series("a b", ago(0))}, "a→b infinite"},
		"-Inf":                      {[]string{series("a b", "-Inf")}, nil, nil, []string{series("a b", ago(0))}, "a→b infinite"},
		"1e308":                     {[]string{series("a b", "1e308")}, nil, nil, []string{series("a b", ago(0))}, "a→b too_large"},
		"the unit is right":         {[]string{series("a b", "60001")}, nil, nil, []string{series("a b", ago(0))}, "a→b too_large"},
		"a bad tail":                {[]string{series("a b", "20")}, []string{series("a b", "NaN")}, nil, []string{series("a b", ago(0))}, "a→b 20ms unknown"},
		"a tail below the median":   {[]string{series("a b", "20")}, []string{series("a b", "10")}, nil, []string{series("a b", ago(0))}, "a→b 20ms unknown"},
		"to itself":                 {[]string{series("a a", "20")}, nil, nil, []string{series("a a", ago(0))}, "a→a self"},
		"nodes that are none":       {[]string{series("a z", "20"), series("z a", "20"), series("z", "1")}, nil, nil, []string{series("a z", ago(0))}, ""},
		"failed":                    {[]string{series("a b", "20")}, nil, []string{series("a b", "1")}, []string{series("a b", ago(0))}, "a→b failed"},
		"failed without a number":   {nil, nil, []string{series("a b", "1")}, nil, "a→b failed"},
		"failed is NaN":             {[]string{series("a b", "20")}, nil, []string{series("a b", "NaN")}, []string{series("a b", ago(0))}, "a→b failed"},
		"not failed":                {[]string{series("a b", "20")}, nil, []string{series("a b", "0")}, []string{series("a b", ago(0))}, "a→b 20ms unknown"},
		"failed long ago":           {nil, nil, []string{series("a b", "1")}, []string{series("a b", ago(time.Hour))}, ""},
		"one of two probers failed": {[]string{series("a b", "20")}, nil, []string{series("10.0.0.1 b", "0"), series("a b", "1")}, []string{series("a b", ago(0))}, "a→b failed"},
		"of two series the larger":  {[]string{series("a b", "20"), series("10.0.0.1 b", "25"), series("a:1 b", "22")}, nil, nil, []string{series("a b", ago(0))}, "a→b 25ms unknown"},
		"of two series the newer": {
			[]string{series("a b", "20"), series("10.0.0.1 b", "25")},
			nil, nil,
			[]string{series("a b", ago(0)), series("10.0.0.1 b", ago(time.Minute))},
			"a→b 20ms unknown",
		},
		"of two series the valid": {[]string{series("a b", "20"), series("10.0.0.1 b", "NaN"), series("a:1 b", "0")}, nil, nil, []string{series("a b", ago(0))}, "a→b 20ms unknown"},
		"of two tails the larger": {[]string{series("a b", "20")}, []string{series("a b", "50"), series("10.0.0.1 b", "40"), series("a:1 b", "NaN")}, nil, []string{series("a b", ago(0))}, "a→b 20ms 50ms"},
		"nothing":                 {nil, nil, nil, nil, ""},
	}
	f := newFake(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f.set("typical", vector(tt.typical...))
			f.set("tail", vector(tt.tail...))
			f.set("failed", vector(tt.failed...))
			f.set("time", vector(tt.times...))
			k := newTaker(t, configOf(f.URL), words())
			if got := k.refresh(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if c := k.Condition(); !c.Ready || c.Reason != Refreshed {
				t.Errorf("condition %+v, want ready", c)
			}
		})
	}
}

func TestOneQueryAStatistic(t *testing.T) {
	f := newFake(t)
	f.healthy()
	k := newTaker(t, configOf(f.URL), words())
	k.refresh()
	slices.Sort(f.asked)
	if diff := cmp.Diff([]string{"failed", "tail", "time", "typical"}, f.asked); diff != "" {
		t.Errorf("queries (-want +got):\n%s", diff)
	}
}

func TestRefreshes(t *testing.T) {
	f := newFake(t)
	f.healthy()
	f.set("typical", vector(series("a b", "20"), series("a c", "40"), series("b c", "50")))
	f.set("time", vector(series("a b", ago(0)), series("a c", ago(0)), series("b c", ago(0))))
	k := newTaker(t, configOf(f.URL), words())
	want := func(step, want string) {
		t.Helper()
		if got := k.refresh(); got != want {
			t.Errorf("%s: got %q, want %q", step, got, want)
		}
	}
	want("at first", "a→b 20ms 30ms, a→c 40ms unknown, b→c 50ms unknown")

	f.set("typical", vector(series("a b", "22")))
	want("a pair is missing", "a→b 22ms 30ms, a→c 40ms unknown, b→c 50ms unknown")

	f.set("typical", vector(series("a b", "NaN"), series("a c", "0")))
	want("a pair is no number", "a→b 22ms 30ms, a→b nan, a→c 40ms unknown, a→c not_positive, b→c 50ms unknown")

	f.set("failed", vector(series("a c", "1")))
	f.set("typical", vector(series("a b", "23"), series("a c", "39")))
	want("a pair failed", "a→b 23ms 30ms, a→c failed, b→c 50ms unknown")

	f.set("failed", vector())
	f.set("time", vector(series("a b", ago(10*time.Minute)), series("a c", ago(0))))
	want("a pair works again, another is too old", "a→b 23ms 30ms, a→b expired, a→c 39ms unknown, b→c 50ms unknown")

	k.MaxAge = time.Millisecond
	time.Sleep(2 * time.Millisecond) // what is known is older than that now
	f.set("typical", vector())
	updates := k.updates
	want("all is too old", "")
	if k.updates != updates+2 {
		t.Errorf("%d updates for two nodes that have nothing left", k.updates-updates)
	}
	want("it stays so", "")
	if k.updates != updates+2 {
		t.Errorf("withdrawn more than once: %d updates", k.updates-updates)
	}
}

func TestNodesThatGo(t *testing.T) {
	f := newFake(t)
	f.healthy()
	f.set("typical", vector(series("a b", "20"), series("b a", "21"), series("c a", "5")))
	f.set("time", vector(series("a b", ago(0)), series("b a", ago(0)), series("c a", ago(0))))
	k := newTaker(t, configOf(f.URL), words())
	nodes, indexer := cluster(t, node("a", "10.0.0.1"), node("b", "10.0.0.2"), node("c", "10.0.0.3"))
	k.Cluster = nodes
	if got, want := k.refresh(), "a→b 20ms 30ms, b→a 21ms unknown, c→a 5ms unknown"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	f.set("typical", vector(series("b a", "21"), series("c a", "5")))
	indexer.Delete(node("b")) //nolint:errcheck // of memory
	if got, want := k.refresh(), "c→a 5ms unknown"; got != want {
		t.Errorf("a node is gone: got %q, want %q", got, want)
	}
	f.set("typical", vector())
	other := node("c", "10.0.0.3")
	other.UID = "another"
	indexer.Update(other) //nolint:errcheck // of memory
	if got := k.refresh(); got != "" {
		t.Errorf("a node of the same name is another machine: got %q, want nothing", got)
	}
	// Prometheus looks back by minutes, at what was measured of the first one.
	other.CreationTimestamp.Time = time.Now().Add(-10 * time.Second)
	f.set("typical", vector(series("c a", "5"), series("a c", "6")))
	f.set("time", vector(series("c a", ago(20*time.Second)), series("a c", ago(20*time.Second))))
	if got := k.refresh(); got != "" {
		t.Errorf("what was measured before the node was made: got %q, want nothing", got)
	}
	if got := testutil.ToFloat64(metrics.PrometheusSeries.WithLabelValues("mesh/typical", "rejected")); got != 2 {
		t.Errorf("%g series are counted as rejected, want 2", got)
	}
	f.set("time", vector(series("c a", ago(0)), series("a c", ago(20*time.Second))))
	if got, want := k.refresh(), "c→a 5ms unknown"; got != want {
		t.Errorf("what was measured since: got %q, want %q", got, want)
	}
	f.set("time", vector(series("c a", ago(20*time.Second)), series("a c", ago(20*time.Second))))
	values, err := k.Client.NodeValues(t.Context(), &NodeQuery{Name: "mesh", Value: "typical", Time: "time", Label: "from"}, nodes.Joiner(), time.Minute)
	if err != nil || len(values.Nodes) != 1 || values.Nodes["a"].Value != 6 || values.Rejected != 1 {
		t.Errorf("%+v, %v: want the value of a alone, c's is its predecessor's", values, err)
	}
}

// A querier that misses some of its stores answers all the same, and says so.
func TestWarnings(t *testing.T) {
	f := newFake(t)
	f.healthy()
	k := newTaker(t, configOf(f.URL), words())
	partial := strings.Replace(vector(series("a b", "20")), `{`, `{"warnings":["receive series from Addr: 10.0.0.9:10901: connection refused"],`, 1)
	for i, answer := range []string{partial, partial, vector(series("a b", "20")), partial} {
		f.set("typical", answer)
		if got, want := k.refresh(), "a→b 20ms 30ms"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := k.logged("10.0.0.9:10901"), 1+i/3; got != want {
			t.Errorf("after %d answers it is logged %d times, want %d", 1+i, got, want)
		}
	}
}

// slowly writes a byte a tick until the request ends.
func slowly(tick time.Duration) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, b := range []byte(vector(series("a b", "1"))) {
			w.Write([]byte{b}) //nolint:errcheck // the client ends it
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(tick):
			}
		}
	}
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, strings.Repeat("no ", 1000), code) }
}

// endless writes as much as is taken, at most n bytes.
func endless(n int64, start string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, start) //nolint:errcheck // the client ends it
		chunk := []byte(strings.Repeat(series("a b", "1")+",", 1000))
		for n > 0 {
			m, err := w.Write(chunk)
			if n -= int64(m); err != nil {
				return
			}
		}
	}
}

const startOfVector = `{"status":"success","data":{"resultType":"vector","result":[`

func TestFaults(t *testing.T) {
	const timeout = 300 * time.Millisecond
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	hole, err := net.Listen("tcp", "127.0.0.1:0") // connections are made, and nobody takes them
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hole.Close() })
	var stolen atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		stolen.Store(true)
		io.WriteString(w, vector(series("a b", "1"))) //nolint:errcheck // a test's server
	}))
	t.Cleanup(thief.Close)
	promError := func(typ, text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprintf(w, `{"status":"error","errorType":%q,"error":%q}`, typ, text)
		}
	}
	data := func(typ, result string) string {
		return `{"status":"success","data":{"resultType":"` + typ + `","result":` + result + `}}`
	}
	tests := map[string]struct {
		address string // the healthy server's, which answers the query typical so
		answer  any
		want    Result
	}{
		"refused":            {address: "http://" + closed.Addr().String(), want: ResultUnreachable},
		"a black hole":       {address: "http://" + hole.Addr().String(), want: ResultTimeout},
		"one byte at a time": {answer: slowly(20 * time.Millisecond), want: ResultTimeout},
		"500":                {answer: status(500), want: ResultRefused},
		"503":                {answer: status(503), want: ResultRefused},
		"429":                {answer: status(429), want: ResultRefused},
		"401":                {answer: status(401), want: ResultRefused},
		"a redirect": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
		}, want: ResultRefused},
		"a redirect for good": {answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.URL, http.StatusMovedPermanently)
		}, want: ResultRefused},
		"ending amid the body": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, startOfVector) //nolint:errcheck // a test's server
		}, want: ResultUnreachable},
		"reset amid the body": {answer: func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, startOfVector) //nolint:errcheck // a test's server
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, want: ResultUnreachable},
		"a matrix":                 {answer: data("matrix", `[{"metric":{"from":"a","to":"b"},"values":[[1,"20"]]}]`), want: ResultBadAnswer},
		"a string":                 {answer: data("string", `[1,"20"]`), want: ResultBadAnswer},
		"a scalar":                 {answer: data("scalar", `[1,"20"]`), want: ResultBadAnswer},
		"a type that is none":      {answer: data("tensor", `[]`), want: ResultBadAnswer},
		"truncated JSON":           {answer: startOfVector + series("a b", "1"), want: ResultBadAnswer},
		"no JSON":                  {answer: "<html>login</html>", want: ResultBadAnswer},
		"an empty body":            {answer: "", want: ResultBadAnswer},
		"null":                     {answer: "null", want: ResultBadAnswer},
		"another JSON":             {answer: `{"status":"success","data":[1,2,3]}`, want: ResultBadAnswer},
		"values that are none":     {answer: vector(`{"metric":{"from":"a","to":"b"},"value":[1,"abc"]}`), want: ResultBadAnswer},
		"deep JSON":                {answer: strings.Repeat("[", 100_000), want: ResultBadAnswer},
		"a query that is wrong":    {answer: promError("bad_data", "parse error: "+strings.Repeat("x", 5000)), want: ResultBadQuery},
		"a query that is too much": {answer: promError("execution", "query processing would load too many samples"), want: ResultBadQuery},
		"a timeout of the server":  {answer: promError("timeout", "query timed out"), want: ResultTimeout},
		"a length of 1 GB": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1073741824")
			io.WriteString(w, startOfVector) //nolint:errcheck // a test's server
		}, want: ResultTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.healthy()
			name := strings.ToLower(strings.NewReplacer(" ", "-").Replace(name))
			l := words()
			l.Name = name
			k := newTaker(t, configOf(f.URL), l)
			const good = "a→b 20ms 30ms"
			if got := k.refresh(); got != good {
				t.Fatalf("at first: got %q, want %q", got, good)
			}
			working := k.Client
			c := configOf(f.URL)
			if tt.address != "" {
				c.Address = tt.address
			} else {
				f.set("typical", tt.answer)
			}
			if tt.want == ResultTimeout { // else a busy machine would run into it
				c.Timeout.Duration = timeout
			}
			var err error
			if k.Client, err = NewClient(c); err != nil {
				t.Fatal(err)
			}
			updates := k.updates
			for range 3 {
				start := time.Now()
				if got := k.refresh(); got != good {
					t.Errorf("got %q, want the last good %q", got, good)
				}
				if took := time.Since(start); tt.want == ResultTimeout && took > 10*timeout {
					t.Errorf("a refresh took %s with a timeout of %s", took, timeout)
				}
			}
			if k.updates != updates {
				t.Errorf("a refresh that failed reported %d times", k.updates-updates)
			}
			if c := k.Condition(); c.Ready || c.Reason != Failing || c.Message == "" || len(c.Message) > 600 {
				t.Errorf("condition %+v (%d bytes), want Failing with a short message", c, len(c.Message))
			}
			query := name + "/typical"
			if tt.address != "" {
				query = name + "/time"
			}
			if n := testutil.ToFloat64(metrics.PrometheusQueries.WithLabelValues(query, string(tt.want))); n != 3 {
				t.Errorf("%g queries counted as %s, want 3: %s", n, tt.want, k.Condition().Message)
			}
			if n := k.logged("Prometheus does not answer"); n != 1 {
				t.Errorf("logged %d times that Prometheus does not answer, want once:\n%s", n, k.log)
			}
			k.Client = working
			f.healthy()
			f.set("typical", vector(series("a b", "21")))
			if got, want := k.refresh(), "a→b 21ms 30ms"; got != want {
				t.Errorf("once it works again: got %q, want %q", got, want)
			}
			if n := k.logged("Prometheus answers again"); n != 1 || !k.Condition().Ready {
				t.Errorf("logged %d times that Prometheus answers again, want once; condition %+v", n, k.Condition())
			}
		})
	}
	t.Cleanup(func() {
		if stolen.Load() {
			t.Error("a redirect was followed")
		}
	})
}

func TestPartialFailures(t *testing.T) {
	for query, want := range map[string]string{
		"tail":   "a→b 21ms unknown",
		"failed": "a→b 20ms 30ms",
		"time":   "a→b 20ms 30ms",
	} {
		t.Run(query, func(t *testing.T) {
			f := newFake(t)
			f.healthy()
			k := newTaker(t, configOf(f.URL), words())
			k.refresh()
			f.set("typical", vector(series("a b", "21")))
			f.set(query, status(500))
			if got := k.refresh(); got != want {
				t.Errorf("without %s: got %q, want %q", query, got, want)
			}
		})
	}
}

// TestMemory has a server that would fill the memory: of what is too long nothing is used, and what is as long as allowed costs a known share.
func TestMemory(t *testing.T) {
	tests := map[string]struct {
		answer any
		want   Result
		most   uint64 // bytes of heap
	}{
		"1 GB":                       {endless(1<<30, startOfVector), ResultTooLarge, 256 << 20},
		"without an end":             {endless(math.MaxInt64, startOfVector), ResultTooLarge, 256 << 20},
		"one label without an end":   {endless(1<<30, startOfVector+`{"metric":{"from":"`), ResultTooLarge, 256 << 20},
		"as many series as may come": {vector(slices.Repeat([]string{series("node-12345.example node-54321.example", "1")}, 210_000)...), ResultOK, 512 << 20},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.set("typical", tt.answer)
			c := configOf(f.URL)
			c.Timeout.Duration = 20 * time.Second // the race detector is slow
			l := words()
			l.Name = strings.ReplaceAll(strings.ToLower(name), " ", "-")
			k := newTaker(t, c, l)
			var nodes []any
			for i := range 300 { // whose answers may be of 26 MiB
				nodes = append(nodes, node(fmt.Sprint("node-", i)))
			}
			k.Cluster, _ = cluster(t, nodes...)
			runtime.GC()
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			var peak atomic.Uint64
			done := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					runtime.ReadMemStats(&now)
					peak.Store(max(peak.Load(), now.HeapAlloc))
					select {
					case <-done:
						return
					case <-time.After(5 * time.Millisecond):
					}
				}
			})
			if got := k.refresh(); got != "" {
				t.Errorf("got %q, want nothing", got)
			}
			close(done)
			wg.Wait()
			used := peak.Load() - min(peak.Load(), before.HeapAlloc)
			t.Logf("%d MiB of heap at most", used>>20)
			if used > tt.most {
				t.Errorf("%d MiB of heap, want at most %d", used>>20, tt.most>>20)
			}
			if n := testutil.ToFloat64(metrics.PrometheusQueries.WithLabelValues(l.Name+"/typical", string(tt.want))); n != 1 {
				t.Errorf("%g queries counted as %s, want 1; condition %+v", n, tt.want, k.Condition())
			}
		})
	}
}

func TestUnjoinedIsLoggedOnce(t *testing.T) {
	f := newFake(t)
	f.healthy()
	k := newTaker(t, configOf(f.URL), words())
	const text = "name no node of the cluster"
	f.set("typical", vector(series("a b", "20"), series("a z1", "1"), series("z2 a", "1"), series("a c", "0")))
	for range 3 {
		k.refresh()
	}
	if n := k.logged(text); n != 1 || k.logged(`example="z1"`) != 1 {
		t.Errorf("logged %d times, want once with an example:\n%s", n, k.log)
	}
	for state, want := range map[string]float64{"joined": 1, "unjoined": 2, "rejected": 1} {
		if got := testutil.ToFloat64(metrics.PrometheusSeries.WithLabelValues("mesh/typical", state)); got != want {
			t.Errorf("%g series are %s, want %g", got, state, want)
		}
	}
	f.healthy()
	k.refresh()
	f.set("typical", vector(series("a z3", "1")))
	k.refresh()
	k.refresh()
	if n := k.logged(text); n != 2 {
		t.Errorf("logged %d times, want once more since all were joined in between:\n%s", n, k.log)
	}
}

func TestRefusesCilium(t *testing.T) {
	f := newFake(t)
	p := presets["cilium"]
	k := newTaker(t, configOf(f.URL), Latencies{Preset: "cilium"})
	f.set(p.Refuse, vector(`{"metric":{},"value":[1,"13"]}`))
	f.set(k.q.Typical, vector(`{"metric":{"source_node_name":"a","target_node_name":"b"},"value":[1,"0.02"]}`))
	for range 2 {
		if got := k.refresh(); got != "" {
			t.Errorf("got %q, want nothing", got)
		}
	}
	if c := k.Condition(); c.Ready || c.Reason != Refused || !strings.Contains(c.Message, "does not say which node was measured") {
		t.Errorf("condition %+v, want Refused with the reason", c)
	}
	if n := k.logged("are refused"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, k.log)
	}
	if slices.Contains(f.asked, k.q.Typical) {
		t.Error("asked for latencies that it refuses")
	}
	f.set(p.Refuse, vector())
	k.refresh()
	if c := k.Condition(); !c.Ready {
		t.Errorf("condition %+v once the old metric is back, want ready", c)
	}
}

func TestAdvice(t *testing.T) {
	f := newFake(t)
	k := newTaker(t, configOf(f.URL), Latencies{Preset: "kube-latency"})
	f.set(k.q.Typical, vector(`{"metric":{"source_node_name":"a","dest_node_name":"b","quantile":"0.5"},"value":[1,"0.2"]}`))
	f.set(k.q.Time, vector(`{"metric":{"source_node_name":"a","dest_node_name":"b"},"value":[1,"`+ago(0)+`"]}`))
	for range 3 {
		if got, want := k.refresh(), "a→b 200ms unknown"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if !k.reports["a"].RankingOnly {
		t.Error("what kube-latency says is reported as RTTs")
	}
	if n := k.logged("Run fogprobe"); n != 1 {
		t.Errorf("advised %d times, want once", n)
	}
}

func TestRunRecoversFromPanics(t *testing.T) {
	f := newFake(t)
	f.healthy()
	k := newTaker(t, configOf(f.URL), words())
	before := testutil.ToFloat64(metrics.Panics.WithLabelValues("prometheus", "latencies"))
	k.Interval = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	err := k.Run(ctx, func(string, latency.Report) {
		if calls++; calls < 3 {
			panic("a bug")
		}
		cancel()
	})
	if n := testutil.ToFloat64(metrics.Panics.WithLabelValues("prometheus", "latencies")) - before; err != nil || calls != 3 || n != 2 {
		t.Errorf("%d calls, %g panics counted, %v; want 3, 2, nil", calls, n, err)
	}
}

func TestRunNeedsItsParts(t *testing.T) {
	f := newFake(t)
	good := newTaker(t, configOf(f.URL), words())
	for name, change := range map[string]func(*Source){
		"a client": func(s *Source) { s.Client = nil }, "a cluster": func(s *Source) { s.Cluster = nil }, "an interval": func(s *Source) { s.Interval = 0 },
		"an age": func(s *Source) { s.MaxAge = 0 }, "a query": func(s *Source) { s.Typical = "" },
	} {
		s := &Source{Client: good.Client, Cluster: good.Cluster, Latencies: words(), Interval: 1, MaxAge: 1}
		change(s)
		if err := s.Run(t.Context(), nil); err == nil {
			t.Errorf("it runs without %s", name)
		}
	}
}

// authority signs certificates for 127.0.0.1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) issue(t *testing.T, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "prometheus"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestTLSAndToken(t *testing.T) {
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	var certificate atomic.Pointer[tls.Certificate]
	var token atomic.Value
	token.Store("one")
	use := func(c tls.Certificate) { certificate.Store(&c) }
	use(first.issue(t, time.Now().Add(time.Hour)))
	f := &fake{answers: map[string]any{}}
	f.healthy()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.Header.Get("Authorization"), "Bearer "+token.Load().(string); got != want {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		f.serve(w, r)
	}))
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*certificate.Load()}}, nil
	}}
	server.StartTLS()
	t.Cleanup(server.Close)

	dir := t.TempDir()
	c := &Config{Address: server.URL, CAFile: filepath.Join(dir, "ca.pem"), TokenFile: filepath.Join(dir, "token"), Timeout: metav1.Duration{Duration: 2 * time.Second}}
	write := func(path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(c.CAFile, first.pem())
	write(c.TokenFile, []byte("one\n"))
	c.Default()
	k := newTaker(t, c, words())
	ask := func(step string, ready bool) {
		t.Helper()
		server.CloseClientConnections()
		k.refresh()
		if got := k.Condition(); got.Ready != ready {
			t.Errorf("%s: condition %+v, want ready %v", step, got, ready)
		}
		if strings.Contains(k.log.String(), "one") && strings.Contains(k.log.String(), "Bearer") {
			t.Errorf("%s: the log shows the token", step)
		}
	}
	ask("at first", true)
	token.Store("two")
	ask("the token is another", false)
	write(c.TokenFile, []byte("two\n"))
	ask("the token's file is another", true)
	use(first.issue(t, time.Now().Add(-time.Minute)))
	ask("the certificate is expired", false)
	if c := k.Condition(); !strings.Contains(c.Message, "expired") {
		t.Errorf("condition %+v, want expired in it", c)
	}
	use(second.issue(t, time.Now().Add(time.Hour)))
	ask("the certificate is of another authority", false)
	write(c.CAFile, second.pem())
	ask("the authority's file is another", true)
}
