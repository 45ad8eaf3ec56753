// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// handshake returns what the kernel knows of a connection that is new: how long its handshake took, and whether a packet
// had to be sent again.
func handshake(conn *net.TCPConn) (rtt time.Duration, resent, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false, false
	}
	var info *unix.TCPInfo
	if controlErr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); controlErr != nil || err != nil {
		return 0, false, false
	}
	return time.Duration(info.Rtt) * time.Microsecond, info.Total_retrans > 0, true
}
