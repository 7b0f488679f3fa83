package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// colourSteps is how many colours a heat map has: more are not told apart.
const colourSteps = 48

// cividis is a scale of colours that looks alike to people who see colours differently, from low to high.
var cividis = [][3]float64{{0, 34, 78}, {18, 53, 112}, {59, 73, 108}, {87, 93, 109}, {112, 113, 115}, {138, 134, 120}, {165, 156, 116}, {195, 179, 105}, {225, 204, 85}, {254, 232, 56}}

func heatColour(step int) string {
	at := float64(step) / (colourSteps - 1) * float64(len(cividis)-1)
	i := min(int(at), len(cividis)-2)
	part := at - float64(i)
	var c [3]int
	for k := range c {
		c[k] = int(math.Round(cividis[i][k]*(1-part) + cividis[i+1][k]*part))
	}
	return fmt.Sprintf("#%02x%02x%02x", c[0], c[1], c[2])
}

// heads are the heat maps of one result: what each head keeps, and the true mass of it.
type heads struct {
	result *result
	maps   []Figure
}

// heat draws the heat maps of a panel on scales that they share, as many as room cells allow, and says how many results were left out and how many cells are drawn.
func (p *panel) heat(room int) (out []heads, leftOut, cells int) {
	var shares, masses []float64
	for _, r := range p.results {
		for l := range r.kept {
			for h := range r.kept[l] {
				if v := ratio(r.kept[l][h], r.ContextMean); drawable(v, true) {
					shares = append(shares, v)
				}
				if r.mass != nil && drawable(r.mass[l][h], false) {
					masses = append(masses, r.mass[l][h])
				}
			}
		}
	}
	for _, r := range p.results {
		count, widest := 0, 0
		for _, layer := range r.kept {
			count += len(layer)
			widest = max(widest, len(layer))
		}
		switch {
		case count == 0 || len(shares) == 0:
			continue
		case len(r.kept) > maxSide || widest > maxSide || cells+2*count > room:
			leftOut++
			continue
		}
		cells += 2 * count
		h := heads{result: r}
		of := make([][]float64, len(r.kept))
		for l, layer := range r.kept {
			for _, v := range layer {
				of[l] = append(of[l], ratio(v, r.ContextMean))
			}
		}
		h.maps = append(h.maps, heatMap("Share of tokens kept by layer and head: "+r.Label+", "+p.title(), p.source(), "kept", of, widest, newAxis(shares, true, 0, 1)))
		if r.mass != nil && len(masses) > 0 {
			h.maps = append(h.maps, heatMap("True attention mass of what was kept: "+r.Label+", "+p.title(), p.source(), "mass", r.mass, widest, newAxis(append(masses, 1), false, 0, 1)))
		}
		out = append(out, h)
	}
	return out, leftOut, cells
}

// heatMap draws values of [layer][head]; a layer without values stayed dense. Cells of one colour are one path, and the page's script reads values from a list: a map
// of a large model has thousands of cells.
func heatMap(title, source, slug string, values [][]float64, widest int, scale axis) Figure {
	d := newDrawing(title, source)
	side := min((figureWidth-left-right)/float64(widest), 48)
	tall := min(side, 24, max(3, 330/float64(len(values))))
	top, wide := d.h+4, side*float64(widest)
	paths := make([]strings.Builder, colourSteps)
	var list strings.Builder
	for l, layer := range values {
		if l > 0 {
			list.WriteByte(';')
		}
		y := top + tall*float64(l)
		if len(layer) == 0 {
			d.putf(`<rect class="stay" x="%s" y="%s" width="%s" height="%s"/>`, px(left), px(y), px(wide), px(tall))
		}
		for h, v := range layer {
			if h > 0 {
				list.WriteByte(' ')
			}
			list.WriteString(share(v))
			if !drawable(v, scale.log) {
				continue
			}
			step := int(math.Round((colourSteps - 1) * min(1, max(0, scale.at(v)))))
			fmt.Fprintf(&paths[step], "M%s %sh%sv%sh-%[3]sz", px(left+side*float64(h)), px(y), px(side+.1), px(tall+.1))
		}
	}
	d.putf(`<g class="heat" data-x="%s" data-y="%s" data-w="%s" data-h="%s" data-v="%s">`, px(left), px(top), px(side), px(tall), list.String())
	for i := range paths {
		if paths[i].Len() > 0 {
			d.putf(`<path fill="%s" d="%s"/>`, heatColour(i), paths[i].String())
		}
	}
	d.putf(`</g>`)
	every := 1 + (len(values)-1)/16
	for l := 0; l < len(values); l += every {
		d.text(left-6, top+tall*(float64(l)+.5)+4, "e", fmt.Sprint(l))
	}
	bottom := top + tall*float64(len(values))
	for h := 0; h < widest; h += 1 + (widest-1)/16 {
		d.text(left+side*(float64(h)+.5), bottom+14, "m", fmt.Sprint(h))
	}
	d.text(left+wide/2, bottom+30, "m n", "query head")
	d.putf(`<text transform="translate(13 %s) rotate(-90)" class="m n">layer</text>`, px((top+bottom)/2))
	d.h = bottom + 40
	d.colourBar(scale)
	if slices.ContainsFunc(values, func(layer []float64) bool { return len(layer) == 0 }) {
		d.putf(`<rect class="stay" x="%s" y="%s" width="14" height="10"/>`, px(left), px(d.h+2))
		d.text(left+20, d.h+11, "n", "layer stayed dense")
		d.h += 20
	}
	return d.figure("heads-"+slug, title)
}

// colourBar says which colour is how much.
func (d *drawing) colourBar(scale axis) {
	const wide = 300.0
	for i := range colourSteps {
		d.putf(`<rect x="%s" y="%s" width="%s" height="10" fill="%s"/>`, px(left+wide*float64(i)/colourSteps), px(d.h), px(wide/colourSteps+.3), heatColour(i))
	}
	end := math.Inf(-1)
	for _, t := range scale.ticks {
		at, s := left+wide*scale.at(t), share(t)
		if half := width(s, 11) / 2; at-half > end {
			d.text(at, d.h+23, "m", s)
			end = at + half + 4
		}
	}
	d.h += 32
}
