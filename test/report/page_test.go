// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"context"
	_ "embed" // what is asked of a page
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/fogsched/fogsched/cmd/kubectl-fog/app"
	"github.com/fogsched/fogsched/test/program"
)

// ask.js looks at a page as it is drawn and returns what is amiss.
//
//go:embed ask.js
var askScript string

// browser is one Chromium, and what its pages complain of.
type browser struct {
	ctx context.Context

	mu         sync.Mutex
	complaints []string
	requests   []string
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(chromium), chromedp.Flag("disable-gpu", true), chromedp.UserDataDir(t.TempDir())}
	if os.Geteuid() == 0 {
		options = append(options, chromedp.Flag("no-sandbox", true)) // Chromium's own sandbox refuses root; what it loads here is ours
	}
	b := &browser{}
	ctx, cancel := chromedp.NewContext(t.Context(), chromedp.WithAllocatorOptions(options...), chromedp.WithListener(b.hear))
	t.Cleanup(cancel)
	b.ctx = ctx
	for _, enable := range []func() error{
		func() error { _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); return err },
		func() error { _, err := chromedp.Call(ctx, log.Enable, struct{}{}); return err },
	} {
		if err := enable(); err != nil {
			t.Fatalf("starting %s: %v", chromium, err)
		}
	}
	return b
}

func (b *browser) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		text := string(e.Type)
		for _, a := range e.Args {
			text += " " + string(a.Value)
		}
		b.complaints = append(b.complaints, "console: "+text)
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, "exception: "+e.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, fmt.Sprintf("%s: %s", e.Entry.Level, e.Entry.Text))
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, e.Request.URL)
	}
}

// heard returns what was complained of and asked for since the last call.
func (b *browser) heard() (complaints, requests []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	complaints, requests = b.complaints, b.requests
	b.complaints, b.requests = nil, nil
	return complaints, requests
}

// look is how a reader looks at a page.
type look struct {
	name   string
	width  int64
	dark   bool
	print  bool
	script bool
}

var looks = []look{
	{name: "light", width: 1280, script: true},
	{name: "dark", width: 1280, dark: true, script: true},
	{name: "narrow", width: 360, script: true},
	{name: "narrow-dark", width: 360, dark: true, script: true},
	{name: "without-script", width: 800},
	// A4 without its margins at 96 dots an inch. Dark on the screen must be white on paper.
	{name: "print", width: 695, print: true, dark: true, script: true},
}

// some picks looks by name.
func some(names ...string) (list []look) {
	for _, l := range looks {
		if slices.Contains(names, l.name) {
			list = append(list, l)
		}
	}
	return list
}

