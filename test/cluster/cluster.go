// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a Kubernetes control plane on loopback: etcd, kube-apiserver, kube-controller-manager, and kwok,
// which plays the nodes and turns their pods Running. The demo and the integration tests stand on it.
//
// Every process is a child on a port of its own, so several clusters may run side by side, and it dies with the process
// that started it, even when that one is killed. Nothing needs root and nothing is written outside one temporary folder.
package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/fogsched/fogsched/test/program"
)

const (
	serviceCIDR = "10.96.0.0/16"
	podCIDR     = "10.128.0.0/9"

	startTimeout = 2 * time.Minute
	pollInterval = 25 * time.Millisecond
)

// Options say what to run. The zero value is a control plane with kwok and without a scheduler.
type Options struct {
	// BinDir holds the programs; BinDir() where it is empty.
	BinDir string
	// KubeScheduler starts the stock scheduler with its default configuration as well.
	KubeScheduler bool
	// KeepDir leaves the folder with the logs behind after Stop.
	KeepDir bool
	// Progress is told in a few words what is being started. It may be nil.
	Progress func(string)
	// APIServerArgs and ControllerManagerArgs come after the arguments that the package chooses, so they win.
	APIServerArgs, ControllerManagerArgs []string
}

// Cluster is a running control plane. Its methods are safe for concurrent use.
type Cluster struct {
	dir      string
	binDir   string
	keepDir  bool
	progress func(string)
	lock     *os.File
	pki      *pki

	url        string
	config     *rest.Config
	kubeconfig string
	client     kubernetes.Interface
	dynamic    dynamic.Interface
	mapper     *restmapper.DeferredDiscoveryRESTMapper

	mu         sync.Mutex
	processes  []*program.Process // in the order of their start
	schedulers []*Scheduler
	ports      []*program.Port
	names      map[string]bool
	nodeIPs    int
	stopped    bool
}

