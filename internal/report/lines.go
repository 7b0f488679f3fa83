package report

import (
	"fmt"
	"math"
	"slices"

	"github.com/twilight-go/twilight/internal/eval"
)

// maxLines is how many lines are told apart in one figure, and maxSteps how many points a line has.
const (
	maxLines = 10
	maxSteps = 4096
)

// byStep draws what changes along a text: kept tokens, their true mass, and the divergence, each a figure if rows have it.
func (p *panel) byStep() (out []Figure) {
	if p.kind != eval.KindText {
		return nil
	}
	for _, s := range []struct {
		name, slug, label string
		log               bool
		of                func(*result) []float64
		text              func(float64) string
	}{
		{"Tokens kept by step", "kept", "tokens that a head keeps", true, func(r *result) []float64 { return r.KeptSteps }, func(v float64) string { return significant(v, 3) }},
		{"True attention mass by step", "mass", "true mass of what was kept", false, func(r *result) []float64 { return r.MassSteps }, share},
		{"KL divergence from dense by step", "kl", "KL from dense, nats a token", true, func(r *result) []float64 { return r.KLSteps }, func(v float64) string { return significant(v, 3) }},
	} {
		title := s.name + ": " + p.title()
		lines, more := p.lines(s.of, s.log)
		if len(lines) == 0 {
			continue
		}
		d := newDrawing(title, p.source())
		var xs, ys []float64
		for _, l := range lines {
			for i, v := range l.values {
				if drawable(v, s.log) {
					xs, ys = append(xs, l.position(p, i)), append(ys, v)
				}
			}
		}
		x, y := newAxis(xs, false, left, figureWidth-right), newAxis(ys, s.log, d.h+230, d.h)
		d.frame(x, y, "position in the text, tokens", s.label, thousands, s.text)
		d.h += 230 + 44
		var entries []entry
		count := map[int]int{}
		for _, l := range lines {
			dash := fmt.Sprintf("step d%d", count[l.colour]%6)
			count[l.colour]++
			d.putf(`<g class="c%d" data-s="%s">`, l.colour, escape(l.Label))
			var points []point
			for i, v := range l.values {
				if !drawable(v, s.log) {
					d.polyline(points, dash)
					points = nil
					continue
				}
				points = append(points, point{x.at(l.position(p, i)), y.at(v)})
			}
			d.polyline(points, dash)
			if len(points) > 0 {
				d.putf("%s", mark(l.family, points[0].x, points[0].y, 3))
			}
			for i, v := range l.values {
				if drawable(v, s.log) && len(l.values) <= 128 {
					at := l.position(p, i)
					d.putf(`<circle class="hit" cx="%s" cy="%s" r="5"><title>%s</title></circle>`, px(x.at(at)), px(y.at(v)), escape(fmt.Sprintf("%s\n%s at token %s", l.Label, s.text(v), thousands(at))))
				}
			}
			d.putf(`</g>`)
			entries = append(entries, entry{fmt.Sprintf(`<line x1="-14" x2="14" y1="0" y2="0" class="%s"/>%s`, dash, mark(l.family, 0, 0, 3)), fmt.Sprintf("c%d", l.colour), l.Label, l.Label})
		}
		d.legend(entries)
		if more > 0 {
			d.text(12, d.h+2, "n", fmt.Sprintf("and %d more, not drawn: those that prune by weight come first", more))
			d.h += lineHeight
		}
		out = append(out, d.figure("steps-"+s.slug, title))
	}
	return out
}

// stepLine is a result's time line.
type stepLine struct {
	*result
	values []float64
}

// position is the middle of a window of steps.
func (l *stepLine) position(p *panel, i int) float64 {
	return float64(l.rows[0].Context-p.scored) + (float64(i)+.5)*float64(max(1, l.window()))
}

// window is how many steps a value stands for.
func (l *stepLine) window() int {
	if l.StepTokens > 0 {
		return l.StepTokens
	}
	return (l.rows[0].Scored + len(l.values) - 1) / max(1, len(l.values))
}

// lines are those that are drawn, pruned ones first, and how many are not.
func (p *panel) lines(of func(*result) []float64, log bool) (out []*stepLine, more int) {
	for _, pruned := range []bool{true, false} {
		for _, r := range p.results {
			values := of(r)
			if r.pruned != pruned || r == p.dense || len(values) < 2 || len(values) > maxSteps || !slices.ContainsFunc(values, func(v float64) bool { return drawable(v, log) }) {
				continue
			}
			if len(out) == maxLines {
				more++
				continue
			}
			out = append(out, &stepLine{r, values})
		}
	}
	return out, more
}

// times draws how long a token takes with each spec, as bars.
func (p *panel) times() (f Figure, ok bool) {
	var bars []*result
	var values []float64
	for _, r := range p.results {
		if r.micros > 0 && r.micros < most {
			bars, values = append(bars, r), append(values, r.micros/1000)
		}
	}
	if len(bars) == 0 {
		return f, false
	}
	what := "median of timed decode steps"
	if p.kind == eval.KindSample {
		what = "mean over all decode steps of the answers"
		if slices.ContainsFunc(p.results, func(r *result) bool { return r.Measured }) {
			what += ", measuring included"
		}
	}
	title := "Time per token: " + p.title()
	d := newDrawing(title, p.source()+"; "+what+"; in brackets the speed beside dense")
	const row = 30
	x := newAxis(append(values, 0), false, 14, figureWidth-70)
	top, bottom := d.h, d.h+float64(len(bars))*row+4
	for _, t := range x.ticks {
		d.line(x.at(t), bottom, x.at(t), top, "grid")
		d.text(x.at(t), bottom+16, "m", significant(t, 3))
	}
	if p.dense != nil && p.dense.micros > 0 && p.dense.micros < most {
		at := x.at(p.dense.micros / 1000)
		d.line(at, bottom, at, top, "dense")
	}
	for i, r := range bars {
		y := top + float64(i)*row
		at := x.at(r.micros / 1000)
		d.text(x.from, y+11, "halo", cut(r.Label, 78))
		label := significant(r.micros/1000, 3)
		if p.dense != nil && r != p.dense && p.dense.micros > 0 {
			label += fmt.Sprintf(" (%s×)", significant(p.dense.micros/r.micros, 3))
		}
		fill := "hollow"
		if r.pruned || r == p.dense {
			fill = "full"
		}
		d.putf(`<g class="c%d"><rect class="bar %s" x="%s" y="%s" width="%s" height="9"/></g>`, r.colour, fill, px(x.from), px(y+16), px(math.Max(.5, at-x.from)))
		d.text(at+6, y+25, "halo", label)
	}
	d.line(x.from, bottom, x.from, top, "axis")
	d.text((x.from+x.to)/2, bottom+34, "m n", "milliseconds a token")
	d.h = bottom + 44
	return d.figure("time", title), true
}
