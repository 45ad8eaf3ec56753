// SPDX-License-Identifier: Apache-2.0

package index

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// model is the index as one would write it without a thought for speed: it keeps the facts and computes every answer anew.
type model struct {
	pods       map[types.UID]modelPod
	namespaces map[string]labels.Set
	services   map[string]*v1.Service // by namespace/name
	nodes      map[string]labels.Set
}

type modelPod struct {
	pod     *v1.Pod
	node    string
	assumed bool
}

func (m *model) count(in func(p *v1.Pod) bool) []NodeCount {
	counts := map[countKey]int32{}
	for _, p := range m.pods {
		if in(p.pod) {
			counts[countKey{p.node, RevisionOf(p.pod)}]++
		}
	}
	var list []NodeCount
	for k, c := range counts {
		list = append(list, NodeCount{Node: k.node, Revision: k.rev, Count: c})
	}
	slices.SortFunc(list, compareNodeCount)
	return list
}

// question is something that was asked of the index, and how to answer it from the facts.
type question struct {
	name     string
	got      func() []NodeCount
	want     func() []NodeCount
	workload func() *Workload
	in       func(p *v1.Pod) bool // nil: not about pods
	release  func()
}

// TestModel does thousands of random things to an index and to the model, and asks both everything after each.
func TestModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { runModel(t, rand.New(rand.NewPCG(seed, 9)), 1500) })
	}
}

