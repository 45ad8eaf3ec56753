// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/intent"
)

// Report is what `kubectl fog policy check -o json` prints.
type Report struct {
	// Documents, Policies and Templates count what was looked at: YAML or JSON documents, LatencyPolicy objects, and pod templates with the
	// annotation fogsched.dev/latency.
	Documents int `json:"documents"`
	Policies  int `json:"policies"`
	Templates int `json:"templates"`
	// Errors and Warnings count the findings.
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
	Findings []Finding `json:"findings"`
}

// Finding is something that should be mended.
type Finding struct {
	// Severity is error or warning.
	Severity string `json:"severity"`
	File     string `json:"file"`
	// Document counts the documents of the file from 1, Line its lines.
	Document int `json:"document"`
	Line     int `json:"line,omitempty"`
	// Object is the kind, namespace and name, "LatencyPolicy default/web".
	Object string `json:"object,omitempty"`
	// Field is the path of the field, "spec.clients[0].limit"; what is inside an annotation follows after a colon.
	Field string `json:"field,omitempty"`
	// Message says what is wrong, and how to mend it.
	Message string `json:"message"`
}

const (
	severityError   = "error"
	severityWarning = "warning"
)

type check struct {
	*cli.Options
	files      []string
	recursive  bool
	schedulers []string
	output     string

	report    Report
	policies  []checkedPolicy
	templates []template
}

// source is where a document stands.
type source struct {
	file      string
	document  int
	object    string
	namespace string
}

type checkedPolicy struct {
	source
	name     string
	line     int
	selector labels.Selector
}

// template is a pod template, or a pod.
type template struct {
	source
	kind, path    string // path is "spec.template", or "" for a pod
	line          int
	labels        labels.Set
	scheduler     string
	schedulerLine int
	annotated     bool
}

func newCheck(o *cli.Options) *cobra.Command {
	c := &check{Options: o}
	cmd := &cobra.Command{
		Use:   "check -f FILE|DIR|-",
		Short: "Check policies and annotations in files, without a cluster",
		Long: `Check LatencyPolicy objects, and the annotation fogsched.dev/latency on pods and pod templates (Deployment, StatefulSet, DaemonSet,
ReplicaSet, Job, CronJob and whatever else has spec.template), as the scheduler would read them. No cluster is asked.

Each finding says where it is, FILE:DOCUMENT: FIELD, what is wrong and how to mend it. An unknown field is an error. Warnings are about
what is valid and probably not what was meant: a template that another scheduler would place, a selector that selects nothing in the files.

The exit code is 1 where there are errors, and 0 with nothing but warnings.`,
		Example: `  # the files of a folder
  kubectl fog policy check -f deploy/

  # what a chart or a kustomization makes
  helm template my-chart | kubectl fog policy check -f -
  kubectl kustomize overlays/prod | kubectl fog policy check -f -

  # in a cluster whose default scheduler is fogsched
  kubectl fog policy check -f deploy/ --scheduler fogsched --scheduler default-scheduler`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(*cobra.Command, []string) error { return c.run() },
	}
	fs := cmd.Flags()
	fs.StringArrayVarP(&c.files, "filename", "f", nil, "A file of YAML or JSON documents, a folder of *.yaml, *.yml and *.json files, or - for standard input. May be given more than once.")
	fs.BoolVarP(&c.recursive, "recursive", "R", false, "Look into the folders of a folder, too.")
	fs.StringArrayVar(&c.schedulers, "scheduler", []string{"fogsched"}, "A schedulerName that is fogsched. May be given more than once.")
	cli.OutputFlag(fs, &c.output, "json", "yaml")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	_ = cmd.RegisterFlagCompletionFunc("output", cli.CompleteWords("json", "yaml"))
	_ = cmd.RegisterFlagCompletionFunc("scheduler", cli.CompleteWords("fogsched", "default-scheduler"))
	return cmd
}

