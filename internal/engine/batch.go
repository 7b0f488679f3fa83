package engine

import (
	"fmt"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/model"
)

// batch is the scratch of steps, so that they allocate nothing.
type batch struct {
	parts  []part
	tokens []int32
	rows   []int32
	segs   []device.Segment
	step   model.Step
	tops   []device.Top
	turn   uint64 // counts steps
}

// part is what one session has in a step: tokens, and of how many of them, the last ones, the logits are wanted.
type part struct {
	s      *Session
	tokens []int32
	mode   device.Mode
	want   int
}

// MaxBatch is how many sessions may step together.
func (e *Engine) MaxBatch() int { return min(e.model.MaxRows(), e.model.MaxLogits()) }

// StepBatch decodes tokens[i] in sessions[i], each with its own pipeline and statistics, and returns the logits after each, [len(sessions)][Vocab], valid until the
// engine's next step. Weights are read once for all of them, and each session gets what a step of its own would give it, to the bit. An error names the session
// by its place; then none of them has changed.
func (e *Engine) StepBatch(sessions []*Session, tokens []int32) (logits []float32, err error) {
	err = e.stepBatch(sessions, tokens, func(s *model.Step) (err error) {
		logits, err = e.model.Forward(s)
		return err
	})
	return logits, err
}

// NextBatch is StepBatch that sets next[i] to the most likely token after tokens[i] instead of returning logits, which a GPU then need not hand over.
func (e *Engine) NextBatch(sessions []*Session, tokens, next []int32) error {
	if len(next) < len(tokens) {
		return fmt.Errorf("engine: a batch of %d tokens and room for %d: expected as much", len(tokens), len(next))
	}
	return e.stepBatch(sessions, tokens, func(s *model.Step) error { return e.model.Next(s, next) })
}

// SampleBatch is NextBatch that sets next[i] to what samplers[i] draws after tokens[i], which is what it would draw from the logits of StepBatch. A GPU hands over the logits of
// those sessions only whose sampler cannot do with the most likely tokens; see Sampler.SampleTop.
func (e *Engine) SampleBatch(sessions []*Session, tokens []int32, samplers []*Sampler, next []int32) error {
	if len(samplers) != len(tokens) || len(next) < len(tokens) {
		return fmt.Errorf("engine: a batch of %d tokens, %d samplers and room for %d: expected as many", len(tokens), len(samplers), len(next))
	}
	return e.stepBatch(sessions, tokens, func(s *model.Step) error { return e.draw(s, samplers, next) })
}

// draw runs a step and has samplers[i] draw the token after row Logits[i].
func (e *Engine) draw(s *model.Step, samplers []*Sampler, next []int32) error {
	greedy := true
	for _, d := range samplers {
		greedy = greedy && d.greedy()
	}
	switch {
	case greedy:
		return e.model.Next(s, next)
	case !e.model.Lists():
		logits, err := e.model.Forward(s)
		for i := 0; i < len(samplers) && err == nil; i++ {
			next[i] = samplers[i].Sample(logits[i*e.model.Vocab:][:e.model.Vocab])
		}
		return err
	}
	b := &e.batch
	if len(b.tops) < len(samplers) {
		b.tops = make([]device.Top, len(samplers))
	}
	if err := e.model.Top(s, b.tops); err != nil {
		return err
	}
	for i, d := range samplers {
		var ok bool
		if next[i], ok = d.SampleTop(&b.tops[i], e.model.Vocab); !ok {
			next[i] = d.Sample(e.model.Row(i))
		}
	}
	return nil
}

func (e *Engine) stepBatch(sessions []*Session, tokens []int32, run func(*model.Step) error) error {
	if n := len(sessions); n < 1 || n > e.MaxBatch() || n != len(tokens) {
		return fmt.Errorf("engine: a batch of %d sessions and %d tokens: expected as many, and 1 to %d", n, len(tokens), e.MaxBatch())
	}
	parts := e.batch.parts[:0]
	for i, s := range sessions {
		parts = append(parts, part{s, tokens[i : i+1], device.Decode, 1})
	}
	e.batch.parts = parts
	return e.step(parts, run)
}

// step makes room for the parts, of as many sessions, and has run do the step of them. After an error, which names the session where there are several, all of them are as before.
func (e *Engine) step(parts []part, run func(*model.Step) error) (err error) {
	b := &e.batch
	b.tokens, b.rows, b.segs = b.tokens[:0], b.rows[:0], b.segs[:0]
	b.turn++
	defer func() {
		if err != nil {
			for i := range b.segs {
				b.segs[i].Seq.Abandon()
			}
		}
	}()
	for i, p := range parts {
		if err := e.admit(i, p); err != nil {
			if len(parts) > 1 {
				err = fmt.Errorf("session %d of a batch of %d: %w", i, len(parts), err)
			}
			return fmt.Errorf("engine: %w", err)
		}
		row, n := len(b.tokens), len(p.tokens)
		b.tokens = append(b.tokens, p.tokens...)
		for j := n - p.want; j < n; j++ {
			b.rows = append(b.rows, int32(row+j))
		}
		b.segs = append(b.segs, device.Segment{Seq: p.s.seq, Row: row, N: n, Pos: p.s.seq.Len(), Mode: p.mode, Pipeline: p.s.pipe, Stats: &p.s.Stats, Observers: e.watch})
	}
	b.step = model.Step{Tokens: b.tokens, Segments: b.segs, Logits: b.rows, Cache: e.cache}
	if err = run(&b.step); err != nil {
		if len(parts) > 1 {
			err = fmt.Errorf("a batch of %d sessions: %w", len(parts), err)
		}
		return fmt.Errorf("engine: %w", err)
	}
	for _, p := range parts {
		p.s.seq.Advance(len(p.tokens))
		p.s.seq.Tokens = append(p.s.seq.Tokens, p.tokens...)
	}
	return nil
}

// admit makes room for a part of the step, the i-th.
func (e *Engine) admit(i int, p part) error {
	s, n := p.s, len(p.tokens)
	if s.eng != e {
		return fmt.Errorf("it belongs to another engine")
	}
	for _, token := range p.tokens {
		if token < 0 || int(token) >= e.model.Vocab {
			return fmt.Errorf("token %d: expected 0 to %d", token, e.model.Vocab-1)
		}
	}
	switch {
	case s.seq.Len()+n > e.ctx:
		return fmt.Errorf("the text has %d tokens and %d more, but the context is %d: %w", s.seq.Len(), n, e.ctx, ErrContext)
	case s.turn == e.batch.turn:
		return fmt.Errorf("it is session %d too", s.place)
	}
	s.turn, s.place = e.batch.turn, i
	return s.seq.Reserve(n)
}
