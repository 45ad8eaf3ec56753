// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestCluster makes a cluster of two nodes, adds a third, kills and starts one, reaches every pod of a Service from a pod and
// from this machine, and looks for what is left of it all afterwards.
func TestCluster(t *testing.T) {
	if os.Getenv("FOGSCHED_E2E") != "1" {
		t.Skip("takes minutes and a Docker engine, or root to start one: `make e2e` sets FOGSCHED_E2E=1")
	}
	const name = "fogsched-kind-test"
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()

	// What an interrupted run left is not this run's.
	if err := Delete(ctx, name, testWriter{t}); err != nil {
		t.Fatal(err)
	}
	before := traces(t, name)
	c, err := Create(ctx, Config{Name: name, Log: testWriter{t}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.Engine.Own() {
			freezeOne(t, name)
		}
		if err := c.Delete(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before, traces(t, name)); diff != "" {
			t.Errorf("the machine is not as it was (-before +after):\n%s", diff)
		}
	})

	program, archive := helloImage(t)
	if err := c.LoadImage(ctx, archive); err != nil {
		t.Fatal(err)
	}
	added, err := c.AddNode(ctx)
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(nodes); !cmp.Equal(got, []string{name + "-control-plane", name + "-worker", name + "-worker2"}) || added.Name != name+"-worker2" {
		t.Fatalf("nodes %v, added %s", got, added.Name)
	}
	for _, node := range nodes {
		t.Logf("%+v", node)
		checkNode(t, node)
	}

	// One replica on each worker, the asking pod on the control plane.
	hello(t, c)
	pods := waitForPods(ctx, t, c, 2)
	if pods[0].Spec.NodeName == pods[1].Spec.NodeName {
		t.Fatalf("both pods are on %s", pods[0].Spec.NodeName)
	}
	wanted := []string{pods[0].Name, pods[1].Name}
	slices.Sort(wanted)
	if got := ask(ctx, t, c, "asker", "http://hello.default.svc.cluster.local"); !cmp.Equal(got, wanted) {
		t.Errorf("a pod that asked the Service by name got answers from %v, want %v", got, wanted)
	}
	for _, node := range nodes {
		out, err := exec.CommandContext(ctx, program, fmt.Sprintf("http://%s:%d", node.IP, nodePort), "2").CombinedOutput()
		if err != nil {
			t.Errorf("the NodePort of %s: %v: %s", node.Name, err, out)
		}
	}

	// As when its power fails, and comes back.
	if err := c.StopNode(ctx, added.Name, true); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err = poll(ctx, 2*time.Minute, "waiting for the killed node to be NotReady", func(ctx context.Context) (bool, error) {
		node, err := c.Node(ctx, added.Name)
		return err == nil && !node.Ready && node.PID == 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("NotReady %.0f s after it was killed", time.Since(began).Seconds())
	began = time.Now()
	if err := c.StartNode(ctx, added.Name); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx, 3); err != nil {
		t.Fatal(err)
	}
	t.Logf("Ready %.0f s after it was started", time.Since(began).Seconds())
	again, err := c.Node(ctx, added.Name)
	if err != nil {
		t.Fatal(err)
	}
	checkNode(t, again)
	if again.PID == added.PID || again.PodCIDR != added.PodCIDR {
		t.Errorf("after the restart: %+v, before: %+v", again, added)
	}
	waitForPods(ctx, t, c, 2)
	if got := ask(ctx, t, c, "asker-again", "http://hello"); !cmp.Equal(got, wanted) {
		t.Errorf("after the restart a pod got answers from %v, want %v", got, wanted)
	}

	opened, err := Open(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if nodes, err := opened.Nodes(ctx); err != nil || len(nodes) != 3 {
		t.Errorf("opened anew, the cluster has the nodes %v: %v", nodes, err)
	}
}

func names(nodes []Node) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return out
}

// checkNode looks into the network that PID names: it must be the node's.
func checkNode(t *testing.T, n Node) {
	t.Helper()
	if !n.Ready || n.PodCIDR == "" || n.IP == "" {
		t.Errorf("incomplete: %+v", n)
	}
	out, err := exec.Command("nsenter", "--target", fmt.Sprint(n.PID), "--net", "--uts", "sh", "-c", "hostname; ip -o -4 addr").CombinedOutput()
	if err != nil {
		t.Fatalf("nsenter into %s: %v: %s", n.Name, err, out)
	}
	if !strings.HasPrefix(string(out), n.Name+"\n") || !strings.Contains(string(out), " "+n.IP+"/") {
		t.Errorf("PID %d is not of the node %s with the address %s:\n%s", n.PID, n.Name, n.IP, out)
	}
}

func helloImage(t *testing.T) (program, archive string) {
	t.Helper()
	dir := t.TempDir()
	program = filepath.Join(dir, "hello")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "./testdata/hello")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	archive, err := BuildImage("docker.io/fogsched/hello:test", map[string]string{"/hello": program}, []string{"/hello"}, InFolder(dir))
	if err != nil {
		t.Fatal(err)
	}
	return program, archive
}

const nodePort = 30080

