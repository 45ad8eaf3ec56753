// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/mattn/go-runewidth"
)

// drawing is an SVG: a picture for the eye, with its title and description for the ear.
type drawing struct {
	ID, Class   string
	Title, Desc string
	W, H        float64
	Shapes      []shape
}

// shape is one element. Its texts are escaped by the template, and its colours are classes of the style sheet.
type shape struct {
	Kind                   string // line, rect, circle, path, text or group
	X, Y, X2, Y2, W, H, R  float64
	D, Class, Text, Anchor string
	Title                  string
	Turn                   float64 // degrees, about X and Y
	Shapes                 []shape
}

// num writes a coordinate to a tenth, which is finer than anyone sees.
func num(x float64) string {
	return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64)
}

const (
	fontSize = 11.0
	glyph    = 6.7 // width of a letter at fontSize, in a wide font
)

func textWidth(s string) float64 { return glyph * float64(runewidth.StringWidth(s)) }

// shorten cuts the middle out of a name: the ends are where names differ.
func shorten(s string, limit int) string {
	r := []rune(s)
	if len(r) <= limit {
		return s
	}
	head := (limit - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(limit-1-head):])
}

// box is a rectangle that is taken.
type box struct{ x, y, w, h float64 }

func (b box) overlaps(o box) bool {
	return b.x < o.x+o.w && o.x < b.x+b.w && b.y < o.y+o.h && o.y < b.y+b.h
}

const (
	mapWidth  = 880.0
	mapHeight = 560.0 // at most, without the scale bar
	mapPad    = 76.0
	// siteColours is how many colours the style sheet has for zones.
	siteColours = 8
)

// site numbers zones in the order in which they appear.
func sites(m *Map) (names []string, of map[string]int) {
	of = map[string]int{}
	for _, p := range m.Places {
		if _, ok := of[p.Zone]; !ok {
			of[p.Zone] = len(names)
			names = append(names, p.Zone)
		}
	}
	return names, of
}

func siteClass(i int) string { return "s" + strconv.Itoa(i%siteColours) }

// onMap is a place in the drawing.
type onMap struct {
	*Place
	at     point
	radius float64
	class  string
	badges []string
}

// drawMap draws the map. moved is how many milliseconds places that would lie on one another were moved apart, at most.
func drawMap(m *Map) (d drawing, moved float64) {
	d = drawing{
		ID: "map", Class: "map", W: mapWidth, H: 200,
		Title: "Map of the " + plainOf(m.Of) + " by network distance",
	}
	if len(m.Places) == 0 {
		return d, 0
	}
	left, right, top, bottom := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, p := range m.Places {
		left, right, top, bottom = min(left, p.X), max(right, p.X), min(top, p.Y), max(bottom, p.Y)
	}
	scale := min((mapWidth-2*mapPad)/max(right-left, 1e-3), (mapHeight-2*mapPad)/max(bottom-top, 1e-3), 400)
	_, site := sites(m)
	most := 1
	for _, p := range m.Places {
		most = max(most, p.Nodes)
	}
	places := make([]onMap, len(m.Places))
	shift := (mapWidth - (right-left)*scale) / 2
	for i := range m.Places {
		p := &m.Places[i]
		o := onMap{Place: p, radius: 6, class: siteClass(site[p.Zone])}
		if len(m.Places) > 60 {
			o.radius = 4.5
		}
		if most > 1 {
			o.radius = 7 + 13*math.Sqrt(float64(p.Nodes)/float64(most))
		}
		o.at = point{shift + (p.X-left)*scale, mapPad + (p.Y-top)*scale}
		for k, pod := range p.Pods {
			if k == 3 && len(p.Pods) > 4 {
				o.badges = append(o.badges, fmt.Sprintf("+%d", len(p.Pods)-k))
				break
			}
			text := pod.Mark
			if pod.Pods > 1 {
				text += "×" + strconv.Itoa(pod.Pods)
			}
			o.badges = append(o.badges, text)
		}
		places[i] = o
	}
	moved = apart(places) / scale
	for i := range places {
		d.H = max(d.H, places[i].at.y+mapPad)
	}
	var taken []box
	var above []shape
	d.Shapes = append(d.Shapes, zoneAreas(m, places)...)
	broken := links(m, places)
	d.Shapes = append(d.Shapes, broken...)
	for i := range places {
		p := &places[i]
		r := p.radius + 2
		taken = append(taken, box{p.at.x - r, p.at.y - r, 2 * r, 2 * r})
		marks, boxes := badges(p)
		d.Shapes = append(d.Shapes, shape{Kind: "group", Title: describe(p.Place), Shapes: dot(p)})
		if len(marks) > 0 { // above all points, so that none hides them
			above = append(above, shape{Kind: "group", Title: describe(p.Place), Shapes: marks})
		}
		taken = append(taken, boxes...)
	}
	d.Shapes = append(d.Shapes, above...)
	d.Shapes = append(d.Shapes, zoneNames(m, places, &taken)...)
	d.Shapes = append(d.Shapes, nodeNames(places, &taken, d.H)...)
	d.Shapes = append(d.Shapes, linkNames(broken, &taken)...)
	d.Shapes = append(d.Shapes, scaleBar(scale, d.H)...)
	d.H += 34
	d.Desc = describeMap(m)
	return d, moved
}

