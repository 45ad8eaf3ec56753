// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// report is report.json. What was not measured is not in it.
type report struct {
	// RequestLatencyMillis has by scheduler what users saw.
	RequestLatencyMillis map[string]figures `json:"requestLatencyMillis,omitempty"`
	// Rounds has by scheduler the mean of each placement, in milliseconds.
	Rounds map[string][]float64 `json:"requestLatencyRoundMeansMillis,omitempty"`
	// Seconds is how long things took that have to be quick.
	Seconds map[string]float64 `json:"seconds,omitempty"`
}

// figures describe latencies, in milliseconds.
type figures struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
}

// describe returns the figures of latencies; there must be at least one.
func describe(millis []float64) figures {
	sorted := slices.Sorted(slices.Values(millis))
	sum := 0.0
	for _, v := range sorted {
		sum += v
	}
	return figures{
		Mean: round(sum / float64(len(sorted))),
		P50:  round(percentile(sorted, 50)),
		P95:  round(percentile(sorted, 95)),
	}
}

// percentile returns the p-th percentile of sorted values by nearest rank.
func percentile(sorted []float64, p int) float64 {
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// round keeps microseconds.
func round(millis float64) float64 { return math.Round(millis*1000) / 1000 }

// write puts the report into a folder and returns its path: "" when there is nothing to report.
func (r *report) write(folder string) (string, error) {
	if len(r.RequestLatencyMillis) == 0 && len(r.Seconds) == 0 {
		return "", nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "report.json")
	return path, os.WriteFile(path, append(data, '\n'), 0o644)
}
