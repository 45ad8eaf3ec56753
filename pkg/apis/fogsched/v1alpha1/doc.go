// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the API group fogsched.dev/v1alpha1: what a team wants of its pods' latency (LatencyPolicy) and
// what a node measured (NodeLatency).
//
// +kubebuilder:object:generate=true
// +groupName=fogsched.dev
package v1alpha1