func plainOf(of string) string {
	switch of {
	case "sample":
		return "nodes (a sample)"
	case "":
		return "nodes"
	}
	return of
}

func describeMap(m *Map) string {
	names, _ := sites(m)
	text := fmt.Sprintf("%s of %s; the nearer two are, the shorter the round trip between them.", plural(len(m.Places), "point", "points"), plainOf(m.Of))
	if m.Of != "zones" && m.Of != "regions" {
		text += " Zones: " + strings.Join(cutList(names, 12), ", ") + "."
	}
	if len(m.Links) > 0 {
		l := m.Links[0]
		text += fmt.Sprintf(" Broken limits are dashed lines; the worst is from %s to %s, %s over a limit of %s.", l.From, l.To, l.RTT, l.Limit)
	}
	return text + " The table below has the same."
}

func cutList(list []string, limit int) []string {
	if len(list) <= limit {
		return list
	}
	return append(slices.Clone(list[:limit]), fmt.Sprintf("and %d more", len(list)-limit))
}

func describe(p *Place) string {
	text := p.Name
	if p.Nodes > 1 {
		text += fmt.Sprintf(" (%d nodes)", p.Nodes)
	} else if p.Zone != noZone {
		text += ", zone " + p.Zone
	}
	if p.Client {
		text += "; clients are here"
	}
	if p.Silent {
		text += "; no measurements of its own"
	}
	for _, pod := range p.Pods {
		text += fmt.Sprintf("; %s %s (%s)", plural(pod.Pods, "pod", "pods"), "of "+pod.Policy, pod.Mark)
	}
	return text
}

// apart moves points that overlap away from each other, and returns how far the farthest was moved.
func apart(places []onMap) (farthest float64) {
	start := make([]point, len(places))
	for i := range places {
		start[i] = places[i].at
	}
	for range 80 {
		still := true
		for i := range places {
			for j := range i {
				a, b := &places[i].at, &places[j].at
				want := places[i].radius + places[j].radius + 6
				if len(places[i].badges)+len(places[j].badges) > 0 && len(places) <= 60 {
					want += 6
				}
				have := a.to(*b)
				if have >= want-0.1 {
					continue
				}
				still = false
				var ux, uy float64
				if have > 1e-6 {
					ux, uy = (a.x-b.x)/have, (a.y-b.y)/have
				} else {
					uy, ux = math.Sincos(2.399963 * float64(i+j))
				}
				push := (want - have) / 2
				a.x, a.y, b.x, b.y = a.x+ux*push, a.y+uy*push, b.x-ux*push, b.y-uy*push
			}
		}
		if still {
			break
		}
	}
	for i := range places {
		p := &places[i].at
		p.x, p.y = max(14, min(mapWidth-14, p.x)), max(40, p.y)
		farthest = max(farthest, p.to(start[i]))
	}
	return farthest
}

