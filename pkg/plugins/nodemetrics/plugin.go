// SPDX-License-Identifier: Apache-2.0

// Package nodemetrics is the scheduling plugin NodeMetrics: it places pods by what Prometheus knows of the nodes. See README.md.
package nodemetrics

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/plugins/internal"
)

// NodeMetrics places pods by metrics of nodes.
type NodeMetrics struct {
	handle fwk.Handle
	engine *engine
	guard  *internal.Guard

	// last is the state of the latest cycle: Filter and Score find it here without a look-up. Cycles that overlap read theirs from the
	// CycleState.
	last atomic.Pointer[lastCycle]
}

type lastCycle struct {
	cycle fwk.CycleState
	state *state
}

var (
	_ fwk.SignPlugin        = &NodeMetrics{}
	_ fwk.PreFilterPlugin   = &NodeMetrics{}
	_ fwk.FilterPlugin      = &NodeMetrics{}
	_ fwk.PostFilterPlugin  = &NodeMetrics{}
	_ fwk.PreScorePlugin    = &NodeMetrics{}
	_ fwk.ScorePlugin       = &NodeMetrics{}
	_ fwk.ReservePlugin     = &NodeMetrics{}
	_ fwk.PostBindPlugin    = &NodeMetrics{}
	_ fwk.EnqueueExtensions = &NodeMetrics{}
)

const (
	// Name is the plugin's name in a KubeSchedulerConfiguration.
	Name = "NodeMetrics"

	stateKey fwk.StateKey = Name

	// Reasons of Filter; one line of a FailedScheduling event for any number of nodes.
	ReasonExceeded = "node(s) are beyond the limit of a node metric"
	ReasonUnknown  = "node(s) have no value of a node metric for its limit"

	// EventLimitExceeded is the reason of the event of a pod that was placed beyond a limit.
	EventLimitExceeded = "NodeMetricLimitExceeded"
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
	return newPlugin(handle, e), nil
}

func newPlugin(handle fwk.Handle, e *engine) *NodeMetrics {
	return &NodeMetrics{handle: handle, engine: e, guard: internal.NewGuard(Name)}
}

// Name returns the plugin's name.
func (p *NodeMetrics) Name() string { return Name }

// SignPod signs pods that move the metrics alike: they are placed alike.
func (p *NodeMetrics) SignPod(ctx context.Context, pod *v1.Pod) (fragments []fwk.SignFragment, status *fwk.Status) {
	defer p.guard.Recover(ctx, "SignPod", nil)
	return []fwk.SignFragment{{Key: "fogsched.dev/NodeMetrics.Effects()", Value: p.engine.effects(pod)}}, nil
}

// state is what one scheduling cycle knows. PreFilter or PreScore makes it.
type state struct {
	snap *snapshot
	// effects is by how much the pod moves each metric on a node whose per is 1.
	effects []float32

	// rejected has a 1 for each node that a limit excluded, by node number; Filter runs for many nodes at once.
	rejected    []uint8
	anyRejected atomic.Bool

	// scores has the candidates' scores; lowest, the least of them, is for what it does not have: the unknown is not good. PreScore writes them.
	scored bool
	scores internal.NodeTable
	lowest int64
	// candidates is how many PreScore had, keepers how many of them keep every limit, best the best value for each metric with a limit.
	candidates, keepers int
	best                []nearest

	// broken has a sentence for each limit that the chosen node is beyond. Reserve writes it.
	broken []string
}

// nearest is the best value of a metric, and its node's name, "" where no value is known.
type nearest struct {
	node  string
	value float32
}

// Clone returns the state itself: preemption's what-if on other pods changes no value.
func (s *state) Clone() fwk.StateData { return s }

func (p *NodeMetrics) newState(pod *v1.Pod) *state {
	return &state{snap: p.engine.current.Load(), effects: p.engine.effects(pod)}
}

// keep makes a state that of a cycle.
func (p *NodeMetrics) keep(cycle fwk.CycleState, s *state) {
	cycle.Write(stateKey, s)
	p.last.Store(&lastCycle{cycle: cycle, state: s})
}

// read returns the state of a cycle, or nil.
func (p *NodeMetrics) read(cycle fwk.CycleState) *state {
	if l := p.last.Load(); l != nil && internal.Same(l.cycle, cycle) {
		return l.state
	}
	data, err := cycle.Read(stateKey)
	if err != nil {
		return nil
	}
	s, _ := data.(*state)
	return s
}

// Reserve counts the pod on its node, so that the next cycle sees it long before a sample does.
func (p *NodeMetrics) Reserve(ctx context.Context, cycle fwk.CycleState, pod *v1.Pod, nodeName string) (status *fwk.Status) {
	defer p.guard.Recover(ctx, "Reserve", nil)
	if p.engine.limited {
		s := p.read(cycle)
		if s == nil { // the only feasible node is not scored
			s = p.newState(pod)
			p.keep(cycle, s)
		}
		s.broken = p.engine.broken(s, nodeName)
	}
	p.engine.assume(pod, nodeName)
	return nil
}

// Unreserve takes back what Reserve did.
func (p *NodeMetrics) Unreserve(ctx context.Context, _ fwk.CycleState, pod *v1.Pod, _ string) {
	defer p.guard.Recover(ctx, "Unreserve", nil)
	p.engine.forget(pod.UID)
}

// PostBind tells the owner of a pod which limits its node is beyond.
func (p *NodeMetrics) PostBind(ctx context.Context, cycle fwk.CycleState, pod *v1.Pod, _ string) {
	defer p.guard.Recover(ctx, "PostBind", nil)
	if !p.engine.limited {
		return
	}
	s := p.read(cycle)
	if s == nil || len(s.broken) == 0 {
		return
	}
	metrics.NodeMetricsLimitsBroken.Add(float64(len(s.broken)))
	if r := p.handle.EventRecorder(); r != nil {
		r.Eventf(pod, nil, v1.EventTypeWarning, EventLimitExceeded, "Scheduling", "%s", shorten(strings.Join(s.broken, "; ")))
	}
}

// broken returns a sentence for each limit that the node is beyond with the pod of a state on it.
func (e *engine) broken(s *state, nodeName string) []string {
	var broken []string
	n := s.snap.number(nodeName)
	for i := range e.metrics {
		m := &e.metrics[i]
		v := s.snap.after(i, n, s.effects[i])
		if !m.exceeds(v) {
			continue
		}
		text := fmt.Sprintf("Node %s is beyond the limit %s of metric %s with %s", nodeName, format(m.limit), m.name, format(v))
		switch {
		case !s.scored:
			text += "; no other node was feasible, or other preferences decided"
		case s.keepers > 0:
			text += fmt.Sprintf("; %d of %d candidates keep every limit, and other scheduling preferences outweighed it", s.keepers, s.candidates)
		case s.best[i].node == nodeName:
			text += fmt.Sprintf(", the best of %d candidates", s.candidates)
		default:
			text += fmt.Sprintf("; of %d candidates the best for it is node %s with %s", s.candidates, s.best[i].node, format(s.best[i].value))
		}
		broken = append(broken, text+"; whenUnsatisfiable: DoNotSchedule would keep the pod pending")
	}
	return broken
}

// format writes a value with four digits.
func format(v float32) string { return fmt.Sprintf("%.4g", v) }

// maxEventBytes is the API server's limit of an event's note.
const maxEventBytes = 1024

func shorten(text string) string {
	if len(text) <= maxEventBytes {
		return text
	}
	const ellipsis = "…"
	return strings.ToValidUTF8(text[:maxEventBytes-len(ellipsis)], "") + ellipsis
}
