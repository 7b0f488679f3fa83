package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// middlesFamily is the product of a block's page middles (attention.Middles) with queries of signed bytes, lane = page.
func middlesFamily() {
	for _, w := range widths {
		for h := 1; h <= w.gatherHeads(); h++ {
			w.middles(h)
		}
	}
}

func (w width) middles(heads int) {
	w.begin(fmt.Sprintf("middles%d", heads), "(dst *float32, ld int, q *int8, dim int, affine *float32, codes, next *byte)",
		fmt.Sprintf("is, for %d query heads, 16 pages, dim a multiple of 32 and codes up to 127:", heads),
		"",
		"\tfor g := range heads {",
		"\t\tfor p := range 16 {",
		"\t\t\tfor c := range dim {",
		"\t\t\t\tsum += q[g*dim+c] * codes[c/4*64+p*4+c%4]",
		"\t\t\t}",
		"\t\t\tdst[g*ld+p] = sum*affine[g*4] + affine[g*4+1]",
		"\t\t}",
		"\t}",
		"",
		"As many bytes from next on are prefetched as are read of codes.")
	dim, q, codes, next, left := arg("dim"), arg("q"), arg("codes"), arg("next"), GP64()
	qa := newStrides(q, dim, heads)
	n := w.parts()
	acc := make([][]VecVirtual, heads)
	for g := range acc {
		acc[g] = w.zero(n)
	}
	MOVQ(dim, left)
	Label("run")
	PREFETCHT0(Mem{Base: next})
	for i := range n {
		u := w.load(Mem{Base: codes, Disp: int(w) * i})
		for g := range heads {
			if w == avx512 {
				VPDPBUSD_BCST(qa.at(g, 0), u, acc[g][i])
				continue
			}
			f := w.vec()
			VPBROADCASTD(qa.at(g, 0), f)
			VPMADDUBSW(f, u, f)
			w.join(f, acc[g][i])
		}
	}
	ADDQ(U8(4), qa.base)
	ADDQ(U8(64), codes)
	ADDQ(U8(64), next)
	SUBQ(U8(4), left)
	JNZ(LabelRef("run"))
	dst, ld, affine := arg("dst"), arg("ld"), arg("affine")
	SHLQ(U8(2), ld)
	for g, a := range acc {
		m, b := w.vec(), w.vec()
		VBROADCASTSS(Mem{Base: affine, Disp: 16 * g}, m)
		VBROADCASTSS(Mem{Base: affine, Disp: 16*g + 4}, b)
		for i, y := range a {
			VCVTDQ2PS(y, y)
			VFMADD213PS(b, m, y)
			VMOVUPS(y, Mem{Base: dst, Disp: int(w) * i})
		}
		if g+1 < heads {
			ADDQ(ld, dst)
		}
	}
	end()
}
