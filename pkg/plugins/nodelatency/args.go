// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/fogsched/fogsched/pkg/plugins/internal"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
	"github.com/fogsched/fogsched/pkg/store"
)

// Args are the plugin's arguments, the args of its pluginConfig.
type Args struct {
	metav1.TypeMeta `json:",inline"`

	// MaxAge is how long after a prober's next report is due its measurements are still used, 10s to 24h. Default 5m: with few
	// nodes a report is due each minute, so that four in a row can be missed.
	MaxAge metav1.Duration `json:"maxAge,omitempty"`

	// ZonesFile is the path of a table of round-trip times between zones, for pairs that nobody measured. Default none.
	ZonesFile string `json:"zonesFile,omitempty"`

	// Interest is the ConfigMap, NAMESPACE/NAME, in which probers are told which nodes host the targets of policies, so that all
	// of them measure these. It must exist. Default none: then probers measure what they choose themselves, which is all pairs up
	// to 33 nodes.
	Interest string `json:"interest,omitempty"`

	// Candidates is how many nodes a pod with an intent is tried on in a cluster of at least twice as many: those of the lowest cost that
	// have room for it; 0, or 5 to 1000. A pod that none of them takes is tried on all nodes at once. Above 100 the framework looks at a part
	// of them, as its percentageOfNodesToScore says. 0 leaves the choice to the framework. Default 100.
	Candidates *int `json:"candidates,omitempty"`

	// Prometheus brings latencies that other probers measure, and the demand of clients. Default none.
	Prometheus *PrometheusArgs `json:"prometheus,omitempty"`
}

// PrometheusArgs say where a Prometheus is and what it is asked for.
type PrometheusArgs struct {
	prometheus.Config `json:",inline"`

	// Latencies are those that probers which Prometheus scrapes measured; each needs a name of its own. They count beside those of NodeLatency
	// objects: of a pair, the newest. Default none.
	Latencies []prometheus.Latencies `json:"latencies,omitempty"`

	// Demands are the per-node weights that a client entry's demand can name. Default none.
	Demands []DemandArgs `json:"demands,omitempty"`
}

// DemandArgs define one demand: how much traffic comes from each node.
type DemandArgs struct {
	// Name is what policies call it: a DNS label.
	Name string `json:"name"`
	// Query is PromQL with one series a node, whose value is 0 or more, in any unit. What has no value counts as the median of the
	// others.
	Query string `json:"query"`
	// Time is PromQL of the Unix times of the newest samples behind the values, with the same label. Default timestamp(QUERY) for a plain
	// selector; for any other query it is required.
	Time string `json:"time,omitempty"`
	// NodeLabel is the label that names the node: by its name, InternalIP, hostname, or the IP of a pod on it, with a port or without.
	// Default "node".
	NodeLabel string `json:"nodeLabel,omitempty"`
	// NodeRegexp finds the node's name in the label, as its first group, where the label as a whole names no node. Default none.
	NodeRegexp string `json:"nodeRegexp,omitempty"`
}

const defaultNodeLabel = "node"

func (a *DemandArgs) regexp() *regexp.Regexp {
	if a.NodeRegexp == "" {
		return nil
	}
	return regexp.MustCompile(a.NodeRegexp) // it was validated
}

// CheckArgs returns what is wrong with the args of a pluginConfig.
func CheckArgs(obj runtime.Object) error {
	_, err := getArgs(obj)
	return err
}

func getArgs(obj runtime.Object) (*Args, error) {
	args := &Args{MaxAge: metav1.Duration{Duration: store.DefaultMaxAge}}
	if err := internal.DecodeArgs(Name, obj, args); err != nil {
		return nil, err
	}
	if args.Candidates == nil {
		args.Candidates = ptr.To(defaultCandidates)
	}
	if p := args.Prometheus; p != nil {
		p.Default()
		for i := range p.Demands {
			p.Demands[i].NodeLabel = cmp.Or(p.Demands[i].NodeLabel, defaultNodeLabel)
		}
	}
	if errs := validateArgs(args); len(errs) > 0 {
		return nil, fmt.Errorf("pluginConfig of %s: %w", Name, errs.ToAggregate())
	}
	return args, nil
}

func validateArgs(args *Args) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("args")
	if kind := args.Kind; kind != "" && kind != Name+"Args" {
		errs = append(errs, field.NotSupported(path.Child("kind"), kind, []string{Name + "Args"}))
	}
	if d := args.MaxAge.Duration; d < 10*time.Second || d > 24*time.Hour {
		errs = append(errs, field.Invalid(path.Child("maxAge"), d.String(), "must be 10s to 24h"))
	}
	if c := *args.Candidates; c != 0 && (c < 5 || c > 1000) {
		errs = append(errs, field.Invalid(path.Child("candidates"), c, "must be 5 to 1000, or 0 for all nodes that the framework chooses"))
	}
	if args.Interest != "" {
		namespace, name, ok := strings.Cut(args.Interest, "/")
		if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
			errs = append(errs, field.Invalid(path.Child("interest"), args.Interest, "must be NAMESPACE/NAME of a ConfigMap, as in fogsched-system/fogprobe-interest"))
		}
	}
	if args.Prometheus != nil {
		errs = append(errs, validatePrometheus(args.Prometheus, path.Child("prometheus"))...)
	}
	return errs
}

func validatePrometheus(args *PrometheusArgs, path *field.Path) field.ErrorList {
	errs := args.Validate(path)
	if len(args.Latencies)+len(args.Demands) == 0 {
		errs = append(errs, field.Required(path.Child("latencies"), "this Prometheus is asked for nothing: give latencies or demands, or leave prometheus out"))
	}
	errs = append(errs, prometheus.ValidateLatencies(path.Child("latencies"), args.Latencies)...)
	names := map[string]bool{}
	for i := range args.Demands {
		d, path := &args.Demands[i], path.Child("demands").Index(i)
		switch {
		case len(validation.IsDNS1123Label(d.Name)) > 0:
			errs = append(errs, field.Invalid(path.Child("name"), d.Name, "must be a DNS label, as in http-ingress"))
		case names[d.Name]:
			errs = append(errs, field.Duplicate(path.Child("name"), d.Name))
		}
		names[d.Name] = true
		if strings.TrimSpace(d.Query) == "" {
			errs = append(errs, field.Required(path.Child("query"), "PromQL with one series a node"))
		} else if d.Time == "" && !prometheus.IsPlainSelector(d.Query) {
			errs = append(errs, field.Required(path.Child("time"), prometheus.TimeRequired))
		}
		if !model.UTF8Validation.IsValidLabelName(d.NodeLabel) {
			errs = append(errs, field.Invalid(path.Child("nodeLabel"), d.NodeLabel, "must be the name of a label"))
		}
		if re, err := regexp.Compile(d.NodeRegexp); d.NodeRegexp != "" && (err != nil || re.NumSubexp() == 0) {
			errs = append(errs, field.Invalid(path.Child("nodeRegexp"), d.NodeRegexp, "must be a regular expression with a group, as in ^path_(.+)$"))
		}
	}
	return errs
}
