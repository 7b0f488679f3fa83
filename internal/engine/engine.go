// Package engine owns running sequences: prompts in chunks, decode steps, sampling, stop strings, and the reuse of what is already cached.
package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/model"
)

// Engine is a model with a cache. One step runs at a time, of one session or, by StepBatch, of many; Close it after its sessions.
type Engine struct {
	model *model.Model
	cache device.Cache
	ctx   int
	watch []*attention.Pipeline // what shows prompts to selectors
	batch batch
	// sequences is how many texts a scheduler has under way at most
	sequences int
	room      device.Room
}

// Config says how much an engine caches and for whom.
type Config struct {
	Context   int // tokens of one sequence; 0: what the model was trained for
	Sequences int // sequences of that length that fit at once; 0: 1
	Spare     int // further blocks, for forks that share most of theirs; negative: fewer, where not all sequences are that long
	// Fit takes fewer blocks where there is no room for all of these: as many as there is, at least for one sequence.
	Fit bool
	// Pipelines are those that sessions may use: the cache keeps the planes that they read.
	Pipelines []*attention.Pipeline
}

// ErrContext is in the error of a prompt, or of a text that grew, beyond the context.
var ErrContext = errors.New("context exceeded")

var errEmpty = errors.New("engine: the prompt is empty")

// tooLong is the error of a prompt of n tokens.
func (e *Engine) tooLong(n int) error {
	return fmt.Errorf("engine: the prompt has %d tokens, but the context is %d: %w", n, e.ctx, ErrContext)
}

// New makes an engine. It takes over neither the model nor its device.
func New(m *model.Model, c Config) (*Engine, error) {
	if c.Context == 0 {
		c.Context = m.Context
	}
	blocks := attention.BlocksOf(c.Context)*max(c.Sequences, 1) + c.Spare
	if c.Context < 1 || c.Sequences < 0 || blocks < 1 {
		return nil, fmt.Errorf("engine: a context of %d tokens for %d sequences, %d blocks: expected at least 1", c.Context, c.Sequences, blocks)
	}
	shape, planes, err := layout(m.Device(), &m.Hyper, c)
	if err != nil {
		return nil, err
	}
	room, err := m.Device().Room(shape, planes)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	if c.Fit {
		if blocks = min(blocks, room.Blocks()); blocks < attention.BlocksOf(c.Context) {
			return nil, fmt.Errorf("engine: a text of %d tokens needs a cache of %d blocks of %d tokens: there is room for %d (%d MiB are free, a step takes %d and a block %.1f)",
				c.Context, attention.BlocksOf(c.Context), attention.BlockTokens, blocks, room.Free>>20, room.Step>>20, float64(room.Block)/(1<<20))
		}
	}
	cache, err := m.Device().Cache(shape, blocks, planes)
	if err != nil {
		return nil, fmt.Errorf("engine: a cache for %d tokens: %w", blocks*attention.BlockTokens, err)
	}
	return &Engine{model: m, cache: cache, ctx: c.Context, watch: attention.Observers(c.Pipelines), sequences: min(shape.Sequences, m.MaxRows(), m.MaxLogits()), room: room}, nil
}

// Model is the engine's model.
func (e *Engine) Model() *model.Model { return e.model }

// Context is the longest sequence in tokens.
func (e *Engine) Context() int { return e.ctx }

// Room is what there was room for, the engine's cache included: how many blocks of attention.BlockTokens tokens, for all pipelines, or 0 if that is unknown.
func (e *Engine) Room() (blocks int) {
	if e.room.Free == 0 {
		return 0
	}
	return e.room.Blocks()
}

// Close frees the cache.
func (e *Engine) Close() error { return e.cache.Close() }

// Session is one sequence: a text that is being read or written. Not safe for concurrent use.
type Session struct {
	eng   *Engine
	seq   *kvcache.Sequence
	pipe  *attention.Pipeline
	part  [1]part // of a step of this session alone
	token [1]int32
	draw  [1]*Sampler
	drawn [1]int32
	turn  uint64 // the last step that it was in, and where
	place int
	// Stats counts what the session's decode steps attended to.
	Stats attention.Stats
}

// NewSession starts an empty sequence that decodes with the pipeline, which must be one of the Config's, or dense.
func (e *Engine) NewSession(p *attention.Pipeline) *Session {
	return &Session{eng: e, seq: e.cache.NewSequence(), pipe: p}
}

