// SPDX-License-Identifier: Apache-2.0

package delay

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// timerfd is an alarm on a kernel timer. The runtime's own timers wait in whole milliseconds when the process is idle,
// which would show as distance; a timer that is a file wakes the poller within some tens of microseconds.
type timerfd struct{ file *os.File }

func newAlarm() (alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating a timer: %w", os.NewSyscallError("timerfd_create", err))
	}
	return &timerfd{os.NewFile(uintptr(fd), "timerfd")}, nil
}

func (t *timerfd) set(d time.Duration) {
	conn, err := t.file.SyscallConn()
	if err != nil {
		return // closed
	}
	// A value of 0 would disarm the timer.
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(d, 1)))}
	_ = conn.Control(func(fd uintptr) { _ = unix.TimerfdSettime(int(fd), 0, &spec, nil) })
}

func (t *timerfd) wait() bool {
	var expirations [8]byte
	n, err := t.file.Read(expirations[:])
	return err == nil && n == len(expirations) && binary.NativeEndian.Uint64(expirations[:]) > 0
}

func (t *timerfd) close() error { return t.file.Close() }
