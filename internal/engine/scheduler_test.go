package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// visits are requests of all kinds: short and long, some that begin alike, greedy and drawn.
func visits(rng *rand.Rand, n, longest, most int) (all []Request) {
	for range n {
		p := text(1 + rng.IntN(longest))
		if own := rng.IntN(len(p) + 1); rng.IntN(3) > 0 {
			for i := own; i < len(p); i++ {
				p[i] = int32(3 + rng.IntN(400))
			}
		}
		r := Request{Prompt: p, MaxTokens: 1 + rng.IntN(most), IgnoreEOG: rng.IntN(2) == 0}
		if rng.IntN(3) == 0 {
			r.Sampling = Sampling{Temperature: 1, TopP: 0.9, Repetition: 1.1, Seed: rng.Uint64()}
		}
		all = append(all, r)
	}
	return all
}

// What a text gets does not depend on who else is served, when it came, in how many pieces its prompt was read, or whether it had to begin again.
func TestSchedulerIsAlone(t *testing.T) {
	for _, c := range []struct {
		dev, arch        string
		n, longest, most int
		sequences        int
		spare, chunk     int
	}{
		{"cpu", "llama", 24, 600, 12, 6, 30, 64},
		{"cpu", "llama", 14, 250, 12, 6, 0, 17},
		{"cpu", "gemma3", 10, 200, 12, 5, 8, 33},
		{"reference", "llama", 8, 200, 8, 4, 0, 20},
	} {
		t.Run(fmt.Sprint(c.dev, c.arch, c.spare), func(t *testing.T) {
			if testing.Short() && c.spare > 0 {
				t.Skip("slow; runs without -short")
			}
			rng := rand.New(rand.NewPCG(uint64(c.chunk), 3))
			r := newRig(t, c.dev, c.arch, Config{Context: 640, Sequences: 2, Spare: c.spare})
			r.sequences = c.sequences
			asked, want := visits(rng, c.n, c.longest, c.most), []Result{}
			for i, q := range asked {
				s := r.NewSession([]*attention.Pipeline{densely, sparsely}[i%2])
				want = append(want, r.generate(t, s, q))
				s.Close()
			}
			s := NewScheduler(r.Engine, r.tok, c.chunk)
			defer s.Close()
			var all sync.WaitGroup
			for _, i := range rng.Perm(len(asked)) {
				all.Go(func() {
					var told []int32
					ctx, q, leaves := context.Context(t.Context()), asked[i], i%7 == 3
					if leaves { // goes away in the middle
						var cancel func()
						ctx, cancel = context.WithCancel(ctx)
						defer cancel()
						stop := len(want[i].Tokens) / 2
						q.Token = func(int32) {
							if stop--; stop < 0 {
								cancel()
							}
						}
					} else {
						q.Token = func(id int32) { told = append(told, id) }
					}
					got, err := s.Generate(ctx, []*attention.Pipeline{densely, sparsely}[i%2], q)
					w := want[i]
					if leaves {
						if n := len(got.Tokens); err != nil && !errors.Is(err, context.Canceled) || !slices.Equal(got.Tokens, w.Tokens[:min(n, len(w.Tokens))]) {
							t.Errorf("text %d, cancelled: %v, %v; alone %v", i, err, got.Tokens, w.Tokens)
						}
						return
					}
					if err != nil || !slices.Equal(got.Tokens, w.Tokens) || got.Text != w.Text || got.Reason != w.Reason || !slices.Equal(told, w.Tokens) {
						t.Errorf("text %d of %d tokens: %v, %s after %v; alone %s after %v", i, len(asked[i].Prompt), err, got.Reason, got.Tokens, w.Reason, w.Tokens)
					}
					if got.Attention != w.Attention || got.Steps != w.Steps || got.MeanContext != w.MeanContext {
						t.Errorf("text %d: %d steps %+v; alone %d %+v", i, got.Steps, got.Attention, w.Steps, w.Attention)
					}
				})
				if rng.IntN(4) == 0 {
					time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
				}
			}
			all.Wait()
			l := s.Load()
			t.Logf("%+v", l)
			if l.Waiting+l.Reading+l.Writing != 0 || l.Most < 2 || l.Shared == 0 {
				t.Errorf("the load at the end: %+v", l)
			}
		})
	}
}

