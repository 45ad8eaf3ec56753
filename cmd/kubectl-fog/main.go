// SPDX-License-Identifier: Apache-2.0

// kubectl-fog is a plugin of kubectl, `kubectl fog`: it shows the network between nodes and says why pods are where they are.
package main

import (
	"os"
	"runtime/debug"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/app"
)

// version is set by the linker.
var version = "unknown"

// A command lives for a second or two: collecting what it decoded of a large cluster again and again would be a good part of that. The
// memory that garbage may take is bounded all the same. Whoever sets GOGC or GOMEMLIMIT knows better.
const (
	gcPercent   = 400
	memoryLimit = 1 << 30
)

func main() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(gcPercent)
		debug.SetMemoryLimit(memoryLimit)
	}
	os.Exit(app.Main(version, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
