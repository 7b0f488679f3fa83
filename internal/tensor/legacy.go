package tensor

// The first generation of block formats: 32 elements with one half scale d, and in the _1 formats one half offset m.
// Four-bit codes lie two to a byte, element j in the low nibble and element j+16 in the high one; the fifth bits of the
// 5-bit formats are one little-endian word, bit j for element j.

// decodeQ4_0: y = d·(q−8).
func decodeQ4_0(y []float32, x []byte) {
	_, _ = y[31], x[17]
	d := f16At(x)
	for j, q := range x[2:18] {
		y[j] = d * float32(int(q&15)-8)
		y[j+16] = d * float32(int(q>>4)-8)
	}
}

// decodeQ4_1: y = d·q + m.
func decodeQ4_1(y []float32, x []byte) {
	_, _ = y[31], x[19]
	d, m := f16At(x), f16At(x[2:])
	for j, q := range x[4:20] {
		y[j] = float32(d*float32(q&15)) + m
		y[j+16] = float32(d*float32(q>>4)) + m
	}
}

// decodeQ5_0: y = d·(q−16).
func decodeQ5_0(y []float32, x []byte) {
	_, _ = y[31], x[21]
	d, high := f16At(x), le.Uint32(x[2:])
	for j, q := range x[6:22] {
		y[j] = d * float32(int(uint32(q&15)|high>>j<<4&16)-16)
		y[j+16] = d * float32(int(uint32(q>>4)|high>>(j+16)<<4&16)-16)
	}
}

// decodeQ5_1: y = d·q + m.
func decodeQ5_1(y []float32, x []byte) {
	_, _ = y[31], x[23]
	d, m, high := f16At(x), f16At(x[2:]), le.Uint32(x[4:])
	for j, q := range x[8:24] {
		y[j] = float32(d*float32(uint32(q&15)|high>>j<<4&16)) + m
		y[j+16] = float32(d*float32(uint32(q>>4)|high>>(j+16)<<4&16)) + m
	}
}

// decodeQ8_0: y = d·q, q a signed byte.
func decodeQ8_0(y []float32, x []byte) {
	_, _ = y[31], x[33]
	d := f16At(x)
	for j, q := range x[2:34] {
		y[j] = d * float32(int8(q))
	}
}

// decodeQ8_1: y = d·q; the half after d is d·Σq, which dot products use.
func decodeQ8_1(y []float32, x []byte) {
	_, _ = y[31], x[35]
	d := f16At(x)
	for j, q := range x[4:36] {
		y[j] = d * float32(int8(q))
	}
}
