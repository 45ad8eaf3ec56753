// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// path draws the RTTs of one route, as factors of its base.
type path func(r *rand.Rand) float64

func gauss(share float64) path {
	return func(r *rand.Rand) float64 { return math.Max(1+share*r.NormFloat64(), 0.01) }
}

func lognormal(sigma float64) path {
	return func(r *rand.Rand) float64 { return math.Exp(sigma * r.NormFloat64()) }
}

func pareto(share, alpha float64) path {
	return func(r *rand.Rand) float64 { return math.Min(1+share*(math.Pow(1-r.Float64(), -1/alpha)-1), 1000) }
}

// outliers replaces a share of a path's RTTs by what is 5 to 15 times as long.
func outliers(share float64, p path) path {
	return func(r *rand.Rand) float64 {
		if r.Float64() < share {
			return 5 + 10*r.Float64()
		}
		return p(r)
	}
}

// middle returns the true median of a path.
func middle(p path) float64 {
	r := rand.New(rand.NewPCG(9, 9))
	values := make([]time.Duration, 100_001)
	for i := range values {
		values[i] = time.Duration(p(r) * 1e6)
	}
	return float64(median(slices.Sorted(slices.Values(values)))) / 1e6
}

func addMillis(t *testing.T, w *Window, millis float64) {
	t.Helper()
	if err := w.Add(time.Duration(millis*float64(time.Millisecond)), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
}

func typicalMillis(t *testing.T, w *Window) float64 {
	t.Helper()
	typical, tail, known := w.Stats().RTT()
	if !known || tail < typical || typical <= 0 {
		t.Fatalf("RTT() = %v, %v, %v", typical, tail, known)
	}
	return float64(typical) / float64(time.Millisecond)
}

// moves counts how often a value moves by more than the noise from where it last moved to.
type moves struct {
	from  float64
	count int
}

func (m *moves) see(millis float64) {
	if by := math.Abs(millis - m.from); m.from == 0 || by > 0.5 && by > noiseShare*m.from {
		m.from = millis
		m.count++
	}
}

// TestWindowFigures says what the estimator does with 20 probes, by simulation: how often the typical RTT of a route that does
// not change moves by more than the noise (as a publisher sees it), its mean error against the true median, and how often it is
// nearer to the new route than to the old at the third answer after a change.
func TestWindowFigures(t *testing.T) {
	const probes, steps, base = 30_000, 500, 20.0
	for name, c := range map[string]struct {
		path
		maxMoves float64 // of 1000 probes
		maxError float64
		minShown map[float64]float64 // by the step's factor
	}{
		"a quiet path":                 {gauss(.02), 0.1, .01, map[float64]float64{1.2: .98, 1.5: .98, 2: .98, 0.5: .98}},
		"a path that shakes by 5 %":    {gauss(.05), 0.5, .02, map[float64]float64{1.5: .9, 2: .9, 0.5: .98}},
		"a path that shakes by 10 %":   {lognormal(.1), 2, .03, map[float64]float64{1.5: .8, 2: .88, 0.5: .97}},
		"a path that shakes by 30 %":   {lognormal(.3), 15, .08, nil},
		"a path that shakes by 60 %":   {lognormal(.6), 22, .16, nil},
		"a heavy tail":                 {pareto(.05, 1.2), 2, .02, map[float64]float64{2: .55, 0.5: .7}},
		"a tail without a mean":        {pareto(.1, .7), 18, .10, nil},
		"one outlier in twenty":        {outliers(.05, gauss(.02)), 0.1, .01, map[float64]float64{1.2: .8, 1.5: .8, 2: .8, 0.5: .8}},
		"one outlier in five":          {outliers(.2, gauss(.02)), 1.5, .05, map[float64]float64{1.5: .45, 0.5: .45}},
		"two outliers in five":         {outliers(.4, gauss(.02)), 40, 1, nil},
		"a path that does not shake":   {func(*rand.Rand) float64 { return 1 }, 0.1, 0, map[float64]float64{1.2: 1, 0.8: 1, 50: 1, 0.02: 1}},
		"shakes by 5 % with outliers":  {outliers(.05, gauss(.05)), 0.5, .02, map[float64]float64{1.5: .77, 2: .77, 0.5: .8}},
		"shakes by 30 % with outliers": {outliers(.05, lognormal(.3)), 15, .08, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			truth := middle(c.path) * base
			w, seen, sum := NewWindow(20), moves{}, 0.0
			for i := range probes {
				addMillis(t, w, base*c.path(r))
				if i >= 20 {
					typical := typicalMillis(t, w)
					seen.see(typical)
					sum += math.Abs(typical/truth - 1)
				}
			}
			perThousand, meanError := float64(seen.count-1)/probes*1000, sum/probes
			t.Logf("%.2f moves in 1000 probes, mean error %.1f %%", perThousand, 100*meanError)
			if perThousand > c.maxMoves || meanError > c.maxError+1e-9 {
				t.Errorf("at most %g and %g %% were expected", c.maxMoves, 100*c.maxError)
			}
			for factor, want := range c.minShown {
				r, shown := rand.New(rand.NewPCG(3, 4)), 0
				for range steps {
					w := NewWindow(20)
					for range 15 + r.IntN(30) {
						addMillis(t, w, base*c.path(r))
					}
					for range 3 {
						addMillis(t, w, factor*base*c.path(r))
					}
					typical := typicalMillis(t, w)
					if math.Abs(math.Log(typical/(factor*truth))) < math.Abs(math.Log(typical/truth)) {
						shown++
					}
				}
				t.Logf("a change by ×%g shows at the third answer in %.1f %%", factor, 100*float64(shown)/steps)
				if float64(shown)/steps < want {
					t.Errorf("at least %g %% were expected", 100*want)
				}
			}
		})
	}
}

