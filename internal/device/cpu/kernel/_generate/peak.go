package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// peakFamily measures what the machine can do at all: the roofline beside every table.
func peakFamily() {
	for _, w := range widths {
		w.read()
	}
	for _, w := range widths {
		w.peak("fmaPeak", fmt.Sprintf("fused multiply-adds of %d float32", w.lanes()), VFMADD231PS)
	}
	avx512.peak("vnniPeak", "VPDPBUSD of 64 bytes", VPDPBUSD)
}

const peakChains = 12

func (w width) peak(name, what string, op func(...Op)) {
	w.begin(name, "(n int)", fmt.Sprintf("does n × %d %s, in independent chains.", peakChains, what))
	n := arg("n")
	acc, x := w.zero(peakChains), w.zero(2)
	Label("again")
	for _, z := range acc {
		op(x[0], x[1], z)
	}
	DECQ(n)
	JG(LabelRef("again"))
	end()
}

func (w width) read() {
	w.begin("read", "(p *byte, n int) uint64", "reads p[:n], n a multiple of 512, and returns the sum of its 64-bit words, so that no load can be left out.")
	p, n := arg("p"), arg("n")
	sum := w.zero(8)
	TESTQ(n, n)
	JZ(LabelRef("end"))
	Label("read")
	for i := range 512 / int(w) {
		z := sum[i%len(sum)]
		VPADDQ(Mem{Base: p, Disp: int(w) * i}, z, z)
	}
	ADDQ(U32(512), p)
	SUBQ(U32(512), n)
	JNZ(LabelRef("read"))
	Label("end")
	z := fold(sum, VPADDQ)
	x := XMM()
	if w == avx512 {
		y := YMM()
		VEXTRACTI64X4(U8(1), z, y)
		VPADDQ(y, z.AsY(), z.AsY())
		VEXTRACTI64X2(U8(1), z.AsY(), x)
	} else {
		VEXTRACTI128(U8(1), z, x)
	}
	VPADDQ(x, z.AsX(), z.AsX())
	VPSRLDQ(U8(8), z.AsX(), x)
	VPADDQ(x, z.AsX(), z.AsX())
	g := GP64()
	VMOVQ(z.AsX(), g)
	Store(g, ReturnIndex(0))
	end()
}
