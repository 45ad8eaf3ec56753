// SPDX-License-Identifier: Apache-2.0

// Package explain is the command `kubectl fog explain`: why a pod is on its node, why it is pending, or where it would go.
package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corev1defaults "k8s.io/kubernetes/pkg/apis/core/v1"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
)

// Explanation is the output of `kubectl fog explain -o json`.
type Explanation struct {
	// Pod is NAMESPACE/NAME. Of a file's workload it is the first pod that would be made.
	Pod string `json:"pod"`
	// Workload is what a file has: "Deployment default/board".
	Workload string `json:"workload,omitempty"`
	// State is placed, pending, or not created.
	State string `json:"state"`
	// Scheduler is the pod's schedulerName, and Profile the one that it is explained with: another where the pod is not fogsched's.
	Scheduler string `json:"scheduler"`
	Profile   string `json:"profile"`
	// Node is where the pod is, or where it would go; "" for nowhere.
	Node string `json:"node,omitempty"`
	// Wishes are the intents that concern the pod.
	Wishes []nodelatency.Wish `json:"wishes"`
	// Placed is what the scheduler wrote down when it placed the pod.
	Placed *nodelatency.Placement `json:"placed,omitempty"`
	// Candidates are the nodes that the pod could go to now, best first; the others of CandidateCount are left out.
	Candidates     []Candidate `json:"candidates"`
	CandidateCount int         `json:"candidateCount"`
	NodeCount      int         `json:"nodeCount"`
	// Excluded are the other nodes, by reason.
	Excluded []Exclusion `json:"excluded"`
	// Limits are the pod's limits, and how many of the nodes that it could go to otherwise keep them.
	Limits []nodelatency.Bound `json:"limits"`
	// Mend says what would make a pending pod fit.
	Mend []string `json:"mend,omitempty"`
	// Replicas is where the pods of a file's workload would go, one after the other; "" where one would stay pending.
	Replicas []string `json:"replicas,omitempty"`
	// Data says how much is known of the network.
	Data Data `json:"data"`
	// Notes say what the explanation leaves out, and whatever else the reader must know.
	Notes []string `json:"notes,omitempty"`
}

// Candidate is a node that the pod could go to.
type Candidate struct {
	nodelatency.Placement
	// CostMicros is the mean of the entries' RTTs by weight, in microseconds; 0 where it is unknown.
	CostMicros int64 `json:"costMicros,omitempty"`
	// LimitBroken is set where the node breaks a limit, and so ranks behind.
	LimitBroken bool `json:"limitBroken,omitempty"`
	// Score is the sum of all plugins' scores by weight, by which the scheduler chooses, and Scores what each of them gave.
	Score  int64            `json:"score"`
	Scores map[string]int64 `json:"scores"`
}

// Exclusion is why nodes are no candidates.
type Exclusion struct {
	// Plugin is the first that excluded them.
	Plugin string   `json:"plugin"`
	Reason string   `json:"reason"`
	Nodes  []string `json:"nodes"`
}

// Data is how much is known of the network.
type Data struct {
	Nodes         int `json:"nodes"`
	MeasuredPairs int `json:"measuredPairs"`
	Pairs         int `json:"pairs"`
	// Silent are nodes of which no prober says anything.
	Silent []string `json:"silent,omitempty"`
	// Oldest is the age of the oldest report that is used.
	Oldest string `json:"oldest,omitempty"`
}

type options struct {
	*cli.Options
	file, configFile, schedulerNamespace, output string
	candidates, replicas                         int
}

