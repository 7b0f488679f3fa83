package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// encodeFamily fills planes from fp16 rows: bounds, codes between bounds, sums. Halves are compared as 16-bit integers, twice as many at once as floats.
func encodeFamily() {
	for _, w := range widths {
		w.widenBounds()
		w.pageRanges()
		w.tokenRanges()
		w.codes("pageCodes", false)
		w.codes("tokenCodes", true)
		for _, f := range foldings {
			w.fold(f)
		}
		w.sumRows()
	}
}

// order maps halves to integers of the same order and back; v is replaced.
func (w width) order(v, magnitude VecVirtual) {
	t := w.vec()
	VPSRAW(U8(15), v, t)
	if w == avx512 {
		VPTERNLOGD(U8(0x78), magnitude, t, v) // v ^ t&magnitude
		return
	}
	VPAND(magnitude, t, t)
	VPXOR(t, v, v)
}

// store16 writes a vector of 16-bit integers.
func (w width) store16(v VecVirtual, m Mem) {
	if w == avx512 {
		VMOVDQU16(v, m)
	} else {
		VMOVDQU(v, m)
	}
}

// extremes widens the orders lo and hi by n ≥ 1 rows at k, stride bytes apart; k and n are consumed.
func (w width) extremes(label string, lo, hi, magnitude VecVirtual, k, n, stride GPVirtual) {
	Label(label)
	v := w.load(Mem{Base: k})
	w.order(v, magnitude)
	VPMINSW(v, lo, lo)
	VPMAXSW(v, hi, hi)
	ADDQ(stride, k)
	DECQ(n)
	JNZ(LabelRef(label))
}

func (w width) widenBounds() {
	w.begin("widenBounds", "(lo, hi, k *uint16, dim, n int)",
		"widens bounds of each channel by n ≥ 1 rows, dim a multiple of 32, halves in the order of attention.Encoder:",
		"",
		"\tfor i := range n {",
		"\t\tfor c := range dim {",
		"\t\t\tlo[c], hi[c] = min(lo[c], k[i*dim+c]), max(hi[c], k[i*dim+c])",
		"\t\t}",
		"\t}")
	lo, hi, k, dim, stride := arg("lo"), arg("hi"), arg("k"), arg("dim"), GP64()
	LEAQ(Mem{Base: dim, Index: dim, Scale: 1}, stride)
	magnitude := w.splatBits(0x7fff7fff)
	Label("channels")
	a, b, p, n := w.load(Mem{Base: lo}), w.load(Mem{Base: hi}), GP64(), arg("n")
	w.order(a, magnitude)
	w.order(b, magnitude)
	MOVQ(k, p)
	w.extremes("row", a, b, magnitude, p, n, stride)
	w.order(a, magnitude)
	w.order(b, magnitude)
	w.store16(a, Mem{Base: lo})
	w.store16(b, Mem{Base: hi})
	for _, r := range []GPVirtual{lo, hi, k} {
		ADDQ(I8(int(w)), r)
	}
	SUBQ(U8(int(w)/2), dim)
	JNZ(LabelRef("channels"))
	end()
}

// halves widens the lower or upper half of a vector of halves.
func (w width) halves(v VecVirtual, upper int) VecVirtual {
	f := w.vec()
	switch {
	case upper == 0 && w == avx512:
		VCVTPH2PS(v.AsY(), f)
	case upper == 0:
		VCVTPH2PS(v.AsX(), f)
	case w == avx512:
		y := YMM()
		VEXTRACTI64X4(U8(1), v, y)
		VCVTPH2PS(y, f)
	default:
		x := XMM()
		VEXTRACTI128(U8(1), v, x)
		VCVTPH2PS(x, f)
	}
	return f
}

