package tensor

import (
	"fmt"
	"math"
	"slices"
)

// blockEncoder encodes one block of its type: x has BlockLen finite elements, y has BlockBytes bytes.
type blockEncoder func(y []byte, x []float32)

var encoders = map[Type]blockEncoder{
	Q4_0: encodeQ4_0, Q4_1: encodeQ4_1, Q5_0: encodeQ5_0, Q5_1: encodeQ5_1, Q8_0: encodeQ8_0,
	Q2_K: encodeQ2_K, Q3_K: encodeQ3_K, Q4_K: encodeQ4_K, Q5_K: encodeQ5_K, Q6_K: encodeQ6_K, Q8_K: encodeQ8_K,
	IQ4_NL: encodeIQ4_NL, IQ4_XS: encodeIQ4_XS,
}

// maxHalf is the largest half. Blocks scale by halves, so it bounds what they can hold.
const maxHalf = 65504

// Encode quantises src into dst, whole blocks of t; sizes must agree. Block formats take finite values of at most 65504, the
// largest half. Formats whose encoder needs a codebook search or calibration data (most of the IQ family), or that only carry
// activations, give an error with their name. Converters and tests call it; it favours clarity and quality over speed.
func Encode(t Type, dst []byte, src []float32) error {
	want, err := RowBytes(t, len(src))
	if err != nil {
		return err
	}
	if want != len(dst) {
		return fmt.Errorf("tensor: encoding %d elements as %s: found room for %d bytes, expected %d", len(src), t, len(dst), want)
	}
	switch t {
	case F32:
		for i, x := range src {
			le.PutUint32(dst[4*i:], math.Float32bits(x))
		}
		return nil
	case F16:
		for i, x := range src {
			le.PutUint16(dst[2*i:], F32ToF16(x))
		}
		return nil
	case BF16:
		for i, x := range src {
			le.PutUint16(dst[2*i:], F32ToBF16(x))
		}
		return nil
	}
	encode, ok := encoders[t]
	if !ok {
		return fmt.Errorf("tensor: encoding as %s is not supported", t)
	}
	if i := slices.IndexFunc(src, func(x float32) bool { return !(abs(x) <= maxHalf) }); i >= 0 {
		return fmt.Errorf("tensor: encoding as %s: element %d is %g, expected at most ±%d", t, i, src[i], maxHalf)
	}
	block, size := t.BlockLen(), t.BlockBytes()
	for ; len(src) > 0; dst, src = dst[size:], src[block:] {
		encode(dst[:size:size], src[:block:block])
	}
	return nil
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// widest is the element with the largest magnitude, its sign kept.
func widest(x []float32) (w float32) {
	for _, v := range x {
		if abs(v) > abs(w) {
			w = v
		}
	}
	return w
}

// inverse is 1/x, 0 for 0: a block of zeros has scale 0 and codes of 0.
func inverse(x float32) float32 {
	if x == 0 {
		return 0
	}
	return 1 / x
}

// round is the integer nearest to x, ties away from zero, kept within lo..hi.
func round(x float32, lo, hi int) int {
	return max(lo, min(hi, int(math.Round(float64(x)))))
}

// putHalf stores x as a half and returns what a reader will see.
func putHalf(y []byte, x float32) float32 {
	h := F32ToF16(x)
	le.PutUint16(y, h)
	return F16ToF32(h)
}
