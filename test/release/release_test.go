// SPDX-License-Identifier: Apache-2.0

//go:build release

// Package release tests what `make release` makes, on some of it: `make test-release`.
package release

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/sbom"
)

const (
	version = "v0.1.0-test.1"
	commit  = "0123456789abcdef0123456789abcdef01234567"
	epoch   = 1_700_000_000
	baseURL = "https://example.org/download/"
	prefix  = "registry.example.org/fog/"
)

// platform is this machine's: what is made for it can be run.
var platform = runtime.GOOS + "_" + runtime.GOARCH

// made is the folder of a release of fogprobe and kubectl-fog for this machine.
var made, root, bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	if root, err = cluster.RepoRoot(); err != nil {
		return fail(err)
	}
	if bin, err = cluster.BinDir(); err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp("", "fogsched-release.")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	made = filepath.Join(dir, "made")
	fmt.Println("making a release of fogprobe and kubectl-fog for this machine (about 2 min while nothing is compiled) …")
	if out, err := release(root, made, "fogprobe", "kubectl-fog"); err != nil {
		return fail(fmt.Errorf("%w\n%s", err, out))
	}
	return m.Run()
}

// release runs the program in a folder with our sources.
func release(dir, out string, args ...string) (string, error) {
	return command(dir, nil, filepath.Join(bin, "release"), append([]string{
		"-allow-dirty", "-version", version, "-commit", commit, "-epoch", fmt.Sprint(epoch), "-base-url", baseURL, "-image-prefix", prefix,
		"-platforms", runtime.GOOS + "/" + runtime.GOARCH, "-sbom-tool", filepath.Join(bin, "cyclonedx-gomod"), "-helm", filepath.Join(bin, "helm"), "-out", out,
	}, args...)...)
}

func command(dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return string(out), err
}

