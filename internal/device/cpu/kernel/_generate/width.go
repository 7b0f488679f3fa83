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
	name += w.String()
	m, ok := constants[name]
	if !ok {
		m = GLOBL(name, RODATA|NOPTR)
		for i := range w.lanes() {
			DATA(4*i, U32(math.Float32bits(float32(f))))
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
