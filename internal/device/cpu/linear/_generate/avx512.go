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
	n            int
	w, x         GPVirtual
	mask         map[uint32]Op // in registers, or in memory where those run out
	zero, table  VecVirtual
	headD, headM VecVirtual
	acc          []VecVirtual // float sums
}

func quantAVX512(q quant, n int) {
	name := fmt.Sprintf("avx512%sx%d", q.name, n)
	TEXT(name, NOSPLIT, quantSignature)
	docQuant(name, q, n)
	Pragma("noescape")
	k := quantZ{quant: q, n: n, mask: map[uint32]Op{}}
	k.w = param("w")
	rows, blocks, x0, step, dst, stride, valid := param("rows"), param("blocks"), param("x"), param("step"), param("dst"), param("stride"), param("n")
	SHLQ(U8(2), stride)
	for _, m := range q.masks() {
		if n == 8 {
			k.mask[m] = maskData(m)
		} else {
			k.mask[m] = constantZ(m)
		}
	}
	if q.codes == "codes4NL" {
		k.table = ZMM()
		VBROADCASTI32X4(nonlinearData(128), k.table)
	}
	k.acc = zmms(n)
	k.x = GP64()
	ahead := GP64()
	if n >= prefetchFrom {
		Load(Param("ahead"), ahead)
	}
	recordBytes := q.scaleBytes() + q.codeBytes()
	left := GP64()
	counter("tile", rows, rowTile, func() {
		mask := rowMask(rows)
		k.zero = constantZ(0)
		k.clear(k.acc...)
		MOVQ(x0, k.x)
		MOVQ(blocks, left)
		record := func() {
			if n >= prefetchFrom {
				prefetch(Mem{Base: k.w, Disp: 2 * recordBytes}, recordBytes)
				prefetch(Mem{Base: k.x, Disp: 2 * n * actBytes}, n*actBytes)
				for i := 0; i < recordBytes; i += 64 {
					PREFETCHT1(Mem{Base: k.w, Index: ahead, Scale: 1, Disp: i})
				}
			}
			k.record()
			ADDQ(I32(recordBytes), k.w)
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
		addPlanes(k.acc)
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

// scale loads the record's float scale of a part of its columns.
func (k *quantZ) scale(part int) VecVirtual {
	z, at := ZMM(), func(disp int) Mem { return Mem{Base: k.w, Disp: disp} }
	switch k.scales {
	case "scaleD", "scaleDM":
		VCVTPH2PS(at(0), z)
		return z
	case "scaleK":
		VPMOVZXBD(at(0), z)
	case "scaleKS", "scaleK16":
		VPMOVSXBD(at(16*part), z)
	case "scaleK16M":
		VPMOVZXBD(at(16*part), z)
		and(k.mask[15], z, z)
	}
	return times(k.headD, z)
}

// minimum loads the record's float minimum of a part of its columns.
func (k *quantZ) minimum(part int) VecVirtual {
	z, at := ZMM(), func(disp int) Mem { return Mem{Base: k.w, Disp: disp} }
	switch k.scales {
	case "scaleDM":
		VCVTPH2PS(at(32), z)
		return z
	case "scaleK":
		VPMOVZXBD(at(16), z)
	case "scaleK16M":
		VPMOVZXBD(at(16*part), z)
		VPSRLD(U8(4), z, z)
	}
	return times(k.headM, z)
}

// and sets dst to src under mask, a register or a 32-bit pattern in memory.
func and(mask Op, src, dst VecVirtual) {
	if _, ok := mask.(Mem); ok {
		VPANDD_BCST(mask, src, dst)
	} else {
		VPANDD(mask, src, dst)
	}
}

// group makes the unsigned codes of group g.
func (k *quantZ) group(g int) VecVirtual {
	at := func(word int) Mem { return Mem{Base: k.w, Disp: k.scaleBytes() + 64*word} }
	c := ZMM()
	switch k.codes {
	case "codes8":
		VMOVDQU32(at(g), c)
	case "codes2", "codes3":
		k.field(at(g/4), c, -2*(g%4), 0x03030303)
		if k.codes == "codes3" {
			k.insert(at(2), c, 2-g, 0x04040404)
		}
	case "codes4", "codes4NL":
		k.field(at(g%4), c, -4*(g/4), 0x0f0f0f0f)
		if k.codes == "codes4NL" {
			VPSHUFB(c, k.table, c)
		}
	default:
		words, tops := k.topped()
		if g < words {
			k.field(at(g), c, 0, lane1*(1<<words-1))
			break
		}
		first := true
		for _, t := range tops {
			if t.group != g {
				continue
			}
			if shift := t.to - t.at; first {
				k.field(at(t.word), c, shift, t.mask())
				first = false
			} else {
				k.insert(at(t.word), c, shift, t.mask()<<t.to)
			}
		}
	}
	return c
}

// field sets dst to the bits of src under mask, after a shift to the left (to the right where negative).
func (k *quantZ) field(src Mem, dst VecVirtual, shift int, mask uint32) {
	shiftZ(src, dst, shift)
	and(k.mask[mask], dst, dst)
}

// insert ors such a field into dst.
func (k *quantZ) insert(src Mem, dst VecVirtual, shift int, mask uint32) {
	z := ZMM()
	shiftZ(src, z, shift)
	const orAnd = 0xf8 // dst | z & mask
	if m, ok := k.mask[mask].(Mem); ok {
		VPTERNLOGD_BCST(U8(orAnd), m, z, dst)
	} else {
		VPTERNLOGD(U8(orAnd), k.mask[mask], z, dst)
	}
}

// shiftZ loads src, shifted to the left, or to the right where shift is negative. Bits that cross bytes are for a mask to remove.
func shiftZ(src Mem, dst VecVirtual, shift int) {
	switch {
	case shift < 0:
		VPSRLW(U8(-shift), src, dst)
	case shift > 0:
		VPSLLW(U8(shift), src, dst)
	default:
		VMOVDQU32(src, dst)
	}
}

// record multiplies one record with one block of each activation row.
func (k *quantZ) record() {
	parts := 1
	if k.halves() {
		parts = 2
	}
	// A dot product is a chain of dependent instructions: with few rows, several chains for each hide the latency.
	chains := max(1, 4/(k.n*parts))
	at := func(row, disp int) Mem { return Mem{Base: k.x, Disp: row*actBytes + disp} }
	values := make([]VecVirtual, k.n)
	for p := range parts {
		dots := make([][]VecVirtual, k.n)
		for row := range dots {
			dots[row] = zmms(chains)
			if k.shift == 0 {
				k.clear(dots[row]...)
				continue
			}
			k.clear(dots[row][1:]...)
			neg := actNeg
			if k.halves() {
				neg = actNeg16 + 4*p
			}
			VPSLLD_BCST(U8(k.shift), at(row, neg), dots[row][0])
		}
		for j := range 8 / parts {
			g := 8/parts*p + j
			code := k.group(g)
			for row := range dots {
				VPDPBUSD_BCST(at(row, 4*g), code, dots[row][j%chains])
			}
		}
		d := k.scale(p)
		for row, dot := range dots {
			for s := chains / 2; s > 0; s /= 2 {
				for i := range s {
					VPADDD(dot[i+s], dot[i], dot[i])
				}
			}
			VCVTDQ2PS(dot[0], dot[0])
			VMULPS(d, dot[0], dot[0])
			if p == 0 {
				values[row] = dot[0]
			} else {
				VADDPS(dot[0], values[row], values[row])
			}
		}
	}
	k.addMinima(values, at)
	for row, v := range values {
		VMULPS_BCST(at(row, actScale), v, v)
		VADDPS(v, k.acc[row], k.acc[row])
	}
}

// addMinima adds what the minima contribute.
func (k *quantZ) addMinima(values []VecVirtual, at func(row, disp int) Mem) {
	switch k.scales {
	case "scaleDM", "scaleK":
		m := k.minimum(0)
		for row, v := range values {
			t := ZMM()
			VMULPS_BCST(at(row, actSum), m, t)
			if k.scales == "scaleK" {
				VSUBPS(t, v, v)
			} else {
				VADDPS(t, v, v)
			}
		}
	case "scaleK16M":
		m := []VecVirtual{k.minimum(0), k.minimum(1)}
		for row, v := range values {
			t := zmms(2)
			for p := range t {
				VCVTDQ2PS_BCST(at(row, actNeg16+4*p), t[p])
				VMULPS(m[p], t[p], t[p])
			}
			VADDPS(t[1], t[0], t[0])
			VADDPS(t[0], v, v) // the sums are negated already
		}
	}
}
