package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// pagesFamily works on a block's bounds, fp16 [dim][2][16], lane = page: the upper bounds of Quest, and the queries that page-range codes are multiplied with.
func pagesFamily() {
	for h := 1; h <= avx512.gatherHeads(); h++ {
		bounds512(h)
	}
	normalise512()
	pageScale512()
	for h := 1; h <= scanHeads; h++ {
		pageQuery512(h, false)
	}
	for h := 1; h <= 2; h++ { // more would not fit the registers
		pageQuery512(h, true)
	}
}

const boundsDim = 256 // largest head: the frame holds both parts of seven queries

func bounds512(heads int) {
	name := fmt.Sprintf("bounds%dAVX512", heads)
	textStack(name, "(dst *float32, ld int, q *float32, dim int, bounds *uint16)", heads*boundsDim*8,
		fmt.Sprintf("%s is, for %d query heads, 16 pages and dim a multiple of 16 up to %d (attention.Portable.PageBounds):", name, heads, boundsDim),
		"",
		"\tfor g := range heads {",
		"\t\tfor p := range 16 {",
		"\t\t\tdst[g*ld+p] = Σ_c max(q[g*dim+c], 0)*bounds[c][1][p] + min(q[g*dim+c], 0)*bounds[c][0][p]",
		"\t\t}",
		"\t}")
	q, dim, b, stride, above, below := arg("q"), arg("dim"), arg("bounds"), GP64(), GP64(), GP64()
	LEAQ(NewStackAddr(0), above) // [heads][dim] of the positive parts
	LEAQ(NewStackAddr(heads*boundsDim*4), below)
	{
		n, i, zero := GP64(), GP64(), avx512.zero(1)[0]
		MOVQ(dim, n)
		IMUL3Q(U8(heads), n, n)
		XORQ(i, i)
		Label("split")
		x, y := ZMM(), ZMM()
		VMOVUPS(Mem{Base: q, Index: i, Scale: 4}, x)
		VMINPS(x, zero, y) // in this order a NaN in x survives
		VMAXPS(x, zero, x)
		VMOVUPS(x, Mem{Base: above, Index: i, Scale: 4})
		VMOVUPS(y, Mem{Base: below, Index: i, Scale: 4})
		ADDQ(U8(16), i)
		CMPQ(i, n)
		JL(LabelRef("split"))
	}
	MOVQ(dim, stride)
	SHLQ(U8(2), stride)
	qa := newStrides(above, stride, heads)
	qb := qa
	qb.base = below
	acc := make([][]VecVirtual, heads)
	for g := range acc {
		acc[g] = avx512.zero(2)
	}
	Label("channel")
	for c := range 2 {
		lo, hi := ZMM(), ZMM()
		VCVTPH2PS(Mem{Base: b, Disp: 64 * c}, lo)
		VCVTPH2PS(Mem{Base: b, Disp: 64*c + 32}, hi)
		for g := range heads {
			VFMADD231PS_BCST(qa.at(g, 4*c), hi, acc[g][0])
		}
		for g := range heads {
			VFMADD231PS_BCST(qb.at(g, 4*c), lo, acc[g][1])
		}
	}
	ADDQ(U8(8), above)
	ADDQ(U8(8), below)
	SUBQ(I8(-128), b)
	SUBQ(U8(2), dim)
	JG(LabelRef("channel"))
	dst, ld := arg("dst"), arg("ld")
	SHLQ(U8(2), ld)
	for g, a := range acc {
		VADDPS(a[0], a[1], a[0])
		VMOVUPS(a[0], Mem{Base: dst})
		if g+1 < heads {
			ADDQ(ld, dst)
		}
	}
	end()
}

func pageScale512() {
	text("pageScaleAVX512", "(dst, m *float32, dim int, bounds *uint16)", 0,
		"pageScaleAVX512 is the largest scaled range of each of 16 pages:",
		"",
		"\tfor p := range 16 {",
		"\t\tdst[p] = max_c m[c]*(bounds[c][1][p] - bounds[c][0][p])",
		"\t}")
	m, dim, b := arg("m"), arg("dim"), arg("bounds")
	top := avx512.zero(2)
	Label("channel")
	for c, t := range top {
		lo, hi := ZMM(), ZMM()
		VCVTPH2PS(Mem{Base: b, Disp: 64 * c}, lo)
		VCVTPH2PS(Mem{Base: b, Disp: 64*c + 32}, hi)
		VSUBPS(lo, hi, hi)
		VMULPS_BCST(Mem{Base: m, Disp: 4 * c}, hi, hi)
		VMAXPS(hi, t, t)
	}
	ADDQ(U8(8), m)
	SUBQ(I8(-128), b)
	SUBQ(U8(2), dim)
	JG(LabelRef("channel"))
	VMAXPS(top[0], top[1], top[0])
	dst := arg("dst")
	VMOVUPS(top[0], Mem{Base: dst})
	end()
}

