// SPDX-License-Identifier: Apache-2.0

package wan

import (
	"container/heap"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// datagram is one that is on its way.
type datagram struct {
	due     time.Time
	order   uint64 // keeps those that are due together in the order in which they came
	conn    *net.UDPConn
	to      netip.AddrPort
	payload []byte
	sent    *atomic.Uint64
}

// alarm wakes one goroutine at a time that others set.
type alarm interface {
	// set makes wait return after d; it replaces what was set before. d ≤ 0 means at once.
	set(d time.Duration)
	// wait blocks until the time that was set. It returns false once the alarm is closed.
	wait() bool
	close() error
}

// delayQueue sends every datagram when it is due. One goroutine does so, whatever the number of datagrams.
type delayQueue struct {
	epoch time.Time
	limit int
	alarm alarm
	done  chan struct{}

	mu    sync.Mutex
	heap  datagramHeap
	order uint64
}

func newDelayQueue(limit int) (*delayQueue, error) {
	a, err := newAlarm()
	if err != nil {
		return nil, err
	}
	q := &delayQueue{epoch: time.Now(), limit: limit, alarm: a, done: make(chan struct{})}
	go q.run()
	return q, nil
}

// push takes a datagram, or returns false when the queue is full.
func (q *delayQueue) push(d datagram) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.heap) >= q.limit {
		return false
	}
	q.order++
	d.order = q.order
	heap.Push(&q.heap, d)
	if q.heap[0].order == d.order {
		q.alarm.set(time.Until(d.due))
	}
	return true
}

func (q *delayQueue) run() {
	defer close(q.done)
	for q.alarm.wait() {
		for {
			d, ok := q.pop()
			if !ok {
				break
			}
			// A datagram that cannot be sent is a lost one.
			if _, err := d.conn.WriteToUDPAddrPort(d.payload, d.to); err == nil {
				d.sent.Add(1)
			}
		}
	}
}

// pop returns the first datagram if it is due, and sets the alarm for it if not.
func (q *delayQueue) pop() (datagram, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.heap) == 0 {
		return datagram{}, false
	}
	if wait := time.Until(q.heap[0].due); wait > 0 {
		q.alarm.set(wait)
		return datagram{}, false
	}
	return heap.Pop(&q.heap).(datagram), true
}

func (q *delayQueue) close() error {
	err := q.alarm.close()
	<-q.done
	return err
}

type datagramHeap []datagram

func (h datagramHeap) Len() int { return len(h) }

func (h datagramHeap) Less(i, j int) bool {
	if h[i].due.Equal(h[j].due) {
		return h[i].order < h[j].order
	}
	return h[i].due.Before(h[j].due)
}

func (h datagramHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

func (h *datagramHeap) Push(x any) { *h = append(*h, x.(datagram)) }

func (h *datagramHeap) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = datagram{}
	*h = (*h)[:last]
	return d
}
