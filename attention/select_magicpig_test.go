package attention

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The odds of at least two agreeing tables are the binomial distribution's.
func TestMagicPigOdds(t *testing.T) {
	for _, s := range []magicpig{{bits: 10, tables: 150}, {bits: 1, tables: 2}, {bits: 32, tables: 1024}} {
		for _, cos := range []float64{-1, -0.3, 0, 0.2, 0.7, 0.99, 1, 2} {
			p := math.Pow(1-math.Acos(min(cos, 1))/math.Pi, float64(s.bits))
			want, choose := 0.0, 1.0
			for k := range s.tables + 1 {
				if k >= 2 {
					want += choose * math.Pow(p, float64(k)) * math.Pow(1-p, float64(s.tables-k))
				}
				if choose *= float64(s.tables-k) / float64(k+1); math.IsInf(choose, 0) {
					break // what follows is nothing for so small a p
				}
			}
			if got := s.odds(cos); !(math.Abs(got-want) <= 1e-9+1e-6*want) && got > 1e-30 {
				t.Errorf("%d tables of %d bits, cosine %v: odds %v, want %v", s.tables, s.bits, cos, got, want)
			}
		}
	}
}

// Tokens are drawn as often as their odds say: over many tokens, the number drawn is near the sum of the odds. Seeds are fixed, so nothing here is left to chance.
func TestMagicPigDraws(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(31, 31)), 4000, decoderDim)
	s := magicpig{bits: 4, tables: 12}
	d := newDecoder(MustNew("magicpig:bits=4,tables=12,sink=0,window=0+when:dense-layers=0,min-context=0"), x.queries(rand.New(rand.NewPCG(32, 32)), decoderGroup))
	d.fill(x.kh, x.vh, x.n)
	d.step(t)
	w := d.x.works[0]
	mean := make([]float64, decoderDim)
	for _, k := range x.k {
		for c, y := range k {
			mean[c] += y / float64(x.n)
		}
	}
	last := (x.n - 1) / PageTokens * PageTokens
	for g := range decoderGroup {
		drawn, sum := 0, 0.0
		in := w.attended(g)
		for i := range last {
			odds := cosineOdds(s, d.q[g*decoderDim:][:decoderDim], x.k[i], mean)
			sum += odds
			if in[i] {
				drawn++
				if got := w.odds[g*x.n+i]; math.Abs(float64(got)+math.Log(odds)) > 1e-2 {
					t.Fatalf("head %d token %d: weighs e^%v, want e^%v", g, i, got, -math.Log(odds))
				}
			}
		}
		if math.Abs(float64(drawn)-sum) > 0.25*sum {
			t.Errorf("head %d: %d tokens are drawn, their odds add up to %.1f", g, drawn, sum)
		}
	}
}

// cosineOdds is the odds of a key by the definition.
func cosineOdds(s magicpig, q []float32, k, mean []float64) float64 {
	var qk, qq, kk float64
	for c, y := range k {
		y -= mean[c]
		qk += float64(q[c]) * y
		qq += float64(q[c]) * float64(q[c])
		kk += y * y
	}
	return s.odds(qk / math.Sqrt(qq*kk))
}

// TestMagicPIGRarity holds the table of odds against the odds.
func TestMagicPIGRarity(t *testing.T) {
	for _, s := range []magicpig{{bits: 10, tables: 150}, {bits: 1, tables: 2}, {bits: 6, tables: 20}, {bits: 32, tables: 1024}} {
		state := s.NewState(Shape{Layers: 1, KVHeads: 1, Dim: 1}).(pigState)
		for i := -1; i <= 10001; i++ {
			cos := float32(i)/5000 - 1
			if got, want := float64(state.rarity(s, cos)), -math.Log(s.odds(float64(cos))); want < 50 && !(math.Abs(got-want) <= 3e-4) { // what is rarer is never drawn, and the odds themselves are rounded
				t.Fatalf("%d tables of %d bits: %v at %v, want %v", s.tables, s.bits, got, cos, want)
			}
		}
		if got := state.rarity(s, float32(math.NaN())); got != 0 {
			t.Fatalf("%v for a damaged key", got)
		}
	}
}

// TestMagicPIGSigns holds that a product's bit is 1 where it is more than 0.
func TestMagicPIGSigns(t *testing.T) {
	for _, x := range []float32{0, float32(math.Copysign(0, -1)), 1, -1, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, float32(math.Inf(1)), negInf, float32(math.NaN()), -float32(math.NaN())} {
		want := uint64(math.MaxUint64)
		if x > 0 {
			want = 0
		}
		if got := notPositive(x); got != want {
			t.Errorf("%v: got %x", x, got)
		}
	}
}
