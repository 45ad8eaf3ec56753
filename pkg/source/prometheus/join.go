// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"
)

// Cluster is what series are joined to. Pods may be nil: then no value is taken for the address of a pod.
type Cluster struct {
	Nodes corelisters.NodeLister
	Pods  corelisters.PodLister
}

// Joiner finds the nodes that the values of labels stand for, as the cluster is when it is made. It is safe for concurrent use.
type Joiner struct {
	names, internalIPs, hostnames names
	podIPs                        names // made when it is first needed: there may be many pods
	once                          sync.Once
	pods                          corelisters.PodLister
	uids                          map[string]types.UID
	created                       map[string]time.Time
}

// names is a name of nodes in one respect; "" stands for a name of several nodes.
type names map[string]string

func (n names) add(key, node string) {
	if key == "" {
		return
	}
	if other, ok := n[key]; ok && other != node {
		node = ""
	}
	n[key] = node
}

// Joiner returns a joiner for the cluster as it is now.
func (c *Cluster) Joiner() *Joiner {
	j := &Joiner{names: names{}, internalIPs: names{}, hostnames: names{}, pods: c.Pods, uids: map[string]types.UID{}, created: map[string]time.Time{}}
	nodes, err := c.Nodes.List(labels.Everything())
	if err != nil { // a cache does not fail
		klog.Background().Error(err, "Listing nodes")
	}
	for _, n := range nodes {
		j.names[n.Name] = n.Name
		j.uids[n.Name], j.created[n.Name] = n.UID, n.CreationTimestamp.Time
		j.hostnames.add(n.Labels[v1.LabelHostname], n.Name)
		for _, a := range n.Status.Addresses {
			switch a.Type {
			case v1.NodeInternalIP:
				j.internalIPs.add(canonical(a.Address), n.Name)
			case v1.NodeHostName, v1.NodeInternalDNS:
				j.hostnames.add(a.Address, n.Name)
			}
		}
	}
	return j
}

// before reports whether something was measured before a node was made: then of another one that had its name or address.
func (j *Joiner) before(t time.Time, node string) bool { return t.Before(j.created[node]) }

// Len returns the number of nodes.
func (j *Joiner) Len() int { return len(j.names) }

// Node returns the node that a label's value stands for: the first of node name, InternalIP, hostname, and IP of a pod on the node that
// knows the value, or the value without its port. Where none does and re is not nil, the same is tried with what re's first group
// matches. A value that stands for two nodes stands for none.
func (j *Joiner) Node(value string, re *regexp.Regexp) (string, bool) {
	if node, ok := j.find(value); ok {
		return node, node != ""
	}
	if re != nil {
		if m := re.FindStringSubmatch(value); len(m) > 1 && m[1] != "" {
			node, _ := j.find(m[1])
			return node, node != ""
		}
	}
	return "", false
}

// find returns "" and true for a value that is known and ambiguous.
func (j *Joiner) find(value string) (string, bool) {
	if node, ok := j.lookUp(value); ok {
		return node, true
	}
	if host, _, err := net.SplitHostPort(value); err == nil && host != "" {
		return j.lookUp(host)
	}
	return "", false
}

func (j *Joiner) lookUp(value string) (string, bool) {
	if node, ok := j.names[value]; ok {
		return node, true
	}
	ip := canonical(value)
	if node, ok := j.internalIPs[ip]; ok {
		return node, true
	}
	if node, ok := j.hostnames[value]; ok {
		return node, true
	}
	if _, err := netip.ParseAddr(ip); err != nil || j.pods == nil {
		return "", false
	}
	j.once.Do(j.listPods)
	node, ok := j.podIPs[ip]
	return node, ok
}

func (j *Joiner) listPods() {
	j.podIPs = names{}
	pods, err := j.pods.List(labels.Everything())
	if err != nil {
		klog.Background().Error(err, "Listing pods")
	}
	for _, p := range pods {
		// The address of a pod that ended may be another's by now.
		if p.Spec.NodeName == "" || p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed {
			continue
		}
		for _, ip := range p.Status.PodIPs {
			j.podIPs.add(canonical(ip.IP), p.Spec.NodeName)
		}
	}
}

// canonical writes an address in the one way in which it is looked up; what is no address stays.
func canonical(s string) string {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return s
}
