// SPDX-License-Identifier: Apache-2.0

package zones

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fogsched/fogsched/pkg/latency"
)

const table = `
within: {zone: 1ms, region: 8ms}
pairs:
- {between: [site-a, site-b], typical: 20ms, tail: 35ms}
- {between: [north, south], typical: 50ms}
- {between: [site-c, site-c], typical: 2ms}
`

func TestBetween(t *testing.T) {
	tb, err := Parse([]byte(table))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		a, b Location
		want string // typical and tail
	}{
		"a pair of zones": {
			Location{"north", "site-a"}, Location{"north", "site-b"}, "20ms 35ms zone",
		},
		"the same pair the other way round": {
			Location{"north", "site-b"}, Location{"north", "site-a"}, "20ms 35ms zone",
		},
		"a pair of zones without regions": {
			Location{"", "site-a"}, Location{"", "site-b"}, "20ms 35ms zone",
		},
		"the pair of zones stands above the pair of regions": {
			Location{"north", "site-a"}, Location{"south", "site-b"}, "20ms 35ms zone",
		},
		"a pair of regions, for zones that the table does not have": {
			Location{"north", "site-a"}, Location{"south", "site-x"}, "50ms unknown zone",
		},
		"the same zone": {
			Location{"north", "site-a"}, Location{"north", "site-a"}, "1ms unknown zone",
		},
		"the same zone with a line of its own": {
			Location{"north", "site-c"}, Location{"north", "site-c"}, "2ms unknown zone",
		},
		"the same region": {
			Location{"north", "site-x"}, Location{"north", "site-y"}, "8ms unknown zone",
		},
		"regions without zones": {
			Location{"north", ""}, Location{"south", ""}, "50ms unknown zone",
		},
		"nothing that the table has": {
			Location{"east", "site-x"}, Location{"west", "site-y"}, "unknown unknown unknown",
		},
		"no zone and no region": {
			Location{}, Location{}, "unknown unknown unknown",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := tb.Between(tt.a, tt.b)
			got := e.Typical.String() + " " + e.Tail.String() + " " + e.Provenance.String()
			if got != tt.want {
				t.Errorf("Between(%v, %v) = %s, want %s", tt.a, tt.b, got, tt.want)
			}
		})
	}

	for name, empty := range map[string]*Table{"no table": nil, "an empty table": {}} {
		if got := empty.Between(Location{"north", "site-a"}, Location{"north", "site-a"}); got != (latency.Estimate{}) {
			t.Errorf("%s knows %v", name, got)
		}
	}
}