// Texts that outgrow the cache together, three of three blocks each in six, are written one after the other in the end, as if each were alone.
func TestSchedulerBeginsAgain(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 640, Sequences: 2}) // six blocks
	r.sequences = 3
	var asked []Request
	var want []Result
	for i := range 3 {
		asked = append(asked, Request{Prompt: text(240 + i)[i:], MaxTokens: 300, IgnoreEOG: true, Sampling: Sampling{Temperature: float64(i % 2), Seed: 7}})
		s := r.NewSession(sparsely)
		want = append(want, r.generate(t, s, asked[i]))
		s.Close()
	}
	s := NewScheduler(r.Engine, r.tok, 32)
	defer s.Close()
	var all sync.WaitGroup
	for i, q := range asked {
		all.Go(func() {
			got, err := s.Generate(t.Context(), sparsely, q)
			if err != nil || !slices.Equal(got.Tokens, want[i].Tokens) || got.Attention != want[i].Attention {
				t.Errorf("text %d: %v, %v, %+v; alone %v, %+v", i, err, got.Tokens, got.Attention, want[i].Tokens, want[i].Attention)
			}
		})
	}
	all.Wait()
	if l := s.Load(); l.Preempted == 0 || l.Most < 3 {
		t.Errorf("nobody had to begin again: %+v", l)
	}
}

// A prompt that is being read by another is waited for, and one that was read is found again.
func TestSchedulerShares(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 700, Sequences: 4, Spare: 4})
	s := NewScheduler(r.Engine, r.tok, 0)
	defer s.Close()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			q := Request{Prompt: append(text(520), int32(5+i)), MaxTokens: 3, IgnoreEOG: true}
			if _, err := s.Generate(t.Context(), densely, q); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if l := s.Load(); l.Prompt != 8*521 || l.Shared < 7*400 {
		t.Errorf("of eight prompts of 521 tokens that are alike but for the last %d were found: %+v", l.Shared, l)
	}
}

func TestCommon(t *testing.T) {
	x := text(700)
	for _, n := range []int{0, 1, 255, 256, 300, 512, 699} {
		y := slices.Clone(x)
		y[n]++
		if got := []int{common(x, y), common(y[:650], x), common(x[:n], x)}; !slices.Equal(got, []int{n, min(n, 650), n}) {
			t.Errorf("alike up to token %d: %v", n, got)
		}
	}
}

