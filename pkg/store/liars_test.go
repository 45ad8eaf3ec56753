// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/hashicorp/serf/coordinate"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
	"github.com/fogsched/fogsched/pkg/source/zones"
)

// world is a network whose true RTTs are known, and what its nodes would report of it.
type world struct {
	name        string
	rtt         [][]float64 // seconds; NaN: missing
	peers       [][]int     // whom each node measures
	interest    []int       // whom all measure
	coordinates []latency.NetworkCoordinate
	now         time.Time
}

// worlds are a made one, and the measured ones where they are there.
func worlds(t *testing.T, interest int) []*world {
	t.Helper()
	ws := []*world{newWorld("a made plane", madeRTTs(300), interest), newWorld("25 nodes", madeRTTs(25), min(interest, 3)), newWorld("6 nodes", madeRTTs(6), min(interest, 3))}
	for _, file := range []string{"planetlab-01", "planetlab-09", "seattle-001", "seattle-010", "seattle-020"} {
		unit := 1.0 // seconds
		if strings.HasPrefix(file, "planetlab") {
			unit = 1e-3
		}
		rtt, err := readRTTs(filepath.Join("..", "..", "..", "shared", "data", "rtt", file+".txt.gz"), unit)
		if errors.Is(err, fs.ErrNotExist) {
			t.Logf("without measured round-trip times: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		ws = append(ws, newWorld(file, rtt, interest))
	}
	return ws
}

// madeRTTs has nodes on a plane 100 ms wide behind access links of up to 10 ms; each RTT deviates by up to a fifth.
func madeRTTs(n int) [][]float64 {
	rng := rand.New(rand.NewPCG(1, 2))
	x, y, h := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range n {
		x[i], y[i], h[i] = 0.1*rng.Float64(), 0.1*rng.Float64(), 0.01*rng.Float64()
	}
	rtt := make([][]float64, n)
	for i := range n {
		rtt[i] = make([]float64, n)
		for j := range i {
			d := (math.Hypot(x[i]-x[j], y[i]-y[j]) + h[i] + h[j] + 0.0005) * (0.8 + 0.4*rng.Float64())
			rtt[i][j], rtt[j][i] = d, d
		}
	}
	return rtt
}

func readRTTs(path string, unitSeconds float64) ([][]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	var m [][]float64
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var row []float64
		for _, field := range strings.Fields(lines.Text()) {
			v, err := strconv.ParseFloat(field, 64)
			if err != nil {
				return nil, err
			}
			if v *= unitSeconds; !(v > 0) { // how these data write a missing value
				v = math.NaN()
			}
			row = append(row, v)
		}
		if row != nil {
			m = append(m, row)
		}
	}
	return m, lines.Err()
}

// newWorld chooses whom each node measures: the nearest 8 of 64 that it tried, 8 at random, and the nodes of interest; of up to 33
// nodes its 16 successors. It lets the coordinates settle for 200 probes a node.
func newWorld(name string, rtt [][]float64, interest int) *world {
	const k, near, probes = 16, 8, 200
	n := len(rtt)
	rng := rand.New(rand.NewPCG(3, uint64(n)))
	w := &world{
		name: name, rtt: rtt, peers: make([][]int, n), interest: rng.Perm(n)[:interest], coordinates: make([]latency.NetworkCoordinate, n),
		now: time.Now().Truncate(time.Second),
	}
	for i := range n {
		measurable := func(j int) bool { return i != j && !math.IsNaN(rtt[i][j]) }
		tried := slices.DeleteFunc(rng.Perm(n), func(j int) bool { return !measurable(j) })
		peers := slices.Clone(tried[:min(64, len(tried))])
		slices.SortFunc(peers, func(a, b int) int { return cmp.Compare(rtt[i][a], rtt[i][b]) })
		peers = peers[:min(near, len(peers))]
		if n <= 2*k+1 {
			peers, tried = peers[:0], tried[:0]
			for d := 1; d <= min(k, n-1); d++ {
				peers = append(peers, (i+d)%n)
			}
		}
		for _, j := range tried {
			if len(peers) < k && !slices.Contains(peers, j) {
				peers = append(peers, j)
			}
		}
		for _, j := range w.interest {
			if measurable(j) && !slices.Contains(peers, j) {
				peers = append(peers, j)
			}
		}
		w.peers[i] = peers
	}
	clients := make([]*coordinate.Client, n)
	for i := range clients {
		clients[i], _ = coordinate.NewClient(coordinate.DefaultConfig())
		// Where two are in one place the library takes a direction by chance; a test must not.
		start := coordinate.NewCoordinate(coordinate.DefaultConfig())
		for d := range start.Vec {
			start.Vec[d] = 1e-3 * rng.NormFloat64()
		}
		_ = clients[i].SetCoordinate(start)
	}
	for range probes {
		for i := range n {
			j := w.peers[i][rng.IntN(len(w.peers[i]))]
			_, _ = clients[i].Update(strconv.Itoa(j), clients[j].GetCoordinate(), time.Duration(rtt[i][j]*1e9))
		}
	}
	for i, c := range clients {
		at := c.GetCoordinate()
		w.coordinates[i] = latency.CoordinateFromSeconds(at.Vec, at.Height, at.Adjustment, at.Error)
	}
	return w
}

func (w *world) node(i int) string { return fmt.Sprintf("node-%05d", i) }

// report is what an honest node says.
func (w *world) report(i int) latency.Report {
	r := latency.Report{Coordinate: &w.coordinates[i], Refresh: time.Minute}
	for _, j := range w.peers[i] {
		r.Samples = append(r.Samples, w.sample(i, j, w.rtt[i][j]))
	}
	return r
}

func (w *world) sample(i, j int, seconds float64) latency.Sample {
	return latency.Sample{From: w.node(i), To: w.node(j), Typical: seconds, Tail: 1.5 * seconds, At: w.now, Count: 10}
}

// believe returns a store that was told by all, and by the liars what they make of it.
func (w *world) believe(tb testing.TB, liars map[int]bool, lie lie) *Store {
	tb.Helper()
	s := New(DefaultMaxAge, nil)
	for i := range w.rtt {
		s.SetNode(w.node(i), zones.Location{}, "")
	}
	for i := range w.rtt {
		r := w.report(i)
		if liars[i] {
			lie(w, i, &r)
		}
		s.Take("sim", w.node(i), r, w.now)
	}
	s.Build(klog.NewContext(context.Background(), logr.Discard()), w.now)
	return s
}

// lie is what a node makes of its honest report.
type lie func(w *world, i int, r *latency.Report)

func lieTimes(factor float64) lie {
	return func(_ *world, _ int, r *latency.Report) {
		for k := range r.Samples {
			r.Samples[k].Typical *= factor
			r.Samples[k].Tail *= factor
		}
	}
}

func lieOneMilli(_ *world, _ int, r *latency.Report) {
	for k := range r.Samples {
		r.Samples[k].Typical, r.Samples[k].Tail = 0.001, 0.001
	}
}

func lieToEveryone(w *world, i int, r *latency.Report) {
	r.Samples = nil
	for j := range w.rtt {
		if j != i {
			r.Samples = append(r.Samples, w.sample(i, j, 0.001))
		}
	}
}

// lieTo claims to be next to one node only.
func lieTo(target int) lie {
	return func(w *world, i int, r *latency.Report) {
		if i == target {
			return
		}
		r.Samples = slices.DeleteFunc(r.Samples, func(s latency.Sample) bool { return s.To == w.node(target) })
		r.Samples = append(r.Samples, w.sample(i, target, 0.001))
	}
}

// lieByCoordinate claims to be where the target is, and says nothing else.
func lieByCoordinate(target int) lie {
	return func(w *world, _ int, r *latency.Report) {
		c := w.coordinates[target]
		c.Height, c.Adjustment, c.Error = 10, 0, 0.01
		r.Coordinate, r.Samples = &c, nil
	}
}

// lieByAll does what it can.
func lieByAll(target int) lie {
	return func(w *world, i int, r *latency.Report) {
		lieByCoordinate(target)(w, i, r)
		lieToEveryone(w, i, r)
	}
}

// TestHonestNodesAreBelieved counts what is rejected where nobody lies.
func TestHonestNodesAreBelieved(t *testing.T) {
	for _, interest := range []int{0, 10} {
		for _, w := range worlds(t, interest) {
			s := w.believe(t, nil, nil)
			b := s.gather(logr.Discard(), w.now)
			v := latency.Judge(&b.picture, &b.evidence)
			edges, suspects, coordinates := 0, 0, 0
			for i := range b.picture.Edges {
				edges += len(b.picture.Edges[i])
				if v.Standing[i].Suspect() {
					suspects++
				}
				if v.Believed.Coordinates[i].Error > 0 {
					coordinates++
				}
			}
			share := float64(len(v.Rejected)) / float64(edges)
			t.Logf("%-12s %2d of interest: %5d measurements, %.2f %% rejected, %d of %d nodes suspect, %d coordinates in use",
				w.name, interest, edges, 100*share, suspects, len(w.rtt), coordinates)
			if share > 0.005 {
				t.Errorf("%s: %.2f %% of honest measurements are rejected, want at most 0.5 %%", w.name, 100*share)
			}
			if suspects > len(w.rtt)/30 {
				t.Errorf("%s: %d honest nodes are suspect, want at most one in 30", w.name, suspects)
			}
			if inSpace := !strings.HasPrefix(w.name, "seattle"); inSpace != (coordinates >= len(w.rtt)*8/10) || !inSpace && coordinates > 0 {
				t.Errorf("%s: %d coordinates are in use", w.name, coordinates)
			}
		}
	}
}

// TestALiarCannotDrawPods places pods that depend on something on one node, from 50 candidates and a liar, by what the store
// believes. A pod is drawn when it goes to a liar that is farther in truth than the best candidate by more than the noise.
func TestALiarCannotDrawPods(t *testing.T) {
	const targets, candidates = 10, 50
	for _, w := range worlds(t, targets) {
		if strings.HasPrefix(w.name, "seattle") || w.name == "planetlab-09" {
			continue // on Seattle nothing tells a lie from the truth
		}
		honest := w.believe(t, nil, nil).Snapshot()
		for _, liarCount := range []int{1, max(1, len(w.rtt)/10)} {
			type tally struct {
				draws, drawn      int
				seconds, honestly float64
			}
			tallies := map[string]*tally{}
			var order []string
			rng := rand.New(rand.NewPCG(5, uint64(liarCount)))
			for range max(2, 25/liarCount) {
				liars := map[int]bool{}
				for len(liars) < liarCount {
					if i := rng.IntN(len(w.rtt)); !slices.Contains(w.interest, i) {
						liars[i] = true
					}
				}
				target := w.interest[rng.IntN(len(w.interest))]
				order = order[:0]
				for _, strategy := range []struct {
					name    string
					lie     lie
					targets []int
				}{
					{"a tenth of all", lieTimes(0.1), w.interest},
					{"1 ms to all it measures", lieOneMilli, w.interest},
					{"1 ms to everyone", lieToEveryone, w.interest},
					{"1 ms to the target", lieTo(target), []int{target}},
					{"the target's coordinate", lieByCoordinate(target), []int{target}},
					{"all of that", lieByAll(target), []int{target}},
				} {
					order = append(order, strategy.name)
					if tallies[strategy.name] == nil {
						tallies[strategy.name] = &tally{}
					}
					ta := tallies[strategy.name]
					snap := w.believe(t, liars, strategy.lie).Snapshot()
					for _, target := range strategy.targets {
						for range 50 / len(strategy.targets) {
							ns := w.draw(rng, target, candidates, liars)
							chosen := place(snap, int32(target), ns)
							best := math.Inf(1)
							for _, n := range ns {
								best = min(best, w.rtt[n][target])
							}
							ta.draws++
							ta.seconds += w.rtt[chosen][target]
							ta.honestly += w.rtt[place(honest, int32(target), ns)][target]
							if liars[int(chosen)] && w.rtt[chosen][target] > max(1.1*best, best+0.0005) {
								ta.drawn++
							}
						}
					}
				}
			}
			for _, name := range order {
				ta := tallies[name]
				drawn, ratio := float64(ta.drawn)/float64(ta.draws), ta.seconds/ta.honestly
				t.Logf("%-12s %2d lie, %-24s %4d of %d pods drawn, mean RTT × %.3f", w.name, liarCount, name, ta.drawn, ta.draws, ratio)
				if drawn > 0.02 || ratio > 1.05 {
					t.Errorf("%s: %d liars with %s drew %.1f %% of the pods, and the mean RTT is × %.3f; want at most 2 %% and 1.05",
						w.name, liarCount, name, 100*drawn, ratio)
				}
			}
		}
	}
}

// draw returns candidates for a pod that depends on the target: so many honest nodes, and a liar.
func (w *world) draw(rng *rand.Rand, target, honest int, liars map[int]bool) []int32 {
	var ns []int32
	for _, i := range rng.Perm(len(w.rtt)) {
		if i != target && !liars[i] && !math.IsNaN(w.rtt[i][target]) && len(ns) < honest {
			ns = append(ns, int32(i))
		}
	}
	for i := range liars {
		if i != target && !math.IsNaN(w.rtt[i][target]) {
			return append(ns, int32(i))
		}
	}
	return ns
}

// place returns the candidate of the lowest cost.
func place(snap *latency.Snapshot, target int32, candidates []int32) int32 {
	row := snap.Row(target, latency.ToTarget, latency.Typical)
	entry := placement.NewClientEntry(1, placement.Any, []placement.Target{{Row: row, Node: target, Mass: 1}})
	var ev placement.Evaluator
	costs, ok := ev.Costs(nil, []placement.Entry{entry}, candidates)
	if !ok {
		return candidates[0]
	}
	best := 0
	for i := range costs {
		if costs[i].Micros < costs[best].Micros {
			best = i
		}
	}
	return candidates[best]
}
