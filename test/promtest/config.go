// SPDX-License-Identifier: Apache-2.0

package promtest

import (
	"fmt"
	"maps"
	"net/url"
	"time"

	"sigs.k8s.io/yaml"
)

// Config says what Prometheus scrapes.
type Config struct {
	// ScrapeInterval is the time between two scrapes of a target, in whole milliseconds, and the timeout of each, as well as the
	// time between two evaluations of rules; 1 s where it is zero.
	ScrapeInterval time.Duration
	Jobs           []Job
	// Extra is YAML with more fields of Prometheus' configuration (rule_files, storage, …), which win over the ones from here.
	Extra string
}

// Job is one scrape configuration.
type Job struct {
	Name    string
	Targets []Target
	// Path is where the targets serve their metrics; /metrics where it is empty.
	Path   string
	Params url.Values
	// HonorLabels keeps the labels job and instance, and any other, that the target itself sends.
	HonorLabels bool
	// Extra is YAML with more fields of the scrape configuration (relabel_configs, scrape_interval, …), which win.
	Extra string
}

// Target is an address to scrape, with labels that its series get.
type Target struct {
	Address string
	Labels  map[string]string
}

// BlackboxJob is a job that has a blackbox_exporter probe the targets with one of its modules. The label instance is the probed
// target's address, as in blackbox_exporter's own instructions.
func BlackboxJob(name, exporter, module string, targets ...Target) Job {
	return Job{
		Name: name, Targets: targets, Path: "/probe", Params: url.Values{"module": {module}},
		Extra: `
relabel_configs:
- {source_labels: [__address__], target_label: __param_target}
- {source_labels: [__param_target], target_label: instance}
- {target_label: __address__, replacement: "` + exporter + `"}
`,
	}
}

// render returns the configuration as Prometheus reads it.
func (c Config) render() ([]byte, error) {
	interval := c.ScrapeInterval
	if interval == 0 {
		interval = time.Second
	}
	text := fmt.Sprintf("%dms", interval.Milliseconds())
	jobs := make([]map[string]any, 0, len(c.Jobs))
	for _, j := range c.Jobs {
		job, err := j.fields()
		if err != nil {
			return nil, fmt.Errorf("job %q: %w", j.Name, err)
		}
		jobs = append(jobs, job)
	}
	config := map[string]any{
		"global":         map[string]any{"scrape_interval": text, "scrape_timeout": text, "evaluation_interval": text},
		"scrape_configs": jobs,
	}
	if err := override(config, c.Extra); err != nil {
		return nil, err
	}
	return yaml.Marshal(config)
}

func (j Job) fields() (map[string]any, error) {
	static := make([]map[string]any, 0, len(j.Targets))
	for _, t := range j.Targets {
		static = append(static, map[string]any{"targets": []string{t.Address}, "labels": t.Labels})
	}
	job := map[string]any{"job_name": j.Name, "static_configs": static, "honor_labels": j.HonorLabels}
	if j.Path != "" {
		job["metrics_path"] = j.Path
	}
	if len(j.Params) > 0 {
		job["params"] = j.Params
	}
	return job, override(job, j.Extra)
}

func override(fields map[string]any, extra string) error {
	var more map[string]any
	if err := yaml.UnmarshalStrict([]byte(extra), &more); err != nil {
		return fmt.Errorf("reading the extra fields: %w", err)
	}
	maps.Copy(fields, more)
	return nil
}
