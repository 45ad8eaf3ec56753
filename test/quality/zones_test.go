// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"math"
	"math/rand/v2"
	"slices"
)

// zoneTable is what an administrator with a zone label a node and a table of costs between zones knows.
type zoneTable struct {
	of   []int
	cost [][]float64 // from one zone to another in milliseconds; +Inf where nothing was measured
}

// newZoneTable finds so many zones by k-medoids on the measured distances: better zones than most clusters are labelled with.
func newZoneTable(m matrix, count int, rng *rand.Rand) zoneTable {
	// An unknown pair is far, so that it holds no zone together.
	distance := func(i, j int) float64 {
		if d := m.between(i, j); known(d) {
			return d
		}
		return 1e6
	}
	best, bestCost := []int(nil), math.Inf(1)
	for range 8 {
		of, cost := medoids(len(m), count, distance, rng)
		if cost < bestCost {
			best, bestCost = of, cost
		}
	}
	z := zoneTable{of: best, cost: make([][]float64, count)}
	values := make([][][]float64, count)
	for a := range values {
		values[a], z.cost[a] = make([][]float64, count), make([]float64, count)
	}
	for i := range m {
		for j := range m {
			if i != j && known(m[i][j]) {
				values[best[i]][best[j]] = append(values[best[i]][best[j]], m[i][j])
			}
		}
	}
	for a := range values {
		for b := range values[a] {
			z.cost[a][b] = math.Inf(1)
			if v := values[a][b]; len(v) > 0 {
				slices.Sort(v)
				z.cost[a][b] = v[len(v)/2]
			}
		}
	}
	return z
}

// medoids assigns n points to so many clusters and returns the sum of the distances to their centres. Centres start far
// from each other and move until nothing changes.
func medoids(n, count int, distance func(i, j int) float64, rng *rand.Rand) (of []int, cost float64) {
	nearest := make([]float64, n)
	for i := range nearest {
		nearest[i] = math.Inf(1)
	}
	centres := make([]int, 0, count)
	next := rng.IntN(n)
	for {
		centres = append(centres, next)
		sum := 0.0
		for i := range n {
			nearest[i] = min(nearest[i], distance(i, next))
			if i == next {
				nearest[i] = 0
			}
			sum += nearest[i]
		}
		if len(centres) == count {
			break
		}
		next = slices.Index(nearest, slices.Max(nearest))
		for i, pick := 0, rng.Float64()*sum; i < n; i++ {
			if pick -= nearest[i]; pick < 0 {
				next = i
				break
			}
		}
	}
	of = make([]int, n)
	for range 50 {
		cost = 0
		for i := range n {
			least := math.Inf(1)
			for z, c := range centres {
				d := distance(i, c)
				if i == c {
					d = -1 // a centre stays in its own zone
				}
				if d < least {
					least, of[i] = d, z
				}
			}
			cost += max(least, 0)
		}
		moved := false
		for z := range centres {
			least, centre := math.Inf(1), centres[z]
			for i := range n {
				if of[i] != z {
					continue
				}
				sum := 0.0
				for j := range n {
					if of[j] == z && i != j {
						sum += distance(i, j)
					}
				}
				if sum < least {
					least, centre = sum, i
				}
			}
			if centre != centres[z] {
				centres[z], moved = centre, true
			}
		}
		if !moved {
			break
		}
	}
	return of, cost
}

// choose takes any node of the best zone, as NetworkOverhead does: the server's own zone before all others, then the one
// of the lowest cost. candidates are in random order.
func (z *zoneTable) choose(server int, candidates []int) int {
	chosen, least := candidates[0], math.Inf(1)
	for _, n := range candidates {
		cost := z.cost[z.of[n]][z.of[server]]
		if z.of[n] == z.of[server] {
			cost = 0
		}
		if cost < least {
			chosen, least = n, cost
		}
	}
	return chosen
}