func dot(p *onMap) []shape {
	class := "node " + p.class
	if p.Silent {
		class += " silent"
	}
	out := []shape{{Kind: "circle", X: p.at.x, Y: p.at.y, R: p.radius, Class: class}}
	if p.Client {
		out = append(out, shape{Kind: "circle", X: p.at.x, Y: p.at.y, R: p.radius + 4, Class: "client"})
	}
	if p.Nodes > 1 && p.radius >= 9 {
		out = append(out, shape{Kind: "text", X: p.at.x, Y: p.at.y + 3.5, Class: "count", Anchor: "middle", Text: strconv.Itoa(p.Nodes)})
	}
	return out
}

func badges(p *onMap) (out []shape, boxes []box) {
	total := 0.0
	for _, b := range p.badges {
		total += textWidth(b) + 9
	}
	x, y := p.at.x-total/2, p.at.y+p.radius+3
	if p.Client {
		y += 4
	}
	for _, b := range p.badges {
		w := textWidth(b) + 7
		out = append(out,
			shape{Kind: "rect", X: x, Y: y, W: w, H: 14, R: 3, Class: "badge"},
			shape{Kind: "text", X: x + w/2, Y: y + 10.7, Class: "mark", Anchor: "middle", Text: b})
		boxes = append(boxes, box{x, y, w, 14})
		x += w + 2
	}
	return out, boxes
}

// members returns the places of each zone.
func members(m *Map, places []onMap) (names []string, of [][]point) {
	names, site := sites(m)
	of = make([][]point, len(names))
	for i := range places {
		k := site[places[i].Zone]
		of[k] = append(of[k], places[i].at)
	}
	return names, of
}

func zoneAreas(m *Map, places []onMap) (out []shape) {
	if m.Of == "zones" || m.Of == "regions" {
		return nil
	}
	names, of := members(m, places)
	for k, points := range of {
		if names[k] == noZone {
			continue
		}
		hull := convex(points)
		var b strings.Builder
		for i, p := range hull {
			fmt.Fprintf(&b, "%c%s %s", "ML"[min(i, 1)], num(p.x), num(p.y))
		}
		if len(hull) == 1 {
			b.WriteString("l0.1 0") // a path without length has no round end in some browsers
		} else {
			b.WriteString("Z")
		}
		out = append(out, shape{Kind: "path", D: b.String(), Class: "zone " + siteClass(k)})
	}
	return out
}

// convex returns the convex hull, by Andrew's monotone chain.
func convex(points []point) []point {
	p := slices.Clone(points)
	slices.SortFunc(p, func(a, b point) int { return cmp.Or(cmp.Compare(a.x, b.x), cmp.Compare(a.y, b.y)) })
	if p = slices.Compact(p); len(p) < 3 {
		return p
	}
	chain := func() (half []point) {
		for _, q := range p {
			for len(half) >= 2 {
				a, b := half[len(half)-2], half[len(half)-1]
				if (b.x-a.x)*(q.y-a.y)-(b.y-a.y)*(q.x-a.x) > 0 {
					break
				}
				half = half[:len(half)-1]
			}
			half = append(half, q)
		}
		return half[:len(half)-1]
	}
	lower := chain()
	slices.Reverse(p)
	return append(lower, chain()...)
}

