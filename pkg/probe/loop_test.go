// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// fakeNetwork is a Prober with a set RTT an address; none means that the probe is lost.
type fakeNetwork struct {
	mu    sync.Mutex
	rtt   map[netip.AddrPort]time.Duration
	err   map[netip.AddrPort]error
	times map[netip.AddrPort][]time.Time
	// waited is how long answers lie in the machine.
	waited time.Duration
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

// sent returns how many probes went to an address.
func (f *fakeNetwork) sent(a netip.AddrPort) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.times[a])
}

func (f *fakeNetwork) probe(ctx context.Context, a netip.AddrPort) (Result, error) {
	sentAt := time.Now()
	f.mu.Lock()
	rtt, ok := f.rtt[a]
	err := f.err[a]
	waited := f.waited
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
		return Result{RTT: rtt, SentAt: sentAt, Elapsed: time.Since(sentAt) + waited, Waited: waited}, nil
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
		if since := time.Since(l.LastBeat()); since > MinInterval {
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

func TestLoopInterval(t *testing.T) {
	for name, c := range map[string]struct {
		interval time.Duration
		rate     float64
		peers    int
		want     time.Duration
	}{
		"no peer":                    {peers: 0, want: MinInterval},
		"few peers":                  {peers: 3, want: MinInterval},
		"a cluster's sixteen":        {peers: 16, want: 53*time.Second + 333*ms},
		"with 64 nodes of interest":  {peers: 80, want: 266*time.Second + 667*ms},
		"more probes are allowed":    {peers: 80, rate: 4, want: 20 * time.Second},
		"it is taken as it is given": {interval: 2 * time.Second, peers: 1000, want: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := NewLoop(LoopConfig{Self: "me", Prober: newFakeNetwork().probe, Interval: c.interval, Rate: c.rate})
			if err != nil {
				t.Fatal(err)
			}
			l.SetPeers(targets(c.peers))
			if got := l.Interval(); got.Round(ms) != c.want || l.Picture().Interval != got {
				t.Errorf("interval %v, in the picture %v; want %v", got, l.Picture().Interval, c.want)
			}
		})
	}
}

func targets(n int) []Target {
	list := make([]Target, n)
	for i := range list {
		list[i] = Target{fmt.Sprintf("node-%d", i), target(i)}
	}
	return list
}

// TestLoopKeepsToItsRate has the peers change all the time.
func TestLoopKeepsToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNetwork()
		control := netip.MustParseAddrPort("127.0.0.1:9")
		n.set(control, ms)
		for i := range 200 {
			n.set(target(i), 20*ms)
		}
		l, stop := runLoop(t, LoopConfig{Self: "me", Control: control, Prober: n.probe})
		l.SetPeers(targets(16))
		time.Sleep(time.Minute)
		start := time.Now()
		for i := range 60 {
			peers := targets(200)
			l.SetPeers(append(peers[:14:14], peers[14+2*i%180:16+2*i%180]...))
			time.Sleep(l.Interval())
		}
		took := time.Since(start)
		stop()
		probes := 0
		for a, times := range n.times {
			for _, at := range times {
				if a != control && at.After(start) {
					probes++
				}
			}
		}
		if rate := float64(probes) / took.Seconds(); rate > 1.02*DefaultRate || rate < 0.9*DefaultRate {
			t.Errorf("%.3f probes a second, want %g", rate, DefaultRate)
		}
		if got := float64(len(n.times[control])) * MinInterval.Seconds() / took.Seconds(); got < 0.95 || got > 1.1 {
			t.Errorf("the control pair was probed %.2f times in %v", got, MinInterval)
		}
	})
}

func TestLoopFollowsARouteWithinThreeIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = 10 * time.Second
		n := newFakeNetwork()
		n.set(target(1), 20*ms)
		l, stop := runLoop(t, LoopConfig{Self: "me", Prober: n.probe, Interval: interval})
		defer stop()
		l.SetPeers([]Target{{"a", target(1)}})
		for _, step := range []struct {
			rtt  time.Duration // 0: dead
			stay time.Duration
		}{{20 * ms, 10 * time.Minute}, {60 * ms, 40 * time.Second}, {20 * ms, 10 * time.Minute}, {0, 40 * time.Second}, {35 * ms, time.Minute}} {
			if step.rtt > 0 {
				n.set(target(1), step.rtt)
			} else {
				n.mu.Lock()
				delete(n.rtt, target(1))
				n.mu.Unlock()
			}
			time.Sleep(3*interval + maxTimeout)
			typical, _, known := peerOf(t, l, "a").RTT()
			if known != (step.rtt > 0) || known && typical != step.rtt {
				t.Errorf("three intervals after %v began: %v, %v", step.rtt, typical, known)
			}
			time.Sleep(step.stay - 3*interval - maxTimeout)
		}
	})
}

func TestLoopManyNewPeersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNetwork()
		l, stop := runLoop(t, LoopConfig{Self: "me", Prober: n.probe, Interval: 30 * time.Second})
		start := time.Now()
		l.SetPeers(targets(1000))
		time.Sleep(11 * time.Second)
		stop()
		inSecond := map[time.Duration]int{}
		for _, times := range n.times {
			inSecond[times[0].Sub(start)/time.Second]++
		}
		if len(n.times) != 1000 {
			t.Errorf("%d of 1000 peers were probed after 11s", len(n.times))
		}
		for second, probes := range inSecond {
			if probes > 150 {
				t.Errorf("%d first probes in second %d", probes, second)
			}
		}
	})
}

// lag is a clock that runs ahead.
type lag struct{ nanoseconds atomic.Int64 }

func (l *lag) now() time.Time { return time.Now().Add(time.Duration(l.nanoseconds.Load())) }

func TestLoopUsesNothingWhileTheNodeIsShortOfCPU(t *testing.T) {
	for name, c := range map[string]struct {
		change func(n *fakeNetwork, control netip.AddrPort)
	}{
		"answers wait for the process": {
			change: func(n *fakeNetwork, _ netip.AddrPort) { n.waited = 6 * ms },
		},
		"the control pair is slow": {
			change: func(n *fakeNetwork, control netip.AddrPort) { n.rtt[control] = 7 * ms },
		},
		"the control pair is lost": {
			change: func(n *fakeNetwork, control netip.AddrPort) { delete(n.rtt, control) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newFakeNetwork()
				control := netip.MustParseAddrPort("127.0.0.1:9")
				n.set(control, ms)
				n.set(target(1), 20*ms)
				var unused, lost atomic.Int64
				l, stop := runLoop(t, LoopConfig{
					Self: "me", Control: control, Prober: n.probe, Interval: 10 * time.Second,
					Observe: func(o Outcome) {
						if o.Starved {
							unused.Add(1)
						}
						if o.Lost() && !o.Control {
							lost.Add(1)
						}
					},
				})
				defer stop()
				l.SetPeers([]Target{{"fine", target(1)}, {"dies", target(2)}})
				n.set(target(2), 30*ms)
				time.Sleep(2 * time.Minute)
				before := l.Picture()
				if before.Starved || unused.Load() > 0 || before.Peers[0].Samples < 10 {
					t.Fatalf("%d probes unused, picture %+v", unused.Load(), before)
				}
				n.mu.Lock()
				delete(n.rtt, target(2))
				c.change(n, control)
				n.mu.Unlock()
				time.Sleep(5 * time.Minute)
				after := l.Picture()
				if !after.Starved {
					t.Errorf("not starved: control %+v", *after.Control)
				}
				// The first probes after the change may end before that of the control pair.
				for i, p := range after.Peers {
					if p.Samples+p.Lost > before.Peers[i].Samples+before.Peers[i].Lost+2 {
						t.Errorf("%s: %+v, and before %+v", p.Name, p.Stats, before.Peers[i].Stats)
					}
				}
				if unused.Load() < 50 || lost.Load() > 1 {
					t.Errorf("%d probes unused, %d lost", unused.Load(), lost.Load())
				}

				n.mu.Lock()
				n.waited = 0
				n.rtt[control] = ms
				n.mu.Unlock()
				time.Sleep(5 * time.Minute)
				healed := l.Picture()
				if _, _, known := healed.Peers[0].RTT(); known || healed.Starved || healed.Peers[1].Samples <= after.Peers[1].Samples {
					t.Errorf("after the end: %+v", healed)
				}
			})
		})
	}
}

func TestLoopThatWakesUpLateDoesNotCountTheProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNetwork()
		n.set(target(1), 20*ms)
		var clock lag
		var unused, used atomic.Int64
		l, err := newLoop(LoopConfig{
			Self: "me", Prober: n.probe, Interval: 10 * time.Second,
			Observe: func(o Outcome) {
				if o.Starved {
					unused.Add(1)
				} else {
					used.Add(1)
				}
			},
		}, clock.now)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		l.SetPeers([]Target{{"a", target(1)}})
		time.Sleep(time.Minute)
		if unused.Load() > 0 || used.Load() < 5 {
			t.Fatalf("%d probes used, %d unused", used.Load(), unused.Load())
		}
		clock.nanoseconds.Add(int64(8 * ms)) // as if the process got no CPU for that time
		time.Sleep(10 * time.Second)
		cancel()
		<-done
		if unused.Load() != 1 {
			t.Errorf("%d probes unused, want 1", unused.Load())
		}
	})
}

