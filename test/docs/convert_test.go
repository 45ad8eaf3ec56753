// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/app"
)

// TestConvertedPage: what docs/from-networkoverhead.md shows is what the command makes of the AppGroup above it.
func TestConvertedPage(t *testing.T) {
	const shows = "# what kubectl fog convert -f appgroup.yaml prints\n"
	var given, want string
	for _, b := range readPages(t, "docs/from-networkoverhead.md")[0].yaml {
		if strings.HasPrefix(b.text, "# appgroup.yaml\n") {
			given = b.text
		}
		if text, ok := strings.CutPrefix(b.text, shows); ok {
			want = text
		}
	}
	path := filepath.Join(t.TempDir(), "appgroup.yaml")
	if err := os.WriteFile(path, []byte(given), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := app.Main("test", []string{"convert", "-f", path}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the page (-) and the command (+):\n%s", diff)
	}
}
