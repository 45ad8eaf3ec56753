// SPDX-License-Identifier: Apache-2.0

// Package app is the command fogsched: kube-scheduler with plugins that know the latency between nodes. It takes every flag and
// configuration that kube-scheduler takes.
package app

import (
	"os"

	"github.com/spf13/cobra"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of the requests to the API server
	_ "k8s.io/component-base/metrics/prometheus/version"  // the metric kubernetes_build_info
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	_ "sigs.k8s.io/scheduler-plugins/apis/config/scheme" // the arguments of its plugins
	"sigs.k8s.io/scheduler-plugins/pkg/coscheduling"
	"sigs.k8s.io/scheduler-plugins/pkg/networkaware/networkoverhead"
	"sigs.k8s.io/scheduler-plugins/pkg/networkaware/topologicalsort"
	"sigs.k8s.io/scheduler-plugins/pkg/trimaran/loadvariationriskbalancing"
	"sigs.k8s.io/scheduler-plugins/pkg/trimaran/lowriskovercommitment"
	"sigs.k8s.io/scheduler-plugins/pkg/trimaran/peaks"
	"sigs.k8s.io/scheduler-plugins/pkg/trimaran/targetloadpacking"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/metrics"
	"github.com/fogsched/fogsched/pkg/plugins/nodelatency"
	"github.com/fogsched/fogsched/pkg/plugins/nodemetrics"
)

// Plugins are the scheduling plugins that fogsched has beside those in the tree.
func Plugins() []app.Option {
	return []app.Option{
		app.WithPlugin(nodelatency.Name, nodelatency.NewWith(nodelatency.Options{PostFilters: postFilters})),
		app.WithPlugin(nodemetrics.Name, nodemetrics.New),
		app.WithPlugin(coscheduling.Name, coscheduling.New),
		app.WithPlugin(networkoverhead.Name, networkoverhead.New),
		app.WithPlugin(topologicalsort.Name, topologicalsort.New),
		app.WithPlugin(loadvariationriskbalancing.Name, loadvariationriskbalancing.New),
		app.WithPlugin(lowriskovercommitment.Name, lowriskovercommitment.New),
		app.WithPlugin(peaks.Name, peaks.New),
		app.WithPlugin(targetloadpacking.Name, targetloadpacking.New),
	}
}

// postFilters returns the names of the PostFilter plugins of a profile, in their order.
func postFilters(handle fwk.Handle) (names []string) {
	if f, ok := handle.(framework.Framework); ok {
		for _, p := range f.ListPlugins().PostFilter.Enabled {
			names = append(names, p.Name)
		}
	}
	return names
}

// RegisterMetrics registers fogsched's metrics where kube-scheduler's are, once in the life of the process.
func RegisterMetrics() { metrics.Register(legacyregistry.RawMustRegister) }

// NewCommand returns the command.
func NewCommand() *cobra.Command {
	cmd := app.NewSchedulerCommand(Plugins()...)
	cmd.Use = "fogsched"
	cmd.Long = `fogsched places pods by the measured latency between nodes, and by metrics of the nodes that Prometheus has. It is
kube-scheduler with the plugins NodeLatency and NodeMetrics, and with NetworkOverhead, TopologicalSort, Coscheduling and
Trimaran's TargetLoadPacking, LoadVariationRiskBalancing, LowRiskOverCommitment and Peaks of scheduler-plugins, so that one
profile can mix them. It runs beside kube-scheduler and schedules the pods whose schedulerName is the name of one of its
profiles.

Every flag is kube-scheduler's; only the default of --leader-elect-resource-name differs, so that the two never contend for
one lease.`
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := useOwnLease(cmd); err != nil {
			return err
		}
		return run(cmd, args)
	}
	return cmd
}

const (
	leaseFlag = "leader-elect-resource-name"
	leaseName = "fogsched"
)

// useOwnLease names our lease unless the user did, by flag or in the configuration file: under kube-scheduler's name one of
// the two schedulers would stand still.
func useOwnLease(cmd *cobra.Command) error {
	if cmd.Flags().Changed(leaseFlag) {
		return nil
	}
	if path, err := cmd.Flags().GetString("config"); err == nil && path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var config struct {
			LeaderElection struct {
				ResourceName string `json:"resourceName"`
			} `json:"leaderElection"`
		}
		// The scheduler itself reads the file strictly and says what is wrong with it.
		if yaml.Unmarshal(data, &config) == nil && config.LeaderElection.ResourceName != "" {
			return nil
		}
	}
	return cmd.Flags().Set(leaseFlag, leaseName)
}
