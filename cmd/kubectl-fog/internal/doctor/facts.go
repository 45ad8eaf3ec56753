// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/latency"
)

const (
	defaultNamespace = "fogsched-system"
	schedulerApp     = "fogsched"
	proberApp        = "fogprobe"
	appLabel         = "app.kubernetes.io/name"
	overlay          = "manifests/overlays/second-scheduler"
)

// fetched is a list of objects, or why it is not to be had.
type fetched[T any] struct {
	items []T
	err   error
}

// facts are what was read of a cluster. The checks only look at it.
type facts struct {
	*cli.Cluster
	ctx context.Context
	// now is the API server's time: what is fresh must not depend on the clock of whoever asks.
	now       time.Time
	skew      time.Duration // of this machine's clock, ahead of the API server's
	namespace string

	serverVersion string
	versionErr    error

	crds map[string]crdRead // by their resource

	deployments  fetched[appsv1.Deployment]
	daemonSets   fetched[appsv1.DaemonSet]
	statefulSets fetched[appsv1.StatefulSet]
	jobs         fetched[batchv1.Job]
	cronJobs     fetched[batchv1.CronJob]
	configMaps   fetched[v1.ConfigMap]      // of the scheduler's namespace
	accounts     fetched[v1.ServiceAccount] // of the scheduler's namespace
	slices       fetched[discoveryv1.EndpointSlice]
	events       fetched[v1.Event] // FailedScheduling
	leases       map[string]leaseRead

	admissionPolicy  objectRead[admissionv1.ValidatingAdmissionPolicy]
	admissionBinding objectRead[admissionv1.ValidatingAdmissionPolicyBinding]

	config  *schedulerConfig // nil where there is none
	account string           // the scheduler's ServiceAccount, "" where it is not known
	rights  rightsRead

	metrics *samples // nil where nobody gave any

	snapshot *latency.Snapshot
}

type objectRead[T any] struct {
	object *T // nil where it does not exist
	err    error
}

type leaseRead = objectRead[coordinationv1.Lease]

// gather reads the cluster. Only what keeps every check from its work is an error.
func gather(ctx context.Context, o *cli.Options, namespace string, given bool) (*facts, error) {
	defer o.Working("examining the cluster")()
	f := &facts{ctx: ctx, namespace: namespace, crds: map[string]crdRead{}, leases: map[string]leaseRead{}}
	config, err := o.RESTConfig()
	if err != nil {
		return nil, err
	}
	raw, err := newRaw(config)
	if err != nil {
		return nil, err
	}
	if err := f.readVersion(ctx, raw, o.Now()); err != nil {
		return nil, err
	}
	core, _, err := o.Clients()
	if err != nil {
		return nil, err
	}
	var readErr error
	var mu sync.Mutex
	all(
		func() {
			f.Cluster, readErr = o.Read(ctx, nil, cli.Nodes, cli.Pods, cli.Services, cli.Namespaces, cli.Policies, cli.NodeLatencies)
		},
		func() {
			f.deployments = listed(ctx, core.AppsV1().Deployments("").List, "deployments.apps", "", itemsOfDeployments)
		},
		func() {
			f.daemonSets = listed(ctx, core.AppsV1().DaemonSets("").List, "daemonsets.apps", "", itemsOfDaemonSets)
		},
		func() {
			f.statefulSets = listed(ctx, core.AppsV1().StatefulSets("").List, "statefulsets.apps", "", itemsOfStatefulSets)
		},
		func() { f.jobs = listed(ctx, core.BatchV1().Jobs("").List, "jobs.batch", "", itemsOfJobs) },
		func() {
			f.cronJobs = listed(ctx, core.BatchV1().CronJobs("").List, "cronjobs.batch", "", itemsOfCronJobs)
		},
		func() { f.readEvents(ctx, core) },
		func() {
			f.admissionPolicy = got(ctx, core.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get,
				"fogprobe-own-node", "validatingadmissionpolicies.admissionregistration.k8s.io", "")
		},
		func() {
			f.admissionBinding = got(ctx, core.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Get,
				"fogprobe-own-node", "validatingadmissionpolicybindings.admissionregistration.k8s.io", "")
		},
		func() { f.readCRD(ctx, raw, client.LatencyPolicies, &mu) },
		func() { f.readCRD(ctx, raw, client.NodeLatencies, &mu) },
	)
	if readErr != nil {
		return nil, readErr
	}
	f.ReadAt = o.Now()
	f.findNamespace(given)
	f.readOfNamespace(ctx, core)
	f.snapshot = f.network(ctx)
	return f, nil
}

