package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const (
	tinyBits = 0x0da24260 // 1e-30, as in package linear
	infBits  = 0x7f800000
	nanBits  = 0x7fc00000

	planeSteps    = 0x437e0000 // 254
	planeFraction = 0x3b810204 // 1/254
)

// constantY broadcasts a 32-bit pattern.
func constantY(v uint32) VecVirtual {
	g, y := GP32(), YMM()
	MOVL(U32(v), g)
	VMOVD(g, y.AsX())
	VPBROADCASTD(y.AsX(), y)
	return y
}

// quantizeAVX2 serves AVX-512 too: it is bound by its dependent steps, not by width.
func quantizeAVX2() {
	TEXT("avx2Quantize", NOSPLIT, "func(dst *int8, x *float32, blocks, step, planes int)")
	Doc(
		"avx2Quantize is quantizeGeneric, step bytes from block to block:",
		"",
		"	for b := range blocks { quantizeBlock((dst + b*step)[:planes], x[32*b:]) }",
	)
	Pragma("noescape")
	dst, x, blocks, step, planes := param("dst"), param("x"), param("blocks"), param("step"), param("planes")
	magnitude, flip, limit, none := constantY(0x7fffffff), constantY(0x80808080), constantY(0x42fe0000), constantY(0)
	order := YMM()
	VMOVDQU(unpackOrder(), order)
	at := func(i int) Mem { return Mem{Base: x, Disp: 32 * i} }
	to, left := GP64(), GP64() // the plane being written, and how many there are from it on

	Label("block")
	MOVQ(dst, to)
	MOVQ(planes, left)
	var abs [4]VecVirtual
	for i := range abs {
		abs[i] = YMM()
		VPAND(at(i), magnitude, abs[i])
	}
	VPMAXUD(abs[1], abs[0], abs[0])
	VPMAXUD(abs[3], abs[2], abs[2])
	VPMAXUD(abs[2], abs[0], abs[0])
	top, t := abs[0].AsX(), XMM()
	VEXTRACTI128(U8(1), abs[0], t)
	VPMAXUD(t, top, top)
	for _, swap := range []uint8{0x4e, 0xb1} {
		VPSHUFD(U8(swap), top, t)
		VPMAXUD(t, top, top)
	}
	bits := GP32()
	VMOVD(top, bits)
	SUBL(U32(tinyBits), bits)
	CMPL(bits, U32(infBits-tinyBits)) // unsigned, so what lay below tiny is above everything
	JAE(LabelRef("special"))

	scale, inverse := XMM(), YMM()
	VDIVSS(limit.AsX(), top, scale)
	VDIVSS(top, limit.AsX(), inverse.AsX())
	VBROADCASTSS(inverse.AsX(), inverse)
	var steps, q [4]VecVirtual
	for i := range steps {
		steps[i], q[i] = YMM(), YMM()
		VMULPS(at(i), inverse, steps[i])
	}

	Label("plane")
	for i := range q {
		VCVTPS2DQ(steps[i], q[i])
	}
	bytes, odd := YMM(), YMM()
	VPACKSSDW(q[1], q[0], bytes)
	VPACKSSDW(q[3], q[2], odd)
	VPACKSSWB(odd, bytes, bytes)
	VPERMD(bytes, order, bytes)
	VMOVDQU(bytes, Mem{Base: to})
	VMOVSS(scale, Mem{Base: to, Disp: actScale})

	// Σ(q+128) of every eight bytes is Σq + 1024.
	sums, upper := bytes, XMM()
	VPXOR(flip, sums, sums)
	VPSADBW(none, sums, sums)
	VEXTRACTI128(U8(1), sums, upper)
	var neg [2]GPVirtual
	for i, from := range []Register{sums.AsX(), upper} {
		lo, hi := GP64(), GP64()
		neg[i] = GP64()
		VMOVQ(from, lo)
		VPEXTRQ(U8(1), from, hi)
		ADDQ(hi, lo)
		MOVQ(U32(2048), neg[i])
		SUBQ(lo, neg[i])
		MOVL(neg[i].As32(), Mem{Base: to, Disp: actNeg16 + 4*i})
	}
	all, sum := neg[0].As32(), XMM()
	ADDL(neg[1].As32(), all)
	MOVL(all, Mem{Base: to, Disp: actNeg})
	NEGL(all)
	VCVTSI2SSL(all, none.AsX(), sum)
	VMOVSS(sum, Mem{Base: to, Disp: actSum})

	DECQ(left)
	JZ(LabelRef("next"))
	for i := range steps {
		VCVTDQ2PS(q[i], q[i])
		VSUBPS(q[i], steps[i], steps[i])
		VMULPS(wideData(planeSteps), steps[i], steps[i])
	}
	VMULSS(maskData(planeFraction), scale, scale)
	ADDQ(I8(actBytes), to)
	JMP(LabelRef("plane"))

	Label("next")
	ADDQ(step, dst)
	ADDQ(I32(128), x)
	DECQ(blocks)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()

	Label("special")
	value, nan := GP32(), GP32()
	XORL(value, value)
	MOVL(U32(nanBits), nan)
	TESTL(bits, bits)
	CMOVLPL(nan, value) // still positive: infinity or NaN
	counter("empty", left, 1, func() {
		VMOVDQU(none, Mem{Base: to})
		VMOVDQU(none.AsX(), Mem{Base: to, Disp: actBytes - 16})
		MOVL(value, Mem{Base: to, Disp: actScale})
		ADDQ(I8(actBytes), to)
	})
	JMP(LabelRef("next"))
}

// unpackOrder undoes the lane order that packing 32-bit numbers to bytes leaves.
func unpackOrder() Mem {
	m := GLOBL("unpackOrder", RODATA|NOPTR)
	for i, v := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(v))
	}
	return m
}
