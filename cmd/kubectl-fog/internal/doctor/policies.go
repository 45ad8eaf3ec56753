// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/intent"
)

func policyName(p *v1alpha1.LatencyPolicy) string { return p.Namespace + "/" + p.Name }

func editPolicy(p *v1alpha1.LatencyPolicy) string {
	return fmt.Sprintf("kubectl -n %s edit latencypolicy %s", p.Namespace, p.Name)
}

func checkPolicies(f *facts, o *outcome) {
	if !o.needs(f, cli.Policies, cli.Pods) {
		return
	}
	o.ok("%s", count(len(f.Policies), "policy"))
	for _, p := range f.Policies {
		_, selector, err := intent.FromPolicy(p)
		if err != nil {
			o.problem("LatencyPolicy "+policyName(p)+" is not valid, and does nothing", []string{err.Error()}, Mend{Commands: []string{editPolicy(p)}})
			continue
		}
		if !slices.ContainsFunc(f.Pods, func(pod *v1.Pod) bool {
			return pod.Namespace == p.Namespace && live(pod) && selector.Matches(labels.Set(pod.Labels))
		}) {
			o.warning("LatencyPolicy "+policyName(p)+" selects no pod", []string{"selector " + selector.String()},
				Mend{Text: "compare it with the labels of the pods that it is for", Commands: []string{
					fmt.Sprintf("kubectl -n %s get pods --show-labels", p.Namespace), editPolicy(p),
				}})
		}
	}
}

// wish is an intent, and who has it.
type wish struct {
	who  string // "LatencyPolicy shop/web", "the annotation of Deployment shop/web"
	edit string
	*intent.Intent
}

func (f *facts) wishes() (out []wish) {
	for _, p := range f.Policies {
		if in, _, err := intent.FromPolicy(p); err == nil {
			out = append(out, wish{"LatencyPolicy " + policyName(p), editPolicy(p), in})
		}
	}
	seen := map[string]wish{}
	for _, p := range f.Pods {
		text := p.Annotations[v1alpha1.LatencyAnnotation]
		if text == "" || !live(p) {
			continue
		}
		w := workload(p)
		if _, ok := seen[w]; ok {
			continue
		}
		if in, err := intent.ParseAnnotation(p.Namespace, text); err == nil {
			kind, name := owner(p)
			seen[w] = wish{"the annotation of " + w, fmt.Sprintf("kubectl -n %s edit %s %s", p.Namespace, kind, name), in}
		}
	}
	for _, w := range slices.Sorted(maps.Keys(seen)) {
		out = append(out, seen[w])
	}
	return out
}

func checkTargets(f *facts, o *outcome) {
	if !o.needs(f, cli.Pods, cli.Services, cli.Nodes, cli.Namespaces) {
		o.needs(f, cli.Policies)
		return
	}
	o.needs(f, cli.Policies)
	wishes := f.wishes()
	entries := 0
	for _, w := range wishes {
		for i := range w.Entries {
			entries++
			f.checkTarget(o, w, &w.Entries[i])
		}
	}
	o.ok("all there (%s of policies and annotations)", count(entries, "entry"))
}

func (f *facts) checkTarget(o *outcome, w wish, e *intent.Entry) {
	at := []string{w.who + ", " + e.Path}
	edit := Mend{Commands: []string{w.edit}}
	placed := func(namespace func(string) bool, selector labels.Selector) bool {
		return slices.ContainsFunc(f.Pods, func(p *v1.Pod) bool {
			return p.Spec.NodeName != "" && live(p) && namespace(p.Namespace) && selector.Matches(labels.Set(p.Labels))
		})
	}
	switch {
	case e.Service != nil:
		name := e.Service.Namespace + "/" + e.Service.Name
		i := slices.IndexFunc(f.Services, func(s *v1.Service) bool { return s.Namespace == e.Service.Namespace && s.Name == e.Service.Name })
		if i < 0 {
			mend := edit
			var near []string
			for _, s := range f.Services {
				if s.Namespace == e.Service.Namespace {
					near = append(near, s.Name)
				} else if s.Name == e.Service.Name {
					mend.Text = fmt.Sprintf("there is one in namespace %s: name it (namespace: %s)", s.Namespace, s.Namespace)
				}
			}
			if like := nearest(e.Service.Name, near); like != "" && mend.Text == "" {
				mend.Text = "did you mean service: " + like + "?"
			}
			if mend.Text == "" {
				mend.Text = "create the Service, or name another"
			}
			o.problem("the target of "+w.who+" does not exist: there is no Service "+name, at, mend)
			return
		}
		s := f.Services[i]
		switch {
		case len(s.Spec.Selector) == 0:
			o.warning("the target Service "+name+" has no selector: fogsched cannot tell on which nodes its pods are", at,
				Mend{Text: "give the Service a selector, or name the pods or the nodes in its place (pods:, nodes:)", Commands: edit.Commands})
		case !placed(func(ns string) bool { return ns == s.Namespace }, labels.SelectorFromSet(s.Spec.Selector)):
			o.warning("the target Service "+name+" selects no placed pod: nothing can be near to it yet", append(at, "its selector is "+labels.FormatLabels(s.Spec.Selector)),
				Mend{Text: "start its pods, or compare its selector with their labels", Commands: []string{fmt.Sprintf("kubectl -n %s get pods -o wide --show-labels", s.Namespace)}})
		}
	case e.Pods != nil:
		in := func(ns string) bool { return ns == e.Pods.Namespace }
		if e.Pods.NamespaceSelector != nil {
			in = func(ns string) bool {
				return slices.ContainsFunc(f.Namespaces, func(n *v1.Namespace) bool {
					return n.Name == ns && e.Pods.NamespaceSelector.Matches(labels.Set(n.Labels))
				})
			}
		}
		if !placed(in, e.Pods.Selector) {
			o.warning("the target of "+w.who+" is no placed pod: "+e.Target(), at,
				Mend{Text: "start them, or compare the selector with their labels (pods of other namespaces need namespaceSelector)", Commands: edit.Commands})
		}
	case e.Nodes != nil:
		if !slices.ContainsFunc(f.Nodes, func(n *v1.Node) bool { return e.Nodes.Matches(labels.Set(n.Labels)) }) {
			mend := edit
			if r, selectable := e.Nodes.Requirements(); selectable && len(r) == 1 && len(r[0].Values()) == 1 {
				mend.Text = "label the nodes that are meant, or mend the selector:"
				mend.Commands = append([]string{fmt.Sprintf("kubectl label node NAME %s=%s", r[0].Key(), r[0].Values().UnsortedList()[0])}, mend.Commands...)
			}
			o.problem("the target of "+w.who+" does not exist: no node has "+e.Nodes.String(), at, mend)
		}
	}
}

