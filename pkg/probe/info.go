// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"

	"github.com/hashicorp/serf/coordinate"
)

const (
	// Dimensions is the number of dimensions of a network coordinate on the wire: that of serf's default configuration.
	Dimensions = 8
	// MaxNear is how many near peers a reflector names.
	MaxNear = 4
	// maxComponent bounds what a coordinate may hold, in seconds: nothing on earth is farther than the longest round
	// trip that is believed.
	maxComponent = 60
	// maxCoordinateError is the largest error that serf's algorithm gives a coordinate: that of a node that knows nothing.
	maxCoordinateError = 1.5
)

// Info is what a reflector says of itself in its answer. It is a claim: an RTT is measured, and this is not.
type Info struct {
	// Coordinate is the reflector's network coordinate: Dimensions components, all in seconds, within ±60 s; an error
	// from 0 to 1.5; a height of at least 0. nil when it has none, or one that is impossible.
	Coordinate *coordinate.Coordinate
	// Near are the NameHashes of the peers that are nearest to the reflector, the nearest first: at most MaxNear, none
	// of them 0.
	Near []uint64
}

// NameHash returns the hash of a node's name by which Info.Near names it. It is never 0, which names nobody.
func NameHash(node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node))
	if sum := h.Sum64(); sum != 0 {
		return sum
	}
	return 1
}

// The value of our TLV:
//
//	octet   0      version, infoVersion; 0 in a request, which is all zero
//	        1      flags: 1 = a coordinate is there; the others are zero
//	        2–3    zero
//	        4–35   Vec, 8 numbers
//	       36–39   Error
//	       40–43   Adjustment
//	       44–47   Height
//	       48–79   Near, 4 hashes of 64 bits; 0 = none
//
// All in network byte order; the numbers are IEEE 754's of 32 bits, which is exact to 1 part in 10⁷.
const (
	infoLen        = 80
	infoVersion    = 1
	infoCoordinate = 1 // the flag
)

// errInfo says that the value of our TLV is not one that this version writes.
var errInfo = errors.New("no reflector information of this version")

// errCoordinate says that a coordinate is impossible. The rest of the information may be used.
var errCoordinate = errors.New("impossible coordinate")

// put writes the information into b, which has infoLen octets. A coordinate that is impossible is left out, as are
// hashes after the fourth.
func (i Info) put(b []byte) {
	clear(b[:infoLen])
	b[0] = infoVersion
	if checkWire(i.Coordinate) == nil {
		b[1] = infoCoordinate
		at := 4
		for _, f := range i.Coordinate.Vec {
			at = putFloat(b, at, f)
		}
		at = putFloat(b, at, i.Coordinate.Error)
		at = putFloat(b, at, i.Coordinate.Adjustment)
		putFloat(b, at, i.Coordinate.Height)
	}
	at := 48
	for k, near := range i.Near {
		if k == MaxNear {
			break
		}
		binary.BigEndian.PutUint64(b[at:], near)
		at += 8
	}
}

func putFloat(b []byte, at int, f float64) int {
	binary.BigEndian.PutUint32(b[at:], math.Float32bits(float32(f)))
	return at + 4
}

// parseInfo decodes the value of our TLV. The error is errInfo, with an empty Info, or errCoordinate, with an Info without
// a coordinate.
func parseInfo(b []byte) (Info, error) {
	if len(b) != infoLen || b[0] != infoVersion || b[1]&^infoCoordinate != 0 || b[2] != 0 || b[3] != 0 {
		return Info{}, errInfo
	}
	var i Info
	for at := 48; at < infoLen; at += 8 {
		if near := binary.BigEndian.Uint64(b[at:]); near != 0 {
			i.Near = append(i.Near, near)
		}
	}
	if b[1] == 0 {
		return i, nil
	}
	float := func(at int) float64 { return float64(math.Float32frombits(binary.BigEndian.Uint32(b[at:]))) }
	c := &coordinate.Coordinate{Vec: make([]float64, Dimensions), Error: float(36), Adjustment: float(40), Height: float(44)}
	for k := range c.Vec {
		c.Vec[k] = float(4 + 4*k)
	}
	if err := checkWire(c); err != nil {
		return i, err
	}
	i.Coordinate = c
	return i, nil
}

// checkWire returns why a coordinate cannot be one, as an errCoordinate.
func checkWire(c *coordinate.Coordinate) error {
	if c == nil {
		return fmt.Errorf("%w: none", errCoordinate)
	}
	if len(c.Vec) != Dimensions {
		return fmt.Errorf("%w: %d dimensions, want %d", errCoordinate, len(c.Vec), Dimensions)
	}
	for _, f := range c.Vec {
		if !within(f, -maxComponent, maxComponent) {
			return fmt.Errorf("%w: component %v s", errCoordinate, f)
		}
	}
	switch {
	case !within(c.Adjustment, -maxComponent, maxComponent):
		return fmt.Errorf("%w: adjustment %v s", errCoordinate, c.Adjustment)
	case !within(c.Height, 0, maxComponent):
		return fmt.Errorf("%w: height %v s", errCoordinate, c.Height)
	case !within(c.Error, 0, maxCoordinateError):
		return fmt.Errorf("%w: error %v", errCoordinate, c.Error)
	default:
		return nil
	}
}

// within returns whether a number is from least to most. NaN is not.
func within(f, least, most float64) bool { return f >= least && f <= most }
