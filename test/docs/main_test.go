// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/program"
)

// control is the control plane that the tests share, with fogsched's objects and some to look at. Its pods do not really run.
var control *cluster.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run is apart from TestMain because os.Exit would skip its deferred Stop.
func run(m *testing.M) int {
	c, err := cluster.Start(context.Background(), cluster.Options{KubeScheduler: true})
	if err != nil {
		// Never a skip: a run without these tests must not look like one in which they passed.
		fmt.Fprintf(os.Stderr, "FAIL: the tests of the documents need a control plane: %v\n", err)
		return 1
	}
	defer c.Stop()
	if err := prepare(context.Background(), c); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: preparing the cluster:", err)
		return 1
	}
	control = c
	code := m.Run()
	if err := c.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: the control plane ended during the tests:", err)
		return 1
	}
	return code
}

func binDir(t *testing.T) string {
	t.Helper()
	dir, err := program.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kubectl", "helm", "kind", "promtool"} {
		if _, err := program.Path(dir, name, "make bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// prepare makes what the commands of the documents speak of.
func prepare(ctx context.Context, c *cluster.Cluster) error {
	munich := map[string]string{corev1.LabelTopologyZone: "munich"}
	err := c.AddNodes(ctx,
		cluster.Node{Name: "gateway", Labels: map[string]string{corev1.LabelTopologyZone: "berlin", "fogsched.dev/gateway": "true"}},
		cluster.Node{Name: "edge-1", Labels: munich}, cluster.Node{Name: "edge-2", Labels: munich})
	if err != nil {
		return err
	}
	root, err := cluster.RepoRoot()
	if err != nil {
		return err
	}
	bin, err := program.BinDir()
	if err != nil {
		return err
	}
	// The kinds that the documents speak of and fogsched does not bring: those of NetworkOverhead and of the Prometheus Operator.
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/scheduler-plugins").Output()
	if err != nil {
		return fmt.Errorf("finding scheduler-plugins: %w", err)
	}
	plugins := strings.TrimSpace(string(dir))
	for _, file := range []string{
		filepath.Join(bin, "monitoring-crds.yaml"),
		filepath.Join(plugins, "manifests", "appgroup", "crd.yaml"),
		filepath.Join(plugins, "manifests", "networktopology", "crd.yaml"),
	} {
		manifest, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := c.ApplyYAML(ctx, manifest); err != nil {
			return err
		}
	}
	if err := c.ApplyKustomize(ctx, "manifests/overlays/second-scheduler"); err != nil {
		return err
	}
	for _, ns := range []string{"shop", "fog"} {
		if err := c.CreateNamespace(ctx, ns, nil); err != nil {
			return err
		}
	}
	for _, file := range []string{"test/docs/testdata/work/appgroup.yaml", "test/docs/testdata/work/networktopology.yaml", "test/docs/testdata/work/deployment.yaml", "test/docs/testdata/cluster.yaml"} {
		manifest, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return err
		}
		if err := c.ApplyYAML(ctx, manifest); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return measure(ctx, c)
}

// measure writes what probers would have measured.
func measure(ctx context.Context, c *cluster.Cluster) error {
	names := []string{"gateway", "edge-1", "edge-2"}
	now := metav1.NewTime(time.Now().Truncate(time.Second)).Format(time.RFC3339)
	for i, name := range names {
		var peers []any
		for k, peer := range names {
			if k != i {
				rtt := fmt.Sprintf("%dms", 4+6*(i+k))
				peers = append(peers, map[string]any{"node": peer, "typical": rtt, "tail": rtt, "samples": int64(20), "at": now})
			}
		}
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "fogsched.dev/v1alpha1", "kind": "NodeLatency", "metadata": map[string]any{"name": name},
			"spec":   map[string]any{"endpoint": "10.0.0.1:8620"},
			"status": map[string]any{"observedAt": now, "refreshInterval": "1h", "peers": peers},
		}}
		resource, err := c.Resource(o)
		if err != nil {
			return err
		}
		made, err := resource.Create(ctx, o, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		made.Object["status"] = o.Object["status"]
		if _, err := resource.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func marshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // of maps and strings
	}
	return data
}
