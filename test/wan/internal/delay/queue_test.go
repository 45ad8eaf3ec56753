// SPDX-License-Identifier: Apache-2.0

package delay

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

type delivery struct {
	number int
	due    time.Time
	at     time.Time
}

func newQueue(t *testing.T, limit int) (*Queue[int], chan delivery) {
	t.Helper()
	delivered := make(chan delivery, 1<<16)
	q, err := NewQueue(limit, func(n int, due time.Time) { delivered <- delivery{n, due, time.Now()} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q, delivered
}

func next(t *testing.T, delivered chan delivery) delivery {
	t.Helper()
	select {
	case d := <-delivered:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("an item was not delivered")
		return delivery{}
	}
}

func TestItemsGoInTheOrderInWhichTheyAreDue(t *testing.T) {
	q, delivered := newQueue(t, 1<<16)
	dice := rand.New(rand.NewPCG(1, 2))
	start := time.Now().Add(500 * time.Millisecond)
	type item struct {
		number int
		due    time.Time
	}
	var want []item
	for i := range 2000 {
		// Many are due together.
		due := start.Add(time.Duration(dice.IntN(100)) * 300 * time.Microsecond)
		want = append(want, item{i, due})
		if !q.Push(due, i) {
			t.Fatal("the queue is full")
		}
	}
	slices.SortStableFunc(want, func(a, b item) int { return a.due.Compare(b.due) })
	for i, w := range want {
		got := next(t, delivered)
		if got.number != w.number {
			t.Fatalf("item %d came as number %d, want item %d", got.number, i, w.number)
		}
		if got.at.Before(w.due) {
			t.Errorf("item %d came %v early", got.number, w.due.Sub(got.at))
		}
	}
}

func TestAnEarlierItemIsNotHeldByALaterOne(t *testing.T) {
	q, delivered := newQueue(t, 10)
	q.Push(time.Now().Add(time.Hour), 1)
	q.Push(time.Now().Add(time.Millisecond), 2)
	if got := next(t, delivered); got.number != 2 {
		t.Errorf("item %d came first", got.number)
	}
}

func TestAFullQueueRefuses(t *testing.T) {
	q, delivered := newQueue(t, 2)
	later := time.Now().Add(100 * time.Millisecond)
	if !q.Push(later, 1) || !q.Push(later, 2) || q.Push(later, 3) {
		t.Error("a queue of two must take two items and refuse the third")
	}
	next(t, delivered)
	next(t, delivered)
	if !q.Push(time.Now(), 4) {
		t.Error("an empty queue refuses")
	}
}
