// SPDX-License-Identifier: Apache-2.0

//go:build scale

package scale

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fogsched/fogsched/pkg/probe"
)

// world is a network of nodes far apart, and how it shakes: where there is no packet, this says what would have become of it. All is
// computed from hashes of who, whom and when, so that it costs no memory for pairs and two runs see the same.
type world struct {
	nodes []node
	sites []site
}

type node struct {
	probe.Node
	site int
	// gateway: policies are about it, so that everyone measures it.
	gateway bool
}

// site is a place with some dozens of nodes.
type site struct {
	name     string
	lat, lon float64 // radians
	// access is what the site's line adds to each round trip, and noise the mean of what waits there, in milliseconds.
	access, noise float64
}

// cities are where sites are, about as often as PlanetLab's nodes were.
var cities = []struct {
	code     string
	lat, lon float64 // degrees
	share    float64
}{
	{"nyc", 40.7, -74.0, 12},
	{"chi", 41.9, -87.6, 8},
	{"sea", 47.6, -122.3, 5},
	{"sfo", 37.8, -122.4, 10},
	{"dal", 32.8, -96.8, 5},
	{"sao", -23.5, -46.6, 3},
	{"lon", 51.5, -0.1, 7},
	{"fra", 50.1, 8.7, 9},
	{"par", 48.9, 2.4, 6},
	{"mad", 40.4, -3.7, 4},
	{"waw", 52.2, 21.0, 5},
	{"sto", 59.3, 18.1, 3},
	{"tyo", 35.7, 139.7, 6},
	{"sel", 37.6, 127.0, 3},
	{"bjs", 39.9, 116.4, 6},
	{"sin", 1.4, 103.8, 3},
	{"bom", 19.1, 72.9, 2},
	{"syd", -33.9, 151.2, 3},
}

// lines are the kinds of access, with the share of the sites that have them.
var lines = []struct{ share, least, most, noise float64 }{
	{0.40, 0.05, 0.3, 0.03}, // a data centre
	{0.35, 0.5, 3, 0.15},    // fibre
	{0.20, 5, 15, 1.2},      // cable
	{0.05, 18, 40, 6},       // a mobile network
}

const (
	nodesPerSite = 40
	gateways     = 10
	// kmPerMilli is how far light gets in fibre and back in a millisecond.
	kmPerMilli = 100.0
	earth      = 6371.0 // km
)

// newWorld makes a world of n nodes.
func newWorld(n int) *world {
	w := &world{}
	for s := range (n + nodesPerSite - 1) / nodesPerSite {
		w.sites = append(w.sites, newSite(s))
	}
	for i := range n {
		// As long as the names of a cloud's nodes, because names are what most of a report is.
		ip := netip.AddrFrom4([4]byte{10, 100 + byte(i>>16), byte(i >> 8), byte(i)})
		b, s := ip.As4(), i/nodesPerSite
		w.nodes = append(w.nodes, node{
			Node: probe.Node{
				Name: fmt.Sprintf("ip-%d-%d-%d-%d.ec2.internal", b[0], b[1], b[2], b[3]), Zone: w.sites[s].name,
				Addr: netip.AddrPortFrom(ip, 8620),
			},
			site: s, gateway: i%100 == 0 && i < 100*gateways,
		})
	}
	return w
}

func newSite(s int) site {
	r := rand.New(rand.NewPCG(draw(saltSite, s), 0))
	total := 0.0
	for _, c := range cities {
		total += c.share
	}
	at := r.Float64() * total
	city := 0
	for ; at > cities[city].share; city++ {
		at -= cities[city].share
	}
	c := cities[city]
	out := site{
		name: fmt.Sprintf("%s-%d", c.code, s),
		lat:  (c.lat + 4*r.NormFloat64()) * math.Pi / 180, lon: (c.lon + 4*r.NormFloat64()) * math.Pi / 180,
	}
	at = r.Float64()
	line := 0
	for ; at > lines[line].share && line < len(lines)-1; line++ {
		at -= lines[line].share
	}
	l := lines[line]
	out.access, out.noise = l.least+(l.most-l.least)*r.Float64(), l.noise*(0.5+r.Float64())
	return out
}

// index returns the number of the node at an address.
func index(a netip.Addr) int {
	b := a.As4()
	return int(b[1]-100)<<16 | int(b[2])<<8 | int(b[3])
}

