// SPDX-License-Identifier: Apache-2.0

// Package doctor tests `kubectl fog doctor` on a real API server: each wrong turn is taken for real, must be named with its mend, and the mend,
// as it is printed, must do. kwok plays the nodes; what it says that runs in a pod of fogsched, this package runs.
package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/program"
)

const (
	system   = "fogsched-system"
	overlay  = "manifests/overlays/second-scheduler"
	patience = 90 * time.Second // for what takes some seconds when it works: leases run out, probers publish
)

// bed is a cluster as a newcomer has it, and the kubelets' part in it.
type bed struct {
	*testing.T
	control *cluster.Cluster
	stock   *cluster.Scheduler
	root    string
	path    string // with kubectl and kubectl-fog
	env     []string

	probers string // file of all probers' addresses

	mu         sync.Mutex
	schedulers map[string]*cluster.Scheduler // by pod
	probing    map[string]*program.Process   // by pod
	starting   map[string]bool               // by pod
	starts     sync.WaitGroup
	commands   int // that a user typed
}

var nodeNames = []string{"north-1", "north-2", "south-1", "south-2"}

func newBed(t *testing.T) *bed {
	t.Helper()
	ctx := t.Context()
	control, err := cluster.Start(ctx, cluster.Options{})
	must(t, err)
	t.Cleanup(control.Stop)
	b := &bed{T: t, control: control, schedulers: map[string]*cluster.Scheduler{}, starting: map[string]bool{}, probing: map[string]*program.Process{}}
	b.root, err = cluster.RepoRoot()
	must(t, err)
	bin, err := cluster.BinDir()
	must(t, err)
	for _, name := range []string{"kubectl", "kubectl-fog", "fogsched", "fogprobe"} {
		if _, err := program.Path(bin, name, "make build bin/kubectl"); err != nil {
			t.Fatal(err)
		}
	}
	b.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+control.KubeconfigPath(), "HOME="+t.TempDir())
	b.path = bin

	var nodes []cluster.Node
	var addresses strings.Builder
	for i, name := range nodeNames {
		site, _, _ := strings.Cut(name, "-")
		nodes = append(nodes, cluster.Node{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: site, "gateway": fmt.Sprint(i == 0)}})
		port, err := program.ReservePort()
		must(t, err)
		t.Cleanup(port.Release)
		fmt.Fprintf(&addresses, "%s 127.0.0.1:%d\n", name, port.Number())
	}
	b.probers = filepath.Join(t.TempDir(), "probers")
	must(t, os.WriteFile(b.probers, []byte(addresses.String()), 0o600))
	must(t, control.AddNodes(ctx, nodes...))
	b.stock, err = control.StartScheduler(ctx, cluster.SchedulerOptions{ConfigYAML: []byte("leaderElection: {leaderElect: true}")})
	must(t, err)

	done := make(chan struct{})
	play, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		b.play(play)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			b.dump()
		}
		cancel()
		<-done
		b.starts.Wait()
		for _, p := range b.probing {
			p.Terminate(time.Second)
		}
	})
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dump says what the schedulers said last.
func (b *bed) dump() {
	logs, _ := filepath.Glob(filepath.Join(b.control.Dir(), "fogsched-*.log"))
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		b.Logf("%s ends with\n%s", filepath.Base(path), strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}

// play does what kubelets would: it runs the program of each pod of ours that is on a node, with the configuration and the token of that pod.
func (b *bed) play(ctx context.Context) {
	for ctx.Err() == nil {
		if err := b.reconcile(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "playing the kubelets:", err) // not by the test that runs now: it may end meanwhile
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (b *bed) reconcile(ctx context.Context) error {
	list, err := b.control.Client().CoreV1().Pods(system).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	running := map[string]bool{}
	var errs []error
	for i := range list.Items {
		p := &list.Items[i]
		if p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
			continue
		}
		running[p.Name] = true
		switch p.Labels["app.kubernetes.io/name"] {
		case "fogsched":
			errs = append(errs, b.runScheduler(ctx, p))
		case "fogprobe":
			errs = append(errs, b.runProber(ctx, p))
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, s := range b.schedulers {
		if !running[name] {
			s.Stop()
			delete(b.schedulers, name)
		}
	}
	for name, p := range b.probing {
		if !running[name] {
			p.Terminate(time.Second)
			delete(b.probing, name)
		}
	}
	return errors.Join(errs...)
}

func (b *bed) runScheduler(ctx context.Context, p *corev1.Pod) error {
	b.mu.Lock()
	had := b.schedulers[p.Name]
	b.mu.Unlock()
	if had != nil {
		select {
		case <-had.Done(): // it crashed: a kubelet starts it again
		default:
			return nil
		}
	}
	var config string
	for _, v := range p.Spec.Volumes {
		if v.ConfigMap == nil {
			continue
		}
		c, err := b.control.Client().CoreV1().ConfigMaps(system).Get(ctx, v.ConfigMap.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		config = c.Data["config.yaml"]
	}
	kubeconfig, err := b.token(ctx, p)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.starting[p.Name] {
		return nil
	}
	b.starting[p.Name] = true
	// Not waited for: one that stands by may take its time, and meanwhile another is to be stopped.
	b.starts.Go(func() {
		s, err := b.control.StartScheduler(ctx, cluster.SchedulerOptions{Binary: "fogsched", Name: p.Name, Kubeconfig: kubeconfig, ConfigYAML: []byte(config)})
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.starting, p.Name)
		if err != nil {
			if ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "playing the kubelet of pod %s: %v\n", p.Name, err)
			}
			return
		}
		b.schedulers[p.Name] = s // where its pod is gone by now, the next round stops it
	})
	return nil
}

func (b *bed) runProber(ctx context.Context, p *corev1.Pod) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.probing[p.Name]; q != nil && !q.Exited() {
		return nil
	}
	kubeconfig, err := b.token(ctx, p)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(b.probers)
	if err != nil {
		return err
	}
	address := ""
	for line := range strings.Lines(string(data)) {
		if name, at, _ := strings.Cut(strings.TrimSpace(line), " "); name == p.Spec.NodeName {
			address = at
		}
	}
	q, err := program.Start(p.Name, filepath.Join(b.path, "fogprobe"), filepath.Dir(kubeconfig), []string{
		"--node-name=" + p.Spec.NodeName, "--listen=" + address, "--endpoint=" + address, "--peers=" + b.probers, "--interest=",
		"--kubeconfig=" + kubeconfig, "--http-address=", "--interval=300ms", "--publish-min-gap=500ms", "--publish-max-age=3s",
	})
	if err != nil {
		return err
	}
	b.probing[p.Name] = q
	return nil
}

// token writes a kubeconfig with the token that a pod's kubelet would mount.
func (b *bed) token(ctx context.Context, p *corev1.Pod) (string, error) {
	t, err := b.control.Client().CoreV1().ServiceAccounts(system).CreateToken(ctx, p.Spec.ServiceAccountName, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	config, err := clientcmd.LoadFromFile(b.control.KubeconfigPath())
	if err != nil {
		return "", err
	}
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: t.Status.Token}
	}
	path := filepath.Join(b.control.Dir(), "pod-"+p.Name+".kubeconfig")
	return path, clientcmd.WriteToFile(*config, path)
}

