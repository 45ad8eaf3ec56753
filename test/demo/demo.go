// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/publish"
	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/promtest"
	"github.com/fogsched/fogsched/test/wan"
)

const (
	probeInterval = time.Second
	probeWindow   = 12
	enoughSamples = 6 // of a pair, before pods are placed
	// publishAge is short so that also how much a measurement rests on is published while somebody waits for it.
	publishAge = 4 * time.Second
	patience   = time.Minute
)

//go:embed workload.yaml
var workload []byte

// contestant is a scheduler and the namespace of its pods.
type contestant struct{ scheduler, namespace string }

var (
	ours  = contestant{"fogsched", "fog"}
	stock = contestant{"default-scheduler", "stock"}
)

// demo is a running demo.
type demo struct {
	*screen
	out     string
	cluster *cluster.Cluster
	api     *client.Client
	network *wan.WAN
	places  []place
	target  uint16 // the port of the real reflectors
	probers sync.WaitGroup

	source     string
	prometheus *promtest.Server // nil where it is not the source
	exporters  []net.Listener   // of the probers' metrics, by place; nil where there is no Prometheus
	// measured returns what is known of the pairs.
	measured func(context.Context) ([]measurement, error)
}

func run(ctx context.Context, out, source string, keep bool) (err error) {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(ctx)
	d := &demo{screen: newScreen(), out: out, source: source}
	d.measured = d.published
	if source == fromPrometheus {
		d.measured = d.scraped
	}
	defer func() {
		cancel()
		d.probers.Wait()
		for _, l := range d.exporters {
			if l != nil {
				_ = l.Close()
			}
		}
		if d.prometheus != nil {
			d.prometheus.Stop()
		}
		if d.network != nil {
			_ = d.network.Close()
		}
		if d.cluster != nil {
			d.cluster.Stop()
		}
	}()

	d.title("fogsched demo: a gateway and 23 edge nodes over 4 sites")
	for _, step := range []func(context.Context) error{d.startCluster, d.startProbers, d.awaitMeasurements} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := d.actOne(ctx); err != nil {
		return fmt.Errorf("act 1: %w", err)
	}
	if err := d.actTwo(ctx); err != nil {
		return fmt.Errorf("act 2: %w", err)
	}
	if err := d.actThree(ctx); err != nil {
		return fmt.Errorf("act 3: %w", err)
	}
	if !keep {
		d.say("\nThe cluster is gone now. `make demo KEEP=1` leaves it running, to look at with kubectl.")
		return nil
	}
	d.say("\nThe cluster stays. Look at it:\n\n  export KUBECONFIG=%s\n  kubectl get latencypolicies -A\n  kubectl get nodelatencies\n  kubectl get pods -A -o wide\n\nEnd it with: kill %d",
		d.cluster.KubeconfigPath(), os.Getpid())
	if err := detach(d.out); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (d *demo) startCluster(ctx context.Context) error {
	d.places = places(byte(os.Getpid()))
	var err error
	d.cluster, err = cluster.Start(ctx, cluster.Options{Progress: func(text string) { d.progress("%s", text) }})
	if err != nil {
		return err
	}
	d.step("a control plane on loopback: etcd, kube-apiserver, kube-controller-manager, kwok for the nodes")
	if err := d.cluster.ApplyKustomize(ctx, "manifests/overlays/second-scheduler"); err != nil {
		return err
	}
	// The DaemonSet's pods would be played by kwok and measure nothing; the demo runs the probers itself.
	prober := d.cluster.Client().AppsV1().DaemonSets("fogsched-system")
	if err := prober.Delete(ctx, "fogprobe", metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("removing the prober's DaemonSet: %w", err)
	}
	if err := d.cluster.Client().AppsV1().Deployments("fogsched-system").Delete(ctx, "fogsched", metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("removing the scheduler's Deployment: %w", err)
	}
	if d.api, err = client.New(d.cluster.Config()); err != nil {
		return err
	}
	nodes := make([]cluster.Node, len(d.places))
	for i, p := range d.places {
		nodes[i] = cluster.Node{
			Name: p.name, InternalIP: p.addr.String(),
			Labels: map[string]string{corev1.LabelTopologyZone: p.site, "fogsched.dev/entry": fmt.Sprint(p.entry)},
			Capacity: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"),
			},
		}
	}
	if err := d.cluster.AddNodes(ctx, nodes...); err != nil {
		return err
	}
	if err := d.cluster.SetNotReady(ctx, notReady); err != nil {
		return err
	}
	d.step("24 nodes: %s, %s; %s is NotReady", gateway, strings.Join(siteNames(), ", "), notReady)

	if d.source == fromPrometheus {
		if err := d.withoutNodeLatency(ctx); err != nil {
			return err
		}
		if err := d.startPrometheus(ctx); err != nil {
			return err
		}
	}
	kubeconfig, err := d.cluster.ServiceAccountKubeconfig(ctx, "fogsched-system", "fogsched")
	if err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(repoRoot(), "manifests/base/config.yaml"))
	if err != nil {
		return err
	}
	if d.prometheus != nil {
		if config, err = askPrometheus(config, d.prometheus.URL()); err != nil {
			return err
		}
	}
	if _, err := d.cluster.StartScheduler(ctx, cluster.SchedulerOptions{Binary: "fogsched", Kubeconfig: kubeconfig, ConfigYAML: config}); err != nil {
		return err
	}
	if _, err := d.cluster.StartScheduler(ctx, cluster.SchedulerOptions{Name: "kube-scheduler"}); err != nil {
		return err
	}
	d.step("two schedulers: kube-scheduler for all pods, fogsched for those with `schedulerName: fogsched`")
	return nil
}