func zoneNames(m *Map, places []onMap, taken *[]box) (out []shape) {
	if m.Of == "zones" || m.Of == "regions" {
		return nil
	}
	names, of := members(m, places)
	for k, points := range of {
		if names[k] == noZone || len(names) > 24 {
			continue
		}
		var cx, cy float64
		top, bottom := math.Inf(1), math.Inf(-1)
		for _, p := range points {
			cx, cy = cx+p.x/float64(len(points)), cy+p.y/float64(len(points))
			top, bottom = min(top, p.y), max(bottom, p.y)
		}
		text := shorten(names[k], 24)
		w := textWidth(text)*1.2 + 6
		x := max(w/2, min(mapWidth-w/2, cx))
		// Above its nodes, else below, else where it lies on something: a zone without its name is no help.
		for _, y := range []float64{top - 26, bottom + 40, top - 42, bottom + 56, top - 26} {
			b := box{x - w/2, y - 12, w, 16}
			if y > 14 && !slices.ContainsFunc(*taken, b.overlaps) || y == top-26 && len(out) > k {
				*taken = append(*taken, b)
				out = append(out, shape{Kind: "text", X: x, Y: y, Class: "site t" + siteClass(k)[1:], Anchor: "middle", Text: text})
				break
			}
		}
	}
	return out
}

func nodeNames(places []onMap, taken *[]box, bottom float64) (out []shape) {
	for i := range places {
		p := &places[i]
		if len(places) > 60 && !p.Client && len(p.Pods) == 0 {
			continue
		}
		text := shorten(p.Name, 22)
		w, gap := textWidth(text), p.radius+5
		if p.Client {
			gap += 4
		}
		under := gap + 8
		if len(p.badges) > 0 {
			under += 15
		}
		for _, at := range []struct {
			x, y   float64
			anchor string
		}{
			{p.at.x + gap, p.at.y + 4, "start"},
			{p.at.x - gap, p.at.y + 4, "end"},
			{p.at.x, p.at.y - gap, "middle"},
			{p.at.x, p.at.y + under, "middle"},
			{p.at.x + gap - 2, p.at.y - 8, "start"},
			{p.at.x - gap + 2, p.at.y - 8, "end"},
		} {
			x := at.x
			switch at.anchor {
			case "end":
				x -= w
			case "middle":
				x -= w / 2
			}
			b := box{x - 1, at.y - 9, w + 2, 11}
			if b.x < 2 || b.x+b.w > mapWidth-2 || b.y < 2 || b.y+b.h > bottom || slices.ContainsFunc(*taken, b.overlaps) {
				continue
			}
			*taken = append(*taken, b)
			out = append(out, shape{Kind: "text", X: at.x, Y: at.y, Class: "label", Anchor: at.anchor, Text: text})
			break
		}
	}
	return out
}

// links draws the broken limits between the places of their nodes.
func links(m *Map, places []onMap) (out []shape) {
	at := map[string]*onMap{}
	for i := range places {
		at[places[i].Name] = &places[i]
	}
	seen := map[[2]string]bool{}
	for _, l := range m.Links {
		a, b := at[l.fromPlace(m.Of)], at[l.toPlace(m.Of)]
		if a == nil || b == nil || a == b || seen[[2]string{a.Name, b.Name}] {
			continue
		}
		seen[[2]string{a.Name, b.Name}], seen[[2]string{b.Name, a.Name}] = true, true
		g := shape{Kind: "group", Title: fmt.Sprintf("%s: %s → %s takes %s, the limit is %s", l.Policy, l.From, l.To, l.RTT, l.Limit), Shapes: []shape{
			{Kind: "line", X: a.at.x, Y: a.at.y, X2: b.at.x, Y2: b.at.y, Class: "broken"},
		}}
		out = append(out, g)
	}
	return out
}

func (l *Link) fromPlace(of string) string { return l.place(of, l.From, l.fromZone, l.fromRegion) }

func (l *Link) toPlace(of string) string { return l.place(of, l.To, l.toZone, l.toRegion) }

func (*Link) place(of, node, zone, region string) string {
	switch of {
	case "zones":
		return zone
	case "regions":
		return region
	}
	return node
}

