// SPDX-License-Identifier: Apache-2.0

// Package doctor is the command `kubectl fog doctor`: what is wrong with a set-up of fogsched, how that shows, and how to mend it.
package doctor

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
)

// check is one entry of the list.
type check struct {
	id, group, title string
	run              func(*facts, *outcome)
}

// checks are in the order in which a set-up is built up: each rests on those before.
var checks = []check{
	{"api-server", "cluster", "API server", checkAPIServer},
	{"crds", "cluster", "CRDs", checkCRDs},
	{"rbac", "cluster", "Rights", checkRBAC},
	{"admission", "cluster", "Admission policy", checkAdmission},
	{"clock", "cluster", "Clocks", checkClock},

	{"scheduler", "scheduler", "Running", checkScheduler},
	{"leader", "scheduler", "Leader", checkLeader},
	{"config", "scheduler", "Configuration", checkConfig},
	{"qps", "scheduler", "Requests a second", checkQPS},
	{"batching", "scheduler", "Batching", checkBatching},
	{"interest", "scheduler", "Nodes of interest", checkInterest},
	{"prometheus", "scheduler", "Prometheus", checkPrometheus},
	{"metrics", "scheduler", "Its own metrics", checkMetrics},
	{"two-schedulers", "scheduler", "Two schedulers", checkTwoSchedulers},

	{"in-use", "pods", "In use", checkInUse},
	{"scheduler-name", "pods", "schedulerName", checkSchedulerName},
	{"templates", "pods", "Pod templates", checkTemplates},
	{"annotations", "pods", "Annotations", checkAnnotations},
	{"pending", "pods", "Pending pods", checkPending},

	{"policies", "policies", "Valid", checkPolicies},
	{"targets", "policies", "Targets", checkTargets},
	{"status", "policies", "Status", checkStatus},
	{"limits", "policies", "Limits", checkLimits},

	{"probers", "probers", "Running", checkProbers},
	{"reports", "probers", "Reports", checkReports},
	{"coverage", "probers", "Coverage", checkCoverage},
	{"lost", "probers", "Lost probes", checkLost},
	{"starved", "probers", "Starved", checkStarved},
	{"contradicted", "probers", "Contradicted", checkContradicted},
}

type options struct {
	namespace string
	output    string
	only      []string
	strict    bool
	metrics   string
}

// NewCommand returns the command.
func NewCommand(o *cli.Options) *cobra.Command {
	opts := options{namespace: defaultNamespace}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "What is wrong with this set-up, and how to mend it",
		Long: `Look at a set-up of fogsched and say what is wrong with it, by which names and numbers that shows, and how to mend it.

A problem is what does not work; a warning is what works and will bite. The exit code is 1 with a problem, with --strict also with a
warning, and else 0. What you have no permission to look at is named with the permission that it takes, and is no problem.

Without --metrics, the scheduler's own figures are not looked at (queries to Prometheus, panics, placements without data): they are behind
the scheduler's own port, which asks for a client's credentials. The output says how to get them.`,
		Example: `  # Everything
  kubectl fog doctor

  # Only what concerns the probers, and whether RBAC is complete
  kubectl fog doctor --only=probers,rbac

  # In a script: fail on warnings too
  kubectl fog doctor --strict -o json | jq '.checks[] | select(.status != "ok")'

  # With the scheduler's own metrics
  kubectl fog doctor --metrics=metrics.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, o, &opts)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&opts.namespace, "scheduler-namespace", opts.namespace,
		"Namespace of fogsched. Where it has no scheduler and this flag is not given, the namespace that has one is taken.")
	fs.StringSliceVar(&opts.only, "only", nil, "Only these checks, or all of these groups, separated by commas: "+strings.Join(groups(), ", ")+", or the id of a check.")
	fs.BoolVar(&opts.strict, "strict", false, "Exit with 1 on warnings, too.")
	fs.StringVar(&opts.metrics, "metrics", "", "File with the scheduler's /metrics, or - for standard input.")
	cli.OutputFlag(fs, &opts.output, "json", "yaml")
	for flag, complete := range map[string]cobra.CompletionFunc{
		"only":   cli.CompleteWords(append(groups(), ids()...)...),
		"output": cli.CompleteWords("json", "yaml"),
		"scheduler-namespace": func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			c, err := o.Read(cmd.Context(), []cli.Kind{cli.Namespaces})
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, n := range c.Namespaces {
				names = append(names, n.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	} {
		if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // a flag that is not there
		}
	}
	return cmd
}

func groups() (names []string) {
	for _, c := range checks {
		if !slices.Contains(names, c.group) {
			names = append(names, c.group)
		}
	}
	return names
}

func ids() (names []string) {
	for _, c := range checks {
		if !slices.Contains(names, c.id) && !slices.Contains(groups(), c.id) {
			names = append(names, c.id)
		}
	}
	return names
}

// chosen returns the checks that --only names. A group's name that is a check's too means the group.
func chosen(only []string) ([]check, error) {
	if len(only) == 0 {
		return checks, nil
	}
	for _, name := range only {
		if !slices.Contains(groups(), name) && !slices.Contains(ids(), name) {
			hint := ""
			if near := nearest(name, append(groups(), ids()...)); near != "" {
				hint = fmt.Sprintf(" (did you mean %s?)", near)
			}
			return nil, fmt.Errorf("--only=%s: no such check%s: want one of the groups %s, or of the checks %s",
				name, hint, strings.Join(groups(), ", "), strings.Join(ids(), ", "))
		}
	}
	var out []check
	for _, c := range checks {
		if slices.Contains(only, c.group) || slices.Contains(only, c.id) && !slices.Contains(groups(), c.id) {
			out = append(out, c)
		}
	}
	return out, nil
}

func run(cmd *cobra.Command, o *cli.Options, opts *options) error {
	if err := cli.CheckOutput(opts.output, "json", "yaml"); err != nil {
		return err
	}
	list, err := chosen(opts.only)
	if err != nil {
		return err
	}
	text, err := readMetrics(o, opts.metrics)
	if err != nil {
		return err
	}
	f, err := gather(cmd.Context(), o, opts.namespace, cmd.Flags().Changed("scheduler-namespace"))
	if err != nil {
		return err
	}
	f.metrics = text
	report := &Report{CheckedAt: f.ReadAt.UTC(), Server: f.serverVersion, SchedulerNamespace: f.namespace}
	for _, c := range list {
		out := &outcome{Check{ID: c.id, Group: c.group, Title: c.title}}
		c.run(f, out)
		report.Checks = append(report.Checks, out.close())
	}
	report.Summary = summarize(report.Checks)
	if opts.output != "" {
		err = o.PrintObject(opts.output, report)
	} else {
		err = printReport(o, report)
	}
	if err != nil {
		return err
	}
	if report.Summary.Problems > 0 || opts.strict && report.Summary.Warnings > 0 {
		return cli.ErrSilent
	}
	return nil
}

func readMetrics(o *cli.Options, path string) (*samples, error) {
	var in io.Reader
	switch path {
	case "":
		return nil, nil
	case "-":
		in = o.In
	default:
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("--metrics: %w", err)
		}
		defer file.Close()
		in = file
	}
	s, err := parseMetrics(in)
	if err != nil {
		return nil, fmt.Errorf("--metrics=%s: no metrics of fogsched in the text format of Prometheus: %w", path, err)
	}
	return s, nil
}
