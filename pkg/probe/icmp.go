// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	probing "github.com/prometheus-community/pro-bing"
	"golang.org/x/net/icmp"
)

// errNoPing says what to do when the kernel refuses a ping socket.
var errNoPing = errors.New("this process may not open ping sockets: the sysctl net.ipv4.ping_group_range must include its group " +
	`(in a pod: securityContext.sysctls, name net.ipv4.ping_group_range, value "0 2147483647")`)

// newICMPProber returns a prober that sends an echo request from an unprivileged ping socket, which needs no capability: on
// Linux the sysctl net.ipv4.ping_group_range says who may open one. The kernel of the target answers.
func newICMPProber(opts ProberOptions) (Prober, error) {
	// One of the two protocols is enough: the machine may have no other.
	refused := canPing("udp4", "0.0.0.0")
	if refused != nil && canPing("udp6", "::") != nil {
		return nil, fmt.Errorf("icmp: %w", refused)
	}
	p := &icmpProber{}
	if opts.Bind.IsValid() {
		p.source = opts.Bind.String()
	}
	return p.probe, nil
}

func canPing(network, address string) error {
	conn, err := icmp.ListenPacket(network, address)
	if err != nil {
		return pingError(err)
	}
	return conn.Close()
}

// pingError adds to an error of opening a ping socket what to do about it.
func pingError(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: %w", errNoPing, err)
	}
	return err
}

type icmpProber struct{ source string }

// clockSlack is how far the times that go into the check of an answer may be apart, since they are not taken together.
const clockSlack = time.Millisecond

func (p *icmpProber) probe(ctx context.Context, target netip.AddrPort) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	addr := target.Addr().Unmap()
	if err := reachable(addr); err != nil {
		return Result{}, lost(ctx, err)
	}
	pinger := probing.New(addr.String())
	pinger.SetPrivileged(false)
	pinger.SetLogger(probing.NoopLogger{})
	pinger.Count = 1
	pinger.Source = p.source
	pinger.RecordRtts, pinger.RecordTTLs = false, false
	if deadline, ok := ctx.Deadline(); ok {
		pinger.Timeout = max(time.Until(deadline), 1)
	}
	var ready, sent, received time.Time
	var answer *probing.Packet
	// All of them come from one goroutine, which has ended when Run returns.
	pinger.OnSetup = func() { ready = time.Now() }
	pinger.OnSend = func(*probing.Packet) { sent = time.Now() }
	pinger.OnRecv = func(a *probing.Packet) { answer, received = a, time.Now() }
	err := pinger.RunWithContext(ctx)
	if answer == nil {
		if err == nil || ctx.Err() != nil {
			err = fmt.Errorf("no answer from %s", addr)
		}
		return Result{}, lost(ctx, pingError(err))
	}
	if from, ok := netip.AddrFromSlice(answer.IPAddr.IP); !ok || from.Unmap() != addr.WithZone("") {
		return Result{}, &RejectedError{ReasonSource}
	}
	r := Result{RTT: answer.Rtt, SentAt: ready, Elapsed: received.Sub(ready), TTL: unknownTTL}
	// The library subtracts a time that it put into the request and that came back in the answer: by the wall clock, and
	// by the word of whoever answers. It must fit between two differences of this machine's monotonic clock.
	if r.RTT < received.Sub(sent)-clockSlack || r.RTT > r.Elapsed+clockSlack {
		return Result{}, &RejectedError{ReasonCorrupt}
	}
	if err := checkRTT(r.RTT); err != nil {
		return Result{}, err
	}
	return r, nil
}

// reachable returns why the kernel would not send to an address. Where it says "permission denied", of a route that
// prohibits, the library would try again without end.
func reachable(addr netip.Addr) error {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9)))
	if err != nil {
		return err
	}
	return conn.Close()
}
