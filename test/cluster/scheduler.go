// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/test/program"
)

const schedulerGrace = 10 * time.Second

// SchedulerOptions say which scheduler to run, and how.
type SchedulerOptions struct {
	// Name is that of the log; the program's where it is empty.
	Name string
	// Binary is a program of the folder BinDir ("kube-scheduler", "fogsched"), or a path. kube-scheduler where it is empty.
	Binary string
	// ConfigYAML is a KubeSchedulerConfiguration; the program's default where it is empty. Its clientConnection.kubeconfig
	// is set here, as is whatever it leaves out of clientConnection.qps and burst (1000 and 2000) and of
	// leaderElection.leaderElect (false).
	ConfigYAML []byte
	// Kubeconfig is who the scheduler is; the user system:kube-scheduler where it is empty.
	Kubeconfig string
	// GuardMetrics has the scheduler show /metrics only to whom RBAC lets read it, as in a cluster. Metrics, which has no token, then fails.
	GuardMetrics bool
	// ExtraArgs come last, so they win; those that are lists are added to.
	ExtraArgs []string
}

// Scheduler is a running scheduler.
type Scheduler struct {
	process *program.Process
	client  *http.Client
	url     string
}

// StartScheduler runs a scheduler and returns when its informers are in step. Cluster.Stop stops it too.
func (c *Cluster) StartScheduler(ctx context.Context, opts SchedulerOptions) (*Scheduler, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	if opts.Binary == "" {
		opts.Binary = "kube-scheduler"
	}
	if opts.Name == "" {
		opts.Name = filepath.Base(opts.Binary)
	}
	name := c.unusedName(opts.Name)
	bin, err := c.binary(opts.Binary)
	if err != nil {
		return nil, err
	}
	if opts.Kubeconfig == "" {
		if opts.Kubeconfig, _, err = c.newUser(name, "system:kube-scheduler", nil); err != nil {
			return nil, err
		}
	}
	config, err := schedulerConfig(opts.ConfigYAML, opts.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("configuring %s: %w", name, err)
	}
	configFile := filepath.Join(c.dir, name+".yaml")
	if err := os.WriteFile(configFile, config, 0o600); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", name, err)
	}
	port, err := c.reservePort()
	if err != nil {
		return nil, err
	}
	open := "/healthz,/livez,/readyz"
	if !opts.GuardMetrics {
		open += ",/metrics"
	}
	c.progress("starting " + name)
	p, err := program.Start(name, bin, c.dir, append([]string{
		"--config=" + configFile,
		"--authentication-kubeconfig=" + opts.Kubeconfig, "--authorization-kubeconfig=" + opts.Kubeconfig,
		"--authorization-always-allow-paths=" + open,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port.Number()), "--permit-port-sharing",
		"--tls-cert-file=" + c.pki.servingCert, "--tls-private-key-file=" + c.pki.servingKey,
	}, opts.ExtraArgs...))
	if err != nil {
		return nil, err
	}
	s := &Scheduler{process: p, url: "https://" + port.Address(), client: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: c.pki.pool, MinVersion: tls.VersionTLS12},
	}}}
	if err := c.ready(ctx, p, func(ctx context.Context) error { return program.Get(ctx, s.client, s.url+"/readyz") }); err != nil {
		s.Stop()
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.schedulers = append(c.schedulers, s)
	return s, nil
}

// Stop asks the scheduler to end and waits until it is gone. It may be called more than once.
func (s *Scheduler) Stop() {
	s.process.Terminate(schedulerGrace)
	s.client.CloseIdleConnections()
}

// Kill ends the scheduler as a crash would.
func (s *Scheduler) Kill() { s.process.Kill() }

// Done is closed when the scheduler has ended, whoever ended it.
func (s *Scheduler) Done() <-chan struct{} { return s.process.Done() }

// PID returns the id of the scheduler's process.
func (s *Scheduler) PID() int { return s.process.PID() }

// LogPath returns the file that holds what the scheduler printed.
func (s *Scheduler) LogPath() string { return s.process.Log() }

// Address returns where the scheduler serves, as IP:port, by HTTPS.
func (s *Scheduler) Address() string { return strings.TrimPrefix(s.url, "https://") }

// Metrics returns the scheduler's metrics in the text format.
func (s *Scheduler) Metrics(ctx context.Context) (string, error) { return s.Get(ctx, "/metrics") }

// Get returns what the scheduler serves under a path: /metrics, /healthz, /readyz or /livez.
func (s *Scheduler) Get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s: %s", path, resp.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}

// schedulerConfig completes a configuration. With --config the scheduler ignores --kubeconfig, so the path goes in here.
func schedulerConfig(given []byte, kubeconfig string) ([]byte, error) {
	config := map[string]any{
		"apiVersion": "kubescheduler.config.k8s.io/v1",
		"kind":       "KubeSchedulerConfiguration",
	}
	if err := yaml.UnmarshalStrict(given, &config); err != nil {
		return nil, fmt.Errorf("reading the given configuration: %w", err)
	}
	connection, err := section(config, "clientConnection")
	if err != nil {
		return nil, err
	}
	connection["kubeconfig"] = kubeconfig
	setDefault(connection, "qps", 1000)
	setDefault(connection, "burst", 2000)
	election, err := section(config, "leaderElection")
	if err != nil {
		return nil, err
	}
	setDefault(election, "leaderElect", false)
	return yaml.Marshal(config)
}

func section(config map[string]any, name string) (map[string]any, error) {
	if config[name] == nil {
		config[name] = map[string]any{}
	}
	s, ok := config[name].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s is %T, not a mapping", name, config[name])
	}
	return s, nil
}

func setDefault(m map[string]any, key string, value any) {
	if _, ok := m[key]; !ok {
		m[key] = value
	}
}
