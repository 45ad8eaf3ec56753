// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// reselect is the most time until a Mesh looks again whether it is time for other peers.
const reselect = 10 * time.Second

// MeshConfig configures a Mesh.
type MeshConfig struct {
	LoopConfig
	// Neighbors says which peers are measured. Its Self is that of LoopConfig.
	Neighbors NeighborsConfig
}

// Mesh measures the network from one node: Neighbors say whom, a Loop probes them, and what comes back moves the node's
// coordinate and shows who is near.
type Mesh struct {
	loop        *Loop
	coordinates *Coordinates
	observe     func(Outcome)
	info        atomic.Pointer[Info]
	rejected    atomic.Int64

	mu        sync.Mutex
	neighbors *Neighbors
	peers     []Target
}

// NewMesh checks the configuration, and returns all that is wrong with it.
func NewMesh(cfg MeshConfig) (*Mesh, error) {
	m := &Mesh{coordinates: NewCoordinates(), observe: cfg.Observe}
	if m.observe == nil {
		m.observe = func(Outcome) {}
	}
	cfg.Observe = m.take
	cfg.Neighbors.Self = cfg.Self
	var errLoop, errNeighbors error
	m.loop, errLoop = NewLoop(cfg.LoopConfig)
	m.neighbors, errNeighbors = NewNeighbors(cfg.Neighbors)
	if err := errors.Join(errLoop, errNeighbors); err != nil {
		return nil, err
	}
	m.info.Store(&Info{Coordinate: m.coordinates.Get()})
	return m, nil
}

// SetNodes replaces the nodes that there are; the node itself may be among them.
func (m *Mesh) SetNodes(nodes []Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.neighbors.SetNodes(nodes)
	m.choose(time.Now())
}

// SetInterest replaces the nodes that everyone measures, the most important first.
func (m *Mesh) SetInterest(names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.neighbors.SetInterest(names)
	m.choose(time.Now())
}

// choose sets the peers of the present time. m.mu is held.
func (m *Mesh) choose(now time.Time) {
	peers := m.neighbors.Select(now)
	if len(peers) == len(m.peers) && (len(peers) == 0 || &peers[0] == &m.peers[0]) {
		return // the same slice
	}
	stays := make(map[string]bool, len(peers))
	for _, p := range peers {
		stays[p.Name] = true
	}
	for _, p := range m.peers {
		if !stays[p.Name] {
			m.coordinates.Forget(p.Name)
		}
	}
	m.peers = peers
	m.loop.SetPeers(peers)
	m.neighbors.SetInterval(m.loop.Interval())
}

// take takes what became of a probe.
func (m *Mesh) take(o Outcome) {
	if !o.Control && !o.Starved {
		typical, _, known := o.Stats.RTT()
		m.mu.Lock()
		switch {
		case !known:
			m.neighbors.Forget(o.Target.Name)
		case o.Err == nil:
			m.neighbors.Observe(o.Target.Name, typical, o.Result.Info)
			if info := o.Result.Info; info != nil && info.Coordinate != nil {
				if err := m.coordinates.Observe(o.Target.Name, typical, info.Coordinate); err != nil {
					m.rejected.Add(1)
				}
			}
			m.info.Store(&Info{Coordinate: m.coordinates.Get(), Near: m.neighbors.Near()})
		}
		m.mu.Unlock()
	}
	m.observe(o)
}

// Run measures until ctx ends, and returns when no probe is under way any more.
func (m *Mesh) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() { defer close(done); m.loop.Run(ctx) }()
	defer func() { <-done }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			m.mu.Lock()
			now := time.Now()
			m.choose(now)
			timer.Reset(min(m.neighbors.Next(now), reselect))
			m.mu.Unlock()
		}
	}
}

// Info returns what the node's reflector says of it. It is cheap; nobody may change it.
func (m *Mesh) Info() Info { return *m.info.Load() }

// Picture returns what is known at present, peers left out that are on trial: they are others every interval.
func (m *Mesh) Picture() Picture {
	p := m.loop.Picture()
	p.Coordinate = m.coordinates.Known()
	m.mu.Lock()
	defer m.mu.Unlock()
	p.Peers = slices.DeleteFunc(p.Peers, func(s PeerStats) bool { return m.neighbors.OnTrial(s.Name) })
	return p
}

// Interval returns the present time between two probes of one peer.
func (m *Mesh) Interval() time.Duration { return m.loop.Interval() }

// LastBeat returns when the loop last looked what to do. While it runs, that is at most MinInterval ago.
func (m *Mesh) LastBeat() time.Time { return m.loop.LastBeat() }

// CoordinatesRejected returns how many coordinates of peers could not be true.
func (m *Mesh) CoordinatesRejected() int64 { return m.rejected.Load() }