func pageQuery512(heads int, wide bool) {
	name, top := fmt.Sprintf("pageQuery%dAVX512", heads), 127
	if wide {
		name, top = fmt.Sprintf("pageQueryWide%dAVX512", heads), 127*128
	}
	doc := []string{
		fmt.Sprintf("%s scales %d queries, |q[c]| ≤ 1, by the ranges of 16 pages and rounds them to ±%d, the largest range being top[p]. In affine it leaves the map", name, heads, top),
		"from a product of codes, from 0 to levels, with the rounded query to one of the key with unit[g]·q:",
		"",
		"\tfor p := range 16 {",
		"\t\tfor c := range dim {",
		fmt.Sprintf("\t\t\tr := round(q[g*dim+c] * (bounds[c][1][p]-bounds[c][0][p]) * %d / top[p])", top),
		"\t\t\tdst[g*dstHead+c/4*64+p*4+c%4] = r",
		"\t\t\tsum += r",
		"\t\t\tmid += q[g*dim+c] * (bounds[c][1][p]+bounds[c][0][p]) / 2",
		"\t\t}",
		fmt.Sprintf("\t\tscale := unit[g] * top[p] / %d / levels", top),
		"\t\taffine[g*32+p], affine[g*32+16+p] = scale, unit[g]*mid - scale*sum*levels/2",
		"\t}",
	}
	if wide {
		doc = append(doc, "", "r being kept in two planes, dst[...] = (r+64)>>7 and dst[dim*16+...] = the rest.")
	}
	text(name, "(dst *int8, dstHead int, affine, unit, q *float32, dim int, bounds *uint16, top *float32, levels float32)", 0, doc...)
	dst, dstHead, q, dim, b := arg("dst"), arg("dstHead"), arg("q"), arg("dim"), arg("bounds")
	stride := GP64()
	MOVQ(dim, stride)
	SHLQ(U8(2), stride)
	qa, da := newStrides(q, stride, heads), newStrides(dst, dstHead, heads)
	fine := da
	if wide {
		fine.base = GP64()
		MOVQ(stride, fine.base)
		SHLQ(U8(2), fine.base)
		ADDQ(dst, fine.base)
	}
	inv := ZMM()
	{ // a page of one point has no range and needs no query
		p, t, zero, k := arg("top"), ZMM(), avx512.zero(1)[0], K()
		VMOVUPS(Mem{Base: p}, t)
		VCMPPS(U8(0x0e), zero, t, k) // top > 0
		VDIVPS_Z(t, avx512.splat(float64(top)), k, inv)
	}
	ones := avx512.splatBits(0x01010101)
	sum, mid := avx512.zero(heads), avx512.zero(heads)
	var fineSum []VecVirtual
	var half, order VecVirtual
	if wide {
		fineSum, half = avx512.zero(heads), avx512.splatBits(64)
		order = bytes512("pageQueryOrder"+name, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
	}
	Label("channels")
	var r, s [4]VecVirtual
	for c := range r {
		lo, hi := ZMM(), ZMM()
		r[c], s[c] = ZMM(), lo
		VCVTPH2PS(Mem{Base: b, Disp: 64 * c}, lo)
		VCVTPH2PS(Mem{Base: b, Disp: 64*c + 32}, hi)
		VSUBPS(lo, hi, r[c])
		VMULPS(inv, r[c], r[c])
		VADDPS(hi, lo, lo)
	}
	// Adding 1.5·2^23 leaves a float's nearest integer in its low byte, 1.5·2^15 + 1/2 in the byte above; so pairs of channels join without conversion or shift.
	var low, high, byte0, word0 VecVirtual
	if !wide {
		low, high, byte0, word0 = avx512.splat(3<<22), avx512.splat(3<<14+0.5), avx512.splatBits(0x00ff00ff), avx512.splatBits(0xffff)
	}
	join := func(w [4]VecVirtual, to Mem, sum VecVirtual) {
		const choose = 0xe4 // the destination where the mask is set, else the other
		VPTERNLOGD(U8(choose), byte0, w[1], w[0])
		VPTERNLOGD(U8(choose), byte0, w[3], w[2])
		VPSLLD(U8(16), w[2], w[2])
		VPTERNLOGD(U8(choose), word0, w[2], w[0])
		VPDPBUSD(w[0], ones, sum)
		VMOVDQU32(w[0], to)
	}
	pack := func(w [4]VecVirtual, to Mem, sum VecVirtual) {
		VPACKSSDW(w[1], w[0], w[0])
		VPACKSSDW(w[3], w[2], w[2])
		VPACKSSWB(w[2], w[0], w[0])
		VPSHUFB(order, w[0], w[0])
		VPDPBUSD(w[0], ones, sum)
		VMOVDQU32(w[0], to)
	}
	for g := range heads {
		var w, f [4]VecVirtual
		for c := range w {
			w[c] = ZMM()
			VFMADD231PS_BCST(qa.at(g, 4*c), s[c], mid[g])
			if !wide {
				VMOVAPS([]VecVirtual{low, high}[c%2], w[c])
				VFMADD231PS_BCST(qa.at(g, 4*c), r[c], w[c])
				continue
			}
			VMULPS_BCST(qa.at(g, 4*c), r[c], w[c])
			VCVTPS2DQ(w[c], w[c])
			f[c] = w[c]
			w[c] = ZMM()
			t := ZMM()
			VPADDD(half, f[c], w[c])
			VPSRAD(U8(7), w[c], w[c])
			VPSLLD(U8(7), w[c], t)
			VPSUBD(t, f[c], f[c])
		}
		if !wide {
			join(w, da.at(g, 0), sum[g])
			continue
		}
		pack(w, da.at(g, 0), sum[g])
		pack(f, fine.at(g, 0), fineSum[g])
	}
	ADDQ(U8(16), q)
	ADDQ(U8(64), dst)
	if wide {
		ADDQ(U8(64), fine.base)
	}
	ADDQ(U32(256), b)
	SUBQ(U8(4), dim)
	JG(LabelRef("channels"))

	affine, unit, tp := arg("affine"), arg("unit"), arg("top")
	scale, levels, halves := ZMM(), ZMM(), avx512.splat(0.5)
	VBROADCASTSS(NewParamAddr("levels", 64), levels)
	VMOVUPS(Mem{Base: tp}, scale)
	VDIVPS(levels, scale, scale)
	VMULPS(avx512.splat(1/float64(top)), scale, scale)
	for g := range heads {
		if wide {
			VPSLLD(U8(7), sum[g], sum[g])
			VPADDD(fineSum[g], sum[g], sum[g])
		}
		a, u := ZMM(), ZMM()
		VBROADCASTSS(Mem{Base: unit, Disp: 4 * g}, u)
		VMULPS(u, scale, a)
		VMOVUPS(a, Mem{Base: affine, Disp: 128 * g})
		VMULPS(u, mid[g], mid[g])
		VCVTDQ2PS(sum[g], sum[g])
		VMULPS(a, sum[g], sum[g])
		VFNMADD231PS(levels, sum[g], mid[g])
		VMULPS(halves, mid[g], mid[g])
		VMOVUPS(mid[g], Mem{Base: affine, Disp: 128*g + 64})
	}
	end()
}

func normalise512() {
	text("normaliseAVX512", "(dst, m, x *float32, n int) (top float32)", 0,
		"normaliseAVX512 scales a query to ±1, n a multiple of 16, and widens m to its magnitudes:",
		"",
		"\ttop = max_i |x[i]|",
		"\tfor i := range n {",
		"\t\tdst[i] = x[i] / top // 0 if top is",
		"\t\tm[i] = max(m[i], |dst[i]|)",
		"\t}")
	dst, m, x, n := arg("dst"), arg("m"), arg("x"), arg("n")
	magnitude := avx512.splatBits(0x7fffffff)
	inv, top := inverse512(x, n, magnitude, 1)
	i := GP64()
	XORQ(i, i)
	Label("step")
	v, t := ZMM(), ZMM()
	VMULPS(Mem{Base: x, Index: i, Scale: 4}, inv, v)
	VMOVUPS(v, Mem{Base: dst, Index: i, Scale: 4})
	VPANDD(magnitude, v, v)
	VMOVUPS(Mem{Base: m, Index: i, Scale: 4}, t)
	VMAXPS(t, v, t)
	VMOVUPS(t, Mem{Base: m, Index: i, Scale: 4})
	ADDQ(U8(16), i)
	CMPQ(i, n)
	JL(LabelRef("step"))
	Store(top, ReturnIndex(0))
	end()
}

// inverse512 is to/max|x| in every lane, 0 where that maximum is 0, and the maximum itself.
func inverse512(x, n GPVirtual, magnitude VecVirtual, to float64) (inv VecVirtual, top Register) {
	i, z := GP64(), avx512.zero(1)[0]
	XORQ(i, i)
	Label("largest")
	v := ZMM()
	VPANDD(Mem{Base: x, Index: i, Scale: 4}, magnitude, v)
	VMAXPS(z, v, z)
	ADDQ(U8(16), i)
	CMPQ(i, n)
	JL(LabelRef("largest"))
	top = avx512.across(z, VMAXPS)
	all, zero, k := ZMM(), avx512.zero(1)[0], K()
	inv = ZMM()
	VBROADCASTSS(top, all)
	VCMPPS(U8(0x0e), zero, all, k)
	VDIVPS_Z(all, avx512.splat(to), k, inv)
	return inv, top
}
