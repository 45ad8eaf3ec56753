// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/source/nodelatency"
	"github.com/fogsched/fogsched/pkg/source/zones"
	"github.com/fogsched/fogsched/pkg/store"
)

// Kind is a kind of objects, by its resource's name in RBAC.
type Kind string

// The kinds that a Cluster can hold.
const (
	Nodes         Kind = "nodes"
	Pods          Kind = "pods"
	Services      Kind = "services"
	Namespaces    Kind = "namespaces"
	Policies      Kind = client.LatencyPolicies
	NodeLatencies Kind = client.NodeLatencies

	PersistentVolumes      Kind = "persistentvolumes"
	PersistentVolumeClaims Kind = "persistentvolumeclaims"
	StorageClasses         Kind = "storageclasses"
	CSINodes               Kind = "csinodes"
	ReplicaSets            Kind = "replicasets"
	PodDisruptionBudgets   Kind = "poddisruptionbudgets"
)

// group is the API group of each kind that is not of the core.
var group = map[Kind]string{
	Policies: v1alpha1.GroupVersion.Group, NodeLatencies: v1alpha1.GroupVersion.Group,
	StorageClasses: "storage.k8s.io", CSINodes: "storage.k8s.io", ReplicaSets: "apps", PodDisruptionBudgets: "policy",
}

// Cluster is what was read of a cluster.
type Cluster struct {
	ReadAt time.Time

	Nodes         []*v1.Node
	Pods          []*v1.Pod
	Services      []*v1.Service
	Namespaces    []*v1.Namespace
	Policies      []*v1alpha1.LatencyPolicy
	NodeLatencies []*v1alpha1.NodeLatency

	PersistentVolumes      []*v1.PersistentVolume
	PersistentVolumeClaims []*v1.PersistentVolumeClaim
	StorageClasses         []*storagev1.StorageClass
	CSINodes               []*storagev1.CSINode
	ReplicaSets            []*appsv1.ReplicaSet
	PodDisruptionBudgets   []*policyv1.PodDisruptionBudget

	// Missing has the optional kinds that could not be read, and why.
	Missing map[Kind]error
}

// RESTConfig returns the configuration of a client that the API server's own fairness holds back, and nothing else.
func (o *Options) RESTConfig() (*rest.Config, error) {
	c, err := o.Config.ToRESTConfig()
	if err != nil {
		return nil, Explain(err)
	}
	c.QPS, c.Burst = 200, 400
	c.UserAgent = "kubectl-fog"
	return c, nil
}

// Clients returns a client of the cluster's own objects, which come as protobuf, and one of ours.
func (o *Options) Clients() (kubernetes.Interface, *client.Client, error) {
	config, err := o.RESTConfig()
	if err != nil {
		return nil, nil, err
	}
	ours, err := client.New(config)
	if err != nil {
		return nil, nil, err
	}
	c := rest.CopyConfig(config)
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.ContentType = runtime.ContentTypeProtobuf
	core, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, nil, err
	}
	return core, ours, nil
}

// Read lists what a command needs, all kinds at once. A kind that is required and cannot be read is an error that names the missing
// permission or CRD; an optional one is noted in Missing.
func (o *Options) Read(ctx context.Context, required []Kind, optional ...Kind) (*Cluster, error) {
	return o.ReadIn(ctx, Scope{}, required, optional...)
}

// Scope is a part of a cluster.
type Scope struct {
	// Namespace is the only one of which LatencyPolicy objects are read; "" is all.
	Namespace string
	// Fields are field selectors; nil is none.
	Fields map[Kind]string
}

// of returns the namespace of which a kind is read.
func (s Scope) of(k Kind) string {
	if k == Policies {
		return s.Namespace
	}
	return ""
}