// What a hash is drawn for.
const (
	saltNode = iota
	saltSite
	saltWay
	saltShare
	saltSpikes
	saltLoss
	saltFlap
	saltRoute
	saltBusy
	saltReboot
	saltSample
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

// slot numbers the stretches of time of a length; who turns at another moment of it.
func slot(at, length time.Duration, who uint64) int {
	return int((at + time.Duration(who%uint64(length))) / length)
}

// base is the round trip of a pair in milliseconds while nothing waits anywhere.
func (w *world) base(i, j int, at time.Duration) float64 {
	a, b := min(i, j), max(i, j)
	s, d := min(w.nodes[a].site, w.nodes[b].site), max(w.nodes[a].site, w.nodes[b].site)
	if s == d {
		return 0.12 + 0.4*unit(draw(saltWay, a, b))
	}
	// Ways between two sites are 1.2 to 3.2 times as long as the great circle, and change once a day.
	way := 1.2 + 2*math.Pow(unit(draw(saltWay, s, d)), 2)
	if day := slot(at, 24*time.Hour, draw(saltRoute, s, d)); day > 0 {
		way = max(1.1, way*(0.8+0.6*unit(draw(saltRoute, s, d, day))))
	}
	// One pair in 200 flaps between two ways, every one to eight minutes.
	if flap := draw(saltFlap, a, b); flap%200 == 0 {
		length := time.Minute + time.Duration(flap>>8%420)*time.Second
		if draw(saltFlap, a, b, slot(at, length, flap))%2 == 0 {
			way *= 1.15 + 0.65*unit(draw(saltFlap, a, b, -1))
		}
	}
	p, q := w.sites[s], w.sites[d]
	h := math.Pow(math.Sin((p.lat-q.lat)/2), 2) + math.Cos(p.lat)*math.Cos(q.lat)*math.Pow(math.Sin((p.lon-q.lon)/2), 2)
	km := 2 * earth * math.Asin(math.Sqrt(min(h, 1)))
	return 0.3 + way*km/kmPerMilli + p.access + q.access
}

// busy is whether much waits at a node's line: three per cent of the time, five minutes each.
func (w *world) busy(i int, at time.Duration) bool {
	return draw(saltBusy, i, slot(at, 5*time.Minute, draw(saltBusy, i)))%100 < 3
}

// down is whether a node restarts: once a week, for three minutes. Gateways do not, since of ten nodes that would be chance.
func (w *world) down(i int, at time.Duration) bool {
	const week = 7 * 24 * time.Hour
	return !w.nodes[i].gateway && (at+time.Duration(draw(saltReboot, i)%uint64(week)))%week < 3*time.Minute
}

// probe is what becomes of a probe from i to j at a time.
func (w *world) probe(i, j int, at time.Duration) (rtt time.Duration, lost bool) {
	if w.down(i, at) || w.down(j, at) {
		return 0, true
	}
	a, b := min(i, j), max(i, j)
	r := rand.New(rand.NewPCG(draw(saltSample, i, j), uint64(at)))
	sameSite := w.nodes[i].site == w.nodes[j].site
	busy := !sameSite && (w.busy(i, at) || w.busy(j, at))

	// Seven pairs in ten hardly lose anything, one in twenty up to 2 %.
	loss := 0.001 * unit(draw(saltLoss, a, b, 1))
	switch kind := draw(saltLoss, a, b) % 20; {
	case kind == 0:
		loss = 0.01 + 0.01*unit(draw(saltLoss, a, b, 1))
	case kind < 6:
		loss *= 10
	}
	if busy {
		loss += 0.02
	}
	if r.Float64() < loss {
		return 0, true
	}

	// The way itself shakes by one per cent or so, some by several.
	share := min(0.01*math.Exp(0.7*normal(draw(saltShare, a, b))), 0.08)
	ms := w.base(i, j, at) * math.Max(1+share*r.NormFloat64(), 0.9)
	ms += 0.03 * r.ExpFloat64() // the two kernels
	if !sameSite {
		noise := w.sites[w.nodes[i].site].noise + w.sites[w.nodes[j].site].noise
		if busy {
			noise = 8*noise + 4
		}
		ms += noise * r.ExpFloat64()
	}
	// Two to five probes in a hundred wait much longer, with a heavy tail.
	if r.Float64() < 0.02+0.03*unit(draw(saltSpikes, a, b)) {
		wait := 3.0
		if sameSite {
			wait = 0.5
		}
		ms += min(wait*math.Pow(1-r.Float64(), -1/1.3), 1000)
	}
	return time.Duration(ms * float64(time.Millisecond)), false
}

// normal makes a hash a number of the normal distribution.
func normal(h uint64) float64 { return math.Sqrt2 * math.Erfinv(2*(float64(h>>11)+0.5)/(1<<53)-1) }

// TestTheWorldIsAsFarApartAsPlanetLab compares with what was measured between the 490 nodes of PlanetLab: the slice planetlab-01 of
// NetLatency-Data (Zhu et al., IEEE/ACM Transactions on Networking 25, 2017).
func TestTheWorldIsAsFarApartAsPlanetLab(t *testing.T) {
	w := newWorld(5000)
	var all []float64
	for i := range len(w.nodes) {
		for k := range 20 {
			if j := int(draw(saltSample, i, k) % uint64(len(w.nodes))); i != j {
				all = append(all, w.base(i, j, 0))
			}
		}
	}
	slices.Sort(all)
	for percent, want := range map[int]float64{5: 19, 10: 32, 25: 59, 50: 135, 75: 202, 90: 291, 95: 325} {
		got := all[len(all)*percent/100]
		t.Logf("p%d: %.0f ms, PlanetLab %.0f ms", percent, got, want)
		if got < want/1.5 || got > want*1.5 {
			t.Errorf("p%d: %.1f ms, want %.0f ms within the half", percent, got, want)
		}
	}
	// A node's sixth nearest: 8 ms in the middle there.
	var sixth []float64
	for i := 0; i < len(w.nodes); i += 50 {
		var row []float64
		for j := range w.nodes {
			if i != j {
				row = append(row, w.base(i, j, 0))
			}
		}
		slices.SortFunc(row, cmp.Compare)
		sixth = append(sixth, row[5])
	}
	slices.Sort(sixth)
	t.Logf("the sixth nearest of a node: %.2f ms in the middle", sixth[len(sixth)/2])
}
