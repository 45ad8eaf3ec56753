// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"testing"
	"time"

	"github.com/fogsched/fogsched/pkg/latency"
)

// lane is a row over the nodes 0, 1, …: each an RTT in ms with the provenance's first letter (m, r, z, c, l), or nil.
type cell struct {
	ms float64
	p  latency.Provenance
}

func lane(node int32, cells ...cell) Target {
	r := &latency.Row{RTT: make([]latency.RTT, len(cells)), Provenance: make([]latency.Provenance, len(cells))}
	for i, c := range cells {
		if c.ms > 0 {
			r.RTT[i], _ = latency.FromSeconds(c.ms / 1000)
			r.Provenance[i] = c.p
		}
	}
	return Target{Row: r, Node: node, Mass: 1}
}

func m(ms float64) cell { return cell{ms, latency.Measured} }
func r(ms float64) cell { return cell{ms, latency.Reverse} }
func z(ms float64) cell { return cell{ms, latency.Zone} }
func c(ms float64) cell { return cell{ms, latency.Coordinate} }
func k(ms float64) cell { return cell{ms, latency.Ranking} }

var unknown = cell{}

func TestClientLimit(t *testing.T) {
	const limit = 20 * time.Millisecond
	tests := map[string]struct {
		routing Routing
		servers []Target // rows of one node
		node    int32
		want    Verdict
	}{
		"no servers: nothing to exceed":                          {Any, nil, 0, Kept},
		"no servers, and a node that the snapshot does not know": {Any, nil, -1, Kept},

		"Any: all within":                                          {Any, []Target{lane(5, m(10)), lane(6, m(20))}, 0, Kept},
		"Any: the largest decides":                                 {Any, []Target{lane(5, m(10)), lane(6, m(20.1))}, 0, Exceeded},
		"Any: the other direction counts as measured":              {Any, []Target{lane(5, r(10)), lane(6, r(21))}, 0, Exceeded},
		"Any: the node itself counts as measured":                  {Any, []Target{lane(0, cell{0.05, latency.Local})}, 0, Kept},
		"Any: one unknown leaves it open":                          {Any, []Target{lane(5, m(10)), lane(6, unknown)}, 0, Unmeasured},
		"Any: one unknown does not excuse one that exceeds":        {Any, []Target{lane(5, unknown), lane(6, m(30))}, 0, Exceeded},
		"Any: an estimate above the limit never rejects":           {Any, []Target{lane(5, m(10)), lane(6, z(300))}, 0, Unmeasured},
		"Any: an estimate below the limit never accepts":           {Any, []Target{lane(5, m(10)), lane(6, z(1))}, 0, Unmeasured},
		"Any: a coordinate decides nothing either":                 {Any, []Target{lane(5, c(300))}, 0, Unmeasured},
		"Any: a ranking decides nothing either":                    {Any, []Target{lane(5, k(300))}, 0, Unmeasured},
		"Nearest: a ranking never accepts":                         {Nearest, []Target{lane(5, m(21)), lane(6, k(1))}, 0, Unmeasured},
		"Nearest: the smallest decides":                            {Nearest, []Target{lane(5, m(10)), lane(6, m(300))}, 0, Kept},
		"Nearest: all beyond":                                      {Nearest, []Target{lane(5, m(21)), lane(6, m(300))}, 0, Exceeded},
		"Nearest: one unknown could be near":                       {Nearest, []Target{lane(5, m(21)), lane(6, unknown)}, 0, Unmeasured},
		"Nearest: one unknown does not matter beside one in reach": {Nearest, []Target{lane(5, unknown), lane(6, m(20))}, 0, Kept},
		"Nearest: an estimate never accepts":                       {Nearest, []Target{lane(5, m(21)), lane(6, z(1))}, 0, Unmeasured},
		"Nearest: an estimate never rejects":                       {Nearest, []Target{lane(5, m(21)), lane(6, z(100))}, 0, Unmeasured},
		"a node that the snapshot does not know":                   {Any, []Target{lane(5, m(10))}, -1, Unmeasured},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := NewClientLimit(limit, tt.routing, tt.servers)
			if got := l.Check(tt.node); got != tt.want {
				t.Errorf("Check(%d) = %d, want %d", tt.node, got, tt.want)
			}
		})
	}
}

