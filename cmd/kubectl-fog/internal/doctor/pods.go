// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
)

// owner returns whose pod it is, as kubectl names it: of a Deployment's ReplicaSet, the Deployment.
func owner(p *v1.Pod) (kind, name string) {
	c := metav1.GetControllerOf(p)
	if c == nil {
		return "Pod", p.Name
	}
	if hash := p.Labels["pod-template-hash"]; c.Kind == "ReplicaSet" && hash != "" && strings.HasSuffix(c.Name, "-"+hash) {
		return "Deployment", strings.TrimSuffix(c.Name, "-"+hash)
	}
	return c.Kind, c.Name
}

// workload names the owner of a pod: "Deployment shop/web".
func workload(p *v1.Pod) string {
	kind, name := owner(p)
	return kind + " " + p.Namespace + "/" + name
}

// setScheduler is how to give the pods of an owner to a scheduler.
func setScheduler(kind, namespace, name, scheduler string) Mend {
	switch kind {
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet":
		return Mend{Commands: []string{fmt.Sprintf(`kubectl -n %s patch %s %s -p '{"spec":{"template":{"spec":{"schedulerName":"%s"}}}}'`,
			namespace, strings.ToLower(kind), name, scheduler)}}
	case "CronJob":
		return Mend{Commands: []string{fmt.Sprintf(`kubectl -n %s patch cronjob %s -p '{"spec":{"jobTemplate":{"spec":{"template":{"spec":{"schedulerName":"%s"}}}}}}'`,
			namespace, name, scheduler)}}
	}
	return Mend{Text: fmt.Sprintf("schedulerName cannot be changed in a %s that exists: delete it, and create it again with schedulerName: %s", kind, scheduler)}
}

func checkInUse(f *facts, o *outcome) {
	if !o.needs(f, cli.Pods) {
		return
	}
	_, names := f.profiles()
	if len(names) == 0 {
		o.cannotBecause("no profile has the plugin NodeLatency (check config)")
		return
	}
	placed, pending := 0, 0
	for _, p := range f.Pods {
		if !slices.Contains(names, p.Spec.SchedulerName) || !live(p) {
			continue
		}
		if p.Spec.NodeName == "" {
			pending++
		} else {
			placed++
		}
	}
	o.ok("%s placed, %d pending (schedulerName %s)", count(placed, "pod"), pending, strings.Join(names, ", "))
	if placed+pending == 0 {
		o.warning("no pod uses fogsched: none has schedulerName: "+strings.Join(names, " or "), nil, Mend{
			Text:     "give a pod template that schedulerName, for example",
			Commands: []string{fmt.Sprintf(`kubectl -n NAMESPACE patch deployment NAME -p '{"spec":{"template":{"spec":{"schedulerName":"%s"}}}}'`, names[len(names)-1])},
		})
	}
}

// touched reports whether some scheduler had a look at a pod.
func touched(p *v1.Pod) bool {
	if p.Spec.NodeName != "" {
		return true
	}
	return slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodScheduled && c.Reason != v1.PodReasonSchedulingGated
	})
}

// unserved returns, by schedulerName, the pending pods that no scheduler has ever looked at, and nobody serves the name.
func (f *facts) unserved() map[string][]*v1.Pod {
	served, _ := f.profiles()
	known := map[string]bool{v1.DefaultSchedulerName: true}
	for _, s := range served {
		known[s] = true
	}
	for _, p := range f.Pods {
		if touched(p) && metav1.GetControllerOf(p) != nil {
			known[p.Spec.SchedulerName] = true // whoever it is, it runs or ran
		}
	}
	out := map[string][]*v1.Pod{}
	for _, p := range f.Pods {
		if !live(p) || touched(p) || known[p.Spec.SchedulerName] || len(p.Spec.SchedulingGates) > 0 {
			continue
		}
		out[p.Spec.SchedulerName] = append(out[p.Spec.SchedulerName], p)
	}
	return out
}

