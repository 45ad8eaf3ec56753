// SPDX-License-Identifier: Apache-2.0

//go:build scale

package scale

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/publish"
	"github.com/fogsched/fogsched/test/cluster"
)

const (
	maxWritesPerSecond = 10.0
	maxBytes           = 4096
	// maxIngest is how much of a core the scheduler may use to take up what the probers write.
	maxIngest = 0.05

	gatewayLabel = "scale.test/gateway"
	interestMap  = "fogprobe-interest"
)

// publishing is what the probers of so many nodes write, in simulated time.
type publishing struct {
	Nodes int `json:"nodes"`
	// StartMinutes is the time after which the steady state is taken to begin, and Minutes how long it was watched.
	StartMinutes float64 `json:"startMinutes"`
	Minutes      float64 `json:"minutes"`
	// StartWrites are those of the start, creations included.
	StartWrites int `json:"startWrites"`
	// WritesPerSecond is the mean, WorstMinute that of the worst minute, WorstSecond that of the worst second.
	WritesPerSecond float64 `json:"writesPerSecond"`
	WorstMinute     float64 `json:"worstMinute"`
	WorstSecond     int     `json:"worstSecond"`
	// ByCause are the writes a second for each reason.
	ByCause map[publish.Cause]float64 `json:"byCause"`
	// ReadsPerSecond are the GETs, by which probers look after their object.
	ReadsPerSecond float64 `json:"readsPerSecond"`
	// BytesMean and BytesMost are of the objects as JSON, metadata included.
	BytesMean float64 `json:"bytesMean"`
	BytesMost int     `json:"bytesMost"`
	Refused   int     `json:"refused"`
}

// schedulerUse is what fogsched uses with so many nodes.
type schedulerUse struct {
	Nodes int `json:"nodes"`
	// WithoutMiB is its resident memory with the Nodes alone, WithMiB with the NodeLatency objects. Live is what of it is in use: the
	// rest is the program, and garbage that is not collected yet or whose place was not given back.
	WithoutMiB     float64 `json:"withoutMiB"`
	WithoutLiveMiB float64 `json:"withoutLiveMiB"`
	WithMiB        float64 `json:"withMiB"`
	WithLiveMiB    float64 `json:"withLiveMiB"`
	// IdleMillicores is its CPU while nothing is written, Millicores while WritesPerSecond are.
	IdleMillicores  float64 `json:"idleMillicores,omitempty"`
	Millicores      float64 `json:"millicores,omitempty"`
	WritesPerSecond float64 `json:"writesPerSecond,omitempty"`
	// MeasuredPairs are those of which the scheduler knows an RTT.
	MeasuredPairs float64 `json:"measuredPairs"`
}

// size is what is done with so many nodes.
type size struct {
	nodes         int
	start, steady time.Duration // simulated
	idle, live    time.Duration // real; 0 leaves the scheduler's CPU out
	judged        bool
}

// TestScale lets the probers of thousands of nodes publish through a real API server, with the rights, the admission policy and the
// rest of what manifests/ ships, and the real scheduler take it up.
func TestScale(t *testing.T) {
	steady := 30 * time.Minute
	if text := os.Getenv("MINUTES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("MINUTES=%q: want a number above 0", text)
		}
		steady = time.Duration(n) * time.Minute
	}
	sizes := []size{
		{nodes: 1000, start: 3 * time.Minute, steady: time.Minute},
		{nodes: 5000, start: 6 * time.Minute, steady: steady, idle: 30 * time.Second, live: time.Minute, judged: true},
	}
	if full {
		sizes = append(sizes, size{
			nodes: 15000, start: 6 * time.Minute, steady: steady, idle: 30 * time.Second, live: time.Minute, judged: true,
		})
	}
	t.Parallel()
	c := newCluster(t)
	putPolicy(t, c)
	var wrote []publishing
	var used []schedulerUse
	for _, s := range sizes {
		t.Run(fmt.Sprint(s.nodes), func(t *testing.T) {
			p, u := runSize(t, c, s)
			wrote, used = append(wrote, p), append(used, u)
			if s.judged {
				judge(t, p, u)
			}
		})
	}
	result.Lock()
	defer result.Unlock()
	result.Publishing, result.Scheduler = wrote, used
	t.Log("\n" + table(wrote, used))
}

