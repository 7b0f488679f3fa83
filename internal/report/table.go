package report

import (
	"math"

	"github.com/twilight-go/twilight/internal/eval"
)

// cell is one field of a table.
type cell struct {
	Text  string
	Class string // "ci" for intervals
}

// tableRow is a result in a table.
type tableRow struct {
	Result *result
	Cells  []cell
	Front  bool // on the Pareto front of tokens kept
}

// exponential turns an interval of log-likelihoods into one of perplexities.
func exponential(m *eval.Mean) *[2]float64 {
	if m == nil || m.CI95 == nil {
		return nil
	}
	return &[2]float64{math.Exp(m.CI95[0]), math.Exp(m.CI95[1])}
}

// table is a panel's numbers.
func (p *panel) table() (head []string, rows []tableRow) {
	m := p.measures()[0]
	if p.kind == eval.KindText {
		head = []string{"ppl", "95 %", "Δ nats", "95 %", "KL", "95 %", "KL p99", "top-1"}
	} else {
		head = []string{"n", "score", "95 %", "Δ dense", "95 %"}
	}
	head = append(head, "kept", "share", "mass", "out err", "bytes", "ms/token")
	front := map[*result]bool{}
	dots, _, _, _ := p.dots(m, budgets[0])
	for _, o := range dots {
		front[o.result] = o.front
	}
	for _, r := range p.results {
		row := tableRow{Result: r, Front: front[r]}
		add := func(s string) { row.Cells = append(row.Cells, cell{Text: s}) }
		interval := func(ends *[2]float64, write func(float64) string) {
			s := "–"
			if ends != nil {
				s = write(ends[0]) + " to " + write(ends[1])
			}
			row.Cells = append(row.Cells, cell{s, "ci"})
		}
		difference := func(by float64, places int) {
			if r.VsDense == nil || r == p.dense {
				add("–")
				interval(nil, nil)
				return
			}
			add(signed(by*r.VsDense.Mean, places))
			interval(scaled(r.VsDense.CI95, by), func(v float64) string { return signed(v, places) })
		}
		switch {
		case r.Text != nil:
			add(fixed(r.Perplexity, 2))
			interval(exponential(r.NLL), func(v float64) string { return fixed(v, 2) })
			difference(1, 4)
			add(fixed(r.KL, 5))
			interval(divergence(r), func(v float64) string { return fixed(v, 5) })
			add(fixed(r.KL99, 4))
			add(percent(r.Agree))
		case r.Score != nil:
			add(thousands(float64(r.Score.N)))
			add(fixed(100*r.Score.Mean, 1))
			interval(scaled(r.Score.CI95, 100), func(v float64) string { return fixed(v, 1) })
			difference(100, 1)
		}
		add(thousands(r.Kept))
		add(percent(r.share()))
		if r.Measured {
			add(fixed(r.Mass, 4))
			add(fixed(r.OutErr, 4))
		} else {
			add("–")
			add("–")
		}
		add(percent(r.bytes()))
		if r.micros > 0 {
			add(fixed(r.micros/1000, 2))
		} else {
			add("–")
		}
		rows = append(rows, row)
	}
	return head, rows
}

func percent(v float64) string { return fixed(100*v, 1) + "%" }
