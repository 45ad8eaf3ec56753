// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"context"
	"math"
	"regexp"
	"time"

	"github.com/prometheus/common/model"

	"github.com/fogsched/fogsched/pkg/metrics"
)

// NodeQuery asks for one value a node.
type NodeQuery struct {
	// Name is what metrics and logs call it.
	Name string
	// Value is the PromQL of the values. Time is that of the Unix times, in seconds, of what they rest on, with the same labels; "" stands for
	// timestamp(Value), which is right where Value is a plain selector, and else the time of the query.
	Value, Time string
	// Label is the label that names the node; Regexp, which may be nil, finds the node's name in it as its first group: see Joiner.Node.
	Label  string
	Regexp *regexp.Regexp
	// Worse, where it is not nil, chooses among several series of one node that are of the same time. Default: the greater.
	Worse func(a, b float64) bool
}

// NodeValue is what Prometheus knows of a node: a finite number, and the time of the newest sample behind it.
type NodeValue struct {
	Value float64
	At    time.Time
}

// NodeValues is what a query brought, by the nodes' names.
type NodeValues struct {
	Nodes map[string]NodeValue
	// Unjoined is how many series stand for no node, Example the value of one's label.
	Unjoined int
	Example  string
	// Rejected is how many had no finite number, or no time, or one outside of what is taken, as before the node was made.
	Rejected int
}

// NodeValues evaluates a query. What is older than maxAge at the time now, or from the future, is left out.
func (c *Client) NodeValues(ctx context.Context, q *NodeQuery, j *Joiner, maxAge time.Duration) (*NodeValues, error) {
	c.Expect(j.Len())
	values, err := c.Query(ctx, q.Name, q.Value)
	if err != nil {
		return nil, err
	}
	timeQuery := q.Time
	if timeQuery == "" {
		timeQuery = "timestamp(" + q.Value + "\n)" // a comment may end the query
	}
	times, err := c.Query(ctx, q.Name, timeQuery)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	at := make(map[string]time.Time, len(times))
	for _, s := range times {
		if t, ok := unixTime(float64(s.Value)); ok {
			if node, ok := j.Node(string(s.Metric[model.LabelName(q.Label)]), q.Regexp); ok && at[node].Before(t) {
				at[node] = t
			}
		}
	}
	r := &NodeValues{Nodes: make(map[string]NodeValue, len(values))}
	for _, s := range values {
		label := string(s.Metric[model.LabelName(q.Label)])
		node, ok := j.Node(label, q.Regexp)
		if !ok {
			r.Unjoined++
			r.Example = label
			continue
		}
		v := float64(s.Value)
		t := at[node]
		if math.IsNaN(v) || math.IsInf(v, 0) || t.IsZero() || now.Sub(t) > maxAge || t.Sub(now) > maxClockSkew || j.before(t, node) {
			r.Rejected++
			continue
		}
		if was, ok := r.Nodes[node]; ok && !worse(q, v, was.Value) {
			continue
		}
		r.Nodes[node] = NodeValue{v, t}
	}
	metrics.PrometheusSeries.WithLabelValues(q.Name, "joined").Set(float64(len(values) - r.Unjoined - r.Rejected))
	metrics.PrometheusSeries.WithLabelValues(q.Name, "unjoined").Set(float64(r.Unjoined))
	metrics.PrometheusSeries.WithLabelValues(q.Name, "rejected").Set(float64(r.Rejected))
	return r, nil
}

const maxClockSkew = time.Minute

func worse(q *NodeQuery, a, b float64) bool {
	if q.Worse != nil {
		return q.Worse(a, b)
	}
	return a > b
}

// unixTime turns the value of a timestamp() into a time; ok is false for what can be none.
func unixTime(seconds float64) (t time.Time, ok bool) {
	if !(seconds > 0 && seconds < 1<<33) { // NaN too
		return time.Time{}, false
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)), true
}
