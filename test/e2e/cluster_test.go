// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// entryLabel is on the nodes where users come in.
const entryLabel = "fogsched.dev/gateway"

// readyNodes returns the names of the nodes that are Ready, in order.
func readyNodes(ctx context.Context) ([]string, error) {
	return nodesWhere(ctx, "", func(*corev1.Node) bool { return true })
}

// workers returns the names of the Ready nodes that take any pod, in order.
func workers(ctx context.Context) ([]string, error) {
	return nodesWhere(ctx, "", takesPods)
}

func takesPods(n *corev1.Node) bool {
	return !n.Spec.Unschedulable && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule })
}

func nodesWhere(ctx context.Context, selector string, ok func(*corev1.Node) bool) ([]string, error) {
	list, err := world.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range list.Items {
		n := &list.Items[i]
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && ok(n) {
				names = append(names, n.Name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// zonesOf returns the zones of the workers.
func zonesOf(ctx context.Context) ([]string, error) {
	var zones []string
	_, err := nodesWhere(ctx, corev1.LabelTopologyZone, func(n *corev1.Node) bool {
		if takesPods(n) {
			zones = append(zones, n.Labels[corev1.LabelTopologyZone])
		}
		return false
	})
	slices.Sort(zones)
	return slices.Compact(zones), err
}

func podsOf(ctx context.Context, namespace, selector string) ([]corev1.Pod, error) {
	list, err := world.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return list.Items, nil
}

func isReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// newNamespace makes a namespace under Pod Security `restricted` whose pods go with the test, so that they weigh on no other.
func newNamespace(ctx context.Context, t *testing.T, name string) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: fmt.Sprintf("e2e-%.30s-", strings.Trim(notInNames.ReplaceAllString(strings.ToLower(name), "-"), "-")),
		Labels:       map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	ns, err := world.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("making a namespace: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("namespace %s:\n%s", ns.Name, whyNotRunning(context.Background(), ns.Name))
		}
		removeNamespace(t, ns.Name)
	})
	return ns.Name
}

// removeNamespace deletes a namespace and returns when its pods have gone; the rest goes on its own.
func removeNamespace(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // not the test's, which may be over
	defer cancel()
	core := world.client.CoreV1()
	if err := core.Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Errorf("deleting the namespace: %v", err)
		return
	}
	now := int64(0)
	until(ctx, t, time.Minute, "the pods of namespace "+name+" to go", func(ctx context.Context) (string, error) {
		if err := core.Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}); err != nil {
			return "", err
		}
		pods, err := podsOf(ctx, name, "")
		if err != nil || len(pods) == 0 {
			return "", err
		}
		return fmt.Sprintf("%d pods, %s among them", len(pods), pods[0].Name), nil
	})
}

// maxPods is of how many pods whyNotRunning tells.
const maxPods = 12

// whyNotRunning tells of pods and events for people to whom something failed.
func whyNotRunning(ctx context.Context, namespace string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var b strings.Builder
	pods, err := podsOf(ctx, namespace, "")
	if err != nil {
		return err.Error()
	}
	alive, err := readyNodes(ctx)
	if err != nil {
		return err.Error()
	}
	// The last ones say the most.
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for i := range pods[max(0, len(pods)-maxPods):] {
		p := &pods[max(0, len(pods)-maxPods)+i]
		fmt.Fprintf(&b, "  pod %s on %q: %s", p.Name, p.Spec.NodeName, p.Status.Phase)
		for _, s := range p.Status.ContainerStatuses {
			fmt.Fprintf(&b, ", ready %t, %d restarts", s.Ready, s.RestartCount)
			if w := s.State.Waiting; w != nil {
				fmt.Fprintf(&b, ", waiting: %s %s", w.Reason, w.Message)
			}
			if e := s.LastTerminationState.Terminated; e != nil {
				fmt.Fprintf(&b, ", ended before: %s, exit code %d", e.Reason, e.ExitCode)
			}
		}
		if why := p.Annotations["fogsched.dev/placement"]; why != "" {
			fmt.Fprintf(&b, ", %s", why)
		}
		b.WriteString("\n")
		if !isReady(p) && p.Status.Phase != corev1.PodPending && slices.Contains(alive, p.Spec.NodeName) {
			b.WriteString(logOf(ctx, namespace, p.Name))
		}
	}
	events, err := world.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return b.String() + err.Error()
	}
	for _, e := range events.Items[max(0, len(events.Items)-30):] {
		if e.Type != corev1.EventTypeNormal {
			fmt.Fprintf(&b, "  event %s %s: %s\n", e.Reason, e.InvolvedObject.Name, e.Message)
		}
	}
	return b.String()
}

// logOf returns the last lines that a pod printed.
func logOf(ctx context.Context, namespace, pod string) string {
	lines := int64(10)
	log, err := world.client.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{TailLines: &lines}).DoRaw(ctx)
	if err != nil {
		return "    no log: " + err.Error() + "\n"
	}
	var b strings.Builder
	for line := range strings.Lines(string(log)) {
		b.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}

// life is how often the containers of the installation have started.
type life map[string]string // pod → its identity and restarts

// lifeOf remembers the pods of the installation but those on some nodes, for stillAlive.
func lifeOf(ctx context.Context, t *testing.T, but ...string) life {
	t.Helper()
	pods, err := podsOf(ctx, systemNamespace, "app.kubernetes.io/name in ("+prober+","+scheduler+")")
	if err != nil {
		t.Fatal(err)
	}
	l := life{}
	for _, p := range pods {
		if slices.Contains(but, p.Spec.NodeName) {
			continue
		}
		for _, s := range p.Status.ContainerStatuses {
			l[p.Name] = fmt.Sprintf("%s on %s: uid %s, %d restarts", p.Name, p.Spec.NodeName, p.UID, s.RestartCount)
		}
	}
	if len(l) == 0 {
		t.Fatalf("namespace %s has no pods", systemNamespace)
	}
	return l
}

// stillAlive fails the test when one of the pods has crashed, or has gone.
func (l life) stillAlive(ctx context.Context, t *testing.T) {
	t.Helper()
	now := lifeOf(ctx, t)
	for name, was := range l {
		if now[name] != was {
			t.Errorf("%s; now %q: it did not live through this", was, now[name])
		}
	}
}
