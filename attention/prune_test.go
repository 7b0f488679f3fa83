package attention

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// pruneOne runs a pruner on one head whose candidates are all finite logits, and returns the indices it keeps.
func pruneOne(t failer, prune string, logits []float32) (kept []int, w *Work) {
	pages := (len(logits) + PageTokens - 1) / PageTokens
	w = &Work{Group: 1, Kern: Portable{}, logits: make([]float32, pages*PageTokens), cand: make([]uint16, pages), keep: make([]uint16, pages)}
	w.Head.N = len(logits)
	w.count.b0 = make([]int, 1)
	for i := range w.logits {
		w.logits[i] = negInf
		if i < len(logits) && logits[i] != negInf {
			w.logits[i] = logits[i]
			w.cand[i/PageTokens] |= 1 << (i % PageTokens)
			w.count.b0[0]++
		}
	}
	for j := range pages {
		w.Pages = append(w.Pages, int32(j))
		w.keep[j] = 0xdead // whatever was there
	}
	s, err := Parse("full+" + prune)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	total := w.Kern.Weigh(w.Logits(0), orZero(w.Kern.Max(w.Logits(0))))
	p.prun.Prune(w, 0, w.Logits(0), total, w.keep)
	for j, m := range w.keep {
		for ; m != 0; m &= m - 1 {
			kept = append(kept, j*PageTokens+bits.TrailingZeros16(m))
		}
	}
	return kept, w
}

// softmax is the definition, of the finite logits.
func softmax(logits []float32) []float64 {
	top, sum := math.Inf(-1), 0.0
	for _, x := range logits {
		top = max(top, float64(x))
	}
	w := make([]float64, len(logits))
	for i, x := range logits {
		w[i] = math.Exp(float64(x) - top)
		sum += w[i]
	}
	for i := range w {
		w[i] /= sum
	}
	return w
}

// checkTopP holds a kept set against the definition by sorting: mass at least p, minimal up to ties, and every kept weight at least every dropped one.
// slack is what float32 sums may be off.
func checkTopP(t failer, logits []float32, p float64, kept []int) {
	t.Helper()
	w := softmax(logits)
	slack := 2e-7 * math.Sqrt(float64(len(logits)+100))
	in := make([]bool, len(w))
	mass, least, most := 0.0, math.Inf(1), 0.0
	for _, i := range kept {
		if i >= len(w) || logits[i] == negInf {
			t.Fatalf("p=%v: token %d is kept and no candidate", p, i)
		}
		in[i] = true
		mass += w[i]
		least = min(least, w[i])
	}
	if len(kept) == 0 {
		t.Fatalf("p=%v: nothing is kept", p)
	}
	if mass < p-slack {
		t.Fatalf("p=%v: kept mass %.9f of %d tokens", p, mass, len(kept))
	}
	for i, x := range w {
		if !in[i] {
			most = max(most, x)
		}
	}
	if most > least*(1+1e-6) {
		t.Fatalf("p=%v: a token of weight %v is dropped, one of %v kept", p, most, least)
	}
	if p >= 1 {
		return
	}
	// Minimal up to ties: without its lightest tokens the set would hold less than p.
	sorted := slices.Clone(w)
	slices.SortFunc(sorted, func(a, b float64) int {
		if a > b {
			return -1
		}
		return 1
	})
	need, sum := 0, 0.0
	for need < len(sorted) && sum < p+slack {
		sum += sorted[need]
		need++
	}
	need = max(need, 1)
	ties := 0
	for _, x := range w {
		if math.Abs(x-sorted[need-1]) <= 1e-6*sorted[need-1] {
			ties++
		}
	}
	if len(kept) > need+ties {
		t.Fatalf("p=%v: %d tokens are kept, %d of the heaviest hold it (%d tied)", p, len(kept), need, ties)
	}
}

