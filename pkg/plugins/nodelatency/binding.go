// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/placement"
)

// Placement is the JSON of the annotation fogsched.dev/placement: why the pod is where it is.
type Placement struct {
	Node string `json:"node"`
	// Cost is the mean of the entries' RTTs by weight, "12.3ms".
	Cost string `json:"cost,omitempty"`
	// Candidates is the number of nodes that were compared.
	Candidates int `json:"candidates,omitempty"`
	// RunnerUp is the best of the others.
	RunnerUp *RunnerUp        `json:"runnerUp,omitempty"`
	Entries  []PlacementEntry `json:"entries"`
	// EntriesLeftOut is how many more entries there were.
	EntriesLeftOut int `json:"entriesLeftOut,omitempty"`
}

// RunnerUp is the candidate that came next by latency, or that was ahead of the chosen one when other plugins decided.
type RunnerUp struct {
	Node string `json:"node"`
	Cost string `json:"cost"`
	// Provenance and Error are the worst of its entries.
	Provenance string `json:"provenance"`
	Error      string `json:"error,omitempty"`
	// LimitBroken is set where it breaks a limit, and so ranked behind.
	LimitBroken bool `json:"limitBroken,omitempty"`
}

// PlacementEntry is one entry of an intent on the chosen node.
type PlacementEntry struct {
	// From says who wanted it: a LatencyPolicy or the annotation.
	From   string `json:"from"`
	Entry  string `json:"entry"`
	Target string `json:"target"`
	// Typical and Tail are expected round-trip times by the entry's routing; absent where unknown.
	Typical string `json:"typical,omitempty"`
	Tail    string `json:"tail,omitempty"`
	// Provenance is the worst among the pairs behind them, Error the largest error to be expected of those that are estimated from
	// coordinates, "±22%".
	Provenance string `json:"provenance"`
	Error      string `json:"error,omitempty"`
	// Age is that of the oldest measurement behind them.
	Age string `json:"age,omitempty"`
	// UnknownPairs is how many pairs are missing in them.
	UnknownPairs int    `json:"unknownPairs,omitempty"`
	Limit        string `json:"limit,omitempty"`
	LimitBroken  bool   `json:"limitBroken,omitempty"`
}

// Bind binds a pod that has an intent, and writes why it is there into the same request: the API server copies the
// annotations of a Binding onto the pod, so that the explanation costs no request of its own. For any other pod it returns
// Skip, and the next bind plugin, DefaultBinder, takes over.
func (p *NodeLatency) Bind(ctx context.Context, cycle fwk.CycleState, pod *v1.Pod, nodeName string) *fwk.Status {
	explanation, broken := p.explain(ctx, cycle, nodeName)
	if explanation == "" {
		return fwk.NewStatus(fwk.Skip)
	}
	binding := &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			Annotations: map[string]string{v1alpha1.PlacementAnnotation: explanation},
		},
		Target: v1.ObjectReference{Kind: "Node", Name: nodeName},
	}
	if err := p.bind(ctx, binding); err != nil {
		return fwk.AsStatus(fmt.Errorf("binding pod %s to node %s: %w", klog.KObj(pod), nodeName, err))
	}
	if len(broken) > 0 {
		metrics.LimitsBroken.Add(float64(len(broken)))
		if r := p.handle.EventRecorder(); r != nil {
			r.Eventf(pod, nil, v1.EventTypeWarning, EventLimitExceeded, "Scheduling", "%s", shorten(strings.Join(broken, "; "), maxEventBytes))
		}
	}
	return nil
}

func (p *NodeLatency) bind(ctx context.Context, binding *v1.Binding) error {
	if cacher := p.handle.APICacher(); cacher != nil {
		done, err := cacher.BindPod(binding)
		if err != nil {
			return err
		}
		return cacher.WaitOnFinish(ctx, done)
	}
	return p.handle.ClientSet().CoreV1().Pods(binding.Namespace).Bind(ctx, binding, metav1.CreateOptions{})
}

