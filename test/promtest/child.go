// SPDX-License-Identifier: Apache-2.0

// Package promtest runs a real Prometheus on loopback and something for it to scrape: the real node_exporter, blackbox_exporter and
// smokeping_prober, and exporters in this process that say what a test tells them to.
//
// Every program is a child on a port of its own, which it keeps when it is killed and started again, and it dies with this process.
package promtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/fogsched/fogsched/test/program"
)

const startTimeout = 30 * time.Second

// Child is a program of ours on an address of its own. Its methods are safe for concurrent use.
type Child struct {
	bin, dir, name string
	port           *program.Port
	args           []string
	ready          func(context.Context) error

	mu      sync.Mutex // guards what follows, and is held during a restart
	process *program.Process
	stopped bool
}

// newChild finds the program and gives it an address. Its log and whatever file it needs lie in the folder dir, under a name that
// no other child has. The caller sets args and ready, then calls start.
func newChild(bin, dir string) (*Child, error) {
	binDir, err := program.BinDir()
	if err != nil {
		return nil, err
	}
	path, err := program.Path(binDir, bin, "make bin/"+bin)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	port, err := program.ReservePort()
	if err != nil {
		return nil, err
	}
	return &Child{bin: path, dir: dir, name: fmt.Sprintf("%s-%d", bin, port.Number()), port: port}, nil
}

// start runs the child until it is ready, or leaves nothing behind.
func (c *Child) start(ctx context.Context) error {
	if err := c.Restart(ctx); err != nil {
		c.Stop()
		return err
	}
	return nil
}

// Restart kills the program where it still runs, starts it at the same address and with the same files, and returns when it is
// ready. The context bounds the start alone, as do 30 s.
func (c *Child) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return fmt.Errorf("%s was stopped", c.name)
	}
	if c.process != nil {
		c.process.Kill()
	}
	p, err := program.Start(c.name, c.bin, c.dir, c.args)
	if err != nil {
		return err
	}
	c.process = p
	return program.Poll(ctx, p, c.ready)
}

// Kill ends the program as a crash would: from now on connections to it are refused, until Restart.
func (c *Child) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process != nil {
		c.process.Kill()
	}
}

// Freeze makes the program hang: connections to it are made, since the kernel makes them, and nothing ever answers, until Thaw. It
// returns when that is so, which needs /proc.
func (c *Child) Freeze(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c.signal(syscall.SIGSTOP)
	// Each thread stops when it next meets the kernel; until then it may still answer.
	err := program.Poll(ctx, nil, func(context.Context) error { return allStopped(c.PID()) })
	if err != nil {
		return fmt.Errorf("freezing %s: %w", c.name, err)
	}
	return nil
}

// allStopped is an error while a thread of the process runs or could run.
func allStopped(pid int) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err == nil && len(threads) == 0 {
		err = errors.New("the process has no threads")
	}
	if err != nil {
		return program.Final(err)
	}
	for _, thread := range threads {
		b, err := os.ReadFile(thread)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			return errors.New("a thread has just ended")
		}
		if err != nil {
			return program.Final(err)
		}
		// The state follows the name, which is in parentheses and may hold anything.
		if _, state, _ := bytes.Cut(b[bytes.LastIndexByte(b, ')'):], []byte(") ")); len(state) == 0 || state[0] != 'T' {
			return errors.New("a thread still runs")
		}
	}
	return nil
}

// Thaw lets a frozen program go on.
func (c *Child) Thaw() { c.signal(syscall.SIGCONT) }

func (c *Child) signal(sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process != nil {
		c.process.Signal(sig)
	}
}

// Stop ends the program for good and gives its port back. Its files stay in the folder. It may be called more than once.
func (c *Child) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	if c.process != nil {
		c.process.Kill()
	}
	c.port.Release()
}

// Address returns the address of the program, 127.0.0.1:port.
func (c *Child) Address() string { return c.port.Address() }

// URL returns the address of the program as a URL without a path.
func (c *Child) URL() string { return "http://" + c.Address() }

// Log returns the file that holds what the program printed.
func (c *Child) Log() string { return filepath.Join(c.dir, c.name+".log") }

// PID returns the id of the program's process, which a restart changes.
func (c *Child) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process.PID()
}

// RSS returns the resident memory of the program, in bytes. It needs /proc.
func (c *Child) RSS() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", c.name, err)
	}
	for line := range bytes.Lines(b) {
		value, ok := bytes.CutPrefix(line, []byte("VmRSS:"))
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(value), []byte("kB")))), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the memory of %s: %w", c.name, err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("reading the memory of %s: %w", c.name, errors.New("the process has none"))
}

// answers is a check that the program answers 200 under a path.
func (c *Child) answers(path string) func(context.Context) error {
	return func(ctx context.Context) error { return program.Get(ctx, http.DefaultClient, c.URL()+path) }
}
