// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
)

// How a status looks: a sign and a word, so that neither colour nor a sign alone tells.
var looks = map[Status]struct {
	sign, word string
	style      cli.Style
}{
	StatusOK:         {"✓", "ok", cli.Good},
	StatusWarning:    {"!", "warning", cli.Warn},
	StatusProblem:    {"✗", "problem", cli.Strong},
	StatusNotChecked: {"?", "not checked", cli.Dim},
}

// wide is how long a line of prose is where there is no terminal.
const wide = 110

// printReport writes the report for people: one line a check, then what to do about those that are not ok, then the sum.
func printReport(o *cli.Options, r *Report) error {
	w := &page{o: o, width: o.Columns()}
	if w.width <= 0 || w.width > wide {
		w.width = wide
	}
	group := ""
	titles := 0
	for i := range r.Checks {
		titles = max(titles, cli.Width(r.Checks[i].Title))
	}
	for i := range r.Checks {
		c := &r.Checks[i]
		if c.Group != group {
			if group != "" {
				w.line("")
			}
			group = c.Group
			w.line(o.Paint(cli.Bold, strings.ToUpper(group)))
		}
		w.overview(c, titles)
	}
	w.details(r, StatusProblem, "PROBLEMS")
	w.details(r, StatusWarning, "WARNINGS")
	w.notChecked(r)
	w.line("")
	w.prose("", "", summaryLine(o, r))
	_, err := fmt.Fprint(o.Out, w.String())
	return err
}

type page struct {
	strings.Builder
	o     *cli.Options
	width int
}

func (w *page) line(s string) {
	w.WriteString(strings.TrimRight(s, " "))
	w.WriteByte('\n')
}

// overview is one line a check; on a narrow terminal what is said is cut.
func (w *page) overview(c *Check, titles int) {
	const word = 11
	l := looks[c.Status]
	head := fmt.Sprintf("  %s %s  %s  ", w.o.Paint(l.style, l.sign), w.o.Paint(l.style, l.word)+strings.Repeat(" ", word-len(l.word)), c.Title+strings.Repeat(" ", titles-cli.Width(c.Title)))
	room := w.width - (2 + 1 + 1 + word + 2 + titles + 2)
	if room < 10 { // the title says which check it is
		w.line(fmt.Sprintf("  %s %s: %s", w.o.Paint(l.style, l.sign), w.o.Paint(l.style, l.word), c.Title))
		return
	}
	w.line(head + cli.Cut(cli.Clean(c.Message), room))
}

func (w *page) details(r *Report, s Status, title string) {
	titled := false
	for i := range r.Checks {
		c := &r.Checks[i]
		for k := range c.Findings {
			f := &c.Findings[k]
			if f.Severity != s {
				continue
			}
			if !titled {
				titled = true
				w.line("")
				w.line(w.o.Paint(cli.Bold, title))
			}
			w.finding(c, f)
		}
	}
}

func (w *page) finding(c *Check, f *Finding) {
	l := looks[f.Severity]
	w.prose("  "+l.sign+" ", "    ", w.o.Paint(l.style, cli.Clean(f.Message))+w.o.Paint(cli.Dim, " ["+c.ID+"]"))
	for _, e := range f.Evidence {
		w.prose("    - ", "      ", cli.Clean(e))
	}
	w.mend(f.Mend)
}

func (w *page) mend(m Mend) {
	if m.Text != "" {
		w.prose("    mend: ", "      ", cli.Clean(m.Text))
	} else if len(m.Commands) > 0 {
		w.line("    mend:")
	}
	for _, cmd := range m.Commands {
		w.line("      " + w.o.Paint(cli.Bold, cli.Clean(cmd))) // never broken: it is to be copied
	}
}

// notChecked lists what could not be looked at: each reason with the checks that it is the reason for.
func (w *page) notChecked(r *Report) {
	var reasons []string
	concerned := map[string][]string{}
	for i := range r.Checks {
		for _, why := range r.Checks[i].NotChecked {
			if concerned[why] == nil {
				reasons = append(reasons, why)
			}
			concerned[why] = append(concerned[why], r.Checks[i].ID)
		}
	}
	if len(reasons) == 0 {
		return
	}
	w.line("")
	w.line(w.o.Paint(cli.Bold, "NOT CHECKED"))
	for _, why := range reasons {
		w.prose("  "+looks[StatusNotChecked].sign+" ", "    ", cli.Clean(why)+w.o.Paint(cli.Dim, " ["+strings.Join(concerned[why], ", ")+"]"))
	}
	w.howTo(r)
}

// howTo says how to look at what was not, each way once.
func (w *page) howTo(r *Report) {
	var missing []Permission
	told := ""
	for i := range r.Checks {
		c := &r.Checks[i]
		for _, p := range c.MissingPermissions {
			if !slices.Contains(missing, p) {
				missing = append(missing, p)
			}
		}
		if c.HowTo != nil && c.HowTo.Text != told {
			told = c.HowTo.Text
			w.mend(*c.HowTo)
		}
	}
	if len(missing) == 0 {
		return
	}
	var commands []string
	for _, p := range missing {
		commands = append(commands, p.CanI())
	}
	w.mend(Mend{Text: "ask your administrator for these permissions:", Commands: commands})
}

// prose writes words in lines no longer than the terminal. first and next are what lines begin with.
func (w *page) prose(first, next, text string) {
	line, width := first, cli.Width(first)
	empty := true
	for word := range strings.SplitSeq(text, " ") {
		n := visible(word)
		if !empty && width+1+n > w.width {
			w.line(line)
			line, width, empty = next, cli.Width(next), true
		}
		if !empty {
			line += " "
			width++
		}
		line += word
		width += n
		empty = false
	}
	w.line(line)
}

// visible is the width of a word without the escape sequences of its colours.
func visible(s string) int {
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return cli.Width(s)
		}
		k := strings.IndexByte(s[i:], 'm')
		if k < 0 {
			return cli.Width(s)
		}
		s = s[:i] + s[i+k+1:]
	}
}

func summaryLine(o *cli.Options, r *Report) string {
	s := r.Summary
	parts := []string{
		o.Paint(style(s.Problems, cli.Strong), count(s.Problems, "problem")),
		o.Paint(style(s.Warnings, cli.Warn), count(s.Warnings, "warning")),
		o.Paint(style(s.OK, cli.Good), count(s.OK, "check")+" ok"),
	}
	if s.NotChecked > 0 {
		parts = append(parts, fmt.Sprintf("%d not checked", s.NotChecked))
	}
	return strings.Join(parts, ", ")
}

func style(n int, s cli.Style) cli.Style {
	if n == 0 {
		return cli.Plain
	}
	return s
}
