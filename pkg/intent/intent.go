// SPDX-License-Identifier: Apache-2.0

// Package intent turns what the user writes, a LatencyPolicy or the annotation fogsched.dev/latency, into what the
// scheduler works with. Both have one schema, one parser and one validation.
package intent

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/json"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/placement"
)

// The bounds of the schema; the CRD repeats them as OpenAPI.
const (
	MaxEntries         = 16
	MaxWeight          = 100
	MaxAnnotationBytes = 16 << 10
)

// Intent is what a pod wants, validated and with every default filled in. It is immutable.
type Intent struct {
	// Name says where it was written, in the words of a person: "LatencyPolicy default/bulletin-board".
	Name string
	// Namespace is where it was written, and where its targets are unless they say otherwise.
	Namespace string
	// Entries are the dependencies, then the clients.
	Entries []Entry
}

// Role says which end of the calls a pod is.
type Role uint8

const (
	// Dependency: the pod calls the target.
	Dependency Role = iota
	// Client: the target calls the pod.
	Client
)

// Entry is one thing that a pod wants to be near to. Exactly one of Service, Pods and Nodes is set.
type Entry struct {
	// Path is where the entry stands in the spec: "dependencies[0]".
	Path string
	Role Role

	Service *Service
	Pods    *Pods
	Nodes   labels.Selector

	// Limit is the RTT that must not be exceeded; 0 means none.
	Limit  time.Duration
	Weight float32
	// Routing is nil where it comes from the Service.
	Routing   *placement.Routing
	Statistic latency.Statistic
	// Hard makes a broken limit exclude the node (whenUnsatisfiable: DoNotSchedule).
	Hard bool
	// RejectUnmeasured makes a limit take an unmeasured pair as broken (whenUnmeasured: Reject).
	RejectUnmeasured bool
	// Demand is the name of a per-node weight; "" weighs all clients the same.
	Demand string
}

// Service names a Service.
type Service struct{ Namespace, Name string }

// Pods selects pods by label.
type Pods struct {
	// Namespace is the only namespace; it counts where NamespaceSelector is nil.
	Namespace         string
	NamespaceSelector labels.Selector
	Selector          labels.Selector
}

// Target says in words what the entry is about: "service redis-master".
func (e *Entry) Target() string {
	switch {
	case e.Service != nil:
		return "service " + e.Service.Name
	case e.Pods != nil:
		return "pods " + e.Pods.Selector.String()
	default:
		return "nodes " + e.Nodes.String()
	}
}

