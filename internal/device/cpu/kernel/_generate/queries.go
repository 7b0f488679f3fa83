package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const queriesSignature = "(dst *int8, affine, q *float32, heads, dim int, block *uint16, mid, shrink float32)"

// blockQuery prepares the queries of a block for its scan.
func (w width) blockQuery() {
	w.begin("blockQuery", queriesSignature,
		"scales queries by the steps of a block and rounds them to signed bytes, dim a multiple of 32, for codes that are centred at mid:",
		"",
		"\tlow, step := block[:dim], block[dim:][:dim]",
		"\tfor g := range heads {",
		"\t\tx[c] = q[g*dim+c] * step[c]",
		"\t\tscale = max |x| / 127",
		"\t\tdst[g*dim+c] = round(x[c] / scale) // 0 if scale is",
		"\t\taffine[g*4] = scale",
		"\t\taffine[g*4+1] = Σ q[g*dim+c]*low[c] + mid*(Σ x[c] − scale*Σ dst[g*dim+c]) − shrink*Σ x[c]²",
		"\t}")
	dst, affine, q, heads, dim, block := arg("dst"), arg("affine"), arg("q"), arg("heads"), arg("dim"), arg("block")
	step := GP64()
	LEAQ(Mem{Base: block, Index: dim, Scale: 2}, step)
	magnitude := w.splatBits(0x7fffffff)
	Label("head")
	top := w.zero(1)[0]
	i := GP64()
	XORQ(i, i)
	Label("largest")
	for r := range 32 / w.lanes() {
		s := w.vec()
		VCVTPH2PS(Mem{Base: step, Index: i, Scale: 2, Disp: int(w) / 2 * r}, s)
		VMULPS(Mem{Base: q, Index: i, Scale: 4, Disp: int(w) * r}, s, s)
		w.and(magnitude, s, s)
		VMAXPS(top, s, top)
	}
	ADDQ(U8(32), i)
	CMPQ(i, dim)
	JL(LabelRef("largest"))
	largest := w.across(top, VMAXPS)
	all := w.vec()
	VBROADCASTSS(largest, all)
	inv := w.over(127, all)
	base, sum, noise, isum := w.zero(1)[0], w.zero(1)[0], w.zero(1)[0], w.zero(1)[0]
	XORQ(i, i)
	Label("round")
	for r := range 32 / w.lanes() {
		s, l, x := w.vec(), w.vec(), w.vec()
		VCVTPH2PS(Mem{Base: step, Index: i, Scale: 2, Disp: int(w) / 2 * r}, s)
		VCVTPH2PS(Mem{Base: block, Index: i, Scale: 2, Disp: int(w) / 2 * r}, l)
		VMOVUPS(Mem{Base: q, Index: i, Scale: 4, Disp: int(w) * r}, x)
		VFMADD231PS(l, x, base)
		VMULPS(s, x, x)
		VADDPS(x, sum, sum)
		VFMADD231PS(x, x, noise)
		VMULPS(inv, x, x)
		VCVTPS2DQ(x, x)
		VPADDD(x, isum, isum)
		w.storeBytes(x, Mem{Base: dst, Index: i, Scale: 1, Disp: w.lanes() * r})
	}
	ADDQ(U8(32), i)
	CMPQ(i, dim)
	JL(LabelRef("round"))
	scale, bytes := XMM(), w.vec()
	VMULSS(w.splat(1./127).AsX(), largest, scale)
	VMOVSS(scale, Mem{Base: affine})
	// what each lane adds to the constant, and then one sum across: base + mid·(sum − scale·isum) − shrink·noise
	VBROADCASTSS(scale, all)
	VCVTDQ2PS(isum, bytes)
	VFNMADD231PS(all, bytes, sum)
	mid, shrink := w.spread("mid", 48), w.spread("shrink", 52)
	VFMADD231PS(mid, sum, base)
	VFNMADD231PS(shrink, noise, base)
	VMOVSS(w.across(base, VADDPS), Mem{Base: affine, Disp: 4})
	ADDQ(dim, dst)
	LEAQ(Mem{Base: q, Index: dim, Scale: 4}, q)
	ADDQ(U8(16), affine)
	DECQ(heads)
	JNZ(LabelRef("head"))
	end()
}

