// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// root returns the repository's folder: the one with go.mod, at or above the working directory.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "hack", "kind", "node-image.sh")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the repository: hack/kind/node-image.sh stands in no parent folder")
		}
		dir = parent
	}
}

// program finds what the Makefile builds: in FOGSCHED_BIN, else in the repository's bin, else on PATH.
func program(name string) (string, error) {
	if dir := os.Getenv("FOGSCHED_BIN"); dir != "" {
		if p := filepath.Join(dir, name); isFile(p) {
			return p, nil
		}
	}
	if dir, err := root(); err == nil {
		if p := filepath.Join(dir, "bin", name); isFile(p) {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not built: run `make bin/%s`", name, name)
	}
	return p, nil
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// cacheDir keeps node images and the disks of our own engines.
func cacheDir() (string, error) {
	if dir := os.Getenv("FOGSCHED_KIND_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "fogsched", "kind"), nil
}

// stateDir keeps what must be found again of the cluster of this name. The path of a socket in it must stay short.
func stateDir(name string) (string, error) {
	if os.Getuid() == 0 {
		return filepath.Join("/run/fogsched-kind", name), nil
	}
	dir, err := cacheDir()
	return filepath.Join(dir, "state", name), err
}

// command runs a program that is killed softly when ctx ends, and returns its standard output; an error has what it wrote to
// standard error.
func command(ctx context.Context, env []string, stdin []byte, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	// Ctrl-C reaches a whole process group; what runs here must end in our order and not by itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		shown := args
		if len(shown) > 4 {
			shown = append(shown[:4:4], "…")
		}
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(shown, " "), err, tail(stderr.String(), 20))
	}
	return stdout.String(), nil
}

// tail returns the last n lines.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// poll calls done until it is true, every 200 ms. The error names what was waited for, and the last reason.
func poll(ctx context.Context, limit time.Duration, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	var reason error
	for {
		ok, err := done(ctx)
		if ok {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			reason = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %w after waiting for at most %s", what, ctx.Err(), limit), reason)
		case <-ticker.C:
		}
	}
}
