// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
)

func (e *options) print(pod *v1.Pod, all []*Explanation) error {
	if e.output == "json" || e.output == "yaml" {
		if pod != nil {
			return e.PrintObject(e.output, all[0])
		}
		return e.PrintObject(e.output, struct {
			Items []*Explanation `json:"items"`
		}{all})
	}
	for i, x := range all {
		if i > 0 {
			fmt.Fprintln(e.Out)
		}
		if err := e.printOne(pod, x); err != nil {
			return err
		}
	}
	return nil
}

func (e *options) heading(format string, args ...any) {
	fmt.Fprintf(e.Out, "\n%s\n", e.Paint(cli.Bold, cli.Clean(fmt.Sprintf(format, args...))))
}

// text writes a sentence, broken at the terminal's width.
func (e *options) text(indent, s string) {
	width := e.Columns()
	if width <= 0 || width > 120 {
		width = 120
	}
	line := indent
	for _, word := range strings.Fields(cli.Clean(s)) {
		if line != indent && cli.Width(line)+1+cli.Width(word) > width {
			fmt.Fprintln(e.Out, line)
			line = strings.Repeat(" ", len(indent))
		} else if strings.TrimSpace(line) != "" && line != indent {
			line += " "
		}
		line += word
	}
	fmt.Fprintln(e.Out, line)
}

func (e *options) printOne(pod *v1.Pod, x *Explanation) error {
	switch {
	case x.State == "placed":
		since := ""
		if pod != nil && pod.Status.StartTime != nil {
			since = ", for " + e.Now().Sub(pod.Status.StartTime.Time).Round(1e9).String()
		}
		e.text("", fmt.Sprintf("Pod %s is on node %s (scheduler %s%s).", x.Pod, x.Node, x.Scheduler, since))
	case x.State == "pending":
		e.text("", fmt.Sprintf("Pod %s is pending (scheduler %s).", x.Pod, x.Scheduler))
	case x.Node == "" && len(x.Replicas) > 0:
		e.text("", fmt.Sprintf("%s would stay pending: no node takes its first pod.", x.Workload))
	case x.Node == "":
		e.text("", fmt.Sprintf("%s would have no pod.", x.Workload))
	default:
		e.text("", fmt.Sprintf("The first pod of %s would go to node %s.", x.Workload, x.Node))
	}
	for _, note := range x.Notes {
		e.text("! ", note)
	}
	if err := e.printWishes(x); err != nil {
		return err
	}
	if x.Placed != nil {
		if err := e.printPlaced(x.Placed); err != nil {
			return err
		}
	}
	if err := e.printCandidates(x); err != nil {
		return err
	}
	if err := e.printExcluded(x); err != nil {
		return err
	}
	if len(x.Mend) > 0 {
		e.heading("What would make it fit")
		for _, m := range x.Mend {
			e.text("- ", m)
		}
	}
	if len(x.Replicas) > 1 {
		e.heading("Where its pods would go, one after the other")
		t := &cli.Table{Columns: []cli.Column{{Name: "POD", Right: true}, {Name: "NODE", Cut: true}}, Indent: "  "}
		for i, n := range x.Replicas {
			if n == "" {
				t.Row(fmt.Sprint(i+1), cli.Cell{Text: "pending", Style: cli.Bad})
				continue
			}
			t.Row(fmt.Sprint(i+1), n)
		}
		if err := e.Print(t); err != nil {
			return err
		}
	}
	if x.Data.Nodes > 0 {
		line := fmt.Sprintf("Data: %d of %d pairs of nodes measured", x.Data.MeasuredPairs, x.Data.Pairs)
		if x.Data.Oldest != "" {
			line += ", the oldest report " + x.Data.Oldest + " old"
		}
		if n := len(x.Data.Silent); n > 0 {
			line += fmt.Sprintf("; no current report from %s (%s)", count(n, "node"), some(x.Data.Silent, 3))
		}
		fmt.Fprintln(e.Out)
		e.text("", line+".")
	}
	return nil
}

