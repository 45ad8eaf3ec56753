// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fogsched/fogsched/test/program"
)

// root returns the folder of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := program.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// at says where in a page something is wrong.
func at(p *page, b block, problem string) string {
	text, _, more := strings.Cut(b.text, "\n")
	if more {
		text += " …"
	}
	return fmt.Sprintf("%s:%d: %s: %s", p.name, b.line, text, problem)
}
