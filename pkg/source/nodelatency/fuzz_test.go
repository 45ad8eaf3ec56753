// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/source/zones"
	"github.com/fogsched/fogsched/pkg/store"
)

// FuzzIngest gives the store what an API server that checks nothing could hand out as the NodeLatency of node a, beside honest ones of
// b, c and d, and asks for every pair.
func FuzzIngest(f *testing.F) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	seeds := []string{
		`{}`,
		`{"refreshInterval":"1m0s","peers":[{"node":"b","typical":"20ms","tail":"35ms","samples":9,"at":"2026-03-01T12:00:00Z"}]}`,
		`{"observedAt":"2026-03-01T12:00:00Z","peers":[{"node":"b","samples":0,"lost":9},{"node":"c","typical":"0s","tail":"-1ns","samples":-1,"lost":-2147483648,"at":"2026-03-01T12:00:00Z"}]}`,
		`{"starved":true,"coordinate":{"vectorMicros":[1,2,3,4,5,6,7,8],"heightMicros":10,"adjustmentMicros":-5,"errorPercent":20},"peers":[{"node":"d","typical":"1ms","at":"2026-03-01T12:00:00Z"},{"node":"e","typical":"1ms","at":"2026-03-01T12:00:00Z"}]}`,
		`{"coordinate":{"vectorMicros":[0,0,0,0,0,0,0,0],"heightMicros":10,"adjustmentMicros":0,"errorPercent":20},"observedAt":"2026-03-01T12:00:00Z","peers":[{"node":"d","samples":0,"lost":9},{"node":"e","samples":3,"lost":9,"at":"2026-03-01T11:58:00Z"}]}`,
		`{"peers":[{"node":"d","typical":"5ms","tail":"4ms","at":"2026-03-01T12:00:00Z"}]}`,
		`{"coordinate":{"vectorMicros":[9223372036854775807,-9223372036854775808],"heightMicros":-1,"adjustmentMicros":60000000,"errorPercent":2147483647}}`,
		`{"coordinate":{"vectorMicros":[0,0,0,0,0,0,0,0],"heightMicros":0,"adjustmentMicros":-60000000,"errorPercent":0}}`,
		`{"refreshInterval":"-2562047h47m16.854775808s","peers":[{"node":"b","typical":"1ns","tail":"2562047h47m16.854775807s","at":"2026-03-01T12:00:59Z"},{"node":"a","typical":"1ms","at":"2026-03-01T12:00:00Z"},{"node":"b","typical":"3ms","at":"2026-03-01T12:00:00Z"},{"node":"","typical":"3ms"},{"node":"x"}]}`,
		`{"peers":[{"node":"b","typical":"1m0s","at":"0001-01-01T00:00:00Z"},{"node":"c","typical":"1m0.000000001s","at":"9999-12-31T23:59:59Z"},{"node":"d","at":"1969-12-31T23:59:59Z"}]}`,
		`{"peers":[{"node":"b","typical":"1ms","at":"2026-03-01T12:00:00Z"},{"node":"c","typical":"1ms","at":"2026-03-01T12:00:00Z"},{"node":"d","typical":"1ms","at":"2026-03-01T12:00:00Z"},{"node":"e","typical":"1ms","at":"2026-03-01T12:00:00Z"}]}`,
	}
	for _, s := range seeds {
		f.Add([]byte(s), int64(0), true)
		f.Add([]byte(s), int64(3*time.Minute), false)
	}
	table, err := zones.Parse([]byte("{within: {zone: 7ms}}"))
	if err != nil {
		f.Fatal(err)
	}
	ctx := klog.NewContext(context.Background(), logr.Discard())
	names := []string{"a", "b", "c", "d", "e"}
	f.Fuzz(func(t *testing.T, data []byte, later int64, zoned bool) {
		nl := &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
		if json.Unmarshal(data, &nl.Status) != nil {
			return
		}
		s := store.New(store.DefaultMaxAge, nil)
		if zoned {
			s = store.New(store.DefaultMaxAge, table)
		}
		for i, n := range names {
			at := zones.Location{}
			if zoned && i%2 == 0 {
				at.Zone = "z"
			}
			s.SetNode(n, at, []string{"0,0", "0,10", "", "x", "90,180"}[i])
		}
		for _, from := range names[1:4] {
			r := latency.Report{Coordinate: &latency.NetworkCoordinate{Error: 0.2}}
			if from != "d" {
				r.Coordinate.Height = 20_000
			}
			for _, to := range names {
				if from != to && (from != "d" || to != "a") {
					r.Samples = append(r.Samples, latency.Sample{From: from, To: to, Typical: 0.020, Tail: 0.030, At: now, Count: 9})
				}
			}
			s.Take("honest", from, r, now)
		}
		report := ReportOf(nl)
		s.Take("fuzz", "a", report, now)
		for _, at := range []time.Time{now, now.Add(time.Duration(later))} {
			s.Build(ctx, at)
			if !s.Snapshot().Built().Equal(at) {
				t.Fatal("building the snapshot panicked")
			}
			check(t, s.Snapshot(), &report, now)
		}
	})
}

