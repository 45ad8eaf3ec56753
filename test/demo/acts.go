// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/test/wan"
)

// indent lays out JSON for reading.
func indent(text string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(text), "  ", "  ") != nil {
		return "  " + text
	}
	return "  " + b.String()
}

// archive may only run in the west, and wants to be nearer to Redis than the west is.
func archive() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "archive", Labels: map[string]string{"app": "archive"},
			Annotations: map[string]string{v1alpha1.LatencyAnnotation: `{"dependencies":[{"service":"redis-master","limit":"20ms"}],"whenUnsatisfiable":"DoNotSchedule"}`},
		},
		Spec: corev1.PodSpec{
			SchedulerName: ours.scheduler,
			NodeSelector:  map[string]string{corev1.LabelTopologyZone: "west"},
			Containers:    []corev1.Container{{Name: "archive", Image: "archive"}},
		},
	}
}

// broker serves the east and the west from the north or the south.
func broker(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app": name},
			Annotations: map[string]string{v1alpha1.LatencyAnnotation: `{"clients":[{"nodes":{"matchExpressions":[{"key":"topology.kubernetes.io/zone","operator":"In","values":["east","west"]}]}}]}`},
		},
		Spec: corev1.PodSpec{
			SchedulerName: ours.scheduler,
			Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"north", "south"},
					}},
				}}},
			}},
			Containers: []corev1.Container{{Name: "broker", Image: "broker"}},
		},
	}
}

// actTwo asks for what the network cannot give, and shows the event that says so.
func (d *demo) actTwo(ctx context.Context) error {
	d.title("Act 2: a limit that cannot be kept")
	d.say("The pod `archive` must run in the west, within 20ms of redis-master, or not at all (DoNotSchedule).")
	pods := d.cluster.Client().CoreV1().Pods(ours.namespace)
	if _, err := pods.Create(ctx, archive(), metav1.CreateOptions{}); err != nil {
		return err
	}
	var message string
	err := d.until(ctx, "the event about the pod archive", func() (bool, error) {
		list, err := d.cluster.Client().CoreV1().Events(ours.namespace).List(ctx, metav1.ListOptions{
			FieldSelector: "involvedObject.name=archive,reason=FailedScheduling",
		})
		if err != nil || len(list.Items) == 0 {
			return false, err
		}
		message = list.Items[0].Message
		return true, nil
	})
	if err != nil {
		return err
	}
	d.say("It stays pending, and its event says why:\n")
	d.say("%s", wrap("FailedScheduling: "+message, 110))
	return nil
}

// wrap breaks a text into lines of at most width characters.
func wrap(text string, width int) string {
	var b strings.Builder
	line := 0
	for _, word := range strings.Fields(text) {
		if line > 0 && line+1+len(word) > width {
			b.WriteString("\n")
			line = 0
		}
		if line == 0 {
			b.WriteString("  ")
		} else {
			b.WriteString(" ")
			line++
		}
		b.WriteString(word)
		line += len(word)
	}
	return b.String()
}

