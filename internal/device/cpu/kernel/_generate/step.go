package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// stepFamily is the elementwise arithmetic of a transformer step.
func stepFamily() {
	for _, w := range widths {
		w.sumSquares()
		w.scaleMul()
		w.ropeHalves()
		w.ropePairs()
		w.gate()
		w.add()
		w.scale()
		w.narrow("narrow", false)
		w.narrow("narrowFinite", true)
		w.widen()
	}
}

func (w width) sumSquares() {
	w.begin("sumSquares", "(x *float32, n int) float32", "is Σ x[i]² over x[:n].")
	x, n := arg("x"), arg("n")
	sum := w.zero(4)
	w.each(n, 4, func(s stream) {
		v := s.load(x)
		VFMADD231PS(v, v, sum[s.step])
	})
	Store(w.across(fold(sum, VADDPS), VADDPS), ReturnIndex(0))
	end()
}

func (w width) scaleMul() {
	w.begin("scaleMul", "(dst, x, w *float32, n int, s float32)", "sets dst[i] = x[i] * s * w[i] for i < n.")
	dst, x, y, n := arg("dst"), arg("x"), arg("w"), arg("n")
	f := w.spread("s", 32)
	w.each(n, 4, func(s stream) {
		v, u := s.load(x), s.load(y)
		VMULPS(f, v, v)
		VMULPS(u, v, v)
		s.store(v, dst)
	})
	end()
}

func (w width) ropeHalves() {
	w.begin("ropeHalves", "(x, y, cos, sin *float32, n int)",
		"turns the pairs (x[i], y[i]), the two halves of a head:",
		"",
		"\tfor i := range n {",
		"\t\tx[i], y[i] = x[i]*cos[i]-y[i]*sin[i], y[i]*cos[i]+x[i]*sin[i]",
		"\t}")
	x, y, cos, sin, n := arg("x"), arg("y"), arg("cos"), arg("sin"), arg("n")
	w.each(n, 1, func(s stream) {
		a, b, c, d := s.load(x), s.load(y), s.load(cos), s.load(sin)
		u, v := w.vec(), w.vec()
		VMULPS(d, b, u)
		VMULPS(d, a, v)
		VFMSUB231PS(c, a, u)
		VFMADD231PS(c, b, v)
		s.store(u, x)
		s.store(v, y)
	})
	end()
}

func (w width) ropePairs() {
	w.begin("ropePairs", "(x, cos, sin *float32, n int)",
		"turns neighbouring pairs, n a positive multiple of the lanes:",
		"",
		"\tfor i := range n/2 {",
		"\t\tx[2*i], x[2*i+1] = x[2*i]*cos[i]-x[2*i+1]*sin[i], x[2*i+1]*cos[i]+x[2*i]*sin[i]",
		"\t}")
	x, cos, sin, n := arg("x"), arg("cos"), arg("sin"), arg("n")
	table := GLOBL("ropeTwice"+w.String(), RODATA|NOPTR)
	for i := range w.lanes() {
		DATA(4*i, U32(uint32(i/2)))
	}
	twice := w.vec()
	VMOVUPS(table, twice)
	Label("step")
	a, b, c, d := w.vec(), w.vec(), w.vec(), w.vec()
	VMOVUPS(Mem{Base: x}, a)
	if w == avx512 {
		VBROADCASTF64X4(Mem{Base: cos}, c)
		VBROADCASTF64X4(Mem{Base: sin}, d)
	} else {
		VBROADCASTF128(Mem{Base: cos}, c)
		VBROADCASTF128(Mem{Base: sin}, d)
	}
	VPERMPS(c, twice, c)
	VPERMPS(d, twice, d)
	VPERMILPS(U8(0xb1), a, b)
	VMULPS(d, b, b)
	VFMADDSUB213PS(b, c, a) // even lanes a·c − b, odd lanes a·c + b
	VMOVUPS(a, Mem{Base: x})
	ADDQ(U8(int(w)), x)
	ADDQ(U8(int(w)/2), cos)
	ADDQ(U8(int(w)/2), sin)
	SUBQ(U8(w.lanes()), n)
	JG(LabelRef("step"))
	end()
}

