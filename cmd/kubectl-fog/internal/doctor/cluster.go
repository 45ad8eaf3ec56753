// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
)

// oldest is the first minor version of Kubernetes 1 with which fogsched works.
const oldest = 35

func checkAPIServer(f *facts, o *outcome) {
	if f.versionErr != nil {
		o.cannot(f.versionErr)
		return
	}
	v, err := version.ParseGeneric(f.serverVersion)
	if err != nil {
		o.cannotBecause(fmt.Sprintf("the API server's version %q is none", f.serverVersion))
		return
	}
	o.ok("Kubernetes %s", f.serverVersion)
	if v.Major() == 1 && v.Minor() < oldest {
		o.problem(fmt.Sprintf("Kubernetes %s is too old: fogsched needs 1.%d or newer", f.serverVersion, oldest),
			[]string{"a scheduler must not be newer than its API server, and this one is of 1." + fmt.Sprint(oldest)},
			Mend{Text: fmt.Sprintf("upgrade the control plane to Kubernetes 1.%d", oldest)})
		return
	}
	if f.metrics == nil {
		return
	}
	for _, built := range f.metrics.values("kubernetes_build_info", "git_version") {
		s, err := version.ParseGeneric(built)
		switch {
		case err != nil || s.Major() == 0:
		case s.Minor() > v.Minor():
			o.problem(fmt.Sprintf("the scheduler is of Kubernetes %s, newer than the API server's %s", built, f.serverVersion), nil,
				Mend{Text: "upgrade the control plane, or run an older release of fogsched"})
		case v.Minor()-s.Minor() > 1:
			o.warning(fmt.Sprintf("the scheduler is of Kubernetes %s; the API server, of %s, is more than one minor version newer", built, f.serverVersion), nil,
				Mend{Text: "run the release of fogsched for this Kubernetes"})
		}
	}
}

