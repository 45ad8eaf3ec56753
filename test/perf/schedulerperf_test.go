// SPDX-License-Identifier: Apache-2.0

//go:build perf

package perf

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/component-base/metrics/legacyregistry"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulerperf "k8s.io/kubernetes/test/integration/scheduler_perf"
	"k8s.io/kubernetes/test/utils/ktesting"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/cmd/fogsched/app"
	"github.com/fogsched/fogsched/test/program"
)

const (
	// configVariable names the file of scheduler_perf's test cases, in the place of performance-config.yaml.
	configVariable = "FOGSCHED_PERF_CONFIG"
	// samplesVariable names the file that the samples of one run are written to.
	samplesVariable = "FOGSCHED_PERF_SAMPLES"

	sampleInterval = time.Second
)

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
	schedulerperf.RunBenchmarkPerfScheduling(b, cmp.Or(os.Getenv(configVariable), "performance-config.yaml"), "fogsched", registry,
		schedulerperf.WithPrepareFn(prepare))
}

// prepare makes NetworkOverhead's CRDs, for every contestant alike, and starts the sampling.
func prepare(tCtx ktesting.TContext) error {
	for _, name := range []string{"crd-appgroups.yaml", "crd-networktopologies.yaml"} {
		if err := createCRD(tCtx, filepath.Join("config", name)); err != nil {
			return err
		}
	}
	if path := os.Getenv(samplesVariable); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		go sampleInto(tCtx, f)
	}
	return nil
}

// createCRD returns when the API server serves the kind.
func createCRD(tCtx ktesting.TContext, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.UnmarshalStrict(data, &crd.Object); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	resource := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := tCtx.Dynamic().Resource(resource).Create(tCtx, crd, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating %s: %w", crd.GetName(), err)
	}
	group, _, err := unstructured.NestedString(crd.Object, "spec", "group")
	if err != nil {
		return err
	}
	return wait.PollUntilContextTimeout(tCtx, 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		_, err := tCtx.Client().Discovery().ServerResourcesForGroupVersion(group + "/v1alpha1")
		return err == nil, nil
	})
}

// sample is the state of a run at one moment.
type sample struct {
	Scheduled float64       `json:"scheduled"`
	At        time.Time     `json:"at"`
	CPU       time.Duration `json:"cpuNanoseconds"` // of the process: scheduler, API server, and the harness itself
	// Spent has what each profile has spent in its plugins since the start.
	Spent map[string]spent `json:"spent"`
}

// spent is how long the extension points of one profile took together.
type spent struct {
	Cycles uint64 `json:"cycles"`
	// Choosing is the time of those that a scheduling cycle waits for, Binding that of those after it, whose Bind waits for the API server.
	Choosing float64 `json:"choosingSeconds"`
	Binding  float64 `json:"bindingSeconds"`
}

// sampleInto writes a sample each second until ctx ends.
func sampleInto(ctx context.Context, f *os.File) {
	defer f.Close()
	encoder := json.NewEncoder(f)
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s, ok := takeSample(); ok {
			_ = encoder.Encode(s)
		}
	}
}

const (
	attempts        = "scheduler_schedule_attempts_total"
	extensionPoints = "scheduler_framework_extension_point_duration_seconds"
)

// takeSample returns false before the first pod is scheduled.
func takeSample() (s sample, ok bool) {
	s = sample{At: time.Now(), CPU: processCPU(), Spent: map[string]spent{}}
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		return s, false
	}
	for _, family := range families {
		if name := family.GetName(); name != attempts && name != extensionPoints {
			continue
		}
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			switch family.GetName() {
			case attempts:
				if labels["result"] == "scheduled" {
					s.Scheduled += metric.GetCounter().GetValue()
				}
			case extensionPoints:
				of := s.Spent[labels["profile"]]
				took := metric.GetHistogram()
				switch labels["extension_point"] {
				case "PreFilter":
					of.Cycles += took.GetSampleCount()
					of.Choosing += took.GetSampleSum()
				case "Filter", "PostFilter", "PreScore", "Score", "Reserve", "Permit":
					of.Choosing += took.GetSampleSum()
				case "PreBind", "Bind", "PostBind":
					of.Binding += took.GetSampleSum()
				}
				s.Spent[labels["profile"]] = of
			}
		}
	}
	return s, s.Scheduled > 0
}
