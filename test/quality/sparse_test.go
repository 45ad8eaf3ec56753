// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/probe"
	"github.com/fogsched/fogsched/pkg/source/nodelatency"
	"github.com/fogsched/fogsched/pkg/source/zones"
	"github.com/fogsched/fogsched/pkg/store"
)

const (
	sparsePlacements = 2000
	// Without interest everything depends on how many near peers were found, which takes time; with it, each target's row is
	// measured from the beginning, and a window of probes is enough.
	sparseLong, sparseShort = 100 * time.Minute, 35 * time.Minute
	// vivaldiError is the median relative error that Dabek et al. give for Vivaldi (SIGCOMM 2004).
	vivaldiError = 0.11

	maxSparseToAllPairs = 1.05
	maxSparseShare      = 0.06
)

// sparseRow compares placements by what sparse probing knows with those by all pairs, by the true round-trip times.
type sparseRow struct {
	Targets    int     `json:"targets"`
	Interest   bool    `json:"interest"`
	MeanMillis float64 `json:"meanMillis"`
	ToAllPairs float64 `json:"toAllPairs"`
	ToOracle   float64 `json:"toOracle"`
	sparseFacts
}

type sparseReport struct {
	Measured     string       `json:"measured"`
	True         string       `json:"true"`
	Nodes        int          `json:"nodes"`
	Placements   int          `json:"placementsPerRow"`
	VivaldiError float64      `json:"vivaldiPublishedErrorMedian"`
	Rows         []sparseRow  `json:"rows"`
	Bars         []bar        `json:"bars"`
	Replay       []replayRows `json:"replay,omitempty"`
}

