// SPDX-License-Identifier: Apache-2.0

package internal

import (
	"slices"

	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/placement"
)

// NormalizeCosts turns costs in nanoseconds, where less is better, into scores from 0 to 100, where more is better. A cost of
// 0 stands for "nothing to say": the node counts as the median of the others, never as the best; where all have it, all are
// level.
func NormalizeCosts(scores fwk.NodeScoreList) {
	best, known := int64(0), 0
	for i := range scores {
		if c := scores[i].Score; c > 0 {
			known++
			if best == 0 || c < best {
				best = c
			}
		}
	}
	neutral := best
	if known > 0 && known < len(scores) { // a Score that panicked, and no other way
		costs := make([]int64, 0, known)
		for i := range scores {
			if c := scores[i].Score; c > 0 {
				costs = append(costs, c)
			}
		}
		slices.Sort(costs)
		neutral = costs[known/2]
	}
	for i := range scores {
		c := scores[i].Score
		if c <= 0 {
			c = neutral
		}
		scores[i].Score = placement.Score(float32(c)/1000, float32(best)/1000)
	}
}
