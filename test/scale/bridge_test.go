// SPDX-License-Identifier: Apache-2.0

//go:build scale

package scale

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/transport"
)

// bridge carries requests out of the bubble in which the probers' time is simulated, to a real API server. A goroutine that waits at
// the bridge is not idle, so the simulated time stands still until the answer is there.
//
// Each request is made as the prober of the node that its context names: with its rights, and with the claims of its token, on which
// the admission policy insists.
type bridge struct {
	jobs, free chan *job // made outside, as is all that is in them

	mu  sync.Mutex
	log []request
}

type job struct {
	request  *http.Request
	response *http.Response
	err      error
	done     chan struct{}
}

// request is one that was answered.
type request struct {
	at      time.Time
	node    string
	method  string
	isState bool // of the object's status
	code    int
	bytes   int // of the answer: the object as it is stored
}

const parallelRequests = 16

// nodeKey is the key of the node's name in a context.
type nodeKey struct{}

// newBridge is called outside of the bubble. The workers end with ctx.
func newBridge(ctx context.Context, server http.RoundTripper) *bridge {
	b := &bridge{jobs: make(chan *job), free: make(chan *job, parallelRequests)}
	for range parallelRequests {
		b.free <- &job{done: make(chan struct{}, 1)}
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case j := <-b.jobs:
					j.response, j.err = whole(server.RoundTrip(j.request))
					j.done <- struct{}{}
				}
			}
		}()
	}
	return b
}

// whole reads the body, which must not be read inside the bubble.
func whole(r *http.Response, err error) (*http.Response, error) {
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err != nil {
		return nil, err
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return r, nil
}

// RoundTrip is called inside the bubble.
func (b *bridge) RoundTrip(r *http.Request) (*http.Response, error) {
	node, _ := r.Context().Value(nodeKey{}).(string)
	return transport.NewImpersonatingRoundTripper(transport.ImpersonationConfig{
		UserName: "system:serviceaccount:" + systemNamespace + ":fogprobe",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + systemNamespace, "system:authenticated"},
		Extra:    map[string][]string{nodeNameClaim: {node}},
	}, over{b, node}).RoundTrip(r)
}

// nodeNameClaim is the claim of a pod's token that names the pod's node.
const nodeNameClaim = "authentication.kubernetes.io/node-name"

type over struct {
	*bridge
	node string
}

func (o over) RoundTrip(r *http.Request) (*http.Response, error) {
	var body io.Reader
	if r.Body != nil {
		content, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(content)
	}
	// A context of the bubble must not get out.
	out, err := http.NewRequestWithContext(context.Background(), r.Method, r.URL.String(), body)
	if err != nil {
		return nil, err
	}
	out.Header = r.Header
	j := <-o.free
	j.request = out
	o.jobs <- j
	<-j.done
	response, err := j.response, j.err
	j.request, j.response, j.err = nil, nil, nil
	o.free <- j
	if err != nil {
		return nil, err
	}
	response.Request = r
	o.mu.Lock()
	o.log = append(o.log, request{
		at: time.Now(), node: o.node, method: r.Method, isState: strings.HasSuffix(r.URL.Path, "/status"),
		code: response.StatusCode, bytes: int(response.ContentLength),
	})
	o.mu.Unlock()
	return response, nil
}