// readOfNamespace reads what is where the scheduler is, and what its configuration names.
func (f *facts) readOfNamespace(ctx context.Context, core kubernetes.Interface) {
	ns := f.namespace
	all(
		func() {
			f.configMaps = listed(ctx, core.CoreV1().ConfigMaps(ns).List, "configmaps", ns, func(l *v1.ConfigMapList) []v1.ConfigMap { return l.Items })
		},
		func() {
			f.accounts = listed(ctx, core.CoreV1().ServiceAccounts(ns).List, "serviceaccounts", ns,
				func(l *v1.ServiceAccountList) []v1.ServiceAccount { return l.Items })
		},
	)
	f.findConfig()
	f.findAccount()
	type named struct{ namespace, name string }
	leases := []named{f.lease(ns)}
	if stock := (named{"kube-system", "kube-scheduler"}); leases[0] != stock {
		leases = append(leases, stock)
	}
	var mu sync.Mutex
	tasks := []func(){
		func() { f.readRights(ctx, core) },
		func() { f.readSlices(ctx, core) },
	}
	for _, l := range leases {
		tasks = append(tasks, func() {
			read := got(ctx, core.CoordinationV1().Leases(l.namespace).Get, l.name, "leases.coordination.k8s.io", l.namespace)
			mu.Lock()
			defer mu.Unlock()
			f.leases[l.namespace+"/"+l.name] = read
		})
	}
	all(tasks...)
}

// network builds the scheduler's picture by the API server's clock.
func (f *facts) network(ctx context.Context) *latency.Snapshot {
	if f.Missing[cli.Nodes] != nil || f.Missing[cli.NodeLatencies] != nil {
		return nil
	}
	c := *f.Cluster
	c.ReadAt = f.now
	return c.Network(ctx)
}

func all(tasks ...func()) {
	var wg sync.WaitGroup
	for _, t := range tasks {
		wg.Go(t)
	}
	wg.Wait()
}

// fromCache lets the API server answer from memory.
var fromCache = metav1.ListOptions{ResourceVersion: "0"}

func listed[L, T any](ctx context.Context, ask func(context.Context, metav1.ListOptions) (L, error), resource, namespace string, items func(L) []T) fetched[T] {
	l, err := ask(ctx, fromCache)
	if err != nil {
		return fetched[T]{err: explain(err, "list", resource, namespace)}
	}
	return fetched[T]{items: items(l)}
}

func got[T any](ctx context.Context, ask func(context.Context, string, metav1.GetOptions) (*T, error), name, resource, namespace string) objectRead[T] {
	object, err := ask(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return objectRead[T]{}
	case err != nil:
		return objectRead[T]{err: explain(err, "get", resource, namespace)}
	}
	return objectRead[T]{object: object}
}

func explain(err error, verb, resource, namespace string) error {
	if apierrors.IsForbidden(err) {
		return &noPermission{Permission{Verb: verb, Resource: resource, Namespace: namespace}}
	}
	return fmt.Errorf("%s %s: %w", verb, resource, cli.Explain(err))
}

func itemsOfDeployments(l *appsv1.DeploymentList) []appsv1.Deployment    { return l.Items }
func itemsOfDaemonSets(l *appsv1.DaemonSetList) []appsv1.DaemonSet       { return l.Items }
func itemsOfStatefulSets(l *appsv1.StatefulSetList) []appsv1.StatefulSet { return l.Items }
func itemsOfJobs(l *batchv1.JobList) []batchv1.Job                       { return l.Items }
func itemsOfCronJobs(l *batchv1.CronJobList) []batchv1.CronJob           { return l.Items }

// maxEvents bounds how many failures are looked at: they are second evidence.
const maxEvents = 500

func (f *facts) readEvents(ctx context.Context, core kubernetes.Interface) {
	l, err := core.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "reason=FailedScheduling", Limit: maxEvents})
	if err != nil {
		f.events.err = explain(err, "list", "events", "")
		return
	}
	f.events.items = l.Items
}

// raw reads what has no typed client here, and sees the headers of an answer.
type raw struct {
	client *http.Client
	base   string
}

func newRaw(config *rest.Config) (*raw, error) {
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	u, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	return &raw{client: c, base: strings.TrimSuffix(u.String(), "/")}, nil
}

// get decodes the JSON under a path. An answer that is an error is a StatusError.
func (r *raw) get(ctx context.Context, path string, into any) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		reason := map[int]metav1.StatusReason{
			http.StatusForbidden: metav1.StatusReasonForbidden, http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusUnauthorized: metav1.StatusReasonUnauthorized,
		}[resp.StatusCode]
		return resp.Header, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: int32(resp.StatusCode), Reason: reason, Message: resp.Status,
		}}
	}
	return resp.Header, json.Unmarshal(body, into)
}

