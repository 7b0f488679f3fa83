//go:build !noasm

package kernel

import "github.com/twilight-go/twilight/attention"

// agreeFunc compares the signatures of a block.
type agreeFunc = func(drawn, codes, signs *uint64, bits, tables int)

// SumLanes implements attention.Kernels.
func (v vector) SumLanes(w []float32, masks []uint16) float32 {
	if len(masks) == 0 {
		return 0
	}
	return v.sumLanes(ptr(w[:len(masks)*attention.PageTokens]), ptr(masks), len(masks))
}

// LookUp implements attention.Kernels. A gather of AVX2 is no faster than plain Go.
func (v vector) LookUp(sum []float32, codes []uint8, table []float32) {
	const size = attention.LookUpTable
	if v.lookUp == nil {
		v.portable.LookUp(sum, codes, table)
		return
	}
	s, c, n := ptr(sum[:len(codes)]), ptr(codes), len(codes)
	if len(table) == size {
		v.lookUp(s, c, n, ptr(table))
		return
	}
	for first := 0; first < len(table); first += size {
		v.lookUpPart(s, c, n, ptr(table[first:][:size]), first)
	}
}

// Agree implements attention.Kernels.
func (v vector) Agree(drawn, codes, signs []uint64, group, bits, tables int) {
	const words = attention.BlockTokens / 64
	all := bits * tables
	if all == 0 || group == 0 {
		v.portable.Agree(drawn, codes, signs, group, bits, tables)
		return
	}
	drawn, codes, signs = drawn[:group*words], codes[:all*words], signs[:group*all]
	for g := 0; g < group; {
		h := tile(group-g, len(v.agree))
		v.agree[h-1](ptr(drawn[g*words:]), ptr(codes), ptr(signs[g*all:]), bits, tables)
		g += h
	}
}

// LabelDot implements attention.Kernels. Queries are rounded as those of Int4Dot, and filled up with zeros.
func (v vector) LabelDot(dst []float32, ld int, q, base []float32, group, channels int, codes, tmp []byte) {
	n := attention.Int4{}.PageBytes(channels)
	checkScan(dst, ld, group, codes, n, 0xffff)
	row, dim := (channels+15)/16*16, (channels+7)/8*8
	s := scratch(tmp)
	q8, affine, wide := take[int8](&s, group*row), take[float32](&s, 4*group), take[float32](&s, row)
	clear(wide)
	for g := range group {
		copy(wide, q[g*channels:][:channels])
		top, sum, isum := v.estimates.quantise(ptr(q8[g*row:]), ptr(wide), row)
		scale := top / 127
		a := affine[4*g:][:4]
		a[0], a[1], a[2], a[3] = scale, 7.5*(sum-scale*float32(isum)), sum, base[g]
	}
	for g := 0; g < group; {
		h := tile(group-g, len(v.estimates.labels))
		v.estimates.labels[h-1](ptr(dst[g*ld:]), ld, ptr(q8[g*row:]), row, ptr(affine[4*g:]), ptr(codes), n, dim, 0xffff)
		g += h
	}
}
