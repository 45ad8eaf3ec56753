// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// orphanEnv makes the test binary start a cluster, print its processes, and wait to be killed.
const orphanEnv = "FOGSCHED_TEST_ORPHAN"

func TestMain(m *testing.M) {
	if os.Getenv(orphanEnv) != "" {
		orphan()
	}
	os.Exit(m.Run())
}

func orphan() {
	c, err := Start(context.Background(), Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, p := range c.processes {
		fmt.Println(p.PID())
	}
	fmt.Println(c.dir)
	select {}
}

func start(t *testing.T, opts Options) *Cluster {
	t.Helper()
	began := time.Now()
	opts.Progress = func(s string) { t.Logf("%5.1f s  %s", time.Since(began).Seconds(), s) }
	c, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

func TestWorkloadsRunAndNothingStaysBehind(t *testing.T) {
	ctx := t.Context()
	c := start(t, Options{KubeScheduler: true})

	if err := c.AddNodes(ctx, Node{Name: "a"}, Node{Name: "b", InternalIP: "127.0.7.2", Labels: map[string]string{"site": "north"}}, Node{Name: "c"}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetNotReady(ctx, "c"); err != nil {
		t.Fatal(err)
	}

	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways,
			Containers:    []corev1.Container{{Name: "web", Image: "web"}},
		},
	}
	replicas := int32(6)
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Template: template,
			Selector: &metav1.LabelSelector{MatchLabels: template.Labels},
		},
	}
	if _, err := c.Client().AppsV1().Deployments("default").Create(ctx, deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := waitForPods(t, c, "app=web", 6, corev1.PodRunning)
	ips := map[string]bool{}
	nodes := map[string]int{}
	for i := range pods {
		ips[pods[i].Status.PodIP] = true
		nodes[pods[i].Spec.NodeName]++
		if pods[i].Spec.NodeName == "b" && pods[i].Status.HostIP != "127.0.7.2" {
			t.Errorf("pod %s has host IP %s, want that of its node", pods[i].Name, pods[i].Status.HostIP)
		}
	}
	if len(ips) != 6 || ips[""] {
		t.Errorf("pod IPs %v, want 6 different ones", ips)
	}
	if nodes["a"] == 0 || nodes["b"] == 0 || nodes["c"] != 0 {
		t.Errorf("pods per node %v, want them on a and b, and none on c, which is not Ready", nodes)
	}
	waitUntil(t, "the Deployment to be available", func(ctx context.Context) (bool, error) {
		d, err := c.Client().AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
		return err == nil && d.Status.AvailableReplicas == replicas, err
	})

	// Scaling down goes through kwok too: it is what removes a deleted pod.
	if err := c.Client().AppsV1().Deployments("default").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitForPods(t, c, "app=web", 0, "")

	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once"}, Spec: batchv1.JobSpec{Template: template}}
	job.Spec.Template.Labels = map[string]string{"app": "once"}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	job.Spec.Template.Spec.NodeSelector = map[string]string{"site": "north"}
	if _, err := c.Client().BatchV1().Jobs("default").Create(ctx, job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	done := waitForPods(t, c, "app=once", 1, corev1.PodSucceeded)
	if done[0].Spec.NodeName != "b" {
		t.Errorf("the Job's pod ran on %s, want b, which its selector names", done[0].Spec.NodeName)
	}

	if err := c.SetReady(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if err := c.Err(); err != nil {
		t.Errorf("the control plane has failed: %v", err)
	}

	pids, dir := pidsOf(c), c.Dir()
	c.Stop()
	assertGone(t, pids)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder %s is still there: %v", dir, err)
	}
}

func TestSideBySideAndParentKilled(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command(exe, "-test.run=^$")
	other.Env = append(os.Environ(), orphanEnv+"=1")
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	other.Stderr = os.Stderr
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	// Two clusters start at once; neither may take the other's ports.
	c := start(t, Options{})

	var pids []int
	var dir string
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		if pid, err := strconv.Atoi(lines.Text()); err == nil {
			pids = append(pids, pid)
		} else {
			dir = lines.Text()
		}
	}
	if len(pids) != 4 {
		_ = other.Process.Kill()
		t.Fatalf("the other cluster has processes %v and says %q, want 4 processes and a folder", pids, dir)
	}
	for _, pid := range pids {
		if !alive(pid) {
			t.Errorf("process %d of the other cluster is gone too early", pid)
		}
	}
	if err := c.AddNodes(t.Context(), Node{Name: "mine"}); err != nil {
		t.Error(err)
	}

	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait() // "signal: killed"
	assertGone(t, pids)

	removeStaleDirs()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead cluster's folder %s is still there: %v", dir, err)
	}
	if _, err := os.Stat(c.Dir()); err != nil {
		t.Errorf("the living cluster's folder was removed as stale: %v", err)
	}
}