func (w width) pageRanges() {
	w.begin("pageRanges", "(zero, inv *float32, k *uint16, dim int, top float32)",
		"is what turns the keys of a page of 16 rows into codes up to top, dim a multiple of 32:",
		"",
		"\tfor c := range dim {",
		"\t\tlo, hi := the bounds of channel c",
		"\t\tzero[c], inv[c] = lo, top / (hi-lo) // 0 unless hi > lo",
		"\t}")
	zero, inv, k, dim, stride := arg("zero"), arg("inv"), arg("k"), arg("dim"), GP64()
	LEAQ(Mem{Base: dim, Index: dim, Scale: 1}, stride)
	magnitude, top := w.splatBits(0x7fff7fff), w.spread("top", 32)
	Label("channels")
	a, b, p, n := w.load(Mem{Base: k}), w.vec(), GP64(), GP64()
	w.order(a, magnitude)
	VMOVAPS(a, b)
	MOVQ(U32(15), n)
	LEAQ(Mem{Base: k, Index: stride, Scale: 1}, p)
	w.extremes("row", a, b, magnitude, p, n, stride)
	w.order(a, magnitude)
	w.order(b, magnitude)
	for i := range 2 {
		lo, hi := w.halves(a, i), w.halves(b, i)
		VMOVUPS(lo, Mem{Base: zero, Disp: int(w) * i})
		const greater = 0x1e
		if w == avx512 {
			m := K()
			VCMPPS(U8(greater), lo, hi, m)
			VSUBPS(lo, hi, hi)
			VDIVPS_Z(hi, top, m, hi)
		} else {
			m := w.vec()
			VCMPPS(U8(greater), lo, hi, m)
			VSUBPS(lo, hi, hi)
			VDIVPS(hi, top, hi)
			VANDPS(m, hi, hi)
		}
		VMOVUPS(hi, Mem{Base: inv, Disp: int(w) * i})
	}
	ADDQ(U32(2*int(w)), zero)
	ADDQ(U32(2*int(w)), inv)
	ADDQ(I8(int(w)), k)
	SUBQ(U8(int(w)/2), dim)
	JNZ(LabelRef("channels"))
	end()
}

func (w width) tokenRanges() {
	w.begin("tokenRanges", "(zero, inv *float32, scale, low, k *uint16, dim, n int)",
		"is what turns the keys of a page's first n ≥ 1 tokens into codes up to 15 (attention.Int4), dim a multiple of 32:",
		"",
		"\tfor i := range n {",
		"\t\tlo, hi := the bounds of k[i*dim:][:dim]",
		"\t\tstep := max(hi-lo, 1e-9) / 15",
		"\t\tzero[i], inv[i], scale[i], low[i] = lo, 1/step, step, lo",
		"\t}",
		"",
		"Elements beyond n, up to 16, are written too and mean nothing.")
	AllocLocal(64)
	frame := GP64() // orders of the minima, then of the maxima
	LEAQ(NewStackAddr(0), frame)
	for i := range 64 / int(w) {
		VMOVUPS(w.zero(1)[0], Mem{Base: frame, Disp: int(w) * i})
	}
	k, n, i, stride, magnitude := arg("k"), arg("n"), GP64(), GP64(), w.splatBits(0x7fff7fff)
	MOVQ(U32(int(w)), stride)
	flips := [2]VecVirtual{XMM(), XMM()} // make orders unsigned, and the largest the smallest
	for j, u := range []uint32{0x80008000, 0x7fff7fff} {
		g := GP32()
		MOVL(U32(u), g)
		VMOVD(g, flips[j])
		VPBROADCASTD(flips[j], flips[j])
	}
	XORQ(i, i)
	Label("token")
	lo, hi, steps := w.load(Mem{Base: k}), w.vec(), arg("dim")
	w.order(lo, magnitude)
	VMOVAPS(lo, hi)
	SHRQ(U8(map[width]int{avx512: 5, avx2: 4}[w]), steps)
	w.extremes("channels", lo, hi, magnitude, k, steps, stride)
	for j, v := range []VecVirtual{lo, hi} {
		join, x, y := []func(...Op){VPMINSW, VPMAXSW}[j], XMM(), YMM()
		if w == avx512 {
			VEXTRACTI64X4(U8(1), v, y)
			join(y, v.AsY(), v.AsY())
		}
		VEXTRACTI128(U8(1), v.AsY(), x)
		join(x, v.AsX(), x)
		VPXOR(flips[j], x, x)
		VPHMINPOSUW(x, x)
		VPXOR(flips[j], x, x)
		VPEXTRW(U8(0), x, Mem{Base: frame, Index: i, Scale: 2, Disp: 32 * j})
	}
	INCQ(i)
	CMPQ(i, n)
	JL(LabelRef("token"))

	a, b, m := YMM(), YMM(), avx2.splatBits(0x7fff7fff)
	VMOVDQU(Mem{Base: frame}, a)
	VMOVDQU(Mem{Base: frame, Disp: 32}, b)
	avx2.order(a, m)
	avx2.order(b, m)
	low, scale, zero, inv := arg("low"), arg("scale"), arg("zero"), arg("inv")
	VMOVDQU(a, Mem{Base: low})
	for j := range 16 / w.lanes() {
		x, y := w.vec(), w.vec()
		if w == avx512 {
			VCVTPH2PS(a, x)
			VCVTPH2PS(b, y)
		} else {
			x, y = w.halves(a, j), w.halves(b, j)
		}
		VMOVUPS(x, Mem{Base: zero, Disp: int(w) * j})
		VSUBPS(x, y, y)
		t := w.splat(1e-9)
		VMAXPS(y, t, y) // in this order a NaN survives
		VDIVPS(w.splat(15), y, y)
		VCVTPS2PH(U8(0), y, Mem{Base: scale, Disp: int(w) / 2 * j})
		VDIVPS(y, w.splat(1), y)
		VMOVUPS(y, Mem{Base: inv, Disp: int(w) * j})
	}
	end()
}