func (c *check) run() error {
	if err := cli.CheckOutput(c.output, "json", "yaml"); err != nil {
		return err
	}
	if len(c.files) == 0 {
		return errors.New("nothing to check: name a file, a folder, or - for standard input with -f")
	}
	namespace, err := c.Namespace()
	if err != nil || namespace == "" {
		namespace = metav1.NamespaceDefault // no cluster is needed, nor a kubeconfig that can be read
	}
	for _, f := range c.files {
		files, err := c.expand(f)
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := c.file(f, namespace); err != nil {
				return err
			}
		}
	}
	c.together()
	return c.print()
}

// expand returns the files that -f names.
func (c *check) expand(name string) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("-f %s: %w", name, errors.Unwrap(err))
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var files []string
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != name && !c.recursive:
			return fs.SkipDir
		case !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("-f %s: %w", name, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("-f %s: the folder has no *.yaml, *.yml or *.json file (-R looks into its folders)", name)
	}
	return files, nil
}

func (c *check) file(name, namespace string) error {
	var data []byte
	var err error
	if name == "-" {
		data, err = io.ReadAll(c.In)
		name = "<stdin>"
	} else {
		data, err = os.ReadFile(name)
	}
	if err != nil {
		return fmt.Errorf("-f %s: %w", name, err)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	for n := 1; ; n++ {
		var doc yaml.Node
		switch err := d.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			c.report.Documents++
			c.add(severityError, source{file: name, document: n}, "", 0, "%s; what follows in the file was not checked", strings.TrimPrefix(err.Error(), "yaml: "))
			return nil
		}
		if len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" {
			continue // comments alone
		}
		c.report.Documents++
		c.object(doc.Content[0], source{file: name, document: n, namespace: namespace}, "")
	}
}

func (c *check) add(severity string, in source, path string, line int, format string, args ...any) {
	c.report.Findings = append(c.report.Findings, Finding{
		Severity: severity, File: in.file, Document: in.document, Line: line, Object: in.object, Field: path, Message: fmt.Sprintf(format, args...),
	})
}

// object checks one object, or those of a List. prefix is the path to it.
func (c *check) object(n *yaml.Node, in source, prefix string) {
	if n.Kind != yaml.MappingNode {
		c.add(severityError, in, prefix, n.Line, "want an object with apiVersion and kind, not %s", describe(n))
		return
	}
	apiVersion, kind := text(n, "apiVersion"), text(n, "kind")
	if ns := text(n, "metadata", "namespace"); ns != "" {
		in.namespace = ns
	}
	name := text(n, "metadata", "name")
	if name == "" {
		name = text(n, "metadata", "generateName")
	}
	in.object = strings.TrimSpace(kind + " " + in.namespace + "/" + name)
	group, version, _ := strings.Cut(apiVersion, "/")
	items := at(n, "items")
	switch ours := v1alpha1.GroupVersion.Group; {
	case strings.HasSuffix(kind, "List") && items != nil && items.Kind == yaml.SequenceNode:
		for i, item := range items.Content {
			c.object(item, in, fmt.Sprintf("%sitems[%d].", prefix, i))
		}
	case kind == "LatencyPolicy" && group != ours:
		c.add(severityError, in, prefix+"apiVersion", lineOf(n, "apiVersion"), "%q has no LatencyPolicy; want %s", apiVersion, v1alpha1.GroupVersion)
	case group == ours && version != v1alpha1.GroupVersion.Version:
		c.add(severityError, in, prefix+"apiVersion", lineOf(n, "apiVersion"), "unknown version %q; want %s", apiVersion, v1alpha1.GroupVersion)
	case group == ours && kind == "LatencyPolicy":
		c.policy(n, in, prefix, name)
	case group == ours && kind != "NodeLatency":
		c.add(severityError, in, prefix+"kind", lineOf(n, "kind"), "%s has no %q; want LatencyPolicy", group, kind)
	case kind == "Pod":
		c.template(n, in, kind, prefix)
	case kind == "CronJob":
		c.annotatedObject(n, in, prefix, "spec.jobTemplate.spec.template")
		c.template(at(n, "spec", "jobTemplate", "spec", "template"), in, kind, prefix+"spec.jobTemplate.spec.template.")
	default:
		if t := at(n, "spec", "template"); t != nil {
			c.annotatedObject(n, in, prefix, "spec.template")
			c.template(t, in, kind, prefix+"spec.template.")
		}
	}
}

