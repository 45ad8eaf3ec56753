// SPDX-License-Identifier: Apache-2.0

//go:build linux && !race

package nodelatency

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/latency"
)

// maxDelay is the bar: a new snapshot delays no scheduling cycle by more.
const maxDelay = time.Millisecond

// TestSnapshotDelaysNoCycle runs cycles of the plugin, PreFilter to NormalizeScore, one after the other at 15,000 nodes, while snapshots are built and
// swapped in beside; and, to compare, while another thread only burns as much CPU time.
//
// What a snapshot can do to a cycle is three things, and each is looked at by what it would be seen in:
//   - work that the cycle has to do because the snapshot is new, or for the garbage collector: in the CPU time of the cycle's thread;
//   - waiting for a lock that the builder holds: in the block profile, which must have nothing of a cycle;
//   - having fewer cores: in the wall time, which is that of any other load, and no bar of the plugin's. Both are printed.
//
// On a machine that others use the CPU time of one cycle may be off at any time: caches are shared, and a hypervisor takes what it wants. So of each
// snapshot the largest counts, and of these the median: what a snapshot does it does every time. And it is compared with the same of the other load.
func TestSnapshotDelaysNoCycle(t *testing.T) {
	const nodes, snapshots = 15000, 12
	d := newDelayed(t, nodes)
	runtime.SetBlockProfileRate(1)
	defer runtime.SetBlockProfileRate(0)

	var building time.Duration
	beside := d.run(t, snapshots, func(i int) {
		start := threadCPU()
		d.snapshot(t, i)
		building += (threadCPU() - start) / snapshots
	})
	burnt := d.run(t, snapshots, func(int) {
		for start := threadCPU(); threadCPU()-start < building; {
		}
	})
	usual := quantile(burnt.cpu(), 0.5)

	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "beside a cycle\tcycles\tCPU p50\tp99\tmax\twall p50\tp99\tmax\tmost of each, median: CPU\twall\t")
	for _, r := range []struct {
		name string
		*cycles
	}{{fmt.Sprintf("a snapshot, %v of CPU", building.Round(time.Millisecond)), beside}, {"as much CPU time", burnt}} {
		cpu, wall := r.cpu(), r.wall()
		fmt.Fprintf(w, "%s\t%d\t%v\t%v\t%v\t%v\t%v\t%v\t+%v\t+%v\t\n", r.name, len(cpu), quantile(cpu, 0.5), quantile(cpu, 0.99), quantile(cpu, 1),
			quantile(wall, 0.5), quantile(wall, 0.99), quantile(wall, 1),
			r.largest(t, snapshots, func(c *cycle) time.Duration { return c.cpu })-usual,
			r.largest(t, snapshots, func(c *cycle) time.Duration { return c.wall })-quantile(burnt.wall(), 0.5))
	}
	_ = w.Flush()
	t.Log("\n" + b.String())

	ofCPU := func(c *cycle) time.Duration { return c.cpu }
	if got := beside.largest(t, snapshots, ofCPU) - burnt.largest(t, snapshots, ofCPU); got > maxDelay {
		t.Errorf("a cycle works %v more beside a new snapshot, want at most %v", got, maxDelay)
	}
	for _, stack := range blocked(t, "(*delayed).cycle") {
		t.Errorf("a cycle waits:\n%s", stack)
	}
	if serials := beside.serials(); serials < snapshots {
		t.Errorf("the cycles saw %d snapshots of %d", serials, snapshots)
	}
}

// delayed is a cluster whose nodes lie on a plane, with the plugin narrowing.
type delayed struct {
	*bench
	narrowed *NodeLatency
	names    []string
	byName   map[string]fwk.NodeInfo
	x, y     []float64
	targets  []int
	rng      *rand.Rand
}

func newDelayed(t *testing.T, nodes int) *delayed {
	d := &delayed{
		bench: sized(t, nodes, 10, "ScheduleAnyway"), byName: map[string]fwk.NodeInfo{}, x: make([]float64, nodes), y: make([]float64, nodes),
		rng: rand.New(rand.NewPCG(3, 4)),
	}
	for i, ni := range d.infos {
		d.names = append(d.names, ni.Node().Name)
		d.byName[ni.Node().Name] = ni
		d.x[i], d.y[i] = 0.1*d.rng.Float64(), 0.1*d.rng.Float64()
	}
	c := &cycleState{}
	d.plugin.PreFilter(context.Background(), c, d.pod, d.infos)
	for n := range allTargets(d.plugin.read(c)) {
		d.targets = append(d.targets, int(n)) // the names are in the order of the numbers
	}
	for i := range d.names {
		d.report(i)
	}
	d.refresh()
	d.narrowed = narrowing100(d.bench)
	return d
}

