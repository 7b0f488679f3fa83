package tensor

import (
	"math"
	"math/bits"
)

// f16Table holds the float32 of every half: 256 KiB, built once, so that a conversion is one load.
var f16Table = func() *[1 << 16]float32 {
	t := new([1 << 16]float32)
	for i := range t {
		t[i] = f16Value(uint16(i))
	}
	return t
}()

// f16Value is IEEE 754 binary16 → binary32 by its definition: exact for every input, NaN payloads kept.
func f16Value(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp := uint32(h>>10) & 0x1f
	frac := uint32(h) & 0x3ff
	switch {
	case exp == 0x1f: // infinity and NaN
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	case exp != 0:
		return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
	case frac == 0:
		return math.Float32frombits(sign)
	}
	// A subnormal half is a normal float32: frac·2⁻²⁴, its leading one moved to the implicit place.
	lead := uint32(bits.Len32(frac)) - 1
	return math.Float32frombits(sign | (lead+127-24)<<23 | (frac<<(10-lead)&0x3ff)<<13)
}

// F16ToF32 is the float32 equal to the half h, subnormals, infinities and NaN included.
func F16ToF32(h uint16) float32 { return f16Table[h] }

// F32ToF16 is the half nearest to f, ties to even; beyond the largest half it is an infinity, and a NaN stays a (quiet) NaN.
func F32ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b >= 0x47800000: // 65536 and above, infinity, NaN
		if b > 0x7f800000 {
			return sign | 0x7e00 | uint16(b>>13)&0x3ff
		}
		return sign | 0x7c00
	case b >= 0x38800000: // a normal half: rebias, then round; a carry out of the fraction raises the exponent rightly
		return sign | uint16((b-0x38000000+0xfff+b>>13&1)>>13)
	}
	// A subnormal half counts units of 2⁻²⁴. Adding 2⁻¹ makes the float unit itself shift and round to even.
	return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
}

// BF16ToF32 is the float32 whose upper half is h.
func BF16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32ToBF16 is the bfloat16 nearest to f, ties to even; a NaN stays a (quiet) NaN.
func F32ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// F16sToF32s converts src to dst, which must be at least as long.
func F16sToF32s(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	for i, h := range src {
		dst[i] = f16Table[h]
	}
}

// F32sToF16s converts src to dst, which must be at least as long.
func F32sToF16s(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	for i, f := range src {
		dst[i] = F32ToF16(f)
	}
}

// BF16sToF32s converts src to dst, which must be at least as long.
func BF16sToF32s(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	for i, h := range src {
		dst[i] = BF16ToF32(h)
	}
}

// F32sToBF16s converts src to dst, which must be at least as long.
func F32sToBF16s(dst []uint16, src []float32) {
	dst = dst[:len(src)]
	for i, f := range src {
		dst[i] = F32ToBF16(f)
	}
}
