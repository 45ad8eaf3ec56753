// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ownerEnv marks the process that owns a kept cluster. Everything the demo starts ends with the process that started it, so
// a cluster that is to stay needs one that stays.
const ownerEnv = "FOGSCHED_DEMO_OWNER"

const ownerFile = "kept.pid"

// runOwner runs the demo in a process of its own, shows what it prints, and returns when it is done or has failed.
func runOwner(out string) int {
	mark := filepath.Join(out, ownerFile)
	_ = os.Remove(mark)
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), ownerEnv+"=1", "FOGSCHED_DEMO_TERMINAL="+strconv.FormatBool(isTerminal(os.Stdout)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	read, write, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	_ = write.Close()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	_, _ = io.Copy(os.Stdout, read) // until it is done, or gone
	if pid, err := os.ReadFile(mark); err == nil && strings.TrimSpace(string(pid)) == strconv.Itoa(cmd.Process.Pid) {
		return 0
	}
	if err := cmd.Wait(); err != nil {
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			return code
		}
		return 1
	}
	return 0
}

// detach lets the starting process go: what this one prints from now on goes nowhere.
func detach(out string) error {
	if err := os.WriteFile(filepath.Join(out, ownerFile), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for _, fd := range []int{1, 2} {
		if err := syscall.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}
