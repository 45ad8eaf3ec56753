// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/component-helpers/resource"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

// noMetrics notes that the scheduler's own figures are not at hand, and how to get them: its port asks for a token or a certificate, which
// the API server's proxy does not pass on.
func (o *outcome) noMetrics(f *facts) {
	o.cannotBecause("the scheduler's own metrics were not given (--metrics)")
	o.HowTo = &Mend{Text: "for the metrics, an account that may read them and nothing else:"}
	const account = "fogsched-metrics-reader"
	if !slices.ContainsFunc(f.accounts.items, func(a v1.ServiceAccount) bool { return a.Name == account }) {
		o.HowTo.Commands = []string{
			fmt.Sprintf("kubectl -n %s create serviceaccount %s", f.namespace, account),
			fmt.Sprintf("kubectl create clusterrolebinding %s --clusterrole=system:monitoring --serviceaccount=%s:%s", account, f.namespace, account),
		}
	}
	o.HowTo.Commands = append(o.HowTo.Commands,
		fmt.Sprintf("kubectl -n %s port-forward deployment/%s 10259 &", f.namespace, f.deploymentName()),
		fmt.Sprintf(`curl -sk -H "Authorization: Bearer $(kubectl -n %s create token %s)" https://localhost:10259/metrics > metrics.txt`, f.namespace, account),
		"kubectl fog doctor --metrics=metrics.txt")
}

func checkPrometheus(f *facts, o *outcome) {
	if !o.readable(f) {
		return
	}
	list := f.prometheuses()
	if len(list) == 0 {
		o.ok("none is configured")
		return
	}
	var addresses []string
	for _, p := range list {
		addresses = append(addresses, p.address)
		f.checkService(o, p)
	}
	o.ok("%s answers", strings.Join(addresses, ", "))
	if f.metrics == nil {
		o.noMetrics(f)
		return
	}
	f.checkQueries(o, addresses)
	f.checkSeries(o)
}

// checkService looks for the Service that an address names, and for what is behind it.
func (f *facts) checkService(o *outcome, p prometheusArgs) {
	ref, ok := p.service()
	if !ok || !o.needs(f, cli.Services, cli.Namespaces) {
		return
	}
	name := ref.namespace + "/" + ref.name
	at := []string{fmt.Sprintf("ConfigMap %s: %s.prometheus.address: %s", f.config.configMap, p.plugin, p.address)}
	i := slices.IndexFunc(f.Services, func(s *v1.Service) bool { return s.Namespace == ref.namespace && s.Name == ref.name })
	if i < 0 {
		if !slices.ContainsFunc(f.Namespaces, func(n *v1.Namespace) bool { return n.Name == ref.namespace }) && !strings.Contains(p.address, ".svc") {
			o.warning(fmt.Sprintf("the Prometheus %s is no Service of this cluster: there is no namespace %s", p.address, ref.namespace), at,
				f.editConfig("if it was meant to be one, mend prometheus.address (kubectl get services -A finds it)"))
			return
		}
		o.problem(fmt.Sprintf("Prometheus cannot be reached: there is no Service %s", name), at,
			f.editConfig("mend prometheus.address (kubectl get services -A finds it)"))
		return
	}
	svc := f.Services[i]
	if !slices.ContainsFunc(svc.Spec.Ports, func(s v1.ServicePort) bool { return strconv.Itoa(int(s.Port)) == ref.port }) {
		var has []string
		for _, s := range svc.Spec.Ports {
			has = append(has, strconv.Itoa(int(s.Port)))
		}
		o.problem(fmt.Sprintf("Prometheus cannot be reached: Service %s has no port %s", name, ref.port), append(at, "its ports: "+strings.Join(has, ", ")),
			f.editConfig("mend the port in prometheus.address"))
		return
	}
	if svc.Spec.Type == v1.ServiceTypeExternalName {
		return
	}
	if f.slices.err != nil {
		o.cannot(f.slices.err)
		return
	}
	for i := range f.slices.items {
		s := &f.slices.items[i]
		if s.Namespace != ref.namespace || s.Labels[discoveryv1.LabelServiceName] != ref.name {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				return
			}
		}
	}
	mend := Mend{Text: "start Prometheus, or see why its pods are not ready", Commands: []string{fmt.Sprintf("kubectl -n %s describe service %s", ref.namespace, ref.name)}}
	o.problem(fmt.Sprintf("Prometheus cannot be reached: no pod behind Service %s is ready", name), at, mend)
}

