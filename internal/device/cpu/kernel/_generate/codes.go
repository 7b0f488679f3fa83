package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The weighted sum of rows of signed bytes by integer products: weights become bytes, too, under one step for each head and chunk of rows, and four rows are interleaved so
// that one product takes all of them.

const (
	codeChunk = 128 // rows of one step: what stays in the first-level cache between rounding the weights and using them
	codeHeads = 5   // query heads of one pass: four accumulators each, and room to interleave
	codeTop   = 254 // the largest weight: what is added before it is cut off never carries it over a byte
)

// codeWeights512 rounds weights to bytes. What is cut off is made up for on average: a fraction that differs from row to row is added before, so that many small weights keep
// their sum.
func codeWeights512() {
	w := avx512
	text("codeWeightsAVX512", "(dst *byte, steps, w *float32, ld, heads, n int)", 0,
		fmt.Sprintf("codeWeightsAVX512 is, for 1 ≤ n ≤ %d, bytes from n to the next multiple of 16 being zero:", codeChunk),
		"",
		"\tfor g := range heads {",
		fmt.Sprintf("\t\tsteps[g] = max_i w[g*ld+i] / %d", codeTop),
		"\t\tfor i := range n {",
		fmt.Sprintf("\t\t\tdst[g*%d+i] = floor(w[g*ld+i]/steps[g] + codeDither[i]) // 0 if the step is", codeChunk),
		"\t\t}",
		"\t}")
	dither := GLOBL("codeDither", RODATA|NOPTR)
	for i := range codeChunk {
		_, f := math.Modf(float64(i)*(math.Sqrt(5)-1)/2 + 0.5)
		DATA(4*i, U32(math.Float32bits(float32(f))))
	}
	n := arg("n")
	dst, steps, weights, ld, heads, table := arg("dst"), arg("steps"), arg("w"), arg("ld"), arg("heads"), GP64()
	LEAQ(dither, table)
	Label("head")
	i, left := GP64(), GP64()
	some := func() VecVirtual {
		k, x := mask16(left), w.vec()
		VMOVUPS_Z(Mem{Base: weights, Index: i, Scale: 4}, k, x)
		return x
	}
	top := w.zero(1)[0]
	XORQ(i, i)
	MOVQ(n, left)
	Label("largest")
	VMAXPS(some(), top, top)
	ADDQ(U8(16), i)
	SUBQ(U8(16), left)
	JG(LabelRef("largest"))
	largest, all, step := w.across(top, VMAXPS), w.vec(), XMM()
	VBROADCASTSS(largest, all)
	inv := w.over(codeTop, all)
	VMULSS(w.splat(1./codeTop).AsX(), largest, step)
	VMOVSS(step, Mem{Base: steps})
	XORQ(i, i)
	MOVQ(n, left)
	Label("round")
	x := some()
	VFMADD213PS(Mem{Base: table, Index: i, Scale: 4}, inv, x)
	VCVTTPS2DQ(x, x)
	VPMOVUSDB(x, Mem{Base: dst, Index: i, Scale: 1})
	ADDQ(U8(16), i)
	SUBQ(U8(16), left)
	JG(LabelRef("round"))
	ADDQ(U32(codeChunk), dst)
	ADDQ(U8(4), steps)
	LEAQ(Mem{Base: weights, Index: ld, Scale: 4}, weights)
	DECQ(heads)
	JNZ(LabelRef("head"))
	end()
}

// codeRows512 adds 64 channels of a chunk.
func codeRows512(heads int) {
	w := avx512
	w.begin(fmt.Sprintf("codeRows%d", heads), "(acc *float32, dim int, weights *byte, steps *float32, codes *byte, channel int, at *int32, n int, ahead, last *int32)",
		fmt.Sprintf("is, for %d query heads, 64 channels and n a positive multiple of 4:", heads),
		"",
		"\tfor i, r := range at[:n] {",
		"\t\tfor g := range heads {",
		fmt.Sprintf("\t\t\tacc[g*dim:][:64] += steps[g] * weights[g*%d+i] * codes[r*dim+channel:][:64]", codeChunk),
		"\t\t}",
		"\t}",
		"",
		"The rows of the list from ahead on, up to last, are asked for into the second-level cache, which waits for more lines at once than the first.")
	dim, weights, codes, at, n, ahead := arg("dim"), arg("weights"), arg("codes"), arg("at"), arg("n"), arg("ahead")
	ADDQ(NewParamAddr("channel", 40), codes)
	sums := make([][]VecVirtual, heads)
	for g := range sums {
		sums[g] = w.zero(4)
	}
	Label("rows")
	rows, pairs := make([]VecVirtual, 4), make([]VecVirtual, 4)
	for r := range rows {
		p, next := GP64(), GP64()
		MOVLQSX(Mem{Base: at, Disp: 4 * r}, p)
		IMULQ(dim, p)
		rows[r] = w.load(Mem{Base: codes, Index: p, Scale: 1})
		CMPQ(ahead, NewParamAddr("last", 72))
		CMOVQHI(NewParamAddr("last", 72), ahead)
		MOVLQSX(Mem{Base: ahead}, next)
		IMULQ(dim, next)
		PREFETCHT1(Mem{Base: codes, Index: next, Scale: 1})
		ADDQ(U8(4), ahead)
	}
	for i := range pairs {
		pairs[i] = w.vec()
	}
	VPUNPCKLBW(rows[1], rows[0], pairs[0])
	VPUNPCKHBW(rows[1], rows[0], pairs[1])
	VPUNPCKLBW(rows[3], rows[2], pairs[2])
	VPUNPCKHBW(rows[3], rows[2], pairs[3])
	fours := make([]VecVirtual, 4) // of each 16 channels, which are a quarter of the row, four: bytes 4c..4c+3 are a channel's
	for i := range fours {
		fours[i] = w.vec()
		if i%2 == 0 {
			VPUNPCKLWD(pairs[2+i/2], pairs[i/2], fours[i])
		} else {
			VPUNPCKHWD(pairs[2+i/2], pairs[i/2], fours[i])
		}
	}
	for g := range heads {
		f := w.vec()
		VPBROADCASTD(Mem{Base: weights, Disp: codeChunk * g}, f)
		for i, x := range fours {
			VPDPBUSD(x, f, sums[g][i])
		}
	}
	ADDQ(U8(4), weights)
	ADDQ(U8(16), at)
	SUBQ(U8(4), n)
	JNZ(LabelRef("rows"))

	acc, steps := arg("acc"), arg("steps")
	for g, s := range sums {
		f := w.vec()
		VBROADCASTSS(Mem{Base: steps, Disp: 4 * g}, f)
		halves := make([]VecVirtual, 4)
		for i := range halves {
			halves[i] = w.vec()
			VSHUFI32X4(U8([]uint8{0x44, 0xee}[i%2]), s[i/2*2+1], s[i/2*2], halves[i])
		}
		for i := range 4 {
			x, sum := w.vec(), w.vec()
			VSHUFI32X4(U8([]uint8{0x88, 0xdd}[i%2]), halves[2+i/2], halves[i/2], x)
			VCVTDQ2PS(x, x)
			VMOVUPS(Mem{Base: acc, Disp: 64 * i}, sum)
			VFMADD231PS(f, x, sum)
			VMOVUPS(sum, Mem{Base: acc, Disp: 64 * i})
		}
		LEAQ(Mem{Base: acc, Index: dim, Scale: 4}, acc)
	}
	end()
}
