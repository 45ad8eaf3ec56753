// SPDX-License-Identifier: Apache-2.0

// Package convert is the command `kubectl fog convert`: from NetworkOverhead's AppGroup and NetworkTopology to LatencyPolicies and a table of
// zones.
package convert

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	agv1alpha1 "github.com/diktyo-io/appgroup-api/pkg/apis/appgroup/v1alpha1"
	ntv1alpha1 "github.com/diktyo-io/networktopology-api/pkg/apis/networktopology/v1alpha1"
	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/source/zones"
)

type options struct {
	*cli.Options
	files            []string
	output           string
	costUnit         time.Duration
	weights          string
	hard             bool
	zonesName, zones string // ConfigMap and its namespace
}

var formats = []string{"yaml", "json"}

// NewCommand returns the command.
func NewCommand(o *cli.Options) *cobra.Command {
	c := &options{Options: o}
	cmd := &cobra.Command{
		Use:   "convert -f FILE [-f FILE …]",
		Short: "Turn NetworkOverhead's AppGroups and NetworkTopologies into LatencyPolicies and a table of zones",
		Long: `Turn the objects of NetworkOverhead (scheduler-plugins, networkaware) into fogsched's, and print them. Nothing is
applied.

Each workload of an AppGroup that depends on others becomes a LatencyPolicy that selects the same pods by the same
labels. A workload without dependencies needs none: fogsched draws a pod to its callers by itself. maxNetworkCost becomes
a limit, by --cost-unit: NetworkOverhead's costs have no unit. A NetworkTopology becomes a table of round-trip times between
zones and regions, in a ConfigMap; it counts only for pairs of nodes that nobody measured.

What has no counterpart is said on standard error.`,
		Example: `  kubectl fog convert -f appgroup.yaml -f networktopology.yaml > fogsched.yaml
  kubectl get appgroups,networktopologies -A -o yaml | kubectl fog convert -f -
  kubectl fog convert -f appgroup.yaml --cost-unit 500us --hard`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return c.run() },
	}
	fs := cmd.Flags()
	fs.StringArrayVarP(&c.files, "filename", "f", nil, "A file with AppGroups and NetworkTopologies, YAML or JSON, Lists too; - for standard input.")
	fs.StringVarP(&c.output, "output", "o", "yaml", "Output format: yaml, json.")
	fs.DurationVar(&c.costUnit, "cost-unit", time.Millisecond, "The round-trip time that one unit of network cost stands for.")
	fs.StringVar(&c.weights, "weights", "", "Which of a NetworkTopology's weights to take. The default is UserDefined, or else the first.")
	fs.BoolVar(&c.hard, "hard", false, "Make limits exclude nodes (whenUnsatisfiable: DoNotSchedule).")
	fs.StringVar(&c.zonesName, "zones-configmap", "fogsched-zones", "The name of the ConfigMap that has the table of zones.")
	fs.StringVar(&c.zones, "scheduler-namespace", "fogsched-system", "Where fogsched is installed.")
	_ = cmd.MarkFlagRequired("filename")
	_ = cmd.RegisterFlagCompletionFunc("output", cli.CompleteWords(formats...))
	return cmd
}

// conversion gathers what comes out, and what is to be said of it.
type conversion struct {
	*options
	objects []any
	notes   []string
	names   map[string]bool
}

func (c *options) run() error {
	if !slices.Contains(formats, c.output) {
		return fmt.Errorf("-o %s: want yaml or json", c.output)
	}
	if c.costUnit <= 0 || c.costUnit > time.Minute {
		return fmt.Errorf("--cost-unit=%s: want a duration above 0 and at most 1m, for example 1ms", c.costUnit)
	}
	namespace, err := c.Namespace()
	if err != nil {
		return cli.Explain(err)
	}
	out := &conversion{options: c, names: map[string]bool{}}
	var topologies []*ntv1alpha1.NetworkTopology
	found := false
	for _, path := range c.files {
		docs, err := read(path, c.In)
		if err != nil {
			return err
		}
		for _, d := range docs {
			found = true
			switch d.kind {
			case "AppGroup":
				ag := &agv1alpha1.AppGroup{}
				if err := d.decode(ag); err != nil {
					return err
				}
				if err := out.appGroup(ag, cmp.Or(ag.Namespace, namespace)); err != nil {
					return fmt.Errorf("%s: %w", d.where, err)
				}
			case "NetworkTopology":
				nt := &ntv1alpha1.NetworkTopology{}
				if err := d.decode(nt); err != nil {
					return err
				}
				topologies = append(topologies, nt)
			default:
				out.note("%s: a %s is left out", d.where, d.kind)
			}
		}
	}
	if !found {
		return errors.New("the files have no AppGroup and no NetworkTopology")
	}
	if err := out.topologies(topologies); err != nil {
		return err
	}
	if err := out.print(); err != nil {
		return err
	}
	for _, n := range out.notes {
		fmt.Fprintln(c.ErrOut, "note:", cli.Clean(n))
	}
	return nil
}

