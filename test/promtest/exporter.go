// SPDX-License-Identifier: Apache-2.0

package promtest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/fogsched/fogsched/test/program"
)

// Exporter is an exporter in this process that says, under any path, what it is told to. Its methods are safe for concurrent use.
type Exporter struct {
	port *program.Port

	mu      sync.Mutex
	server  *http.Server  // nil while it is gone
	text    string        // what it serves
	status  int           // the code it answers with
	hang    bool          // it takes a request and does not answer
	changed chan struct{} // closed when one of these changes, which ends what hangs
	scrapes int
}

// NewExporter returns an exporter that serves a text in Prometheus' text format. Close ends it.
func NewExporter(text string) (*Exporter, error) {
	port, err := program.ReservePort()
	if err != nil {
		return nil, err
	}
	e := &Exporter{port: port, text: text, status: http.StatusOK, changed: make(chan struct{})}
	if err := e.Return(); err != nil {
		port.Release()
		return nil, err
	}
	return e, nil
}

// Set makes the exporter serve another text. One that hangs or fails does so no more.
func (e *Exporter) Set(text string) {
	e.change(func() { e.text, e.status, e.hang = text, http.StatusOK, false })
}

// Fail makes the exporter answer with a status, such as 500, and no metrics, until Set.
func (e *Exporter) Fail(status int) { e.change(func() { e.status, e.hang = status, false }) }

// Hang makes the exporter take requests and never answer them, until Set.
func (e *Exporter) Hang() { e.change(func() { e.hang = true }) }

func (e *Exporter) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	close(e.changed)
	e.changed = make(chan struct{})
}

// Vanish makes connections to the exporter be refused, until Return.
func (e *Exporter) Vanish() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		e.server.Close()
		e.server = nil
	}
}

// Return undoes Vanish, at the same address.
func (e *Exporter) Return() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", e.port.Address())
	if err != nil {
		return fmt.Errorf("starting an exporter: %w", err)
	}
	server := &http.Server{Handler: e, ReadHeaderTimeout: 10 * time.Second}
	e.server = server
	go func() { _ = server.Serve(listener) }() // it ends by Close
	return nil
}

// Close ends the exporter for good. It may be called more than once.
func (e *Exporter) Close() {
	e.Vanish()
	e.port.Release()
}

// Address returns the address of the exporter, 127.0.0.1:port.
func (e *Exporter) Address() string { return e.port.Address() }

// Scrapes returns how many requests the exporter has had.
func (e *Exporter) Scrapes() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.scrapes
}

// ServeHTTP answers a scrape.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.scrapes++
	for e.hang {
		changed := e.changed
		e.mu.Unlock()
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
		e.mu.Lock()
	}
	text, status := e.text, e.status
	e.mu.Unlock()

	if status != http.StatusOK {
		http.Error(w, http.StatusText(status), status)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = io.WriteString(w, text)
}