// leader returns a scheduler that runs.
func (b *bed) leader() *cluster.Scheduler {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.schedulers {
		return s
	}
	return nil
}

// sh runs a command as a user would type it, in the repository.
func (b *bed) sh(command string) (string, error) {
	b.commands++
	var out []byte
	var err error
	for {
		cmd := exec.CommandContext(b.Context(), "sh", "-c", command)
		cmd.Dir, cmd.Env = b.root, b.env
		out, err = cmd.CombinedOutput()
		// kubectl writes the time of a restart by the second. This test is faster than people, who would see the second one refused, too.
		if err == nil || !strings.Contains(string(out), "restart has already been triggered within the past second") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return string(out), nil
}

func (b *bed) must(command string) {
	b.Helper()
	if _, err := b.sh(command); err != nil {
		b.Fatal(err)
	}
}

// apply gives a manifest to kubectl.
func (b *bed) apply(manifest string) {
	b.Helper()
	path := filepath.Join(b.TempDir(), "manifest.yaml")
	must(b.T, os.WriteFile(path, []byte(manifest), 0o600))
	b.must("kubectl apply -f " + path)
}

// The report, as a script would read it.
type report struct {
	Summary struct{ Problems, Warnings, OK, NotChecked int }
	Checks  []struct {
		ID, Status, Message string
		NotChecked          []string
		Findings            []finding
	}
}

type finding struct {
	Severity, Message string
	Evidence          []string
	Mend              struct {
		Text     string
		Commands []string
	}
}

// doctor runs `kubectl fog doctor` with the metrics of the scheduler, where one runs, and returns the report and the exit code.
func (b *bed) doctor(args ...string) (*report, int) {
	b.Helper()
	args = append([]string{"fog", "doctor", "-o", "json"}, args...)
	var metrics string
	if s := b.leader(); s != nil {
		text, err := s.Metrics(b.Context())
		if err == nil {
			metrics = text
			args = append(args, "--metrics=-")
		}
	}
	cmd := exec.CommandContext(b.Context(), filepath.Join(b.path, "kubectl"), args...)
	cmd.Dir, cmd.Env, cmd.Stdin = b.root, b.env, strings.NewReader(metrics)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.Fatal(err)
	}
	r := &report{}
	if err := json.Unmarshal(out.Bytes(), r); err != nil {
		b.Fatalf("kubectl fog doctor: %v\n%s\n%s", err, out.String(), errOut.String())
	}
	return r, cmd.ProcessState.ExitCode()
}

