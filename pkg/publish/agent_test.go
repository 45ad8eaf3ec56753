// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/probe"
	"github.com/fogsched/fogsched/test/wan"
)

// eventually waits until check returns nil, which is asked every few milliseconds.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.After(2 * time.Minute) // of a machine that has much else to do
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

func startAgent(t *testing.T, opts Options) *Agent {
	t.Helper()
	opts.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	a, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s ended: %v", opts.NodeName, err)
		}
	})
	return a
}

// TestAgentsMeasureTheNetwork runs three probers whose packets cross an emulated network, and reads what they publish.
func TestAgentsMeasureTheNetwork(t *testing.T) {
	names := []string{"edge-01", "edge-02", "edge-03"}
	api := newFakeAPI(t, names...)
	nodes := []netip.Addr{netip.MustParseAddr("127.64.0.1"), netip.MustParseAddr("127.64.0.2"), netip.MustParseAddr("127.64.0.3")}
	target, err := wan.FreePort(nodes)
	if err != nil {
		t.Fatal(err)
	}
	network, err := wan.New(wan.Config{Nodes: nodes, TargetPort: target, Link: func(from, to int) wan.Link {
		return wan.Link{OneWayDelay: time.Duration(2+5*(from+to)+from) * msec}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { network.Close() })
	var agents []*Agent
	for i, name := range names {
		agents = append(agents, startAgent(t, Options{
			NodeName: name, Listen: netip.AddrPortFrom(nodes[i], target).String(), Endpoint: network.Endpoint(i).String(),
			Interval: 200 * msec, Window: 7, MinGap: 50 * msec, Config: api.config(), PairMetrics: 6,
		}))
	}
	published := func(i, j int) error {
		want := network.RTT(i, j)
		o := api.object(names[i])
		if o == nil {
			return fmt.Errorf("no object of %s", names[i])
		}
		for _, p := range o.Status.Peers {
			if p.Node != names[j] {
				continue
			}
			if p.Typical == nil {
				return fmt.Errorf("%s→%s: no RTT, want %v", names[i], names[j], want)
			}
			if d := (p.Typical.Duration - want).Abs(); d > msec+want/20 {
				return fmt.Errorf("%s→%s: %v, want %v", names[i], names[j], p.Typical.Duration, want)
			}
			return nil
		}
		return fmt.Errorf("%s did not measure %s: %+v", names[i], names[j], o.Status)
	}
	all := func() error {
		for i := range names {
			for j := range names {
				if i != j {
					if err := published(i, j); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	eventually(t, all)
	eventually(t, func() error {
		c := api.object("edge-01").Status.Control
		if c == nil || c.Typical == nil || c.Typical.Duration > 4*msec {
			return fmt.Errorf("control %+v, want far below any distance", c)
		}
		return nil
	})
	o := api.object("edge-01")
	if s := o.Status.Summary; s == nil || s.Peers != 2 || !strings.HasPrefix(s.Nearest, "edge-02 1") || !strings.HasPrefix(s.Farthest, "edge-03 2") {
		t.Errorf("summary %+v", s)
	}

	// A route changes, a node is cut off, and comes back.
	if err := network.SetBoth(0, 1, wan.Link{OneWayDelay: 40 * msec}); err != nil {
		t.Fatal(err)
	}
	eventually(t, all)
	network.Partition(2)
	eventually(t, func() error {
		for _, p := range api.object("edge-01").Status.Peers {
			if p.Node == "edge-03" && p.Typical == nil && p.Lost >= 3 {
				return nil
			}
		}
		return fmt.Errorf("edge-03 still answers: %+v", api.object("edge-01").Status.Peers)
	})
	network.Heal(2)
	eventually(t, all)

	// A node goes, with its object.
	api.delete("edge-03")
	api.do(func() { delete(api.nodes, "edge-03") })
	eventually(t, func() error {
		if o := api.object("edge-01"); len(o.Status.Peers) != 1 || o.Status.Peers[0].Node != "edge-02" {
			return fmt.Errorf("peers %+v", o.Status.Peers)
		}
		return nil
	})

	server := httptest.NewServer(agents[0].Handler())
	defer server.Close()
	for path, want := range map[string][]string{
		"/healthz": {"ok"},
		"/readyz":  {"ok"},
		"/metrics": {
			"fogsched_probe_sent_total ", "fogsched_probe_received_total ", "fogsched_probe_lost_total ",
			`fogsched_probe_rejected_total{reason="duplicate"} 0`, "fogsched_probe_rtt_seconds_count ",
			"fogsched_probe_control_rtt_seconds_count ", `fogsched_probe_reflector_packets_total{result="answered"} `,
			`fogsched_probe_publishes_total{result="ok"} `, "fogsched_probe_peers 1", "fogsched_probe_peers_silent 0",
			"fogsched_probe_interval_seconds 0.2", "fogsched_probe_starved_total ", "fogsched_probe_coordinate_error_ratio ",
			"fogsched_probe_newest_sample_timestamp_seconds ",
			`fogsched_probe_pair_loss_ratio{dest_node_name="edge-02",dest_zone="",source_node_name="edge-01",source_zone=""} 0`,
			`fogsched_probe_pair_rtt_seconds{dest_node_name="edge-02",dest_zone="",source_node_name="edge-01",source_zone="",statistic="typical"} 0.0`,
			`fogsched_probe_pair_rtt_seconds{dest_node_name="edge-02",dest_zone="",source_node_name="edge-01",source_zone="",statistic="tail"} 0.0`,
		},
	} {
		response, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		for _, w := range want {
			if response.StatusCode != http.StatusOK || !strings.Contains(string(body), w) {
				t.Errorf("%s: %s, without %q:\n%s", path, response.Status, w, body)
			}
		}
	}
}

func TestAgentWithoutAnAPIServer(t *testing.T) {
	a := startAgent(t, Options{
		NodeName: "a", Listen: "127.64.1.1:0", Interval: 50 * msec, Peers: writePeers(t, ""),
	})
	file := writePeers(t, "a "+a.Endpoint().String()+" # itself\n")
	b := startAgent(t, Options{NodeName: "b", Listen: "127.64.1.2:0", Interval: 50 * msec, Peers: file})
	eventually(t, func() error {
		p := b.Picture()
		if len(p.Peers) != 1 || p.Peers[0].Samples == 0 || p.Control == nil || p.Control.Samples == 0 {
			return fmt.Errorf("picture %+v", p)
		}
		return nil
	})
	if err := b.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	// The file changes: for the worse, and for the better.
	if err := os.WriteFile(file, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("a "+a.Endpoint().String()+"\nc 127.64.1.3:9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		p := b.Picture()
		if len(p.Peers) != 2 || p.Peers[1].Lost == 0 {
			return fmt.Errorf("picture %+v", p)
		}
		return nil
	})
}

func writePeers(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "peers")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestParsePeers(t *testing.T) {
	got, err := parsePeers([]byte("# two nodes\nedge-01  10.0.0.7:8620\n\n\tedge-02 [2001:db8::7]:8620 # the other\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []probe.Node{
		{Name: "edge-01", Addr: netip.MustParseAddrPort("10.0.0.7:8620")},
		{Name: "edge-02", Addr: netip.MustParseAddrPort("[2001:db8::7]:8620")},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, err = parsePeers([]byte("edge-01\nedge-02 10.0.0.7\nedge-03 0.0.0.0:1\nedge-04 10.0.0.1:1\nedge-04 10.0.0.2:1\nedge-05 10.0.0.1:0\n"))
	for _, want := range []string{
		"line 1: must be a name and an address", `line 2: endpoint "10.0.0.7": must be an IP address and a port`,
		"line 3: endpoint", "line 5: edge-04 is already in line 4", "line 6: endpoint",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestBadOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		opts Options
		want []string
	}{
		"nothing": {Options{}, []string{"node name: is missing", "peers: nodelatencies: needs an API server"}},
		"all wrong at once": {
			Options{NodeName: "Edge 1", Peers: "f", MinGap: time.Hour, MaxAge: 50 * time.Minute, PairMetrics: -1, Protocol: "tcp", KeyFile: "k"},
			[]string{"node name: \"Edge 1\"", "writes: at least", "must be at most 30m0s", "pair metrics: -1", "key file: is of no use with the protocol tcp"},
		},
		"no Service": {
			Options{NodeName: "a", Peers: PeersEndpointSlices},
			[]string{"peers: endpointslices: needs an API server", "service: must be NAMESPACE/NAME"},
		},
		"no endpoint":         {Options{NodeName: "a", Peers: "f", Listen: ":0"}, []string{"must be the address of one node"}},
		"a file that is not":  {Options{NodeName: "a", Peers: "/does/not/exist", Listen: "127.0.0.1:0"}, []string{"no such file"}},
		"timeout of too much": {Options{NodeName: "a", Peers: "f", Listen: "127.0.0.1:0", Interval: 1, Timeout: 2}, []string{"timeout: 2ns"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := Run(t.Context(), tc.opts)
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one with %q", err, want)
				}
			}
		})
	}
}

func TestWatchNodes(t *testing.T) {
	node := func(name, version string, addresses ...corev1.NodeAddress) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version, Labels: map[string]string{"a": "b"}},
			Spec:       corev1.NodeSpec{PodCIDR: "10.1.0.0/24"},
			Status:     corev1.NodeStatus{Addresses: addresses, Images: make([]corev1.ContainerImage, 50)},
		}
	}
	internal := func(ip string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip}
	}
	hostname := corev1.NodeAddress{Type: corev1.NodeHostName, Address: "10.9.9.9"}
	events := watch.NewFake()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			return &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.Node{
				*node("a", "1", hostname, internal("10.0.0.1"), internal("2001:db8::1")), *node("b", "1", hostname),
			}}, nil
		},
		WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if o.SendInitialEvents != nil {
				return nil, errors.New("not here")
			}
			return events, nil
		},
	}
	var logged bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	sets := make(chan []probe.Node)
	go func() {
		done <- watchPeerObjects(lw, nodeAddresses(8620), slog.New(slog.NewTextHandler(&logged, nil)))(ctx, func(p []probe.Node) { sets <- p })
	}()
	want := func(want ...string) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		var got []string
		for {
			select {
			case targets := <-sets:
				got = nil
				for _, t := range targets {
					got = append(got, t.Name+" "+t.Addr.String())
				}
				if cmp.Equal(want, got) {
					return
				}
			case <-deadline:
				t.Fatalf("peers %v, want %v", got, want)
			}
		}
	}
	want("a 10.0.0.1:8620")
	events.Modify(node("b", "2", hostname, internal("10.0.0.2")))
	want("a 10.0.0.1:8620", "b 10.0.0.2:8620")
	events.Modify(node("a", "3", internal("10.0.0.1"))) // nothing that matters
	events.Delete(node("a", "4"))
	want("b 10.0.0.2:8620")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(logged.String(), "the Node has no internal IP address"); n != 1 {
		t.Errorf("logged %d times that b has no address:\n%s", n, &logged)
	}
	n := node("a", "1", internal("10.0.0.1"))
	n.Labels[corev1.LabelTopologyZone] = "z"
	nodeAddresses(8620).shrink(n)
	if n.Labels["a"] != "" || n.Labels[corev1.LabelTopologyZone] != "z" || n.Spec.PodCIDR != "" || n.Status.Images != nil || len(n.Status.Addresses) != 1 {
		t.Errorf("what is kept of a Node: %+v", n)
	}
	nl := &v1alpha1.NodeLatency{Spec: v1alpha1.NodeLatencySpec{Endpoint: "e"}, Status: v1alpha1.NodeLatencyStatus{Peers: make([]v1alpha1.PeerLatency, 9)}}
	nodeLatencies.shrink(nl)
	if nl.Status.Peers != nil || nl.Spec.Endpoint != "e" {
		t.Errorf("what is kept of a NodeLatency: %+v", nl)
	}
}