// crd is as much of a CustomResourceDefinition as is looked at.
type crd struct {
	Spec struct {
		Versions []struct {
			Name   string `json:"name"`
			Served bool   `json:"served"`
			Schema struct {
				OpenAPIV3Schema schema `json:"openAPIV3Schema"`
			} `json:"schema"`
		} `json:"versions"`
	} `json:"spec"`
	Status struct {
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

type schema struct {
	Properties map[string]*schema `json:"properties"`
	Items      *schema            `json:"items"`
}

type crdRead = objectRead[crd]

func (f *facts) readCRD(ctx context.Context, r *raw, resource string, mu *sync.Mutex) {
	var c crd
	read := crdRead{object: &c}
	_, err := r.get(ctx, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+resource+"."+v1alpha1.GroupVersion.Group, &c)
	switch {
	case apierrors.IsNotFound(err):
		read.object = nil
	case err != nil:
		read = crdRead{err: explain(err, "get", "customresourcedefinitions.apiextensions.k8s.io", "")}
	}
	mu.Lock()
	defer mu.Unlock()
	f.crds[resource] = read
}

func checkCRDs(f *facts, o *outcome) {
	o.ok("latencypolicies and nodelatencies, %s", v1alpha1.GroupVersion.Version)
	mend := Mend{Commands: []string{"kubectl apply --server-side -k manifests/base/crds"}}
	if f.helm() != "" {
		mend.Commands = []string{f.install()}
	}
	var missing []string
	for _, k := range []struct {
		resource string
		kind     cli.Kind
		of       any
	}{{client.LatencyPolicies, cli.Policies, v1alpha1.LatencyPolicy{}}, {client.NodeLatencies, cli.NodeLatencies, v1alpha1.NodeLatency{}}} {
		name := k.resource + "." + v1alpha1.GroupVersion.Group
		read := f.crds[k.resource]
		if read.err != nil && f.Missing[k.kind] == nil { // it serves lists, so it is there
			o.cannot(read.err)
			continue
		}
		if read.object == nil && f.Missing[k.kind] != nil {
			if read.err != nil {
				o.cannot(read.err)
				continue
			}
			missing = append(missing, name)
			continue
		}
		if read.object == nil {
			continue
		}
		i := slices.IndexFunc(read.object.Status.Conditions, func(c metav1.Condition) bool { return c.Type == "Established" })
		if i < 0 || read.object.Status.Conditions[i].Status != metav1.ConditionTrue {
			var evidence []string
			for _, c := range read.object.Status.Conditions {
				if c.Status != metav1.ConditionTrue && c.Message != "" {
					evidence = append(evidence, fmt.Sprintf("%s: %s", c.Type, c.Message))
				}
			}
			o.problem(fmt.Sprintf("the CRD %s is there, but not established", name), evidence,
				Mend{Text: "see what is in its way", Commands: []string{"kubectl describe crd " + name}})
			continue
		}
		served := false
		for _, v := range read.object.Spec.Versions {
			if v.Name != v1alpha1.GroupVersion.Version || !v.Served {
				continue
			}
			served = true
			if lost := missingFields(reflect.TypeOf(k.of), &v.Schema.OpenAPIV3Schema); len(lost) > 0 {
				o.problem(fmt.Sprintf("the CRD %s is of an older version: the API server drops %s", name, count(len(lost), "field")),
					[]string{"it does not know " + some(lost)}, mend)
			}
		}
		if !served {
			o.problem(fmt.Sprintf("the CRD %s does not serve the version %s", name, v1alpha1.GroupVersion.Version), nil, mend)
		}
	}
	if len(missing) > 0 {
		o.problem("the CRDs of fogsched.dev are not installed: "+strings.Join(missing, ", "),
			[]string{"no prober can publish what it measures, and there are no LatencyPolicies; annotations and a zone table work without"}, mend)
	}
}

// missingFields are those of a Go type, below spec and status, that a schema does not know: the API server would drop them.
func missingFields(t reflect.Type, s *schema) (out []string) {
	for _, part := range []string{"Spec", "Status"} {
		field, _ := t.FieldByName(part)
		name := strings.ToLower(part)
		if s.Properties[name] == nil {
			out = append(out, name)
			continue
		}
		walk(field.Type, s.Properties[name], name, &out)
	}
	return out
}

func walk(t reflect.Type, s *schema, path string, out *[]string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Slice && s.Items != nil:
		walk(t.Elem(), s.Items, path+"[]", out)
		return
	case t.Kind() != reflect.Struct || !strings.HasPrefix(t.PkgPath(), "github.com/fogsched/"):
		return // of Kubernetes, or no object
	}
	for field := range fieldsOf(t) {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if strings.Contains(options, "inline") || name == "" && field.Anonymous {
			walk(field.Type, s, path, out)
			continue
		}
		child := s.Properties[name]
		if child == nil {
			*out = append(*out, path+"."+name)
			continue
		}
		walk(field.Type, child, path+"."+name, out)
	}
}

func fieldsOf(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

func checkAdmission(f *facts, o *outcome) {
	if f.daemonSets.err != nil {
		o.cannot(f.daemonSets.err)
		return
	}
	if len(f.proberSets()) == 0 && len(f.NodeLatencies) == 0 {
		o.ok("not needed: no prober is installed")
		return
	}
	if f.admissionPolicy.err != nil {
		o.cannot(f.admissionPolicy.err)
	}
	if f.admissionBinding.err != nil {
		o.cannot(f.admissionBinding.err)
	}
	o.ok("a prober may write for its own node only")
	mend := Mend{Commands: []string{f.install()}}
	evidence := []string{"whoever takes over one node can speak for every other, and draw or repel every pod"}
	switch binding := f.admissionBinding; {
	case f.admissionPolicy.err == nil && f.admissionPolicy.object == nil:
		o.warning("the ValidatingAdmissionPolicy fogprobe-own-node is missing: each prober may write for all nodes", evidence, mend)
	case binding.err == nil && (binding.object == nil || !slices.Contains(binding.object.Spec.ValidationActions, "Deny")):
		o.warning("nothing enforces the ValidatingAdmissionPolicy fogprobe-own-node: its binding is missing or does not deny", evidence, mend)
	}
}

const (
	// maxSkew is how far clocks may be apart: a sample from more than a minute ahead is rejected.
	maxSkew  = time.Minute
	warnSkew = 30 * time.Second
)

func checkClock(f *facts, o *outcome) {
	o.ok("this machine, the API server and the nodes agree")
	if f.skew.Abs() > warnSkew {
		ahead := "ahead of"
		if f.skew < 0 {
			ahead = "behind"
		}
		o.warning(fmt.Sprintf("this machine's clock is %s %s the API server's", age(f.skew.Abs()), ahead),
			[]string{"ages that kubectl shows are wrong by that; doctor goes by the API server's clock"}, Mend{Text: "set this machine's clock (NTP)"})
	}
	if !o.needs(f, cli.NodeLatencies) {
		return
	}
	var evidence, names []string
	for _, nl := range f.NodeLatencies {
		if at := nl.Status.ObservedAt; at != nil && at.Sub(f.now) > maxSkew {
			names = append(names, nl.Name)
			evidence = append(evidence, fmt.Sprintf("%s: %s ahead", nl.Name, age(at.Sub(f.now))))
		}
	}
	if len(names) > 0 {
		o.problem(fmt.Sprintf("the clock of %s is ahead, and what they measure is rejected: %s", count(len(names), "node"), some(names)),
			firstOf(evidence), Mend{Text: "mend time synchronisation (chrony, systemd-timesyncd) on these nodes"})
	}
}

// firstOf keeps the first few lines of evidence.
func firstOf(lines []string) []string {
	const few = 5
	if len(lines) <= few {
		return lines
	}
	return append(slices.Clone(lines[:few]), fmt.Sprintf("and %d more", len(lines)-few))
}
