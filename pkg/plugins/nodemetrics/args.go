// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/fogsched/fogsched/pkg/plugins/internal"
	"github.com/fogsched/fogsched/pkg/source/prometheus"
)

// Args are the plugin's arguments, the args of its pluginConfig.
type Args struct {
	metav1.TypeMeta `json:",inline"`

	// Prometheus says where the values come from and how often.
	Prometheus prometheus.Config `json:"prometheus"`

	// Metrics are what nodes are compared by, 1 to 16 of them.
	Metrics []Metric `json:"metrics"`
}

// Metric is one value a node, and what it says of the node.
type Metric struct {
	// Name is what events, logs and metrics call it: a DNS label. Default: the preset's.
	Name string `json:"name,omitempty"`
	// Preset names a metric of node_exporter: cpu, memory, disk-io, network, or one of them with -variation. What is set beside it counts
	// in place of the preset's.
	Preset string `json:"preset,omitempty"`

	// Deviations is how many standard deviations a preset with -variation has on top of the mean, 0 to 10. Default 2.
	Deviations *float64 `json:"deviations,omitempty"`

	// Query is PromQL with one series a node. Time is PromQL of the Unix times, in seconds, of the samples behind it. Default: timestamp(query)
	// for a plain selector. For any other query it is required: timestamp() of that is the time of the query, so that a dead exporter's
	// values would not age.
	Query string `json:"query,omitempty"`
	Time  string `json:"time,omitempty"`
	// NodeLabel is the label that names the node: by its name, InternalIP, hostname, or the IP of a pod on it, with or without a port.
	// Default instance. NodeRegexp finds the node in the label's value as its first group.
	NodeLabel  string `json:"nodeLabel,omitempty"`
	NodeRegexp string `json:"nodeRegexp,omitempty"`

	// Direction says which values are good: Lower (the default), Higher, or Target, where those next to Target are.
	Direction Direction `json:"direction,omitempty"`
	Target    *float64  `json:"target,omitempty"`
	// Scale is how large a difference between two nodes is worth the whole weight, above 0. Default: the largest absolute value among the
	// candidates, so that proportions count.
	Scale float64 `json:"scale,omitempty"`
	// Weight is the metric's share in the score, 0 to 100. Default 1; 0 is for a metric that is only a limit.
	Weight *float64 `json:"weight,omitempty"`

	// Limit is the value that a node must not be beyond once the pod is on it: above for Lower and Target, below for Higher. Default none.
	Limit *float64 `json:"limit,omitempty"`
	// WhenUnsatisfiable is DoNotSchedule, which excludes nodes beyond the limit, or ScheduleAnyway, the default, which ranks them behind all
	// others.
	WhenUnsatisfiable v1.UnsatisfiableConstraintAction `json:"whenUnsatisfiable,omitempty"`
	// WhenUnknown is what the limit does with a node whose value is unknown: Allow, the default, or Reject, which takes it as beyond.
	WhenUnknown WhenUnknown `json:"whenUnknown,omitempty"`

	// MaxAge is how old a value may be, by its own time, 10s to 24h, at least the interval. Default prometheus.maxAge.
	MaxAge metav1.Duration `json:"maxAge,omitempty"`
	// Window is over which time before the sample a value is a mean: the range of a rate. So long after its start a pod is only partly in
	// it. 0 to 24h. Default 0: the first sample after its start has a pod whole.
	Window metav1.Duration `json:"window,omitempty"`
	// PodEffect is how a pod moves the value. Default: not at all.
	PodEffect *PodEffect `json:"podEffect,omitempty"`
}

// PodEffect estimates by how much a pod makes a value worse: request · factor / per.
type PodEffect struct {
	// Resource is the resource whose request counts: cpu (in cores), memory (in bytes), any other that a node has, or pods, of which each pod
	// is one.
	Resource v1.ResourceName `json:"resource"`
	// Default is the request of a pod that has none. Default: what the scheduler itself assumes, 100m of cpu and 200Mi of memory, else 0.
	Default *resource.Quantity `json:"default,omitempty"`
	// Per is what of the node divides the request: Allocatable or Capacity, for a utilisation, or One, the default.
	Per Per `json:"per,omitempty"`
	// Factor is the value's change by one unit, above 0: 12 for 12 W a core. Default 1.
	Factor float64 `json:"factor,omitempty"`
}

// Direction says which values are good.
type Direction string

// WhenUnknown is what a limit does with a node whose value is unknown.
type WhenUnknown string

// Per is what divides a request.
type Per string

const (
	Lower  Direction = "Lower"
	Higher Direction = "Higher"
	Target Direction = "Target"

	Allow  WhenUnknown = "Allow"
	Reject WhenUnknown = "Reject"

	Allocatable Per = "Allocatable"
	Capacity    Per = "Capacity"
	One         Per = "One"
)

