// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/probe"
)

// Where peers are learnt from: one of these, or the path of a file.
const (
	// PeersEndpointSlices: the EndpointSlices of the probers' headless Service. They change when a prober's pod does.
	PeersEndpointSlices = "endpointslices"
	// PeersNodeLatencies: the endpoints in the NodeLatency objects, which each prober publishes for itself. Every prober then
	// receives every report: for dozens of nodes and where there is no Service.
	PeersNodeLatencies = "nodelatencies"
	// PeersNodes: the Nodes' internal addresses, with the port that all reflectors share.
	PeersNodes = "nodes"
)

// objectsGap is the least time between two looks at all objects: while a DaemonSet is rolled out they change many times a second.
const objectsGap = time.Second

// fileCheck is how often the file of peers is read: a ConfigMap's volume is changed in ways that a watch of the file does
// not see.
const fileCheck = 2 * time.Second

// watchPeers calls set with all peers each time that they changed, from one goroutine, until ctx ends.
type watchPeers func(ctx context.Context, set func([]probe.Node)) error

// kind is a kind of API object that says where peers are.
type kind struct {
	example runtime.Object
	// shrink cuts an object down to what peers needs: a prober is to be small.
	shrink func(any)
	// peers returns the peers that an object is about. One that cannot be probed has an error that says why.
	peers func(any) []peer
}

type peer struct {
	probe.Node
	err error
}

// watchObjects keeps the objects of a kind, and calls changed with all of them when what seen returns of one has changed.
func watchObjects[S any](ctx context.Context, lw cache.ListerWatcher, example runtime.Object, shrink func(any), seen func(any) S,
	equal func(a, b S) bool, what string, changed func([]any), log *slog.Logger,
) error {
	informer := cache.NewSharedInformer(lw, example, 0)
	if err := informer.SetTransform(func(o any) (any, error) {
		shrink(o)
		return o, nil
	}); err != nil {
		return fmt.Errorf("watching %s: %w", what, err)
	}
	problem := ""
	if err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		// Called from the informer's one goroutine, at every attempt.
		if err.Error() != problem {
			problem = err.Error()
			log.Warn("Cannot watch "+what+", and will try again", "err", err)
		}
	}); err != nil {
		return fmt.Errorf("watching %s: %w", what, err)
	}
	signals := make(chan struct{}, 1)
	signal := func() {
		select {
		case signals <- struct{}{}:
		default:
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { signal() },
		DeleteFunc: func(any) { signal() },
		UpdateFunc: func(before, after any) {
			if !equal(seen(before), seen(after)) {
				signal()
			}
		},
	}); err != nil {
		return fmt.Errorf("watching %s: %w", what, err)
	}
	done := make(chan struct{})
	go func() { defer close(done); informer.RunWithContext(ctx) }()
	defer func() { <-done }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals:
		}
		// An incomplete list must not make peers disappear whose results are kept.
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			return nil
		}
		changed(informer.GetStore().List())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(objectsGap):
		}
	}
}

// watchPeerObjects learns the peers from the objects of a kind.
func watchPeerObjects(lw cache.ListerWatcher, k kind, log *slog.Logger) watchPeers {
	return func(ctx context.Context, set func([]probe.Node)) error {
		known := map[string]string{} // what was said of the peers that cannot be probed
		same := func(a, b peer) bool { return a.Node == b.Node && (a.err == nil) == (b.err == nil) }
		return watchObjects(ctx, lw, k.example, k.shrink, k.peers, func(a, b []peer) bool {
			// Most updates are of what the node measured, or of its heartbeat.
			return slices.EqualFunc(a, b, same)
		}, "peers", func(objects []any) {
			var all []peer
			for _, o := range objects {
				all = append(all, k.peers(o)...)
			}
			set(usable(all, known, log))
		}, log)
	}
}

