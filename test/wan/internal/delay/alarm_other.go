// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package delay

import (
	"sync"
	"time"
)

// runtimeAlarm is an alarm on the runtime's timers, which may be late by a millisecond.
type runtimeAlarm struct {
	timer  *time.Timer
	once   sync.Once
	closed chan struct{}
}

func newAlarm() (alarm, error) {
	return &runtimeAlarm{timer: time.NewTimer(time.Hour), closed: make(chan struct{})}, nil
}

func (a *runtimeAlarm) set(d time.Duration) { a.timer.Reset(d) }

func (a *runtimeAlarm) wait() bool {
	select {
	case <-a.timer.C:
		return true
	case <-a.closed:
		return false
	}
}

func (a *runtimeAlarm) close() error {
	a.once.Do(func() { close(a.closed) })
	return nil
}
