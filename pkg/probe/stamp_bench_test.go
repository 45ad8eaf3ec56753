// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"maps"
	"net"
	"slices"
	"testing"
	"time"
)

// BenchmarkReflector answers probes, without the socket, but with the control messages of a real one.
func BenchmarkReflector(b *testing.B) {
	control := realControl(b)
	for _, kind := range slices.Sorted(maps.Keys(variants)) {
		v := variants[kind]
		b.Run(kind, func(b *testing.B) {
			p := newPair(b, v, variant{key: v.key, ask: true})
			said := somewhere()
			p.reflector.cfg.Info = func() Info { return said }
			packets := make([][]byte, 1024) // far more than the reflector remembers
			for i := range packets {
				_, packets[i] = p.probe()
			}
			out := make([]byte, 0, maxSTAMPPacket)
			now := time.Now()
			b.ReportAllocs()
			b.SetBytes(int64(len(packets[0])))
			for i := 0; b.Loop(); i++ {
				if _, result := p.reflector.answer(out, packets[i%len(packets)], control, senderAddr, now); result != ReflectedAnswered {
					b.Fatal(result)
				}
			}
		})
	}
}

// BenchmarkSender makes probes and takes their answers, without the socket.
func BenchmarkSender(b *testing.B) {
	for _, kind := range slices.Sorted(maps.Keys(variants)) {
		v := variants[kind]
		b.Run(kind, func(b *testing.B) {
			p := newPair(b, v, variant{key: v.key, ask: true})
			out := make([]byte, 0, maxSTAMPPacket)
			buf := make([]byte, 0, maxProbe)
			b.ReportAllocs()
			for b.Loop() {
				probe := p.sender.begin(reflectorAddr)
				now := time.Now()
				answer, result := p.reflector.answer(out, p.sender.packet(buf, probe), nil, senderAddr, now)
				if result != ReflectedAnswered {
					b.Fatal(result)
				}
				if dropped := p.sender.receive(answer.octets, reflectorAddr, now.Add(time.Millisecond), 0); dropped != "" {
					b.Fatal(dropped)
				}
				<-probe.done
			}
		})
	}
}

// BenchmarkForgery drops packets that were made without the key: what an attack costs.
func BenchmarkForgery(b *testing.B) {
	p := newPair(b, variant{key: key2, ask: true}, variant{key: key1, ask: true})
	_, packet := p.probe()
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if _, result := p.reflector.answer(nil, packet, nil, senderAddr, now); result != ReflectedForged {
			b.Fatal(result)
		}
	}
}

// realControl returns the control messages of a packet that a reflector's socket received.
func realControl(b *testing.B) []byte {
	b.Helper()
	r, err := ListenSTAMP("127.0.0.1:0", ReflectorConfig{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.Addr()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(senderPacket.AppendTo(nil)); err != nil {
		b.Fatal(err)
	}
	control := make([]byte, 500)
	_, n, _, _, err := r.conn.ReadMsgUDPAddrPort(make([]byte, 100), control)
	if err != nil {
		b.Fatal(err)
	}
	return control[:n]
}
