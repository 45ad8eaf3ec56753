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
				update(nl.Name, nil)
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
	update(nl.Name, Samples(nl))
}

// Samples returns what a NodeLatency says, unchecked. A peer of which every probe was lost is a failed sample.
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
