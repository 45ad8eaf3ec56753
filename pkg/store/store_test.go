// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/source/zones"
)

// run runs the store for the length of a synctest bubble and returns a function that lets it catch up.
func run(t *testing.T, s *Store) (settled func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() {
		time.Sleep(2 * settle)
		synctest.Wait()
	}
}

func nodes(s *Store, names ...string) {
	for _, n := range names {
		s.SetNode(n, zones.Location{}, "")
	}
}

// taken is a good sample of 20 ms, and of 35 ms in the tail, that is so old.
func taken(from, to string, age time.Duration) latency.Sample {
	return latency.Sample{From: from, To: to, Typical: 0.020, Tail: 0.035, At: time.Now().Add(-age), Count: 10}
}

// report says samples and nothing else.
func report(samples ...latency.Sample) latency.Report { return latency.Report{Samples: samples} }

// estimate prints what a snapshot knows of a pair: "20ms 35ms measured".
func estimate(t *testing.T, snap *latency.Snapshot, from, to string) string {
	t.Helper()
	a, ok := snap.Index(from)
	b, okB := snap.Index(to)
	if !ok || !okB {
		return "no such node"
	}
	e := snap.Estimate(a, b)
	if e.Provenance == latency.Unknown {
		if e != (latency.Estimate{}) {
			t.Errorf("an unknown pair has something: %+v", e)
		}
		return "unknown"
	}
	return fmt.Sprintf("%s %s %s", e.Typical, e.Tail, e.Provenance)
}

func wantEstimate(t *testing.T, step string, s *Store, from, to, want string) {
	t.Helper()
	if got := estimate(t, s.Snapshot(), from, to); got != want {
		t.Errorf("%s: %s → %s is %s, want %s", step, from, to, got, want)
	}
}

func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(5*time.Minute, nil)
		if s.Snapshot() == nil || s.Snapshot().Len() != 0 {
			t.Fatalf("before Run the snapshot is %v", s.Snapshot())
		}
		settled := run(t, s)
		sink := s.Sink("test")
		nodes(s, "a", "b", "c")
		settled()
		wantEstimate(t, "at first", s, "a", "b", "unknown")

		sink("a", report(taken("a", "b", 0), taken("a", "c", 0)))
		settled()
		wantEstimate(t, "reported", s, "a", "b", "20ms 35ms measured")
		wantEstimate(t, "reported, the other way", s, "b", "a", "20ms 35ms reverse")
		wantEstimate(t, "reported by nobody", s, "b", "c", "unknown")

		closer := taken("a", "b", 0)
		closer.Typical = 0.010
		sink("a", report(closer))
		settled()
		wantEstimate(t, "a report replaces the last", s, "a", "b", "10ms 35ms measured")
		wantEstimate(t, "what it does not have is withdrawn", s, "a", "c", "unknown")

		sink("a", latency.Report{})
		settled()
		wantEstimate(t, "an empty report withdraws all", s, "a", "b", "unknown")

		sink("a", report(taken("a", "b", 0)))
		sink("a", report(latency.Sample{From: "a", To: "b", Failed: true}))
		settled()
		wantEstimate(t, "a failed probe is unknown, not the value before", s, "a", "b", "unknown")
	})
}

// TestTheReporterIsWhoReports: a sample that names another node is not his.
func TestTheReporterIsWhoReports(t *testing.T) {
	s := New(5*time.Minute, nil)
	nodes(s, "a", "b", "c")
	s.Take("test", "a", report(taken("b", "a", 0), taken("b", "c", 0)), time.Now())
	s.Build(t.Context(), time.Now())
	wantEstimate(t, "of the one that is named", s, "b", "c", "unknown")
	wantEstimate(t, "of the one that reports", s, "a", "c", "20ms 35ms measured")
	if measured, _ := s.Snapshot().Coverage(); measured != 1 || s.Snapshot().MeasuredBy(0) != 1 {
		t.Errorf("%d pairs are measured, %d by a; want the one", measured, s.Snapshot().MeasuredBy(0))
	}
}

func TestNewestOfTwoSourcesWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(5*time.Minute, nil)
		settled := run(t, s)
		nodes(s, "a", "b")
		old, young := taken("a", "b", time.Minute), taken("a", "b", time.Second)
		old.Typical = 0.001
		s.Sink("young")("a", report(young))
		s.Sink("old")("a", report(old))
		settled()
		wantEstimate(t, "both", s, "a", "b", "20ms 35ms measured")
		s.Sink("young")("a", latency.Report{})
		settled()
		wantEstimate(t, "one withdrew", s, "a", "b", "1ms 35ms measured")
	})
}

func TestExpiryByTheSamplesAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxAge = 5 * time.Minute
		s := New(maxAge, nil)
		settled := run(t, s)
		nodes(s, "a", "b", "c")
		expired := metrics.SamplesRejected.WithLabelValues("expiry", string(latency.ReasonExpired))
		before := testutil.ToFloat64(expired)
		// Both are reported now; one was taken four minutes ago.
		s.Sink("expiry")("a", report(taken("a", "b", 4*time.Minute), taken("a", "c", 0)))
		settled()
		wantEstimate(t, "now", s, "a", "b", "20ms 35ms measured")
		wantEstimate(t, "now", s, "a", "c", "20ms 35ms measured")
		newest := testutil.ToFloat64(metrics.NewestSampleTimestamp)

		time.Sleep(time.Minute + maxAge/20)
		wantEstimate(t, "a minute later", s, "a", "b", "unknown")
		wantEstimate(t, "a minute later", s, "a", "c", "20ms 35ms measured")
		if got := testutil.ToFloat64(metrics.NewestSampleTimestamp); got != newest {
			t.Errorf("the newest sample moved from %g to %g", newest, got)
		}
		time.Sleep(4 * time.Minute)
		wantEstimate(t, "five minutes later", s, "a", "c", "unknown")
		if got := testutil.ToFloat64(expired) - before; got != 2 {
			t.Errorf("%g samples expired, want 2", got)
		}
		if got := testutil.ToFloat64(metrics.NewestSampleTimestamp); got != 0 {
			t.Errorf("nothing is known, and the newest sample is of %g", got)
		}
		time.Sleep(time.Hour)
		if got := testutil.ToFloat64(expired) - before; got != 2 {
			t.Errorf("an hour later %g samples expired, want still 2", got)
		}
	})
}

func TestBadSamples(t *testing.T) {
	tests := map[string]struct {
		change     func(*latency.Sample)
		wantReason latency.Reason
	}{
		"zero":                {func(s *latency.Sample) { s.Typical = 0 }, latency.ReasonNotPositive},
		"minus one":           {func(s *latency.Sample) { s.Typical = -1 }, latency.ReasonNotPositive},
		"1e-320":              {func(s *latency.Sample) { s.Typical = 1e-320 }, latency.ReasonNotPositive},
		"not a number":        {func(s *latency.Sample) { s.Typical = math.NaN() }, latency.ReasonNaN},
		"infinite":            {func(s *latency.Sample) { s.Typical = math.Inf(1) }, latency.ReasonInfinite},
		"1e308":               {func(s *latency.Sample) { s.Typical = 1e308 }, latency.ReasonTooLarge},
		"failed":              {func(s *latency.Sample) { s.Failed = true }, latency.ReasonFailed},
		"of no time":          {func(s *latency.Sample) { s.At = time.Time{} }, latency.ReasonNoTime},
		"from the future":     {func(s *latency.Sample) { s.At = time.Now().Add(2 * time.Minute) }, latency.ReasonFuture},
		"too old":             {func(s *latency.Sample) { s.At = time.Now().Add(-6 * time.Minute) }, latency.ReasonExpired},
		"of a node to itself": {func(s *latency.Sample) { s.To = "a" }, latency.ReasonSelf},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(5*time.Minute, nil)
				settled := run(t, s)
				nodes(s, "a", "b", "c")
				source := "bad " + name
				bad := taken("a", "b", 0)
				tt.change(&bad)
				s.Sink(source)("a", report(bad, taken("a", "c", 0)))
				settled()
				wantEstimate(t, "a bad sample", s, "a", "b", "unknown")
				wantEstimate(t, "its good neighbour", s, "a", "c", "20ms 35ms measured")
				for _, reason := range latency.Reasons() {
					want := 0.0
					if reason == tt.wantReason {
						want = 1
					}
					if got := testutil.ToFloat64(metrics.SamplesRejected.WithLabelValues(source, string(reason))); got != want {
						t.Errorf("%g were rejected as %s, want %g", got, reason, want)
					}
				}
				if got := testutil.ToFloat64(metrics.SamplesAccepted.WithLabelValues(source)); got != 1 {
					t.Errorf("%g were accepted, want 1", got)
				}
			})
		})
	}
}

func TestSkewedClockCountsAsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(5*time.Minute, nil)
		settled := run(t, s)
		nodes(s, "a", "b")
		s.Sink("skew")("a", report(taken("a", "b", -30*time.Second)))
		settled()
		a, _ := s.Snapshot().Index("a")
		b, _ := s.Snapshot().Index("b")
		if at := s.Snapshot().Estimate(a, b).At; at.After(time.Now()) {
			t.Errorf("the measurement is of %v, in the future", at)
		}
		time.Sleep(5*time.Minute + 15*time.Second)
		wantEstimate(t, "it does not live longer for it", s, "a", "b", "unknown")
	})
}

func TestNodesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(5*time.Minute, nil)
		settled := run(t, s)
		sink := s.Sink("test")
		nodes(s, "a")
		sink("a", report(taken("a", "b", 0)))
		sink("b", report(taken("b", "a", 0)))
		settled()
		if got := s.Snapshot().Len(); got != 1 {
			t.Fatalf("the snapshot has %d nodes, want 1", got)
		}
		wantEstimate(t, "b is not there yet", s, "a", "b", "no such node")

		nodes(s, "b")
		settled()
		wantEstimate(t, "b came after the reports", s, "a", "b", "20ms 35ms measured")
		wantEstimate(t, "b came after its own report", s, "b", "a", "20ms 35ms measured")

		s.DeleteNode("b")
		settled()
		wantEstimate(t, "b is gone", s, "a", "b", "no such node")

		sink("a", latency.Report{})
		nodes(s, "b")
		settled()
		wantEstimate(t, "a new b did not measure what the old one did", s, "b", "a", "unknown")
	})
}

