// SPDX-License-Identifier: Apache-2.0

// Package quality asks how near to the best the placements are, on real round-trip times: one matrix is what the probers
// measured, a later one what is true when the pod runs. The placements go through the real plugin in the real framework.
package quality

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
)

const (
	// The RTTs have a long tail: a few pairs that turned bad decide about a mean. On PlanetLab two draws of 4,000 placements
	// differ by several per cent in their ratio to the oracle, so the bars are judged on the mean of several draws.
	draws      = 10
	placements = 4000
	badShare   = 0.01

	oneDependency = "one-dependency"
	replicaSet    = "replica-set"

	// The bars.
	maxToBestMeasured = 1.02
	maxToOracle       = 1.08
	maxBadDataShift   = 0.02
	maxToStock        = 0.09
)

// placement is one decision to take: which of the feasible nodes, in random order, is nearest to the server's.
type placement struct {
	server   int
	feasible []int
}

func TestQuality(t *testing.T) {
	in := loadInputs(t)
	start := time.Now()
	rng := rand.New(rand.NewPCG(1, 2))
	ps := make([][]placement, draws)
	for d := range ps {
		ps[d] = drawPlacements(in.truth, rng)
	}
	load := make([]float64, len(in.measured))
	for n := range load {
		load[n] = 0.8 * rng.Float64()
	}
	r := &report{
		Measured: filepath.Base(in.measuredFile), True: filepath.Base(in.trueFile), Nodes: len(in.measured), Draws: draws, Placements: placements,
	}
	panics := sum(t, metrics.Panics)

	// Subtests, so that each scheduler ends before the next one starts.
	t.Run(oneDependency, func(t *testing.T) { placeOneDependency(t, r, in, ps, load, rng) })
	var rejected, reported int
	t.Run(oneDependency+"-bad-data", func(t *testing.T) { rejected, reported = placeWithBadData(t, r, in, ps, load, rng) })
	var unequal, compared int
	for _, bad := range []bool{false, true} {
		name := "nothing-reported"
		if bad {
			name = "all-reported-bad"
		}
		t.Run("all-missing-"+name, func(t *testing.T) {
			u, c := placeWithoutData(t, in, ps[0], load, bad)
			unequal, compared = unequal+u, compared+c
		})
	}
	if t.Failed() {
		return // the scheduler did not run; figures would mislead
	}
	r.relate(oneDependency)
	r.relate(replicaSet)

	ours, bad := r.find(oneDependency, "fogsched"), r.find(oneDependency, "fogsched-1pct-bad")
	best := r.find(oneDependency, "best-measured")
	r.Bars = []bar{
		judge("fogsched, mean RTT against the best by measurement, at most 1.02", ours.ToBestMeasured, maxToBestMeasured),
		judge("the same in the worst of the draws, at most 1.02", slices.Max(ratios(ours, best)), maxToBestMeasured),
		judge("fogsched, mean RTT against the oracle, at most 1.08", ours.ToOracle, maxToOracle),
		judge("fogsched, mean RTT against the stock scheduler, at most 0.09", ours.MeanMillis/r.find(oneDependency, byStock).MeanMillis, maxToStock),
		judge("fogsched with 1 % bad data, mean RTT shifted by at most 0.02", math.Abs(bad.MeanMillis/ours.MeanMillis-1), maxBadDataShift),
		judge("bad samples that were not counted as rejected just once, at most 0", math.Abs(float64(reported-rejected)), 0),
		judge(fmt.Sprintf("without data, rankings of %d unlike the stock scheduler's, at most 0", compared), float64(unequal), 0),
		judge("panics of the plugin, at most 0", sum(t, metrics.Panics)-panics, 0),
	}
	if best.ToOracle > maxToOracle {
		r.Bars[2].NotJudged = fmt.Sprintf("these round-trip times change so much that the best by measurement itself is at %.3f", best.ToOracle)
	}
	if len(in.measured) < 450 {
		r.Bars[3].NotJudged = "this bar is about the PlanetLab data"
	}

	out := filepath.Join(repositoryRoot(t), "out", "quality", "report.json")
	if err := r.write(t, out); err != nil {
		t.Fatal(err)
	}
	printReport(r, time.Since(start))
	for _, b := range r.Bars {
		if !b.Kept && b.NotJudged == "" {
			t.Errorf("%s: it is %s", b.Text, b.figure())
		}
	}
}

func judge(text string, value, limit float64) bar {
	return bar{Text: text, Value: value, Limit: limit, Kept: value <= limit}
}