// blockQueryOf is blockQuery for a usual number of channels, head by head: what belongs to the block is widened once, and a head's products stay in registers. For one to three
// heads that is faster than all at once, whose chain of dependences is longer.
func blockQueryOf(dim int) {
	w, n := avx512, dim/16
	w.begin(fmt.Sprintf("blockQuery%dx", dim), queriesSignature,
		fmt.Sprintf("is blockQueryAVX2 for %d channels.", dim))
	dst, affine, q, heads, block := arg("dst"), arg("affine"), arg("q"), arg("heads"), arg("block")
	magnitude := w.splatBits(0x7fffffff)
	step, x := make([]VecVirtual, n), make([]VecVirtual, n)
	for i := range step {
		step[i], x[i] = w.vec(), w.vec()
		VCVTPH2PS(Mem{Base: block, Disp: 2*dim + 32*i}, step[i])
	}
	Label("head")
	tops, base, noise, isum := w.zero(2), w.zero(2), w.zero(2), w.zero(2)
	for i := range x {
		low, size := w.vec(), w.vec()
		VMOVUPS(Mem{Base: q, Disp: 64 * i}, x[i])
		VCVTPH2PS(Mem{Base: block, Disp: 32 * i}, low)
		VFMADD231PS(low, x[i], base[i%2])
		VMULPS(step[i], x[i], x[i])
		VPANDD(magnitude, x[i], size)
		VMAXPS(tops[i%2], size, tops[i%2])
	}
	VMAXPS(tops[1], tops[0], tops[0])
	largest := w.across(tops[0], VMAXPS)
	// 127/largest as a scalar, 0 for a head that is zero
	zero, inv, all, k := w.zero(1)[0], XMM(), w.vec(), K()
	VCMPSS(U8(0x0e), zero.AsX(), largest, k)
	VMOVAPS(w.splat(127).AsX(), inv)
	VDIVSS_Z(largest, inv, k, inv)
	VBROADCASTSS(inv, all)
	mid := w.spread("mid", 48)
	for i := range x {
		y := w.vec()
		VFMADD231PS(mid, x[i], base[i%2])
		VFMADD231PS(x[i], x[i], noise[i%2])
		VMULPS(all, x[i], y)
		VCVTPS2DQ(y, y)
		VPADDD(y, isum[i%2], isum[i%2])
		VPMOVSDB(y, Mem{Base: dst, Disp: 16 * i})
	}
	scale := XMM()
	VMULSS(w.splat(1./127).AsX(), largest, scale)
	VMOVSS(scale, Mem{Base: affine})
	VPADDD(isum[1], isum[0], isum[0])
	VCVTDQ2PS(isum[0], isum[0])
	VBROADCASTSS(scale, all)
	VMULPS(mid, all, all)
	VADDPS(base[1], base[0], base[0])
	VFNMADD231PS(all, isum[0], base[0])
	VADDPS(noise[1], noise[0], noise[0])
	VFNMADD231PS(w.spread("shrink", 52), noise[0], base[0])
	VMOVSS(w.across(base[0], VADDPS), Mem{Base: affine, Disp: 4})
	ADDQ(U32(dim), dst)
	ADDQ(U32(4*dim), q)
	ADDQ(U8(16), affine)
	DECQ(heads)
	JNZ(LabelRef("head"))
	end()
}

