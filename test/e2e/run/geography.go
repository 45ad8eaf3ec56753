// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"math"
	"time"

	"github.com/fogsched/fogsched/test/kind"
	"github.com/fogsched/fogsched/test/wan/tun"
)

// site is a place on a map whose unit is a millisecond of round trip.
type site struct {
	name    string
	x, y    float64
	workers int // of the first five; further ones follow in turns
	entries int // of them, where users come in
}

// The control plane is at the first one. Users come in at the gateway and in the north.
var sites = []site{
	{"gateway", 0, 0, 1, 1},
	{"north", 20, 15, 2, 2},
	{"south", 0, 56, 2, 0},
}

// place is a node on the map.
type place struct {
	node   kind.Node
	site   string
	x, y   float64
	access float64 // milliseconds that its own connection adds to every round trip
	jitter float64 // milliseconds, either way
	entry  bool
}

// geography puts the nodes on the map. What looks random is computed from the number of the node, so that every run has the same
// distances.
func geography(nodes []kind.Node) []place {
	var places []place
	worker := 0
	for i, n := range nodes {
		k := float64(i)
		s, entry := sites[0], false
		if !n.ControlPlane {
			var nth int
			s, nth = siteOf(worker)
			entry = nth < s.entries
			worker++
		}
		places = append(places, place{
			node: n, site: s.name, entry: entry,
			x: s.x + math.Sin(3*k)/2, y: s.y + math.Cos(5*k)/2,
			access: 0.6 + 0.3*(1+math.Sin(7*k)), // 0.6 to 1.2 ms
			jitter: 0.05 + 0.1*(1+math.Cos(11*k)),
		})
	}
	return places
}

// siteOf returns the site of a worker, and which of its workers it is.
func siteOf(worker int) (s site, nth int) {
	nth = worker
	for _, s := range sites {
		if nth < s.workers {
			return s, nth
		}
		nth -= s.workers
	}
	s = sites[(len(sites)-1+nth)%len(sites)]
	return s, s.workers + nth/len(sites)
}

// links are the ways between all places, in both directions.
func links(places []place) []tun.Direction {
	var all []tun.Direction
	for _, a := range places {
		for _, b := range places {
			if a.node.Name == b.node.Name {
				continue
			}
			rtt := math.Hypot(a.x-b.x, a.y-b.y) + a.access + b.access
			all = append(all, tun.Direction{From: a.node.Name, To: b.node.Name, Link: tun.Link{
				RTT:    time.Duration(rtt * float64(time.Millisecond)).Round(10 * time.Microsecond),
				Jitter: time.Duration((a.jitter + b.jitter) / 2 * float64(time.Millisecond)).Round(10 * time.Microsecond),
			}})
		}
	}
	return all
}
