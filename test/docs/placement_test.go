// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
)

// The example of docs/placement.md: round trips in milliseconds between four nodes, 0 where nobody measured.
var (
	cities  = []string{"hamburg", "berlin", "munich", "vienna"}
	example = [][]float64{
		{0, 10, 24, 32},
		{10, 0, 16, 20},
		{24, 16, 0, 12},
		{32, 20, 12, 0},
	}
)

const (
	hamburg, berlin, munich, vienna = 0, 1, 2, 3

	exampleLimit  = 20 * time.Millisecond
	exampleWeight = 3 // of the clients
	shippedWeight = 5 // of the plugin, in manifests/base/config.yaml
)

// TestPlacementExample computes the tables of docs/placement.md with the scheduler's own code.
func TestPlacementExample(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root(t), "docs", "placement.md"))
	if err != nil {
		t.Fatal(err)
	}
	unmeasured := make([][]float64, len(example))
	for i := range example {
		unmeasured[i] = slices.Clone(example[i])
	}
	unmeasured[berlin][munich], unmeasured[munich][berlin] = 0, 0
	for name, tc := range map[string]struct {
		network [][]float64
		peers   []placement.Peer
		best    int
	}{
		"the network":                         {network: example, best: -1},
		"the first replica":                   {network: example, best: munich},
		"the second replica":                  {network: example, peers: []placement.Peer{{Node: munich, Count: 1}}, best: vienna},
		"the first replica, a pair not known": {network: unmeasured, best: munich},
	} {
		t.Run(name, func(t *testing.T) {
			var want string
			if tc.best < 0 {
				want = networkTable(t, tc.network)
			} else {
				var best int
				want, best = placementTable(t, tc.network, tc.peers)
				if best != tc.best {
					t.Errorf("%s is the best, and the page says %s", cities[best], cities[tc.best])
				}
			}
			if !strings.Contains(string(page), want) {
				t.Errorf("docs/placement.md has not this table, which is what the code computes:\n%s", want)
			}
		})
	}
}

func exampleSnapshot(t *testing.T, network [][]float64) *latency.Snapshot {
	t.Helper()
	now := time.Now()
	p := &latency.Picture{Names: cities, Built: now, Edges: make([][]latency.Edge, len(cities))}
	for a := range network {
		for b, ms := range network[a] {
			if ms == 0 {
				continue
			}
			e, reason := latency.Check(latency.Sample{From: cities[a], To: cities[b], Typical: ms / 1e3, Tail: ms / 1e3, At: now}, now, time.Minute)
			if reason != "" {
				t.Fatal(reason)
			}
			p.Edges[a] = append(p.Edges[a], latency.NewEdge(int32(b), e))
		}
	}
	return latency.NewSnapshot(p)
}

func networkTable(t *testing.T, network [][]float64) string {
	t.Helper()
	s := exampleSnapshot(t, network)
	var w strings.Builder
	w.WriteString("| from, to | " + strings.Join(cities, " | ") + " |\n|---|" + strings.Repeat("---|", len(cities)) + "\n")
	for a := range cities {
		fmt.Fprintf(&w, "| %s |", cities[a])
		for b := range cities {
			us, _ := s.Estimate(int32(a), int32(b)).Typical.Micros()
			fmt.Fprintf(&w, " %s ms |", short(float64(us)/1e3))
		}
		w.WriteString("\n")
	}
	return w.String()
}

// placementTable is what the plugin computes of the example's policy: a dependency on Redis in Munich with a limit, clients in Hamburg and Vienna.
func placementTable(t *testing.T, network [][]float64, peers []placement.Peer) (table string, best int) {
	t.Helper()
	s := exampleSnapshot(t, network)
	target := func(n int32, d latency.Direction) placement.Target {
		return placement.Target{Row: s.Row(n, d, latency.Typical), Node: n, Mass: 1}
	}
	redis := []placement.Target{target(munich, latency.ToTarget)}
	clients := []placement.Target{target(hamburg, latency.FromTarget), target(vienna, latency.FromTarget)}
	entries := []placement.Entry{
		placement.NewClientEntry(1, placement.Any, redis),
		placement.NewReplicaEntry(exampleWeight, placement.Nearest, clients, peers),
	}
	limit := placement.NewClientLimit(exampleLimit, placement.Any, redis)

	candidates := []int32{hamburg, berlin, munich, vienna}
	var ev placement.Evaluator
	costs, ok := ev.Costs(nil, entries, candidates)
	if !ok {
		t.Fatal("nothing is known")
	}
	breaks := make([]bool, len(costs))
	for c := range costs {
		breaks[c] = limit.Check(candidates[c]) == placement.Exceeded
	}
	own := slices.Clone(costs)
	placement.RankBehind(costs, breaks)
	lowest := costs[0].Micros
	for c := range costs {
		if costs[c].Micros < lowest {
			lowest, best = costs[c].Micros, c
		}
	}

	var w strings.Builder
	w.WriteString("| node | Redis | clients | cost | limit | counted as | score | × 5 |\n|---|---|---|---|---|---|---|---|\n")
	for c, n := range candidates {
		dependency, called := expected(&entries[0], n), expected(&entries[1], n)
		verdict := map[placement.Verdict]string{placement.Kept: "kept", placement.Exceeded: "broken", placement.Unmeasured: "not measured"}[limit.Check(n)]
		score := placement.Score(costs[c].Micros, lowest)
		fmt.Fprintf(&w, "| %s | %s | %s | %s | %s | %s | %d | %d |\n", cities[n], dependency, called, ms(own[c].Micros), verdict, ms(costs[c].Micros), score, shippedWeight*score)
	}
	return w.String(), best
}

func expected(e *placement.Entry, n int32) string {
	us, ok := e.At(n).RTT.Micros()
	if !ok {
		return "–"
	}
	return ms(us)
}

func ms(us float32) string { return short(float64(us)/1e3) + " ms" }

// short writes a number with two decimals and without zeros at its end.
func short(f float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", f), "0"), ".")
}
