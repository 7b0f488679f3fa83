package attention

import (
	"math"
	"sync"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Middles holds the middle of every channel's bounds in a page of PageTokens tokens, in a byte: u of low_c + step_c·u, with low_c the channel's minimum in the block and step_c a 127th
// of its range there. Middles tell pages apart nearly as well as Quest's bounds do, for half the bytes and half the products of bounds in bytes. Seven bits, so that two products of bytes
// fit 16 bits. Codes are written when a block is full; the block being filled has none, and is scored from its keys.
//
// Layout of a block: fp16 low[dim], fp16 step[dim], filled up to a cache line, then 64 bytes for every four channels: byte 4p+b is channel b of page p.
type Middles struct{}

// middleTop is the largest code.
const middleTop = 127

// Name implements Plane.
func (Middles) Name() string { return "middles:16" }

// HeadBytes is the size of what stands before the codes.
func (Middles) HeadBytes(dim int) int { return (4*dim + 63) / 64 * 64 }

// BlockBytes implements Plane.
func (p Middles) BlockBytes(dim int) int { return p.HeadBytes(dim) + (dim+3)/4*64 }

// wideBounds are fp16 bounds of one block on their way to bytes.
var wideBounds = sync.Pool{New: func() any { return new([]uint16) }}

// Append implements Plane.
func (p Middles) Append(dst []byte, r Rows) {
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
		step := halfUp((tensor.F16ToF32(hi) - low) / middleTop)
		head[c], head[dim+c] = lo, step
		inv := float64(0)
		if s := tensor.F16ToF32(step); s > 0 {
			inv = 1 / float64(s)
		}
		at := codes[c/4*64+c%4:]
		for i := range minima {
			at[4*i] = middleCode(float64((tensor.F16ToF32(minima[i])+tensor.F16ToF32(maxima[i]))/2-low) * inv)
		}
	}
}

// middleCode is the nearest code; NaN, which a key of no number leaves, is 0.
func middleCode(u float64) byte {
	if !(u > 0) {
		return 0
	}
	return byte(math.Round(min(u, middleTop)))
}

// MiddleKernels is the part of Kernels that works on Middles.
type MiddleKernels interface {
	// PageMiddles scores the pages of full blocks of a slab of a Middles plane, those of blocks[i] at dst[g*ld+i*BlockPages:]: q_g times the middles of the page. tmp is scratch of
	// TmpBytes. What ready asks for is left there.
	PageMiddles(dst []float32, ld int, q []float32, group, dim int, plane []byte, blocks []int32, ready Ready, tmp []byte)
}

// Ready is a group's queries as PageMiddles has prepared them for the blocks that it scored, kept for a BlockRangeDot of the same blocks: both planes hold a channel between the same
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

// PageMiddles implements Kernels.
func (Portable) PageMiddles(dst []float32, ld int, q []float32, group, dim int, plane []byte, blocks []int32, _ Ready, _ []byte) {
	size, head := Middles{}.BlockBytes(dim), Middles{}.HeadBytes(dim)
	for i, b := range blocks {
		block := plane[int(b)*size:][:size]
		low := as[uint16](block[:4*dim])
		step, codes := low[dim:], block[head:]
		for g := range group {
			out := dst[g*ld+i*BlockPages:][:BlockPages]
			clear(out)
			var base float32
			for c, x := range q[g*dim:][:dim] {
				base += x * tensor.F16ToF32(low[c])
				s, at := x*tensor.F16ToF32(step[c]), codes[c/4*64+c%4:]
				for p := range out {
					out[p] += s * float32(at[4*p])
				}
			}
			for p := range out {
				out[p] += base
			}
		}
	}
}
