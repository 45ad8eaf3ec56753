// SPDX-License-Identifier: Apache-2.0

package docs

import (
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
