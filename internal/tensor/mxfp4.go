package tensor

import "math"

// mxfp4Values are the sixteen e2m1 numbers, doubled.
var mxfp4Values = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// decodeMXFP4: 32 elements of OCP microscaling FP4 with one shared exponent byte e: the scale is 2^(e−127), halved here for
// the doubled values.
func decodeMXFP4(y []float32, x []byte) {
	table16(y, float32(math.Ldexp(1, int(x[0])-128)), &mxfp4Values, x[1:])
}
