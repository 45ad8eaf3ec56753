// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package top

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyResize has a channel told when the terminal gets another size.
func notifyResize(c chan<- os.Signal) { signal.Notify(c, syscall.SIGWINCH) }
