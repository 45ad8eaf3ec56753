// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func serverAddr(s *httptest.Server) netip.AddrPort {
	return s.Listener.Addr().(*net.TCPAddr).AddrPort()
}

func TestHTTP(t *testing.T) {
	const takes = 30 * time.Millisecond
	for name, tc := range map[string]struct {
		opts  ProberOptions
		serve http.HandlerFunc
		// connections is how many three probes take.
		connections int32
		// atLeast is the least RTT.
		atLeast time.Duration
	}{
		"an empty answer": {serve: func(http.ResponseWriter, *http.Request) {}, connections: 1},
		"a path and a name": {
			opts: ProberOptions{Path: "/healthz?x=y", ServerName: "edge.example"},
			serve: func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.RequestURI != "/healthz?x=y" || r.Host != "edge.example" || r.UserAgent() != "fogprobe" {
					w.WriteHeader(http.StatusBadRequest)
				}
			},
			connections: 1,
		},
		"no path": {
			serve: func(w http.ResponseWriter, r *http.Request) {
				if r.RequestURI != "/" {
					w.WriteHeader(http.StatusBadRequest)
				}
			},
			connections: 1,
		},
		"a body":         {serve: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxBody-1)) }, connections: 1},
		"a huge body":    {serve: endless, connections: 3},
		"it takes time":  {serve: func(http.ResponseWriter, *http.Request) { time.Sleep(takes) }, connections: 1, atLeast: takes},
		"it hangs up":    {serve: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") }, connections: 3},
		"a 1xx before":   {serve: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusEarlyHints) }, connections: 1},
		"a redirect":     {serve: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, connections: 1},
		"a small answer": {serve: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }, connections: 1},
	} {
		t.Run(name, func(t *testing.T) {
			var connections atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/elsewhere" {
					t.Error("the redirect was followed")
				}
				tc.serve(w, r)
			}))
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					connections.Add(1)
				}
			}
			s.Start()
			defer s.Close()
			p := newProber(t, "http", tc.opts)
			for range 3 {
				before := time.Now()
				got, err := p(deadline(t, 10*time.Second), serverAddr(s))
				wantRTT(t, before, got, err)
				if got.RTT < tc.atLeast || got.Elapsed != got.RTT {
					t.Errorf("%+v, want an RTT of at least %v", got, tc.atLeast)
				}
			}
			if n := connections.Load(); n != tc.connections {
				t.Errorf("%d connections, want %d", n, tc.connections)
			}
		})
	}
}

func endless(w http.ResponseWriter, _ *http.Request) {
	for {
		if _, err := w.Write(make([]byte, 1<<16)); err != nil {
			return
		}
	}
}

func TestHTTPFailuresAreLosses(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for name, tc := range map[string]struct {
		serve http.HandlerFunc
		raw   func(*net.TCPConn)
		want  string
	}{
		"400": {serve: status(http.StatusBadRequest), want: "400"},
		"404": {serve: status(http.StatusNotFound), want: "404"},
		"500": {serve: status(http.StatusInternalServerError), want: "500"},
		"503 with a huge body": {serve: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			endless(w, r)
		}, want: "503"},
		"an endless header":         {raw: afterRequest(func(c *net.TCPConn) { _, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20))) })},
		"garbage":                   {raw: afterRequest(func(c *net.TCPConn) { _, _ = c.Write([]byte("\x00\x01\x02garbage\r\n\r\n")) })},
		"another protocol":          {raw: func(c *net.TCPConn) { _, _ = c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n")); _, _ = io.Copy(io.Discard, c) }},
		"hangs up":                  {raw: func(*net.TCPConn) {}},
		"hangs up once it is asked": {raw: afterRequest(func(*net.TCPConn) {})},
		"resets":                    {raw: afterRequest(reset)},
		"resets within the header":  {raw: afterRequest(func(c *net.TCPConn) { _, _ = c.Write([]byte("HTTP/1.1 200 O")); reset(c) })},
		"resets within the body": {raw: afterRequest(func(c *net.TCPConn) {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"))
			reset(c)
		})},
		"hangs up within the body": {raw: afterRequest(func(c *net.TCPConn) {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"))
		})},
	} {
		t.Run(name, func(t *testing.T) {
			var target netip.AddrPort
			if tc.raw != nil {
				target = tcpListen(t, "127.0.0.1:0", tc.raw)
			} else {
				s := httptest.NewServer(tc.serve)
				defer s.Close()
				target = serverAddr(s)
			}
			p := newProber(t, "http", ProberOptions{})
			for range 2 {
				got, err := p(deadline(t, 10*time.Second), target)
				wantLost(t, got, err)
				if err != nil && (errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), tc.want)) {
					t.Errorf("%v, want one with %q, and before the time is up", err, tc.want)
				}
			}
		})
	}
	silent := func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }
	for name, target := range map[string]func(*testing.T) netip.AddrPort{
		"accepts and says nothing": func(t *testing.T) netip.AddrPort { return tcpListen(t, "127.0.0.1:0", silent) },
		"half-open":                func(t *testing.T) netip.AddrPort { return tcpListen(t, "127.0.0.1:0", nil) },
		"a black hole": func(t *testing.T) netip.AddrPort {
			a, _ := blackHole(t)
			return a
		},
		"half a header": func(t *testing.T) netip.AddrPort {
			return tcpListen(t, "127.0.0.1:0", func(c *net.TCPConn) { _, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n")); silent(c) })
		},
		"half a body": func(t *testing.T) netip.AddrPort {
			return tcpListen(t, "127.0.0.1:0", func(c *net.TCPConn) {
				_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"))
				silent(c)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, protocol := range []string{"http", "https"} {
				p := newProber(t, protocol, ProberOptions{})
				at := target(t)
				got, err := p(deadline(t, 50*time.Millisecond), at)
				wantLost(t, got, err)
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(20*time.Millisecond, cancel)
				if got, err := p(ctx, at); !errors.Is(err, context.Canceled) && !errors.Is(err, ErrLost) || got != (Result{}) {
					t.Errorf("%+v, %v; want cancelled", got, err)
				}
			}
		})
	}
	got, err := newProber(t, "http", ProberOptions{})(deadline(t, 10*time.Second), refusing(t))
	wantLost(t, got, err)
}

// afterRequest reads a request before it calls next.
func afterRequest(next func(*net.TCPConn)) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		buf := make([]byte, 4096)
		for n := 0; !strings.Contains(string(buf[:n]), "\r\n\r\n"); {
			k, err := c.Read(buf[n:])
			if err != nil {
				return
			}
			n += k
		}
		next(c)
	}
}

