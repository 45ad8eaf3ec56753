// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/latency"
)

// State is what holds of a policy or of an entry.
type State string

// The states. Kept to NoPods and Invalid are what the scheduler wrote; the rest is about what it did not write.
const (
	Kept       State = "kept"
	Broken     State = "broken"
	Unmeasured State = "unmeasured" // a limited pair in use has no measurement
	NoTargets  State = "no-targets" // a limit is to a target without a placed pod or node
	NoLimits   State = "no-limits"
	NoPods     State = "no-pods"
	Invalid    State = "invalid"
	// OutOfDate: the status is of an older version of the policy.
	OutOfDate State = "out-of-date"
	// NoStatus: no scheduler has looked at the policy.
	NoStatus State = "no-status"
)

// StatusList is what `kubectl fog policy status -o json` prints.
type StatusList struct {
	ReadAt   metav1.Time `json:"readAt"`
	Policies []Status    `json:"policies"`
}

// Status is what holds of one policy, as the scheduler wrote it.
type Status struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	State     State  `json:"state"`
	// Message says more, where there is more to say.
	Message string `json:"message,omitempty"`
	// Pods is the number of placed pods that the policy governs.
	Pods int32 `json:"pods"`
	// Typical and Tail are the means over the entries by weight; Estimated where not all that is behind them was measured.
	Figures   `json:",inline"`
	Estimated bool `json:"estimated,omitempty"`
	// Worst is the slowest pair of nodes in use, in words.
	Worst   string  `json:"worst,omitempty"`
	Entries []Entry `json:"entries,omitempty"`
	// Generation is the policy's, ObservedGeneration that which the status is about; 0 where there is no status.
	Generation         int64 `json:"generation"`
	ObservedGeneration int64 `json:"observedGeneration"`
	// Demand says whether the demand that entries name is known; absent where none names one.
	Demand *Demand `json:"demand,omitempty"`
}

// Figures are the two statistics, as people write them, "12.3ms", and in microseconds; absent where unknown.
type Figures struct {
	Typical       string   `json:"typical,omitempty"`
	TypicalMicros *float64 `json:"typicalMicros,omitempty"`
	Tail          string   `json:"tail,omitempty"`
	TailMicros    *float64 `json:"tailMicros,omitempty"`
}

