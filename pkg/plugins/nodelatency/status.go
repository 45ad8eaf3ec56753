// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/index"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/placement"
)

const (
	statusInterval = 2 * time.Second

	// A status is written when an RTT in it moved by more than both of these: status is for people, who read no noise.
	statusNoise      = time.Millisecond
	statusNoiseShare = 0.1

	// maxStatusPairs bounds the pairs that one entry's status looks at; with more, every so many callers stand for all.
	maxStatusPairs = 50_000
)

// statusWriter keeps the status of every LatencyPolicy at what holds now. Every replica of the scheduler computes the same,
// so that the first one writes it and the others find nothing to change.
type statusWriter struct {
	engine *engine
	client *client.Client

	catalogGeneration, indexGeneration uint64
	snap                               *latency.Snapshot
}

func (w *statusWriter) run(ctx context.Context) {
	ticker := time.NewTicker(statusInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.tick(ctx)
		}
	}
}

func (w *statusWriter) tick(ctx context.Context) {
	defer w.engine.guard.Recover(ctx, "status", nil)
	e := w.engine
	catalog, idx, snap := e.catalog.generation.Load(), e.index.Generation(), e.store.Snapshot()
	if w.catalogGeneration == catalog && w.indexGeneration == idx && w.snap == snap {
		return
	}
	done := true
	held := map[string]int{}
	for key, p := range e.catalog.allPolicies() {
		now := computeStatus(p, snap, e.demands)
		held[now.Conditions[0].Reason]++
		ctx, cancel := context.WithTimeout(ctx, statusInterval)
		if err := w.write(ctx, key, p, now); err != nil {
			done = false
			klog.FromContext(ctx).V(2).Info("Could not write the status of a LatencyPolicy; will try again", "policy", key, "err", err)
		}
		cancel()
	}
	for _, reason := range limitReasons {
		metrics.Policies.WithLabelValues(reason).Set(float64(held[reason]))
	}
	if done {
		w.catalogGeneration, w.indexGeneration, w.snap = catalog, idx, snap
	}
}

// limitReasons are the reasons of the condition LimitsKept.
var limitReasons = []string{
	v1alpha1.ReasonKept, v1alpha1.ReasonBroken, v1alpha1.ReasonUnmeasured, v1alpha1.ReasonNoTargets, v1alpha1.ReasonNoLimits,
	v1alpha1.ReasonNoPods, v1alpha1.ReasonInvalid,
}

func (w *statusWriter) write(ctx context.Context, key types.NamespacedName, p *policy, now v1alpha1.LatencyPolicyStatus) error {
	p.statusMu.Lock()
	known := p.status
	p.statusMu.Unlock()
	if known != nil && !worthWriting(known, &now) {
		return nil
	}
	obj, err := w.client.LatencyPolicies(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if obj.UID != p.uid || obj.Generation != p.generation {
		return nil // the informer will bring the newer one
	}
	old := obj.Status
	conditions := append([]metav1.Condition(nil), old.Conditions...)
	conditions = slices.DeleteFunc(conditions, func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionDemandKnown && meta.FindStatusCondition(now.Conditions, c.Type) == nil
	})
	for _, c := range now.Conditions {
		meta.SetStatusCondition(&conditions, c)
	}
	if worthWriting(&old, &now) {
		obj.Status = now
		obj.Status.Conditions = conditions
		if _, err := w.client.LatencyPolicies(key.Namespace).UpdateStatus(ctx, obj, metav1.UpdateOptions{}); err != nil {
			return err
		}
	} else {
		now = old
	}
	p.statusMu.Lock()
	p.status = &now
	p.statusMu.Unlock()
	return nil
}

// worthWriting reports whether a person would want to see the difference.
func worthWriting(old, now *v1alpha1.LatencyPolicyStatus) bool {
	if old.ObservedGeneration != now.ObservedGeneration || old.Pods != now.Pods || len(old.Entries) != len(now.Entries) ||
		moved(old.Typical, now.Typical) || moved(old.Tail, now.Tail) {
		return true
	}
	if meta.FindStatusCondition(old.Conditions, v1alpha1.ConditionDemandKnown) != nil && meta.FindStatusCondition(now.Conditions, v1alpha1.ConditionDemandKnown) == nil {
		return true
	}
	for _, c := range now.Conditions {
		had := meta.FindStatusCondition(old.Conditions, c.Type)
		if had == nil || had.Status != c.Status || had.Reason != c.Reason {
			return true
		}
	}
	for i := range now.Entries {
		o, n := &old.Entries[i], &now.Entries[i]
		if o.Entry != n.Entry || o.Target != n.Target || o.TargetNodes != n.TargetNodes || o.BrokenPairs != n.BrokenPairs ||
			o.UnmeasuredPairs != n.UnmeasuredPairs || o.Provenance != n.Provenance || !equality.Semantic.DeepEqual(o.Limit, n.Limit) ||
			moved(o.Typical, n.Typical) || moved(o.Tail, n.Tail) {
			return true
		}
	}
	return false
}

