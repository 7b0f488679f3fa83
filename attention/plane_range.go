package attention

import (
	"fmt"
	"sync"

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

// channelCodes is what turns a block's keys into codes, on its way.
type channelCodes struct {
	lo, hi    []uint16
	zero, inv []float32
}

var channelScratch = sync.Pool{New: func() any { return new(channelCodes) }}

// Append implements Plane.
func (p BlockRange) Append(dst []byte, r Rows) {
	if r.To < BlockTokens {
		return
	}
	dim, enc := r.Dim, r.encoder()
	low, step := as[uint16](dst)[:dim], as[uint16](dst)[dim:2*dim]
	x := channelScratch.Get().(*channelCodes)
	defer channelScratch.Put(x)
	x.lo, x.hi, x.zero, x.inv = grow(x.lo, dim), grow(x.hi, dim), grow(x.zero, dim), grow(x.inv, dim)
	enc.ChannelBounds(x.lo, x.hi, r.K[:BlockTokens*dim])
	for c, lo := range x.lo {
		x.zero[c] = tensor.F16ToF32(lo)
		low[c], step[c] = lo, halfUp((tensor.F16ToF32(x.hi[c])-x.zero[c])/float32(int(1)<<p.Bits-1))
		x.inv[c] = 0
		if s := tensor.F16ToF32(step[c]); s > 0 {
			x.inv[c] = 1 / s
		}
	}
	codes := dst[p.HeadBytes(dim):]
	clear(codes)
	enc.EncodeChannels(codes, p.Bits, x.zero, x.inv, r.K[:BlockTokens*dim])
}

// halfUp rounds x ≥ 0 to fp16, upwards, so that codes reach the end of the range.
func halfUp(x float32) uint16 {
	h := tensor.F32ToF16(x)
	if tensor.F16ToF32(h) < x {
		h++
	}
	return h
}
