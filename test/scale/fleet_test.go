// SPDX-License-Identifier: Apache-2.0

//go:build scale

package scale

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/probe"
	"github.com/fogsched/fogsched/pkg/publish"
)

const (
	// startSpread is the time over which the probers of a new DaemonSet start.
	startSpread = 2 * time.Minute
	// tickInterval is how often a prober looks whether there is something to write. The real one does every 2 s; with so many nodes
	// there are some 50 s between two writes at least, and nobody sees the difference.
	tickInterval = 20 * time.Second
	// shard is the most nodes that a simulated prober knows. A real one knows all of them; so many copies of so many names and
	// addresses would not fit into one machine. A node's peers are chosen from its shard; there are as many as ever.
	shard = 2500
)

// fleet is a prober a node, with all that makes it choose peers, measure and publish: the real Mesh and the real Publisher. What is
// simulated is the packets (world) and the time (a synctest bubble).
type fleet struct {
	*world
	bridge  *bridge
	objects *client.NodeMeasurements
	nodes   kubernetes.Interface
	inside  chan func() // made outside of the bubble, like done
	done    chan struct{}
	shift   atomic.Int64 // from the simulated time to the one that is published

	// What follows belongs to the bubble.
	probers []*prober
	begun   time.Time

	mu     sync.Mutex
	writes []write
}

type prober struct {
	mesh      *probe.Mesh
	publisher *publish.Publisher
}

// write is one report.
type write struct {
	at    time.Duration // since the bubble's beginning
	node  int
	cause publish.Cause
}

// newFleet is called outside of the bubble.
func newFleet(ctx context.Context, w *world, url string, server http.RoundTripper) (*fleet, error) {
	f := &fleet{world: w, bridge: newBridge(ctx, server), inside: make(chan func()), done: make(chan struct{})}
	config := &rest.Config{Host: url, Transport: f.bridge, QPS: -1}
	objects, err := client.New(config)
	if err != nil {
		return nil, err
	}
	f.objects = objects.NodeLatencies()
	f.nodes, err = kubernetes.NewForConfig(config)
	return f, err
}

// run plays the fleet while script runs, which is outside of the bubble and says what happens when.
func (f *fleet) run(t *testing.T, script func() error) {
	t.Helper()
	end := make(chan error, 1)
	go func() {
		defer close(f.inside)
		end <- script()
	}()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		f.begun = time.Now()
		if err := f.make(); err != nil {
			t.Error(err)
		}
		f.start(ctx)
		for do := range f.inside {
			do()
			f.done <- struct{}{}
		}
	})
	if err := <-end; err != nil {
		t.Fatal(err)
	}
}

// in has something done inside the bubble, and waits until it is.
func (f *fleet) in(do func()) {
	f.inside <- do
	<-f.done
}

// advance lets simulated time pass, as fast as it will go.
func (f *fleet) advance(d time.Duration) { f.in(func() { time.Sleep(d) }) }

// clock returns what advances in steps of a minute, and publishes times such that at the end of the total it is as late as it is: a
// scheduler that starts then believes what was measured.
func (f *fleet) clock(total time.Duration) (pass func(time.Duration)) {
	begun, passed := time.Now(), time.Duration(0)
	return func(d time.Duration) {
		for end := passed + d; passed < end; passed += time.Minute {
			left := total - passed
			// How long the rest will take, by how long it took so far; rather less, since nothing may come from the future.
			rest := time.Duration(0)
			if passed > 0 {
				rest = time.Duration(0.8 * float64(time.Since(begun)) * float64(left) / float64(passed))
			}
			f.showAs(time.Now().Add(rest - left))
			f.advance(time.Minute)
		}
	}
}

// inRealTime lets as much simulated time pass as real time does.
func (f *fleet) inRealTime(d time.Duration) {
	ticks := make(chan struct{})
	go func() {
		defer close(ticks)
		second := time.NewTicker(time.Second)
		defer second.Stop()
		for range int(d.Seconds()) {
			<-second.C
			ticks <- struct{}{}
		}
	}()
	f.in(func() {
		for range ticks {
			time.Sleep(time.Second)
		}
	})
}

// showAs has the present simulated time published as another.
func (f *fleet) showAs(at time.Time) { f.in(func() { f.shift.Store(int64(time.Until(at))) }) }

// setInterest says which nodes everyone is to measure.
func (f *fleet) setInterest(names []string) {
	f.in(func() {
		for _, p := range f.probers {
			p.mesh.SetInterest(names)
		}
	})
}

