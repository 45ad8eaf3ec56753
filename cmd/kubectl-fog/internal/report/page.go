// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"fmt"
	"html/template"
	"strings"

	"github.com/fogsched/fogsched/pkg/apis/fogsched/v1alpha1"
)

//go:embed page.css
var styleSheet string

//go:embed page.js
var script string

//go:embed page.html.tmpl
var pageText string

// maxCurves bounds the comparisons that are drawn, maxSilent the nodes without data that are listed; JSON has all.
const (
	maxCurves = 12
	maxSilent = 200
	// paperColumns is how many columns of round-trip times A4 holds.
	paperColumns = 13
)

// policy of what the page may load: nothing, but for its own style sheet and script, which are named by their hashes.
func contentSecurityPolicy() string {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; style-src " + hash(styleSheet) + "; script-src " + hash(script) + "; base-uri 'none'; form-action 'none'"
}

// page is a report and what is drawn of it.
type page struct {
	*Report
	CSS template.CSS
	JS  template.JS

	MapDrawing, MatrixDrawing drawing
	MapOf, One, Trust         string
	Aggregated                bool
	Curves                    []curves
	CurvesLeftOut, MostDraws  int
	Legend                    []legend
	MatrixOne                 string
	MatrixGrouped, MatrixWide bool
	SilentShown               []Silent
	SilentLeftOut             int
}

// curves is one comparison.
type curves struct {
	Mark, Policy, Caption, Result string
	Drawing                       drawing
}

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"num":     num,
	"plural":  plural,
	"percent": percent,
	"code":    code,
	"list": func(names []string, limit int) string {
		return strings.Join(cutList(names, limit), ", ")
	},
	"levelName": func(l string) string {
		return map[string]string{"good": "fine", "warn": "look", "bad": "mend", "info": "note"}[l]
	},
	"stateLevel": stateLevel,
	"stateName":  stateName,
}).Parse(pageText))

func percent(p float64) string {
	switch {
	case p > 0 && p < 0.1:
		return "<0.1 %"
	case p == 100 || p == 0:
		return number(p) + " %"
	case p > 99.9:
		return ">99.9 %"
	}
	return fmt.Sprintf("%.3g %%", p)
}

// code sets in code what stands between backquotes, and escapes all of it.
func code(s string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(s, "`") {
		text := template.HTMLEscapeString(part)
		if i%2 == 1 {
			text = "<code>" + text + "</code>"
		}
		b.WriteString(text)
	}
	return template.HTML(b.String())
}

func stateLevel(state string) string {
	switch state {
	case v1alpha1.ReasonKept:
		return "good"
	case v1alpha1.ReasonBroken, v1alpha1.ReasonInvalid:
		return "bad"
	case v1alpha1.ReasonUnmeasured, v1alpha1.ReasonNoTargets:
		return "warn"
	}
	return "info"
}

func stateName(state string) string {
	if name, ok := map[string]string{
		v1alpha1.ReasonKept: "kept", v1alpha1.ReasonBroken: "broken", v1alpha1.ReasonUnmeasured: "unmeasured", v1alpha1.ReasonNoTargets: "no targets",
		v1alpha1.ReasonNoLimits: "no limits", v1alpha1.ReasonNoPods: "no pods", v1alpha1.ReasonInvalid: "invalid",
	}[state]; ok {
		return name
	}
	return state
}

