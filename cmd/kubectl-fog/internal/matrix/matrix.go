// SPDX-License-Identifier: Apache-2.0

// Package matrix is the command that shows the round-trip times between nodes, or between sites.
package matrix

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/latency"
)

// What a matrix is by.
const (
	byNode   = "node"
	byZone   = "zone"
	byRegion = "region"
)

const (
	// mostNodes is how many rows or columns a matrix of nodes has unless it is asked for; with more it is of zones, and with more zones
	// than that of regions.
	mostNodes = 30
	// mostPairs is how many pairs are printed one by one: 1,000 nodes with one another.
	mostPairs = 1_000_000
)

type command struct {
	*cli.Options
	from, to, statistic, by, output string
}

// NewCommand returns the command.
func NewCommand(o *cli.Options) *cobra.Command {
	c := &command{Options: o}
	cmd := &cobra.Command{
		Use:   "matrix",
		Short: "The round-trip times between nodes, or between sites",
		Long: fmt.Sprintf(`Show the round-trip times between nodes: a row for each node that calls, a column for each that is called, grouped by site.

What was measured, by either side, is written 12.3ms; ~12.3ms is an estimate (the median between two zones, network coordinates, or what is no
round trip); – is unknown. A colour stands for a class of distance, and says nothing that the number does not.

With more than %d nodes the matrix is between zones, with more zones than that between regions: the median of the measured pairs, or, with
~, of estimates where no pair was measured. -o wide is a list with one line a pair; between sites it has how many pairs there are, how many
of them were measured, and the least and the most of those. -o json and yaml have the same, typical and tail.`, mostNodes),
		Example: `  # everything: between nodes in a small cluster, between zones in a large one
  kubectl fog matrix

  # the nodes of one site
  kubectl fog matrix --from topology.kubernetes.io/zone=berlin --to topology.kubernetes.io/zone=berlin

  # from the gateways to all others, the 95th percentile, as a list
  kubectl fog matrix --from fogsched.dev/gateway=true --statistic tail --by node -o wide

  # the pairs of nodes that nobody measured
  kubectl fog matrix --by node -o json | jq -r '.pairs[] | select(.provenance == "unknown") | "\(.from) \(.to)"'`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.StringVar(&c.from, "from", "", "Rows: the nodes with these labels, for example topology.kubernetes.io/zone=berlin. The default is all.")
	fs.StringVar(&c.to, "to", "", "Columns: the nodes with these labels. The default is all.")
	fs.StringVar(&c.statistic, "statistic", "typical", "What is shown: typical (the median of a pair's round trips) or tail (their 95th percentile).")
	fs.StringVar(&c.by, "by", "", "What rows and columns are: node, zone or region. The default depends on how many there are.")
	cli.OutputFlag(fs, &c.output, "wide", "json", "yaml")
	for _, f := range []struct {
		flag     string
		complete cli.CompletionFunc
	}{
		{"from", o.CompleteNodeSelector},
		{"to", o.CompleteNodeSelector},
		{"statistic", cli.CompleteWords("typical", "tail")},
		{"by", cli.CompleteWords(byNode, byZone, byRegion)},
		{"output", cli.CompleteWords("wide", "json", "yaml")},
	} {
		_ = cmd.RegisterFlagCompletionFunc(f.flag, f.complete)
	}
	return cmd
}

// place is a node, and where it is.
type place struct {
	number       int32 // in the snapshot
	name         string
	zone, region string
}

func (c *command) run(ctx context.Context) error {
	st := latency.Typical
	switch c.statistic {
	case "typical":
	case "tail":
		st = latency.Tail
	default:
		return fmt.Errorf("--statistic=%s: want typical or tail", c.statistic)
	}
	if !slices.Contains([]string{"", byNode, byZone, byRegion}, c.by) {
		return fmt.Errorf("--by=%s: want node, zone or region", c.by)
	}
	if err := cli.CheckOutput(c.output, "wide", "json", "yaml"); err != nil {
		return err
	}
	rows, err := labels.Parse(c.from)
	if err != nil {
		return fmt.Errorf("--from=%s: %w", c.from, err)
	}
	columns, err := labels.Parse(c.to)
	if err != nil {
		return fmt.Errorf("--to=%s: %w", c.to, err)
	}
	cluster, err := c.Read(ctx, []cli.Kind{cli.Nodes, cli.NodeLatencies})
	if err != nil {
		return err
	}
	network := cluster.Network(ctx)
	from, to := places(cluster.Nodes, network, rows), places(cluster.Nodes, network, columns)
	machine := c.output == "json" || c.output == "yaml"
	if !machine && (len(from) == 0 || len(to) == 0) {
		switch {
		case len(cluster.Nodes) == 0:
			fmt.Fprintln(c.Out, "There are no nodes.")
		case len(from) == 0:
			fmt.Fprintf(c.Out, "No node has the labels %s.\n", c.from)
		default:
			fmt.Fprintf(c.Out, "No node has the labels %s.\n", c.to)
		}
		return nil
	}
	by := c.by
	if by == "" {
		by = choose(from, to)
	}
	if by == byNode {
		if n := len(from) * len(to); n > mostPairs {
			return fmt.Errorf("%s pairs of nodes are too many: choose with --from and --to, or take --by zone", cli.Count(n))
		}
		m := &nodeMatrix{command: c, network: network, from: from, to: to, statistic: st, now: cluster.ReadAt}
		switch {
		case machine:
			return m.object()
		case c.output == "wide":
			return m.list()
		}
		return m.print()
	}
	m := &siteMatrix{command: c, network: network, by: by, from: groups(from, by), to: groups(to, by), statistic: st, now: cluster.ReadAt}
	m.measure()
	switch {
	case machine:
		return m.object()
	case c.output == "wide":
		return m.list()
	}
	return m.print()
}

// places returns the nodes with the wanted labels, in the order of region, zone and name; those without a zone are last.
func places(nodes []*v1.Node, network *latency.Snapshot, wanted labels.Selector) []place {
	out := make([]place, 0, len(nodes))
	for _, n := range nodes {
		number, ok := network.Index(n.Name)
		if !ok || !wanted.Matches(labels.Set(n.Labels)) {
			continue
		}
		at := cli.LocationOf(n)
		out = append(out, place{number: number, name: n.Name, zone: at.Zone, region: at.Region})
	}
	slices.SortFunc(out, func(a, b place) int {
		return cmp.Or(lastIfEmpty(a.region, b.region), lastIfEmpty(a.zone, b.zone), strings.Compare(a.name, b.name))
	})
	return out
}

func lastIfEmpty(a, b string) int {
	if (a == "") != (b == "") {
		if a == "" {
			return 1
		}
		return -1
	}
	return strings.Compare(a, b)
}

// choose returns what the matrix is by where the user leaves it open.
func choose(from, to []place) string {
	if len(from) <= mostNodes && len(to) <= mostNodes {
		return byNode
	}
	zones := max(len(groups(from, byZone)), len(groups(to, byZone)))
	regions := max(len(groups(from, byRegion)), len(groups(to, byRegion)))
	if zones > mostNodes && 1 < regions && regions < zones {
		return byRegion
	}
	return byZone
}

// site is a zone or a region, and its nodes.
type site struct {
	zone, region string
	nodes        []place
}

// name is "–" for the nodes that have no label.
func (s *site) name(by string) string {
	name := s.zone
	if by == byRegion {
		name = s.region
	}
	if name == "" {
		return cli.None
	}
	return name
}

// groups puts nodes into their sites, in the order of the nodes. Two zones of the same name in two regions are two.
func groups(nodes []place, by string) []site {
	var out []site
	for _, n := range nodes {
		zone := n.zone
		if by == byRegion {
			zone = ""
		}
		if len(out) == 0 || out[len(out)-1].zone != zone || out[len(out)-1].region != n.region {
			out = append(out, site{zone: zone, region: n.region})
		}
		out[len(out)-1].nodes = append(out[len(out)-1].nodes, n)
	}
	return out
}

// classes of distance, with their colours: from what is as good as here to another continent.
var classes = []struct {
	most  time.Duration
	style cli.Style
}{
	{2 * time.Millisecond, "32"},
	{10 * time.Millisecond, "36"},
	{40 * time.Millisecond, "34"},
	{120 * time.Millisecond, "33"},
	{latency.MaxRTT, "35"},
}

// classOf returns the colour of a distance; an estimate's is dim.
func classOf(rtt latency.RTT, measured bool) cli.Style {
	d, ok := rtt.Duration()
	if !ok {
		return cli.Dim
	}
	for _, c := range classes {
		if d <= c.most {
			if !measured {
				return "2;" + c.style
			}
			return c.style
		}
	}
	return cli.Plain
}

// legend explains the colours where there are some, and the marks where they occur.
func (c *command) legend(estimated, unknown bool) {
	var parts []string
	if c.Colored() {
		for i, class := range classes {
			text := "≤ " + latency.Format(class.most)
			if i == len(classes)-1 {
				text = "> " + latency.Format(classes[i-1].most)
			}
			parts = append(parts, c.Paint(class.style, text))
		}
	}
	if estimated {
		parts = append(parts, "~ estimated")
	}
	if unknown {
		parts = append(parts, "– unknown")
	}
	if len(parts) > 0 {
		fmt.Fprintln(c.Out, strings.Join(parts, "  "))
	}
}

// Matrix is what `kubectl fog matrix -o json` prints.
type Matrix struct {
	// ReadAt is when the cluster was read.
	ReadAt metav1.Time `json:"readAt"`
	// By is what the pairs are of: node, zone or region.
	By string `json:"by"`
	// Pairs has each pair of a node of --from and a different one of --to. It is there by node.
	Pairs []Pair `json:"pairs,omitempty"`
	// Sites has each pair of a site of --from and one of --to, a site with itself included. It is there by zone and by region.
	Sites []SitePair `json:"sites,omitempty"`
}

// Pair is what is known of the round-trip time from one node to another.
type Pair struct {
	From     string `json:"from"`
	To       string `json:"to"`
	FromZone string `json:"fromZone,omitempty"`
	ToZone   string `json:"toZone,omitempty"`
	// Typical is the median, Tail the 95th percentile, as people write them, "12.3ms", and in microseconds; absent where unknown.
	Typical       string   `json:"typical,omitempty"`
	TypicalMicros *float64 `json:"typicalMicros,omitempty"`
	Tail          string   `json:"tail,omitempty"`
	TailMicros    *float64 `json:"tailMicros,omitempty"`
	// Provenance says how they were got: measured, reverse (the other side measured), zone (the median between the two zones), ranking
	// (measured, but no round trip), coordinate (from network coordinates), unknown.
	Provenance string `json:"provenance"`
	// Error is the relative error to be expected of an estimate from coordinates, 0.22 for ±22 %.
	Error *float64 `json:"error,omitempty"`
	// AgeSeconds is how long ago the newest measurement was taken, Loss the share of its probes that were lost, 0 to 1.
	AgeSeconds *float64 `json:"ageSeconds,omitempty"`
	Loss       *float64 `json:"loss,omitempty"`
}

// SitePair is what is known of the round-trip times from the nodes of one site to those of another.
type SitePair struct {
	// From and To are the names of zones, or of regions; absent for the nodes that have no such label.
	From       string `json:"from,omitempty"`
	To         string `json:"to,omitempty"`
	FromRegion string `json:"fromRegion,omitempty"`
	ToRegion   string `json:"toRegion,omitempty"`
	// Pairs is the number of pairs of nodes, Measured how many of them were measured by either side.
	Pairs    int `json:"pairs"`
	Measured int `json:"measured"`
	// Typical and Tail are the medians over the measured pairs; over estimates where Estimated is set; absent where unknown.
	Typical       string   `json:"typical,omitempty"`
	TypicalMicros *float64 `json:"typicalMicros,omitempty"`
	Tail          string   `json:"tail,omitempty"`
	TailMicros    *float64 `json:"tailMicros,omitempty"`
	Estimated     bool     `json:"estimated,omitempty"`
	// Least and Most are of the same pairs: of --statistic.
	Least string `json:"least,omitempty"`
	Most  string `json:"most,omitempty"`
}

func figure(rtt latency.RTT) (text string, micros *float64) {
	us, ok := rtt.Micros()
	if !ok {
		return "", nil
	}
	f := float64(us)
	return rtt.String(), &f
}
