// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/nodes"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/policy"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
	"github.com/fogsched/fogsched/pkg/store"
)

// frame is one picture of what moves.
type frame struct {
	at        time.Time
	since     time.Duration // the start
	scheduler string
	trouble   string // why the picture may be old

	nodes, reporting, measured, pairs int

	pending    []pending
	placements []placement
	placed     int // since the start
	policies   []policy.Status
	changes    []change
	unwell     []nodes.Node
}

type pending struct {
	pod, reason string
	age         time.Duration
}

type placement struct {
	pod, node string
	// cost is the mean RTT of the pod's entries by weight; "" where the pod wants nothing.
	cost        string
	estimated   bool
	limitBroken bool
	age         time.Duration
	fresh       bool // since the start
}

// change is a pair whose distance moved since the start.
type change struct {
	from, to string
	was, now latency.RTT
	// lost: it was measured, and does not answer any more.
	lost bool
}

const (
	// A distance changed when it moved by more than both of these: less is noise.
	changeShare = 0.1
	changeLeast = 500 // µs
)

// tracker remembers what was there at the start.
type tracker struct {
	scheduler string
	start     time.Time
	bound     map[types.UID]bool
	network   *latency.Snapshot
}

// next makes the picture of a cluster; the first one is the start.
func (t *tracker) next(c *cli.Cluster, network *latency.Snapshot, doubts map[string]store.Doubt) *frame {
	if t.network == nil {
		t.start, t.network, t.bound = c.ReadAt, network, map[types.UID]bool{}
		for _, p := range c.Pods {
			if p.Spec.NodeName != "" {
				t.bound[p.UID] = true
			}
		}
	}
	f := &frame{at: c.ReadAt, since: c.ReadAt.Sub(t.start), scheduler: t.scheduler, nodes: len(c.Nodes)}
	f.measured, f.pairs = network.Coverage()
	for _, p := range c.Pods {
		t.pod(f, p)
	}
	slices.SortFunc(f.pending, func(a, b pending) int { return cmp.Or(cmp.Compare(b.age, a.age), strings.Compare(a.pod, b.pod)) })
	slices.SortFunc(f.placements, func(a, b placement) int { return cmp.Or(cmp.Compare(a.age, b.age), strings.Compare(a.pod, b.pod)) })
	for _, p := range c.Policies {
		f.policies = append(f.policies, policy.StatusOf(p))
	}
	slices.SortFunc(f.policies, func(a, b policy.Status) int {
		return cmp.Or(cmp.Compare(urgency(a.State), urgency(b.State)), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	f.changes = changesOf(t.network, network)
	reports := make(map[string]*v1alpha1.NodeLatency, len(c.NodeLatencies))
	for _, nl := range c.NodeLatencies {
		reports[nl.Name] = nl
	}
	for _, n := range c.Nodes {
		node := nodes.About(n, reports[n.Name], doubts[n.Name], c.ReadAt)
		if node.Reports() {
			f.reporting++
		}
		if len(node.Marks) > 0 || !node.Ready {
			f.unwell = append(f.unwell, node)
		}
	}
	slices.SortFunc(f.unwell, func(a, b nodes.Node) int { return strings.Compare(a.Name, b.Name) })
	return f
}

// urgency orders states: what needs somebody first.
func urgency(s policy.State) int {
	order := []policy.State{
		policy.Broken, policy.Invalid, policy.Unmeasured, policy.NoStatus, policy.OutOfDate, policy.NoTargets, policy.Kept, policy.NoLimits, policy.NoPods,
	}
	if i := slices.Index(order, s); i >= 0 {
		return i
	}
	return len(order)
}

func (t *tracker) pod(f *frame, p *v1.Pod) {
	name := p.Namespace + "/" + p.Name
	var scheduled v1.PodCondition
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodScheduled {
			scheduled = c
		}
	}
	over := p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed || p.DeletionTimestamp != nil
	if p.Spec.NodeName == "" {
		if over {
			return
		}
		reason := scheduled.Message
		switch {
		case scheduled.Reason == v1.PodReasonSchedulingGated:
			reason = "held back by its scheduling gates"
		case reason == "":
			reason = "no scheduler has looked at it yet"
		}
		f.pending = append(f.pending, pending{pod: name, reason: reason, age: ageOf(f.at, p.CreationTimestamp)})
		return
	}
	pl := placement{pod: name, node: p.Spec.NodeName, age: ageOf(f.at, p.CreationTimestamp), fresh: !t.bound[p.UID]}
	if scheduled.Status == v1.ConditionTrue && !scheduled.LastTransitionTime.IsZero() {
		pl.age = ageOf(f.at, scheduled.LastTransitionTime)
	}
	if pl.fresh {
		f.placed++
	}
	var why nodelatency.Placement
	if text := p.Annotations[v1alpha1.PlacementAnnotation]; text != "" && json.Unmarshal([]byte(text), &why) == nil {
		pl.cost = why.Cost
		for _, e := range why.Entries {
			pl.limitBroken = pl.limitBroken || e.LimitBroken
			pl.estimated = pl.estimated || slices.Contains([]string{latency.Zone.String(), latency.Ranking.String(), latency.Coordinate.String()}, e.Provenance)
		}
	}
	f.placements = append(f.placements, pl)
}

func ageOf(now time.Time, t metav1.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(now.Sub(t.Time), 0)
}

// changesOf returns the measured distances that moved, those that moved most first. A pair is named in the direction of its first name.
func changesOf(was, now *latency.Snapshot) []change {
	if was == now {
		return nil
	}
	var out []change
	was.EachMeasured(func(i, j int32) {
		from, to := was.Name(i), was.Name(j)
		if to < from {
			from, to, i, j = to, from, j, i
		}
		a, okA := now.Index(from)
		b, okB := now.Index(to)
		if !okA || !okB {
			return // a node that went is no distance that moved
		}
		before, after := was.Estimate(i, j), now.Estimate(a, b)
		c := change{from: from, to: to, was: before.Typical, now: after.Typical, lost: !after.Provenance.IsMeasured()}
		if c.lost {
			c.now = latency.RTT{} // an estimate is no measurement that moved
		}
		x, _ := c.was.Micros()
		y, ok := c.now.Micros()
		d := math.Abs(float64(y) - float64(x))
		if c.lost || ok && d > changeLeast && d > changeShare*float64(x) {
			out = append(out, c)
		}
	})
	slices.SortFunc(out, func(a, b change) int {
		return cmp.Or(cmp.Compare(b.size(), a.size()), strings.Compare(a.from, b.from), strings.Compare(a.to, b.to))
	})
	return out
}

// size is how much a distance moved, by ratio; more than any for one that does not answer any more.
func (c *change) size() float64 {
	x, _ := c.was.Micros()
	y, ok := c.now.Micros()
	if !ok {
		return math.Inf(1)
	}
	return math.Abs(math.Log(float64(y) / float64(x)))
}
