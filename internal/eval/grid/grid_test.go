package grid

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// words counts words as tokens.
func words(tokens int) task.Size {
	return task.Size{
		Tokens: tokens,
		Count:  func(text string) int { return len(strings.Fields(text)) },
		Cut: func(text string, head, tail int) string {
			w := strings.Fields(text)
			if len(w) <= head+tail {
				return text
			}
			return strings.Join(slices.Concat(w[:head], w[len(w)-tail:]), " ")
		},
	}
}

var hay = strings.Repeat("It was a fine day. The house by the sea was old, and nobody knew its name. ", 100)

func TestPlace(t *testing.T) {
	const text = "One. Two. Three. Four."
	for _, x := range []struct {
		percent float64
		behind  string
	}{{0, ""}, {5, "One. "}, {25, "One. Two. "}, {99, "One. Two. Three. "}, {100, "One. Two. Three. "}} {
		if got := text[:place(text, x.percent)]; got != x.behind {
			t.Errorf("%g %%: behind %q, want %q", x.percent, got, x.behind)
		}
	}
	if got := place("no sentence", 50); got != 0 {
		t.Errorf("at %d of a text without sentences", got)
	}
}

func grids(depths []float64) (out []task.Task, err error) {
	n, err := Needle(hay, depths)
	p, e := Passkey(depths)
	return []task.Task{n, p}, errors.Join(err, e)
}

func TestSamples(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		depths := rapid.SliceOfN(rapid.Float64Range(0, 100), 1, 4).Draw(rt, "depths")
		size := words(rapid.IntRange(500, 1200).Draw(rt, "tokens"))
		seed, n := rapid.Uint64().Draw(rt, "seed"), rapid.IntRange(1, 3).Draw(rt, "n")
		tasks, err := grids(depths)
		if err != nil {
			rt.Fatal(err)
		}
		for _, g := range tasks {
			samples, err := g.Samples(n, seed, size)
			if err != nil {
				rt.Fatal(err)
			}
			if len(samples) != n*len(depths) {
				rt.Fatalf("%d samples", len(samples))
			}
			for i, s := range samples {
				if used := s.Tokens(size); used > size.Tokens || used < size.Tokens-25 {
					rt.Fatalf("%s: %d tokens of %d", g.Name(), used, size.Tokens)
				}
				depth, ok := Depth(s.ID)
				if !ok || depth != depths[i%len(depths)] || len(s.Answers) != 1 || strings.Count(s.Prompt, s.Answers[0]) != map[string]int{"needle": 1, "passkey": 2}[g.Name()] {
					rt.Fatalf("%+v", s)
				}
				if at := float64(strings.Index(s.Prompt, s.Answers[0])) / float64(len(s.Prompt)); math.Abs(at-s.Depths[0]) > 0.1 || math.Abs(at-depth/100) > 0.25 {
					rt.Fatalf("%s: asked for depth %g, at %g, said to be at %g", g.Name(), depth, at, s.Depths[0])
				}
				if g.Score(&s, "It is "+s.Answers[0]+".") != 1 || g.Score(&s, "It is "+s.Answers[0]+", 17") != 1 || g.Score(&s, "It is 1234.") != 0 {
					rt.Fatal("score")
				}
			}
			// A sample does not depend on how many others there are.
			if one, err := g.Samples(1, seed, size); err != nil || cmp.Diff(one, samples[:len(one)]) != "" {
				rt.Fatal(err, cmp.Diff(one, samples[:len(one)]))
			}
		}
	})
}

// The published prompt, to the letter.
func TestPasskeyPrompt(t *testing.T) {
	p, err := Passkey([]float64{50})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Samples(1, 1, words(120))
	if err != nil {
		t.Fatal(err)
	}
	const noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
	key := s[0].Answers[0]
	want := "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you about the important information there.\n" +
		noise + " The grass is green.\nThe pass key is " + key + ". Remember it. " + key + " is the pass key.\nThe sky is blue. The sun is yellow. Here we go. There and back again.\n" +
		"What is the pass key? The pass key is"
	if got := s[0].Prompt + s[0].Begin; got != want {
		t.Errorf("%s", cmp.Diff(want, got))
	}
}

func TestScore(t *testing.T) {
	g, err := Passkey([]float64{1})
	if err != nil {
		t.Fatal(err)
	}
	s := task.Sample{Answers: []string{"8271946"}}
	for answer, want := range map[string]float64{"8,271 946": 1, "8271946": 1, "827194": 0, "": 0} {
		if got := g.Score(&s, answer); got != want {
			t.Errorf("%q: %g", answer, got)
		}
	}
	if _, ok := Depth("17"); ok {
		t.Error("a sample of another task has a depth")
	}
}

func TestErrors(t *testing.T) {
	for _, depths := range [][]float64{nil, {-1}, {101}, {math.NaN()}} {
		if _, err := grids(depths); err == nil {
			t.Errorf("depths %v: no error", depths)
		}
	}
	if _, err := Needle("", []float64{1}); !errors.Is(err, ErrText) {
		t.Error(err)
	}
	tasks, err := grids([]float64{50})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range tasks {
		if _, err := g.Samples(1, 1, words(40)); !errors.Is(err, task.ErrSize) {
			t.Errorf("%s: %v", g.Name(), err)
		}
		if _, err := g.Samples(1, 1, task.Size{Tokens: 100}); err == nil {
			t.Errorf("%s: a size that cannot count", g.Name())
		}
	}
	if _, err := tasks[0].Samples(1, 1, words(1<<20)); !errors.Is(err, ErrText) {
		t.Error(err)
	}
}
