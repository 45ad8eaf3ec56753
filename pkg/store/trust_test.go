// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/source/zones"
)

// logged returns a context whose logger keeps what it is told, and a function that returns that.
func logged() (context.Context, func() string) {
	logger := ktesting.NewLogger(ktesting.NopTL{}, ktesting.NewConfig(ktesting.BufferLogs(true)))
	buffer := logger.GetSink().(ktesting.Underlier).GetBuffer()
	return klog.NewContext(context.Background(), logger), buffer.String
}

// rejected returns how many samples of a source were rejected for a reason.
func rejected(source string, reason latency.Reason) float64 {
	return testutil.ToFloat64(metrics.SamplesRejected.WithLabelValues(source, string(reason)))
}

func coordinatesRejected(source string, reason latency.Reason) float64 {
	return testutil.ToFloat64(metrics.CoordinatesRejected.WithLabelValues(source, string(reason)))
}

// sample is a good one of so many milliseconds.
func sample(from, to string, ms float64, at time.Time) latency.Sample {
	return latency.Sample{From: from, To: to, Typical: ms / 1000, Tail: ms / 500, At: at, Count: 9}
}

func lost(from, to string, at time.Time) latency.Sample {
	return latency.Sample{From: from, To: to, Failed: true, Lost: 9, At: at}
}

func TestTheRefreshIntervalLengthensLife(t *testing.T) {
	tests := map[string]struct{ refresh, wantLife time.Duration }{
		"not said":               {0, 5 * time.Minute},
		"a minute":               {time.Minute, 6 * time.Minute},
		"eight minutes":          {8 * time.Minute, 13 * time.Minute},
		"half an hour":           {30 * time.Minute, 35 * time.Minute},
		"no more than that":      {24 * time.Hour, 35 * time.Minute},
		"nonsense is not said":   {-time.Hour, 5 * time.Minute},
		"the least that is said": {1, 5*time.Minute + 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			now := time.Now().Truncate(time.Second)
			s := New(5*time.Minute, nil)
			nodes(s, "a", "b")
			at := now.Add(-time.Minute)
			s.Take("life", "a", latency.Report{Refresh: tt.refresh, Samples: []latency.Sample{sample("a", "b", 20, at)}}, now)
			s.Build(t.Context(), at.Add(tt.wantLife))
			wantEstimate(t, "at the end of its life", s, "a", "b", "20ms 40ms measured")
			s.Build(t.Context(), at.Add(tt.wantLife+2*time.Millisecond))
			wantEstimate(t, "after its life", s, "a", "b", "unknown")

			s.Take("life", "a", latency.Report{Refresh: tt.refresh, Samples: []latency.Sample{sample("a", "b", 20, now.Add(-tt.wantLife-time.Second))}}, now)
			s.Build(t.Context(), now)
			wantEstimate(t, "dead at its arrival", s, "a", "b", "unknown")
		})
	}
}

