// SPDX-License-Identifier: Apache-2.0

package internal

import (
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/placement"
)

// NormalizeCosts turns costs in nanoseconds, where less is better, into scores from 0 to 100, where more is better. A cost of
// 0 stands for "nothing to say" and gets the score of the best: it occurs for all nodes or for none.
func NormalizeCosts(scores fwk.NodeScoreList) {
	best := int64(0)
	for i := range scores {
		if c := scores[i].Score; c > 0 && (best == 0 || c < best) {
			best = c
		}
	}
	for i := range scores {
		c := scores[i].Score
		if c <= 0 {
			c = best
		}
		scores[i].Score = placement.Score(float32(c)/1000, float32(best)/1000)
	}
}
