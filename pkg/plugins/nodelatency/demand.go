// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/index"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

// demands are the per-node weights that the administrator defined, by the names that policies call them. Reading takes no lock.
type demands struct {
	queries []prometheus.NodeQuery
	client  *prometheus.Client
	cluster prometheus.Cluster
	// interval is the time between two rounds of queries, maxAge the age above which a weight is unknown.
	interval, maxAge time.Duration
	values           map[string]*atomic.Pointer[demandValues] // the keys never change
}

// demandValues is what is known of one demand, immutable.
type demandValues struct {
	nodes map[string]prometheus.NodeValue // each at least 0
	// failing is the error of the last query, "" where it was answered; for the log, which tells of changes.
	failing string
	told    bool // of series that name no node
}

func newDemands(args []DemandArgs) *demands {
	d := &demands{values: make(map[string]*atomic.Pointer[demandValues], len(args))}
	for i := range args {
		d.queries = append(d.queries, args[i].query())
		d.values[args[i].Name] = &atomic.Pointer[demandValues]{}
		d.values[args[i].Name].Store(&demandValues{})
	}
	return d
}

// run asks until ctx ends.
func (d *demands) run(ctx context.Context) {
	ticker := time.NewTicker(d.interval)
	defer ticker.Stop()
	for {
		for i := range d.queries {
			d.refresh(ctx, &d.queries[i])
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// refresh asks for one demand. What is not answered keeps its last values until they are too old.
func (d *demands) refresh(ctx context.Context, q *prometheus.NodeQuery) {
	logger := klog.FromContext(ctx)
	defer func() {
		if p := recover(); p != nil {
			metrics.Panics.WithLabelValues(Name, "demand").Inc()
			logger.Error(nil, "Recovered a panic while asking for a demand; it keeps its last values", "demand", q.Name, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	name := q.Name[len(demandPrefix):]
	pointer := d.values[name]
	was := pointer.Load()
	now := &demandValues{nodes: was.nodes, told: was.told}
	answer, err := d.client.NodeValues(ctx, q, d.cluster.Joiner(), d.maxAge)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		now.failing = err.Error()
		if was.failing == "" {
			logger.Error(err, "Prometheus does not tell a demand; the last values are used until they are too old, and then all clients count the same", "demand", name)
		}
	default:
		if was.failing != "" {
			logger.Info("Prometheus tells the demand again", "demand", name, "nodes", len(answer.Nodes))
		}
		if answer.Unjoined > 0 && !was.told {
			logger.Info("Series of a demand name no node of the cluster", "demand", name, "series", answer.Unjoined, "label", q.Label, "example", answer.Example)
		}
		now.told = answer.Unjoined > 0
		// Of whom the answer says nothing good, the last value stays until it is too old.
		now.nodes = maps.Clone(was.nodes)
		if now.nodes == nil {
			now.nodes = map[string]prometheus.NodeValue{}
		}
		for node, v := range answer.Nodes {
			if v.Value >= 0 && !v.At.Before(now.nodes[node].At) {
				now.nodes[node] = v
			}
		}
	}
	old := time.Now().Add(-d.maxAge)
	stale := func(_ string, v prometheus.NodeValue) bool { return v.At.Before(old) }
	if anyOf(now.nodes, stale) {
		now.nodes = maps.Clone(now.nodes)
		maps.DeleteFunc(now.nodes, stale)
	}
	pointer.Store(now)
}

func anyOf[K comparable, V any](m map[K]V, f func(K, V) bool) bool {
	for k, v := range m {
		if f(k, v) {
			return true
		}
	}
	return false
}

// knowledge says what there is of a demand.
type knowledge struct {
	defined      bool
	known, nodes int // of the nodes that were asked about
}

// weigh returns how much each of the nodes demands, in shares of what the greatest of them does; nil where that is known of none, or nothing is demanded anywhere: then all clients
// count the same. A node of which nothing is known counts as the median of the others, since no traffic is not what
// an exporter that is down says.
func (d *demands) weigh(name string, nodes []index.NodeCount) (map[string]float32, knowledge) {
	var pointer *atomic.Pointer[demandValues]
	if d != nil {
		pointer = d.values[name]
	}
	if pointer == nil {
		return nil, knowledge{}
	}
	values := pointer.Load().nodes
	weights := make(map[string]float32, len(nodes))
	most := 0.0
	for _, n := range nodes {
		most = max(most, values[n.Node].Value)
	}
	known := make([]float32, 0, len(nodes))
	for _, n := range nodes {
		if _, ok := weights[n.Node]; ok {
			continue
		}
		if v, ok := values[n.Node]; ok {
			// In shares of the greatest: no unit is too large to add them up.
			w := float32(v.Value / max(most, math.SmallestNonzeroFloat64))
			known = append(known, w)
			weights[n.Node] = w
		} else {
			weights[n.Node] = -1
		}
	}
	k := knowledge{defined: true, known: len(known), nodes: len(weights)}
	if most == 0 {
		return nil, k
	}
	slices.Sort(known)
	median := known[len(known)/2]
	for n, w := range weights {
		if w < 0 {
			weights[n] = median
		}
	}
	return weights, k
}

// demandOf is weigh, counted.
func (e *engine) demandOf(name string, nodes []index.NodeCount) map[string]float32 {
	weights, k := e.demands.weigh(name, nodes)
	switch {
	case !k.defined:
		metrics.DemandsUnused.WithLabelValues("undefined").Inc()
	case weights == nil:
		metrics.DemandsUnused.WithLabelValues("unknown").Inc()
	}
	return weights
}

const demandPrefix = "demand/"

// query returns what to ask. The arguments are valid.
func (a *DemandArgs) query() prometheus.NodeQuery {
	return prometheus.NodeQuery{Name: demandPrefix + a.Name, Value: a.Query, Time: a.Time, Label: a.NodeLabel, Regexp: a.regexp()}
}

func (k knowledge) String() string { return fmt.Sprintf("%d of %d nodes", k.known, k.nodes) }
