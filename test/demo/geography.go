// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/fogsched/fogsched/test/wan"
)

// site is a place with small nodes behind one uplink. Places are on a map whose unit is a millisecond of round trip.
type site struct {
	name  string
	nodes int
	x, y  float64
	entry bool // its first node is where readers come in
}

// The reference cluster: a gateway and 23 edge nodes over 4 sites.
var sites = []site{
	{"north", 6, 4, 11, true},
	{"east", 6, 16, 2, true},
	{"south", 6, -3, -14, true},
	{"west", 5, -22, 5, false},
}

const (
	gateway  = "gateway"
	notReady = "south-6" // its power supply died: no kubelet, no prober
)

// place is a node on the map.
type place struct {
	name, site string
	x, y       float64
	access     float64 // milliseconds that its own connection adds to every round trip
	jitter     float64 // milliseconds, either way
	loss       float64
	entry      bool
	addr       netip.Addr
}

// places returns the nodes of the reference cluster. What looks random is computed from the number of the node, so that every
// demo has the same map.
func places(network byte) []place {
	list := []place{{name: gateway, site: gateway, access: 0.3, jitter: 0.1, entry: true}}
	for _, s := range sites {
		for i := range s.nodes {
			k := float64(len(list))
			list = append(list, place{
				name: fmt.Sprintf("%s-%d", s.name, i+1), site: s.name,
				x: s.x + math.Sin(3*k), y: s.y + math.Cos(5*k),
				access: 0.5 + 1.2*(1+math.Sin(7*k)), // 0.5 to 2.9 ms: fibre, DSL, radio
				jitter: 0.2 + 0.4*(1+math.Cos(11*k)),
				loss:   0.01 * float64(i%3), // every third one is on a poor radio link
				entry:  s.entry && i == 0,
			})
		}
	}
	for i := range list {
		list[i].addr = netip.AddrFrom4([4]byte{127, 77, network, byte(i + 1)})
	}
	return list
}

// link is one direction between two places: half of the round trip.
func link(a, b place) wan.Link {
	if a.name == b.name {
		return wan.Link{}
	}
	rtt := math.Hypot(a.x-b.x, a.y-b.y) + a.access + b.access
	return wan.Link{
		OneWayDelay: time.Duration(rtt / 2 * float64(time.Millisecond)),
		Jitter:      time.Duration((a.jitter + b.jitter) / 2 * float64(time.Millisecond)),
		Loss:        (a.loss + b.loss) / 2,
	}
}