func TestHTTPServerThatClosedAKeptConnection(t *testing.T) {
	const takes = 100 * time.Millisecond
	// It answers one request a connection, and drops the second after a while: the transport then asks again.
	target := tcpListen(t, "127.0.0.1:0", afterRequest(func(c *net.TCPConn) {
		_, _ = c.Write([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
		afterRequest(func(*net.TCPConn) { time.Sleep(takes) })(c)
	}))
	p := newProber(t, "http", ProberOptions{})
	for range 4 {
		before := time.Now()
		got, err := p(deadline(t, 10*time.Second), target)
		wantRTT(t, before, got, err)
		if got.RTT >= takes {
			t.Errorf("RTT %v, with the connection that was dropped in it", got.RTT)
		}
	}
}

func TestHTTPS(t *testing.T) {
	const takes = 50 * time.Millisecond
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			w.WriteHeader(http.StatusHTTPVersionNotSupported)
		}
	}))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		time.Sleep(takes) // which must not count
		return nil, nil
	}}
	s.StartTLS()
	defer s.Close()
	folder := t.TempDir()
	ca, none := filepath.Join(folder, "ca.pem"), filepath.Join(folder, "none.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(none, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		opts ProberOptions
		want string // "" for an RTT
	}{
		"by its address":           {opts: ProberOptions{CAFile: ca}},
		"by its name":              {opts: ProberOptions{CAFile: ca, ServerName: "example.com"}},
		"by another's name":        {opts: ProberOptions{CAFile: ca, ServerName: "example.org"}, want: "example.org"},
		"not from whom one trusts": {opts: ProberOptions{}, want: "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProber(t, "https", tc.opts)
			for range 3 {
				before := time.Now()
				got, err := p(deadline(t, 10*time.Second), serverAddr(s))
				if tc.want != "" {
					wantLost(t, got, err)
					if !strings.Contains(fmt.Sprint(err), tc.want) {
						t.Errorf("%v, want one with %q", err, tc.want)
					}
					continue
				}
				wantRTT(t, before, got, err)
				if got.RTT >= takes {
					t.Errorf("RTT %v, with the handshake in it", got.RTT)
				}
			}
		})
	}
	for name, tc := range map[string]struct {
		opts ProberOptions
		want string
	}{
		"no CA file":                 {ProberOptions{CAFile: filepath.Join(folder, "missing")}, "CA file: open "},
		"a CA file without one":      {ProberOptions{CAFile: none}, "holds no certificate"},
		"a URL and no path":          {ProberOptions{Path: "http://example.com/"}, `path: "http://example.com/": must be a path`},
		"a path without its slash":   {ProberOptions{Path: "healthz"}, `path: "healthz": must be a path such as /healthz`},
		"a path that is another URL": {ProberOptions{Path: "//example.com/x"}, `must be a path`},
		"a path that is none":        {ProberOptions{Path: "/%zz"}, `must be a path`},
	} {
		if _, _, err := NewProber("https", tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want one with %q", name, err, tc.want)
		}
	}
}
