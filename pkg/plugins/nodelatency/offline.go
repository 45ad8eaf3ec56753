// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/utils/ptr"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/index"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
	"github.com/fogsched/fogsched/pkg/source/nodelatency"
	"github.com/fogsched/fogsched/pkg/store"
)

// Reading is what was read of a cluster at one time.
type Reading struct {
	At            time.Time
	Nodes         []*v1.Node
	Namespaces    []*v1.Namespace
	Services      []*v1.Service
	Pods          []*v1.Pod
	Policies      []*v1alpha1.LatencyPolicy
	NodeLatencies []*v1alpha1.NodeLatency
}

// Offline has the plugin answer what-if questions about one reading of a cluster: it follows nothing, asks no Prometheus, narrows nothing
// and writes nothing. It is for one scheduler with one set of arguments, and not safe for concurrent use.
type Offline struct {
	engine  *engine
	plugins map[string]*NodeLatency // by profile
}

// NewOffline returns an Offline that knows nothing yet.
func NewOffline() *Offline {
	return &Offline{plugins: map[string]*NodeLatency{}}
}

// New makes the plugin for one profile.
func (o *Offline) New(_ context.Context, obj runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
	args, err := getArgs(obj)
	if err != nil {
		return nil, err
	}
	if o.engine == nil {
		o.engine = newEngine(store.New(args.MaxAge.Duration, nil))
		o.engine.ready.Store(true)
	}
	p := newPlugin(handle, o.engine)
	p.candidates = 0
	if named, ok := handle.(interface{ ProfileName() string }); ok {
		o.plugins[named.ProfileName()] = p
	}
	return p, nil
}

// Load takes up a reading. Call it once, after the plugins were made and before they are asked.
func (o *Offline) Load(ctx context.Context, r *Reading) {
	if o.engine == nil {
		return
	}
	e := o.engine
	ctx = klog.NewContext(ctx, klog.Logger{})
	for _, ns := range r.Namespaces {
		e.index.SetNamespace(ns)
	}
	for _, n := range r.Nodes {
		e.setNode(n)
	}
	for _, s := range r.Services {
		e.index.SetService(s)
	}
	for _, p := range r.Policies {
		e.catalog.setPolicy(ctx, p)
	}
	for _, p := range r.Pods {
		o.Place(p)
	}
	for _, nl := range r.NodeLatencies {
		e.store.Take("nodelatency", nl.Name, nodelatency.ReportOf(nl), r.At)
	}
	e.store.Build(ctx, r.At)
}

// Place adds a pod, or changes it: with a node it counts as running there.
func (o *Offline) Place(pod *v1.Pod) {
	if o.engine == nil {
		return
	}
	o.engine.catalog.setPod(pod)
	o.engine.index.SetPod(pod)
}

// Plugin returns the plugin of a profile; nil where the profile does not have it.
func (o *Offline) Plugin(profile string) *NodeLatency { return o.plugins[profile] }

// Snapshot returns what is known of the network.
func (o *Offline) Snapshot() *latency.Snapshot {
	if o.engine == nil {
		return latency.NewSnapshot(&latency.Picture{})
	}
	return o.engine.store.Snapshot()
}

// Wish is one intent that concerns a pod.
type Wish struct {
	// From says where it is written: "LatencyPolicy default/bulletin-board", "annotation fogsched.dev/latency".
	From string `json:"from"`
	// Caller is set where it is somebody else's, who calls the pod.
	Caller  bool        `json:"caller,omitempty"`
	Entries []WishEntry `json:"entries"`
}

// WishEntry is one entry of an intent, with all defaults filled in.
type WishEntry struct {
	// Entry is its path: "dependencies[0]".
	Entry  string `json:"entry"`
	Target string `json:"target"`
	// Limit is "" where there is none. Hard means that it excludes nodes (whenUnsatisfiable: DoNotSchedule).
	Limit   string  `json:"limit,omitempty"`
	Hard    bool    `json:"hard,omitempty"`
	Routing string  `json:"routing"`
	Weight  float32 `json:"weight"`
	// Nodes are those that the target is on now, in the order of their names; empty where no pod of it is placed.
	Nodes []string `json:"nodes"`
}

