// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// summarise makes rows of the RTTs, and judges them.
func (c *rivals) summarise() {
	inOrder := []string{
		byStock, byOverhead10, byOverhead30, bySparse, byInterest, byFogsched, byFogschedTopological, byBest, byOracleInOrder, byOracle, byOptimum,
	}
	cases := []string{peers}
	for _, a := range applications {
		cases = append(cases, a.name)
	}
	for r := 1; r <= maxReplicas; r++ {
		cases = append(cases, replicaCase(r))
	}
	for _, name := range cases {
		var rows []row
		at := map[string]float64{}
		for _, policy := range inOrder {
			if v := c.millis[name][policy]; len(v) > 0 {
				w := newRow(name, policy, v)
				w.FifthMeansMillis = c.fifths[name][policy].means()
				at[policy] = w.MeanMillis
				rows = append(rows, w)
			}
		}
		for i := range rows {
			w := &rows[i]
			least := at[byOracle]
			w.ToOracle = w.MeanMillis / at[byOracle]
			if best, ok := at[byBest]; ok {
				w.ToBestMeasured = w.MeanMillis / best
			}
			if optimum, ok := at[byOptimum]; ok {
				w.ToOptimum, least = w.MeanMillis/optimum, optimum
			}
			w.RegretMillis = w.MeanMillis - least
			// The bars are about these only.
			w.Informational = !slices.Contains([]string{peers, replicaCase(1), replicaCase(2), replicaCase(3), replicaCase(4)}, name)
		}
		c.r.Rows = append(c.r.Rows, rows...)
	}

	var ours, optimum float64
	for r := 1; r <= searchedReplicas; r++ {
		ours += c.r.find(replicaCase(r), byFogsched).MeanMillis
		optimum += c.r.find(replicaCase(r), byOptimum).MeanMillis
	}
	// The bars against the best by measurement, the oracle and the stock scheduler are those of TestQuality, which has more placements.
	c.r.Bars = []bar{
		judge("one dependency, mean RTT against NetworkOverhead with 10 zones, at most 0.40", c.r.find(peers, byFogsched).MeanMillis/c.r.find(peers, byOverhead10).MeanMillis, maxToOverhead10),
		judge("1 to 4 replicas one by one, mean RTT of the clients against the optimum, at most 1.10", ours/optimum, maxToOptimum),
	}
	for _, a := range applications {
		c.r.Bars = append(c.r.Bars, judge(a.name+" created in any order, mean RTT of the calls against the oracle, at most 1.5", c.r.find(a.name, byFogsched).ToOracle, maxOutOfOrder))
	}
	if len(c.in.measured) < 450 || testing.Short() {
		for i := range c.r.Bars {
			c.r.Bars[i].NotJudged = "these bars are about the PlanetLab data and all placements"
		}
	}
}

func (c *rivals) print(out string, took time.Duration) {
	w := os.Stdout
	table := func(title, name string) {
		fmt.Fprintf(w, "\n%s\n\n", title)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(tw, "policy\tmean ms\tof fifths\tp50\tp95\tp99\tregret ms\t× oracle\t× optimum\t")
		for _, r := range c.r.Rows {
			if r.Case == name {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.Policy, millis(r.MeanMillis), between(r.FifthMeansMillis), millis(r.P50Millis), millis(r.P95Millis),
					millis(r.P99Millis), millis(r.RegretMillis), times(r.ToOracle), times(r.ToOptimum))
			}
		}
		_ = tw.Flush() // standard output
	}
	fmt.Fprintf(w, "\nBeside others: %d nodes; measured %s, true %s\n", c.r.Nodes, c.r.Measured, c.r.True)
	table(fmt.Sprintf("One dependency, a fifth of the nodes feasible, %d placements", len(c.millis[peers][byOracle])), peers)
	for _, a := range applications {
		calls := 0
		for _, s := range a.services {
			calls += len(s.calls)
		}
		table(fmt.Sprintf("%s: %d services created in random order, a fifth of the nodes feasible for each, one pod a node, %d times: mean RTT of the %d calls",
			a.name, len(a.services)-1, len(c.trials[a]), calls), a.name)
	}
	for r := 1; r <= maxReplicas; r++ {
		table(fmt.Sprintf("%d replicas one by one for %d to %d clients, a fifth of the nodes feasible, %d sets: RTT of each client to the nearest",
			r, replicaClientCounts[0], replicaClientCounts[len(replicaClientCounts)-1], len(c.sets)), replicaCase(r))
	}
	fmt.Fprintf(w, `
  stock                    kube-scheduler's default profile, on nodes loaded by 0–80 %%
  networkoverhead-10, -30  the plugin of sigs.k8s.io/scheduler-plugins alone; zones are clusters of the measured RTTs, costs their medians
  fogsched                 NodeLatency alone, all pairs measured; -sparse-16: each node measures 16 others, no node of interest
  …-interest               sparse, with the %d nodes of the applications' clients, and no other, measured by all
  best-measured            the best by what was measured
  oracle                   by the true RTTs, one after the other: callers first, replicas greedily
  oracle, same order       the same in the order of creation
  optimum                  the best of all sets, by the true RTTs

`, gatewayCount)
	printBars(w, c.r.Bars)
	fmt.Fprintf(w, "\n%.0f s; the figures are in report.json, the picture is cdf.svg, both in %s\n\n", took.Seconds(), out)
}

