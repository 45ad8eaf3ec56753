// SPDX-License-Identifier: Apache-2.0

//go:build scale

package scale

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/serf/coordinate"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/probe"
	"github.com/fogsched/fogsched/test/cluster"
)

const (
	maxResident   = 32 * mib
	maxMillicores = 5.0
	// settleTime is how long a prober has been ready before its CPU is counted, and measureTime for how long it is.
	settleTime, measureTime = 20 * time.Second, 60 * time.Second
	// rolloutTime is how long it takes to replace all probers. A real rollout is slower.
	rolloutTime = 40 * time.Second
	// unprivileged is the user of the shipped DaemonSet.
	unprivileged = 65532
	// sliceSize is how many endpoints the controller of Kubernetes puts into one EndpointSlice.
	sliceSize = 100
)

// footprint is what one fogprobe uses, in a cluster of so many nodes.
type footprint struct {
	Nodes       int     `json:"nodes"`
	Peers       int     `json:"peers"`
	ResidentMiB float64 `json:"residentMiB"`
	PeakMiB     float64 `json:"peakMiB"`
	// FileMiB is the part of ResidentMiB that is the program itself, which the kernel may drop.
	FileMiB    float64 `json:"fileMiB"`
	Millicores float64 `json:"millicores"`
	// RollingMillicores and RollingPeakMiB are those while the pods of all probers are replaced, in rolloutTime.
	RollingMillicores float64 `json:"rollingMillicores"`
	RollingPeakMiB    float64 `json:"rollingPeakMiB"`
}

// TestFootprint runs the real fogprobe, as the shipped DaemonSet does: with its user, its rights and its arguments, asked by
// kubelet and Prometheus. Its peers are reflectors of this process.
func TestFootprint(t *testing.T) {
	t.Parallel()
	bin, err := cluster.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(bin, "fogprobe")
	wantStatic(t, program)
	c := newCluster(t)
	address := ownAddress(t)
	sizes := []int{25, 1000, 5000}
	all := make([]footprint, len(sizes))
	// Side by side: all of them together use a hundredth of a core.
	t.Run("nodes", func(t *testing.T) {
		for i, nodes := range sizes {
			t.Run(fmt.Sprint(nodes), func(t *testing.T) {
				t.Parallel()
				f := measureFootprint(t, c, program, address, nodes)
				all[i] = f
				if f.ResidentMiB > maxResident/mib || f.PeakMiB > maxResident/mib {
					t.Errorf("%.1f MiB resident, %.1f MiB at the peak, want at most %d", f.ResidentMiB, f.PeakMiB, maxResident/mib)
				}
				if f.Millicores > maxMillicores {
					t.Errorf("%.2f millicores, want at most %g", f.Millicores, maxMillicores)
				}
			})
		}
	})
	result.Lock()
	defer result.Unlock()
	result.Footprint = all
	var b strings.Builder
	fmt.Fprintf(&b, "%6s %6s %10s %10s %10s %11s %22s\n", "nodes", "peers", "resident", "peak", "of it file", "millicores", "while all are replaced")
	for _, f := range all {
		fmt.Fprintf(&b, "%6d %6d %6.1f MiB %6.1f MiB %6.1f MiB %11.2f %11.1f, %4.1f MiB\n",
			f.Nodes, f.Peers, f.ResidentMiB, f.PeakMiB, f.FileMiB, f.Millicores, f.RollingMillicores, f.RollingPeakMiB)
	}
	t.Log("fogprobe:\n" + b.String())
}

// wantStatic fails where a program needs a loader or libraries.
func wantStatic(t *testing.T, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s asks for a loader", program)
		}
	}
	if len(libraries) > 0 {
		t.Errorf("%s needs %v", program, libraries)
	}
}

// ownAddress returns an address of this machine that may stand in an EndpointSlice, where those of loopback may not. What is sent to
// it does not leave the machine.
func ownAddress(t *testing.T) netip.Addr {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	t.Fatal("this machine has no IPv4 address but loopback: the prober's peers need one")
	return netip.Addr{}
}

