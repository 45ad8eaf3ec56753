// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A scheduler that ends, or a profile that is built and thrown away, must not leave connections behind.
func TestCloseClosesConnections(t *testing.T) {
	opened, closed := make(chan struct{}, 8), make(chan struct{}, 8)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"vector","result":[]}}`)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			opened <- struct{}{}
		case http.StateClosed:
			closed <- struct{}{}
		}
	}
	server.Start()
	t.Cleanup(server.Close)

	c, err := NewClient(&Config{Address: server.URL, Timeout: metav1.Duration{Duration: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Query(t.Context(), "test", "up"); err != nil {
		t.Fatal(err)
	}
	<-opened
	select {
	case <-closed:
		t.Fatal("the connection is not kept for the next query")
	default:
	}
	c.Close()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection is open after Close")
	}
}
