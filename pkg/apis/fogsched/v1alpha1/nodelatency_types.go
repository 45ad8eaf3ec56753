// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// InterestKey is the key of the ConfigMap in which the scheduler tells the probers which nodes host the targets of policies,
// a name a line: every prober measures these.
const InterestKey = "nodes"

// PositionAnnotation is a Node's place on Earth, "latitude,longitude" in degrees, for example "52.52,13.40". Where two nodes have
// one, an RTT between them that light in a fibre could not keep is not believed.
const PositionAnnotation = "fogsched.dev/position"

// NodeLatency is what the node of the same name measured of its distance to others. Its prober writes it; it is owned by
// its Node and goes with it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=nl,categories=fogsched
// +kubebuilder:printcolumn:name="Peers",type=integer,JSONPath=`.status.summary.peers`,description="Nodes that this node measured"
// +kubebuilder:printcolumn:name="Nearest",type=string,JSONPath=`.status.summary.nearest`,description="The nearest of them"
// +kubebuilder:printcolumn:name="Median",type=string,JSONPath=`.status.summary.median`,description="Median over the peers of the typical RTT"
// +kubebuilder:printcolumn:name="Farthest",type=string,JSONPath=`.status.summary.farthest`,description="The farthest of them"
// +kubebuilder:printcolumn:name="Loss",type=string,JSONPath=`.status.summary.loss`,description="Share of the probes that were lost"
// +kubebuilder:printcolumn:name="Control",type=string,JSONPath=`.status.control.typical`,description="RTT of the node to itself: what the prober adds"
// +kubebuilder:printcolumn:name="Measured",type=date,JSONPath=`.status.observedAt`,description="When this was measured"
type NodeLatency struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NodeLatencySpec `json:"spec,omitempty"`
	// +optional
	Status NodeLatencyStatus `json:"status,omitempty"`
}

// NodeLatencyList is a list of NodeLatency objects.
//
// +kubebuilder:object:root=true
type NodeLatencyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NodeLatency `json:"items"`
}

// NodeLatencySpec says how the node's prober is reached.
type NodeLatencySpec struct {
	// endpoint is the address and UDP port at which the node's reflector answers, for example "10.0.0.7:8620".
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}$`
	Endpoint string `json:"endpoint,omitempty"`
}

// NodeLatencyStatus is what the node measured.
type NodeLatencyStatus struct {
	// observedAt is when the newest of the measurements was taken.
	//
	// +optional
	ObservedAt *metav1.Time `json:"observedAt,omitempty"`

	// refreshInterval is the longest time until the prober writes this again, however little changes. With more nodes it
	// is longer, so that all of them together do not keep the API server busy.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('1h')",message="a duration with its unit, for example 1m0s, above 0 and at most 1h"
	RefreshInterval *metav1.Duration `json:"refreshInterval,omitempty"`

	// control is the round trip of the node to itself over loopback, the time that its packets waited to be read included:
	// when it is slow, the node is short of CPU and its other measurements say more about that than about distance.
	//
	// +optional
	Control *Measurement `json:"control,omitempty"`

	// starved says that control is too slow for the node's measurements to be believed. They are not used then.
	//
	// +optional
	Starved bool `json:"starved,omitempty"`

	// coordinate is the node's place in the network's coordinate system, from which the RTT of pairs is estimated that nobody
	// measured.
	//
	// +optional
	Coordinate *NetworkCoordinate `json:"coordinate,omitempty"`

	// peers are the nodes that this one measured, by name.
	//
	// +optional
	// +listType=map
	// +listMapKey=node
	// +kubebuilder:validation:MaxItems=1024
	Peers []PeerLatency `json:"peers,omitempty"`

	// summary is for people: what `kubectl get nodelatencies` shows.
	//
	// +optional
	Summary *LatencySummary `json:"summary,omitempty"`
}

// NetworkCoordinate is a Vivaldi coordinate as github.com/hashicorp/serf/coordinate computes it: the distance of two nodes
// is that of their vectors, plus their heights, plus their adjustments.
type NetworkCoordinate struct {
	// vectorMicros is a place in Euclidean space, in microseconds.
	//
	// +listType=atomic
	// +kubebuilder:validation:MinItems=8
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:Minimum=-60000000
	// +kubebuilder:validation:items:Maximum=60000000
	VectorMicros []int64 `json:"vectorMicros"`

	// heightMicros is the way, in microseconds, from the node to the core of the network, which every distance of it includes.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=60000000
	HeightMicros int64 `json:"heightMicros"`

	// adjustmentMicros corrects what the geometry gets wrong for this node.
	//
	// +kubebuilder:validation:Minimum=-60000000
	// +kubebuilder:validation:Maximum=60000000
	AdjustmentMicros int64 `json:"adjustmentMicros"`

	// errorPercent is the error of estimates from this coordinate as a share of the RTT: 150 for one of which nothing is
	// known, about 20 for a settled one.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	ErrorPercent int32 `json:"errorPercent"`
}

// Measurement is the statistic of one pair over the prober's window.
//
// +kubebuilder:validation:XValidation:rule="has(self.typical) == has(self.tail)",message="typical and tail are given together, or neither where every probe was lost"
type Measurement struct {
	// typical is the median RTT. Absent where every probe of the window was lost.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ns|us|µs|ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('60s')",message="an RTT is a duration with its unit, for example 20ms, above 0 and at most 60s"
	Typical *metav1.Duration `json:"typical,omitempty"`

	// tail is the 95th percentile of the RTT. Absent where every probe of the window was lost.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ns|us|µs|ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('60s')",message="an RTT is a duration with its unit, for example 20ms, above 0 and at most 60s"
	Tail *metav1.Duration `json:"tail,omitempty"`

	// samples is the number of answered probes in the window.
	//
	// +kubebuilder:validation:Minimum=0
	Samples int32 `json:"samples"`

	// lost is the number of unanswered probes in the window.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Lost int32 `json:"lost,omitempty"`

	// at is when the newest answered probe of the window was sent.
	//
	// +optional
	At *metav1.Time `json:"at,omitempty"`
}

// PeerLatency is the Measurement of one peer.
type PeerLatency struct {
	// node is the peer's name.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Node string `json:"node"`

	Measurement `json:",inline"`
}

// LatencySummary is the measurements in a few words.
type LatencySummary struct {
	Peers int32 `json:"peers"`
	// +optional
	Nearest string `json:"nearest,omitempty"`
	// +optional
	Median string `json:"median,omitempty"`
	// +optional
	Farthest string `json:"farthest,omitempty"`
	// +optional
	Loss string `json:"loss,omitempty"`
}
