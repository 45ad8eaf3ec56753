// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fogsched/fogsched/test/e2e/workload"
)

// fakeBoard keeps posts in memory.
type fakeBoard struct {
	mu    sync.Mutex
	name  string
	posts []string
	gets  int
	conns map[string]bool

	hide   int           // posts appear after so many reads
	broken int           // the first so many requests fail
	delay  time.Duration // of every answer
}

func (b *fakeBoard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		b.conns = map[string]bool{}
	}
	b.conns[r.RemoteAddr] = true
	time.Sleep(b.delay)
	w.Header().Set("X-Board", b.name)
	if b.broken > 0 {
		b.broken--
		http.Error(w, "no Redis", http.StatusServiceUnavailable)
		return
	}
	if r.Method == http.MethodPost {
		b.posts = append(b.posts, r.FormValue("text"))
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	if b.gets++; b.gets > b.hide {
		fmt.Fprint(w, strings.Join(b.posts, "\n"))
	}
}

func start(t *testing.T, b *fakeBoard) string {
	t.Helper()
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	return server.URL
}

func report(t *testing.T, args ...string) (workload.Report, error) {
	t.Helper()
	var out bytes.Buffer
	var got workload.Report
	if err := run(t.Context(), args, &out); err != nil {
		return got, err
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
		t.Fatalf("not one line of JSON: %v: %s", err, &out)
	}
	return got, nil
}

func TestEveryRequestIsMeasured(t *testing.T) {
	b := &fakeBoard{name: "round-1/web@node", delay: 3 * time.Millisecond}
	got, err := report(t, "--url="+start(t, b), "--node=north-1", "--board=round-1/", "--requests=10", "--rate=200", "--write-every=5")
	if err != nil {
		t.Fatal(err)
	}
	if got.Node != "north-1" || len(got.Requests) != 10 {
		t.Fatalf("node %q, %d requests, want north-1 and 10", got.Node, len(got.Requests))
	}
	for i, r := range got.Requests {
		wantMethod := http.MethodGet
		if i == 4 || i == 9 {
			wantMethod = http.MethodPost
		}
		if r.Method != wantMethod || r.Error != "" || r.Millis == nil || *r.Millis < 3 {
			t.Errorf("request %d: %+v, want a %s that took at least 3 ms", i, r, wantMethod)
		}
	}
	if len(b.conns) != 12 {
		t.Errorf("%d connections for 10 requests and 2 before, want one for each", len(b.conns))
	}
}

func TestAFailureHasNoLatency(t *testing.T) {
	b := &fakeBoard{name: "b"}
	l := load{url: start(t, b), requests: 3, timeout: time.Second, client: newHTTPClient(time.Second)}
	b.broken = 2
	failed := 0
	for _, r := range l.run(t.Context()) {
		if (r.Millis == nil) != (r.Error != "") {
			t.Errorf("%+v: want either a latency or an error", r)
		}
		if r.Error != "" {
			failed++
		}
	}
	if failed != 2 {
		t.Errorf("%d requests failed, want 2", failed)
	}
}

func TestASlowBoardDoesNotSlowTheRate(t *testing.T) {
	var mu sync.Mutex
	var starts []time.Time
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		starts = append(starts, time.Now())
		all := len(starts) == 5
		mu.Unlock()
		if all {
			close(release)
		}
		<-release // nobody is answered before the last one has come
	}))
	t.Cleanup(server.Close)
	l := load{url: server.URL, requests: 5, interval: time.Millisecond, client: newHTTPClient(10 * time.Second)}
	for i, r := range l.run(t.Context()) {
		if r.Error != "" {
			t.Errorf("request %d: %s", i, r.Error)
		}
	}
}

func TestTheLoadStartsWhenAPostIsSeen(t *testing.T) {
	tests := map[string]struct {
		board   *fakeBoard
		wantErr string
	}{
		"at once":                         {board: &fakeBoard{name: "round-1/a"}},
		"after Redis came up":             {board: &fakeBoard{name: "round-1/a", broken: 3}},
		"after the slave has the post":    {board: &fakeBoard{name: "round-1/a", hide: 3}},
		"never, as the post is lost":      {board: &fakeBoard{name: "round-1/a", hide: 1e6}, wantErr: "not on the page"},
		"never, as another board answers": {board: &fakeBoard{name: "round-0/a"}, wantErr: `answered by "round-0/a"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := report(t, "--url="+start(t, tt.board), "--board=round-1/", "--requests=1", "--patience=1s")
			if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Fatalf("error %v, want %q", err, tt.wantErr)
			}
			if err == nil && len(tt.board.posts) != 1 {
				t.Errorf("posts %q, want one", tt.board.posts)
			}
		})
	}
}

func TestBadFlags(t *testing.T) {
	tests := map[string]struct{ args, want string }{
		"no URL":          {"--rate=1", "--url"},
		"rate of 0":       {"--url=x --rate=0", "--rate"},
		"rate of nothing": {"--url=x --rate=NaN", "--rate"},
		"no requests":     {"--url=x --requests=0", "--requests"},
		"a stray word":    {"--url=x y", `"y"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), strings.Fields(tt.args), nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one about %s", err, tt.want)
			}
		})
	}
}
