// SPDX-License-Identifier: Apache-2.0

package store

// Doubt is what the last snapshot does not believe of a node.
type Doubt struct {
	// Distrusted: most of those who could contradict the node's measurements do, so they are left out.
	Distrusted bool
	// Misplaced: others measured the node faster than light could get to its position, which is ignored.
	Misplaced bool
}

// Doubts returns the nodes of the last snapshot of which something is not believed. It must not run beside Build or Run.
func (s *Store) Doubts() map[string]Doubt {
	s.mu.Lock()
	defer s.mu.Unlock()
	doubts := map[string]Doubt{}
	for name, n := range s.nodes {
		if n.distrusted || n.misplaced {
			doubts[name] = Doubt{Distrusted: n.distrusted, Misplaced: n.misplaced}
		}
	}
	return doubts
}