// Wishes returns the intents that concern a pod, its own first. The error is that of an annotation that is not valid, which has the pod
// placed without regard to latency.
func (p *NodeLatency) Wishes(pod *v1.Pod) ([]Wish, error) {
	w := p.engine.wantsOf(pod)
	if w.err != nil {
		return nil, w.err
	}
	wishes := []Wish{}
	for _, b := range w.own {
		wish := Wish{From: b.Name, Entries: []WishEntry{}}
		for i := range b.entries {
			wish.Entries = append(wish.Entries, wishEntry(&b.entries[i], &b.entries[i]))
		}
		wishes = append(wishes, wish)
	}
	for _, c := range w.calls {
		wish := Wish{From: c.by.Name, Caller: true}
		e := wishEntry(c.entry, nil)
		e.Target = "callers of " + e.Target
		e.Hard = false
		e.Nodes = nodesOf(c.by.self.Nodes())
		wish.Entries = []WishEntry{e}
		wishes = append(wishes, wish)
	}
	slices.SortStableFunc(wishes, func(a, b Wish) int {
		if a.Caller != b.Caller {
			if b.Caller {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.From, b.From)
	})
	return wishes, nil
}

func wishEntry(e, on *boundEntry) WishEntry {
	w := WishEntry{Entry: e.Path, Target: e.Target(), Hard: e.Hard && e.Limit > 0, Routing: routingName(e.routing()), Weight: e.Weight, Nodes: []string{}}
	if e.Limit > 0 {
		w.Limit = e.Limit.String()
	}
	if on != nil {
		w.Nodes = nodesOf(on.targets())
	}
	return w
}

// nodesOf returns the names of nodes, each once: revisions on one node stand side by side.
func nodesOf(counts []index.NodeCount) []string {
	names := []string{}
	for _, c := range counts {
		if len(names) == 0 || names[len(names)-1] != c.Node {
			names = append(names, c.Node)
		}
	}
	return names
}

func routingName(r placement.Routing) string {
	if r == placement.Nearest {
		return string(v1alpha1.RoutingNearest)
	}
	return string(v1alpha1.RoutingAny)
}

// Explain says what a cycle found of nodes, whether or not they were candidates of it; nil where the pod has no intent.
func (p *NodeLatency) Explain(cycle fwk.CycleState, nodes []string, now time.Time) []Placement {
	s := p.read(cycle)
	if s == nil {
		return nil
	}
	list := make([]Placement, len(nodes))
	for i, n := range nodes {
		list[i], _ = s.explain(n, now)
	}
	return list
}

// Cost returns what PreScore found for a node, without what puts a node behind that breaks a limit; ok is false where it is no candidate, or
// nothing is known.
func (p *NodeLatency) Cost(cycle fwk.CycleState, node string) (cost time.Duration, breaks, ok bool) {
	s := p.read(cycle)
	if s == nil || s.scored == nil {
		return 0, false, false
	}
	n, known := s.snap.Index(node)
	if !known {
		return 0, false, false
	}
	c := s.costOf(n)
	if breaks = s.breaksAny(n); breaks {
		c -= s.penalty
	}
	return time.Duration(c), breaks, c > 0
}

// Bound is a limit of a pod, and which nodes of the cluster keep it.
type Bound struct {
	From   string `json:"from"`
	Entry  string `json:"entry"`
	Target string `json:"target"`
	Limit  string `json:"limit"`
	// Hard means that it excludes nodes (whenUnsatisfiable: DoNotSchedule); else they rank behind.
	Hard bool `json:"hard"`
	// Kept, Exceeded and Unmeasured count the nodes asked about.
	Kept       int `json:"kept"`
	Exceeded   int `json:"exceeded"`
	Unmeasured int `json:"unmeasured"`
	// RejectsUnmeasured means that the nodes of Unmeasured count as beyond the limit.
	RejectsUnmeasured bool `json:"rejectsUnmeasured,omitempty"`
	// Nearest is the node, of those that exceed it, that comes nearest to keeping it, NearestRTT its RTT, and NearestTo the other end.
	Nearest       string `json:"nearest,omitempty"`
	NearestRTT    string `json:"nearestRTT,omitempty"`
	NearestMicros int64  `json:"nearestMicros,omitempty"`
	NearestTo     string `json:"nearestTo,omitempty"`
}

// Bounds holds a pod's limits against nodes.
func (p *NodeLatency) Bounds(cycle fwk.CycleState, nodes []string) []Bound {
	s := p.read(cycle)
	if s == nil {
		return nil
	}
	var list []Bound
	for _, l := range s.limits {
		if l.Empty() || l.reverse {
			continue
		}
		b := Bound{
			From: l.intent, Entry: l.entry.Path, Target: l.entry.Target(), Limit: l.entry.Limit.String(), Hard: l.hard, RejectsUnmeasured: l.rejectUnmeasured,
		}
		least := float32(0)
		for _, name := range nodes {
			n := s.number(name)
			switch l.Check(n) {
			case placement.Exceeded:
				b.Exceeded++
				rtt, _, target := l.Decisive(n)
				if us, ok := rtt.Micros(); ok && (b.Nearest == "" || us < least) {
					least, b.Nearest, b.NearestRTT, b.NearestMicros = us, name, rtt.String(), int64(us)
					b.NearestTo = ""
					if target >= 0 && target != n {
						b.NearestTo = s.snap.Name(target)
					}
				}
			case placement.Unmeasured:
				b.Unmeasured++
			default:
				b.Kept++
			}
		}
		list = append(list, b)
	}
	return list
}

// Excluded returns why hard limits exclude a node, or "".
func (p *NodeLatency) Excluded(cycle fwk.CycleState, node string) string {
	s := p.read(cycle)
	if s == nil || !s.hard {
		return ""
	}
	return s.judge(s.number(node))
}

// OfflineArgs returns the args of a pluginConfig without what an Offline has no use for, and what that was, in words.
func OfflineArgs(obj runtime.Object) (args *Args, without []string, err error) {
	args, err = getArgs(obj)
	if err != nil {
		return nil, nil, err
	}
	if args.Prometheus != nil {
		for i := range args.Prometheus.Latencies {
			l := &args.Prometheus.Latencies[i]
			without = append(without, fmt.Sprintf("latencies %q of Prometheus", cmp.Or(l.Name, l.Preset)))
		}
		for i := range args.Prometheus.Demands {
			without = append(without, fmt.Sprintf("demand %q of Prometheus", args.Prometheus.Demands[i].Name))
		}
		args.Prometheus = nil
	}
	if args.ZonesFile != "" {
		without = append(without, "the table of zones "+args.ZonesFile)
		args.ZonesFile = ""
	}
	args.Interest = ""
	args.Candidates = ptr.To(0)
	return args, without, nil
}

// Encode returns args as a pluginConfig has them.
func Encode(args *Args) (runtime.Object, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	return &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}, nil
}
