package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

const scanHeads = 4 // query heads of one pass: unpacking the codes is then well hidden behind their products

// scanFamily is the integer product of packed key codes with queries of signed bytes: VPDPBUSD takes four channels of 16 tokens at once, lane = token.
func scanFamily() {
	for h := 1; h <= scanHeads; h++ {
		scan{name: "int4", planes: []int{4}, heads: h, perToken: true}.emit()
		for _, bits := range []int{1, 2, 4} {
			scan{name: fmt.Sprint("page", bits), planes: []int{bits}, heads: h}.emit()
		}
		scan{name: "page3", planes: []int{2, 1}, heads: h}.emit()
		scan{name: "page8", planes: []int{8}, heads: h, wide: true}.emit()
	}
	quantise512()
}

// scan is one variant.
type scan struct {
	name     string
	planes   []int // bits of the code planes, the high bits first
	heads    int
	perToken bool // the affine map's scale and minimum are each token's, and one query serves all pages; else the query and the map are the page's
	wide     bool // the query has a second plane of bytes, 128 times finer
}

func (v scan) emit() {
	name := fmt.Sprintf("%sx%dAVX512", v.name, v.heads)
	doc := []string{
		fmt.Sprintf("%s is, for %d query heads, n tokens of each page whose bit is set, and u the token's codes:", name, v.heads),
		"",
		"\tfor j, p := range pages {",
		"\t\tfor g := range heads {",
	}
	if v.perToken {
		doc = append(doc,
			"\t\t\ty := float32(q[g*qHead:]·u)*affine[g*4] + affine[g*4+1]",
			"\t\t\tdst[g*ld+16*j+t] = y*scale[t] + min[t]*affine[g*4+2]")
	} else {
		doc = append(doc,
			"\t\t\tdst[g*ld+16*j+t] = float32(q[g*qHead:][p]·u)*affine[g*32+p] + affine[g*32+16+p]")
		if v.wide {
			doc = append(doc, "", "with q[p] = 128·q[p] + q[16*dim:][p].")
		}
	}
	doc = append(doc, "\t\t}", "\t}")
	text(name, "(dst *float32, ld int, q *int8, qHead int, affine *float32, codes *byte, pageBytes, dim int, pages uint64)", 0, doc...)

	run := 64 // bytes between the runs of a query
	if v.perToken {
		run = 4
	}
	pages, qHead, dim := arg("pages"), arg("qHead"), arg("dim")
	masks := map[int]VecVirtual{}
	for _, bits := range v.planes {
		if bits < 8 {
			masks[bits] = avx512.splatBits(uint32(1<<bits-1) * 0x01010101)
		}
	}
	TESTQ(pages, pages)
	JZ(LabelRef("end"))

	Label("page")
	p, code := GP64(), GP64()
	TZCNTQ(pages, p)
	MOVQ(p, code)
	IMULQ(NewParamAddr("pageBytes", 48), code)
	ADDQ(NewParamAddr("codes", 40), code)
	acc := make([][]VecVirtual, v.heads)
	for g := range acc {
		acc[g] = avx512.zero(v.chains())
	}
	for plane, bits := range v.planes {
		q, fine, left := GP64(), GP64(), GP64()
		Load(Param("q"), q)
		if !v.perToken {
			LEAQ(Mem{Base: q, Index: p, Scale: 4}, q)
		}
		if v.wide {
			MOVQ(dim, fine)
			SHLQ(U8(4), fine)
			ADDQ(q, fine)
		}
		MOVQ(dim, left)
		if plane > 0 { // what the planes before hold counts 2^bits
			for _, a := range acc {
				for _, z := range a {
					VPSLLD(U8(bits), z, z)
				}
			}
		}
		label := fmt.Sprintf("runs%d", plane)
		Label(label)
		for load := range bits { // 64 bytes hold 8/bits runs of four channels; eight runs a turn
			x := ZMM()
			VMOVDQU32(Mem{Base: code, Disp: 64 * load}, x)
			for r := range 8 / bits {
				i := load*(8/bits) + r
				u := x
				if r > 0 {
					u = ZMM()
					VPSRLD(U8(r*bits), x, u)
				} else if bits < 8 {
					u = ZMM()
				}
				if bits < 8 {
					from := u
					if r == 0 {
						from = x
					}
					VPANDD(masks[bits], from, u)
				}
				v.products(newStrides(q, qHead, v.heads), i*run, u, acc, i%2)
				if v.wide {
					v.products(newStrides(fine, qHead, v.heads), i*run, u, acc, 2+i%2)
				}
			}
		}
		ADDQ(U32(64*bits), code)
		ADDQ(U32(8*run), q)
		if v.wide {
			ADDQ(U32(8*run), fine)
		}
		SUBQ(U8(32), left)
		JNZ(LabelRef(label))
	}

	dst, ld, affine := arg("dst"), arg("ld"), arg("affine")
	SHLQ(U8(2), ld)
	scale, low := ZMM(), ZMM()
	if v.perToken {
		VCVTPH2PS(Mem{Base: code}, scale)
		VCVTPH2PS(Mem{Base: code, Disp: 32}, low)
	} else {
		LEAQ(Mem{Base: affine, Index: p, Scale: 4}, affine)
	}
	for g, a := range acc {
		y := a[0]
		VPADDD(a[1], y, y)
		if v.wide {
			VPSLLD(U8(7), y, y)
			VPADDD(a[2], y, y)
			VPADDD(a[3], y, y)
		}
		VCVTDQ2PS(y, y)
		m, b := ZMM(), ZMM()
		if v.perToken {
			VBROADCASTSS(Mem{Base: affine, Disp: 16 * g}, m)
			VBROADCASTSS(Mem{Base: affine, Disp: 16*g + 4}, b)
			VFMADD213PS(b, m, y)
			VMULPS(scale, y, y)
			VFMADD231PS_BCST(Mem{Base: affine, Disp: 16*g + 8}, low, y)
		} else {
			VBROADCASTSS(Mem{Base: affine, Disp: 128 * g}, m)
			VBROADCASTSS(Mem{Base: affine, Disp: 128*g + 64}, b)
			VFMADD213PS(b, m, y)
		}
		VMOVUPS(y, Mem{Base: dst})
		if g+1 < v.heads {
			ADDQ(ld, dst)
		}
	}
	ADDQ(U8(64), NewParamAddr("dst", 0))
	BLSRQ(pages, pages)
	JNZ(LabelRef("page"))
	Label("end")
	end()
}

