// SPDX-License-Identifier: Apache-2.0

// Package manifests holds what fogsched is installed with.
package manifests

import _ "embed"

// SchedulerConfig is the KubeSchedulerConfiguration that is shipped.
//
//go:embed base/config.yaml
var SchedulerConfig []byte