// ParseAnnotation parses the value of the annotation fogsched.dev/latency of a pod in a namespace. The error names each
// bad field by its path.
func ParseAnnotation(namespace, value string) (*Intent, error) {
	root := field.NewPath("metadata", "annotations").Key(v1alpha1.LatencyAnnotation)
	if len(value) > MaxAnnotationBytes {
		return nil, field.TooLong(root, "", MaxAnnotationBytes)
	}
	var spec v1alpha1.LatencySpec
	strict, err := json.UnmarshalStrict([]byte(value), &spec)
	if err != nil {
		if errs := badValues(value); len(errs) > 0 {
			return nil, fmt.Errorf("%s: %w", root, errs.ToAggregate())
		}
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	if len(strict) > 0 {
		return nil, fmt.Errorf("%s: %w; the known fields are dependencies, clients, statistic, whenUnsatisfiable, whenUnmeasured, "+
			"and in an entry service, namespace, pods, nodes, limit, weight, routing, and of a client demand", root, strict[0])
	}
	if errs := Validate(&spec, nil); len(errs) > 0 {
		return nil, fmt.Errorf("%s: %w", root, errs.ToAggregate())
	}
	return compile("annotation "+v1alpha1.LatencyAnnotation, namespace, &spec), nil
}

// badValues finds the limits and weights that are none: the decoder stops at them without saying where they stand.
func badValues(value string) field.ErrorList {
	type entry struct {
		Limit  any `json:"limit"`
		Weight any `json:"weight"`
	}
	var spec struct {
		Dependencies []entry `json:"dependencies"`
		Clients      []entry `json:"clients"`
	}
	// Whatever else is wrong with it, the decoder's own error tells.
	_ = json.UnmarshalCaseSensitivePreserveInts([]byte(value), &spec)
	var errs field.ErrorList
	check := func(entries []entry, path *field.Path) {
		for i, e := range entries {
			text, ok := e.Limit.(string)
			if _, err := time.ParseDuration(text); e.Limit != nil && (!ok || err != nil) {
				errs = append(errs, field.Invalid(path.Index(i).Child("limit"), e.Limit, `must be a duration with its unit, for example "20ms"`))
			}
			if _, ok := e.Weight.(int64); e.Weight != nil && !ok {
				errs = append(errs, field.Invalid(path.Index(i).Child("weight"), e.Weight, "must be a whole number from 1 to 100"))
			}
		}
	}
	check(spec.Dependencies, field.NewPath("dependencies"))
	check(spec.Clients, field.NewPath("clients"))
	return errs
}

// FromPolicy returns a policy's intent and the selector of the pods that it governs. Admission has refused most bad
// policies already; the error, with the paths of the bad fields, is for those that came past it.
func FromPolicy(p *v1alpha1.LatencyPolicy) (*Intent, labels.Selector, error) {
	path := field.NewPath("spec")
	errs := validateSelector(&p.Spec.Selector, path.Child("selector"), "would govern every pod of the namespace")
	errs = append(errs, Validate(&p.Spec.LatencySpec, path)...)
	if len(errs) > 0 {
		return nil, nil, errs.ToAggregate()
	}
	return compile("LatencyPolicy "+p.Namespace+"/"+p.Name, p.Namespace, &p.Spec.LatencySpec),
		mustSelector(&p.Spec.Selector), nil
}

// Validate checks a spec at a path, which is nil where the spec is the whole of a document.
func Validate(spec *v1alpha1.LatencySpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	deps, clients := path.Child("dependencies"), path.Child("clients")
	if len(spec.Dependencies)+len(spec.Clients) == 0 {
		errs = append(errs, field.Required(deps, "give at least one entry in dependencies or clients"))
	}
	if n := len(spec.Dependencies); n > MaxEntries {
		errs = append(errs, field.TooMany(deps, n, MaxEntries))
	}
	if n := len(spec.Clients); n > MaxEntries {
		errs = append(errs, field.TooMany(clients, n, MaxEntries))
	}
	for i := range spec.Dependencies {
		errs = append(errs, validateEntry(&spec.Dependencies[i], deps.Index(i))...)
	}
	for i := range spec.Clients {
		c := &spec.Clients[i]
		errs = append(errs, validateEntry(&c.Entry, clients.Index(i))...)
		if c.Demand != "" {
			errs = append(errs, validateName(c.Demand, clients.Index(i).Child("demand"))...)
		}
	}
	errs = append(errs, oneOf(spec.Statistic, path.Child("statistic"), v1alpha1.StatisticTypical, v1alpha1.StatisticTail)...)
	errs = append(errs, oneOf(spec.WhenUnsatisfiable, path.Child("whenUnsatisfiable"), v1alpha1.ScheduleAnyway, v1alpha1.DoNotSchedule)...)
	errs = append(errs, oneOf(spec.WhenUnmeasured, path.Child("whenUnmeasured"), v1alpha1.UnmeasuredAllow, v1alpha1.UnmeasuredReject)...)
	return errs
}

func validateEntry(e *v1alpha1.Entry, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	targets := 0
	if e.Service != "" {
		targets++
		errs = append(errs, validateName(e.Service, path.Child("service"))...)
	}
	if e.Pods != nil {
		targets++
		pods := path.Child("pods")
		errs = append(errs, validateSelector(&e.Pods.Selector, pods.Child("selector"), "would select every pod")...)
		if e.Pods.NamespaceSelector != nil {
			errs = append(errs, metav1validation.ValidateLabelSelector(e.Pods.NamespaceSelector,
				metav1validation.LabelSelectorValidationOptions{}, pods.Child("namespaceSelector"))...)
		}
	}
	if e.Nodes != nil {
		targets++
		errs = append(errs, validateSelector(e.Nodes, path.Child("nodes"), "would select every node")...)
	}
	if targets != 1 {
		errs = append(errs, field.Invalid(path, fmt.Sprintf("%d targets", targets), "give exactly one of service, pods and nodes"))
	}
	if e.Namespace != "" {
		if e.Service == "" {
			errs = append(errs, field.Forbidden(path.Child("namespace"), "goes with service; for pods use pods.namespaceSelector"))
		}
		errs = append(errs, validateName(e.Namespace, path.Child("namespace"))...)
	}
	if e.Limit != nil && (e.Limit.Duration <= 0 || e.Limit.Duration > latency.MaxRTT) {
		errs = append(errs, field.Invalid(path.Child("limit"), e.Limit.Duration.String(), "must be above 0 and at most 60s"))
	}
	if e.Weight != nil && (*e.Weight < 1 || *e.Weight > MaxWeight) {
		errs = append(errs, field.Invalid(path.Child("weight"), *e.Weight, "must be 1 to 100; leave an entry out rather than weigh it 0"))
	}
	if e.Routing != nil {
		errs = append(errs, oneOf(*e.Routing, path.Child("routing"), v1alpha1.RoutingNearest, v1alpha1.RoutingAny)...)
	}
	return errs
}

func validateName(name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Label(name) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	return errs
}

func validateSelector(s *metav1.LabelSelector, path *field.Path, otherwise string) field.ErrorList {
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return field.ErrorList{field.Required(path, "an empty selector "+otherwise+"; name at least one label")}
	}
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, path)
}