// linkNames says beside the lines by how much they break their limits, where there is room.
func linkNames(lines []shape, taken *[]box) (out []shape) {
	if len(lines) > 6 {
		return nil // with more the numbers hide the map; they are in the table
	}
	for i := range lines {
		g := &lines[i]
		line := g.Shapes[0]
		_, text, _ := strings.Cut(g.Title, " takes ")
		text = strings.Replace(text, ", the limit is ", " > ", 1)
		w := textWidth(text) * 1.08
		for _, t := range []float64{0.5, 0.4, 0.6, 0.3, 0.7, 0.22, 0.78} {
			x, y := line.X+t*(line.X2-line.X)+5, line.Y+t*(line.Y2-line.Y)
			// To the right of the line: above one that falls, below one that climbs.
			if (line.Y2-line.Y)*(line.X2-line.X) < 0 {
				y += 14
			} else {
				y -= 5
			}
			b := box{x - 2, y - 10, w + 4, 13}
			if b.x+b.w > mapWidth || slices.ContainsFunc(*taken, b.overlaps) {
				continue
			}
			*taken = append(*taken, b)
			out = append(out, shape{Kind: "text", X: x, Y: y, Class: "over", Anchor: "start", Text: text})
			break
		}
	}
	return out
}

// nice returns the largest of 1, 2 and 5 times a power of ten that is not above x.
func nice(x float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(x)))
	for _, f := range []float64{5, 2} {
		if f*p <= x*(1+1e-9) {
			return f * p
		}
	}
	return p
}

func scaleBar(scale, y float64) []shape {
	ms := nice(190 / scale)
	w := ms * scale
	x := 20.0
	return []shape{
		{Kind: "path", D: fmt.Sprintf("M%s %sv8M%s %sh%sM%s %sv8", num(x), num(y), num(x), num(y+4), num(w), num(x+w), num(y)), Class: "scale"},
		{Kind: "text", X: x + w + 8, Y: y + 8, Class: "axis", Anchor: "start", Text: number(ms) + " ms of round trip"},
	}
}

// number writes a number without an exponent or needless digits.
func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

// classes are how many shades the heat map has.
const classes = 7

// breaks returns the upper bounds, in milliseconds, of all shades but the last: six steps of 1, 2, 5 that the values lie about.
func breaks(m *Matrix) []float64 {
	var all []float64
	for a := range m.Cells {
		for b := range m.Cells[a] {
			if c := m.Cells[a][b]; c.Known() && (a != b || c.Provenance != "local") {
				all = append(all, float64(c.Micros)/1000)
			}
		}
	}
	slices.Sort(all)
	high := 100.0
	if len(all) > 0 {
		high = all[len(all)*19/20]
	}
	var series []float64
	for p := 0.01; p < 1e6; p *= 10 {
		series = append(series, p, 2*p, 5*p)
	}
	top := classes - 1
	for top < len(series) && series[top-1] < high {
		top++
	}
	out := slices.Clone(series[top-(classes-1) : top])
	for i := range out {
		out[i] = math.Round(out[i]*1000) / 1000
	}
	return out
}

func shade(ms float64, bounds []float64) int {
	i, _ := slices.BinarySearch(bounds, ms)
	return i
}