// usable returns the peers that can be probed, each once: where a node has addresses of both families, that of IPv4. What is said
// of the others is said once.
func usable(all []peer, known map[string]string, log *slog.Logger) []probe.Node {
	slices.SortFunc(all, func(a, b peer) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), a.Addr.Addr().Compare(b.Addr.Addr()), cmp.Compare(a.Addr.Port(), b.Addr.Port()))
	})
	nodes := make([]probe.Node, 0, len(all))
	said := map[string]string{}
	for _, p := range all {
		switch {
		case p.err != nil:
			said[p.Name] = p.err.Error()
			if known[p.Name] != p.err.Error() {
				log.Warn("Cannot probe this peer", "node", p.Name, "err", p.err)
			}
		case len(nodes) == 0 || nodes[len(nodes)-1].Name != p.Name:
			nodes = append(nodes, p.Node)
		}
	}
	clear(known)
	maps.Copy(known, said)
	return nodes
}

var endpointSlices = kind{
	example: &discoveryv1.EndpointSlice{},
	shrink: func(o any) {
		if s, ok := o.(*discoveryv1.EndpointSlice); ok {
			s.ObjectMeta = metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, ResourceVersion: s.ResourceVersion}
			for i := range s.Endpoints {
				e := &s.Endpoints[i]
				*e = discoveryv1.Endpoint{
					Addresses: e.Addresses, NodeName: e.NodeName, Zone: e.Zone,
					Conditions: discoveryv1.EndpointConditions{Terminating: e.Conditions.Terminating},
				}
			}
		}
	},
	peers: func(o any) []peer {
		s := o.(*discoveryv1.EndpointSlice)
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			return nil
		}
		var port uint16
		for _, p := range s.Ports {
			if p.Name != nil && *p.Name == stampPortName && p.Port != nil && *p.Port > 0 && *p.Port < 1<<16 {
				port = uint16(*p.Port)
			}
		}
		var peers []peer
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			// The pod that takes a terminating one's place has the same node.
			if e.NodeName == nil || e.Conditions.Terminating != nil && *e.Conditions.Terminating || len(e.Addresses) == 0 {
				continue
			}
			p := peer{Node: probe.Node{Name: *e.NodeName}}
			if e.Zone != nil {
				p.Zone = *e.Zone
			}
			p.Addr, p.err = parseEndpoint(net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(port))))
			if port == 0 {
				p.err = fmt.Errorf("the Service has no port named %q", stampPortName)
			}
			peers = append(peers, p)
		}
		return peers
	},
}

// stampPortName is the name of the reflectors' port in the probers' Service.
const stampPortName = "stamp"

var nodeLatencies = kind{
	example: &v1alpha1.NodeLatency{},
	shrink: func(o any) {
		if nl, ok := o.(*v1alpha1.NodeLatency); ok {
			nl.ObjectMeta = metav1.ObjectMeta{Name: nl.Name, ResourceVersion: nl.ResourceVersion}
			nl.Status = v1alpha1.NodeLatencyStatus{}
		}
	},
	peers: func(o any) []peer {
		nl := o.(*v1alpha1.NodeLatency)
		addr, err := parseEndpoint(nl.Spec.Endpoint)
		return []peer{{probe.Node{Name: nl.Name, Addr: addr}, err}}
	},
}

// nodeAddresses is the Nodes' internal addresses, at one port.
func nodeAddresses(port uint16) kind {
	return kind{
		example: &corev1.Node{},
		shrink: func(o any) {
			if n, ok := o.(*corev1.Node); ok {
				n.ObjectMeta = metav1.ObjectMeta{
					Name: n.Name, ResourceVersion: n.ResourceVersion,
					Labels: map[string]string{corev1.LabelTopologyZone: n.Labels[corev1.LabelTopologyZone]},
				}
				n.Spec = corev1.NodeSpec{}
				n.Status = corev1.NodeStatus{Addresses: n.Status.Addresses}
			}
		},
		peers: func(o any) []peer {
			n := o.(*corev1.Node)
			p := probe.Node{Name: n.Name, Zone: n.Labels[corev1.LabelTopologyZone]}
			for _, a := range n.Status.Addresses {
				if a.Type != corev1.NodeInternalIP {
					continue
				}
				if ip, err := netip.ParseAddr(a.Address); err == nil {
					p.Addr = netip.AddrPortFrom(ip, port)
					return []peer{{p, nil}}
				}
			}
			return []peer{{p, errors.New("the Node has no internal IP address")}}
		},
	}
}