func measureFootprint(t *testing.T, c *cluster.Cluster, program string, address netip.Addr, nodes int) footprint {
	ctx := t.Context()
	w := newWorld(nodes)
	service := fmt.Sprintf("fogprobe-%d", nodes)
	self := w.nodes[0].Name + "-of-" + strconv.Itoa(nodes)
	w.nodes[0].Name = self
	if _, err := c.Client().CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: self}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	slices := publishPeers(t, c, w, address, service)
	p := startProber(t, c, program, address, self, service)
	t.Cleanup(func() {
		for _, s := range slices {
			_ = c.Client().DiscoveryV1().EndpointSlices(systemNamespace).Delete(context.Background(), s.Name, metav1.DeleteOptions{})
		}
		_ = c.Client().CoreV1().Nodes().Delete(context.Background(), self, metav1.DeleteOptions{})
	})
	p.wantUnprivileged()
	p.until("/readyz", time.Minute)
	p.pass(settleTime)
	from := p.usage()
	p.pass(measureTime)
	to := p.usage()

	api, err := client.New(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	object, err := api.NodeLatencies().Get(ctx, self, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Otherwise all this would be the footprint of a prober that does nothing. Probes that a busy machine spoils are work too.
	probes := p.metric("fogsched_probe_received_total") + p.metric("fogsched_probe_starved_total")
	if want := 0.8 * probe.DefaultRate * (settleTime + measureTime).Seconds(); probes < want || len(object.Status.Peers) == 0 {
		t.Errorf("%.0f probes were answered, and %d peers published, want at least %.0f, and some", probes, len(object.Status.Peers), want)
	}

	// Every pod is replaced by another, ten at a time.
	began := p.usage()
	p.meanwhile(func() {
		ticker := time.NewTicker(rolloutTime / time.Duration(nodes/10))
		defer ticker.Stop()
		for i := 0; i < nodes; i += 10 {
			s := slices[i/sliceSize]
			for j := i; j < min(i+10, nodes); j++ {
				s.Endpoints[j%sliceSize].TargetRef.UID = types.UID(fmt.Sprintf("replaced-%d", j))
				s.Endpoints[j%sliceSize].Conditions.Ready = new(false)
			}
			updated, err := c.Client().DiscoveryV1().EndpointSlices(systemNamespace).Update(ctx, s, metav1.UpdateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			slices[i/sliceSize] = updated
			<-ticker.C
		}
	})
	ended := p.usage()
	return footprint{
		Nodes: nodes, Peers: len(object.Status.Peers), ResidentMiB: mebibytes(to.resident), PeakMiB: mebibytes(to.peak), FileMiB: mebibytes(to.file),
		Millicores: 1000 * cores(from, to), RollingMillicores: 1000 * cores(began, ended), RollingPeakMiB: mebibytes(ended.peak),
	}
}

// publishPeers writes the EndpointSlices of a Service with a pod a node, as Kubernetes would, and answers the probes.
func publishPeers(t *testing.T, c *cluster.Cluster, w *world, address netip.Addr, service string) []*discoveryv1.EndpointSlice {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	var slices []*discoveryv1.EndpointSlice
	for from := 0; from < len(w.nodes); from += sliceSize {
		// All peers have this machine's address, so those of a slice share a reflector.
		near := []uint64{probe.NameHash(w.nodes[from].Name), probe.NameHash(w.nodes[from+1].Name)}
		reflector, err := probe.ListenSTAMP(netip.AddrPortFrom(address, 0).String(), probe.ReflectorConfig{
			Info: func() probe.Info {
				return probe.Info{Coordinate: coordinate.NewCoordinate(coordinate.DefaultConfig()), Near: near}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = reflector.Serve(ctx) }()
		s := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("%s-%d", service, from/sliceSize),
				Labels: map[string]string{
					discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "scale.test",
					"app.kubernetes.io/name": "fogprobe", corev1.IsHeadlessService: "",
				},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{
				{Name: new("stamp"), Port: new(int32(reflector.Addr().Port())), Protocol: new(corev1.ProtocolUDP)},
				{Name: new("http"), Port: new(int32(8621)), Protocol: new(corev1.ProtocolTCP)},
			},
		}
		for i := from; i < min(from+sliceSize, len(w.nodes)); i++ {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{address.String()},
				Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
				NodeName:   &w.nodes[i].Name, Zone: &w.nodes[i].Zone,
				TargetRef: &corev1.ObjectReference{
					Kind: "Pod", Namespace: systemNamespace, Name: fmt.Sprintf("fogprobe-%05d", i), UID: types.UID(fmt.Sprintf("0d6ff2a1-8f0b-4f0e-9a53-%012d", i)),
				},
			})
		}
		made, err := c.Client().DiscoveryV1().EndpointSlices(systemNamespace).Create(ctx, s, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		slices = append(slices, made)
	}
	return slices
}

// runningProber is a fogprobe.
type runningProber struct {
	*testing.T
	cmd    *exec.Cmd
	url    string
	output *bytes.Buffer
	done   chan struct{}
}

func startProber(t *testing.T, c *cluster.Cluster, program string, address netip.Addr, node, service string) *runningProber {
	t.Helper()
	// In a folder that the unprivileged user can read.
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copied := filepath.Join(dir, "fogprobe")
	content, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(copied, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	writeKubeconfig(t, c, node, kubeconfig)

	web, stamp := freePort(t, "tcp", netip.MustParseAddr("127.0.0.1")), freePort(t, "udp", address)
	p := &runningProber{T: t, url: "http://" + web.String(), output: &bytes.Buffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(copied, "--peers=endpointslices", "--service="+systemNamespace+"/"+service,
		"--listen="+stamp.String(), "--http-address="+web.String(), "--kubeconfig="+kubeconfig)
	p.cmd.Dir = dir
	p.cmd.Env = []string{"NODE_NAME=" + node, "POD_IP=" + address.String(), "POD_NAMESPACE=" + systemNamespace}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if os.Getuid() == 0 {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: unprivileged, Gid: unprivileged}}
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
		if t.Failed() {
			t.Logf("fogprobe printed:\n%s", p.output)
		}
	})
	return p
}

// writeKubeconfig writes one with a token as the kubelet of a node mounts it into the prober's pod: bound to the pod, and so naming
// its node.
func writeKubeconfig(t *testing.T, c *cluster.Cluster, node, path string) {
	t.Helper()
	ctx := t.Context()
	pod, err := c.Client().CoreV1().Pods(systemNamespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "fogprobe-"},
		Spec: corev1.PodSpec{
			ServiceAccountName: "fogprobe", NodeName: node,
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: new(true), RunAsUser: new(int64(unprivileged)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{Name: "fogprobe", Image: "fogprobe", SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Client().CoreV1().Pods(systemNamespace).Delete(context.Background(), pod.Name, *metav1.NewDeleteOptions(0))
	})
	token, err := c.Client().CoreV1().ServiceAccounts(systemNamespace).CreateToken(ctx, "fogprobe", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: c.URL(), CertificateAuthorityData: c.Config().CAData}
	config.AuthInfos["a"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "a"}
	config.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil { // of a cluster that ends with the test
		t.Fatal(err)
	}
}

// freePort returns a port that was free a moment ago.
func freePort(t *testing.T, network string, address netip.Addr) netip.AddrPort {
	t.Helper()
	if network == "udp" {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return netip.AddrPortFrom(address, conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	}
	listener, err := net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func (p *runningProber) usage() usage {
	p.Helper()
	u, err := usageOf(p.cmd.Process.Pid)
	if err != nil {
		p.Fatalf("%v; fogprobe printed:\n%s", err, p.output)
	}
	return u
}

// wantUnprivileged fails where the process is root, or may do what others may not.
func (p *runningProber) wantUnprivileged() {
	p.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		p.Fatal(err)
	}
	said := map[string]string{}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		said[key] = strings.TrimSpace(value)
	}
	for _, key := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		if strings.Trim(said[key], "0") != "" {
			p.Errorf("capabilities: %s %s, want none", key, said[key])
		}
	}
	for _, id := range strings.Fields(said["Uid"]) {
		if id == "0" {
			p.Errorf("users %s, want none of them 0", said["Uid"])
		}
	}
}

// get asks the prober something.
func (p *runningProber) get(path string) (string, error) {
	response, err := http.Get(p.url + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(path + ": " + response.Status + ": " + string(body))
	}
	return string(body), err
}

// metric reads a metric without labels.
func (p *runningProber) metric(name string) float64 {
	p.Helper()
	text, err := p.get("/metrics")
	if err != nil {
		p.Fatal(err)
	}
	value, err := metricOf(text, name)
	if err != nil {
		p.Fatal(err)
	}
	return value
}

// until waits until the prober answers well.
func (p *runningProber) until(path string, patience time.Duration) {
	p.Helper()
	deadline := time.After(patience)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		_, err := p.get(path)
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-p.done:
			p.Fatalf("fogprobe ended:\n%s", p.output)
		case <-deadline:
			p.Fatalf("%v; fogprobe printed:\n%s", err, p.output)
		}
	}
}

// pass lets time pass, in which the prober is asked what a kubelet and a Prometheus ask.
func (p *runningProber) pass(d time.Duration) {
	p.Helper()
	p.meanwhile(func() { <-time.After(d) })
}

// meanwhile does something while the prober is asked what a kubelet and a Prometheus ask.
func (p *runningProber) meanwhile(do func()) {
	p.Helper()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		live, ready, scrape := time.NewTicker(10*time.Second), time.NewTicker(5*time.Second), time.NewTicker(30*time.Second)
		defer live.Stop()
		defer ready.Stop()
		defer scrape.Stop()
		for {
			var path string
			select {
			case <-stop:
				return
			case <-live.C:
				path = "/healthz"
			case <-ready.C:
				path = "/readyz"
			case <-scrape.C:
				path = "/metrics"
			}
			if _, err := p.get(path); err != nil {
				p.Error(err)
			}
		}
	}()
	do()
	close(stop)
	<-stopped
}
