// SPDX-License-Identifier: Apache-2.0

package report

import (
	"time"

	"github.com/fogsched/fogsched/pkg/latency"
)

// Report is what the page shows, and what --format json prints. Round-trip times are strings as in the API ("12.3ms"); the same in
// microseconds stands beside them.
type Report struct {
	Title string `json:"title"`
	// Context and Cluster are the kubeconfig's names of what was read.
	Context string `json:"context,omitempty"`
	Cluster string `json:"cluster,omitempty"`
	// At is when the cluster was read.
	At time.Time `json:"at"`
	// Namespace is the one that the policies are of; empty: all.
	Namespace string `json:"namespace,omitempty"`
	// InShort are the few facts that matter, the most pressing first.
	InShort []Fact `json:"inShort"`

	Network     Network      `json:"network"`
	Map         Map          `json:"map"`
	Policies    []Policy     `json:"policies"`
	Matrix      Matrix       `json:"matrix"`
	Comparisons []Comparison `json:"comparisons"`
	// ComparisonsLeftOut is how many entries of policies have no comparison, because there are too many.
	ComparisonsLeftOut int `json:"comparisonsLeftOut,omitempty"`
	// Notes say what could not be read.
	Notes []string `json:"notes,omitempty"`
}

// Fact is a sentence, and how good the news is: good, info, warn or bad.
type Fact struct {
	Level string `json:"level"`
	Text  string `json:"text"`
}

// Latency is a round-trip time and how it was got.
type Latency struct {
	// RTT is absent where it is unknown; an estimate has no mark here, Provenance tells.
	RTT    string  `json:"rtt,omitempty"`
	Micros float32 `json:"micros,omitempty"`
	// Provenance is local, measured, reverse (from the other end), zone (median between the two zones), ranking (measured, but no RTT),
	// coordinate (estimated from network coordinates) or unknown.
	Provenance string `json:"provenance"`
	// Error is that of an estimate from coordinates, for example "±22%".
	Error string `json:"error,omitempty"`

	measured bool
}

func newLatency(rtt latency.RTT, p latency.Provenance, err float32) Latency {
	us, ok := rtt.Micros()
	if !ok {
		return Latency{Provenance: latency.Unknown.String()}
	}
	return Latency{RTT: rtt.String(), Micros: us, Provenance: p.String(), Error: latency.FormatError(err), measured: p.IsMeasured()}
}

// Known reports whether there is a round-trip time.
func (l Latency) Known() bool { return l.Micros > 0 }

// Estimated reports whether nobody measured it.
func (l Latency) Estimated() bool { return l.Known() && !l.measured }

// String returns "12.3ms", "~12.3ms" for an estimate, or "–".
func (l Latency) String() string {
	switch {
	case !l.Known():
		return "–"
	case l.measured:
		return l.RTT
	}
	return "~" + l.RTT
}

// How says in words how it was got.
func (l Latency) How() string {
	text := map[string]string{
		"local": "the same node", "measured": "measured", "reverse": "measured from the other end", "zone": "estimate: median between the zones",
		"ranking": "estimate: measured, but no round trip", "coordinate": "estimate from coordinates",
	}[l.Provenance]
	switch {
	case text == "" || !l.Known():
		return "unknown"
	case l.Error != "":
		return text + " " + l.Error
	}
	return text
}

// Network is what is known of the distances between all nodes.
type Network struct {
	Nodes int `json:"nodes"`
	Zones int `json:"zones"`
	// Pairs is the number of unordered pairs of nodes, Measured how many of them at least one side measured.
	Pairs    int `json:"pairs"`
	Measured int `json:"measured"`
	// EstimatedPercent and UnknownPercent are the shares of the pairs of which there is an estimate, or nothing; on a sample of the nodes
	// where Sampled is set.
	EstimatedPercent float64 `json:"estimatedPercent"`
	UnknownPercent   float64 `json:"unknownPercent"`
	Sampled          bool    `json:"sampled,omitempty"`
	// MedianAge and OldestAge are those of the nodes' last reports; absent where there are none.
	MedianAge string `json:"medianAge,omitempty"`
	OldestAge string `json:"oldestAge,omitempty"`
	// Silent are the nodes of whose own measurements none counts.
	Silent []Silent `json:"silent,omitempty"`
}

// MeasuredPercent is the share of the pairs that were measured.
func (n Network) MeasuredPercent() float64 {
	if n.Pairs == 0 {
		return 0
	}
	return 100 * float64(n.Measured) / float64(n.Pairs)
}

// Silent is a node of whose measurements none counts, and why.
type Silent struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

// Map is the nodes, or their zones, laid out by network distance.
type Map struct {
	// Of says what a place is: nodes, zones, regions, or "sample" for some of the nodes.
	Of     string  `json:"of"`
	Places []Place `json:"places"`
	// Unplaced are those of which no distance is known.
	Unplaced []string `json:"unplaced,omitempty"`
	// Stress is Kruskal's stress-1: 0 is exact, up to 0.1 good, above 0.2 poor. HalfWithin and MostWithin are the relative errors, 0.1 is
	// 10 %, within which half and nine of ten of the known distances are drawn.
	Stress     float64 `json:"stress"`
	HalfWithin float64 `json:"halfWithin"`
	MostWithin float64 `json:"mostWithin"`
	// Parts is the number of groups between which no distance is known; where it is above 1 they stand side by side.
	Parts int `json:"parts"`
	// Links are the pairs that break a limit, the worst first; LinksLeftOut is how many more there are.
	Links        []Link `json:"links,omitempty"`
	LinksLeftOut int    `json:"linksLeftOut,omitempty"`
}