// NewCommand returns the command.
func NewCommand(o *cli.Options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Why a pod is on its node, why it is pending, or where it would go",
		Args:  cobra.NoArgs,
	}
	e := &options{Options: o, candidates: 5}
	pod := &cobra.Command{
		Use:     "pod NAME",
		Aliases: []string{"pods", "po"},
		Short:   "Why a pod is on its node, or why it is pending",
		Long: `Why a pod is on its node, or why it is pending: what was wished for and by whom, what the scheduler wrote down when it
placed the pod, how the best nodes compare now, and what excludes the others. For a pending pod: which limit excludes
how many nodes, how near the nearest of them comes, and what would make the pod fit.

The nodes are compared by the scheduler's own code with its own configuration, on what is read of the cluster. Nothing
is changed.`,
		Example: `  kubectl fog explain pod bulletin-board-7c9f8-x2x4z
  kubectl fog explain pod bulletin-board-7c9f8-x2x4z -n shop -o json
  kubectl fog explain pod bulletin-board-7c9f8-x2x4z --candidates 20`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return e.runPod(cmd.Context(), args[0]) },
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return e.podNames(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
		},
	}
	e.flags(pod)
	cmd.Long = `Why a pod is on its node, or why it is pending (explain pod NAME), or where the pods of a manifest would go that is not
applied yet (explain -f FILE).`
	cmd.Example = `  kubectl fog explain pod bulletin-board-7c9f8-x2x4z
  kubectl fog explain -f deployment.yaml
  kubectl fog explain -f deployment.yaml --replicas 6`
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) == 2 && strings.HasPrefix(args[0], "pod/"), len(args) == 1 && strings.HasPrefix(args[0], "pod/"):
			return nil
		case len(args) > 0:
			return fmt.Errorf("want `kubectl fog explain pod NAME`, or `kubectl fog explain -f FILE`; got %q", strings.Join(args, " "))
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return e.runPod(cmd.Context(), strings.TrimPrefix(args[0], "pod/"))
		}
		if e.file == "" {
			return errors.New("want a pod (`kubectl fog explain pod NAME`) or a manifest (`kubectl fog explain -f FILE`)")
		}
		return e.runFile(cmd.Context())
	}
	e.flags(cmd)
	cmd.Flags().StringVarP(&e.file, "filename", "f", "", "A manifest with Deployments, StatefulSets, ReplicaSets, Jobs, CronJobs or Pods, and the Services and LatencyPolicies that concern them; - for standard input. Nothing of it is created.")
	cmd.Flags().IntVar(&e.replicas, "replicas", 0, "How many pods of each workload to place; 0 is as many as the manifest says, 50 at most.")
	cmd.AddCommand(pod)
	return cmd
}

var formats = []string{"wide", "json", "yaml"}

func (e *options) flags(cmd *cobra.Command) {
	fs := cmd.Flags()
	cli.OutputFlag(fs, &e.output, formats...)
	fs.IntVar(&e.candidates, "candidates", e.candidates, "How many of the best nodes to show.")
	fs.StringVar(&e.configFile, "scheduler-config", "", "The scheduler's KubeSchedulerConfiguration. The default is that of the ConfigMap which its Deployment mounts.")
	fs.StringVar(&e.schedulerNamespace, "scheduler-namespace", "fogsched-system", "Where fogsched is installed.")
	_ = cmd.RegisterFlagCompletionFunc("output", cli.CompleteWords(formats...))
}

func (e *options) check() error {
	if err := cli.CheckOutput(e.output, formats...); err != nil {
		return err
	}
	if e.candidates < 1 {
		return fmt.Errorf("--candidates=%d: want 1 or more", e.candidates)
	}
	if e.replicas < 0 || e.replicas > maxReplicas {
		return fmt.Errorf("--replicas=%d: want 1 to %d, or 0 for as many as the manifest says", e.replicas, maxReplicas)
	}
	return nil
}

func (e *options) podNames(ctx context.Context) []string {
	namespace, err := e.Namespace()
	if err != nil {
		return nil
	}
	core, _, err := e.Clients()
	if err != nil {
		return nil
	}
	list, err := core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

func (e *options) runPod(ctx context.Context, name string) error {
	if err := e.check(); err != nil {
		return err
	}
	namespace, err := e.Namespace()
	if err != nil {
		return cli.Explain(err)
	}
	core, _, err := e.Clients()
	if err != nil {
		return err
	}
	pod, err := core.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("no pod %s in namespace %s (-n chooses another; kubectl get pods -A lists all)", name, namespace)
	case apierrors.IsForbidden(err):
		return &cli.PermissionError{Verb: "get", Resource: "pods"}
	case err != nil:
		return cli.Explain(err)
	}
	if pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		return fmt.Errorf("pod %s has ended (%s): nothing is left to explain but what the scheduler wrote down: %s", name, pod.Status.Phase,
			orNothing(pod.Annotations[v1alpha1.PlacementAnnotation]))
	}
	c, s, err := e.start(ctx, core, pod, nil)
	if err != nil {
		return err
	}
	x, err := e.explain(ctx, c, s, pod)
	if err != nil {
		return err
	}
	x.State = "pending"
	if pod.Spec.NodeName != "" {
		x.State, x.Node = "placed", pod.Spec.NodeName
		if text := pod.Annotations[v1alpha1.PlacementAnnotation]; text != "" {
			placed := &nodelatency.Placement{}
			if err := json.Unmarshal([]byte(text), placed); err != nil {
				x.Notes = append(x.Notes, "The annotation "+v1alpha1.PlacementAnnotation+" cannot be read: "+err.Error())
			} else {
				x.Placed = placed
			}
		}
	}
	return e.print(pod, []*Explanation{x})
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// maxReplicas bounds how many pods of a workload are placed in a simulation.
const maxReplicas = 50

