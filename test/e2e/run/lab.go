// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/test/kind"
	"github.com/fogsched/fogsched/test/wan/tun"
)

const (
	socketFile   = "wan.sock"
	imagesFolder = "images"
)

// lab is the cluster, the network between its nodes, and what belongs to them.
type lab struct {
	options
	cluster  *kind.Cluster
	emulator *tun.Client
}

func (l *lab) say(format string, args ...any) {
	fmt.Printf("[%5.1f s] %s\n", time.Since(l.started).Seconds(), fmt.Sprintf(format, args...))
}

// Write prints what test/kind tells, a line at a time.
func (l *lab) Write(text []byte) (int, error) {
	for line := range strings.Lines(string(text)) {
		l.say("%s", strings.TrimRight(line, "\n"))
	}
	return len(text), nil
}

func (l *lab) socket() string { return filepath.Join(l.out, socketFile) }

// build makes everything that the suite needs. What it made before it failed is left to remove.
func (l *lab) build(ctx context.Context) error {
	if err := stopEmulator(l.socket()); err != nil {
		return fmt.Errorf("stopping an earlier run's emulator: %w", err)
	}
	// The images first: what is missing for them should show before minutes have passed.
	archives, err := l.buildImages(ctx)
	if err != nil {
		return err
	}
	l.cluster, err = kind.Create(ctx, kind.Config{Name: l.name, Workers: l.workers, Stay: l.keep, Log: l})
	if err != nil {
		return fmt.Errorf("making a kind cluster: %w", err)
	}
	l.say("loading %d images into %d nodes", len(archives), l.workers+1)
	for _, a := range archives {
		if err := l.cluster.LoadImage(ctx, a); err != nil {
			return fmt.Errorf("loading %s: %w", filepath.Base(a), err)
		}
	}
	if err := os.RemoveAll(filepath.Join(l.out, imagesFolder)); err != nil { // the cluster keeps copies
		return err
	}
	nodes, err := l.cluster.Nodes(ctx)
	if err != nil {
		return err
	}
	places := geography(nodes)
	if err := l.label(ctx, places); err != nil {
		return err
	}
	if err := l.startEmulator(places); err != nil {
		return fmt.Errorf("starting the emulator of the network: %w", err)
	}
	for _, s := range sites {
		var names []string
		for _, p := range places {
			if p.site == s.name {
				names = append(names, p.node.Name)
			}
		}
		l.say("site %-8s %s", s.name+":", strings.Join(names, ", "))
	}
	return nil
}

// label puts the nodes into zones, as in any cluster of several sites, and marks those where users come in.
func (l *lab) label(ctx context.Context, places []place) error {
	for _, p := range places {
		set := map[string]string{corev1.LabelTopologyZone: p.site}
		if p.entry {
			set["fogsched.dev/gateway"] = "true"
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": set}})
		if err != nil {
			return err
		}
		_, err = l.cluster.Client.CoreV1().Nodes().Patch(ctx, p.node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("labelling %s: %w", p.node.Name, err)
		}
	}
	return nil
}

// startEmulator puts distances between the nodes.
func (l *lab) startEmulator(places []place) error {
	program, err := sibling("wanctl")
	if err != nil {
		return err
	}
	if l.emulator, err = tun.Spawn(program, l.socket(), l.keep); err != nil {
		return err
	}
	// The distances come first: no packet crosses a network without any.
	if err := l.emulator.SetLinks(links(places)); err != nil {
		return err
	}
	for _, p := range places {
		n, err := tunNode(p.node)
		if err != nil {
			return err
		}
		if err := l.emulator.Add(n); err != nil {
			return fmt.Errorf("node %s: %w", p.node.Name, err)
		}
	}
	return nil
}

func tunNode(n kind.Node) (tun.Node, error) {
	ip, err := netip.ParseAddr(n.IP)
	if err != nil {
		return tun.Node{}, fmt.Errorf("address of %s: %w", n.Name, err)
	}
	pods, err := netip.ParsePrefix(n.PodCIDR)
	if err != nil {
		return tun.Node{}, fmt.Errorf("pod network of %s: %w", n.Name, err)
	}
	return tun.Node{Name: n.Name, NetNS: tun.ProcNetNS(n.PID), IP: ip, PodCIDRs: []netip.Prefix{pods}}, nil
}

// stopEmulator ends the emulator at a socket, if there is one.
func stopEmulator(socket string) error {
	c, err := tun.Dial(socket)
	if err != nil { // nobody listens
		if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	defer c.Close()
	return c.Stop()
}

// test runs the suite.
func (l *lab) test(ctx context.Context) error {
	program, err := sibling("e2e.test")
	if err != nil {
		return err
	}
	args := []string{"-test.v", "-test.timeout=30m"}
	if l.tests != "" {
		args = append(args, "-test.run="+l.tests)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	// It ends with this process, however that ends. What the kernel looks at is the thread.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(),
		"KUBECONFIG="+l.cluster.Kubeconfig,
		"FOGSCHED_E2E_EMULATOR="+l.socket(),
		"FOGSCHED_E2E_MACHINES="+l.name,
		"FOGSCHED_E2E_IMAGES=",
		"FOGSCHED_E2E_OUT="+l.out,
		fmt.Sprintf("FOGSCHED_E2E_STARTED=%d", l.started.UnixMilli()),
	)
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("the suite failed: %w", err)
	}
	l.say("the suite passed")
	return nil
}

// remove takes everything away that build made. It takes no context: it must also work when there is no time left.
func (l *lab) remove() error {
	var errs []error
	// While there is an emulator the nodes can be taken out of it in order; it does not need them, though.
	errs = append(errs, stopEmulator(l.socket()))
	if l.cluster != nil {
		errs = append(errs, l.cluster.Delete())
	}
	errs = append(errs, os.RemoveAll(filepath.Join(l.out, imagesFolder)))
	return errors.Join(errs...)
}

func (l *lab) sayKept() {
	fmt.Printf(`
The cluster and its network stay:

    export KUBECONFIG=%s
    kubectl get nodelatencies
    bin/wanctl -socket %s links     # and set, partition, heal: see bin/wanctl -help

    make e2e-down                   # ends both

`, l.cluster.Kubeconfig, l.socket())
}

// sibling finds a program that was built into the folder of this one.
func sibling(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built: run `make e2e`", path)
	}
	return path, nil
}