// ReadIn is Read of a part of the cluster.
func (o *Options) ReadIn(ctx context.Context, in Scope, required []Kind, optional ...Kind) (*Cluster, error) {
	core, ours, err := o.Clients()
	if err != nil {
		return nil, err
	}
	defer o.Working("reading the cluster")()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &Cluster{ReadAt: o.Now(), Missing: map[Kind]error{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := map[Kind]error{}
	for _, k := range slices.Concat(required, optional) {
		wg.Go(func() {
			if err := c.read(ctx, k, in, core, ours); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs[k] = cannotList(k, in, err)
			}
		})
	}
	wg.Wait()
	for _, k := range required { // the first in the command's own order, so that the error is the same each time
		if err := errs[k]; err != nil {
			return nil, err
		}
	}
	for _, k := range optional {
		if err := errs[k]; err != nil {
			c.Missing[k] = err
		}
	}
	return c, nil
}

func (c *Cluster) read(ctx context.Context, k Kind, in Scope, core kubernetes.Interface, ours *client.Client) error {
	// The API server may answer from memory: a second of age is no matter, and a large cluster's etcd is spared.
	from := metav1.ListOptions{ResourceVersion: "0", FieldSelector: in.Fields[k]}
	switch k {
	case Nodes:
		return list(ctx, from, &c.Nodes, core.CoreV1().Nodes().List, func(l *v1.NodeList) []v1.Node { return l.Items })
	case Pods:
		return list(ctx, from, &c.Pods, core.CoreV1().Pods("").List, func(l *v1.PodList) []v1.Pod { return l.Items })
	case Services:
		return list(ctx, from, &c.Services, core.CoreV1().Services("").List, func(l *v1.ServiceList) []v1.Service { return l.Items })
	case Namespaces:
		return list(ctx, from, &c.Namespaces, core.CoreV1().Namespaces().List, func(l *v1.NamespaceList) []v1.Namespace { return l.Items })
	case Policies:
		return list(ctx, from, &c.Policies, ours.LatencyPolicies(in.Namespace).List, func(l *v1alpha1.LatencyPolicyList) []v1alpha1.LatencyPolicy { return l.Items })
	case NodeLatencies: // by far the most there is
		all, err := ours.StreamNodeLatencies(ctx, from)
		c.NodeLatencies = all
		return err
	case PersistentVolumes:
		return list(ctx, from, &c.PersistentVolumes, core.CoreV1().PersistentVolumes().List, func(l *v1.PersistentVolumeList) []v1.PersistentVolume { return l.Items })
	case PersistentVolumeClaims:
		return list(ctx, from, &c.PersistentVolumeClaims, core.CoreV1().PersistentVolumeClaims("").List,
			func(l *v1.PersistentVolumeClaimList) []v1.PersistentVolumeClaim { return l.Items })
	case StorageClasses:
		return list(ctx, from, &c.StorageClasses, core.StorageV1().StorageClasses().List, func(l *storagev1.StorageClassList) []storagev1.StorageClass { return l.Items })
	case CSINodes:
		return list(ctx, from, &c.CSINodes, core.StorageV1().CSINodes().List, func(l *storagev1.CSINodeList) []storagev1.CSINode { return l.Items })
	case ReplicaSets:
		return list(ctx, from, &c.ReplicaSets, core.AppsV1().ReplicaSets("").List, func(l *appsv1.ReplicaSetList) []appsv1.ReplicaSet { return l.Items })
	case PodDisruptionBudgets:
		return list(ctx, from, &c.PodDisruptionBudgets, core.PolicyV1().PodDisruptionBudgets("").List,
			func(l *policyv1.PodDisruptionBudgetList) []policyv1.PodDisruptionBudget { return l.Items })
	}
	return fmt.Errorf("no kind %s", k)
}

func list[L runtime.Object, T any](ctx context.Context, from metav1.ListOptions, to *[]*T,
	ask func(context.Context, metav1.ListOptions) (L, error), items func(L) []T,
) error {
	l, err := ask(ctx, from)
	if err != nil {
		return err
	}
	all := items(l)
	out := make([]*T, len(all))
	for i := range all {
		out[i] = &all[i]
	}
	*to = out
	return nil
}

// ErrNoCRDs is the error of a cluster in which the CRDs of fogsched are not installed.
var ErrNoCRDs = errors.New("the CRDs of fogsched.dev are not installed in this cluster: install fogsched (kubectl apply --server-side -k " +
	"manifests/overlays/second-scheduler), or ask `kubectl fog doctor`")

// ErrUnauthorized is the error of credentials that the API server does not know.
var ErrUnauthorized = errors.New("the API server does not know these credentials: log in again, or choose another --context")

// PermissionError says which permission is missing.
type PermissionError struct {
	Verb      string
	Resource  string // with its group, as RBAC and `kubectl auth can-i` write it
	Namespace string // where it is missing; "" is all
}

func (e *PermissionError) Error() string {
	where, flag := "in all namespaces", "-A"
	if e.Namespace != "" {
		where, flag = "in the namespace "+e.Namespace, "-n "+e.Namespace
	}
	return fmt.Sprintf("no permission to %s %s: ask your administrator for the verb %q on %q %s (check: kubectl auth can-i %s %s %s)",
		e.Verb, e.Resource, e.Verb, e.Resource, where, e.Verb, e.Resource, flag)
}

// Resource returns a kind's name with its group, as `kubectl auth can-i` takes it.
func (k Kind) Resource() string {
	if g := group[k]; g != "" {
		return string(k) + "." + g
	}
	return string(k)
}

func cannotList(k Kind, in Scope, err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return &PermissionError{Verb: "list", Resource: k.Resource(), Namespace: in.of(k)}
	case apierrors.IsNotFound(err) && (k == Policies || k == NodeLatencies):
		return ErrNoCRDs
	}
	return fmt.Errorf("listing %s: %w", k.Resource(), Explain(err))
}

