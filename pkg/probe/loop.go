// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/serf/coordinate"
)

const (
	// MinInterval is the least time between two probes of one peer, unless it is told otherwise, and the most between two of
	// the control pair.
	MinInterval = 10 * time.Second
	// DefaultRate is how many probes a second all peers together cost, unless it is told otherwise.
	DefaultRate = 0.3
	// DefaultWindow is the number of probes that a peer's statistics are made of.
	DefaultWindow = 20
	// DefaultStarvedAbove is how long an answer may wait for this process before the node counts as short of CPU.
	DefaultStarvedAbove = 5 * time.Millisecond
	// maxTimeout is how long a probe waits for its answer, unless it is told otherwise.
	maxTimeout = 2 * time.Second
	// firstProbes is the time over which the first probes of new peers are spread, where the interval is longer: a new
	// node need not wait for its turn. maxFirstRate bounds them, in probes a second, where there are many.
	firstProbes  = time.Second
	maxFirstRate = 100
)

// Target is a peer: a node and the address at which its reflector answers.
type Target struct {
	Name string
	Addr netip.AddrPort
}

// Outcome is what became of one probe.
type Outcome struct {
	Target Target
	// Control says that the probe was the node's own, to itself.
	Control bool
	// Result is valid when Err is nil.
	Result Result
	// Err is a *RejectedError when the answer was not believed. Any other error says that there was none.
	Err error
	// Starved says that the node was short of CPU while the probe was under way: it counts neither as a latency nor as a loss.
	Starved bool
	// Stats are those of the peer, or of the control pair, after the probe.
	Stats Stats
}

// Lost returns whether the probe was lost.
func (o Outcome) Lost() bool { return !o.Starved && unanswered(o.Err) }

func unanswered(err error) bool {
	var rejected *RejectedError
	return err != nil && !errors.As(err, &rejected)
}

// LoopConfig configures a Loop.
type LoopConfig struct {
	// Self is the name of the node that probes.
	Self string
	// Control is the address of the node's own reflector, which is probed like a peer: a slow answer from there says that
	// the node is short of CPU, not that the others are far. The zero value leaves it out.
	Control netip.AddrPort
	// Prober sends the probes.
	Prober Prober
	// Interval is the time between two probes of one peer; 0 means as long as Rate demands, and at least MinInterval.
	Interval time.Duration
	// Rate is how many probes a second all peers together may cost, the control pair apart, where Interval is 0; 0 means
	// DefaultRate.
	Rate float64
	// Timeout is how long a probe waits for its answer, at most Interval; 0 means 2 s, or Interval when that is less.
	Timeout time.Duration
	// Window is the number of probes that a peer's statistics are made of; 0 means DefaultWindow.
	Window int
	// StarvedAbove is the delay by this node itself above which a probe is not used: of the last probe of the control pair,
	// of the probe's answer in this machine, or of the loop; 0 means DefaultStarvedAbove.
	StarvedAbove time.Duration
	// Observe, unless it is nil, is called with every outcome, from several goroutines.
	Observe func(Outcome)
}

