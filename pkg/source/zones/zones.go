// SPDX-License-Identifier: Apache-2.0

// Package zones reads a table of round-trip times between zones and regions, for pairs of nodes that nobody measured. An
// administrator who knows the distances between sites writes it once; a measurement always stands above it.
package zones

import (
	"fmt"
	"os"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/fogsched/fogsched/pkg/latency"
)

// MaxFileBytes bounds the file, 1 MiB.
const MaxFileBytes = 1 << 20

// Location is where a node is: the labels topology.kubernetes.io/region and topology.kubernetes.io/zone, "" where it has
// none.
type Location struct{ Region, Zone string }

// Table answers for a pair of locations. The zero value knows nothing.
type Table struct {
	pairs        map[[2]string]latency.Estimate
	withinZone   latency.Estimate
	withinRegion latency.Estimate
}

// file is the YAML form:
//
//	within: {zone: 1ms, region: 8ms}
//	pairs:
//	- {between: [site-a, site-b], typical: 20ms, tail: 35ms}
type file struct {
	Within struct {
		Zone   *string `json:"zone,omitempty"`
		Region *string `json:"region,omitempty"`
	} `json:"within,omitempty"`
	Pairs []pair `json:"pairs,omitempty"`
}

type pair struct {
	Between []string `json:"between"`
	Typical *string  `json:"typical"`
	Tail    *string  `json:"tail,omitempty"`
}

// Load reads a table. The error names the file and every bad field.
func Load(path string) (*Table, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the zone table: %w", err)
	}
	if info.Size() > MaxFileBytes {
		return nil, fmt.Errorf("reading the zone table: %s is larger than %d bytes", path, MaxFileBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the zone table: %w", err)
	}
	t, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("zone table %s: %w", path, err)
	}
	return t, nil
}

// Parse reads a table from YAML. An unknown field is an error.
func Parse(data []byte) (*Table, error) {
	var f file
	if err := yaml.UnmarshalStrict(data, &f); err != nil {
		return nil, err
	}
	t := &Table{pairs: map[[2]string]latency.Estimate{}}
	var errs field.ErrorList
	rtt := func(text string, path *field.Path) latency.RTT {
		d, err := time.ParseDuration(text)
		if err != nil {
			errs = append(errs, field.Invalid(path, text, "must be a duration with its unit, for example 20ms"))
			return latency.RTT{}
		}
		r, reason := latency.FromDuration(d)
		if reason != "" {
			errs = append(errs, field.Invalid(path, text, "must be above 0 and at most 60s"))
		}
		return r
	}
	within := func(text *string, path *field.Path) latency.Estimate {
		if text == nil {
			return latency.Estimate{}
		}
		return latency.Estimate{Typical: rtt(*text, path), Provenance: latency.Zone}
	}
	t.withinZone = within(f.Within.Zone, field.NewPath("within", "zone"))
	t.withinRegion = within(f.Within.Region, field.NewPath("within", "region"))
	for i, p := range f.Pairs {
		path := field.NewPath("pairs").Index(i)
		if len(p.Between) != 2 || p.Between[0] == "" || p.Between[1] == "" {
			errs = append(errs, field.Invalid(path.Child("between"), p.Between, "give two zones or regions by name"))
			continue
		}
		if slices.Contains(p.Between, "true") || slices.Contains(p.Between, "false") {
			// A region called no would never match, and nobody would be told.
			errs = append(errs, field.Invalid(path.Child("between"), p.Between, "YAML reads y, n, yes, no, on and off as true or false: put such a name into quotes"))
		}
		key := [2]string{p.Between[0], p.Between[1]}
		if _, ok := t.pairs[key]; ok {
			errs = append(errs, field.Duplicate(path.Child("between"), p.Between))
		}
		e := latency.Estimate{Provenance: latency.Zone}
		if p.Typical == nil {
			errs = append(errs, field.Required(path.Child("typical"), "give a round-trip time, for example 20ms"))
		} else {
			e.Typical = rtt(*p.Typical, path.Child("typical"))
		}
		if p.Tail != nil {
			e.Tail = rtt(*p.Tail, path.Child("tail"))
			typical, _ := e.Typical.Micros()
			if tail, ok := e.Tail.Micros(); ok && tail < typical {
				errs = append(errs, field.Invalid(path.Child("tail"), *p.Tail, "must be at least the typical RTT"))
			}
		}
		t.pairs[key] = e
		t.pairs[[2]string{key[1], key[0]}] = e
	}
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return t, nil
}

// Between returns the estimate for two locations, from the closest description: the pair of zones, the same zone, the pair
// of regions, the same region. It is unknown where the table has none.
func (t *Table) Between(a, b Location) latency.Estimate {
	if t == nil {
		return latency.Estimate{}
	}
	if a.Zone != "" && b.Zone != "" {
		if e, ok := t.pairs[[2]string{a.Zone, b.Zone}]; ok {
			return e
		}
		if a == b && t.withinZone.Typical.Known() {
			return t.withinZone
		}
	}
	if a.Region != "" && b.Region != "" {
		if e, ok := t.pairs[[2]string{a.Region, b.Region}]; ok {
			return e
		}
		if a.Region == b.Region {
			return t.withinRegion
		}
	}
	return latency.Estimate{}
}
