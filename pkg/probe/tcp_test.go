// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newProber is NewProber, and closes at the end of the test.
func newProber(t *testing.T, protocol string, opts ProberOptions) Prober {
	t.Helper()
	p, closer, err := NewProber(protocol, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closer.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// wantRTT checks a probe that was answered.
func wantRTT(t *testing.T, before time.Time, got Result, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	since := time.Since(before)
	if got.RTT <= 0 || got.RTT > since || got.Elapsed > since || got.Waited < 0 || got.SentAt.Before(before) {
		t.Errorf("%+v of a call that took %v", got, since)
	}
}

// wantLost checks a probe that was lost.
func wantLost(t *testing.T, got Result, err error) {
	t.Helper()
	if !errors.Is(err, ErrLost) || got != (Result{}) {
		t.Errorf("%+v, %v; want a loss", got, err)
	}
}

// tcpListen listens, and gives every connection to serve, if there is one.
func tcpListen(t *testing.T, address string, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if serve != nil {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					serve(conn.(*net.TCPConn))
				}()
			}
		}()
	}
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

func TestTCP(t *testing.T) {
	for name, tc := range map[string]struct {
		listen, bind string
		serve        func(*net.TCPConn)
	}{
		"a server":                       {listen: "127.0.0.1:0", serve: func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }},
		"a server that never accepts":    {listen: "127.0.0.1:0"},
		"a server that talks nonsense":   {listen: "127.0.0.1:0", serve: func(c *net.TCPConn) { _, _ = c.Write(make([]byte, 1<<20)) }},
		"IPv6":                           {listen: "[::1]:0"},
		"from an address of one's own":   {listen: "127.0.0.1:0", bind: "127.0.0.5"},
		"an address of the whole subnet": {listen: "127.0.0.77:0"},
	} {
		t.Run(name, func(t *testing.T) {
			from := make(chan netip.Addr, 10)
			target := tcpListen(t, tc.listen, tc.serve)
			if tc.bind != "" {
				target = tcpListen(t, tc.listen, func(c *net.TCPConn) { from <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() })
			}
			opts := ProberOptions{}
			if tc.bind != "" {
				opts.Bind = netip.MustParseAddr(tc.bind)
			}
			p := newProber(t, "tcp", opts)
			for range 3 {
				before := time.Now()
				got, err := p(deadline(t, 10*time.Second), target)
				wantRTT(t, before, got, err)
				if runtime.GOOS == "linux" && (got.Waited == 0 || got.RTT+got.Waited != got.Elapsed) {
					t.Errorf("%+v: want the kernel's account of the handshake", got)
				}
				if tc.bind != "" {
					if a := <-from; a.String() != tc.bind {
						t.Errorf("came from %v", a)
					}
				}
			}
			// At a port of the prober's own.
			opts.Port = target.Port()
			before := time.Now()
			got, err := newProber(t, "tcp", opts)(deadline(t, 10*time.Second), netip.AddrPortFrom(target.Addr(), 1))
			wantRTT(t, before, got, err)
		})
	}
}

func TestTCPFailuresAreLosses(t *testing.T) {
	p := newProber(t, "tcp", ProberOptions{})
	t.Run("nobody listens", func(t *testing.T) {
		got, err := p(deadline(t, 10*time.Second), refusing(t))
		wantLost(t, got, err)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v does not say that it was refused", err)
		}
	})
	t.Run("a server that hangs up at once", func(t *testing.T) {
		// It depends on which is first: the connection's end, or that it was seen to be open.
		before := time.Now()
		if got, err := p(deadline(t, 10*time.Second), tcpListen(t, "127.0.0.1:0", reset)); err == nil {
			wantRTT(t, before, got, err)
		} else {
			wantLost(t, got, err)
		}
	})
	t.Run("a black hole", func(t *testing.T) {
		hole, _ := blackHole(t)
		got, err := p(deadline(t, 50*time.Millisecond), hole)
		wantLost(t, got, err)
	})
	t.Run("the first packet is lost", func(t *testing.T) {
		hole, open := blackHole(t)
		go func() {
			awaitSYN(t, hole)
			open() // before the kernel sends the second, a second later
		}()
		got, err := p(deadline(t, 30*time.Second), hole)
		wantLost(t, got, err)
		if !errors.Is(err, errResent) {
			t.Errorf("%v, want %v", err, errResent)
		}
	})
	t.Run("an address that is not this machine's", func(t *testing.T) {
		got, err := newProber(t, "tcp", ProberOptions{Bind: netip.MustParseAddr("192.0.2.1")})(deadline(t, 10*time.Second), refusing(t))
		wantLost(t, got, err)
	})
	t.Run("cancelled", func(t *testing.T) {
		hole, _ := blackHole(t)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			awaitSYN(t, hole)
			cancel()
		}()
		if got, err := p(ctx, hole); !errors.Is(err, context.Canceled) || errors.Is(err, ErrLost) || got != (Result{}) {
			t.Errorf("%+v, %v; want cancelled", got, err)
		}
		if _, err := p(ctx, hole); !errors.Is(err, context.Canceled) || errors.Is(err, ErrLost) {
			t.Errorf("%v; want cancelled", err)
		}
	})
}

// refusing returns an address at which nobody listens.
func refusing(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// blackHole returns an address that drops every SYN, since its listener's queue is full, until open is called.
func blackHole(t *testing.T) (addr netip.AddrPort, open func()) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	t.Cleanup(func() { file.Close() })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	local, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr = netip.AddrPortFrom(netip.AddrFrom4(local.(*syscall.SockaddrInet4).Addr), uint16(local.(*syscall.SockaddrInet4).Port))
	// Linux takes one connection more than it was told, and then drops.
	n := 0
	for ; ; n++ {
		conn, err := net.DialTimeout("tcp", addr.String(), 50*time.Millisecond)
		if err != nil {
			break
		}
		t.Cleanup(func() { conn.Close() })
	}
	return addr, func() {
		for range n {
			if conn, _, err := syscall.Accept(fd); err == nil {
				_ = syscall.Close(conn)
			}
		}
	}
}

// awaitSYN waits until a connection to addr is being opened.
func awaitSYN(t *testing.T, addr netip.AddrPort) {
	a := addr.Addr().As4()
	// As /proc/net/tcp has it: the other side's address, and state 2, SYN_SENT.
	want := fmt.Sprintf(" %02X%02X%02X%02X:%04X 02 ", a[3], a[2], a[1], a[0], addr.Port())
	for {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Error(err)
			return
		}
		if strings.Contains(string(table), want) {
			return
		}
		runtime.Gosched()
	}
}

func TestNewProber(t *testing.T) {
	for protocol, want := range map[string]string{
		"":      "must be stamp, tcp, http, https, icmp",
		"stamp": "must be stamp",
		"udp":   `protocol: "udp"`,
	} {
		if _, _, err := NewProber(protocol, ProberOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want one with %q", protocol, err, want)
		}
	}
}
