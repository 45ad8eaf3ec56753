// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
)

const defaultLeaseDuration = 15 * time.Second

// leading returns the lease's holder, since when it is silent, and whether it is in time.
func (f *facts) leading() (holder string, silent time.Duration, fresh bool) {
	l := f.lease(f.namespace)
	lease := f.leases[l.namespace+"/"+l.name].object
	if lease == nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" || lease.Spec.RenewTime == nil {
		return "", 0, false
	}
	life := defaultLeaseDuration
	if s := lease.Spec.LeaseDurationSeconds; s != nil {
		life = time.Duration(*s) * time.Second
	}
	silent = max(0, f.now.Sub(lease.Spec.RenewTime.Time))
	return *lease.Spec.HolderIdentity, silent, silent <= life+5*time.Second // the clocks may differ a little
}

// runs reports whether a scheduler is at work, as far as can be seen.
func (f *facts) runs() bool {
	if _, _, fresh := f.leading(); fresh {
		return true
	}
	if f.config != nil && !f.config.elects() {
		return slices.ContainsFunc(f.podsOf(schedulerApp), podReady)
	}
	return false
}

func podReady(p *v1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.PodReady && c.Status == v1.ConditionTrue })
}

func checkScheduler(f *facts, o *outcome) {
	if f.deployments.err != nil {
		o.cannot(f.deployments.err)
	}
	if !o.needs(f, cli.Pods) || f.deployments.err != nil {
		return
	}
	list := f.schedulers()
	if len(list) == 0 {
		holder, _, fresh := f.leading()
		switch {
		case fresh:
			o.ok("outside of any Deployment: %s leads", holder)
		case len(f.podsOf(schedulerApp)) > 0:
			f.ailing(o, f.podsOf(schedulerApp))
		default:
			o.problem("no scheduler is running: there is neither a Deployment of fogsched in "+f.namespace+" nor a current lease",
				[]string{"pods with schedulerName: fogsched wait, and nobody else takes them"}, Mend{Commands: []string{f.install()}})
		}
		return
	}
	for _, d := range list {
		want := int32(1)
		if d.Spec.Replicas != nil {
			want = *d.Spec.Replicas
		}
		ready := d.Status.ReadyReplicas
		name := d.Namespace + "/" + d.Name
		switch {
		case want == 0:
			o.problem("no scheduler is running: Deployment "+name+" is scaled to 0",
				[]string{"pods with schedulerName: fogsched wait, and nobody else takes them"},
				f.itself(Mend{Commands: []string{fmt.Sprintf("kubectl -n %s scale deployment %s --replicas=1", d.Namespace, d.Name)}}))
		case ready == 0:
			f.unready(o, d, StatusProblem, "no scheduler is ready: 0 of "+count(int(want), "replica")+" of Deployment "+name)
		case ready < want:
			f.unready(o, d, StatusWarning, fmt.Sprintf("%d of %d replicas of Deployment %s are ready: the rest could not take over", ready, want, name))
		default:
			o.ok("%d of %d ready (Deployment %s)", ready, want, name)
			f.restarting(o)
		}
	}
}

// itself adds that a scheduler in the default one's place must be placed by somebody, too.
func (f *facts) itself(m Mend) Mend {
	if f.replacesDefault() && !f.runs() {
		m.Text = "no scheduler is there to place the scheduler's own pod: start the stock one until it runs (on kubeadm: mv /etc/kubernetes/kube-scheduler.yaml " +
			"/etc/kubernetes/manifests/)"
	}
	return m
}

// unready says why a Deployment has too few ready pods.
func (f *facts) unready(o *outcome, d *appsv1.Deployment, severity Status, message string) {
	found := Finding{Severity: severity, Message: message, Mend: Mend{
		Text: "see why", Commands: []string{fmt.Sprintf("kubectl -n %s describe pods -l %s=%s", f.namespace, appLabel, schedulerApp)},
	}}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == v1.ConditionTrue {
			found.Evidence = append(found.Evidence, "pods are refused: "+c.Message)
		}
	}
	for _, p := range f.podsOf(schedulerApp) {
		if a := ailment(p); a != nil {
			found.Evidence = append(found.Evidence, a.evidence)
			found.Mend = a.mend
			if p.Spec.NodeName == "" {
				found.Mend = f.itself(a.mend)
			}
		}
	}
	found.Evidence = firstOf(found.Evidence)
	o.Findings = append(o.Findings, found)
}

// ailing says what is wrong with pods that no Deployment counts.
func (f *facts) ailing(o *outcome, pods []*v1.Pod) {
	for _, p := range pods {
		a := ailment(p)
		if a == nil {
			continue
		}
		o.problem("the scheduler's pod "+p.Namespace+"/"+p.Name+" does not run", []string{a.evidence}, a.mend)
	}
	if len(o.Findings) == 0 {
		o.ok("%s, without a Deployment", count(len(pods), "pod"))
	}
}

