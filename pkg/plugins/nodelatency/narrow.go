// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/placement"
)

// The framework of a large cluster looks at a part of its nodes, taken in turn: of 5,000 it scores 500, so the best is among them one time in
// ten. Narrowing hands it the nodes of the lowest cost instead that have room for the pod, so few that it looks at all of them. What the
// other filters say of them is not known here, so it may be that none takes the pod: then the pod is tried on all nodes at once, by itself, and so
// are its siblings for a while.

const (
	defaultCandidates = 100
	// A cluster of fewer than narrowAbove times the candidates is not narrowed: the framework looks at about half of its nodes.
	narrowAbove = 2
	// So many nodes are looked at for room: orderFactor times the candidates, which is how much of an order is remembered, and in a large cluster one
	// in patienceShare. A look is little beside the framework's filters, some 5 µs a node, so it is worth some looks to spare a pod all nodes.
	orderFactor   = 8
	patienceShare = 4
	// enoughShare of the candidates is enough to narrow to.
	enoughShare = 2 // one in

	// wideFor is how long the siblings of a pod that none of its candidates took are not narrowed.
	wideFor = time.Minute
	// A pod that comes back is activated until its next cycle begins, after 1 ms, 2 ms, … and at most so often.
	mostActivations = 10
)

// narrowing is what is remembered of pods that were narrowed. Reading takes no lock.
type narrowing struct {
	// wide has the pods that are tried on all nodes, by UID, each with whether that has begun.
	wide sync.Map // types.UID → *atomic.Bool
	// until has the owners whose pods are not narrowed, with the time until when, as Unix nanoseconds.
	until sync.Map // types.UID → int64
	// wides and untils are how many these have at most: as a rule none, and then nobody looks.
	wides, untils atomic.Int64

	scratch sync.Pool // of *narrowScratch
	orders  *orders   // nil: none is remembered
}

// narrowScratch is the memory of one narrowing.
type narrowScratch struct {
	ranker  placement.Ranker
	entries []placement.Entry
	key     []int32
}

// Prometheus looks a label's value up anew each time, and allocates for it.
var (
	countNarrowed = metrics.Narrowed.WithLabelValues("narrowed")
	countNoRoom   = metrics.Narrowed.WithLabelValues("no_room")
	countWidened  = metrics.Narrowed.WithLabelValues("widened")
)

// first reports whether the plugin's PostFilter comes before all others, which makes narrowing safe. It says once when it does not.
func (p *NodeLatency) first(ctx context.Context) bool {
	p.order.Do(func() {
		if p.postFilters == nil || p.candidates == 0 {
			return
		}
		order := p.postFilters(p.handle)
		if len(order) > 0 && order[0] == Name {
			p.mayNarrow = true
			return
		}
		klog.FromContext(ctx).Info("In a large cluster the nearest nodes are not looked at first, because another plugin's PostFilter comes before this one's: "+
			"add to the profile plugins: {postFilter: {enabled: [{name: NodeLatency}]}}", "plugin", Name, "postFilter", order)
	})
	return p.mayNarrow
}

