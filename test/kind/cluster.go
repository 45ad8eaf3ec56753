// SPDX-License-Identifier: Apache-2.0

package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// publishedNodeImage is the image of Kubernetes 1.35 that the release notes of kind v0.33.0 list.
const publishedNodeImage = "docker.io/kindest/node:v1.35.8@sha256:07b2536e30b803ed61d1677a79df6115f798ce64c80f9e22f6ed45afd09323c0"

// builtNodeImage is the name that hack/kind gives the images it builds, before the colon.
const builtNodeImage = "fogsched/kind-node"

// readyLimit bounds how long a node may take to become Ready.
const readyLimit = 3 * time.Minute

// Config says what cluster to make.
type Config struct {
	// Name tells clusters apart: lower-case letters, digits and dashes, at most 40. Default "fogsched-e2e".
	Name string
	// Workers is the number of nodes beside the control plane. Default 1.
	Workers int
	// NodeImage is a node image for kind v0.33: a docker archive's path, or a name that the engine can pull. Default
	// $KIND_NODE_IMAGE; else kind's own of Kubernetes 1.35 where a registry answers; else one that hack/kind builds, once.
	NodeImage string
	// Stay leaves an engine of our own, and the cluster on it, running when this process ends.
	Stay bool
	// Log gets a line for each thing that takes time; nil is silence.
	Log io.Writer
}

// Node is a node of the cluster as it runs now. A node that was stopped and started again has another PID.
type Node struct {
	Name         string
	ControlPlane bool
	// PID is the first process of the node's container: /proc/PID/ns/net is the node's network. 0 while it is stopped.
	PID int
	// IP is the node's address, PodCIDR the range of its pods'.
	IP, PodCIDR string
	// Ready says what the API server knows; it learns that a node has stopped after about 45 s.
	Ready bool
}

// Cluster is a running kind cluster.
type Cluster struct {
	Name string
	// Kubeconfig is the path of a file for KUBECONFIG.
	Kubeconfig string
	Client     kubernetes.Interface
	Engine     *Engine

	log io.Writer
	// mu guards the folder of loaded images.
	mu sync.Mutex
}

// Create makes a cluster and waits until every node is Ready. What an earlier run left under this name goes first; what
// Create made goes when it fails.
func Create(ctx context.Context, config Config) (c *Cluster, err error) {
	if config.Name == "" {
		config.Name = "fogsched-e2e"
	}
	if config.Workers == 0 {
		config.Workers = 1
	}
	if config.Log == nil {
		config.Log = io.Discard
	}
	// The other programs are asked for first: their absence should show before minutes have passed.
	kindProgram, err := program("kind")
	if err != nil {
		return nil, err
	}
	engine, err := StartEngine(ctx, EngineConfig{Name: config.Name, Stay: config.Stay, Log: config.Log})
	if err != nil {
		return nil, err
	}
	c = &Cluster{Name: config.Name, Engine: engine, log: config.Log}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Delete())
			c = nil
		}
	}()
	if !engine.Own() {
		if err := c.Delete(); err != nil {
			return c, err
		}
	}
	dir, err := stateDir(config.Name)
	if err != nil {
		return c, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return c, err
	}
	c.Kubeconfig = filepath.Join(dir, "kubeconfig")
	image, err := engine.nodeImage(ctx, config.NodeImage)
	if err != nil {
		return c, fmt.Errorf("node image: %w", err)
	}

	c.printf("creating a cluster of 1 + %d nodes (about 40 s)", config.Workers)
	began := time.Now()
	if err := c.createNetwork(ctx); err != nil {
		return c, err
	}
	_, err = command(ctx, engine.Env(), []byte(kindConfig(engine, config.Workers)), kindProgram, "create", "cluster",
		"--name", c.Name, "--image", image, "--config", "-", "--kubeconfig", c.Kubeconfig, "--wait", "0s")
	if err != nil {
		return c, err
	}
	if err := c.connect(); err != nil {
		return c, err
	}
	if err := c.WaitReady(ctx, config.Workers+1); err != nil {
		return c, err
	}
	c.printf("%d nodes are Ready after %.0f s: export KUBECONFIG=%s", config.Workers+1, time.Since(began).Seconds(), c.Kubeconfig)
	return c, nil
}