const (
	maxMetrics       = 16
	maxWeight        = 100
	maxDeviations    = 10
	defaultNodeLabel = "instance"
)

// defaultRequests are what the scheduler takes for the request of a container that has none.
var defaultRequests = map[v1.ResourceName]resource.Quantity{
	v1.ResourceCPU:    resource.MustParse("100m"),
	v1.ResourceMemory: resource.MustParse("200Mi"),
}

// CheckArgs returns what is wrong with the args of a pluginConfig.
func CheckArgs(obj runtime.Object) error {
	_, err := getArgs(obj)
	return err
}

func getArgs(obj runtime.Object) (*Args, error) {
	args := &Args{}
	if err := internal.DecodeArgs(Name, obj, args); err != nil {
		return nil, err
	}
	errs := setPresets(args)
	args.setDefaults()
	if errs = append(errs, validateArgs(args)...); len(errs) > 0 {
		return nil, fmt.Errorf("pluginConfig of %s: %w", Name, errs.ToAggregate())
	}
	return args, nil
}

func (a *Args) setDefaults() {
	a.Prometheus.Default()
	for i := range a.Metrics {
		m := &a.Metrics[i]
		set(&m.NodeLabel, defaultNodeLabel)
		set(&m.Direction, Lower)
		set(&m.WhenUnsatisfiable, v1.ScheduleAnyway)
		set(&m.WhenUnknown, Allow)
		set(&m.MaxAge, a.Prometheus.MaxAge)
		if m.Weight == nil {
			one := 1.0
			m.Weight = &one
		}
		if p := m.PodEffect; p != nil {
			set(&p.Per, One)
			set(&p.Factor, 1)
			if q, ok := defaultRequests[p.Resource]; ok && p.Default == nil {
				p.Default = &q
			}
		}
	}
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

var (
	labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	minMaxAge = 10 * time.Second
	day       = 24 * time.Hour
)

func validateArgs(args *Args) field.ErrorList {
	path := field.NewPath("args")
	var errs field.ErrorList
	if kind := args.Kind; kind != "" && kind != Name+"Args" {
		errs = append(errs, field.NotSupported(path.Child("kind"), kind, []string{Name + "Args"}))
	}
	errs = append(errs, args.Prometheus.Validate(path.Child("prometheus"))...)
	metrics := path.Child("metrics")
	switch n := len(args.Metrics); {
	case n == 0:
		errs = append(errs, field.Required(metrics, "at least one metric"))
	case n > maxMetrics:
		errs = append(errs, field.TooMany(metrics, n, maxMetrics))
	}
	names := map[string]bool{}
	for i := range args.Metrics {
		m, at := &args.Metrics[i], metrics.Index(i)
		errs = append(errs, validateMetric(m, at, args.Prometheus.Interval.Duration)...)
		if m.Name != "" && names[m.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), m.Name))
		}
		names[m.Name] = true
	}
	return errs
}

