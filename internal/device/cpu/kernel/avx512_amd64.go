//go:build !noasm

package kernel

import (
	"unsafe"

	"github.com/twilight-go/twilight/internal/tensor"
)

// avx512 is Kernels for AVX-512 F, BW, DQ, VL and VNNI. What has no machine code, or a shape that it does not cover, is portable.
type avx512 struct{ portable }

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

// Dot implements attention.Kernels.
func (k avx512) Dot(dst []float32, ld int, q []float32, group, dim int, rows []uint16, at []int32) {
	if !vectorDim(dim) {
		k.portable.Dot(dst, ld, q, group, dim, rows, at)
		return
	}
	n := len(at)
	if n == 0 || group == 0 {
		return
	}
	checkGather(q, dst, ld, group, dim, rows, at)
	for group > 0 {
		h := tile(group, 7)
		d, qp, r, a := ptr(dst), ptr(q), ptr(rows), ptr(at)
		switch h {
		case 1:
			dot1AVX512(d, ld, qp, dim, r, a, n)
		case 2:
			dot2AVX512(d, ld, qp, dim, r, a, n)
		case 3:
			dot3AVX512(d, ld, qp, dim, r, a, n)
		case 4:
			dot4AVX512(d, ld, qp, dim, r, a, n)
		case 5:
			dot5AVX512(d, ld, qp, dim, r, a, n)
		case 6:
			dot6AVX512(d, ld, qp, dim, r, a, n)
		case 7:
			dot7AVX512(d, ld, qp, dim, r, a, n)
		}
		if group -= h; group > 0 {
			dst, q = dst[h*ld:], q[h*dim:]
		}
	}
}

// Accumulate implements attention.Kernels.
func (k avx512) Accumulate(acc, w []float32, ld, group, dim int, rows []uint16, at []int32) {
	if !vectorDim(dim) {
		k.portable.Accumulate(acc, w, ld, group, dim, rows, at)
		return
	}
	if len(at) == 0 || group == 0 {
		return
	}
	checkGather(acc, w, ld, group, dim, rows, at)
	for group > 0 {
		h := tile(group, 7)
		for i := 0; i < len(at); i += accumulateTile {
			now, ahead := at[i:min(i+accumulateTile, len(at))], at[min(i+accumulateTile, len(at)-1):]
			for c := 0; c < dim; c += 64 {
				n := min(64, dim-c)
				if accumulateBlock(acc[c:], w[i:], ld, h, dim, n, rows, c, now, ahead[min(c*accumulateTile/dim, len(ahead)-1):]) {
					accumulateFinite(acc[c:], w[i:], ld, h, dim, n, rows[c:], now)
				}
			}
		}
		if group -= h; group > 0 {
			acc, w = acc[h*dim:], w[h*ld:]
		}
	}
}

// accumulateTile is how many rows stay in the first-level cache while their channels are taken 64 at a time.
const accumulateTile = 32

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

// accumulateBlock adds 64 or 32 channels, or leaves acc as it was and says that a NaN came out.
func accumulateBlock(acc, w []float32, ld, heads, dim, channels int, rows []uint16, c int, at, ahead []int32) (nan bool) {
	a, wp, r, i, n, f, l := ptr(acc), ptr(w), ptr(rows), ptr(at), len(at), ptr(ahead), &ahead[len(ahead)-1]
	var bad uint64
	if channels == 64 {
		switch heads {
		case 1:
			bad = accumulate1x64AVX512(a, dim, wp, ld, r, c, i, n, f, l)
		case 2:
			bad = accumulate2x64AVX512(a, dim, wp, ld, r, c, i, n, f, l)
		case 3:
			bad = accumulate3x64AVX512(a, dim, wp, ld, r, c, i, n, f, l)
		case 4:
			bad = accumulate4x64AVX512(a, dim, wp, ld, r, c, i, n, f, l)
		case 5:
			bad = accumulate5x64AVX512(a, dim, wp, ld, r, c, i, n, f, l)
		case 6:
			bad = accumulate6x64AVX512(a, dim, wp, ld, r, c, i, n, f, l)
		case 7:
			bad = accumulate7x64AVX512(a, dim, wp, ld, r, c, i, n, f, l)
		}
		return bad != 0
	}
	switch heads {
	case 1:
		bad = accumulate1x32AVX512(a, dim, wp, ld, r, c, i, n, f, l)
	case 2:
		bad = accumulate2x32AVX512(a, dim, wp, ld, r, c, i, n, f, l)
	case 3:
		bad = accumulate3x32AVX512(a, dim, wp, ld, r, c, i, n, f, l)
	case 4:
		bad = accumulate4x32AVX512(a, dim, wp, ld, r, c, i, n, f, l)
	case 5:
		bad = accumulate5x32AVX512(a, dim, wp, ld, r, c, i, n, f, l)
	case 6:
		bad = accumulate6x32AVX512(a, dim, wp, ld, r, c, i, n, f, l)
	case 7:
		bad = accumulate7x32AVX512(a, dim, wp, ld, r, c, i, n, f, l)
	}
	return bad != 0
}

// Max implements attention.Kernels.
func (avx512) Max(x []float32) float32 { return maxAVX512(ptr(x), len(x)) }

// Exp implements attention.Kernels.
func (avx512) Exp(x []float32, top float32) (sum float32) { return expAVX512(ptr(x), len(x), top) }

// Above implements attention.Kernels.
func (avx512) Above(w []float32, t float32) (sum float32, n int) {
	sum, count := aboveAVX512(ptr(w), len(w), t)
	return sum, int(count)
}

// Lanes implements attention.Kernels.
func (avx512) Lanes(mask []uint16, w []float32, t float32) {
	pages := len(w) / 16
	lanesAVX512(ptr(mask[:pages]), ptr(w), pages, t)
}

// ReadBandwidth implements Roofline.
func (avx512) ReadBandwidth(buf []byte) uint64 { return readAVX512(ptr(buf), len(buf)&^511) }

// PeakFMA implements Roofline.
func (avx512) PeakFMA(n int) int {
	n = n/256 + 1
	fmaPeakAVX512(n)
	return n * 256
}

// PeakVNNI implements Roofline.
func (avx512) PeakVNNI(n int) int {
	n = n/1024 + 1
	vnniPeakAVX512(n)
	return n * 1024
}
