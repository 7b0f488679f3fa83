package engine

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// distribution is the definition: the probability of each token that can be drawn, step by step over a sorted list.
func distribution(logits []float32, p Sampling, recent []int32) map[int32]float64 {
	x := make([]float64, len(logits))
	for i, l := range logits {
		x[i] = float64(l)
	}
	window := p.PenaltyWindow
	if window == 0 {
		window = 64
	}
	seen := map[int32]int{}
	for _, id := range recent[max(0, len(recent)-window):] {
		seen[id]++
	}
	for id, n := range seen {
		if r := p.Repetition; r != 0 {
			if x[id] > 0 {
				x[id] /= r
			} else {
				x[id] *= r
			}
		}
		x[id] = float64(float32(x[id] - p.Presence - p.Frequency*float64(n)))
	}
	ids := make([]int32, len(x))
	for i := range ids {
		ids[i] = int32(i)
	}
	slices.SortStableFunc(ids, func(a, b int32) int {
		switch {
		case x[a] > x[b]:
			return -1
		case x[a] < x[b]:
			return 1
		}
		return 0
	})
	weight := func(id int32) float64 { return math.Exp(x[id] - x[ids[0]]) }
	if p.Temperature == 0 {
		return map[int32]float64{ids[0]: 1}
	}
	best := ids[0]
	if p.TopK > 0 {
		ids = ids[:min(p.TopK, len(ids))]
	}
	if p.TopP > 0 && p.TopP < 1 {
		total, sum := 0.0, 0.0
		for _, id := range ids {
			total += weight(id)
		}
		for i, id := range ids {
			if sum += weight(id); sum >= p.TopP*total*(1-1e-12) {
				ids = ids[:i+1]
				break
			}
		}
	}
	out, total := map[int32]float64{}, 0.0
	for _, id := range ids {
		if w := math.Exp(x[id] - x[best]); w >= p.MinP && w > 0 {
			out[id] = math.Pow(w, 1/p.Temperature)
			total += out[id]
		}
	}
	for id := range out {
		out[id] /= total
	}
	return out
}

// Every combination of steps leaves the candidates and the weights of the definition.
func TestSamplerAgainstDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		logits := make([]float32, rapid.IntRange(1, 300).Draw(t, "vocabulary"))
		spread := rapid.SampledFrom([]float64{0, 0.01, 1, 5, 100}).Draw(t, "spread")
		for i := range logits {
			logits[i] = float32(spread * rng.NormFloat64())
			if rng.IntN(9) == 0 {
				logits[i] = float32(math.Round(float64(logits[i]))) // ties
			}
		}
		p := Sampling{
			Temperature: rapid.SampledFrom([]float64{0, 0.1, 0.7, 1, 3}).Draw(t, "temperature"),
			TopK:        rapid.SampledFrom([]int{0, 1, 2, 20, 1000}).Draw(t, "top-k"),
			TopP:        rapid.SampledFrom([]float64{0, 0.01, 0.5, 0.9, 0.999, 1}).Draw(t, "top-p"),
			MinP:        rapid.SampledFrom([]float64{0, 0.05, 0.5, 1}).Draw(t, "min-p"),
			Repetition:  rapid.SampledFrom([]float64{0, 1, 1.3, 0.8}).Draw(t, "repetition"),
			Presence:    rapid.SampledFrom([]float64{0, 0.5, -1}).Draw(t, "presence"),
			Frequency:   rapid.SampledFrom([]float64{0, 0.2, -0.3}).Draw(t, "frequency"),

			PenaltyWindow: rapid.SampledFrom([]int{0, 1, 5}).Draw(t, "window"),
		}
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		s := NewSampler(p)
		var recent []int32
		for range rapid.IntRange(0, 100).Draw(t, "tokens before") {
			recent = append(recent, int32(rng.IntN(len(logits))))
			s.Accept(recent[len(recent)-1])
		}
		want := distribution(logits, p, recent)
		got := s.Sample(slices.Clone(logits))
		if _, ok := want[got]; !ok {
			t.Fatalf("token %d was drawn and cannot be; %d can", got, len(want))
		}
		if p.Temperature == 0 {
			return
		}
		total := 0.0
		for _, c := range s.cand {
			total += c.weight
		}
		for _, c := range s.cand {
			if w := want[c.id]; math.Abs(c.weight/total-w) > 1e-9 {
				t.Fatalf("token %d is drawn with probability %v, want %v", c.id, c.weight/total, w)
			}
		}
		if len(s.cand) != len(want) {
			t.Fatalf("%d candidates, want %d", len(s.cand), len(want))
		}
	})
}

