// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"
)

// Say writes a sentence of our own, broken between words where the terminal is narrow.
func (o *Options) Say(format string, args ...any) {
	for _, line := range Wrap(fmt.Sprintf(format, args...), o.Columns()) {
		fmt.Fprintln(o.Out, line)
	}
}

// Wrap breaks a text between words into lines of at most a width, which 0 does not bound. A word that is longer stays whole.
func Wrap(text string, width int) []string {
	if width <= 0 || Width(text) <= width {
		return []string{text}
	}
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case Width(line)+1+Width(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}
