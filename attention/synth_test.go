package attention

import (
	"math"
	"math/rand/v2"

	"github.com/twilight-go/twilight/internal/tensor"
)

// failer is what helpers need of a *testing.T or a *rapid.T.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// text is the keys and values of one synthetic head in float64 (exact: they are fp16 numbers), and where they stand in a cache.
type text struct {
	n, dim int
	k, v   [][]float64
	kh, vh []uint16 // [n][dim]
}

// newText imitates what trained models keep: a few outlier channels with a large mean, topics that last some dozens of tokens, and noise.
func newText(rng *rand.Rand, n, dim int) *text {
	x := &text{n: n, dim: dim, kh: make([]uint16, n*dim), vh: make([]uint16, n*dim)}
	mean, topic := make([]float64, dim), make([]float64, dim)
	for c := range mean {
		mean[c] = rng.NormFloat64() * 0.3
		if rng.IntN(16) == 0 {
			mean[c] *= 30
		}
	}
	for t := range n {
		if t%41 == 0 {
			for c := range topic {
				topic[c] = rng.NormFloat64()
			}
		}
		for c := range dim {
			x.kh[t*dim+c] = tensor.F32ToF16(float32(mean[c] + topic[c] + 0.7*rng.NormFloat64()))
			x.vh[t*dim+c] = tensor.F32ToF16(float32(0.5*topic[c] + rng.NormFloat64()))
		}
	}
	x.k, x.v = widen(x.kh, dim), widen(x.vh, dim)
	return x
}

func widen(h []uint16, dim int) (rows [][]float64) {
	for at := 0; at < len(h); at += dim {
		row := make([]float64, dim)
		for c := range row {
			row[c] = float64(tensor.F16ToF32(h[at+c]))
		}
		rows = append(rows, row)
	}
	return rows
}

// queries makes a group's queries, scaled by 1/√dim. Each looks for a few of the text's tokens, so that attention is neither uniform nor on one token.
func (x *text) queries(rng *rand.Rand, group int) []float32 {
	q := make([]float32, group*x.dim)
	for g := range group {
		for range 3 {
			like := x.k[rng.IntN(x.n)]
			for c := range x.dim {
				q[g*x.dim+c] += float32((0.25*like[c] + 0.5*rng.NormFloat64()) / math.Sqrt(float64(x.dim)))
			}
		}
	}
	return q
}

// nan16 fills what nobody wrote: whoever reads it is found out.
const nan16 = 0x7e00

// place lays the text out as a cache does: blocks scattered over slabs that hold others too, planes brought up to date chunk by chunk.
func (x *text) place(rng *rand.Rand, planes []Plane) (Head, []string) {
	used := BlocksOf(x.n)
	all := used + rng.IntN(4)
	h := Head{Dim: x.dim, N: x.n}
	for _, b := range rng.Perm(all)[:used] {
		h.Table = append(h.Table, int32(b))
	}
	rows := all * BlockTokens * x.dim
	h.K, h.V = make([]uint16, rows), make([]uint16, rows)
	for i := range h.K {
		h.K[i], h.V[i] = nan16, nan16
	}
	var names []string
	for _, p := range planes {
		names = append(names, p.Name())
		size := (p.BlockBytes(x.dim) + 63) / 64 * 64
		slab := aligned(size * all)
		for i := range slab {
			slab[i] = 0xff
		}
		h.Planes, h.PlaneSize = append(h.Planes, slab), append(h.PlaneSize, size)
		for b := range used {
			clear(h.Plane(len(h.Planes)-1, b))
		}
	}
	for t := 0; t < x.n; {
		m := min(1+rng.IntN(100), x.n-t, BlockTokens-t%BlockTokens)
		b, from := t/BlockTokens, t%BlockTokens
		copy(h.Keys(b)[from*x.dim:], x.kh[t*x.dim:(t+m)*x.dim])
		copy(h.Values(b)[from*x.dim:], x.vh[t*x.dim:(t+m)*x.dim])
		for i, p := range planes {
			p.Append(h.Plane(i, b), Rows{K: h.Keys(b), V: h.Values(b), Dim: x.dim, From: from, To: from + m})
		}
		t += m
	}
	return h, names
}

// aligned is n bytes that start at a multiple of eight, as plane data must at least.
func aligned(n int) []byte {
	words := make([]float64, (n+7)/8)
	return asBytes(words)[:n]
}

// logits are one query's exact logits.
func (x *text) logits(q []float32) []float64 {
	s := make([]float64, x.n)
	for t, k := range x.k {
		for c, y := range k {
			s[t] += float64(q[c]) * y
		}
	}
	return s
}

// attend is the definition of attention over the tokens that are in: output, and the logarithm of the sum of exponentials.
func (x *text) attend(s []float64, in []bool) (o []float64, lse float64) {
	top := math.Inf(-1)
	for t, y := range s {
		if in[t] {
			top = max(top, y)
		}
	}
	o, sum := make([]float64, x.dim), 0.0
	for t, y := range s {
		if in[t] {
			w := math.Exp(y - top)
			sum += w
			for c, v := range x.v[t] {
				o[c] += w * v
			}
		}
	}
	for c := range o {
		o[c] /= sum
	}
	return o, top + math.Log(sum)
}

// from is the set of the tokens from the first-th on.
func (x *text) from(first int) []bool {
	in := make([]bool, x.n)
	for t := range in {
		in[t] = t >= first
	}
	return in
}

// distance is the largest difference of two vectors.
func distance(a []float32, b []float64) (d float64) {
	for i, x := range b {
		if e := math.Abs(float64(a[i]) - x); !(e <= d) {
			d = e
		}
	}
	return d
}
