// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
	"github.com/fogsched/fogsched/pkg/store"
)

const installProber = "kubectl apply --server-side -k " + overlay

// proberSets returns the DaemonSets of fogprobe.
func (f *facts) proberSets() (out []*appsv1.DaemonSet) {
	for i := range f.daemonSets.items {
		if d := &f.daemonSets.items[i]; d.Labels[appLabel] == proberApp {
			out = append(out, d)
		}
	}
	return out
}

// otherSource names where the configuration has latencies from, beside NodeLatency objects; "" for nowhere.
func (f *facts) otherSource() string {
	if f.config == nil {
		return ""
	}
	for i := range f.config.Profiles {
		raw, ok := args(&f.config.Profiles[i], nodelatency.Name).(*runtime.Unknown)
		if !ok {
			continue
		}
		var a struct {
			ZonesFile  string `json:"zonesFile"`
			Prometheus struct {
				Latencies []any `json:"latencies"`
			} `json:"prometheus"`
		}
		if yaml.Unmarshal(raw.Raw, &a) != nil {
			continue
		}
		switch {
		case len(a.Prometheus.Latencies) > 0:
			return "Prometheus"
		case a.ZonesFile != "":
			return "a zone table"
		}
	}
	return ""
}

// maxAge is how long the scheduler uses a report after the next one was due.
func (f *facts) maxAge() time.Duration {
	if f.config != nil {
		for i := range f.config.Profiles {
			raw, ok := args(&f.config.Profiles[i], nodelatency.Name).(*runtime.Unknown)
			if !ok {
				continue
			}
			var a struct {
				MaxAge metav1.Duration `json:"maxAge"`
			}
			if yaml.Unmarshal(raw.Raw, &a) == nil && a.MaxAge.Duration > 0 {
				return a.MaxAge.Duration
			}
		}
	}
	return store.DefaultMaxAge
}

func checkProbers(f *facts, o *outcome) {
	if f.daemonSets.err != nil {
		o.cannot(f.daemonSets.err)
		return
	}
	sets := f.proberSets()
	if len(sets) == 0 {
		switch {
		case len(f.NodeLatencies) > 0:
			o.ok("no DaemonSet fogprobe, and yet %s", count(len(f.NodeLatencies), "report"))
		case f.otherSource() != "":
			o.ok("none; latencies come from %s", f.otherSource())
		default:
			o.problem("no prober runs: there is no DaemonSet fogprobe, and the scheduler is told of no other source of latencies",
				[]string{"nothing is known of any pair: pods are placed as by the stock scheduler"},
				Mend{Text: "install the prober, or feed the scheduler from the prober that you have (docs/prometheus.md):", Commands: []string{installProber}})
		}
		return
	}
	for _, d := range sets {
		name := d.Namespace + "/" + d.Name
		want, ready := d.Status.DesiredNumberScheduled, d.Status.NumberReady
		o.ok("%d of %d ready (DaemonSet %s)", ready, want, name)
		if d.Status.ObservedGeneration < d.Generation {
			continue // its numbers are old
		}
		switch {
		case want == 0 && len(f.Nodes) > 0:
			o.problem("no prober runs: DaemonSet "+name+" selects none of "+count(len(f.Nodes), "node"), nil,
				Mend{Text: "see its nodeSelector", Commands: []string{fmt.Sprintf("kubectl -n %s edit daemonset %s", d.Namespace, d.Name)}})
		case ready < want:
			f.silentProbers(o, d, want, ready)
		}
	}
}

func (f *facts) silentProbers(o *outcome, d *appsv1.DaemonSet, want, ready int32) {
	found := Finding{
		Severity: StatusWarning,
		Message:  fmt.Sprintf("%d of %d probers are not ready", want-ready, want),
		Mend:     Mend{Commands: []string{fmt.Sprintf("kubectl -n %s describe daemonset %s", d.Namespace, d.Name)}},
	}
	if ready == 0 {
		found.Severity = StatusProblem
	}
	for _, p := range f.Pods {
		if p.Namespace != d.Namespace || p.Labels[appLabel] != proberApp {
			continue
		}
		if a := ailment(p); a != nil {
			found.Evidence = append(found.Evidence, "node "+p.Spec.NodeName+": "+a.evidence)
			found.Mend = a.mend
		}
	}
	if int(want) > len(f.podsOf(proberApp)) {
		found.Evidence = append(found.Evidence, fmt.Sprintf("%d pods are missing: quota, Pod Security or a priority class may refuse them", int(want)-len(f.podsOf(proberApp))))
	}
	found.Evidence = firstOf(found.Evidence)
	o.Findings = append(o.Findings, found)
}

