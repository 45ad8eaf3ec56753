// SPDX-License-Identifier: Apache-2.0

// Package nodelatency is the scheduling plugin NodeLatency: it keeps pods within their latency limits and places them
// where their round-trip times are the shortest. See README.md.
package nodelatency

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
)

// NodeLatency places pods by the measured latency between nodes.
type NodeLatency struct {
	handle fwk.Handle
	engine *engine
	guard  *internal.Guard

	// last is the state of the latest cycle: Score finds it here without a look-up. Cycles that overlap, as those of
	// preemption can, read theirs from the CycleState.
	last atomic.Pointer[state]

	// candidates is how many nodes a pod is narrowed to, 0 for none. The rest is for narrowing alone: see there.
	candidates  int
	postFilters func(fwk.Handle) []string
	order       sync.Once
	mayNarrow   bool
}

var (
	_ fwk.SignPlugin        = &NodeLatency{}
	_ fwk.PreFilterPlugin   = &NodeLatency{}
	_ fwk.FilterPlugin      = &NodeLatency{}
	_ fwk.PostFilterPlugin  = &NodeLatency{}
	_ fwk.PreScorePlugin    = &NodeLatency{}
	_ fwk.ScorePlugin       = &NodeLatency{}
	_ fwk.ScoreExtensions   = &NodeLatency{}
	_ fwk.ReservePlugin     = &NodeLatency{}
	_ fwk.BindPlugin        = &NodeLatency{}
	_ fwk.EnqueueExtensions = &NodeLatency{}
)

const (
	// Name is the plugin's name in a KubeSchedulerConfiguration.
	Name = "NodeLatency"

	stateKey fwk.StateKey = Name

	// Reasons of Filter; one line of a FailedScheduling event for any number of nodes.
	ReasonExceeded   = "node(s) exceed the latency limit"
	ReasonUnmeasured = "node(s) have no measured latency for the limit"

	// Reasons of events.
	EventInvalidAnnotation = "InvalidLatencyAnnotation"
	EventLimitExceeded     = "LatencyLimitExceeded"
)

// New makes the plugin for one profile. Profiles with the same arguments share their data.
func New(ctx context.Context, obj runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
	args, err := getArgs(obj)
	if err != nil {
		return nil, err
	}
	e, err := sharedEngine(ctx, args, handle)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", Name, err)
	}
	p := newPlugin(handle, e)
	p.candidates = *args.Candidates
	return p, nil
}

func newPlugin(handle fwk.Handle, e *engine) *NodeLatency {
	return &NodeLatency{handle: handle, engine: e, guard: internal.NewGuard(Name)}
}

// Name returns the plugin's name.
func (p *NodeLatency) Name() string { return Name }

// SignPod signs pods that place alike: nothing for a pod without an intent, the intents for one whose targets are fixed
// nodes. It refuses one whose best node depends on where other pods are, its own replicas among them.
func (p *NodeLatency) SignPod(ctx context.Context, pod *v1.Pod) (fragments []fwk.SignFragment, status *fwk.Status) {
	defer p.guard.Recover(ctx, "SignPod", nil)
	w := p.engine.wantsOf(pod)
	if len(w.calls) > 0 {
		return nil, fwk.NewStatus(fwk.Unschedulable, "where other pods run decides about this pod's place")
	}
	var names []string
	for _, b := range w.own {
		for i := range b.entries {
			if e := &b.entries[i]; !e.fixed() || e.Role != intent.Dependency {
				return nil, fwk.NewStatus(fwk.Unschedulable, "where other pods run decides about this pod's place")
			}
		}
		names = append(names, b.Name+" "+pod.Annotations[v1alpha1.LatencyAnnotation])
	}
	if len(names) == 0 {
		return nil, nil
	}
	slices.Sort(names) // two policies come in no order
	// Two pods are placed alike only while no intent changes between them: a policy keeps its name when it gets another spec.
	names = append(names, fmt.Sprint(p.engine.catalog.generation.Load()))
	return []fwk.SignFragment{{Key: "fogsched.dev/NodeLatency.Intents()", Value: names}}, nil
}

// read returns the state of a cycle; nil where the pod has no intent.
func (p *NodeLatency) read(cycle fwk.CycleState) *state {
	if l := p.last.Load(); l != nil && internal.Same(l.cycle, cycle) {
		return l
	}
	data, err := cycle.Read(stateKey)
	if err != nil {
		return nil
	}
	s, _ := data.(*state)
	return s
}

// Reserve counts the pod as placed, so that the next cycle sees it before its binding is through.
func (p *NodeLatency) Reserve(ctx context.Context, _ fwk.CycleState, pod *v1.Pod, nodeName string) (status *fwk.Status) {
	defer p.guard.Recover(ctx, "Reserve", nil)
	p.engine.index.Assume(pod, nodeName)
	return nil
}

// Unreserve takes back what Reserve did.
func (p *NodeLatency) Unreserve(ctx context.Context, _ fwk.CycleState, pod *v1.Pod, _ string) {
	defer p.guard.Recover(ctx, "Unreserve", nil)
	p.engine.index.Forget(pod.UID)
}
