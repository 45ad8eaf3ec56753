// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/fogsched/fogsched/pkg/intent"
	"github.com/fogsched/fogsched/pkg/latency"
)

const (
	// maxPlaces is how many nodes a map shows one by one, maxRows how many rows a matrix has; with more they are taken by zone.
	maxPlaces = 150
	maxRows   = 60
	maxLinks  = 20
)

const noZone = "no zone"

// group is one node, or those of a zone.
type group struct {
	name, zone string
	nodes      []int32
}

// groups returns at most limit groups of nodes, and what they are: nodes where there are so few, else zones, regions, or a sample of the
// nodes in which those that policies are about come first.
func (w *world) groups(limit int) (of string, list []group) {
	n := w.snap.Len()
	single := func(i int32) group { return group{w.snap.Name(i), cmp.Or(w.zone[i], noZone), []int32{i}} }
	order := func(a, b group) int { return cmp.Or(natural(a.zone, b.zone), natural(a.name, b.name)) }
	if n <= limit {
		for i := range n {
			list = append(list, single(int32(i)))
		}
		slices.SortFunc(list, order)
		return "nodes", list
	}
	for _, by := range []struct {
		of    string
		label []string
	}{{"zones", w.zone}, {"regions", w.region}} {
		members := map[string][]int32{}
		for i, v := range by.label {
			members[cmp.Or(v, noZone)] = append(members[cmp.Or(v, noZone)], int32(i))
		}
		if len(members) < 2 || len(members) > limit {
			continue
		}
		for name, nodes := range members {
			list = append(list, group{name, name, nodes})
		}
		slices.SortFunc(list, order)
		return by.of, list
	}
	chosen := map[int32]bool{}
	for _, g := range w.governed {
		for _, nc := range g.self {
			if i, ok := w.snap.Index(nc.Node); ok && len(chosen) < limit/3 {
				chosen[i] = true
			}
		}
		for _, c := range g.calls {
			for _, nc := range c.targets {
				if i, ok := w.snap.Index(nc.Node); ok && len(chosen) < limit/2 {
					chosen[i] = true
				}
			}
		}
	}
	for _, i := range evenly(n, limit-len(chosen)) {
		chosen[i] = true
	}
	for i := range chosen {
		list = append(list, single(i))
	}
	slices.SortFunc(list, order)
	return "sample", list
}

// cells returns the round-trip times between groups, from the row to the column.
func (w *world) cells(groups []group) [][]Cell {
	cells := make([][]Cell, len(groups))
	for a := range cells {
		cells[a] = make([]Cell, len(groups))
	}
	if !slices.ContainsFunc(groups, func(g group) bool { return len(g.nodes) > 1 }) {
		for a := range groups {
			for b := range groups {
				e := w.snap.Estimate(groups[a].nodes[0], groups[b].nodes[0])
				cells[a][b].Latency = newLatency(e.Typical, e.Provenance, e.Error)
			}
		}
		return cells
	}
	of := make([]int, w.snap.Len())
	for g := range groups {
		for _, i := range groups[g].nodes {
			of[i] = g
		}
	}
	found := make([][][]float32, len(groups))
	for a := range found {
		found[a] = make([][]float32, len(groups))
	}
	w.measuredPairs(func(i, j int32) {
		for _, p := range [][2]int32{{i, j}, {j, i}} {
			if e := w.snap.Estimate(p[0], p[1]); e.Provenance.IsMeasured() {
				if us, ok := e.Typical.Micros(); ok {
					a, b := of[p[0]], of[p[1]]
					found[a][b] = append(found[a][b], us)
				}
			}
		}
	})
	for a := range groups {
		for b := range groups {
			c := &cells[a][b]
			if list := found[a][b]; len(list) > 0 {
				c.Latency, c.Pairs = newLatency(middle(list), latency.Measured, 0), len(list)
				if a == b { // both directions of each
					c.Pairs /= 2
				}
				continue
			}
			var list []float32
			worst, err := latency.Unknown, float32(0)
			for _, x := range evenly(len(groups[a].nodes), 5) {
				for _, y := range evenly(len(groups[b].nodes), 5) {
					i, j := groups[a].nodes[x], groups[b].nodes[y]
					e := w.snap.Estimate(i, j)
					if us, ok := e.Typical.Micros(); ok && i != j {
						list, err = append(list, us), max(err, e.Error)
						if worst == latency.Unknown || e.Provenance < worst {
							worst = e.Provenance
						}
					}
				}
			}
			c.Latency = newLatency(middle(list), worst, err)
		}
	}
	return cells
}

// measuredPairs calls f once for each pair of nodes of which one reported the other.
func (w *world) measuredPairs(f func(i, j int32)) {
	n := w.snap.Len()
	seen := make([]uint64, (n*n+63)/64)
	for i, r := range w.reports {
		if r == nil {
			continue
		}
		for k := range r.Status.Peers {
			j, ok := w.snap.Index(r.Status.Peers[k].Node)
			if !ok || int(j) == i {
				continue
			}
			bit := min(i, int(j))*n + max(i, int(j))
			if seen[bit/64]&(1<<(bit%64)) == 0 {
				seen[bit/64] |= 1 << (bit % 64)
				f(int32(i), j)
			}
		}
	}
}

// middle returns the median; unknown where there is none.
func middle(micros []float32) latency.RTT {
	if len(micros) == 0 {
		return latency.RTT{}
	}
	slices.Sort(micros)
	rtt, _ := latency.FromSeconds(float64(micros[len(micros)/2]) / 1e6)
	return rtt
}

