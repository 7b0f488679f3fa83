package attention

import (
	"math"
	"math/bits"
)

// kthLargest is a threshold t that separates the want largest elements of x from the rest (1 ≤ want ≤ len(x)): they are those above t and the first ties of those
// equal to t. It narrows an interval by vector counts, until exactly the wanted number lies above or only ties are left between: where a straight line between the counts at its ends
// would have it, which finds the place among scores of like density in few counts, and, whenever that did not halve the interval, at the middle of the float bit patterns, which is never far off. The line is over
// those patterns where numbers are positive, since weights are spread over as many octaves as their logarithms differ by.
// NaN counts as less than everything, so that a damaged score is never preferred; where there are too few numbers, t is −Inf.
func kthLargest(k Kernels, x []float32, want int) (t float32, ties int) {
	lo := order(0) // below elements are ≥ lo, above are ≥ hi
	sum, below := k.Above(x, 0)
	if below < want {
		lo = order(-math.MaxFloat32)
		if sum, below = k.Above(x, -math.MaxFloat32); below < want {
			return negInf, want - below
		}
	}
	if below == want {
		return unorder(lo), want
	}
	hi, above, guess := order(k.Max(x))+1, 0, order(sum/float32(below))
	for halve := false; hi-lo > 1; {
		half := (hi - lo) / 2
		mid := lo + half
		if !halve && lo < guess && guess < hi {
			mid = guess
		}
		_, n := k.Above(x, unorder(mid))
		if n == want {
			return unorder(mid), want
		}
		if n > want {
			lo, below = mid, n
		} else {
			hi, above = mid, n
		}
		halve = !halve && hi-lo > half
		part := float32(want-above) / float32(below-above)
		if lo >= 0 {
			guess = hi - int64(part*float32(hi-lo))
		} else { // a guess of NaN is outside
			top := unorder(hi)
			guess = order(top - (top-unorder(lo))*part)
		}
	}
	return unorder(lo), want - above
}

// order maps float32 to integers that compare as the floats do, both zeros alike; unorder is its inverse.
func order(f float32) int64 {
	b := math.Float32bits(f)
	if b>>31 != 0 {
		return -int64(b & math.MaxInt32)
	}
	return int64(b)
}

func unorder(i int64) float32 {
	if i < 0 {
		return -math.Float32frombits(uint32(-i))
	}
	return math.Float32frombits(uint32(i))
}

// shares leaves in the first head's scores, up to a factor, what share of the mass each of n places has, summed over the heads: the sum of their softmaxes, which are left, unnormalised, in
// the others'. So none outshouts the others, and a place that matters a little to many heads may come before one that matters to a single one. Of one head alone the scores stay.
func shares(k Kernels, scores []float32, ld, heads, n int) {
	if heads == 1 {
		return
	}
	sum := scores[:n]
	own := exponentials(k, sum)
	if own == 0 {
		own = 1
	}
	for g := 1; g < heads; g++ {
		x := scores[g*ld:][:n]
		if all := exponentials(k, x); all > 0 {
			k.AddScaled(sum, x, own/all)
		}
	}
}

// exponentials replaces x by its exponentials, up to a factor, and returns their sum: 0, and all are, where no element says anything. What is no number counts as nothing.
func exponentials(k Kernels, x []float32) float32 {
	top := k.Max(x)
	if top-top == 0 {
		if sum := k.Weigh(x, top); sum-sum == 0 {
			return sum
		}
	}
	var sum float32
	for i, v := range x {
		if v-v != 0 || top-top != 0 {
			x[i] = 0
		}
		sum += x[i]
	}
	return sum
}

// eachBest calls f with the places of the want largest elements of x, of equal ones the earlier, in order. NaN is never among them.
func eachBest(k Kernels, x []float32, want int, f func(i int)) {
	t, ties := kthLargest(k, x, want)
	for i, v := range x {
		tied := v == t && ties > 0
		if tied {
			ties--
		}
		if tied || v > t {
			f(i)
		}
	}
}

// bestOf is eachBest by vector masks: it sets the bits of those elements and clears the others, bit i%PageTokens of masks[i/PageTokens].
func bestOf(k Kernels, x []float32, want int, masks []uint16) {
	t, _ := kthLargest(k, x, want)
	whole := len(x) / PageTokens
	k.Lanes(masks[:whole], x[:whole*PageTokens], t)
	if rest := x[whole*PageTokens:]; len(rest) > 0 {
		masks[whole] = 0
		for i, v := range rest {
			if v >= t {
				masks[whole] |= 1 << i
			}
		}
	}
	over := -want // too many only where elements tie at t
	for _, m := range masks {
		over += bits.OnesCount16(m)
	}
	for j := len(masks) - 1; over > 0; j-- {
		for i := PageTokens - 1; i >= 0 && over > 0; i-- {
			if masks[j]>>i&1 != 0 && x[j*PageTokens+i] == t {
				masks[j] &^= 1 << i
				over--
			}
		}
	}
}
