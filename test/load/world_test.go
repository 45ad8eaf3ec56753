// SPDX-License-Identifier: Apache-2.0

//go:build load

package load

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/fogsched/fogsched/test/cluster"
)

const (
	nodesPerWorld = 40
	podsPerBurst  = 200

	// worldLabel on a node says which world it is of; a pod of a burst goes to one world only.
	worldLabel = "test.fogsched.dev/world"
)

// world is a set of nodes with load on them. Two worlds of one seed have the same machines, the same load and get the same pods, so
// that each contestant meets what the others met, and none finds the traces of another in the averages over the last minutes.
type world struct {
	name     string
	seed     uint64
	machines []*machine
	pods     []workload
}

// workload is a pod of the burst: what it asks for, and what it will use, which no scheduler knows.
type workload struct {
	requestMilliCPU, usedMilliCPU int64
	memory                        int64 // bytes, requested and used
}

// machine is a node whose load is known at every time.
type machine struct {
	name   string
	cores  int
	memory float64 // bytes
	base   base

	mu       sync.Mutex
	advanced time.Time
	// busy and spare are the core-seconds since the machine started.
	busy, spare float64
	// pods has what each pod uses, in cores and bytes.
	pods map[string]usage
}

type usage struct{ cores, memory float64 }

// base is the load that is there without pods: a share of the cores that swings around a mean.
type base struct {
	mean, swing float64
	period      time.Duration
	phase       float64
	memory      float64 // share
}

// epoch is where all waves are in their phase, so that the worlds of one seed swing in step. The machines started so long before that
// averages over a quarter of an hour have their past. begin sets both.
var epoch, started time.Time

func begin() {
	epoch = time.Now()
	started = epoch.Add(-past)
}

const past = 22 * time.Minute

func (b base) at(t time.Time) float64 {
	if b.swing == 0 {
		return b.mean
	}
	return b.mean + b.swing*math.Sin(2*math.Pi*(t.Sub(epoch).Seconds()/b.period.Seconds()+b.phase))
}

// newWorld makes a world. The means go from 5 % to 60 %. Three nodes in ten swing around theirs, by 10 to 25 points, in 6 to 12 minutes: so
// slowly that averages over minutes show it. So there is load from 2 % to 80 % and more.
func newWorld(name string, seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 4))
	w := &world{name: name, seed: seed}
	means := make([]float64, nodesPerWorld)
	for i := range means { // one in each fortieth of the range, so that no seed is an easy one
		means[i] = 0.05 + 0.55*(float64(i)+r.Float64())/nodesPerWorld
	}
	r.Shuffle(len(means), func(i, j int) { means[i], means[j] = means[j], means[i] })
	for i, mean := range means {
		m := &machine{
			name:  fmt.Sprintf("%s-%02d", name, i),
			cores: 4 + 2*r.IntN(3),
			base:  base{mean: mean, memory: 0.2 + 0.3*r.Float64()},
			pods:  map[string]usage{},
		}
		m.memory = float64(m.cores) * 4 * (1 << 30)
		swing, phase, period := 0.1+0.15*r.Float64(), r.Float64(), 6+6*r.Float64()
		if i%10 < 3 {
			m.base.swing = min(swing, mean-0.02)
			m.base.phase = phase
			m.base.period = time.Duration(period * float64(time.Minute))
		}
		w.machines = append(w.machines, m)
	}
	for range podsPerBurst {
		request := []int64{100, 200, 300, 400, 800}[r.IntN(5)]
		w.pods = append(w.pods, workload{
			requestMilliCPU: request,
			usedMilliCPU:    int64(float64(request) * (0.3 + 0.7*r.Float64())),
			memory:          (128 << 20) * int64(1+r.IntN(4)),
		})
	}
	return w
}

