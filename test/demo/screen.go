// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// screen prints for people: progress while something takes long, tables that line up, colour on a terminal.
type screen struct {
	started  time.Time
	terminal bool
	colour   bool
}

func newScreen() *screen {
	s := &screen{started: time.Now(), terminal: isTerminal(os.Stdout)}
	if v := os.Getenv("FOGSCHED_DEMO_TERMINAL"); v != "" {
		s.terminal = v == "true"
	}
	s.colour = s.terminal && os.Getenv("NO_COLOR") == ""
	return s
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

const (
	bold  = "1"
	green = "32"
	red   = "31"
	faint = "2"
)

func (s *screen) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// step says what is being done, with the time since the start.
func (s *screen) step(format string, args ...any) {
	s.clear()
	fmt.Printf("%s %s\n", s.paint(faint, fmt.Sprintf("[%5.1f s]", time.Since(s.started).Seconds())), fmt.Sprintf(format, args...))
}

// progress shows a state that changes; on anything but a terminal only its end is worth a line, by step.
func (s *screen) progress(format string, args ...any) {
	if s.terminal {
		fmt.Printf("\r\x1b[K          %s", s.paint(faint, fmt.Sprintf(format, args...)))
	}
}

func (s *screen) clear() {
	if s.terminal {
		fmt.Print("\r\x1b[K")
	}
}

func (s *screen) title(format string, args ...any) {
	s.clear()
	fmt.Printf("\n%s\n\n", s.paint(bold, fmt.Sprintf(format, args...)))
}

func (s *screen) say(format string, args ...any) {
	s.clear()
	fmt.Printf(format+"\n", args...)
}

// cell is a text and how it is painted: widths count the text alone.
type cell struct{ text, code string }

func plain(text string) cell { return cell{text: text} }

// table prints rows under a heading. Columns whose heading starts with ">" are aligned to the right; a row of no cells is an
// empty line.
func (s *screen) table(heading []string, rows [][]cell) {
	right := make([]bool, len(heading))
	width := make([]int, len(heading))
	for i, h := range heading {
		h, right[i] = strings.CutPrefix(h, ">")
		heading[i] = h
		width[i] = utf8.RuneCountInString(h)
	}
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	line := func(cells []cell) {
		var b strings.Builder
		for i, c := range cells {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text))
			text := c.text
			if c.code != "" {
				text = s.paint(c.code, text)
			}
			if right[i] {
				text = pad + text
			} else {
				text += pad
			}
			b.WriteString("  " + text)
		}
		fmt.Println(strings.TrimRight(b.String(), " "))
	}
	head := make([]cell, len(heading))
	for i, h := range heading {
		head[i] = cell{h, faint}
	}
	line(head)
	for _, r := range rows {
		line(r)
	}
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