// TestLoopThatLearnsOfALossLateDoesNotCountIt: who is woken long after the deadline may have missed the answer as well.
func TestLoopThatLearnsOfALossLateDoesNotCountIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late atomic.Int64
		late.Store(int64(20 * ms))
		l, stop := runLoop(t, LoopConfig{
			Self: "me", Interval: 10 * time.Second, Timeout: time.Second,
			Prober: func(ctx context.Context, _ netip.AddrPort) (Result, error) {
				<-ctx.Done()
				time.Sleep(time.Duration(late.Load()))
				return Result{}, ErrLost
			},
		})
		l.SetPeers(targets(1))
		time.Sleep(time.Minute)
		if p := l.Picture().Peers[0]; p.Lost != 0 {
			t.Errorf("%d probes count as lost", p.Lost)
		}
		late.Store(int64(2 * ms))
		time.Sleep(time.Minute)
		stop()
		if p := l.Picture().Peers[0]; p.Lost != 6 {
			t.Errorf("%d probes count as lost, want 6", p.Lost)
		}
	})
}

// TestLoopChangesItsPaceAtOnce: where most peers go, those that stay do not wait for the end of a long interval.
func TestLoopChangesItsPaceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeNetwork()
		l, stop := runLoop(t, LoopConfig{Self: "me", Prober: n.probe})
		l.SetPeers(targets(300)) // every 1,000 s
		time.Sleep(30 * time.Second)
		l.SetPeers(targets(3))
		sent := map[netip.AddrPort]int{}
		for i := range 3 {
			sent[target(i)] = n.sent(target(i))
		}
		time.Sleep(30 * time.Second)
		stop()
		for i := range 3 {
			if got := len(n.times[target(i)]) - sent[target(i)]; got < 1 || got > 4 {
				t.Errorf("%d probes of peer %d in 30s", got, i)
			}
		}
	})
}

// steppedClock returns what a clock shows that was set, by so much, after it started: the monotonic reading goes on. A bubble's
// clock has none.
func steppedClock(start time.Time, by time.Duration) time.Time {
	now := time.Now()
	wall := now.Add(by)
	// The layout of time.Time: a flag, 33 bits of seconds since 1885, 30 bits of nanoseconds; the monotonic reading.
	const hasMonotonic = 1 << 63
	seconds := wall.Sub(time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC)) / time.Second
	t := struct {
		wall uint64
		ext  int64
		loc  *time.Location
	}{hasMonotonic | uint64(seconds)<<30 | uint64(wall.Nanosecond()), int64(now.Sub(start)) + 1, nil}
	return *(*time.Time)(unsafe.Pointer(&t))
}

func TestLoopStandsAStepOfTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		now, back := steppedClock(start, 0), steppedClock(start, -time.Hour)
		if now.Sub(back) != 0 || now.Round(0).Sub(back.Round(0)) != time.Hour || !now.Round(0).Equal(start) {
			t.Fatalf("%v set back by an hour is %v", now, back)
		}
		var by atomic.Int64
		clock := func() time.Time { return steppedClock(start, time.Duration(by.Load())) }
		n := newFakeNetwork()
		n.set(target(1), 20*ms)
		l, err := newLoop(LoopConfig{Self: "me", Prober: n.probe, Interval: 10 * time.Second}, clock)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		l.SetPeers([]Target{{"a", target(1)}})
		time.Sleep(time.Minute)
		for _, step := range []time.Duration{24 * time.Hour, -48 * time.Hour, time.Hour} {
			by.Add(int64(step))
			probes := n.sent(target(1))
			p := l.Picture().Peers[0]
			if age, known := p.Age(clock()); age < 0 || age > 11*time.Second || !known {
				t.Errorf("set by %v: the newest sample is %v old, %v", step, age, known)
			}
			// As others see it, who have no monotonic reading.
			if age := clock().Round(0).Sub(p.At.Round(0)); age < 0 || age > 11*time.Second {
				t.Errorf("set by %v: the newest sample is of %v, and it is %v", step, p.At, clock())
			}
			if since := clock().Sub(l.LastBeat()); since < 0 || since > 11*time.Second {
				t.Errorf("set by %v: the last beat was %v ago", step, since)
			}
			time.Sleep(time.Minute)
			if more := n.sent(target(1)) - probes; more != 6 {
				t.Errorf("set by %v: %d probes in a minute, want 6", step, more)
			}
			if _, tail, known := l.Picture().Peers[0].RTT(); tail != 20*ms || !known {
				t.Errorf("set by %v: tail %v, %v", step, tail, known)
			}
		}
		cancel()
		<-done
	})
}

func TestLoopConfigurationErrors(t *testing.T) {
	_, err := NewLoop(LoopConfig{Interval: time.Second, Timeout: 2 * time.Second, Window: -1, Rate: -3, StarvedAbove: -1})
	for _, want := range []string{
		"prober: is missing", "timeout: 2s: must be above 0 and at most the interval of 1s", "window: -1", "rate: -3: must be above 0",
		"starved above: -1ns",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
