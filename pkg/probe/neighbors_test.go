// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var epochStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func someNodes(n int) []Node {
	nodes := make([]Node, n)
	for i := range nodes {
		nodes[i] = Node{Name: fmt.Sprintf("node-%d", i), Addr: target(i)}
	}
	return nodes
}

func newNeighbors(t testing.TB, cfg NeighborsConfig, nodes []Node) *Neighbors {
	t.Helper()
	n, err := NewNeighbors(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.SetNodes(nodes)
	n.SetInterval(time.Minute)
	return n
}

func names(targets []Target) []string {
	list := make([]string, len(targets))
	for i, t := range targets {
		list[i] = t.Name
	}
	return list
}

// TestNeighborsOfFewNodes: every pair is measured by at least one side, and by both where K allows it.
func TestNeighborsOfFewNodes(t *testing.T) {
	for count := 1; count <= 33; count++ {
		nodes := someNodes(count)
		measures := map[[2]string]bool{}
		for _, self := range nodes {
			n := newNeighbors(t, NeighborsConfig{Self: self.Name}, nodes)
			peers := n.Select(epochStart)
			if len(peers) != min(count-1, DefaultNeighbors) {
				t.Fatalf("of %d nodes, %s measures %d", count, self.Name, len(peers))
			}
			for _, p := range peers {
				measures[[2]string{self.Name, p.Name}] = true
			}
			if later := n.Select(epochStart.Add(48 * time.Hour)); !slices.Equal(peers, later) {
				t.Errorf("of %d nodes, the peers of %s change with time", count, self.Name)
			}
			if n.Len() != count {
				t.Errorf("Len() = %d, want %d", n.Len(), count)
			}
		}
		for i, a := range nodes {
			for _, b := range nodes[:i] {
				there, back := measures[[2]string{a.Name, b.Name}], measures[[2]string{b.Name, a.Name}]
				if !there && !back || count <= 17 && (!there || !back) {
					t.Errorf("of %d nodes, %s → %s is measured: %v, and back: %v", count, a.Name, b.Name, there, back)
				}
			}
		}
	}
}

// TestNeighborsOfManyNodes: K peers each, and as many nodes that measure each, but for the near ones.
func TestNeighborsOfManyNodes(t *testing.T) {
	const count = 500
	nodes := someNodes(count)
	in, out := map[string]int{}, map[string][]string{}
	for _, self := range nodes {
		n := newNeighbors(t, NeighborsConfig{Self: self.Name}, nodes)
		peers := names(n.Select(epochStart))
		if len(peers) != DefaultNeighbors || slices.Contains(peers, self.Name) || !slices.IsSorted(peers) || len(slices.Compact(peers)) != len(peers) {
			t.Fatalf("%s measures %d: %v", self.Name, len(peers), peers)
		}
		for _, p := range peers {
			if !n.OnTrial(p) {
				in[p]++
				out[self.Name] = append(out[self.Name], p)
			}
		}
	}
	// On rings of their own, the peers of a node's peers are others each: no part of the cluster sees only itself.
	for _, self := range nodes {
		second := map[string]bool{}
		for _, p := range out[self.Name] {
			for _, q := range out[p] {
				second[q] = true
			}
		}
		if len(second) < 18 {
			t.Errorf("the five peers of %s have %d peers", self.Name, len(second))
		}
	}
	// Nothing was measured, so there are no near ones: four far rings, and one that rotates. Where two rings name the same node,
	// the second goes one further.
	histogram := map[int]int{}
	for _, n := range nodes {
		histogram[in[n.Name]]++
	}
	if histogram[5] < count*9/10 || histogram[3]+histogram[4]+histogram[5]+histogram[6]+histogram[7] < count {
		t.Errorf("nodes by how many measure them: %v; want 5 each", histogram)
	}
}

func TestNeighborsMoveOnlyAroundTheNodeThatGoes(t *testing.T) {
	nodes := someNodes(300)
	gone := nodes[77]
	without := slices.Concat(nodes[:77], nodes[78:])
	moved := 0
	for _, self := range without {
		far := func(nodes []Node) map[string]bool {
			n := newNeighbors(t, NeighborsConfig{Self: self.Name}, nodes)
			set := map[string]bool{}
			for _, p := range n.Select(epochStart) {
				if !n.OnTrial(p.Name) {
					set[p.Name] = true
				}
			}
			return set
		}
		before := far(nodes)
		for name := range far(without) {
			if !before[name] {
				moved++
			}
		}
	}
	if moved < 4 || moved > 7 {
		t.Errorf("%s goes, and %d peers move; want one on each of 5 rings", gone.Name, moved)
	}
}

func TestNeighborsDoNotDependOnTheOrder(t *testing.T) {
	nodes := someNodes(200)
	r := rand.New(rand.NewPCG(1, 2))
	run := func(nodes []Node) [][]Target {
		n := newNeighbors(t, NeighborsConfig{Self: "node-7"}, nodes)
		n.SetInterest([]string{"node-11", "node-12"})
		var all [][]Target
		for turn := range 100 {
			peers := n.Select(epochStart.Add(time.Duration(turn) * time.Minute))
			all = append(all, peers)
			for _, p := range peers {
				i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == p.Name })
				h := NameHash(nodes[i].Name)
				n.Observe(p.Name, time.Duration(h%1000+1)*ms, &Info{Near: []uint64{NameHash(fmt.Sprintf("node-%d", h%200))}})
			}
		}
		return all
	}
	want := run(nodes)
	for range 5 {
		shuffled := slices.Clone(nodes)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if diff := cmp.Diff(names(want[99]), names(run(shuffled)[99])); diff != "" {
			t.Fatal(diff)
		}
	}
}

