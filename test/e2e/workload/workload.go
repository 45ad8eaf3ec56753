// SPDX-License-Identifier: Apache-2.0

// Package workload has what the bulletin board's load client and the end-to-end suite tell one another.
package workload

// Report is what a client prints: one line of JSON.
type Report struct {
	// Node is where the client ran.
	Node     string    `json:"node"`
	Requests []Request `json:"requests"`
}

// Request is what became of one request.
type Request struct {
	Method string `json:"method"`
	// Millis is the time from the start of the request to the last byte of its answer, the TCP handshake included. Absent
	// where it failed: a failure has no latency.
	Millis *float64 `json:"millis,omitempty"`
	Error  string   `json:"error,omitempty"`
}
