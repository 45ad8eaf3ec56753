// SPDX-License-Identifier: Apache-2.0

// Package e2e tests fogsched and fogprobe in a real cluster, with real pods, Services and distances. `make e2e` makes the
// cluster; docs/e2e.md says how to run the tests in another one.
//
// The tests are behind the build tag e2e: they change the cluster that KUBECONFIG names, and nobody should run them there by
// `go test ./...`.
package e2e