// world is a line of nodes, a millisecond from one to the next, in an order that their names do not tell.
type world struct {
	nodes []Node
	place map[string]int
}

func newWorld(count int) *world {
	w := &world{nodes: someNodes(count), place: map[string]int{}}
	for i, p := range rand.New(rand.NewPCG(5, 6)).Perm(count) {
		w.place[w.nodes[i].Name] = p
	}
	return w
}

func (w *world) rtt(a, b string) time.Duration {
	return time.Duration(max(w.place[a]-w.place[b], w.place[b]-w.place[a])) * ms
}

// run lets all nodes measure for some turns, and returns the share of the pairs of the four nearest on each side that one of
// the two measures.
func (w *world) run(t *testing.T, turns int, all map[string]*Neighbors) float64 {
	t.Helper()
	for _, node := range w.nodes {
		if all[node.Name] == nil {
			all[node.Name] = newNeighbors(t, NeighborsConfig{Self: node.Name}, w.nodes)
		}
	}
	peers := map[[2]string]bool{}
	for turn := range turns {
		clear(peers)
		for _, node := range w.nodes {
			n := all[node.Name]
			for _, p := range n.Select(epochStart.Add(time.Duration(turn) * time.Minute)) {
				n.Observe(p.Name, w.rtt(node.Name, p.Name), &Info{Near: all[p.Name].Near()})
				peers[[2]string{node.Name, p.Name}] = true
			}
		}
	}
	near, found := 0, 0
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			if rtt := w.rtt(a.Name, b.Name); rtt > 0 && rtt <= 4*ms {
				near++
				if peers[[2]string{a.Name, b.Name}] || peers[[2]string{b.Name, a.Name}] {
					found++
				}
			}
		}
	}
	return float64(found) / float64(near)
}

func TestNeighborsFindTheNearOnes(t *testing.T) {
	w := newWorld(400)
	for _, c := range []struct {
		turns int
		want  float64
	}{{1, 0}, {10, .75}, {20, .93}} {
		got := w.run(t, c.turns, map[string]*Neighbors{})
		t.Logf("after %d turns, %.0f %% of the nearest are measured", c.turns, 100*got)
		if got < c.want {
			t.Errorf("want %.0f %%", 100*c.want)
		}
	}
}

