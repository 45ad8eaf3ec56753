// SPDX-License-Identifier: Apache-2.0

package placement

import "math"

// MaxScore is the score of the best candidate.
const MaxScore = 100

// noiseMicros is added to costs before they are compared, 1 ms: differences below it are the noise of the network.
const noiseMicros = 1000

// Score maps a cost to the scale that a scheduler adds up:
//
//	score = 100 · (best + 1 ms) / (cost + 1 ms), rounded
//
// with the lowest cost of all candidates as best; both in microseconds, 0 < best ≤ cost. The result lies in 0–100; the best
// candidate has 100, one at twice its latency 50. A step near the top is 1 % of the best latency, so the 101 steps lie
// where the choice is made; a scale from best to worst would spend them on the far nodes, and one outlier would push all
// good nodes onto the same step. See docs/adr/0002-score-scale.md.
func Score(cost, best float32) int64 {
	if !(best > 0) || cost < best { // an impossible input never scores outside the range
		return MaxScore
	}
	return int64(math.Round(MaxScore * (float64(best) + noiseMicros) / (float64(cost) + noiseMicros)))
}

// RankBehind puts each candidate that breaks a limit behind all that keep theirs: it adds 2·(worst + 1 ms) to its cost, worst
// being the highest cost of the keepers, so that its score is less than half of that of every keeper. The breakers keep their
// order. Where all break, or none, nothing changes. It returns the number of keepers, and what was added.
func RankBehind(costs []Cost, breaks []bool) (keepers int, added float32) {
	var worst float32
	for i, c := range costs {
		if !breaks[i] {
			worst = max(worst, c.Micros)
			keepers++
		}
	}
	if keepers == 0 || keepers == len(costs) {
		return keepers, 0
	}
	added = 2 * (worst + noiseMicros)
	for i := range costs {
		if breaks[i] {
			costs[i].Micros += added
		}
	}
	return keepers, added
}
