package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// pagesFamily works on a block's bounds, fp16 [dim][2][16], lane = page: the upper bounds of Quest, and the queries that page-range codes are multiplied with.
func pagesFamily() {
	for _, w := range widths {
		for h := 1; h <= w.gatherHeads(); h++ {
			w.bounds(h)
		}
		w.normalise()
		w.pageScale()
		for h := 1; h <= w.queryHeads(false); h++ {
			w.pageQuery(h, false)
		}
		for h := 1; h <= w.queryHeads(true); h++ {
			w.pageQuery(h, true)
		}
	}
}

// queryHeads is how many queries the registers hold.
func (w width) queryHeads(wide bool) int {
	switch {
	case w == avx2:
		return 1
	case wide:
		return 2
	}
	return 4
}

const boundsDim = 256 // largest head: the frame holds both parts of seven queries

func (w width) bounds(heads int) {
	name := fmt.Sprintf("bounds%d%s", heads, w)
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
		n, i, zero := GP64(), GP64(), w.zero(1)[0]
		MOVQ(dim, n)
		IMUL3Q(U8(heads), n, n)
		XORQ(i, i)
		Label("split")
		x, y := w.vec(), w.vec()
		VMOVUPS(Mem{Base: q, Index: i, Scale: 4}, x)
		VMINPS(x, zero, y) // in this order a NaN in x survives
		VMAXPS(x, zero, x)
		VMOVUPS(x, Mem{Base: above, Index: i, Scale: 4})
		VMOVUPS(y, Mem{Base: below, Index: i, Scale: 4})
		ADDQ(U8(w.lanes()), i)
		CMPQ(i, n)
		JL(LabelRef("split"))
	}
	MOVQ(dim, stride)
	SHLQ(U8(2), stride)
	qa := newStrides(above, stride, heads)
	qb := qa
	qb.base = below
	acc := make([][2][]VecVirtual, heads)
	for g := range acc {
		acc[g] = [2][]VecVirtual{w.zero(w.parts()), w.zero(w.parts())}
	}
	Label("channel")
	for c := range 2 {
		for side, q := range []strides{qb, qa} {
			x := make([]VecVirtual, w.parts())
			for i := range x {
				x[i] = w.vec()
				VCVTPH2PS(Mem{Base: b, Disp: 64*c + 32*side + int(w)/2*i}, x[i])
			}
			for g := range heads {
				if w == avx512 {
					VFMADD231PS_BCST(q.at(g, 4*c), x[0], acc[g][side][0])
					continue
				}
				f := w.vec()
				VBROADCASTSS(q.at(g, 4*c), f)
				for i := range x {
					VFMADD231PS(f, x[i], acc[g][side][i])
				}
			}
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
		for i, x := range a[0] {
			VADDPS(a[1][i], x, x)
			VMOVUPS(x, Mem{Base: dst, Disp: int(w) * i})
		}
		if g+1 < heads {
			ADDQ(ld, dst)
		}
	}
	end()
}

func (w width) pageScale() {
	w.begin("pageScale", "(dst, m *float32, dim int, bounds *uint16)",
		"is the largest scaled range of each of 16 pages:",
		"",
		"\tfor p := range 16 {",
		"\t\tdst[p] = max_c m[c]*(bounds[c][1][p] - bounds[c][0][p])",
		"\t}")
	m, dim, b := arg("m"), arg("dim"), arg("bounds")
	top := [2][]VecVirtual{w.zero(w.parts()), w.zero(w.parts())}
	Label("channel")
	for c := range top {
		for i, t := range top[c] {
			lo, hi := w.vec(), w.vec()
			VCVTPH2PS(Mem{Base: b, Disp: 64*c + int(w)/2*i}, lo)
			VCVTPH2PS(Mem{Base: b, Disp: 64*c + 32 + int(w)/2*i}, hi)
			VSUBPS(lo, hi, hi)
			w.mul(Mem{Base: m, Disp: 4 * c}, hi, hi)
			VMAXPS(hi, t, t)
		}
	}
	ADDQ(U8(8), m)
	SUBQ(I8(-128), b)
	SUBQ(U8(2), dim)
	JG(LabelRef("channel"))
	dst := arg("dst")
	for i, t := range top[0] {
		VMAXPS(t, top[1][i], t)
		VMOVUPS(t, Mem{Base: dst, Disp: int(w) * i})
	}
	end()
}