// blockQueries512 is blockQuery for a few heads at once: what belongs to the block is widened once, and the heads' sums across lanes are made together.
func blockQueries512(heads int) {
	w := avx512
	const centres, invs, scales, bases, frame = 4 * boundsDim, 8 * boundsDim, 8*boundsDim + 64, 8*boundsDim + 128, 8*boundsDim + 192
	name := fmt.Sprintf("blockQueries%d%s", heads, w)
	textStack(name, queriesSignature, frame, fmt.Sprintf("%s is blockQueryAVX2 for %d query heads, dim a multiple of 32 up to %d.", name, heads, boundsDim))
	dim, mid := arg("dim"), w.spread("mid", 48)
	stride := GP64()
	MOVQ(dim, stride)
	SHLQ(U8(2), stride)
	begin := func() (qa strides, step, left GPVirtual) {
		qa, step, left = newStrides(arg("q"), stride, heads), GP64(), GP64()
		LEAQ(NewStackAddr(0), step)
		MOVQ(dim, left)
		return qa, step, left
	}
	{
		block, steps, to, left := arg("block"), GP64(), GP64(), GP64()
		LEAQ(Mem{Base: block, Index: dim, Scale: 2}, steps)
		LEAQ(NewStackAddr(0), to)
		MOVQ(dim, left)
		Label("widen")
		s, c := w.vec(), w.vec()
		VCVTPH2PS(Mem{Base: steps}, s)
		VCVTPH2PS(Mem{Base: block}, c)
		VFMADD231PS(mid, s, c)
		VMOVUPS(s, Mem{Base: to})
		VMOVUPS(c, Mem{Base: to, Disp: centres})
		ADDQ(U8(32), steps)
		ADDQ(U8(32), block)
		ADDQ(U8(64), to)
		SUBQ(U8(16), left)
		JNZ(LabelRef("widen"))
	}
	top, base, noise := w.zero(heads), w.zero(heads), w.zero(heads)
	{
		qa, step, left := begin()
		Label("largest")
		s, c := w.vec(), w.vec()
		VMOVUPS(Mem{Base: step}, s)
		VMOVUPS(Mem{Base: step, Disp: centres}, c)
		for g := range heads {
			const magnitude = 0x0b // the larger one without sign
			x := w.vec()
			VMOVUPS(qa.at(g, 0), x)
			VFMADD231PS(c, x, base[g])
			VMULPS(s, x, x)
			VRANGEPS(U8(magnitude), x, top[g], top[g])
			VFMADD231PS(x, x, noise[g])
		}
		ADDQ(U8(64), step)
		ADDQ(U8(64), qa.base)
		SUBQ(U8(16), left)
		JNZ(LabelRef("largest"))
	}
	shrink := w.spread("shrink", 52)
	for g := range heads {
		VFNMADD231PS(shrink, noise[g], base[g])
	}
	largest, constant := w.sumsAcross(top, VMAXPS), w.sumsAcross(base, VADDPS)
	inv, scale := w.over(127, largest), w.vec()
	VMULPS(w.splat(1./127), largest, scale)
	VMOVUPS(inv, NewStackAddr(invs))
	isum := w.zero(heads)
	{
		qa, step, left := begin()
		da := newStrides(arg("dst"), dim, heads)
		Label("round")
		s := w.vec()
		VMOVUPS(Mem{Base: step}, s)
		for g := range heads {
			x := w.vec()
			VMULPS(qa.at(g, 0), s, x)
			VMULPS_BCST(NewStackAddr(invs+4*laneAcross(g)), x, x)
			VCVTPS2DQ(x, x)
			VPADDD(x, isum[g], isum[g])
			VPMOVSDB(x, da.at(g, 0))
		}
		ADDQ(U8(64), step)
		ADDQ(U8(64), qa.base)
		ADDQ(U8(16), da.base)
		SUBQ(U8(16), left)
		JNZ(LabelRef("round"))
	}
	codes := w.sumsAcross(isum, VPADDD)
	VCVTDQ2PS(codes, codes)
	VMULPS(scale, codes, codes)
	VFNMADD231PS(mid, codes, constant)
	VMOVUPS(scale, NewStackAddr(scales))
	VMOVUPS(constant, NewStackAddr(bases))
	affine := arg("affine")
	for g := range heads {
		x := GP32()
		MOVL(NewStackAddr(scales+4*laneAcross(g)), x)
		MOVL(x, Mem{Base: affine, Disp: 16 * g})
		MOVL(NewStackAddr(bases+4*laneAcross(g)), x)
		MOVL(x, Mem{Base: affine, Disp: 16*g + 4})
	}
	end()
}

// sumsAcross joins the lanes of each of up to eight vectors, whose results stand in the lanes laneAcross of one.
func (w width) sumsAcross(a []VecVirtual, op func(...Op)) VecVirtual {
	pick := func(i int) VecVirtual { return a[min(i, len(a)-1)] }
	pair := func(lo, hi func(...Op), a, b VecVirtual) VecVirtual {
		x, y := w.vec(), w.vec()
		lo(b, a, x)
		hi(b, a, y)
		op(x, y, x)
		return x
	}
	var fours []VecVirtual
	for i := 0; i < len(a); i += 4 {
		fours = append(fours, pair(VUNPCKLPD, VUNPCKHPD, pair(VUNPCKLPS, VUNPCKHPS, pick(i), pick(i+1)), pair(VUNPCKLPS, VUNPCKHPS, pick(i+2), pick(i+3))))
	}
	// one sum for every 128 bits: join neighbours, then what is left of each four
	x, y, f := w.vec(), w.vec(), fours[len(fours)-1]
	VSHUFF32X4(U8(0x88), f, fours[0], x)
	VSHUFF32X4(U8(0xdd), f, fours[0], y)
	op(x, y, x)
	VSHUFF32X4(U8(0xb1), x, x, y)
	op(x, y, x)
	return x
}

// laneAcross is where sumsAcross leaves the result of vector i.
func laneAcross(i int) int { return i + i/4*4 }