func (c *LoopConfig) complete() error {
	if c.Rate == 0 {
		c.Rate = DefaultRate
	}
	least := c.Interval
	if least == 0 {
		least = MinInterval
	}
	if c.Timeout == 0 {
		c.Timeout = min(least, maxTimeout)
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.StarvedAbove == 0 {
		c.StarvedAbove = DefaultStarvedAbove
	}
	if c.Observe == nil {
		c.Observe = func(Outcome) {}
	}
	var errs []error
	if c.Prober == nil {
		errs = append(errs, errors.New("prober: is missing"))
	}
	if c.Interval < 0 {
		errs = append(errs, fmt.Errorf("interval: %v: must be above 0, or 0 for as long as the rate demands", c.Interval))
	} else if c.Timeout < 0 || c.Timeout > least {
		errs = append(errs, fmt.Errorf("timeout: %v: must be above 0 and at most the interval of %v", c.Timeout, least))
	}
	if !(c.Rate > 0 && c.Rate <= 1e6) {
		errs = append(errs, fmt.Errorf("rate: %g: must be above 0 and at most 1000000 probes a second", c.Rate))
	}
	if c.Window < 0 {
		errs = append(errs, fmt.Errorf("window: %d: must be at least 1", c.Window))
	}
	if c.StarvedAbove < 0 {
		errs = append(errs, fmt.Errorf("starved above: %v: must be above 0", c.StarvedAbove))
	}
	return errors.Join(errs...)
}

// Loop probes a set of peers, each once an interval, at a moment of the interval that a hash chooses: so the probes of one
// node, and those to one node, are spread, and a restart changes nothing. All its times are monotonic: a step of the clock
// changes nothing either.
type Loop struct {
	cfg     LoopConfig
	now     func() time.Time
	start   time.Time
	changed chan struct{}
	beat    atomic.Int64 // nanoseconds since start

	mu       sync.Mutex
	interval time.Duration
	slow     bool // the last probe of the control pair was slow or lost
	control  *peer
	peers    map[string]*peer
	queue    dueHeap // holds control and all peers
}

type peer struct {
	target Target
	phase  float64 // of the interval, in [0, 1)
	due    time.Time
	index  int // in the queue
	probed bool
	window *Window
}

// NewLoop checks the configuration, and returns all that is wrong with it.
func NewLoop(cfg LoopConfig) (*Loop, error) { return newLoop(cfg, time.Now) }

func newLoop(cfg LoopConfig, now func() time.Time) (*Loop, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	l := &Loop{cfg: cfg, now: now, changed: make(chan struct{}, 1), peers: map[string]*peer{}}
	l.start = l.now()
	l.interval = l.intervalFor(0)
	if cfg.Control.IsValid() {
		l.control = l.newPeer(Target{Name: cfg.Self, Addr: cfg.Control})
		l.enqueue(l.control, l.start, l.firstDelay(l.control, 1))
	}
	return l, nil
}

// intervalFor returns the time between two probes of one of n peers.
func (l *Loop) intervalFor(n int) time.Duration {
	if l.cfg.Interval > 0 {
		return l.cfg.Interval
	}
	return max(MinInterval, time.Duration(float64(n)/l.cfg.Rate*float64(time.Second)))
}

// intervalOf returns the time between two probes of a peer, or of the control pair.
func (l *Loop) intervalOf(p *peer) time.Duration {
	if p == l.control {
		return min(l.interval, MinInterval)
	}
	return l.interval
}

// Interval returns the present time between two probes of one peer.
func (l *Loop) Interval() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.interval
}

// SetPeers replaces the peers. A peer that stays at its address keeps its results; one that is new is probed within a
// second, or later where more than a hundred are new. The node itself is left out, and so is a second peer of the same name.
func (l *Loop) SetPeers(targets []Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	stays := make(map[string]bool, len(targets))
	var added []*peer
	for _, t := range targets {
		if t.Name == l.cfg.Self || stays[t.Name] {
			continue
		}
		stays[t.Name] = true
		if old, ok := l.peers[t.Name]; ok {
			if old.target == t {
				continue
			}
			heap.Remove(&l.queue, old.index)
		}
		p := l.newPeer(t)
		l.peers[t.Name] = p
		added = append(added, p)
	}
	for name, p := range l.peers {
		if !stays[name] {
			heap.Remove(&l.queue, p.index)
			delete(l.peers, name)
		}
	}
	l.stretch(now, l.intervalFor(len(l.peers)))
	for _, p := range added {
		l.enqueue(p, now, l.firstDelay(p, len(added)))
	}
	select {
	case l.changed <- struct{}{}:
	default: // the loop has yet to see an earlier change
	}
}

// stretch changes the interval. What is queued keeps its order, at the new pace.
func (l *Loop) stretch(now time.Time, interval time.Duration) {
	if interval == l.interval {
		return
	}
	factor := float64(interval) / float64(l.interval)
	l.interval = interval
	for _, p := range l.queue {
		if p != l.control && p.due.After(now) {
			p.due = now.Add(time.Duration(float64(p.due.Sub(now)) * factor))
		}
	}
	heap.Init(&l.queue)
}

func (l *Loop) newPeer(t Target) *peer {
	phase := float64(mix(NameHash(l.cfg.Self), NameHash(t.Name))>>11) / (1 << 53)
	return &peer{target: t, phase: phase, window: NewWindow(l.cfg.Window)}
}

// firstDelay returns when the first probe of a peer is due that is new together with others, n in all.
func (l *Loop) firstDelay(p *peer, n int) time.Duration {
	spread := min(l.intervalOf(p), max(firstProbes, time.Duration(n)*time.Second/maxFirstRate))
	return time.Duration(p.phase * float64(spread))
}

func (l *Loop) enqueue(p *peer, now time.Time, after time.Duration) {
	p.due = now.Add(after)
	heap.Push(&l.queue, p)
}

// Run probes until ctx ends, and returns when no probe is under way any more.
func (l *Loop) Run(ctx context.Context) {
	var probes sync.WaitGroup
	defer probes.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.changed:
		case <-timer.C:
		}
		now := l.now()
		l.beat.Store(int64(now.Sub(l.start)))
		due, wait := l.due(now)
		for _, d := range due {
			probes.Go(func() { l.probe(ctx, d) })
		}
		timer.Reset(wait)
	}
}