// kindConfig is for kind and kubeadm. A kubelet of 1.35 refuses cgroup v1 unless it is told otherwise.
func kindConfig(engine *Engine, workers int) string {
	var b strings.Builder
	b.WriteString("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n")
	fmt.Fprintf(&b, "networking:\n  apiServerAddress: %q\n", engine.Address)
	if engine.Own() {
		// kind looks for a free port where it runs itself, not where this engine's containers publish theirs.
		b.WriteString("  apiServerPort: 6443\n")
	}
	b.WriteString("kubeadmConfigPatches:\n- |\n  kind: KubeletConfiguration\n  failCgroupV1: false\n")
	b.WriteString("nodes:\n- role: control-plane\n")
	b.WriteString(strings.Repeat("- role: worker\n", workers))
	return b.String()
}

// Open finds a cluster that an earlier process made and left running.
func Open(ctx context.Context, name string) (*Cluster, error) {
	dir, err := stateDir(name)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Name: name, Kubeconfig: filepath.Join(dir, "kubeconfig"), log: io.Discard}
	own, err := openOwn(name)
	if err != nil {
		return nil, err
	}
	c.Engine = &Engine{Address: "127.0.0.1", name: name, log: io.Discard}
	if own != nil {
		c.Engine.adopt(own)
	}
	if err := c.connect(); err != nil {
		return nil, fmt.Errorf("no cluster %s: %w", name, err)
	}
	if _, err := c.Nodes(ctx); err != nil {
		return nil, fmt.Errorf("the cluster %s does not answer: %w", name, err)
	}
	return c, nil
}

// Delete removes the cluster of this name, whoever made it and in whatever state it is, with everything that came with it.
func Delete(ctx context.Context, name string, log io.Writer) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: use lower-case letters, digits and dashes, at most 40", name)
	}
	if log == nil {
		log = io.Discard
	}
	c := &Cluster{Name: name, Engine: &Engine{name: name, log: log}, log: log}
	own, err := openOwn(name)
	if err != nil {
		return err
	}
	if own != nil {
		c.Engine.adopt(own)
	} else if _, err := engineVersion(ctx); err != nil {
		// No engine, no containers.
		return c.forget()
	}
	return c.Delete()
}

// Delete removes the cluster, and the engine if it is our own. It may be called again, and takes no context: what was made
// must go also when there is no time left.
func (c *Cluster) Delete() error {
	if c.Engine.Own() {
		// What could not be stopped must be found again.
		if err := c.Engine.Stop(); err != nil {
			return err
		}
		return c.forget()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	kindProgram, err := program("kind")
	if err != nil {
		return err
	}
	// The kubeconfig is our own; kind shall not look for the cluster in the user's.
	if _, err := command(ctx, c.Engine.Env(), nil, kindProgram, "delete", "cluster", "--name", c.Name, "--kubeconfig", os.DevNull); err != nil {
		return err
	}
	if err := c.removeNetwork(ctx); err != nil {
		return err
	}
	// The image goes too, unless another cluster uses it; kind's own stays, as with kind itself.
	images, err := c.Engine.Docker(ctx, "image", "ls", "--quiet", builtNodeImage)
	if err != nil {
		return err
	}
	for id := range strings.FieldsSeq(images) {
		_, _ = c.Engine.Docker(ctx, "image", "rm", id)
	}
	return c.forget()
}

// createNetwork makes the network that kind then finds. Its own would have IPv6 too, over which the nodes would talk to the API server and past
// what test/wan/tun puts between them.
func (c *Cluster) createNetwork(ctx context.Context) error {
	if err := c.removeNetwork(ctx); err != nil {
		return err
	}
	_, err := c.Engine.Docker(ctx, "network", "create", "--driver", "bridge", c.Name)
	return err
}

func (c *Cluster) removeNetwork(ctx context.Context) error {
	networks, err := c.Engine.Docker(ctx, "network", "ls", "--quiet", "--filter", "name=^"+c.Name+"$")
	if err != nil {
		return err
	}
	for id := range strings.FieldsSeq(networks) {
		if _, err := c.Engine.Docker(ctx, "network", "rm", id); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) forget() error {
	dir, err := stateDir(c.Name)
	if err != nil {
		return err
	}
	images, err := c.imagesDir()
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(images)); err != nil {
		return err
	}
	// The last one leaves no folder behind.
	_ = os.Remove(filepath.Dir(dir))
	return nil
}

func (c *Cluster) connect() error {
	restConfig, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return err
	}
	restConfig.QPS, restConfig.Burst = 50, 100
	c.Client, err = kubernetes.NewForConfig(restConfig)
	return err
}

