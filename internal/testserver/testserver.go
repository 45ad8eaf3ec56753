// SPDX-License-Identifier: Apache-2.0

// Package testserver serves HTTP to tests.
package testserver

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// New serves until the test ends. Then the context of each request ends too, so that a handler which waits for it, as for a watch, returns:
// httptest's Close waits for every request, and closing connections before it is not enough, because a client may be back in between.
func New(t testing.TB, handler http.Handler) *httptest.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := httptest.NewUnstartedServer(handler)
	s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.Start()
	t.Cleanup(func() {
		cancel()
		s.Close()
	})
	return s
}
