// SPDX-License-Identifier: Apache-2.0

//go:build c2m

package c2m

import (
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

const (
	applications = 400
	// An application is a server, which its users call from some nodes, and so many workloads that call the server.
	dependants = 9
	// serverEvery: one pod in so many is a server's, beside the first three.
	serverEvery = 100
	// usersPerApp nodes are where the users of an application are: in its own region, and every second application's in another one as well.
	usersPerApp = 8
	schedulerID = "fogsched"
)

// application is a namespace of its own with a Service and ten Deployments.
type application struct {
	number    int
	namespace string
	users     []int // nodes
	// nearest is whether callers take the nearest server; else they take any.
	nearest   bool
	workloads []*workload // the server is the first

	mu sync.Mutex
	// servers counts the server's pods by node, and dependent those of the others.
	servers, dependent map[int]int
}

// workload is what the pods of a Deployment have in common. They share it: two million pods would not fit into memory otherwise, and neither
// informers nor the scheduler write to what they are given.
type workload struct {
	name, hash  string
	labels      map[string]string
	annotations map[string]string
	owners      []metav1.OwnerReference
	spec        v1.PodSpec
	created     metav1.Time
}

// newApplications makes the applications for a world.
func newApplications(w *world) []*application {
	list := make([]*application, applications)
	for a := range list {
		app := &application{
			number: a, namespace: fmt.Sprintf("app-%03d", a), nearest: a%2 == 0, servers: map[int]int{}, dependent: map[int]int{},
		}
		homes := []int{a % len(regions)}
		if a/len(regions)%2 == 1 {
			homes = append(homes, int(draw(saltApp, a)%uint64(len(regions))))
		}
		for u := range usersPerApp {
			n := len(w.nodes) / len(regions)
			app.users = append(app.users, homes[u%len(homes)]*len(w.nodes)/len(regions)+int(draw(saltApp, a, u)%uint64(n)))
		}
		app.add("server", fmt.Sprintf(`{"clients":[{"nodes":{"matchLabels":{%q:"user"}}}]}`, app.userLabel()))
		for d := range dependants {
			app.add(fmt.Sprintf("caller-%d", d), `{"dependencies":[{"service":"server"}]}`)
		}
		list[a] = app
	}
	return list
}

// userLabel is the label of the nodes where the application's users are.
func (a *application) userLabel() string { return "c2m.fogsched.dev/" + a.namespace }

func (a *application) add(name, intent string) {
	hash := strconv.FormatUint(draw(saltApp, a.number, len(a.workloads))&(1<<40-1), 36)
	grace := int64(30)
	a.workloads = append(a.workloads, &workload{
		name: name, hash: hash, created: metav1.NewTime(time.Now()),
		labels:      map[string]string{"app": name, "pod-template-hash": hash},
		annotations: map[string]string{v1alpha1.LatencyAnnotation: intent},
		owners: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name + "-" + hash, UID: types.UID(a.namespace + "/" + name),
			Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
		}},
		// What an API server's defaults and admission make of a template.
		spec: v1.PodSpec{
			SchedulerName: schedulerID, RestartPolicy: v1.RestartPolicyAlways, DNSPolicy: v1.DNSClusterFirst, ServiceAccountName: "default",
			TerminationGracePeriodSeconds: &grace, EnableServiceLinks: ptr.To(true), Priority: ptr.To(int32(0)),
			PreemptionPolicy: ptr.To(v1.PreemptLowerPriority), SecurityContext: &v1.PodSecurityContext{},
			Tolerations: []v1.Toleration{
				{Key: v1.TaintNodeNotReady, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(300))},
				{Key: v1.TaintNodeUnreachable, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(300))},
			},
			Volumes: []v1.Volume{{Name: "kube-api-access", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{
				Sources: []v1.VolumeProjection{{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}}},
			}}}},
			Containers: []v1.Container{{
				Name: "main", Image: "example.com/" + name + ":1", ImagePullPolicy: v1.PullIfNotPresent,
				Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
					v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("128Mi"),
				}},
				VolumeMounts: []v1.VolumeMount{{Name: "kube-api-access", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
			}},
		},
	})
}

// pod returns the i-th of all pods. They come from all applications in turn, as from controllers that all work at once; an application's own
// begin with three of its server.
func pod(list []*application, i int) *v1.Pod {
	round := i / len(list)
	app := list[(i+int(draw(saltPod, round)%uint64(len(list))))%len(list)]
	w := app.workloads[1+int(draw(saltPod, app.number, round)%dependants)]
	if round < 3 || round%serverEvery == 0 {
		w = app.workloads[0]
	}
	name := w.name + "-" + w.hash + "-" + strconv.FormatInt(int64(i)+36*36*36*36, 36)
	id := draw(saltPod, i, -1)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: app.namespace, Name: name, GenerateName: w.owners[0].Name + "-", CreationTimestamp: w.created,
			UID:             types.UID(fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", uint32(id>>32), uint16(id>>16), id&0xfff, i&0xfff, i)),
			ResourceVersion: strconv.Itoa(i + 2), Labels: w.labels, Annotations: w.annotations, OwnerReferences: w.owners,
		},
		Spec:   w.spec,
		Status: v1.PodStatus{Phase: v1.PodPending, QOSClass: v1.PodQOSBurstable},
	}
}

// namespaceList, serviceList and replicaSetList are what belongs to the applications, as an API server would list it.
func namespaceList(list []*application) *v1.NamespaceList {
	out := &v1.NamespaceList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
	for _, a := range list {
		out.Items = append(out.Items, v1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: a.namespace, ResourceVersion: "1", Labels: map[string]string{v1.LabelMetadataName: a.namespace},
		}})
	}
	return out
}

func serviceList(list []*application) *v1.ServiceList {
	out := &v1.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
	for _, a := range list {
		svc := v1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: "server", ResourceVersion: "1"},
			Spec:       v1.ServiceSpec{Selector: map[string]string{"app": "server"}},
		}
		if a.nearest {
			svc.Spec.TrafficDistribution = ptr.To(v1.ServiceTrafficDistributionPreferClose)
		}
		out.Items = append(out.Items, svc)
	}
	return out
}

func replicaSetList(list []*application) *appsv1.ReplicaSetList {
	out := &appsv1.ReplicaSetList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
	for _, a := range list {
		for _, w := range a.workloads {
			out.Items = append(out.Items, appsv1.ReplicaSet{
				ObjectMeta: metav1.ObjectMeta{Namespace: a.namespace, Name: w.owners[0].Name, UID: w.owners[0].UID, ResourceVersion: "1", Labels: w.labels},
				Spec:       appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: w.labels}},
			})
		}
	}
	return out
}

// placed takes up where a pod is.
func (a *application) placed(server bool, node int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if server {
		a.servers[node]++
	} else {
		a.dependent[node]++
	}
}

// callers is the true round trip that a caller on each of these nodes has to the application's server as it is now, in milliseconds; ok is
// false where there is no server yet.
func (a *application) callers(w *world, nodes ...int) (rtts []float64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.servers) == 0 {
		return nil, false
	}
	for _, n := range nodes {
		rtts = append(rtts, a.expected(w, n))
	}
	return rtts, true
}

// expected is the round trip of a caller on a node: to the nearest server, or on average.
func (a *application) expected(w *world, n int) float64 {
	least, sum, count := math.Inf(1), 0.0, 0
	for s, c := range a.servers {
		rtt := w.rtt(n, s)
		least = min(least, rtt)
		sum += float64(c) * rtt
		count += c
	}
	if a.nearest {
		return least
	}
	return sum / float64(count)
}
