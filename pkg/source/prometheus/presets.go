// SPDX-License-Identifier: Apache-2.0

package prometheus

// Preset is how to ask for what one prober measures, with what its source says about names, units and failures.
type Preset struct {
	Latencies

	// Notes says what to know before one relies on it.
	Notes string
	// Advice, where there is any, is logged once when the preset is used.
	Advice string
	// Refuse is PromQL that has a series where Prometheus has what the preset cannot work with, and RefuseReason says why.
	Refuse, RefuseReason string
}

// FindPreset returns a preset by name.
func FindPreset(name string) (Preset, bool) {
	p, ok := presets[name]
	return p, ok
}

var presets = map[string]Preset{
	// pkg/publish/metrics.go.
	"fogprobe": {
		Latencies: Latencies{
			Typical: `fogsched_probe_pair_rtt_seconds{statistic="typical"}`,
			Tail:    `fogsched_probe_pair_rtt_seconds{statistic="tail"}`,
			Failed:  `fogsched_probe_pair_loss_ratio == bool 1`,
			Unit:    "s",
			Source:  "source_node_name", Target: "dest_node_name",
		},
	},
}
