package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Sampling says how the next token is drawn from the logits. The steps run in this order: penalties, top-k, top-p, min-p, temperature, draw. The zero value is greedy.
type Sampling struct {
	Temperature float64 // 0: greedy, the most likely token after the penalties
	TopK        int     // the k most likely tokens; 0: all
	TopP        float64 // the fewest tokens with mass at least p; 0 or 1: all
	MinP        float64 // tokens at least this share as likely as the most likely; 0: all
	// Repetition divides positive and multiplies negative logits of recent tokens (1 or 0: off); Presence is subtracted once from them, Frequency once for each occurrence.
	Repetition, Presence, Frequency float64
	PenaltyWindow                   int    // recent tokens that the penalties see; 0: 64
	Seed                            uint64 // of the draw; equal seeds draw equal tokens
}

// Check reports a parameter out of range, by name.
func (s Sampling) Check() error {
	for _, p := range []struct {
		name      string
		v, lo, hi float64
	}{
		{"temperature", s.Temperature, 0, 100}, {"top-k", float64(s.TopK), 0, math.MaxInt32}, {"top-p", s.TopP, 0, 1}, {"min-p", s.MinP, 0, 1},
		{"repetition penalty", s.Repetition, 0, 10}, {"presence penalty", s.Presence, -10, 10}, {"frequency penalty", s.Frequency, -10, 10},
		{"penalty window", float64(s.PenaltyWindow), 0, math.MaxInt32},
	} {
		if !(p.v >= p.lo && p.v <= p.hi) {
			return fmt.Errorf("engine: %s %g: expected %g to %g", p.name, p.v, p.lo, p.hi)
		}
	}
	return nil
}

// Sampler draws tokens. Its scratch is reused: a draw allocates nothing after the first. Not safe for concurrent use.
type Sampler struct {
	p      Sampling
	rng    *rand.Rand
	recent []int32 // a ring of the last PenaltyWindow tokens
	at     int
	count  map[int32]int
	cand   []candidate
	total  float64 // weight of all tokens, candidates or not
}

type candidate struct {
	id     int32
	logit  float32
	weight float64 // exp(logit − max)
}

// NewSampler makes a sampler; Check must have passed.
func NewSampler(p Sampling) *Sampler {
	if p.PenaltyWindow == 0 {
		p.PenaltyWindow = 64
	}
	return &Sampler{p: p, rng: rand.New(rand.NewPCG(p.Seed, 0x7477696c69676874)), count: map[int32]int{}}
}

// Accept tells the sampler of a token in the context, drawn or given.
func (s *Sampler) Accept(id int32) {
	if !s.penalises() {
		return
	}
	if len(s.recent) < s.p.PenaltyWindow {
		s.recent = append(s.recent, id)
	} else {
		old := s.recent[s.at]
		if s.count[old]--; s.count[old] == 0 {
			delete(s.count, old)
		}
		s.recent[s.at] = id
		s.at = (s.at + 1) % len(s.recent)
	}
	s.count[id]++
}

// greedy reports whether Sample is the first of the largest logits.
func (s *Sampler) greedy() bool { return s.p.Temperature == 0 && !s.penalises() }

func (s *Sampler) penalises() bool {
	return s.p.Repetition != 0 && s.p.Repetition != 1 || s.p.Presence != 0 || s.p.Frequency != 0
}

// Sample draws a token. It changes logits. Of damaged logits, NaN is never drawn and an infinite one always; token 0 if there is nothing else.
func (s *Sampler) Sample(logits []float32) int32 {
	if s.penalises() {
		s.penalise(logits)
	}
	best, top := 0, math.Inf(-1)
	for i, x := range logits {
		if float64(x) > top {
			best, top = i, float64(x)
		}
	}
	if s.p.Temperature == 0 || math.IsInf(top, 0) {
		return int32(best)
	}
	s.weigh(logits, top)
	s.trim()
	return s.draw()
}

