package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// bounds8Family is the product of a block's byte bounds (attention.Bounds8) with queries of signed bytes, lane = page. A reach
// of 1 lets positive parts meet the maxima and negative ones the minima.
func bounds8Family() {
	for _, w := range widths {
		for h := 1; h <= w.gatherHeads(); h++ {
			w.bounds8(h)
		}
	}
}

func (w width) bounds8(heads int) {
	name := fmt.Sprintf("boundsBytes%d%s", heads, w)
	const widened = 8 * boundsDim // low and step in float32
	textStack(name, "(dst *float32, ld int, q *float32, dim int, block *uint16, reach float32)", widened+2*heads*boundsDim+16*heads,
		fmt.Sprintf("%s is, for %d query heads, 16 pages, dim a multiple of 32 up to %d and codes up to 127:", name, heads, boundsDim),
		"",
		"\tlow, step, codes := block[:dim], block[dim:][:dim], bytes of block[2*dim:]",
		"\tfor g := range heads {",
		"\t\tscale := (1+reach)/2 * max_c |q[g*dim+c]*step[c]| / 127",
		"\t\tfor p := range 16 {",
		"\t\t\tfor c := range dim {",
		"\t\t\t\tx, u := q[g*dim+c]*step[c]/scale, codes[c/4*128+p*4+c%4:]",
		"\t\t\t\tsum += round((x+reach*|x|)/2)*u[64] + round((x-reach*|x|)/2)*u[0]",
		"\t\t\t}",
		"\t\t\tdst[g*ld+p] = sum*scale + q[g*dim:]·low",
		"\t\t}",
		"\t}")
	dim, codes, lows, steps, above, below, affine := arg("dim"), arg("block"), GP64(), GP64(), GP64(), GP64(), GP64()
	LEAQ(NewStackAddr(0), lows)
	LEAQ(NewStackAddr(widened), above) // [heads][dim] of the positive parts
	LEAQ(NewStackAddr(widened+heads*boundsDim), below)
	LEAQ(NewStackAddr(widened+2*heads*boundsDim), affine)
	LEAQ(Mem{Base: lows, Index: dim, Scale: 4}, steps)
	{
		n, to := GP64(), GP64()
		LEAQ(Mem{Base: dim, Index: dim, Scale: 1}, n)
		MOVQ(lows, to)
		Label("widen")
		for i := range w.parts() {
			x := w.vec()
			VCVTPH2PS(Mem{Base: codes, Disp: int(w) / 2 * i}, x)
			VMOVUPS(x, Mem{Base: to, Disp: int(w) * i})
		}
		ADDQ(U8(32), codes)
		ADDQ(U8(64), to)
		SUBQ(U8(16), n)
		JNZ(LabelRef("widen"))
	}
	{ // the queries in bytes
		q, r, s, a, head, i := arg("q"), GP64(), GP64(), GP64(), GP64(), GP64()
		MOVQ(above, r)
		MOVQ(below, s)
		share, half := w.spread("reach", 40), w.splat(0.5)
		VMULPS(half, share, share)
		MOVQ(affine, a)
		MOVQ(U32(heads), head)
		magnitude := w.splatBits(0x7fffffff)
		Label("query")
		top, base := w.zero(2), w.zero(2)
		XORQ(i, i)
		Label("largest")
		for j := range 32 / w.lanes() {
			x := w.vec()
			VMOVUPS(Mem{Base: q, Index: i, Scale: 4, Disp: int(w) * j}, x)
			VFMADD231PS(Mem{Base: lows, Index: i, Scale: 4, Disp: int(w) * j}, x, base[j%2])
			VMULPS(Mem{Base: steps, Index: i, Scale: 4, Disp: int(w) * j}, x, x)
			w.and(magnitude, x, x)
			VMAXPS(top[j%2], x, top[j%2])
		}
		ADDQ(U8(32), i)
		CMPQ(i, dim)
		JL(LabelRef("largest"))
		VMAXPS(top[0], top[1], top[0])
		VADDPS(base[0], base[1], base[0])
		VMOVSS(w.across(base[0], VADDPS).(Op), Mem{Base: a, Disp: 4})
		largest, inv, all := w.across(top[0], VMAXPS), XMM(), w.vec()
		scale := XMM()
		VMOVSS(NewParamAddr("reach", 40), scale)
		VADDSS(w.memory("one", 1), scale, scale)
		VMULSS(w.memory("half", 0.5), scale, scale)
		VMULSS(scale, largest, largest)
		VMAXSS(w.memory("least", 1e-30), largest, largest) // a query of zeros has codes of zero
		VMOVSS(w.memory("bytes", 127), inv)
		VDIVSS(largest, inv, inv)
		VBROADCASTSS(inv, all)
		VMULSS(w.memory("byte", 1./127), largest, largest)
		VMOVSS(largest, Mem{Base: a})
		XORQ(i, i)
		Label("round")
		for j := range 32 / w.lanes() {
			x := w.vec()
			VMULPS(Mem{Base: q, Index: i, Scale: 4, Disp: int(w) * j}, all, x)
			VMULPS(Mem{Base: steps, Index: i, Scale: 4, Disp: int(w) * j}, x, x)
			size, far := w.vec(), w.vec()
			w.and(magnitude, x, size)
			VMULPS(share, size, size)
			VMULPS(half, x, x)
			VADDPS(size, x, far)
			VSUBPS(size, x, x)
			VCVTPS2DQ(far, far)
			VCVTPS2DQ(x, x)
			w.storeBytes(far, Mem{Base: r, Index: i, Scale: 1, Disp: w.lanes() * j})
			w.storeBytes(x, Mem{Base: s, Index: i, Scale: 1, Disp: w.lanes() * j})
		}
		ADDQ(U8(32), i)
		CMPQ(i, dim)
		JL(LabelRef("round"))
		LEAQ(Mem{Base: q, Index: dim, Scale: 4}, q)
		ADDQ(dim, r)
		ADDQ(dim, s)
		ADDQ(U8(16), a)
		DECQ(head)
		JNZ(LabelRef("query"))
	}
	qa := newStrides(above, dim, heads)
	qb := qa
	qb.base = below
	acc := make([][]VecVirtual, heads)
	for g := range acc {
		acc[g] = w.zero(2) // with AVX-512 one a side, with AVX2 one for eight pages
	}
	left := GP64()
	MOVQ(dim, left)
	Label("run")
	for side, q := range []strides{qb, qa} {
		u := make([]VecVirtual, w.parts())
		for i := range u {
			u[i] = w.load(Mem{Base: codes, Disp: 64*side + int(w)*i})
		}
		for g := range heads {
			if w == avx512 {
				VPDPBUSD_BCST(q.at(g, 0), u[0], acc[g][side])
				continue
			}
			f := w.vec()
			VPBROADCASTD(q.at(g, 0), f)
			for i := range u {
				t := w.vec()
				VPMADDUBSW(f, u[i], t)
				w.join(t, acc[g][i])
			}
		}
	}
	ADDQ(U8(4), above)
	ADDQ(U8(4), below)
	SUBQ(I8(-128), codes)
	SUBQ(U8(4), left)
	JNZ(LabelRef("run"))
	dst, ld := arg("dst"), arg("ld")
	SHLQ(U8(2), ld)
	for g, a := range acc {
		if w == avx512 {
			VPADDD(a[1], a[0], a[0])
			a = a[:1]
		}
		for i, y := range a {
			m, b := w.vec(), w.vec()
			VCVTDQ2PS(y, y)
			VBROADCASTSS(Mem{Base: affine, Disp: 16 * g}, m)
			VBROADCASTSS(Mem{Base: affine, Disp: 16*g + 4}, b)
			VFMADD213PS(b, m, y)
			VMOVUPS(y, Mem{Base: dst, Disp: int(w) * i})
		}
		if g+1 < heads {
			ADDQ(ld, dst)
		}
	}
	end()
}
