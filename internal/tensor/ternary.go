package tensor

// decodeTQ1_0: 256 elements of −1, 0, 1 times d, five to a byte. A byte holds the base-3 digits as a fraction of 256, first digit
// highest: the digit is the integer part of three times the fraction, and the fraction goes on. 32 bytes hold elements
// 0..159, 16 bytes 160..239, both digit by digit over all bytes, and four bytes of four digits the rest.
func decodeTQ1_0(y []float32, x []byte) {
	d := f16At(x[52:])
	for _, part := range [3]struct{ at, bytes, digits int }{{0, 32, 5}, {32, 16, 5}, {48, 4, 4}} {
		q := x[part.at:][:part.bytes]
		power := uint8(1)
		for range part.digits {
			for i, b := range q {
				y[i] = d * float32(int(uint16(b*power)*3>>8)-1)
			}
			y = y[part.bytes:]
			power *= 3
		}
	}
}

// decodeTQ2_0: 256 elements of −1, 0, 1 times d, two bits each, laid out as in Q2_K.
func decodeTQ2_0(y []float32, x []byte) {
	d := f16At(x[64:])
	for g := range 8 {
		q, shift := x[g/4*32:][:32], g%4*2
		for l, out := 0, y[g*32:][:32]; l < 32; l++ {
			out[l] = d * float32(int(q[l]>>shift&3)-1)
		}
	}
}
