package eval

import (
	"math"
	"strconv"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/bench"
)

// meter follows what a session's decode steps attend to, and makes the Attention part of a row.
type meter struct {
	s      *twilight.Session
	from   int // tokens before the first step
	window int // steps between calls of mark
	last   sums
	kept   []float64
	mass   []float64
}

// sums are over layers and heads.
type sums struct {
	steps, measured, kept int64
	mass                  float64
}

func newMeter(s *twilight.Session, window int, measure bool) *meter {
	s.Stats = attention.Stats{Measure: measure}
	return &meter{s: s, from: s.Len(), window: window}
}

// mark ends a window of the time line.
func (m *meter) mark() {
	var now sums
	for _, l := range m.s.Stats.Layers {
		for i := range l.Heads {
			h := &l.Heads[i]
			now.steps += h.Steps
			now.measured += h.Measured
			now.kept += h.B1
			now.mass += h.Mass
		}
	}
	m.kept = append(m.kept, short(mean(float64(now.kept-m.last.kept), now.steps-m.last.steps)))
	m.mass = append(m.mass, short(mean(now.mass-m.last.mass, now.measured-m.last.measured)))
	m.last = now
}

// attention is the result.
func (m *meter) attention() Attention {
	s := bench.Summary(m.s, m.from)
	a := Attention{ContextMean: s.Context, Candidates: s.Candidate, Kept: s.Kept, Pruned: s.Pruned, Union: s.Union, Bytes: s.BytesStep, DenseBytes: s.DenseStep, Measured: m.s.Stats.Measure,
		Mass: s.Mass, OutErr: s.OutErr}
	if !a.Measured {
		a.Mass = 0
	}
	a.AuditMass, a.AuditHalf, a.Audits = m.s.Stats.AuditedMass()
	if m.last.steps == 0 {
		return a
	}
	a.StepTokens, a.KeptSteps = m.window, m.kept
	if a.Measured {
		a.MassSteps = m.mass
	}
	for _, l := range m.s.Stats.Layers {
		kept, mass := []float64{}, []float64{} // not nil: an empty list says more to a reader than null
		for i := range l.Heads {
			if h := &l.Heads[i]; h.Steps > 0 {
				kept, mass = append(kept, short(mean(float64(h.B1), h.Steps))), append(mass, short(mean(h.Mass, h.Measured)))
			}
		}
		a.KeptHeads = append(a.KeptHeads, kept)
		if a.Measured {
			a.MassHeads = append(a.MassHeads, mass)
		}
	}
	return a
}

func mean(sum float64, n int64) float64 { return sum / math.Max(1, float64(n)) }

// short is x with five digits: lists of them are what rows are full of, and no statistic here has more.
func short(x float64) float64 {
	y, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 5, 64), 64)
	if err != nil {
		return x
	}
	return y
}
