package report

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestFamilies(t *testing.T) {
	all := newFamilies()
	for _, c := range []struct {
		spec, family, knob string
		pruned, bound      bool
	}{
		{"dense", "dense", "", false, false},
		{"quest:keep=0.1", "quest", "keep=0.1", false, false},
		{"streaming:sink=4,window=1020", "streaming:sink=4", "window=1020", false, false},
		{"quest:keep=0.25+int4+top-p:0.9", "quest:keep=0.25+int4+top-p", "0.9", true, false},
		{"quest:keep=0.25+int4+top-p:p=0.9,union", "quest:keep=0.25+int4+top-p:union", "p=0.9", true, false},
		{"full+page-range:bits=4+threshold:t=0.01", "full+page-range:bits=4+threshold", "t=0.01", true, false},
		{"snapkv:keep=0.5>quest:keep=0.1", "snapkv:keep=0.5>quest", "keep=0.1", false, false},
		{"oracle-p:p=0.9+when:dense-layers=0", "oracle-p+when:dense-layers=0", "p=0.9", false, true},
		{"of-another-version:x=1", "of-another-version:x=1", "", false, false},
		{"", "", "", false, false},
		{"+>:,=", "+>:,=", "", false, false},
	} {
		f, knob := all.of(c.spec)
		if f.name != c.family || knob != c.knob || f.pruned != c.pruned || f.bound != c.bound {
			t.Errorf("%q: family %q, knob %q, pruned %v, bound %v; expected %+v", c.spec, f.name, knob, f.pruned, f.bound, c)
		}
	}
	a, _ := all.of("quest:keep=0.5")
	b, _ := all.of("quest:keep=0.1")
	c, _ := all.of("quest:keep=0.5+int4+top-p:0.5")
	if a != b || a == c || a.colour != c.colour || a.shape == c.shape {
		t.Errorf("families of quest: %+v, %+v, %+v", a, b, c)
	}
}

func TestAxis(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := rapid.Bool().Draw(t, "log")
		value := rapid.Custom(func(t *rapid.T) float64 {
			v := math.Pow(10, rapid.Float64Range(math.Log10(least)+1e-9, math.Log10(most)-1e-9).Draw(t, "decade"))
			if !log && rapid.Bool().Draw(t, "negative") {
				v = -v
			}
			return v
		})
		values := rapid.SliceOfN(value, 1, 5).Draw(t, "values")
		a := newAxis(values, log, 0, 100)
		if len(a.ticks) < 2 || len(a.ticks) > 13 {
			t.Fatalf("%d ticks: %v", len(a.ticks), a.ticks)
		}
		for _, list := range [][]float64{values, a.ticks} {
			for _, v := range list {
				if at := a.at(v); !(at >= -0.01 && at <= 100.01) {
					t.Fatalf("%v stands at %v of an axis from %v to %v", v, at, a.lo, a.hi)
				}
			}
		}
	})
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{significant(0, 3), "0"}, {significant(1234567, 3), "1,234,567"}, {significant(0.000123, 3), "0.000123"}, {significant(-2.5, 3), "−2.5"}, {significant(1e-7, 3), "1e-07"},
		{significant(math.NaN(), 3), "–"}, {significant(99.96, 3), "100"}, {share(0.0312), "3.12%"}, {share(1), "100%"}, {fixed(1234.5, 1), "1,234.5"}, {fixed(-0.00001, 2), "0.00"},
		{fixed(1e300, 2), "1e+300"}, {fixed(math.Inf(1), 2), "–"}, {signed(0.5, 1), "+0.5"}, {signed(0.00001, 1), "0.0"}, {signed(-0.5, 1), "−0.5"},
	} {
		if c.got != c.want {
			t.Errorf("%q, expected %q", c.got, c.want)
		}
	}
}

func TestFront(t *testing.T) {
	r, err := New(small(t))
	if err != nil {
		t.Fatal(err)
	}
	p := r.sections[0].panels[0]
	dots, _, _, _ := p.dots(p.measures()[1], budgets[0]) // KL: dense is not drawn
	best := math.Inf(1)
	for _, d := range dots {
		if d.bound && d.front {
			t.Errorf("%s is a bound, and on the front", d.Label)
		}
		if !d.bound && d.front != (d.y < best) {
			t.Errorf("%s at %v, %v: front %v", d.Label, d.x, d.y, d.front)
		}
		if !d.bound {
			best = min(best, d.y)
		}
	}
}

func TestWrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "text")
		lines := wrap(s, 11, 80, 3)
		if len(lines) > 3 {
			t.Fatalf("%d lines", len(lines))
		}
		for _, l := range lines {
			if width(l, 11) > 80+11*2 {
				t.Fatalf("a line of %v: %q", width(l, 11), l)
			}
		}
	})
}
