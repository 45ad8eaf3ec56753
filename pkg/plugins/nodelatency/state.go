// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"slices"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/index"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
)

// state is what one scheduling cycle knows. PreFilter makes it; what the later extension points write is theirs alone.
type state struct {
	// cycle is the one that the state is of.
	cycle fwk.CycleState
	// nodes are those that PreFilter was given: all.
	nodes   []fwk.NodeInfo
	engine  *engine
	snap    *latency.Snapshot
	entries []entry
	// limits exclude nodes, or rank them behind; hard tells whether one of them excludes.
	limits []*limit
	hard   bool
	// narrowed is how many nodes the pod is tried on; 0 for all.
	narrowed int

	// rejected has a 1 for each node that a hard limit excluded, by node number; Filter runs for many nodes at once.
	rejected    []uint8
	anyRejected atomic.Bool

	// scored are the nodes that PreScore was given.
	scored []scored
	// table has the costs by candidate, for Score.
	table internal.NodeTable
	// neutral is the cost of a candidate that the snapshot does not know.
	neutral int64
	// best and second are the candidates of the lowest cost; -1 where there is none.
	best, second int32
	// keepers is the number of candidates that keep every limit, penalty what the costs of the others have on top.
	keepers int
	penalty int64

	// result is what narrowing returns.
	result fwk.PreFilterResult

	// The memory of the entries' rows is in one piece, and most pods have no more entries and limits than these.
	builder      placement.Builder
	targetSlab   []placement.Target
	targetBuffer [12]placement.Target
	entryBuffer  [2]entry
	limitBuffer  [2]*limit
	limitStore   [2]limit
}

// scored is a candidate: its number, -1 where the snapshot does not know it, and its cost in microseconds.
type scored struct {
	node   int32
	micros float32
}

// nanos returns the cost in nanoseconds, as Score does.
func (c scored) nanos() int64 { return int64(c.micros * 1000) }

// Clone returns the state itself: preemption's what-if on other pods does not move a node.
func (s *state) Clone() fwk.StateData { return s }

// entry is a placement.Entry and where it comes from.
type entry struct {
	placement.Entry
	intent    string
	path      string
	statistic latency.Statistic
	limit     *limit
	// reverse is set where the targets are callers of the pod.
	reverse bool
	// basis is what it is made of.
	basis basis
	// direction tells which way the pairs were measured.
	direction latency.Direction
}

// targetName says for people what the entry is about.
func (e *entry) targetName() string {
	if e.reverse {
		return "callers of " + e.basis.entry.Target()
	}
	return e.basis.entry.Target()
}

// basis is what a placement.Entry is made of, beside its targets.
type basis struct {
	entry   *boundEntry
	role    intent.Role
	routing placement.Routing
	peers   []placement.Peer
}

// make returns the entry for targets.
func (b *basis) make(builder *placement.Builder, targets []placement.Target, peers []placement.Peer) placement.Entry {
	if b.role == intent.Client {
		return builder.ReplicaEntry(b.entry.Weight, b.routing, targets, peers)
	}
	return builder.ClientEntry(b.entry.Weight, b.routing, targets)
}

// limit is a placement.Limit and what follows from it.
type limit struct {
	placement.Limit
	entry            *boundEntry
	intent           string
	hard             bool
	rejectUnmeasured bool
	reverse          bool
}

// breaks reports whether the limit takes a node as beyond it.
func (l *limit) breaks(n int32) bool {
	switch l.Check(n) {
	case placement.Exceeded:
		return true
	case placement.Unmeasured:
		return l.rejectUnmeasured
	default:
		return false
	}
}

// wants are the intents that concern a pod.
type wants struct {
	own []*bound
	// calls are the dependencies of others on this pod, each with the pods that it would stand beside.
	calls []calledAs
	err   error
}

type calledAs struct {
	call
	peers *index.Workload
}

func (w *wants) none() bool { return len(w.own) == 0 && len(w.calls) == 0 }

// targets is about how many targets the entries have together.
func (w *wants) targets(limitsOnly bool) (n int) {
	for _, b := range w.own {
		for i := range b.entries {
			if be := &b.entries[i]; !limitsOnly || be.Limit > 0 && be.Hard {
				n += min(len(be.targets()), maxTargets)
			}
		}
	}
	if limitsOnly {
		return n
	}
	for _, c := range w.calls {
		n += min(len(c.by.self.Nodes()), maxCallers)
	}
	return n
}

// wantsOf finds the intents that concern a pod. It allocates nothing for a pod that no intent concerns.
func (e *engine) wantsOf(pod *v1.Pod) wants {
	own, calls, err := e.find(pod, nil, nil)
	return wants{own, calls, err}
}