func TestReplicaLimit(t *testing.T) {
	// Node 0 is the candidate, 1 and 2 hold peers. Clients are at 10 and 11.
	const limit = 20 * time.Millisecond
	both := []Peer{{Node: 1, Count: 1}, {Node: 2, Count: 3}}
	tests := map[string]struct {
		routing           Routing
		clients           []Target
		peers             []Peer
		coveredUnmeasured bool
		want              Verdict
	}{
		"Nearest, no peers: it covers a client":                              {Nearest, []Target{lane(10, m(5)), lane(11, m(99))}, nil, false, Kept},
		"Nearest, no peers: it covers none":                                  {Nearest, []Target{lane(10, m(25)), lane(11, m(99))}, nil, false, Exceeded},
		"Nearest: it covers only what a peer covers already":                 {Nearest, []Target{lane(10, m(5), m(6), m(99)), lane(11, m(99), m(99), m(99), m(5))}, both, false, Exceeded},
		"Nearest: a client that no node covers does not count":               {Nearest, []Target{lane(10, m(5), m(6), m(99)), lane(11, m(99), m(99), m(99))}, both, false, Kept},
		"Nearest: unless no client is covered by any":                        {Nearest, []Target{lane(10, m(99), m(99), m(99)), lane(11, m(99), m(99), m(99))}, both, false, Exceeded},
		"Nearest: it covers one that no peer covers":                         {Nearest, []Target{lane(10, m(99), m(6), m(99)), lane(11, m(20), m(99), m(99))}, both, false, Kept},
		"Nearest: all are covered, every node will do":                       {Nearest, []Target{lane(10, m(99), m(6), m(99)), lane(11, m(99), m(99), m(20))}, both, false, Kept},
		"Nearest: all are covered, by the other direction":                   {Nearest, []Target{lane(10, m(99), r(6), m(99))}, both, false, Kept},
		"Nearest: the uncovered client is unmeasured":                        {Nearest, []Target{lane(10, m(5), m(6), m(99)), lane(11, unknown, m(99), m(99))}, both, false, Unmeasured},
		"Nearest: an estimate to a peer covers nobody":                       {Nearest, []Target{lane(10, m(99), z(1), m(99))}, both, false, Exceeded},
		"Nearest: an unmeasured peer covers, if so wished":                   {Nearest, []Target{lane(10, m(99), z(300), m(99))}, both, true, Kept},
		"Nearest: a measured peer beyond does not, even so":                  {Nearest, []Target{lane(10, m(99), m(300), m(99))}, both, true, Exceeded},
		"Nearest: a client that no node can cover does not stand in the way": {Nearest, []Target{lane(10, m(99), m(6), m(99)), lane(11, m(99), m(99), m(99))}, both, false, Kept},
		"Nearest: one of which nothing is measured leaves it open":           {Nearest, []Target{lane(10, m(99), m(6), m(99)), lane(-1, unknown, unknown, unknown)}, both, false, Unmeasured},
		"Nearest: only clients that no node can cover":                       {Nearest, []Target{lane(11, m(99), m(98), m(99))}, both, false, Exceeded},
		"Any: every client must be within, peers or not":                     {Any, []Target{lane(10, m(5), m(1), m(1)), lane(11, m(25), m(1), m(1))}, both, false, Exceeded},
		"Any: all within": {Any, []Target{lane(10, m(5), m(99), m(99)), lane(11, m(20), m(99), m(99))}, both, false, Kept},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := NewReplicaLimit(limit, tt.routing, tt.clients, tt.peers, tt.coveredUnmeasured)
			if got := l.Check(0); got != tt.want {
				t.Errorf("Check(0) = %d, want %d", got, tt.want)
			}
		})
	}
}

func TestDecisive(t *testing.T) {
	tests := map[string]struct {
		routing    Routing
		servers    []Target
		node       int32
		wantRTT    string
		wantTarget int32
		wantHow    latency.Provenance
	}{
		"Any: the largest that was measured":      {Any, []Target{lane(5, m(10)), lane(6, m(30)), lane(7, z(99))}, 0, "30ms", 6, latency.Measured},
		"Nearest: the smallest that was measured": {Nearest, []Target{lane(5, m(10)), lane(6, m(30)), lane(7, z(1))}, 0, "10ms", 5, latency.Measured},
		"Nearest: the first of equals":            {Nearest, []Target{lane(5, m(10)), lane(6, m(10))}, 0, "10ms", 5, latency.Measured},
		"Any: the first of equals":                {Any, []Target{lane(5, m(10)), lane(6, m(10))}, 0, "10ms", 5, latency.Measured},
		"measured from the other end":             {Any, []Target{lane(5, r(10)), lane(6, m(5))}, 0, "10ms", 5, latency.Reverse},
		"nothing measured":                        {Any, []Target{lane(5, z(10)), lane(6, unknown)}, 0, "unknown", -1, latency.Unknown},
		"no servers":                              {Any, nil, 0, "unknown", -1, latency.Unknown},
		"a node that the snapshot does not know":  {Any, []Target{lane(5, m(10))}, -1, "unknown", -1, latency.Unknown},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := NewClientLimit(time.Millisecond, tt.routing, tt.servers)
			rtt, how, target := l.Decisive(tt.node)
			if rtt.String() != tt.wantRTT || target != tt.wantTarget || how != tt.wantHow {
				t.Errorf("Decisive(%d) = %s to %d (%s), want %s to %d (%s)", tt.node, rtt, target, how, tt.wantRTT, tt.wantTarget, tt.wantHow)
			}
		})
	}
}
