// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

const (
	redisTimeout = 3 * time.Second // for one exchange, dialling included
	maxIdle      = 8               // connections that are kept
	maxLife      = 3 * time.Second // of a connection: a Service whose endpoints changed is noticed after it
	maxReply     = 1 << 20         // bytes of one string, or elements of one array
	maxDepth     = 4               // arrays within arrays
)

// redisError is a reply by which Redis refuses a command. The connection remains usable.
type redisError string

func (e redisError) Error() string { return "redis: " + string(e) }

// redis is a client of one Redis address that keeps its connections for a while, so that a command mostly costs one round trip. It is
// safe for concurrent use.
type redis struct {
	addr string
	life time.Duration
	idle chan *redisConn
}

type redisConn struct {
	net.Conn
	r       *bufio.Reader
	retires time.Time
}

func newRedis(addr string) *redis {
	return &redis{addr: addr, life: maxLife, idle: make(chan *redisConn, maxIdle)}
}

// do sends commands in one go and returns the reply to each: nil, a string, an int64, a redisError or a []any of these.
func (c *redis) do(ctx context.Context, commands ...[]string) ([]any, error) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	var out []byte
	for _, command := range commands {
		out = appendCommand(out, command)
	}
	for {
		conn, reused, err := c.get(ctx)
		if err != nil {
			return nil, fmt.Errorf("redis at %s: %w", c.addr, err)
		}
		replies, started, err := conn.exchange(ctx, out, len(commands))
		if err == nil {
			c.put(conn)
			return replies, nil
		}
		conn.Close()
		// The server may have closed a connection that nobody used for a while. Nothing was answered, so the next one is
		// tried; at worst a post appears twice.
		if reused && !started && ctx.Err() == nil {
			continue
		}
		return nil, fmt.Errorf("redis at %s: %w", c.addr, err)
	}
}

func (c *redis) get(ctx context.Context) (conn *redisConn, reused bool, err error) {
	for {
		select {
		case conn := <-c.idle:
			if time.Now().Before(conn.retires) {
				return conn, true, nil
			}
			conn.Close()
			continue
		default:
		}
		var d net.Dialer
		raw, err := d.DialContext(ctx, "tcp", c.addr)
		if err != nil {
			return nil, false, err
		}
		return &redisConn{Conn: raw, r: bufio.NewReader(raw), retires: time.Now().Add(c.life)}, false, nil
	}
}

func (c *redis) put(conn *redisConn) {
	select {
	case c.idle <- conn:
	default:
		conn.Close()
	}
}

// exchange sends commands and reads n replies; started tells whether anything came back.
func (c *redisConn) exchange(ctx context.Context, commands []byte, n int) (replies []any, started bool, err error) {
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, false, err
	}
	if _, err := c.Write(commands); err != nil {
		return nil, false, err
	}
	for range n {
		reply, err := readReply(c.r, 0)
		if err != nil {
			return nil, started, err
		}
		started = true
		replies = append(replies, reply)
	}
	return replies, true, nil
}

// appendCommand encodes a command as RESP: an array of bulk strings.
func appendCommand(out []byte, command []string) []byte {
	out = fmt.Appendf(out, "*%d\r\n", len(command))
	for _, word := range command {
		out = fmt.Appendf(out, "$%d\r\n%s\r\n", len(word), word)
	}
	return out
}

// readReply decodes one RESP2 reply.
func readReply(r *bufio.Reader, depth int) (any, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return nil, fmt.Errorf("reply %.40q: not RESP", line)
	}
	kind, text := line[0], string(line[1:len(line)-2])
	switch kind {
	case '+':
		return text, nil
	case '-':
		return redisError(text), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("reply %.40q: not RESP", line)
	}
	switch {
	case kind == ':':
		return n, nil
	case n == -1 && (kind == '$' || kind == '*'):
		return nil, nil
	case n < 0 || n > maxReply:
		return nil, fmt.Errorf("reply %.40q: its length is out of range", line)
	case kind == '$':
		body := make([]byte, n+2)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, err
		}
		if body[n] != '\r' || body[n+1] != '\n' {
			return nil, errors.New("reply: a string does not end where it should")
		}
		return string(body[:n]), nil
	case kind == '*':
		if depth == maxDepth {
			return nil, errors.New("reply: nested too deep")
		}
		list := []any{}
		for range n {
			element, err := readReply(r, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, element)
		}
		return list, nil
	default:
		return nil, fmt.Errorf("reply %.40q: not RESP", line)
	}
}
