// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// unknown is the value of a node of which nothing is known. Arithmetic cannot make a number of it.
var unknown = float32(math.NaN())

// known reports whether a value is a number: not NaN, and not what became infinite on the way.
func known(v float32) bool { return v-v == 0 }

// snapshot is what is known of all nodes at one time. Nothing of it changes but the load.
type snapshot struct {
	numbers map[string]int32
	names   []string
	created []time.Time // of the nodes
	metrics []values
	// expires is when the first of the values is too old; zero where nothing is known.
	expires time.Time
}

// values are those of one metric, by the nodes' numbers.
type values struct {
	measured []float32
	// at is the time of the newest sample behind a value, in nanoseconds since 1970; of no meaning where the value is unknown.
	at []int64
	// per is by what a pod's effect is multiplied on a node; nil where pods have none.
	per []float32
	// load is the measured value with the effect of the pods that it does not have yet, as the bits of a float32: the one thing that changes,
	// when a pod is placed, starts, or ends.
	load  []atomic.Uint32
	known int
}

// after returns a metric's value once a pod of so large an effect is on node n; n is -1 for a node that the snapshot does not have.
func (s *snapshot) after(metric int, n int32, effect float32) float32 {
	if n < 0 {
		return unknown
	}
	v := &s.metrics[metric]
	load := math.Float32frombits(v.load[n].Load())
	if v.per == nil {
		return load
	}
	return load + effect*v.per[n]
}

// number returns the number of a node, -1 where it has none.
func (s *snapshot) number(node string) int32 {
	if n, ok := s.numbers[node]; ok {
		return n
	}
	return -1
}

// load sets the load of a node from the pods on it.
func (s *snapshot) load(metrics []metric, n int32, pods []*placed) {
	for m := range s.metrics {
		v := &s.metrics[m]
		sum := v.measured[n]
		if v.per != nil && known(sum) {
			at := time.Unix(0, v.at[n])
			var effect float32
			for _, p := range pods {
				effect += p.effects[m] * p.unseen(at, metrics[m].window)
			}
			sum += effect * v.per[n]
		}
		v.load[n].Store(math.Float32bits(sum))
	}
}

// settle is how much newer than a pod's start a sample must be to have it, where the metric has no window.
const settle = 5 * time.Second

// placed is a pod on a node that samples may not have whole yet.
type placed struct {
	node    string
	effects []float32 // by metric, for a node whose per is 1
	// started is when the pod began to run; zero while it does not.
	started time.Time
	// assumed is set until the API server says that the pod is there.
	assumed bool
}

// unseen returns which part of a pod, 0 to 1, a value lacks that is the mean over a window up to the time at. A mean over a window has a pod
// for the share of the window in which it ran. Times of two clocks are compared; a start after the sample is as good as none.
func (p *placed) unseen(at time.Time, window time.Duration) float32 {
	if p.started.IsZero() {
		return 1
	}
	ran := at.Sub(p.started)
	if window <= 0 {
		if ran >= settle {
			return 0
		}
		return 1
	}
	return 1 - min(max(float32(ran)/float32(window), 0), 1)
}

// numbering numbers nodes in the order of their names.
func numbering(names []string) map[string]int32 {
	slices.Sort(names)
	numbers := make(map[string]int32, len(names))
	for i, n := range names {
		numbers[n] = int32(i)
	}
	return numbers
}
