package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// job is one request on its way through a scheduler.
type job struct {
	ctx     context.Context
	r       *Request
	pipe    *attention.Pipeline
	order   uint64   // of arrival
	s       *Session // while it reads, writes or is idle
	tokens  []int32  // the prompt and what was written
	prompt  int
	sampler *Sampler
	out     chan int32 // what was written: it holds all of it, so that nobody waits for a reader. Closed when res and err are settled
	res     Result
	err     error
	gone    bool // from the scheduler's lists
	arrived time.Time
	first   time.Time // when the first token was drawn
}

// ErrClosed is the error of a request to a scheduler that was closed.
var ErrClosed = errors.New("engine: the scheduler is closed")

// Generate is Session.Generate beside all others that the scheduler was asked for, by a pipeline that the engine was made for: it waits for its turn, and returns when the text is written or
// ctx cancelled. Emit is called on the caller's goroutine and may take its time; Progress is not called. A prompt that cannot fit is refused with both numbers, ErrContext or kvcache.ErrFull.
func (s *Scheduler) Generate(ctx context.Context, p *attention.Pipeline, r Request) (Result, error) {
	t, err := s.ask(&r, p)
	if err != nil {
		return Result{ContextCapacity: s.eng.ctx}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.ctx = ctx
	if !s.enqueue(t) {
		return t.res, ErrClosed
	}
	s.nudge()
	w := newWriter(s.tok, r.Stop, r.Emit)
	var tokens []int32
	for id := range t.out {
		tokens = append(tokens, id)
		if r.Token != nil {
			r.Token(id)
		}
		if err = w.token(id); err != nil || w.stopped {
			cancel()
			break
		}
	}
	for range t.out { // what was written before the scheduler heard of it
	}
	if e := w.flush(); err == nil {
		err = e
	}
	res := t.res
	res.Text, res.Tokens = w.text.String(), tokens
	switch {
	case w.stopped:
		res.Reason = ReasonStop
	case err == nil:
		err = t.err
	}
	return res, err
}

// ask checks a request.
func (s *Scheduler) ask(r *Request, p *attention.Pipeline) (*job, error) {
	n := len(r.Prompt)
	if err := r.Sampling.Check(); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errEmpty
	}
	if n > s.eng.ctx {
		return nil, s.eng.tooLong(n)
	}
	if i := slices.IndexFunc(r.Prompt, func(id int32) bool { return id < 0 || int(id) >= s.eng.model.Vocab }); i >= 0 {
		return nil, fmt.Errorf("engine: token %d of the prompt is %d: expected 0 to %d", i, r.Prompt[i], s.eng.model.Vocab-1)
	}
	if _, all := s.eng.cache.Free(); attention.BlocksOf(n) > all {
		return nil, fmt.Errorf("engine: a prompt of %d tokens needs %d blocks of %d tokens, the cache has %d: %w", n, attention.BlocksOf(n), attention.BlockTokens, all, kvcache.ErrFull)
	}
	most := s.eng.ctx - n + 1
	if r.MaxTokens > 0 {
		most = min(most, r.MaxTokens)
	}
	t := &job{r: r, pipe: p, tokens: append(make([]int32, 0, n+most), r.Prompt...), prompt: n, sampler: r.sampler(), out: make(chan int32, most), arrived: time.Now()}
	t.res = Result{ContextCapacity: s.eng.ctx, Prompt: n}
	return t, nil
}

// enqueue puts a text among those who wait, by its age. False if the scheduler was closed.
func (s *Scheduler) enqueue(t *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.order == 0 {
		if s.closed {
			return false
		}
		s.count++
		t.order = s.count
	}
	i := len(s.queue)
	for i > 0 && s.queue[i-1].order > t.order {
		i--
	}
	s.queue = slices.Insert(s.queue, i, t)
	return true
}

// head is who has waited longest, nil if nobody waits; pop drops it.
func (s *Scheduler) head() *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil
	}
	return s.queue[0]
}

func (s *Scheduler) pop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = slices.Delete(s.queue, 0, 1)
}

// write adds a token to a text.
func (s *Scheduler) write(t *job, id int32) {
	s.did.Written++
	if s.wrote {
		t.res.Steps++
		t.res.MeanContext += float64(t.s.Len())
	} else {
		t.first = time.Now()
		t.res.PromptTime = t.first.Sub(t.arrived) - t.res.Waited
	}
	if s.tok.IsEOG(id) && !t.r.IgnoreEOG {
		s.finish(t, ReasonEnd, nil)
		return
	}
	t.sampler.Accept(id)
	t.tokens = append(t.tokens, id)
	t.out <- id
	switch {
	case len(t.tokens)-t.prompt == t.r.MaxTokens:
		s.finish(t, ReasonLength, nil)
	case t.s.Len() >= s.eng.ctx:
		s.finish(t, ReasonContext, nil)
	}
}

// finish settles a text; report tells who waits for it. The cached prompt of one that went well stays for others.
func (s *Scheduler) finish(t *job, why Reason, err error) {
	t.gone, t.err, t.res.Reason = true, err, why
	if t.res.Steps > 0 {
		t.res.MeanContext /= float64(t.res.Steps)
		t.res.DecodeTime = time.Since(t.first)
	}
	if t.s != nil {
		t.res.Attention = t.s.Summary()
		t.res.Exact, t.res.Planes = t.s.CacheBytes()
		if t.s.Truncate(attention.BlocksOf(t.prompt) * attention.BlockTokens); err != nil || t.pipe.Remembers() {
			t.s.Close()
		} else if s.idle = append(s.idle, t); len(s.idle) > s.eng.sequences {
			s.evict()
		}
	}
	s.settled = append(s.settled, t)
}