// Place is a node, or a zone, on the map; x and y are in milliseconds of round trip, from the upper left.
type Place struct {
	Name  string  `json:"name"`
	Zone  string  `json:"zone"`
	X     float64 `json:"x"`
	Y     float64 `json:"y"`
	Nodes int     `json:"nodes"`
	// Client is set where clients of a policy are.
	Client bool `json:"client,omitempty"`
	// Silent is set where none of the node's own measurements counts.
	Silent bool `json:"silent,omitempty"`
	// Pods are the governed pods there, by policy.
	Pods []PodMark `json:"pods,omitempty"`
}

// PodMark is how many pods of a policy are on a place.
type PodMark struct {
	Mark   string `json:"mark"`
	Policy string `json:"policy"`
	Pods   int    `json:"pods"`
}

// Link is a pair of nodes that breaks a limit.
type Link struct {
	From   string  `json:"from"`
	To     string  `json:"to"`
	Mark   string  `json:"mark"`
	Policy string  `json:"policy"`
	RTT    Latency `json:"rtt"`
	Limit  string  `json:"limit"`

	over                                   float64 // RTT ÷ limit
	fromZone, toZone, fromRegion, toRegion string
}

// Policy is a LatencyPolicy, or an annotation fogsched.dev/latency, and what holds of it.
type Policy struct {
	// Mark is the letter that stands for it on the map.
	Mark      string `json:"mark"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// Annotation is set where it is no LatencyPolicy.
	Annotation bool `json:"annotation,omitempty"`
	// Pods is the number of placed pods, Pending of those that are on no node.
	Pods    int `json:"pods"`
	Pending int `json:"pending,omitempty"`
	// State is what holds by the measurements that were read: Kept, Broken, Unmeasured, NoTargets, NoLimits, NoPods or Invalid.
	State   string `json:"state"`
	Message string `json:"message"`
	// Status is what the policy's own status says, which the scheduler writes; empty: nothing yet. StatusBehind is set where it is about
	// an older spec.
	Status       string  `json:"status,omitempty"`
	StatusBehind bool    `json:"statusBehind,omitempty"`
	Entries      []Entry `json:"entries,omitempty"`
	// Worst is the slowest pair of nodes in use.
	Worst *Pair `json:"worst,omitempty"`
}

// Pair is two nodes between which calls go.
type Pair struct {
	From string  `json:"from"`
	To   string  `json:"to"`
	RTT  Latency `json:"rtt"`
}

// Entry is one entry of a policy.
type Entry struct {
	// Entry is its path in the spec, "dependencies[0]".
	Entry  string `json:"entry"`
	Target string `json:"target"`
	// Client is set where the target calls the pods, and not the pods the target.
	Client      bool   `json:"client,omitempty"`
	TargetNodes int    `json:"targetNodes"`
	Routing     string `json:"routing"`
	Statistic   string `json:"statistic"`
	Limit       string `json:"limit,omitempty"`
	// RTT is the mean over the calls, of the policy's statistic.
	RTT             Latency `json:"rtt"`
	Pairs           int     `json:"pairs"`
	BrokenPairs     int     `json:"brokenPairs,omitempty"`
	UnmeasuredPairs int     `json:"unmeasuredPairs,omitempty"`
	Worst           *Pair   `json:"worst,omitempty"`

	broken []Link
}

// Comparison is an entry's latencies where the pods are now, and where they would be on random feasible nodes.
type Comparison struct {
	Mark      string `json:"mark"`
	Policy    string `json:"policy"`
	Entry     string `json:"entry"`
	Target    string `json:"target"`
	Client    bool   `json:"client,omitempty"`
	Routing   string `json:"routing"`
	Statistic string `json:"statistic"`
	Limit     string `json:"limit,omitempty"`
	// Replicas is the number of pods that are placed, Callers that of who calls, by node, Feasible that of the nodes to draw from.
	Replicas int `json:"replicas"`
	Callers  int `json:"callers"`
	Feasible int `json:"feasible"`
	// Draws is the number of random placements.
	Draws  int          `json:"draws"`
	Now    Distribution `json:"now"`
	Random Distribution `json:"random"`
	// SlowerPercent is the share of the random placements whose mean latency is above that of now; of the placements of which a mean is known.
	SlowerPercent float64 `json:"slowerPercent"`

	now, random, low, high []step
	limitMillis            float64
	waiting                int // callers that the curve of now is made of
}

// Distribution is latencies of callers; "" is unknown.
type Distribution struct {
	Median string `json:"median,omitempty"`
	Tail   string `json:"tail,omitempty"` // 95th percentile
	Mean   string `json:"mean,omitempty"` // of those that are known
	// UnknownPercent is the share of callers whose latency is unknown, EstimatedPercent of those whose latency is an estimate.
	UnknownPercent   float64 `json:"unknownPercent"`
	EstimatedPercent float64 `json:"estimatedPercent"`

	mean, median float64 // ms, NaN where unknown
}

// step is a place on a curve: share of the callers, 0 to 1, that wait no longer than so many milliseconds.
type step struct{ ms, share float64 }

// Matrix is the round-trip times between nodes, zones or regions, from the row to the column.
type Matrix struct {
	// Of says what a row is: nodes, zones, regions, or "sample" for some of the nodes.
	Of    string   `json:"of"`
	Names []string `json:"names"`
	// Zones are the zones of the rows.
	Zones []string `json:"zones"`
	Cells [][]Cell `json:"cells"`
}

// Cell is a place of the matrix. Between zones it is the median of so many measured pairs; where none was measured, of estimates.
type Cell struct {
	Latency
	Pairs int `json:"pairs,omitempty"`
}
