// SPDX-License-Identifier: Apache-2.0

package program

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Port is a TCP port on 127.0.0.1 that is ours until it is released. A socket that is bound but does not listen holds it: the kernel
// then gives the number to nobody who asks for any free port, while a child may listen on it by name, again and again. The child
// must set SO_REUSEADDR, as every Go program does, or SO_REUSEPORT. While no child listens, a connection is refused.
//
// Asking for a free port and closing it again would leave a gap in which another test could be given the same one.
type Port struct {
	number int
	once   sync.Once
	fd     int
}

// ReservePort reserves a free port.
func ReservePort() (*Port, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	unix.CloseOnExec(fd)
	fail := func(err error) (*Port, error) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return fail(err)
		}
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
	return &Port{number: inet.Port, fd: fd}, nil
}

// Number returns the number of the port.
func (p *Port) Number() int { return p.number }

// Address returns the address of the port, 127.0.0.1:number.
func (p *Port) Address() string { return fmt.Sprintf("127.0.0.1:%d", p.number) }

// Release gives the port back. It may be called more than once.
func (p *Port) Release() { p.once.Do(func() { _ = unix.Close(p.fd) }) }
