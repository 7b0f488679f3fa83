package tensor

import "math"

// The k-quants: super-blocks of 256 elements in groups of 16 or 32, each with a scale (and offset) quantised to 4, 6 or
// 8 bits against half-precision super-scales.

// decodeQ2_K: sixteen groups of 16, y = d·scale·q − dmin·offset; scale and offset are the nibbles of a byte.
// Codes: 128 elements to 32 bytes, bits 2k..2k+1 of byte l hold element 32k+l.
func decodeQ2_K(y []float32, x []byte) {
	_, _ = y[255], x[83]
	scales, qs := x[:16], x[16:80]
	d, dmin := f16At(x[80:]), f16At(x[82:])
	for g := range 16 {
		dl, ml := d*float32(scales[g]&15), dmin*float32(scales[g]>>4)
		q := qs[g/8*32+g%2*16:][:16]
		shift := g % 8 / 2 * 2
		for l, out := 0, y[g*16:][:16]; l < 16; l++ {
			out[l] = float32(dl*float32(q[l]>>shift&3)) - ml
		}
	}
}

// q3Scales unpacks the sixteen 6-bit scales of Q3_K: low nibbles in 8 bytes, high bit pairs in 4.
func q3Scales(s []byte) (scale [16]int8) {
	for g := range 16 {
		low := s[g%8] >> (g / 8 * 4) & 15
		high := s[8+g%4] >> (g / 4 * 2) & 3
		scale[g] = int8(low|high<<4) - 32
	}
	return scale
}

// decodeQ3_K: sixteen groups of 16, y = d·scale·(q−4); the low two bits lie as in Q2_K, the third bit of element 32k+l is
// bit k of byte l of the mask.
func decodeQ3_K(y []float32, x []byte) {
	_, _ = y[255], x[109]
	mask, qs, scales, d := x[:32], x[32:96], q3Scales(x[96:108]), f16At(x[108:])
	for g := range 16 {
		dl := d * float32(scales[g])
		q, m := qs[g/8*32+g%2*16:][:16], mask[g%2*16:][:16]
		shift, bit := g%8/2*2, g/2
		for l, out := 0, y[g*16:][:16]; l < 16; l++ {
			out[l] = dl * float32(int(q[l]>>shift&3|m[l]>>bit&1<<2)-4)
		}
	}
}

// q4Scales unpacks the eight 6-bit scales and offsets of Q4_K and Q5_K from 12 bytes.
func q4Scales(s []byte) (scale, offset [8]uint8) {
	_ = s[11]
	for g := range 4 {
		scale[g], offset[g] = s[g]&63, s[g+4]&63
		scale[g+4] = s[g+8]&15 | s[g]>>6<<4
		offset[g+4] = s[g+8]>>4 | s[g+4]>>6<<4
	}
	return scale, offset
}

// decodeQ4_K: eight groups of 32, y = d·scale·q − dmin·offset; groups 2k and 2k+1 are the nibbles of the same 32 bytes.
func decodeQ4_K(y []float32, x []byte) {
	_, _ = y[255], x[143]
	d, dmin := f16At(x), f16At(x[2:])
	scale, offset := q4Scales(x[4:16])
	for g := range 8 {
		dl, ml := d*float32(scale[g]), dmin*float32(offset[g])
		q, shift := x[16+g/2*32:][:32], g%2*4
		for l, out := 0, y[g*32:][:32]; l < 32; l++ {
			out[l] = float32(dl*float32(q[l]>>shift&15)) - ml
		}
	}
}

// decodeQ5_K: Q4_K with a fifth bit: bit g of byte l for element 32g+l.
func decodeQ5_K(y []float32, x []byte) {
	_, _ = y[255], x[175]
	d, dmin := f16At(x), f16At(x[2:])
	scale, offset := q4Scales(x[4:16])
	high := x[16:48]
	for g := range 8 {
		dl, ml := d*float32(scale[g]), dmin*float32(offset[g])
		q, shift := x[48+g/2*32:][:32], g%2*4
		for l, out := 0, y[g*32:][:32]; l < 32; l++ {
			out[l] = float32(dl*float32(q[l]>>shift&15|high[l]>>g&1<<4)) - ml
		}
	}
}

// decodeQ6_K: sixteen groups of 16, y = d·scale·(q−32), scale a signed byte. Each half of 128 elements: row r of 32 elements
// has its low nibbles in bytes 32(r%2).. (low nibble for r < 2, high after) and its high bits at bits 2r of 32 bytes.
func decodeQ6_K(y []float32, x []byte) {
	_, _ = y[255], x[209]
	d := f16At(x[208:])
	for r := range 8 {
		half, row := r/4, r%4
		low, high := x[half*64+row%2*32:][:32], x[128+half*32:][:32]
		shiftLow, shiftHigh := row/2*4, row*2
		s0, s1 := d*float32(int8(x[192+r*2])), d*float32(int8(x[193+r*2]))
		out := y[r*32:][:32]
		for l := range 16 {
			out[l] = s0 * float32(int(low[l]>>shiftLow&15|high[l]>>shiftHigh&3<<4)-32)
		}
		for l := 16; l < 32; l++ {
			out[l] = s1 * float32(int(low[l]>>shiftLow&15|high[l]>>shiftHigh&3<<4)-32)
		}
	}
}

// decodeQ8_K: y = d·q with a float32 d; sixteen int16 sums of 16 codes follow, which dot products use.
func decodeQ8_K(y []float32, x []byte) {
	_, _ = y[255], x[291]
	d := math.Float32frombits(le.Uint32(x))
	for j, q := range x[4:260] {
		y[j] = d * float32(int8(q))
	}
}
