// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

func TestAReservedPortIsListenedOnAgainAndAgainAndRefusesInBetween(t *testing.T) {
	p, err := ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	for range 3 {
		if conn, err := net.Dial("tcp", p.Address()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("a connection while nobody listens: %v, %v, want it refused", conn, err)
		}
		l, err := net.Listen("tcp", p.Address()) // as any Go program does
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", p.Address())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		l.Close()
	}
}

// The kernel chooses among some 28,000 ports, so ten thousand questions would meet one of 500 that it might give away.
func TestAReservedPortIsGivenToNobodyElse(t *testing.T) {
	reserved := map[int]bool{}
	for range 500 {
		p, err := ReservePort()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Release()
		if reserved[p.Number()] {
			t.Fatalf("port %d was reserved twice", p.Number())
		}
		reserved[p.Number()] = true
	}
	for range 10000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if reserved[port] {
			t.Fatalf("port %d, which is reserved, was given to another listener", port)
		}
	}
}
