// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// maxBody is how much of an answer is read, so that its connection can be used again. Who sends more is asked over a
	// new connection the next time.
	maxBody = 64 << 10
	// maxHeader bounds the header of an answer.
	maxHeader = 16 << 10
	// idleTime is how long a connection is kept between two probes, and maxIdle how many are: some 20 KiB each, with TLS
	// some 40.
	idleTime = 2 * time.Minute
	maxIdle  = 256
)

// newHTTPProber returns a prober that asks for a path with GET. The RTT is the time from when a connection was ready to the
// first octet of the answer: one round trip, and what the server took to answer. Opening the connection, which takes one
// round trip more (with TLS two more), is not in it, whether the connection was kept from the probe before or not.
//
// A status of 400 or more, a header that is none, and an answer that breaks off are losses. A redirect is an answer, and is
// not followed: it would measure the way to somewhere else.
func newHTTPProber(scheme string, opts ProberOptions) (Prober, io.Closer, error) {
	path, err := url.Parse(opts.Path)
	if err != nil || path.IsAbs() || path.Host != "" || path.Path != "" && !strings.HasPrefix(path.Path, "/") {
		return nil, nil, fmt.Errorf("path: %q: must be a path such as /healthz", opts.Path)
	}
	transport := &http.Transport{
		// The proxy of the environment would be measured in place of the target.
		Proxy:                  nil,
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    1,
		MaxConnsPerHost:        2,
		IdleConnTimeout:        idleTime,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
		ReadBufferSize:         4 << 10,
		WriteBufferSize:        1 << 10,
		TLSHandshakeTimeout:    maxTimeout,
		Protocols:              new(http.Protocols),
	}
	// HTTP/2 would be answered in the same time, by more code.
	transport.Protocols.SetHTTP1(true)
	dialer := &net.Dialer{Timeout: maxTimeout}
	if opts.Bind.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(opts.Bind, 0))
	}
	transport.DialContext = dialer.DialContext
	if scheme == "https" {
		transport.TLSClientConfig = &tls.Config{ServerName: opts.ServerName, MinVersion: tls.VersionTLS12}
		if opts.CAFile != "" {
			if transport.TLSClientConfig.RootCAs, err = readCAs(opts.CAFile); err != nil {
				return nil, nil, err
			}
		}
	}
	p := &httpProber{scheme: scheme, path: path, host: opts.ServerName, transport: transport}
	return p.probe, p, nil
}

func readCAs(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file: %s holds no certificate: must hold one or more in PEM", file)
	}
	return pool, nil
}

type httpProber struct {
	scheme, host string
	path         *url.URL
	transport    *http.Transport
}

// Close closes the connections that were kept.
func (p *httpProber) Close() error {
	p.transport.CloseIdleConnections()
	return nil
}

func (p *httpProber) probe(ctx context.Context, target netip.AddrPort) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	var times httpTimes
	to := *p.path
	to.Scheme, to.Host = p.scheme, target.String()
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, times.trace()), http.MethodGet, to.String(), nil)
	if err != nil {
		return Result{}, lost(ctx, err)
	}
	req.Header.Set("User-Agent", "fogprobe")
	if p.host != "" {
		req.Host = p.host
	}
	// The transport, and not a client: that would follow redirects and keep cookies.
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return Result{}, lost(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		_, _ = io.CopyN(io.Discard, resp.Body, maxBody)
		return Result{}, lost(ctx, fmt.Errorf("%s answered %s", to.String(), resp.Status))
	}
	if _, err := io.CopyN(io.Discard, resp.Body, maxBody); err != nil && !errors.Is(err, io.EOF) {
		return Result{}, lost(ctx, err)
	}
	r, err := times.result()
	if err != nil {
		return Result{}, lost(ctx, err)
	}
	if err := checkRTT(r.RTT); err != nil {
		return Result{}, err
	}
	return r, nil
}

// httpTimes takes the times of one probe. When the server had closed a connection that was kept, the transport asks again
// over a new one, and the times are those of the last.
type httpTimes struct {
	mu           sync.Mutex
	ready, first time.Time
}

func (h *httpTimes) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.ready, h.first = time.Now(), time.Time{}
		},
		GotFirstResponseByte: func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.first = time.Now()
		},
	}
}

func (h *httpTimes) result() (Result, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ready.IsZero() || h.first.IsZero() {
		return Result{}, errors.New("the answer came before it was asked for")
	}
	rtt := h.first.Sub(h.ready)
	return Result{RTT: rtt, SentAt: h.ready, Elapsed: rtt, TTL: unknownTTL}, nil
}