// chains is the number of accumulators of a head: even runs apart from odd ones, and the query's planes apart.
func (v scan) chains() int {
	if v.wide {
		return 4
	}
	return 2
}

func (v scan) products(q strides, disp int, u VecVirtual, acc [][]VecVirtual, chain int) {
	for g := range v.heads {
		VPDPBUSD_BCST(q.at(g, disp), u, acc[g][chain])
	}
}

func quantise512() {
	text("quantiseAVX512", "(dst *int8, x *float32, n int) (top, sum float32, isum int64)", 0,
		"quantiseAVX512 rounds a query to signed bytes, n a multiple of 16:",
		"",
		"\ttop = max_i |x[i]|",
		"\tfor i := range n {",
		"\t\tdst[i] = round(x[i] * 127 / top) // 0 if top is",
		"\t\tsum += x[i]",
		"\t\tisum += dst[i]",
		"\t}")
	dst, x, n := arg("dst"), arg("x"), arg("n")
	inv, top := inverse512(x, n, avx512.splatBits(0x7fffffff), 127)
	Store(top, ReturnIndex(0))
	sums := avx512.zero(2)
	i := GP64()
	XORQ(i, i)
	Label("step")
	v := ZMM()
	VMOVUPS(Mem{Base: x, Index: i, Scale: 4}, v)
	VADDPS(v, sums[0], sums[0])
	VMULPS(v, inv, v)
	VCVTPS2DQ(v, v)
	VPADDD(v, sums[1], sums[1])
	VPMOVSDB(v, Mem{Base: dst, Index: i, Scale: 1})
	ADDQ(U8(16), i)
	CMPQ(i, n)
	JL(LabelRef("step"))
	Store(avx512.across(sums[0], VADDPS), ReturnIndex(1))
	g := GP64()
	VMOVD(avx512.across(sums[1], VPADDD), g.As32())
	MOVLQSX(g.As32(), g)
	Store(g, ReturnIndex(2))
	end()
}
