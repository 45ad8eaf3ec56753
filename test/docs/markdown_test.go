// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is a document, taken apart.
type page struct {
	name     string // from the root of the repository
	yaml     []block
	commands []block // each one command line, continued lines joined
	spans    []block // what stands between backquotes in the prose
	links    []block
	anchors  []string
}

// block is a piece of a page and the line that it begins on.
type block struct {
	line int
	text string
	// fails is set where the page shows that the command ends with an error.
	fails bool
}

var (
	fence   = regexp.MustCompile("^( *)```+ *([a-z]*)$")
	span    = regexp.MustCompile("``(.+?)``|`([^`]+)`")
	link    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`^#{1,6} +(.*)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// parsePage finds the parts of a page. Commands are what stands in fences of the language sh and in indented code; where a line of these begins
// with "$ ", the others are its output. Fences without a language, and of text, are output.
func parsePage(name, content string) *page {
	p := &page{name: name}
	lines := strings.Split(content, "\n")
	blank := true // the line before is
	for i := 0; i < len(lines); i++ {
		if m := fence.FindStringSubmatch(lines[i]); m != nil {
			start := i + 1
			var code []string
			for i++; i < len(lines) && !strings.HasPrefix(strings.TrimSpace(lines[i]), "```"); i++ {
				code = append(code, strings.TrimPrefix(lines[i], m[1]))
			}
			switch m[2] {
			case "yaml":
				p.yaml = append(p.yaml, block{line: start + 1, text: strings.Join(code, "\n") + "\n"})
			case "sh":
				p.shell(start+1, code)
			}
			blank = true
			continue
		}
		if blank && strings.HasPrefix(lines[i], "    ") {
			start := i + 1
			var code []string
			for ; i < len(lines) && (strings.HasPrefix(lines[i], "    ") || strings.TrimSpace(lines[i]) == ""); i++ {
				code = append(code, strings.TrimSpace(lines[i]))
			}
			i--
			p.shell(start, code)
			blank = true
			continue
		}
		blank = strings.TrimSpace(lines[i]) == ""
		if m := heading.FindStringSubmatch(lines[i]); m != nil {
			p.anchor(m[1])
		}
		for _, m := range span.FindAllStringSubmatch(lines[i], -1) {
			p.spans = append(p.spans, block{line: i + 1, text: strings.ReplaceAll(strings.TrimSpace(m[1]+m[2]), `\|`, "|")})
		}
		for _, m := range link.FindAllStringSubmatch(span.ReplaceAllString(lines[i], "code"), -1) {
			p.links = append(p.links, block{line: i + 1, text: m[1]})
		}
	}
	return p
}

func (p *page) shell(line int, code []string) {
	session := slices.ContainsFunc(code, func(l string) bool { return strings.HasPrefix(l, "$ ") })
	for i := 0; i < len(code); i++ {
		at := line + i
		text := code[i]
		for strings.HasSuffix(text, `\`) && i+1 < len(code) {
			i++
			text = strings.TrimSuffix(text, `\`) + " " + strings.TrimSpace(code[i])
		}
		if session {
			var ok bool
			if text, ok = strings.CutPrefix(text, "$ "); !ok {
				continue
			}
		}
		if text = strings.TrimSpace(text); text != "" && text[0] != '#' && text[0] != '{' {
			fails := session && i+1 < len(code) && strings.HasPrefix(strings.ToLower(code[i+1]), "error")
			p.commands = append(p.commands, block{line: at, text: text, fails: fails})
		}
	}
}

// anchor is what GitHub makes of a heading.
func (p *page) anchor(text string) {
	text = link.ReplaceAllStringFunc(text, func(l string) string { return l[1:strings.Index(l, "]")] })
	slug := strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(text)), ""), " ", "-")
	for base, k := slug, 1; slices.Contains(p.anchors, slug); k++ {
		slug = base + "-" + string(rune('0'+k))
	}
	p.anchors = append(p.anchors, slug)
}

// readPages returns the pages that patterns name.
func readPages(t *testing.T, patterns ...string) []*page {
	t.Helper()
	dir := root(t)
	var pages []*page
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(dir, file)
			if err != nil {
				t.Fatal(err)
			}
			pages = append(pages, parsePage(name, string(content)))
		}
	}
	return pages
}
