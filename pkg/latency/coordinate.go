// SPDX-License-Identifier: Apache-2.0

package latency

import "math"

// Dimensions is the length of a coordinate's vector: what github.com/hashicorp/serf/coordinate uses by default.
const Dimensions = 8

// MinError is the least error that is believed of an estimate, 1 %.
const MinError = 0.01

const (
	// maxReportedError is the error, 100 %, from which on a node's own word is that its coordinate says nothing: a new one starts
	// at 150 %. It counts where too few others measured the node to tell.
	maxReportedError = 1.0

	// maxObservedError is the error against what others measured above which a coordinate is not used, 40 %. On PlanetLab nine
	// settled nodes of ten are below it, and leaving out the tenth costs 2 % of the gain; on the Seattle data, which fit into no
	// space, estimates above it make placements worse than unknown does.
	maxObservedError = 0.4
)

// NetworkCoordinate is a node's place in the network's coordinate system: Vivaldi with height and adjustment as in
// github.com/hashicorp/serf/coordinate (F. Dabek et al., "Vivaldi: A Decentralized Network Coordinate System", SIGCOMM 2004;
// J. Ledlie, P. Gardner, M. Seltzer, "Network Coordinates in the Wild", NSDI 2007; S. Lee et al., "On Suitability of Euclidean
// Embedding for Host-Based Network Coordinate Systems", IEEE/ACM Transactions on Networking 18, 2010). It comes from outside
// and is unchecked until Check.
type NetworkCoordinate struct {
	// Vector is a place in Euclidean space, in microseconds, each within ±MaxRTT.
	Vector [Dimensions]float32
	// Height is the way from the node to the core of the network, in microseconds, from 0 to MaxRTT.
	Height float32
	// Adjustment corrects what the geometry gets wrong for this node, in microseconds, within ±MaxRTT.
	Adjustment float32
	// Error is that of estimates from this coordinate as a share of the RTT: 0.2 is 20 %. What is below 1 % counts as 1 %.
	Error float32
}

// CoordinateFromSeconds returns a coordinate from serf's numbers. A vector of another length gives one that Check refuses.
func CoordinateFromSeconds(vector []float64, height, adjustment, err float64) NetworkCoordinate {
	c := NetworkCoordinate{Height: float32(height * 1e6), Adjustment: float32(adjustment * 1e6), Error: float32(err)}
	if len(vector) != Dimensions {
		c.Error = float32(math.NaN())
		return c
	}
	for i, v := range vector {
		c.Vector[i] = float32(v * 1e6)
	}
	return c
}

// Check says why a coordinate is none; "" where it is one. Whether it is of use is for Judge to say.
func (c *NetworkCoordinate) Check() Reason {
	const limit = float64(MaxRTT) / 1e3
	for _, v := range append([]float32{c.Height, c.Adjustment}, c.Vector[:]...) {
		switch v := float64(v); {
		case math.IsNaN(v):
			return ReasonNaN
		case math.IsInf(v, 0):
			return ReasonInfinite
		case math.Abs(v) > limit:
			return ReasonTooLarge
		}
	}
	switch e := float64(c.Error); {
	case math.IsNaN(e):
		return ReasonNaN
	case c.Height < 0 || e < 0:
		return ReasonNotPositive
	case math.IsInf(e, 0):
		return ReasonInfinite
	}
	return ""
}

// RTT estimates the typical RTT between two nodes from coordinates that passed Check. It is serf's DistanceTo, but for what is 0,
// below, or above MaxRTT: that is unknown.
func (c *NetworkCoordinate) RTT(to *NetworkCoordinate) RTT {
	var square float32
	for i := range c.Vector {
		d := c.Vector[i] - to.Vector[i]
		square += d * d
	}
	// The brackets make it the same both ways.
	us := float32(math.Sqrt(float64(square))) + (c.Height + to.Height)
	if adjusted := us + (c.Adjustment + to.Adjustment); adjusted > 0 {
		us = adjusted
	}
	if !(us > 0) || us > maxMicros {
		return RTT{}
	}
	return RTT{us: us}
}

// ErrorTo is the relative error of RTT: both ends add to it, and by chance. On PlanetLab three estimates of four are within.
func (c *NetworkCoordinate) ErrorTo(to *NetworkCoordinate) float32 {
	return float32(math.Hypot(float64(c.Error), float64(to.Error)))
}
