package tensor

// The encoders of the first block formats follow the formats' reference: the scale comes from the extremes of the block.

// packNibbles stores 32 codes: code j in the low nibble of byte j, code j+16 in the high one; the fifth bits, if any, are the result.
func packNibbles(y []byte, q *[32]int) (high uint32) {
	for j := range 16 {
		y[j] = byte(q[j]&15 | q[j+16]&15<<4)
	}
	for j, v := range q {
		high |= uint32(v>>4&1) << j
	}
	return high
}

// quantizeSigned gives codes 0..2·half−1 for d·(q−half): the widest element gets code 0, whatever its sign.
func quantizeSigned(x []float32, half int) (d float32, q [32]int) {
	d = widest(x) / float32(-half)
	inv := inverse(d)
	for j, v := range x {
		q[j] = min(2*half-1, int(float64(v)*float64(inv)+(float64(half)+0.5)))
	}
	return d, q
}

// quantizeOffset gives codes 0..levels for d·q + m.
func quantizeOffset(x []float32, levels int) (d, m float32, q [32]int) {
	m, top := x[0], x[0]
	for _, v := range x {
		m, top = min(m, v), max(top, v)
	}
	d = (top - m) / float32(levels)
	inv := inverse(d)
	for j, v := range x {
		q[j] = min(levels, int(float32((v-m)*inv)+0.5))
	}
	return d, m, q
}

func encodeQ4_0(y []byte, x []float32) {
	d, q := quantizeSigned(x, 8)
	putHalf(y, d)
	packNibbles(y[2:], &q)
}

func encodeQ4_1(y []byte, x []float32) {
	d, m, q := quantizeOffset(x, 15)
	putHalf(y, d)
	putHalf(y[2:], m)
	packNibbles(y[4:], &q)
}

func encodeQ5_0(y []byte, x []float32) {
	d, q := quantizeSigned(x, 16)
	putHalf(y, d)
	le.PutUint32(y[2:], packNibbles(y[6:], &q))
}

func encodeQ5_1(y []byte, x []float32) {
	d, m, q := quantizeOffset(x, 31)
	putHalf(y, d)
	putHalf(y[2:], m)
	le.PutUint32(y[4:], packNibbles(y[8:], &q))
}

func encodeQ8_0(y []byte, x []float32) {
	d := abs(widest(x)) / 127
	inv := inverse(d)
	putHalf(y, d)
	for j, v := range x {
		y[2+j] = byte(round(v*inv, -127, 127))
	}
}
