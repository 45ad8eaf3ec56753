// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/index"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
)

// world is a cluster in the form that the report asks of.
type world struct {
	*cli.Cluster
	snap  *latency.Snapshot
	index *index.Index

	nodes   []*v1.Node // by the snapshot's numbers
	zone    []string   // by the same
	region  []string
	reports []*v1alpha1.NodeLatency
	silent  []string // why none of a node's own measurements counts; "": some do

	governed []*governed
	room     *rooms // of stock.go, made when first asked for
}

// governed is the pods of one policy or annotation, and what it says.
type governed struct {
	policy Policy
	// in is nil where the policy is invalid.
	in    *intent.Intent
	self  []index.NodeCount
	pods  []*v1.Pod // which it governs and that are not finished
	calls []calls   // by entry of in
}

// calls is who calls whom for an entry.
type calls struct {
	entry            *intent.Entry
	routing          placement.Routing
	callers, servers []index.NodeCount
	targets          []index.NodeCount
}

func newWorld(ctx context.Context, c *cli.Cluster, namespace string) *world {
	w := &world{Cluster: c, snap: c.Network(ctx), index: index.New()}
	n := w.snap.Len()
	w.nodes, w.zone, w.region = make([]*v1.Node, n), make([]string, n), make([]string, n)
	w.reports, w.silent = make([]*v1alpha1.NodeLatency, n), make([]string, n)
	for _, node := range c.Nodes {
		w.index.SetNode(node)
		if i, ok := w.snap.Index(node.Name); ok {
			at := cli.LocationOf(node)
			w.nodes[i], w.region[i], w.zone[i] = node, at.Region, cmp.Or(at.Zone, at.Region)
		}
	}
	for _, r := range c.NodeLatencies {
		if i, ok := w.snap.Index(r.Name); ok {
			w.reports[i] = r
		}
	}
	for i := range n {
		w.silent[i] = w.whySilent(int32(i))
	}
	for _, ns := range c.Namespaces {
		w.index.SetNamespace(ns)
	}
	for _, p := range c.Pods {
		w.index.SetPod(p)
	}
	for _, s := range c.Services {
		w.index.SetService(s)
	}
	w.govern(namespace)
	return w
}

func (w *world) whySilent(n int32) string {
	if w.snap.MeasuredBy(n) > 0 || w.snap.Len() < 2 {
		return ""
	}
	switch r := w.reports[n]; {
	case r == nil:
		return "no NodeLatency object: no prober runs there, or it has just started"
	case r.Status.Starved:
		return "short of CPU: its measurements are not used"
	case r.Status.ObservedAt == nil || len(r.Status.Peers) == 0:
		return "its prober has measured nothing yet"
	case !slices.ContainsFunc(r.Status.Peers, func(p v1alpha1.PeerLatency) bool { return p.Typical != nil }):
		return "every probe was lost"
	default:
		return "what it reported " + age(w.ReadAt.Sub(r.Status.ObservedAt.Time)) + " ago is too old, or is not believed"
	}
}

