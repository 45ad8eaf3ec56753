// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeNetwork is a Prober with a set RTT an address; none means that the probe is lost.
type fakeNetwork struct {
	mu    sync.Mutex
	rtt   map[netip.AddrPort]time.Duration
	err   map[netip.AddrPort]error
	times map[netip.AddrPort][]time.Time
}

func newFakeNetwork() *fakeNetwork {
	return &fakeNetwork{
		rtt:   map[netip.AddrPort]time.Duration{},
		err:   map[netip.AddrPort]error{},
		times: map[netip.AddrPort][]time.Time{},
	}
}

func (f *fakeNetwork) set(a netip.AddrPort, rtt time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rtt[a] = rtt
}

func (f *fakeNetwork) probe(ctx context.Context, a netip.AddrPort) (Result, error) {
	sentAt := time.Now()
	f.mu.Lock()
	rtt, ok := f.rtt[a]
	err := f.err[a]
	f.times[a] = append(f.times[a], sentAt)
	f.mu.Unlock()
	if err != nil {
		return Result{}, err
	}
	var answer <-chan time.Time
	if ok {
		answer = time.After(max(rtt, 0))
	}
	select {
	case <-answer:
		return Result{RTT: rtt, SentAt: sentAt, Elapsed: time.Since(sentAt)}, nil
	case <-ctx.Done():
		return Result{}, fmt.Errorf("%w: %w", ErrLost, ctx.Err())
	}
}

// runLoop runs a loop in the bubble, and returns what ends it.
func runLoop(t *testing.T, cfg LoopConfig) (*Loop, func()) {
	t.Helper()
	l, err := NewLoop(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	return l, func() { cancel(); <-done }
}

func peerOf(t *testing.T, l *Loop, name string) Stats {
	t.Helper()
	for _, p := range l.Picture().Peers {
		if p.Name == name {
			return p.Stats
		}
	}
	t.Fatalf("no peer %s in %+v", name, l.Picture())
	return Stats{}
}

func TestLoopProbesEveryPeerOnceAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNetwork()
		var peers []Target
		for i := range 50 {
			n.set(target(i), 20*ms)
			peers = append(peers, Target{fmt.Sprintf("node-%d", i), target(i)})
		}
		control := netip.MustParseAddrPort("127.0.0.1:9")
		n.set(control, ms)
		start := time.Now()
		l, stop := runLoop(t, LoopConfig{Self: "me", Control: control, Prober: n.probe, Interval: 10 * time.Second})
		l.SetPeers(append(peers, Target{"me", target(99)}))
		time.Sleep(101 * time.Second)
		stop()

		if len(n.times[target(99)]) > 0 {
			t.Error("the node probed itself as a peer")
		}
		var inSecond [10]int
		for a, times := range n.times {
			if first := times[0].Sub(start); first > time.Second {
				t.Errorf("%s was first probed after %v", a, first)
			}
			if len(times) < 10 || len(times) > 12 {
				t.Errorf("%s was probed %d times in 101s", a, len(times))
			}
			for i := 2; i < len(times); i++ {
				if d := times[i].Sub(times[i-1]); d != 10*time.Second {
					t.Errorf("%s: %v between two probes", a, d)
				}
			}
			inSecond[times[5].Sub(start)/time.Second%10]++
		}
		for second, probes := range inSecond {
			if probes == 0 || probes > 15 {
				t.Errorf("%d of 51 probes in second %d: %v", probes, second, inSecond)
			}
		}
		p := l.Picture()
		if len(p.Peers) != 50 || p.Control == nil {
			t.Fatalf("picture %+v", p)
		}
		for _, peer := range p.Peers {
			if typical, tail, known := peer.RTT(); typical != 20*ms || tail != 20*ms || !known || peer.Lost != 0 {
				t.Errorf("%+v", peer)
			}
		}
		if typical, _, known := p.Control.RTT(); typical != ms || !known {
			t.Errorf("control %+v", *p.Control)
		}
	})
}

