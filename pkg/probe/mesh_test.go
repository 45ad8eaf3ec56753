// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// meshes are probers that reach one another in a bubble, on a plane.
type meshes struct {
	byAddr map[netip.AddrPort]int
	x, y   []float64 // ms
	all    []*Mesh
	nodes  []Node

	mu     sync.Mutex
	dead   map[int]bool
	probes map[[2]int]int
}

func newMeshes(t *testing.T, count int, cfg MeshConfig) *meshes {
	t.Helper()
	m := &meshes{byAddr: map[netip.AddrPort]int{}, dead: map[int]bool{}, probes: map[[2]int]int{}}
	for i := range count {
		m.nodes = append(m.nodes, Node{Name: fmt.Sprintf("node-%d", i), Addr: target(i)})
		m.byAddr[target(i)] = i
		m.x, m.y = append(m.x, float64(i*37%100)), append(m.y, float64(i*61%100))
		cfg := cfg
		cfg.Self = m.nodes[i].Name
		cfg.Prober = func(_ context.Context, to netip.AddrPort) (Result, error) {
			j := m.byAddr[to]
			m.mu.Lock()
			m.probes[[2]int{i, j}]++
			dead := m.dead[j]
			m.mu.Unlock()
			if dead {
				return Result{}, ErrLost
			}
			info := m.all[j].Info()
			return Result{RTT: m.rtt(i, j), Elapsed: m.rtt(i, j), SentAt: time.Now(), Info: &info}, nil
		}
		mesh, err := NewMesh(cfg)
		if err != nil {
			t.Fatal(err)
		}
		m.all = append(m.all, mesh)
	}
	return m
}

func (m *meshes) rtt(i, j int) time.Duration {
	return time.Duration((1 + math.Hypot(m.x[i]-m.x[j], m.y[i]-m.y[j])) * float64(ms))
}

func (m *meshes) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, mesh := range m.all {
		mesh.SetNodes(m.nodes)
		running.Go(func() { mesh.Run(ctx) })
	}
	return func() { cancel(); running.Wait() }
}

func (m *meshes) sent() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	total := 0
	for _, n := range m.probes {
		total += n
	}
	return total
}

func TestMeshOfManyNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 60
		m := newMeshes(t, count, MeshConfig{})
		stop := m.run()
		defer stop()
		time.Sleep(time.Hour)
		if rate := float64(m.sent()) / time.Hour.Seconds() / count; rate > 1.02*DefaultRate {
			t.Errorf("%.3f probes a second and node", rate)
		}
		var errs []float64
		for i, mesh := range m.all {
			p := mesh.Picture()
			if p.Interval.Round(time.Second) != 53*time.Second || p.Coordinate == nil {
				t.Fatalf("picture of node %d: interval %v, coordinate %v", i, p.Interval, p.Coordinate)
			}
			// 16 less those on trial.
			if len(p.Peers) < 9 || len(p.Peers) > 13 {
				t.Errorf("picture of node %d: %d peers", i, len(p.Peers))
			}
			measured := map[string]bool{}
			for _, peer := range p.Peers {
				j := m.index(peer.Name)
				measured[peer.Name] = true
				if typical, _, known := peer.RTT(); known && typical != m.rtt(i, j) {
					t.Errorf("%d → %d: %v, want %v", i, j, typical, m.rtt(i, j))
				}
			}
			if near := mesh.Info().Near; len(near) != MaxNear {
				t.Errorf("node %d names %d near peers", i, len(near))
			}
			for j := range m.all {
				if c := m.all[j].Picture().Coordinate; j != i && !measured[m.nodes[j].Name] {
					predicted, want := float64(p.Coordinate.DistanceTo(c)), float64(m.rtt(i, j))
					errs = append(errs, math.Abs(predicted-want)/want)
				}
			}
		}
		slices.Sort(errs)
		if median := errs[len(errs)/2]; median > .1 {
			t.Errorf("the coordinates err by %.1f %% in the median", 100*median)
		}
	})
}

func (m *meshes) index(name string) int {
	return slices.IndexFunc(m.nodes, func(n Node) bool { return n.Name == name })
}

func TestMeshInterestAndDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 50
		m := newMeshes(t, count, MeshConfig{})
		stop := m.run()
		defer stop()
		time.Sleep(10 * time.Minute)
		for _, mesh := range m.all {
			mesh.SetInterest([]string{"node-3", "node-4"})
		}
		time.Sleep(2 * time.Second)
		for i, mesh := range m.all {
			p := mesh.Picture()
			for _, of := range []int{3, 4} {
				at := slices.IndexFunc(p.Peers, func(p PeerStats) bool { return p.Name == m.nodes[of].Name })
				if i == of {
					continue
				}
				if at < 0 || p.Peers[at].Samples == 0 {
					t.Errorf("node %d has not measured node %d after 2s: %+v", i, of, p.Peers)
				}
			}
		}

		m.mu.Lock()
		m.dead[3], m.dead[7] = true, true
		m.mu.Unlock()
		time.Sleep(10 * time.Minute)
		for i, mesh := range m.all {
			for _, p := range mesh.Picture().Peers {
				if _, _, known := p.RTT(); known && (p.Name == m.nodes[3].Name || p.Name == m.nodes[7].Name) {
					t.Errorf("node %d still knows a dead node: %+v", i, p)
				}
			}
			if slices.Contains(mesh.Info().Near, NameHash(m.nodes[7].Name)) {
				t.Errorf("node %d still names a dead node", i)
			}
		}

		for _, mesh := range m.all {
			mesh.SetNodes(m.nodes[:20])
		}
		for i, mesh := range m.all[:20] {
			if p := mesh.Picture(); len(p.Peers) != 16+2 && len(p.Peers) != 16+1 && len(p.Peers) != 16 {
				t.Errorf("node %d has %d peers of 19 others", i, len(p.Peers))
			}
		}
	})
}

func TestMeshCountsCoordinatesThatCannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		info := Info{Coordinate: coordinateAt(math.NaN())}
		mesh, err := NewMesh(MeshConfig{LoopConfig: LoopConfig{
			Self: "node-0",
			Prober: func(context.Context, netip.AddrPort) (Result, error) {
				return Result{RTT: ms, Elapsed: ms, Info: &info}, nil
			},
		}})
		if err != nil {
			t.Fatal(err)
		}
		mesh.SetNodes(someNodes(3))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		mesh.Run(ctx)
		if mesh.CoordinatesRejected() < 5 || mesh.Picture().Coordinate != nil || checkWire(mesh.Info().Coordinate) != nil {
			t.Errorf("%d rejected, %+v", mesh.CoordinatesRejected(), mesh.Info().Coordinate)
		}
	})
}

func TestMeshConfigurationErrors(t *testing.T) {
	_, err := NewMesh(MeshConfig{Neighbors: NeighborsConfig{K: -1}})
	for _, want := range []string{"prober: is missing", "neighbours: -1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
