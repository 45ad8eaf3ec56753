// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestScore(t *testing.T) {
	tests := map[string]struct {
		cost, best float32
		want       int64
	}{
		"the best":                              {cost: 20_000, best: 20_000, want: 100},
		"twice the best latency":                {cost: 41_000, best: 20_000, want: 50},
		"a tenth more":                          {cost: 22_100, best: 20_000, want: 91},
		"0.1 ms more of 50 µs is within noise":  {cost: 150, best: 50, want: 91},
		"the farthest there is":                 {cost: 60e6, best: 50, want: 0},
		"no best, an impossible input":          {cost: 10, best: 0, want: 100},
		"better than the best, impossible, too": {cost: 10, best: 20, want: 100},
		"a best that is not a number":           {cost: 10, best: float32(math.NaN()), want: 100},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Score(tt.cost, tt.best); got != tt.want {
				t.Errorf("Score(%g, %g) = %d, want %d", tt.cost, tt.best, got, tt.want)
			}
		})
	}
}

func TestScoreIsMonotoneAndInRange(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		costs := make([]float32, 2+rng.IntN(50))
		for i := range costs {
			costs[i] = float32(math.Exp(19 * rng.Float64())) // 1 µs to 178 s, with what RankBehind adds
		}
		slices.Sort(costs)
		last := int64(MaxScore)
		for i, c := range costs {
			got := Score(c, costs[0])
			if got < 0 || got > MaxScore {
				t.Fatalf("Score(%g, %g) = %d", c, costs[0], got)
			}
			if i == 0 && got != MaxScore {
				t.Fatalf("the best has %d", got)
			}
			if got > last {
				t.Fatalf("Score(%g, %g) = %d, above the %d of a lower cost", c, costs[0], got, last)
			}
			last = got
		}
	}
}

// nearly allows for what float32 loses when a large number is added and taken off again.
func nearly(a, b float32) bool { return math.Abs(float64(a-b)) <= 1e-6*math.Abs(float64(b))+16 }

func TestRankBehind(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	for range 2000 {
		n := 1 + rng.IntN(20)
		before := make([]Cost, n)
		breaks := make([]bool, n)
		share := rng.Float64()
		for i := range before {
			before[i] = Cost{Micros: float32(math.Exp(2 + 15*rng.Float64())), Knowledge: Knowledge(rng.IntN(3))}
			breaks[i] = rng.Float64() < share
		}
		after := slices.Clone(before)
		keepers, added := RankBehind(after, breaks)
		best := slices.MinFunc(after, func(a, b Cost) int { return cmp.Compare(a.Micros, b.Micros) }).Micros
		wantKeepers := 0
		for i := range after {
			if !breaks[i] {
				wantKeepers++
			} else if !nearly(after[i].Micros-added, before[i].Micros) {
				t.Fatalf("%g was added to %g, and the sum is %g", added, before[i].Micros, after[i].Micros)
			}
		}
		if keepers != wantKeepers {
			t.Fatalf("%d keepers, want %d", keepers, wantKeepers)
		}
		mixed := slices.Contains(breaks, true) && slices.Contains(breaks, false)
		for i := range after {
			if after[i].Knowledge != before[i].Knowledge {
				t.Fatal("what is known of a candidate changed")
			}
			if (!mixed || !breaks[i]) && after[i] != before[i] {
				t.Fatalf("the cost of %v became %v although nothing sets it back", before[i], after[i])
			}
			for j := range after {
				switch {
				case breaks[i] && !breaks[j] && !(after[i].Micros > after[j].Micros):
					t.Fatalf("one that breaks a limit has %g, one that keeps it %g", after[i].Micros, after[j].Micros)
				case breaks[i] && !breaks[j] && Score(after[i].Micros, best) > Score(after[j].Micros, best)/2+1:
					t.Fatalf("one that breaks a limit scores %d, one that keeps it %d", Score(after[i].Micros, best), Score(after[j].Micros, best))
				case breaks[i] == breaks[j] && before[i].Micros < before[j].Micros && after[i].Micros > after[j].Micros:
					t.Fatalf("%g and %g changed their order", before[i].Micros, before[j].Micros)
				}
			}
		}
	}
}
