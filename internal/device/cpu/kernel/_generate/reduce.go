package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// reduceFamily is what the threshold search does over whole arrays of logits and weights.
func reduceFamily() {
	for _, w := range widths {
		w.max()
		w.exp("exp", "max", false,
			"is, with a relative error under 2e-7 + 3e-9·|v−max| (attention.Portable.Exp):")
		w.addScaled()
		w.addRows()
		w.above()
		w.lanesOf()
	}
	weigh512()
	avx2.exp("weigh", "ref", true,
		"is exp for any v−ref, those above 88.5 counting as that (attention.Portable.Weigh):")
}

func (w width) max() {
	w.begin("max", "(x *float32, n int) float32",
		"is the largest of x[:n], −Inf for none, NaN ignored (attention.Portable.Max):",
		"",
		"\tfor _, v := range x[:n] {",
		"\t\tif v > m {",
		"\t\t\tm = v",
		"\t\t}",
		"\t}")
	x, n := arg("x"), arg("n")
	low := w.splat(math.Inf(-1))
	m := make([]VecVirtual, 4)
	for i := range m {
		m[i] = w.vec()
		VMOVAPS(low, m[i])
	}
	w.each(n, len(m), func(s stream) {
		v := w.vec()
		switch {
		case s.k == nil:
			VMOVUPS(s.at(x, 4), v)
		case w == avx512:
			VMOVAPS(low, v)
			VMOVUPS(s.at(x, 4), s.k, v)
		default:
			VMASKMOVPS(s.at(x, 4), s.k, v)
			VBLENDVPS(s.k, v, low, v)
		}
		VMAXPS(m[s.step], v, m[s.step]) // a NaN in v gives the other operand
	})
	Store(w.across(fold(m, VMAXPS), VMAXPS), ReturnIndex(0))
	end()
}

// expConst are the constants of e^x = 2^n·p(x − n·ln 2). The polynomial has degree 5 and a relative error of 9e-8 on [−ln2/2, ln2/2]: Remez's exchange with p(0) = 1,
// so that e^0 is 1. One product with ln 2 in float32 adds 2e-9·n.
type expConst struct {
	w                           width
	log2e, ln2, low, one, round VecVirtual
	c                           []VecVirtual // c1..c5
}

func (w width) expConst() expConst {
	e := expConst{w: w, log2e: w.splat(math.Log2E), ln2: w.splat(math.Ln2), low: w.splat(-104), one: w.splat(1), round: w.splat(3 << 22)}
	for _, v := range []float64{0.9999997074518876, 0.49999149037066803, 0.1666763561562943, 0.04189786022178811, 0.008290327492250497} {
		e.c = append(e.c, w.splat(v))
	}
	return e
}

// exp replaces x by e^x. Below −104, −Inf included, that is exactly 0; above 89 it is +Inf; NaN stays. x is at most 104.
func (e expConst) exp(x VecVirtual) {
	n, p := e.w.vec(), e.w.vec()
	VMAXPS(x, e.low, x) // in this order a NaN in x survives
	VMOVAPS(e.round, n)
	VFMADD231PS(e.log2e, x, n) // adding 1.5·2^23 rounds to an integer
	VSUBPS(e.round, n, n)
	VFNMADD231PS(e.ln2, n, x)
	VMOVAPS(e.c[4], p)
	for i := 3; i >= 0; i-- {
		VFMADD213PS(e.c[i], x, p)
	}
	VFMADD213PS(e.one, x, p)
	if e.w == avx512 {
		VSCALEFPS(n, p, x)
		return
	}
	// Two powers of two, since one may not be a number's exponent.
	h := e.w.vec()
	VCVTPS2DQ(n, n)
	VPSRAD(U8(1), n, h)
	VPSUBD(h, n, n)
	VPSLLD(U8(23), h, h)
	VPSLLD(U8(23), n, n)
	VPADDD(e.one, h, h)
	VPADDD(e.one, n, n)
	VMULPS(h, p, p)
	VMULPS(n, p, x)
}

