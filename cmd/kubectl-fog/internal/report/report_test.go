// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli"
	"github.com/fogsched/fogsched/cmd/kubectl-fog/internal/cli/clitest"
)

// reportOf runs the command and returns its data.
func reportOf(t testing.TB, s *clitest.Server, args ...string) *Report {
	t.Helper()
	got := s.Run(t, NewCommand, 0, nil, append([]string{"--format", "json", "-o", "-"}, args...)...)
	if got.Error != nil {
		t.Fatal(got.Error)
	}
	var r Report
	if err := json.Unmarshal([]byte(got.Out), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

// pageOf runs the command and returns the page.
func pageOf(t testing.TB, s *clitest.Server, args ...string) string {
	t.Helper()
	got := s.Run(t, NewCommand, 0, nil, append([]string{"-o", "-"}, args...)...)
	if got.Error != nil {
		t.Fatal(got.Error)
	}
	return got.Out
}

func TestGolden(t *testing.T) {
	s := clitest.NewServer(t, small()...)
	clitest.Golden(t, "small.json", s.Run(t, NewCommand, 0, nil, "--format", "json", "-o", "-").Out)
	clitest.Golden(t, "small.yaml", s.Run(t, NewCommand, 0, nil, "--format", "yaml", "-o", "-").Out)
	clitest.Golden(t, "small.txt", textOf(t, pageOf(t, s)))
	clitest.Golden(t, "empty.txt", textOf(t, pageOf(t, clitest.NewServer(t))))
	clitest.Golden(t, "empty.json", clitest.NewServer(t).Run(t, NewCommand, 0, nil, "--format", "json", "-o", "-").Out)
}

// textOf is what a page says: headings, sentences and tables, a line each, without pictures.
func textOf(t testing.TB, page string) string {
	t.Helper()
	var b strings.Builder
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.TextNode {
			b.WriteString(strings.Join(strings.Fields(" "+n.Data+" "), " "))
			if strings.TrimSpace(n.Data) != "" && n.Data != strings.TrimRight(n.Data, " \n") {
				b.WriteByte(' ')
			}
			return
		}
		if n.Type == html.ElementNode {
			switch n.Data {
			case "style", "script", "head":
				return
			case "svg":
				if attribute(n, "role") == "img" {
					b.WriteString("[picture: " + textIn(n, "title") + "]\n")
				}
				return
			case "h1", "h2", "h3":
				b.WriteString("\n" + strings.Repeat("#", int(n.Data[1]-'0')) + " ")
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
		if n.Type == html.ElementNode {
			switch n.Data {
			case "h1", "h2", "h3", "p", "li", "tr", "caption", "summary", "dt", "dd", "figcaption":
				b.WriteByte('\n')
			case "th", "td":
				b.WriteString(" | ")
			}
		}
	}
	walk(parse(t, page))
	return regexp.MustCompile(`(?m)( \|)? +$`).ReplaceAllString(b.String(), "")
}

func parse(t testing.TB, page string) *html.Node {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// textIn returns the text of the first child element of a name.
func textIn(n *html.Node, name string) string {
	for c := range n.ChildNodes() {
		if c.Type == html.ElementNode && c.Data == name && c.FirstChild != nil {
			return c.FirstChild.Data
		}
	}
	return ""
}

func elements(doc *html.Node) (list []*html.Node) {
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode {
			list = append(list, n)
		}
	}
	return list
}

// structure checks what every page must keep.
func structure(t *testing.T, page string) {
	t.Helper()
	doc := parse(t, page)
	ids, labels, refs := map[string]bool{}, []string{}, []string{}
	last, csp, lang := 0, "", ""
	for _, n := range elements(doc) {
		switch n.Data {
		case "script", "style":
			if n.FirstChild != nil && n.Data == "style" {
				for _, m := range regexp.MustCompile(`url\(([^)]*)\)|@import[^;]*`).FindAllStringSubmatch(n.FirstChild.Data, -1) {
					if !strings.HasPrefix(m[1], "#") {
						t.Errorf("the style sheet loads %s", m[0])
					}
				}
			}
		case "link", "img", "iframe", "object", "embed", "image", "use", "base", "form", "video", "audio", "source", "foreignobject":
			t.Errorf("there is an element %s", n.Data)
		case "html":
			lang = attribute(n, "lang")
		case "meta":
			if attribute(n, "http-equiv") == "Content-Security-Policy" {
				csp = attribute(n, "content")
			}
		case "h1", "h2", "h3", "h4":
			level := int(n.Data[1] - '0')
			if level > last+1 {
				t.Errorf("heading %s follows level %d", n.Data, last)
			}
			last = level
		case "table":
			if textIn(n, "caption") == "" {
				t.Error("a table has no caption")
			}
		case "th":
			if attribute(n, "scope") == "" {
				t.Error("a table's header has no scope")
			}
		case "svg":
			hidden := attribute(n, "aria-hidden") == "true"
			if !hidden && (attribute(n, "role") != "img" || textIn(n, "title") == "" || textIn(n, "desc") == "") {
				t.Errorf("a picture has no name: %v", n.Attr)
			}
		}
		for _, a := range n.Attr {
			switch a.Key {
			case "id":
				if ids[a.Val] {
					t.Errorf("id %s is there twice", a.Val)
				}
				ids[a.Val] = true
			case "href", "src", "action", "data", "srcset", "poster", "xlink:href", "background", "formaction", "ping", "cite":
				if !strings.HasPrefix(a.Val, "#") {
					t.Errorf("%s %s=%q leads out of the page", n.Data, a.Key, a.Val)
				} else {
					refs = append(refs, a.Val[1:])
				}
			case "style":
				t.Errorf("%s has a style of its own, which the policy forbids", n.Data)
			case "aria-labelledby":
				labels = append(labels, strings.Fields(a.Val)...)
			}
			if strings.HasPrefix(a.Key, "on") {
				t.Errorf("%s has a handler %s=%q", n.Data, a.Key, a.Val)
			}
			if strings.Contains(a.Val, "url(") && !strings.Contains(a.Val, "url(#") || strings.Contains(strings.ToLower(a.Val), "javascript:") {
				t.Errorf("%s %s=%q", n.Data, a.Key, a.Val)
			}
		}
	}
	for _, id := range append(labels, refs...) {
		if !ids[id] {
			t.Errorf("nothing has the id %s", id)
		}
	}
	if lang == "" || last == 0 {
		t.Error("no language, or no heading")
	}
	if !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") {
		t.Errorf("Content-Security-Policy: %s", csp)
	}
	scripts := 0
	for _, n := range elements(doc) {
		if n.Data == "script" {
			scripts++
		}
	}
	if scripts != 1 {
		t.Errorf("%d scripts", scripts)
	}
}

func TestStructure(t *testing.T) {
	unknown := slices.DeleteFunc(objectsOf(plane(5, 25), 3), func(o runtime.Object) bool { return strings.Contains(fmt.Sprintf("%T", o), "NodeLatency") })
	for name, objects := range map[string][]runtime.Object{
		"small": small(), "empty": nil, "nothing known": unknown, "by node": objectsOf(plane(5, 60), 14), "by zone": objectsOf(plane(12, 300), 5),
	} {
		t.Run(name, func(t *testing.T) { structure(t, pageOf(t, clitest.NewServer(t, objects...))) })
	}
}

// Whatever a cluster says is text in the page, and nothing else.
func TestHostileTexts(t *testing.T) {
	page := pageOf(t, clitest.NewServer(t, small()...), "--title", hostile)
	structure(t, page)
	for _, s := range []string{"<script>alert", "<img", "onerror=alert(2)>'`</title>", "<svg/onload"} {
		if strings.Contains(page, s) {
			t.Errorf("the page holds %s", s)
		}
	}
	if title := titleOf(parse(t, page)); title != hostile {
		t.Errorf("the title is %q", title)
	}
	// The same for what comes out of objects: a report is data, and every text in it goes through the template.
	r := &Report{
		Title: hostile, Context: hostile, Cluster: hostile, Namespace: hostile, At: clitest.Now, InShort: []Fact{{"bad", hostile}}, Notes: []string{hostile},
		Network: Network{Nodes: 2, Pairs: 1, Silent: []Silent{{hostile, hostile}}, MedianAge: hostile, OldestAge: hostile},
		Map: Map{
			Of: "nodes", Unplaced: []string{hostile},
			Places: []Place{{Name: hostile, Zone: hostile, Nodes: 1, Client: true, Pods: []PodMark{{"A", hostile, 2}}}, {Name: "b", Zone: hostile + "2", X: 9, Nodes: 1}},
			Links:  []Link{{From: hostile, To: "b", Mark: "A", Policy: hostile, RTT: Latency{RTT: hostile, Micros: 3, Provenance: hostile, Error: hostile}, Limit: hostile}},
		},
		Policies: []Policy{{
			Mark: "A", Name: hostile, Namespace: hostile, State: hostile, Message: hostile, Status: hostile, Worst: &Pair{From: hostile, To: hostile},
			Entries: []Entry{{Entry: hostile, Target: hostile, Routing: hostile, Limit: hostile, Worst: &Pair{From: hostile, To: hostile}}},
		}},
		Matrix: Matrix{Of: "nodes", Names: []string{hostile, "b"}, Zones: []string{hostile, "b"}, Cells: [][]Cell{make([]Cell, 2), make([]Cell, 2)}},
		Comparisons: []Comparison{{
			Mark: "A", Policy: hostile, Entry: hostile, Target: hostile, Routing: hostile, Limit: hostile, limitMillis: 4,
			Now: Distribution{Median: hostile, Tail: hostile}, Random: Distribution{Median: hostile, Tail: hostile}, Draws: 3,
		}},
	}
	data, err := render(r)
	if err != nil {
		t.Fatal(err)
	}
	structure(t, string(data))
	if strings.Contains(string(data), "<img") || strings.Contains(string(data), "<script>alert") {
		t.Error("a text of an object is markup in the page")
	}
}

func titleOf(doc *html.Node) string {
	for _, n := range elements(doc) {
		if n.Data == "title" && n.Parent.Data == "head" {
			return n.FirstChild.Data
		}
	}
	return ""
}

// An estimate is never shown like a measurement, and what is unknown is never a number.
func TestProvenanceIsVisible(t *testing.T) {
	r := reportOf(t, clitest.NewServer(t, small()...))
	cell := func(from, to string) Cell {
		return r.Matrix.Cells[slices.Index(r.Matrix.Names, from)][slices.Index(r.Matrix.Names, to)]
	}
	for _, tc := range []struct{ from, to, provenance string }{
		{"gateway", "nord-1", "measured"},
		{"süd-2", "nord-1", "reverse"},
		{"nord-1", "süd-1", "zone"},
		{"nord-10", "süd-1", "unknown"},
		{"gateway", "süd-2", "unknown"},
		{"gateway", "gateway", "local"},
	} {
		c := cell(tc.from, tc.to)
		if c.Provenance != tc.provenance || (c.RTT == "") != (tc.provenance == "unknown") {
			t.Errorf("%s → %s: %+v, want %s", tc.from, tc.to, c, tc.provenance)
		}
	}
	doc := parse(t, pageOf(t, clitest.NewServer(t, small()...)))
	var hatched, dashed int
	for _, n := range elements(doc) {
		if n.Data != "g" || !strings.Contains(textIn(n, "title"), "→") {
			continue
		}
		title, classes := textIn(n, "title"), ""
		for c := range n.ChildNodes() {
			classes += " " + attribute(c, "class")
		}
		switch {
		case strings.Contains(title, "estimate"):
			hatched++
			if !strings.Contains(classes, "hatch") {
				t.Errorf("an estimate looks like a measurement: %s", title)
			}
		case strings.Contains(title, "unknown"):
			dashed++
			if !strings.Contains(classes, "unknown dash") || strings.Contains(classes, " h") {
				t.Errorf("%s is drawn as %s", title, classes)
			}
		case strings.Contains(classes, "hatch"):
			t.Errorf("hatched, and no estimate: %s", title)
		}
	}
	if hatched == 0 || dashed == 0 {
		t.Errorf("%d estimates and %d unknown pairs are drawn", hatched, dashed)
	}
}

func TestFiles(t *testing.T) {
	s := clitest.NewServer(t, small()...)
	dir := t.TempDir()
	path := filepath.Join(dir, "report.html")
	got := s.Run(t, NewCommand, 0, nil, "-o", path)
	if got.Error != nil || !strings.Contains(got.Out, "6 nodes, 4 policies, 1 of 3 limits broken") {
		t.Errorf("%+v", got)
	}
	page, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(page), "<!DOCTYPE html>") || string(page) != pageOf(t, s) {
		t.Errorf("the file and the standard output differ: %v", err)
	}
	path = filepath.Join(dir, "report.json")
	if got := s.Run(t, NewCommand, 0, nil, "-o", path); got.Error != nil {
		t.Error(got.Error)
	}
	if data, err := os.ReadFile(path); err != nil || !json.Valid(data) {
		t.Errorf("report.json is no JSON: %v", err)
	}
	if r := reportOf(t, s, "-n", "elsewhere"); len(r.Policies) != 0 || r.Network.Nodes != 6 {
		t.Errorf("-n elsewhere: %d policies of %d nodes", len(r.Policies), r.Network.Nodes)
	}
	if r := reportOf(t, s, "-A"); len(r.Policies) != 4 {
		t.Errorf("-A: %d policies", len(r.Policies))
	}
}

func TestErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		set  func(*clitest.Server)
		want string
	}{
		"no file":          {nil, nil, "-o is missing: name the file to write, for example -o report.html, or - for the standard output"},
		"unknown format":   {[]string{"-o", "-", "--format", "pdf"}, nil, "--format pdf: want html, json or yaml"},
		"both namespaces":  {[]string{"-o", "-", "-A", "-n", "x"}, nil, "give either -n or -A"},
		"no such folder":   {[]string{"-o", "/nonexistent/x.html"}, nil, "/nonexistent/x.html: no such file or directory; choose another file with -o"},
		"no CRDs":          {[]string{"-o", "-"}, func(s *clitest.Server) { s.NoCRDs = true }, "the CRDs of fogsched.dev are not installed"},
		"no right to pods": {[]string{"-o", "-"}, func(s *clitest.Server) { s.Forbidden = []string{"list pods"} }, `no permission to list pods`},
	} {
		t.Run(name, func(t *testing.T) {
			s := clitest.NewServer(t, small()...)
			if tc.set != nil {
				tc.set(s)
			}
			got := s.Run(t, NewCommand, 0, nil, tc.args...)
			if got.Error == nil || !strings.Contains(got.Error.Error(), tc.want) || strings.Contains(got.Error.Error(), "\n") || got.Out != "" {
				t.Errorf("error %v, output %q; want %q", got.Error, got.Out, tc.want)
			}
		})
	}
	// What is optional is said in the page.
	s := clitest.NewServer(t, small()...)
	s.Forbidden = []string{"list services"}
	if r := reportOf(t, s); len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "list services") {
		t.Errorf("notes: %q", r.Notes)
	}
}

