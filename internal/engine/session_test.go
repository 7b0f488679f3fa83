package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/tokenizer"
)

// What is cached of a prompt is not computed again, and changes nothing: the logits after it are the bits of a fresh session, whatever the cache held.
func TestPrefillReuse(t *testing.T) {
	for _, dev := range []string{"reference", "cpu"} {
		for _, arch := range []string{"llama", "gemma3"} {
			if testing.Short() && (dev == "reference" || arch != "llama") {
				continue
			}
			r := newRig(t, dev, arch, Config{Context: 600, Sequences: 2})
			ids := text(300)
			fresh := r.session(t, densely)
			s := r.session(t, densely)
			for _, c := range []struct {
				name   string
				prompt []int32
				cached int
			}{
				{"nothing cached", ids[:100], 0},
				{"the same", ids[:100], 99},
				{"longer", ids, 100},
				{"shorter", ids[:270], 269},
				{"another end", append(slices.Clone(ids[:257]), 5, 6, 7), 257},
				{"another beginning", append([]int32{9}, ids[:50]...), 0},
				{"a beginning", ids[:1], 0},
			} {
				got, cached, err := s.Prefill(context.Background(), c.prompt, nil)
				if err != nil {
					t.Fatal(err)
				}
				got = slices.Clone(got)
				if cached != c.cached || !slices.Equal(s.Tokens(), c.prompt) || s.Len() != len(c.prompt) {
					t.Errorf("%s: %d tokens were cached, want %d; the session has %d of %d", c.name, cached, c.cached, s.Len(), len(c.prompt))
				}
				fresh.seq.Release()
				want, _, err := fresh.Prefill(context.Background(), c.prompt, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !same(got, want) {
					t.Errorf("%s, %s, %s: logits differ from a fresh session's", dev, arch, c.name)
				}
			}
		}
	}
}

// Score is as many steps.
func TestScore(t *testing.T) {
	r := newRig(t, "cpu", "qwen2", Config{Context: 300, Sequences: 2})
	ids := text(116)
	a, b := r.session(t, sparsely), r.session(t, sparsely)
	for _, s := range []*Session{a, b} {
		if _, _, err := s.Prefill(context.Background(), ids[:100], nil); err != nil {
			t.Fatal(err)
		}
	}
	var want []float32
	for _, id := range ids[100:] {
		l, err := a.Step(id)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, l...)
	}
	got, err := b.Score(ids[100:])
	if err != nil {
		t.Fatal(err)
	}
	if !same(got, want) {
		t.Error("scoring many tokens differs from single steps")
	}
	if a, b := fmt.Sprintf("%+v", a.Stats), fmt.Sprintf("%+v", b.Stats); a != b {
		t.Errorf("statistics differ:\n%s\n%s", a, b)
	}
	if s := a.Summary(); s.Steps != 3*6*16 || !(s.Kept > 0 && s.Kept < s.Candidate && s.Candidate < s.Context) {
		t.Errorf("summary %+v", s)
	}
	if _, err := b.Score(make([]int32, 17)); err == nil || b.Len() != 116 {
		t.Errorf("scoring more tokens than fit a step: %v, and the session has %d tokens", err, b.Len())
	}
	l, err := b.Step(5) // the failed step left nothing behind
	if err != nil {
		t.Fatal(err)
	}
	l = slices.Clone(l)
	if w, err := a.Step(5); err != nil || !same(l, w) {
		t.Errorf("after a failed step the logits differ: %v", err)
	}
}

// Greedy generation is a function of the prompt: again, on what is cached, in a fork, with a sampler that has but one choice.
func TestGreedyDeterminism(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 500, Sequences: 2, Spare: 2})
	q := Request{Prompt: text(60), MaxTokens: 40, IgnoreEOG: true}
	s := r.session(t, sparsely)
	want := r.generate(t, s, q)
	if len(want.Tokens) != 40 || want.Reason != ReasonLength || want.Prompt != 60 || want.Cached != 0 || want.Steps != 39 || want.MeanContext != 80 {
		t.Fatalf("%+v", want)
	}
	if got := r.tok.Decode(want.Tokens, tokenizer.DecodeOptions{}); got != want.Text {
		t.Errorf("text %q, the tokens are %q", want.Text, got)
	}
	if want.Attention.Steps == 0 || want.Exact == 0 || want.Planes == 0 {
		t.Errorf("no statistics: %+v", want)
	}
	again := r.generate(t, s, q)
	if !slices.Equal(again.Tokens, want.Tokens) || again.Cached != 59 {
		t.Errorf("again: %v, cached %d, want %v", again.Tokens, again.Cached, want.Tokens)
	}
	f := s.Fork(sparsely)
	defer f.Close()
	q.Sampling = Sampling{Temperature: 1, TopK: 1}
	if got := r.generate(t, f, q); !slices.Equal(got.Tokens, want.Tokens) {
		t.Errorf("in a fork with top-k 1: %v, want %v", got.Tokens, want.Tokens)
	}
	q.Sampling = Sampling{Temperature: 1.5, Seed: 4}
	a, b := r.generate(t, f, q), r.generate(t, s, q)
	if !slices.Equal(a.Tokens, b.Tokens) || slices.Equal(a.Tokens, want.Tokens) {
		t.Errorf("one seed draws %v and %v", a.Tokens, b.Tokens)
	}
}

