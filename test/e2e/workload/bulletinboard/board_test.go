// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadReply(t *testing.T) {
	tests := map[string]struct {
		in      string
		want    any
		wantErr string
	}{
		"a simple string":                {in: "+OK\r\n", want: "OK"},
		"an error is a value":            {in: "-READONLY no\r\n", want: redisError("READONLY no")},
		"a number":                       {in: ":-12\r\n", want: int64(-12)},
		"a string with a line end in it": {in: "$4\r\na\r\nb\r\n", want: "a\r\nb"},
		"an empty string is not nil":     {in: "$0\r\n\r\n", want: ""},
		"a missing string is nil":        {in: "$-1\r\n", want: nil},
		"a missing array is nil":         {in: "*-1\r\n", want: nil},
		"an array":                       {in: "*3\r\n$1\r\na\r\n:2\r\n*0\r\n", want: []any{"a", int64(2), []any{}}},
		"cut off in a line":              {in: "+OK", wantErr: "EOF"},
		"cut off in a string":            {in: "$4\r\nab", wantErr: "unexpected EOF"},
		"a string that is too long":      {in: "$2\r\nabcd\r\n", wantErr: "does not end"},
		"a bare line end":                {in: "+OK\n", wantErr: "not RESP"},
		"an unknown kind":                {in: "?1\r\n", wantErr: "not RESP"},
		"no number":                      {in: "$x\r\n", wantErr: "not RESP"},
		"a negative length":              {in: "$-2\r\n", wantErr: "out of range"},
		"a huge length":                  {in: "$99999999999\r\n", wantErr: "out of range"},
		"arrays without end":             {in: strings.Repeat("*1\r\n", 9), wantErr: "too deep"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readReply(bufio.NewReader(iotest.OneByteReader(strings.NewReader(tt.in))), 0)
			if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
				t.Fatalf("error %v, want %q", err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
		})
	}
}

// fakeRedis speaks enough RESP for the board.
type fakeRedis struct {
	addr string

	mu    sync.Mutex
	posts []string
	conns []net.Conn
	seen  int // commands
}

func newFakeRedis(t *testing.T) *fakeRedis {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeRedis{addr: listener.Addr().String()}
	t.Cleanup(func() { listener.Close(); f.drop() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, conn)
			f.mu.Unlock()
			go f.serve(conn)
		}
	}()
	return f
}

// drop closes all connections, as Redis does with those that idle for too long.
func (f *fakeRedis) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range f.conns {
		conn.Close()
	}
	f.conns = nil
}

func (f *fakeRedis) opened() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

func (f *fakeRedis) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		command, err := readReply(r, 0) // a command is an array of strings
		if err != nil {
			return
		}
		if _, err := conn.Write([]byte(f.answer(command.([]any)))); err != nil {
			return
		}
	}
}

func (f *fakeRedis) answer(command []any) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	switch command[0] {
	case "PING":
		return "+PONG\r\n"
	case "LPUSH":
		if command[2] == "refuse me" {
			return "-READONLY You can't write against a read only replica.\r\n"
		}
		f.posts = append([]string{command[2].(string)}, f.posts...)
		return ":" + strconv.Itoa(len(f.posts)) + "\r\n"
	case "LTRIM":
		return "+OK\r\n"
	case "LRANGE":
		last, _ := strconv.Atoi(command[3].(string))
		return string(appendCommand(nil, f.posts[:min(len(f.posts), last+1)]))
	}
	return "-ERR unknown command\r\n"
}

func newBoard(t *testing.T, master, slave string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer((&board{name: "ns/pod@node", master: newRedis(master), slave: newRedis(slave)}).handler())
	t.Cleanup(server.Close)
	server.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return server
}