func checkSchedulerName(f *facts, o *outcome) {
	if !o.needs(f, cli.Pods) {
		return
	}
	served, _ := f.profiles()
	o.ok("no pod waits for a scheduler that is not there")
	unserved := f.unserved()
	for _, name := range slices.Sorted(maps.Keys(unserved)) {
		pods := unserved[name]
		byOwner := map[string]*v1.Pod{}
		for _, p := range pods {
			byOwner[workload(p)] = p
		}
		owners := slices.Sorted(maps.Keys(byOwner))
		right := nearest(name, served)
		message := fmt.Sprintf("no scheduler serves schedulerName: %s; %s of it will stay Pending", name, count(len(pods), "pod"))
		if right != "" {
			message += fmt.Sprintf(" (meant: %s)", right)
		}
		mend := Mend{Text: "name a scheduler that runs: " + strings.Join(append(slices.Clone(served), v1.DefaultSchedulerName), ", ")}
		if right != "" {
			mend = Mend{}
			for _, w := range owners[:min(3, len(owners))] {
				kind, object := owner(byOwner[w])
				m := setScheduler(kind, byOwner[w].Namespace, object, right)
				mend.Commands = append(mend.Commands, m.Commands...)
				if m.Text != "" {
					mend.Text = m.Text
				}
			}
		}
		o.problem(message, []string{some(owners)}, mend)
	}
}

// template is a pod template, and whose.
type template struct {
	kind, namespace, name string
	spec                  *v1.PodTemplateSpec
}

// templates returns all pod templates that were read, those that make no pods left out.
func (f *facts) templates(o *outcome) (out []template) {
	for _, err := range []error{f.deployments.err, f.daemonSets.err, f.statefulSets.err, f.jobs.err, f.cronJobs.err} {
		if err != nil {
			o.cannot(err)
		}
	}
	for i := range f.deployments.items {
		d := &f.deployments.items[i]
		out = append(out, template{"Deployment", d.Namespace, d.Name, &d.Spec.Template})
	}
	for i := range f.statefulSets.items {
		s := &f.statefulSets.items[i]
		out = append(out, template{"StatefulSet", s.Namespace, s.Name, &s.Spec.Template})
	}
	for i := range f.cronJobs.items {
		c := &f.cronJobs.items[i]
		out = append(out, template{"CronJob", c.Namespace, c.Name, &c.Spec.JobTemplate.Spec.Template})
	}
	for i := range f.jobs.items {
		j := &f.jobs.items[i]
		if metav1.GetControllerOf(j) == nil && j.Status.CompletionTime == nil {
			out = append(out, template{"Job", j.Namespace, j.Name, &j.Spec.Template})
		}
	}
	return out
}

func checkTemplates(f *facts, o *outcome) {
	_, names := f.profiles()
	if len(names) == 0 {
		o.cannotBecause("no profile has the plugin NodeLatency (check config)")
		return
	}
	list := f.templates(o)
	governed := f.governing()
	typos := f.unserved()
	asking := 0
	for _, t := range list {
		why := ""
		if t.spec.Annotations[v1alpha1.LatencyAnnotation] != "" {
			why = "has the annotation " + v1alpha1.LatencyAnnotation
		} else if p := governed(t.namespace, t.spec.Labels); p != "" {
			why = "is governed by LatencyPolicy " + p
		}
		if why == "" {
			continue
		}
		asking++
		scheduler := t.spec.Spec.SchedulerName
		if slices.Contains(names, scheduler) || len(typos[scheduler]) > 0 { // a typo is what schedulerName is about
			continue
		}
		if scheduler == "" {
			scheduler = v1.DefaultSchedulerName
		}
		o.problem(fmt.Sprintf("%s %s/%s asks for latency, and %s places its pods: nothing comes of it", t.kind, t.namespace, t.name, scheduler),
			[]string{"its template " + why}, setScheduler(t.kind, t.namespace, t.name, names[len(names)-1]))
	}
	o.ok("%s of %d ask for latency, and fogsched places their pods", count(asking, "template"), len(list))
	o.needs(f, cli.Policies)
}

// governing returns a function that names a policy for the labels of a pod.
func (f *facts) governing() func(namespace string, l map[string]string) string {
	type rule struct {
		name     string
		selector labels.Selector
	}
	rules := map[string][]rule{}
	for _, p := range f.Policies {
		if _, selector, err := intent.FromPolicy(p); err == nil {
			rules[p.Namespace] = append(rules[p.Namespace], rule{p.Name, selector})
		}
	}
	return func(namespace string, l map[string]string) string {
		for _, r := range rules[namespace] {
			if r.selector.Matches(labels.Set(l)) {
				return r.name
			}
		}
		return ""
	}
}