// A long tail of tokens, each too light to be kept, counts in the mass that top-p is a share of.
func TestTopPCountsTheTail(t *testing.T) {
	logits := make([]float32, 1002)
	for i := range logits {
		logits[i] = float32(math.Log(0.099 / 1000))
	}
	logits[0], logits[1] = 0, float32(math.Log(0.1))
	s := NewSampler(Sampling{Temperature: 1, TopP: 0.9})
	s.Sample(logits)
	if len(s.cand) != 2 { // of 1.199 the first alone is 0.83
		t.Errorf("%d candidates, want 2", len(s.cand))
	}
}

// Draws follow the weights: a chi-square test with fixed seeds.
func TestDrawFrequencies(t *testing.T) {
	logits := []float32{0, 1, 2, -1, 0.5, 1.5, -3, 0}
	for _, temperature := range []float64{0.5, 1, 2} {
		p := Sampling{Temperature: temperature, Seed: 42}
		want, n := distribution(logits, p, nil), 20000
		s := NewSampler(p)
		count := make([]int, len(logits))
		for range n {
			count[s.Sample(slices.Clone(logits))]++
		}
		chi := 0.0
		for i, c := range count {
			e := want[int32(i)] * float64(n)
			chi += (float64(c) - e) * (float64(c) - e) / e
		}
		if chi > 24.3 { // 7 degrees of freedom: one in a thousand
			t.Errorf("temperature %v: chi-square %.1f for counts %v", temperature, chi, count)
		}
	}
}

func TestSeeds(t *testing.T) {
	logits := make([]float32, 50)
	draw := func(seed uint64) (out []int32) {
		s := NewSampler(Sampling{Temperature: 1, Seed: seed})
		for range 20 {
			out = append(out, s.Sample(slices.Clone(logits)))
		}
		return out
	}
	if !slices.Equal(draw(1), draw(1)) || slices.Equal(draw(1), draw(2)) {
		t.Error("equal seeds must draw equal tokens, others not")
	}
}

// Damaged logits never panic and never draw what is no number.
func TestDamagedLogits(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		logits []float32
		want   int32
	}{
		{[]float32{nan, nan, nan}, 0}, {[]float32{nan, -5, nan}, 1}, {[]float32{0, inf, nan}, 1}, {[]float32{-inf, -inf}, 0}, {[]float32{-inf, nan, -inf, -100}, 3}, {[]float32{inf, inf}, 0},
	} {
		for _, p := range []Sampling{{}, {Temperature: 1}, {Temperature: 1, TopK: 2}, {Temperature: 0.5, TopP: 0.5}, {Temperature: 2, MinP: 0.1, Repetition: 1.1}} {
			s := NewSampler(p)
			s.Accept(0)
			if got := s.Sample(slices.Clone(c.logits)); got != c.want {
				t.Errorf("%v with %+v: drew %d, want %d", c.logits, p, got, c.want)
			}
		}
	}
}

func TestSamplerAllocations(t *testing.T) {
	logits := make([]float32, 1000)
	for i := range logits {
		logits[i] = float32(i % 37)
	}
	work := slices.Clone(logits)
	for _, p := range []Sampling{{}, {Temperature: 1}, {Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05, Repetition: 1.1, Presence: 0.1}} {
		s := NewSampler(p)
		for i := range int32(1000) { // the window's counts have seen every token
			s.Accept(i)
		}
		if n := testing.AllocsPerRun(50, func() {
			copy(work, logits)
			s.Accept(s.Sample(work))
		}); n != 0 {
			t.Errorf("%+v: %v allocations a draw", p, n)
		}
	}
}

func TestSamplingCheck(t *testing.T) {
	for _, c := range []struct {
		p    Sampling
		want string
	}{
		{Sampling{}, ""}, {Sampling{Temperature: 1, TopK: 40, TopP: 1, MinP: 1, Repetition: 10, Presence: -10, Frequency: 10}, ""},
		{Sampling{Temperature: -1}, "engine: temperature -1: expected 0 to 100"},
		{Sampling{Temperature: math.NaN()}, "engine: temperature NaN: expected 0 to 100"},
		{Sampling{TopK: -1}, "engine: top-k -1: expected 0 to"}, {Sampling{TopP: 1.1}, "engine: top-p 1.1: expected 0 to 1"},
		{Sampling{MinP: -0.1}, "engine: min-p"}, {Sampling{Repetition: 11}, "engine: repetition penalty"}, {Sampling{Presence: 11}, "engine: presence penalty"},
		{Sampling{Frequency: -11}, "engine: frequency penalty"}, {Sampling{PenaltyWindow: -1}, "engine: penalty window"},
	} {
		err := c.p.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c.p, err, c.want)
		}
	}
}
