// SPDX-License-Identifier: Apache-2.0

package nodemetrics

import (
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// preset is a metric of node_exporter 1.x. In its PromQL $label stands for the label that names the node, $window for the window, and
// $deviations for the standard deviations on top of a mean.
type preset struct {
	query string
	// series are what the value rests on: their newest sample is its time.
	series string
	window time.Duration
	// scale is 1 for utilisations, whose differences mean the same at any height, and 0 where proportions count.
	scale  float64
	effect PodEffect
}

const (
	rateWindow = 2 * time.Minute // two samples at the usual scrape interval of 1m
	// variationWindow is long enough for a deviation of some 20 values to mean something.
	variationWindow = 10 * time.Minute
	// memoryWindow is how long a process is given to fill its memory.
	memoryWindow = time.Minute
)

// What is idle and what waits for a disk is free; what the hypervisor took (steal) is not. A rate reaches past its samples, so an idle
// node can come to less than nothing.
const (
	cpuQuery    = `clamp_min(1 - avg by ($label) (sum without (mode) (rate(node_cpu_seconds_total{mode=~"idle|iowait"}[$window]))), 0)`
	memoryQuery = `1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes`
	// The busiest disk: a second, idle one does not help who waits for the first. Devices on top of others would count twice.
	diskQuery = `max by ($label) (rate(node_disk_io_time_seconds_total{device!~"(dm-|md|loop|ram|zram|sr|fd).*"}[$window]))`
	// Both directions, in bytes a second, of what leaves the node: not of loopback, bridges, tunnels and the nodes' ends of pods.
	networkDevices = `{device!~"lo|(veth|cali|lxc|cilium|cni|flannel|docker|br-|virbr|tunl|vxlan|wg|dummy|ifb|nodelocaldns|kube-|bond|tap|tun).*"}`
	networkQuery   = `sum by ($label) (rate(node_network_receive_bytes_total` + networkDevices + `[$window])` +
		` + rate(node_network_transmit_bytes_total` + networkDevices + `[$window]))`
)

var (
	ofCPU    = PodEffect{Resource: v1.ResourceCPU, Per: Allocatable}
	ofMemory = PodEffect{Resource: v1.ResourceMemory, Per: Capacity} // MemTotal is the capacity
	// No request tells of disks and networks. So that a burst of pods spreads all the same, each one stands for a share: of a disk's time one by
	// the number of pods that the node takes, of a network 1 Mbit/s.
	ofDisk    = PodEffect{Resource: v1.ResourcePods, Per: Allocatable}
	ofNetwork = PodEffect{Resource: v1.ResourcePods, Factor: 125_000}
)

var presets = map[string]preset{
	"cpu":               {cpuQuery, `node_cpu_seconds_total{mode="idle"}`, rateWindow, 1, ofCPU},
	"memory":            {memoryQuery, `node_memory_MemAvailable_bytes`, memoryWindow, 1, ofMemory},
	"disk-io":           {diskQuery, `node_disk_io_time_seconds_total`, rateWindow, 1, ofDisk},
	"network":           {networkQuery, `node_network_receive_bytes_total`, rateWindow, 0, ofNetwork},
	"cpu-variation":     {variation(cpuQuery), `node_cpu_seconds_total{mode="idle"}`, variationWindow, 1, ofCPU},
	"memory-variation":  {variation(memoryQuery), `node_memory_MemAvailable_bytes`, variationWindow, 1, ofMemory},
	"disk-io-variation": {variation(diskQuery), `node_disk_io_time_seconds_total`, variationWindow, 1, ofDisk},
	"network-variation": {variation(networkQuery), `node_network_receive_bytes_total`, variationWindow, 0, ofNetwork},
}

// variation is the mean over the window and standard deviations on top: of two nodes with the same mean the one whose load varies is the
// worse.
func variation(query string) string {
	inner := "(" + strings.ReplaceAll(query, "$window", model.Duration(rateWindow).String()) + ")[$window:30s]"
	return "avg_over_time(" + inner + ") + $deviations * stddev_over_time(" + inner + ")"
}

// defaultDeviations reaches above the crest of a wave (1.4) and above 98 of 100 values that vary at random, and not so high that a node whose
// load varies stays empty: of 1 to 3, test/load has the lowest peaks with it.
const defaultDeviations = 2

func (p preset) varies() bool { return strings.Contains(p.query, "$deviations") }

// apply sets what a metric leaves open.
func (p preset) apply(m *Metric) {
	set(&m.Name, m.Preset)
	set(&m.NodeLabel, defaultNodeLabel)
	set(&m.Window, metav1.Duration{Duration: p.window})
	set(&m.Scale, p.scale)
	if m.PodEffect == nil {
		effect := p.effect
		m.PodEffect = &effect
	}
	if m.Query != "" { // a preset's time is that of the preset's series
		return
	}
	deviations := float64(defaultDeviations)
	if m.Deviations != nil {
		deviations = *m.Deviations
	}
	fill := strings.NewReplacer("$label", m.NodeLabel, "$window", model.Duration(m.Window.Duration).String(),
		"$deviations", strconv.FormatFloat(deviations, 'f', -1, 64))
	m.Query = fill.Replace(p.query)
	set(&m.Time, fill.Replace("max by ($label) (timestamp("+p.series+"))"))
}