// An end-of-generation token ends the text and is no part of it.
func TestEndOfGeneration(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 400})
	s := r.session(t, densely)
	for seed := range uint64(20) { // a hot sampler meets one soon
		q := Request{Prompt: text(20), MaxTokens: 60, Sampling: Sampling{Temperature: 5, Seed: seed}}
		res := r.generate(t, s, q)
		for _, id := range res.Tokens {
			if r.tok.IsEOG(id) {
				t.Fatalf("token %d ends a generation and is part of it", id)
			}
		}
		if res.Reason == ReasonEnd && len(res.Tokens) > 0 {
			q.IgnoreEOG = true
			if more := r.generate(t, s, q); !slices.Equal(more.Tokens[:len(res.Tokens)], res.Tokens) || !r.tok.IsEOG(more.Tokens[len(res.Tokens)]) {
				t.Errorf("ignoring the end changed what came before it")
			}
			return
		}
	}
	t.Error("no generation came to its end")
}

func TestContextErrors(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 100})
	s := r.session(t, densely)
	if _, _, err := s.Prefill(context.Background(), text(40), nil); err != nil {
		t.Fatal(err)
	}
	_, err := s.Generate(context.Background(), r.tok, Request{Prompt: text(101)})
	if want := "engine: the prompt has 101 tokens, but the context is 100: context exceeded"; !errors.Is(err, ErrContext) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if s.Len() != 40 {
		t.Errorf("the refused prompt left %d tokens, want 40", s.Len())
	}
	res := r.generate(t, s, Request{Prompt: text(90), IgnoreEOG: true})
	if res.Reason != ReasonContext || len(res.Tokens) != 11 || s.Len() != 100 || res.ContextCapacity != 100 {
		t.Errorf("%s after %d tokens with %d cached, want the full context", res.Reason, len(res.Tokens), s.Len())
	}
	_, err = s.Step(5)
	if want := "engine: the text has 100 tokens and 1 more, but the context is 100: context exceeded"; !errors.Is(err, ErrContext) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if res = r.generate(t, s, Request{Prompt: text(100), MaxTokens: 5, IgnoreEOG: true}); len(res.Tokens) != 1 || res.Reason != ReasonContext {
		t.Errorf("a prompt of the whole context: %+v", res)
	}
	if _, _, err := s.Prefill(context.Background(), nil, nil); err == nil || err.Error() != "engine: the prompt is empty" {
		t.Errorf("an empty prompt: %v", err)
	}
	if _, err := s.Generate(context.Background(), r.tok, Request{Prompt: text(3), Sampling: Sampling{TopP: 2}}); err == nil {
		t.Error("a sampler out of range went through")
	}
	if _, err := New(r.model, Config{Context: -1}); err == nil {
		t.Error("a negative context went through")
	}
}

// A pool that others have filled is an error, not damage.
func TestCacheFull(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 512})
	a, b := r.session(t, densely), r.session(t, densely)
	if _, _, err := a.Prefill(context.Background(), text(300), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Prefill(context.Background(), text(10), nil); !errors.Is(err, kvcache.ErrFull) {
		t.Errorf("got %v, want %v", err, kvcache.ErrFull)
	}
	a.Close()
	if _, _, err := b.Prefill(context.Background(), text(10), nil); err != nil {
		t.Error(err)
	}
}

// A cancelled generation gives what it has; the session goes on afterwards as if nothing had happened.
func TestCancel(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 500, Sequences: 2})
	q := Request{Prompt: text(200), MaxTokens: 30, IgnoreEOG: true}
	want := r.generate(t, r.session(t, sparsely), q)
	s := r.session(t, sparsely)

	ctx, cancel := context.WithCancel(context.Background())
	q.Progress = func(done, total int) {
		if total != 200 {
			t.Errorf("progress of %d tokens", total)
		}
		if done >= 128 {
			cancel()
		}
	}
	res, err := s.Generate(ctx, r.tok, q)
	if !errors.Is(err, context.Canceled) || len(res.Tokens) != 0 || s.Len() != 128 {
		t.Errorf("cancelled in the prompt: %v, %d tokens, %d cached", err, len(res.Tokens), s.Len())
	}

	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	pieces := 0
	q.Progress = nil
	q.Emit = func(string) error {
		if pieces++; pieces == 5 {
			cancel()
		}
		return nil
	}
	res, err = s.Generate(ctx, r.tok, q)
	if n := len(res.Tokens); !errors.Is(err, context.Canceled) || n < 5 || n >= 30 || !slices.Equal(res.Tokens, want.Tokens[:n]) || res.Text == "" {
		t.Errorf("cancelled while writing: %v after %v, want a beginning of %v", err, res.Tokens, want.Tokens)
	}

	stop := errors.New("the reader went away")
	q.Emit = func(string) error { return stop }
	if _, err = s.Generate(context.Background(), r.tok, q); !errors.Is(err, stop) {
		t.Errorf("an error of Emit: %v", err)
	}
	q.Emit = nil
	if got := r.generate(t, s, q); !slices.Equal(got.Tokens, want.Tokens) {
		t.Errorf("afterwards: %v, want %v", got.Tokens, want.Tokens)
	}
}

