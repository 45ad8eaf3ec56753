// SPDX-License-Identifier: Apache-2.0

//go:build image && linux

// Package image tests the images that the Dockerfile makes: `make test-image`. The builds are real ones, in an engine without any way
// out, on bases that are made on the spot.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fogsched/fogsched/test/kind"
	"github.com/fogsched/fogsched/test/program"
	"github.com/fogsched/fogsched/test/sbom"
)

// maxSize is what a program may weigh, in bytes: some more than it did when this was written (76 and 19 MB).
var maxSize = map[string]int64{"fogsched": 90e6, "fogprobe": 25e6}

// bed is where the tests work.
type bed struct {
	root, bin       string
	engine          *kind.Engine
	version, commit string
}

func TestImages(t *testing.T) {
	root, err := program.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := program.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{root: root, bin: bin, version: version(), commit: or(os.Getenv("COMMIT"), "unknown")}
	b.engine, err = kind.StartEngine(t.Context(), kind.EngineConfig{Name: "fogsched-image-test", Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.engine.Stop(); err != nil {
			t.Errorf("stopping the engine: %v", err)
		}
	})
	host, err := b.engine.Docker(t.Context(), "version", "--format", "{{.Server.Arch}}")
	if err != nil {
		t.Fatal(err)
	}

	// On an empty image, by the builder that docker takes by itself. These archives stay: the end-to-end tests run them.
	out := filepath.Join(root, "out", "image")
	if !t.Run("on an empty image", func(t *testing.T) {
		b.build(t, nil, "-local", "-out", out)
		for _, name := range []string{"fogsched", "fogprobe"} {
			t.Run(name, func(t *testing.T) {
				i := open(t, filepath.Join(out, name+".tar"))
				i.check(t, b, name, host, []string{"licenses/LICENSE", "program"})
				b.runs(t, name)
				amiss, err := sbom.Amiss(filepath.Join(out, name+".cdx.json"), i.program(t), b.version)
				if err != nil || len(amiss) > 0 {
					t.Errorf("SBOM: %v\n%s", err, strings.Join(amiss, "\n"))
				}
			})
		}
	}) {
		return // all that follows would say the same
	}

	t.Run("on a base like distroless", func(t *testing.T) {
		base := map[string]string{"etc/passwd": "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n", "etc/ssl/certs/ca-certificates.crt": "none\n"}
		b.importBase(t, "fogsched-test/static:nonroot", base)
		out := t.TempDir()
		b.build(t, nil, "-go-image", b.localGo(t), "-base-image", "fogsched-test/static:nonroot", "-tag", "based", "-out", out) // both: compiled already
		i := open(t, filepath.Join(out, "fogprobe.tar"))
		i.check(t, b, "fogprobe", host, append(slices.Collect(maps.Keys(base)), "licenses/LICENSE", "program"))
	})

	// What was compiled in the container and what a release compiles, in another folder, with other caches and another home, must be the
	// same: so anybody can tell whether an image or a release is of this source.
	t.Run("compiles the same as a release", func(t *testing.T) {
		inImage, err := os.ReadFile(open(t, filepath.Join(out, "fogprobe.tar")).program(t))
		if err != nil {
			t.Fatal(err)
		}
		released := t.TempDir()
		b.command(t, nil, filepath.Join(bin, "release"), "-allow-dirty", "-version", b.version, "-commit", b.commit, "-platforms", "linux/"+host,
			"-sbom-tool", filepath.Join(bin, "cyclonedx-gomod"), "-helm", filepath.Join(bin, "helm"), "-out", released, "fogprobe")
		archive := filepath.Join(released, fmt.Sprintf("fogprobe_%s_linux_%s.tar.gz", b.version, host))
		if !bytes.Equal(inImage, fromTarGz(t, archive, "fogprobe")) {
			t.Error("the program in the image is not byte for byte that of the release")
		}
	})

	t.Run("for another architecture, by BuildKit", func(t *testing.T) {
		goarch := map[string]string{"amd64": "arm64", "arm64": "amd64"}[host]
		out := t.TempDir()
		b.build(t, b.buildKit(t), "-go-image", b.localGo(t), "-base-image", "scratch", "-platforms", "linux/"+goarch, "-tag", goarch, "-out", out, "fogprobe")
		i := open(t, filepath.Join(out, "fogprobe.tar"))
		i.check(t, b, "fogprobe", goarch, []string{"licenses/LICENSE", "program"})
		amiss, err := sbom.Amiss(filepath.Join(out, "fogprobe.cdx.json"), i.program(t), b.version)
		if err != nil || len(amiss) > 0 {
			t.Errorf("SBOM: %v\n%s", err, strings.Join(amiss, "\n"))
		}
	})
}

