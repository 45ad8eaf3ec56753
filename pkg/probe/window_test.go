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

// TestTailIsTheNearestRank compares with the definition: the smallest sample that at least 95 % are not above.
func TestTailIsTheNearestRank(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := 1; n <= 120; n++ {
		w := NewWindow(n)
		var all []time.Duration
		for range n {
			d := time.Duration(1 + r.IntN(50))
			all = append(all, d)
			if err := w.Add(d, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(all)
		var want time.Duration
		for _, d := range all {
			atMost := 0
			for _, e := range all {
				if e <= d {
					atMost++
				}
			}
			if atMost*100 >= 95*n {
				want = d
				break
			}
		}
		if _, tail, _ := w.Stats().RTT(); tail != want {
			t.Errorf("n = %d: %v, want %v", n, tail, want)
		}
	}
}
