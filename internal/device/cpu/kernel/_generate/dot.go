package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const dotHeads = 8 // most query heads of one pass

// dotFamily is the product of gathered fp16 rows with up to eight query heads. Sixteen rows are transposed in registers, so that lane = row, no sum is
// horizontal, and a row is loaded and widened once for all heads. The arithmetic of one row and head is the same whatever the group, the count and the position:
// two chains, of channels c with c mod 16 < 8 and of the others, added at the end.
func dotFamily() {
	for h := 1; h <= dotHeads; h++ {
		dot512(h)
	}
}

func dot512(heads int) {
	text(fmt.Sprintf("dot%dAVX512", heads), "(dst *float32, ld int, q *float32, dim int, rows *uint16, at *int32, n int)", 256,
		fmt.Sprintf("dot%dAVX512 is, for %d query heads, any n ≥ 1 and dim a multiple of 32 (attention.Portable.Dot):", heads, heads),
		"",
		"\tfor i, r := range at[:n] {",
		"\t\tfor g := range heads {",
		"\t\t\tdst[g*ld+i] = q[g*dim:][:dim] · rows[r*dim:][:dim]",
		"\t\t}",
		"\t}")
	n, at, dst := arg("n"), arg("at"), arg("dst")
	stride := arg("dim")
	SHLQ(U8(2), stride) // bytes of a query; twice those of a row
	even := quads512(fmt.Sprintf("dotEven%d", heads), 0, 8, 4, 12, 2, 10, 6, 14)
	odd := quads512(fmt.Sprintf("dotOdd%d", heads), 1, 9, 5, 13, 3, 11, 7, 15)
	cur, next := NewStackAddr(0), NewStackAddr(128)

	q := GP64()
	qa := newStrides(q, stride, heads)
	dotPointers(at, n, stride, cur)

	Label("tile")
	{ // Addresses of the tile after this one, to prefetch; the last tile names itself.
		left, ahead := GP64(), GP64()
		MOVQ(n, left)
		LEAQ(Mem{Base: at, Disp: 64}, ahead)
		SUBQ(U8(16), left)
		CMOVQLE(at, ahead)
		CMOVQLE(n, left)
		dotPointers(ahead, left, stride, next)
	}
	Load(Param("q"), q)
	acc := zero512(2 * heads)
	off, end := GP64(), GP64()
	XORQ(off, off)
	MOVQ(stride, end)
	SHRQ(U8(1), end)

	Label("channels")
	for half := range 2 {
		p := GP64()
		for r := range 8 { // each row's line of 32 channels is asked for once
			MOVQ(next.Offset(8*(8*half+r)), p)
			PREFETCHT0(Mem{Base: p, Index: off, Scale: 1})
		}
		k := dotTranspose(cur, off, 32*half, even, odd)
		for j, z := range k {
			lo, hi, top := ZMM(), ZMM(), YMM()
			VCVTPH2PS(z.AsY(), lo)
			VEXTRACTI64X4(U8(1), z, top)
			VCVTPH2PS(top, hi)
			for g := range heads {
				VFMADD231PS_BCST(qa.at(g, 64*half+4*j), lo, acc[2*g])
			}
			for g := range heads {
				VFMADD231PS_BCST(qa.at(g, 64*half+4*(8+j)), hi, acc[2*g+1])
			}
		}
	}
	ADDQ(U32(128), q)
	ADDQ(U8(64), off)
	CMPQ(off, end)
	JB(LabelRef("channels"))

	ld := arg("ld")
	SHLQ(U8(2), ld)
	da := newStrides(dst, ld, heads)
	lanes := GP64()
	MOVQ(U32(16), lanes)
	CMPQ(n, lanes)
	CMOVQLT(n, lanes)
	k := mask16(lanes)
	for g := range heads {
		VADDPS(acc[2*g], acc[2*g+1], acc[2*g])
		VMOVUPS(acc[2*g], k, da.at(g, 0))
	}
	for i := range 2 {
		z := ZMM()
		VMOVDQU64(next.Offset(64*i), z)
		VMOVDQU64(z, cur.Offset(64*i))
	}
	ADDQ(U8(64), at)
	ADDQ(U8(64), dst)
	SUBQ(U8(16), n)
	JG(LabelRef("tile"))
	VZEROUPPER()
	RET()
}

// dotPointers writes the addresses of the next 16 rows to the frame; past the list's end, lanes take its first row of the tile.
func dotPointers(at, n, stride GPVirtual, to Mem) {
	lanes := GP64()
	MOVQ(U32(16), lanes)
	CMPQ(n, lanes)
	CMOVQLT(n, lanes)
	k := mask16(lanes)
	i, hi, base, s := ZMM(), YMM(), ZMM(), ZMM()
	VPBROADCASTD(Mem{Base: at}, i)
	VMOVDQU32(Mem{Base: at}, k, i)
	VPBROADCASTQ(stride, s)
	VPSRLQ(U8(1), s, s)
	rows := arg("rows")
	VPBROADCASTQ(rows, base)
	lo, up := ZMM(), ZMM()
	VEXTRACTI64X4(U8(1), i, hi)
	VPMOVZXDQ(i.AsY(), lo)
	VPMOVZXDQ(hi, up)
	for j, z := range []VecVirtual{lo, up} {
		VPMULUDQ(s, z, z)
		VPADDQ(base, z, z)
		VMOVDQU64(z, to.Offset(64*j))
	}
}

// dotTranspose loads 16 channels of 16 fp16 rows and returns eight registers: the low half of register j is channel j of rows 0..15, the high half channel 8+j.
func dotTranspose(rows Mem, off GPVirtual, disp int, even, odd VecVirtual) []VecVirtual {
	z := make([]VecVirtual, 8)
	for r := range z {
		a, b := GP64(), GP64()
		z[r] = ZMM()
		MOVQ(rows.Offset(8*r), a)
		MOVQ(rows.Offset(8*(r+8)), b)
		VBROADCASTI64X4(Mem{Base: a, Index: off, Scale: 1, Disp: disp}, z[r])
		VINSERTI64X4(U8(1), Mem{Base: b, Index: off, Scale: 1, Disp: disp}, z[r], z[r])
	}
	words := func(a, b VecVirtual) (lo, hi VecVirtual) {
		lo = ZMM()
		VPUNPCKLWD(b, a, lo)
		VPUNPCKHWD(b, a, a)
		return lo, a
	}
	dwords := func(a, b VecVirtual) (lo, hi VecVirtual) {
		lo = ZMM()
		VPUNPCKLDQ(b, a, lo)
		VPUNPCKHDQ(b, a, a)
		return lo, a
	}
	// four takes rows r..r+3 (and those 8 above) to quadwords of four rows: register i holds channels 2i, 2i+1 of both groups of eight.
	four := func(r int) [4]VecVirtual {
		l01, h01 := words(z[r], z[r+1])
		l23, h23 := words(z[r+2], z[r+3])
		c01, c23 := dwords(l01, l23)
		c45, c67 := dwords(h01, h23)
		return [4]VecVirtual{c01, c23, c45, c67}
	}
	a, b := four(0), four(4)
	out := make([]VecVirtual, 0, 8)
	for i := range a {
		e := ZMM()
		VMOVDQA64(a[i], e)
		VPERMT2Q(b[i], even, e)
		VPERMT2Q(b[i], odd, a[i])
		out = append(out, e, a[i])
	}
	return out
}
