// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/index"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
)

// A scheduler that does not know of latency puts a pod on any node that the pod's constraints allow: to latency, its choice is random. So
// the model of stock placement is the pods drawn on random feasible nodes, many times, by a seeded generator. Feasible is a node that is
// ready and schedulable, whose taints the pod tolerates, that its node selector and affinity allow and that has room for its requests; in
// a draw the pods keep their hard spread constraints and anti-affinity among themselves, and no two share a node while others are free.

const (
	// draws is how many random placements one entry is compared with, at most; values bounds the latencies of all entries together.
	draws  = 1000
	values = 2_000_000
	// maxCallers and maxReplicas bound one entry; with more, every so many stand for all.
	maxCallers  = 200
	maxReplicas = 200
	// maxComparisons bounds the entries.
	maxComparisons = 200
)

// need is what a pod requests, and a node has: milli-cores, bytes, pods.
type need struct{ cpu, memory, pods int64 }

func needOf(pod *v1.Pod) need {
	r := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	return need{r.Cpu().MilliValue(), r.Memory().Value(), 1}
}

// rooms is what each node has left, by number.
type rooms struct{ free []need }

func (w *world) rooms() *rooms {
	if w.room != nil {
		return w.room
	}
	r := &rooms{free: make([]need, w.snap.Len())}
	for i, n := range w.nodes {
		if n == nil {
			continue
		}
		a := n.Status.Allocatable
		r.free[i] = need{math.MaxInt64, math.MaxInt64, math.MaxInt64} // what a node does not say is no bound
		if q, ok := a[v1.ResourceCPU]; ok {
			r.free[i].cpu = q.MilliValue()
		}
		if q, ok := a[v1.ResourceMemory]; ok {
			r.free[i].memory = q.Value()
		}
		if q, ok := a[v1.ResourcePods]; ok {
			r.free[i].pods = q.Value()
		}
	}
	for _, p := range w.Pods {
		if i, ok := w.snap.Index(p.Spec.NodeName); ok && p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed {
			r.free[i] = r.free[i].less(needOf(p))
		}
	}
	w.room = r
	return r
}

func (n need) less(o need) need {
	return need{n.cpu - o.cpu, n.memory - o.memory, n.pods - o.pods}
}

func (n need) more(o need) need {
	return need{n.cpu + o.cpu, n.memory + o.memory, n.pods + o.pods}
}

// holds returns how many pods of a need there is room for.
func (n need) holds(o need) int {
	k := int64(math.MaxInt32)
	for _, x := range [][2]int64{{n.cpu, o.cpu}, {n.memory, o.memory}, {n.pods, o.pods}} {
		if x[1] > 0 {
			k = min(k, max(0, x[0])/x[1])
		}
	}
	return int(k)
}

// candidate is a node that a pod could be on: how many of them it has room for, and its domain for each of the pod's rules; -1: none.
type candidate struct {
	node   int32
	room   int
	domain []int
}

// rule says how the pods of one workload must be spread over the domains of a label: in each at most skew more than in the emptiest, and,
// where most is above 0, at most so many.
type rule struct{ skew, most, domains int }

// feasible returns the nodes on which a workload's pods could be, and the rules among them.
func (w *world) feasible(pods []*v1.Pod) ([]candidate, []rule) {
	if len(pods) == 0 {
		return nil, nil
	}
	pod := pods[0]
	keys, rules := rulesOf(pod)
	free := slices.Clone(w.rooms().free)
	for _, p := range pods { // they are to be drawn anew
		if i, ok := w.snap.Index(p.Spec.NodeName); ok {
			free[i] = free[i].more(needOf(p))
		}
	}
	request, affinity := needOf(pod), nodeaffinity.GetRequiredNodeAffinity(pod)
	domains := make([]map[string]int, len(keys))
	for k := range domains {
		domains[k] = map[string]int{}
	}
	var out []candidate
	for i, n := range w.nodes {
		if n == nil || !schedulable(n, pod) {
			continue
		}
		if ok, err := affinity.Match(n); err != nil || !ok {
			continue
		}
		c := candidate{node: int32(i), room: free[i].holds(request), domain: make([]int, len(keys))}
		ok := c.room > 0
		for k, key := range keys {
			value, has := n.Labels[key]
			ok = ok && (has || rules[k].most > 0) // a hard spread constraint excludes nodes without the label
			c.domain[k] = -1
			if has && ok {
				if _, seen := domains[k][value]; !seen {
					domains[k][value] = len(domains[k])
				}
				c.domain[k] = domains[k][value]
			}
		}
		if ok {
			out = append(out, c)
		}
	}
	for k := range rules {
		rules[k].domains = len(domains[k])
	}
	return out, rules
}