// WaitReady waits until at least n nodes, and every node whose container runs, are Ready.
func (c *Cluster) WaitReady(ctx context.Context, n int) error {
	return poll(ctx, readyLimit, "waiting for the nodes to be Ready", func(ctx context.Context) (bool, error) {
		nodes, err := c.Nodes(ctx)
		if err != nil {
			return false, err
		}
		var missing []string
		ready := 0
		for _, node := range nodes {
			switch {
			case node.PID == 0:
			case node.Ready && node.PodCIDR != "":
				ready++
			default:
				missing = append(missing, node.Name)
			}
		}
		if len(missing) > 0 || ready < n {
			return false, fmt.Errorf("%d of %d are; not yet: %s", ready, n, strings.Join(missing, ", "))
		}
		return true, nil
	})
}

// Nodes returns all nodes as they are now, the control plane first, then by name.
func (c *Cluster) Nodes(ctx context.Context) ([]Node, error) {
	containers, err := c.containers(ctx)
	if err != nil {
		return nil, err
	}
	list, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	known := map[string]*corev1.Node{}
	for i := range list.Items {
		known[list.Items[i].Name] = &list.Items[i]
	}
	nodes := make([]Node, 0, len(containers))
	for _, container := range containers {
		node := Node{Name: container.name, ControlPlane: container.role == "control-plane", IP: container.ip}
		if container.running {
			// A container may stop in between; then it has no process.
			node.PID, _ = c.Engine.PID(ctx, container.id)
		}
		if object := known[container.name]; object != nil {
			node.PodCIDR = object.Spec.PodCIDR
			for _, condition := range object.Status.Conditions {
				if condition.Type == corev1.NodeReady {
					node.Ready = condition.Status == corev1.ConditionTrue
				}
			}
			for _, address := range object.Status.Addresses {
				if node.IP == "" && address.Type == corev1.NodeInternalIP {
					node.IP = address.Address
				}
			}
		}
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b Node) int {
		if a.ControlPlane != b.ControlPlane {
			if a.ControlPlane {
				return -1
			}
			return 1
		}
		if len(a.Name) != len(b.Name) {
			return len(a.Name) - len(b.Name) // worker2 before worker10
		}
		return strings.Compare(a.Name, b.Name)
	})
	return nodes, nil
}

// Node returns one node as it is now.
func (c *Cluster) Node(ctx context.Context, name string) (Node, error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return Node{}, err
	}
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, fmt.Errorf("the cluster has no node %s", name)
	}
	return nodes[i], nil
}

type container struct {
	id, name, role, ip, image string
	running                   bool
	labels                    map[string]string
}

// containers lists the cluster's containers, running or not.
func (c *Cluster) containers(ctx context.Context) ([]container, error) {
	ids, err := c.Engine.Docker(ctx, "ps", "--all", "--quiet", "--no-trunc", "--filter", "label="+clusterLabel+"="+c.Name)
	if err != nil || ids == "" {
		return nil, err
	}
	out, err := c.Engine.Docker(ctx, append([]string{"inspect", "--type", "container"}, strings.Fields(ids)...)...)
	if err != nil {
		return nil, err
	}
	var inspected []struct {
		ID     string `json:"Id"`
		Name   string
		State  struct{ Running bool }
		Config struct {
			Image  string
			Labels map[string]string
		}
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	if err := json.Unmarshal([]byte(out), &inspected); err != nil {
		return nil, fmt.Errorf("docker inspect: %w", err)
	}
	containers := make([]container, 0, len(inspected))
	for _, i := range inspected {
		containers = append(containers, container{
			id:      i.ID,
			name:    strings.TrimPrefix(i.Name, "/"),
			role:    i.Config.Labels[roleLabel],
			ip:      i.NetworkSettings.Networks[c.Name].IPAddress,
			image:   i.Config.Image,
			running: i.State.Running,
			labels:  i.Config.Labels,
		})
	}
	return containers, nil
}

// What kind labels its containers with.
const (
	clusterLabel = "io.x-k8s.kind.cluster"
	roleLabel    = "io.x-k8s.kind.role"
)

// LoadImage puts the image of a docker archive on every node. A copy is kept until the cluster is deleted: nodes that AddNode
// adds later get it too.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	kept, err := c.keepImage(archive)
	if err != nil {
		return err
	}
	return c.load(ctx, kept)
}