// TestQualitySparse asks how much is lost when each node measures 16 others instead of all, with and without the policies' targets
// among them. The probers are the real ones, with virtual time and without packets; the placements go through the real plugin.
func TestQualitySparse(t *testing.T) {
	in := loadInputs(t)
	start := time.Now()
	r := &sparseReport{
		Measured: filepath.Base(in.measuredFile), True: filepath.Base(in.trueFile), Nodes: len(in.measured), Placements: sparsePlacements,
		VivaldiError: vivaldiError,
	}
	rng := rand.New(rand.NewPCG(7, 8))
	load := make([]float64, len(in.measured))

	type question struct {
		targets          []int
		ps               []placement
		allPairs, oracle float64
	}
	var questions []*question
	for _, count := range []int{1, 10, 50} {
		q := &question{targets: someTargets(len(in.measured), count, rng)}
		for _, p := range drawPlacements(in.truth, rng)[:sparsePlacements] {
			// The same candidates, for a server that is a target.
			p.server = q.targets[rng.IntN(len(q.targets))]
			p.feasible = without(p.feasible, func(n int) bool { return n == p.server || !known(in.truth[n][p.server]) })
			q.ps = append(q.ps, p)
		}
		for _, p := range q.ps {
			q.oracle += in.truth[nearest(p.feasible, func(n int) float64 { return in.truth[n][p.server] })][p.server] / sparsePlacements
		}
		questions = append(questions, q)
	}
	place := func(t *testing.T, b *bed, ps []placement) (mean float64) {
		for _, p := range ps {
			mean += in.truth[b.chooseClient(t, latencyOnly, p)][p.server] / float64(len(ps))
		}
		return mean
	}

	t.Run("all-pairs", func(t *testing.T) {
		b := newBed(t, in.measured, load, nil)
		defer b.printLogs(t)
		for _, q := range questions {
			q.allPairs = place(t, b, q.ps)
		}
	})
	sparse := func(t *testing.T, interest []int, d time.Duration, qs []*question) {
		var list v1alpha1.NodeLatencyList
		var facts sparseFacts
		if len(interest) == 0 {
			list, facts = replaySparseOff(t, in.measured)
		} else {
			list, facts = replaySparse(t, in.measured, interest, d)
		}
		b := newBedOf(t, list, len(in.measured), measuredPairs(list)*97/100, load, nil) // some are not believed
		defer b.printLogs(t)
		for _, q := range qs {
			row := sparseRow{Targets: len(q.targets), Interest: len(interest) > 0, MeanMillis: place(t, b, q.ps), sparseFacts: facts}
			row.ToAllPairs, row.ToOracle = row.MeanMillis/q.allPairs, row.MeanMillis/q.oracle
			r.Rows = append(r.Rows, row)
		}
	}
	t.Run("interest-off", func(t *testing.T) { sparse(t, nil, 0, questions) })
	for _, q := range questions {
		t.Run(fmt.Sprintf("interest-%d", len(q.targets)), func(t *testing.T) {
			d := sparseShort
			if len(q.targets) > probe.DefaultNeighbors {
				d *= 2 // the more targets, the longer the interval
			}
			sparse(t, q.targets, d, []*question{q})
		})
	}
	t.Run("replay", func(t *testing.T) { r.Replay = replaySeattle(t) })
	if t.Failed() {
		return
	}

	var ten, off sparseRow
	for _, row := range r.Rows {
		if row.Interest && row.Targets == 10 {
			ten = row
		}
		if !row.Interest {
			off = row
		}
	}
	r.Bars = []bar{
		judge("sparse with 10 targets of interest, mean RTT against all pairs, at most 1.05", ten.ToAllPairs, maxSparseToAllPairs),
		judge("share of all pairs' probes, at most 0.06", ten.Share, maxSparseShare),
		judge("probes a second and node, at most 0.3 (and 1 %)", math.Max(ten.ProbesPerSecond, off.ProbesPerSecond), probe.DefaultRate*1.01),
		judge("relative error of the coordinates in the median, at most Vivaldi's published 0.11", off.CoordinateErrorMedian, vivaldiError),
	}
	if len(in.measured) < 450 {
		for i := range r.Bars {
			r.Bars[i].NotJudged = "these bars are about the PlanetLab data"
		}
	}
	for _, replay := range r.Replay {
		r.Bars = append(r.Bars, judge(
			fmt.Sprintf("Seattle, %g probes a slice: sparse with %d targets of interest against all pairs, at most 1.05", replay.ProbesPerSlice, seattleTargets),
			replay.mean(sparseOn)/replay.mean(denseThrough), maxSparseToAllPairs))
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(repositoryRoot(t), "out", "quality", "sparse.json")
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	printSparse(r, time.Since(start))
	for _, b := range r.Bars {
		if !b.Kept && b.NotJudged == "" {
			t.Errorf("%s: it is %s", b.Text, b.figure())
		}
	}
}

// without returns a list without what is out.
func without(list []int, out func(int) bool) []int {
	var kept []int
	for _, n := range list {
		if !out(n) {
			kept = append(kept, n)
		}
	}
	return kept
}

func printSparse(r *sparseReport, took time.Duration) {
	w := os.Stdout
	fmt.Fprintf(w, "\nSparse probing: %d nodes, each measures %d others and the nodes of interest; measured %s, true %s; %d placements a row\n\n",
		r.Nodes, probe.DefaultNeighbors, r.Measured, r.True, r.Placements)
	fmt.Fprintf(w, "  %7s  %-8s  %9s  %9s  %9s  %9s  %8s  %12s  %11s\n", "targets", "interest", "mean", "to all", "to", "probes of", "probes/s", "measured by", "coordinates")
	fmt.Fprintf(w, "  %7s  %-8s  %9s  %9s  %9s  %9s  %8s  %12s  %11s\n", "", "", "ms", "pairs", "oracle", "all pairs", "a node", "mean, max", "median, p90")
	for _, row := range r.Rows {
		interest := "off"
		if row.Interest {
			interest = "on"
		}
		fmt.Fprintf(w, "  %7d  %-8s  %9s  %9s  %9s  %8.1f%%  %8.2f  %7.1f, %3d  %4.1f%%, %3.0f%%\n",
			row.Targets, interest, millis(row.MeanMillis), times(row.ToAllPairs), times(row.ToOracle), 100*row.Share, row.ProbesPerSecond,
			row.MeasuredByMean, row.MeasuredByMax, 100*row.CoordinateErrorMedian, 100*row.CoordinateErrorP90)
	}
	fmt.Fprintf(w, "\n  The coordinates' relative error is that of the pairs nobody measured; Vivaldi's authors give %.0f %% in the median.\n", 100*r.VivaldiError)
	fmt.Fprintf(w, "  Of the pairs of a node with its five nearest, one side measures %.0f %% after %v without interest.\n",
		100*r.Rows[0].NearestFound, sparseLong)
	for _, replay := range r.Replay {
		replay.print(w)
	}
	fmt.Fprintln(w)
	printBars(w, r.Bars)
	fmt.Fprintf(w, "\n%.0f s; the figures are in out/quality/sparse.json\n\n", took.Seconds())
}

func (r replayRows) print(w io.Writer) {
	fmt.Fprintf(w, "\n%d nodes of a network that changes, %d slices, each peer probed %g× a slice: placements at the end of a slice, judged by the next\n\n",
		r.Nodes, r.Slices, r.ProbesPerSlice)
	fmt.Fprintf(w, "  %-32s  %9s  %9s  %s\n", "placed by", "mean ms", "to oracle", "as good as all pairs of so many slices ago")
	for _, row := range r.Rows {
		behind := fmt.Sprintf("%.1f", row.Behind)
		if row.Behind < 0 {
			behind = fmt.Sprintf("more than %d", seattleWarm)
		}
		fmt.Fprintf(w, "  %-32s  %9s  %9s  %s\n", row.Policy, millis(row.MeanMillis), times(row.ToOracle), behind)
	}
}

// replayRows say how far behind a network that changes the placements are.
type replayRows struct {
	Nodes, Slices int
	// ProbesPerSlice is how often each peer is probed while a slice lasts.
	ProbesPerSlice float64     `json:"probesPerSlice"`
	Rows           []replayRow `json:"rows"`
}

type replayRow struct {
	Policy     string  `json:"policy"`
	MeanMillis float64 `json:"meanMillis"`
	ToOracle   float64 `json:"toOracle"`
	// Behind is how many slices old the data of all pairs are that place as well; NaN-free: -1 where even the oldest place better.
	Behind float64 `json:"slicesBehind"`
}

const (
	seattleSlices  = 20
	seattleWarm    = 10 // slices before the first placement
	seattleTargets = 10
	seattleEach    = 400 // placements a slice

	seattleInterval = 10 * time.Second

	denseThrough = "all pairs, window and store"
	sparseOn     = "sparse, interest on"
)

func (r replayRows) mean(policy string) float64 {
	for _, row := range r.Rows {
		if row.Policy == policy {
			return row.MeanMillis
		}
	}
	return missing
}

// replaySeattle replays the slices of a network that changes, and places at the end of each by what is known then, for the slice
// that follows.
func replaySeattle(t *testing.T) []replayRows {
	folder := filepath.Join(filepath.Dir(repositoryRoot(t)), "shared", "data", "rtt")
	var slices []matrix
	for i := range seattleSlices {
		path := filepath.Join(folder, fmt.Sprintf("seattle-%03d.txt.gz", i+1))
		if _, err := os.Stat(path); os.IsNotExist(err) {
			t.Skipf("Nothing to replay: %s is missing", path)
		}
		m, err := readMatrix(path, 1000)
		if err != nil {
			t.Fatal(err)
		}
		slices = append(slices, m)
	}
	rng := rand.New(rand.NewPCG(9, 10))
	targets := someTargets(len(slices[0]), seattleTargets, rng)
	ps := make([][]placement, seattleSlices) // by the slice that judges
	for s := seattleWarm; s < seattleSlices; s++ {
		for _, p := range drawPlacements(slices[s], rng)[:seattleEach] {
			p.server = targets[rng.IntN(len(targets))]
			p.feasible = without(p.feasible, func(n int) bool { return n == p.server || !known(slices[s][n][p.server]) })
			ps[s] = append(ps[s], p)
		}
	}
	// judgeBy is the mean true RTT where estimate(s) is what was known when slice s began.
	judgeBy := func(estimate func(s int) func(n, server int) float64) (mean float64) {
		for s := seattleWarm; s < seattleSlices; s++ {
			rtt := estimate(s)
			for _, p := range ps[s] {
				mean += slices[s][nearest(p.feasible, func(n int) float64 { return rtt(n, p.server) })][p.server]
			}
		}
		return mean / float64((seattleSlices-seattleWarm)*seattleEach)
	}
	old := func(lag int) float64 {
		return judgeBy(func(s int) func(n, server int) float64 {
			m := slices[s-lag]
			return func(n, server int) float64 { return orReverse(m[n][server], m[server][n]) }
		})
	}
	byAge := make([]float64, seattleWarm+1)
	for lag := range byAge {
		byAge[lag] = old(lag)
	}
	var all []replayRows
	for _, perSlice := range []int{1, 3} {
		rows := replayRows{Nodes: len(slices[0]), Slices: seattleSlices, ProbesPerSlice: float64(perSlice)}
		add := func(policy string, mean float64) {
			rows.Rows = append(rows.Rows, replayRow{Policy: policy, MeanMillis: mean, ToOracle: mean / byAge[0], Behind: slicesBehind(byAge, mean)})
		}
		add("oracle: the slice itself", byAge[0])
		add("all pairs, the last slice", byAge[1])
		add("all pairs, 3 slices old", byAge[3])
		add("all pairs, 10 slices old", byAge[10])
		windows := windowsOfAllPairs(t, slices, perSlice)
		add("all pairs, the window alone", judgeBy(func(s int) func(n, server int) float64 {
			return func(n, server int) float64 { return orReverse(windows[s][n][server], windows[s][server][n]) }
		}))
		add(denseThrough, judgeBy(denseStore(windows)))
		add("sparse, interest off", judgeBy(sparseStore(t, slices, perSlice, nil)))
		add(sparseOn, judgeBy(sparseStore(t, slices, perSlice, targets)))
		all = append(all, rows)
	}
	return all
}

// slicesBehind returns how old data are that place as well as mean, by the means of data of each age.
func slicesBehind(byAge []float64, mean float64) float64 {
	for age := 1; age < len(byAge); age++ {
		if mean <= byAge[age] {
			return float64(age-1) + math.Max(0, (mean-byAge[age-1])/(byAge[age]-byAge[age-1]))
		}
	}
	return -1
}

// windowsOfAllPairs has every node measure every other, and returns what the windows say when each slice begins.
func windowsOfAllPairs(t *testing.T, slices []matrix, perSlice int) []matrix {
	n := len(slices[0])
	windows := make([]*probe.Window, n*n)
	for i := range windows {
		windows[i] = probe.NewWindow(probe.DefaultWindow)
	}
	typical := make([]matrix, len(slices))
	for s, m := range slices {
		typical[s] = make(matrix, n)
		for i, row := range m {
			typical[s][i] = make([]float64, n)
			for j, ms := range row {
				w := windows[i*n+j]
				typical[s][i][j] = missing
				if d, _, ok := w.Stats().RTT(); ok {
					typical[s][i][j] = float64(d) / float64(time.Millisecond)
				}
				for range perSlice {
					if !known(ms) {
						w.AddLoss()
					} else if err := w.Add(time.Duration(ms*float64(time.Millisecond)), time.Unix(int64(s+1), 0)); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	return typical
}

// denseStore puts what all pairs' windows say through the store, and returns what the snapshot says when a slice begins.
func denseStore(typical []matrix) func(s int) func(n, server int) float64 {
	st := newSeattleStore(len(typical[0]))
	snapshots := make([]*latency.Snapshot, len(typical))
	now := time.Now()
	for s, m := range typical {
		for i, row := range m {
			var r latency.Report
			for j, ms := range row {
				if i != j {
					r.Samples = append(r.Samples, latency.Sample{
						From: nodeName(i), To: nodeName(j), Typical: ms / 1000, Tail: ms / 1000, Failed: s > 0 && !known(ms), At: now, Count: 1,
					})
				}
			}
			st.Take("nodelatency", nodeName(i), r, now)
		}
		st.Build(quietly(), now)
		snapshots[s] = st.Snapshot()
		now = now.Add(seattleInterval)
	}
	return bySnapshot(snapshots)
}

// sparseStore replays the slices through probers and store, and returns what the snapshot says when a slice begins.
func sparseStore(t *testing.T, slices []matrix, perSlice int, interest []int) func(s int) func(n, server int) float64 {
	snapshots := make([]*latency.Snapshot, len(slices))
	synctest.Test(t, func(t *testing.T) {
		st := newSeattleStore(len(slices[0]))
		network, stop := startSparse(t, slices[0], seattleInterval, interest)
		for s, m := range slices {
			now := time.Now()
			list := network.report(now)
			for i := range list.Items {
				st.Take("nodelatency", list.Items[i].Name, nodelatency.ReportOf(&list.Items[i]), now)
			}
			st.Build(quietly(), now)
			snapshots[s] = st.Snapshot()
			network.matrix.Store(&m)
			time.Sleep(time.Duration(perSlice) * seattleInterval)
		}
		stop()
	})
	return bySnapshot(snapshots)
}

func newSeattleStore(nodes int) *store.Store {
	st := store.New(time.Hour, nil)
	for n := range nodes {
		st.SetNode(nodeName(n), zones.Location{}, "")
	}
	return st
}

// quietly is a context without a log.
func quietly() context.Context { return klog.NewContext(context.Background(), klog.Logger{}) }

// bySnapshot estimates by the snapshot of a slice's beginning.
func bySnapshot(snapshots []*latency.Snapshot) func(s int) func(n, server int) float64 {
	return func(s int) func(n, server int) float64 {
		snap := snapshots[s]
		return func(n, server int) float64 {
			from, ok := snap.Index(nodeName(n))
			to, ok2 := snap.Index(nodeName(server))
			if !ok || !ok2 {
				return missing
			}
			us, ok := snap.Row(to, latency.ToTarget, latency.Typical).RTT[from].Micros()
			if !ok {
				return missing
			}
			return float64(us) / 1000
		}
	}
}