func TestNeighborsTryTheirZone(t *testing.T) {
	nodes := someNodes(300)
	for i := range nodes {
		nodes[i].Zone = fmt.Sprintf("zone-%d", i%20)
	}
	n := newNeighbors(t, NeighborsConfig{Self: "node-0"}, nodes)
	tried := map[string]bool{}
	for turn := range 8 {
		for _, p := range n.Select(epochStart.Add(time.Duration(turn) * time.Minute)) {
			n.Observe(p.Name, 50*ms, nil)
			tried[p.Name] = true
		}
	}
	for i := 20; i < 300; i += 20 {
		if name := fmt.Sprintf("node-%d", i); !tried[name] {
			t.Errorf("%s of the same zone was not tried in 8 turns", name)
		}
	}
}

// TestNeighborsStay: near peers do not change for noise; nearer ones take over.
func TestNeighborsStay(t *testing.T) {
	nodes := someNodes(100)
	n := newNeighbors(t, NeighborsConfig{Self: "node-0"}, nodes)
	r := rand.New(rand.NewPCG(1, 2))
	base := func(name string) time.Duration { return time.Duration(10+NameHash(name)%2) * ms }
	changes, before := 0, map[string]bool{}
	for turn := range 300 {
		now := map[string]bool{}
		for _, p := range n.Select(epochStart.Add(time.Duration(turn) * time.Minute)) {
			n.Observe(p.Name, time.Duration(float64(base(p.Name))*(1+.05*r.NormFloat64())), nil)
			if !n.OnTrial(p.Name) {
				now[p.Name] = true
				if !before[p.Name] && turn > 50 {
					changes++
				}
			}
		}
		before = now
	}
	// The one on the rotating ring changes with its epoch.
	if epochs := 250 / 5; changes > epochs+25 {
		t.Errorf("%d peers changed in 250 turns", changes)
	}
	better := ""
	for _, node := range nodes[1:] {
		if !before[node.Name] {
			better = node.Name
			break
		}
	}
	n.Observe(better, ms, nil)
	n.Select(epochStart.Add(301 * time.Minute))
	if peers := names(n.Select(epochStart.Add(302 * time.Minute))); !slices.Contains(peers, better) || n.OnTrial(better) {
		t.Errorf("%s at 1ms is no near peer: %v", better, peers)
	}
	n.Forget(better)
	if n.Select(epochStart.Add(302 * time.Minute)); slices.ContainsFunc(n.nearest, func(m *memory) bool { return m.hash == NameHash(better) }) {
		t.Errorf("%s is dead, and still near", better)
	}
}

// TestNeighborsRotate: a rotating peer stays for an epoch, which is long enough for five probes.
func TestNeighborsRotate(t *testing.T) {
	for interval, want := range map[time.Duration]int{time.Minute: 5, 2 * time.Minute: 10, 3 * time.Minute: 20} {
		n := newNeighbors(t, NeighborsConfig{Self: "node-0"}, someNodes(500))
		n.SetInterval(interval)
		since := map[string]int{}
		stays := map[int]int{} // by minutes
		for minute := range 240 {
			now := map[string]bool{}
			for _, p := range n.Select(epochStart.Add(time.Duration(minute) * time.Minute)) {
				if !n.OnTrial(p.Name) {
					now[p.Name] = true
					if _, ok := since[p.Name]; !ok {
						since[p.Name] = minute
					}
				}
			}
			for name, from := range since {
				if !now[name] {
					delete(since, name)
					if from > 0 {
						stays[minute-from]++
					}
				}
			}
		}
		if len(stays) != 1 || stays[want] < 240/want-3 {
			t.Errorf("probed every %v, rotating peers stayed for minutes (and so many of them): %v; want %d minutes", interval, stays, want)
		}
	}
}

