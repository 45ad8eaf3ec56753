// SPDX-License-Identifier: Apache-2.0

// Package load asks where schedulers put a burst of pods when the load differs between nodes: NodeMetrics, Trimaran's plugins, and the
// stock scheduler, all on the data of one Prometheus. `make load` runs it.
//
// The test is behind the build tag load, because it takes minutes.
package load