func (w *world) nodes() []cluster.Node {
	var nodes []cluster.Node
	for _, m := range w.machines {
		nodes = append(nodes, cluster.Node{
			Name: m.name, Labels: map[string]string{worldLabel: w.name},
			Capacity: corev1.ResourceList{
				corev1.ResourceCPU:    *resource.NewQuantity(int64(m.cores), resource.DecimalSI),
				corev1.ResourceMemory: *resource.NewQuantity(int64(m.memory), resource.BinarySI),
			},
		})
	}
	return nodes
}

// place has a pod run on a machine from now on.
func (m *machine) place(pod string, u usage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance(time.Now())
	m.pods[pod] = u
}

// advance lets the time until now pass, in steps that are short to the waves.
func (m *machine) advance(now time.Time) {
	const step = time.Second
	if m.advanced.IsZero() {
		m.advanced = started
	}
	for m.advanced.Before(now) {
		d := min(step, now.Sub(m.advanced))
		busy := m.utilization(m.advanced.Add(d/2)) * float64(m.cores) * d.Seconds()
		m.busy += busy
		m.spare += float64(m.cores)*d.Seconds() - busy
		m.advanced = m.advanced.Add(d)
	}
}

// utilization is the share of the cores that are busy at a time, given the pods of now. More than all cores are never busy.
func (m *machine) utilization(t time.Time) float64 {
	cores := m.base.at(t) * float64(m.cores)
	for _, u := range m.pods {
		cores += u.cores
	}
	return min(cores/float64(m.cores), 1)
}

// outcome is the true load of a world over a quarter of an hour.
type outcome struct {
	// Peak is the highest utilisation of any node at any time, Mean that of all, and Stddev the standard deviation between nodes, the mean over
	// the time. All are percentages of the cores.
	Peak   float64 `json:"peakPercent"`
	Mean   float64 `json:"meanPercent"`
	Stddev float64 `json:"stddevPercent"`
	// Above90 counts the nodes that are above 90 % at any time.
	Above90 float64 `json:"nodesAbove90"`
}

// observe returns the load in the quarter of an hour that begins at a time, with the pods that run now.
func (w *world) observe(from time.Time) outcome {
	const steps = 180
	o := outcome{}
	highest := make([]float64, len(w.machines))
	for s := range steps {
		t := from.Add(time.Duration(s) * 15 * time.Minute / steps)
		var sum, squares float64
		for i, m := range w.machines {
			m.mu.Lock()
			u := 100 * m.utilization(t)
			m.mu.Unlock()
			highest[i] = max(highest[i], u)
			sum += u
			squares += u * u
		}
		n := float64(len(w.machines))
		mean := sum / n
		o.Mean += mean / steps
		o.Stddev += math.Sqrt(max(squares/n-mean*mean, 0)) / steps
	}
	o.Peak = slices.Max(highest)
	for _, h := range highest {
		if h > 90 {
			o.Above90++
		}
	}
	return o
}

// ideal is what one who knows what every pod will use, and when the waves come, makes of a world of its own: each pod, the greatest first, to
// the machine that then peaks lowest.
func ideal(seed uint64, from time.Time) outcome {
	w := newWorld("ideal", seed)
	slices.SortStableFunc(w.pods, func(a, b workload) int { return int(b.usedMilliCPU - a.usedMilliCPU) })
	used := make([]float64, len(w.machines))
	for i, p := range w.pods {
		cores := float64(p.usedMilliCPU) / 1000
		best, lowest := 0, math.Inf(1)
		for j, m := range w.machines {
			if peak := m.base.mean + m.base.swing + (used[j]+cores)/float64(m.cores); peak < lowest {
				best, lowest = j, peak
			}
		}
		used[best] += cores
		w.machines[best].place(fmt.Sprint(i), usage{cores: cores})
	}
	return w.observe(from)
}

// past is what an average over a window, of means over the smoothing each, came to be without pods.
func (m *machine) past(window, smoothing time.Duration) float64 {
	const steps = 60
	var sum float64
	now := time.Now()
	for i := range steps {
		end := now.Add(-window * time.Duration(i) / steps)
		for j := range steps {
			sum += m.base.at(end.Add(-smoothing * time.Duration(j) / steps))
		}
	}
	return sum / steps / steps
}