// imagesDir keeps copies of the archives that were loaded.
func (c *Cluster) imagesDir() (string, error) {
	cache, err := cacheDir()
	return filepath.Join(cache, "images-"+c.Name), err
}

func (c *Cluster) keepImage(archive string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dir, err := c.imagesDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	earlier, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return "", err
	}
	// A later image of the same name shall come after an earlier one.
	kept := filepath.Join(dir, fmt.Sprintf("%04d.tar", len(earlier)))
	from, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer func() { _ = from.Close() }()
	to, err := os.Create(kept)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		return "", errors.Join(err, os.Remove(kept))
	}
	return kept, to.Close()
}

func (c *Cluster) load(ctx context.Context, archive string, nodes ...string) error {
	kindProgram, err := program("kind")
	if err != nil {
		return err
	}
	args := []string{"load", "image-archive", "--name", c.Name}
	if len(nodes) > 0 {
		args = append(args, "--nodes", strings.Join(nodes, ","))
	}
	_, err = command(ctx, c.Engine.Env(), nil, kindProgram, append(args, archive)...)
	return err
}

// StopNode ends a node: in an orderly way, or, with kill, as when its power fails. Its pods' containers end with it.
func (c *Cluster) StopNode(ctx context.Context, name string, kill bool) error {
	verb := "stop"
	if kill {
		verb = "kill"
	}
	_, err := c.Engine.Docker(ctx, verb, name)
	return err
}

// StartNode starts a node that was stopped, and waits until its container runs; see WaitReady for the rest.
func (c *Cluster) StartNode(ctx context.Context, name string) error {
	_, err := c.Engine.Docker(ctx, "start", name)
	return err
}

// AddNode lets one more worker join, and waits until it is Ready. kind has no command for this: the node is run with the
// settings that kind gives its own, and joins with the configuration of a worker that is there.
func (c *Cluster) AddNode(ctx context.Context) (Node, error) {
	containers, err := c.containers(ctx)
	if err != nil {
		return Node{}, err
	}
	i := slices.IndexFunc(containers, func(c container) bool { return c.role == "worker" && c.running })
	if i < 0 {
		return Node{}, errors.New("the cluster has no running worker to take after")
	}
	like := containers[i]
	taken := map[string]bool{}
	for _, container := range containers {
		taken[container.name] = true
	}
	name := c.Name + "-worker"
	for n := 2; taken[name]; n++ {
		name = fmt.Sprintf("%s-worker%d", c.Name, n)
	}
	_, err = c.Engine.Docker(ctx, "run", "--detach", "--tty", "--name", name, "--hostname", name,
		"--label", clusterLabel+"="+c.Name, "--label", roleLabel+"=worker", "--net", c.Name, "--restart=on-failure:1",
		"--init=false", "--cgroupns=private", "--privileged", "--security-opt", "seccomp=unconfined",
		"--security-opt", "apparmor=unconfined", "--tmpfs", "/tmp", "--tmpfs", "/run", "--volume", "/var",
		"--volume", "/lib/modules:/lib/modules:ro", "--env", "KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER", like.image)
	if err != nil {
		return Node{}, err
	}
	fail := func(err error) (Node, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, removed := c.Engine.Docker(ctx, "rm", "--force", "--volumes", name)
		_ = c.Client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}) // it may not have come that far
		return Node{}, errors.Join(fmt.Errorf("node %s: %w", name, err), removed)
	}
	err = poll(ctx, readyLimit, "waiting for containerd", func(ctx context.Context) (bool, error) {
		_, err := c.Engine.Docker(ctx, "exec", name, "ctr", "version")
		return err == nil, err
	})
	if err != nil {
		return fail(err)
	}
	join, err := c.Engine.Docker(ctx, "exec", like.name, "cat", "/kind/kubeadm.conf")
	if err != nil {
		return fail(err)
	}
	ip, err := c.Engine.Docker(ctx, "inspect", "--format", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", c.Name), name)
	if err != nil {
		return fail(err)
	}
	join = joinConfig(join, like.name, like.ip, name, ip)
	if _, err := command(ctx, c.Engine.Env(), []byte(join), "docker", "exec", "--interactive", name, "cp", "/dev/stdin", "/kind/kubeadm.conf"); err != nil {
		return fail(err)
	}
	// The images come first: a pod that may not pull fails where its image is missing.
	images, err := c.imagesDir()
	if err != nil {
		return fail(err)
	}
	archives, err := filepath.Glob(filepath.Join(images, "*.tar"))
	if err != nil {
		return fail(err)
	}
	for _, archive := range archives {
		if err := c.load(ctx, archive, name); err != nil {
			return fail(err)
		}
	}
	if _, err := c.Engine.Docker(ctx, "exec", name, "kubeadm", "join", "--config", "/kind/kubeadm.conf", "--skip-phases=preflight"); err != nil {
		return fail(err)
	}
	var node Node
	err = poll(ctx, readyLimit, "waiting for the node to be Ready", func(ctx context.Context) (bool, error) {
		var err error
		if node, err = c.Node(ctx, name); err != nil {
			return false, err
		}
		if !node.Ready || node.PodCIDR == "" {
			log, _ := c.Engine.Docker(ctx, "exec", name, "journalctl", "--unit", "kubelet", "--no-pager", "--lines", "3", "--output", "cat")
			return false, fmt.Errorf("its kubelet says: %s", log)
		}
		return true, nil
	})
	if err != nil {
		return fail(err)
	}
	return node, nil
}

