// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestWindow(t *testing.T) {
	at := time.Unix(1_000_000, 0)
	const lost = -1 * ms
	for name, tc := range map[string]struct {
		size          int
		results       []time.Duration // each a second after the one before
		typical, tail time.Duration
		known         bool
		samples, lost int
		newest        int // index into results
	}{
		"nothing yet":           {size: 3},
		"one answer":            {size: 3, results: []time.Duration{7 * ms}, typical: 7 * ms, tail: 7 * ms, known: true, samples: 1},
		"all lost is unknown":   {size: 3, results: []time.Duration{lost, lost, lost, lost}, lost: 3},
		"a loss is no latency":  {size: 4, results: []time.Duration{9 * ms, lost, lost}, typical: 9 * ms, tail: 9 * ms, known: true, samples: 1, lost: 2},
		"an even number":        {size: 4, results: []time.Duration{1 * ms, 4 * ms, 3 * ms, 2 * ms}, typical: 2500 * time.Microsecond, tail: 4 * ms, known: true, samples: 4, newest: 3},
		"the oldest go":         {size: 3, results: []time.Duration{100 * ms, 100 * ms, 1 * ms, 2 * ms, 3 * ms}, typical: 2 * ms, tail: 3 * ms, known: true, samples: 3, newest: 4},
		"answers go by losses":  {size: 2, results: []time.Duration{1 * ms, lost, lost}, lost: 2},
		"an outlier moves tail": {size: 5, results: []time.Duration{2 * ms, 2 * ms, 900 * ms, 2 * ms, 2 * ms}, typical: 2 * ms, tail: 900 * ms, known: true, samples: 5, newest: 4},
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWindow(tc.size)
			for i, r := range tc.results {
				if r == lost {
					w.AddLoss()
				} else if err := w.Add(r, at.Add(time.Duration(i)*time.Second)); err != nil {
					t.Fatal(err)
				}
			}
			s := w.Stats()
			typical, tail, known := s.RTT()
			if typical != tc.typical || tail != tc.tail || known != tc.known {
				t.Errorf("RTT() = %v, %v, %v; want %v, %v, %v", typical, tail, known, tc.typical, tc.tail, tc.known)
			}
			if s.Samples != tc.samples || s.Lost != tc.lost {
				t.Errorf("%d samples, %d lost; want %d, %d", s.Samples, s.Lost, tc.samples, tc.lost)
			}
			wantAt := time.Time{}
			if tc.known {
				wantAt = at.Add(time.Duration(tc.newest) * time.Second)
			}
			if !s.At.Equal(wantAt) {
				t.Errorf("at %v, want %v", s.At, wantAt)
			}
		})
	}
}

func TestWindowRefusesBadSamples(t *testing.T) {
	w := NewWindow(3)
	if err := w.Add(5*ms, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	nan := math.NaN()
	for _, tc := range []struct {
		rtt  time.Duration
		want Reason
	}{
		{0, ReasonNotPositive},
		{-1, ReasonNotPositive},
		{math.MinInt64, ReasonNotPositive},
		{MaxRTT + 1, ReasonTooLong},
		{math.MaxInt64, ReasonTooLong},
		{time.Duration(nan), ReasonNotPositive}, // what this platform makes of it
	} {
		if tc.rtt > 0 && tc.rtt <= MaxRTT {
			continue
		}
		err := w.Add(tc.rtt, time.Unix(2, 0))
		if rejected := (*RejectedError)(nil); !errors.As(err, &rejected) {
			t.Errorf("%v: error %v, want a rejection", tc.rtt, err)
		}
	}
	if s := w.Stats(); s.Samples != 1 || s.Lost != 0 || !s.At.Equal(time.Unix(1, 0)) {
		t.Errorf("rejected samples changed the window to %+v", s)
	}
	if err := w.Add(MaxRTT, time.Unix(3, 0)); err != nil {
		t.Errorf("the longest RTT was refused: %v", err)
	}
}

// TestNearestRank compares with the definition: the smallest sample that at least p percent are not above.
func TestNearestRank(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := 1; n <= 120; n++ {
		all := make([]time.Duration, n)
		for i := range all {
			all[i] = time.Duration(1 + r.IntN(50))
		}
		slices.Sort(all)
		for _, p := range []int{1, 25, 75, 85, 95, 100} {
			var want time.Duration
			for _, d := range all {
				atMost := 0
				for _, e := range all {
					if e <= d {
						atMost++
					}
				}
				if atMost*100 >= p*n {
					want = d
					break
				}
			}
			if got := nearestRank(all, p); got != want {
				t.Errorf("percentile %d of %d: %v, want %v", p, n, got, want)
			}
		}
	}
}

func TestWindowSaysHowOldItIs(t *testing.T) {
	w := NewWindow(3)
	if age, known := w.Stats().Age(time.Unix(100, 0)); known {
		t.Errorf("an empty window is %v old", age)
	}
	if err := w.Add(5*ms, time.Unix(40, 0)); err != nil {
		t.Fatal(err)
	}
	w.AddLoss()
	if age, known := w.Stats().Age(time.Unix(100, 0)); age != time.Minute || !known {
		t.Errorf("Age() = %v, %v; want 1m0s", age, known)
	}
	if age, known := w.Stats().Age(time.Unix(30, 0)); age != 0 || !known {
		t.Errorf("Age() before the probe = %v, %v; want 0s", age, known)
	}
}

// TestWindowTail: the 95th percentile of 20 comes and goes with one outlier; the reported one stays while it is among the
// largest.
func TestWindowTail(t *testing.T) {
	w := NewWindow(20)
	r := rand.New(rand.NewPCG(1, 2))
	var seen moves
	for i := range 20_000 {
		addMillis(t, w, outliers(.05, gauss(.02))(r)*20)
		typical, tail, known := w.Stats().RTT()
		if !known || tail < typical {
			t.Fatalf("typical %v, tail %v, %v", typical, tail, known)
		}
		if i > 20 {
			seen.see(float64(tail) / float64(ms))
		}
	}
	t.Logf("%.2f moves of the tail in 1000 probes", float64(seen.count)/20)
	if seen.count > 20*30 {
		t.Error("at most 30 were expected")
	}
}
