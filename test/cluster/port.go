// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// port is a TCP port on 127.0.0.1 that is ours until it is released. A socket that is bound but does not listen holds it:
// the kernel then gives the number to nobody else, while our child, which is told to share the port, may listen on it.
// Asking for a free port and closing it again would leave a gap in which a second cluster could be given the same one.
type port struct {
	number int
	fd     int
}

func (c *Cluster) reservePort() (*port, error) {
	p, err := reservePort()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ports = append(c.ports, p)
	return p, nil
}

func reservePort() (*port, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	unix.CloseOnExec(fd)
	fail := func(err error) (*port, error) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return fail(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fail(err)
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return fail(err)
	}
	inet, ok := addr.(*unix.SockaddrInet4)
	if !ok {
		return fail(fmt.Errorf("unexpected address %T", addr))
	}
	return &port{number: inet.Port, fd: fd}, nil
}

func (p *port) address() string { return fmt.Sprintf("127.0.0.1:%d", p.number) }

func (p *port) release() { _ = unix.Close(p.fd) }