// explain returns the placement annotation, "" where the pod has no intent, and a sentence for each limit that the node
// breaks.
func (p *NodeLatency) explain(ctx context.Context, cycle fwk.CycleState, nodeName string) (explanation string, broken []string) {
	defer p.guard.Recover(ctx, "Bind", func() { explanation = "" })
	s := p.read(cycle)
	if s == nil {
		return "", nil
	}
	why, broken := s.explain(nodeName, time.Now())
	data, err := json.Marshal(why)
	if err != nil || len(data) > maxPlacementBytes {
		why.Entries, why.EntriesLeftOut = nil, len(s.entries)
		data, err = json.Marshal(why)
	}
	if err != nil {
		return "", broken
	}
	return string(data), broken
}

const (
	// The API server does not check the size of the annotations that come with a Binding, and then refuses every later change
	// of a pod that has too many: the explanation must stay small whatever the intents say.
	maxPlacementBytes   = 8 << 10
	maxPlacementEntries = 16
	maxPlacementText    = 128

	// maxEventBytes is the API server's limit of an event's note.
	maxEventBytes = 1024
)

// shorten cuts a text to at most limit bytes.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const ellipsis = "…"
	return strings.ToValidUTF8(text[:limit-len(ellipsis)], "") + ellipsis
}

func (s *state) explain(nodeName string, now time.Time) (Placement, []string) {
	n := s.number(nodeName)
	why := Placement{Node: nodeName, Candidates: len(s.scored)}
	var broken []string
	if n >= 0 && s.costOf(n) > 0 {
		why.Cost, _ = s.costFor(n)
		other := s.best
		if other == n {
			other = s.second
		}
		if other >= 0 {
			why.RunnerUp = &RunnerUp{Node: s.snap.Name(other)}
			why.RunnerUp.Provenance, why.RunnerUp.Error = s.confidence(other)
			why.RunnerUp.Cost, why.RunnerUp.LimitBroken = s.costFor(other)
		}
	}
	others := othersPool.Get().(*others)
	defer othersPool.Put(others)
	for i := range s.entries {
		if i == maxPlacementEntries { // the pod's own come first
			why.EntriesLeftOut = len(s.entries) - i
			break
		}
		e := &s.entries[i]
		x := e.At(n)
		pe := PlacementEntry{
			From: shorten(e.intent, maxPlacementText), Entry: e.path, Target: shorten(e.targetName(), maxPlacementText), UnknownPairs: x.Unknown,
		}
		other, o := others.of(s, e, n)
		pe.Provenance = worse(x.Provenance, o.Provenance).String()
		pe.Error = latency.FormatError(max(s.errorOf(&e.Entry, e.direction, n, &x), s.errorOf(&other, e.direction, n, &o)))
		typical, tail := x.RTT, o.RTT
		if e.statistic == latency.Tail {
			typical, tail = tail, typical
		}
		if typical.Known() {
			pe.Typical = typical.String()
		}
		if tail.Known() {
			pe.Tail = tail.String()
		}
		if age, ok := s.oldest(&e.Entry, e.direction, n, now); ok {
			pe.Age = age.Round(time.Second).String()
		}
		if e.limit != nil {
			pe.Limit = e.limit.entry.Limit.String()
			if pe.LimitBroken = e.limit.Check(n) == placement.Exceeded; pe.LimitBroken && !e.limit.reverse {
				rtt, p, target := e.limit.Decisive(n)
				broken = append(broken, fmt.Sprintf("Node %s exceeds the latency limit %s to %s (%s of %s): %s to node %s (%s); %s",
					nodeName, e.limit.entry.Limit, shorten(e.targetName(), maxPlacementText), e.path, e.intent, rtt, s.name(target), p, s.whyBroken()))
			}
		}
		why.Entries = append(why.Entries, pe)
	}
	return why, broken
}

// others makes, for entries of one pod, those for the statistic that they are not about. It keeps its memory for the next pod.
type others struct {
	nodes   []int32
	peers   []placement.Peer
	targets []placement.Target
	rows    []*latency.Row
}

var othersPool = sync.Pool{New: func() any { return &others{} }}

