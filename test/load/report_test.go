// SPDX-License-Identifier: Apache-2.0

//go:build load

package load

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/fogsched/fogsched/test/program"
)

// run is what one contestant made of one world.
type run struct {
	Seed uint64 `json:"seed"`
	// CreateSeconds is how long the creation of the pods took, BurstSeconds the time from its start to the last binding.
	CreateSeconds float64 `json:"createSeconds"`
	BurstSeconds  float64 `json:"burstSeconds"`
	outcome
}

// result is what a contestant made of all worlds, and the mean of each figure.
type result struct {
	Name         string  `json:"name"`
	Title        string  `json:"title"`
	Runs         []run   `json:"runs"`
	Mean         outcome `json:"mean"`
	BurstSeconds float64 `json:"burstSeconds"` // the longest
}

// report is out/load/report.json.
type report struct {
	Nodes                 int     `json:"nodes"`
	Pods                  int     `json:"pods"`
	ScrapeIntervalSeconds float64 `json:"scrapeIntervalSeconds"`
	// Before is the load without the pods, Ideal with the pods placed by one who knows the truth.
	Before      result   `json:"before"`
	Ideal       result   `json:"ideal"`
	Contestants []result `json:"contestants"`
}

func newReport() *report {
	r := &report{
		Nodes: nodesPerWorld, Pods: podsPerBurst, ScrapeIntervalSeconds: scrapeInterval.Seconds(),
		Before: result{Name: "before", Title: "before the burst"},
		Ideal:  result{Name: "ideal", Title: "the lowest peak, knowing the truth"},
	}
	for _, seed := range seeds {
		r.Before.add(run{Seed: seed, outcome: newWorld("before", seed).observe(epoch)})
		r.Ideal.add(run{Seed: seed, outcome: ideal(seed, epoch)})
	}
	for _, c := range contestants {
		r.Contestants = append(r.Contestants, result{Name: c.name, Title: c.title})
	}
	return r
}

func (r *report) add(c contestant, one run) {
	for i := range r.Contestants {
		if r.Contestants[i].Name == c.name {
			r.Contestants[i].add(one)
		}
	}
}

func (r *result) add(one run) {
	r.Runs = append(r.Runs, one)
	r.BurstSeconds = max(r.BurstSeconds, one.BurstSeconds)
	r.Mean = outcome{}
	n := float64(len(r.Runs))
	for _, o := range r.Runs {
		r.Mean.Peak += o.Peak / n
		r.Mean.Mean += o.Mean / n
		r.Mean.Stddev += o.Stddev / n
		r.Mean.Above90 += o.Above90 / n
	}
}

// table has the means, and the figures of each seed.
func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d pods in a burst on %d nodes; node CPU utilisation in the quarter of an hour after it, means of %d seeds (each seed)\n",
		r.Pods, r.Nodes, len(seeds))
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "scheduler\tpeak %\tstandard deviation\tmean %\tnodes above 90 %\tburst s")
	for _, c := range slices.Concat([]result{r.Before}, r.Contestants, []result{r.Ideal}) {
		burst := "-"
		if c.BurstSeconds > 0 {
			burst = fmt.Sprintf("%.1f", c.BurstSeconds)
		}
		m := c.Mean
		fmt.Fprintf(w, "%s\t%.1f (%s)\t%.1f (%s)\t%.1f\t%.1f\t%s\n", c.Title,
			m.Peak, c.each(func(o outcome) float64 { return o.Peak }), m.Stddev, c.each(func(o outcome) float64 { return o.Stddev }), m.Mean, m.Above90, burst)
	}
	w.Flush()
	return b.String()
}

func (r *result) each(of func(outcome) float64) string {
	var all []string
	for _, one := range r.Runs {
		all = append(all, fmt.Sprintf("%.1f", of(one.outcome)))
	}
	return strings.Join(all, ", ")
}

// judge fails unless the burst was one, and NodeMetrics has the lowest peak and the lowest standard deviation.
func (r *report) judge(t *testing.T) {
	t.Helper()
	var ours, others []result
	for i, c := range r.Contestants {
		if len(c.Runs) != len(seeds) {
			t.Errorf("%s ran on %d seeds, want %d", c.Title, len(c.Runs), len(seeds))
		}
		// No sample told anybody of the pods that came before.
		if c.BurstSeconds >= scrapeInterval.Seconds() {
			t.Errorf("%s took %.1f s for a burst, more than the scrape interval", c.Title, c.BurstSeconds)
		}
		if contestants[i].ours {
			ours = append(ours, c)
		} else {
			others = append(others, c)
		}
	}
	if len(ours) == 0 || len(others) == 0 {
		t.Fatal("there is nothing to compare")
	}
	for _, mine := range ours {
		for _, c := range others {
			if c.Mean.Peak <= mine.Mean.Peak {
				t.Errorf("%s peaks at %.1f %%, %s at %.1f %%: want it lower", c.Title, c.Mean.Peak, mine.Title, mine.Mean.Peak)
			}
			if c.Mean.Stddev <= mine.Mean.Stddev {
				t.Errorf("the standard deviation with %s is %.1f, with %s %.1f: want it lower", c.Title, c.Mean.Stddev, mine.Title, mine.Mean.Stddev)
			}
		}
	}
}

// write leaves the figures in out/load/report.json.
func (r *report) write() error {
	root, err := program.RepoRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "out", "load")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
