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
	// ours tells whether the plugin is NodeMetrics.
	ours bool
	// profile is a KubeSchedulerConfiguration's profile without its schedulerName; PROMETHEUS stands for the address.
	profile string
}

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
		name: "nodemetrics", title: "NodeMetrics", binary: "fogsched", ours: true,
		profile: nodeMetrics(`{preset: cpu-variation}`),
	},
	{
		// What an administrator sees in Prometheus: how much pods use of what they ask for. No other contestant can be told.
		name: "nodemetricsfactor", title: "NodeMetrics, factor 0.65", binary: "fogsched", ours: true,
		profile: nodeMetrics(`{preset: cpu-variation, podEffect: {resource: cpu, per: Allocatable, factor: 0.65}}`),
	},
}

// nodeMetrics is the profile of the plugin's README with another metric.
func nodeMetrics(metric string) string {
	return `
  plugins:
    multiPoint:
      enabled:
      - name: NodeMetrics
        weight: 5
  pluginConfig:
  - name: NodeMetrics
    args:
      prometheus: {address: PROMETHEUS}
      metrics:
      - ` + metric + "\n"
}

// config is the KubeSchedulerConfiguration of a contestant.
func (c contestant) config(prometheus string) []byte {
	return fmt.Appendf(nil, `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: %s%s`, c.name, strings.ReplaceAll(c.profile, "PROMETHEUS", prometheus))
}
