// SPDX-License-Identifier: Apache-2.0

// Package report is the command `kubectl fog report`: one page, complete in itself, that shows a cluster's network, the policies and what
// their limits are worth.
package report

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

type options struct {
	*cli.Options
	output, format, title string
	allNamespaces         bool
}

// NewCommand returns the command.
func NewCommand(o *cli.Options) *cobra.Command {
	r := &options{Options: o}
	cmd := &cobra.Command{
		Use:   "report -o FILE",
		Short: "Write a page about the network, the policies and their limits",
		Long: `Write one HTML page about the cluster, for those who do not sit at your terminal: a map of the nodes by network distance with the pods of
policies on it, the limits that are kept or broken, the round-trip times between nodes and how each was got, and how long callers wait where
the pods are now against where a scheduler that does not know of latency would have put them.

The page is complete in itself: it loads nothing, sends nothing, works without a network and can be printed. It holds the names of nodes,
zones, namespaces, policies and Services: mind whom you send it to.

What stock placement would do is a model: the pods on random nodes on which they could run, up to 1000 times, by a seeded generator. It is
labelled so in the page.`,
		Example: `  # The whole cluster
  kubectl fog report -o report.html

  # The policies of one namespace, with a title of its own
  kubectl fog report -n shop -o shop.html --title "Shop, before the move"

  # The data behind the page
  kubectl fog report --format json -o - | jq '.policies[] | {name, state}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.StringVarP(&r.output, "output", "o", "", "File to write; - is the standard output.")
	fs.StringVar(&r.format, "format", "", "What to write: html, json or yaml. The default is what the file's name ends in, else html.")
	fs.StringVar(&r.title, "title", "", "Title of the page. The default names the cluster.")
	fs.BoolVarP(&r.allNamespaces, "all-namespaces", "A", false, "Policies of all namespaces, which is the default; -n NAME takes those of one.")
	must(cmd.RegisterFlagCompletionFunc("format", cli.CompleteWords(formats...)))
	must(cmd.MarkFlagFilename("output", "html", "json", "yaml"))
	if f := cmd.InheritedFlags().Lookup("namespace"); f == nil {
		_ = cmd.RegisterFlagCompletionFunc("namespace", r.completeNamespaces) // the flag is the parent's, and may come later
	}
	return cmd
}

// must panics on the errors of flags that are not there: a mistake of this package's.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

var formats = []string{"html", "json", "yaml"}

func (r *options) completeNamespaces(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	core, _, err := r.Clients()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := core.CoreV1().Namespaces().List(cmd.Context(), metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for i := range list.Items {
		if strings.HasPrefix(list.Items[i].Name, prefix) {
			names = append(names, list.Items[i].Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (r *options) check() error {
	if r.output == "" {
		return errors.New("-o is missing: name the file to write, for example -o report.html, or - for the standard output")
	}
	if r.format == "" {
		r.format = "html"
		if ending := strings.TrimPrefix(filepath.Ext(r.output), "."); slices.Contains(formats, ending) {
			r.format = ending
		}
	}
	if !slices.Contains(formats, r.format) {
		return fmt.Errorf("--format %s: want html, json or yaml", r.format)
	}
	if r.allNamespaces && r.named() {
		return errors.New("give either -n or -A")
	}
	return nil
}

// named reports whether -n was given.
func (r *options) named() bool { return r.Config.Namespace != nil && *r.Config.Namespace != "" }

func (r *options) run(ctx context.Context) error {
	if err := r.check(); err != nil {
		return err
	}
	namespace := ""
	if r.named() {
		namespace = *r.Config.Namespace
	}
	cluster, err := r.Read(ctx, []cli.Kind{cli.Nodes, cli.Pods, cli.Policies, cli.NodeLatencies}, cli.Services, cli.Namespaces)
	if err != nil {
		return err
	}
	done := r.Working("comparing placements")
	report := newReport(ctx, cluster, namespace)
	done()
	r.name(report)
	page, err := r.encode(report)
	if err != nil {
		return err
	}
	if r.output == "-" {
		_, err := r.Out.Write(page)
		return err
	}
	if err := os.WriteFile(r.output, page, 0o644); err != nil {
		return fmt.Errorf("writing the report: %w; choose another file with -o", err)
	}
	limits, broken := report.limits()
	_, err = fmt.Fprintf(r.Out, "%s: %s, %s, %s broken (%d KB)\n", r.output, plural(report.Network.Nodes, "node", "nodes"),
		plural(len(report.Policies), "policy", "policies"), fmt.Sprintf("%d of %s", broken, plural(limits, "limit", "limits")), (len(page)+999)/1000)
	return err
}

// name fills in what the kubeconfig says.
func (r *options) name(report *Report) {
	if raw, err := r.Config.ToRawKubeConfigLoader().RawConfig(); err == nil {
		report.Context = raw.CurrentContext
		if r.Config.Context != nil && *r.Config.Context != "" {
			report.Context = *r.Config.Context
		}
		if c := raw.Contexts[report.Context]; c != nil {
			report.Cluster = c.Cluster
		}
	}
	report.Title = r.title
	if report.Title == "" {
		report.Title = "Network latency and placements"
		if report.Cluster != "" {
			report.Title += " of " + report.Cluster
		}
	}
}

func (r *options) encode(report *Report) ([]byte, error) {
	if r.format == "html" {
		return render(report)
	}
	var b strings.Builder
	o := *r.Options
	o.Out = &b
	err := o.PrintObject(r.format, report)
	return []byte(b.String()), err
}

// newReport makes the report of what was read.
func newReport(ctx context.Context, c *cli.Cluster, namespace string) *Report {
	w := newWorld(ctx, c, namespace)
	r := &Report{At: c.ReadAt.UTC(), Namespace: namespace, Network: w.network(), Map: w.layOut(), Matrix: w.matrix(), Policies: []Policy{}}
	for _, g := range w.governed {
		r.Policies = append(r.Policies, g.policy)
	}
	r.Comparisons, r.ComparisonsLeftOut = w.compareAll()
	for _, k := range []cli.Kind{cli.Services, cli.Namespaces} {
		if err := c.Missing[k]; err != nil {
			r.Notes = append(r.Notes, fmt.Sprintf("What is said of targets by %s is not complete: %v.", strings.TrimSuffix(string(k), "s"), err))
		}
	}
	r.InShort = w.inShort(r)
	return r
}

// limits counts the limits, and those of them that are broken.
func (r *Report) limits() (limits, broken int) {
	for i := range r.Policies {
		for _, e := range r.Policies[i].Entries {
			if e.Limit != "" {
				limits++
				if e.BrokenPairs > 0 {
					broken++
				}
			}
		}
	}
	return limits, broken
}

// inShort says the few things that matter.
func (w *world) inShort(r *Report) (facts []Fact) {
	say := func(level, format string, args ...any) {
		facts = append(facts, Fact{level, fmt.Sprintf(format, args...)})
	}
	n := &r.Network
	switch {
	case n.Nodes == 0:
		say("warn", "The cluster has no nodes.")
		return facts
	case n.Nodes > 1 && n.Measured == 0:
		say("bad", "Nothing has been measured: no pair of nodes has a current measurement. `kubectl fog doctor` says why.")
	}
	w.sayLimits(r, say)
	w.sayPlacements(r, say)
	if n.Measured > 0 && len(n.Silent) > 0 {
		names := make([]string, 0, 4)
		for _, s := range n.Silent[:min(4, len(n.Silent))] {
			names = append(names, s.Node)
		}
		more := ""
		if len(n.Silent) > len(names) {
			more = fmt.Sprintf(" and %d more", len(n.Silent)-len(names))
		}
		say("warn", "%s no current measurements of %s own: %s%s.", plural(len(n.Silent), "node has", "nodes have"),
			map[bool]string{true: "its", false: "their"}[len(n.Silent) == 1], strings.Join(names, ", "), more)
	}
	if n.Measured > 0 && n.UnknownPercent >= 0.1 {
		say("info", "Of %s %% of the pairs of nodes nothing is known, not even an estimate.", number(n.UnknownPercent))
	}
	if n.Measured > 0 && len(n.Silent) == 0 {
		say("good", "Every node has current measurements.")
	}
	return facts
}

func (w *world) sayLimits(r *Report, say func(level, format string, args ...any)) {
	limits, broken := r.limits()
	unmeasured, invalid := 0, 0
	var worst *Link
	for _, g := range w.governed {
		switch g.policy.State {
		case v1alpha1.ReasonInvalid:
			invalid++
		case v1alpha1.ReasonUnmeasured:
			unmeasured++
		}
	}
	if len(r.Map.Links) > 0 {
		worst = &r.Map.Links[0]
	}
	switch {
	case len(r.Policies) == 0:
		say("info", "No pod has a latency policy or annotation: nothing is placed by latency.")
	case limits == 0:
		say("info", "%s, and none has a limit.", plural(len(r.Policies), "policy", "policies"))
	case broken > 0:
		say("bad", "%d of %s %s broken. The worst is of %s: %s → %s takes %s, the limit is %s.", broken, plural(limits, "limit", "limits"),
			map[bool]string{true: "is", false: "are"}[broken == 1], worst.Policy, worst.From, worst.To, worst.RTT, worst.Limit)
	case unmeasured > 0:
		say("warn", "No limit is known to be broken, but of %s some pairs in use are not measured.", plural(unmeasured, "policy", "policies"))
	default:
		say("good", "No limit is broken: %s in %s.", plural(limits, "limit", "limits"), plural(len(r.Policies), "policy", "policies"))
	}
	if invalid > 0 {
		say("bad", "%s invalid and without effect.", plural(invalid, "policy or annotation is", "policies or annotations are"))
	}
}

func (w *world) sayPlacements(r *Report, say func(level, format string, args ...any)) {
	governed, explained, blind, broken, pending := w.placements()
	if governed > 0 {
		text := fmt.Sprintf("%s under a policy; fogsched placed %d of them", plural(governed, "pod is", "pods are"), explained)
		level := "info"
		if blind > 0 {
			level, text = "warn", text+fmt.Sprintf(", %d without any data", blind)
		}
		if broken > 0 {
			text += fmt.Sprintf(", %d where a limit was broken already", broken)
		}
		say(level, "%s.", text)
	}
	if pending > 0 {
		say("warn", "%s under a policy and on no node: `kubectl fog explain pod NAME` says why.", plural(pending, "pod is", "pods are"))
	}
	var better, worse int
	var most *Comparison
	for i := range r.Comparisons {
		c := &r.Comparisons[i]
		if c.Draws == 0 || c.Now.Median == "" || c.Random.Median == "" {
			continue
		}
		if c.SlowerPercent >= 50 {
			better++
		} else {
			worse++
		}
		// What users feel comes before what pods wait for.
		if most == nil || c.Client && !most.Client || c.Client == most.Client && c.Callers > most.Callers {
			most = c
		}
	}
	if most != nil {
		level := "good"
		if most.Now.median > most.Random.median {
			level = "warn"
		}
		say(level, "%s: half of %s wait at most %s now; with the pods on random nodes it would be %s.", most.Policy,
			map[bool]string{true: "the clients", false: "the pods' calls"}[most.Client], most.Now.Median, most.Random.Median)
		if better+worse > 1 {
			say("info", "In %d of %d entries of policies callers wait less than in most random placements.", better, better+worse)
		}
	}
}