func TestLoopAFailureIsALossAndARejectionNeither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNetwork()
		n.set(target(1), 30*ms)
		n.err[target(2)] = fmt.Errorf("%w: no route to host", ErrLost)
		n.err[target(3)] = &RejectedError{ReasonNotPositive}
		n.set(target(4), 0) // a broken prober that calls nothing an answer
		n.set(target(5), 3*time.Second)
		var mu sync.Mutex
		outcomes := map[string]int{}
		l, stop := runLoop(t, LoopConfig{
			Self: "me", Prober: n.probe, Interval: 10 * time.Second, Window: 5,
			Observe: func(o Outcome) {
				mu.Lock()
				defer mu.Unlock()
				if o.Control || o.Err == nil && o.Result.RTT <= 0 {
					t.Errorf("outcome %+v", o)
				}
				rejected := (*RejectedError)(nil)
				outcomes[fmt.Sprint(o.Target.Name, " lost ", o.Lost(), " rejected ", errors.As(o.Err, &rejected))]++
			},
		})
		l.SetPeers([]Target{
			{"fine", target(1)},
			{"refused", target(2)},
			{"lying", target(3)},
			{"zero", target(4)},
			{"slow", target(5)},
			{"silent", target(6)},
		})
		time.Sleep(2 * time.Minute)
		stop()
		for name, want := range map[string]Stats{
			"fine": {Samples: 5}, "refused": {Lost: 5}, "lying": {}, "zero": {}, "slow": {Lost: 5}, "silent": {Lost: 5},
		} {
			got := peerOf(t, l, name)
			if got.Samples != want.Samples || got.Lost != want.Lost {
				t.Errorf("%s: %d samples, %d lost; want %d, %d", name, got.Samples, got.Lost, want.Samples, want.Lost)
			}
			if _, _, known := got.RTT(); known != (want.Samples > 0) {
				t.Errorf("%s: known %v", name, known)
			}
		}
		for _, want := range []string{
			"fine lost false rejected false", "refused lost true rejected false", "lying lost false rejected true",
			"zero lost false rejected true", "slow lost true rejected false", "silent lost true rejected false",
		} {
			if outcomes[want] < 10 {
				t.Errorf("%q was observed %d times: %v", want, outcomes[want], outcomes)
			}
			delete(outcomes, want)
		}
		if len(outcomes) > 0 {
			t.Errorf("other outcomes: %v", outcomes)
		}
	})
}

func TestLoopPeersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNetwork()
		for i := range 5 {
			n.set(target(i), time.Duration(10+i)*ms)
		}
		l, stop := runLoop(t, LoopConfig{Self: "me", Prober: n.probe, Interval: 10 * time.Second})
		defer stop()
		l.SetPeers([]Target{{"a", target(1)}, {"b", target(2)}})
		time.Sleep(time.Minute)
		before := peerOf(t, l, "a").Samples

		l.SetPeers([]Target{{"a", target(1)}, {"b", target(3)}, {"c", target(4)}, {"c", target(0)}})
		if got := peerOf(t, l, "a").Samples; got != before {
			t.Errorf("a peer that stayed has %d samples, and had %d", got, before)
		}
		if got := peerOf(t, l, "b"); got.Samples != 0 {
			t.Errorf("a peer that moved kept %+v", got)
		}
		time.Sleep(time.Second + 100*ms)
		for name, want := range map[string]time.Duration{"b": 13 * ms, "c": 14 * ms} {
			if typical, _, known := peerOf(t, l, name).RTT(); typical != want || !known {
				t.Errorf("%s: %v, %v; want %v", name, typical, known, want)
			}
		}
		n.mu.Lock()
		probes := len(n.times[target(2)])
		n.mu.Unlock()
		l.SetPeers(nil)
		time.Sleep(time.Minute)
		if got := l.Picture(); len(got.Peers) != 0 || got.Control != nil {
			t.Errorf("picture without peers: %+v", got)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if got := len(n.times[target(2)]); got != probes {
			t.Errorf("an address that is no peer's any more was probed %d times more", got-probes)
		}
		if since := time.Since(l.LastBeat()); since > l.Interval() {
			t.Errorf("the loop's last beat was %v ago", since)
		}
	})
}

func TestLoopDoesNotMakeUpForWhatItMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNetwork()
		n.set(target(1), ms)
		l, err := NewLoop(LoopConfig{Self: "me", Prober: n.probe, Interval: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		l.SetPeers([]Target{{"a", target(1)}})
		time.Sleep(time.Hour) // the machine sleeps
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		l.Run(ctx)
		if got := len(n.times[target(1)]); got > 4 {
			t.Errorf("%d probes in 3s", got)
		}
	})
}

func TestLoopEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNetwork() // nobody answers
		var lost int
		l, stop := runLoop(t, LoopConfig{
			Self: "me", Prober: n.probe, Interval: 10 * time.Second, Timeout: 10 * time.Second,
			Observe: func(Outcome) { lost++ },
		})
		l.SetPeers([]Target{{"a", target(1)}})
		time.Sleep(2 * time.Second)
		start := time.Now()
		stop()
		if d := time.Since(start); d > 0 {
			t.Errorf("ended %v after its context", d)
		}
		if got := peerOf(t, l, "a"); got.Lost != 0 || lost != 0 {
			t.Errorf("a probe that was cut short counts as lost: %+v", got)
		}
	})
}

func TestLoopConfigurationErrors(t *testing.T) {
	_, err := NewLoop(LoopConfig{Interval: time.Second, Timeout: 2 * time.Second, Window: -1})
	for _, want := range []string{"prober: is missing", "timeout: 2s: must be above 0 and at most the interval of 1s", "window: -1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