// Explain turns an error of the way to the API server into one that says what to do.
func Explain(err error) error {
	var dns *net.DNSError
	var u *url.Error
	switch {
	case clientcmd.IsEmptyConfig(err):
		return errors.New("no cluster is configured: set --kubeconfig, KUBECONFIG or --context (kubectl config get-contexts lists them)")
	case apierrors.IsUnauthorized(err):
		return ErrUnauthorized
	case errors.As(err, &dns), errors.As(err, &u) && strings.Contains(err.Error(), "connect"):
		return fmt.Errorf("the API server cannot be reached: %w; check --context and the network", err)
	}
	return err
}

var quieten sync.Once

// quiet keeps what libraries log off the user's terminal: what matters of it comes as an error.
func quiet() {
	quieten.Do(func() { klog.SetLogger(klog.Logger{}) })
}

// Network builds the snapshot that the scheduler would have of the nodes and of what the probers published: the same checks, and the same
// judgement of who is believed.
func (c *Cluster) Network(ctx context.Context) *latency.Snapshot {
	s, _ := c.Judged(ctx)
	return s
}

// Judged is Network, and what of it is not believed, by the names of the nodes.
func (c *Cluster) Judged(ctx context.Context) (*latency.Snapshot, map[string]store.Doubt) {
	s := store.New(store.DefaultMaxAge, nil)
	for _, n := range c.Nodes {
		s.SetNode(n.Name, LocationOf(n), n.Annotations[v1alpha1.PositionAnnotation])
	}
	for _, nl := range c.NodeLatencies {
		s.Take("nodelatency", nl.Name, nodelatency.ReportOf(nl), c.ReadAt)
	}
	s.Build(klog.NewContext(ctx, klog.Logger{}), c.ReadAt)
	return s.Snapshot(), s.Doubts()
}

// LocationOf returns a node's zone and region.
func LocationOf(n *v1.Node) zones.Location {
	return zones.Location{Region: n.Labels[v1.LabelTopologyRegion], Zone: n.Labels[v1.LabelTopologyZone]}
}
