// Package report draws what evaluations found: one page of HTML that needs nothing else, with figures in SVG and tables, from the rows that package eval writes.
//
// The page loads nothing, and says so to the browser. Whatever comes from a file is escaped, and bounded before it is drawn. Equal rows give an equal page.
package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/twilight-go/twilight/internal/eval"
	"github.com/twilight-go/twilight/internal/eval/grid"
)

// What a page holds at most. What is beyond is left out, and the page says so; files beyond maxBytes and maxRows are errors.
const (
	maxBytes   = 1 << 30 // of a file
	maxRows    = 200_000
	maxPanels  = 120
	maxResults = 128    // of a panel
	maxCells   = 60_000 // of all heat maps
	maxSide    = 512    // layers, or heads, of a heat map
	maxText    = 300    // characters of a text from a file
)

// ErrEmpty is in the error of files that hold nothing to draw.
var ErrEmpty = errors.New("no rows to report")

// Read reads a file's rows; an error names the file and the line.
func Read(name string, r io.Reader) ([]eval.Row, error) {
	limited := &io.LimitedReader{R: r, N: maxBytes + 1}
	rows, err := eval.ReadRows(limited)
	switch {
	case err != nil:
		return nil, fmt.Errorf("report: reading %s: %w", name, err)
	case limited.N == 0:
		return nil, fmt.Errorf("report: reading %s: it has more than %d bytes", name, maxBytes)
	case len(rows) > maxRows:
		return nil, fmt.Errorf("report: reading %s: it has %d rows, expected at most %d", name, len(rows), maxRows)
	}
	return rows, nil
}

// Report is what a page shows.
type Report struct {
	files    []string
	rows     int
	left     []string // what was left out, and why
	sections []*section
}

// section is one model on one device.
type section struct {
	model, fingerprint, device string
	versions                   []string
	panels                     []*panel
}

// panel is what all specs did with one task at one length, or with one text.
type panel struct {
	*section
	kind, task, sample, metric string
	size, scored               int
	seed                       uint64
	results                    []*result
	dense                      *result // nil where dense was not asked
}

// result is what one spec did.
type result struct {
	eval.Summary
	*family
	rows   []*eval.Row
	knob   string // what varies within the family, as text
	micros float64
	// kept and mass are means by layer and head, nil where rows hold none.
	kept, mass [][]float64
}

// New makes a report of rows, which may come from several files: what stands in more than one counts once. files are their names.
func New(rows []eval.Row, files ...string) (*Report, error) {
	if len(rows) > maxRows {
		return nil, fmt.Errorf("report: %d rows, expected at most %d", len(rows), maxRows)
	}
	r := &Report{}
	for _, f := range files {
		r.files = append(r.files, clean(base(f)))
	}
	type batch struct {
		fingerprint, device, kind, prompt string
		seed                              uint64
		scored                            int
	}
	batches := map[batch][]*eval.Row{}
	var order []batch
	rows = eval.Distinct(rows)
	for i := range rows {
		row := &rows[i]
		if row.Kind != eval.KindSample && row.Kind != eval.KindText {
			continue
		}
		r.rows++
		cleanRow(row)
		device, _, _ := strings.Cut(row.Device, " (")
		b := batch{row.Fingerprint, device, row.Kind, "", row.Seed, row.Scored}
		if row.Kind == eval.KindText {
			b.prompt = row.Prompt
		}
		if batches[b] == nil {
			order = append(order, b)
		}
		batches[b] = append(batches[b], row)
	}
	if r.rows == 0 {
		return nil, fmt.Errorf("report: %w in %s", ErrEmpty, strings.Join(files, ", "))
	}
	families := newFamilies()
	for _, b := range order {
		r.take(r.section(b.fingerprint, b.device, batches[b]), batches[b], families)
	}
	r.arrange()
	return r, nil
}

