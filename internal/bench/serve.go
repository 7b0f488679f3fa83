package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twilight-go/twilight"
)

// Serve measures a stream of requests of unequal lengths that come while others are being answered, for several attention specs one after the other. The requests are the same for each:
// pieces of a text.
type Serve struct {
	Model    string   // named in the rows
	Text     string   // what prompts are cut from; repeated if it is too short
	Specs    []string // of attention
	Requests int
	Prompt   Span    // tokens of a prompt
	Answer   Span    // tokens of an answer
	Shared   int     // tokens at the start of every prompt that are the same; in Prompt
	Rate     float64 // requests a second, at random; 0: all at once
	// Sequences are under way at most, Chunk tokens of prompts read between two tokens of an answer; 0: twilight.BatchOptions.
	Sequences, Chunk int
	Threads          int // named in the rows
	Seed             uint64
	// Progress is told of requests answered, Row of each spec's result. Either may be nil.
	Progress func(stage string, done, total int64)
	Row      func(ServeRow)
}

// Span is lengths that are drawn evenly by their logarithm.
type Span struct{ Least, Most int }

func (s Span) draw(rng *rand.Rand) int {
	return int(math.Round(float64(s.Least) * math.Pow(float64(s.Most)/float64(s.Least), rng.Float64())))
}

// ServeRow is what serving under one spec was like. Times to the first token count from a request's arrival, times between tokens are what a reader waits for the next.
type ServeRow struct {
	Op           string  `json:"op"` // "serve"
	Model        string  `json:"model"`
	Device       string  `json:"device"`
	Threads      int     `json:"threads"`
	Spec         string  `json:"spec"`
	Requests     int     `json:"requests"`
	Sequences    int     `json:"sequences"` // at most at once
	Most         int     `json:"most"`      // of them that wrote in one step
	Rate         float64 `json:"requests_per_s"`
	PromptTokens int     `json:"prompt_tokens"`
	SharedTokens int     `json:"shared_tokens"` // of them, found in the cache
	AnswerTokens int     `json:"answer_tokens"`
	Seconds      float64 `json:"seconds"`
	TokensSec    float64 `json:"tokens_per_s"`        // answered
	PromptSec    float64 `json:"prompt_tokens_per_s"` // read
	MicrosToken  float64 `json:"us_per_token"`        // median time between tokens
	MicrosP99    float64 `json:"us_per_token_p99"`
	First        float64 `json:"first_token_s"` // median
	FirstP99     float64 `json:"first_token_s_p99"`
	WriteStep    float64 `json:"write_step_us"` // mean of the steps that write, while no prompt is read
	BusyStep     float64 `json:"busy_step_us"`  // and of those that read a piece of one, with the write that follows
	Batch        float64 `json:"batch"`         // texts in one of these, mean
	Preempted    int     `json:"preempted"`
	DenseFactor  float64 `json:"tokens_per_s_vs_dense"` // 0 if dense was not measured before
}

// Options are o with what the measurement needs of the model.
func (s *Serve) Options(o twilight.Options) twilight.Options {
	o.Attention, o.Also = s.Specs[0], s.Specs[1:]
	o.Context, o.Sequences, o.Fit = max(o.Context, s.Prompt.Most+s.Answer.Most), s.Sequences, true
	return o
}

// request is one of them: what it asks, when it comes, and when its tokens came.
type request struct {
	prompt []int32
	answer int
	at     time.Duration
	times  []time.Time
	start  time.Time
}

