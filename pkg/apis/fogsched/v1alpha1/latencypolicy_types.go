// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LatencyAnnotation holds a LatencySpec as JSON on a pod (or a pod template). It stands in for a LatencyPolicy where
// there is none, and in its place where there is one.
const LatencyAnnotation = "fogsched.dev/latency"

// PlacementAnnotation is written on a pod as it is bound. It holds a compact JSON object that says why the pod is where
// it is; see docs/latency-policy.md.
const PlacementAnnotation = "fogsched.dev/placement"

// Statistic names the number kept of a pair of nodes that decides.
// +kubebuilder:validation:Enum=Typical;Tail
type Statistic string

const (
	// StatisticTypical is the median of a pair's round trips.
	StatisticTypical Statistic = "Typical"
	// StatisticTail is the 95th percentile of a pair's round trips.
	StatisticTail Statistic = "Tail"
)

// Routing says how a caller picks one replica of several.
// +kubebuilder:validation:Enum=Nearest;Any
type Routing string

const (
	// RoutingNearest sends a caller to the replica nearest to it.
	RoutingNearest Routing = "Nearest"
	// RoutingAny spreads a caller's requests evenly over all replicas, as kube-proxy does.
	RoutingAny Routing = "Any"
)

// UnsatisfiableAction says what becomes of a pod whose limits no node keeps.
// +kubebuilder:validation:Enum=ScheduleAnyway;DoNotSchedule
type UnsatisfiableAction string

const (
	// ScheduleAnyway lets every node stay a candidate; one that breaks a limit ranks behind all that keep them.
	ScheduleAnyway UnsatisfiableAction = "ScheduleAnyway"
	// DoNotSchedule keeps the pod pending until a node keeps its limits.
	DoNotSchedule UnsatisfiableAction = "DoNotSchedule"
)

// UnmeasuredAction says what a limit does with a pair that nobody measured.
// +kubebuilder:validation:Enum=Allow;Reject
type UnmeasuredAction string

const (
	// UnmeasuredAllow takes an unmeasured pair as within the limit.
	UnmeasuredAllow UnmeasuredAction = "Allow"
	// UnmeasuredReject takes an unmeasured pair as beyond the limit.
	UnmeasuredReject UnmeasuredAction = "Reject"
)

// LatencyPolicy says which pods should be near what.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=lp,categories=fogsched
// +kubebuilder:printcolumn:name="Pods",type=integer,JSONPath=`.status.pods`,description="Placed pods that the policy governs"
// +kubebuilder:printcolumn:name="Limits",type=string,JSONPath=`.status.conditions[?(@.type=="LimitsKept")].reason`,description="Whether the limits hold now"
// +kubebuilder:printcolumn:name="Typical",type=string,JSONPath=`.status.typical`,description="Median RTT, mean over the entries by weight"
// +kubebuilder:printcolumn:name="Tail",type=string,JSONPath=`.status.tail`,description="95th percentile of the RTT, mean over the entries by weight"
// +kubebuilder:printcolumn:name="Worst",type=string,JSONPath=`.status.worst`,description="The slowest pair of nodes in use"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type LatencyPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec LatencyPolicySpec `json:"spec"`
	// +optional
	Status LatencyPolicyStatus `json:"status,omitempty"`
}

// LatencyPolicyList is a list of LatencyPolicy objects.
//
// +kubebuilder:object:root=true
type LatencyPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []LatencyPolicy `json:"items"`
}

// LatencyPolicySpec is a LatencySpec and the pods that it is for.
//
// +kubebuilder:validation:XValidation:rule="size(self.dependencies) + size(self.clients) > 0",message="give at least one entry in dependencies or clients"
type LatencyPolicySpec struct {
	// selector names the pods of this namespace that the policy governs.
	//
	// +kubebuilder:validation:XValidation:rule="(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",message="the selector is empty and would govern every pod of the namespace; name at least one label"
	Selector metav1.LabelSelector `json:"selector"`

	LatencySpec `json:",inline"`
}

