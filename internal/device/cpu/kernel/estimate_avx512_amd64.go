//go:build !noasm

package kernel

import (
	"math/bits"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
)

// PageBounds implements attention.Kernels.
func (k avx512) PageBounds(dst []float32, ld int, q []float32, group, dim, pages int, bounds []uint16) {
	if pages != attention.BlockPages || !vectorDim(dim) || dim > 256 {
		k.portable.PageBounds(dst, ld, q, group, dim, pages, bounds)
		return
	}
	_, b := q[:group*dim], ptr(bounds[:2*dim*pages])
	for group > 0 {
		h := tile(group, 7)
		d, qp := ptr(dst[:(h-1)*ld+pages]), ptr(q)
		switch h {
		case 1:
			bounds1AVX512(d, ld, qp, dim, b)
		case 2:
			bounds2AVX512(d, ld, qp, dim, b)
		case 3:
			bounds3AVX512(d, ld, qp, dim, b)
		case 4:
			bounds4AVX512(d, ld, qp, dim, b)
		case 5:
			bounds5AVX512(d, ld, qp, dim, b)
		case 6:
			bounds6AVX512(d, ld, qp, dim, b)
		case 7:
			bounds7AVX512(d, ld, qp, dim, b)
		}
		if group -= h; group > 0 {
			dst, q = dst[h*ld:], q[h*dim:]
		}
	}
}

// scratch hands out pieces of a kernel's temporary memory, each at a cache line.
type scratch []byte

func take[T int8 | float32](s *scratch, n int) []T {
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(*s))) & 63)
	var zero T
	size := n * int(unsafe.Sizeof(zero))
	piece := (*s)[skip : skip+size]
	*s = (*s)[skip+size:]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(piece))), n)
}

// Int4Dot implements attention.Kernels. The query is rounded to signed bytes; since Σ q·u = Σ q·(u − 7.5) + 7.5·Σ q and the last sum is kept exact, the rounding
// meets centred codes only, which halves its error: it then stands well below that of the codes.
func (k avx512) Int4Dot(dst []float32, ld int, q []float32, group, dim int, codes []byte, pages uint16, tmp []byte) {
	if !vectorDim(dim) {
		k.portable.Int4Dot(dst, ld, q, group, dim, codes, pages, tmp)
		return
	}
	s := scratch(tmp)
	q8, affine := take[int8](&s, group*dim), take[float32](&s, 4*group)
	for g := range group {
		top, sum, isum := quantiseAVX512(ptr(q8[g*dim:]), ptr(q[g*dim:][:dim]), dim)
		scale := top / 127
		a := affine[4*g:][:4]
		a[0], a[1], a[2] = scale, 7.5*(sum-scale*float32(isum)), sum
	}
	n := attention.Int4{}.PageBytes(dim)
	checkScan(dst, ld, group, codes, n, pages)
	c := ptr(codes)
	for g := 0; g < group; {
		h := tile(group-g, 4)
		d, qp, a := ptr(dst[g*ld:]), ptr(q8[g*dim:]), ptr(affine[4*g:])
		switch h {
		case 1:
			int4x1AVX512(d, ld, qp, dim, a, c, n, dim, uint64(pages))
		case 2:
			int4x2AVX512(d, ld, qp, dim, a, c, n, dim, uint64(pages))
		case 3:
			int4x3AVX512(d, ld, qp, dim, a, c, n, dim, uint64(pages))
		case 4:
			int4x4AVX512(d, ld, qp, dim, a, c, n, dim, uint64(pages))
		}
		g += h
	}
}

// checkScan panics, as plain Go would, where codes or results are shorter than their shape says.
func checkScan(dst []float32, ld, group int, codes []byte, pageBytes int, pages uint16) {
	if pages != 0 {
		_ = codes[(16-bits.LeadingZeros16(pages))*pageBytes-1]
		_ = dst[(group-1)*ld+16*bits.OnesCount16(pages)-1]
	}
}

// PageRangeDot implements attention.Kernels. For a page, the key is its middle plus range·(u − top/2)/top, so the query times the range is what meets the codes;
// it is rounded to signed bytes, for codes of eight bits to fifteen bits, under one scale a page.
func (k avx512) PageRangeDot(dst []float32, ld int, q []float32, group, dim, nbits int, bounds []uint16, codes []byte, pages uint16, tmp []byte) {
	if !vectorDim(dim) || (nbits > 4 && nbits != 8) {
		k.portable.PageRangeDot(dst, ld, q, group, dim, nbits, bounds, codes, pages, tmp)
		return
	}
	if pages == 0 {
		return
	}
	n := attention.PageRange{Bits: nbits}.PageBytes(dim)
	checkScan(dst, ld, group, codes, n, pages)
	wide, qHead := nbits == 8, dim*attention.BlockPages
	if wide {
		qHead *= 2
	}
	s := scratch(tmp)
	q8, unit, m := take[int8](&s, group*qHead), take[float32](&s, group*dim), take[float32](&s, dim)
	affine, tops, size := take[float32](&s, 32*group), take[float32](&s, attention.BlockPages), take[float32](&s, group)
	clear(m)
	for g := range group {
		size[g] = normaliseAVX512(ptr(unit[g*dim:]), ptr(m), ptr(q[g*dim:][:dim]), dim)
	}
	b := ptr(bounds[:2*dim*attention.BlockPages])
	pageScaleAVX512(ptr(tops), ptr(m), dim, b)
	levels := float32(int(1)<<nbits - 1)
	most := 4
	if wide {
		most = 2
	}
	for g := 0; g < group; {
		h := tile(group-g, most)
		d, a, z, u, t := ptr(q8[g*qHead:]), ptr(affine[32*g:]), ptr(size[g:]), ptr(unit[g*dim:]), ptr(tops)
		switch {
		case wide && h == 1:
			pageQueryWide1AVX512(d, qHead, a, z, u, dim, b, t, levels)
		case wide:
			pageQueryWide2AVX512(d, qHead, a, z, u, dim, b, t, levels)
		case h == 1:
			pageQuery1AVX512(d, qHead, a, z, u, dim, b, t, levels)
		case h == 2:
			pageQuery2AVX512(d, qHead, a, z, u, dim, b, t, levels)
		case h == 3:
			pageQuery3AVX512(d, qHead, a, z, u, dim, b, t, levels)
		default:
			pageQuery4AVX512(d, qHead, a, z, u, dim, b, t, levels)
		}
		g += h
	}
	for g := 0; g < group; {
		h := tile(group-g, 4)
		pageScan(nbits, h, ptr(dst[g*ld:]), ld, ptr(q8[g*qHead:]), qHead, ptr(affine[32*g:]), ptr(codes), n, dim, uint64(pages))
		g += h
	}
}

// pageScan picks the routine of a code width and a number of heads.
func pageScan(nbits, heads int, d *float32, ld int, q *int8, qHead int, a *float32, c *byte, n, dim int, pages uint64) {
	switch nbits*10 + heads {
	case 11:
		page1x1AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 12:
		page1x2AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 13:
		page1x3AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 14:
		page1x4AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 21:
		page2x1AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 22:
		page2x2AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 23:
		page2x3AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 24:
		page2x4AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 31:
		page3x1AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 32:
		page3x2AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 33:
		page3x3AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 34:
		page3x4AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 41:
		page4x1AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 42:
		page4x2AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 43:
		page4x3AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 44:
		page4x4AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 81:
		page8x1AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 82:
		page8x2AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 83:
		page8x3AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	case 84:
		page8x4AVX512(d, ld, q, qHead, a, c, n, dim, pages)
	}
}
