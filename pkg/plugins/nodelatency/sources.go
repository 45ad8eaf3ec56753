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

// Options are what a scheduler knows of itself and its plugins do not.
type Options struct {
	// PostFilters returns the names of the PostFilter plugins of the profile that a handle is of, in their order. Narrowing needs it: a plugin
	// that makes room by preemption must not see a pod that merely was not tried on all nodes. Without it nothing is narrowed.
	PostFilters func(fwk.Handle) []string

	// Sources bring latencies beside the NodeLatency objects and Prometheus, by name. Profiles that share their data share the sources:
	// each runs once.
	Sources map[string]source.Source
}

// NewWith returns a New with options.
func NewWith(o Options) func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
	var mu sync.Mutex
	started := map[*engine]bool{}
	return func(ctx context.Context, obj runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
		plugin, err := New(ctx, obj, handle)
		if err != nil {
			return nil, err
		}
		p := plugin.(*NodeLatency)
		p.postFilters = o.PostFilters
		e := p.engine
		mu.Lock()
		defer mu.Unlock()
		if started[e] {
			return plugin, nil
		}
		started[e] = true
		for name, src := range o.Sources {
			go func() {
				if err := src.Run(ctx, e.store.Sink(name)); err != nil {
					klog.FromContext(ctx).Error(err, "The source of latencies ended", "source", name)
				}
			}()
		}
		return plugin, nil
	}
}
