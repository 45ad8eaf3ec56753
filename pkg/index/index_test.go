// SPDX-License-Identifier: Apache-2.0

package index

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// podBuilder makes a pod that is named, and identified, by one word.
type podBuilder struct{ v1.Pod }

func makePod(name string) *podBuilder {
	return &podBuilder{v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{}}}}
}

func (b *podBuilder) ns(ns string) *podBuilder        { b.Namespace = ns; return b }
func (b *podBuilder) node(n string) *podBuilder       { b.Spec.NodeName = n; return b }
func (b *podBuilder) label(k, v string) *podBuilder   { b.Labels[k] = v; return b }
func (b *podBuilder) phase(p v1.PodPhase) *podBuilder { b.Status.Phase = p; return b }

func (b *podBuilder) annotation(text string) *podBuilder {
	b.Annotations = map[string]string{v1alpha1.LatencyAnnotation: text}
	return b
}

func (b *podBuilder) terminating() *podBuilder {
	b.DeletionTimestamp = &metav1.Time{}
	return b
}

func (b *podBuilder) owner(kind, name string) *podBuilder {
	yes := true
	b.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
	return b
}

// revision makes the pod one of a Deployment.
func (b *podBuilder) revision(app, hash string) *podBuilder {
	return b.label("pod-template-hash", hash).owner("ReplicaSet", app+"-"+hash)
}

func (b *podBuilder) obj() *v1.Pod { return &b.Pod }

