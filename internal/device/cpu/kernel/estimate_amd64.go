//go:build !noasm

package kernel

import (
	"math"
	"math/bits"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
)

// estimates is the machine code of page scores and of estimated logits.
type estimates struct {
	bounds                            []boundsFunc // by query heads less one
	quantise                          func(dst *int8, x *float32, n int) (top, sum float32, isum int64)
	normalise                         func(dst, m, x *float32, n int) (top float32)
	pageScale                         func(dst, m *float32, dim int, bounds *uint16)
	pageQuery                         []pageQueryFunc // one byte a channel
	pageQuery2                        []pageQueryFunc // two bytes
	pageLanes                         int             // pages of one call of these
	int4                              []scanFunc
	labels                            []scanFunc
	pages                             [9][]scanFunc     // by bits
	blockQuery                        []blockQueryFunc  // by query heads less one; of a single one: any number
	blockQueryFew64, blockQueryFew128 blockQueryFunc    // for few heads of 64 or 128 channels; nil: none
	block                             [5][]listScanFunc // by bits
	weights                           [5][]weighFunc    // the same, of which weights are made
	tokens                            []pageTokensFunc  // by query heads less one, by codes of four bits; nil: none
}

type (
	boundsFunc     = func(dst *float32, ld int, q *float32, dim int, bounds *uint16)
	pageQueryFunc  = func(dst *int8, dstHead int, affine, unit, q *float32, dim int, bounds *uint16, top *float32, levels float32)
	blockQueryFunc = func(dst *int8, affine, q *float32, heads, dim int, block *uint16, mid, shrink float32)
	listScanFunc   = func(dst *float32, ld int, q *int8, qHead int, affine *float32, plane *byte, blockBytes, headBytes, pageBytes, dim int, at *int32, n int, last *int32)
	weighFunc      = func(dst *float32, ld int, q *int8, qHead int, affine *float32, plane *byte, blockBytes, headBytes, pageBytes, dim int, at *int32, n int, last *int32, bases, sums, least *float32, lanes *uint16, lanesLD int)
	scanFunc       = func(dst *float32, ld int, q *int8, qHead int, affine *float32, codes *byte, pageBytes, dim int, pages uint64)
)

// PageBounds implements attention.Kernels.
func (v vector) PageBounds(dst []float32, ld int, q []float32, group, dim, pages int, bounds []uint16) {
	e := v.estimates
	if e == nil || pages != attention.BlockPages || !vectorDim(dim) || dim > 256 {
		v.portable.PageBounds(dst, ld, q, group, dim, pages, bounds)
		return
	}
	_, b := q[:group*dim], ptr(bounds[:2*dim*pages])
	for g := 0; g < group; {
		h := tile(group-g, len(e.bounds))
		e.bounds[h-1](ptr(dst[g*ld:][:(h-1)*ld+pages]), ld, ptr(q[g*dim:]), dim, b)
		g += h
	}
}

// PageMiddles implements attention.Kernels: a block's middles are a page of codes.
func (v vector) PageMiddles(dst []float32, ld int, q []float32, group, dim int, plane []byte, blocks []int32, far []float32, ready attention.Ready, tmp []byte) {
	const nbits = 4
	e, shape := v.estimates, attention.Middles{}
	if e == nil || !vectorDim(dim) || dim > 256 {
		v.portable.PageMiddles(dst, ld, q, group, dim, plane, blocks, far, ready, tmp)
		return
	}
	if len(blocks) == 0 {
		return
	}
	_, _ = q[group*dim-1], dst[(group-1)*ld+attention.BlockPages*len(blocks)-1]
	size, head, page := shape.BlockBytes(dim), shape.HeadBytes(dim), shape.PageBytes(dim)
	s := scratch(tmp)
	q8, affine, radii := take[int8](&s, group*dim), take[float32](&s, 4*group), take[float32](&s, attention.BlockPages*len(blocks))
	at := take[int32](&s, 2) // the page that is scanned, and the one to ask for
	scan := e.block[nbits]
	for i, b := range blocks {
		copy(radii[i*attention.BlockPages:], unsafe.Slice((*float32)(unsafe.Pointer(ptr(plane[int(b)*size+head+page:][:4*attention.BlockPages]))), attention.BlockPages))
		if len(ready.Data) > 0 {
			q8, affine = prepared(ready.Data, i, group, dim)
		}
		v.askFor(plane[int(blocks[min(i+2, len(blocks)-1)])*size:][:size])
		e.prepare(q8, affine, q, group, dim, plane[int(b)*size:][:size], codeMiddle(nbits), ready.Shrink)
		at[0], at[1] = b*attention.BlockPages, blocks[min(i+1, len(blocks)-1)]*attention.BlockPages
		for g := 0; g < group; {
			h := tile(group-g, len(scan))
			scan[h-1](ptr(dst[g*ld+i*attention.BlockPages:]), ld, ptr(q8[g*dim:]), dim, ptr(affine[4*g:]), ptr(plane), size, head, page, dim, &at[0], 1, &at[1])
			g += h
		}
	}
	for g, f := range far[:group] {
		if f != 0 {
			v.AddScaled(dst[g*ld:][:len(radii)], radii, f)
		}
	}
}

