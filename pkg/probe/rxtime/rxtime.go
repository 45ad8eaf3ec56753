// SPDX-License-Identifier: Apache-2.0

// Package rxtime finds out when a datagram reached the machine, where the kernel tells: that is earlier than the moment at
// which a busy process gets round to reading it, and the difference is not distance.
package rxtime

import "time"

// ControlLen is the room that the kernel's time takes among a datagram's control messages, in octets.
const ControlLen = 64

// maxWait bounds how long a datagram is believed to have waited in the socket. What is longer comes from a clock that was
// set meanwhile.
const maxWait = time.Second

// At returns when a datagram arrived: readAt, which time.Now returned right after the read, less the time that the
// datagram waited in the socket according to control, its control messages. Without a time in there it returns readAt. The
// result has a monotonic clock reading.
func At(control []byte, readAt time.Time) time.Time {
	stamp, ok := kernelTime(control)
	if !ok {
		return readAt
	}
	// Both are of the wall clock, some microseconds apart.
	waited := readAt.Round(0).Sub(stamp)
	if waited <= 0 || waited > maxWait {
		return readAt
	}
	return readAt.Add(-waited)
}