func runModel(t *testing.T, rng *rand.Rand, steps int) {
	pick := func(words ...string) string { return words[rng.IntN(len(words))] }
	namespaces := []string{"one", "two", "three"}
	x := New()
	m := &model{
		pods: map[types.UID]modelPod{}, namespaces: map[string]labels.Set{}, services: map[string]*v1.Service{},
		nodes: map[string]labels.Set{},
	}
	randomPod := func() *podBuilder {
		b := makePod(fmt.Sprintf("p%d", rng.IntN(25))).ns(pick(namespaces...))
		b.UID = types.UID(b.Namespace + b.Name)
		if rng.IntN(4) > 0 {
			b.label("app", pick("a", "b", "c"))
		}
		if rng.IntN(3) == 0 {
			b.label("tier", pick("x", "y"))
		}
		switch rng.IntN(4) {
		case 0:
			b.revision(pick("web", "api"), pick("1", "2"))
		case 1:
			b.owner("StatefulSet", "db")
		}
		if rng.IntN(4) == 0 {
			b.annotation(pick("{}", "[]", ""))
		}
		return b
	}
	selectors := []string{"app=a", "app=b", "app in (a)", "app in (a,c)", "app!=a", "app", "!app", "tier=x,app=a", "app=b,tier", "tier notin (x)"}

	var asked []question
	ask := func() {
		ns, sel := pick(namespaces...), parse(t, pick(selectors...))
		var q question
		switch rng.IntN(5) {
		case 0:
			w := x.Pods(ns, nil, sel)
			q = question{name: "pods " + ns + " " + sel.String(), workload: func() *Workload { return w }, release: func() { x.Release(w) }}
			q.in = func(p *v1.Pod) bool { return p.Namespace == ns && sel.Matches(labels.Set(p.Labels)) }
		case 1:
			nss := parse(t, pick("", "team=red", "team!=red", "team"))
			w := x.Pods(ns, nss, sel)
			q = question{name: "pods in " + nss.String() + " " + sel.String(), workload: func() *Workload { return w }, release: func() { x.Release(w) }}
			q.in = func(p *v1.Pod) bool {
				set, ok := m.namespaces[p.Namespace]
				return ok && nss.Matches(set) && sel.Matches(labels.Set(p.Labels))
			}
		case 2:
			group := AnnotatedGroup(randomPod().annotation(pick("{}", "[]", "")).obj())
			w := x.Annotated(ns, group)
			q = question{name: "annotated " + ns + " " + group, workload: func() *Workload { return w }, release: func() { x.Release(w) }}
			q.in = func(p *v1.Pod) bool { return p.Namespace == ns && AnnotatedGroup(p) == group }
		case 3:
			name := pick("s", "t")
			s := x.Service(ns, name)
			q = question{name: "service " + ns + "/" + name, workload: func() *Workload { return s.State().Workload }, release: func() { x.ReleaseService(s) }}
			q.in = func(p *v1.Pod) bool {
				svc := m.services[ns+"/"+name]
				return svc != nil && len(svc.Spec.Selector) > 0 && p.Namespace == ns &&
					labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(p.Labels))
			}
		default:
			s := x.NodeSet(sel)
			q = question{name: "nodes " + sel.String(), got: s.Nodes, release: func() { x.ReleaseNodeSet(s) }}
			q.want = func() []NodeCount {
				var list []NodeCount
				for _, n := range slices.Sorted(maps.Keys(m.nodes)) {
					if sel.Matches(m.nodes[n]) {
						list = append(list, NodeCount{Node: n, Count: 1})
					}
				}
				return list
			}
		}
		if q.in != nil {
			q.want = func() []NodeCount { return m.count(q.in) }
			q.got = func() []NodeCount {
				if w := q.workload(); w != nil {
					return w.Nodes()
				}
				return nil
			}
		}
		asked = append(asked, q)
	}

	for step := range steps {
		var did string
		switch rng.IntN(12) {
		case 0, 1, 2:
			p := randomPod()
			if rng.IntN(5) > 0 {
				p.node(pick("n1", "n2", "n3"))
			}
			switch rng.IntN(8) {
			case 0:
				p.terminating()
			case 1:
				p.phase(v1.PodPhase(pick(string(v1.PodSucceeded), string(v1.PodFailed))))
			}
			did = fmt.Sprintf("SetPod %s on %q %v", p.UID, p.Spec.NodeName, p.Labels)
			x.SetPod(p.obj())
			switch {
			case p.DeletionTimestamp != nil || p.Status.Phase != "":
				delete(m.pods, p.UID)
			case p.Spec.NodeName != "":
				m.pods[p.UID] = modelPod{p.obj(), p.Spec.NodeName, false}
			}
		case 3:
			p := randomPod()
			did = "DeletePod " + string(p.UID)
			x.DeletePod(p.UID)
			delete(m.pods, p.UID)
		case 4, 5:
			p, node := randomPod(), pick("n1", "n2", "n3")
			did = fmt.Sprintf("Assume %s on %s %v", p.UID, node, p.Labels)
			x.Assume(p.obj(), node)
			if old, ok := m.pods[p.UID]; !ok || old.assumed {
				if slices.ContainsFunc(asked, func(q question) bool { return q.in != nil && q.in(p.obj()) }) {
					m.pods[p.UID] = modelPod{p.obj(), node, true}
				} else {
					delete(m.pods, p.UID)
				}
			}
		case 6:
			p := randomPod()
			did = "Forget " + string(p.UID)
			x.Forget(p.UID)
			if m.pods[p.UID].assumed {
				delete(m.pods, p.UID)
			}
		case 7:
			ns := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pick(namespaces...), Labels: map[string]string{}}}
			if rng.IntN(3) > 0 {
				ns.Labels["team"] = pick("red", "blue")
			}
			if rng.IntN(4) == 0 {
				did = "DeleteNamespace " + ns.Name
				x.DeleteNamespace(ns.Name)
				delete(m.namespaces, ns.Name)
			} else {
				did = fmt.Sprintf("SetNamespace %s %v", ns.Name, ns.Labels)
				x.SetNamespace(ns)
				m.namespaces[ns.Name] = ns.Labels
			}
		case 8:
			svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: pick(namespaces...), Name: pick("s", "t")}}
			if rng.IntN(4) > 0 {
				svc.Spec.Selector = map[string]string{"app": pick("a", "b")}
			}
			key := svc.Namespace + "/" + svc.Name
			if rng.IntN(4) == 0 {
				did = "DeleteService " + key
				x.DeleteService(svc.Namespace, svc.Name)
				delete(m.services, key)
			} else {
				did = fmt.Sprintf("SetService %s %v", key, svc.Spec.Selector)
				x.SetService(svc)
				m.services[key] = svc
			}
		case 9:
			n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: pick("n1", "n2", "n3"), Labels: map[string]string{"app": pick("a", "b"), "tier": pick("x", "y")}}}
			if rng.IntN(3) == 0 {
				did = "DeleteNode " + n.Name
				x.DeleteNode(n.Name)
				delete(m.nodes, n.Name)
			} else {
				did = fmt.Sprintf("SetNode %s %v", n.Name, n.Labels)
				x.SetNode(n)
				m.nodes[n.Name] = n.Labels
			}
		case 10:
			did = "ask"
			ask()
		default:
			if len(asked) == 0 {
				continue
			}
			i := rng.IntN(len(asked))
			did = "release " + asked[i].name
			asked[i].release()
			asked = slices.Delete(asked, i, i+1)
		}

		for _, q := range asked {
			got := slices.Clone(q.got())
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(q.want(), got); diff != "" {
				t.Fatalf("step %d, after %s: %s (-want +got):\n%s", step, did, q.name, diff)
			}
		}
		p := randomPod().obj()
		matching := map[*Workload]int{}
		for _, w := range x.Matching(nil, p) {
			if matching[w]++; matching[w] > 1 {
				t.Fatalf("step %d, after %s: Matching has a workload twice", step, did)
			}
		}
		wanted := map[*Workload]bool{}
		for _, q := range asked {
			if q.in == nil || q.workload() == nil {
				continue
			}
			if _, ok := matching[q.workload()]; ok != q.in(p) {
				t.Fatalf("step %d, after %s: that pod %s/%s %v is in %s is %t, want %t", step, did, p.Namespace, p.Name, p.Labels, q.name, ok, q.in(p))
			}
			wanted[q.workload()] = true
		}
		for w := range matching {
			if !wanted[w] {
				t.Fatalf("step %d, after %s: Matching has a workload %q that nobody asked for", step, did, w.key)
			}
		}
	}
	for _, q := range asked {
		q.release()
	}
	if len(x.workloads) != 0 || len(x.nodeSets) != 0 {
		t.Errorf("%d workloads and %d sets of nodes are left after all releases", len(x.workloads), len(x.nodeSets))
	}
	for uid, r := range x.pods {
		if len(r.in) != 0 {
			t.Errorf("pod %s is still in %d workloads", uid, len(r.in))
		}
	}
}