func TestZones(t *testing.T) {
	table, err := zones.Parse([]byte("{within: {zone: 1ms}, pairs: [{between: [x, \"y\"], typical: 40ms, tail: 60ms}]}"))
	if err != nil {
		t.Fatal(err)
	}
	// x1–x3 and y1–y3 are in two zones, z1 is in a third, n has none.
	pairs := func(n int, tail float64) []latency.Sample {
		all := []latency.Sample{taken("x1", "y1", 0), taken("x1", "y2", 0), taken("x1", "y3", 0), taken("x1", "x2", 0)}
		all[0].Typical, all[1].Typical, all[2].Typical = 0.010, 0.030, 0.020
		for i := range all {
			all[i].Tail = all[i].Typical * tail
		}
		return all[:n]
	}
	tests := map[string]struct {
		table   *zones.Table
		samples []latency.Sample
		want    map[string]string
	}{
		"a file answers for what nobody measured": {
			table: table, samples: pairs(1, 2),
			want: map[string]string{
				"x1 y1": "10ms 20ms measured", "y1 x1": "10ms 20ms reverse",
				"x2 y2": "40ms 60ms zone", "y3 x3": "40ms 60ms zone", "x1 x2": "1ms unknown zone",
				"x1 z1": "unknown", "n x1": "unknown", "n n": "50µs 50µs local",
			},
		},
		"a file stands above the medians": {
			table: table, samples: pairs(3, 2),
			want: map[string]string{"x2 y2": "40ms 60ms zone", "x1 y3": "20ms 40ms measured"},
		},
		"without a file the median of three pairs answers for the zones, both ways": {
			samples: pairs(3, 2),
			want: map[string]string{
				"x1 y1": "10ms 20ms measured", "x2 y2": "20ms 40ms zone", "y2 x3": "20ms 40ms zone",
				"x1 x2": "unknown", "x2 z1": "unknown", "y1 n": "unknown",
			},
		},
		"two pairs are too few": {
			samples: pairs(2, 2),
			want:    map[string]string{"x2 y2": "unknown"},
		},
		"and what was lost is none": {
			samples: append(pairs(2, 2), latency.Sample{From: "x1", To: "y3", Failed: true, Lost: 9}),
			want:    map[string]string{"x2 y2": "unknown"},
		},
		"tails that nobody measured stay unknown in the median": {
			samples: pairs(3, math.NaN()),
			want:    map[string]string{"x2 y2": "20ms unknown zone"},
		},
		"no file and nothing measured": {
			want: map[string]string{"x1 y1": "unknown", "x1 x2": "unknown"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(5*time.Minute, tt.table)
				settled := run(t, s)
				for _, n := range []string{"x1", "x2", "x3", "y1", "y2", "y3", "z1"} {
					s.SetNode(n, zones.Location{Zone: n[:1]}, "")
				}
				nodes(s, "n")
				for i := range tt.samples {
					tt.samples[i].At = time.Now()
				}
				s.Sink("test")("x1", report(tt.samples...))
				settled()
				got := map[string]string{}
				for pair := range tt.want {
					from, to, _ := strings.Cut(pair, " ")
					got[pair] = estimate(t, s.Snapshot(), from, to)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("pairs (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestMediansOfManyStandForAWhile has more measurements than are looked at each time.
func TestMediansOfManyStandForAWhile(t *testing.T) {
	const n = 300
	now := time.Now()
	s := New(time.Hour, nil)
	names := make([]string, n)
	for i := range n {
		names[i] = fmt.Sprintf("%c%03d", 'x'+i%2, i)
		s.SetNode(names[i], zones.Location{Zone: names[i][:1]}, "")
	}
	s.SetNode("x", zones.Location{Zone: "x"}, "") // of which nobody says anything
	say := func(ms float64, reporters int) {
		for i := range n {
			var r latency.Report
			for j := range n {
				if i != j && i < reporters {
					r.Samples = append(r.Samples, sample(names[i], names[j], ms, now))
				}
			}
			s.Take("test", names[i], r, now)
		}
	}
	steps := []struct {
		name      string
		ms        float64
		reporters int
		after     time.Duration
		want      string
	}{
		{"at first", 20, n, 0, "20ms 40ms zone"},
		{"a moment later", 30, n, zoneInterval / 2, "20ms 40ms zone"},
		{"half a minute later", 30, n, zoneInterval, "30ms 60ms zone"},
		{"when a tenth is withdrawn", 40, n * 9 / 10, zoneInterval, "40ms 80ms zone"},
		{"when there are few", 50, n / 2, zoneInterval, "50ms 100ms zone"},
		{"when there are none", 50, 0, zoneInterval, "unknown"},
	}
	for _, step := range steps {
		say(step.ms, step.reporters)
		s.Build(t.Context(), now.Add(step.after))
		wantEstimate(t, step.name, s, "x", names[1], step.want)
	}
}

func TestANodeMovesToAnotherZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, err := zones.Parse([]byte("{pairs: [{between: [x, \"y\"], typical: 40ms}]}"))
		if err != nil {
			t.Fatal(err)
		}
		s := New(5*time.Minute, table)
		settled := run(t, s)
		s.SetNode("a", zones.Location{Zone: "x"}, "")
		s.SetNode("b", zones.Location{Zone: "x"}, "")
		settled()
		wantEstimate(t, "one zone", s, "a", "b", "unknown")
		s.SetNode("b", zones.Location{Zone: "y"}, "")
		settled()
		wantEstimate(t, "two zones", s, "a", "b", "40ms unknown zone")
	})
}

func TestSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(5*time.Minute, nil)
		var told []*latency.Snapshot
		s.Subscribe(func(snap *latency.Snapshot) {
			if s.Snapshot() != snap {
				t.Error("a subscriber is told of a snapshot that cannot be read yet")
			}
			told = append(told, snap)
		})
		settled := run(t, s)
		settled()
		if len(told) != 1 {
			t.Fatalf("told %d times at the start, want once", len(told))
		}
		s.SetNode("a", zones.Location{Zone: "x"}, "")
		s.SetNode("b", zones.Location{}, "")
		s.Sink("test")("a", report(taken("a", "b", 0)))
		settled()
		if len(told) != 2 {
			t.Errorf("a burst of changes made %d snapshots, want one", len(told)-1)
		}
		s.SetNode("a", zones.Location{Zone: "x"}, "")
		s.Sink("test")("b", latency.Report{})
		settled()
		if len(told) != 2 {
			t.Error("events that change nothing made a snapshot")
		}
		s.Rebuild()
		settled()
		if len(told) != 3 {
			t.Error("Rebuild made none")
		}
		old := told[1]
		if estimate(t, old, "a", "b") != "20ms 35ms measured" || told[0].Len() != 0 {
			t.Error("an old snapshot changed")
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(5*time.Minute, nil)
		settled := run(t, s)
		nodes(s, "a", "b", "c", "d")
		s.Sink("test")("a", report(taken("a", "b", time.Minute), taken("a", "c", 2*time.Minute)))
		s.Sink("test")("b", report(taken("b", "a", time.Minute)))
		settled()
		got := map[string]float64{
			"pairs":    testutil.ToFloat64(metrics.Pairs),
			"measured": testutil.ToFloat64(metrics.MeasuredPairs),
			"nodes":    testutil.ToFloat64(metrics.Nodes),
			"of them":  testutil.ToFloat64(metrics.MeasuredNodes),
			"age":      math.Round(float64(time.Now().UnixNano())/1e9 - testutil.ToFloat64(metrics.NewestSampleTimestamp)),
		}
		if diff := cmp.Diff(map[string]float64{"pairs": 6, "measured": 2, "nodes": 4, "of them": 3, "age": 60}, got); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		built := testutil.ToFloat64(metrics.SnapshotTimestamp)
		if age := float64(time.Now().UnixNano())/1e9 - built; age < 0 || age > 1 {
			t.Errorf("the snapshot is %g s old", age)
		}
	})
}

// TestSwapIsAtomic has readers that must never see a mixture: both pairs have the same RTT in every report.
func TestSwapIsAtomic(t *testing.T) {
	s := New(5*time.Minute, nil)
	nodes(s, "a", "b", "c")
	sink := s.Sink("test")
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				snap := s.Snapshot()
				a, ok := snap.Index("a")
				b, _ := snap.Index("b")
				c, _ := snap.Index("c")
				if !ok {
					continue
				}
				row := snap.Row(a, latency.FromTarget, latency.Typical)
				if row.RTT[b] != row.RTT[c] || snap.Estimate(a, b).Typical != row.RTT[b] {
					t.Errorf("a mixture: %s and %s", row.RTT[b], row.RTT[c])
				}
			}
		})
	}
	for i := range 300 {
		x, y := taken("a", "b", 0), taken("a", "c", 0)
		x.Typical = 0.001 + float64(i)/1e5
		y.Typical = x.Typical
		sink("a", report(x, y))
		s.Build(t.Context(), time.Now())
	}
	close(stop)
	readers.Wait()
}

func TestRankingsAndMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(DefaultMaxAge, nil)
		settled := run(t, s)
		nodes(s, "a", "b", "c")
		ranking := report(taken("a", "b", 0), taken("a", "c", 0))
		ranking.RankingOnly = true
		s.Sink("kube-latency")("a", ranking)
		settled()
		if got, want := estimate(t, s.Snapshot(), "a", "b"), "20ms 35ms ranking"; got != want {
			t.Errorf("a ranking alone: %s, want %s", got, want)
		}
		short := report(taken("a", "b", 0))
		short.MaxAge = 10 * time.Second
		short.Samples[0].Typical = 0.030
		s.Sink("goldpinger")("a", short)
		settled()
		if got, want := estimate(t, s.Snapshot(), "a", "b"), "30ms 35ms measured"; got != want {
			t.Errorf("beside a measurement: %s, want %s", got, want)
		}
		if measured, _ := s.Snapshot().Coverage(); measured != 1 {
			t.Errorf("%d measured pairs, want 1: a ranking is none", measured)
		}
		time.Sleep(12 * time.Second) // the measurement's own maximum age, not the store's
		synctest.Wait()
		if got, want := estimate(t, s.Snapshot(), "a", "b"), "20ms 35ms ranking"; got != want {
			t.Errorf("once the measurement is too old: %s, want %s", got, want)
		}
		time.Sleep(DefaultMaxAge)
		synctest.Wait()
		if got, want := estimate(t, s.Snapshot(), "a", "b"), "unknown"; got != want {
			t.Errorf("once the ranking is too old: %s, want %s", got, want)
		}
	})
}