func (e *options) runFile(ctx context.Context) error {
	if err := e.check(); err != nil {
		return err
	}
	namespace, err := e.Namespace()
	if err != nil {
		return cli.Explain(err)
	}
	docs, err := readDocuments(e.file, e.In, namespace)
	if err != nil {
		return err
	}
	core, _, err := e.Clients()
	if err != nil {
		return err
	}
	c, s, err := e.start(ctx, core, nil, docs)
	if err != nil {
		return err
	}
	var all []*Explanation
	for i := range docs.workloads {
		w := &docs.workloads[i]
		corev1defaults.SetObjectDefaults_Pod(w.pod)
		n := w.replicas
		if e.replicas > 0 {
			n = e.replicas
		}
		var first *Explanation
		for k := 1; k <= min(n, maxReplicas); k++ {
			pod := w.replica(k)
			if k == 1 {
				if first, err = e.explain(ctx, c, s, pod); err != nil {
					return err
				}
				first.Workload, first.State = w.name, "not created"
				if len(first.Candidates) > 0 {
					first.Node = first.Candidates[0].Node
				}
				if n > maxReplicas {
					first.Notes = append(first.Notes, fmt.Sprintf("Only the first %d of %d pods were placed here.", maxReplicas, n))
				}
			}
			node, err := e.place(ctx, s, first, pod, k)
			if err != nil {
				return err
			}
			first.Replicas = append(first.Replicas, node)
		}
		if first == nil { // replicas: 0
			first = &Explanation{
				Pod: w.pod.Namespace + "/" + w.pod.Name, Workload: w.name, State: "not created", Scheduler: w.pod.Spec.SchedulerName,
				Wishes: []nodelatency.Wish{}, Candidates: []Candidate{}, Excluded: []Exclusion{}, Limits: []nodelatency.Bound{},
				Notes: []string{"It has 0 replicas: --replicas places some here."},
			}
		}
		all = append(all, first)
	}
	if len(docs.skipped) > 0 {
		slices.Sort(docs.skipped)
		all[0].Notes = append(all[0].Notes, "Objects of the file that were not looked at: "+strings.Join(slices.Compact(docs.skipped), ", ")+".")
	}
	return e.print(nil, all)
}

// place puts a pod where the scheduler would, for the next one to see.
func (e *options) place(ctx context.Context, s *simulation, first *Explanation, pod *v1.Pod, k int) (node string, err error) {
	if k == 1 {
		node = first.Node
	} else {
		r, err := s.try(ctx, first.Profile, pod)
		if err != nil {
			return "", err
		}
		if len(r.candidates) > 0 {
			node = r.candidates[0].name
		}
	}
	if node == "" {
		return "", nil
	}
	return node, s.assume(pod, node)
}

func (e *options) start(ctx context.Context, core kubernetes.Interface, pod *v1.Pod, docs *documents) (*configuration, *simulation, error) {
	c, err := readConfiguration(ctx, e.configFile, e.schedulerNamespace, core)
	if err != nil {
		return nil, nil, err
	}
	restConfig, err := e.RESTConfig()
	if err != nil {
		return nil, nil, err
	}
	s, err := simulate(ctx, e.Options, restConfig, c, pod, docs)
	if err != nil {
		return nil, nil, err
	}
	return c, s, nil
}