func TestStartFailureShowsTheLog(t *testing.T) {
	before, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Options{APIServerArgs: []string{"--authorization-mode=Nonsense"}})
	if err == nil {
		t.Fatal("the API server started with an authorization mode that does not exist")
	}
	for _, want := range []string{"kube-apiserver (exit status 1)", "it ended while starting", `\"Nonsense\" is not a valid mode`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	after, err := os.ReadDir(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if n, m := countDirs(before), countDirs(after); m > n {
		t.Errorf("%d folders of clusters before, %d after", n, m)
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	_, err := Start(t.Context(), Options{BinDir: t.TempDir(), KubeScheduler: true})
	if err == nil {
		t.Fatal("a cluster started without programs")
	}
	for _, want := range []string{"/etcd is missing: run `make tools`", "/kube-apiserver", "/kube-controller-manager", "/kwok", "/kube-scheduler"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
}

func TestRBACHoldsForNewUsers(t *testing.T) {
	ctx := t.Context()
	c := start(t, Options{})
	if err := c.ApplyYAML(ctx, []byte(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: tools}
---
# Namespaces are applied first, wherever they stand.
apiVersion: v1
kind: Namespace
metadata: {name: tools}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects:
- {kind: ServiceAccount, name: reader, namespace: tools}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: readers}
`)); err != nil {
		t.Fatal(err)
	}
	err := c.ApplyYAML(ctx, []byte("{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader}, automount: true}"))
	if err == nil || !strings.Contains(err.Error(), ".automount") {
		t.Errorf("an unknown field was applied, or its error does not name it: %v", err)
	}

	for who, kubeconfig := range map[string]func() (string, error){
		"a service account": func() (string, error) { return c.ServiceAccountKubeconfig(ctx, "tools", "reader") },
		"a user":            func() (string, error) { return c.KubeconfigFor("ann") },
		"a group":           func() (string, error) { return c.KubeconfigFor("ben", "readers") },
	} {
		path, err := kubeconfig()
		if err != nil {
			t.Fatal(err)
		}
		client := clientOf(t, path)
		if _, err := client.CoreV1().Pods("tools").List(ctx, metav1.ListOptions{}); err != nil {
			t.Errorf("%s may not list pods: %v", who, err)
		}
		if _, err := client.CoreV1().Secrets("tools").List(ctx, metav1.ListOptions{}); err == nil {
			t.Errorf("%s may list secrets", who)
		}
	}
}

func waitForPods(t *testing.T, c *Cluster, selector string, n int, phase corev1.PodPhase) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	waitUntil(t, fmt.Sprintf("%d pods %s %s", n, selector, phase), func(ctx context.Context) (bool, error) {
		list, err := c.Client().CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return false, err
		}
		pods = list.Items
		for i := range pods {
			if pods[i].Status.Phase != phase {
				return false, nil
			}
		}
		return len(pods) == n, nil
	})
	return pods
}

func waitUntil(t *testing.T, what string, condition wait.ConditionWithContextFunc) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), pollInterval, time.Minute, true, condition); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

func clientOf(t *testing.T, kubeconfig string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func pidsOf(c *Cluster) []int {
	var pids []int
	for _, p := range c.processes {
		pids = append(pids, p.PID())
	}
	for _, s := range c.schedulers {
		pids = append(pids, s.process.PID())
	}
	return pids
}

func assertGone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		waitUntil(t, fmt.Sprintf("process %d to be gone", pid), func(context.Context) (bool, error) { return !alive(pid), nil })
	}
}

// alive is false for a zombie: it has ended, and only its parent has yet to take notice.
func alive(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func countDirs(entries []os.DirEntry) int {
	n := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), strings.TrimSuffix(dirPattern, "*")) {
			n++
		}
	}
	return n
}