func (b *browser) show(t *testing.T, url string, l look) {
	t.Helper()
	scheme, media := "light", "screen"
	if l.dark {
		scheme = "dark"
	}
	if l.print {
		media = "print"
	}
	b.heard()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Media: media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	if err == nil {
		_, err = chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !l.script})
	}
	if err == nil {
		err = chromedp.Do(b.ctx, chromedp.EmulateViewport(l.width, 900), chromedp.Navigate(url))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// answer is what ask.js found.
type answer struct {
	Overflow    int      // pixels by which the page is wider than its window
	Clipped     []string // what does not fit the paper
	Contrast    []string // texts below WCAG's AA
	Background  string
	Counts      map[string]int
	Hidden      []string // tables that are not shown
	ShownTables int
	Headings    []int
}

func (b *browser) ask(t *testing.T) (a answer) {
	t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](askScript))
	if err == nil {
		err = json.Unmarshal([]byte(text), &a)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// amiss returns what is wrong with a page that is shown.
func (b *browser) amiss(t *testing.T, url string, l look) (list []string) {
	t.Helper()
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	a := b.ask(t)
	complaints, requests := b.heard()
	for _, c := range complaints {
		say("%s", c)
	}
	for _, r := range requests {
		if r != url {
			say("the page loads %s", r)
		}
	}
	if a.Overflow > 0 {
		say("the page is %d pixels wider than its window of %d", a.Overflow, l.width)
	}
	for _, c := range a.Contrast {
		say("contrast: %s", c)
	}
	if want := l.dark && !l.print; (a.Background != "rgb(255, 255, 255)") != want {
		say("the background is %s", a.Background)
	}
	if l.print {
		for _, c := range a.Clipped {
			say("clipped on paper: %s", c)
		}
		for _, h := range a.Hidden {
			say("not on paper: %s", h)
		}
	}
	last := 0
	for _, h := range a.Headings {
		if h > last+1 {
			say("heading of level %d after level %d", h, last)
		}
		last = h
	}
	return list
}

// spoken returns what is wrong with the page for those who hear it.
func (b *browser) spoken(t *testing.T, l look) (list []string) {
	t.Helper()
	tree, err := chromedp.Call(b.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	if err != nil {
		t.Fatal(err)
	}
	nodes, roles := map[accessibility.NodeID]*accessibility.Node{}, map[string]int{}
	text := func(v *accessibility.Value) (s string) {
		if v != nil {
			_ = json.Unmarshal([]byte(v.Value), &s)
		}
		return s
	}
	for _, n := range tree.Nodes {
		nodes[n.NodeID] = n
	}
	for _, n := range tree.Nodes {
		if n.Ignored {
			continue
		}
		role := strings.ToLower(text(n.Role))
		roles[role]++
		switch role {
		case "image", "img", "table", "region", "button", "link", "navigation", "heading":
			if text(n.Name) == "" {
				list = append(list, "a "+role+" has no name")
			}
		case "columnheader", "rowheader":
			above := n
			for above != nil && text(above.Role) != "table" {
				above = nodes[above.ParentID]
			}
			if above == nil {
				list = append(list, "a "+role+" is in no table")
			}
		}
		if role == "table" && !under(n, nodes, func(c *accessibility.Node) bool { return text(c.Role) == "columnheader" }) {
			list = append(list, "a table has no column headers: "+text(n.Name))
		}
	}
	for _, want := range []string{"main", "banner", "navigation", "contentinfo"} {
		if n := roles[want]; n != 1 && (!l.print || want != "navigation") { // paper has no links to click
			list = append(list, fmt.Sprintf("%d landmarks %s", n, want))
		}
	}
	return list
}

func under(n *accessibility.Node, nodes map[accessibility.NodeID]*accessibility.Node, is func(*accessibility.Node) bool) bool {
	for _, id := range n.ChildIDs {
		if c := nodes[id]; c != nil && (is(c) || under(c, nodes, is)) {
			return true
		}
	}
	return false
}

// outDir is where the pictures of the pages are put for people to look at.
func outDir(t *testing.T) string {
	t.Helper()
	root, err := program.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "out", "report")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// writeReport runs the command as a user would, and returns the page's address.
func writeReport(t *testing.T, name string, within time.Duration) string {
	t.Helper()
	path := filepath.Join(outDir(t), name+".html")
	var out, errOut bytes.Buffer
	began := time.Now()
	code := app.Main("test", []string{"--kubeconfig=" + control.KubeconfigPath(), "report", "-o", path, "--title", "Report of a cluster: " + name}, nil, &out, &errOut)
	if code != 0 || errOut.Len() > 0 {
		t.Fatalf("exit code %d: %s", code, &errOut)
	}
	t.Logf("%s after %v", strings.TrimSpace(out.String()), time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > within {
		t.Errorf("the command took %v, want %v at most", took, within)
	}
	return "file://" + path
}

var pageOfPDF = regexp.MustCompile(`/Type\s*/Page[^s]`)

// inspect looks at a page in every way, and compares the numbers of its elements.
func (b *browser) inspect(t *testing.T, name, url string, looks []look, want map[string]int) {
	t.Helper()
	for _, l := range looks {
		t.Run(l.name, func(t *testing.T) {
			b.show(t, url, l)
			for _, a := range b.amiss(t, url, l) {
				t.Error(a)
			}
			got := b.ask(t)
			for selector, n := range want {
				if got.Counts[selector] != n {
					t.Errorf("%d elements %s, want %d", got.Counts[selector], selector, n)
				}
			}
			if buttons := got.Counts["th button"]; (buttons > 0) != (l.script && got.Counts["table.sortable"] > 0) {
				t.Errorf("%d buttons to sort by", buttons)
			}
			for _, s := range b.spoken(t, l) {
				t.Error(s)
			}
			b.picture(t, name+"-"+l.name, l)
		})
	}
}

// picture leaves a screenshot or, of what is printed, a PDF.
func (b *browser) picture(t *testing.T, name string, l look) {
	t.Helper()
	if !l.print {
		png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
		if err == nil {
			err = os.WriteFile(filepath.Join(outDir(t), name+".png"), png, 0o644)
		}
		if err != nil || len(png) < 10_000 {
			t.Errorf("a screenshot of %d bytes: %v", len(png), err)
		}
		return
	}
	pdf, err := chromedp.Run(b.ctx, chromedp.PrintToPDF(chromedp.PDFPaper(chromedp.PaperA4), chromedp.PDFPrintBackground()))
	if err == nil {
		err = os.WriteFile(filepath.Join(outDir(t), name+".pdf"), pdf, 0o644)
	}
	pages := len(pageOfPDF.FindAll(pdf, -1))
	if err != nil || pages < 1 || pages > 12 {
		t.Errorf("%d pages: %v", pages, err)
	}
	t.Logf("%d pages of A4", pages)
}

// The report of four clusters, one after the other on the same API server: none, the reference cluster, the same with nothing measured, and
// 300 nodes more.
func TestReportInChromium(t *testing.T) {
	needChromium(t)
	b := startBrowser(t)
	places := reference()

	t.Run("empty", func(t *testing.T) {
		b.inspect(t, "empty", writeReport(t, "empty", 2*time.Second), some("light", "narrow-dark", "print"), map[string]int{"h1": 1, "svg[role=img]": 0, "table": 0})
	})

	t.Run("reference", func(t *testing.T) {
		addNodes(t, places, func(p place) bool { return p.name == "gateway" || strings.HasSuffix(p.name, "-1") && p.site != "west" })
		measure(t, places[:24], func(i, j int) time.Duration { // west-6 has no prober
			switch {
			case places[j].name == "west-6" && i%2 == 0, i%7 == 2 && j%5 == 1, j%7 == 2 && i%5 == 1:
				return 0
			case i == 9 && j == 16, i == 16 && j == 9:
				return -1
			}
			return places[i].rtt(places[j])
		})
		if err := control.ApplyYAML(t.Context(), []byte(workload)); err != nil {
			t.Fatal(err)
		}
		pods(t, [][3]string{
			{"app=redis,role=master", "gateway"},
			{"app=redis,role=slave", "north-2"},
			{"app=redis,role=slave", "east-1"},
			{"app=bulletin-board", "gateway"},
			{"app=bulletin-board", "east-2"},
			{"app=bulletin-board", "south-3"},
			{"app=broker", "north-1"},
			{"app=sensor", "north-3"},
			{"app=sensor", "east-4"},
			{"app=sensor", "south-2"},
			{"app=sensor", "gateway"},
			{"app=ping", "west-2", `{"dependencies":[{"nodes":{"matchLabels":{"kubernetes.io/hostname":"gateway"}},"limit":"25ms"}]}`},
		}...)
		url := writeReport(t, "reference", 2*time.Second)
		b.inspect(t, "reference", url, looks, map[string]int{
			"h1": 1, "svg.map": 1, "svg.map circle.node": 25, "svg.map circle.silent": 1, "svg.map .client": 7, "svg.heat": 1, "svg.cdf": 5, "svg.heat g": 625,
		})
		t.Run("sorting", func(t *testing.T) { b.sort(t, url) })
	})

	t.Run("nothing known", func(t *testing.T) {
		forget(t)
		b.inspect(t, "unknown", writeReport(t, "unknown", 2*time.Second), some("light", "narrow-dark", "print"), map[string]int{"h1": 1, "svg.map": 0, "svg.heat": 1, "svg.heat .unknown": 600, "svg.heat .hatch": 0})
	})

	t.Run("300 nodes more", func(t *testing.T) {
		more := country(300)
		addNodes(t, more, func(p place) bool { return strings.HasSuffix(p.name, "5") })
		all := slices.Concat(places, more)
		measure(t, all, func(i, j int) time.Duration {
			if (i*31+j*17)%19 == 0 && i/2%3 == j%3 || all[j].name == "gateway" {
				return all[i].rtt(all[j])
			}
			return 0
		})
		b.inspect(t, "large", writeReport(t, "large", 2*time.Second), some("light", "dark", "narrow", "print"), map[string]int{"h1": 1, "svg.map circle.node": 17, "svg.heat": 1, "svg.heat g": 17 * 17})
	})
}

// sort clicks on the headers of a table.
func (b *browser) sort(t *testing.T, url string) {
	t.Helper()
	b.show(t, url, looks[0])
	order := func() []string {
		t.Helper()
		text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`(() => {
			const table = document.querySelector("section[aria-labelledby=map-h] table");
			table.closest("details").open = true;
			return JSON.stringify([table.tHead.rows[0].cells[0].getAttribute("aria-sort") ?? "", ...[...table.tBodies[0].rows].map((r) => r.cells[0].textContent)]);
		})()`))
		var list []string
		if err == nil {
			err = json.Unmarshal([]byte(text), &list)
		}
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	click := func() {
		t.Helper()
		if err := chromedp.Do(b.ctx, chromedp.Click(chromedp.CSS("section[aria-labelledby=map-h] th button"))); err != nil {
			t.Fatal(err)
		}
	}
	order() // opens the table
	click()
	if got := order(); got[0] != "ascending" || got[1] != "east-1" || got[25] != "west-6" {
		t.Errorf("after a click: %v", got)
	}
	click()
	if got := order(); got[0] != "descending" || got[1] != "west-6" || got[25] != "east-1" {
		t.Errorf("after two clicks: %v", got)
	}
}

// The checks find what they are there to find.
func TestTheChecksSee(t *testing.T) {
	needChromium(t)
	b := startBrowser(t)
	path := filepath.Join(t.TempDir(), "bad.html")
	page := `<!DOCTYPE html><html lang="en"><head><title>Bad</title><style>td{white-space:nowrap}</style></head><body><h1>Bad</h1><h3>Level 3</h3>
		<p style="color:#aaa">Pale</p><svg role="img" width="20" height="20"></svg><table style="width:1500px"><caption>Bare</caption><tr><td>wide</td><td>2</td></tr><tr><td>3</td><td>4</td></tr></table>
		<details><summary>More</summary><table><caption>Closed</caption><tr><th>x</th></tr></table></details>
		<img src="missing.png"><script>console.error("ouch"); undefinedFunction()</script></body></html>`
	if err := os.WriteFile(path, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "file://" + path
	for _, l := range []look{looks[0], looks[5]} {
		b.show(t, url, l)
		got := strings.Join(append(b.amiss(t, url, l), b.spoken(t, l)...), "\n")
		want := []string{
			`console: error "ouch"`, "exception: Uncaught", "the page loads file://", "pixels wider than its window", "contrast: p", "heading of level 3 after level 1",
			"image has no name", "0 landmarks main", "a table has no column headers",
		}
		if l.print {
			want = append(want, "clipped on paper: table", "not on paper: Closed")
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: nobody says %q:\n%s", l.name, w, got)
			}
		}
	}
}
