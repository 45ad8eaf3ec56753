// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ms(n int) *metav1.Duration {
	return &metav1.Duration{Duration: time.Duration(n) * time.Millisecond}
}

func object(name string, peers ...v1alpha1.PeerLatency) *v1alpha1.NodeLatency {
	return &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeLatencyStatus{Peers: peers}}
}

func peer(node string, m v1alpha1.Measurement) v1alpha1.PeerLatency {
	return v1alpha1.PeerLatency{Node: node, Measurement: m}
}

func TestSamples(t *testing.T) {
	when := &metav1.Time{Time: at}
	nan := math.NaN()
	tests := map[string]struct {
		in   v1alpha1.Measurement
		want latency.Sample
	}{
		"a measured peer": {
			in:   v1alpha1.Measurement{Typical: ms(20), Tail: ms(35), Samples: 9, Lost: 1, At: when},
			want: latency.Sample{Typical: 0.020, Tail: 0.035, Count: 9, Lost: 1, At: at},
		},
		"a peer that lost every probe failed": {
			in:   v1alpha1.Measurement{Lost: 10, At: when},
			want: latency.Sample{Typical: nan, Tail: nan, Lost: 10, At: at, Failed: true},
		},
		"a peer that lost every probe failed, whatever its tail says": {
			in:   v1alpha1.Measurement{Tail: ms(1), Lost: 10, At: when},
			want: latency.Sample{Typical: nan, Tail: 0.001, Lost: 10, At: at, Failed: true},
		},
		"an absent tail is not a number": {
			in:   v1alpha1.Measurement{Typical: ms(20), Samples: 9, At: when},
			want: latency.Sample{Typical: 0.020, Tail: nan, Count: 9, At: at},
		},
		"no time": {
			in:   v1alpha1.Measurement{Typical: ms(20), Tail: ms(35), Samples: 9},
			want: latency.Sample{Typical: 0.020, Tail: 0.035, Count: 9},
		},
		"a zero stays a zero, for the store to refuse": {
			in:   v1alpha1.Measurement{Typical: ms(0), Tail: ms(0), Samples: 9, At: when},
			want: latency.Sample{Count: 9, At: at},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.want.From, tt.want.To = "a", "b"
			got := Samples(object("a", peer("b", tt.in)))
			if diff := cmp.Diff([]latency.Sample{tt.want}, got, cmpopts.EquateNaNs()); diff != "" {
				t.Errorf("samples (-want +got):\n%s", diff)
			}
		})
	}
	if got := Samples(object("a")); len(got) != 0 {
		t.Errorf("no peers gave %v", got)
	}
}

func TestALossHasTheTimeOfItsReport(t *testing.T) {
	earlier := &metav1.Time{Time: at.Add(-time.Minute)}
	tests := map[string]struct {
		observed, answered *metav1.Time
		failed             bool
		want               time.Time
	}{
		"lost, never answered":           {observed: &metav1.Time{Time: at}, failed: true, want: at},
		"lost, answered before":          {observed: &metav1.Time{Time: at}, answered: earlier, failed: true, want: at},
		"lost, in a report without time": {answered: earlier, failed: true, want: earlier.Time},
		"lost at no time":                {failed: true},
		"measured":                       {observed: &metav1.Time{Time: at}, answered: earlier, want: earlier.Time},
		"measured at no time":            {observed: &metav1.Time{Time: at}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := v1alpha1.Measurement{At: tt.answered, Lost: 9}
			if !tt.failed {
				m.Typical = ms(20)
			}
			nl := object("a", peer("b", m))
			nl.Status.ObservedAt = tt.observed
			if got := Samples(nl)[0]; !got.At.Equal(tt.want) || got.Failed != tt.failed {
				t.Errorf("sample %+v, want it of %v", got, tt.want)
			}
		})
	}
}

