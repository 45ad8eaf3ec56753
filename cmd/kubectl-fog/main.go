// SPDX-License-Identifier: Apache-2.0

// kubectl-fog is a plugin of kubectl, `kubectl fog`: it shows the network between nodes and says why pods are where they are.
package main

import (
	"os"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/app"
)

// version is set by the linker.
var version = "unknown"

func main() {
	os.Exit(app.Main(version, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
