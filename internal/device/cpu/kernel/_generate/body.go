package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// bodyFamily is what precision by weight needs: the packing of weights, and the weighted sum of rows of signed bytes.
func bodyFamily() {
	pack512()
	packPages512()
	splitLanes512()
	listLanes512()
	listPages512()
	codeWeights512()
	for h := 1; h <= codeHeads; h++ {
		codeRows512(h)
	}
	for h := 1; h <= avx512.gatherHeads(); h++ {
		packLanes512(h)
		avx512.accumulateCodes(h, 32)
	}
	for h := 1; h <= avx2.gatherHeads(); h++ {
		avx2.accumulateCodes(h, 32)
	}
}

func pack512() {
	text("packAVX512", "(dst, w *float32, n int, t float32) (count uint64)", 0,
		"packAVX512 writes the elements of at least t in order and counts them; up to 15 more places are overwritten:",
		"",
		"\tfor _, x := range w[:n] {",
		"\t\tif x >= t {",
		"\t\t\tdst[count] = x",
		"\t\t\tcount++",
		"\t\t}",
		"\t}")
	dst, w, n := arg("dst"), arg("w"), arg("n")
	t, begin := avx512.spread("t", 24), GP64()
	MOVQ(dst, begin)
	avx512.each(n, 2, func(s stream) {
		v, k, count := s.load(w), K(), GP64()
		if s.k == nil {
			VCMPPS(U8(atLeast), t, v, k)
		} else {
			VCMPPS(U8(atLeast), t, v, s.k, k)
		}
		VCOMPRESSPS_Z(v, k, v)
		VMOVUPS(v, Mem{Base: dst})
		KMOVW(k, count.As32())
		POPCNTQ(count, count)
		LEAQ(Mem{Base: dst, Index: count, Scale: 4}, dst)
	})
	SUBQ(begin, dst)
	SHRQ(U8(2), dst)
	Store(dst, ReturnIndex(0))
	end()
}

// packPages512 looks at listed pages only.
func packPages512() {
	avx512.begin("packPages", "(dst, w *float32, pages *int32, masks *uint16, n int) (count uint64)",
		"is, for n ≥ 1, up to 15 more places being overwritten (attention.Portable.PackPages):",
		"",
		"\tfor _, j := range pages[:n] {",
		"\t\tappend w[16*j+i] for each bit i set in masks[j]",
		"\t}")
	dst, w, pages, masks, n, begin := arg("dst"), arg("w"), arg("pages"), arg("masks"), arg("n"), GP64()
	MOVQ(dst, begin)
	Label("page")
	p, m, k, v := GP64(), GP64(), K(), ZMM()
	MOVLQSX(Mem{Base: pages}, p)
	MOVWQZX(Mem{Base: masks, Index: p, Scale: 2}, m)
	KMOVW(m.As32(), k)
	SHLQ(U8(6), p)
	VMOVUPS(Mem{Base: w, Index: p, Scale: 1}, v)
	VCOMPRESSPS_Z(v, k, v)
	VMOVUPS(v, Mem{Base: dst})
	POPCNTQ(m, m)
	LEAQ(Mem{Base: dst, Index: m, Scale: 4}, dst)
	ADDQ(U8(4), pages)
	DECQ(n)
	JNZ(LabelRef("page"))
	SUBQ(begin, dst)
	SHRQ(U8(2), dst)
	Store(dst, ReturnIndex(0))
	end()
}