// find is wantsOf for who has memory for the result. Where it returns an error the pod's owner is told, and the pod is placed by the default
// rules.
func (e *engine) find(pod *v1.Pod, own []*bound, calls []calledAs) ([]*bound, []calledAs, error) {
	v := e.catalog.view()
	a := e.catalog.annotationOf(v, pod)
	if a != nil {
		if a.err != nil {
			return nil, nil, a.err
		}
		own = append(own, a.bound)
		v = e.catalog.view()
	}
	if len(v.governs) == 0 && len(v.calls) == 0 {
		return own, calls, nil
	}
	var buffer [8]*index.Workload
	for _, in := range e.index.Matching(buffer[:0], pod) {
		if a == nil { // the annotation stands in the place of policies
			own = append(own, v.governs[in]...)
		}
		for _, c := range v.calls[in] {
			calls = append(calls, calledAs{call: c, peers: in})
		}
	}
	return own, calls, nil
}

// compile turns what a pod wants into rows. limitsOnly leaves out what only scoring needs.
func (e *engine) compile(pod *v1.Pod, w *wants, limitsOnly bool) *state {
	s := &state{snap: e.store.Snapshot(), best: -1, second: -1, engine: e}
	s.entries, s.limits = s.entryBuffer[:0], s.limitBuffer[:0]
	if n := w.targets(limitsOnly); n > 0 {
		s.builder.Grow(n)
		if s.targetSlab = s.targetBuffer[:0]; n > len(s.targetBuffer) {
			s.targetSlab = make([]placement.Target, 0, n)
		}
	}
	revision := index.RevisionOf(pod)
	for _, b := range w.own {
		for i := range b.entries {
			be := &b.entries[i]
			if limitsOnly && (be.Limit == 0 || !be.Hard) {
				continue
			}
			var peers []index.NodeCount
			if be.Role == intent.Client {
				peers = b.self.Nodes()
			}
			s.add(b.Name, be, be.Role, be.targets(), peers, revision, false)
		}
	}
	if limitsOnly {
		return s
	}
	for _, c := range w.calls {
		callers := c.by.self.Nodes()
		peers := c.peers.Nodes()
		if c.by.Namespace != pod.Namespace {
			// Who depends on a pod of another namespace draws it, but not with a weight or a limit of his own choosing.
			stranger := *c.entry
			bare := *c.entry.Entry
			bare.Limit, bare.Weight = 0, 1
			stranger.Entry = &bare
			c.entry = &stranger
		}
		if len(callers) > 0 {
			s.add(c.by.Name, c.entry, intent.Client, callers, peers, revision, true)
			continue
		}
		// No caller is placed yet: they will be drawn to their own clients and callers, so these stand in for them. That is what makes
		// the order of creation indifferent.
		stand := standIns{state: s, call: c, peers: peers, revision: revision, view: e.catalog.view()}
		stand.addFor(c.by)
	}
	return s
}

// standIns adds what stands in for the callers of a pod that are not placed yet.
type standIns struct {
	*state
	call     calledAs
	peers    []index.NodeCount
	revision index.Revision
	view     *view

	seen  []*bound // from the caller on; a circle ends there
	added int
}

const (
	// maxSteps is how many callers one behind the other none of which is placed are followed: a chain of seven services.
	maxSteps = 6
	// maxStandIns bounds what stands in for the callers of one call.
	maxStandIns = 16
)

// addFor adds the clients of a caller that is not placed and, as far as they are placed, its callers; in place of the others what stands in for these.
func (x *standIns) addFor(caller *bound) {
	if len(x.seen) == maxSteps || slices.Contains(x.seen, caller) {
		return
	}
	x.seen = append(x.seen, caller)
	for i := range caller.entries {
		if ce := &caller.entries[i]; ce.Role == intent.Client {
			x.add(ce.targets(), ce.Demand)
		}
	}
	var buffer [8]*index.Workload
	for _, in := range x.engine.index.MatchingLabels(buffer[:0], caller.Namespace, caller.labels) {
		for _, c := range x.view.calls[in] {
			if nodes := c.by.self.Nodes(); len(nodes) > 0 {
				x.add(nodes, "")
			} else {
				x.addFor(c.by)
			}
		}
	}
}

func (x *standIns) add(nodes []index.NodeCount, demand string) {
	if x.added == maxStandIns || len(nodes) == 0 {
		return
	}
	x.added++
	standIn := *x.call.entry
	limitless := *x.call.entry.Entry
	limitless.Limit, limitless.Demand = 0, demand
	standIn.Entry = &limitless
	x.state.add(x.call.by.Name, &standIn, intent.Client, nodes, x.peers, x.revision, true)
}