// narrow returns the nodes that the pod is tried on; nil stands for all.
func (p *NodeLatency) narrow(ctx context.Context, s *state, pod *v1.Pod, nodes int) *fwk.PreFilterResult {
	if nodes < narrowAbove*p.candidates || !p.first(ctx) {
		return nil
	}
	n := &p.engine.narrowing
	if n.wides.Load() > 0 {
		if begun, ok := n.wide.Load(pod.UID); ok {
			begun.(*atomic.Bool).Store(true)
			return nil
		}
	}
	if n.untils.Load() > 0 {
		if until, ok := n.until.Load(ownerOf(pod)); ok && time.Now().UnixNano() < until.(int64) {
			return nil
		}
	}
	if cannotTell(pod) {
		return nil
	}
	lister := p.handle.SnapshotSharedLister()
	if lister == nil {
		return nil
	}
	infos := lister.NodeInfos()

	scratch, ok := n.scratch.Get().(*narrowScratch)
	if !ok {
		scratch = &narrowScratch{}
	}
	defer n.scratch.Put(scratch)
	count := orderFactor * p.candidates
	patience := max(count, nodes/patienceShare)
	first, rest := n.ascending(scratch, s, count)
	if first == nil && !rest {
		return nil
	}
	room := newRoom(pod)
	names := make(sets.Set[string], p.candidates)
	look := func(number int32) bool {
		if s.hard && s.judge(number) != "" {
			return true // an array load: these do not count
		}
		name := s.snap.Name(number)
		if info, err := infos.Get(name); err == nil && room.fits(info) {
			names.Insert(name)
		}
		patience--
		return patience > 0 && len(names) < p.candidates
	}
	more := true
	for _, number := range first {
		if more = look(number); !more {
			break
		}
	}
	if more && rest {
		if first != nil && !scratch.rank(s) {
			return nil
		}
		skip := len(first)
		scratch.ranker.Ascending(func(number int32) bool {
			if skip > 0 {
				skip--
				return true
			}
			return look(number)
		})
	}
	if len(names) < p.candidates/enoughShare {
		countNoRoom.Inc()
		return nil
	}
	s.narrowed = len(names)
	countNarrowed.Inc()
	s.result.NodeNames = names
	return &s.result
}

// rank ranks all nodes by what the pod wants. It returns false where nothing is known of any.
func (x *narrowScratch) rank(s *state) bool {
	x.entries = x.entries[:0]
	for i := range s.entries {
		x.entries = append(x.entries, s.entries[i].Entry)
	}
	known := x.ranker.Rank(x.entries, s.snap.Len())
	clear(x.entries) // the pool must not keep a snapshot alive
	return known
}

// orders remembers in which order the nodes are looked at. The pods of one workload, and of all that call the same servers, want the same, and
// ranking all nodes of a large cluster is most of what narrowing takes. It is a table in which a new order takes an old one's place. Reading takes
// no lock.
type orders struct {
	slots [2048]struct {
		order atomic.Pointer[order]
		// seen is the hash that was looked for last: what is asked for once is not worth remembering.
		seen atomic.Uint64
	}
}

// order is the beginning of an order. It is immutable.
type order struct {
	key, nodes []int32
	rest       bool // there are more nodes
}

// ascending returns the first nodes in the order of their cost, and whether more come. These come from the ranker, which was asked already where
// first is nil. Where nothing is known of any node there are none.
func (n *narrowing) ascending(x *narrowScratch, s *state, count int) (first []int32, rest bool) {
	if n.orders == nil {
		return nil, x.rank(s)
	}
	serial := s.snap.Serial()
	x.key = append(x.key[:0], int32(serial), int32(serial>>32), int32(count))
	for i := range s.entries {
		e := &s.entries[i]
		x.key = append(x.key, int32(e.direction), int32(e.statistic))
		x.key = e.AppendKey(x.key)
	}
	hash := uint64(14695981039346656037) // FNV-1a
	for _, v := range x.key {
		hash = (hash ^ uint64(uint32(v))) * 1099511628211
	}
	slot := &n.orders.slots[(hash^hash>>32)%uint64(len(n.orders.slots))]
	if o := slot.order.Load(); o != nil && slices.Equal(o.key, x.key) {
		return o.nodes, o.rest
	}
	if !x.rank(s) {
		return nil, false
	}
	if slot.seen.Swap(hash) != hash {
		return nil, true
	}
	memory := make([]int32, 0, len(x.key)+count)
	memory = append(memory, x.key...)
	o := &order{key: memory[:len(x.key):len(x.key)]}
	x.ranker.Ascending(func(number int32) bool {
		if len(memory) == cap(memory) {
			o.rest = true
			return false
		}
		memory = append(memory, number)
		return true
	})
	o.nodes = memory[len(x.key):]
	slot.order.Store(o)
	return o.nodes, o.rest
}

// cannotTell reports whether something decides about the pod's nodes of which room knows nothing.
func cannotTell(pod *v1.Pod) bool {
	if len(pod.Spec.ResourceClaims) > 0 || pod.Status.NominatedNodeName != "" {
		return true
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return true
		}
	}
	return false
}