// Run measures, with a model opened by Options.
func (s *Serve) Run(ctx context.Context, m *twilight.Model) error {
	if s.Requests < 1 || s.Sequences < 1 || !(s.Rate >= 0) || s.Prompt.Least < 1 || s.Prompt.Most < s.Prompt.Least || s.Answer.Least < 1 || s.Answer.Most < s.Answer.Least || s.Shared < 0 || s.Shared >= s.Prompt.Least {
		return fmt.Errorf("bench: %d requests of prompts %v that share %d tokens and answers %v, %g a second, %d at once: expected at least 1 request, rising lengths from 1 on, and less shared than the shortest prompt",
			s.Requests, s.Prompt, s.Shared, s.Answer, s.Rate, s.Sequences)
	}
	text := m.Encode(s.Text)
	if len(text) == 0 {
		return fmt.Errorf("bench: the text is empty")
	}
	dense := 0.0
	for _, spec := range s.Specs {
		r, err := s.one(ctx, m, spec, s.requests(text))
		if err != nil {
			return err
		}
		if spec == "dense" {
			dense = r.TokensSec
		}
		if dense > 0 {
			r.DenseFactor = r.TokensSec / dense
		}
		if s.Row != nil {
			s.Row(r)
		}
	}
	return nil
}

// requests draws them.
func (s *Serve) requests(text []int32) []*request {
	for long := s.Prompt.Most + s.Shared; len(text) < long; {
		text = append(text, text...)
	}
	rng, at := rand.New(rand.NewPCG(s.Seed, 0x7365727665)), 0.0
	out := make([]*request, s.Requests)
	for i := range out {
		n := s.Prompt.draw(rng)
		from := rng.IntN(len(text) - n + 1)
		r := &request{prompt: append(slices.Clone(text[:s.Shared]), text[from:from+n-s.Shared]...), answer: s.Answer.draw(rng)}
		if s.Rate > 0 {
			at += rng.ExpFloat64() / s.Rate
			r.at = time.Duration(at * float64(time.Second))
		}
		r.times = make([]time.Time, 0, r.answer)
		out[i] = r
	}
	return out
}

func (s *Serve) one(ctx context.Context, m *twilight.Model, spec string, all []*request) (ServeRow, error) {
	b := m.NewBatch(twilight.BatchOptions{Chunk: s.Chunk})
	defer b.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		done int64
	)
	start := time.Now()
	for _, r := range all {
		wait.Go(func() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(r.at):
			}
			r.start = time.Now()
			_, err := b.Generate(ctx, spec, twilight.Request{Prompt: r.prompt, MaxTokens: r.answer, IgnoreEOG: true, Token: func(int32) { r.times = append(r.times, time.Now()) }})
			if err != nil {
				cancel(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if done++; s.Progress != nil {
				s.Progress("answering by "+spec, done, int64(len(all)))
			}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return ServeRow{}, context.Cause(ctx)
	}
	seconds, l := time.Since(start).Seconds(), b.Load()
	out := ServeRow{Op: "serve", Model: s.Model, Device: m.Device(), Threads: s.Threads, Spec: spec, Requests: len(all), Sequences: s.Sequences, Most: l.Most, Rate: s.Rate, PromptTokens: l.Prompt,
		SharedTokens: l.Shared, AnswerTokens: l.Written, Seconds: seconds, TokensSec: float64(l.Written) / seconds, PromptSec: float64(l.Prompt-l.Shared) / seconds, Preempted: l.Preempted}
	out.WriteStep, out.BusyStep = micros(l.PlainTime.Seconds())/float64(max(l.Plain, 1)), micros(l.BusyTime.Seconds())/float64(max(l.Reads, 1))
	out.Batch = float64(l.Written-len(all)) / float64(max(l.Writes, 1)) // the first of each is a reading step's
	var first, gaps Timing
	for _, r := range all {
		first.Times = append(first.Times, r.times[0].Sub(r.start).Seconds())
		for i, t := range r.times[1:] {
			gaps.Times = append(gaps.Times, t.Sub(r.times[i]).Seconds())
		}
	}
	slices.Sort(first.Times)
	slices.Sort(gaps.Times)
	out.First, out.FirstP99 = first.Median(), first.P99()
	if len(gaps.Times) > 0 {
		out.MicrosToken, out.MicrosP99 = micros(gaps.Median()), micros(gaps.P99())
	}
	return out, nil
}
