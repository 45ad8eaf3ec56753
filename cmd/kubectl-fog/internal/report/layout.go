// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"math"
	"slices"
)

// point is a place on the map, in milliseconds of round trip from the origin.
type point struct{ x, y float64 }

func (p point) to(q point) float64 { return math.Hypot(p.x-q.x, p.y-q.y) }

// distances are what the layout knows of n points: ms is NaN for a pair of which nothing is known, trust is how much a known one counts.
type distances struct {
	n         int
	ms, trust []float64 // symmetric, n × n
}

func newDistances(n int) *distances {
	d := &distances{n: n, ms: make([]float64, n*n), trust: make([]float64, n*n)}
	for i := range d.ms {
		d.ms[i] = math.NaN()
	}
	return d
}

func (d *distances) set(i, j int, ms, trust float64) {
	d.ms[i*d.n+j], d.ms[j*d.n+i] = ms, ms
	d.trust[i*d.n+j], d.trust[j*d.n+i] = trust, trust
}

func (d *distances) at(i, j int) (ms float64, known bool) {
	ms = d.ms[i*d.n+j]
	return ms, !math.IsNaN(ms)
}

// fit says how far a layout is from the distances that it shows.
type fit struct {
	// stress is Kruskal's stress-1: 0 is exact, below 0.1 is good, above 0.2 poor.
	stress float64
	// half and most are the relative errors within which half, and nine of ten, of the pairs are drawn.
	half, most float64
	pairs      int
}

// leastMillis keeps the relative weight of nodes in one rack from drowning everything else: below it distances are noise on a map.
const leastMillis = 1.0

// rounds bounds the sweeps of the majorization; on what converges at all it ends long before.
const rounds = 400

// layout places points so that their distances are as near as they can be to those known: weighted stress majorization, one point at a
// time (E. Gansner, Y. Koren, S. North, "Graph Drawing by Stress Majorization", GD 2004), in which a pair of which nothing is known exerts
// no force, and an error counts relative to its distance. Of the starts given and classical scaling (W. Torgerson, "Multidimensional
// Scaling", Psychometrika 17, 1952) the one that ends best is taken. The result is the same each time. Points that no known distance
// connects are laid out apart, and parts says which belong together.
func layout(d *distances, starts ...[]point) (places []point, parts [][]int, f fit) {
	places = make([]point, d.n)
	parts = components(d)
	edge, largest := 0.0, 0.0
	for k, members := range parts {
		sub := d.of(members)
		best, bestStress := []point(nil), math.Inf(1)
		for s := range len(starts) + 1 {
			p := make([]point, len(members))
			if s < len(starts) {
				if len(starts[s]) != d.n {
					continue
				}
				for i, m := range members {
					p[i] = starts[s][m]
				}
				spread(p)
			} else {
				p = scaling(sub)
			}
			majorize(sub, p)
			if v := sub.stress(p); v < bestStress {
				best, bestStress = p, v
			}
		}
		upright(best)
		left, right := math.Inf(1), math.Inf(-1)
		for _, p := range best {
			left, right = min(left, p.x), max(right, p.x)
		}
		if k == 0 {
			largest = max(right-left, leastMillis)
		}
		for i, m := range members {
			places[m] = point{best[i].x - left + edge, best[i].y}
		}
		edge += right - left + largest/6
	}
	return places, parts, d.fit(places)
}

// components returns the sets of points that known distances connect, the largest first.
func components(d *distances) [][]int {
	var all [][]int
	seen := make([]bool, d.n)
	for i := range d.n {
		if seen[i] {
			continue
		}
		seen[i] = true
		part := []int{i}
		for k := 0; k < len(part); k++ {
			for j := range d.n {
				if _, known := d.at(part[k], j); known && !seen[j] {
					seen[j] = true
					part = append(part, j)
				}
			}
		}
		slices.Sort(part)
		all = append(all, part)
	}
	slices.SortStableFunc(all, func(a, b []int) int { return cmp.Compare(len(b), len(a)) })
	return all
}

// of returns the distances between some of the points.
func (d *distances) of(members []int) *distances {
	sub := newDistances(len(members))
	for a, i := range members {
		for b, j := range members[:a] {
			if ms, known := d.at(i, j); known {
				sub.set(a, b, ms, d.trust[i*d.n+j])
			}
		}
	}
	return sub
}

// spread moves points that lie on one another a little apart: between them there would be no direction to push in.
func spread(p []point) {
	for i := range p {
		angle := 2.399963 * float64(i) // the golden angle: no two the same
		p[i].x += 1e-3 * math.Cos(angle)
		p[i].y += 1e-3 * math.Sin(angle)
	}
}

