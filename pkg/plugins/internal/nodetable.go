// SPDX-License-Identifier: Apache-2.0

package internal

import (
	"math/bits"
	"slices"
	"sync"
	"unsafe"

	fwk "k8s.io/kube-scheduler/framework"
)

// NodeTable holds a value for each candidate by the address of its NodeInfo: Score gets the very objects that PreScore got, and at 5,000 nodes
// a look-up by name takes three times as long. It is a hash table with linear probing; the zero value is empty. Reading is safe from many
// goroutines.
type NodeTable struct {
	slots []nodeSlot // a power of two of them, at most half of them used
	shift uint8      // below 64

	// memory comes from home and goes back there.
	memory *[]nodeSlot
	home   *sync.Pool
}

type nodeSlot struct {
	address uintptr
	value   int64
}

// roomy is up to how many candidates a table has twice the slots that it needs: fewer of them collide, and it still fits into the nearest
// caches. For 5,000 candidates that would take 40 µs longer to build, and Score 3 µs less for all of them together.
const roomy = 512

// tables are those of NewNodeTable that were freed.
var tables = sync.Pool{New: func() any { return &[]nodeSlot{} }}

// NewNodeTable returns an empty table for n candidates at most.
func NewNodeTable(n int) NodeTable {
	size := bits.Len(uint(2 * n))
	if n <= roomy {
		size++
	}
	m := tables.Get().(*[]nodeSlot)
	*m = slices.Grow((*m)[:0], 1<<size)[:1<<size]
	clear(*m)
	return NodeTable{slots: *m, shift: uint8(64 - size), memory: m, home: &tables}
}

// Free hands the table's memory to later ones and leaves it empty. Nobody may be reading it.
func (t *NodeTable) Free() {
	if t.memory != nil {
		t.home.Put(t.memory)
	}
	*t = NodeTable{}
}

// address returns the address of a NodeInfo: the second word of the interface that holds it. It is only ever compared, and whoever asks holds
// the NodeInfo.
func address(ni fwk.NodeInfo) uintptr { return (*[2]uintptr)(unsafe.Pointer(&ni))[1] }

// start is the slot where the search for an address begins: Fibonacci hashing. The mask spares a comparison.
func (t *NodeTable) start(a uintptr) int {
	return int(uint64(a) * 0x9E3779B97F4A7C15 >> (t.shift & 63))
}

// Same reports whether two interfaces hold the same pointer. Comparing the interfaces themselves is a call.
func Same[T any](a, b T) bool {
	return *(*[2]uintptr)(unsafe.Pointer(&a)) == *(*[2]uintptr)(unsafe.Pointer(&b))
}

// Put sets a candidate's value. It is not for a table of a NodeIndex.
func (t *NodeTable) Put(ni fwk.NodeInfo, value int64) { t.put(address(ni), value) }

// Set sets the value of a candidate whose slot is known; it does nothing where that is negative.
func (t *NodeTable) Set(slot int32, value int64) {
	if slot >= 0 {
		t.slots[slot].value = value
	}
}

// Get returns the value that was put for a candidate; ok is false where there is none. In a table of a NodeIndex those of the list to which no
// value was set have 0.
func (t *NodeTable) Get(ni fwk.NodeInfo) (value int64, ok bool) { return t.get(address(ni)) }

// Peek returns the value of a candidate that is in the first slot where it can be, as most are, and 0 for others. It is short enough to be
// inlined, and does not panic, whatever the table and the NodeInfo are.
func (t *NodeTable) Peek(ni fwk.NodeInfo) int64 {
	// Without slots there is no shift either, and the start is any number, also one below 0.
	if i := uint(t.start(address(ni))); i < uint(len(t.slots)) && t.slots[i].address == address(ni) {
		return t.slots[i].value
	}
	return 0
}

func (t *NodeTable) put(a uintptr, value int64) {
	if slot, _ := t.find(a); slot >= 0 {
		t.slots[slot] = nodeSlot{a, value}
	}
}

func (t *NodeTable) get(a uintptr) (value int64, ok bool) {
	slot, ok := t.find(a)
	if !ok {
		return 0, false
	}
	return t.slots[slot].value, true
}

// find returns the slot of an address, or the free one where it would be, or -1 where there cannot be any.
func (t *NodeTable) find(a uintptr) (slot int, ok bool) {
	if len(t.slots) == 0 || a == 0 {
		return -1, false
	}
	for i := t.start(a); ; i = (i + 1) & (len(t.slots) - 1) {
		switch t.slots[i].address {
		case a:
			return i, true
		case 0:
			return i, false
		}
	}
}

// NodeIndex has the numbers of the nodes of a list of NodeInfos, by their addresses. To look up thousands of names for each pod would be most of a
// PreScore on all nodes, and to make a NodeTable of as many addresses a good part of the rest; one list is that of many pods.
//
// It rests on what the framework keeps to: a NodeInfo of its snapshot is that of one node for as long as it is in the list. The index keeps the
// list, and with it the addresses.
type NodeIndex struct {
	list      []fwk.NodeInfo
	numbering *string
	nodes     []indexed // as the list
	positions []int32   // in the list, by slot
	empty     NodeTable
	tables    sync.Pool // those that were freed
}

// indexed is a node's number and the slot of its value in the tables of the index.
type indexed struct{ number, slot int32 }

// NewNodeIndex returns the index of a list. number returns the number of a name, negative where it has none; numbering stands for all of them.
func NewNodeIndex(list []fwk.NodeInfo, numbering *string, number func(name string) int32) *NodeIndex {
	x := &NodeIndex{list: list, numbering: numbering, nodes: make([]indexed, len(list)), empty: NewNodeTable(len(list))}
	x.positions = make([]int32, len(x.empty.slots))
	for i, ni := range list {
		slot, _ := x.empty.find(address(ni))
		x.empty.slots[slot].address, x.positions[slot] = address(ni), int32(i)
		x.nodes[i] = indexed{number(ni.Node().Name), int32(slot)}
	}
	return x
}

// Is reports whether the index is that of this very list and these numbers.
func (x *NodeIndex) Is(list []fwk.NodeInfo, numbering *string) bool {
	return x != nil && len(x.list) == len(list) && unsafe.SliceData(x.list) == unsafe.SliceData(list) && x.numbering == numbering
}

// Find appends the number of each candidate's node to numbers, and to slots that of its value in tables of the index. The number of one that is
// not in the list comes from number, and it has the slot -1. Candidates mostly come in the order of the list, and are found without a search then.
func (x *NodeIndex) Find(numbers, slots []int32, candidates []fwk.NodeInfo, number func(name string) int32) (n, s []int32) {
	next := 0
	for _, ni := range candidates {
		if next == len(x.list) || !Same(x.list[next], ni) {
			slot, ok := x.empty.find(address(ni))
			if !ok {
				numbers, slots = append(numbers, number(ni.Node().Name)), append(slots, -1)
				continue
			}
			next = int(x.positions[slot])
		}
		numbers, slots = append(numbers, x.nodes[next].number), append(slots, x.nodes[next].slot)
		next++
	}
	return numbers, slots
}

// Table returns a table for the NodeInfos of the list, without values.
func (x *NodeIndex) Table() NodeTable {
	m, _ := x.tables.Get().(*[]nodeSlot)
	if m == nil {
		slots := slices.Clone(x.empty.slots)
		m = &slots
	} else {
		for i := range *m {
			(*m)[i].value = 0
		}
	}
	return NodeTable{slots: *m, shift: x.empty.shift, memory: m, home: &x.tables}
}