func moved(old, now *metav1.Duration) bool {
	if old == nil || now == nil {
		return old != now
	}
	d := (now.Duration - old.Duration).Abs()
	return d > statusNoise && float64(d) > statusNoiseShare*float64(old.Duration)
}

// computeStatus says what holds of a policy. The first condition is LimitsKept.
func computeStatus(p *policy, snap *latency.Snapshot, d *demands) v1alpha1.LatencyPolicyStatus {
	st := v1alpha1.LatencyPolicyStatus{ObservedGeneration: p.generation}
	condition := metav1.Condition{Type: v1alpha1.ConditionLimitsKept, Status: metav1.ConditionUnknown, ObservedGeneration: p.generation}
	if p.bound == nil {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, v1alpha1.ReasonInvalid, p.err.Error()
		st.Conditions = []metav1.Condition{condition}
		return st
	}
	governed := p.bound.self.Nodes()
	for _, nc := range governed {
		st.Pods += nc.Count
	}
	var typical, tail mean
	var worst *inUse
	limited, broken, unmeasured, untargeted := 0, int32(0), int32(0), 0
	var demanded []demandOf
	for i := range p.bound.entries {
		e := &p.bound.entries[i]
		es := v1alpha1.EntryStatus{Entry: e.Path, Target: e.Target()}
		targets := e.targets()
		for j, t := range targets {
			if j == 0 || targets[j-1].Node != t.Node {
				es.TargetNodes++
			}
		}
		callers, servers := governed, targets
		var demand map[string]float32
		if e.Role == intent.Client {
			callers, servers = targets, governed
			if e.Demand != "" {
				var k knowledge
				demand, k = d.weigh(e.Demand, targets)
				demanded = append(demanded, demandOf{e.Demand, k, demand != nil})
			}
		}
		u := use(snap, callers, servers, e.routing(), e.Statistic, demand)
		es.Typical, es.Tail = u.typical.duration(), u.tail.duration()
		if u.provenance != latency.Unknown {
			es.Provenance, es.Error = u.provenance.String(), latency.FormatError(u.err)
		}
		if v, ok := u.typical.value(); ok {
			typical.add(v, e.Weight)
		}
		if v, ok := u.tail.value(); ok {
			tail.add(v, e.Weight)
		}
		es.UnmeasuredPairs = u.unmeasured
		if e.Limit > 0 {
			limited++
			es.Limit = &metav1.Duration{Duration: e.Limit}
			es.BrokenPairs = u.exceeding(e.Limit)
			broken += es.BrokenPairs
			if es.TargetNodes == 0 {
				untargeted++
			}
			unmeasured += u.unmeasured
		}
		if w := u.worst; w != nil {
			es.Worst = &v1alpha1.WorstPair{
				From: snap.Name(w.from), To: snap.Name(w.to),
				Typical: duration(w.estimate.Typical), Tail: duration(w.estimate.Tail),
				Provenance: w.estimate.Provenance.String(), Error: latency.FormatError(w.estimate.Error),
			}
			if worst == nil || w.micros > worst.micros {
				worst = w
			}
		}
		st.Entries = append(st.Entries, es)
	}
	st.Typical, st.Tail = typical.duration(), tail.duration()
	if worst != nil {
		rtt := worst.rtt.String()
		if !worst.estimate.Provenance.IsMeasured() {
			rtt += ", " + worst.estimate.Confidence()
		}
		st.Worst = fmt.Sprintf("%s → %s (%s)", snap.Name(worst.from), snap.Name(worst.to), rtt)
	}
	switch {
	case st.Pods == 0:
		condition.Reason, condition.Message = v1alpha1.ReasonNoPods, "no placed pod matches the selector"
	case limited == 0:
		condition.Reason, condition.Message = v1alpha1.ReasonNoLimits, "no entry has a limit"
	case broken > 0:
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonBroken
		condition.Message = fmt.Sprintf("%d pair(s) of nodes in use exceed their limit", broken)
	case unmeasured > 0:
		condition.Reason = v1alpha1.ReasonUnmeasured
		condition.Message = fmt.Sprintf("%d pair(s) of nodes in use have a limit and no measurement", unmeasured)
	case untargeted > 0:
		condition.Reason = v1alpha1.ReasonNoTargets
		condition.Message = fmt.Sprintf("%d limit(s) are to a target without a placed pod or node", untargeted)
	default:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionTrue, v1alpha1.ReasonKept, "every limit holds"
	}
	st.Conditions = []metav1.Condition{condition}
	if len(demanded) > 0 {
		st.Conditions = append(st.Conditions, demandCondition(demanded, p.generation))
	}
	return st
}

// demandOf is a demand that an entry names, and what is known of it.
type demandOf struct {
	name string
	knowledge
	used bool
}

