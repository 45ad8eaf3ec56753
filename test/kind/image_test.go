// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An image that BuildImage makes, as a container runtime reads it.
func TestBuildImage(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	build := func() string {
		archive, err := BuildImage("fogsched/x:1",
			map[string]string{"/usr/bin/program": program, "other": filepath.Join(dir, "link")},
			[]string{"/usr/bin/program", "-v"}, InFolder(dir), WithEnv("A=b"), WithDirectory("/data/x", 7))
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
	archive := build()
	files := untar(t, archive)

	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 {
		t.Fatalf("want one image of one layer: %+v", manifest)
	}
	if got := manifest[0].RepoTags; !cmp.Equal(got, []string{"fogsched/x:1"}) {
		t.Errorf("tags: %v", got)
	}
	if tag, err := archiveTag(archive); err != nil || tag != "fogsched/x:1" {
		t.Errorf("archiveTag: %q, %v", tag, err)
	}

	var config struct {
		OS     string
		Config ImageConfig
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	want := ImageConfig{
		User:       "65532:65532",
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=b"},
		Entrypoint: []string{"/usr/bin/program", "-v"},
	}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	layer := files[manifest[0].Layers[0]]
	sum := sha256.Sum256(layer)
	if want := []string{"sha256:" + hex.EncodeToString(sum[:])}; !cmp.Equal(want, config.RootFS.DiffIDs) {
		t.Errorf("diff_ids: %v, but the layer's digest is %v", config.RootFS.DiffIDs, want)
	}

	type entry struct {
		Name string
		Mode int64
		UID  int
	}
	var entries []entry
	for tr := tar.NewReader(bytes.NewReader(layer)); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{header.Name, header.Mode, header.Uid})
	}
	if diff := cmp.Diff([]entry{
		{"data/", 0o755, 0},
		{"data/x/", 0o755, 7},
		{"other", 0o755, 0},
		{"tmp/", 0o1777, 0},
		{"usr/", 0o755, 0},
		{"usr/bin/", 0o755, 0},
		{"usr/bin/program", 0o755, 0},
	}, entries); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}

	first, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(build())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the same files gave another image")
	}
	rest, err := filepath.Glob(filepath.Join(dir, "layer-*"))
	if err != nil || len(rest) > 0 {
		t.Errorf("left behind: %v, %v", rest, err)
	}
}

func TestBuildImageRefuses(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"a file that is not there": {"/x": "/no/such/file"},
		"a folder":                 {"/x": t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if archive, err := BuildImage("x:1", files, nil, InFolder(dir)); err == nil {
				t.Errorf("made %s", archive)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func untar(t *testing.T, name string) map[string][]byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	files := map[string][]byte{}
	for tr := tar.NewReader(f); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

// The shell of this machine, with what ldd says it needs, runs in a folder of its own: chroot needs root, so only the paths
// are compared elsewhere.
func TestWithLibraries(t *testing.T) {
	if _, err := exec.LookPath("ldd"); err != nil {
		t.Log("no ldd on this machine: only its output's reader is tested, below")
		return
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := WithLibraries(map[string]string{"/bin/sh": "/bin/sh", "/script": script})
	if err != nil {
		t.Fatal(err)
	}
	if files["/bin/sh"] != "/bin/sh" || files["/script"] != script {
		t.Errorf("the programs themselves are missing: %v", files)
	}
	var libc bool
	for path, from := range files {
		if path != "/script" && path != from {
			t.Errorf("%s comes from %s", path, from)
		}
		libc = libc || strings.Contains(path, "/libc.so") || strings.Contains(path, "/libc.musl")
	}
	if !libc {
		t.Errorf("no libc among %v", slices.Sorted(maps.Keys(files)))
	}
}

func TestParseLdd(t *testing.T) {
	for name, test := range map[string]struct {
		out  string
		want []string
		err  string
	}{
		"what glibc's prints": {
			out: "\tlinux-vdso.so.1 (0x00007ffd3a5f2000)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f7)\n" +
				"\t/lib64/ld-linux-x86-64.so.2 (0x00007f9)\n",
			want: []string{"/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"},
		},
		"a library that this machine does not have": {
			out: "\tlibx.so.1 => not found\n",
			err: "install the package",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseLdd(test.out)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
