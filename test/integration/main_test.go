// SPDX-License-Identifier: Apache-2.0

// Package integration tests fogsched on a real API server with real controllers; kwok plays the nodes.
package integration

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/test/cluster"
)

// control is the control plane that the tests of this package share. It has neither nodes nor a scheduler nor our CRDs: a test
// that needs them says so.
var control *cluster.Cluster

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run is apart from TestMain because os.Exit would skip its deferred Stop.
func run(m *testing.M) int {
	c, err := cluster.Start(context.Background(), cluster.Options{})
	if err != nil {
		// Never a skip: a run without these tests must not look like one in which they passed.
		fmt.Fprintf(os.Stderr, "FAIL: the integration tests need a control plane: %v\n", err)
		return 1
	}
	defer c.Stop()
	control = c
	code := m.Run()
	if err := c.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: the control plane ended during the tests:", err)
		return 1
	}
	return code
}

var applyCRDs = sync.OnceValue(func() error {
	return control.ApplyKustomize(context.Background(), cluster.CRDs)
})

// installCRDs installs the product's CRDs in the shared control plane, once.
func installCRDs(t *testing.T) {
	t.Helper()
	if err := applyCRDs(); err != nil {
		t.Fatalf("the API server refuses the CRDs: %v", err)
	}
}

// newNamespace makes a namespace that goes with the test.
func newNamespace(t *testing.T, name string) string {
	t.Helper()
	if err := control.CreateNamespace(t.Context(), name, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = control.Client().CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	return name
}

// poll calls a check until it sees nothing amiss, and fails the test with what it saw last.
func poll(t *testing.T, timeout time.Duration, what string, check func(context.Context) (amiss string, err error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	for {
		amiss, err := check(ctx)
		if err == nil && amiss == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s; last seen: %s (error: %v)", what, amiss, err)
		case <-ticker.C:
		}
	}
}