// explain tries a pod and says what came of it.
func (e *options) explain(ctx context.Context, c *configuration, s *simulation, pod *v1.Pod) (*Explanation, error) {
	profile, own, err := c.profileFor(pod)
	if err != nil {
		return nil, err
	}
	x := &Explanation{
		Pod: pod.Namespace + "/" + pod.Name, Scheduler: pod.Spec.SchedulerName, Profile: profile, NodeCount: len(s.nodes),
		Wishes: []nodelatency.Wish{}, Candidates: []Candidate{}, Excluded: []Exclusion{}, Limits: []nodelatency.Bound{},
		Data:  s.data(),
		Notes: slices.Clone(c.notes),
	}
	if !own {
		x.Notes = append(x.Notes, fmt.Sprintf("The pod's schedulerName is %s, which is no profile of fogsched: latency has no part in its placement. What follows is what the profile %s would do.",
			pod.Spec.SchedulerName, profile))
	}
	// A pod that is placed is asked about as if it were not.
	unplaced := pod.DeepCopy()
	unplaced.Spec.NodeName = ""
	unplaced.Status = v1.PodStatus{Phase: v1.PodPending}
	r, err := s.try(ctx, profile, unplaced)
	if err != nil {
		return nil, fmt.Errorf("asking the scheduler's plugins: %w", err)
	}
	plugin := s.offline.Plugin(profile)
	if plugin == nil {
		x.Notes = append(x.Notes, fmt.Sprintf("The profile %s does not enable the plugin %s: latency has no part in it.", profile, nodelatency.Name))
	} else {
		wishes, err := plugin.Wishes(unplaced)
		if err != nil {
			x.Notes = append(x.Notes, "The pod is placed without regard to latency, because "+err.Error())
		} else {
			x.Wishes = wishes
		}
	}
	if r.message != "" {
		x.Notes = append(x.Notes, "No node was looked at: "+r.message)
	}
	x.CandidateCount = len(r.candidates)
	for _, n := range r.candidates[:min(e.candidates, len(r.candidates))] {
		x.Candidates = append(x.Candidates, candidate(plugin, r, &n, s.reading.At))
	}
	x.Excluded = groups(r.excluded)
	if plugin != nil {
		// A limit is held against the nodes that nothing else excludes.
		var reachable []string
		for _, n := range r.candidates {
			reachable = append(reachable, n.name)
		}
		for _, n := range r.excluded {
			if n.plugin == nodelatency.Name {
				reachable = append(reachable, n.name)
			}
		}
		x.Limits = append(x.Limits, plugin.Bounds(r.cycle, reachable)...)
		if len(r.candidates) == 0 {
			x.Mend = mend(plugin, r, x)
		}
	}
	if len(c.without) > 0 {
		x.Notes = append(x.Notes, "Not asked from here: "+strings.Join(c.without, ", ")+". The scheduler knows more.")
	}
	if f := s.reader.missing(); len(f) > 0 {
		x.Notes = append(x.Notes, "Not judged, for want of permission to list them: "+strings.Join(f, ", ")+".")
	}
	return x, nil
}

func candidate(plugin *nodelatency.NodeLatency, r *result, n *nodeResult, now time.Time) Candidate {
	c := Candidate{Placement: nodelatency.Placement{Node: n.name, Entries: []nodelatency.PlacementEntry{}}, Score: n.total, Scores: n.scores}
	if plugin == nil {
		return c
	}
	if list := plugin.Explain(r.cycle, []string{n.name}, now); len(list) == 1 {
		c.Placement = list[0]
		c.RunnerUp, c.Placement.Candidates = nil, 0
	}
	if cost, breaks, ok := plugin.Cost(r.cycle, n.name); ok {
		c.CostMicros, c.LimitBroken = cost.Microseconds(), breaks
	}
	return c
}

// groups puts nodes that were excluded for one reason together, the largest group first.
func groups(excluded []nodeResult) []Exclusion {
	list := []Exclusion{}
	at := map[[2]string]int{}
	for _, n := range excluded {
		key := [2]string{n.plugin, n.reason}
		i, ok := at[key]
		if !ok {
			i = len(list)
			at[key] = i
			list = append(list, Exclusion{Plugin: n.plugin, Reason: n.reason})
		}
		list[i].Nodes = append(list[i].Nodes, n.name)
	}
	slices.SortStableFunc(list, func(a, b Exclusion) int { return len(b.Nodes) - len(a.Nodes) })
	return list
}