// Start runs a control plane and returns when it serves. The context bounds the start alone; Stop ends the cluster. When
// the start fails nothing is left behind, and the error ends with the last lines of the log of whatever failed.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	c := &Cluster{binDir: opts.BinDir, keepDir: opts.KeepDir, progress: opts.Progress, names: map[string]bool{}}
	if c.progress == nil {
		c.progress = func(string) {}
	}
	if c.binDir == "" {
		dir, err := BinDir()
		if err != nil {
			return nil, err
		}
		c.binDir = dir
	}
	// All that is missing, at once and before anything runs.
	if err := c.haveBinaries(opts); err != nil {
		return nil, err
	}

	removeStaleDirs()
	dir, lock, err := newDir()
	if err != nil {
		return nil, err
	}
	c.dir, c.lock = dir, lock
	if err := c.start(ctx, opts); err != nil {
		c.keepDir = false
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) haveBinaries(opts Options) error {
	names := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kwok"}
	if opts.KubeScheduler {
		names = append(names, "kube-scheduler")
	}
	var errs []error
	for _, name := range names {
		if _, err := c.binary(name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c *Cluster) start(ctx context.Context, opts Options) error {
	var err error
	if c.pki, err = newPKI(filepath.Join(c.dir, "pki")); err != nil {
		return fmt.Errorf("making the cluster's certificates: %w", err)
	}
	etcdURL, err := c.startEtcd(ctx)
	if err != nil {
		return err
	}
	if err := c.startAPIServer(ctx, etcdURL, opts.APIServerArgs); err != nil {
		return err
	}
	if err := c.startControllers(ctx, opts); err != nil {
		return err
	}
	if opts.KubeScheduler {
		if _, err := c.StartScheduler(ctx, SchedulerOptions{Name: "kube-scheduler"}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startEtcd(ctx context.Context) (string, error) {
	client, err := c.reservePort()
	if err != nil {
		return "", err
	}
	peer, err := c.reservePort()
	if err != nil {
		return "", err
	}
	url, peerURL := "https://"+client.Address(), "https://"+peer.Address()
	certs := c.pki
	args := []string{
		"--name=etcd",
		"--data-dir=" + filepath.Join(c.dir, "etcd"),
		"--listen-client-urls=" + url,
		"--advertise-client-urls=" + url,
		"--listen-peer-urls=" + peerURL,
		"--initial-advertise-peer-urls=" + peerURL,
		"--initial-cluster=etcd=" + peerURL,
		"--trusted-ca-file=" + certs.caFile, "--client-cert-auth",
		"--cert-file=" + certs.servingCert, "--key-file=" + certs.servingKey,
		"--peer-trusted-ca-file=" + certs.caFile, "--peer-client-cert-auth",
		"--peer-cert-file=" + certs.servingCert, "--peer-key-file=" + certs.servingKey,
		"--socket-reuse-port",
		// The data is thrown away, so it need not outlive a power failure.
		"--unsafe-no-fsync",
		"--quota-backend-bytes=4294967296",
		"--log-level=warn",
	}
	p, err := c.run("etcd", args)
	if err != nil {
		return "", err
	}
	pair, err := tls.LoadX509KeyPair(certs.servingCert, certs.servingKey)
	if err != nil {
		return "", fmt.Errorf("loading the client certificate for etcd: %w", err)
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: certs.pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
	}}}
	defer hc.CloseIdleConnections()
	return url, c.ready(ctx, p, func(ctx context.Context) error { return program.Get(ctx, hc, url+"/readyz") })
}

func (c *Cluster) startAPIServer(ctx context.Context, etcdURL string, extra []string) error {
	port, err := c.reservePort()
	if err != nil {
		return err
	}
	c.url = "https://" + port.Address()
	certs := c.pki
	args := append([]string{
		"--etcd-servers=" + etcdURL,
		"--etcd-cafile=" + certs.caFile, "--etcd-certfile=" + certs.servingCert, "--etcd-keyfile=" + certs.servingKey,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port.Number()), "--permit-port-sharing",
		// Endpoints may not hold loopback addresses, so the Service "kubernetes" goes without.
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--cert-dir=" + filepath.Join(c.dir, "pki"),
		"--tls-cert-file=" + certs.servingCert, "--tls-private-key-file=" + certs.servingKey,
		"--client-ca-file=" + certs.caFile,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + certs.serviceAccountPublicKey,
		"--service-account-signing-key-file=" + certs.serviceAccountKey,
		"--service-cluster-ip-range=" + serviceCIDR,
		"--authorization-mode=Node,RBAC",
		"--allow-privileged",
		"--profiling=false",
	}, extra...)
	p, err := c.run("kube-apiserver", args)
	if err != nil {
		return err
	}
	if c.kubeconfig, c.config, err = c.newUser("admin", "fogsched-admin", []string{"system:masters"}); err != nil {
		return err
	}
	if c.client, err = kubernetes.NewForConfig(c.config); err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(c.config); err != nil {
		return fmt.Errorf("making a dynamic client: %w", err)
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.client.Discovery()))

	hc, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return fmt.Errorf("making an HTTP client: %w", err)
	}
	return c.ready(ctx, p, func(ctx context.Context) error { return program.Get(ctx, hc, c.url+"/readyz") })
}

// startControllers starts the controller manager and kwok, which do not wait for each other.
func (c *Cluster) startControllers(ctx context.Context, opts Options) error {
	kubeconfig, _, err := c.newUser("kube-controller-manager", "system:kube-controller-manager", nil)
	if err != nil {
		return err
	}
	manager, err := c.run("kube-controller-manager", append([]string{
		"--kubeconfig=" + kubeconfig,
		"--secure-port=0", "--leader-elect=false",
		"--use-service-account-credentials",
		"--service-account-private-key-file=" + c.pki.serviceAccountKey,
		"--root-ca-file=" + c.pki.caFile,
		"--kube-api-qps=1000", "--kube-api-burst=2000",
		// A node that turns NotReady is tainted within a second, not within five.
		"--node-monitor-period=1s",
		"--profiling=false",
	}, opts.ControllerManagerArgs...))
	if err != nil {
		return err
	}
	if err := c.startKwok(); err != nil {
		return err
	}
	// The account that a pod needs in order to exist is made by a controller, so it shows that the controllers work.
	return c.ready(ctx, manager, func(ctx context.Context) error {
		return c.serviceAccountExists(ctx, metav1.NamespaceDefault)
	})
}

