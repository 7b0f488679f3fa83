package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// selectFamily is what selectors with codes of their own need: sums of look-up tables, tables of signatures, and sums over lists.
func selectFamily() {
	for _, w := range widths {
		w.sumLanes()
		for h := 1; h <= w.gatherHeads(); h++ {
			w.agree(h)
		}
	}
	lookUp512("lookUp", false)
	lookUp512("lookUpPart", true)
}

func (w width) sumLanes() {
	w.begin("sumLanes", "(w *float32, masks *uint16, n int) float32",
		"is the sum of the elements of n ≥ 1 pages of 16 whose bit is set (attention.Portable.SumLanes).")
	x, masks, n := arg("w"), arg("masks"), arg("n")
	sum := w.zero(2)
	var lanes []VecVirtual // bit i in lane i
	if w == avx2 {
		for half := range 2 {
			m := GLOBL(fmt.Sprint("laneBits", half), RODATA|NOPTR)
			for i := range 8 {
				DATA(4*i, U32(1<<(8*half+i)))
			}
			v := w.vec()
			VMOVUPS(m, v)
			lanes = append(lanes, v)
		}
	}
	page := func(i int) {
		if w == avx512 {
			k := K()
			KMOVW(Mem{Base: masks, Disp: 2 * i}, k)
			VADDPS(Mem{Base: x, Disp: 64 * i}, sum[i], k, sum[i])
			return
		}
		all := w.vec()
		VPBROADCASTW(Mem{Base: masks, Disp: 2 * i}, all)
		for half, bits := range lanes {
			v := w.vec()
			VPAND(bits, all, v)
			VPCMPEQD(bits, v, v)
			VANDPS(Mem{Base: x, Disp: 64*i + 32*half}, v, v)
			VADDPS(v, sum[half], sum[half])
		}
	}
	SUBQ(U8(2), n)
	JL(LabelRef("rest"))
	Label("pages")
	page(0)
	page(1)
	ADDQ(U8(4), masks)
	SUBQ(I8(-128), x)
	SUBQ(U8(2), n)
	JGE(LabelRef("pages"))
	Label("rest")
	ADDQ(U8(2), n)
	JZ(LabelRef("end"))
	page(0)
	Label("end")
	Store(w.across(fold(sum, VADDPS), VADDPS), ReturnIndex(0))
	end()
}

// lookUp512 holds a table of 64 in four registers, which two permutations of a pair of them and a blend read.
func lookUp512(name string, part bool) {
	signature, doc := "(sum *float32, codes *uint8, n int, table *float32)", []string{
		"adds what a table of 64 says of each code, codes being less than that (attention.Portable.LookUp):",
		"",
		"\tfor i, c := range codes[:n] {",
		"\t\tsum[i] += table[c]",
		"\t}",
	}
	if part {
		signature, doc = "(sum *float32, codes *uint8, n int, table *float32, first int)", []string{
			"is lookUp for the codes from first to first+63 of a larger table, from whose first-th entry on it is given; others are left alone.",
		}
	}
	avx512.begin(name, signature, doc...)
	sum, codes, n, table := arg("sum"), arg("codes"), arg("n"), arg("table")
	var entries [4]VecVirtual
	for i := range entries {
		entries[i] = ZMM()
		VMOVUPS(Mem{Base: table, Disp: 64 * i}, entries[i])
	}
	upper, first, size := avx512.splatBits(32), ZMM(), ZMM()
	if part {
		VPBROADCASTD(arg("first").As32(), first)
		size = avx512.splatBits(64)
	}
	avx512.each(n, 4, func(s stream) {
		code, low, high, k := ZMM(), ZMM(), ZMM(), K()
		if s.k == nil {
			VPMOVZXBD(s.at(codes, 1), code)
		} else {
			VPMOVZXBD_Z(s.at(codes, 1), s.k, code)
		}
		if part {
			VPSUBD(first, code, code)
		}
		VMOVDQA32(code, low)
		VMOVDQA32(code, high)
		VPERMI2PS(entries[1], entries[0], low)
		VPERMI2PS(entries[3], entries[2], high)
		VPTESTMD(upper, code, k)
		VMOVAPS(high, k, low)
		total := s.load(sum)
		if part {
			const less = 1
			in := K()
			VPCMPUD(U8(less), size, code, in)
			VADDPS(low, total, in, total)
		} else {
			VADDPS(low, total, total)
		}
		s.store(total, sum)
	})
	end()
}

// agree compares the signatures of a block of 256 tokens, a bit of each in 32 bytes, with those of queries.
func (w width) agree(heads int) {
	w.begin(fmt.Sprintf("agree%d", heads), "(drawn, codes, signs *uint64, bits, tables int)",
		fmt.Sprintf("is, for %d query heads and bits and tables from 1 on (attention.Portable.Agree):", heads),
		"",
		"\tfor t := range tables {",
		"\t\tfor g := range heads {",
		"\t\t\tm := the tokens for which codes[j*4:][:4] ^ signs[g*bits*tables+j] is 1 for each j in t*bits:(t+1)*bits",
		"\t\t\tdrawn[g*4:] |= once[g] & m",
		"\t\t\tonce[g] |= m",
		"\t\t}",
		"\t}",
		"",
		"where drawn is 0 before.")
	codes, signs, bits, tables := arg("codes"), arg("signs"), arg("bits"), arg("tables")
	stride := GP64()
	MOVQ(bits, stride)
	IMULQ(tables, stride)
	SHLQ(U8(3), stride)
	s := newStrides(signs, stride, heads)
	once, twice, m := avx2.zero(heads), avx2.zero(heads), avx2.zero(heads)
	Label("table")
	left := GP64()
	MOVQ(bits, left)
	for g := range heads {
		if w == avx512 {
			const ones = 0xff
			VPTERNLOGQ(U8(ones), m[g], m[g], m[g])
		} else {
			VPCMPEQD(m[g], m[g], m[g])
		}
	}
	Label("bit")
	c := YMM()
	VMOVUPS(Mem{Base: codes}, c)
	for g := range heads {
		if w == avx512 {
			const andXor = 0x60 // m & (c ^ sign)
			VPTERNLOGQ_BCST(U8(andXor), s.at(g, 0), c, m[g])
			continue
		}
		sign := YMM()
		VPBROADCASTQ(s.at(g, 0), sign)
		VPXOR(c, sign, sign)
		VPAND(sign, m[g], m[g])
	}
	ADDQ(U8(32), codes)
	ADDQ(U8(8), signs)
	DECQ(left)
	JNZ(LabelRef("bit"))
	for g := range heads {
		if w == avx512 {
			const orAnd = 0xf8 // twice | once & m
			VPTERNLOGQ(U8(orAnd), m[g], once[g], twice[g])
		} else {
			both := YMM()
			VPAND(m[g], once[g], both)
			VPOR(both, twice[g], twice[g])
		}
		VORPS(m[g], once[g], once[g])
	}
	DECQ(tables)
	JNZ(LabelRef("table"))
	drawn := arg("drawn")
	for g := range heads {
		VMOVUPS(twice[g], Mem{Base: drawn, Disp: 32 * g})
	}
	end()
}
