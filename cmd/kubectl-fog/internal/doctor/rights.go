// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// right is one thing that a ServiceAccount must be allowed to do.
type right struct {
	verb, group, resource, subresource, namespace, name string
	from                                                source
}

// what is all but the verb.
func (r right) what() string {
	s := r.resource
	if r.subresource != "" {
		s += "/" + r.subresource
	}
	if r.group != "" {
		s += "." + r.group
	}
	if r.name != "" {
		s += " " + r.namespace + "/" + r.name
	} else if r.namespace != "" {
		s += " in " + r.namespace
	}
	return s
}

// source is the binding that gives a right.
type source string

const (
	fromPlugins source = "ClusterRoleBinding fogsched"
	fromStock   source = "ClusterRoleBinding fogsched-as-kube-scheduler"
	fromVolumes source = "ClusterRoleBinding fogsched-as-volume-scheduler"
	fromAuthn   source = "RoleBinding kube-system/fogsched-authentication-reader"
	fromLease   source = "RoleBinding fogsched-leader-election"
	fromWishes  source = "RoleBinding fogsched-interest"
	fromProber  source = "ClusterRoleBinding fogprobe"
	fromPeers   source = "RoleBinding fogprobe"
)

// rightsRead is which of the rights are there.
type rightsRead struct {
	asked    int
	denied   []right
	deniedTo map[source]string // the ServiceAccount
	err      error
}

func rights(verbs, group string, resources ...string) (out []right) {
	for _, resource := range resources {
		resource, sub, _ := strings.Cut(resource, "/")
		for verb := range strings.FieldsSeq(verbs) {
			out = append(out, right{verb: verb, group: group, resource: resource, subresource: sub})
		}
	}
	return out
}

func of(from source, lists ...[]right) (out []right) {
	for _, r := range slices.Concat(lists...) {
		r.from = from
		out = append(out, r)
	}
	return out
}

func in(namespace, name string, list []right) []right {
	for i := range list {
		list[i].namespace, list[i].name = namespace, name
	}
	return list
}

// wanted are the rights of the scheduler: those of the shipped roles, and of the bootstrap roles what any scheduler does all the time.
func (f *facts) wanted() []right {
	lease := f.lease(f.namespace)
	list := slices.Concat(
		of(fromPlugins,
			rights("get list watch", "fogsched.dev", "latencypolicies", "nodelatencies"),
			rights("update", "fogsched.dev", "latencypolicies/status")),
		of(fromStock,
			rights("list watch", "", "pods", "nodes", "services", "namespaces", "persistentvolumes"),
			rights("create", "", "pods/binding"),
			rights("patch", "", "pods/status"),
			rights("delete", "", "pods"),
			rights("create", "events.k8s.io", "events"),
			rights("list watch", "apps", "replicasets", "statefulsets"),
			rights("list watch", "policy", "poddisruptionbudgets"),
			rights("list watch", "storage.k8s.io", "csinodes", "csidrivers", "csistoragecapacities", "volumeattachments"),
			rights("create", "authentication.k8s.io", "tokenreviews"),
			rights("create", "authorization.k8s.io", "subjectaccessreviews")),
		of(fromVolumes,
			rights("update", "", "persistentvolumeclaims", "persistentvolumes"),
			rights("list watch", "storage.k8s.io", "storageclasses")),
		of(fromAuthn, in("kube-system", "extension-apiserver-authentication", rights("get", "", "configmaps"))),
	)
	if f.config == nil || f.config.elects() {
		from := fromLease
		if lease.name == "kube-scheduler" {
			from = fromStock // which names that lease
		}
		list = append(list, of(from,
			in(lease.namespace, lease.name, rights("get update", "coordination.k8s.io", "leases")),
			in(lease.namespace, "", rights("create", "coordination.k8s.io", "leases")))...)
	}
	if namespace, name, ok := strings.Cut(f.interest(), "/"); ok {
		list = append(list, of(fromWishes, in(namespace, name, rights("get update", "", "configmaps")))...)
	}
	return list
}

