package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const (
	gatherHeads = 7  // most query heads of one pass: 7 × 4 accumulators, two pieces of rows and one of a query fill the registers
	dotRows     = 4  // rows of one pass
	dotAhead    = 24 // rows between the one in hand and the one asked for
)

// dotFamily is the product of gathered fp16 rows with up to seven query heads: four rows at a time, each loaded and widened once for all heads. Lane l of an
// accumulator takes channels l, l+16, l+32… in order; then the four sums of a head are made at once by a transposing tree. So the arithmetic of one row and head
// is the same whatever the group, the count and the position.
func dotFamily() {
	for h := 1; h <= gatherHeads; h++ {
		dot512(h)
	}
}

func dot512(heads int) {
	text(fmt.Sprintf("dot%dAVX512", heads), "(dst *float32, ld int, q *float32, dim int, rows *uint16, at *int32, n int)", 16,
		fmt.Sprintf("dot%dAVX512 is, for %d query heads, any n ≥ 1 and dim a multiple of 32 (attention.Portable.Dot):", heads, heads),
		"",
		"\tfor i, r := range at[:n] {",
		"\t\tfor g := range heads {",
		"\t\t\tdst[g*ld+i] = q[g*dim:][:dim] · rows[r*dim:][:dim]",
		"\t\t}",
		"\t}")
	at, stride := arg("at"), arg("dim")
	SHLQ(U8(2), stride) // bytes of a query; twice those of a row
	q := GP64()
	qa := newStrides(q, stride, heads)
	last := arg("n")
	LEAQ(Mem{Base: at, Index: last, Scale: 4, Disp: -4}, last)
	pf := newFetcher(at, dotAhead, last)

	Label("tile")
	p := make([]GPVirtual, dotRows)
	for r := range p { // past the list's end: its last row again
		p[r] = GP64()
		LEAQ(Mem{Base: at, Disp: 4 * r}, p[r])
		CMPQ(p[r], last)
		CMOVQHI(last, p[r])
		MOVLQSX(Mem{Base: p[r]}, p[r])
		IMULQ(stride, p[r])
		SHRQ(U8(1), p[r])
		ADDQ(NewParamAddr("rows", 32), p[r])
	}
	Load(Param("q"), q)
	acc := zero512(dotRows * heads)
	left := NewStackAddr(8)
	MOVQ(stride, left)

	Label("channels")
	for half := range 2 {
		pf.twoLines(stride)
		for r := 0; r < dotRows; r += 2 {
			x, y := ZMM(), ZMM()
			VCVTPH2PS(Mem{Base: p[r], Disp: 32 * half}, x)
			VCVTPH2PS(Mem{Base: p[r+1], Disp: 32 * half}, y)
			for g := range heads {
				w := ZMM()
				VMOVUPS(qa.at(g, 64*half), w)
				VFMADD231PS(w, x, acc[dotRows*g+r])
				VFMADD231PS(w, y, acc[dotRows*g+r+1])
			}
		}
	}
	for _, r := range p {
		ADDQ(U8(64), r)
	}
	SUBQ(I8(-128), q)
	SUBQ(U32(128), left)
	JNZ(LabelRef("channels"))

	dst, ld, lanes := arg("dst"), arg("ld"), GP64()
	SHLQ(U8(2), ld)
	four := GP64()
	MOVQ(U32(dotRows), four)
	MOVQ(last, lanes)
	SUBQ(at, lanes)
	SHRQ(U8(2), lanes)
	INCQ(lanes)
	CMPQ(lanes, four)
	CMOVQGT(four, lanes)
	k := mask16(lanes)
	for g := range heads {
		VMOVUPS(sums512(acc[dotRows*g:][:dotRows]), k, Mem{Base: dst})
		if g+1 < heads {
			ADDQ(ld, dst)
		}
	}
	ADDQ(U8(4*dotRows), NewParamAddr("dst", 0))
	ADDQ(U8(4*dotRows), at)
	CMPQ(at, last)
	JLS(LabelRef("tile"))
	VZEROUPPER()
	RET()
}

// sums512 is the horizontal sums of four registers, one a lane, by the same tree for each; the registers are consumed.
func sums512(a []VecVirtual) Register {
	pair := func(lo, hi func(...Op), a, b VecVirtual) {
		t := ZMM()
		lo(b, a, t)
		hi(b, a, a)
		VADDPS(t, a, a)
	}
	pair(VUNPCKLPS, VUNPCKHPS, a[0], a[1])
	pair(VUNPCKLPS, VUNPCKHPS, a[2], a[3])
	pair(VUNPCKLPD, VUNPCKHPD, a[0], a[2])
	y, x := YMM(), XMM()
	VEXTRACTF64X4(U8(1), a[0], y)
	VADDPS(y, a[0].AsY(), y)
	VEXTRACTF32X4(U8(1), y, x)
	VADDPS(x, y.AsX(), x)
	return x
}
