// SPDX-License-Identifier: Apache-2.0

//go:build load

package load

import (
	"fmt"
	"strings"
)

// contestant is a scheduler with its profile.
type contestant struct {
	name   string // of the scheduler, in what pods and worlds are called
	title  string
	binary string
	// profile is a KubeSchedulerConfiguration's profile without its schedulerName; PROMETHEUS stands for the address.
	profile string
}

const ours = "nodemetrics"

// contestants are configured as their own documentation recommends.
var contestants = []contestant{
	{name: "stock", title: "stock kube-scheduler", binary: "kube-scheduler", profile: "\n"},
	{
		name: "targetload", title: "TargetLoadPacking", binary: "fogsched",
		// The example of the plugin's README, with the new name of what it disables.
		profile: `
  plugins:
    score:
      disabled:
      - name: NodeResourcesBalancedAllocation
      - name: NodeResourcesFit
      enabled:
      - name: TargetLoadPacking
  pluginConfig:
  - name: TargetLoadPacking
    args:
      defaultRequests: {cpu: 2000m}
      defaultRequestsMultiplier: "2"
      targetUtilization: 70
      metricProvider: {type: Prometheus, address: PROMETHEUS}
`,
	},
	{
		// The same beside the scores of the default profile, which keep it from filling one node.
		name: "targetloadmixed", title: "TargetLoadPacking and default scores", binary: "fogsched",
		profile: `
  plugins:
    score:
      enabled:
      - name: TargetLoadPacking
  pluginConfig:
  - name: TargetLoadPacking
    args:
      defaultRequests: {cpu: 2000m}
      defaultRequestsMultiplier: "2"
      targetUtilization: 70
      metricProvider: {type: Prometheus, address: PROMETHEUS}
`,
	},
	{
		name: "loadvariation", title: "LoadVariationRiskBalancing", binary: "fogsched",
		profile: `
  plugins:
    score:
      enabled:
      - name: LoadVariationRiskBalancing
  pluginConfig:
  - name: LoadVariationRiskBalancing
    args:
      safeVarianceMargin: 1
      safeVarianceSensitivity: 2
      metricProvider: {type: Prometheus, address: PROMETHEUS}
`,
	},
	{
		name: ours, title: "NodeMetrics", binary: "fogsched",
		profile: `
  plugins:
    multiPoint:
      enabled:
      - name: NodeMetrics
        weight: 10
  pluginConfig:
  - name: NodeMetrics
    args:
      prometheus: {address: PROMETHEUS}
      metrics:
      - preset: cpu-variation
`,
	},
}

// config is the KubeSchedulerConfiguration of a contestant.
func (c contestant) config(prometheus string) []byte {
	return fmt.Appendf(nil, `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: %s%s`, c.name, strings.ReplaceAll(c.profile, "PROMETHEUS", prometheus))
}
