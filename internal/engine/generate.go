package engine

import (
	"context"
	"errors"
	"time"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/tokenizer"
)

// Request is one generation.
type Request struct {
	Prompt    []int32
	MaxTokens int // 0: until the model ends or the context is full
	Sampling  Sampling
	Stop      []string // the text ends before the first of these
	IgnoreEOG bool     // go on after an end-of-generation token (benchmarks)
	// Progress is told of prompt tokens done; Emit of each piece of text, never part of a UTF-8 character, never the beginning of a stop string. An
	// error from Emit ends the generation; Token of each token, before its text. All may be nil.
	Progress func(done, total int)
	Emit     func(text string) error
	Token    func(id int32)
}

// Reason says why a generation ended.
type Reason string

// The reasons.
const (
	ReasonEnd     Reason = "stop"      // an end-of-generation token
	ReasonStop    Reason = "stop-text" // a stop string
	ReasonLength  Reason = "length"    // MaxTokens
	ReasonContext Reason = "context"   // the context is full
)

// Result is what a generation did.
type Result struct {
	Text            string
	Tokens          []int32 // generated, without the one that ended the text
	Reason          Reason
	Prompt, Cached  int           // prompt tokens, and how many of them were cached already
	Waited          time.Duration // of a scheduler's text, before its prompt was begun
	PromptTime      time.Duration
	DecodeTime      time.Duration // of the steps after the prompt's
	Steps           int           // decode steps in DecodeTime
	Attention       attention.Summary
	Exact, Planes   int // bytes of cache: keys and values, and codes and metadata
	MeanContext     float64
	ContextCapacity int
}

// Generate reads the prompt and writes on. A cancelled ctx ends it with what was written so far and ctx's error.
func (s *Session) Generate(ctx context.Context, tok *tokenizer.Tokenizer, r Request) (Result, error) {
	res := Result{ContextCapacity: s.eng.ctx}
	if err := r.Sampling.Check(); err != nil {
		return res, err
	}
	s.Stats = attention.Stats{Measure: s.Stats.Measure}
	start := time.Now()
	logits, cached, err := s.Prefill(ctx, r.Prompt, r.Progress)
	res.Prompt, res.Cached, res.PromptTime = len(r.Prompt), cached, time.Since(start)
	if err != nil {
		return res, err
	}
	sampler := r.sampler()
	out := newWriter(tok, r.Stop, r.Emit)
	start = time.Now()
	err = s.decode(ctx, tok, &r, &res, logits, sampler, out)
	res.DecodeTime = time.Since(start)
	if e := out.flush(); err == nil {
		err = e
	}
	res.Text = out.text.String()
	if out.stopped {
		res.Reason = ReasonStop
	}
	res.Attention = s.Summary()
	res.Exact, res.Planes = s.CacheBytes()
	if res.Steps > 0 {
		res.MeanContext /= float64(res.Steps)
	}
	return res, err
}

// sampler makes the request's sampler, which knows the prompt.
func (r *Request) sampler() *Sampler {
	s := NewSampler(r.Sampling)
	for _, id := range r.Prompt[max(0, len(r.Prompt)-s.p.PenaltyWindow):] {
		s.Accept(id)
	}
	return s
}

func (s *Session) decode(ctx context.Context, tok *tokenizer.Tokenizer, r *Request, res *Result, logits []float32, sampler *Sampler, out *writer) error {
	id := sampler.Sample(logits)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if tok.IsEOG(id) && !r.IgnoreEOG {
			res.Reason = ReasonEnd
			return nil
		}
		sampler.Accept(id)
		res.Tokens = append(res.Tokens, id)
		if r.Token != nil {
			r.Token(id)
		}
		if err := out.token(id); err != nil || out.stopped {
			return err
		}
		if r.MaxTokens > 0 && len(res.Tokens) >= r.MaxTokens {
			res.Reason = ReasonLength
			return nil
		}
		var err error
		if id, err = s.next(id, sampler); errors.Is(err, ErrContext) {
			res.Reason = ReasonContext
			return nil
		} else if err != nil {
			return err
		}
		res.Steps++
		res.MeanContext += float64(s.Len())
	}
}
