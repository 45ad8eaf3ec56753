// SPDX-License-Identifier: Apache-2.0

// Package source is where latencies come from. A source is one method; the store runs it and takes what it says.
package source

import (
	"context"

	"github.com/fogsched/fogsched/pkg/latency"
)

// Update replaces what a source knows from one reporting node. An empty report withdraws it.
type Update func(from string, report latency.Report)

// Source brings samples until ctx ends. It retries by itself; an error means that it can never work, and the scheduler
// goes on without it.
type Source interface {
	Run(ctx context.Context, update Update) error
}