func (s *Sampler) penalise(logits []float32) {
	for id, n := range s.count {
		if int(id) >= len(logits) {
			continue
		}
		logits[id] = s.penalty(logits[id], n)
	}
}

// penalty is the logit of a token that stands n times among the recent ones.
func (s *Sampler) penalty(logit float32, n int) float32 {
	x := float64(logit)
	if r := s.p.Repetition; r != 0 && r != 1 {
		if x > 0 {
			x /= r
		} else {
			x *= r
		}
	}
	return float32(x - s.p.Presence - s.p.Frequency*float64(n))
}

// weigh gathers the tokens that can be drawn. A token is left out only if no later step could keep it: under min-p, or, where top-p counts, so unlikely that all such
// together hold less than 1−p. With top-k all stay, because top-p is then relative to the k most likely.
func (s *Sampler) weigh(logits []float32, top float64) {
	s.cand, s.total = s.cand[:0], 0
	floor := 0.0
	if s.p.TopK == 0 {
		floor = s.p.MinP
		if p := s.p.TopP; p > 0 && p < 1 {
			floor = max(floor, (1-p)/float64(len(logits))) // the total weight is at least 1
		}
	}
	for i, x := range logits {
		w := math.Exp(float64(x) - top)
		if w > 0 { // and no NaN
			s.total += w
			if w >= floor {
				s.cand = append(s.cand, candidate{int32(i), x, w})
			}
		}
	}
}

// byWeight orders the most likely first.
func byWeight(a, b candidate) int {
	switch {
	case a.logit > b.logit:
		return -1
	case a.logit < b.logit:
		return 1
	}
	return int(a.id) - int(b.id)
}

// trim applies top-k, top-p and min-p. After either of the first two the candidates are sorted: what is drawn does not depend on who sorted them.
func (s *Sampler) trim() {
	if k := s.p.TopK; k > 0 {
		if k < len(s.cand) {
			s.selectTop(k)
		}
		slices.SortFunc(s.cand, byWeight)
		s.total = 0
		for _, c := range s.cand {
			s.total += c.weight
		}
	}
	p := s.p.TopP
	if p > 0 && p < 1 {
		if s.p.TopK == 0 {
			slices.SortFunc(s.cand, byWeight)
		}
		sum := 0.0
		for i, c := range s.cand {
			if sum += c.weight; sum >= p*s.total {
				s.cand = s.cand[:i+1]
				break
			}
		}
	}
	if s.p.MinP > 0 {
		s.cand = slices.DeleteFunc(s.cand, func(c candidate) bool { return c.weight < s.p.MinP })
	}
}

// selectTop keeps the k most likely candidates, of equal ones those with lower ids: a heap of the k best seen so far, the worst of them on top.
func (s *Sampler) selectTop(k int) {
	worse := func(a, b candidate) bool { return a.logit < b.logit || a.logit == b.logit && a.id > b.id }
	heap := s.cand[:k]
	down := func(i int) {
		for {
			c := 2*i + 1
			if c >= k {
				return
			}
			if c+1 < k && worse(heap[c+1], heap[c]) {
				c++
			}
			if !worse(heap[c], heap[i]) {
				return
			}
			heap[i], heap[c] = heap[c], heap[i]
			i = c
		}
	}
	for i := k/2 - 1; i >= 0; i-- {
		down(i)
	}
	for _, c := range s.cand[k:] {
		if worse(heap[0], c) {
			heap[0] = c
			down(0)
		}
	}
	s.cand = heap
}

func (s *Sampler) draw() int32 {
	total := 0.0
	for i := range s.cand {
		c := &s.cand[i]
		c.weight = math.Pow(c.weight, 1/s.p.Temperature)
		total += c.weight
	}
	u := s.rng.Float64() * total
	for _, c := range s.cand {
		if u -= c.weight; u < 0 {
			return c.id
		}
	}
	return s.cand[len(s.cand)-1].id
}