func printReport(r *report, took time.Duration) {
	w := os.Stdout
	var one, set []row
	for _, row := range r.Rows {
		if row.Case == oneDependency {
			one = append(one, row)
		} else {
			set = append(set, row)
		}
	}
	fmt.Fprintf(w, "\n%d nodes; probers measured %s, pods then live with %s\n", r.Nodes, r.Measured, r.True)
	fmt.Fprintf(w, "\nOne dependency, a random fifth of the nodes feasible, %d draws of %d placements: true RTT to the server\n\n", r.Draws, r.Placements)
	printTable(w, one)
	toOracle := ratios(r.find(oneDependency, "fogsched"), r.find(oneDependency, "oracle"))
	fmt.Fprintf(w, "\n  One draw alone puts fogsched at %s to %s of the oracle.\n", times(slices.Min(toOracle)), times(slices.Max(toOracle)))
	fmt.Fprintf(w, "\nFour replicas for 30 clients, %d times, all other nodes feasible: true RTT from each client to its nearest replica\n\n", replicaSeeds)
	printTable(w, set)
	fmt.Fprintf(w, `
  fogsched                   NodeLatency alone in the real scheduling framework, ties by chance
  fogsched-default-profile   the profile of manifests/base: with the default score plugins, on nodes loaded by 0–80 %%
  stock                      kube-scheduler's default profile, on nodes loaded by 0–80 %%, others in each draw
  …-1pct-bad                 1 %% of the pairs reported as 0, NaN, −1 or 1e308 in turn; "naive" stores that as 0
  ·                          for comparison only

`)
	printBars(w, r.Bars)
	fmt.Fprintf(w, "\n%.0f s; the figures are in out/quality/report.json\n\n", took.Seconds())
}

// drawPlacements draws what to place. Nodes whose true RTT nobody knows are not feasible: nothing could judge them.
func drawPlacements(truth matrix, rng *rand.Rand) []placement {
	ps := make([]placement, placements)
	for i := range ps {
		p := placement{server: rng.IntN(len(truth))}
		for _, n := range rng.Perm(len(truth)) {
			if n != p.server && known(truth[n][p.server]) && len(p.feasible) < len(truth)/5 {
				p.feasible = append(p.feasible, n)
			}
		}
		ps[i] = p
	}
	return ps
}

// tally gathers the true RTTs that a policy reached.
type tally struct {
	rtts      []float64
	drawMeans []float64
}

// add places a draw.
func (y *tally) add(truth matrix, ps []placement, choose func(placement) int) {
	sum := 0.0
	for _, p := range ps {
		rtt := truth[choose(p)][p.server]
		y.rtts = append(y.rtts, rtt)
		sum += rtt
	}
	y.drawMeans = append(y.drawMeans, sum/float64(len(ps)))
}

func (y *tally) row(policy string) row {
	w := newRow(oneDependency, policy, y.rtts)
	w.DrawMeansMillis = y.drawMeans
	return w
}

// each makes a row of a policy's choices.
func each(r *report, truth matrix, ps [][]placement, policy string, choose func(placement) int) *row {
	var y tally
	for _, draw := range ps {
		y.add(truth, draw, choose)
	}
	r.Rows = append(r.Rows, y.row(policy))
	return &r.Rows[len(r.Rows)-1]
}

// ratios compares two rows draw by draw.
func ratios(a, b *row) []float64 {
	list := make([]float64, len(a.DrawMeansMillis))
	for d, v := range a.DrawMeansMillis {
		list[d] = v / b.DrawMeansMillis[d]
	}
	return list
}

// nearest returns the candidate of the lowest RTT; unknown ones are taken only where all are.
func nearest(candidates []int, rtt func(n int) float64) int {
	chosen, least := candidates[0], math.Inf(1)
	for _, n := range candidates {
		if v := rtt(n); v < least { // never true for NaN
			chosen, least = n, v
		}
	}
	return chosen
}

// clientOf returns the pod that calls a server.
func clientOf(server int) *v1.Pod {
	return newPod("client-of-"+serviceName(server), shipped, fmt.Sprintf(`{"dependencies":[{"service":%q}]}`, serviceName(server)))
}

func (b *bed) chooseClient(t *testing.T, profileName string, p placement) int {
	return b.choose(t, profileName, framework.NewCycleState(), clientOf(p.server), p.feasible)
}