func (w width) exp(name, from string, bounded bool, doc string) {
	w.begin(name, "(x *float32, n int, "+from+" float32) float32",
		doc,
		"",
		"\tfor i, v := range x[:n] {",
		"\t\tx[i] = exp(v - "+from+")",
		"\t\tsum += x[i]",
		"\t}")
	x, n := arg("x"), arg("n")
	top := w.spread(from, 16)
	e := w.expConst()
	unroll := 4
	if w == avx2 {
		unroll = 1
	}
	sum := w.zero(unroll)
	w.each(n, unroll, func(s stream) {
		v := s.load(x)
		VSUBPS(top, v, v)
		if bounded {
			VMINPS(w.memory("expMost", 88.5), v, v)
		}
		e.exp(v)
		s.store(v, x)
		switch {
		case s.k == nil:
			VADDPS(v, sum[s.step], sum[s.step])
		case w == avx512:
			VADDPS(v, sum[0], s.k, sum[0])
		default:
			VANDPS(s.k, v, v)
			VADDPS(v, sum[0], sum[0])
		}
	})
	Store(w.across(fold(sum, VADDPS), VADDPS), ReturnIndex(0))
	end()
}

// weigh512 is exp for weights that only choose and sum: of a logarithm to base 2, the whole part is an exponent and the rest goes through a polynomial of degree 3, by Remez's exchange.
func weigh512() {
	avx512.begin("weigh", "(x *float32, n int, ref float32) float32",
		"is, with a relative error under 1e-4, +Inf for what is larger than any float, 0 for what is less, and NaN for NaN (attention.Portable.Weigh):",
		"",
		"\tfor i, v := range x[:n] {",
		"\t\tx[i] = exp(v - ref)",
		"\t\tsum += x[i]",
		"\t}")
	x, n := arg("x"), arg("n")
	base, scale := avx512.spread("ref", 16), avx512.splat(math.Log2E)
	VMULPS(avx512.splat(-math.Log2E), base, base)
	var c []VecVirtual
	for _, v := range []float64{0.9999252303228532, 0.6958334729324412, 0.22606721530774987, 0.0780245389193896} {
		c = append(c, avx512.splat(v))
	}
	sum := avx512.zero(4)
	avx512.each(n, 4, func(s stream) {
		const aboveFloor = 0x09
		v, f, p := s.load(x), ZMM(), ZMM()
		VFMADD213PS(base, scale, v)
		VREDUCEPS(U8(aboveFloor), v, f)
		VMOVAPS(c[3], p)
		for i := 2; i >= 0; i-- {
			VFMADD213PS(c[i], f, p)
		}
		VSCALEFPS(v, p, v) // by 2 to the floor of v
		s.store(v, x)
		if s.k == nil {
			VADDPS(v, sum[s.step], sum[s.step])
		} else {
			VADDPS(v, sum[0], s.k, sum[0])
		}
	})
	Store(avx512.across(fold(sum, VADDPS), VADDPS), ReturnIndex(0))
	end()
}

func (w width) addScaled() {
	w.begin("addScaled", "(dst, x *float32, n int, f float32)",
		"is (attention.Portable.AddScaled):",
		"",
		"\tfor i, v := range x[:n] {",
		"\t\tdst[i] += f * v",
		"\t}")
	dst, x, n := arg("dst"), arg("x"), arg("n")
	f := w.spread("f", 24)
	w.each(n, 4, func(s stream) {
		v, d := s.load(x), s.load(dst)
		VFMADD231PS(f, v, d)
		s.store(d, dst)
	})
	end()
}