// restartProber is how to begin with one node's prober.
func restartProber(namespace, node string) Mend {
	return Mend{Text: "see what its prober says, and restart it:", Commands: []string{
		fmt.Sprintf("kubectl -n %s logs -l %s=%s --field-selector spec.nodeName=%s", namespace, appLabel, proberApp, node),
		fmt.Sprintf("kubectl -n %s delete pod -l %s=%s --field-selector spec.nodeName=%s", namespace, appLabel, proberApp, node),
	}}
}

// current reports whether the scheduler still uses a report.
func (f *facts) current(nl *v1alpha1.NodeLatency) (old time.Duration, ok bool) {
	at := nl.Status.ObservedAt
	if at == nil {
		return 0, false
	}
	refresh := time.Minute
	if r := nl.Status.RefreshInterval; r != nil {
		refresh = r.Duration
	}
	old = f.now.Sub(at.Time)
	return old, old <= refresh+f.maxAge()
}

func checkReports(f *facts, o *outcome) {
	if !o.needs(f, cli.Nodes, cli.NodeLatencies) {
		return
	}
	reports := map[string]*v1alpha1.NodeLatency{}
	for _, nl := range f.NodeLatencies {
		reports[nl.Name] = nl
	}
	nodes := map[string]bool{}
	var missing, notReady []string
	for _, n := range f.Nodes {
		nodes[n.Name] = true
		if reports[n.Name] == nil {
			missing = append(missing, n.Name)
			if !nodeReady(n) {
				notReady = append(notReady, n.Name)
			}
		}
	}
	var gone, stale, evidence []string
	for _, nl := range f.NodeLatencies {
		if !nodes[nl.Name] {
			gone = append(gone, nl.Name)
			continue
		}
		if old, ok := f.current(nl); !ok {
			stale = append(stale, nl.Name)
			if nl.Status.ObservedAt == nil {
				evidence = append(evidence, nl.Name+": nothing measured yet")
			} else {
				evidence = append(evidence, fmt.Sprintf("%s: %s old", nl.Name, age(old)))
			}
		}
	}
	o.ok("%d of %s, all current", len(reports)-len(gone), count(len(f.Nodes), "node"))
	source := f.otherSource()
	switch {
	case len(missing) == 0:
	case len(reports) == 0 && source != "":
		o.ok("none; latencies come from %s", source)
	case len(missing) == len(f.Nodes):
		mend := Mend{Commands: []string{installProber}}
		if len(f.proberSets()) > 0 {
			mend = Mend{Text: "a prober publishes within a minute; see what it says", Commands: []string{
				fmt.Sprintf("kubectl -n %s logs daemonset/%s --tail=20", f.namespace, proberApp),
			}}
		}
		o.problem("no data: no node has a NodeLatency, so nothing is known of any pair", []string{"pods are placed as by the stock scheduler"}, mend)
	default:
		more := []string{some(missing)}
		if len(notReady) > 0 {
			more = append(more, "not Ready: "+some(notReady))
		}
		o.warning(fmt.Sprintf("%s of %d have no NodeLatency: what others did not measure of them is unknown", count(len(missing), "node"), len(f.Nodes)), more, restartProber(f.namespace, missing[0]))
	}
	if len(stale) > 0 {
		found := Finding{
			Severity: StatusWarning,
			Message:  fmt.Sprintf("%s stale: the scheduler uses nothing of %s", reportsAre(len(stale)), some(stale)),
			Evidence: firstOf(evidence), Mend: restartProber(f.namespace, stale[0]),
		}
		if len(stale) == len(reports)-len(gone) {
			found.Severity = StatusProblem
		}
		o.Findings = append(o.Findings, found)
	}
	if len(gone) > 0 {
		slices.Sort(gone)
		o.warning(fmt.Sprintf("%s of nodes that are gone", count(len(gone), "report")), []string{some(gone), "a NodeLatency is owned by its Node and goes with it; these are not"},
			Mend{Commands: []string{"kubectl delete nodelatency " + gone[0]}})
	}
}

func reportsAre(n int) string {
	if n == 1 {
		return "1 report is"
	}
	return fmt.Sprintf("%d reports are", n)
}

