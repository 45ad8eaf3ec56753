// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// requireTshark is the environment variable with which a run without tshark fails instead of skipping.
const requireTshark = "FOGSCHED_REQUIRE_TSHARK"

// stampPort is the port that IANA assigned to STAMP.
const stampPort = 862

// TestTsharkDecodesThePackets has an implementation that others wrote read what we send. tshark knows STAMP's packets as
// those of TWAMP-Test, from which STAMP took them: unauthenticated ones. TLVs it calls padding, and packets of authenticated mode it
// does not know (up to 4.0 at least).
func TestTsharkDecodesThePackets(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv(requireTshark) != "" {
			t.Fatalf("%s is set, and there is no tshark: install Debian's package tshark", requireTshark)
		}
		t.Skipf("there is no tshark (Debian's package tshark); set %s=1 to fail here", requireTshark)
	}
	sender, reflector := netip.MustParseAddrPort("10.0.0.7:49152"), netip.MustParseAddrPort("10.0.0.9:862")
	exchanged, asked := realExchange(t, false), realExchange(t, true)
	var capture pcapFile
	capture.add(sender, reflector, senderPacket.AppendTo(nil))
	capture.add(reflector, sender, reflectorPacket.AppendTo(nil))
	capture.add(sender, reflector, exchanged[0])
	capture.add(reflector, sender, exchanged[1])
	// With an Extra Padding TLV of RFC 8972 behind the base packet.
	padding := octets(t, "80 01 00 04 00 00 00 00")
	capture.add(sender, reflector, append(senderPacket.AppendTo(nil), padding...))
	capture.add(reflector, sender, append(reflectorPacket.AppendTo(nil), padding...))
	// With what a reflector says of itself.
	capture.add(sender, reflector, asked[0])
	capture.add(reflector, sender, asked[1])
	file := filepath.Join(t.TempDir(), "stamp.pcap")
	if err := os.WriteFile(file, capture.bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) []string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		args = append([]string{
			"-n", "-r", file, "-d", fmt.Sprintf("udp.port==%d,twamp.test", stampPort),
			"-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
		}, args...)
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, tshark, args...)
		cmd.Env = append(os.Environ(), "TZ=UTC", "HOME="+t.TempDir())
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
		}
		text := strings.TrimRight(stdout.String(), "\n")
		if text == "" {
			return nil
		}
		return strings.Split(text, "\n")
	}

	if bad := run("-Y", "_ws.malformed || _ws.expert"); bad != nil {
		t.Errorf("tshark complains of these packets:\n%s", strings.Join(bad, "\n"))
	}
	if got := run("-Y", "twamp.test"); len(got) != 8 {
		t.Errorf("tshark sees TWAMP-Test in %d of 8 packets:\n%s", len(got), strings.Join(got, "\n"))
	}

	fields := []string{
		"seq_number", "timestamp", "error_estimate.s", "error_estimate.z", "error_estimate.scale",
		"error_estimate.multiplier", "mbz1", "receive_timestamp", "sender_seq_number", "sender_timestamp",
		"sender_error_estimate", "mbz2", "sender_ttl",
		"padding",
	}
	show := []string{"-T", "fields", "-E", "separator=|"}
	for _, f := range fields {
		show = append(show, "-e", "twamp.test."+f)
	}
	const (
		// 0xe93c4d2f − 2,208,988,800 s = 1,704,054,447 s after 1970.
		t1 = "2023-12-31T20:27:27.5Z"
		t2 = "2023-12-31T20:27:28Z"
		t3 = "2023-12-31T20:27:28.25Z"
		t0 = "1970-01-01T00:00:00Z" // what tshark calls a timestamp of 0
	)
	// Without the TCP connection of TWAMP-Control tshark reads every packet by the figure of the answer, and so shows that
	// what must be zero in a probe is zero.
	wantProbe := []string{"16909060", t1, "1,0", "0,0", "34,0", "7,0", "0", t0, "0", t0, "0", "0", "0"}
	wantAnswer := []string{"286397204", t3, "0,1", "0,0", "63,34", "9,7", "0", t2, "16909060", t1, "41479", "0", "61"}
	wantAsked := "80fc0050" + strings.Repeat("00", infoLen)
	wantSaid := "00fc0050" + hex.EncodeToString(octets(t, infoOctets))
	padded := hex.EncodeToString(padding)
	rows := run(show...)
	if len(rows) != 8 {
		t.Fatalf("%d rows:\n%s", len(rows), strings.Join(rows, "\n"))
	}
	for i, want := range [][]string{wantProbe, wantAnswer, nil, nil, wantProbe, wantAnswer, nil, nil} {
		got := strings.Split(rows[i], "|")
		last := len(got) - 1
		// TWAMP's answer ends with the TTL; what STAMP has behind it is padding to tshark, three octets of zero.
		if diff := cmp.Diff("000000"+[]string{"", "", "", "", padded, padded, wantAsked, wantSaid}[i], got[last]); diff != "" {
			t.Errorf("packet %d, what follows the base packet (-want +got):\n%s", i+1, diff)
		}
		got = got[:last]
		for k := range got {
			got[k] = isoTime(got[k])
		}
		if want != nil {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("packet %d, fields %v (-want +got):\n%s", i+1, fields, diff)
			}
			continue
		}
		sentAt, err := time.Parse(time.RFC3339, got[1])
		if since := time.Since(sentAt); err != nil || since < 0 || since > time.Minute {
			t.Errorf("packet %d of just now has the time %s", i+1, got[1])
		}
	}
}

