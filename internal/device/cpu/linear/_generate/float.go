package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const floatSignature = "func(w *byte, rows, cols int, x *float32, dst *float32, stride int)"

var elementBytes = map[string]int{"F16": 2, "BF16": 2, "F32": 4}

// rowPointers address up to eight rows, stride bytes apart, with three moving pointers.
type rowPointers struct {
	base   [3]GPVirtual // rows 0, 3 and 6
	stride GPVirtual
}

func (p *rowPointers) point(x GPVirtual, n int) {
	p.base[0] = GP64()
	MOVQ(x, p.base[0])
	for i := 1; 3*i < n; i++ {
		p.base[i] = GP64()
		LEAQ(Mem{Base: p.base[i-1], Index: p.stride, Scale: 2}, p.base[i])
		ADDQ(p.stride, p.base[i])
	}
}

// at is element e of row i.
func (p *rowPointers) at(i, e int) Mem {
	from := [8]struct{ base, scale int }{{0, 0}, {0, 1}, {0, 2}, {1, 0}, {0, 4}, {1, 2}, {2, 0}, {1, 4}}[i]
	m := Mem{Base: p.base[from.base], Disp: 4 * e}
	if from.scale > 0 {
		m.Index, m.Scale = p.stride, uint8(from.scale)
	}
	return m
}

func (p *rowPointers) advance(elements int) {
	for _, b := range p.base {
		if b != nil {
			ADDQ(I8(4*elements), b)
		}
	}
}

// columns emits the walk over one tile's columns: blocks of 32, and what is left; body multiplies unroll columns.
func columns(cols GPVirtual, begin func(), body func(unroll int), end func()) {
	left, c := GP64(), GP64()
	MOVQ(cols, left)
	Label("block")
	begin()
	MOVQ(U32(32), c)
	CMPQ(left, c)
	CMOVQLT(left, c)
	SUBQ(c, left)
	CMPQ(c, I8(4))
	JL(LabelRef("singles"))
	Label("quad")
	body(4)
	SUBQ(I8(4), c)
	CMPQ(c, I8(4))
	JGE(LabelRef("quad"))
	Label("singles")
	TESTQ(c, c)
	JZ(LabelRef("summed"))
	Label("single")
	body(1)
	DECQ(c)
	JNZ(LabelRef("single"))
	Label("summed")
	end()
	TESTQ(left, left)
	JNZ(LabelRef("block"))
}

func floatAVX512(typ string, n int) {
	name := fmt.Sprintf("avx512%sx%d", typ, n)
	TEXT(name, NOSPLIT, floatSignature)
	docFloat(name, typ, n)
	Pragma("noescape")
	w, rows, cols, x, dst, stride := param("w"), param("rows"), param("cols"), param("x"), param("dst"), param("stride")
	SHLQ(U8(2), stride)
	p := rowPointers{stride: GP64()}
	MOVQ(cols, p.stride)
	SHLQ(U8(2), p.stride)
	blockBytes := 32 * rowTile * elementBytes[typ]
	zero := constantZ(0)
	acc, part := zmms(n), zmms(n)
	counter("tile", rows, rowTile, func() {
		for _, a := range acc {
			VMOVDQA32(zero, a)
		}
		p.point(x, n)
		columns(cols, func() {
			for _, a := range part {
				VMOVDQA32(zero, a)
			}
			if n >= prefetchFrom {
				prefetch(Mem{Base: w, Disp: blockBytes}, blockBytes)
				for i := range n {
					m := p.at(i, 32)
					prefetch(m, 128)
				}
			}
		}, func(unroll int) {
			for u := range unroll {
				e := ZMM()
				from := Mem{Base: w, Disp: u * rowTile * elementBytes[typ]}
				switch typ {
				case "F16":
					VCVTPH2PS(from, e)
				case "BF16":
					VPMOVZXWD(from, e)
					VPSLLD(U8(16), e, e)
				case "F32":
					VMOVUPS(from, e)
				}
				for i := range part {
					t := ZMM()
					VMULPS_BCST(p.at(i, u), e, t)
					VADDPS(t, part[i], part[i])
				}
			}
			ADDQ(I32(unroll*rowTile*elementBytes[typ]), w)
			p.advance(unroll)
		}, func() {
			for i := range part {
				VADDPS(part[i], acc[i], acc[i])
			}
		})
		mask := rowMask(rows)
		out := GP64()
		MOVQ(dst, out)
		for i, a := range acc {
			VMOVUPS(a, mask, Mem{Base: out})
			if i < n-1 {
				ADDQ(stride, out)
			}
		}
		ADDQ(I32(4*rowTile), dst)
	})
	VZEROUPPER()
	RET()
}
