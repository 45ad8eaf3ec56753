// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"fmt"
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
	// patienceFactor times the candidates are looked at for room; a pod that so few nodes have room for is tried on all.
	patienceFactor = 8
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

	rankers sync.Pool
}

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
	if begun, ok := n.wide.Load(pod.UID); ok {
		begun.(*atomic.Bool).Store(true)
		return nil
	}
	if until, ok := n.until.Load(ownerOf(pod)); ok && time.Now().UnixNano() < until.(int64) {
		return nil
	}
	if cannotTell(pod) {
		return nil
	}
	lister := p.handle.SnapshotSharedLister()
	if lister == nil {
		return nil
	}
	infos := lister.NodeInfos()

	ranker, ok := n.rankers.Get().(*placement.Ranker)
	if !ok {
		ranker = &placement.Ranker{}
	}
	defer n.rankers.Put(ranker)
	entries := make([]placement.Entry, len(s.entries))
	for i := range s.entries {
		entries[i] = s.entries[i].Entry
	}
	if !ranker.Rank(entries, s.snap.Len()) {
		return nil
	}
	room := newRoom(pod)
	names := make(sets.Set[string], p.candidates)
	patience := patienceFactor * p.candidates
	ranker.Ascending(func(number int32) bool {
		if s.hard && s.judge(number) != "" {
			return true // an array load: these do not count
		}
		name := s.snap.Name(number)
		if info, err := infos.Get(name); err == nil && room.fits(info) {
			names.Insert(name)
		}
		patience--
		return patience > 0 && len(names) < p.candidates
	})
	if len(names) < p.candidates/enoughShare {
		metrics.Narrowed.WithLabelValues("no_room").Inc()
		return nil
	}
	s.narrowed = len(names)
	metrics.Narrowed.WithLabelValues("narrowed").Inc()
	return &fwk.PreFilterResult{NodeNames: names}
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

func newRoom(pod *v1.Pod) *room {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	r := &room{
		milliCPU: requests.Cpu().MilliValue(), memory: requests.Memory().Value(),
		affinity: nodeaffinity.GetRequiredNodeAffinity(pod), tolerations: pod.Spec.Tolerations,
	}
	for name, q := range requests {
		switch name {
		case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage:
		default:
			if n := q.Value(); n > 0 {
				if r.devices == nil {
					r.devices = map[v1.ResourceName]int64{}
				}
				r.devices[name] = n
			}
		}
	}
	return r
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
	metrics.Narrowed.WithLabelValues("widened").Inc()
	if !p.engine.catalog.exists(pod) {
		return "" // nothing would take it out again
	}
	n := &p.engine.narrowing
	begun := &atomic.Bool{}
	n.wide.Store(pod.UID, begun)
	n.until.Store(ownerOf(pod), time.Now().Add(wideFor).UnixNano())
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
	if _, ok := n.wide.LoadAndDelete(uid); !ok {
		return
	}
	now := time.Now().UnixNano()
	n.until.Range(func(owner, until any) bool {
		if until.(int64) < now {
			n.until.Delete(owner)
		}
		return true
	})
}