func (c *Cluster) serviceAccountExists(ctx context.Context, namespace string) error {
	_, err := c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
	return err
}

// Stop ends every process of the cluster and removes its folder. It may be called more than once.
func (c *Cluster) Stop() {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	c.stopped = true
	processes, schedulers, ports := slices.Clone(c.processes), slices.Clone(c.schedulers), slices.Clone(c.ports)
	c.mu.Unlock()

	// Schedulers end in order, so that what they do at the end is exercised too. The others have nothing to save.
	for _, s := range schedulers {
		s.Stop()
	}
	for _, p := range slices.Backward(processes) {
		p.Kill()
	}
	for _, p := range ports {
		p.Release()
	}
	if c.keepDir {
		_ = os.WriteFile(filepath.Join(c.dir, keepFile), nil, 0o600)
	} else {
		_ = os.RemoveAll(c.dir)
	}
	_ = c.lock.Close()
}

// Err returns why the control plane no longer works: a process of it has ended although Stop was not called.
func (c *Cluster) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil
	}
	for _, p := range c.processes {
		if p.Exited() {
			return p.Failure(errors.New("it ended"))
		}
	}
	return nil
}

// Config returns a configuration with every right and without a rate limit. The caller may change it.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Client returns a client with every right and without a rate limit.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// Dynamic returns a dynamic client with every right and without a rate limit.
func (c *Cluster) Dynamic() dynamic.Interface { return c.dynamic }

// URL returns the API server's address.
func (c *Cluster) URL() string { return c.url }

// Dir returns the folder of the cluster, where the logs are.
func (c *Cluster) Dir() string { return c.dir }

// KubeconfigPath returns a kubeconfig with every right.
func (c *Cluster) KubeconfigPath() string { return c.kubeconfig }

// CreateNamespace makes a namespace in which pods can be created at once. One that exists already is left as it is.
func (c *Cluster) CreateNamespace(ctx context.Context, name string, labels map[string]string) error {
	ns := namespace(name, labels)
	if _, err := c.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating namespace %s: %w", name, err)
	}
	return c.until(ctx, "the default service account of namespace "+name, func(ctx context.Context) error {
		return c.serviceAccountExists(ctx, name)
	})
}

func (c *Cluster) reservePort() (*program.Port, error) {
	p, err := program.ReservePort()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ports = append(c.ports, p)
	return p, nil
}

// run starts a program of the control plane, with its output in a log file.
func (c *Cluster) run(name string, args []string) (*program.Process, error) {
	bin, err := c.binary(name)
	if err != nil {
		return nil, err
	}
	c.progress("starting " + name)
	p, err := program.Start(name, bin, c.dir, args)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.processes = append(c.processes, p)
	return p, nil
}

// ready polls a check until it holds, and says how long that took.
func (c *Cluster) ready(ctx context.Context, p *program.Process, check func(context.Context) error) error {
	if err := program.Poll(ctx, p, check); err != nil {
		return err
	}
	c.progress(fmt.Sprintf("%s is ready (%.1f s)", p.Name(), time.Since(p.Started()).Seconds()))
	return nil
}

// until polls a check until it holds or the context or the control plane ends.
func (c *Cluster) until(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := program.Poll(ctx, nil, func(ctx context.Context) error {
		if err := c.Err(); err != nil {
			return program.Final(err)
		}
		return check(ctx)
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

// BinDir is where the programs are: $FOGSCHED_BIN, else bin/ at the root of the repository.
func BinDir() (string, error) { return program.BinDir() }

// RepoRoot is the folder of this module's go.mod, looked for from the working directory upwards.
func RepoRoot() (string, error) { return program.RepoRoot() }

// binary returns the path of a program, or an error that says how to come by it.
func (c *Cluster) binary(name string) (string, error) {
	target := "make tools"
	if strings.HasPrefix(name, "fog") {
		target = "make build"
	}
	return program.Path(c.binDir, name, target)
}
