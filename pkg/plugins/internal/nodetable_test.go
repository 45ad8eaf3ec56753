// SPDX-License-Identifier: Apache-2.0

package internal

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fwk "k8s.io/kube-scheduler/framework"
)

func TestNodeTable(t *testing.T) {
	var none NodeTable
	if got, ok := none.get(8); ok {
		t.Errorf("an empty table has %d", got)
	}
	for _, n := range []int{1, 2, 3, 8, 100, 5000} {
		table := NewNodeTable(n)
		if len(table.slots) < 2*n {
			t.Fatalf("%d slots for %d values", len(table.slots), n)
		}
		a := func(i int) uintptr { return uintptr(0xc000000000 + 1024*i) } // as an allocator hands them out
		for i := range n {
			table.put(a(i), int64(i))
		}
		table.put(0, 7)
		for i := range n {
			if got, ok := table.get(a(i)); !ok || got != int64(i) {
				t.Fatalf("n=%d: the value of %d is %d, %v", n, i, got, ok)
			}
		}
		if _, ok := table.get(a(n)); ok {
			t.Errorf("n=%d: what was not put has a value", n)
		}
		if _, ok := table.get(0); ok {
			t.Errorf("n=%d: nothing has a value", n)
		}
		table.put(a(0), 99)
		if got, _ := table.get(a(0)); got != 99 {
			t.Errorf("n=%d: put again, and the value is %d", n, got)
		}
	}
}

// TestAnEmptyTableHasNothing: Score asks without a guard, also a table that was freed or never made.
func TestAnEmptyTableHasNothing(t *testing.T) {
	freed := NewNodeTable(3)
	freed.Free()
	for i := range 1000 {
		ni := &named{name: fmt.Sprint(i)} // of some the hash is below 0 as an int
		for _, table := range []*NodeTable{{}, &freed} {
			if got := table.Peek(ni); got != 0 {
				t.Fatalf("an empty table has %d", got)
			}
			if got, ok := table.Get(ni); got != 0 || ok {
				t.Fatalf("an empty table has %d, %t", got, ok)
			}
		}
	}
}

type named struct {
	fwk.NodeInfo
	name string
}

func (n *named) Node() *v1.Node { return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name}} }

func TestNodeIndex(t *testing.T) {
	const n = 1500
	numbers := map[string]int32{}
	var list []fwk.NodeInfo
	for i := range n {
		name := fmt.Sprint("node-", i)
		numbers[name] = int32(2 * i)
		list = append(list, &named{name: name})
	}
	delete(numbers, "node-7")
	asked := 0
	number := func(name string) int32 {
		asked++
		if n, ok := numbers[name]; ok {
			return n
		}
		return -1
	}
	numbering, other := new(string), new(string)
	x := NewNodeIndex(list, numbering, number)
	if asked != n {
		t.Errorf("%d names were looked up, want %d", asked, n)
	}
	asked = 0
	stranger, unknown := &named{name: "node-1"}, &named{name: "none"}
	order := slices.Clone(list)
	rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	for name, candidates := range map[string][]fwk.NodeInfo{
		"as the list": list, "a part": list[100:200], "from the middle": append(slices.Clone(list[700:]), list[:700]...), "in any order": order,
		"with others": {list[2], stranger, list[3], unknown, list[n-1], stranger, list[0]}, "none": nil,
	} {
		table, second := x.Table(), x.Table()
		got, slots := x.Find(nil, nil, candidates, number)
		if len(got) != len(candidates) || len(slots) != len(candidates) {
			t.Fatalf("%s: %d numbers and %d slots of %d candidates", name, len(got), len(slots), len(candidates))
		}
		for i, ni := range candidates {
			name := ni.Node().Name
			want, ok := numbers[name]
			if !ok {
				want = -1
			}
			if got[i] != want || (slots[i] < 0) != (ni == stranger || ni == unknown) {
				t.Fatalf("%s: the number of candidate %d, %s, is %d, its slot %d; want %d", name, i, name, got[i], slots[i], want)
			}
			table.Set(slots[i], int64(i+1))
		}
		for i, ni := range candidates {
			want := int64(i + 1)
			if slots[i] < 0 {
				want = 0
			}
			if got, ok := table.Get(ni); got != want || ok != (want > 0) {
				t.Fatalf("%s: the value of candidate %d is %d, %t", name, i, got, ok)
			}
			if got := table.Peek(ni); got != 0 && got != want {
				t.Fatalf("%s: the value of candidate %d is %d", name, i, got)
			}
			if got, _ := second.Get(ni); got != 0 {
				t.Fatalf("%s: the value of candidate %d is %d in a table to which none was set", name, i, got)
			}
		}
		table.Free()
		if got, ok := table.Get(list[0]); ok {
			t.Errorf("%s: a table that was freed has the value %d", name, got)
		}
		table.Free()
		again := x.Table() // as a rule in the memory of the freed one
		for i, ni := range candidates {
			if got, _ := again.Get(ni); got != 0 {
				t.Fatalf("%s: the value of candidate %d is %d in a table after another", name, i, got)
			}
		}
		again.Free()
	}
	if asked != 3 {
		t.Errorf("%d names were looked up after it was made, want those of the others", asked)
	}

	var none *NodeIndex
	for name, same := range map[string][2]bool{
		"none":           {false, none.Is(list, numbering)},
		"the same":       {true, x.Is(list, numbering)},
		"fewer":          {false, x.Is(list[:n-1], numbering)},
		"others":         {false, x.Is(append([]fwk.NodeInfo(nil), list...), numbering)},
		"other numbers":  {false, x.Is(list, other)},
		"without a list": {true, NewNodeIndex(nil, numbering, number).Is(nil, numbering)},
	} {
		if same[0] != same[1] {
			t.Errorf("%s: Is = %t, want %t", name, same[1], same[0])
		}
	}
}
