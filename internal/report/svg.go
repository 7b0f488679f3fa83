package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The measures of figures, in the units of their viewBox: narrow enough that text stays readable when a phone shrinks them.
const (
	figureWidth = 560
	left        = 58 // of the plot
	right       = 18
	lineHeight  = 15
)

// Figure is one drawing.
type Figure struct {
	Name  string // for files: letters, digits, dots and dashes
	Title string
	Class string // of the page's element around it
	// w and h are those of the viewBox.
	w, h float64
	body string
}

// WriteSVG writes the figure as a file of its own, in light or dark as its viewer prefers.
func (f *Figure) WriteSVG(w io.Writer) error {
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%[1]s" height="%[2]s" class="fig"><style>%[3]s</style>%[4]s</svg>`+"\n", px(f.w), px(f.h), escape(figureCSS), f.body)
	return err
}

// inline is the figure as a part of the page, which has the style.
func (f *Figure) inline() string {
	return fmt.Sprintf(`<svg viewBox="0 0 %s %s" class="fig" role="img" aria-label="%s">%s</svg>`, px(f.w), px(f.h), escape(f.Title), f.body)
}

// drawing is a figure that is being drawn, from the top down.
type drawing struct {
	strings.Builder
	w, h float64
}

// newDrawing begins a figure with its title, and below it what was measured on what.
func newDrawing(title, subtitle string) *drawing {
	d := &drawing{w: figureWidth, h: 8}
	for _, s := range wrap(title, 16.5, figureWidth-24, 3) {
		d.h += 18
		d.text(12, d.h, "t", s)
	}
	for _, s := range wrap(subtitle, 11, figureWidth-24, 4) {
		d.h += 14
		d.text(12, d.h, "s", s)
	}
	d.h += 12
	return d
}

// figure ends it.
func (d *drawing) figure(name, title string) Figure {
	back := fmt.Sprintf(`<rect class="bg" width="%s" height="%s"/>`, px(d.w), px(d.h))
	return Figure{Name: name, Title: title, w: d.w, h: d.h, body: back + d.String()}
}

func (d *drawing) putf(format string, args ...any) { fmt.Fprintf(d, format, args...) }

// text writes at the baseline. Classes: t title, s subtitle, n note; m and e set it in the middle and at the end.
func (d *drawing) text(x, y float64, class, s string) {
	d.putf(`<text x="%s" y="%s" class="%s">%s</text>`, px(x), px(y), class, escape(s))
}

func (d *drawing) line(x1, y1, x2, y2 float64, class string) {
	d.putf(`<line x1="%s" y1="%s" x2="%s" y2="%s" class="%s"/>`, px(x1), px(y1), px(x2), px(y2), class)
}

// point is a place in a figure.
type point struct{ x, y float64 }

func (d *drawing) polyline(points []point, class string) {
	if len(points) < 2 {
		return
	}
	d.putf(`<polyline class="%s" points="`, class)
	for i, p := range points {
		if i > 0 {
			d.WriteByte(' ')
		}
		d.putf("%s,%s", px(p.x), px(p.y))
	}
	d.putf(`"/>`)
}

// frame draws both axes with grid, labels and titles, between the top and the bottom of y.
func (d *drawing) frame(x, y axis, xLabel, yLabel string, xText, yText func(float64) string) {
	last := math.Inf(-1)
	for _, t := range x.ticks {
		at, s := x.at(t), xText(t)
		d.line(at, y.from, at, y.to, "grid")
		if half := width(s, 11) / 2; at-half > last {
			d.text(at, y.from+16, "m", s)
			last = at + half + 4
		}
	}
	for _, t := range y.ticks {
		at := y.at(t)
		d.line(x.from, at, x.to, at, "grid")
		d.text(x.from-6, at+4, "e", yText(t))
	}
	d.line(x.from, y.from, x.to, y.from, "axis")
	d.line(x.from, y.from, x.from, y.to, "axis")
	d.text((x.from+x.to)/2, y.from+34, "m n", xLabel)
	d.putf(`<text transform="translate(13 %s) rotate(-90)" class="m n">%s</text>`, px((y.from+y.to)/2), escape(yLabel))
}