// mend says what would make a pod fit that no node takes.
func mend(plugin *nodelatency.NodeLatency, r *result, x *Explanation) (list []string) {
	limited := 0
	for _, n := range r.excluded {
		if n.plugin == nodelatency.Name {
			limited++
		}
	}
	if limited > 0 {
		for _, b := range x.Limits {
			if !b.Hard {
				continue
			}
			switch {
			case b.Kept == 0 && b.Nearest != "":
				list = append(list, fmt.Sprintf("Raise %s.limit of %s from %s to %s or more: then node %s (%s%s) keeps it.", b.Entry, b.From, b.Limit,
					latency.Format(roundUp(time.Duration(b.NearestMicros)*time.Microsecond)), b.Nearest, b.NearestRTT, to(b.NearestTo)))
			case b.Kept == 0 && b.Unmeasured > 0 && b.RejectsUnmeasured:
				list = append(list, fmt.Sprintf("Nobody measured %s from %s: see `kubectl fog doctor` for the probers, or let %s take unmeasured nodes with whenUnmeasured: Allow.",
					b.Target, count(b.Unmeasured, "node"), b.From))
			case b.Exceeded > 0 && b.Kept > 0:
				list = append(list, fmt.Sprintf("%s.limit of %s is kept by %d of these nodes, but not together with the other limits.", b.Entry, b.From, b.Kept))
			}
		}
		list = append(list, "Or let it be placed on the best node although that breaks the limit: whenUnsatisfiable: ScheduleAnyway.")
	}
	// Nodes that keep the limits, and are excluded for something else.
	byReason := map[string][]string{}
	var reasons []string
	for _, n := range r.excluded {
		if n.plugin == nodelatency.Name || len(x.Limits) > 0 && plugin.Excluded(r.cycle, n.name) != "" {
			continue
		}
		key := n.plugin + ": " + n.reason
		if byReason[key] == nil {
			reasons = append(reasons, key)
		}
		byReason[key] = append(byReason[key], n.name)
	}
	slices.SortStableFunc(reasons, func(a, b string) int { return len(byReason[b]) - len(byReason[a]) })
	for _, reason := range reasons {
		nodes := byReason[reason]
		within := ""
		if len(x.Limits) > 0 {
			within = " and within all limits"
		}
		verb := "are"
		if len(nodes) == 1 {
			verb = "is"
		}
		list = append(list, fmt.Sprintf("%s (%s) %s there%s, but for %s.", count(len(nodes), "node"), some(nodes, 3), verb, within, reason))
	}
	return list
}

func to(node string) string {
	if node == "" {
		return ""
	}
	return " to " + node
}

// roundUp returns the next RTT that people would write as a limit.
func roundUp(d time.Duration) time.Duration {
	step := time.Millisecond
	if d > 100*time.Millisecond {
		step = 5 * time.Millisecond
	}
	return (d + step - 1) / step * step
}

// some names the first of many.
func some(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}

// data says how much is known of the network.
func (s *simulation) data() Data {
	snap := s.offline.Snapshot()
	d := Data{Nodes: snap.Len()}
	d.MeasuredPairs, d.Pairs = snap.Coverage()
	says := map[string]bool{}
	var oldest time.Time
	for _, nl := range s.reading.NodeLatencies {
		if nl.Status.ObservedAt == nil {
			continue
		}
		n, ok := snap.Index(nl.Name)
		if !ok || snap.MeasuredBy(n) == 0 {
			continue
		}
		says[nl.Name] = true
		if t := nl.Status.ObservedAt.Time; oldest.IsZero() || t.Before(oldest) {
			oldest = t
		}
	}
	for _, n := range s.nodes {
		if !says[n] {
			d.Silent = append(d.Silent, n)
		}
	}
	if !oldest.IsZero() {
		d.Oldest = s.reading.At.Sub(oldest).Round(time.Second).String()
	}
	return d
}

// missing returns the kinds that could not be listed.
func (r *reader) missing() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.forbidden)
	slices.Sort(list)
	return slices.Compact(list)
}