func nodeReady(n *v1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue })
}

// usable are the reports that the scheduler would look at.
func (f *facts) usable() (out []*v1alpha1.NodeLatency) {
	for _, nl := range f.NodeLatencies {
		if _, ok := f.snapshot.Index(nl.Name); !ok || nl.Status.Starved {
			continue
		}
		if _, ok := f.current(nl); ok {
			out = append(out, nl)
		}
	}
	return out
}

// fewMeasured is below which share of all pairs something is wrong in a cluster that is small enough to measure all.
const fewMeasured = 0.9

func checkCoverage(f *facts, o *outcome) {
	if !o.needs(f, cli.Nodes, cli.NodeLatencies) {
		return
	}
	measured, pairs := f.snapshot.Coverage()
	degree := make([]int, f.snapshot.Len())
	for _, nl := range f.usable() {
		from, _ := f.snapshot.Index(nl.Name)
		for i := range nl.Status.Peers {
			to, ok := f.snapshot.Index(nl.Status.Peers[i].Node)
			if ok && to != from && f.snapshot.Estimate(from, to).Provenance.IsMeasured() {
				degree[from]++
				degree[to]++
			}
		}
	}
	var lonely []string
	for n, d := range degree {
		if d == 0 {
			lonely = append(lonely, f.snapshot.Name(int32(n)))
		}
	}
	if len(f.NodeLatencies) == 0 && f.otherSource() != "" {
		o.ok("not known here: latencies come from %s", f.otherSource())
		return
	}
	share := 0.0
	if pairs > 0 {
		share = float64(measured) / float64(pairs)
	}
	o.ok("%.0f%% of pairs measured, %d of %s reached", 100*share, f.snapshot.Len()-len(lonely), count(f.snapshot.Len(), "node"))
	numbers := fmt.Sprintf("%d of %s measured", measured, count(pairs, "pair"))
	switch {
	case pairs == 0 || measured == 0: // what the reports are about
		if pairs > 0 {
			o.problem("nothing is measured: pods are placed as by the stock scheduler", []string{numbers}, Mend{Text: "see the checks of the probers above"})
		}
	case len(lonely) > 0:
		o.warning(fmt.Sprintf("nothing is measured to or from %s", count(len(lonely), "node")), []string{some(lonely), numbers},
			Mend{Text: "a node without data ranks in the middle; see its prober:", Commands: restartProber(f.namespace, lonely[0]).Commands[:1]})
	case f.snapshot.Len() <= meshNodes && share < fewMeasured:
		o.warning(fmt.Sprintf("%.0f%% of pairs are measured, and with up to %d nodes all should be", 100*share, meshNodes), []string{numbers},
			Mend{Text: "see which are not", Commands: []string{"kubectl fog matrix"}})
	}
}

