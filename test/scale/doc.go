// SPDX-License-Identifier: Apache-2.0

// Package scale asks what thousands of probers cost: the API server, the scheduler, and the node of each. `make scale` runs it.
//
// The tests are behind the build tag scale, because they take minutes and fill the machine.
package scale
