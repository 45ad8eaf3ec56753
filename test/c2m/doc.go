// SPDX-License-Identifier: Apache-2.0

// Package c2m is the challenge of two million: HashiCorp's Nomad placed 2,000,000 containers on 6,100 hosts in 22 minutes, with 3 servers.
// Here the scheduler of Kubernetes with the plugin NodeLatency places 2,000,000 pods on 6,100 nodes. `make c2m` runs it.
//
// What is real: the scheduler's own loop, queue, cache and informers, all default plugins, and NodeLatency with its intents, its index, its
// snapshots and its Bind. What is not: there is no API server. Nodes and pods are objects in memory, a binding is accepted in the process, and
// what an API server would answer by its watch (the pod, then the bound pod) comes to the informers through a channel. So the figures say
// what the scheduler can decide, and not what a control plane can store.
//
// The test is behind the build tag c2m, because it takes minutes and gigabytes.
package c2m