func lineOf(n *yaml.Node, name string) int {
	if v := at(n, name); v != nil {
		return v.Line
	}
	return n.Line
}

func (c *check) policy(n *yaml.Node, in source, prefix, name string) {
	c.report.Policies++
	s := &shape{lines: map[string]int{"": n.Line}}
	s.check(n, reflect.TypeFor[v1alpha1.LatencyPolicy](), "")
	if name == "" {
		c.add(severityError, in, prefix+"metadata.name", s.line("metadata"), "every LatencyPolicy needs a name")
	}
	for _, p := range s.problems {
		c.add(severityError, in, prefix+p.path, p.line, "%s", p.text)
	}
	var p v1alpha1.LatencyPolicy
	data, err := yaml.Marshal(n)
	if err == nil {
		err = sigsyaml.Unmarshal(data, &p)
	}
	if err != nil {
		if len(s.problems) == 0 { // it is one of those otherwise
			c.add(severityError, in, prefix, n.Line, "%v", err)
		}
		return
	}
	p.Namespace, p.Name = in.namespace, name
	_, selector, err := intent.FromPolicy(&p)
	if err != nil {
		for _, e := range each(err) {
			path, message := "", e.Error()
			var fe *field.Error
			if errors.As(e, &fe) {
				path, message = fe.Field, fe.ErrorBody()
			}
			if said(s.problems, path) {
				continue
			}
			c.add(severityError, in, prefix+path, s.line(path), "%s", message)
		}
		return
	}
	c.policies = append(c.policies, checkedPolicy{source: in, name: name, line: s.line("spec.selector"), selector: selector})
	c.spec(&p.Spec.LatencySpec, in, func(path string) (string, int) { return prefix + "spec." + path, s.line("spec." + path) })
}

// said reports whether something was found at a field, or in it, already: an entry whose only target is misspelt has no target, either.
func said(problems []problem, path string) bool {
	return slices.ContainsFunc(problems, func(p problem) bool {
		return p.path == path || strings.HasPrefix(p.path, path+".") || strings.HasPrefix(p.path, path+"[")
	})
}

// each takes an error apart.
func each(err error) []error {
	var all utilerrors.Aggregate
	if errors.As(err, &all) {
		return all.Errors()
	}
	return []error{err}
}

// spec warns of what is valid and says nothing.
func (c *check) spec(spec *v1alpha1.LatencySpec, in source, where func(path string) (string, int)) {
	limited := slices.ContainsFunc(spec.Dependencies, func(e v1alpha1.Entry) bool { return e.Limit != nil }) ||
		slices.ContainsFunc(spec.Clients, func(e v1alpha1.ClientEntry) bool { return e.Limit != nil })
	warn := func(field, format string, args ...any) {
		path, line := where(field)
		c.add(severityWarning, in, path, line, format, args...)
	}
	if !limited && spec.WhenUnsatisfiable == v1alpha1.DoNotSchedule {
		warn("whenUnsatisfiable", "DoNotSchedule does nothing: no entry has a limit")
	}
	if !limited && spec.WhenUnmeasured == v1alpha1.UnmeasuredReject {
		warn("whenUnmeasured", "Reject does nothing: no entry has a limit")
	}
}

// annotatedObject warns of annotations of fogsched.dev that are on the workload in place of its pod template.
func (c *check) annotatedObject(n *yaml.Node, in source, prefix, templatePath string) {
	if v := at(n, "metadata", "annotations", v1alpha1.LatencyAnnotation); v != nil {
		c.add(severityWarning, in, prefix+"metadata.annotations["+v1alpha1.LatencyAnnotation+"]", v.Line,
			"no pod gets this: the annotation belongs into %s.metadata.annotations", templatePath)
	}
}