// codes quantises the keys of a page between ranges of its channels or of its tokens. Four tokens go together: packed to bytes, a vector's 128-bit lanes then hold
// four channels of each, which is a piece of a run.
func (w width) codes(name string, perToken bool) {
	of := "c"
	if perToken {
		of = "t"
	}
	w.begin(name, "(runs *byte, k *uint16, dim int, zero, inv *float32, n int, top float32)",
		"is, for n ≥ 1 of a page's 16 tokens, in runs of 64 bytes for four channels, dim a multiple of 32:",
		"",
		"\tfor t := range n {",
		"\t\tfor c := range dim {",
		fmt.Sprintf("\t\t\truns[c/4*64+t*4+c%%4] = min(max(int((k[t*dim+c]-zero[%s])*inv[%s] + 0.5), 0), top) // 0 for NaN", of, of),
		"\t\t}",
		"\t}",
		"",
		"Tokens beyond n, up to a multiple of four, are as the last.")
	const four = 4
	k, dim, last, stride := arg("k"), arg("dim"), arg("n"), GP64()
	LEAQ(Mem{Base: dim, Index: dim, Scale: 1}, stride)
	DECQ(last)
	IMULQ(stride, last)
	ADDQ(k, last) // the last row
	top, half, none := w.spread("top", 48), w.splat(0.5), w.zero(1)[0]
	zero, inv, out := arg("zero"), arg("inv"), arg("runs")

	Label("tokens")
	var p [four]GPVirtual
	for i := range p {
		p[i] = GP64()
		MOVQ(k, p[i])
		CMPQ(k, last)
		CMOVQHI(last, p[i])
		ADDQ(stride, k)
	}
	var lows, invs [four]VecVirtual
	if perToken {
		for i := range p {
			lows[i], invs[i] = w.vec(), w.vec()
			VBROADCASTSS(Mem{Base: zero, Disp: 4 * i}, lows[i])
			VBROADCASTSS(Mem{Base: inv, Disp: 4 * i}, invs[i])
		}
		ADDQ(U8(4*four), zero)
		ADDQ(U8(4*four), inv)
	}
	c, to := GP64(), GP64()
	XORQ(c, c)
	MOVQ(out, to)
	Label("channels")
	if !perToken {
		x, y := w.vec(), w.vec()
		VMOVUPS(Mem{Base: zero, Index: c, Scale: 4}, x)
		VMOVUPS(Mem{Base: inv, Index: c, Scale: 4}, y)
		for i := range p {
			lows[i], invs[i] = x, y
		}
	}
	var v [four]VecVirtual
	for i := range p {
		v[i] = w.vec()
		VCVTPH2PS(Mem{Base: p[i], Index: c, Scale: 2}, v[i])
		VSUBPS(lows[i], v[i], v[i])
		VMULPS(invs[i], v[i], v[i])
		VADDPS(half, v[i], v[i])
		VMAXPS(none, v[i], v[i]) // in this order NaN becomes 0
		VMINPS(top, v[i], v[i])
		VCVTTPS2DQ(v[i], v[i])
	}
	VPACKUSDW(v[1], v[0], v[0])
	VPACKUSDW(v[3], v[2], v[2])
	VPACKUSWB(v[2], v[0], v[0])
	for i := range int(w) / 16 {
		to := Mem{Base: to, Disp: 64 * i}
		switch {
		case i == 0:
			VMOVDQU(v[0].AsX(), to)
		case w == avx512:
			VEXTRACTI32X4(U8(i), v[0], to)
		default:
			VEXTRACTI128(U8(i), v[0], to)
		}
	}
	ADDQ(U32(16*w.lanes()), to)
	ADDQ(U8(w.lanes()), c)
	CMPQ(c, dim)
	JL(LabelRef("channels"))
	ADDQ(U8(4*four), out)
	CMPQ(k, last)
	JLS(LabelRef("tokens"))
	end()
}

