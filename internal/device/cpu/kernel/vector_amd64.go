//go:build !noasm

package kernel

import (
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
)

// vector is Kernels in machine code. What a level has no routine for, or a shape that its routines do not cover, is portable.
type vector struct {
	portable
	*routines
}

// ptr is the address of a slice's first element; machine code gets lengths apart.
func ptr[T any](s []T) *T { return unsafe.SliceData(s) }

// tile is the next number of query heads to take of the left ones, at most most at a time and as even as can be.
func tile(left, most int) int {
	tiles := (left + most - 1) / most
	return (left + tiles - 1) / tiles
}

// vectorDim says whether machine code handles rows of dim channels.
func vectorDim(dim int) bool { return dim > 0 && dim%32 == 0 }

// checkGather panics, as plain Go would, where a gather's operands are shorter than its shape says. Row lists ascend almost always, so the ends are looked at.
func checkGather(vec, lds []float32, ld, group, dim int, rows []uint16, at []int32) {
	n := len(at)
	_ = vec[group*dim-1]
	_ = lds[(group-1)*ld+n-1]
	_ = rows[int(at[0])*dim:][dim-1]
	_ = rows[int(at[n-1])*dim:][dim-1]
}

// dotAhead is how far ahead a product of gathered rows asks for them, in fp16 values.
const dotAhead = 1280

// Dot implements attention.Kernels.
func (v vector) Dot(dst []float32, ld int, q []float32, group, dim int, rows []uint16, at []int32) {
	if !vectorDim(dim) {
		v.portable.Dot(dst, ld, q, group, dim, rows, at)
		return
	}
	n := len(at)
	if n == 0 || group == 0 {
		return
	}
	checkGather(q, dst, ld, group, dim, rows, at)
	for g := 0; g < group; {
		h := tile(group-g, len(v.dot))
		v.dot[h-1](ptr(dst[g*ld:]), ld, ptr(q[g*dim:]), dim, ptr(rows), ptr(at), n, max(dotAhead/dim, 4))
		g += h
	}
}

// accumulateTile is how many rows are taken at a time, 64 or 32 channels of all of them before the next channels: as many as stay in the first-level cache. Rows are asked for so far ahead of
// the tile's start that none is used before: passes over channels ask for their share of the next tile's each, and wide rows need less beyond that.
func accumulateTile(dim int) (rows, ahead int) {
	if dim <= 64 {
		return attention.BlockTokens, 24 // one pass: nothing comes again
	}
	rows = max(4096/dim, 16)
	return rows, rows - rows*64/dim + 3<<15/(dim*dim)
}

// Accumulate implements attention.Kernels.
func (v vector) Accumulate(acc, w []float32, ld, group, dim int, rows []uint16, at []int32) {
	if !vectorDim(dim) {
		v.portable.Accumulate(acc, w, ld, group, dim, rows, at)
		return
	}
	if len(at) == 0 || group == 0 {
		return
	}
	checkGather(acc, w, ld, group, dim, rows, at)
	tall, far := accumulateTile(dim)
	for g := 0; g < group; {
		h := tile(group-g, len(v.accumulate32))
		for i := 0; i < len(at); i += tall {
			now, ahead := at[i:min(i+tall, len(at))], at[min(i+far, len(at)-1):]
			for c := 0; c < dim; {
				run, n := v.accumulate32[h-1], 32
				if v.accumulate64 != nil && dim-c >= 64 {
					run, n = v.accumulate64[h-1], 64
				}
				next := ahead[min(c*tall/dim, len(ahead)-1):] // each run of channels asks for its share of the next rows
				a, wi := acc[g*dim+c:], w[g*ld+i:]
				if run(ptr(a), dim, ptr(wi), ld, ptr(rows), c, ptr(now), len(now), ptr(next), &next[len(next)-1]) != 0 {
					accumulateFinite(a, wi, ld, h, dim, n, rows[c:], now)
				}
				c += n
			}
		}
		g += h
	}
}

// accumulateFinite is the slow road of a block with infinities or NaNs: rows of weight zero do not count.
func accumulateFinite(acc, w []float32, ld, heads, dim, channels int, rows []uint16, at []int32) {
	for i, r := range at {
		row := rows[int(r)*dim:][:channels]
		for g := range heads {
			if wi := w[g*ld+i]; wi != 0 {
				a := acc[g*dim:][:channels]
				for c, x := range row {
					a[c] += wi * tensor.F16ToF32(x)
				}
			}
		}
	}
}

// fetchMost is how much of what comes next is asked for, in fp16 values: by then the hardware has seen where it goes.
const fetchMost = 1536

// Fetch implements attention.Kernels.
func (v vector) Fetch(next []uint16) {
	if v.fetch != nil && len(next) > 0 {
		v.fetch(ptr(next), min(len(next), fetchMost))
	}
}

// FetchRows implements attention.Kernels.
func (v vector) FetchRows(rows []uint16, dim int, at []int32) {
	if v.fetchRows != nil && len(at) > 0 {
		v.fetchRows(ptr(rows), dim, ptr(at), len(at))
	}
}

// Max implements attention.Kernels.
func (v vector) Max(x []float32) float32 { return v.max(ptr(x), len(x)) }

// Exp implements attention.Kernels.
func (v vector) Exp(x []float32, top float32) (sum float32) { return v.exp(ptr(x), len(x), top) }

// Weigh implements attention.Kernels.
func (v vector) Weigh(x []float32, top float32) (sum float32) { return v.weigh(ptr(x), len(x), top) }

// Louder implements attention.Kernels.
func (v vector) Louder(best, x []float32, shift float32) {
	v.loud(ptr(best[:len(x)]), ptr(x), len(x), shift)
}

// AddScaled implements attention.Kernels.
func (v vector) AddScaled(dst, x []float32, f float32) {
	v.addScaled(ptr(dst[:len(x)]), ptr(x), len(x), f)
}

// AddRows implements attention.Kernels.
func (v vector) AddRows(dst, slab []float32, at []int32) {
	dim, n := len(dst), len(at)
	if !vectorDim(dim) || n == 0 {
		v.portable.AddRows(dst, slab, at)
		return
	}
	for _, r := range at {
		_ = slab[int(r)*dim:][dim-1]
	}
	v.addRows(ptr(dst), dim, ptr(slab), ptr(at), n)
}

// Above implements attention.Kernels.
func (v vector) Above(w []float32, t float32) (sum float32, n int) {
	sum, count := v.above(ptr(w), len(w), t)
	return sum, int(count)
}

// Lanes implements attention.Kernels.
func (v vector) Lanes(mask []uint16, w []float32, t float32) {
	pages := len(w) / 16
	v.lanes(ptr(mask[:pages]), ptr(w), pages, t)
}

// ReadBandwidth implements Roofline.
func (v vector) ReadBandwidth(buf []byte) uint64 { return v.read(ptr(buf), len(buf)&^511) }

// peakChains is the number of independent operations of one turn of the peak routines.
const peakChains = 12

// PeakFMA implements Roofline.
func (v vector) PeakFMA(n int) int {
	n = n/(peakChains*v.fmaLanes) + 1
	v.fmaPeak(n)
	return n * peakChains * v.fmaLanes
}

// PeakVNNI implements Roofline.
func (v vector) PeakVNNI(n int) int {
	if v.vnniPeak == nil {
		return v.portable.PeakVNNI(n)
	}
	n = n/(peakChains*64) + 1
	v.vnniPeak(n)
	return n * peakChains * 64
}