func fetch(t *testing.T, server *httptest.Server, path string, form url.Values) (status int, body string) {
	t.Helper()
	var response *http.Response
	var err error
	if form == nil {
		response, err = server.Client().Get(server.URL + path)
	} else {
		response, err = server.Client().PostForm(server.URL+path, form)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get(boardHead); got != "ns/pod@node" {
		t.Errorf("%s: %q, want the replica's name", boardHead, got)
	}
	var b strings.Builder
	if _, err := bufio.NewReader(response.Body).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, b.String()
}

func TestPostsAreWrittenToTheMasterAndReadFromASlave(t *testing.T) {
	master, slave := newFakeRedis(t), newFakeRedis(t)
	server := newBoard(t, master.addr, slave.addr)

	if status, _ := fetch(t, server, "/", url.Values{"text": {"hello"}}); status != http.StatusSeeOther {
		t.Errorf("a post: status %d, want %d", status, http.StatusSeeOther)
	}
	if diff := cmp.Diff([]string{"hello"}, master.posts); diff != "" {
		t.Errorf("the master's posts (-want +got):\n%s", diff)
	}
	if _, body := fetch(t, server, "/", nil); strings.Contains(body, "hello") {
		t.Error("the page was read from the master")
	}
	slave.posts = []string{"<b>bold</b>"}
	status, body := fetch(t, server, "/", nil)
	if status != http.StatusOK || !strings.Contains(body, "&lt;b&gt;bold&lt;/b&gt;") {
		t.Errorf("status %d, page without the slave's post, escaped:\n%s", status, body)
	}
}

func TestOnlyTheNewestPostsAreShown(t *testing.T) {
	redis := newFakeRedis(t)
	for i := range shown + 5 {
		redis.posts = append(redis.posts, "post "+strconv.Itoa(i))
	}
	_, body := fetch(t, newBoard(t, redis.addr, redis.addr), "/", nil)
	if got := strings.Count(body, "<li>"); got != shown {
		t.Errorf("%d posts shown, want %d", got, shown)
	}
}

func TestBadRequests(t *testing.T) {
	redis := newFakeRedis(t)
	server := newBoard(t, redis.addr, redis.addr)
	tests := map[string]struct {
		path string
		form url.Values
		want int
	}{
		"no text":            {path: "/", form: url.Values{}, want: http.StatusBadRequest},
		"nothing but spaces": {path: "/", form: url.Values{"text": {"  "}}, want: http.StatusBadRequest},
		"too long a text":    {path: "/", form: url.Values{"text": {strings.Repeat("x", maxPost+1)}}, want: http.StatusBadRequest},
		"too long a form":    {path: "/", form: url.Values{"text": {strings.Repeat("x", maxForm)}}, want: http.StatusBadRequest},
		"no UTF-8":           {path: "/", form: url.Values{"text": {"\xff"}}, want: http.StatusBadRequest},
		"another page":       {path: "/admin", want: http.StatusNotFound},
		"Redis refuses":      {path: "/", form: url.Values{"text": {"refuse me"}}, want: http.StatusServiceUnavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if status, body := fetch(t, server, tt.path, tt.form); status != tt.want {
				t.Errorf("status %d, want %d: %s", status, tt.want, body)
			}
		})
	}
	if len(redis.posts) > 0 {
		t.Errorf("posts were kept: %q", redis.posts)
	}
}

func TestReadyWhenBothKindsOfRedisAnswer(t *testing.T) {
	up, down := newFakeRedis(t).addr, closedPort(t)
	tests := map[string]struct {
		master, slave string
		want          int
	}{
		"both":           {master: up, slave: up, want: http.StatusOK},
		"no master":      {master: down, slave: up, want: http.StatusServiceUnavailable},
		"no slave":       {master: up, slave: down, want: http.StatusServiceUnavailable},
		"neither of two": {master: down, slave: down, want: http.StatusServiceUnavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if status, body := fetch(t, newBoard(t, tt.master, tt.slave), "/readyz", nil); status != tt.want {
				t.Errorf("status %d, want %d: %s", status, tt.want, body)
			}
		})
	}
}

func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestConnectionsAreKeptAndReplaced(t *testing.T) {
	fake := newFakeRedis(t)
	c := newRedis(fake.addr)
	ping := func() {
		t.Helper()
		if _, err := c.do(t.Context(), []string{"PING"}); err != nil {
			t.Fatal(err)
		}
	}
	ping()
	ping()
	if got := fake.opened(); got != 1 {
		t.Errorf("%d connections for two commands in turn, want 1", got)
	}
	fake.drop()
	ping() // on a new connection, since the kept one is dead
	c.life = 0
	fake.drop()
	ping()
	ping()
	if got := fake.opened(); got != 2 {
		t.Errorf("%d connections that retire at once for two commands, want 2", got)
	}
}

func TestACommandEndsWithItsContext(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts, so nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = newRedis(listener.Addr().String()).do(ctx, []string{"PING"})
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("error %v, want a timeout", err)
	}
}