func TestTopPExtremes(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	fill := func(n int, f func(i int) float32) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = f(i)
		}
		return x
	}
	cases := map[string][]float32{
		"one":            {3},
		"all equal":      fill(1000, func(int) float32 { return -2 }),
		"one dominant":   fill(1000, func(i int) float32 { return float32(50 * (i / 999)) }),
		"two dominant":   fill(777, func(i int) float32 { return float32(40 * (i % 777 / 775)) }),
		"masked lanes":   fill(500, func(i int) float32 { return []float32{negInf, float32(rng.NormFloat64())}[i%2] }),
		"mostly masked":  fill(500, func(i int) float32 { return []float32{negInf, 1}[i/499] }),
		"huge spread":    fill(300, func(i int) float32 { return float32(i) * 1e4 }),
		"beyond exp":     fill(300, func(i int) float32 { return -1e30 * float32(i) }),
		"subnormal":      fill(300, func(i int) float32 { return float32(-i) / 2 }),
		"large offset":   fill(300, func(i int) float32 { return 1e4 + float32(rng.NormFloat64()) }),
		"gaussian":       fill(2000, func(int) float32 { return float32(3 * rng.NormFloat64()) }),
		"heavy tail":     fill(2000, func(int) float32 { return float32(-math.Log(rng.Float64())) }),
		"nearly uniform": fill(2000, func(i int) float32 { return float32(i) * 1e-7 }),
		"two plateaus":   fill(640, func(i int) float32 { return float32(i / 320) }),
		"geometric":      fill(200, func(i int) float32 { return float32(-0.1 * float64(i)) }),
	}
	for name, logits := range cases {
		for _, p := range []float64{0, 1e-30, 1e-6, 0.1, 0.5, 0.85, 0.9, 0.95, 0.99, 0.999, 0.999999, 1 - 1e-12, 1} {
			t.Run(fmt.Sprintf("%s/%v", name, p), func(t *testing.T) {
				kept, _ := pruneOne(t, fmt.Sprintf("top-p:%v", p), logits)
				checkTopP(t, logits, p, kept)
				if p >= 1 {
					n := 0
					for _, x := range logits {
						if x != negInf {
							n++
						}
					}
					if len(kept) != n {
						t.Errorf("p=1 keeps %d of %d candidates", len(kept), n)
					}
				}
			})
		}
	}
}

// The trap of a search that starts from the first token's weight: a weak attention sink, or one that was not selected, must not change what is kept.
func TestTopPWeakSink(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 10))
	logits := make([]float32, 4096)
	for i := range logits {
		logits[i] = float32(2 * rng.NormFloat64())
	}
	for i := range 8 {
		logits[1000+300*i] = 14
	}
	for _, sink := range []float32{14, 0, -30, negInf} {
		logits[0] = sink
		kept, _ := pruneOne(t, "top-p:0.9", logits)
		checkTopP(t, logits, 0.9, kept)
		if len(kept) > 9 {
			t.Errorf("sink of logit %v: %d tokens are kept, eight hold the mass", sink, len(kept))
		}
	}
}

func TestTopPProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		n := rapid.IntRange(1, 700).Draw(t, "n")
		spread := rapid.SampledFrom([]float64{0, 1e-6, 0.1, 1, 5, 30, 1000}).Draw(t, "spread")
		quant := rapid.SampledFrom([]float64{0, 0.25, 2}).Draw(t, "quantum")
		masked := rapid.SampledFrom([]int{0, 2, 10}).Draw(t, "masked")
		p := rapid.OneOf(rapid.Float64Range(0, 1), rapid.SampledFrom([]float64{0, 0.9, 1})).Draw(t, "p")
		rng := rand.New(rand.NewPCG(seed, 1))
		logits := make([]float32, n)
		for i := range logits {
			x := spread * rng.NormFloat64()
			if quant > 0 {
				x = math.Round(x/quant) * quant
			}
			logits[i] = float32(x)
			if masked > 0 && i > 0 && rng.IntN(masked) == 0 {
				logits[i] = negInf
			}
		}
		kept, _ := pruneOne(t, fmt.Sprintf("top-p:%v", p), logits)
		checkTopP(t, logits, p, kept)
	})
}

