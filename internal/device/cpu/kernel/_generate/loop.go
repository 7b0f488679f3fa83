package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// stream walks arrays of n elements, 16 lanes a step: unroll steps at a time without masks, then the rest under masks.
type stream struct {
	i    GPVirtual     // elements before this iteration
	step int           // steps before this one within the iteration
	k    OpmaskVirtual // lanes that exist; nil where all do
	slot int           // which of the unroll accumulators to use
}

// at is this step's memory in an array of elements of the given size.
func (s stream) at(base GPVirtual, size int) Mem {
	return Mem{Base: base, Index: s.i, Scale: uint8(size), Disp: 16 * size * s.step}
}

// load reads 16 float32; lanes that do not exist are zero.
func (s stream) load(base GPVirtual) VecVirtual {
	z := ZMM()
	if s.k == nil {
		VMOVUPS(s.at(base, 4), z)
	} else {
		VMOVUPS_Z(s.at(base, 4), s.k, z)
	}
	return z
}

// store writes 16 float32, or those lanes that exist.
func (s stream) store(z VecVirtual, base GPVirtual) {
	if s.k == nil {
		VMOVUPS(z, s.at(base, 4))
	} else {
		VMOVUPS(z, s.k, s.at(base, 4))
	}
}

// each emits body for every step of an array of n elements; n is consumed.
func each(n GPVirtual, unroll int, body func(stream)) {
	i := GP64()
	XORQ(i, i)
	SUBQ(U8(16*unroll), n)
	JL(LabelRef("rest"))
	Label("whole")
	for u := range unroll {
		body(stream{i: i, step: u, slot: u})
	}
	ADDQ(U8(16*unroll), i)
	SUBQ(U8(16*unroll), n)
	JGE(LabelRef("whole"))
	Label("rest")
	ADDQ(U8(16*unroll), n)
	JLE(LabelRef("end"))
	Label("part")
	lanes := GP64()
	MOVQ(U32(16), lanes)
	CMPQ(n, lanes)
	CMOVQLT(n, lanes)
	body(stream{i: i, k: mask16(lanes)})
	ADDQ(U8(16), i)
	SUBQ(U8(16), n)
	JG(LabelRef("part"))
	Label("end")
}

// fold512 adds (or otherwise joins) the registers into the first.
func fold512(z []VecVirtual, op func(...Op)) VecVirtual {
	for n := len(z); n > 1; n /= 2 {
		for i := range n / 2 {
			op(z[i+n/2], z[i], z[i])
		}
	}
	return z[0]
}

// across512 joins the sixteen lanes into the lowest.
func across512(z VecVirtual, op func(...Op)) Register {
	y, x := YMM(), XMM()
	VEXTRACTF64X4(U8(1), z, y)
	op(y, z.AsY(), z.AsY())
	VEXTRACTF32X4(U8(1), z.AsY(), x)
	op(x, z.AsX(), z.AsX())
	VPERMILPS(U8(0x4e), z.AsX(), x)
	op(x, z.AsX(), z.AsX())
	VPERMILPS(U8(0xb1), z.AsX(), x)
	op(x, z.AsX(), z.AsX())
	return z.AsX()
}