// statusPatience is how long a scheduler takes at most to write the status of a new policy.
const statusPatience = 30 * time.Second

func checkStatus(f *facts, o *outcome) {
	if !o.needs(f, cli.Policies) {
		return
	}
	o.ok("all up to date")
	if len(f.Policies) == 0 {
		o.ok("no policies")
	}
	var never, behind []string
	for _, p := range f.Policies {
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionLimitsKept)
		switch {
		case c == nil && f.now.Sub(p.CreationTimestamp.Time) > statusPatience:
			never = append(never, policyName(p))
		case c != nil && p.Status.ObservedGeneration < p.Generation && f.now.Sub(changed(p)) > statusPatience:
			behind = append(behind, policyName(p))
		}
		if d := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionDemandKnown); d != nil && d.Status != metav1.ConditionTrue {
			o.warning("LatencyPolicy "+policyName(p)+" names a demand that is not known: all its clients count the same", []string{d.Reason + ": " + d.Message},
				Mend{Text: "define it under args.prometheus.demands of the plugin NodeLatency, or see why its query has no values", Commands: []string{editPolicy(p)}})
		}
	}
	mend := Mend{
		Text:     "a running scheduler writes it within seconds: see the checks scheduler, leader and rbac (update on latencypolicies/status)",
		Commands: []string{fmt.Sprintf("kubectl -n %s logs deployment/%s | grep -i latencypolic", f.namespace, f.deploymentName())},
	}
	if len(never) > 0 {
		o.problem(fmt.Sprintf("the status of %s was never written", count(len(never), "policy")), []string{some(never)}, mend)
	}
	if len(behind) > 0 {
		o.problem(fmt.Sprintf("the status of %s is about an older spec", count(len(behind), "policy")), []string{some(behind)}, mend)
	}
}

// changed returns when the object was last written, the status apart; its creation where it does not say.
func changed(p *v1alpha1.LatencyPolicy) time.Time {
	at := p.CreationTimestamp.Time
	for _, m := range p.ManagedFields {
		if m.Subresource == "" && m.Time != nil && m.Time.After(at) {
			at = m.Time.Time
		}
	}
	return at
}

func checkLimits(f *facts, o *outcome) {
	if !o.needs(f, cli.Policies) {
		return
	}
	kept := 0
	for _, p := range f.Policies {
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionLimitsKept)
		if c == nil {
			continue
		}
		see := fmt.Sprintf("kubectl fog policy status %s -n %s", p.Name, p.Namespace)
		switch c.Reason {
		case v1alpha1.ReasonKept:
			kept++
		case v1alpha1.ReasonBroken:
			o.warning("LatencyPolicy "+policyName(p)+": a limit is broken now", []string{c.Message},
				Mend{Text: "see the worst pair; pods are not moved by themselves: what is restarted is placed anew", Commands: []string{see, "kubectl -n " + p.Namespace + " rollout restart deployment NAME"}})
		case v1alpha1.ReasonUnmeasured:
			o.warning("LatencyPolicy "+policyName(p)+": nobody measured a pair that has a limit", []string{c.Message},
				Mend{Text: "see which, and why: the checks of the probers", Commands: []string{see}})
		}
	}
	o.ok("%d kept, none broken", kept)
}