func schedulable(n *v1.Node, pod *v1.Pod) bool {
	if n.Spec.Unschedulable {
		return false
	}
	ready := slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue })
	_, tainted := corev1helpers.FindMatchingUntoleratedTaint(klog.Logger{}, n.Spec.Taints, pod.Spec.Tolerations, func(t *v1.Taint) bool {
		return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
	}, true)
	return ready && !tainted
}

// rulesOf returns the label keys and rules of a pod's hard constraints that are about pods like itself.
func rulesOf(pod *v1.Pod) (keys []string, rules []rule) {
	about := func(s *metav1.LabelSelector) bool {
		selector, err := metav1.LabelSelectorAsSelector(s)
		return err == nil && selector.Matches(labels.Set(pod.Labels))
	}
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == v1.DoNotSchedule && about(c.LabelSelector) {
			keys, rules = append(keys, c.TopologyKey), append(rules, rule{skew: int(c.MaxSkew)})
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		for _, t := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			if about(t.LabelSelector) {
				keys, rules = append(keys, t.TopologyKey), append(rules, rule{skew: math.MaxInt32, most: 1})
			}
		}
	}
	return keys, rules
}

// drawer draws placements.
type drawer struct {
	candidates []candidate
	rules      []rule
	rng        *rand.Rand
	used       []int
	counts     [][]int
}

func newDrawer(candidates []candidate, rules []rule, seed uint64) *drawer {
	d := &drawer{candidates: candidates, rules: rules, rng: rand.New(rand.NewPCG(seed, 1)), used: make([]int, len(candidates))}
	for _, r := range rules {
		d.counts = append(d.counts, make([]int, r.domains))
	}
	return d
}

// draw appends the candidates on which so many pods are; fewer where the rules allow no more.
func (d *drawer) draw(dst []int, pods int) []int {
	clear(d.used)
	for _, c := range d.counts {
		clear(c)
	}
	for k := range pods {
		c := d.pick(k < len(d.candidates))
		if c < 0 {
			c = d.pick(false)
		}
		if c < 0 {
			break
		}
		d.used[c]++
		for r, dom := range d.candidates[c].domain {
			if dom >= 0 {
				d.counts[r][dom]++
			}
		}
		dst = append(dst, c)
	}
	return dst
}

// pick returns a random candidate that the rules allow, -1 where there is none. alone asks for one without a pod.
func (d *drawer) pick(alone bool) int {
	n := len(d.candidates)
	if n == 0 {
		return -1
	}
	lows := make([]int, len(d.rules))
	for r, counts := range d.counts {
		if len(counts) > 0 {
			lows[r] = slices.Min(counts)
		}
	}
	allowed := func(c int) bool {
		if d.used[c] >= d.candidates[c].room || alone && d.used[c] > 0 {
			return false
		}
		for r, dom := range d.candidates[c].domain {
			if dom < 0 {
				continue
			}
			count := d.counts[r][dom] + 1
			if count-lows[r] > d.rules[r].skew || d.rules[r].most > 0 && count > d.rules[r].most {
				return false
			}
		}
		return true
	}
	for range 20 {
		if c := d.rng.IntN(n); allowed(c) {
			return c
		}
	}
	// Few are allowed: take one of them, each as likely as the others.
	var rest []int
	for c := range n {
		if allowed(c) {
			rest = append(rest, c)
		}
	}
	if len(rest) == 0 {
		return -1
	}
	return rest[d.rng.IntN(len(rest))]
}

// sample is what one caller waits, and how much it counts; NaN milliseconds are unknown.
type sample struct {
	ms, mass  float32
	estimated bool
}

var unknownMillis = float32(math.NaN())

// compareAll compares each entry's latencies now with those of random placements.
func (w *world) compareAll() (list []Comparison, leftOut int) {
	list = []Comparison{}
	type job struct {
		g *governed
		c *calls
	}
	var jobs []job
	for _, g := range w.governed {
		for i := range g.calls {
			// Clients' latencies first: what calls the pods is what users feel.
			if c := &g.calls[i]; len(g.self) > 0 && len(c.targets) > 0 {
				jobs = append(jobs, job{g, c})
			}
		}
	}
	slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(b.c.entry.Role, a.c.entry.Role) })
	leftOut = max(0, len(jobs)-maxComparisons)
	jobs = jobs[:len(jobs)-leftOut]
	places := map[*governed]*drawer{}
	for _, j := range jobs {
		d := places[j.g]
		if d == nil {
			candidates, rules := w.feasible(j.g.pods)
			d = newDrawer(candidates, rules, 20)
			places[j.g] = d
		}
		list = append(list, w.compare(j.g, j.c, d, values/len(jobs)))
	}
	return list, leftOut
}