func parse(t testing.TB, s string) labels.Selector {
	t.Helper()
	sel, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

// show prints a list as "node×count", with the revision where there is one.
func show(list []NodeCount) string {
	var words []string
	for _, nc := range list {
		w := fmt.Sprintf("%s×%d", nc.Node, nc.Count)
		if nc.Revision != (Revision{}) {
			w += "(" + nc.Revision.App + "/" + nc.Revision.Hash + ")"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func want(t *testing.T, step string, got []NodeCount, want string) {
	t.Helper()
	if s := show(got); s != want {
		t.Errorf("%s: on %q, want %q", step, s, want)
	}
}

func TestPods(t *testing.T) {
	web := func(name string) *podBuilder { return makePod(name).label("app", "web") }
	tests := map[string]struct {
		do   func(x *Index)
		want string
	}{
		"nothing": {do: func(*Index) {}},
		"pods are counted by node": {
			do: func(x *Index) {
				x.SetPod(web("1").node("b").obj())
				x.SetPod(web("2").node("a").obj())
				x.SetPod(web("3").node("b").obj())
			},
			want: "a×1 b×2",
		},
		"other labels, other namespaces and pods on no node do not count": {
			do: func(x *Index) {
				x.SetPod(makePod("1").label("app", "db").node("a").obj())
				x.SetPod(web("2").ns("other").node("a").obj())
				x.SetPod(web("3").obj())
				x.SetPod(makePod("4").node("a").obj())
			},
		},
		"the same event twice counts once": {
			do: func(x *Index) {
				x.SetPod(web("1").node("a").obj())
				x.SetPod(web("1").node("a").obj())
			},
			want: "a×1",
		},
		"a deleted pod goes": {
			do: func(x *Index) {
				x.SetPod(web("1").node("a").obj())
				x.SetPod(web("2").node("a").obj())
				x.DeletePod("1")
				x.DeletePod("1")
				x.DeletePod("unheard of")
			},
			want: "a×1",
		},
		"a terminating pod goes": {
			do: func(x *Index) {
				x.SetPod(web("1").node("a").obj())
				x.SetPod(web("1").node("a").terminating().obj())
			},
		},
		"a pod that succeeded goes": {
			do: func(x *Index) {
				x.SetPod(web("1").node("a").obj())
				x.SetPod(web("1").node("a").phase(v1.PodSucceeded).obj())
			},
		},
		"a pod that failed goes": {
			do: func(x *Index) {
				x.SetPod(web("1").node("a").obj())
				x.SetPod(web("1").node("a").phase(v1.PodFailed).obj())
			},
		},
		"a pod that was finished from the start never comes": {
			do: func(x *Index) { x.SetPod(web("1").node("a").phase(v1.PodSucceeded).obj()) },
		},
		"labels that no longer match": {
			do: func(x *Index) {
				x.SetPod(web("1").node("a").obj())
				x.SetPod(makePod("1").label("app", "db").node("a").obj())
			},
		},
		"labels that match now": {
			do: func(x *Index) {
				x.SetPod(makePod("1").label("app", "db").node("a").obj())
				x.SetPod(web("1").node("a").obj())
			},
			want: "a×1",
		},
		"revisions are told apart": {
			do: func(x *Index) {
				x.SetPod(web("1").node("a").revision("web", "v2").obj())
				x.SetPod(web("2").node("a").revision("web", "v1").obj())
				x.SetPod(web("3").node("a").obj())
			},
			want: "a×1 a×1(default/web/v1) a×1(default/web/v2)",
		},
		"an assumed pod counts": {
			do:   func(x *Index) { x.Assume(web("1").obj(), "a") },
			want: "a×1",
		},
		"an assumed pod that was forgotten does not": {
			do: func(x *Index) {
				x.Assume(web("1").obj(), "a")
				x.Forget("1")
				x.Forget("1")
			},
		},
		"an assumed pod stays while its events say nothing of a node": {
			do: func(x *Index) {
				x.Assume(web("1").obj(), "a")
				x.SetPod(web("1").obj())
			},
			want: "a×1",
		},
		"an assumed pod that was bound is not forgotten": {
			do: func(x *Index) {
				x.Assume(web("1").obj(), "a")
				x.SetPod(web("1").node("a").obj())
				x.Forget("1")
			},
			want: "a×1",
		},
		"an assumed pod that landed elsewhere, by another scheduler, is there": {
			do: func(x *Index) {
				x.Assume(web("1").obj(), "a")
				x.SetPod(web("1").node("b").obj())
				x.Forget("1")
			},
			want: "b×1",
		},
		"a bound pod cannot be assumed elsewhere": {
			do: func(x *Index) {
				x.SetPod(web("1").node("a").obj())
				x.Assume(web("1").obj(), "b")
			},
			want: "a×1",
		},
		"an assumed pod can be assumed elsewhere": {
			do: func(x *Index) {
				x.Assume(web("1").obj(), "a")
				x.Assume(web("1").obj(), "b")
			},
			want: "b×1",
		},
		"an assumed pod that is deleted goes, and Forget does no harm": {
			do: func(x *Index) {
				x.Assume(web("1").obj(), "a")
				x.DeletePod("1")
				x.Forget("1")
			},
		},
		"an assumed pod that is being deleted goes": {
			do: func(x *Index) {
				x.Assume(web("1").obj(), "a")
				x.SetPod(web("1").terminating().obj())
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			early := New()
			before := early.Pods("default", nil, parse(t, "app=web"))
			tt.do(early)
			want(t, "asked before", before.Nodes(), tt.want)

			late := New()
			late.Pods("default", nil, parse(t, "app")) // somebody asks for these pods, or they are not taken up before they are bound
			tt.do(late)
			want(t, "asked afterwards", late.Pods("default", nil, parse(t, "app=web")).Nodes(), tt.want)
		})
	}
}

func TestSelectorsOfAllKinds(t *testing.T) {
	x := New()
	x.SetNamespace(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	selectors := map[string]bool{ // whether it matches app=web,tier=front
		"app=web": true, "app=db": false, "app in (web)": true, "app in (web,db)": true, "app in (db)": false,
		"app!=db": true, "app!=web": false, "app notin (db)": true, "app": true, "!app": false, "!other": true,
		"app=web,tier=front": true, "app=web,tier=back": false, "tier=front,app!=db": true, "": true,
	}
	got := map[string]*Workload{}
	for s := range selectors {
		got["one "+s] = x.Pods("default", nil, parse(t, s))
		got["all "+s] = x.Pods("default", labels.Everything(), parse(t, s))
	}
	p := makePod("1").label("app", "web").label("tier", "front").node("a").obj()
	x.SetPod(p)
	matching := map[*Workload]int{}
	for _, w := range x.Matching(nil, p) {
		matching[w]++
	}
	for name, w := range got {
		wantNodes, wantMatching := "", 0
		if selectors[name[4:]] {
			wantNodes, wantMatching = "a×1", 1
		}
		want(t, name, w.Nodes(), wantNodes)
		if matching[w] != wantMatching {
			t.Errorf("Matching has %q %d times, want %d", name, matching[w], wantMatching)
		}
	}
}

func TestNamespaceSelector(t *testing.T) {
	ns := func(name, team string) *v1.Namespace {
		return &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
	}
	x := New()
	red := x.Pods("ignored", parse(t, "team=red"), parse(t, "app=web"))
	all := x.Pods("ignored", labels.Everything(), parse(t, "app=web"))
	p := makePod("1").ns("one").label("app", "web").node("a").obj()
	steps := []struct {
		step             string
		do               func()
		wantRed, wantAll string
	}{
		{"a pod in a namespace that nobody knows yet", func() { x.SetPod(p) }, "", ""},
		{"the namespace appears", func() { x.SetNamespace(ns("one", "red")) }, "a×1", "a×1"},
		{"another namespace with a pod", func() {
			x.SetNamespace(ns("two", "blue"))
			x.SetPod(makePod("2").ns("two").label("app", "web").node("b").obj())
		}, "a×1", "a×1 b×1"},
		{"its labels change", func() { x.SetNamespace(ns("two", "red")) }, "a×1 b×1", "a×1 b×1"},
		{"the first one's change", func() { x.SetNamespace(ns("one", "blue")) }, "b×1", "a×1 b×1"},
		{"the second is deleted", func() { x.DeleteNamespace("two") }, "", "a×1"},
		{"its pod goes", func() { x.DeletePod("2") }, "", "a×1"},
		{"and the first turns red again", func() { x.SetNamespace(ns("one", "red")) }, "a×1", "a×1"},
	}
	for _, s := range steps {
		s.do()
		want(t, s.step+", red", red.Nodes(), s.wantRed)
		want(t, s.step+", all", all.Nodes(), s.wantAll)
	}
	if got := x.Matching(nil, makePod("3").ns("one").label("app", "web").obj()); len(got) != 2 {
		t.Errorf("a new pod of namespace one would be in %d workloads, want 2", len(got))
	}
	if got := x.Matching(nil, makePod("3").ns("three").label("app", "web").obj()); len(got) != 0 {
		t.Errorf("a new pod of an unknown namespace would be in %d workloads, want 0", len(got))
	}
}

func TestService(t *testing.T) {
	near := "PreferClose"
	local := v1.ServiceInternalTrafficPolicyLocal
	cluster := v1.ServiceInternalTrafficPolicyCluster
	svc := func(selector ...string) *v1.Service {
		s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "redis"}}
		if len(selector) > 0 {
			s.Spec.Selector = map[string]string{}
		}
		for _, v := range selector {
			s.Spec.Selector["app"] = v
		}
		return s
	}
	x := New()
	x.SetPod(makePod("1").label("app", "redis").node("a").obj())
	x.SetPod(makePod("2").label("app", "valkey").node("b").obj())
	f := x.Service("default", "redis")
	if again := x.Service("default", "redis"); again != f {
		t.Fatal("a Service is followed twice")
	}
	steps := []struct {
		step        string
		do          func()
		wantNodes   string
		wantNearest bool
		wantRoute   bool // whether it selects other pods, or routes otherwise
	}{
		{"there is no such Service", func() {}, "", false, false},
		{"one of another namespace", func() {
			s := svc("redis")
			s.Namespace = "other"
			x.SetService(s)
		}, "", false, false},
		{"it is created", func() { x.SetService(svc("redis")) }, "a×1", false, true},
		{"an event without a change", func() { x.SetService(svc("redis")) }, "a×1", false, false},
		{"a pod comes", func() { x.Assume(makePod("3").label("app", "redis").obj(), "c") }, "a×1 c×1", false, false},
		{"it is retargeted", func() { x.SetService(svc("valkey")) }, "b×1", false, true},
		{"trafficDistribution is set", func() {
			s := svc("valkey")
			s.Spec.TrafficDistribution = &near
			x.SetService(s)
		}, "b×1", true, true},
		{"internalTrafficPolicy Local is set instead", func() {
			s := svc("valkey")
			s.Spec.InternalTrafficPolicy = &local
			x.SetService(s)
		}, "b×1", true, false},
		{"internalTrafficPolicy Cluster", func() {
			s := svc("valkey")
			s.Spec.InternalTrafficPolicy = &cluster
			x.SetService(s)
		}, "b×1", false, true},
		{"it loses its selector", func() { x.SetService(svc()) }, "", false, true},
		{"it is deleted", func() { x.DeleteService("default", "redis") }, "", false, true},
		{"it is deleted once more", func() { x.DeleteService("default", "redis") }, "", false, false},
		{"it is created anew", func() { x.SetService(svc("redis")) }, "a×1 c×1", false, true},
	}
	for _, s := range steps {
		routes, generation := x.Routes(), x.Generation()
		s.do()
		state := f.State()
		var nodes []NodeCount
		if state.Workload != nil {
			nodes = state.Workload.Nodes()
		}
		want(t, s.step, nodes, s.wantNodes)
		if state.Nearest != s.wantNearest {
			t.Errorf("%s: Nearest is %t, want %t", s.step, state.Nearest, s.wantNearest)
		}
		if moved := x.Routes() != routes; s.wantRoute && (!moved || x.Generation() == generation) {
			t.Errorf("%s: nobody is told", s.step)
		}
	}
	x.ReleaseService(f)
	if f.State().Workload == nil {
		t.Fatal("released although someone else follows it")
	}
	x.ReleaseService(f)
	x.ReleaseService(nil)
	if len(x.workloads) != 0 {
		t.Errorf("%d workloads are left after the release", len(x.workloads))
	}
	x.SetService(svc("valkey")) // nobody follows it now
	if g := x.Service("default", "redis"); show(g.State().Workload.Nodes()) != "b×1" {
		t.Errorf("followed anew: on %s", show(g.State().Workload.Nodes()))
	}
}

func TestNodeSet(t *testing.T) {
	node := func(name, gateway string) *v1.Node {
		return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"gateway": gateway}}}
	}
	x := New()
	x.SetNode(node("b", "yes"))
	s := x.NodeSet(parse(t, "gateway=yes"))
	if again := x.NodeSet(parse(t, "gateway=yes")); again != s {
		t.Error("a set is kept twice")
	}
	steps := []struct {
		step string
		do   func()
		want string
	}{
		{"at first", func() {}, "b×1"},
		{"a node comes", func() { x.SetNode(node("a", "yes")) }, "a×1 b×1"},
		{"one that does not match", func() { x.SetNode(node("c", "no")) }, "a×1 b×1"},
		{"its label changes", func() { x.SetNode(node("c", "yes")) }, "a×1 b×1 c×1"},
		{"another's, too", func() { x.SetNode(node("a", "no")) }, "b×1 c×1"},
		{"a node goes", func() { x.DeleteNode("b") }, "c×1"},
		{"one that nobody knew", func() { x.DeleteNode("z") }, "c×1"},
	}
	for _, st := range steps {
		generation := x.Generation()
		before := show(s.Nodes())
		st.do()
		want(t, st.step, s.Nodes(), st.want)
		if (before != st.want) != (x.Generation() != generation) {
			t.Errorf("%s: from %q to %q, generation %d to %d", st.step, before, st.want, generation, x.Generation())
		}
	}
	x.ReleaseNodeSet(s)
	x.ReleaseNodeSet(nil)
	if len(x.nodeSets) != 1 {
		t.Error("released although someone else has it")
	}
	x.ReleaseNodeSet(s)
	if len(x.nodeSets) != 0 {
		t.Error("not released")
	}
}