func TestNeighborsMeasureWhatIsOfInterest(t *testing.T) {
	nodes := someNodes(400)
	interest := []string{"node-0", "no such node"} // the node itself is the first
	for i := 1; i < 100; i++ {
		interest = append(interest, fmt.Sprintf("node-%d", i))
	}
	for name, c := range map[string]struct {
		max         int
		interest    []string
		wantNames   []string
		without     string
		least, most int // peers
	}{
		"none":                  {least: 16, most: 16},
		"three":                 {interest: interest[2:5], wantNames: interest[2:5], least: 17, most: 19},
		"itself and an unknown": {interest: interest[:2], least: 16, most: 16},
		"more than are allowed": {interest: interest, wantNames: interest[2:64], without: "node-70", least: 16 + 58, most: 16 + 62},
		"another bound":         {max: 5, interest: interest[2:], wantNames: interest[2:7], least: 19, most: 21},
		"switched off":          {max: -1, interest: interest[2:5], least: 16, most: 16},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNeighbors(t, NeighborsConfig{Self: "node-0", MaxInterest: c.max}, nodes)
			n.Select(epochStart)
			n.SetInterest(c.interest)
			peers := names(n.Select(epochStart))
			for _, want := range c.wantNames {
				if !slices.Contains(peers, want) || n.OnTrial(want) {
					t.Errorf("%s is not measured", want)
				}
			}
			if len(peers) < c.least || len(peers) > c.most {
				t.Errorf("%d peers, want %d to %d", len(peers), c.least, c.most)
			}
			if c.without != "" && slices.Contains(peers, c.without) && !n.OnTrial(c.without) {
				t.Logf("%s is measured by chance", c.without)
			}
			n.SetInterest(nil)
			if got := n.Select(epochStart); len(got) != 16 {
				t.Errorf("%d peers after the end of the interest", len(got))
			}
		})
	}
}

func TestNeighborsForgetNodesThatAreGone(t *testing.T) {
	nodes := someNodes(100)
	n := newNeighbors(t, NeighborsConfig{Self: "node-0"}, nodes)
	for _, p := range n.Select(epochStart) {
		n.Observe(p.Name, ms, &Info{Near: []uint64{NameHash("node-50")}})
	}
	n.Observe("no such node", ms, nil)
	n.Observe("node-1", 0, nil)
	n.Select(epochStart.Add(time.Minute))
	n.SetNodes(nodes[:60])
	for _, p := range n.Select(epochStart.Add(time.Minute)) {
		if !slices.ContainsFunc(nodes[:60], func(n Node) bool { return n.Name == p.Name }) {
			t.Errorf("%s is gone, and a peer", p.Name)
		}
	}
	n.SetNodes(nil)
	if got := n.Select(epochStart.Add(time.Minute)); len(got) != 0 || len(n.Near()) != 0 || len(n.known) != 0 {
		t.Errorf("without nodes: peers %v, near %v, %d known", got, n.Near(), len(n.known))
	}
	moved := someNodes(3)
	moved[1].Addr = target(99)
	n.SetNodes(append(someNodes(3), moved[2]))
	before := slices.Clone(n.Select(epochStart))
	n.SetNodes(moved)
	after := n.Select(epochStart)
	if len(before) != 2 || len(after) != 2 || before[0].Addr == after[0].Addr || after[0].Addr != target(99) {
		t.Errorf("before %v, after %v", before, after)
	}
}