// folding joins 8/bits runs of byte codes into one: of each code the bits from shift up.
type folding struct {
	name        string
	bits, shift int
}

var foldings = []folding{{"fold4", 4, 0}, {"fold2", 2, 0}, {"fold1", 1, 0}, {"fold2of3", 2, 1}}

func (w width) fold(f folding) {
	w.begin(f.name, "(dst, runs *byte, n int)",
		fmt.Sprintf("joins runs of 64 bytes, n of them, a multiple of eight, %d to one:", 8/f.bits),
		"",
		"\tfor i := range n*64 {",
		fmt.Sprintf("\t\tdst[i/%d*64+i%%64] |= runs[i]>>%d&%d << (i/64%%%d*%d)", 64*8/f.bits, f.shift, 1<<f.bits-1, 8/f.bits, f.bits),
		"\t}",
		"",
		"dst counting as zero before.")
	dst, runs, n := arg("dst"), arg("runs"), arg("n")
	mask := w.splatBits(uint32(1<<f.bits-1) * 0x01010101)
	Label("run")
	for part := range 64 / int(w) {
		var sum VecVirtual
		for r := range 8 / f.bits {
			v := w.load(Mem{Base: runs, Disp: 64*r + int(w)*part})
			if f.shift > 0 {
				VPSRLD(U8(f.shift), v, v)
			}
			w.and(mask, v, v)
			if r == 0 {
				sum = v
				continue
			}
			VPSLLD(U8(r*f.bits), v, v)
			if w == avx512 {
				VPORD(v, sum, sum)
			} else {
				VPOR(v, sum, sum)
			}
		}
		w.store16(sum, Mem{Base: dst, Disp: int(w) * part})
	}
	ADDQ(U8(64), dst)
	ADDQ(U32(64*8/f.bits), runs)
	SUBQ(U8(8/f.bits), n)
	JNZ(LabelRef("run"))
	end()
}

func (w width) sumRows() {
	w.begin("sumRows", "(sum *float32, v *uint16, dim, n int)",
		"adds n ≥ 1 rows in order, dim a multiple of 32:",
		"",
		"\tfor i := range n {",
		"\t\tfor c := range dim {",
		"\t\t\tsum[c] += v[i*dim+c]",
		"\t\t}",
		"\t}")
	sum, v, dim, stride := arg("sum"), arg("v"), arg("dim"), GP64()
	LEAQ(Mem{Base: dim, Index: dim, Scale: 1}, stride)
	Label("channels")
	acc := make([]VecVirtual, 32/w.lanes())
	for i := range acc {
		acc[i] = w.vec()
		VMOVUPS(Mem{Base: sum, Disp: int(w) * i}, acc[i])
	}
	p, n := GP64(), arg("n")
	MOVQ(v, p)
	Label("row")
	for i, a := range acc {
		x := w.vec()
		VCVTPH2PS(Mem{Base: p, Disp: int(w) / 2 * i}, x)
		VADDPS(x, a, a)
	}
	ADDQ(stride, p)
	DECQ(n)
	JNZ(LabelRef("row"))
	for i, a := range acc {
		VMOVUPS(a, Mem{Base: sum, Disp: int(w) * i})
	}
	ADDQ(U8(64), v)
	SUBQ(I8(-128), sum)
	SUBQ(U8(32), dim)
	JNZ(LabelRef("channels"))
	end()
}
