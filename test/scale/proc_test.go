// SPDX-License-Identifier: Apache-2.0

//go:build scale

package scale

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what a process uses.
type usage struct {
	at  time.Time
	cpu time.Duration // since its start
	// resident and peak are in bytes; file is the part of resident that is the program's own file and the like.
	resident, peak, file int64
}

// clockTick is the unit of /proc/PID/stat: USER_HZ, which is 100 on every architecture that Go knows.
const clockTick = 10 * time.Millisecond

// usageOf reads what a process uses.
func usageOf(pid int) (usage, error) {
	u := usage{at: time.Now()}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	// The name, in parentheses, may hold blanks.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, field := range fields[11:13] { // utime and stime
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return u, fmt.Errorf("%s/stat: %w", dir, err)
		}
		u.cpu += time.Duration(ticks) * clockTick
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return u, err
	}
	for key, to := range map[string]*int64{"VmRSS:": &u.resident, "VmHWM:": &u.peak, "RssFile:": &u.file} {
		if *to, err = kilobytes(string(status), key); err != nil {
			return u, fmt.Errorf("%s/status: %w", dir, err)
		}
	}
	return u, nil
}

func kilobytes(status, key string) (int64, error) {
	for line := range strings.Lines(status) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == key {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("has no %s", key)
}

// cores returns how many cores a process used between two moments.
func cores(from, to usage) float64 { return float64(to.cpu-from.cpu) / float64(to.at.Sub(from.at)) }

const mib = 1 << 20

func mebibytes(b int64) float64 { return float64(b) / mib }