// template checks a pod template, or a pod. prefix is the path to it, with a dot at its end.
func (c *check) template(n *yaml.Node, in source, kind, prefix string) {
	if n == nil || n.Kind != yaml.MappingNode {
		return
	}
	t := template{source: in, kind: kind, path: prefix, line: n.Line, labels: labels.Set{}, scheduler: text(n, "spec", "schedulerName")}
	if l := at(n, "metadata", "labels"); l != nil && l.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(l.Content); i += 2 {
			t.labels[l.Content[i].Value] = l.Content[i+1].Value
		}
	}
	t.schedulerLine = n.Line
	if spec := at(n, "spec"); spec != nil {
		t.schedulerLine = lineOf(spec, "schedulerName")
	}
	annotations := at(n, "metadata", "annotations")
	if annotations != nil && annotations.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(annotations.Content); i += 2 {
			key := annotations.Content[i]
			if known := v1alpha1.LatencyAnnotation; key.Value != known && changes(strings.ToLower(key.Value), known) <= 3 {
				c.add(severityWarning, in, prefix+"metadata.annotations["+key.Value+"]", key.Line, "nothing reads this annotation; did you mean %s?", known)
			}
		}
	}
	if v := at(annotations, v1alpha1.LatencyAnnotation); v != nil {
		t.annotated = true
		c.report.Templates++
		c.annotation(v, in, prefix+"metadata.annotations["+v1alpha1.LatencyAnnotation+"]")
	}
	c.templates = append(c.templates, t)
}

func (c *check) annotation(v *yaml.Node, in source, path string) {
	if v.Kind != yaml.ScalarNode || v.ShortTag() != "!!str" {
		c.add(severityError, in, path, v.Line, "want a text that holds JSON, not %s; put it in quotes: '{\"dependencies\":[{\"service\":\"db\"}]}'", describe(v))
		return
	}
	parsed, err := intent.ParseAnnotation(in.namespace, v.Value)
	if err == nil {
		var spec v1alpha1.LatencySpec
		if sigsyaml.Unmarshal([]byte(v.Value), &spec) == nil && parsed != nil {
			c.spec(&spec, in, func(inner string) (string, int) { return path + ": " + inner, v.Line })
		}
		return
	}
	for _, e := range each(err) {
		inner, message := path, strings.TrimPrefix(e.Error(), "metadata.annotations["+v1alpha1.LatencyAnnotation+"]: ")
		var fe *field.Error
		if errors.As(e, &fe) {
			message = fe.ErrorBody()
			if !strings.HasPrefix(fe.Field, "metadata.annotations") && fe.Field != "" {
				inner = path + ": " + fe.Field
			}
		}
		if strings.HasPrefix(message, "invalid character") || strings.HasPrefix(message, "unexpected end") {
			message = "this is no JSON: " + message
		}
		c.add(severityError, in, inner, v.Line, "%s", message)
	}
}

