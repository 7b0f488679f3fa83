package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/internal/eval"
)

// measure is one number of a result that is drawn against its budget.
type measure struct {
	name, slug string // "Perplexity", "ppl"
	unit       string // of the axis
	better     int    // +1: more is better; −1: less is
	log        bool   // the axis may be logarithmic
	of         func(*result) (value float64, interval *[2]float64, ok bool)
	text       func(float64) string
}

// measures are those that a panel's results have.
func (p *panel) measures() []measure {
	mass := measure{"True attention mass lost", "mass", "true attention mass lost (lower is better)", -1, true, func(r *result) (float64, *[2]float64, bool) {
		lost := 1 - r.Mass
		if lost < 1e-5 {
			lost = 0 // rounding
		}
		return lost, nil, r.Measured && r.Mass > 0 && r.Spec != "dense"
	}, share}
	if p.kind == eval.KindSample {
		return []measure{{"Score", "score", "score, of 100" + metricOf(p), 1, false, func(r *result) (float64, *[2]float64, bool) {
			if r.Score == nil {
				return 0, nil, false
			}
			return 100 * r.Score.Mean, scaled(r.Score.CI95, 100), true
		}, func(v float64) string { return significant(v, 3) }}, mass}
	}
	return []measure{
		{"Perplexity", "ppl", "perplexity (lower is better)", -1, true, func(r *result) (float64, *[2]float64, bool) {
			return r.Perplexity, p.beside(r), true
		}, func(v float64) string { return significant(v, 4) }},
		{"KL divergence from dense", "kl", "KL from dense, nats a token (lower is better)", -1, true, func(r *result) (float64, *[2]float64, bool) {
			return r.KL, divergence(r), r.Spec != "dense"
		}, func(v float64) string { return significant(v, 3) }},
		mass,
	}
}

// beside is the interval of a perplexity as far as it differs from that of dense: what both have in common, the text, is no uncertainty of the comparison.
func (p *panel) beside(r *result) *[2]float64 {
	if r.VsDense == nil || r.VsDense.CI95 == nil || p.dense == nil || r == p.dense {
		return nil
	}
	return &[2]float64{p.dense.Perplexity * math.Exp(r.VsDense.CI95[0]), p.dense.Perplexity * math.Exp(r.VsDense.CI95[1])}
}

func metricOf(p *panel) string {
	if p.metric == "" {
		return ""
	}
	return " (" + cut(p.metric, 24) + ")"
}

func divergence(r *result) *[2]float64 {
	if r.Divergence == nil {
		return nil
	}
	return r.Divergence.CI95
}

func scaled(ends *[2]float64, by float64) *[2]float64 {
	if ends == nil {
		return nil
	}
	return &[2]float64{by * ends[0], by * ends[1]}
}

// budget is what a figure has from left to right.
type budget struct {
	name, slug, label, class string
	of                       func(*result) float64
}

var budgets = []budget{
	{"tokens kept", "kept", "share of the tokens in sight that a head keeps", "x-kept", (*result).share},
	{"bytes read", "bytes", "bytes that attention reads, of what dense attention reads", "x-bytes", (*result).bytes},
}

// dot is a result that stands in a figure.
type dot struct {
	*result
	x, y  float64
	ends  *[2]float64
	front bool
}

// scatter draws a measure against a budget: the Pareto picture. ok is false if there is nothing to draw.
func (p *panel) scatter(m measure, b budget) (f Figure, ok bool) {
	title := fmt.Sprintf("%s against %s: %s", m.name, b.name, p.title())
	dots, xs, ys, hidden := p.dots(m, b)
	if len(dots) == 0 {
		return f, false
	}
	d := newDrawing(title, p.source())
	x := newAxis(append(xs, 1), true, left, figureWidth-right)
	height := 270.0
	if b.slug == "kept" {
		d.h += 30 // the axis of tokens
	}
	log := m.log && slices.Min(ys) > 0 && (m.slug != "ppl" || slices.Max(ys) > 3*slices.Min(ys))
	if m.slug == "score" {
		ys = append(ys, 100)
	}
	y := newAxis(ys, log, d.h+height, d.h)
	d.frame(x, y, b.label, m.unit, share, m.text)
	if b.slug == "kept" {
		d.tokens(x, y, dots[0].ContextMean)
	}
	d.h += height + 44
	d.reference(p, m, x, y, dots)
	var front []point
	for _, o := range dots {
		if o.front {
			front = append(front, point{x.at(o.x), y.at(o.y)})
		}
	}
	d.polyline(front, "front")
	entries := d.series(dots, x, y, m)
	if len(front) > 1 {
		entries = append(entries, entry{`<line x1="-10" x2="10" y1="0" y2="0" class="front"/>`, "", "Pareto front, bounds (oracles) left out", ""})
	}
	entries = append(entries, entry{`<circle class="hollow" r="4" cx="-7" cy="0"/><circle class="full" r="4" cx="7" cy="0"/>`, "c0", "hollow: fixed budget; full: pruned by weight", ""})
	d.legend(entries)
	if hidden > 0 {
		d.text(12, d.h+2, "n", fmt.Sprintf("%d without a value that can be drawn here", hidden))
		d.h += lineHeight
	}
	f = d.figure(m.slug+"-"+b.slug, title)
	f.Class = b.class
	return f, true
}