// scaling is classical scaling of connected distances: unknown ones are taken as the shortest way over known ones.
func scaling(d *distances) []point {
	n := d.n
	way := make([]float64, n*n)
	for i := range n {
		for j := range n {
			switch ms, known := d.at(i, j); {
			case i == j:
			case known:
				way[i*n+j] = ms
			default:
				way[i*n+j] = math.Inf(1)
			}
		}
	}
	for k := range n {
		for i := range n {
			via := way[i*n+k]
			if math.IsInf(via, 1) {
				continue
			}
			for j := range n {
				// Only what is unknown: RTTs break the triangle inequality, and measured ones must stay what they are.
				if _, known := d.at(i, j); !known && via+way[k*n+j] < way[i*n+j] {
					way[i*n+j] = via + way[k*n+j]
				}
			}
		}
	}
	mean, all := make([]float64, n), 0.0
	for i := range n {
		for j := range n {
			mean[i] += way[i*n+j] * way[i*n+j] / float64(n)
		}
		all += mean[i] / float64(n)
	}
	b := make([]float64, n*n)
	for i := range n {
		for j := range n {
			b[i*n+j] = -(way[i*n+j]*way[i*n+j] - mean[i] - mean[j] + all) / 2
		}
	}
	places := make([]point, n)
	v, l := principal(b, n)
	for i := range places {
		places[i].x = v[i] * math.Sqrt(max(0, l))
		for j := range n {
			b[i*n+j] -= l * v[i] * v[j]
		}
	}
	v, l = principal(b, n)
	for i := range places {
		places[i].y = v[i] * math.Sqrt(max(0, l))
	}
	spread(places)
	return places
}

// principal returns the eigenvector of the largest eigenvalue of a symmetric matrix, by power iteration.
func principal(b []float64, n int) (v []float64, value float64) {
	v, next := make([]float64, n), make([]float64, n)
	shift := 0.0 // makes all eigenvalues positive (Gershgorin), so that the largest and not the most negative one is found
	for i := range n {
		sum := 0.0
		for j := range n {
			sum += math.Abs(b[i*n+j])
		}
		shift = max(shift, sum/4)
		v[i] = math.Sin(float64(i) + 1) // any start that is no eigenvector
	}
	normalize(v)
	for range 300 {
		value = 0
		for i := range n {
			sum := 0.0
			for j := range n {
				sum += b[i*n+j] * v[j]
			}
			value += sum * v[i]
			next[i] = sum + shift*v[i]
		}
		normalize(next)
		change := 0.0
		for i := range n {
			change = max(change, math.Abs(next[i]-v[i]))
		}
		copy(v, next)
		if change < 1e-9 {
			break
		}
	}
	return v, value
}

func normalize(v []float64) {
	norm := 0.0
	for _, x := range v {
		norm += x * x
	}
	if norm = math.Sqrt(norm); norm > 0 {
		for i := range v {
			v[i] /= norm
		}
	}
}

// weight is what an error of a distance counts: its square relative to the distance, by the trust in it.
func weight(ms, trust float64) float64 {
	ms = max(ms, leastMillis)
	return trust / (ms * ms)
}

// majorize moves each point to where the distances to all others, held still, want it, until nothing moves. No sweep makes the stress
// larger.
func majorize(d *distances, p []point) {
	last := d.stress(p)
	for range rounds {
		for i := range p {
			var x, y, total float64
			for j := range p {
				ms, known := d.at(i, j)
				if i == j || !known {
					continue
				}
				w := weight(ms, d.trust[i*d.n+j])
				far := p[i].to(p[j])
				if far > 1e-9 {
					x += w * (p[j].x + ms*(p[i].x-p[j].x)/far)
					y += w * (p[j].y + ms*(p[i].y-p[j].y)/far)
				} else {
					x += w * p[j].x
					y += w * p[j].y
				}
				total += w
			}
			if total > 0 {
				p[i] = point{x / total, y / total}
			}
		}
		now := d.stress(p)
		if last-now < 1e-5*last {
			break
		}
		last = now
	}
}

// stress is what majorize makes small.
func (d *distances) stress(p []point) (sum float64) {
	for i := range p {
		for j := range i {
			if ms, known := d.at(i, j); known {
				e := p[i].to(p[j]) - ms
				sum += weight(ms, d.trust[i*d.n+j]) * e * e
			}
		}
	}
	return sum
}

// upright turns points so that the map is wider than high, with the first point on the left and in the upper half.
func upright(p []point) {
	if len(p) == 0 {
		return
	}
	var cx, cy float64
	for _, q := range p {
		cx += q.x / float64(len(p))
		cy += q.y / float64(len(p))
	}
	var xx, yy, xy float64
	for _, q := range p {
		xx += (q.x - cx) * (q.x - cx)
		yy += (q.y - cy) * (q.y - cy)
		xy += (q.x - cx) * (q.y - cy)
	}
	sin, cos := math.Sincos(-math.Atan2(2*xy, xx-yy) / 2)
	for i, q := range p {
		x, y := q.x-cx, q.y-cy
		p[i] = point{x*cos - y*sin, x*sin + y*cos}
	}
	flipX, flipY := p[0].x > 0, p[0].y > 0
	for i := range p {
		if flipX {
			p[i].x = -p[i].x
		}
		if flipY {
			p[i].y = -p[i].y
		}
	}
}

// fit compares a layout with the distances between points of one part.
func (d *distances) fit(p []point) (f fit) {
	var wrong, all float64
	var errs []float64
	for i := range p {
		for j := range i {
			ms, known := d.at(i, j)
			if !known {
				continue
			}
			drawn := p[i].to(p[j])
			wrong += (drawn - ms) * (drawn - ms)
			all += ms * ms
			errs = append(errs, math.Abs(drawn-ms)/max(ms, leastMillis))
		}
	}
	if f.pairs = len(errs); f.pairs == 0 {
		return f
	}
	slices.Sort(errs)
	f.stress = math.Sqrt(wrong / all)
	f.half, f.most = errs[len(errs)/2], errs[len(errs)*9/10]
	return f
}
