package attention

import (
	"math"
	"sync"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Middles holds the middle of every channel's bounds in a page of PageTokens tokens, in the 4 bits of a BlockRange of the keys: low_c + step_c·u, with low_c the channel's minimum in the
// block and step_c a fifteenth of its range there. Middles tell pages apart nearly as well as Quest's bounds do, for a quarter of the bytes and half the products of bounds in bytes. A block's
// sixteen middles are as one page of codes, a page a token, so that what scans those scans these. Codes are written when a block is full; the block being filled has none, and its
// pages no scores. How far a page's keys lie from their middle is kept as one number, the mean over channels of half the bounds' range: it is what a single token in a page of others
// shows by. Layout of a block: fp16 low[dim], fp16 step[dim], filled up to a cache line, the packed codes, then float32 [BlockPages].
type Middles struct{}

// middleBits is the bits of a code.
const middleBits = 4

// Name implements Plane.
func (Middles) Name() string { return "middles:16" }

// HeadBytes is the size of what stands before the codes.
func (Middles) HeadBytes(dim int) int { return BlockRange{middleBits}.HeadBytes(dim) }

// PageBytes is the size of the codes.
func (Middles) PageBytes(dim int) int { return codePlaneBytes(dim, middleBits) }

// BlockBytes implements Plane.
func (p Middles) BlockBytes(dim int) int { return p.HeadBytes(dim) + p.PageBytes(dim) + 4*BlockPages }

// radii is the last part of a block.
func (p Middles) radii(block []byte, dim int) []float32 {
	return as[float32](block[p.HeadBytes(dim)+p.PageBytes(dim):])
}

// wideBounds are fp16 bounds of one block on their way to middles.
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
	head, codes, radii := as[uint16](dst[:4*dim]), dst[p.HeadBytes(dim):], p.radii(dst, dim)
	clear(codes) // and the radii behind them
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
		const top = 1<<middleBits - 1
		low := tensor.F16ToF32(lo)
		step := halfUp((tensor.F16ToF32(hi) - low) / top)
		head[c], head[dim+c] = lo, step
		inv := float32(0)
		if s := tensor.F16ToF32(step); s > 0 {
			inv = 1 / s
		}
		for i := range minima {
			lo, hi := tensor.F16ToF32(minima[i]), tensor.F16ToF32(maxima[i])
			if size := (hi - lo) / 2 / float32(dim); size < math.MaxFloat32 { // neither NaN nor infinite
				radii[i] += size
			}
			u := ((lo+hi)/2-low)*inv + 0.5
			if !(u > 0) { // NaN too, which a key of no number leaves
				u = 0
			}
			putCode(codes, middleBits, i, c, byte(min(u, top)))
		}
	}
}

// MiddleKernels is the part of Kernels that works on Middles.
type MiddleKernels interface {
	// PageMiddles scores the pages of full blocks, 32 at most, of a slab of a Middles plane, those of blocks[i] at dst[g*ld+i*BlockPages:]: q_g times the middles of the page and far[g] times its radius, less what Ready
	// asks to subtract. tmp is scratch of TmpBytes. The queries are left in ready, where it has room for them.
	PageMiddles(dst []float32, ld int, q []float32, group, dim int, plane []byte, blocks []int32, far []float32, ready Ready, tmp []byte)
	// PageTokens adds to what PageMiddles left in dst, for the same blocks, ln Σ_t exp(x_t − m) over the tokens of the page, x_t being q_g times a token's codes of a slab of a BlockRange plane of
	// as many bits, m the same of the page's middle, both of the channels of lines alone, 8 to each. It is right to a tenth. ready is as PageMiddles left it. tmp is scratch of TmpBytes less 128.
	PageTokens(dst []float32, ld int, q []float32, group, dim int, lines []int32, middles, codes []byte, blocks []int32, ready Ready, tmp []byte)
}

// Ready is a group's queries as PageMiddles has prepared them for the blocks that it scored, kept for a BlockRangeDot of the same blocks and as many bits: both planes hold a channel
// in the same steps. The zero value asks for nothing and has nothing.
type Ready struct {
	Data   []byte  // of each block in turn, ReadyBytes; an implementation may leave it alone, and then reads it neither
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
func (Portable) PageMiddles(dst []float32, ld int, q []float32, group, dim int, plane []byte, blocks []int32, far []float32, ready Ready, _ []byte) {
	size, head := Middles{}.BlockBytes(dim), Middles{}.HeadBytes(dim)
	for i, b := range blocks {
		block := plane[int(b)*size:][:size]
		rangeDot(dst[i*BlockPages:], ld, q, group, dim, middleBits, as[uint16](block[:4*dim]), block[head:], ready.Shrink)
		for g := range group {
			for p, x := range (Middles{}).radii(block, dim) {
				dst[g*ld+i*BlockPages+p] += far[g] * x
			}
		}
	}
}
