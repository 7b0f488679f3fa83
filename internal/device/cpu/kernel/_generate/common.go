package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// text begins a function. doc is the stub's comment: the loop that the function implements.
func text(name, signature string, frame int, doc ...string) {
	TEXT(name, NOSPLIT, "func"+signature)
	Pragma("noescape")
	Doc(doc...)
	if frame > 0 {
		AllocLocal(frame)
	}
}

// textStack begins a function whose frame is too large for the part of the stack that is always there.
func textStack(name, signature string, frame int, doc ...string) {
	text(name, signature, frame, doc...)
	Attributes(0)
}

// arg loads an integer or pointer argument into a fresh register.
func arg(name string) GPVirtual { r := GP64(); return Load(Param(name), r).(GPVirtual) }

// quads512 is a vector constant of eight 64-bit integers.
func quads512(name string, v ...uint64) VecVirtual {
	m := GLOBL(name, RODATA|NOPTR)
	for i, x := range v {
		DATA(8*i, U64(x))
	}
	z := ZMM()
	VMOVDQU64(m, z)
	return z
}

// mask16 is a mask of the low n lanes, n from 0 to 16 in a register.
func mask16(n Register) OpmaskVirtual {
	g, k := GP32(), K()
	MOVL(U32(0xffff), g)
	BZHIL(n.(GPVirtual).As32(), g, g)
	KMOVW(g, k)
	return k
}

// strides addresses base + i·stride for i in 0..7 with at most four registers beside the base.
type strides struct {
	base, s, s3, s5, s7 GPVirtual
}

func newStrides(base, stride GPVirtual, n int) strides {
	a := strides{base: base, s: stride}
	if n > 3 {
		a.s3 = GP64()
		LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, a.s3)
	}
	if n > 5 {
		a.s5 = GP64()
		LEAQ(Mem{Base: stride, Index: stride, Scale: 4}, a.s5)
	}
	if n > 7 {
		a.s7 = GP64()
		LEAQ(Mem{Base: a.s3, Index: stride, Scale: 4}, a.s7)
	}
	return a
}

func (a strides) at(i, disp int) Mem {
	switch i {
	case 0:
		return Mem{Base: a.base, Disp: disp}
	case 1, 2, 4:
		return Mem{Base: a.base, Index: a.s, Scale: uint8(i), Disp: disp}
	case 3:
		return Mem{Base: a.base, Index: a.s3, Scale: 1, Disp: disp}
	case 5:
		return Mem{Base: a.base, Index: a.s5, Scale: 1, Disp: disp}
	case 6:
		return Mem{Base: a.base, Index: a.s3, Scale: 2, Disp: disp}
	case 7:
		return Mem{Base: a.base, Index: a.s7, Scale: 1, Disp: disp}
	}
	panic(fmt.Sprintf("stride %d of 8", i))
}

// bytes repeats a constant of sixteen bytes in each 128-bit lane.
func (w width) bytes(name string, v ...byte) VecVirtual {
	m := GLOBL(name, RODATA|NOPTR)
	for i := range int(w) {
		DATA(i, U8(v[i%len(v)]))
	}
	z := w.vec()
	VMOVUPS(m, z)
	return z
}