func placeOneDependency(t *testing.T, r *report, in inputs, ps [][]placement, load []float64, rng *rand.Rand) {
	m := in.measured
	each(r, in.truth, ps, "random", func(p placement) int { return p.feasible[0] })
	zones := newZoneTable(m, 10, rng)
	each(r, in.truth, ps, "zone-table-10", func(p placement) int { return zones.choose(p.server, p.feasible) })
	b := newBed(t, m, load, nil)
	defer b.printLogs(t)
	each(r, in.truth, ps, "fogsched", func(p placement) int { return b.chooseClient(t, latencyOnly, p) })
	each(r, in.truth, ps, "fogsched-default-profile", func(p placement) int { return b.chooseClient(t, shipped, p) }).Informational = true
	each(r, in.truth, ps, "best-measured", func(p placement) int {
		return nearest(p.feasible, func(n int) float64 { return orReverse(m[n][p.server], m[p.server][n]) })
	})
	each(r, in.truth, ps, "oracle", func(p placement) int {
		return nearest(p.feasible, func(n int) float64 { return in.truth[n][p.server] })
	})
	placeReplicas(t, r, in, b, rng)
}

// orReverse returns the first RTT, or the other direction's where it is missing.
func orReverse(a, b float64) float64 {
	if known(a) {
		return a
	}
	return b
}

func (b *bed) printLogs(t *testing.T) {
	if t.Failed() && b.logs != nil {
		t.Logf("the scheduler's log:\n%s", b.logs())
	}
}

// badValues are how failed probes and failed queries look, in seconds.
var badValues = []float64{0, math.NaN(), -1, 1e308}

// spoil returns the matrix without a share of its pairs, and what is reported of those instead, in both directions.
func spoil(m matrix, share float64, rng *rand.Rand) (matrix, []latency.Sample) {
	good := make(matrix, len(m))
	var pairs [][2]int
	for i := range m {
		good[i] = slices.Clone(m[i])
		for j := range i {
			pairs = append(pairs, [2]int{i, j})
		}
	}
	rng.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	var bad []latency.Sample
	for k, p := range pairs[:int(math.Round(share*float64(len(pairs))))] {
		good[p[0]][p[1]], good[p[1]][p[0]] = missing, missing
		for _, d := range [][2]int{{p[0], p[1]}, {p[1], p[0]}} {
			bad = append(bad, latency.Sample{
				From: nodeName(d[0]), To: nodeName(d[1]), At: time.Now(), Count: 10,
				Typical: badValues[k%len(badValues)], Tail: badValues[k%len(badValues)],
			})
		}
	}
	return good, bad
}

// placeWithBadData places each draw with another share of the pairs spoilt, and by the stock scheduler, which knows of none.
func placeWithBadData(t *testing.T, r *report, in inputs, ps [][]placement, load []float64, rng *rand.Rand) (rejected, reported int) {
	var ours, naive, others tally
	loads := rand.New(rand.NewPCG(15, 16))
	before := sum(t, metrics.SamplesRejected, "source", "broken")
	for d, draw := range ps {
		good, bad := spoil(in.measured, badShare, rng)
		reported += len(bad)
		t.Run(fmt.Sprintf("draw-%d", d), func(t *testing.T) {
			// The stock scheduler's choices hang on where the few nodes with the least load are: others in each draw.
			load := slices.Clone(load)
			loads.Shuffle(len(load), func(i, j int) { load[i], load[j] = load[j], load[i] })
			b := newBed(t, good, load, bad)
			defer b.printLogs(t)
			ours.add(in.truth, draw, func(p placement) int { return b.chooseClient(t, latencyOnly, p) })
			others.add(in.truth, draw, func(p placement) int { return b.chooseClient(t, stock, p) })
		})
		naive.add(in.truth, draw, func(p placement) int {
			return nearest(p.feasible, func(n int) float64 {
				if known(in.measured[n][p.server]) && !known(good[n][p.server]) {
					return 0 // what was measured and then spoilt
				}
				return orReverse(good[n][p.server], good[p.server][n])
			})
		})
	}
	if t.Failed() {
		return 0, reported
	}
	r.Rows = append(r.Rows, others.row(byStock), ours.row("fogsched-1pct-bad"), naive.row("naive-1pct-bad"))
	r.Rows[len(r.Rows)-1].Informational = true
	return int(sum(t, metrics.SamplesRejected, "source", "broken") - before), reported
}

