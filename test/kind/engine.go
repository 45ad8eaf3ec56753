// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// EngineConfig says how to start an engine.
type EngineConfig struct {
	// Name tells engines apart: lower-case letters, digits and dashes, at most 40. Starting one of the same name first
	// removes what an earlier run left.
	Name string
	// Stay leaves an engine of our own running when this process ends. Else it ends with it, however that comes about.
	Stay bool
	// Log gets a line for each thing that takes time; nil is silence.
	Log io.Writer
}

// Engine is a Docker engine: the machine's own, or one that we started.
type Engine struct {
	// Host is for DOCKER_HOST; empty is what the docker command takes by itself.
	Host string
	// Address is where ports that containers publish can be reached from this machine.
	Address string

	name string
	own  *ownEngine
	log  io.Writer
}

// validName keeps names fit for paths, cgroups, networks and host names.
var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// StartEngine finds the machine's Docker engine, or starts one of our own (Linux, as root; FOGSCHED_KIND_OWN_ENGINE=1 does
// so in any case).
func StartEngine(ctx context.Context, config EngineConfig) (*Engine, error) {
	if !validName.MatchString(config.Name) {
		return nil, fmt.Errorf("name %q: use lower-case letters, digits and dashes, at most 40", config.Name)
	}
	if config.Log == nil {
		config.Log = io.Discard
	}
	e := &Engine{Address: "127.0.0.1", name: config.Name, log: config.Log}
	if os.Getenv("FOGSCHED_KIND_OWN_ENGINE") != "1" {
		if version, err := engineVersion(ctx); err == nil {
			e.printf("using the machine's Docker engine %s", version)
			return e, nil
		}
	}
	if err := e.startOwn(ctx, config); err != nil {
		return nil, fmt.Errorf("no Docker engine answers, and starting one failed: %w", err)
	}
	return e, nil
}

func engineVersion(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := command(ctx, nil, nil, "docker", "version", "--format", "{{.Server.Version}}")
	return strings.TrimSpace(out), err
}

// Own says whether the engine is one that we started.
func (e *Engine) Own() bool { return e.own != nil }

// Env is what programs that talk to the engine need in their environment.
func (e *Engine) Env() []string {
	env := []string{"KIND_EXPERIMENTAL_PROVIDER=docker", "KIND_EXPERIMENTAL_DOCKER_NETWORK=" + e.name}
	if e.Host != "" {
		env = append(env, "DOCKER_HOST="+e.Host, "DOCKER_CONTEXT=")
	}
	return env
}

// Docker runs the docker command on this engine and returns what it prints.
func (e *Engine) Docker(ctx context.Context, args ...string) (string, error) {
	out, err := command(ctx, e.Env(), nil, "docker", args...)
	return strings.TrimSpace(out), err
}

// PID returns the process id of a running container's first process as this machine counts it: /proc/PID/ns/net is the
// container's network.
func (e *Engine) PID(ctx context.Context, container string) (int, error) {
	out, err := e.Docker(ctx, "inspect", "--format", "{{.Id}} {{.State.Pid}}", container)
	if err != nil {
		return 0, err
	}
	var id string
	var pid int
	if _, err := fmt.Sscan(out, &id, &pid); err != nil {
		return 0, fmt.Errorf("docker inspect %s: %q: %w", container, out, err)
	}
	if pid == 0 {
		return 0, fmt.Errorf("the container %s is not running", container)
	}
	if e.own == nil {
		return pid, nil
	}
	return e.own.pid(id, pid)
}

// Stop ends an engine that we started, with everything in it, and removes what it made. The machine's own is left alone.
func (e *Engine) Stop() error {
	if e.own == nil {
		return nil
	}
	return e.own.stop()
}

func (e *Engine) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(e.log, format+"\n", args...)
}
