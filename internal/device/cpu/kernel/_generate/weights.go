package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// weighing makes weights of logits in the registers that they were summed in, adds them up, and notes which a threshold search will look at. What comes in is a logarithm to base 2 above
// expBase, where a float's last bits count 2^-14: shifted to where an exponent stands, they are the power of two, with a straight line from one octave's end to the other's.
type weighing struct {
	v                 scan
	least, most       VecVirtual
	sum               []VecVirtual
	thresholds, lanes GPVirtual
}

// expBase is what stands for 2^-127, which is 0.
const expBase = 512

func (v scan) newWeighing() *weighing {
	w := &weighing{v: v, least: avx512.splat(expBase), most: avx512.splat(expBase + 254.9)}
	sums := arg("sums")
	for g := range v.heads {
		w.sum = append(w.sum, ZMM())
		VMOVUPS(Mem{Base: sums, Disp: 64 * g}, w.sum[g])
	}
	return w
}

// begin goes before the heads of a page.
func (w *weighing) begin() {
	w.thresholds, w.lanes = arg("least"), arg("lanes")
	ADDQ(U8(2), NewParamAddr("lanes", 120))
}

// take makes weights of head g's logits, in their place.
func (w *weighing) take(g int, y VecVirtual) {
	k, m := K(), GP32()
	VMINPS(w.most, y, y) // in this order NaN is the most
	VMAXPS(w.least, y, y)
	VPSLLD(U8(9), y, y)
	VADDPS(y, w.sum[g], w.sum[g])
	VCMPPS_BCST(U8(atLeast), Mem{Base: w.thresholds, Disp: 4 * g}, y, k)
	KMOVW(k, m)
	MOVW(m.As16(), Mem{Base: w.lanes})
}

// next goes from one head of a page to the next.
func (w *weighing) next() {
	stride := arg("lanesLD")
	LEAQ(Mem{Base: w.lanes, Index: stride, Scale: 2}, w.lanes)
}

// end writes the sums.
func (w *weighing) end() {
	sums := arg("sums")
	for g, x := range w.sum {
		VMOVUPS(x, Mem{Base: sums, Disp: 64 * g})
	}
}