func (c *conversion) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	if !slices.Contains(c.notes, n) {
		c.notes = append(c.notes, n)
	}
}

func (c *conversion) print() error {
	if c.output == "json" {
		return c.PrintObject("json", map[string]any{"apiVersion": "v1", "kind": "List", "items": append([]any{}, c.objects...)})
	}
	for i, o := range c.objects {
		data, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(c.Out, "---")
		}
		if _, err := c.Out.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// policyObject is a LatencyPolicy without the status that no manifest has.
type policyObject struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        map[string]string          `json:"metadata"`
	Spec            v1alpha1.LatencyPolicySpec `json:"spec"`
}

// appGroup turns the workloads of an AppGroup that call others into policies.
func (c *conversion) appGroup(ag *agv1alpha1.AppGroup, namespace string) error {
	made := false
	for i := range ag.Spec.Workloads {
		w := &ag.Spec.Workloads[i]
		if len(w.Dependencies) == 0 {
			continue
		}
		if len(w.Dependencies) > intent.MaxEntries {
			return fmt.Errorf("workload %s of AppGroup %s has %d dependencies, and a LatencyPolicy at most %d: split it", w.Workload.Name, ag.Name, len(w.Dependencies), intent.MaxEntries)
		}
		where := fmt.Sprintf("AppGroup %s, workload %s", ag.Name, w.Workload.Name)
		p := &policyObject{
			TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "LatencyPolicy"},
			Metadata: map[string]string{"name": c.name(ag.Name, w.Workload.Name), "namespace": cmp.Or(w.Workload.Namespace, namespace)},
			Spec:     v1alpha1.LatencyPolicySpec{Selector: *podsOf(ag.Name, &w.Workload)},
		}
		limited := false
		for k := range w.Dependencies {
			d := &w.Dependencies[k]
			e := v1alpha1.Entry{Pods: &v1alpha1.PodTarget{Selector: *podsOf(ag.Name, &d.Workload)}}
			if other := cmp.Or(d.Workload.Namespace, namespace); other != p.Metadata["namespace"] {
				e.Pods.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{v1.LabelMetadataName: other}}
			}
			switch {
			case d.MaxNetworkCost > 0:
				limit := time.Duration(d.MaxNetworkCost) * c.costUnit
				if limit > time.Minute {
					return fmt.Errorf("%s: maxNetworkCost %d of the dependency on %s is %s with --cost-unit %s, and a limit at most 60s: choose a smaller unit",
						where, d.MaxNetworkCost, d.Workload.Name, limit, c.costUnit)
				}
				e.Limit = &metav1.Duration{Duration: limit}
				limited = true
			default:
				c.note("%s: the dependency on %s has no maxNetworkCost above 0, so it gets no limit", where, d.Workload.Name)
			}
			if !d.MinBandwidth.IsZero() {
				c.note("%s: minBandwidth of the dependency on %s has no counterpart", where, d.Workload.Name)
			}
			p.Spec.Dependencies = append(p.Spec.Dependencies, e)
		}
		if c.hard && limited {
			p.Spec.WhenUnsatisfiable = v1alpha1.DoNotSchedule
		}
		check := &v1alpha1.LatencyPolicy{ObjectMeta: metav1.ObjectMeta{Name: p.Metadata["name"], Namespace: p.Metadata["namespace"]}, Spec: p.Spec}
		if _, _, err := intent.FromPolicy(check); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		c.objects = append(c.objects, p)
		made = true
	}
	if made {
		c.note("the pods of AppGroup %s keep their labels; give their templates schedulerName: fogsched", ag.Name)
	} else {
		c.note("AppGroup %s: no workload depends on another: nothing is needed in its place", ag.Name)
	}
	return nil
}

// podsOf selects the pods of a workload as NetworkOverhead does.
func podsOf(group string, w *agv1alpha1.AppGroupWorkloadInfo) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{agv1alpha1.AppGroupLabel: group, agv1alpha1.AppGroupSelectorLabel: w.Selector}}
}

// name makes a policy's name of those of the group and the workload.
func (c *conversion) name(group, workload string) string {
	n := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(group+"-"+workload))
	n = strings.Trim(n[:min(len(n), validation.DNS1123LabelMaxLength-3)], "-")
	for k, base := 2, n; c.names[n]; k++ {
		n = fmt.Sprintf("%s-%d", base, k)
	}
	c.names[n] = true
	return n
}

// zoneTable is the file of zones.Load.
type zoneTable struct {
	Within map[string]string `json:"within"`
	Pairs  []zonePair        `json:"pairs"`
}

type zonePair struct {
	Between []string `json:"between"`
	Typical string   `json:"typical"`
}

