// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package tools pins the control plane that the demo and the integration tests run; the Makefile builds it into bin/.
// It is a module of its own because scheduler-plugins' requirements make kube-controller-manager ambiguous to import.
//
// Its indirect requirements follow the product's go.mod where both have them: what both compile is then compiled once.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubeadm"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
