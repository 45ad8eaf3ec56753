// SPDX-License-Identifier: Apache-2.0

// Package nodelatency takes latencies from the NodeLatency objects that probers publish.
package nodelatency

import (
	"context"
	"fmt"
	"math"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
	"github.com/fogsched/fogsched/pkg/latency"
	"github.com/fogsched/fogsched/pkg/source"
)

// Source watches NodeLatency objects. The kind must be served when Run is called.
type Source struct {
	ListWatch cache.ListerWatcher
	// Listed, which may be nil, is called once, when every object that was there at the start has been reported.
	Listed func()
}

// Run reports every NodeLatency as it changes, until ctx ends. It keeps none: at 15,000 nodes the objects would take up more than
// 100 MB, and what they say is with whom they are reported to.
func (s *Source) Run(ctx context.Context, update source.Update) error {
	r := cache.NewReflectorWithOptions(s.ListWatch, &v1alpha1.NodeLatency{}, &reporter{update: update, listed: s.Listed},
		cache.ReflectorOptions{Name: "nodelatency"})
	r.RunWithContext(ctx)
	return nil
}

// reporter is a reflector's store that passes on what it is given. A reflector calls it from one goroutine.
type reporter struct {
	update source.Update
	listed func() // nil when it was called
	names  map[string]struct{}
}

// Add reports an object.
func (r *reporter) Add(obj any) error {
	nl, ok := obj.(*v1alpha1.NodeLatency)
	if !ok {
		return fmt.Errorf("watching NodeLatency objects: got a %T", obj)
	}
	if r.names == nil {
		r.names = map[string]struct{}{}
	}
	r.names[nl.Name] = struct{}{}
	r.update(nl.Name, ReportOf(nl))
	return nil
}

// Update reports an object.
func (r *reporter) Update(obj any) error { return r.Add(obj) }

// Delete withdraws what an object said.
func (r *reporter) Delete(obj any) error {
	nl, ok := obj.(*v1alpha1.NodeLatency)
	if !ok {
		return fmt.Errorf("watching NodeLatency objects: got a %T", obj)
	}
	delete(r.names, nl.Name)
	r.update(nl.Name, latency.Report{})
	return nil
}

// Replace reports all objects there are, and withdraws what others said: a watch that broke may have missed that they went.
func (r *reporter) Replace(list []any, _ string) error {
	gone := r.names
	r.names = make(map[string]struct{}, len(list))
	for _, obj := range list {
		if err := r.Add(obj); err != nil {
			return err
		}
	}
	for name := range gone {
		if _, ok := r.names[name]; !ok {
			r.update(name, latency.Report{})
		}
	}
	if r.listed != nil {
		r.listed()
		r.listed = nil
	}
	return nil
}

// Resync does nothing: nothing is kept that could be reported again.
func (r *reporter) Resync() error { return nil }

// ReportOf returns what a NodeLatency says, unchecked.
func ReportOf(nl *v1alpha1.NodeLatency) latency.Report {
	r := latency.Report{Samples: Samples(nl), Starved: nl.Status.Starved}
	if d := nl.Status.RefreshInterval; d != nil {
		r.Refresh = d.Duration
	}
	if c := nl.Status.Coordinate; c != nil {
		vector := make([]float64, len(c.VectorMicros))
		for i, us := range c.VectorMicros {
			vector[i] = float64(us) / 1e6
		}
		nc := latency.CoordinateFromSeconds(vector, float64(c.HeightMicros)/1e6, float64(c.AdjustmentMicros)/1e6, float64(c.ErrorPercent)/100)
		r.Coordinate = &nc
	}
	return r
}

// Samples returns the samples of a NodeLatency, unchecked. A peer without an RTT, of which every recent probe was lost, is a failed
// sample: its time is the report's, because a probe that was not answered has none of its own.
func Samples(nl *v1alpha1.NodeLatency) []latency.Sample {
	samples := make([]latency.Sample, 0, len(nl.Status.Peers))
	for i := range nl.Status.Peers {
		p := &nl.Status.Peers[i]
		s := latency.Sample{
			From: nl.Name, To: p.Node, Count: p.Samples, Lost: p.Lost,
			Typical: seconds(p.Typical), Tail: seconds(p.Tail), Failed: p.Typical == nil,
		}
		if p.At != nil {
			s.At = p.At.Time
		}
		if observed := nl.Status.ObservedAt; s.Failed && observed != nil && observed.After(s.At) {
			s.At = observed.Time
		}
		samples = append(samples, s)
	}
	return samples
}

func seconds(d *metav1.Duration) float64 {
	if d == nil {
		return math.NaN()
	}
	return d.Seconds()
}
