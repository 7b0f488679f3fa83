package attention

import (
	"math"
	"sync"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Bounds8 is Bounds of pages of PageTokens tokens in a byte a bound: u of low_c + step_c·u, with low_c the channel's minimum in the block and step_c a 127th of its range
// there; minima are rounded down and maxima up, so that a bound still bounds. That is 9/16 of the bytes, and integer products in place of float ones. Seven bits, so that
// two products of bytes fit 16 bits. Codes are written when a block is full; the block being filled has none, and is scored from its keys.
//
// Layout of a block: fp16 low[dim], fp16 step[dim], filled up to a cache line, then for every four channels 64 bytes of minima and 64 of maxima: byte 4p+b is channel b of page p.
type Bounds8 struct{}

// boundTop is the largest code.
const boundTop = 127

// Name implements Plane.
func (Bounds8) Name() string { return "bounds8:16" }

// HeadBytes is the size of what stands before the codes.
func (Bounds8) HeadBytes(dim int) int { return (4*dim + 63) / 64 * 64 }

// BlockBytes implements Plane.
func (p Bounds8) BlockBytes(dim int) int { return p.HeadBytes(dim) + (dim+3)/4*128 }

// wideBounds are fp16 bounds of one block on their way to bytes.
var wideBounds = sync.Pool{New: func() any { return new([]uint16) }}

// Append implements Plane.
func (p Bounds8) Append(dst []byte, r Rows) {
	if r.To < BlockTokens {
		return
	}
	dim := r.Dim
	pooled := wideBounds.Get().(*[]uint16)
	defer wideBounds.Put(pooled)
	*pooled = grow(*pooled, 2*dim*BlockPages)
	bounds := *pooled
	r.From = 0
	r.encoder().EncodeBounds(bounds, PageTokens, r)
	head, codes := as[uint16](dst[:4*dim]), dst[p.HeadBytes(dim):]
	for c := range dim {
		minima, maxima := bounds[2*c*BlockPages:][:BlockPages], bounds[(2*c+1)*BlockPages:][:BlockPages]
		lo, hi := minima[0], maxima[0]
		for i, x := range minima {
			if halfLess(x, lo) {
				lo = x
			}
			if halfLess(hi, maxima[i]) {
				hi = maxima[i]
			}
		}
		low := tensor.F16ToF32(lo)
		step := halfUp((tensor.F16ToF32(hi) - low) / boundTop)
		head[c], head[dim+c] = lo, step
		inv := float64(0)
		if s := tensor.F16ToF32(step); s > 0 {
			inv = 1 / float64(s)
		}
		at := codes[c/4*128+c%4:]
		for i := range minima {
			at[4*i] = boundCode(math.Floor(float64(tensor.F16ToF32(minima[i])-low) * inv))
			at[64+4*i] = boundCode(math.Ceil(float64(tensor.F16ToF32(maxima[i])-low) * inv))
		}
	}
}

// boundCode is a code in range; NaN, which a key of no number leaves, is 0.
func boundCode(u float64) byte {
	if !(u > 0) {
		return 0
	}
	return byte(min(u, boundTop))
}

// BoundKernels is the part of Kernels that works on Bounds8.
type BoundKernels interface {
	// PageBounds8 scores the pages of full blocks of a slab of a Bounds8 plane, those of blocks[i] at dst[g*ld+i*BlockPages:]: Σ_c q_c·(min_c+max_c)/2 + reach·|q_c|·(max_c−min_c)/2. A reach of 1 gives the upper bounds of PageBounds.
	// tmp is scratch of TmpBytes. What ready asks for is left there.
	PageBounds8(dst []float32, ld int, q []float32, group, dim int, plane []byte, blocks []int32, reach float32, ready Ready, tmp []byte)
}

// Ready is a group's queries as PageBounds8 has prepared them for the blocks that it scored, kept for a BlockRangeDot of the same blocks: both planes hold a channel between the same
// bounds of a block, so that a query scaled by one's steps is one scaled by the other's, but for a number. The zero value asks for nothing and has nothing.
type Ready struct {
	Data   []byte  // of each block in turn, ReadyBytes; an implementation may leave it alone, and then reads it neither
	Bits   int     // of the BlockRange plane
	Shrink float32 // what BlockRangeDot is to subtract, as it defines that
}

// ReadyBytes is what a block of a group's queries takes of Ready.Data: bytes of every channel and four numbers a head.
func ReadyBytes(group, dim int) int { return (group*(dim+16) + 63) / 64 * 64 }

// from is r of the blocks from the b-th on.
func (r Ready) from(b, group, dim int) Ready {
	if len(r.Data) > 0 {
		r.Data = r.Data[b*ReadyBytes(group, dim):]
	}
	return r
}

// PageBounds8 implements Kernels.
func (Portable) PageBounds8(dst []float32, ld int, q []float32, group, dim int, plane []byte, blocks []int32, reach float32, _ Ready, _ []byte) {
	size := Bounds8{}.BlockBytes(dim)
	for i, b := range blocks {
		blockBounds8(dst[i*BlockPages:], ld, q, group, dim, plane[int(b)*size:][:size], reach)
	}
}

// blockBounds8 scores one block.
func blockBounds8(dst []float32, ld int, q []float32, group, dim int, block []byte, reach float32) {
	low := as[uint16](block[:4*dim])
	step, codes := low[dim:], block[Bounds8{}.HeadBytes(dim):]
	for g := range group {
		out := dst[g*ld:][:BlockPages]
		clear(out)
		var base float32
		for c, x := range q[g*dim:][:dim] {
			base += x * tensor.F16ToF32(low[c])
			s, at := x*tensor.F16ToF32(step[c]), codes[c/4*128+c%4:]
			size := reach * max(s, -s)
			hi, lo := (s+size)/2, (s-size)/2
			for p := range out {
				out[p] += hi*float32(at[64+4*p]) + lo*float32(at[4*p])
			}
		}
		for p := range out {
			out[p] += base
		}
	}
}
