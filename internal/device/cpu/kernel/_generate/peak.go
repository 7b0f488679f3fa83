package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// peakFamily measures what the machine can do at all: the roofline beside every table.
func peakFamily() {
	text("readAVX512", "(p *byte, n int) uint64", 0,
		"readAVX512 reads p[:n], n a multiple of 512, and returns the sum of its 64-bit words, so that no load can be left out.")
	p, n := arg("p"), arg("n")
	sum := zero512(8)
	TESTQ(n, n)
	JZ(LabelRef("end"))
	Label("read")
	for i, z := range sum {
		VPADDQ(Mem{Base: p, Disp: 64 * i}, z, z)
	}
	ADDQ(U32(512), p)
	SUBQ(U32(512), n)
	JNZ(LabelRef("read"))
	Label("end")
	z := fold512(sum, VPADDQ)
	y, x := YMM(), XMM()
	VEXTRACTI64X4(U8(1), z, y)
	VPADDQ(y, z.AsY(), z.AsY())
	VEXTRACTI64X2(U8(1), z.AsY(), x)
	VPADDQ(x, z.AsX(), z.AsX())
	VPSRLDQ(U8(8), z.AsX(), x)
	VPADDQ(x, z.AsX(), z.AsX())
	g := GP64()
	VMOVQ(z.AsX(), g)
	Store(g, ReturnIndex(0))
	VZEROUPPER()
	RET()

	peak512("fmaPeakAVX512", "fused multiply-adds of 16 float32", VFMADD231PS)
	peak512("vnniPeakAVX512", "VPDPBUSD of 64 bytes", VPDPBUSD)
}

func peak512(name, what string, op func(...Op)) {
	text(name, "(n int)", 0, name+" does n × 16 "+what+", in 16 independent chains.")
	n := arg("n")
	acc, x := zero512(16), zero512(2)
	Label("again")
	for _, z := range acc {
		op(x[0], x[1], z)
	}
	DECQ(n)
	JG(LabelRef("again"))
	VZEROUPPER()
	RET()
}