func (e *options) printWishes(x *Explanation) error {
	if len(x.Wishes) == 0 {
		e.heading("No intent concerns it")
		e.text("  ", "No LatencyPolicy selects it, it has no annotation fogsched.dev/latency, and nobody that has one calls it: it is placed as by the stock scheduler.")
		return nil
	}
	e.heading("What is wished for")
	t := &cli.Table{Indent: "  ", Columns: []cli.Column{
		{Name: "FROM", Cut: true, Drop: 3},
		{Name: "ENTRY"},
		{Name: "TARGET", Cut: true},
		{Name: "LIMIT", Right: true},
		{Name: "ROUTING", Drop: 1},
		{Name: "WEIGHT", Right: true, Drop: 2},
		{Name: "ON NODES", Cut: true, Drop: 4},
	}}
	for _, w := range x.Wishes {
		for _, en := range w.Entries {
			limit := cli.Text("–")
			if en.Limit != "" {
				limit = cli.Text(en.Limit)
				if en.Hard {
					limit.Text += " hard"
				}
			}
			nodes := cli.Text(fmt.Sprintf("%d: %s", len(en.Nodes), some(en.Nodes, 3)))
			if len(en.Nodes) <= 2 {
				nodes.Text = strings.Join(en.Nodes, ", ")
			}
			if len(en.Nodes) == 0 {
				nodes = cli.Cell{Text: "none: no part in the choice", Style: cli.Warn}
			}
			t.Row(w.From, en.Entry, en.Target, limit, en.Routing, fmt.Sprintf("%g", en.Weight), nodes)
		}
	}
	return e.Print(t)
}

func (e *options) printPlaced(p *nodelatency.Placement) error {
	e.heading("When the scheduler placed it on %s", p.Node)
	if p.Cost != "" {
		line := fmt.Sprintf("Cost %s, of %d candidates", p.Cost, p.Candidates)
		if r := p.RunnerUp; r != nil {
			line += fmt.Sprintf("; the next by latency was %s with %s", r.Node, mark(r.Cost, r.Provenance))
			if r.LimitBroken {
				line += ", which breaks a limit"
			}
		}
		e.text("  ", line+".")
	}
	t := entryTable()
	for i := range p.Entries {
		addEntry(t, &p.Entries[i])
	}
	if err := e.Print(t); err != nil {
		return err
	}
	if p.EntriesLeftOut > 0 {
		fmt.Fprintf(e.Out, "  and %d more entries\n", p.EntriesLeftOut)
	}
	return nil
}

func entryTable() *cli.Table {
	return &cli.Table{Indent: "  ", Columns: []cli.Column{
		{Name: "ENTRY"},
		{Name: "TARGET", Cut: true, Drop: 3},
		{Name: "RTT", Right: true},
		{Name: "TAIL", Right: true, Drop: 4},
		{Name: "LIMIT", Right: true},
		{Name: "HOW", Drop: 2},
		{Name: "AGE", Right: true, Drop: 1},
	}}
}

func addEntry(t *cli.Table, en *nodelatency.PlacementEntry) {
	limit := cli.Text("–")
	if en.Limit != "" {
		limit = cli.Cell{Text: en.Limit + " kept", Style: cli.Good}
		if en.LimitBroken {
			limit = cli.Cell{Text: en.Limit + " BROKEN", Style: cli.Strong}
		}
	}
	how := en.Provenance
	if en.Error != "" {
		how += " " + en.Error
	}
	if en.UnknownPairs > 0 {
		how += fmt.Sprintf(", %d pairs unknown", en.UnknownPairs)
	}
	t.Row(en.Entry, en.Target, mark(en.Typical, en.Provenance), mark(en.Tail, en.Provenance), limit, how, en.Age)
}

// mark returns an RTT for a table: with a "~" where it is estimated, "–" where it is unknown.
func mark(rtt, provenance string) string {
	switch {
	case rtt == "":
		return "–"
	case provenance == latency.Local.String(), provenance == latency.Measured.String(), provenance == latency.Reverse.String():
		return rtt
	}
	return "~" + rtt
}