func TestParse(t *testing.T) {
	const unit = "must be a duration with its unit, for example 20ms"
	tests := map[string]struct {
		in        string
		wantError string
	}{
		"nothing":     {in: ""},
		"only within": {in: "within: {zone: 500us}"},
		"the example": {in: table},
		"an unknown field": {
			in:        "pears: []",
			wantError: `error unmarshaling JSON: while decoding JSON: json: unknown field "pears"`,
		},
		"an unknown field in a pair": {
			in:        "pairs: [{between: [a, b], typical: 20ms, medium: 1ms}]",
			wantError: `error unmarshaling JSON: while decoding JSON: json: unknown field "medium"`,
		},
		"a field twice": {
			in:        "within: {}\nwithin: {}",
			wantError: `error converting YAML to JSON: yaml: unmarshal errors:` + "\n" + `  line 2: key "within" already set in map`,
		},
		"a pair of one": {
			in:        "pairs: [{between: [a], typical: 20ms}]",
			wantError: `pairs[0].between: Invalid value: ["a"]: give two zones or regions by name`,
		},
		"a pair of three": {
			in:        "pairs: [{between: [a, b, c], typical: 20ms}]",
			wantError: `pairs[0].between: Invalid value: ["a","b","c"]: give two zones or regions by name`,
		},
		"a zone without a name": {
			in:        `pairs: [{between: [a, ""], typical: 20ms}]`,
			wantError: `pairs[0].between: Invalid value: ["a",""]: give two zones or regions by name`,
		},
		"a region whose name YAML takes for a truth value": {
			in:        `pairs: [{between: [se, no], typical: 20ms}]`,
			wantError: `pairs[0].between: Invalid value: ["se","false"]: YAML reads y, n, yes, no, on and off as true or false: put such a name into quotes`,
		},
		"the same in quotes": {in: `pairs: [{between: [se, "no"], typical: 20ms}]`},
		"the same pair twice, the other way round": {
			in:        "pairs: [{between: [a, b], typical: 20ms}, {between: [b, a], typical: 30ms}]",
			wantError: `pairs[1].between: Duplicate value: ["b","a"]`,
		},
		"no round-trip time": {
			in:        "pairs: [{between: [a, b]}]",
			wantError: `pairs[0].typical: Required value: give a round-trip time, for example 20ms`,
		},
		"a round-trip time of 0": {
			in:        "pairs: [{between: [a, b], typical: 0s}]",
			wantError: `pairs[0].typical: Invalid value: "0s": must be above 0 and at most 60s`,
		},
		"a negative one": {
			in:        "within: {region: -8ms}",
			wantError: `within.region: Invalid value: "-8ms": must be above 0 and at most 60s`,
		},
		"one above a minute": {
			in:        "pairs: [{between: [a, b], typical: 2m}]",
			wantError: `pairs[0].typical: Invalid value: "2m": must be above 0 and at most 60s`,
		},
		"a tail below the median": {
			in:        "pairs: [{between: [a, b], typical: 20ms, tail: 19ms}]",
			wantError: `pairs[0].tail: Invalid value: "19ms": must be at least the typical RTT`,
		},
		"a tail of 0": {
			in:        "pairs: [{between: [a, b], typical: 20ms, tail: 0s}]",
			wantError: `pairs[0].tail: Invalid value: "0s": must be above 0 and at most 60s`,
		},
		"no unit": {
			in:        `pairs: [{between: [a, b], typical: 20ms}, {between: [a, c], typical: "20"}]`,
			wantError: `pairs[1].typical: Invalid value: "20": ` + unit,
		},
		"a number": {
			in:        `pairs: [{between: [a, b], typical: 20}]`,
			wantError: `pairs[0].typical: Invalid value: "20": ` + unit,
		},
		"a list": {
			in:        `pairs: [{between: [a, b], typical: [20ms]}]`,
			wantError: `error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go struct field pair.pairs.typical of type string`,
		},
		"several bad fields are told at once": {
			in:        `{within: {zone: fast, region: 2h}, pairs: [{between: [a, b], typical: near}]}`,
			wantError: `[within.zone: Invalid value: "fast": ` + unit + `, within.region: Invalid value: "2h": must be above 0 and at most 60s, pairs[0].typical: Invalid value: "near": ` + unit + `]`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(tt.in))
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff(tt.wantError, text); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if (got == nil) != (tt.wantError != "") {
				t.Errorf("table %v with error %v", got, err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := Load(write("good.yaml", table)); err != nil {
		t.Errorf("a good file: %v", err)
	}
	tests := map[string]struct{ path, wantError string }{
		"no such file": {
			path:      filepath.Join(dir, "absent.yaml"),
			wantError: "reading the zone table: stat " + dir + "/absent.yaml: no such file or directory",
		},
		"a folder": {
			path:      dir,
			wantError: "reading the zone table: read " + dir + ": is a directory",
		},
		"a bad file": {
			path:      write("bad.yaml", "within: {zone: 0s}"),
			wantError: "zone table " + dir + `/bad.yaml: within.zone: Invalid value: "0s": must be above 0 and at most 60s`,
		},
		"a huge file": {
			path:      write("huge.yaml", strings.Repeat("#", MaxFileBytes+1)),
			wantError: "reading the zone table: " + dir + "/huge.yaml is larger than 1048576 bytes",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := Load(tt.path); err == nil || err.Error() != tt.wantError {
				t.Errorf("error %v, want %s", err, tt.wantError)
			}
		})
	}
}
