package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// stream walks arrays of n elements, a vector a step: unroll steps at a time without masks, then the rest under masks.
type stream struct {
	w    width
	i    GPVirtual // elements before this iteration
	step int       // steps before this one within the iteration, and which of the unroll accumulators to use
	k    Register  // which lanes exist: a mask register for AVX-512, a vector of signs for AVX2; nil where all do
}

// at is this step's memory in an array of elements of the given size.
func (s stream) at(base GPVirtual, size int) Mem {
	return Mem{Base: base, Index: s.i, Scale: uint8(size), Disp: s.w.lanes() * size * s.step}
}

// load reads a vector of float32; lanes that do not exist are zero.
func (s stream) load(base GPVirtual) VecVirtual {
	v := s.w.vec()
	switch {
	case s.k == nil:
		VMOVUPS(s.at(base, 4), v)
	case s.w == avx512:
		VMOVUPS_Z(s.at(base, 4), s.k, v)
	default:
		VMASKMOVPS(s.at(base, 4), s.k, v)
	}
	return v
}

// store writes a vector of float32, or those lanes that exist.
func (s stream) store(v VecVirtual, base GPVirtual) {
	switch {
	case s.k == nil:
		VMOVUPS(v, s.at(base, 4))
	case s.w == avx512:
		VMOVUPS(v, s.k, s.at(base, 4))
	default:
		VMASKMOVPS(v, s.k, s.at(base, 4))
	}
}

// each emits body for every step of an array of n elements; n is consumed.
func (w width) each(n GPVirtual, unroll int, body func(stream)) {
	lanes := w.lanes()
	i := GP64()
	XORQ(i, i)
	SUBQ(U8(lanes*unroll), n)
	JL(LabelRef("rest"))
	Label("whole")
	for u := range unroll {
		body(stream{w: w, i: i, step: u})
	}
	ADDQ(U8(lanes*unroll), i)
	SUBQ(U8(lanes*unroll), n)
	JGE(LabelRef("whole"))
	Label("rest")
	ADDQ(U8(lanes*unroll), n)
	JLE(LabelRef("end"))
	Label("part")
	body(stream{w: w, i: i, k: w.mask(n)})
	ADDQ(U8(lanes), i)
	SUBQ(U8(lanes), n)
	JG(LabelRef("part"))
	Label("end")
}

// fold adds (or otherwise joins) the registers into the first.
func fold(z []VecVirtual, op func(...Op)) VecVirtual {
	for n := len(z); n > 1; n /= 2 {
		for i := range n / 2 {
			op(z[i+n/2], z[i], z[i])
		}
	}
	return z[0]
}

// across joins all lanes into the lowest.
func (w width) across(z VecVirtual, op func(...Op)) Register {
	y, x := YMM(), XMM()
	if w == avx512 {
		VEXTRACTF64X4(U8(1), z, y)
		op(y, z.AsY(), z.AsY())
		VEXTRACTF32X4(U8(1), z.AsY(), x)
	} else {
		VEXTRACTF128(U8(1), z, x)
	}
	op(x, z.AsX(), z.AsX())
	VPERMILPS(U8(0x4e), z.AsX(), x)
	op(x, z.AsX(), z.AsX())
	VPERMILPS(U8(0xb1), z.AsX(), x)
	op(x, z.AsX(), z.AsX())
	return z.AsX()
}
