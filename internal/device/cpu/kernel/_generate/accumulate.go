package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// accumulateFamily is the weighted sum of gathered fp16 rows, for up to seven heads and 64 or 32 channels in a pass over the whole list: accumulators stay in
// registers, and every element of acc sees the rows in the list's order.
func accumulateFamily() {
	for h := 1; h <= gatherHeads; h++ {
		accumulate512(h, 4)
		accumulate512(h, 2)
	}
}

func accumulate512(heads, pieces int) {
	name := fmt.Sprintf("accumulate%dx%dAVX512", heads, 16*pieces)
	text(name, "(acc *float32, dim int, w *float32, ld int, rows *uint16, channel int, at *int32, n int, ahead, last *int32) (nan uint64)", 8,
		fmt.Sprintf("%s is, for %d query heads, %d channels and n ≥ 1 (attention.Portable.Accumulate):", name, heads, 16*pieces),
		"",
		"\tfor i, r := range at[:n] {",
		"\t\tfor g := range heads {",
		fmt.Sprintf("\t\t\tacc[g*dim:][:%d] += w[g*ld+i] * rows[r*dim+channel:][:%d]", 16*pieces, 16*pieces),
		"\t\t}",
		"\t}",
		"",
		"except that a sum that comes out NaN leaves all of acc as it was and returns nonzero: the caller then repeats it row by row, so that an infinity",
		"under weight zero does not count. Whole rows of the list from ahead to last are prefetched on the way.")
	n, at, w, base, rows := arg("n"), arg("at"), arg("w"), arg("rows"), arg("channel")
	LEAQ(Mem{Base: base, Index: rows, Scale: 2}, rows)
	ld, stride := arg("ld"), arg("dim")
	SHLQ(U8(2), ld)
	SHLQ(U8(2), stride)
	wa := newStrides(w, ld, heads)

	acc := make([][]VecVirtual, heads)
	{
		a := arg("acc")
		for g := range acc {
			acc[g] = make([]VecVirtual, pieces)
			for c := range acc[g] {
				acc[g][c] = ZMM()
				VMOVUPS(Mem{Base: a, Disp: 64 * c}, acc[g][c])
			}
			ADDQ(stride, a)
		}
	}
	last := arg("last")
	pf := newFetcher(arg("ahead"), 0, last)

	Label("row")
	pf.twoLines(stride)
	p := GP64()
	MOVLQSX(Mem{Base: at}, p)
	IMULQ(stride, p)
	SHRQ(U8(1), p)
	ADDQ(rows, p)
	for c := range pieces {
		x := ZMM()
		VCVTPH2PS(Mem{Base: p, Disp: 32 * c}, x)
		for g := range heads {
			VFMADD231PS_BCST(wa.at(g, 0), x, acc[g][c])
		}
	}
	ADDQ(U8(4), at)
	ADDQ(U8(4), w)
	DECQ(n)
	JNZ(LabelRef("row"))

	bad, g32 := K(), GP32()
	XORL(g32, g32)
	for g := range acc {
		for c := range acc[g] {
			t := GP32()
			VCMPPS(U8(3), acc[g][c], acc[g][c], bad)
			KMOVW(bad, t)
			ORL(t, g32)
		}
	}
	Store(g32.As64(), ReturnIndex(0))
	TESTL(g32, g32)
	JNZ(LabelRef("done"))
	{
		a := arg("acc")
		for g := range acc {
			for c := range acc[g] {
				VMOVUPS(acc[g][c], Mem{Base: a, Disp: 64 * c})
			}
			ADDQ(stride, a)
		}
	}
	Label("done")
	VZEROUPPER()
	RET()
}
