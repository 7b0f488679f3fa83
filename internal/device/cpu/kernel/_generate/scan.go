package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// scanHeads is the query heads of one pass: as many as the registers hold, which hides unpacking the codes behind their products.
func (w width) scanHeads() int {
	if w == avx512 {
		return 4
	}
	return 2
}

// scanFamily is the integer product of packed key codes with queries of signed bytes: VPDPBUSD takes four channels of 16 tokens at once, lane = token. AVX2 does it
// in three steps, products of pairs in 16 bits being added up over eight runs where codes of four bits or less leave room for it.
func scanFamily() {
	for _, w := range widths {
		for h := 1; h <= w.scanHeads(); h++ {
			scan{width: w, name: "int4", planes: []int{4}, heads: h, perToken: true}.emit()
			for _, bits := range []int{1, 2, 4} {
				scan{width: w, name: fmt.Sprint("page", bits), planes: []int{bits}, heads: h}.emit()
			}
			scan{width: w, name: "page3", planes: []int{2, 1}, heads: h}.emit()
			scan{width: w, name: "page8", planes: []int{8}, heads: h, wide: true}.emit()
		}
		for h := 1; h <= w.blockHeads(); h++ {
			for _, bits := range []int{2, 4} {
				scan{width: w, name: fmt.Sprint("block", bits), planes: []int{bits}, heads: h, perBlock: true}.emit()
				if w == avx512 {
					scan{width: w, name: fmt.Sprint("weights", bits), planes: []int{bits}, heads: h, perBlock: true, weigh: true}.emit()
				}
			}
			scan{width: w, name: "labels", planes: []int{4}, heads: h, perToken: true, few: true}.emit()
		}
		w.quantise()
	}
	avx2.blockQuery()
	blockQueryOf(64)
	blockQueryOf(128)
	for h := 1; h <= avx512.blockHeads(); h++ {
		blockQueries512(h)
	}
}

// blockHeads is scanHeads for codes of blocks, whose query lies in few cache lines: unpacking once for a whole group pays.
func (w width) blockHeads() int {
	if w == avx512 {
		return 7
	}
	return w.scanHeads()
}

// scan is one variant.
type scan struct {
	width
	name     string
	planes   []int // bits of the code planes, the high bits first
	heads    int
	perBlock bool // one query and one affine map serve all pages
	perToken bool // the affine map's scale and minimum are each token's, and one query serves all pages; else the query and the map are the page's
	few      bool // dim is a multiple of 8, not of 32, and the affine map has a constant of the head's
	wide     bool // the query has a second plane of bytes, 128 times finer
	weigh    bool // weights are written in the logits' place
}

