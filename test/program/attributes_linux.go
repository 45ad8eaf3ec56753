// SPDX-License-Identifier: Apache-2.0

package program

import "syscall"

// childAttributes make a child that is killed when the thread that started it ends, and that a Ctrl-C in the terminal does
// not reach, so that whoever started the programs decides in which order they go.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
