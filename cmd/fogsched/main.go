// SPDX-License-Identifier: Apache-2.0

// fogsched is kube-scheduler with plugins that know the latency between nodes.
package main

import (
	"os"

	"k8s.io/component-base/cli"

	"github.com/fogsched/fogsched/cmd/fogsched/app"
)

func main() {
	app.RegisterMetrics()
	os.Exit(cli.Run(app.NewCommand()))
}
