// SPDX-License-Identifier: Apache-2.0

//go:build perf

package perf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// report is out/perf/report.json.
type report struct {
	Ratios []*ratio `json:"ratios"`
}

// ratio is how many times better a case is than another in a metric: above 1 it is better, whatever the metric. It is the median of pairs that
// ran one after the other.
type ratio struct {
	Case    string  `json:"case"`
	Against string  `json:"against"`
	Metric  string  `json:"metric"`
	Ratio   float64 `json:"ratio"`
	Runs    int     `json:"runs"`
	// Lowest and Highest are the ratios of single pairs.
	Lowest  float64 `json:"lowest"`
	Highest float64 `json:"highest"`
	// Seconds is the shortest measured part of its runs; 0 where the work and not the time was given.
	Seconds float64 `json:"seconds,omitempty"`
	// Bar is what the ratio must reach; 0 where nothing is asked.
	Bar float64 `json:"bar,omitempty"`

	fresh bool // of this run
}

// loadReport returns what earlier tests left: the tests of this package share the file.
func loadReport(t *testing.T, dir string) *report {
	t.Helper()
	r := &report{}
	data, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return r
	}
	if err == nil {
		err = json.Unmarshal(data, r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *report) set(caseName, against, metric string, bar float64, pairs []float64, shortest time.Duration) {
	sorted := slices.Sorted(slices.Values(pairs))
	n := len(sorted)
	got := &ratio{
		Case: caseName, Against: against, Metric: metric, Bar: bar, Runs: n,
		Ratio: (sorted[(n-1)/2] + sorted[n/2]) / 2, Lowest: sorted[0], Highest: sorted[n-1],
		Seconds: math.Round(shortest.Seconds()), fresh: true,
	}
	i := slices.IndexFunc(r.Ratios, func(o *ratio) bool { return o.Case == caseName && o.Against == against && o.Metric == metric })
	if i < 0 {
		r.Ratios = append(r.Ratios, got)
		return
	}
	r.Ratios[i] = got
}

// table has the ratios of this run.
func (r *report) table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "case\tagainst\tmetric\ttimes better\tlowest – highest\truns\tat least\tbar")
	for _, x := range r.Ratios {
		if !x.fresh {
			continue
		}
		bar := ""
		switch {
		case x.Bar == 0:
		case x.Ratio >= x.Bar:
			bar = fmt.Sprintf("≥ %g: kept", x.Bar)
		default:
			bar = fmt.Sprintf("≥ %g: MISSED", x.Bar)
		}
		measured := ""
		if x.Seconds > 0 {
			measured = fmt.Sprintf("%.0f s", x.Seconds)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.3f\t%.3f – %.3f\t%d\t%s\t%s\n", x.Case, x.Against, x.Metric, x.Ratio, x.Lowest, x.Highest, x.Runs, measured, bar)
	}
	w.Flush()
	return b.String()
}

// judge fails where enough pairs miss a bar.
func (r *report) judge(t *testing.T) {
	t.Helper()
	for _, x := range r.Ratios {
		if x.fresh && x.Bar > 0 && x.Runs >= enoughRounds && x.Ratio < x.Bar {
			t.Errorf("%s against %s: %s is %.3f times as good, want %g", x.Case, x.Against, x.Metric, x.Ratio, x.Bar)
		}
	}
}

func (r *report) write(t *testing.T, dir string) {
	t.Helper()
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	// In one step: a run that is broken off leaves a whole file.
	path := filepath.Join(dir, "report.json")
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