// govern finds the policies and annotations, in the order of their names, and whom they govern.
func (w *world) govern(namespace string) {
	inNamespace := map[string][]*v1.Pod{}
	annotated := map[[2]string][]*v1.Pod{}
	for _, p := range w.Pods {
		if p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed || p.DeletionTimestamp != nil || namespace != "" && p.Namespace != namespace {
			continue
		}
		inNamespace[p.Namespace] = append(inNamespace[p.Namespace], p)
		if g := index.AnnotatedGroup(p); g != "" {
			annotated[[2]string{p.Namespace, g}] = append(annotated[[2]string{p.Namespace, g}], p)
		}
	}
	for _, p := range w.Policies {
		if namespace != "" && p.Namespace != namespace {
			continue
		}
		g := &governed{policy: Policy{Name: p.Name, Namespace: p.Namespace}}
		if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionLimitsKept); c != nil {
			g.policy.Status, g.policy.StatusBehind = c.Reason, p.Status.ObservedGeneration != p.Generation
		}
		in, selector, err := intent.FromPolicy(p)
		if err != nil {
			g.policy.State, g.policy.Message = v1alpha1.ReasonInvalid, err.Error()
		} else {
			g.in, g.self = in, w.index.Pods(p.Namespace, nil, selector).Nodes()
			for _, pod := range inNamespace[p.Namespace] {
				// A pod's own annotation stands above any policy.
				if _, own := pod.Annotations[v1alpha1.LatencyAnnotation]; !own && selector.Matches(labels.Set(pod.Labels)) {
					g.pods = append(g.pods, pod)
				}
			}
		}
		w.governed = append(w.governed, g)
	}
	for _, key := range slices.SortedFunc(maps.Keys(annotated), func(a, b [2]string) int { return strings.Compare(a[0]+a[1], b[0]+b[1]) }) {
		pods := annotated[key]
		g := &governed{policy: Policy{Name: ownerOf(pods[0]), Namespace: key[0], Annotation: true}, pods: pods}
		in, err := intent.ParseAnnotation(key[0], pods[0].Annotations[v1alpha1.LatencyAnnotation])
		if err != nil {
			g.policy.State, g.policy.Message = v1alpha1.ReasonInvalid, err.Error()
		} else {
			g.in, g.self = in, w.index.Annotated(key[0], key[1]).Nodes()
		}
		w.governed = append(w.governed, g)
	}
	slices.SortStableFunc(w.governed, func(a, b *governed) int {
		return cmp.Or(strings.Compare(a.policy.Namespace, b.policy.Namespace), natural(a.policy.Name, b.policy.Name))
	})
	for i, g := range w.governed {
		g.policy.Mark = mark(i)
		for _, pod := range g.pods {
			if pod.Spec.NodeName == "" {
				g.policy.Pending++
			}
		}
		if g.in != nil {
			for e := range g.in.Entries {
				g.calls = append(g.calls, w.callsOf(g, &g.in.Entries[e]))
			}
			w.judge(g)
		}
	}
}

// callsOf finds who calls whom for an entry, as the scheduler does.
func (w *world) callsOf(g *governed, e *intent.Entry) calls {
	c := calls{entry: e}
	switch {
	case e.Service != nil:
		s := w.index.Service(e.Service.Namespace, e.Service.Name).State()
		if s.Workload != nil {
			c.targets = s.Workload.Nodes()
		}
		if s.Nearest {
			c.routing = placement.Nearest
		}
	case e.Pods != nil:
		c.targets = w.index.Pods(e.Pods.Namespace, e.Pods.NamespaceSelector, e.Pods.Selector).Nodes()
	default:
		c.targets = w.index.NodeSet(e.Nodes).Nodes()
	}
	if e.Routing != nil {
		c.routing = *e.Routing
	}
	c.callers, c.servers = g.self, c.targets
	if e.Role == intent.Client {
		c.callers, c.servers = c.targets, g.self
	}
	return c
}

// maxCalls bounds the pairs that are looked at for one entry; with more, every so many callers stand for all.
const maxCalls = 50_000

// follow calls f for each pair of nodes between which an entry's calls go, with how much it counts: the nearest known server for Nearest,
// all of them for Any. A pair of a node that is not known is not OK.
func (w *world) follow(c *calls, f func(from, to string, e latency.Estimate, mass float64, ok bool)) {
	stride := 1 + len(c.callers)*len(c.servers)/maxCalls
	for i := 0; i < len(c.callers); i += stride {
		caller := c.callers[i]
		from, known := w.snap.Index(caller.Node)
		best, bestTo, bestMicros := latency.Estimate{}, "", float32(math.Inf(1))
		for _, server := range c.servers {
			to, ok := w.snap.Index(server.Node)
			var e latency.Estimate
			if ok = ok && known; ok {
				e = w.snap.Estimate(from, to)
			}
			if c.routing == placement.Any {
				f(caller.Node, server.Node, e, float64(caller.Count)*float64(server.Count), ok)
			} else if us, ok := e.RTT(c.entry.Statistic).Micros(); ok && us < bestMicros {
				best, bestTo, bestMicros = e, server.Node, us
			}
		}
		if c.routing == placement.Nearest && len(c.servers) > 0 {
			f(caller.Node, bestTo, best, float64(caller.Count), bestTo != "")
		}
	}
}

