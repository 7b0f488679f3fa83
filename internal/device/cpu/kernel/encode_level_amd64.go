//go:build !noasm

package kernel

// encode is the machine code that fills planes, with AVX-512 or with AVX2. It is called by name, not through pointers as other routines are: the compiler then
// sees that scratch need not leave the stack.
type encode bool

func (wide encode) widenBounds(lo, hi, k *uint16, dim, n int) {
	if wide {
		widenBoundsAVX512(lo, hi, k, dim, n)
	} else {
		widenBoundsAVX2(lo, hi, k, dim, n)
	}
}

func (wide encode) pageRanges(zero, inv *float32, k *uint16, dim int, top float32) {
	if wide {
		pageRangesAVX512(zero, inv, k, dim, top)
	} else {
		pageRangesAVX2(zero, inv, k, dim, top)
	}
}

func (wide encode) tokenRanges(zero, inv *float32, scale, low, k *uint16, dim, n int) {
	if wide {
		tokenRangesAVX512(zero, inv, scale, low, k, dim, n)
	} else {
		tokenRangesAVX2(zero, inv, scale, low, k, dim, n)
	}
}

func (wide encode) pageCodes(runs *byte, k *uint16, dim int, zero, inv *float32, n int, top float32) {
	if wide {
		pageCodesAVX512(runs, k, dim, zero, inv, n, top)
	} else {
		pageCodesAVX2(runs, k, dim, zero, inv, n, top)
	}
}

func (wide encode) tokenCodes(runs *byte, k *uint16, dim int, zero, inv *float32, n int, top float32) {
	if wide {
		tokenCodesAVX512(runs, k, dim, zero, inv, n, top)
	} else {
		tokenCodesAVX2(runs, k, dim, zero, inv, n, top)
	}
}

// fold packs byte codes to 1, 2 or 4 bits.
func (wide encode) fold(bits int, dst, runs *byte, n int) {
	switch {
	case bits == 1 && bool(wide):
		fold1AVX512(dst, runs, n)
	case bits == 1:
		fold1AVX2(dst, runs, n)
	case bits == 2 && bool(wide):
		fold2AVX512(dst, runs, n)
	case bits == 2:
		fold2AVX2(dst, runs, n)
	case bool(wide):
		fold4AVX512(dst, runs, n)
	default:
		fold4AVX2(dst, runs, n)
	}
}

// foldHigh packs the high two bits of codes of three.
func (wide encode) foldHigh(dst, runs *byte, n int) {
	if wide {
		fold2of3AVX512(dst, runs, n)
	} else {
		fold2of3AVX2(dst, runs, n)
	}
}

func (wide encode) sumRows(sum *float32, v *uint16, dim, n int) {
	if wide {
		sumRowsAVX512(sum, v, dim, n)
	} else {
		sumRowsAVX2(sum, v, dim, n)
	}
}
