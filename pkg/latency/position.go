// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	earthRadiusKilometres = 6371 // mean

	// fibreKilometresPerMilli is how far light comes in glass in 1 ms: 300 km in vacuum, divided by a refractive index of
	// about 1.5.
	fibreKilometresPerMilli = 200
)

// Position is a place on Earth. The zero value is an unknown one.
type Position struct {
	// A point of the unit sphere: the angle between two of them is cheap. All are 0 where the position is unknown.
	x, y, z float64
}

// ParsePosition reads "latitude,longitude" in degrees, for example "52.52,13.40": latitude from -90 to 90, longitude from
// -180 to 180.
func ParsePosition(text string) (Position, error) {
	lat, lon, ok := strings.Cut(text, ",")
	latitude, errLat := strconv.ParseFloat(strings.TrimSpace(lat), 64)
	longitude, errLon := strconv.ParseFloat(strings.TrimSpace(lon), 64)
	if !ok || errLat != nil || errLon != nil {
		return Position{}, errors.New(`must be latitude and longitude in degrees with a comma between, for example "52.52,13.40"`)
	}
	// Written so that NaN is refused.
	if !(math.Abs(latitude) <= 90) {
		return Position{}, errors.New("the latitude, which comes first, must be -90 to 90 degrees")
	}
	if !(math.Abs(longitude) <= 180) {
		return Position{}, errors.New("the longitude, which comes second, must be -180 to 180 degrees")
	}
	sinLat, cosLat := math.Sincos(latitude * math.Pi / 180)
	sinLon, cosLon := math.Sincos(longitude * math.Pi / 180)
	return Position{cosLat * cosLon, cosLat * sinLon, sinLat}, nil
}

// Known reports whether the position is known.
func (p Position) Known() bool { return p != Position{} }

// chord is the straight distance to another position, in radii of the Earth.
func (p Position) chord(to Position) float64 {
	return math.Sqrt((p.x-to.x)*(p.x-to.x) + (p.y-to.y)*(p.y-to.y) + (p.z-to.z)*(p.z-to.z))
}

// kilometres is the great-circle distance to another known position.
func (p Position) kilometres(to Position) float64 {
	// The angle from the chord: the arc cosine of a product would be inexact where it matters most, at short distances.
	return 2 * earthRadiusKilometres * math.Asin(min(p.chord(to)/2, 1))
}

// LeastRTT is the time that light in fibre takes along the great circle and back: no RTT between the two places can be below
// it. It is 0 where one of them is unknown.
func (p Position) LeastRTT(to Position) time.Duration {
	if !p.Known() || !to.Known() {
		return 0
	}
	return time.Duration(2 * p.kilometres(to) / fibreKilometresPerMilli * float64(time.Millisecond))
}

// fasterThanLight reports whether a known RTT is below LeastRTT.
func fasterThanLight(rtt RTT, a, b Position) bool {
	if !a.Known() || !b.Known() {
		return false
	}
	// An arc is at most π/2 times its chord, which is enough to know of nearly all pairs.
	const microsPerRadius = 2 * earthRadiusKilometres / float64(fibreKilometresPerMilli) * 1000
	if float64(rtt.us) >= a.chord(b)*microsPerRadius*math.Pi/2 {
		return false
	}
	d, _ := rtt.Duration()
	return d < a.LeastRTT(b)
}
