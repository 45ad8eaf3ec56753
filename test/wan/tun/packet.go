// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tun

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"time"
)

const (
	// maxPacket is the largest IPv4 packet.
	maxPacket = 65535
	// maxQueued bounds the packets in flight to one node: what comes on top is dropped, as in a full router.
	maxQueued = 1 << 16
)

// buffers are for packets on their way. An Ethernet's packet fits; a larger one makes its buffer grow.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, 2048)
	return &b
}}

// read takes the packets that a node sends to others, until its device is closed.
func (e *Emulator) read(from *node) {
	in := make([]byte, maxPacket)
	for {
		n, err := from.device.Read(in)
		now := time.Now()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			e.counter.failed.Add(1)
			continue
		}
		e.travel(from, in[:n], now)
	}
}

// travel sends a packet on its way that a node sent at a given time.
func (e *Emulator) travel(from *node, p []byte, sent time.Time) {
	h := from.route(p)
	if h == nil {
		e.counter.unroutable.Add(1)
		return
	}
	// Both dice are thrown for every packet, so that a change of the loss does not change the jitter.
	const unit = 1.0 / (1 << 53)
	drop, shift := float64(from.dice.Uint64()>>11)*unit, float64(from.dice.Uint64()>>11)*unit
	if h.down {
		e.counter.down.Add(1)
		return
	}
	if drop < h.loss {
		e.counter.lost.Add(1)
		return
	}
	delay := h.delay + time.Duration((2*shift-1)*float64(h.jitter))
	b := buffers.Get().(*[]byte)
	*b = append((*b)[:0], p...)
	if !h.to.queue.Push(sent.Add(max(delay, 0)), b) {
		e.counter.overflow.Add(1)
		buffers.Put(b)
	}
}

// route returns where a packet goes, or nil.
func (n *node) route(p []byte) *hop {
	const headerLen, version, destination = 20, 4, 16
	if len(p) < headerLen || p[0]>>4 != version {
		return nil
	}
	to := address4(p[destination:])
	hops := *n.hops.Load()
	for i := range hops {
		if to&hops[i].mask == hops[i].network {
			return &hops[i]
		}
	}
	return nil
}

// deliver hands a packet to the node to which it goes.
func (e *Emulator) deliver(to *node, b *[]byte, due time.Time) {
	late := time.Since(due)
	_, err := to.device.Write(*b)
	buffers.Put(b)
	switch {
	case err == nil:
		e.counter.forwarded.Add(1)
		e.counter.lateness.observe(late)
	case !errors.Is(err, os.ErrClosed): // else the node goes, and its packets with it
		e.counter.failed.Add(1)
	}
}

func address4(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
