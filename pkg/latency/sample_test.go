// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	now    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	maxAge = 5 * time.Minute
)

func millis(ms float64) RTT {
	r, _ := FromSeconds(ms / 1000)
	return r
}

func TestCheck(t *testing.T) {
	good := Sample{From: "a", To: "b", Typical: 0.020, Tail: 0.035, At: now.Add(-time.Minute), Count: 9, Lost: 1}
	want := Estimate{Typical: millis(20), Tail: millis(35), At: good.At, Count: 9, Lost: 1, Provenance: Measured}

	tests := map[string]struct {
		change     func(*Sample)
		wantReason Reason
		want       func(*Estimate)
	}{
		"a good sample is taken as it is": {
			change: func(*Sample) {}, want: func(*Estimate) {},
		},
		"its source says that it failed, whatever the numbers are": {
			change: func(s *Sample) { s.Failed = true }, wantReason: ReasonFailed,
		},
		"a node's distance to itself": {
			change: func(s *Sample) { s.To = "a" }, wantReason: ReasonSelf,
		},
		"zero":                  {change: func(s *Sample) { s.Typical = 0 }, wantReason: ReasonNotPositive},
		"minus one":             {change: func(s *Sample) { s.Typical = -1 }, wantReason: ReasonNotPositive},
		"underflow":             {change: func(s *Sample) { s.Typical = 1e-320 }, wantReason: ReasonNotPositive},
		"not a number":          {change: func(s *Sample) { s.Typical = math.NaN() }, wantReason: ReasonNaN},
		"infinite":              {change: func(s *Sample) { s.Typical = math.Inf(1) }, wantReason: ReasonInfinite},
		"minus infinity":        {change: func(s *Sample) { s.Typical = math.Inf(-1) }, wantReason: ReasonInfinite},
		"1e308":                 {change: func(s *Sample) { s.Typical = 1e308 }, wantReason: ReasonTooLarge},
		"above a minute":        {change: func(s *Sample) { s.Typical = 60.001 }, wantReason: ReasonTooLarge},
		"without a time":        {change: func(s *Sample) { s.At = time.Time{} }, wantReason: ReasonNoTime},
		"older than it may be":  {change: func(s *Sample) { s.At = now.Add(-maxAge - 1) }, wantReason: ReasonExpired},
		"from 1970":             {change: func(s *Sample) { s.At = time.Unix(0, 0) }, wantReason: ReasonExpired},
		"from the future":       {change: func(s *Sample) { s.At = now.Add(MaxClockSkew + 1) }, wantReason: ReasonFuture},
		"as old as it can be":   {change: func(s *Sample) { s.At = now.Add(-maxAge) }, want: func(e *Estimate) { e.At = now.Add(-maxAge) }},
		"ahead within the skew": {change: func(s *Sample) { s.At = now.Add(MaxClockSkew) }, want: func(e *Estimate) { e.At = now }},
		"taken now":             {change: func(s *Sample) { s.At = now }, want: func(e *Estimate) { e.At = now }},
		"a source without a tail leaves the tail unknown": {
			change: func(s *Sample) { s.Tail = math.NaN() }, want: func(e *Estimate) { e.Tail = RTT{} },
		},
		"a tail of 0 is unknown, not the best": {
			change: func(s *Sample) { s.Tail = 0 }, want: func(e *Estimate) { e.Tail = RTT{} },
		},
		"a tail of 1e308 is unknown": {
			change: func(s *Sample) { s.Tail = 1e308 }, want: func(e *Estimate) { e.Tail = RTT{} },
		},
		"a tail below the median is impossible": {
			change: func(s *Sample) { s.Tail = 0.019 }, want: func(e *Estimate) { e.Tail = RTT{} },
		},
		"a tail that equals the median is possible": {
			change: func(s *Sample) { s.Tail = 0.020 }, want: func(e *Estimate) { e.Tail = e.Typical },
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := good
			tt.change(&s)
			got, reason := Check(s, now, maxAge)
			if reason != tt.wantReason {
				t.Errorf("reason = %q, want %q", reason, tt.wantReason)
			}
			want := want
			if tt.wantReason != "" {
				want = Estimate{}
			} else {
				tt.want(&want)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(RTT{})); diff != "" {
				t.Errorf("estimate (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReasonsAreAllListed(t *testing.T) {
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if r == "" || seen[r] {
			t.Errorf("reason %q is empty or listed twice", r)
		}
		seen[r] = true
	}
	if len(seen) != 14 {
		t.Errorf("Reasons() has %d, want 14", len(seen))
	}
}

func TestProvenanceOrder(t *testing.T) {
	order := []Provenance{Unknown, Coordinate, Zone, Reverse, Measured, Local}
	names := []string{"unknown", "coordinate", "zone", "reverse", "measured", "local"}
	for i, p := range order {
		if i > 0 && p <= order[i-1] {
			t.Errorf("%s is not better than %s", p, order[i-1])
		}
		if p.String() != names[i] {
			t.Errorf("String() = %q, want %q", p, names[i])
		}
		if want := i >= 3; p.IsMeasured() != want {
			t.Errorf("%s.IsMeasured() = %t, want %t", p, p.IsMeasured(), want)
		}
	}
	if got := Provenance(200).String(); got != "unknown" {
		t.Errorf("an impossible provenance is %q, want unknown", got)
	}
}