// placeWithoutData compares the shipped profile with the stock one where no pair is known, because nothing is reported or
// because all that is reported is bad. It returns how many rankings differ.
func placeWithoutData(t *testing.T, in inputs, ps []placement, load []float64, bad bool) (unequal, compared int) {
	none, samples := spoil(in.measured, 1, rand.New(rand.NewPCG(3, 4)))
	if !bad {
		samples = nil
	}
	b := newBed(t, none, load, samples)
	defer b.printLogs(t)
	for _, p := range ps[:min(len(ps), 250)] {
		pod := clientOf(p.server)
		ranking := func(profileName string) []int {
			scores := b.scores(t, profileName, framework.NewCycleState(), pod, p.feasible)
			return ranks(len(scores), func(i int) int64 { return scores[i].TotalScore })
		}
		with, without := ranking(shipped), ranking(stock)
		if without[slices.Index(without, slices.Max(without))] == 0 {
			t.Fatal("the stock scheduler finds all nodes alike; the comparison would say nothing")
		}
		compared++
		if !slices.Equal(with, without) {
			unequal++
		}
	}
	return unequal, compared
}

// ranks returns for each of n scores how many are higher; equal scores have equal ranks.
func ranks(n int, score func(i int) int64) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(score(b), score(a)) })
	ranks := make([]int, n)
	for k, i := range order {
		ranks[i] = k
		if k > 0 && score(i) == score(order[k-1]) {
			ranks[i] = ranks[order[k-1]]
		}
	}
	return ranks
}

const (
	replicaSeeds   = 8
	replicaClients = 30
	replicas       = 4
)

// placeReplicas places the replicas of a service one by one, each reserved before the next, for clients on random nodes.
func placeReplicas(t *testing.T, r *report, in inputs, b *bed, rng *rand.Rand) {
	rtts := map[string][]float64{}
	f := b.profiles[latencyOnly]
	for seed := range replicaSeeds {
		order := rng.Perm(len(in.measured))
		clients, feasible := order[:min(replicaClients, len(order)/3)], order[min(replicaClients, len(order)/3):]
		values := ""
		for i, k := range clients {
			if i > 0 {
				values += ","
			}
			values += fmt.Sprintf("%q", nodeName(k))
		}
		annotation := fmt.Sprintf(`{"clients":[{"nodes":{"matchExpressions":[{"key":%q,"operator":"In","values":[%s]}]},"routing":"Nearest"}]}`,
			v1.LabelHostname, values)

		chosen := map[string][]int{"random": feasible[:replicas]}
		var pods []*v1.Pod
		for i := range replicas {
			pod := newPod(fmt.Sprintf("replica-%d-%d", seed, i), latencyOnly, annotation)
			state := framework.NewCycleState()
			n := b.choose(t, latencyOnly, state, pod, feasible)
			if status := f.RunReservePluginsReserve(t.Context(), state, pod, nodeName(n)); !status.IsSuccess() {
				t.Fatalf("Reserve of %s: %v", pod.Name, status)
			}
			pods, chosen["fogsched"] = append(pods, pod), append(chosen["fogsched"], n)
		}
		for i, pod := range pods {
			f.RunReservePluginsUnreserve(t.Context(), framework.NewCycleState(), pod, nodeName(chosen["fogsched"][i]))
		}
		chosen["best-measured"] = greedy(in.measured, clients, feasible)
		chosen["oracle"] = greedy(in.truth, clients, feasible)
		for policy, nodes := range chosen {
			for _, k := range clients {
				if rtt := toNearest(in.truth, k, nodes); known(rtt) {
					rtts[policy] = append(rtts[policy], rtt)
				}
			}
		}
	}
	for _, policy := range []string{"random", "fogsched", "best-measured", "oracle"} {
		row := newRow(replicaSet, policy, rtts[policy])
		row.Informational = true
		r.Rows = append(r.Rows, row)
	}
}

// toNearest returns the RTT from a client to the nearest of the nodes; NaN where none is known.
func toNearest(m matrix, client int, nodes []int) float64 {
	least := missing
	for _, n := range nodes {
		if v := m[client][n]; known(v) && !(v >= least) {
			least = v
		}
	}
	return least
}

// greedy places the replicas one by one where the mean RTT of the clients to their nearest replica falls the most.
func greedy(m matrix, clients, feasible []int) []int {
	var nodes []int
	for range replicas {
		nodes = append(nodes, nearest(feasible, func(n int) float64 {
			total := 0.0
			for _, k := range clients {
				rtt := toNearest(m, k, append(slices.Clone(nodes), n))
				if !known(rtt) {
					rtt = 1000 // nobody reaches it
				}
				total += rtt
			}
			return total
		}))
	}
	return nodes
}
