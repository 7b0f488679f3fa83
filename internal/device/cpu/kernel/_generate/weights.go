package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// weighing makes weights of logits in the registers that they were summed in, adds them up, and notes which a threshold search will look at. A logarithm to base 2 above expBase is a float whose last
// bits count 2^-14: shifted to where an exponent stands, they are the power of two, with a straight line from one octave's end to the other's. What is beyond a float sets bits in the logarithm that others
// do not have; all logarithms are joined to see that.
type weighing struct {
	v                 scan
	least, any        VecVirtual
	sum               []VecVirtual
	thresholds, lanes GPVirtual
	other             VecVirtual // a head's logarithms that wait for the next head's to be joined
}

// expBase is what stands for 2^-127, which is 0. Logarithms from it to expBase+255 have no bits but expBits.
const (
	expBase = 512
	expBits = 0x443fffff
)

// mapAt is where in the frame the map of head g begins that makes logarithms of products.
func mapAt(g int) Mem { return NewStackAddr(16 * g) }

// frameBytes is the frame that the maps need.
func (v scan) frameBytes() int {
	if !v.weigh {
		return 0
	}
	return (v.heads + 3) / 4 * 64
}

func (v scan) newWeighing() *weighing {
	w := &weighing{v: v, least: avx512.splat(expBase), any: avx512.zero(1)[0]}
	affine, bases, scale := arg("affine"), arg("bases"), avx512.splat(math.Log2E)
	for g := 0; g < v.heads; g += 4 {
		lanes, x := GP64(), ZMM()
		MOVQ(U32(min(4*(v.heads-g), 16)), lanes)
		k := mask16(lanes)
		VMOVUPS_Z(Mem{Base: affine, Disp: 16 * g}, k, x)
		VFMADD213PS_Z(Mem{Base: bases, Disp: 16 * g}, scale, k, x)
		VMOVUPS(x, mapAt(g))
	}
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
	ADDQ(U8(2), NewParamAddr("lanes", 128))
}

// take makes weights of head g's logits, in their place.
func (w *weighing) take(g int, y VecVirtual) {
	const or = 0xfe
	k, m := K(), GP32()
	VMAXPS(y, w.least, y) // in this order NaN stays
	switch {
	case w.other != nil:
		VPTERNLOGD(U8(or), y, w.other, w.any)
		w.other = nil
	case g+1 < w.v.heads:
		w.other = ZMM()
		VMOVDQA32(y, w.other)
	default:
		VPORD(y, w.any, w.any)
	}
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

// end writes the sums; infinity for all heads where an element is beyond a float, or no number.
func (w *weighing) end() {
	k := K()
	VPTESTMD(avx512.splatBits(math.MaxUint32&^expBits), w.any, k)
	infinity, all := avx512.splat(math.Inf(1)), GP32()
	KMOVW(k, all)
	NEGL(all)
	SBBL(all, all) // ones if any
	KMOVW(all, k)
	sums := arg("sums")
	for g, x := range w.sum {
		VMOVAPS(infinity, k, x)
		VMOVUPS(x, Mem{Base: sums, Disp: 64 * g})
	}
}
