package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// stepFamily is the elementwise arithmetic of a transformer step.
func stepFamily() {
	sumSquares512()
	scaleMul512()
	ropeHalves512()
	ropePairs512()
	gate512()
	add512()
	scale512()
	narrow512()
	widen512()
}

func sumSquares512() {
	text("sumSquaresAVX512", "(x *float32, n int) float32", 0,
		"sumSquaresAVX512 is Σ x[i]² over x[:n].")
	x, n := arg("x"), arg("n")
	sum := zero512(4)
	each(n, 4, func(s stream) {
		v := s.load(x)
		VFMADD231PS(v, v, sum[s.slot])
	})
	Store(across512(fold512(sum, VADDPS), VADDPS), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func scaleMul512() {
	text("scaleMulAVX512", "(dst, x, w *float32, n int, s float32)", 0,
		"scaleMulAVX512 sets dst[i] = x[i] * s * w[i] for i < n.")
	dst, x, w, n := arg("dst"), arg("x"), arg("w"), arg("n")
	f := ZMM()
	VBROADCASTSS(NewParamAddr("s", 32), f)
	each(n, 4, func(s stream) {
		v, u := s.load(x), s.load(w)
		VMULPS(f, v, v)
		VMULPS(u, v, v)
		s.store(v, dst)
	})
	VZEROUPPER()
	RET()
}

func ropeHalves512() {
	text("ropeHalvesAVX512", "(x, y, cos, sin *float32, n int)", 0,
		"ropeHalvesAVX512 turns the pairs (x[i], y[i]), the two halves of a head:",
		"",
		"\tfor i := range n {",
		"\t\tx[i], y[i] = x[i]*cos[i]-y[i]*sin[i], y[i]*cos[i]+x[i]*sin[i]",
		"\t}")
	x, y, cos, sin, n := arg("x"), arg("y"), arg("cos"), arg("sin"), arg("n")
	each(n, 1, func(s stream) {
		a, b, c, d := s.load(x), s.load(y), s.load(cos), s.load(sin)
		u, v := ZMM(), ZMM()
		VMULPS(d, b, u)
		VMULPS(d, a, v)
		VFMSUB231PS(c, a, u)
		VFMADD231PS(c, b, v)
		s.store(u, x)
		s.store(v, y)
	})
	VZEROUPPER()
	RET()
}

func ropePairs512() {
	text("ropePairsAVX512", "(x, cos, sin *float32, n int)", 0,
		"ropePairsAVX512 turns neighbouring pairs; n = 2·pairs, even:",
		"",
		"\tfor i := range n/2 {",
		"\t\tx[2*i], x[2*i+1] = x[2*i]*cos[i]-x[2*i+1]*sin[i], x[2*i+1]*cos[i]+x[2*i]*sin[i]",
		"\t}")
	x, cos, sin, n := arg("x"), arg("cos"), arg("sin"), arg("n")
	twice := dwords512("ropeTwice", 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)
	each(n, 1, func(s stream) {
		a, c, d, b := s.load(x), ZMM(), ZMM(), ZMM()
		half := func(base GPVirtual) Mem { return Mem{Base: base, Index: s.i, Scale: 2} }
		if s.k == nil {
			VMOVUPS(half(cos), c.AsY())
			VMOVUPS(half(sin), d.AsY())
		} else {
			g := GP32() // one lane a pair
			KMOVW(s.k, g)
			POPCNTL(g, g)
			SHRL(U8(1), g)
			m := mask16(g.As64().(GPVirtual))
			VMOVUPS_Z(half(cos), m, c.AsY())
			VMOVUPS_Z(half(sin), m, d.AsY())
		}
		VPERMPS(c, twice, c)
		VPERMPS(d, twice, d)
		VPERMILPS(U8(0xb1), a, b)
		VMULPS(d, b, b)
		VFMADDSUB213PS(b, c, a) // even lanes a·c − b, odd lanes a·c + b
		s.store(a, x)
	})
	VZEROUPPER()
	RET()
}

const squareLimit = 1e8 // where both activations have long met their asymptotes

func gate512() {
	text("gateAVX512", "(dst, gate, up *float32, n int, c1, c3 float32)", 0,
		"gateAVX512 is a gated activation, SiLU with c1, c3 = 1, 0 and GELU's tanh form with 2√(2/π)·(1, 0.044715), since (1+tanh z)/2 = 1/(1+exp(−2z)):",
		"",
		"\tfor i := range n {",
		"\t\tx := gate[i]",
		"\t\tdst[i] = x / (1 + exp(-x*(c1+c3*min(x*x, 1e8)))) * up[i]",
		"\t}")
	dst, gate, up, n := arg("dst"), arg("gate"), arg("up"), arg("n")
	c1, c3 := ZMM(), ZMM()
	VBROADCASTSS(NewParamAddr("c1", 32), c1)
	VBROADCASTSS(NewParamAddr("c3", 36), c3)
	e := newExp()
	top, large := splat512(104), splat512(squareLimit)
	sign := splat512d(1 << 31)
	each(n, 2, func(s stream) {
		x, u := s.load(gate), s.load(up)
		z := ZMM()
		VMULPS(x, x, z)
		VMINPS(large, z, z) // or an infinite square would meet c3 = 0
		VFMADD213PS(c1, c3, z)
		VMULPS(x, z, z)
		VPXORD(sign, z, z)
		VMINPS(z, top, z)
		e.exp(z)
		VADDPS(e.one, z, z)
		VDIVPS(z, x, x)
		VMULPS(u, x, x)
		s.store(x, dst)
	})
	VZEROUPPER()
	RET()
}

func add512() {
	text("addAVX512", "(dst, x *float32, n int)", 0, "addAVX512 sets dst[i] += x[i] for i < n.")
	dst, x, n := arg("dst"), arg("x"), arg("n")
	each(n, 4, func(s stream) {
		v, u := s.load(dst), s.load(x)
		VADDPS(u, v, v)
		s.store(v, dst)
	})
	VZEROUPPER()
	RET()
}

func scale512() {
	text("scaleAVX512", "(x *float32, n int, s float32)", 0, "scaleAVX512 sets x[i] *= s for i < n.")
	x, n := arg("x"), arg("n")
	f := ZMM()
	VBROADCASTSS(NewParamAddr("s", 16), f)
	each(n, 4, func(s stream) {
		v := s.load(x)
		VMULPS(f, v, v)
		s.store(v, x)
	})
	VZEROUPPER()
	RET()
}

func narrow512() {
	text("narrowAVX512", "(dst *uint16, x *float32, n int)", 0, "narrowAVX512 sets dst[i] = tensor.F32ToF16(x[i]) for i < n.")
	dst, x, n := arg("dst"), arg("x"), arg("n")
	each(n, 4, func(s stream) {
		v, h := s.load(x), YMM()
		VCVTPS2PH(U8(0), v, h)
		if s.k == nil {
			VMOVDQU16(h, s.at(dst, 2))
		} else {
			VMOVDQU16(h, s.k, s.at(dst, 2))
		}
	})
	VZEROUPPER()
	RET()
}

func widen512() {
	text("widenAVX512", "(dst *float32, x *uint16, n int)", 0, "widenAVX512 sets dst[i] = tensor.F16ToF32(x[i]) for i < n.")
	dst, x, n := arg("dst"), arg("x"), arg("n")
	each(n, 4, func(s stream) {
		v, h := ZMM(), YMM()
		if s.k == nil {
			VCVTPH2PS(s.at(x, 2), v)
		} else {
			VMOVDQU16_Z(s.at(x, 2), s.k, h)
			VCVTPH2PS(h, v)
		}
		s.store(v, dst)
	})
	VZEROUPPER()
	RET()
}
