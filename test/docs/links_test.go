// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLinks follows every link from a page to a file of the repository, and to a heading in it.
func TestLinks(t *testing.T) {
	dir := root(t)
	followed := 0
	for _, p := range readPages(t, "README.md", "docs/*.md", "docs/*/*.md", "pkg/plugins/*/README.md", "test/*/README.md") {
		for _, problem := range brokenLinks(dir, p) {
			t.Error(problem)
		}
		followed += len(p.links)
	}
	if followed < 100 {
		t.Errorf("only %d links were found: the test looks in the wrong place", followed)
	}
}

func brokenLinks(dir string, p *page) (problems []string) {
	for _, l := range p.links {
		if strings.Contains(l.text, "://") {
			continue
		}
		file, anchor, _ := strings.Cut(l.text, "#")
		target := p
		if file != "" {
			path := filepath.Join(dir, filepath.Dir(p.name), file)
			content, err := os.ReadFile(path)
			if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
				err = nil
			}
			if err != nil {
				problems = append(problems, at(p, l, "there is no "+file))
				continue
			}
			target = parsePage(file, string(content))
		}
		if anchor != "" && strings.HasSuffix(target.name, ".md") && !slices.Contains(target.anchors, anchor) {
			problems = append(problems, at(p, l, "there is no heading #"+anchor+" in "+target.name))
		}
	}
	return problems
}