// LatencySpec is what a pod wants: the whole of the annotation fogsched.dev/latency, and all but the selector of a
// LatencyPolicy.
type LatencySpec struct {
	// dependencies are what the pods call.
	//
	// +optional
	// +kubebuilder:default={}
	// +kubebuilder:validation:MaxItems=16
	Dependencies []Entry `json:"dependencies,omitempty"`

	// clients are what call the pods.
	//
	// +optional
	// +kubebuilder:default={}
	// +kubebuilder:validation:MaxItems=16
	Clients []ClientEntry `json:"clients,omitempty"`

	// statistic is the number that decides: Typical (the median) or Tail (the 95th percentile).
	//
	// +optional
	// +kubebuilder:default=Typical
	Statistic Statistic `json:"statistic,omitempty"`

	// whenUnsatisfiable says what becomes of a pod whose limits no node keeps.
	//
	// +optional
	// +kubebuilder:default=ScheduleAnyway
	WhenUnsatisfiable UnsatisfiableAction `json:"whenUnsatisfiable,omitempty"`

	// whenUnmeasured says what a limit does with a pair of nodes that nobody measured.
	//
	// +optional
	// +kubebuilder:default=Allow
	WhenUnmeasured UnmeasuredAction `json:"whenUnmeasured,omitempty"`
}

// Entry is one thing to be near to. Exactly one of service, pods and nodes is given.
//
// +kubebuilder:validation:XValidation:rule="(has(self.service) ? 1 : 0) + (has(self.pods) ? 1 : 0) + (has(self.nodes) ? 1 : 0) == 1",message="give exactly one of service, pods and nodes"
// +kubebuilder:validation:XValidation:rule="!has(self.namespace) || has(self.service)",message="namespace goes with service; for pods use pods.namespaceSelector"
type Entry struct {
	// service is the name of a Service; its selector names the pods.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Service string `json:"service,omitempty"`

	// namespace is the Service's namespace; the policy's own where it is not given.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Namespace string `json:"namespace,omitempty"`

	// pods selects pods by label.
	//
	// +optional
	Pods *PodTarget `json:"pods,omitempty"`

	// nodes selects nodes by label.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",message="the selector is empty and would select every node; name at least one label"
	Nodes *metav1.LabelSelector `json:"nodes,omitempty"`

	// limit is the round-trip time that should not be exceeded, for example "20ms". Nodes beyond it rank behind; with
	// whenUnsatisfiable: DoNotSchedule they are excluded.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]+([.][0-9]+)?(ns|us|µs|ms|s|m|h))+$') && duration(self) > duration('0s') && duration(self) <= duration('60s')",message="a limit is a duration with its unit, for example 20ms, above 0 and at most 60s"
	Limit *metav1.Duration `json:"limit,omitempty"`

	// weight is this entry's share in the cost, 1 to 100.
	//
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Weight *int32 `json:"weight,omitempty"`

	// routing says how a caller picks a replica. A dependency's default comes from its Service: Nearest where
	// trafficDistribution or internalTrafficPolicy: Local is set, else Any. A client entry's default is Nearest.
	//
	// +optional
	Routing *Routing `json:"routing,omitempty"`
}

// ClientEntry is an Entry of callers.
type ClientEntry struct {
	Entry `json:",inline"`

	// demand names a per-node weight that the administrator defined: how much traffic comes from where. Without it all
	// clients count the same.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Demand string `json:"demand,omitempty"`
}

// PodTarget selects pods by label, in the policy's own namespace unless namespaceSelector says otherwise.
type PodTarget struct {
	// selector selects the pods.
	//
	// +kubebuilder:validation:XValidation:rule="(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",message="the selector is empty and would select every pod; name at least one label"
	Selector metav1.LabelSelector `json:"selector"`

	// namespaceSelector selects the namespaces by label; an empty one selects all.
	//
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
}

// ConditionLimitsKept is True while every limit of the policy holds between the pods that are placed. Its reason is what
// `kubectl get latencypolicies` shows.
const ConditionLimitsKept = "LimitsKept"

