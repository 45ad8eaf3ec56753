// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/test/kind"
	"github.com/fogsched/fogsched/test/wan/tun"
)

// machines are the nodes of a kind cluster that the suite may do with as it likes. What comes and goes there comes and goes in the
// emulator.
type machines struct {
	cluster  *kind.Cluster
	emulator *tun.Client
}

func openMachines(ctx context.Context, cluster string, emulator *tun.Client) (*machines, error) {
	c, err := kind.Open(ctx, cluster)
	if err != nil {
		return nil, err
	}
	return &machines{cluster: c, emulator: emulator}, nil
}

// kill ends a node as when its power fails.
func (m *machines) kill(ctx context.Context, node string) error {
	return m.cluster.StopNode(ctx, node, true)
}

// signal sends a signal to the first process of a pod's container.
func (m *machines) signal(ctx context.Context, p corev1.Pod, name string) error {
	if len(p.Status.ContainerStatuses) != 1 {
		return fmt.Errorf("pod %s has %d containers, want 1", p.Name, len(p.Status.ContainerStatuses))
	}
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	_, err := m.cluster.Engine.Docker(ctx, "exec", p.Spec.NodeName, "ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", name, id)
	return err
}

// start brings a node back that was killed, and to the network.
func (m *machines) start(ctx context.Context, node string) error {
	if err := m.cluster.StartNode(ctx, node); err != nil {
		return err
	}
	return m.connect(ctx, node)
}

// connect puts a node into the emulator as soon as it has an address and a network for its pods.
func (m *machines) connect(ctx context.Context, node string) error {
	return check(ctx, time.Minute, "node "+node+" to have a network", func(ctx context.Context) (string, error) {
		nodes, err := m.cluster.Nodes(ctx)
		if err != nil {
			return "", err
		}
		for _, n := range nodes {
			if n.Name != node {
				continue
			}
			if n.PID == 0 || n.IP == "" || n.PodCIDR == "" {
				return fmt.Sprintf("process %d, address %q, pods %q", n.PID, n.IP, n.PodCIDR), nil
			}
			ip, err := netip.ParseAddr(n.IP)
			if err != nil {
				return "", err
			}
			pods, err := netip.ParsePrefix(n.PodCIDR)
			if err != nil {
				return "", err
			}
			return "", m.emulator.Add(tun.Node{Name: n.Name, NetNS: tun.ProcNetNS(n.PID), IP: ip, PodCIDRs: []netip.Prefix{pods}})
		}
		return "there is no such node", nil
	})
}

// add makes one more node, in the zone of another one and 2 ms from it, and returns its name when it is Ready.
func (m *machines) add(ctx context.Context, near string) (name string, err error) {
	before, err := m.cluster.Nodes(ctx)
	if err != nil {
		return "", err
	}
	known := map[string]bool{}
	for _, n := range before {
		known[n.Name] = true
	}
	// The network must be there when the node's first packet is, and AddNode returns long after.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	joined := make(chan error, 1)
	go func() {
		joined <- m.join(ctx, near, known)
	}()
	n, err := m.cluster.AddNode(ctx)
	if err != nil {
		cancel(err)
		return "", errors.Join(err, <-joined)
	}
	return n.Name, <-joined
}

// join waits for a node that is not known yet, and puts it into a zone and into the network.
func (m *machines) join(ctx context.Context, near string, known map[string]bool) error {
	var name string
	err := check(ctx, 3*time.Minute, "a new node", func(ctx context.Context) (string, error) {
		nodes, err := m.cluster.Nodes(ctx)
		if err != nil {
			return "", err
		}
		for _, n := range nodes {
			if !known[n.Name] && n.PodCIDR != "" {
				name = n.Name
				return "", nil
			}
		}
		return fmt.Sprintf("%d nodes", len(nodes)), nil
	})
	if err != nil {
		return err
	}
	links, err := m.emulator.Links()
	if err != nil {
		return err
	}
	var its []tun.Direction
	for _, l := range links {
		l.RTT += 700 * time.Microsecond // its own connection's
		switch near {
		case l.From:
			l.From = name
		case l.To:
			l.To = name
		default:
			continue
		}
		its = append(its, l)
	}
	neighbour := tun.Link{RTT: 2 * time.Millisecond, Jitter: 100 * time.Microsecond}
	its = append(its, tun.Direction{From: name, To: near, Link: neighbour}, tun.Direction{From: near, To: name, Link: neighbour})
	if err := m.emulator.SetLinks(its); err != nil {
		return err
	}
	if err := m.connect(ctx, name); err != nil {
		return err
	}
	nodes := world.client.CoreV1().Nodes()
	neighbourNode, err := nodes.Get(ctx, near, metav1.GetOptions{})
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{
		corev1.LabelTopologyZone: neighbourNode.Labels[corev1.LabelTopologyZone],
	}}})
	if err != nil {
		return err
	}
	_, err = nodes.Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}