// judge says what holds of a policy by the measurements that were read, as the scheduler's status writer does.
func (w *world) judge(g *governed) {
	p := &g.policy
	for _, nc := range g.self {
		p.Pods += int(nc.Count)
	}
	limits, broken, unmeasured, untargeted := 0, 0, 0, 0
	for i := range g.calls {
		c := &g.calls[i]
		e := Entry{
			Entry: c.entry.Path, Target: c.entry.Target(), Client: c.entry.Role == intent.Client, TargetNodes: countNodes(c.targets),
			Routing: routingName(c.routing), Statistic: statisticName(c.entry.Statistic),
		}
		if c.entry.Limit > 0 {
			e.Limit = latency.Format(c.entry.Limit)
		}
		var sum, mass float64
		worstProvenance, worstError := latency.Unknown, float32(0)
		w.follow(c, func(from, to string, estimate latency.Estimate, weight float64, ok bool) {
			e.Pairs++
			rtt := estimate.RTT(c.entry.Statistic)
			us, known := rtt.Micros()
			if !ok || !known || !estimate.Provenance.IsMeasured() {
				e.UnmeasuredPairs++
			}
			if !known {
				return
			}
			sum, mass = sum+float64(us)*weight, mass+weight
			if worstProvenance == latency.Unknown || estimate.Provenance < worstProvenance {
				worstProvenance = estimate.Provenance
			}
			worstError = max(worstError, estimate.Error)
			l := newLatency(rtt, estimate.Provenance, estimate.Error)
			if e.Worst == nil || us > e.Worst.RTT.Micros {
				e.Worst = &Pair{from, to, l}
			}
			if d, _ := rtt.Duration(); c.entry.Limit > 0 && estimate.Provenance.IsMeasured() && d > c.entry.Limit {
				e.BrokenPairs++
				e.broken = append(e.broken, w.link(p, from, to, l, e.Limit, float64(d)/float64(c.entry.Limit)))
			}
		})
		e.RTT = Latency{Provenance: latency.Unknown.String()}
		if mass > 0 {
			rtt, _ := latency.FromSeconds(sum / mass / 1e6)
			e.RTT = newLatency(rtt, worstProvenance, worstError)
		}
		if c.entry.Limit > 0 {
			limits++
			broken += e.BrokenPairs
			unmeasured += e.UnmeasuredPairs
			if e.TargetNodes == 0 {
				untargeted++
			}
		}
		if e.Worst != nil && (p.Worst == nil || e.Worst.RTT.Micros > p.Worst.RTT.Micros) {
			p.Worst = e.Worst
		}
		p.Entries = append(p.Entries, e)
	}
	switch {
	case p.Pods == 0:
		p.State, p.Message = v1alpha1.ReasonNoPods, "no placed pod matches the selector"
	case limits == 0:
		p.State, p.Message = v1alpha1.ReasonNoLimits, "no entry has a limit"
	case broken > 0:
		p.State, p.Message = v1alpha1.ReasonBroken, plural(broken, "pair of nodes in use exceeds its limit", "pairs of nodes in use exceed their limit")
	case unmeasured > 0:
		p.State, p.Message = v1alpha1.ReasonUnmeasured, plural(unmeasured, "pair of nodes in use has", "pairs of nodes in use have")+" a limit and no measurement"
	case untargeted > 0:
		p.State, p.Message = v1alpha1.ReasonNoTargets, plural(untargeted, "limit is", "limits are")+" to a target without a placed pod or node"
	default:
		p.State, p.Message = v1alpha1.ReasonKept, "every limit holds"
	}
}

func (w *world) link(p *Policy, from, to string, l Latency, limit string, over float64) Link {
	out := Link{From: from, To: to, Mark: p.Mark, Policy: p.full(), RTT: l, Limit: limit, over: over}
	if i, ok := w.snap.Index(from); ok {
		out.fromZone, out.fromRegion = cmp.Or(w.zone[i], noZone), cmp.Or(w.region[i], noZone)
	}
	if i, ok := w.snap.Index(to); ok {
		out.toZone, out.toRegion = cmp.Or(w.zone[i], noZone), cmp.Or(w.region[i], noZone)
	}
	return out
}

func (p *Policy) full() string { return p.Namespace + "/" + p.Name }

// Full is its namespace and name.
func (p Policy) Full() string { return p.full() }

// Limits counts the entries that have a limit.
func (p Policy) Limits() (n int) {
	for _, e := range p.Entries {
		if e.Limit != "" {
			n++
		}
	}
	return n
}

