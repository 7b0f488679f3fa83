package cuda

import (
	"math"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
)

// The kernels' arithmetic in plain Go, one KV head at a time: what they must agree with.

// refHead is one KV head of one sequence: fp16 rows as floats, and what the cache derives from them.
type refHead struct {
	dim, n int
	k, v   []float32 // [n][dim]

	low, step      []float32 // [blocks][dim]
	largest, small []uint8   // [full pages][dim]
	keys, values   []uint8   // [n][dim]; keys of full pages only
	vlow, vstep    []float32 // [n][dim/32]
	tokens         []uint8   // [n][dim]
	tlow, tstep    []float32 // [n]
	sum            []float64 // [dim]
	encodedPages   int
	valueGroup     func(c int) int
}

func half(x float32) float32 { return tensor.F16ToF32(tensor.F32ToF16(x)) }

// halfUp rounds to fp16, never down.
func halfUp(x float32) float32 {
	h := tensor.F32ToF16(x)
	if tensor.F16ToF32(h) < x {
		h++ // steps are not negative
	}
	return tensor.F16ToF32(h)
}

func code(x, step float32) uint8 {
	inverse := float32(0)
	if step > 0 {
		inverse = 1 / step
	}
	return uint8(min(max(int(x*inverse+0.5), 0), 15))
}

func newRefHead(dim int, k, v []float32) *refHead {
	h := &refHead{dim: dim, n: len(k) / dim, k: k, v: v}
	h.encodedPages = h.n / attention.PageTokens
	h.valueGroup = func(c int) int { return c/64*2 + c%8/4 }
	h.encodeKeys()
	h.keys = make([]uint8, len(k))
	for t := range h.encodedPages * attention.PageTokens {
		b := t / attention.BlockTokens
		for c := range dim {
			h.keys[t*dim+c] = code(k[t*dim+c]-h.low[b*dim+c], h.step[b*dim+c])
		}
	}
	h.encodeTokens()
	h.sum = make([]float64, dim)
	for i, x := range v {
		h.sum[i%dim] += float64(x)
	}
	return h
}

func (h *refHead) encodeKeys() {
	dim, pages := h.dim, h.encodedPages
	pmin, pmax := make([]float32, pages*dim), make([]float32, pages*dim)
	blocks := (pages + attention.BlockPages - 1) / attention.BlockPages
	h.low, h.step = make([]float32, blocks*dim), make([]float32, blocks*dim)
	h.largest, h.small = make([]uint8, pages*dim), make([]uint8, pages*dim)
	for b := range blocks {
		for c := range dim {
			lo, hi := float32(math.Inf(1)), float32(math.Inf(-1))
			for p := b * attention.BlockPages; p < min(pages, (b+1)*attention.BlockPages); p++ {
				l, m := float32(math.Inf(1)), float32(math.Inf(-1))
				for t := range attention.PageTokens {
					x := h.k[(p*attention.PageTokens+t)*dim+c]
					l, m = min(l, x), max(m, x)
				}
				pmin[p*dim+c], pmax[p*dim+c] = l, m
				lo, hi = min(lo, l), max(hi, m)
			}
			h.low[b*dim+c], h.step[b*dim+c] = lo, halfUp((hi-lo)/15)
		}
	}
	for p := range pages {
		for c := range dim {
			at := p/attention.BlockPages*dim + c
			step, inverse := h.step[at], float32(0)
			if step > 0 {
				inverse = 1 / step
			}
			l, m := pmin[p*dim+c]-h.low[at], pmax[p*dim+c]-h.low[at]
			u := min(max(int(math.Floor(float64(l*inverse))), 0), 15)
			if u > 0 && step*float32(u) > l {
				u--
			}
			w := min(max(int(math.Ceil(float64(m*inverse))), 0), 15)
			if w < 15 && step*float32(w) < m {
				w++
			}
			h.small[p*dim+c], h.largest[p*dim+c] = uint8(u), uint8(w)
		}
	}
}

func (h *refHead) encodeTokens() {
	dim, groups := h.dim, h.dim/32
	h.values, h.tokens = make([]uint8, len(h.v)), make([]uint8, len(h.k))
	h.vlow, h.vstep = make([]float32, h.n*groups), make([]float32, h.n*groups)
	h.tlow, h.tstep = make([]float32, h.n), make([]float32, h.n)
	for t := range h.n {
		lo, hi := make([]float32, groups), make([]float32, groups)
		for g := range groups {
			lo[g], hi[g] = float32(math.Inf(1)), float32(math.Inf(-1))
		}
		tlo, thi := float32(math.Inf(1)), float32(math.Inf(-1))
		for c := range dim {
			g, x := h.valueGroup(c), h.v[t*dim+c]
			lo[g], hi[g] = min(lo[g], x), max(hi[g], x)
			tlo, thi = min(tlo, h.k[t*dim+c]), max(thi, h.k[t*dim+c])
		}
		for g := range groups {
			h.vlow[t*groups+g], h.vstep[t*groups+g] = lo[g], half((hi[g]-lo[g])/15)
		}
		h.tlow[t], h.tstep[t] = tlo, half((thi-tlo)/15)
		for c := range dim {
			g := h.valueGroup(c)
			h.values[t*dim+c] = code(h.v[t*dim+c]-lo[g], h.vstep[t*groups+g])
			h.tokens[t*dim+c] = code(h.k[t*dim+c]-tlo, h.tstep[t])
		}
	}
}

