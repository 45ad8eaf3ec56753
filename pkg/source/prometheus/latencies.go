// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Latencies says how to ask for the latencies that one prober measured: by the name of a preset, by queries, or by a preset of which
// some parts are other. Every query is the administrator's; each is sent once a refresh, however many nodes there are.
type Latencies struct {
	// Preset is the prober's name: fogprobe, kube-latency, goldpinger, smokeping_prober, ping_exporter, kubenurse, blackbox_exporter,
	// kconmon, cloudprober, netperf or cilium. Each of the fields below that is set takes the place of that part of the preset. Default
	// none: then typical, unit, source and target are required.
	Preset string `json:"preset,omitempty"`

	// Name is what metrics and logs call it: lower-case letters, digits, "-", "_" and ".", at most 63. Default: the preset's name.
	Name string `json:"name,omitempty"`

	// Typical is the PromQL of the median RTT, one series a pair of nodes. Where a prober has no median, its mean.
	Typical string `json:"typical,omitempty"`
	// Tail is the PromQL of the 95th percentile of the RTT. Default none: then the tail is unknown. It is unknown, too, while this query
	// fails.
	Tail string `json:"tail,omitempty"`
	// Failed is the PromQL of what failed: a pair for which it has a series whose value is not 0 is unknown, whatever typical says. Default none.
	Failed string `json:"failed,omitempty"`
	// Time is the PromQL of the Unix time, in seconds, of the newest measurement behind a pair, with the labels of typical or with the
	// two labels of the nodes. Default timestamp(typical), which is that time only where typical is a plain selector; else it is required.
	Time string `json:"time,omitempty"`

	// Unit is that of typical and tail: s, ms, us or ns.
	Unit string `json:"unit,omitempty"`

	// Source is the label that names the node that measured, Target the one that names the node that was measured. A value is looked
	// up, with and without a port, as a node's name, InternalIP and hostname, and as the IP of a pod; the first that knows it wins.
	Source string `json:"source,omitempty"`
	// Target: see source.
	Target string `json:"target,omitempty"`
	// SourceRegexp is a regular expression, RE2, not anchored: where a label's value is not known as it is, what the first group matches in
	// it is looked up. Default none.
	SourceRegexp string `json:"sourceRegexp,omitempty"`
	// TargetRegexp is the same for the target.
	TargetRegexp string `json:"targetRegexp,omitempty"`

	// RankingOnly says that the numbers are no RTTs, but are larger where the RTT is: they rank nodes for which nothing better is known,
	// and no limit rests on them. What a preset says of that cannot be taken back. Default false.
	RankingOnly bool `json:"rankingOnly,omitempty"`
}

// MaxQueryBytes bounds a query, 16 KiB.
const MaxQueryBytes = 16 << 10

