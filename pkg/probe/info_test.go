// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/serf/coordinate"
)

const infoOctets = `
	01                       # version
	01                       # flags: there is a coordinate
	00 00
	3f 00 00 00              # 0.5
	be 80 00 00              # -0.25
	3e 00 00 00              # 0.125
	00 00 00 00              # 0
	3f 80 00 00              # 1
	bf 80 00 00              # -1
	40 00 00 00              # 2
	c0 00 00 00              # -2
	3f 40 00 00              # error: 0.75
	bd 80 00 00              # adjustment: -0.0625
	3d 00 00 00              # height: 0.03125
	af 63 dc 4c 86 01 ec 8c  # a
	af 63 df 4c 86 01 f1 a5  # b
	af 63 de 4c 86 01 ef f2  # c
	00 00 00 00 00 00 00 00  # nobody
`

func TestInfoOnTheWire(t *testing.T) {
	want := octets(t, infoOctets)
	got := make([]byte, infoLen)
	for i := range got {
		got[i] = 0xff // whatever was there
	}
	somewhere().put(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("encoded (-want +got):\n%s", diff)
	}
	decoded, err := parseInfo(want)
	if diff := cmp.Diff(somewhere(), decoded); err != nil || diff != "" {
		t.Errorf("decoded: %v (-want +got):\n%s", err, diff)
	}
	if len(decoded.Coordinate.Vec) != int(coordinate.DefaultConfig().Dimensionality) {
		t.Errorf("%d dimensions, and serf has %d", len(decoded.Coordinate.Vec), coordinate.DefaultConfig().Dimensionality)
	}
}

func TestInfoThatSaysLittle(t *testing.T) {
	for name, tc := range map[string]struct{ say, want Info }{
		"nothing":             {},
		"only who is near":    {Info{Near: []uint64{7}}, Info{Near: []uint64{7}}},
		"too many near":       {Info{Near: []uint64{1, 2, 3, 4, 5}}, Info{Near: []uint64{1, 2, 3, 4}}},
		"nobody among them":   {Info{Near: []uint64{0, 2, 0, 4}}, Info{Near: []uint64{2, 4}}},
		"of other dimensions": {Info{Coordinate: &coordinate.Coordinate{Vec: []float64{1}}}, Info{}},
		"not a number":        {Info{Coordinate: &coordinate.Coordinate{Vec: make([]float64, 8), Error: math.NaN()}}, Info{}},
		"a new node's": {
			Info{Coordinate: coordinate.NewCoordinate(coordinate.DefaultConfig())},
			Info{Coordinate: &coordinate.Coordinate{Vec: make([]float64, 8), Error: 1.5, Height: float64(float32(10e-6))}},
		},
	} {
		b := make([]byte, infoLen)
		tc.say.put(b)
		got, err := parseInfo(b)
		if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestImpossibleCoordinates(t *testing.T) {
	good := octets(t, infoOctets)
	for name, tc := range map[string]struct {
		at    int // octet
		value float64
		want  error
	}{
		"a component that is no number": {4, math.NaN(), errCoordinate},
		"an infinite component":         {32, math.Inf(1), errCoordinate},
		"a component beyond the earth":  {8, 60.001, errCoordinate},
		"as far on the other side":      {8, -60.001, errCoordinate},
		"the farthest":                  {8, -60, nil},
		"an error below 0":              {36, -1e-9, errCoordinate},
		"an error above serf's largest": {36, 1.5001, errCoordinate},
		"an error that is no number":    {36, math.NaN(), errCoordinate},
		"serf's largest error":          {36, 1.5, nil},
		"an adjustment of no number":    {40, math.NaN(), errCoordinate},
		"an adjustment below the earth": {40, math.Inf(-1), errCoordinate},
		"an adjustment below 0":         {40, -1, nil},
		"a height below 0":              {44, -1e-9, errCoordinate},
		"a height that is no number":    {44, math.NaN(), errCoordinate},
		"a height beyond the earth":     {44, 61, errCoordinate},
		"no height":                     {44, 0, nil},
	} {
		b := append([]byte{}, good...)
		binary.BigEndian.PutUint32(b[tc.at:], math.Float32bits(float32(tc.value)))
		got, err := parseInfo(b)
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) || (got.Coordinate == nil) != (tc.want != nil) {
			t.Errorf("%s: %+v, %v; want %v", name, got, err, tc.want)
		}
		if diff := cmp.Diff(somewhere().Near, got.Near); diff != "" {
			t.Errorf("%s: near (-want +got):\n%s", name, diff)
		}
	}
}

func TestNameHash(t *testing.T) {
	// FNV-1a's offset basis, and a published value.
	for name, want := range map[string]uint64{"": 0xcbf29ce484222325, "foobar": 0x85944171f73967e8} {
		if got := NameHash(name); got != want {
			t.Errorf("%q: %#x, want %#x", name, got, want)
		}
	}
}
