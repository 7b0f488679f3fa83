//go:build !noasm

package kernel

import (
	"runtime"
	"unsafe"

	"github.com/twilight-go/twilight/internal/tensor"
)

// vector is Kernels in machine code. What a level has no routine for, or a shape that its routines do not cover, is portable.
type vector struct {
	portable
	*routines
}

// ptr is the address of a slice's first element; machine code gets lengths apart.
func ptr[T any](s []T) *T { return unsafe.SliceData(s) }

// addr is the same as a number, for what may lie beyond the slice.
func addr[T any](s []T) uintptr { return uintptr(unsafe.Pointer(ptr(s))) }

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

// ahead is what a gather asks for while it computes: runs of memory, the one at hand and, when nothing is left of it, one for each entry of the list from at to last, then for each from first on with the rows
// of then. The generated code knows where the fields are, and counts on. Addresses are numbers: nothing is read there.
type ahead struct {
	p           uintptr // what is asked for next
	left        int     // bytes left of this run
	at, last    *int32
	rows        uintptr
	stride, run int // bytes of a row, and of a run
	first       *int32
	then        uintptr
	step        int // bytes from one request to the next, for one query head: nothing where the hardware does it by itself
}

// How far ahead rows are asked for, in bytes, if the list is that long: those that follow each other, for several query heads and for one, and others.
const (
	aheadRun  = 32 << 10
	aheadLone = 9 << 10
	aheadList = 16 << 10
)

// loneRun is from how many bytes on rows that follow each other are left to the hardware where there is one query head: it reads them in order, which the hardware foresees after a while, and so fast that
// requests would be in the way of its reads.
const loneRun = 64 << 10

// aheadOf begins so far ahead in the rows at; from their end on, the same rows of then are asked for. Rows that follow each other are one run. lone says that they are read in order, for one query head.
func aheadOf(lone bool, dim int, rows []uint16, at []int32, then []uint16) ahead {
	if len(then) == 0 {
		then = rows
	}
	n, stride, far := len(at), 2*dim, aheadRun
	a := ahead{at: &at[0], last: &at[n-1], rows: addr(rows), stride: stride, run: stride, first: &at[0], then: addr(then), step: 64}
	if int(at[n-1]-at[0]) != n-1 {
		a.at = &at[min(aheadList/stride, n/4)]
		a.p = a.rows + uintptr(int(*a.at)*stride)
		return a
	}
	if lone {
		far = aheadLone
		if n*stride >= loneRun {
			a.p, a.left, a.step = addr(at), 1<<62, 0
			return a
		}
	}
	far = min(far, n*stride*3/4)
	a.p, a.left = a.rows+uintptr(int(at[0])*stride+far), n*stride-far
	a.rows, a.last, a.run = a.then, a.first, far
	return a
}

// hidden is the address of a for a routine, out of sight of the compiler: it cannot know that what is called by its address keeps no pointer, and would put a on the heap. KeepAlive must follow the call.
func (a *ahead) hidden() *uintptr {
	x := uintptr(unsafe.Pointer(a))
	return *(**uintptr)(unsafe.Pointer(&x))
}

// Dot implements attention.Kernels.
func (v vector) Dot(dst []float32, ld int, q []float32, group, dim int, rows []uint16, at []int32, then []uint16) {
	if !vectorDim(dim) {
		v.portable.Dot(dst, ld, q, group, dim, rows, at, then)
		return
	}
	n := len(at)
	if n == 0 || group == 0 {
		return
	}
	checkGather(q, dst, ld, group, dim, rows, at)
	a := aheadOf(group == 1, dim, rows, at, then)
	for g := 0; g < group; {
		h := tile(group-g, len(v.dot))
		v.dot[h-1](ptr(dst[g*ld:]), ld, ptr(q[g*dim:]), dim, ptr(rows), ptr(at), n, a.hidden())
		g += h
	}
	runtime.KeepAlive(&a)
}

// pass is the widest pass over the channels of rows for so many heads, at most left channels of them.
func (v vector) pass(heads, left int) (run accumulateFunc, channels int) {
	for _, p := range v.accumulate {
		if p.channels <= left && heads <= len(p.run) {
			return p.run[heads-1], p.channels
		}
	}
	return nil, 0
}

// Accumulate implements attention.Kernels.
func (v vector) Accumulate(acc, w []float32, ld, group, dim int, rows []uint16, at []int32, then []uint16) {
	if !vectorDim(dim) {
		v.portable.Accumulate(acc, w, ld, group, dim, rows, at, then)
		return
	}
	if len(at) == 0 || group == 0 {
		return
	}
	checkGather(acc, w, ld, group, dim, rows, at)
	_, whole := v.pass(group, dim)
	next := aheadOf(group == 1 && whole == dim, dim, rows, at, then)
	for g := 0; g < group; {
		h := tile(group-g, len(v.dot))
		tall := len(at) // rows at a time
		if _, channels := v.pass(h, dim); channels < dim {
			tall = max(aheadRun/(2*dim), 16) // those that have been asked for when the first pass comes to them
		}
		for i := 0; i < len(at); i += tall {
			now := at[i:min(i+tall, len(at))]
			for c := 0; c < dim; {
				run, channels := v.pass(h, dim-c)
				a, wi := acc[g*dim+c:], w[g*ld+i:]
				if run(ptr(a), dim, ptr(wi), ld, ptr(rows), c, ptr(now), len(now), next.hidden()) != 0 {
					accumulateFinite(a, wi, ld, h, dim, channels, rows[c:], now)
				}
				c += channels
			}
		}
		g += h
	}
	runtime.KeepAlive(&next)
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
