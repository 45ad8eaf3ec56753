// SPDX-License-Identifier: Apache-2.0

package latency

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEachMeasuredCallsOncePerPair(t *testing.T) {
	rtt, _ := FromDuration(time.Millisecond)
	measured := func(to int32) Edge { return NewEdge(to, Estimate{Typical: rtt, At: time.Unix(1, 0), Count: 1}) }
	s := NewSnapshot(&Picture{
		Names: []string{"a", "b", "c", "d"},
		Edges: [][]Edge{
			{measured(1), Lost(2, time.Unix(1, 0), 3)},
			{measured(0), measured(2)},
			{measured(0), measured(1)},
			{Blocked(0, time.Unix(1, 0)), measured(2)},
		},
	})
	var got []string
	s.EachMeasured(func(a, b int32) { got = append(got, fmt.Sprintf("%s-%s", s.Name(min(a, b)), s.Name(max(a, b)))) })
	slices.Sort(got)
	if diff := cmp.Diff([]string{"a-b", "a-c", "b-c", "c-d"}, got); diff != "" {
		t.Errorf("measured pairs (-want +got):\n%s", diff)
	}
	if n, _ := s.Coverage(); n != len(got) {
		t.Errorf("Coverage has %d measured pairs, EachMeasured %d", n, len(got))
	}
}
