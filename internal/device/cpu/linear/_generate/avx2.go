package main

import (
	"fmt"
	"slices"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func generateAVX2() {
	for _, q := range quants {
		for _, n := range []int{1, 2, 4} {
			quantAVX2(q, n)
		}
	}
	for _, t := range []string{"F16", "BF16", "F32"} {
		for _, n := range []int{1, 2, 4} {
			floatAVX2(t, n)
		}
	}
	quantizeAVX2()
}

func ymms(n int) []VecVirtual {
	y := make([]VecVirtual, n)
	for i := range y {
		y[i] = YMM()
	}
	return y
}

// halfTile is how many rows fill a vector.
const halfTile = rowTile / 2

// halvesY is how many halves of a tile a kernel for n activation rows takes at once. Few rows are bound by memory, whose stream
// must then be read in order, and once; many need the registers.
func halvesY(n int) int {
	if n <= 2 {
		return 2
	}
	return 1
}

// lanesY says where half a tile begins: at lane, a register, or where that is nil at row 8·half.
type lanesY struct {
	lane GPVirtual
	half int
}

// at addresses the eight elements of size bytes at disp behind base.
func (l lanesY) at(base GPVirtual, disp, size int) Mem {
	if l.lane == nil {
		return Mem{Base: base, Disp: disp + l.half*halfTile*size}
	}
	return Mem{Base: base, Disp: disp, Index: l.lane, Scale: uint8(size)}
}

// tilesY walks over the tiles, each in one pass of both halves or in a pass for each: as many as a pass has sums in acc. pass
// leaves w behind the tile and the sums of each half in acc; they go to the first of the activation rows that the parameter n
// counts, if counted, else to all.
func tilesY(acc [][]VecVirtual, pass func(w GPVirtual, at []lanesY), counted bool) {
	w, rows, dst := param("w"), param("rows"), param("dst")
	start, lane := GP64(), GP64()
	at := []lanesY{{lane: lane}}
	if len(acc) == 2 {
		at = []lanesY{{half: 0}, {half: 1}}
	}
	Label("tile")
	MOVQ(w, start)
	XORQ(lane, lane)
	Label("pass")
	MOVQ(start, w)
	pass(w, at)
	if counted {
		addPlanes(acc...)
	}
	for half, sums := range acc {
		// The mask has a lane for each row left, out of a table of eight set and eight clear.
		left, table, eight, mask := GP64(), GP64(), GP64(), YMM()
		MOVQ(rows, left)
		SUBQ(lane, left)
		MOVQ(U32(halfTile), eight)
		CMPQ(left, eight)
		CMOVQGT(eight, left)
		SUBQ(left, eight)
		LEAQ(laneMasks(), table)
		VMOVDQU(Mem{Base: table, Index: eight, Scale: 4}, mask)
		out, stride := GP64(), param("stride")
		LEAQ(Mem{Base: dst, Index: lane, Scale: 4}, out)
		SHLQ(U8(2), stride)
		var valid GPVirtual
		if counted && len(sums) > 1 {
			valid = param("n")
		}
		stored := fmt.Sprintf("stored%d", half)
		for i, a := range sums {
			if i > 0 && counted {
				CMPQ(valid, I8(i))
				JLE(LabelRef(stored))
			}
			VMASKMOVPS(a, mask, Mem{Base: out})
			if i < len(sums)-1 {
				ADDQ(stride, out)
			}
		}
		Label(stored)
		ADDQ(I8(halfTile), lane)
		CMPQ(lane, rows)
		JGE(LabelRef("done")) // the last tile, with no rows for another half
	}
	if len(acc) == 1 {
		CMPQ(lane, I8(halfTile))
		JE(LabelRef("pass"))
	}
	ADDQ(I32(4*rowTile), dst)
	SUBQ(I32(rowTile), rows)
	JG(LabelRef("tile"))
	Label("done")
	VZEROUPPER()
	RET()
}

// sumsY allocates the sums of tilesY for n activation rows.
func sumsY(n int) [][]VecVirtual {
	acc := make([][]VecVirtual, halvesY(n))
	for i := range acc {
		acc[i] = ymms(n)
	}
	return acc
}

// quantY is one kernel in the making: 8 of a tile's rows in the lanes, n activation rows.
type quantY struct {
	quant
	n          int
	w, x, head GPVirtual
	lanes      lanesY
	table      VecVirtual
}

func quantAVX2(q quant, n int) {
	name := fmt.Sprintf("avx2%sx%d", q.name, n)
	TEXT(name, NOSPLIT, quantSignature)
	docQuant(name, q, n)
	Pragma("noescape")
	k := quantY{quant: q, n: n}
	if q.codes == "codes4NL" {
		k.table = YMM()
		VMOVDQU(nonlinearData(0), k.table)
	}
	acc := sumsY(n)
	tilesY(acc, func(w GPVirtual, at []lanesY) {
		k.w = w
		k.x = param("x")
		left, step := param("blocks"), param("step")
		for _, a := range slices.Concat(acc...) {
			VXORPS(a, a, a)
		}
		record := func() {
			for half, lanes := range at {
				k.lanes = lanes
				k.record(acc[half])
			}
			ADDQ(I32(q.scaleBytes()+q.codeBytes()), k.w)
			ADDQ(step, k.x)
		}
		if q.headBytes() == 0 {
			counter("block", left, 1, record)
			return
		}
		counter("super", left, 8, func() {
			k.head = GP64()
			MOVQ(k.w, k.head)
			ADDQ(I32(q.headBytes()), k.w)
			eight := GP64()
			MOVQ(U32(8), eight)
			counter("block", eight, 1, record)
		})
	}, true)
}

// half loads eight float16 at disp behind base.
func (k *quantY) half(base GPVirtual, disp int) VecVirtual {
	y := YMM()
	VCVTPH2PS(k.lanes.at(base, disp, 2), y)
	return y
}

// bytes loads eight integer scales.
func (k *quantY) bytes(disp int, signed bool) VecVirtual {
	y, from := YMM(), k.lanes.at(k.w, disp, 1)
	if signed {
		VPMOVSXBD(from, y)
	} else {
		VPMOVZXBD(from, y)
	}
	return y
}

// scaled is the product of a head's scale and small integers.
func (k *quantY) scaled(headDisp int, ints VecVirtual) VecVirtual {
	h := k.half(k.head, headDisp)
	VCVTDQ2PS(ints, ints)
	VMULPS(h, ints, ints)
	return ints
}

// scale loads the record's float scale of a part of its columns, minimum its minimum.
func (k *quantY) scale(part int) VecVirtual {
	switch k.scales {
	case "scaleD", "scaleDM":
		return k.half(k.w, 0)
	case "scaleKS", "scaleK16":
		return k.scaled(0, k.bytes(16*part, true))
	}
	ints := k.bytes(16*part, false)
	if k.scales == "scaleK16M" {
		VPAND(wideData(15), ints, ints)
	}
	return k.scaled(0, ints)
}

func (k *quantY) minimum(part int) VecVirtual {
	switch k.scales {
	case "scaleDM":
		return k.half(k.w, 32)
	case "scaleK":
		return k.scaled(32, k.bytes(16, false))
	}
	ints := k.bytes(16*part, false)
	VPSRLD(U8(4), ints, ints)
	return k.scaled(32, ints)
}

// signed reports whether the codes are used as signed bytes: they are too large for the unsigned operand of VPMADDUBSW.
func (k *quantY) signed() bool { return k.codes == "codes8" || k.codes == "codes4NL" }

// span is how many groups can be summed in 16 bits: codes·127·2 each.
func (k *quantY) span() int {
	return map[string]int{"codes2": 8, "codes3": 8, "codes4": 8, "codes5": 4, "codes6": 1, "codes8": 1, "codes4NL": 1}[k.codes]
}

// group makes the codes of group g.
func (k *quantY) group(g int) VecVirtual {
	at := func(word int) Mem { return k.lanes.at(k.w, k.scaleBytes()+64*word, 4) }
	c := YMM()
	switch k.codes {
	case "codes8":
		VMOVDQU(at(g), c)
		VPXOR(wideData(0x80808080), c, c)
	case "codes2", "codes3":
		fieldY(at(g/4), c, -2*(g%4), 0x03030303)
		if k.codes == "codes3" {
			insertY(at(2), c, 2-g, 0x04040404)
		}
	case "codes4", "codes4NL":
		fieldY(at(g%4), c, -4*(g/4), 0x0f0f0f0f)
		if k.codes == "codes4NL" {
			VPSHUFB(c, k.table, c)
		}
	default:
		words, tops := k.topped()
		if g < words {
			fieldY(at(g), c, 0, lane1*(1<<words-1))
			break
		}
		first := true
		for _, t := range tops {
			if t.group != g {
				continue
			}
			if shift := t.to - t.at; first {
				fieldY(at(t.word), c, shift, t.mask())
				first = false
			} else {
				insertY(at(t.word), c, shift, t.mask()<<t.to)
			}
		}
	}
	return c
}

// fieldY sets dst to the bits of src under mask, after a shift to the left (to the right where negative); insertY ors
// them into it.
func fieldY(src Mem, dst VecVirtual, shift int, mask uint32) {
	VMOVDQU(src, dst)
	switch {
	case shift < 0:
		VPSRLW(U8(-shift), dst, dst)
	case shift > 0:
		VPSLLW(U8(shift), dst, dst)
	}
	VPAND(wideData(mask), dst, dst)
}

func insertY(src Mem, dst VecVirtual, shift int, mask uint32) {
	y := YMM()
	fieldY(src, y, shift, mask)
	VPOR(y, dst, dst)
}

// record multiplies half a record with one block of each activation row, and adds to acc.
func (k *quantY) record(acc []VecVirtual) {
	parts := 1
	if k.halves() {
		parts = 2
	}
	at := func(row, disp int) Mem { return Mem{Base: k.x, Disp: row*actBytes + disp} }
	values := make([]VecVirtual, k.n)
	for p := range parts {
		dots := k.dots(8/parts*p, 8/parts, at)
		if k.shift > 0 && !k.signed() {
			neg := actNeg
			if k.halves() {
				neg = actNeg16 + 4*p
			}
			for row, dot := range dots {
				t := YMM()
				VPBROADCASTD(at(row, neg), t)
				VPSLLD(U8(k.shift), t, t)
				VPADDD(t, dot, dot)
			}
		}
		d := k.scale(p)
		for row, dot := range dots {
			VCVTDQ2PS(dot, dot)
			VMULPS(d, dot, dot)
			if p == 0 {
				values[row] = dot
			} else {
				VADDPS(dot, values[row], values[row])
			}
		}
	}
	k.addMinima(values, at)
	for row, v := range values {
		t := YMM()
		VBROADCASTSS(at(row, actScale), t)
		VMULPS(t, v, v)
		VADDPS(v, acc[row], acc[row])
	}
}

// dots are the integer dot products of groups from to from+count.
func (k *quantY) dots(from, count int, at func(row, disp int) Mem) []VecVirtual {
	span := min(k.span(), count)
	dots, words := make([]VecVirtual, k.n), make([]VecVirtual, k.n)
	ones := wideData(0x00010001)
	for j := range count {
		g := from + j
		code := k.group(g)
		magnitude := code
		if k.signed() {
			magnitude = YMM()
			VPABSB(code, magnitude)
		}
		for row := range dots {
			x := YMM()
			VPBROADCASTD(at(row, 4*g), x)
			if k.signed() {
				VPSIGNB(code, x, x)
			}
			VPMADDUBSW(x, magnitude, x)
			if j%span == 0 {
				words[row] = x
			} else {
				VPADDW(x, words[row], words[row])
			}
			if (j+1)%span > 0 {
				continue
			}
			VPMADDWD(ones, words[row], words[row])
			if dots[row] == nil {
				dots[row] = words[row]
			} else {
				VPADDD(words[row], dots[row], dots[row])
			}
		}
	}
	return dots
}

// addMinima adds what the minima contribute.
func (k *quantY) addMinima(values []VecVirtual, at func(row, disp int) Mem) {
	switch k.scales {
	case "scaleDM", "scaleK":
		m := k.minimum(0)
		for row, v := range values {
			t := YMM()
			VBROADCASTSS(at(row, actSum), t)
			VMULPS(m, t, t)
			if k.scales == "scaleK" {
				VSUBPS(t, v, v)
			} else {
				VADDPS(t, v, v)
			}
		}
	case "scaleK16M":
		m := []VecVirtual{k.minimum(0), k.minimum(1)}
		for row, v := range values {
			t := ymms(2)
			for p := range t {
				VPBROADCASTD(at(row, actNeg16+4*p), t[p])
				VCVTDQ2PS(t[p], t[p])
				VMULPS(m[p], t[p], t[p])
			}
			VADDPS(t[1], t[0], t[0])
			VADDPS(t[0], v, v) // the sums are negated already
		}
	}
}

func floatAVX2(typ string, n int) {
	name := fmt.Sprintf("avx2%sx%d", typ, n)
	TEXT(name, NOSPLIT, floatSignature)
	docFloat(name, typ, n)
	Pragma("noescape")
	acc, part := sumsY(n), sumsY(n)
	size := elementBytes[typ]
	tilesY(acc, func(w GPVirtual, at []lanesY) {
		cols := param("cols")
		p := rowPointers{stride: GP64()}
		MOVQ(cols, p.stride)
		SHLQ(U8(2), p.stride)
		p.point(param("x"), n)
		for _, a := range slices.Concat(acc...) {
			VXORPS(a, a, a)
		}
		columns(cols, func() {
			for _, a := range slices.Concat(part...) {
				VXORPS(a, a, a)
			}
		}, func(unroll int) {
			for u := range unroll {
				for half, lanes := range at {
					e := YMM()
					from := lanes.at(w, u*rowTile*size, size)
					switch typ {
					case "F16":
						VCVTPH2PS(from, e)
					case "BF16":
						VPMOVZXWD(from, e)
						VPSLLD(U8(16), e, e)
					case "F32":
						VMOVUPS(from, e)
					}
					for i, sum := range part[half] {
						t := YMM()
						VBROADCASTSS(p.at(i, u), t)
						VMULPS(e, t, t)
						VADDPS(t, sum, sum)
					}
				}
			}
			ADDQ(I32(unroll*rowTile*size), w)
			p.advance(unroll)
		}, func() {
			for half, sums := range part {
				for i, sum := range sums {
					VADDPS(sum, acc[half][i], acc[half][i])
				}
			}
		})
	}, false)
}