// of returns an entry for the statistic that e is not about, and its cost on a node. Rows of that statistic would be built for this alone, so only
// what is asked for is looked up: the node and the peers. The entry is valid until the next call.
func (o *others) of(s *state, e *entry, n int32) (placement.Entry, placement.Expectation) {
	o.nodes, o.peers, o.targets = append(o.nodes[:0], n), o.peers[:0], o.targets[:0]
	for _, p := range e.basis.peers {
		o.peers = append(o.peers, placement.Peer{Node: int32(len(o.nodes)), Count: p.Count})
		o.nodes = append(o.nodes, p.Node)
	}
	for i, target := range e.Targets() {
		if i == len(o.rows) {
			o.rows = append(o.rows, &latency.Row{})
		}
		s.snap.Section(o.rows[i], target, e.direction, 1-e.statistic, o.nodes)
		o.targets = append(o.targets, placement.Target{Row: o.rows[i], Node: target, Mass: e.Mass(i)})
	}
	var b placement.Builder
	other := e.basis.make(&b, o.targets, o.peers)
	if n < 0 {
		return other, other.At(n)
	}
	return other, other.At(0)
}

// worse returns the worse of two provenances, of which an unknown one says nothing.
func worse(a, b latency.Provenance) latency.Provenance {
	if a == latency.Unknown || b != latency.Unknown && b < a {
		return b
	}
	return a
}

// confidence returns the worst provenance behind a candidate's cost, and the largest error.
func (s *state) confidence(n int32) (provenance, largest string) {
	var p latency.Provenance
	var e float32
	for i := range s.entries {
		x := s.entries[i].At(n)
		p = worse(p, x.Provenance)
		e = max(e, s.errorOf(&s.entries[i].Entry, s.entries[i].direction, n, &x))
	}
	return p.String(), latency.FormatError(e)
}

// errorOf returns the largest relative error of the estimates behind an entry on a node, 0 where none is from coordinates.
func (s *state) errorOf(e *placement.Entry, d latency.Direction, n int32, x *placement.Expectation) (largest float32) {
	if x.Provenance != latency.Coordinate { // it is the worst of all that are known
		return 0
	}
	for i, target := range e.Targets() {
		if i == maxAgePairs {
			break
		}
		if target >= 0 && (!e.OnePair() || target == x.Target) {
			largest = max(largest, s.estimate(d, n, target).Error)
		}
	}
	return largest
}

// estimate is what is known of the pair of a candidate and a target.
func (s *state) estimate(d latency.Direction, n, target int32) latency.Estimate {
	if d == latency.FromTarget {
		return s.snap.Estimate(target, n)
	}
	return s.snap.Estimate(n, target)
}

// costFor returns a candidate's cost for people, without what put it behind, and whether it breaks a limit.
func (s *state) costFor(n int32) (cost string, breaks bool) {
	c := s.costOf(n)
	if breaks = s.breaksAny(n); breaks {
		c -= s.penalty
	}
	return latency.Format(time.Duration(c)), breaks
}

// whyBroken says why a pod is on a node that breaks a limit.
func (s *state) whyBroken() string {
	switch {
	case s.scored == nil:
		return "no other node was feasible; whenUnsatisfiable: DoNotSchedule would keep the pod pending"
	case s.keepers == 0:
		return "no candidate keeps every limit; whenUnsatisfiable: DoNotSchedule would keep the pod pending"
	default:
		return fmt.Sprintf("%d candidates keep every limit, and other scheduling preferences outweighed it", s.keepers)
	}
}

// name returns the name of a node of the snapshot.
func (s *state) name(n int32) string {
	if n < 0 {
		return "unknown"
	}
	return s.snap.Name(n)
}

// maxAgePairs bounds how many pairs of an entry are asked for their age or error.
const maxAgePairs = 256

// oldest returns the age of the oldest measurement behind an entry on a node.
func (s *state) oldest(e *placement.Entry, d latency.Direction, n int32, now time.Time) (age time.Duration, ok bool) {
	if n < 0 {
		return 0, false
	}
	for i, target := range e.Targets() {
		if i == maxAgePairs {
			break
		}
		if target < 0 {
			continue
		}
		if est := s.estimate(d, n, target); !est.At.IsZero() {
			age, ok = max(age, now.Sub(est.At)), true
		}
	}
	return age, ok
}
