package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const dotRows = 4 // rows of one pass

// gatherHeads is the most query heads of one pass: accumulators for four rows, two pieces of rows and one of a query fill the registers.
func (w width) gatherHeads() int {
	if w == avx512 {
		return 7
	}
	return 3
}

// dotFamily is the product of gathered fp16 rows with a few query heads: four rows at a time, each loaded and widened once for all heads. Lane l of an
// accumulator takes channels l, l+lanes… in order; then the four sums of a head are made at once by a transposing tree. So the arithmetic of one row and head
// is the same whatever the group, the count and the position.
func dotFamily() {
	fetch()
	fetchRows()
	for _, w := range widths {
		for h := 1; h <= w.gatherHeads(); h++ {
			w.dot(h)
		}
	}
}

func (w width) dot(heads int) {
	w.begin(fmt.Sprintf("dot%d", heads), "(dst *float32, ld int, q *float32, dim int, rows *uint16, at *int32, n int, ahead *uintptr)",
		fmt.Sprintf("is, for %d query heads, any n ≥ 1 and dim a multiple of 32 (attention.Portable.Dot):", heads),
		"",
		"\tfor i, r := range at[:n] {",
		"\t\tfor g := range heads {",
		"\t\t\tdst[g*ld+i] = q[g*dim:][:dim] · rows[r*dim:][:dim]",
		"\t\t}",
		"\t}",
		"",
		"What ahead says is prefetched on the way.")
	AllocLocal(8)
	at, stride := arg("at"), arg("dim")
	SHLQ(U8(2), stride) // bytes of a query; twice those of a row
	q := GP64()
	qa := newStrides(q, stride, heads)
	last := arg("n")
	LEAQ(Mem{Base: at, Index: last, Scale: 4, Disp: -4}, last)
	pf := newFetcher(heads)

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
	acc := w.zero(dotRows * heads)
	left := NewStackAddr(0)
	if heads == 1 {
		for r := range dotRows {
			Load(Param("q"), q)
			MOVQ(stride, left)
			Label(fmt.Sprint("row", r))
			pf.lines(1)
			for i := range 32 / w.lanes() {
				v := w.vec()
				VCVTPH2PS(Mem{Base: p[r], Disp: int(w) / 2 * i}, v)
				VFMADD231PS(Mem{Base: q, Disp: int(w) * i}, v, acc[r])
			}
			ADDQ(U8(64), p[r])
			SUBQ(I8(-128), q)
			SUBQ(U32(128), left)
			JNZ(LabelRef(fmt.Sprint("row", r)))
		}
	} else {
		MOVQ(stride, left)
		Label("channels")
		for i := range 32 / w.lanes() {
			if i < 2 {
				pf.lines(2)
			}
			for r := 0; r < dotRows; r += 2 {
				x, y := w.vec(), w.vec()
				VCVTPH2PS(Mem{Base: p[r], Disp: int(w) / 2 * i}, x)
				VCVTPH2PS(Mem{Base: p[r+1], Disp: int(w) / 2 * i}, y)
				for g := range heads {
					v := w.vec()
					VMOVUPS(qa.at(g, int(w)*i), v)
					VFMADD231PS(v, x, acc[dotRows*g+r])
					VFMADD231PS(v, y, acc[dotRows*g+r+1])
				}
			}
		}
		for _, r := range p {
			ADDQ(U8(64), r)
		}
		SUBQ(I8(-128), q)
		SUBQ(U32(128), left)
		JNZ(LabelRef("channels"))
	}

	dst, ld, lanes := arg("dst"), arg("ld"), GP64()
	SHLQ(U8(2), ld)
	MOVQ(last, lanes)
	SUBQ(at, lanes)
	SHRQ(U8(2), lanes)
	INCQ(lanes)
	k := w.few(lanes)
	for g := range heads {
		x := w.sums(acc[dotRows*g:][:dotRows])
		if w == avx512 {
			VMOVUPS(x, k, Mem{Base: dst})
		} else {
			VMASKMOVPS(x, k, Mem{Base: dst})
		}
		if g+1 < heads {
			ADDQ(ld, dst)
		}
	}
	ADDQ(U8(4*dotRows), NewParamAddr("dst", 0))
	ADDQ(U8(4*dotRows), at)
	CMPQ(at, last)
	JLS(LabelRef("tile"))
	pf.end()
}

// few is a mask of the low n of four lanes, n ≥ 1.
func (w width) few(n GPVirtual) Register {
	four := GP64()
	MOVQ(U32(dotRows), four)
	CMPQ(n, four)
	CMOVQGT(four, n)
	if w == avx512 {
		return mask16(n)
	}
	table, v := GP64(), XMM()
	LEAQ(signTable(), table)
	SHLQ(U8(2), n)
	SUBQ(n, table)
	VMOVUPS(Mem{Base: table, Disp: 32}, v)
	return v
}

// sums is the horizontal sums of four registers, one a lane, by the same tree for each; the registers are consumed.
func (w width) sums(a []VecVirtual) Register {
	pair := func(lo, hi func(...Op), a, b VecVirtual) {
		t := w.vec()
		lo(b, a, t)
		hi(b, a, a)
		VADDPS(t, a, a)
	}
	pair(VUNPCKLPS, VUNPCKHPS, a[0], a[1])
	pair(VUNPCKLPS, VUNPCKHPS, a[2], a[3])
	pair(VUNPCKLPD, VUNPCKHPD, a[0], a[2])
	x := XMM()
	if w == avx512 {
		t := YMM()
		VEXTRACTF64X4(U8(1), a[0], t)
		VADDPS(t, a[0].AsY(), t)
		VEXTRACTF32X4(U8(1), t, x)
		VADDPS(x, t.AsX(), x)
		return x
	}
	VEXTRACTF128(U8(1), a[0], x)
	VADDPS(x, a[0].AsX(), x)
	return x
}
