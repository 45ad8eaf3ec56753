// SPDX-License-Identifier: Apache-2.0

package testserver

import (
	"net/http"
	"testing"
	"time"
)

// A client that comes back again and again must not keep the server from closing.
func TestClientThatComesBack(t *testing.T) {
	first := make(chan struct{})
	closed := make(chan struct{})
	clientDone := make(chan struct{})
	t.Run("served", func(t *testing.T) {
		s := New(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		go func() {
			defer close(clientDone)
			for once := true; ; once = false {
				response, err := http.Get(s.URL)
				if once {
					close(first)
				}
				if err != nil {
					select {
					case <-closed:
						return
					default:
						continue
					}
				}
				_, _ = response.Body.Read(make([]byte, 1)) // until the server ends it
				response.Body.Close()
			}
		}()
		<-first
	})
	close(closed)
	select {
	case <-clientDone:
	case <-time.After(20 * time.Second):
		t.Error("the client is still served")
	}
}
