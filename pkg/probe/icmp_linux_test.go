// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// inNamespace says that this process is the one that TestICMP started.
	inNamespace = "FOGSCHED_TEST_IN_NAMESPACE"
	// requireNamespaces is the environment variable with which a run fails where it could not test ICMP.
	requireNamespaces = "FOGSCHED_REQUIRE_NAMESPACES"
)

// TestICMP runs itself once more in a network namespace of its own, where it may set who may ping, and answer for the kernel.
func TestICMP(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		testICMP(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestICMP$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exited := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exited) && os.Getenv(requireNamespaces) == "" {
		t.Skipf("no network namespace can be had here: %v; set %s=1 to fail here", err, requireNamespaces)
	}
	if err != nil || !strings.Contains(out.String(), "--- PASS: TestICMP ") {
		t.Fatalf("%v\n%s", err, &out)
	}
	t.Logf("in a network namespace:\n%s", &out)
}

func testICMP(t *testing.T) {
	loopbackUp(t)
	const mayPing = "/proc/sys/net/ipv4/ping_group_range"
	setting := func(file, value string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}

	// In a new namespace nobody may ping.
	_, _, err := NewProber("icmp", ProberOptions{})
	if err == nil || !strings.Contains(err.Error(), "net.ipv4.ping_group_range") || !errors.Is(err, os.ErrPermission) {
		t.Fatalf("%v does not say which sysctl", err)
	}
	got, err := (&icmpProber{}).probe(deadline(t, 10*time.Second), netip.MustParseAddrPort("127.0.0.1:0"))
	wantLost(t, got, err)
	if !strings.Contains(err.Error(), "net.ipv4.ping_group_range") {
		t.Errorf("%v does not say which sysctl", err)
	}
	// Group 0, which this process has.
	setting(mayPing, "0 0")
	p := newProber(t, "icmp", ProberOptions{})

	for name, target := range map[string]string{
		"the kernel": "127.0.0.1", "another address of it": "127.0.0.77", "IPv6": "::1", "IPv4 in IPv6's notation": "::ffff:127.0.0.1",
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				before := time.Now()
				got, err := p(deadline(t, 10*time.Second), netip.AddrPortFrom(netip.MustParseAddr(target), 0))
				wantRTT(t, before, got, err)
			}
		})
	}

	prohibit(t, netip.MustParseAddr("198.51.100.1"))
	for name, target := range map[string]string{
		"no route": "192.0.2.1", "no route for IPv6": "2001:db8::1", "a prohibited one": "198.51.100.1",
	} {
		t.Run(name, func(t *testing.T) {
			before := time.Now()
			got, err := p(deadline(t, 10*time.Second), netip.AddrPortFrom(netip.MustParseAddr(target), 0))
			wantLost(t, got, err)
			if time.Since(before) > 5*time.Second {
				t.Errorf("%v, want it at once", err)
			}
		})
	}

	// From here on the kernel leaves it to the test to answer.
	setting("/proc/sys/net/ipv4/icmp_echo_ignore_all", "1")
	target := netip.MustParseAddrPort("127.0.0.9:0")
	t.Run("a black hole", func(t *testing.T) {
		got, err := p(deadline(t, 50*time.Millisecond), target)
		wantLost(t, got, err)
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		answers := answerPings(t, func([]byte) []byte { cancel(); return nil })
		if got, err := p(ctx, target); !errors.Is(err, context.Canceled) || errors.Is(err, ErrLost) || got != (Result{}) {
			t.Errorf("%+v, %v; want cancelled", got, err)
		}
		answers()
	})

	const slow = 20 * time.Millisecond
	rejected := func(reason Reason) func(*testing.T, Result, error) {
		return func(t *testing.T, got Result, err error) {
			if r := (*RejectedError)(nil); !errors.As(err, &r) || r.Reason != reason || got != (Result{}) {
				t.Errorf("%+v, %v; want the reason %s", got, err, reason)
			}
		}
	}
	shift := func(d time.Duration) func([]byte) []byte {
		return func(b []byte) []byte {
			time.Sleep(slow)
			binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+uint64(d))
			return b
		}
	}
	for name, tc := range map[string]struct {
		answer func(echo []byte) []byte
		check  func(*testing.T, Result, error)
	}{
		"a slow one": {
			func(b []byte) []byte { time.Sleep(slow); return b },
			func(t *testing.T, got Result, err error) {
				if err != nil || got.RTT < slow || got.Elapsed < slow {
					t.Errorf("%+v, %v; want at least %v", got, err, slow)
				}
			},
		},
		"one that would like to look near": {shift(slow - time.Millisecond), rejected(ReasonCorrupt)},
		"one that would like to look far":  {shift(-time.Hour), rejected(ReasonCorrupt)},
		"one that answers before it was asked": {
			shift(time.Hour), rejected(ReasonCorrupt),
		},
		"another's answer":       {func(b []byte) []byte { b[16] ^= 1; return b }, wantLost},
		"less than the echo":     {func(b []byte) []byte { return b[:20] }, wantLost},
		"nothing but the header": {func(b []byte) []byte { return b[:8] }, wantLost},
		"more than the echo":     {func(b []byte) []byte { return append(b, make([]byte, 1000)...) }, func(*testing.T, Result, error) {}},
		"no answer":              {func(b []byte) []byte { b[0] = 3; return b }, wantLost},
	} {
		t.Run(name, func(t *testing.T) {
			done := answerPings(t, tc.answer)
			got, err := p(deadline(t, 300*time.Millisecond), target)
			tc.check(t, got, err)
			done()
		})
	}
}

// answerPings has answer make the answers to echo requests, from a raw socket, until it returns.
func answerPings(t *testing.T, answer func(echo []byte) []byte) (done func()) {
	t.Helper()
	conn, err := net.ListenIP("ip4:icmp", &net.IPAddr{IP: net.IPv4(127, 0, 0, 9)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFromIP(buf)
			if err != nil {
				return
			}
			if n < 8 || buf[0] != 8 {
				continue // not an echo request
			}
			echo := append([]byte{}, buf[:n]...)
			echo[0] = 0 // an echo reply
			if echo = answer(echo); echo == nil {
				continue
			}
			binary.BigEndian.PutUint16(echo[2:], 0)
			binary.BigEndian.PutUint16(echo[2:], internetChecksum(echo))
			_, _ = conn.WriteToIP(echo, from)
		}
	}()
	return func() {
		conn.Close()
		<-ended
	}
}

// loopbackUp starts the loopback interface of a new network namespace.
func loopbackUp(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}

// prohibit adds a route by which the kernel refuses to send to an address with "permission denied".
func prohibit(t *testing.T, to netip.Addr) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var b []byte
	u16 := func(v uint16) { b = binary.NativeEndian.AppendUint16(b, v) }
	u32 := func(v uint32) { b = binary.NativeEndian.AppendUint32(b, v) }
	// A header: length, type, flags, number, sender.
	u32(unix.SizeofNlMsghdr + unix.SizeofRtMsg + 8)
	u16(unix.RTM_NEWROUTE)
	u16(unix.NLM_F_REQUEST | unix.NLM_F_CREATE | unix.NLM_F_ACK)
	u32(1)
	u32(0)
	// A route: family, length of the destination, of the source, TOS, table, who made it, scope, kind, flags.
	b = append(b, unix.AF_INET, 32, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_PROHIBIT)
	u32(0)
	// Its destination.
	u16(8)
	u16(unix.RTA_DST)
	b = append(b, to.AsSlice()...)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		t.Fatalf("%d octets, %v", n, err)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		t.Fatalf("adding a route: %v", syscall.Errno(-code))
	}
}
