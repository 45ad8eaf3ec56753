// SPDX-License-Identifier: Apache-2.0

//go:build chaos

package chaos

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fault is what is wrong with Prometheus.
type fault struct {
	name string
	// serve answers in Prometheus' place; nil passes the request on to the real one.
	serve func(w http.ResponseWriter, r *http.Request)
	// refuse closes the port.
	refuse bool
	// tls has it answer with a certificate; expired is one that was valid until yesterday.
	tls, expired bool
	// token has it ask for a token that was exchanged for another one.
	token bool
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", code) }
}

// body answers with a text.
func body(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) } //nolint:errcheck // the client sees it
}

// values answers a vector with one value for all of the nodes.
func values(value string, times int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		var b strings.Builder
		for range times {
			for n := range nodes {
				if b.Len() > 0 {
					b.WriteByte(',')
				}
				fmt.Fprintf(&b, `{"metric":{"instance":%q,"source":%q,"target":%q},"value":[%d,%q]}`, nodeName(n), nodeName(n), nodeName((n+1)%nodes), time.Now().Unix(), value)
			}
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[%s]}}`, b.String())
	}
}

// endless repeats a text after a beginning, to a number of bytes.
func endless(beginning, text string, size int) func(http.ResponseWriter, *http.Request) {
	block := strings.Repeat(text, 1+1<<16/len(text))
	return func(w http.ResponseWriter, _ *http.Request) {
		if _, err := io.WriteString(w, beginning); err != nil {
			return
		}
		for sent := 0; sent < size; sent += len(block) {
			if _, err := io.WriteString(w, block); err != nil {
				return
			}
		}
	}
}

const vector = `{"status":"success","data":{"resultType":"vector","result":[`

// faults are all the ways in which the issue tracker has seen a Prometheus fail, and some more.
var faults = []fault{
	{name: "refused", refuse: true},
	{name: "black hole", serve: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	{name: "one byte a second", serve: func(w http.ResponseWriter, r *http.Request) {
		for i := range vector {
			if _, err := io.WriteString(w, vector[i:i+1]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Second):
			}
		}
	}},
	{name: "500", serve: status(500)},
	{name: "503", serve: status(503)},
	{name: "429", serve: status(429)},
	{name: "ends in mid-answer", serve: func(w http.ResponseWriter, _ *http.Request) {
		c, b, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		fmt.Fprintf(b, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n%s", vector)
		b.Flush()
		c.Close()
	}},
	{name: "NaN", serve: values("NaN", 1)},
	{name: "+Inf", serve: values("+Inf", 1)},
	{name: "-Inf", serve: values("-Inf", 1)},
	{name: "1e308", serve: values("1e308", 1)},
	{name: "a matrix", serve: body(`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"instance":"n"},"values":[[1,"0"]]}]}}`)},
	{name: "a string", serve: body(`{"status":"success","data":{"resultType":"string","result":[1,"0"]}}`)},
	{name: "truncated JSON", serve: body(vector + `{"metric":{"inst`)},
	{name: "duplicate series", serve: values("0.5", 2)},
	{name: "an answer of 1 GB", serve: endless(`{"status":"success","data":"`, "x", 1<<30)},
	{name: "25 million series", serve: func(w http.ResponseWriter, r *http.Request) {
		series := fmt.Sprintf(`{"metric":{"instance":"node-0","source":"a","target":"b"},"value":[%d,"0.001"]},`, time.Now().Unix())
		endless(vector, series, 25_000_000*len(series))(w, r)
	}},
	{name: "an expired certificate", tls: true, expired: true},
	{name: "a rotated token", tls: true, token: true},
}

// gate stands before a real Prometheus, on two ports, and lets faults in. It keeps its ports when it refuses.
type gate struct {
	proxy       *httputil.ReverseProxy
	dir         string
	current     atomic.Pointer[fault]
	http, https *port
	token       atomic.Value // string: what it asks for
	requests    atomic.Int64
}

// port is a listener that can close and open again.
type port struct {
	addr   string
	mu     sync.Mutex
	server *http.Server
	listen net.Listener
	make   func() (*http.Server, func(net.Listener) net.Listener)
}

func (p *port) open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	addr := p.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	p.addr = l.Addr().String()
	server, wrap := p.make()
	p.server, p.listen = server, l
	go server.Serve(wrap(l)) //nolint:errcheck // it ends when it is closed
	return nil
}

func (p *port) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		p.server.Close()
		p.listen.Close()
		p.server = nil
	}
}

// newGate opens a gate to the Prometheus at an address.
func newGate(t *testing.T, prometheus string) *gate {
	t.Helper()
	u, err := url.Parse(prometheus)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{proxy: httputil.NewSingleHostReverseProxy(u), dir: t.TempDir()}
	g.proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	g.current.Store(&fault{name: "healthy"})
	g.token.Store("first")
	g.writeToken(t, "first")
	good, expired := g.certificates(t)
	g.http = &port{make: func() (*http.Server, func(net.Listener) net.Listener) {
		return &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second}, func(l net.Listener) net.Listener { return l }
	}}
	g.https = &port{make: func() (*http.Server, func(net.Listener) net.Listener) {
		c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if g.current.Load().expired {
				return expired, nil
			}
			return good, nil
		}}
		return &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second}, func(l net.Listener) net.Listener { return tls.NewListener(l, c) }
	}}
	for _, p := range []*port{g.http, g.https} {
		if err := p.open(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.close)
	}
	return g
}

// address is where a scheduler finds Prometheus when that fault may come.
func (g *gate) address(f *fault) string {
	if f.tls {
		return "https://" + g.https.addr
	}
	return "http://" + g.http.addr
}

func (g *gate) caFile() string    { return filepath.Join(g.dir, "ca.pem") }
func (g *gate) tokenFile() string { return filepath.Join(g.dir, "token") }

func (g *gate) writeToken(t *testing.T, token string) {
	t.Helper()
	if err := os.WriteFile(g.tokenFile(), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
}

// set lets a fault in. Connections that are open are closed, as those to a server that fails are.
func (g *gate) set(t *testing.T, f *fault) {
	t.Helper()
	g.current.Store(f)
	if f.token {
		g.token.Store("second")
	}
	for _, p := range []*port{g.http, g.https} {
		p.close()
		if !f.refuse {
			if err := p.open(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// heal ends the fault. A token that was exchanged stays so: the file has the new one from now on.
func (g *gate) heal(t *testing.T) {
	t.Helper()
	g.writeToken(t, g.token.Load().(string))
	g.set(t, &fault{name: "healthy"})
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.requests.Add(1)
	if r.TLS != nil && r.Header.Get("Authorization") != "Bearer "+g.token.Load().(string) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if f := g.current.Load(); f.serve != nil {
		f.serve(w, r)
		return
	}
	g.proxy.ServeHTTP(w, r)
}

// certificates makes a CA, a certificate that is valid, and one that was until yesterday.
func (g *gate) certificates(t *testing.T) (good, expired *tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "chaos"}, NotBefore: now.Add(-72 * time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.caFile(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	leaf := func(serial int64, until time.Time) *tls.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(serial), NotBefore: now.Add(-48 * time.Hour), NotAfter: until,
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}, ca, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	return leaf(2, now.Add(time.Hour)), leaf(3, now.Add(-24*time.Hour))
}
