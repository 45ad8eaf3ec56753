// SPDX-License-Identifier: Apache-2.0

package presets

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fogsched/fogsched/test/promtest"
)

// page is a page of metrics in Prometheus' text format.
type page struct{ b strings.Builder }

// add writes a series; labels are pairs of a name and a value.
func (p *page) add(name string, value float64, labels ...string) {
	p.b.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		p.b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		fmt.Fprintf(&p.b, "%s=%q", labels[i], labels[i+1])
	}
	if len(labels) > 0 {
		p.b.WriteString("}")
	}
	p.b.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
}

// histogram writes a histogram of n observations of one value.
func (p *page) histogram(name string, bounds []float64, value float64, n int, labels ...string) {
	for _, bound := range append(bounds[:len(bounds):len(bounds)], math.Inf(1)) {
		count := 0
		if value <= bound {
			count = n
		}
		le := strconv.FormatFloat(bound, 'g', -1, 64)
		p.add(name+"_bucket", float64(count), append(labels[:len(labels):len(labels)], "le", le)...)
	}
	p.add(name+"_sum", value*float64(n), labels...)
	p.add(name+"_count", float64(n), labels...)
}

// simulation is a prober in this process: a page that is written anew at each of its steps, until it stalls.
type simulation struct {
	*promtest.Exporter
	stalled atomic.Bool
}

// simulate runs a prober on a page. It probes four times a second.
func simulate(t *testing.T, write func(p *page, n int)) *simulation {
	t.Helper()
	text := func(n int) string {
		p := &page{}
		write(p, n)
		return p.b.String()
	}
	e, err := promtest.NewExporter(text(1))
	if err != nil {
		t.Fatal(err)
	}
	s := &simulation{Exporter: e}
	done := make(chan struct{})
	t.Cleanup(func() { close(done); e.Close() })
	go func() {
		ticker := time.NewTicker(250 * time.Millisecond)
		defer ticker.Stop()
		for n := 2; ; n++ {
			select {
			case <-done:
				return
			case <-ticker.C:
				if !s.stalled.Load() {
					s.Set(text(n))
				}
			}
		}
	}()
	return s
}