// waits knows what the callers of one entry wait by where its pods are.
type waits struct {
	nearest bool
	client  bool
	// of has a row for each caller (client) or server, masses how much it counts.
	of     []*latency.Row
	masses []float32
	total  float32
}

// thin takes every so many of a list, so that at most limit are left.
func thin(list []index.NodeCount, limit int) []index.NodeCount {
	if len(list) <= limit {
		return list
	}
	out := make([]index.NodeCount, 0, limit)
	for _, i := range evenly(len(list), limit) {
		out = append(out, list[i])
	}
	return out
}

func (w *world) waits(c *calls) *waits {
	x := &waits{nearest: c.routing == placement.Nearest, client: c.entry.Role == intent.Client}
	direction := latency.ToTarget
	if x.client {
		direction = latency.FromTarget
	}
	for _, t := range thin(c.targets, maxCallers) {
		row := w.snap.UnknownRow()
		if i, ok := w.snap.Index(t.Node); ok {
			row = w.snap.Row(i, direction, c.entry.Statistic)
		}
		x.of, x.masses, x.total = append(x.of, row), append(x.masses, float32(t.Count)), x.total+float32(t.Count)
	}
	return x
}

// wait is the distance of a node in the k-th row.
func (x *waits) wait(k int, n int32, mass float32) sample {
	us, ok := x.of[k].RTT[n].Micros()
	if !ok {
		return sample{unknownMillis, mass, false}
	}
	return sample{us / 1000, mass, !x.of[k].Provenance[n].IsMeasured()}
}

// nearer reports whether a sample is known and below another one.
func (s sample) nearer(o sample) bool { return s.ms < o.ms || o.unknown() && !s.unknown() }

// at appends what callers wait where the pods are on nodes, one a pod.
func (x *waits) at(dst []sample, nodes []int32) []sample {
	if x.client {
		for k, mass := range x.masses {
			best := sample{unknownMillis, mass, false}
			for _, n := range nodes {
				if !x.nearest {
					dst = append(dst, x.wait(k, n, mass/float32(len(nodes))))
				} else if s := x.wait(k, n, mass); s.nearer(best) {
					best = s
				}
			}
			if x.nearest {
				dst = append(dst, best)
			}
		}
		return dst
	}
	for _, n := range nodes {
		best := sample{unknownMillis, 1, false}
		for k, mass := range x.masses {
			if !x.nearest {
				dst = append(dst, x.wait(k, n, mass/x.total))
			} else if s := x.wait(k, n, 1); s.nearer(best) {
				best = s
			}
		}
		if x.nearest {
			dst = append(dst, best)
		}
	}
	return dst
}

func (s sample) unknown() bool { return s.ms != s.ms } // NaN

func (w *world) compare(g *governed, c *calls, d *drawer, budget int) Comparison {
	out := Comparison{
		Mark: g.policy.Mark, Policy: g.policy.full(), Entry: c.entry.Path, Target: c.entry.Target(), Client: c.entry.Role == intent.Client,
		Routing: routingName(c.routing), Statistic: statisticName(c.entry.Statistic), Callers: countNodes(c.callers), Feasible: len(d.candidates),
	}
	if c.entry.Limit > 0 {
		out.Limit, out.limitMillis = latency.Format(c.entry.Limit), float64(c.entry.Limit.Microseconds())/1000
	}
	for _, nc := range g.self {
		out.Replicas += int(nc.Count)
	}
	x := w.waits(c)
	var here []int32
	for _, nc := range thin(g.self, maxReplicas) {
		if i, ok := w.snap.Index(nc.Node); ok {
			for range min(nc.Count, maxReplicas) {
				here = append(here, i)
			}
		}
	}
	if len(here) == 0 {
		return out
	}
	now := x.at(nil, here)
	out.Now, out.now = distribution(now)
	out.waiting = len(now)
	if len(d.candidates) == 0 {
		return out
	}
	// The generator starts anew for each entry, so that the entries of one policy are about the same placements.
	d.rng = rand.New(rand.NewPCG(20, 1))
	out.Draws = max(20, min(draws, budget/len(now)))
	pods := min(len(here), maxReplicas)
	var all []sample
	var ends []int
	slower, knownDraws := 0, 0
	var picked []int
	var nodes []int32
	for range out.Draws {
		picked, nodes = d.draw(picked[:0], pods), nodes[:0]
		for _, k := range picked {
			nodes = append(nodes, d.candidates[k].node)
		}
		if len(nodes) == 0 {
			continue
		}
		from := len(all)
		all = x.at(all, nodes)
		ends = append(ends, len(all))
		if mean := meanOf(all[from:]); !math.IsNaN(mean) && !math.IsNaN(out.Now.mean) {
			knownDraws++
			if mean > out.Now.mean {
				slower++
			}
		}
	}
	if knownDraws > 0 {
		out.SlowerPercent = round1(100 * float64(slower) / float64(knownDraws))
	}
	out.low, out.high = band(all, ends)
	out.Random, out.random = distribution(all)
	return out
}

