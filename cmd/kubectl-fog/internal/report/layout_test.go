// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"math/rand/v2"
	"testing"
)

// plan has points in a plane, and the distances between them.
func plan(n int, seed uint64) ([]point, *distances) {
	rng := rand.New(rand.NewPCG(seed, 7))
	p := make([]point, n)
	for i := range p {
		p[i] = point{50 * rng.Float64(), 30 * rng.Float64()}
	}
	d := newDistances(n)
	for i := range p {
		for j := range i {
			d.set(i, j, p[i].to(p[j]), 1)
		}
	}
	return p, d
}

// What lies in a plane is found again, but for turning and mirroring.
func TestLayoutFindsThePlane(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 150} {
		p, d := plan(n, uint64(n))
		got, parts, f := layout(d)
		if len(parts) != 1 || f.pairs != n*(n-1)/2 {
			t.Fatalf("%d nodes: %d parts, %d pairs", n, len(parts), f.pairs)
		}
		for i := range p {
			for j := range i {
				if want, drawn := p[i].to(p[j]), got[i].to(got[j]); math.Abs(want-drawn) > 0.05*want+0.05 {
					t.Fatalf("%d nodes: %d and %d are %.2f apart, drawn %.2f", n, i, j, want, drawn)
				}
			}
		}
		if f.stress > 0.01 {
			t.Errorf("%d nodes: stress %.3f of what fits exactly", n, f.stress)
		}
	}
}

// A pair of which nothing is known exerts no force: with half of them unknown the rest still decides.
func TestUnknownPairsExertNoForce(t *testing.T) {
	p, d := plan(40, 5)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range p {
		for j := range i {
			if rng.IntN(2) == 0 {
				d.set(i, j, math.NaN(), 0)
			}
		}
	}
	got, _, f := layout(d)
	worst := 0.0
	for i := range p {
		for j := range i {
			worst = max(worst, math.Abs(p[i].to(p[j])-got[i].to(got[j])))
		}
	}
	if f.stress > 0.02 || worst > 3 {
		t.Errorf("stress %.3f, worst error %.2f ms of up to 58", f.stress, worst)
	}
}

// What does not fit a plane must say so: all points as far from each other.
func TestStressSaysThatItDoesNotFit(t *testing.T) {
	d := newDistances(20)
	for i := range 20 {
		for j := range i {
			d.set(i, j, 10, 1)
		}
	}
	if _, _, f := layout(d); f.stress < 0.2 || f.most < 0.3 {
		t.Errorf("stress %.3f, nine of ten within %.2f: twenty points cannot be 10 ms from each other in a plane", f.stress, f.most)
	}
}

func TestPartsStandSideBySide(t *testing.T) {
	d := newDistances(7)
	for _, part := range [][]int{{0, 2, 4, 6}, {1, 3, 5}} {
		for _, i := range part {
			for _, j := range part {
				if i > j {
					d.set(i, j, 4, 1)
				}
			}
		}
	}
	got, parts, _ := layout(d)
	if len(parts) != 2 || len(parts[0]) != 4 {
		t.Fatalf("parts %v", parts)
	}
	for _, i := range parts[0] {
		for _, j := range parts[1] {
			if got[i].x >= got[j].x {
				t.Errorf("part 1 is not to the right: %v, %v", got[i], got[j])
			}
		}
	}
}

// A sweep of the majorization makes nothing worse, and bad starts do not spoil the result.
func TestMajorizationDescends(t *testing.T) {
	_, d := plan(30, 11)
	start := make([]point, 30) // all on one point
	_, _, f := layout(d, start)
	if f.stress > 0.01 {
		t.Errorf("a useless start spoils the layout: stress %.3f", f.stress)
	}
	rng := rand.New(rand.NewPCG(2, 2))
	p := make([]point, 30)
	for i := range p {
		p[i] = point{rng.Float64(), rng.Float64()}
	}
	before := d.stress(p)
	majorize(d, p)
	if after := d.stress(p); after > before/10 {
		t.Errorf("stress %.3g, before %.3g", after, before)
	}
}

func TestNatural(t *testing.T) {
	list := []string{"a", "a-2", "a-10", "a-010b", "b", "zone-1", "zone-01x", "zone-11"}
	for i := range list {
		for j := range list {
			if got, want := natural(list[i], list[j]) < 0, i < j; got != want && i != j {
				t.Errorf("natural(%s, %s) < 0 is %v", list[i], list[j], got)
			}
		}
	}
	for i, want := range map[int]string{0: "A", 25: "Z", 26: "AA", 51: "AZ", 52: "BA", 701: "ZZ", 702: "AAA"} {
		if got := mark(i); got != want {
			t.Errorf("mark(%d) = %s, want %s", i, got, want)
		}
	}
}