// section finds or makes the section of a model and a kind of device.
func (r *Report) section(fingerprint, device string, rows []*eval.Row) *section {
	var s *section
	for _, have := range r.sections {
		if name, _, _ := strings.Cut(have.device, " ("); have.fingerprint == fingerprint && name == device {
			s = have
		}
	}
	if s == nil {
		s = &section{model: base(rows[0].Model), fingerprint: fingerprint, device: rows[0].Device}
		r.sections = append(r.sections, s)
	}
	for _, row := range rows {
		if !slices.Contains(s.versions, row.Version) && len(s.versions) < 8 {
			s.versions = append(s.versions, row.Version)
		}
	}
	return s
}

// take adds the panels of rows that can be summarised together.
func (r *Report) take(s *section, rows []*eval.Row, families *families) {
	flat := make([]eval.Row, len(rows))
	for i, row := range rows {
		flat[i] = *row
	}
	type group struct {
		task, sample, metric string
		size                 int
	}
	type member struct {
		group
		spec     string
		measured bool
	}
	members := map[member][]*eval.Row{}
	for _, row := range rows {
		m := member{group{row.Task, "", "", row.Size}, row.Spec, row.Measured}
		if row.Kind == eval.KindText {
			m.sample = row.Sample
		} else {
			m.metric = row.Metric
		}
		members[m] = append(members[m], row)
	}
	panels := map[group]*panel{}
	for _, sum := range eval.Summarize(flat, 1) {
		g := group{sum.Task, sum.Sample, sum.Metric, sum.Size}
		p := panels[g]
		if p == nil {
			p = &panel{section: s, kind: sum.Kind, task: g.task, sample: g.sample, metric: g.metric, size: g.size, seed: rows[0].Seed, scored: rows[0].Scored}
			panels[g] = p
			s.panels = append(s.panels, p)
		}
		p.add(sum, members[member{g, sum.Spec, sum.Measured}], families)
	}
}

// add takes a spec's summary in. Of a spec that was run with and without measuring, the measured one is shown.
func (p *panel) add(sum eval.Summary, rows []*eval.Row, families *families) {
	res := &result{Summary: sum, rows: rows}
	if res.family, res.knob = families.of(sum.Spec); res.preset != "" && res.Label != res.preset {
		res.Label = clean(fmt.Sprintf("%s at %s", res.preset, res.knob))
	}
	res.micros = microsPerToken(rows)
	res.kept = meanHeads(rows, func(r *eval.Row) [][]float64 { return r.KeptHeads })
	res.mass = meanHeads(rows, func(r *eval.Row) [][]float64 { return r.MassHeads })
	at := slices.IndexFunc(p.results, func(have *result) bool { return have.Spec == sum.Spec })
	switch {
	case at < 0:
		p.results = append(p.results, res)
	case sum.Measured && !p.results[at].Measured:
		p.results[at] = res
	}
	if sum.Spec == "dense" {
		p.dense = p.results[slices.IndexFunc(p.results, func(have *result) bool { return have.Spec == "dense" })]
	}
}

// arrange puts panels in order, and leaves out what is too much.
func (r *Report) arrange() {
	count := 0
	for _, s := range r.sections {
		rank := func(p *panel) int {
			switch {
			case p.kind == eval.KindText:
				return 0
			case p.task == eval.Average:
				return 1
			}
			return 2
		}
		slices.SortStableFunc(s.panels, func(a, b *panel) int {
			return cmp.Or(cmp.Compare(min(rank(a), 1), min(rank(b), 1)), cmp.Compare(a.size, b.size), cmp.Compare(rank(a), rank(b)))
		})
		if room := max(0, maxPanels-count); len(s.panels) > room {
			r.left = append(r.left, fmt.Sprintf("%d tasks of %s: a page shows %d", len(s.panels)-room, s.model, maxPanels))
			s.panels = s.panels[:room]
		}
		count += len(s.panels)
		for _, p := range s.panels {
			if n := len(p.results); n > maxResults {
				r.left = append(r.left, fmt.Sprintf("%d kinds of attention of %s: a task shows %d", n-maxResults, p.title(), maxResults))
				p.results = p.results[:maxResults]
			}
		}
	}
	r.sections = slices.DeleteFunc(r.sections, func(s *section) bool { return len(s.panels) == 0 })
}

