package tensor

import "math"

// affineGroups fits groups of a super-block to scale·q − offset, quantises the scales and offsets to 0..steps against two
// super-scales, which it stores as halves, and gives the codes that suit what a reader will see.
func affineGroups(x []float32, group, levels, steps int, dAt, dminAt []byte) (scale, offset []uint8, q [256]uint8) {
	n := len(x) / group
	var s, o [16]float32
	for g := range n {
		s[g], o[g] = fitAffine(x[g*group:][:group], levels)
	}
	d := putHalf(dAt, widest(s[:n])/float32(steps))
	dmin := putHalf(dminAt, widest(o[:n])/float32(steps))
	invD, invMin := inverse(d), inverse(dmin)
	scale, offset = make([]uint8, n), make([]uint8, n)
	for g := range n {
		scale[g], offset[g] = uint8(round(s[g]*invD, 0, steps)), uint8(round(o[g]*invMin, 0, steps))
		inv, m := inverse(d*float32(scale[g])), dmin*float32(offset[g])
		for i := g * group; i < (g+1)*group; i++ {
			q[i] = uint8(round((x[i]+m)*inv, 0, levels))
		}
	}
	return scale, offset, q
}

// signedGroups fits groups of 16 to scale·q with q in −half..half−1, quantises the scales to −steps..steps−1 against a
// super-scale, which it stores as a half, and gives codes as q + half.
func signedGroups(x []float32, half, steps int, dAt []byte) (scale [16]int8, q [256]uint8) {
	var s [16]float32
	nearest := func(v float32) float32 { return float32(round(v, -half, half-1)) }
	for g := range s {
		s[g] = fitScale(x[16*g:][:16], float32(-half), nearest)
	}
	d := putHalf(dAt, widest(s[:])/float32(-steps))
	invD := inverse(d)
	for g := range s {
		scale[g] = int8(round(s[g]*invD, -steps, steps-1))
		inv := inverse(d * float32(scale[g]))
		for i := 16 * g; i < 16*g+16; i++ {
			q[i] = uint8(round(x[i]*inv, -half, half-1) + half)
		}
	}
	return scale, q
}

// packPairs stores two bits of 256 codes as Q2_K and Q3_K lay them: element 32k+l of a half at bits 2k of byte l.
func packPairs(y []byte, q *[256]uint8) {
	clear(y[:64])
	for i, v := range q {
		y[i/128*32+i%32] |= v & 3 << (i % 128 / 32 * 2)
	}
}

func encodeQ2_K(y []byte, x []float32) {
	scale, offset, q := affineGroups(x, 16, 3, 15, y[80:], y[82:])
	for g := range scale {
		y[g] = scale[g] | offset[g]<<4
	}
	packPairs(y[16:], &q)
}

func encodeQ3_K(y []byte, x []float32) {
	scale, q := signedGroups(x, 4, 32, y[108:])
	clear(y[:32])
	for i, v := range q {
		y[i%32] |= v >> 2 << (i / 32)
	}
	packPairs(y[32:], &q)
	packed := y[96:108]
	clear(packed)
	for g, s := range scale {
		u := uint8(s + 32)
		packed[g%8] |= u & 15 << (g / 8 * 4)
		packed[8+g%4] |= u >> 4 << (g / 4 * 2)
	}
}

// packQ4Scales is the reverse of q4Scales.
func packQ4Scales(y []byte, scale, offset []uint8) {
	for g := range 4 {
		y[g] = scale[g] | scale[g+4]>>4<<6
		y[g+4] = offset[g] | offset[g+4]>>4<<6
		y[g+8] = scale[g+4]&15 | offset[g+4]&15<<4
	}
}

// packHalves stores the low nibbles of 256 codes as Q4_K and Q5_K lay them: 64 elements to 32 bytes.
func packHalves(y []byte, q *[256]uint8) {
	for i := range 128 {
		j := i/32*64 + i%32
		y[i] = q[j]&15 | q[j+32]&15<<4
	}
}

func encodeQ4_K(y []byte, x []float32) {
	scale, offset, q := affineGroups(x, 32, 15, 63, y, y[2:])
	packQ4Scales(y[4:16], scale, offset)
	packHalves(y[16:], &q)
}

func encodeQ5_K(y []byte, x []float32) {
	scale, offset, q := affineGroups(x, 32, 31, 63, y, y[2:])
	packQ4Scales(y[4:16], scale, offset)
	clear(y[16:48])
	for i, v := range q {
		y[16+i%32] |= v >> 4 << (i / 32)
	}
	packHalves(y[48:], &q)
}

func encodeQ6_K(y []byte, x []float32) {
	scale, q := signedGroups(x, 32, 128, y[208:])
	clear(y[:192])
	for i, v := range q {
		half, row, l := i/128, i%128/32, i%32
		y[half*64+row%2*32+l] |= v & 15 << (row / 2 * 4)
		y[128+half*32+l] |= v >> 4 << (row * 2)
	}
	for g, s := range scale {
		y[192+g] = byte(s)
	}
}

// encodeQ8_K: the widest element gets code −127, so that d keeps its sign as the reference has it.
func encodeQ8_K(y []byte, x []float32) {
	d := widest(x) / -127
	inv := inverse(d)
	le.PutUint32(y, math.Float32bits(d))
	var sums [16]int16
	for i, v := range x {
		q := round(v*inv, -127, 127)
		y[4+i] = byte(q)
		sums[i/16] += int16(q)
	}
	for g, s := range sums {
		le.PutUint16(y[260+2*g:], uint16(s))
	}
}
