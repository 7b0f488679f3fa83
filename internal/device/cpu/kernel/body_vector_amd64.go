//go:build !noasm

package kernel

import (
	"math/bits"

	"github.com/twilight-go/twilight/attention"
)

// Pack implements attention.Kernels.
func (v vector) Pack(dst, w []float32, t float32) int {
	_ = dst[:len(w)+attention.PageTokens]
	if v.pack != nil {
		return int(v.pack(ptr(dst), ptr(w), len(w), t))
	}
	// Without a compressing store: masks by vector, elements one by one, which are few.
	var masks [64]uint16
	count := 0
	for len(w) >= attention.PageTokens {
		n := min(len(w)/attention.PageTokens, len(masks))
		v.lanes(&masks[0], ptr(w), n, t)
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

// PackLanes implements attention.Kernels.
func (v vector) PackLanes(dst, w []float32, pages []int32, masks, own []uint16) {
	n := len(pages)
	if v.packLanes == nil || n == 0 {
		v.portable.PackLanes(dst, w, pages, masks, own)
		return
	}
	if own == nil {
		own = masks
	}
	set := 0
	for _, m := range masks[:n] {
		set += bits.OnesCount16(m)
	}
	_, _, _, _ = dst[:set+attention.PageTokens], w[int(pages[0])*attention.PageTokens], w[int(pages[n-1]+1)*attention.PageTokens-1], own[:n] // page lists ascend
	v.packLanes(ptr(dst), ptr(w), ptr(pages), ptr(masks), ptr(own), n)
}

// AccumulateCodes implements attention.Kernels.
func (v vector) AccumulateCodes(acc, w []float32, ld, group, dim int, codes []byte, scale []float32, at []int32) {
	if v.codes32 == nil || !vectorDim(dim) {
		v.portable.AccumulateCodes(acc, w, ld, group, dim, codes, scale, at)
		return
	}
	n := len(at)
	if n == 0 || group == 0 {
		return
	}
	_, _ = acc[group*dim-1], w[(group-1)*ld+n-1]
	_, _ = codes[int(at[0])*dim:][dim-1], codes[int(at[n-1])*dim:][dim-1] // row lists ascend almost always
	_, _ = scale[at[0]], scale[at[n-1]]
	for g := 0; g < group; {
		h := tile(group-g, len(v.codes32))
		for c := 0; c < dim; {
			run, wide := v.codes32[h-1], 32
			if v.codes64 != nil && dim-c >= 64 {
				run, wide = v.codes64[h-1], 64
			}
			run(ptr(acc[g*dim+c:]), dim, ptr(w[g*ld:]), ld, ptr(codes), c, ptr(scale), ptr(at), n)
			c += wide
		}
		g += h
	}
}
