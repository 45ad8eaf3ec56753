// SPDX-License-Identifier: Apache-2.0

package internal

import (
	"context"
	"runtime/debug"
	"sync"

	"k8s.io/klog/v2"

	"github.com/fogsched/fogsched/pkg/metrics"
)

// Guard keeps a bug of ours from stopping the scheduler, which does not recover a plugin's panics. Defer Recover in every
// extension point: it counts the panic, logs the first one of each extension point with its stack, and lets the
// extension point return as if the pod had no intent.
type Guard struct {
	plugin string
	logged sync.Map // extension point → struct{}
}

// NewGuard returns the guard of a plugin.
func NewGuard(plugin string) *Guard {
	// The first panic is an increase only of a series that was there before.
	for _, p := range extensionPoints {
		metrics.Panics.WithLabelValues(plugin, p)
	}
	return &Guard{plugin: plugin}
}

// extensionPoints are those of a scheduling cycle.
var extensionPoints = []string{
	"SignPod", "PreFilter", "Filter", "PostFilter", "PreScore", "Score", "NormalizeScore", "Reserve", "Unreserve", "Bind", "PostBind",
}

// Recover ends a panic. failOpen, which may be nil, sets the results of the extension point.
func (g *Guard) Recover(ctx context.Context, extensionPoint string, failOpen func()) {
	r := recover()
	if r == nil {
		return
	}
	metrics.Panics.WithLabelValues(g.plugin, extensionPoint).Inc()
	if _, seen := g.logged.LoadOrStore(extensionPoint, struct{}{}); !seen {
		klog.FromContext(ctx).Error(nil, "Recovered a panic; going on without this plugin. Further ones of this extension point are counted, not logged",
			"plugin", g.plugin, "extensionPoint", extensionPoint, "panic", r, "stack", string(debug.Stack()))
	}
	if failOpen != nil {
		failOpen()
	}
}
