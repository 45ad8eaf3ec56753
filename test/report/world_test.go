// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/client"
	"github.com/fogsched/fogsched/test/cluster"
)

// place is a node on a map whose unit is a millisecond of round trip.
type place struct {
	name, site   string
	x, y, access float64
}

func (p place) rtt(o place) time.Duration {
	return time.Duration((math.Hypot(p.x-o.x, p.y-o.y) + p.access + o.access) * float64(time.Millisecond)).Round(10 * time.Microsecond)
}

// reference is a gateway and 24 edge nodes over four sites; what looks random is computed from the number of the node.
func reference() []place {
	list := []place{{"gateway", "gateway", 0, 0, 0.3}}
	for _, s := range []struct {
		name string
		x, y float64
	}{{"north", 4, 11}, {"east", 16, 2}, {"south", -3, -14}, {"west", -22, 5}} {
		for i := range 6 {
			k := float64(len(list))
			list = append(list, place{fmt.Sprintf("%s-%d", s.name, i+1), s.name, s.x + 1.5*math.Sin(3*k), s.y + 1.5*math.Cos(5*k), 0.5 + 0.6*(1+math.Sin(7*k))})
		}
	}
	return list
}

// country is so many nodes more at twelve sites.
func country(nodes int) (list []place) {
	for i := range nodes {
		s, k := i%12, float64(i)
		x, y := 60*math.Cos(float64(s)*2.4)*math.Sqrt(float64(s+1)/12), 40*math.Sin(float64(s)*2.4)*math.Sqrt(float64(s+1)/12)
		list = append(list, place{fmt.Sprintf("edge-%03d", i), fmt.Sprintf("region-%02d", s+1), x + 2*math.Sin(11*k), y + 2*math.Cos(17*k), 0.4 + 0.5*(1+math.Sin(7*k))})
	}
	return list
}

// addNodes makes the nodes of places, at some of which clients come in.
func addNodes(t *testing.T, places []place, entry func(place) bool) {
	t.Helper()
	var nodes []cluster.Node
	for _, p := range places {
		n := cluster.Node{
			Name: p.name, Labels: map[string]string{v1.LabelTopologyZone: p.site}, Capacity: v1.ResourceList{v1.ResourceCPU: resource.MustParse("4")},
		}
		if entry(p) {
			n.Labels["fogsched.dev/entry"] = "true"
		}
		nodes = append(nodes, n)
	}
	if err := control.AddNodes(t.Context(), nodes...); err != nil {
		t.Fatal(err)
	}
}

// measure has each node's prober publish what it measured; says leaves out pairs (0) or has them lost (below 0).
func measure(t *testing.T, places []place, says func(i, j int) time.Duration) {
	t.Helper()
	c, err := client.New(control.Config())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var failed error
	now := metav1.NewTime(time.Now().Add(-4 * time.Second).Truncate(time.Second))
	workqueue.ParallelizeUntil(t.Context(), 16, len(places), func(i int) {
		p := places[i]
		nl := &v1alpha1.NodeLatency{ObjectMeta: metav1.ObjectMeta{Name: p.name}}
		status := v1alpha1.NodeLatencyStatus{
			ObservedAt: &now, RefreshInterval: &metav1.Duration{Duration: time.Minute},
			Coordinate: &v1alpha1.NetworkCoordinate{
				VectorMicros: []int64{int64(1000 * p.x), int64(1000 * p.y), 0, 0, 0, 0, 0, 0}, HeightMicros: int64(1000 * p.access), ErrorPercent: 14,
			},
		}
		for j, o := range places {
			if i == j {
				continue
			}
			m := v1alpha1.Measurement{Samples: 30, At: &now}
			switch d := says(i, j); {
			case d == 0:
				continue
			case d < 0:
				m = v1alpha1.Measurement{Lost: 30}
			default:
				m.Typical, m.Tail = &metav1.Duration{Duration: d}, &metav1.Duration{Duration: d * 13 / 10}
			}
			status.Peers = append(status.Peers, v1alpha1.PeerLatency{Node: o.name, Measurement: m})
		}
		made, err := c.NodeLatencies().Create(t.Context(), nl, metav1.CreateOptions{})
		if err == nil {
			made.Status = status
			_, err = c.NodeLatencies().UpdateStatus(t.Context(), made, metav1.UpdateOptions{})
		}
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			failed = err
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
}

// forget deletes all measurements.
func forget(t *testing.T) {
	t.Helper()
	gvr := v1alpha1.GroupVersion.WithResource(client.NodeLatencies)
	if err := control.Dynamic().Resource(gvr).DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
}

// workload is the bulletin board on Redis, a broker that sensors write to, and a ping test, as fogsched might have placed them.
const workload = `
apiVersion: fogsched.dev/v1alpha1
kind: LatencyPolicy
metadata: {name: bulletin-board, namespace: default}
spec:
  selector: {matchLabels: {app: bulletin-board}}
  dependencies: [{service: redis-master, limit: 20ms}]
  clients: [{nodes: {matchLabels: {fogsched.dev/entry: "true"}}, weight: 2, limit: 10ms}]
---
apiVersion: fogsched.dev/v1alpha1
kind: LatencyPolicy
metadata: {name: redis-slave, namespace: default}
spec: {selector: {matchLabels: {app: redis, role: slave}}, dependencies: [{service: redis-master}]}
---
apiVersion: fogsched.dev/v1alpha1
kind: LatencyPolicy
metadata: {name: broker, namespace: default}
spec: {selector: {matchLabels: {app: broker}}, clients: [{pods: {selector: {matchLabels: {app: sensor}}}, limit: 12ms}]}
---
apiVersion: v1
kind: Service
metadata: {name: redis-master, namespace: default}
spec: {selector: {app: redis, role: master}, ports: [{port: 6379}]}
`

// pods makes pods, a line each: labels, node and, where there is one, the annotation.
func pods(t *testing.T, lines ...[3]string) {
	t.Helper()
	for i, l := range lines {
		set := map[string]string{}
		for pair := range strings.SplitSeq(l[0], ",") {
			k, v, _ := strings.Cut(pair, "=")
			set[k] = v
		}
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", set["app"], i), Labels: set}}
		if l[2] != "" {
			p.Annotations = map[string]string{v1alpha1.LatencyAnnotation: l[2]}
		}
		p.Spec.NodeName = l[1]
		p.Spec.Containers = []v1.Container{{Name: "main", Image: "example.org/" + set["app"], Resources: v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")},
		}}}
		if _, err := control.Client().CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