func checkLost(f *facts, o *outcome) {
	if !o.needs(f, cli.Nodes, cli.NodeLatencies) {
		return
	}
	zone := map[string]string{}
	for _, n := range f.Nodes {
		zone[n.Name] = cmp.Or(n.Labels[v1.LabelTopologyZone], n.Labels[v1.LabelTopologyRegion])
	}
	type pair struct{ a, b string }
	ordered := func(a, b string) pair { return pair{min(a, b), max(a, b)} }
	lost, tried := map[pair]bool{}, map[pair]bool{}
	for _, nl := range f.usable() {
		from, _ := f.snapshot.Index(nl.Name)
		for i := range nl.Status.Peers {
			p := &nl.Status.Peers[i]
			to, ok := f.snapshot.Index(p.Node)
			if !ok || p.Node == nl.Name {
				continue
			}
			k := ordered(nl.Name, p.Node)
			tried[k] = true
			if p.Typical == nil && p.Lost > 0 && !f.snapshot.Estimate(from, to).Provenance.IsMeasured() {
				lost[k] = true
			}
		}
	}
	o.ok("every pair that is probed answers (%s)", count(len(tried), "pair"))
	if len(lost) == 0 {
		return
	}
	// First the nodes that answer nobody, then the zones between which nothing answers, then the rest.
	attempts, failures := map[string]int{}, map[string]int{}
	between, broken := map[pair]int{}, map[pair]int{}
	for k := range tried {
		attempts[k.a]++
		attempts[k.b]++
		z := ordered(zone[k.a], zone[k.b])
		between[z]++
		if lost[k] {
			failures[k.a]++
			failures[k.b]++
			broken[z]++
		}
	}
	const open = "open UDP 8620 between the pods of fogprobe: a firewall, a security group or a NetworkPolicy is in the way"
	policies := Mend{Text: open, Commands: []string{"kubectl -n " + f.namespace + " get networkpolicies", "kubectl fog matrix"}}
	if len(lost) == len(tried) {
		o.problem(fmt.Sprintf("every probe is lost: none of %s answers", count(len(tried), "pair")), nil, policies)
		return
	}
	left := maps.Clone(lost)
	for _, z := range slices.SortedFunc(maps.Keys(broken), func(x, y pair) int { return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b)) }) {
		if z.a == z.b || z.a == "" || broken[z] < between[z] {
			continue
		}
		var names []string
		for k := range lost {
			if ordered(zone[k.a], zone[k.b]) == z {
				names = append(names, k.a+" – "+k.b)
				delete(left, k)
			}
		}
		slices.Sort(names)
		o.problem(fmt.Sprintf("every probe between %s and %s is lost (%s)", z.a, z.b, count(len(names), "pair")), []string{some(names)}, policies)
	}
	for _, n := range slices.Sorted(maps.Keys(failures)) {
		mine := 0
		for k := range left {
			if k.a == n || k.b == n {
				mine++
			}
		}
		if failures[n] < attempts[n] || mine < 2 {
			continue
		}
		for k := range left {
			if k.a == n || k.b == n {
				delete(left, k)
			}
		}
		o.problem(fmt.Sprintf("node %s answers no probe of %s", n, count(attempts[n], "peer")), nil, policies)
	}
	var names []string
	for k := range left {
		names = append(names, k.a+" – "+k.b)
	}
	if len(names) > 0 {
		slices.Sort(names)
		o.warning(fmt.Sprintf("every probe of %s is lost", count(len(names), "pair")), []string{some(names)}, policies)
	}
}

func checkStarved(f *facts, o *outcome) {
	if !o.needs(f, cli.NodeLatencies) {
		return
	}
	o.ok("no node is short of CPU")
	var names, evidence []string
	for _, nl := range f.NodeLatencies {
		if !nl.Status.Starved {
			continue
		}
		names = append(names, nl.Name)
		if c := nl.Status.Control; c != nil && c.Typical != nil {
			evidence = append(evidence, fmt.Sprintf("%s: its way to itself takes %s, 5ms is the most", nl.Name, c.Typical.Duration))
		}
	}
	if len(names) > 0 {
		o.warning(fmt.Sprintf("%s short of CPU, and nothing that is measured there is used: %s", nodesAre(len(names)), some(names)), firstOf(evidence),
			Mend{Text: "take load off them, or give fogprobe a larger CPU request", Commands: []string{
				"kubectl top node " + names[0], fmt.Sprintf("kubectl -n %s set resources daemonset %s --requests=cpu=50m", f.namespace, proberApp),
			}})
	}
}

func nodesAre(n int) string {
	if n == 1 {
		return "1 node is"
	}
	return fmt.Sprintf("%d nodes are", n)
}

func checkContradicted(f *facts, o *outcome) {
	if !o.needs(f, cli.Nodes, cli.NodeLatencies) {
		return
	}
	o.ok("the nodes agree")
	var names, evidence []string
	for _, nl := range f.usable() {
		n, _ := f.snapshot.Index(nl.Name)
		said := 0
		for i := range nl.Status.Peers {
			if _, ok := f.snapshot.Index(nl.Status.Peers[i].Node); ok && nl.Status.Peers[i].Typical != nil {
				said++
			}
		}
		if said > 0 && f.snapshot.MeasuredBy(n) == 0 {
			names = append(names, nl.Name)
			evidence = append(evidence, fmt.Sprintf("%s: none of its %s is believed", nl.Name, count(said, "measurement")))
		}
	}
	if len(names) > 0 {
		o.warning(fmt.Sprintf("most others contradict %s: %s not used", some(names), theirReports(len(names))), firstOf(evidence),
			Mend{
				Text:     "see whether something on the node answers or delays probes in its place (a proxy, a tunnel), whether its annotation fogsched.dev/position is right, and who has access to it",
				Commands: []string{"kubectl fog matrix --from=kubernetes.io/hostname=" + names[0]},
			})
	}
}

func theirReports(n int) string {
	if n == 1 {
		return "its report is"
	}
	return "their reports are"
}
