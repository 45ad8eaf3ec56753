// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/fogsched/fogsched/test/e2e/workload"
)

const (
	maxInFlight = 64
	maxPage     = 1 << 20 // bytes
	pause       = 50 * time.Millisecond
)

// load is what one client asks of the board.
type load struct {
	url        string
	board      string        // what the names of the replicas start with
	requests   int           // to measure
	interval   time.Duration // between the starts of two requests
	writeEvery int           // every n-th request posts, the others read; 0: none posts
	timeout    time.Duration // of one request
	patience   time.Duration // until the board answers at all
	client     *http.Client
}

// newHTTPClient returns a client that opens a connection for every request, as many users who come once do. So every request is balanced
// anew, and its latency has the handshake in it.
func newHTTPClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// warmUp returns when the board has shown a post that was made through it: it is up, and Redis copies from master to slave.
func (l *load) warmUp(ctx context.Context, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	var last error
	posted := false
	for {
		if !posted {
			_, last = l.do(ctx, mark)
			posted = last == nil
		}
		if posted {
			var page string
			if page, last = l.do(ctx, ""); last == nil {
				if strings.Contains(page, mark) {
					return nil
				}
				last = errors.New("the post is not on the page")
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s in vain for a post at %s to appear: %w", l.patience, l.url, last)
		case <-time.After(pause):
		}
	}
}

// run sends the requests, each at its time whether or not those before are answered, and returns what became of each.
func (l *load) run(ctx context.Context) []workload.Request {
	results := make([]workload.Request, l.requests)
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxInFlight)
	start := time.Now()
	for i := range results {
		r := &results[i]
		text := ""
		if r.Method = http.MethodGet; l.writeEvery > 0 && i%l.writeEvery == l.writeEvery-1 {
			r.Method, text = http.MethodPost, fmt.Sprintf("post %d", i)
		}
		select {
		case <-ctx.Done():
			r.Error = ctx.Err().Error()
			continue
		case <-time.After(time.Until(start.Add(time.Duration(i) * l.interval))):
		}
		select {
		case slots <- struct{}{}:
		default:
			r.Error = fmt.Sprintf("not sent: %d requests are in flight", maxInFlight)
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			_, err := l.do(ctx, text)
			if took := time.Since(began); err != nil {
				r.Error = err.Error()
			} else {
				millis := float64(took.Microseconds()) / 1000
				r.Millis = &millis
			}
		})
	}
	wg.Wait()
	return results
}

// do posts a text, or reads the page where there is none. Anything but the right answer of the right board is an error.
func (l *load) do(ctx context.Context, text string) (page string, err error) {
	method, body, want := http.MethodGet, io.Reader(nil), http.StatusOK
	if text != "" {
		method, body, want = http.MethodPost, strings.NewReader(url.Values{"text": {text}}.Encode()), http.StatusSeeOther
	}
	request, err := http.NewRequestWithContext(ctx, method, l.url, body)
	if err != nil {
		return "", err
	}
	if text != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := l.client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxPage))
	if err != nil {
		return "", err
	}
	if response.StatusCode != want {
		return "", fmt.Errorf("%s %s: %s: %.200s", method, l.url, response.Status, content)
	}
	// The node port may still lead to the board that had it before.
	if name := response.Header.Get("X-Board"); !strings.HasPrefix(name, l.board) {
		return "", fmt.Errorf("%s %s: answered by %q, not by a replica of %q", method, l.url, name, l.board)
	}
	return string(content), nil
}
