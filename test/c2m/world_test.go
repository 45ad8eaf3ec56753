// SPDX-License-Identifier: Apache-2.0

//go:build c2m

package c2m

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/publish"
	"github.com/fogsched/fogsched/pkg/source"
)

// world is a network of nodes far apart. What a pair's round trip is comes from a hash, so that pairs cost no memory and two runs see the
// same.
type world struct {
	nodes []place
	sites []site
}

type place struct {
	name         string
	region, site int
	// access is what the node's own line adds to each round trip that leaves its site, in milliseconds.
	access float64
}

// site is a zone: some dozens of nodes in one place.
type site struct {
	name           string
	lat, lon       float64 // radians
	access         float64 // ms
	region, member int
}

// regions are where the ten regions have their middle.
var regions = []struct {
	name     string
	lat, lon float64 // degrees
}{
	{"us-east", 40.7, -74.0},
	{"us-central", 41.9, -87.6},
	{"us-west", 37.8, -122.4},
	{"sa-east", -23.5, -46.6},
	{"eu-west", 51.5, -0.1},
	{"eu-central", 50.1, 8.7},
	{"eu-north", 59.3, 18.1},
	{"ap-northeast", 35.7, 139.7},
	{"ap-southeast", 1.4, 103.8},
	{"ap-south", 19.1, 72.9},
}

const (
	nodesPerSite = 40
	// spread is how far a site is from the middle of its region, as the deviation in degrees.
	spread = 3.0
	// kmPerMilli is how far light gets in fibre and back in a millisecond.
	kmPerMilli = 100.0
	earth      = 6371.0 // km

	// A node measures some of the others: the same as a prober, which takes near ones, and far ones to know its place.
	peersInSite, peersInRegion, peersAnywhere = 5, 5, 6
	// noise is the relative deviation of a measurement from the truth.
	noise = 0.02
)

// What a hash is drawn for.
const (
	saltNode = iota + 1
	saltSite
	saltWay
	saltPair
	saltPeer
	saltApp
	saltPod
)

// draw hashes numbers (the finalizer of splitmix64).
func draw(salt uint64, numbers ...int) uint64 {
	x := salt * 0x9e3779b97f4a7c15
	for _, n := range numbers {
		x += uint64(n) + 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
	}
	return x
}

// unit makes a hash a number in [0, 1).
func unit(h uint64) float64 { return float64(h>>11) / (1 << 53) }

// newWorld makes a world of n nodes, evenly over the regions.
func newWorld(n int) *world {
	w := &world{}
	for i := range n {
		region := i * len(regions) / n
		member := (i - (region*n+len(regions)-1)/len(regions)) / nodesPerSite
		if k := len(w.sites); k == 0 || w.sites[k-1].region != region || w.sites[k-1].member != member {
			w.sites = append(w.sites, newSite(k, region, member))
		}
		w.nodes = append(w.nodes, place{
			name: fmt.Sprintf("ip-10-%d-%d-%d.internal", i>>16, i>>8&255, i&255), region: region, site: len(w.sites) - 1,
			access: 0.5 * unit(draw(saltNode, i)),
		})
	}
	return w
}

func newSite(number, region, member int) site {
	r := rand.New(rand.NewPCG(draw(saltSite, number), 0))
	at := regions[region]
	s := site{
		name: fmt.Sprintf("%s-%d", at.name, member), region: region, member: member,
		lat: (at.lat + spread*r.NormFloat64()) * math.Pi / 180, lon: (at.lon + spread*r.NormFloat64()) * math.Pi / 180,
	}
	switch kind := r.Float64(); { // a data centre, fibre, cable
	case kind < 0.5:
		s.access = 0.05 + 0.25*r.Float64()
	case kind < 0.85:
		s.access = 0.5 + 2.5*r.Float64()
	default:
		s.access = 5 + 10*r.Float64()
	}
	return s
}