func repoRoot() string {
	root, err := cluster.RepoRoot()
	if err != nil {
		return "."
	}
	return root
}

func siteNames() (names []string) {
	for _, s := range sites {
		names = append(names, fmt.Sprintf("%s-1…%d", s.name, s.nodes))
	}
	return names
}

// startProbers runs a prober for every node that is up. Their packets cross the emulated network.
func (d *demo) startProbers(ctx context.Context) error {
	addrs := make([]netip.Addr, len(d.places))
	for i, p := range d.places {
		addrs[i] = p.addr
	}
	var err error
	if d.target, err = wan.FreePort(addrs); err != nil {
		return err
	}
	d.network, err = wan.New(wan.Config{
		Nodes: addrs, TargetPort: d.target, Seed: 1,
		Link: func(from, to int) wan.Link { return link(d.places[from], d.places[to]) },
	})
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d.out, "fogprobe.log"))
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(log, nil))
	for i, p := range d.places {
		if p.name == notReady {
			continue
		}
		options := publish.Options{
			NodeName: p.name,
			Listen:   netip.AddrPortFrom(p.addr, d.target).String(),
			Bind:     p.addr,
			Endpoint: d.network.Endpoint(i).String(),
			Interval: probeInterval, Window: probeWindow, MinGap: time.Second, MaxAge: publishAge,
			Config: d.cluster.Config(), Logger: logger,
		}
		if d.prometheus != nil {
			if err := d.expose(&options); err != nil {
				return err
			}
		}
		agent, err := publish.New(options)
		if err != nil {
			return err
		}
		if d.prometheus != nil {
			d.probers.Go(func() { d.serveMetrics(ctx, d.exporters[i], agent) })
		}
		d.probers.Go(func() {
			if err := agent.Run(ctx); err != nil && ctx.Err() == nil {
				logger.Error("a prober ended", "node", p.name, "err", err)
			}
		})
	}
	d.step("23 probers send STAMP (RFC 8762) packets to one another through an emulated wide-area network")
	return nil
}

