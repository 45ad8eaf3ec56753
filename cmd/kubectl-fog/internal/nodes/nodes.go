// SPDX-License-Identifier: Apache-2.0

// Package nodes is the command that says how far each node is from the others, and how that is known.
package nodes

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
	"github.com/fogsched/fogsched/pkg/store"
)

// List is what `kubectl fog nodes -o json` prints.
type List struct {
	// ReadAt is when the cluster was read.
	ReadAt metav1.Time `json:"readAt"`
	// Coverage is of the whole cluster, whichever nodes are listed.
	Coverage Coverage `json:"coverage"`
	// Nodes are in the order of region, zone and name; those without a zone are last.
	Nodes []Node `json:"nodes"`
}

// Coverage says how much is known of a cluster.
type Coverage struct {
	// Nodes is the number of nodes, Reporting how many of them have data of their own that count.
	Nodes     int `json:"nodes"`
	Reporting int `json:"reporting"`
	// Pairs is the number of unordered pairs of different nodes, MeasuredPairs how many of them at least one side measured.
	Pairs         int `json:"pairs"`
	MeasuredPairs int `json:"measuredPairs"`
}

// Node is one node and its distance to the others.
type Node struct {
	Name   string `json:"name"`
	Region string `json:"region,omitempty"`
	Zone   string `json:"zone,omitempty"`
	Ready  bool   `json:"ready"`
	// Unschedulable: the node is cordoned.
	Unschedulable bool `json:"unschedulable,omitempty"`
	// Marks say what is not in order; see the constants.
	Marks []Mark `json:"marks,omitempty"`

	// Typical is the median over all other nodes of which an RTT is known, measured or estimated; absent where none is known.
	Typical *Distance `json:"typical,omitempty"`
	// Nearest and Farthest are of the same nodes.
	Nearest  *Neighbor `json:"nearest,omitempty"`
	Farthest *Neighbor `json:"farthest,omitempty"`
	// Pairs counts how the distances to all other nodes are known.
	Pairs Pairs `json:"pairs"`

	// Peers is how many nodes this one measured itself and is believed.
	Peers int `json:"peers"`
	// Loss is the share of this node's own probes that were lost, 0 to 1; absent where it sent none.
	Loss *float64 `json:"loss,omitempty"`
	// Control is the round trip of the node to itself, which says what its CPU adds to its measurements.
	Control *Control `json:"control,omitempty"`
	// ObservedAt is when the newest of its measurements was taken, AgeSeconds how long that was ago.
	ObservedAt *metav1.Time `json:"observedAt,omitempty"`
	AgeSeconds *float64     `json:"ageSeconds,omitempty"`
}

// Distance is a round-trip time.
type Distance struct {
	// RTT is for people, "12.3ms", Micros the same in microseconds.
	RTT    string  `json:"rtt"`
	Micros float64 `json:"micros"`
	// Estimated: not all that is behind it was measured.
	Estimated bool `json:"estimated,omitempty"`
}

// Neighbor is another node and its distance.
type Neighbor struct {
	Node     string `json:"node"`
	Distance `json:",inline"`
	// Provenance says how the RTT was got: measured, reverse, zone, ranking or coordinate.
	Provenance string `json:"provenance"`
}

// Pairs counts how the distances from one node to all others are known.
type Pairs struct {
	// Measured by either side.
	Measured int `json:"measured"`
	// Zone, Ranking and Coordinate are estimates: from the median between two zones, from what is no round trip, from coordinates.
	Zone       int `json:"zone"`
	Ranking    int `json:"ranking"`
	Coordinate int `json:"coordinate"`
	Unknown    int `json:"unknown"`
}

// Estimated is the number of pairs that nobody measured, and of which there is an estimate.
func (p Pairs) Estimated() int { return p.Zone + p.Ranking + p.Coordinate }

// Control is the round trip of a node to itself.
type Control struct {
	Typical       string  `json:"typical,omitempty"`
	TypicalMicros float64 `json:"typicalMicros,omitempty"`
	Tail          string  `json:"tail,omitempty"`
	TailMicros    float64 `json:"tailMicros,omitempty"`
}

// Mark is something that is not in order with a node.
type Mark string

