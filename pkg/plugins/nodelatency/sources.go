// SPDX-License-Identifier: Apache-2.0

package nodelatency

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"github.com/fogsched/fogsched/pkg/source"
)

// NewWithSources returns a New whose plugin takes latencies from further sources, by name, beside the NodeLatency objects.
// Profiles that share their data share the sources: each runs once.
func NewWithSources(sources map[string]source.Source) func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
	var mu sync.Mutex
	started := map[*engine]bool{}
	return func(ctx context.Context, obj runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
		plugin, err := New(ctx, obj, handle)
		if err != nil {
			return nil, err
		}
		e := plugin.(*NodeLatency).engine
		mu.Lock()
		defer mu.Unlock()
		if started[e] {
			return plugin, nil
		}
		started[e] = true
		for name, src := range sources {
			go func() {
				if err := src.Run(ctx, e.store.Sink(name)); err != nil {
					klog.FromContext(ctx).Error(err, "The source of latencies ended", "source", name)
				}
			}()
		}
		return plugin, nil
	}
}
