// SPDX-License-Identifier: Apache-2.0

package quality

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/fogsched/fogsched/pkg/latency"
)

// missing marks a pair without a measurement. NaN is the one value that no comparison can take for a good one.
var missing = math.NaN()

func known(ms float64) bool { return !math.IsNaN(ms) }

// matrix has the RTT from node i to node j in milliseconds at [i][j]. The diagonal is the distance that fogsched gives a
// node to itself.
type matrix [][]float64

var localMillis = float64(latency.LocalRTT.Microseconds()) / 1000

// readMatrix reads a square matrix of numbers that white space separates, gzipped or plain.
func readMatrix(path string, unitMillis float64) (matrix, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	buffered := bufio.NewReader(file)
	r := io.Reader(buffered)
	if magic, _ := buffered.Peek(2); string(magic) == "\x1f\x8b" {
		zipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		defer zipped.Close()
		r = zipped
	}
	m, err := parseMatrix(r, unitMillis)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func parseMatrix(r io.Reader, unitMillis float64) (matrix, error) {
	var m matrix
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		row := make([]float64, len(fields))
		for j, f := range fields {
			v, err := strconv.ParseFloat(f, 64)
			if err != nil {
				return nil, fmt.Errorf("row %d, column %d: %q is no number", len(m)+1, j+1, f)
			}
			switch {
			case len(m) == j:
				row[j] = localMillis
			case v > 0 && !math.IsInf(v, 0):
				row[j] = v * unitMillis
			default: // 0 is how these data write a missing value
				row[j] = missing
			}
		}
		m = append(m, row)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	for i, row := range m {
		if len(row) != len(m) {
			return nil, fmt.Errorf("row %d has %d columns, but there are %d rows", i+1, len(row), len(m))
		}
	}
	if len(m) < 20 {
		return nil, fmt.Errorf("%d nodes are too few to say anything", len(m))
	}
	return m, nil
}

// pairs counts the ordered pairs of different nodes, and the unordered ones that were measured from at least one side.
func (m matrix) pairs() (ordered, unordered int) {
	for i := range m {
		for j := range m {
			if i != j && known(m[i][j]) {
				ordered++
				if i < j || !known(m[j][i]) {
					unordered++
				}
			}
		}
	}
	return ordered, unordered
}

// between is the distance of two nodes whichever way it was measured.
func (m matrix) between(i, j int) float64 {
	switch a, b := m[i][j], m[j][i]; {
	case !known(a):
		return b
	case !known(b):
		return a
	default:
		return (a + b) / 2
	}
}

// inputs are the matrices that a run is about.
type inputs struct {
	measuredFile, trueFile string
	measured, truth        matrix
}

// loadInputs reads what the environment names, or skips the test where that is missing.
func loadInputs(t *testing.T) inputs {
	t.Helper()
	root := repositoryRoot(t)
	folder := filepath.Join(filepath.Dir(root), "shared", "data", "rtt")
	in := inputs{
		measuredFile: or(os.Getenv("RTT_MEASURED"), filepath.Join(folder, "planetlab-01.txt.gz")),
		trueFile:     or(os.Getenv("RTT_TRUE"), filepath.Join(folder, "planetlab-09.txt.gz")),
	}
	unit := map[string]float64{"": 1, "ms": 1, "s": 1000}[os.Getenv("RTT_UNIT")]
	if unit == 0 {
		t.Fatalf("RTT_UNIT=%s: want ms or s", os.Getenv("RTT_UNIT"))
	}
	for _, path := range []string{in.measuredFile, in.trueFile} {
		if _, err := os.Stat(path); os.IsNotExist(err) {
			t.Skipf("No round-trip times to place by: %s is missing. Name other matrices by RTT_MEASURED=file RTT_TRUE=file RTT_UNIT=ms|s", path)
		}
	}
	var err error
	if in.measured, err = readMatrix(in.measuredFile, unit); err != nil {
		t.Fatal(err)
	}
	if in.truth, err = readMatrix(in.trueFile, unit); err != nil {
		t.Fatal(err)
	}
	if len(in.measured) != len(in.truth) {
		t.Fatalf("%s has %d nodes and %s has %d", in.measuredFile, len(in.measured), in.trueFile, len(in.truth))
	}
	return in
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// repositoryRoot is the folder of go.mod.
func repositoryRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod in this folder or above")
		}
		dir = parent
	}
}

func TestParseMatrix(t *testing.T) {
	// 20 nodes, 10 ms from one to the other, but for one missing pair.
	rows := make([]string, 20)
	for i := range rows {
		fields := make([]string, 20)
		for j := range fields {
			fields[j] = "0.01"
		}
		fields[i] = "0"
		rows[i] = strings.Join(fields, "\t")
	}
	rows[3] = strings.Replace(rows[3], "0.01", "0", 1)
	text := strings.Join(rows, "\n") + "\n"
	m, err := parseMatrix(strings.NewReader(text), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if m[0][1] != 10 || m[1][1] != localMillis || known(m[3][0]) || m.between(3, 0) != 10 {
		t.Errorf("m[0][1], m[1][1], m[3][0], between = %v, %v, %v, %v; want 10, %v, NaN, 10",
			m[0][1], m[1][1], m[3][0], m.between(3, 0), localMillis)
	}
	if ordered, unordered := m.pairs(); ordered != 379 || unordered != 190 {
		t.Errorf("pairs() = %d, %d; want 379, 190", ordered, unordered)
	}
	for name, c := range map[string]struct{ text, want string }{
		"a word":      {strings.Replace(text, "0.01", "far", 1), `row 1, column 2: "far" is no number`},
		"a short row": {text + "1 2 3\n", "row 1 has 20 columns, but there are 21 rows"},
		"too small":   {"0 1\n1 0\n", "2 nodes are too few"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseMatrix(strings.NewReader(c.text), 1)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
