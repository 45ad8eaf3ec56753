// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/serf/coordinate"
)

func coordinateAt(x float64) *coordinate.Coordinate {
	return &coordinate.Coordinate{Vec: []float64{x, 0, 0, 0, 0, 0, 0, 0}, Error: 0.2, Height: 1e-5}
}

// TestCoordinatesPredict has nodes on a plane measure a few others each, with noise, and predicts the pairs that they did not.
func TestCoordinatesPredict(t *testing.T) {
	const count, peers = 100, 12
	r := rand.New(rand.NewPCG(1, 2))
	type point struct{ x, y float64 }
	at := make([]point, count)
	all := make([]*Coordinates, count)
	for i := range all {
		at[i] = point{100 * r.Float64(), 100 * r.Float64()}
		all[i] = NewCoordinates()
	}
	rtt := func(i, j int) float64 { return 2 + math.Hypot(at[i].x-at[j].x, at[i].y-at[j].y) } // ms
	measured := map[[2]int]bool{}
	var pairs [][2]int
	for i := range all {
		for range peers {
			pairs = append(pairs, [2]int{i, r.IntN(count)})
			measured[pairs[len(pairs)-1]] = true
		}
	}
	for range 100 {
		for _, pair := range pairs {
			i, j := pair[0], pair[1]
			if i == j {
				continue
			}
			noisy := rtt(i, j) * (1 + .03*r.NormFloat64())
			if err := all[i].Observe(fmt.Sprint(j), time.Duration(noisy*float64(ms)), all[j].Get()); err != nil {
				t.Fatal(err)
			}
		}
	}
	var errs []float64
	for i := range all {
		c := all[i].Known()
		if c == nil || c.Error > 1 || c.Adjustment != 0 {
			t.Fatalf("coordinate of node %d: %+v", i, c)
		}
		for j := range i {
			if !measured[[2]int{i, j}] && !measured[[2]int{j, i}] {
				predicted := float64(c.DistanceTo(all[j].Known())) / float64(ms)
				errs = append(errs, math.Abs(predicted-rtt(i, j))/rtt(i, j))
			}
		}
	}
	slices.Sort(errs)
	median, p90 := errs[len(errs)/2], errs[len(errs)*9/10]
	t.Logf("relative error of %d pairs: median %.1f %%, p90 %.1f %%", len(errs), 100*median, 100*p90)
	if median > .06 || p90 > .25 {
		t.Error("at most 6 % and 25 % were expected")
	}
}

func TestCoordinatesAreUnknownAtFirst(t *testing.T) {
	c := NewCoordinates()
	for i := range settledUpdates {
		if got := c.Known(); got != nil {
			t.Fatalf("after %d probes: %+v", i, got)
		}
		if got := c.Get(); got == nil || checkWire(got) != nil {
			t.Fatalf("for others after %d probes: %+v", i, got)
		}
		if err := c.Observe(fmt.Sprint(i%5), 20*ms, coordinateAt(0.01*float64(i%5))); err != nil {
			t.Fatal(err)
		}
	}
	if c.Known() == nil || c.Known() != c.Get() {
		t.Errorf("after %d probes: %+v, and for others %+v", settledUpdates, c.Known(), c.Get())
	}
}

func TestCoordinatesRefuseWhatCannotBeTrue(t *testing.T) {
	good := coordinateAt(0.02)
	change := func(f func(c *coordinate.Coordinate)) *coordinate.Coordinate {
		c := good.Clone()
		f(c)
		return c
	}
	for name, tc := range map[string]struct {
		rtt  time.Duration
		peer *coordinate.Coordinate
		want string
	}{
		"no round trip":          {0, good, "must be above 0"},
		"before it was sent":     {-ms, good, "must be above 0"},
		"longer than serf's":     {11 * time.Second, good, "at most 10s"},
		"no coordinate":          {ms, nil, "none"},
		"another number of axes": {ms, change(func(c *coordinate.Coordinate) { c.Vec = c.Vec[:3] }), "3 dimensions"},
		"not a number":           {ms, change(func(c *coordinate.Coordinate) { c.Vec[2] = math.NaN() }), "component NaN"},
		"infinitely far":         {ms, change(func(c *coordinate.Coordinate) { c.Vec[2] = math.Inf(1) }), "component +Inf"},
		"farther than the moon":  {ms, change(func(c *coordinate.Coordinate) { c.Vec[2] = 61 }), "component 61"},
		"below the ground":       {ms, change(func(c *coordinate.Coordinate) { c.Height = -1e-6 }), "height"},
		"surer than sure":        {ms, change(func(c *coordinate.Coordinate) { c.Error = -1 }), "error -1"},
		"an error of NaN":        {ms, change(func(c *coordinate.Coordinate) { c.Error = math.NaN() }), "error NaN"},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewCoordinates()
			for range settledUpdates {
				if err := c.Observe("a", 20*ms, good); err != nil {
					t.Fatal(err)
				}
			}
			before := c.Get()
			err := c.Observe("b", tc.rtt, tc.peer)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if c.Get() != before {
				t.Errorf("the coordinate moved from %+v to %+v", before, c.Get())
			}
		})
	}
}
