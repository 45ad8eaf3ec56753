// SPDX-License-Identifier: Apache-2.0

// Package report loads the page of `kubectl fog report` in a real Chromium, as a reader would who sees it in light or dark, on a telephone
// or on paper, or who hears it. The page is of clusters on a real API server.
package report

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/fogsched/fogsched/test/cluster"
)

// requireChromium is the environment variable with which a run without Chromium fails instead of skipping.
const requireChromium = "FOGSCHED_REQUIRE_CHROMIUM"

// chromium is the browser's program; "" where there is none.
var chromium string

var control *cluster.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run is apart from TestMain because os.Exit would skip its deferred Stop.
func run(m *testing.M) int {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			chromium = path
			break
		}
	}
	if chromium == "" {
		return m.Run() // each test says that it skips, or fails
	}
	c, err := cluster.Start(context.Background(), cluster.Options{})
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: the tests of the report need a control plane: %v\n", err)
		return 1
	}
	defer c.Stop()
	control = c
	if err := c.ApplyKustomize(context.Background(), cluster.CRDs); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: the API server refuses the CRDs:", err)
		return 1
	}
	code := m.Run()
	if err := c.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: the control plane ended during the tests:", err)
		return 1
	}
	return code
}

// needChromium skips a test, or fails it where Chromium must be there.
func needChromium(t *testing.T) {
	t.Helper()
	switch {
	case chromium != "":
	case os.Getenv(requireChromium) != "":
		t.Fatalf("%s is set, and there is no Chromium: install Debian's package chromium", requireChromium)
	default:
		t.Skipf("there is no Chromium (Debian's package chromium); set %s=1 to fail here", requireChromium)
	}
}
