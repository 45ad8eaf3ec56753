// SPDX-License-Identifier: Apache-2.0

// Package program runs the programs that tests need as children on loopback: each in a process group of its own, with its output in
// a file, gone when this process is, and ready by a condition.
package program

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a child that dies with this process. Its methods are safe for concurrent use.
type Process struct {
	name    string
	log     string
	started time.Time
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended and was waited for
	state   string        // how it ended; valid once done is closed
}

// spawner runs functions on one thread that never ends. The kernel sends the parent-death signal when the thread that
// forked the child ends, and Go ends threads as it likes.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Start runs the program bin in the folder dir, which becomes its home as well; its output is added to name.log there. End it with
// Terminate or Kill.
func Start(name, bin, dir string, args []string) (*Process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	defer log.Close() // the child has its own descriptor

	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// A home of its own: none of these programs may read the user's configuration.
	cmd.Env = append(os.Environ(), "HOME="+dir, "KUBECONFIG=")
	cmd.Dir = dir
	cmd.SysProcAttr = childAttributes()

	started := make(chan error)
	spawner() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &Process{name: name, log: log.Name(), started: time.Now(), cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
		p.state = cmd.ProcessState.String()
	}()
	return p, nil
}

// Done is closed when the process has ended, whoever ended it.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID returns the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns the file that holds what the process printed.
func (p *Process) Log() string { return p.log }

// Name returns the name that the process was started under.
func (p *Process) Name() string { return p.name }

// Started returns when the process was started.
func (p *Process) Started() time.Time { return p.started }

// Exited says whether the process has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Terminate asks the process to end, and ends it when it has not within the grace period.
func (p *Process) Terminate(grace time.Duration) {
	p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.Kill()
	}
}

// Kill ends the process and waits until it is gone.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Signal reaches the whole process group. It does nothing once the process was waited for, when its id may be another's.
func (p *Process) Signal(sig syscall.Signal) {
	if !p.Exited() {
		_ = syscall.Kill(-p.cmd.Process.Pid, sig)
	}
}

// Failure is an error that ends with the last lines of the log.
func (p *Process) Failure(err error) error {
	how := ""
	if p.Exited() {
		how = " (" + p.state + ")"
	}
	return fmt.Errorf("%s%s: %w; the end of %s:\n%s", p.name, how, err, p.log, tail(p.log, 15))
}

// tail returns the last lines of a file, indented.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "  (" + err.Error() + ")"
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	all = all[max(0, len(all)-lines):]
	return "  " + strings.Join(all, "\n  ")
}
