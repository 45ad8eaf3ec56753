// SPDX-License-Identifier: Apache-2.0

// Package sbom compares a software bill of materials with the program that it is of.
package sbom

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

type component struct{ Name, Version, PURL string }

// Amiss says what is wrong with the SBOM in a file, in CycloneDX's JSON, of a program in another: it must name the main module with the
// given version, and exactly the modules, with their versions, that the linker wrote into the program, and the standard library.
func Amiss(file, program, version string) ([]string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var bom struct {
		BOMFormat, SpecVersion, SerialNumber string
		Metadata                             struct {
			Component component
			Timestamp string
		}
		Components []component
	}
	if err := json.Unmarshal(data, &bom); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var amiss []string
	complain := func(format string, args ...any) { amiss = append(amiss, fmt.Sprintf(format, args...)) }
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion == "" || !strings.HasPrefix(bom.SerialNumber, "urn:uuid:") {
		complain("format %q, version %q, serial number %q", bom.BOMFormat, bom.SpecVersion, bom.SerialNumber)
	}
	if bom.Metadata.Timestamp != "" {
		complain("the time of day is in it: %s", bom.Metadata.Timestamp)
	}
	if main := bom.Metadata.Component; main.Name != info.Main.Path || main.Version != version {
		complain("it is of %s %s, want %s %s", main.Name, main.Version, info.Main.Path, version)
	}
	want := map[string]string{"std": info.GoVersion}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		want[d.Path] = d.Version
	}
	got := map[string]string{}
	for _, c := range bom.Components {
		got[c.Name] = c.Version
		if w, ok := want[c.Name]; !ok || w != c.Version {
			complain("%s %s is in it; in the program is %q", c.Name, c.Version, w)
		}
		if !strings.HasPrefix(c.PURL, "pkg:golang/"+c.Name+"@") {
			complain("%s has the package URL %q", c.Name, c.PURL)
		}
	}
	for name, w := range want {
		if _, ok := got[name]; !ok {
			complain("%s %s is missing", name, w)
		}
	}
	slices.Sort(amiss)
	return amiss, nil
}
