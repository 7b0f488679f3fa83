package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// reduceFamily is what the threshold search does over whole arrays of logits and weights.
func reduceFamily() {
	max512()
	exp512()
	above512()
	lanes512()
}

func max512() {
	text("maxAVX512", "(x *float32, n int) float32", 0,
		"maxAVX512 is the largest of x[:n], −Inf for none, NaN ignored (attention.Portable.Max):",
		"",
		"\tfor _, v := range x[:n] {",
		"\t\tif v > m {",
		"\t\t\tm = v",
		"\t\t}",
		"\t}")
	x, n := arg("x"), arg("n")
	low := splat512(math.Inf(-1))
	m := make([]VecVirtual, 4)
	for i := range m {
		m[i] = ZMM()
		VMOVAPS(low, m[i])
	}
	each(n, len(m), func(s stream) {
		v := ZMM()
		if s.k == nil {
			VMOVUPS(s.at(x, 4), v)
		} else {
			VMOVAPS(low, v)
			VMOVUPS(s.at(x, 4), s.k, v)
		}
		VMAXPS(m[s.slot], v, m[s.slot]) // a NaN in v gives the other operand
	})
	Store(across512(fold512(m, VMAXPS), VMAXPS), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// expConst are the constants of e^x = 2^n·p(x − n·ln 2). The polynomial has degree 5 and a relative error of 9e-8 on [−ln2/2, ln2/2]: Remez's exchange with p(0) = 1,
// so that e^0 is 1. One product with ln 2 in float32 adds 2e-9·n.
type expConst struct {
	log2e, ln2, low, one, round VecVirtual
	c                           []VecVirtual // c1..c5
}

func newExp() expConst {
	e := expConst{log2e: splat512(math.Log2E), ln2: splat512(math.Ln2), low: splat512(-104), one: splat512(1), round: splat512(3 << 22)}
	for _, v := range []float64{0.9999997074518876, 0.49999149037066803, 0.1666763561562943, 0.04189786022178811, 0.008290327492250497} {
		e.c = append(e.c, splat512(v))
	}
	return e
}

// exp replaces x by e^x. Below −104, −Inf included, that is exactly 0; above 89 it is +Inf; NaN stays. x is at most 1e6.
func (e expConst) exp(x VecVirtual) {
	n, p := ZMM(), ZMM()
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
	VSCALEFPS(n, p, x)
}

func exp512() {
	text("expAVX512", "(x *float32, n int, max float32) float32", 0,
		"expAVX512 is, with a relative error under 2e-7 + 3e-9·|v−max| (attention.Portable.Exp):",
		"",
		"\tfor i, v := range x[:n] {",
		"\t\tx[i] = exp(v - max)",
		"\t\tsum += x[i]",
		"\t}")
	x, n := arg("x"), arg("n")
	top := ZMM()
	VBROADCASTSS(NewParamAddr("max", 16), top)
	e := newExp()
	sum := zero512(4)
	each(n, 4, func(s stream) {
		v := s.load(x)
		VSUBPS(top, v, v)
		e.exp(v)
		s.store(v, x)
		if s.k == nil {
			VADDPS(v, sum[s.slot], sum[s.slot])
		} else {
			VADDPS(v, sum[0], s.k, sum[0])
		}
	})
	Store(across512(fold512(sum, VADDPS), VADDPS), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func above512() {
	text("aboveAVX512", "(w *float32, n int, t float32) (sum float32, count uint64)", 0,
		"aboveAVX512 is the sum and the count of the elements of at least t (attention.Portable.Above):",
		"",
		"\tfor _, x := range w[:n] {",
		"\t\tif x >= t {",
		"\t\t\tsum, count = sum+x, count+1",
		"\t\t}",
		"\t}")
	w, n := arg("w"), arg("n")
	t := ZMM()
	VBROADCASTSS(NewParamAddr("t", 16), t)
	one := splat512d(1)
	sum, count := zero512(4), zero512(4)
	each(n, 4, func(s stream) {
		v, k := s.load(w), K()
		if s.k == nil {
			VCMPPS(U8(0x1d), t, v, k) // ≥, false for NaN
		} else {
			VCMPPS(U8(0x1d), t, v, s.k, k)
		}
		VADDPS(v, sum[s.slot], k, sum[s.slot])
		VPADDD(one, count[s.slot], k, count[s.slot])
	})
	Store(across512(fold512(sum, VADDPS), VADDPS), ReturnIndex(0))
	g := GP32()
	VMOVD(across512(fold512(count, VPADDD), VPADDD), g)
	Store(g.As64(), ReturnIndex(1))
	VZEROUPPER()
	RET()
}

func lanes512() {
	text("lanesAVX512", "(mask *uint16, w *float32, pages int, t float32)", 0,
		"lanesAVX512 is, for pages of 16 weights (attention.Portable.Lanes):",
		"",
		"\tfor j := range pages {",
		"\t\tmask[j] = bits i where w[16*j+i] >= t",
		"\t}")
	mask, w, n := arg("mask"), arg("w"), arg("pages")
	t := ZMM()
	VBROADCASTSS(NewParamAddr("t", 24), t)
	TESTQ(n, n)
	JZ(LabelRef("end"))
	Label("page")
	k := K()
	v := ZMM()
	VMOVUPS(Mem{Base: w}, v)
	VCMPPS(U8(0x1d), t, v, k)
	KMOVW(k, Mem{Base: mask})
	ADDQ(U8(64), w)
	ADDQ(U8(2), mask)
	DECQ(n)
	JNZ(LabelRef("page"))
	Label("end")
	VZEROUPPER()
	RET()
}
