// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tun

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long an answer may take: adding a node to many does so for some milliseconds.
const patience = 30 * time.Second

// An emulator that is to outlive its user runs in a process of its own, which listens at a Unix socket. Requests and answers
// are JSON, a line each.

// request names what to do in Op; the other fields are what that needs.
type request struct {
	Op    string      `json:"op"`
	Name  string      `json:"name,omitempty"`  // remove, partition, heal
	Node  *Node       `json:"node,omitempty"`  // add
	Links []Direction `json:"links,omitempty"` // setLinks
}

type answer struct {
	Error string      `json:"error,omitempty"`
	Nodes []Node      `json:"nodes,omitempty"` // nodes
	Links []Direction `json:"links,omitempty"` // links
	Stats Stats       `json:"stats,omitzero"`  // stats
}

// Serve does what is asked at a socket until someone asks to stop or ctx ends. Then it closes the emulator and the socket.
func Serve(ctx context.Context, socket net.Listener, e *Emulator) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	context.AfterFunc(ctx, func() { _ = socket.Close() })
	for {
		conn, err := socket.Accept()
		if err != nil {
			return e.Close()
		}
		go func() {
			defer conn.Close()
			if serveConn(conn, e) {
				stop()
			}
		}()
	}
}

// serveConn answers one client, and returns whether it asked to stop.
func serveConn(conn net.Conn, e *Emulator) (stop bool) {
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var r request
		if in.Decode(&r) != nil {
			return false
		}
		err := out.Encode(serve(e, r))
		if r.Op == "stop" || err != nil {
			return r.Op == "stop"
		}
	}
}

func serve(e *Emulator, r request) answer {
	var a answer
	var err error
	switch r.Op {
	case "add":
		if r.Node == nil {
			err = errors.New("node: must be set")
		} else {
			err = e.Add(*r.Node)
		}
	case "remove":
		err = e.Remove(r.Name)
	case "setLinks":
		err = e.SetLinks(r.Links)
	case "partition":
		err = e.Partition(r.Name)
	case "heal":
		err = e.Heal(r.Name)
	case "nodes":
		a.Nodes = e.Nodes()
	case "links":
		a.Links = e.Links()
	case "stats":
		a.Stats = e.Stats()
	case "stop":
		err = e.Close()
	default:
		err = fmt.Errorf("op %q: must be add, remove, setLinks, partition, heal, nodes, links, stats or stop", r.Op)
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

// Client drives an emulator in another process, with the methods of Emulator. It is safe for concurrent use.
type Client struct {
	mu   sync.Mutex
	conn net.Conn
	in   *json.Decoder
	out  *json.Encoder
}

// Spawn starts an emulator without nodes in a process of its own, and returns when it listens at socket. program is a built
// test/wan/cmd/wanctl; what it has to say goes to the file socket + ".log".
//
// Without keep, it ends when the present process does, however that ends. With keep, it lasts until Stop.
func Spawn(program, socket string, keep bool) (*Client, error) {
	log := socket + ".log"
	stderr, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("spawning the emulator: %w", err)
	}
	defer stderr.Close()
	cmd := exec.Command(program, "-socket", socket, "serve")
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's Ctrl-C is not for it
	if !keep {
		// It ends with its input, and nothing is ever written there.
		cmd.Args = append(cmd.Args, "-lease")
		if _, err := cmd.StdinPipe(); err != nil {
			return nil, fmt.Errorf("spawning the emulator: %w", err)
		}
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("spawning the emulator: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("spawning the emulator: %w", err)
	}
	_, err = bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		go func() { _ = cmd.Wait() }()
		return Dial(socket)
	}
	err = cmd.Wait()
	said, _ := os.ReadFile(log)
	return nil, fmt.Errorf("spawning the emulator: %s ended (%w) and said:\n%s", program, err, said)
}

// Listen opens the socket for Serve. It replaces one that nobody listens at any more.
func Listen(socket string) (net.Listener, error) {
	l, err := net.Listen("unix", socket)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, dialErr := net.Dial("unix", socket); dialErr == nil {
			_ = c.Close()
			return nil, fmt.Errorf("an emulator listens at %s already: stop it first", socket)
		}
		_ = os.Remove(socket)
		l, err = net.Listen("unix", socket)
	}
	if err != nil {
		return nil, fmt.Errorf("listening for requests: %w", err)
	}
	return l, nil
}

// Dial connects to the emulator that listens at a socket.
func Dial(socket string) (*Client, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("reaching the emulator: %w", err)
	}
	return &Client{conn: conn, in: json.NewDecoder(conn), out: json.NewEncoder(conn)}, nil
}

func (c *Client) ask(r request) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	if err := c.out.Encode(r); err != nil {
		return answer{}, fmt.Errorf("asking the emulator to %s: %w", r.Op, err)
	}
	var a answer
	if err := c.in.Decode(&a); err != nil {
		return answer{}, fmt.Errorf("asking the emulator to %s: %w", r.Op, err)
	}
	if a.Error != "" {
		return answer{}, errors.New(a.Error)
	}
	return a, nil
}

func (c *Client) do(r request) error {
	_, err := c.ask(r)
	return err
}

// Add is that of Emulator.
func (c *Client) Add(n Node) error { return c.do(request{Op: "add", Node: &n}) }

// Remove is that of Emulator.
func (c *Client) Remove(name string) error { return c.do(request{Op: "remove", Name: name}) }

// Partition is that of Emulator.
func (c *Client) Partition(name string) error { return c.do(request{Op: "partition", Name: name}) }

// Heal is that of Emulator.
func (c *Client) Heal(name string) error { return c.do(request{Op: "heal", Name: name}) }

// Set is that of Emulator.
func (c *Client) Set(a, b string, l Link) error {
	return c.SetLinks([]Direction{{a, b, l}, {b, a, l}})
}

// SetLinks is that of Emulator.
func (c *Client) SetLinks(directions []Direction) error {
	return c.do(request{Op: "setLinks", Links: directions})
}

// SetAll is that of Emulator.
func (c *Client) SetAll(change func(from, to string, l Link) Link) error {
	directions, err := c.Links()
	if err != nil {
		return err
	}
	for i, d := range directions {
		directions[i].Link = change(d.From, d.To, d.Link)
	}
	return c.SetLinks(directions)
}

// Nodes is that of Emulator.
func (c *Client) Nodes() ([]Node, error) {
	a, err := c.ask(request{Op: "nodes"})
	return a.Nodes, err
}

// Links is that of Emulator.
func (c *Client) Links() ([]Direction, error) {
	a, err := c.ask(request{Op: "links"})
	return a.Links, err
}

// Stats is that of Emulator.
func (c *Client) Stats() (Stats, error) {
	a, err := c.ask(request{Op: "stats"})
	return a.Stats, err
}

// PID returns the number of the emulator's process.
func (c *Client) PID() (int, error) {
	raw, err := c.conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("asking for the emulator's process: %w", err)
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || failed != nil {
		return 0, fmt.Errorf("asking for the emulator's process: %w", errors.Join(err, failed))
	}
	return int(peer.Pid), nil
}

// Stop ends the emulator as Emulator.Close does, and its process.
func (c *Client) Stop() error { return c.do(request{Op: "stop"}) }

// Close ends the connection and leaves the emulator as it is.
func (c *Client) Close() error { return c.conn.Close() }
