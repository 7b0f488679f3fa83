package attention

import (
	"fmt"
	"math"

	"github.com/twilight-go/twilight/internal/tensor"
)

// BlockRange holds keys quantised per channel over a whole block: k ≈ low_c + step_c·u, with low_c the channel's minimum in the block and step_c a (2^Bits − 1)th of its
// range, rounded up to fp16. One scaled query then serves 256 tokens, where codes of pages need one every sixteen: preparing it no longer costs more than the scan.
// Codes are written when a block is full; the block being filled has none and is read exactly. Layout of a block: fp16 low[dim], fp16 step[dim], then its pages' packed codes.
type BlockRange struct {
	Bits int // 2, 4 or 8
}

// Name implements Plane.
func (p BlockRange) Name() string { return fmt.Sprintf("block-range:%d", p.Bits) }

// PageBytes is the size of one page's codes.
func (p BlockRange) PageBytes(dim int) int { return codePlaneBytes(dim, p.Bits) }

// HeadBytes is the size of what stands before the codes, filled up to a cache line.
func (p BlockRange) HeadBytes(dim int) int { return (4*dim + 63) / 64 * 64 }

// BlockBytes implements Plane.
func (p BlockRange) BlockBytes(dim int) int { return p.HeadBytes(dim) + BlockPages*p.PageBytes(dim) }

// Append implements Plane.
func (p BlockRange) Append(dst []byte, r Rows) {
	if r.To < BlockTokens {
		return
	}
	dim, head, size, top := r.Dim, p.HeadBytes(r.Dim), p.PageBytes(r.Dim), 1<<p.Bits-1
	low, step := as[uint16](dst)[:dim], as[uint16](dst)[dim:2*dim]
	codes := dst[head:]
	clear(codes)
	for c := range dim {
		var x [BlockTokens]float32
		lo, hi := float32(math.Inf(1)), negInf
		for t := range x {
			x[t] = tensor.F16ToF32(r.K[t*dim+c])
			lo, hi = min(lo, x[t]), max(hi, x[t])
		}
		low[c], step[c] = tensor.F32ToF16(lo), halfUp((hi-lo)/float32(top))
		inv := float32(0)
		if s := tensor.F16ToF32(step[c]); s > 0 {
			inv = 1 / s
		}
		for t := range x {
			putCode(codes[t/PageTokens*size:], p.Bits, t%PageTokens, c, quantise(x[t]-lo, inv, top))
		}
	}
}

// halfUp rounds x ≥ 0 to fp16, upwards, so that codes reach the end of the range.
func halfUp(x float32) uint16 {
	h := tensor.F32ToF16(x)
	if tensor.F16ToF32(h) < x {
		h++
	}
	return h
}
