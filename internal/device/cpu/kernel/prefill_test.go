package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
)

// newHead is n tokens in blocks that stand in any order.
func newHead(t testing.TB, r *rand.Rand, dim, n int) *attention.Head {
	h := &attention.Head{Dim: dim, N: n}
	blocks := h.Blocks()
	for _, b := range r.Perm(blocks) {
		h.Table = append(h.Table, int32(b))
	}
	size := blocks * attention.BlockTokens * dim
	h.K, h.V = guarded[uint16](t, size), guarded[uint16](t, size)
	for i := range h.K {
		h.K[i], h.V[i] = tensor.F32ToF16(float32(r.NormFloat64())), tensor.F32ToF16(float32(r.NormFloat64()))
	}
	for i := n; i < blocks*attention.BlockTokens; i++ { // rows that were never written may hold anything
		for c := range dim {
			h.K[int(h.Row(i))*dim+c], h.V[int(h.Row(i))*dim+c] = 0x7e00, 0x7e00
		}
	}
	return h
}

// exactAttention is attention of one query row by its definition.
func exactAttention(h *attention.Head, q []float32, first, end int) []float64 {
	logits, top, sum := make([]float64, end-first), math.Inf(-1), 0.0
	for i := range logits {
		for c, x := range q {
			logits[i] += float64(x) * float64(tensor.F16ToF32(h.K[int(h.Row(first+i))*h.Dim+c]))
		}
		top = max(top, logits[i])
	}
	out := make([]float64, h.Dim)
	for i, l := range logits {
		w := math.Exp(l - top)
		sum += w
		for c := range out {
			out[c] += w * float64(tensor.F16ToF32(h.V[int(h.Row(first+i))*h.Dim+c]))
		}
	}
	for c := range out {
		out[c] /= sum
	}
	return out
}

func prefill(t testing.TB, k Kernels, h *attention.Head, q []float32, pos, rows, group, window int) []float32 {
	stride := group*h.Dim + 3
	p := &Prefill{Dst: guarded[float32](t, rows*stride-3), Q: guarded[float32](t, rows*stride-3), Stride: stride, Head: h, Pos: pos, Rows: rows, Group: group, Window: window,
		Tmp: guarded[float32](t, PrefillTmp(rows, group, h.Dim))}
	for i := range p.Tmp {
		p.Tmp[i] = nan
	}
	for r := range rows {
		copy(p.Q[r*stride:], q[r*group*h.Dim:][:group*h.Dim])
	}
	k.Prefill(p)
	out := make([]float32, 0, rows*group*h.Dim)
	for r := range rows {
		out = append(out, p.Dst[r*stride:][:group*h.Dim]...)
	}
	return out
}

func TestPrefill(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(1)
		for _, dim := range dims {
			for _, group := range []int{1, 3, 7} {
				for _, c := range []struct{ pos, rows, window int }{{0, 1, 0}, {0, 37, 0}, {250, 20, 0}, {500, 13, 0}, {511, 2, 0}, {700, 9, 300}, {5, 9, 4}, {600, 8, 1}} {
					h := newHead(t, r, dim, c.pos+c.rows)
					q := fillNormal(r, make([]float32, c.rows*group*dim))
					for i := range q {
						q[i] *= 2 / float32(math.Sqrt(float64(dim)))
					}
					got := prefill(t, k, h, q, c.pos, c.rows, group, c.window)
					for _, row := range []int{0, c.rows / 2, c.rows - 1} {
						first, end := 0, c.pos+row+1
						if c.window > 0 {
							first = max(0, end-c.window)
						}
						for g := range group {
							at := (row*group + g) * dim
							for i, want := range exactAttention(h, q[at:][:dim], first, end) {
								near(t, fmt.Sprintf("dim %d group %d %+v: row %d head %d channel %d", dim, group, c, row, g, i), got[at+i], want, 1e-5*(1+math.Abs(want)))
							}
						}
					}
				}
			}
		}
	})
}

// TestPrefillTiles holds that a row's bits do not depend on the tile that it came in.
func TestPrefillTiles(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		r := newRand(2)
		for _, window := range []int{0, 100} {
			const dim, group, rows, pos = 64, 3, 40, 490
			h, q := newHead(t, r, dim, pos+rows), fillNormal(r, make([]float32, rows*group*dim))
			whole := prefill(t, k, h, q, pos, rows, group, window)
			for lo := 0; lo < rows; {
				n := min(rows-lo, 1+r.IntN(11))
				part := prefill(t, k, h, q[lo*group*dim:], pos+lo, n, group, window)
				for i, v := range part {
					if w := whole[lo*group*dim+i]; v != w {
						t.Fatalf("window %d: row %d is %v in a tile of its own and %v in the whole", window, lo+i/(group*dim), v, w)
					}
				}
				lo += n
			}
		}
	})
}
