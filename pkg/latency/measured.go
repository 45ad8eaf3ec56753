// SPDX-License-Identifier: Apache-2.0

package latency

// EachMeasured calls f once for every unordered pair of nodes that at least one of the two measured. It costs O(edges · log edges of a node).
func (s *Snapshot) EachMeasured(f func(a, b int32)) {
	for i := range s.out {
		for k := range s.out[i] {
			e := &s.out[i][k]
			if !e.Measured() {
				continue
			}
			if back := find(s.out, e.To, int32(i)); back == nil || int32(i) < e.To || !back.Measured() {
				f(int32(i), e.To)
			}
		}
	}
}
