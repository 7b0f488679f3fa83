package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func generateAVX512() {
	for _, q := range quants {
		for _, n := range []int{1, 2, 4, 8} {
			quantAVX512(q, n)
		}
	}
	for _, t := range []string{"F16", "BF16", "F32"} {
		for _, n := range []int{1, 2, 4, 8} {
			floatAVX512(t, n)
		}
	}

}

// zmms allocates n registers.
func zmms(n int) []VecVirtual {
	z := make([]VecVirtual, n)
	for i := range z {
		z[i] = ZMM()
	}
	return z
}

// clear zeroes registers by copying one that is zero: a rename, no operation, and avo sees that z is not read.
func (k *quantZ) clear(z ...VecVirtual) {
	for _, r := range z {
		VMOVDQA32(k.zero, r)
	}
}

// constant broadcasts a 32-bit pattern.
func constantZ(v uint32) VecVirtual {
	g, z := GP32(), ZMM()
	MOVL(U32(v), g)
	VPBROADCASTD(g, z)
	return z
}

// rowMask sets a lane for each of the rows left, 16 at most.
func rowMask(rows GPVirtual) OpmaskVirtual {
	all, k := GP64(), K()
	MOVL(U32(0xffff), all.As32())
	// BZHI looks at eight bits of its index only.
	left := GP64()
	MOVQ(U32(rowTile), left)
	CMPQ(rows, left)
	CMOVQLT(rows, left)
	BZHIQ(left, all, all)
	KMOVW(all.As32(), k)
	return k
}

// quantZ is one kernel in the making: 16 rows in the lanes, n activation rows.
type quantZ struct {
	quant
	n           int
	w, x        GPVirtual
	mask        map[uint32]VecVirtual
	zero, table VecVirtual
	headD       VecVirtual
	headM       VecVirtual
	d, m        []VecVirtual // scales of the record, one each or one for each half of the columns
	code        []VecVirtual // eight groups
	acc         []VecVirtual // float sums
}

func quantAVX512(q quant, n int) {
	name := fmt.Sprintf("avx512%sx%d", q.name, n)
	TEXT(name, NOSPLIT, quantSignature)
	docQuant(name, q, n)
	Pragma("noescape")
	k := quantZ{quant: q, n: n, mask: map[uint32]VecVirtual{}}
	k.w = param("w")
	rows, blocks, x0, step, dst, stride, valid := param("rows"), param("blocks"), param("x"), param("step"), param("dst"), param("stride"), param("n")
	SHLQ(U8(2), stride)
	for _, m := range k.masks() {
		k.mask[m] = constantZ(m)
	}
	if q.codes == "codes4NL" {
		k.table = ZMM()
		VBROADCASTI32X4(nonlinearData(128), k.table)
	}
	k.acc = zmms(n)
	k.zero = constantZ(0)
	k.x = GP64()
	left := GP64()
	counter("tile", rows, rowTile, func() {
		mask := rowMask(rows)
		k.clear(k.acc...)
		MOVQ(x0, k.x)
		MOVQ(blocks, left)
		record := func() {
			k.record()
			ADDQ(I32(q.scaleBytes()+q.codeBytes()), k.w)
			ADDQ(step, k.x)
		}
		if q.headBytes() == 0 {
			counter("block", left, 1, record)
		} else {
			counter("super", left, 8, func() {
				k.head()
				ADDQ(I32(q.headBytes()), k.w)
				eight := GP64()
				MOVQ(U32(8), eight)
				counter("block", eight, 1, record)
			})
		}
		out := GP64()
		MOVQ(dst, out)
		for i, a := range k.acc {
			if i > 0 {
				CMPQ(valid, I8(i))
				JLE(LabelRef("stored"))
			}
			VMOVUPS(a, mask, Mem{Base: out})
			if i < n-1 {
				ADDQ(stride, out)
			}
		}
		Label("stored")
		ADDQ(I32(4*rowTile), dst)
	})
	VZEROUPPER()
	RET()
}

// masks are the constants that taking the codes apart needs.
func (k *quantZ) masks() []uint32 {
	switch k.codes {
	case "codes2":
		m := []uint32{0x03030303}
		return append(m, 15)
	case "codes3":
		return []uint32{0x03030303, 0x04040404}
	case "codes5":
		return []uint32{0x0f0f0f0f, 0x10101010}
	case "codes6":
		return []uint32{0x0f0f0f0f, 0x30303030}
	case "codes8":
		return nil
	}
	return []uint32{0x0f0f0f0f}
}

// head loads the float16 scales of 256 columns.
func (k *quantZ) head() {
	k.headD = ZMM()
	VCVTPH2PS(Mem{Base: k.w}, k.headD)
	if k.hasMin() {
		k.headM = ZMM()
		VCVTPH2PS(Mem{Base: k.w, Disp: 32}, k.headM)
	}
}

// times is the product of a head's scale and small integers in a register.
func times(head, ints VecVirtual) VecVirtual {
	VCVTDQ2PS(ints, ints)
	VMULPS(head, ints, ints)
	return ints
}