// curve is a line of a picture.
type curve struct {
	policy, label, class string
}

// picture draws the distributions of the RTTs for one dependency and for four replicas.
func (c *rivals) picture() ([]byte, error) {
	one := panel{title: fmt.Sprintf("One dependency, %d placements", len(c.millis[peers][byOracle])), xLabel: "RTT to the server (ms, log scale)"}
	set := panel{
		title:  fmt.Sprintf("Four replicas for 20–100 clients, %d sets", len(c.sets)),
		xLabel: "RTT from a client to its nearest replica (ms, log scale)",
	}
	for _, v := range []curve{
		{byStock, "stock scheduler", "stock"},
		{byOverhead10, "NetworkOverhead, 10 zones", "zones10"},
		{byOverhead30, "NetworkOverhead, 30 zones", "zones30"},
		{bySparse, "fogsched, sparse (k = 16)", "sparse"},
		{byFogsched, "fogsched, all pairs", "ours"},
		{byOracle, "oracle", "limit"},
	} {
		one.add(v, c.millis[peers][v.policy])
	}
	for _, v := range []curve{
		{byStock, "stock scheduler", "stock"},
		{bySparse, "fogsched, sparse (k = 16)", "sparse"},
		{byFogsched, "fogsched, all pairs", "ours"},
		{byOptimum, "optimum by exhaustive search", "limit"},
	} {
		set.add(v, c.millis[replicaCase(searchedReplicas)][v.policy])
	}
	return drawCDFs(one, set)
}

// panel is one of the pictures side by side.
type panel struct {
	title, xLabel string
	curves        []curve
	millis        [][]float64 // sorted, a list a curve
}

func (p *panel) add(v curve, millis []float64) {
	p.curves = append(p.curves, v)
	p.millis = append(p.millis, slices.Sorted(slices.Values(millis)))
}

const (
	cdfWidth, cdfHeight  = 470, 320 // of the plot in a panel
	cdfLeft, cdfTop      = 64, 56
	cdfPanel             = cdfLeft + cdfWidth + 26
	cdfBottom            = cdfTop + cdfHeight
	cdfLegend, cdfLine   = cdfBottom + 68, 20
	cdfFirst, cdfDecades = 0.1, 4 // 0.1 ms to 1 s
)

// cdfStyle has the colours of light and of dark backgrounds. Lines differ in their dashes, too, for who does not see colours apart.
const cdfStyle = `
  svg { font: 13px system-ui, sans-serif; color-scheme: light dark }
  .back { fill: #ffffff } text { fill: #24292f } .title { font-size: 15px; font-weight: 600 } .small { font-size: 12px }
  .grid { stroke: #d8dee4; stroke-width: 1 } .axis { stroke: #57606a; stroke-width: 1; fill: none }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round }
  .stock { stroke: #6e7781; stroke-dasharray: 2 3 } .zones10 { stroke: #bc4c00; stroke-dasharray: 8 4 } .zones30 { stroke: #9a6700; stroke-dasharray: 3 3 }
  .sparse { stroke: #8250df; stroke-dasharray: 10 3 2 3 } .ours { stroke: #0969da; stroke-width: 3 } .limit { stroke: #1a7f37; stroke-dasharray: 5 3 }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #30363d } .axis { stroke: #8d96a0 }
    .stock { stroke: #9198a1 } .zones10 { stroke: #f0883e } .zones30 { stroke: #e3b341 }
    .sparse { stroke: #be8fff } .ours { stroke: #58a6ff } .limit { stroke: #56d364 }
  }`

// drawCDFs draws the shares of the RTTs that are at most so long, panel beside panel, as SVG.
func drawCDFs(panels ...panel) ([]byte, error) {
	rows := 0
	for i := range panels {
		rows = max(rows, len(panels[i].curves))
	}
	width, height := cdfPanel*len(panels), cdfLegend+cdfLine*rows+4
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-labelledby="t">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&b, "<title id=\"t\">Distribution of round-trip times by scheduler</title>\n<style>%s\n</style>\n", cdfStyle)
	fmt.Fprintf(&b, `<rect class="back" width="%d" height="%d"/>`+"\n", width, height)
	for i := range panels {
		if err := panels[i].draw(&b, i*cdfPanel+cdfLeft); err != nil {
			return nil, err
		}
	}
	b.WriteString("</svg>\n")
	return []byte(b.String()), nil
}