// awaitMeasurements returns when every pair of nodes that are up has been measured often enough, by one side at least.
func (d *demo) awaitMeasurements(ctx context.Context) error {
	up := len(d.places) - 1
	want := up * (up - 1) / 2
	pairs := 0
	err := d.until(ctx, "measurements of all pairs", func() (bool, error) {
		list, err := d.measured(ctx)
		if err != nil {
			return false, err
		}
		measured := map[[2]string]bool{}
		for _, m := range list {
			if m.enough {
				measured[[2]string{min(m.from, m.to), max(m.from, m.to)}] = true
			}
		}
		pairs = len(measured)
		d.progress("measuring: %d of %d pairs have %d samples", pairs, want, enoughSamples)
		return pairs >= want, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %d of %d have %d samples", err, pairs, want, enoughSamples)
	}
	d.step("measured: %d pairs of nodes; nobody measures %s, so its distances are unknown", pairs, notReady)
	return nil
}

func (d *demo) until(ctx context.Context, what string, check func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("waited %s for %s", patience, what))
	defer cancel()
	for {
		ok, err := check()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return ctx.Err()
			}
			if err != nil {
				return fmt.Errorf("%w (last error: %w)", context.Cause(ctx), err)
			}
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// placement is where a scheduler put the reference workload.
type placement struct {
	master string
	slaves []string
	board  []string
}

// apply creates the workload for a scheduler and returns where its pods land.
func (d *demo) apply(ctx context.Context, c contestant) (placement, error) {
	var p placement
	if err := d.cluster.CreateNamespace(ctx, c.namespace, nil); err != nil {
		return p, err
	}
	objects, err := cluster.ParseYAML(workload)
	if err != nil {
		return p, err
	}
	for _, o := range objects {
		o.SetNamespace(c.namespace)
		if o.GetKind() == "Deployment" {
			if err := unstructured.SetNestedField(o.Object, c.scheduler, "spec", "template", "spec", "schedulerName"); err != nil {
				return p, err
			}
		}
	}
	// What is wanted goes first, as it would in a repository of manifests: the scheduler learns of it by a watch, and pods that
	// overtake it would be placed without.
	rest := slices.Clone(objects)
	rest = slices.DeleteFunc(rest, func(o *unstructured.Unstructured) bool { return o.GetKind() == "LatencyPolicy" })
	policies := slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() != "LatencyPolicy" })
	if err := d.cluster.Apply(ctx, policies...); err != nil {
		return p, err
	}
	if err := d.until(ctx, "the scheduler to follow the policies", func() (bool, error) { return d.followed(ctx, c.namespace) }); err != nil {
		return p, err
	}
	if err := d.cluster.Apply(ctx, rest...); err != nil {
		return p, err
	}
	err = d.until(ctx, "the pods of "+c.scheduler, func() (bool, error) {
		p = placement{}
		pods, err := d.cluster.Client().CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		placed := 0
		for i := range pods.Items {
			pod := &pods.Items[i]
			if pod.Spec.NodeName == "" {
				continue
			}
			placed++
			switch {
			case pod.Labels["app"] == "bulletin-board":
				p.board = append(p.board, pod.Spec.NodeName)
			case pod.Labels["role"] == "master":
				p.master = pod.Spec.NodeName
			default:
				p.slaves = append(p.slaves, pod.Spec.NodeName)
			}
		}
		d.progress("%s: %d of 6 pods placed", c.scheduler, placed)
		return placed == 6, nil
	})
	slices.Sort(p.board)
	slices.Sort(p.slaves)
	return p, err
}

// followed reports whether the scheduler has written the status of every policy of a namespace.
func (d *demo) followed(ctx context.Context, namespace string) (bool, error) {
	list, err := d.api.LatencyPolicies(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.Status.ObservedGeneration != p.Generation {
			return false, nil
		}
	}
	return true, nil
}

func (d *demo) number(node string) int {
	return slices.IndexFunc(d.places, func(p place) bool { return p.name == node })
}

func (d *demo) entries() (list []int) {
	for i, p := range d.places {
		if p.entry {
			list = append(list, i)
		}
	}
	return list
}