func hello(t *testing.T, c *Cluster) {
	t.Helper()
	ctx := t.Context()
	labels := map[string]string{"app": "hello"}
	_, err := c.Client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "hello"},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(2)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers: []corev1.Container{helloContainer()},
					TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{
						MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
						LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
					}},
				},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Client.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "hello"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: labels,
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080), NodePort: nodePort}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func helloContainer() corev1.Container {
	return corev1.Container{Name: "hello", Image: "docker.io/fogsched/hello:test", ImagePullPolicy: corev1.PullNever}
}

func waitForPods(ctx context.Context, t *testing.T, c *Cluster, n int) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	err := poll(ctx, 2*time.Minute, "waiting for the pods", func(ctx context.Context) (bool, error) {
		list, err := c.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=hello"})
		if err != nil {
			return false, err
		}
		pods = slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
			return !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
		})
		return len(pods) == n, fmt.Errorf("%d pods are Ready", len(pods))
	})
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

// ask lets a pod on the control plane ask until two have answered, and returns them.
func ask(ctx context.Context, t *testing.T, c *Cluster, name, url string) []string {
	t.Helper()
	container := helloContainer()
	container.Args = []string{url, "2"}
	_, err := c.Client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			Containers:    []corev1.Container{container},
			NodeName:      c.Name + "-control-plane",
			RestartPolicy: corev1.RestartPolicyNever,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	said := func(ctx context.Context) string {
		out, err := c.Client.CoreV1().Pods("default").GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return err.Error()
		}
		return string(out)
	}
	err = poll(ctx, 2*time.Minute, "waiting for the asking pod", func(ctx context.Context) (bool, error) {
		pod, err := c.Client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		return ended, fmt.Errorf("it is %s: %s", pod.Status.Phase, tail(said(ctx), 3))
	})
	if err != nil {
		t.Fatal(err)
	}
	answers := strings.Fields(said(ctx)) // or what it complains of
	slices.Sort(answers)
	return answers
}

// freezeOne freezes a pod of the cluster, as runc does for a moment now and then; where there is no cgroup v1 it does nothing,
// because there the frozen can be killed.
func freezeOne(t *testing.T, name string) {
	t.Helper()
	groups, err := cgroups("fogsched-kind-" + name)
	if err != nil {
		t.Error(err)
		return
	}
	for _, top := range groups {
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "freezer.state" || !strings.HasSuffix(filepath.Dir(p), ".scope") {
				return nil
			}
			if err := os.WriteFile(p, []byte("FROZEN"), 0o644); err != nil {
				t.Error(err)
			}
			return fs.SkipAll
		})
	}
}

// traces lists what a cluster of this name could leave on this machine.
func traces(t *testing.T, name string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		// Other clusters may come and go meanwhile.
		if i.Name == linkName(name) {
			found["interfaces"] = append(found["interfaces"], i.Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, name) {
			found["mounts"] = append(found["mounts"], line)
		}
		if fields := strings.Fields(line); strings.Contains(line, " - cgroup") {
			groups, err := filepath.Glob(filepath.Join(fields[4], "*"+name+"*"))
			if err != nil {
				t.Fatal(err)
			}
			found["cgroups"] = append(found["cgroups"], groups...)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range processes {
		if dir == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		// A process may end while we look at it.
		arguments, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if strings.Contains(string(arguments), name) || strings.Contains(string(cgroup), name) {
			found["processes"] = append(found["processes"], strings.ReplaceAll(string(arguments), "\x00", " "))
		}
	}
	state, err := stateDir(name)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{
		"/etc/cni", "/etc/docker", "/opt/cni", "/opt/containerd", "/run/containerd", "/run/docker", "/run/netns", "/run/nri",
		"/var/lib/containerd", "/var/lib/docker", "/var/lib/kubelet", state, filepath.Join(cache, "engine-"+name), filepath.Join(cache, "images-"+name),
	} {
		if _, err := os.Stat(dir); err == nil {
			found["folders"] = append(found["folders"], dir)
		}
	}
	ctx := context.Background() // the test's own has ended when this is called last
	if _, err := engineVersion(ctx); err != nil {
		found["firewall"] = dockerRules()
		return found
	}
	// The machine's engine keeps chains of its own.
	e := &Engine{name: name}
	for what, args := range map[string][]string{
		"containers": {"ps", "--all", "--quiet", "--filter", "label=" + clusterLabel + "=" + name},
		"networks":   {"network", "ls", "--quiet", "--filter", "name=^" + name + "$"},
		"volumes":    {"volume", "ls", "--quiet"},
		"images":     {"image", "ls", "--quiet", builtNodeImage},
	} {
		out, err := e.Docker(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		found[what] = strings.Fields(out)
	}
	return found
}

// dockerRules lists the firewall's rules that a Docker engine or a route of ours would make here.
func dockerRules() []string {
	var rules []string
	for _, table := range []string{"filter", "nat"} {
		out, err := exec.Command("iptables", "-w", "-t", table, "-S").Output()
		if err != nil {
			return nil // No iptables, no rules.
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "DOCKER") || strings.Contains(line, "172.29.") {
				rules = append(rules, line)
			}
		}
	}
	return rules
}

// testWriter passes what is written on to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}