// LastBeat returns when the loop last looked what to do. While it runs, that is at most MinInterval ago.
func (l *Loop) LastBeat() time.Time { return l.start.Add(time.Duration(l.beat.Load())) }

// turn is a peer whose turn it is, and since when.
type turn struct {
	*peer
	since time.Time
}

// due takes the peers whose turn it is, and returns the time until the next turn, at most MinInterval.
func (l *Loop) due(now time.Time) ([]turn, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var due []turn
	for len(l.queue) > 0 && !l.queue[0].due.After(now) {
		p := l.queue[0]
		due = append(due, turn{peer: p, since: p.due})
		// The next of the peer's moments that is not too near: those that were missed, since the machine slept, are not
		// made up for. After a first probe that was early, a whole interval passes, so that a peer costs no more for being new.
		interval := l.intervalOf(p)
		phase := time.Duration(p.phase * float64(interval))
		next := interval - (now.Sub(l.start)-phase+interval)%interval
		if !p.probed && next < interval || next < interval/2 {
			next += interval
		}
		p.probed = true
		p.due = now.Add(next)
		heap.Fix(&l.queue, 0)
	}
	wait := MinInterval
	if len(l.queue) > 0 {
		wait = min(wait, l.queue[0].due.Sub(now))
	}
	return due, wait
}

func (l *Loop) probe(ctx context.Context, p turn) {
	probeCtx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	begun := l.now()
	o := Outcome{Target: p.target, Control: p.peer == l.control}
	o.Result, o.Err = l.cfg.Prober(probeCtx, p.target.Addr)
	if o.Err != nil && ctx.Err() != nil {
		return // the loop ends: nothing is known of this probe
	}
	// The delays by this node: before the probe, and after its answer or its deadline.
	before, after := begun.Sub(p.since), o.Result.Waited
	if o.Err != nil {
		after = l.now().Sub(begun) - l.cfg.Timeout
	}
	l.mu.Lock()
	if o.Control {
		l.takeControl(&o, begun)
	} else {
		o.Starved = l.slow || max(before, after) > l.cfg.StarvedAbove
		switch {
		case o.Starved:
		case o.Err == nil:
			o.Err = p.window.Add(o.Result.RTT, begun)
		case o.Lost():
			p.window.AddLoss()
		}
	}
	o.Stats = p.window.Stats()
	l.mu.Unlock()
	l.cfg.Observe(o)
}

// takeControl takes a probe of the control pair. It is the whole way that counts there, with the time that the processes
// waited for CPU.
func (l *Loop) takeControl(o *Outcome, begun time.Time) {
	switch {
	case o.Err == nil:
		l.slow = o.Result.Elapsed > l.cfg.StarvedAbove
		o.Err = l.control.window.Add(o.Result.Elapsed, begun)
	case o.Lost():
		l.slow = true
		l.control.window.AddLoss()
	}
}

// PeerStats are the statistics of one peer.
type PeerStats struct {
	Name string
	Stats
}

// Picture is what a node knows of its distances at one moment.
type Picture struct {
	// Control is the node's way to itself, the time that its processes waited for CPU included; nil where that is not probed.
	Control *Stats
	// Starved says that the node is short of CPU: its control pair is mostly slow or lost.
	Starved bool
	// Interval is the present time between two probes of one peer.
	Interval time.Duration
	// Coordinate is the node's network coordinate; nil while there is none that predicts anything. Nobody may change it.
	Coordinate *coordinate.Coordinate
	// Peers are the peers, by name, those that were never answered and those that were never probed included.
	Peers []PeerStats
}

// Picture returns the present statistics. Their times are by the present clock: after the clock was set, they are what it
// would have shown.
func (l *Loop) Picture() Picture {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	stats := func(p *peer) Stats {
		s := p.window.Stats()
		if age, known := s.Age(now); known {
			s.At = now.Add(-age)
		}
		return s
	}
	p := Picture{Interval: l.interval}
	if l.control != nil {
		s := stats(l.control)
		p.Control = &s
		typical, _, known := s.RTT()
		p.Starved = s.Samples+s.Lost > 0 && (!known || typical > l.cfg.StarvedAbove)
	}
	p.Peers = make([]PeerStats, 0, len(l.peers))
	for name, peer := range l.peers {
		p.Peers = append(p.Peers, PeerStats{Name: name, Stats: stats(peer)})
	}
	slices.SortFunc(p.Peers, func(a, b PeerStats) int { return cmp.Compare(a.Name, b.Name) })
	return p
}

type dueHeap []*peer

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *dueHeap) Push(x any) {
	p := x.(*peer)
	p.index = len(*h)
	*h = append(*h, p)
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return p
}
