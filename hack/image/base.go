// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/fogsched/fogsched/test/kind"
)

// localGo is the name, before the colon, of the image that stands in for the official one of Go.
const localGo = "fogsched/local-go"

// importLocalGo makes an image of this machine's Go, of the modules that go.mod names, and of a shell, for engines that reach neither a
// registry nor a module proxy. The go command in it finds the modules as it would on any proxy.
func importLocalGo(ctx context.Context, engine *kind.Engine, root string) (string, error) {
	if runtime.GOOS != "linux" {
		return "", errors.New("only a Linux machine's own Go can stand in for the official image: set GO_IMAGE")
	}
	out, err := goCommand(ctx, root, "env", "GOROOT", "GOVERSION", "GOMODCACHE")
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 3 {
		return "", fmt.Errorf("go env: %q", out)
	}
	goroot, version, modcache := lines[0], lines[1], lines[2]
	zips, err := moduleZips(ctx, root)
	if err != nil {
		return "", err
	}
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		return "", err
	}
	files, err := kind.WithLibraries(map[string]string{"/bin/sh": shell})
	if err != nil {
		return "", err
	}

	name := localGo + ":" + version
	args := []string{"import"}
	for _, setting := range []string{
		"PATH=/usr/local/go/bin:/bin", "GOPATH=/go", "GOTOOLCHAIN=local", "GOFLAGS=",
		// go.sum says what each module must be; there is nobody else to ask.
		"GOPROXY=file:///goproxy", "GOSUMDB=off",
	} {
		args = append(args, "--change", "ENV "+setting)
	}
	cmd := exec.CommandContext(ctx, "docker", append(args, "-", name)...)
	cmd.Env = append(os.Environ(), engine.Env()...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return "", err
	}
	err = writeBase(stdin, files, goroot, filepath.Join(modcache, "cache", "download"), zips)
	err = errors.Join(err, stdin.Close())
	if waited := cmd.Wait(); waited != nil {
		return "", fmt.Errorf("docker import: %w: %s", errors.Join(waited, err), said.String())
	}
	return name, err
}

// moduleZips downloads what go.mod names, and returns the paths of the archives.
func moduleZips(ctx context.Context, root string) (map[string]bool, error) {
	out, err := goCommand(ctx, root, "mod", "download", "-json")
	if err != nil {
		return nil, err
	}
	zips := map[string]bool{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var module struct{ Path, Error, Zip string }
		err := d.Decode(&module)
		switch {
		case errors.Is(err, io.EOF):
			return zips, nil
		case err != nil:
			return nil, fmt.Errorf("go mod download: %w", err)
		case module.Error != "":
			return nil, fmt.Errorf("module %s: %s", module.Path, module.Error)
		}
		zips[module.Zip] = true
	}
}

func goCommand(ctx context.Context, root string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s%s", strings.Join(args, " "), err, said.String(), out)
	}
	return out, nil
}

// writeBase writes the files of the image: the given ones, Go, and the folder that the go command uses as its proxy.
func writeBase(w io.Writer, files map[string]string, goroot, proxy string, zips map[string]bool) error {
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return err
	}
	for name, from := range files {
		if err := addFile(tw, name, from); err != nil {
			return err
		}
	}
	err := addTree(tw, goroot, "usr/local/go", func(rel string, d fs.DirEntry) bool {
		switch rel {
		case "api", "doc", "misc", "test", "src/cmd": // what compiles nothing
			return false
		}
		return d.Name() != "testdata" && !strings.HasSuffix(rel, "_test.go")
	})
	if err != nil {
		return err
	}
	err = addTree(tw, proxy, "goproxy", func(rel string, d fs.DirEntry) bool {
		switch path.Ext(rel) {
		case ".mod", ".info":
			return true
		case ".zip":
			return zips[filepath.Join(proxy, rel)]
		}
		return d.IsDir() && rel != "sumdb"
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

// addTree adds the files below a folder that want takes, under another name. A folder that it does not take is left out whole.
func addTree(tw *tar.Writer, root, as string, want func(rel string, d fs.DirEntry) bool) error {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(p, root+string(filepath.Separator)))
		switch {
		case !want(rel, d) && d.IsDir():
			return filepath.SkipDir
		case !want(rel, d) || d.IsDir():
			return nil
		}
		return addFile(tw, path.Join(as, rel), p)
	})
}

// addFile adds one file, which belongs to root.
func addFile(tw *tar.Writer, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(name, "/"), Mode: int64(info.Mode().Perm()), Size: info.Size(), ModTime: info.ModTime()}
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}
