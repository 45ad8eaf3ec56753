// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDescribe(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[len(hundred)-1-i] = float64(i + 1)
	}
	tests := map[string]struct {
		in   []float64
		want figures
	}{
		"one value is everything":     {in: []float64{7}, want: figures{Mean: 7, P50: 7, P95: 7}},
		"the order does not matter":   {in: hundred, want: figures{Mean: 50.5, P50: 50, P95: 95}},
		"p95 of a few is the largest": {in: []float64{9, 1, 2}, want: figures{Mean: 4, P50: 2, P95: 9}},
		"figures are in microseconds": {in: []float64{1, 1, 0}, want: figures{Mean: 0.667, P50: 1, P95: 1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := append([]float64(nil), tt.in...)
			if diff := cmp.Diff(tt.want, describe(tt.in)); diff != "" {
				t.Errorf("figures (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, tt.in); diff != "" {
				t.Errorf("the values were changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReportFile(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "out")
	r := report{RequestLatencyMillis: map[string]figures{
		"fogsched": {Mean: 1.5, P50: 1, P95: 2}, "default-scheduler": {Mean: 3, P50: 3, P95: 4},
	}}
	path, err := r.write(folder)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "requestLatencyMillis": {
    "default-scheduler": {
      "mean": 3,
      "p50": 3,
      "p95": 4
    },
    "fogsched": {
      "mean": 1.5,
      "p50": 1,
      "p95": 2
    }
  }
}
`
	if diff := cmp.Diff(want, string(got)); diff != "" || filepath.Base(path) != "report.json" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestNothingMeasuredLeavesNoReport(t *testing.T) {
	folder := t.TempDir()
	if path, err := (&report{}).write(folder); err != nil || path != "" {
		t.Errorf("path %q, error %v: want neither", path, err)
	}
	if files, _ := os.ReadDir(folder); len(files) > 0 {
		t.Errorf("there is %s", files[0].Name())
	}
}