func TestEndpointSlices(t *testing.T) {
	str := func(s string) *string { return &s }
	yes, no, port := true, false, int32(8620)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "fogsched-system", Name: "fogprobe-x", Labels: map[string]string{"a": "b"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: str("http"), Port: new(int32)}, {Name: str("stamp"), Port: &port}},
		Endpoints: []discoveryv1.Endpoint{
			{NodeName: str("a"), Zone: str("north"), Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}, Hostname: str("h")},
			{NodeName: str("b"), Addresses: []string{"10.0.0.2"}, Conditions: discoveryv1.EndpointConditions{Terminating: &yes}},
			{NodeName: str("b"), Addresses: []string{"10.0.0.3"}},
			{Addresses: []string{"10.0.0.4"}}, // on no node
			{NodeName: str("c")},              // without an address yet
			{NodeName: str("d"), Addresses: []string{"nonsense"}},
		},
	}
	six := slice.DeepCopy()
	six.AddressType = discoveryv1.AddressTypeIPv6
	six.Endpoints = []discoveryv1.Endpoint{
		{NodeName: str("a"), Addresses: []string{"2001:db8::1"}},
		{NodeName: str("e"), Addresses: []string{"2001:db8::5"}},
	}
	portless := slice.DeepCopy()
	portless.Ports = nil
	portless.Endpoints = []discoveryv1.Endpoint{{NodeName: str("f"), Addresses: []string{"10.0.0.6"}}}
	names := slice.DeepCopy()
	names.AddressType = discoveryv1.AddressTypeFQDN

	var all []peer
	for _, s := range []*discoveryv1.EndpointSlice{six, slice, portless, names} {
		before := endpointSlices.peers(s.DeepCopy())
		endpointSlices.shrink(s)
		after := endpointSlices.peers(s)
		if len(before) != len(after) {
			t.Errorf("shrunk to %v from %v", after, before)
		}
		all = append(all, after...)
	}
	if slice.Labels != nil || slice.Endpoints[0].Hostname != nil {
		t.Errorf("what is kept of an EndpointSlice: %+v", slice)
	}
	var logged bytes.Buffer
	known := map[string]string{}
	log := slog.New(slog.NewTextHandler(&logged, nil))
	want := []probe.Node{
		{Name: "a", Zone: "north", Addr: netip.MustParseAddrPort("10.0.0.1:8620")},
		{Name: "b", Addr: netip.MustParseAddrPort("10.0.0.3:8620")},
		{Name: "e", Addr: netip.MustParseAddrPort("[2001:db8::5]:8620")},
	}
	for range 2 { // what is wrong is said once
		got := usable(all, known, log)
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	for _, want := range []string{`endpoint \"nonsense:8620\"`, `the Service has no port named`} {
		if n := strings.Count(logged.String(), want); n != 1 {
			t.Errorf("logged %d times %q:\n%s", n, want, &logged)
		}
	}
}

