// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	postsKey  = "posts"
	kept      = 100 // posts in Redis
	shown     = 10  // posts on the page
	maxPost   = 500 // bytes
	maxForm   = 4 << 10
	boardHead = "X-Board" // response header: which replica answered
)

// store is what the board needs of Redis.
type store interface {
	do(ctx context.Context, commands ...[]string) ([]any, error)
}

// board shows posts and takes new ones. It reads from a copy of Redis and writes to the original.
type board struct {
	name          string // in every response, so that a caller knows which replica answered
	master, slave store
}

func (b *board) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", b.show)
	mux.HandleFunc("POST /{$}", b.post)
	mux.HandleFunc("GET /readyz", b.ready)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(boardHead, b.name)
		mux.ServeHTTP(w, r)
	})
}

var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en"><title>Bulletin board</title>
<h1>Bulletin board</h1>
<form method="post"><input name="text" maxlength="500" required autofocus> <button>Post</button></form>
<ul>{{range .Posts}}
<li>{{.}}</li>{{end}}
</ul>
<p><small>served by {{.Name}}</small></p>
`))

func (b *board) show(w http.ResponseWriter, r *http.Request) {
	posts, err := b.posts(r.Context())
	if err != nil {
		fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := page.Execute(w, map[string]any{"Posts": posts, "Name": b.name}); err != nil {
		slog.Info("The page was not sent", "err", err)
	}
}

// posts reads the newest posts, the newest first.
func (b *board) posts(ctx context.Context) ([]string, error) {
	replies, err := b.slave.do(ctx, []string{"LRANGE", postsKey, "0", strconv.Itoa(shown - 1)})
	if err != nil {
		return nil, err
	}
	list, ok := replies[0].([]any)
	if !ok {
		return nil, refused("LRANGE", replies[0])
	}
	posts := make([]string, 0, len(list))
	for _, element := range list {
		text, ok := element.(string)
		if !ok {
			return nil, refused("LRANGE", element)
		}
		posts = append(posts, text)
	}
	return posts, nil
}

func (b *board) post(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "not a form, or too long", http.StatusBadRequest)
		return
	}
	text := strings.TrimSpace(r.PostForm.Get("text"))
	if text == "" || len(text) > maxPost || !utf8.ValidString(text) {
		http.Error(w, fmt.Sprintf("text: must be 1 to %d bytes of UTF-8", maxPost), http.StatusBadRequest)
		return
	}
	replies, err := b.master.do(r.Context(),
		[]string{"LPUSH", postsKey, text}, []string{"LTRIM", postsKey, "0", strconv.Itoa(kept - 1)})
	if err != nil {
		fail(w, r, err)
		return
	}
	if _, ok := replies[0].(int64); !ok {
		fail(w, r, refused("LPUSH", replies[0]))
		return
	}
	if replies[1] != "OK" {
		fail(w, r, refused("LTRIM", replies[1]))
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// ready says whether both kinds of Redis answer.
func (b *board) ready(w http.ResponseWriter, r *http.Request) {
	for _, s := range []store{b.master, b.slave} {
		replies, err := s.do(r.Context(), []string{"PING"})
		if err == nil && replies[0] != "PONG" {
			err = refused("PING", replies[0])
		}
		if err != nil {
			fail(w, r, err)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}

func refused(command string, reply any) error {
	if err, ok := reply.(redisError); ok {
		return fmt.Errorf("%s: %w", command, err)
	}
	return fmt.Errorf("%s: unexpected reply %v", command, reply)
}

func fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil { // the caller has gone
		return
	}
	slog.Warn("Request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}