// restarting warns of a scheduler that runs between two crashes.
func (f *facts) restarting(o *outcome) {
	const often = 3
	for _, p := range f.podsOf(schedulerApp) {
		for i := range p.Status.ContainerStatuses {
			c := &p.Status.ContainerStatuses[i]
			t := c.LastTerminationState.Terminated
			if c.RestartCount < often || t == nil || f.now.Sub(t.FinishedAt.Time) > time.Hour {
				continue
			}
			o.warning(fmt.Sprintf("the scheduler %s restarted %d times, last %s ago", p.Name, c.RestartCount, age(f.now.Sub(t.FinishedAt.Time))),
				[]string{terminated(t)}, Mend{Text: "see what it said before it ended", Commands: []string{
					fmt.Sprintf("kubectl -n %s logs %s --previous --tail=20", p.Namespace, p.Name),
				}})
		}
	}
}

func terminated(t *v1.ContainerStateTerminated) string {
	s := fmt.Sprintf("it ended with exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		s += " (" + t.Reason + ")"
	}
	if m := strings.TrimSpace(t.Message); m != "" {
		lines := strings.Split(m, "\n")
		s += ": " + lines[len(lines)-1]
	}
	return s
}

// illness is why a pod does not run, and the mend.
type illness struct {
	evidence string
	mend     Mend
}

// ailment says why a pod is not ready; nil for one that is.
func ailment(p *v1.Pod) *illness {
	if podReady(p) {
		return nil
	}
	ns := "kubectl -n " + p.Namespace
	for i := range p.Status.ContainerStatuses {
		c := &p.Status.ContainerStatuses[i]
		w := c.State.Waiting
		if w == nil {
			continue
		}
		said := w.Reason
		if w.Message != "" {
			said += ": " + w.Message
		}
		a := &illness{evidence: p.Name + " waits: " + said}
		switch w.Reason {
		case "ErrImageNeverPull":
			a.mend = Mend{
				Text:     "load the image into the nodes, or name one that they can pull in manifests/overlays/…/kustomization.yaml and apply that",
				Commands: []string{"kind load docker-image " + c.Image + "   # minikube image load, microk8s images import, k3s ctr images import"},
			}
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName":
			a.mend = Mend{Text: "name an image that the nodes can pull in manifests/overlays/…/kustomization.yaml and apply that, or load it into the nodes (image " + c.Image + ")"}
		case "CreateContainerConfigError":
			a.mend = Mend{Text: "what the message names is missing or not allowed: apply the manifests again", Commands: []string{ns + " describe pod " + p.Name}}
		case "CrashLoopBackOff":
			if t := c.LastTerminationState.Terminated; t != nil {
				a.evidence = fmt.Sprintf("%s crashed %d times: %s", p.Name, c.RestartCount, terminated(t))
				if t.Reason == "OOMKilled" {
					a.mend = Mend{Text: "raise the memory limit of its container (500 nodes: 256Mi; 5,000 nodes: 2Gi)", Commands: []string{ns + " edit deployment " + schedulerApp}}
					return a
				}
			}
			a.mend = Mend{Text: "the last lines of its log name the field or the file; mend that", Commands: []string{ns + " logs " + p.Name + " --previous --tail=20"}}
		default:
			a.mend = Mend{Commands: []string{ns + " describe pod " + p.Name}}
		}
		return a
	}
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
			return &illness{p.Name + " is not placed: " + c.Message, Mend{Text: "make room for it, or mend what the message names", Commands: []string{ns + " describe pod " + p.Name}}}
		}
	}
	return &illness{fmt.Sprintf("%s is %s and not ready", p.Name, p.Status.Phase), Mend{Commands: []string{ns + " logs " + p.Name + " --tail=20"}}}
}

