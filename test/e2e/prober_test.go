// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	"github.com/fogsched/fogsched/test/wan/tun"
)

const (
	enforceLabel = "pod-security.kubernetes.io/enforce"
	// followTime is how soon a change of the network must be measured.
	followTime = 30 * time.Second
)

func TestProber(t *testing.T) {
	pods := features.New("a prober runs on every node under Pod Security restricted").
		Assess("the namespace enforces restricted", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			ns, err := world.client.CoreV1().Namespaces().Get(ctx, systemNamespace, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := ns.Labels[enforceLabel]; got != "restricted" {
				t.Errorf("label %s of namespace %s: %q, want restricted", enforceLabel, ns.Name, got)
			}
			return ctx
		}).
		Assess("a pod on the host network is refused there", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			p := idlePod("intruder", "")
			p.Spec.HostNetwork = true
			_, err := world.client.CoreV1().Pods(systemNamespace).Create(ctx, p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "restricted") {
				t.Errorf("error %v, want a refusal by Pod Security restricted", err)
			}
			return ctx
		}).
		Assess("the DaemonSet is ready on every node", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			nodes, err := world.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := int32(len(nodes.Items))
			until(ctx, t, time.Minute, "the prober to be ready on every node", func(ctx context.Context) (string, error) {
				d, err := world.client.AppsV1().DaemonSets(systemNamespace).Get(ctx, prober, metav1.GetOptions{})
				if err != nil {
					return "", err
				}
				if got := d.Status; got.DesiredNumberScheduled != want || got.NumberReady != want {
					return fmt.Sprintf("%d nodes, %d probers desired, %d ready", want, got.DesiredNumberScheduled, got.NumberReady), nil
				}
				return "", nil
			})
			return ctx
		})

	measured := features.New("what the probers measure is the distance between the nodes").
		Assess("medians match the emulator to within 1 ms + 5 %", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			needsEmulator(t, "comparing RTTs with the true ones")
			settled(ctx, t)
			printRTTs(ctx, t)
			return ctx
		}).
		Assess("a change of delay is measured within 30 s", func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			needsEmulator(t, "changing the distance between nodes")
			restoreLinks(t)
			// Up for half of the pairs, down for the others, by more than the tolerance.
			err := world.emulator.SetAll(func(from, to string, l tun.Link) tun.Link {
				if farther(from, to) {
					l.RTT += 20 * time.Millisecond
				} else {
					l.RTT /= 3
				}
				return l
			})
			if err != nil {
				t.Fatal(err)
			}
			took := settled(ctx, t)
			say("a change of all delays was measured by all probers within %.1f s", took.Seconds())
			keepSeconds("delayChangeMeasured", took)
			printRTTs(ctx, t)
			if took > followTime {
				t.Errorf("it took %s, want at most %s", took, followTime)
			}
			return ctx
		})
	testenv.Test(t, pods.Feature(), measured.Feature())
}

// farther tells half of the pairs from the others, in both directions alike.
func farther(a, b string) bool {
	sum := 0
	for _, c := range a + b {
		sum += int(c)
	}
	return sum%2 == 0
}

func printRTTs(ctx context.Context, t *testing.T) {
	t.Helper()
	nodes, err := readyNodes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m, err := measuredRTTs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	say("RTTs of the emulator, and medians as the probers (rows) published them, in ms:")
	m.table(truth(ctx, t), nodes)
}

func keepSeconds(what string, d time.Duration) {
	result.Lock()
	defer result.Unlock()
	if result.Seconds == nil {
		result.Seconds = map[string]float64{}
	}
	result.Seconds[what] = round(d.Seconds())
}

// idlePod is a pod that waits and does nothing, for the given scheduler.
func idlePod(name, schedulerName string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       idleSpec(schedulerName),
	}
}

// idleSpec is that of a pod that any namespace under Pod Security `restricted` takes: a board that nobody asks.
func idleSpec(schedulerName string) corev1.PodSpec {
	yes, no, user, grace := true, false, int64(65532), int64(1)
	return corev1.PodSpec{
		SchedulerName:                 schedulerName,
		AutomountServiceAccountToken:  &no,
		TerminationGracePeriodSeconds: &grace,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user,
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: "idle", Image: image("bulletinboard"), ImagePullPolicy: pullPolicy(),
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		}},
	}
}
