// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/metrics"
)

// MaxBody bounds the answer to one query, 64 MiB: some 450,000 series with the names of two nodes each. In a small cluster the bound is
// lower, see Expect. Of an answer that is longer nothing is used.
const MaxBody = 64 << 20

const (
	// A series with the names of two nodes and a few more labels takes less than seriesBytes of JSON.
	seriesBytes = 256
	// leastBody lets any query that aggregates less than it should have its answer, in the smallest cluster.
	leastBody = 4 << 20

	// A query that was answered is not expected to have an answer of more than growth times that length, and smallBody on top, the next time.
	// One that is longer is a fault, and reading faults at full length costs CPU that scheduling lacks: so it is read so far in only one of
	// wholeEvery attempts, the third at first. One that is longer in good faith is taken up then.
	growth     = 4
	smallBody  = 1 << 20
	wholeEvery = 10
)

// Client asks one Prometheus. It is safe for concurrent use.
type Client struct {
	api     v1.API
	http    *http.Client
	timeout time.Duration
	limit   atomic.Int64 // of an answer, in bytes

	mu      sync.Mutex
	lengths map[string]length // by PromQL
}

// length is what is remembered of the answers to a query.
type length struct {
	good    int64 // bytes of the last one that was read to its end
	tooLong int   // attempts in a row that were longer than was taken
	warned  bool  // of what the server says of its own answer
}

// NewClient returns a client for a configuration that is valid. It sends nothing.
func NewClient(c *Config) (*Client, error) {
	rt, err := config.NewRoundTripperFromConfig(c.http(), "fogsched")
	if err != nil {
		return nil, err
	}
	return newClient(c.Address, c.Timeout.Duration, rt)
}

func newClient(address string, timeout time.Duration, rt http.RoundTripper) (*Client, error) {
	h := &http.Client{
		Transport: &bounded{rt},
		// A redirect would take the token, and the scheduler's trust, to a place that nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	a, err := api.NewClient(api.Config{Address: address, Client: h})
	if err != nil {
		return nil, err
	}
	client := &Client{api: v1.NewAPI(a), http: h, timeout: timeout, lengths: map[string]length{}}
	client.limit.Store(MaxBody)
	return client, nil
}

// Close closes the connections to the server. Whoever made the client calls it when its queries are through or cancelled: without it two
// goroutines a connection go on until the server hangs up.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Expect bounds the following answers by what a cluster of so many nodes can have to say: a series for each of all pairs, and with more than
// 512 nodes for 512 pairs a node. So what a server sends too much costs memory in proportion to the cluster.
func (c *Client) Expect(nodes int) {
	pairs := int64(nodes) * int64(min(nodes, 512))
	c.limit.Store(min(leastBody+pairs*seriesBytes, MaxBody))
}

// allowance returns how long the next answer to a query may be, in bytes.
func (c *Client) allowance(promql string) int64 {
	most := c.limit.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch l := c.lengths[promql]; {
	case l.good == 0 && l.tooLong == 0, l.tooLong%wholeEvery == 2:
		return most
	default:
		return min(most, growth*l.good+smallBody)
	}
}

// remember notes what became of a query whose answer was read to so many bytes.
func (c *Client) remember(promql string, read int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lengths[promql]
	switch {
	case err == nil:
		l.good, l.tooLong = read, 0
	case errors.Is(err, errTooLarge):
		l.tooLong++
	default:
		return
	}
	c.lengths[promql] = l
}

// Query evaluates an instant query and returns its series. name is what metrics call it. An answer that is no vector is an error.
func (c *Client) Query(ctx context.Context, name, promql string) (model.Vector, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errTimeout)
	defer cancel()
	start := time.Now()
	b := &budget{left: c.allowance(promql)}
	v, warnings, err := c.query(context.WithValue(ctx, budgetKey{}, b), promql)
	c.remember(promql, b.read.Load(), err)
	if err != nil && ctx.Err() != nil && context.Cause(ctx) == errTimeout { //nolint:errorlint // the very one
		err = fmt.Errorf("no whole answer within %s: %w", c.timeout, errTimeout)
	}
	metrics.PrometheusQueries.WithLabelValues(name, string(resultOf(nil))) // a query that never succeeds has 0 of these, not none
	metrics.PrometheusQueries.WithLabelValues(name, string(resultOf(err))).Inc()
	metrics.PrometheusQueryDuration.WithLabelValues(name).Observe(time.Since(start).Seconds())
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", name, err)
	}
	metrics.PrometheusQueryTimestamp.WithLabelValues(name).SetToCurrentTime()
	c.warn(ctx, name, promql, warnings)
	return v, nil
}