func TestLostIsNotMissing(t *testing.T) {
	table, err := zones.Parse([]byte("{within: {zone: 7ms}}"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	here := latency.NetworkCoordinate{Height: 10_000, Error: 0.1}
	tests := map[string]struct {
		table *zones.Table
		a, b  latency.Report
		want  string
	}{
		"missing, with zones":                  {table: table, want: "7ms unknown zone"},
		"missing, with coordinates":            {want: "20ms unknown coordinate"},
		"lost, with zones":                     {table: table, a: report(lost("a", "b", now)), want: "unknown"},
		"lost from the other end":              {table: table, b: report(lost("b", "a", now)), want: "unknown"},
		"lost, with coordinates":               {a: report(lost("a", "b", now)), want: "unknown"},
		"lost, at a time that nobody says":     {table: table, a: report(lost("a", "b", time.Time{})), want: "unknown"},
		"lost, at a time to come":              {table: table, a: report(lost("a", "b", now.Add(time.Hour))), want: "unknown"},
		"lost, long ago":                       {table: table, a: report(lost("a", "b", now.Add(-time.Hour))), want: "7ms unknown zone"},
		"of a node to itself":                  {table: table, a: report(lost("a", "a", now)), want: "7ms unknown zone"},
		"lost, and measured from the other":    {table: table, a: report(lost("a", "b", now)), b: report(sample("b", "a", 30, now)), want: "30ms 60ms reverse"},
		"measured, and lost from the other":    {table: table, a: report(sample("a", "b", 30, now)), b: report(lost("b", "a", now)), want: "30ms 60ms measured"},
		"measured long before the other lost":  {table: table, a: report(sample("a", "b", 30, now.Add(-3*time.Minute))), b: report(lost("b", "a", now)), want: "unknown"},
		"the same, by one who reports seldom":  {table: table, a: latency.Report{Refresh: 8 * time.Minute, Samples: []latency.Sample{sample("a", "b", 30, now.Add(-3*time.Minute))}}, b: report(lost("b", "a", now)), want: "30ms 60ms measured"},
		"an RTT that the source calls failed":  {table: table, a: report(latency.Sample{From: "a", To: "b", Typical: 0.001, Failed: true, At: now}), want: "unknown"},
		"starved, with zones":                  {table: table, a: latency.Report{Starved: true, Samples: []latency.Sample{sample("a", "b", 30, now)}}, want: "unknown"},
		"starved, and measured from the other": {table: table, a: latency.Report{Starved: true, Samples: []latency.Sample{sample("a", "b", 30, now)}}, b: report(sample("b", "a", 20, now)), want: "20ms 40ms reverse"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := New(5*time.Minute, tt.table)
			for _, n := range []string{"a", "b"} {
				s.SetNode(n, zones.Location{Zone: "x"}, "")
			}
			tt.a.Coordinate, tt.b.Coordinate = &here, &here
			s.Take("lost", "a", tt.a, now)
			s.Take("lost", "b", tt.b, now)
			s.Build(t.Context(), now)
			wantEstimate(t, "", s, "a", "b", tt.want)
			swapped := strings.NewReplacer("measured", "reverse", "reverse", "measured").Replace(tt.want)
			wantEstimate(t, "the other way", s, "b", "a", swapped)
		})
	}
}

func TestALossExpires(t *testing.T) {
	table, err := zones.Parse([]byte("{within: {zone: 7ms}}"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	s := New(5*time.Minute, table)
	for _, n := range []string{"a", "b"} {
		s.SetNode(n, zones.Location{Zone: "x"}, "")
	}
	s.Take("loss", "a", report(lost("a", "b", now.Add(time.Hour))), now) // by a clock that is ahead
	expired := rejected("loss", latency.ReasonExpired)
	s.Build(t.Context(), now.Add(5*time.Minute))
	wantEstimate(t, "while it counts", s, "a", "b", "unknown")
	s.Build(t.Context(), now.Add(6*time.Minute))
	wantEstimate(t, "when nobody says so any more", s, "a", "b", "7ms unknown zone")
	if got := rejected("loss", latency.ReasonExpired) - expired; got != 0 {
		t.Errorf("%g samples expired; a loss is none", got)
	}
}

func TestTwoSourcesOfOneNode(t *testing.T) {
	now := time.Now()
	s := New(5*time.Minute, nil)
	nodes(s, "a", "b", "c", "d")
	s.Take("one", "a", report(lost("a", "b", now), sample("a", "c", 10, now.Add(-time.Minute)), sample("a", "x", 1, now)), now)
	s.Take("two", "a", report(sample("a", "b", 20, now.Add(-time.Minute)), sample("a", "c", 30, now), sample("a", "d", 40, now)), now)
	s.Build(t.Context(), now)
	wantEstimate(t, "one lost and the other measured", s, "a", "b", "20ms 40ms measured")
	wantEstimate(t, "the newer", s, "a", "c", "30ms 60ms measured")
	wantEstimate(t, "of one alone", s, "a", "d", "40ms 80ms measured")
	s.Take("two", "a", latency.Report{}, now)
	s.Build(t.Context(), now)
	wantEstimate(t, "one withdrew", s, "a", "b", "unknown")
	wantEstimate(t, "one withdrew", s, "a", "c", "10ms 20ms measured")
	nodes(s, "x")
	s.Build(t.Context(), now)
	wantEstimate(t, "a node came", s, "a", "x", "1ms 2ms measured")
	wantEstimate(t, "and the numbers with it", s, "a", "c", "10ms 20ms measured")
}

func TestCoordinates(t *testing.T) {
	now := time.Now()
	s := New(5*time.Minute, nil)
	nodes(s, "a", "b", "c")
	here := latency.NetworkCoordinate{Height: 10_000, Error: 0.15}
	r := latency.Report{Coordinate: &here}
	s.Take("coordinates", "a", r, now)
	s.Take("coordinates", "b", r, now)
	s.Build(t.Context(), now)
	wantEstimate(t, "nobody measured", s, "a", "b", "20ms unknown coordinate")
	wantEstimate(t, "one has none", s, "a", "c", "unknown")
	if got := testutil.ToFloat64(metrics.Coordinates); got != 2 {
		t.Errorf("%g coordinates are in use, want 2", got)
	}
	if measured, _ := s.Snapshot().Coverage(); measured != 0 {
		t.Error("an estimate counts as measured")
	}
	s.Take("coordinates", "a", latency.Report{Coordinate: &here, Samples: []latency.Sample{sample("a", "b", 50, now)}}, now)
	s.Build(t.Context(), now)
	wantEstimate(t, "a measurement stands above it", s, "b", "a", "50ms 100ms reverse")
	wantEstimate(t, "and others are estimated as before", s, "a", "c", "unknown")

	s.Build(t.Context(), now.Add(5*time.Minute+time.Second))
	wantEstimate(t, "it expires", s, "a", "b", "unknown")
	if s.Take("coordinates", "b", latency.Report{}, now); len(s.reporters) != 0 {
		t.Errorf("the store still keeps %d reporters", len(s.reporters))
	}

	// An old object that is read again does not come to life.
	s.Take("coordinates", "a", latency.Report{Coordinate: &here, Samples: []latency.Sample{sample("a", "c", 50, now.Add(-4*time.Minute))}}, now)
	s.Take("coordinates", "b", r, now)
	s.Build(t.Context(), now)
	wantEstimate(t, "with old measurements", s, "a", "b", "20ms unknown coordinate")
	s.Build(t.Context(), now.Add(2*time.Minute))
	wantEstimate(t, "it goes with them", s, "a", "b", "unknown")

	for reason, change := range map[latency.Reason]func(*latency.Report){
		latency.ReasonNaN:         func(r *latency.Report) { r.Coordinate.Vector[0] /= r.Coordinate.Vector[0] },
		latency.ReasonTooLarge:    func(r *latency.Report) { r.Coordinate.Vector[0] = 1e9 },
		latency.ReasonNotPositive: func(r *latency.Report) { r.Coordinate.Height = -1 },
		latency.ReasonStarved:     func(r *latency.Report) { r.Starved = true },
		latency.ReasonInaccurate:  func(r *latency.Report) { r.Coordinate.Error = 1 },
	} {
		before := coordinatesRejected("coordinates", reason)
		c := here
		bad := latency.Report{Coordinate: &c}
		change(&bad)
		s.Take("coordinates", "a", bad, now)
		s.Take("coordinates", "b", r, now)
		s.Build(t.Context(), now)
		s.Build(t.Context(), now)
		wantEstimate(t, string(reason), s, "a", "b", "unknown")
		if got := coordinatesRejected("coordinates", reason) - before; got != 1 {
			t.Errorf("%g were rejected as %s, want 1", got, reason)
		}
	}
}

// ring has n nodes of which each measured all others at 20 ms. say changes what one says.
func ring(s *Store, n int, now time.Time, say func(from, to int) float64) {
	for i := range n {
		nodes(s, fmt.Sprint("n", i))
	}
	for i := range n {
		var r latency.Report
		for j := range n {
			if ms := say(i, j); i != j && ms > 0 {
				r.Samples = append(r.Samples, sample(fmt.Sprint("n", i), fmt.Sprint("n", j), ms, now))
			}
		}
		s.Take("ring", fmt.Sprint("n", i), r, now)
	}
}

func honest(int, int) float64 { return 20 }

// liar understates all distances of node 3.
func liar(from, _ int) float64 {
	if from == 3 {
		return 1
	}
	return 20
}

func TestALiarIsDistrustedAtOnce(t *testing.T) {
	ctx, log := logged()
	now := time.Now()
	s := New(5*time.Minute, nil)
	before := rejected("ring", latency.ReasonDistrusted)
	ring(s, 6, now, liar)
	nodes(s, "n6") // of which only the liar says anything
	s.Take("ring", "n3", report(sample("n3", "n6", 1, now), sample("n3", "n0", 1, now), sample("n3", "n1", 1, now), sample("n3", "n2", 1, now)), now)
	for range 3 {
		s.Build(ctx, now)
	}
	wantEstimate(t, "what others measured of it stays", s, "n3", "n0", "20ms 40ms reverse")
	wantEstimate(t, "what it says is left out", s, "n3", "n6", "unknown")
	wantEstimate(t, "others", s, "n0", "n1", "20ms 40ms measured")
	if got := testutil.ToFloat64(metrics.DistrustedNodes); got != 1 {
		t.Errorf("%g nodes are distrusted, want 1", got)
	}
	if got := rejected("ring", latency.ReasonDistrusted) - before; got != 4 {
		t.Errorf("%g samples were counted as distrusted, want each once: 4", got)
	}
	if got := log(); strings.Count(got, "most others contradict it") != 1 || !strings.Contains(got, `node="n3"`) {
		t.Errorf("the log has not one line on n3:\n%s", got)
	}
	ring(s, 6, now, honest)
	s.Build(ctx, now)
	s.Build(ctx, now)
	wantEstimate(t, "it is honest again", s, "n3", "n0", "20ms 40ms measured")
	if got := log(); strings.Count(got, "most others agree with it") != 1 || testutil.ToFloat64(metrics.DistrustedNodes) != 0 {
		t.Errorf("it is not rehabilitated once:\n%s", got)
	}
}

// TestANodeWhoseNetworkChanged: its peers' reports are behind; until they had the time to write again it is no liar.
func TestANodeWhoseNetworkChanged(t *testing.T) {
	ctx, log := logged()
	now := time.Now()
	s := New(5*time.Minute, nil)
	ring(s, 6, now, honest)
	s.Build(ctx, now)
	slower := func(from, _ int) float64 {
		if from == 3 {
			return 80
		}
		return 20
	}
	ring(s, 6, now, slower)
	s.Build(ctx, now.Add(time.Second))
	wantEstimate(t, "a change to the worse counts at once", s, "n0", "n3", "80ms 160ms reverse")
	s.Build(ctx, now.Add(grace))
	if strings.Contains(log(), "contradict") {
		t.Errorf("it is taken for a liar at once:\n%s", log())
	}
	later := now.Add(grace + 2*time.Second)
	s.Build(ctx, later)
	if !strings.Contains(log(), "contradict") {
		t.Error("its peers had the time to agree, and did not: it should be left out")
	}
	wantEstimate(t, "and then what they measured counts", s, "n0", "n3", "20ms 40ms measured")
}

func TestWhatIsNotBelievedIsCountedOnce(t *testing.T) {
	now := time.Now()
	s := New(5*time.Minute, nil)
	// n3 alone measured n0, which the others rule out: they are all at 20 ms from n3, and at 200 ms from n0.
	claim := func(from, to int) float64 {
		switch {
		case from == 3 && to == 0:
			return 10
		case from == 0 && to == 3:
			return 0
		case from == 0 || to == 0:
			return 200
		}
		return 20
	}
	before := rejected("ring", latency.ReasonImplausible)
	ring(s, 6, now, claim)
	for range 3 {
		s.Build(t.Context(), now)
	}
	nodes(s, "another")
	s.Build(t.Context(), now)
	wantEstimate(t, "it is not corrected", s, "n3", "n0", "unknown")
	if got := rejected("ring", latency.ReasonImplausible) - before; got != 1 {
		t.Errorf("it was counted %g times, want once", got)
	}
	ring(s, 6, now, claim)
	s.Build(t.Context(), now)
	if got := rejected("ring", latency.ReasonImplausible) - before; got != 2 {
		t.Errorf("said again it was counted %g times, want twice", got)
	}
	if got := testutil.ToFloat64(metrics.DistrustedNodes); got != 0 {
		t.Errorf("one claim of five makes %g nodes distrusted", got)
	}
}

func TestPositions(t *testing.T) {
	ctx, log := logged()
	now := time.Now()
	s := New(5*time.Minute, nil)
	before := rejected("ring", latency.ReasonFasterThanLight)
	ring(s, 6, now, honest)
	// 10° of latitude are 1112 km, 11.1 ms there and back; 27° are 30 ms.
	for i, position := range []string{"0,0", "10,0", "27,0", "0;5", "", "5,0"} {
		s.SetNode(fmt.Sprint("n", i), zones.Location{}, position)
		s.SetNode(fmt.Sprint("n", i), zones.Location{}, position)
	}
	s.Build(ctx, now)
	s.Build(ctx, now)
	wantEstimate(t, "possible", s, "n0", "n1", "20ms 40ms measured")
	wantEstimate(t, "faster than light", s, "n0", "n2", "unknown")
	wantEstimate(t, "of a node without a position", s, "n2", "n4", "20ms 40ms measured")
	wantEstimate(t, "of a node with a bad one", s, "n2", "n3", "20ms 40ms measured")
	if got := rejected("ring", latency.ReasonFasterThanLight) - before; got != 4 {
		t.Errorf("%g samples are faster than light, want 4: n0 ⇄ n2 and n5 ⇄ n2", got)
	}
	if got := log(); strings.Count(got, "Ignoring the position") != 1 || !strings.Contains(got, "latitude and longitude in degrees") || !strings.Contains(got, `node="n3"`) {
		t.Errorf("the log has not one line with the mend of n3's position:\n%s", got)
	}
	// A position that cannot be true is the position's fault, not that of all who measured the node.
	s.SetNode("n4", zones.Location{}, "-60,180")
	s.Build(ctx, now)
	s.Build(ctx, now)
	wantEstimate(t, "of a misplaced node", s, "n1", "n4", "20ms 40ms measured")
	if got := log(); strings.Count(got, "faster than light could get there") != 1 || !strings.Contains(got, `node="n4" position="-60,180"`) {
		t.Errorf("the log has not one line on n4's position:\n%s", got)
	}
	s.SetNode("n2", zones.Location{}, "10,5")
	s.Build(ctx, now)
	wantEstimate(t, "a position that was mended", s, "n0", "n2", "20ms 40ms measured")
}

// TestRunPausesAsLongAsItTakes: what building costs bounds how often it is done, and who waits for a snapshot gets one at once.
func TestRunPausesAsLongAsItTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes := 50 * time.Millisecond
		s := New(time.Hour, nil)
		var pause atomic.Int64
		pause.Store(int64(takes))
		var built atomic.Int64
		s.Subscribe(func(*latency.Snapshot) {
			time.Sleep(time.Duration(pause.Load()))
			built.Add(1)
		})
		run(t, s)
		change := 0
		dirty := func() { change++; s.SetNode(fmt.Sprint(change), zones.Location{}, "") }
		after := func(do func(), wait time.Duration) int64 {
			n := built.Load()
			do()
			time.Sleep(wait)
			synctest.Wait()
			return built.Load() - n
		}
		after(func() {}, time.Second) // the first
		if got := after(func() {}, time.Second); got != 0 {
			t.Errorf("%d snapshots although nothing changed", got)
		}
		if got := after(dirty, 40*takes); got != 0 {
			t.Errorf("%d snapshots within %v of a change, want none", got, 40*takes)
		}
		if got := after(func() {}, 2*takes); got != 1 {
			t.Errorf("%d snapshots soon after that, want 1", got)
		}
		if got := after(s.Rebuild, 2*takes); got != 1 {
			t.Errorf("%d snapshots when one is wanted, want 1 at once", got)
		}
		if got := after(func() { dirty(); time.Sleep(time.Millisecond); s.Rebuild() }, 2*takes); got != 1 {
			t.Errorf("%d snapshots when one is wanted after a change, want 1 at once", got)
		}
		takes = time.Minute
		pause.Store(int64(takes))
		after(s.Rebuild, takes+time.Second)
		if got := after(dirty, maxSettle+takes+time.Second); got != 1 {
			t.Errorf("%d snapshots, want 1: nobody waits longer than %v", got, maxSettle)
		}
	})
}

