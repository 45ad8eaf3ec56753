// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/latency"
)

// siteMatrix is the matrix between zones or regions.
type siteMatrix struct {
	*command
	network   *latency.Snapshot
	by        string
	from, to  []site
	statistic latency.Statistic
	now       time.Time

	cells [][]siteCell
}

// siteCell is what is known between two sites.
type siteCell struct {
	pairs, measured int
	typical, tail   latency.RTT // medians
	least, most     latency.RTT // of the statistic that is shown
	estimated       bool
}

// mostEstimates is from how many estimates a median is taken where no pair was measured.
const mostEstimates = 100

func (m *siteMatrix) measure() {
	m.cells = make([][]siteCell, len(m.from))
	row, column := map[int32]int{}, map[int32]int{}
	for i := range m.from {
		m.cells[i] = make([]siteCell, len(m.to))
		for _, n := range m.from[i].nodes {
			row[n.number] = i
		}
	}
	for j := range m.to {
		for _, n := range m.to[j].nodes {
			column[n.number] = j
		}
	}
	for i := range m.from {
		for j := range m.to {
			c := &m.cells[i][j]
			c.pairs = len(m.from[i].nodes) * len(m.to[j].nodes)
			for _, n := range m.from[i].nodes {
				if k, ok := column[n.number]; ok && k == j {
					c.pairs-- // a node with itself
				}
			}
		}
	}
	type values struct{ typical, tail []float32 }
	measured := make([][]values, len(m.from))
	for i := range measured {
		measured[i] = make([]values, len(m.to))
	}
	add := func(v *values, e latency.Estimate) {
		if us, ok := e.Typical.Micros(); ok {
			v.typical = append(v.typical, us)
		}
		if us, ok := e.Tail.Micros(); ok {
			v.tail = append(v.tail, us)
		}
	}
	// What was measured is sparse: 16 peers a node, not all pairs.
	m.network.EachMeasured(func(a, b int32) {
		for _, p := range [][2]int32{{a, b}, {b, a}} {
			i, ok := row[p[0]]
			j, ok2 := column[p[1]]
			if !ok || !ok2 {
				continue
			}
			if e := m.network.Estimate(p[0], p[1]); e.Provenance.IsMeasured() {
				m.cells[i][j].measured++
				add(&measured[i][j], e)
			}
		}
	})
	for i := range m.from {
		for j := range m.to {
			c, v := &m.cells[i][j], &measured[i][j]
			if c.measured == 0 {
				c.estimated = true
				m.estimates(&m.from[i], &m.to[j], func(e latency.Estimate) { add(v, e) })
			}
			c.typical, c.tail = median(v.typical), median(v.tail)
			shown := v.typical
			if m.statistic == latency.Tail {
				shown = v.tail
			}
			if len(shown) > 0 {
				c.least, _ = latency.FromSeconds(float64(slices.Min(shown)) / 1e6)
				c.most, _ = latency.FromSeconds(float64(slices.Max(shown)) / 1e6)
			}
		}
	}
}

// estimates calls f for the estimates of some pairs of two sites, spread evenly.
func (m *siteMatrix) estimates(from, to *site, f func(latency.Estimate)) {
	total := len(from.nodes) * len(to.nodes)
	stride := max(total/mostEstimates, 1)
	if stride > 1 && len(to.nodes)%stride == 0 {
		stride++ // else it would be the same columns in every row
	}
	for k := 0; k < total; k += stride {
		a, b := from.nodes[k/len(to.nodes)].number, to.nodes[k%len(to.nodes)].number
		if a != b {
			f(m.network.Estimate(a, b))
		}
	}
}

// median returns the median; unknown of nothing. It reorders the values.
func median(values []float32) latency.RTT {
	if len(values) == 0 {
		return latency.RTT{}
	}
	slices.Sort(values)
	n := len(values)
	rtt, _ := latency.FromSeconds((float64(values[(n-1)/2]) + float64(values[n/2])) / 2 / 1e6)
	return rtt
}

func (b *siteCell) shown(st latency.Statistic) latency.RTT {
	if st == latency.Tail {
		return b.tail
	}
	return b.typical
}

func (b *siteCell) provenance() latency.Provenance {
	if b.estimated {
		return latency.Zone
	}
	return latency.Measured
}

func (m *siteMatrix) titles(sites []site) []title {
	out := make([]title, len(sites))
	for i := range sites {
		out[i] = title{name: sites[i].name(m.by)}
		if m.by == byZone {
			out[i].group = orNone(sites[i].region)
		}
	}
	return out
}