// rtt is the round trip of a pair in milliseconds.
func (w *world) rtt(i, j int) float64 {
	if i == j {
		return 0.05
	}
	a, b := min(i, j), max(i, j)
	p, q := &w.nodes[a], &w.nodes[b]
	if p.site == q.site {
		return 0.12 + 0.4*unit(draw(saltPair, a, b))
	}
	// Ways between two sites are 1.2 to 3.2 times as long as the great circle.
	s, d := &w.sites[p.site], &w.sites[q.site]
	way := 1.2 + 2*math.Pow(unit(draw(saltWay, p.site, q.site)), 2)
	h := math.Pow(math.Sin((s.lat-d.lat)/2), 2) + math.Cos(s.lat)*math.Cos(d.lat)*math.Pow(math.Sin((s.lon-d.lon)/2), 2)
	km := 2 * earth * math.Asin(math.Sqrt(min(h, 1)))
	return 0.3 + way*km/kmPerMilli*(1+0.02*unit(draw(saltPair, a, b))) + s.access + d.access + p.access + q.access
}

// reporting is the world as a source.
type reporting struct {
	*world
	// done is closed when every node reported once.
	done chan struct{}
}

// Run reports as probers do: each node some of its round trips, again and again at the pace that the prober has in so large a cluster.
func (w *reporting) Run(ctx context.Context, update source.Update) error {
	pace := publish.PaceOf(len(w.nodes))
	for i := range w.nodes {
		update(w.nodes[i].name, w.report(i, 0, pace.MaxAge))
	}
	close(w.done)
	ticker := time.NewTicker(pace.SmallGap / time.Duration(len(w.nodes)))
	defer ticker.Stop()
	for k := 0; ; k++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			i := k % len(w.nodes)
			update(w.nodes[i].name, w.report(i, 1+k/len(w.nodes), pace.MaxAge))
		}
	}
}

// report is what a node reports the round-th time.
func (w *world) report(i, round int, refresh time.Duration) latency.Report {
	r := rand.New(rand.NewPCG(draw(saltPeer, i), uint64(round)))
	report := latency.Report{Refresh: refresh}
	seen := map[int]bool{i: true}
	add := func(count int, among func(j int) bool, from, to int) {
		for tries := 0; count > 0 && tries < 20*count; tries++ {
			j := from + r.IntN(to-from)
			if seen[j] || !among(j) {
				continue
			}
			seen[j] = true
			count--
			typical := w.rtt(i, j) * max(0.9, 1+noise*r.NormFloat64()) / 1000
			report.Samples = append(report.Samples, latency.Sample{
				From: w.nodes[i].name, To: w.nodes[j].name, Typical: typical, Tail: 1.2 * typical, At: time.Now(), Count: 20,
			})
		}
	}
	lo, hi := max(0, i-nodesPerSite), min(len(w.nodes), i+nodesPerSite)
	add(peersInSite, func(j int) bool { return w.nodes[j].site == w.nodes[i].site }, lo, hi)
	lo, hi = max(0, i-len(w.nodes)/len(regions)), min(len(w.nodes), i+len(w.nodes)/len(regions))
	add(peersInRegion, func(j int) bool { return w.nodes[j].region == w.nodes[i].region }, lo, hi)
	add(peersAnywhere, func(int) bool { return true }, 0, len(w.nodes))
	return report
}

// podsPerNode is what a node takes: 2,000,000 pods on 6,100 nodes are 328 a node.
const podsPerNode = 500

// nodeList is the world as an API server would list it. label returns further labels of a node.
func (w *world) nodeList(label func(n int, set map[string]string)) *v1.NodeList {
	list := &v1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
	capacity := v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("64"), v1.ResourceMemory: resource.MustParse("256Gi"),
		v1.ResourceEphemeralStorage: resource.MustParse("500Gi"), v1.ResourcePods: *resource.NewQuantity(podsPerNode, resource.DecimalSI),
	}
	for i := range w.nodes {
		n := &w.nodes[i]
		set := map[string]string{
			v1.LabelHostname: n.name, v1.LabelArchStable: "amd64", v1.LabelOSStable: "linux",
			v1.LabelTopologyRegion: regions[n.region].name, v1.LabelTopologyZone: w.sites[n.site].name,
		}
		label(i, set)
		list.Items = append(list.Items, v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.name, UID: types.UID("node-" + n.name), ResourceVersion: "1", Labels: set},
			Status: v1.NodeStatus{
				Capacity: capacity, Allocatable: capacity,
				Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}},
			},
		})
	}
	return list
}
