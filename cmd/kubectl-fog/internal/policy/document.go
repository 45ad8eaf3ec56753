// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// problem is something wrong with a field of a document.
type problem struct {
	path string
	line int
	text string
}

// shape compares a document with the Go type that it is to become, and finds what a decoder would drop or stop at: unknown fields, fields
// that are there twice, and values of another kind. It notes the line of every field on its way.
type shape struct {
	lines    map[string]int
	problems []problem
}

func (s *shape) add(n *yaml.Node, path, format string, args ...any) {
	s.problems = append(s.problems, problem{path: path, line: n.Line, text: fmt.Sprintf(format, args...)})
}

var (
	durationType = reflect.TypeFor[metav1.Duration]()
	jsonType     = reflect.TypeFor[json.Unmarshaler]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// check compares a value, or what it points to, with a type.
func (s *shape) check(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.ShortTag() == "!!null" {
		return
	}
	if t == durationType {
		if _, err := parseDuration(n); err != nil {
			s.add(n, path, "%q is no duration: want a number with its unit, for example \"20ms\"", n.Value)
		}
		return
	}
	if p := reflect.PointerTo(t); p.Implements(jsonType) || p.Implements(textType) {
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		s.object(n, path, func(key *yaml.Node) (reflect.Type, string, bool) {
			f, ok := fieldsOf(t)[key.Value]
			if !ok {
				s.add(key, child(path, key.Value), "unknown field%s", suggest(key.Value, t))
			}
			return f, child(path, key.Value), ok
		})
	case reflect.Map:
		s.object(n, path, func(key *yaml.Node) (reflect.Type, string, bool) { return t.Elem(), path + "[" + key.Value + "]", true })
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			s.add(n, path, "want a list, not %s", describe(n))
			return
		}
		for i, item := range n.Content {
			p := fmt.Sprintf("%s[%d]", path, i)
			s.lines[p] = item.Line
			s.check(item, t.Elem(), p)
		}
	case reflect.String:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" && n.ShortTag() != "!!timestamp" {
			s.add(n, path, "want a text, not %s%s", describe(n), quote(n))
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		if _, err := strconv.ParseInt(n.Value, 0, t.Bits()); n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
			s.add(n, path, "want a whole number, not %s", describe(n))
		}
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			s.add(n, path, "want true or false, not %s", describe(n))
		}
	}
}

// object calls field for each key of a mapping, and checks the values of those that it knows.
func (s *shape) object(n *yaml.Node, path string, field func(key *yaml.Node) (reflect.Type, string, bool)) {
	if n.Kind != yaml.MappingNode {
		s.add(n, path, "want fields, not %s", describe(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			continue // what it brings is checked where it was written, when it is decoded
		}
		t, p, ok := field(key)
		if line, twice := seen[key.Value]; twice {
			s.add(key, p, "is there twice: first in line %d", line)
			continue
		}
		seen[key.Value] = key.Line
		if !ok {
			continue
		}
		s.lines[p] = key.Line
		s.check(value, t, p)
	}
}

// line returns the line of a field, or of the nearest one around it.
func (s *shape) line(path string) int {
	for path != "" {
		if l, ok := s.lines[path]; ok {
			return l
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return s.lines[""]
}

func parseDuration(n *yaml.Node) (d metav1.Duration, err error) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return d, fmt.Errorf("want a text")
	}
	return d, d.UnmarshalJSON([]byte(strconv.Quote(n.Value)))
}

func child(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fieldsOf returns the fields of a struct by their names in JSON, those of embedded structs included.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && f.Anonymous:
			for k, v := range fieldsOf(f.Type) {
				out[k] = v
			}
		case name != "":
			out[name] = f.Type
		}
	}
	return out
}

// describe says what a value is, for people.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return n.Value
	}
	return strconv.Quote(n.Value)
}

// quote tells how to write as a text what YAML takes for something else.
func quote(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return fmt.Sprintf("; write %q with its quotes", n.Value)
	}
	return ""
}

// suggest names the known field that was probably meant, or all of them where there are few.
func suggest(name string, t reflect.Type) string {
	var known []string
	best, least := "", 3 // more changes than that are another word
	for k := range fieldsOf(t) {
		known = append(known, k)
		if d := changes(strings.ToLower(name), strings.ToLower(k)); d < least || d == least && best != "" && k < best {
			best, least = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	slices.Sort(known)
	if len(known) > 12 {
		return ""
	}
	return "; known are " + strings.Join(known, ", ")
}

// changes is the Levenshtein distance of two words.
func changes(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// at returns the value of a field of a field …; nil where there is none.
func at(n *yaml.Node, names ...string) *yaml.Node {
	for _, name := range names {
		n = entry(n, name)
	}
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func entry(n *yaml.Node, name string) *yaml.Node {
	if n == nil {
		return nil
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].ShortTag() == "!!merge" {
			if v := entry(n.Content[i+1], name); v != nil {
				return v
			}
		}
	}
	return nil
}

// text returns the text of a field of a field …; "" where there is none.
func text(n *yaml.Node, names ...string) string {
	if v := at(n, names...); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}
