package engine

import (
	"math"
	"slices"

	"github.com/twilight-go/twilight/internal/device"
)

// SampleTop draws the token that Sample would draw from the whole row, of which t lists the most likely tokens and the mass of all. It says false, and has drawn nothing, where
// the list cannot tell: when most of the vocabulary may be drawn, when more tokens than are listed may be, when a penalty favours tokens that are not listed, or when the end of
// top-p is nearer than the mass is exact. vocab is the number of tokens in the row.
func (s *Sampler) SampleTop(t *device.Top, vocab int) (id int32, ok bool) {
	n := int(t.Count)
	if n < 1 || n > device.Listed {
		return 0, false
	}
	rest := math.Inf(-1) // no token that is not listed has a larger logit
	switch {
	case n == vocab:
	case n == device.Listed:
		rest = float64(t.Logit[n-1])
	default:
		rest = float64(t.Logit[0]) - listDepth
	}
	mass := span{t.Mass * (1 - device.MassError), t.Mass * (1 + device.MassError)}
	s.cand = s.cand[:0]
	for i := range n {
		s.cand = append(s.cand, candidate{id: t.ID[i], logit: t.Logit[i]})
	}
	if s.penalises() {
		if n, ok = s.penaliseTop(float64(t.Logit[0]), rest, &mass); !ok {
			return 0, false
		}
		s.cand = s.cand[:n]
	}
	top := float64(s.cand[0].logit)
	if s.p.Temperature == 0 {
		return s.cand[0].id, true
	}
	for i := range s.cand {
		s.cand[i].weight = math.Exp(float64(s.cand[i].logit) - top)
	}
	shift := math.Exp(float64(t.Logit[0]) - top) // the mass counts from the largest logit before penalties
	s.total = 0
	if !s.trimTop(vocab, math.Exp(rest-top), span{mass.low * shift, mass.high * shift}) {
		return 0, false
	}
	return s.draw(), true
}

// listDepth is how far below the largest logit a token must be to be missing in a list that has room.
const listDepth = 64

// span holds a number that is known up to rounding.
type span struct{ low, high float64 }

// penaliseTop applies the penalties to the listed candidates, sorts them, and returns how many at the start are sure to be the most likely of all tokens: those above what the
// others can have at most. mass, relative to the largest logit before penalties, is changed with them. False if a penalty may raise what is not listed.
func (s *Sampler) penaliseTop(largest, rest float64, mass *span) (sure int, ok bool) {
	r := s.p.Repetition
	raises := r != 0 && r < 1 || s.p.Presence < 0 || s.p.Frequency < 0
	listed := 0
	for i := range s.cand {
		c := &s.cand[i]
		times := s.count[c.id]
		if times == 0 {
			continue
		}
		listed++
		before := math.Exp(float64(c.logit) - largest)
		c.logit = s.penalty(c.logit, times)
		change := math.Exp(float64(c.logit)-largest) - before
		mass.low, mass.high = mass.low+change, mass.high+change
	}
	if others := len(s.count) - listed; others > 0 && !math.IsInf(rest, -1) {
		if raises {
			return 0, false
		}
		mass.low -= float64(others) * math.Exp(rest-largest)
	}
	slices.SortFunc(s.cand, byWeight)
	for sure < len(s.cand) && float64(s.cand[sure].logit) > rest {
		sure++
	}
	return sure, sure > 0
}

// trimTop is trim of a list: it applies top-k, top-p and min-p to the sorted candidates, whose weights are set, when all others weigh at most other each and all together, the
// candidates too, total. False if the list cannot tell where to cut.
func (s *Sampler) trimTop(vocab int, other float64, total span) bool {
	complete := len(s.cand) == vocab
	for n := len(s.cand); s.cand[n-1].weight == 0; n-- {
		s.cand = s.cand[:n-1]
	}
	cut := complete || s.p.MinP > other // everything that min-p leaves is listed
	if k := s.p.TopK; k > 0 {
		if k > len(s.cand) && !complete {
			return false
		}
		s.cand, cut = s.cand[:min(k, len(s.cand))], true
		exact := 0.0
		for _, c := range s.cand {
			exact += c.weight
		}
		total = span{exact, exact}
	}
	p, sum := s.p.TopP, 0.0
	sorted := s.p.TopK > 0
	if p > 0 && p < 1 {
		sorted = true
		for i, c := range s.cand {
			if c.weight < s.p.MinP {
				break
			}
			sum += c.weight
			if sum >= p*total.high {
				s.cand, cut = s.cand[:i+1], true
				break
			}
			if sum >= p*total.low {
				return false
			}
		}
	}
	if !cut {
		return false
	}
	if s.p.MinP > 0 {
		s.cand = slices.DeleteFunc(s.cand, func(c candidate) bool { return c.weight < s.p.MinP })
	}
	if !sorted {
		slices.SortFunc(s.cand, func(a, b candidate) int { return int(a.id) - int(b.id) })
	}
	return true
}
