// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package program

import "syscall"

// childAttributes lack the parent-death signal, which only Linux has: there the children outlive a parent that is killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
