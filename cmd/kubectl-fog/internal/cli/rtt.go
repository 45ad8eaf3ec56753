// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"time"

	"github.com/fogsched/fogsched/pkg/latency"
)

// None stands in a table where there is no value. It is never 0.
const None = "–"

// RTT writes a round-trip time for a table: "12.3ms" where it was measured, "~12.3ms" where it is an estimate, "–" where it is unknown.
func RTT(rtt latency.RTT, p latency.Provenance) string {
	if !rtt.Known() {
		return None
	}
	if !p.IsMeasured() {
		return "~" + rtt.String()
	}
	return rtt.String()
}

// Age writes how long ago something was, in the two digits that matter: "12s", "4m", "3h", "2d". A negative age, of a clock that is ahead,
// is 0s.
func Age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Count writes a number with its digits in groups of three, "12,497,500".
func Count(n int) string {
	if n < 0 {
		return "-" + Count(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", Count(n/1000), n%1000)
}

// Plural returns a number and a word, "1 node", "3 nodes".
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + many
}

// Share writes a part of a whole, "6.4 %"; "–" of nothing. What is not all is never written as 100 %, and what is not nothing never as 0 %.
func Share(part, whole int) string {
	if whole == 0 {
		return None
	}
	p := 100 * float64(part) / float64(whole)
	switch {
	case part == 0 || part == whole:
		return fmt.Sprintf("%.0f %%", p)
	case p < 0.1:
		return "<0.1 %"
	case p > 99.9:
		return ">99.9 %"
	}
	return fmt.Sprintf("%.1f %%", p)
}