// askFor prefetches some of a block of a plane.
func (v vector) askFor(block []byte) {
	if v.fetch != nil {
		v.fetch((*uint16)(unsafe.Pointer(ptr(block))), len(block)/2)
	}
}

// codeMiddle is what codes of so many bits are centred at.
func codeMiddle(nbits int) float32 { return float32(int(1)<<nbits-1) / 2 }

// prepared is the queries and the maps of block b in Ready.Data.
func prepared(ready []byte, b, group, dim int) (q8 []int8, affine []float32) {
	size := attention.ReadyBytes(group, dim)
	block := ready[b*size:][:size]
	q8 = unsafe.Slice((*int8)(unsafe.Pointer(unsafe.SliceData(block))), group*dim)
	return q8, unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(block[group*dim:]))), 4*group)
}

// scratch hands out pieces of a kernel's temporary memory, each at a cache line.
type scratch []byte

func take[T int8 | int32 | float32](s *scratch, n int) []T {
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(*s))) & 63)
	var zero T
	size := n * int(unsafe.Sizeof(zero))
	piece := (*s)[skip : skip+size]
	*s = (*s)[skip+size:]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(piece))), n)
}

// Int4Dot implements attention.Kernels. The query is rounded to signed bytes; since Σ q·u = Σ q·(u − 7.5) + 7.5·Σ q and the last sum is kept exact, the rounding
// meets centred codes only, which halves its error: it then stands well below that of the codes.
func (v vector) Int4Dot(dst []float32, ld int, q []float32, group, dim int, codes []byte, pages uint16, tmp []byte) {
	e := v.estimates
	if e == nil || !vectorDim(dim) {
		v.portable.Int4Dot(dst, ld, q, group, dim, codes, pages, tmp)
		return
	}
	n := attention.Int4{}.PageBytes(dim)
	checkScan(dst, ld, group, codes, n, pages)
	s := scratch(tmp)
	q8, affine := take[int8](&s, group*dim), take[float32](&s, 4*group)
	for g := range group {
		top, sum, isum := e.quantise(ptr(q8[g*dim:]), ptr(q[g*dim:][:dim]), dim)
		scale := top / 127
		a := affine[4*g:][:4]
		a[0], a[1], a[2] = scale, 7.5*(sum-scale*float32(isum)), sum
	}
	for g := 0; g < group; {
		h := tile(group-g, len(e.int4))
		e.int4[h-1](ptr(dst[g*ld:]), ld, ptr(q8[g*dim:]), dim, ptr(affine[4*g:]), ptr(codes), n, dim, uint64(pages))
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
// it is rounded to signed bytes, for codes of eight bits to fifteen bits (fourteen with AVX2), under one scale a page.
func (v vector) PageRangeDot(dst []float32, ld int, q []float32, group, dim, nbits int, bounds []uint16, codes []byte, pages uint16, tmp []byte) {
	e := v.estimates
	if e == nil || !vectorDim(dim) || nbits >= len(e.pages) || e.pages[nbits] == nil {
		v.portable.PageRangeDot(dst, ld, q, group, dim, nbits, bounds, codes, pages, tmp)
		return
	}
	if pages == 0 {
		return
	}
	n := attention.PageRange{Bits: nbits}.PageBytes(dim)
	checkScan(dst, ld, group, codes, n, pages)
	prepare, qHead := e.pageQuery, dim*attention.BlockPages
	if nbits == 8 {
		prepare, qHead = e.pageQuery2, 2*qHead
	}
	s := scratch(tmp)
	q8, unit, m := take[int8](&s, group*qHead), take[float32](&s, group*dim), take[float32](&s, dim)
	affine, tops, size := take[float32](&s, 32*group), take[float32](&s, attention.BlockPages), take[float32](&s, group)
	clear(m)
	for g := range group {
		size[g] = e.normalise(ptr(unit[g*dim:]), ptr(m), ptr(q[g*dim:][:dim]), dim)
	}
	b := bounds[:2*dim*attention.BlockPages]
	e.pageScale(ptr(tops), ptr(m), dim, ptr(b))
	levels := float32(int(1)<<nbits - 1)
	for g := 0; g < group; {
		h := tile(group-g, len(prepare))
		for p := 0; p < attention.BlockPages; p += e.pageLanes {
			prepare[h-1](ptr(q8[g*qHead+4*p:]), qHead, ptr(affine[32*g+p:]), ptr(size[g:]), ptr(unit[g*dim:]), dim, ptr(b[p:]), ptr(tops[p:]), levels)
		}
		g += h
	}
	scan := e.pages[nbits]
	for g := 0; g < group; {
		h := tile(group-g, len(scan))
		scan[h-1](ptr(dst[g*ld:]), ld, ptr(q8[g*qHead:]), qHead, ptr(affine[32*g:]), ptr(codes), n, dim, uint64(pages))
		g += h
	}
}

// prepare scales the queries of a group by the steps of a block and rounds them to signed bytes, for codes that are centred at mid. The block begins with fp16 low[dim] and
// step[dim].
func (e *estimates) prepare(q8 []int8, affine, q []float32, group, dim int, block []byte, mid, shrink float32) {
	b := (*uint16)(unsafe.Pointer(ptr(block[:4*dim])))
	const few = 3
	var all blockQueryFunc
	switch {
	case len(e.blockQuery) == 1:
		all = e.blockQuery[0]
	case group <= few && dim == 64:
		all = e.blockQueryFew64
	case group <= few && dim == 128:
		all = e.blockQueryFew128
	}
	if all != nil {
		all(ptr(q8), ptr(affine), ptr(q), group, dim, b, mid, shrink)
		return
	}
	for g := 0; g < group; {
		h := tile(group-g, len(e.blockQuery))
		e.blockQuery[h-1](ptr(q8[g*dim:]), ptr(affine[4*g:]), ptr(q[g*dim:]), h, dim, b, mid, shrink)
		g += h
	}
}

// weightsBase is what the code for weights is given for the logarithm of 1: that it draws straight lines between powers of two makes its weights too large by a factor of 1.0407 on average.
const weightsBase = 639 - 0.0575

// BlockRangeDot implements attention.Kernels. As for pages, the query times the steps is rounded to signed bytes that meet centred codes; once for the pages of a block.
func (v vector) BlockRangeDot(dst []float32, ld int, q []float32, group, dim, nbits int, plane []byte, pages []int32, n int, shrink float32, ready []byte, at []int32, weigh *attention.Weighing, tmp []byte) {
	e := v.estimates
	if e == nil || !vectorDim(dim) || dim > 256 || nbits >= len(e.block) || e.block[nbits] == nil {
		v.portable.BlockRangeDot(dst, ld, q, group, dim, nbits, plane, pages, n, shrink, ready, at, nil, tmp)
		if weigh != nil {
			weigh.Apply(v, dst, ld, n*attention.PageTokens)
		}
		return
	}
	if n == 0 {
		return
	}
	shape := attention.BlockRange{Bits: nbits}
	size, head, page := shape.BlockBytes(dim), shape.HeadBytes(dim), shape.PageBytes(dim)
	_ = dst[(group-1)*ld+attention.PageTokens*n-1]
	_ = q[group*dim-1]
	s := scratch(tmp)
	q8, affine := take[int8](&s, group*dim), take[float32](&s, 4*group)
	scan, last := e.block[nbits], &pages[len(pages)-1]
	fused := weigh != nil && e.weights[nbits] != nil
	var bases, sums []float32 // what logarithms to base 2 count from, as maps have it; the weights' sums by lanes
	if fused {
		bases, sums = take[float32](&s, 4*group), take[float32](&s, 16*group)
		clear(sums)
		clear(bases)
		for g, ref := range weigh.Ref[:group] {
			bases[4*g+1] = weightsBase - ref*math.Log2E
		}
		_, _ = weigh.Least[group-1], weigh.Lanes[(group-1)*weigh.LanesLD+n-1]
	}
	for j := 0; j < n; {
		b, first := int(pages[j])/attention.BlockPages, j
		for j < n && uint32(pages[j])-uint32(b*attention.BlockPages) < attention.BlockPages {
			j++
		}
		if ready != nil {
			q8, affine = prepared(ready, int(at[first])/attention.BlockPages, group, dim)
		} else {
			if j < len(pages) {
				v.askFor(plane[int(pages[j])/attention.BlockPages*size:][:head])
			}
			e.prepare(q8, affine, q, group, dim, plane[b*size:][:size], codeMiddle(nbits), shrink)
		}
		to := first * attention.PageTokens
		for g := 0; g < group; {
			if fused {
				h := tile(group-g, len(e.weights[nbits]))
				e.weights[nbits][h-1](ptr(dst[g*ld+to:]), ld, ptr(q8[g*dim:]), dim, ptr(affine[4*g:]), ptr(plane), size, head, page, dim, &pages[first], j-first, last,
					&bases[4*g], &sums[16*g], &weigh.Least[g], &weigh.Lanes[g*weigh.LanesLD+first], weigh.LanesLD)
				g += h
				continue
			}
			h := tile(group-g, len(scan))
			scan[h-1](ptr(dst[g*ld+to:]), ld, ptr(q8[g*dim:]), dim, ptr(affine[4*g:]), ptr(plane), size, head, page, dim, &pages[first], j-first, last)
			g += h
		}
	}
	switch {
	case fused:
		for g := range group {
			sum := float32(0)
			for _, x := range sums[16*g:][:16] {
				sum += x
			}
			weigh.Sums[g] += sum
		}
	case weigh != nil:
		weigh.Apply(v, dst, ld, attention.PageTokens*n)
	}
}