func checkAnnotations(f *facts, o *outcome) {
	if !o.needs(f, cli.Pods) {
		return
	}
	type bad struct {
		err  error
		pods int
		kind string
		name string
		ns   string
	}
	seen, valid := map[string]*bad{}, 0
	note := func(key, kind, namespace, name, text string, pods int) {
		if b := seen[key]; b != nil {
			b.pods += pods
			return
		}
		if _, err := intent.ParseAnnotation(namespace, text); err != nil {
			seen[key] = &bad{err, pods, kind, name, namespace}
			return
		}
		valid++
	}
	for _, t := range f.templates(&outcome{}) {
		if text := t.spec.Annotations[v1alpha1.LatencyAnnotation]; text != "" {
			note(t.kind+" "+t.namespace+"/"+t.name, t.kind, t.namespace, t.name, text, 0)
		}
	}
	for _, p := range f.Pods {
		if text := p.Annotations[v1alpha1.LatencyAnnotation]; text != "" && live(p) {
			kind, name := owner(p)
			note(workload(p), kind, p.Namespace, name, text, 1)
		}
	}
	o.ok("all valid")
	if valid == 0 {
		o.ok("none")
	}
	for _, key := range slices.Sorted(maps.Keys(seen)) {
		b := seen[key]
		o.problem(fmt.Sprintf("the annotation %s of %s is not valid, and is not used", v1alpha1.LatencyAnnotation, key),
			[]string{b.err.Error(), count(b.pods, "pod")},
			Mend{Text: "mend what it names (docs/latency-policy.md has every field)", Commands: []string{
				fmt.Sprintf("kubectl -n %s edit %s %s", b.ns, strings.ToLower(b.kind), b.name),
			}})
	}
}

// excludedBy finds "14 node(s) exceed the latency limit" in what the scheduler says of a pending pod.
var excludedBy = regexp.MustCompile(`(\d+) (node\(s\) [^,.;:(]+)`)

func checkPending(f *facts, o *outcome) {
	if !o.needs(f, cli.Pods) {
		return
	}
	served, _ := f.profiles()
	o.ok("no pod waits for a limit")
	silent := []string{}
	for _, p := range f.Pods {
		if p.Spec.NodeName != "" || !live(p) || !slices.Contains(served, p.Spec.SchedulerName) || len(p.Spec.SchedulingGates) > 0 {
			continue
		}
		name := p.Namespace + "/" + p.Name
		i := slices.IndexFunc(p.Status.Conditions, func(c v1.PodCondition) bool { return c.Type == v1.PodScheduled })
		if i < 0 {
			silent = append(silent, name)
			continue
		}
		message := p.Status.Conditions[i].Message
		if !strings.Contains(message, nodelatency.ReasonExceeded) && !strings.Contains(message, nodelatency.ReasonUnmeasured) {
			continue
		}
		var evidence []string
		nodes := 0
		for _, m := range excludedBy.FindAllStringSubmatch(message, -1) {
			n, _ := strconv.Atoi(m[1])
			nodes += n
			evidence = append(evidence, fmt.Sprintf("%d %s", n, strings.TrimSpace(m[2])))
		}
		text := "see what would make it fit; raise the limit, or use whenUnsatisfiable: ScheduleAnyway"
		if !strings.Contains(message, nodelatency.ReasonExceeded) {
			text = "see why nobody measured these pairs (the checks of the probers), or use whenUnmeasured: Allow"
		}
		o.warning(fmt.Sprintf("pod %s is Pending: its latency limits and other conditions exclude all nodes", name), evidence,
			Mend{Text: text, Commands: []string{fmt.Sprintf("kubectl fog explain pod %s -n %s", p.Name, p.Namespace)}})
	}
	if len(silent) > 0 && !f.runs() {
		slices.Sort(silent)
		o.problem(fmt.Sprintf("%s of fogsched wait, and no scheduler has looked at them", count(len(silent), "pod")), []string{some(silent)},
			Mend{Text: "start the scheduler: see the checks scheduler and leader"})
	}
}

// nearest returns the name that is written nearly alike; "" for none.
func nearest(name string, among []string) string {
	best, least := "", 4
	for _, a := range among {
		d := distance(strings.ToLower(name), strings.ToLower(a))
		if d < least && d < (len(a)+1)/2 {
			best, least = a, d
		}
	}
	return best
}

// distance is how many letters are to be changed, added or taken away (Levenshtein).
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i := range x {
		diagonal := row[0]
		row[0] = i + 1
		for j := range y {
			cost := diagonal
			if x[i] != y[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(y)]
}
