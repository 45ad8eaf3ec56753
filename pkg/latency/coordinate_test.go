// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/serf/coordinate"
)

// TestCoordinateRTTIsSerfs compares with the library that the probers use.
func TestCoordinateRTTIsSerfs(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() *coordinate.Coordinate {
		c := coordinate.NewCoordinate(coordinate.DefaultConfig())
		for i := range c.Vec {
			c.Vec[i] = rng.NormFloat64() * 0.05
		}
		c.Height, c.Adjustment, c.Error = 0.01*rng.Float64(), 0.05*rng.NormFloat64(), rng.Float64()
		return c
	}
	ours := func(c *coordinate.Coordinate) *NetworkCoordinate {
		nc := CoordinateFromSeconds(c.Vec, c.Height, c.Adjustment, c.Error)
		if r := nc.Check(); r != "" {
			t.Fatalf("%+v is refused: %s", c, r)
		}
		return &nc
	}
	unadjusted := 0
	for range 1000 {
		a, b := random(), random()
		want := a.DistanceTo(b)
		got, ok := ours(a).RTT(ours(b)).Duration()
		if !ok || (got-want).Abs() > 2*time.Microsecond {
			t.Fatalf("RTT = %v, serf says %v", got, want)
		}
		if back, _ := ours(b).RTT(ours(a)).Duration(); back != got {
			t.Fatalf("%v one way, %v the other", got, back)
		}
		if want := math.Hypot(a.Error, b.Error); math.Abs(float64(ours(a).ErrorTo(ours(b)))-want) > 1e-6 {
			t.Fatalf("ErrorTo = %g, want %g", ours(a).ErrorTo(ours(b)), want)
		}
		plain := *a
		plain.Adjustment = -b.Adjustment
		if plain.DistanceTo(b) == want { // the sum was not above 0
			unadjusted++
		}
	}
	if unadjusted == 0 {
		t.Error("no adjustment was left out: the test does not see what happens then")
	}
}

func TestCoordinateWithoutADistance(t *testing.T) {
	tests := map[string]struct{ a, b NetworkCoordinate }{
		"two nodes in one place without a height":       {NetworkCoordinate{}, NetworkCoordinate{}},
		"an adjustment that takes all away, no height":  {NetworkCoordinate{Adjustment: -5}, NetworkCoordinate{}},
		"farther than any RTT":                          {NetworkCoordinate{Height: 40e6}, NetworkCoordinate{Height: 40e6}},
		"not a number":                                  {NetworkCoordinate{Height: float32(math.NaN())}, NetworkCoordinate{}},
		"not a number, behind an adjustment":            {NetworkCoordinate{Height: 1, Adjustment: float32(math.NaN())}, NetworkCoordinate{Height: float32(math.Inf(1))}},
		"infinitely far":                                {NetworkCoordinate{Height: float32(math.Inf(1))}, NetworkCoordinate{}},
		"so far that the square of it is out of bounds": {NetworkCoordinate{Vector: [8]float32{math.MaxFloat32}}, NetworkCoordinate{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.a.RTT(&tt.b); got.Known() {
				t.Errorf("RTT = %s, want unknown", got)
			}
		})
	}
}

func TestCheckCoordinate(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	tests := map[string]struct {
		change func(*NetworkCoordinate)
		want   Reason
	}{
		"as it is":              {func(*NetworkCoordinate) {}, ""},
		"no number in it":       {func(c *NetworkCoordinate) { c.Vector[7] = nan }, ReasonNaN},
		"infinite":              {func(c *NetworkCoordinate) { c.Vector[0] = -inf }, ReasonInfinite},
		"farther than MaxRTT":   {func(c *NetworkCoordinate) { c.Vector[3] = -61e6 }, ReasonTooLarge},
		"a height below 0":      {func(c *NetworkCoordinate) { c.Height = -1 }, ReasonNotPositive},
		"a height without end":  {func(c *NetworkCoordinate) { c.Height = inf }, ReasonInfinite},
		"a bad adjustment":      {func(c *NetworkCoordinate) { c.Adjustment = nan }, ReasonNaN},
		"too much adjustment":   {func(c *NetworkCoordinate) { c.Adjustment = 61e6 }, ReasonTooLarge},
		"less than nothing":     {func(c *NetworkCoordinate) { c.Adjustment = -1000 }, ""},
		"an error below 0":      {func(c *NetworkCoordinate) { c.Error = -0.1 }, ReasonNotPositive},
		"an error of no number": {func(c *NetworkCoordinate) { c.Error = nan }, ReasonNaN},
		"an error without end":  {func(c *NetworkCoordinate) { c.Error = inf }, ReasonInfinite},
		"a vector too short":    {func(c *NetworkCoordinate) { *c = CoordinateFromSeconds([]float64{1, 2}, 0, 0, 0.1) }, ReasonNaN},
		"a vector too long":     {func(c *NetworkCoordinate) { *c = CoordinateFromSeconds(make([]float64, 9), 0, 0, 0.1) }, ReasonNaN},
		"beyond float32": {func(c *NetworkCoordinate) {
			*c = CoordinateFromSeconds([]float64{1e300, 0, 0, 0, 0, 0, 0, 0}, 0, 0, 0.1)
		}, ReasonInfinite},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := CoordinateFromSeconds([]float64{0.01, -0.02, 0, 0, 0, 0, 0, 0.03}, 0.001, 0.0001, 0.2)
			tt.change(&c)
			if got := c.Check(); got != tt.want {
				t.Errorf("Check() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestConfidence(t *testing.T) {
	for want, e := range map[string]Estimate{
		"unknown":         {},
		"measured":        {Provenance: Measured},
		"coordinate ±22%": {Provenance: Coordinate, Error: 0.212},
		"coordinate ±20%": {Provenance: Coordinate, Error: 0.2},
		"coordinate ±1%":  {Provenance: Coordinate, Error: 0.0001},
	} {
		if got := e.Confidence(); got != want {
			t.Errorf("Confidence() = %q, want %q", got, want)
		}
	}
}
