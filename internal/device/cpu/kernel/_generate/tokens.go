package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// tokensFamily scores the pages of a block by their tokens, in a few of the channels.
func tokensFamily() {
	for h := 1; h <= avx512.blockHeads(); h++ {
		pageTokens512(h)
	}
}

// tokensBase is the exponent that an integer product of no size gets: tokens may lie 190 octaves above their page's middle and 60 below it.
const tokensBase = 63

// pageTokens512 makes exponentials of products as newWeighing does: an integer, shifted to where a float's exponent stands, is the power of two but for a straight line between octaves. Their logarithm is drawn by the
// same line, so that a page of one token that counts has no error by it.
func pageTokens512(heads int) {
	w := avx512
	name := fmt.Sprintf("pageTokens%d", heads)
	w.begin(name, "(dst *float32, ld int, q *int8, qHead int, steps *float32, middles, codes, next *byte, pageBytes int, lines *int32, n int, room *byte)",
		fmt.Sprintf("is, for %d query heads, the 16 pages of a block, n ≥ 1 cache lines of codes, each given by where it stands in a page, and u a token's and m the page's codes there:", heads),
		"",
		"\tfor g := range heads {",
		"\t\tfor p := range 16 {",
		"\t\t\tfor t := range 16 {",
		"\t\t\t\tsum += 2^(float32(q[g*qHead:]·u - q[g*qHead:]·m) * steps[g] / 2^23)",
		"\t\t\t}",
		"\t\t\tdst[g*ld+p] += ln(sum) // to a tenth",
		"\t\t}",
		"\t}",
		"",
		"The same lines of next, the codes of the block that follows, are prefetched. room is scratch of 2560 bytes at a cache line.")
	const (
		quads = 512  // where quads of heads begin in room, behind the middles' products
		quad  = 1024 // bytes of one, 64 a page
	)
	q, qHead, room := arg("q"), arg("qHead"), arg("room")
	mask := w.splatBits(0x0f0f0f0f)
	acc := make([]VecVirtual, heads)
	qa := newStrides(GP64(), qHead, heads)
	// product adds the lines of a page to acc.
	product := func(label string, page, next GPVirtual) {
		list, left := arg("lines"), arg("n")
		Label(label)
		at := GP64()
		MOVLQSX(Mem{Base: list}, at)
		x := w.load(Mem{Base: page, Index: at, Scale: 1})
		if next != nil {
			PREFETCHT1(Mem{Base: next, Index: at, Scale: 1})
		}
		SHRQ(U8(3), at) // a byte of codes is two channels of one of 16 tokens
		LEAQ(Mem{Base: q, Index: at, Scale: 1}, qa.base)
		for i := range 2 {
			u := w.unpack(x, 4*i, mask)
			for g, a := range acc {
				VPDPBUSD_BCST(qa.at(g, 4*i), u, a)
			}
		}
		ADDQ(U8(4), list)
		DECQ(left)
		JNZ(LabelRef(label))
	}
	for g := range acc {
		acc[g] = w.zero(1)[0]
	}
	product("middles", arg("middles"), nil)
	zero, base := w.zero(1)[0], w.splat(tokensBase<<23)
	for g, a := range acc {
		VPSUBD(a, zero, a)
		VMOVDQU32(a, Mem{Base: room, Disp: 64 * g})
	}
	codes, next, middle, page := arg("codes"), arg("next"), GP64(), GP64()
	MOVQ(room, middle)
	LEAQ(Mem{Base: room, Disp: quads}, page)
	Label("page")
	for g, a := range acc {
		VPBROADCASTD(Mem{Base: middle, Disp: 64 * g}, a)
	}
	product("tokens", codes, next)
	steps := arg("steps")
	for g, y := range acc {
		VCVTDQ2PS(y, y)
		VFMADD132PS_BCST(Mem{Base: steps, Disp: 4 * g}, base, y)
		VCVTPS2DQ(y, y)     // beyond an integer it is the least one,
		VPMAXSD(zero, y, y) // which counts as nothing
	}
	both := func(a, b VecVirtual, low, high func(ops ...Op)) VecVirtual {
		x, y := w.vec(), w.vec()
		low(b, a, x)
		high(b, a, y)
		VADDPS(x, y, x)
		return x
	}
	for i := 0; i < heads; i += 4 { // sums of four lanes of four heads
		at := func(g int) VecVirtual { return acc[min(i+g, heads-1)] }
		ab := both(at(0), at(1), func(o ...Op) { VUNPCKLPS(o...) }, func(o ...Op) { VUNPCKHPS(o...) })
		cd := both(at(2), at(3), func(o ...Op) { VUNPCKLPS(o...) }, func(o ...Op) { VUNPCKHPS(o...) })
		VMOVUPS(both(ab, cd, func(o ...Op) { VUNPCKLPD(o...) }, func(o ...Op) { VUNPCKHPD(o...) }), Mem{Base: page, Disp: quad * i / 4})
	}
	ADDQ(NewParamAddr("pageBytes", 64), codes)
	ADDQ(NewParamAddr("pageBytes", 64), next)
	ADDQ(U8(4), middle)
	ADDQ(U8(64), page)
	TESTQ(U32(63), middle)
	JNZ(LabelRef("page"))

	dst, ld := arg("dst"), arg("ld")
	Load(Param("room"), room)
	SHLQ(U8(2), ld)
	per, off := w.splat(math.Ln2/(1<<23)), w.splat(-tokensBase*math.Ln2)
	shuffled := func(a, b VecVirtual, low, high uint8) VecVirtual {
		return both(a, b, func(o ...Op) { VSHUFF32X4(append([]Op{U8(low)}, o...)...) }, func(o ...Op) { VSHUFF32X4(append([]Op{U8(high)}, o...)...) })
	}
	for i := 0; i < heads; i += 4 {
		var sums [4]VecVirtual // of pages j, 4+j, 8+j and 12+j, four heads each
		for j := range sums {
			var v [4]VecVirtual
			for k := range v {
				v[k] = w.vec()
				VMOVUPS(Mem{Base: room, Disp: quads + quad*i/4 + 64*(4*k+j)}, v[k])
			}
			sums[j] = shuffled(shuffled(v[0], v[1], 0x44, 0xee), shuffled(v[2], v[3], 0x44, 0xee), 0x88, 0xdd)
		}
		var pairs [4]VecVirtual
		for j := range pairs {
			pairs[j] = w.vec()
		}
		VUNPCKLPS(sums[1], sums[0], pairs[0])
		VUNPCKHPS(sums[1], sums[0], pairs[1])
		VUNPCKLPS(sums[3], sums[2], pairs[2])
		VUNPCKHPS(sums[3], sums[2], pairs[3])
		for g := i; g < min(i+4, heads); g++ {
			y := w.vec()
			if g%2 == 0 {
				VUNPCKLPD(pairs[2+g%4/2], pairs[g%4/2], y)
			} else {
				VUNPCKHPD(pairs[2+g%4/2], pairs[g%4/2], y)
			}
			VCVTDQ2PS(y, y)
			VFMADD213PS(off, per, y)
			VADDPS(Mem{Base: dst}, y, y)
			VMOVUPS(y, Mem{Base: dst})
			if g+1 < heads {
				ADDQ(ld, dst)
			}
		}
	}
	end()
}
