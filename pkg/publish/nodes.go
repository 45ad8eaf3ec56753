// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// kubeClient reads the objects of Kubernetes' own that a prober needs. The client of client-go knows all API groups, for which a
// prober on every node would pay with some megabytes of memory.
type kubeClient struct {
	core, discovery rest.Interface
	params          runtime.ParameterCodec
}

func newKubeClient(config *rest.Config) (*kubeClient, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("registering the kinds of Kubernetes: %w", err)
		}
	}
	codecs := serializer.NewCodecFactory(scheme)
	open := func(path string, gv schema.GroupVersion) (rest.Interface, error) {
		c := rest.CopyConfig(config)
		c.GroupVersion, c.APIPath = &gv, path
		c.NegotiatedSerializer = codecs.WithoutConversion()
		// A third of the octets of JSON, and a tenth of the garbage.
		c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
		if c.UserAgent == "" {
			c.UserAgent = rest.DefaultKubernetesUserAgent()
		}
		r, err := rest.RESTClientFor(c)
		if err != nil {
			return nil, fmt.Errorf("making the client of %s: %w", gv, err)
		}
		return r, nil
	}
	k := &kubeClient{params: runtime.NewParameterCodec(scheme)}
	var err error
	if k.core, err = open("/api", corev1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	if k.discovery, err = open("/apis", discoveryv1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	return k, nil
}

// nodeUID returns the UID of a Node.
func (k *kubeClient) nodeUID(ctx context.Context, name string) (types.UID, error) {
	var node corev1.Node
	if err := k.core.Get().Resource("nodes").Name(name).Do(ctx).Into(&node); err != nil {
		return "", err
	}
	return node.UID, nil
}

// nodes feeds an informer with all Nodes.
func (k *kubeClient) nodes() cache.ListerWatcher {
	return k.listWatch(k.core, "", "nodes", func() runtime.Object { return &corev1.NodeList{} }, func(*metav1.ListOptions) {})
}

// endpointSlices feeds an informer with the EndpointSlices of a Service.
func (k *kubeClient) endpointSlices(service types.NamespacedName) cache.ListerWatcher {
	selector := labels.Set{discoveryv1.LabelServiceName: service.Name}.String()
	return k.listWatch(k.discovery, service.Namespace, "endpointslices", func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		func(o *metav1.ListOptions) { o.LabelSelector = selector })
}

// configMap feeds an informer with one ConfigMap.
func (k *kubeClient) configMap(object types.NamespacedName) cache.ListerWatcher {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, object.Name).String()
	return k.listWatch(k.core, object.Namespace, "configmaps", func() runtime.Object { return &corev1.ConfigMapList{} },
		func(o *metav1.ListOptions) { o.FieldSelector = selector })
}

func (k *kubeClient) listWatch(c rest.Interface, namespace, resource string, list func() runtime.Object, restrict func(*metav1.ListOptions)) cache.ListerWatcher {
	request := func(opts metav1.ListOptions) *rest.Request {
		restrict(&opts)
		return c.Get().NamespaceIfScoped(namespace, namespace != "").Resource(resource).VersionedParams(&opts, k.params)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			into := list()
			err := request(opts).Do(ctx).Into(into)
			return into, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.Watch = true
			return request(opts).Watch(ctx)
		},
	}
}