// addRows takes 32 channels of all rows, and then the next.
func (w width) addRows() {
	w.begin("addRows", "(dst *float32, dim int, slab *float32, at *int32, n int)",
		"is, for n ≥ 1 and dim a multiple of 32 (attention.Portable.AddRows):",
		"",
		"\tfor _, r := range at[:n] {",
		"\t\tdst[:dim] += slab[r*dim:][:dim]",
		"\t}")
	dst, dim, slab, left := arg("dst"), arg("dim"), arg("slab"), arg("dim")
	SHLQ(U8(2), dim)
	Label("channels")
	at, n := arg("at"), arg("n")
	sum := make([]VecVirtual, 32/w.lanes())
	for i := range sum {
		sum[i] = w.vec()
		VMOVUPS(Mem{Base: dst, Disp: int(w) * i}, sum[i])
	}
	Label("row")
	p := GP64()
	MOVLQSX(Mem{Base: at}, p)
	IMULQ(dim, p)
	for i := range sum {
		VADDPS(Mem{Base: slab, Index: p, Scale: 1, Disp: int(w) * i}, sum[i], sum[i])
	}
	ADDQ(U8(4), at)
	DECQ(n)
	JNZ(LabelRef("row"))
	for i := range sum {
		VMOVUPS(sum[i], Mem{Base: dst, Disp: int(w) * i})
	}
	SUBQ(I8(-128), dst)
	SUBQ(I8(-128), slab)
	SUBQ(U8(32), left)
	JNZ(LabelRef("channels"))
	end()
}

const atLeast = 0x1d // comparison ≥, false for NaN

func (w width) above() {
	w.begin("above", "(w *float32, n int, t float32) (sum float32, count uint64)",
		"is the sum and the count of the elements of at least t (attention.Portable.Above):",
		"",
		"\tfor _, x := range w[:n] {",
		"\t\tif x >= t {",
		"\t\t\tsum, count = sum+x, count+1",
		"\t\t}",
		"\t}")
	x, n := arg("w"), arg("n")
	t := w.spread("t", 16)
	var one VecVirtual
	if w == avx512 {
		one = w.splatBits(1)
	}
	sum, count := w.zero(4), w.zero(4)
	w.each(n, 4, func(s stream) {
		v, sum, count := s.load(x), sum[s.step], count[s.step]
		if w == avx2 {
			k := w.vec()
			VCMPPS(U8(atLeast), t, v, k)
			if s.k != nil {
				VANDPS(s.k, k, k)
			}
			VANDPS(k, v, v)
			VADDPS(v, sum, sum)
			VPSUBD(k, count, count)
			return
		}
		k := K()
		if s.k == nil {
			VCMPPS(U8(atLeast), t, v, k)
		} else {
			VCMPPS(U8(atLeast), t, v, s.k, k)
		}
		VADDPS(v, sum, k, sum)
		VPADDD(one, count, k, count)
	})
	Store(w.across(fold(sum, VADDPS), VADDPS), ReturnIndex(0))
	g := GP32()
	VMOVD(w.across(fold(count, VPADDD), VPADDD), g)
	Store(g.As64(), ReturnIndex(1))
	end()
}

func (w width) lanesOf() {
	w.begin("lanes", "(mask *uint16, w *float32, pages int, t float32)",
		"is, for pages of 16 weights (attention.Portable.Lanes):",
		"",
		"\tfor j := range pages {",
		"\t\tmask[j] = bits i where w[16*j+i] >= t",
		"\t}")
	mask, x, n := arg("mask"), arg("w"), arg("pages")
	t := w.spread("t", 24)
	TESTQ(n, n)
	JZ(LabelRef("end"))
	Label("page")
	if w == avx512 {
		v, k := w.vec(), K()
		VMOVUPS(Mem{Base: x}, v)
		VCMPPS(U8(atLeast), t, v, k)
		KMOVW(k, Mem{Base: mask})
	} else {
		v, u, lo, hi := w.vec(), w.vec(), GP32(), GP32()
		VMOVUPS(Mem{Base: x}, v)
		VMOVUPS(Mem{Base: x, Disp: 32}, u)
		VCMPPS(U8(atLeast), t, v, v)
		VCMPPS(U8(atLeast), t, u, u)
		VMOVMSKPS(v, lo)
		VMOVMSKPS(u, hi)
		SHLL(U8(8), hi)
		ORL(hi, lo)
		MOVW(lo.As16(), Mem{Base: mask})
	}
	ADDQ(U8(64), x)
	ADDQ(U8(2), mask)
	DECQ(n)
	JNZ(LabelRef("page"))
	Label("end")
	end()
}
