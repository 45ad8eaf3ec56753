// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func asExit(err error, to **exec.ExitError) bool { return errors.As(err, to) }

// account makes a service account that may do what rules say, and returns its kubeconfig.
func account(t *testing.T, name string, rules ...rbacv1.PolicyRule) string {
	t.Helper()
	ctx := t.Context()
	meta := metav1.ObjectMeta{Name: name}
	if _, err := control.Client().CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Client().RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Client().RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: name}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		_ = control.Client().RbacV1().ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{})
		_ = control.Client().RbacV1().ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{})
		_ = control.Client().CoreV1().ServiceAccounts("default").Delete(ctx, name, metav1.DeleteOptions{})
	})
	kubeconfig, err := control.ServiceAccountKubeconfig(ctx, "default", name)
	if err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// Whoever lacks a permission is told which: the verb and the resource, in one line, and nothing on standard output.
func TestTheMissingVerbIsNamed(t *testing.T) {
	can := func(group, resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	nobody := account(t, "nobody")
	nodesOnly := account(t, "nodes-only", can("", "nodes", "list"))
	lists := account(t, "lists", can("", "nodes", "list"), can("", "pods", "list"), can("fogsched.dev", "nodelatencies", "list"), can("fogsched.dev", "latencypolicies", "list"))
	for _, tc := range []struct {
		name, kubeconfig string
		args             []string
		want             string
	}{
		{"nodes", nobody, []string{"nodes"}, `the verb "list" on "nodes" in all namespaces`},
		{"matrix", nobody, []string{"matrix"}, `the verb "list" on "nodes" in all namespaces`},
		{"matrix without reports", nodesOnly, []string{"matrix"}, `the verb "list" on "nodelatencies.fogsched.dev" in all namespaces`},
		{"policy status", nobody, []string{"policy", "status"}, `the verb "list" on "latencypolicies.fogsched.dev" in the namespace default`},
		{"policy status of all", nobody, []string{"policy", "status", "-A"}, `the verb "list" on "latencypolicies.fogsched.dev" in all namespaces`},
		{"top", nodesOnly, []string{"top", "--once"}, `the verb "list" on "nodelatencies.fogsched.dev"`},
		{"top, live", lists, []string{"top"}, `the verb "watch" on "`},
		{"nodes, watching", lists, []string{"nodes", "--watch"}, `the verb "watch" on "`},
		{"policy status, watching", lists, []string{"policy", "status", "-w"}, `the verb "watch" on "latencypolicies.fogsched.dev" in the namespace default`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := fog(t, tc.kubeconfig, tc.args...)
			if o.code != 1 || o.out != "" || !strings.Contains(o.err, tc.want) || strings.Contains(o.err, "\n") {
				t.Errorf("exit code %d, output %q, error %q; want 1, none, and one line with %q", o.code, o.out, o.err, tc.want)
			}
		})
	}
	// And with the verbs that were named it works.
	for _, args := range [][]string{{"nodes"}, {"matrix"}, {"policy", "status", "-A"}, {"top", "--once"}} {
		if o := fog(t, lists, args...); o.code != 0 {
			t.Errorf("%v with the permission to list: exit code %d, %s", args, o.code, o.err)
		}
	}
}

// kubectl finds the program as its plugin, and completes what it completes.
func TestKubectlFindsAndCompletesIt(t *testing.T) {
	dir := t.TempDir()
	for name, from := range map[string]string{"kubectl": program(t, "kubectl", "bin/kubectl"), "kubectl-fog": program(t, "kubectl-fog", "build")} {
		if err := os.Symlink(from, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "kubectl_complete-fog"), []byte(fog(t, "", "completion", "plugin").out), 0o700); err != nil {
		t.Fatal(err)
	}
	someNode(t, "to-be-completed-1")
	kubectl := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "kubectl"), args...)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "KUBECONFIG="+control.KubeconfigPath())
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("kubectl %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	if out := kubectl("fog", "nodes", "to-be-completed-1"); !strings.Contains(out, "to-be-completed-1") {
		t.Errorf("kubectl fog nodes: %s", out)
	}
	if out := kubectl("fog", "--help"); !strings.Contains(out, "kubectl fog nodes") {
		t.Errorf("kubectl fog --help: %s", out)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"__complete", "fog", "no"}, "nodes"},
		{[]string{"__complete", "fog", "nodes", "to-be-com"}, "to-be-completed-1"},
		{[]string{"__complete", "fog", "matrix", "--statistic", ""}, "tail"},
		{[]string{"__complete", "fog", "policy", ""}, "check"},
	} {
		if out := kubectl(tc.args...); !strings.Contains(out, tc.want) {
			t.Errorf("kubectl %v: want %q in %q", tc.args, tc.want, out)
		}
	}
}

func someNode(t *testing.T, name string) {
	t.Helper()
	n := world{n: 1}.node(0)
	n.Name = name
	if _, err := control.Client().CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = control.Client().CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
}

// Commands that watch show what changes, as it changes, and end when they are told to.
func TestWatching(t *testing.T) {
	someNode(t, "watched")
	patch := func(unschedulable string) {
		t.Helper()
		if _, err := control.Client().CoreV1().Nodes().Patch(t.Context(), "watched", types.MergePatchType, []byte(`{"spec":{"unschedulable":`+unschedulable+`}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), program(t, "kubectl-fog", "build"), "nodes", "watched", "--watch")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+control.KubeconfigPath())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	deadline := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer deadline.Stop()
	until := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("the command ended, or a minute went by, before it said %q", text)
	}
	until("Ready,no-prober")
	patch("true")
	until("Ready,SchedulingDisabled,no-prober")
	patch("false")
	until("Ready,no-prober")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // what was on its way
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
}