func validateMetric(m *Metric, at *field.Path, interval time.Duration) field.ErrorList {
	var errs field.ErrorList
	invalid := func(child string, value any, format string, a ...any) {
		errs = append(errs, field.Invalid(at.Child(child), value, fmt.Sprintf(format, a...)))
	}
	if m.Preset == "" {
		for _, f := range []struct{ name, value, detail string }{
			{"name", m.Name, "a metric without a preset needs a name"},
			{"query", m.Query, "a metric without a preset needs PromQL, one series a node"},
		} {
			if f.value == "" {
				errs = append(errs, field.Required(at.Child(f.name), f.detail))
			}
		}
	}
	if m.Query != "" && m.Time == "" && !prometheus.IsPlainSelector(m.Query) {
		errs = append(errs, field.Required(at.Child("time"), prometheus.TimeRequired))
	}
	if problems := validation.IsDNS1123Label(m.Name); m.Name != "" && len(problems) > 0 {
		invalid("name", m.Name, "%s", problems[0])
	}
	if !labelName.MatchString(m.NodeLabel) {
		invalid("nodeLabel", m.NodeLabel, "must be the name of a label")
	}
	if m.NodeRegexp != "" {
		if re, err := regexp.Compile(m.NodeRegexp); err != nil {
			invalid("nodeRegexp", m.NodeRegexp, "%v", err)
		} else if re.NumSubexp() < 1 {
			invalid("nodeRegexp", m.NodeRegexp, "must have a group that matches the node, as in ^node-(.+)$")
		}
	}
	errs = append(errs, oneOf(at.Child("direction"), m.Direction, Lower, Higher, Target)...)
	if m.Direction == Target && m.Target == nil {
		errs = append(errs, field.Required(at.Child("target"), "the best value, since direction is Target"))
	}
	if m.Direction != Target && m.Target != nil {
		invalid("target", *m.Target, "direction must be Target")
	}
	if m.Scale != 0 && !(m.Scale > 0 && float32(m.Scale) > 0 && !math.IsInf(float64(float32(m.Scale)), 0)) {
		invalid("scale", m.Scale, "must be above 0")
	}
	if w := *m.Weight; !(w >= 0 && w <= maxWeight) {
		invalid("weight", w, "must be 0 to %d", maxWeight)
	} else if w == 0 && m.Limit == nil {
		invalid("weight", w, "must be above 0, since there is no limit")
	}
	errs = append(errs, oneOf(at.Child("whenUnsatisfiable"), m.WhenUnsatisfiable, v1.DoNotSchedule, v1.ScheduleAnyway)...)
	errs = append(errs, oneOf(at.Child("whenUnknown"), m.WhenUnknown, Allow, Reject)...)
	if m.Limit == nil && m.WhenUnsatisfiable == v1.DoNotSchedule {
		errs = append(errs, field.Required(at.Child("limit"), "whenUnsatisfiable is about a limit"))
	}
	if m.Limit == nil && m.WhenUnknown == Reject {
		errs = append(errs, field.Required(at.Child("limit"), "whenUnknown is about a limit"))
	}
	if d := m.MaxAge.Duration; d < minMaxAge || d > day {
		invalid("maxAge", d.String(), "must be 10s to 24h")
	} else if d < interval {
		invalid("maxAge", d.String(), "must be at least the interval, %s", interval)
	}
	if d := m.Window.Duration; d < 0 || d > day || d > 0 && d < time.Second {
		invalid("window", d.String(), "must be 1s to 24h")
	} else if d > 0 && m.PodEffect == nil {
		errs = append(errs, field.Required(at.Child("podEffect"), "window says for how long a pod is only partly in the value"))
	}
	if p := m.PodEffect; p != nil {
		at := at.Child("podEffect")
		if p.Resource == "" {
			errs = append(errs, field.Required(at.Child("resource"), "as in cpu, memory or pods"))
		} else if problems := validation.IsQualifiedName(string(p.Resource)); len(problems) > 0 {
			errs = append(errs, field.Invalid(at.Child("resource"), p.Resource, problems[0]))
		}
		errs = append(errs, oneOf(at.Child("per"), p.Per, Allocatable, Capacity, One)...)
		if !(p.Factor > 0 && !math.IsInf(float64(float32(p.Factor)), 0)) {
			errs = append(errs, field.Invalid(at.Child("factor"), p.Factor, "must be above 0"))
		}
		if p.Default != nil && p.Default.Sign() < 0 {
			errs = append(errs, field.Invalid(at.Child("default"), p.Default.String(), "must not be negative"))
		}
		if p.Default != nil && p.Resource == v1.ResourcePods {
			errs = append(errs, field.Invalid(at.Child("default"), p.Default.String(), "each pod is one of pods"))
		}
	}
	return errs
}

func oneOf[T ~string](at *field.Path, value T, valid ...T) field.ErrorList {
	if slices.Contains(valid, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, value, valid)}
}

// setPresets fills in what a metric does not set itself from its preset.
func setPresets(args *Args) field.ErrorList {
	var errs field.ErrorList
	for i := range args.Metrics {
		m, at := &args.Metrics[i], field.NewPath("args", "metrics").Index(i)
		p, ok := presets[m.Preset]
		if d := m.Deviations; d != nil && (!p.varies() || m.Query != "") {
			errs = append(errs, field.Invalid(at.Child("deviations"), *d, "is for a preset with -variation and its own query"))
		} else if d != nil && !(*d >= 0 && *d <= maxDeviations) {
			errs = append(errs, field.Invalid(at.Child("deviations"), *d, fmt.Sprintf("must be 0 to %d", maxDeviations)))
		}
		if m.Preset == "" {
			continue
		}
		if !ok {
			errs = append(errs, field.NotSupported(at.Child("preset"), m.Preset, slices.Sorted(maps.Keys(presets))))
			continue
		}
		p.apply(m)
	}
	return errs
}

// Queries returns what is asked with the args of a pluginConfig, in the order of its metrics, and an error for args that are not valid.
func Queries(obj runtime.Object) ([]prometheus.NodeQuery, error) {
	args, err := getArgs(obj)
	if err != nil {
		return nil, err
	}
	queries := make([]prometheus.NodeQuery, len(args.Metrics))
	for i := range args.Metrics {
		queries[i] = compile(&args.Metrics[i]).query
	}
	return queries, nil
}

// PresetNames returns the names of the presets in order.
func PresetNames() []string { return slices.Sorted(maps.Keys(presets)) }
