package tensor

import "math/bits"

// The IQ formats: super-blocks of 256 elements whose groups of 4 or 8 magnitudes are entries of a codebook, with signs and
// 3- or 4-bit scales apart. IQ4_NL and IQ4_XS have one shared table of sixteen values instead.

// signs7 spreads a 7-bit sign code: the eighth sign makes the number of negative elements even.
func signs7(code uint32) uint8 {
	s := uint8(code & 127)
	return s | uint8(bits.OnesCount8(s)&1)<<7
}

// signed writes scale times a codebook row, bit i of negative set where element i is negative.
func signed(y []float32, scale float32, row []int8, negative uint8) {
	for i, v := range row {
		s := scale * float32(v)
		if negative>>i&1 != 0 {
			s = -s
		}
		y[i] = s
	}
}

// row8 and row4 are row i of a codebook of that width.
func row8(grid []int8, i int) []int8 { return grid[8*i:][:8] }
func row4(grid []int8, i int) []int8 { return grid[4*i:][:4] }

// decodeIQ2_XXS: per 32 elements four codebook bytes, then a word of four 7-bit sign codes and a 4-bit scale s; the scale is
// d·(s+½)/4.
func decodeIQ2_XXS(y []float32, x []byte) {
	grid, d := iq2xxsGrid(), f16At(x)
	for g := range 8 {
		q, aux := x[2+8*g:][:4], le.Uint32(x[6+8*g:])
		scale := d * (0.5 + float32(aux>>28)) * 0.25
		for k, i := range q {
			signed(y[32*g+8*k:], scale, row8(grid, int(i)), signs7(aux>>(7*k)))
		}
	}
}

// decodeIQ2_XS: per 8 elements a 16-bit word, 9 bits of codebook index and a 7-bit sign code; per 16 a 4-bit scale.
func decodeIQ2_XS(y []float32, x []byte) {
	grid, d := iq2xsGrid(), f16At(x)
	for k := range 32 {
		scale := d * (0.5 + float32(x[66+k/4]>>(k/2%2*4)&15)) * 0.25
		q := uint32(le.Uint16(x[2+2*k:]))
		signed(y[8*k:], scale, row8(grid, int(q&511)), signs7(q>>9))
	}
}

// decodeIQ2_S: per 8 elements 8 + 2 bits of codebook index and a byte of signs; per 16 a 4-bit scale.
func decodeIQ2_S(y []float32, x []byte) {
	grid, d := iq2sGrid(), f16At(x)
	for k := range 32 {
		scale := d * (0.5 + float32(x[74+k/4]>>(k/2%2*4)&15)) * 0.25
		i := int(x[2+k]) | int(x[66+k/4]>>(k%4*2)&3)<<8
		signed(y[8*k:], scale, row8(grid, i), x[34+k])
	}
}

// decodeIQ3_XXS: per 4 elements a codebook byte; per 32 a word of four 7-bit sign codes and a 4-bit scale s; the scale is
// d·(s+½)/2.
func decodeIQ3_XXS(y []float32, x []byte) {
	grid, d := iq3xxsGrid(), f16At(x)
	for g := range 8 {
		aux := le.Uint32(x[66+4*g:])
		scale := d * (0.5 + float32(aux>>28)) * 0.5
		for k, i := range x[2+8*g:][:8] {
			signed(y[32*g+4*k:], scale, row4(grid, int(i)), signs7(aux>>(k/2*7))>>(k%2*4))
		}
	}
}

// decodeIQ3_S: per 4 elements 8 + 1 bits of codebook index and half a byte of signs; per 32 a 4-bit scale s, as d·(2s+1).
func decodeIQ3_S(y []float32, x []byte) {
	grid, d := iq3sGrid(), f16At(x)
	for k := range 64 {
		scale := d * float32(1+2*(x[106+k/16]>>(k/8%2*4)&15))
		i := int(x[2+k]) | int(x[66+k/8]>>(k%8)&1)<<8
		signed(y[4*k:], scale, row4(grid, i), x[74+k/2]>>(k%2*4))
	}
}

// iq1Delta is by how much IQ1_S and IQ1_M shift a whole group off the codebook's −1, 0, 1.
const iq1Delta = 0.125

// shifted writes scale times a codebook row moved by ±iq1Delta.
func shifted(y []float32, scale float32, row []int8, negative bool) {
	delta := float32(iq1Delta)
	if negative {
		delta = -delta
	}
	for i, v := range row {
		y[i] = scale * (float32(v) + delta)
	}
}

// decodeIQ1_S: per 8 elements 8 + 3 bits of codebook index; per 32 a word with those 3 bits four times, a 3-bit scale s, as
// d·(2s+1), and the sign of the shift.
func decodeIQ1_S(y []float32, x []byte) {
	grid, d := iq1sGrid(), f16At(x)
	for k := range 32 {
		high := le.Uint16(x[34+k/4*2:])
		scale := d * float32(2*(high>>12&7)+1)
		i := int(x[2+k]) | int(high>>(k%4*3)&7)<<8
		shifted(y[8*k:], scale, row8(grid, i), high>>15 != 0)
	}
}

// decodeIQ1_M: as IQ1_S, but per 8 elements a nibble of 3 index bits and the shift's sign, and per 16 a 3-bit scale, four to a
// word; the words' top nibbles together are d.
func decodeIQ1_M(y []float32, x []byte) {
	grid, scales := iq1sGrid(), x[48:56]
	var half uint16
	for k := range 4 {
		half |= le.Uint16(scales[2*k:]) >> 12 << (4 * k)
	}
	d := F16ToF32(half)
	for k := range 32 {
		high := x[32+k/2] >> (k % 2 * 4)
		scale := d * float32(2*(le.Uint16(scales[k/8*2:])>>(k/2%4*3)&7)+1)
		shifted(y[8*k:], scale, row8(grid, int(x[k])|int(high&7)<<8), high&8 != 0)
	}
}

// iq4Values are the sixteen values of IQ4_NL and IQ4_XS: denser near zero, as weights are.
var iq4Values = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// table16 writes scale times a table's values for 16 bytes of codes, low nibbles first.
func table16(y []float32, scale float32, table *[16]float32, q []byte) {
	y, q = y[:32], q[:16]
	for j, b := range q {
		y[j] = scale * table[b&15]
		y[j+16] = scale * table[b>>4]
	}
}

// decodeIQ4_NL: blocks of 32 with a half scale.
func decodeIQ4_NL(y []float32, x []byte) { table16(y, f16At(x), &iq4Values, x[2:]) }

// decodeIQ4_XS: eight groups of 32 with 6-bit scales, less 32: low nibbles in four bytes, high bits in a word.
func decodeIQ4_XS(y []float32, x []byte) {
	d, high := f16At(x), le.Uint16(x[2:])
	for g := range 8 {
		s := int(x[4+g/2]>>(g%2*4)&15) | int(high>>(2*g)&3)<<4
		table16(y[32*g:], d*float32(s-32), &iq4Values, x[8+16*g:])
	}
}