func (e *options) printCandidates(x *Explanation) error {
	if x.CandidateCount == 0 {
		return nil
	}
	what := "Now, if it were placed again"
	if x.State != "placed" {
		what = "The nodes that it can go to"
	}
	of := fmt.Sprintf("the best %d of %d candidates", len(x.Candidates), x.CandidateCount)
	switch {
	case x.CandidateCount == 1:
		of = "one candidate"
	case len(x.Candidates) == x.CandidateCount:
		of = fmt.Sprintf("all %d candidates", x.CandidateCount)
	}
	e.heading("%s: %s, among %s", what, of, count(x.NodeCount, "node"))
	t := &cli.Table{Indent: "  ", Columns: []cli.Column{{Name: "#", Right: true}, {Name: "NODE", Cut: true}, {Name: "COST", Right: true}}}
	entries := x.Candidates[0].Entries
	for i := range entries {
		t.Columns = append(t.Columns, cli.Column{Name: short(&entries[i]), Right: true, Drop: 10 + len(entries) - i})
	}
	t.Columns = append(t.Columns, cli.Column{Name: "LIMITS", Drop: 4}, cli.Column{Name: "SCORE", Right: true, Drop: 2})
	var plugins []string
	if e.output == "wide" {
		plugins = pluginsOf(x.Candidates)
		for _, p := range plugins {
			t.Columns = append(t.Columns, cli.Column{Name: p, Right: true, Drop: 1})
		}
	}
	t.Columns = append(t.Columns, cli.Column{Name: ""})
	for i := range x.Candidates {
		c := &x.Candidates[i]
		cost := cli.Text("–")
		if c.Cost != "" {
			worst := latency.Local.String()
			for k := range c.Entries {
				if p := c.Entries[k].Provenance; mark("x", p) != "x" {
					worst = p
				}
			}
			cost.Text = mark(c.Cost, worst)
		}
		row := []any{fmt.Sprint(i + 1), c.Node, cost}
		for k := range entries {
			rtt := "–"
			if k < len(c.Entries) {
				rtt = mark(c.Entries[k].Typical, c.Entries[k].Provenance)
			}
			row = append(row, rtt)
		}
		limits := cli.Text("–")
		for k := range c.Entries {
			if c.Entries[k].Limit != "" && limits.Text != "BROKEN" {
				limits = cli.Cell{Text: "kept", Style: cli.Good}
				if c.Entries[k].LimitBroken {
					limits = cli.Cell{Text: "BROKEN", Style: cli.Strong}
				}
			}
		}
		row = append(row, limits, fmt.Sprint(c.Score))
		for _, p := range plugins {
			row = append(row, fmt.Sprint(c.Scores[p]))
		}
		here := ""
		if c.Node == x.Node && x.State == "placed" {
			here = "← it is here"
		}
		t.Row(append(row, here)...)
	}
	if err := e.Print(t); err != nil {
		return err
	}
	if x.State == "placed" && !slices.ContainsFunc(x.Candidates, func(c Candidate) bool { return c.Node == x.Node }) {
		e.text("  ", fmt.Sprintf("Its node, %s, is not among them now.", x.Node))
	}
	return nil
}

// count returns a number of things in words.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// short names an entry in the head of a column.
func short(en *nodelatency.PlacementEntry) string {
	s := strings.TrimPrefix(strings.TrimPrefix(en.Target, "callers of "), "service ")
	if strings.HasPrefix(en.Target, "callers of ") {
		s = "callers of " + s
	}
	return cli.Cut(cli.Clean(s), 24)
}

func pluginsOf(candidates []Candidate) []string {
	var names []string
	for i := range candidates {
		for p := range candidates[i].Scores {
			if !slices.Contains(names, p) {
				names = append(names, p)
			}
		}
	}
	slices.Sort(names)
	return names
}

func (e *options) printExcluded(x *Explanation) error {
	if len(x.Excluded) > 0 {
		e.heading("What excludes the others")
		t := &cli.Table{Indent: "  ", Columns: []cli.Column{{Name: "NODES", Right: true}, {Name: "PLUGIN", Drop: 1}, {Name: "REASON", Cut: true}, {Name: "WHICH", Cut: true, Drop: 2}}}
		for _, g := range x.Excluded {
			t.Row(fmt.Sprint(len(g.Nodes)), g.Plugin, g.Reason, some(g.Nodes, 3))
		}
		if err := e.Print(t); err != nil {
			return err
		}
	}
	if len(x.Limits) == 0 {
		return nil
	}
	e.heading("Limits, on the nodes that nothing else excludes")
	t := &cli.Table{Indent: "  ", Columns: []cli.Column{
		{Name: "ENTRY"},
		{Name: "TARGET", Cut: true, Drop: 2},
		{Name: "LIMIT", Right: true},
		{Name: "KEPT BY", Right: true},
		{Name: "BEYOND IT", Right: true},
		{Name: "UNMEASURED", Right: true, Drop: 3},
		{Name: "NEAREST MISS", Cut: true, Drop: 1},
	}}
	for _, b := range x.Limits {
		limit := b.Limit
		if b.Hard {
			limit += " hard"
		}
		miss := ""
		if b.Nearest != "" {
			miss = b.Nearest + " with " + b.NearestRTT + to(b.NearestTo)
		}
		t.Row(b.Entry, b.Target, limit, fmt.Sprint(b.Kept), fmt.Sprint(b.Exceeded), fmt.Sprint(b.Unmeasured), miss)
	}
	return e.Print(t)
}