// silence is how long a query may be without an answer: the interval is 30 s unless it is set, an hour at most.
const silence = 5 * time.Minute

func (f *facts) checkQueries(o *outcome, addresses []string) {
	const queries, answered = "fogsched_prometheus_queries_total", "fogsched_prometheus_last_answer_timestamp_seconds"
	var failing []string
	how := map[string]float64{}
	for _, q := range f.metrics.values(queries, "query") {
		ok, last, total := f.metrics.sum(queries, "query", q, "result", string(prometheus.ResultOK)), f.metrics.sum(answered, "query", q), f.metrics.sum(queries, "query", q)
		if total == 0 || ok > 0 && f.now.Sub(seconds(last)) < silence {
			continue
		}
		for _, r := range prometheus.Results() {
			if n := f.metrics.sum(queries, "query", q, "result", string(r)); n > 0 && r != prometheus.ResultOK {
				how[string(r)] += n
			}
		}
		failing = append(failing, q)
	}
	if len(failing) == 0 {
		return
	}
	var evidence []string
	for _, r := range slices.Sorted(maps.Keys(how)) {
		evidence = append(evidence, fmt.Sprintf("%s: %.0f", r, how[r]))
	}
	evidence = []string{"queries without an answer: " + some(failing), "results " + strings.Join(evidence, ", ")}
	mend := f.editConfig("mend prometheus.address, or start Prometheus; it must be reachable from the scheduler's pod (NetworkPolicy fogsched lets out only to pods with " +
		"app.kubernetes.io/name=prometheus on port 9090)")
	message := "Prometheus does not answer: " + strings.Join(addresses, ", ")
	switch {
	case how[string(prometheus.ResultUnreachable)] > 0:
		message = "Prometheus cannot be reached: " + strings.Join(addresses, ", ")
	case how[string(prometheus.ResultRefused)] > 0:
		message = "Prometheus refuses to answer: " + strings.Join(addresses, ", ")
		mend = f.editConfig("mend prometheus.address (is it Prometheus, with its path?) or tokenFile")
	case how[string(prometheus.ResultBadQuery)] > 0:
		message = "Prometheus does not understand a query"
		mend = f.editConfig("mend the PromQL of " + some(failing) + "; try it in Prometheus itself")
	}
	o.problem(message, evidence, mend)
}

// unjoinedShare is above which share of series without a node there is something wrong.
const unjoinedShare = 0.1

func (f *facts) checkSeries(o *outcome) {
	const series = "fogsched_prometheus_series"
	for _, q := range f.metrics.values(series, "query") {
		joined, unjoined, rejected := f.metrics.sum(series, "query", q, "state", "joined"), f.metrics.sum(series, "query", q, "state", "unjoined"), f.metrics.sum(series, "query", q, "state", "rejected")
		total := joined + unjoined + rejected
		evidence := []string{fmt.Sprintf("of %.0f series %.0f joined, %.0f unjoined, %.0f rejected", total, joined, unjoined, rejected)}
		mend := f.editConfig("set nodeLabel (sourceLabel, destinationLabel of latencies), or a regular expression for it, so that it names a node: its name, InternalIP, hostname, or the IP of a pod on it")
		switch {
		case total == 0:
			if f.metrics.sum("fogsched_prometheus_queries_total", "query", q, "result", string(prometheus.ResultOK)) > 0 {
				o.warning("the query "+q+" has an empty answer", evidence, f.editConfig("mend its PromQL; try it in Prometheus itself"))
			}
		case joined == 0 && unjoined > 0:
			o.problem("no series of the query "+q+" names a node of this cluster", evidence, mend)
		case unjoined > unjoinedShare*total:
			o.warning("some series of the query "+q+" name no node of this cluster", evidence, mend)
		case joined == 0:
			o.problem("every series of the query "+q+" is rejected: no number, or too old", evidence,
				Mend{Text: "see whether Prometheus scrapes its targets (Status → Targets), and raise maxAge if it scrapes rarely"})
		}
	}
}

func seconds(unix float64) time.Time { return time.UnixMilli(int64(unix * 1000)) }

