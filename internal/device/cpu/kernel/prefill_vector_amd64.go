//go:build !noasm

package kernel

import (
	"math"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
)

// Prefill implements Kernels: per block of tokens, logits of a few query rows at a time as a matrix product, their softmax while they are in the first-level
// cache, and the product with the values.
func (v vector) Prefill(p *Prefill) {
	const block = attention.BlockTokens
	dim := p.Head.Dim
	if !vectorDim(dim) {
		prefillRows(v, p)
		return
	}
	m := p.Rows * p.Group
	tmp := p.Tmp
	piece := func(n int) []float32 {
		skip := int(-uintptr(unsafe.Pointer(ptr(tmp)))&63) / 4 // a vector that straddles cache lines costs two
		s := tmp[skip : skip+n : skip+n]
		tmp = tmp[skip+n:]
		return s
	}
	padded := (m + 3) &^ 3
	keys, values := piece(block*dim), piece(block*dim)
	q, out, state := piece(padded*dim), piece(padded*dim), piece(2*padded)
	s, shrink := piece(panelRows*block), piece(panelRows)
	for r := range p.Rows {
		copy(q[r*p.Group*dim:][:p.Group*dim], p.Q[r*p.Stride:])
	}
	clear(q[m*dim:])
	clear(out)
	for i := range m {
		state[2*i], state[2*i+1] = float32(math.Inf(-1)), 0
	}
	first, end := p.blocks()
	for b := first; b < end; b++ {
		n := min(block, p.Pos+p.Rows-b*block)
		v.keyPanels(ptr(keys), ptr(p.Head.Keys(b)), dim, n)
		v.valuePanels(ptr(values), ptr(p.Head.Values(b)), dim, n, block)
		for i := 0; i < padded; {
			h := min(4*len(v.panel), padded-i)
			_, see := p.sight((min(i+h, m)-1)/p.Group, b) // the panel's last row sees furthest
			if see > 0 {
				v.multiply(h, s, block, nil, q[i*dim:], dim, keys, dim, dim, (see+31)/32)
				for j := range h {
					lo, hi, row := 0, 0, i+j
					var r running
					if row < m {
						lo, hi = p.sight(row/p.Group, b)
						r = running{state[2*row], state[2*row+1]}
					}
					shrink[j] = soften(v, s[j*block:][:see], lo, hi, &r)
					if row < m {
						state[2*row], state[2*row+1] = r.top, r.sum
					}
				}
				v.multiply(h, out[i*dim:], dim, shrink, s, block, values, see, block, dim/32)
			}
			i += h
		}
	}
	for i := range m {
		dst := p.Dst[i/p.Group*p.Stride+i%p.Group*dim:][:dim]
		copy(dst, out[i*dim:])
		v.Scale(dst, 1/state[2*i+1])
	}
}

// multiply is a product of rows, a multiple of 4, by panels; see the routines' comments.
func (v vector) multiply(rows int, c []float32, ldc int, f, a []float32, lda int, b []float32, k, panel, panels int) {
	v.panel[rows/4-1](ptr(c), ldc, ptr(f), ptr(a), lda, ptr(b), k, panel, panels)
}