func checkLeader(f *facts, o *outcome) {
	replicas := 0
	for _, d := range f.schedulers() {
		n := 1
		if d.Spec.Replicas != nil {
			n = int(*d.Spec.Replicas)
		}
		replicas += n
	}
	if f.config != nil && f.config.err == nil && !f.config.elects() {
		o.ok("leader election is off")
		if replicas > 1 {
			o.problem(fmt.Sprintf("leader election is off with %d replicas: each of them places every pod", replicas),
				[]string{"ConfigMap " + f.config.configMap + ": leaderElection.leaderElect: false"},
				f.editConfig("set leaderElection.leaderElect: true"))
		}
		return
	}
	l := f.lease(f.namespace)
	name := l.namespace + "/" + l.name
	read := f.leases[name]
	if read.err != nil {
		o.cannot(read.err)
		return
	}
	holder, silent, fresh := f.leading()
	logs := fmt.Sprintf("kubectl -n %s logs deployment/%s --tail=20", f.namespace, f.deploymentName())
	switch {
	case read.object == nil && len(f.schedulers()) == 0:
		o.problem("no scheduler has ever led: there is no lease "+name, nil, Mend{Text: "install one:", Commands: []string{f.install()}})
		return
	case read.object == nil:
		o.problem("no scheduler has ever led: there is no lease "+name, nil,
			Mend{Text: "start a scheduler, or see why the one that runs cannot write its lease (RBAC: check rbac)", Commands: []string{logs}})
		return
	case holder == "":
		o.problem("no scheduler leads: nobody holds the lease "+name, []string{"the last one gave it back, as one that is stopped does"},
			Mend{Text: "start a scheduler, or see why the one that runs does not take the lease", Commands: []string{logs}})
		return
	case !fresh:
		o.problem(fmt.Sprintf("no scheduler leads: %s renewed the lease %s last %s ago", holder, name, age(silent)),
			[]string{"pods with schedulerName: fogsched wait, and nobody else takes them"},
			Mend{Text: "start the scheduler again, or see why it does not take the lease", Commands: []string{f.restart(), logs}})
		return
	}
	o.ok("%s, renewed %s ago (lease %s)", holder, age(silent), name)
	who, _, _ := strings.Cut(holder, "_")
	if l.name == "kube-scheduler" && f.Missing[cli.Nodes] == nil &&
		slices.ContainsFunc(f.Nodes, func(n *v1.Node) bool { return n.Name == who }) {
		o.problem("the stock scheduler leads, on "+who+": fogsched stands by, and pods with schedulerName: fogsched wait",
			[]string{"lease " + name + " is held by " + holder},
			Mend{Text: "stop the stock scheduler; on kubeadm, kind and minikube, on each control-plane node:", Commands: []string{
				"mv /etc/kubernetes/manifests/kube-scheduler.yaml /etc/kubernetes/",
			}})
	}
}

// editConfig is how to change the scheduler's configuration.
func (f *facts) editConfig(text string) Mend {
	if f.helm() != "" {
		return Mend{Text: text + " in the chart's values", Commands: []string{f.install()}}
	}
	return Mend{
		Text:     text + " in config.yaml of the manifests and apply them; or in the ConfigMap and restart:",
		Commands: []string{fmt.Sprintf("kubectl -n %s edit configmap %s", f.namespace, f.config.configMap), f.restart()},
	}
}

// readable notes why the configuration cannot be judged.
func (o *outcome) readable(f *facts) bool {
	switch {
	case f.configMaps.err != nil:
		o.cannot(f.configMaps.err)
	case f.config == nil:
		o.cannotBecause(fmt.Sprintf("there is no ConfigMap with a KubeSchedulerConfiguration (%s) in %s", configKey, f.namespace))
	case f.config.err != nil:
		o.cannotBecause("the configuration cannot be read (check config)")
	default:
		return true
	}
	return false
}

func checkConfig(f *facts, o *outcome) {
	if f.config != nil && f.config.strict != nil {
		o.problem("the scheduler refuses its configuration", []string{"ConfigMap " + f.config.configMap + ": " + strings.TrimPrefix(f.config.strict.Error(), "error unmarshaling JSON: ")},
			f.editConfig("mend what it names"))
		if f.config.err != nil {
			return
		}
	}
	if !o.readable(f) {
		return
	}
	c := f.config
	at := "ConfigMap " + c.configMap
	served, withLatency := f.profiles()
	o.ok("profiles %s (%s)", strings.Join(served, ", "), at)
	if len(c.Profiles) == 0 || len(withLatency) == 0 {
		o.problem("no profile enables the plugin NodeLatency: pods are placed without regard to latency",
			[]string{at + ": profiles " + strings.Join(served, ", ")},
			f.editConfig("add `- name: NodeLatency` with `weight: 5` to plugins.multiPoint.enabled, and NodeLatency to plugins.bind.enabled and plugins.postFilter.enabled"))
		return
	}
	for i := range c.Profiles {
		p := &c.Profiles[i]
		name := profileName(p)
		for _, err := range checkArgs(p) {
			o.problem("profile "+name+": the scheduler refuses the arguments of a plugin", []string{err.Error()}, f.editConfig("mend what it names"))
		}
		if !slices.Contains(withLatency, name) {
			continue
		}
		for _, m := range missingPoints(p) {
			o.problem(fmt.Sprintf("profile %s: NodeLatency is not enabled at %s: %s", name, m.name, m.without), []string{at},
				f.editConfig("add `- name: NodeLatency` to plugins.multiPoint.enabled"))
		}
		for _, rule := range []struct{ point, other, without string }{
			{"bind", defaultBinder, "is never asked, and no pod gets the annotation fogsched.dev/placement, which says why it is where it is"},
			{"postFilter", defaultPreemption, "comes too late: in a cluster of 200 nodes and more pods are not narrowed to the nearest nodes"},
		} {
			k := slices.IndexFunc(points, func(x point) bool { return x.name == rule.point })
			list := order(p, points[k])
			mine, other := slices.Index(list, nodelatency.Name), slices.Index(list, rule.other)
			if mine >= 0 && other >= 0 && other < mine {
				o.warning(fmt.Sprintf("profile %s: at %s NodeLatency comes after %s and %s", name, rule.point, rule.other, rule.without), []string{at},
					f.editConfig(fmt.Sprintf("name NodeLatency in plugins.%s.enabled as well as in plugins.multiPoint.enabled", rule.point)))
			}
		}
		if w := weight(p); w <= 1 {
			o.warning(fmt.Sprintf("profile %s: NodeLatency has weight %d, no more than the least of the default plugins: latency hardly decides", name, w), []string{at},
				f.editConfig("set weight: 5 at NodeLatency in plugins.multiPoint.enabled"))
		}
	}
}