func (v scan) emit() {
	name := fmt.Sprintf("%sx%d%s", v.name, v.heads, v.width)
	doc := []string{
		fmt.Sprintf("%s is, for %d query heads, n tokens of each page whose bit is set, and u the token's codes:", name, v.heads),
		"",
		"\tfor j, p := range pages {",
		"\t\tfor g := range heads {",
	}
	if v.perBlock {
		doc[0] = fmt.Sprintf("%s is, for %d query heads, n ≥ 1 pages of one block, numbered in the slab, and u a token's codes:", name, v.heads)
		doc[2] = "\tfor j, p := range at[:n] {"
		doc = append(doc, "\t\t\ty := float32(q[g*qHead:]·u)*affine[g*4] + affine[g*4+1]")
		if v.weigh {
			doc = append(doc, "\t\t\ty = 1.04 * 2^(y*log2(e)+bases[g*4+1]-639) // to 4 percent, as often more as less; 0 below 2^-127", "\t\t\tsums[g*16+t] += y", "\t\t\tbit t of lanes[g*lanesLD+j] = y >= least[g]")
		}
		doc = append(doc, "\t\t\tdst[g*ld+16*j+t] = y")
	} else if v.perToken {
		doc = append(doc,
			"\t\t\ty := float32(q[g*qHead:]·u)*affine[g*4] + affine[g*4+1]",
			"\t\t\tdst[g*ld+16*j+t] = y*scale[t] + min[t]*affine[g*4+2]"+map[bool]string{true: " + affine[g*4+3]"}[v.few])
	} else {
		doc = append(doc,
			"\t\t\tdst[g*ld+16*j+t] = float32(q[g*qHead:][p]·u)*affine[g*32+p] + affine[g*32+16+p]")
		if v.wide {
			doc = append(doc, "", "with q[p] = 128·q[p] + q[16*dim:][p].")
		}
	}
	doc = append(doc, "\t\t}", "\t}")
	if v.perBlock {
		doc = append(doc, "", "Pages further on in the list, up to last, are prefetched.")
	}
	run := 64 // bytes between the runs of a query
	if v.perToken || v.perBlock {
		run = 4
	}
	var walk pageWalk
	if v.perBlock {
		signature := "(dst *float32, ld int, q *int8, qHead int, affine *float32, plane *byte, blockBytes, headBytes, pageBytes, dim int, at *int32, n int, last *int32"
		if v.weigh {
			signature += ", bases, sums, least *float32, lanes *uint16, lanesLD int"
		}
		text(name, signature+")", v.frameBytes(), doc...)
		walk = &listed{at: arg("at"), ahead: v.ahead()}
	} else {
		text(name, "(dst *float32, ld int, q *int8, qHead int, affine *float32, codes *byte, pageBytes, dim int, pages uint64)", 0, doc...)
		walk = &masked{pages: arg("pages")}
	}
	qHead, dim := arg("qHead"), arg("dim")
	masks := map[int]Op{}
	for _, bits := range v.planes {
		if mask := uint32(1<<bits-1) * 0x01010101; bits < 8 && v.width == avx512 {
			masks[bits] = v.splatBits(mask)
		} else if bits < 8 {
			masks[bits] = v.memoryBits(fmt.Sprint("mask", bits), mask)
		}
	}
	var weights *weighing
	if v.weigh {
		weights = v.newWeighing()
	}
	walk.begin()
	Label("page")
	p, code, next := walk.page()
	acc := make([][]VecVirtual, v.heads)
	for g := range acc {
		acc[g] = v.zero(v.chains())
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
		qa, fa := newStrides(q, qHead, v.heads), strides{}
		if v.wide {
			fa = newStrides(fine, qHead, v.heads)
		}
		label := fmt.Sprintf("runs%d", plane)
		Label(label)
		loads := bits // eight runs a turn
		if v.few {
			loads = 1
		}
		runs := loads * (8 / bits)
		var pairs [][]VecVirtual // sums in 16 bits
		if v.width == avx2 && bits < 8 {
			pairs = make([][]VecVirtual, v.heads)
		}
		for load := range loads { // 64 bytes hold 8/bits runs of four channels
			x := make([]VecVirtual, v.parts())
			for i := range x {
				x[i] = v.load(Mem{Base: code, Disp: 64*load + int(v.width)*i})
			}
			if v.perBlock {
				for i := range fetched {
					PREFETCHT1(Mem{Base: next, Disp: 64 * (fetched*load + i)})
				}
			}
			for r := range 8 / bits {
				i := load*(8/bits) + r
				u := make([]VecVirtual, len(x))
				for i := range u {
					u[i] = v.unpack(x[i], r*bits, masks[bits])
				}
				v.products(qa, i*run, u, acc, i%v.turns(), pairs)
				if v.wide {
					v.products(fa, i*run, u, acc, 2+i%2, pairs)
				}
			}
		}
		for g, p := range pairs {
			for i := range p {
				v.join(p[i], acc[g][i])
			}
		}
		ADDQ(U32(64*loads), code)
		if v.perBlock {
			ADDQ(U32(64*fetched*loads), next)
		}
		ADDQ(U32(runs*run), q)
		if v.wide {
			ADDQ(U32(runs*run), fine)
		}
		SUBQ(U8(4*runs), left)
		JNZ(LabelRef(label))
	}

	dst, ld, affine := arg("dst"), arg("ld"), arg("affine")
	SHLQ(U8(2), ld)
	scale, low := make([]VecVirtual, v.parts()), make([]VecVirtual, v.parts())
	for i := range scale {
		scale[i], low[i] = v.vec(), v.vec()
		if v.perToken {
			VCVTPH2PS(Mem{Base: code, Disp: int(v.width) / 2 * i}, scale[i])
			VCVTPH2PS(Mem{Base: code, Disp: 32 + int(v.width)/2*i}, low[i])
		}
	}
	if v.weigh {
		weights.begin()
	}
	head, constant := 16, 4 // bytes between the maps of two heads, and between a map's factor and its constant
	if !v.perToken && !v.perBlock {
		LEAQ(Mem{Base: affine, Index: p, Scale: 4}, affine)
		head, constant = 128, 64
	}
	for g, a := range acc {
		for i, y := range v.sums(a) {
			VCVTDQ2PS(y, y)
			m, b := v.vec(), v.vec()
			factor, add := Mem{Base: affine, Disp: head * g}, Mem{Base: affine, Disp: head*g + constant}
			if v.weigh {
				factor = mapAt(g)
				add = factor.Offset(constant)
			}
			VBROADCASTSS(factor, m)
			VBROADCASTSS(add, b)
			VFMADD213PS(b, m, y)
			if v.weigh {
				weights.take(g, y)
			}
			if v.perToken {
				VMULPS(scale[i], y, y)
				v.fma(Mem{Base: affine, Disp: head*g + 8}, low[i], y)
				if v.few {
					c := v.vec()
					VBROADCASTSS(Mem{Base: affine, Disp: head*g + 12}, c)
					VADDPS(c, y, y)
				}
			}
			VMOVUPS(y, Mem{Base: dst, Disp: int(v.width) * i})
		}
		if g+1 < v.heads {
			ADDQ(ld, dst)
			if v.weigh {
				weights.next()
			}
		}
	}
	ADDQ(U8(64), NewParamAddr("dst", 0))
	walk.step()
	if v.weigh {
		weights.end()
	}
	end()
}