// The marks.
const (
	NoProber    Mark = "no-prober"    // there is no NodeLatency of the node
	NoData      Mark = "no-data"      // its prober has measured nothing yet
	Stale       Mark = "stale"        // what it measured is too old to count
	Starved     Mark = "starved"      // it was too short of CPU to measure
	Distrusted  Mark = "distrusted"   // most others contradict what it says
	Misplaced   Mark = "misplaced"    // its position cannot be true
	BadPosition Mark = "bad-position" // its position cannot be read
)

var meaning = []struct {
	mark Mark
	text string
}{
	{NoProber, "no prober publishes for the node (kubectl fog doctor says why)"},
	{NoData, "the node's prober has measured nothing yet"},
	{Stale, "what the node measured is too old and is not used"},
	{Starved, "the node was too short of CPU to measure; what it says is not used"},
	{Distrusted, "most others contradict what the node says, so it is not used"},
	{Misplaced, "others measured the node faster than light gets to its position; mend the annotation " + v1alpha1.PositionAnnotation},
	{BadPosition, "the annotation " + v1alpha1.PositionAnnotation + " cannot be read; want \"latitude,longitude\", for example \"52.52,13.40\""},
}

type command struct {
	*cli.Options
	names    []string
	selector string
	output   string
	watch    bool
}

// NewCommand returns the command.
func NewCommand(o *cli.Options) *cobra.Command {
	c := &command{Options: o}
	cmd := &cobra.Command{
		Use:     "nodes [NAME…]",
		Aliases: []string{"node", "no"},
		Short:   "How far each node is from the others, and how that is known",
		Long: `Show how far each node is from the others, and how that is known.

TYPICAL is the median round-trip time to all other nodes of which one is known, NEAREST and FARTHEST are of the same nodes. What was measured,
by either side, is written 12.3ms; ~12.3ms is an estimate, or has one in it; – is unknown. LOSS is the share of the node's own probes that
were lost. CONTROL is the round trip of the node to itself: where it is long, the node is short of CPU. AGE is that of the node's newest
measurement. MEASURED is the share of the other nodes to which the distance was measured.

STATUS says what is not in order; the words that occur are explained below the table.`,
		Example: `  # all nodes
  kubectl fog nodes

  # those of one site, and where their distances come from
  kubectl fog nodes -l topology.kubernetes.io/zone=berlin -o wide

  # follow two nodes
  kubectl fog nodes edge-1 edge-2 --watch

  # nodes whose measurements are not used
  kubectl fog nodes -o json | jq '.nodes[] | select(.marks) | {name, marks}'`,
		ValidArgsFunction: o.CompleteNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.names = args
			return c.run(cmd.Context())
		},
	}
	cmd.Flags().StringVarP(&c.selector, "selector", "l", "", "Show the nodes with these labels only, for example topology.kubernetes.io/zone=berlin.")
	cli.OutputFlag(cmd.Flags(), &c.output, "wide", "json", "yaml")
	cli.WatchFlag(cmd.Flags(), &c.watch)
	_ = cmd.RegisterFlagCompletionFunc("selector", o.CompleteNodeSelector)
	_ = cmd.RegisterFlagCompletionFunc("output", cli.CompleteWords("wide", "json", "yaml"))
	return cmd
}

func (c *command) run(ctx context.Context) error {
	if err := cli.CheckOutput(c.output, "wide", "json", "yaml"); err != nil {
		return err
	}
	selector, err := labels.Parse(c.selector)
	if err != nil {
		return fmt.Errorf("--selector=%s: %w", c.selector, err)
	}
	return c.Show(ctx, c.watch, cli.Scope{}, []cli.Kind{cli.Nodes, cli.NodeLatencies}, nil, func(ctx context.Context, cluster *cli.Cluster) error {
		list, err := Of(ctx, cluster, func(n *v1.Node) bool {
			return selector.Matches(labels.Set(n.Labels)) && (len(c.names) == 0 || slices.Contains(c.names, n.Name))
		})
		if err != nil {
			return err
		}
		for _, name := range c.names {
			if !slices.ContainsFunc(list.Nodes, func(n Node) bool { return n.Name == name }) {
				if slices.ContainsFunc(cluster.Nodes, func(n *v1.Node) bool { return n.Name == name }) {
					return fmt.Errorf("node %q has not the labels of --selector=%s", name, c.selector)
				}
				return fmt.Errorf("there is no node %q (kubectl get nodes lists them)", name)
			}
		}
		if c.output == "json" || c.output == "yaml" {
			return c.PrintObject(c.output, list)
		}
		return c.print(list, c.output == "wide")
	})
}

