// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/serf/coordinate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/probe"
)

const msec = time.Millisecond

// sentAt is not at a full second, and would be rounded up.
var sentAt = time.Date(2026, 11, 23, 22, 50, 41, 900_000_000, time.UTC)

// stats are those of a window with the given results; 0 is a loss.
func stats(t *testing.T, rtts ...time.Duration) probe.Stats {
	t.Helper()
	w := probe.NewWindow(max(len(rtts), 1))
	for i, r := range rtts {
		if r == 0 {
			w.AddLoss()
		} else if err := w.Add(r, sentAt.Add(-time.Duration(len(rtts)-1-i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return w.Stats()
}

func duration(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

func TestStatus(t *testing.T) {
	control := stats(t, 87_654*time.Nanosecond)
	at := &metav1.Time{Time: sentAt.Truncate(time.Second)}
	got := Status(probe.Picture{
		Control: &control,
		Starved: true,
		Coordinate: &coordinate.Coordinate{
			Vec: []float64{0.0123456, -0.02, 0, 0, 0, 0, 0, 60}, Height: 0.0000104, Adjustment: -0.0005, Error: 0.1201,
		},
		Peers: []probe.PeerStats{
			{Name: "dead", Stats: stats(t, 0, 0, 0)},
			{Name: "far", Stats: stats(t, 88_123_456, 88_123_456)},
			{Name: "lossy", Stats: stats(t, 0, 12_345_678, 12_345_678)},
			{Name: "near", Stats: stats(t, 123_456)},
			{Name: "never-probed"},
			{Name: "lost-its-first-packets", Stats: stats(t, 0, 0)},
			{Name: "next-door", Stats: stats(t, 1)},
		},
	})
	want := v1alpha1.NodeLatencyStatus{
		ObservedAt: at,
		Starved:    true,
		Coordinate: &v1alpha1.NetworkCoordinate{
			VectorMicros: []int64{12346, -20000, 0, 0, 0, 0, 0, 60_000_000}, HeightMicros: 10, AdjustmentMicros: -500, ErrorPercent: 13,
		},
		Control: &v1alpha1.Measurement{Typical: duration(88_000), Tail: duration(88_000), Samples: 1, At: at},
		Peers: []v1alpha1.PeerLatency{
			{Node: "dead", Measurement: v1alpha1.Measurement{Lost: 3}},
			{Node: "far", Measurement: v1alpha1.Measurement{Typical: duration(88_120_000), Tail: duration(88_120_000), Samples: 2, At: at}},
			{Node: "lossy", Measurement: v1alpha1.Measurement{Typical: duration(12_350_000), Tail: duration(12_350_000), Samples: 2, Lost: 1, At: at}},
			{Node: "near", Measurement: v1alpha1.Measurement{Typical: duration(123_000), Tail: duration(123_000), Samples: 1, At: at}},
			{Node: "next-door", Measurement: v1alpha1.Measurement{Typical: duration(1_000), Tail: duration(1_000), Samples: 1, At: at}},
		},
		Summary: &v1alpha1.LatencySummary{Peers: 4, Nearest: "next-door 1µs", Median: "0.12ms", Farthest: "far 88.1ms", Loss: "40%"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNothingMeasuredIsNothingPublished(t *testing.T) {
	if diff := cmp.Diff(v1alpha1.NodeLatencyStatus{}, Status(probe.Picture{Control: &probe.Stats{}, Peers: []probe.PeerStats{{Name: "a"}}})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b, err := json.Marshal(Status(probe.Picture{Peers: []probe.PeerStats{{Name: "dead", Stats: stats(t, 0, 0, 0)}}}))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"peers":[{"node":"dead","samples":0,"lost":3}],"summary":{"peers":0,"loss":"100%"}}`; string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}

func TestTimesNeverLieInTheFuture(t *testing.T) {
	b, err := json.Marshal(apiTime(sentAt))
	if want := `"2026-11-23T22:50:41Z"`; string(b) != want || err != nil {
		t.Errorf("%s, %v; want %s", b, err, want)
	}
}

// TestObjectIsSmall has 16 neighbours and 10 nodes of interest, with names as long as a cloud's.
func TestObjectIsSmall(t *testing.T) {
	var p probe.Picture
	control := stats(t, slices.Repeat([]time.Duration{87_654}, 20)...)
	p.Control = &control
	for i := range 26 {
		rtts := slices.Repeat([]time.Duration{123_456_789}, 20)
		if i%3 == 0 {
			rtts[0] = 0 // one in three loses packets
		}
		p.Peers = append(p.Peers, probe.PeerStats{Name: fmt.Sprintf("ip-10-100-100-%03d.ec2.internal", i), Stats: stats(t, rtts...)})
	}
	p.Coordinate = &coordinate.Coordinate{
		Vec: []float64{-0.123456, 0.123456, -0.123456, 0.123456, -0.123456, 0.123456, -0.123456, 0.123456}, Height: 0.123456, Adjustment: -0.123456, Error: 0.5,
	}
	o := v1alpha1.NodeLatency{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeLatency"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "edge-33", UID: "5f0e6d5c-8f0b-4f0e-9a53-0d6ff2a1a001", ResourceVersion: "123456789", Generation: 1,
			CreationTimestamp: metav1.Time{Time: sentAt},
			OwnerReferences:   []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "edge-33", UID: "5f0e6d5c-8f0b-4f0e-9a53-0d6ff2a1a000"}},
		},
		Spec:   v1alpha1.NodeLatencySpec{Endpoint: "10.100.100.133:8620"},
		Status: Status(p),
	}
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", len(b))
	if len(b) > 4096 {
		t.Errorf("%d bytes, want at most 4096", len(b))
	}
}

func TestMorePeersThanTheSchemaAllows(t *testing.T) {
	var p probe.Picture
	for i := range maxPeers + 10 {
		s := stats(t, time.Duration(1+(i*7)%1000)*msec)
		if i < 20 {
			s = stats(t, 0, 0, 0)
		}
		p.Peers = append(p.Peers, probe.PeerStats{Name: fmt.Sprintf("n%05d", i), Stats: s})
	}
	got := Status(p).Peers
	if len(got) != maxPeers {
		t.Fatalf("%d peers", len(got))
	}
	dead := 0
	for _, p := range got {
		if p.Typical == nil {
			dead++
		}
	}
	if dead != 10 {
		t.Errorf("%d of the unknown are kept, want 10: they go first", dead)
	}
	if !slices.IsSortedFunc(got, func(a, b v1alpha1.PeerLatency) int { return strings.Compare(a.Node, b.Node) }) {
		t.Error("the peers are not sorted by name")
	}
}

func TestForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1: "1µs", 42 * time.Microsecond: "42µs", 120 * time.Microsecond: "0.12ms", 3_140 * time.Microsecond: "3.1ms",
		88_120 * time.Microsecond: "88.1ms", 250 * msec: "250ms", 1234 * msec: "1234ms", 12 * time.Second: "12.0s",
	} {
		if got := forPeople(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	for _, tc := range []struct {
		part, whole int64
		want        string
	}{{0, 0, "0%"}, {0, 9, "0%"}, {1, 10_000, "<0.1%"}, {1, 250, "0.4%"}, {1, 3, "33%"}, {999, 1000, ">99%"}, {9, 9, "100%"}} {
		if got := percent(tc.part, tc.whole); got != tc.want {
			t.Errorf("%d/%d: %q, want %q", tc.part, tc.whole, got, tc.want)
		}
	}
}

func TestChanged(t *testing.T) {
	m := func(typical, tail time.Duration) *v1alpha1.Measurement {
		return &v1alpha1.Measurement{Typical: duration(typical), Tail: duration(tail), Samples: 20}
	}
	few := func(rtt time.Duration) *v1alpha1.Measurement {
		return &v1alpha1.Measurement{Typical: duration(rtt), Tail: duration(rtt), Samples: 4}
	}
	dead := &v1alpha1.Measurement{Lost: 20}
	for name, tc := range map[string]struct {
		published, measured *v1alpha1.Measurement
		want                change
	}{
		"the same":                           {m(10*msec, 20*msec), m(10*msec, 20*msec), unchanged},
		"by 10 %":                            {m(10*msec, 20*msec), m(11*msec, 22*msec), unchanged},
		"by 11 %":                            {m(10*msec, 20*msec), m(11100*time.Microsecond, 20*msec), changedSlightly},
		"down by 11 %":                       {m(10*msec, 20*msec), m(8900*time.Microsecond, 20*msec), changedSlightly},
		"doubled":                            {m(10*msec, 20*msec), m(20*msec, 20*msec), changedMuch},
		"halved":                             {m(10*msec, 20*msec), m(5*msec, 20*msec), changedMuch},
		"twice, but by little":               {m(500*time.Microsecond, msec), m(1000*time.Microsecond, msec), unchanged},
		"by more than 0.5 ms and a lot":      {m(500*time.Microsecond, 2*msec), m(1001*time.Microsecond, 2*msec), changedMuch},
		"the tail only, by half":             {m(10*msec, 20*msec), m(10*msec, 30*msec), unchanged},
		"the tail only, by more":             {m(10*msec, 20*msec), m(10*msec, 31*msec), changedSlightly},
		"the tail only, down by more":        {m(10*msec, 30*msec), m(10*msec, 14*msec), changedSlightly},
		"the tail only, to tenfold":          {m(10*msec, 20*msec), m(10*msec, 200*msec), changedSlightly},
		"doubled, from four probes":          {few(10 * msec), m(20*msec, 20*msec), changedSlightly},
		"doubled, and seen three times":      {m(10*msec, 20*msec), few(20 * msec), changedMuch},
		"died":                               {m(10*msec, 20*msec), dead, changedMuch},
		"came back":                          {dead, m(10*msec, 20*msec), changedMuch},
		"stays dead":                         {dead, &v1alpha1.Measurement{Lost: 19}, unchanged},
		"appeared, where there was none":     {nil, m(10*msec, 20*msec), changedMuch},
		"vanished":                           {m(10*msec, 20*msec), nil, changedSlightly},
		"more samples and a newer time only": {m(10*msec, 20*msec), &v1alpha1.Measurement{Typical: duration(10 * msec), Tail: duration(20 * msec), Samples: 7, At: &metav1.Time{Time: sentAt}}, unchanged},
	} {
		t.Run(name, func(t *testing.T) {
			peers := func(m *v1alpha1.Measurement) *v1alpha1.NodeLatencyStatus {
				s := &v1alpha1.NodeLatencyStatus{}
				if m != nil {
					s.Peers = append(s.Peers, v1alpha1.PeerLatency{Node: "a", Measurement: *m})
				}
				return s
			}
			if got := changed(peers(tc.published), peers(tc.measured)); got != tc.want {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
	list := func(names ...string) *v1alpha1.NodeLatencyStatus {
		s := &v1alpha1.NodeLatencyStatus{}
		for _, n := range names {
			s.Peers = append(s.Peers, v1alpha1.PeerLatency{Node: n, Measurement: *m(msec, msec)})
		}
		return s
	}
	if got := changed(list("a", "c"), list("b", "c")); got != changedSlightly {
		t.Errorf("one peer instead of another: %v, want a slight change", got)
	}
	far := list("a", "c")
	far.Peers[1].Typical = duration(9 * msec)
	if got := changed(list("b", "c"), far); got != changedMuch {
		t.Errorf("a peer that moved, behind one that is new: %v, want a large change", got)
	}
	if got := changed(list("a", "b"), list("a", "b", "c", "d")); got != changedSlightly {
		t.Errorf("twice as many peers: %v, want a slight change", got)
	}
	if got := changed(list("a", "b"), list("a", "b", "c", "d", "e")); got != changedMuch {
		t.Errorf("more than twice as many peers: %v, want a large change", got)
	}
	control := &v1alpha1.NodeLatencyStatus{Control: m(msec, msec)}
	if got := changed(control, &v1alpha1.NodeLatencyStatus{Control: m(4*msec, 4*msec)}); got != unchanged {
		t.Errorf("a slower control pair: %v, want none by itself", got)
	}
	if got := changed(control, &v1alpha1.NodeLatencyStatus{Control: m(9*msec, 9*msec), Starved: true}); got != changedMuch {
		t.Errorf("a starved node: %v, want a large change", got)
	}
}

func TestCoordinateChanged(t *testing.T) {
	status := func(x, height int64) *v1alpha1.NodeLatencyStatus {
		return &v1alpha1.NodeLatencyStatus{
			Peers:      []v1alpha1.PeerLatency{{Node: "a", Measurement: v1alpha1.Measurement{Typical: duration(40 * msec), Tail: duration(40 * msec)}}},
			Coordinate: &v1alpha1.NetworkCoordinate{VectorMicros: []int64{x, 0, 0, 0, 0, 0, 0, 0}, HeightMicros: height},
		}
	}
	none := status(0, 0)
	none.Coordinate = nil
	for name, tc := range map[string]struct {
		published, measured *v1alpha1.NodeLatencyStatus
		want                change
	}{
		"drift by a quarter of the median distance": {status(0, 5000), status(10_000, 5000), unchanged},
		"by more":                 {status(0, 5000), status(9000, 6500), changedSlightly},
		"the first one":           {none, status(0, 0), changedMuch},
		"none before or after it": {none, none, unchanged},
	} {
		if got := changed(tc.published, tc.measured); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