// topologies turns NetworkTopologies into one table of zones.
func (c *conversion) topologies(list []*ntv1alpha1.NetworkTopology) error {
	costs := map[[2]string]int64{}
	var order [][2]string
	for _, nt := range list {
		w, err := c.weightsOf(nt)
		if err != nil {
			return err
		}
		for i := range w.TopologyList {
			t := &w.TopologyList[i]
			if t.TopologyKey != v1.LabelTopologyZone && t.TopologyKey != v1.LabelTopologyRegion {
				c.note("NetworkTopology %s: costs by %s are left out: fogsched knows zones and regions by their well-known labels", nt.Name, t.TopologyKey)
				continue
			}
			for k := range t.OriginList {
				o := &t.OriginList[k]
				for _, d := range o.CostList {
					switch {
					case d.Destination == o.Origin:
						continue
					case d.NetworkCost <= 0:
						c.note("NetworkTopology %s: the cost from %s to %s is %d, which is no round-trip time: left out", nt.Name, o.Origin, d.Destination, d.NetworkCost)
						continue
					}
					key := [2]string{min(o.Origin, d.Destination), max(o.Origin, d.Destination)}
					had, ok := costs[key]
					if !ok {
						order = append(order, key)
					} else if had != d.NetworkCost {
						c.note("NetworkTopology %s: %s and %s have the costs %d and %d in the two directions: the larger one is taken", nt.Name, key[0], key[1], had, d.NetworkCost)
					}
					costs[key] = max(had, d.NetworkCost)
				}
			}
		}
	}
	if len(list) == 0 {
		return nil
	}
	if len(order) == 0 {
		c.note("no NetworkTopology has a cost between two zones or regions: there is no table")
		return nil
	}
	// NetworkOverhead counts 1 between nodes of one zone.
	table := zoneTable{Within: map[string]string{"zone": c.costUnit.String()}}
	for _, key := range order {
		rtt := time.Duration(costs[key]) * c.costUnit
		table.Pairs = append(table.Pairs, zonePair{Between: key[:], Typical: rtt.String()})
	}
	text, err := yaml.Marshal(table)
	if err != nil {
		return err
	}
	if _, err := zones.Parse(text); err != nil {
		return fmt.Errorf("the table of zones: %w (with --cost-unit %s)", err, c.costUnit)
	}
	const key = "zones.yaml"
	c.objects = append(c.objects, map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]string{"name": c.zonesName, "namespace": c.zones},
		"data":     map[string]string{key: string(text)},
	})
	c.note("the table of zones counts only where nobody measured; mount ConfigMap %s into the scheduler and name the file in NodeLatency's args: zonesFile: /etc/fogsched-zones/%s", c.zonesName, key)
	return nil
}

// weightsOf chooses one of the weights of a NetworkTopology.
func (c *conversion) weightsOf(nt *ntv1alpha1.NetworkTopology) (*ntv1alpha1.WeightInfo, error) {
	var names []string
	for i := range nt.Spec.Weights {
		w := &nt.Spec.Weights[i]
		if w.Name == c.weights || c.weights == "" && w.Name == "UserDefined" {
			return w, nil
		}
		names = append(names, w.Name)
	}
	if c.weights != "" || len(names) == 0 {
		return nil, fmt.Errorf("NetworkTopology %s has no weights %q; it has %q", nt.Name, cmp.Or(c.weights, "UserDefined"), names)
	}
	c.note("NetworkTopology %s: the weights %s are taken (--weights chooses others)", nt.Name, names[0])
	return &nt.Spec.Weights[0], nil
}

// document is one object of a file.
type document struct {
	where string
	kind  string
	raw   []byte
}

func (d *document) decode(into any) error {
	dec := json.NewDecoder(bytes.NewReader(d.raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", d.where, err)
	}
	return nil
}

const maxFile = 8 << 20

// read returns the objects of a file, those of Lists one by one.
func read(path string, stdin io.Reader) (docs []document, err error) {
	in := stdin
	if path == "-" {
		path = "standard input"
	} else {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d MiB", path, maxFile>>20)
	}
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for i := 1; ; i++ {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		where := fmt.Sprintf("%s: document %d", path, i)
		var raw []byte
		if err == nil {
			raw, err = yaml.YAMLToJSON(doc)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		if string(raw) == "null" {
			continue
		}
		var head struct {
			Kind  string                 `json:"kind"`
			Items []runtime.RawExtension `json:"items"`
		}
		if err := json.Unmarshal(raw, &head); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		if !strings.HasSuffix(head.Kind, "List") {
			docs = append(docs, document{where, head.Kind, raw})
			continue
		}
		for k := range head.Items {
			item := head.Items[k].Raw
			head.Kind = ""
			if err := json.Unmarshal(item, &head); err != nil {
				return nil, fmt.Errorf("%s, item %d: %w", where, k+1, err)
			}
			docs = append(docs, document{fmt.Sprintf("%s, item %d", where, k+1), head.Kind, item})
		}
	}
}