// TestWindowFlapping has a route go to and fro between 20 and 60 ms.
func TestWindowFlapping(t *testing.T) {
	const probes = 20_000
	burst := func(n int) func(*rand.Rand, int) bool {
		return func(_ *rand.Rand, i int) bool { return i/n%2 == 1 }
	}
	for name, c := range map[string]struct {
		other    func(r *rand.Rand, i int) bool
		maxMoves float64 // of 1000 probes
	}{
		"in turn":                    {burst(1), 0.5},
		"two and two":                {burst(2), 0.5},
		"three and three":            {burst(3), 0.5},
		"five and five":              {burst(5), 0.5},
		"ten and ten":                {burst(10), 0.5},
		"by chance, one in two":      {func(r *rand.Rand, _ int) bool { return r.IntN(2) == 1 }, 12},
		"by chance, one in four":     {func(r *rand.Rand, _ int) bool { return r.IntN(4) == 1 }, 5},
		"twenty and twenty, changes": {burst(20), 51},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			w, seen := NewWindow(20), moves{}
			for i := range probes {
				level := 20.0
				if c.other(r, i) {
					level = 60
				}
				addMillis(t, w, level*gauss(.02)(r))
				if i >= 60 { // it takes two changes to know that the route flaps
					seen.see(typicalMillis(t, w))
				}
			}
			perThousand := float64(seen.count-1) / probes * 1000
			t.Logf("%.2f moves in 1000 probes", perThousand)
			if perThousand > c.maxMoves {
				t.Errorf("at most %g were expected", c.maxMoves)
			}
		})
	}
}

// TestWindowGoesThereAndBack: a change and its end both show at the third answer, as long as it is not the third in a row.
func TestWindowGoesThereAndBack(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, stay := range []int{3, 6, 10, 19, 20, 40} {
		w := NewWindow(20)
		for _, leg := range []struct {
			level  float64
			probes int
		}{{20, 40}, {60, stay}, {20, 3}} {
			for range leg.probes {
				addMillis(t, w, leg.level*gauss(.02)(r))
			}
			if got := typicalMillis(t, w); math.Abs(got/leg.level-1) > .1 {
				t.Errorf("%g ms after %d answers at %g ms", got, leg.probes, leg.level)
			}
		}
	}
}

// TestWindowDrift has a route grow by 1 % a probe: the typical RTT follows by at most a window's length.
func TestWindowDrift(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	w, level, worst := NewWindow(20), 20.0, 0.0
	for i := range 300 {
		addMillis(t, w, level*gauss(.02)(r))
		if i > 20 {
			worst = math.Max(worst, math.Abs(typicalMillis(t, w)/level-1))
		}
		level *= 1.01
	}
	t.Logf("at most %.1f %% behind", 100*worst)
	if worst > .2 {
		t.Error("at most 20 % were expected")
	}
}

// TestWindowSilence says how often loss by chance makes a peer that lives unknown, and how many probes it takes until a peer
// that died is.
func TestWindowSilence(t *testing.T) {
	const probes, deaths = 100_000, 1000
	for _, c := range []struct {
		loss                          float64
		maxFalse, maxUnknown, maxTime float64 // of 1000 probes, of all, probes
	}{
		{0, 0, 0, 3},
		{.01, 0.1, .001, 3.1},
		{.05, 0.5, .001, 3.5},
		{.10, 1, .001, 4},
		{.20, 2.5, .003, 5},
		{.30, 3.5, .006, 6.5},
		{.50, 6, .012, 8.5},
	} {
		r := rand.New(rand.NewPCG(1, 2))
		probe := func(w *Window) {
			if r.Float64() < c.loss {
				w.AddLoss()
				return
			}
			addMillis(t, w, 20*gauss(.02)(r))
		}
		w, silent, unknown, before := NewWindow(20), 0, 0, false
		for i := range probes {
			probe(w)
			_, _, known := w.Stats().RTT()
			if i < 20 {
				continue
			}
			if !known {
				unknown++
				if !before {
					silent++
				}
			}
			before = !known
		}
		took := 0
		for range deaths {
			w := NewWindow(20)
			for range 30 {
				probe(w)
			}
			for known := true; known; took++ {
				w.AddLoss()
				_, _, known = w.Stats().RTT()
			}
		}
		falseAlarms, share, mean := 1000*float64(silent)/probes, float64(unknown)/probes, float64(took)/deaths
		t.Logf("loss %2.0f %%: falsely silent %.2f times in 1000 probes, %.2f %% of the time; a dead peer after %.1f probes",
			100*c.loss, falseAlarms, 100*share, mean)
		if falseAlarms > c.maxFalse || share > c.maxUnknown || mean > c.maxTime {
			t.Errorf("at most %g, %g %% and %g were expected", c.maxFalse, 100*c.maxUnknown, c.maxTime)
		}
	}
}

// TestWindowSecondOutage: losses of an outage do not make the next one look like the pair's own loss.
func TestWindowSecondOutage(t *testing.T) {
	w := NewWindow(20)
	for outage := range 3 {
		for range 5 {
			addMillis(t, w, 20)
		}
		for n := 1; ; n++ {
			w.AddLoss()
			if _, _, known := w.Stats().RTT(); !known {
				t.Logf("outage %d shows after %d losses", outage, n)
				break
			}
			if n == 6 {
				t.Fatalf("outage %d: still known after %d losses", outage, n)
			}
		}
		for range 9 {
			w.AddLoss()
			if _, _, known := w.Stats().RTT(); known {
				t.Fatal("known again without an answer")
			}
		}
	}
	addMillis(t, w, 20)
	if got := typicalMillis(t, w); got != 20 {
		t.Errorf("%g ms", got)
	}
}
