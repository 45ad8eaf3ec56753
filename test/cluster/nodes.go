// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
)

const (
	// KwokAnnotation, with the value "fake", makes kwok play a node. AddNodes sets it.
	KwokAnnotation = "kwok.x-k8s.io/node"
	// notReadyAnnotation keeps kwok from making a node Ready again; stages.yaml reads it.
	notReadyAnnotation = "test.fogsched.dev/not-ready"
)

//go:embed stages.yaml
var stages []byte

// Node is a node that kwok plays.
type Node struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	// Capacity adds to and overrides cpu: 8, memory: 32Gi, ephemeral-storage: 100Gi, pods: 110. All of it is allocatable.
	Capacity corev1.ResourceList
	// InternalIP is an address of 172.16.0.0/12 where it is empty.
	InternalIP string
	Taints     []corev1.Taint
}

func (c *Cluster) startKwok() error {
	kubeconfig, _, err := c.newUser("kwok", "kwok", []string{"system:masters"})
	if err != nil {
		return err
	}
	config := filepath.Join(c.dir, "kwok-stages.yaml")
	if err := os.WriteFile(config, stages, 0o600); err != nil {
		return fmt.Errorf("writing kwok's configuration: %w", err)
	}
	_, err = c.run("kwok", []string{
		"--kubeconfig=" + kubeconfig,
		"--config=" + config,
		"--manage-nodes-with-annotation-selector=" + KwokAnnotation + "=fake",
		"--node-lease-duration-seconds=40",
		"--cidr=" + podCIDR,
	})
	return err
}

// AddNodes creates nodes and returns when all of them are Ready, free of the taint that new nodes get, and played by kwok.
func (c *Cluster) AddNodes(ctx context.Context, nodes ...Node) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout+time.Duration(len(nodes))*50*time.Millisecond)
	defer cancel()

	errs := make([]error, len(nodes))
	workqueue.ParallelizeUntil(ctx, 16, len(nodes), func(i int) {
		_, errs[i] = c.client.CoreV1().Nodes().Create(ctx, c.nodeObject(nodes[i]), metav1.CreateOptions{})
	})
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("creating nodes: %w", err)
	}
	waiting := map[string]bool{}
	for _, n := range nodes {
		waiting[n.Name] = true
	}
	return c.until(ctx, "nodes to be Ready", func(ctx context.Context) error {
		// kwok plays the pods of those nodes only of which it holds the lease.
		leases, err := c.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		leased := map[string]bool{}
		for i := range leases.Items {
			leased[leases.Items[i].Name] = true
		}
		list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			n := &list.Items[i]
			if leased[n.Name] && nodeReady(n) && !hasTaint(n, corev1.TaintNodeNotReady) {
				delete(waiting, n.Name)
			}
		}
		for name := range waiting {
			return fmt.Errorf("%d of %d nodes are not Ready, for example %s", len(waiting), len(nodes), name)
		}
		return nil
	})
}

// SetNotReady makes a node NotReady, as its kubelet would report it, and returns when the scheduler's taint is on it.
func (c *Cluster) SetNotReady(ctx context.Context, name string) error {
	if err := c.patchNode(ctx, name, map[string]any{notReadyAnnotation: "true"}, corev1.ConditionFalse, "KubeletNotReady"); err != nil {
		return err
	}
	return c.untilNode(ctx, name, "the taint of a node that is not Ready", func(n *corev1.Node) bool {
		return !nodeReady(n) && hasTaint(n, corev1.TaintNodeNotReady)
	})
}

// SetReady undoes SetNotReady.
func (c *Cluster) SetReady(ctx context.Context, name string) error {
	if err := c.patchNode(ctx, name, map[string]any{notReadyAnnotation: nil}, corev1.ConditionTrue, "KubeletReady"); err != nil {
		return err
	}
	return c.untilNode(ctx, name, "the node to be Ready", func(n *corev1.Node) bool {
		return nodeReady(n) && !hasTaint(n, corev1.TaintNodeNotReady)
	})
}

// patchNode writes the annotation first: after the condition, kwok would put the node right again.
func (c *Cluster) patchNode(ctx context.Context, name string, annotations map[string]any, ready corev1.ConditionStatus, reason string) error {
	now := metav1.Now()
	for _, step := range []struct {
		subresources []string
		body         any
	}{
		{nil, map[string]any{"metadata": map[string]any{"annotations": annotations}}},
		{[]string{"status"}, map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: ready, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now,
		}}}}},
	} {
		body, err := json.Marshal(step.body)
		if err != nil {
			return fmt.Errorf("patching node %s: %w", name, err)
		}
		_, err = c.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, step.subresources...)
		if err != nil {
			return fmt.Errorf("patching node %s: %w", name, err)
		}
	}
	return nil
}

func (c *Cluster) untilNode(ctx context.Context, name, what string, check func(*corev1.Node) bool) error {
	return c.until(ctx, what+" ("+name+")", func(ctx context.Context) error {
		n, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !check(n) {
			return fmt.Errorf("conditions %v, taints %v", n.Status.Conditions, n.Spec.Taints)
		}
		return nil
	})
}

func (c *Cluster) nodeObject(n Node) *corev1.Node {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("8"),
		corev1.ResourceMemory:           resource.MustParse("32Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		corev1.ResourcePods:             resource.MustParse("110"),
	}
	for name, quantity := range n.Capacity {
		capacity[name] = quantity
	}
	labels := map[string]string{
		corev1.LabelHostname:   n.Name,
		corev1.LabelOSStable:   "linux",
		corev1.LabelArchStable: "amd64",
	}
	for k, v := range n.Labels {
		labels[k] = v
	}
	annotations := map[string]string{KwokAnnotation: "fake"}
	for k, v := range n.Annotations {
		annotations[k] = v
	}
	ip := n.InternalIP
	if ip == "" {
		ip = c.nextNodeIP()
	}
	now := metav1.Now()
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: labels, Annotations: annotations},
		Spec:       corev1.NodeSpec{Taints: n.Taints},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity,
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: ip},
				{Type: corev1.NodeHostName, Address: n.Name},
			},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
				LastHeartbeatTime: now, LastTransitionTime: now,
			}},
			NodeInfo: corev1.NodeSystemInfo{
				OperatingSystem: "linux", Architecture: "amd64", KubeletVersion: "kwok", ContainerRuntimeVersion: "kwok",
			},
		},
	}
}

func (c *Cluster) nextNodeIP() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodeIPs++
	return fmt.Sprintf("172.%d.%d.%d", 16+c.nodeIPs>>16, c.nodeIPs>>8&0xff, c.nodeIPs&0xff)
}

func nodeReady(n *corev1.Node) bool {
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func hasTaint(n *corev1.Node, key string) bool {
	for _, taint := range n.Spec.Taints {
		if taint.Key == key {
			return true
		}
	}
	return false
}

func namespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}