// wantedByProber are the rights of fogprobe.
func (f *facts) wantedByProber() []right {
	return slices.Concat(
		of(fromProber,
			rights("get", "", "nodes"),
			rights("get create update", "fogsched.dev", "nodelatencies"),
			rights("update", "fogsched.dev", "nodelatencies/status")),
		of(fromPeers,
			in(f.namespace, "", rights("list watch", "discovery.k8s.io", "endpointslices")),
			in(f.namespace, "fogprobe-interest", rights("list watch", "", "configmaps"))),
	)
}

// readRights asks the API server what the ServiceAccounts may do, and reads RBAC itself where it may not be asked.
func (f *facts) readRights(ctx context.Context, core kubernetes.Interface) {
	f.rights.deniedTo = map[source]string{}
	type question struct {
		account string
		right
	}
	var questions []question
	if f.account != "" {
		for _, r := range f.wanted() {
			questions = append(questions, question{f.account, r})
		}
	}
	for i := range f.accounts.items {
		if f.accounts.items[i].Name == proberApp {
			for _, r := range f.wantedByProber() {
				questions = append(questions, question{proberApp, r})
			}
		}
	}
	f.rights.asked = len(questions)
	var mu sync.Mutex
	var tasks []func()
	allowed, errs := make([]bool, len(questions)), make([]error, len(questions))
	for i, q := range questions {
		tasks = append(tasks, func() { allowed[i], errs[i] = ask(ctx, core, f.namespace, q.account, q.right) })
	}
	all(tasks...)
	if err := errors.Join(errs...); err != nil {
		var rbac *rbacObjects
		if rbac, f.rights.err = readRBAC(ctx, core); f.rights.err != nil {
			return
		}
		for i, q := range questions {
			allowed[i] = rbac.allows(f.namespace, q.account, q.right)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for i, q := range questions {
		if !allowed[i] {
			f.rights.denied = append(f.rights.denied, q.right)
			f.rights.deniedTo[q.from] = q.account
		}
	}
}

func ask(ctx context.Context, core kubernetes.Interface, namespace, account string, r right) (bool, error) {
	review, err := core.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   "system:serviceaccount:" + namespace + ":" + account,
			Groups: groupsOf(namespace),
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: r.verb, Group: r.group, Resource: r.resource, Subresource: r.subresource, Namespace: r.namespace, Name: r.name,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, explain(err, "create", "subjectaccessreviews.authorization.k8s.io", "")
	}
	return review.Status.Allowed, nil
}

func groupsOf(namespace string) []string {
	return []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
}

// rbacObjects are all of RBAC.
type rbacObjects struct {
	clusterRoles []rbacv1.ClusterRole
	roles        []rbacv1.Role
	clusterwide  []rbacv1.ClusterRoleBinding
	bindings     []rbacv1.RoleBinding
}

func readRBAC(ctx context.Context, core kubernetes.Interface) (*rbacObjects, error) {
	var o rbacObjects
	api := core.RbacV1()
	const group = ".rbac.authorization.k8s.io"
	read := func(err error, resource string) error {
		if err == nil {
			return nil
		}
		if apierrors.IsForbidden(err) { // what would do for it all is the one review
			return &noPermission{Permission{Verb: "create", Resource: "subjectaccessreviews.authorization.k8s.io"}}
		}
		return explain(err, "list", resource+group, "")
	}
	cr, err := api.ClusterRoles().List(ctx, fromCache)
	if err := read(err, "clusterroles"); err != nil {
		return nil, err
	}
	crb, err := api.ClusterRoleBindings().List(ctx, fromCache)
	if err := read(err, "clusterrolebindings"); err != nil {
		return nil, err
	}
	r, err := api.Roles("").List(ctx, fromCache)
	if err := read(err, "roles"); err != nil {
		return nil, err
	}
	rb, err := api.RoleBindings("").List(ctx, fromCache)
	if err := read(err, "rolebindings"); err != nil {
		return nil, err
	}
	o.clusterRoles, o.clusterwide, o.roles, o.bindings = cr.Items, crb.Items, r.Items, rb.Items
	return &o, nil
}

// allows reports whether RBAC gives a ServiceAccount a right.
func (o *rbacObjects) allows(namespace, account string, r right) bool {
	subject := func(list []rbacv1.Subject) bool {
		return slices.ContainsFunc(list, func(s rbacv1.Subject) bool {
			switch s.Kind {
			case rbacv1.ServiceAccountKind:
				return s.Name == account && s.Namespace == namespace
			case rbacv1.UserKind:
				return s.Name == "system:serviceaccount:"+namespace+":"+account
			}
			return s.Kind == rbacv1.GroupKind && slices.Contains(groupsOf(namespace), s.Name)
		})
	}
	for i := range o.clusterwide {
		b := &o.clusterwide[i]
		if subject(b.Subjects) && grants(o.rules(b.RoleRef, ""), r) {
			return true
		}
	}
	for i := range o.bindings {
		b := &o.bindings[i]
		if r.namespace != "" && b.Namespace == r.namespace && subject(b.Subjects) && grants(o.rules(b.RoleRef, b.Namespace), r) {
			return true
		}
	}
	return false
}

func (o *rbacObjects) rules(ref rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	if ref.Kind == "Role" {
		for i := range o.roles {
			if o.roles[i].Name == ref.Name && o.roles[i].Namespace == namespace {
				return o.roles[i].Rules
			}
		}
		return nil
	}
	for i := range o.clusterRoles {
		if o.clusterRoles[i].Name == ref.Name {
			return o.clusterRoles[i].Rules
		}
	}
	return nil
}

func grants(rules []rbacv1.PolicyRule, r right) bool {
	has := func(list []string, want string) bool {
		return slices.Contains(list, want) || slices.Contains(list, "*")
	}
	resource := r.resource
	if r.subresource != "" {
		resource += "/" + r.subresource
	}
	return slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
		return has(rule.Verbs, r.verb) && has(rule.APIGroups, r.group) && has(rule.Resources, resource) &&
			(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, r.name))
	})
}

