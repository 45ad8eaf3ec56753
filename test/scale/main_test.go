// SPDX-License-Identifier: Apache-2.0

//go:build scale

package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/fogsched/fogsched/test/cluster"
)

const (
	systemNamespace = "fogsched-system"
	overlay         = "manifests/overlays/second-scheduler"
)

// full is whether everything is measured, not only what CI has time for.
var full = os.Getenv("FULL") != "" && os.Getenv("FULL") != "0"

// result is what report.json will hold.
var result struct {
	sync.Mutex
	report
}

// report has the figures.
type report struct {
	// Footprint is that of one fogprobe, by the number of nodes.
	Footprint []footprint `json:"footprint,omitempty"`
	// Publishing is what all probers together write.
	Publishing []publishing `json:"publishing,omitempty"`
	// Scheduler is what fogsched uses.
	Scheduler []schedulerUse `json:"scheduler,omitempty"`
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := writeReport(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: writing the report:", err)
		code = 1
	}
	os.Exit(code)
}

// writeReport leaves the figures in out/scale/report.json.
func writeReport() error {
	result.Lock()
	defer result.Unlock()
	dir, err := outDir()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(&result.report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644)
}

// outDir makes the folder for the report and the profiles.
func outDir() (string, error) {
	root, err := cluster.RepoRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "out", "scale")
	return dir, os.MkdirAll(dir, 0o755)
}

// newCluster starts a control plane with the product's manifests in it. Its nodes are nobody's: they need no heartbeat, and no pods
// of the DaemonSet.
func newCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(context.Background(), cluster.Options{
		ControllerManagerArgs: []string{"--controllers=*,-node-lifecycle-controller,-daemonset-controller,-deployment-controller"},
		Progress:              func(s string) { t.Log(s) },
	})
	if err != nil {
		t.Fatal(err) // never a skip: a run without this must not look like one in which it passed
	}
	t.Cleanup(c.Stop)
	if err := c.ApplyKustomize(t.Context(), overlay); err != nil {
		t.Fatal(err)
	}
	return c
}
