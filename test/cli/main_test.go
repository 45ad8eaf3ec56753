// SPDX-License-Identifier: Apache-2.0

// Package cli tests kubectl-fog, the program, on a real API server: how fast its commands answer, what they say without a permission, and
// that kubectl finds and completes it.
package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fogsched/fogsched/test/cluster"
)

// control is the control plane that the tests of this package share, with our CRDs.
var control *cluster.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run is apart from TestMain because os.Exit would skip its deferred Stop.
func run(m *testing.M) int {
	ctx := context.Background()
	c, err := cluster.Start(ctx, cluster.Options{
		// The nodes are nobody's: they need no heartbeat, and their pods no kubelet.
		ControllerManagerArgs: []string{"--controllers=*,-node-lifecycle-controller,-pod-garbage-collector-controller"},
	})
	if err != nil {
		// Never a skip: a run without these tests must not look like one in which they passed.
		fmt.Fprintf(os.Stderr, "FAIL: the tests of kubectl-fog need a control plane: %v\n", err)
		return 1
	}
	defer c.Stop()
	control = c
	if err := c.ApplyKustomize(ctx, cluster.CRDs); err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: the API server refuses the CRDs: %v\n", err)
		return 1
	}
	code := m.Run()
	if err := c.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: the control plane ended during the tests:", err)
		return 1
	}
	return code
}

// program returns the path of a program in bin/.
func program(t *testing.T, name, target string) string {
	t.Helper()
	dir, err := cluster.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing: run `make %s`", path, target)
	}
	return path
}

// outcome is what a run of the program did.
type outcome struct {
	out, err string
	code     int
	took     time.Duration
	cpu      time.Duration
}

// fog runs kubectl-fog as a user.
func fog(t *testing.T, kubeconfig string, args ...string) outcome {
	t.Helper()
	return start(t, kubeconfig, args...).wait(t)
}

// running is a run of the program that has not ended.
type running struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
	from     time.Time
}

func start(t *testing.T, kubeconfig string, args ...string) *running {
	t.Helper()
	r := &running{cmd: exec.CommandContext(t.Context(), program(t, "kubectl-fog", "build"), args...)}
	r.cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.err
	r.from = time.Now()
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *running) wait(t *testing.T) outcome {
	t.Helper()
	err := r.cmd.Wait()
	o := outcome{out: r.out.String(), err: strings.TrimSpace(r.err.String()), took: time.Since(r.from)}
	if exit := (*exec.ExitError)(nil); err != nil {
		if !asExit(err, &exit) {
			t.Fatal(err)
		}
		o.code = exit.ExitCode()
	}
	o.cpu = r.cmd.ProcessState.UserTime() + r.cmd.ProcessState.SystemTime()
	return o
}
