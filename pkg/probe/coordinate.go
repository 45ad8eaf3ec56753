// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/serf/coordinate"
)

const (
	// settledUpdates is how many probes a coordinate has to rest on before it is told to others: those of the adjustment's window.
	settledUpdates = 20
	// maxCoordinateRTT is the longest RTT that serf's algorithm takes.
	maxCoordinateRTT = 10 * time.Second
)

// Coordinates keeps the node's network coordinate (Vivaldi, as serf has it): a point whose distance from another node's
// predicts the RTT of a pair that nobody measured. It is safe for concurrent use.
type Coordinates struct {
	client  *coordinate.Client
	current atomic.Pointer[coordinate.Coordinate]
	updates atomic.Int64
}

// NewCoordinates returns a coordinate at the origin, of which nothing is known yet.
func NewCoordinates() *Coordinates {
	config := coordinate.DefaultConfig()
	// serf's adjustment moves all predictions of a node by half of its mean error. That does not make them better in the median,
	// and draws those of near pairs, which placements rest on, too low.
	config.AdjustmentWindowSize = 0
	client, err := coordinate.NewClient(config)
	if err != nil {
		panic(err) // the default configuration is valid
	}
	c := &Coordinates{client: client}
	c.current.Store(client.GetCoordinate())
	return c
}

// Observe takes the RTT to a peer and the peer's coordinate. What cannot be true changes nothing; the error says what it is.
func (c *Coordinates) Observe(name string, rtt time.Duration, peer *coordinate.Coordinate) error {
	if rtt <= 0 || rtt > maxCoordinateRTT {
		return fmt.Errorf("round trip of %v: must be above 0 and at most %v", rtt, maxCoordinateRTT)
	}
	if err := checkWire(peer); err != nil {
		return fmt.Errorf("coordinate of %s: %w", name, err)
	}
	next, err := c.client.Update(name, peer, rtt)
	if err != nil {
		return fmt.Errorf("coordinate of %s: %w", name, err)
	}
	c.current.Store(next)
	c.updates.Add(1)
	return nil
}

// Forget drops what is kept of a peer that is not probed any more.
func (c *Coordinates) Forget(name string) { c.client.ForgetNode(name) }

// Get returns the present coordinate, for other probers: at the origin, with the largest error, as long as nothing is known.
// Nobody may change it.
func (c *Coordinates) Get() *coordinate.Coordinate { return c.current.Load() }

// Known returns the present coordinate, or nil while it rests on too few probes to predict anything. Nobody may change it.
func (c *Coordinates) Known() *coordinate.Coordinate {
	if c.updates.Load() < settledUpdates {
		return nil
	}
	return c.current.Load()
}