// Reasons of ConditionLimitsKept.
const (
	ReasonKept       = "Kept"
	ReasonBroken     = "Broken"
	ReasonUnmeasured = "Unmeasured" // a limited pair has no measurement
	ReasonNoTargets  = "NoTargets"  // a limit is to a target without a placed pod or node
	ReasonNoLimits   = "NoLimits"
	ReasonNoPods     = "NoPods"
	ReasonInvalid    = "Invalid" // the policy came past admission all the same, and does nothing
)

// ConditionDemandKnown is there while an entry names a demand, and True while what it names is known.
const ConditionDemandKnown = "DemandKnown"

// Reasons of ConditionDemandKnown.
const (
	ReasonKnown           = "Known"
	ReasonDemandUndefined = "Undefined" // the scheduler's configuration has no demand of that name
	ReasonDemandUnknown   = "Unknown"   // there is no current value for any client's node
)

// LatencyPolicyStatus is what holds now.
type LatencyPolicyStatus struct {
	// observedGeneration is the generation of the spec that this status is about.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// pods is the number of placed pods that the policy governs.
	Pods int32 `json:"pods"`

	// typical is the median RTT, mean over the entries by weight.
	//
	// +optional
	Typical *metav1.Duration `json:"typical,omitempty"`

	// tail is the 95th percentile of the RTT, mean over the entries by weight.
	//
	// +optional
	Tail *metav1.Duration `json:"tail,omitempty"`

	// worst is the slowest pair of nodes in use, as "from → to (RTT)"; with how the RTT was got, and how sure it is, where the pair was
	// not measured.
	//
	// +optional
	Worst string `json:"worst,omitempty"`

	// entries has one item for each entry of the spec, dependencies first.
	//
	// +optional
	// +listType=atomic
	Entries []EntryStatus `json:"entries,omitempty"`

	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// EntryStatus is what holds now of one entry.
type EntryStatus struct {
	// entry is the entry's path in the spec, for example "dependencies[0]".
	Entry string `json:"entry"`

	// target says in words what the entry is about, for example "service redis-master".
	Target string `json:"target"`

	// targetNodes is the number of nodes on which the target is.
	TargetNodes int32 `json:"targetNodes"`

	// typical is the expected median RTT between the pods and the target, by the entry's routing. Absent: unknown.
	//
	// +optional
	Typical *metav1.Duration `json:"typical,omitempty"`

	// tail is the expected 95th percentile of the RTT. Absent: unknown.
	//
	// +optional
	Tail *metav1.Duration `json:"tail,omitempty"`

	// provenance says how the RTTs of the pairs behind typical and tail were got; the worst of local, measured, reverse (from the
	// other end), zone (between the two zones), ranking (measured, but no RTT), coordinate (estimated from network coordinates). Absent
	// where all are unknown.
	//
	// +optional
	Provenance string `json:"provenance,omitempty"`

	// error is the largest error to be expected of those that are estimated from coordinates, for example "±22%".
	//
	// +optional
	Error string `json:"error,omitempty"`

	// limit is the entry's limit.
	//
	// +optional
	Limit *metav1.Duration `json:"limit,omitempty"`

	// brokenPairs is the number of pairs in use that exceed the limit.
	//
	// +optional
	BrokenPairs int32 `json:"brokenPairs,omitempty"`

	// unmeasuredPairs is the number of pairs in use that nobody measured.
	//
	// +optional
	UnmeasuredPairs int32 `json:"unmeasuredPairs,omitempty"`

	// worst is the slowest pair in use.
	//
	// +optional
	Worst *WorstPair `json:"worst,omitempty"`
}

// WorstPair is the slowest pair of nodes in use for an entry.
type WorstPair struct {
	From    string           `json:"from"`
	To      string           `json:"to"`
	Typical *metav1.Duration `json:"typical,omitempty"`
	Tail    *metav1.Duration `json:"tail,omitempty"`
	// provenance says how the RTT was got: local, measured, reverse, zone, ranking or coordinate.
	//
	// +optional
	Provenance string `json:"provenance,omitempty"`
	// error is the error to be expected of an RTT that is estimated from coordinates, for example "±22%".
	//
	// +optional
	Error string `json:"error,omitempty"`
}
