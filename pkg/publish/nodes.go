// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// nodeClient reads Nodes. The client of client-go knows all API groups, for which a prober on every node would pay with
// some megabytes of memory.
type nodeClient struct {
	*gentype.ClientWithList[*corev1.Node, *corev1.NodeList]
}

func newNodeClient(config *rest.Config) (nodeClient, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nodeClient{}, fmt.Errorf("registering %s: %w", corev1.SchemeGroupVersion, err)
	}
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	c := rest.CopyConfig(config)
	c.GroupVersion = &corev1.SchemeGroupVersion
	c.APIPath = "/api"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if c.UserAgent == "" {
		c.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	r, err := rest.RESTClientFor(c)
	if err != nil {
		return nodeClient{}, fmt.Errorf("making the client of Nodes: %w", err)
	}
	return nodeClient{gentype.NewClientWithList("nodes", r, runtime.NewParameterCodec(scheme), "",
		func() *corev1.Node { return &corev1.Node{} },
		func() *corev1.NodeList { return &corev1.NodeList{} })}, nil
}

func (c nodeClient) uid(ctx context.Context, name string) (types.UID, error) {
	node, err := c.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return node.UID, nil
}

func (c nodeClient) listWatch() cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return c.List(ctx, opts)
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, opts)
		},
	}
}