// add appends one entry. reverse is set for a dependency of others on this pod: its limit draws and never excludes.
func (s *state) add(name string, be *boundEntry, role intent.Role, targets, peers []index.NodeCount, revision index.Revision, reverse bool) {
	direction := latency.ToTarget
	if role == intent.Client {
		direction = latency.FromTarget
	}
	routing := be.routing()
	// Who demands nothing now is left out of the cost; a limit is kept for all.
	var demand map[string]float32
	if be.Demand != "" && role == intent.Client {
		demand = s.engine.demandOf(be.Demand, targets)
	}
	most, mostLimited := maxTargets, len(targets)
	if reverse {
		most, mostLimited = maxCallers, maxTargets
	}
	ts := s.targets(targets, direction, be.Statistic, most, demand)
	if len(ts) == 0 {
		return
	}
	ps := s.peers(peers, revision)
	b := basis{entry: be, role: role, routing: routing, peers: ps}
	en := entry{
		Entry: b.make(&s.builder, ts, ps), intent: name, path: be.Path, reverse: reverse, statistic: be.Statistic, direction: direction, basis: b,
	}
	if be.Limit > 0 {
		l := s.newLimit()
		l.entry, l.intent, l.hard, l.rejectUnmeasured, l.reverse = be, name, be.Hard && !reverse, be.RejectUnmeasured, reverse
		ts := ts
		if len(targets) > most || demand != nil {
			ts = s.targets(targets, direction, be.Statistic, mostLimited, nil)
		}
		if role == intent.Client {
			l.Limit = placement.NewReplicaLimit(be.Limit, routing, ts, ps, !be.RejectUnmeasured)
		} else {
			l.Limit = placement.NewClientLimit(be.Limit, routing, ts)
		}
		s.limits = append(s.limits, l)
		s.hard = s.hard || l.hard
		en.limit = l
	}
	s.entries = append(s.entries, en)
}

// newLimit returns a limit of the state.
func (s *state) newLimit() *limit {
	if n := len(s.limits); n < len(s.limitStore) {
		return &s.limitStore[n]
	}
	return &limit{}
}

// maxTargets bounds the rows of one entry's cost: of a target on more nodes, groups of neighbours in the list of their names, where the nodes
// of one site tend to stand together, are represented by one of them. A limit that excludes looks at all.
//
// Callers get fewer. There may be callers on each node of the cluster, and the rows of all its nodes, in use by one server or another, would be all
// pairs again.
const (
	maxTargets = 256
	maxCallers = 64
)

// targets finds the rows of nodes, revisions on one node added up. All distances of a node that the snapshot does not know are
// unknown; it is not left out, because a limit must not be kept for want of knowing its target. demand, where it is not nil, is what each
// node counts, in place of the pods on it; nodes that demand nothing are left out.
func (s *state) targets(nodes []index.NodeCount, d latency.Direction, st latency.Statistic, limit int, demand map[string]float32) []placement.Target {
	ts := s.targetMemory(min(len(nodes), limit))
	if demand != nil || len(nodes) > limit {
		for _, w := range represent(nodes, limit, demand) {
			ts = append(ts, s.target(w.node, w.mass, d, st))
		}
		return ts
	}
	last := ""
	for _, nc := range nodes {
		if nc.Node == last { // the list is in the order of names
			ts[len(ts)-1].Mass += float32(nc.Count)
			continue
		}
		last = nc.Node
		ts = append(ts, s.target(nc.Node, float32(nc.Count), d, st))
	}
	return ts
}

// targetMemory returns room for n targets.
func (s *state) targetMemory(n int) []placement.Target {
	at := len(s.targetSlab)
	if cap(s.targetSlab)-at < n {
		return make([]placement.Target, 0, n)
	}
	s.targetSlab = s.targetSlab[:at+n]
	return s.targetSlab[at : at : at+n]
}

func (s *state) target(node string, mass float32, d latency.Direction, st latency.Statistic) placement.Target {
	if n, ok := s.snap.Index(node); ok {
		return placement.Target{Node: n, Row: s.snap.Row(n, d, st), Mass: mass}
	}
	return placement.Target{Node: -1, Row: s.snap.UnknownRow(), Mass: mass}
}

// weighed is a node and what it counts, above 0.
type weighed struct {
	node string
	mass float32
}

// represent returns at most limit nodes that stand for all that count: of each group the one that counts most, with what all of the group do.
func represent(nodes []index.NodeCount, limit int, demand map[string]float32) []weighed {
	all := make([]weighed, 0, len(nodes))
	for _, nc := range nodes {
		mass := float32(nc.Count)
		if demand != nil {
			mass = demand[nc.Node]
		}
		switch k := len(all) - 1; {
		case mass == 0:
		case k < 0 || all[k].node != nc.Node:
			all = append(all, weighed{nc.Node, mass})
		case demand == nil:
			all[k].mass += mass
		}
	}
	if len(all) <= limit {
		return all
	}
	some := all[:0]
	for group := range slices.Chunk(all, 1+(len(all)-1)/max(limit, 1)) {
		most, sum := group[0], float32(0)
		for _, w := range group {
			if sum += w.mass; w.mass > most.mass {
				most = w
			}
		}
		some = append(some, weighed{most.node, sum})
	}
	return some
}

// peers finds the nodes that hold peers of a pod: not the pods that it takes the place of in a rollout.
func (s *state) peers(nodes []index.NodeCount, revision index.Revision) []placement.Peer {
	if len(nodes) == 0 {
		return nil
	}
	ps := make([]placement.Peer, 0, len(nodes))
	for _, nc := range nodes {
		if revision.Replaces(nc.Revision) {
			continue
		}
		if n, ok := s.snap.Index(nc.Node); ok {
			ps = append(ps, placement.Peer{Node: n, Count: float32(nc.Count)})
		}
	}
	return ps
}