// version is one that a release would take.
func version() string {
	v := or(os.Getenv("VERSION"), "unknown")
	if regexp.MustCompile(`^v\d+\.\d+\.\d+`).MatchString(v) {
		return v
	}
	return "v0.0.0-" + v
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

func (b *bed) command(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = b.root
	cmd.Env = append(append(os.Environ(), b.engine.Env()...), env...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v", filepath.Base(name), strings.Join(args, " "), err)
	}
}

// build does what `make image` does, in the engine of the test.
func (b *bed) build(t *testing.T, env []string, args ...string) {
	t.Helper()
	b.command(t, env, filepath.Join(b.bin, "image"), append([]string{
		"-sbom-tool", filepath.Join(b.bin, "cyclonedx-gomod"), "-version", b.version, "-commit", b.commit,
	}, args...)...)
}

// localGo is the image that the first build made.
func (b *bed) localGo(t *testing.T) string {
	t.Helper()
	names, err := b.engine.Docker(t.Context(), "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "fogsched/local-go")
	if err != nil || names == "" || strings.Contains(names, "\n") {
		t.Fatalf("images of the local Go: %q, %v", names, err)
	}
	return names
}

// buildKit is the environment in which docker builds by BuildKit: by its plugin buildx or, where it comes without, by the one in the
// engine, which the docker command of Debian's docker.io asks by itself.
func (b *bed) buildKit(t *testing.T) []string {
	t.Helper()
	env := []string{"DOCKER_BUILDKIT=1"}
	if _, err := b.engine.Docker(t.Context(), "buildx", "version"); err == nil {
		return env
	}
	const debian = "/usr/bin/docker"
	if out, err := exec.CommandContext(t.Context(), debian, "--version").Output(); err != nil || !strings.Contains(string(out), " 20.10.") {
		t.Fatalf("docker has no buildx, and %s is not Debian's 20.10: %s (%v)", debian, out, err)
	}
	dir := t.TempDir()
	if err := os.Symlink(debian, filepath.Join(dir, "docker")); err != nil {
		t.Fatal(err)
	}
	return append(env, "PATH="+dir+":"+os.Getenv("PATH"))
}

// importBase makes an image of some files.
func (b *bed) importBase(t *testing.T, name string, files map[string]string) {
	t.Helper()
	var buffer bytes.Buffer
	tw := tar.NewWriter(&buffer)
	for name, text := range files {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "base.tar")
	if err := os.WriteFile(file, buffer.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.engine.Docker(t.Context(), "import", file, name); err != nil {
		t.Fatal(err)
	}
}

// runs starts the program as a pod under Pod Security restricted would.
func (b *bed) runs(t *testing.T, name string) {
	t.Helper()
	out, err := b.engine.Docker(context.WithoutCancel(t.Context()), "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL",
		"--security-opt", "no-new-privileges", name+":dev", "--version")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, b.version) {
		t.Errorf("%s --version prints %q, want %s in it", name, out, b.version)
	}
}

// image is what stands in a docker archive.
type image struct {
	config struct {
		Architecture, OS string
		Config           struct {
			User            string
			Entrypoint, Cmd []string
			Labels          map[string]string
		}
	}
	files map[string]*tar.Header
	// binary is what /program is.
	binary []byte
}

func open(t *testing.T, archive string) *image {
	t.Helper()
	contents := map[string][]byte{}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	each(t, f, func(h *tar.Header, data []byte) { contents[h.Name] = data })
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(contents["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("%s: manifest.json: %d images, %v", archive, len(manifest), err)
	}
	i := &image{files: map[string]*tar.Header{}}
	if err := json.Unmarshal(contents[manifest[0].Config], &i.config); err != nil {
		t.Fatalf("%s: configuration: %v", archive, err)
	}
	for _, layer := range manifest[0].Layers {
		each(t, bytes.NewReader(contents[layer]), func(h *tar.Header, data []byte) {
			if h.Typeflag == tar.TypeDir {
				return
			}
			name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
			i.files[name] = h
			if name == "program" {
				i.binary = data
			}
		})
	}
	return i
}

func each(t *testing.T, r io.Reader, f func(*tar.Header, []byte)) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		f(h, data)
	}
}

// program writes the program into a file and returns its path.
func (i *image) program(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, i.binary, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// check looks at everything that the image promises.
func (i *image) check(t *testing.T, b *bed, name, goarch string, files []string) {
	t.Helper()
	if c := i.config; c.OS != "linux" || c.Architecture != goarch {
		t.Errorf("it is for %s/%s, want linux/%s", c.OS, c.Architecture, goarch)
	}
	c := i.config.Config
	if c.User != "65532:65532" {
		t.Errorf("user %q, want 65532:65532", c.User)
	}
	if !slices.Equal(c.Entrypoint, []string{"/program"}) || len(c.Cmd) > 0 {
		t.Errorf("entrypoint %q, command %q, want /program and none", c.Entrypoint, c.Cmd)
	}
	const prefix = "org.opencontainers.image."
	if diff := cmp.Diff(map[string]string{
		prefix + "title":       name,
		prefix + "description": name + " of fogsched: Kubernetes scheduling by measured latency",
		prefix + "source":      "https://github.com/fogsched/fogsched",
		prefix + "licenses":    "Apache-2.0",
		prefix + "version":     b.version,
		prefix + "revision":    b.commit,
	}, c.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	slices.Sort(files)
	if diff := cmp.Diff(files, slices.Sorted(maps.Keys(i.files))); diff != "" {
		t.Fatalf("files (-want +got):\n%s", diff)
	}
	if h := i.files["program"]; h.Typeflag != tar.TypeReg || h.Mode&0o7777 != 0o755 || h.Uid != 0 || h.Gid != 0 {
		t.Errorf("/program: type %q, mode %o, owner %d:%d, want a file 755 of root's, which it cannot change", h.Typeflag, h.Mode, h.Uid, h.Gid)
	}
	if size := i.files["program"].Size; size > maxSize[name] {
		t.Errorf("/program has %d bytes, want %d at most", size, maxSize[name])
	}

	file, err := elf.NewFile(bytes.NewReader(i.binary))
	if err != nil {
		t.Fatal(err)
	}
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[goarch]
	if file.Machine != machine {
		t.Errorf("the program is for %s, want %s", file.Machine, machine)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_DYNAMIC || p.Type == elf.PT_INTERP {
			t.Errorf("the program is not static: it has %s", p.Type)
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(i.binary))
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	for key, want := range map[string]string{"-trimpath": "true", "CGO_ENABLED": "0", "GOARCH": goarch} {
		if settings[key] != want {
			t.Errorf("built with %s=%q, want %q", key, settings[key], want)
		}
	}
	if want := "github.com/fogsched/fogsched/cmd/" + name; info.Path != want {
		t.Errorf("it is %s, want %s", info.Path, want)
	}
	for _, folder := range []string{"/go/pkg/mod", "/src/cmd", b.root} {
		if bytes.Contains(i.binary, []byte(folder)) {
			t.Errorf("the program knows the folder %s of the machine that built it", folder)
		}
	}
}

// fromTarGz returns one file of an archive.
func fromTarGz(t *testing.T, archive, name string) (data []byte) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	each(t, zr, func(h *tar.Header, d []byte) {
		if h.Name == name {
			data = d
		}
	})
	return data
}
