//go:build !noasm

package kernel

import (
	"math"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
)

// pageTokensFunc scores the pages of a block by their tokens.
type pageTokensFunc = func(dst *float32, ld int, q *int8, qHead int, steps *float32, middles, codes, next *byte, pageBytes int, lines *int32, n int, room *byte)

// PageTokens implements attention.Kernels.
func (v vector) PageTokens(dst []float32, ld int, q []float32, group, dim int, lines []int32, middles, codes []byte, blocks []int32, ready attention.Ready, tmp []byte) {
	const nbits, line = 4, 64 // bytes, of 8 channels of 16 tokens
	e, shape, mids := v.estimates, attention.BlockRange{Bits: nbits}, attention.Middles{}
	if e == nil || !vectorDim(dim) || dim > 256 {
		v.portable.PageTokens(dst, ld, q, group, dim, lines, middles, codes, blocks, ready, tmp)
		return
	}
	if len(blocks) == 0 || len(lines) == 0 {
		return
	}
	_, _ = q[group*dim-1], dst[(group-1)*ld+attention.BlockPages*len(blocks)-1]
	size, head, page := shape.BlockBytes(dim), shape.HeadBytes(dim), shape.PageBytes(dim)
	s := scratch(tmp)
	q8, affine, at := take[int8](&s, group*dim), take[float32](&s, 4*group), take[int32](&s, len(lines))
	for i, l := range lines {
		at[i] = l * line
		_ = q[int(l+1)*8-1 : dim]
	}
	var steps []float32
	var room []int8
	if len(e.tokens) > 0 {
		steps, room = take[float32](&s, group), take[int8](&s, 512+1024*((min(group, len(e.tokens))+3)/4))
	}
	for i, b := range blocks {
		own := codes[int(b)*size:][:size]
		if len(ready.Data) > 0 {
			q8, affine = prepared(ready.Data, i, group, dim)
		} else {
			e.prepare(q8, affine, q, group, dim, own, codeMiddle(nbits), 0)
		}
		scores := dst[i*attention.BlockPages:]
		if len(e.tokens) == 0 {
			e.pageTokens(v, scores, ld, q8, affine, group, dim, at, middles, codes, b, s)
			continue
		}
		next := codes[int(blocks[min(i+2, len(blocks)-1)])*size:][:size]
		mid := middles[int(b)*mids.BlockBytes(dim):][mids.HeadBytes(dim):][:mids.PageBytes(dim)]
		for g := range steps {
			steps[g] = affine[4*g] * (math.Log2E * (1 << 23))
		}
		for g := 0; g < group; {
			h := tile(group-g, len(e.tokens))
			e.tokens[h-1](ptr(scores[g*ld:]), ld, ptr(q8[g*dim:]), dim, &steps[g], ptr(mid), ptr(own[head:]), ptr(next[head:]), page, ptr(at), len(at), (*byte)(unsafe.Pointer(ptr(room))))
			g += h
		}
	}
}

// pageTokens is PageTokens of block b by what estimates: with queries of nothing in the other channels, whose lines count in time alone. q8 and affine are the block's queries and maps.
func (e *estimates) pageTokens(v vector, dst []float32, ld int, q8 []int8, affine []float32, group, dim int, at []int32, middles, codes []byte, b int32, s scratch) {
	const nbits, line = 4, 64
	shape, mids := attention.BlockRange{Bits: nbits}, attention.Middles{}
	few := take[int8](&s, group*dim)
	x, m := take[float32](&s, attention.BlockTokens*group), take[float32](&s, attention.BlockPages*group)
	pages := take[int32](&s, attention.BlockPages)
	clear(few)
	for g := range group {
		for _, a := range at {
			c := g*dim + int(a)/line*8
			copy(few[c:c+8], q8[c:])
		}
	}
	for p := range pages {
		pages[p] = b*attention.BlockPages + int32(p)
	}
	scan, last := e.block[nbits], &pages[len(pages)-1]
	for g := 0; g < group; {
		h := tile(group-g, len(scan))
		scan[h-1](&m[g*attention.BlockPages], attention.BlockPages, &few[g*dim], dim, &affine[4*g], ptr(middles), mids.BlockBytes(dim), mids.HeadBytes(dim), mids.PageBytes(dim), dim, &pages[0], 1, &pages[0])
		scan[h-1](&x[g*attention.BlockTokens], attention.BlockTokens, &few[g*dim], dim, &affine[4*g], ptr(codes), shape.BlockBytes(dim), shape.HeadBytes(dim), shape.PageBytes(dim), dim, &pages[0], len(pages), last)
		g += h
	}
	for g := range group {
		for p := range attention.BlockPages {
			sum := v.Weigh(x[g*attention.BlockTokens+p*attention.PageTokens:][:attention.PageTokens], m[g*attention.BlockPages+p])
			dst[g*ld+p] += float32(math.Log(float64(sum)))
		}
	}
}
