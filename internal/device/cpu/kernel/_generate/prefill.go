package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// prefillFamily is dense attention of many query rows: keys and values of a block are widened once, into panels of 32 columns, and two matrix products run over them.
func prefillFamily() {
	for _, rows := range []int{4, 8, 12} {
		avx512.panel(rows)
	}
	avx2.panel(4)
	keyPanels512()
	keyPanels256()
	for _, w := range widths {
		w.valuePanels()
	}
}

// panel is the micro-kernel: the sums of some rows and 32 columns (AVX2: 16 at a time) stay in registers while a row of the panel and one element of each row of a are
// taken. Every sum takes its terms in order, so it depends on nothing but its own row and column.
func (w width) panel(rows int) {
	w.begin(fmt.Sprintf("panel%d", rows), "(c *float32, ldc int, f, a *float32, lda int, b *float32, k, panel, panels int)",
		fmt.Sprintf("multiplies %d rows by panels of [panel][32], of which the first k ≥ 1 rows count:", rows),
		"",
		fmt.Sprintf("\tfor i := range %d {", rows),
		"\t\tfor p := range panels {",
		"\t\t\tfor j := range 32 {",
		"\t\t\t\tc[i*ldc+32*p+j] = c[i*ldc+32*p+j]*f[i] + Σ_l a[i*lda+l]*b[(p*panel+l)*32+j]",
		"\t\t\t}",
		"\t\t}",
		"\t}",
		"",
		"Without f, c is set.")
	lda, b := arg("lda"), arg("b")
	SHLQ(U8(2), lda)
	lda3 := GP64()
	LEAQ(Mem{Base: lda, Index: lda, Scale: 2}, lda3)
	Label("panel")
	for left := 0; left < 128; left += 2 * int(w) {
		w.sub(rows, left, b, lda, lda3)
	}
	size := arg("panel")
	SHLQ(U8(7), size)
	ADDQ(size, b)
	SUBQ(I8(-128), NewParamAddr("c", 0))
	DECQ(NewParamAddr("panels", 64))
	JNZ(LabelRef("panel"))
	end()
}

// sub is the part of a panel that starts left bytes into its rows.
func (w width) sub(rows, left int, b, lda, lda3 GPVirtual) {
	label := func(s string) string { return fmt.Sprintf("%s%d", s, left) }
	a := make([]GPVirtual, rows/4)
	at := func(i, l int) Mem {
		return strides{base: a[i/4], s: lda, s3: lda3}.at(i%4, 4*l)
	}
	acc := make([][2]VecVirtual, rows)
	for i := range acc {
		acc[i] = [2]VecVirtual{w.vec(), w.vec()}
	}
	c, ldc, f := arg("c"), arg("ldc"), arg("f")
	SHLQ(U8(2), ldc)
	TESTQ(f, f)
	JZ(LabelRef(label("fresh")))
	for i := range acc {
		x := w.vec()
		VBROADCASTSS(Mem{Base: f, Disp: 4 * i}, x)
		for j, z := range acc[i] {
			VMULPS(Mem{Base: c, Disp: left + int(w)*j}, x, z)
		}
		if i+1 < rows {
			ADDQ(ldc, c)
		}
	}
	JMP(LabelRef(label("ready")))
	Label(label("fresh"))
	for _, z := range acc {
		VXORPS(z[0], z[0], z[0])
		VXORPS(z[1], z[1], z[1])
	}
	Label(label("ready"))
	for i := range a {
		a[i] = GP64()
		if i == 0 {
			Load(Param("a"), a[i])
		} else {
			LEAQ(Mem{Base: a[i-1], Index: lda, Scale: 4}, a[i])
		}
	}
	p, n := GP64(), GP64()
	LEAQ(Mem{Base: b, Disp: left}, p)
	Load(Param("k"), n)
	turn := func(unroll int) {
		for l := range unroll {
			x, y := w.vec(), w.vec()
			VMOVUPS(Mem{Base: p, Disp: 128 * l}, x)
			VMOVUPS(Mem{Base: p, Disp: 128*l + int(w)}, y)
			for i := range acc {
				if w == avx512 {
					VFMADD231PS_BCST(at(i, l), x, acc[i][0])
					VFMADD231PS_BCST(at(i, l), y, acc[i][1])
					continue
				}
				v := w.vec()
				VBROADCASTSS(at(i, l), v)
				VFMADD231PS(v, x, acc[i][0])
				VFMADD231PS(v, y, acc[i][1])
			}
		}
		for _, r := range a {
			ADDQ(U8(4*unroll), r)
		}
		ADDQ(U32(128*unroll), p)
	}
	SUBQ(U8(4), n)
	JL(LabelRef(label("rest")))
	Label(label("four"))
	turn(4)
	SUBQ(U8(4), n)
	JGE(LabelRef(label("four")))
	Label(label("rest"))
	ADDQ(U8(4), n)
	JZ(LabelRef(label("store")))
	Label(label("one"))
	turn(1)
	DECQ(n)
	JNZ(LabelRef(label("one")))

	Label(label("store"))
	c, ldc = arg("c"), arg("ldc")
	SHLQ(U8(2), ldc)
	for i := range acc {
		VMOVUPS(acc[i][0], Mem{Base: c, Disp: left})
		VMOVUPS(acc[i][1], Mem{Base: c, Disp: left + int(w)})
		if i+1 < rows {
			ADDQ(ldc, c)
		}
	}
}

