// SPDX-License-Identifier: Apache-2.0

//go:build perf

package perf

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulerperf "k8s.io/kubernetes/test/integration/scheduler_perf"

	"github.com/fogsched/fogsched/cmd/fogsched/app"
	"github.com/fogsched/fogsched/test/program"
)

// configVariable names the file of scheduler_perf's test cases, in the place of performance-config.yaml.
const configVariable = "FOGSCHED_PERF_CONFIG"

func TestMain(m *testing.M) {
	if err := schedulerperf.InitTests(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// BenchmarkPerfScheduling runs upstream's harness with the plugins of cmd/fogsched. It starts an API server in this process, and etcd.
func BenchmarkPerfScheduling(b *testing.B) {
	dir, err := program.BinDir()
	if err != nil {
		b.Fatal(err)
	}
	b.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	registry := frameworkruntime.Registry{}
	for _, plugin := range app.Plugins() {
		if err := plugin(registry); err != nil {
			b.Fatal(err)
		}
	}
	schedulerperf.RunBenchmarkPerfScheduling(b, cmp.Or(os.Getenv(configVariable), "performance-config.yaml"), "fogsched", registry)
}
