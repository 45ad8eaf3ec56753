// SPDX-License-Identifier: Apache-2.0

package cluster

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

// process is a child that dies with this process.
type process struct {
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

func startProcess(name, bin, dir string, args []string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
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
	p := &process{name: name, log: log.Name(), started: time.Now(), cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
		p.state = cmd.ProcessState.String()
	}()
	return p, nil
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// terminate asks the process to end, and ends it when it has not within the grace period.
func (p *process) terminate(grace time.Duration) {
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.kill()
	}
}

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// signal reaches the whole process group. It does nothing once the process was waited for, when its id may be another's.
func (p *process) signal(sig syscall.Signal) {
	if !p.exited() {
		_ = syscall.Kill(-p.cmd.Process.Pid, sig)
	}
}

// failure is an error that ends with the last lines of the log.
func (p *process) failure(err error) error {
	how := ""
	if p.exited() {
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
