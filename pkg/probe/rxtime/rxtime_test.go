// SPDX-License-Identifier: Apache-2.0

package rxtime

import (
	"net"
	"runtime"
	"testing"
	"time"
)

func TestTheTimeInTheSocketDoesNotCount(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux is asked for its time")
	}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := Enable(conn); err != nil {
		t.Fatal(err)
	}
	const waits = 50 * time.Millisecond
	control := make([]byte, ControlLen)
	// The kernel starts to take times a moment after it is first asked to.
	deadline := time.Now().Add(30 * time.Second)
	for {
		sentAt := time.Now()
		if _, err := conn.WriteTo([]byte("x"), conn.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		sent := time.Now()
		time.Sleep(waits) // a busy process
		_, n, _, _, err := conn.ReadMsgUDPAddrPort(make([]byte, 10), control)
		readAt := time.Now()
		if err != nil {
			t.Fatal(err)
		}
		at := At(control[:n], readAt)
		// A microsecond, since the wall clock and the monotonic one are not read together.
		if at.Before(sentAt.Add(-time.Microsecond)) {
			t.Fatalf("arrived %v before it was sent", sentAt.Sub(at))
		}
		if !at.After(sent.Add(time.Microsecond)) {
			return // loopback delivers before the call returns
		}
		if time.Now().After(deadline) {
			t.Fatalf("arrived %v after it was sent, and read after %v", at.Sub(sent), readAt.Sub(sent))
		}
	}
}

func TestWithoutATime(t *testing.T) {
	now := time.Now()
	for _, control := range [][]byte{nil, {}, {1, 2, 3}, make([]byte, 16), make([]byte, ControlLen)} {
		if got := At(control, now); got != now {
			t.Errorf("%x: %v, want %v", control, got, now)
		}
		if got := Waited(control, now); got != 0 {
			t.Errorf("%x: waited %v", control, got)
		}
	}
}
