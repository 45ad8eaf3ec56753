// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"math"
	"strings"
	"testing"
	"time"
)

func position(t *testing.T, text string) Position {
	t.Helper()
	p, err := ParsePosition(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParsePosition(t *testing.T) {
	for _, good := range []string{"52.52,13.40", "52.52, 13.40", "0,0", "-90,180", "90,-180", "+1e1,2"} {
		if p, err := ParsePosition(good); err != nil || !p.Known() {
			t.Errorf("ParsePosition(%q) = %v, %v", good, p, err)
		}
	}
	for bad, want := range map[string]string{
		"":              "latitude and longitude",
		"52.52":         "latitude and longitude",
		"52.52;13.40":   "latitude and longitude",
		"52.52,13.40,1": "latitude and longitude",
		"N52.52,E13.40": "latitude and longitude",
		"52,52,13,40":   "latitude and longitude",
		"NaN,13.40":     "latitude, which comes first",
		"113.40,52.52":  "latitude, which comes first",
		"Inf,0":         "latitude, which comes first",
		"52.52,NaN":     "longitude, which comes second",
		"52.52,181":     "longitude, which comes second",
	} {
		p, err := ParsePosition(bad)
		if err == nil || !strings.Contains(err.Error(), want) || p.Known() {
			t.Errorf("ParsePosition(%q) = %v, %v; want unknown and %q", bad, p, err, want)
		}
	}
}

func TestLeastRTT(t *testing.T) {
	const berlin, sydney = "52.52,13.40", "-33.87,151.21"
	tests := map[string]struct {
		a, b           string
		wantKilometres float64
	}{
		"the same place":            {berlin, berlin, 0},
		"a hundred metres":          {"52.52,13.40", "52.5209,13.40", 0.1},
		"Berlin to Sydney":          {berlin, sydney, 16090},
		"and back":                  {sydney, berlin, 16090},
		"a quarter of the equator":  {"0,0", "0,90", math.Pi / 2 * 6371},
		"over the date line":        {"0,179.5", "0,-179.5", math.Pi / 180 * 6371},
		"to the antipodes":          {"0,0", "0,180", math.Pi * 6371},
		"from pole to pole":         {"90,17", "-90,-60", math.Pi * 6371},
		"two longitudes, one pole":  {"90,17", "90,-60", 0},
		"the ends of one longitude": {"10,180", "10,-180", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a, b := position(t, tt.a), position(t, tt.b)
			want := time.Duration(tt.wantKilometres / 100 * float64(time.Millisecond)) // there and back at 200 km/ms
			if got := a.LeastRTT(b); (got - want).Abs() > max(want/200, time.Microsecond) {
				t.Errorf("LeastRTT = %v, want %v", got, want)
			}
			for _, factor := range []float64{0.3, 0.9, 0.99, 1.01, 1.5, 2} {
				rtt, reason := FromDuration(time.Duration(factor * float64(a.LeastRTT(b))))
				if reason != "" {
					continue
				}
				if got := fasterThanLight(rtt, a, b); got != (factor < 1) && want > time.Millisecond {
					t.Errorf("%s is faster than light: %t", rtt, got)
				}
			}
		})
	}
	if got := (Position{}).LeastRTT(position(t, berlin)); got != 0 || fasterThanLight(millis(0.001), Position{}, position(t, berlin)) {
		t.Errorf("to an unknown place it takes %v", got)
	}
}
