// SPDX-License-Identifier: Apache-2.0

// Package delay hands things over when they are due, with as little lateness as the machine allows.
package delay

import (
	"sync"
	"time"
)

// alarm wakes one goroutine at a time that others set.
type alarm interface {
	// set makes wait return after d; it replaces what was set before. d ≤ 0 means at once.
	set(d time.Duration)
	// wait blocks until the time that was set. It returns false once the alarm is closed.
	wait() bool
	close() error
}

// Queue delivers every item when it is due, in the order in which they are due; those that are due together go in the order
// in which they came. One goroutine does so, whatever the number of items. Its methods are safe for concurrent use.
type Queue[T any] struct {
	limit   int
	deliver func(item T, due time.Time)
	alarm   alarm
	done    chan struct{}

	mu    sync.Mutex
	heap  []entry[T]
	order uint64
}

type entry[T any] struct {
	due   time.Time
	order uint64
	item  T
}

func (e *entry[T]) before(other *entry[T]) bool {
	if e.due.Equal(other.due) {
		return e.order < other.order
	}
	return e.due.Before(other.due)
}

// NewQueue starts a queue that holds at most limit items. deliver is called for one item at a time.
func NewQueue[T any](limit int, deliver func(item T, due time.Time)) (*Queue[T], error) {
	a, err := newAlarm()
	if err != nil {
		return nil, err
	}
	q := &Queue[T]{limit: limit, deliver: deliver, alarm: a, done: make(chan struct{})}
	go q.run()
	return q, nil
}

// Push takes an item, or returns false when the queue is full. due must have a monotonic clock reading.
func (q *Queue[T]) Push(due time.Time, item T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.heap) >= q.limit {
		return false
	}
	q.order++
	q.heap = append(q.heap, entry[T]{due: due, order: q.order, item: item})
	q.up(len(q.heap) - 1)
	if q.heap[0].order == q.order {
		q.alarm.set(time.Until(due))
	}
	return true
}

// Close ends the queue. Items that are not due yet are dropped; none is being delivered when it returns.
func (q *Queue[T]) Close() error {
	err := q.alarm.close()
	<-q.done
	return err
}

func (q *Queue[T]) run() {
	defer close(q.done)
	for q.alarm.wait() {
		for {
			e, ok := q.pop()
			if !ok {
				break
			}
			q.deliver(e.item, e.due)
		}
	}
}

// pop returns the first item if it is due, and sets the alarm for it if not.
func (q *Queue[T]) pop() (entry[T], bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.heap) == 0 {
		return entry[T]{}, false
	}
	first := q.heap[0]
	if wait := time.Until(first.due); wait > 0 {
		q.alarm.set(wait)
		return entry[T]{}, false
	}
	last := len(q.heap) - 1
	q.heap[0] = q.heap[last]
	q.heap[last] = entry[T]{}
	q.heap = q.heap[:last]
	q.down(0)
	return first, true
}

// The heap is container/heap's, without an allocation for each item.

func (q *Queue[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !q.heap[i].before(&q.heap[parent]) {
			return
		}
		q.heap[i], q.heap[parent] = q.heap[parent], q.heap[i]
		i = parent
	}
}

func (q *Queue[T]) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(q.heap) {
			return
		}
		if right := child + 1; right < len(q.heap) && q.heap[right].before(&q.heap[child]) {
			child = right
		}
		if !q.heap[child].before(&q.heap[i]) {
			return
		}
		q.heap[i], q.heap[child] = q.heap[child], q.heap[i]
		i = child
	}
}