// Fork makes a session with the same tokens, sharing the cached ones, and its own pipeline and statistics.
func (s *Session) Fork(p *attention.Pipeline) *Session {
	return &Session{eng: s.eng, seq: s.seq.Fork(), pipe: p}
}

// Copy makes a session of the first n cached tokens that shares none of them; see kvcache.Sequence.Copy.
func (s *Session) Copy(n int, p *attention.Pipeline) (*Session, error) {
	if n < 0 || n > s.seq.Len() {
		return nil, fmt.Errorf("engine: a copy of %d tokens: expected at most the %d that are cached", n, s.seq.Len())
	}
	c, err := s.seq.Copy(n)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	return &Session{eng: s.eng, seq: c, pipe: p}, nil
}

// Close gives the sequence's cache blocks back.
func (s *Session) Close() { s.seq.Release() }

// Len is the number of cached tokens.
func (s *Session) Len() int { return s.seq.Len() }

// Truncate drops the cached tokens from n on.
func (s *Session) Truncate(n int) { s.seq.Truncate(max(n, 0)) }

// Tokens are the cached tokens. Read only; valid until the session next changes.
func (s *Session) Tokens() []int32 { return s.seq.Tokens }

// CacheBytes is what the session's cached tokens occupy: exact keys and values, and planes of codes and metadata.
func (s *Session) CacheBytes() (exact, planes int) {
	exact, planes = s.eng.cache.BlockBytes()
	n := len(s.seq.Table())
	return exact * n, planes * n
}

// Summary is the means of Stats.
func (s *Session) Summary() attention.Summary { return s.Stats.Summary(s.eng.model.HeadDim) }

// Prefill makes tokens the cached text and returns the logits after the last, valid until the session's next step, and how many tokens were cached already: the longest
// common prefix is kept, whatever follows it is dropped. progress, if not nil, is told of tokens done.
// A text that does not fit is ErrContext with both numbers, and the session is as before; a cancelled ctx leaves what was done.
func (s *Session) Prefill(ctx context.Context, tokens []int32, progress func(done, total int)) (logits []float32, cached int, err error) {
	if len(tokens) == 0 {
		return nil, 0, errEmpty
	}
	if len(tokens) > s.eng.ctx {
		return nil, 0, s.eng.tooLong(len(tokens))
	}
	for cached < min(len(tokens)-1, s.seq.Len()) && s.seq.Tokens[cached] == tokens[cached] {
		cached++
	}
	s.seq.Truncate(cached)
	for at := cached; at < len(tokens); {
		if err := ctx.Err(); err != nil {
			return nil, cached, err
		}
		n, want := min(s.eng.model.MaxRows(), len(tokens)-at), 0
		if at+n == len(tokens) {
			want = 1
		}
		if logits, err = s.forward(tokens[at:at+n], device.Prompt, want); err != nil {
			return nil, cached, err
		}
		if at += n; progress != nil {
			progress(at, len(tokens))
		}
	}
	return logits, cached, nil
}

// Step decodes one token and returns the logits after it, valid until the next step. ErrContext if the text is as long as the context.
func (s *Session) Step(token int32) ([]float32, error) {
	s.token[0] = token
	return s.forward(s.token[:], device.Decode, 1)
}

// next decodes one token and draws the one after it.
func (s *Session) next(token int32, sampler *Sampler) (int32, error) {
	s.token[0], s.draw[0] = token, sampler
	s.part[0] = part{s, s.token[:], device.Decode, 1}
	err := s.eng.step(s.part[:], func(step *model.Step) error { return s.eng.draw(step, s.draw[:], s.drawn[:]) })
	return s.drawn[0], err
}

// Score decodes known tokens, each as a step of its own would, and returns the logits after each. At most the model's MaxLogits tokens.
func (s *Session) Score(tokens []int32) ([]float32, error) {
	return s.forward(tokens, device.Decode, len(tokens))
}

// forward is a step of this session alone. After an error the session is as before.
func (s *Session) forward(tokens []int32, mode device.Mode, want int) (logits []float32, err error) {
	s.part[0] = part{s, tokens, mode, want}
	err = s.eng.step(s.part[:], func(step *model.Step) (err error) {
		logits, err = s.eng.model.Forward(step)
		return err
	})
	return logits, err
}
