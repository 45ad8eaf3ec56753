// SPDX-License-Identifier: Apache-2.0

package internal

import "testing"

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
