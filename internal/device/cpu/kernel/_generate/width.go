package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// width is an instruction set by its vector size in bytes. A kernel that is written once for both says where they differ.
type width int

const (
	avx512 width = 64
	avx2   width = 32
)

var widths = []width{avx512, avx2}

// String is the suffix of a routine's name.
func (w width) String() string { return map[width]string{avx512: "AVX512", avx2: "AVX2"}[w] }

// lanes is the number of float32 in a vector.
func (w width) lanes() int { return int(w) / 4 }

// vec is a fresh vector register.
func (w width) vec() VecVirtual {
	if w == avx512 {
		return ZMM()
	}
	return YMM()
}

// zero is n registers of zeros.
func (w width) zero(n int) []VecVirtual {
	z := make([]VecVirtual, n)
	for i := range z {
		z[i] = w.vec()
		VXORPS(z[i], z[i], z[i])
	}
	return z
}

// splat sets every lane to a constant.
func (w width) splat(f float64) VecVirtual { return w.splatBits(math.Float32bits(float32(f))) }

func (w width) splatBits(u uint32) VecVirtual {
	g, v := GP32(), w.vec()
	MOVL(U32(u), g)
	if w == avx512 {
		VPBROADCASTD(g, v)
		return v
	}
	x := XMM()
	VMOVD(g, x)
	VPBROADCASTD(x, v)
	return v
}

// spread sets every lane to the float32 argument at the given offset.
func (w width) spread(name string, offset int) VecVirtual {
	v := w.vec()
	VBROADCASTSS(NewParamAddr(name, offset), v)
	return v
}

// memory is a constant in every lane, in memory: where registers are short.
func (w width) memory(name string, f float64) Mem {
	return w.memoryBits(name, math.Float32bits(float32(f)))
}

func (w width) memoryBits(name string, u uint32) Mem {
	name += w.String()
	m, ok := constants[name]
	if !ok {
		m = GLOBL(name, RODATA|NOPTR)
		for i := range w.lanes() {
			DATA(4*i, U32(u))
		}
		constants[name] = m
	}
	return m
}

var constants = map[string]Mem{}

// begin begins a routine of this instruction set; its comment is the name and doc.
func (w width) begin(name, signature string, doc ...string) {
	name += w.String()
	text(name, signature, 0, append([]string{name + " " + doc[0]}, doc[1:]...)...)
}

// parts is the number of vectors that 16 float32 fill.
func (w width) parts() int { return 16 / w.lanes() }

// fma adds x times the float32 at m to acc.
func (w width) fma(m Mem, x, acc VecVirtual) {
	if w == avx512 {
		VFMADD231PS_BCST(m, x, acc)
		return
	}
	f := w.vec()
	VBROADCASTSS(m, f)
	VFMADD231PS(f, x, acc)
}

// mul sets dst to x times the float32 at m.
func (w width) mul(m Mem, x, dst VecVirtual) {
	if w == avx512 {
		VMULPS_BCST(m, x, dst)
		return
	}
	f := w.vec()
	VBROADCASTSS(m, f)
	VMULPS(f, x, dst)
}

// and joins integers, x a register or memory.
func (w width) and(x Op, y, dst VecVirtual) {
	if w == avx512 {
		VPANDD(x, y, dst)
	} else {
		VPAND(x, y, dst)
	}
}

// over is to/x where x > 0, else 0.
func (w width) over(to float64, x VecVirtual) VecVirtual {
	const greater = 0x0e
	zero, inv := w.zero(1)[0], w.vec()
	if w == avx512 {
		k := K()
		VCMPPS(U8(greater), zero, x, k)
		VDIVPS_Z(x, w.splat(to), k, inv)
		return inv
	}
	VCMPPS(U8(greater), zero, x, zero)
	VDIVPS(x, w.splat(to), inv)
	VANDPS(zero, inv, inv)
	return inv
}

func end() {
	VZEROUPPER()
	RET()
}

// mask is the low n lanes, n ≥ 1 in a register, all of them where n is larger.
func (w width) mask(n GPVirtual) Register {
	lanes := GP64()
	MOVQ(U32(w.lanes()), lanes)
	CMPQ(n, lanes)
	CMOVQLT(n, lanes)
	if w == avx512 {
		return mask16(lanes)
	}
	table, v := GP64(), YMM()
	LEAQ(signTable(), table)
	SHLQ(U8(2), lanes)
	SUBQ(lanes, table)
	VMOVUPS(Mem{Base: table, Disp: 32}, v)
	return v
}

// signTable is eight lanes of ones, then eight of zeros.
func signTable() Mem {
	if !haveSignTable {
		haveSignTable = true
		signs = GLOBL("signs", RODATA|NOPTR)
		for i := range 16 {
			v := uint32(math.MaxUint32)
			if i >= 8 {
				v = 0
			}
			DATA(4*i, U32(v))
		}
	}
	return signs
}

var (
	haveSignTable bool
	signs         Mem
)
