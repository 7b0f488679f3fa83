package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// bounds8Family is the product of a block's byte bounds (attention.Bounds8) with queries of signed bytes, lane = page. The query meets the sum of a channel's bounds, its
// magnitude their difference.
func bounds8Family() {
	for _, w := range widths {
		for h := 1; h <= w.gatherHeads(); h++ {
			w.bounds8(h)
		}
	}
}

func (w width) bounds8(heads int) {
	name := fmt.Sprintf("boundsBytes%d%s", heads, w)
	textStack(name, "(dst *float32, ld int, q *int8, dim int, affine *float32, codes *byte, reach float32)", heads*boundsDim,
		fmt.Sprintf("%s is, for %d query heads, 16 pages, dim a multiple of 32 up to %d and codes up to 127:", name, heads, boundsDim),
		"",
		"\tfor g := range heads {",
		"\t\tfor p := range 16 {",
		"\t\t\tfor c := range dim {",
		"\t\t\t\tx, u := float32(q[g*dim+c])/2, codes[c/4*128+p*4+c%4:]",
		"\t\t\t\tsum += x*(u[64]+u[0]) + reach*|x|*(u[64]-u[0])",
		"\t\t\t}",
		"\t\t\tdst[g*ld+p] = sum*affine[g*4] + affine[g*4+1]",
		"\t\t}",
		"\t}")
	dim, q, codes, sizes, left := arg("dim"), arg("q"), arg("codes"), GP64(), GP64()
	{
		from, to := GP64(), GP64()
		MOVQ(q, from)
		LEAQ(NewStackAddr(0), to)
		IMUL3Q(U8(heads), dim, left)
		Label("magnitudes")
		x := YMM()
		VMOVDQU(Mem{Base: from}, x)
		VPABSB(x, x)
		VMOVDQU(x, Mem{Base: to})
		ADDQ(U8(32), from)
		ADDQ(U8(32), to)
		SUBQ(U8(32), left)
		JNZ(LabelRef("magnitudes"))
	}
	LEAQ(NewStackAddr(0), sizes)
	qa := newStrides(q, dim, heads)
	sa := qa
	sa.base = sizes
	acc := make([][]VecVirtual, heads)
	for g := range acc {
		acc[g] = w.zero(2 * w.parts()) // of sums, then of differences
	}
	MOVQ(dim, left)
	Label("run")
	n := w.parts()
	for i := range n {
		lo, hi := w.load(Mem{Base: codes, Disp: int(w) * i}), w.load(Mem{Base: codes, Disp: 64 + int(w)*i})
		if w == avx512 {
			sum := w.vec()
			VPADDB(lo, hi, sum)
			VPSUBB(lo, hi, hi)
			for g := range heads {
				VPDPBUSD_BCST(qa.at(g, 0), sum, acc[g][0])
				VPDPBUSD_BCST(sa.at(g, 0), hi, acc[g][1])
			}
			continue
		}
		products := func(u VecVirtual, q strides, at int) {
			for g := range heads {
				f := w.vec()
				VPBROADCASTD(q.at(g, 0), f)
				VPMADDUBSW(f, u, f)
				w.join(f, acc[g][at])
			}
		}
		products(lo, qa, i) // the sum of two bounds is a product each: pairs of products must fit 16 bits
		products(hi, qa, i)
		VPSUBB(lo, hi, hi)
		products(hi, sa, n+i)
	}
	ADDQ(U8(4), qa.base)
	ADDQ(U8(4), sa.base)
	SUBQ(I8(-128), codes)
	SUBQ(U8(4), left)
	JNZ(LabelRef("run"))
	dst, ld, affine, reach, half := arg("dst"), arg("ld"), arg("affine"), w.spread("reach", 48), w.splat(0.5)
	SHLQ(U8(2), ld)
	for g, a := range acc {
		for i := range n {
			m, b, y, z := w.vec(), w.vec(), a[i], a[n+i]
			VCVTDQ2PS(y, y)
			VCVTDQ2PS(z, z)
			VFMADD231PS(reach, z, y)
			VBROADCASTSS(Mem{Base: affine, Disp: 16 * g}, m)
			VMULPS(half, m, m)
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
