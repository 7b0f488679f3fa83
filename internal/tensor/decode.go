package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

var le = binary.LittleEndian

// blockDecoder decodes one block of its type: y has BlockLen elements, x has BlockBytes bytes.
type blockDecoder func(y []float32, x []byte)

var decoders = map[Type]blockDecoder{
	Q4_0: decodeQ4_0, Q4_1: decodeQ4_1, Q5_0: decodeQ5_0, Q5_1: decodeQ5_1, Q8_0: decodeQ8_0, Q8_1: decodeQ8_1,
	Q2_K: decodeQ2_K, Q3_K: decodeQ3_K, Q4_K: decodeQ4_K, Q5_K: decodeQ5_K, Q6_K: decodeQ6_K, Q8_K: decodeQ8_K,
	IQ2_XXS: decodeIQ2_XXS, IQ2_XS: decodeIQ2_XS, IQ2_S: decodeIQ2_S, IQ3_XXS: decodeIQ3_XXS, IQ3_S: decodeIQ3_S,
	IQ1_S: decodeIQ1_S, IQ1_M: decodeIQ1_M, IQ4_NL: decodeIQ4_NL, IQ4_XS: decodeIQ4_XS,
	TQ1_0: decodeTQ1_0, TQ2_0: decodeTQ2_0, MXFP4: decodeMXFP4,
}

// RowBytes is the size of a row of cols elements of t. A row is a whole number of blocks.
func RowBytes(t Type, cols int) (int, error) {
	block, size := t.BlockLen(), t.BlockBytes()
	switch {
	case block == 0:
		return 0, fmt.Errorf("tensor: unknown %s", t)
	case cols < 0 || cols%block != 0:
		return 0, fmt.Errorf("tensor: a row of %d elements is not a whole number of %s blocks (%d elements each)", cols, t, block)
	case cols/block > math.MaxInt/size:
		return 0, fmt.Errorf("tensor: a row of %d %s elements overflows an address", cols, t)
	}
	return cols / block * size, nil
}

// Decode dequantises src, whole blocks of t, into dst. The products and sums are rounded to float32 one by one, in the
// order of the format's reference, so that every machine gives the same bits. It fails where the sizes disagree and for
// types that have no float value. The reference device and converters call it; it allocates nothing.
func Decode(t Type, dst []float32, src []byte) error {
	want, err := RowBytes(t, len(dst))
	if err != nil {
		return err
	}
	if want != len(src) {
		return fmt.Errorf("tensor: decoding %d elements of %s: found %d bytes, expected %d", len(dst), t, len(src), want)
	}
	switch t {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(le.Uint32(src[4*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = f16Table[le.Uint16(src[2*i:])]
		}
	case BF16:
		for i := range dst {
			dst[i] = BF16ToF32(le.Uint16(src[2*i:]))
		}
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(le.Uint64(src[8*i:])))
		}
	case I8:
		for i := range dst {
			dst[i] = float32(int8(src[i]))
		}
	case I16:
		for i := range dst {
			dst[i] = float32(int16(le.Uint16(src[2*i:])))
		}
	case I32:
		for i := range dst {
			dst[i] = float32(int32(le.Uint32(src[4*i:])))
		}
	case I64:
		for i := range dst {
			dst[i] = float32(int64(le.Uint64(src[8*i:])))
		}
	default:
		decode, ok := decoders[t]
		if !ok {
			return fmt.Errorf("tensor: decoding %s is not supported", t)
		}
		block, size := t.BlockLen(), t.BlockBytes()
		for ; len(dst) > 0; dst, src = dst[block:], src[size:] {
			decode(dst[:block:block], src[:size:size])
		}
	}
	return nil
}

// f16At is the half at the start of x.
func f16At(x []byte) float32 { return f16Table[le.Uint16(x)] }
