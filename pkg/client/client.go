// SPDX-License-Identifier: Apache-2.0

// Package client is the typed client of the API group fogsched.dev.
package client

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

// Resource names of the API group, as in a URL or an RBAC rule.
const (
	LatencyPolicies = "latencypolicies"
	NodeLatencies   = "nodelatencies"
)

type (
	// Policies reads and writes LatencyPolicy objects of one namespace, or of all when it was made for "".
	Policies = gentype.ClientWithList[*v1alpha1.LatencyPolicy, *v1alpha1.LatencyPolicyList]
	// NodeMeasurements reads and writes NodeLatency objects.
	NodeMeasurements = gentype.ClientWithList[*v1alpha1.NodeLatency, *v1alpha1.NodeLatencyList]
)

// Client makes typed clients. It is safe for concurrent use.
type Client struct {
	rest   rest.Interface
	params runtime.ParameterCodec
}

// New returns a client for the API server of config, which is not modified.
func New(config *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering %s: %w", v1alpha1.GroupVersion, err)
	}
	c := rest.CopyConfig(config)
	c.GroupVersion = &v1alpha1.GroupVersion
	c.APIPath = "/apis"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	// Custom resources are served as JSON (and CBOR); the protobuf that kube-scheduler asks for would be refused.
	c.ContentType = runtime.ContentTypeJSON
	c.AcceptContentTypes = runtime.ContentTypeJSON
	if c.UserAgent == "" {
		c.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	r, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making the client of %s: %w", v1alpha1.GroupVersion, err)
	}
	return &Client{rest: r, params: runtime.NewParameterCodec(scheme)}, nil
}

// LatencyPolicies returns the policies of a namespace.
func (c *Client) LatencyPolicies(namespace string) *Policies {
	return gentype.NewClientWithList(LatencyPolicies, c.rest, c.params, namespace,
		func() *v1alpha1.LatencyPolicy { return &v1alpha1.LatencyPolicy{} },
		func() *v1alpha1.LatencyPolicyList { return &v1alpha1.LatencyPolicyList{} })
}

// NodeLatencies returns what the nodes measured.
func (c *Client) NodeLatencies() *NodeMeasurements {
	return gentype.NewClientWithList(NodeLatencies, c.rest, c.params, "",
		func() *v1alpha1.NodeLatency { return &v1alpha1.NodeLatency{} },
		func() *v1alpha1.NodeLatencyList { return &v1alpha1.NodeLatencyList{} })
}

// ListWatchPolicies feeds an informer with the policies of every namespace.
func (c *Client) ListWatchPolicies() cache.ListerWatcher {
	return listWatch(c.LatencyPolicies(metav1.NamespaceAll))
}

// ListWatchNodeLatencies feeds an informer with what the nodes measured.
func (c *Client) ListWatchNodeLatencies() cache.ListerWatcher {
	return listWatch(c.NodeLatencies())
}

type listWatcher[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

func listWatch[L runtime.Object](c listWatcher[L]) cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return c.List(ctx, opts)
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, opts)
		},
	}
}
