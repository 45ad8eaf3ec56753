// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tun

import (
	"encoding/binary"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
)

// TestLoad has 7 nodes of which every pair exchanges 2,000 packets/s each way, which is far more than a cluster of tests does.
// None may be lost, and none overtake another of its direction.
func TestLoad(t *testing.T) {
	const (
		nodes    = 7
		perMs    = 2
		duration = 2000 // ms
		port     = 9000
	)
	b := newBed(t, nodes)
	c := spawn(t, b)
	must(t, c.SetAll(func(_, _ string, _ Link) Link { return Link{RTT: 40 * ms} }))
	var conns []*net.UDPConn
	for _, n := range b.nodes {
		conns = append(conns, listenUDP(t, n.ns, netip.AddrPortFrom(n.IP, port)))
	}

	var received, disordered atomic.Uint64
	var receivers, senders sync.WaitGroup
	for _, conn := range conns {
		receivers.Go(func() {
			batch := make([]ipv4.Message, 64)
			for i := range batch {
				batch[i].Buffers = [][]byte{make([]byte, 128)}
			}
			var last [nodes]uint32
			for {
				n, err := ipv4.NewPacketConn(conn).ReadBatch(batch, 0)
				if err != nil {
					return // the test closes it
				}
				for _, m := range batch[:n] {
					from, number := m.Buffers[0][0], binary.BigEndian.Uint32(m.Buffers[0][1:])
					if number != last[from]+1 {
						disordered.Add(1)
					}
					last[from] = number
				}
				received.Add(uint64(n))
			}
		})
	}
	for i, conn := range conns {
		senders.Go(func() {
			var batch []ipv4.Message
			for j, n := range b.nodes {
				for range perMs {
					if i != j {
						to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.IP, port))
						batch = append(batch, ipv4.Message{Buffers: [][]byte{make([]byte, 128)}, Addr: to})
					}
				}
			}
			start := time.Now()
			tick := time.NewTicker(ms)
			defer tick.Stop()
			for round := 0; round < duration; {
				<-tick.C
				for ; round < min(int(time.Since(start)/ms), duration); round++ {
					for k := range batch {
						batch[k].Buffers[0][0] = byte(i)
						binary.BigEndian.PutUint32(batch[k].Buffers[0][1:], uint32(round*perMs+k%perMs+1))
					}
					for rest := batch; len(rest) > 0; {
						n, err := ipv4.NewPacketConn(conn).WriteBatch(rest, 0)
						if err != nil {
							t.Error(err)
							return
						}
						rest = rest[n:]
					}
				}
			}
		})
	}
	began := time.Now()
	senders.Wait()
	const sent = nodes * (nodes - 1) * perMs * duration
	t.Logf("%.0f packets/s", sent/time.Since(began).Seconds())
	eventually(t, "all packets have arrived", func() bool {
		s, err := c.Stats()
		must(t, err)
		return received.Load() == sent || s.OwnLoss() != 0
	})
	for _, conn := range conns {
		must(t, conn.Close())
	}
	receivers.Wait()
	s, err := c.Stats()
	must(t, err)
	t.Logf("%+v", s)
	if received.Load() != sent || s.OwnLoss() != 0 || disordered.Load() != 0 {
		t.Errorf("%d of %d packets arrived, %d of them not in order", received.Load(), sent, disordered.Load())
	}
}

// TestPacketsAreOnTime has a few packets a second, while all cores of the machine are busy with other things.
func TestPacketsAreOnTime(t *testing.T) {
	b := newBed(t, 2)
	var s Stats
	// A virtual machine's cores may have other things to do that no priority in here can keep off.
	for range 5 {
		c := spawn(t, b)
		must(t, c.Set("node-0", "node-1", Link{RTT: 10 * ms}))
		var stop atomic.Bool
		var busy sync.WaitGroup
		for range runtime.NumCPU() {
			busy.Go(func() {
				for !stop.Load() {
				}
			})
		}
		newClient(t, b.nodes[0].ns).trips(b.nodes[1].IP, 100)
		stop.Store(true)
		busy.Wait()
		var err error
		s, err = c.Stats()
		must(t, err)
		must(t, c.Stop())
		if s.LatenessP50 <= 300*time.Microsecond && s.LatenessP99 <= ms {
			t.Logf("%+v", s)
			return
		}
	}
	t.Errorf("%+v: packets were late, want a median of 300µs and 1ms for 99 of 100", s)
}

// spawn starts an emulator in a process of its own for all nodes.
func spawn(t *testing.T, b *bed) *Client {
	t.Helper()
	c, err := Spawn(buildWanctl(t), filepath.Join(t.TempDir(), "wan.sock"), false)
	must(t, err)
	t.Cleanup(func() { _ = c.Stop() })
	for _, n := range b.nodes {
		must(t, c.Add(n.Node))
	}
	return c
}