// load reads a vector of codes.
func (w width) load(m Mem) VecVirtual {
	x := w.vec()
	if w == avx512 {
		VMOVDQU32(m, x)
	} else {
		VMOVDQU(m, x)
	}
	return x
}

// unpack is the codes from a bit up; a nil mask takes whole bytes.
func (w width) unpack(x VecVirtual, shift int, mask Op) VecVirtual {
	if mask == nil {
		return x
	}
	u := w.vec()
	if shift == 0 {
		w.and(mask, x, u)
		return u
	}
	VPSRLD(U8(shift), x, u)
	w.and(mask, u, u)
	return u
}

// chains is the number of accumulators of a head: with AVX-512 those of turns, with AVX2 one for eight tokens; and the query's planes apart.
func (v scan) chains() int {
	switch {
	case v.wide:
		return 4
	case v.width == avx512:
		return v.turns()
	}
	return 2
}

// turns is how many accumulators runs take in turn, where one product would otherwise wait for the one before.
func (v scan) turns() int {
	if v.width == avx512 && v.heads > 4 {
		return 1
	}
	return 2
}

// products adds one run of codes, times four channels of each query, to chain 0 or 1, or, with the query's fine plane, 2 or 3.
func (v scan) products(q strides, disp int, u []VecVirtual, acc [][]VecVirtual, chain int, pairs [][]VecVirtual) {
	for g := range v.heads {
		if v.width == avx512 {
			VPDPBUSD_BCST(q.at(g, disp), u[0], acc[g][chain])
			continue
		}
		f := v.vec()
		VPBROADCASTD(q.at(g, disp), f)
		for i := range u {
			t := v.vec()
			VPMADDUBSW(f, u[i], t)
			switch {
			case pairs == nil:
				v.join(t, acc[g][chain&^1+i])
			case len(pairs[g]) <= i:
				pairs[g] = append(pairs[g], t)
			default:
				VPADDW(t, pairs[g][i], pairs[g][i])
			}
		}
	}
}

// join adds pairs of 16-bit sums to 32-bit ones; the former are consumed.
func (w width) join(pairs, acc VecVirtual) {
	VPMADDWD(w.memoryBits("ones16", 0x00010001), pairs, pairs)
	VPADDD(pairs, acc, acc)
}

// sums is a head's products, as many vectors as 16 tokens fill; the accumulators are consumed.
func (v scan) sums(a []VecVirtual) []VecVirtual {
	if v.width == avx2 {
		if v.wide {
			for i := range 2 {
				VPSLLD(U8(7), a[i], a[i])
				VPADDD(a[2+i], a[i], a[i])
			}
		}
		return a[:2]
	}
	y := a[0]
	if len(a) > 1 {
		VPADDD(a[1], y, y)
	}
	if v.wide {
		VPSLLD(U8(7), y, y)
		VPADDD(a[2], y, y)
		VPADDD(a[3], y, y)
	}
	return a[:1]
}

func (w width) quantise() {
	w.begin("quantise", "(dst *int8, x *float32, n int) (top, sum float32, isum int64)",
		"rounds a query to signed bytes, n a multiple of 16:",
		"",
		"\ttop = max_i |x[i]|",
		"\tfor i := range n {",
		"\t\tdst[i] = round(x[i] * 127 / top) // 0 if top is",
		"\t\tsum += x[i]",
		"\t\tisum += dst[i]",
		"\t}")
	dst, x, n := arg("dst"), arg("x"), arg("n")
	inv, top := w.inverse(x, n, w.splatBits(0x7fffffff), 127)
	Store(top, ReturnIndex(0))
	sums := w.zero(2)
	i := GP64()
	XORQ(i, i)
	Label("step")
	v := w.vec()
	VMOVUPS(Mem{Base: x, Index: i, Scale: 4}, v)
	VADDPS(v, sums[0], sums[0])
	VMULPS(v, inv, v)
	VCVTPS2DQ(v, v)
	VPADDD(v, sums[1], sums[1])
	w.storeBytes(v, Mem{Base: dst, Index: i, Scale: 1})
	ADDQ(U8(w.lanes()), i)
	CMPQ(i, n)
	JL(LabelRef("step"))
	Store(w.across(sums[0], VADDPS), ReturnIndex(1))
	g := GP64()
	VMOVD(w.across(sums[1], VPADDD), g.As32())
	MOVLQSX(g.As32(), g)
	Store(g, ReturnIndex(2))
	end()
}

// storeBytes writes 32-bit integers as signed bytes; v is consumed.
func (w width) storeBytes(v VecVirtual, m Mem) {
	if w == avx512 {
		VPMOVSDB(v, m)
		return
	}
	upper := XMM()
	VEXTRACTI128(U8(1), v, upper)
	VPACKSSDW(upper, v.AsX(), v.AsX())
	VPACKSSWB(v.AsX(), v.AsX(), v.AsX())
	VMOVQ(v.AsX(), m)
}
