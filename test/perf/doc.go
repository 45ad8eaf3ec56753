// SPDX-License-Identifier: Apache-2.0

// Package perf asks what placement by latency costs a scheduler: fogsched beside the stock profile, NetworkOverhead and inter-pod affinity,
// on the same nodes and pods. `make perf` runs it. Whatever it says is a ratio of two contestants that ran in turn on one machine.
//
// The tests are behind the build tag perf, because they take minutes.
package perf