// render makes the page.
func render(r *Report) ([]byte, error) {
	p := &page{
		Report: r, CSS: template.CSS(styleSheet), JS: template.JS(script),
		MapOf: plainOf(r.Map.Of), One: one(r.Map.Of), Aggregated: r.Map.Of == "zones" || r.Map.Of == "regions",
		Legend: legends(&r.Matrix), MatrixOne: one(r.Matrix.Of), MatrixGrouped: r.Matrix.Of == "zones" || r.Matrix.Of == "regions",
		MatrixWide: len(r.Matrix.Names) > paperColumns, MatrixDrawing: drawMatrix(&r.Matrix), SilentShown: r.Network.Silent,
	}
	if n := len(r.Network.Silent); n > maxSilent {
		p.SilentShown, p.SilentLeftOut = r.Network.Silent[:maxSilent], n-maxSilent
	}
	var moved float64
	p.MapDrawing, moved = drawMap(&r.Map)
	p.Trust = trustText(&r.Map, moved)
	for i := range r.Comparisons {
		c := &r.Comparisons[i]
		p.MostDraws = max(p.MostDraws, c.Draws)
		if len(p.Curves) == maxCurves {
			p.CurvesLeftOut++
			continue
		}
		p.Curves = append(p.Curves, curves{c.Mark, c.Policy, caption(c), result(c), drawCurves(c, i)})
	}
	// A hash holds no character that an attribute cannot.
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, struct {
		*page
		CSP string
	}{p, contentSecurityPolicy()}); err != nil {
		return nil, fmt.Errorf("making the page: %w", err)
	}
	return b.Bytes(), nil
}

func one(of string) string {
	switch of {
	case "zones":
		return "zone"
	case "regions":
		return "region"
	}
	return "node"
}

// trustText says how far to trust the map.
func trustText(m *Map, moved float64) string {
	if len(m.Places) < 2 {
		return ""
	}
	grade := "a poor likeness: distances in this network do not fit a plane"
	switch {
	case m.Stress < 0.1:
		grade = "a good likeness"
	case m.Stress < 0.2:
		grade = "a fair likeness"
	}
	text := fmt.Sprintf("How far to trust it: half of the known distances are drawn within %.0f %% of what was measured or estimated, nine of ten within %.0f %% (stress %.2f, %s).",
		max(1, 100*m.HalfWithin), max(1, 100*m.MostWithin), m.Stress, grade)
	if moved > 0.05 {
		text += fmt.Sprintf(" What would lie on one another was moved apart, by %s ms at most.", number(float64(int(moved*10+0.999))/10))
	}
	if m.Parts > 1 {
		text += fmt.Sprintf(" There are %d groups between which no distance is known; they stand side by side, and the gap between them means nothing.", m.Parts)
	}
	if m.LinksLeftOut > 0 {
		text += fmt.Sprintf(" Only the %d worst broken limits are drawn; %d more are not.", len(m.Links), m.LinksLeftOut)
	}
	if m.Of == "sample" {
		text += " These are not all nodes: those that policies are about, and others evenly. Label nodes with topology.kubernetes.io/zone, and the map is of zones."
	}
	return text
}

func caption(c *Comparison) string {
	who := fmt.Sprintf("%s, called by %s on %s", plural(c.Replicas, "pod", "pods"), c.Target, plural(c.Callers, "node", "nodes"))
	if !c.Client {
		who = fmt.Sprintf("%s, calling %s", plural(c.Replicas, "pod", "pods"), c.Target)
	}
	how := "each caller goes to its nearest"
	if c.Routing == string(v1alpha1.RoutingAny) {
		how = "calls go to all alike"
	}
	if c.Statistic == string(v1alpha1.StatisticTail) {
		how += "; 95th percentiles of the pairs"
	}
	return who + "; " + how
}

func result(c *Comparison) string {
	switch {
	case c.Now.Median == "" && c.Now.UnknownPercent > 50:
		return fmt.Sprintf("Of %s of the callers the latency is unknown.", percent(c.Now.UnknownPercent))
	case c.Draws == 0:
		return fmt.Sprintf("Median now %s. There is no node on which the pods could be drawn.", c.Now.Median)
	case c.Random.Median == "":
		return fmt.Sprintf("Median now %s; on random nodes mostly unknown.", c.Now.Median)
	}
	text := fmt.Sprintf("Median %s now, %s on random nodes; %s of %d random placements are slower on average.", c.Now.Median, c.Random.Median,
		percent(c.SlowerPercent), c.Draws)
	if c.Now.UnknownPercent > 0 {
		text += fmt.Sprintf(" Of %s of the callers the latency is unknown now.", percent(c.Now.UnknownPercent))
	}
	if c.Now.EstimatedPercent > 0 {
		text += fmt.Sprintf(" %s of those now are estimates.", percent(c.Now.EstimatedPercent))
	}
	return text
}