func checkRBAC(f *facts, o *outcome) {
	if f.rights.err != nil {
		o.cannot(f.rights.err)
		return
	}
	if f.account == "" {
		if f.accounts.err != nil {
			o.cannot(f.accounts.err)
		} else {
			o.cannotBecause(fmt.Sprintf("there is no ServiceAccount %s/%s whose rights could be looked at", f.namespace, schedulerApp))
		}
		return
	}
	o.ok("%s, all given to %s/%s", count(f.rights.asked, "right"), f.namespace, f.account)
	var sources []source
	by := map[source][]string{}
	last := ""
	for _, r := range f.rights.denied { // those of one resource follow one another
		if by[r.from] == nil {
			sources = append(sources, r.from)
			last = ""
		}
		if n := len(by[r.from]); last == r.what() {
			by[r.from][n-1] = strings.TrimSuffix(by[r.from][n-1], " "+last) + "/" + r.verb + " " + last
		} else {
			by[r.from] = append(by[r.from], r.verb+" "+r.what())
		}
		last = r.what()
	}
	for _, s := range sources {
		account := f.rights.deniedTo[s]
		o.problem(fmt.Sprintf("ServiceAccount %s/%s lacks what %s gives", f.namespace, account, s),
			[]string{"may not: " + some(by[s])}, f.mendOf(s, account))
	}
}

// mendOf is how to give back what a binding gives. Where the role is not ours, the binding alone does.
func (f *facts) mendOf(s source, account string) Mend {
	subject := fmt.Sprintf("--serviceaccount=%s:%s", f.namespace, account)
	switch s {
	case fromStock:
		return Mend{Commands: []string{"kubectl create clusterrolebinding fogsched-as-kube-scheduler --clusterrole=system:kube-scheduler " + subject}}
	case fromVolumes:
		return Mend{Commands: []string{"kubectl create clusterrolebinding fogsched-as-volume-scheduler --clusterrole=system:volume-scheduler " + subject}}
	case fromAuthn:
		return Mend{Commands: []string{"kubectl -n kube-system create rolebinding fogsched-authentication-reader --role=extension-apiserver-authentication-reader " + subject}}
	}
	return Mend{Text: "apply the manifests again; they bring the role and the binding", Commands: []string{f.install()}}
}