func checkMetrics(f *facts, o *outcome) {
	if f.metrics == nil {
		o.noMetrics(f)
		return
	}
	m := f.metrics
	scored, blind := m.sum("fogsched_nodelatency_decisions_total", "result", "scored"), m.sum("fogsched_nodelatency_decisions_total", "result", "no_data")
	o.ok("%.0f pods placed by latency", scored)
	logs := Mend{Text: "the first of them is in the log with its stack: report it", Commands: []string{
		fmt.Sprintf("kubectl -n %s logs deployment/%s | grep -m1 'Recovered a panic'", f.namespace, f.deploymentName()),
	}}
	if n := m.sum("fogsched_plugin_panics_recovered_total"); n > 0 {
		var where []string
		for _, s := range m.of("fogsched_plugin_panics_recovered_total") {
			if s.value > 0 {
				where = append(where, fmt.Sprintf("%s at %s: %.0f", s.labels["plugin"], s.labels["extension_point"], s.value))
			}
		}
		o.problem(fmt.Sprintf("%.0f panics were recovered: a bug of fogsched; the pods were placed as if they asked for nothing", n), firstOf(where), logs)
	}
	if blind > 0 && blind >= scored*unjoinedShare {
		o.warning(fmt.Sprintf("%.0f of %.0f pods were placed without data on any candidate", blind, blind+scored), nil,
			Mend{Text: "see whether there is data now: the checks of the probers and of Prometheus", Commands: []string{"kubectl fog nodes"}})
	}
	if at := m.sum("fogsched_store_snapshot_timestamp_seconds"); at > 0 {
		if newest := m.sum("fogsched_store_newest_sample_timestamp_seconds"); newest > 0 && f.now.Sub(seconds(newest)) > 10*time.Minute {
			o.warning(fmt.Sprintf("the newest measurement that the scheduler has is %s old", age(f.now.Sub(seconds(newest)))), nil,
				Mend{Text: "see why the probers are silent: the checks of the probers", Commands: []string{"kubectl fog nodes"}})
		}
	}
	if n := m.sum("fogsched_nodelatency_demands_unused_total"); n > 0 {
		o.warning(fmt.Sprintf("%.0f times a demand could not be used, and all clients counted the same", n),
			[]string{fmt.Sprintf("undefined in the arguments: %.0f, without a value: %.0f", m.sum("fogsched_nodelatency_demands_unused_total", "reason", "undefined"),
				m.sum("fogsched_nodelatency_demands_unused_total", "reason", "unknown"))},
			Mend{Text: "define it under args.prometheus.demands, or see whether its query has values"})
	}
}

// tight is above which share of a node's resources two schedulers are likely to give the rest away twice.
const tight = 0.85

