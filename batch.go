package twilight

import (
	"context"

	"github.com/twilight-go/twilight/internal/engine"
)

// Batch writes many texts at once: what a server needs. Texts come and go while others are written; all that are being written get their next token in one step, which reads the weights
// once, and prompts are read in pieces between such steps. Each text is what a Session of its own would write. Options.Sequences is how many are under way at once, Options.Context the
// longest, and Options.Sequences times Options.Context what they may have cached together: more wait for their turn.
type Batch struct {
	m *Model
	s *engine.Scheduler
}

// BatchOptions say how a Batch shares the model among its texts.
type BatchOptions struct {
	// Chunk is how many tokens of prompts are read at most between two tokens of a text that is being written, and so what a token may have to wait for; 0: an eighth of Options.BatchRows.
	Chunk int
}

// Load is what a Batch has to do now, and has done.
type Load = engine.Load

// ErrClosed is the error of a text that was not written because its Batch was closed.
var ErrClosed = engine.ErrClosed

// NewBatch starts a Batch. Until it is closed the model's sessions must not step, and there must be no other Batch.
func (m *Model) NewBatch(o BatchOptions) *Batch {
	return &Batch{m, engine.NewScheduler(m.eng, m.tok, o.Chunk)}
}

// Generate writes on after the tokens of r.Prompt, by a spec as NewSession takes it. It waits until there is room and returns when the text is written, or with what was written so far when
// ctx is cancelled. Safe for concurrent use: call it on as many goroutines as there are texts. Emit and Token are called on the caller's goroutine, and a slow one delays nobody else; Progress
// is not called. A prompt that could never fit is refused at once, with ErrContext or the numbers of blocks. A beginning that another prompt in the cache shares is not read again.
func (b *Batch) Generate(ctx context.Context, spec string, r Request) (Result, error) {
	p, err := b.m.pipeline(spec)
	if err != nil {
		return Result{}, err
	}
	return b.s.Generate(ctx, p, r)
}

// Chat answers a conversation: Generate with the prompt that EncodeChat makes of it.
func (b *Batch) Chat(ctx context.Context, spec string, messages []Message, r Request) (Result, error) {
	var err error
	if r.Prompt, err = b.m.EncodeChat(messages); err != nil {
		return Result{}, err
	}
	return b.Generate(ctx, spec, r)
}

// Load is how much there is to do now.
func (b *Batch) Load() Load { return b.s.Load() }

// Close ends the texts that are under way, with ErrClosed, and frees what is cached.
func (b *Batch) Close() { b.s.Close() }