// check asks for every pair of a snapshot, both ways, in rows and one by one; the report was taken at that time.
func check(t *testing.T, snap *latency.Snapshot, report *latency.Report, taken time.Time) {
	t.Helper()
	// good are the nodes of which a says something that could be true.
	good := map[string]bool{}
	for _, s := range report.Samples {
		if !s.Failed && s.Typical > 0 && !report.Starved {
			good[s.To] = true
		}
	}
	n := int32(snap.Len())
	for from := range n {
		for to := range n {
			e := snap.Estimate(from, to)
			for st, rtt := range map[latency.Statistic]latency.RTT{latency.Typical: e.Typical, latency.Tail: e.Tail} {
				us, ok := rtt.Micros()
				if ok && !(us > 0 && us <= 60e6) || !ok && us != 0 || math.IsNaN(float64(us)) {
					t.Fatalf("%s → %s is %g µs, known %t", snap.Name(from), snap.Name(to), us, ok)
				}
				provenance := e.Provenance
				if !ok {
					provenance = latency.Unknown
				}
				toRow, fromRow := snap.Row(to, latency.ToTarget, st), snap.Row(from, latency.FromTarget, st)
				if toRow.RTT[from] != rtt || fromRow.RTT[to] != rtt || toRow.Provenance[from] != provenance || fromRow.Provenance[to] != provenance {
					t.Fatalf("%s → %s, statistic %d: %s (%s), by rows %s (%s) and %s (%s)", snap.Name(from), snap.Name(to), st, rtt, provenance,
						toRow.RTT[from], toRow.Provenance[from], fromRow.RTT[to], fromRow.Provenance[to])
				}
			}
			if typical, ok := e.Typical.Micros(); e.Tail.Known() {
				if tail, _ := e.Tail.Micros(); !ok || tail < typical {
					t.Fatalf("%s → %s has a tail of %s below a median of %s", snap.Name(from), snap.Name(to), e.Tail, e.Typical)
				}
			}
			if e.Provenance == latency.Unknown && e != (latency.Estimate{}) {
				t.Fatalf("an unknown pair has something: %+v", e)
			}
			if (e.Error > 0) != (e.Provenance == latency.Coordinate) || e.Error != e.Error || e.Error > 10 {
				t.Fatalf("%s → %s has an error of %g and is by %s", snap.Name(from), snap.Name(to), e.Error, e.Provenance)
			}
			// Nobody but a measured a's pairs with d, with e, and with itself.
			if a, other := snap.Name(from), snap.Name(to); a == "a" && (other == "d" || other == "e") && e.Provenance == latency.Measured && !good[other] {
				t.Fatalf("%s → %s is %s by a report that does not say so", a, other, e.Typical)
			}
		}
	}
	for i := range report.Samples {
		s := &report.Samples[i]
		a, _ := snap.Index("a")
		other, ok := snap.Index(s.To)
		if !ok || s.To != "d" && s.To != "e" || good[s.To] {
			continue
		}
		// A pair that a lost, or was too starved to measure, and that nobody else measured, is not estimated either.
		_, reason := latency.Check(*s, taken, store.DefaultMaxAge)
		fresh := s.At.IsZero() || taken.Sub(s.At) <= store.DefaultMaxAge
		blocked := reason == latency.ReasonFailed && fresh || report.Starved && reason == ""
		if e := snap.Estimate(a, other); blocked && snap.Built().Equal(taken) && e.Provenance != latency.Unknown {
			t.Fatalf("a → %s was not measured and is %s (%s)", s.To, e.Typical, e.Provenance)
		}
	}
}