// Demand says whether the weights of clients are known.
type Demand struct {
	Known   bool   `json:"known"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// Entry is what holds of one entry.
type Entry struct {
	// Entry is its path in the spec, "dependencies[0]"; Target says in words what it is about.
	Entry  string `json:"entry"`
	Target string `json:"target"`
	// Demand is the name of the per-node weight of its clients.
	Demand      string `json:"demand,omitempty"`
	TargetNodes int32  `json:"targetNodes"`
	State       State  `json:"state"`
	Figures     `json:",inline"`
	// Provenance is the worst of the pairs behind the figures, Error the largest error to be expected of those from coordinates, "±22%".
	Provenance string `json:"provenance,omitempty"`
	Error      string `json:"error,omitempty"`
	// Limit is the RTT that should not be exceeded.
	Limit       string   `json:"limit,omitempty"`
	LimitMicros *float64 `json:"limitMicros,omitempty"`
	// BrokenPairs and UnmeasuredPairs are of the pairs in use.
	BrokenPairs     int32 `json:"brokenPairs,omitempty"`
	UnmeasuredPairs int32 `json:"unmeasuredPairs,omitempty"`
	Worst           *Pair `json:"worst,omitempty"`
}

// Pair is a pair of nodes in use.
type Pair struct {
	From       string `json:"from"`
	To         string `json:"to"`
	Figures    `json:",inline"`
	Provenance string `json:"provenance,omitempty"`
	Error      string `json:"error,omitempty"`
}

type status struct {
	*cli.Options
	names    []string
	all      bool
	selector string
	output   string
	watch    bool
}

func newStatus(o *cli.Options) *cobra.Command {
	c := &status{Options: o}
	cmd := &cobra.Command{
		Use:   "status [NAME…]",
		Short: "Which latency limits hold now, and which are broken",
		Long: `Show what holds now of LatencyPolicy objects, as the scheduler writes it into their status every two seconds: for each policy and each of
its entries the expected round-trip time, its limit, and the slowest pair of nodes in use.

An entry "calls" what its pods depend on, and is "called by" its clients. What was measured is written 12.3ms; ~12.3ms is an estimate, or has
one in it (-o wide says which); – is unknown. A limit rests on measurements alone: it is kept, broken, or unmeasured.

A status that is older than its policy, or that was never written, is no answer: then the state says so.`,
		Example: `  # the policies of a namespace
  kubectl fog policy status -n shop

  # all of them, followed
  kubectl fog policy status -A --watch

  # for a script: are any limits broken?
  kubectl fog policy status -A -o json | jq -e '[.policies[] | select(.state == "broken")] == []'`,
		ValidArgsFunction: o.CompletePolicies,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.names = args
			return c.run(cmd.Context())
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&c.all, "all-namespaces", "A", false, "Show the policies of all namespaces.")
	fs.StringVarP(&c.selector, "selector", "l", "", "Show the policies with these labels only, for example team=shop.")
	cli.OutputFlag(fs, &c.output, "wide", "json", "yaml")
	cli.WatchFlag(fs, &c.watch)
	_ = cmd.RegisterFlagCompletionFunc("selector", o.CompletePolicySelector)
	_ = cmd.RegisterFlagCompletionFunc("output", cli.CompleteWords("wide", "json", "yaml"))
	return cmd
}

func (c *status) run(ctx context.Context) error {
	if err := cli.CheckOutput(c.output, "wide", "json", "yaml"); err != nil {
		return err
	}
	selector, err := labels.Parse(c.selector)
	if err != nil {
		return fmt.Errorf("--selector=%s: %w", c.selector, err)
	}
	var in cli.Scope
	if c.all && len(c.names) > 0 {
		return fmt.Errorf("give names with a namespace (-n), not with all of them (-A)")
	}
	if !c.all {
		if in.Namespace, err = c.Namespace(); err != nil {
			return cli.Explain(err)
		}
	}
	return c.Show(ctx, c.watch, in, []cli.Kind{cli.Policies}, nil, func(_ context.Context, cluster *cli.Cluster) error {
		list := &StatusList{ReadAt: metav1.NewTime(cluster.ReadAt), Policies: []Status{}}
		for _, name := range c.names {
			if !slices.ContainsFunc(cluster.Policies, func(p *v1alpha1.LatencyPolicy) bool { return p.Name == name && p.Namespace == in.Namespace }) {
				return fmt.Errorf("there is no LatencyPolicy %q in the namespace %s (kubectl get latencypolicies -A lists them)", name, in.Namespace)
			}
		}
		for _, p := range cluster.Policies {
			if (c.all || p.Namespace == in.Namespace) && selector.Matches(labels.Set(p.Labels)) && (len(c.names) == 0 || slices.Contains(c.names, p.Name)) {
				list.Policies = append(list.Policies, StatusOf(p))
			}
		}
		slices.SortFunc(list.Policies, func(a, b Status) int {
			return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
		})
		if c.output == "json" || c.output == "yaml" {
			return c.PrintObject(c.output, list)
		}
		return c.print(list, in.Namespace)
	})
}

// stateOf are the states by the reasons of the condition LimitsKept.
var stateOf = map[string]State{
	v1alpha1.ReasonKept: Kept, v1alpha1.ReasonBroken: Broken, v1alpha1.ReasonUnmeasured: Unmeasured, v1alpha1.ReasonNoTargets: NoTargets,
	v1alpha1.ReasonNoLimits: NoLimits, v1alpha1.ReasonNoPods: NoPods, v1alpha1.ReasonInvalid: Invalid,
}

// StatusOf returns what holds of a policy.
func StatusOf(p *v1alpha1.LatencyPolicy) Status {
	s := Status{Namespace: p.Namespace, Name: p.Name, Generation: p.Generation, ObservedGeneration: p.Status.ObservedGeneration, State: NoStatus}
	kept := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionLimitsKept)
	if kept == nil {
		s.Message = "no scheduler has looked at it"
		return s
	}
	s.State, s.Message = stateOf[kept.Reason], kept.Message
	if s.State == "" {
		s.State = State(kept.Reason)
	}
	if p.Status.ObservedGeneration < p.Generation {
		s.State = OutOfDate
		s.Message = fmt.Sprintf("the status is of generation %d, the policy is %d", p.Status.ObservedGeneration, p.Generation)
	}
	s.Pods, s.Worst, s.Figures = p.Status.Pods, p.Status.Worst, figures(p.Status.Typical, p.Status.Tail)
	demands := demandsOf(p)
	for i := range p.Status.Entries {
		e := entryOf(&p.Status.Entries[i], p.Status.Pods)
		if s.State != OutOfDate {
			e.Demand = demands[e.Entry]
		}
		s.Estimated = s.Estimated || estimated(e.Provenance)
		s.Entries = append(s.Entries, e)
	}
	if d := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionDemandKnown); d != nil {
		s.Demand = &Demand{Known: d.Status == metav1.ConditionTrue, Reason: d.Reason, Message: d.Message}
	}
	return s
}

// demandsOf returns the names of the demands by the paths of their entries.
func demandsOf(p *v1alpha1.LatencyPolicy) map[string]string {
	out := map[string]string{}
	in, _, err := intent.FromPolicy(p)
	if err != nil {
		return out
	}
	for i := range in.Entries {
		out[in.Entries[i].Path] = in.Entries[i].Demand
	}
	return out
}

func entryOf(e *v1alpha1.EntryStatus, pods int32) Entry {
	out := Entry{
		Entry: e.Entry, Target: e.Target, TargetNodes: e.TargetNodes, Figures: figures(e.Typical, e.Tail), Provenance: e.Provenance, Error: e.Error,
		BrokenPairs: e.BrokenPairs, UnmeasuredPairs: e.UnmeasuredPairs,
	}
	out.Limit, out.LimitMicros = figure(e.Limit)
	switch {
	case e.Limit == nil:
		out.State = NoLimits
	case pods == 0:
		out.State = NoPods
	case e.TargetNodes == 0:
		out.State = NoTargets
	case e.BrokenPairs > 0:
		out.State = Broken
	case e.UnmeasuredPairs > 0:
		out.State = Unmeasured
	default:
		out.State = Kept
	}
	if w := e.Worst; w != nil {
		out.Worst = &Pair{From: w.From, To: w.To, Figures: figures(w.Typical, w.Tail), Provenance: w.Provenance, Error: w.Error}
	}
	return out
}

func figures(typical, tail *metav1.Duration) (f Figures) {
	f.Typical, f.TypicalMicros = figure(typical)
	f.Tail, f.TailMicros = figure(tail)
	return f
}

func figure(d *metav1.Duration) (string, *float64) {
	if d == nil {
		return "", nil
	}
	us := float64(d.Duration) / float64(time.Microsecond)
	return latency.Format(d.Duration), &us
}

// estimated reports whether something that was not measured is behind a figure.
func estimated(provenance string) bool {
	return slices.Contains([]string{latency.Zone.String(), latency.Ranking.String(), latency.Coordinate.String()}, provenance)
}

func mark(text string, estimated bool) string {
	switch {
	case text == "":
		return cli.None
	case estimated:
		return "~" + text
	}
	return text
}

var styles = map[State]cli.Style{
	Kept: cli.Good, Broken: cli.Bad, Unmeasured: cli.Warn, NoTargets: cli.Warn, Invalid: cli.Bad, OutOfDate: cli.Warn, NoStatus: cli.Warn,
}

// StyleOf returns the colour of a state.
func StyleOf(s State) cli.Style { return styles[s] }

// stateText is the state with its figures.
func (e *Entry) stateText() string {
	switch e.State {
	case Broken:
		return "broken (" + cli.Plural(int(e.BrokenPairs), "pair", "pairs") + ")"
	case Unmeasured:
		return "unmeasured (" + cli.Plural(int(e.UnmeasuredPairs), "pair", "pairs") + ")"
	case NoLimits:
		return cli.None
	}
	return string(e.State)
}

func (e *Entry) what() string {
	verb := "calls"
	if strings.HasPrefix(e.Entry, "clients") {
		verb = "called by"
	}
	return "  " + verb + " " + e.Target
}

func (c *status) print(list *StatusList, namespace string) error {
	if len(list.Policies) == 0 {
		where := "in the cluster"
		if namespace != "" {
			where = "in the namespace " + namespace + " (-A shows those of all)"
		}
		if c.selector != "" {
			where = "with the labels " + c.selector + " " + where
		}
		c.Say("There is no LatencyPolicy %s.", where)
		return nil
	}
	t := &cli.Table{Columns: []cli.Column{
		{Name: "POLICY / ENTRY", Cut: true},
		{Name: "STATE", Cut: true},
		{Name: "PODS", Right: true, Drop: 3},
		{Name: "TYPICAL", Right: true},
		{Name: "TAIL", Right: true, Drop: 2},
		{Name: "LIMIT", Right: true, Drop: 4},
		{Name: "WORST PAIR", Cut: true, Drop: 1},
	}}
	wide := c.output == "wide"
	if wide {
		t.Columns = append(t.Columns, []cli.Column{
			{Name: "PROVENANCE"}, {Name: "TARGET NODES", Right: true}, {Name: "DEMAND"}, {Name: "ENTRY"}, {Name: "GENERATION"},
		}...)
	}
	for i := range list.Policies {
		p := &list.Policies[i]
		name := p.Name
		if c.all {
			name = p.Namespace + "/" + p.Name
		}
		row := []any{
			cli.Cell{Text: name, Style: cli.Bold},
			cli.Cell{Text: string(p.State), Style: styles[p.State]},
			p.Pods,
			mark(p.Typical, p.Estimated), mark(p.Tail, p.Estimated), "", "",
		}
		if p.State == NoStatus {
			row[2] = cli.None
		}
		if wide {
			row = append(row, "", "", "", "", fmt.Sprintf("%d of %d", p.ObservedGeneration, p.Generation))
		}
		t.Row(row...)
		for j := range p.Entries {
			e := &p.Entries[j]
			row := []any{
				e.what(),
				cli.Cell{Text: e.stateText(), Style: styles[e.State]},
				"", mark(e.Typical, estimated(e.Provenance)), mark(e.Tail, estimated(e.Provenance)),
				orNone(e.Limit), e.Worst.text(),
			}
			if wide {
				row = append(row, orNone(strings.TrimSpace(e.Provenance+" "+e.Error)), e.TargetNodes, orNone(e.Demand), e.Entry)
			}
			t.Row(row...)
		}
	}
	if err := c.Print(t); err != nil {
		return err
	}
	c.notes(list)
	return nil
}

func orNone(s string) string {
	if s == "" {
		return cli.None
	}
	return s
}

func (p *Pair) text() string {
	if p == nil {
		return cli.None
	}
	rtt := p.Typical
	if rtt == "" {
		rtt = p.Tail
	}
	return fmt.Sprintf("%s %s → %s", mark(rtt, estimated(p.Provenance)), p.From, p.To)
}

// notes says what is wrong beside broken limits.
func (c *status) notes(list *StatusList) {
	var lines []string
	unwritten, old := 0, 0
	for i := range list.Policies {
		p := &list.Policies[i]
		name := p.Namespace + "/" + p.Name
		switch p.State {
		case Invalid:
			lines = append(lines, fmt.Sprintf("%s is invalid and does nothing: %s", name, p.Message))
		case NoStatus:
			unwritten++
		case OutOfDate:
			old++
		}
		if p.Demand != nil && !p.Demand.Known {
			lines = append(lines, strings.TrimSuffix(fmt.Sprintf("%s: the demand of its clients is not known: %s", name, p.Demand.Message), ": "))
		}
	}
	if unwritten > 0 {
		lines = append(lines, fmt.Sprintf("No scheduler has looked at %s: is fogsched running? Ask: kubectl fog doctor", cli.Plural(unwritten, "policy", "policies")))
	}
	if old > 0 {
		lines = append(lines, fmt.Sprintf("The status of %s is older than the policy. If that lasts for more than a few seconds, ask: kubectl fog doctor",
			cli.Plural(old, "policy", "policies")))
	}
	if len(lines) > 0 {
		fmt.Fprintln(c.Out)
	}
	for _, l := range lines {
		c.Say("%s", cli.Clean(l))
	}
}
