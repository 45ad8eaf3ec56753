// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The script before runc takes the one capability out, wherever it stands, and hands everything on.
func TestRuntimeScript(t *testing.T) {
	const spec = `{"process":{"capabilities":{"bounding":["CAP_SYS_RAWIO","CAP_SYS_RESOURCE","CAP_SYS_TIME"],` +
		`"effective":["CAP_SYS_RESOURCE","CAP_CHOWN"],"permitted":["CAP_CHOWN","CAP_SYS_RESOURCE"],"ambient":["CAP_SYS_RESOURCE"]}}}`
	const want = `{"process":{"capabilities":{"bounding":["CAP_SYS_RAWIO","CAP_SYS_TIME"],` +
		`"effective":["CAP_CHOWN"],"permitted":["CAP_CHOWN"],"ambient":[]}}}`
	for name, args := range map[string][]string{
		"create":                        {"--root", "/run/x", "create", "--bundle", "BUNDLE", "--pid-file", "p", "id"},
		"create, with an equals sign":   {"create", "--bundle=BUNDLE", "id"},
		"exec":                          {"exec", "--process", "BUNDLE/config.json", "--detach", "id"},
		"what concerns no container":    {"--version"},
		"a bundle that is not there":    {"create", "--bundle", "BUNDLE/nothing", "id"},
		"an argument with spaces in it": {"exec", "-p", "BUNDLE/config.json", "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			bundle := filepath.Join(dir, "bundle")
			if err := os.Mkdir(bundle, 0o755); err != nil {
				t.Fatal(err)
			}
			write := func(path, content string) {
				if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			write(filepath.Join(bundle, "config.json"), spec)
			write(filepath.Join(dir, "runtime.sh"), runtimeScript)
			write(filepath.Join(dir, "runc"), "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
			given := make([]string, len(args))
			for i, arg := range args {
				given[i] = strings.ReplaceAll(arg, "BUNDLE", bundle)
			}
			cmd := exec.Command("/bin/sh", append([]string{filepath.Join(dir, "runtime.sh")}, given...)...)
			cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if diff := cmp.Diff(given, strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")); diff != "" {
				t.Errorf("what runc got (-want +got):\n%s", diff)
			}
			expected := spec
			if strings.Contains(strings.Join(args, " "), "BUNDLE/config.json") || strings.Contains(name, "create") {
				expected = want
			}
			got, err := os.ReadFile(filepath.Join(bundle, "config.json"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(expected, string(got)); diff != "" {
				t.Errorf("config.json (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRoutes(t *testing.T) {
	got := routes("default via 192.0.2.1 dev eth0 \n" +
		"172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1 \n" +
		"192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2 \n" +
		"local 127.0.0.1 dev lo table local \n" +
		"blackhole 10.1.0.0/16 \n" +
		"172.29.8.7 via 192.0.2.9 dev eth0 \n")
	want := []netip.Prefix{
		netip.MustParsePrefix("172.17.0.0/16"),
		netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("127.0.0.1/32"),
		netip.MustParsePrefix("10.1.0.0/16"),
		netip.MustParsePrefix("172.29.8.7/32"),
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNamespacePIDs(t *testing.T) {
	for name, test := range map[string]struct {
		status string
		want   []int
	}{
		"a container of our engine":      {"Name:\tsystemd\nNStgid:\t9 8 1\nNSpid:\t9001\t42\t1\nNSpgid:\t1\n", []int{9001, 42, 1}},
		"a process of the machine":       {"NSpid:\t77\n", []int{77}},
		"a kernel without the line":      {"Name:\tx\n", nil},
		"a line that nobody understands": {"NSpid:\t77\tx\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, namespacePIDs(test.status)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A number that another process has now is not the engine.
func TestStartedTellsProcessesApart(t *testing.T) {
	now, err := started(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if o := (&ownEngine{Init: os.Getpid(), Started: now}); !o.running() {
		t.Error("this process does not run")
	}
	if o := (&ownEngine{Init: os.Getpid(), Started: "1 another-boot"}); o.running() {
		t.Error("a process that started at another time is taken for this one")
	}
	if o := (&ownEngine{}); o.running() {
		t.Error("an engine without a process runs")
	}
}

func TestLinkNamesFitTheKernel(t *testing.T) {
	a, b := linkName(strings.Repeat("x", 40)), linkName(strings.Repeat("x", 39))
	if len(a) > 15 || a == b {
		t.Errorf("%s and %s", a, b)
	}
}