// What Emit is told adds up to the text, ends before the first stop string wherever the tokens cut it, and never breaks a character.
func TestWriter(t *testing.T) {
	r := newRig(t, "cpu", "llama", Config{Context: 100})
	for _, c := range []struct {
		text string
		stop []string
		want string
	}{
		{"hello there", nil, "hello there"},
		{"hello there", []string{""}, "hello there"},
		{"hello there", []string{"the"}, "hello "},
		{"hello there", []string{"hello"}, ""},
		{"hello there", []string{"there"}, "hello "},
		{"hello there", []string{"therefore"}, "hello there"},
		{"hello there", []string{"ere", "there"}, "hello "},      // both end with the same token: the earlier start counts
		{"hello there", []string{"there", "ere"}, "hello "},      //
		{"hello there", []string{"ther", "hello thx"}, "hello "}, //
		{"aaab", []string{"aab"}, "a"},                           // overlaps itself
		{"abababc", []string{"ababc"}, "ab"},
		{"one\n\nUser: two", []string{"\nUser:"}, "one\n"},
		{"12 東京 é — ok", nil, "12 東京 é — ok"},
		{"12 東京 é — ok", []string{"京"}, "12 東"},
		{"12 東京 é — ok", []string{" é — x", "—"}, "12 東京 é "},
		{"naïve 😀 end", []string{"😀"}, "naïve "},
		{"naïve 😀 end", []string{"😁"}, "naïve 😀 end"}, // shares three bytes with the character there
	} {
		ids := r.tok.Encode(c.text, tokenizer.EncodeOptions{})
		var got strings.Builder
		w := newWriter(r.tok, c.stop, func(s string) error {
			if s == "" || !utf8.ValidString(s) {
				t.Errorf("%q: emitted %q", c.text, s)
			}
			got.WriteString(s)
			return nil
		})
		for _, id := range ids {
			if err := w.token(id); err != nil {
				t.Fatal(err)
			}
			if w.stopped {
				break
			}
			if held := len(w.held); held > 0 && len(c.stop) == 0 {
				t.Errorf("%q: %q is held back though nothing can stop the text", c.text, w.held)
			}
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		if got.String() != c.want || w.text.String() != c.want || w.stopped != (c.want != c.text) {
			t.Errorf("%q with %q: got %q, want %q", c.text, c.stop, got.String(), c.want)
		}
	}
}

// A stop string ends a generation, with its reason.
func TestStop(t *testing.T) {
	r := newRig(t, "cpu", "gemma3", Config{Context: 300})
	s := r.session(t, densely)
	q := Request{Prompt: text(30), MaxTokens: 60, IgnoreEOG: true}
	full := r.generate(t, s, q)
	if len(full.Text) < 20 {
		t.Fatalf("the model wrote %q", full.Text)
	}
	stop := full.Text[len(full.Text)/2:][:4]
	q.Stop = []string{"never written", stop}
	var emitted strings.Builder
	q.Emit = func(p string) error { emitted.WriteString(p); return nil }
	got := r.generate(t, s, q)
	want := full.Text[:strings.Index(full.Text, stop)]
	if got.Reason != ReasonStop || got.Text != want || emitted.String() != want {
		t.Errorf("stopped by %q (%s): %q, emitted %q, want %q", stop, got.Reason, got.Text, emitted.String(), want)
	}
}

// A decode step allocates nothing once its scratch has grown.
func TestStepAllocations(t *testing.T) {
	archs, prompt := []string{"llama", "qwen2", "qwen3", "gemma3"}, text(600)
	if testing.Short() {
		archs, prompt = archs[:1], prompt[:100]
	}
	for _, arch := range archs {
		r := newRig(t, "cpu", arch, Config{Context: 800})
		for _, p := range []*attention.Pipeline{densely, sparsely} {
			s := r.NewSession(p)
			if _, _, err := s.Prefill(context.Background(), prompt, nil); err != nil {
				t.Fatal(err)
			}
			step := func() {
				if _, err := s.Step(7); err != nil {
					t.Fatal(err)
				}
			}
			for range 5 {
				step()
			}
			if n := testing.AllocsPerRun(100, step); n != 0 {
				t.Errorf("%s, %s: %v allocations a step", arch, p.Spec(), n)
			}
			s.Close()
		}
	}
}