// A prompt that had to go for the room of one that begins alike is not looked for any more.
func TestSchedulerEvicts(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 640, Sequences: 1})
	q := Request{Prompt: append(text(400), text(200)...), MaxTokens: 3, IgnoreEOG: true}
	alone := r.NewSession(densely)
	want := r.generate(t, alone, q)
	alone.Close()
	s := NewScheduler(r.Engine, r.tok, 0)
	defer s.Close()
	if _, err := s.Generate(t.Context(), densely, Request{Prompt: text(500), MaxTokens: 3, IgnoreEOG: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Generate(t.Context(), densely, q); err != nil || !slices.Equal(got.Tokens, want.Tokens) || got.Cached != 0 {
		t.Errorf("%v, %v with %d tokens cached; alone %v", err, got.Tokens, got.Cached, want.Tokens)
	}
}

func TestSchedulerRefuses(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 512, Sequences: 1})
	s := NewScheduler(r.Engine, r.tok, 0)
	ask := func(q Request) (Result, error) { return s.Generate(t.Context(), sparsely, q) }
	for name, c := range map[string]struct {
		q    Request
		says string
		is   error
	}{
		"empty":      {Request{}, "the prompt is empty", nil},
		"too long":   {Request{Prompt: text(513)}, "513 tokens, but the context is 512", ErrContext},
		"no token":   {Request{Prompt: []int32{5, -1}}, "token 1 of the prompt is -1", nil},
		"no sampler": {Request{Prompt: text(3), Sampling: Sampling{TopP: 2}}, "top-p 2", nil},
	} {
		if _, err := ask(c.q); err == nil || !strings.Contains(err.Error(), c.says) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v, expected %q", name, err, c.says)
		}
	}
	if res, err := ask(Request{Prompt: text(500), IgnoreEOG: true}); err != nil || res.Reason != ReasonContext || len(res.Tokens) != 13 {
		t.Errorf("a text that fills the context: %v, %d tokens, %s", err, len(res.Tokens), res.Reason)
	}
	if res, err := ask(Request{Prompt: text(40), IgnoreEOG: true, MaxTokens: 9, Emit: func(string) error { return errors.New("gone") }}); err == nil || err.Error() != "gone" || len(res.Tokens) == 0 {
		t.Errorf("a reader that fails: %v after %v", err, res.Tokens)
	}
	held, other := r.session(t, densely), r.session(t, densely) // as a user of the engine might, beside the scheduler
	if err := held.seq.Reserve(256); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(Request{Prompt: text(250), IgnoreEOG: true}); !errors.Is(err, kvcache.ErrFull) || !strings.Contains(err.Error(), "needs 2 blocks of 256 tokens, the cache has 2, of which 0 are free") {
		t.Errorf("no block is left for a text that is alone: %v", err)
	}
	if err := other.seq.Reserve(256); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(Request{Prompt: text(10)}); !errors.Is(err, kvcache.ErrFull) {
		t.Errorf("no block is left: %v", err)
	}
	held.Close()
	if _, err := ask(Request{Prompt: text(10), MaxTokens: 3}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Generate(ctx, sparsely, Request{Prompt: text(10)}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled beforehand: %v", err)
	}
	s.Close()
	if _, err := ask(Request{Prompt: text(10)}); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// A step that fails ends the texts that were in it, with what failed; the others are written.
func TestSchedulerGoesOn(t *testing.T) {
	r := newRig(t, "faulty", "llama", Config{Context: 640, Sequences: 2})
	f := r.model.Device().(*faulty)
	s := NewScheduler(r.Engine, r.tok, 0)
	defer s.Close()
	q := Request{Prompt: text(100), MaxTokens: 80, IgnoreEOG: true}
	want, err := s.Generate(t.Context(), densely, q)
	if err != nil {
		t.Fatal(err)
	}
	broken := q
	broken.Token = func(int32) { f.fail.CompareAndSwap(0, 1) }
	if got, err := s.Generate(t.Context(), densely, broken); err == nil || !strings.Contains(err.Error(), "rows_norm: the device is tired") || !slices.Equal(got.Tokens, want.Tokens[:len(got.Tokens)]) {
		t.Errorf("a step that failed: %v after %d tokens", err, len(got.Tokens))
	}
	f.fail.Store(0)
	if got, err := s.Generate(t.Context(), densely, q); err != nil || !slices.Equal(got.Tokens, want.Tokens) {
		t.Errorf("after a step that failed: %v, %v, expected %v", err, got.Tokens, want.Tokens)
	}
}

func TestPlan(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 600, Fit: true})
	exact, planes := r.cache.BlockBytes()
	c := Config{Context: 600, Sequences: 5, Pipelines: []*attention.Pipeline{densely, sparsely}}
	n, bytes, host, err := Plan(r.model.Device(), &r.model.Hyper, 0, c)
	if err != nil || n < 1 || bytes != int64(3*(exact+planes)) || host != 0 {
		t.Errorf("%d texts of %d and %d bytes, %v: expected some of %d", n, bytes, host, err, 3*(exact+planes))
	}
	c.Pipelines = c.Pipelines[:1]
	if m, less, _, err := Plan(r.model.Device(), &r.model.Hyper, 0, c); err != nil || less != int64(3*exact) || m < n/2 {
		t.Errorf("densely %d texts of %d bytes, %v: expected %d", m, less, err, 3*exact)
	}
	if n, _, _, err := Plan(r.model.Device(), &r.model.Hyper, 1<<60, c); err != nil || r.room.Free > 0 && n != 0 {
		t.Errorf("beside weights larger than any memory: %d, %v", n, err)
	}
	if blocks := r.Room(); blocks < 3 && r.room.Free > 0 {
		t.Errorf("room for %d blocks", blocks)
	}
}

// Closing ends what is under way.
func TestSchedulerCloses(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 640, Sequences: 2})
	s := NewScheduler(r.Engine, r.tok, 0)
	began, errs := make(chan bool, 100), make(chan error, 5)
	for range 5 {
		go func() {
			_, err := s.Generate(t.Context(), densely, Request{Prompt: text(30), IgnoreEOG: true, Token: func(int32) {
				select {
				case began <- true:
				default:
				}
			}})
			errs <- err
		}()
	}
	<-began
	s.Close()
	for range 5 {
		if err := <-errs; err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
}

// A step of the scheduler allocates nothing.
func TestSchedulerAllocations(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 640, Sequences: 3})
	s := NewScheduler(r.Engine, r.tok, 64)
	s.Close() // its loop; the turns are made here
	s.closed, s.ended = false, make(chan struct{})
	for i := range 3 {
		q := Request{Prompt: text(270 + 20*i), IgnoreEOG: true, Sampling: Sampling{Temperature: float64(i)}}
		p, err := s.ask(&q, sparsely)
		if err != nil {
			t.Fatal(err)
		}
		p.ctx = t.Context()
		s.enqueue(p)
	}
	for range 60 {
		s.turn()
	}
	if n := testing.AllocsPerRun(100, func() { s.turn() }); n != 0 || len(s.writing) != 3 {
		t.Errorf("%v allocations a turn of %d texts", n, len(s.writing))
	}
	s.closed = true
	s.loop()
}