const squareLimit = 1e8 // where both activations have long met their asymptotes

func (w width) gate() {
	w.begin("gate", "(dst, gate, up *float32, n int, c1, c3 float32)",
		"is a gated activation, SiLU with c1, c3 = 1, 0 and GELU's tanh form with 2√(2/π)·(1, 0.044715), since (1+tanh z)/2 = 1/(1+exp(−2z)):",
		"",
		"\tfor i := range n {",
		"\t\tx := gate[i]",
		"\t\tdst[i] = x / (1 + exp(-x*(c1+c3*min(x*x, 1e8)))) * up[i]",
		"\t}")
	dst, gate, up, n := arg("dst"), arg("gate"), arg("up"), arg("n")
	e := w.expConst()
	w.each(n, 1, func(s stream) {
		x, z, c1, t := s.load(gate), w.vec(), w.spread("c1", 32), w.spread("c3", 36)
		VMULPS(x, x, z)
		VMINPS(w.memory("squareLimit", squareLimit), z, z) // or an infinite square would meet c3 = 0
		VFMADD213PS(c1, t, z)
		VMULPS(x, z, z)
		VXORPS(w.memory("minusZero", math.Copysign(0, -1)), z, z)
		VMOVUPS(w.memory("expLimit", 104), t)
		VMINPS(z, t, z) // in this order a NaN in z survives
		e.exp(z)
		VADDPS(e.one, z, z)
		VDIVPS(z, x, x)
		u := s.load(up)
		VMULPS(u, x, x)
		s.store(x, dst)
	})
	end()
}

func (w width) add() {
	w.begin("add", "(dst, x *float32, n int)", "sets dst[i] += x[i] for i < n.")
	dst, x, n := arg("dst"), arg("x"), arg("n")
	w.each(n, 4, func(s stream) {
		v, u := s.load(dst), s.load(x)
		VADDPS(u, v, v)
		s.store(v, dst)
	})
	end()
}

func (w width) scale() {
	w.begin("scale", "(x *float32, n int, s float32)", "sets x[i] *= s for i < n.")
	x, n := arg("x"), arg("n")
	f := w.spread("s", 16)
	w.each(n, 4, func(s stream) {
		v := s.load(x)
		VMULPS(f, v, v)
		s.store(v, x)
	})
	end()
}

func (w width) narrow(name string, saturate bool) {
	doc := "sets dst[i] = tensor.F32ToF16(x[i]) for i < n, a positive multiple of 16."
	if saturate {
		doc = "sets dst[i] = tensor.F32ToF16(min(max(x[i], -65504), 65504)) for i < n, a positive multiple of 16."
	}
	w.begin(name, "(dst *uint16, x *float32, n int)", doc)
	dst, x, n := arg("dst"), arg("x"), arg("n")
	var top, low VecVirtual
	if saturate {
		top, low = w.splat(65504), w.splat(-65504)
	}
	Label("step")
	for i := range 16 / w.lanes() {
		v := w.vec()
		VMOVUPS(Mem{Base: x, Disp: int(w) * i}, v)
		if saturate { // in this order NaN survives
			VMINPS(v, top, v)
			VMAXPS(v, low, v)
		}
		VCVTPS2PH(U8(0), v, Mem{Base: dst, Disp: int(w) / 2 * i})
	}
	ADDQ(U8(64), x)
	ADDQ(U8(32), dst)
	SUBQ(U8(16), n)
	JG(LabelRef("step"))
	end()
}

func (w width) widen() {
	w.begin("widen", "(dst *float32, x *uint16, n int)", "sets dst[i] = tensor.F16ToF32(x[i]) for i < n, a positive multiple of 16.")
	dst, x, n := arg("dst"), arg("x"), arg("n")
	Label("step")
	for i := range 16 / w.lanes() {
		v := w.vec()
		VCVTPH2PS(Mem{Base: x, Disp: int(w) / 2 * i}, v)
		VMOVUPS(v, Mem{Base: dst, Disp: int(w) * i})
	}
	ADDQ(U8(64), dst)
	ADDQ(U8(32), x)
	SUBQ(U8(16), n)
	JG(LabelRef("step"))
	end()
}