func drawMatrix(m *Matrix) drawing {
	n := len(m.Names)
	const room = 800.0
	size := max(12, min(34, math.Floor(room/float64(max(n, 1)))))
	longest := 0.0
	for _, name := range m.Names {
		longest = max(longest, textWidth(shorten(name, 18)))
	}
	margin := longest + 10
	zoned := m.Of == "nodes" || m.Of == "sample"
	starts := zoneStarts(m)
	gap := 0.0
	if zoned && len(starts) > 1 {
		gap = 4
	}
	place := make([]float64, n) // of each row and column
	at, band := margin, 0.0
	if zoned {
		band = 16
	}
	for i := range n {
		if i > 0 && slices.Contains(starts, i) {
			at += gap
		}
		place[i] = at
		at += size
	}
	d := drawing{
		ID: "heat", Class: "heat", W: at + 4 + band, H: at + 4 + band, Title: "Round-trip times between " + plainOf(m.Of) + ", from the row to the column",
		Desc: "A square for each pair, darker (in dark mode, brighter) where the round trip is longer. Plain squares are measured, hatched ones estimated, " +
			"empty ones with a dash unknown. The table below has the same values.",
	}
	bounds := breaks(m)
	for i, name := range m.Names {
		label := shorten(name, 18)
		mid := place[i] + size/2
		d.Shapes = append(d.Shapes,
			shape{Kind: "text", X: margin - 5, Y: mid + 4, Class: "label", Anchor: "end", Text: label},
			shape{Kind: "text", X: mid + 4, Y: margin - 5, Class: "label", Anchor: "start", Text: label, Turn: -90})
	}
	for k, s := range starts {
		if !zoned {
			break
		}
		end := n
		if k+1 < len(starts) {
			end = starts[k+1]
		}
		from, to := place[s], place[end-1]+size
		// The name of the zone along its squares, where it fits.
		name := shorten(m.Zones[s], int((to-from)/glyph))
		if len([]rune(name)) < 3 {
			name = ""
		}
		d.Shapes = append(d.Shapes,
			shape{Kind: "line", X: from, Y: at + 4, X2: to, Y2: at + 4, Class: "rule"},
			shape{Kind: "text", X: (from + to) / 2, Y: at + 15, Class: "axis", Anchor: "middle", Text: name},
			shape{Kind: "line", X: at + 4, Y: from, X2: at + 4, Y2: to, Class: "rule"},
			shape{Kind: "text", X: at + 8, Y: (from + to) / 2, Class: "axis", Anchor: "middle", Text: name, Turn: 90})
	}
	for a := range m.Cells {
		for b := range m.Cells[a] {
			d.Shapes = append(d.Shapes, drawCell(m, a, b, place[b], place[a], size, bounds))
		}
	}
	return d
}

// zoneStarts returns the rows at which a zone begins.
func zoneStarts(m *Matrix) (starts []int) {
	for i, z := range m.Zones {
		if i == 0 || z != m.Zones[i-1] {
			starts = append(starts, i)
		}
	}
	return starts
}

func drawCell(m *Matrix, a, b int, x, y, size float64, bounds []float64) shape {
	c := &m.Cells[a][b]
	g := shape{Kind: "group", Title: cellText(m, a, b)}
	s := size - 1
	text := size >= 25
	switch {
	case c.Provenance == "local":
		g.Shapes = []shape{{Kind: "rect", X: x, Y: y, W: s, H: s, Class: "self"}}
		return g
	case !c.Known():
		g.Shapes = []shape{
			{Kind: "rect", X: x, Y: y, W: s, H: s, Class: "unknown"},
			{Kind: "line", X: x + s*0.32, Y: y + s/2, X2: x + s*0.68, Y2: y + s/2, Class: "dash"},
		}
		return g
	}
	ms := float64(c.Micros) / 1000
	k := strconv.Itoa(shade(ms, bounds))
	g.Shapes = []shape{{Kind: "rect", X: x, Y: y, W: s, H: s, Class: "h" + k}}
	if c.Estimated() {
		g.Shapes = append(g.Shapes, shape{Kind: "rect", X: x, Y: y, W: s, H: s, Class: "hatch"})
	}
	if text {
		label := short(ms)
		if c.Estimated() {
			label = "~" + label
		}
		g.Shapes = append(g.Shapes, shape{Kind: "text", X: x + s/2, Y: y + s/2 + 3.6, Class: "v" + k, Anchor: "middle", Text: label})
	}
	return g
}

// short writes milliseconds in at most three characters.
func short(ms float64) string {
	switch {
	case ms < 0.095:
		return "<.1"
	case ms < 0.95:
		return strings.TrimPrefix(strconv.FormatFloat(ms, 'f', 1, 64), "0")
	case ms < 9.95:
		return strconv.FormatFloat(ms, 'f', 1, 64)
	case ms < 1000:
		return strconv.FormatFloat(ms, 'f', 0, 64)
	}
	return strconv.FormatFloat(ms/1000, 'f', 0, 64) + "s"
}

