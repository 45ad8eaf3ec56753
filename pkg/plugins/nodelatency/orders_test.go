// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
)

// TestOrders asks for orders again and again, while servers come and go, on two snapshots by turns. Remembered or not, an order is what ranking gives.
func TestOrders(t *testing.T) {
	const nodes, count = 60, 20
	rng := rand.New(rand.NewPCG(1, 2))
	names := make([]string, nodes)
	for i := range names {
		names[i] = fmt.Sprintf("n%02d", i)
	}
	snapshot := func() *latency.Snapshot {
		edges := make([][]latency.Edge, nodes)
		for i := range edges {
			for j := range int32(nodes) {
				if int(j) != i {
					typical, _ := latency.FromSeconds(0.001 + 0.1*rng.Float64())
					edges[i] = append(edges[i], latency.NewEdge(j, latency.Estimate{Typical: typical, Tail: typical, At: time.Now(), Count: 10}))
				}
			}
		}
		return latency.NewSnapshot(&latency.Picture{Built: time.Now(), Names: names, Edges: edges})
	}
	snaps := []*latency.Snapshot{snapshot(), snapshot()}
	n := narrowing{orders: &orders{}}
	var asked, ranker narrowScratch
	remembered := 0
	for round := range 4000 {
		s := &state{snap: snaps[rng.IntN(2)]}
		// Few intents, so that each is asked for often; they differ in one thing each.
		kind := rng.IntN(7)
		d := latency.Direction(kind & 1)
		st := latency.Statistic(kind >> 1 & 1)
		routing := placement.Routing(kind % 3 % 2)
		targets := []placement.Target{{Node: 3, Mass: 1 + float32(kind)}, {Node: int32(5 + kind%2), Mass: 1}}
		for i := range targets {
			targets[i].Row = s.snap.Row(targets[i].Node, d, st)
		}
		e := entry{direction: d, statistic: st, Entry: placement.NewClientEntry(1, routing, targets)}
		if rng.IntN(2) == 0 {
			e.Entry = placement.NewReplicaEntry(1, routing, targets, []placement.Peer{{Node: int32(10 + rng.IntN(2)), Count: 1}})
		}
		s.entries = []entry{e}

		if !ranker.rank(s) {
			t.Fatal("nothing is known")
		}
		want := slices.Collect(ranker.ranker.Ascending)
		first, rest := n.ascending(&asked, s, count)
		var got []int32
		if first == nil {
			got = slices.Collect(asked.ranker.Ascending)[:count]
		} else {
			remembered++
			got = first
		}
		if !rest || !slices.Equal(got, want[:count]) {
			t.Fatalf("round %d: %v, want %v", round, got, want[:count])
		}
	}
	if remembered < 3000 {
		t.Errorf("%d orders of 4000 were remembered", remembered)
	}
}