func TestReportOf(t *testing.T) {
	nl := object("a", peer("b", v1alpha1.Measurement{Typical: ms(20), Tail: ms(35), At: &metav1.Time{Time: at}}))
	got := ReportOf(nl)
	if diff := cmp.Diff(latency.Report{Samples: Samples(nl)}, got); diff != "" {
		t.Errorf("the least (-want +got):\n%s", diff)
	}
	nl.Status.Starved = true
	nl.Status.RefreshInterval = &metav1.Duration{Duration: 8 * time.Minute}
	nl.Status.Coordinate = &v1alpha1.NetworkCoordinate{
		VectorMicros: []int64{1, -2, 3, -4, 5, -6, 7, 60_000_000}, HeightMicros: 9, AdjustmentMicros: -10, ErrorPercent: 22,
	}
	want := latency.Report{
		Samples: Samples(nl), Starved: true, Refresh: 8 * time.Minute,
		Coordinate: &latency.NetworkCoordinate{Vector: [8]float32{1, -2, 3, -4, 5, -6, 7, 6e7}, Height: 9, Adjustment: -10, Error: 0.22},
	}
	if diff := cmp.Diff(want, ReportOf(nl), cmpopts.EquateApprox(1e-6, 0)); diff != "" {
		t.Errorf("all of it (-want +got):\n%s", diff)
	}
	nl.Status.Coordinate.VectorMicros = nil
	if c := ReportOf(nl).Coordinate; c.Check() == "" {
		t.Errorf("a coordinate without a vector is taken: %+v", c)
	}
}

// TestABrokenWatch: what went while nobody watched is withdrawn.
func TestABrokenWatch(t *testing.T) {
	got := map[string]int{}
	listed := 0
	r := &reporter{listed: func() { listed++ }, update: func(from string, report latency.Report) {
		if got[from] = len(report.Samples); len(report.Samples) == 0 {
			delete(got, from)
		}
	}}
	one := peer("x", v1alpha1.Measurement{Typical: ms(20)})
	if err := errors.Join(
		r.Replace([]any{object("a", one), object("b", one), object("c", one)}, "1"),
		r.Delete(object("c", one)), r.Add(object("d", one)),
		r.Replace([]any{object("b", one, peer("y", one.Measurement)), object("e", one)}, "2"),
		r.Resync(),
	); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"b": 2, "e": 1}, got); diff != "" || listed != 1 {
		t.Errorf("listed %d times; samples (-want +got):\n%s", listed, diff)
	}
	for _, err := range []error{r.Add("x"), r.Update(1), r.Delete(nil), r.Replace([]any{"x"}, "3")} {
		if err == nil {
			t.Error("something else than a NodeLatency is no error")
		}
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := object("a", peer("b", v1alpha1.Measurement{Typical: ms(20), Tail: ms(35), Samples: 9, At: &metav1.Time{Time: at}}))
		first.ResourceVersion = "1"
		w := watch.NewFake()
		src := &Source{ListWatch: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
				return &v1alpha1.NodeLatencyList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []v1alpha1.NodeLatency{*first}}, nil
			},
			WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) { return w, nil },
		}, noWatchList{})}
		var listed atomic.Bool
		got := map[string][]latency.Sample{}
		listedAfter := -1
		src.Listed = func() { listedAfter = len(got); listed.Store(true) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		updates := 0
		go func() {
			done <- src.Run(ctx, func(from string, report latency.Report) {
				updates++
				if len(report.Samples) == 0 {
					delete(got, from)
				} else {
					got[from] = report.Samples
				}
			})
		}()
		settled := func() { time.Sleep(time.Second); synctest.Wait() }

		settled()
		if !listed.Load() || listedAfter != 1 || len(got["a"]) != 1 {
			t.Fatalf("after the list: listed %t after %d reports, samples %v", listed.Load(), listedAfter, got)
		}
		second := object("a", peer("b", v1alpha1.Measurement{Lost: 9, At: &metav1.Time{Time: at}}), peer("c", v1alpha1.Measurement{Typical: ms(5), Tail: ms(6)}))
		second.ResourceVersion = "2"
		w.Modify(second)
		settled()
		if s := got["a"]; len(s) != 2 || !s[0].Failed || s[1].Typical != 0.005 {
			t.Errorf("after the change: %+v", s)
		}
		w.Delete(second)
		settled()
		if s, ok := got["a"]; ok || updates != 3 {
			t.Errorf("after the deletion: %+v, %d updates", s, updates)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// noWatchList is a client that cannot stream a list.
type noWatchList struct{}

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }
