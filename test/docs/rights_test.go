// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/app"
)

// TestReaderRole: with the ClusterRole of docs/kubectl-fog.md and the bootstrap role view every command of kubectl-fog has what it asks for, and
// without any one rule of it some command has not.
func TestReaderRole(t *testing.T) {
	binDir(t)
	var role rbacv1.ClusterRole
	for _, b := range readPages(t, "docs/kubectl-fog.md")[0].yaml {
		if strings.Contains(b.text, "kind: ClusterRole") {
			if err := yaml.UnmarshalStrict([]byte(b.text), &role); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(role.Rules) == 0 {
		t.Fatal("docs/kubectl-fog.md has no ClusterRole")
	}
	t.Chdir(filepath.Join(root(t), "test", "docs", "testdata", "work"))
	if lacks := lacking(t, "reader", role.Rules); len(lacks) > 0 {
		t.Errorf("these commands lack a right:\n%s", strings.Join(lacks, "\n"))
	}
	for i, rule := range role.Rules {
		rules := append(append([]rbacv1.PolicyRule{}, role.Rules[:i]...), role.Rules[i+1:]...)
		if lacks := lacking(t, "reader-without-"+string(rune('a'+i)), rules); len(lacks) == 0 {
			t.Errorf("no command needs the rule of %v %v", rule.APIGroups, rule.Resources)
		}
	}
}

// lacking runs the commands as somebody who has view and these rules, and returns what they may not read.
func lacking(t *testing.T, user string, rules []rbacv1.PolicyRule) (lacks []string) {
	t.Helper()
	rbac := control.Client().RbacV1()
	if _, err := rbac.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"view", user} {
		_, err := rbac.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user + "-" + role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	kubeconfig, err := control.KubeconfigFor(user)
	if err != nil {
		t.Fatal(err)
	}
	waitUntilAllowed(t, kubeconfig, rules[len(rules)-1])
	for _, args := range [][]string{
		{"nodes"},
		{"matrix"},
		{"explain", "pod", "bulletin-board-7c9f8-x2x4z"},
		{"explain", "-f", "deployment.yaml"},
		{"policy", "status", "-A"},
		{"top", "--once"},
		{"report", "-o", "-"},
		{"doctor", "-o", "json"},
	} {
		var out, errs bytes.Buffer
		app.Main("test", append(args, "--kubeconfig="+kubeconfig, "--cache-dir="+t.TempDir()), os.Stdin, &out, &errs)
		for line := range strings.Lines(out.String() + errs.String()) {
			if strings.Contains(line, "no permission to") || strings.Contains(line, "for want of permission") {
				lacks = append(lacks, "kubectl fog "+strings.Join(args, " ")+": "+strings.TrimSpace(line))
			}
		}
	}
	return lacks
}

// waitUntilAllowed returns when the API server has seen the binding and the rules.
func waitUntilAllowed(t *testing.T, kubeconfig string, rule rbacv1.PolicyRule) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(group, resource, verb string) bool {
		a, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Group: group, Resource: resource, Verb: verb}},
		}, metav1.CreateOptions{})
		return err == nil && a.Status.Allowed
	}
	deadline := time.Now().Add(time.Minute)
	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	for !ask(rule.APIGroups[0], rule.Resources[0], rule.Verbs[0]) || !ask("", "pods", "list") {
		if time.Now().After(deadline) {
			t.Fatal("the API server does not grant what the role says")
		}
		<-ticker.C
	}
}
