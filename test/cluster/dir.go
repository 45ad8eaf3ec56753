// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	dirPattern = "fogsched-cluster-*"
	lockFile   = "lock"
	keepFile   = "keep"
)

// newDir makes the cluster's folder and takes a lock in it, which the kernel frees when this process ends, however it does.
func newDir() (string, *os.File, error) {
	dir, err := os.MkdirTemp("", dirPattern)
	if err != nil {
		return "", nil, fmt.Errorf("making the cluster's folder: %w", err)
	}
	// The lock gets its name only once it is held, so that no other process takes the folder for a stale one.
	tmp := filepath.Join(dir, lockFile+".tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, lockFile))
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("locking the cluster's folder: %w", err)
	}
	return dir, f, nil
}

// removeStaleDirs removes the folders of clusters whose process was killed: nobody holds their lock any more.
func removeStaleDirs() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPattern))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, keepFile)); err == nil {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		_ = f.Close()
	}
}
