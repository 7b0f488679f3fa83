package engine

import (
	"fmt"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/model"
)

// batch is the scratch of steps of many sessions, so that they allocate nothing.
type batch struct {
	rows []int32
	segs []device.Segment
	step model.Step
	tops []device.Top
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

func (e *Engine) stepBatch(sessions []*Session, tokens []int32, run func(*model.Step) error) (err error) {
	if n := len(sessions); n < 1 || n > e.MaxBatch() || n != len(tokens) {
		return fmt.Errorf("engine: a batch of %d sessions and %d tokens: expected as many, and 1 to %d", n, len(tokens), e.MaxBatch())
	}
	b := &e.batch
	b.rows, b.segs = b.rows[:0], b.segs[:0]
	defer func() {
		if err != nil {
			for i := range b.segs {
				b.segs[i].Seq.Abandon()
			}
		}
	}()
	for i, s := range sessions {
		if err := e.admit(sessions[:i], s, tokens[i]); err != nil {
			return fmt.Errorf("engine: session %d of a batch of %d: %w", i, len(sessions), err)
		}
		b.rows = append(b.rows, int32(i))
		b.segs = append(b.segs, device.Segment{Seq: s.seq, Row: i, N: 1, Pos: s.seq.Len(), Mode: device.Decode, Pipeline: s.pipe, Stats: &s.Stats})
	}
	b.step = model.Step{Tokens: tokens, Segments: b.segs, Logits: b.rows, Cache: e.cache}
	if err = run(&b.step); err != nil {
		return fmt.Errorf("engine: a batch of %d sessions: %w", len(sessions), err)
	}
	for i, s := range sessions {
		s.seq.Advance(1)
		s.seq.Tokens = append(s.seq.Tokens, tokens[i])
	}
	return nil
}

// admit makes room for a token of s, behind the sessions before it in a batch.
func (e *Engine) admit(before []*Session, s *Session, token int32) error {
	switch {
	case s.eng != e:
		return fmt.Errorf("it belongs to another engine")
	case token < 0 || int(token) >= e.model.Vocab:
		return fmt.Errorf("token %d: expected 0 to %d", token, e.model.Vocab-1)
	case s.seq.Len() >= e.ctx:
		return fmt.Errorf("the text has %d tokens and one more, but the context is %d: %w", s.seq.Len(), e.ctx, ErrContext)
	}
	for i, other := range before {
		if other == s {
			return fmt.Errorf("it is session %d too", i)
		}
	}
	return s.seq.Reserve(1)
}
