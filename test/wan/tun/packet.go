// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tun

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	// maxPacket is the largest packet.
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
	to := destination(p)
	if to.IsMulticast() || to.IsLinkLocalUnicast() {
		return // an IPv6 device's talk with its neighbours, which it has none of
	}
	h := from.route(to)
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

// destination returns the address to which a packet goes, or an invalid one.
func destination(p []byte) netip.Addr {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[16:20]))
	case len(p) >= 40 && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[24:40]))
	}
	return netip.Addr{}
}

// route returns how packets go to an address, or nil. The addresses of two nodes do not overlap.
func (n *node) route(to netip.Addr) *hop {
	hops := *n.hops.Load()
	for i := range hops {
		if hops[i].network.Contains(to) {
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
