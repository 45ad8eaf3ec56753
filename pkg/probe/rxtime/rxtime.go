// SPDX-License-Identifier: Apache-2.0

// Package rxtime finds out when a datagram reached the machine, where the kernel tells: that is earlier than the moment at
// which a busy process gets round to reading it, and the difference is not distance.
package rxtime

import "time"

// ControlLen is the room that the kernel's time takes among a datagram's control messages, in octets.
const ControlLen = 64

// maxWait bounds how long a datagram is believed to have waited in the socket. What is longer comes from a clock that was
// set meanwhile. It is as long as any probe may take: a process that was stopped must not turn its stop into distance.
const maxWait = time.Minute

// At returns when a datagram arrived: readAt, which time.Now returned right after the read, less the time that it Waited.
// The result has a monotonic clock reading.
func At(control []byte, readAt time.Time) time.Time { return readAt.Add(-Waited(control, readAt)) }

// Waited returns how long a datagram lay in the socket until readAt, which time.Now returned right after the read,
// according to control, its control messages: from 0, which it also is where there is no time in there, to a minute.
func Waited(control []byte, readAt time.Time) time.Duration {
	stamp, ok := kernelTime(control)
	if !ok {
		return 0
	}
	// Both are of the wall clock, some microseconds apart.
	waited := readAt.Round(0).Sub(stamp)
	if waited <= 0 || waited > maxWait {
		return 0
	}
	return waited
}
