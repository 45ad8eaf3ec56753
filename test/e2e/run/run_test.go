// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fogsched/fogsched/test/kind"
)

func testPlaces(workers int) []place {
	nodes := []kind.Node{{Name: "control-plane", ControlPlane: true}}
	for i := range workers {
		nodes = append(nodes, kind.Node{Name: fmt.Sprintf("worker%d", i+1)})
	}
	return geography(nodes)
}

func TestGeography(t *testing.T) {
	var got []string
	for _, p := range testPlaces(8) {
		got = append(got, fmt.Sprintf("%s %s %t", p.node.Name, p.site, p.entry))
	}
	want := []string{
		"control-plane gateway false", "worker1 gateway true", "worker2 north true", "worker3 north true", "worker4 south false",
		"worker5 south false", "worker6 south false", "worker7 gateway false", "worker8 north false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nodes, sites, entries (-want +got):\n%s", diff)
	}
}

func TestDistances(t *testing.T) {
	places := testPlaces(5)
	site := map[string]string{}
	for _, p := range places {
		site[p.node.Name] = p.site
	}
	all := links(places)
	if want := len(places) * (len(places) - 1); len(all) != want {
		t.Fatalf("%d directions, want %d", len(all), want)
	}
	far := map[string][]time.Duration{}
	for _, l := range all {
		if l.Jitter <= 0 || l.Jitter > 500*time.Microsecond {
			t.Errorf("%s → %s: jitter %s", l.From, l.To, l.Jitter)
		}
		a, b := site[l.From], site[l.To]
		if a == b {
			if l.RTT < time.Millisecond || l.RTT > 4*time.Millisecond {
				t.Errorf("%s → %s, within a site: %s", l.From, l.To, l.RTT)
			}
			continue
		}
		if l.RTT < 14*time.Millisecond || l.RTT > 60*time.Millisecond {
			t.Errorf("%s → %s, between sites: %s", l.From, l.To, l.RTT)
		}
		key := a + "–" + b
		if a > b {
			key = b + "–" + a
		}
		far[key] = append(far[key], l.RTT)
	}
	if len(far) != 3 {
		t.Fatalf("pairs of sites: %v", far)
	}
	// Each pair of sites has distances of its own, which none of another pair comes near to.
	for k, v := range far {
		for k2, v2 := range far {
			if k < k2 && slices.Min(v) <= slices.Max(v2) && slices.Min(v2) <= slices.Max(v) {
				t.Errorf("the distances of %s (%v) and %s (%v) overlap", k, v, k2, v2)
			}
		}
	}
}
