// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/e2e-framework/pkg/env"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/types"

	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/wan/tun"
)

// What the suite is told by its environment, besides KUBECONFIG. docs/e2e.md explains it.
const (
	// emulatorEnv is the socket of the emulator of the network between the nodes, or "required": then a test that needs
	// one fails where it would skip.
	emulatorEnv = "FOGSCHED_E2E_EMULATOR"
	// machinesEnv is the name of the kind cluster whose nodes the tests may kill and make.
	machinesEnv = "FOGSCHED_E2E_MACHINES"
	// imagesEnv is what the names of the images start with, such as "registry.example.org/team/". Without it the images are
	// in the nodes already.
	imagesEnv = "FOGSCHED_E2E_IMAGES"
	// outEnv is the folder of report.json.
	outEnv = "FOGSCHED_E2E_OUT"
	// startedEnv is when `make e2e` began, in Unix milliseconds, so that times count on.
	startedEnv = "FOGSCHED_E2E_STARTED"
)

var (
	testenv types.Environment
	// world is what the tests share.
	world struct {
		client kubernetes.Interface
		fog    *client.Client
		// emulator is nil in a cluster whose network is its own.
		emulator *tun.Client
		// machines is nil in a cluster whose nodes cannot be killed and made.
		machines *machines
		// ours says that the suite installed fogsched, and so may change the installation.
		ours bool
	}
	finishFailed bool
	// result is what report.json will hold.
	result = struct {
		sync.Mutex
		report
	}{}
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	kubeconfig := os.Getenv("KUBECONFIG")
	if kubeconfig == "" {
		// Never a skip: a run without a cluster must not look like one that passed.
		fmt.Fprintln(os.Stderr, "FAIL: KUBECONFIG: must name the cluster to test in; `make e2e` makes one")
		return 1
	}
	testenv = env.NewWithConfig(envconf.NewWithKubeConfig(kubeconfig))
	testenv.Setup(connect, install)
	testenv.Finish(sayEmulator, writeReport, uninstall)
	code := testenv.Run(m)
	if finishFailed { // the framework logs that and goes on
		code = max(code, 1)
	}
	return code
}

// connect finds the cluster, and whatever else the environment names.
func connect(ctx context.Context, cfg *envconf.Config) (context.Context, error) {
	kube, err := cfg.NewClient()
	if err != nil {
		return ctx, fmt.Errorf("KUBECONFIG: %w", err)
	}
	config := kube.RESTConfig()
	config.QPS = -1 // no limit: its errors would hide what was waited for
	if world.client, err = kubernetes.NewForConfig(config); err != nil {
		return ctx, err
	}
	if world.fog, err = client.New(config); err != nil {
		return ctx, err
	}
	switch socket := os.Getenv(emulatorEnv); socket {
	case "", "required":
	default:
		if world.emulator, err = tun.Dial(socket); err != nil {
			return ctx, fmt.Errorf("%s: %w", emulatorEnv, err)
		}
	}
	if name := os.Getenv(machinesEnv); name != "" {
		if world.emulator == nil {
			return ctx, fmt.Errorf("%s: needs %s, since nodes come and go in the emulator as well", machinesEnv, emulatorEnv)
		}
		if world.machines, err = openMachines(ctx, name, world.emulator); err != nil {
			return ctx, fmt.Errorf("%s: %w", machinesEnv, err)
		}
	}
	return ctx, nil
}

// needsEmulator skips a test where the network between the nodes is not emulated.
func needsEmulator(t *testing.T, why string) {
	t.Helper()
	if world.emulator == nil {
		missing(t, fmt.Sprintf("%s: needs the emulator of the network between the nodes, which `make e2e` starts for its own cluster (%s)", why, emulatorEnv))
	}
}

// needsMachines skips a test where the nodes are not the suite's.
func needsMachines(t *testing.T, why string) {
	t.Helper()
	if world.machines == nil {
		missing(t, fmt.Sprintf("%s: needs a cluster of `make e2e`, whose nodes it may kill and make (%s)", why, machinesEnv))
	}
}

// needsOurs skips a test where fogsched was installed by somebody else.
func needsOurs(t *testing.T, why string) {
	t.Helper()
	if !world.ours {
		missing(t, fmt.Sprintf("%s: the installation in namespace %s was there before, and is left as it is", why, systemNamespace))
	}
}

func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv(emulatorEnv) == "required" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// started is when all began.
var started = sync.OnceValue(func() time.Time {
	var millis int64
	if _, err := fmt.Sscan(os.Getenv(startedEnv), &millis); err == nil && millis > 0 {
		return time.UnixMilli(millis)
	}
	return time.Now()
})

// say reports progress, with the time since the start.
func say(format string, args ...any) {
	fmt.Printf("[%5.1f s] %s\n", time.Since(started()).Seconds(), fmt.Sprintf(format, args...))
}

// outFolder is where report.json goes.
func outFolder() (string, error) {
	if out := os.Getenv(outEnv); out != "" {
		return out, nil
	}
	root, err := cluster.RepoRoot()
	return filepath.Join(root, "out", "e2e"), err
}

// sayEmulator tells how well the emulator did.
func sayEmulator(ctx context.Context, _ *envconf.Config) (context.Context, error) {
	if world.emulator == nil {
		return ctx, nil
	}
	stats, err := world.emulator.Stats()
	if err != nil {
		return ctx, err
	}
	say("the emulator forwarded %d packets, half of them at most %s later than it should, 99 %% at most %s", stats.Forwarded, stats.LatenessP50, stats.LatenessP99)
	return ctx, nil
}

func writeReport(ctx context.Context, _ *envconf.Config) (context.Context, error) {
	result.Lock()
	defer result.Unlock()
	folder, err := outFolder()
	if err != nil {
		return ctx, err
	}
	path, err := result.write(folder)
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: writing the report:", err)
		finishFailed = true
		return ctx, err
	}
	if path != "" {
		say("report in %s", path)
	}
	return ctx, nil
}

// check calls f until it finds nothing amiss; when the time is up it says what was amiss last.
func check(ctx context.Context, timeout time.Duration, what string, f func(context.Context) (amiss string, err error)) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	last := errors.New("nothing was seen")
	for {
		amiss, err := f(limited)
		switch {
		case err == nil && amiss == "":
			return nil
		case err == nil:
			last = errors.New(amiss)
		case limited.Err() == nil: // an error for want of time says nothing
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w while waiting for %s; last seen: %w", ctx.Err(), what, last)
		case <-limited.Done():
			return fmt.Errorf("waited %s in vain for %s; last seen: %w", timeout, what, last)
		case <-ticker.C:
		}
	}
}

// until is check for tests.
func until(ctx context.Context, t *testing.T, timeout time.Duration, what string, f func(context.Context) (amiss string, err error)) {
	t.Helper()
	if err := check(ctx, timeout, what, f); err != nil {
		t.Fatal(err)
	}
}