// together checks what takes more than one document.
func (c *check) together() {
	names := map[string]source{}
	for _, p := range c.policies {
		key := p.namespace + "/" + p.name
		if first, twice := names[key]; twice && p.name != "" {
			c.add(severityError, p.source, "metadata.name", p.line, "there is another LatencyPolicy %s in %s:%d; the one that is applied last wins", key, first.file, first.document)
		} else {
			names[key] = p.source
		}
		var matched, local int
		for i := range c.templates {
			t := &c.templates[i]
			if t.namespace != p.namespace {
				continue
			}
			local++
			if p.selector.Matches(t.labels) {
				matched++
			}
		}
		if matched == 0 && local > 0 {
			c.add(severityWarning, p.source, "spec.selector", p.line, "selects none of the %s of the namespace %s in these files",
				cli.Plural(local, "pod template", "pod templates"), p.namespace)
		}
	}
	for i := range c.templates {
		t := &c.templates[i]
		var by []string
		for _, p := range c.policies {
			if p.namespace == t.namespace && p.selector.Matches(t.labels) {
				by = append(by, p.name)
			}
		}
		by = slices.Compact(by)
		if !t.annotated && len(by) == 0 {
			continue
		}
		what := "the annotation"
		if !t.annotated {
			what = "LatencyPolicy " + strings.Join(by, ", ")
		}
		switch {
		case t.kind == "DaemonSet":
			c.add(severityWarning, t.source, t.path+"metadata", t.line, "%s does nothing: a DaemonSet puts a pod on every node", what)
		case t.scheduler == "" && !slices.Contains(c.schedulers, "default-scheduler"):
			c.add(severityWarning, t.source, t.path+"spec.schedulerName", t.schedulerLine,
				"is not set, so the default scheduler places the pods and %s does nothing; set it to %s (where the default scheduler is fogsched, say --scheduler default-scheduler)",
				what, c.schedulers[0])
		case t.scheduler != "" && !slices.Contains(c.schedulers, t.scheduler):
			c.add(severityWarning, t.source, t.path+"spec.schedulerName", t.schedulerLine,
				"is %q, and %s does nothing there; set it to %s (or name another scheduler that is fogsched with --scheduler)", t.scheduler, what, c.schedulers[0])
		}
		if t.annotated && len(by) > 0 {
			c.add(severityWarning, t.source, t.path+"metadata.annotations["+v1alpha1.LatencyAnnotation+"]", t.line,
				"governs the pods alone: LatencyPolicy %s selects them, too, and does not count for them", strings.Join(by, ", "))
		}
	}
}

func (c *check) print() error {
	r := &c.report
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Document-b.Document, a.Line-b.Line)
	})
	for _, f := range r.Findings {
		if f.Severity == severityError {
			r.Errors++
		} else {
			r.Warnings++
		}
	}
	if r.Findings == nil {
		r.Findings = []Finding{}
	}
	var err error
	if c.output != "" {
		err = c.PrintObject(c.output, r)
	} else {
		c.lines()
	}
	if err == nil && r.Errors > 0 {
		err = cli.ErrSilent
	}
	return err
}

func (c *check) lines() {
	for _, f := range c.report.Findings {
		style := cli.Warn
		if f.Severity == severityError {
			style = cli.Strong
		}
		where := fmt.Sprintf("%s:%d:", f.File, f.Document)
		if f.Field != "" {
			where += " " + f.Field + ":"
		}
		at := f.Object
		if f.Line > 0 {
			at = strings.TrimSuffix(fmt.Sprintf("line %d, %s", f.Line, f.Object), ", ")
		}
		if at != "" {
			at = " (" + at + ")"
		}
		lines := cli.Wrap(cli.Clean(fmt.Sprintf("%s: %s %s%s", f.Severity, where, f.Message, at)), max(c.Columns()-2, 0)) // what follows is indented
		lines[0] = c.Paint(style, f.Severity) + strings.TrimPrefix(lines[0], f.Severity)
		fmt.Fprintln(c.Out, strings.Join(lines, "\n  "))
	}
	if len(c.report.Findings) > 0 {
		fmt.Fprintln(c.Out)
	}
	r := &c.report
	c.Say("%s, %s, %s with the annotation: %s, %s.", cli.Plural(r.Documents, "document", "documents"), cli.Plural(r.Policies, "LatencyPolicy", "LatencyPolicies"),
		cli.Plural(r.Templates, "pod template", "pod templates"), cli.Plural(r.Errors, "error", "errors"), cli.Plural(r.Warnings, "warning", "warnings"))
	if r.Policies+r.Templates+r.Errors == 0 {
		c.Say("Nothing in them is for fogsched: no LatencyPolicy, and no pod template with the annotation %s.", v1alpha1.LatencyAnnotation)
	}
}
