// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package tools pins the Prometheus, and the exporters, that the tests of pkg/source/prometheus and the demo run.
package tools

import (
	_ "github.com/prometheus/blackbox_exporter"
	_ "github.com/prometheus/node_exporter"
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