func (p *panel) draw(b *strings.Builder, left int) error {
	text := func(x, y float64, class, anchor, s string) error {
		fmt.Fprintf(b, `<text x="%.0f" y="%.0f" class=%q text-anchor=%q>`, x, y, class, anchor)
		if err := xml.EscapeText(b, []byte(s)); err != nil {
			return err
		}
		b.WriteString("</text>\n")
		return nil
	}
	x := func(ms float64) float64 {
		at := math.Log10(math.Max(ms, cdfFirst)/cdfFirst) / cdfDecades
		return float64(left) + cdfWidth*math.Min(at, 1)
	}
	y := func(share float64) float64 { return cdfBottom - cdfHeight*share }
	middle := float64(left) + cdfWidth/2
	err := text(middle, cdfTop-20, "title", "middle", p.title)
	for d := range cdfDecades + 1 {
		ms := cdfFirst * math.Pow(10, float64(d))
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`+"\n", x(ms), cdfTop, x(ms), cdfBottom)
		err = errors.Join(err, text(x(ms), cdfBottom+18, "small", "middle", fmt.Sprintf("%g", math.Round(ms*10)/10)))
	}
	for i := range 5 {
		share := float64(i) / 4
		fmt.Fprintf(b, `<line class="grid" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>`+"\n", left, y(share), left+cdfWidth, y(share))
		err = errors.Join(err, text(float64(left)-8, y(share)+4, "small", "end", fmt.Sprintf("%.0f %%", 100*share)))
	}
	fmt.Fprintf(b, `<path class="axis" d="M%d %dV%dH%d"/>`+"\n", left, cdfTop, cdfBottom, left+cdfWidth)
	err = errors.Join(err, text(middle, cdfBottom+40, "label", "middle", p.xLabel))
	fmt.Fprintf(b, `<g transform="translate(%d %d) rotate(-90)">`, left-48, cdfTop+cdfHeight/2)
	err = errors.Join(err, text(0, 0, "label", "middle", "share at most that long"))
	b.WriteString("</g>\n")
	for i, v := range p.curves {
		if len(p.millis[i]) == 0 {
			return fmt.Errorf("%s: nothing to draw for %s", p.title, v.policy)
		}
		fmt.Fprintf(b, `<path class="line %s" d="M%.1f %.1f`, v.class, x(p.millis[i][0]), y(0))
		const steps = 200
		for s := range steps + 1 {
			at := min(s*len(p.millis[i])/steps, len(p.millis[i])-1)
			fmt.Fprintf(b, "L%.1f %.1f", x(p.millis[i][at]), y(float64(s)/steps))
		}
		b.WriteString("\"/>\n")
		at := cdfLegend + cdfLine*i
		fmt.Fprintf(b, `<line class="line %s" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", v.class, left, at, left+44, at)
		mean := 0.0
		for _, ms := range p.millis[i] {
			mean += ms / float64(len(p.millis[i]))
		}
		err = errors.Join(err, text(float64(left)+54, float64(at)+4, "legend", "start", fmt.Sprintf("%s: mean %s ms", v.label, millis(mean))))
	}
	return err
}

// TestDrawCDFs checks that the picture is XML, with a line and a legend a curve, inside of its frame, for light and for dark.
func TestDrawCDFs(t *testing.T) {
	p := panel{title: "a < b & c", xLabel: "RTT (ms)"}
	p.add(curve{"x", "x <1>", "ours"}, []float64{5, 0.01, 30, 5000})
	p.add(curve{"y", "y", "limit"}, []float64{1, 2, 3})
	data, err := drawCDFs(p, p)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	d := xml.NewDecoder(strings.NewReader(string(data)))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range e.Attr {
			if a.Name.Local == "class" {
				class, _, _ := strings.Cut(a.Value, " ")
				count[e.Name.Local+"."+class]++
			}
			if a.Name.Local != "d" {
				continue
			}
			for _, at := range strings.FieldsFunc(a.Value, func(r rune) bool { return r == 'M' || r == 'L' }) {
				var x, y float64
				if n, _ := fmt.Sscanf(at, "%f %f", &x, &y); n == 2 && (x < cdfLeft || x > 2*cdfPanel || y < cdfTop || y > cdfBottom) {
					t.Errorf("a line goes to %g, %g, outside of the frame", x, y)
				}
			}
		}
	}
	for class, want := range map[string]int{
		"path.line": 4, "line.line": 4, "path.axis": 2, "text.title": 2, "text.label": 4, "text.legend": 4, "text.small": 2 * (cdfDecades + 1 + 5),
	} {
		if count[class] != want {
			t.Errorf("%d × %s, want %d", count[class], class, want)
		}
	}
	for _, want := range []string{"prefers-color-scheme: dark", "a &lt; b &amp; c", "x &lt;1&gt;"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%q is missing", want)
		}
	}
	p.add(curve{"z", "z", "stock"}, nil)
	if _, err := drawCDFs(p); err == nil {
		t.Error("a curve of nothing is drawn")
	}
}
