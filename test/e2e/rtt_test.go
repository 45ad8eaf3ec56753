// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type pair struct{ from, to string }

// rtts are round-trip times between nodes. A pair that is not there is unknown.
type rtts map[pair]time.Duration

// measuredRTTs returns the medians that the nodes have published.
func measuredRTTs(ctx context.Context) (rtts, error) {
	list, err := world.fog.NodeLatencies().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	m := rtts{}
	for _, nl := range list.Items {
		for _, p := range nl.Status.Peers {
			if p.Typical != nil {
				m[pair{nl.Name, p.Node}] = p.Typical.Duration
			}
		}
	}
	return m, nil
}

// emulatedRTTs returns what the emulator is told to do.
func emulatedRTTs() (rtts, error) {
	links, err := world.emulator.Links()
	if err != nil {
		return nil, err
	}
	m := rtts{}
	for _, l := range links {
		m[pair{l.From, l.To}] = l.RTT
	}
	return m, nil
}

// truth returns the emulator's RTTs, or the measured ones where there is no emulator.
func truth(ctx context.Context, t *testing.T) rtts {
	t.Helper()
	if world.emulator == nil {
		m, err := measuredRTTs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m, err := emulatedRTTs()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// missing says which of the nodes have measured too few others: all of them, or the 16 that a prober of a larger cluster chooses.
func (m rtts) missing(nodes []string) string {
	var few []string
	for _, a := range nodes {
		n := 0
		for _, b := range nodes {
			if _, ok := m[pair{a, b}]; ok && a != b {
				n++
			}
		}
		if want := min(len(nodes)-1, 16); n < want {
			few = append(few, fmt.Sprintf("%s has measured %d of %d", a, n, want))
		}
	}
	return strings.Join(few, ", ")
}

// tolerance is by how much a measured median may differ from the emulator's RTT.
func tolerance(rtt time.Duration) time.Duration { return time.Millisecond + rtt/20 }

// differences says which pairs of the nodes were measured otherwise than they are.
func (m rtts) differences(want rtts, nodes []string) string {
	var wrong []string
	for _, a := range nodes {
		for _, b := range nodes {
			if a == b {
				continue
			}
			p := pair{a, b}
			got, ok := m[p]
			switch {
			case !ok:
				wrong = append(wrong, fmt.Sprintf("%s → %s: not measured", a, b))
			case (got - want[p]).Abs() > tolerance(want[p]):
				wrong = append(wrong, fmt.Sprintf("%s → %s: measured %s, is %s", a, b, millis(got), millis(want[p])))
			}
		}
	}
	return strings.Join(wrong, "; ")
}

// best returns the node from which a target is the nearest.
func (m rtts) best(t *testing.T, target string, candidates []string) string {
	t.Helper()
	if slices.Contains(candidates, target) {
		return target
	}
	best := ""
	for _, c := range candidates {
		rtt, ok := m[pair{c, target}]
		if ok && (best == "" || rtt < m[pair{best, target}]) {
			best = c
		}
	}
	if best == "" {
		t.Fatalf("no way from any of %v to %s is known", candidates, target)
	}
	return best
}

// asGoodAs says whether a node is as near to the target as the best one, within what can be measured.
func (m rtts) asGoodAs(best, node, target string) bool {
	if node == best {
		return true
	}
	if best == target {
		return false
	}
	rtt, ok := m[pair{node, target}]
	return ok && rtt <= m[pair{best, target}]+tolerance(m[pair{best, target}])
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// table prints what is and what was measured, for all pairs of nodes.
func (m rtts) table(want rtts, nodes []string) {
	short := make([]string, len(nodes))
	width := len("is / measured")
	for i, n := range nodes {
		short[i] = strings.TrimPrefix(n, commonPrefix(nodes))
		width = max(width, len(short[i]))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n  %-*s", width, "is / measured")
	for _, n := range short {
		fmt.Fprintf(&b, "  %13s", n)
	}
	b.WriteString("\n")
	for i, from := range nodes {
		fmt.Fprintf(&b, "  %-*s", width, short[i])
		for _, to := range nodes {
			text := "–"
			if from != to {
				text = "?"
				if got, ok := m[pair{from, to}]; ok {
					text = fmt.Sprintf("%.1f", float64(got)/float64(time.Millisecond))
				}
				text = fmt.Sprintf("%.1f / %s", float64(want[pair{from, to}])/float64(time.Millisecond), text)
			}
			fmt.Fprintf(&b, "  %13s", text)
		}
		b.WriteString("\n")
	}
	fmt.Println(b.String())
}

// commonPrefix returns what all names start with, up to a dash.
func commonPrefix(names []string) string {
	prefix := names[0]
	for _, n := range names {
		for !strings.HasPrefix(n, prefix) {
			prefix = prefix[:len(prefix)-1]
		}
	}
	return prefix[:strings.LastIndex(prefix, "-")+1]
}

// restoreLinks puts the emulator back to what it was when the test ends. The next test that needs that waits until the probers have
// noticed: see settled.
func restoreLinks(t *testing.T) {
	t.Helper()
	before, err := world.emulator.Links()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := world.emulator.SetLinks(before); err != nil {
			t.Errorf("restoring the network: %v", err)
		}
	})
}

// settled waits until what is measured is what is, or, where nobody knows that, until the nodes have measured one another. It returns how
// long that took. Two changes of a pair shortly after one another look to the probers like flapping, so that they believe the second one
// later.
func settled(ctx context.Context, t *testing.T) time.Duration {
	t.Helper()
	since := time.Now()
	until(ctx, t, 2*time.Minute, "the probers to measure the network as it is", func(ctx context.Context) (string, error) {
		nodes, err := readyNodes(ctx)
		if err != nil {
			return "", err
		}
		m, err := measuredRTTs(ctx)
		if err != nil || world.emulator == nil {
			return m.missing(nodes), err
		}
		want, err := emulatedRTTs()
		return m.differences(want, nodes), err
	})
	return time.Since(since)
}
