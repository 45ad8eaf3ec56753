// SPDX-License-Identifier: Apache-2.0

package index

import (
	"slices"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// NodeSet is the nodes that a label selector selects. Get it from an Index, which keeps it current.
type NodeSet struct {
	key      string
	selector labels.Selector
	refs     int
	nodes    atomic.Pointer[[]NodeCount]
}

// Nodes returns the nodes, each with count 1, in the order of their names. The list is immutable.
func (s *NodeSet) Nodes() []NodeCount { return *s.nodes.Load() }

// NodeSet returns the set of nodes that a selector selects. Release it by ReleaseNodeSet.
func (x *Index) NodeSet(selector labels.Selector) *NodeSet {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := selector.String()
	s, ok := x.nodeSets[key]
	if !ok {
		s = &NodeSet{key: key, selector: selector}
		x.nodeSets[key] = s
		x.fillNodeSet(s)
	}
	s.refs++
	return s
}

// ReleaseNodeSet gives a set back; nil is ignored.
func (x *Index) ReleaseNodeSet(s *NodeSet) {
	if s == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if s.refs--; s.refs == 0 {
		delete(x.nodeSets, s.key)
	}
}

// SetNode takes up a node's labels.
func (x *Index) SetNode(node *v1.Node) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old, known := x.nodes[node.Name]
	if known && sameLabels(old, node.Labels) {
		return
	}
	set := labels.Set(node.Labels)
	x.nodes[node.Name] = set
	for _, s := range x.nodeSets {
		if (known && s.selector.Matches(old)) != s.selector.Matches(set) {
			x.fillNodeSet(s)
		}
	}
}

// DeleteNode takes a node out.
func (x *Index) DeleteNode(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old, known := x.nodes[name]
	delete(x.nodes, name)
	for _, s := range x.nodeSets {
		if known && s.selector.Matches(old) {
			x.fillNodeSet(s)
		}
	}
}

func (x *Index) fillNodeSet(s *NodeSet) {
	list := []NodeCount{}
	for name, set := range x.nodes {
		if s.selector.Matches(set) {
			list = append(list, NodeCount{Node: name, Count: 1})
		}
	}
	slices.SortFunc(list, compareNodeCount)
	s.nodes.Store(&list)
	x.notify()
}