// logit is q·k in octaves, exactly.
func (h *refHead) logit(q []float32, t int) float64 {
	s := 0.0
	for c, x := range q {
		s += float64(x) * float64(h.k[t*h.dim+c])
	}
	return s * math.Log2E / math.Sqrt(float64(h.dim))
}

// estimate is the logit from codes; magnitude is the sum of the terms' absolute values, which bounds what rounding can do.
func (h *refHead) estimate(q []float32, t int, byToken bool) (s, magnitude float64) {
	b := t / attention.BlockTokens
	for c, x := range q {
		var base, rest float64
		if byToken {
			base, rest = float64(h.tlow[t]), float64(h.tstep[t])*float64(h.tokens[t*h.dim+c])
		} else {
			base, rest = float64(h.low[b*h.dim+c]), float64(h.step[b*h.dim+c])*float64(h.keys[t*h.dim+c])
		}
		s += float64(x) * (base + rest)
		magnitude += math.Abs(float64(x)) * (math.Abs(base) + rest)
	}
	f := math.Log2E / math.Sqrt(float64(h.dim))
	return s * f, magnitude * f
}

// shrink is what the tail counts of a token's estimated weight: noise of variance σ² in an exponent inflates the mean by exp(σ²/2).
func (h *refHead) shrink(q []float32, t int) float64 {
	if t/attention.PageTokens == (h.n-1)/attention.PageTokens {
		return 1
	}
	noise := 0.0
	for c, x := range q {
		s := float64(x) * float64(h.step[t/attention.BlockTokens*h.dim+c])
		noise += s * s / 12
	}
	return math.Exp(-noise / float64(h.dim) / 2)
}

// bound is the page's score, and the magnitude of its terms.
func (h *refHead) bound(q []float32, page int, reach float64) (s, magnitude float64) {
	b := page / attention.BlockPages
	for c, x := range q {
		far, near := float64(h.small[page*h.dim+c]), float64(h.largest[page*h.dim+c])
		if x > 0 {
			far, near = near, far
		}
		base, rest := float64(h.low[b*h.dim+c]), float64(h.step[b*h.dim+c])*(far*(1+reach)+near*(1-reach))/2
		s += float64(x) * (base + rest)
		magnitude += math.Abs(float64(x)) * (math.Abs(base) + rest)
	}
	f := math.Log2E / math.Sqrt(float64(h.dim))
	return s * f, magnitude * f
}

// blockBound is how high logits may be in a block, half of the way from the middle of its channels' ranges, in octaves, and the magnitude of its terms.
func (h *refHead) blockBound(q []float32, b int) (s, magnitude float64) {
	for c, x := range q {
		low, rest := float64(h.low[b*h.dim+c]), 15*float64(h.step[b*h.dim+c])
		if x > 0 {
			rest *= 0.75
		} else {
			rest *= 0.25
		}
		s += float64(x) * (low + rest)
		magnitude += math.Abs(float64(x)) * (math.Abs(low) + rest)
	}
	f := math.Log2E / math.Sqrt(float64(h.dim))
	return s * f, magnitude * f
}

// value is channel c of token t, exactly or from codes.
func (h *refHead) value(t, c int, exact bool) float64 {
	if exact {
		return float64(h.v[t*h.dim+c])
	}
	at := t*(h.dim/32) + h.valueGroup(c)
	return float64(h.vlow[at]) + float64(h.vstep[at])*float64(h.values[t*h.dim+c])
}

// attend is softmax attention over tokens with given logits, in octaves.
func (h *refHead) attend(tokens []int32, logits []float64, exact []bool) []float64 {
	out, top, sum := make([]float64, h.dim), math.Inf(-1), 0.0
	for _, x := range logits {
		top = max(top, x)
	}
	for i, t := range tokens {
		w := math.Exp2(logits[i] - top)
		sum += w
		for c := range out {
			out[c] += w * h.value(int(t), c, exact[i])
		}
	}
	for c := range out {
		out[c] /= sum
	}
	return out
}

// dense is attention over everything.
func (h *refHead) dense(q []float32) []float64 {
	tokens, logits, exact := make([]int32, h.n), make([]float64, h.n), make([]bool, h.n)
	for t := range tokens {
		tokens[t], logits[t], exact[t] = int32(t), h.logit(q, t), true
	}
	return h.attend(tokens, logits, exact)
}

// apart is ‖a−b‖/‖b‖; NaN if a has one.
func apart(a []float32, b []float64) float64 {
	var d, n float64
	for i := range b {
		x := float64(a[i]) - b[i]
		d += x * x
		n += b[i] * b[i]
	}
	return math.Sqrt(d / max(n, 1e-300))
}