func TestPanicsAreRecovered(t *testing.T) {
	ctx, log := logged()
	now := time.Now()
	s := New(5*time.Minute, nil)
	panics := testutil.ToFloat64(metrics.Panics.WithLabelValues("NodeLatency", "store"))
	nodes(s, "a", "b")
	s.Build(ctx, now)
	last := s.Snapshot()
	s.reporters["a"] = nil
	s.Build(ctx, now)
	if s.Snapshot() != last || !strings.Contains(log(), "the last one stays") {
		t.Errorf("the last snapshot is gone, or nobody was told:\n%s", log())
	}
	delete(s.reporters, "a")
	s.nodes = nil
	s.reporters = nil
	s.Sink("panic")("a", report(sample("a", "b", 20, now)))
	if got := testutil.ToFloat64(metrics.Panics.WithLabelValues("NodeLatency", "store")) - panics; got != 2 {
		t.Errorf("%g panics were counted, want 2", got)
	}
}

func TestNamesAreKeptOnce(t *testing.T) {
	now := time.Now()
	s := New(5*time.Minute, nil)
	nodes(s, "a", "b")
	s.Take("names", "a", report(sample("a", strings.Clone("b"), 20, now), sample("a", "b", 10, now.Add(-time.Second)), sample("a", "b", 1, now.Add(-time.Minute))), now)
	if got := s.reporters["a"].said[0].to; !cmp.Equal(got, []string{"b"}) {
		t.Errorf("to %v, want b", got)
	}
	s.Build(t.Context(), now)
	wantEstimate(t, "the newest of one report", s, "a", "b", "20ms 40ms measured")
}