// packLanes512 takes the query heads of a page in turn: their weights go to one place of their rows each.
func packLanes512(heads int) {
	avx512.begin(fmt.Sprint("packLanes", heads), "(dst *float32, ld int, w *float32, wld int, pages *int32, masks, own *uint16, ownLD int, scale *float32, rows *int32, lanes *float32, n int)",
		fmt.Sprintf("is attention.Portable.PackLanes for %d query heads and n ≥ 1 pages; up to 15 more places are", heads),
		"overwritten. Scales of pages further on are prefetched.")
	ahead := 16 + 64/heads // pages: about as long as memory takes
	dst, ld, wld, ownLD, j := arg("dst"), arg("ld"), arg("wld"), arg("ownLD"), GP64()
	SHLQ(U8(2), ld)
	SHLQ(U8(2), wld)
	ADDQ(ownLD, ownLD)
	XORQ(j, j)
	sums, lanes := avx512.zero(heads), ZMM()
	VMOVDQU32(lanePlaces(), lanes)
	Label("page")
	rows, scale, next, p := arg("rows"), arg("scale"), GP64(), GP64()
	LEAQ(Mem{Base: j, Disp: ahead}, next)
	CMPQ(next, NewParamAddr("n", 88))
	CMOVQGE(j, next)
	MOVLQSX(Mem{Base: rows, Index: next, Scale: 4}, p)
	PREFETCHT1(Mem{Base: scale, Index: p, Scale: 4})
	MOVLQSX(Mem{Base: rows, Index: j, Scale: 4}, p)
	listed, k, s, places, to := GP64(), K(), ZMM(), ZMM(), GP64()
	masks, own := arg("masks"), arg("own")
	MOVWQZX(Mem{Base: masks, Index: j, Scale: 2}, listed)
	KMOVW(listed.As32(), k)
	LEAQ(Mem{Base: own, Index: j, Scale: 2}, own)
	VPCOMPRESSD_Z(lanes, k, places) // where lanes come from, for all heads
	VPERMPS(Mem{Base: scale, Index: p, Scale: 4}, places, s)
	pages, weights := arg("pages"), arg("w")
	MOVLQSX(Mem{Base: pages, Index: j, Scale: 4}, p)
	SHLQ(U8(6), p)
	ADDQ(p, weights)
	MOVQ(dst, to)
	for g := range heads {
		mine, x := K(), ZMM()
		KMOVW(Mem{Base: own}, mine)
		VMOVUPS_Z(Mem{Base: weights}, mine, x)
		VADDPS(x, sums[g], sums[g])
		VPERMPS(x, places, x)
		VMULPS(s, x, x)
		VMOVUPS(x, Mem{Base: to})
		if g+1 < heads {
			ADDQ(wld, weights)
			ADDQ(ld, to)
			ADDQ(ownLD, own)
		}
	}
	POPCNTQ(listed, listed)
	LEAQ(Mem{Base: dst, Index: listed, Scale: 4}, dst)
	INCQ(j)
	CMPQ(j, NewParamAddr("n", 88))
	JL(LabelRef("page"))
	out := arg("lanes")
	for g, x := range sums {
		VMOVUPS(x, Mem{Base: out, Disp: 64 * g})
	}
	end()
}

func listLanes512() {
	avx512.begin("listLanes", "(dst, base *int32, masks *uint16, n int) (count uint64)",
		"is, for n ≥ 1, up to 15 more places being overwritten (attention.Portable.ListLanes):",
		"",
		"\tfor j := range n {",
		"\t\tappend base[j]+i for each bit i set in masks[j]",
		"\t}")
	dst, base, masks, n, begin := arg("dst"), arg("base"), arg("masks"), arg("n"), GP64()
	MOVQ(dst, begin)
	lanes := ZMM()
	VMOVDQU32(lanePlaces(), lanes)
	Label("page")
	m, k, v := GP64(), K(), ZMM()
	MOVWQZX(Mem{Base: masks}, m)
	KMOVW(m.As32(), k)
	VPADDD_BCST(Mem{Base: base}, lanes, v)
	VPCOMPRESSD_Z(v, k, v)
	VMOVDQU32(v, Mem{Base: dst})
	POPCNTQ(m, m)
	LEAQ(Mem{Base: dst, Index: m, Scale: 4}, dst)
	ADDQ(U8(2), masks)
	ADDQ(U8(4), base)
	DECQ(n)
	JNZ(LabelRef("page"))
	SUBQ(begin, dst)
	SHRQ(U8(2), dst)
	Store(dst, ReturnIndex(0))
	end()
}

// listPages512 takes sixteen masks at a time.
func listPages512() {
	avx512.begin("listPages", "(dst *int32, masks *uint16, n int) (count uint64)",
		"is, for n ≥ 1, up to 15 more places being overwritten (attention.Portable.ListPages):",
		"",
		"\tfor j := range n {",
		"\t\tif masks[j] != 0 {",
		"\t\t\tdst[count] = j",
		"\t\t\tcount++",
		"\t\t}",
		"\t}")
	dst, masks, n, begin := arg("dst"), arg("masks"), arg("n"), GP64()
	MOVQ(dst, begin)
	pages, step := ZMM(), avx512.splatBits(16)
	VMOVDQU32(lanePlaces(), pages)
	some := func(load func(m VecVirtual)) {
		m, k, v, count := YMM(), K(), ZMM(), GP64()
		load(m)
		VPTESTMW(m, m, k)
		VPCOMPRESSD_Z(pages, k, v)
		VMOVDQU32(v, Mem{Base: dst})
		KMOVW(k, count.As32())
		POPCNTQ(count, count)
		LEAQ(Mem{Base: dst, Index: count, Scale: 4}, dst)
	}
	SUBQ(U8(16), n)
	JL(LabelRef("rest"))
	Label("pages")
	some(func(m VecVirtual) { VMOVDQU16(Mem{Base: masks}, m) })
	VPADDD(step, pages, pages)
	ADDQ(U8(32), masks)
	SUBQ(U8(16), n)
	JGE(LabelRef("pages"))
	Label("rest")
	ADDQ(U8(16), n)
	JZ(LabelRef("end"))
	some(func(m VecVirtual) { VMOVDQU16_Z(Mem{Base: masks}, mask16(n), m) })
	Label("end")
	SUBQ(begin, dst)
	SHRQ(U8(2), dst)
	Store(dst, ReturnIndex(0))
	end()
}

