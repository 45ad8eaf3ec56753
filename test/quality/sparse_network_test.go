// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/probe"
	"github.com/fogsched/fogsched/pkg/publish"
)

const (
	// sparseJitter is the standard deviation of the round trips of a pair, and sparseLoss the share of probes that are lost.
	sparseJitter = 0.03
	sparseLoss   = 0.005
	// sparseStart is how long it is not counted what the probers send: everything is new to them.
	sparseStart = 5 * time.Minute
)

// sparseNetwork is a prober a node, as it runs in a cluster: only the packet is not there. It lives in a synctest bubble.
type sparseNetwork struct {
	matrix  atomic.Pointer[matrix]
	nodes   []probe.Node
	meshes  []*probe.Mesh
	counted time.Time // since when probes counts
	probes  atomic.Int64
	dice    []sparseDice // a node
}

type sparseDice struct {
	sync.Mutex
	*rand.Rand
}

// startSparse starts the probers. stop ends them.
func startSparse(t *testing.T, m matrix, interval time.Duration, interest []int) (s *sparseNetwork, stop func()) {
	t.Helper()
	s = &sparseNetwork{dice: make([]sparseDice, len(m)), counted: time.Now()}
	s.matrix.Store(&m)
	var names []string
	for _, n := range interest {
		names = append(names, nodeName(n))
	}
	for n := range m {
		s.dice[n].Rand = rand.New(rand.NewPCG(uint64(n), 1))
		s.nodes = append(s.nodes, probe.Node{Name: nodeName(n), Addr: sparseAddr(n)})
		mesh, err := probe.NewMesh(probe.MeshConfig{LoopConfig: probe.LoopConfig{Self: nodeName(n), Prober: s.prober(n), Interval: interval}})
		if err != nil {
			t.Fatal(err)
		}
		s.meshes = append(s.meshes, mesh)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, mesh := range s.meshes {
		mesh.SetNodes(s.nodes)
		mesh.SetInterest(names)
		running.Go(func() { mesh.Run(ctx) })
	}
	return s, func() { cancel(); running.Wait() }
}

func sparseAddr(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 8620)
}

// prober stands for the packets that a node sends. An answer comes at once, and says how long it took: nobody has to wait.
func (s *sparseNetwork) prober(from int) probe.Prober {
	return func(_ context.Context, target netip.AddrPort) (probe.Result, error) {
		s.probes.Add(1)
		a := target.Addr().As4()
		to := int(a[2])<<8 | int(a[3])
		dice := &s.dice[from]
		dice.Lock()
		lost, factor := dice.Float64() < sparseLoss, math.Exp(sparseJitter*dice.NormFloat64())
		dice.Unlock()
		ms := (*s.matrix.Load())[from][to]
		if lost || !known(ms) {
			return probe.Result{}, probe.ErrLost
		}
		rtt := time.Duration(ms * factor * float64(time.Millisecond))
		info := s.meshes[to].Info()
		return probe.Result{RTT: rtt, Elapsed: rtt, SentAt: time.Now(), Info: &info}, nil
	}
}

// report is what the probers publish now, by the clock that shows now outside the bubble.
func (s *sparseNetwork) report(now time.Time) v1alpha1.NodeLatencyList {
	ahead := time.Until(now)
	list := v1alpha1.NodeLatencyList{
		TypeMeta: metav1.TypeMeta{Kind: "NodeLatencyList", APIVersion: v1alpha1.GroupVersion.String()},
		ListMeta: metav1.ListMeta{ResourceVersion: "1"},
	}
	for n, mesh := range s.meshes {
		picture := mesh.Picture()
		for i := range picture.Peers {
			if at := &picture.Peers[i].At; !at.IsZero() {
				*at = at.Add(ahead)
			}
		}
		list.Items = append(list.Items, v1alpha1.NodeLatency{
			ObjectMeta: metav1.ObjectMeta{Name: nodeName(n), ResourceVersion: "1"},
			Status:     publish.Status(picture),
		})
	}
	return list
}

// sparseFacts are what one run of the probers came to.
type sparseFacts struct {
	// Share is that of the probes that all pairs would have taken at the same interval.
	Share           float64 `json:"shareOfAllPairsProbes"`
	ProbesPerSecond float64 `json:"probesPerSecondAndNode"`
	IntervalSeconds float64 `json:"intervalSeconds"`
	// MeasuredBy is by how many others a node is measured.
	MeasuredByMean float64 `json:"measuredByMean"`
	MeasuredByMax  int     `json:"measuredByMax"`
	// The relative error of the coordinates' predictions for the pairs that nobody measured.
	CoordinateErrorMedian float64 `json:"coordinateErrorMedian"`
	CoordinateErrorP90    float64 `json:"coordinateErrorP90"`
	// NearestFound is the share of the pairs of a node with its five nearest that one side measured.
	NearestFound float64 `json:"nearestFound"`
}