func (m *siteMatrix) print() error {
	estimated, unknown := false, false
	g := &grid{corner: "FROM \\ TO", rows: m.titles(m.from), columns: m.titles(m.to)}
	if m.by == byZone && slices.ContainsFunc(m.from, func(s site) bool { return s.region != "" }) {
		g.groupName = "REGION"
	}
	g.cell = func(i, j int) cli.Cell {
		c := &m.cells[i][j]
		rtt := c.shown(m.statistic)
		if c.pairs == 0 { // a site of one node with itself
			return cli.Cell{Text: "·", Style: cli.Dim}
		}
		estimated = estimated || rtt.Known() && c.estimated
		unknown = unknown || !rtt.Known()
		return cli.Cell{Text: cli.RTT(rtt, c.provenance()), Style: classOf(rtt, !c.estimated)}
	}
	if err := m.grid(g); err != nil {
		return err
	}
	fmt.Fprintln(m.Out)
	m.legend(estimated, unknown)
	nodes, pairs, measured, largest := 0, 0, 0, 0
	for i := range m.from {
		nodes += len(m.from[i].nodes)
		if len(m.from[i].nodes) > len(m.from[largest].nodes) && m.from[i].name(m.by) != cli.None {
			largest = i
		}
		for j := range m.to {
			pairs, measured = pairs+m.cells[i][j].pairs, measured+m.cells[i][j].measured
		}
	}
	m.Say("%s between %ss: the median of the measured pairs. %s in %s; %s of %s measured (%s).", m.what(), m.by,
		cli.Plural(nodes, "node", "nodes"), cli.Plural(len(m.from), m.by, m.by+"s"), cli.Count(measured), cli.Plural(pairs, "pair", "pairs"),
		cli.Share(measured, pairs))
	if label, name := m.label(), m.from[largest].name(m.by); name != cli.None {
		if m.by == byRegion {
			m.Say("The zones of one region: kubectl fog matrix --by zone --from %[1]s=%[2]s --to %[1]s=%[2]s", label, cli.Clean(name))
		} else {
			m.Say("The nodes of one zone: kubectl fog matrix --by node --from %[1]s=%[2]s --to %[1]s=%[2]s", label, cli.Clean(name))
		}
	} else {
		m.Say("No node has the label %s. The nodes: kubectl fog matrix --by node, with --from and --to for some of them.", label)
	}
	return nil
}

func (m *siteMatrix) label() string {
	if m.by == byRegion {
		return v1.LabelTopologyRegion
	}
	return v1.LabelTopologyZone
}

func (m *siteMatrix) list() error {
	t := &cli.Table{Columns: []cli.Column{
		{Name: "FROM", Cut: true},
		{Name: "TO", Cut: true},
		{Name: "TYPICAL", Right: true},
		{Name: "TAIL", Right: true, Drop: 3},
		{Name: "LEAST", Right: true, Drop: 4},
		{Name: "MOST", Right: true, Drop: 5},
		{Name: "MEASURED", Right: true, Drop: 6},
		{Name: "PAIRS", Right: true, Drop: 7},
	}}
	if m.by == byZone {
		t.Columns = append(t.Columns, cli.Column{Name: "FROM REGION", Drop: 1}, cli.Column{Name: "TO REGION", Drop: 2})
	}
	for i := range m.from {
		for j := range m.to {
			c := &m.cells[i][j]
			if c.pairs == 0 {
				continue
			}
			p := c.provenance()
			rtt := func(r latency.RTT) cli.Cell { return cli.Cell{Text: cli.RTT(r, p), Style: classOf(r, !c.estimated)} }
			row := []any{
				m.from[i].name(m.by), m.to[j].name(m.by), rtt(c.typical), rtt(c.tail), rtt(c.least), rtt(c.most),
				cli.Count(c.measured), cli.Count(c.pairs),
			}
			if m.by == byZone {
				row = append(row, orNone(m.from[i].region), orNone(m.to[j].region))
			}
			t.Row(row...)
		}
	}
	return m.Print(t)
}

func (m *siteMatrix) object() error {
	out := Matrix{ReadAt: metav1.NewTime(m.now), By: m.by, Sites: []SitePair{}}
	for i := range m.from {
		for j := range m.to {
			c := &m.cells[i][j]
			p := SitePair{From: m.from[i].zone, To: m.to[j].zone, FromRegion: m.from[i].region, ToRegion: m.to[j].region, Pairs: c.pairs, Measured: c.measured}
			if m.by == byRegion {
				p.From, p.To, p.FromRegion, p.ToRegion = p.FromRegion, p.ToRegion, "", ""
			}
			p.Typical, p.TypicalMicros = figure(c.typical)
			p.Tail, p.TailMicros = figure(c.tail)
			p.Estimated = c.estimated && c.typical.Known()
			p.Least, _ = figure(c.least)
			p.Most, _ = figure(c.most)
			out.Sites = append(out.Sites, p)
		}
	}
	return m.PrintObject(m.output, out)
}
