// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"bufio"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/latency"
)

// nodeMatrix is the matrix between nodes.
type nodeMatrix struct {
	*command
	network   *latency.Snapshot
	from, to  []place
	statistic latency.Statistic
	now       time.Time
}

func titles(nodes []place) []title {
	out := make([]title, len(nodes))
	for i, n := range nodes {
		out[i] = title{n.zone, n.name}
		if n.zone == "" {
			out[i].group = cli.None
		}
	}
	return out
}

func (m *nodeMatrix) print() error {
	measured, estimated, unknown := 0, 0, 0
	g := &grid{corner: "FROM \\ TO", groupName: "ZONE", rows: titles(m.from), columns: titles(m.to)}
	g.cell = func(i, j int) cli.Cell {
		from, to := m.from[i].number, m.to[j].number
		if from == to {
			return cli.Cell{Text: "·", Style: cli.Dim}
		}
		e := m.network.Estimate(from, to)
		rtt := e.RTT(m.statistic)
		switch {
		case !rtt.Known():
			unknown++
		case e.Provenance.IsMeasured():
			measured++
		default:
			estimated++
		}
		return cli.Cell{Text: cli.RTT(rtt, e.Provenance), Style: classOf(rtt, e.Provenance.IsMeasured())}
	}
	if err := m.grid(g); err != nil {
		return err
	}
	fmt.Fprintln(m.Out)
	m.legend(estimated > 0, unknown > 0)
	m.Say("%s of %s: %s measured, %s estimated, %s unknown.", m.what(), cli.Plural(measured+estimated+unknown, "pair", "pairs"),
		cli.Count(measured), cli.Count(estimated), cli.Count(unknown))
	return nil
}

// what says what is shown.
func (c *command) what() string {
	if c.statistic == "tail" {
		return "95th percentile"
	}
	return "Median RTT"
}

// each calls f for every pair of different nodes.
func (m *nodeMatrix) each(f func(from, to *place, e *latency.Estimate) error) error {
	for i := range m.from {
		for j := range m.to {
			if m.from[i].number == m.to[j].number {
				continue
			}
			e := m.network.Estimate(m.from[i].number, m.to[j].number)
			if err := f(&m.from[i], &m.to[j], &e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *nodeMatrix) list() error {
	t := &cli.Table{Columns: []cli.Column{
		{Name: "FROM", Cut: true},
		{Name: "TO", Cut: true},
		{Name: "TYPICAL", Right: true},
		{Name: "TAIL", Right: true},
		{Name: "PROVENANCE"},
		{Name: "AGE", Right: true, Drop: 3},
		{Name: "LOSS", Right: true, Drop: 4},
		{Name: "FROM ZONE", Drop: 1},
		{Name: "TO ZONE", Drop: 2},
	}}
	err := m.each(func(from, to *place, e *latency.Estimate) error {
		measured := e.Provenance.IsMeasured()
		age, lost := cli.None, cli.None
		if !e.At.IsZero() {
			age = cli.Age(m.now.Sub(e.At))
		}
		if total := int(e.Count) + int(e.Lost); total > 0 {
			lost = cli.Share(int(e.Lost), total)
		}
		t.Row(from.name, to.name, cli.Cell{Text: cli.RTT(e.Typical, e.Provenance), Style: classOf(e.Typical, measured)},
			cli.Cell{Text: cli.RTT(e.Tail, e.Provenance), Style: classOf(e.Tail, measured)}, e.Confidence(), age, lost, orNone(from.zone), orNone(to.zone))
		return nil
	})
	if err != nil {
		return err
	}
	return m.Print(t)
}

func orNone(s string) string {
	if s == "" {
		return cli.None
	}
	return s
}

func (m *nodeMatrix) pair(from, to *place, e *latency.Estimate) Pair {
	p := Pair{From: from.name, To: to.name, FromZone: from.zone, ToZone: to.zone, Provenance: e.Provenance.String()}
	p.Typical, p.TypicalMicros = figure(e.Typical)
	p.Tail, p.TailMicros = figure(e.Tail)
	if e.Error > 0 {
		p.Error = number(float64(e.Error))
	}
	if !e.At.IsZero() {
		p.AgeSeconds = number(max(m.now.Sub(e.At).Seconds(), 0))
	}
	if total := e.Count + e.Lost; total > 0 {
		p.Loss = number(float64(e.Lost) / float64(total))
	}
	return p
}

func number(f float64) *float64 { return &f }

// object writes the pairs one by one, one a line: a million of them are not to be held as text.
func (m *nodeMatrix) object() error {
	out := Matrix{ReadAt: metav1.NewTime(m.now), By: byNode}
	if m.output == "yaml" {
		err := m.each(func(from, to *place, e *latency.Estimate) error {
			out.Pairs = append(out.Pairs, m.pair(from, to, e))
			return nil
		})
		if err != nil {
			return err
		}
		return m.PrintObject(m.output, out)
	}
	readAt, err := json.Marshal(out.ReadAt)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(m.Out, 1<<16) // it keeps its first error for Flush
	fmt.Fprintf(w, "{\n  \"readAt\": %s,\n  \"by\": \"node\",\n  \"pairs\": [", readAt)
	before := ""
	err = m.each(func(from, to *place, e *latency.Estimate) error {
		line, err := json.Marshal(m.pair(from, to, e))
		fmt.Fprintf(w, "%s\n    %s", before, line)
		before = ","
		return err
	})
	if err != nil {
		return err
	}
	if before != "" {
		fmt.Fprint(w, "\n  ")
	}
	fmt.Fprint(w, "]\n}\n")
	return w.Flush()
}
