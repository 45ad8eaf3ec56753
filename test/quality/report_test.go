// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// row is what one policy reached in one case, by the true round-trip times.
type row struct {
	Case           string  `json:"case"`
	Policy         string  `json:"policy"`
	MeanMillis     float64 `json:"meanMillis"`
	P50Millis      float64 `json:"p50Millis"`
	P95Millis      float64 `json:"p95Millis"`
	P99Millis      float64 `json:"p99Millis"`
	ToBestMeasured float64 `json:"toBestMeasured,omitempty"` // where there is such a row
	ToOracle       float64 `json:"toOracle"`
	ToOptimum      float64 `json:"toOptimum,omitempty"` // where it was searched for
	// RegretMillis is the mean of what the choices cost above the best ones by the true round-trip times.
	RegretMillis float64 `json:"regretMillis"`
	// DrawMeansMillis has the mean of each draw.
	DrawMeansMillis []float64 `json:"drawMeansMillis,omitempty"`
	// FifthMeansMillis has the mean of each fifth of the trials, where they are not in draws.
	FifthMeansMillis []float64 `json:"fifthMeansMillis,omitempty"`
	// Informational rows are for comparison; no bar is about them.
	Informational bool `json:"informational,omitempty"`
}

func newRow(caseName, policy string, millis []float64) row {
	sorted := slices.Sorted(slices.Values(millis))
	sum := 0.0
	for _, v := range sorted {
		sum += v
	}
	at := func(q float64) float64 { return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)] }
	return row{
		Case: caseName, Policy: policy,
		MeanMillis: sum / float64(len(sorted)), P50Millis: at(0.5), P95Millis: at(0.95), P99Millis: at(0.99),
	}
}

// bar is one thing that must hold.
type bar struct {
	Text  string  `json:"text"`
	Value float64 `json:"value"`
	Limit float64 `json:"limit"`
	Kept  bool    `json:"kept"`
	// Test is the test that the bar is of.
	Test string `json:"test"`
	// NotJudged says why a bar says nothing about the scheduler on these data.
	NotJudged string `json:"notJudged,omitempty"`
}

func (b bar) figure() string {
	if b.Limit == 0 { // a count
		return fmt.Sprintf("%.0f", b.Value)
	}
	return fmt.Sprintf("%.4f", b.Value)
}

type report struct {
	Measured   string `json:"measured"`
	True       string `json:"true"`
	Nodes      int    `json:"nodes"`
	Draws      int    `json:"draws"`
	Placements int    `json:"placementsPerDraw"`
	Rows       []row  `json:"rows"`
	Bars       []bar  `json:"bars"`
}

// cases are the names of the cases in the report, in order.
func (r *report) cases() []string {
	var list []string
	for i := range r.Rows {
		if !slices.Contains(list, r.Rows[i].Case) {
			list = append(list, r.Rows[i].Case)
		}
	}
	return list
}

// find returns the row of a policy.
func (r *report) find(caseName, policy string) *row {
	for i := range r.Rows {
		if r.Rows[i].Case == caseName && r.Rows[i].Policy == policy {
			return &r.Rows[i]
		}
	}
	return nil
}

// relate fills in the ratios of a case's rows.
func (r *report) relate(caseName string) {
	best, oracle := r.find(caseName, "best-measured"), r.find(caseName, "oracle")
	for i := range r.Rows {
		if row := &r.Rows[i]; row.Case == caseName {
			row.ToBestMeasured, row.ToOracle = row.MeanMillis/best.MeanMillis, row.MeanMillis/oracle.MeanMillis
			row.RegretMillis = row.MeanMillis - oracle.MeanMillis
		}
	}
}

// write writes the report. What other tests wrote there about the same round-trip times stays.
func (r *report) write(t *testing.T, path string) error {
	for i := range r.Bars {
		r.Bars[i].Test = t.Name()
	}
	all := *r
	var old report
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &old) == nil && old.Measured == r.Measured && old.True == r.True {
		all.Draws, all.Placements = max(r.Draws, old.Draws), max(r.Placements, old.Placements)
		own := r.cases()
		all.Rows = append(slices.DeleteFunc(old.Rows, func(w row) bool { return slices.Contains(own, w.Case) }), r.Rows...)
		all.Bars = append(slices.DeleteFunc(old.Bars, func(b bar) bool { return b.Test == t.Name() || b.Test == "" }), r.Bars...)
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

func printTable(w io.Writer, rows []row) {
	fmt.Fprintf(w, "  %-26s %9s %9s %9s %9s   %8s %8s\n", "", "mean", "p50", "p95", "p99", "to best", "to")
	fmt.Fprintf(w, "  %-26s %9s %9s %9s %9s   %8s %8s\n", "policy", "ms", "ms", "ms", "ms", "measured", "oracle")
	fmt.Fprintln(w, "  "+strings.Repeat("─", 84))
	for _, r := range rows {
		name := r.Policy
		if r.Informational {
			name += " ·"
		}
		fmt.Fprintf(w, "  %-26s %9s %9s %9s %9s   %8s %8s\n", name,
			millis(r.MeanMillis), millis(r.P50Millis), millis(r.P95Millis), millis(r.P99Millis),
			times(r.ToBestMeasured), times(r.ToOracle))
	}
}

func printBars(w io.Writer, bars []bar) {
	for _, b := range bars {
		word := "kept"
		switch {
		case b.NotJudged != "":
			word = "–"
		case !b.Kept:
			word = "BROKEN"
		}
		fmt.Fprintf(w, "  %-6s  %s: %s\n", word, b.Text, b.figure())
		if b.NotJudged != "" {
			fmt.Fprintf(w, "          not judged: %s\n", b.NotJudged)
		}
	}
}

func millis(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// between returns the lowest and the highest of a list.
func between(list []float64) string {
	if len(list) == 0 {
		return ""
	}
	return millis(slices.Min(list)) + "–" + millis(slices.Max(list))
}

func times(v float64) string {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	if v >= 10 {
		return fmt.Sprintf("%.1f×", v)
	}
	return fmt.Sprintf("%.3f×", v)
}