// TestNeighborsDoNotInsistOnTheDead: a node that does not answer is not tried again at every turn, although it was never measured.
func TestNeighborsDoNotInsistOnTheDead(t *testing.T) {
	n := newNeighbors(t, NeighborsConfig{Self: "node-0"}, someNodes(60))
	tried := map[string]int{}
	for turn := range 100 {
		for _, p := range n.Select(epochStart.Add(time.Duration(turn) * time.Minute)) {
			if n.OnTrial(p.Name) {
				tried[p.Name]++
			}
			if NameHash(p.Name)%10 == 0 {
				n.Forget(p.Name)
			} else {
				n.Observe(p.Name, time.Duration(1+NameHash(p.Name)%50)*ms, nil)
			}
		}
	}
	for name, times := range tried {
		// When all were tried, chance decides: 3 trials a turn among 45.
		if NameHash(name)%10 == 0 && times > 15 {
			t.Errorf("%s is dead, and was tried in %d of 100 turns", name, times)
		}
	}
	for _, m := range n.nearest {
		if m.silent {
			t.Errorf("a dead node is near: %+v", m)
		}
	}
	n.Forget("no such node")
	for i := range 5000 {
		n.Forget(fmt.Sprintf("node-%d", i))
	}
	if len(n.known) > 59 {
		t.Errorf("%d of 59 are remembered", len(n.known))
	}
}

func TestNeighborsConfigurationErrors(t *testing.T) {
	_, err := NewNeighbors(NeighborsConfig{K: -1, MaxInterest: 2000, Epoch: -1})
	for _, want := range []string{"neighbours: -1: must be 1 to 1024", "nodes of interest: 2000: must be at most 1024", "epoch: -1ns: must be at least 1s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	for k := 1; k <= 40; k++ {
		n := newNeighbors(t, NeighborsConfig{Self: "node-0", K: k}, someNodes(120))
		for turn := range 20 {
			peers := n.Select(epochStart.Add(time.Duration(turn) * time.Minute))
			if len(peers) != k {
				t.Fatalf("K = %d: %d peers", k, len(peers))
			}
			for _, p := range peers {
				n.Observe(p.Name, ms, nil)
			}
		}
	}
}

// TestNeighborsCost: what 15,000 nodes take.
func TestNeighborsCost(t *testing.T) {
	nodes := someNodes(15_000)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := newNeighbors(t, NeighborsConfig{Self: "node-0"}, nodes)
	start, turns := time.Now(), 20
	r := rand.New(rand.NewPCG(1, 2))
	for turn := range turns {
		for _, p := range n.Select(epochStart.Add(time.Duration(turn) * time.Minute)) {
			n.Observe(p.Name, time.Duration(1+r.IntN(100))*ms, &Info{Near: []uint64{NameHash(nodes[r.IntN(len(nodes))].Name)}})
		}
	}
	took := time.Since(start) / time.Duration(turns)
	for _, node := range nodes {
		n.Observe(node.Name, time.Duration(1+r.IntN(100))*ms, nil)
	}
	if len(n.known) > maxRemembered {
		t.Errorf("%d peers are remembered, at most %d should be", len(n.known), maxRemembered)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := float64(after.HeapAlloc-before.HeapAlloc) / (1 << 20)
	t.Logf("%d nodes: %v a turn, %.1f MiB", len(nodes), took.Round(time.Microsecond), used)
	if used > 6 {
		t.Errorf("%.1f MiB", used)
	}
	runtime.KeepAlive(n)
	runtime.KeepAlive(nodes)
}

func BenchmarkNeighborsSelect(b *testing.B) {
	for _, count := range []int{30, 500, 5000, 15_000} {
		b.Run(fmt.Sprintf("nodes=%d", count), func(b *testing.B) {
			n := newNeighbors(b, NeighborsConfig{Self: "node-0"}, someNodes(count))
			now := epochStart
			for range 50 {
				for _, p := range n.Select(now) {
					n.Observe(p.Name, time.Duration(1+NameHash(p.Name)%100)*ms, nil)
				}
				now = now.Add(time.Minute)
			}
			b.ResetTimer()
			for b.Loop() {
				n.Select(now)
				now = now.Add(time.Minute)
			}
		})
	}
}
