// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultInterval is the time between two probes of one peer.
	DefaultInterval = 10 * time.Second
	// DefaultWindow is the number of probes that a peer's statistics are made of.
	DefaultWindow = 20
	// maxTimeout is how long a probe waits for its answer, unless it is told otherwise.
	maxTimeout = 2 * time.Second
	// firstProbes is the time over which the first probes of new peers are spread, where the interval is longer: a new
	// node need not wait for its turn.
	firstProbes = time.Second
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
	// Err is a *RejectedError when the answer was not believed. Any other error is a loss.
	Err error
}

// Lost returns whether the probe was lost.
func (o Outcome) Lost() bool {
	var rejected *RejectedError
	return o.Err != nil && !errors.As(o.Err, &rejected)
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
	// Interval is the time between two probes of one peer; 0 means DefaultInterval.
	Interval time.Duration
	// Timeout is how long a probe waits for its answer, at most Interval; 0 means 2 s, or Interval when that is less.
	Timeout time.Duration
	// Window is the number of probes that a peer's statistics are made of; 0 means DefaultWindow.
	Window int
	// Observe, unless it is nil, is called with every outcome, from several goroutines.
	Observe func(Outcome)
}

func (c *LoopConfig) complete() error {
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.Timeout == 0 {
		c.Timeout = min(c.Interval, maxTimeout)
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.Observe == nil {
		c.Observe = func(Outcome) {}
	}
	var errs []error
	if c.Prober == nil {
		errs = append(errs, errors.New("prober: is missing"))
	}
	if c.Interval < 0 {
		errs = append(errs, fmt.Errorf("interval: %v: must be above 0", c.Interval))
	} else if c.Timeout < 0 || c.Timeout > c.Interval {
		errs = append(errs, fmt.Errorf("timeout: %v: must be above 0 and at most the interval of %v", c.Timeout, c.Interval))
	}
	if c.Window < 0 {
		errs = append(errs, fmt.Errorf("window: %d: must be at least 1", c.Window))
	}
	return errors.Join(errs...)
}

// Loop probes a set of peers, each once an interval, at a moment of the interval that a hash chooses: so the probes of one
// node, and those to one node, are spread, and a restart changes nothing.
type Loop struct {
	cfg     LoopConfig
	changed chan struct{}
	beat    atomic.Int64 // Unix nanoseconds

	mu      sync.Mutex
	start   time.Time
	control *peer
	peers   map[string]*peer
	queue   dueHeap // holds control and all peers once the loop runs
}

type peer struct {
	target Target
	phase  time.Duration // in [0, interval)
	due    time.Time
	index  int // in the queue
	window *Window
}

// NewLoop checks the configuration, and returns all that is wrong with it.
func NewLoop(cfg LoopConfig) (*Loop, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	l := &Loop{cfg: cfg, changed: make(chan struct{}, 1), peers: map[string]*peer{}, start: time.Now()}
	l.beat.Store(l.start.UnixNano())
	if cfg.Control.IsValid() {
		l.control = l.newPeer(Target{Name: cfg.Self, Addr: cfg.Control})
	}
	return l, nil
}

// Interval returns the time between two probes of one peer.
func (l *Loop) Interval() time.Duration { return l.cfg.Interval }

// SetPeers replaces the peers. A peer that stays at its address keeps its results; one that is new is probed within a
// second. The node itself is left out, and so is a second peer of the same name.
func (l *Loop) SetPeers(targets []Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stays := make(map[string]bool, len(targets))
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
		l.peers[t.Name] = l.newPeer(t)
	}
	for name, p := range l.peers {
		if !stays[name] {
			heap.Remove(&l.queue, p.index)
			delete(l.peers, name)
		}
	}
	select {
	case l.changed <- struct{}{}:
	default: // the loop has yet to see an earlier change
	}
}

// newPeer makes a peer and queues its first probe.
func (l *Loop) newPeer(t Target) *peer {
	h := fnv.New64a()
	_, _ = h.Write([]byte(l.cfg.Self + "\x00" + t.Name))
	p := &peer{
		target: t,
		phase:  time.Duration(h.Sum64() % uint64(l.cfg.Interval)),
		window: NewWindow(l.cfg.Window),
	}
	soon := min(l.cfg.Interval, firstProbes)
	p.due = time.Now().Add(time.Duration(float64(p.phase) / float64(l.cfg.Interval) * float64(soon)))
	heap.Push(&l.queue, p)
	return p
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
		l.beat.Store(time.Now().UnixNano())
		due, wait := l.due()
		for _, p := range due {
			probes.Go(func() { l.probe(ctx, p) })
		}
		timer.Reset(wait)
	}
}

// LastBeat returns when the loop last looked what to do. While it runs, that is at most an interval ago.
func (l *Loop) LastBeat() time.Time { return time.Unix(0, l.beat.Load()) }

// due takes the peers whose turn it is, and returns the time until the next turn, at most an interval.
func (l *Loop) due() ([]*peer, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	var due []*peer
	for len(l.queue) > 0 && !l.queue[0].due.After(now) {
		p := l.queue[0]
		due = append(due, p)
		// The next of the peer's moments: those that were missed, since the machine slept, are not made up for.
		p.due = now.Add(l.cfg.Interval - (now.Sub(l.start)-p.phase+l.cfg.Interval)%l.cfg.Interval)
		heap.Fix(&l.queue, 0)
	}
	wait := l.cfg.Interval
	if len(l.queue) > 0 {
		wait = min(wait, l.queue[0].due.Sub(now))
	}
	return due, wait
}

func (l *Loop) probe(ctx context.Context, p *peer) {
	probeCtx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	o := Outcome{Target: p.target, Control: p == l.control}
	o.Result, o.Err = l.cfg.Prober(probeCtx, p.target.Addr)
	if o.Err != nil && ctx.Err() != nil {
		return // the loop ends: nothing is known of this probe
	}
	l.mu.Lock()
	switch {
	case o.Err == nil:
		o.Err = p.window.Add(o.Result.RTT, o.Result.SentAt)
	case o.Lost():
		p.window.AddLoss()
	}
	l.mu.Unlock()
	l.cfg.Observe(o)
}

// PeerStats are the statistics of one peer.
type PeerStats struct {
	Name string
	Stats
}

// Picture is what a node knows of its distances at one moment.
type Picture struct {
	// Control is the node's way to itself; nil where that is not probed.
	Control *Stats
	// Peers are the peers, by name, those that were never answered and those that were never probed included.
	Peers []PeerStats
}

// Picture returns the present statistics.
func (l *Loop) Picture() Picture {
	l.mu.Lock()
	defer l.mu.Unlock()
	var p Picture
	if l.control != nil {
		s := l.control.window.Stats()
		p.Control = &s
	}
	p.Peers = make([]PeerStats, 0, len(l.peers))
	for name, peer := range l.peers {
		p.Peers = append(p.Peers, PeerStats{Name: name, Stats: peer.window.Stats()})
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