func cellText(m *Matrix, a, b int) string {
	c := &m.Cells[a][b]
	text := m.Names[a] + " → " + m.Names[b] + ": "
	if a == b && c.Provenance != "local" {
		text = "within " + m.Names[a] + ": "
	}
	switch {
	case c.Provenance == "local":
		return m.Names[a] + ": the same node"
	case !c.Known():
		return text + "unknown"
	case c.Pairs > 0:
		return text + fmt.Sprintf("%s, median of %s", c.Latency, plural(c.Pairs, "measured pair", "measured pairs"))
	}
	return text + c.String() + ", " + c.How()
}

// legend is a shade of the heat map and what it stands for.
type legend struct{ Class, Text string }

func legends(m *Matrix) (out []legend) {
	bounds := breaks(m)
	for k := range classes {
		text := "above " + number(bounds[classes-2]) + " ms"
		if k < classes-1 {
			text = "to " + number(bounds[k]) + " ms"
		}
		out = append(out, legend{"h" + strconv.Itoa(k), text})
	}
	return out
}

const (
	curveWidth, curveHeight                       = 440.0, 250.0
	curveLeft, curveRight, curveTop, curveBottom  = 44.0, 14.0, 18.0, 40.0
	curveInnerWidth                               = curveWidth - curveLeft - curveRight
	curveInnerHeight                              = curveHeight - curveTop - curveBottom
	nowName, randomName                           = "now", "random nodes"
	aboveCurve, belowCurve, leftShare, rightShare = -5.0, 13.0, 0.86, 0.3
)

func drawCurves(c *Comparison, k int) drawing {
	d := drawing{ID: fmt.Sprintf("cdf%d", k), Class: "cdf", W: curveWidth, H: curveHeight}
	d.Title = fmt.Sprintf("Latencies of %s %s of %s, now and on random nodes", c.who(), c.Entry, c.Policy)
	d.Desc = fmt.Sprintf("Cumulative shares. Now: %s. Random nodes: %s.", c.Now.text(), c.Random.text())
	high := c.limitMillis * 1.15
	for _, s := range c.now {
		high = max(high, s.ms)
	}
	for _, s := range c.random {
		if s.share <= 0.985 || high == 0 {
			high = max(high, s.ms)
		}
	}
	if high <= 0 {
		high = 1
	}
	high *= 1.04
	x := func(ms float64) float64 { return curveLeft + curveInnerWidth*min(ms, high)/high }
	y := func(share float64) float64 { return curveTop + curveInnerHeight*(1-share) }
	bottom := y(0)
	for _, share := range []float64{0, 0.25, 0.5, 0.75, 1} {
		d.Shapes = append(d.Shapes, shape{Kind: "line", X: curveLeft, Y: y(share), X2: curveWidth - curveRight, Y2: y(share), Class: "grid"})
		if share*4 != 1 && share*4 != 3 {
			d.Shapes = append(d.Shapes, shape{Kind: "text", X: curveLeft - 6, Y: y(share) + 4, Class: "axis", Anchor: "end", Text: number(100*share) + " %"})
		}
	}
	step := nice(high / 3.5)
	for ms := 0.0; ms <= high; ms += step {
		d.Shapes = append(d.Shapes,
			shape{Kind: "line", X: x(ms), Y: bottom, X2: x(ms), Y2: bottom + 4, Class: "tick"},
			shape{Kind: "text", X: x(ms), Y: bottom + 16, Class: "axis", Anchor: "middle", Text: number(math.Round(ms*1e4) / 1e4)})
	}
	d.Shapes = append(d.Shapes,
		shape{Kind: "text", X: curveWidth - curveRight, Y: curveHeight - 6, Class: "axis", Anchor: "end", Text: "round-trip time, ms →"},
		shape{Kind: "text", X: curveLeft - 40, Y: curveHeight - 6, Class: "axis", Anchor: "start", Text: "↑ share of callers"})
	if len(c.low) > 1 && c.waiting > 2 {
		d.Shapes = append(d.Shapes, shape{Kind: "path", D: bandPath(c.low, c.high, x, y, high), Class: "band"})
	}
	if c.limitMillis > 0 {
		anchor, at := "end", x(c.limitMillis)-4
		if at < curveLeft+60 {
			anchor, at = "start", at+8
		}
		d.Shapes = append(d.Shapes,
			shape{Kind: "line", X: x(c.limitMillis), Y: curveTop - 4, X2: x(c.limitMillis), Y2: bottom, Class: "limit"},
			shape{Kind: "text", X: at, Y: curveTop - 6, Class: "limitname", Anchor: anchor, Text: "limit " + c.Limit})
	}
	d.Shapes = append(d.Shapes,
		shape{Kind: "path", D: curvePath(c.random, x, y, high), Class: "random"},
		shape{Kind: "path", D: curvePath(c.now, x, y, high), Class: "now"})
	nowShare, randomShare := leftShare, rightShare
	if at(c.random, 0.5) < at(c.now, 0.5) {
		nowShare, randomShare = rightShare, leftShare
	}
	d.Shapes = append(d.Shapes, curveName(c.now, nowShare, nowName, "nowname", x, y), curveName(c.random, randomShare, randomName, "randomname", x, y))
	return d
}

