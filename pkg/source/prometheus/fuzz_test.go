// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/store"
)

// roundTripper answers without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// FuzzAnswer has Prometheus answer whatever it likes: nothing panics, and no RTT comes of what has no good number, no good time, or failed.
func FuzzAnswer(f *testing.F) {
	fresh := vector(series("a b", ago(0)), series("b a", ago(0)), series("a c", ago(0)))
	for _, value := range []string{"20", "0", "-1", "-9223372036.85", "NaN", "+Inf", "-Inf", "1e308", "1e-308", "-0", "0x1p-2", "abc", ""} {
		f.Add(vector(series("a b", value)), "", "", fresh, 200)
	}
	f.Add(vector(series("a b", "20"), series("10.0.0.1 b", "21"), series("a:80 [::1]:1", "22")), vector(series("a b", "30")), "", fresh, 200)
	f.Add(vector(series("a b", "20")), "", vector(series("a b", "1")), fresh, 200)
	f.Add(vector(series("a b", "20")), "", "", vector(series("a b", ago(time.Hour))), 200)
	f.Add(vector(series("a b", "20")), "", "", vector(series("a b", "1e300")), 200)
	f.Add(`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"from":"a","to":"b"},"values":[[1,"20"]]}]}}`, "", "", fresh, 200)
	f.Add(`{"status":"success","data":{"resultType":"vector","result":[null,{"metric":null,"value":null}]}}`, "", "", fresh, 200)
	f.Add(`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"from":"a","to":"b"},"histogram":[1,{"count":"1","sum":"1","buckets":[]}]}]}}`, "", "", fresh, 200)
	f.Add(`{"status":"success","data":{"resultType":"scalar","result":[1,"20"]}}`, "", "", fresh, 200)
	f.Add(startOfVector+series("a b", "1"), "", "", fresh, 200)
	f.Add("<html>", "null", "[]", "{}", 200)
	f.Add(vector(series("a b", "20")), "", "", fresh, 503)
	f.Add(`{"status":"error","errorType":"bad_data","error":"no"}`, "", "", fresh, 400)
	for _, status := range []int{http.StatusNoContent, http.StatusMethodNotAllowed, http.StatusNotImplemented} {
		f.Add(vector(series("a b", "20")), "", "", fresh, status)
	}

	f.Fuzz(func(t *testing.T, typical, tail, failed, times string, status int) {
		if status < 200 || status > 599 {
			status = 200
		}
		answers := map[string]string{"typical": typical, "tail": tail, "failed": failed, "time": times}
		for name, a := range answers {
			if a == "" {
				answers[name] = vector()
			}
		}
		rt := roundTripper(func(r *http.Request) (*http.Response, error) {
			asked := r.URL.RawQuery
			if r.Body != nil { // a GET, which the client falls back to after 405 and 501, has none
				body, _ := io.ReadAll(r.Body)
				asked = string(body)
			}
			a := ""
			for name := range answers {
				if strings.Contains(asked, "query="+name) {
					a = answers[name]
				}
			}
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a)), Request: r}, nil
		})
		client, err := newClient("http://x", time.Second, rt)
		if err != nil {
			t.Fatal(err)
		}
		nodes, _ := cluster(t, node("a", "10.0.0.1"), node("b", "10.0.0.2"), node("c", "10.0.0.3"))
		k := take(t, &Source{
			Client: client, Cluster: nodes, Latencies: words(), Interval: time.Second, MaxAge: time.Minute,
		})
		panics := testutil.ToFloat64(metrics.Panics.WithLabelValues("prometheus", "query"))
		k.refresh()
		if after := testutil.ToFloat64(metrics.Panics.WithLabelValues("prometheus", "query")); after != panics {
			t.Fatalf("the decoder panicked at %q: %s", answers, k.log)
		}
		s := store.New(store.DefaultMaxAge, nil)
		for from, r := range k.reports {
			for _, sample := range r.Samples {
				for _, name := range []string{sample.From, sample.To} {
					if name != "a" && name != "b" && name != "c" {
						t.Fatalf("a sample of %q, which is no node", name)
					}
				}
				if _, reason := latency.Check(sample, time.Now(), r.MaxAge); reason == "" && !plausible(typical, times) {
					t.Fatalf("%+v of an answer without a number above 0 and a time", sample)
				}
			}
			s.Take("mesh", from, r, time.Now())
		}
		s.Build(t.Context(), time.Now())
	})
}

// plausible reports whether an answer has a number above 0 that may be a latency, and the times one that may be of this minute.
func plausible(typical, times string) bool {
	return anyValue(typical, func(v float64) bool { return v > 0 && v <= 60_000 }) &&
		anyValue(times, func(v float64) bool { return v > float64(time.Now().Add(-time.Hour).Unix()) })
}

func anyValue(answer string, ok func(float64) bool) bool {
	var a any
	if json.Unmarshal([]byte(answer), &a) != nil {
		return true // another decoder takes it, perhaps
	}
	var walk func(any) bool
	walk = func(v any) bool {
		switch v := v.(type) {
		case map[string]any:
			for _, e := range v {
				if walk(e) {
					return true
				}
			}
		case []any:
			for _, e := range v {
				if walk(e) {
					return true
				}
			}
		case string:
			n, err := strconv.ParseFloat(v, 64)
			return err == nil && ok(n)
		}
		return false
	}
	return walk(a)
}
