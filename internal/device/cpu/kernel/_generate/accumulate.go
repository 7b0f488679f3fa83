package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// accumulateFamily is the weighted sum of gathered fp16 rows, for a few heads and as many channels in a pass over the list as leave their accumulators in
// registers; every element of acc sees the rows in the list's order.
func accumulateFamily() {
	for _, w := range widths {
		for channels := 256; channels >= 32; channels /= 2 {
			for h := 1; h <= w.gatherHeads() && h*channels/w.lanes() <= w.sumsMost(); h++ {
				w.accumulate(h, channels)
			}
		}
	}
}

// sumsMost is the most accumulators of a pass: the other registers are for a piece of a row and, without broadcasts from memory, weights.
func (w width) sumsMost() int {
	if w == avx512 {
		return 28
	}
	return 12
}

func (w width) accumulate(heads, channels int) {
	w.begin(fmt.Sprintf("accumulate%dx%d", heads, channels), "(acc *float32, dim int, w *float32, ld int, rows *uint16, channel int, at *int32, n int, ahead *uintptr) (nan uint64)",
		fmt.Sprintf("is, for %d query heads, %d channels and n ≥ 1 (attention.Portable.Accumulate):", heads, channels),
		"",
		"\tfor i, r := range at[:n] {",
		"\t\tfor g := range heads {",
		fmt.Sprintf("\t\t\tacc[g*dim:][:%d] += w[g*ld+i] * rows[r*dim+channel:][:%d]", channels, channels),
		"\t\t}",
		"\t}",
		"",
		"except that a sum that comes out NaN leaves all of acc as it was and returns nonzero: the caller then repeats it row by row, so that an infinity",
		"under weight zero does not count. What ahead says is prefetched on the way.")
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
	pf := newFetcher(heads)

	Label("row")
	for lines := channels / 32; lines > 0; lines -= 2 {
		pf.lines(min(lines, 2))
	}
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
	pf.end()
}