// The page is the same each time, whatever order maps have.
func TestDeterministic(t *testing.T) {
	objects := objectsOf(plane(12, 300), 9)
	first := pageOf(t, clitest.NewServer(t, objects...))
	for range 2 {
		if again := pageOf(t, clitest.NewServer(t, objects...)); again != first {
			t.Fatal("the same cluster gives another page")
		}
	}
}

// From what was read to the page. The sizes are what a mail server takes. How long the command takes is held by test/cli, without the race detector.
func TestSize(t *testing.T) {
	for _, tc := range []struct {
		sites, nodes, policies, kilobytes int
	}{
		{5, 60, 10, 900}, {20, 500, 20, 400}, {50, 5000, 50, 900}, {1, 5000, 10, 900},
	} {
		s := clitest.NewServer(t, objectsOf(plane(tc.sites, tc.nodes), tc.policies)...)
		cluster := read(t, s)
		began := time.Now()
		data, err := render(newReport(t.Context(), cluster, ""))
		took := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d nodes, %d sites, %d policies: %v, %d KB", tc.nodes, tc.sites, tc.policies, took.Round(time.Millisecond), len(data)/1000)
		if len(data) > tc.kilobytes*1000 {
			t.Errorf("%d nodes at %d sites: %d KB; want %d KB", tc.nodes, tc.sites, len(data)/1000, tc.kilobytes)
		}
		structure(t, string(data))
	}
}

// read reads a cluster as the command does.
func read(t testing.TB, s *clitest.Server) *cli.Cluster {
	t.Helper()
	o := cli.NewOptions(genericiooptions.IOStreams{In: strings.NewReader(""), Out: io.Discard, ErrOut: io.Discard})
	o.Now = func() time.Time { return clitest.Now }
	path := s.Kubeconfig(t)
	o.Config.KubeConfig = &path
	c, err := o.Read(t.Context(), []cli.Kind{cli.Nodes, cli.Pods, cli.Policies, cli.NodeLatencies}, cli.Services, cli.Namespaces)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
