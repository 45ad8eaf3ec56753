// SPDX-License-Identifier: Apache-2.0

//go:build c2m

package c2m

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	appsv1client "k8s.io/client-go/kubernetes/typed/apps/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	corev1listers "k8s.io/client-go/listers/core/v1"

	appsv1 "k8s.io/api/apps/v1"
)

// api stands where an API server would: it lists what there is from the beginning, takes bindings, and sends pods to those who watch. Pods are
// kept by the watcher's own store alone. What is not here goes to an empty fake.
type api struct {
	kubernetes.Interface
	nodes       *v1.NodeList
	namespaces  *v1.NamespaceList
	services    *v1.ServiceList
	replicaSets *appsv1.ReplicaSetList

	// events are those of pods; there is one watcher.
	events chan watch.Event
	// pods is the informer's store.
	pods corev1listers.PodLister
	// revision is the newest resourceVersion.
	revision atomic.Int64
	// bound is called for each binding that was accepted, failed for each pod whose status says that it could not be placed.
	bound  func(pod *v1.Pod)
	failed func(namespace, name, patch string)
}

// scheduledStatus is what an API server writes into the status with a binding.
var scheduledStatus = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now())}}

// IsWatchListSemanticsUnSupported has reflectors list first and watch then.
func (*api) IsWatchListSemanticsUnSupported() bool { return true }

func (a *api) CoreV1() corev1client.CoreV1Interface { return core{a.Interface.CoreV1(), a} }

func (a *api) AppsV1() appsv1client.AppsV1Interface { return apps{a.Interface.AppsV1(), a} }

// create creates a pod. It waits for the watcher where that is behind.
func (a *api) create(ctx context.Context, pod *v1.Pod) {
	select {
	case a.events <- watch.Event{Type: watch.Added, Object: pod}:
	case <-ctx.Done():
	}
}

type core struct {
	corev1client.CoreV1Interface
	api *api
}

func (c core) Pods(namespace string) corev1client.PodInterface {
	return podClient{c.CoreV1Interface.Pods(namespace), namespace, c.api}
}

func (c core) Nodes() corev1client.NodeInterface { return nodeClient{c.CoreV1Interface.Nodes(), c.api} }

func (c core) Namespaces() corev1client.NamespaceInterface {
	return namespaceClient{c.CoreV1Interface.Namespaces(), c.api}
}

func (c core) Services(namespace string) corev1client.ServiceInterface {
	return serviceClient{c.CoreV1Interface.Services(namespace), c.api}
}

type podClient struct {
	corev1client.PodInterface
	namespace string
	api       *api
}

func (podClient) List(context.Context, metav1.ListOptions) (*v1.PodList, error) {
	return &v1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
}

func (c podClient) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return newStream(c.api.events), nil
}

// Bind binds a pod as an API server does: once, with the binding's annotations.
func (c podClient) Bind(ctx context.Context, b *v1.Binding, _ metav1.CreateOptions) error {
	was, err := c.api.pods.Pods(c.namespace).Get(b.Name)
	if err != nil {
		return err
	}
	if was.Spec.NodeName != "" || was.UID != b.UID {
		return apierrors.NewConflict(v1.Resource("pods/binding"), b.Name, fmt.Errorf("pod is on node %q already, or another", was.Spec.NodeName))
	}
	pod := *was
	pod.Spec.NodeName = b.Target.Name
	pod.ResourceVersion = strconv.FormatInt(c.api.revision.Add(1), 10)
	pod.Status.Conditions = scheduledStatus
	if len(b.Annotations) > 0 {
		pod.Annotations = make(map[string]string, len(was.Annotations)+len(b.Annotations))
		maps.Copy(pod.Annotations, was.Annotations)
		maps.Copy(pod.Annotations, b.Annotations)
	}
	select {
	case c.api.events <- watch.Event{Type: watch.Modified, Object: &pod}:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.api.bound(&pod)
	return nil
}

// Patch is how the scheduler says that it could not place a pod.
func (c podClient) Patch(_ context.Context, name string, _ types.PatchType, data []byte, _ metav1.PatchOptions, _ ...string) (*v1.Pod, error) {
	c.api.failed(c.namespace, name, string(data))
	return c.api.pods.Pods(c.namespace).Get(name)
}

type nodeClient struct {
	corev1client.NodeInterface
	api *api
}

func (c nodeClient) List(context.Context, metav1.ListOptions) (*v1.NodeList, error) {
	return c.api.nodes, nil
}

func (nodeClient) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return newStream(nil), nil
}

type namespaceClient struct {
	corev1client.NamespaceInterface
	api *api
}

func (c namespaceClient) List(context.Context, metav1.ListOptions) (*v1.NamespaceList, error) {
	return c.api.namespaces, nil
}

func (namespaceClient) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return newStream(nil), nil
}

type serviceClient struct {
	corev1client.ServiceInterface
	api *api
}

func (c serviceClient) List(context.Context, metav1.ListOptions) (*v1.ServiceList, error) {
	return c.api.services, nil
}

func (serviceClient) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return newStream(nil), nil
}

type apps struct {
	appsv1client.AppsV1Interface
	api *api
}

func (a apps) ReplicaSets(namespace string) appsv1client.ReplicaSetInterface {
	return replicaSetClient{a.AppsV1Interface.ReplicaSets(namespace), a.api}
}

type replicaSetClient struct {
	appsv1client.ReplicaSetInterface
	api *api
}

func (c replicaSetClient) List(context.Context, metav1.ListOptions) (*appsv1.ReplicaSetList, error) {
	return c.api.replicaSets, nil
}

func (replicaSetClient) Watch(context.Context, metav1.ListOptions) (watch.Interface, error) {
	return newStream(nil), nil
}

// stream is a watch that never ends by itself; without a channel nothing ever happens in it.
type stream struct{ events chan watch.Event }

func newStream(events chan watch.Event) watch.Interface { return stream{events} }

func (s stream) ResultChan() <-chan watch.Event { return s.events }

func (stream) Stop() {}
