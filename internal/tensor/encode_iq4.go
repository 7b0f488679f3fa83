package tensor

// nearestIQ4 is the code of the table value nearest to v.
func nearestIQ4(v float32) uint8 {
	lo, hi := 0, len(iq4Values)-1
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; v < iq4Values[mid] {
			hi = mid
		} else {
			lo = mid
		}
	}
	if v-iq4Values[lo] <= iq4Values[hi]-v {
		return uint8(lo)
	}
	return uint8(hi)
}

// fitIQ4 fits a scale to the table; the widest element takes the widest value.
func fitIQ4(x []float32) float32 {
	return fitScale(x, iq4Values[0], func(v float32) float32 { return iq4Values[nearestIQ4(v)] })
}

// packIQ4 stores the codes of 32 elements at a scale.
func packIQ4(y []byte, x []float32, scale float32) {
	inv := inverse(scale)
	for j := range 16 {
		y[j] = nearestIQ4(x[j]*inv) | nearestIQ4(x[j+16]*inv)<<4
	}
}

func encodeIQ4_NL(y []byte, x []float32) { packIQ4(y[2:], x, putHalf(y, fitIQ4(x))) }

func encodeIQ4_XS(y []byte, x []float32) {
	var s [8]float32
	for g := range s {
		s[g] = fitIQ4(x[32*g:][:32])
	}
	d := putHalf(y, widest(s[:])/-32)
	invD := inverse(d)
	clear(y[2:8])
	var high uint16
	for g := range s {
		q := round(s[g]*invD, -32, 31)
		high |= uint16(q+32) >> 4 << (2 * g)
		y[4+g/2] |= byte((q + 32) & 15 << (g % 2 * 4))
		packIQ4(y[8+16*g:], x[32*g:][:32], d*float32(q))
	}
	le.PutUint16(y[2:], high)
}
