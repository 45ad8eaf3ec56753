// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/probe"
)

// Where peers are learnt from: one of these, or the path of a file.
const (
	// PeersNodeLatencies: the endpoints in the NodeLatency objects, which each prober publishes for itself.
	PeersNodeLatencies = "nodelatencies"
	// PeersNodes: the Nodes' internal addresses, with the port that all reflectors share.
	PeersNodes = "nodes"
)

// fileCheck is how often the file of peers is read: a ConfigMap's volume is changed in ways that a watch of the file does
// not see.
const fileCheck = 2 * time.Second

// watchPeers calls set with all peers each time that they changed, from one goroutine, until ctx ends.
type watchPeers func(ctx context.Context, set func([]probe.Target)) error

// watchObjects watches the objects of an API. shrink cuts an object down to what target needs, and target makes it a peer;
// its error says why it is none.
func watchObjects(lw cache.ListerWatcher, example runtime.Object, shrink func(any), target func(any) (probe.Target, error), log *slog.Logger) watchPeers {
	return func(ctx context.Context, set func([]probe.Target)) error {
		informer := cache.NewSharedInformer(lw, example, 0)
		if err := informer.SetTransform(func(o any) (any, error) {
			shrink(o)
			return o, nil
		}); err != nil {
			return fmt.Errorf("watching peers: %w", err)
		}
		problem := ""
		if err := informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
			// Called from the informer's one goroutine, at every attempt.
			if err.Error() != problem {
				problem = err.Error()
				log.Warn("Cannot watch peers, and will try again", "err", err)
			}
		}); err != nil {
			return fmt.Errorf("watching peers: %w", err)
		}
		changed := make(chan struct{}, 1)
		signal := func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { signal() },
			DeleteFunc: func(any) { signal() },
			UpdateFunc: func(before, after any) {
				// Most updates are of what the node measured, or of its heartbeat.
				b, errB := target(before)
				a, errA := target(after)
				if a != b || (errA == nil) != (errB == nil) {
					signal()
				}
			},
		}); err != nil {
			return fmt.Errorf("watching peers: %w", err)
		}
		done := make(chan struct{})
		go func() { defer close(done); informer.RunWithContext(ctx) }()
		defer func() { <-done }()
		known := map[string]string{} // what was said of the peers that cannot be probed
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
			// An incomplete list must not make peers disappear whose results are kept.
			if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
				return nil
			}
			var targets []probe.Target
			said := map[string]string{}
			for _, o := range informer.GetStore().List() {
				t, err := target(o)
				if err == nil {
					targets = append(targets, t)
					continue
				}
				said[t.Name] = err.Error()
				if known[t.Name] != err.Error() {
					log.Warn("Cannot probe this peer", "node", t.Name, "err", err)
				}
			}
			known = said
			slices.SortFunc(targets, func(a, b probe.Target) int { return cmp.Compare(a.Name, b.Name) })
			set(targets)
		}
	}
}

// shrinkNodeLatency leaves the name and the endpoint: what others measured is of no use here, and a prober is to be small.
func shrinkNodeLatency(o any) {
	if nl, ok := o.(*v1alpha1.NodeLatency); ok {
		nl.ObjectMeta = metav1.ObjectMeta{Name: nl.Name, ResourceVersion: nl.ResourceVersion}
		nl.Status = v1alpha1.NodeLatencyStatus{}
	}
}

// shrinkNode leaves the name and the addresses.
func shrinkNode(o any) {
	if n, ok := o.(*corev1.Node); ok {
		n.ObjectMeta = metav1.ObjectMeta{Name: n.Name, ResourceVersion: n.ResourceVersion}
		n.Spec = corev1.NodeSpec{}
		n.Status = corev1.NodeStatus{Addresses: n.Status.Addresses}
	}
}

func watchNodeLatencies(lw cache.ListerWatcher, log *slog.Logger) watchPeers {
	return watchObjects(lw, &v1alpha1.NodeLatency{}, shrinkNodeLatency, func(o any) (probe.Target, error) {
		nl := o.(*v1alpha1.NodeLatency)
		addr, err := parseEndpoint(nl.Spec.Endpoint)
		return probe.Target{Name: nl.Name, Addr: addr}, err
	}, log)
}

func watchNodes(lw cache.ListerWatcher, port uint16, log *slog.Logger) watchPeers {
	return watchObjects(lw, &corev1.Node{}, shrinkNode, func(o any) (probe.Target, error) {
		n := o.(*corev1.Node)
		for _, a := range n.Status.Addresses {
			if a.Type != corev1.NodeInternalIP {
				continue
			}
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				return probe.Target{Name: n.Name, Addr: netip.AddrPortFrom(ip, port)}, nil
			}
		}
		return probe.Target{Name: n.Name}, errors.New("the Node has no internal IP address")
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
	return func(ctx context.Context, set func([]probe.Target)) error {
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
func parsePeers(content []byte) ([]probe.Target, error) {
	var targets []probe.Target
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
		targets = append(targets, probe.Target{Name: fields[0], Addr: addr})
	}
	return targets, errors.Join(errs...)
}