// actOne places the workload with both schedulers and shows what it is worth.
func (d *demo) actOne(ctx context.Context) error {
	d.title("Act 1: a bulletin board ×3 with Redis, once by each scheduler")
	placements := map[contestant]placement{}
	for _, c := range []contestant{stock, ours} {
		p, err := d.apply(ctx, c)
		if err != nil {
			return err
		}
		placements[c] = p
	}
	var pairs [][2]int
	entries := d.entries()
	for _, p := range placements {
		for _, node := range append(slices.Clone(p.slaves), p.board...) {
			pairs = append(pairs, [2]int{d.number(node), d.number(p.master)})
		}
		for _, node := range p.board {
			for _, e := range entries {
				pairs = append(pairs, [2]int{e, d.number(node)})
			}
		}
	}
	d.progress("sending %d packets between the chosen nodes", probesPerPair*len(pairs))
	measured, err := measure(ctx, d.network, d.places, d.target, pairs)
	if err != nil {
		return err
	}
	d.say("Round trips of %d packets a pair, sent after the placement. Clients: %s.", probesPerPair, strings.Join(d.entryNames(), ", "))
	d.say("Limit of the board to redis-master: %s.\n", redisLimit)
	rep := report{Schedulers: map[string]figures{}}
	var rows [][]cell
	for _, c := range []contestant{ours, stock} {
		f, r := d.judge(c, placements[c], measured)
		rep.Schedulers[c.scheduler] = f
		rows = append(rows, r...)
		rows = append(rows, []cell{plain("")})
	}
	d.table([]string{"scheduler", "pod", "node", ">RTT to Redis", "limit", ">clients mean", ">clients p95"}, rows[:len(rows)-1])
	f, s := rep.Schedulers[ours.scheduler], rep.Schedulers[stock.scheduler]
	d.say("")
	d.table([]string{"each client to its nearest replica", ">fogsched", ">default-scheduler"}, [][]cell{
		{plain("RTT mean"), {fmt.Sprintf("%.1f ms", f.ClientRTTMillis.Mean), green}, plain(fmt.Sprintf("%.1f ms", s.ClientRTTMillis.Mean))},
		{plain("RTT p95"), {fmt.Sprintf("%.1f ms", f.ClientRTTMillis.P95), green}, plain(fmt.Sprintf("%.1f ms", s.ClientRTTMillis.P95))},
		{plain("board to Redis, mean"), {fmt.Sprintf("%.1f ms", f.DependencyRTTMillis.Mean), green}, plain(fmt.Sprintf("%.1f ms", s.DependencyRTTMillis.Mean))},
		{plain("limits broken"), d.brokenCell(f.LimitsBroken), d.brokenCell(s.LimitsBroken)},
	})
	path, err := rep.write(d.out)
	if err != nil {
		return err
	}
	d.say("\nThe same for machines: %s", path)
	return d.why(ctx)
}

func (d *demo) entryNames() (names []string) {
	for _, e := range d.entries() {
		names = append(names, d.places[e].name)
	}
	return names
}

func (d *demo) brokenCell(n int) cell {
	if n == 0 {
		return cell{"0", green}
	}
	return cell{fmt.Sprint(n), red}
}

// judge turns round trips into the figures and the rows of one scheduler.
func (d *demo) judge(c contestant, p placement, measured map[[2]int]trips) (figures, [][]cell) {
	var f figures
	master := d.number(p.master)
	rows := [][]cell{{{c.scheduler, bold}, plain("redis-master"), plain(p.master), plain("–"), plain(""), plain(""), plain("")}}
	for _, node := range p.slaves {
		rows = append(rows, []cell{
			plain(""), plain("redis-slave"), plain(node), plain(millis(measured[[2]int{d.number(node), master}].median())),
			plain(""), plain(""), plain(""),
		})
	}
	var toRedis trips
	for _, node := range p.board {
		n := d.number(node)
		redis := measured[[2]int{n, master}].median()
		toRedis = append(toRedis, redis)
		kept := cell{"kept", green}
		if redis > redisLimit {
			kept = cell{"BROKEN", red}
			f.LimitsBroken++
		}
		var all trips
		for _, e := range d.entries() {
			all = append(all, measured[[2]int{e, n}]...)
		}
		rows = append(rows, []cell{
			plain(""), plain("bulletin-board"), plain(node), plain(millis(redis)), kept, plain(millis(all.mean())), plain(millis(all.percentile(95))),
		})
	}
	var users trips // every client at the replica that is nearest to it
	for _, e := range d.entries() {
		var best trips
		for _, node := range p.board {
			t := measured[[2]int{e, d.number(node)}]
			if best == nil || t.median() < best.median() {
				best = t
			}
		}
		users = append(users, best...)
	}
	f.ClientRTTMillis = clientFigures{Mean: toMillis(users.mean()), P95: toMillis(users.percentile(95))}
	f.DependencyRTTMillis = dependencyFigures{Mean: toMillis(toRedis.mean())}
	return f, rows
}

// why shows what the scheduler wrote on one pod.
func (d *demo) why(ctx context.Context) error {
	pods, err := d.cluster.Client().CoreV1().Pods(ours.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=bulletin-board"})
	if err != nil {
		return err
	}
	if len(pods.Items) == 0 {
		return errors.New("the board has no pods")
	}
	pod := &pods.Items[0]
	d.say("\nAnd why: the annotation %s of pod %s says\n", v1alpha1.PlacementAnnotation, pod.Name)
	d.say("%s", indent(pod.Annotations[v1alpha1.PlacementAnnotation]))
	return nil
}