func checkTwoSchedulers(f *facts, o *outcome) {
	if !o.needs(f, cli.Pods, cli.Nodes) {
		return
	}
	replaces := f.replacesDefault()
	served, _ := f.profiles()
	o.ok("fogsched and others have not taken the same room")
	if replaces {
		o.ok("one scheduler serves all pods")
	}
	replace := Mend{
		Text:     "run one scheduler with two profiles in their place, and delete the pods that were refused:",
		Commands: []string{"kubectl apply --server-side --force-conflicts -k manifests/overlays/replace-default", "kubectl delete pods -A --field-selector=status.phase=Failed"},
	}
	if homes := f.homes(); len(homes) > 1 {
		o.problem("fogsched is installed more than once: in "+strings.Join(homes, ", "), []string{"each of them takes the pods with schedulerName: fogsched"},
			Mend{Text: "remove all but one, or give each profiles of its own names"})
	}
	stock := f.leases["kube-system/kube-scheduler"].object
	if mine := f.lease(f.namespace); replaces && f.config != nil && (mine.namespace != "kube-system" || mine.name != "kube-scheduler") && stock != nil && stock.Spec.RenewTime != nil &&
		f.now.Sub(stock.Spec.RenewTime.Time) < time.Minute {
		o.problem("two schedulers serve the profile default-scheduler: the stock one runs, and fogsched does not share its lease",
			[]string{fmt.Sprintf("ConfigMap %s: leaderElection names the lease %s/%s, and not kube-system/kube-scheduler", f.config.configMap, mine.namespace, mine.name)},
			f.editConfig("set leaderElection.resourceName: kube-scheduler and resourceNamespace: kube-system"))
	}

	// What kubelets refused.
	type refused struct{ names, by, nodes []string }
	out := refused{}
	reasons := map[string]int{}
	for _, p := range f.Pods {
		if p.Status.Phase == v1.PodFailed && strings.HasPrefix(p.Status.Reason, "OutOf") {
			out.names = append(out.names, p.Namespace+"/"+p.Name)
			out.nodes = append(out.nodes, p.Spec.NodeName)
			out.by = append(out.by, p.Spec.SchedulerName)
			reasons[p.Status.Reason]++
		}
	}
	if len(out.names) > 0 {
		slices.Sort(out.nodes)
		slices.Sort(out.by)
		var why []string
		for _, r := range slices.Sorted(maps.Keys(reasons)) {
			why = append(why, fmt.Sprintf("%s: %d", r, reasons[r]))
		}
		evidence := []string{
			strings.Join(why, ", "), "on " + some(slices.Compact(out.nodes)), "pods " + some(out.names), "of schedulers " + some(slices.Compact(out.by)),
		}
		message := fmt.Sprintf("kubelets refused %s that did not fit any more", count(len(out.names), "pod"))
		if replaces {
			o.warning(message, evidence, Mend{Text: "they date from when two schedulers ran, or something else fills the nodes; delete them:", Commands: replace.Commands[1:]})
		} else {
			o.problem("two schedulers fight for one node's room: "+message, evidence, replace)
		}
	}
	conflicts := map[string]bool{}
	for i := range f.events.items {
		e := &f.events.items[i]
		if strings.Contains(e.Message, "is already assigned to node") {
			conflicts[e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name] = true
		}
	}
	if len(conflicts) > 0 {
		o.problem("two schedulers placed the same pods: "+count(len(conflicts), "bind conflict"), []string{"pods " + some(slices.Sorted(maps.Keys(conflicts)))},
			Mend{Text: "each schedulerName must be a profile of one scheduler alone: see which schedulers run", Commands: []string{"kubectl get leases -A | grep -i sched"}})
	}
	if replaces || len(o.Findings) > 0 {
		return
	}
	if nodes := f.sharedAndFull(served); len(nodes) > 0 {
		o.warning(fmt.Sprintf("fogsched and another scheduler both fill %s: they can give the last room away twice", count(len(nodes), "node")), firstOf(nodes), Mend{
			Text: "run one scheduler with two profiles in their place:", Commands: replace.Commands[:1],
		})
	}
}

// sharedAndFull returns the nodes that are nearly full of pods of fogsched and of another scheduler.
func (f *facts) sharedAndFull(served []string) (out []string) {
	type load struct {
		cpu, memory, pods int64
		mine, others      int
	}
	loads := map[string]*load{}
	for _, p := range f.Pods {
		if p.Spec.NodeName == "" || !live(p) {
			continue
		}
		l := loads[p.Spec.NodeName]
		if l == nil {
			l = &load{}
			loads[p.Spec.NodeName] = l
		}
		requests := resource.PodRequests(p, resource.PodResourcesOptions{})
		l.cpu += requests.Cpu().MilliValue()
		l.memory += requests.Memory().Value()
		l.pods++
		kind, _ := owner(p)
		switch {
		case kind == "DaemonSet" || kind == "Node": // their place is no choice
		case slices.Contains(served, p.Spec.SchedulerName):
			l.mine++
		default:
			l.others++
		}
	}
	for _, n := range f.Nodes {
		l := loads[n.Name]
		if l == nil || l.mine == 0 || l.others == 0 {
			continue
		}
		free := n.Status.Allocatable
		for _, r := range []struct {
			name       string
			used, have int64
		}{{"CPU", l.cpu, free.Cpu().MilliValue()}, {"memory", l.memory, free.Memory().Value()}, {"pods", l.pods, free.Pods().Value()}} {
			if r.have > 0 && float64(r.used) >= tight*float64(r.have) {
				out = append(out, fmt.Sprintf("%s: %.0f%% of its %s, %d pods of fogsched and %d of others", n.Name, 100*float64(r.used)/float64(r.have), r.name, l.mine, l.others))
				break
			}
		}
	}
	return out
}
