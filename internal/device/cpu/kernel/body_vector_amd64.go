//go:build !noasm

package kernel

import (
	"math/bits"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
)

// Pack implements attention.Kernels.
func (v vector) Pack(dst, w []float32, t float32) int {
	_ = dst[:len(w)+attention.PageTokens]
	if v.pack != nil {
		return int(v.pack(ptr(dst), ptr(w), len(w), t))
	}
	// Without a compressing store: masks by vector, elements one by one, which are few. Called by its name, the routine leaves the masks on the stack.
	var masks [64]uint16
	count := 0
	for len(w) >= attention.PageTokens {
		n := min(len(w)/attention.PageTokens, len(masks))
		lanesAVX2(&masks[0], ptr(w), n, t)
		for j, m := range masks[:n] {
			page := w[j*attention.PageTokens:][:attention.PageTokens]
			for ; m != 0; m &= m - 1 {
				dst[count] = page[bits.TrailingZeros16(m)&(attention.PageTokens-1)]
				count++
			}
		}
		w = w[n*attention.PageTokens:]
	}
	return count + v.portable.Pack(dst[count:], w, t)
}

// PackPages implements attention.Kernels.
func (v vector) PackPages(dst, w []float32, pages []int32, masks []uint16) int {
	n := len(pages)
	if v.packPages == nil || n == 0 {
		return v.portable.PackPages(dst, w, pages, masks)
	}
	last := int(pages[n-1]) // page lists ascend
	_, _, _, _ = w[(last+1)*attention.PageTokens-1], masks[last], w[int(pages[0])*attention.PageTokens], dst[n*attention.PageTokens-1]
	return int(v.packPages(ptr(dst), ptr(w), ptr(pages), ptr(masks), n))
}

// SplitLanes implements attention.Kernels.
func (v vector) SplitLanes(keep, heavy []uint16, w []float32, pages []int32, least, much float32) (kept int) {
	all, n := len(w)/attention.PageTokens, len(pages)
	keep, heavy = keep[:all], heavy[:all]
	if v.splitLanes == nil { // all pages at vectors' speed are cheaper than some in plain Go
		v.Lanes(keep, w, least)
		v.Lanes(heavy, w, much)
		for _, m := range keep {
			kept += bits.OnesCount16(m)
		}
		return kept
	}
	clear(keep)
	clear(heavy)
	if n == 0 {
		return 0
	}
	_, _ = keep[pages[0]], keep[pages[n-1]]
	return int(v.splitLanes(ptr(keep), ptr(heavy), ptr(w), ptr(pages), n, least, much))
}

// ListPages implements attention.Kernels.
func (v vector) ListPages(dst []int32, masks []uint16) int {
	n := len(masks)
	if v.listPages == nil || n == 0 {
		return v.portable.ListPages(dst, masks)
	}
	_ = dst[n+attention.PageTokens-1]
	return int(v.listPages(ptr(dst), ptr(masks), n))
}

// ListLanes implements attention.Kernels.
func (v vector) ListLanes(dst, base []int32, masks []uint16) int {
	n := len(masks)
	if v.listLanes == nil || n == 0 {
		return v.portable.ListLanes(dst, base, masks)
	}
	set := 0
	for _, m := range masks {
		set += bits.OnesCount16(m)
	}
	_, base = dst[:set+attention.PageTokens], base[:n]
	return int(v.listLanes(ptr(dst), ptr(base), ptr(masks), n))
}

// PackLanes implements attention.Kernels.
func (v vector) PackLanes(dst []float32, ld int, w []float32, wld int, pages []int32, masks, own []uint16, ownLD int, scale []float32, rows []int32, lanes []float32) {
	n, group := len(pages), len(lanes)/attention.PageTokens
	if v.packLanes == nil || n == 0 || group == 0 {
		v.portable.PackLanes(dst, ld, w, wld, pages, masks, own, ownLD, scale, rows, lanes)
		return
	}
	set := 0
	for _, m := range masks[:n] {
		set += bits.OnesCount16(m)
	}
	// page lists ascend
	_, _, _, _ = dst[(group-1)*ld:][:set+attention.PageTokens], w[int(pages[0])*attention.PageTokens], w[(group-1)*wld+int(pages[n-1]+1)*attention.PageTokens-1], own[(group-1)*ownLD+n-1]
	_, _ = scale[rows[0]], scale[rows[n-1]+attention.PageTokens-1]
	for g := 0; g < group; {
		h := tile(group-g, len(v.packLanes))
		v.packLanes[h-1](ptr(dst[g*ld:]), ld, ptr(w[g*wld:]), wld, ptr(pages), ptr(masks), ptr(own[g*ownLD:]), ownLD, ptr(scale), ptr(rows), &lanes[g*attention.PageTokens], n)
		g += h
	}
}

// The shape of the rounded weights, as the generator has it.
const (
	codeChunk = 128 // rows
	codeGroup = 4   // rows of one product
)

// AccumulateCodes implements attention.Kernels. Where there is code for it, weights are rounded to bytes, chunk by chunk.
func (v vector) AccumulateCodes(acc, w []float32, ld, group, dim int, codes []byte, at []int32, n int, tmp []byte) {
	if v.codes32 == nil || !vectorDim(dim) {
		v.portable.AccumulateCodes(acc, w, ld, group, dim, codes, at, n, tmp)
		return
	}
	if n == 0 || group == 0 {
		return
	}
	_, _ = acc[group*dim-1], w[(group-1)*ld+n-1]
	_, _ = codes[int(at[0])*dim:][dim-1], codes[int(at[n-1])*dim:][dim-1] // row lists ascend almost always
	if v.codeRows != nil && dim%64 == 0 {
		for lo := 0; lo < n; lo += codeChunk {
			v.accumulateChunk(acc, w[lo:], ld, group, dim, codes, at[lo:], min(n-lo, codeChunk), tmp)
		}
		return
	}
	for g := 0; g < group; {
		h := tile(group-g, len(v.codes32))
		for c := 0; c < dim; c += 32 {
			v.codes32[h-1](ptr(acc[g*dim+c:]), dim, ptr(w[g*ld:]), ld, ptr(codes), c, ptr(at), n)
		}
		g += h
	}
}

// accumulateChunk adds the first n rows of at, at most codeChunk, by integer products.
func (v vector) accumulateChunk(acc, w []float32, ld, group, dim int, codes []byte, at []int32, n int, tmp []byte) {
	s := scratch(tmp)
	weights, steps, few := take[int8](&s, group*codeChunk), take[float32](&s, group), take[int32](&s, codeGroup)
	v.codeWeights((*byte)(unsafe.Pointer(ptr(weights))), ptr(steps), ptr(w), ld, group, n)
	ahead := at[min(n, len(at)-1):]
	last := &ahead[min(len(ahead), codeChunk)-1]
	add := func(rows []int32, first int) {
		for g := 0; g < group; {
			h := tile(group-g, len(v.codeRows))
			for c := 0; c < dim; c += 64 {
				v.codeRows[h-1](ptr(acc[g*dim+c:]), dim, (*byte)(unsafe.Pointer(&weights[g*codeChunk+first])), &steps[g], ptr(codes), c, ptr(rows), len(rows), &ahead[0], last)
			}
			g += h
		}
	}
	whole := n &^ (codeGroup - 1)
	if whole > 0 {
		add(at[:whole], 0)
	}
	if whole < n { // the last few rows, and one of them again under weights of zero
		for i := range few {
			few[i] = at[min(whole+i, n-1)]
		}
		add(few, whole)
	}
}
