// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-runewidth"

	"github.com/fogsched/fogsched/pkg/latency"
)

func TestWrap(t *testing.T) {
	for _, tc := range []struct {
		text  string
		width int
		want  []string
	}{
		{"a text", 0, []string{"a text"}},
		{"a text that fits", 16, []string{"a text that fits"}},
		{"a text that does not fit", 10, []string{"a text", "that does", "not fit"}},
		{"averylongword in it", 5, []string{"averylongword", "in it"}},
		{"東京 東京 東京", 9, []string{"東京 東京", "東京"}},
		{"", 5, []string{""}},
	} {
		if diff := cmp.Diff(tc.want, Wrap(tc.text, tc.width)); diff != "" {
			t.Errorf("Wrap(%q, %d) (-want +got):\n%s", tc.text, tc.width, diff)
		}
	}
}

// An estimate never looks like a measurement, and unknown never like a number.
func TestRTT(t *testing.T) {
	ms, _ := latency.FromDuration(12340 * time.Microsecond)
	for p, want := range map[latency.Provenance]string{
		latency.Local: "12.3ms", latency.Measured: "12.3ms", latency.Reverse: "12.3ms",
		latency.Zone: "~12.3ms", latency.Ranking: "~12.3ms", latency.Coordinate: "~12.3ms",
	} {
		if got := RTT(ms, p); got != want {
			t.Errorf("%v: %q, want %q", p, got, want)
		}
	}
	if got := RTT(latency.RTT{}, latency.Measured); got != None {
		t.Errorf("unknown: %q", got)
	}
}

func TestNumbers(t *testing.T) {
	for got, want := range map[string]string{
		Age(-time.Second): "0s", Age(119 * time.Second): "119s", Age(2 * time.Minute): "2m", Age(119 * time.Minute): "119m", Age(47 * time.Hour): "47h", Age(49 * time.Hour): "2d",
		Count(0): "0", Count(999): "999", Count(1000): "1,000", Count(12497500): "12,497,500", Count(-1234): "-1,234",
		Plural(1, "node", "nodes"): "1 node", Plural(0, "node", "nodes"): "0 nodes", Plural(2000, "node", "nodes"): "2,000 nodes",
		Share(0, 0): None, Share(0, 7): "0 %", Share(7, 7): "100 %", Share(1, 3): "33.3 %", Share(1, 100_000): "<0.1 %", Share(99_999, 100_000): ">99.9 %",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What is quick for plain texts says the same as what looks at every character.
func TestWidthAndClean(t *testing.T) {
	for b := range 256 {
		s := "a" + string(rune(b)) + "b"
		if got, want := Width(s), runewidth.StringWidth(s); got != want {
			t.Errorf("Width(%q) = %d, want %d", s, got, want)
		}
	}
	for s, want := range map[string]string{
		"~12.3ms": "~12.3ms", "": "", "–": "–", "a\x1b[31mb": "a[31mb", "a\nb\tc": "a b c", "a\x7fb": "ab", "a\u202eb": "ab", "東京": "東京",
	} {
		if got := Clean(s); got != want {
			t.Errorf("Clean(%q) = %q, want %q", s, got, want)
		}
	}
	if got := Width("東京"); got != 4 {
		t.Errorf("Width(東京) = %d, want 4", got)
	}
}