// readVersion asks for the version, and for the time. An API server that cannot be reached is an error.
func (f *facts) readVersion(ctx context.Context, r *raw, local time.Time) error {
	f.now = local
	var info version.Info
	header, err := r.get(ctx, "/version", &info)
	if header != nil {
		// The header has whole seconds.
		if at, err := http.ParseTime(header.Get("Date")); err == nil && local.Sub(at).Abs() > 2*time.Second {
			f.skew, f.now = local.Sub(at), at
		}
	}
	var status *apierrors.StatusError
	switch {
	case errors.As(err, &status) && !apierrors.IsUnauthorized(err):
		f.versionErr = explain(err, "get", "/version", "")
	case err != nil:
		return cli.Explain(err)
	}
	f.serverVersion = info.GitVersion
	return nil
}

// schedulers returns the scheduler's Deployments.
func (f *facts) schedulers() (out []*appsv1.Deployment) {
	for i := range f.deployments.items {
		if d := &f.deployments.items[i]; d.Labels[appLabel] == schedulerApp && d.Namespace == f.namespace {
			out = append(out, d)
		}
	}
	return out
}

// podsOf returns the pods of fogsched or fogprobe in its namespace.
func (f *facts) podsOf(app string) (out []*v1.Pod) {
	for _, p := range f.Pods {
		if p.Namespace == f.namespace && p.Labels[appLabel] == app {
			out = append(out, p)
		}
	}
	return out
}

// findNamespace goes to where the scheduler is, where that is but one place and the user named none.
func (f *facts) findNamespace(given bool) {
	if homes := f.homes(); !given && len(homes) == 1 {
		f.namespace = homes[0]
	}
}

// homes are the namespaces that have a fogsched.
func (f *facts) homes() (out []string) {
	for i := range f.deployments.items {
		if d := &f.deployments.items[i]; d.Labels[appLabel] == schedulerApp {
			out = append(out, d.Namespace)
		}
	}
	for _, p := range f.Pods {
		if p.Labels[appLabel] == schedulerApp {
			out = append(out, p.Namespace)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (f *facts) findAccount() {
	for _, d := range f.schedulers() {
		f.account = cmp.Or(d.Spec.Template.Spec.ServiceAccountName, "default")
		return
	}
	for _, p := range f.podsOf(schedulerApp) {
		f.account = p.Spec.ServiceAccountName
		return
	}
	for i := range f.accounts.items {
		if f.accounts.items[i].Name == schedulerApp {
			f.account = schedulerApp
		}
	}
}

// readSlices reads where the Services are that the scheduler asks for metrics.
func (f *facts) readSlices(ctx context.Context, core kubernetes.Interface) {
	for _, p := range f.prometheuses() {
		svc, ok := p.service()
		if !ok {
			continue
		}
		l, err := core.DiscoveryV1().EndpointSlices(svc.namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + svc.name})
		if err != nil {
			f.slices.err = explain(err, "list", "endpointslices.discovery.k8s.io", svc.namespace)
			return
		}
		f.slices.items = append(f.slices.items, l.Items...)
	}
}

// helm returns the release that installed the scheduler; "" where Helm did not.
func (f *facts) helm() string {
	for _, d := range f.schedulers() {
		if d.Labels["app.kubernetes.io/managed-by"] == "Helm" {
			return d.Annotations["meta.helm.sh/release-name"]
		}
	}
	return ""
}

// install is how to bring back what belongs to the installation.
func (f *facts) install() string {
	if release := f.helm(); release != "" {
		return fmt.Sprintf("helm upgrade %s charts/fogsched -n %s --reuse-values", release, f.namespace)
	}
	if f.replacesDefault() {
		return "kubectl apply --server-side -k manifests/overlays/replace-default"
	}
	return "kubectl apply --server-side -k " + overlay
}

// restart is how the scheduler takes up a changed configuration.
func (f *facts) restart() string {
	return fmt.Sprintf("kubectl -n %s rollout restart deployment %s", f.namespace, f.deploymentName())
}

func (f *facts) deploymentName() string {
	for _, d := range f.schedulers() {
		return d.Name
	}
	return schedulerApp
}

// live are the pods that are not over.
func live(p *v1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed
}

// some names the first few of many.
func some(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// count writes a number and its noun: "1 node", "2 nodes".
func count(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "y"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(noun, "y"))
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// age writes a duration as people do: "12s", "5m", "3h", "2d".
func age(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