// eventually waits until a check sees nothing amiss.
func (b *bed) eventually(what string, check func() (amiss string)) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	for {
		amiss := check()
		if amiss == "" {
			return
		}
		select {
		case <-ctx.Done():
			b.Fatalf("waited in vain for %s; last seen: %s", what, amiss)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// named waits until a check has a finding that says all of want, in its message, evidence or mend, and returns it.
func (b *bed) named(id, severity string, want ...string) (found finding) {
	b.Helper()
	b.eventually("the check "+id+" to say "+strings.Join(want, ", "), func() string {
		r, code := b.doctor()
		for _, c := range r.Checks {
			if c.ID != id {
				continue
			}
			for _, f := range c.Findings {
				text := strings.Join(slices.Concat([]string{f.Message, f.Mend.Text}, f.Evidence, f.Mend.Commands), "\n")
				if f.Severity != severity || slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(text, w) }) {
					continue
				}
				found = f
				if severity == "problem" && code != 1 {
					return fmt.Sprintf("exit code %d with a problem", code)
				}
				if f.Mend.Text == "" && len(f.Mend.Commands) == 0 {
					return "a finding without a mend"
				}
				return ""
			}
			return fmt.Sprintf("%s: %s %+v", c.Status, c.Message, c.Findings)
		}
		return "no such check"
	})
	return found
}

// run does what a mend says, word for word.
func (b *bed) run(f finding) {
	b.Helper()
	if len(f.Mend.Commands) == 0 {
		b.Fatalf("no command mends %q", f.Message)
	}
	for _, c := range f.Mend.Commands {
		b.must(c)
	}
}

// content waits until doctor finds neither a problem nor a warning, and exits with 0.
func (b *bed) content() {
	b.Helper()
	b.eventually("doctor to be content", func() string {
		r, code := b.doctor()
		var amiss []string
		for _, c := range r.Checks {
			// A machine that is busy with the tests of others starves probers now and then.
			if c.Status != "ok" && c.ID != "starved" {
				amiss = append(amiss, fmt.Sprintf("%s %s: %s %+v %v", c.ID, c.Status, c.Message, c.Findings, c.NotChecked))
			}
		}
		if code != 0 {
			amiss = append(amiss, fmt.Sprintf("exit code %d", code))
		}
		return strings.Join(amiss, "\n")
	})
}

// noProbers waits until every prober has ended.
func (b *bed) noProbers() {
	b.Helper()
	b.eventually("the probers to end", func() string {
		b.mu.Lock()
		defer b.mu.Unlock()
		if n := len(b.probing); n > 0 {
			return fmt.Sprintf("%d run", n)
		}
		return ""
	})
}

// placed waits until the pods of an app are on nodes.
func (b *bed) placed(namespace, app string) {
	b.Helper()
	b.eventually("the pods of "+app+" to be placed", func() string {
		list, err := b.control.Client().CoreV1().Pods(namespace).List(b.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return err.Error()
		}
		if len(list.Items) == 0 {
			return "no pods"
		}
		for i := range list.Items {
			if p := &list.Items[i]; p.DeletionTimestamp == nil && p.Spec.NodeName == "" {
				return fmt.Sprintf("%s: %v", p.Name, p.Status.Conditions)
			}
		}
		return ""
	})
}

// configure edits the scheduler's configuration, as `kubectl edit` does, and restarts the scheduler.
func (b *bed) configure(edit func(string) string) {
	b.Helper()
	d, err := b.control.Client().AppsV1().Deployments(system).Get(b.Context(), "fogsched", metav1.GetOptions{})
	must(b.T, err)
	name := d.Spec.Template.Spec.Volumes[0].ConfigMap.Name
	c, err := b.control.Client().CoreV1().ConfigMaps(system).Get(b.Context(), name, metav1.GetOptions{})
	must(b.T, err)
	before := c.Data["config.yaml"]
	c.Data["config.yaml"] = edit(before)
	if c.Data["config.yaml"] == before {
		b.Fatal("the edit changes nothing")
	}
	_, err = b.control.Client().CoreV1().ConfigMaps(system).Update(b.Context(), c, metav1.UpdateOptions{})
	must(b.T, err)
	b.must("kubectl -n " + system + " rollout restart deployment fogsched && kubectl -n " + system + " rollout status deployment fogsched --timeout=60s")
}