const (
	defaultQPS = 50
	enoughQPS  = 100
	shippedQPS = 1000
)

func checkQPS(f *facts, o *outcome) {
	if !o.readable(f) {
		return
	}
	qps := f.config.ClientConnection.QPS
	said := fmt.Sprintf("clientConnection.qps: %g", qps)
	if qps == 0 {
		qps, said = defaultQPS, fmt.Sprintf("clientConnection.qps is not set: kube-scheduler's default is %d", defaultQPS)
	}
	if qps < 0 {
		o.ok("no limit")
		return
	}
	o.ok("%g", qps)
	if qps < enoughQPS {
		o.warning(fmt.Sprintf("the scheduler may send %g requests a second, which holds it to some %d pods a second", qps, max(1, int(qps/2.5))),
			[]string{"ConfigMap " + f.config.configMap + ": " + said},
			f.editConfig(fmt.Sprintf("set clientConnection: {qps: %d, burst: %d}", shippedQPS, 2*shippedQPS)))
	}
}

// unsigned are the plugins in fogsched's binary that have no SignPod.
var unsigned = []string{"Coscheduling", "NetworkOverhead", "TargetLoadPacking", "LoadVariationRiskBalancing", "LowRiskOverCommitment", "Peaks"}

func checkBatching(f *facts, o *outcome) {
	if !o.readable(f) {
		return
	}
	o.ok("on: pods that place alike share their work")
	if n := len(f.config.Extenders); n > 0 {
		o.warning("batching is off in all profiles: there is "+count(n, "extender"), []string{"ConfigMap " + f.config.configMap + ": extenders"},
			f.editConfig("take the extender out, if you can; else this is its price"))
	}
	for i := range f.config.Profiles {
		p := &f.config.Profiles[i]
		var guilty []string
		for _, name := range unsigned {
			if enabled(p, name) {
				guilty = append(guilty, name)
			}
		}
		if len(guilty) > 0 {
			o.warning(fmt.Sprintf("profile %s: batching is off because of %s, which cannot sign pods", profileName(p), strings.Join(guilty, ", ")),
				[]string{"pods that are alike are computed one by one: herds of replicas are placed more slowly"},
				f.editConfig("use NodeMetrics in place of Trimaran's plugins, and NodeLatency in place of NetworkOverhead; or give the pods that need "+
					strings.Join(guilty, ", ")+" a profile of their own"))
		}
	}
}

// meshNodes is up to how many nodes the probers measure all pairs without being told.
const meshNodes = 33

func checkInterest(f *facts, o *outcome) {
	if !o.readable(f) {
		return
	}
	name := f.interest()
	if name == "" {
		o.ok("not used: up to %d nodes all pairs are measured", meshNodes)
		if len(f.Nodes) > meshNodes && len(f.proberSets()) > 0 {
			o.warning(fmt.Sprintf("the probers are not told which nodes policies are about, and with %d nodes each of them measures 16 others", len(f.Nodes)),
				[]string{"limits rest on measurements: pairs that nobody measured count as unmeasured"},
				f.editConfig("set args.interest of NodeLatency to "+f.namespace+"/fogprobe-interest"))
		}
		return
	}
	o.ok("in ConfigMap %s", name)
	namespace, object, _ := strings.Cut(name, "/")
	if namespace != f.namespace {
		return // what is elsewhere was not read
	}
	if !slices.ContainsFunc(f.configMaps.items, func(c v1.ConfigMap) bool { return c.Name == object }) {
		o.warning("there is no ConfigMap "+name+": the scheduler cannot tell the probers which nodes policies are about", nil,
			Mend{Commands: []string{fmt.Sprintf("kubectl -n %s create configmap %s", namespace, object)}})
	}
}