func (w *world) matrix() Matrix {
	of, groups := w.groups(maxRows)
	m := Matrix{Of: of, Names: []string{}, Zones: []string{}, Cells: w.cells(groups)}
	for _, g := range groups {
		m.Names, m.Zones = append(m.Names, g.name), append(m.Zones, g.zone)
	}
	return m
}

// trust is how much a distance counts in the layout, by how it was got. A ranking is no distance.
var trust = map[string]float64{"local": 1, "measured": 1, "reverse": 1, "zone": 0.25, "coordinate": 0.25}

func (w *world) layOut() Map {
	of, groups := w.groups(maxPlaces)
	m := Map{Of: of, Places: []Place{}}
	cells := w.cells(groups)
	// A place of which no distance is known has no place.
	var placed []int
	for a := range groups {
		if slices.ContainsFunc(seq(len(groups)), func(b int) bool {
			return b != a && (trust[cells[a][b].Provenance] > 0 || trust[cells[b][a].Provenance] > 0)
		}) {
			placed = append(placed, a)
		} else {
			m.Unplaced = append(m.Unplaced, groups[a].name)
		}
	}
	d := newDistances(len(placed))
	for i, a := range placed {
		for j, b := range placed[:i] {
			var ms, weight, count float64
			for _, c := range []Cell{cells[a][b], cells[b][a]} {
				if t := trust[c.Provenance]; t > 0 {
					ms, weight, count = ms+float64(c.Micros)/1000, weight+t, count+1
				}
			}
			if count > 0 {
				d.set(i, j, ms/count, weight/count)
			}
		}
	}
	places, parts, f := layout(d, w.coordinates(groups, placed)...)
	left, top := math.Inf(1), math.Inf(1)
	for _, p := range places {
		left, top = min(left, p.x), min(top, p.y)
	}
	m.Parts, m.Stress, m.HalfWithin, m.MostWithin = len(parts), round3(f.stress), round3(f.half), round3(f.most)
	clients := map[int32]bool{}
	type key struct {
		node  int32
		index int
	}
	pods := map[key]int{}
	for k, g := range w.governed {
		for _, nc := range g.self {
			if i, ok := w.snap.Index(nc.Node); ok {
				pods[key{i, k}] += int(nc.Count)
			}
		}
		for _, c := range g.calls {
			if c.entry.Role != intent.Client {
				continue
			}
			for _, nc := range c.targets {
				if i, ok := w.snap.Index(nc.Node); ok {
					clients[i] = true
				}
			}
		}
	}
	for i, a := range placed {
		g := groups[a]
		p := Place{Name: g.name, Zone: g.zone, X: round3(places[i].x - left), Y: round3(places[i].y - top), Nodes: len(g.nodes), Silent: true}
		marks := map[int]int{}
		for _, n := range g.nodes {
			p.Client = p.Client || clients[n]
			p.Silent = p.Silent && w.silent[n] != ""
			for k := range w.governed {
				if c := pods[key{n, k}]; c > 0 {
					marks[k] += c
				}
			}
		}
		for _, k := range slices.Sorted(maps.Keys(marks)) {
			p.Pods = append(p.Pods, PodMark{w.governed[k].policy.Mark, w.governed[k].policy.full(), marks[k]})
		}
		m.Places = append(m.Places, p)
	}
	for _, g := range w.governed {
		for _, e := range g.policy.Entries {
			m.Links = append(m.Links, e.broken...)
		}
	}
	slices.SortStableFunc(m.Links, func(a, b Link) int { return cmp.Compare(b.over, a.over) })
	m.LinksLeftOut = max(0, len(m.Links)-maxLinks)
	m.Links = m.Links[:len(m.Links)-m.LinksLeftOut]
	return m
}

// coordinates returns the places that the probers' own coordinates give, as a start for the layout; nothing where few have any.
func (w *world) coordinates(groups []group, placed []int) [][]point {
	vectors := make([][]float64, len(placed))
	have := 0
	for k, a := range placed {
		count := 0.0
		for _, i := range groups[a].nodes {
			r := w.reports[i]
			if r == nil || r.Status.Coordinate == nil || r.Status.Coordinate.ErrorPercent >= 100 || len(r.Status.Coordinate.VectorMicros) != latency.Dimensions {
				continue
			}
			if vectors[k] == nil {
				vectors[k] = make([]float64, latency.Dimensions)
			}
			for x, v := range r.Status.Coordinate.VectorMicros {
				vectors[k][x] += float64(v) / 1000
			}
			count++
		}
		for x := range vectors[k] {
			vectors[k][x] /= count
		}
		if count > 0 {
			have++
		}
	}
	if have < 3 {
		return nil
	}
	d := newDistances(len(placed))
	for i := range placed {
		for j := range i {
			if vectors[i] == nil || vectors[j] == nil {
				continue
			}
			square := 0.0
			for x := range vectors[i] {
				square += (vectors[i][x] - vectors[j][x]) * (vectors[i][x] - vectors[j][x])
			}
			d.set(i, j, math.Sqrt(square), 1)
		}
	}
	// Who has none starts in the middle.
	var with []int
	for i := range vectors {
		if vectors[i] != nil {
			with = append(with, i)
		}
	}
	start := make([]point, len(placed))
	for k, p := range scaling(d.of(with)) {
		start[with[k]] = p
	}
	return [][]point{start}
}

func seq(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func round3(x float64) float64 { return math.Round(x*1000) / 1000 }