// demandCondition says whether the demands that a policy names are known. The first that is not decides.
func demandCondition(demanded []demandOf, generation int64) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionDemandKnown, Status: metav1.ConditionTrue, ObservedGeneration: generation, Reason: v1alpha1.ReasonKnown}
	known := make([]string, 0, len(demanded))
	for _, d := range demanded {
		switch {
		case !d.defined:
			c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonDemandUndefined
			c.Message = fmt.Sprintf("the scheduler's configuration defines no demand %s (args.prometheus.demands of %s): all clients count the same", d.name, Name)
			return c
		case d.known == 0 && d.nodes > 0:
			c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonDemandUnknown
			c.Message = fmt.Sprintf("demand %s is known of none of the clients' nodes: all clients count the same", d.name)
			return c
		}
		text := fmt.Sprintf("demand %s is known of %s", d.name, d.knowledge)
		if !d.used && d.nodes > 0 {
			text += ", and 0 everywhere: all clients count the same"
		}
		known = append(known, text)
	}
	c.Message = strings.Join(known, "; ")
	return c
}

// usage is what the calls from callers to servers see.
type usage struct {
	typical, tail mean
	pairs         []inUse
	unmeasured    int32
	worst         *inUse
	// provenance is the worst of the pairs' that are known, err the largest error.
	provenance latency.Provenance
	err        float32
}

// inUse is a pair of nodes between which calls go.
type inUse struct {
	from, to int32
	estimate latency.Estimate
	rtt      latency.RTT
	micros   float32
}

func (u *usage) exceeding(limit time.Duration) (n int32) {
	for i := range u.pairs {
		d, ok := u.pairs[i].rtt.Duration()
		if ok && u.pairs[i].estimate.Provenance.IsMeasured() && d > limit {
			n++
		}
	}
	return n
}

// use follows the calls: Nearest goes to the nearest server that is known, Any to all of them.
//
// demand, where it is not nil, is what each of the callers' nodes counts, in place of the callers on it.
func use(snap *latency.Snapshot, callers, servers []index.NodeCount, routing placement.Routing, statistic latency.Statistic, demand map[string]float32) usage {
	var u usage
	pair := func(from, to int32) inUse {
		e := snap.Estimate(from, to)
		p := inUse{from: from, to: to, estimate: e, rtt: e.RTT(statistic)}
		p.micros, _ = p.rtt.Micros()
		return p
	}
	count := func(p inUse, weight float32) {
		if us, ok := p.estimate.Typical.Micros(); ok {
			u.typical.add(us, weight)
		}
		if us, ok := p.estimate.Tail.Micros(); ok {
			u.tail.add(us, weight)
		}
		u.provenance, u.err = worse(u.provenance, p.estimate.Provenance), max(u.err, p.estimate.Error)
		if !p.rtt.Known() || !p.estimate.Provenance.IsMeasured() {
			u.unmeasured++
		}
		if p.rtt.Known() {
			u.pairs = append(u.pairs, p)
			if u.worst == nil || p.micros > u.worst.micros {
				u.worst = &p
			}
		}
	}
	stride := 1 + len(callers)*len(servers)/maxStatusPairs
	for i := 0; i < len(callers); i += stride {
		c := callers[i]
		mass := float32(c.Count)
		if demand != nil {
			mass = demand[c.Node]
		}
		from, ok := snap.Index(c.Node)
		if !ok {
			u.unmeasured++
			continue
		}
		var nearest inUse
		for _, s := range servers {
			to, ok := snap.Index(s.Node)
			if !ok {
				if routing == placement.Any {
					u.unmeasured++
				}
				continue
			}
			p := pair(from, to)
			if routing == placement.Any {
				count(p, mass*float32(s.Count))
			} else if p.rtt.Known() && (!nearest.rtt.Known() || p.micros < nearest.micros) {
				nearest = p
			}
		}
		if routing == placement.Nearest && len(servers) > 0 {
			count(nearest, mass)
		}
	}
	return u
}

// mean is a weighted mean of microseconds.
type mean struct{ sum, weight float64 }

func (m *mean) add(us, weight float32) {
	m.sum += float64(us) * float64(weight)
	m.weight += float64(weight)
}

func (m *mean) value() (us float32, ok bool) {
	if m.weight == 0 {
		return 0, false
	}
	return float32(m.sum / m.weight), true
}

func (m *mean) duration() *metav1.Duration {
	us, ok := m.value()
	if !ok {
		return nil
	}
	return &metav1.Duration{Duration: round(time.Duration(float64(us) * float64(time.Microsecond)))}
}

func duration(r latency.RTT) *metav1.Duration {
	d, ok := r.Duration()
	if !ok {
		return nil
	}
	return &metav1.Duration{Duration: round(d)}
}

// round keeps what a person reads.
func round(d time.Duration) time.Duration {
	if d < 100*time.Microsecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(10 * time.Microsecond)
}