// room is what a pod needs of a node, as far as that can be told fast.
type room struct {
	milliCPU, memory int64
	// devices are what only some nodes have: GPUs, huge pages, what device plugins offer.
	devices     map[v1.ResourceName]int64
	affinity    nodeaffinity.RequiredNodeAffinity
	tolerations []v1.Toleration
}

func newRoom(pod *v1.Pod) room {
	r := room{affinity: nodeaffinity.GetRequiredNodeAffinity(pod), tolerations: pod.Spec.Tolerations}
	spec := &pod.Spec
	if len(spec.InitContainers) > 0 || spec.Overhead != nil || spec.Resources != nil {
		r.add(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}))
		return r
	}
	// The same for most pods, without a map for the sum.
	for i := range spec.Containers {
		r.add(spec.Containers[i].Resources.Requests)
	}
	return r
}

// add adds to what the pod needs.
func (r *room) add(requests v1.ResourceList) {
	for name, q := range requests {
		switch name {
		case v1.ResourceCPU:
			r.milliCPU = sum(r.milliCPU, q.MilliValue())
		case v1.ResourceMemory:
			r.memory = sum(r.memory, q.Value())
		case v1.ResourceEphemeralStorage:
		default:
			if n := q.Value(); n > 0 {
				if r.devices == nil {
					r.devices = map[v1.ResourceName]int64{}
				}
				r.devices[name] = sum(r.devices[name], n)
			}
		}
	}
}

// sum adds two numbers, neither of which is negative; what is too large is the largest there is.
func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func (r *room) fits(info fwk.NodeInfo) bool {
	node := info.Node()
	if node == nil {
		return false
	}
	has, used := info.GetAllocatable(), info.GetRequested()
	if r.milliCPU > has.GetMilliCPU()-used.GetMilliCPU() || r.memory > has.GetMemory()-used.GetMemory() || len(info.GetPods()) >= has.GetAllowedPodNumber() {
		return false
	}
	for name, n := range r.devices {
		if n > has.GetScalarResources()[name]-used.GetScalarResources()[name] {
			return false
		}
	}
	if node.Spec.Unschedulable {
		return false
	}
	if len(node.Spec.Taints) > 0 {
		if _, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, r.tolerations, forbids, true); untolerated {
			return false
		}
	}
	match, err := r.affinity.Match(node)
	return match && err == nil
}

func forbids(t *v1.Taint) bool {
	return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
}

// ownerOf names what a pod and its siblings belong to.
func ownerOf(pod *v1.Pod) types.UID {
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		return owner.UID
	}
	return pod.UID
}

// widen has a pod that none of its candidates took tried on all nodes, now and not after a back-off. It returns what to tell the pod's owner.
func (p *NodeLatency) widen(ctx context.Context, s *state, pod *v1.Pod) string {
	countWidened.Inc()
	if !p.engine.catalog.exists(pod) {
		return "" // nothing would take it out again
	}
	n := &p.engine.narrowing
	begun := &atomic.Bool{}
	if _, had := n.wide.Swap(pod.UID, begun); !had {
		n.wides.Add(1)
	}
	if _, had := n.until.Swap(ownerOf(pod), time.Now().Add(wideFor).UnixNano()); !had {
		n.untils.Add(1)
	}
	go func() {
		defer p.guard.Recover(ctx, "widen", nil)
		// The pod is in its cycle still, and then in a queue. Nothing tells when.
		pause := time.Millisecond
		for range mostActivations {
			time.Sleep(pause)
			pause *= 2
			if begun.Load() {
				return
			}
			p.handle.Activate(klog.FromContext(ctx), map[string]*v1.Pod{pod.Name: pod})
		}
	}()
	return fmt.Sprintf("none of the %d nodes of the lowest latency took it; it is tried on all nodes now", s.narrowed)
}

// forget drops a pod that was placed, or is gone, and the owners whose time is over.
func (n *narrowing) forget(uid types.UID) {
	if n.wides.Load() == 0 {
		return
	}
	if _, ok := n.wide.LoadAndDelete(uid); !ok {
		return
	}
	n.wides.Add(-1)
	now := time.Now().UnixNano()
	n.until.Range(func(owner, until any) bool {
		if until.(int64) < now && n.until.CompareAndDelete(owner, until) {
			n.untils.Add(-1)
		}
		return true
	})
}
