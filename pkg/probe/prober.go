// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// ProberOptions configure the probers that NewProber makes. What a protocol does not have is ignored.
type ProberOptions struct {
	// Bind is the address of this machine from which the probes leave; the zero Addr leaves the choice to the routing table.
	Bind netip.Addr
	// Port is probed in place of the target's port; 0 means the target's. ICMP has none.
	Port uint16
	// Path is what is asked for over HTTP, "/healthz" for example; by default "/".
	Path string
	// ServerName is the name that the certificate must have, and the Host that is asked for; by default the target's
	// address.
	ServerName string
	// CAFile holds the certificates in PEM of those whom an HTTPS server's certificate may be from; by default the
	// system's are taken.
	CAFile string
}

// Protocols are the names that NewProber knows.
var Protocols = []string{"tcp", "http", "https", "icmp"}

// NewProber returns the prober of a protocol other than STAMP, which is OpenSTAMP's: "tcp", "http", "https" or "icmp". What
// it holds open the Closer closes, when no probe is under way any more.
func NewProber(protocol string, opts ProberOptions) (Prober, io.Closer, error) {
	switch protocol {
	case "tcp":
		return opts.port(tcpProber(opts)), nothing{}, nil
	case "http", "https":
		p, closer, err := newHTTPProber(protocol, opts)
		if err != nil {
			return nil, nil, err
		}
		return opts.port(p), closer, nil
	case "icmp":
		p, err := newICMPProber(opts)
		if err != nil {
			return nil, nil, err
		}
		return p, nothing{}, nil
	default:
		return nil, nil, fmt.Errorf("protocol: %q: must be stamp, %s", protocol, strings.Join(Protocols, ", "))
	}
}

// port returns p with the port of the options, if they have one.
func (o ProberOptions) port(p Prober) Prober {
	if o.Port == 0 {
		return p
	}
	return func(ctx context.Context, target netip.AddrPort) (Result, error) {
		return p(ctx, netip.AddrPortFrom(target.Addr(), o.Port))
	}
}

type nothing struct{}

func (nothing) Close() error { return nil }

// lost makes the error of a probe that came to nothing: that of ctx when it was cancelled, and else a loss.
func lost(ctx context.Context, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil && !errors.Is(ctxErr, context.DeadlineExceeded) {
		return ctxErr
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}
