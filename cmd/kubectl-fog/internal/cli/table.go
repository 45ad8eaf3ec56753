// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/mattn/go-runewidth"
	"sigs.k8s.io/yaml"
)

// Style is how a text looks on a terminal with colours.
type Style string

// The styles, as the parameters of an ANSI escape sequence. Nothing is told by colour alone.
const (
	Plain  Style = ""
	Bold   Style = "1"
	Dim    Style = "2"
	Good   Style = "32"
	Warn   Style = "33"
	Bad    Style = "31"
	Strong Style = "1;31"
)

// Paint returns a text in a style where there are colours.
func (o *Options) Paint(s Style, text string) string {
	if s == Plain || text == "" || !o.Colored() {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// Column is one column of a table.
type Column struct {
	Name  string
	Right bool // aligned to the right, as numbers are
	// Cut columns are cut short where the terminal is narrow, down to eight characters.
	Cut bool
	// Drop is the order in which columns are left out where cutting is not enough, 1 first; 0 is never.
	Drop int
}

// Cell is a text and its style.
type Cell struct {
	Text  string
	Style Style
}

// Text returns a plain cell.
func Text(s string) Cell { return Cell{Text: s} }

// Table is what people read. Its cells have no line breaks: those of others' texts become spaces, and what would steer a terminal is left out.
type Table struct {
	Columns []Column
	Rows    [][]Cell
	// Indent is put before each line.
	Indent string
	// NoHeader leaves out the names of the columns.
	NoHeader bool
}

// Row appends a row. A value is a Cell or a string.
func (t *Table) Row(values ...any) {
	row := make([]Cell, len(t.Columns))
	for i, v := range values {
		switch v := v.(type) {
		case Cell:
			row[i] = v
		case string:
			row[i] = Cell{Text: v}
		default:
			row[i] = Cell{Text: fmt.Sprint(v)}
		}
	}
	t.Rows = append(t.Rows, row)
}

const (
	gap      = 2 // between columns
	leastCut = 8
)

// Clean returns a text that does nothing to a terminal: control characters are left out, line breaks and tabs become spaces.
func Clean(s string) string {
	if printable(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return -1
		}
		return r
	}, s)
}

// printable reports whether a text has only the characters of ASCII that take one column each. Nearly all do, a matrix can have 200,000 of
// them, and each is asked for its width several times: they are not searched for graphemes.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Width returns how many columns of a terminal a text takes.
func Width(s string) int {
	if printable(s) {
		return len(s)
	}
	return runewidth.StringWidth(s)
}

// Cut shortens a text to a width, with an ellipsis at its end.
func Cut(s string, width int) string {
	if Width(s) <= width {
		return s
	}
	return runewidth.Truncate(s, width, "…")
}

// Print writes a table, no wider than the terminal as far as its columns can be cut or left out.
func (o *Options) Print(t *Table) error { return t.write(o.Out, o.Columns(), o.Paint) }

func (t *Table) write(w io.Writer, limit int, paint func(Style, string) string) error {
	rows := make([][]Cell, 0, len(t.Rows)+1)
	if !t.NoHeader {
		header := make([]Cell, len(t.Columns))
		for i, c := range t.Columns {
			header[i] = Cell{Text: c.Name, Style: Bold}
		}
		rows = append(rows, header)
	}
	for _, r := range t.Rows {
		row := make([]Cell, len(r))
		for i, c := range r {
			row[i] = Cell{Text: Clean(c.Text), Style: c.Style}
		}
		rows = append(rows, row)
	}
	widths := make([]int, len(t.Columns))
	for _, r := range rows {
		for i, c := range r {
			widths[i] = max(widths[i], Width(c.Text))
		}
	}
	shown := t.fit(widths, limit-Width(t.Indent))
	var b strings.Builder
	for _, r := range rows {
		b.WriteString(t.Indent)
		pad := 0
		for k, i := range shown {
			if k > 0 {
				pad += gap
			}
			text := Cut(r[i].Text, widths[i])
			width := Width(text)
			space := widths[i] - width
			if t.Columns[i].Right {
				pad, space = pad+space, 0
			}
			if text != "" { // no spaces at the end of a line
				b.WriteString(strings.Repeat(" ", pad))
				b.WriteString(paint(r[i].Style, text))
				pad = 0
			} else {
				pad += width
			}
			pad += space
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fit returns which columns are shown, and shortens the widths of those that are cut. limit 0 or less is no bound.
func (t *Table) fit(widths []int, limit int) (shown []int) {
	for i := range t.Columns {
		shown = append(shown, i)
	}
	if limit <= 0 {
		return shown
	}
	total := func() int {
		sum := gap * (len(shown) - 1)
		for _, i := range shown {
			sum += widths[i]
		}
		return sum
	}
	cut := func() {
		for total() > limit {
			widest := -1
			for _, i := range shown {
				if t.Columns[i].Cut && widths[i] > leastCut && (widest < 0 || widths[i] > widths[widest]) {
					widest = i
				}
			}
			if widest < 0 {
				return
			}
			widths[widest]--
		}
	}
	full := append([]int(nil), widths...)
	for cut(); total() > limit; cut() {
		next := -1
		for k, i := range shown {
			if d := t.Columns[i].Drop; d > 0 && (next < 0 || d < t.Columns[shown[next]].Drop) {
				next = k
			}
		}
		if next < 0 {
			break
		}
		shown = append(shown[:next], shown[next+1:]...)
		copy(widths, full)
	}
	return shown
}

// PrintObject writes an object as JSON or YAML.
func (o *Options) PrintObject(format string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if format == "yaml" {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
		_, err = o.Out.Write(data)
		return err
	}
	_, err = o.Out.Write(append(data, '\n'))
	return err
}
