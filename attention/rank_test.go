package attention

import (
	"cmp"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// weird floats: many ties, infinities, NaN.
func scores(t *rapid.T, lo, hi int) []float32 {
	odd := []float32{negInf, float32(math.Inf(1)), float32(math.NaN()), 0, 1, -1}
	return rapid.SliceOfN(rapid.OneOf(rapid.Float32(), rapid.SampledFrom(odd), rapid.Map(rapid.IntRange(0, 4), func(i int) float32 { return float32(i) })), lo, hi).Draw(t, "scores")
}

func TestKthLargest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := scores(t, 1, 200)
		k := rapid.IntRange(1, len(x)).Draw(t, "k")
		before := slices.Clone(x)
		got, ties := kthLargest(Portable{}, x, k)
		sorted, nans := slices.Clone(x), 0
		for i, v := range sorted {
			if v != v {
				sorted[i] = negInf
				nans++
			}
			if math.Float32bits(x[i]) != math.Float32bits(before[i]) {
				t.Fatal("x was changed")
			}
		}
		slices.SortFunc(sorted, func(a, b float32) int {
			switch {
			case a > b:
				return -1
			case a < b:
				return 1
			}
			return 0
		})
		if numbers := len(x) - nans; k > numbers {
			if got != negInf {
				t.Fatalf("%d of %d numbers: threshold %v, want −Inf", k, numbers, got)
			}
			return
		}
		var taken []float32
		for _, v := range x {
			if tied := v == got && ties > 0; tied || v > got {
				taken = append(taken, v)
				if tied {
					ties--
				}
			}
		}
		slices.SortFunc(taken, func(a, b float32) int { return cmp.Compare(b, a) })
		if !slices.Equal(taken, sorted[:k]) {
			t.Fatalf("threshold %v takes %v, want the %d largest %v", got, taken, k, sorted[:k])
		}
	})
}

// Sorted, reversed and constant inputs of the size of a long context take linear time.
func TestKthLargestPatterns(t *testing.T) {
	const n = 1 << 17
	for name, f := range map[string]func(i int) float32{
		"constant": func(int) float32 { return 1 }, "up": func(i int) float32 { return float32(i) }, "down": func(i int) float32 { return float32(-i) },
		"organ pipe": func(i int) float32 { return float32(min(i, n-i)) }, "two values": func(i int) float32 { return float32(i & 1) },
	} {
		x := make([]float32, n)
		for i := range x {
			x[i] = f(i)
		}
		want := slices.Clone(x)
		slices.Sort(want)
		for _, k := range []int{1, n / 4, n} {
			if got, _ := kthLargest(Portable{}, x, k); got > want[n-k] || k < n && got <= want[n-k-1] && want[n-k-1] < want[n-k] {
				t.Errorf("%s: threshold %v for the %d largest, of which the least is %v", name, got, k, want[n-k])
			}
		}
	}
}

// The first head's scores become, up to a factor, the sum of the heads' softmaxes, whatever else stands among them.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		heads, n := rapid.IntRange(2, 5).Draw(t, "heads"), rapid.IntRange(1, 40).Draw(t, "n")
		ld := n + rapid.IntRange(0, 3).Draw(t, "beyond")
		x, want := make([]float32, heads*ld), make([]float64, n)
		odd, said := []float32{negInf, float32(math.NaN())}, 0.0
		for g := range heads {
			total := 0.0
			of := rapid.SliceOfN(rapid.OneOf(rapid.Float32Range(-40, 40), rapid.SampledFrom(odd)), n, n).Draw(t, "scores")
			copy(x[g*ld:], of)
			for _, v := range of {
				if v > negInf {
					total += math.Exp(float64(v))
				}
			}
			for i, v := range of {
				if v > negInf {
					want[i] += math.Exp(float64(v)) / total
				}
			}
			if total > 0 {
				said++
			}
		}
		shares(Portable{}, x, ld, heads, n)
		sum := 0.0
		for _, v := range x[:n] {
			sum += float64(v)
		}
		for i, v := range x[:n] {
			if got := float64(v) * said / max(sum, 1e-30); math.Abs(got-want[i]) > 1e-4 {
				t.Fatalf("place %d has a share of %v, want %v", i, got, want[i])
			}
		}
	})
}

// What is beyond numbers in one head says nothing, and leaves what the others say.
func TestSharesDamaged(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	x := []float32{nan, nan, nan, inf, 1, inf, 3, 2, 1, 1, nan, 2}
	shares(Portable{}, x, 3, 4, 3)
	e := float32(math.E)
	own := 1 / (1 + 1/e + 1/e/e)
	for i, want := range []float32{own + 1/e/(1+1/e), own / e, own/e/e + 1/(1+1/e)} {
		if math.Abs(float64(x[i]-want)) > 1e-5 {
			t.Errorf("place %d has a share of %v, want %v", i, x[i], want)
		}
	}
}