// at returns the latency of a curve at a share; infinite where it does not get there.
func at(curve []step, share float64) float64 {
	for _, s := range curve {
		if s.share >= share-1e-9 {
			return s.ms
		}
	}
	return math.Inf(1)
}

func curveName(curve []step, share float64, name, class string, x, y func(float64) float64) shape {
	if len(curve) == 0 {
		return shape{Kind: "text", X: curveWidth / 2, Y: curveTop + curveInnerHeight/2, Class: class, Anchor: "middle", Text: name + ": unknown"}
	}
	ms := at(curve, share)
	if math.IsInf(ms, 1) {
		share, ms = curve[len(curve)-1].share, curve[len(curve)-1].ms
	}
	s := shape{Kind: "text", X: x(ms) + 7, Y: y(share) + 4, Class: class, Anchor: "start", Text: name}
	if s.X+textWidth(name)*1.1 > curveWidth-curveRight {
		s.X, s.Anchor = x(ms)-7, "end"
	}
	return s
}

func curvePath(curve []step, x, y func(float64) float64, high float64) string {
	if len(curve) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "M%s %s", num(x(0)), num(y(0)))
	for _, s := range curve {
		if s.ms > high {
			break
		}
		fmt.Fprintf(&b, "H%sV%s", num(x(s.ms)), num(y(s.share)))
	}
	if curve[len(curve)-1].share > 0.999 || curve[len(curve)-1].ms > high {
		fmt.Fprintf(&b, "H%s", num(x(high)))
	}
	return b.String()
}

// bandPath goes along the upper curve and back along the lower one.
func bandPath(low, high []step, x, y func(float64) float64, limit float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "M%s %s", num(x(0)), num(y(0)))
	last := 0
	for i, s := range high {
		if s.ms > limit {
			break
		}
		fmt.Fprintf(&b, "H%sV%s", num(x(s.ms)), num(y(s.share)))
		last = i
	}
	fmt.Fprintf(&b, "H%s", num(x(min(limit, high[len(high)-1].ms))))
	for i := last; i >= 0; i-- {
		fmt.Fprintf(&b, "V%sH%s", num(y(low[i].share)), num(x(low[i].ms)))
	}
	return b.String() + "V" + num(y(0)) + "Z"
}

func (c *Comparison) who() string {
	if c.Client {
		return "the clients"
	}
	return "the calls"
}

func (d *Distribution) text() string {
	if d.Median == "" {
		return "unknown"
	}
	text := "median " + d.Median
	if d.Tail != "" {
		text += ", 95th percentile " + d.Tail
	}
	if d.UnknownPercent > 0 {
		text += fmt.Sprintf(", %s %% unknown", number(d.UnknownPercent))
	}
	return text
}