// actThree changes the network: the next pods go elsewhere, and the pod that was pending is placed.
func (d *demo) actThree(ctx context.Context) error {
	d.title("Act 3: the network changes")
	d.say("A message broker serves the east and the west from the north or the south.")
	before, err := d.place(ctx, broker("broker-before"))
	if err != nil {
		return err
	}
	redis, err := d.node(ctx, "role=master")
	if err != nil {
		return err
	}
	d.say("Now the west gets a fibre, and the north loses its uplink and goes by satellite.")
	in := func(site string, nodes ...int) bool {
		return slices.ContainsFunc(nodes, func(i int) bool { return d.places[i].site == site })
	}
	west1, master := d.number("west-1"), d.number(redis)
	was := d.network.RTT(west1, master)
	err = d.network.Update(func(from, to int, l wan.Link) wan.Link {
		if d.places[from].site == d.places[to].site {
			return l
		}
		if in("north", from, to) {
			l.OneWayDelay += 40 * time.Millisecond
		}
		if in("west", from, to) {
			l.OneWayDelay /= 3
		}
		return l
	})
	if err != nil {
		return err
	}
	changed := time.Now()
	d.say("  west-1 to %s (Redis): %s, before %s", redis, millis(d.network.RTT(west1, master)), millis(was))

	var archiveNode string
	err = d.until(ctx, "the pod archive to be placed", func() (bool, error) {
		pod, err := d.cluster.Client().CoreV1().Pods(ours.namespace).Get(ctx, "archive", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		archiveNode = pod.Spec.NodeName
		d.progress("%.0f s since the change; the median of the last %d probes has to move", time.Since(changed).Seconds(), probeWindow)
		return archiveNode != "", nil
	})
	if err != nil {
		return err
	}
	d.say("The pending pod `archive` was placed on %s by itself, %.1f s after the change.", archiveNode, time.Since(changed).Seconds())

	// The north's delay has to be known, too: from every node of the west and the east.
	now := d.network.RTT(d.number("east-1"), d.number(before))
	err = d.until(ctx, "the change in the north to be measured", func() (bool, error) {
		list, err := d.measured(ctx)
		if err != nil {
			return false, err
		}
		for _, m := range list {
			from, to := d.number(m.from), d.number(m.to)
			// A pair may be measured by either side.
			if (in("east", from) && in("north", to) || in("north", from) && in("east", to)) && m.typical < now*3/4 {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	after, err := d.place(ctx, broker("broker-after"))
	if err != nil {
		return err
	}
	rtt := func(from, to string) string { return millis(d.network.RTT(d.number(from), d.number(to))) }
	d.say("")
	d.table([]string{"broker", "node", ">to east-1 now", ">to west-1 now"}, [][]cell{
		{plain("placed before the change"), plain(before), plain(rtt(before, "east-1")), plain(rtt(before, "west-1"))},
		{plain("placed after the change"), {after, green}, plain(rtt(after, "east-1")), plain(rtt(after, "west-1"))},
	})
	if before == after {
		return fmt.Errorf("both brokers are on node %s: the change did not move the second one", before)
	}
	return d.policies(ctx)
}

// policies shows what `kubectl get latencypolicies -A` shows.
func (d *demo) policies(ctx context.Context) error {
	d.say("\nPods that run are left where they are. What holds for them now, as `kubectl get latencypolicies -A` says:\n")
	var rows [][]cell
	err := d.until(ctx, "the status of the policies", func() (bool, error) {
		list, err := d.api.LatencyPolicies(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		rows = nil
		for i := range list.Items {
			p := &list.Items[i]
			limits := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionLimitsKept)
			if limits == nil || p.Status.Typical == nil || p.Status.Tail == nil {
				return false, nil
			}
			colour := green
			if limits.Status == metav1.ConditionFalse {
				colour = red
			}
			rows = append(rows, []cell{
				plain(p.Namespace), plain(p.Name), plain(fmt.Sprint(p.Status.Pods)),
				{limits.Reason, colour},
				plain(millis(p.Status.Typical.Duration)), plain(millis(p.Status.Tail.Duration)), plain(p.Status.Worst),
			})
		}
		return len(rows) == 4, nil
	})
	if err != nil {
		return err
	}
	d.table([]string{"namespace", "name", ">pods", "limits", ">typical", ">tail", "worst"}, rows)
	return nil
}

// place creates a pod and returns the node on which it lands.
func (d *demo) place(ctx context.Context, pod *corev1.Pod) (node string, err error) {
	pods := d.cluster.Client().CoreV1().Pods(ours.namespace)
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return "", err
	}
	err = d.until(ctx, "pod "+pod.Name+" to be placed", func() (bool, error) {
		got, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		node = got.Spec.NodeName
		return node != "", nil
	})
	return node, err
}

// node returns the node of the first pod with a label.
func (d *demo) node(ctx context.Context, selector string) (string, error) {
	pods, err := d.cluster.Client().CoreV1().Pods(ours.namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return "", err
	}
	if len(pods.Items) == 0 {
		return "", fmt.Errorf("no pod with %s", selector)
	}
	return pods.Items[0].Spec.NodeName, nil
}