func TestWatchInterest(t *testing.T) {
	object := func(version, nodes string) *corev1.ConfigMap {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "fogsched-system", Name: "interest", ResourceVersion: version}}
		if nodes != "" {
			m.Data = map[string]string{v1alpha1.InterestKey: nodes, "other": "x"}
		}
		return m
	}
	events := watch.NewFake()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			return &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		},
		WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if o.SendInitialEvents != nil {
				return nil, errors.New("not here")
			}
			return events, nil
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	sets := make(chan []string)
	go func() {
		done <- watchInterest(ctx, lw, func(names []string) { sets <- names }, slog.New(slog.NewTextHandler(io.Discard, nil)))
	}()
	for _, step := range []struct {
		event func()
		want  []string
	}{
		{func() { events.Add(object("2", "gateway\nredis-1")) }, []string{"gateway", "redis-1"}},
		{func() { events.Modify(object("3", "gateway")) }, []string{"gateway"}},
		{func() { events.Modify(object("4", "")) }, nil},
		{func() { events.Modify(object("5", "gateway")) }, []string{"gateway"}},
		{func() { events.Delete(object("6", "gateway")) }, nil},
	} {
		step.event()
		if diff := cmp.Diff(step.want, <-sets); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPairsAreLeftOutOfALargeCluster(t *testing.T) {
	picture := func() probe.Picture {
		return probe.Picture{Peers: []probe.PeerStats{
			{Name: "b", Stats: stats(t, 10*msec)}, {Name: "dead", Stats: stats(t, 0, 0, 0)}, {Name: "new"},
		}}
	}
	nodes := 100
	zone := func(n string) string { return map[string]string{"a": "north"}[n] }
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newPairs("a", 300, picture, func() (int, func(string) string) { return nodes, zone }))
	series := func() (n int) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			n += len(f.Metric)
		}
		return n
	}
	if got := series(); got != 4 { // two of b, the loss of both; none of the one that was never probed
		t.Errorf("%d series, want 4", got)
	}
	nodes = 101
	if got := series(); got != 0 {
		t.Errorf("%d series above the limit, want none", got)
	}
}
