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

// Run reports every NodeLatency as it changes, until ctx ends.
func (s *Source) Run(ctx context.Context, update source.Update) error {
	informer := cache.NewSharedIndexInformer(s.ListWatch, &v1alpha1.NodeLatency{}, 0, nil)
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { report(obj, update) },
		UpdateFunc: func(_, obj any) { report(obj, update) },
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if nl, ok := obj.(*v1alpha1.NodeLatency); ok {
				update(nl.Name, latency.Report{})
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watching NodeLatency objects: %w", err)
	}
	if s.Listed != nil {
		go func() {
			if cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
				s.Listed()
			}
		}()
	}
	informer.RunWithContext(ctx)
	return nil
}

func report(obj any, update source.Update) {
	nl, ok := obj.(*v1alpha1.NodeLatency)
	if !ok {
		return
	}
	update(nl.Name, ReportOf(nl))
}

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
