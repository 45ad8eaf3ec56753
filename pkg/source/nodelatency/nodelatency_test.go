// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
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