func keyPanels512() {
	avx512.beginKeyPanels()
	dst, k, stride, n := arg("dst"), arg("k"), arg("dim"), arg("n")
	SHLQ(U8(1), stride)
	even := quads512("keyPanelsEven", 0, 8, 4, 12, 2, 10, 6, 14)
	odd := quads512("keyPanelsOdd", 1, 9, 5, 13, 3, 11, 7, 15)
	last := GP64()
	MOVQ(n, last)
	DECQ(last)
	IMULQ(stride, last)
	ADDQ(k, last)
	ADDQ(U8(31), n) // whole panels, 16 tokens at a time
	ANDQ(I8(-32), n)
	Label("tokens")
	off := GP64()
	XORQ(off, off)
	Label("channels")
	z := make([]VecVirtual, 8)
	row := GP64()
	MOVQ(k, row)
	load := func(f func(p GPVirtual)) {
		p := GP64()
		CMPQ(row, last)
		MOVQ(row, p)
		CMOVQHI(last, p)
		f(p)
		ADDQ(stride, row)
	}
	for r := range z {
		z[r] = ZMM()
		load(func(p GPVirtual) { VBROADCASTI64X4(Mem{Base: p, Index: off, Scale: 1}, z[r]) })
	}
	for r := range z {
		load(func(p GPVirtual) { VINSERTI64X4(U8(1), Mem{Base: p, Index: off, Scale: 1}, z[r], z[r]) })
	}
	to := GP64()
	MOVQ(off, to)
	SHLQ(U8(6), to)
	ADDQ(dst, to)
	for j, h := range transpose16(z, even, odd) {
		lo, hi, top := ZMM(), ZMM(), YMM()
		VCVTPH2PS(h.AsY(), lo)
		VEXTRACTI64X4(U8(1), h, top)
		VCVTPH2PS(top, hi)
		VMOVUPS(lo, Mem{Base: to, Disp: 128 * j})
		VMOVUPS(hi, Mem{Base: to, Disp: 128 * (j + 8)})
	}
	ADDQ(U8(32), off)
	CMPQ(off, stride)
	JB(LabelRef("channels"))
	MOVQ(row, k)
	ADDQ(U8(64), dst)
	SUBQ(U8(16), n)
	JZ(LabelRef("done"))
	TESTQ(U32(16), n)
	JNZ(LabelRef("tokens")) // the panel's second half
	next := GP64()          // the next panel is dim·128 bytes after this one
	MOVQ(stride, next)
	SHLQ(U8(6), next)
	LEAQ(Mem{Base: dst, Index: next, Scale: 1, Disp: -128}, dst)
	JMP(LabelRef("tokens"))
	Label("done")
	end()
}

// transpose16 takes eight registers, register r with 16 channels of fp16 row r in its low half and of row 8+r in its high half, to eight whose low half is channel
// j of rows 0..15 and whose high half is channel 8+j.
func transpose16(z []VecVirtual, even, odd VecVirtual) []VecVirtual {
	words := func(a, b VecVirtual) (lo, hi VecVirtual) {
		lo = ZMM()
		VPUNPCKLWD(b, a, lo)
		VPUNPCKHWD(b, a, a)
		return lo, a
	}
	dwords := func(a, b VecVirtual) (lo, hi VecVirtual) {
		lo = ZMM()
		VPUNPCKLDQ(b, a, lo)
		VPUNPCKHDQ(b, a, a)
		return lo, a
	}
	// four takes rows r..r+3 (and those 8 above) to quadwords of four rows: register i holds channels 2i, 2i+1 of both groups of eight.
	four := func(r int) [4]VecVirtual {
		l01, h01 := words(z[r], z[r+1])
		l23, h23 := words(z[r+2], z[r+3])
		c01, c23 := dwords(l01, l23)
		c45, c67 := dwords(h01, h23)
		return [4]VecVirtual{c01, c23, c45, c67}
	}
	a, b := four(0), four(4)
	out := make([]VecVirtual, 0, 8)
	for i := range a {
		e := ZMM()
		VMOVDQA64(a[i], e)
		VPERMT2Q(b[i], even, e)
		VPERMT2Q(b[i], odd, a[i])
		out = append(out, e, a[i])
	}
	return out
}

