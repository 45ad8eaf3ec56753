// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/fogsched/fogsched/test/kind"
)

const (
	imageTag   = ":e2e" // of the suite's own
	productTag = ":dev" // what the overlay names
)

// buildImages writes the archives of all images that the suite needs, and finds those of the product.
func (l *lab) buildImages(ctx context.Context) ([]string, error) {
	folder := filepath.Join(l.out, imagesFolder)
	if err := os.RemoveAll(folder); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	var archives []string
	add := func(name, tag string, files map[string]string, entrypoint string) error {
		archive, err := kind.BuildImage(name+tag, files, []string{entrypoint}, kind.InFolder(folder))
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		named := filepath.Join(folder, name+".tar")
		archives = append(archives, named)
		return os.Rename(archive, named)
	}
	for name, tag := range map[string]string{"fogsched": productTag, "fogprobe": productTag, "bulletinboard": imageTag, "boardclient": imageTag} {
		if tag == productTag && l.images != "" {
			archive := filepath.Join(l.images, name+".tar")
			if _, err := os.Stat(archive); err != nil {
				return nil, fmt.Errorf("image %s: run `make image`: %w", name, err)
			}
			archives = append(archives, archive)
			continue
		}
		program, err := sibling(name)
		if err != nil {
			return nil, err
		}
		// As in the Dockerfile.
		if err := add(name, tag, map[string]string{"/program": program}, "/program"); err != nil {
			return nil, err
		}
	}
	files, err := l.redis(ctx)
	if err != nil {
		return nil, fmt.Errorf("image redis: %w", err)
	}
	return archives, add("redis", imageTag, files, "/redis-server")
}

// redis returns the files of this machine's redis-server, as paths in a container. Debian's package redis-tools has the program and
// starts nothing: it is installed where there is no redis-server.
func (l *lab) redis(ctx context.Context) (map[string]string, error) {
	program, err := findRedis()
	if err != nil {
		if _, err := exec.LookPath("apt-get"); err != nil || os.Getuid() != 0 {
			return nil, errors.New("redis-server is missing: install it, or Debian's redis-tools, which has the program as well")
		}
		l.say("installing redis-tools (about 15 s)")
		out, err := exec.CommandContext(ctx, "sh", "-c",
			"apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-tools").CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("apt-get install redis-tools: %w: %s", err, out)
		}
		if program, err = findRedis(); err != nil {
			return nil, err
		}
	}
	return kind.WithLibraries(map[string]string{"/redis-server": program})
}

// findRedis returns the path of redis-server. Debian's redis-check-rdb is the same program, which looks at its name.
func findRedis() (string, error) {
	for _, name := range []string{"redis-server", "redis-check-rdb"} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.EvalSymlinks(path)
		}
	}
	return "", exec.ErrNotFound
}