func (s *sparseNetwork) facts() sparseFacts {
	m := *s.matrix.Load()
	interval := s.meshes[0].Interval()
	took := time.Since(s.counted)
	f := sparseFacts{
		IntervalSeconds: interval.Seconds(),
		ProbesPerSecond: float64(s.probes.Load()) / float64(len(m)) / took.Seconds(),
	}
	f.Share = f.ProbesPerSecond / (float64(len(m)-1) / interval.Seconds())
	measuredBy := make([]int, len(m))
	measured := map[[2]int]bool{}
	for from, mesh := range s.meshes {
		for _, p := range mesh.Picture().Peers {
			to := slices.IndexFunc(s.nodes, func(n probe.Node) bool { return n.Name == p.Name })
			measuredBy[to]++
			measured[[2]int{from, to}], measured[[2]int{to, from}] = true, true
		}
	}
	for _, count := range measuredBy {
		f.MeasuredByMean += float64(count) / float64(len(m))
		f.MeasuredByMax = max(f.MeasuredByMax, count)
	}
	var errs []float64
	found, near := 0, 0
	for i := range m {
		a := s.meshes[i].Info().Coordinate
		order := make([]int, 0, len(m))
		for j := range m {
			if i == j || !known(m[i][j]) {
				continue
			}
			order = append(order, j)
			if !measured[[2]int{i, j}] {
				predicted := float64(a.DistanceTo(s.meshes[j].Info().Coordinate)) / float64(time.Millisecond)
				errs = append(errs, math.Abs(predicted-m[i][j])/m[i][j])
			}
		}
		slices.SortFunc(order, func(a, b int) int {
			switch {
			case m[i][a] < m[i][b]:
				return -1
			case m[i][a] > m[i][b]:
				return 1
			default:
				return a - b
			}
		})
		for _, j := range order[:min(5, len(order))] {
			near++
			if measured[[2]int{i, j}] {
				found++
			}
		}
	}
	slices.Sort(errs)
	if len(errs) > 0 {
		f.CoordinateErrorMedian, f.CoordinateErrorP90 = errs[len(errs)/2], errs[len(errs)*9/10]
	}
	f.NearestFound = float64(found) / float64(near)
	return f
}

// replaySparse has the probers measure a network that does not change, and returns what they publish in the end.
func replaySparse(t *testing.T, m matrix, interest []int, d time.Duration) (list v1alpha1.NodeLatencyList, facts sparseFacts) {
	t.Helper()
	now := time.Now()
	synctest.Test(t, func(t *testing.T) {
		s, stop := startSparse(t, m, 0, interest)
		time.Sleep(sparseStart)
		s.probes.Store(0)
		s.counted = time.Now()
		time.Sleep(d - sparseStart)
		list, facts = s.report(now), s.facts()
		stop()
	})
	return list, facts
}

// sparseOff is what replaySparse came to without interest, which more than one test is about.
var sparseOff struct {
	sync.Mutex
	list  *v1alpha1.NodeLatencyList
	facts sparseFacts
}

// replaySparseOff is replaySparse without interest for sparseLong, run once for all tests.
func replaySparseOff(t *testing.T, m matrix) (list v1alpha1.NodeLatencyList, facts sparseFacts) {
	t.Helper()
	sparseOff.Lock()
	defer sparseOff.Unlock()
	if sparseOff.list == nil {
		list, facts := replaySparse(t, m, nil, sparseLong)
		sparseOff.list, sparseOff.facts = &list, facts
	}
	return *sparseOff.list, sparseOff.facts
}

// measuredPairs counts the unordered pairs of a list that at least one side has an RTT of.
func measuredPairs(list v1alpha1.NodeLatencyList) int {
	pairs := map[[2]string]bool{}
	for i := range list.Items {
		for _, p := range list.Items[i].Status.Peers {
			if p.Typical != nil {
				a, b := list.Items[i].Name, p.Node
				pairs[[2]string{min(a, b), max(a, b)}] = true
			}
		}
	}
	return len(pairs)
}

// someTargets returns random nodes, in order.
func someTargets(nodes, count int, rng *rand.Rand) []int {
	set := map[int]bool{}
	for len(set) < min(count, nodes) {
		set[rng.IntN(nodes)] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func (f sparseFacts) String() string {
	return fmt.Sprintf("%.2f probes/s a node, every %.0f s; measured by %.1f on average and %d at most; coordinates err by %.1f %% (median) and %.0f %% (p90); of the five nearest %.0f %% are measured",
		f.ProbesPerSecond, f.IntervalSeconds, f.MeasuredByMean, f.MeasuredByMax, 100*f.CoordinateErrorMedian, 100*f.CoordinateErrorP90, 100*f.NearestFound)
}