// units are what a value is multiplied by to get seconds.
var units = map[string]float64{"s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}

const matchers = `\{([^"'` + "`" + `{}]|"([^"\\]|\\.)*"|'([^'\\]|\\.)*'|` + "`[^`]*`" + `)*\}`

var (
	validName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9_.]{0,61}[a-z0-9])?$`)
	validLabel = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	// A plain selector is a name, matchers in braces, or both. A string may hold any character, a brace included.
	plainSelector = regexp.MustCompile(`^\s*([a-zA-Z_:][a-zA-Z0-9_:]*\s*(` + matchers + `)?|` + matchers + `)\s*$`)
)

// IsPlainSelector reports whether timestamp() of a query is the time of its samples: of anything but a selector, a rate or a sum, it is the time of
// the query, so that a dead exporter's values never look old.
func IsPlainSelector(promql string) bool { return plainSelector.MatchString(promql) }

// TimeRequired is what to say of a query that is no plain selector and has no time.
const TimeRequired = "query is more than a plain selector, so timestamp(query) would be the time of the query and nothing would ever be old: " +
	"give the time of the newest sample behind it, as in max by (node) (timestamp(the_metric))"

// ValidateLatencies returns what is wrong with a list of latencies, all of it at once.
func ValidateLatencies(path *field.Path, list []Latencies) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range list {
		at := path.Index(i)
		errs = append(errs, list[i].Validate(at)...)
		name := list[i].name()
		if name != "" && seen[name] {
			errs = append(errs, field.Invalid(at.Child("name"), name, "is another one's name: give each its own"))
		}
		seen[name] = true
	}
	return errs
}

// Validate returns what is wrong, all of it at once.
func (l *Latencies) Validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	preset, known := presets[l.Preset]
	if l.Preset != "" && !known {
		errs = append(errs, field.NotSupported(path.Child("preset"), l.Preset, PresetNames()))
	}
	q := l.over(&preset.Latencies)
	required := func(name, value, detail string) {
		if value == "" && (l.Preset == "" || known) {
			errs = append(errs, field.Required(path.Child(name), detail))
		}
	}
	required("name", l.name(), "what metrics and logs call it, since no preset is given")
	required("typical", q.Typical, "the PromQL of the median RTT, or a preset")
	required("unit", q.Unit, "s, ms, us or ns, since no preset is given")
	required("source", q.Source, "the label that names the node that measured, since no preset is given")
	required("target", q.Target, "the label that names the node that was measured, since no preset is given")
	if l.Name != "" && !validName.MatchString(l.Name) {
		errs = append(errs, field.Invalid(path.Child("name"), l.Name, `must be lower-case letters, digits, "-", "_" and ".", start and end with a letter or a digit, and be at most 63 long`))
	}
	if l.Name == "nodelatency" {
		errs = append(errs, field.Invalid(path.Child("name"), l.Name, "is the name of the NodeLatency objects: choose another"))
	}
	if l.Unit != "" && units[l.Unit] == 0 {
		errs = append(errs, field.NotSupported(path.Child("unit"), l.Unit, []string{"s", "ms", "us", "ns"}))
	}
	for _, f := range []struct{ name, value string }{{"typical", l.Typical}, {"tail", l.Tail}, {"failed", l.Failed}, {"time", l.Time}} {
		switch {
		case len(f.value) > MaxQueryBytes:
			errs = append(errs, field.TooLong(path.Child(f.name), "", MaxQueryBytes))
		case f.value != "" && strings.TrimSpace(f.value) == "":
			errs = append(errs, field.Invalid(path.Child(f.name), f.value, "is blank: give PromQL, or leave it out"))
		}
	}
	if q.Time == "" && strings.TrimSpace(q.Typical) != "" && !plainSelector.MatchString(q.Typical) {
		errs = append(errs, field.Required(path.Child("time"), "typical is more than a plain selector, so timestamp(typical) would be the time of the query and nothing "+
			"would ever be old: give the time of the newest sample behind it, as in timestamp(the_metric)"))
	}
	for _, f := range []struct{ name, value string }{{"source", l.Source}, {"target", l.Target}} {
		if f.value != "" && !validLabel.MatchString(f.value) {
			errs = append(errs, field.Invalid(path.Child(f.name), f.value, "must be the name of one label: letters, digits and _, as in source_node_name"))
		}
	}
	for _, f := range []struct{ name, value string }{{"sourceRegexp", l.SourceRegexp}, {"targetRegexp", l.TargetRegexp}} {
		if f.value == "" {
			continue
		}
		re, err := regexp.Compile(f.value)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(path.Child(f.name), f.value, "must be a regular expression as RE2 reads it: "+strings.TrimPrefix(err.Error(), "error parsing regexp: ")))
		case re.NumSubexp() == 0:
			errs = append(errs, field.Invalid(path.Child(f.name), f.value, "must have a group, as in ^path_(.+)$: what it matches is the node's name or address"))
		}
	}
	if q.Source != "" && q.Source == q.Target && q.SourceRegexp == q.TargetRegexp {
		errs = append(errs, field.Invalid(path.Child("target"), q.Target, "is source, too: a pair has two ends; name two labels, or give sourceRegexp and targetRegexp"))
	}
	return errs
}

// name returns what metrics and logs call it.
func (l *Latencies) name() string {
	if l.Name != "" {
		return l.Name
	}
	return l.Preset
}

// over returns what is set, over a preset for what is not.
func (l *Latencies) over(preset *Latencies) Latencies {
	q := *l
	for _, f := range []struct {
		value  *string
		preset string
	}{
		{&q.Typical, preset.Typical},
		{&q.Tail, preset.Tail},
		{&q.Failed, preset.Failed},
		{&q.Time, preset.Time},
		{&q.Unit, preset.Unit},
		{&q.Source, preset.Source},
		{&q.Target, preset.Target},
		{&q.SourceRegexp, preset.SourceRegexp},
		{&q.TargetRegexp, preset.TargetRegexp},
	} {
		if *f.value == "" {
			*f.value = f.preset
		}
	}
	q.Name = l.name()
	q.RankingOnly = q.RankingOnly || preset.RankingOnly
	return q
}

// questions are latencies that are ready to be asked for.
type questions struct {
	Latencies
	seconds                    float64 // a unit
	sourceRegexp, targetRegexp *regexp.Regexp
	preset                     *Preset
}

// questions returns what to ask for latencies that are valid, and an error for others.
func (l *Latencies) questions() (*questions, error) {
	if errs := l.Validate(field.NewPath("latencies")); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	preset := presets[l.Preset]
	q := &questions{Latencies: l.over(&preset.Latencies), preset: &preset}
	q.seconds = units[q.Unit]
	if q.Time == "" {
		q.Time = "timestamp(" + q.Typical + "\n)" // a comment may end the query
	}
	for _, f := range []struct {
		re   **regexp.Regexp
		text string
	}{{&q.sourceRegexp, q.SourceRegexp}, {&q.targetRegexp, q.TargetRegexp}} {
		if f.text == "" {
			continue
		}
		re, err := regexp.Compile(f.text)
		if err != nil {
			return nil, fmt.Errorf("regular expression %q: %w", f.text, err)
		}
		*f.re = re
	}
	return q, nil
}

// PresetNames returns the names of the presets in order.
func PresetNames() []string { return slices.Sorted(maps.Keys(presets)) }
