// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// errResent says that the first packet of a connection was lost: the kernel sent it again, a second later.
var errResent = errors.New("the first packet had to be sent again")

// tcpProber returns a prober that opens a connection and closes it again. The RTT is that of the three-way handshake, from
// SYN to SYN-ACK, by the kernel's own account where that is known, and else as long as the call took.
//
// The kernel of the other side answers, so its processes may be as slow as they like. A port where nobody listens is a loss,
// although the refusal made a round trip: a failure is never a latency, and a prober that takes refusals would find a node
// whose service is down the nearest. So is a SYN that had to be sent again, which would look like a second of latency.
func tcpProber(opts ProberOptions) Prober {
	return func(ctx context.Context, target netip.AddrPort) (Result, error) {
		dialer := net.Dialer{KeepAlive: -1}
		if opts.Bind.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(opts.Bind, 0))
		}
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		start := time.Now()
		conn, err := dialer.DialContext(ctx, "tcp", target.String())
		elapsed := time.Since(start)
		if err != nil {
			return Result{}, lost(ctx, err)
		}
		defer conn.Close()
		r := Result{RTT: elapsed, SentAt: start, Elapsed: elapsed, TTL: unknownTTL}
		if rtt, resent, ok := handshake(conn.(*net.TCPConn)); ok {
			if resent {
				return Result{}, lost(ctx, errResent)
			}
			if rtt > 0 && rtt < elapsed {
				r.RTT, r.Waited = rtt, elapsed-rtt
			}
		} else if elapsed >= synTimeout {
			return Result{}, lost(ctx, errResent)
		}
		if err := checkRTT(r.RTT); err != nil {
			return Result{}, err
		}
		return r, nil
	}
}

// synTimeout is when a SYN is sent again: RFC 6298, section 2.1.
const synTimeout = time.Second
