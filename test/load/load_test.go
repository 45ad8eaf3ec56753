// SPDX-License-Identifier: Apache-2.0

//go:build load

package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/fogsched/fogsched/test/cluster"
	"github.com/fogsched/fogsched/test/program"
	"github.com/fogsched/fogsched/test/promtest"
)

const (
	namespace = "burst"
	job       = "node-exporter"

	// scrapeInterval is within what people have, 10 s to a minute.
	scrapeInterval = 15 * time.Second
	// ruleWindow is that of kube-prometheus' rules.
	ruleWindow = 5 * time.Minute
)

var seeds = []uint64{1, 2, 3, 4, 5}

// rules are kube-prometheus' for what Trimaran's client of Prometheus asks for, as far as Trimaran's two plugins read it.
const rules = `
groups:
- name: node
  rules:
  - record: instance:node_cpu:ratio
    expr: >-
      sum(rate(node_cpu_seconds_total{mode!="idle",mode!="iowait",mode!="steal"}[5m])) without (cpu, mode)
      / on(instance) group_left() count(sum(node_cpu_seconds_total) by (instance, cpu)) by (instance)
  - record: instance:node_memory_utilisation:ratio
    expr: 1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes
`

// TestPlacementUnderLoad gives a burst of pods to each contestant, in worlds of its own that are the same as the others', and compares
// what becomes of the nodes' utilisation.
func TestPlacementUnderLoad(t *testing.T) {
	var worlds []*world
	byContestant := map[string][]*world{}
	for _, c := range contestants {
		for _, seed := range seeds {
			w := newWorld(fmt.Sprintf("%s-%d", c.name, seed), seed)
			worlds = append(worlds, w)
			byContestant[c.name] = append(byContestant[c.name], w)
		}
	}
	control := newCluster(t, worlds)
	prometheus := startPrometheus(t, worlds)
	b := newBursts(t, control, worlds)

	r := newReport()
	for _, c := range contestants {
		s := startContestant(t, control, c, prometheus)
		if c.ours {
			untilData(t, s, len(worlds)*nodesPerWorld)
		}
		for _, w := range byContestant[c.name] {
			r.add(c, b.run(c, w))
		}
		b.checkHealth(c, s)
		s.Stop()
	}
	b.checkAgainst(prometheus)
	if err := r.write(); err != nil {
		t.Error(err)
	}
	t.Log("\n" + r.table())
	r.judge(t)
}

// newCluster starts a control plane with the nodes of all worlds.
func newCluster(t *testing.T, worlds []*world) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(context.Background(), cluster.Options{Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err) // never a skip: a run without this must not look like one in which it passed
	}
	t.Cleanup(c.Stop)
	var nodes []cluster.Node
	for _, w := range worlds {
		nodes = append(nodes, w.nodes()...)
	}
	t.Logf("adding %d nodes", len(nodes))
	if err := c.AddNodes(t.Context(), nodes...); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateNamespace(t.Context(), namespace, nil); err != nil {
		t.Fatal(err)
	}
	return c
}

