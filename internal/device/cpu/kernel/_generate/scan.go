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
		for _, bits := range []int{2, 4} {
			scan{name: fmt.Sprint("block", bits), planes: []int{bits}, heads: h, perBlock: true}.emit()
		}
	}
	quantise512()
	blockQuery512()
}

// scan is one variant.
type scan struct {
	name     string
	planes   []int // bits of the code planes, the high bits first
	heads    int
	perBlock bool // one query and one affine map serve all pages
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
	if v.perBlock {
		doc = append(doc, "\t\t\tdst[g*ld+16*j+t] = float32(q[g*qHead:]·u)*affine[g*4] + affine[g*4+1]")
	} else if v.perToken {
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
	if v.perToken || v.perBlock {
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
		if run == 64 {
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
	} else if !v.perBlock {
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
		} else if v.perBlock {
			VBROADCASTSS(Mem{Base: affine, Disp: 16 * g}, m)
			VBROADCASTSS(Mem{Base: affine, Disp: 16*g + 4}, b)
			VFMADD213PS(b, m, y)
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

func blockQuery512() {
	text("blockQueryAVX512", "(dst *int8, affine, q *float32, heads, dim int, block *uint16, mid, shrink float32)", 0,
		"blockQueryAVX512 scales queries by the steps of a block and rounds them to signed bytes, dim a multiple of 32, for codes that are centred at mid:",
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
	magnitude := avx512.splatBits(0x7fffffff)
	Label("head")
	top := avx512.zero(1)[0]
	i := GP64()
	XORQ(i, i)
	Label("largest")
	for r := range 2 {
		s := ZMM()
		VCVTPH2PS(Mem{Base: step, Index: i, Scale: 2, Disp: 32 * r}, s)
		VMULPS(Mem{Base: q, Index: i, Scale: 4, Disp: 64 * r}, s, s)
		VPANDD(magnitude, s, s)
		VMAXPS(top, s, top)
	}
	ADDQ(U8(32), i)
	CMPQ(i, dim)
	JL(LabelRef("largest"))
	largest := avx512.across(top, VMAXPS)
	all, k, inv := ZMM(), K(), ZMM()
	VBROADCASTSS(largest, all)
	VCMPPS(U8(0x0e), avx512.zero(1)[0], all, k)
	VDIVPS_Z(all, avx512.splat(127), k, inv)
	base, sum, noise, isum := avx512.zero(1)[0], avx512.zero(1)[0], avx512.zero(1)[0], avx512.zero(1)[0]
	XORQ(i, i)
	Label("round")
	for r := range 2 {
		s, l, x := ZMM(), ZMM(), ZMM()
		VCVTPH2PS(Mem{Base: step, Index: i, Scale: 2, Disp: 32 * r}, s)
		VCVTPH2PS(Mem{Base: block, Index: i, Scale: 2, Disp: 32 * r}, l)
		VMOVUPS(Mem{Base: q, Index: i, Scale: 4, Disp: 64 * r}, x)
		VFMADD231PS(l, x, base)
		VMULPS(s, x, x)
		VADDPS(x, sum, sum)
		VFMADD231PS(x, x, noise)
		VMULPS(inv, x, x)
		VCVTPS2DQ(x, x)
		VPADDD(x, isum, isum)
		VPMOVSDB(x, Mem{Base: dst, Index: i, Scale: 1, Disp: 16 * r})
	}
	ADDQ(U8(32), i)
	CMPQ(i, dim)
	JL(LabelRef("round"))
	scale, bytes := XMM(), ZMM()
	VMULSS(avx512.splat(1./127).AsX(), largest, scale)
	VMOVSS(scale, Mem{Base: affine})
	// what each lane adds to the constant, and then one sum across: base + mid·(sum − scale·isum) − shrink·noise
	VBROADCASTSS(scale, all)
	VCVTDQ2PS(isum, bytes)
	VFNMADD231PS(all, bytes, sum)
	mid, shrink := avx512.spread("mid", 48), avx512.spread("shrink", 52)
	VFMADD231PS(mid, sum, base)
	VFNMADD231PS(shrink, noise, base)
	VMOVSS(avx512.across(base, VADDPS), Mem{Base: affine, Disp: 4})
	ADDQ(dim, dst)
	LEAQ(Mem{Base: q, Index: dim, Scale: 4}, q)
	ADDQ(U8(16), affine)
	DECQ(heads)
	JNZ(LabelRef("head"))
	end()
}