// loadScales makes the record's float scales.
func (k *quantZ) loadScales() {
	at := func(disp int) Mem { return Mem{Base: k.w, Disp: disp} }
	half := func(disp int) VecVirtual {
		z := ZMM()
		VCVTPH2PS(at(disp), z)
		return z
	}
	signed := func(disp int) VecVirtual {
		z := ZMM()
		VPMOVSXBD(at(disp), z)
		return times(k.headD, z)
	}
	k.d, k.m = nil, nil
	switch k.scales {
	case "scaleD":
		k.d = []VecVirtual{half(0)}
	case "scaleDM":
		k.d, k.m = []VecVirtual{half(0)}, []VecVirtual{half(32)}
	case "scaleK":
		d, m := ZMM(), ZMM()
		VPMOVZXBD(at(0), d)
		VPMOVZXBD(at(16), m)
		k.d, k.m = []VecVirtual{times(k.headD, d)}, []VecVirtual{times(k.headM, m)}
	case "scaleKS":
		k.d = []VecVirtual{signed(0)}
	case "scaleK16":
		k.d = []VecVirtual{signed(0), signed(16)}
	case "scaleK16M":
		for _, disp := range []int{0, 16} {
			d, m := ZMM(), ZMM()
			VPMOVZXBD(at(disp), d)
			VPSRLD(U8(4), d, m)
			VPANDD(k.mask[15], d, d)
			k.d, k.m = append(k.d, times(k.headD, d)), append(k.m, times(k.headM, m))
		}
	}
}

// loadCodes fills k.code with eight registers of unsigned bytes.
func (k *quantZ) loadCodes() {
	at := func(word int) Mem { return Mem{Base: k.w, Disp: k.scaleBytes() + 64*word} }
	k.code = zmms(8)
	switch k.codes {
	case "codes8":
		for g, c := range k.code {
			VMOVDQU32(at(g), c)
		}
	case "codes2", "codes3":
		for half := range 2 {
			for j := range 4 {
				k.field(at(half), k.code[4*half+j], -2*j, 0x03030303)
			}
		}
		if k.codes == "codes3" {
			k.insert(at(2), k.code, 1, 2, 0x04040404)
		}
	default:
		for j := range 4 {
			k.field(at(j), k.code[j], 0, 0x0f0f0f0f)
			k.field(at(j), k.code[j+4], -4, 0x0f0f0f0f)
		}
		switch k.codes {
		case "codes5":
			k.insert(at(4), k.code, 1, 4, 0x10101010)
		case "codes6":
			k.insert(at(4), k.code[:4], 2, 4, 0x30303030)
			k.insert(at(5), k.code[4:], 2, 4, 0x30303030)
		case "codes4NL":
			for _, c := range k.code {
				VPSHUFB(c, k.table, c)
			}
		}
	}
}

// field sets dst to the bits of src under mask, after a shift to the left (to the right where negative).
func (k *quantZ) field(src Op, dst VecVirtual, shift int, mask uint32) {
	if shift == 0 {
		VPANDD(src, k.mask[mask], dst)
		return
	}
	shiftZ(src, dst, shift)
	VPANDD(k.mask[mask], dst, dst)
}

func shiftZ(src Op, dst VecVirtual, shift int) {
	if shift < 0 {
		VPSRLW(U8(-shift), src, dst)
	} else {
		VPSLLW(U8(shift), src, dst)
	}
}

// insert ors into the j-th of codes the field of src that starts at bit j·width, moved to bit to.
func (k *quantZ) insert(src Mem, codes []VecVirtual, width, to int, mask uint32) {
	h := ZMM()
	VMOVDQU32(src, h)
	for j, c := range codes {
		field := h
		if shift := to - j*width; shift != 0 {
			field = ZMM()
			shiftZ(h, field, shift)
		}
		VPTERNLOGD(U8(0xf8), k.mask[mask], field, c) // c | field & mask
	}
}

// record multiplies one record with one block of each activation row.
func (k *quantZ) record() {
	k.loadScales()
	k.loadCodes()
	parts := 1
	if k.halves() {
		parts = 2
	}
	batch := min(k.n, 4/parts) // four chains of dot products at once hide their latency
	for i := 0; i < k.n; i += batch {
		at := func(row, disp int) Mem { return Mem{Base: k.x, Disp: (i+row)*actBytes + disp} }
		dots := make([][]VecVirtual, batch)
		for row := range dots {
			dots[row] = zmms(parts)
			for p, z := range dots[row] {
				switch {
				case k.shift == 0:
					k.clear(z)
				case k.halves():
					VPSLLD_BCST(U8(k.shift), at(row, actNeg16+4*p), z)
				default:
					VPSLLD_BCST(U8(k.shift), at(row, actNeg), z)
				}
			}
		}
		for j := range 8 / parts {
			for row := range dots {
				for p, z := range dots[row] {
					g := p*4 + j
					VPDPBUSD_BCST(at(row, 4*g), k.code[g], z)
				}
			}
		}
		for row, dot := range dots {
			v := dot[0]
			for p, z := range dot {
				VCVTDQ2PS(z, z)
				VMULPS(k.d[p], z, z)
			}
			if k.halves() {
				VADDPS(dot[1], v, v)
			}
			k.addMin(v, func(disp int) Mem { return at(row, disp) })
			VMULPS_BCST(at(row, actScale), v, v)
			VADDPS(v, k.acc[i+row], k.acc[i+row])
		}
	}
}

// addMin adds what the minima contribute.
func (k *quantZ) addMin(v VecVirtual, at func(disp int) Mem) {
	switch k.scales {
	case "scaleDM", "scaleK":
		t := ZMM()
		VMULPS_BCST(at(actSum), k.m[0], t)
		if k.scales == "scaleK" {
			VSUBPS(t, v, v)
		} else {
			VADDPS(t, v, v)
		}
	case "scaleK16M":
		t := zmms(2)
		for p := range t {
			VCVTDQ2PS_BCST(at(actNeg16+4*p), t[p])
			VMULPS(k.m[p], t[p], t[p])
		}
		VADDPS(t[1], t[0], t[0])
		VADDPS(t[0], v, v) // the sums are negated already
	}
}