// joinConfig makes one node's kubeadm configuration another's. A name or an address may be the beginning of another one.
func joinConfig(config, oldName, oldIP, name, ip string) string {
	for _, change := range [][2]string{{oldName, name}, {oldIP, ip}} {
		whole := regexp.MustCompile(`(^|[^\w.-])` + regexp.QuoteMeta(change[0]) + `($|[^\w.-])`)
		config = whole.ReplaceAllString(config, "${1}"+change[1]+"${2}")
	}
	return config
}

// nodeImage makes the engine have a node image and returns its name.
func (e *Engine) nodeImage(ctx context.Context, wanted string) (string, error) {
	if wanted == "" {
		wanted = os.Getenv("KIND_NODE_IMAGE")
	}
	if wanted != "" {
		if isFile(wanted) {
			return e.loadNodeImage(ctx, wanted)
		}
		if e.Own() && !e.has(ctx, wanted) {
			return "", fmt.Errorf("%s: an engine of our own pulls no images: start Docker, or give the path of a docker archive", wanted)
		}
		return wanted, nil
	}
	if e.has(ctx, publishedNodeImage) {
		return publishedNodeImage, nil
	}
	if !e.Own() && RegistryAnswers(ctx) {
		e.printf("pulling %s (about 1 min)", publishedNodeImage)
		_, err := e.Docker(ctx, "pull", "--quiet", publishedNodeImage)
		if err == nil || ctx.Err() != nil {
			return publishedNodeImage, err
		}
		e.printf("that failed, so it is built here: %v", err)
	}
	dir, err := root()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "hack", "kind", "node-image.sh"))
	cmd.Stderr = e.log
	// The script waits for the program that it runs, so that one must hear of the end too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("hack/kind/node-image.sh: %w", err)
	}
	return e.loadNodeImage(ctx, strings.TrimSpace(string(out)))
}

func (e *Engine) has(ctx context.Context, image string) bool {
	_, err := e.Docker(ctx, "image", "inspect", "--format", "{{.Id}}", image)
	return err == nil
}

func (e *Engine) loadNodeImage(ctx context.Context, archive string) (string, error) {
	tag, err := archiveTag(archive)
	if err != nil {
		return "", err
	}
	if e.has(ctx, tag) {
		return tag, nil
	}
	e.printf("loading %s (about 10 s)", archive)
	_, err = e.Docker(ctx, "load", "--quiet", "--input", archive)
	return tag, err
}

// RegistryAnswers asks the registry of kind's own image, for no longer than 3 s.
func RegistryAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://registry-1.docker.io/v2/", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	// It asks anonymous callers to fetch a token first.
	return response.StatusCode == http.StatusOK || response.StatusCode == http.StatusUnauthorized
}

func (c *Cluster) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(c.log, format+"\n", args...)
}
