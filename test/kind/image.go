// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Nonroot is the user that BuildImage's images run as unless told otherwise.
const Nonroot = 65532

type imageOptions struct {
	config ImageConfig
	dirs   map[string]int
	dir    string
}

// ImageOption changes what BuildImage makes.
type ImageOption func(*imageOptions)

// WithUser runs the container as the given uid and gid; 0 is root.
func WithUser(id int) ImageOption {
	return func(o *imageOptions) { o.config.User = fmt.Sprintf("%d:%d", id, id) }
}

// WithEnv adds NAME=value settings.
func WithEnv(env ...string) ImageOption {
	return func(o *imageOptions) { o.config.Env = append(o.config.Env, env...) }
}

// WithDirectory adds an empty folder of the given owner, mode 0755.
func WithDirectory(containerPath string, uid int) ImageOption {
	return func(o *imageOptions) { o.dirs[containerPath] = uid }
}

// InFolder writes the archive to the given folder and not to the one for temporary files.
func InFolder(dir string) ImageOption {
	return func(o *imageOptions) { o.dir = dir }
}

// BuildImage writes a docker archive of one layer, without an engine, and returns its path; the caller removes it. files maps
// paths in the container to paths on this machine; they belong to root, keep their mode, and symbolic links are followed.
// What stands in an image depends on nothing but its input: the same files give the same image.
func BuildImage(tag string, files map[string]string, entrypoint []string, opts ...ImageOption) (archive string, err error) {
	o := imageOptions{
		config: ImageConfig{
			User:       fmt.Sprintf("%d:%d", Nonroot, Nonroot),
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Entrypoint: entrypoint,
		},
		dirs: map[string]int{"/tmp": 0},
	}
	for _, opt := range opts {
		opt(&o)
	}
	layer, err := os.CreateTemp(o.dir, "layer-*.tar")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(layer.Name()) }()
	if err := writeLayer(layer, files, o.dirs); err != nil {
		_ = layer.Close()
		return "", fmt.Errorf("image %s: %w", tag, err)
	}
	if err := layer.Close(); err != nil {
		return "", err
	}
	out, err := os.CreateTemp(o.dir, "image-*.tar")
	if err != nil {
		return "", err
	}
	if err := out.Close(); err != nil {
		return "", err
	}
	if err := WriteArchive(out.Name(), tag, o.config, layer.Name()); err != nil {
		_ = os.Remove(out.Name())
		return "", fmt.Errorf("image %s: %w", tag, err)
	}
	return out.Name(), nil
}

// writeLayer writes files and folders in a fixed order, every parent folder before what stands in it.
func writeLayer(w io.Writer, files map[string]string, dirs map[string]int) error {
	tw := tar.NewWriter(w)
	names := map[string]bool{}
	for name := range files {
		names[path.Clean("/"+name)] = true
	}
	owner := map[string]int{}
	for name, uid := range dirs {
		name = path.Clean("/" + name)
		names[name], owner[name] = true, uid
	}
	for name := range names {
		for parent := path.Dir(name); parent != "/"; parent = path.Dir(parent) {
			names[parent] = true
		}
	}
	source := map[string]string{}
	for name, from := range files {
		source[path.Clean("/"+name)] = from
	}
	ordered := make([]string, 0, len(names))
	for name := range names {
		ordered = append(ordered, name)
	}
	slices.Sort(ordered)
	for _, name := range ordered {
		from, isFile := source[name]
		if !isFile {
			mode := int64(0o755)
			if name == "/tmp" {
				mode = 0o1777
			}
			header := &tar.Header{Typeflag: tar.TypeDir, Name: name[1:] + "/", Mode: mode, Uid: owner[name], Gid: owner[name]}
			if err := tw.WriteHeader(header); err != nil {
				return err
			}
			continue
		}
		if err := addFile(tw, name[1:], from); err != nil {
			return err
		}
	}
	return tw.Close()
}

// WithLibraries returns files and, for each program among them, the shared libraries that ldd lists for it, each at its own
// path. A static program has none. What a program opens only while it runs (modules, locales) ldd does not know.
func WithLibraries(files map[string]string) (map[string]string, error) {
	all := map[string]string{}
	for name, from := range files {
		all[name] = from
	}
	for _, from := range files {
		var stderr bytes.Buffer
		cmd := exec.Command("ldd", from)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		message := string(out) + stderr.String()
		if strings.Contains(message, "not a dynamic executable") || strings.Contains(message, "statically linked") {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ldd %s: %w: %s", from, err, stderr.String())
		}
		libraries, err := parseLdd(string(out))
		if err != nil {
			return nil, fmt.Errorf("ldd %s: %w", from, err)
		}
		for _, library := range libraries {
			all[library] = library
		}
	}
	return all, nil
}

// parseLdd takes the paths from lines like "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)".
func parseLdd(out string) ([]string, error) {
	var libraries []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "linux-vdso") || strings.HasPrefix(fields[0], "linux-gate") {
			continue
		}
		name := fields[0]
		if len(fields) > 2 && fields[1] == "=>" {
			name = fields[2]
		}
		if !filepath.IsAbs(name) {
			return nil, fmt.Errorf("%q: install the package that has this library", strings.TrimSpace(line))
		}
		libraries = append(libraries, name)
	}
	return libraries, nil
}