func (w width) beginKeyPanels() {
	w.begin("keyPanels", "(dst *float32, k *uint16, dim, n int)",
		"widens n ≥ 1 keys into panels of 32 tokens, [dim][32] each; the last panel's missing tokens repeat the last key:",
		"",
		"\tfor t := range n {",
		"\t\tfor c := range dim {",
		"\t\t\tdst[(t/32*dim+c)*32+t%32] = k[t*dim+c]",
		"\t\t}",
		"\t}")
}

// keyPanels256 turns squares of eight tokens and eight channels.
func keyPanels256() {
	avx2.beginKeyPanels()
	dst, k, stride, n := arg("dst"), arg("k"), arg("dim"), arg("n")
	SHLQ(U8(1), stride)
	last := GP64()
	MOVQ(n, last)
	DECQ(last)
	IMULQ(stride, last)
	ADDQ(k, last)
	ADDQ(U8(31), n)
	ANDQ(I8(-32), n)
	Label("tokens")
	off := GP64()
	XORQ(off, off)
	Label("channels")
	row, to := GP64(), GP64()
	MOVQ(k, row)
	z := make([]VecVirtual, 8)
	for r := range z {
		p := GP64()
		CMPQ(row, last)
		MOVQ(row, p)
		CMOVQHI(last, p)
		z[r] = YMM()
		VCVTPH2PS(Mem{Base: p, Index: off, Scale: 1}, z[r])
		ADDQ(stride, row)
	}
	both := func(lo, hi func(...Op), i, j int) {
		t := YMM()
		lo(z[j], z[i], t)
		hi(z[j], z[i], z[j])
		z[i] = t
	}
	for i := 0; i < 8; i += 2 {
		both(VUNPCKLPS, VUNPCKHPS, i, i+1)
	}
	for _, i := range []int{0, 1, 4, 5} {
		both(VUNPCKLPD, VUNPCKHPD, i, i+2)
	}
	MOVQ(off, to)
	SHLQ(U8(6), to)
	ADDQ(dst, to)
	for j, i := range []int{0, 2, 1, 3} { // the order that the two rounds leave
		lo, hi := YMM(), YMM()
		VPERM2F128(U8(0x20), z[i+4], z[i], lo)
		VPERM2F128(U8(0x31), z[i+4], z[i], hi)
		VMOVUPS(lo, Mem{Base: to, Disp: 128 * j})
		VMOVUPS(hi, Mem{Base: to, Disp: 128 * (j + 4)})
	}
	ADDQ(U8(16), off)
	CMPQ(off, stride)
	JB(LabelRef("channels"))
	MOVQ(row, k)
	ADDQ(U8(32), dst)
	SUBQ(U8(8), n)
	JZ(LabelRef("done"))
	TESTQ(U32(24), n)
	JNZ(LabelRef("tokens")) // the panel's next eight
	next := GP64()
	MOVQ(stride, next)
	SHLQ(U8(6), next)
	LEAQ(Mem{Base: dst, Index: next, Scale: 1, Disp: -128}, dst)
	JMP(LabelRef("tokens"))
	Label("done")
	end()
}

func (w width) valuePanels() {
	w.begin("valuePanels", "(dst *float32, v *uint16, dim, n, panel int)",
		"widens n ≥ 1 values into panels of 32 channels, [panel][32] each:",
		"",
		"\tfor t := range n {",
		"\t\tfor c := range dim {",
		"\t\t\tdst[(c/32*panel+t)*32+c%32] = v[t*dim+c]",
		"\t\t}",
		"\t}")
	dst, v, dim, n, panel := arg("dst"), arg("v"), arg("dim"), arg("n"), arg("panel")
	SHLQ(U8(7), panel)
	Label("token")
	to, left := GP64(), GP64()
	MOVQ(dst, to)
	MOVQ(dim, left)
	Label("channels")
	for i := range 32 / w.lanes() {
		x := w.vec()
		VCVTPH2PS(Mem{Base: v, Disp: int(w) / 2 * i}, x)
		VMOVUPS(x, Mem{Base: to, Disp: int(w) * i})
	}
	ADDQ(U8(64), v)
	ADDQ(panel, to)
	SUBQ(U8(32), left)
	JNZ(LabelRef("channels"))
	SUBQ(I8(-128), dst)
	DECQ(n)
	JNZ(LabelRef("token"))
	end()
}
