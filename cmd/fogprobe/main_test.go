// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fogsched/fogsched/pkg/publish"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestHelpTeaches(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, env(), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"STAMP", "DaemonSet", "--peers", "--interval", "--rate", "default 0.3", "It never counts as a latency", "$NODE_NAME"} {
		if !strings.Contains(strings.ToLower(out.String()), strings.ToLower(want)) {
			t.Errorf("--help does not mention %q:\n%s", want, &out)
		}
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--version"}, env(), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := "fogprobe " + version + "\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

func TestFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		args     []string
		env      func(string) string
		endpoint string
	}{
		"as a DaemonSet":          {nil, env("NODE_NAME", "n", "POD_IP", "10.0.0.7"), "10.0.0.7:8620"},
		"with the node's address": {[]string{"--listen=:9000"}, env("NODE_NAME", "n", "HOST_IP", "10.0.0.8"), "10.0.0.8:9000"},
		"at one address":          {[]string{"--node-name=n", "--listen=127.0.0.5:9000"}, env("POD_IP", "10.0.0.7"), "127.0.0.5:9000"},
		"IPv6":                    {[]string{"--node-name=n"}, env("POD_IP", "2001:db8::7"), "[2001:db8::7]:8620"},
		"an address of its own":   {[]string{"--node-name=n", "--endpoint=192.0.2.1:53"}, env("POD_IP", "10.0.0.7"), "192.0.2.1:53"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := parse(tc.args, tc.env, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if f.Endpoint != tc.endpoint || f.NodeName != "n" || f.Peers != publish.PeersEndpointSlices || f.Interval != 0 ||
				f.Service.String() != "fogsched-system/fogprobe" || f.Interest.String() != "fogsched-system/fogprobe-interest" {
				t.Errorf("%+v, want endpoint %s", f.Options, tc.endpoint)
			}
		})
	}
	f, err := parse([]string{"--node-name=n"}, env(), io.Discard)
	if err == nil { // this machine has an address that is not loopback
		if a, err := netip.ParseAddrPort(f.Endpoint); err != nil || a.Addr().IsLoopback() {
			t.Errorf("endpoint %s", f.Endpoint)
		}
	}
}

func TestBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--interval=fast":                       "--interval",
		"--bind-address=here":                   "--bind-address",
		"--listen=8620":                         "--listen",
		"--listen=:0":                           "needs an --endpoint",
		"--no-such-flag":                        "unknown flag",
		"surplus":                               `unexpected argument "surplus"`,
		"--kubeconfig=none":                     "node name: is missing",
		"--kubeconfig=/does/not/exist":          "--kubeconfig",
		"--log-level=loud":                      "--log-level",
		"--log-format=xml":                      "--log-format",
		"--node-name=n --kubeconfig=none":       "needs an API server",
		"--node-name=N! --kubeconfig=none":      "node name",
		"--service=fogprobe":                    "--service",
		"--interest=a/b/c":                      "--interest",
		"--protocol=tcp --http-address=":        "--port: must be given",
		"--timeout=1m --node-name=n --peers=/f": "", // finds no API server first
	} {
		t.Run(args, func(t *testing.T) {
			err := run(t.Context(), strings.Fields(args), env("POD_IP", "127.0.0.1"), io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one with %q", err, want)
			}
		})
	}
}

func TestRunsUntilItIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "peers")
	if err := os.WriteFile(file, []byte("other 127.66.0.2:9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var logged bytes.Buffer
	err := run(ctx, []string{
		"--node-name=n", "--kubeconfig=none", "--peers", file, "--listen=127.66.0.1:0", "--endpoint=127.66.0.1:9",
		"--http-address=127.66.0.1:0", "--log-format=json",
	}, env(), io.Discard, &logged)
	if err != nil {
		t.Error(err)
	}
	if !strings.Contains(logged.String(), `"msg":"Probing"`) {
		t.Errorf("logged:\n%s", &logged)
	}
}
