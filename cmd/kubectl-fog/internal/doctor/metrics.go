// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"io"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// samples are the metrics of a scheduler.
type samples struct{ families map[string]*dto.MetricFamily }

func parseMetrics(in io.Reader) (*samples, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(in)
	if err != nil {
		return nil, err
	}
	for name := range families {
		if strings.HasPrefix(name, "fogsched_") {
			return &samples{families}, nil
		}
	}
	return nil, errors.New("there is no metric fogsched_…")
}

// sample is one series.
type sample struct {
	labels map[string]string
	value  float64
}

// of returns the series of a counter or gauge.
func (s *samples) of(name string) []sample {
	var out []sample
	for _, m := range s.families[name].GetMetric() {
		one := sample{labels: map[string]string{}}
		for _, l := range m.GetLabel() {
			one.labels[l.GetName()] = l.GetValue()
		}
		switch {
		case m.Counter != nil:
			one.value = m.GetCounter().GetValue()
		case m.Gauge != nil:
			one.value = m.GetGauge().GetValue()
		default:
			one.value = m.GetUntyped().GetValue()
		}
		out = append(out, one)
	}
	return out
}

// sum adds the series that have the labels, given as key and value in turn.
func (s *samples) sum(name string, labels ...string) (sum float64) {
	for _, one := range s.of(name) {
		ok := true
		for i := 0; i+1 < len(labels); i += 2 {
			ok = ok && one.labels[labels[i]] == labels[i+1]
		}
		if ok {
			sum += one.value
		}
	}
	return sum
}

// values returns the values of a label of a metric, in order.
func (s *samples) values(name, label string) (out []string) {
	for _, one := range s.of(name) {
		out = append(out, one.labels[label])
	}
	slices.Sort(out)
	return slices.Compact(out)
}
