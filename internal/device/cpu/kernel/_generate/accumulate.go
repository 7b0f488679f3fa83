package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// accumulateFamily is the weighted sum of gathered fp16 rows, for a few heads and 64 or 32 channels in a pass over the list: accumulators stay in
// registers, and every element of acc sees the rows in the list's order.
func accumulateFamily() {
	for h := 1; h <= avx512.gatherHeads(); h++ {
		avx512.accumulate(h, 64)
		avx512.accumulate(h, 32)
	}
	for h := 1; h <= avx2.gatherHeads(); h++ {
		avx2.accumulate(h, 32)
	}
}

func (w width) accumulate(heads, channels int) {
	w.begin(fmt.Sprintf("accumulate%dx%d", heads, channels), "(acc *float32, dim int, w *float32, ld int, rows *uint16, channel int, at *int32, n int, ahead, last *int32) (nan uint64)",
		fmt.Sprintf("is, for %d query heads, %d channels and n ≥ 1 (attention.Portable.Accumulate):", heads, channels),
		"",
		"\tfor i, r := range at[:n] {",
		"\t\tfor g := range heads {",
		fmt.Sprintf("\t\t\tacc[g*dim:][:%d] += w[g*ld+i] * rows[r*dim+channel:][:%d]", channels, channels),
		"\t\t}",
		"\t}",
		"",
		"except that a sum that comes out NaN leaves all of acc as it was and returns nonzero: the caller then repeats it row by row, so that an infinity",
		"under weight zero does not count. Whole rows of the list from ahead to last are prefetched on the way.")
	AllocLocal(8)
	pieces := channels / w.lanes()
	n, at, weight, base, rows := arg("n"), arg("at"), arg("w"), arg("rows"), arg("channel")
	LEAQ(Mem{Base: base, Index: rows, Scale: 2}, rows)
	ld, stride := arg("ld"), arg("dim")
	SHLQ(U8(2), ld)
	SHLQ(U8(2), stride)
	wa := newStrides(weight, ld, heads)

	acc := make([][]VecVirtual, heads)
	{
		a := arg("acc")
		for g := range acc {
			acc[g] = make([]VecVirtual, pieces)
			for c := range acc[g] {
				acc[g][c] = w.vec()
				VMOVUPS(Mem{Base: a, Disp: int(w) * c}, acc[g][c])
			}
			ADDQ(stride, a)
		}
	}
	first := GP64()
	XORQ(first, first)
	pf := newFetcher(arg("ahead"), first, arg("last"))

	Label("row")
	pf.twoLines(stride)
	p := GP64()
	MOVLQSX(Mem{Base: at}, p)
	IMULQ(stride, p)
	SHRQ(U8(1), p)
	ADDQ(rows, p)
	all := make([]VecVirtual, heads)
	if w == avx2 {
		for g := range all {
			all[g] = w.vec()
			VBROADCASTSS(wa.at(g, 0), all[g])
		}
	}
	for c := range pieces {
		x := w.vec()
		VCVTPH2PS(Mem{Base: p, Disp: int(w) / 2 * c}, x)
		for g := range heads {
			if w == avx512 {
				VFMADD231PS_BCST(wa.at(g, 0), x, acc[g][c])
			} else {
				VFMADD231PS(all[g], x, acc[g][c])
			}
		}
	}
	ADDQ(U8(4), at)
	ADDQ(U8(4), weight)
	DECQ(n)
	JNZ(LabelRef("row"))

	bad := GP32()
	if w == avx512 { // two registers a comparison, into one mask of lanes where every pair is ordered
		k := K()
		VCMPPS(U8(7), acc[0][0], acc[0][1], k)
		for g := range acc {
			for c := 0; c < pieces; c += 2 {
				if g+c > 0 {
					VCMPPS(U8(7), acc[g][c], acc[g][c+1], k, k)
				}
			}
		}
		KMOVW(k, bad)
		XORL(U32(0xffff), bad)
	} else {
		XORL(bad, bad)
		for g := range acc {
			for c := range acc[g] {
				t, v := GP32(), w.vec()
				VCMPPS(U8(3), acc[g][c], acc[g][c], v)
				VMOVMSKPS(v, t)
				ORL(t, bad)
			}
		}
	}
	Store(bad.As64(), ReturnIndex(0))
	TESTL(bad, bad)
	JNZ(LabelRef("done"))
	{
		a := arg("acc")
		for g := range acc {
			for c := range acc[g] {
				VMOVUPS(acc[g][c], Mem{Base: a, Disp: int(w) * c})
			}
			ADDQ(stride, a)
		}
	}
	Label("done")
	end()
}