// mark draws a family's sign around a place, a little larger where it is more important.
func mark(f *family, x, y, size float64) string {
	fill := "hollow"
	if f.pruned {
		fill = "full"
	}
	s := size
	var shape string
	switch {
	case f.colour == 0:
		shape = fmt.Sprintf("M%s %sH%sM%s %sV%s", px(x-s), px(y), px(x+s), px(x), px(y-s), px(y+s))
	default:
		switch f.shape {
		case 0:
			return fmt.Sprintf(`<circle class="%s" cx="%s" cy="%s" r="%s"/>`, fill, px(x), px(y), px(s))
		case 1:
			shape = fmt.Sprintf("M%s %sh%sv%[3]sh%sz", px(x-.9*s), px(y-.9*s), px(1.8*s), px(-1.8*s))
		case 2:
			shape = fmt.Sprintf("M%s %sl%s %sh%sz", px(x), px(y-1.15*s), px(1.1*s), px(1.9*s), px(-2.2*s))
		case 3:
			shape = fmt.Sprintf("M%s %sl%s %[3]sl-%[3]s %[3]sl-%[3]s-%[3]sz", px(x), px(y-1.25*s), px(1.25*s))
		case 4:
			shape = fmt.Sprintf("M%s %sl%s-%sh-%sz", px(x), px(y+1.15*s), px(1.1*s), px(1.9*s), px(2.2*s))
		case 5:
			shape = fmt.Sprintf("M%s %sv-%sh%[3]sv-%[3]sh%[3]sv%[3]sh%[3]sv%[3]sh-%[3]sv%[3]sh-%[3]sv-%[3]sz", px(x-1.2*s), px(y+.4*s), px(.8*s))
		default:
			shape = fmt.Sprintf("M%s %sh%sl%s %sl-%[4]s %[5]sh-%[3]sl-%[4]s-%[5]sz", px(x-.6*s), px(y-1.05*s), px(1.2*s), px(.6*s), px(1.05*s))
		}
	}
	return fmt.Sprintf(`<path class="%s" d="%s"/>`, fill, shape)
}

// entry is a line of a legend.
type entry struct {
	sign  string // drawn around 0,0, or a line from −14 to 14
	class string
	name  string
	group string // of what is drawn for it; ""
}

// legend lists entries below what is drawn, two in a line where they fit.
func (d *drawing) legend(entries []entry) {
	const half = (figureWidth - 24) / 2
	x, y := 12.0, d.h+lineHeight
	for _, e := range entries {
		name := cut(e.name, 78)
		long := 38+width(name, 11) > half
		if long && x > 12 {
			x, y = 12, y+lineHeight
		}
		d.putf(`<g class="leg %s" data-s="%s" transform="translate(%s %s)"><g transform="translate(14 -4)">%s</g><text x="34" y="0">%s</text></g>`, e.class, escape(e.group), px(x), px(y), e.sign, escape(name))
		if x += half; long || x > half+12 {
			x, y = 12, y+lineHeight
		}
	}
	if x > 12 {
		y += lineHeight
	}
	d.h = y
}

// px writes a coordinate.
func px(v float64) string {
	if math.IsNaN(v) || math.Abs(v) > 1e6 {
		return "0" // where nothing sensible can be drawn
	}
	s := strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
	if s == "-0" {
		return "0"
	}
	return s
}

// escape makes text safe between tags and in attributes.
func escape(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		return "" // a strings.Builder takes everything
	}
	return b.String()
}

// width is about how wide a text is: no font can be measured here, so it is rather too much than too little.
func width(s string, size float64) float64 {
	w := 0.0
	for _, r := range s {
		switch {
		case r >= 0x1100:
			w += size
		case strings.ContainsRune("ijl.,:;|'!()[] ", r):
			w += 0.36 * size
		default:
			w += 0.585 * size
		}
	}
	return w
}

// wrap breaks a text at spaces, or anywhere if a word is too long, into at most so many lines; the last may end in an ellipsis.
func wrap(s string, size, room float64, lines int) (out []string) {
	line := ""
	flush := func() {
		if line != "" {
			out = append(out, line)
		}
		line = ""
	}
	for _, word := range strings.Fields(s) {
		if line != "" && width(line+" "+word, size) > room {
			flush()
		}
		if line != "" {
			line += " "
		}
		line += word
		for width(line, size) > room {
			n := len(line)
			for n > 1 && width(line[:n], size) > room {
				_, last := utf8.DecodeLastRuneInString(line[:n])
				n -= last
			}
			if n < 1 {
				break
			}
			rest := line[n:]
			line = line[:n]
			flush()
			line = rest
		}
	}
	flush()
	if len(out) > lines {
		out = out[:lines]
		out[lines-1] = strings.TrimRight(out[lines-1], " ,") + " …"
	}
	return out
}