// report reports what one node measured: the targets, and 16 others by chance.
func (d *delayed) report(i int) {
	now := time.Now()
	c := latency.CoordinateFromSeconds([]float64{d.x[i], d.y[i], 0, 0, 0, 0, 0, 0}, 0.0005, 0, 0.2)
	r := latency.Report{Coordinate: &c, Refresh: 8 * time.Minute}
	peers := slices.Clone(d.targets)
	for range 16 {
		peers = append(peers, d.rng.IntN(len(d.names)))
	}
	for _, j := range peers {
		if j == i {
			continue
		}
		s := (0.001 + math.Hypot(d.x[i]-d.x[j], d.y[i]-d.y[j])) * (1 + 0.05*d.rng.Float64())
		r.Samples = append(r.Samples, latency.Sample{From: d.names[i], To: d.names[j], Typical: s, Tail: 1.5 * s, At: now, Count: 10})
	}
	d.plugin.engine.store.Take("bench", d.names[i], r, now)
}

// snapshot is a new one, after 30 nodes reported.
func (d *delayed) snapshot(t *testing.T, i int) {
	for k := range 30 {
		d.report((30*i + k) * 7919 % len(d.names))
	}
	d.plugin.engine.store.Build(t.Context(), time.Now())
}

// cycle is what one scheduling cycle took.
type cycle struct {
	cpu, wall time.Duration
	serial    uint64 // of its snapshot
	beside    int    // what ran beside it, from 0; -1: nothing
}

type cycles []cycle

// cycle runs one.
func (d *delayed) cycle(t *testing.T, scores fwk.NodeScoreList, infos []fwk.NodeInfo) cycle {
	ctx := context.Background()
	c := &cycleState{}
	start, startCPU := time.Now(), threadCPU()
	result, _ := d.narrowed.PreFilter(ctx, c, d.pod, d.infos)
	infos = infos[:0]
	for name := range result.NodeNames {
		infos = append(infos, d.byName[name])
	}
	if status := d.narrowed.PreScore(ctx, c, d.pod, infos); !status.IsSuccess() {
		t.Fatal(status)
	}
	for i, ni := range infos {
		scores[i].Score, _ = d.narrowed.Score(ctx, c, d.pod, ni)
	}
	d.narrowed.NormalizeScore(ctx, c, d.pod, scores[:len(infos)])
	return cycle{cpu: threadCPU() - startCPU, wall: time.Since(start), serial: d.narrowed.read(c).snap.Serial()}
}

// run runs cycles while other runs so many times on another thread, and between.
func (d *delayed) run(t *testing.T, times int, other func(i int)) *cycles {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	runtime.GC()
	const rest = 60 * time.Millisecond
	var beside atomic.Int32
	beside.Store(-1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for i := range times {
			time.Sleep(rest) // cycles with nothing beside them, and for those that still are of what ran before
			beside.Store(int32(i))
			other(i)
		}
		time.Sleep(rest)
	}()
	all := make(cycles, 0, 100_000)
	scores, infos := make(fwk.NodeScoreList, 100), make([]fwk.NodeInfo, 0, 100)
	for {
		select {
		case <-done:
			return &all
		default:
		}
		i := int(beside.Load()) // before the cycle: one during which it begins belongs to what was before, and is one of many
		c := d.cycle(t, scores, infos)
		c.beside = i
		all = append(all, c)
	}
}

func (c *cycles) cpu() []time.Duration {
	return c.all(func(c *cycle) time.Duration { return c.cpu })
}

func (c *cycles) wall() []time.Duration {
	return c.all(func(c *cycle) time.Duration { return c.wall })
}

func (c *cycles) all(of func(*cycle) time.Duration) (list []time.Duration) {
	for i := range *c {
		list = append(list, of(&(*c)[i]))
	}
	slices.Sort(list)
	return list
}

// largest returns the median over all that ran beside of the largest of their cycles. The cycles after it, before the next, count as well.
func (c *cycles) largest(t *testing.T, times int, of func(*cycle) time.Duration) time.Duration {
	t.Helper()
	most := make([]time.Duration, times)
	for i := range *c {
		if k := &(*c)[i]; k.beside >= 0 {
			most[k.beside] = max(most[k.beside], of(k))
		}
	}
	slices.Sort(most)
	if most[0] == 0 {
		t.Fatal("something ran and no cycle beside it")
	}
	return quantile(most, 0.5)
}

// serials is how many snapshots the cycles saw after the first.
func (c *cycles) serials() int {
	seen := map[uint64]bool{}
	for i := range *c {
		seen[(*c)[i].serial] = true
	}
	return len(seen) - 1
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))].Round(100 * time.Nanosecond)
}

// blocked returns the stacks of a function that waited for a lock or a channel.
func blocked(t *testing.T, function string) (stacks []string) {
	t.Helper()
	records := make([]runtime.BlockProfileRecord, 10_000)
	n, ok := runtime.BlockProfile(records)
	if !ok {
		t.Fatalf("the block profile has %d records", n)
	}
	for i := range records[:n] {
		var b strings.Builder
		frames := runtime.CallersFrames(records[i].Stack())
		for {
			f, more := frames.Next()
			fmt.Fprintf(&b, "\t%s (%s:%d)\n", f.Function, f.File, f.Line)
			if !more {
				break
			}
		}
		if strings.Contains(b.String(), function) {
			stacks = append(stacks, fmt.Sprintf("%d times:\n%s", records[i].Count, &b))
		}
	}
	return stacks
}

// threadCPU is the CPU time of the calling thread.
func threadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}