// oneOf accepts the given values, and "" for the default.
func oneOf[T ~string](got T, path *field.Path, want ...T) field.ErrorList {
	if got == "" {
		return nil
	}
	for _, w := range want {
		if got == w {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, got, want)}
}

// compile fills in the defaults of a valid spec.
func compile(name, namespace string, spec *v1alpha1.LatencySpec) *Intent {
	in := &Intent{Name: name, Namespace: namespace}
	common := Entry{
		Hard:             spec.WhenUnsatisfiable == v1alpha1.DoNotSchedule,
		RejectUnmeasured: spec.WhenUnmeasured == v1alpha1.UnmeasuredReject,
	}
	if spec.Statistic == v1alpha1.StatisticTail {
		common.Statistic = latency.Tail
	}
	for i := range spec.Dependencies {
		e := common
		e.Role, e.Path = Dependency, fmt.Sprintf("dependencies[%d]", i)
		in.Entries = append(in.Entries, compileEntry(e, namespace, &spec.Dependencies[i]))
	}
	for i := range spec.Clients {
		e := common
		e.Role, e.Path, e.Demand = Client, fmt.Sprintf("clients[%d]", i), spec.Clients[i].Demand
		e = compileEntry(e, namespace, &spec.Clients[i].Entry)
		if e.Routing == nil {
			nearest := placement.Nearest
			e.Routing = &nearest
		}
		in.Entries = append(in.Entries, e)
	}
	return in
}

func compileEntry(e Entry, namespace string, spec *v1alpha1.Entry) Entry {
	switch {
	case spec.Service != "":
		e.Service = &Service{Namespace: namespace, Name: spec.Service}
		if spec.Namespace != "" {
			e.Service.Namespace = spec.Namespace
		}
	case spec.Pods != nil:
		e.Pods = &Pods{Namespace: namespace, Selector: mustSelector(&spec.Pods.Selector)}
		if spec.Pods.NamespaceSelector != nil {
			e.Pods.NamespaceSelector = mustSelector(spec.Pods.NamespaceSelector)
		}
	default:
		e.Nodes = mustSelector(spec.Nodes)
	}
	if spec.Limit != nil {
		e.Limit = spec.Limit.Duration
	}
	e.Weight = 1
	if spec.Weight != nil {
		e.Weight = float32(*spec.Weight)
	}
	if spec.Routing != nil {
		r := placement.Any
		if *spec.Routing == v1alpha1.RoutingNearest {
			r = placement.Nearest
		}
		e.Routing = &r
	}
	return e
}

// mustSelector converts a selector that was validated.
func mustSelector(s *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}