func judge(t *testing.T, p publishing, u schedulerUse) {
	t.Helper()
	if p.WritesPerSecond > maxWritesPerSecond || p.WorstMinute > maxWritesPerSecond {
		t.Errorf("%.2f writes/s, %.2f in the worst minute, want at most %g", p.WritesPerSecond, p.WorstMinute, maxWritesPerSecond)
	}
	if p.BytesMost > maxBytes {
		t.Errorf("an object of %d bytes, want at most %d", p.BytesMost, maxBytes)
	}
	if p.Refused > 0 {
		t.Errorf("%d requests were refused", p.Refused)
	}
	if ingest := (u.Millicores - u.IdleMillicores) / 1000; ingest > maxIngest {
		t.Errorf("%.1f %% of a core for taking up reports, want at most %.0f %%", 100*ingest, 100*maxIngest)
	}
}

func table(wrote []publishing, used []schedulerUse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6s %22s %8s %8s %8s %8s %8s %8s %12s %9s\n",
		"nodes", "writes/s (worst min, s)", "age", "small", "large", "first", "start", "reads/s", "bytes (most)", "refused")
	for _, p := range wrote {
		fmt.Fprintf(&b, "%6d %8.2f (%6.2f, %4d) %8.2f %8.2f %8.2f %8.2f %8d %8.2f %5.0f (%4d) %9d\n",
			p.Nodes, p.WritesPerSecond, p.WorstMinute, p.WorstSecond, p.ByCause[publish.CauseAge], p.ByCause[publish.CauseSmall],
			p.ByCause[publish.CauseLarge], p.ByCause[publish.CauseFirst], p.StartWrites, p.ReadsPerSecond, p.BytesMean, p.BytesMost, p.Refused)
	}
	fmt.Fprintf(&b, "\n%6s %26s %26s %14s %6s %10s %8s %10s\n",
		"nodes", "memory without (live)", "with NodeLatency (live)", "measured pairs", "idle", "with writes", "writes/s", "ingesting")
	for _, u := range used {
		fmt.Fprintf(&b, "%6d %12.1f (%6.1f) MiB %12.1f (%6.1f) MiB %14.0f", u.Nodes, u.WithoutMiB, u.WithoutLiveMiB, u.WithMiB, u.WithLiveMiB, u.MeasuredPairs)
		if u.WritesPerSecond > 0 {
			fmt.Fprintf(&b, " %4.0f m %9.0f m %8.2f %8.2f %%", u.IdleMillicores, u.Millicores, u.WritesPerSecond, (u.Millicores-u.IdleMillicores)/10)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// putPolicy makes a policy about the gateways, so that everyone is to measure them.
func putPolicy(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if err := c.ApplyYAML(t.Context(), []byte(`
apiVersion: fogsched.dev/v1alpha1
kind: LatencyPolicy
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  clients: [{nodes: {matchLabels: {`+gatewayLabel+`: "true"}}}]
`)); err != nil {
		t.Fatal(err)
	}
}

func runSize(t *testing.T, c *cluster.Cluster, s size) (publishing, schedulerUse) {
	w := newWorld(s.nodes)
	begun := time.Now()
	step := func(format string, args ...any) {
		t.Logf("%5.1f s: %s", time.Since(begun).Seconds(), fmt.Sprintf(format, args...))
	}
	clearReports(t, c)
	addNodes(t, c, w)
	step("%d nodes", s.nodes)

	u := schedulerUse{Nodes: s.nodes}
	interest := withoutReports(t, c, w, &u)
	step("a scheduler without reports: %.1f MiB", u.WithoutMiB)

	server, err := rest.TransportFor(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	f, err := newFleet(t.Context(), w, c.URL(), server)
	if err != nil {
		t.Fatal(err)
	}
	p := publishing{Nodes: s.nodes, StartMinutes: s.start.Minutes(), Minutes: s.steady.Minutes()}
	f.run(t, func() error {
		pass := f.clock(s.start + s.steady)
		f.setInterest(interest)
		pass(s.start)
		_, requests := f.taken()
		p.StartWrites = len(writesOf(requests))
		step("%v simulated: the probers started, with %d writes", s.start, p.StartWrites)
		pass(s.steady)
		writes, requests := f.taken()
		p.sum(writes, requests, s)
		step("%v simulated: %.2f writes/s", s.steady, p.WritesPerSecond)
		err := withReports(t, c, f, s, &u)
		step("a scheduler with reports: %.1f MiB", u.WithMiB)
		return err
	})
	return p, u
}

func writesOf(requests []request) []request {
	var writes []request
	for _, r := range requests {
		if r.method != http.MethodGet && r.code < 300 {
			writes = append(writes, r)
		}
	}
	return writes
}

// sum makes the figures of the steady state.
func (p *publishing) sum(causes []write, requests []request, s size) {
	seconds := s.steady.Seconds()
	writes := writesOf(requests)
	p.WritesPerSecond = float64(len(writes)) / seconds
	bySecond, byMinute := map[int64]int{}, map[int64]int{}
	bytes, objects := 0, 0
	for _, r := range writes {
		bySecond[r.at.Unix()]++
		byMinute[r.at.Unix()/60]++
		if r.isState {
			bytes += r.bytes
			objects++
			p.BytesMost = max(p.BytesMost, r.bytes)
		}
	}
	p.WorstSecond = slices.Max(slices.Collect(maps.Values(bySecond)))
	p.WorstMinute = float64(slices.Max(slices.Collect(maps.Values(byMinute)))) / 60
	p.BytesMean = float64(bytes) / float64(objects)
	reads := 0
	for _, r := range requests {
		if r.method == http.MethodGet {
			reads++
		}
		if r.code >= 300 {
			p.Refused++
		}
	}
	p.ReadsPerSecond = float64(reads) / seconds
	p.ByCause = map[publish.Cause]float64{}
	for _, c := range causes {
		p.ByCause[c.cause] += 1 / seconds
	}
}

// clearReports deletes what was published.
func clearReports(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	err := c.Dynamic().Resource(schema.GroupVersionResource{Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: client.NodeLatencies}).
		DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// addNodes makes the Nodes that are not there yet.
func addNodes(t *testing.T, c *cluster.Cluster, w *world) {
	t.Helper()
	there, err := c.Client().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := len(there.Items)
	errs := make([]error, len(w.nodes))
	workqueue.ParallelizeUntil(t.Context(), parallelRequests, len(w.nodes)-have, func(k int) {
		i := have + k
		labels := map[string]string{
			corev1.LabelHostname: w.nodes[i].Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64", corev1.LabelTopologyZone: w.nodes[i].Zone,
		}
		if w.nodes[i].gateway {
			labels[gatewayLabel] = "true"
		}
		_, errs[i] = c.Client().CoreV1().Nodes().Create(t.Context(), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: w.nodes[i].Name, Labels: labels},
			Status: corev1.NodeStatus{
				Capacity: corev1.ResourceList{}, Allocatable: corev1.ResourceList{},
				Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: w.nodes[i].Addr.Addr().String()}},
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			},
		}, metav1.CreateOptions{})
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// startScheduler runs fogsched as it is shipped.
func startScheduler(ctx context.Context, c *cluster.Cluster) (*cluster.Scheduler, error) {
	shipped, err := c.Client().CoreV1().ConfigMaps(systemNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	config := ""
	for i := range shipped.Items {
		config += shipped.Items[i].Data["config.yaml"]
	}
	kubeconfig, err := c.ServiceAccountKubeconfig(ctx, systemNamespace, "fogsched")
	if err != nil {
		return nil, err
	}
	return c.StartScheduler(ctx, cluster.SchedulerOptions{
		Binary: "fogsched", Kubeconfig: kubeconfig, ConfigYAML: []byte(config),
		ExtraArgs: []string{"--authorization-always-allow-paths=/healthz,/livez,/readyz,/metrics,/debug/pprof/*"},
	})
}

// withoutReports measures a scheduler that knows the nodes and no more, and returns which nodes it wants measured.
func withoutReports(t *testing.T, c *cluster.Cluster, w *world, u *schedulerUse) []string {
	t.Helper()
	ctx := t.Context()
	s, err := startScheduler(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	var want, listed []string
	for _, n := range w.nodes {
		if n.gateway {
			want = append(want, n.Name)
		}
	}
	slices.Sort(want)
	if err := until(ctx, time.Minute, func() error {
		m, err := c.Client().CoreV1().ConfigMaps(systemNamespace).Get(ctx, interestMap, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if listed = strings.Fields(m.Data[v1alpha1.InterestKey]); !slices.Equal(listed, want) {
			return fmt.Errorf("the scheduler wants %v measured, which should be %v", listed, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if u.WithoutMiB, u.WithoutLiveMiB, err = memory(ctx, s, fmt.Sprintf("scheduler-%d-without.heap", len(w.nodes))); err != nil {
		t.Fatal(err)
	}
	return listed
}

// withReports measures a scheduler that knows what the fleet measured: while nothing is written, and while the fleet goes on, now
// in real time.
func withReports(t *testing.T, c *cluster.Cluster, f *fleet, size size, u *schedulerUse) error {
	ctx := t.Context()
	s, err := startScheduler(ctx, c)
	if err != nil {
		return err
	}
	defer s.Stop()
	if err := until(ctx, time.Minute, func() error {
		if u.MeasuredPairs, err = metric(ctx, s, "fogsched_store_measured_pairs"); err != nil {
			return err
		}
		if want := 8 * float64(size.nodes); u.MeasuredPairs < want {
			return fmt.Errorf("the scheduler knows %.0f pairs, which should be %.0f at least", u.MeasuredPairs, want)
		}
		return nil
	}); err != nil {
		return err
	}
	if size.live > 0 {
		before, err := usageOf(s.PID())
		if err != nil {
			return err
		}
		<-time.After(size.idle)
		from, err := usageOf(s.PID())
		if err != nil {
			return err
		}
		u.IdleMillicores = 1000 * cores(before, from)

		f.showAs(time.Now())
		f.taken()
		f.inRealTime(size.live)
		to, err := usageOf(s.PID())
		if err != nil {
			return err
		}
		_, requests := f.taken()
		u.Millicores = 1000 * cores(from, to)
		u.WritesPerSecond = float64(len(writesOf(requests))) / to.at.Sub(from.at).Seconds()
		if full {
			profiled := make(chan error, 1)
			go func() {
				profiled <- profile(ctx, s, fmt.Sprintf("profile?seconds=%.0f", size.live.Seconds()), fmt.Sprintf("scheduler-%d.cpu", size.nodes))
			}()
			f.inRealTime(size.live)
			if err := <-profiled; err != nil {
				return err
			}
		}
	}
	u.WithMiB, u.WithLiveMiB, err = memory(ctx, s, fmt.Sprintf("scheduler-%d.heap", size.nodes))
	return err
}

// memory returns what a scheduler has in memory, and what of it lives, of which it leaves a profile.
func memory(ctx context.Context, s *cluster.Scheduler, file string) (resident, live float64, err error) {
	u, err := usageOf(s.PID())
	if err != nil {
		return 0, 0, err
	}
	if err := profile(ctx, s, "heap?gc=1", file); err != nil {
		return 0, 0, err
	}
	live, err = metric(ctx, s, "go_memstats_heap_alloc_bytes")
	return mebibytes(u.resident), live / mib, err
}

// profile leaves a profile of the scheduler in the output folder.
func profile(ctx context.Context, s *cluster.Scheduler, which, file string) error {
	content, err := s.Get(ctx, "/debug/pprof/"+which)
	if err != nil {
		return err
	}
	dir, err := outDir()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644)
}

// metric reads a metric of a scheduler, without labels.
func metric(ctx context.Context, s *cluster.Scheduler, name string) (float64, error) {
	text, err := s.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	return metricOf(text, name)
}

// metricOf finds a metric without labels.
func metricOf(text, name string) (float64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

// until waits until a check returns nil.
func until(ctx context.Context, patience time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}