// wideTop is the largest of a query's coarse bytes that has a fine plane. With AVX2 two of them times codes of eight bits must fit 16 bits.
func (w width) wideTop() int {
	if w == avx512 {
		return 127
	}
	return 63
}

// pageQuery works on as many pages as there are lanes; arrays that hold those of 16 pages begin with the first of them.
func (w width) pageQuery(heads int, wide bool) {
	name, top := fmt.Sprintf("pageQuery%d%s", heads, w), 127
	if wide {
		name, top = fmt.Sprintf("pageQueryWide%d%s", heads, w), w.wideTop()*128
	}
	doc := []string{
		fmt.Sprintf("%s scales %d queries, |q[c]| ≤ 1, by the ranges of %d pages and rounds them to ±%d, the largest range being top[p]. In affine it leaves the map", name, heads, w.lanes(), top),
		"from a product of codes, from 0 to levels, with the rounded query to one of the key with unit[g]·q:",
		"",
		fmt.Sprintf("\tfor p := range %d {", w.lanes()),
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
	pageTop := w.vec()
	VMOVUPS(Mem{Base: arg("top")}, pageTop)
	inv := w.over(float64(top), pageTop) // a page of one point has no range and needs no query
	ones := w.splatBits(0x01010101)
	sum, mid := w.zero(heads), w.zero(heads)
	var fineSum []VecVirtual
	var half, order VecVirtual
	if wide {
		fineSum, half = w.zero(heads), w.splatBits(64)
	}
	tricks := w == avx512 && !wide
	if !tricks {
		order = w.bytes("pageQueryOrder"+name, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
	}
	Label("channels")
	var r, s [4]VecVirtual
	for c := range r {
		lo, hi := w.vec(), w.vec()
		r[c], s[c] = w.vec(), lo
		VCVTPH2PS(Mem{Base: b, Disp: 64 * c}, lo)
		VCVTPH2PS(Mem{Base: b, Disp: 64*c + 32}, hi)
		VSUBPS(lo, hi, r[c])
		VMULPS(inv, r[c], r[c])
		VADDPS(hi, lo, lo)
	}
	// Adding 1.5·2^23 leaves a float's nearest integer in its low byte, 1.5·2^15 + 1/2 in the byte above; so pairs of channels join without conversion or shift.
	var low, high, byte0, word0 VecVirtual
	if tricks {
		low, high, byte0, word0 = avx512.splat(3<<22), avx512.splat(3<<14+0.5), avx512.splatBits(0x00ff00ff), avx512.splatBits(0xffff)
	}
	store := func(v, sum VecVirtual, to Mem) {
		VMOVUPS(v, to)
		if w == avx512 {
			VPDPBUSD(v, ones, sum)
			return
		}
		VPMADDUBSW(v, ones, v)
		VPMADDWD(w.memoryBits("ones16", 0x00010001), v, v)
		VPADDD(v, sum, sum)
	}
	join := func(v [4]VecVirtual, to Mem, sum VecVirtual) {
		const choose = 0xe4 // the destination where the mask is set, else the other
		VPTERNLOGD(U8(choose), byte0, v[1], v[0])
		VPTERNLOGD(U8(choose), byte0, v[3], v[2])
		VPSLLD(U8(16), v[2], v[2])
		VPTERNLOGD(U8(choose), word0, v[2], v[0])
		store(v[0], sum, to)
	}
	pack := func(v [4]VecVirtual, to Mem, sum VecVirtual) {
		VPACKSSDW(v[1], v[0], v[0])
		VPACKSSDW(v[3], v[2], v[2])
		VPACKSSWB(v[2], v[0], v[0])
		VPSHUFB(order, v[0], v[0])
		store(v[0], sum, to)
	}
	for g := range heads {
		var v, f [4]VecVirtual
		for c := range v {
			v[c] = w.vec()
			w.fma(qa.at(g, 4*c), s[c], mid[g])
			if tricks {
				VMOVAPS([]VecVirtual{low, high}[c%2], v[c])
				VFMADD231PS_BCST(qa.at(g, 4*c), r[c], v[c])
				continue
			}
			w.mul(qa.at(g, 4*c), r[c], v[c])
			VCVTPS2DQ(v[c], v[c])
			if !wide {
				continue
			}
			f[c] = v[c]
			v[c] = w.vec()
			t := w.vec()
			VPADDD(half, f[c], v[c])
			VPSRAD(U8(7), v[c], v[c])
			VPSLLD(U8(7), v[c], t)
			VPSUBD(t, f[c], f[c])
		}
		if tricks {
			join(v, da.at(g, 0), sum[g])
			continue
		}
		pack(v, da.at(g, 0), sum[g])
		if wide {
			pack(f, fine.at(g, 0), fineSum[g])
		}
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
	scale, levels, halves := w.vec(), w.vec(), w.splat(0.5)
	VBROADCASTSS(NewParamAddr("levels", 64), levels)
	VMOVUPS(Mem{Base: tp}, scale)
	VDIVPS(levels, scale, scale)
	VMULPS(w.splat(1/float64(top)), scale, scale)
	for g := range heads {
		if wide {
			VPSLLD(U8(7), sum[g], sum[g])
			VPADDD(fineSum[g], sum[g], sum[g])
		}
		a, u := w.vec(), w.vec()
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

func (w width) normalise() {
	w.begin("normalise", "(dst, m, x *float32, n int) (top float32)",
		"scales a query to ±1, n a multiple of 16, and widens m to its magnitudes:",
		"",
		"\ttop = max_i |x[i]|",
		"\tfor i := range n {",
		"\t\tdst[i] = x[i] / top // 0 if top is",
		"\t\tm[i] = max(m[i], |dst[i]|)",
		"\t}")
	dst, m, x, n := arg("dst"), arg("m"), arg("x"), arg("n")
	magnitude := w.splatBits(0x7fffffff)
	inv, top := w.inverse(x, n, magnitude, 1)
	i := GP64()
	XORQ(i, i)
	Label("step")
	v, t := w.vec(), w.vec()
	VMULPS(Mem{Base: x, Index: i, Scale: 4}, inv, v)
	VMOVUPS(v, Mem{Base: dst, Index: i, Scale: 4})
	w.and(magnitude, v, v)
	VMOVUPS(Mem{Base: m, Index: i, Scale: 4}, t)
	VMAXPS(t, v, t)
	VMOVUPS(t, Mem{Base: m, Index: i, Scale: 4})
	ADDQ(U8(w.lanes()), i)
	CMPQ(i, n)
	JL(LabelRef("step"))
	Store(top, ReturnIndex(0))
	end()
}

// inverse is to/max|x| in every lane, 0 where that maximum is 0, and the maximum itself.
func (w width) inverse(x, n GPVirtual, magnitude VecVirtual, to float64) (inv VecVirtual, top Register) {
	i, z := GP64(), w.zero(1)[0]
	XORQ(i, i)
	Label("largest")
	v := w.vec()
	w.and(Mem{Base: x, Index: i, Scale: 4}, magnitude, v)
	VMAXPS(z, v, z)
	ADDQ(U8(w.lanes()), i)
	CMPQ(i, n)
	JL(LabelRef("largest"))
	top = w.across(z, VMAXPS)
	all := w.vec()
	VBROADCASTSS(top, all)
	return w.over(to, all), top
}