// taken returns the writes and the requests since the last call.
func (f *fleet) taken() ([]write, []request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bridge.mu.Lock()
	defer f.bridge.mu.Unlock()
	w, r := f.writes, f.bridge.log
	f.writes, f.bridge.log = nil, nil
	return w, r
}

func (f *fleet) make() error {
	for i := range f.world.nodes {
		p, err := f.newProber(i)
		if err != nil {
			return err
		}
		f.probers = append(f.probers, p)
	}
	return nil
}

func (f *fleet) newProber(i int) (*prober, error) {
	self := f.world.nodes[i]
	mesh, err := probe.NewMesh(probe.MeshConfig{LoopConfig: probe.LoopConfig{
		Self: self.Name, Control: self.Addr,
		Prober: func(_ context.Context, to netip.AddrPort) (probe.Result, error) { return f.send(i, index(to.Addr())) },
	}})
	if err != nil {
		return nil, err
	}
	pace := publish.PaceOf(len(f.world.nodes))
	return &prober{mesh: mesh, publisher: publish.NewPublisher(publish.PublisherConfig{
		Node: self.Name, Endpoint: self.Addr.String(), Objects: f.objects,
		NodeUID: func(ctx context.Context) (types.UID, error) {
			n, err := f.nodes.CoreV1().Nodes().Get(ctx, self.Name, metav1.GetOptions{})
			if err != nil {
				return "", err
			}
			return n.UID, nil
		},
		Measured: func() v1alpha1.NodeLatencyStatus { return publish.Status(f.shifted(mesh.Picture())) },
		Pace:     func() publish.Pace { return pace },
		Count:    func(publish.Published) {},
		Log:      slog.New(slog.NewTextHandler(io.Discard, nil)),
	})}, nil
}

// send is a probe. It comes back at once: what counts is what it says.
func (f *fleet) send(from, to int) (probe.Result, error) {
	at := time.Now()
	if from == to {
		const itself = 90 * time.Microsecond
		return probe.Result{RTT: itself, Elapsed: itself, SentAt: at}, nil
	}
	rtt, lost := f.probe(from, to, at.Sub(f.begun))
	if lost {
		return probe.Result{}, probe.ErrLost
	}
	info := f.probers[to].mesh.Info()
	return probe.Result{RTT: rtt, Elapsed: rtt, SentAt: at, Info: &info}, nil
}

// shifted has a picture's times shown as others.
func (f *fleet) shifted(p probe.Picture) probe.Picture {
	by := time.Duration(f.shift.Load())
	move := func(s *probe.Stats) {
		if !s.At.IsZero() {
			s.At = s.At.Add(by)
		}
	}
	if p.Control != nil {
		move(p.Control)
	}
	for i := range p.Peers {
		move(&p.Peers[i].Stats)
	}
	return p
}

// start starts all probers, each at its moment.
func (f *fleet) start(ctx context.Context) {
	var shards [][]probe.Node
	count := (len(f.world.nodes) + shard - 1) / shard
	for s := range count {
		var known []probe.Node
		for i, n := range f.world.nodes {
			// Whole sites, so that there are near ones.
			if f.world.nodes[i].site%count == s || n.gateway {
				known = append(known, n.Node)
			}
		}
		shards = append(shards, known)
	}
	for i, p := range f.probers {
		ctx := context.WithValue(ctx, nodeKey{}, f.world.nodes[i].Name)
		go func() {
			if !wait(ctx, time.Duration(unit(draw(saltNode, i, 1))*float64(startSpread))) {
				return
			}
			p.mesh.SetNodes(shards[f.world.nodes[i].site%count])
			go p.mesh.Run(ctx)
			// Not all at the same moments.
			if !wait(ctx, time.Duration(unit(draw(saltNode, i, 2))*float64(tickInterval))) {
				return
			}
			ticker := time.NewTicker(tickInterval)
			defer ticker.Stop()
			for {
				f.tick(ctx, i)
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
			}
		}()
	}
}

func (f *fleet) tick(ctx context.Context, i int) {
	now := time.Now()
	at := now.Sub(f.begun)
	if f.down(i, at) {
		return
	}
	cause := f.probers[i].publisher.Tick(ctx, now)
	if cause == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes = append(f.writes, write{at, i, cause})
}

// wait returns true after a time, false when ctx ends before.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