// Everything is there, and nothing else.
func TestFiles(t *testing.T) {
	want := []string{"checksums.txt", "fog.yaml", "fogsched-" + strings.TrimPrefix(version, "v") + ".tgz"}
	for _, program := range []string{"fogprobe", "kubectl-fog"} {
		for _, ending := range []string{".tar.gz", ".cdx.json"} {
			want = append(want, program+"_"+version+"_"+platform+ending)
		}
	}
	for _, overlay := range overlays(t) {
		want = append(want, "install-"+overlay+".yaml")
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, names(t, made)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestChecksums(t *testing.T) {
	f, err := os.Open(filepath.Join(made, "checksums.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var got []string
	for s := bufio.NewScanner(f); s.Scan(); {
		digest, name, ok := strings.Cut(s.Text(), "  ")
		if !ok {
			t.Fatalf("line %q: want what sha256sum reads", s.Text())
		}
		got = append(got, name)
		sum := sha256.Sum256(read(t, filepath.Join(made, name)))
		if digest != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: its checksum is %x, not %s", name, sum, digest)
		}
	}
	want := slices.DeleteFunc(names(t, made), func(n string) bool { return n == "checksums.txt" })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files with a checksum (-want +got):\n%s", diff)
	}
}

func TestArchives(t *testing.T) {
	for _, program := range []string{"fogprobe", "kubectl-fog"} {
		t.Run(program, func(t *testing.T) {
			base := filepath.Join(made, program+"_"+version+"_"+platform)
			type file struct {
				Mode     int64
				UID, GID int
				Unix     int64
			}
			got, contents := map[string]file{}, map[string][]byte{}
			untar(t, base+".tar.gz", func(h *tar.Header, data []byte) {
				got[h.Name], contents[h.Name] = file{h.Mode, h.Uid, h.Gid, h.ModTime.Unix()}, data
			})
			if diff := cmp.Diff(map[string]file{program: {0o755, 0, 0, epoch}, "LICENSE": {0o644, 0, 0, epoch}}, got); diff != "" {
				t.Errorf("archive (-want +got):\n%s", diff)
			}
			binary := filepath.Join(t.TempDir(), program)
			if err := os.WriteFile(binary, contents[program], 0o755); err != nil {
				t.Fatal(err)
			}
			out, err := command("", nil, binary, "--version")
			if err != nil || !strings.Contains(out, version) {
				t.Errorf("--version: %q, %v; want %s in it", out, err, version)
			}
			amiss, err := sbom.Amiss(base+".cdx.json", binary, version)
			if err != nil || len(amiss) > 0 {
				t.Errorf("SBOM: %v\n%s", err, strings.Join(amiss, "\n"))
			}
			// Those two are in go.mod as requirements of our own.
			for _, module := range []string{"k8s.io/client-go", "k8s.io/apimachinery"} {
				v := regexp.MustCompile(`(?m)^\t` + regexp.QuoteMeta(module) + ` (v\S+)`).FindSubmatch(read(t, filepath.Join(root, "go.mod")))
				if v == nil || !bytes.Contains(read(t, base+".cdx.json"), []byte("pkg:golang/"+module+"@"+string(v[1]))) {
					t.Errorf("SBOM: %s of the version in go.mod (%q) is not in it", module, v)
				}
			}
		})
	}
}

// The same sources in another folder give the same bytes. test/image does that once more with another Go, another home and nothing
// compiled before.
func TestReproducible(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "elsewhere", "fog")
	copySources(t, dir)
	again := filepath.Join(t.TempDir(), "made")
	if out, err := release(dir, again, "fogprobe", "kubectl-fog"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range names(t, made) {
		if !bytes.Equal(read(t, filepath.Join(made, name)), read(t, filepath.Join(again, name))) {
			t.Errorf("%s is another one", name)
		}
	}
}

// copySources copies the files that git knows or would take.
func copySources(t *testing.T, to string) {
	t.Helper()
	out, err := command(root, nil, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) { // deleted, and git has not heard of it
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(to, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, read(t, filepath.Join(root, name)), info.Mode().Perm())); err != nil {
			t.Fatal(err)
		}
	}
}

// Each file is taken by a real API server from one kubectl apply, and names nothing but the images of this release.
func TestManifests(t *testing.T) {
	c, err := cluster.Start(t.Context(), cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	for _, overlay := range overlays(t) {
		t.Run(overlay, func(t *testing.T) {
			file := filepath.Join(made, "install-"+overlay+".yaml")
			objects, err := cluster.ParseYAML(read(t, file))
			if err != nil {
				t.Fatal(err)
			}
			images := map[string]string{}
			for _, o := range objects {
				containers, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range containers {
					c := c.(map[string]any)
					images[o.GetKind()+" "+o.GetName()] = c["image"].(string)
					if policy, ok := c["imagePullPolicy"]; ok {
						t.Errorf("%s %s: imagePullPolicy %v, want none: the images are in a registry", o.GetKind(), o.GetName(), policy)
					}
				}
			}
			want := map[string]string{"Deployment fogsched": prefix + "fogsched:" + version, "DaemonSet fogprobe": prefix + "fogprobe:" + version}
			if diff := cmp.Diff(want, images); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
			// Twice: the second time, as an update would, with all there.
			for range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				out, err := exec.CommandContext(ctx, filepath.Join(bin, "kubectl"), "--kubeconfig", c.KubeconfigPath(), "apply", "--server-side", "--force-conflicts", "-f", file).CombinedOutput()
				if err != nil {
					t.Fatalf("kubectl apply: %v\n%s", err, out)
				}
			}
		})
	}
}

func TestChart(t *testing.T) {
	number := strings.TrimPrefix(version, "v")
	file := filepath.Join(made, "fogsched-"+number+".tgz")
	untar(t, file, func(h *tar.Header, _ []byte) {
		if h.ModTime.Unix() != epoch {
			t.Errorf("%s has the time %s", h.Name, h.ModTime)
		}
	})
	out, err := command("", nil, filepath.Join(bin, "helm"), "show", "chart", file)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"name: fogsched", "version: " + number, "appVersion: " + version} {
		if !strings.Contains("\n"+out, "\n"+want+"\n") {
			t.Errorf("the chart does not say %q:\n%s", want, out)
		}
	}
	if out, err := command("", nil, filepath.Join(bin, "helm"), "template", "fogsched", file); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// krew's own validator takes the manifest, krew installs the plugin from the archive, and kubectl finds it.
func TestKrew(t *testing.T) {
	manifest := filepath.Join(made, "fog.yaml")
	archive := filepath.Join(made, "kubectl-fog_"+version+"_"+platform+".tar.gz")
	if out, err := command("", nil, filepath.Join(bin, "validate-krew-manifest"), "-skip-install", "-manifest", manifest); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if want := baseURL + version + "/" + filepath.Base(archive); !bytes.Contains(read(t, manifest), []byte("uri: "+want+"\n")) {
		t.Errorf("the manifest has not the address %s:\n%s", want, read(t, manifest))
	}

	krewRoot := t.TempDir()
	env := []string{"KREW_ROOT=" + krewRoot, "PATH=" + filepath.Join(krewRoot, "bin") + ":" + os.Getenv("PATH")}
	if out, err := command("", env, filepath.Join(bin, "krew"), "install", "--manifest", manifest, "--archive", archive); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := command("", env, filepath.Join(bin, "kubectl"), "fog", "--version")
	if err != nil || !strings.Contains(out, version) {
		t.Errorf("kubectl fog --version: %q, %v; want %s in it", out, err, version)
	}

	// An archive that is not what the manifest says is refused.
	sum := regexp.MustCompile(`sha256: "[0-9a-f]{64}"`)
	other := filepath.Join(t.TempDir(), "fog.yaml")
	if err := os.WriteFile(other, sum.ReplaceAll(read(t, manifest), []byte(`sha256: "`+strings.Repeat("a", 64)+`"`)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := command("", []string{"KREW_ROOT=" + t.TempDir()}, filepath.Join(bin, "krew"), "install", "--manifest", other, "--archive", archive); err == nil || !strings.Contains(out, "checksum") {
		t.Errorf("krew installed an archive with another checksum: %v\n%s", err, out)
	}
}

func TestRefuses(t *testing.T) {
	dirty := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module github.com/fogsched/fogsched\n", "new": ""} {
		if err := os.WriteFile(filepath.Join(dirty, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := command(dirty, nil, "git", "init", "--quiet"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, tc := range map[string]struct {
		dir  string
		args []string
		want string
	}{
		"no version": {root, nil, "VERSION=v0.1.0"},
		"a version that krew and Helm do not take": {root, []string{"-version", "1.0"}, "VERSION=v0.1.0"},
		"a tree that is not its commit's":          {dirty, []string{"-version", version}, "?? new"},
		"a program that is not there":              {root, []string{"-version", version, "-allow-dirty", "-out", t.TempDir(), "nothing"}, "cmd/nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := command(tc.dir, nil, filepath.Join(bin, "release"), tc.args...)
			if err == nil || !strings.Contains(out, tc.want) {
				t.Errorf("error %v, said %q; want a failure that says %q", err, out, tc.want)
			}
		})
	}
}

func overlays(t *testing.T) []string {
	t.Helper()
	return names(t, filepath.Join(root, "manifests", "overlays"))
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func untar(t *testing.T, name string, f func(*tar.Header, []byte)) {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(read(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(zr); ; {
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