// watchInterest calls set with the nodes that the scheduler wants measured by everyone, each time that they changed, until ctx
// ends. No object, an object without the list and a list without names all mean that there are none.
func watchInterest(ctx context.Context, lw cache.ListerWatcher, set func([]string), log *slog.Logger) error {
	return watchObjects(ctx, lw, &corev1.ConfigMap{}, func(o any) {
		if m, ok := o.(*corev1.ConfigMap); ok {
			m.ObjectMeta = metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, ResourceVersion: m.ResourceVersion}
			m.Data = map[string]string{v1alpha1.InterestKey: m.Data[v1alpha1.InterestKey]}
			m.BinaryData = nil
		}
	}, func(o any) string { return o.(*corev1.ConfigMap).Data[v1alpha1.InterestKey] },
		func(a, b string) bool { return a == b }, "the nodes of interest", func(objects []any) {
			var names []string
			for _, o := range objects {
				names = append(names, strings.Fields(o.(*corev1.ConfigMap).Data[v1alpha1.InterestKey])...)
			}
			set(names)
		}, log)
}

// parseEndpoint reads an endpoint that can be probed.
func parseEndpoint(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, errors.New("no endpoint is given")
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("endpoint %q: must be an IP address and a port, as in 10.0.0.7:8620", s)
	}
	if a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("endpoint %q: must be the address of one node, and a port above 0", s)
	}
	return a, nil
}

// watchFile reads a file of peers whenever it changed. A file that is wrong at the start is an error; later it is logged,
// and the peers stay as they were.
func watchFile(path string, log *slog.Logger) watchPeers {
	return func(ctx context.Context, set func([]probe.Node)) error {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading the peers: %w", err)
		}
		targets, err := parsePeers(content)
		if err != nil {
			return fmt.Errorf("%s:\n%w", path, err)
		}
		set(targets)
		ticker := time.NewTicker(fileCheck)
		defer ticker.Stop()
		problem := ""
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			now, err := os.ReadFile(path)
			if err == nil && bytes.Equal(now, content) {
				continue
			}
			if err == nil {
				content = now
				targets, err = parsePeers(now)
			}
			if err != nil {
				if err.Error() != problem {
					problem = err.Error()
					log.Warn("Cannot read the peers, and keep those that were", "file", path, "err", err)
				}
				continue
			}
			problem = ""
			log.Info("The peers changed", "file", path, "peers", len(targets))
			set(targets)
		}
	}
}

// parsePeers reads a list with one peer a line: its name, blanks, its address and port. What follows a # is a comment. The
// error has all that is wrong.
func parsePeers(content []byte) ([]probe.Node, error) {
	var targets []probe.Node
	var errs []error
	lines := map[string]int{}
	number := 0
	for line := range strings.Lines(string(content)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			errs = append(errs, fmt.Errorf("line %d: must be a name and an address with a port, as in: edge-01 10.0.0.7:8620", number))
			continue
		}
		if first, ok := lines[fields[0]]; ok {
			errs = append(errs, fmt.Errorf("line %d: %s is already in line %d", number, fields[0], first))
			continue
		}
		lines[fields[0]] = number
		addr, err := parseEndpoint(fields[1])
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", number, err))
			continue
		}
		targets = append(targets, probe.Node{Name: fields[0], Addr: addr})
	}
	return targets, errors.Join(errs...)
}
