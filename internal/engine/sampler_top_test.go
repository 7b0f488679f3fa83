package engine

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/twilight-go/twilight/internal/device"
)

// topOf is what a device lists of a row, its mass off by a share of what it may be off.
func topOf(logits []float32, off float64) *device.Top {
	var all []candidate
	largest := slices.Max(logits)
	t := &device.Top{}
	for i, x := range logits {
		if x > largest-listDepth {
			all = append(all, candidate{id: int32(i), logit: x})
		}
		t.Mass += math.Exp(float64(x - largest))
	}
	slices.SortFunc(all, byWeight)
	all = all[:min(len(all), device.Listed)]
	for i, c := range all {
		t.ID[i], t.Logit[i] = c.id, c.logit
	}
	t.Count = int32(len(all))
	t.Mass *= 1 + off*device.MassError
	return t
}

// What is drawn from a list is what is drawn from the row, with every combination of steps; and the sampler is afterwards in the same state.
func TestSampleTop(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		vocab := rapid.SampledFrom([]int{1, 3, 200, 256, 257, 1500}).Draw(t, "vocabulary")
		spread := rapid.SampledFrom([]float64{0, 0.01, 1, 3, 8, 100}).Draw(t, "spread")
		p := Sampling{
			Temperature: rapid.SampledFrom([]float64{0, 0.1, 1, 3}).Draw(t, "temperature"),
			TopK:        rapid.SampledFrom([]int{0, 0, 1, 20, 256, 1000}).Draw(t, "top-k"),
			TopP:        rapid.SampledFrom([]float64{0, 0.01, 0.5, 0.9, 0.999, 1}).Draw(t, "top-p"),
			MinP:        rapid.SampledFrom([]float64{0, 0, 0.05, 0.5, 1}).Draw(t, "min-p"),
			Repetition:  rapid.SampledFrom([]float64{0, 0, 1.3, 0.8}).Draw(t, "repetition"),
			Presence:    rapid.SampledFrom([]float64{0, 0, 0.5, -1}).Draw(t, "presence"),
			Frequency:   rapid.SampledFrom([]float64{0, 0, 0.2, -0.3}).Draw(t, "frequency"),
			Seed:        rng.Uint64(),
		}
		whole, listed := NewSampler(p), NewSampler(p)
		off := rapid.Float64Range(-0.9, 0.9).Draw(t, "error of the mass")
		for step := range 8 {
			logits := make([]float32, vocab)
			for i := range logits {
				logits[i] = float32(spread * rng.NormFloat64())
				if rng.IntN(9) == 0 {
					logits[i] = float32(math.Round(float64(logits[i]))) // ties
				}
			}
			top := topOf(logits, off)
			want := whole.Sample(slices.Clone(logits))
			got, ok := listed.SampleTop(top, vocab)
			if !ok {
				got = listed.Sample(logits)
			}
			if got != want {
				t.Fatalf("step %d: %d is drawn from the list (%v) and %d from the row", step, got, ok, want)
			}
			for _, id := range []int32{got, int32(rng.IntN(vocab))} {
				whole.Accept(id)
				listed.Accept(id)
			}
		}
	})
}

// The usual settings need no logits, and what a list cannot tell is noticed.
func TestSampleTopSuffices(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	logits := make([]float32, 5000)
	for i := range logits {
		logits[i] = float32(3 * rng.NormFloat64())
	}
	top := topOf(logits, 0)
	seldom := slices.Index(logits, slices.Min(logits))
	for name, c := range map[string]struct {
		p    Sampling
		want bool
	}{
		"greedy":                  {Sampling{}, true},
		"top-k":                   {Sampling{Temperature: 1, TopK: 40}, true},
		"top-k and top-p":         {Sampling{Temperature: 0.7, TopK: 20, TopP: 0.8}, true},
		"top-p":                   {Sampling{Temperature: 0.8, TopP: 0.3}, true},
		"min-p":                   {Sampling{Temperature: 2, MinP: 0.1}, true},
		"penalties":               {Sampling{Temperature: 1, TopK: 40, Repetition: 1.1, Presence: 0.2}, true},
		"greedy with penalties":   {Sampling{Repetition: 1.1}, true},
		"everything may be drawn": {Sampling{Temperature: 1}, false},
		"more than are listed":    {Sampling{Temperature: 1, TopK: 257}, false},
		"nearly everything":       {Sampling{Temperature: 1, TopP: 0.999}, false},
		"a bonus":                 {Sampling{Temperature: 1, TopK: 40, Presence: -3}, false},
	} {
		s := NewSampler(c.p)
		s.Accept(int32(seldom))
		s.Accept(top.ID[0])
		if _, ok := s.SampleTop(top, len(logits)); ok != c.want {
			t.Errorf("%s: the list suffices: %v, expected %v", name, ok, c.want)
		}
	}
	if _, ok := NewSampler(Sampling{}).SampleTop(&device.Top{}, 100); ok {
		t.Error("an empty list was drawn from")
	}
}