func TestSearchThreshold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.SliceOfN(rapid.OneOf(rapid.Float32Range(1e-20, 1), rapid.SampledFrom([]float32{1, 0.5, 0.25})), 1, 100).Draw(t, "w")
		w = append(w, 1)
		floor := slices.Min(w)
		all, _ := Portable{}.Above(w, floor)
		mass := rapid.Float32Range(0, 2*all).Draw(t, "mass")
		guess := rapid.Float32Range(0, 1.5).Draw(t, "guess")
		threshold := func(w []float32) (float32, search) {
			s := newSearch(Portable{}, w, floor)
			return s.threshold(Portable{}, mass, exactGrid, guess), s
		}
		got, _ := threshold(w[:len(w):len(w)])
		packed, s := threshold(append(make([]float32, 0, len(w)+PageTokens), w...))
		if packed != got {
			t.Fatalf("threshold %v, and %v where there is room to pack", got, packed)
		}
		again := s.threshold(Portable{}, mass, exactGrid, 0)
		if _, n := (Portable{}).Above(w, got); n > 0 {
			if _, m := (Portable{}).Above(w, again); m != n {
				t.Fatalf("threshold %v leaves %d, and then %v leaves %d", got, n, again, m)
			}
		}
		sum, n := Portable{}.Above(w, got)
		if mass > all {
			if got != floor {
				t.Fatalf("mass %v of %v cannot be had, but the threshold is %v, not the floor %v", mass, all, got, floor)
			}
			return
		}
		if sum < mass || n == 0 {
			t.Fatalf("threshold %v holds %v in %d elements, want %v", got, sum, n, mass)
		}
		next := float32(math.Inf(1)) // the least element kept: without it and its ties the mass is missed
		for _, x := range w {
			if x >= got {
				next = min(next, x)
			}
		}
		if more, m := (Portable{}).Above(w, math.Nextafter32(next, 2)); m > 0 && more >= mass {
			t.Fatalf("threshold %v is not the largest: %d elements above %v hold %v ≥ %v", got, m, next, more, mass)
		}
	})
}

// A weight that is lost in the sum's rounding is not kept: the mass being held exactly is no reason to stop.
func TestSearchThresholdRounding(t *testing.T) {
	w := []float32{1.1920929e-07, 1, 1}
	s := newSearch(Portable{}, w, w[0])
	if got := s.threshold(Portable{}, 2, exactGrid, 0); got != 1 {
		t.Errorf("threshold %v of %v for a mass of 2: expected 1", got, w)
	}
}

func TestTopK(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logits := scores(t, 1, 300)
		for i, x := range logits {
			switch {
			case x != x:
				logits[i] = 0
			case x-x == 0: // weights tell apart what is within the range of a float's exponent
				logits[i] = min(max(x, -40), 40)
			}
		}
		logits[0] = 0
		k := rapid.IntRange(1, 320).Draw(t, "k")
		kept, w := pruneOne(t, fmt.Sprintf("top-k:k=%d", k), logits)
		if want := min(k, w.count.b0[0]); len(kept) != want {
			t.Fatalf("%d tokens are kept of %d candidates, want %d", len(kept), w.count.b0[0], want)
		}
		least := float32(math.Inf(1))
		in := map[int]bool{}
		for _, i := range kept {
			in[i] = true
			least = min(least, logits[i])
		}
		for i, x := range logits {
			if x > least+1e-5 && !in[i] { // closer ones may weigh the same
				t.Fatalf("token %d of logit %v is dropped, one of %v kept", i, x, least)
			}
			if in[i] && x == negInf {
				t.Fatalf("token %d is kept and no candidate", i)
			}
		}
	})
}

func TestTopKShare(t *testing.T) {
	logits := make([]float32, 400)
	for i := range logits {
		logits[i] = float32(i * 7919 % 400)
	}
	kept, _ := pruneOne(t, "top-k:keep=0.1", logits)
	if len(kept) != 40 {
		t.Errorf("%d of 400 are kept, want 40", len(kept))
	}
	if kept, _ = pruneOne(t, "top-k:keep=0.0001", logits); len(kept) != 1 || logits[kept[0]] != 399 {
		t.Errorf("a share of less than a token keeps %v, want the best one", kept)
	}
}

// Whatever prunes leaves the candidates' weights, from which the tail is estimated.
func TestPrunersLeaveWeights(t *testing.T) {
	logits := make([]float32, 100)
	for i := range logits {
		logits[i] = float32(i%17) / 3
	}
	logits[3] = negInf
	want := softmax(logits)
	for _, prune := range append(variants(t, "pruner", pruners), "top-p:1", "top-k:k=1000") {
		t.Run(prune, func(t *testing.T) {
			_, w := pruneOne(t, prune, logits)
			sum := 0.0
			for _, x := range w.Logits(0) {
				sum += float64(x)
			}
			for i, x := range w.Logits(0) {
				if i < len(want) && math.Abs(float64(x)/sum-want[i]) > 1e-6 || i >= len(want) && x != 0 {
					t.Fatalf("weight %d is %v of %v, want %v", i, x, sum, want[i])
				}
			}
		})
	}
}
