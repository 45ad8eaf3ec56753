// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package tools pins the Prometheus Operator, of which the tests take the CRDs.
package tools

import _ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"
