// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"fmt"
	"strings"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
)

// grid is a matrix on paper: named rows and columns, each in a group.
type grid struct {
	corner, groupName string // over the names, and over the groups
	rows, columns     []title
	cell              func(row, column int) cli.Cell
}

type title struct{ group, name string }

const (
	between = 2 // columns of the terminal between two of the matrix
	// longestTitle is how wide a column may get for its name's sake, compared with its cells.
	longestTitle = 12
	leastBlock   = 3 // columns of a matrix beside its rows' names, however narrow the terminal
)

// print writes a grid. Columns have their names where these are short enough for all of them to fit, else numbers: those of the rows,
// where rows and columns are the same, or of a list below. Where even that is too wide, it is written in blocks of columns.
func (c *command) grid(g *grid) error {
	limit := c.Columns()
	cells := make([][]cli.Cell, len(g.rows))
	widest := make([]int, len(g.columns))
	for i := range g.rows {
		cells[i] = make([]cli.Cell, len(g.columns))
		for j := range g.columns {
			cells[i][j] = g.cell(i, j)
			widest[j] = max(widest[j], cli.Width(cells[i][j].Text))
		}
	}
	same := len(g.rows) == len(g.columns)
	for i := 0; same && i < len(g.rows); i++ {
		same = g.rows[i] == g.columns[i]
	}
	names, longest := 0, 0
	for j, t := range g.columns {
		names += between + max(cli.Width(t.name), widest[j])
		longest = max(longest, cli.Width(t.name))
	}
	groupWidth, nameWidth := cli.Width(g.groupName), cli.Width(g.corner)
	for _, t := range g.rows {
		groupWidth, nameWidth = max(groupWidth, cli.Width(t.group)), max(nameWidth, cli.Width(t.name))
	}
	grouped := g.groupName != ""
	if !grouped {
		groupWidth = 0
	}
	head := groupWidth + nameWidth
	if grouped {
		head += between
	}
	numbered := limit > 0 && head+names > limit || limit == 0 && longest > longestTitle
	numbers := len(fmt.Sprint(len(g.columns)))
	if numbered && same {
		head += numbers + between
	}
	columnWidth := func(j int) int {
		if numbered {
			return between + max(numbers, widest[j])
		}
		return between + max(cli.Width(g.columns[j].name), widest[j])
	}
	if limit > 0 {
		// The names of rows give way to at least some columns.
		least := 0
		for j := range min(leastBlock, len(g.columns)) {
			least += columnWidth(j)
		}
		if head+least > limit {
			over := head + least - limit
			cut := min(over, max(nameWidth-8, 0))
			nameWidth, head = nameWidth-cut, head-cut
			cut = min(over-cut, max(groupWidth-6, 0))
			groupWidth, head = groupWidth-cut, head-cut
		}
	}
	for start := 0; start < len(g.columns) || start == 0; {
		end, used := start, head
		for end < len(g.columns) && (end == start || limit <= 0 || used+columnWidth(end) <= limit) {
			used += columnWidth(end)
			end++
		}
		if start > 0 {
			fmt.Fprintln(c.Out)
		}
		t := &cli.Table{}
		if grouped {
			t.Columns = append(t.Columns, cli.Column{Name: g.groupName})
		}
		if numbered && same {
			t.Columns = append(t.Columns, cli.Column{Right: true})
		}
		t.Columns = append(t.Columns, cli.Column{Name: g.corner})
		for j := start; j < end; j++ {
			name := g.columns[j].name
			if numbered {
				name = fmt.Sprint(j + 1)
			}
			t.Columns = append(t.Columns, cli.Column{Name: cli.Clean(name), Right: true})
		}
		last := ""
		for i, r := range g.rows {
			row := make([]cli.Cell, 0, len(t.Columns))
			if grouped {
				group := ""
				if i == 0 || r.group != last {
					group = r.group
				}
				last = r.group
				row = append(row, cli.Cell{Text: cli.Cut(cli.Clean(group), groupWidth), Style: cli.Bold})
			}
			if numbered && same {
				row = append(row, cli.Cell{Text: fmt.Sprint(i + 1), Style: cli.Bold})
			}
			row = append(row, cli.Text(cli.Cut(cli.Clean(r.name), nameWidth)))
			t.Rows = append(t.Rows, append(row, cells[i][start:end]...))
		}
		if err := c.Print(t); err != nil {
			return err
		}
		if start = end; end == len(g.columns) {
			break
		}
	}
	if numbered && !same {
		fmt.Fprintln(c.Out)
		c.columnsList(g, limit)
	}
	return nil
}

// columnsList says which number is which column.
func (c *command) columnsList(g *grid, limit int) {
	if limit <= 0 {
		limit = 100
	}
	line, group := "", ""
	flush := func() {
		if line != "" {
			fmt.Fprintln(c.Out, line)
		}
		line = ""
	}
	for j, t := range g.columns {
		if g.groupName != "" && (j == 0 || t.group != group) {
			flush()
			group = t.group
			line = cli.Clean(t.group) + ":"
		}
		item := fmt.Sprintf(" %d %s", j+1, cli.Clean(t.name))
		if line != "" && !strings.HasSuffix(line, ":") {
			item = "," + item
		}
		if line != "" && cli.Width(line)+cli.Width(item) > limit {
			flush()
			item = "  " + strings.TrimLeft(item, ", ")
		}
		line += item
	}
	flush()
}