// network says what is known of all distances.
func (w *world) network() Network {
	n := Network{Nodes: w.snap.Len()}
	zones := map[string]bool{}
	var ages []time.Duration
	for i := range w.nodes {
		if w.zone[i] != "" {
			zones[w.zone[i]] = true
		}
		if w.silent[i] != "" {
			n.Silent = append(n.Silent, Silent{w.snap.Name(int32(i)), w.silent[i]})
		}
		if r := w.reports[i]; r != nil && r.Status.ObservedAt != nil {
			ages = append(ages, max(0, w.ReadAt.Sub(r.Status.ObservedAt.Time)))
		}
	}
	slices.SortFunc(n.Silent, func(a, b Silent) int { return natural(a.Node, b.Node) })
	n.Zones = len(zones)
	n.Measured, n.Pairs = w.snap.Coverage()
	if len(ages) > 0 {
		slices.Sort(ages)
		n.MedianAge, n.OldestAge = age(ages[len(ages)/2]), age(ages[len(ages)-1])
	}
	// The measured pairs are counted; the rest of a large cluster's are too many to be.
	sample := evenly(n.Nodes, 400)
	n.Sampled = len(sample) < n.Nodes
	estimated, unknown := 0, 0
	for k, i := range sample {
		for _, j := range sample[:k] {
			switch e := w.snap.Estimate(i, j); {
			case !e.Typical.Known():
				unknown++
			case !e.Provenance.IsMeasured():
				estimated++
			}
		}
	}
	if rest := estimated + unknown; rest > 0 {
		left := 100 - n.MeasuredPercent()
		n.EstimatedPercent, n.UnknownPercent = round1(left*float64(estimated)/float64(rest)), round1(left*float64(unknown)/float64(rest))
	}
	return n
}

// evenly returns at most limit of the numbers from 0 to n-1, as far apart as they can be.
func evenly(n, limit int) []int32 {
	m := min(n, limit)
	out := make([]int32, m)
	for i := range out {
		out[i] = int32(i * n / m)
	}
	return out
}

// placements counts the placed pods that a policy or an annotation governs: all, those that fogsched explained, those of which some RTT was
// unknown as they were placed, and those that no node could keep the limits of.
func (w *world) placements() (governed, explained, blind, broken, pending int) {
	seen := map[*v1.Pod]bool{}
	for _, g := range w.governed {
		for _, pod := range g.pods {
			if seen[pod] {
				continue
			}
			seen[pod] = true
			if pod.Spec.NodeName == "" {
				pending++
				continue
			}
			governed++
			text, ok := pod.Annotations[v1alpha1.PlacementAnnotation]
			if !ok {
				continue
			}
			var why struct {
				Entries []struct {
					Provenance  string `json:"provenance"`
					LimitBroken bool   `json:"limitBroken"`
				} `json:"entries"`
			}
			if json.Unmarshal([]byte(text), &why) != nil {
				continue
			}
			explained++
			dark, over := len(why.Entries) > 0, false
			for _, e := range why.Entries {
				dark = dark && e.Provenance == latency.Unknown.String()
				over = over || e.LimitBroken
			}
			if dark {
				blind++
			}
			if over {
				broken++
			}
		}
	}
	return governed, explained, blind, broken, pending
}

func countNodes(list []index.NodeCount) (n int) {
	for i := range list {
		if i == 0 || list[i-1].Node != list[i].Node {
			n++
		}
	}
	return n
}

func routingName(r placement.Routing) string {
	if r == placement.Nearest {
		return string(v1alpha1.RoutingNearest)
	}
	return string(v1alpha1.RoutingAny)
}

func statisticName(s latency.Statistic) string {
	if s == latency.Tail {
		return string(v1alpha1.StatisticTail)
	}
	return string(v1alpha1.StatisticTypical)
}

// ownerOf names what made an annotated pod, "Deployment web".
func ownerOf(pod *v1.Pod) string {
	if r := index.RevisionOf(pod); r.App != "" {
		_, name, _ := strings.Cut(r.App, "/")
		return "Deployment " + name
	}
	if o := metav1.GetControllerOfNoCopy(pod); o != nil {
		return o.Kind + " " + o.Name
	}
	return "Pod " + pod.Name
}

// mark numbers policies A to Z, AA, AB and so on.
func mark(i int) string {
	if i < 26 {
		return string(rune('A' + i))
	}
	return mark(i/26-1) + string(rune('A'+i%26))
}

// natural compares names so that node-2 comes before node-10.
func natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na > 0 && nb > 0 {
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) (n int) {
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// age writes how long ago something was, in the largest unit of which there is one.
func age(d time.Duration) string {
	switch d = max(0, d); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func round1(x float64) float64 { return math.Round(x*10) / 10 }