// lanePlaces is the numbers from 0 to 15.
func lanePlaces() Mem {
	m, ok := constants["lanePlaces"]
	if !ok {
		m = GLOBL("lanePlaces", RODATA|NOPTR)
		for i := range 16 {
			DATA(4*i, U32(uint32(i)))
		}
		constants["lanePlaces"] = m
	}
	return m
}

// splitLanes512 looks at listed pages only.
func splitLanes512() {
	text("splitLanesAVX512", "(keep, heavy *uint16, w *float32, pages *int32, n int, least, much float32) (kept uint64)", 0,
		"splitLanesAVX512 is, for pages of 16 weights and n ≥ 1 (attention.Portable.SplitLanes):",
		"",
		"\tfor _, j := range pages[:n] {",
		"\t\tkeep[j], heavy[j] = bits i where w[16*j+i] >= least, and where it is >= much",
		"\t\tkept += number of bits in keep[j]",
		"\t}")
	keep, heavy, w, pages, n := arg("keep"), arg("heavy"), arg("w"), arg("pages"), arg("n")
	least, much := avx512.spread("least", 40), avx512.spread("much", 44)
	kept := GP64()
	XORQ(kept, kept)
	Label("page")
	p, at, m, v, k, h := GP64(), GP64(), GP64(), ZMM(), K(), K()
	MOVLQSX(Mem{Base: pages}, p)
	MOVQ(p, at)
	SHLQ(U8(6), at)
	VMOVUPS(Mem{Base: w, Index: at, Scale: 1}, v)
	VCMPPS(U8(atLeast), least, v, k)
	VCMPPS(U8(atLeast), much, v, h)
	KMOVW(k, m.As32())
	MOVW(m.As16(), Mem{Base: keep, Index: p, Scale: 2})
	KMOVW(h, Mem{Base: heavy, Index: p, Scale: 2})
	POPCNTQ(m, m)
	ADDQ(m, kept)
	ADDQ(U8(4), pages)
	DECQ(n)
	JNZ(LabelRef("page"))
	Store(kept, ReturnIndex(0))
	end()
}

// codesAhead is how many rows ahead of their use the codes are asked for.
const codesAhead = 12

func (w width) accumulateCodes(heads, channels int) {
	w.begin(fmt.Sprintf("codes%dx%d", heads, channels), "(acc *float32, dim int, w *float32, ld int, codes *byte, channel int, at *int32, n int)",
		fmt.Sprintf("is, for %d query heads, %d channels and n ≥ 1 (attention.Portable.AccumulateCodes):", heads, channels),
		"",
		"\tfor i, r := range at[:n] {",
		"\t\tfor g := range heads {",
		fmt.Sprintf("\t\t\tacc[g*dim:][:%d] += w[g*ld+i] * codes[r*dim+channel:][:%d]", channels, channels),
		"\t\t}",
		"\t}")
	pieces := channels / w.lanes()
	n, at, weight, base, codes := arg("n"), arg("at"), arg("w"), arg("codes"), arg("channel")
	ADDQ(base, codes)
	ld, dim := arg("ld"), arg("dim")
	SHLQ(U8(2), ld)
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
			LEAQ(Mem{Base: a, Index: dim, Scale: 4}, a)
		}
	}
	last := GP64()
	LEAQ(Mem{Base: at, Index: n, Scale: 4, Disp: -4}, last)
	Label("row")
	p, ahead := GP64(), GP64()
	LEAQ(Mem{Base: at, Disp: 4 * codesAhead}, ahead)
	CMPQ(ahead, last)
	CMOVQHI(last, ahead)
	MOVLQSX(Mem{Base: ahead}, p)
	IMULQ(dim, p)
	PREFETCHT0(Mem{Base: codes, Index: p, Scale: 1})
	MOVLQSX(Mem{Base: at}, p)
	IMULQ(dim, p)
	all := make([]VecVirtual, heads)
	if w == avx2 {
		for g := range all {
			all[g] = w.vec()
			VBROADCASTSS(wa.at(g, 0), all[g])
		}
	}
	for c := range pieces {
		x := w.vec()
		VPMOVSXBD(Mem{Base: codes, Index: p, Scale: 1, Disp: w.lanes() * c}, x)
		VCVTDQ2PS(x, x)
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
	a := arg("acc")
	for g := range acc {
		for c := range acc[g] {
			VMOVUPS(acc[g][c], Mem{Base: a, Disp: int(w) * c})
		}
		LEAQ(Mem{Base: a, Index: dim, Scale: 4}, a)
	}
	end()
}