// isoTime makes the same text of a time however this version of tshark writes it; what is no time stays as it is.
func isoTime(s string) string {
	for _, layout := range []string{"Jan _2, 2006 15:04:05.000000000 MST", "2006-01-02T15:04:05.000000000Z0700", "2006-01-02 15:04:05.000000000Z0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Format(time.RFC3339Nano)
		}
	}
	return s
}

// realExchange returns a probe and its answer as they were on the wire.
func realExchange(t *testing.T, ask bool) [2][]byte {
	t.Helper()
	r, _ := startReflector(t, "127.0.0.1:0", ReflectorConfig{Info: somewhere})
	s, _ := startSenderWith(t, SenderConfig{AskInfo: ask})
	relay, addr := listen(t, "127.0.0.1:0")
	var packets [2][]byte
	done := make(chan error, 1)
	go func() {
		_, err := s.Probe(deadline(t, 10*time.Second), addr)
		done <- err
	}()
	_ = relay.SetReadDeadline(time.Now().Add(10 * time.Second))
	var probing netip.AddrPort
	for i := range packets {
		buf := make([]byte, 1000)
		n, from, err := relay.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		packets[i] = buf[:n]
		to := probing
		if i == 0 {
			probing, to = from, r.Addr()
		}
		if _, err := relay.WriteToUDPAddrPort(buf[:n], to); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil && !errors.As(err, new(*RejectedError)) { // a busy machine
		t.Fatal(err)
	}
	return packets
}

// pcapFile makes a capture in the classic format of libpcap, of IPv4 packets without a link layer.
type pcapFile struct{ packets [][]byte }

func (f *pcapFile) add(from, to netip.AddrPort, payload []byte) {
	udp := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(udp[0:], from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	udp = append(udp, payload...)

	source, destination := from.Addr().As4(), to.Addr().As4()
	pseudo := append(append(append([]byte{}, source[:]...), destination[:]...), 0, 17)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], internetChecksum(append(pseudo, udp...)))

	ip := make([]byte, 20)
	ip[0] = 4<<4 | 5 // version, header length in words
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(udp)))
	binary.BigEndian.PutUint16(ip[4:], uint16(len(f.packets)+1))
	ip[8] = 64 // TTL
	ip[9] = 17 // UDP
	copy(ip[12:], source[:])
	copy(ip[16:], destination[:])
	binary.BigEndian.PutUint16(ip[10:], internetChecksum(ip))
	f.packets = append(f.packets, append(ip, udp...))
}

func (f *pcapFile) bytes() []byte {
	const linkTypeIPv4 = 228
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4) // times in microseconds
	b = binary.LittleEndian.AppendUint16(b, 2)             // version 2.4
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = binary.LittleEndian.AppendUint32(b, 0) // offset from UTC
	b = binary.LittleEndian.AppendUint32(b, 0) // precision
	b = binary.LittleEndian.AppendUint32(b, 1<<16)
	b = binary.LittleEndian.AppendUint32(b, linkTypeIPv4)
	for i, p := range f.packets {
		b = binary.LittleEndian.AppendUint32(b, 1_700_000_000)
		b = binary.LittleEndian.AppendUint32(b, uint32(1000*i))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// internetChecksum is that of RFC 1071.
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
