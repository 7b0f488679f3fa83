package report

import (
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/twilight-go/twilight/internal/eval"
)

//go:embed page.html page.css page.js figure.css
var files embed.FS

// What the page is made of.
var (
	figureCSS = asset("figure.css")
	pageTmpl  = template.Must(template.New("page").Parse(asset("page.html")))
)

func asset(name string) string {
	b, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is embedded
	}
	return string(b)
}

// page is what the template shows.
type page struct {
	FigureCSS, PageCSS template.CSS
	Script             template.JS
	Files              []string
	Rows               string
	Left               []string
	Sections           []pageSection
}

type pageSection struct {
	Model, Fingerprint, Device string
	Versions                   []string
	Panels                     []pagePanel
}

type pagePanel struct {
	ID, Title, Source string
	Text              bool // of KindText
	Head              []string
	Table             []tableRow
	Figures           []shown
	Heads             []shownHeads
	LeftOut           int // results without heat maps, for want of room
}

type shown struct {
	Figure
	ID  string
	SVG template.HTML
}

type shownHeads struct {
	Label   string
	Open    bool
	Figures []shown
}

// Inline is a family's mark, for the table.
func (r tableRow) Inline() template.HTML {
	return template.HTML(fmt.Sprintf(`<svg class="key c%d" viewBox="-6 -6 12 12">%s</svg>`, r.Result.colour, mark(r.Result.family, 0, 0, 4.2))) //nolint:gosec // holds numbers alone
}

// Parts are the label's, between which its line may break.
func (r tableRow) Parts() []string {
	label := r.Result.Label
	var parts []string
	for at := strings.IndexAny(label, "+,>:"); at >= 0; at = strings.IndexAny(label, "+,>:") {
		parts = append(parts, label[:at+1])
		label = label[at+1:]
	}
	return append(parts, label)
}

// Spec is the canonical text of the label.
func (r tableRow) Spec() string { return r.Result.Spec }

// view draws everything.
func (r *Report) view() *page {
	v := &page{FigureCSS: template.CSS(figureCSS), PageCSS: template.CSS(asset("page.css")), Script: template.JS(asset("page.js")), //nolint:gosec // our own
		Files: r.files, Rows: thousands(float64(r.rows)), Left: r.left}
	room, n := maxCells, 0
	for _, s := range r.sections {
		ps := pageSection{Model: s.model, Fingerprint: s.fingerprint, Device: s.device, Versions: s.versions}
		for _, p := range s.panels {
			n++
			pp := pagePanel{ID: fmt.Sprintf("p%02d", n), Title: p.title(), Source: p.source(), Text: p.kind == eval.KindText}
			pp.Head, pp.Table = p.table()
			show := func(f Figure, infix string) shown {
				f.Name = fmt.Sprintf("%s-%s%s%s", pp.ID, slug(p.task+"-"+p.sample), infix, "-"+f.Name)
				return shown{f, f.Name, template.HTML(f.inline())} //nolint:gosec // escaped where it was drawn
			}
			for _, m := range p.measures() {
				for _, b := range budgets {
					if f, ok := p.scatter(m, b); ok {
						pp.Figures = append(pp.Figures, show(f, ""))
					}
				}
			}
			for _, f := range p.byStep() {
				pp.Figures = append(pp.Figures, show(f, ""))
			}
			if f, ok := p.times(); ok {
				pp.Figures = append(pp.Figures, show(f, ""))
			}
			all, leftOut, cells := p.heat(room)
			room -= cells
			pp.LeftOut = leftOut
			first := p.kind == eval.KindText
			for i, h := range all {
				sh := shownHeads{Label: h.result.Label, Open: first && h.result.pruned}
				if sh.Open {
					first = false
				}
				for _, f := range h.maps {
					sh.Figures = append(sh.Figures, show(f, fmt.Sprintf("-%02d-%s", i+1, slug(h.result.Label))))
				}
				pp.Heads = append(pp.Heads, sh)
			}
			ps.Panels = append(ps.Panels, pp)
		}
		v.Sections = append(v.Sections, ps)
	}
	return v
}

// slug is a text fit for a file's name: lower-case letters, digits, dots and dashes.
func slug(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, s)
	return strings.Trim(s[:min(len(s), 60)], "-.")
}

// WriteHTML writes the page: HTML that is well-formed XML too.
func (r *Report) WriteHTML(w io.Writer) error {
	if err := pageTmpl.Execute(w, r.view()); err != nil {
		return fmt.Errorf("report: writing the page: %w", err)
	}
	return nil
}

// Figures are all drawings of the page, in its order.
func (r *Report) Figures() (out []Figure) {
	for _, s := range r.view().Sections {
		for _, p := range s.Panels {
			for _, f := range p.Figures {
				out = append(out, f.Figure)
			}
			for _, h := range p.Heads {
				for _, f := range h.Figures {
					out = append(out, f.Figure)
				}
			}
		}
	}
	return out
}

// WriteFigures writes every figure to a file of its own in a folder, which it makes, and says how many there are.
func (r *Report) WriteFigures(dir string) (n int, err error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return 0, fmt.Errorf("report: making the folder of figures: %w", err)
	}
	for _, fig := range r.Figures() {
		f, err := os.Create(filepath.Join(dir, fig.Name+".svg"))
		if err != nil {
			return n, fmt.Errorf("report: writing a figure: %w", err)
		}
		if err := errors.Join(fig.WriteSVG(f), f.Close()); err != nil {
			return n, fmt.Errorf("report: writing %s: %w", f.Name(), err)
		}
		n++
	}
	return n, nil
}