// Averages drops the tasks that an average stands for, where a page of all of them would be too long.
func (r *Report) Averages() {
	for _, s := range r.sections {
		tasks := len(s.panels)
		averaged := map[int]bool{} // lengths
		for _, p := range s.panels {
			averaged[p.size] = averaged[p.size] || p.task == eval.Average
		}
		s.panels = slices.DeleteFunc(s.panels, func(p *panel) bool {
			ofGrid := len(p.results) > 0 && len(p.results[0].rows) > 0 && isGrid(p.results[0].rows[0])
			return p.kind == eval.KindSample && p.task != eval.Average && averaged[p.size] && !ofGrid
		})
		if n := tasks - len(s.panels); n > 0 {
			r.left = append(r.left, fmt.Sprintf("%d tasks of %s, whose averages are here", n, s.model))
		}
	}
}

// isGrid reports whether a row is of a task that averages leave out.
func isGrid(r *eval.Row) bool {
	_, ok := grid.Depth(r.Sample)
	return ok
}

// title says which task, or text, at which length.
func (p *panel) title() string {
	name := p.task
	switch {
	case p.kind == eval.KindText:
		name = p.sample
	case p.task == eval.Average:
		name = "average over tasks"
	}
	name = fmt.Sprintf("%s, %s tokens", name, thousands(float64(p.size)))
	if p.kind == eval.KindText {
		name += fmt.Sprintf(", the last %s scored", thousands(float64(p.scored)))
	}
	return name
}

// source says what the numbers were measured on, for every figure's subtitle.
func (p *panel) source() string {
	s := fmt.Sprintf("%s (%s) on %s, version %s", p.model, p.fingerprint, p.device, strings.Join(p.versions, ", "))
	if p.kind == eval.KindSample {
		s += fmt.Sprintf(", seed %d", p.seed)
	}
	return s
}

// share is the kept part of the context in sight, and bytes the read part of what dense attention reads; 0 where it is not known.
func (r *result) share() float64 { return ratio(r.Kept, r.ContextMean) }
func (r *result) bytes() float64 { return ratio(r.Bytes, r.DenseBytes) }

func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

// microsPerToken is the time of a decode step: of texts the timed median, of answers the mean.
func microsPerToken(rows []*eval.Row) float64 {
	var seconds, tokens float64
	for _, r := range rows {
		switch {
		case r.Text != nil:
			return r.MicrosStep
		case r.Answer != nil:
			seconds += r.Seconds
			tokens += float64(r.Generated)
		}
	}
	return 1e6 * ratio(seconds, tokens)
}

// meanHeads averages lists by layer and head over rows; nil where there are none, or rows do not have the same layers and heads.
func meanHeads(rows []*eval.Row, of func(*eval.Row) [][]float64) [][]float64 {
	var sum [][]float64
	n := 0.0
	for _, r := range rows {
		heads := of(r)
		if len(heads) == 0 {
			continue
		}
		if n++; n == 1 {
			for _, layer := range heads {
				sum = append(sum, slices.Clone(layer))
			}
			continue
		}
		if len(heads) != len(sum) {
			return nil
		}
		for l, layer := range heads {
			if len(layer) != len(sum[l]) {
				return nil
			}
			for h, v := range layer {
				sum[l][h] += v
			}
		}
	}
	for _, layer := range sum {
		for h := range layer {
			layer[h] /= n
		}
	}
	return sum
}

// base is a path's last part, whatever system it is from: where a file lay is nobody's business.
func base(name string) string { return path.Base(strings.ReplaceAll(name, `\`, "/")) }

// cleanRow makes a row's texts fit to be shown.
func cleanRow(r *eval.Row) {
	for _, s := range []*string{&r.Task, &r.Sample, &r.Label, &r.Spec, &r.Model, &r.Fingerprint, &r.Device, &r.Version} {
		*s = clean(*s)
	}
	if r.Answer != nil {
		a := *r.Answer
		a.Metric = clean(a.Metric)
		r.Answer = &a
	}
}

// clean replaces what no page should hold, escaped or not: control characters, marks that turn the direction of writing, and what is no character. Long text is cut.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r&0xFFFE == 0xFFFE || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			return '\uFFFD'
		}
		return r
	}, s)
	return cut(s, maxText)
}

// cut shortens a text to n characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:max(0, n-1)]) + "…"
}
