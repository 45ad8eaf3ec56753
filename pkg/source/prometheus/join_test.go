// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"regexp"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// node makes a node of a name; addresses are InternalIPs.
func node(name string, addresses ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid of " + name)}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: a})
	}
	return n
}

// pod makes a running pod on a node.
func pod(name, nodeName string, ips ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.PodSpec{NodeName: nodeName}}
	p.Status.Phase = v1.PodRunning
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, v1.PodIP{IP: ip})
	}
	return p
}

// cluster makes a cluster of nodes and pods. What is added to the indexer of nodes later counts from then on.
func cluster(t testing.TB, objects ...any) (*Cluster, cache.Indexer) {
	t.Helper()
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, o := range objects {
		to := nodes
		if _, ok := o.(*v1.Pod); ok {
			to = pods
		}
		if err := to.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	return &Cluster{Nodes: corelisters.NewNodeLister(nodes), Pods: corelisters.NewPodLister(pods)}, nodes
}

func TestJoin(t *testing.T) {
	named := node("b.example", "10.0.0.2")
	named.Labels = map[string]string{v1.LabelHostname: "b-host"}
	named.Status.Addresses = append(named.Status.Addresses, v1.NodeAddress{Type: v1.NodeHostName, Address: "b-name"},
		v1.NodeAddress{Type: v1.NodeInternalDNS, Address: "b.internal"}, v1.NodeAddress{Type: v1.NodeExternalIP, Address: "192.0.2.2"})
	ended, crashed, unbound := pod("ended", "a", "10.1.0.8"), pod("crashed", "a", "10.1.0.9"), pod("unbound", "", "10.1.0.7")
	ended.Status.Phase, crashed.Status.Phase = v1.PodSucceeded, v1.PodFailed
	c, _ := cluster(
		t, node("a", "10.0.0.1", "fd00::1"), named, node("10.0.0.9", "10.0.0.3"), node("d", "10.0.0.9"),
		node("twin-1", "10.0.0.7"), node("twin-2", "10.0.0.7"),
		pod("web", "a", "10.1.0.1", "fd01::1"), pod("again", "a", "10.1.0.1"), ended, crashed, unbound,
		pod("after", "d", "10.1.0.8"), pod("x", "a", "10.1.0.5"), pod("y", "d", "10.1.0.5"), pod("host", "a", "10.0.0.1"),
	)
	paths := regexp.MustCompile(`^path_(.+)$`)
	tests := map[string]struct {
		value string
		re    *regexp.Regexp
		want  string // "": none
	}{
		"a node's name":                                {"a", nil, "a"},
		"a name with dots":                             {"b.example", nil, "b.example"},
		"a name with a port":                           {"a:9100", nil, "a"},
		"an InternalIP":                                {"10.0.0.1", nil, "a"},
		"an InternalIP with a port":                    {"10.0.0.2:9427", nil, "b.example"},
		"an IPv6 InternalIP":                           {"fd00::1", nil, "a"},
		"an IPv6 InternalIP, written at length":        {"fd00:0:0:0::0001", nil, "a"},
		"an IPv6 InternalIP in brackets":               {"[fd00::1]", nil, "a"},
		"an IPv6 InternalIP with a port":               {"[fd00::1]:9374", nil, "a"},
		"an IPv4 address within IPv6":                  {"::ffff:10.0.0.1", nil, "a"},
		"the hostname label":                           {"b-host", nil, "b.example"},
		"the hostname address":                         {"b-name:80", nil, "b.example"},
		"the internal DNS name":                        {"b.internal", nil, "b.example"},
		"an external address is none":                  {"192.0.2.2", nil, ""},
		"a name goes before another's InternalIP":      {"10.0.0.9", nil, "10.0.0.9"},
		"an address of two nodes is none":              {"10.0.0.7", nil, ""},
		"a pod's address":                              {"10.1.0.1", nil, "a"},
		"a pod's address with a port":                  {"10.1.0.1:8080", nil, "a"},
		"a pod's IPv6 address":                         {"[fd01::1]:8080", nil, "a"},
		"of a pod that ended, another's by now":        {"10.1.0.8", nil, "d"},
		"of a pod that failed":                         {"10.1.0.9", nil, ""},
		"of a pod without a node":                      {"10.1.0.7", nil, ""},
		"of pods on two nodes":                         {"10.1.0.5", nil, ""},
		"the first group":                              {"path_b.example", paths, "b.example"},
		"the first group is an address":                {"path_10.0.0.1", paths, "a"},
		"the expression is not needed":                 {"a", paths, "a"},
		"what the group finds is none":                 {"path_z", paths, ""},
		"the expression does not match":                {"api_server_direct", paths, ""},
		"the expression does not mend what is twofold": {"10.0.0.7", regexp.MustCompile(`^(1)`), ""},
		"nothing":                           {"", nil, ""},
		"nothing, and an expression for it": {"", regexp.MustCompile(`^()$`), ""},
		"a port alone":                      {":80", nil, ""},
		"no node":                           {"z", nil, ""},
	}
	j := c.Joiner()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := j.Node(tt.value, tt.re)
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("%q is %q, %v; want %q", tt.value, got, ok, tt.want)
			}
		})
	}
	c.Pods = nil
	if got, ok := c.Joiner().Node("10.1.0.1", nil); ok {
		t.Errorf("without pods the address of one is %q", got)
	}
}

func TestJoinerIsSafeForConcurrentUse(t *testing.T) {
	c, _ := cluster(t, node("a", "10.0.0.1"), pod("p", "a", "10.1.0.1"))
	j := c.Joiner()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, ok := j.Node("10.1.0.1:80", nil); got != "a" || !ok {
				t.Errorf("the pod is on %q", got)
			}
		})
	}
	wg.Wait()
}

func TestPresetsOfBlackboxTargets(t *testing.T) {
	c, _ := cluster(t, node("a", "10.0.0.1", "fd00::1"), node("b.example"))
	j := c.Joiner()
	re := regexp.MustCompile(presets["blackbox_exporter"].TargetRegexp)
	for value, want := range map[string]string{
		"10.0.0.1": "a", "10.0.0.1:443": "a", "http://10.0.0.1": "a", "https://10.0.0.1:443/healthz?x=y": "a", "http://b.example/": "b.example",
		"fd00::1": "a", "[fd00::1]:443": "a", "http://[fd00::1]:80/": "a", "http://[fd00::1]": "a", "http://z.example": "", "http://": "",
	} {
		if got, _ := j.Node(value, re); got != want {
			t.Errorf("%s is %q, want %q", value, got, want)
		}
	}
}