// Of says of the wanted nodes of a cluster how far they are from all others. The error is that of ctx.
func Of(ctx context.Context, c *cli.Cluster, wanted func(*v1.Node) bool) (*List, error) {
	network, doubts := c.Judged(ctx)
	reports := make(map[string]*v1alpha1.NodeLatency, len(c.NodeLatencies))
	for _, nl := range c.NodeLatencies {
		reports[nl.Name] = nl
	}
	list := &List{ReadAt: metav1.NewTime(c.ReadAt), Nodes: []Node{}, Coverage: Coverage{Nodes: network.Len()}}
	list.Coverage.MeasuredPairs, list.Coverage.Pairs = network.Coverage()
	for _, n := range c.Nodes {
		node := About(n, reports[n.Name], doubts[n.Name], c.ReadAt)
		if node.Reports() {
			list.Coverage.Reporting++
		}
		if wanted == nil || wanted(n) {
			list.Nodes = append(list.Nodes, node)
		}
	}
	slices.SortFunc(list.Nodes, func(a, b Node) int {
		return cmp.Or(lastIfEmpty(a.Region, b.Region), lastIfEmpty(a.Zone, b.Zone), strings.Compare(a.Name, b.Name))
	})
	parallel(len(list.Nodes), func() func(int) {
		var s scratch
		return func(i int) {
			if ctx.Err() == nil {
				s.measure(&list.Nodes[i], network)
			}
		}
	})
	return list, ctx.Err()
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

// parallel calls what worker returns for 0 to n-1, one a processor at a time.
func parallel(n int, worker func() func(int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		wg.Go(func() {
			f := worker()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// Reports says whether what the node itself measured counts.
func (n *Node) Reports() bool {
	return !slices.ContainsFunc(n.Marks, func(m Mark) bool { return m != Misplaced && m != BadPosition })
}

// About says of a node what takes no other node: all but its distances. report is nil where there is none.
func About(n *v1.Node, report *v1alpha1.NodeLatency, doubt store.Doubt, now time.Time) Node {
	at := cli.LocationOf(n)
	node := Node{Name: n.Name, Region: at.Region, Zone: at.Zone, Ready: ready(n), Unschedulable: n.Spec.Unschedulable}
	mark := func(m Mark, is bool) {
		if is {
			node.Marks = append(node.Marks, m)
		}
	}
	mark(NoProber, report == nil)
	if report != nil {
		st := &report.Status
		mark(NoData, st.ObservedAt == nil)
		if st.ObservedAt != nil {
			age := now.Sub(st.ObservedAt.Time)
			seconds := max(age.Seconds(), 0)
			node.ObservedAt, node.AgeSeconds = st.ObservedAt, &seconds
			life := store.DefaultMaxAge
			if st.RefreshInterval != nil {
				life += st.RefreshInterval.Duration
			}
			mark(Stale, age > life)
		}
		mark(Starved, st.Starved)
		node.Loss = loss(st.Peers)
		node.Control = controlOf(st.Control)
	}
	mark(Distrusted, doubt.Distrusted)
	mark(Misplaced, doubt.Misplaced)
	if position := n.Annotations[v1alpha1.PositionAnnotation]; position != "" {
		_, err := latency.ParsePosition(position)
		mark(BadPosition, err != nil)
	}
	return node
}

func ready(n *v1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

func loss(peers []v1alpha1.PeerLatency) *float64 {
	answered, lost := 0, 0
	for i := range peers {
		answered += int(peers[i].Samples)
		lost += int(peers[i].Lost)
	}
	if answered+lost == 0 {
		return nil
	}
	share := float64(lost) / float64(answered+lost)
	return &share
}

func controlOf(m *v1alpha1.Measurement) *Control {
	if m == nil || m.Typical == nil {
		return nil
	}
	c := &Control{Typical: latency.Format(m.Typical.Duration), TypicalMicros: float64(m.Typical.Duration) / float64(time.Microsecond)}
	if m.Tail != nil {
		c.Tail, c.TailMicros = latency.Format(m.Tail.Duration), float64(m.Tail.Duration)/float64(time.Microsecond)
	}
	return c
}

// scratch is what measuring one node after the other needs.
type scratch struct{ known []float32 }

// measure says how far a node is from all others.
func (s *scratch) measure(n *Node, network *latency.Snapshot) {
	self, ok := network.Index(n.Name)
	if !ok {
		return
	}
	n.Peers = network.MeasuredBy(self)
	row := network.Row(self, latency.FromTarget, latency.Typical)
	s.known = s.known[:0]
	nearest, farthest := int32(-1), int32(-1)
	var least, most float32
	for i, rtt := range row.RTT {
		other := int32(i)
		if other == self {
			continue
		}
		us, ok := rtt.Micros()
		if !ok {
			n.Pairs.Unknown++
			continue
		}
		switch row.Provenance[i] {
		case latency.Zone:
			n.Pairs.Zone++
		case latency.Ranking:
			n.Pairs.Ranking++
		case latency.Coordinate:
			n.Pairs.Coordinate++
		default:
			n.Pairs.Measured++
		}
		s.known = append(s.known, us)
		if nearest < 0 || us < least {
			nearest, least = other, us
		}
		if farthest < 0 || us > most {
			farthest, most = other, us
		}
	}
	if len(s.known) == 0 {
		return
	}
	neighbor := func(i int32) *Neighbor {
		p := row.Provenance[i]
		return &Neighbor{Node: network.Name(i), Distance: distance(row.RTT[i], !p.IsMeasured()), Provenance: p.String()}
	}
	n.Nearest, n.Farthest = neighbor(nearest), neighbor(farthest)
	if median, reason := latency.FromSeconds(float64(placement.Median(s.known)) / 1e6); reason == "" {
		d := distance(median, n.Pairs.Estimated() > 0)
		n.Typical = &d
	}
}

func distance(rtt latency.RTT, estimated bool) Distance {
	us, _ := rtt.Micros() // only known ones come here
	return Distance{RTT: rtt.String(), Micros: float64(us), Estimated: estimated}
}

func (c *command) print(list *List, wide bool) error {
	if list.Coverage.Nodes == 0 {
		fmt.Fprintln(c.Out, "There are no nodes.")
		return nil
	}
	if len(list.Nodes) == 0 {
		fmt.Fprintf(c.Out, "No node has the labels %s.\n", c.selector)
		return nil
	}
	t := &cli.Table{Columns: []cli.Column{
		{Name: "NODE", Cut: true},
		{Name: "ZONE", Cut: true, Drop: 4},
		{Name: "STATUS"},
		{Name: "TYPICAL", Right: true},
		{Name: "NEAREST", Cut: true, Drop: 6},
		{Name: "FARTHEST", Cut: true, Drop: 3},
		{Name: "LOSS", Right: true, Drop: 5},
		{Name: "CONTROL", Right: true, Drop: 2},
		{Name: "AGE", Right: true, Drop: 7},
		{Name: "MEASURED", Right: true, Drop: 1},
	}}
	if wide {
		t.Columns = append(t.Columns, []cli.Column{
			{Name: "PAIRS", Right: true},
			{Name: "ZONE MEDIAN", Right: true},
			{Name: "COORDINATE", Right: true},
			{Name: "RANKING", Right: true},
			{Name: "UNKNOWN", Right: true},
			{Name: "PEERS", Right: true},
			{Name: "REGION"},
		}...)
	}
	marked := map[Mark]bool{}
	for i := range list.Nodes {
		n := &list.Nodes[i]
		for _, m := range n.Marks {
			marked[m] = true
		}
		others := list.Coverage.Nodes - 1
		row := []any{
			n.Name, orNone(n.Zone), status(n), distanceCell(n.Typical), neighborText(n.Nearest), neighborText(n.Farthest),
			lossCell(n.Loss), controlCell(n), ageCell(n), cli.Share(n.Pairs.Measured, others),
		}
		if wide {
			row = append(row, n.Pairs.Measured, n.Pairs.Zone, n.Pairs.Coordinate, n.Pairs.Ranking, n.Pairs.Unknown, n.Peers, orNone(n.Region))
		}
		t.Row(row...)
	}
	if err := c.Print(t); err != nil {
		return err
	}
	c.summary(list)
	for _, m := range meaning {
		if marked[m.mark] {
			c.Say("%s: %s", m.mark, m.text)
		}
	}
	return nil
}

func (c *command) summary(list *List) {
	cov := list.Coverage
	what := cli.Plural(cov.Nodes, "node", "nodes")
	if len(list.Nodes) < cov.Nodes {
		what = fmt.Sprintf("%s of %s nodes", cli.Count(len(list.Nodes)), cli.Count(cov.Nodes))
	}
	fmt.Fprintln(c.Out)
	text := fmt.Sprintf("%s; %s with data that count. ", what, cli.Count(cov.Reporting))
	if cov.Pairs > 0 {
		text += fmt.Sprintf("Of %s, %s measured (%s)", cli.Plural(cov.Pairs, "pair", "pairs"), isAre(cov.MeasuredPairs), cli.Share(cov.MeasuredPairs, cov.Pairs))
		if len(list.Nodes) == cov.Nodes {
			estimated, unknown := 0, 0
			for i := range list.Nodes {
				estimated += list.Nodes[i].Pairs.Estimated()
				unknown += list.Nodes[i].Pairs.Unknown
			}
			// Each pair was seen from both of its ends.
			text += fmt.Sprintf(", %s estimated (~), %s unknown (–)", cli.Count(estimated/2), cli.Count(unknown/2))
		}
		text += "."
	}
	c.Say("%s", strings.TrimSpace(text))
}

func isAre(n int) string {
	if n == 1 {
		return "1 is"
	}
	return cli.Count(n) + " are"
}

func orNone(s string) string {
	if s == "" {
		return cli.None
	}
	return s
}

// status is Ready, as kubectl has it, and the marks.
func status(n *Node) cli.Cell {
	words, style := []string{"Ready"}, cli.Plain
	if !n.Ready {
		words[0], style = "NotReady", cli.Bad
	}
	if n.Unschedulable {
		words = append(words, "SchedulingDisabled")
	}
	for _, m := range n.Marks {
		words = append(words, string(m))
		if style == cli.Plain {
			style = cli.Warn
		}
	}
	return cli.Cell{Text: strings.Join(words, ","), Style: style}
}

func (d *Distance) text() string {
	switch {
	case d == nil:
		return cli.None
	case d.Estimated:
		return "~" + d.RTT
	}
	return d.RTT
}

func distanceCell(d *Distance) cli.Cell {
	if d != nil && d.Estimated {
		return cli.Cell{Text: d.text(), Style: cli.Dim}
	}
	return cli.Text(d.text())
}

func neighborText(n *Neighbor) cli.Cell {
	if n == nil {
		return cli.Text(cli.None)
	}
	cell := distanceCell(&n.Distance)
	cell.Text += " " + n.Node
	return cell
}

// someLoss and muchLoss are where the share of lost probes is worth a look, and where it is bad.
const (
	someLoss = 0.01
	muchLoss = 0.1
)

func lossCell(loss *float64) cli.Cell {
	if loss == nil {
		return cli.Text(cli.None)
	}
	cell := cli.Text(fmt.Sprintf("%.1f %%", 100**loss))
	switch {
	case *loss == 0:
		cell.Text = "0 %"
	case *loss >= muchLoss:
		cell.Style = cli.Bad
	case *loss >= someLoss:
		cell.Style = cli.Warn
	}
	return cell
}

func controlCell(n *Node) cli.Cell {
	if n.Control == nil {
		return cli.Text(cli.None)
	}
	cell := cli.Text(n.Control.Typical)
	if slices.Contains(n.Marks, Starved) {
		cell.Style = cli.Warn
	}
	return cell
}

func ageCell(n *Node) cli.Cell {
	if n.AgeSeconds == nil {
		return cli.Text(cli.None)
	}
	cell := cli.Text(cli.Age(time.Duration(*n.AgeSeconds * float64(time.Second))))
	if slices.Contains(n.Marks, Stale) {
		cell.Style = cli.Warn
	}
	return cell
}