// warn logs what a server says of its own answer, once until it says nothing. Thanos and its like say so which of their stores are missing in it.
func (c *Client) warn(ctx context.Context, name, promql string, warnings v1.Warnings) {
	c.mu.Lock()
	l := c.lengths[promql]
	before := l.warned
	l.warned = len(warnings) > 0
	c.lengths[promql] = l
	c.mu.Unlock()
	if l.warned && !before {
		klog.FromContext(ctx).Info("Prometheus answers with a warning: some of what it should know may be missing", "query", name, "warnings", len(warnings),
			"first", clip(warnings[0]))
	}
}

func (c *Client) query(ctx context.Context, promql string) (v model.Vector, warnings v1.Warnings, err error) {
	// The answer is somebody else's: what its decoder makes of it must not stop the scheduler.
	defer func() {
		if p := recover(); p != nil {
			metrics.Panics.WithLabelValues("prometheus", "query").Inc()
			v, warnings, err = nil, nil, fmt.Errorf("decoding the answer: panic: %v", p)
		}
	}()
	value, warnings, err := c.api.Query(ctx, promql, time.Time{})
	var e *v1.Error
	if errors.As(err, &e) { // its Detail is the body, of any length
		return nil, nil, &serverError{typ: e.Type, text: clip(e.Msg)}
	}
	if err != nil {
		return nil, nil, err
	}
	v, ok := value.(model.Vector)
	if !ok {
		return nil, nil, fmt.Errorf("%w: the answer is a %s", errNoVector, value.Type())
	}
	return v, warnings, nil
}

// serverError is what a server said in place of an answer.
type serverError struct {
	typ  v1.ErrorType
	text string
}

func (e *serverError) Error() string { return string(e.typ) + ": " + e.text }

var (
	errTimeout  = errors.New("timeout")
	errTooLarge = errors.New("the answer is longer than a cluster of this size can need: aggregate it to one series a node or pair")
	errNoVector = errors.New("want one value for each series")
)

// Result is what became of a query, the label "result" of fogsched_prometheus_queries_total.
type Result string

// The results.
const (
	ResultOK          Result = "ok"
	ResultTimeout     Result = "timeout"
	ResultUnreachable Result = "unreachable" // no connection: refused, no route, TLS
	ResultRefused     Result = "refused"     // an HTTP status that is no answer: 4xx but a bad query, 5xx, a redirect
	ResultBadQuery    Result = "bad_query"   // Prometheus does not understand or will not execute it
	ResultBadAnswer   Result = "bad_answer"  // no JSON, no vector
	ResultTooLarge    Result = "too_large"   // above MaxBody
)

// Results lists every result, for metrics that start at 0.
func Results() []Result {
	return []Result{ResultOK, ResultTimeout, ResultUnreachable, ResultRefused, ResultBadQuery, ResultBadAnswer, ResultTooLarge}
}

func resultOf(err error) Result {
	var server *serverError
	var network net.Error
	switch {
	case err == nil:
		return ResultOK
	case errors.Is(err, errTimeout):
		return ResultTimeout
	case errors.Is(err, errTooLarge):
		return ResultTooLarge
	case errors.Is(err, errNoVector):
		return ResultBadAnswer
	case errors.As(err, &server):
		switch server.typ {
		case v1.ErrBadData, v1.ErrExec:
			return ResultBadQuery
		case v1.ErrBadResponse:
			if strings.HasPrefix(server.text, "bad response code") { // a redirect
				return ResultRefused
			}
			return ResultBadAnswer
		case v1.ErrTimeout, v1.ErrCanceled:
			return ResultTimeout
		default:
			return ResultRefused
		}
	case errors.As(err, &network):
		return ResultUnreachable
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return ResultUnreachable
	default:
		return ResultBadAnswer
	}
}

// clip shortens what a server says of itself to what a log line can hold.
func clip(s string) string {
	const most = 300
	s = strings.ToValidUTF8(s, "")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// budget is how much of an answer may still be read, and how much was. A request's context holds it. After a timeout the answer may still be
// read while the query has ended.
type budget struct {
	left int64
	read atomic.Int64
}

type budgetKey struct{}

// bounded is a RoundTripper whose answers end with an error at the budget's end.
type bounded struct{ next http.RoundTripper }

func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	budget, ok := r.Context().Value(budgetKey{}).(*budget)
	if !ok {
		response.Body.Close() //nolint:gosec // nothing was read
		return nil, errors.New("a request without a bound")
	}
	if response.ContentLength > budget.left {
		response.Body.Close() //nolint:gosec // nothing was read
		return nil, errTooLarge
	}
	response.Body = &boundedBody{response.Body, budget}
	return response, nil
}

// CloseIdleConnections is what http.Client asks of its transport.
func (b *bounded) CloseIdleConnections() {
	if c, ok := b.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

type boundedBody struct {
	io.ReadCloser
	*budget
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}