// dots are the results that can be drawn, by series and from left to right within each, with those on the front marked.
func (p *panel) dots(m measure, b budget) (dots []*dot, xs, ys []float64, hidden int) {
	for _, r := range p.results {
		v, ends, ok := m.of(r)
		if !ok {
			continue
		}
		o := &dot{result: r, x: b.of(r), y: v, ends: ends}
		if !drawable(o.x, true) || !drawable(v, m.log) {
			hidden++
			continue
		}
		dots = append(dots, o)
		xs, ys = append(xs, o.x), append(ys, v)
		if ends != nil && drawable(ends[0], m.log) && drawable(ends[1], m.log) {
			ys = append(ys, ends[0], ends[1])
		} else {
			o.ends = nil
		}
	}
	slices.SortStableFunc(dots, func(a, b *dot) int {
		return cmp.Or(cmp.Compare(a.x, b.x), cmp.Compare(float64(m.better)*b.y, float64(m.better)*a.y))
	})
	limit := math.Inf(1) // of budgets that can be on the front: dense, which is exact, is no worse than what costs as much
	if p.dense != nil {
		if _, _, drawn := m.of(p.dense); !drawn {
			limit = b.of(p.dense)
		}
	}
	var best *dot
	for _, o := range dots {
		if !o.bound && o.x < limit && (best == nil || float64(m.better)*(o.y-best.y) > 0) {
			o.front = true
			best = o
		}
	}
	return dots, xs, ys, hidden
}

// tokens draws the axis above the plot: how many tokens the shares are.
func (d *drawing) tokens(x, y axis, context float64) {
	if context <= 0 {
		return
	}
	t := newAxis([]float64{max(least, x.lo*context), max(least, x.hi*context)}, true, x.from, x.to)
	t.lo, t.hi = x.lo*context, x.hi*context
	end := 0.0
	for _, v := range t.ticks {
		if v < t.lo*(1-1e-9) || v > t.hi*(1+1e-9) {
			continue
		}
		at, s := t.at(v), significant(v, 3)
		if at-width(s, 11)/2 > end {
			d.line(at, y.to-4, at, y.to, "axis")
			d.text(at, y.to-8, "m", s)
			end = at + width(s, 11)/2 + 4
		}
	}
	d.text((x.from+x.to)/2, y.to-24, "m n", "tokens kept")
}

// reference draws dense attention as a line from side to side, and its interval as a band.
func (d *drawing) reference(p *panel, m measure, x, y axis, dots []*dot) {
	for _, o := range dots {
		if o.result != p.dense {
			continue
		}
		if o.ends != nil {
			d.putf(`<rect class="band ci" x="%s" y="%s" width="%s" height="%s"/>`, px(x.from), px(y.at(o.ends[1])), px(x.to-x.from), px(y.at(o.ends[0])-y.at(o.ends[1])))
		}
		d.line(x.from, y.at(o.y), x.to, y.at(o.y), "dense")
	}
}

// series draws every family as a line with marks, and says what stands in the legend.
func (d *drawing) series(dots []*dot, x, y axis, m measure) (entries []entry) {
	var order []*family
	members := map[*family][]*dot{}
	for _, o := range dots {
		if members[o.family] == nil {
			order = append(order, o.family)
		}
		members[o.family] = append(members[o.family], o)
	}
	slices.SortFunc(order, func(a, b *family) int {
		return cmp.Or(cmp.Compare(a.colour, b.colour), cmp.Compare(a.shape, b.shape), strings.Compare(a.name, b.name))
	})
	for _, f := range order {
		d.putf(`<g class="c%d" data-s="%s">`, f.colour, escape(f.name))
		var line []point
		for _, o := range members[f] {
			line = append(line, point{x.at(o.x), y.at(o.y)})
		}
		class := "fixed"
		if f.pruned {
			class = "series"
		}
		d.polyline(line, class)
		for i, o := range members[f] {
			if o.ends != nil && f.colour > 0 {
				d.line(line[i].x, y.at(o.ends[0]), line[i].x, y.at(o.ends[1]), "ci")
			}
		}
		for i, o := range members[f] {
			d.putf(`<g class="pt">%s<title>%s</title></g>`, mark(f, line[i].x, line[i].y, 4.5), escape(o.tip(m, o.ends)))
		}
		d.putf(`</g>`)
		entries = append(entries, entry{mark(f, 0, 0, 4.5), fmt.Sprintf("c%d", f.colour), f.name, f.name})
	}
	return entries
}

// tip is what a mark says when it is pointed at.
func (r *result) tip(m measure, ends *[2]float64) string {
	v, _, _ := m.of(r)
	s := r.Label
	if r.Spec != r.Label {
		s += " = " + r.Spec
	}
	s += fmt.Sprintf("\n%s %s", m.name, m.text(v))
	if ends != nil {
		s += fmt.Sprintf(" (95 %%: %s to %s)", m.text(ends[0]), m.text(ends[1]))
	}
	return s + fmt.Sprintf("\nkept %s of %s tokens (%s), bytes read %s", thousands(r.Kept), thousands(r.ContextMean), share(r.share()), share(r.bytes()))
}