// startPrometheus returns when Prometheus has scraped every machine, and the rules tell the machines' true load.
func startPrometheus(t *testing.T, worlds []*world) *promtest.Server {
	t.Helper()
	// The machines' time begins here, so that next to nothing is missing between what was stored and the first scrape.
	begin()
	past := history(worlds)
	exporter := startExporter(t, worlds)
	var targets []promtest.Target
	for _, w := range worlds {
		for _, m := range w.machines {
			targets = append(targets, promtest.Target{Address: m.name})
		}
	}
	dir := t.TempDir()
	rulesFile := dir + "/rules.yaml"
	writeFile(t, rulesFile, rules)
	t.Log("starting prometheus")
	s, err := promtest.Start(t.Context(), promtest.Options{
		Dir: dir, History: past,
		Config: promtest.Config{
			ScrapeInterval: scrapeInterval,
			Extra:          "rule_files: [" + rulesFile + "]",
			Jobs: []promtest.Job{{Name: job, Targets: targets, Extra: `
relabel_configs:
- {source_labels: [__address__], target_label: instance}
- {source_labels: [__address__], target_label: __metrics_path__, replacement: /$1/metrics}
- {target_label: __address__, replacement: "` + exporter + `"}
`}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	t.Logf("prometheus scrapes %.1f s after the end of its history", time.Since(epoch).Seconds())
	if _, err := s.AwaitSeries(t.Context(), `up == 1`, len(targets)); err != nil {
		t.Fatal(err)
	}
	// One value a node, from the history as from the rule; and what the last minutes averaged is what they were.
	if _, err := s.Await(t.Context(), `avg_over_time(instance:node_cpu:ratio[15m])`, func(v model.Vector) error {
		if len(v) != len(targets) {
			return fmt.Errorf("want %d series", len(targets))
		}
		return compare(worlds, v, 0.02, func(m *machine) (float64, bool) { return m.past(15*time.Minute, ruleWindow), true })
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// compare returns an error that names a machine of which Prometheus tells another load than it has.
func compare(worlds []*world, v model.Vector, tolerance float64, truth func(*machine) (load float64, ok bool)) error {
	told := map[string]float64{}
	for _, s := range v {
		told[string(s.Metric["instance"])] = float64(s.Value)
	}
	for _, w := range worlds {
		for _, m := range w.machines {
			want, ok := truth(m)
			if !ok {
				continue
			}
			if got, ok := told[m.name]; !ok || got < want-tolerance || got > want+tolerance {
				return fmt.Errorf("node %s has %.3f, want %.3f", m.name, told[m.name], want)
			}
		}
	}
	return nil
}

func startContestant(t *testing.T, control *cluster.Cluster, c contestant, prometheus *promtest.Server) *cluster.Scheduler {
	t.Helper()
	t.Logf("%s: starting", c.title)
	s, err := control.StartScheduler(t.Context(), cluster.SchedulerOptions{
		Name: c.name, Binary: c.binary, ConfigYAML: c.config(prometheus.URL()), Kubeconfig: control.KubeconfigPath(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// bursts gives pods to schedulers and has the machines feel them.
type bursts struct {
	*testing.T
	control *cluster.Cluster
	worlds  []*world

	mu       sync.Mutex
	machines map[string]*machine
	uses     map[string]usage     // by pod
	bound    map[string]time.Time // by pod
	changed  chan struct{}        // signalled when one more is bound
}

func newBursts(t *testing.T, control *cluster.Cluster, worlds []*world) *bursts {
	t.Helper()
	b := &bursts{
		T: t, control: control, worlds: worlds, machines: map[string]*machine{}, uses: map[string]usage{},
		bound: map[string]time.Time{}, changed: make(chan struct{}, 1),
	}
	for _, w := range worlds {
		for _, m := range w.machines {
			b.machines[m.name] = m
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(control.Client(), 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    b.observe,
		UpdateFunc: func(_, pod any) { b.observe(pod) },
	}); err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	return b
}

// observe has a pod use what it uses from the moment in which it is bound.
func (b *bursts) observe(object any) {
	pod, ok := object.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.bound[pod.Name]; known {
		return
	}
	b.bound[pod.Name] = time.Now()
	if m := b.machines[pod.Spec.NodeName]; m != nil {
		m.place(pod.Name, b.uses[pod.Name])
	}
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// run creates the pods of a world at once and returns what came of it when all are bound.
func (b *bursts) run(c contestant, w *world) run {
	b.Helper()
	pods := make([]*corev1.Pod, len(w.pods))
	b.mu.Lock()
	for i, p := range w.pods {
		pods[i] = p.pod(fmt.Sprintf("%s-%03d", w.name, i), c.name, w.name)
		b.uses[pods[i].Name] = usage{float64(p.usedMilliCPU) / 1000, float64(p.memory)}
	}
	b.mu.Unlock()

	start := time.Now()
	errs := make([]error, len(pods))
	workqueue.ParallelizeUntil(b.Context(), 32, len(pods), func(i int) {
		_, errs[i] = b.control.Client().CoreV1().Pods(namespace).Create(b.Context(), pods[i], metav1.CreateOptions{})
	})
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	created := time.Since(start)

	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for {
		n, last := b.boundOf(pods)
		if n == len(pods) {
			r := run{Seed: w.seed, CreateSeconds: created.Seconds(), BurstSeconds: last.Sub(start).Seconds(), outcome: w.observe(last)}
			b.Logf("%s: seed %d: %d pods created in %.1f s, bound in %.1f s: %.1f", c.title, w.seed, n, r.CreateSeconds, r.BurstSeconds, r.outcome)
			return r
		}
		select {
		case <-b.changed:
		case <-ctx.Done():
			b.Fatalf("%s: seed %d: %d of %d pods were bound within a minute", c.title, w.seed, n, len(pods))
		}
	}
}

func (b *bursts) boundOf(pods []*corev1.Pod) (n int, last time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range pods {
		at, ok := b.bound[p.Name]
		if !ok {
			continue
		}
		n++
		if at.After(last) {
			last = at
		}
	}
	return n, last
}

// pod is guaranteed: what it may use is what it asks for, the best that anybody can be told who predicts its use.
func (p workload) pod(name, scheduler, world string) *corev1.Pod {
	resources := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(p.requestMilliCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(p.memory, resource.BinarySI),
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			SchedulerName: scheduler,
			NodeSelector:  map[string]string{worldLabel: world},
			Containers: []corev1.Container{{
				Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: resources, Limits: resources},
			}},
		},
	}
}

// checkAgainst fails unless Prometheus comes to see the utilisation that the report tells, where it does not swing away meanwhile. A scrape that
// is answered a second late on a busy machine shifts a rate between two by some percent.
func (b *bursts) checkAgainst(s *promtest.Server) {
	b.Helper()
	b.Log("comparing with what Prometheus sees")
	ctx, cancel := context.WithTimeout(b.Context(), 4*scrapeInterval)
	defer cancel()
	err := program.Poll(ctx, nil, func(ctx context.Context) error {
		v, err := s.Query(ctx, `1 - avg by (instance) (sum without (mode) (irate(node_cpu_seconds_total{mode=~"idle|iowait"}[1m])))`)
		if err != nil {
			return err
		}
		return compare(b.worlds, v, 0.05, func(m *machine) (float64, bool) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.utilization(time.Now()), m.base.swing == 0
		})
	})
	if err != nil {
		b.Error(err)
	}
}

// untilData waits until our scheduler has a value of every node. Trimaran's plugins ask before they are ready.
func untilData(t *testing.T, s *cluster.Scheduler, nodes int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := program.Poll(ctx, nil, func(ctx context.Context) error {
		known, err := metricOf(ctx, s, "fogsched_nodemetrics_known_nodes", "")
		if err == nil && known < float64(nodes) {
			err = fmt.Errorf("it knows the load of %.0f nodes, want %d", known, nodes)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checkHealth fails when a scheduler placed pods without the data: then its result is none.
func (b *bursts) checkHealth(c contestant, s *cluster.Scheduler) {
	b.Helper()
	log, err := os.ReadFile(s.LogPath())
	if err != nil {
		b.Fatal(err)
	}
	for _, line := range []string{"Failed to get metrics for node", "Unable to populate metrics", "error querying Prometheus"} { // Trimaran's
		if strings.Contains(string(log), line) {
			b.Errorf("%s lacked data; its log has %q", c.title, line)
		}
	}
	if !c.ours {
		return
	}
	for _, want := range []struct {
		name, label string
		value       float64
	}{
		{"fogsched_nodemetrics_decisions_total", `result="scored"`, float64(podsPerBurst * len(seeds))},
		{"fogsched_nodemetrics_decisions_total", `result="no_data"`, 0},
		{"fogsched_plugin_panics_recovered_total", "", 0},
	} {
		got, err := metricOf(b.Context(), s, want.name, want.label)
		if err != nil {
			b.Fatal(err)
		}
		if got < want.value || want.value == 0 && got > 0 {
			b.Errorf("%s has %s{%s} %.0f, want %.0f", c.title, want.name, want.label, got, want.value)
		}
	}
}

// metricOf returns the least of a scheduler's series with a label.
func metricOf(ctx context.Context, s *cluster.Scheduler, name, label string) (float64, error) {
	text, err := s.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	least, found := math.Inf(1), false
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, name) || !strings.Contains(line, label) {
			continue
		}
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("reading %s: %w", name, err)
		}
		least, found = min(least, v), true
	}
	if !found {
		return 0, nil // a counter that never counted
	}
	return least, nil
}
