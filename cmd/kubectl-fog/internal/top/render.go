// SPDX-License-Identifier: Apache-2.0

package top

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/policy"
	"github.com/fogsched/fogsched/pkg/latency"
)

// plainRows is how many rows a part has where there is no terminal that bounds them.
const plainRows = 20

// part is one of the lists of a frame.
type part struct {
	title string
	count int
	note  string // behind the count
	none  string
	table *cli.Table
}

// render makes the lines of a frame for a terminal of a width and a height; 0 does not bound them. colored says whether they have colours.
func render(o *cli.Options, f *frame, width, height int, colored bool) []string {
	q := *o
	q.Width, q.Color = width, "never"
	if colored {
		q.Color = "always"
	}
	head := fmt.Sprintf("kubectl fog top  %s  started %s ago", f.at.Format("15:04:05"), cli.Age(f.since))
	summary := fmt.Sprintf("%s, %s reporting; %s of %s measured (%s)", cli.Plural(f.nodes, "node", "nodes"), cli.Count(f.reporting),
		cli.Count(f.measured), cli.Plural(f.pairs, "pair", "pairs"), cli.Share(f.measured, f.pairs))
	lines := []string{q.Paint(cli.Bold, cut(head, width)), cut(summary, width)}
	if f.trouble != "" {
		lines = append(lines, q.Paint(cli.Bad, cut("The connection is broken, and this may be old: "+cli.Clean(f.trouble), width)))
	}
	parts := []part{f.pendingPart(), f.placementsPart(), f.policiesPart(), f.changesPart(), f.nodesPart()}
	counts := make([]int, len(parts))
	for i := range parts {
		counts[i] = len(parts[i].table.Rows)
	}
	spacious := true
	if height > 0 {
		left := height - len(lines) - len(parts)
		if spacious = left-len(parts) >= len(parts); spacious {
			left -= len(parts) // an empty line before each
		}
		share(counts, max(left, 0))
	} else {
		for i := range counts {
			counts[i] = min(counts[i], plainRows)
		}
	}
	for i := range parts {
		p := &parts[i]
		if spacious {
			lines = append(lines, "")
		}
		title := p.title
		all := len(p.table.Rows)
		rows := min(counts[i], all)
		if all == 0 {
			title += "  " + p.none
		} else {
			title += "  " + cli.Count(p.count) + p.note
			if rows < all {
				title += fmt.Sprintf(", %d of them here", rows)
			}
		}
		name, rest, _ := strings.Cut(cut(title, width), "  ")
		lines = append(lines, strings.TrimRight(q.Paint(cli.Bold, name)+"  "+rest, " "))
		if rows == 0 {
			continue
		}
		var b bytes.Buffer
		q.Out = &b
		p.table.Rows, p.table.NoHeader, p.table.Indent = p.table.Rows[:rows], true, "  "
		_ = q.Print(p.table) // to memory
		lines = append(lines, strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")...)
	}
	if height > 0 && len(lines) > height {
		lines = lines[:height]
	}
	return lines
}

func cut(s string, width int) string {
	if width <= 0 {
		return s
	}
	return cli.Cut(s, width)
}

// share shortens counts so that they add up to at most a total, the longest first.
func share(counts []int, total int) {
	for {
		sum := 0
		for _, c := range counts {
			sum += c
		}
		if sum <= total {
			return
		}
		most := slices.Max(counts)
		counts[slices.Index(counts, most)]--
	}
}

func (f *frame) pendingPart() part {
	t := &cli.Table{Columns: []cli.Column{{Cut: true}, {Right: true}, {Cut: true}}}
	for _, p := range f.pending {
		t.Row(cli.Cell{Text: p.pod, Style: cli.Warn}, cli.Age(p.age), p.reason)
	}
	return part{title: "PENDING PODS OF " + strings.ToUpper(cli.Clean(f.scheduler)), count: len(f.pending), none: "none", table: t}
}

func (f *frame) placementsPart() part {
	t := &cli.Table{Columns: []cli.Column{{Cut: true}, {Cut: true}, {Right: true}, {Right: true}, {Drop: 1}}}
	for _, p := range f.placements {
		style, cost, note := cli.Plain, cli.None, ""
		if p.fresh {
			style = cli.Bold
		}
		if p.cost != "" {
			if cost = p.cost; p.estimated {
				cost = "~" + p.cost
			}
		}
		noteStyle := cli.Good
		switch {
		case p.limitBroken:
			note, noteStyle = "limit broken", cli.Bad
		case p.fresh:
			note = "new"
		}
		t.Row(cli.Cell{Text: p.pod, Style: style}, "→ "+p.node, cost, cli.Age(p.age), cli.Cell{Text: note, Style: noteStyle})
	}
	return part{title: "PLACEMENTS", count: len(f.placements), note: fmt.Sprintf(", %s since the start", cli.Count(f.placed)), none: "none", table: t}
}

func (f *frame) policiesPart() part {
	t := &cli.Table{Columns: []cli.Column{{Cut: true}, {}, {Right: true, Drop: 2}, {Right: true}, {Right: true, Drop: 3}, {Cut: true, Drop: 1}}}
	for i := range f.policies {
		p := &f.policies[i]
		pods := cli.Plural(int(p.Pods), "pod", "pods")
		if p.State == policy.NoStatus {
			pods = cli.None
		}
		t.Row(p.Namespace+"/"+p.Name, cli.Cell{Text: string(p.State), Style: policy.StyleOf(p.State)}, pods, figure(p.Typical, p.Estimated), figure(p.Tail, p.Estimated),
			p.Worst)
	}
	broken := 0
	for i := range f.policies {
		if f.policies[i].State == policy.Broken {
			broken++
		}
	}
	return part{title: "POLICIES", count: len(f.policies), note: fmt.Sprintf(", %s broken", cli.Count(broken)), none: "none", table: t}
}

func figure(text string, estimated bool) string {
	switch {
	case text == "":
		return cli.None
	case estimated:
		return "~" + text
	}
	return text
}

func (f *frame) changesPart() part {
	t := &cli.Table{Columns: []cli.Column{{Cut: true}, {Cut: true}, {Right: true, Drop: 1}, {Right: true}, {Right: true, Drop: 2}}}
	for _, c := range f.changes {
		if c.lost {
			t.Row(c.from, "↔ "+c.to, c.was.String(), "→ "+cli.None, cli.Cell{Text: "no answer", Style: cli.Bad})
			continue
		}
		x, _ := c.was.Micros()
		y, _ := c.now.Micros()
		ratio, style := fmt.Sprintf("%+.0f %%", 100*(y/x-1)), cli.Good
		if y > x {
			style = cli.Bad
			if y > 3*x {
				ratio = fmt.Sprintf("×%.1f", y/x)
			}
		}
		t.Row(c.from, "↔ "+c.to, c.was.String(), "→ "+cli.RTT(c.now, latency.Measured), cli.Cell{Text: ratio, Style: style})
	}
	return part{title: "DISTANCES CHANGED SINCE THE START", count: len(f.changes), none: "none by more than 10 %", table: t}
}

func (f *frame) nodesPart() part {
	t := &cli.Table{Columns: []cli.Column{{Cut: true}, {}, {Right: true}}}
	for i := range f.unwell {
		n := &f.unwell[i]
		var words []string
		style := cli.Warn
		if !n.Ready {
			words, style = append(words, "NotReady"), cli.Bad
		}
		for _, m := range n.Marks {
			words = append(words, string(m))
		}
		age := ""
		if n.ObservedAt != nil {
			age = cli.Age(f.at.Sub(n.ObservedAt.Time))
		}
		t.Row(n.Name, cli.Cell{Text: strings.Join(words, ","), Style: style}, age)
	}
	return part{title: "NODES NOT IN ORDER", count: len(f.unwell), none: "none", table: t}
}