func meanOf(list []sample) float64 {
	var sum, mass float64
	for _, s := range list {
		if !s.unknown() {
			sum, mass = sum+float64(s.ms)*float64(s.mass), mass+float64(s.mass)
		}
	}
	return sum / mass // NaN where nothing is known
}

// maxSteps bounds the steps of a curve that are drawn.
const maxSteps = 160

// distribution sorts samples, the unknown ones last, and returns what they are and their curve.
func distribution(list []sample) (Distribution, []step) {
	slices.SortFunc(list, func(a, b sample) int {
		if a.unknown() || b.unknown() {
			return cmp.Compare(boolInt(a.unknown()), boolInt(b.unknown()))
		}
		return cmp.Compare(a.ms, b.ms)
	})
	var total, dark, guess float64
	for _, s := range list {
		total += float64(s.mass)
		switch {
		case s.unknown():
			dark += float64(s.mass)
		case s.estimated:
			guess += float64(s.mass)
		}
	}
	d := Distribution{mean: meanOf(list), median: math.NaN()}
	if total == 0 {
		return d, nil
	}
	d.UnknownPercent, d.EstimatedPercent = round1(100*dark/total), round1(100*guess/total)
	d.Mean = millis(d.mean)
	var curve []step
	sum, last := 0.0, -1.0
	tail := math.NaN()
	for i, s := range list {
		if s.unknown() {
			break
		}
		sum += float64(s.mass)
		share := sum / total
		// The share of so many equal masses is not exactly a half.
		if math.IsNaN(d.median) && share >= 0.5-1e-6 {
			d.median = float64(s.ms)
		}
		if math.IsNaN(tail) && share >= 0.95-1e-6 {
			tail = float64(s.ms)
		}
		end := i+1 == len(list) || list[i+1].unknown()
		if end || list[i+1].ms != s.ms && share-last >= 1.0/maxSteps {
			curve, last = append(curve, step{float64(s.ms), share}), share
		}
	}
	d.Median, d.Tail = millis(d.median), millis(tail)
	return d, curve
}

// band returns the curves between which nine of ten placements lie, at the latencies that divide all samples evenly. ends are where the
// samples of each placement end.
func band(all []sample, ends []int) (low, high []step) {
	if len(ends) == 0 {
		return nil, nil
	}
	var sorted []float32
	for _, s := range all {
		if !s.unknown() {
			sorted = append(sorted, s.ms)
		}
	}
	if len(sorted) == 0 {
		return nil, nil
	}
	slices.Sort(sorted)
	const points = 48
	at := map[float32]bool{}
	for k := range points {
		at[sorted[k*(len(sorted)-1)/(points-1)]] = true
	}
	grid := slices.Sorted(maps.Keys(at))
	shares := make([][]float64, len(grid))
	from := 0
	for _, end := range ends {
		below, total := make([]float64, len(grid)), 0.0
		for _, s := range all[from:end] {
			total += float64(s.mass)
			if s.unknown() {
				continue
			}
			if i, _ := slices.BinarySearch(grid, s.ms); i < len(grid) {
				below[i] += float64(s.mass)
			}
		}
		sum := 0.0
		for i := range grid {
			sum += below[i]
			shares[i] = append(shares[i], sum/total)
		}
		from = end
	}
	for i, ms := range grid {
		slices.Sort(shares[i])
		n := len(shares[i])
		low = append(low, step{float64(ms), shares[i][n/20]})
		high = append(high, step{float64(ms), shares[i][n-1-n/20]})
	}
	return low, high
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// millis writes milliseconds as an RTT; "" where they are unknown.
func millis(ms float64) string {
	rtt, _ := latency.FromSeconds(ms / 1000)
	if !rtt.Known() {
		return ""
	}
	return rtt.String()
}