func TestRevisionOf(t *testing.T) {
	tests := map[string]struct {
		pod  *v1.Pod
		want Revision
	}{
		"a Deployment's pod":           {makePod("1").revision("web", "abc").obj(), Revision{"default/web", "abc"}},
		"a bare pod":                   {makePod("1").obj(), Revision{}},
		"a bare pod with the label":    {makePod("1").label("pod-template-hash", "abc").obj(), Revision{}},
		"a bare ReplicaSet's pod":      {makePod("1").owner("ReplicaSet", "web").obj(), Revision{}},
		"a ReplicaSet of another name": {makePod("1").label("pod-template-hash", "abc").owner("ReplicaSet", "web").obj(), Revision{}},
		"a StatefulSet's pod":          {makePod("1").label("pod-template-hash", "abc").owner("StatefulSet", "web-abc").obj(), Revision{}},
		"a name with the hash twice":   {makePod("1").revision("web-abc", "abc").obj(), Revision{"default/web-abc", "abc"}},
		"a ReplicaSet that is no controller": {func() *v1.Pod {
			p := makePod("1").revision("web", "abc").obj()
			p.OwnerReferences[0].Controller = nil
			return p
		}(), Revision{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := RevisionOf(tt.pod); got != tt.want {
				t.Errorf("RevisionOf() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestReplaces(t *testing.T) {
	tests := map[string]struct {
		r, old Revision
		want   bool
	}{
		"another revision of the same app": {Revision{"web", "2"}, Revision{"web", "1"}, true},
		"and back again":                   {Revision{"web", "1"}, Revision{"web", "2"}, true},
		"the same revision":                {Revision{"web", "1"}, Revision{"web", "1"}, false},
		"another app":                      {Revision{"web", "2"}, Revision{"db", "1"}, false},
		"no revision replaces none":        {Revision{}, Revision{}, false},
		"no revision replaces one":         {Revision{}, Revision{"web", "1"}, false},
		"one replaces a bare pod":          {Revision{"web", "1"}, Revision{}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.r.Replaces(tt.old); got != tt.want {
				t.Errorf("Replaces() = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestAnnotated(t *testing.T) {
	const text = `{"dependencies":[{"service":"redis"}]}`
	first := makePod("1").revision("web", "1").annotation(text)
	tests := map[string]struct {
		other *podBuilder
		want  bool
	}{
		"the same Deployment":                    {makePod("2").revision("web", "1").annotation(text), true},
		"another revision of the same":           {makePod("2").revision("web", "2").annotation(text), true},
		"the same Deployment with another text":  {makePod("2").revision("web", "1").annotation("{}"), false},
		"another Deployment with the same text":  {makePod("2").revision("api", "1").annotation(text), false},
		"another namespace":                      {makePod("2").ns("other").revision("web", "1").annotation(text), false},
		"without the annotation":                 {makePod("2").revision("web", "1"), false},
		"a StatefulSet of the same name":         {makePod("2").owner("StatefulSet", "web").annotation(text), false},
		"a bare pod with the same text":          {makePod("2").annotation(text), false},
		"a bare pod with the text and the label": {makePod("2").label("pod-template-hash", "1").annotation(text), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			x := New()
			w := x.Annotated("default", AnnotatedGroup(first.obj()))
			x.SetPod(tt.other.node("a").obj())
			wantNodes := ""
			if tt.want {
				wantNodes = "a×1"
			}
			got := w.Nodes()
			for i := range got {
				got[i].Revision = Revision{}
			}
			want(t, "the other", got, wantNodes)
			if m := x.Matching(nil, tt.other.obj()); (len(m) == 1) != tt.want {
				t.Errorf("Matching() has %d workloads", len(m))
			}
		})
	}
	if a, b := AnnotatedGroup(makePod("1").label("a", "b").annotation(text).obj()), AnnotatedGroup(makePod("2").label("a", "b").annotation(text).obj()); a != b {
		t.Errorf("bare pods of the same labels are in the groups %q and %q", a, b)
	}
	if g := AnnotatedGroup(makePod("1").obj()); g != "" {
		t.Errorf("a pod without the annotation is in group %q", g)
	}
	if g := AnnotatedGroup(makePod("1").annotation("").obj()); g == "" {
		t.Error("a pod with an empty annotation is in no group")
	}
}

func TestReleaseFrees(t *testing.T) {
	x := New()
	x.SetNamespace(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	p := makePod("1").label("app", "web").annotation("{}").node("a").obj()
	x.SetPod(p)
	acquire := func() []*Workload {
		return []*Workload{
			x.Pods("default", nil, parse(t, "app=web")),
			x.Pods("default", nil, parse(t, "app")),
			x.Pods("", labels.Everything(), parse(t, "app=web")),
			x.Annotated("default", AnnotatedGroup(p)),
		}
	}
	a, b := acquire(), acquire()
	if diff := cmp.Diff(len(a), len(x.workloads)); diff != "" {
		t.Errorf("workloads (-want +got):\n%s", diff)
	}
	for i := range a {
		if a[i] != b[i] {
			t.Errorf("workload %d is kept twice", i)
		}
		x.Release(a[i])
	}
	if got := len(x.Matching(nil, p)); got != 4 {
		t.Errorf("after half of the releases the pod is in %d workloads, want 4", got)
	}
	for i := range b {
		x.Release(b[i])
	}
	x.Release(nil)
	if len(x.workloads) != 0 || len(x.pods["1"].in) != 0 || len(x.Matching(nil, p)) != 0 {
		t.Errorf("after the releases: %d workloads, the pod in %d", len(x.workloads), len(x.pods["1"].in))
	}
	x.DeletePod("1")
	want(t, "a released workload is not kept up", a[0].Nodes(), "a×1")
}

func TestListsAreImmutable(t *testing.T) {
	x := New()
	w := x.Pods("default", nil, parse(t, "app=web"))
	x.SetPod(makePod("1").label("app", "web").node("b").obj())
	before := w.Nodes()
	x.SetPod(makePod("2").label("app", "web").node("b").obj())
	x.SetPod(makePod("3").label("app", "web").node("a").obj())
	x.DeletePod("1")
	want(t, "the old list", before, "b×1")
	want(t, "the new list", w.Nodes(), "a×1 b×1")
}

func TestChanged(t *testing.T) {
	x := New()
	x.Pods("default", nil, parse(t, "app=web"))
	drained := func() bool {
		select {
		case <-x.Changed():
			return true
		default:
			return false
		}
	}
	drained()
	x.SetPod(makePod("1").label("app", "db").node("a").obj())
	if drained() {
		t.Error("a pod of no workload was told")
	}
	x.SetPod(makePod("2").label("app", "web").node("a").obj())
	x.SetPod(makePod("3").label("app", "web").node("a").obj())
	if !drained() || drained() {
		t.Error("two changes were not told as one")
	}
	x.SetPod(makePod("2").label("app", "web").node("a").phase(v1.PodRunning).obj())
	if drained() {
		t.Error("a change that changes nothing was told")
	}
	x.DeletePod("2")
	if !drained() {
		t.Error("a deletion was not told")
	}
}

func TestMatchingAllocatesNothing(t *testing.T) {
	x := New()
	for i := range 100 {
		x.Pods("default", nil, parse(t, fmt.Sprintf("app=web-%d", i)))
	}
	p := makePod("1").label("app", "other").label("tier", "front").obj()
	buffer := make([]*Workload, 0, 8)
	if allocs := testing.AllocsPerRun(100, func() { buffer = x.Matching(buffer[:0], p) }); allocs != 0 {
		t.Errorf("Matching allocates %g times", allocs)
	}
}

func TestConcurrentReaders(t *testing.T) {
	x := New()
	x.SetNamespace(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	w := x.Pods("default", nil, parse(t, "app=web"))
	f := x.Service("default", "web")
	set := x.NodeSet(parse(t, "gateway=yes"))
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			var buffer []*Workload
			p := makePod("new").label("app", "web").obj()
			for {
				select {
				case <-stop:
					return
				default:
				}
				total := int32(0)
				for i, nc := range w.Nodes() {
					if nc.Count < 1 || i > 0 && w.Nodes() == nil {
						t.Errorf("a count of %d", nc.Count)
					}
					total += nc.Count
				}
				if total > 200 {
					t.Errorf("%d pods", total)
				}
				buffer = x.Matching(buffer[:0], p)
				if s := f.State(); s.Workload != nil {
					s.Workload.Nodes()
				}
				set.Nodes()
				x.Generation()
				x.Routes()
			}
		})
	}
	for g := range 4 {
		writers.Go(func() {
			for i := range 400 {
				name := fmt.Sprintf("%d-%d", g, i%50)
				p := makePod(name).label("app", "web")
				node := fmt.Sprintf("n%d", i%7)
				switch i % 5 {
				case 0, 1:
					x.Assume(p.obj(), node)
				case 2:
					x.SetPod(p.node(node).obj())
				case 3:
					x.Forget(types.UID(name))
				default:
					x.DeletePod(types.UID(name))
				}
				if i%20 == 0 {
					other := x.Pods("default", nil, parse(t, fmt.Sprintf("app=web,g!=%d", g)))
					x.SetService(&v1.Service{
						ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
						Spec:       v1.ServiceSpec{Selector: map[string]string{"app": "web", "i": fmt.Sprint(i)}},
					})
					x.SetNode(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"gateway": []string{"yes", "no"}[i/20%2]}}})
					x.Release(other)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}
